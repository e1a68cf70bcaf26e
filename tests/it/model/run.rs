//! A store and its model side by side on a simulated disk.

use std::{collections::BTreeMap, io::IoSlice, sync::Arc};

use snapdisk::{
    BLOCK, Durability, Error, ErrorKind, NewOptions, Options, Store,
    io::sim::{Ev, SimBackend, SimHost},
};

use super::{
    BLOCKS_MAX, Model, Object, Op, Seen, fill,
    held::{Held, Told},
    history::{History, Phase, explain},
    observe, tags,
};

/// Volumes at most.
pub(super) const VOLUMES: usize = 4;
/// Snapshots at most.
const SNAPSHOTS: usize = 6;

/// How to open.
#[derive(Clone)]
pub(crate) struct Setup {
    /// With manual maintenance and the knobs of the case.
    pub(crate) options: Options,
    /// Of the host's random numbers and the disk's.
    pub(crate) seed: u64,
    /// Whether running out of space is no surprise.
    pub(crate) tight: bool,
    /// Whether what frees space gets through all the same.
    pub(crate) guaranteed: bool,
    /// Whether something is planned to fail.
    pub(crate) faults: bool,
    /// Whether fresh space is written before it is used.
    pub(crate) weak: bool,
    /// Whether the disk can make a single write durable.
    pub(crate) ranges: bool,
    /// Whether few staged blocks are written out by whoever staged them.
    pub(crate) spills: bool,
}

/// A running store beside its model.
pub(crate) struct Run {
    /// The disk under it.
    pub(crate) disk: Arc<SimBackend>,
    /// `None` while it could not be opened because of a planned fault.
    pub(crate) store: Option<Store>,
    /// What it must contain.
    pub(crate) history: History,
    /// An operation failed in a way that leaves its outcome open; nothing more is run.
    pub(crate) unknown: bool,
    /// The volumes that are attached.
    pub(super) held: Vec<Held>,
    pub(super) setup: Setup,
    pub(super) serial: u32,
    pub(super) openings: u64,
}

/// What an operation is expected to do.
pub(super) struct Step {
    pub(super) expect: Result<(), ErrorKind>,
    pub(super) next: Option<Model>,
    pub(super) durable: bool,
    /// What the holder of the volume has learned.
    pub(super) told: Option<Told>,
}

pub(super) fn ok(next: Model) -> Step {
    Step { expect: Ok(()), next: Some(next), durable: false, told: None }
}

pub(super) fn durable(next: Model) -> Step {
    Step { durable: true, ..ok(next) }
}

pub(super) fn refused(kind: ErrorKind) -> Step {
    Step { expect: Err(kind), next: None, durable: false, told: None }
}

impl Run {
    /// Opens what is on `disk`, which must be one of the states of `history`; the state it turns out to be becomes the
    /// newest, and durable. `serial` keeps names and tags apart between runs on one image.
    pub(crate) fn open(disk: Arc<SimBackend>, history: History, setup: &Setup, serial: u32) -> Result<Run, String> {
        let setup = setup.clone();
        disk.set_fresh_weak(setup.weak);
        disk.set_synced_writes(setup.ranges);
        let mut run = Run { disk, store: None, history, unknown: false, held: Vec::new(), setup, serial, openings: 0 };
        run.reopen(true)?;
        Ok(run)
    }

    fn hits(&self) -> u64 {
        self.disk.counts().faults_hit
    }

    fn faulty(&self) -> bool {
        self.hits() > 0
    }

