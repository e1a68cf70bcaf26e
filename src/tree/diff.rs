//! Where two trees of extents differ. Both are walked down at once, and what they share is skipped by its reference, unread.

use super::{
    node::{Entry, Extent, Node, Root, child_of},
    read::{Nodes, corrupt, root_miss, step},
};
use crate::{
    lack::{Key, Lack, Miss, Shape, Step, Stop},
    units::Block,
};
use std::ops::Range;

/// Calls `visit` with the parts of `range` (blocks) where `to` differs from `from`, in order: first block, blocks, and whether `to` has data
/// there. A block differs if the trees don't have the same block of the image for it, or if one of them has none. Neighbours may be of one
/// kind.
///
/// It looks at about `most` parts of leaves and shared children, and returns where it stopped: after that many, before a node that is not in
/// memory, or at the end of the range. It stops with a lack only where it began.
pub(crate) fn differences(
    nodes: &impl Nodes,
    (from, to): (Root, Root),
    range: Range<u64>,
    most: usize,
    visit: &mut impl FnMut(u64, u64, bool),
) -> Step<u64> {
    let mut pair = Pair { at: range.start, end: range.end, left: most };
    while pair.at < pair.end && pair.left > 0 {
        match pair.advance(nodes, from, to, visit) {
            // What was found stands, as in `pieces`.
            Err(Stop::Lack(Lack::Node(_))) if pair.at > range.start => break,
            advanced => advanced?,
        }
    }
    Ok(pair.at)
}

/// Two trees at one block.
struct Pair {
    /// Everything before this block was compared.
    at: u64,
    end: u64,
    /// How many more parts may be looked at.
    left: usize,
}

impl Pair {
    /// Counts a part that was compared up to `to`.
    fn pass(&mut self, to: u64) {
        (self.at, self.left) = (to, self.left.saturating_sub(1));
    }

    /// Goes down both trees to the current block until they share a node or have come to their leaves, and compares up to the end of what
    /// was met there. An empty tree is `None`, below all levels.
    fn advance<N: Nodes>(
        &mut self,
        nodes: &N,
        from: Root,
        to: Root,
        visit: &mut impl FnMut(u64, u64, bool),
    ) -> Step<()> {
        let (mut a, mut b) = (root_miss(from, Shape::Extents), root_miss(to, Shape::Extents));
        loop {
            let bound = |side: Option<Miss>| side.map_or(self.end, |miss| self.end.min(miss.bounds.1 as u64));
            let end = bound(a).min(bound(b));
            if let Some(miss) = a.or(b).filter(|_| end <= self.at) {
                return Err(corrupt(miss.child));
            }
            let (level_a, level_b) = (a.map(|a| a.level), b.map(|b| b.level));
            // Keys that one node has in both trees lie in the bounds of both: up to `end` there are no others.
            if level_a == level_b && a.map(|a| a.child) == b.map(|b| b.child) {
                self.pass(end);
                return Ok(());
            }
            match (a, b) {
                (Some(x), Some(y)) if x.level == y.level && x.level > 0 => {
                    let (node_x, node_y) = (nodes.node(&x)?, nodes.node(&y)?);
                    match self.skip((x, entries(x, &node_x)?), (y, entries(y, &node_y)?), end) {
                        Some((x, y)) => (a, b) = (Some(x), Some(y)),
                        None => return Ok(()),
                    }
                }
                (Some(x), _) if x.level > 0 && level_a > level_b => a = Some(self.below(nodes, x)?),
                (_, Some(y)) if y.level > 0 => b = Some(self.below(nodes, y)?),
                _ => return self.leaves(nodes, a, b, end, visit),
            }
        }
    }

    /// The child of an inner node that the current block belongs to.
    fn below<N: Nodes>(&self, nodes: &N, at: Miss) -> Step<Miss> {
        let node = nodes.node(&at)?;
        let entries = entries(at, &node)?;
        Ok(step(at, entries, child_of(entries, self.at.into())))
    }

    /// Skips the children that two inner nodes share, from the current block on. Returns the first ones that differ, `None` if it came to
    /// `end` before, which lies in both nodes, or has looked at enough.
    fn skip(&mut self, (a, in_a): (Miss, &[Entry]), (b, in_b): (Miss, &[Entry]), end: u64) -> Option<(Miss, Miss)> {
        let key = Key::from(self.at);
        let (mut i, mut j) = (child_of(in_a, key), child_of(in_b, key));
        while self.at < end && self.left > 0 {
            let (x, y) = (step(a, in_a, i), step(b, in_b, j));
            if x.child != y.child {
                return Some((x, y));
            }
            let bound = x.bounds.1.min(y.bounds.1);
            self.pass(end.min(bound as u64));
            i += usize::from(x.bounds.1 == bound);
            j += usize::from(y.bounds.1 == bound);
        }
        None
    }

    /// Compares two leaves up to `end`, which lies in both. `None` has nothing in it.
    fn leaves<N: Nodes>(
        &mut self,
        nodes: &N,
        a: Option<Miss>,
        b: Option<Miss>,
        end: u64,
        visit: &mut impl FnMut(u64, u64, bool),
    ) -> Step<()> {
        let load = |side: Option<Miss>| side.map(|miss| nodes.node(&miss)).transpose();
        let (leaf_a, leaf_b) = (load(a)?, load(b)?);
        let mut rest_a = extents(a, leaf_a.as_deref(), self.at)?;
        let mut rest_b = extents(b, leaf_b.as_deref(), self.at)?;
        while self.at < end && self.left > 0 {
            let (old, until_a) = part(&mut rest_a, self.at, end);
            let (new, until_b) = part(&mut rest_b, self.at, end);
            let until = until_a.min(until_b);
            if old != new {
                visit(self.at, until - self.at, new.is_some());
            }
            self.pass(until);
        }
        Ok(())
    }
}

fn entries(at: Miss, node: &Node) -> Step<&[Entry]> {
    match node {
        Node::Inner { entries, .. } => Ok(entries),
        _ => Err(corrupt(at.child)),
    }
}

/// The extents of a leaf that end after a block.
fn extents(side: Option<Miss>, node: Option<&Node>, block: u64) -> Step<&[Extent]> {
    match (side, node) {
        (_, Some(Node::Extents(leaf))) => Ok(&leaf.extents[leaf.from(block)..]),
        (Some(miss), Some(_)) => Err(corrupt(miss.child)),
        _ => Ok(&[]),
    }
}

/// Where block `at` lies, `None` in a hole, and the block before which that is so without a break, `end` at most. Drops the extents that
/// are done from `rest`.
fn part(rest: &mut &[Extent], at: u64, end: u64) -> (Option<Block>, u64) {
    while let Some((extent, more)) = rest.split_first() {
        if extent.logical > at {
            return (None, extent.logical.min(end));
        }
        if extent.end() > at {
            return (Some(extent.physical.plus(at - extent.logical)), extent.end().min(end));
        }
        *rest = more;
    }
    (None, end)
}
