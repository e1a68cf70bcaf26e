//! Functions on the content of disks.
//!
//! SAFETY throughout: as in `store.rs`.
#![allow(unsafe_code, reason = "functions that C calls")]
#![allow(
    clippy::missing_safety_doc,
    reason = "the rules P1 to P4 of `raw.rs` hold for every pointer; the header states them"
)]

use super::{
    handles,
    handles::Disk,
    raw,
    raw::{Fault, run},
    store::check_flags,
    types::*,
};
use libc::iovec;
use std::ffi::c_void;

/// Fills `buf`, `len` bytes, from byte `offset` of the disk on. A range past the end answers `SNAPDISK_E_OUT_OF_RANGE`. After an error the
/// content of `buf` means nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn snapdisk_read(disk: u64, buf: *mut c_void, len: usize, offset: u64) -> i32 {
    run(|| {
        let disk = handles::disk(disk)?;
        // SAFETY: as the head of this file says; it is the only slice of this call.
        let buf = unsafe { raw::bytes_mut(buf, len) }?;
        Ok(disk.reader().read_at(buf, offset)?)
    })
}

/// `snapdisk_read` into up to 1024 buffers, one after the other, as one read. Two buffers that overlap are `SNAPDISK_E_INVALID`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn snapdisk_readv(disk: u64, buffers: *const iovec, count: usize, offset: u64) -> i32 {
    run(|| {
        let disk = handles::disk(disk)?;
        // SAFETY: as the head of this file says; they are the only slices of this call.
        let mut buffers = unsafe { raw::buffers_mut(buffers, count) }?;
        Ok(disk.reader().read_vectored_at(&mut buffers, offset)?)
    })
}

/// Writes `buf`, `len` bytes, from byte `offset` of the volume on. Up to 1 MiB appears whole or not at all after a crash; a longer write is
/// cut at multiples of 1 MiB. It is durable after the next flush, or with `SNAPDISK_FUA` when it returns. A buffer that another thread
/// changes meanwhile can leave blocks that no read verifies.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn snapdisk_write(disk: u64, buf: *const c_void, len: usize, offset: u64, flags: u32) -> i32 {
    run(|| {
        check_flags(flags, SNAPDISK_FUA)?;
        let disk = handles::disk(disk)?;
        // SAFETY: as the head of this file says.
        let buf = unsafe { raw::bytes(buf, len) }?;
        match (&*disk, flags) {
            (Disk::Attached(_, volume), 0) => volume.write_at(buf, offset)?,
            (Disk::Attached(_, volume), _) => volume.write_fua_at(buf, offset)?,
            (other, 0) => other.volume()?.write_at(buf, offset)?,
            (other, _) => other.volume()?.write_fua_at(buf, offset)?,
        }
        Ok(())
    })
}

/// `snapdisk_write` from up to 1024 buffers, one after the other, as one write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn snapdisk_writev(
    disk: u64,
    buffers: *const iovec,
    count: usize,
    offset: u64,
    flags: u32,
) -> i32 {
    run(|| {
        check_flags(flags, SNAPDISK_FUA)?;
        let disk = handles::disk(disk)?;
        // SAFETY: as the head of this file says.
        let buffers = unsafe { raw::buffers(buffers, count) }?;
        match &*disk {
            Disk::Attached(_, volume) => volume.write_vectored_at(&buffers, offset)?,
            other => other.volume()?.write_vectored_at(&buffers, offset)?,
        }
        if flags == SNAPDISK_FUA { flush(&disk) } else { Ok(()) }
    })
}

fn flush(disk: &Disk) -> Result<(), Fault> {
    match disk {
        Disk::Attached(_, volume) => volume.flush()?,
        other => other.volume()?.flush()?,
    }
    Ok(())
}

/// Makes durable every operation of the store that returned before this call. Without anything new it costs nothing.
#[unsafe(no_mangle)]
pub extern "C" fn snapdisk_disk_flush(disk: u64) -> i32 {
    run(|| flush(&*handles::disk(disk)?))
}

/// Makes a range of the volume read as zeros, and gives its space back where whole blocks of 4096 bytes are covered. One unit, whatever its
/// length.
#[unsafe(no_mangle)]
pub extern "C" fn snapdisk_discard(disk: u64, offset: u64, len: u64) -> i32 {
    run(|| {
        let disk = handles::disk(disk)?;
        match &*disk {
            Disk::Attached(_, volume) => volume.discard(offset, len)?,
            other => other.volume()?.discard(offset, len)?,
        }
        Ok(())
    })
}

/// Makes a range of the volume read as zeros. The same as `snapdisk_discard`: zeros need no space.
#[unsafe(no_mangle)]
pub extern "C" fn snapdisk_write_zeroes(disk: u64, offset: u64, len: u64) -> i32 {
    snapdisk_discard(disk, offset, len)
}

/// Lists up to `capacity` of the parts of `len` bytes from `offset` on that are data or holes, in order and without gaps, and puts their
/// number into `count`. Fewer may come, but none only of an empty range: the next page begins where the last part ends.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn snapdisk_extents(
    disk: u64,
    offset: u64,
    len: u64,
    list: *mut Extent,
    capacity: usize,
    count: *mut usize,
) -> i32 {
    run(|| {
        // SAFETY: as the head of this file says.
        let page = unsafe { raw::Page::new(list, capacity, count) }?;
        let end = offset.checked_add(len);
        let end = end.ok_or_else(|| crate::Error::new(crate::ErrorKind::OutOfRange, "a range past 2^64 bytes"))?;
        let parts = handles::disk(disk)?.reader().extents_page(offset..end, page.capacity)?;
        page.put(parts.into_iter().map(Extent::from));
        Ok(())
    })
}
