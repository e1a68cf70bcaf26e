//! Counts, and undoing the changes that one operation makes to them.

use super::{Change, Run, Space};
use crate::{
    Error,
    format::{COUNT_MAX, COUNT_RETURNED},
    lack::Step,
    space::region::{Region, bit},
    units::Block,
};
use std::sync::Arc;

impl Space {
    /// Returns the count of `block`, 0 for one returned to the host.
    #[inline]
    pub(crate) fn count(&mut self, block: Block) -> Step<u32> {
        let (region, place) = self.locate(block)?;
        let n = match self.regions.get(&region) {
            Some(r) => r.counts[place],
            None => {
                self.load(region)?;
                self.regions[&region].counts[place]
            }
        };
        Ok(if n == COUNT_RETURNED { 0 } else { n })
    }
    /// Returns whether any block got another parent since the last freeze. If not, every node made since then has one parent.
    pub(crate) fn was_shared(&self) -> bool {
        self.shared
    }

    /// Returns all counts of a region as they are now, for the checker.
    pub(crate) fn counts(&mut self, region: u64) -> Step<Arc<Vec<u32>>> {
        self.load(region)?;
        Ok(self.regions.get_mut(&region).expect("loaded").counts.share())
    }

    /// Returns a region that is in memory, for changing.
    pub(super) fn region_mut(&mut self, region: u64) -> &mut Region {
        self.edits += 1;
        let r = self.regions.get_mut(&region).expect("loaded");
        if r.changed != self.generation {
            r.changed = self.generation;
            self.changed.push(region);
        }
        r
    }
    /// Returns a block's region, for changing, and the block's place in it.
    fn place_mut(&mut self, block: Block) -> Step<(&mut Region, usize)> {
        let (region, place) = self.locate(block)?;
        self.load(region)?;
        Ok((self.region_mut(region), place))
    }

    /// Adds a parent.
    pub(crate) fn incref(&mut self, block: Block) -> Step<()> {
        let n = self.count(block)?;
        if n == 0 || n >= COUNT_MAX {
            return Err(Error::corrupt(format!("{block} has {n} parents and can't get one more")).into());
        }
        self.shared = true;
        let (r, place) = self.place_mut(block)?;
        r.counts[place] = n + 1;
        self.undo.push(Change::Raised(block));
        Ok(())
    }
    /// Removes a parent. A block without parents goes into quarantine. Returns the count that is left.
    pub(crate) fn decref(&mut self, block: Block) -> Step<u32> {
        let (r, place) = self.place_mut(block)?;
        let n = match r.counts[place] {
            0 | COUNT_RETURNED => return Err(Error::corrupt(format!("{block} is free and loses a parent")).into()),
            n => n - 1,
        };
        r.counts[place] = n;
        if n == 0 {
            r.held += 1;
            self.free += 1;
            self.quarantine_block(block);
        }
        self.undo.push(Change::Lowered(block));
        Ok(n)
    }
    fn quarantine_block(&mut self, block: Block) {
        self.waiting += 1;
        match self.freed.last_mut() {
            Some(run) if run.start.plus(run.len.into()) == block => run.len += 1,
            _ => self.freed.push(Run { start: block, len: 1 }),
        }
    }
    /// Puts blocks in quarantine that were allocated and written and that nothing names. Like blocks that lost their last parent they are not
    /// written again before a checkpoint (I1), since a medium may keep the older of two writes.
    pub(crate) fn abandon(&mut self, run: Run) {
        (0..u64::from(run.len)).for_each(|i| self.quarantine_block(run.start.plus(i)));
    }
    /// Adds the first parent of an allocated block.
    pub(crate) fn first_parent(&mut self, block: Block) -> Step<()> {
        let (r, place) = self.place_mut(block)?;
        if r.counts[place] != 0 || bit(&r.available, place) || r.held == 0 {
            return Err(Error::corrupt(format!("{block} is used without having been allocated")).into());
        }
        r.held -= 1;
        r.counts[place] = 1;
        self.free = self.free.saturating_sub(1);
        self.undo.push(Change::Taken(block));
        Ok(())
    }

    /// Keeps the changes made so far.
    pub(crate) fn keep(&mut self) {
        self.undo.clear();
    }
    /// Takes back every change of a count since [`Space::keep`], the last one first.
    pub(crate) fn undo(&mut self) {
        while let Some(change) = self.undo.pop() {
            let (Change::Raised(block) | Change::Lowered(block) | Change::Taken(block)) = change;
            // A region that was changed is in memory until a checkpoint has written it.
            let Some((region, place)) = self.geo.locate(block) else { continue };
            let Some(r) = self.regions.get_mut(&region) else { continue };
            match change {
                Change::Raised(_) => r.counts[place] -= 1,
                Change::Lowered(_) => {
                    r.counts[place] += 1;
                    if r.counts[place] == 1 {
                        r.held -= 1;
                        self.free = self.free.saturating_sub(1);
                        self.waiting -= 1;
                        // It is the last block that was freed.
                        if let Some(run) = self.freed.last_mut() {
                            run.len -= 1;
                        }
                        self.freed.pop_if(|run| run.len == 0);
                    }
                }
                Change::Taken(_) => {
                    r.counts[place] = 0;
                    r.held += 1;
                    self.free += 1;
                }
            }
        }
    }
}
