//! Nodes of extent trees laid out for finding one key: what one search reads lies in a few cache lines side by side.
//!
//! A leaf whose blocks lie close together is a table: one line says where a block is and what its checksum is. In all others keys are
//! in groups of sixteen, a cache line each, and the first keys of all groups in one more. Both are searched by counting, which has
//! no branches to miss. What belongs to a group's keys lies behind them:
//!
//! * inner node: block and stamp of each child;
//! * leaf: low half of each extent's physical block; high half, length and place of the first checksum; all checksums.
//!
//! A form beside the node, which stays what is edited and written.

use super::node::{ExtentLeaf, Node};
use crate::{
    lack::{Child, Key},
    units::{Block, Stamp},
};
use std::hint::black_box;

#[cfg(test)]
mod tests;

/// Keys in a group, and groups at most: as many keys as fit a page.
const GROUP: usize = 16;
/// Lines of a group of an inner node.
const INNER_LINES: usize = 5;

/// Blocks that a leaf's table spans at most, and blocks of it in a line.
const SPAN: u64 = 1024;
const ROW: usize = GROUP / 2;
/// In a table: no block here.
const HOLE: u32 = u32::MAX;

/// A cache line.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([u32; GROUP]);

const EMPTY: Line = Line([0; GROUP]);
/// Takes the place of keys that are not there. A key may have the same value: counts are cut to what is there.
const NO_KEYS: Line = Line([u32::MAX; GROUP]);

impl Line {
    /// How many are not above `key`.
    #[inline]
    fn up_to(&self, key: u32) -> usize {
        self.0.iter().map(|&k| u32::from(k <= key)).sum::<u32>() as usize
    }
    fn u64(&self, i: usize) -> u64 {
        u64::from(self.0[i]) | u64::from(self.0[i + 1]) << 32
    }
}

/// A node in the form that suits it.
pub(crate) enum Packed {
    Table(Table),
    Groups(Groups),
}

impl Packed {
    /// `None` for nodes that have no such form.
    pub(super) fn of(node: &Node) -> Option<Packed> {
        if let Node::Extents(leaf) = node
            && let Some(table) = Table::of(leaf)
        {
            return Some(Packed::Table(table));
        }
        Groups::of(node).map(Packed::Groups)
    }
    /// The child of an inner node that is responsible for `key`, the lowest key if it is not the first child, and the next child's
    /// first key. `None`: this form can't tell.
    #[inline]
    pub(super) fn child(&self, key: Key) -> Option<(Child, Key, Option<Key>)> {
        match self {
            Packed::Groups(groups) => groups.child(key),
            Packed::Table(_) => None,
        }
    }
    /// Where a leaf says that a block is, with its checksum. `None`: this form can't tell.
    #[inline]
    pub(super) fn block(&self, logical: u64) -> Option<Option<(Block, u32)>> {
        match self {
            Packed::Table(table) => Some(table.block(logical)),
            Packed::Groups(groups) => groups.block(logical),
        }
    }
}

/// A leaf: low half of the physical block and checksum for every block from the first to the last.
pub(crate) struct Table {
    rows: Box<[Line]>,
    first: u64,
    /// High half of every physical block.
    high: u32,
}

impl Table {
    fn of(leaf: &ExtentLeaf) -> Option<Table> {
        let first = leaf.extents.first()?;
        let high = (first.physical.0 >> 32) as u32;
        let span = leaf.extents.last()?.end() - first.logical;
        if span > SPAN {
            return None;
        }
        let hole = Line(std::array::from_fn(|i| if i % 2 == 0 { HOLE } else { 0 }));
        let mut rows = vec![hole; (span as usize).div_ceil(ROW)];
        for e in &leaf.extents {
            for (i, &sum) in leaf.sums_of(e).iter().enumerate() {
                let (at, physical) = ((e.logical - first.logical) as usize + i, e.physical.0 + i as u64);
                if physical >> 32 != u64::from(high) || physical as u32 == HOLE {
                    return None;
                }
                rows[at / ROW].0[at % ROW * 2] = physical as u32;
                rows[at / ROW].0[at % ROW * 2 + 1] = sum;
            }
        }
        Some(Table { rows: rows.into(), first: first.logical, high })
    }
    #[inline]
    fn block(&self, logical: u64) -> Option<(Block, u32)> {
        let at = usize::try_from(logical.checked_sub(self.first)?).ok()?;
        let row = &self.rows.get(at / ROW)?.0;
        let (low, sum) = (row[at % ROW * 2], row[at % ROW * 2 + 1]);
        (low != HOLE).then(|| (Block(u64::from(self.high) << 32 | u64::from(low)), sum))
    }
}

/// A node, to be searched.
pub(crate) struct Groups {
    /// First the groups' first keys, then for each group the line at which it begins, then the groups.
    lines: Box<[Line]>,
    /// High half of every key.
    high: u32,
    keys: u16,
    leaf: bool,
}

