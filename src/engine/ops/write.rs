//! Writes of up to 1 MiB: new blocks for new content, staged, logged and published as one.

use super::edge::Edge;
use crate::{
    ATOMIC_WRITE_MAX, BLOCK, Result, bytes,
    engine::{
        change::{Claim, Request, Taken},
        lease::Writer,
        staging::Staged,
        state::{Engine, State, blocks_of},
    },
    format::PAGE_PAYLOAD,
    lack::{Lack, Shape, Step},
    log::{Op, Placed},
    tree::{EXTENT_BYTES, FoundLeaf, Fresh, Node, Root, overlap},
    units::{BLOCK_BYTES, Block, Target},
};
use std::{io::IoSlice, slice, sync::Arc};

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

/// A unit of a write: bytes that appear in the volume whole or not at all.
struct Write<'a> {
    engine: &'a Engine,
    by: Writer<'a>,
    bytes: Bytes<'a>,
    /// The unit's place in `bytes` and in the volume.
    skip: usize,
    offset: u64,
    len: usize,
    /// First block, and the block after the last.
    from: u64,
    to: u64,
    /// New content of the blocks. `None`: not made yet, or a block that is to be changed in part has moved since. What follows is of it.
    data: Option<Arc<[u8]>>,
    /// The first and the last block, as they were read, where the write changes them in part.
    edges: Vec<Edge<'a>>,
    op: Op,
    hash: u64,
    leaf: Option<FoundLeaf>,
}

impl<'a> Write<'a> {
    fn new(engine: &'a Engine, by: Writer<'a>, bytes: Bytes<'a>, skip: usize, offset: u64, len: usize) -> Write<'a> {
        let (from, to) = blocks_of(offset, len as u64);
        let op = Op::Write { volume: by.volume, data: Placed { block: from, ..Placed::default() } };
        let (data, edges) = (None, Vec::new());
        Write { engine, by, bytes, skip, offset, len, from, to, data, edges, op, hash: 0, leaf: None }
    }
    /// Makes the new content of the blocks: edges from what is there, the rest from the caller.
    fn make(&mut self) -> Result<Arc<[u8]>> {
        let Write { engine, by, skip, len, from, to, .. } = *self;
        let volume = by.volume;
        let (head, tail) = self.partial();
        if head > 0 || (tail > 0 && to == from + 1) {
            self.edges.push(engine.read_edge(Target::Volume(volume), from)?);
        }
        if tail > 0 && to > from + 1 {
            self.edges.push(engine.read_edge(Target::Volume(volume), to - 1)?);
        }
        if to == from + 1 {
            // On its way while the data is copied and summed.
            let state = engine.view()?;
            self.leaf =
                state.volume_records.get(&volume).and_then(|head| state.forest.prefetch(head.root.into(), from));
        }
        Ok(match self.bytes {
            Bytes::One(b) if self.edges.is_empty() && len == BLOCK => engine.staged_block(&b[skip..skip + len]),
            Bytes::One(b) if self.edges.is_empty() => b[skip..skip + len].into(),
            bytes => {
                let mut whole = vec![0; (to - from) as usize * BLOCK];
                for edge in &self.edges {
                    let at = (edge.block - from) as usize * BLOCK;
                    whole[at..at + BLOCK].copy_from_slice(&edge.data);
                }
                bytes.copy(skip, &mut whole[head..head + len]);
                whole.into()
            }
        })
    }
    /// Bytes of the first block before the unit, and of the last one in it, unless the block ends there.
    fn partial(&self) -> (usize, usize) {
        ((self.offset % BLOCK_BYTES) as usize, ((self.offset + self.len as u64) % BLOCK_BYTES) as usize)
    }
    fn forget(&mut self) {
        self.data = None;
        self.edges.clear();
    }
}

impl Request for Write<'_> {
    type Made = ();
    fn prepare(&mut self) -> Result<()> {
        if self.data.is_some() {
            return Ok(());
        }
        let data = self.make()?;
        if let Op::Write { data: placed, .. } = &mut self.op {
            placed.sums.clear();
            data.chunks_exact(BLOCK).for_each(|block| placed.sums.push(crc32fast::hash(block)));
        }
        self.hash = self.engine.data_hash(&data);
        self.data = Some(data);
        Ok(())
    }
    fn release(&mut self) {
        if !self.edges.is_empty() {
            self.forget();
        }
    }
    fn attempt(&mut self, state: &mut State, any: bool) -> Step<()> {
        let Some(data) = &self.data else { return Err(Lack::Reread.into()) };
        state.forest.foresee(self.leaf);
        state.check_write(self.by, self.offset, self.len as u64)?;
        for edge in &self.edges {
            if !edge.holds(state, Target::Volume(self.by.volume))? {
                self.forget();
                return Err(Lack::Reread.into());
            }
        }
        let runs = state.allocate_write(self.by.volume, self.to - self.from, any)?;
        state.log_write(&mut self.op, &runs, self.hash)?;
        let mut offset = 0;
        for run in &runs {
            state.staging.add(run.start, Staged { data: data.clone(), offset, blocks: run.len });
            offset += run.len as usize * BLOCK;
        }
        Ok(())
    }
}

