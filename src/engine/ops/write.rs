//! Writes, discards, zeroing: new blocks for new content, one record a unit.

use super::batch::EdgeBlock;
use crate::{
    ATOMIC_WRITE_MAX, BLOCK, Result, bytes,
    codec::{self, Kind},
    engine::{
        change::{Attempt, Claim, Room, Taken},
        read::{Parts, Source},
        staging::Staged,
        state::{Engine, State, Target, blocks_of},
    },
    log::{Op, Placed, Sums},
    space::Run,
    tree::read_block,
    units::BLOCK_BYTES,
};
use smallvec::{SmallVec, smallvec};
use std::{io::IoSlice, slice, sync::Arc};

/// Bytes that are summed and written at a time.
const PIECE: usize = 64 << 10;

/// Bytes to write, in one or several buffers.
#[derive(Clone, Copy)]
pub(crate) enum Bytes<'a> {
    One(&'a [u8]),
    Many(&'a [IoSlice<'a>]),
}

impl Bytes<'_> {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Bytes::One(b) => b.len() as u64,
            Bytes::Many(list) => list.iter().map(|b| b.len() as u64).sum(),
        }
    }
    /// Copies the bytes from `skip` on.
    fn copy(&self, mut skip: usize, mut out: &mut [u8]) {
        let one;
        let list = match self {
            Bytes::One(b) => {
                one = [IoSlice::new(b)];
                &one
            }
            Bytes::Many(list) => *list,
        };
        for b in list {
            let from = &b[skip.min(b.len())..];
            let n = from.len().min(out.len());
            let (here, rest) = out.split_at_mut(n);
            bytes::copy(from, here);
            (out, skip) = (rest, skip.saturating_sub(b.len()));
        }
    }
}

impl Engine {
    /// Hash of data that a record names: decides at recovery whether it landed.
    pub(crate) fn data_hash(&self, data: &[u8]) -> u64 {
        bytes::hash(data, self.hash_key)
    }