    fn reopen(&mut self, crashed: bool) -> Result<(), String> {
        self.disk.mark(Ev::Phase(Phase::Open as u32));
        self.disk.mark(Ev::Issued(self.history.states.len() as u32));
        self.openings += 1;
        let host = Arc::new(SimHost::new(self.setup.seed ^ self.openings << 32 ^ u64::from(self.serial)));
        let store = match self.setup.options.open_on(self.disk.clone(), host) {
            Ok(s) => s,
            Err(e) if self.faulty() && matches!(e.kind(), ErrorKind::Io | ErrorKind::NoSpace | ErrorKind::Poisoned) => {
                self.unknown = true;
                return Ok(());
            }
            Err(e) => return Err(format!("open failed: {e:?}")),
        };
        let last = self.history.states.len() - 1;
        let from = if crashed { self.history.acked } else { last };
        let (seen, model) = self.settle(&store, from, last)?;
        let mut model = model;
        model.learn(&seen)?;
        self.names_hold(&store, &model)?;
        self.nothing_is_attached(&store, &model)?;
        // Dropped after that: handles of a closed store release nothing.
        self.held.clear();
        self.history.states.push((model.hash(), model));
        self.store = Some(store);
        self.ack();
        self.disk.mark(Ev::Phase(Phase::Work as u32));
        Ok(())
    }

    /// Which of the states `from..=to` the store shows.
    pub(super) fn settle(&self, store: &Store, from: usize, to: usize) -> Result<(Seen, Model), String> {
        let hits = self.hits();
        let seen = match observe(store) {
            // A failed read changes nothing: it may be tried again.
            Err((_, e)) if self.hits() > hits && e.kind() == ErrorKind::Io => {
                self.disk.set_faults(Vec::new());
                observe(store)
            }
            other => other,
        };
        let seen = seen.map_err(|(what, e)| format!("{what}: {e:?}"))?;
        match self.history.find(from, to, seen.hash) {
            Some(j) => Ok((seen, self.history.states[j].1.clone())),
            None => Err(explain(&self.history, from, to, &seen)),
        }
    }

    fn ack(&mut self) {
        self.history.acked = self.history.states.len() - 1;
        self.disk.mark(Ev::Acked(self.history.acked as u32));
    }

    pub(super) fn fresh(&mut self) -> u32 {
        self.serial += 1;
        self.serial
    }

    pub(super) fn tag(&mut self, t: u8) -> u64 {
        match t {
            0..=2 => u64::from(t),
            _ => self.setup.seed << 20 | u64::from(self.fresh()),
        }
    }

    /// Runs one operation on both and compares.
    pub(super) fn step(&mut self, op: &Op) -> Result<(), String> {
        if self.unknown || self.store.is_none() {
            return Ok(());
        }
        match op {
            Op::Reopen {} => return self.close_and_open(),
            Op::Die {} => return self.die(),
            _ => {}
        }
        let store = self.store.clone().expect("open");
        let phase = match op {
            Op::Checkpoint {} => Phase::Checkpoint,
            Op::Maintain { .. } if store.counters().is_ok_and(|s| s.reclaim_entries > 0) => Phase::Reclaim,
            _ => Phase::Work,
        };
        if phase != Phase::Work {
            self.disk.mark(Ev::Phase(phase as u32));
        }
        self.disk.mark(Ev::Issued(self.history.states.len() as u32));
        let hits = self.hits();
        let (step, result) = self.apply(&store, op);
        let struck = self.hits() > hits;
        let before = self.history.last().clone();
        let place = |e: &dyn std::fmt::Debug| format!("{}: {e:?}", op.text());
        match (&step.expect, result) {
            (Ok(()), Ok(())) => {
                let next = step.next.unwrap_or(before);
                self.history.states.push((next.hash(), next));
                if step.durable {
                    self.ack();
                }
                self.tell(step.told);
            }
            (Err(kind), Err(e)) if e.kind() == *kind => self.history.states.push((before.hash(), before)),
            (_, Err(e)) => match e.kind() {
                ErrorKind::NoSpace if self.setup.guaranteed && gets_through(op) => return Err(place(&e)),
                ErrorKind::NoSpace if self.setup.tight || self.faulty() => {
                    self.history.states.push((before.hash(), before));
                }
                // Poisoned before it began, by a fault in background work or in an earlier operation.
                ErrorKind::Poisoned if self.faulty() => {
                    self.history.states.push((before.hash(), before));
                    self.unknown = true;
                }
                ErrorKind::Io if struck => {
                    let next = step.next.unwrap_or(before);
                    self.history.states.push((next.hash(), next));
                    self.unknown = true;
                }
                _ => return Err(place(&e)),
            },
            (Err(kind), Ok(())) => return Err(place(kind) + " expected, got Ok"),
        }
        if phase == Phase::Checkpoint {
            self.disk.mark(Ev::Phase(Phase::Work as u32));
        }
        if self.unknown {
            return self.after_failure(&store);
        }
        let last = self.history.states.len() - 1;
        let (seen, mut model) = self.settle(&store, last, last).map_err(|e| format!("after {}: {e}", op.text()))?;
        model.learn(&seen)?;
        if changes_names(op) {
            self.names_hold(&store, &model).map_err(|e| format!("after {}: {e}", op.text()))?;
        }
        self.looks_hold(&store, &model).map_err(|e| format!("after {}: {e}", op.text()))?;
        self.differences_hold(&store, &model).map_err(|e| format!("after {}: {e}", op.text()))?;
        self.leases_hold(&model).map_err(|e| format!("after {}: {e}", op.text()))?;
        self.history.states[last].1 = model;
        Ok(())
    }

