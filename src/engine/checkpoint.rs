//! Checkpoints: what the log says is written to its home, while writers go on.
//!
//! A checkpoint commits the open group and freezes the state at that boundary. It writes nodes to free blocks, count pages to the homes that
//! are not current, and data that only the log has to its place; it syncs, writes the superblock, and syncs again. Only then is the log
//! released, do the new homes become current, and may freed blocks be used again (I5).

use super::{
    staging::{Logged, Outside},
    state::{Checkpointer, Engine, PanicGuard},
};
use crate::{
    Result,
    events::Event,
    format::{Page, SLOTS, Superblock},
    io::Lane,
    lack::Child,
    log::Group,
    space::FrozenSpace,
    tree::{Cached, Dirty, DirtyNodes},
    units::{Block, Stamp},
};
use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

/// Pages written before the host is asked to start writing them out.
const SLICE_PAGES: usize = 1024;

/// Regions whose free space is returned to the host after one checkpoint, beside those in which some was freed.
const SURPLUS: usize = 64;

/// Nodes added to the cache under one taking of the lock.
const FEW: usize = 64;

/// Everything that had changed at one group boundary: what one checkpoint writes.
struct Frozen {
    group: Option<Group>,
    outside: Outside,
    logged: Arc<Logged>,
    nodes: Arc<DirtyNodes>,
    space: FrozenSpace,
    next: Superblock,
}

impl Engine {
    /// Runs one checkpoint, unless nothing has changed since the last.
    pub(crate) fn checkpoint(&self) -> Result<()> {
        self.check_process()?;
        let mut checkpointer = self.checkpointer.lock();
        self.checkpoint_with(&mut checkpointer, false)
    }

    /// Runs a checkpoint because the log is full, unless another thread has just finished one.
    pub(crate) fn checkpoint_for_log(&self) -> Result<()> {
        let tail = self.state.read().log.tail;
        let mut checkpointer = self.checkpointer.lock();
        if self.state.read().log.tail != tail {
            return Ok(());
        }
        self.checkpoint_with(&mut checkpointer, false)
    }

    /// Runs one checkpoint. `clean`: it is the last of this opening.
    pub(crate) fn checkpoint_with(&self, checkpointer: &mut Checkpointer, clean: bool) -> Result<()> {
        self.disk.writes_allowed()?;
        let _guard = PanicGuard::new(&self.disk);
        let mut flusher = self.flusher.lock();
        let spilling = self.spilling.lock();
        self.disk.writes_allowed()?;
        let Some(Frozen { group, outside, logged, nodes, mut space, mut next }) = self.freeze(checkpointer, clean)
        else {
            drop(spilling);
            drop(flusher);
            return self.after_checkpoint();
        };
        self.config.events.note(|| Event::CheckpointStarted);
        let began = self.config.events.is_wanted().then(|| self.host.now());
        self.write_group(&mut flusher, spilling, group, outside)?;
        next.log_hash = flusher.previous;
        drop(flusher);

        self.write_nodes(&nodes)?;
        let counts = self.write_counts(&mut space)?;
        // Nobody can look up what was freed before the freeze; what is freed later stays in quarantine.
        let kept = logged.iter().map(|(&block, run)| (Block(block), run.bytes()));
        let kept: Vec<_> = kept.filter(|(block, _)| !space.has_freed(*block)).collect();
        let pages = (nodes.len() + counts + kept.len()) as u64;
        self.write_slices(kept)?;
        (next.index_stamp, next.index_home) = space.top_stamp();
        self.disk.sync(Lane::Checkpoint)?;
        self.write_superblock(checkpointer, next)?;
        self.config.events.note(|| {
            let nanos = began.map_or(0, |began| self.host.now().saturating_sub(began));
            Event::CheckpointFinished { duration: Duration::from_nanos(nanos), pages }
        });

        self.cache_nodes(&nodes);
        self.thaw(checkpointer, space);
        self.keep_buffers(Arc::try_unwrap(logged).into_iter().flat_map(Logged::into_values));
        self.after_checkpoint()
    }

    /// Freezes the state at a group boundary by copying O(changed regions) references. Returns `None` if nothing has changed since the last
    /// checkpoint.
    fn freeze(&self, checkpointer: &Checkpointer, clean: bool) -> Option<Frozen> {
        let old = &checkpointer.superblock;
        let mut state = self.state.write();
        let idle = state.log.is_empty() && state.log.position == old.log_position;
        if idle && state.forest.dirty.is_empty() && !state.forest.space.has_changes() && clean == old.clean {
            return None;
        }
        let group = state.log.close();
        let outside = state.staging.take();
        let logged = state.staging.home();
        let stamp = state.forest.stamp;
        let nodes = Arc::new(std::mem::take(&mut state.forest.dirty));
        state.forest.frozen = nodes.clone();
        state.frozen_counts = state.forest.space.changed_bytes();
        let space = state.forest.space.freeze(stamp.0);
        let generation = state.generation;
        state.generation += 1;
        state.forest.stamp = Stamp::new(state.generation, self.salt);
        state.log.records = 0;
        state.reclaimed = false;
        state.aside.retry();
        state.forest.unreadable.clear();
        state.evict_records();
        let next = Superblock {
            sequence: old.sequence + 1,
            epoch: self.epoch,
            generation,
            log_position: state.log.position,
            log_group: state.log.group - 1,
            catalog: state.catalog.into(),
            doomed: state.doomed,
            doom_sequence: state.doom_sequence,
            next_volume: state.next_volume,
            next_snapshot: state.next_snapshot,
            free: space.free,
            returned: space.returned,
            spans: space.spans,
            index_level: space.top,
            clean,
            ..old.clone()
        };
        Some(Frozen { group, outside, logged, nodes, space, next })
    }

