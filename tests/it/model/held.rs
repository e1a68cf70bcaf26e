//! Attached volumes: which operations they refuse, what is done to them by force or by their holder, and what the holder learns.
//!
//! A lease is in memory only, so it is no part of a [`Model`]: it belongs to the run, and a reopened image must have none.

use std::collections::BTreeMap;

use snapdisk::{AttachedVolume, BLOCK, DeleteSnapshots, Error, ErrorKind, Snapshot, Store, Volume, VolumeId};

use super::{
    Model, Object, Op, fill,
    run::{Run, Step, VOLUMES, durable, find_snapshot, find_volume, freeze, ok, refused, volume_size},
    tags,
};

/// An attached volume beside what its handle must answer.
pub(super) struct Held {
    handle: AttachedVolume,
    volume: u64,
    generation: u64,
    /// The generation of the newest change of content that others forced.
    foreign: u64,
    acknowledged: u64,
    deleted: bool,
}

impl Held {
    /// What every request through the handle answers.
    fn answer(&self) -> Result<(), ErrorKind> {
        match self {
            Held { deleted: true, .. } => Err(ErrorKind::Deleted),
            _ if self.foreign > self.acknowledged => Err(ErrorKind::Stale),
            _ => Ok(()),
        }
    }
}

/// Who asks for an operation on a volume.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Anyone,
    Force,
    /// The holder; anyone where the volume is not attached.
    Holder,
}

impl By {
    fn of(n: u8) -> By {
        [By::Force, By::Holder, By::Anyone][usize::from(n % 3)]
    }
}

/// What an operation does to a volume beyond writing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Grown,
    Content,
    Deleted,
}

impl Change {
    fn of_size(from: u64, to: u64) -> Option<Change> {
        match to.cmp(&from) {
            std::cmp::Ordering::Less => Some(Change::Content),
            std::cmp::Ordering::Equal => None,
            std::cmp::Ordering::Greater => Some(Change::Grown),
        }
    }
}

/// What the holder of a volume must have learned once an operation has succeeded.
pub(super) struct Told {
    volume: u64,
    change: Change,
    /// Whether the holder did it.
    own: bool,
}

impl Run {
    fn held(&self, volume: u64) -> Option<&Held> {
        self.held.iter().find(|h| h.volume == volume && !h.deleted)
    }
    /// The lease with which an operation by the holder is carried out.
    fn holder(&self, volume: Option<u64>, by: By) -> Option<&Held> {
        volume.filter(|_| by == By::Holder).and_then(|v| self.held(v))
    }

    /// What an operation that is otherwise legal comes to on a volume that may be attached.
    fn leased(&self, step: Step, volume: Option<u64>, by: By, change: Option<Change>) -> Step {
        let held = volume.and_then(|v| self.held(v));
        let (Some(held), Some(change)) = (held, change) else { return step };
        let own = by == By::Holder;
        match held.answer() {
            Err(kind) if own => refused(kind),
            _ if by == By::Anyone && change != Change::Grown => refused(ErrorKind::Busy),
            _ => Step { told: Some(Told { volume: held.volume, change, own }), ..step },
        }
    }

    /// Notes what an operation that succeeded has told a holder.
    pub(super) fn tell(&mut self, told: Option<Told>) {
        let Some(Told { volume, change, own }) = told else { return };
        let held = self.held.iter_mut().find(|h| h.volume == volume && !h.deleted).expect("it was held");
        held.generation += 1;
        match change {
            Change::Content if !own => held.foreign = held.generation,
            Change::Content | Change::Grown => {}
            Change::Deleted => held.deleted = true,
        }
    }

