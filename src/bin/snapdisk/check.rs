//! `check`: everything that can be verified, read-only.

use crate::{
    failure::{DAMAGE, Failure, Outcome},
    image, interrupt,
    progress::Meter,
    text,
};
use serde_json::json;
use snapdisk::ErrorKind;
use std::path::Path;

pub(crate) fn run(path: &Path, as_json: bool) -> Outcome {
    let store = image::shared(path)?;
    interrupt::catch()?;
    let meter = Meter::steps("checking");
    let report = store.check_with(&mut |p| {
        meter.of(p.done, p.total);
        !interrupt::came()
    });
    drop(meter);
    let report = report.map_err(|e| match e.kind() {
        ErrorKind::Cancelled => Failure::new("interrupted"),
        _ => e.into(),
    })?;
    if as_json {
        let finding =
            |f: &snapdisk::Finding| json!({"kind": format!("{:?}", f.kind), "place": f.place, "what": f.what});
        text::emit_json(&json!({
            "clean": report.is_clean(),
            "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
            "volumes": report.volumes,
            "snapshots": report.snapshots,
            "nodes": report.nodes,
            "data_blocks": report.data_blocks,
            "free_blocks": report.free_blocks,
            "returned_blocks": report.returned_blocks,
            "leaked_blocks": report.leaked,
        }))?;
    } else {
        let mut out = String::new();
        for finding in &report.findings {
            out += &text::printable(&finding.to_string());
            out.push('\n');
        }
        let verdict = match report.findings.len() {
            0 => "clean".to_owned(),
            n => format!("{n} findings"),
        };
        out += &format!(
            "{verdict}: {} volumes, {} snapshots, {} nodes, {} data blocks, {} free\n",
            report.volumes, report.snapshots, report.nodes, report.data_blocks, report.free_blocks
        );
        text::emit(&out)?;
    }
    if report.is_clean() { Ok(store.close()?) } else { Err(Failure::silent(DAMAGE)) }
}