    /// Adds the nodes that were just written to the cache, as far as there is room.
    fn cache_nodes(&self, nodes: &DirtyNodes) {
        let most = self.state.read().forest.cache.most;
        let at =
            |(&block, d): (&u64, &Dirty)| Cached::new(Child { block: Block(block), stamp: d.stamp }, d.node.clone());
        let mut kept: Vec<Cached> = nodes.iter().take(most).map(at).collect();
        while !kept.is_empty() {
            // A few at a time, since writers wait for the lock.
            let few = kept.split_off(kept.len().saturating_sub(FEW));
            let mut state = self.state.write();
            few.into_iter().for_each(|node| state.forest.cache.insert(node));
        }
    }

    /// Releases the log and makes what was frozen current, once the checkpoint is durable.
    fn thaw(&self, checkpointer: &Checkpointer, space: FrozenSpace) {
        let mut state = self.state.write();
        state.log.tail = checkpointer.superblock.log_position;
        state.log.used = state.log.position != state.log.tail || !state.log.is_empty();
        state.forest.space.thawed(space);
        state.forest.frozen = Arc::default();
        state.frozen_counts = 0;
        state.staging.homed();
    }

    /// Writes a superblock to the slot that does not hold the newest one, syncs, and copies it to the other slot.
    pub(crate) fn write_superblock(&self, checkpointer: &mut Checkpointer, next: Superblock) -> Result<()> {
        let page = next.encode();
        let slot = checkpointer.slot;
        // All that it names was synced before.
        self.disk.write_synced(Lane::Checkpoint, SLOTS[slot].offset(), &page[..], &[])?;
        // The copy is not synced: it only protects the image from one bad page, and the next superblock replaces it after a sync.
        self.disk.write(SLOTS[1 - slot].offset(), &[&page[..]])?;
        checkpointer.superblock = next;
        checkpointer.slot = 1 - slot;
        Ok(())
    }

    /// Writes nodes to their blocks, one slice at a time.
    fn write_nodes(&self, nodes: &DirtyNodes) -> Result<()> {
        let mut order: Vec<u64> = nodes.keys().copied().collect();
        order.sort_unstable();
        for slice in order.chunks(SLICE_PAGES) {
            let pages: Vec<_> =
                slice.iter().map(|block| (Block(*block), nodes[block].encode(&self.uuid, Block(*block)))).collect();
            self.write_pages(&pages)?;
        }
        Ok(())
    }
    /// Writes count pages to the homes that are not current, one slice at a time, and then the index pages above them. Returns the number of
    /// pages.
    fn write_counts(&self, space: &mut FrozenSpace) -> Result<usize> {
        let mut done = 0;
        loop {
            let pages = space.encode_counts(&self.uuid, done, SLICE_PAGES);
            if pages.is_empty() {
                let index = space.encode_index(&self.uuid);
                self.write_pages(&index)?;
                return Ok(done + index.len());
            }
            self.write_pages(&pages)?;
            done += pages.len();
        }
    }
    fn write_pages(&self, pages: &[(Block, Box<Page>)]) -> Result<()> {
        self.write_slices(pages.iter().map(|(b, p)| (*b, &p[..])).collect())
    }

    /// Writes pages in order of place and asks the host to write each slice out, so that a flush never waits behind all of them.
    fn write_slices(&self, mut placed: Vec<(Block, &[u8])>) -> Result<()> {
        placed.sort_unstable_by_key(|p| p.0);
        for slice in placed.chunks(SLICE_PAGES) {
            self.write_sorted(slice)?;
            let (start, end) = (slice[0].0, slice[slice.len() - 1].0.plus(1));
            self.disk.push(start.offset(), end.offset() - start.offset())?;
        }
        Ok(())
    }

    /// Ends quarantines and marks long free runs as returned to the host. Those are punched after the next checkpoint: by the maintenance thread,
    /// one at a time; or here, where there is none or will be none any more.
    pub(crate) fn after_checkpoint(&self) -> Result<()> {
        let punch_from = self.config.punch_from;
        {
            let mut punch = self.reserving.lock();
            let mut state = self.state.write();
            let forest = &mut state.forest;
            punch.extend(forest.space.release(punch_from, &self.reading));
            forest.space.evict(self.config.map_pages());
        }
        for _ in 0..SURPLUS {
            let mut punch = self.reserving.lock();
            // A count page that can't be read is reported by whoever needs it.
            match self.last_step(|state| state.forest.space.return_surplus(punch_from)) {
                Ok(runs) if !runs.is_empty() => punch.extend(runs),
                _ => break,
            }
        }
        self.behind.ring();
        if self.config.manual || self.stopping.load(SeqCst) {
            return self.punch_all();
        }
        self.maintenance.ring();
        Ok(())
    }
}
