//! Space of single volumes and snapshots. A tree is walked leaf by leaf, each looked up from the root; nothing is held between two lookups,
//! and the cache stays as it was.

use crate::{
    ErrorKind, Result, SnapshotId, VolumeId,
    engine::Engine,
    lack::{Child, Shape},
    tree::{Loaded, Node, read_path},
    units::{BLOCK_BYTES, Block, Target},
};

/// Space of one volume or snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Usage {
    /// Bytes of data that it maps.
    pub mapped_bytes: u64,
    /// Bytes of data and nodes that deleting it alone would free.
    pub exclusive_bytes: u64,
}

/// Space of a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct VolumeUsage {
    /// The volume.
    pub id: VolumeId,
    /// Its space.
    pub usage: Usage,
}

/// Space of a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct SnapshotUsage {
    /// The snapshot.
    pub id: SnapshotId,
    /// Its space.
    pub usage: Usage,
}

/// What [`crate::Store::usage_all`] returns.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct UsageReport {
    /// All volumes, by id.
    pub volumes: Vec<VolumeUsage>,
    /// All snapshots, by id.
    pub snapshots: Vec<SnapshotUsage>,
}

/// Returns how many blocks of some runs have one parent, in one step: a leaf names no more than a thousand blocks. Where a count can't be
/// read, the rest of its run is left out.
fn single(engine: &Engine, runs: &[(Block, u32)]) -> Result<u64> {
    // The next count is that of block `at` of the first run in `left`. A step that lacks a page goes on there once it has it.
    let (mut single, mut left, mut at) = (0, runs, 0);
    while !left.is_empty() {
        let counted = engine.step(|state| {
            while let Some(((start, len), rest)) = left.split_first() {
                while at < *len {
                    single += u64::from(state.forest.space.count(start.plus(at.into()))? == 1);
                    at += 1;
                }
                (left, at) = (rest, 0);
            }
            Ok(())
        });
        match counted {
            Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Io) => (left, at) = (&left[1..], 0),
            counted => counted?,
        }
    }
    Ok(single)
}

/// Walks one tree. A block is exclusive if it and all nodes above it have one parent. Each leaf shows one moment, with the nodes above it;
/// counts are those of the moment at which they are read.
pub(crate) fn usage(engine: &Engine, target: Target) -> Result<Usage> {
    let mut out = Usage::default();
    let mut loaded = Loaded::default();
    // The nodes from the root down to the leaf, each with whether it is exclusive.
    let (mut above, mut path): (Vec<(Child, bool)>, Vec<Child>) = Default::default();
    let mut at = 0;
    while at < Shape::Extents.end() {
        let mut runs = Vec::new();
        let end = engine.lookup_aside(&mut loaded, |state, nodes| {
            let (root, _) = state.extent_root(target)?;
            runs.clear();
            let Some((leaf, end)) = read_path(nodes, root, Shape::Extents, at, &mut path)? else { return Ok(None) };
            if let Node::Extents(leaf) = leaf {
                let from = leaf.from(u64::try_from(at).unwrap_or(u64::MAX));
                runs.extend(leaf.extents[from..].iter().map(|e| (e.physical, e.len)));
            }
            Ok(Some(end))
        })?;
        let Some(end) = end else { break };
        let known = above.iter().zip(&path).take_while(|(known, child)| known.0 == **child).count();
        above.truncate(known);
        for child in &path[known..] {
            let own = above.last().is_none_or(|(_, own)| *own) && single(engine, &[(child.block, 1)])? == 1;
            out.exclusive_bytes += u64::from(own) * BLOCK_BYTES;
            above.push((*child, own));
        }
        let own = above.last().is_some_and(|(_, own)| *own);
        out.mapped_bytes += runs.iter().map(|(_, len)| u64::from(*len) * BLOCK_BYTES).sum::<u64>();
        if own {
            out.exclusive_bytes += single(engine, &runs)? * BLOCK_BYTES;
        }
        // The next leaf has these nodes above it too.
        path.pop();
        loaded.keep(&path);
        at = end;
    }
    Ok(out)
}

/// Returns the [`usage`] of each volume and snapshot that exists when its turn comes.
pub(crate) fn usage_all(engine: &Engine) -> Result<UsageReport> {
    let mut out = UsageReport::default();
    let there = |target| match usage(engine, target) {
        Err(e) if e.kind() == ErrorKind::Deleted => Ok(None),
        usage => usage.map(Some),
    };
    let mut from = Some(0);
    while let Some(id) = from {
        let page = engine.volumes(id, usize::MAX)?;
        from = page.last().and_then(|(id, _)| id.checked_add(1));
        for (id, _) in page {
            let usage = there(Target::Volume(id))?;
            out.volumes.extend(usage.map(|usage| VolumeUsage { id: VolumeId(id), usage }));
        }
    }
    let mut from = Some(0);
    while let Some(id) = from {
        let (page, next) = engine.snapshots(id, usize::MAX)?;
        from = next;
        for (id, _) in page {
            let usage = there(Target::Snapshot(id))?;
            out.snapshots.extend(usage.map(|usage| SnapshotUsage { id: SnapshotId(id), usage }));
        }
    }
    Ok(out)
}
