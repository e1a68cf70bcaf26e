//! Changing a tree: one operation, *replace what lies in a range of keys*, from which insert, overwrite, trim, remove
//! and cut are made.
//!
//! The path to either edge of the range is shadowed from the root down, so that by the time a leaf changes all its ancestors have one
//! parent. Subtrees between the edges are released at once where the range is small, and doomed, unread, where it may
//! be large. Underfull nodes absorb a neighbour; nodes that overflow split. A node's first child also has all lower keys of the
//! node, so every key has exactly one place and removing a first child moves no separator.

use super::{
    forest::{Forest, FoundLeaf},
    node::{EXTENT_BYTES, Entry, Extent, ExtentLeaf, Node, Record, Root, child_of},
    read::{children_of, overlap, step},
};
use crate::{
    Error,
    format::{PAGE_PAYLOAD, TREE_LEVELS},
    lack::{Child, Key, Lack, Miss, Shape, Step, Stop},
    space::Run,
    units::Block,
};
use smallvec::SmallVec;

/// What takes the place of a range.
#[derive(Clone, Debug)]
pub(crate) enum Fresh {
    /// Extents in order: logical block, physical block, checksums.
    Extents(Vec<(u64, Block, Vec<u32>)>),
    /// One record.
    Record(Record),
}

/// A subtree that lost its parent and is to be reclaimed. It keeps the count of the reference that it lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Doomed {
    pub(crate) child: Child,
    pub(crate) level: u8,
}

/// A range of keys.
#[derive(Clone, Copy)]
struct Span {
    lo: Key,
    hi: Key,
    /// Subtrees inside go to the doomed list.
    doom: bool,
}

impl Forest {
    /// The tree in which `fresh` stands for everything that was in `lo..hi`. With `doom`, subtrees inside the range are left
    /// in `self.dooms` for the caller to list. The root reference passes from `root` to the result.
    pub(crate) fn splice(
        &mut self,
        root: Root,
        shape: Shape,
        lo: Key,
        hi: Key,
        fresh: Option<Fresh>,
        doom: bool,
    ) -> Step<Root> {
        self.shape += 1;
        let (child, mut level) = match root.node {
            None if fresh.is_none() => return Ok(root),
            None => {
                let empty = match shape {
                    Shape::Extents => Node::Extents(ExtentLeaf::default()),
                    Shape::Records => Node::Records(Vec::new()),
                };
                (self.allocate(shape, empty)?, 0)
            }
            Some(child) => {
                let want = Miss { shape, child, level: root.level, bounds: (0, shape.end()) };
                if lo == 0 && hi >= shape.end() && fresh.is_none() {
                    if doom {
                        self.dooms.push(Doomed { child, level: root.level });
                    } else {
                        self.release(want)?;
                    }
                    return Ok(Root::default());
                }
                (self.shadow(want)?, root.level)
            }
        };
        let at = Miss { shape, child, level, bounds: (0, shape.end()) };
        let mut more = self.edit(at, Span { lo, hi, doom }, fresh)?;
        let mut top = child;
        while !more.is_empty() {
            level += 1;
            if level >= TREE_LEVELS {
                return Err(Error::corrupt("a tree grew past its highest level").into());
            }
            more.insert(0, Entry { key: 0, child: top });
            top = self.allocate(shape, Node::Inner { level, entries: more })?;
            more = self.split(top, shape, false)?;
        }
        loop {
            let only = match self.writable(top)? {
                node if node.items() == 0 => None,
                Node::Inner { entries, .. } if entries.len() == 1 => Some(entries[0].child),
                _ => return Ok(Root { node: Some(top), level }),
            };
            self.free_node(top)?;
            match only {
                None => return Ok(Root::default()),
                // From here on the root pointer is the parent; a child that is not of this generation stays as it is.
                Some(child) if child.stamp == self.stamp && self.space.count(child.block)? == 1 => {
                    (top, level) = (child, level - 1);
                }
                Some(child) => return Ok(Root { node: Some(child), level: level - 1 }),
            }
        }
    }

