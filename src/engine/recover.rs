//! Recovery's second half: what the log says is applied to the state with the code that applied it live.

use super::state::State;
use crate::{
    Error, ErrorKind, IMAGE_MAX, Result,
    format::Superblock,
    log::{Op, Replay},
    space::Run,
    units::{BLOCK_BYTES, Block},
};

/// Regions that the image may have grown by for operations of which the log has no record: one that failed had its space all the same.
const MORE_REGIONS: u64 = 1024;

impl State {
    /// Applies what counts. Space that the records name and that the host may have to give again is noted in [`State::owed`]: nothing is
    /// asked of the host for a claim before all of them were found to hold.
    pub(crate) fn replay(&mut self, replay: &Replay, writable: bool, base_len: u64) -> Result<()> {
        let damaged = |e: Error| match e.kind() {
            ErrorKind::Deleted | ErrorKind::NotFound => Error::corrupt(format!("intent log: {e}")),
            _ => e.at("intent log"),
        };
        replay.ops.iter().try_for_each(|op| self.give_again(op)).map_err(damaged)?;
        let (before, most) = (self.forest.space.spans(), self.most_regions(replay));
        replay.ops.iter().try_for_each(|op| self.take_placed(op, most, base_len)).map_err(damaged)?;
        let geometry = self.forest.space.geometry();
        let (start, end) = (geometry.start(before), geometry.start(self.forest.space.spans()));
        if start < end {
            self.owed.push((start.offset(), end.offset() - start.offset()));
        }
        for op in &replay.ops {
            self.check_new(op).map_err(damaged)?;
            self.heads_of(op).map_err(damaged)?;
            let nodes = self.nodes_for(op).map_err(damaged)?;
            // The live run had these; where the host gives no more, what is there has to do.
            let mut refused = None;
            while refused.is_none() && !self.forest.fill_pool(nodes)? {
                refused = self.grow_for_nodes(nodes, writable).err();
            }
            match self.apply(op) {
                Ok(()) => {}
                Err(e) => return Err(refused.unwrap_or_else(|| damaged(e))),
            }
        }
        Ok(())
    }

    /// `nodes_for` wants the records of volumes and snapshots in memory, as the live run had them.
    fn heads_of(&mut self, op: &Op) -> Result<()> {
        match op {
            Op::Write { volume, .. }
            | Op::Cut { volume, .. }
            | Op::Rollback { volume, .. }
            | Op::DeleteVolume { volume, .. }
            | Op::SetTags { snapshot: false, id: volume, .. }
            | Op::Resize { volume, .. } => self.head(*volume).map(drop),
            Op::DeleteSnapshot { snapshot } | Op::SetTags { snapshot: true, id: snapshot, .. } => {
                self.frozen_head(*snapshot).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Regions that the image can have at most: what it grew by since the checkpoint was used up, but for what one operation asks for,
    /// before it grew again (see `Space::find_region`). So memory for regions follows from what the log says, not from what a file's length
    /// claims.
    fn most_regions(&self, replay: &Replay) -> u64 {
        let mut placed = Vec::new();
        replay.ops.iter().for_each(|op| op.placed(&mut placed));
        let named: u64 = placed.iter().map(|p| p.blocks()).sum();
        let nodes: u64 = replay.ops.iter().map(Op::weight).sum();
        let spans = self.forest.space.spans();
        spans + MORE_REGIONS + (2 * (named + nodes)).div_ceil(self.forest.space.geometry().usable())
    }

    /// Has the host give regions for nodes. Where it has no space for so many, fewer may do: the live run took no more than it needed.
    fn grow_for_nodes(&mut self, nodes: usize, writable: bool) -> Result<()> {
        let (geometry, spans) = (self.forest.space.geometry(), self.forest.space.spans());
        let mut more = (nodes as u64).div_ceil(6);
        let ask = |more| {
            let (start, end) = (geometry.start(spans).offset(), geometry.start(spans + more).offset());
            if writable { self.forest.disk.reserve(start, end - start) } else { Ok(()) }
        };
        while let Err(e) = ask(more) {
            if e.kind() != ErrorKind::NoSpace || more == 1 {
                return Err(e);
            }
            more /= 2;
        }
        self.grow(spans + more)
    }

    fn grow(&mut self, to: u64) -> Result<()> {
        let forest = &mut self.forest;
        if forest.space.geometry().start(to).offset() > IMAGE_MAX {
            return Err(Error::corrupt("intent log: a record names a block past the largest image"));
        }
        forest.space.grow(&forest.disk, to)
    }

    /// A block whose content only the log has was perhaps given by the host, again, since the checkpoint: no data that landed there says so.
    fn give_again(&mut self, op: &Op) -> Result<()> {
        let Op::Data { at, .. } = op else { return Ok(()) };
        let (run, forest) = (Run { start: Block(*at), len: 1 }, &mut self.forest);
        let region = forest.space.geometry().locate(run.start).map(|place| place.0);
        if region.is_some_and(|r| r < forest.space.spans()) && forest.space.is_returned(&forest.disk, run)? {
            self.owed.push((run.start.offset(), BLOCK_BYTES));
        }
        Ok(())
    }

    fn take_placed(&mut self, op: &Op, most: u64, base_len: u64) -> Result<()> {
        let mut placed = Vec::new();
        op.placed(&mut placed);
        for &(start, len) in placed.iter().flat_map(|p| &p.runs) {
            let last = Block(start).plus(u64::from(len) - 1);
            if last.plus(1).offset() > base_len {
                return Err(Error::new(ErrorKind::Truncated, format!("acknowledged data at {last} lies past the end")));
            }
            let geometry = self.forest.space.geometry();
            if let Some((region, _)) = geometry.locate(last)
                && region >= self.forest.space.spans()
            {
                if region >= most {
                    return Err(Error::corrupt(format!("a record names {last}, which the image can't have grown to")));
                }
                self.grow(region + 1)?;
            }
            for i in 0..u64::from(len) {
                self.forest.space.take(&self.forest.disk, Block(start).plus(i))?;
            }
        }
        Ok(())
    }
}

/// Bytes that the image must have for its durable checkpoint.
pub(crate) fn needed_len(sb: &Superblock) -> u64 {
    crate::space::Geometry::of(sb).start(sb.spans).0.saturating_mul(BLOCK_BYTES)
}
