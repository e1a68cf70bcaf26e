//! Leases: who has a volume attached, which operations that refuses, and how the holder learns of those that were forced.
//!
//! A lease is in memory only: an image that is opened again has none. It is checked under the state's lock, in the transaction of the operation
//! that it concerns, so that no attachment and no write of a holder falls between the check and the change.

use super::state::{Engine, State, deleted};
use crate::{
    Error, ErrorKind, Result, VolumeId,
    events::{Event, Events},
    lack::Step,
    log::Op,
    sync::Signal,
    units::Target,
};
use rustc_hash::FxHashMap;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

/// The lease is held, or was given up by its holder.
const HELD: u8 = 0;
/// The volume was deleted.
const DELETED: u8 = 1;
/// The store was closed.
const CLOSED: u8 = 2;

/// An attachment of a volume. It changes under the state's exclusive lock only, but for what the holder acknowledges.
pub(crate) struct Lease {
    volume: u64,
    /// Grows with each change of content or size that is no write.
    generation: AtomicU64,
    /// The generation with which content was last changed by others than the holder.
    foreign: AtomicU64,
    /// The generation that the holder acknowledged.
    acknowledged: AtomicU64,
    /// Why there will be no further change.
    ended: AtomicU8,
    changed: Signal,
}

impl Lease {
    fn new(volume: u64) -> Lease {
        let zero = || AtomicU64::new(0);
        let (generation, foreign, acknowledged) = (zero(), zero(), zero());
        Lease { volume, generation, foreign, acknowledged, ended: AtomicU8::new(HELD), changed: Signal::default() }
    }
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(SeqCst)
    }
    /// The holder knows of every change up to this generation.
    pub(crate) fn acknowledge(&self, generation: u64) {
        self.acknowledged.fetch_max(generation.min(self.generation()), SeqCst);
    }
    /// Whether the holder may go on: `Stale` after a change of content that others forced and that it has not acknowledged, `Deleted` once
    /// the volume is.
    pub(crate) fn check(&self) -> Result<()> {
        let volume = Target::Volume(self.volume);
        if self.ended.load(SeqCst) == DELETED {
            return Err(deleted(volume));
        }
        let foreign = self.foreign.load(SeqCst);
        if foreign <= self.acknowledged.load(SeqCst) {
            return Ok(());
        }
        let what = format!("{volume} was changed by force: generation {foreign} is not acknowledged");
        Err(Error::new(ErrorKind::Stale, what))
    }
    /// Waits until the generation is another one than `seen`, or `most` is over; returns it.
    pub(crate) fn wait(&self, seen: u64, most: Duration) -> Result<u64> {
        self.changed.wait(most, || self.generation() != seen || self.ended.load(SeqCst) != HELD);
        let generation = self.generation();
        match self.ended.load(SeqCst) {
            _ if generation != seen => Ok(generation),
            DELETED => Err(deleted(Target::Volume(self.volume))),
            CLOSED => Err(super::state::closed()),
            _ => Ok(generation),
        }
    }
    fn end(&self, why: u8) {
        self.ended.store(why, SeqCst);
        self.changed.notify();
    }
}

/// What a request may do to volumes that are attached.
#[derive(Default)]
pub(crate) struct Authority {
    /// Volumes that are changed whoever holds them.
    pub(crate) forced: Vec<u64>,
    /// The leases of the caller itself.
    pub(crate) held: Vec<Arc<Lease>>,
}

impl Authority {
    pub(crate) fn forced(volume: u64) -> Authority {
        Authority { forced: vec![volume], held: Vec::new() }
    }
    pub(crate) fn holder(lease: &Arc<Lease>) -> Authority {
        Authority { forced: Vec::new(), held: vec![lease.clone()] }
    }
    fn holds(&self, lease: &Arc<Lease>) -> bool {
        self.held.iter().any(|l| Arc::ptr_eq(l, lease))
    }
}

/// Whoever writes to a volume.
#[derive(Clone, Copy)]
pub(crate) struct Writer<'a> {
    pub(crate) volume: u64,
    /// The lease under which it writes; `None`: under none.
    lease: Option<&'a Lease>,
}

impl From<u64> for Writer<'_> {
    fn from(volume: u64) -> Self {
        Writer { volume, lease: None }
    }
}

