//! Reads: where the blocks of a range are, and verified copies of them. Where that is known already, a read takes no lock:
//! see [`super::translation`].

use super::{
    ahead::LARGE,
    state::{Engine, State, blocks_of},
    translation::{Place, View},
};
use crate::{
    BLOCK, Error, Result, bytes,
    lack::Step,
    space::{Hold, Run},
    tree::{Loaded, Nodes, Root, WithLoaded, read_block, read_pieces},
    units::{BLOCK_BYTES, Block, Target, read_unit},
};
use std::{
    io::IoSliceMut,
    ops::{ControlFlow, Range},
    sync::Arc,
};

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
    /// Where each block lies on the disk; `None` for those that are staged.
    fn places(&self) -> impl Iterator<Item = Option<Place>> {
        self.list.iter().flat_map(|part| {
            let sums = &self.sums;
            (0..part.blocks).map(move |i| match part.source {
                Source::Zeros => Some(None),
                Source::Staged(..) => None,
                Source::Disk(start, first) => Some(Some((start.plus(i), sums[first + i as usize]))),
            })
        })
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

impl State {
    /// Where the blocks `from..to` of a tree are, all of them.
    pub(crate) fn sources(&self, root: Root, from: u64, to: u64, out: &mut Parts) -> Step<()> {
        self.sources_among(&self.forest, root, from, to, out)
    }
    fn sources_among(&self, nodes: &impl Nodes, root: Root, from: u64, to: u64, out: &mut Parts) -> Step<()> {
        let place = &mut |logical: u64, len: u64, data: Option<(Block, &[u32])>| {
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
        };
        read_pieces(nodes, root, from, to, None, place).map(drop)
    }
}

/// Buffers that are filled one after the other, and how far they are.
struct Filled<'a, 'b> {
    bufs: &'a mut [IoSliceMut<'b>],
    /// The buffer that the next byte goes to, and the offset of the buffer's first byte in the volume.
    next: usize,
    start: u64,
}

impl Engine {
    /// Reads `buf.len()` bytes at `offset`.
    #[inline]
    pub(crate) fn read(&self, target: Target, view: &View, buf: &mut [u8], offset: u64) -> Result<()> {
        let (from, to) = blocks_of(offset, (buf.len() as u64).min(u64::MAX - offset));
        if to == from + 1 {
            return if self.read_known(target, view, buf, offset) {
                Ok(())
            } else {
                self.read_one(target, view, buf, offset)
            };
        }
        self.read_vectored(target, view, &mut [IoSliceMut::new(buf)], offset)
    }

