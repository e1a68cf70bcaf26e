//! Discards and zeroing: a range reads as zeros, one unit whatever its length.

use super::edge::Edge;
use crate::{
    Result,
    engine::{
        change::{Claim, Request},
        lease::Writer,
        staging::Staged,
        state::{Engine, State, blocks_of},
    },
    lack::{Lack, Shape, Step},
    log::{Op, Placed},
    tree::Root,
    units::{BLOCK_BYTES, Target},
};
use smallvec::smallvec;
use std::slice;

struct Cut<'a> {
    engine: &'a Engine,
    by: Writer<'a>,
    volume: u64,
    offset: u64,
    len: u64,
    /// Size of the volume, and the blocks that are zeroed in part, with their new content; as they were read.
    read: Option<(u64, Vec<Edge<'a>>)>,
}

impl<'a> Cut<'a> {
    fn read(&self) -> Result<(u64, Vec<Edge<'a>>)> {
        let Cut { engine, volume, offset, len, .. } = *self;
        let size = engine.step(|state| Ok(state.volume_record(volume)?.size))?;
        let ((from, to), end) = (blocks_of(offset, len), offset + len);
        // Beyond the size a block is zero anyway: a range that ends there needs no edge.
        let (head, tail) = (offset % BLOCK_BYTES, if end == size { 0 } else { end % BLOCK_BYTES });
        let mut edges = Vec::new();
        let mut edge = |block| -> Result<()> {
            edges.push(engine.read_edge(Target::Volume(volume), block)?.zeroed(offset, end));
            Ok(())
        };
        if head > 0 || (tail > 0 && to == from + 1) {
            edge(from)?;
        }
        if tail > 0 && to > from + 1 {
            edge(to - 1)?;
        }
        Ok((size, edges))
    }
}

impl Request for Cut<'_> {
    type Made = ();
    fn prepare(&mut self) -> Result<()> {
        if self.read.is_none() {
            self.read = Some(self.read()?);
        }
        Ok(())
    }
    fn release(&mut self) {
        self.read = None;
    }
    fn attempt(&mut self, state: &mut State, any: bool) -> Step<()> {
        let Some((size, edges)) = &self.read else { return Err(Lack::Reread.into()) };
        let (volume, target) = (self.volume, Target::Volume(self.volume));
        state.check_write(self.by, self.offset, self.len)?;
        let mut holds = state.volume_record(volume)?.size == *size;
        for edge in edges {
            holds = holds && edge.holds(state, target)?;
        }
        if !holds {
            self.read = None;
            return Err(Lack::Reread.into());
        }
        let (from, to) = blocks_of(self.offset, self.len);
        let kept: Vec<_> = edges.iter().filter(|e| e.mapped.is_some()).collect();
        let nodes = state.needs_cut(volume, to - from, kept.len())? + state.put_nodes();
        state.reserve(Claim::Freeing, nodes, kept.len() as u64)?;
        let runs = state.allocate_data(kept.len() as u64, any)?;
        let blocks: Vec<_> = runs.iter().flat_map(|r| (0..u64::from(r.len)).map(|i| r.start.plus(i))).collect();
        let placed = kept.iter().zip(&blocks).map(|(e, at)| Placed {
            block: e.block,
            runs: smallvec![(at.0, 1)],
            sums: smallvec![crc32fast::hash(&e.data)],
        });
        let op = Op::Cut { volume, from, to, edges: placed.collect() };
        state.log.write(slice::from_ref(&op))?;
        let Op::Cut { edges, .. } = &op else { return Ok(()) };
        // Nothing follows its last step that could stop.
        let last = state.knobs.again == 0;
        state.cut(volume, from, to, last && edges.is_empty())?;
        for (i, edge) in edges.iter().enumerate() {
            state.place(volume, edge, last && i + 1 == edges.len())?;
        }
        state.may_begin_anew()?;
        state.log.count(kept.iter().map(|e| self.engine.data_hash(&e.data)));
        for (e, at) in kept.iter().zip(&blocks) {
            state.staging.add(*at, Staged { data: e.data.clone(), offset: 0, blocks: 1 });
        }
        Ok(())
    }
}

impl State {
    /// Takes the blocks `from..to` out of a volume. `last` as for [`State::place`].
    pub(super) fn cut(&mut self, volume: u64, from: u64, to: u64, last: bool) -> Step<()> {
        if from >= to {
            return Ok(());
        }
        let root = Root::from(self.volume_record(volume)?.root);
        self.translations.forget(Target::Volume(volume), from, to);
        let doom = to - from > self.doom_from();
        if !doom && self.forest.overwrite(root, from, to, &[], last)? {
            return Ok(());
        }
        let root = self.forest.splice(root, Shape::Extents, from.into(), to.into(), None, doom)?;
        self.set_root(volume, root)
    }
}

impl Engine {
    /// Makes a range read as zeros: one unit, whatever its length.
    pub(crate) fn cut<'a>(&self, by: impl Into<Writer<'a>>, offset: u64, len: u64) -> Result<()> {
        let _delivery = self.delivery();
        let by = by.into();
        let volume = by.volume;
        self.check_process()?;
        self.disk.writes_allowed()?;
        let target = Target::Volume(volume);
        self.lookup(|state| Ok(state.check_range(target, state.extent_root(target)?.1, offset, len)?))?;
        if len == 0 {
            return Ok(());
        }
        let changed = self.change(&mut Cut { engine: self, by, volume, offset, len, read: None })?;
        self.relieve_after(changed.relieve)
    }
}
