//! What an open image keeps in memory, and the order of its locks. An operation on the state is done as a whole or undone.
//!
//! Order of locks: checkpointer, flusher, spilling, reserving, placing, state. Nothing syncs, grows or punches under the state's lock.

use super::{
    budget::NODE_BYTES,
    catalog::{Catalog, CatalogView, SnapshotRecord, VolumeRecord},
    change::{Claim, Taken},
    lease::Leases,
    meter::Meters,
    reclaim::Aside,
    staging::Staging,
    translation::Translations,
    writeback::Unpushed,
};
use crate::{
    Error, ErrorKind, Result,
    events::{Delivery, Events},
    format::{COUNTER_ROOM, Superblock, have_room},
    io::{Disk, Host},
    knobs::Knobs,
    lack::{Lack, Step},
    log::Log,
    space::{Geometry, Purpose, Reading, Run, Space},
    sync::{Bell, Mutex, RwLock},
    tree::{Forest, Root},
    units::{BLOCK_BYTES, Stamp, Target},
};
use rustc_hash::{FxHashMap, FxHashSet};
use std::{
    collections::hash_map::Entry,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
};

/// The configuration of an engine.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) log_pages: u64,
    pub(crate) memory: u64,
    pub(crate) limit_blocks: u64,
    /// Free space that the image may have before small holes are filled, in percent of the space in use.
    pub(crate) slack: u32,
    /// Whether fresh space is written once before it is used, on hosts where that protects it.
    pub(crate) write_fresh: bool,
    /// Free runs of at least this many blocks are returned to the host.
    pub(crate) punch_from: u32,
    pub(crate) manual: bool,
    pub(crate) events: Events,
    pub(crate) knobs: Knobs,
}

/// Bound on the records of volumes, and on those of snapshots, that stay in memory.
const RECORDS: usize = 4096;

/// Everything that changes under the state's lock.
pub(crate) struct State {
    pub(crate) forest: Forest,
    pub(crate) catalog: Root,
    pub(crate) hash_key: u64,
    pub(crate) generation: u64,
    pub(crate) doomed: u64,
    pub(crate) doom_sequence: u64,
    /// The superblock's counters had room to grow when the image was opened.
    pub(crate) had_room: bool,
    pub(crate) next_volume: u64,
    pub(crate) next_snapshot: u64,
    /// Records of volumes and snapshots that are in use.
    pub(crate) volume_records: FxHashMap<u64, VolumeRecord>,
    pub(crate) snapshot_records: FxHashMap<u64, SnapshotRecord>,
    /// Deleted volumes whose snapshots are still being removed.
    pub(crate) sweeping: FxHashSet<u64>,
    pub(crate) log: Log,
    pub(crate) staging: Staging,
    /// What reads know without this lock: whatever an operation changes is removed from it.
    pub(crate) translations: Arc<Translations>,
    /// Blocks taken by writes that are not published yet.
    pub(crate) in_flight: u64,
    pub(crate) closed: bool,
    /// Attached volumes.
    pub(crate) leases: Leases,
    pub(crate) progress: Progress,
    /// Operations that were complete in memory; see [`Knobs::again`].
    pub(crate) ends: u64,
    /// Bytes, approximately, of the counts that a checkpoint is writing.
    pub(crate) frozen_counts: u64,
    /// Reclaim has freed something that only a checkpoint makes usable.
    pub(crate) reclaimed: bool,
    pub(crate) knobs: Knobs,
    /// Ranges that recovery assumes to be reserved and that are reserved again before anything is written: offset and length in bytes.
    pub(crate) owed: Vec<(u64, u64)>,
    /// Entries that reclaim could not read.
    pub(crate) aside: Aside,
    /// Grows with every operation and every written group: while it does not, there is nothing new for maintenance.
    pub(crate) activity: u64,
}

/// Returns the first block of a byte range that is not empty, and the block after its last.
pub(crate) fn blocks_of(offset: u64, len: u64) -> (u64, u64) {
    (offset / BLOCK_BYTES, (offset + len).div_ceil(BLOCK_BYTES))
}