impl State {
    // ---- what is demanded

    pub(super) fn check_write(&mut self, by: Writer<'_>, offset: u64, len: u64) -> Step<()> {
        let size = self.volume_record(by.volume)?.size;
        by.check()?;
        Ok(self.check_range(Target::Volume(by.volume), size, offset, len)?)
    }

    // ---- what is needed

    fn tree_nodes(&mut self, volume: u64) -> Step<usize> {
        Ok(usize::from(self.volume_record(volume)?.root.level) + 2)
    }
    /// Ranges longer than this many blocks leave their inside to reclaim.
    pub(super) fn doom_from(&self) -> u64 {
        if self.knobs.fanout == usize::MAX { 1024 } else { 8 }
    }
    /// Nodes that replacing a range by `extents` extents of `blocks` blocks needs at most: both edge paths copied, every node on them split,
    /// and the leaves that the new extents fill with the inner nodes above those.
    fn splice_nodes(&mut self, volume: u64, extents: usize, blocks: usize) -> Step<usize> {
        let bytes = (extents + 2) * EXTENT_BYTES + blocks * 4;
        let leaves = (2 * bytes).div_ceil(PAGE_PAYLOAD).max((2 * (extents + 2)).div_ceil(self.knobs.fanout)) + 1;
        Ok(4 * self.tree_nodes(volume)? + 2 * leaves)
    }
    /// Nodes that a write of `blocks` blocks needs at most: when each is an extent of its own.
    pub(super) fn write_nodes(&mut self, volume: u64, blocks: usize) -> Step<usize> {
        Ok(self.splice_nodes(volume, blocks, blocks)? + self.put_nodes())
    }
    /// Nodes that a placement needs at most.
    pub(super) fn needs_place(&mut self, volume: u64, data: &Placed) -> Step<usize> {
        self.splice_nodes(volume, extents_of(data), data.blocks() as usize)
    }
    /// Nodes that taking `blocks` blocks out of a volume and placing `edges` blocks needs at most.
    pub(super) fn needs_cut(&mut self, volume: u64, blocks: u64, edges: usize) -> Step<usize> {
        let splice = self.splice_nodes(volume, 2, 2)?;
        // A long cut leaves two doomed nodes a level, each with an entry of the list.
        let doomed = 2 * self.tree_nodes(volume)? * (self.put_nodes() + 1);
        Ok(splice * (1 + edges) + if blocks > self.doom_from() { doomed } else { 0 })
    }

    // ---- what is done

    /// Takes the blocks for a write of `blocks` blocks.
    pub(super) fn allocate_write(&mut self, volume: u64, blocks: u64, any: bool) -> Step<Taken> {
        let nodes = self.write_nodes(volume, blocks as usize)?;
        self.reserve(Claim::Ordinary, nodes, blocks)?;
        self.allocate_data(blocks, any)
    }
    /// Logs and applies a write of data that has its blocks.
    pub(super) fn log_write(&mut self, op: &mut Op, runs: &[crate::space::Run], hash: u64) -> Step<()> {
        let Op::Write { volume, data } = op else { return Ok(()) };
        data.runs.clear();
        data.runs.extend(runs.iter().map(|r| (r.start.0, r.len)));
        self.touch(*volume, data.block, data.block + data.sums.len() as u64)?;
        self.log.write(slice::from_ref(op))?;
        let Op::Write { volume, data } = op else { return Ok(()) };
        // Nothing follows that could stop.
        let last = self.knobs.again == 0;
        self.place(*volume, data, last)?;
        self.may_begin_anew()?;
        self.log.count([hash]);
        Ok(())
    }
    /// Has the counts in memory, and on their way to the processor, of what a write into a leaf of this generation replaces.
    fn touch(&mut self, volume: u64, from: u64, to: u64) -> Step<()> {
        let root = Root::from(self.volume_record(volume)?.root);
        let forest = &mut self.forest;
        if let Some(block) = forest.own_leaf(root, from, to)?
            && let Some(Node::Extents(leaf)) = forest.dirty.get(&block.0).map(|d| &*d.node)
        {
            let mut extents = leaf.extents[overlap(leaf, from, to)].iter();
            extents.try_for_each(|e| forest.space.touch_run(e.physical, e.len))?;
        }
        Ok(())
    }

