//! The handle to an open image, and updates of several operations.

use crate::{
    AttachedVolume, Diff, Error, ErrorKind, Progress, Report, Result, ScrubReport, Snapshot, SnapshotId, Volume,
    VolumeId,
    audit::{self, Usage, UsageReport},
    counters::{Counters, counters},
    engine::{Ask, Authority, Engine, VolumeRecord},
    handle::Root,
    terms::{DeleteSnapshots, Durability, NewOptions},
    units::Target,
};
use std::{collections::BTreeMap, fmt};

/// A handle to the open image. Cheap to clone; may be used from any thread at once.
///
/// Dropping the last handle (of volumes and snapshots too) without [`Store::close`] is a crash: what was flushed is safe, the rest is lost.
#[derive(Clone)]
pub struct Store {
    root: Root,
}

/// Returns the first id that a page may contain; `None` if there can be none.
fn first_after(after: Option<u64>, limit: usize) -> Result<Option<u64>> {
    match limit {
        0 => Err(Error::invalid("a page of nothing")),
        _ => Ok(after.map_or(Some(0), |id| id.checked_add(1))),
    }
}

impl Store {
    pub(crate) fn new(engine: Engine) -> Result<Store> {
        Ok(Store { root: Root::new(engine)? })
    }
    fn volume_handle(&self, id: u64) -> Volume {
        Volume::new(self.root.handle(id))
    }
    fn one(&self, ask: Ask) -> Result<()> {
        self.root.enter()?.commit(&[ask], true).map(drop)
    }

