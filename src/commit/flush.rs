//! Group commit: staged data, the group's log pages, one sync.

use super::{
    data::{Runs, Staged},
    engine::{Config, Engine, Flusher, PanicGuard, Room, State},
    log::{Group, page_block},
    ops::Op,
};
use crate::{
    BLOCK, ErrorKind, Result, bytes,
    codec::RECORD_MAX,
    hint,
    io::Lane,
    sync::MutexGuard,
    units::{BLOCK_BYTES, Block},
};
use std::sync::Arc;

/// Staged bytes, at most, that writers leave to the write-behind thread: who makes them more writes them out.
const SPILL_BEHIND: u64 = 32 << 20;
/// Bytes that the medium is asked to begin with at a time.
const PUSH: u64 = 1 << 20;

impl Engine {
    /// Makes durable everything that returned before. Concurrent callers share one sync; without anything new there is
    /// none.
    pub(crate) fn flush(&self) -> Result<()> {
        let target = {
            let state = self.view()?;
            self.disk.writes_allowed()?;
            state.log.target()
        };
        self.flush_to(target)
    }

    /// Makes durable what the caller itself has just applied. It says `Io` where it can't, never that nothing was applied: a store
    /// that is closed meanwhile takes everything along that was applied before.
    pub(crate) fn flush_applied(&self) -> Result<()> {
        let target = self.state.read().log.target();
        self.flush_to(target)
    }

    /// Makes the group `target` durable.
    pub(crate) fn flush_to(&self, target: u64) -> Result<()> {
        let mut flusher = self.flusher.lock();
        if flusher.acked >= target {
            return Ok(());
        }
        if self.disk.is_poisoned() {
            return Err(self.disk.lost());
        }
        match self.commit_group(&mut flusher) {
            // Poisoned by someone else meanwhile: what was applied before may or may not be durable.
            Err(e) if e.kind() == ErrorKind::Poisoned => Err(self.disk.lost()),
            other => other,
        }
    }

    /// Closes the open group and makes it durable.
    pub(crate) fn commit_group(&self, flusher: &mut Flusher) -> Result<()> {
        let spilling = self.spilling.lock();
        let _guard = PanicGuard::new(&self.disk);
        // After a failed spill its data is still staged, and only there.
        if self.disk.is_poisoned() {
            return Err(self.disk.lost());
        }
        let (group, runs) = {
            let mut state = self.state.write();
            match state.inline_data() {
                Some(blocks) => {
                    state.staging.close_logged(blocks);
                    (state.log.close(), Arc::default())
                }
                None => (state.log.close(), state.staging.take()),
            }
        };
        self.write_group(flusher, spilling, group, runs)
    }

    /// Writes a closed group with its data, syncs, and has it counted as acknowledged.
    pub(crate) fn write_group(
        &self,
        flusher: &mut Flusher,
        spilling: MutexGuard<'_, ()>,
        group: Option<Group>,
        runs: Arc<Runs>,
    ) -> Result<()> {
        self.write_staged(runs)?;
        self.unpushed.lock().clear();
        // What is staged from here on belongs to the next group, and may be written while this one is synced.
        drop(spilling);
        if let Some(group) = group {
            let pages = &mut flusher.pages;
            let hash = group.encode(&self.uuid, self.hash_key, self.epoch, flusher.previous, pages);
            self.write_log(group.position, pages)?;
            self.disk.sync(Lane::Flush)?;
            (flusher.previous, flusher.acked) = (hash, group.number);
            flusher.pages.shrink_to(RECORD_MAX);
            let mut state = self.state.write();
            state.log.keep(group.bytes);
            state.activity += 1;
            drop(state);
            // A group that no other follows has to be marked.
            self.rouse();
        }
        Ok(())
    }

    fn write_log(&self, position: u64, pages: &[u8]) -> Result<()> {
        let ring = self.config.log_pages;
        let before_the_end = (ring - position % ring).saturating_mul(BLOCK_BYTES);
        let (first, rest) = pages.split_at(pages.len().min(before_the_end as usize));
        self.disk.write(page_block(position, ring).offset(), &[first])?;
        if rest.is_empty() { Ok(()) } else { self.disk.write(page_block(0, ring).offset(), &[rest]) }
    }

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
    fn write_staged(&self, runs: Arc<Runs>) -> Result<()> {
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

    /// Writes the empty group, without a sync: once it is on disk, damage to the last group can't pass for a torn tail.
    pub(crate) fn mark(&self) -> Result<()> {
        let mut flusher = self.flusher.lock();
        self.disk.writes_allowed()?;
        let group = {
            let mut state = self.state_mut()?;
            // Only an acknowledged group may be proved.
            if flusher.acked + 1 != state.log.group {
                return Ok(());
            }
            state.log.mark()
        };
        let Some(group) = group else { return Ok(()) };
        let Flusher { previous, pages, .. } = &mut *flusher;
        group.encode(&self.uuid, self.hash_key, self.epoch, *previous, pages);
        self.write_log(group.position, pages)
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
    pub(crate) fn relieve_after(&self, room: &Room) -> Result<()> {
        if !room.relieve {
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

impl Config {
    /// Staged bytes to which nobody may add: whoever made them so many writes them out.
    fn staged_most(&self) -> usize {
        (self.memory / 2).clamp(1 << 20, SPILL_BEHIND) as usize
    }
    /// Staged bytes that are written out ahead of their group. Not fewer: who writes them out takes the state's lock for it.
    pub(crate) fn spill_from(&self) -> usize {
        match self.knobs.ahead {
            0 => self.staged_most() / 8,
            blocks => blocks as usize * BLOCK,
        }
    }
}

impl State {
    /// Puts the data of the open group, where it is little and all of it is in memory, into the group itself: one write beside the other pages
    /// instead of one more at each block's place. Gives the blocks.
    fn inline_data(&mut self) -> Option<Vec<(u64, Arc<[u8]>)>> {
        if self.log.is_empty() {
            return None;
        }
        let blocks = self.staging.whole(self.knobs.inline)?;
        let ops: Vec<Op> = blocks.iter().map(|(at, bytes)| Op::Data { at: *at, bytes: bytes.clone() }).collect();
        // A record that is too long, or finds no room in the ring, is no failure: the data goes to its place.
        self.log.append_data(&ops).unwrap_or(false).then_some(blocks)
    }
    /// Whether so much is to relieve that nobody may add to it.
    pub(crate) fn is_too_long(&self, config: &Config) -> bool {
        self.staging.bytes >= config.staged_most() || self.log.is_too_long()
    }
}