/// State of the writer of the log.
pub(crate) struct Flusher {
    /// Hash of the last page of the last group that was written.
    pub(crate) previous: u64,
    /// Number of the last group whose sync returned.
    pub(crate) acked: u64,
    /// The encoded pages of a group, before they are written.
    pub(crate) pages: Vec<u8>,
}

/// State of the writer of checkpoints.
pub(crate) struct Checkpointer {
    pub(crate) superblock: Superblock,
    /// The slot that does not hold the newest superblock.
    pub(crate) slot: usize,
}

/// The open image.
pub(crate) struct Engine {
    pub(crate) disk: Arc<Disk>,
    pub(crate) host: Arc<dyn Host>,
    pub(crate) config: Config,
    pub(crate) uuid: [u8; 16],
    pub(crate) hash_key: u64,
    pub(crate) epoch: u64,
    /// The random part of this opening's stamps.
    pub(crate) salt: u32,
    pub(crate) state: RwLock<State>,
    pub(crate) flusher: Mutex<Flusher>,
    /// Held while runs taken out of staging are written: one set at a time, and all of it before its group is synced.
    pub(crate) spilling: Mutex<()>,
    /// Shared by direct writers; `close` takes it exclusively, so that the image is never released under a write.
    pub(crate) placing: RwLock<()>,
    /// Blocks that reads are copying.
    pub(crate) reading: Reading,
    /// Those of [`State`].
    pub(crate) translations: Arc<Translations>,
    /// What was asked of each volume.
    pub(crate) meters: Meters,
    /// Written ranges of the image that the medium was not yet asked to write out.
    pub(crate) unpushed: Mutex<Unpushed>,
    pub(crate) checkpointer: Mutex<Checkpointer>,
    /// Serialises growth and punching. Holds freed runs that are to be punched, each with the generation whose checkpoint marks it as
    /// returned.
    pub(crate) reserving: Mutex<Vec<(u64, Run)>>,
    /// How many blocks had been written when a run was punched last.
    pub(crate) punched_at: AtomicU64,
    /// Buffers of one block, kept for reuse.
    pub(crate) buffers: Mutex<Vec<Arc<[u8]>>>,
    /// Wakes the maintenance thread.
    pub(crate) maintenance: Bell,
    /// Set while the maintenance thread found nothing to do and sleeps until its bell rings.
    pub(crate) resting: AtomicBool,
    /// How often the maintenance thread woke.
    pub(crate) wakeups: AtomicU64,
    /// Bytes of fresh space that were written before they were used.
    pub(crate) fresh_written: AtomicU64,
    /// The last failure of background work that poisoned nothing.
    pub(crate) background: Mutex<Option<Error>>,
    /// Wakes the write-behind thread.
    pub(crate) behind: Bell,
    pub(crate) stopping: AtomicBool,
}

impl Engine {
    /// Stands at the start of every call and every step of background work, and delivers events when it is dropped, with nothing held. A
    /// forked child delivers nothing: the lock of the events may be held for ever there.
    #[inline]
    pub(crate) fn delivery(&self) -> Option<Delivery<'_>> {
        (self.config.events.is_wanted() && self.disk.same_process()).then(|| self.config.events.delivery())
    }
}

/// Poisons the disk if a panic leaves the state half changed: nothing of that state may reach the disk.
pub(crate) struct PanicGuard<'a>(&'a Disk, bool);

impl<'a> PanicGuard<'a> {
    pub(crate) fn new(disk: &'a Disk) -> PanicGuard<'a> {
        PanicGuard(disk, std::thread::panicking())
    }
}

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.1 {
            self.0.poison(Error::new(ErrorKind::Io, "a panic while the state changed"));
        }
    }
}

/// What an operation may have changed besides nodes, counts and records; all of it is small.
#[derive(Clone, Copy)]
struct Before {
    catalog: Root,
    doomed: u64,
    doom_sequence: u64,
    next_volume: u64,
    next_snapshot: u64,
    log: usize,
    shadowed: u64,
}

