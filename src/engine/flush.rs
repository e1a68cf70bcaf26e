//! Group commit: staged data, the group's log pages, one sync.

use super::{
    staging::Runs,
    state::{Engine, Flusher, PanicGuard, State},
};
use crate::{
    ErrorKind, Result,
    codec::RECORD_MAX,
    io::Lane,
    log::{Group, Op, page_block},
    sync::MutexGuard,
    units::BLOCK_BYTES,
};
use std::sync::Arc;

impl Engine {
    /// Makes durable everything that returned before. Concurrent callers share one sync; without anything new there is
    /// none.
    pub(crate) fn flush(&self) -> Result<()> {
        let _delivery = self.delivery();
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
        let _delivery = self.delivery();
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
        // The sync asks for all of it.
        *self.unpushed.lock() = Default::default();
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

    /// Writes the empty group, without a sync: once it is on disk, damage to the last group can't pass for a torn tail.
    pub(crate) fn mark(&self) -> Result<()> {
        let _delivery = self.delivery();
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
}

impl State {
    /// Puts the data of the open group, where it is little and all of it is in memory, into the group itself: one write beside the other pages
    /// instead of one more at each block's place. Returns the blocks.
    fn inline_data(&mut self) -> Option<Vec<(u64, Arc<[u8]>)>> {
        if self.log.is_empty() {
            return None;
        }
        let blocks = self.staging.whole(self.knobs.inline)?;
        let ops: Vec<Op> = blocks.iter().map(|(at, bytes)| Op::Data { at: *at, bytes: bytes.clone() }).collect();
        // A record that is too long, or finds no room in the ring, is no failure: the data goes to its place.
        self.log.write_data(&ops).then_some(blocks)
    }
}
