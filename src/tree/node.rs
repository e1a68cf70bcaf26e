//! Nodes in memory and on disk.
//!
//! Payload, after the page header of `format`:
//! * extent leaf: per extent logical block (8), physical block (6), length (1), zero (1); after the last one the CRC-32s of all
//!   blocks in order (4 each);
//! * record leaf: per record key (16), length (2), value;
//! * inner node: per child its first key (8 in extent trees, 16 in the catalog), block (8), birth stamp (8).

use crate::{
    BLOCK, EXTENT_MAX, Error, Result,
    format::{self, HEADER, PAGE_PAYLOAD, Page, PageHeader, PageKind, RootPointer, get, get16, get64, put},
    hint,
    lack::{Child, Key, Shape},
    units::{Block, Stamp},
};
use std::sync::Arc;

/// Bytes of a child in an inner node.
fn inner_bytes(shape: Shape) -> usize {
    match shape {
        Shape::Extents => 24,
        Shape::Records => 32,
    }
}

/// A tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Root {
    /// The root node; `None` for the empty tree.
    pub(crate) node: Option<Child>,
    /// Its level, 0 for a leaf.
    pub(crate) level: u8,
}

impl From<RootPointer> for Root {
    fn from(p: RootPointer) -> Root {
        let node = (p.block != 0).then_some(Child { block: Block(p.block), stamp: Stamp(p.stamp) });
        Root { node, level: p.level }
    }
}
impl From<Root> for RootPointer {
    fn from(r: Root) -> RootPointer {
        match r.node {
            None => RootPointer::default(),
            Some(c) => RootPointer { block: c.block.0, stamp: c.stamp.0, level: r.level },
        }
    }
}

/// A child in an inner node with its first key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) key: Key,
    pub(crate) child: Child,
}

/// A run of blocks that lie side by side in the volume and in the image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Extent {
    pub(crate) logical: u64,
    pub(crate) physical: Block,
    /// 1 to [`EXTENT_MAX`] blocks.
    pub(crate) len: u32,
    /// Where its checksums start in the leaf's.
    pub(crate) sums_at: u32,
}

impl Extent {
    pub(crate) fn end(&self) -> u64 {
        self.logical + u64::from(self.len)
    }
}

/// A leaf of extents, in order, with the checksums of all their blocks in the same order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct ExtentLeaf {
    pub(crate) extents: Vec<Extent>,
    pub(crate) sums: Vec<u32>,
}