    /// Does all background work there is.
    pub(crate) fn settle_down(&mut self) -> Result<(), String> {
        for _ in 0..200 {
            let (false, Some(store)) = (self.unknown, &self.store) else { return Ok(()) };
            let more = store.maintain(16).map_err(|e| format!("maintain: {e:?}"))?;
            if !more {
                return self.check();
            }
        }
        Err("background work never ends".to_owned())
    }

    /// After an outcome left open: reads give the state before or after, or say that they can't; nothing is written.
    fn after_failure(&mut self, store: &Store) -> Result<(), String> {
        let last = self.history.states.len() - 1;
        match observe(store) {
            Ok(seen) => match self.history.find(last.saturating_sub(1), last, seen.hash) {
                Some(_) => {}
                None => {
                    return Err(
                        "after a failure: ".to_owned() + &explain(&self.history, last.saturating_sub(1), last, &seen)
                    );
                }
            },
            Err((_, e)) if matches!(e.kind(), ErrorKind::Io | ErrorKind::Corrupt) => {}
            Err((what, e)) => return Err(format!("after a failure: {what}: {e:?}")),
        }
        Ok(())
    }

    fn close_and_open(&mut self) -> Result<(), String> {
        self.disk.mark(Ev::Phase(Phase::Checkpoint as u32));
        let last = self.history.last().clone();
        self.disk.mark(Ev::Issued(self.history.states.len() as u32));
        self.history.states.push((last.hash(), last));
        match self.store.take().expect("open").close() {
            Ok(()) => {
                self.ack();
                self.leases_are_closed()?;
                self.reopen(false)
            }
            Err(_) if self.faulty() => {
                self.unknown = true;
                Ok(())
            }
            Err(e) => Err(format!("close: {e:?}")),
        }
    }

    fn die(&mut self) -> Result<(), String> {
        self.held.clear();
        self.store = None;
        self.reopen(true)
    }

    /// The checker must be content.
    pub(crate) fn check(&self) -> Result<(), String> {
        let Some(store) = &self.store else { return Ok(()) };
        let hits = self.hits();
        let mut report = store.check();
        if self.hits() > hits {
            // What could not be read is a finding or an error; reading it again is not.
            self.disk.set_faults(Vec::new());
            report = store.check();
        }
        let report = report.map_err(|e| format!("check: {e:?}"))?;
        if report.is_clean() {
            return Ok(());
        }
        let all: Vec<String> =
            report.findings.iter().take(6).map(|f| format!("{:?} {} {}", f.kind, f.place, f.what)).collect();
        Err(format!("check: leaked {}, {}", report.leaked, all.join("; ")))
    }

