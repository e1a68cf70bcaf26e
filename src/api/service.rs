//! The service: a store, the directory of tenants, an index of the catalog, and what is in progress.

use super::{
    code::{Fault, RetCode},
    disks::attachment,
    index::{Disk, Index, Snap, SnapState, Used, Work, gib},
    record::{DiskRecord, SnapRecord},
    tenant::Directory,
};
use crate::{
    AttachedVolume, Progress, Result, ScrubReport, Snapshot, Store, Volume,
    io::{Host, SystemHost},
};
use parking_lot::{Mutex, RwLock, RwLockWriteGuard};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{SystemTime, UNIX_EPOCH},
};

/// The snapshot API over a store. Cheap to clone; may be used from any thread at once.
#[derive(Clone)]
pub struct SnapshotService {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) store: Store,
    host: Arc<dyn Host>,
    directory: RwLock<Arc<Directory>>,
    pub(super) index: RwLock<Index>,
    pub(super) visited: AtomicU64,
    /// The last failure of a schedule.
    pub(super) schedule_fault: Mutex<Option<String>>,
}

/// Figures of a service.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct ServiceStats {
    /// Disks that it shows.
    pub disks: u64,
    /// Snapshots that it shows.
    pub snapshots: u64,
    /// Of these, those that are being taken.
    pub createing: u64,
    /// Those to which a disk is being rolled back.
    pub roll_backing: u64,
    /// Those that are damaged.
    pub failure: u64,
    /// Deleted snapshots that are remembered until their space is reclaimed.
    pub released: u64,
    /// Index entries that lists looked at, since the service was made.
    pub visited: u64,
}

/// What has to be undone when a call ends, however it ends.
pub(super) enum Undo {
    /// The disk is no longer worked on.
    Disk(u64),
    /// A snapshot that is still being taken does not exist.
    Create(u64),
    /// The snapshot is no longer rolled back to.
    RollBack(u64),
    /// A snapshot that is still being deleted stays.
    Leave(u64),
    /// One disk fewer is being made from the snapshot.
    Copy(u64),
    /// Quota that was taken: company, disks, GiB.
    Charge(i64, i64, i64),
}

/// A call's claims on the index. Dropped with no lock of the index held.
pub(super) struct Claims<'a> {
    inner: &'a Inner,
    pub(super) undo: Vec<Undo>,
}

impl ServiceStats {
    /// Snapshots by state, with the names that the API has for them.
    pub fn by_state(&self) -> [(&'static str, u64); 5] {
        let normal = self.snapshots.saturating_sub(self.createing + self.roll_backing + self.failure);
        [
            ("Createing", self.createing),
            ("Normal", normal),
            ("RollBacking", self.roll_backing),
            ("Failure", self.failure),
            ("Released", self.released),
        ]
    }
}

impl Drop for Claims<'_> {
    fn drop(&mut self) {
        let mut index = self.inner.index.write();
        for undo in self.undo.drain(..) {
            match undo {
                Undo::Disk(key) => {
                    if let Some(disk) = index.disk_mut(key) {
                        disk.work = None;
                    }
                }
                Undo::Create(key) => {
                    if index.snap(key).is_some_and(|s| s.state == SnapState::Createing) {
                        index.remove_snap(key);
                    }
                }
                Undo::RollBack(key) => settle(&mut index, key),
                Undo::Leave(key) => {
                    if index.snap(key).is_some() {
                        settle(&mut index, key);
                        index.hide(key, false);
                    }
                }
                Undo::Copy(key) => {
                    if let Some(snap) = index.snap_mut(key) {
                        snap.copies -= 1;
                    }
                }
                Undo::Charge(company, disks, gib) => index.charge(company, -disks, -gib),
            }
        }
    }
}

/// The state of a snapshot to which nothing is done.
pub(super) fn settle(index: &mut Index, key: u64) {
    if let Some(snap) = index.snap_mut(key) {
        snap.state = if snap.record.damaged { SnapState::Failure } else { SnapState::Normal };
    }
}

pub(super) fn seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64)
}

