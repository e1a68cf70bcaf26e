//! Write-behind: staged data goes to its place before its group closes, so that memory stays bounded.

use super::{
    staging::{Runs, Staged},
    state::{Config, Engine, PanicGuard, State},
};
use crate::{BLOCK, ErrorKind, Result, bytes, hint, units::Block};
use std::sync::Arc;

/// Bytes that the medium is asked to begin with at a time.
const PUSH: u64 = 1 << 20;

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
        self.note_unpushed(&runs);
        self.write_staged(runs)
    }

    /// Notes where data was written, near places as one.
    fn note_unpushed(&self, runs: &Runs) {
        if self.config.manual {
            return;
        }
        let mut unpushed = self.unpushed.lock();
        for (start, run) in runs.iter() {
            let (start, end) = (start.offset(), start.plus(run.blocks.into()).offset());
            match unpushed.back_mut() {
                Some((from, to)) if *to <= start && end - *from <= PUSH => *to = end,
                _ => unpushed.push_back((start, end)),
            }
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
        let Some((start, end)) = self.unpushed.lock().pop_front() else { return Ok(false) };
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
