//! Calls with bad arguments of every kind, from several threads.
//!
//! SAFETY throughout: pointers are null, unaligned and never followed (which is what is tested), or point to live values of this file that are
//! as long as is said.
#![allow(unsafe_code, reason = "the functions are called as C calls them")]
#![allow(clippy::undocumented_unsafe_blocks, reason = "the head argues for all calls")]

use libc::iovec;
use snapdisk::capi::*;
use std::{
    ffi::{CStr, CString},
    path::Path,
    ptr::{null, null_mut},
    thread,
};

/// An open store with a volume, a snapshot and what is expected of neither.
struct Fixture {
    store: u64,
    disk: u64,
    snapshot: u64,
    closed: u64,
    _dir: tempfile::TempDir,
}

const SIZE: u64 = 8 << 20;

fn path(at: &Path) -> CString {
    CString::new(at.to_str().unwrap()).unwrap()
}

fn said() -> String {
    unsafe { CStr::from_ptr(snapdisk_last_error()) }.to_str().unwrap().to_owned()
}

#[track_caller]
fn made(f: impl FnOnce(*mut u64) -> i32) -> u64 {
    let mut handle = 0;
    let code = f(&mut handle);
    assert_eq!(code, SNAPDISK_OK, "{}", said());
    assert_ne!(handle, 0);
    handle
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let at = path(&dir.path().join("disks.img"));
    unsafe {
        let store = made(|out| snapdisk_create(at.as_ptr(), null(), out));
        let disk = made(|out| snapdisk_volume_create(store, c"a".as_ptr(), SIZE, out));
        assert_eq!(snapdisk_write(disk, [7_u8; 4096].as_ptr().cast(), 4096, 4096, SNAPDISK_FUA), SNAPDISK_OK);
        let snapshot = made(|out| snapdisk_snapshot_create(disk, c"s".as_ptr(), 0, out));
        let closed = made(|out| snapdisk_volume_open(store, c"a".as_ptr(), 0, out));
        assert_eq!(snapdisk_disk_close(closed), SNAPDISK_OK);
        Fixture { store, disk, snapshot, closed, _dir: dir }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        snapdisk_disk_close(self.snapshot);
        snapdisk_disk_close(self.disk);
        snapdisk_close(self.store);
    }
}