impl Groups {
    /// `None` for nodes that have no such form: records, more keys than fit a page, keys with different high halves.
    fn of(node: &Node) -> Option<Groups> {
        let keys: Vec<Key> = match node {
            Node::Inner { entries, .. } => entries.iter().map(|e| e.key).collect(),
            Node::Extents(leaf) => leaf.extents.iter().map(|e| e.logical.into()).collect(),
            Node::Records(_) => return None,
        };
        let high = u32::try_from(keys.first()? >> 32).ok()?;
        if keys.len() > GROUP * GROUP || keys.last()? >> 32 != Key::from(high) {
            return None;
        }
        let mut lines = vec![NO_KEYS, EMPTY];
        for (g, group) in keys.chunks(GROUP).enumerate() {
            lines[0].0[g] = group[0] as u32;
            lines[1].0[g] = lines.len() as u32;
            let mut line = NO_KEYS;
            line.0.iter_mut().zip(group).for_each(|(k, key)| *k = *key as u32);
            lines.push(line);
            let range = g * GROUP..g * GROUP + group.len();
            match node {
                Node::Inner { entries, .. } => {
                    let words = entries[range].iter().flat_map(|e| [e.child.block.0, e.child.stamp.0]);
                    push(&mut lines, words.flat_map(|w| [w as u32, (w >> 32) as u32]));
                    lines.resize(lines[1].0[g] as usize + INNER_LINES, EMPTY);
                }
                Node::Extents(leaf) => push_extents(&mut lines, leaf, range)?,
                Node::Records(_) => return None,
            }
        }
        let leaf = matches!(node, Node::Extents(_));
        Some(Groups { lines: lines.into(), high, keys: keys.len() as u16, leaf })
    }

    /// The last key that is not above `key`: its group and its place there. `None`: all are above.
    #[inline]
    fn find(&self, key: u32) -> Option<(usize, usize)> {
        let keys = usize::from(self.keys);
        let g = self.lines[0].up_to(key).min(keys.div_ceil(GROUP)).checked_sub(1)?;
        let at = self.lines[1].0[g] as usize;
        let i = self.lines[at].up_to(key).min(keys - g * GROUP).checked_sub(1)?;
        Some((g, i))
    }

    #[inline]
    fn child(&self, key: Key) -> Option<(Child, Key, Option<Key>)> {
        if self.leaf || key >> 32 != Key::from(self.high) {
            return None;
        }
        let (g, i) = self.find(key as u32).unwrap_or((0, 0));
        let at = self.lines[1].0[g] as usize;
        let whole = |low: u32| Key::from(self.high) << 32 | Key::from(low);
        let n = g * GROUP + i;
        let lo = if n == 0 { 0 } else { whole(self.lines[at].0[i]) };
        let hi = match n + 1 < usize::from(self.keys) {
            true if i + 1 < GROUP => Some(whole(self.lines[at].0[i + 1])),
            true => Some(whole(self.lines[0].0[g + 1])),
            false => None,
        };
        let (line, word) = (&self.lines[at + 1 + i / 4], i % 4 * 4);
        let child = Child { block: Block(line.u64(word)), stamp: Stamp(line.u64(word + 2)) };
        Some((child, lo, hi))
    }

    #[inline]
    fn block(&self, logical: u64) -> Option<Option<(Block, u32)>> {
        if !self.leaf || logical >> 32 != u64::from(self.high) {
            return None;
        }
        let Some((g, i)) = self.find(logical as u32) else { return Some(None) };
        let at = self.lines[1].0[g] as usize;
        let group = &self.lines[at..];
        let (start, low, word) = (group[0].0[i], group[1].0[i], group[2].0[i]);
        // Mostly the checksum's line: on its way before the word that says which one it is.
        black_box(group[3].0[i]);
        let skip = logical as u32 - start;
        if skip > word >> 10 & 63 {
            return Some(None);
        }
        let sum = (word & 1023) + skip;
        let physical = u64::from(word >> 16) << 32 | u64::from(low);
        Some(Some((Block(physical + u64::from(skip)), group[3 + sum as usize / GROUP].0[sum as usize % GROUP])))
    }
}

fn push(lines: &mut Vec<Line>, words: impl Iterator<Item = u32>) {
    for (i, word) in words.enumerate() {
        if i % GROUP == 0 {
            lines.push(EMPTY);
        }
        if let Some(line) = lines.last_mut() {
            line.0[i % GROUP] = word;
        }
    }
}

/// A group's extents. `None` where one does not fit: 48 bits of physical block, 64 blocks, 1024 checksums in a group.
fn push_extents(lines: &mut Vec<Line>, leaf: &ExtentLeaf, range: std::ops::Range<usize>) -> Option<()> {
    let extents = &leaf.extents[range];
    let base = extents.first()?.sums_at;
    let (mut low, mut rest) = (EMPTY, EMPTY);
    for (i, e) in extents.iter().enumerate() {
        let (high, last, sum) = (u16::try_from(e.physical.0 >> 32).ok()?, e.len - 1, e.sums_at - base);
        if last > 63 || sum > 1023 {
            return None;
        }
        low.0[i] = e.physical.0 as u32;
        rest.0[i] = u32::from(high) << 16 | last << 10 | sum;
    }
    lines.extend([low, rest]);
    push(lines, extents.iter().flat_map(|e| leaf.sums_of(e)).copied());
    Some(())
}
