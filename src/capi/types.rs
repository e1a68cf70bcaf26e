//! What the header defines besides functions: codes, flags and structures. Values and layouts never change within an ABI version.

use crate::{Counters, Error, ErrorKind, MapExtent, Snapshot, Volume, VolumeCounters};
use std::{ffi::c_char, time::SystemTime};

/// The version of this interface: what is declared under it is only ever added to. `snapdisk_abi()` returns the library's.
pub const SNAPDISK_ABI: u32 = 1;

/// Success.
pub const SNAPDISK_OK: i32 = 0;
/// An argument breaks its documented rules. Nothing was done.
pub const SNAPDISK_E_INVALID: i32 = 1;
/// The range reaches past the end of the disk. Nothing was done.
pub const SNAPDISK_E_OUT_OF_RANGE: i32 = 2;
/// No volume, snapshot or image of that name. Nothing was done.
pub const SNAPDISK_E_NOT_FOUND: i32 = 3;
/// The name is taken. Nothing was done.
pub const SNAPDISK_E_EXISTS: i32 = 4;
/// The volume or snapshot behind this handle was deleted. Nothing was done.
pub const SNAPDISK_E_DELETED: i32 = 5;
/// The store was closed. Nothing was done.
pub const SNAPDISK_E_CLOSED: i32 = 6;
/// The image is open elsewhere, in this process or another. Nothing was done.
pub const SNAPDISK_E_LOCKED: i32 = 7;
/// The volume is attached by another handle. Nothing was done.
pub const SNAPDISK_E_BUSY: i32 = 8;
/// The content of the attached volume was changed by force, and the handle's holder has not acknowledged it. Nothing was done.
pub const SNAPDISK_E_STALE: i32 = 9;
/// The store was opened for reading, or the disk is a snapshot. Nothing was done.
pub const SNAPDISK_E_READ_ONLY: i32 = 10;
/// The image is at its limit or the host is full. Nothing was done; work resumes once there is space.
pub const SNAPDISK_E_NO_SPACE: i32 = 11;
/// An earlier write or sync failed; nothing more is written until the image is opened again. Nothing was done.
pub const SNAPDISK_E_POISONED: i32 = 12;
/// Bytes of the image do not verify. Nothing wrong was returned.
pub const SNAPDISK_E_CORRUPT: i32 = 13;
/// The file is shorter than what it must hold.
pub const SNAPDISK_E_TRUNCATED: i32 = 14;
/// The image uses a format that this version does not know.
pub const SNAPDISK_E_UNSUPPORTED_VERSION: i32 = 15;
/// The handle was made before a `fork` and is used in the child. Nothing was done.
pub const SNAPDISK_E_WRONG_PROCESS: i32 = 16;
/// The work was asked to stop.
pub const SNAPDISK_E_CANCELLED: i32 = 17;
/// The host failed to read or write. Of a change the outcome is unknown, and the store is poisoned; a read may be repeated.
pub const SNAPDISK_E_IO: i32 = 18;
/// A kind of failure that this version of the interface has no code for.
pub const SNAPDISK_E_OTHER: i32 = 19;
/// No open handle has that number, or it is one of another kind. Nothing was done.
pub const SNAPDISK_E_HANDLE: i32 = 64;
/// The library failed within itself, which is a defect. If the call was to change something, its outcome is unknown.
pub const SNAPDISK_E_PANIC: i32 = 65;

/// The image is opened for reading, together with any number of other readers.
pub const SNAPDISK_OPEN_READ_ONLY: u32 = 1;
/// The whole image is checked before it is used, as is due to one from elsewhere.
pub const SNAPDISK_OPEN_UNTRUSTED: u32 = 2;
/// Space from the host is not written ahead of its use: see `Options::write_fresh_space` of the Rust library.
pub const SNAPDISK_OPEN_NO_FRESH_WRITES: u32 = 4;
/// Data is read by `pread` alone, so that a truncated file or an evicted page on a bad medium is an error and never `SIGBUS`.
pub const SNAPDISK_OPEN_PREAD: u32 = 8;

/// The handle attaches the volume: while it is open, nobody else rolls the volume back, shrinks it, deletes it or attaches it.
pub const SNAPDISK_ATTACH: u32 = 1;

/// The new snapshot or clone is durable with the next flush, rather than when the call returns.
pub const SNAPDISK_DEFERRED: u32 = 1;

/// A rollback restores the content and leaves the size as it is.
pub const SNAPDISK_KEEP_SIZE: u32 = 1;

/// The write is durable when it returns.
pub const SNAPDISK_FUA: u32 = 1;

