//! What an image says, as far as it hangs together: which pages are in use and how often, and the groups of its log.

use super::{
    layout,
    reseal::Image,
    value::{Pool, Value, num},
};
use snapdisk::format::{
    COUNT_RETURNED, COUNT_SYSTEM, HEADER, LOG_PAYLOAD, LOG_START, LogHeader, PageKind, SUPERBLOCK_FIELDS,
};
use std::{
    collections::{BTreeMap, HashMap},
    hash::Hasher,
};
use twox_hash::XxHash3_64;

/// Blocks of the pages in use, by what they are.
#[derive(Default)]
pub(crate) struct Live {
    pub(crate) counts: Vec<u64>,
    pub(crate) index: Vec<u64>,
    pub(crate) extents: Vec<u64>,
    pub(crate) records: Vec<u64>,
    /// Parents of each block.
    parents: HashMap<u64, u32>,
    /// For each count page in use: its region's first block. For each index page: its level, and what is below.
    regions: Vec<(u64, u64)>,
    below: Vec<(u8, u64, Vec<u64>)>,
    doomed: u64,
}

fn count(n: &Value) -> u64 {
    n.as_u64()
}

impl Image {
    fn reference_of(value: &mut Value) -> Option<(u64, u64)> {
        match value {
            Value::Reference { block, stamp } => Some((*block, *stamp)),
            _ => None,
        }
    }
    /// A field of the newest superblock.
    pub(crate) fn field(&self, name: &str) -> u64 {
        let range = SUPERBLOCK_FIELDS.iter().find(|f| f.0 == name).expect("a field").1.clone();
        let mut out = [0; 8];
        if let Some(page) = self.superblock_page() {
            out[..range.len()].copy_from_slice(&page[range]);
        }
        u64::from_le_bytes(out)
    }
    pub(crate) fn set_field(&mut self, name: &str, value: u64) {
        let field = SUPERBLOCK_FIELDS.iter().position(|f| f.0 == name).expect("a field");
        self.set_superblock(field, value);
    }

    /// Follows every reference from the superblock down.
    pub(crate) fn live(&self) -> Live {
        let mut live = Live::default();
        self.live_counts(&mut live);
        let mut roots = Vec::new();
        let catalog = (self.field("catalog.block"), self.field("catalog.stamp"));
        self.live_tree(&mut live, catalog, &mut roots);
        roots.into_iter().for_each(|root| self.live_tree(&mut live, root, &mut Vec::new()));
        live
    }

    fn live_counts(&self, live: &mut Live) {
        let sb = &self.superblock;
        let (span, fanout) = (u64::from(sb.span), u64::from(sb.index_fanout));
        let home = |level: u8, index: u64, home: u64| {
            let start = LOG_START.0 + sb.log_pages + index * fanout.saturating_pow(level.into()) * span;
            if home == 0 { start + u64::from(level) } else { start + span - 1 - u64::from(level) }
        };
        let top = home(sb.index_level, 0, sb.index_home.into());
        let mut todo = vec![(sb.index_level, 0, top, sb.index_stamp)];
        while let Some((level, index, block, stamp)) = todo.pop() {
            let Some(page) = self.stamped(block, stamp) else { continue };
            if level == 0 {
                live.counts.push(block);
                live.regions.push((block, home(0, index, 0)));
                continue;
            }
            live.index.push(block);
            let mut value = layout::page(page);
            let mut below = Vec::new();
            for (i, entry) in (0..).zip(layout::items(&mut value).into_iter().flatten()) {
                let part = |n: &mut Value, i| n.field(i).map_or(0, |v| count(v));
                let (stamp, at) = (part(entry, 0), part(entry, 3));
                let child = home(level - 1, index * fanout + i, at);
                below.push(child);
                if stamp != 0 {
                    todo.push((level - 1, index * fanout + i, child, stamp));
                }
            }
            live.below.push((level, block, below));
        }
    }

