//! Background work: reclaim of doomed subtrees, checkpoints that are due, the mark on idle.

use super::engine::{Engine, PanicGuard, State};
use crate::{
    Error, ErrorKind, Result,
    tree::{Doomed, Miss, Node, Root, Shape},
};
use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

/// How long the maintenance thread waits before it takes the store for idle.
const IDLE: Duration = Duration::from_millis(50);

/// What could be freed.
pub(crate) enum Freed {
    Some,
    /// Something waits for reads that began before it was freed.
    Later,
    Nothing,
}

/// What one step of reclaim came to.
enum Step {
    Done,
    /// Nothing can be done before the next checkpoint, or at all.
    Idle,
    /// It needs this many blocks for nodes first.
    Space(u64),
}

impl State {
    /// Works off one doomed node, or one snapshot of a deleted volume.
    ///
    /// Not logged: a crash takes it back to the last checkpoint, and reclaim starts again from there. Nodes of this generation are left
    /// alone, so that nothing is changed in place that a replay would have to fork (I7).
    fn reclaim_one(&mut self) -> Result<Step> {
        let put = self.put_nodes();
        let lack = |nodes: usize| Ok(Step::Space(nodes as u64));
        if let Some(&volume) = self.sweeping.iter().next() {
            let next = self.catalog_view().snapshots_of(volume, 1)?.pop();
            let nodes = next.as_ref().map_or(1, |(_, r)| 5 + usize::from(r.tag_records)) * put;
            if !self.forest.fill_pool(nodes)? {
                return lack(nodes);
            }
            match next {
                Some((id, _)) => self.delete_snapshot(id)?,
                None => {
                    self.catalog().remove_sweep(volume)?;
                    self.sweeping.remove(&volume);
                }
            }
            return Ok(Step::Done);
        }
        if self.doomed == 0 {
            return Ok(Step::Idle);
        }
        // Newest first, but those of this generation wait: look a little further.
        let candidates = self.catalog_view().doomed(0, 64)?;
        let old = candidates
            .into_iter()
            .find(|(key, r)| crate::units::Stamp(r.stamp).generation() < self.generation && !self.stuck.contains(key));
        let Some((key, pointer)) = old else { return Ok(Step::Idle) };
        let root = Root::from(pointer);
        let child = root.node.ok_or_else(|| Error::corrupt("an empty entry in the doomed list"))?;
        let want = Miss { shape: Shape::Extents, child, level: root.level, bounds: (0, Shape::Extents.end()) };
        // A node that does not verify must not stop everything else: its entry stays, and `check` reports it.
        let Ok((count, node)) = self.reclaimable(want) else {
            self.stuck.insert(key);
            return Ok(Step::Done);
        };
        let forest = &mut self.forest;
        if count > 1 {
            if !forest.fill_pool(put)? {
                return lack(put);
            }
            forest.space.decref(&forest.disk, child.block)?;
        } else {
            let mut orphans = Vec::new();
            match &*node {
                Node::Inner { entries, .. } if root.level > 0 => {
                    for e in entries {
                        if forest.space.count(&forest.disk, e.child.block)? == 1 {
                            orphans.push(e.child);
                        }
                    }
                    let nodes = (orphans.len() + 1) * put;
                    if !forest.fill_pool(nodes)? {
                        return lack(nodes);
                    }
                    for e in entries.iter().filter(|e| !orphans.contains(&e.child)) {
                        forest.space.decref(&forest.disk, e.child.block)?;
                    }
                }
                Node::Extents(leaf) => {
                    if !forest.fill_pool(put)? {
                        return lack(put);
                    }
                    for e in &leaf.extents {
                        for i in 0..u64::from(e.len) {
                            forest.space.decref(&forest.disk, e.physical.plus(i))?;
                        }
                    }
                }
                _ => return Err(Error::corrupt(format!("{}: doomed node of another kind", child.block))),
            }
            forest.space.decref(&forest.disk, child.block)?;
            for orphan in orphans {
                self.doom(Doomed { child: orphan, level: root.level - 1 })?;
            }
        }
        self.catalog().remove_doomed(key)?;
        self.doomed = self.doomed.saturating_sub(1);
        Ok(Step::Done)
    }
}

