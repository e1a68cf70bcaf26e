//! Staged data: what the log names, or will name, and that is not at its place yet.

use crate::{
    BLOCK,
    units::{BLOCK_BYTES, Block},
};
use rustc_hash::FxHashMap;
use std::{ops::Range, sync::Arc};

/// A staged run: whole blocks inside a shared buffer.
#[derive(Clone)]
pub(crate) struct Staged {
    pub(crate) data: Arc<[u8]>,
    pub(crate) offset: usize,
    pub(crate) blocks: u32,
}

impl Staged {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.data[self.offset..self.offset + self.blocks as usize * BLOCK]
    }
}

/// Staged runs by first block. Blocks are mostly taken in ascending order, so these are lists that ascend: appending costs next to nothing, and they
/// stay few, since two of about one length become one.
#[derive(Clone, Default)]
pub(crate) struct Runs(Vec<Vec<(u64, Staged)>>);

impl Runs {
    fn add(&mut self, start: u64, run: Staged) {
        match self.0.last_mut() {
            Some(last) if last.last().is_some_and(|r| r.0 < start) => last.push((start, run)),
            _ => {
                self.join(|before, last| before <= 2 * last);
                self.0.push(vec![(start, run)]);
            }
        }
    }
    /// Merges the last two lists while `so(len_a, len_b)`.
    fn join(&mut self, so: impl Fn(usize, usize) -> bool) {
        while let [.., before, last] = &mut self.0[..]
            && so(before.len(), last.len())
        {
            before.append(last);
            before.sort_by_key(|r| r.0);
            self.0.pop();
        }
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// The run that starts last of those that do not start after `block`.
    fn before(&self, block: u64) -> Option<&(u64, Staged)> {
        let found = self.0.iter().filter_map(|list| list[..list.partition_point(|r| r.0 <= block)].last());
        found.max_by_key(|r| r.0)
    }
    /// The byte ranges of the image that these runs fill, in order, once all lists were joined. Adjacent runs fill one.
    pub(crate) fn ranges(&self) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for (start, run) in self.iter() {
            let (from, to) = (start.offset(), start.plus(run.blocks.into()).offset());
            match ranges.last_mut() {
                Some(last) if last.end == from => last.end = to,
                _ => ranges.push(from..to),
            }
        }
        ranges
    }
    /// In order, once all lists were joined.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Block, &Staged)> {
        self.0.iter().flatten().map(|(start, run)| (Block(*start), run))
    }
    pub(crate) fn into_values(self) -> impl Iterator<Item = Staged> {
        self.0.into_iter().flatten().map(|(_, run)| run)
    }
}

/// What a closed group names outside the log.
pub(crate) struct Outside {
    /// Data that is to be written.
    pub(crate) runs: Arc<Runs>,
    /// The group names data too that was written ahead of it.
    pub(crate) ahead: bool,
}

/// Single blocks whose content the log has.
pub(crate) type Logged = FxHashMap<u64, Staged>;

/// Data that the log names, or will name, and that is not at its place yet. A block is in one of the sets only.
#[derive(Clone, Default)]
pub(crate) struct Staging {
    /// Of the open group.
    open: Runs,
    /// Being written.
    writing: Arc<Runs>,
    /// The log itself has these: the next checkpoint writes them to their places.
    logged: Logged,
    /// The same, of the checkpoint that is being written.
    homing: Arc<Logged>,
    /// In the open group.
    pub(crate) bytes: usize,
    /// The open group has data that was written ahead of it.
    ahead: bool,
}