type Row = (&'static str, i32, fn(&Fixture) -> i32);

/// What is wrong, the code that says so, and the call.
const REFUSED: &[Row] = &[
    ("a handle of nothing", SNAPDISK_E_HANDLE, |_| snapdisk_disk_flush(0)),
    ("a small number", SNAPDISK_E_HANDLE, |_| snapdisk_flush(12)),
    ("a closed handle", SNAPDISK_E_HANDLE, |f| snapdisk_discard(f.closed, 0, 0)),
    ("a closed handle, closed", SNAPDISK_E_HANDLE, |f| snapdisk_disk_close(f.closed)),
    ("a handle of another process", SNAPDISK_E_WRONG_PROCESS, |f| snapdisk_disk_flush(f.disk ^ 1 << 40)),
    ("every bit", SNAPDISK_E_WRONG_PROCESS, |_| snapdisk_disk_flush(u64::MAX)),
    ("a disk for a store", SNAPDISK_E_HANDLE, |f| snapdisk_flush(f.disk)),
    ("a store for a disk", SNAPDISK_E_HANDLE, |f| snapdisk_disk_flush(f.store)),
    ("a disk, closed as a store", SNAPDISK_E_HANDLE, |f| snapdisk_close(f.disk)),
    ("a store, closed as a disk", SNAPDISK_E_HANDLE, |f| snapdisk_disk_close(f.store)),
    ("a volume for a snapshot", SNAPDISK_E_INVALID, |f| snapdisk_rollback(f.disk, f.disk, 0)),
    ("a rollback of a snapshot", SNAPDISK_E_READ_ONLY, |f| snapdisk_rollback(f.snapshot, f.snapshot, 0)),
    ("a snapshot, written", SNAPDISK_E_READ_ONLY, |f| write(f.snapshot, &[1], 0)),
    ("a snapshot, resized", SNAPDISK_E_READ_ONLY, |f| snapdisk_resize(f.snapshot, 512)),
    ("a snapshot, discarded", SNAPDISK_E_READ_ONLY, |f| snapdisk_discard(f.snapshot, 0, 512)),
    ("an attachment of none", SNAPDISK_E_INVALID, |f| snapdisk_acknowledge(f.disk, 0)),
    ("a null buffer to read", SNAPDISK_E_INVALID, |f| unsafe { snapdisk_read(f.disk, null_mut(), 1, 0) }),
    ("a null buffer to write", SNAPDISK_E_INVALID, |f| unsafe { snapdisk_write(f.disk, null(), 1, 0, 0) }),
    ("a length past memory", SNAPDISK_E_INVALID, |f| unsafe {
        snapdisk_read(f.disk, [0_u8].as_mut_ptr().cast(), usize::MAX, 0)
    }),
    ("a null list of buffers", SNAPDISK_E_INVALID, |f| unsafe { snapdisk_readv(f.disk, null(), 1, 0) }),
    ("too many buffers", SNAPDISK_E_INVALID, |f| readv(f.disk, &[part(null_mut(), 0); 1025], 0)),
    ("a null buffer of many", SNAPDISK_E_INVALID, |f| readv(f.disk, &[part(null_mut(), 9)], 0)),
    ("lengths that overflow", SNAPDISK_E_INVALID, |f| readv(f.disk, &[part(null_mut(), usize::MAX); 3], 0)),
    ("buffers that overlap", SNAPDISK_E_INVALID, |f| {
        let mut b = [0_u8; 8];
        let at = b.as_mut_ptr();
        readv(f.disk, &[part(at.wrapping_add(4), 4), part(at, 5)], 0)
    }),
    ("unknown flags of a write", SNAPDISK_E_INVALID, |f| unsafe {
        snapdisk_write(f.disk, [0_u8].as_ptr().cast(), 1, 0, 2)
    }),
    ("a read past the end", SNAPDISK_E_OUT_OF_RANGE, |f| read(f.disk, 2, SIZE - 1)),
    ("a read at the last offset", SNAPDISK_E_OUT_OF_RANGE, |f| read(f.disk, 1, u64::MAX)),
    ("nothing at the last offset", SNAPDISK_E_OUT_OF_RANGE, |f| read(f.disk, 0, u64::MAX)),
    ("a write at the last offset", SNAPDISK_E_OUT_OF_RANGE, |f| write(f.disk, &[1, 2], u64::MAX)),
    ("a discard of everything", SNAPDISK_E_OUT_OF_RANGE, |f| snapdisk_discard(f.disk, 0, u64::MAX)),
    ("a discard past 2^64", SNAPDISK_E_OUT_OF_RANGE, |f| snapdisk_discard(f.disk, u64::MAX, u64::MAX)),
    ("zeros past 2^64", SNAPDISK_E_OUT_OF_RANGE, |f| snapdisk_write_zeroes(f.disk, u64::MAX, 2)),
    ("extents past 2^64", SNAPDISK_E_OUT_OF_RANGE, |f| extents(f.disk, u64::MAX, 2, 1)),
    ("a page of nothing", SNAPDISK_E_INVALID, |f| extents(f.disk, 0, SIZE, 0)),
    ("no place for the count", SNAPDISK_E_INVALID, |f| unsafe {
        snapdisk_extents(f.disk, 0, 1, null_mut(), 1, null_mut())
    }),
    ("no place for the list", SNAPDISK_E_INVALID, |f| unsafe { snapdisk_volumes(f.store, 0, null_mut(), 1, &mut 0) }),
    ("a list past memory", SNAPDISK_E_INVALID, |f| unsafe {
        let mut info = std::mem::zeroed();
        snapdisk_volumes(f.store, 0, &mut info, usize::MAX, &mut 0)
    }),
    ("an unaligned place", SNAPDISK_E_INVALID, |f| unsafe {
        snapdisk_disk_size(f.disk, (&mut 0_u64 as *mut u64).wrapping_byte_add(1))
    }),
    ("no place for a handle", SNAPDISK_E_INVALID, |f| unsafe {
        snapdisk_volume_create(f.store, c"never".as_ptr(), 512, null_mut())
    }),
    ("no name", SNAPDISK_E_INVALID, |f| unsafe { snapdisk_volume_open(f.store, null(), 0, &mut 0) }),
    ("a name that is no text", SNAPDISK_E_INVALID, |f| unsafe { snapdisk_disk_rename(f.disk, c"\xff".as_ptr()) }),
    ("a name that is no name", SNAPDISK_E_INVALID, |f| unsafe { snapdisk_disk_rename(f.disk, c"-a/b".as_ptr()) }),
    ("a name of nothing", SNAPDISK_E_NOT_FOUND, |f| unsafe { snapdisk_volume_open(f.store, c"b".as_ptr(), 0, &mut 0) }),
    ("a name that is taken", SNAPDISK_E_EXISTS, |f| unsafe {
        snapdisk_volume_create(f.store, c"a".as_ptr(), 512, &mut 0)
    }),
    ("a size of no sector", SNAPDISK_E_INVALID, |f| snapdisk_resize(f.disk, 513)),
    ("the largest size", SNAPDISK_E_INVALID, |f| snapdisk_resize(f.disk, u64::MAX)),
    ("a volume with snapshots, deleted", SNAPDISK_E_INVALID, |f| snapdisk_disk_delete(f.disk, 0)),
    ("an unknown deletion", SNAPDISK_E_INVALID, |f| snapdisk_disk_delete(f.disk, 3)),
    ("a snapshot that never was", SNAPDISK_E_DELETED, |f| unsafe { snapdisk_snapshot_open(f.store, 99, &mut 0) }),
    ("no path", SNAPDISK_E_INVALID, |_| unsafe { snapdisk_open(null(), null(), &mut 0) }),
    ("a path of nothing", SNAPDISK_E_NOT_FOUND, |_| unsafe {
        snapdisk_open(c"/nonexistent/disks.img".as_ptr(), null(), &mut 0)
    }),
    ("options of no size", SNAPDISK_E_INVALID, |_| open(|o| o.size = 0)),
    ("unknown flags of an opening", SNAPDISK_E_INVALID, |_| open(|o| o.flags = 1 << 31)),
    ("a reserved field", SNAPDISK_E_INVALID, |_| open(|o| o.reserved = 1)),
    ("memory that is too little", SNAPDISK_E_INVALID, |_| open(|o| o.memory_bytes = 1)),
    ("no options to fill", SNAPDISK_E_INVALID, |_| unsafe { snapdisk_options_init(null_mut(), 64) }),
    ("no counters to fill", SNAPDISK_E_INVALID, |f| unsafe { snapdisk_counters(f.store, null_mut(), 8) }),
];

fn part(at: *mut u8, len: usize) -> iovec {
    iovec { iov_base: at.cast(), iov_len: len }
}
fn read(disk: u64, len: usize, offset: u64) -> i32 {
    unsafe { snapdisk_read(disk, vec![0_u8; len].as_mut_ptr().cast(), len, offset) }
}
fn readv(disk: u64, parts: &[iovec], offset: u64) -> i32 {
    unsafe { snapdisk_readv(disk, parts.as_ptr(), parts.len(), offset) }
}
fn write(disk: u64, bytes: &[u8], offset: u64) -> i32 {
    unsafe { snapdisk_write(disk, bytes.as_ptr().cast(), bytes.len(), offset, 0) }
}
fn extents(disk: u64, offset: u64, len: u64, capacity: usize) -> i32 {
    let mut list = [Extent { offset: 0, len: 0, data: 0, reserved: 0 }; 8];
    unsafe { snapdisk_extents(disk, offset, len, list.as_mut_ptr(), capacity, &mut 0) }
}
/// Opens an image that is not there, with options that are changed.
fn open(change: fn(&mut Options)) -> i32 {
    let dir = tempfile::tempdir().unwrap();
    let at = path(&dir.path().join("none.img"));
    unsafe {
        let mut options = std::mem::zeroed();
        assert_eq!(snapdisk_options_init(&mut options, size_of::<Options>()), SNAPDISK_OK);
        change(&mut options);
        snapdisk_create(at.as_ptr(), &options, &mut 0)
    }
}

#[test]
fn bad_arguments_are_answered_and_change_nothing() {
    let f = fixture();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for (what, code, call) in REFUSED {
                    assert_eq!(call(&f), *code, "{what}: {}", said());
                    assert!(!said().is_empty(), "{what}");
                }
            });
        }
    });
    let mut buf = [0_u8; 4096];
    let mut size = 0;
    unsafe {
        for disk in [f.disk, f.snapshot] {
            assert_eq!(snapdisk_read(disk, buf.as_mut_ptr().cast(), 4096, 4096), SNAPDISK_OK);
            assert_eq!(buf, [7; 4096]);
            assert_eq!(snapdisk_disk_size(disk, &mut size), SNAPDISK_OK);
            assert_eq!(size, SIZE);
        }
        let mut list: [Info; 4] = std::mem::zeroed();
        let mut count = 9;
        assert_eq!(snapdisk_volumes(f.store, 0, list.as_mut_ptr(), 4, &mut count), SNAPDISK_OK);
        assert_eq!(count, 1);
        assert_eq!(snapdisk_check(f.store, &mut size), SNAPDISK_OK);
        assert_eq!(size, 0);
    }
}

