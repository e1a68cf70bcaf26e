//! The second half of recovery: applies the log's records to the state with the code that applied them live.

use super::state::{Engine, State};
use crate::{
    Error, ErrorKind, IMAGE_MAX, Result,
    format::Superblock,
    lack::Step,
    log::{Op, Replay},
    space::Run,
    units::{BLOCK_BYTES, Block},
};

/// Regions that the image may have grown by for operations without a record: one that failed had its space all the same.
const MORE_REGIONS: u64 = 1024;

impl Engine {
    /// Applies the records that count. Space that they name and that may have to be reserved again is noted in [`State::owed`]: the host is
    /// asked for nothing before all records were found to be valid.
    pub(crate) fn replay(&self, replay: &Replay, writable: bool, base_len: u64) -> Result<()> {
        let damaged = |e: Error| match e.kind() {
            ErrorKind::Deleted | ErrorKind::NotFound => Error::corrupt(format!("intent log: {e}")),
            _ => e.at("intent log"),
        };
        replay.ops.iter().try_for_each(|op| self.note_returned(op)).map_err(damaged)?;
        let (before, most) = {
            let state = self.view()?;
            (state.forest.space.spans(), state.most_regions(replay))
        };
        replay.ops.iter().try_for_each(|op| self.take_placed(op, most, base_len)).map_err(damaged)?;
        {
            let mut state = self.state_mut()?;
            let geometry = state.forest.space.geometry();
            let (start, end) = (geometry.start(before), geometry.start(state.forest.space.spans()));
            if start < end {
                state.owed.push((start.offset(), end.offset() - start.offset()));
            }
        }
        replay.ops.iter().try_for_each(|op| self.apply_again(op, writable, damaged))?;
        let (mut sweeps, mut from) = (Vec::new(), 0);
        loop {
            let page = self.lookup(|state| state.catalog_view().sweeps(from, 256))?;
            let Some(last) = page.last() else { break };
            from = last.saturating_add(1);
            sweeps.extend(page);
        }
        let mut flusher = self.flusher.lock();
        let mut state = self.state_mut()?;
        state.sweeping = sweeps.into_iter().collect();
        state.log.position = replay.position;
        state.log.group = replay.group + 1;
        (flusher.previous, flusher.acked) = (replay.hash, replay.group);
        Ok(())
    }

    fn apply_again(&self, op: &Op, writable: bool, damaged: impl Fn(Error) -> Error) -> Result<()> {
        // The live run had these nodes. Where the host has no space for more, the space that is there has to suffice.
        let mut refused = None;
        loop {
            let lacking = self.step(|state| {
                state.check_new(op)?;
                let nodes = state.needs(op)?;
                if refused.is_none() && !state.forest.fill_pool(nodes)? {
                    return Ok(Some(nodes));
                }
                state.apply(op)?;
                state.may_begin_anew().map(|()| None)
            });
            match (lacking, refused) {
                (Ok(None), _) => return Ok(()),
                (Ok(Some(nodes)), _) => refused = self.grow_for_nodes(nodes, writable).err(),
                (Err(_), Some(refused)) => return Err(refused),
                (Err(e), None) => return Err(damaged(e)),
            }
        }
    }

    /// Reserves regions for nodes. Where the host has no space for all of them, fewer may suffice: the live run took no more than it needed.
    fn grow_for_nodes(&self, nodes: usize, writable: bool) -> Result<()> {
        let (geometry, spans) = {
            let state = self.view()?;
            (state.forest.space.geometry(), state.forest.space.spans())
        };
        let mut more = (nodes as u64).div_ceil(6);
        let ask = |more| {
            let (start, end) = (geometry.start(spans).offset(), geometry.start(spans + more).offset());
            if writable { self.disk.reserve(start, end - start) } else { Ok(()) }
        };
        while let Err(e) = ask(more) {
            if e.kind() != ErrorKind::NoSpace || more == 1 {
                return Err(e);
            }
            more /= 2;
        }
        self.step(|state| state.grow(spans + more))
    }

    /// Notes a block whose content only the log has and that the checkpoint calls returned to the host: it was reserved again since then, and
    /// no data that was written there shows that.
    fn note_returned(&self, op: &Op) -> Result<()> {
        let Op::Data { at, .. } = op else { return Ok(()) };
        let run = Run { start: Block(*at), len: 1 };
        self.step(|state| {
            let space = &mut state.forest.space;
            let region = space.geometry().locate(run.start).map(|place| place.0);
            if region.is_some_and(|r| r < space.spans()) && space.is_returned(run)? {
                state.owed.push((run.start.offset(), BLOCK_BYTES));
            }
            Ok(())
        })
    }

    fn take_placed(&self, op: &Op, most: u64, base_len: u64) -> Result<()> {
        let mut placed = Vec::new();
        op.placed(&mut placed);
        for &(start, len) in placed.iter().flat_map(|p| &p.runs) {
            let last = Block(start).plus(u64::from(len) - 1);
            if last.plus(1).offset() > base_len {
                return Err(Error::new(ErrorKind::Truncated, format!("acknowledged data at {last} lies past the end")));
            }
            self.step(|state| {
                let space = &mut state.forest.space;
                if let Some((region, _)) = space.geometry().locate(last)
                    && region >= space.spans()
                {
                    if region >= most {
                        let what = format!("a record names {last}, which the image can't have grown to");
                        return Err(Error::corrupt(what).into());
                    }
                    state.grow(region + 1)?;
                }
                state.forest.space.take(Run { start: Block(start), len })
            })?;
        }
        Ok(())
    }
}

impl State {
    /// Returns how many regions the image can have at most. The live image grew again only once the regions that it had grown by were used
    /// up, but for what one operation asks for (see `Space::find_region`). So memory for regions follows from what the log says, not from
    /// what a file's length claims.
    fn most_regions(&self, replay: &Replay) -> u64 {
        let mut placed = Vec::new();
        replay.ops.iter().for_each(|op| op.placed(&mut placed));
        let named: u64 = placed.iter().map(|p| p.blocks()).sum();
        let nodes: u64 = replay.ops.iter().map(Op::weight).sum();
        let spans = self.forest.space.spans();
        spans + MORE_REGIONS + (2 * (named + nodes)).div_ceil(self.forest.space.geometry().usable())
    }

    fn grow(&mut self, to: u64) -> Step<()> {
        if self.forest.space.geometry().start(to).offset() > IMAGE_MAX {
            return Err(Error::corrupt("intent log: a record names a block past the largest image").into());
        }
        self.forest.space.grow(to)
    }
}

/// Returns the length in bytes that the image must have for its durable checkpoint.
pub(crate) fn needed_len(sb: &Superblock) -> u64 {
    crate::space::Geometry::of(sb).start(sb.spans).0.saturating_mul(BLOCK_BYTES)
}
