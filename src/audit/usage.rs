//! Figures of an open store.

use super::{Capture, capture::Tally};
use crate::{
    ErrorKind, Result, SnapshotId, VolumeId,
    engine::Engine,
    format::RootPointer,
    lack::Shape,
    tree::{Node, Walk},
    units::{BLOCK_BYTES, Block},
};
use std::sync::atomic::Ordering::Relaxed;

/// Bytes of one volume or snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Bytes of data that it maps.
    pub mapped: u64,
    /// Bytes, of data and nodes, that deleting it alone would free.
    pub exclusive: u64,
}

/// A volume's figures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VolumeStats {
    /// Whose.
    pub id: VolumeId,
    /// Its bytes.
    pub usage: Usage,
}

/// A snapshot's figures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotStats {
    /// Whose.
    pub id: SnapshotId,
    /// Its bytes.
    pub usage: Usage,
}

/// What [`crate::Store::stats`] tells. Counters start at opening.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// By id.
    pub volumes: Vec<VolumeStats>,
    /// By id.
    pub snapshots: Vec<SnapshotStats>,
    /// Bytes of the image file that the engine has laid out.
    pub image_bytes: u64,
    /// Bytes free to allocate now.
    pub free_bytes: u64,
    /// Bytes freed that wait for a checkpoint, or for reads to end.
    pub waiting_bytes: u64,
    /// Bytes returned to the host.
    pub returned_bytes: u64,
    /// Subtrees waiting for reclaim.
    pub reclaim_entries: u64,
    /// Pages of the log in use.
    pub log_used: u64,
    /// Pages of the log.
    pub log_pages: u64,
    /// Syncs issued.
    pub syncs: u64,
    /// Blocks read from the backend.
    pub blocks_read: u64,
    /// Blocks written to the backend.
    pub blocks_written: u64,
    /// Nodes copied because they were shared or on disk.
    pub nodes_shadowed: u64,
    /// The last durable checkpoint.
    pub generation: u64,
    /// Bytes of fresh space written before they were used; see [`crate::Options::write_fresh_space`].
    pub fresh_bytes: u64,
    /// Times that the maintenance thread woke. An idle store does not wake it.
    pub wakeups: u64,
}

/// The figures that need no walk.
pub(crate) fn totals(engine: &Engine) -> Result<Stats> {
    let state = engine.view()?;
    let space = &state.forest.space;
    Ok(Stats {
        image_bytes: space.end(),
        free_bytes: (space.available() + state.forest.pool.len() as u64) * BLOCK_BYTES,
        waiting_bytes: space.waiting() * BLOCK_BYTES,
        returned_bytes: space.returned() * BLOCK_BYTES,
        reclaim_entries: state.doomed,
        log_used: state.log.used_pages(),
        log_pages: state.log.pages,
        syncs: engine.disk.syncs.load(Relaxed),
        blocks_read: engine.disk.read_bytes.sum().div_ceil(crate::units::BLOCK_BYTES),
        blocks_written: engine.disk.written_blocks.load(Relaxed),
        nodes_shadowed: state.forest.shadowed,
        generation: state.generation - 1,
        fresh_bytes: engine.fresh_written.load(Relaxed),
        wakeups: engine.wakeups.load(Relaxed),
        ..Stats::default()
    })
}

pub(crate) fn stats(engine: &Engine) -> Result<Stats> {
    let capture = Capture::take(engine, 0..0, &mut Tally::default())?;
    let mut out = totals(engine)?;
    capture.each_volume(|id, v| {
        out.volumes.push(VolumeStats { id: VolumeId(id), usage: usage(engine, &capture, v.root)? });
        Ok(())
    })?;
    capture.each_snapshot(|id, s| {
        if !capture.sweeping.contains(&s.volume) {
            out.snapshots.push(SnapshotStats { id: SnapshotId(id), usage: usage(engine, &capture, s.root)? });
        }
        Ok(())
    })?;
    Ok(out)
}

/// Walks one tree. What has one parent, all the way up, is exclusive; what has a count that can't be read is not. Nodes are of one moment,
/// counts of the moment at which they are met.
fn usage(engine: &Engine, capture: &Capture, root: RootPointer) -> Result<Usage> {
    let mut out = Usage::default();
    // How many blocks of a run have one parent.
    let single = |start: Block, len: u32| {
        let counted = engine.step(|state| {
            let space = &mut state.forest.space;
            (0..u64::from(len)).try_fold(0, |n, i| Ok(n + u64::from(space.count(start.plus(i))? == 1)))
        });
        match counted {
            Err(e) if e.kind() == ErrorKind::Closed => Err(e),
            counted => Ok(counted.unwrap_or(0)),
        }
    };
    let mut walk = Walk::new(root, Shape::Extents, true);
    while let Some((want, above)) = walk.next() {
        let own = above && single(want.child.block, 1)? == 1;
        out.exclusive += u64::from(own) * BLOCK_BYTES;
        match &*capture.get(&want)? {
            Node::Inner { entries, .. } => walk.enter(want, entries, &own),
            Node::Extents(leaf) => {
                for e in &leaf.extents {
                    out.mapped += u64::from(e.len) * BLOCK_BYTES;
                    if own {
                        out.exclusive += single(e.physical, e.len)? * BLOCK_BYTES;
                    }
                }
            }
            Node::Records(_) => {}
        }
    }
    Ok(out)
}
