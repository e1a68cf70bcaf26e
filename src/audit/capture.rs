//! A view of everything at one instant, for the checker and for statistics, that holds no lock while it is read.

use crate::{
    BLOCK, Error, Result,
    engine::{CatalogView, Engine, SnapshotRecord, Staging, State, VolumeRecord},
    format::RootPointer,
    io::Disk,
    space::{Geometry, Pin},
    tree::{DirtyNodes, Key, Miss, Node},
    units::Block,
};
use std::sync::Arc;

/// All that the image says at one instant. While it lives nothing that it refers to is reused.
pub(crate) struct Capture {
    pub(crate) disk: Arc<Disk>,
    pub(crate) uuid: [u8; 16],
    pub(crate) catalog: RootPointer,
    pub(crate) volumes: Vec<(u64, VolumeRecord)>,
    pub(crate) snapshots: Vec<(u64, SnapshotRecord)>,
    pub(crate) doomed: Vec<(Key, RootPointer)>,
    pub(crate) doomed_count: u64,
    pub(crate) sweeping: Vec<u64>,
    /// Findings of reading the catalog itself.
    pub(crate) broken: Vec<String>,
    pub(crate) geometry: Geometry,
    /// Counts by region; `Err`: why they can't be read.
    pub(crate) counts: Vec<Result<Arc<Vec<u32>>>>,
    pub(crate) free: u64,
    pub(crate) returned: u64,
    /// Allocatable, in quarantine, reserved for nodes, and taken by writes in flight: together all that is free.
    pub(crate) accounted: u64,
    dirty: DirtyNodes,
    frozen: Arc<DirtyNodes>,
    staged: Staging,
    _pin: Pin,
}

impl Capture {
    /// A node as it stands on the disk, or in memory if it does not yet.
    pub(crate) fn node(&self, want: Miss) -> Result<Arc<Node>> {
        for nodes in [&self.dirty, &*self.frozen] {
            if let Some(d) = nodes.get(&want.child.block.0).filter(|d| d.stamp == want.child.stamp) {
                return Ok(d.node.clone());
            }
        }
        let page = self.disk.read_page(want.child.block)?;
        Node::decode(&page, want.shape, &self.uuid, want.child, want.level, want.bounds).map(Arc::new)
    }
    /// A data block's content.
    pub(crate) fn data(&self, block: Block, buf: &mut [u8]) -> Result<()> {
        match self.staged.block(block) {
            Some(bytes) => {
                buf.copy_from_slice(bytes);
                Ok(())
            }
            None => self.disk.read(block.offset(), buf),
        }
    }
}

impl State {
    fn capture(&mut self) -> Capture {
        let mut broken = Vec::new();
        let view = self.catalog_view();
        let mut note = |what: &str, e: crate::Error| broken.push(format!("{what}: {e}"));
        let volumes = view.volumes().unwrap_or_else(|e| {
            note("volumes", e);
            Vec::new()
        });
        let snapshots = view.snapshots().unwrap_or_else(|e| {
            note("snapshots", e);
            Vec::new()
        });
        let doomed = view.doomed(0, usize::MAX).unwrap_or_else(|e| {
            note("doomed list", e);
            Vec::new()
        });
        check_names(&view, &volumes, &snapshots, &self.sweeping, &mut broken);
        self.check_ids(&volumes, &snapshots, &doomed, &mut broken);
        let spans = self.forest.space.spans();
        let forest = &mut self.forest;
        let counts = (0..spans).map(|r| forest.space.counts(&forest.disk, r)).collect();
        Capture {
            disk: forest.disk.clone(),
            uuid: forest.uuid,
            catalog: self.catalog.into(),
            volumes,
            snapshots,
            doomed,
            doomed_count: self.doomed,
            sweeping: self.sweeping.iter().copied().collect(),
            broken,
            geometry: forest.space.geometry(),
            counts,
            free: forest.space.free(),
            returned: forest.space.returned(),
            accounted: forest.space.available() + forest.space.waiting() + forest.pool.len() as u64 + self.in_flight,
            dirty: forest.dirty.clone(),
            frozen: forest.frozen.clone(),
            staged: self.staging.clone(),
            _pin: forest.space.pin(),
        }
    }
}

