//! The allocator: which free blocks are taken, and in what order.

use super::{Purpose, Run, Space};
use crate::{
    Error,
    format::COUNT_RETURNED,
    lack::Step,
    space::region::bit,
    units::{BLOCK_BYTES, Block},
};

/// Data of at least this many blocks begins at a multiple of them, where there is such a place: so the host's cache has it in as few pieces as can be,
/// and what is overwritten as a whole is free as a whole again. What is left before it goes to smaller data, or to the region's last data.
const ALIGNED: u32 = 16;

impl Space {
    /// Takes up to `want` adjacent blocks, of count zero, out of what is available. `None`: nothing that it may take is
    /// left (`any`: however scattered; otherwise regions that are nearly full are left alone).
    pub(crate) fn allocate(&mut self, purpose: Purpose, want: u32, any: bool) -> Step<Option<Run>> {
        let mine = purpose as usize;
        loop {
            let region = match self.cursors[mine] {
                Some(r) => r,
                None => match self.find_region(any)? {
                    Some(r) => {
                        self.set_cursor(mine, Some(r));
                        r
                    }
                    // The last blocks may be where the other purpose takes from.
                    None if any && self.cursors[1 - mine].is_some() => {
                        self.set_cursor(1 - mine, None);
                        continue;
                    }
                    None => return Ok(None),
                },
            };
            self.load(region)?;
            let start = self.geo.start(region);
            let r = self.regions.get_mut(&region).expect("loaded");
            let aligned = purpose == Purpose::Data && want >= ALIGNED;
            let found = if aligned { r.first_aligned_run(want, ALIGNED, start) } else { None };
            if let Some((place, len)) = found.or_else(|| r.first_run(want)) {
                for i in place..place + len {
                    r.set_available(i, false);
                }
                r.held += len as u32;
                self.available = self.available.saturating_sub(len as u64);
                self.taken += len as u64;
                return Ok(Some(Run { start: start.plus(place as u64), len: len as u32 }));
            }
            self.set_cursor(mine, None);
        }
    }

    fn set_cursor(&mut self, mine: usize, region: Option<u64>) {
        let old = std::mem::replace(&mut self.cursors[mine], region);
        [old, region].into_iter().flatten().for_each(|r| self.note(r));
    }

    /// Blocks that a region must have available to be taken from. While the image has little free space for what it holds, it grows
    /// rather than have new data scattered over small holes: a run costs the host about the same however long it is.
    fn floor(&self) -> u16 {
        let span = u64::from(self.geo.span);
        (if self.would_grow() { span * 3 / 4 } else { span / 8 }).max(1) as u16
    }
    /// Whether the image takes more space from the host rather than fill small holes.
    pub(crate) fn would_grow(&self) -> bool {
        !self.crowded && self.spans < self.spans_max && self.slack_left().is_some()
    }
    /// Blocks that the image may still take from the host before it has as much free space as the slack allows. `None`: it has more.
    pub(super) fn slack_left(&self) -> Option<u64> {
        let all = self.spans * u64::from(self.geo.span);
        let total = all - self.returned.min(all);
        let used = total.saturating_sub(self.free);
        (used.saturating_mul(100 + self.slack) / 100).checked_sub(total)
    }
    /// Freed blocks that a checkpoint would make allocatable.
    pub(crate) fn recyclable(&self) -> u64 {
        let read: u64 = self.read.iter().map(|r| u64::from(r.len)).sum();
        self.waiting.saturating_sub(self.held_by_views() + read)
    }
    /// Whether the image has all the free space that its slack allows, and enough of it waits for a checkpoint to be worth one.
    pub(crate) fn should_recycle(&self) -> bool {
        !self.would_grow() && self.recyclable() > self.end() / BLOCK_BYTES / 32
    }

    fn find_region(&mut self, any: bool) -> Step<Option<u64>> {
        let floor = if any { 1 } else { self.floor() };
        self.most_available(floor)
    }
    /// The region with most blocks available, which is in memory then, if it has at least `floor`.
    pub(super) fn most_available(&mut self, floor: u16) -> Step<Option<u64>> {
        let fanout = u64::from(self.geo.fanout);
        let (mut level, mut index) = (self.top, 0);
        loop {
            let page = self.load_index(level, index)?;
            let Some((i, best)) = page.now.iter().map(|n| n.0).enumerate().max_by_key(|&(i, n)| (n, usize::MAX - i))
            else {
                return Ok(None);
            };
            if best < floor {
                return Ok(None);
            }
            index = index * fanout + i as u64;
            level -= 1;
            if level == 0 {
                self.load(index)?;
                if self.regions[&index].free < floor {
                    self.note(index);
                    (level, index) = (self.top, 0);
                    continue;
                }
                return Ok(Some(index));
            }
        }
    }

    /// Tells the index pages what a loaded region has now.
    pub(super) fn note(&mut self, region: u64) {
        let Some(r) = self.regions.get(&region) else { return };
        let mut value = (if self.cursors.contains(&Some(region)) { 0 } else { r.free }, r.returned);
        let fanout = u64::from(self.geo.fanout);
        let mut index = region;
        for level in 1..=self.top {
            let place = (index % fanout) as usize;
            index /= fanout;
            let Some(page) = self.index.get_mut(&(level, index)) else { return };
            if page.now[place] == value {
                return;
            }
            page.now[place] = value;
            value = page.now.iter().fold((0, 0), |m, n| (m.0.max(n.0), m.1.max(n.1)));
        }
    }

    /// Returns blocks that were allocated and never written or named.
    pub(crate) fn unallocate(&mut self, run: Run) {
        for i in 0..u64::from(run.len) {
            if let Ok((region, place)) = self.locate(run.start.plus(i))
                && let Some(r) = self.regions.get_mut(&region)
                && r.counts[place] == 0
                && !bit(&r.available, place)
            {
                r.set_available(place, true);
                r.held -= 1;
                self.available += 1;
                self.note(region);
            }
        }
    }
    /// Takes particular free blocks, as recovery does with those that the log names. A log names none twice: what was placed since the
    /// checkpoint and freed again stays in quarantine until the next one.
    pub(crate) fn take(&mut self, run: Run) -> Step<()> {
        self.touch_run(run.start, run.len)?;
        (0..u64::from(run.len)).try_for_each(|i| self.take_block(run.start.plus(i)))
    }
    fn take_block(&mut self, block: Block) -> Step<()> {
        let (region, place) = self.locate(block)?;
        self.load(region)?;
        let r = self.region_mut(region);
        match r.counts[place] {
            COUNT_RETURNED => {
                r.counts[place] = 0;
                r.returned -= 1;
                r.held += 1;
                self.returned = self.returned.saturating_sub(1);
                self.free += 1;
            }
            0 if bit(&r.available, place) => {
                r.set_available(place, false);
                r.held += 1;
                self.available = self.available.saturating_sub(1);
            }
            0 => return Err(Error::corrupt(format!("the log allocates {block} twice")).into()),
            n => return Err(Error::corrupt(format!("the log allocates {block}, which has {n} parents")).into()),
        }
        self.note(region);
        Ok(())
    }
}