    /// Creates a volume of `bytes` (a multiple of 512 up to 256 TiB) that reads as zeros. `Exists` if the name is taken.
    pub fn create_volume(&self, name: &str, bytes: u64) -> Result<Volume> {
        self.create_volume_with(name, bytes, NewOptions::default())
    }
    /// [`Store::create_volume`] with tags.
    pub fn create_volume_with(&self, name: &str, bytes: u64, o: NewOptions) -> Result<Volume> {
        let engine = self.root.enter_to_write()?;
        let id = engine.draw_volume()?;
        let ask = Ask::create_volume(id, name, bytes, o.tags);
        engine.commit(&[ask], o.durability == Durability::Immediate)?;
        Ok(self.volume_handle(id))
    }
    /// Returns the volume of that name.
    pub fn volume(&self, name: &str) -> Result<Volume> {
        let id = self.root.enter()?.lookup(|state| state.catalog_view().volume_named(name))?;
        let id = id.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no volume {name:?}")))?;
        Ok(self.volume_handle(id))
    }
    /// Returns the volume with that id; `Deleted` if there is none.
    pub fn volume_by_id(&self, id: VolumeId) -> Result<Volume> {
        self.root.enter()?.volume_record(id.0)?;
        Ok(self.volume_handle(id.0))
    }
    /// Returns all volumes, by name. It reads all their records; [`Store::volumes_page`] does not.
    pub fn volumes(&self) -> Result<Vec<Volume>> {
        let mut list = self.volume_records(0, usize::MAX)?;
        list.sort_by(|a, b| a.1.name.cmp(&b.1.name));
        Ok(list.into_iter().map(|(id, _)| self.volume_handle(id)).collect())
    }
    /// Returns the next `limit` volumes by id, which is the order of their creation, from the first one or from the one after `after`. A page
    /// shorter than `limit` is the last. `Invalid` for a limit of 0.
    ///
    /// Nothing is held between two pages, nor within a page of more than 256 volumes: a volume that is created or deleted meanwhile is in it
    /// or not. `after` need not exist any more.
    pub fn volumes_page(&self, after: Option<VolumeId>, limit: usize) -> Result<Vec<Volume>> {
        let list = match first_after(after.map(|id| id.0), limit)? {
            Some(from) => self.volume_records(from, limit)?,
            None => Vec::new(),
        };
        Ok(list.into_iter().map(|(id, _)| self.volume_handle(id)).collect())
    }
    /// Returns up to `limit` volumes from an id on.
    fn volume_records(&self, from: u64, limit: usize) -> Result<Vec<(u64, VolumeRecord)>> {
        let engine = self.root.enter()?;
        let (mut list, mut from) = (Vec::new(), Some(from));
        while let Some(id) = from.filter(|_| list.len() < limit) {
            let page = engine.volumes(id, limit - list.len())?;
            from = page.last().and_then(|(id, _)| id.checked_add(1));
            list.extend(page);
        }
        Ok(list)
    }
    /// Takes a snapshot of a volume. Durable when it returns; O(1).
    pub fn snapshot(&self, volume: &Volume, name: &str) -> Result<Snapshot> {
        self.snapshot_with(volume, name, NewOptions::default())
    }
    /// [`Store::snapshot`] with tags, or durable later.
    pub fn snapshot_with(&self, volume: &Volume, name: &str, o: NewOptions) -> Result<Snapshot> {
        self.snapshot_group_with(&[(volume, name)], o).map(|mut made| made.remove(0))
    }
    /// Takes snapshots of several volumes at one point in time, all or none. `Invalid` for an empty list or a volume that is listed twice.
    pub fn snapshot_group(&self, members: &[(&Volume, &str)]) -> Result<Vec<Snapshot>> {
        self.snapshot_group_with(members, NewOptions::default())
    }
    /// [`Store::snapshot_group`] with tags for each member, or durable later.
    pub fn snapshot_group_with<'a>(&self, members: &[(&Volume, &'a str)], o: NewOptions) -> Result<Vec<Snapshot>> {
        let member = |(volume, name): &(&Volume, &'a str)| Ok((self.root.own(&volume.handle)?, *name));
        Snapshot::take(&self.root, members.iter().map(member).collect::<Result<_>>()?, o)
    }
    /// Returns all snapshots, oldest first, those included that were kept when their volume was deleted. It reads all their records;
    /// [`Store::snapshots_page`] does not.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>> {
        self.snapshot_list(0, usize::MAX)
    }
    /// Returns the next `limit` snapshots by id, oldest first, from the first one or from the one after `after`, as [`Store::volumes_page`]
    /// does.
    pub fn snapshots_page(&self, after: Option<SnapshotId>, limit: usize) -> Result<Vec<Snapshot>> {
        match first_after(after.map(|id| id.0), limit)? {
            Some(from) => self.snapshot_list(from, limit),
            None => Ok(Vec::new()),
        }
    }
    /// Returns up to `limit` snapshots from an id on.
    fn snapshot_list(&self, from: u64, limit: usize) -> Result<Vec<Snapshot>> {
        let engine = self.root.enter()?;
        let (mut list, mut from) = (Vec::new(), Some(from));
        while let Some(id) = from.filter(|_| list.len() < limit) {
            let (page, next) = engine.snapshots(id, limit - list.len())?;
            list.extend(page.iter().map(|(id, r)| Snapshot::of(&self.root, *id, r)));
            from = next;
        }
        Ok(list)
    }
    /// Returns the snapshot with that id; `Deleted` if there is none.
    pub fn snapshot_by_id(&self, id: SnapshotId) -> Result<Snapshot> {
        Snapshot::open(&self.root, id.0)
    }
    /// Creates a volume with the content of the snapshot. Durable when it returns; O(1).
    pub fn clone_volume(&self, snapshot: &Snapshot, name: &str) -> Result<Volume> {
        self.clone_volume_with(snapshot, name, NewOptions::default())
    }
    /// [`Store::clone_volume`] with tags, or durable later.
    pub fn clone_volume_with(&self, snapshot: &Snapshot, name: &str, o: NewOptions) -> Result<Volume> {
        let snapshot = self.root.own(&snapshot.handle)?;
        let engine = self.root.enter_to_write()?;
        let id = engine.draw_volume()?;
        let ask = Ask::clone_volume(snapshot, id, name, o.tags);
        engine.commit(&[ask], o.durability == Durability::Immediate)?;
        Ok(self.volume_handle(id))
    }
    /// Deletes a volume. Its handles answer `Deleted` from then on; its space is freed in the background.
    pub fn delete_volume(&self, volume: &Volume, snapshots: DeleteSnapshots) -> Result<()> {
        let volume = self.root.own(&volume.handle)?;
        self.one(Ask::delete_volume(volume, snapshots.mode()))
    }
    /// Deletes a snapshot, whatever was made from it. Space that nothing else shares is freed in the background.
    pub fn delete_snapshot(&self, snapshot: &Snapshot) -> Result<()> {
        let snapshot = self.root.own(&snapshot.handle)?;
        self.one(Ask::delete_snapshot(snapshot))
    }
    /// Renames a volume.
    pub fn rename(&self, volume: &Volume, name: &str) -> Result<()> {
        let volume = self.root.own(&volume.handle)?;
        self.one(Ask::rename_volume(volume, name))
    }
    /// Renames a snapshot.
    pub fn rename_snapshot(&self, snapshot: &Snapshot, name: &str) -> Result<()> {
        let snapshot = self.root.own(&snapshot.handle)?;
        self.one(Ask::rename_snapshot(snapshot, name))
    }
    /// Makes several operations one record: all of them happen, or none, also after a crash. They are checked and carried out, in order, when
    /// `f` returns `Ok`; handles that `f` got are valid from then on. `Invalid`, and nothing happens, if any operation was given a handle of
    /// another store.
    pub fn update<T>(&self, f: impl FnOnce(&mut Update<'_>) -> Result<T>) -> Result<T> {
        let engine = self.root.enter_to_write()?;
        let mut update = Update { store: self, asked: Vec::new(), authority: Authority::default(), refused: None };
        let out = f(&mut update)?;
        if let Some(refused) = update.refused {
            return Err(refused);
        }
        engine.commit_as(&update.asked, true, &update.authority)?;
        Ok(out)
    }
    /// Checks everything: checksums, counts, order. It writes nothing, and reads all data once for each tree that refers to it.
    pub fn check(&self) -> Result<Report> {
        self.check_with(&mut |_| true)
    }
    /// [`Store::check`] that reports its progress, and stops with `Cancelled` when `progress` returns `false`.
    pub fn check_with(&self, progress: &mut dyn FnMut(Progress) -> bool) -> Result<Report> {
        audit::check(self.root.enter()?, progress)
    }
    /// Verifies every block that a snapshot holds. A snapshot with damage gets the tag [`crate::DAMAGED`]; one that has it and
    /// verifies loses it. A store that is open for reading is verified and not marked.
    ///
    /// `progress` is called after each MiB. It may sleep, to leave the disk to others, and stops the scrub with `Cancelled` by returning
    /// `false`; marks that were set until then stay. Snapshots that are taken or deleted meanwhile are left out.
    pub fn scrub(&self, progress: &mut dyn FnMut(Progress) -> bool) -> Result<ScrubReport> {
        audit::scrub(self.root.enter()?, progress)
    }
    /// Returns what the store contains, and what it has done since it was opened. O(1).
    pub fn counters(&self) -> Result<Counters> {
        counters(self.root.enter()?)
    }
    /// Returns the space of one volume or snapshot. It walks the nodes of that tree alone, reads no data, and keeps one path of nodes in
    /// memory. While the volume is written the result is of no single point in time; no writer waits for it.
    pub fn usage<'a>(&self, disk: impl Into<DiskRef<'a>>) -> Result<Usage> {
        audit::usage(self.root.enter()?, self.target(disk.into())?)
    }
    /// The volume or snapshot that is meant. `Invalid` for a handle of another store.
    pub(crate) fn target(&self, disk: DiskRef<'_>) -> Result<Target> {
        Ok(match disk.0 {
            Of::Volume(volume) => Target::Volume(self.root.own(&volume.handle)?),
            Of::VolumeId(id) => Target::Volume(id.0),
            Of::Snapshot(snapshot) => Target::Snapshot(self.root.own(&snapshot.handle)?),
            Of::SnapshotId(id) => Target::Snapshot(id.0),
        })
    }
    /// [`Store::usage`] of all volumes and snapshots, one after the other: walks all trees. One that is created or deleted meanwhile is in it
    /// or not.
    pub fn usage_all(&self) -> Result<UsageReport> {
        audit::usage_all(self.root.enter()?)
    }
    /// Returns the ranges in which `to` differs from `from`, in order. Either may be a volume or a snapshot, of the same history or of
    /// different ones; from [`DiffBase::NOTHING`] all data of `to` differs. `Invalid` for a handle of another store.
    ///
    /// ```
    /// use snapdisk::{DiffBase, DiffKind, Options};
    ///
    /// # fn main() -> snapdisk::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// let store = Options::new().create(dir.path().join("disks.img"))?;
    /// let disk = store.create_volume("root", 1 << 30)?;
    /// disk.write_at(&[1; 8192], 0)?;
    /// let before = disk.snapshot("before")?;
    /// disk.write_at(&[2; 4096], 0)?;
    /// disk.discard(4096, 4096)?;
    /// let ranges = store.diff(&before, &disk)?.collect::<snapdisk::Result<Vec<_>>>()?;
    /// assert_eq!((ranges[0].offset, ranges[0].len, ranges[0].kind), (0, 4096, DiffKind::Data));
    /// assert_eq!((ranges[1].offset, ranges[1].len, ranges[1].kind), (4096, 4096, DiffKind::Zero));
    /// assert_eq!(store.diff(DiffBase::NOTHING, &disk)?.count(), 1);
    /// store.close()
    /// # }
    /// ```
    ///
    /// # What differs
    ///
    /// A block of 4096 bytes differs if it was written or discarded since the two had it in common, even if the bytes are what they were
    /// before; so every block differs that two disks without a common history have data for. Blocks that the two still share, and holes of
    /// both, never do. Whoever takes over the ranges of `Data` from `to`, and zeroes those of `Zero`, makes the content of `from`, cut or
    /// extended by zeros to the size of `to`, that of `to`. What lies past the end of `from` counts as zeros; what lies past the end of `to`
    /// is not reported. Ranges are not empty and do not overlap, those next to each other are of different kinds, and all but the last end
    /// at a multiple of 4096.
    ///
    /// # What a step sees, and costs
    ///
    /// A lookup sees both disks at one moment. It reads no data, compares about a thousand parts of nodes at most, and passes over a subtree
    /// that the two share without reading it: in all as many nodes are read as differ, and the ways down to them. A range is returned once it
    /// is known where it ends, which may take several lookups. Between two lookups nothing is held. So the difference of two snapshots is
    /// exact; where one of the two is a volume that changes meanwhile, each part of a range was true at the moment of its lookup, and changes
    /// behind that place are not seen. A volume that shrinks ends the list where it ends itself, and one that grows extends it. If one of
    /// the two is deleted, the next lookup answers `Deleted`. After an error there are no more ranges, until [`Diff::seek`] begins again.
    pub fn diff<'a, 'b>(&self, from: impl Into<DiffBase<'a>>, to: impl Into<DiskRef<'b>>) -> Result<Diff> {
        let from = from.into().0.map(|from| self.target(from)).transpose()?;
        Ok(Diff::new(self.root.clone(), from, self.target(to.into())?))
    }
    /// Runs one bounded step of background work: a checkpoint that is due, then up to `budget` nodes of reclaim. Returns whether there is
    /// more. With manual maintenance nothing else runs it.
    pub fn maintain(&self, budget: usize) -> Result<bool> {
        self.root.enter_to_write()?.maintain(budget)
    }
    /// Runs a checkpoint: writes what the log says to its home and releases the log.
    pub fn checkpoint(&self) -> Result<()> {
        let engine = self.root.enter()?;
        let _delivery = engine.delivery();
        drop(engine.view()?);
        engine.checkpoint()
    }
    /// Returns how many subtrees and deleted volumes wait for reclaim. O(1).
    pub fn reclaim_pending(&self) -> Result<u64> {
        let state = self.root.enter()?.view()?;
        Ok(state.doomed + state.sweeping.len() as u64)
    }
    /// Waits until everything deleted is reclaimed and its space is free.
    pub fn wait_reclaimed(&self) -> Result<()> {
        let engine = self.root.enter()?;
        drop(engine.view()?);
        engine.wait_reclaimed()
    }
    /// Makes durable every operation that returned before this call.
    pub fn flush(&self) -> Result<()> {
        self.root.enter()?.flush()
    }
    /// Writes, without a sync, the empty group that proves the last flush, as maintenance in the background does when idle.
    pub fn mark(&self) -> Result<()> {
        self.root.enter()?.mark()
    }
    /// Flushes, writes a last checkpoint and closes: every other handle answers `Closed` from then on. Dropping a store reports no errors;
    /// this does.
    pub fn close(self) -> Result<()> {
        self.root.enter()?.close()
    }
    /// Returns the last failure of background work that did not poison the store, such as a node that reclaim could not read. The work is
    /// tried again after the next checkpoint or, where bytes do not verify, at the next opening. O(1).
    pub fn background_error(&self) -> Option<Error> {
        self.root.fact(|engine| engine.background.lock().clone())
    }
    /// Returns whether the store was opened for reading.
    pub fn is_read_only(&self) -> bool {
        !self.root.fact(|engine| engine.disk.is_writable())
    }
    /// Returns whether recovery could read past the host's cache. If not (on some network and FUSE filesystems), an opening after a failed
    /// sync may take data for durable that is not.
    pub fn has_cold_reads(&self) -> bool {
        self.root.fact(|engine| engine.disk.has_cold_reads())
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("read_only", &self.is_read_only()).finish_non_exhaustive()
    }
}

