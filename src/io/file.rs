//! An image in a file: opening and creating it under its lock, and every system call that the engine makes on it.
#![allow(unsafe_code, reason = "sync_file_range, which rustix has not")]
#![allow(clippy::disallowed_methods, reason = "this is the seam that all others have to use")]

use super::{
    Backend, Host, Lane,
    map::{ForkMark, Map},
};
use crate::Result;
use rustix::{
    fs::{self, AtFlags, FallocateFlags, FlockOperation, OFlags, StatxFlags},
    io::{Errno, ReadWriteFlags},
    rand::{GetRandomFlags, getrandom},
};
use std::{
    fs::File,
    hash::{BuildHasher, RandomState},
    io::{self, IoSlice},
    num::NonZeroU64,
    ops::Range,
    os::fd::AsRawFd,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{SystemTime, UNIX_EPOCH},
};

mod open;
#[cfg(test)]
mod tests;

pub use open::ImageFiles;
use open::Pending;
use open::{Source, open_error};

/// Alignment of offset, length and memory that every `O_DIRECT` read is given.
const DIRECT: usize = 4096;
/// Bytes that one `O_DIRECT` read asks for at most.
const DIRECT_MAX: usize = 1 << 20;
/// Buffers that Linux takes in one vectored call.
const IOV_MAX: usize = 1024;
/// How often an opening is tried again because the path named another file once the lock was held.
const TRIES: usize = 16;
/// Bytes of a read from which on the host may read ahead by itself.
const STREAM: usize = 64 << 10;

/// How the data of an image is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum ReadPath {
    /// [`Map`](ReadPath::Map), but [`Pread`](ReadPath::Pread) on network filesystems and FUSE, where a map need not
    /// agree with what was written.
    #[default]
    Auto,
    /// Through a shared read-only map: no system call for what is cached, after its first touch. What is not is read by `pread`, which
    /// reports a bad medium as an error; a page that is evicted and can't be read back later, or a file
    /// that another process truncates, kills this process with SIGBUS.
    Map,
    /// By `pread` alone. A bad medium or a truncated file is always an error.
    Pread,
}

/// An image file, locked: exclusively if open for writing, else shared with other readers.
///
/// The lock is `flock`'s: it belongs to this opening, not to the process, and so refuses a second opening in the same
/// process as well. It goes when the backend is dropped or its process dies.
pub struct FileBackend {
    /// Holds the lock. Group commits are synced through it, and reads and writes go through it.
    file: File,
    /// A second description of the same file, for [`Lane::Checkpoint`]; none when read only.
    checkpoint: Option<File>,
    /// A third one, for [`Lane::Space`] and for large reads.
    space: Option<File>,
    /// Space that was never written is weaker than space that was; see [`Backend::is_fresh_space_weak`].
    fresh_is_weak: bool,
    /// The filesystem is known to keep the promise of [`Backend::write_synced`].
    syncs_ranges: bool,
    /// A description that bypasses the page cache, if the host has such reads.
    direct: Option<File>,
    /// `direct` refused a read, so that it is not used any more.
    direct_failed: AtomicBool,
    /// The filesystem keeps nothing behind its cache.
    cache_is_medium: bool,
    map: Option<Map>,
    opener: ForkMark,
    /// Set from creation until [`FileBackend::publish`].
    pending: Mutex<Option<Pending>>,
}

/// Repeats a call until no signal interrupts it.
fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

/// Keeps reads from changing the file's access time: if it changes, the next `fdatasync` of some filesystems writes the inode as well. Only
/// the file's owner may ask for this; for others it is not done.
fn keep_access_time(file: &File) {
    if let Ok(flags) = fs::fcntl_getfl(file) {
        let _ = fs::fcntl_setfl(file, flags | OFlags::NOATIME);
    }
}

