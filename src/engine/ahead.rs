//! Read-ahead: of a volume that is read in order and that the host has not cached, what comes next is on its way before it is asked for.
//!
//! The host reads ahead in its file, where the next blocks of a volume that was overwritten at random are not. So what follows is looked up
//! in the volume's tree, and the host is told where it lies. Nothing of this is done for what is cached, nor for reads that follow no order.

use super::{
    read::{Parts, Source},
    state::Engine,
    translation::View,
};
use crate::{
    Result,
    units::{BLOCK_BYTES, Target},
};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Blocks that are looked up at once: at first, and at most.
const LEAST: u64 = 64;
const MOST: u64 = 1024;
/// Blocks of a run that the host reads ahead by itself, as it does in a file that is read in such pieces.
pub(super) const LARGE: u64 = 16;
/// No block.
const NONE: u64 = u64::MAX;

/// How far ahead a volume or snapshot is read.
pub(super) struct Ahead {
    /// The read that covers this block has the next part looked up.
    mark: AtomicU64,
    /// The block after the last one that was looked up ahead.
    end: AtomicU64,
    stream: Mutex<Stream>,
}

#[derive(Default)]
struct Stream {
    /// The block after the last read that had to wait for the medium.
    next: u64,
    /// Blocks that were looked up ahead at once, the last time.
    blocks: u64,
}

impl Default for Ahead {
    fn default() -> Ahead {
        Ahead { mark: AtomicU64::new(NONE), end: AtomicU64::new(0), stream: Mutex::default() }
    }
}

impl Engine {
    /// Has what follows a read of the blocks `from..to` fetched, if reads go that way. `waits`: this one has to wait for the medium.
    #[inline]
    pub(super) fn look_ahead(&self, target: Target, view: &View, from: u64, to: u64, waits: bool) {
        let mark = view.ahead.mark.load(Relaxed);
        if waits || (from <= mark && mark < to) {
            self.look_further(target, view, from, to);
        }
    }
    #[cold]
    fn look_further(&self, target: Target, view: &View, from: u64, to: u64) {
        let Some(mut stream) = view.ahead.stream.try_lock() else { return };
        let follows = std::mem::replace(&mut stream.next, to) == from;
        let end = view.ahead.end.load(Relaxed);
        let start = match view.ahead.mark.load(Relaxed) {
            mark if from <= mark && mark < to => end.max(to),
            // A read in the midst of what is on its way waits for that alone.
            _ if from >= end.saturating_sub(stream.blocks) && to <= end => return,
            _ if follows => {
                stream.blocks = 0;
                to
            }
            _ => return,
        };
        let blocks = (2 * stream.blocks).clamp(LEAST, MOST);
        let end = self.fetch_ahead(target, start, start.saturating_add(blocks)).unwrap_or(start);
        stream.blocks = end - start;
        view.ahead.end.store(end, Relaxed);
        // Half-way, so that the next part is on its way while this one is copied.
        view.ahead.mark.store(if end > start { start + (end - start) / 2 } else { NONE }, Relaxed);
    }
    /// Tells the host where the blocks from `from` to `to`, or the end, lie. Returns where that ends.
    fn fetch_ahead(&self, target: Target, from: u64, to: u64) -> Result<u64> {
        let mut parts = Parts::default();
        let end = self.lookup(|state| {
            let (root, size) = state.extent_root(target)?;
            let to = to.min(size.div_ceil(BLOCK_BYTES)).max(from);
            parts.clear();
            state.sources(root, from, to, &mut parts)?;
            Ok(to)
        })?;
        for run in parts.runs() {
            if self.disk.is_cold(run.start, run.len.into()) {
                self.disk.read_ahead(run.start, run.len.into());
            }
        }
        Ok(end)
    }
    /// Has the host fetch the small parts of a read all at once, unless they are on their way. Returns whether it may have to.
    pub(super) fn fetch_parts(&self, view: &View, parts: &Parts) -> bool {
        let mut waits = false;
        for part in &parts.list {
            if let Source::Disk(start, _) = part.source
                && part.blocks < LARGE
                && part.logical >= view.ahead.end.load(Relaxed)
                && self.disk.is_cold(start, part.blocks)
            {
                waits = true;
                self.disk.read_ahead(start, part.blocks);
            }
        }
        waits
    }
}
