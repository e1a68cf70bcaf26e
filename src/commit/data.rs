//! Data on its way to the disk, and reads: staging, sources of a range, verified copies.

use super::engine::{Engine, State};
use crate::{
    BLOCK, Error, Result, bytes,
    space::{Hold, Run},
    tree::{Found, Root, read_block, read_pieces},
    units::{BLOCK_BYTES, Block},
};
use rustc_hash::FxHashMap;
use std::sync::Arc;

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
    /// Makes one list of the last two while their lengths are so.
    fn join(&mut self, so: impl Fn(usize, usize) -> bool) {
        while let [.., before, last] = &mut self.0[..]
            && so(before.len(), last.len())
        {
            before.append(last);
            before.sort_by_key(|r| r.0);
            self.0.pop();
        }
    }
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// The run that starts last of those that do not start after `block`.
    fn before(&self, block: u64) -> Option<&(u64, Staged)> {
        let found = self.0.iter().filter_map(|list| list[..list.partition_point(|r| r.0 <= block)].last());
        found.max_by_key(|r| r.0)
    }
    /// In order, once all lists were joined.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Block, &Staged)> {
        self.0.iter().flatten().map(|(start, run)| (Block(*start), run))
    }
    pub(crate) fn into_values(self) -> impl Iterator<Item = Staged> {
        self.0.into_iter().flatten().map(|(_, run)| run)
    }
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
    pub(crate) fn take(&mut self) -> Arc<Runs> {
        let runs = self.take_ahead();
        self.ahead = false;
        runs
    }
    /// Takes what is staged while its group stays open.
    pub(crate) fn take_ahead(&mut self) -> Arc<Runs> {
        self.bytes = 0;
        self.ahead = true;
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
    /// The open group is closed and has all of its data in the log, as [`Staging::whole`] gave it.
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
    fn is_empty(&self) -> bool {
        self.open.is_empty() && self.writing.is_empty() && self.logged.is_empty() && self.homing.is_empty()
    }
    /// A staged block's content.
    pub(crate) fn block(&self, block: Block) -> Option<&[u8]> {
        self.find(block.0).map(|(run, at, _)| &run.data[at..at + BLOCK])
    }
    /// The staged run that holds `block`: its buffer, the block's offset in it, and how many blocks follow from there.
    #[inline]
    fn find(&self, block: u64) -> Option<(&Staged, usize, u32)> {
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

/// Where the bytes of some blocks are.
pub(crate) enum Source {
    Zeros,
    Staged(Arc<[u8]>, usize),
    /// First block, and where its checksum stands among those of all parts; the others' follow.
    Disk(Block, usize),
}

/// A part of a read.
pub(crate) struct Part {
    pub(crate) logical: u64,
    pub(crate) blocks: u64,
    pub(crate) source: Source,
}

/// The parts of a read, in order, and the checksums of those that are on the disk.
#[derive(Default)]
pub(crate) struct Parts {
    pub(crate) list: Vec<Part>,
    sums: Vec<u32>,
}

impl Parts {
    pub(crate) fn clear(&mut self) {
        self.list.clear();
        self.sums.clear();
    }
    /// The blocks that are copied from the disk.
    pub(crate) fn runs(&self) -> impl Iterator<Item = Run> {
        self.list.iter().filter_map(|p| match p.source {
            Source::Disk(start, _) => Some(Run { start, len: p.blocks as u32 }),
            _ => None,
        })
    }
    fn zeros(&mut self, logical: u64, blocks: u64) {
        match self.list.last_mut() {
            Some(Part { blocks: before, source: Source::Zeros, .. }) => *before += blocks,
            _ => self.list.push(Part { logical, blocks, source: Source::Zeros }),
        }
    }
    /// What lies side by side becomes one part.
    fn disk(&mut self, logical: u64, physical: Block, sums: &[u32]) {
        let blocks = sums.len() as u64;
        match self.list.last_mut() {
            Some(Part { blocks: before, source: Source::Disk(start, _), .. }) if start.plus(*before) == physical => {
                *before += blocks;
            }
            _ => self.list.push(Part { logical, blocks, source: Source::Disk(physical, self.sums.len()) }),
        }
        self.sums.extend_from_slice(sums);
    }
}

/// Pieces that one lookup gives at most.
const PIECES: usize = 256;

impl State {
    /// Where the blocks `from..to` of a tree are; gives where it stopped.
    pub(crate) fn sources(&self, root: Root, from: u64, to: u64, out: &mut Parts) -> Found<u64> {
        read_pieces(&self.forest, root, from, to, PIECES, &mut |logical, len, data| {
            let Some((physical, sums)) = data else { return out.zeros(logical, len) };
            if self.staging.is_empty() {
                return out.disk(logical, physical, sums);
            }
            let mut i = 0;
            while i < len {
                match self.staging.find(physical.0 + i) {
                    Some((run, at, more)) => {
                        let blocks = u64::from(more).min(len - i);
                        let source = Source::Staged(run.data.clone(), at);
                        out.list.push(Part { logical: logical + i, blocks, source });
                        i += blocks;
                    }
                    None => {
                        out.disk(logical + i, physical.plus(i), &sums[i as usize..=i as usize]);
                        i += 1;
                    }
                }
            }
        })
    }
}

/// Whose content is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub(crate) enum Target {
    Volume(u64),
    Snapshot(u64),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Volume(id) => write!(f, "volume {id}"),
            Target::Snapshot(id) => write!(f, "snapshot {id}"),
        }
    }
}

