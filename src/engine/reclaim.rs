//! Background work: reclaim of doomed subtrees, checkpoints that are due, the mark on idle.

use super::state::{Engine, PanicGuard, State};
use crate::{
    Error, ErrorKind, Result,
    format::RootPointer,
    space::Run,
    tree::{Doomed, Key, Miss, Node, Root, Shape},
    units::Stamp,
};
use rustc_hash::FxHashMap;
use std::sync::Arc;
/// What could be freed.
pub(crate) enum Freed {
    /// Something, now or at the next checkpoint.
    Some,
    /// Nothing but these runs, which reads are copying.
    Read(Vec<Run>),
    /// Nothing but so many blocks, which a view of everything holds.
    Viewed(u64),
    Nothing,
}

/// What one step of reclaim came to.
enum Step {
    Done,
    /// Nothing can be done before the next checkpoint, or at all.
    Idle,
    /// It needs this many blocks for nodes first.
    Space(u64),
    /// The entry could not be read and is left aside: nothing has changed, and others may follow.
    Aside(Error),
    /// The list of entries could not be read: nothing has changed.
    Unreadable(Error),
}

/// What waits to be reclaimed.
#[derive(Clone, Copy)]
enum Entry {
    /// A deleted volume whose snapshots go too.
    Sweep(u64),
    Doomed(Key, RootPointer),
}

/// Entries that could not be read, so that they don't stop the others. What the host failed to read is tried again after the next
/// checkpoint; what does not verify stays until the image is opened again, and `check` reports it.
#[derive(Default)]
pub(crate) struct Aside {
    /// Whether to try again, by entry.
    doomed: FxHashMap<Key, bool>,
    sweeps: FxHashMap<u64, bool>,
}

impl Aside {
    fn put(&mut self, entry: Entry, error: &Error) {
        let again = error.kind() == ErrorKind::Io;
        match entry {
            Entry::Sweep(volume) => self.sweeps.insert(volume, again),
            Entry::Doomed(key, _) => self.doomed.insert(key, again),
        };
    }
    /// Has those tried again that may be readable by now.
    pub(crate) fn retry(&mut self) {
        self.doomed.retain(|_, again| !*again);
        self.sweeps.retain(|_, again| !*again);
    }
}

/// Doomed entries that are looked at together.
const PAGE: usize = 64;

impl State {
    /// Whether there is something that reclaim could work off, now or after the next checkpoint.
    pub(super) fn has_reclaim(&self) -> bool {
        self.doomed > self.aside.doomed.len() as u64 || self.sweeping.len() > self.aside.sweeps.len()
    }

    /// Works off one doomed node, or one snapshot of a deleted volume. An error says that it happened half-way.
    ///
    /// Not logged: a crash takes it back to the last checkpoint, and reclaim starts again from there.
    fn reclaim_one(&mut self) -> Result<Step> {
        let entry = match self.next_entry() {
            Ok(Some(entry)) => entry,
            Ok(None) => return Ok(Step::Idle),
            Err(e) => return Ok(Step::Unreadable(e)),
        };
        let before = self.forest.edits();
        let outcome = match entry {
            Entry::Sweep(volume) => self.sweep(volume),
            Entry::Doomed(key, pointer) => self.reclaim_node(key, pointer),
        };
        match outcome {
            Err(e) if self.forest.edits() == before => {
                self.aside.put(entry, &e);
                Ok(Step::Aside(e))
            }
            outcome => outcome,
        }
    }

    /// What to work off next. Nodes of this generation are left alone, so that nothing is changed in place that a replay would have to
    /// fork (I7).
    fn next_entry(&self) -> Result<Option<Entry>> {
        if let Some(&volume) = self.sweeping.iter().find(|v| !self.aside.sweeps.contains_key(v)) {
            return Ok(Some(Entry::Sweep(volume)));
        }
        if self.doomed == 0 {
            return Ok(None);
        }
        let mut from = 0;
        loop {
            let page = self.catalog_view().doomed(from, PAGE)?;
            let is_old = |r: &RootPointer| Stamp(r.stamp).generation() < self.generation;
            let is_aside = |key: &Key| self.aside.doomed.contains_key(key);
            if let Some(&(key, root)) = page.iter().find(|(key, root)| is_old(root) && !is_aside(key)) {
                return Ok(Some(Entry::Doomed(key, root)));
            }
            // Those of this generation wait for the next checkpoint, after which they are found at once.
            match page.last() {
                Some((last, _)) if page.len() == PAGE && page.iter().any(|(key, _)| is_aside(key)) => from = last + 1,
                _ => return Ok(None),
            }
        }
    }

    fn sweep(&mut self, volume: u64) -> Result<Step> {
        let put = self.put_nodes();
        let next = self.catalog_view().snapshots_of(volume, 1)?.pop();
        match &next {
            Some((id, record)) => {
                self.catalog().touch_snapshot(*id, record)?;
                if let Some(root) = Root::from(record.root).node {
                    self.forest.space.touch(&self.forest.disk, root.block)?;
                }
            }
            None => self.catalog().touch_sweep(volume)?,
        }
        let nodes = next.as_ref().map_or(1, |(_, r)| 5 + usize::from(r.tag_records)) * put;
        if !self.forest.fill_pool(nodes)? {
            return Ok(Step::Space(nodes as u64));
        }
        match next {
            Some((id, _)) => self.delete_snapshot(id)?,
            None => {
                self.catalog().remove_sweep(volume)?;
                self.sweeping.remove(&volume);
            }
        }
        Ok(Step::Done)
    }

    fn reclaim_node(&mut self, key: Key, pointer: RootPointer) -> Result<Step> {
        let put = self.put_nodes();
        let lack = |nodes: usize| Ok(Step::Space(nodes as u64));
        let root = Root::from(pointer);
        let child = root.node.ok_or_else(|| Error::corrupt("an empty entry in the doomed list"))?;
        let want = Miss { shape: Shape::Extents, child, level: root.level, bounds: (0, Shape::Extents.end()) };
        let (count, node) = self.reclaimable(want)?;
        self.catalog().touch_doomed(key)?;
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
    /// Up to `budget` steps of reclaim, each under the lock by itself. Returns how many were done.
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
                Ok(Step::Aside(e)) => {
                    self.tell(e.at("reclaim"));
                    continue;
                }
                Ok(Step::Unreadable(e)) => {
                    self.tell(e.at("reclaim"));
                    break;
                }
                // What it reads was in memory: this is damage, met half-way.
                Err(e) => {
                    let e = e.at("reclaim");
                    self.disk.poison(e.clone());
                    return Err(e);
                }
            }
            done += 1;
        }
        Ok(done)
    }

    /// Keeps a failure in the background for whoever asks.
    pub(super) fn tell(&self, error: Error) {
        if error.kind() != ErrorKind::Closed {
            *self.background.lock() = Some(error);
        }
    }
}
