//! Attached volumes: a handle that keeps others from changing a disk that is in use, and operations that are forced.

use crate::{
    DeleteSnapshots, Result, Snapshot, Volume, VolumeId,
    engine::{Ask, Authority, Bytes, IoKind, Lease},
    handle::Entered,
    read_disk::{Extents, MapExtent, ReadDisk},
};
use std::{
    fmt,
    io::{IoSlice, IoSliceMut},
    ops::Range,
    sync::Arc,
    time::Duration,
};

/// A volume that is in use, for example by a virtual machine. Made by [`Volume::attach`]; released by [`AttachedVolume::detach`] or when
/// dropped.
///
/// While a volume is attached, operations that would take content from its user answer [`ErrorKind::Busy`](crate::ErrorKind::Busy), through
/// whatever handle they are asked for, in an [`Update`](crate::Update) too: rolling back, shrinking, deleting, and attaching it again, since
/// a block device has one writer. Growing, snapshots, renaming, tags, and reads and writes through plain handles go on. The holder rolls
/// back, resizes and deletes with the methods here; anyone else uses [`Volume::forced`] or [`Update::force`](crate::Update::force). An
/// attachment is in memory only: an image that is opened again has none.
///
/// # What the holder learns
///
/// [`AttachedVolume::generation`] changes with every rollback, resize and deletion of the volume, and with nothing else;
/// [`AttachedVolume::wait_generation`] waits for that.
///
/// After others have changed the *content* by force, by a rollback or a shrinking, every request through this handle answers
/// [`ErrorKind::Stale`](crate::ErrorKind::Stale) and does nothing, until [`AttachedVolume::acknowledge`]. A guest has parts of the disk in
/// its own memory: if its writes went on, they would be mixed into the content that was just restored, and neither the old nor the new state
/// would be left whole. The device therefore says first that it is no longer the disk that the guest knows, as a SCSI disk does by a *unit
/// attention*. A monitor stops or resets the guest, and acknowledges. No write that was begun under the old content is applied to the new
/// one, however long it takes. After a resize that took nothing, requests go on; the generation and [`AttachedVolume::size`] tell the change.
/// After a forced deletion everything answers [`ErrorKind::Deleted`](crate::ErrorKind::Deleted).
///
/// ```
/// use snapdisk::{ErrorKind, Options};
///
/// # fn main() -> snapdisk::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// let store = Options::new().create(dir.path().join("disks.img"))?;
/// let volume = store.create_volume("root", 1 << 30)?;
/// let before = volume.snapshot("before")?;
///
/// let disk = volume.attach()?;
/// disk.write_at(b"hello", 0)?;
/// assert_eq!(volume.rollback(&before).unwrap_err().kind(), ErrorKind::Busy);
///
/// let seen = disk.generation();
/// volume.forced().rollback(&before)?;
/// assert_eq!(disk.write_at(b"hello", 0).unwrap_err().kind(), ErrorKind::Stale);
/// assert_ne!(disk.generation(), seen);
/// // Here the guest is reset.
/// disk.acknowledge(disk.generation());
/// disk.write_at(b"hello", 0)?;
/// disk.detach()?;
/// volume.rollback(&before)?;
/// store.close()
/// # }
/// ```
pub struct AttachedVolume {
    volume: Volume,
    lease: Arc<Lease>,
}

