//! The service's view of the catalog, in memory: built when the service starts, kept in step with every action.
//!
//! Every entry on a page of a list is found by position, so that a page costs its own length and a few binary searches, whatever the store
//! holds. Besides the catalog, the index knows only what is in progress.

use super::{
    record::{DiskRecord, SnapRecord},
    tenant::Scope,
    types::{DiskType, SnapshotStatus},
};
use crate::AttachedVolume;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

/// Keys in ascending order.
#[derive(Default, Debug)]
pub(super) struct Order(Vec<u64>);

impl Order {
    fn insert(&mut self, key: u64) {
        let at = self.0.partition_point(|&k| k < key);
        if self.0.get(at) != Some(&key) {
            self.0.insert(at, key);
        }
    }
    fn remove(&mut self, key: u64) {
        if let Ok(at) = self.0.binary_search(&key) {
            self.0.remove(at);
        }
    }
    pub(super) fn keys(&self) -> &[u64] {
        &self.0
    }
}

/// Returns `limit` keys from `offset` on of disjoint ascending lists taken as one, without walking those before.
pub(super) fn page(lists: &[&[u64]], offset: usize, limit: usize) -> Vec<u64> {
    // The smallest key that has `offset` or more keys before it.
    let before = |key: u64| lists.iter().map(|l| l.partition_point(|&k| k < key)).sum::<usize>();
    let (mut low, mut high) = (0, u64::MAX);
    while low < high {
        let middle = low + (high - low) / 2;
        if before(middle) >= offset { high = middle } else { low = middle + 1 }
    }
    if before(low) < offset {
        return Vec::new();
    }
    let mut out = Vec::new();
    let mut heads: Vec<&[u64]> = lists.iter().map(|l| &l[l.partition_point(|&k| k < low)..]).collect();
    while out.len() < limit {
        let Some(least) = heads.iter_mut().filter(|l| !l.is_empty()).min_by_key(|l| l[0]) else { break };
        out.push(least[0]);
        *least = &least[1..];
    }
    out
}

/// A list of everything in a region, of a company there, of a project of that company.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct ListName {
    region: Arc<str>,
    company: Option<i64>,
    project: Option<Arc<str>>,
}

#[derive(Default, Debug)]
struct Lists(HashMap<ListName, Order>);

impl Lists {
    fn each(&mut self, region: &Arc<str>, company: i64, project: &Arc<str>, mut f: impl FnMut(&mut Order)) {
        let project = Some(project.clone());
        for (company, project) in [(None, None), (Some(company), None), (Some(company), project)] {
            let name = ListName { region: region.clone(), company, project };
            let order = self.0.entry(name.clone()).or_default();
            f(order);
            if order.0.is_empty() {
                self.0.remove(&name);
            }
        }
    }
    /// Returns the lists that together hold exactly what is asked for, if there are such lists.
    fn exact(&self, scope: &Scope, projects: Option<&[String]>) -> Option<Vec<&[u64]>> {
        let name = |company, project| ListName { region: scope.region.as_str().into(), company, project };
        let wanted: Vec<ListName> = match (scope.company, scope.projects.as_deref(), projects) {
            (company, None, None) => vec![name(company, None)],
            (None, ..) => return None,
            (company, Some(list), None) | (company, None, Some(list)) => {
                unique(list).map(|p| name(company, Some(p.into()))).collect()
            }
            (company, Some(own), Some(list)) => {
                unique(list).filter(|p| own.iter().any(|o| o == p)).map(|p| name(company, Some(p.into()))).collect()
            }
        };
        Some(wanted.iter().filter_map(|n| self.0.get(n)).map(Order::keys).collect())
    }
    fn all(&self, scope: &Scope) -> &[u64] {
        let name = ListName { region: scope.region.as_str().into(), company: scope.company, project: None };
        self.0.get(&name).map_or(&[], Order::keys)
    }
}

fn unique(list: &[String]) -> impl Iterator<Item = &str> {
    list.iter().enumerate().filter(|(i, p)| !list[..*i].contains(p)).map(|(_, p)| p.as_str())
}

/// What is being done to a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Work {
    Snapshoting,
    Rollbacking,
    BeingCloned,
    Upgrading,
    Deleting,
    /// A change of its tags, which its state does not show.
    Binding,
}