    /// The leaf that alone is responsible for `lo..hi` of a tree of extents, if it and all above it are of this generation and have one parent.
    pub(crate) fn own_leaf(&mut self, root: Root, lo: u64, hi: u64) -> Step<Option<Block>> {
        let Some(top) = root.node else { return Ok(None) };
        if self.space.was_shared() {
            let mut path = SmallVec::<[Block; TREE_LEVELS as usize]>::new();
            let Some(leaf) = self.new_leaf(top, lo, hi, |at| path.push(at.block)) else { return Ok(None) };
            for block in path {
                if self.space.count(block)? != 1 {
                    return Ok(None);
                }
            }
            return Ok(Some(leaf));
        }
        // Without such sharing every node of this generation has one parent.
        if let Some(found) = self.found
            && (found.top, found.lo, found.hi, found.shape) == (top, lo, hi, self.shape)
            && top.stamp == self.stamp
        {
            return Ok(Some(found.leaf));
        }
        let Some(leaf) = self.new_leaf(top, lo, hi, |_| ()) else { return Ok(None) };
        self.found = Some(FoundLeaf { top, lo, hi, leaf, shape: self.shape });
        Ok(Some(leaf))
    }

    /// The leaf that alone is responsible for `lo..hi` of the tree at `top`, if it and all above it are of this generation. `visit` sees them.
    fn new_leaf(&self, top: Child, lo: u64, hi: u64, mut visit: impl FnMut(Child)) -> Option<Block> {
        let mut at = top;
        loop {
            if at.stamp != self.stamp {
                return None;
            }
            visit(at);
            match &*self.dirty.get(&at.block.0)?.node {
                Node::Inner { entries, .. } => {
                    let i = child_of(entries, lo.into());
                    if entries.get(i + 1).is_some_and(|next| next.key < hi.into()) {
                        return None;
                    }
                    at = entries[i].child;
                }
                Node::Extents(_) => return Some(at.block),
                Node::Records(_) => return None,
            }
        }
    }

    /// Has the processor fetch what overwriting one block of a tree looks at, as far as the path to it is of this generation. Returns the leaf,
    /// for [`Forest::foresee`].
    pub(crate) fn prefetch(&self, root: Root, logical: u64) -> Option<FoundLeaf> {
        let top = root.node?;
        let (lo, hi) = (logical, logical + 1);
        let leaf = self.new_leaf(top, lo, hi, |_| ())?;
        if let Node::Extents(extents) = &*self.dirty.get(&leaf.0)?.node {
            extents.prefetch(logical);
        }
        Some(FoundLeaf { top, lo, hi, leaf, shape: self.shape })
    }
    /// Caches the leaf found by [`Forest::prefetch`], so that [`Forest::own_leaf`] need not search again.
    pub(crate) fn foresee(&mut self, found: Option<FoundLeaf>) {
        self.found = found.or(self.found);
    }

    /// Puts one extent in the place of another of the same blocks, where no node has to be copied and none changes its size: the common
    /// overwrite. `false`: it is not that simple, and nothing was done. `last`: nothing that could stop follows in the operation, so the leaf
    /// is not kept for [`Forest::undo`].
    pub(crate) fn exchange(
        &mut self,
        root: Root,
        logical: u64,
        physical: Block,
        sums: &[u32],
        last: bool,
    ) -> Step<bool> {
        let Some(block) = self.own_leaf(root, logical, logical + sums.len() as u64)? else { return Ok(false) };
        let Some(d) = self.dirty.get_mut(&block.0) else { return Ok(false) };
        let Node::Extents(leaf) = &*d.node else { return Ok(false) };
        let Some(i) = leaf.exchangeable(logical, physical, sums.len()) else { return Ok(false) };
        let old = leaf.extents[i].physical;
        self.space.remove_parents(Run { start: old, len: sums.len() as u32 })?;
        if !last {
            self.saved.entry(block.0).or_insert_with(|| Some(d.clone()));
        }
        if let Node::Extents(leaf) = std::sync::Arc::make_mut(&mut d.node) {
            leaf.exchange(i, physical, sums);
        }
        Ok(true)
    }

