//! `snapdisk scrub`: verifies everything that snapshots hold, and marks what is damaged.

use crate::{
    failure::{DAMAGE, Failure, Outcome},
    session::Session,
    text,
};
use snapdisk::Progress;
use std::{
    thread,
    time::{Duration, Instant},
};

/// Reads at most `rate` bytes a second, if there is one.
pub(crate) fn run(session: &mut Session<'_>, rate: Option<u64>, json: bool) -> Outcome {
    session.writing(|store, console| {
        let begun = Instant::now();
        let mut pace = |p: Progress| {
            if let Some(rate) = rate {
                let due = Duration::from_secs_f64(p.done as f64 * 4096.0 / rate as f64);
                thread::sleep(due.saturating_sub(begun.elapsed()).min(Duration::from_secs(60)));
            }
            !console.interrupted()
        };
        let report = store.scrub(&mut pace)?;
        let names: Vec<String> = report
            .damaged
            .iter()
            .map(|d| {
                let volume = store.volume_by_id(d.volume).and_then(|v| v.name());
                let name = store.snapshot_by_id(d.snapshot).and_then(|s| s.name());
                format!("{}@{}", volume.unwrap_or_default(), name.unwrap_or_else(|_| d.snapshot.to_string()))
            })
            .collect();
        if json {
            let damaged = report.damaged.iter().zip(&names).map(|(d, name)| {
                serde_json::json!({ "snapshot": name, "id": d.snapshot.0, "offset": d.offset, "what": d.what })
            });
            console.emit_json(&serde_json::json!({
                "snapshots": report.snapshots,
                "bytes": report.blocks * 4096,
                "damaged": damaged.collect::<Vec<_>>(),
                "healed": report.healed.iter().map(|id| id.0).collect::<Vec<_>>(),
            }))?;
        } else {
            for (d, name) in report.damaged.iter().zip(&names) {
                console.emit(&text::printable(&format!("{name}: offset {}: {}", d.offset, d.what)))?;
                console.emit("\n")?;
            }
            let (snapshots, bytes) = (report.snapshots, text::bytes(report.blocks * 4096));
            console.emit(&format!("{snapshots} snapshots, {bytes} read, {} damaged\n", report.damaged.len()))?;
        }
        if report.damaged.is_empty() { Ok(()) } else { Err(Failure::silent(DAMAGE)) }
    })
}