/// A snapshot, as an operation of an [`Update`] names it: by its handle or, if an earlier operation of the same update makes it, by its id. A
/// handle of another store is refused; an id is taken to be of this store.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotRef<'a>(By<'a>);

#[derive(Clone, Copy, Debug)]
enum By<'a> {
    Id(SnapshotId),
    Handle(&'a Snapshot),
}

impl From<SnapshotId> for SnapshotRef<'_> {
    fn from(id: SnapshotId) -> Self {
        SnapshotRef(By::Id(id))
    }
}

impl<'a> From<&'a Snapshot> for SnapshotRef<'a> {
    fn from(snapshot: &'a Snapshot) -> Self {
        SnapshotRef(By::Handle(snapshot))
    }
}

/// A volume or snapshot, as [`Store::usage`] takes it: by its handle or its id. A handle of another store is refused; an id is taken to be of
/// this store.
#[derive(Clone, Copy, Debug)]
pub struct DiskRef<'a>(Of<'a>);

#[derive(Clone, Copy, Debug)]
enum Of<'a> {
    Volume(&'a Volume),
    VolumeId(VolumeId),
    Snapshot(&'a Snapshot),
    SnapshotId(SnapshotId),
}

impl<'a> From<&'a Volume> for DiskRef<'a> {
    fn from(volume: &'a Volume) -> Self {
        DiskRef(Of::Volume(volume))
    }
}