    /// [`Forest::splice`] of extents, or of none, for `lo..hi` inside one leaf, where no node has to be copied and none splits or takes in a neighbour: what
    /// it makes is the same. `false`: it is not that simple, and nothing was done. `last` as for [`Forest::exchange`].
    pub(crate) fn overwrite(
        &mut self,
        root: Root,
        lo: u64,
        hi: u64,
        fresh: &[(u64, Block, Vec<u32>)],
        last: bool,
    ) -> Step<bool> {
        let Some(block) = self.own_leaf(root, lo, hi)? else { return Ok(false) };
        let fanout = self.fanout;
        let Some(d) = self.dirty.get_mut(&block.0) else { return Ok(false) };
        let (items, bytes, blocks) = (d.node.items(), d.node.bytes(Shape::Extents), (hi - lo) as usize);
        // At most all that is fresh and the other half of an extent come in, with a checksum for each block.
        let fits =
            items + fresh.len() < fanout && bytes + (fresh.len() + 1) * EXTENT_BYTES + blocks * 4 <= PAGE_PAYLOAD;
        // At most an extent for each block goes, and two by joining: is what stays certainly more than the quarter at which it is absorbed?
        let gone = blocks + 2;
        let stays = bytes.saturating_sub(gone * EXTENT_BYTES) * 4 >= PAGE_PAYLOAD
            || items.saturating_sub(gone).saturating_mul(4) >= fanout;
        if !(fits && stays) {
            return Ok(false);
        }
        let Node::Extents(leaf) = &*d.node else { return Ok(false) };
        for run in covered(leaf, lo, hi) {
            self.space.remove_parents(run)?;
        }
        if !last {
            self.saved.entry(block.0).or_insert_with(|| Some(d.clone()));
        }
        if let Node::Extents(leaf) = std::sync::Arc::make_mut(&mut d.node) {
            replace(leaf, lo, hi, fresh);
        }
        Ok(true)
    }

    /// Takes one reference off a subtree and frees what nobody else refers to.
    pub(crate) fn release(&mut self, want: Miss) -> Step<()> {
        self.shape += 1;
        if self.space.count(want.child.block)? > 1 {
            self.space.decref(want.child.block)?;
            return Ok(());
        }
        let node = self.load(want)?;
        match &*node {
            Node::Inner { entries, .. } if want.level > 0 => {
                (0..entries.len()).try_for_each(|i| self.release(step(want, entries, i)))?;
            }
            node => self.each_run(node, |f, run| f.space.remove_parents(run))?,
        }
        self.free_node(want.child)
    }

    /// Edits below a writable node. Returns the siblings that it had to be split into.
    fn edit(&mut self, at: Miss, span: Span, fresh: Option<Fresh>) -> Step<Vec<Entry>> {
        let append = match self.writable(at.child)? {
            Node::Inner { level, .. } if *level > 0 && *level == at.level => return self.edit_inner(at, span, fresh),
            Node::Inner { .. } => {
                return Err(Error::corrupt(format!("{}: a node of another level", at.child.block)).into());
            }
            Node::Extents(leaf) => {
                let last = leaf.extents.last().is_none_or(|e| Key::from(e.end()) <= span.lo);
                let fresh = match &fresh {
                    Some(Fresh::Extents(list)) => &list[..],
                    _ => &[],
                };
                // Keys of extent trees are below 2^36. What is fresh may reach past this leaf: its right neighbours lose the
                // range as well, and their separators move up to its end.
                let freed = covered(leaf, span.lo as u64, span.hi as u64);
                replace(leaf, span.lo as u64, span.hi as u64, fresh);
                for run in freed {
                    self.space.remove_parents(run)?;
                }
                last
            }
            Node::Records(records) => {
                let first = records.partition_point(|r| r.key < span.lo);
                let end = records.partition_point(|r| r.key < span.hi).max(first);
                let last = first == records.len();
                let new = match fresh {
                    Some(Fresh::Record(r)) => Some(r),
                    _ => None,
                };
                records.splice(first..end, new);
                last
            }
        };
        self.split(at.child, at.shape, append)
    }

    fn entries(&mut self, child: Child) -> Step<&mut Vec<Entry>> {
        match self.writable(child)? {
            Node::Inner { entries, .. } => Ok(entries),
            _ => Err(Error::corrupt(format!("{}: a leaf above the leaves", child.block)).into()),
        }
    }