/// Filesystem types, as `statfs` numbers them.
mod magic {
    const NFS: u32 = 0x6969;
    const SMB: u32 = 0x517b;
    const SMB2: u32 = 0xfe53_4d42;
    const CIFS: u32 = 0xff53_4d42;
    const NCP: u32 = 0x564c;
    const FUSE: u32 = 0x6573_5546;
    const V9FS: u32 = 0x0102_1997;
    const CEPH: u32 = 0x00c3_6400;
    const CODA: u32 = 0x7375_7245;
    const AFS: u32 = 0x5346_414f;
    const KAFS: u32 = 0x6b41_4653;
    const OCFS2: u32 = 0x7461_636f;
    const GFS2: u32 = 0x0116_1970;
    const LUSTRE: u32 = 0x0bd0_0bd0;
    const ORANGEFS: u32 = 0x2003_0528;
    const BEEGFS: u32 = 0x1983_0326;
    const GPFS: u32 = 0x4750_4653;
    const PANFS: u32 = 0xaad7_aaea;
    const VBOXSF: u32 = 0x786f_4256;
    /// Filesystems on which others may change a file behind this machine's page cache.
    pub(super) const SHARED: [u32; 19] = [
        NFS, SMB, SMB2, CIFS, NCP, FUSE, V9FS, CEPH, CODA, AFS, KAFS, OCFS2, GFS2, LUSTRE, ORANGEFS, BEEGFS, GPFS,
        PANFS, VBOXSF,
    ];

    const TMPFS: u32 = 0x0102_1994;
    const RAMFS: u32 = 0x8584_58f6;
    const HUGETLBFS: u32 = 0x9584_58f6;
    /// Filesystems of which the page cache is all there is.
    pub(super) const MEMORY: [u32; 3] = [TMPFS, RAMFS, HUGETLBFS];

    pub(super) const BTRFS: u32 = 0x9123_683e;
    const BCACHEFS: u32 = 0xca45_1a4e;
    const NILFS: u32 = 0x3434;
    const F2FS: u32 = 0xf2f5_2010;
    /// Filesystems that write to a new place each time, so that nothing is gained by writing space once.
    pub(super) const ELSEWHERE: [u32; 5] = [BTRFS, BCACHEFS, NILFS, F2FS, ZFS];

    const EXT4: u32 = 0xef53;
    const XFS: u32 = 0x5846_5342;
    /// Filesystems whose own code, read for this, syncs the range of an `RWF_DSYNC` write with the medium's cache flushed after it. Others may
    /// take the flag and pass it on to a server that ignores it (FUSE), or sync the whole file all the same (btrfs).
    pub(super) const RANGES: [u32; 2] = [EXT4, XFS];

    /// ZFS accepts `O_DIRECT` and reads from its own cache all the same.
    pub(super) const ZFS: u32 = 0x2fc1_2fc1;
}

impl FileBackend {
    fn new(file: File, source: &mut Source<'_>, writable: bool, read_path: ReadPath) -> Result<FileBackend> {
        let fs_type = retry(|| fs::fstatfs(&file)).map_err(|e| open_error("look at the filesystem", e))?.f_type as u32;
        let cache_is_medium = magic::MEMORY.contains(&fs_type);
        let (checkpoint, space) = match writable {
            true => (Some(source.second(&file, Lane::Checkpoint)?), Some(source.second(&file, Lane::Space)?)),
            false => (None, None),
        };
        let direct = match cache_is_medium || fs_type == magic::ZFS || !reads_direct(&file) {
            true => None,
            false => source.direct(&file).ok(),
        };
        [Some(&file), space.as_ref(), direct.as_ref()].into_iter().flatten().for_each(keep_access_time);
        let mapped = match read_path {
            ReadPath::Auto => !magic::SHARED.contains(&fs_type),
            ReadPath::Map => true,
            ReadPath::Pread => false,
        };
        if mapped && space.is_some() {
            // Of small reads the engine knows what follows, and says so by `read_ahead`; the host would read what lies beside it. Large
            // ones go through another description.
            let _ = fs::fadvise(&file, 0, None, fs::Advice::Random);
        }
        let backend = FileBackend {
            file,
            checkpoint,
            space,
            fresh_is_weak: !cache_is_medium && !magic::ELSEWHERE.contains(&fs_type),
            syncs_ranges: magic::RANGES.contains(&fs_type),
            direct,
            direct_failed: AtomicBool::new(false),
            cache_is_medium,
            map: mapped.then(Map::new),
            opener: ForkMark::new(),
            pending: Mutex::new(None),
        };
        // Some filesystems accept the flag and refuse the reads, which this finds out. An error of the medium will show again when it
        // matters.
        let _ = backend.read_cold(0, &mut [0]);
        Ok(backend)
    }