impl<'a> From<&'a Snapshot> for DiskRef<'a> {
    fn from(snapshot: &'a Snapshot) -> Self {
        DiskRef(Of::Snapshot(snapshot))
    }
}

impl From<VolumeId> for DiskRef<'_> {
    fn from(id: VolumeId) -> Self {
        DiskRef(Of::VolumeId(id))
    }
}

impl From<SnapshotId> for DiskRef<'_> {
    fn from(id: SnapshotId) -> Self {
        DiskRef(Of::SnapshotId(id))
    }
}

/// What [`Store::diff`] compares with: a volume or snapshot, as a [`DiskRef`] names it, or nothing.
#[derive(Clone, Copy, Debug)]
pub struct DiffBase<'a>(Option<DiskRef<'a>>);

impl DiffBase<'_> {
    /// A disk without data: everything that the other one has is a difference.
    pub const NOTHING: DiffBase<'static> = DiffBase(None);
}

impl<'a, D: Into<DiskRef<'a>>> From<D> for DiffBase<'a> {
    fn from(disk: D) -> Self {
        DiffBase(Some(disk.into()))
    }
}

/// Operations that become one record: see [`Store::update`].
pub struct Update<'a> {
    store: &'a Store,
    asked: Vec<Ask>,
    /// What the update may do to attached volumes.
    authority: Authority,
    /// The error for the first handle of another store that an operation was given.
    refused: Option<Error>,
}

