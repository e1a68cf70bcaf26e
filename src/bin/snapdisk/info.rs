//! `info`: what an image holds and what it costs.

use crate::{
    failure::{At, Outcome},
    image,
    session::{Console, Session},
    text::{self, bytes, columns},
};
use serde_json::json;
use snapdisk::{Store, Usage, UsageReport};
use std::{collections::BTreeMap, fmt::Write, fs, os::unix::fs::MetadataExt, path::Path};

struct Row {
    name: String,
    id: u64,
    snapshot: bool,
    size: u64,
    usage: Usage,
}

pub(crate) fn run(session: &mut Session<'_>, as_json: bool) -> Outcome {
    let (shown, path) = (session.shown, session.path);
    session.reading(|store, console| info(store, console, shown, path, as_json))
}

fn info(store: &Store, console: &mut dyn Console, shown: &Path, path: &Path, as_json: bool) -> Outcome {
    let now = store.counters()?;
    let (rows, unfinished) = rows(store, &store.usage_all()?)?;
    let meta = fs::metadata(path).at(path.display())?;
    let allocated = meta.blocks() * 512;
    let (volumes, snapshots) =
        (rows.iter().filter(|r| !r.snapshot).count(), rows.iter().filter(|r| r.snapshot).count());
    if as_json {
        let row = |r: &&Row| json!({"name": r.name, "id": r.id, "size": r.size, "mapped": r.usage.mapped_bytes, "exclusive": r.usage.exclusive_bytes});
        console.emit_json(&json!({
            "image": shown.display().to_string(),
            "file_bytes": meta.len(),
            "allocated_bytes": allocated,
            "image_bytes": now.image_bytes,
            "free_bytes": now.free_bytes,
            "waiting_bytes": now.waiting_bytes,
            "returned_bytes": now.returned_bytes,
            "reclaim_entries": now.reclaim_entries,
            "log_pages": now.log_blocks,
            "log_used": now.log_used_blocks,
            "generation": now.generation,
            "unfinished_import": unfinished,
            "volumes": rows.iter().filter(|r| !r.snapshot).map(|r| row(&r)).collect::<Vec<_>>(),
            "snapshots": rows.iter().filter(|r| r.snapshot).map(|r| row(&r)).collect::<Vec<_>>(),
        }))?;
        return Ok(());
    }
    let mut out = format!("{}\n", text::printable(&shown.display().to_string()));
    let mut line = |what: &str, value: String| {
        let _ = writeln!(out, "  {what:<10}  {value}");
    };
    line("file", format!("{}, {} of it allocated by the host", bytes(meta.len()), bytes(allocated)));
    line("holds", format!("{volumes} volumes, {snapshots} snapshots"));
    line("free", format!("{}, and {} given back to the host", bytes(now.free_bytes), bytes(now.returned_bytes)));
    line(
        "waiting",
        format!("{} for a checkpoint, {} trees for reclaim", bytes(now.waiting_bytes), now.reclaim_entries),
    );
    line("log", format!("{} of {} pages in use", now.log_used_blocks, now.log_blocks));
    line("checkpoint", now.generation.to_string());
    if unfinished {
        line("note", "an import was interrupted; the next command that writes removes what it left".to_owned());
    }
    if !rows.is_empty() {
        let cells = |r: &Row| {
            let id = if r.snapshot { format!("@{}", r.id) } else { String::new() };
            vec![
                text::printable(&r.name),
                id,
                bytes(r.size),
                bytes(r.usage.mapped_bytes),
                bytes(r.usage.exclusive_bytes),
            ]
        };
        out.push('\n');
        out +=
            &columns(&["NAME", " ID", " SIZE", " MAPPED", " EXCLUSIVE"], &rows.iter().map(cells).collect::<Vec<_>>());
    }
    console.emit(&out)
}

/// Volumes by name, each with its snapshots after it, then the snapshots that outlived their volume; and whether there is
/// an import that was not finished.
fn rows(store: &Store, all: &UsageReport) -> Outcome<(Vec<Row>, bool)> {
    let volumes: BTreeMap<_, _> = all.volumes.iter().map(|v| (v.id, v.usage)).collect();
    let snapshots: BTreeMap<_, _> = all.snapshots.iter().map(|s| (s.id, s.usage)).collect();
    let mut by_volume: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for s in store.snapshots()? {
        by_volume.entry(s.volume()).or_default().push(s);
    }
    let mut unfinished = false;
    let mut groups = Vec::new();
    for v in store.volumes()? {
        if image::is_unfinished(&v)? {
            unfinished = true;
            continue;
        }
        let own = by_volume.remove(&v.id()).unwrap_or_default();
        groups.push((v.name()?, Some(v), own));
    }
    groups.extend(by_volume.into_iter().map(|(id, own)| (format!("(deleted volume {id})"), None, own)));
    let mut rows = Vec::new();
    for (name, volume, own) in groups {
        if let Some(v) = volume {
            let usage = volumes.get(&v.id()).copied().unwrap_or_default();
            rows.push(Row { name: name.clone(), id: v.id().0, snapshot: false, size: v.size()?, usage });
        }
        for s in own {
            let usage = snapshots.get(&s.id()).copied().unwrap_or_default();
            let name = format!("{name}@{}", s.name()?);
            rows.push(Row { name, id: s.id().0, snapshot: true, size: s.size(), usage });
        }
    }
    Ok((rows, unfinished))
}
