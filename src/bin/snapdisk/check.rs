//! `check`: everything that can be verified, read-only.

use crate::{
    failure::{DAMAGE, Failure, Outcome},
    progress::Meter,
    session::{Console, Session},
    text,
};
use serde_json::json;
use snapdisk::{ErrorKind, Store};

pub(crate) fn run(session: &mut Session<'_>, as_json: bool) -> Outcome {
    session.reading(|store, console| check(store, console, as_json))
}

fn check(store: &Store, console: &mut dyn Console, as_json: bool) -> Outcome {
    let meter = Meter::steps(console, "checking");
    let report = store.check_with(&mut |p| {
        meter.of(p.done, p.total);
        !console.interrupted()
    });
    drop(meter);
    let report = report.map_err(|e| match e.kind() {
        ErrorKind::Cancelled => Failure::new("interrupted"),
        _ => e.into(),
    })?;
    if as_json {
        let finding =
            |f: &snapdisk::Finding| json!({"kind": format!("{:?}", f.kind), "place": f.place, "what": f.what});
        console.emit_json(&json!({
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
        console.emit(&out)?;
    }
    if report.is_clean() { Ok(()) } else { Err(Failure::silent(DAMAGE)) }
}
