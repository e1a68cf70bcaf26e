//! A view of everything at one instant, which holds no lock while it is read.

use crate::{
    BLOCK, Error, Result,
    engine::{CatalogView, Engine, SnapshotRecord, Staging, State, VolumeRecord},
    format::RootPointer,
    io::Disk,
    lack::{Key, Miss, Step, Stop},
    space::{Geometry, Pin},
    tree::{DirtyNodes, Node, NodeCache, Nodes, Root, decode_node},
    units::Block,
};
use rustc_hash::FxHashSet;
use std::{cell::RefCell, ops::Range, sync::Arc};

/// Records that one walk over the catalog takes at a time.
const PAGE: usize = 256;

/// Everything that the image says at one instant, except the counts of most regions. While it lives, nothing that it refers to is reused.
pub(crate) struct Capture {
    disk: Arc<Disk>,
    uuid: [u8; 16],
    hash_key: u64,
    pub(crate) catalog: RootPointer,
    pub(crate) doomed_count: u64,
    pub(crate) doom_sequence: u64,
    pub(crate) next_volume: u64,
    pub(crate) next_snapshot: u64,
    pub(crate) sweeping: FxHashSet<u64>,
    pub(crate) geometry: Geometry,
    pub(crate) spans: u64,
    /// The regions whose counts it has.
    pub(crate) regions: Range<u64>,
    /// Their counts; `Err` where they can't be read.
    pub(crate) counts: Vec<Result<Arc<Vec<u32>>>>,
    pub(crate) free: u64,
    pub(crate) returned: u64,
    /// Free blocks that are available, in quarantine, reserved for nodes, or taken by writes in flight: all free blocks, if nothing is lost.
    pub(crate) accounted: u64,
    /// Equal for two captures of the same state of the image.
    pub(crate) moment: (u64, u64, u64),
    dirty: DirtyNodes,
    frozen: Arc<DirtyNodes>,
    staged: Staging,
    read: RefCell<NodeCache>,
    _pin: Pin,
}

/// Numbers of count pages that could and could not be read so far.
#[derive(Default)]
pub(crate) struct Tally {
    there: u64,
    missing: u64,
}

/// Unreadable count pages that a view accepts, in addition to as many as can be read.
const MISSING: u64 = 1024;

impl Capture {
    /// Captures the store as it is now. The lock is held for what is in memory alone: dirty nodes, and a pointer for each region of
    /// `regions`, whose counts are read before. `Corrupt` if most regions have no counts, since an image may claim any number of regions.
    pub(crate) fn take(engine: &Engine, regions: Range<u64>, tally: &mut Tally) -> Result<Capture> {
        let mut counts: Vec<Result<Arc<Vec<u32>>>> = Vec::new();
        for region in regions.clone() {
            // Counts that are shared stay in memory.
            let found = engine.step(|state| state.forest.space.counts(region));
            tally.there += u64::from(found.is_ok());
            tally.missing += u64::from(found.is_err());
            counts.push(found);
            if tally.missing > tally.there + MISSING {
                let (there, all) = (tally.there, tally.there + tally.missing);
                let what = format!("of the first {all} regions that the image claims only {there} have their counts");
                return Err(Error::corrupt(what));
            }
        }
        let (disk, memory) = (&engine.disk, engine.config.memory);
        engine.step(|state| {
            for (region, counts) in regions.clone().zip(&mut counts).filter(|(_, c)| c.is_ok()) {
                *counts = Ok(state.forest.space.counts(region)?);
            }
            Ok(Capture::of(state, disk.clone(), memory, regions.clone(), std::mem::take(&mut counts)))
        })
    }
    fn of(
        state: &State,
        disk: Arc<Disk>,
        memory: u64,
        regions: Range<u64>,
        counts: Vec<Result<Arc<Vec<u32>>>>,
    ) -> Capture {
        let (forest, space) = (&state.forest, &state.forest.space);
        Capture {
            disk,
            uuid: forest.uuid,
            hash_key: state.hash_key,
            catalog: state.catalog.into(),
            doomed_count: state.doomed,
            doom_sequence: state.doom_sequence,
            next_volume: state.next_volume,
            next_snapshot: state.next_snapshot,
            sweeping: state.sweeping.clone(),
            geometry: space.geometry(),
            spans: space.spans(),
            regions,
            counts,
            free: space.free(),
            returned: space.returned(),
            accounted: space.available() + space.waiting() + forest.pool.len() as u64 + state.in_flight,
            moment: (state.activity, state.generation, space.edits()),
            dirty: forest.dirty.clone(),
            frozen: forest.frozen.clone(),
            staged: state.staging.clone(),
            read: RefCell::new(NodeCache::new(memory / 16)),
            _pin: space.pin(),
        }
    }