#[derive(Debug)]
pub(super) struct Disk {
    pub(super) record: DiskRecord,
    /// Its id in the store, and in the order of lists.
    pub(super) key: u64,
    pub(super) bytes: u64,
    pub(super) created: i64,
    pub(super) work: Option<Work>,
    /// The attachment of a bound disk. `None` where it is bound to nothing, or where another user of the store has attached it.
    pub(super) attached: Option<Arc<AttachedVolume>>,
    pub(super) snapshots: Order,
    /// The number of its manual snapshots, those being taken included.
    pub(super) manual: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SnapState {
    Createing,
    Normal,
    RollBacking,
    Failure,
    /// It is being deleted, which nobody sees.
    Leaving,
}

#[derive(Clone, Debug)]
pub(super) struct Snap {
    pub(super) record: SnapRecord,
    /// Its id in the store, and in the order of lists.
    pub(super) key: u64,
    /// The store's id of its disk.
    pub(super) volume: u64,
    /// What its disk is, or was.
    pub(super) disk_kind: DiskType,
    pub(super) bytes: u64,
    pub(super) created: i64,
    pub(super) state: SnapState,
    /// Disks that are being made from it.
    pub(super) copies: u32,
}

impl Snap {
    pub(super) fn status(&self) -> SnapshotStatus {
        match self.state {
            SnapState::Createing => SnapshotStatus::Createing,
            SnapState::Normal => SnapshotStatus::Normal,
            SnapState::RollBacking => SnapshotStatus::RollBacking,
            SnapState::Failure => SnapshotStatus::Failure,
            SnapState::Leaving => SnapshotStatus::Released,
        }
    }
}

/// How many deleted snapshots are remembered until their space is reclaimed; the oldest is forgotten first.
const RELEASED_MAX: usize = 4096;

/// What a company has.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Used {
    pub(super) disks: u64,
    pub(super) gib: u64,
}

#[derive(Default, Debug)]
pub(super) struct Index {
    disks: HashMap<u64, Disk>,
    disk_ids: HashMap<Arc<str>, u64>,
    disk_lists: Lists,
    snaps: HashMap<u64, Snap>,
    snap_ids: HashMap<Arc<str>, u64>,
    snap_lists: Lists,
    released: BTreeMap<u64, Snap>,
    used: HashMap<i64, Used>,
    /// VMs that are shut down.
    pub(super) stopped: HashSet<String>,
    texts: HashSet<Arc<str>>,
}

impl Index {
    /// Returns one shared copy of a text that many records have.
    pub(super) fn intern(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        let fresh: Arc<str> = text.into();
        self.texts.insert(fresh.clone());
        fresh
    }

    pub(super) fn disk(&self, key: u64) -> Option<&Disk> {
        self.disks.get(&key)
    }
    pub(super) fn disk_mut(&mut self, key: u64) -> Option<&mut Disk> {
        self.disks.get_mut(&key)
    }
    pub(super) fn disks(&self) -> impl Iterator<Item = &Disk> {
        self.disks.values()
    }
    /// The disk of that id, if the caller may see it.
    pub(super) fn find_disk(&self, scope: &Scope, id: &str) -> Option<&Disk> {
        let disk = self.disks.get(self.disk_ids.get(id)?)?;
        let r = &disk.record;
        scope.sees(&r.region, r.company, &r.project).then_some(disk)
    }
    pub(super) fn snap(&self, key: u64) -> Option<&Snap> {
        self.snaps.get(&key)
    }
    pub(super) fn snap_mut(&mut self, key: u64) -> Option<&mut Snap> {
        self.snaps.get_mut(&key)
    }
    pub(super) fn snap_states(&self) -> impl Iterator<Item = SnapState> {
        self.snaps.values().map(|s| s.state)
    }
    /// The snapshot of that id, if the caller may see it and it is not being deleted.
    pub(super) fn find_snap(&self, scope: &Scope, id: &str) -> Option<&Snap> {
        let snap = self.snaps.get(self.snap_ids.get(id)?)?;
        let r = &snap.record;
        (scope.sees(&r.region, r.company, &r.project) && snap.state != SnapState::Leaving).then_some(snap)
    }
    pub(super) fn used(&self, company: i64) -> Used {
        self.used.get(&company).copied().unwrap_or_default()
    }
    /// Adds to what a company uses.
    pub(super) fn charge(&mut self, company: i64, disks: i64, gib: i64) {
        let used = self.used.entry(company).or_default();
        used.disks = used.disks.saturating_add_signed(disks);
        used.gib = used.gib.saturating_add_signed(gib);
    }

