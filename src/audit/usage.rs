//! Figures of an open store.

use super::Capture;
use crate::{
    Result, SnapshotId, VolumeId,
    engine::Engine,
    format::{COUNT_RETURNED, RootPointer},
    tree::{Miss, Node, Root, Shape, read_step},
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
    /// Bytes given back to the host.
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
    let capture = engine.capture()?;
    let mut out = totals(engine)?;
    for (id, v) in &capture.volumes {
        out.volumes.push(VolumeStats { id: VolumeId(*id), usage: usage(&capture, v.root)? });
    }
    for (id, s) in capture.snapshots.iter().filter(|s| !capture.sweeping.contains(&s.1.volume)) {
        out.snapshots.push(SnapshotStats { id: SnapshotId(*id), usage: usage(&capture, s.root)? });
    }
    Ok(out)
}

/// Walks one tree. What has one parent, all the way up, is exclusive.
fn usage(capture: &Capture, root: RootPointer) -> Result<Usage> {
    let mut out = Usage::default();
    let root = Root::from(root);
    let Some(child) = root.node else { return Ok(out) };
    let count = |block: Block| -> u32 {
        let place = capture.geometry.locate(block);
        let n = place.and_then(|(r, i)| capture.counts.get(r as usize)?.as_ref().ok()?.get(i).copied());
        n.filter(|&n| n < COUNT_RETURNED).unwrap_or(0)
    };
    let start = Miss { shape: Shape::Extents, child, level: root.level, bounds: (0, Shape::Extents.end()) };
    let mut stack = vec![(start, true)];
    while let Some((want, above)) = stack.pop() {
        let own = above && count(want.child.block) == 1;
        out.exclusive += u64::from(own) * BLOCK_BYTES;
        match &*capture.node(want)? {
            Node::Inner { entries, .. } => {
                stack.extend((0..entries.len()).map(|i| (read_step(want, entries, i), own)));
            }
            Node::Extents(leaf) => {
                for e in &leaf.extents {
                    out.mapped += u64::from(e.len) * BLOCK_BYTES;
                    if own {
                        let single = (0..u64::from(e.len)).filter(|&i| count(e.physical.plus(i)) == 1).count() as u64;
                        out.exclusive += single * BLOCK_BYTES;
                    }
                }
            }
            Node::Records(_) => {}
        }
    }
    Ok(out)
}