/// A volume that has snapshots is not deleted.
pub const SNAPDISK_SNAPSHOTS_REFUSE: u32 = 0;
/// Snapshots of a deleted volume stay, listed and clonable.
pub const SNAPDISK_SNAPSHOTS_KEEP: u32 = 1;
/// Snapshots of a deleted volume go too.
pub const SNAPDISK_SNAPSHOTS_DELETE: u32 = 2;

/// The disk is a volume: writable.
pub const SNAPDISK_VOLUME: u32 = 1;
/// The disk is a snapshot: it never changes.
pub const SNAPDISK_SNAPSHOT: u32 = 2;

/// Bytes of a name with its terminating NUL, at most.
pub const SNAPDISK_NAME_SIZE: usize = 72;

/// How an image is created or opened. Filled with the defaults by `snapdisk_options_init`; then single fields are changed.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Bytes of this structure as the caller was compiled: `sizeof(snapdisk_options)`. Later versions add fields at the end.
    pub size: u32,
    /// `SNAPDISK_OPEN_…`, or-ed.
    pub flags: u32,
    /// Bytes of the intent log, 1 to 64 MiB; counts at creation only. Default 16 MiB.
    pub log_bytes: u64,
    /// Bytes of memory for everything that the store keeps, at least 1 MiB. Default 256 MiB.
    pub memory_bytes: u64,
    /// The image file never grows beyond this many bytes. Default 64 TiB, which is the most.
    pub max_image_bytes: u64,
    /// Free runs of at least this many bytes are returned to the host; `UINT64_MAX`: none are. Default 1 MiB.
    pub punch_from_bytes: u64,
    /// Free space that the image may have before small holes are filled, in percent of the space in use. Default 100.
    pub slack_percent: u32,
    /// Zero.
    pub reserved: u32,
}

/// A volume or a snapshot.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Info {
    /// The number that names it for ever, among volumes or among snapshots. At least 1.
    pub id: u64,
    /// Of a snapshot: the id of the volume that it was taken of, which may be gone. Of a volume: its own.
    pub volume: u64,
    /// Its size in bytes.
    pub bytes: u64,
    /// When it was made, by the host's clock: nanoseconds since 1970, UTC.
    pub created_ns: u64,
    /// `SNAPDISK_VOLUME` or `SNAPDISK_SNAPSHOT`.
    pub kind: u32,
    /// Zero.
    pub reserved: u32,
    /// Its name, ended by a NUL.
    pub name: [c_char; SNAPDISK_NAME_SIZE],
}

/// A part of a disk: data, or a hole that reads as zeros.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// The byte at which it begins.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
    /// 1: data; 0: a hole.
    pub data: u32,
    /// Zero.
    pub reserved: u32,
}

/// Figures of a store. What only goes up starts at 0 when the image is opened. Later versions add fields at the end.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct StoreFigures {
    /// Bytes of the image file that are laid out.
    pub image_bytes: u64,
    /// Bytes that are free to allocate now.
    pub free_bytes: u64,
    /// Bytes that were freed and wait for a checkpoint, or for reads to end.
    pub waiting_bytes: u64,
    /// Bytes that were returned to the host.
    pub returned_bytes: u64,
    /// Deleted subtrees that wait for reclaim.
    pub reclaim_entries: u64,
    /// Blocks of 4096 bytes of the intent log.
    pub log_blocks: u64,
    /// Blocks of the intent log that are in use.
    pub log_used_blocks: u64,
    /// The number of the last checkpoint.
    pub generation: u64,
    /// Syncs that the host was asked for.
    pub syncs: u64,
    /// Bytes that were read from the host.
    pub host_read_bytes: u64,
    /// Bytes that were written to the host.
    pub host_written_bytes: u64,
}

/// Requests that succeeded since the image was opened, of all handles of one volume. Later versions add fields at the end.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct VolumeFigures {
    /// Reads.
    pub reads: u64,
    /// Bytes that were read.
    pub read_bytes: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes that were written.
    pub written_bytes: u64,
    /// Discards and requests for zeros.
    pub discards: u64,
    /// Bytes that were discarded or zeroed.
    pub discarded_bytes: u64,
}

