//! The space map's part of a frozen checkpoint: the pages to write, and what the superblock must name.

use super::{
    Geometry,
    pages::{self, Entry},
};
use crate::{
    format::{COUNT_RETURNED, Page},
    units::Block,
};
use std::{collections::BTreeMap, sync::Arc};

/// An index page's entries.
type Entries = Arc<Vec<Entry>>;

/// A region at the freeze.
pub(super) struct FrozenRegion {
    pub(super) index: u64,
    pub(super) counts: Arc<Vec<u32>>,
    pub(super) home: u8,
}

/// The space map's part of a frozen checkpoint.
pub(crate) struct FrozenSpace {
    pub(super) geo: Geometry,
    pub(super) regions: Vec<FrozenRegion>,
    /// Index pages above the changed regions, as they are durable, by (level, index).
    pub(super) index: BTreeMap<(u8, u64), (Entries, u8)>,
    pub(crate) top: u8,
    pub(crate) spans: u64,
    pub(crate) free: u64,
    pub(crate) returned: u64,
    pub(super) generation: u64,
    pub(super) stamp: u64,
    /// Filled in by [`FrozenSpace::encode_index`]: the new entries, by (level, index).
    pub(super) written: Vec<(u8, u64, Arc<Vec<Entry>>)>,
    pub(crate) top_entry: Entry,
}

impl FrozenSpace {
    /// Encodes the next `most` count pages, in order of place, after the first `from`. Returns none once those were all.
    pub(crate) fn encode_counts(&mut self, uuid: &[u8; 16], from: usize, most: usize) -> Vec<(Block, Box<Page>)> {
        let fanout = u64::from(self.geo.fanout);
        let mut out = Vec::new();
        for r in self.regions.iter().skip(from).take(most) {
            let at = self.geo.home(0, r.index, r.home);
            out.push((at, pages::encode_counts(&r.counts, uuid, at, self.stamp)));
            let (mut free, mut returned) = (0, 0);
            for &n in r.counts.iter() {
                free += u16::from(n == 0);
                returned += u16::from(n == COUNT_RETURNED);
            }
            let entry = Entry { stamp: self.stamp, free, returned, home: r.home };
            if let Some((entries, _)) = self.index.get_mut(&(1, r.index / fanout)) {
                Arc::make_mut(entries)[(r.index % fanout) as usize] = entry;
            }
        }
        out
    }
    /// Encodes the index pages, from the bottom up, once all count pages were encoded. Fills in what the superblock must name.
    pub(crate) fn encode_index(&mut self, uuid: &[u8; 16]) -> Vec<(Block, Box<Page>)> {
        let fanout = u64::from(self.geo.fanout);
        let mut out = Vec::new();
        for level in 1..=self.top {
            let indexes: Vec<u64> = self.index.range((level, 0)..=(level, u64::MAX)).map(|(k, _)| k.1).collect();
            for index in indexes {
                let (entries, home) = self.index[&(level, index)].clone();
                let at = self.geo.home(level, index, home);
                out.push((at, pages::encode_index(&entries, uuid, at, self.stamp, level)));
                let free = entries.iter().map(|e| e.free).max().unwrap_or(0);
                let returned = entries.iter().map(|e| e.returned).max().unwrap_or(0);
                let entry = Entry { stamp: self.stamp, free, returned, home };
                if level == self.top {
                    self.top_entry = entry;
                } else if let Some((above, _)) = self.index.get_mut(&(level + 1, index / fanout)) {
                    Arc::make_mut(above)[(index % fanout) as usize] = entry;
                }
                self.written.push((level, index, entries));
            }
        }
        out
    }
    /// Returns whether a block was free at the freeze, if its count had changed since the freeze before.
    pub(crate) fn has_freed(&self, block: Block) -> bool {
        let Some((region, place)) = self.geo.locate(block) else { return false };
        let found = self.regions.binary_search_by_key(&region, |r| r.index);
        found.is_ok_and(|i| self.regions[i].counts[place] == 0)
    }
    pub(crate) fn top_stamp(&self) -> (u64, u8) {
        (self.top_entry.stamp, self.top_entry.home)
    }
}