    fn edit_inner(&mut self, at: Miss, span: Span, mut fresh: Option<Fresh>) -> Step<Vec<Entry>> {
        let emptied = fresh.is_none() && at.bounds.0 >= span.lo;
        let entries = self.entries(at.child)?;
        let (a, b) = children_of(entries, span.lo, span.hi).into_inner();
        let mut dropped = Vec::new();
        for i in (a..=b).rev() {
            let entries = self.entries(at.child)?;
            let want = step(at, entries, i);
            let inside = want.bounds.0 >= span.lo && want.bounds.1 <= span.hi;
            if inside && (i != a || fresh.is_none()) {
                let entry = entries.remove(i);
                if span.doom {
                    dropped.insert(0, entry);
                } else {
                    self.release(want)?;
                }
                continue;
            }
            let here = if i == a { fresh.take() } else { None };
            let child = self.shadow(want)?;
            self.entries(at.child)?[i].child = child;
            let more = self.edit(Miss { child, ..want }, span, here)?;
            if self.writable(child)?.items() == 0 {
                self.free_node(child)?;
                self.entries(at.child)?.remove(i);
                continue;
            }
            let entries = self.entries(at.child)?;
            if i > a {
                entries[i].key = span.hi;
            } else if i == 0 && !more.is_empty() {
                // Siblings may start below the first child's own key.
                entries[0].key = at.bounds.0;
            }
            entries.splice(i + 1..i + 1, more);
        }
        let entries = self.entries(at.child)?;
        if let Some(first) = entries.first_mut()
            && emptied
        {
            first.key = first.key.max(span.hi);
        }
        let near = a.min(entries.len().saturating_sub(1));
        match dropped.len() {
            0 => {}
            1 => self.dooms.push(Doomed { child: dropped[0].child, level: at.level - 1 }),
            _ => {
                let child = self.allocate(at.shape, Node::Inner { level: at.level, entries: dropped })?;
                self.dooms.push(Doomed { child, level: at.level });
            }
        }
        self.absorb(at, near)?;
        self.split(at.child, at.shape, false)
    }

    /// Whether a node uses less than `quarters` quarters of its room, `more` taken in.
    fn below(&self, node: &Node, more: Option<&Node>, shape: Shape, quarters: usize) -> bool {
        let bytes = node.bytes(shape) + more.map_or(0, |n| n.bytes(shape));
        let items = node.items() + more.map_or(0, Node::items);
        bytes * 4 < PAGE_PAYLOAD * quarters && items.saturating_mul(4) < self.fanout.saturating_mul(quarters)
    }

    /// Lets a nearly empty child take in a neighbour.
    fn absorb(&mut self, at: Miss, i: usize) -> Step<()> {
        let entries = self.entries(at.child)?;
        if entries.len() < 2 {
            return Ok(());
        }
        let left = if i + 1 < entries.len() { i } else { i - 1 };
        let (one, two) = (step(at, entries, left), step(at, entries, left + 1));
        let (taker, other) = if left == i { (one, two) } else { (two, one) };
        let Some(small) = self.dirty.get(&taker.child.block.0).filter(|d| d.stamp == taker.child.stamp) else {
            return Ok(());
        };
        let small = small.node.clone();
        if self.space.count(taker.child.block)? != 1 || !self.below(&small, None, at.shape, 1) {
            return Ok(());
        }
        // A neighbour that can't be read is left alone: its own reader will say so.
        let neighbour = match self.load(other) {
            Ok(node) => node,
            Err(_) if self.unreadable.contains(&other.child.block.0) => return Ok(()),
            Err(Stop::Lack(Lack::Node(miss))) => return Err(Lack::Neighbour(miss).into()),
            Err(e) => return Err(e),
        };
        if !self.below(&small, Some(&neighbour), at.shape, 3) {
            return Ok(());
        }
        if self.space.count(other.child.block)? > 1 {
            self.each_run(&neighbour, |f, run| f.space.add_parents(run))?;
        }
        self.free_node(other.child)?;
        let (low, high) = if left == i { (&small, &neighbour) } else { (&neighbour, &small) };
        let joined = match (&**low, &**high) {
            (Node::Inner { level, entries: a }, Node::Inner { entries: b, .. }) => {
                // The right one's first child has its node's lower keys: from now on a separator must say so.
                let mut entries: Vec<_> = a.iter().chain(b).copied().collect();
                entries[a.len()].key = two.bounds.0;
                Node::Inner { level: *level, entries }
            }
            (Node::Records(a), Node::Records(b)) => Node::Records(a.iter().chain(b).cloned().collect()),
            (Node::Extents(a), Node::Extents(b)) => {
                let mut leaf = a.clone();
                b.extents.iter().for_each(|e| leaf.push(e.logical, e.physical, b.sums_of(e)));
                Node::Extents(leaf)
            }
            _ => return Err(Error::corrupt(format!("{}: children of two kinds", at.child.block)).into()),
        };
        *self.writable(taker.child)? = joined;
        let entries = self.entries(at.child)?;
        entries[left].child = taker.child;
        entries.remove(left + 1);
        Ok(())
    }

