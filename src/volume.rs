//! Volumes: a writable virtual disk, byte-addressed.

use crate::{
    Error, ErrorKind, Result, Snapshot, SnapshotId, VolumeId,
    counters::VolumeCounters,
    engine::{Ask, Bytes, IoKind, Meter},
    handle::{Entered, Handle},
    read_disk::{Extents, MapExtent, PREFERRED, ReadDisk, extents_page},
    terms::NewOptions,
    units::{BLOCK_BYTES, time},
};
use std::{
    collections::BTreeMap,
    fmt,
    io::{IoSlice, IoSliceMut},
    ops::Range,
    sync::{Arc, OnceLock},
    time::SystemTime,
};

/// A handle to a volume. Cheap to clone; all methods take `&self` and may be called from any thread at once.
///
/// Offsets and lengths are bytes at any alignment; whole 4 KiB blocks are the fast path. A range past the end is `OutOfRange` and touches
/// nothing. A write of up to [`crate::ATOMIC_WRITE_MAX`] bytes appears whole or not at all after a crash; a longer one is cut at
/// 1 MiB borders, lowest first. What returned is durable after the next `flush` of any handle.
#[derive(Clone)]
pub struct Volume {
    pub(crate) handle: Handle<VolumeId>,
    /// Kept from the first request on.
    meter: OnceLock<Arc<Meter>>,
}

impl Volume {
    pub(crate) fn new(handle: Handle<VolumeId>) -> Volume {
        Volume { handle, meter: OnceLock::new() }
    }
    /// Counts a request that was carried out.
    pub(crate) fn count(&self, this: Entered<'_>, kind: IoKind, bytes: u64) {
        self.meter.get_or_init(|| this.engine.meters.of(this.number)).count(kind, bytes);
    }
    fn record(&self) -> Result<crate::engine::VolumeRecord> {
        let this = self.handle.enter()?;
        this.engine.volume_record(this.number)
    }
    /// Its id.
    pub fn id(&self) -> VolumeId {
        self.handle.name()
    }
    /// Its name.
    pub fn name(&self) -> Result<String> {
        Ok(self.record()?.name)
    }
    /// Bytes.
    pub fn size(&self) -> Result<u64> {
        let this = self.handle.enter()?;
        this.engine.size(this.target)
    }
    /// Its tags.
    pub fn tags(&self) -> Result<BTreeMap<String, String>> {
        let this = self.handle.enter()?;
        this.engine.tags(this.target)
    }
    /// Replaces its tags. Durable when it returns.
    pub fn set_tags(&self, tags: BTreeMap<String, String>) -> Result<()> {
        let this = self.handle.enter()?;
        this.engine.commit(&[Ask::set_volume_tags(this.number, tags)], true).map(drop)
    }
    /// When it was made, by the host's clock.
    pub fn created(&self) -> Result<SystemTime> {
        Ok(time(self.record()?.created))
    }
    /// The snapshot that its content was last taken as, cloned from or rolled back to; `None` if there is none or it is gone.
    pub fn parent(&self) -> Result<Option<SnapshotId>> {
        let Some(parent) = self.record()?.parent else { return Ok(None) };
        Ok(self.handle.enter()?.engine.existing_snapshot(parent)?.map(|_| SnapshotId(parent)))
    }

