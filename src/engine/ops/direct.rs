//! Large writes of whole blocks: the data goes to its place in the file at once, and is logged and published when it is there. Until then its
//! blocks are taken and nobody refers to them.

use crate::{
    BLOCK, Result, bytes,
    engine::{
        change::{Changed, Claim, Request, Taken},
        lease::Writer,
        state::{Engine, State},
    },
    lack::Step,
    log::{Op, Placed, Sums},
    space::Run,
    units::BLOCK_BYTES,
};
use smallvec::SmallVec;

/// Bytes that are summed and then written at a time: no more than a processor's own cache holds, so that the copy into the host's cache finds
/// them there.
const PIECE: usize = 256 << 10;

/// A range of whole blocks.
#[derive(Clone, Copy)]
struct Range<'a> {
    by: Writer<'a>,
    offset: u64,
    blocks: u64,
}

impl Range<'_> {
    fn check(&self, state: &mut State) -> Step<()> {
        state.check_write(self.by, self.offset, self.blocks * BLOCK_BYTES)
    }
}

/// The first half of a large write: it takes the blocks.
struct Take<'a>(Range<'a>);

impl Request for Take<'_> {
    type Made = Taken;
    fn attempt(&mut self, state: &mut State, any: bool) -> Step<Taken> {
        self.0.check(state)?;
        let runs = state.allocate_write(self.0.by.volume, self.0.blocks, any)?;
        state.in_flight += self.0.blocks;
        Ok(runs)
    }
}

/// The second half: data that is in its place is logged and published.
struct Publish<'a> {
    range: Range<'a>,
    op: Op,
    runs: &'a [Run],
    hash: u64,
}

impl Request for Publish<'_> {
    type Made = ();
    fn attempt(&mut self, state: &mut State, _any: bool) -> Step<()> {
        self.range.check(state)?;
        let nodes = state.write_nodes(self.range.by.volume, self.range.blocks as usize)?;
        state.reserve(Claim::Ordinary, nodes, 0)?;
        state.log_write(&mut self.op, self.runs, self.hash)?;
        state.staging.went_ahead();
        state.in_flight -= self.range.blocks;
        Ok(())
    }
}

impl Engine {
    pub(super) fn write_direct(&self, by: Writer<'_>, data: &[u8], offset: u64) -> Result<()> {
        let range = Range { by, offset, blocks: (data.len() / BLOCK) as u64 };
        let runs = self.change(&mut Take(range))?.made;
        let published = self.write_in_place(&runs, data).and_then(|(sums, hash)| {
            let placed = Placed { block: offset / BLOCK_BYTES, runs: SmallVec::new(), sums };
            self.change(&mut Publish { range, op: Op::Write { volume: by.volume, data: placed }, runs: &runs, hash })
        });
        if published.is_err() {
            let mut state = self.state.write();
            state.in_flight -= range.blocks;
            runs.into_iter().for_each(|r| state.forest.space.abandon(r));
        }
        let Changed { relieve, .. } = published?;
        self.relieve_after(relieve)
    }

    /// Writes data into blocks that nobody refers to. Returns its checksums and its hash.
    fn write_in_place(&self, runs: &[Run], data: &[u8]) -> Result<(Sums, u64)> {
        let mut sums = SmallVec::with_capacity(data.len() / BLOCK);
        let mut hash = bytes::Hash::new(self.hash_key);
        let mut rest = data;
        for run in runs {
            let (here, after) = rest.split_at(run.len as usize * BLOCK);
            rest = after;
            let mut at = run.start.offset();
            // Piece by piece, each as the calls are cut: what is summed is still in the processor's cache when it is copied.
            let mut rest = here;
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(rest.len().min(PIECE - (at % PIECE as u64) as usize));
                rest = after;
                for block in piece.chunks_exact(BLOCK) {
                    // Both sums of a block one after the other: the second finds it in the nearest cache.
                    sums.push(crc32fast::hash(block));
                    hash.add(block);
                }
                let placing = self.placing.read();
                self.disk.write_large(at, piece)?;
                drop(placing);
                at += piece.len() as u64;
            }
            self.note_unpushed([*run].into_iter());
        }
        Ok((sums, hash.finish()))
    }
}
