//! Loading the space map: which page is lacking, and taking in a page that was read.

use super::{IndexPage, Space};
use crate::{
    Error, Result,
    format::{COUNT_SYSTEM, Page},
    hint,
    lack::{Lack, PageRef, Step},
    space::{
        pages::{self, Entry},
        region::Region,
    },
    units::Block,
};
use std::sync::Arc;

impl Space {
    /// Returns what is durable of a page, if the page above it is in memory.
    fn entry_of(&self, level: u8, index: u64) -> Option<Entry> {
        if level == self.top {
            return Some(self.top_entry);
        }
        let fanout = u64::from(self.geo.fanout);
        Some(self.index.get(&(level + 1, index / fanout))?.entries[(index % fanout) as usize])
    }
    fn page_ref(&self, level: u8, index: u64, entry: Entry) -> PageRef {
        PageRef { level, index, at: self.geo.home(level, index, entry.home), stamp: entry.stamp }
    }
    fn is_loaded(&self, page: PageRef) -> bool {
        match page.level {
            0 => self.regions.contains_key(&page.index),
            level => self.index.contains_key(&(level, page.index)),
        }
    }
    /// Returns whether a page is still lacking, as it was when [`Lack::Page`] named it. If not, another thread has loaded it meanwhile, or a
    /// checkpoint has made its other home current; then a failure to read the old one means nothing.
    pub(crate) fn wants(&self, page: PageRef) -> bool {
        let entry = if self.is_loaded(page) { None } else { self.entry_of(page.level, page.index) };
        entry.is_some_and(|entry| self.page_ref(page.level, page.index, entry) == page)
    }
    /// Checks a page that was read and takes it in, unless it is no longer lacking.
    pub(crate) fn install(&mut self, page: PageRef, bytes: &Page) -> Result<()> {
        if !self.wants(page) {
            return Ok(());
        }
        let PageRef { level, index, at, stamp } = page;
        let home = u8::from(at != self.geo.home(level, index, 0));
        if level == 0 {
            let counts = pages::decode_counts(bytes, &self.uuid, at, stamp, &self.geo)?;
            let system = counts.iter().enumerate().all(|(i, &n)| (n == COUNT_SYSTEM) == self.geo.is_system(index, i));
            if !system {
                return Err(Error::corrupt(format!("{at}: the homes of region {index} are not marked")));
            }
            self.regions.insert(index, Region::new(counts, home, stamp, 0));
            return Ok(());
        }
        let entries = pages::decode_index(bytes, &self.uuid, at, stamp, level, &self.geo)?;
        // Growth relies on there being nothing beyond the last region.
        let below = self.geo.regions_under(level - 1);
        let there = self.spans.div_ceil(below).saturating_sub(index * u64::from(self.geo.fanout)) as usize;
        if entries.iter().skip(there).any(|e| *e != Entry::default()) {
            return Err(Error::corrupt(format!("{at}: an index page that goes on beyond the last region")));
        }
        self.insert_index(level, index, entries, home, stamp);
        Ok(())
    }
    fn insert_index(&mut self, level: u8, index: u64, entries: Vec<Entry>, home: u8, stamp: u64) {
        let now = entries.iter().map(|e| (e.free, e.returned)).collect();
        self.index.insert((level, index), IndexPage { entries: Arc::new(entries), now, home, stamp });
    }

    /// Returns an index page. One that was never written has empty entries.
    pub(super) fn load_index(&mut self, level: u8, index: u64) -> Step<&mut IndexPage> {
        if !self.index.contains_key(&(level, index)) {
            if level < self.top {
                self.load_index(level + 1, index / u64::from(self.geo.fanout))?;
            }
            let entry = self.entry_of(level, index).expect("the page above is in memory");
            if entry.stamp != 0 {
                return Err(Lack::Page(self.page_ref(level, index, entry)).into());
            }
            self.insert_index(level, index, vec![Entry::default(); self.geo.fanout as usize], entry.home, 0);
        }
        Ok(self.index.get_mut(&(level, index)).expect("it is in memory"))
    }

    /// Makes sure that a region's counts are in memory.
    pub(super) fn load(&mut self, region: u64) -> Step<()> {
        if self.regions.contains_key(&region) {
            return Ok(());
        }
        if region >= self.spans {
            return Err(Error::corrupt(format!("region {region} of {}", self.spans)).into());
        }
        let fanout = u64::from(self.geo.fanout);
        let entry = self.load_index(1, region / fanout)?.entries[(region % fanout) as usize];
        if entry.stamp == 0 {
            return Err(Error::corrupt(format!("region {region}: no count page")).into());
        }
        Err(Lack::Page(self.page_ref(0, region, entry)).into())
    }

    /// Makes sure that the counts of a run are in memory. Prefetches the first of them into the processor's cache.
    pub(crate) fn touch_run(&mut self, start: Block, len: u32) -> Step<()> {
        let (first, place) = self.locate(start)?;
        match self.regions.get(&first) {
            Some(r) => hint::prefetch(&r.counts, place),
            None => self.load(first)?,
        }
        if len > 1 {
            let (last, _) = self.locate(start.plus(u64::from(len) - 1))?;
            (first + 1..=last).try_for_each(|r| self.load(r))?;
        }
        Ok(())
    }

    /// Returns region and place of a block that data or a node may occupy.
    pub(super) fn locate(&self, block: Block) -> Result<(u64, usize)> {
        match self.geo.locate(block) {
            Some((r, p)) if r < self.spans && !self.geo.is_system(r, p) => Ok((r, p)),
            _ => Err(Error::corrupt(format!("{block} can't hold data or a node"))),
        }
    }
}
