//! `kill -9` of a process that works on a real file and acknowledges its flushes over a pipe.

use super::{Other, kind, options, say, seen};
use snapdisk::{DeleteSnapshots, Durability, ErrorKind, NewOptions, Result, Store, io::sim::Rng};
use std::{collections::BTreeMap, path::Path};

const SECTOR: usize = 512;
/// Sectors of the larger sizes that a volume gets, and of the smaller ones: no whole number of blocks.
const SIZES: [usize; 4] = [4001, 3500, 2048, 1111];
/// An acknowledged flush comes at least this often.
const BETWEEN: u64 = 20;

/// What the volumes and snapshots should hold: for each sector the number of the operation that wrote it, 0 for zeros.
#[derive(Clone, PartialEq, Default)]
struct Model {
    done: u64,
    volumes: BTreeMap<String, Vec<u64>>,
    /// Oldest first.
    snapshots: Vec<(String, String, Vec<u64>)>,
}

/// The kinds of operation.
#[derive(Debug)]
enum Act {
    Create(&'static str),
    Write {
        volume: &'static str,
        from: usize,
        to: usize,
    },
    Discard {
        volume: &'static str,
        from: usize,
        to: usize,
    },
    Snapshot {
        volume: &'static str,
        durability: Durability,
    },
    DeleteSnapshot(usize),
    Rollback(usize),
    Resize {
        volume: &'static str,
        sectors: usize,
    },
    /// Of a snapshot; or the clone goes.
    Clone(usize),
}

const CLONE: &str = "clone";

impl Model {
    /// The operation after this state. It follows from the number and the state alone.
    fn next(&self) -> Act {
        let n = self.done + 1;
        let mut rng = Rng::new(n);
        let volume = ["a", "b"][rng.below(2) as usize];
        let Some(content) = self.volumes.get(volume) else { return Act::Create(volume) };
        let from = rng.below(content.len() as u64) as usize;
        let longest = if rng.one_in(10) { 1500 } else { 60 };
        let to = content.len().min(from + 1 + rng.below(longest) as usize);
        let pick = rng.below(self.snapshots.len().max(1) as u64) as usize;
        match rng.below(24) {
            0..=2 => Act::Discard { volume, from, to },
            3 | 4 if self.snapshots.len() < 8 => {
                let durability = if rng.one_in(2) { Durability::Deferred } else { Durability::Immediate };
                Act::Snapshot { volume, durability }
            }
            5 | 6 if self.snapshots.len() > 3 => Act::DeleteSnapshot(pick),
            7 if !self.snapshots.is_empty() => Act::Rollback(pick),
            8 => Act::Resize { volume, sectors: SIZES[rng.below(4) as usize] },
            9 if !self.snapshots.is_empty() => Act::Clone(pick),
            _ => Act::Write { volume, from, to },
        }
    }

    fn apply(&mut self, act: &Act) {
        self.done += 1;
        let n = self.done;
        let volumes = &mut self.volumes;
        match *act {
            Act::Create(volume) => drop(volumes.insert(volume.into(), vec![0; SIZES[0]])),
            Act::Write { volume, from, to } => volumes.get_mut(volume).unwrap()[from..to].fill(n),
            Act::Discard { volume, from, to } => volumes.get_mut(volume).unwrap()[from..to].fill(0),
            Act::Snapshot { volume, .. } => {
                self.snapshots.push((format!("s{n}"), volume.into(), volumes[volume].clone()));
            }
            Act::DeleteSnapshot(i) => drop(self.snapshots.remove(i)),
            Act::Rollback(i) => {
                let (_, volume, then) = self.snapshots[i].clone();
                volumes.insert(volume, then);
            }
            Act::Resize { volume, sectors } => volumes.get_mut(volume).unwrap().resize(sectors, 0),
            Act::Clone(i) => {
                if volumes.remove(CLONE).is_none() {
                    volumes.insert(CLONE.into(), self.snapshots[i].2.clone());
                }
            }
        }
    }

    /// Does the operation that `act` is after this state.
    fn perform(&self, store: &Store, act: &Act) -> Result<()> {
        let n = self.done + 1;
        let snapshot = |i: usize| {
            let (name, volume, _) = &self.snapshots[i];
            store.volume(volume)?.snapshot_named(name)
        };
        let bytes = |from: usize, to: usize| ((from * SECTOR) as u64, ((to - from) * SECTOR) as u64);
        match *act {
            Act::Create(volume) => store.create_volume(volume, (SIZES[0] * SECTOR) as u64).map(drop),
            Act::Write { volume, from, to } => {
                let content = n.to_le_bytes().repeat((to - from) * SECTOR / 8);
                store.volume(volume)?.write_at(&content, bytes(from, to).0)
            }
            Act::Discard { volume, from, to } => {
                let (at, len) = bytes(from, to);
                store.volume(volume)?.discard(at, len)
            }
            Act::Snapshot { volume, durability } => {
                let o = NewOptions::new().durability(durability);
                store.snapshot_with(&store.volume(volume)?, &format!("s{n}"), o).map(drop)
            }
            Act::DeleteSnapshot(i) => store.delete_snapshot(&snapshot(i)?),
            Act::Rollback(i) => {
                let s = snapshot(i)?;
                store.volume_by_id(s.volume())?.rollback(&s)
            }
            Act::Resize { volume, sectors } => store.volume(volume)?.resize((sectors * SECTOR) as u64),
            Act::Clone(i) => match store.volume(CLONE) {
                Ok(v) => store.delete_volume(&v, DeleteSnapshots::Refuse),
                Err(e) if e.kind() == ErrorKind::NotFound => store.clone_volume(&snapshot(i)?, CLONE).map(drop),
                Err(e) => Err(e),
            },
        }
    }