    fn apply(&mut self, store: &Store, op: &Op) -> (Step, Result<(), Error>) {
        let mut next = self.history.last().clone();
        match *op {
            Op::Write { .. }
            | Op::Bytes { .. }
            | Op::Fua { .. }
            | Op::Trim { .. }
            | Op::Zero { .. }
            | Op::Cut { .. } => self.change(store, op, next),
            Op::Flush {} => (durable(next), store.flush()),
            Op::Checkpoint {} => (durable(next), store.checkpoint()),
            Op::Mark {} => (ok(next), store.mark()),
            Op::Maintain { n } => {
                let budget = 1 + usize::from(n % 4) * 3;
                let steps = 1 + n / 4 * 8;
                (ok(next), (0..steps).try_for_each(|_| store.maintain(budget).map(drop)))
            }
            Op::Check {} => {
                if let Err(e) = self.check() {
                    return (ok(next), Err(Error::new(ErrorKind::Corrupt, e)));
                }
                (ok(next), Ok(()))
            }
            Op::Snap { v } | Op::SnapDeferred { v } => {
                let Some(name) = self.room(&next, v) else { return (ok(next), Ok(())) };
                let snap = format!("s{}", self.fresh());
                freeze(&mut next, &name, &snap);
                let result = store.volume(&name).and_then(|v| match op {
                    Op::Snap { .. } => store.snapshot(&v, &snap).map(drop),
                    _ => {
                        let deferred = NewOptions::new().durability(Durability::Deferred);
                        store.snapshot_with(&v, &snap, deferred).map(drop)
                    }
                });
                (if matches!(op, Op::Snap { .. }) { durable(next) } else { ok(next) }, result)
            }
            Op::SnapGroup { v, n } => {
                let count = next.volumes.len().min(usize::from(n)).min(SNAPSHOTS.saturating_sub(next.snapshots.len()));
                let names: Vec<String> = next.volumes.keys().cycle().skip(v.into()).take(count).cloned().collect();
                if names.is_empty() {
                    return (ok(next), Ok(()));
                }
                let snaps: Vec<String> = names.iter().map(|_| format!("s{}", self.fresh())).collect();
                let volumes: Result<Vec<_>, Error> = names.iter().map(|n| store.volume(n)).collect();
                let result = volumes.and_then(|vs| {
                    let members: Vec<_> = vs.iter().zip(&snaps).map(|(v, s)| (v, s.as_str())).collect();
                    store.snapshot_group(&members).map(drop)
                });
                for (v, s) in names.iter().zip(&snaps) {
                    freeze(&mut next, v, s);
                }
                (durable(next), result)
            }
            Op::DelSnap { k } => {
                let Some((name, snap)) = find_snapshot(store, &next, k) else { return (ok(next), Ok(())) };
                next.snapshots.remove(&name);
                (durable(next), snap.and_then(|s| store.delete_snapshot(&s)))
            }
            Op::RenameSnap { k } => {
                let Some((name, snap)) = find_snapshot(store, &next, k) else { return (ok(next), Ok(())) };
                let to = format!("s{}", self.fresh());
                let object = next.snapshots.remove(&name).expect("picked");
                next.snapshots.insert(to.clone(), object);
                (durable(next), snap.and_then(|s| store.rename_snapshot(&s, &to)))
            }
            Op::Clone { k } => {
                let Some((name, snap)) = find_snapshot(store, &next, k) else { return (ok(next), Ok(())) };
                if next.volumes.len() >= VOLUMES {
                    return (ok(next), Ok(()));
                }
                let to = format!("v{}", self.fresh());
                let object = Object { id: None, of: None, tags: 0, ..(*next.snapshots[&name]).clone() };
                next.volumes.insert(to.clone(), Arc::new(object));
                (durable(next), snap.and_then(|s| store.clone_volume(&s, &to)).map(drop))
            }
            Op::CreateVol { n } => {
                if n % 8 == 7 {
                    let Some((name, _)) = next.pick_volume(n) else { return (ok(next), Ok(())) };
                    return (refused(ErrorKind::Exists), store.create_volume(name, 4096).map(drop));
                }
                if next.volumes.len() >= VOLUMES {
                    return (ok(next), Ok(()));
                }
                // Now and then a name that something had before.
                let used = if n % 4 == 2 { self.retired(&next).pop_first() } else { None };
                let (name, size) = (used.unwrap_or_else(|| format!("v{}", self.fresh())), volume_size(n));
                let tags = if n % 3 == 1 { self.tags(n) } else { BTreeMap::new() };
                let object = Object { tags: tags::hash(&tags), ..Object::new(size) };
                next.volumes.insert(name.clone(), Arc::new(object));
                let new = NewOptions::new().tags(tags);
                (durable(next), store.create_volume_with(&name, size, new).map(drop))
            }
            Op::Rename { v } => {
                let Some((name, volume)) = find_volume(store, &next, v) else { return (ok(next), Ok(())) };
                let to = format!("v{}", self.fresh());
                let object = next.volumes.remove(&name).expect("picked");
                next.volumes.insert(to.clone(), object);
                (durable(next), volume.and_then(|v| store.rename(&v, &to)))
            }
            Op::TagVol { v, n } => {
                let Some((name, volume)) = find_volume(store, &next, v) else { return (ok(next), Ok(())) };
                let tags = self.tags(n);
                next.volume_mut(&name).tags = tags::hash(&tags);
                (durable(next), volume.and_then(|v| v.set_tags(tags)))
            }
            Op::TagSnap { k, n } => {
                let Some((name, snap)) = find_snapshot(store, &next, k) else { return (ok(next), Ok(())) };
                let tags = self.tags(n);
                let object = next.snapshots.get_mut(&name).expect("picked");
                Arc::make_mut(object).tags = tags::hash(&tags);
                let set = |id| {
                    store.update(|u| {
                        u.set_snapshot_tags(id, tags);
                        Ok(())
                    })
                };
                (durable(next), snap.and_then(|s| set(s.id())))
            }
            Op::Reopen {} | Op::Die {} | Op::BesideCheckpoint { .. } | Op::BesideFlush { .. } => {
                unreachable!("handled by the caller")
            }
            _ => self.apply_lease(store, op, next),
        }
    }

