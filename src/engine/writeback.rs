//! Write-behind: staged data goes to its place before its group closes, so that memory stays bounded; and the medium begins with all data that was
//! written ahead of its group while writers go on, so that the sync of the group finds little to do.
//!
//! Writers never wait for the medium here. How far they may run ahead of it is the host's decision, as for any file: it lets a program have
//! so much unwritten cache and no more. What it may cost the engine in memory is [`RANGES`].

use super::{
    staging::{Runs, Staged},
    state::{Config, Engine, PanicGuard, State},
};
use crate::{BLOCK, ErrorKind, Result, bytes, hint, space::Run, units::Block};
use std::{collections::VecDeque, sync::Arc};

/// Ranges that [`Unpushed`] keeps. The oldest beyond them are left to the next sync.
const RANGES: usize = 4096;

/// Where data was written that the medium was not asked to begin with, since a group was last closed.
#[derive(Default)]
pub(crate) struct Unpushed {
    ranges: VecDeque<(u64, u64)>,
    /// Length of all ranges.
    bytes: u64,
}

impl Unpushed {
    /// Notes a range, with the last one as one where they are near each other and no longer than `most` together.
    fn note(&mut self, start: u64, end: u64, most: u64) {
        match self.ranges.back_mut() {
            Some((from, to)) if *to <= start && end - *from <= most => {
                self.bytes += end - *to;
                *to = end;
            }
            _ => {
                if self.ranges.len() == RANGES {
                    self.take(0);
                }
                self.ranges.push_back((start, end));
                self.bytes += end - start;
            }
        }
    }
    /// Takes the oldest range while there are `enough` bytes.
    fn take(&mut self, enough: u64) -> Option<(u64, u64)> {
        if self.bytes < enough {
            return None;
        }
        let (start, end) = self.ranges.pop_front()?;
        self.bytes -= end - start;
        Some((start, end))
    }
}

impl Engine {
    /// Writes data out before its group closes: memory stays bounded.
    fn spill(&self) -> Result<()> {
        let _spilling = self.spilling.lock();
        let _guard = PanicGuard::new(&self.disk);
        self.disk.writes_allowed()?;
        let runs = {
            let mut state = self.state.write();
            if state.staging.bytes < self.config.spill_from() {
                return Ok(());
            }
            state.staging.take_ahead()
        };
        let places: Vec<_> = runs.iter().map(|(start, run)| Run { start, len: run.blocks }).collect();
        self.write_staged(runs)?;
        self.note_unpushed(places.into_iter());
        Ok(())
    }

    /// Notes where data was written, and has the write-behind thread begin with it once it is enough. All data goes this way
    /// that its group's sync does not follow at once.
    pub(super) fn note_unpushed(&self, runs: impl Iterator<Item = Run>) {
        if self.config.manual {
            return;
        }
        let enough = {
            let (mut unpushed, enough) = (self.unpushed.lock(), self.config.push_from());
            runs.for_each(|run| unpushed.note(run.start.offset(), run.start.plus(run.len.into()).offset(), enough));
            unpushed.bytes >= enough
        };
        if enough {
            self.behind.ring();
        }
    }

    /// Keeps the buffers of single blocks for writes to come: fresh memory would be faulted in page by page.
    pub(crate) fn keep_buffers(&self, runs: impl Iterator<Item = Staged>) {
        let mut free: Vec<_> = runs.map(|r| r.data).filter(|data| data.len() == BLOCK).collect();
        let mut buffers = self.buffers.lock();
        let room = (self.config.staged_most() / BLOCK).saturating_sub(buffers.len());
        let surplus = free.split_off(room.min(free.len()));
        buffers.append(&mut free);
        // Writers wait for the buffers, and need not wait until the surplus is gone.
        drop(buffers);
        drop(surplus);
    }
    /// A block in a buffer of its own.
    pub(crate) fn staged_block(&self, block: &[u8]) -> Arc<[u8]> {
        let kept = {
            let mut buffers = self.buffers.lock();
            let kept = buffers.pop();
            // The next one was last touched by another processor.
            if let Some(next) = buffers.last() {
                hint::prefetch(next, 0);
            }
            kept
        };
        if let Some(mut buffer) = kept
            // A reader may still hold it.
            && let Some(into) = Arc::get_mut(&mut buffer)
            && into.len() == block.len()
        {
            bytes::copy(block, into);
            return buffer;
        }
        block.into()
    }