/// What the operation in progress has done that must be undone if it stops.
#[derive(Default)]
pub(crate) struct Progress {
    /// Records that were changed, or looked up among what the operation itself has made. The catalog has all of them, so that undoing is
    /// forgetting them.
    records: Vec<Target>,
    /// Deleted volumes whose snapshots are deleted too, each with whether it was listed before.
    sweeps: Vec<(u64, bool)>,
    /// Runs that were allocated for data.
    taken: Vec<Run>,
}

impl State {
    /// The state as a superblock describes it, without what the log says.
    pub(super) fn new(config: &Config, sb: &Superblock, salt: u32) -> State {
        let generation = sb.generation + 1;
        let stamp = Stamp::new(generation, salt);
        let space = Space::new(
            Geometry::of(sb),
            sb.uuid,
            sb.spans,
            config.limit_blocks,
            (config.knobs.growth, config.slack),
            Space::entry(sb.index_stamp, sb.index_home),
            (sb.free, sb.returned),
            sb.generation,
        );
        State {
            forest: Forest::new(space, sb.uuid, stamp, config.knobs.fanout, config.cached_most()),
            catalog: sb.catalog.into(),
            hash_key: sb.hash_key,
            generation,
            doomed: sb.doomed,
            doom_sequence: sb.doom_sequence,
            had_room: sb.has_room(2 * COUNTER_ROOM),
            next_volume: sb.next_volume,
            next_snapshot: sb.next_snapshot,
            volume_records: Default::default(),
            snapshot_records: Default::default(),
            sweeping: Default::default(),
            log: Log::new((sb.log_pages, config.group_most()), sb.hash_key, sb.log_position, sb.log_group + 1),
            staging: Default::default(),
            translations: Arc::new(Translations::new(config.translated_most())),
            in_flight: 0,
            closed: false,
            leases: Default::default(),
            progress: Default::default(),
            ends: 0,
            frozen_counts: 0,
            reclaimed: false,
            knobs: config.knobs,
            owed: Vec::new(),
            aside: Default::default(),
            activity: 0,
        }
    }

    /// Runs an operation as a whole: if it stops half-way, because it lacks something or met damage, all that it has changed is undone.
    pub(crate) fn transact<T>(&mut self, f: impl FnOnce(&mut State) -> Step<T>) -> Step<T> {
        let before = Before {
            catalog: self.catalog,
            doomed: self.doomed,
            doom_sequence: self.doom_sequence,
            next_volume: self.next_volume,
            next_snapshot: self.next_snapshot,
            log: self.log.len(),
            shadowed: self.forest.shadowed,
        };
        let outcome = f(self);
        if outcome.is_err() {
            self.undo(before);
        }
        self.forest.keep();
        self.progress.records.clear();
        self.progress.sweeps.clear();
        self.progress.taken.clear();
        outcome
    }
    /// Makes the operation lack something that is there, so that it is undone and begun anew, where the test size [`Knobs::again`] says so.
    pub(super) fn may_begin_anew(&mut self) -> Step<()> {
        let every = u64::from(self.knobs.again);
        self.ends += u64::from(every > 0);
        if every > 0 && self.ends.is_multiple_of(every) { Err(Lack::Reread.into()) } else { Ok(()) }
    }
    fn undo(&mut self, before: Before) {
        self.forest.undo();
        for run in self.progress.taken.drain(..) {
            self.forest.space.unallocate(run);
        }
        for target in self.progress.records.drain(..) {
            match target {
                Target::Volume(id) => drop(self.volume_records.remove(&id)),
                Target::Snapshot(id) => drop(self.snapshot_records.remove(&id)),
            }
        }
        while let Some((volume, was_listed)) = self.progress.sweeps.pop() {
            if was_listed {
                self.sweeping.insert(volume);
            } else {
                self.sweeping.remove(&volume);
            }
        }
        let Before { catalog, doomed, doom_sequence, next_volume, next_snapshot, log, shadowed } = before;
        (self.catalog, self.doomed, self.doom_sequence) = (catalog, doomed, doom_sequence);
        (self.next_volume, self.next_snapshot) = (next_volume, next_snapshot);
        self.log.cut(log);
        self.forest.shadowed = shadowed;
    }