    /// The description that a lane syncs through.
    fn description(&self, lane: Lane) -> io::Result<&File> {
        let own = match lane {
            Lane::Flush => Some(&self.file),
            Lane::Checkpoint => self.checkpoint.as_ref(),
            Lane::Space => self.space.as_ref(),
        };
        own.ok_or_else(|| Errno::BADF.into())
    }

    /// Reads once past the cache. Returns `Ok(None)` if the host has no such reads.
    fn read_direct(&self, offset: u64, buf: &mut [u8]) -> io::Result<Option<usize>> {
        let Some(direct) = self.direct.as_ref().filter(|_| !self.direct_failed.load(Relaxed)) else {
            return Ok(None);
        };
        let lead = (offset % DIRECT as u64) as usize;
        let whole = (lead + buf.len().min(DIRECT_MAX)).next_multiple_of(DIRECT);
        let mut space = vec![0; whole + DIRECT];
        let start = space.as_ptr().align_offset(DIRECT);
        let Some(bounce) = start.checked_add(whole).and_then(|end| space.get_mut(start..end)) else { return Ok(None) };
        match retry(|| rustix::io::pread(direct, &mut *bounce, offset - lead as u64)) {
            Ok(n) => {
                let n = n.saturating_sub(lead).min(buf.len());
                buf[..n].copy_from_slice(&bounce[lead..lead + n]);
                Ok(Some(n))
            }
            Err(e) if matches!(Errno::from_io_error(&e), Some(Errno::INVAL | Errno::OPNOTSUPP)) => {
                self.direct_failed.store(true, Relaxed);
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }
}

/// Returns `false` if the kernel says that it reads this file through its cache even with `O_DIRECT`.
fn reads_direct(file: &File) -> bool {
    match fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) {
        Ok(s) => s.stx_mask & StatxFlags::DIOALIGN.bits() == 0 || s.stx_dio_offset_align != 0,
        // An old kernel does not tell: the reads themselves are the test.
        Err(_) => true,
    }
}

impl Drop for FileBackend {
    fn drop(&mut self) {
        self.release();
        if !self.same_process() {
            // The file under construction is the parent's.
            std::mem::forget(self.pending.get_mut().unwrap_or_else(PoisonError::into_inner).take());
        }
    }
}

impl Backend for FileBackend {
    fn len(&self) -> io::Result<u64> {
        Ok(retry(|| fs::fstat(&self.file))?.st_size as u64)
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let file = self.space.as_ref().filter(|_| buf.len() >= STREAM).unwrap_or(&self.file);
        retry(|| rustix::io::pread(file, &mut *buf, offset))
    }
    fn read_cold(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        if let Some(n) = self.read_direct(offset, buf)? {
            return Ok(n);
        }
        if !self.cache_is_medium {
            let from = offset - offset % DIRECT as u64;
            let len = (offset - from).saturating_add(buf.len() as u64).next_multiple_of(DIRECT as u64);
            // This is a hint, and spares dirty and mapped pages: hence `has_cold_reads`.
            let _ = fs::fadvise(&self.file, from, NonZeroU64::new(len), fs::Advice::DontNeed);
        }
        self.read_at(offset, buf)
    }
    fn drop_cache(&self) {
        if !self.cache_is_medium {
            let _ = fs::fadvise(&self.file, 0, None, fs::Advice::DontNeed);
        }
    }
    fn has_cold_reads(&self) -> bool {
        self.cache_is_medium || (self.direct.is_some() && !self.direct_failed.load(Relaxed))
    }
    #[inline]
    fn read_mapped(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        Ok(self.map.as_ref().is_some_and(|map| map.read(&self.file, offset, buf)))
    }
    #[inline]
    fn prefetch_mapped(&self, offset: u64, len: usize) {
        if let Some(map) = &self.map {
            map.prefetch(offset, len);
        }
    }
    fn is_cold(&self, offset: u64, len: u64) -> bool {
        self.map.as_ref().is_some_and(|map| !map.has_seen(offset, len))
    }
    fn read_ahead(&self, offset: u64, len: u64) {
        let _ = fs::fadvise(&self.file, offset, NonZeroU64::new(len), fs::Advice::WillNeed);
    }
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<usize> {
        retry(|| rustix::io::pwrite(&self.file, buf, offset))
    }
    fn write_vectored_at(&self, offset: u64, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let bufs = &bufs[..bufs.len().min(IOV_MAX)];
        retry(|| rustix::io::pwritev(&self.file, bufs, offset))
    }
    fn write_synced(&self, lane: Lane, offset: u64, buf: &[u8], with: &[Range<u64>]) -> io::Result<usize> {
        if !self.syncs_ranges {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let file = self.description(lane)?;
        // All are on their way before the first is waited for. The write that follows commits what the inode needs for them, and flushes the
        // medium's cache after they have reached it.
        for range in with {
            sync_range(file, range.start, range.end - range.start, libc::SYNC_FILE_RANGE_WRITE)?;
        }
        for range in with {
            sync_range(file, range.start, range.end - range.start, WRITE_AND_WAIT)?;
        }
        // Interrupted or not, an error is final: see `sync_data`.
        let flags = ReadWriteFlags::DSYNC;
        rustix::io::pwritev2(file, &[IoSlice::new(buf)], offset, flags).map_err(|e| unsupported(e.into()))
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        let set = || retry(|| fs::ftruncate(&self.file, len));
        self.map.as_ref().map_or_else(set, |map| map.resize(len, set))
    }
    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        retry(|| fs::fallocate(&self.file, how, offset, len)).map_err(unsupported)
    }
    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        let end = offset.checked_add(len).ok_or(io::ErrorKind::FileTooLarge)?;
        match retry(|| fs::fallocate(&self.file, FallocateFlags::empty(), offset, len)).map_err(unsupported) {
            // The host promises nothing, and the file has the length all the same.
            Err(e) if e.kind() == io::ErrorKind::Unsupported && self.len()? >= end => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::Unsupported => self.set_len(end),
            result => result,
        }
    }
    fn is_fresh_space_weak(&self) -> bool {
        self.fresh_is_weak
    }
    fn push(&self, offset: u64, len: u64) -> io::Result<()> {
        sync_range(self.description(Lane::Checkpoint)?, offset, len, libc::SYNC_FILE_RANGE_WRITE)
    }
    fn sync_data(&self, lane: Lane) -> io::Result<()> {
        let file = self.description(lane)?;
        // Not even an interrupted sync is repeated: it may have consumed the error that the next one would report.
        Ok(fs::fdatasync(file)?)
    }
    fn release(&self) {
        // A child that inherited the descriptors would keep the lock alive if it were not taken off the description.
        if self.same_process() {
            let _ = fs::flock(&self.file, FlockOperation::Unlock);
        }
    }
    #[inline]
    fn same_process(&self) -> bool {
        self.opener.is_maker()
    }
}