impl Update<'_> {
    fn ask(&mut self, ask: Ask) {
        self.asked.push(ask);
    }
    /// Adds an operation on a volume of this store. A handle of another store has the whole update refused.
    fn ask_on(&mut self, volume: &Volume, ask: impl FnOnce(u64) -> Ask) {
        match self.store.root.own(&volume.handle) {
            Ok(volume) => self.asked.push(ask(volume)),
            Err(e) => self.refuse(&e),
        }
    }
    /// [`Update::ask_on`] with a snapshot.
    fn ask_of(&mut self, snapshot: SnapshotRef<'_>, ask: impl FnOnce(u64) -> Ask) {
        match self.number(snapshot) {
            Ok(snapshot) => self.asked.push(ask(snapshot)),
            Err(e) => self.refuse(&e),
        }
    }
    fn number(&self, snapshot: SnapshotRef<'_>) -> Result<u64> {
        match snapshot.0 {
            By::Id(id) => Ok(id.0),
            By::Handle(snapshot) => self.store.root.own(&snapshot.handle),
        }
    }
    fn refuse(&mut self, e: &Error) {
        self.refused.get_or_insert_with(|| e.clone());
    }
    /// Carries out the operations of this update on `volume` even while it is attached, as [`Volume::forced`] does.
    pub fn force(&mut self, volume: &Volume) {
        match self.store.root.own(&volume.handle) {
            Ok(volume) => self.authority.forced.push(volume),
            Err(e) => self.refuse(&e),
        }
    }
    /// Carries out the operations of this update on an attached volume as its holder.
    pub fn hold(&mut self, attached: &AttachedVolume) {
        match self.store.root.own(&attached.volume().handle) {
            Ok(_) => self.authority.held.push(attached.lease().clone()),
            Err(e) => self.refuse(&e),
        }
    }
    /// As [`Store::create_volume_with`].
    pub fn create_volume(&mut self, name: &str, bytes: u64, tags: BTreeMap<String, String>) -> Result<Volume> {
        let id = self.store.root.enter_to_write()?.draw_volume()?;
        self.ask(Ask::create_volume(id, name, bytes, tags));
        Ok(self.store.volume_handle(id))
    }
    /// As [`Store::snapshot_with`]; returns the new snapshot's id.
    pub fn snapshot(&mut self, volume: &Volume, name: &str, tags: BTreeMap<String, String>) -> Result<SnapshotId> {
        let root = &self.store.root;
        let id = root.own(&volume.handle).and_then(|volume| Ok((volume, root.enter_to_write()?.draw_snapshots(1)?)));
        let (volume, id) = id.inspect_err(|e| self.refuse(e))?;
        let members = vec![(volume, id, name.to_owned())];
        self.ask(Ask::snapshot(members, tags));
        Ok(SnapshotId(id))
    }
    /// As [`Volume::rollback`].
    pub fn rollback<'s>(&mut self, volume: &Volume, snapshot: impl Into<SnapshotRef<'s>>) {
        match self.number(snapshot.into()) {
            Ok(snapshot) => self.ask_on(volume, |volume| Ask::rollback(volume, snapshot, false)),
            Err(e) => self.refuse(&e),
        }
    }
    /// As [`Store::clone_volume_with`].
    pub fn clone_volume<'s>(
        &mut self,
        snapshot: impl Into<SnapshotRef<'s>>,
        name: &str,
        tags: BTreeMap<String, String>,
    ) -> Result<Volume> {
        let snapshot = self.number(snapshot.into()).inspect_err(|e| self.refuse(e))?;
        let id = self.store.root.enter_to_write()?.draw_volume()?;
        self.ask(Ask::clone_volume(snapshot, id, name, tags));
        Ok(self.store.volume_handle(id))
    }
    /// As [`Store::delete_volume`].
    pub fn delete_volume(&mut self, volume: &Volume, snapshots: DeleteSnapshots) {
        self.ask_on(volume, |volume| Ask::delete_volume(volume, snapshots.mode()));
    }
    /// As [`Store::delete_snapshot`].
    pub fn delete_snapshot<'s>(&mut self, snapshot: impl Into<SnapshotRef<'s>>) {
        self.ask_of(snapshot.into(), Ask::delete_snapshot);
    }
    /// As [`Store::rename`].
    pub fn rename(&mut self, volume: &Volume, name: &str) {
        self.ask_on(volume, |volume| Ask::rename_volume(volume, name));
    }
    /// As [`Store::rename_snapshot`].
    pub fn rename_snapshot<'s>(&mut self, snapshot: impl Into<SnapshotRef<'s>>, name: &str) {
        self.ask_of(snapshot.into(), |snapshot| Ask::rename_snapshot(snapshot, name));
    }
    /// As [`Volume::resize`].
    pub fn resize(&mut self, volume: &Volume, bytes: u64) {
        self.ask_on(volume, |volume| Ask::resize(volume, bytes));
    }
    /// Replaces a volume's tags.
    pub fn set_volume_tags(&mut self, volume: &Volume, tags: BTreeMap<String, String>) {
        self.ask_on(volume, |id| Ask::set_volume_tags(id, tags));
    }
    /// Replaces a snapshot's tags.
    pub fn set_snapshot_tags<'s>(&mut self, snapshot: impl Into<SnapshotRef<'s>>, tags: BTreeMap<String, String>) {
        self.ask_of(snapshot.into(), |id| Ask::set_snapshot_tags(id, tags));
    }
}