    pub(crate) fn catalog(&mut self) -> Catalog<'_> {
        Catalog { forest: &mut self.forest, root: &mut self.catalog, hash_key: self.hash_key }
    }
    pub(crate) fn catalog_view(&self) -> CatalogView<'_> {
        CatalogView { nodes: &self.forest, root: self.catalog, hash_key: self.hash_key }
    }
    /// Returns a volume's record, which stays in memory from now on.
    pub(crate) fn volume_record(&mut self, id: u64) -> Step<&VolumeRecord> {
        match self.volume_records.entry(id) {
            Entry::Occupied(record) => Ok(record.into_mut()),
            Entry::Vacant(place) => {
                let view = CatalogView { nodes: &self.forest, root: self.catalog, hash_key: self.hash_key };
                let record = view.volume(id)?.ok_or_else(|| deleted(Target::Volume(id)))?;
                self.progress.records.push(Target::Volume(id));
                Ok(place.insert(record))
            }
        }
    }
    /// Returns a volume's record for changing.
    pub(super) fn volume_record_mut(&mut self, id: u64) -> Step<&mut VolumeRecord> {
        self.volume_record(id)?;
        self.progress.records.push(Target::Volume(id));
        Ok(self.volume_records.get_mut(&id).expect("it is in memory"))
    }
    /// Returns a snapshot's record, which stays in memory for a while.
    pub(crate) fn snapshot_record(&mut self, id: u64) -> Step<&SnapshotRecord> {
        if !self.snapshot_records.contains_key(&id) {
            let record = self.catalog_view().snapshot(id)?;
            let record = record.filter(|r| !self.sweeping.contains(&r.volume));
            let record = record.ok_or_else(|| deleted(Target::Snapshot(id)))?;
            self.set_snapshot_record(id, record);
        }
        Ok(&self.snapshot_records[&id])
    }
    /// Replaces a volume's record in memory.
    pub(super) fn set_volume_record(&mut self, id: u64, record: VolumeRecord) {
        self.progress.records.push(Target::Volume(id));
        self.volume_records.insert(id, record);
    }
    /// Replaces a snapshot's record in memory.
    pub(super) fn set_snapshot_record(&mut self, id: u64, record: SnapshotRecord) {
        self.progress.records.push(Target::Snapshot(id));
        self.snapshot_records.insert(id, record);
    }
    /// Adds a deleted volume whose snapshots are deleted too to the list, or removes it.
    pub(super) fn set_sweeping(&mut self, volume: u64, yes: bool) {
        let was = if yes { !self.sweeping.insert(volume) } else { self.sweeping.remove(&volume) };
        self.progress.sweeps.push((volume, was));
    }
    /// Evicts records of volumes and snapshots beyond [`RECORDS`]: the catalog has all of them. Never called inside an operation, which
    /// relies on what it has loaded.
    pub(crate) fn evict_records(&mut self) {
        fn trim<T>(volume_records: &mut FxHashMap<u64, T>) {
            if let surplus @ 1.. = volume_records.len().saturating_sub(RECORDS) {
                let gone: Vec<u64> = volume_records.keys().take(surplus + RECORDS / 8).copied().collect();
                gone.iter().for_each(|id| drop(volume_records.remove(id)));
            }
        }
        trim(&mut self.volume_records);
        trim(&mut self.snapshot_records);
    }
    /// Returns the tree and the size of a target.
    pub(crate) fn extent_root(&self, target: Target) -> Step<(Root, u64)> {
        match target {
            Target::Volume(id) => self.volume_records.get(&id).map(|r| (r.root.into(), r.size)),
            Target::Snapshot(id) => self.snapshot_records.get(&id).map(|r| (r.root.into(), r.size)),
        }
        .ok_or_else(|| Lack::Record(target).into())
    }
    pub(crate) fn check_range(&self, target: Target, size: u64, offset: u64, len: u64) -> Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= size => Ok(()),
            _ => Err(Error::new(
                ErrorKind::OutOfRange,
                format!("{target} has {size} bytes: {len} bytes at offset {offset} reach past the end"),
            )),
        }
    }
    /// Returns how many blocks may be taken.
    fn spare(&self, claim: Claim) -> u64 {
        let all = self.forest.space.available() + self.forest.pool.len() as u64;
        match claim {
            Claim::Ordinary => all.saturating_sub(self.knobs.reserve.into()),
            Claim::Freeing => all,
        }
    }
    /// Makes sure that `nodes` nodes can be made and `data` blocks can be allocated.
    pub(crate) fn reserve(&mut self, claim: Claim, nodes: usize, data: u64) -> Step<()> {
        let need = nodes as u64 + data;
        let spare = self.spare(claim);
        if spare < need {
            return Err(Lack::Space(need - spare).into());
        }
        if self.forest.fill_pool(nodes)? { Ok(()) } else { Err(Lack::Space(nodes as u64).into()) }
    }
    /// Allocates runs for `blocks` data blocks, after [`State::reserve`]. Unless `any`, scattered blocks are left alone.
    pub(crate) fn allocate_data(&mut self, blocks: u64, any: bool) -> Step<Taken> {
        let mut runs = Taken::new();
        let mut left = blocks;
        while left > 0 {
            let run = self.forest.space.allocate(Purpose::Data, left as u32, any)?;
            let run = run.ok_or(Lack::Space(blocks))?;
            self.progress.taken.push(run);
            left -= u64::from(run.len);
            runs.push(run);
        }
        Ok(runs)
    }
}