    /// One tree; roots that the catalog's records name go into `roots`.
    fn live_tree(&self, live: &mut Live, root: (u64, u64), roots: &mut Vec<(u64, u64)>) {
        let mut todo = vec![root];
        while let Some((block, stamp)) = todo.pop() {
            if block == 0 {
                continue;
            }
            let parents = live.parents.entry(block).or_default();
            *parents += 1;
            if *parents > 1 {
                continue;
            }
            let Some(page) = self.stamped(block, stamp) else { continue };
            let (kind, mut value) = (page[4], layout::page(page));
            let is = |k: PageKind| kind == k as u8;
            if is(PageKind::ExtentInner) || is(PageKind::ExtentLeaf) {
                live.extents.push(block);
            } else {
                live.records.push(block);
            }
            for item in layout::items(&mut value).into_iter().flatten() {
                if is(PageKind::ExtentLeaf) {
                    let (physical, len) =
                        (item.field(1).map_or(0, |v| count(v)), item.field(2).map_or(0, |v| count(v)));
                    (0..len).for_each(|i| *live.parents.entry(physical + i).or_default() += 1);
                } else if is(PageKind::RecordLeaf) {
                    let kind = item.field(0).and_then(|k| k.field(2)).map_or(0, |v| count(v));
                    let Some(body) = item.field(1).and_then(|r| r.field(0)) else { continue };
                    let root = match kind {
                        1 => body.field(2),
                        2 => body.field(3),
                        7 => Some(body),
                        _ => None,
                    };
                    live.doomed += u64::from(kind == 7);
                    roots.extend(root.and_then(|r| r.field(0)).and_then(Image::reference_of));
                } else {
                    todo.extend(item.field(1).and_then(Image::reference_of));
                }
            }
        }
    }

    /// Makes counts, index and totals say what the trees say, so that a full check finds no fault with them.
    pub(crate) fn recount(&mut self) {
        let live = self.live();
        // By home: most free and most returned blocks below.
        let mut most: HashMap<u64, (u64, u64)> = HashMap::new();
        let (mut free, mut returned) = (0, 0);
        for &(block, start) in &live.regions {
            let Some(page) = self.page_mut(block) else { continue };
            let (mut own_free, mut own_returned) = (0, 0);
            for (i, at) in (0..u64::from(u16::from_le_bytes([page[6], page[7]]))).zip((HEADER..).step_by(4)) {
                let Some(bytes) = page.get_mut(at..at + 4) else { break };
                let old = u32::from_le_bytes(bytes.try_into().expect("four"));
                let n = live.parents.get(&(start + i)).copied().unwrap_or(0);
                if old != COUNT_SYSTEM && (old != COUNT_RETURNED || n > 0) {
                    bytes.copy_from_slice(&n.to_le_bytes());
                    own_free += u64::from(n == 0);
                } else {
                    own_returned += u64::from(old == COUNT_RETURNED);
                }
            }
            (free, returned) = (free + own_free, returned + own_returned);
            most.insert(block, (own_free, own_returned));
            self.seal(block);
        }
        let mut below = live.below;
        below.sort_unstable();
        for (_, block, children) in below {
            let Some(page) = self.page_mut(block) else { continue };
            let mut max = (0, 0);
            for (child, at) in children.into_iter().zip((HEADER..).step_by(16)) {
                if let Some(&(f, r)) = most.get(&child)
                    && let Some(entry) = page.get_mut(at + 8..at + 12)
                {
                    entry[..2].copy_from_slice(&(f as u16).to_le_bytes());
                    entry[2..].copy_from_slice(&(r as u16).to_le_bytes());
                    max = (max.0.max(f), max.1.max(r));
                }
            }
            most.insert(block, max);
            self.seal(block);
        }
        self.set_field("free", free);
        self.set_field("returned", returned);
        self.set_field("doomed", live.doomed);
    }