    /// The state after `done` operations.
    fn after(done: u64) -> Model {
        let mut model = Model::default();
        model.advance(done);
        model
    }
    fn advance(&mut self, done: u64) {
        while self.done < done {
            let act = self.next();
            self.apply(&act);
        }
    }

    /// What a store holds; `done` is left out.
    fn of(store: &Store) -> Model {
        let sectors = |bytes: &[u8]| -> Vec<u64> {
            let one = |s: &[u8]| {
                assert!(s.chunks_exact(8).all(|w| w == &s[..8]), "a torn sector");
                u64::from_le_bytes(s[..8].try_into().unwrap())
            };
            bytes.chunks_exact(SECTOR).map(one).collect()
        };
        let mut model = Model::default();
        let mut names = BTreeMap::new();
        for v in store.volumes().unwrap() {
            let mut buf = vec![1; v.size().unwrap() as usize];
            v.read_at(&mut buf, 0).unwrap();
            names.insert(v.id(), v.name().unwrap());
            model.volumes.insert(v.name().unwrap(), sectors(&buf));
        }
        for s in store.snapshots().unwrap() {
            let mut buf = vec![1; s.size() as usize];
            s.read_at(&mut buf, 0).unwrap();
            model.snapshots.push((s.name().unwrap(), names[&s.volume()].clone(), sectors(&buf)));
        }
        model
    }
}

/// The child: goes on from the state after `done` operations until it is killed. Says how many are durable, always after the flush.
pub(super) fn work(path: &Path, done: u64) {
    say("begin");
    let store = options().memory(1 << 20).open(path).unwrap();
    let mut model = Model::after(done);
    say(done);
    let mut acknowledged = done;
    loop {
        let act = model.next();
        model.perform(&store, &act).unwrap_or_else(|e| panic!("{act:?}: {e}"));
        model.apply(&act);
        if model.done - acknowledged > Rng::new(model.done / BETWEEN).below(BETWEEN) {
            store.flush().unwrap();
            acknowledged = model.done;
            say(acknowledged);
        }
    }
}

#[test]
fn kill_9_loses_no_acknowledged_flush() {
    let cycles = crate::settings::count("SNAPDISK_KILLS", 30);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    options().create(&path).unwrap().close().unwrap();
    // The state that the image holds.
    let mut model = Model::default();
    let mut total = 0;
    for cycle in 0..cycles {
        let mut child = Other::start("work", &path, &model.done.to_string());
        assert_eq!(child.next().as_deref(), Some("begin"));
        let mut acknowledged = model.done;
        // Killed while it recovers, after its first words, or somewhere later.
        let mut rng = Rng::new(cycle);
        for _ in 0..[0, 1, rng.below(30), rng.below(200)][rng.below(4) as usize] {
            acknowledged = child.next().expect("it works until it is killed").parse().unwrap();
        }
        child.child.kill().unwrap();
        while let Some(more) = child.next() {
            acknowledged = more.parse().unwrap();
        }
        child.child.wait().unwrap();
        total += acknowledged - model.done;

        let before = seen(&path);
        let store = options().open_read_only(&path).unwrap();
        let mut found = Model::of(&store);
        model.advance(acknowledged);
        while (&model.volumes, &model.snapshots) != (&found.volumes, &found.snapshots) {
            let lost = model.done >= acknowledged + BETWEEN;
            assert!(!lost, "cycle {cycle}: no state from {acknowledged} to {}", model.done);
            model.advance(model.done + 1);
        }
        assert_eq!(kind(options().open(&path)), ErrorKind::Locked);
        assert!(store.check().unwrap().is_clean());
        drop(store);
        assert!(seen(&path) == before, "cycle {cycle}: an opening for reading changed the file");

        found.done = model.done;
        let store = options().open(&path).unwrap();
        let recovered = Model { done: model.done, ..Model::of(&store) };
        assert!(recovered == found, "cycle {cycle}: recovery gives another state than reading did");
        assert!(store.check().unwrap().is_clean());
        if cycle % 3 == 0 {
            store.close().unwrap();
        }
    }
    println!("{cycles} kills, {total} acknowledged operations");
    assert!(total > 0);
}
