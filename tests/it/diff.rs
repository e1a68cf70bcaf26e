//! Differences between volumes and snapshots, against an oracle that knows which write each block is of.

use crate::model::apart::rest_of;
use snapdisk::{
    BLOCK, DeleteSnapshots, DiffBase, DiffKind, DiffRange, DiskRef, ErrorKind, Knobs, Options, Result, SnapshotId,
    Store, VolumeId,
    io::{
        MemoryBackend, SystemHost,
        sim::{Rng, SimHost},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

const B: u64 = BLOCK as u64;

/// A disk: its size in bytes, and for each of its blocks the write that it is of.
#[derive(Clone, Default)]
struct Known {
    size: u64,
    blocks: Vec<Option<u64>>,
}

impl Known {
    fn resize(&mut self, size: u64, write: u64) {
        self.blocks.resize(size.div_ceil(B) as usize, None);
        // A block that is cut in two is written anew.
        if size < self.size && !size.is_multiple_of(B) {
            let last = self.blocks.last_mut().unwrap();
            *last = last.map(|_| write);
        }
        self.size = size;
    }
    /// The ranges in which this one differs from another, block by block.
    fn since(&self, from: &Known) -> Vec<(u64, u64, bool)> {
        let mut out: Vec<(u64, u64, bool)> = Vec::new();
        for (i, new) in self.blocks.iter().enumerate() {
            if *new == from.blocks.get(i).copied().flatten() {
                continue;
            }
            let at = i as u64 * B;
            let len = B.min(self.size - at);
            match out.last_mut() {
                Some(last) if last.0 + last.1 == at && last.2 == new.is_some() => last.1 += len,
                _ => out.push((at, len, new.is_some())),
            }
        }
        out
    }
}

fn plain(ranges: &[DiffRange]) -> Vec<(u64, u64, bool)> {
    ranges.iter().map(|r| (r.offset, r.len, r.kind == DiffKind::Data)).collect()
}

fn diff<'a, 'b>(store: &Store, from: impl Into<DiffBase<'a>>, to: impl Into<DiskRef<'b>>) -> Vec<(u64, u64, bool)> {
    plain(&store.diff(from, to).unwrap().collect::<Result<Vec<_>>>().unwrap())
}

fn memory(knobs: Knobs) -> Store {
    let options = Options::new().manual_maintenance(true).knobs(knobs);
    options.create_on(Arc::new(MemoryBackend::new()), Arc::new(SystemHost)).unwrap()
}

/// A store, what it must contain, and what draws the next operation.
struct Life {
    store: Option<Store>,
    options: Options,
    backend: Arc<MemoryBackend>,
    host: Arc<SimHost>,
    rng: Rng,
    writes: u64,
    volumes: BTreeMap<u64, Known>,
    /// Each with its volume.
    snapshots: BTreeMap<u64, (u64, Known)>,
    compared: usize,
}

impl Life {
    fn new(seed: u64) -> Life {
        let mut rng = Rng::new(seed);
        let fanout = [4, 5, 8, usize::MAX][rng.below(4) as usize];
        let knobs = Knobs { fanout, growth: 4, reserve: 64, log_pages: 64, direct: 2, ..Knobs::default() };
        let options = Options::new().manual_maintenance(true).knobs(knobs);
        let (backend, host) = (Arc::new(MemoryBackend::new()), Arc::new(SimHost::new(seed)));
        let store = Some(options.create_on(backend.clone(), host.clone()).unwrap());
        let (volumes, snapshots) = Default::default();
        Life { store, options, backend, host, rng, writes: 0, volumes, snapshots, compared: 0 }
    }
    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }
    fn pick<T>(rng: &mut Rng, from: &BTreeMap<u64, T>) -> Option<u64> {
        from.keys().nth(rng.below(from.len().max(1) as u64) as usize).copied()
    }
    fn size(&mut self) -> u64 {
        let blocks = self.rng.below(300);
        if self.rng.one_in(4) { blocks * B + 512 * self.rng.below(8) } else { blocks * B }
    }

    fn step(&mut self) {
        let store = self.store().clone();
        self.writes += 1;
        let (write, kind) = (self.writes, self.rng.below(24));
        match kind {
            0 | 1 if self.volumes.len() < 3 => {
                let size = self.size();
                let id = store.create_volume(&format!("v{write}"), size).unwrap().id().0;
                let mut known = Known::default();
                known.resize(size, write);
                self.volumes.insert(id, known);
            }
            2..=12 => self.change(&store, write, kind < 10),
            13..=15 if self.snapshots.len() < 6 => {
                let Some(volume) = Self::pick(&mut self.rng, &self.volumes) else { return };
                let handle = store.volume_by_id(VolumeId(volume)).unwrap();
                let id = handle.snapshot(&format!("s{write}")).unwrap().id().0;
                self.snapshots.insert(id, (volume, self.volumes[&volume].clone()));
            }
            16 | 17 => self.roll_back(&store, write),
            18 => {
                let Some(volume) = Self::pick(&mut self.rng, &self.volumes) else { return };
                let size = self.size();
                store.volume_by_id(VolumeId(volume)).unwrap().resize(size).unwrap();
                self.volumes.get_mut(&volume).unwrap().resize(size, write);
            }
            19 if self.volumes.len() < 3 => {
                let Some(snapshot) = Self::pick(&mut self.rng, &self.snapshots) else { return };
                let handle = store.snapshot_by_id(SnapshotId(snapshot)).unwrap();
                let id = store.clone_volume(&handle, &format!("c{write}")).unwrap().id().0;
                self.volumes.insert(id, self.snapshots[&snapshot].1.clone());
            }
            20 => {
                let Some(snapshot) = Self::pick(&mut self.rng, &self.snapshots) else { return };
                store.delete_snapshot(&store.snapshot_by_id(SnapshotId(snapshot)).unwrap()).unwrap();
                self.snapshots.remove(&snapshot);
            }
            21 if self.volumes.len() > 2 => {
                let Some(volume) = Self::pick(&mut self.rng, &self.volumes) else { return };
                let handle = store.volume_by_id(VolumeId(volume)).unwrap();
                store.delete_volume(&handle, DeleteSnapshots::Keep).unwrap();
                self.volumes.remove(&volume);
            }
            22 => drop(store.maintain(50).unwrap()),
            // Nothing is in memory afterwards.
            23 => {
                drop(store);
                self.store.take().unwrap().close().unwrap();
                self.store = Some(self.options.open_on(self.backend.clone(), self.host.clone()).unwrap());
            }
            _ => {}
        }
    }
    /// Writes, or discards whole blocks.
    fn change(&mut self, store: &Store, write: u64, data: bool) {
        let Some(volume) = Self::pick(&mut self.rng, &self.volumes) else { return };
        let known = self.volumes.get_mut(&volume).unwrap();
        let handle = store.volume_by_id(VolumeId(volume)).unwrap();
        let Some(first) = (self.rng.below(400)).checked_rem(known.size.div_ceil(B)) else { return };
        let most = if self.rng.one_in(3) { 120 } else { 4 };
        let last = (first + self.rng.below(most) + 1).min(known.size.div_ceil(B));
        let (mut at, mut end) = (first * B, known.size.min(last * B));
        if !data {
            handle.discard(at, end - at).unwrap();
        } else {
            // Parts of the first and of the last block make them blocks of this write as well.
            if self.rng.one_in(3) && end - at > B {
                (at, end) = (at + self.rng.below(B), end - self.rng.below(end - (last - 1) * B));
            }
            handle.write_at(&vec![write as u8; (end - at) as usize], at).unwrap();
        }
        known.blocks[first as usize..last as usize].fill(data.then_some(write));
    }
    fn roll_back(&mut self, store: &Store, write: u64) {
        let Some(snapshot) = Self::pick(&mut self.rng, &self.snapshots) else { return };
        let (volume, content) = self.snapshots[&snapshot].clone();
        let Some(known) = self.volumes.get_mut(&volume) else { return };
        let handle = store.volume_by_id(VolumeId(volume)).unwrap();
        let target = store.snapshot_by_id(SnapshotId(snapshot)).unwrap();
        let size = known.size;
        *known = content;
        if self.rng.one_in(2) {
            handle.rollback_keep_size(&target).unwrap();
            known.resize(size, write);
        } else {
            handle.rollback(&target).unwrap();
        }
    }

    /// Compares two disks, or one with nothing.
    fn compare(&mut self) {
        let nothing = Known::default();
        let mut disks: Vec<(DiffBase<'_>, Option<DiskRef<'_>>, &Known)> = vec![(DiffBase::NOTHING, None, &nothing)];
        let volumes = self.volumes.iter().map(|(id, known)| (DiskRef::from(VolumeId(*id)), known));
        let snapshots = self.snapshots.iter().map(|(id, (_, known))| (DiskRef::from(SnapshotId(*id)), known));
        disks.extend(volumes.chain(snapshots).map(|(disk, known)| (disk.into(), Some(disk), known)));
        let (base, _, from) = disks[self.rng.below(disks.len() as u64) as usize];
        let (_, Some(disk), to) = disks[self.rng.below(disks.len() as u64) as usize] else { return };
        let mut found = self.store.as_ref().unwrap().diff(base, disk).unwrap();
        let ranges: Vec<_> = found.by_ref().map(|r| r.unwrap()).collect();
        assert_eq!(plain(&ranges), to.since(from));
        let start = self.rng.below(to.size + B);
        found.seek(start);
        let again: Vec<_> = found.map(|r| r.unwrap()).collect();
        assert_eq!(again, rest_of(&ranges, start), "from {start} on");
        self.compared += usize::from(!ranges.is_empty());
    }
}

#[test]
fn random_histories_agree_with_the_oracle() {
    let mut compared = 0;
    for seed in 0..crate::settings::count("SNAPDISK_DIFF_CASES", 60) {
        let mut life = Life::new(seed);
        for _ in 0..150 {
            life.step();
            life.compare();
            life.compare();
        }
        compared += life.compared;
        assert!(life.store().check().unwrap().is_clean(), "seed {seed}");
    }
    assert!(compared > 1000, "{compared} comparisons found a difference");
}

/// Discards of every range: where they take whole leaves away, what is left of the tree is shared under other bounds.
#[test]
fn every_discard_is_told() {
    for fanout in [4, 5, 7] {
        let store = memory(Knobs { fanout, ..Knobs::default() });
        let volume = store.create_volume("v", 64 * B).unwrap();
        let mut old = Known::default();
        old.resize(64 * B, 0);
        (0..32).for_each(|i| volume.write_at(&[1; BLOCK], 2 * i * B).unwrap());
        old.blocks.iter_mut().step_by(2).for_each(|block| *block = Some(0));
        let before = volume.snapshot("before").unwrap();
        for (from, to) in (0..64).flat_map(|from| (from + 1..=64).map(move |to| (from, to))) {
            volume.rollback(&before).unwrap();
            volume.discard(from * B, (to - from) * B).unwrap();
            let mut new = old.clone();
            new.blocks[from as usize..to as usize].fill(None);
            assert_eq!(diff(&store, &before, &volume), new.since(&old), "{from}..{to}");
            assert_eq!(diff(&store, &volume, &before), old.since(&new), "{from}..{to}");
        }
    }
}

/// Restarted at each block and inside it, through nodes that are not in memory and many lookups.
#[test]
fn a_list_is_the_same_from_any_offset() {
    let backend = Arc::new(MemoryBackend::new());
    let options = Options::new().manual_maintenance(true);
    let store = options.create_on(backend.clone(), Arc::new(SystemHost)).unwrap();
    let volume = store.create_volume("v", 9000 * B + 512).unwrap();
    (0..3000).for_each(|i| volume.write_at(&[1; BLOCK], i * 3 * B).unwrap());
    volume.snapshot("before").unwrap();
    (0..9000).step_by(7).for_each(|i| volume.write_at(&[2; 100], i * B + 50).unwrap());
    (0..9000).step_by(91).for_each(|i| volume.discard(i * B, 2 * B).unwrap());
    volume.write_at(&[3], 9000 * B).unwrap();
    drop(volume);
    store.close().unwrap();
    let store = options.open_on(backend, Arc::new(SystemHost)).unwrap();
    let volume = store.volume("v").unwrap();
    let mut found = store.diff(&volume.snapshot_named("before").unwrap(), &volume).unwrap();
    let ranges: Vec<_> = found.by_ref().map(|r| r.unwrap()).collect();
    assert!(ranges.len() > 1200, "{} ranges", ranges.len());
    assert_eq!(ranges.iter().map(|r| r.offset + r.len).max(), Some(9000 * B + 512));
    assert!(ranges.windows(2).all(|r| r[0].offset + r[0].len < r[1].offset || r[0].kind != r[1].kind));
    for start in (0..9001).step_by(37).flat_map(|i| [i * B, i * B + 1, i * B + B - 1]).chain([u64::MAX]) {
        found.seek(start);
        let again: Vec<_> = found.by_ref().take(20).map(|r| r.unwrap()).collect();
        let mut expected = rest_of(&ranges, start);
        expected.truncate(20);
        assert_eq!(again, expected, "from {start} on");
    }
}

/// What is written behind the place of the last lookup is not seen, and what is written ahead of it is.
#[test]
fn a_volume_that_changes_is_seen_lookup_by_lookup() {
    let store = memory(Knobs::default());
    let volume = store.create_volume("v", 10_000 * B).unwrap();
    let before = volume.snapshot("before").unwrap();
    (0..5000).for_each(|i| volume.write_at(&[1; BLOCK], i * 2 * B).unwrap());
    let mut found = store.diff(&before, &volume).unwrap();
    assert_eq!(found.next().unwrap().unwrap().offset, 0);
    // Behind: not seen. Ahead: seen, the new end of the volume too.
    volume.write_at(&[2; BLOCK], B).unwrap();
    volume.discard(9000 * B, 1000 * B).unwrap();
    volume.resize(20_000 * B).unwrap();
    volume.write_at(&[2; BLOCK], 19_999 * B).unwrap();
    let rest: BTreeSet<u64> = found.by_ref().map(|r| r.unwrap().offset / B).collect();
    assert_eq!(rest, (1..4500).map(|i| i * 2).chain([19_999]).collect());

    // A volume that ends before the place of the lookup ends the list.
    found.seek(0);
    assert_eq!(found.next().unwrap().unwrap().len, 3 * B);
    volume.resize(B).unwrap();
    assert!(found.all(|r| r.unwrap().offset < 5000 * B));
    assert!(found.next().is_none());
    assert_eq!(diff(&store, &before, &volume), [(0, B, true)]);
    volume.rollback(&before).unwrap();
    assert_eq!(diff(&store, &before, &volume), []);
}

#[test]
fn a_deleted_disk_is_an_error() {
    let store = memory(Knobs::default());
    let volume = store.create_volume("v", 10_000 * B).unwrap();
    let before = volume.snapshot("before").unwrap();
    (0..5000).for_each(|i| volume.write_at(&[1; BLOCK], i * 2 * B).unwrap());
    let mut found = [store.diff(&before, &volume).unwrap(), store.diff(&volume, &before).unwrap()];
    found.iter_mut().for_each(|found| assert_eq!(found.next().unwrap().unwrap().offset, 0));
    store.delete_snapshot(&before).unwrap();
    for found in &mut found {
        let failed: Vec<_> = found.by_ref().filter_map(|r| r.err()).collect();
        assert_eq!(failed.iter().map(|e| e.kind()).collect::<Vec<_>>(), [ErrorKind::Deleted]);
        found.seek(0);
        assert_eq!(found.next().unwrap().unwrap_err().kind(), ErrorKind::Deleted);
        assert!(found.next().is_none());
    }
    let missing = store.diff(SnapshotId(77), &volume).unwrap().next().unwrap();
    assert_eq!(missing.unwrap_err().kind(), ErrorKind::Deleted);
    let other = memory(Knobs::default());
    assert_eq!(other.diff(DiffBase::NOTHING, &volume).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(store.diff(DiffBase::NOTHING, &volume).unwrap().count(), 5000);
    let mut found = store.diff(DiffBase::NOTHING, &volume).unwrap();
    store.close().unwrap();
    assert_eq!(found.next().unwrap().unwrap_err().kind(), ErrorKind::Closed);
}

/// What differs is what was written, whatever the bytes are; sizes are those of the later disk.
#[test]
fn what_differs_is_what_was_written_since() {
    let store = memory(Knobs::default());
    let volume = store.create_volume("v", 10 * B + 512).unwrap();
    volume.write_at(&[1; 4 * BLOCK], 0).unwrap();
    volume.write_at(&[1], 10 * B).unwrap();
    let before = volume.snapshot("before").unwrap();
    let copy = store.clone_volume(&before, "copy").unwrap();
    assert_eq!(diff(&store, &volume, &copy), []);
    assert_eq!(diff(&store, DiffBase::NOTHING, &copy), [(0, 4 * B, true), (10 * B, 512, true)]);
    volume.write_at(&[1; BLOCK], B).unwrap();
    volume.write_at(&[0; BLOCK], 6 * B).unwrap();
    copy.discard(2 * B, B).unwrap();
    assert_eq!(diff(&store, &before, &volume), [(B, B, true), (6 * B, B, true)], "the same bytes, and zeros");
    assert_eq!(diff(&store, &volume, &copy), [(B, B, true), (2 * B, B, false), (6 * B, B, false)]);
    assert_eq!(diff(&store, &copy, &volume), [(B, 2 * B, true), (6 * B, B, true)]);
    // The earlier disk is shorter, and longer.
    volume.resize(3 * B).unwrap();
    assert_eq!(diff(&store, &before, &volume), [(B, B, true)]);
    assert_eq!(diff(&store, &volume, &before), [(B, B, true), (3 * B, B, true), (10 * B, 512, true)]);
    volume.resize(0).unwrap();
    assert_eq!(diff(&store, &before, &volume), []);
    assert_eq!(diff(&store, &volume, DiskRef::from(before.id())), diff(&store, DiffBase::NOTHING, &before));
}