#[test]
fn every_code_has_an_errno() {
    let device = |code| snapdisk_errno(code);
    assert_eq!(device(SNAPDISK_OK), 0);
    assert_eq!(device(SNAPDISK_E_NO_SPACE), libc::ENOSPC);
    assert_eq!(device(SNAPDISK_E_STALE), libc::ESTALE);
    assert_eq!(device(SNAPDISK_E_HANDLE), libc::EBADF);
    assert_eq!(device(SNAPDISK_E_PANIC), libc::EIO);
    assert!((SNAPDISK_E_INVALID..=SNAPDISK_E_OTHER).chain([-1, i32::MAX]).all(|code| device(code) > 0));
}

#[test]
fn lists_come_by_pages() {
    let f = fixture();
    let name = |i: usize| CString::new(format!("n{i}")).unwrap();
    unsafe {
        for i in 0..7 {
            let made = made(|out| snapdisk_volume_create(f.store, name(i).as_ptr(), 512, out));
            assert_eq!(snapdisk_disk_close(made), SNAPDISK_OK);
            assert_eq!(snapdisk_snapshot_create(f.disk, name(i).as_ptr(), SNAPDISK_DEFERRED, null_mut()), SNAPDISK_OK);
        }
        let list = |ask: &dyn Fn(u64, *mut Info, *mut usize) -> i32| {
            let (mut after, mut names) = (0, Vec::new());
            loop {
                let (mut page, mut count): ([Info; 3], _) = (std::mem::zeroed(), 0);
                assert_eq!(ask(after, page.as_mut_ptr(), &mut count), SNAPDISK_OK, "{}", said());
                for info in &page[..count] {
                    after = info.id;
                    names.push(CStr::from_ptr(info.name.as_ptr()).to_str().unwrap().to_owned());
                }
                if count < 3 {
                    return names.join(" ");
                }
            }
        };
        let volumes = list(&|after, page, count| snapdisk_volumes(f.store, after, page, 3, count));
        assert_eq!(volumes, "a n0 n1 n2 n3 n4 n5 n6");
        let snapshots = list(&|after, page, count| snapdisk_snapshots(f.store, after, page, 3, count));
        assert_eq!(snapshots, "s n0 n1 n2 n3 n4 n5 n6");
        let own = list(&|after, page, count| snapdisk_disk_snapshots(f.disk, after, page, 3, count));
        assert_eq!(own, snapshots);
    }
}

