//! Blocks that an operation changes in part: they are read before the lock is taken, and must not have changed by then.

use crate::{
    BLOCK, Result,
    engine::{
        read::{Parts, Source},
        state::{Engine, State},
    },
    lack::Step,
    space::{Hold, Run},
    tree::read_block,
    units::{BLOCK_BYTES, Block, Target},
};
use std::sync::Arc;

/// A cut in the middle of a block: the volume whose block at `size` must be zero from there on, and what it is read from.
#[derive(Clone, Copy)]
pub(super) struct EdgeNeed {
    pub(super) target: Target,
    pub(super) size: u64,
}

/// A block that is to be changed in part: where it was when it was read, and its content.
pub(super) struct Edge<'a> {
    pub(super) block: u64,
    pub(super) mapped: Option<(Block, u32)>,
    pub(super) data: Arc<[u8]>,
    /// Keeps `mapped` from meaning another content by the time it is compared.
    _hold: Option<Hold<'a>>,
}

impl Edge<'_> {
    /// Whether the block still is where it was when it was read.
    pub(super) fn holds(&self, state: &mut State, target: Target) -> Step<bool> {
        let root = match target {
            Target::Volume(id) => state.volume_record(id)?.root,
            Target::Snapshot(id) => state.snapshot_record(id)?.root,
        };
        Ok(read_block(&state.forest, root.into(), self.block)? == self.mapped)
    }
    /// The same block with the bytes `from..to` of its volume zeroed.
    pub(super) fn zeroed(mut self, from: u64, to: u64) -> Self {
        let start = self.block * BLOCK_BYTES;
        let mut data = self.data.to_vec();
        let (a, b) = (from.saturating_sub(start) as usize, (to - start).min(BLOCK_BYTES) as usize);
        data[a..b].fill(0);
        self.data = data.into();
        self
    }
    /// The same block with everything from the volume's byte `size` on zeroed.
    pub(super) fn cut_at(self, size: u64) -> Self {
        self.zeroed(size, u64::MAX)
    }
}

impl Engine {
    /// Reads a block that is to be changed in part.
    pub(super) fn read_edge(&self, target: Target, block: u64) -> Result<Edge<'_>> {
        let mut data = vec![0; BLOCK];
        let mut parts = Parts::default();
        let (mapped, hold) = self.lookup(|state| {
            let (root, _) = state.extent_root(target)?;
            let mapped = read_block(&state.forest, root, block)?;
            parts.clear();
            state.sources(root, block, block + 1, &mut parts)?;
            // Staged or not: what it is compared with later must still be this content.
            Ok((mapped, mapped.map(|(start, _)| self.reading.hold([Run { start, len: 1 }]))))
        })?;
        for part in &parts.list {
            if !matches!(part.source, Source::Zeros) {
                self.copy_part(target, &parts, part, &mut data, block * BLOCK_BYTES)?;
            }
        }
        Ok(Edge { block, mapped, data: data.into(), _hold: hold })
    }
}