/// The code of a kind of error.
pub(super) fn code(kind: ErrorKind) -> i32 {
    match kind {
        ErrorKind::Invalid => SNAPDISK_E_INVALID,
        ErrorKind::OutOfRange => SNAPDISK_E_OUT_OF_RANGE,
        ErrorKind::NotFound => SNAPDISK_E_NOT_FOUND,
        ErrorKind::Exists => SNAPDISK_E_EXISTS,
        ErrorKind::Deleted => SNAPDISK_E_DELETED,
        ErrorKind::Closed => SNAPDISK_E_CLOSED,
        ErrorKind::Locked => SNAPDISK_E_LOCKED,
        ErrorKind::Busy => SNAPDISK_E_BUSY,
        ErrorKind::Stale => SNAPDISK_E_STALE,
        ErrorKind::ReadOnly => SNAPDISK_E_READ_ONLY,
        ErrorKind::NoSpace => SNAPDISK_E_NO_SPACE,
        ErrorKind::Poisoned => SNAPDISK_E_POISONED,
        ErrorKind::Corrupt => SNAPDISK_E_CORRUPT,
        ErrorKind::Truncated => SNAPDISK_E_TRUNCATED,
        ErrorKind::UnsupportedVersion => SNAPDISK_E_UNSUPPORTED_VERSION,
        ErrorKind::WrongProcess => SNAPDISK_E_WRONG_PROCESS,
        ErrorKind::Cancelled => SNAPDISK_E_CANCELLED,
        ErrorKind::Io => SNAPDISK_E_IO,
    }
}

/// The kind of error that a code stands for; `None` for success and the codes that only this interface has.
pub(super) fn kind(of: i32) -> Option<ErrorKind> {
    const KINDS: [ErrorKind; 18] = [
        ErrorKind::Invalid,
        ErrorKind::OutOfRange,
        ErrorKind::NotFound,
        ErrorKind::Exists,
        ErrorKind::Deleted,
        ErrorKind::Closed,
        ErrorKind::Locked,
        ErrorKind::Busy,
        ErrorKind::Stale,
        ErrorKind::ReadOnly,
        ErrorKind::NoSpace,
        ErrorKind::Poisoned,
        ErrorKind::Corrupt,
        ErrorKind::Truncated,
        ErrorKind::UnsupportedVersion,
        ErrorKind::WrongProcess,
        ErrorKind::Cancelled,
        ErrorKind::Io,
    ];
    KINDS.into_iter().find(|&kind| code(kind) == of)
}

impl Info {
    fn new(id: u64, name: &str) -> Info {
        let mut info = Info {
            id,
            volume: id,
            bytes: 0,
            created_ns: 0,
            kind: SNAPDISK_VOLUME,
            reserved: 0,
            name: [0; SNAPDISK_NAME_SIZE],
        };
        // A name has at most 64 bytes; the last place stays a NUL whatever the image says.
        let places = info.name[..SNAPDISK_NAME_SIZE - 1].iter_mut();
        places.zip(name.bytes()).for_each(|(place, byte)| *place = byte as c_char);
        info
    }
    pub(super) fn of_volume(volume: &Volume) -> Result<Info, Error> {
        let (bytes, created_ns) = (volume.size()?, nanos(volume.created()?));
        Ok(Info { bytes, created_ns, ..Info::new(volume.id().0, &volume.name()?) })
    }
    pub(super) fn of_snapshot(snapshot: &Snapshot) -> Result<Info, Error> {
        let (bytes, created_ns) = (snapshot.size(), nanos(snapshot.created()));
        let info = Info::new(snapshot.id().0, &snapshot.name()?);
        Ok(Info { volume: snapshot.volume().0, bytes, created_ns, kind: SNAPDISK_SNAPSHOT, ..info })
    }
}

fn nanos(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

impl From<MapExtent> for Extent {
    fn from(e: MapExtent) -> Extent {
        Extent { offset: e.offset, len: e.len, data: e.data.into(), reserved: 0 }
    }
}

impl From<Counters> for StoreFigures {
    fn from(c: Counters) -> StoreFigures {
        StoreFigures {
            image_bytes: c.image_bytes,
            free_bytes: c.free_bytes,
            waiting_bytes: c.waiting_bytes,
            returned_bytes: c.returned_bytes,
            reclaim_entries: c.reclaim_entries,
            log_blocks: c.log_blocks,
            log_used_blocks: c.log_used_blocks,
            generation: c.generation,
            syncs: c.syncs,
            host_read_bytes: c.backend_read_bytes,
            host_written_bytes: c.backend_written_bytes,
        }
    }
}

impl From<VolumeCounters> for VolumeFigures {
    fn from(c: VolumeCounters) -> VolumeFigures {
        VolumeFigures {
            reads: c.reads,
            read_bytes: c.read_bytes,
            writes: c.writes,
            written_bytes: c.written_bytes,
            discards: c.discards,
            discarded_bytes: c.discarded_bytes,
        }
    }
}