/// First block and block after the last of a byte range that is not empty.
pub(crate) fn blocks_of(offset: u64, len: u64) -> (u64, u64) {
    (offset / BLOCK_BYTES, (offset + len).div_ceil(BLOCK_BYTES))
}

impl Engine {
    /// Reads `buf.len()` bytes at `offset`.
    pub(crate) fn read(&self, target: Target, buf: &mut [u8], offset: u64) -> Result<()> {
        self.check_process()?;
        let len = buf.len() as u64;
        let (from, to) = blocks_of(offset, len.min(u64::MAX - offset));
        if to == from + 1 {
            return self.read_one(target, buf, offset);
        }
        let mut at = from;
        let mut first = true;
        while at < to || first {
            let mut parts = Parts::default();
            let (end, hold) = self.lookup(|state| {
                let (root, size) = state.extent_root(target)?;
                state.check_range(target, size, offset, len)?;
                if at == to {
                    return Ok(Ok((to, None)));
                }
                parts.clear();
                let end = state.sources(root, at, to, &mut parts)?;
                Ok(end.map(|end| (end, Some(self.reading.hold(parts.runs())))))
            })?;
            first = false;
            for part in &parts.list {
                self.copy_part(target, &parts, part, buf, offset)?;
            }
            drop(hold);
            at = end;
        }
        Ok(())
    }

    /// A read inside one block: the common case, without a list of parts.
    fn read_one(&self, target: Target, buf: &mut [u8], offset: u64) -> Result<()> {
        let (block, within) = (offset / BLOCK_BYTES, (offset % BLOCK_BYTES) as usize);
        enum One<'a> {
            Done,
            Disk(Block, u32, Hold<'a>),
        }
        let one = self.lookup(|state| {
            let (root, size) = state.extent_root(target)?;
            state.check_range(target, size, offset, buf.len() as u64)?;
            let (physical, sum) = match read_block(&state.forest, root, block)? {
                Err(miss) => return Ok(Err(miss)),
                Ok(None) => {
                    buf.fill(0);
                    return Ok(Ok(One::Done));
                }
                Ok(Some(found)) => found,
            };
            Ok(Ok(match state.staging.find(physical.0) {
                Some((run, at, _)) => {
                    bytes::copy(&run.data[at + within..], buf);
                    One::Done
                }
                None => {
                    self.disk.prefetch(physical.offset());
                    One::Disk(physical, sum, self.reading.hold([Run { start: physical, len: 1 }]))
                }
            }))
        })?;
        match one {
            One::Done => Ok(()),
            One::Disk(physical, sum, _hold) if buf.len() == BLOCK => {
                self.read_verified(target, block, physical, &[sum], buf)
            }
            One::Disk(physical, sum, _hold) => {
                let mut whole = [0; BLOCK];
                self.read_verified(target, block, physical, &[sum], &mut whole)?;
                buf.copy_from_slice(&whole[within..within + buf.len()]);
                Ok(())
            }
        }
    }

