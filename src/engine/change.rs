//! The loops that look things up and that change them: both run under the state's lock and get what is lacking outside it.

use super::{
    reclaim::Freed,
    state::{Engine, PanicGuard, State, Target, closed},
};
use crate::{
    Error, ErrorKind, Result,
    space::{self, Giving, Run},
    sync::{RwLockReadGuard, RwLockWriteGuard},
    tree::{Found, read_node},
    units::BLOCK_BYTES,
};
use smallvec::SmallVec;
use std::sync::atomic::Ordering::Relaxed;

/// Rounds of freeing space that one operation goes through before it gives up.
const ROUNDS: u32 = 1000;

/// How an operation stands that looks for space.
#[derive(Default)]
pub(crate) struct Room {
    /// Scattered blocks have to do.
    any: bool,
    /// Space has to be freed before the next attempt.
    due: bool,
    /// What was freed has to become allocatable before the next attempt, rather than the image grow.
    recycle: bool,
    recycled: bool,
    rounds: u32,
    /// So much is to be written that the operation has to see to it.
    pub(crate) relieve: bool,
    /// What the host said last.
    refused: Option<Error>,
}

/// How far an attempt at an operation came.
pub(crate) enum Attempt<T> {
    Done(T),
    /// It needs this many blocks more than may be taken.
    Space(u64),
    /// The log has no room for its record.
    Log,
}

/// Runs that were taken for the blocks of one operation.
pub(crate) type Taken = SmallVec<[Run; 2]>;

/// Which free blocks an operation may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Claim {
    /// All but the reserve.
    Ordinary,
    /// The reserve too: the operation frees space.
    Freeing,
}

impl Engine {
    pub(crate) fn check_process(&self) -> Result<()> {
        if self.disk.same_process() {
            Ok(())
        } else {
            Err(Error::new(
                ErrorKind::WrongProcess,
                "the store was opened before a fork: open the image in this process",
            ))
        }
    }