    /// Every attached handle answers as it must, and reads what the volume holds.
    pub(super) fn leases_hold(&self, now: &Model) -> Result<(), String> {
        if self.setup.faults {
            return Ok(());
        }
        for held in &self.held {
            let of = |what: String| format!("attached volume {}: {what}", held.volume);
            if held.handle.generation() != held.generation {
                return Err(of(format!("generation {}, not {}", held.handle.generation(), held.generation)));
            }
            let size = held.handle.size();
            if size.as_ref().map(|_| ()).map_err(Error::kind) != held.answer() {
                return Err(of(format!("{size:?}, not {:?}", held.answer())));
            }
            let object = now.volumes.values().find(|o| o.id == Some(held.volume));
            match (size, object) {
                (_, None) if !held.deleted => return Err(of("there is no such volume".to_owned())),
                (Ok(size), Some(object)) => {
                    let mut buf = vec![0; (BLOCK as u64).min(size) as usize];
                    held.handle.read_at(&mut buf, 0).map_err(|e| of(format!("{e:?}")))?;
                    let expected = object.blocks.first().and_then(|c| c.as_ref()).map_or([0; BLOCK], |c| c.1);
                    if size != object.size || buf != expected[..buf.len()] {
                        return Err(of("its handle shows something else than the volume".to_owned()));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// After a close: an attached handle answers `Closed`, unless there is something that the holder has to know first.
    pub(super) fn leases_are_closed(&self) -> Result<(), String> {
        for held in &self.held {
            let expected = held.answer().err().unwrap_or(ErrorKind::Closed);
            for e in [held.handle.size().err(), held.handle.write_at(&[1; 512], 0).err()] {
                if e.as_ref().is_none_or(|e| e.kind() != expected) {
                    return Err(format!("attached volume {} of a closed store: {e:?}, not {expected:?}", held.volume));
                }
            }
        }
        Ok(())
    }

    /// After an opening: no volume is attached.
    pub(super) fn nothing_is_attached(&self, store: &Store, now: &Model) -> Result<(), String> {
        if self.setup.faults {
            return Ok(());
        }
        now.volumes.iter().try_for_each(|(name, o)| {
            let attached = store.volume_by_id(VolumeId(o.id.expect("learned"))).and_then(|v| v.attach());
            attached.map(drop).map_err(|e| format!("attaching {name} after an opening: {e:?}"))
        })
    }

    /// Operations on leases, and those that concern them.
    pub(super) fn apply_lease(&mut self, store: &Store, op: &Op, next: Model) -> (Step, Result<(), Error>) {
        match *op {
            Op::Attach { v } => self.attach(store, next, v),
            Op::Detach { h } if !self.held.is_empty() => {
                let held = self.held.remove(usize::from(h) % self.held.len());
                (ok(next), held.handle.detach())
            }
            Op::Acknowledge { h, less } if !self.held.is_empty() => {
                let i = usize::from(h) % self.held.len();
                let held = &mut self.held[i];
                let generation = held.generation.saturating_sub(u64::from(less % 3));
                held.handle.acknowledge(generation);
                held.acknowledged = held.acknowledged.max(generation);
                (ok(next), Ok(()))
            }
            Op::HeldWrite { h, b, t } if !self.held.is_empty() => self.held_write(next, h, b, t),
            Op::Rollback { v, k } => self.rollback(store, next, (v, k), false, By::Anyone),
            Op::RollbackKeep { v, k } => self.rollback(store, next, (v, k), true, By::Anyone),
            Op::RollbackBy { v, k, by } => self.rollback(store, next, (v, k), by & 4 != 0, By::of(by)),
            Op::Resize { v, n } => self.resize(store, next, v, n, By::Anyone),
            Op::ResizeBy { v, n, by } => self.resize(store, next, v, n, By::of(by)),
            Op::DelVol { v, how } => self.delete(store, next, v, how, By::Anyone),
            Op::DelVolBy { v, how, by } => self.delete(store, next, v, how, By::of(by)),
            Op::Update { v, n } => self.update(store, next, v, n, By::Anyone),
            Op::UpdateBy { v, n, by } => self.update(store, next, v, n, By::of(by)),
            _ => (ok(next), Ok(())),
        }
    }

    fn attach(&mut self, store: &Store, next: Model, v: u8) -> (Step, Result<(), Error>) {
        let Some((name, volume)) = find_volume(store, &next, v) else { return (ok(next), Ok(())) };
        let id = next.volumes[&name].id.expect("learned");
        let held = self.held(id).is_some();
        let result = volume.and_then(|v| v.attach()).map(|handle| {
            let (generation, foreign, acknowledged) = (0, 0, 0);
            self.held.push(Held { handle, volume: id, generation, foreign, acknowledged, deleted: false });
        });
        (if held { refused(ErrorKind::Busy) } else { ok(next) }, result)
    }

    /// A write of up to one block through the attached handle; a discard for tag 0.
    fn held_write(&mut self, mut next: Model, h: u8, b: u8, t: u8) -> (Step, Result<(), Error>) {
        let tag = self.tag(t);
        let held = &self.held[usize::from(h) % self.held.len()];
        let Some(name) = next.volumes.iter().find(|(_, o)| o.id == Some(held.volume)).map(|(n, _)| n.clone()) else {
            return (refused(ErrorKind::Deleted), held.handle.write_at(&[1; BLOCK], 0));
        };
        let size = next.volumes[&name].size;
        let Some(off) = (u64::from(b) * BLOCK as u64).checked_rem(size) else { return (ok(next), Ok(())) };
        let mut data = vec![0; (BLOCK as u64).min(size - off) as usize];
        fill(tag, &mut data);
        next.volume_mut(&name).write(off, &data);
        let result = match t {
            0 => held.handle.discard(off, data.len() as u64),
            _ => held.handle.write_at(&data, off),
        };
        (held.answer().map_or_else(refused, |()| ok(next)), result)
    }

    fn rollback(
        &mut self,
        store: &Store,
        mut next: Model,
        (v, k): (u8, u8),
        keep: bool,
        by: By,
    ) -> (Step, Result<(), Error>) {
        let (Some((name, volume)), Some((snap_name, snap))) =
            (find_volume(store, &next, v), find_snapshot(store, &next, k))
        else {
            return (ok(next), Ok(()));
        };
        let id = next.volumes[&name].id;
        let holder = self.holder(id, by);
        let result = volume.and_then(|v| roll(&v, &snap?, keep, by, holder));
        if let Some(Err(kind)) = holder.map(Held::answer) {
            return (refused(kind), result);
        }
        if !next.owns(&name, &snap_name) {
            return (refused(ErrorKind::Invalid), result);
        }
        let frozen = next.snapshots[&snap_name].clone();
        let o = next.volume_mut(&name);
        let size = o.size;
        o.blocks = frozen.blocks.clone();
        o.size = frozen.size;
        if keep {
            o.resize(size);
        }
        (self.leased(durable(next), id, by, Some(Change::Content)), result)
    }

    fn resize(&mut self, store: &Store, mut next: Model, v: u8, n: u8, by: By) -> (Step, Result<(), Error>) {
        let Some((name, volume)) = find_volume(store, &next, v) else { return (ok(next), Ok(())) };
        let size = volume_size(n);
        let o = next.volume_mut(&name);
        let (id, change) = (o.id, Change::of_size(o.size, size));
        o.resize(size);
        let holder = self.holder(id, by);
        let result = volume.and_then(|v| match (holder, by) {
            (Some(held), _) => held.handle.resize(size),
            (None, By::Force) => v.forced().resize(size),
            _ => v.resize(size),
        });
        if let Some(Err(kind)) = holder.map(Held::answer) {
            return (refused(kind), result);
        }
        (self.leased(durable(next), id, by, change), result)
    }

    fn delete(&mut self, store: &Store, mut next: Model, v: u8, how: u8, by: By) -> (Step, Result<(), Error>) {
        let Some((name, volume)) = find_volume(store, &next, v) else { return (ok(next), Ok(())) };
        let id = next.volumes[&name].id;
        let own: Vec<String> = next.snapshots.keys().filter(|s| next.owns(&name, s)).cloned().collect();
        let mode = match how % 3 {
            0 => DeleteSnapshots::Refuse,
            1 => DeleteSnapshots::Keep,
            _ => DeleteSnapshots::Delete,
        };
        let holder = self.holder(id, by);
        let result = volume.and_then(|v| match (holder, by) {
            (Some(held), _) => held.handle.delete(mode),
            (None, By::Force) => v.forced().delete(mode),
            _ => store.delete_volume(&v, mode),
        });
        if let Some(Err(kind)) = holder.map(Held::answer) {
            return (refused(kind), result);
        }
        if how.is_multiple_of(3) && !own.is_empty() {
            return (refused(ErrorKind::Invalid), result);
        }
        next.volumes.remove(&name);
        if how % 3 == 2 {
            next.snapshots.retain(|s, _| !own.contains(s));
        }
        (self.leased(durable(next), id, by, Some(Change::Deleted)), result)
    }

    /// Snapshot, resize and perhaps a new volume, as one; once in a while refused at its end, and so wholly.
    fn update(&mut self, store: &Store, mut next: Model, v: u8, n: u8, by: By) -> (Step, Result<(), Error>) {
        let Some(name) = self.room(&next, v) else { return (ok(next), Ok(())) };
        let (snap, other) = (format!("s{}", self.fresh()), format!("v{}", self.fresh()));
        let size = volume_size(n);
        let more = next.volumes.len() < VOLUMES && n & 1 == 1;
        let fail = n & 6 == 6;
        let (of_volume, of_snapshot) = (self.tags(n), self.tags(n / 2));
        let hashes = (tags::hash(&of_volume), tags::hash(&of_snapshot));
        let id = next.volumes[&name].id;
        let holder = self.holder(id, by);
        let result = store.volume(&name).and_then(|volume| {
            store.update(|u| {
                match (holder, by) {
                    (Some(held), _) => u.hold(&held.handle),
                    (None, By::Force) => u.force(&volume),
                    _ => {}
                }
                u.snapshot(&volume, &snap, of_snapshot)?;
                u.resize(&volume, size);
                u.set_volume_tags(&volume, of_volume);
                if more {
                    u.create_volume(&other, size, BTreeMap::new())?;
                }
                if fail { Err(Error::new(ErrorKind::Cancelled, "planned")) } else { Ok(()) }
            })
        });
        if fail {
            return (refused(ErrorKind::Cancelled), result);
        }
        freeze(&mut next, &name, &snap);
        std::sync::Arc::make_mut(next.snapshots.get_mut(&snap).expect("just frozen")).tags = hashes.1;
        let o = next.volume_mut(&name);
        let change = Change::of_size(o.size, size);
        o.resize(size);
        o.tags = hashes.0;
        if more {
            next.volumes.insert(other, std::sync::Arc::new(Object::new(size)));
        }
        (self.leased(durable(next), id, by, change), result)
    }
}

fn roll(volume: &Volume, to: &Snapshot, keep: bool, by: By, holder: Option<&Held>) -> Result<(), Error> {
    match (holder, by, keep) {
        (Some(held), _, false) => held.handle.rollback(to),
        (Some(held), _, true) => held.handle.rollback_keep_size(to),
        (None, By::Force, false) => volume.forced().rollback(to),
        (None, By::Force, true) => volume.forced().rollback_keep_size(to),
        (None, _, false) => volume.rollback(to),
        (None, _, true) => volume.rollback_keep_size(to),
    }
}