impl ExtentLeaf {
    /// Index of the first extent that ends after `logical`.
    ///
    /// By interpolation first: the extents of a leaf are mostly of one length and without gaps, as overwriting at random and writing in
    /// sequence make them, and then the guess is right. Otherwise it halves what is on its one side.
    #[inline]
    pub(crate) fn from(&self, logical: u64) -> usize {
        let ends_before = |e: &Extent| e.end() <= logical;
        let guess = self.guess(logical);
        match self.extents.get(guess) {
            None => 0,
            Some(e) if ends_before(e) => guess + 1 + self.extents[guess + 1..].partition_point(ends_before),
            Some(_) if guess == 0 || ends_before(&self.extents[guess - 1]) => guess,
            Some(_) => self.extents[..guess - 1].partition_point(ends_before),
        }
    }
    /// Where the extent of `logical` is, if all are of one length and without gaps; in any case an index, of a leaf that is not empty.
    #[inline]
    fn guess(&self, logical: u64) -> usize {
        let (Some(first), Some(last)) = (self.extents.first(), self.extents.last()) else { return 0 };
        let (most, keys) = (self.extents.len() as u64 - 1, last.logical - first.logical);
        let at = logical.saturating_sub(first.logical).min(keys);
        // Keys so far apart that this would overflow are in no order that a guess could follow.
        at.checked_mul(most).and_then(|n| n.checked_div(keys)).unwrap_or(0) as usize
    }
    /// Where a block is, with its checksum.
    #[inline]
    pub(crate) fn block(&self, logical: u64) -> Option<(Block, u32)> {
        let e = self.extents.get(self.from(logical)).filter(|e| e.logical <= logical)?;
        let i = logical - e.logical;
        Some((e.physical.plus(i), self.sums[e.sums_at as usize + i as usize]))
    }
    /// Has the processor fetch what overwriting one block most likely looks at.
    pub(crate) fn prefetch(&self, logical: u64) {
        let guess = self.guess(logical);
        hint::prefetch(&self.extents, guess);
        if self.sums.len() == self.extents.len() {
            hint::prefetch(&self.sums, guess);
        }
    }
    /// Puts the extents of another leaf in the place of some.
    pub(crate) fn splice(&mut self, range: std::ops::Range<usize>, other: &ExtentLeaf) {
        let sum_at = |i: usize| self.extents.get(i).map_or(self.sums.len(), |e| e.sums_at as usize);
        let (from, to) = (sum_at(range.start), sum_at(range.end));
        let tail = range.start + other.extents.len();
        self.extents.splice(range, other.extents.iter().map(|e| Extent { sums_at: e.sums_at + from as u32, ..*e }));
        self.sums.splice(from..to, other.sums.iter().copied());
        if other.sums.len() != to - from {
            let (old, new) = (to as u32, (from + other.sums.len()) as u32);
            self.extents[tail..].iter_mut().for_each(|e| e.sums_at = e.sums_at - old + new);
        }
    }
    /// The extent that covers exactly `len` blocks from `logical` on and, lying at `physical`, would join no neighbour.
    pub(crate) fn exchangeable(&self, logical: u64, physical: Block, len: usize) -> Option<usize> {
        let i = self.from(logical);
        let e = *self.extents.get(i)?;
        let joins = |a: &Extent, b: &Extent| a.end() == b.logical && a.physical.plus(a.len.into()) == b.physical;
        let new = Extent { physical, ..e };
        let before = i.checked_sub(1).map(|i| &self.extents[i]);
        let joined = before.is_some_and(|b| joins(b, &new)) || self.extents.get(i + 1).is_some_and(|a| joins(&new, a));
        (!joined && e.logical == logical && e.len as usize == len).then_some(i)
    }
    /// Sets the place and the checksums of extent `i`. Returns its old place.
    pub(crate) fn exchange(&mut self, i: usize, physical: Block, sums: &[u32]) -> Block {
        let e = &mut self.extents[i];
        self.sums[e.sums_at as usize..][..sums.len()].copy_from_slice(sums);
        std::mem::replace(&mut e.physical, physical)
    }
    pub(crate) fn sums_of(&self, e: &Extent) -> &[u32] {
        &self.sums[e.sums_at as usize..(e.sums_at + e.len) as usize]
    }
    /// Appends an extent with its checksums, joined to the last one where both sides continue it.
    pub(crate) fn push(&mut self, logical: u64, physical: Block, sums: &[u32]) {
        if sums.is_empty() {
            return;
        }
        let len = sums.len() as u32;
        if let Some(last) = self.extents.last_mut()
            && last.end() == logical
            && last.physical.plus(last.len.into()) == physical
            && last.len + len <= EXTENT_MAX
        {
            last.len += len;
        } else {
            self.extents.push(Extent { logical, physical, len, sums_at: self.sums.len() as u32 });
        }
        self.sums.extend_from_slice(sums);
    }
}

/// A record's bytes. Those of one page share its memory: neither reading a leaf nor copying it for a change allocates for each record.
#[derive(Clone)]
pub(crate) struct Value {
    bytes: Arc<[u8]>,
    at: u32,
    len: u32,
}

impl Value {
    /// A value in memory of its own.
    pub(crate) fn new(bytes: &[u8]) -> Value {
        Value { bytes: bytes.into(), at: 0, len: bytes.len() as u32 }
    }
}

impl std::ops::Deref for Value {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[self.at as usize..][..self.len as usize]
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Value) -> bool {
        **self == **other
    }
}
impl Eq for Value {}

impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(f)
    }
}

/// A record of the catalog.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Record {
    pub(crate) key: Key,
    pub(crate) value: Value,
}

/// A node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Node {
    Inner { level: u8, entries: Vec<Entry> },
    Extents(ExtentLeaf),
    Records(Vec<Record>),
}

/// Bytes and items that one item of a leaf takes.
pub(crate) const EXTENT_BYTES: usize = 16;
pub(crate) const RECORD_BYTES: usize = 18;
/// The longest value of a record: four fit a leaf.
pub(crate) const VALUE_MAX: usize = PAGE_PAYLOAD / 4 - RECORD_BYTES;

