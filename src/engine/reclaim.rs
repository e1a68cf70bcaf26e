//! Reclaim: removes doomed subtrees and the snapshots of deleted volumes in the background, one node at a time.

use super::{
    change::Fetched,
    state::{Engine, PanicGuard, State},
};
use crate::{
    Error, ErrorKind, Result,
    events::Event,
    format::RootPointer,
    lack::{Key, Lack, Miss, Shape, Step, Stop},
    space::Run,
    tree::{Doomed, Node, Root},
    units::Stamp,
};
use rustc_hash::FxHashMap;

/// What an attempt to free space came to.
pub(crate) enum Freed {
    /// Something was freed, or will be by the next checkpoint.
    Some,
    /// Nothing can be freed but these runs, which reads are copying.
    Read(Vec<Run>),
    /// Nothing can be freed but this many blocks, which a view of the whole store holds.
    Viewed(u64),
    Nothing,
}

/// One entry of the work that waits for reclaim.
#[derive(Clone, Copy)]
enum Entry {
    /// A deleted volume whose snapshots are deleted too.
    Sweep(u64),
    Doomed(Key, RootPointer),
}

/// The outcome of one step of reclaim.
enum Reclaimed {
    One,
    /// The entry could not be read and was set aside.
    Aside,
    Nothing,
}

/// Entries that could not be read and are set aside, so that they do not stop the others. Failed reads are tried again after the next
/// checkpoint; entries that do not verify stay set aside until the image is opened again, and `check` reports them.
#[derive(Default)]
pub(crate) struct Aside {
    /// For each entry, whether it will be tried again.
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
    /// Lets entries be tried again that may be readable by now.
    pub(crate) fn retry(&mut self) {
        self.doomed.retain(|_, again| !*again);
        self.sweeps.retain(|_, again| !*again);
    }
}

/// Doomed entries looked up at a time.
const PAGE: usize = 64;

impl State {
    /// Returns whether there is work for reclaim, now or after the next checkpoint.
    pub(super) fn has_reclaim(&self) -> bool {
        self.doomed > self.aside.doomed.len() as u64 || self.sweeping.len() > self.aside.sweeps.len()
    }

    /// Removes one doomed node, or one snapshot of a deleted volume, and sets `chosen` to its entry. Returns `false` if nothing can be done
    /// before the next checkpoint, or at all.
    ///
    /// The step is not logged: a crash takes it back to the last checkpoint, and reclaim starts again from there.
    fn reclaim_one(&mut self, chosen: &mut Option<Entry>) -> Step<bool> {
        *chosen = None;
        *chosen = self.next_entry()?;
        match *chosen {
            None => return Ok(false),
            Some(Entry::Sweep(volume)) => self.sweep(volume)?,
            Some(Entry::Doomed(key, pointer)) => self.reclaim_node(key, pointer)?,
        }
        self.may_begin_anew()?;
        self.reclaimed = true;
        Ok(true)
    }