impl Staging {
    pub(crate) fn add(&mut self, start: Block, run: Staged) {
        self.bytes += run.blocks as usize * BLOCK;
        self.open.add(start.0, run);
    }
    /// Takes what is staged as its group closes; it stays readable until [`Staging::written`].
    pub(crate) fn take(&mut self) -> Outside {
        let ahead = std::mem::take(&mut self.ahead);
        Outside { runs: self.take_runs(), ahead }
    }
    /// Takes what is staged while its group stays open.
    pub(crate) fn take_ahead(&mut self) -> Arc<Runs> {
        self.ahead = true;
        self.take_runs()
    }
    fn take_runs(&mut self) -> Arc<Runs> {
        self.bytes = 0;
        let mut runs = std::mem::take(&mut self.open);
        runs.join(|_, _| true);
        self.writing = Arc::new(runs);
        self.writing.clone()
    }
    pub(crate) fn written(&mut self) {
        self.writing = Arc::default();
    }
    /// The open group names data that was never staged.
    pub(crate) fn went_ahead(&mut self) {
        self.ahead = true;
    }
    /// The open group's blocks, if all of its data is here, and no more than `most`.
    pub(crate) fn whole(&mut self, most: u32) -> Option<Vec<(u64, Arc<[u8]>)>> {
        if self.ahead || self.bytes == 0 || self.bytes > most as usize * BLOCK {
            return None;
        }
        self.open.join(|_, _| true);
        let block = |run: &Staged, i: u32| match run.blocks {
            1 if run.data.len() == BLOCK => run.data.clone(),
            _ => run.bytes()[i as usize * BLOCK..][..BLOCK].into(),
        };
        Some(
            self.open
                .iter()
                .flat_map(|(start, r)| (0..r.blocks).map(move |i| (start.0 + u64::from(i), block(r, i))))
                .collect(),
        )
    }
    /// The log has this block's content.
    pub(crate) fn log(&mut self, block: u64, data: Arc<[u8]>) {
        self.logged.insert(block, Staged { data, offset: 0, blocks: 1 });
    }
    /// The open group is closed and has all of its data in the log, as [`Staging::whole`] returned it.
    pub(crate) fn close_logged(&mut self, blocks: Vec<(u64, Arc<[u8]>)>) {
        self.open = Runs::default();
        self.bytes = 0;
        blocks.into_iter().for_each(|(block, data)| self.log(block, data));
    }
    /// Takes what the log has, for a checkpoint to write; it stays readable until [`Staging::homed`].
    pub(crate) fn home(&mut self) -> Arc<Logged> {
        self.homing = Arc::new(std::mem::take(&mut self.logged));
        self.homing.clone()
    }
    pub(crate) fn homed(&mut self) {
        self.homing = Arc::default();
    }
    /// Bytes that wait for a checkpoint.
    pub(crate) fn logged_bytes(&self) -> u64 {
        self.logged.len() as u64 * BLOCK_BYTES
    }
    /// Bytes that a checkpoint is writing to their places.
    pub(crate) fn homing_bytes(&self) -> u64 {
        self.homing.len() as u64 * BLOCK_BYTES
    }
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.writing.is_empty() && self.logged.is_empty() && self.homing.is_empty()
    }
    /// A staged block's content.
    pub(crate) fn block(&self, block: Block) -> Option<&[u8]> {
        self.find(block.0).map(|(run, at, _)| &run.data[at..at + BLOCK])
    }
    /// The staged run that holds `block`: its buffer, the block's offset in it, and how many blocks follow from there.
    #[inline]
    pub(super) fn find(&self, block: u64) -> Option<(&Staged, usize, u32)> {
        for runs in [&self.open, &*self.writing] {
            if runs.is_empty() {
                continue;
            }
            if let Some((start, run)) = runs.before(block)
                && block - start < u64::from(run.blocks)
            {
                let i = (block - start) as u32;
                return Some((run, run.offset + i as usize * BLOCK, run.blocks - i));
            }
        }
        let logged = [&self.logged, &*self.homing].into_iter().filter(|set| !set.is_empty());
        logged.filter_map(|set| set.get(&block)).map(|run| (run, run.offset, 1)).next()
    }
}

#[cfg(test)]
mod tests {
    use super::{Runs, Staged};
    use crate::BLOCK;
    use proptest::prelude::*;
    use std::{collections::BTreeMap, sync::Arc};

    proptest! {
        /// Against an ordered map, whatever the order in which blocks are taken; and however they come, the lists stay few.
        #[test]
        fn staged_runs_are_found_and_given_in_order(starts in prop::collection::vec(0..400u64, 1..300)) {
            let data: Arc<[u8]> = vec![0; 4 * BLOCK].into();
            let (mut runs, mut want) = (Runs::default(), BTreeMap::new());
            for start in starts {
                // Of one to four blocks, and none twice.
                let (start, blocks) = (start * 4, 1 + (start % 4) as u32);
                if want.insert(start, blocks).is_none() {
                    runs.add(start, Staged { data: data.clone(), offset: 0, blocks });
                }
                prop_assert!(runs.0.len() <= 10);
            }
            for block in 0..1601 {
                let found = runs.before(block).map(|(start, run)| (*start, run.blocks));
                prop_assert_eq!(found, want.range(..=block).next_back().map(|(s, b)| (*s, *b)));
            }
            runs.join(|_, _| true);
            let listed: Vec<_> = runs.iter().map(|(start, run)| (start.0, run.blocks)).collect();
            prop_assert_eq!(listed, want.into_iter().collect::<Vec<_>>());
        }
    }
}
