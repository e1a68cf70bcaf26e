//! Lookups for differences between volumes and snapshots. Each sees both at one moment.

use super::state::{Engine, blocks_of};
use crate::{
    Result,
    tree::{Root, differences},
    units::{BLOCK_BYTES, Target},
};

/// Parts of leaves, and shared children, that one lookup compares at most.
const PARTS: usize = 1024;

/// What one lookup has found.
#[derive(Default)]
pub(crate) struct Differences {
    /// First byte, bytes, and whether there is data in `to`. Neighbours are of different kinds.
    pub(crate) ranges: Vec<(u64, u64, bool)>,
    /// Where the next lookup begins; `None` if this one has come to the end.
    pub(crate) next: Option<u64>,
}

impl Engine {
    /// Returns the first differences of `to` from `from`, or from a disk without data, that lie at `start` or after it. `Deleted` if one of
    /// the two is.
    pub(crate) fn differences(&self, from: Option<Target>, to: Target, start: u64) -> Result<Differences> {
        let mut found = Differences::default();
        self.lookup_whole(|state, nodes| {
            found = Differences::default();
            let (new, size) = state.extent_root(to)?;
            // Nothing is mapped past the end of a disk, so that the size of `from` need not be known.
            let old = from.map_or(Ok(Root::default()), |from| Ok(state.extent_root(from)?.0));
            if start >= size {
                return old.map(drop);
            }
            let (first, last) = blocks_of(start, size - start);
            let ranges = &mut found.ranges;
            let visit = &mut |logical: u64, blocks: u64, data: bool| {
                let at = (logical * BLOCK_BYTES).max(start);
                let end = ((logical + blocks) * BLOCK_BYTES).min(size);
                match ranges.last_mut() {
                    Some((before, len, kind)) if *kind == data && *before + *len == at => *len += end - at,
                    _ => ranges.push((at, end - at, data)),
                }
            };
            let reached = differences(nodes, (old?, new), first..last, PARTS, visit)?;
            found.next = (reached < last).then_some(reached * BLOCK_BYTES);
            Ok(())
        })?;
        Ok(found)
    }
}