    /// Returns a node from memory if it is newer there, and from the disk otherwise.
    pub(crate) fn get(&self, want: &Miss) -> Result<Arc<Node>> {
        for nodes in [&self.dirty, &*self.frozen] {
            if let Some(d) = nodes.get(&want.child.block.0).filter(|d| d.stamp == want.child.stamp) {
                return Ok(d.node.clone());
            }
        }
        if let Some(node) = self.read.borrow().find(want) {
            return Ok(node);
        }
        let read = decode_node(&*self.disk.read_page(want.child.block)?, &self.uuid, want)?;
        let node = read.node().clone();
        self.read.borrow_mut().insert(read);
        Ok(node)
    }
    /// Reads a data block.
    pub(crate) fn data(&self, block: Block, buf: &mut [u8]) -> Result<()> {
        match self.staged.block(block) {
            Some(bytes) => {
                buf.copy_from_slice(bytes);
                Ok(())
            }
            None => self.disk.read(block.offset(), buf),
        }
    }
    /// Number of blocks that hold data or nodes.
    pub(crate) fn used(&self) -> u64 {
        let homes = 2 * self.geometry.homes_of(self.spans);
        let all = self.spans.saturating_mul(self.geometry.span.into());
        all.saturating_sub(homes + self.free + self.returned)
    }

    // ---- the catalog

    pub(crate) fn catalog(&self) -> CatalogView<'_, Capture> {
        CatalogView { nodes: self, root: Root::from(self.catalog), hash_key: self.hash_key }
    }
    /// Calls `f` with every volume, by id.
    pub(crate) fn each_volume(&self, f: impl FnMut(u64, &VolumeRecord) -> Result<()>) -> Result<()> {
        each(0, |id| id.checked_add(1), |from| self.catalog().volumes(from, PAGE), f)
    }
    /// Calls `f` with every snapshot, by id, those of volumes that are being removed included.
    pub(crate) fn each_snapshot(&self, f: impl FnMut(u64, &SnapshotRecord) -> Result<()>) -> Result<()> {
        each(0, |id| id.checked_add(1), |from| self.catalog().snapshots(from, PAGE), f)
    }
    /// Calls `f` with every doomed subtree.
    pub(crate) fn each_doomed(&self, mut f: impl FnMut(Key, RootPointer) -> Result<()>) -> Result<()> {
        let f = |key, root: &RootPointer| f(key, *root);
        each(0, |key: Key| key.checked_add(1), |from| self.catalog().doomed(from, PAGE), f)
    }
}

/// Calls `f` with all that `page` lists from `from` on, one page after the other.
fn each<K: Copy, R>(
    from: K,
    after: impl Fn(K) -> Option<K>,
    page: impl Fn(K) -> Step<Vec<(K, R)>>,
    mut f: impl FnMut(K, &R) -> Result<()>,
) -> Result<()> {
    let mut from = Some(from);
    while let Some(first) = from {
        let list = page(first).map_err(Stop::into_error)?;
        from = list.last().and_then(|(last, _)| after(*last));
        list.iter().try_for_each(|(key, record)| f(*key, record))?;
    }
    Ok(())
}

impl Nodes for Capture {
    type Ref<'a> = Arc<Node>;
    fn node(&self, want: &Miss) -> Step<Arc<Node>> {
        Ok(self.get(want)?)
    }
}

const _: () = assert!(BLOCK == 4096, "buffers of one block are on the stack");
