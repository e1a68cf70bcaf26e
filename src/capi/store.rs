//! Functions on the library and on stores.
//!
//! SAFETY throughout: each function hands the caller's pointers to `raw`, with the caller's promises P1 to P4 that are stated there, and uses
//! what it gets until it returns. No pointer is handed over twice in one call.
#![allow(unsafe_code, reason = "functions that C calls")]
#![allow(
    clippy::missing_safety_doc,
    reason = "the rules P1 to P4 of `raw.rs` hold for every pointer; the header states them"
)]

use super::{handles, handles::Disk, raw, raw::Fault, raw::run, types::*};
use crate::{Error, ErrorKind, ReadDisk, SnapshotId, Store, VolumeId, io::ReadPath};
use std::ffi::c_char;

/// Returns the version of the interface that the library has: `SNAPDISK_ABI` of its header.
#[unsafe(no_mangle)]
pub extern "C" fn snapdisk_abi() -> u32 {
    SNAPDISK_ABI
}

/// Returns the version of the library, such as "0.1.0".
#[unsafe(no_mangle)]
pub extern "C" fn snapdisk_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

/// Returns the message of the last call of this thread that failed; an empty string if none has. Never null. It is good until the next call
/// of the same thread fails.
#[unsafe(no_mangle)]
pub extern "C" fn snapdisk_last_error() -> *const c_char {
    raw::last_error()
}

/// Returns the `errno` that a block device would answer with instead of the code: 0 for `SNAPDISK_OK`, `EBADF` for `SNAPDISK_E_HANDLE`,
/// `EIO` for unknown codes.
#[unsafe(no_mangle)]
pub extern "C" fn snapdisk_errno(code: i32) -> i32 {
    match (code, kind(code)) {
        (SNAPDISK_OK, _) => 0,
        (_, Some(kind)) => Error::new(kind, "").errno(),
        (SNAPDISK_E_HANDLE, _) => libc::EBADF,
        _ => libc::EIO,
    }
}

impl Options {
    fn defaults() -> Options {
        Options {
            size: size_of::<Options>() as u32,
            flags: 0,
            log_bytes: 16 << 20,
            memory_bytes: 256 << 20,
            max_image_bytes: crate::IMAGE_MAX,
            punch_from_bytes: 1 << 20,
            slack_percent: 100,
            reserved: 0,
        }
    }
    /// The options of the library that these stand for.
    fn library(&self) -> Result<crate::Options, Fault> {
        let has = |flag| self.flags & flag != 0;
        let known =
            SNAPDISK_OPEN_READ_ONLY | SNAPDISK_OPEN_UNTRUSTED | SNAPDISK_OPEN_NO_FRESH_WRITES | SNAPDISK_OPEN_PREAD;
        check_flags(self.flags, known)?;
        if self.reserved != 0 {
            return Err(Fault::invalid("a reserved field is not zero"));
        }
        let path = if has(SNAPDISK_OPEN_PREAD) { ReadPath::Pread } else { ReadPath::Auto };
        Ok(crate::Options::new()
            .log_bytes(self.log_bytes)
            .memory(self.memory_bytes)
            .max_image_bytes(self.max_image_bytes)
            .punch_from(Some(self.punch_from_bytes).filter(|&bytes| bytes != u64::MAX))
            .slack(self.slack_percent)
            .untrusted(has(SNAPDISK_OPEN_UNTRUSTED))
            .write_fresh_space(!has(SNAPDISK_OPEN_NO_FRESH_WRITES))
            .read_path(path))
    }
}

pub(super) fn check_flags(flags: u32, known: u32) -> Result<(), Fault> {
    match flags & !known {
        0 => Ok(()),
        unknown => Err(Fault::invalid(format!("unknown flags {unknown:#x}"))),
    }
}

/// The options that a caller passes, or the defaults for null.
///
/// # Safety
///
/// P1 to P4 of `raw.rs`.
unsafe fn options(at: *const Options) -> Result<Options, Fault> {
    let defaults = Options::defaults();
    if at.is_null() {
        return Ok(defaults);
    }
    // SAFETY: as the head of this file says. The first field is the structure's length.
    let size = unsafe { raw::grown(at.cast::<u32>(), 4, 0) }? as usize;
    if size < 8 {
        return Err(Fault::invalid("options of no size: fill them with snapdisk_options_init first"));
    }
    // SAFETY: as the head of this file says, for as many bytes as the caller says there are. The structure is made of numbers.
    unsafe { raw::grown(at, size, defaults) }
}