impl SnapshotService {
    /// Makes a service over `store` for the tenants of `directory`. It reads the whole catalog once.
    pub fn new(store: Store, directory: Directory) -> Result<SnapshotService> {
        SnapshotService::with_host(store, directory, Arc::new(SystemHost))
    }
    /// [`SnapshotService::new`] with another source of time and of the random part of ids.
    pub fn with_host(store: Store, directory: Directory, host: Arc<dyn Host>) -> Result<SnapshotService> {
        let index = RwLock::new(load(&store)?);
        let directory = RwLock::new(Arc::new(directory));
        Ok(SnapshotService {
            inner: Arc::new(Inner {
                store,
                host,
                directory,
                index,
                visited: AtomicU64::new(0),
                schedule_fault: Mutex::default(),
            }),
        })
    }
    /// The store.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }
    /// Regions and tenants.
    pub fn directory(&self) -> Arc<Directory> {
        self.inner.directory.read().clone()
    }
    /// Replaces regions and tenants. Calls that have begun end with the old ones.
    pub fn set_directory(&self, directory: Directory) {
        *self.inner.directory.write() = Arc::new(directory);
    }
    /// Says whether a VM runs. A VM of which nothing was said counts as running: a disk that is bound to it can't be rolled back.
    pub fn set_vm_running(&self, resource_id: &str, running: bool) {
        let mut index = self.inner.index.write();
        if running {
            index.stopped.remove(resource_id);
        } else {
            index.stopped.insert(resource_id.to_owned());
        }
    }
    /// The volume behind a disk's id, for reading and writing its content.
    pub fn volume(&self, disk_id: &str) -> Result<Volume> {
        self.inner.store.volume(disk_id)
    }
    /// Returns the attachment of a disk that AttachDisk has bound, for the process that serves the disk to its VM. While the disk is bound,
    /// the service holds its volume, so that nothing else in this process changes it except by force. RollbackSnapshot of a disk whose VM is
    /// shut down is such a change: the VM's next requests through the attachment answer `Stale` until [`AttachedVolume::acknowledge`]. `None`
    /// if the disk is not bound, or the embedder had attached the volume before.
    pub fn attached(&self, disk_id: &str) -> Option<Arc<AttachedVolume>> {
        let index = self.inner.index.read();
        index.disk(index.disk_key(disk_id)?)?.attached.clone()
    }
    /// Returns the service's figures.
    pub fn stats(&self) -> ServiceStats {
        self.forget_reclaimed();
        let index = self.inner.index.read();
        let mut out = ServiceStats { visited: self.inner.visited.load(Relaxed), ..ServiceStats::default() };
        for disk in index.disks() {
            out.disks += 1;
            out.snapshots += disk.snapshots.keys().len() as u64;
        }
        for state in index.snap_states() {
            match state {
                SnapState::Createing => out.createing += 1,
                SnapState::RollBacking => out.roll_backing += 1,
                SnapState::Failure => out.failure += 1,
                SnapState::Normal | SnapState::Leaving => {}
            }
        }
        out.released = index.released_keys().len() as u64;
        out
    }
    /// Adopts a volume that was made by other means as a disk of `company`'s default project. The volume's name is the disk's id.
    pub fn adopt(&self, volume: &Volume, region: &str, company: i64, name: &str) -> std::result::Result<(), Fault> {
        super::validate::required(&[("Region", region), ("Name", name)])?;
        super::validate::name(name)?;
        let directory = self.directory();
        let caller = super::Caller::admin();
        directory.scope(&caller, region, Some(company))?;
        let project = directory.project(&caller, company, None)?;
        let (key, id, rest) = (volume.id().0, volume.name()?, volume.tags()?);
        let bytes = volume.size()?;
        let record = {
            let mut index = self.inner.index.write();
            if index.disk(key).is_some() {
                return Err(Fault::new(RetCode::DiskState, format!("{id:?} is a disk already")));
            }
            DiskRecord {
                id: id.as_str().into(),
                region: index.intern(region),
                company,
                project: index.intern(&project),
                member: 0,
                name: name.to_owned(),
                remark: String::new(),
                kind: super::DiskType::Data,
                set_type: String::new(),
                charge_type: String::new(),
                bound: None,
                rest,
            }
        };
        volume.set_tags(record.tags())?;
        let created = seconds(volume.created()?);
        let mut index = self.inner.index.write();
        index.charge(company, 1, gib(bytes) as i64);
        let (attached, snapshots) = (None, Default::default());
        index.add_disk(Disk { record, key, bytes, created, work: None, attached, snapshots, manual: 0 });
        Ok(())
    }

    /// [`Store::scrub`], after which damaged snapshots are shown as `Failure`.
    pub fn scrub(&self, progress: &mut dyn FnMut(Progress) -> bool) -> Result<ScrubReport> {
        let report = self.inner.store.scrub(progress)?;
        let damaged = report.damaged.iter().map(|d| (d.snapshot, true));
        let healed = report.healed.iter().map(|&id| (id, false));
        let mut index = self.inner.index.write();
        for (id, damaged) in damaged.chain(healed) {
            let Some(snap) = index.snap_mut(id.0) else { continue };
            snap.record.damaged = damaged;
            // Snapshots on which a call is at work are settled when that ends.
            if matches!(snap.state, SnapState::Normal | SnapState::Failure) {
                settle(&mut index, id.0);
            }
        }
        Ok(report)
    }

