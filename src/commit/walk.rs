//! A view of everything at one instant, for the checker and for statistics, that holds no lock while it is read.

use super::{
    catalog::{CatalogView, SnapshotRecord, VolumeRecord},
    data::Staging,
    engine::{Engine, State},
};
use crate::{
    BLOCK, Error, Result,
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

#[cfg(feature = "sim")]
#[allow(unreachable_pub, reason = "public through `sim_support`")]
mod guard {
    use super::*;
    use crate::{
        format::SLOTS,
        io::{Backend, Host},
        tree::{Root, Shape},
    };
    use std::collections::BTreeSet;

    /// What a crash now would need of a durable image: nothing of it may be overwritten, punched or cut off.
    #[derive(Clone, Debug, Default)]
    pub struct Protected {
        /// Byte offset of the newest superblock.
        pub superblock: u64,
        /// Blocks that the durable checkpoint reaches, and that log records name without their content.
        pub blocks: BTreeSet<u64>,
        /// Log pages of groups that count.
        pub log_pages: BTreeSet<u64>,
        /// Bytes that the durable checkpoint needs.
        pub len: u64,
    }

    /// Works out what `backend`, taken as the durable image, protects.
    pub fn protected(
        backend: Arc<dyn Backend>,
        host: Arc<dyn Host>,
        config: super::super::Config,
    ) -> Result<Protected> {
        let disk = Disk::new(backend.clone(), false);
        let (sb, slot) = super::super::open::newest_superblock(&disk)?;
        let replay = super::super::recover::scan(&disk, &sb, false)?;
        let mut out = Protected {
            superblock: SLOTS[1 - slot].offset(),
            log_pages: replay.pages.iter().map(|b| b.0).collect(),
            len: super::super::recover::needed_len(&sb),
            ..Protected::default()
        };
        let mut placed = Vec::new();
        replay.ops.iter().for_each(|op| op.placed(&mut placed));
        for (start, len) in placed.iter().flat_map(|p| &p.runs) {
            out.blocks.extend((0..u64::from(*len)).map(|i| start + i));
        }
        // What the log itself has may be written to its place at any time.
        for op in &replay.ops {
            if let super::super::ops::Op::Data { at, .. } = op {
                out.blocks.remove(at);
            }
        }
        // The checkpoint alone: the log left out.
        let mut clean = sb;
        clean.clean = true;
        let engine = Engine::checkpoint_view(backend, host, config, clean)?;
        let capture = engine.capture()?;
        for block in engine.state_mut()?.forest.space.current_homes() {
            out.blocks.insert(block.0);
        }
        let mut todo: Vec<(RootPointer, Shape)> = vec![(capture.catalog, Shape::Records)];
        let extents = capture.volumes.iter().map(|v| v.1.root).chain(capture.snapshots.iter().map(|s| s.1.root));
        todo.extend(extents.chain(capture.doomed.iter().map(|d| d.1)).map(|r| (r, Shape::Extents)));
        for (root, shape) in todo {
            let root = Root::from(root);
            let Some(child) = root.node else { continue };
            let mut stack = vec![Miss { shape, child, level: root.level, bounds: (0, shape.end()) }];
            while let Some(want) = stack.pop() {
                if !out.blocks.insert(want.child.block.0) {
                    continue;
                }
                match &*capture.node(want)? {
                    Node::Inner { entries, .. } => {
                        stack.extend((0..entries.len()).map(|i| crate::tree::read_step(want, entries, i)));
                    }
                    Node::Extents(leaf) => {
                        for e in &leaf.extents {
                            out.blocks.extend((0..u64::from(e.len)).map(|i| e.physical.0 + i));
                        }
                    }
                    Node::Records(_) => {}
                }
            }
        }
        Ok(out)
    }
}
#[cfg(feature = "sim")]
#[allow(unreachable_pub, reason = "public through `sim_support`")]
pub use guard::{Protected, protected};

const _: () = assert!(BLOCK == 4096, "buffers of one block are on the stack");