    /// Makes the checksums in extent leaves say what stands in the blocks.
    pub(crate) fn sum_data(&mut self) {
        for block in self.live().extents {
            let Some(page) = self.page(block).filter(|p| p[4] == PageKind::ExtentLeaf as u8) else { continue };
            let mut value = layout::page(page);
            let mut sums = Vec::new();
            for e in layout::items(&mut value).into_iter().flatten() {
                let (at, len) = (e.field(1).map_or(0, |v| count(v)), e.field(2).map_or(0, |v| count(v)));
                sums.extend((at..at + len.min(64)).map(|b| self.sum_of(b)));
            }
            if let Some(field) = value.field(4) {
                *field = Value::List { items: sums, prefixed: false };
            }
            if let Some(page) = self.page_mut(block) {
                layout::put_page(page, value);
            }
            self.seal(block);
        }
    }
    fn sum_of(&self, block: u64) -> Value {
        num(4, self.page(block).map_or(0, |p| crc32fast::hash(p)).into())
    }

    /// The groups of the log. Each begins with numbers that change its header: epoch, number, data hash, length, last and index.
    pub(crate) fn groups(&self) -> Vec<Value> {
        let mut out = Vec::new();
        let mut bytes = Vec::new();
        for &block in self.log_pages() {
            let Some(page) = self.page(block) else { break };
            let len = u32::from_le_bytes(page[44..48].try_into().expect("four")) as usize;
            bytes.extend_from_slice(&page[HEADER..HEADER + len.min(LOG_PAYLOAD)]);
            if page[4] == 1 {
                let header = Value::Struct([8, 8, 8, 4, 1, 4].map(|w| num(w, 0)).to_vec());
                out.push(Value::Struct(vec![header, layout::stream(&bytes)]));
                bytes.clear();
            }
        }
        out
    }

    /// Writes a log of these groups, as many as there is room for. `repair`: the checksums and hashes of data are those of what stands
    /// in the blocks, or in the log itself.
    pub(crate) fn set_groups(&mut self, groups: Vec<Value>, repair: bool) {
        let sb = self.superblock.clone();
        let mut previous = sb.log_hash;
        let mut left = sb.log_pages as usize;
        let mut encoded = Vec::new();
        let total = groups.len();
        for (n, mut group) in (1..).zip(groups) {
            // What follows a group proves it; for the data of the last ones, which nothing may follow, the hash speaks.
            let last = n as usize + 2 > total;
            let hash = if last || repair { self.data_hash(&mut group, repair, last) } else { 0 };
            let mut header = [0; 6];
            for (i, h) in header.iter_mut().enumerate() {
                *h = group.field(0).and_then(|g| g.field(i)).map_or(0, |v| count(v));
            }
            let bytes = group.field(1).map_or(Vec::new(), |v| v.bytes());
            let pages = bytes.len().div_ceil(LOG_PAYLOAD).max(1);
            let Some(rest) = left.checked_sub(pages) else { break };
            left = rest;
            encoded.push((n, header, bytes, hash));
        }
        self.clear_log();
        for (n, [epoch, number, data, more, last, index], bytes, hash) in encoded {
            let pages = bytes.len().div_ceil(LOG_PAYLOAD).max(1);
            for i in 0..pages {
                let payload = &bytes[i * LOG_PAYLOAD..bytes.len().min((i + 1) * LOG_PAYLOAD)];
                let end = i + 1 == pages;
                let change = |n: u64| if end { n } else { 0 };
                let header = LogHeader {
                    epoch: sb.epoch ^ change(epoch),
                    group: sb.log_group.wrapping_add(n).wrapping_add(change(number)),
                    index: (i as u32).wrapping_add(change(index) as u32),
                    last: end ^ (change(last) & 1 == 1),
                    len: (payload.len() as u32).wrapping_add(change(more) as u32),
                    previous,
                    data: if end { hash ^ data } else { 0 },
                };
                previous = self.push_log(payload, &header);
            }
        }
    }

