//! The loops in which the state is looked up and changed. Whatever happens under the state's lock happens in memory; what a step lacks is
//! fetched with no lock held, and the step begins again.

use super::{
    reclaim::Freed,
    state::{Engine, PanicGuard, State, closed},
};
use crate::{
    Error, ErrorKind, Result,
    codec::ENVELOPE,
    events::Event,
    format::{LOG_PAYLOAD, Page},
    lack::{Lack, Miss, PageRef, Step, Stop},
    space::{self, Hold, Reservation, Run},
    sync::{RwLockReadGuard, RwLockWriteGuard},
    tree::{Cached, Loaded, decode_node},
    units::{BLOCK_BYTES, Target},
};
use smallvec::SmallVec;
use std::{ops::ControlFlow, sync::atomic::Ordering::Relaxed};

/// Rounds of freeing space after which an operation fails.
const ROUNDS: u32 = 1000;

/// Runs that were allocated for one operation.
pub(crate) type Taken = SmallVec<[Run; 2]>;

/// Which free blocks an operation may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Claim {
    /// All blocks but the reserve.
    Ordinary,
    /// The reserve too, since the operation frees space.
    Freeing,
}

/// Something that changes the state.
pub(crate) trait Request {
    /// What a successful attempt returns.
    type Made;
    /// Reads what the attempt relies on, unless that was read before and is still valid. Called with no lock held.
    fn prepare(&mut self) -> Result<()> {
        Ok(())
    }
    /// Releases the blocks that it keeps from reuse because of what it has read: it is about to wait for space, and would wait for itself.
    fn release(&mut self) {}
    /// One attempt, under the state's lock. If it stops, everything that it changed is undone. `any`: it may take scattered blocks.
    fn attempt(&mut self, state: &mut State, any: bool) -> Step<Self::Made>;
}

/// The outcome of a request that was carried out.
pub(crate) struct Changed<T> {
    pub(crate) made: T,
    /// Too much is staged or logged: this caller writes some of it out before it returns.
    pub(crate) relieve: bool,
}

/// Retry state of a request that needs free blocks.
#[derive(Default)]
struct Room {
    /// Scattered blocks may be taken.
    any: bool,
    /// It has waited, once, for a checkpoint that makes freed space allocatable.
    recycled: bool,
    rounds: u32,
    /// The host's last refusal.
    refused: Option<Error>,
}

/// What was read for one step. It stays with the step until that succeeds, so that no other reader can evict it meanwhile.
#[derive(Default)]
pub(super) struct Fetched {
    nodes: Loaded,
    pages: Vec<(PageRef, Box<Page>)>,
}

impl Fetched {
    /// Lends what was read to the state.
    fn lend(&mut self, state: &mut State) -> Result<()> {
        if !self.nodes.is_empty() {
            std::mem::swap(&mut state.forest.guests, &mut self.nodes);
        }
        self.pages.iter().try_for_each(|(page, bytes)| state.forest.space.install(*page, bytes))
    }
    /// Takes the nodes back. Once the step has succeeded, they go to the cache.
    fn settle(&mut self, state: &mut State, done: bool) {
        if state.forest.guests.is_empty() {
            return;
        }
        std::mem::swap(&mut state.forest.guests, &mut self.nodes);
        if done {
            std::mem::take(&mut self.nodes).into_nodes().for_each(|node| state.forest.cache.insert(node));
        }
    }
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