impl AttachedVolume {
    /// Returns the volume for a request, or `Stale` or `Deleted` where the holder has to know of that first.
    #[inline]
    fn enter(&self) -> Result<Entered<'_>> {
        let this = self.volume.handle.enter()?;
        self.lease.check()?;
        Ok(this)
    }
    /// Reads. What it returns is from before any change that the holder has not acknowledged.
    #[inline]
    fn read<T>(&self, read: impl FnOnce(&Volume) -> Result<T>) -> Result<T> {
        self.enter()?;
        let read = read(&self.volume)?;
        self.lease.check()?;
        Ok(read)
    }
    fn own(&self, ask: impl FnOnce(u64) -> Ask) -> Result<()> {
        let this = self.enter()?;
        this.engine.commit_as(&[ask(this.number)], true, &Authority::holder(&self.lease)).map(drop)
    }
    pub(crate) fn lease(&self) -> &Arc<Lease> {
        &self.lease
    }

    /// The volume's id.
    pub fn id(&self) -> VolumeId {
        self.volume.id()
    }
    /// A plain handle to the volume: for snapshots, tags and names. Requests through it do not answer `Stale`, so a guest's requests belong
    /// on the attached handle.
    pub fn volume(&self) -> &Volume {
        &self.volume
    }
    /// How often the volume was rolled back, resized or deleted since it was attached, by anyone. Reading it takes no lock.
    pub fn generation(&self) -> u64 {
        self.lease.generation()
    }
    /// Waits until the generation differs from `seen`, or `timeout` is over, and returns it. `Deleted` or `Closed` where it will never change
    /// again. Any number of threads may wait.
    pub fn wait_generation(&self, seen: u64, timeout: Duration) -> Result<u64> {
        drop(self.volume.handle.enter()?.engine.view()?);
        self.lease.wait(seen, timeout)
    }
    /// Says that the holder knows of every change up to `generation`, so that requests are served again. A later change has to be
    /// acknowledged in its turn.
    pub fn acknowledge(&self, generation: u64) {
        self.lease.acknowledge(generation);
    }
    /// Releases the volume, as dropping the handle does. In a forked child it answers `WrongProcess` and releases nothing.
    pub fn detach(self) -> Result<()> {
        self.volume.handle.enter().map(drop)
    }

    /// Its size in bytes.
    pub fn size(&self) -> Result<u64> {
        self.enter()?;
        self.volume.size()
    }
    /// As [`Volume::read_at`].
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.read(|volume| volume.read_at(buf, offset))
    }
    /// As [`Volume::read_vectored_at`].
    pub fn read_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> Result<()> {
        self.read(|volume| volume.read_vectored_at(bufs, offset))
    }
    /// As [`Volume::extents`].
    pub fn extents(&self, range: Range<u64>) -> Extents<'_> {
        ReadDisk::extents(self, range)
    }
    /// As [`Volume::extents_page`].
    pub fn extents_page(&self, range: Range<u64>, limit: usize) -> Result<Vec<MapExtent>> {
        self.read(|volume| volume.extents_page(range, limit))
    }
    /// As [`Volume::write_at`].
    pub fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.write(Bytes::One(buf), offset)
    }
    fn write(&self, bytes: Bytes<'_>, offset: u64) -> Result<()> {
        let this = self.enter()?;
        this.engine.write(&*self.lease, bytes, offset)?;
        self.volume.count(this, IoKind::Write, bytes.len());
        Ok(())
    }
    /// As [`Volume::write_fua_at`].
    pub fn write_fua_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.write_at(buf, offset)?;
        self.volume.handle.enter()?.engine.flush_applied()
    }
    /// As [`Volume::write_vectored_at`].
    pub fn write_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> Result<()> {
        self.write(Bytes::Many(bufs), offset)
    }
    /// As [`Volume::discard`].
    pub fn discard(&self, offset: u64, len: u64) -> Result<()> {
        let this = self.enter()?;
        this.engine.cut(&*self.lease, offset, len)?;
        self.volume.count(this, IoKind::Discard, len);
        Ok(())
    }
    /// As [`Volume::write_zeroes`].
    pub fn write_zeroes(&self, offset: u64, len: u64) -> Result<()> {
        self.discard(offset, len)
    }
    /// As [`Volume::flush`]. `Stale` where the content to be made durable was taken back by force, before the call or during it.
    pub fn flush(&self) -> Result<()> {
        self.read(Volume::flush)
    }
    /// As [`Volume::preferred_io_size`].
    pub fn preferred_io_size(&self) -> u64 {
        self.volume.preferred_io_size()
    }
    /// As [`Volume::discard_granularity`].
    pub fn discard_granularity(&self) -> u64 {
        self.volume.discard_granularity()
    }
    /// As [`Volume::atomic_write_max`].
    pub fn atomic_write_max(&self) -> u64 {
        self.volume.atomic_write_max()
    }

    /// As [`Volume::rollback`], by the holder, who need not acknowledge it.
    pub fn rollback(&self, snapshot: &Snapshot) -> Result<()> {
        let snapshot = self.volume.handle.root().own(&snapshot.handle)?;
        self.own(|volume| Ask::rollback(volume, snapshot, false))
    }
    /// As [`Volume::rollback_keep_size`], by the holder.
    pub fn rollback_keep_size(&self, snapshot: &Snapshot) -> Result<()> {
        let snapshot = self.volume.handle.root().own(&snapshot.handle)?;
        self.own(|volume| Ask::rollback(volume, snapshot, true))
    }
    /// As [`Volume::resize`], by the holder.
    pub fn resize(&self, bytes: u64) -> Result<()> {
        self.own(|volume| Ask::resize(volume, bytes))
    }
    /// As [`Store::delete_volume`](crate::Store::delete_volume), by the holder.
    pub fn delete(&self, snapshots: DeleteSnapshots) -> Result<()> {
        self.own(|volume| Ask::delete_volume(volume, snapshots.mode()))
    }
}

