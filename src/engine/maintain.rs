//! Background work: checkpoints that are due, growth ahead of need, reclaim, and the mark of an idle store.

use super::{
    reclaim::Freed,
    state::{Engine, State},
};
use crate::{ErrorKind, Result, events::Event, sync::Signal, units::BLOCK_BYTES};
use std::{
    sync::atomic::Ordering::{Relaxed, SeqCst},
    time::Duration,
};

/// How long the maintenance thread waits for work before it takes the store to be idle.
const IDLE: Duration = Duration::from_millis(50);

/// How long writers have the file to themselves after a punch, which is of 4 MiB at most and takes about a millisecond.
const PAUSE: Duration = Duration::from_millis(4);

impl Engine {
    /// Frees what can be freed when space has run out.
    pub(crate) fn free_space(&self) -> Result<Freed> {
        let before = self.state.read().forest.space.available();
        let freed = |state: &State| state.forest.space.available() > before;
        self.checkpoint()?;
        // A host without space has it again.
        self.punch_all()?;
        while self.has_reclaim() && !freed(&self.state.read()) {
            let done = self.reclaim(256)?;
            self.checkpoint()?;
            if done == 0 && self.reclaim(1)? == 0 {
                break;
            }
        }
        let state = self.state.read();
        let space = &state.forest.space;
        let (read, viewed) = (space.held_by_reads(), space.held_by_views());
        let held = viewed + read.iter().map(|r| u64::from(r.len)).sum::<u64>();
        Ok(if freed(&state) || space.waiting() > held {
            Freed::Some
        } else if !read.is_empty() {
            Freed::Read(read.to_vec())
        } else if viewed > 0 {
            Freed::Viewed(viewed)
        } else {
            Freed::Nothing
        })
    }
    fn has_reclaim(&self) -> bool {
        self.state.read().has_reclaim()
    }

    /// Runs one bounded step of all work that is due. Returns whether there is more.
    pub(crate) fn maintain(&self, budget: usize) -> Result<bool> {
        let _delivery = self.delivery();
        self.check_process()?;
        let (due, grows) = {
            let state = self.view()?;
            (state.is_due(&self.config), state.wants_growth(&self.config))
        };
        if grows && !self.config.manual {
            match self.reserve_space(1) {
                Err(e) if e.kind() != ErrorKind::NoSpace => return Err(e),
                _ => {}
            }
        }
        if due {
            self.checkpoint()?;
        }
        let punched = self.punch_behind()?;
        let done = if self.has_reclaim() { self.reclaim(budget)? } else { 0 };
        if done == 0 && self.has_reclaim() {
            // What is left was doomed in this generation, or there is no space for the nodes that its removal needs.
            self.checkpoint()?;
            return Ok(self.reclaim(1)? > 0);
        }
        if done == 0 && self.state.read().reclaimed {
            self.checkpoint()?;
            return Ok(false);
        }
        Ok(done > 0 || punched)
    }

    /// Punches the next run that may be. Returns `None` if there is none, or the number of bytes.
    fn punch_next(&self) -> Result<Option<u64>> {
        let mut punch = self.reserving.lock();
        let durable = self.state.read().forest.space.durable();
        let Some(next) = punch.iter().position(|(generation, _)| *generation <= durable) else { return Ok(None) };
        let (_, run) = punch.swap_remove(next);
        // A run whose counts can't be read is not punched.
        let is_returned = self.last_step(|state| state.forest.space.is_returned(run)).unwrap_or(false);
        let bytes = u64::from(run.len) * BLOCK_BYTES;
        let punched = is_returned && self.disk.punch(run.start.offset(), bytes)?;
        Ok(Some(if punched { bytes } else { 0 }))
    }
    /// Punches all runs that may be.
    pub(super) fn punch_all(&self) -> Result<()> {
        let mut punched = 0;
        let outcome = loop {
            match self.punch_next() {
                Ok(Some(bytes)) => punched += bytes,
                Ok(None) => break Ok(()),
                Err(e) => break Err(e),
            }
        };
        if punched > 0 {
            self.config.events.note(|| Event::Punched { bytes: punched });
        }
        outcome
    }
    /// Punches one run, and leaves the file to writers for a while if there are any: they can't write while the host punches. Returns whether
    /// there may be more.
    fn punch_behind(&self) -> Result<bool> {
        let before = self.disk.written_blocks.load(Relaxed);
        let Some(bytes) = self.punch_next()? else { return Ok(false) };
        if bytes > 0 {
            self.config.events.note(|| Event::Punched { bytes });
            if self.punched_at.swap(before, Relaxed) != before {
                // No sleep: a jail that allows what a lock needs allows this.
                Signal::default().wait(PAUSE, || false);
            }
        }
        Ok(true)
    }

    /// Returns once nothing is doomed any more and its space is free.
    pub(crate) fn wait_reclaimed(&self) -> Result<()> {
        let _delivery = self.delivery();
        self.disk.writes_allowed()?;
        while self.maintain(256)? {}
        self.checkpoint()?;
        while self.punch_behind()? {}
        Ok(())
    }

    /// Wakes the maintenance thread if it rests, after an operation that may have left work for it.
    pub(crate) fn rouse(&self) {
        if self.resting.load(SeqCst) {
            self.maintenance.ring();
        }
    }

    /// The body of the maintenance thread. It runs whenever its bell rings, and once more when the store has become idle; after that it
    /// sleeps, at no cost, until an operation wakes it.
    pub(crate) fn maintain_behind(&self) {
        let mut rested = false;
        while !self.stopping.load(SeqCst) && !self.disk.is_poisoned() {
            let idle = !self.maintenance.wait(if rested { Duration::MAX } else { IDLE });
            self.wakeups.fetch_add(1, Relaxed);
            self.resting.store(false, SeqCst);
            if self.stopping.load(SeqCst) {
                return;
            }
            let _delivery = self.delivery();
            let before = self.state.read().activity;
            let more = match self.maintain(64) {
                Ok(more) => more,
                Err(e) => {
                    self.tell(e.at("maintenance"));
                    false
                }
            };
            if more {
                self.maintenance.ring();
            }
            rested = false;
            if idle && !more {
                if let Err(e) = self.mark() {
                    self.tell(e.at("the mark of an idle store"));
                }
                self.resting.store(true, SeqCst);
                // Work noted before this check is seen by it; whoever notes work after it sees that the thread rests.
                rested = self.state.read().activity == before;
                if !rested {
                    self.resting.store(false, SeqCst);
                }
            }
        }
    }

    /// The body of the write-behind thread. It is a thread of its own because the maintenance thread often waits for the medium, and staged
    /// data must not.
    pub(crate) fn write_behind(&self) {
        while !self.stopping.load(SeqCst) && !self.disk.is_poisoned() {
            self.behind.wait(Duration::MAX);
            let _delivery = self.delivery();
            let mut more = true;
            while more && !self.stopping.load(SeqCst) {
                more = self.spill_behind().unwrap_or(false);
            }
        }
    }
}
