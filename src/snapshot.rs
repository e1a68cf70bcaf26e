//! Snapshots: a frozen volume, readable while it exists.

use crate::{
    Result, SnapshotId, VolumeId,
    engine::{Ask, SnapshotRecord},
    handle::{Handle, Root},
    read_disk::{Extents, MapExtent, PREFERRED, ReadDisk, extents_page},
    terms::{Durability, NewOptions},
    units::time,
};
use std::{collections::BTreeMap, fmt, io::IoSliceMut, ops::Range, time::SystemTime};

/// A handle to a snapshot. Cheap to clone; may be used from any thread. Once the snapshot is deleted everything that reads answers
/// `Deleted`.
#[derive(Clone)]
pub struct Snapshot {
    pub(crate) handle: Handle<SnapshotId>,
    pub(crate) volume: VolumeId,
    pub(crate) created: u64,
    pub(crate) size: u64,
}

impl Snapshot {
    /// The handle of a snapshot whose record is known.
    pub(crate) fn of(root: &Root, id: u64, record: &SnapshotRecord) -> Snapshot {
        let (volume, created, size) = (VolumeId(record.volume), record.created, record.size);
        Snapshot { handle: root.handle(id), volume, created, size }
    }
    /// The handle of a snapshot by its id; `Deleted` if there is none.
    pub(crate) fn open(root: &Root, id: u64) -> Result<Snapshot> {
        let record = root.enter()?.snapshot_record(id)?;
        Ok(Snapshot::of(root, id, &record))
    }
    /// Takes snapshots of volumes of this store, each with its name, as one operation.
    pub(crate) fn take(root: &Root, members: Vec<(u64, &str)>, o: NewOptions) -> Result<Vec<Snapshot>> {
        let engine = root.enter_to_write()?;
        let first = engine.draw_snapshots(members.len())?;
        let members = members.into_iter().zip(first..).map(|((volume, name), id)| (volume, id, name.to_owned()));
        let ask = Ask::snapshot(members.collect(), o.tags);
        let made = engine.commit(&[ask], o.durability == Durability::Immediate)?;
        // Nothing is looked up any more: the snapshots exist, and an error would say that they do not.
        let handle = |&(volume, id, size): &(u64, u64, u64)| Snapshot {
            handle: root.handle(id),
            volume: VolumeId(volume),
            created: made.created,
            size,
        };
        Ok(made.snapshots.iter().map(handle).collect())
    }

    fn record(&self) -> Result<SnapshotRecord> {
        let this = self.handle.enter()?;
        this.engine.snapshot_record(this.number)
    }
    /// Its id.
    pub fn id(&self) -> SnapshotId {
        self.handle.name()
    }
    /// Its name.
    pub fn name(&self) -> Result<String> {
        Ok(self.record()?.name)
    }
    /// The volume that it was taken of, which may be gone.
    pub fn volume(&self) -> VolumeId {
        self.volume
    }
    /// When it was taken, by the host's clock.
    pub fn created(&self) -> SystemTime {
        time(self.created)
    }
    /// The snapshot that the volume's content was derived from when this one was taken; `None` if there was none or it is gone.
    pub fn parent(&self) -> Result<Option<SnapshotId>> {
        let Some(parent) = self.record()?.parent else { return Ok(None) };
        Ok(self.handle.enter()?.engine.existing_snapshot(parent)?.map(|_| SnapshotId(parent)))
    }
    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
    /// Its tags.
    pub fn tags(&self) -> Result<BTreeMap<String, String>> {
        let this = self.handle.enter()?;
        this.engine.tags(this.target)
    }
    /// Fills `buf` from `offset` (bytes). `OutOfRange` past the end, `Corrupt` where a block does not verify.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let this = self.handle.enter()?;
        this.engine.read(this.target, self.handle.view(this), buf, offset)
    }
    /// [`Snapshot::read_at`] into several buffers, one after the other.
    pub fn read_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> Result<()> {
        let this = self.handle.enter()?;
        this.engine.read_vectored(this.target, self.handle.view(this), bufs, offset)
    }
    /// Replaces its tags; the content of a snapshot never changes. Durable when it returns.
    pub fn set_tags(&self, tags: BTreeMap<String, String>) -> Result<()> {
        let this = self.handle.enter()?;
        this.engine.commit(&[Ask::set_snapshot_tags(this.number, tags)], true).map(drop)
    }
    /// The length, and alignment, in bytes that reads are best made in where there is a choice, as of [`crate::Volume::preferred_io_size`].
    pub fn preferred_io_size(&self) -> u64 {
        PREFERRED
    }
    /// The parts of a byte range that hold data and those that do not, in order and without gaps: [`ReadDisk::extents`].
    pub fn extents(&self, range: Range<u64>) -> Extents<'_> {
        ReadDisk::extents(self, range)
    }
    /// Up to `limit` of the parts of a byte range, from its start on: [`ReadDisk::extents_page`].
    pub fn extents_page(&self, range: Range<u64>, limit: usize) -> Result<Vec<MapExtent>> {
        extents_page(self.handle.enter()?, range, limit)
    }
}

impl ReadDisk for Snapshot {
    /// `Deleted` once the snapshot is, unlike [`Snapshot::size`], which needs no store.
    fn size(&self) -> Result<u64> {
        let this = self.handle.enter()?;
        this.engine.size(this.target)
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        Snapshot::read_at(self, buf, offset)
    }
    fn extents_page(&self, range: Range<u64>, limit: usize) -> Result<Vec<MapExtent>> {
        Snapshot::extents_page(self, range, limit)
    }
    fn read_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> Result<()> {
        Snapshot::read_vectored_at(self, bufs, offset)
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("id", &self.id().0).field("volume", &self.volume.0).finish_non_exhaustive()
    }
}