    /// Writes what was taken out of staging. From then on it is read from the image.
    pub(super) fn write_staged(&self, runs: Arc<Runs>) -> Result<()> {
        let placed: Vec<_> = runs.iter().map(|(start, run)| (start, run.bytes())).collect();
        self.write_sorted(&placed)?;
        self.state.write().staging.written();
        self.keep_buffers(Arc::try_unwrap(runs).into_iter().flat_map(Runs::into_values));
        Ok(())
    }

    /// Writes buffers at ascending places, adjacent ones together.
    pub(crate) fn write_sorted(&self, placed: &[(Block, &[u8])]) -> Result<()> {
        let mut i = 0;
        while i < placed.len() {
            let start = placed[i].0.offset();
            let mut end = start;
            let mut bufs = Vec::new();
            while let Some((_, buf)) = placed.get(i).filter(|p| p.0.offset() == end) {
                bufs.push(*buf);
                end += buf.len() as u64;
                i += 1;
            }
            self.disk.write(start, &bufs)?;
        }
        Ok(())
    }

    /// Writes the open group, or its data, where either became long, so that neither grows without bound. By whoever made it so where there is no
    /// other thread for it, or where that does not keep up.
    pub(crate) fn relieve(&self) -> Result<()> {
        let (long, target) = {
            let log = &self.state.read().log;
            (if self.config.manual { log.is_long() } else { log.is_too_long() }, log.target())
        };
        // The operation itself has happened; a failure here poisons, and the next flush says so.
        if long { self.flush_to(target) } else { self.spill() }
    }
    /// [`Engine::relieve`] after an operation that was asked to. The operation has been applied: no answer may say that it was not.
    pub(crate) fn relieve_after(&self, relieve: bool) -> Result<()> {
        if !relieve {
            return Ok(());
        }
        match self.relieve() {
            // Closed, or poisoned by someone else, before anything could be written: the data stays where it is, and whoever asks for
            // it to be durable is told.
            Err(e) if matches!(e.kind(), ErrorKind::Closed | ErrorKind::Poisoned) => Ok(()),
            other => other,
        }
    }
    /// Writes out what is staged, by the write-behind thread, one step of it: between data it has the medium begin with what was written, so that
    /// later syncs find little to do. In short steps, since the medium makes it wait. `false`: there is no more.
    pub(crate) fn spill_behind(&self) -> Result<bool> {
        self.spill()?;
        // Errors of the medium show at this description once: no checkpoint may sync through it meanwhile (I6). It rings when it is over.
        let Some(_checkpointer) = self.checkpointer.try_lock() else { return Ok(false) };
        let Some((start, end)) = self.unpushed.lock().take(self.config.push_from()) else { return Ok(false) };
        self.disk.push(start, end - start)?;
        Ok(true)
    }
}

impl State {
    /// Whether so much is to relieve that nobody may add to it.
    pub(crate) fn is_too_long(&self, config: &Config) -> bool {
        self.staging.bytes >= config.staged_most() || self.log.is_too_long()
    }
}

#[cfg(test)]
mod tests {
    use super::{RANGES, Unpushed};

    #[test]
    fn ranges_become_one_while_they_are_near_and_short() {
        let mut unpushed = Unpushed::default();
        for (start, end) in [(0, 40), (40, 60), (70, 100), (100, 110), (90, 95)] {
            unpushed.note(start, end, 100);
        }
        // A gap is as good as data; what lies before the last range begins another.
        assert_eq!(unpushed.bytes, 115);
        assert_eq!(unpushed.take(116), None, "too little to begin with");
        assert_eq!(
            [115, 15, 5, 0].map(|enough| unpushed.take(enough)),
            [Some((0, 100)), Some((100, 110)), Some((90, 95)), None]
        );
        assert_eq!(unpushed.bytes, 0);
    }

    #[test]
    fn a_medium_that_does_not_keep_up_costs_no_more_than_so_many_ranges() {
        let mut unpushed = Unpushed::default();
        (0..2 * RANGES as u64).for_each(|i| unpushed.note(i * 100, i * 100 + 1, 10));
        assert_eq!((unpushed.ranges.len(), unpushed.bytes), (RANGES, RANGES as u64));
        assert_eq!(unpushed.take(1), Some((RANGES as u64 * 100, RANGES as u64 * 100 + 1)), "the oldest went");
    }
}