pub(crate) fn deleted(target: Target) -> Error {
    Error::new(ErrorKind::Deleted, format!("{target} was deleted"))
}

impl State {
    /// Bytes, approximately, of the nodes, counts and logged data that wait for a checkpoint.
    pub(crate) fn dirty_bytes(&self) -> u64 {
        self.forest.dirty.len() as u64 * NODE_BYTES + self.forest.space.changed_bytes() + self.staging.logged_bytes()
    }
    /// Bytes, approximately, of the nodes, counts and logged data that a checkpoint is writing.
    pub(crate) fn frozen_bytes(&self) -> u64 {
        self.forest.frozen.len() as u64 * NODE_BYTES + self.frozen_counts + self.staging.homing_bytes()
    }
    /// Returns whether every counter that only grows still has room to. They always have, except in an image that was made up.
    pub(super) fn counters_have_room(&self) -> bool {
        let counters = [self.log.group, self.log.position, self.doom_sequence];
        let ids = [self.next_volume, self.next_snapshot];
        self.had_room && have_room(&counters, ids, self.generation, 2 * COUNTER_ROOM)
    }
    /// Returns whether a checkpoint is due.
    pub(crate) fn is_due(&self, config: &Config) -> bool {
        self.log.wants_checkpoint() || self.wants_space() || self.dirty_bytes() > config.dirty_due()
    }
    /// Returns whether the image will have to grow soon: that is better done before a writer waits for it.
    pub(crate) fn wants_growth(&self, config: &Config) -> bool {
        let space = &self.forest.space;
        config.write_fresh && space.would_grow() && space.available() < space.end() / BLOCK_BYTES / 16
    }
    /// Returns whether so much was freed, and so little is left to allocate, that a checkpoint is due.
    pub(crate) fn wants_space(&self) -> bool {
        let space = &self.forest.space;
        let image = space.end() / BLOCK_BYTES;
        if space.available() < image / 8 && space.should_recycle() {
            return true;
        }
        let limit = (image / 16).max(if self.knobs.fanout == usize::MAX { (64 << 20) / BLOCK_BYTES } else { 16 });
        space.waiting() > limit && space.available() < limit
    }
}

pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the store was closed")
}
