//! Between C and Rust: what a call answers, and the only places that follow a pointer of the caller's.
//!
//! The header states the rules of pointers (P1 to P4 below) in the caller's words. What can be checked is checked here: null, alignment,
//! lengths, buffers of one read that overlap. The rest is the caller's promise, on which every `unsafe` here and in `store.rs`, `disk.rs` and
//! `data.rs` rests:
//!
//! * **P1** A pointer that is not null points to as much memory as its description says, readable, and writable where it is written to.
//! * **P2** During the call nobody else writes to what the library reads, or reads or writes what it writes to.
//! * **P3** A string ends with a NUL.
//! * **P4** The memory stays until the call returns. The library keeps no pointer beyond that.
#![allow(unsafe_code, reason = "pointers of C callers")]

use super::types::{SNAPDISK_E_HANDLE, SNAPDISK_E_INVALID, SNAPDISK_E_PANIC, SNAPDISK_OK, code};
use crate::{Error, Result};
use libc::iovec;
use std::{
    any::Any,
    cell::RefCell,
    ffi::{CStr, CString, OsStr, c_char, c_void},
    io::{IoSlice, IoSliceMut},
    mem,
    os::unix::ffi::OsStrExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    ptr, slice,
};

/// Buffers of one vectored call, at most: what Linux allows (`IOV_MAX`).
const BUFFERS: usize = 1024;

/// Why a call fails.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) code: i32,
    message: String,
}

impl Fault {
    pub(super) fn handle(message: String) -> Fault {
        Fault { code: SNAPDISK_E_HANDLE, message }
    }
    pub(super) fn invalid(message: impl Into<String>) -> Fault {
        Fault { code: SNAPDISK_E_INVALID, message: message.into() }
    }
    fn panic(payload: &(dyn Any + Send)) -> Fault {
        let text = payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(|s| &**s));
        let message = format!("the library failed within itself: {}", text.unwrap_or("no message"));
        Fault { code: SNAPDISK_E_PANIC, message }
    }
}

impl From<Error> for Fault {
    fn from(e: Error) -> Fault {
        Fault { code: code(e.kind()), message: e.to_string() }
    }
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// Carries out a call: the one place where a panic ends. What was locked or half done when it began is the engine's affair, which poisons a
/// store whose state a panic may have left incomplete; the table of handles is changed by single insertions and removals.
pub(super) fn run(f: impl FnOnce() -> Result<(), Fault>) -> i32 {
    let done = catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|payload| {
        let fault = Fault::panic(&*payload);
        // A payload may panic when it is dropped.
        mem::forget(payload);
        Err(fault)
    });
    match done {
        Ok(()) => SNAPDISK_OK,
        Err(Fault { code, message }) => {
            let message = CString::new(message.replace('\0', " ")).unwrap_or_default();
            // A thread that is ending has nowhere to keep it.
            let _ = LAST.try_with(|last| last.replace(message));
            code
        }
    }
}