impl State {
    /// A doomed node with its count, and everything that reclaiming it reads in memory.
    fn reclaimable(&mut self, want: Miss) -> Result<(u32, Arc<Node>)> {
        let forest = &mut self.forest;
        let count = forest.space.count(&forest.disk, want.child.block)?;
        let node = forest.load(want)?;
        match &*node {
            Node::Inner { entries, .. } if want.level > 0 => {
                entries.iter().try_for_each(|e| forest.space.touch(&forest.disk, e.child.block))?;
            }
            Node::Extents(leaf) => {
                leaf.extents.iter().try_for_each(|e| forest.space.touch_run(&forest.disk, e.physical, e.len))?;
            }
            _ => return Err(Error::corrupt(format!("{}: doomed node of another kind", want.child.block))),
        }
        Ok((count, node))
    }
}

impl Engine {
    /// Up to `budget` steps of reclaim, each under the lock by itself. Gives how many were done.
    pub(crate) fn reclaim(&self, budget: usize) -> Result<usize> {
        let mut done = 0;
        while done < budget {
            self.disk.writes_allowed()?;
            let mut state = self.state_mut()?;
            let guard = PanicGuard::new(&self.disk);
            match state.reclaim_one() {
                Ok(Step::Done) => state.reclaimed = true,
                Ok(Step::Idle) => break,
                Ok(Step::Space(blocks)) => {
                    drop(guard);
                    drop(state);
                    match self.give_space(blocks) {
                        Ok(true) => continue,
                        Ok(false) => break,
                        Err(e) if e.kind() == ErrorKind::NoSpace => break,
                        Err(e) => return Err(e),
                    }
                }
                // What it had read was in memory: this is damage, met half-way.
                Err(e) => {
                    self.disk.poison();
                    return Err(e.at("reclaim"));
                }
            }
            done += 1;
        }
        Ok(done)
    }

    /// Frees what can be freed when space ran out.
    pub(crate) fn free_space(&self) -> Result<Freed> {
        let before = self.state.read().forest.space.available();
        let freed = |state: &State| state.forest.space.available() > before;
        self.checkpoint()?;
        while self.has_reclaim() && !freed(&self.state.read()) {
            let done = self.reclaim(256)?;
            self.checkpoint()?;
            if done == 0 && self.reclaim(1)? == 0 {
                break;
            }
        }
        let state = self.state.read();
        Ok(match (freed(&state), state.forest.space.waiting()) {
            (true, _) => Freed::Some,
            (false, 0) => Freed::Nothing,
            (false, _) => Freed::Later,
        })
    }
    fn has_reclaim(&self) -> bool {
        let state = self.state.read();
        state.doomed > state.stuck.len() as u64 || !state.sweeping.is_empty()
    }

    /// One bounded step of everything that is due: `true` if more is.
    pub(crate) fn maintain(&self, budget: usize) -> Result<bool> {
        self.check_process()?;
        let due = {
            let state = self.view()?;
            state.is_due(&self.config)
        };
        if due {
            self.checkpoint()?;
        }
        let done = if self.has_reclaim() { self.reclaim(budget)? } else { 0 };
        if done == 0 && self.has_reclaim() {
            // What is left was doomed in this generation, or there is no space for the nodes that it needs.
            self.checkpoint()?;
            return Ok(self.reclaim(1)? > 0);
        }
        if done == 0 && self.state.read().reclaimed {
            self.checkpoint()?;
            return Ok(false);
        }
        Ok(done > 0)
    }

    /// Returns once nothing is doomed any more and its space is free.
    pub(crate) fn wait_reclaimed(&self) -> Result<()> {
        self.disk.writes_allowed()?;
        while self.maintain(256)? {}
        self.checkpoint()
    }

    /// The body of the maintenance thread.
    pub(crate) fn maintain_behind(&self) {
        while !self.stopping.load(SeqCst) && !self.disk.is_poisoned() {
            let idle = !self.maintenance.wait(IDLE);
            if self.stopping.load(SeqCst) {
                return;
            }
            // Errors show at the next operation: what failed has poisoned.
            let more = self.maintain(64).unwrap_or(false);
            if more {
                self.maintenance.ring();
            } else if idle {
                let _ = self.mark();
            }
        }
    }

    /// The body of the write-behind thread: the other one waits for the medium much of the time, and what is staged must not.
    pub(crate) fn write_behind(&self) {
        while !self.stopping.load(SeqCst) && !self.disk.is_poisoned() {
            self.behind.wait(Duration::MAX);
            let mut more = true;
            while more && !self.stopping.load(SeqCst) {
                more = self.spill_behind().unwrap_or(false);
            }
        }
    }
}
