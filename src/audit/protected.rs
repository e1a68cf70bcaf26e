//! What a crash would need of a durable image: the simulator holds the engine to it.
#![allow(unreachable_pub, reason = "public through `sim_support`")]

use crate::{
    Result,
    engine::{Config, Engine, needed_len, newest_superblock},
    format::{RootPointer, SLOTS},
    io::{Backend, Disk, Host},
    log,
    tree::{Miss, Node, Root, Shape},
};
use std::{collections::BTreeSet, sync::Arc};

/// What a crash now would need of a durable image: nothing of it may be overwritten, punched or cut off.
#[derive(Clone, Debug, Default)]
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

/// Works out what `backend`, taken as the durable image, protects.
pub fn protected(backend: Arc<dyn Backend>, host: Arc<dyn Host>, config: Config) -> Result<Protected> {
    let disk = Disk::new(backend.clone(), false);
    let (sb, slot) = newest_superblock(&disk)?;
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
    // What the log itself has may be written to its place at any time.
    for op in &replay.ops {
        if let log::Op::Data { at, .. } = op {
            out.blocks.remove(at);
        }
    }
    // The checkpoint alone: the log left out.
    let mut clean = sb;
    clean.clean = true;
    let engine = Engine::checkpoint_view(backend, host, config, clean)?;
    let capture = engine.capture()?;
    for block in engine.state_mut()?.forest.space.current_homes() {
        out.blocks.insert(block.0);
    }
    let mut todo: Vec<(RootPointer, Shape)> = vec![(capture.catalog, Shape::Records)];
    let extents = capture.volumes.iter().map(|v| v.1.root).chain(capture.snapshots.iter().map(|s| s.1.root));
    todo.extend(extents.chain(capture.doomed.iter().map(|d| d.1)).map(|r| (r, Shape::Extents)));
    for (root, shape) in todo {
        let root = Root::from(root);
        let Some(child) = root.node else { continue };
        let mut stack = vec![Miss { shape, child, level: root.level, bounds: (0, shape.end()) }];
        while let Some(want) = stack.pop() {
            if !out.blocks.insert(want.child.block.0) {
                continue;
            }
            match &*capture.node(want)? {
                Node::Inner { entries, .. } => {
                    stack.extend((0..entries.len()).map(|i| crate::tree::read_step(want, entries, i)));
                }
                Node::Extents(leaf) => {
                    for e in &leaf.extents {
                        out.blocks.extend((0..u64::from(e.len)).map(|i| e.physical.0 + i));
                    }
                }
                Node::Records(_) => {}
            }
        }
    }
    Ok(out)
}