    fn change(&mut self, store: &Store, op: &Op, mut next: Model) -> (Step, Result<(), Error>) {
        const B: u64 = BLOCK as u64;
        let (v, off, len, t) = match *op {
            Op::Write { v, b, n, t } => (v, u64::from(b) * B, u64::from(n) * B + B, t),
            Op::Fua { v, b, t } => (v, u64::from(b) * B, B, t),
            Op::Trim { v, b, n } | Op::Zero { v, b, n } => (v, u64::from(b) * B, u64::from(n) * B + B, 0),
            Op::Bytes { v, at, n, t } => (v, u64::from(at) * 397, u64::from(n) * 61 + 1, t),
            Op::Cut { v, at, n } => (v, u64::from(at) * 397, u64::from(n) * 61 + 1, 0),
            _ => unreachable!("not a change"),
        };
        let Some((name, volume)) = find_volume(store, &next, v) else { return (ok(next), Ok(())) };
        let size = next.volumes[&name].size;
        if size == 0 {
            return (ok(next), Ok(()));
        }
        // Mostly inside; a range that starts in the last block and is long reaches past the end.
        let off = off % size;
        let clip = len.min(size - off);
        let len = if len > 5 * B && off + len > size { len } else { clip };
        let inside = off + len <= size;
        let durability = if matches!(op, Op::Fua { .. }) { durable } else { ok };
        let result = match *op {
            Op::Trim { .. } | Op::Cut { .. } => volume.and_then(|v| v.discard(off, len)),
            Op::Zero { .. } => volume.and_then(|v| v.write_zeroes(off, len)),
            _ => {
                let mut data = vec![0; len as usize];
                fill(self.tag(t), &mut data);
                if inside {
                    next.volume_mut(&name).write(off, &data);
                }
                let (first, second) = data.split_at(data.len() / 3);
                volume.and_then(|v| match *op {
                    Op::Fua { .. } => v.write_fua_at(&data, off),
                    Op::Bytes { n, .. } if n % 4 == 1 => {
                        v.write_vectored_at(&[IoSlice::new(first), IoSlice::new(second)], off)
                    }
                    _ => v.write_at(&data, off),
                })
            }
        };
        if !inside {
            return (refused(ErrorKind::OutOfRange), result);
        }
        if matches!(op, Op::Trim { .. } | Op::Cut { .. } | Op::Zero { .. }) {
            next.volume_mut(&name).zero(off, len);
        }
        (durability(next), result)
    }