impl Drop for AttachedVolume {
    fn drop(&mut self) {
        // A forked child has a copy of the handle, and a lock that was held at the fork is held for ever there.
        if let Ok(this) = self.volume.handle.enter() {
            this.engine.detach(&self.lease);
        }
    }
}

impl ReadDisk for AttachedVolume {
    fn size(&self) -> Result<u64> {
        AttachedVolume::size(self)
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        AttachedVolume::read_at(self, buf, offset)
    }
    fn extents_page(&self, range: Range<u64>, limit: usize) -> Result<Vec<MapExtent>> {
        AttachedVolume::extents_page(self, range, limit)
    }
    fn read_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> Result<()> {
        AttachedVolume::read_vectored_at(self, bufs, offset)
    }
}

impl fmt::Debug for AttachedVolume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (id, generation) = (self.id().0, self.generation());
        f.debug_struct("AttachedVolume").field("id", &id).field("generation", &generation).finish_non_exhaustive()
    }
}

/// Changes a volume's content even while it is attached: see [`Volume::forced`].
#[derive(Clone, Copy, Debug)]
pub struct Forced<'a> {
    volume: &'a Volume,
}

impl Forced<'_> {
    fn commit(&self, ask: impl FnOnce(u64) -> Ask) -> Result<()> {
        let this = self.volume.handle.enter()?;
        this.engine.commit_as(&[ask(this.number)], true, &Authority::forced(this.number)).map(drop)
    }
    /// As [`Volume::rollback`].
    pub fn rollback(&self, snapshot: &Snapshot) -> Result<()> {
        let snapshot = self.volume.handle.root().own(&snapshot.handle)?;
        self.commit(|volume| Ask::rollback(volume, snapshot, false))
    }
    /// As [`Volume::rollback_keep_size`].
    pub fn rollback_keep_size(&self, snapshot: &Snapshot) -> Result<()> {
        let snapshot = self.volume.handle.root().own(&snapshot.handle)?;
        self.commit(|volume| Ask::rollback(volume, snapshot, true))
    }
    /// As [`Volume::resize`].
    pub fn resize(&self, bytes: u64) -> Result<()> {
        self.commit(|volume| Ask::resize(volume, bytes))
    }
    /// As [`Store::delete_volume`](crate::Store::delete_volume).
    pub fn delete(&self, snapshots: DeleteSnapshots) -> Result<()> {
        self.commit(|volume| Ask::delete_volume(volume, snapshots.mode()))
    }
}

impl Volume {
    /// Attaches the volume for one user: see [`AttachedVolume`]. `Busy` if it is attached.
    pub fn attach(&self) -> Result<AttachedVolume> {
        let this = self.handle.enter()?;
        Ok(AttachedVolume { lease: this.engine.attach(this.number)?, volume: self.clone() })
    }
    /// The operations that an attached volume otherwise answers with `Busy`, carried out all the same. The holder learns of them as
    /// [`AttachedVolume`] says. On a volume that is not attached they are the plain operations.
    pub fn forced(&self) -> Forced<'_> {
        Forced { volume: self }
    }
}