    pub(super) fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.inner.index.write()
    }
    pub(super) fn claims(&self, undo: Vec<Undo>) -> Claims<'_> {
        Claims { inner: &self.inner, undo }
    }
    /// Unix seconds.
    pub(super) fn now(&self) -> i64 {
        (self.inner.host.now() / 1_000_000_000) as i64
    }
    /// Makes an id that was never used: 14 random base-36 characters, some 72 bits.
    pub(super) fn fresh_id(&self, prefix: &str) -> String {
        const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
        let host = &self.inner.host;
        let mut random = u128::from(host.random()) << 64 | u128::from(host.random());
        let mut id = prefix.to_owned();
        for _ in 0..14 {
            id.push(DIGITS[(random % 36) as usize].into());
            random /= 36;
        }
        id
    }
    /// Forgets the deleted snapshots whose space was reclaimed.
    pub(super) fn forget_reclaimed(&self) {
        let released = {
            let index = self.inner.index.read();
            if !index.has_released() {
                return;
            }
            index.released_keys()
        };
        // They were deleted before this question, so that nothing pending means none of theirs.
        if self.inner.store.reclaim_pending().is_ok_and(|n| n == 0) {
            self.inner.index.write().forget_released(&released);
        }
    }
}

impl std::fmt::Debug for SnapshotService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotService").field("store", &self.inner.store).finish_non_exhaustive()
    }
}

/// Checks that nothing is being done to the disk.
pub(super) fn idle(disk: &Disk) -> std::result::Result<(), Fault> {
    let doing = match disk.work {
        None => return Ok(()),
        Some(Work::Snapshoting) => "Snapshoting",
        Some(Work::Rollbacking) => "Rollbacking",
        Some(Work::BeingCloned) => "BeingCloned",
        Some(Work::Upgrading) => "Upgrading",
        Some(Work::Deleting) => "Deleting",
        Some(Work::Binding) => "being bound or unbound",
    };
    Err(Fault::new(
        RetCode::DiskState,
        format!("DiskID: {:?} is {doing}; it must be Unbound or Bound", &*disk.record.id),
    ))
}

/// Returns whether a company may use so much more.
pub(super) fn quota(limits: &super::Limits, used: Used, disks: u64, gib: u64) -> std::result::Result<(), Fault> {
    for (what, limit, used, more) in [("disks", limits.disks, used.disks, disks), ("GiB", limits.gib, used.gib, gib)] {
        if let Some(limit) = limit.filter(|&limit| used.saturating_add(more) > limit) {
            // The message does not say how much is in use: the caller may not see all of it.
            let message = format!("the company's quota of {limit} {what} does not allow {more} more");
            return Err(Fault::new(RetCode::Quota, message));
        }
    }
    Ok(())
}

fn load(store: &Store) -> Result<Index> {
    let mut index = Index::default();
    for volume in store.volumes()? {
        let tags = volume.tags()?;
        let name = volume.name()?;
        if let Some(record) = DiskRecord::read(&name, tags, &mut |t| index.intern(t)) {
            let (bytes, created) = (volume.size()?, seconds(volume.created()?));
            index.charge(record.company, 1, gib(bytes) as i64);
            let key = volume.id().0;
            let (attached, snapshots) = (attachment(&volume, &record)?, Default::default());
            index.add_disk(Disk { record, key, bytes, created, work: None, attached, snapshots, manual: 0 });
        }
    }
    for snapshot in store.snapshots()? {
        let Some(disk_kind) = index.disk(snapshot.volume().0).map(|d| d.record.kind) else { continue };
        let (name, tags) = (snapshot.name()?, snapshot.tags()?);
        if let Some(record) = SnapRecord::read(&name, tags, &mut |t| index.intern(t)) {
            index.add_snap(entry(&snapshot, record, disk_kind));
        }
    }
    Ok(index)
}

/// Returns the index's entry of a snapshot that exists.
pub(super) fn entry(snapshot: &Snapshot, record: SnapRecord, disk_kind: super::DiskType) -> Snap {
    Snap {
        state: if record.damaged { SnapState::Failure } else { SnapState::Normal },
        record,
        key: snapshot.id().0,
        volume: snapshot.volume().0,
        disk_kind,
        bytes: snapshot.size(),
        created: seconds(snapshot.created()),
        copies: 0,
    }
}