    /// Splits a writable node that does not fit its page. Returns its new siblings. Appending fills nodes, anything else halves them.
    fn split(&mut self, child: Child, shape: Shape, append: bool) -> Step<Vec<Entry>> {
        let fanout = self.fanout;
        let node = self.writable(child)?;
        if node.fits(shape, fanout) {
            return Ok(Vec::new());
        }
        let mut parts = cut(std::mem::replace(node, Node::Records(Vec::new())), shape, fanout, append);
        let first = parts.remove(0);
        *node = first.1;
        let mut siblings = Vec::with_capacity(parts.len());
        for (key, part) in parts {
            siblings.push(Entry { key, child: self.allocate(shape, part)? });
        }
        Ok(siblings)
    }
}

/// The blocks to which a leaf refers in `lo..hi`.
fn covered(leaf: &ExtentLeaf, lo: u64, hi: u64) -> SmallVec<[Run; 4]> {
    let part = |e: &Extent| {
        let (from, to) = (e.logical.max(lo), e.end().min(hi));
        Run { start: e.physical.plus(from - e.logical), len: (to - from) as u32 }
    };
    leaf.extents[overlap(leaf, lo, hi)].iter().map(part).collect()
}

/// Replaces `lo..hi` in a leaf.
fn replace(leaf: &mut ExtentLeaf, lo: u64, hi: u64, fresh: &[(u64, Block, Vec<u32>)]) {
    let range = overlap(leaf, lo, hi);
    let old = &leaf.extents[range.clone()];
    // With the neighbours, which may join.
    let wide = range.start.saturating_sub(1)..(range.end + 1).min(leaf.extents.len());
    let mut middle = ExtentLeaf::default();
    for e in &leaf.extents[wide.start..range.start] {
        middle.push(e.logical, e.physical, leaf.sums_of(e));
    }
    if let Some(e) = old.first()
        && e.logical < lo
    {
        middle.push(e.logical, e.physical, &leaf.sums_of(e)[..(lo - e.logical) as usize]);
    }
    for (logical, physical, sums) in fresh {
        middle.push(*logical, *physical, sums);
    }
    if let Some(e) = old.last()
        && e.end() > hi
    {
        let skip = hi - e.logical;
        middle.push(hi, e.physical.plus(skip), &leaf.sums_of(e)[skip as usize..]);
    }
    for e in &leaf.extents[range.end..wide.end] {
        middle.push(e.logical, e.physical, leaf.sums_of(e));
    }
    leaf.splice(wide, &middle);
}

/// Cuts a node into parts that fit, each with its first key.
fn cut(node: Node, shape: Shape, fanout: usize, append: bool) -> Vec<(Key, Node)> {
    let total = node.bytes(shape);
    let parts = total.div_ceil(PAGE_PAYLOAD).max(node.items().div_ceil(fanout)).max(2);
    // Half-full parts leave room; where all that comes is appended, full ones waste none.
    let (bytes, items) =
        if append { (PAGE_PAYLOAD, fanout) } else { (total.div_ceil(parts), node.items().div_ceil(parts)) };
    let (bytes, items) = (bytes.min(PAGE_PAYLOAD), items.clamp(1, fanout));
    let mut out: Vec<(Key, Node)> = Vec::with_capacity(parts + 1);
    let mut used = (usize::MAX, usize::MAX);
    // Whether the next item, of `size` bytes, opens a new part.
    let mut opens = |size: usize| {
        let full = used.0 >= items || used.1.saturating_add(size) > PAGE_PAYLOAD || used.1 >= bytes;
        used = if full { (1, size) } else { (used.0 + 1, used.1 + size) };
        full
    };
    match node {
        Node::Inner { level, entries } => {
            let size = total / entries.len().max(1);
            for e in entries {
                if opens(size) {
                    out.push((e.key, Node::Inner { level, entries: Vec::new() }));
                }
                if let Some((_, Node::Inner { entries, .. })) = out.last_mut() {
                    entries.push(e);
                }
            }
        }
        Node::Records(records) => {
            for r in records {
                if opens(super::node::RECORD_BYTES + r.value.len()) {
                    out.push((r.key, Node::Records(Vec::new())));
                }
                if let Some((_, Node::Records(records))) = out.last_mut() {
                    records.push(r);
                }
            }
        }
        Node::Extents(leaf) => {
            for e in &leaf.extents {
                if opens(super::node::EXTENT_BYTES + 4 * e.len as usize) {
                    out.push((e.logical.into(), Node::Extents(ExtentLeaf::default())));
                }
                if let Some((_, Node::Extents(part))) = out.last_mut() {
                    part.push(e.logical, e.physical, leaf.sums_of(e));
                }
            }
        }
    }
    out
}