    /// Reads a block that is to be changed in part.
    pub(crate) fn read_edge(&self, target: Target, block: u64) -> Result<EdgeBlock<'_>> {
        let mut data = vec![0; BLOCK];
        let mut parts = Parts::default();
        let (mapped, hold) = self.with_head(target, || {
            self.lookup(|state| {
                let (root, _) = state.extent_root(target)?;
                let mapped = match read_block(&state.forest, root, block)? {
                    Ok(mapped) => mapped,
                    Err(miss) => return Ok(Err(miss)),
                };
                parts.clear();
                let end = state.sources(root, block, block + 1, &mut parts)?;
                // Staged or not: what it is compared with later must still be this content.
                let run = mapped.map(|(start, _)| Run { start, len: 1 });
                Ok(end.map(|_| (mapped, run.map(|run| self.reading.hold([run])))))
            })
        })?;
        for part in &parts.list {
            if !matches!(part.source, Source::Zeros) {
                self.copy_part(target, &parts, part, &mut data, block * BLOCK_BYTES)?;
            }
        }
        Ok(EdgeBlock { mapped, data: data.into(), _hold: hold })
    }

    /// Writes bytes at `offset`; units of up to 1 MiB, lowest first.
    pub(crate) fn write(&self, volume: u64, bytes: Bytes<'_>, offset: u64) -> Result<()> {
        self.check_process()?;
        self.disk.writes_allowed()?;
        let len = bytes.len();
        let target = Target::Volume(volume);
        let most = ATOMIC_WRITE_MAX as u64;
        let whole = offset.is_multiple_of(BLOCK_BYTES) && len.is_multiple_of(BLOCK_BYTES);
        if len == 0 || len > most || !whole || offset.checked_add(len).is_none() {
            // Of several units none is written if one does not fit; nothing is read past the end.
            self.with_head(target, || {
                let state = self.view()?;
                state.check_range(target, state.extent_root(target)?.1, offset, len)
            })?;
        }
        let mut at = 0;
        while at < len {
            let unit = if len <= most { len } else { (len - at).min(most - (offset + at) % most) };
            self.write_unit(volume, bytes, at as usize, offset + at, unit as usize)?;
            at += unit;
        }
        Ok(())
    }

    fn write_unit(&self, volume: u64, bytes: Bytes<'_>, skip: usize, offset: u64, len: usize) -> Result<()> {
        let target = Target::Volume(volume);
        let (from, to) = blocks_of(offset, len as u64);
        let (head, tail) = ((offset % BLOCK_BYTES) as usize, ((offset + len as u64) % BLOCK_BYTES) as usize);
        if let Bytes::One(b) = bytes
            && head == 0
            && tail == 0
            && len >= self.config.knobs.direct as usize * BLOCK
        {
            return self.write_direct(volume, &b[skip..skip + len], offset);
        }
        let mut room = Room::default();
        loop {
            self.make_room(&mut room)?;
            // Whole blocks: edges from what is there, the rest from the caller.
            let first =
                if head > 0 || (tail > 0 && to == from + 1) { Some(self.read_edge(target, from)?) } else { None };
            let last = if tail > 0 && to > from + 1 { Some(self.read_edge(target, to - 1)?) } else { None };
            // On its way while the data is copied and summed.
            let foreseen = if to == from + 1 {
                let state = self.view()?;
                state.heads.get(&volume).and_then(|head| state.forest.prefetch(head.root.into(), from))
            } else {
                None
            };
            let data: Arc<[u8]> = match bytes {
                Bytes::One(b) if first.is_none() && last.is_none() && len == BLOCK => {
                    self.staged_block(&b[skip..skip + len])
                }
                Bytes::One(b) if first.is_none() && last.is_none() => b[skip..skip + len].into(),
                _ => {
                    let mut whole = vec![0; (to - from) as usize * BLOCK];
                    if let Some(edge) = &first {
                        whole[..BLOCK].copy_from_slice(&edge.data);
                    }
                    if let Some(edge) = &last {
                        let at = whole.len() - BLOCK;
                        whole[at..].copy_from_slice(&edge.data);
                    }
                    bytes.copy(skip, &mut whole[head..head + len]);
                    whole.into()
                }
            };
            let sums = data.chunks_exact(BLOCK).map(crc32fast::hash).collect();
            let mut op = Op::Write { volume, data: Placed { block: from, runs: SmallVec::new(), sums } };
            let hash = self.data_hash(&data);
            let edges = [(from, &first), (to - 1, &last)];
            let done = self.change(&mut room, |state, any| {
                state.forest.foresee(foreseen);
                let size = state.head(volume)?.size;
                state.check_range(target, size, offset, len as u64)?;
                if !state.edges_hold(volume, &edges)? {
                    return Ok(Attempt::Done(false));
                }
                let runs = match self.allocate_write(state, volume, to - from, any)? {
                    Ok(runs) => runs,
                    Err(lack) => return Ok(Attempt::Space(lack)),
                };
                let logged = self.log_write(state, &mut op, &runs, hash, Some(&data));
                if !matches!(logged, Ok(true)) {
                    runs.into_iter().for_each(|r| state.forest.space.give_back(r));
                }
                Ok(if logged? { Attempt::Done(true) } else { Attempt::Log })
            })?;
            if done == Some(true) {
                return self.relieve_after(&room);
            }
        }
    }

    /// Takes the blocks for a write of `blocks` blocks. `Err`: it lacks that many.
    fn allocate_write(
        &self,
        state: &mut State,
        volume: u64,
        blocks: u64,
        any: bool,
    ) -> Result<std::result::Result<Taken, u64>> {
        let nodes = state.write_nodes(volume, blocks as usize);
        if let Some(lack) = state.reserve(Claim::Ordinary, nodes, blocks)? {
            return Ok(Err(lack));
        }
        Ok(state.allocate_data(blocks, any)?.ok_or(blocks))
    }

    /// Logs and applies a write of data that has its blocks, and stages it unless it is there already. `false`: the log has no room.
    fn log_write(
        &self,
        state: &mut State,
        op: &mut Op,
        runs: &[Run],
        hash: u64,
        data: Option<&Arc<[u8]>>,
    ) -> Result<bool> {
        let Op::Write { volume, data: placed } = op else { return Ok(false) };
        state.touch(*volume, placed.block, placed.block + placed.sums.len() as u64)?;
        placed.runs.clear();
        placed.runs.extend(runs.iter().map(|r| (r.start.0, r.len)));
        if let Err(bytes) = state.log.append_ops(slice::from_ref(op), [hash])? {
            self.log_room(bytes)?;
            return Ok(false);
        }
        if let Some(data) = data {
            let mut offset = 0;
            for run in runs {
                state.staging.add(run.start, Staged { data: data.clone(), offset, blocks: run.len });
                offset += run.len as usize * BLOCK;
            }
        } else {
            state.staging.went_ahead();
        }
        self.applied(state.apply(op))?;
        Ok(true)
    }

    /// A large write of whole blocks: it goes to its place in the file at once, and is logged and published when it is there. Until then
    /// its blocks are taken and nobody refers to them.
    fn write_direct(&self, volume: u64, data: &[u8], offset: u64) -> Result<()> {
        let target = Target::Volume(volume);
        let (block, blocks) = (offset / BLOCK_BYTES, (data.len() / BLOCK) as u64);
        let mut room = Room::default();
        let runs = loop {
            self.make_room(&mut room)?;
            let taken = self.change(&mut room, |state, any| {
                let size = state.head(volume)?.size;
                state.check_range(target, size, offset, data.len() as u64)?;
                Ok(match self.allocate_write(state, volume, blocks, any)? {
                    Ok(runs) => {
                        state.in_flight += blocks;
                        Attempt::Done(runs)
                    }
                    Err(lack) => Attempt::Space(lack),
                })
            })?;
            if let Some(runs) = taken {
                break runs;
            }
        };
        let published = self.write_in_place(&runs, data).and_then(|(sums, hash)| {
            let mut op = Op::Write { volume, data: Placed { block, runs: SmallVec::new(), sums } };
            loop {
                self.make_room(&mut room)?;
                let done = self.change(&mut room, |state, _| {
                    let size = state.head(volume)?.size;
                    state.check_range(target, size, offset, data.len() as u64)?;
                    let nodes = state.write_nodes(volume, blocks as usize);
                    if let Some(lack) = state.reserve(Claim::Ordinary, nodes, 0)? {
                        return Ok(Attempt::Space(lack));
                    }
                    if !self.log_write(state, &mut op, &runs, hash, None)? {
                        return Ok(Attempt::Log);
                    }
                    state.in_flight -= blocks;
                    Ok(Attempt::Done(()))
                })?;
                if done.is_some() {
                    return Ok(());
                }
            }
        });
        if published.is_err() {
            let mut state = self.state.write();
            state.in_flight -= blocks;
            runs.into_iter().for_each(|r| state.forest.space.abandon(r));
        }
        published?;
        self.relieve_after(&room)
    }

    /// Writes data into blocks that nobody refers to; gives its checksums and its hash.
    fn write_in_place(&self, runs: &[Run], data: &[u8]) -> Result<(Sums, u64)> {
        let mut sums = SmallVec::with_capacity(data.len() / BLOCK);
        let mut hash = bytes::Hash::new(self.hash_key);
        let mut rest = data;
        for run in runs {
            let (here, after) = rest.split_at(run.len as usize * BLOCK);
            rest = after;
            let mut at = run.start.offset();
            // Piece by piece: what is summed is still in the processor's cache when it is copied.
            for piece in here.chunks(PIECE) {
                sums.extend(piece.chunks_exact(BLOCK).map(crc32fast::hash));
                hash.add(piece);
                let placing = self.placing.read();
                self.disk.write(at, &[piece])?;
                drop(placing);
                at += piece.len() as u64;
            }
        }
        Ok((sums, hash.finish()))
    }

    /// Makes a range read as zeros: one unit, whatever its length.
    pub(crate) fn cut(&self, volume: u64, offset: u64, len: u64) -> Result<()> {
        self.check_process()?;
        self.disk.writes_allowed()?;
        let target = Target::Volume(volume);
        self.with_head(target, || {
            let state = self.view()?;
            state.check_range(target, state.extent_root(target)?.1, offset, len)
        })?;
        if len == 0 {
            return Ok(());
        }
        let end = offset + len;
        let (from, to) = blocks_of(offset, len);
        let mut room = Room::default();
        loop {
            self.make_room(&mut room)?;
            let size = {
                let mut state = self.state_mut()?;
                state.head(volume)?.size
            };
            // Beyond the size a block is zero anyway: a range that ends there needs no edge.
            let (head, tail) = (offset % BLOCK_BYTES, if end == size { 0 } else { end % BLOCK_BYTES });
            let first = if head > 0 || (tail > 0 && to == from + 1) {
                Some(self.zeroed(target, from, offset, end)?)
            } else {
                None
            };
            let last = if tail > 0 && to > from + 1 { Some(self.zeroed(target, to - 1, offset, end)?) } else { None };
            let edges = [(from, &first), (to - 1, &last)];
            let kept: Vec<_> =
                edges.iter().filter_map(|(b, e)| e.as_ref().filter(|e| e.mapped.is_some()).map(|e| (*b, e))).collect();
            let done = self.change(&mut room, |state, any| {
                let now = state.head(volume)?.size;
                state.check_range(target, now, offset, len)?;
                if now != size || !state.edges_hold(volume, &edges)? {
                    return Ok(Attempt::Done(false));
                }
                let blank = Placed { block: from, runs: smallvec![(0, 1)], sums: SmallVec::new() };
                let mut op = Op::Cut { volume, from, to, edges: vec![blank; kept.len()] };
                let nodes = state.nodes_for(&op)?;
                if let Some(lack) = state.reserve(Claim::Freeing, nodes, kept.len() as u64)? {
                    return Ok(Attempt::Space(lack));
                }
                state.touch(volume, from, to)?;
                let Some(runs) = state.allocate_data(kept.len() as u64, any)? else {
                    return Ok(Attempt::Space(kept.len() as u64));
                };
                let blocks: Vec<_> = runs.iter().flat_map(|r| (0..u64::from(r.len)).map(|i| r.start.plus(i))).collect();
                if let Op::Cut { edges, .. } = &mut op {
                    *edges = kept
                        .iter()
                        .zip(&blocks)
                        .map(|((b, e), at)| Placed {
                            block: *b,
                            runs: smallvec![(at.0, 1)],
                            sums: smallvec![crc32fast::hash(&e.data)],
                        })
                        .collect();
                }
                let record = codec::encode(Kind::Log, &slice::from_ref(&op))?;
                if !state.log.fits(record.len()) {
                    runs.into_iter().for_each(|r| state.forest.space.give_back(r));
                    return Ok(Attempt::Log);
                }
                for ((_, e), at) in kept.iter().zip(&blocks) {
                    state.staging.add(*at, Staged { data: e.data.clone(), offset: 0, blocks: 1 });
                }
                state.log.append(&record, kept.iter().map(|(_, e)| self.data_hash(&e.data)));
                self.applied(state.apply(&op))?;
                Ok(Attempt::Done(true))
            })?;
            if done == Some(true) {
                return self.relieve_after(&room);
            }
        }
    }

    /// A block with the bytes `from..to` of the volume zeroed.
    fn zeroed(&self, target: Target, block: u64, from: u64, to: u64) -> Result<EdgeBlock<'_>> {
        let mut edge = self.read_edge(target, block)?;
        let start = block * BLOCK_BYTES;
        let mut data = edge.data.to_vec();
        let (a, b) = (from.saturating_sub(start) as usize, (to - start).min(BLOCK_BYTES) as usize);
        data[a..b].fill(0);
        edge.data = data.into();
        Ok(edge)
    }
}

impl State {
    /// Whether blocks that were read still are where they were.
    fn edges_hold(&mut self, volume: u64, edges: &[(u64, &Option<EdgeBlock<'_>>)]) -> Result<bool> {
        for (block, edge) in edges {
            let Some(edge) = edge else { continue };
            let root = self.head(volume)?.root.into();
            if self.forest.now(|n| read_block(n, root, *block))? != edge.mapped {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