    /// Puts data that is already allocated in its place. `last`: nothing that could stop follows in the operation.
    pub(super) fn place(&mut self, volume: u64, data: &Placed, last: bool) -> Step<()> {
        let root = Root::from(self.volume_record(volume)?.root);
        self.translations.forget(Target::Volume(volume), data.block, data.block + data.blocks());
        for &(start, len) in &data.runs {
            self.forest.space.add_first_parents(crate::space::Run { start: Block(start), len })?;
        }
        if let [(start, _)] = data.runs[..]
            && self.forest.exchange(root, data.block, Block(start), &data.sums, last)?
        {
            return Ok(());
        }
        let mut fresh = Vec::with_capacity(extents_of(data));
        let (mut logical, mut at) = (data.block, 0);
        for &(start, len) in &data.runs {
            let mut done = 0;
            while done < len {
                let n = (len - done).min(crate::EXTENT_MAX);
                fresh.push((logical, Block(start).plus(done.into()), data.sums[at..at + n as usize].to_vec()));
                (done, at, logical) = (done + n, at + n as usize, logical + u64::from(n));
            }
        }
        if self.forest.overwrite(root, data.block, logical, &fresh, last)? {
            return Ok(());
        }
        let (lo, hi) = (data.block.into(), logical.into());
        let root = self.forest.splice(root, Shape::Extents, lo, hi, Some(Fresh::Extents(fresh)), false)?;
        self.set_root(volume, root)
    }
}

/// Extents that a placement makes.
fn extents_of(data: &Placed) -> usize {
    data.runs.iter().map(|r| r.1.div_ceil(crate::EXTENT_MAX) as usize).sum()
}

impl Engine {
    /// Hash of data that a record names: decides at recovery whether it landed.
    pub(super) fn data_hash(&self, data: &[u8]) -> u64 {
        bytes::hash(data, self.hash_key)
    }

    /// Writes bytes at `offset`; units of up to 1 MiB, lowest first.
    pub(crate) fn write<'a>(&self, by: impl Into<Writer<'a>>, bytes: Bytes<'_>, offset: u64) -> Result<()> {
        let _delivery = self.delivery();
        let by = by.into();
        self.check_process()?;
        self.disk.writes_allowed()?;
        let len = bytes.len();
        let most = ATOMIC_WRITE_MAX as u64;
        let whole = offset.is_multiple_of(BLOCK_BYTES) && len.is_multiple_of(BLOCK_BYTES);
        if len == 0 || len > most || !whole || offset.checked_add(len).is_none() {
            // Of several units none is written if one does not fit; nothing is read past the end.
            let target = Target::Volume(by.volume);
            self.lookup(|state| Ok(state.check_range(target, state.extent_root(target)?.1, offset, len)?))?;
        }
        let mut at = 0;
        while at < len {
            let unit = if len <= most { len } else { (len - at).min(most - (offset + at) % most) };
            self.write_unit(by, bytes, at as usize, offset + at, unit as usize)?;
            at += unit;
        }
        Ok(())
    }

    fn write_unit(&self, by: Writer<'_>, bytes: Bytes<'_>, skip: usize, offset: u64, len: usize) -> Result<()> {
        if let Bytes::One(b) = bytes
            && len >= self.config.knobs.direct as usize * BLOCK
            && (offset | len as u64).is_multiple_of(BLOCK_BYTES)
        {
            return self.write_direct(by, &b[skip..skip + len], offset);
        }
        let changed = self.change(&mut Write::new(self, by, bytes, skip, offset, len))?;
        self.relieve_after(changed.relieve)
    }
}
