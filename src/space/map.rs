//! Counts in memory, the quarantine, and what a checkpoint freezes and releases.

mod allocate;
mod counts;
mod load;

use super::{
    Geometry,
    frozen::{FrozenRegion, FrozenSpace},
    pages::Entry,
    reading::{Reading, parts},
    region::{Region, bit},
};
use crate::{
    Error, ErrorKind,
    format::{COUNT_RETURNED, COUNT_SYSTEM},
    lack::Step,
    units::{BLOCK_BYTES, Block},
};
use rustc_hash::{FxHashMap, FxHashSet};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

/// A run of blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Run {
    pub(crate) start: Block,
    pub(crate) len: u32,
}

impl Run {
    /// Returns what is left of it without another run.
    pub(crate) fn without(self, other: Run) -> Vec<Run> {
        let (start, end) = (self.start.0, self.start.0 + u64::from(self.len));
        let (cut, cut_end) = (other.start.0, other.start.0 + u64::from(other.len));
        [(start, end.min(cut)), (start.max(cut_end), end)]
            .into_iter()
            .filter(|(a, b)| a < b)
            .map(|(a, b)| Run { start: Block(a), len: (b - a) as u32 })
            .collect()
    }
}

/// One index page in memory: its entries as they are durable, and what the allocator would find below each of them now.
struct IndexPage {
    entries: Arc<Vec<Entry>>,
    /// (available, returned) maxima of each entry, as of now.
    now: Vec<(u16, u16)>,
    home: u8,
    stamp: u64,
}

/// The purpose for which blocks are allocated. Each purpose takes from a region of its own: nodes come and go at every checkpoint, and would
/// leave holes between data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Data,
    Nodes,
}

/// Space to ask the host for, with no lock held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reservation {
    /// Grow from this many regions to that many.
    Grow { from: u64, to: u64 },
    /// Reserve a run again that was returned to the host.
    Again(Run),
}

/// Held by a view of everything at one instant: while it lives, nothing that was freed since its generation began is used again.
pub(crate) type Pin = Arc<()>;

/// A change of one block's count, which [`Space::undo`] can take back.
enum Change {
    /// One more parent.
    Raised(Run),
    /// One parent less.
    Lowered(Run),
    /// An allocated block's first parent.
    Taken(Run),
}

struct Quarantine {
    generation: u64,
    runs: Vec<Run>,
    /// Number of blocks in all its runs, kept because writers ask for it and a long view may hold very many runs.
    blocks: u64,
    /// Held by every view taken in the generation.
    pin: Pin,
}

/// The space map.
pub(crate) struct Space {
    geo: Geometry,
    uuid: [u8; 16],
    spans: u64,
    spans_max: u64,
    growth: u32,
    regions: FxHashMap<u64, Region>,
    index: FxHashMap<(u8, u64), IndexPage>,
    top: u8,
    top_entry: Entry,
    /// Blocks that may be allocated now, in memory or not. This and the next two numbers start as the superblock says, which may lie: they
    /// saturate.
    available: u64,
    /// Blocks of count zero, in memory or not.
    free: u64,
    returned: u64,
    /// The regions that blocks are taken from, by [`Purpose`]. The index says that nothing is available in them.
    cursors: [Option<u64>; 2],
    /// Free space that the image may have before nearly full regions are filled up, in percent of what is in use.
    slack: u64,
    /// Some block has got another parent since the last freeze.
    shared: bool,
    /// Grows with every change of a count.
    edits: u64,
    /// Changes of counts that can still be undone, oldest first.
    undo: Vec<Change>,
    /// The host refused space since the last checkpoint.
    pub(crate) crowded: bool,
    /// Blocks that were allocated since quarantines were last ended.
    pub(super) taken: u64,
    /// Blocks that writers are likely to allocate soon, by what they did lately.
    demand: u64,
    generation: u64,
    durable: u64,
    changed: Vec<u64>,
    pin: Pin,
    freed: Vec<Run>,
    waiting: u64,
    /// Runs that have left quarantine and that reads are still copying.
    read: Vec<Run>,
    quarantine: VecDeque<Quarantine>,
    /// Set for a replay that only reads: it may allocate blocks past the end, which are never written.
    pub(crate) imaginary: bool,
}

