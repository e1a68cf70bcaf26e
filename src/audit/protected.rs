//! What a crash would need of a durable image, for the simulator's guard.
#![allow(unreachable_pub, reason = "public through `sim_support`")]

use super::{Capture, capture::Tally};
use crate::{
    Result,
    engine::{Config, Engine, Newest, needed_len, newest_superblock},
    format::SLOTS,
    io::{Backend, Disk, Host},
    lack::Shape,
    log,
    tree::{Node, Walk},
};
use std::{collections::BTreeSet, sync::Arc};

/// What a crash now would need of a durable image: none of it may be overwritten, punched or cut off.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Protected {
    /// Byte offset of the newest superblock.
    pub superblock: u64,
    /// Blocks that the durable checkpoint reaches, and that log records name without their content.
    pub blocks: BTreeSet<u64>,
    /// Log pages of groups that count.
    pub log_pages: BTreeSet<u64>,
    /// Bytes that the durable checkpoint needs.
    pub len: u64,
}

/// Determines what `backend`, taken as the durable image, protects.
pub fn protected(backend: Arc<dyn Backend>, host: Arc<dyn Host>, config: Config) -> Result<Protected> {
    let disk = Disk::new(backend.clone(), false);
    let Newest { superblock: sb, other: slot, .. } = newest_superblock(&disk, false)?;
    let replay = log::scan(&disk, &sb, false)?;
    let mut out = Protected {
        superblock: SLOTS[1 - slot].offset(),
        log_pages: replay.pages.iter().map(|b| b.0).collect(),
        len: needed_len(&sb),
        ..Protected::default()
    };
    let mut placed = Vec::new();
    replay.ops.iter().for_each(|op| op.placed(&mut placed));
    for (start, len) in placed.iter().flat_map(|p| &p.runs) {
        out.blocks.extend((0..u64::from(*len)).map(|i| start + i));
    }
    // Content that the log itself carries may be written to its place at any time.
    for op in &replay.ops {
        if let log::Op::Data { at, .. } = op {
            out.blocks.remove(at);
        }
    }
    // The checkpoint alone, without the log.
    let mut clean = sb;
    clean.clean = true;
    let engine = Engine::checkpoint_view(backend, host, config, clean)?;
    let capture = Capture::take(&engine, 0..0, &mut Tally::default())?;
    let mut trees = vec![(capture.catalog, Shape::Records)];
    let mut extents = |root| {
        trees.push((root, Shape::Extents));
        Ok(())
    };
    capture.each_volume(|_, v| extents(v.root))?;
    capture.each_snapshot(|_, s| extents(s.root))?;
    capture.each_doomed(|_, root| extents(root))?;
    for walk in trees.into_iter().map(|(root, shape)| Walk::new(root, shape, ())) {
        protect(&capture, walk, &mut out.blocks)?;
    }
    // Pages of the space map that were read are needed too.
    let spans = capture.spans;
    drop(Capture::take(&engine, 0..spans, &mut Tally::default())?);
    for block in engine.state_mut()?.forest.space.current_homes() {
        out.blocks.insert(block.0);
    }
    Ok(out)
}

/// Adds every block of a tree.
fn protect(capture: &Capture, mut walk: Walk<()>, blocks: &mut BTreeSet<u64>) -> Result<()> {
    while let Some((want, ())) = walk.next() {
        if !blocks.insert(want.child.block.0) {
            continue;
        }
        match &*capture.get(&want)? {
            Node::Inner { entries, .. } => walk.enter(want, entries, &()),
            Node::Extents(leaf) => {
                for e in &leaf.extents {
                    blocks.extend((0..u64::from(e.len)).map(|i| e.physical.0 + i));
                }
            }
            Node::Records(_) => {}
        }
    }
    Ok(())
}
