//! Reading a tree: single keys, ranges, and what to do when a node is not in memory.
//!
//! Lookups run under a lock and must not wait for a disk: where a node is not in memory they stop with [`Lack::Node`]; the
//! caller loads it outside the lock and asks again.

use super::node::{ExtentLeaf, Node, Record, Root, Value, child_of};
use crate::{
    Error,
    lack::{Child, Key, Lack, Miss, Shape, Step, Stop},
    units::Block,
};
use std::ops::Deref;

/// Where nodes come from.
pub(crate) trait Nodes {
    /// A node while it is looked at.
    type Ref<'a>: Deref<Target = Node>
    where
        Self: 'a;
    /// The node, if it can be had here and now.
    fn node(&self, want: &Miss) -> Step<Self::Ref<'_>>;
}

pub(super) fn corrupt(child: Child) -> Stop {
    Error::corrupt(format!("{}: a node of another kind", child.block)).into()
}

pub(super) fn root_miss(root: Root, shape: Shape) -> Option<Miss> {
    root.node.map(|child| Miss { shape, child, level: root.level, bounds: (0, shape.end()) })
}

/// The node's child `i` as something to ask for.
pub(crate) fn step(at: Miss, entries: &[super::node::Entry], i: usize) -> Miss {
    let hi = entries.get(i + 1).map_or(at.bounds.1, |e| e.key);
    let lo = if i == 0 { at.bounds.0 } else { entries[i].key };
    Miss { shape: at.shape, child: entries[i].child, level: at.level - 1, bounds: (lo, hi) }
}

/// The leaf that holds `key`, and the keys that it is responsible for.
#[inline]
fn leaf<N: Nodes>(nodes: &N, root: Root, shape: Shape, key: Key) -> Step<Option<(N::Ref<'_>, Miss)>> {
    let Some(mut at) = root_miss(root, shape) else { return Ok(None) };
    loop {
        let node = nodes.node(&at)?;
        if at.level == 0 {
            return Ok(Some((node, at)));
        }
        match &*node {
            Node::Inner { entries, .. } => at = step(at, entries, child_of(entries, key)),
            _ => return Err(corrupt(at.child)),
        }
    }
}

/// The leaf that holds `key`, and the key after the last one that it is responsible for. Puts the nodes on the way into `path`, the root
/// first and the leaf last.
pub(crate) fn path<'a, N: Nodes>(
    nodes: &'a N,
    root: Root,
    shape: Shape,
    key: Key,
    path: &mut Vec<Child>,
) -> Step<Option<(N::Ref<'a>, Key)>> {
    path.clear();
    let Some(mut at) = root_miss(root, shape) else { return Ok(None) };
    loop {
        let node = nodes.node(&at)?;
        path.push(at.child);
        match &*node {
            Node::Inner { entries, .. } if at.level > 0 => at = step(at, entries, child_of(entries, key)),
            _ if at.level > 0 || at.bounds.1 <= key => return Err(corrupt(at.child)),
            _ => return Ok(Some((node, at.bounds.1))),
        }
    }
}

/// Where one block is, with its checksum.
#[inline]
pub(crate) fn block<N: Nodes>(nodes: &N, root: Root, logical: u64) -> Step<Option<(Block, u32)>> {
    let Some((node, at)) = leaf(nodes, root, Shape::Extents, logical.into())? else { return Ok(None) };
    let Node::Extents(leaf) = &*node else { return Err(corrupt(at.child)) };
    Ok(leaf.block(logical))
}

/// Calls `visit` with the blocks `from..to` in order, holes too: first block, blocks, and unless it is a hole where it is with one checksum
/// a block. Returns where it stopped: with a limit after that many pieces at most, or before a node that is not in memory, and without one
/// at the end.
pub(crate) fn pieces(
    nodes: &impl Nodes,
    root: Root,
    from: u64,
    to: u64,
    limit: Option<usize>,
    visit: &mut impl FnMut(u64, u64, Option<(Block, &[u32])>),
) -> Step<u64> {
    let (mut at, mut count, most) = (from, 0, limit.unwrap_or(usize::MAX));
    while at < to && count < most {
        let found = match leaf(nodes, root, Shape::Extents, at.into()) {
            // What was found stands: asking for everything at once could need more nodes than the cache holds.
            Err(Stop::Lack(Lack::Node(_))) if at > from && limit.is_some() => return Ok(at),
            found => found?,
        };
        let Some((node, miss)) = found else {
            visit(at, to - at, None);
            return Ok(to);
        };
        let Node::Extents(leaf) = &*node else { return Err(corrupt(miss.child)) };
        let end = to.min(miss.bounds.1 as u64);
        if end <= at {
            return Err(corrupt(miss.child));
        }
        for e in &leaf.extents[leaf.from(at)..] {
            if at >= end || count >= most {
                break;
            }
            if e.logical > at {
                let len = e.logical.min(end) - at;
                visit(at, len, None);
                (at, count) = (at + len, count + 1);
            }
            if at < end && count < most {
                let (skip, stop) = (at - e.logical, e.end().min(end));
                let sums = &leaf.sums_of(e)[skip as usize..(stop - e.logical) as usize];
                visit(at, stop - at, Some((e.physical.plus(skip), sums)));
                (at, count) = (stop, count + 1);
            }
        }
        if at < end && count < most {
            visit(at, end - at, None);
            (at, count) = (end, count + 1);
        }
    }
    Ok(at)
}

/// The record at `key`.
pub(crate) fn record(nodes: &impl Nodes, root: Root, key: Key) -> Step<Option<Value>> {
    let Some((node, at)) = leaf(nodes, root, Shape::Records, key)? else { return Ok(None) };
    let Node::Records(records) = &*node else { return Err(corrupt(at.child)) };
    Ok(records.binary_search_by_key(&key, |r| r.key).ok().map(|i| records[i].value.clone()))
}

/// Some records of `from..to`, the first ones, in order and up to `most`; none only if there are none.
pub(crate) fn records(nodes: &impl Nodes, root: Root, from: Key, to: Key, most: usize) -> Step<Vec<Record>> {
    let mut out = Vec::new();
    let mut at = from;
    while at < to && out.len() < most {
        let found = match leaf(nodes, root, Shape::Records, at) {
            // What was found stands: all at once could need more nodes than the cache holds.
            Err(Stop::Lack(Lack::Node(_))) if !out.is_empty() => break,
            found => found?,
        };
        let Some((node, miss)) = found else { break };
        let Node::Records(records) = &*node else { return Err(corrupt(miss.child)) };
        let first = records.partition_point(|r| r.key < at);
        out.extend(records[first..].iter().take_while(|r| r.key < to).take(most - out.len()).cloned());
        at = miss.bounds.1;
    }
    Ok(out)
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