    /// Reads into several buffers, one after the other. What one [`read_unit`] holds is of one moment: it is looked up as a whole, and its blocks
    /// are kept from reuse until they are copied.
    pub(crate) fn read_vectored(
        &self,
        target: Target,
        view: &View,
        bufs: &mut [IoSliceMut<'_>],
        offset: u64,
    ) -> Result<()> {
        let len = bufs.iter().map(|b| b.len() as u64).sum::<u64>();
        let mut filled = Filled { bufs, next: 0, start: offset };
        let mut parts = Parts::default();
        let mut done = 0;
        loop {
            // Not used where it would overflow: such a range is refused.
            let at = offset.saturating_add(done);
            let length = read_unit(at, len.min(u64::MAX - offset) - done);
            let (next, start) = (filled.next, filled.start);
            if !(view.covers(offset, len) && self.fill_known(target, view, &mut parts, &mut filled, at, length)) {
                (filled.next, filled.start) = (next, start);
                let _hold = self.lookup_whole(|state, nodes| {
                    let (root, size) = state.extent_root(target)?;
                    state.check_range(target, size, offset, len)?;
                    parts.clear();
                    if length > 0 {
                        let (from, to) = blocks_of(at, length);
                        state.sources_among(nodes, root, from, to, &mut parts)?;
                        self.translations.learn(view, size, from, parts.places());
                    }
                    Ok(self.reading.hold(parts.runs()))
                })?;
                self.fill(target, view, &parts, &mut filled)?;
            }
            done += length;
            if done >= len {
                return Ok(());
            }
        }
    }
    /// Copies all parts into the buffers that follow.
    fn fill(&self, target: Target, view: &View, parts: &Parts, filled: &mut Filled<'_, '_>) -> Result<()> {
        if let (Some(first), Some(last)) = (parts.list.first(), parts.list.last()) {
            self.look_ahead(target, view, first.logical, last.logical + last.blocks, self.fetch_parts(view, parts));
        }
        // A block is on its way while the one before it is copied and summed: they mostly lie in places that the processor can't foresee.
        let starts =
            || parts.list.iter().map(|part| if let Source::Disk(at, _) = part.source { Some(at) } else { None });
        starts().take(1).flatten().for_each(|at| self.disk.prefetch(at));
        for (part, next) in parts.list.iter().zip(starts().skip(1).chain([None])) {
            next.into_iter().for_each(|at| self.disk.prefetch(at));
            let (from, to) = (part.logical * BLOCK_BYTES, (part.logical + part.blocks) * BLOCK_BYTES);
            while let Some(buf) = filled.bufs.get_mut(filled.next) {
                let end = filled.start + buf.len() as u64;
                if from.max(filled.start) < to.min(end) {
                    self.copy_part(target, parts, part, buf, filled.start)?;
                }
                if end > to {
                    break;
                }
                (filled.next, filled.start) = (filled.next + 1, end);
            }
        }
        Ok(())
    }
    /// Fills the buffers that follow without a lock, if it is known where all of the blocks lie. `false`: it is not, or something changed
    /// meanwhile, or went wrong; the buffers then hold anything.
    fn fill_known(
        &self,
        target: Target,
        view: &View,
        parts: &mut Parts,
        filled: &mut Filled<'_, '_>,
        offset: u64,
        len: u64,
    ) -> bool {
        let Some(found) = self.translations.find(view, offset, len) else { return false };
        parts.clear();
        for (logical, place) in found.blocks() {
            match place {
                None => parts.zeros(logical, 1),
                Some((physical, sum)) => parts.disk(logical, physical, &[sum]),
            }
        }
        self.fill(target, view, parts, filled).is_ok() && found.holds()
    }
    /// [`Engine::fill_known`] for a read inside one block.
    #[inline]
    fn read_known(&self, target: Target, view: &View, buf: &mut [u8], offset: u64) -> bool {
        let Some(found) = self.translations.find(view, offset, buf.len() as u64) else { return false };
        if let Some((at, _)) = found.first() {
            let block = offset / BLOCK_BYTES;
            self.look_ahead(target, view, block, block + 1, self.disk.is_cold(at, 1));
        }
        let good = match found.first() {
            None => {
                buf.fill(0);
                true
            }
            Some((physical, sum)) if buf.len() == BLOCK => {
                self.copy_summed(physical, buf).is_ok_and(|copied| copied == sum)
            }
            Some((physical, sum)) => {
                let mut whole = [0; BLOCK];
                let good = self.copy_summed(physical, &mut whole).is_ok_and(|copied| copied == sum);
                let within = (offset % BLOCK_BYTES) as usize;
                buf.copy_from_slice(&whole[within..within + buf.len()]);
                good
            }
        };
        good && found.holds()
    }

    /// The first parts of a byte range, up to `limit` of them and none only if it is empty: first byte, bytes, and whether it is data.
    pub(crate) fn extents(&self, target: Target, range: Range<u64>, limit: usize) -> Result<Vec<(u64, u64, bool)>> {
        let backwards = || Error::invalid("a range that ends before it starts");
        let len = range.end.checked_sub(range.start).ok_or_else(backwards)?;
        let mut out: Vec<(u64, u64, bool)> = Vec::new();
        self.lookup(|state| {
            let (root, size) = state.extent_root(target)?;
            state.check_range(target, size, range.start, len)?;
            out.clear();
            if len == 0 {
                return Ok(());
            }
            let (from, to) = blocks_of(range.start, len);
            let part = &mut |logical: u64, blocks: u64, data: Option<(Block, &[u32])>| {
                let start = (logical * BLOCK_BYTES).max(range.start);
                let end = ((logical + blocks) * BLOCK_BYTES).min(range.end);
                match out.last_mut() {
                    Some(last) if last.2 == data.is_some() => last.1 += end - start,
                    _ => out.push((start, end - start, data.is_some())),
                }
            };
            read_pieces(&state.forest, root, from, to, Some(limit), part).map(drop)
        })?;
        Ok(out)
    }

    /// [`Engine::lookup`] of what is to be seen at one moment as a whole, however many nodes that takes: those that it reads are at its
    /// disposal until it succeeds.
    pub(super) fn lookup_whole<T>(&self, f: impl FnMut(&State, &WithLoaded<'_>) -> Step<T>) -> Result<T> {
        let mut loaded = Loaded::default();
        let found = self.lookup_aside(&mut loaded, f)?;
        if !loaded.is_empty() {
            let cache = &mut self.state.write().forest.cache;
            loaded.into_nodes().for_each(|node| cache.insert(node));
        }
        Ok(found)
    }
    /// [`Engine::lookup`] that puts what it reads into `loaded`, and leaves the cache alone.
    pub(crate) fn lookup_aside<T>(
        &self,
        loaded: &mut Loaded,
        mut f: impl FnMut(&State, &WithLoaded<'_>) -> Step<T>,
    ) -> Result<T> {
        loop {
            match self.try_lookup(|state| f(state, &WithLoaded { forest: &state.forest, loaded }))? {
                ControlFlow::Break(found) => return Ok(found),
                ControlFlow::Continue(node) => node.into_iter().for_each(|node| loaded.insert(node)),
            }
        }
    }

    /// A read inside one block: the common case, without a list of parts.
    fn read_one(&self, target: Target, view: &View, buf: &mut [u8], offset: u64) -> Result<()> {
        let (block, within) = (offset / BLOCK_BYTES, (offset % BLOCK_BYTES) as usize);
        enum One<'a> {
            Done,
            Disk(Block, u32, Hold<'a>),
        }
        let one = self.lookup(|state| {
            let (root, size) = state.extent_root(target)?;
            state.check_range(target, size, offset, buf.len() as u64)?;
            let place = read_block(&state.forest, root, block)?;
            if let Some((physical, _)) = place
                && let Some((run, at, _)) = state.staging.find(physical.0)
            {
                bytes::copy(&run.data[at + within..], buf);
                return Ok(One::Done);
            }
            self.translations.learn(view, size, block, [Some(place)]);
            let Some((physical, sum)) = place else {
                buf.fill(0);
                return Ok(One::Done);
            };
            Ok(One::Disk(physical, sum, self.reading.hold([Run { start: physical, len: 1 }])))
        })?;
        if let One::Disk(at, ..) = one {
            self.look_ahead(target, view, block, block + 1, self.disk.is_cold(at, 1));
        }
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
        // What the host has to fetch it reads ahead where it is asked for all of it.
        let large = sums.len() as u64 >= LARGE && self.disk.is_cold(at, sums.len() as u64);
        let blocks = if large { &mut buf[..0] } else { &mut *buf };
        for (i, block) in blocks.chunks_exact_mut(BLOCK).enumerate() {
            if i + 1 < sums.len() {
                self.disk.prefetch(at.plus(i as u64 + 1));
            }
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

    /// Copies a block and returns the copy's checksum.
    #[inline]
    fn copy_summed(&self, at: Block, block: &mut [u8]) -> Result<u32> {
        self.disk.prefetch(at);
        if let Some(sum) = self.copy_mapped(at, block)? {
            return Ok(sum);
        }
        self.disk.read_unmapped(at.offset(), block)?;
        Ok(crc32fast::hash(block))
    }
    /// Copies a block out of the map and returns the copy's checksum; `None` where there is no map.
    #[inline]
    fn copy_mapped(&self, at: Block, block: &mut [u8]) -> Result<Option<u32>> {
        Ok(self.disk.read_mapped(at.offset(), block)?.then(|| crc32fast::hash(block)))
    }
}