/// An attached volume: who else is refused, what the holder is told, and how it goes on.
#[test]
fn attachments() {
    let f = fixture();
    unsafe {
        let held = made(|out| snapdisk_volume_open(f.store, c"a".as_ptr(), SNAPDISK_ATTACH, out));
        let again = snapdisk_volume_open(f.store, c"a".as_ptr(), SNAPDISK_ATTACH, &mut 0);
        assert_eq!(again, SNAPDISK_E_BUSY);
        assert_eq!(snapdisk_rollback(f.disk, f.snapshot, 0), SNAPDISK_E_BUSY);
        assert_eq!(write(held, b"x", 0), SNAPDISK_OK);
        let parts = [part([8_u8; 3].as_mut_ptr(), 3)];
        assert_eq!(snapdisk_writev(held, parts.as_ptr(), 1, 1, SNAPDISK_FUA), SNAPDISK_OK);
        assert_eq!(snapdisk_rollback(held, f.snapshot, SNAPDISK_KEEP_SIZE), SNAPDISK_OK);
        let mut generation = 0;
        assert_eq!(snapdisk_generation(held, &mut generation), SNAPDISK_OK);
        assert_eq!(generation, 1);
        assert_eq!(snapdisk_acknowledge(held, generation), SNAPDISK_OK);
        let mut figures: VolumeFigures = std::mem::zeroed();
        assert_eq!(snapdisk_disk_counters(held, &mut figures, size_of::<VolumeFigures>()), SNAPDISK_OK);
        assert_eq!((figures.writes, figures.written_bytes), (3, 4096 + 1 + 3));
        assert_eq!(snapdisk_disk_close(held), SNAPDISK_OK);
        assert_eq!(snapdisk_rollback(f.disk, f.snapshot, 0), SNAPDISK_OK);
    }
}

/// Handles that are closed by one thread while others use them.
#[test]
fn closing_beside_calls() {
    let f = fixture();
    thread::scope(|scope| {
        for i in 0..4_u64 {
            let f = &f;
            scope.spawn(move || {
                for n in 0..200_u64 {
                    let disk = made(|out| unsafe { snapdisk_volume_open(f.store, c"a".as_ptr(), 0, out) });
                    let user = scope.spawn(move || {
                        let codes = [write(disk, &[n as u8; 512], i * 4096), read(disk, 4096, i * 4096)];
                        assert!(codes.iter().all(|&c| [SNAPDISK_OK, SNAPDISK_E_HANDLE].contains(&c)), "{codes:?}");
                    });
                    assert_eq!(snapdisk_disk_close(disk), SNAPDISK_OK);
                    user.join().unwrap();
                }
            });
        }
    });
}