    /// Copies the part of a source that `buf`, which starts at `offset` of the volume, covers.
    pub(crate) fn copy_part(
        &self,
        target: Target,
        parts: &Parts,
        part: &Part,
        buf: &mut [u8],
        offset: u64,
    ) -> Result<()> {
        let start = part.logical * BLOCK_BYTES;
        let end = start + part.blocks * BLOCK_BYTES;
        let (from, to) = (start.max(offset), end.min(offset + buf.len() as u64));
        let out = &mut buf[(from - offset) as usize..(to - offset) as usize];
        match &part.source {
            Source::Zeros => out.fill(0),
            Source::Staged(data, at) => {
                let at = at + (from - start) as usize;
                bytes::copy(&data[at..], out);
            }
            Source::Disk(physical, sums) => {
                let sums = &parts.sums[*sums..];
                // Whole blocks go straight into the caller's buffer; an edge block is verified aside.
                let mut at = from;
                while at < to {
                    let block = (at - start) / BLOCK_BYTES;
                    let here = &mut out[(at - from) as usize..];
                    let whole = here.len() / BLOCK;
                    if (at - start).is_multiple_of(BLOCK_BYTES) && whole > 0 {
                        let sums = &sums[block as usize..block as usize + whole];
                        let here = &mut here[..whole * BLOCK];
                        self.read_verified(target, part.logical + block, physical.plus(block), sums, here)?;
                        at += here.len() as u64;
                    } else {
                        let mut edge = [0; BLOCK];
                        let sum = &sums[block as usize..block as usize + 1];
                        self.read_verified(target, part.logical + block, physical.plus(block), sum, &mut edge)?;
                        let within = ((at - start) % BLOCK_BYTES) as usize;
                        let n = (BLOCK - within).min(here.len());
                        here[..n].copy_from_slice(&edge[within..within + n]);
                        at += n as u64;
                    }
                }
            }
        }
        Ok(())
    }

    /// Copies whole blocks and verifies the copy (never the source, which may be a map).
    fn read_verified(&self, target: Target, logical: u64, at: Block, sums: &[u32], buf: &mut [u8]) -> Result<()> {
        let place = |i: u64| format!("{target}, offset {}, {}", (logical + i) * BLOCK_BYTES, at.plus(i));
        let check = |i: usize, sum: u32| match sum == sums[i] {
            true => Ok(()),
            false => Err(Error::corrupt(format!("{}: checksum mismatch", place(i as u64)))),
        };
        // Block by block where that costs no system call: each is summed while it is in the processor's cache.
        let mut mapped = 0;
        for (i, block) in buf.chunks_exact_mut(BLOCK).enumerate() {
            let sum = self.copy_mapped(at.plus(i as u64), block).map_err(|e| e.at(place(i as u64)))?;
            let Some(sum) = sum else { break };
            check(i, sum)?;
            mapped += 1;
        }
        let rest = &mut buf[mapped * BLOCK..];
        if !rest.is_empty() {
            let off = at.plus(mapped as u64).offset();
            self.disk.read_unmapped(off, rest).map_err(|e| e.at(place(mapped as u64)))?;
        }
        rest.chunks_exact(BLOCK).enumerate().try_for_each(|(i, block)| check(mapped + i, crc32fast::hash(block)))
    }

    /// Copies a block out of the map and gives the copy's sum; `None` where there is no map. By halves: the second is on its way while the first is
    /// summed.
    #[inline]
    fn copy_mapped(&self, at: Block, block: &mut [u8]) -> Result<Option<u32>> {
        let mut sum = crc32fast::Hasher::new();
        let mut off = at.offset();
        for half in block.chunks_exact_mut(BLOCK / 2) {
            if !self.disk.read_mapped(off, half)? {
                return Ok(None);
            }
            sum.update(half);
            off += half.len() as u64;
        }
        Ok(Some(sum.finalize()))
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
            let given: Vec<_> = runs.iter().map(|(start, run)| (start.0, run.blocks)).collect();
            prop_assert_eq!(given, want.into_iter().collect::<Vec<_>>());
        }
    }
}