impl Node {
    pub(crate) fn level(&self) -> u8 {
        match self {
            Node::Inner { level, .. } => *level,
            _ => 0,
        }
    }
    /// What kind of tree it belongs to; an inner node does not say.
    pub(crate) fn shape(&self) -> Option<Shape> {
        match self {
            Node::Inner { .. } => None,
            Node::Extents(_) => Some(Shape::Extents),
            Node::Records(_) => Some(Shape::Records),
        }
    }
    /// The lowest and the highest key that it speaks of.
    pub(crate) fn keys(&self) -> (Key, Key) {
        let ends = match self {
            Node::Inner { entries, .. } => entries.first().zip(entries.last()).map(|(a, b)| (a.key, b.key)),
            Node::Extents(leaf) => {
                leaf.extents.first().zip(leaf.extents.last()).map(|(a, b)| (a.logical.into(), Key::from(b.end() - 1)))
            }
            Node::Records(records) => records.first().zip(records.last()).map(|(a, b)| (a.key, b.key)),
        };
        ends.unwrap_or((0, 0))
    }
    pub(crate) fn items(&self) -> usize {
        match self {
            Node::Inner { entries, .. } => entries.len(),
            Node::Extents(leaf) => leaf.extents.len(),
            Node::Records(records) => records.len(),
        }
    }
    /// Payload bytes on disk.
    pub(crate) fn bytes(&self, shape: Shape) -> usize {
        match self {
            Node::Inner { entries, .. } => entries.len() * inner_bytes(shape),
            Node::Extents(leaf) => leaf.extents.len() * EXTENT_BYTES + leaf.sums.len() * 4,
            Node::Records(records) => records.iter().map(|r| RECORD_BYTES + r.value.len()).sum(),
        }
    }
    pub(crate) fn fits(&self, shape: Shape, fanout: usize) -> bool {
        self.items() <= fanout && self.bytes(shape) <= PAGE_PAYLOAD
    }

    pub(crate) fn encode(&self, shape: Shape, uuid: &[u8; 16], at: Child) -> Box<Page> {
        let mut page = Box::new([0; BLOCK]);
        let mut o = HEADER;
        let mut add = |bytes: &[u8]| {
            put(&mut page[..], o, bytes);
            o += bytes.len();
        };
        let kind = match (self, shape) {
            (Node::Inner { entries, .. }, _) => {
                for e in entries {
                    match shape {
                        Shape::Extents => add(&(e.key as u64).to_le_bytes()),
                        Shape::Records => add(&e.key.to_le_bytes()),
                    }
                    add(&e.child.block.0.to_le_bytes());
                    add(&e.child.stamp.0.to_le_bytes());
                }
                if shape == Shape::Extents { PageKind::ExtentInner } else { PageKind::RecordInner }
            }
            (Node::Extents(leaf), _) => {
                for e in &leaf.extents {
                    add(&e.logical.to_le_bytes());
                    add(&e.physical.0.to_le_bytes()[..6]);
                    add(&[e.len as u8, 0]);
                }
                leaf.sums.iter().for_each(|s| add(&s.to_le_bytes()));
                PageKind::ExtentLeaf
            }
            (Node::Records(records), _) => {
                for r in records {
                    add(&r.key.to_le_bytes());
                    add(&(r.value.len() as u16).to_le_bytes());
                    add(&r.value);
                }
                PageKind::RecordLeaf
            }
        };
        let header = PageHeader { kind: kind as u8, level: self.level(), items: self.items() as u16 };
        format::seal(&mut page, uuid, at.block, at.stamp, header);
        page
    }

    /// Checks a page in every respect that does not need another page, and returns its node. Its keys lie in `lo..hi`.
    pub(crate) fn decode(
        page: &Page,
        shape: Shape,
        uuid: &[u8; 16],
        at: Child,
        level: u8,
        (lo, hi): (Key, Key),
    ) -> Result<Node> {
        let h = format::unseal(page, uuid, at.block, at.stamp)?;
        let bad = |why: &str| Error::corrupt(format!("{}: {why}", at.block));
        let kind = match (shape, level) {
            (Shape::Extents, 0) => PageKind::ExtentLeaf,
            (Shape::Extents, _) => PageKind::ExtentInner,
            (Shape::Records, 0) => PageKind::RecordLeaf,
            (Shape::Records, _) => PageKind::RecordInner,
        };
        if h.kind != kind as u8 || h.level != level {
            return Err(bad("a node of another kind or level"));
        }
        let items = usize::from(h.items);
        if items == 0 {
            return Err(bad("an empty node"));
        }
        let payload = &page[HEADER..];
        let node = match kind {
            PageKind::ExtentLeaf => decode_extents(payload, items, lo, hi).map(Node::Extents),
            PageKind::RecordLeaf => decode_records(payload, items, lo, hi).map(Node::Records),
            _ => decode_children(payload, items, shape, lo, hi).map(|entries| Node::Inner { level, entries }),
        };
        node.map_err(bad)
    }
}

