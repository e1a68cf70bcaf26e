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
    /// Takes the next part of a run: its blocks in one region, which is in memory then, and where they begin there. `None` once nothing is
    /// left.
    fn next_part(&mut self, rest: &mut Run) -> Step<Option<(Run, u64, usize)>> {
        if rest.len == 0 {
            return Ok(None);
        }
        let (region, place) = self.locate(rest.start)?;
        let part = Run { start: rest.start, len: rest.len.min(self.geo.span - place as u32) };
        if part.len > 1 {
            // Homes are at both ends of a region: where neither end of the part is one, none of its blocks is.
            self.locate(part.start.plus(u64::from(part.len) - 1))?;
        }
        self.load(region)?;
        *rest = Run { start: part.start.plus(part.len.into()), len: rest.len - part.len };
        Ok(Some((part, region, place)))
    }

    /// Adds a parent to each block of a run.
    pub(crate) fn add_parents(&mut self, mut run: Run) -> Step<()> {
        self.shared = true;
        while let Some((part, region, place)) = self.next_part(&mut run)? {
            let counts = &mut self.region_mut(region).counts[place..][..part.len as usize];
            if let Some(i) = counts.iter().position(|&n| n == 0 || n >= COUNT_MAX) {
                let (block, n) = (part.start.plus(i as u64), counts[i]);
                return Err(Error::corrupt(format!("{block} has {n} parents and can't get one more")).into());
            }
            counts.iter_mut().for_each(|n| *n += 1);
            self.undo.push(Change::Raised(part));
        }
        Ok(())
    }
    /// Removes a parent of each block of a run. Blocks without parents go into quarantine.
    pub(crate) fn remove_parents(&mut self, mut run: Run) -> Step<()> {
        while let Some((part, region, place)) = self.next_part(&mut run)? {
            let r = self.region_mut(region);
            let counts = &mut r.counts[place..][..part.len as usize];
            if let Some(i) = counts.iter().position(|n| matches!(*n, 0 | COUNT_RETURNED)) {
                let block = part.start.plus(i as u64);
                return Err(Error::corrupt(format!("{block} is free and loses a parent")).into());
            }
            counts.iter_mut().for_each(|n| *n -= 1);
            let free = counts.iter().filter(|n| **n == 0).count() as u32;
            r.held += free;
            self.free += u64::from(free);
            if free == part.len {
                self.quarantine(part);
            } else if free > 0 {
                for i in
                    (0..part.len).filter(|&i| self.regions[&region].counts[place + i as usize] == 0).collect::<Vec<_>>()
                {
                    self.quarantine(Run { start: part.start.plus(i.into()), len: 1 });
                }
            }
            self.undo.push(Change::Lowered(part));
        }
        Ok(())
    }
    /// Adds the first parent of each block of an allocated run.
    pub(crate) fn add_first_parents(&mut self, mut run: Run) -> Step<()> {
        while let Some((part, region, place)) = self.next_part(&mut run)? {
            let r = self.region_mut(region);
            let places = place..place + part.len as usize;
            let is_allocated = |&i: &usize| r.counts[i] == 0 && !bit(&r.available, i);
            if r.held < part.len || !places.clone().all(|i| is_allocated(&i)) {
                let i = places.clone().position(|i| !is_allocated(&i)).unwrap_or(0);
                let block = part.start.plus(i as u64);
                return Err(Error::corrupt(format!("{block} is used without having been allocated")).into());
            }
            r.held -= part.len;
            r.counts[places].fill(1);
            self.free = self.free.saturating_sub(part.len.into());
            self.undo.push(Change::Taken(part));
        }
        Ok(())
    }

    /// Adds a parent to one block.
    pub(crate) fn incref(&mut self, block: Block) -> Step<()> {
        self.add_parents(Run { start: block, len: 1 })
    }
    /// Removes a parent of one block. Returns the count that is left.
    pub(crate) fn decref(&mut self, block: Block) -> Step<u32> {
        self.remove_parents(Run { start: block, len: 1 })?;
        self.count(block)
    }
    fn quarantine(&mut self, run: Run) {
        self.waiting += u64::from(run.len);
        match self.freed.last_mut() {
            Some(last) if last.start.plus(last.len.into()) == run.start => last.len += run.len,
            _ => self.freed.push(run),
        }
    }
    /// Puts blocks in quarantine that were allocated and written and that nothing names. Like blocks that lost their last parent they are not
    /// written again before a checkpoint (I1), since a medium may keep the older of two writes.
    pub(crate) fn abandon(&mut self, run: Run) {
        self.quarantine(run);
    }

    /// Keeps the changes made so far.
    pub(crate) fn keep(&mut self) {
        self.undo.clear();
    }
    /// Takes back every change of a count since [`Space::keep`], the last one first.
    pub(crate) fn undo(&mut self) {
        while let Some(change) = self.undo.pop() {
            let (Change::Raised(run) | Change::Lowered(run) | Change::Taken(run)) = change;
            // A region that was changed is in memory until a checkpoint has written it.
            let Some((region, place)) = self.geo.locate(run.start) else { continue };
            let Some(r) = self.regions.get_mut(&region) else { continue };
            let places = place..place + run.len as usize;
            match change {
                Change::Raised(_) => r.counts[places].iter_mut().for_each(|n| *n -= 1),
                Change::Lowered(_) => {
                    for i in places.rev() {
                        r.counts[i] += 1;
                        if r.counts[i] == 1 {
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
                }
                Change::Taken(_) => {
                    r.counts[places].fill(0);
                    r.held += run.len;
                    self.free += u64::from(run.len);
                }
            }
        }
    }
}