    /// Locks the state of an open store for reading.
    pub(crate) fn view(&self) -> Result<RwLockReadGuard<'_, State>> {
        self.check_process()?;
        let state = self.state.read();
        if state.closed { Err(closed()) } else { Ok(state) }
    }
    /// Locks the state of an open store for changes to what is only in memory.
    pub(crate) fn state_mut(&self) -> Result<RwLockWriteGuard<'_, State>> {
        self.check_process()?;
        let mut state = self.state.write();
        state.evict_records();
        if state.closed { Err(closed()) } else { Ok(state) }
    }

    // ---- fetching

    /// Keeps a node's block from reuse while it is read. The caller holds the lock under which the node was found to be lacking.
    fn hold_for(&self, lack: Lack) -> Option<Hold<'_>> {
        match lack {
            Lack::Node(miss) | Lack::Neighbour(miss) => {
                Some(self.reading.hold([Run { start: miss.child.block, len: 1 }]))
            }
            _ => None,
        }
    }
    fn read_node(&self, want: &Miss) -> Result<Cached> {
        decode_node(&*self.disk.read_page(want.child.block)?, &self.uuid, want)
    }
    /// Fetches what a step lacks. Space and room in the log are supplied by [`Engine::change`] alone.
    pub(super) fn fetch(&self, lack: Lack, fetched: &mut Fetched) -> Result<()> {
        match lack {
            Lack::Node(want) => fetched.nodes.insert(self.read_node(&want)?),
            Lack::Neighbour(want) => match self.read_node(&want) {
                Ok(node) => fetched.nodes.insert(node),
                Err(_) => {
                    self.state.write().forest.unreadable.insert(want.child.block.0);
                }
            },
            Lack::Page(page) => match self.disk.read_page(page.at) {
                Ok(bytes) => {
                    fetched.pages.push((page, bytes));
                    self.state.write().forest.space.make_way(self.config.map_pages());
                }
                // Another page is current by now, and will be read instead.
                Err(_) if !self.state.read().forest.space.wants(page) => {}
                Err(e) => return Err(e),
            },
            Lack::Record(target) => self.load_record(target)?,
            Lack::Reread => {}
            Lack::Space(_) | Lack::Log(_) => {
                return Err(Error::corrupt("a step that takes no space lacks some"));
            }
        }
        Ok(())
    }
    fn load_record(&self, target: Target) -> Result<()> {
        self.step(|state| match target {
            Target::Volume(id) => state.volume_record(id).map(drop),
            Target::Snapshot(id) => state.snapshot_record(id).map(drop),
        })
    }

    // ---- looking up, and small changes of what is only in memory

    /// Runs a lookup under the shared lock until it lacks nothing.
    pub(crate) fn lookup<T>(&self, mut f: impl FnMut(&State) -> Step<T>) -> Result<T> {
        loop {
            match self.try_lookup(&mut f)? {
                ControlFlow::Break(found) => return Ok(found),
                ControlFlow::Continue(node) => {
                    if let Some(node) = node {
                        self.state.write().forest.cache.insert(node);
                    }
                }
            }
        }
    }
    /// One attempt at a lookup. Returns what it found, or that it lacked something, which was fetched; a fetched node is returned for the
    /// caller to keep.
    pub(super) fn try_lookup<T>(&self, f: impl FnOnce(&State) -> Step<T>) -> Result<ControlFlow<T, Option<Cached>>> {
        let state = self.view()?;
        let lack = match f(&state) {
            Ok(found) => return Ok(ControlFlow::Break(found)),
            Err(Stop::Failed(e)) => return Err(e),
            Err(Stop::Lack(lack)) => lack,
        };
        let _hold = self.hold_for(lack);
        drop(state);
        if let Lack::Node(want) = lack {
            return Ok(ControlFlow::Continue(Some(self.read_node(&want)?)));
        }
        self.fetch(lack, &mut Fetched::default())?;
        Ok(ControlFlow::Continue(None))
    }
    /// Runs a step as a whole under the exclusive lock until it lacks nothing.
    pub(crate) fn step<T>(&self, f: impl FnMut(&mut State) -> Step<T>) -> Result<T> {
        self.step_on(Engine::state_mut, f)
    }
    /// [`Engine::step`], also for a store that is being closed.
    pub(crate) fn last_step<T>(&self, f: impl FnMut(&mut State) -> Step<T>) -> Result<T> {
        self.step_on(|engine| Ok(engine.state.write()), f)
    }
    fn step_on<'a, T>(
        &'a self,
        lock: impl Fn(&'a Engine) -> Result<RwLockWriteGuard<'a, State>>,
        mut f: impl FnMut(&mut State) -> Step<T>,
    ) -> Result<T> {
        let mut fetched = Fetched::default();
        loop {
            let mut state = lock(self)?;
            let (outcome, _hold) = self.try_step(&mut state, &mut fetched, &mut f);
            drop(state);
            match outcome {
                Ok(t) => return Ok(t),
                Err(Stop::Failed(e)) => return Err(e),
                Err(Stop::Lack(lack)) => self.fetch(lack, &mut fetched)?,
            }
        }
    }
    /// One attempt at a step. Also returns what keeps the block of a node that it lacks from reuse.
    pub(super) fn try_step<T>(
        &self,
        state: &mut State,
        fetched: &mut Fetched,
        f: impl FnOnce(&mut State) -> Step<T>,
    ) -> (Step<T>, Option<Hold<'_>>) {
        let lent = fetched.lend(state);
        let outcome = lent.map_err(Stop::from).and_then(|()| state.transact(f));
        fetched.settle(state, outcome.is_ok());
        let hold = match &outcome {
            Err(Stop::Lack(lack)) => self.hold_for(*lack),
            _ => None,
        };
        (outcome, hold)
    }

    // ---- changing

    /// Carries out a request: attempts follow each other until one has all that it needs from memory, from the log and from the host.
    pub(crate) fn change<R: Request>(&self, request: &mut R) -> Result<Changed<R::Made>> {
        let (mut room, mut fetched) = (Room::default(), Fetched::default());
        loop {
            request.prepare()?;
            self.check_process()?;
            self.disk.writes_allowed()?;
            let mut state = self.state.write();
            if state.closed {
                return Err(closed());
            }
            let guard = PanicGuard::new(&self.disk);
            if !state.counters_have_room() {
                return Err(Error::invalid("a counter of the image is near its end: copy its volumes to a new image"));
            }
            // A writer that would exceed the budget waits for a checkpoint first.
            let (outcome, hold) = if state.dirty_bytes() + state.frozen_bytes() > self.config.dirty_most() {
                (Err(Lack::Log(0).into()), None)
            } else {
                self.try_step(&mut state, &mut fetched, |state| request.attempt(state, room.any))
            };
            state.activity += 1;
            let made = match outcome {
                Ok(made) => made,
                Err(stop) => {
                    let recycle = state.knobs.recycle && state.forest.space.should_recycle();
                    drop(guard);
                    drop(state);
                    self.supply(stop, request, &mut room, &mut fetched, recycle)?;
                    drop(hold);
                    continue;
                }
            };
            let due = state.is_due(&self.config) || state.wants_growth(&self.config);
            let spills = state.staging.bytes >= self.config.spill_from();
            let long = spills || state.log.is_long();
            let relieve = long && (self.config.manual || state.is_too_long(&self.config));
            drop(state);
            self.nudge(due, spills);
            return Ok(Changed { made, relieve });
        }
    }

    /// Wakes the background threads for what a change left to them.
    fn nudge(&self, due: bool, spills: bool) {
        if due && !self.config.manual {
            self.maintenance.ring();
        }
        self.rouse();
        if spills && !self.config.manual {
            self.behind.ring();
        }
    }

    /// Supplies what an attempt lacked, with no lock held. `recycle`: a checkpoint that makes freed space allocatable is preferred to a
    /// larger image.
    fn supply<R: Request>(
        &self,
        stop: Stop,
        request: &mut R,
        room: &mut Room,
        fetched: &mut Fetched,
        recycle: bool,
    ) -> Result<()> {
        match stop {
            Stop::Failed(e) => Err(e),
            Stop::Lack(Lack::Reread) => Ok(()),
            Stop::Lack(Lack::Log(bytes)) => {
                self.log_room(bytes)?;
                self.checkpoint_for_log()
            }
            // Once only: others may take what that makes allocatable.
            Stop::Lack(Lack::Space(_)) if recycle && !room.recycled => {
                room.recycled = true;
                request.release();
                self.checkpoint()
            }
            Stop::Lack(Lack::Space(blocks)) => match self.reserve_space(blocks) {
                Ok(true) => Ok(()),
                // A full host is no reason to fail while the image itself has space to free.
                Err(e) if e.kind() != ErrorKind::NoSpace => Err(e),
                _ if !room.any => {
                    room.any = true;
                    Ok(())
                }
                outcome => {
                    room.refused = outcome.err();
                    request.release();
                    self.make_room(room)
                }
            },
            Stop::Lack(lack) => self.fetch(lack, fetched),
        }
    }

    /// Refuses a record that can never fit the ring.
    fn log_room(&self, bytes: usize) -> Result<()> {
        let most = (self.config.log_pages as usize - 2) * LOG_PAYLOAD;
        if bytes > most {
            return Err(Error::invalid(format!("a record of {} bytes: the log holds {most}", bytes + ENVELOPE)));
        }
        Ok(())
    }

    /// Frees space, or waits for reads that hold it. `NoSpace` if there is nothing to free.
    fn make_room(&self, room: &mut Room) -> Result<()> {
        room.rounds += 1;
        let held = match self.free_space()? {
            // What was freed may go to others, so that the number of rounds is bounded.
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
            // Not waited for: the view may belong to this very thread.
            n => refused.at(format_args!("{n} freed blocks are held until a check or a scrub has ended")),
        })
    }

    /// Asks the host for space. Returns `Ok(false)` if the image is at its limit.
    pub(crate) fn reserve_space(&self, blocks: u64) -> Result<bool> {
        let mut punch = self.reserving.lock();
        let Some(mut reserving) = self.step(|state| state.forest.space.next_reservation(blocks))? else {
            return Ok(false);
        };
        let geometry = self.state.read().forest.space.geometry();
        loop {
            let (start, end) = match reserving {
                Reservation::Grow { from, to } => (geometry.start(from), geometry.start(to)),
                Reservation::Again(run) => (run.start, run.start.plus(run.len.into())),
            };
            match self.disk.reserve(start.offset(), end.offset() - start.offset()) {
                Ok(()) => break,
                // The host may still have space for fewer regions.
                Err(e) if e.kind() == ErrorKind::NoSpace => match &mut reserving {
                    Reservation::Grow { from, to } if *to - *from > 1 => *to = *from + (*to - *from) / 2,
                    _ => {
                        self.state_mut()?.forest.space.crowded = true;
                        return Err(e);
                    }
                },
                Err(e) => return Err(e),
            }
        }
        if self.config.write_fresh {
            // Fresh space is written before it can be allocated, so that data in it depends on no sync but its own.
            let (from, len) = match reserving {
                Reservation::Grow { from, to } => (geometry.start(from), (to - from) * u64::from(geometry.span)),
                Reservation::Again(run) => (run.start, run.len.into()),
            };
            let bytes = self.disk.write_fresh(from.offset(), len * BLOCK_BYTES)?;
            self.fresh_written.fetch_add(bytes, Relaxed);
        }
        if let Reservation::Again(run) = reserving {
            *punch = punch.drain(..).flat_map(|(g, r)| r.without(run).into_iter().map(move |r| (g, r))).collect();
        }
        self.step(|state| state.forest.space.reserved(reserving))?;
        self.config.events.note(|| {
            let bytes = match reserving {
                Reservation::Grow { from, to } => geometry.start(to).offset() - geometry.start(from).offset(),
                Reservation::Again(run) => u64::from(run.len) * BLOCK_BYTES,
            };
            Event::Grown { bytes }
        });
        Ok(true)
    }
}