/// The extents of a leaf, or what is wrong with them.
fn decode_extents(payload: &[u8], items: usize, lo: Key, hi: Key) -> Result<ExtentLeaf, &'static str> {
    if items * EXTENT_BYTES > PAGE_PAYLOAD {
        return Err("too many extents");
    }
    let mut leaf = ExtentLeaf::default();
    leaf.extents.reserve_exact(items);
    let mut next = lo as u64;
    let mut sums = 0;
    for i in 0..items {
        let o = i * EXTENT_BYTES;
        let mut physical = [0; 8];
        physical[..6].copy_from_slice(&get::<6>(payload, o + 8));
        let e = Extent {
            logical: get64(payload, o),
            physical: Block(u64::from_le_bytes(physical)),
            len: payload[o + 14].into(),
            sums_at: sums,
        };
        let end = e.logical.checked_add(e.len.into());
        if e.logical < next || e.len == 0 || e.len > EXTENT_MAX || end.is_none_or(|n| Key::from(n) > hi) {
            return Err("an extent is out of order or bounds");
        }
        next = e.end();
        sums += e.len;
        leaf.extents.push(e);
    }
    let at = items * EXTENT_BYTES;
    if at + 4 * sums as usize > PAGE_PAYLOAD {
        return Err("more checksums than fit");
    }
    leaf.sums = (0..sums as usize).map(|i| format::get32(payload, at + 4 * i)).collect();
    Ok(leaf)
}

/// The records of a leaf, or what is wrong with them.
fn decode_records(payload: &[u8], items: usize, lo: Key, hi: Key) -> Result<Vec<Record>, &'static str> {
    let mut records: Vec<Record> = Vec::with_capacity(items.min(PAGE_PAYLOAD / RECORD_BYTES));
    let shared: Arc<[u8]> = payload.into();
    let mut o = 0;
    for _ in 0..items {
        if o + RECORD_BYTES > PAGE_PAYLOAD {
            return Err("records past the end");
        }
        let key = Key::from_le_bytes(get(payload, o));
        let len = usize::from(get16(payload, o + 16));
        o += RECORD_BYTES;
        if o + len > PAGE_PAYLOAD {
            return Err("a record past the end");
        }
        let value = Value { bytes: shared.clone(), at: o as u32, len: len as u32 };
        let ordered = records.last().is_none_or(|r| r.key < key);
        if !ordered || key < lo || key >= hi || len > VALUE_MAX {
            return Err("a record is out of order or bounds");
        }
        records.push(Record { key, value });
        o += len;
    }
    Ok(records)
}

/// The children of an inner node, or what is wrong with them.
fn decode_children(payload: &[u8], items: usize, shape: Shape, lo: Key, hi: Key) -> Result<Vec<Entry>, &'static str> {
    let width = inner_bytes(shape);
    if items * width > PAGE_PAYLOAD {
        return Err("too many children");
    }
    let mut entries: Vec<Entry> = Vec::with_capacity(items);
    for i in 0..items {
        let o = i * width;
        let key = match shape {
            Shape::Extents => Key::from(get64(payload, o)),
            Shape::Records => Key::from_le_bytes(get(payload, o)),
        };
        let block = Block(get64(payload, o + width - 16));
        let stamp = Stamp(get64(payload, o + width - 8));
        let ordered = entries.last().map_or(key >= lo, |e| e.key < key);
        if !ordered || key >= hi {
            return Err("a key is out of order or bounds");
        }
        entries.push(Entry { key, child: Child { block, stamp } });
    }
    Ok(entries)
}

/// Index of the child whose keys include `key`.
#[inline]
pub(crate) fn child_of(entries: &[Entry], key: Key) -> usize {
    entries.partition_point(|e| e.key <= key).saturating_sub(1)
}