    /// Fills `buf` from `offset`. `Corrupt` where a block does not verify: never other bytes.
    ///
    /// A read of up to [`crate::ATOMIC_WRITE_MAX`] bytes is of one point in time, at any alignment. Of a write that runs meanwhile it sees
    /// each unit whole or not at all: all of a write of up to 1 MiB, or what a longer one has between two multiples of 1 MiB. The same holds
    /// for a discard, a resize, a rollback, and an update of several operations. A longer read is cut at multiples of 1 MiB, lowest
    /// first. Each of its parts is of one point in time, and none is of an earlier one than the part before it.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let this = self.handle.enter()?;
        this.engine.read(this.target, self.handle.view(this), buf, offset)?;
        self.count(this, IoKind::Read, buf.len() as u64);
        Ok(())
    }
    /// [`Volume::read_at`] into several buffers, one after the other, as one read: how they cut the range makes no difference to what it
    /// sees.
    pub fn read_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> Result<()> {
        let this = self.handle.enter()?;
        this.engine.read_vectored(this.target, self.handle.view(this), bufs, offset)?;
        self.count(this, IoKind::Read, bufs.iter().map(|b| b.len() as u64).sum());
        Ok(())
    }
    /// Writes `buf` at `offset`. An error of a write longer than 1 MiB speaks of the first unit that failed: the units before it were
    /// applied.
    pub fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.write(Bytes::One(buf), offset)
    }
    fn write(&self, bytes: Bytes<'_>, offset: u64) -> Result<()> {
        let this = self.handle.enter()?;
        this.engine.write(this.number, bytes, offset)?;
        self.count(this, IoKind::Write, bytes.len());
        Ok(())
    }
    /// [`Volume::write_at`], durable when it returns.
    pub fn write_fua_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.write_at(buf, offset)?;
        self.handle.enter()?.engine.flush_applied()
    }
    /// [`Volume::write_at`] from several buffers, as one write.
    pub fn write_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> Result<()> {
        self.write(Bytes::Many(bufs), offset)
    }
    /// Makes a range read as zeros and gives its space back. One unit, whatever its length; a few nodes of work.
    pub fn discard(&self, offset: u64, len: u64) -> Result<()> {
        let this = self.handle.enter()?;
        this.engine.cut(this.number, offset, len)?;
        self.count(this, IoKind::Discard, len);
        Ok(())
    }
    /// The same as [`Volume::discard`]: zeros need no space here.
    pub fn write_zeroes(&self, offset: u64, len: u64) -> Result<()> {
        self.discard(offset, len)
    }
    /// What was asked of the volume, by any handle, since the image was opened. O(1).
    pub fn counters(&self) -> Result<VolumeCounters> {
        let this = self.handle.enter()?;
        this.engine.size(this.target)?;
        Ok(this.engine.meters.sum(this.number).into())
    }
    /// The parts of a byte range that hold data and those that do not, in order and without gaps: [`ReadDisk::extents`].
    pub fn extents(&self, range: Range<u64>) -> Extents<'_> {
        ReadDisk::extents(self, range)
    }
    /// Up to `limit` of the parts of a byte range, from its start on: [`ReadDisk::extents_page`].
    pub fn extents_page(&self, range: Range<u64>, limit: usize) -> Result<Vec<MapExtent>> {
        extents_page(self.handle.enter()?, range, limit)
    }
    /// The length, and alignment, in bytes that requests are best made in where there is a choice: 256 KiB, the largest extent. Any other is
    /// served as well; whole blocks of 4096 bytes are the fast path.
    pub fn preferred_io_size(&self) -> u64 {
        PREFERRED
    }
    /// The unit, and alignment, in bytes in which a discard frees space: 4096. Of a shorter piece the bytes are zeroed and no space comes back.
    pub fn discard_granularity(&self) -> u64 {
        BLOCK_BYTES
    }
    /// The longest write in bytes that appears whole or not at all after a crash, at any alignment: [`crate::ATOMIC_WRITE_MAX`].
    pub fn atomic_write_max(&self) -> u64 {
        crate::ATOMIC_WRITE_MAX as u64
    }
    /// Makes durable every operation of the store that returned before this call. Without anything new it costs nothing. `Deleted`, with
    /// nothing flushed, once the volume is: [`crate::Store::flush`] goes on working.
    pub fn flush(&self) -> Result<()> {
        let this = self.handle.enter()?;
        match this.engine.size(this.target) {
            Err(e) if e.kind() == ErrorKind::Deleted => Err(e),
            // Whether its record can be read is of no concern to what was written.
            _ => this.engine.flush(),
        }
    }
    /// Grows or shrinks to `bytes`, a multiple of 512. What is cut off is gone; what is added reads as zeros. Durable when it returns.
    pub fn resize(&self, bytes: u64) -> Result<()> {
        let this = self.handle.enter()?;
        this.engine.commit(&[Ask::resize(this.number, bytes)], true).map(drop)
    }
    /// Takes a snapshot. Durable when it returns; O(1).
    pub fn snapshot(&self, name: &str) -> Result<Snapshot> {
        let this = self.handle.enter()?;
        Snapshot::take(self.handle.root(), vec![(this.number, name)], NewOptions::new()).map(|mut made| made.remove(0))
    }
    /// An existing snapshot of this volume. `NotFound` if it has none of that name.
    pub fn snapshot_named(&self, name: &str) -> Result<Snapshot> {
        self.record()?;
        let this = self.handle.enter()?;
        let id = this.engine.lookup(|state| state.catalog_view().snapshot_named(this.number, name))?;
        let id =
            id.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("{} has no snapshot {name:?}", this.target)))?;
        Snapshot::open(self.handle.root(), id)
    }
    /// Its snapshots, oldest first. Walks their names and looks each of them up.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>> {
        self.record()?;
        let this = self.handle.enter()?;
        let list = this.engine.snapshots_of(this.number)?;
        Ok(list.into_iter().map(|(id, r)| Snapshot::of(self.handle.root(), id, &r)).collect())
    }
    /// Makes the volume what `snapshot`, one of its own, is: contents and size. No snapshot is lost, older or newer. Durable when it
    /// returns; O(1).
    pub fn rollback(&self, snapshot: &Snapshot) -> Result<()> {
        self.rollback_to(snapshot, false)
    }
    /// [`Volume::rollback`] to the contents only: the size stays.
    pub fn rollback_keep_size(&self, snapshot: &Snapshot) -> Result<()> {
        self.rollback_to(snapshot, true)
    }
    fn rollback_to(&self, snapshot: &Snapshot, keep_size: bool) -> Result<()> {
        let this = self.handle.enter()?;
        let snapshot = self.handle.root().own(&snapshot.handle)?;
        this.engine.commit(&[Ask::rollback(this.number, snapshot, keep_size)], true).map(drop)
    }
}

impl ReadDisk for Volume {
    fn size(&self) -> Result<u64> {
        Volume::size(self)
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        Volume::read_at(self, buf, offset)
    }
    fn extents_page(&self, range: Range<u64>, limit: usize) -> Result<Vec<MapExtent>> {
        Volume::extents_page(self, range, limit)
    }
    fn read_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> Result<()> {
        Volume::read_vectored_at(self, bufs, offset)
    }
}

impl fmt::Debug for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Volume").field("id", &self.id().0).finish_non_exhaustive()
    }
}