impl Space {
    /// The map as a superblock describes it; `spans` is 0, with an empty entry, for a new image.
    #[allow(clippy::too_many_arguments, reason = "one caller, at open")]
    pub(crate) fn new(
        geo: Geometry,
        uuid: [u8; 16],
        spans: u64,
        limit_blocks: u64,
        (growth, slack): (u32, u32),
        top_entry: Entry,
        totals: (u64, u64),
        durable: u64,
    ) -> Space {
        Space {
            geo,
            uuid,
            spans,
            spans_max: (limit_blocks.saturating_sub(geo.base) / u64::from(geo.span))
                .min(geo.regions_under(crate::format::INDEX_LEVELS))
                .max(spans),
            growth,
            regions: FxHashMap::default(),
            index: FxHashMap::default(),
            top: geo.top_level(spans),
            top_entry,
            available: totals.0,
            free: totals.0,
            returned: totals.1,
            cursors: [None; 2],
            slack: slack.into(),
            crowded: false,
            taken: 0,
            demand: 0,
            shared: false,
            edits: 0,
            undo: Vec::new(),
            generation: durable + 1,
            durable,
            changed: Vec::new(),
            pin: Pin::default(),
            read: Vec::new(),
            freed: Vec::new(),
            waiting: 0,
            quarantine: VecDeque::new(),
            imaginary: false,
        }
    }
    pub(crate) fn entry(stamp: u64, home: u8) -> Entry {
        Entry { stamp, home, ..Entry::default() }
    }