/// Fills `options`, a structure of `size` bytes (`sizeof *options`), with the defaults.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn snapdisk_options_init(options: *mut Options, size: usize) -> i32 {
    run(|| {
        let known = u32::try_from(size).ok().filter(|&size| size >= 8);
        let size = known.ok_or_else(|| Fault::invalid(format!("options of {size} bytes")))?;
        // SAFETY: as the head of this file says; the structure has no padding.
        unsafe { raw::put_grown(options, size as usize, &Options { size, ..Options::defaults() }) }
    })
}

/// Creates an image file at `path`, and opens it. `options` may be null: the defaults. `SNAPDISK_E_EXISTS` if the name is taken.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn snapdisk_create(path: *const c_char, options: *const Options, store: *mut u64) -> i32 {
    run(|| {
        // SAFETY: as the head of this file says.
        let (path, options, place) = unsafe { (raw::path(path)?, self::options(options)?, raw::Place::new(store)?) };
        if options.flags & SNAPDISK_OPEN_READ_ONLY != 0 {
            return Err(Fault::invalid("an image can't be created for reading alone"));
        }
        place.put(handles::add_store(options.library()?.create(path)?)?);
        Ok(())
    })
}

/// Opens the image file at `path`; recovers it if it was not closed. `options` may be null: the defaults. `SNAPDISK_E_LOCKED` if it is open
/// elsewhere.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn snapdisk_open(path: *const c_char, options: *const Options, store: *mut u64) -> i32 {
    run(|| {
        // SAFETY: as the head of this file says.
        let (path, options, place) = unsafe { (raw::path(path)?, self::options(options)?, raw::Place::new(store)?) };
        let library = options.library()?;
        let read_only = options.flags & SNAPDISK_OPEN_READ_ONLY != 0;
        let opened = if read_only { library.open_read_only(path)? } else { library.open(path)? };
        place.put(handles::add_store(opened)?);
        Ok(())
    })
}

/// Flushes, writes a last checkpoint and closes the image. Handles of its disks answer `SNAPDISK_E_CLOSED` from then on, and are still to be
/// closed. The handle of the store is gone whatever the call answers. A program that ends without this call crashes as far as the image can
/// tell: what was flushed is safe.
#[unsafe(no_mangle)]
pub extern "C" fn snapdisk_close(store: u64) -> i32 {
    run(|| Ok(handles::take_store(store)?.close()?))
}

/// Makes durable every operation that returned before this call, of all disks of the store.
#[unsafe(no_mangle)]
pub extern "C" fn snapdisk_flush(store: u64) -> i32 {
    run(|| Ok(handles::store(store)?.flush()?))
}

/// Checks everything: checksums, counts, order. It writes nothing, reads all data, and puts the number of problems into `findings`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn snapdisk_check(store: u64, findings: *mut u64) -> i32 {
    run(|| {
        // SAFETY: as the head of this file says.
        let place = unsafe { raw::Place::new(findings) }?;
        place.put(handles::store(store)?.check()?.findings.len() as u64);
        Ok(())
    })
}

/// Puts the figures of the store into `counters`, a structure of `size` bytes (`sizeof *counters`). It costs no more than a lookup.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn snapdisk_counters(store: u64, counters: *mut StoreFigures, size: usize) -> i32 {
    run(|| {
        let found = handles::store(store)?.counters()?.into();
        // SAFETY: as the head of this file says; the structure has no padding.
        unsafe { raw::put_grown(counters, size, &found) }
    })
}

/// An id as the library takes it: 0 stands for the beginning.
fn after<T>(id: u64, new: impl FnOnce(u64) -> T) -> Option<T> {
    (id != 0).then(|| new(id))
}

/// Lists up to `capacity` volumes by id, from the first one (`after` = 0) or from the one after the id `after`, and puts their number into
/// `count`. A page shorter than `capacity` is the last. A volume that is created or deleted meanwhile is listed or not.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn snapdisk_volumes(
    store: u64,
    after: u64,
    list: *mut Info,
    capacity: usize,
    count: *mut usize,
) -> i32 {
    run(|| {
        // SAFETY: as the head of this file says.
        let page = unsafe { raw::Page::new(list, capacity, count) }?;
        let store = handles::store(store)?;
        page.put(whole(after, page.capacity, Info::of_volume, |after, limit| {
            store.volumes_page(self::after(after, VolumeId), limit).map(|list| list.into_iter().map(|v| (v.id().0, v)))
        })?);
        Ok(())
    })
}