impl<'a> From<&'a Lease> for Writer<'a> {
    fn from(lease: &'a Lease) -> Self {
        Writer { volume: lease.volume, lease: Some(lease) }
    }
}

impl Writer<'_> {
    /// Under the state's lock, a write of a holder that does not know of the present content is refused.
    pub(super) fn check(self) -> Result<()> {
        self.lease.map_or(Ok(()), Lease::check)
    }
}

/// What an operation does to an attached volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Change {
    /// It is longer.
    Grown,
    /// Its content is another.
    Content,
    Deleted,
}

/// A change of an attached volume, to be told to the holder once the operation is sure.
pub(super) struct Told(Arc<Lease>, Change);

/// The attached volumes.
#[derive(Default)]
pub(crate) struct Leases(FxHashMap<u64, Arc<Lease>>);

impl Leases {
    fn take(&mut self, volume: u64) -> Result<Arc<Lease>> {
        if self.0.contains_key(&volume) {
            return Err(busy(volume));
        }
        let lease = Arc::new(Lease::new(volume));
        self.0.insert(volume, lease.clone());
        Ok(lease)
    }
    fn release(&mut self, lease: &Arc<Lease>) {
        if self.0.get(&lease.volume).is_some_and(|held| Arc::ptr_eq(held, lease)) {
            self.0.remove(&lease.volume);
        }
    }
    /// Ends all of them: nothing changes any more.
    pub(super) fn close(&mut self) {
        self.0.drain().for_each(|(_, lease)| lease.end(CLOSED));
    }
    /// Tells the holders what was done to their volumes.
    pub(super) fn tell(&mut self, changes: Vec<Told>, authority: &Authority, events: &Events) {
        for Told(lease, change) in changes {
            let generation = lease.generation.fetch_add(1, SeqCst) + 1;
            match change {
                Change::Grown => {}
                Change::Content if authority.holds(&lease) => {}
                Change::Content => lease.foreign.store(generation, SeqCst),
                Change::Deleted => {
                    self.0.remove(&lease.volume);
                    lease.end(DELETED);
                }
            }
            lease.changed.notify();
            events.note(|| Event::VolumeChanged { volume: VolumeId(lease.volume), generation });
        }
    }
}

fn busy(volume: u64) -> Error {
    Error::new(ErrorKind::Busy, format!("{} is attached", Target::Volume(volume)))
}

impl State {
    /// Whether an operation, which has been checked otherwise and is about to be applied, may be done to a volume that is attached. `Busy` where
    /// it would take content from the holder; growing takes none. Returns what the holder has to be told.
    pub(super) fn check_lease(&mut self, op: &Op, authority: &Authority) -> Step<Option<Told>> {
        let (volume, size) = match *op {
            Op::Rollback { volume, .. } | Op::DeleteVolume { volume, .. } => (volume, 0),
            Op::Resize { volume, size, .. } => (volume, size),
            _ => return Ok(None),
        };
        let Some(lease) = self.leases.0.get(&volume).cloned() else { return Ok(None) };
        let own = authority.holds(&lease);
        if own {
            lease.check()?;
        }
        let change = match op {
            Op::DeleteVolume { .. } => Change::Deleted,
            Op::Rollback { .. } => Change::Content,
            _ => match size.cmp(&self.volume_record(volume)?.size) {
                std::cmp::Ordering::Less => Change::Content,
                std::cmp::Ordering::Equal => return Ok(None),
                std::cmp::Ordering::Greater => Change::Grown,
            },
        };
        if !own && change != Change::Grown && !authority.forced.contains(&volume) {
            return Err(busy(volume).into());
        }
        Ok(Some(Told(lease, change)))
    }
}

impl Engine {
    /// Attaches a volume. `Busy` if it is attached.
    pub(crate) fn attach(&self, volume: u64) -> Result<Arc<Lease>> {
        self.step(|state| {
            state.volume_record(volume)?;
            Ok(state.leases.take(volume)?)
        })
    }
    /// Gives a lease up, unless it has ended before.
    pub(crate) fn detach(&self, lease: &Arc<Lease>) {
        self.state.write().leases.release(lease);
    }
}