    /// The hash of all data that a group names, if it is to be `hashed`. With `repair` checksums in the group's records become right.
    fn data_hash(&self, group: &mut Value, repair: bool, hashed: bool) -> u64 {
        let mut placed: Vec<&mut Value> = Vec::new();
        let mut own: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        let records = match group.field(1) {
            Some(Value::List { items, .. }) => items.as_mut_slice(),
            _ => &mut [],
        };
        for op in records.iter_mut().filter_map(|r| r.field(0)).flat_map(ops) {
            let Value::Enum { variant, fields, .. } = op else { continue };
            match (*variant, &mut fields[..]) {
                (0, [_, data]) => placed.push(data),
                (1, [_, _, _, Value::List { items, .. }]) => placed.extend(items),
                (4, [_, _, _, Value::Option { some: true, value }])
                | (10, [_, _, Value::Option { some: true, value }]) => {
                    placed.push(&mut **value);
                }
                (12, [Value::Num { n, .. }, Value::Bytes(bytes)]) => drop(own.insert(*n as u64, bytes.clone())),
                _ => {}
            }
        }
        let mut fold = XxHash3_64::with_seed(self.superblock.hash_key);
        let hashed = hashed && own.is_empty();
        let mut left = 256;
        for p in placed {
            let mut hash = XxHash3_64::with_seed(self.superblock.hash_key);
            let mut sums = Vec::new();
            let Some(Value::List { items: runs, .. }) = p.field(1) else { continue };
            for run in runs {
                let (at, len) = (run.field(0).map_or(0, |v| count(v)), run.field(1).map_or(0, |v| count(v)));
                let len = len.min(left);
                left -= len;
                for b in (0..len).map(|i| at.saturating_add(i)) {
                    if hashed {
                        hash.write(self.page(b).map_or(&[0; snapdisk::BLOCK][..], |p| p));
                    }
                    sums.push(own.get(&b).map_or_else(|| self.sum_of(b), |d| num(4, crc32fast::hash(d).into())));
                }
            }
            if repair && let Some(Value::List { items, .. }) = p.field(2) {
                *items = sums;
            }
            if hashed {
                fold.write(&hash.finish().to_le_bytes());
            }
        }
        fold.finish()
    }

    /// Numbers and references of the image, for changes to take from.
    pub(crate) fn pool(&self, live: &Live) -> Pool {
        let mut numbers: Vec<u64> = super::NUMBERS.to_vec();
        let blocks = (self.bytes.len() / snapdisk::BLOCK) as u64;
        numbers.extend([blocks, blocks - 1, blocks + 1, self.superblock.log_pages + 32]);
        let pages = [&live.extents, &live.records, &live.counts, &live.index];
        let all: Vec<u64> = pages.into_iter().flat_map(|p| p.iter().copied()).collect();
        numbers.extend(all.iter().step_by(1 + all.len() / 100));
        let stamp = |b: u64| self.page(b).map_or(0, |p| u64::from_le_bytes(p[32..40].try_into().expect("eight")));
        let references = all.iter().map(|&b| (b, stamp(b))).collect();
        Pool { numbers, references }
    }
}

/// The operations of a record's body.
fn ops(body: &mut Value) -> &mut [Value] {
    match body {
        Value::List { items, .. } => items,
        _ => &mut [],
    }
}

/// The superblock's fields.
pub(crate) fn superblock(page: &[u8]) -> Value {
    let fields = SUPERBLOCK_FIELDS.iter().map(|(_, range)| match u8::try_from(range.len()) {
        Ok(width @ 0..=8) => {
            let n = page[range.clone()].iter().rev().fold(0, |n, &b| n << 8 | u128::from(b));
            Value::Num { width, n }
        }
        _ => Value::Raw(page[range.clone()].to_vec()),
    });
    Value::Struct(fields.collect())
}