impl State {
    /// What is made next gets a number that nothing had.
    fn check_ids(
        &self,
        volumes: &[(u64, VolumeRecord)],
        snapshots: &[(u64, SnapshotRecord)],
        doomed: &[(Key, RootPointer)],
        broken: &mut Vec<String>,
    ) {
        let of = snapshots.iter().map(|s| s.1.volume);
        let volume = volumes.iter().map(|v| v.0).chain(self.sweeping.iter().copied()).chain(of).max();
        let snapshot = snapshots.iter().map(|s| s.0).max();
        let entry = doomed.iter().map(|d| !(d.0 as u64)).max();
        for (what, used, next) in [
            ("volume", volume, self.next_volume),
            ("snapshot", snapshot, self.next_snapshot),
            ("doomed entry", entry, self.doom_sequence),
        ] {
            if let Some(used) = used.filter(|&n| n >= next) {
                broken.push(format!("{what} {used} exists, and the next one is to be {next}"));
            }
        }
    }
}

/// Every record is found by its name and the other way round, and numbers agree.
fn check_names(
    view: &CatalogView<'_>,
    volumes: &[(u64, VolumeRecord)],
    snapshots: &[(u64, SnapshotRecord)],
    sweeping: &rustc_hash::FxHashSet<u64>,
    broken: &mut Vec<String>,
) {
    match view.names() {
        // All records have one, as is seen below: where there are no more names than records, all names have a record.
        Ok(names) if names > volumes.len() + snapshots.len() => {
            broken.push(format!("{names} names for {} volumes and {} snapshots", volumes.len(), snapshots.len()));
        }
        Ok(_) => {}
        Err(e) => broken.push(format!("names: {e}")),
    }
    let mut of: rustc_hash::FxHashMap<u64, u64> = Default::default();
    for (id, s) in snapshots {
        *of.entry(s.volume).or_default() += 1;
        match view.snapshot_named(s.volume, &s.name) {
            Ok(Some(found)) if found == *id => {}
            Ok(found) => broken.push(format!("snapshot {id}: its name {:?} leads to {found:?}", s.name)),
            Err(e) => broken.push(format!("snapshot {id}: name: {e}")),
        }
        if s.tag_records > 0
            && let Err(e) = view.tags(true, *id)
        {
            broken.push(format!("snapshot {id}: tags: {e}"));
        }
    }
    for (id, v) in volumes {
        match view.volume_named(&v.name) {
            Ok(Some(found)) if found == *id => {}
            Ok(found) => broken.push(format!("volume {id}: its name {:?} leads to {found:?}", v.name)),
            Err(e) => broken.push(format!("volume {id}: name: {e}")),
        }
        let has = of.get(id).copied().unwrap_or(0);
        if has != v.snapshots {
            broken.push(format!("volume {id} says {} snapshots and has {has}", v.snapshots));
        }
        if v.tag_records > 0
            && let Err(e) = view.tags(false, *id)
        {
            broken.push(format!("volume {id}: tags: {e}"));
        }
        if sweeping.contains(id) {
            broken.push(format!("volume {id} exists and is being removed"));
        }
    }
}

/// Regions without counts that a view puts up with, besides as many as there are with.
const MISSING: u64 = 1024;

impl Engine {
    /// Captures the store as it is now. `Corrupt` where most regions have no counts.
    pub(crate) fn capture(&self) -> Result<Capture> {
        // Count pages are read ahead a few at a time, so that the capture itself finds them in memory. A checkpoint in flight writes homes that are
        // not current, and can't make them current while the state is held. What a view takes in memory follows from the pages that are there:
        // an image may claim any number of them.
        let (mut there, mut missing) = (0, 0);
        let spans = self.view()?.forest.space.spans();
        for first in (0..spans).step_by(64) {
            let mut state = self.state_mut()?;
            let forest = &mut state.forest;
            for region in first..spans.min(first + 64) {
                // What can't be read is reported by the capture.
                match forest.space.counts(&forest.disk, region) {
                    Ok(_) => there += 1,
                    Err(_) => missing += 1,
                }
            }
            if missing > there + MISSING {
                return Err(Error::corrupt(format!(
                    "the image says that it has {spans} regions: of the first {} only {there} have their counts",
                    there + missing
                )));
            }
        }
        Ok(self.state_mut()?.capture())
    }
}

const _: () = assert!(BLOCK == 4096, "buffers of one block are on the stack");