    /// Adds a disk. The quota was charged before.
    pub(super) fn add_disk(&mut self, disk: Disk) {
        let (r, key) = (&disk.record, disk.key);
        self.disk_ids.insert(r.id.clone(), key);
        self.disk_lists.each(&r.region, r.company, &r.project, |l| l.insert(key));
        self.disks.insert(key, disk);
    }
    /// Removes a disk; its snapshots are remembered as deleted.
    pub(super) fn remove_disk(&mut self, key: u64) {
        let Some(disk) = self.disks.remove(&key) else { return };
        for &snap in disk.snapshots.keys() {
            if let Some(snap) = self.unlist_snap(snap) {
                self.release(snap);
            }
        }
        let r = &disk.record;
        self.disk_ids.remove(&r.id);
        self.disk_lists.each(&r.region, r.company, &r.project, |l| l.remove(key));
        self.charge(r.company, -1, -(gib(disk.bytes) as i64));
    }

    /// Adds a snapshot to the lists and to its disk.
    pub(super) fn add_snap(&mut self, snap: Snap) {
        let (r, key) = (&snap.record, snap.key);
        self.snap_ids.insert(r.id.clone(), key);
        self.snap_lists.each(&r.region, r.company, &r.project, |l| l.insert(key));
        if let Some(disk) = self.disks.get_mut(&snap.volume) {
            disk.snapshots.insert(key);
            disk.manual += u32::from(r.is_manual());
        }
        self.snaps.insert(key, snap);
    }
    /// Takes a snapshot out of everything.
    pub(super) fn remove_snap(&mut self, key: u64) -> Option<Snap> {
        let snap = self.unlist_snap(key)?;
        if let Some(disk) = self.disks.get_mut(&snap.volume) {
            disk.snapshots.remove(key);
            disk.manual -= u32::from(snap.record.is_manual());
        }
        Some(snap)
    }
    fn unlist_snap(&mut self, key: u64) -> Option<Snap> {
        let snap = self.snaps.remove(&key)?;
        let r = &snap.record;
        self.snap_ids.remove(&r.id);
        self.snap_lists.each(&r.region, r.company, &r.project, |l| l.remove(key));
        Some(snap)
    }
    /// Takes a snapshot that is being deleted out of the lists, or puts it back if the catalog still has it.
    pub(super) fn hide(&mut self, key: u64, hidden: bool) {
        let Index { snaps, snap_lists, disks, .. } = self;
        let Some(snap) = snaps.get(&key) else { return };
        let r = &snap.record;
        let change = |l: &mut Order| if hidden { l.remove(key) } else { l.insert(key) };
        snap_lists.each(&r.region, r.company, &r.project, change);
        if let Some(disk) = disks.get_mut(&snap.volume) {
            change(&mut disk.snapshots);
        }
    }

    /// Remembers a deleted snapshot.
    pub(super) fn release(&mut self, mut snap: Snap) {
        snap.state = SnapState::Leaving;
        self.released.insert(snap.key, snap);
        if self.released.len() > RELEASED_MAX {
            self.released.pop_first();
        }
    }
    pub(super) fn find_released(&self, id: &str) -> Option<&Snap> {
        self.released.values().find(|s| &*s.record.id == id)
    }
    pub(super) fn has_released(&self) -> bool {
        !self.released.is_empty()
    }
    /// Forgets deleted snapshots.
    pub(super) fn forget_released(&mut self, keys: &[u64]) {
        keys.iter().for_each(|k| drop(self.released.remove(k)));
    }
    pub(super) fn released_keys(&self) -> Vec<u64> {
        self.released.keys().copied().collect()
    }

    /// Returns the snapshots of a scope by position, if there are lists of exactly these.
    pub(super) fn exact_snaps(&self, scope: &Scope, projects: Option<&[String]>) -> Option<Vec<&[u64]>> {
        self.snap_lists.exact(scope, projects)
    }
    /// Returns a list that contains the snapshots of a scope, and perhaps others.
    pub(super) fn all_snaps(&self, scope: &Scope) -> &[u64] {
        self.snap_lists.all(scope)
    }
    pub(super) fn snap_key(&self, id: &str) -> Option<u64> {
        self.snap_ids.get(id).copied()
    }
    pub(super) fn exact_disks(&self, scope: &Scope, projects: Option<&[String]>) -> Option<Vec<&[u64]>> {
        self.disk_lists.exact(scope, projects)
    }
    pub(super) fn all_disks(&self, scope: &Scope) -> &[u64] {
        self.disk_lists.all(scope)
    }
    pub(super) fn disk_key(&self, id: &str) -> Option<u64> {
        self.disk_ids.get(id).copied()
    }
}

/// GiB, rounded up.
pub(super) fn gib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 30)
}