/// Has a range written out and waits until the medium has it, in its cache at least.
const WRITE_AND_WAIT: u32 =
    libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;

/// `sync_file_range`, which alone makes nothing durable. `Unsupported` where the host has no such call.
fn sync_range(file: &File, offset: u64, len: u64, flags: u32) -> io::Result<()> {
    let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) else {
        return Err(Errno::INVAL.into());
    };
    if len == 0 {
        // The call takes a length of zero for "to the end".
        return Ok(());
    }
    // SAFETY: the descriptor is open for as long as `file` is borrowed; all other arguments are plain numbers, and no
    // memory of this process is read or written by the call.
    match unsafe { libc::sync_file_range(file.as_raw_fd(), offset, len, flags) } {
        0 => Ok(()),
        _ => Err(unsupported(io::Error::last_os_error())),
    }
}

/// Maps the errors of a host without the call to `Unsupported`.
fn unsupported(e: io::Error) -> io::Error {
    match Errno::from_io_error(&e) {
        Some(Errno::OPNOTSUPP | Errno::NOSYS) => io::Error::new(io::ErrorKind::Unsupported, e),
        _ => e,
    }
}

/// The clock and the random numbers of the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SystemHost;

impl Host for SystemHost {
    fn now(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
    }
    fn random(&self) -> u64 {
        let mut bytes = [0; 8];
        match retry(|| getrandom(&mut bytes, GetRandomFlags::empty())) {
            Ok(8) => u64::from_le_bytes(bytes),
            // The call does not exist: the standard library has other sources.
            _ => RandomState::new().hash_one(self.now()),
        }
    }
}