    pub(super) fn tags(&mut self, n: u8) -> BTreeMap<String, String> {
        let serial = self.fresh();
        tags::of(n, serial)
    }

    pub(super) fn room(&self, model: &Model, v: u8) -> Option<String> {
        (model.snapshots.len() < SNAPSHOTS).then(|| model.pick_volume(v).map(|p| p.0.clone())).flatten()
    }
}

fn changes_names(op: &Op) -> bool {
    use Op::{Clone, CreateVol, DelSnap, DelVol, DelVolBy, Rename, RenameSnap, Update, UpdateBy};
    matches!(
        op,
        Clone { .. }
            | CreateVol { .. }
            | DelSnap { .. }
            | DelVol { .. }
            | DelVolBy { .. }
            | Rename { .. }
            | RenameSnap { .. }
            | Update { .. }
            | UpdateBy { .. }
    )
}

/// Whether an operation has the reserve to fall back on (P9).
fn gets_through(op: &Op) -> bool {
    matches!(
        op,
        Op::Flush {}
            | Op::Checkpoint {}
            | Op::DelSnap { .. }
            | Op::DelVol { .. }
            | Op::DelVolBy { .. }
            | Op::Rollback { .. }
            | Op::RollbackBy { .. }
            | Op::Maintain { .. }
    )
}

pub(super) fn freeze(model: &mut Model, volume: &str, snapshot: &str) {
    let o = &model.volumes[volume];
    let frozen = Object { id: None, of: o.id, tags: 0, ..(**o).clone() };
    model.snapshots.insert(snapshot.to_owned(), Arc::new(frozen));
}

/// Whole blocks mostly, sometimes any multiple of a sector, sometimes nothing.
pub(super) fn volume_size(n: u8) -> u64 {
    match n % 16 {
        15 => 0,
        14 => u64::from(n) * 512 % (BLOCKS_MAX * BLOCK as u64),
        _ => (u64::from(n) % BLOCKS_MAX + 1) * BLOCK as u64,
    }
}

pub(super) type Found<T> = Option<(String, Result<T, Error>)>;

pub(super) fn find_volume(store: &Store, model: &Model, v: u8) -> Found<snapdisk::Volume> {
    let name = model.pick_volume(v)?.0.clone();
    let found = store.volume(&name);
    Some((name, found))
}

pub(super) fn find_snapshot(store: &Store, model: &Model, k: u8) -> Found<snapdisk::Snapshot> {
    let (name, object) = model.pick_snapshot(k)?;
    let found = match object.id {
        Some(id) => store.snapshot_by_id(snapdisk::SnapshotId(id)),
        None => store.snapshots().and_then(|all| {
            let named = all.into_iter().find(|s| s.name().is_ok_and(|n| n == *name));
            named.ok_or_else(|| Error::new(ErrorKind::NotFound, name.clone()))
        }),
    };
    Some((name.clone(), found))
}
