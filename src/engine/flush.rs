//! Group commit: staged data, the group's log pages, one sync.

use super::{
    staging::Outside,
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

/// Ranges of data that one group is synced with alone. Each costs two system calls.
const RANGES: usize = 64;

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
        let (group, outside) = {
            let mut state = self.state.write();
            if let Some(blocks) = state.inline_data() {
                state.staging.close_logged(blocks);
            }
            (state.log.close(), state.staging.take())
        };
        self.write_group(flusher, spilling, group, outside)
    }

    /// Writes a closed group with the data that it names outside the log, makes both durable, and has it counted as acknowledged. Every group
    /// before it was acknowledged, so that it needs its own pages and its own data on the medium and nothing else: where these are known and
    /// few, it does not wait for what checkpoints have on their way.
    pub(crate) fn write_group(
        &self,
        flusher: &mut Flusher,
        spilling: MutexGuard<'_, ()>,
        group: Option<Group>,
        outside: Outside,
    ) -> Result<()> {
        let Outside { runs, ahead } = outside;
        let can_be_alone = !ahead && (runs.is_empty() || self.is_medium_busy());
        let alone = can_be_alone.then(|| runs.ranges()).filter(|ranges| ranges.len() <= RANGES);
        if !runs.is_empty() {
            self.write_staged(runs)?;
        }
        if alone.is_none() {
            // The sync asks for all of it.
            *self.unpushed.lock() = Default::default();
        }
        // What is staged from here on belongs to the next group, and may be written while this one is synced.
        drop(spilling);
        if let Some(group) = group {
            let pages = &mut flusher.pages;
            let hash = group.encode(&self.uuid, self.hash_key, self.epoch, flusher.previous, pages);
            match (self.place_in_ring(group.position, pages), alone) {
                ([(at, whole), (_, [])], Some(with)) => self.disk.write_synced(Lane::Flush, at, whole, &with)?,
                (parts, _) => {
                    self.write_log(parts)?;
                    self.disk.sync(Lane::Flush)?;
                }
            }
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

    /// Whether a sync of everything would wait for more than one group's data: for a checkpoint, or for fresh space that is written.
    fn is_medium_busy(&self) -> bool {
        self.config.knobs.busy || self.checkpointer.is_locked() || self.reserving.is_locked()
    }

    /// Divides a group's pages at the end of the ring. Each part comes with its offset in the image.
    fn place_in_ring<'a>(&self, position: u64, pages: &'a [u8]) -> [(u64, &'a [u8]); 2] {
        let ring = self.config.log_pages;
        let before_the_end = (ring - position % ring).saturating_mul(BLOCK_BYTES);
        let (first, rest) = pages.split_at(pages.len().min(before_the_end as usize));
        [(page_block(position, ring).offset(), first), (page_block(0, ring).offset(), rest)]
    }
    fn write_log(&self, parts: [(u64, &[u8]); 2]) -> Result<()> {
        parts.into_iter().filter(|part| !part.1.is_empty()).try_for_each(|(at, part)| self.disk.write(at, &[part]))
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
        self.write_log(self.place_in_ring(group.position, pages))
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
