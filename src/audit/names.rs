//! Consistency of the catalog's records with each other.

use super::Capture;
use crate::{Result, lack::Stop};
use rustc_hash::FxHashMap;

/// Returns every contradiction in the catalog, in words.
pub(super) fn contradictions(capture: &Capture) -> Vec<String> {
    let mut broken = Vec::new();
    let mut numbers = Numbers::default();
    let mut of: FxHashMap<u64, u64> = FxHashMap::default();
    let snapshots = capture.each_snapshot(|id, s| {
        numbers.snapshot(id, s.volume);
        *of.entry(s.volume).or_default() += 1;
        name(&mut broken, &format!("snapshot {id}"), &s.name, id, capture.catalog().snapshot_named(s.volume, &s.name));
        tags(capture, &mut broken, true, id, s.tag_records);
        Ok(())
    });
    let volumes = capture.each_volume(|id, v| {
        numbers.volume(id);
        name(&mut broken, &format!("volume {id}"), &v.name, id, capture.catalog().volume_named(&v.name));
        let has = of.get(&id).copied().unwrap_or(0);
        if has != v.snapshots {
            broken.push(format!("volume {id} says {} snapshots and has {has}", v.snapshots));
        }
        tags(capture, &mut broken, false, id, v.tag_records);
        if capture.sweeping.contains(&id) {
            broken.push(format!("volume {id} exists and is being removed"));
        }
        Ok(())
    });
    let doomed = capture.each_doomed(|key, _| {
        numbers.doomed = numbers.doomed.max(Some(!(key as u64)));
        Ok(())
    });
    for (what, outcome) in [("snapshots", snapshots), ("volumes", volumes), ("doomed list", doomed)] {
        if let Err(e) = outcome {
            broken.push(format!("{what}: {e}"));
        }
    }
    capture.sweeping.iter().for_each(|&volume| numbers.volume = numbers.volume.max(Some(volume)));
    match capture.catalog().names() {
        // Every record has a name, as was seen above: if there are no more names than records, every name has a record.
        Ok(names) if names as u64 > numbers.volumes + numbers.snapshots => {
            broken.push(format!("{names} names for {} volumes and {} snapshots", numbers.volumes, numbers.snapshots));
        }
        Ok(_) => {}
        Err(e) => broken.push(format!("names: {}", e.into_error())),
    }
    // New volumes and snapshots get numbers that nothing had before.
    for (what, used, next) in [
        ("volume", numbers.volume, capture.next_volume),
        ("snapshot", numbers.snapshot, capture.next_snapshot),
        ("doomed entry", numbers.doomed, capture.doom_sequence),
    ] {
        if let Some(used) = used.filter(|&n| n >= next) {
            broken.push(format!("{what} {used} exists, and the next one is to be {next}"));
        }
    }
    broken
}

/// The highest number in use of each kind, and the number of records.
#[derive(Default)]
struct Numbers {
    volume: Option<u64>,
    snapshot: Option<u64>,
    doomed: Option<u64>,
    volumes: u64,
    snapshots: u64,
}

impl Numbers {
    fn volume(&mut self, id: u64) {
        self.volume = self.volume.max(Some(id));
        self.volumes += 1;
    }
    fn snapshot(&mut self, id: u64, volume: u64) {
        self.snapshot = self.snapshot.max(Some(id));
        self.volume = self.volume.max(Some(volume));
        self.snapshots += 1;
    }
}

/// Checks that a record is found by its name.
fn name(broken: &mut Vec<String>, what: &str, name: &str, id: u64, found: Result<Option<u64>, Stop>) {
    match found {
        Ok(Some(found)) if found == id => {}
        Ok(found) => broken.push(format!("{what}: its name {name:?} leads to {found:?}")),
        Err(e) => broken.push(format!("{what}: name: {}", e.into_error())),
    }
}

fn tags(capture: &Capture, broken: &mut Vec<String>, snapshot: bool, id: u64, records: u16) {
    if records > 0
        && let Err(e) = capture.catalog().tags(snapshot, id)
    {
        let what = if snapshot { "snapshot" } else { "volume" };
        broken.push(format!("{what} {id}: tags: {}", e.into_error()));
    }
}