/// Lists up to `capacity` snapshots of all volumes by id, oldest first, as `snapdisk_volumes` does.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn snapdisk_snapshots(
    store: u64,
    after: u64,
    list: *mut Info,
    capacity: usize,
    count: *mut usize,
) -> i32 {
    run(|| {
        // SAFETY: as the head of this file says.
        let page = unsafe { raw::Page::new(list, capacity, count) }?;
        let store = handles::store(store)?;
        page.put(whole(after, page.capacity, Info::of_snapshot, |after, limit| {
            store
                .snapshots_page(self::after(after, SnapshotId), limit)
                .map(|list| list.into_iter().map(|s| (s.id().0, s)))
        })?);
        Ok(())
    })
}

/// Volumes or snapshots that are asked of the library at a time, so that a large capacity takes no memory of its own.
const CHUNK: usize = 256;

/// A page of up to `capacity` descriptions. What is deleted between its listing and its description is left out, and the page goes on to be
/// full, since a shorter one would say that it is the last.
fn whole<T, L: Iterator<Item = (u64, T)>>(
    mut after: u64,
    capacity: usize,
    describe: impl Fn(&T) -> crate::Result<Info>,
    list: impl Fn(u64, usize) -> crate::Result<L>,
) -> Result<Vec<Info>, Fault> {
    let mut found = Vec::new();
    while found.len() < capacity {
        let (mut listed, asked) = (0, CHUNK.min(capacity - found.len()));
        for (id, item) in list(after, asked)? {
            (listed, after) = (listed + 1, id);
            match describe(&item) {
                Ok(info) => found.push(info),
                Err(e) if e.kind() == ErrorKind::Deleted => {}
                Err(e) => return Err(e.into()),
            }
        }
        if listed < asked {
            break;
        }
    }
    Ok(found)
}

/// Creates a volume of `bytes` (a multiple of 512, up to 256 TiB) that reads as zeros, and opens it. `SNAPDISK_E_EXISTS` if the name is
/// taken. A name has 1 to 64 letters, digits, dots, dashes and underscores, and begins with neither a dot nor a dash.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn snapdisk_volume_create(store: u64, name: *const c_char, bytes: u64, disk: *mut u64) -> i32 {
    run(|| {
        // SAFETY: as the head of this file says.
        let (name, place) = unsafe { (raw::name(name)?, raw::Place::new(disk)?) };
        let store = handles::store(store)?;
        let volume = store.create_volume(name, bytes)?;
        place.put(handles::add_disk(Disk::Volume(store, volume))?);
        Ok(())
    })
}

/// Opens the volume of that name. `flags`: 0, or `SNAPDISK_ATTACH` for the one user that it has as a device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn snapdisk_volume_open(store: u64, name: *const c_char, flags: u32, disk: *mut u64) -> i32 {
    run(|| {
        // SAFETY: as the head of this file says.
        let (name, place) = unsafe { (raw::name(name)?, raw::Place::new(disk)?) };
        check_flags(flags, SNAPDISK_ATTACH)?;
        let store = handles::store(store)?;
        let volume = store.volume(name)?;
        let opened = match flags {
            SNAPDISK_ATTACH => volume.attach().map(|attached| Disk::Attached(store, attached))?,
            _ => Disk::Volume(store, volume),
        };
        place.put(handles::add_disk(opened)?);
        Ok(())
    })
}

/// Opens the snapshot with that id.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn snapdisk_snapshot_open(store: u64, id: u64, snapshot: *mut u64) -> i32 {
    run(|| {
        // SAFETY: as the head of this file says.
        let place = unsafe { raw::Place::new(snapshot) }?;
        let store = handles::store(store)?;
        place.put(open_snapshot(&store, |store| store.snapshot_by_id(SnapshotId(id)))?);
        Ok(())
    })
}

/// The handle of a snapshot of `store`.
pub(super) fn open_snapshot(
    store: &Store,
    find: impl FnOnce(&Store) -> crate::Result<crate::Snapshot>,
) -> Result<u64, Fault> {
    let snapshot = find(store)?;
    // Its size asks whether it is still there.
    ReadDisk::size(&snapshot)?;
    handles::add_disk(Disk::Snapshot(store.clone(), snapshot))
}