/// The message of the last call of this thread that failed. It is good until the next one fails.
pub(super) fn last_error() -> *const c_char {
    LAST.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

fn check<T>(at: *const T, what: &str) -> Result<(), Fault> {
    if at.is_null() {
        return Err(Fault::invalid(format!("{what} is a null pointer")));
    }
    if !at.is_aligned() {
        return Err(Fault::invalid(format!("{what} is not aligned to {} bytes", align_of::<T>())));
    }
    Ok(())
}

/// A string.
///
/// # Safety
///
/// P1 to P4, for as long as `'a`.
unsafe fn c_str<'a>(at: *const c_char, what: &str) -> Result<&'a CStr, Fault> {
    check(at, what)?;
    // SAFETY: not null (checked), readable up to its NUL, and unchanged for `'a` (P1 to P4).
    Ok(unsafe { CStr::from_ptr(at) })
}

/// A name.
///
/// # Safety
///
/// P1 to P4, for as long as `'a`.
pub(super) unsafe fn name<'a>(at: *const c_char) -> Result<&'a str, Fault> {
    // SAFETY: as this function's own.
    let name = unsafe { c_str(at, "the name") }?;
    name.to_str().map_err(|_| Fault::invalid("the name is not UTF-8"))
}

/// A path of the file system, of any bytes.
///
/// # Safety
///
/// P1 to P4, for as long as `'a`.
pub(super) unsafe fn path<'a>(at: *const c_char) -> Result<&'a Path, Fault> {
    // SAFETY: as this function's own.
    let path = unsafe { c_str(at, "the path") }?;
    Ok(Path::new(OsStr::from_bytes(path.to_bytes())))
}

fn check_len(len: usize) -> Result<(), Fault> {
    match isize::try_from(len) {
        Ok(_) => Ok(()),
        Err(_) => Err(Fault::invalid(format!("a buffer of {len} bytes is longer than memory can be"))),
    }
}

/// Bytes to be read.
///
/// # Safety
///
/// P1, P2 and P4 for `len` bytes, for as long as `'a`.
pub(super) unsafe fn bytes<'a>(at: *const c_void, len: usize) -> Result<&'a [u8], Fault> {
    check_len(len)?;
    if len == 0 {
        return Ok(&[]);
    }
    check(at.cast::<u8>(), "the buffer")?;
    // SAFETY: not null and no longer than an object can be (checked); bytes need no alignment; readable (P1), unchanged (P2) and there (P4)
    // for `'a`. Memory that C has not written to holds some bytes as far as this library can tell, since it comes from outside.
    Ok(unsafe { slice::from_raw_parts(at.cast(), len) })
}

/// Bytes to be written.
///
/// # Safety
///
/// P1, P2 and P4 for `len` bytes, for as long as `'a`; no other slice over any of them is alive.
pub(super) unsafe fn bytes_mut<'a>(at: *mut c_void, len: usize) -> Result<&'a mut [u8], Fault> {
    check_len(len)?;
    if len == 0 {
        return Ok(&mut []);
    }
    check(at.cast::<u8>(), "the buffer")?;
    // SAFETY: as in `bytes`, and writable (P1), used by nobody else (P2) and by no other slice (above) for `'a`.
    Ok(unsafe { slice::from_raw_parts_mut(at.cast(), len) })
}

/// The descriptions of several buffers.
///
/// # Safety
///
/// P1, P2 and P4 for `count` descriptions, for as long as `'a`.
unsafe fn descriptions<'a>(at: *const iovec, count: usize) -> Result<&'a [iovec], Fault> {
    if count > BUFFERS {
        return Err(Fault::invalid(format!("{count} buffers, of {BUFFERS} at most")));
    }
    if count == 0 {
        return Ok(&[]);
    }
    check(at, "the list of buffers")?;
    // SAFETY: not null, aligned and short (checked); readable, unchanged and there for `'a` (P1, P2, P4). Any bytes are an `iovec`.
    let list = unsafe { slice::from_raw_parts(at, count) };
    let whole = list.iter().try_fold(0_usize, |sum, v| sum.checked_add(v.iov_len));
    whole.ok_or_else(|| Fault::invalid("the buffers together are longer than memory can be")).and_then(check_len)?;
    Ok(list)
}

/// Several buffers to be read.
///
/// # Safety
///
/// P1, P2 and P4 for the list and for each buffer, for as long as `'a`.
pub(super) unsafe fn buffers<'a>(at: *const iovec, count: usize) -> Result<Vec<IoSlice<'a>>, Fault> {
    // SAFETY: as this function's own.
    let list = unsafe { descriptions(at, count) }?;
    // SAFETY: as this function's own; that shared slices overlap is no matter.
    list.iter().map(|v| unsafe { bytes(v.iov_base, v.iov_len) }.map(IoSlice::new)).collect()
}

/// Several buffers to be written. `Invalid` where two of them overlap.
///
/// # Safety
///
/// P1, P2 and P4 for the list and for each buffer, for as long as `'a`.
pub(super) unsafe fn buffers_mut<'a>(at: *const iovec, count: usize) -> Result<Vec<IoSliceMut<'a>>, Fault> {
    // SAFETY: as this function's own.
    let list = unsafe { descriptions(at, count) }?;
    let mut ranges: Vec<_> = list.iter().filter(|v| v.iov_len > 0).map(|v| (v.iov_base.addr(), v.iov_len)).collect();
    ranges.sort_unstable();
    if ranges.windows(2).any(|two| two[0].0.checked_add(two[0].1).is_none_or(|end| end > two[1].0)) {
        return Err(Fault::invalid("two buffers of one read overlap"));
    }
    // SAFETY: as this function's own; no two of the slices overlap (checked).
    list.iter().map(|v| unsafe { bytes_mut(v.iov_base, v.iov_len) }.map(IoSliceMut::new)).collect()
}

/// A place for a result, which was checked before the work whose result it is to take began.
pub(super) struct Place<T>(*mut T);

impl<T: Copy> Place<T> {
    /// # Safety
    ///
    /// P1, P2 and P4 until the last [`Place::put`].
    pub(super) unsafe fn new(at: *mut T) -> Result<Place<T>, Fault> {
        check(at, "the place of the result").map(|()| Place(at))
    }
    pub(super) fn put(&self, value: T) {
        // SAFETY: not null and aligned (checked by `new`), writable and used by nobody else (P1, P2, promised to `new`). What stood there is
        // plain data of C and needs no drop.
        unsafe { self.0.write(value) };
    }
}

/// A place for a result that may be left out.
///
/// # Safety
///
/// As [`Place::new`], unless null.
pub(super) unsafe fn optional<T: Copy>(at: *mut T) -> Result<Option<Place<T>>, Fault> {
    // SAFETY: as this function's own.
    if at.is_null() { Ok(None) } else { unsafe { Place::new(at) }.map(Some) }
}

/// Places for up to `capacity` results and for their number.
pub(super) struct Page<T> {
    at: *mut T,
    pub(super) capacity: usize,
    count: Place<usize>,
}

impl<T: Copy> Page<T> {
    /// # Safety
    ///
    /// P1, P2 and P4, for `capacity` results and their number, until [`Page::put`].
    pub(super) unsafe fn new(at: *mut T, capacity: usize, count: *mut usize) -> Result<Page<T>, Fault> {
        // SAFETY: as this function's own.
        let count = unsafe { Place::new(count) }?;
        count.put(0);
        if capacity == 0 {
            return Err(Fault::invalid("a page of nothing"));
        }
        check(at, "the list of results")?;
        capacity.checked_mul(size_of::<T>()).ok_or_else(|| Fault::invalid("a list longer than memory"))?;
        Ok(Page { at, capacity, count })
    }
    pub(super) fn put(&self, results: impl IntoIterator<Item = T>) {
        let mut count = 0;
        for (i, result) in results.into_iter().take(self.capacity).enumerate() {
            // SAFETY: `i` is below the capacity, for which there is aligned, writable memory that nobody else uses (`new`).
            unsafe { self.at.add(i).write(result) };
            count = i + 1;
        }
        self.count.put(count);
    }
}

/// Reads a structure that may be shorter than today's: what is missing stays as in `defaults`. `Invalid` where a longer one says something
/// in the part that this version does not know.
///
/// # Safety
///
/// P1, P2 and P4 for the `size` bytes that the caller says there are. Every value of bytes is a `T`.
pub(super) unsafe fn grown<T: Copy>(at: *const T, size: usize, defaults: T) -> Result<T, Fault> {
    check(at, "the structure")?;
    check_len(size)?;
    let (known, mut value) = (size.min(size_of::<T>()), defaults);
    // SAFETY: `size` bytes are readable (P1), and `value` has `known` bytes of its own. Any bytes are a `T` (above).
    unsafe { ptr::copy_nonoverlapping(at.cast::<u8>(), ptr::from_mut(&mut value).cast(), known) };
    // SAFETY: P1 for `size` bytes, of which the first `known` are skipped.
    let unknown = unsafe { slice::from_raw_parts(at.cast::<u8>().add(known), size - known) };
    if unknown.iter().any(|&byte| byte != 0) {
        return Err(Fault::invalid("the structure sets something that this version of the library does not know"));
    }
    Ok(value)
}

/// Writes as much of `value` as the caller's structure of `size` bytes takes, and zeros into the rest.
///
/// # Safety
///
/// P1, P2 and P4 for `size` bytes. `T` has no padding.
pub(super) unsafe fn put_grown<T: Copy>(at: *mut T, size: usize, value: &T) -> Result<(), Fault> {
    check(at, "the structure")?;
    check_len(size)?;
    let known = size.min(size_of::<T>());
    // SAFETY: `size` bytes are writable (P1) and nobody else uses them (P2); `value` is a local value with `known` bytes of its own, all
    // initialised since `T` has no padding (above).
    unsafe {
        ptr::copy_nonoverlapping(ptr::from_ref(value).cast::<u8>(), at.cast(), known);
        at.cast::<u8>().add(known).write_bytes(0, size - known);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_ends_as_a_code() {
        assert_eq!(run(|| panic!("planted")), SNAPDISK_E_PANIC);
        // SAFETY: the pointer is to this thread's message, which stays until another call fails.
        let said = unsafe { CStr::from_ptr(last_error()) }.to_str().unwrap();
        assert!(said.contains("planted"), "{said}");
        struct Bad;
        impl Drop for Bad {
            fn drop(&mut self) {
                panic!("again");
            }
        }
        assert_eq!(run(|| std::panic::panic_any(Bad)), SNAPDISK_E_PANIC);
        assert_eq!(run(|| Ok(())), SNAPDISK_OK);
    }

    #[test]
    fn structures_of_other_lengths() {
        let longer = [1_u64, 2, 0, 0];
        let at = longer.as_ptr().cast::<[u64; 2]>();
        // SAFETY: as many bytes as are named are readable, and any bytes are numbers.
        unsafe {
            assert_eq!(grown(at, 8, [7, 8]).unwrap(), [1, 8]);
            assert_eq!(grown(at, 32, [7, 8]).unwrap(), [1, 2]);
            assert_eq!(grown(longer[1..].as_ptr().cast::<[u64; 1]>(), 16, [7]).unwrap(), [2]);
            assert_eq!(grown(at.cast::<[u64; 1]>(), 16, [7]).unwrap_err().code, SNAPDISK_E_INVALID);
        }
        let mut out = [9_u64; 4];
        // SAFETY: as many bytes as are named are writable, and numbers have no padding.
        unsafe {
            put_grown(out.as_mut_ptr().cast::<[u64; 2]>(), 24, &[1, 2]).unwrap();
            assert_eq!(out, [1, 2, 0, 9]);
            put_grown(out.as_mut_ptr().cast::<[u64; 2]>(), 8, &[3, 4]).unwrap();
        }
        assert_eq!(out, [3, 2, 0, 9]);
    }
}