    pub(crate) fn geometry(&self) -> Geometry {
        self.geo
    }
    pub(crate) fn spans(&self) -> u64 {
        self.spans
    }
    /// Blocks that may be allocated now.
    pub(crate) fn available(&self) -> u64 {
        self.available
    }
    pub(crate) fn free(&self) -> u64 {
        self.free
    }
    pub(crate) fn returned(&self) -> u64 {
        self.returned
    }
    /// Blocks that were freed and may not be allocated yet.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting
    }
    /// Grows with every change of a count.
    pub(crate) fn edits(&self) -> u64 {
        self.edits
    }
    /// Returns whether a checkpoint has anything to write here.
    pub(crate) fn has_changes(&self) -> bool {
        !self.changed.is_empty() || !self.freed.is_empty()
    }
    /// Bytes that counts which wait for a checkpoint take in memory at most, and the index pages above them.
    pub(crate) fn changed_bytes(&self) -> u64 {
        let changed = self.changed.len();
        let above = self.index.len().min(changed * usize::from(self.top));
        changed as u64 * (u64::from(self.geo.span) * 4 + 256) + above as u64 * (u64::from(self.geo.fanout) * 20 + 128)
    }
    /// Returns what a view of everything holds for as long as it lives.
    pub(crate) fn pin(&self) -> Pin {
        self.pin.clone()
    }
    /// Freed runs that only reads keep from use.
    pub(crate) fn held_by_reads(&self) -> &[Run] {
        &self.read
    }
    /// Number of freed blocks that only views of everything keep from use.
    pub(crate) fn held_by_views(&self) -> u64 {
        self.quarantine.iter().filter(|q| q.generation <= self.durable).map(|q| q.blocks).sum()
    }
    /// Returns where the last region ends, in bytes.
    pub(crate) fn end(&self) -> u64 {
        self.geo.start(self.spans).offset()
    }

    // ---- the host's space

    /// Returns what to ask the host for so that more blocks become available; `None` at the image's limit.
    pub(crate) fn next_reservation(&mut self, blocks: u64) -> Step<Option<Reservation>> {
        if self.returned > 0 && !self.imaginary {
            let fanout = u64::from(self.geo.fanout);
            let (mut level, mut index) = (self.top, 0);
            while level > 0 {
                let page = self.load_index(level, index)?;
                let best = page.now.iter().map(|n| n.1).enumerate().max_by_key(|&(i, n)| (n, usize::MAX - i));
                match best {
                    Some((i, n)) if n > 0 => index = index * fanout + i as u64,
                    _ => break,
                }
                level -= 1;
            }
            if level == 0 {
                self.load(index)?;
                let counts = &self.regions[&index].counts;
                if let Some(first) = counts.iter().position(|&n| n == COUNT_RETURNED) {
                    let len = counts[first..].iter().take_while(|&&n| n == COUNT_RETURNED).count() as u32;
                    return Ok(Some(Reservation::Again(Run { start: self.geo.start(index).plus(first as u64), len })));
                }
                self.note(index);
            }
        }
        if self.spans >= self.spans_max && !self.imaginary {
            return Ok(None);
        }
        // A small image grows by half of its size, and no image by more than its slack, so that it takes little more from the host than it
        // needs.
        let slack = self.slack_left().unwrap_or(0) / u64::from(self.geo.span);
        let usual = u64::from(self.growth).min(self.spans / 2).min(slack.max(self.spans / 16)).max(1);
        let step = usual.max(blocks.div_ceil(self.geo.usable()));
        let to = (self.spans + step).min(if self.imaginary { u64::MAX } else { self.spans_max });
        Ok(Some(Reservation::Grow { from: self.spans, to }))
    }

    /// Notes that the host has reserved what [`Space::next_reservation`] named. Nothing happens if that is no longer wanted.
    pub(crate) fn reserved(&mut self, reserving: Reservation) -> Step<()> {
        match reserving {
            Reservation::Grow { from, to } if from == self.spans => self.grow(to),
            Reservation::Grow { .. } => Ok(()),
            Reservation::Again(run) => {
                self.touch_run(run.start, run.len)?;
                for i in 0..u64::from(run.len) {
                    let (region, place) = self.locate(run.start.plus(i))?;
                    self.load(region)?;
                    let r = self.region_mut(region);
                    if r.counts[place] == COUNT_RETURNED {
                        r.counts[place] = 0;
                        r.returned -= 1;
                        r.set_available(place, true);
                        self.returned = self.returned.saturating_sub(1);
                        self.free += 1;
                        self.available += 1;
                    }
                    self.note(region);
                }
                Ok(())
            }
        }
    }

    /// Adds fresh regions.
    pub(crate) fn grow(&mut self, to: u64) -> Step<()> {
        let top = self.geo.top_level(to);
        let fanout = u64::from(self.geo.fanout);
        // Everything is read before anything changes, since a page that is lacking has this begun again. What is not under the present top is
        // fresh.
        self.load_index(self.top, 0)?;
        let under = self.geo.regions_under(self.top);
        for index in self.spans / fanout..to.div_ceil(fanout) {
            if index.saturating_mul(fanout) < under {
                self.load_index(1, index)?;
            }
        }
        while self.top < top {
            // The old top becomes the first entry of the new one, which was never written.
            let old = &self.index[&(self.top, 0)];
            let mut entries = vec![Entry::default(); self.geo.fanout as usize];
            let max = old.now.iter().fold((0, 0), |m, n| (m.0.max(n.0), m.1.max(n.1)));
            entries[0] = Entry { stamp: old.stamp, home: old.home, free: max.0, returned: max.1 };
            let now = entries.iter().map(|e| (e.free, e.returned)).collect();
            self.top += 1;
            self.top_entry = Entry::default();
            self.index.insert((self.top, 0), IndexPage { entries: Arc::new(entries), now, home: 0, stamp: 0 });
        }
        for region in self.spans..to {
            let span = self.geo.span as usize;
            let counts: Vec<u32> =
                (0..span).map(|i| if self.geo.is_system(region, i) { COUNT_SYSTEM } else { 0 }).collect();
            // Pages above a fresh region may be fresh as well: an entry of stamp 0 reads as no entries.
            self.load_index(1, region / fanout)?;
            self.spans = region + 1;
            let r = Region::new(counts, 1, 0, 0);
            self.available += u64::from(r.free);
            self.free += u64::from(r.free);
            self.regions.insert(region, r);
            self.region_mut(region);
            self.note(region);
        }
        Ok(())
    }

    // ---- checkpoints

    /// Ends the generation: returns what changed in it, which counts as frozen from now on.
    pub(crate) fn freeze(&mut self, stamp: u64) -> FrozenSpace {
        let fanout = u64::from(self.geo.fanout);
        let mut index = BTreeMap::new();
        let mut regions = Vec::with_capacity(self.changed.len());
        self.changed.sort_unstable();
        for &region in &self.changed {
            let r = self.regions.get_mut(&region).expect("changed, so loaded");
            regions.push(FrozenRegion { index: region, counts: r.counts.share(), home: 1 - r.home });
            let mut i = region;
            for level in 1..=self.top {
                i /= fanout;
                let page = &self.index[&(level, i)];
                index.entry((level, i)).or_insert_with(|| (page.entries.clone(), 1 - page.home));
            }
        }
        self.changed.clear();
        let runs = std::mem::take(&mut self.freed);
        let pin = std::mem::take(&mut self.pin);
        let blocks = runs.iter().map(|r| u64::from(r.len)).sum();
        self.quarantine.push_back(Quarantine { generation: self.generation, runs, blocks, pin });
        let frozen = FrozenSpace {
            geo: self.geo,
            regions,
            index,
            top: self.top,
            spans: self.spans,
            free: self.free,
            returned: self.returned,
            generation: self.generation,
            stamp,
            written: Vec::new(),
            top_entry: self.top_entry,
        };
        self.generation += 1;
        self.shared = false;
        frozen
    }

    /// Makes the homes that a durable checkpoint has written current (I5).
    pub(crate) fn thawed(&mut self, frozen: FrozenSpace) {
        for r in &frozen.regions {
            if let Some(region) = self.regions.get_mut(&r.index) {
                (region.home, region.stamp) = (r.home, frozen.stamp);
            }
        }
        for (level, index, entries) in frozen.written {
            if let Some(page) = self.index.get_mut(&(level, index)) {
                (page.entries, page.home, page.stamp) = (entries, 1 - page.home, frozen.stamp);
            }
        }
        if frozen.top == self.top {
            self.top_entry = frozen.top_entry;
        } else if let Some(page) = self.index.get_mut(&(frozen.top + 1, 0)) {
            Arc::make_mut(&mut page.entries)[0] = frozen.top_entry;
        }
        self.durable = frozen.generation;
        self.crowded = false;
    }

    /// Returns the generation of the durable checkpoint.
    pub(crate) fn durable(&self) -> u64 {
        self.durable
    }

    /// Ends quarantines whose checkpoint is durable and of which there is no view; runs that reads are copying stay behind. Returns runs that
    /// are long enough to go back to the host. They are marked as returned now, and may be punched once the next checkpoint is durable.
    pub(crate) fn release(&mut self, punch_from: u32, reading: &Reading) -> Vec<(u64, Run)> {
        let mut punch = Vec::new();
        let held = reading.held();
        // Twice: what is freed while as much is allocated is not available at once. Forgotten slowly, as work comes in bursts.
        self.demand = (2 * std::mem::take(&mut self.taken)).max(self.demand - self.demand / 8);
        let mut ready = vec![std::mem::take(&mut self.read)];
        while let Some(q) = self.quarantine.front_mut() {
            // No view of the generation can begin any more; those that exist can only end.
            if q.generation > self.durable || Arc::get_mut(&mut q.pin).is_none() {
                break;
            }
            ready.extend(self.quarantine.pop_front().map(|q| q.runs));
        }
        for runs in ready {
            let mut touched: Vec<u64> = Vec::new();
            for (run, is_held) in runs.iter().flat_map(|run| parts(*run, &held)) {
                if is_held {
                    self.read.push(run);
                    continue;
                }
                self.waiting = self.waiting.saturating_sub(u64::from(run.len));
                for i in 0..u64::from(run.len) {
                    let Ok((region, place)) = self.locate(run.start.plus(i)) else { continue };
                    let Some(r) = self.regions.get_mut(&region) else { continue };
                    r.set_available(place, true);
                    r.held -= 1;
                    self.available += 1;
                    if touched.last() != Some(&region) {
                        touched.push(region);
                    }
                }
            }
            touched.sort_unstable();
            touched.dedup();
            for region in touched {
                if punch_from != u32::MAX {
                    self.return_runs(region, punch_from, &mut punch);
                }
                self.note(region);
            }
        }
        punch
    }

    /// Blocks that stay available: space that is about to be written again is not worth a punch, a reservation and a write of zeros. What
    /// is kept for the demand stays within the slack.
    fn cushion(&self) -> u64 {
        let usual = u64::from(self.geo.span) * u64::from(self.growth).min(self.spans / 4).max(self.spans / 16);
        let all = (self.spans * u64::from(self.geo.span)).saturating_sub(self.returned);
        let slack = all.saturating_sub(self.free).saturating_mul(self.slack) / 100;
        usual.max(self.demand.min(slack))
    }
    /// Marks runs of the region with most blocks available as returned to the host, where more is available than is to be kept: what was kept
    /// for a demand that is over. None if there is no such surplus.
    pub(crate) fn return_surplus(&mut self, from: u32) -> Step<Vec<(u64, Run)>> {
        let mut out = Vec::new();
        if from == u32::MAX || self.available < self.cushion() {
            return Ok(out);
        }
        if let Some(region) = self.most_available(u16::try_from(from).unwrap_or(u16::MAX))? {
            self.return_runs(region, from, &mut out);
            self.note(region);
        }
        Ok(out)
    }
    /// Marks available runs of `from` blocks and more as returned to the host.
    fn return_runs(&mut self, region: u64, from: u32, out: &mut Vec<(u64, Run)>) {
        if self.cursors.contains(&Some(region)) || self.available < self.cushion() {
            return;
        }
        let (generation, start) = (self.generation, self.geo.start(region));
        let span = self.geo.span as usize;
        let mut place = 0;
        while place < span {
            let r = &self.regions[&region];
            let len = (place..span).take_while(|&i| bit(&r.available, i)).count();
            if len >= from as usize {
                let r = self.region_mut(region);
                for i in place..place + len {
                    r.set_available(i, false);
                    r.counts[i] = COUNT_RETURNED;
                }
                r.returned += len as u16;
                self.available = self.available.saturating_sub(len as u64);
                self.free = self.free.saturating_sub(len as u64);
                self.returned += len as u64;
                out.push((generation, Run { start: start.plus(place as u64), len: len as u32 }));
            }
            place += len.max(1);
        }
    }
    /// Returns whether every block of `run` is still marked as returned, so that it may be punched.
    pub(crate) fn is_returned(&mut self, run: Run) -> Step<bool> {
        for i in 0..u64::from(run.len) {
            let (region, place) = self.locate(run.start.plus(i))?;
            self.load(region)?;
            if self.regions[&region].counts[place] != COUNT_RETURNED {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns where the current count pages and index pages are, of those in memory.
    #[cfg(feature = "sim")]
    pub(crate) fn current_homes(&self) -> Vec<Block> {
        let regions = self.regions.iter().filter(|r| r.1.stamp != 0).map(|(&i, r)| self.geo.home(0, i, r.home));
        let index = self.index.iter().filter(|p| p.1.stamp != 0).map(|(&(l, i), p)| self.geo.home(l, i, p.home));
        regions.chain(index).collect()
    }

    /// Numbers of count pages and index pages in memory.
    #[cfg(test)]
    pub(super) fn loaded(&self) -> (usize, usize) {
        (self.regions.len(), self.index.len())
    }

    /// [`Space::evict`], once so many pages were loaded that it is worth looking at all of them.
    pub(crate) fn make_way(&mut self, keep: usize) {
        if self.regions.len() + self.index.len() > keep + keep / 8 {
            self.evict(keep);
        }
    }
    /// Forgets count pages and index pages that say what the disk says, down to `keep` of both together where that is possible.
    pub(crate) fn evict(&mut self, keep: usize) {
        let mut surplus = (self.regions.len() + self.index.len()).saturating_sub(keep);
        if surplus == 0 {
            return;
        }
        let (durable, cursors) = (self.durable, self.cursors);
        self.regions.retain(|&i, r| {
            let lent = r.counts.is_lent();
            let needed = lent || r.held > 0 || r.changed > durable || cursors.contains(&Some(i)) || r.stamp == 0;
            let stays = surplus == 0 || needed;
            surplus -= usize::from(!stays);
            stays
        });
        // An index page stays while a page below it is in memory, since what changes there is noted in all pages above. All others say what the
        // disk says, as the regions below them do.
        let fanout = u64::from(self.geo.fanout);
        let mut below: FxHashSet<u64> = self.regions.keys().map(|region| region / fanout).collect();
        for level in 1..self.top {
            let mut kept = FxHashSet::default();
            self.index.retain(|&(l, index), _| {
                if l != level {
                    return true;
                }
                let stays = surplus == 0 || below.contains(&index);
                surplus -= usize::from(!stays);
                if stays {
                    kept.insert(index / fanout);
                }
                stays
            });
            below = kept;
        }
    }
}

/// Makes an error that says that there is no space.
pub(crate) fn no_space(what: &str, image: u64) -> Error {
    Error::new(ErrorKind::NoSpace, format!("{what}: the image ({} MiB) is at its limit", (image * BLOCK_BYTES) >> 20))
}