    /// Returns the next entry. Nodes of this generation are left alone, so that nothing changes in place that a replay would have to fork
    /// (I7).
    fn next_entry(&self) -> Step<Option<Entry>> {
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
            // Entries of this generation become old with the next checkpoint, and are found at once then.
            match page.last() {
                Some((last, _)) if page.iter().any(|(key, _)| is_aside(key)) => from = last + 1,
                _ => return Ok(None),
            }
        }
    }

    fn sweep(&mut self, volume: u64) -> Step<()> {
        let put = self.put_nodes();
        let next = self.catalog_view().snapshots_of(volume, 0, 1)?.0.first().copied();
        let tags = match next {
            // The snapshot is hidden from everyone else by now, so that its tags are looked up here.
            Some(id) => self.catalog_view().snapshot(id)?.map_or(0, |r| usize::from(r.tag_records)),
            None => 0,
        };
        self.nodes_for_reclaim(if next.is_some() { (5 + tags) * put } else { put })?;
        match next {
            Some(id) => self.delete_snapshot(id)?,
            None => {
                self.catalog().remove_sweep(volume)?;
                self.set_sweeping(volume, false);
            }
        }
        Ok(())
    }
    fn nodes_for_reclaim(&mut self, nodes: usize) -> Step<()> {
        if self.forest.fill_pool(nodes)? { Ok(()) } else { Err(Lack::Space(nodes as u64).into()) }
    }

    fn reclaim_node(&mut self, key: Key, pointer: RootPointer) -> Step<()> {
        let put = self.put_nodes();
        let root = Root::from(pointer);
        let child = root.node.ok_or_else(|| Error::corrupt("an empty entry in the doomed list"))?;
        let want = Miss { shape: Shape::Extents, child, level: root.level, bounds: (0, Shape::Extents.end()) };
        let mut orphans = Vec::new();
        if self.forest.space.count(child.block)? > 1 {
            self.nodes_for_reclaim(put)?;
        } else {
            match &*self.forest.load(want)? {
                Node::Inner { entries, .. } if root.level > 0 => {
                    for e in entries {
                        if self.forest.space.count(e.child.block)? == 1 {
                            orphans.push(e.child);
                        }
                    }
                    self.nodes_for_reclaim((orphans.len() + 1) * put)?;
                    for e in entries.iter().filter(|e| !orphans.contains(&e.child)) {
                        self.forest.space.decref(e.child.block)?;
                    }
                }
                Node::Extents(leaf) => {
                    self.nodes_for_reclaim(put)?;
                    for e in &leaf.extents {
                        self.forest.space.remove_parents(Run { start: e.physical, len: e.len })?;
                    }
                }
                _ => return Err(Error::corrupt(format!("{}: doomed node of another kind", child.block)).into()),
            }
        }
        self.forest.space.decref(child.block)?;
        for orphan in orphans {
            self.doom(Doomed { child: orphan, level: root.level - 1 })?;
        }
        self.catalog().remove_doomed(key)?;
        self.doomed = self.doomed.saturating_sub(1);
        Ok(())
    }
}

impl Engine {
    /// Runs up to `budget` steps of reclaim, each under the lock by itself. Returns how many were done.
    pub(crate) fn reclaim(&self, budget: usize) -> Result<usize> {
        let mut done = 0;
        let outcome = self.reclaim_up_to(budget, &mut done);
        if done > 0 {
            self.config.events.note(|| Event::Reclaimed { entries: done as u64 });
        }
        outcome.map(|()| done)
    }
    fn reclaim_up_to(&self, budget: usize, done: &mut usize) -> Result<()> {
        while *done < budget {
            self.disk.writes_allowed()?;
            match self.reclaim_step()? {
                Reclaimed::One => *done += 1,
                Reclaimed::Aside => {}
                Reclaimed::Nothing => break,
            }
        }
        Ok(())
    }
    fn reclaim_step(&self) -> Result<Reclaimed> {
        let (mut fetched, mut chosen) = (Fetched::default(), None);
        loop {
            let mut state = self.state_mut()?;
            let guard = PanicGuard::new(&self.disk);
            let (outcome, _hold) = self.try_step(&mut state, &mut fetched, |state| state.reclaim_one(&mut chosen));
            drop(guard);
            drop(state);
            let failed = match outcome {
                Ok(true) => return Ok(Reclaimed::One),
                Ok(false) => return Ok(Reclaimed::Nothing),
                Err(Stop::Lack(Lack::Space(blocks))) => match self.reserve_space(blocks) {
                    Ok(true) => continue,
                    Ok(false) => return Ok(Reclaimed::Nothing),
                    Err(e) if e.kind() == ErrorKind::NoSpace => return Ok(Reclaimed::Nothing),
                    Err(e) => return Err(e),
                },
                Err(Stop::Lack(lack)) => match self.fetch(lack, &mut fetched) {
                    Ok(()) => continue,
                    Err(e) => e,
                },
                Err(Stop::Failed(e)) => e,
            };
            // Nothing has changed. Other entries may follow one that can't be read; without the list there are none.
            self.tell(failed.clone().at("reclaim"));
            return Ok(match chosen {
                Some(entry) => {
                    self.state_mut()?.aside.put(entry, &failed);
                    Reclaimed::Aside
                }
                None => Reclaimed::Nothing,
            });
        }
    }

    /// Keeps the failure of background work for `Store::background_error`, and reports it as an event.
    pub(super) fn tell(&self, error: Error) {
        if error.kind() != ErrorKind::Closed {
            self.config.events.note(|| Event::BackgroundError { error: error.clone() });
            *self.background.lock() = Some(error);
        }
    }
}