    /// The state for reading, of a store that is open.
    pub(crate) fn view(&self) -> Result<RwLockReadGuard<'_, State>> {
        self.check_process()?;
        let state = self.state.read();
        if state.closed { Err(closed()) } else { Ok(state) }
    }
    /// The state for changing what is only in memory.
    pub(crate) fn state_mut(&self) -> Result<RwLockWriteGuard<'_, State>> {
        self.check_process()?;
        let mut state = self.state.write();
        state.trim_heads();
        if state.closed { Err(closed()) } else { Ok(state) }
    }

    /// Runs a lookup under the read lock; loads outside it what the lookup lacks, and asks again.
    pub(crate) fn lookup<T>(&self, mut f: impl FnMut(&State) -> Found<T>) -> Result<T> {
        loop {
            let state = self.view()?;
            let miss = match f(&state) {
                Ok(Ok(t)) => return Ok(t),
                Ok(Err(miss)) => miss,
                Err(e) => return Err(e),
            };
            // Keeps the node's block from reuse while it is read.
            let hold = self.reading.hold([Run { start: miss.child.block, len: 1 }]);
            drop(state);
            let node = read_node(&self.disk, &self.uuid, &miss)?;
            drop(hold);
            self.state.write().forest.cache.insert(node);
        }
    }

    /// Has a target's record in memory.
    pub(crate) fn load_head(&self, target: Target) -> Result<()> {
        if self.view()?.extent_root(target).is_ok() {
            return Ok(());
        }
        let mut state = self.state_mut()?;
        match target {
            Target::Volume(id) => state.head(id).map(drop),
            Target::Snapshot(id) => state.frozen_head(id).map(drop),
        }
    }

    /// [`Engine::lookup`] on a target whose record may have to be loaded first.
    pub(crate) fn with_head<T>(&self, target: Target, mut f: impl FnMut() -> Result<T>) -> Result<T> {
        loop {
            match f() {
                Err(e) if e.kind() == ErrorKind::NotFound => self.load_head(target)?,
                other => return other,
            }
        }
    }

    /// Runs `attempt` under the write lock until it is done, in between getting what it lacks from the host and the log. What it does must be
    /// all or nothing. `None`: space has to be freed first, which [`Engine::make_room`] does at the top of the caller's loop, once the caller
    /// holds no block (it would wait for itself).
    pub(crate) fn change<T>(
        &self,
        room: &mut Room,
        mut attempt: impl FnMut(&mut State, bool) -> Result<Attempt<T>>,
    ) -> Result<Option<T>> {
        loop {
            self.check_process()?;
            self.disk.writes_allowed()?;
            let mut state = self.state.write();
            if state.closed {
                return Err(closed());
            }
            let _guard = PanicGuard::new(&self.disk);
            if !state.counters_have_room() {
                return Err(Error::invalid("a counter of the image is near its end: copy its volumes to a new image"));
            }
            // Twice the budget: whoever changes more waits for a checkpoint first.
            let outcome = if state.dirty_bytes() > 2 * self.config.memory {
                Ok(Attempt::Log)
            } else {
                attempt(&mut state, room.any)
            };
            let due = state.is_due(&self.config) || state.wants_growth(&self.config);
            let lacks_space = matches!(outcome, Ok(Attempt::Space(_)));
            let recycle = lacks_space && !room.recycled && state.knobs.recycle && state.forest.space.should_recycle();
            let spills = state.staging.bytes >= self.config.spill_from();
            let long = spills || state.log.is_long();
            room.relieve = long && (self.config.manual || state.is_too_long(&self.config));
            state.activity += 1;
            drop(state);
            match outcome? {
                Attempt::Done(t) => {
                    if due && !self.config.manual {
                        self.maintenance.ring();
                    }
                    self.rouse();
                    if spills && !self.config.manual {
                        self.behind.ring();
                    }
                    return Ok(Some(t));
                }
                Attempt::Log => self.checkpoint_for_log()?,
                // Once: others may take what that makes allocatable.
                Attempt::Space(_) if recycle => {
                    room.recycle = true;
                    return Ok(None);
                }
                Attempt::Space(blocks) => match self.give_space(blocks) {
                    Ok(true) => {}
                    // A host that is full is no reason to give up while the image itself has space to free.
                    Err(e) if e.kind() != ErrorKind::NoSpace => return Err(e),
                    _ if !room.any => room.any = true,
                    outcome => {
                        room.refused = outcome.err();
                        room.due = true;
                        return Ok(None);
                    }
                },
            }
        }
    }

    /// Frees space if the last attempt asked for it; `NoSpace` if there is nothing to free.
    pub(crate) fn make_room(&self, room: &mut Room) -> Result<()> {
        if std::mem::take(&mut room.recycle) {
            room.recycled = true;
            return self.checkpoint();
        }
        if !std::mem::take(&mut room.due) {
            return Ok(());
        }
        room.rounds += 1;
        let held = match self.free_space()? {
            // What is freed may go to others: not for ever.
            Freed::Some if room.rounds < ROUNDS => return Ok(()),
            Freed::Read(runs) => {
                self.reading.wait_for(&runs);
                return Ok(());
            }
            Freed::Viewed(blocks) => blocks,
            Freed::Some | Freed::Nothing => 0,
        };
        let end = self.state.read().forest.space.end() / BLOCK_BYTES;
        let refused = room.refused.take().unwrap_or_else(|| space::no_space("no space left", end));
        Err(match held {
            0 => refused,
            // Not waited for: whoever looks at it may be this very thread.
            n => refused.at(format_args!("{n} freed blocks are held until a check, a scrub or statistics have ended")),
        })
    }

    /// Asks the host for space. `Ok(false)`: the image is at its limit.
    pub(crate) fn give_space(&self, blocks: u64) -> Result<bool> {
        let mut punch = self.giving.lock();
        let wanted = {
            let mut state = self.state_mut()?;
            let forest = &mut state.forest;
            forest.space.wanted(&forest.disk, blocks)?
        };
        let Some(mut giving) = wanted else { return Ok(false) };
        let geometry = self.state.read().forest.space.geometry();
        loop {
            let (start, end) = match giving {
                Giving::Grow { from, to } => (geometry.start(from), geometry.start(to)),
                Giving::Again(run) => (run.start, run.start.plus(run.len.into())),
            };
            match self.disk.reserve(start.offset(), end.offset() - start.offset()) {
                Ok(()) => break,
                // Less may still be had.
                Err(e) if e.kind() == ErrorKind::NoSpace => match &mut giving {
                    Giving::Grow { from, to } if *to - *from > 1 => *to = *from + (*to - *from) / 2,
                    _ => {
                        self.state_mut()?.forest.space.crowded = true;
                        return Err(e);
                    }
                },
                Err(e) => return Err(e),
            }
        }
        if self.config.write_fresh {
            // Before it can be taken: what goes there later must not depend on anything but its own sync.
            let (from, len) = match giving {
                Giving::Grow { from, to } => (geometry.start(from), (to - from) * u64::from(geometry.span)),
                Giving::Again(run) => (run.start, run.len.into()),
            };
            let bytes = self.disk.write_fresh(from.offset(), len * BLOCK_BYTES)?;
            self.fresh_written.fetch_add(bytes, Relaxed);
        }
        if let Giving::Again(run) = giving {
            *punch = punch.drain(..).flat_map(|(g, r)| r.without(run).into_iter().map(move |r| (g, r))).collect();
        }
        let mut state = self.state_mut()?;
        let forest = &mut state.forest;
        forest.space.given(&forest.disk, giving)?;
        Ok(true)
    }
}
