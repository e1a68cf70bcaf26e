//! Reading a tree: single keys, ranges, and what to do when a node is not in memory.
//!
//! Lookups run under a lock and must not wait for a disk: where a node is not in memory they stop with a [`Miss`]; the
//! caller loads it outside the lock and asks again.

use super::node::{Child, ExtentLeaf, Key, Node, Record, Root, Shape, Value, child_of};
use crate::{Error, Result, units::Block};
use std::sync::Arc;

/// A node that a lookup needs: enough to load and check it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Miss {
    pub(crate) shape: Shape,
    pub(crate) child: Child,
    pub(crate) level: u8,
    pub(crate) bounds: (Key, Key),
}

/// Where nodes come from.
pub(crate) trait Nodes {
    /// The node, if it can be had here and now; the outer error is for good, the inner one asks for a load.
    fn node(&self, want: Miss) -> Result<Result<Arc<Node>, Miss>>;
}

/// What a lookup gives: an answer, or the node that it lacks.
pub(crate) type Found<T> = Result<Result<T, Miss>>;

macro_rules! have {
    ($e:expr) => {
        match $e? {
            Ok(node) => node,
            Err(miss) => return Ok(Err(miss)),
        }
    };
}

/// A run of blocks of a volume: where they are, or a hole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    pub(crate) logical: u64,
    pub(crate) len: u64,
    /// Physical start and one checksum a block; `None`: a hole.
    pub(crate) data: Option<(Block, Vec<u32>)>,
}

fn corrupt(child: Child) -> Error {
    Error::corrupt(format!("{}: a node of another kind", child.block))
}

fn root_miss(root: Root, shape: Shape) -> Option<Miss> {
    root.node.map(|child| Miss { shape, child, level: root.level, bounds: (0, shape.end()) })
}

/// The node's child `i` as something to ask for.
pub(crate) fn step(at: Miss, entries: &[super::node::Entry], i: usize) -> Miss {
    let hi = entries.get(i + 1).map_or(at.bounds.1, |e| e.key);
    let lo = if i == 0 { at.bounds.0 } else { entries[i].key };
    Miss { shape: at.shape, child: entries[i].child, level: at.level - 1, bounds: (lo, hi) }
}

/// The leaf that holds `key`, and the keys that it is responsible for.
fn leaf(nodes: &impl Nodes, root: Root, shape: Shape, key: Key) -> Found<Option<(Arc<Node>, Miss)>> {
    let Some(mut at) = root_miss(root, shape) else { return Ok(Ok(None)) };
    loop {
        let node = have!(nodes.node(at));
        match &*node {
            Node::Inner { entries, .. } if at.level > 0 => at = step(at, entries, child_of(entries, key)),
            _ if at.level == 0 => return Ok(Ok(Some((node, at)))),
            _ => return Err(corrupt(at.child)),
        }
    }
}

/// Where one block is, with its checksum.
#[inline]
pub(crate) fn block(nodes: &impl Nodes, root: Root, logical: u64) -> Found<Option<(Block, u32)>> {
    let Some((node, at)) = have!(leaf(nodes, root, Shape::Extents, logical.into())) else { return Ok(Ok(None)) };
    let Node::Extents(leaf) = &*node else { return Err(corrupt(at.child)) };
    Ok(Ok(match leaf.extents.get(leaf.from(logical)) {
        Some(e) if e.logical <= logical => {
            let i = logical - e.logical;
            Some((e.physical.plus(i), leaf.sums[e.sums_at as usize + i as usize]))
        }
        _ => None,
    }))
}

/// The blocks `from..to` in order, holes too, at most `most` pieces; gives where it stopped.
pub(crate) fn pieces(
    nodes: &impl Nodes,
    root: Root,
    from: u64,
    to: u64,
    most: usize,
    out: &mut Vec<Piece>,
) -> Found<u64> {
    let mut at = from;
    while at < to && out.len() < most {
        let found = match leaf(nodes, root, Shape::Extents, at.into())? {
            Ok(found) => found,
            // What was found stands: asking for everything at once could need more nodes than the cache holds.
            Err(_) if at > from => return Ok(Ok(at)),
            Err(miss) => return Ok(Err(miss)),
        };
        let Some((node, miss)) = found else {
            out.push(Piece { logical: at, len: to - at, data: None });
            return Ok(Ok(to));
        };
        let Node::Extents(leaf) = &*node else { return Err(corrupt(miss.child)) };
        let end = to.min(miss.bounds.1 as u64);
        if end <= at {
            return Err(corrupt(miss.child));
        }
        for e in &leaf.extents[leaf.from(at)..] {
            if at >= end || out.len() >= most {
                break;
            }
            if e.logical > at {
                let len = e.logical.min(end) - at;
                hole(out, at, len);
                at += len;
            }
            if at < end && out.len() < most {
                let (skip, stop) = (at - e.logical, e.end().min(end));
                let sums = &leaf.sums_of(e)[skip as usize..(stop - e.logical) as usize];
                out.push(Piece { logical: at, len: stop - at, data: Some((e.physical.plus(skip), sums.to_vec())) });
                at = stop;
            }
        }
        if at < end && out.len() < most {
            hole(out, at, end - at);
            at = end;
        }
    }
    Ok(Ok(at))
}

fn hole(out: &mut Vec<Piece>, at: u64, len: u64) {
    match out.last_mut() {
        Some(Piece { logical, len: before, data: None }) if *logical + *before == at => *before += len,
        _ => out.push(Piece { logical: at, len, data: None }),
    }
}

/// The record at `key`.
pub(crate) fn record(nodes: &impl Nodes, root: Root, key: Key) -> Found<Option<Value>> {
    let Some((node, at)) = have!(leaf(nodes, root, Shape::Records, key)) else { return Ok(Ok(None)) };
    let Node::Records(records) = &*node else { return Err(corrupt(at.child)) };
    Ok(Ok(records.binary_search_by_key(&key, |r| r.key).ok().map(|i| records[i].value.clone())))
}

/// Up to `most` records of `from..to`, in order.
pub(crate) fn records(nodes: &impl Nodes, root: Root, from: Key, to: Key, most: usize) -> Found<Vec<Record>> {
    let mut out = Vec::new();
    let mut at = from;
    while at < to && out.len() < most {
        let Some((node, miss)) = have!(leaf(nodes, root, Shape::Records, at)) else { break };
        let Node::Records(records) = &*node else { return Err(corrupt(miss.child)) };
        let first = records.partition_point(|r| r.key < at);
        out.extend(records[first..].iter().take_while(|r| r.key < to).take(most - out.len()).cloned());
        at = miss.bounds.1;
    }
    Ok(Ok(out))
}

/// Extents of a leaf that reach into `lo..hi`.
pub(crate) fn overlap(leaf: &ExtentLeaf, lo: u64, hi: u64) -> std::ops::Range<usize> {
    let first = leaf.from(lo);
    first..first + leaf.extents[first..].iter().take_while(|e| e.logical < hi).count()
}

/// Children whose keys meet `lo..hi`.
pub(crate) fn children_of(entries: &[super::node::Entry], lo: Key, hi: Key) -> std::ops::RangeInclusive<usize> {
    let first = child_of(entries, lo);
    first..=entries.partition_point(|e| e.key < hi).saturating_sub(1).max(first)
}
