//! Files: locks, what is refused, cold reads, holes, and the map against `pread`.

use super::*;
use crate::{
    ErrorKind,
    io::{MemoryBackend, map},
};
use parking_lot::{RwLock, RwLockReadGuard};
use rustix::fs::{FileType, Mode};
use std::{
    fs as sfs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Held shared by tests of files, and alone by the one that forks: until a child ends it holds every file of the process, and its lock.
static FORKS: RwLock<()> = RwLock::new(());

struct Dir {
    dir: tempfile::TempDir,
    _no_forks: RwLockReadGuard<'static, ()>,
}

impl Dir {
    fn path(&self) -> &Path {
        self.dir.path()
    }
}

fn dir() -> Dir {
    Dir { dir: tempfile::tempdir().unwrap(), _no_forks: FORKS.read_recursive() }
}
fn make(path: &Path, read_path: ReadPath) -> FileBackend {
    let b = FileBackend::create(path, read_path).unwrap();
    b.publish().unwrap();
    b
}
fn kind<T>(r: Result<T>) -> ErrorKind {
    r.err().expect("refused").kind()
}
fn fill(b: &dyn Backend, off: u64, len: usize) -> Vec<u8> {
    let mut buf = vec![0xee; len];
    let mut done = 0;
    while done < len {
        match b.read_at(off + done as u64, &mut buf[done..]).unwrap() {
            0 => break,
            n => done += n,
        }
    }
    buf.truncate(done);
    buf
}
/// Bytes that no two positions share by accident.
fn pattern(len: usize, salt: u64) -> Vec<u8> {
    (0..len as u64).map(|i| ((i ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

#[test]
fn one_writer_or_many_readers_in_one_process_too() {
    let d = dir();
    let p = d.path().join("a");
    let w = make(&p, ReadPath::Auto);
    assert_eq!(kind(FileBackend::open(&p, true, ReadPath::Auto)), ErrorKind::Locked);
    assert_eq!(kind(FileBackend::open(&p, false, ReadPath::Auto)), ErrorKind::Locked);
    drop(w);
    let r1 = FileBackend::open(&p, false, ReadPath::Auto).unwrap();
    let r2 = FileBackend::open(&p, false, ReadPath::Pread).unwrap();
    assert_eq!(kind(FileBackend::open(&p, true, ReadPath::Auto)), ErrorKind::Locked);
    drop((r1, r2));
    FileBackend::open(&p, true, ReadPath::Auto).unwrap();
}

#[test]
fn a_lock_goes_with_its_opening_though_a_copy_of_the_descriptor_lives() {
    let d = dir();
    let p = d.path().join("a");
    let w = make(&p, ReadPath::Auto);
    let inherited = w.file.try_clone().unwrap();
    drop(w);
    FileBackend::open(&p, true, ReadPath::Auto).unwrap();
    drop(inherited);
}

#[test]
fn every_description_is_close_on_exec_and_its_own() {
    let d = dir();
    let w = make(&d.path().join("a"), ReadPath::Map);
    let files = [Some(&w.file), w.checkpoint.as_ref(), w.direct.as_ref()];
    for f in files.iter().flatten() {
        assert!(rustix::io::fcntl_getfd(f).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        // A position belongs to the description.
        assert_eq!(fs::tell(f).unwrap(), 0);
    }
    fs::seek(&w.file, fs::SeekFrom::Start(4096)).unwrap();
    for f in files[1..].iter().flatten() {
        assert_eq!(fs::tell(f).unwrap(), 0);
    }
}

#[test]
fn only_regular_files_are_images() {
    let d = dir();
    let at = |n: &str| d.path().join(n);
    fs::mknodat(fs::CWD, at("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    symlink(at("pipe"), at("link-to-pipe")).unwrap();
    symlink(at("loop"), at("loop")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    for writable in [false, true] {
        for p in [d.path().into(), at("pipe"), at("link-to-pipe"), at("socket"), PathBuf::from("/dev/null")] {
            let e = FileBackend::open(&p, writable, ReadPath::Auto).err().unwrap();
            assert_eq!(e.kind(), ErrorKind::Invalid, "{}", p.display());
            assert!(e.to_string().contains("regular file"), "{e}");
        }
        assert_eq!(kind(FileBackend::open(at("none"), writable, ReadPath::Auto)), ErrorKind::NotFound);
        assert_eq!(kind(FileBackend::open(at("pipe").join("x"), writable, ReadPath::Auto)), ErrorKind::NotFound);
        assert_eq!(kind(FileBackend::open(at("loop"), writable, ReadPath::Auto)), ErrorKind::Io);
        assert_eq!(kind(FileBackend::open("nul\0", writable, ReadPath::Auto)), ErrorKind::Invalid);
    }
}

#[test]
fn a_symbolic_link_is_followed_and_a_second_name_refused_for_writing() {
    let d = dir();
    let (p, l, h) = (d.path().join("a"), d.path().join("l"), d.path().join("h"));
    drop(make(&p, ReadPath::Auto));
    symlink(&p, &l).unwrap();
    let w = FileBackend::open(&l, true, ReadPath::Auto).unwrap();
    assert_eq!(kind(FileBackend::open(&p, true, ReadPath::Auto)), ErrorKind::Locked);
    drop(w);
    sfs::hard_link(&p, &h).unwrap();
    let e = FileBackend::open(&h, true, ReadPath::Auto).err().unwrap();
    assert_eq!(e.kind(), ErrorKind::Invalid);
    assert!(e.to_string().contains("hard link"), "{e}");
    FileBackend::open(&h, false, ReadPath::Auto).unwrap();
}

#[test]
fn a_read_only_file_opens_for_reading_and_takes_no_write() {
    let d = dir();
    let p = d.path().join("a");
    drop(make(&p, ReadPath::Auto));
    sfs::write(&p, [7; 5000]).unwrap();
    sfs::set_permissions(&p, sfs::Permissions::from_mode(0o444)).unwrap();
    let before = sfs::metadata(&p).unwrap();
    let r = FileBackend::open(&p, false, ReadPath::Map).unwrap();
    assert_eq!(fill(&r, 0, 9000), [7; 5000]);
    assert!(r.write_at(0, &[1]).is_err() && r.set_len(0).is_err() && r.reserve(0, 9000).is_err());
    assert!(r.punch(0, 4096).is_err() && r.push(0, 1).is_err() && r.sync_data(Lane::Checkpoint).is_err());
    drop(r);
    let after = sfs::metadata(&p).unwrap();
    assert_eq!((before.len(), before.modified().unwrap()), (after.len(), after.modified().unwrap()));
}

#[test]
fn create_shows_nothing_before_publish_and_never_replaces() {
    let d = dir();
    let p = d.path().join("a");
    let names = || sfs::read_dir(d.path()).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
    let b = FileBackend::create(&p, ReadPath::Auto).unwrap();
    assert!(!p.exists());
    assert_eq!(names().len(), 1);
    b.write_at(0, b"hello").unwrap();
    drop(b);
    assert!(names().is_empty(), "{:?}", names());

    let b = FileBackend::create(&p, ReadPath::Auto).unwrap();
    b.write_at(0, b"hello").unwrap();
    let other = FileBackend::create(&p, ReadPath::Auto).unwrap();
    b.publish().unwrap();
    b.publish().unwrap();
    assert_eq!(names().len(), 2);
    assert_eq!(kind(other.publish()), ErrorKind::Exists);
    drop(other);
    assert_eq!(names(), ["a"]);
    assert_eq!(sfs::read(&p).unwrap(), b"hello");
    let meta = sfs::metadata(&p).unwrap();
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    assert_eq!(kind(FileBackend::open(&p, true, ReadPath::Auto)), ErrorKind::Locked);
    assert_eq!(kind(FileBackend::create(&p, ReadPath::Auto)), ErrorKind::Exists);
}

#[test]
fn reserve_grows_and_keeps_and_punch_zeroes() {
    let d = dir();
    let b = make(&d.path().join("a"), ReadPath::Map);
    let bytes = pattern(3 << 16, 1);
    assert_eq!(b.write_at(0, &bytes).unwrap(), bytes.len());
    b.reserve(1 << 16, 1 << 20).unwrap();
    assert_eq!(b.len().unwrap(), (1 << 16) + (1 << 20));
    assert_eq!(fill(&b, 0, bytes.len()), bytes);
    assert!(fill(&b, bytes.len() as u64, 1 << 20).iter().all(|&x| x == 0));
    b.punch(1 << 16, 1 << 16).unwrap();
    assert!(fill(&b, 1 << 16, 1 << 16).iter().all(|&x| x == 0));
    assert_eq!(fill(&b, 0, 1 << 16), bytes[..1 << 16]);
    assert_eq!(fill(&b, 2 << 16, 1 << 16), bytes[2 << 16..]);
    b.reserve(1 << 16, 1 << 16).unwrap();
    b.punch(0, 0).unwrap();
    b.reserve(0, 0).unwrap();
    b.push(0, 0).unwrap();
    b.push(0, 1 << 20).unwrap();
    b.sync_data(Lane::Flush).unwrap();
    b.sync_data(Lane::Checkpoint).unwrap();
    assert_eq!(b.len().unwrap(), (1 << 16) + (1 << 20));
    for (off, len) in [(u64::MAX, 1), (u64::MAX, u64::MAX), (1 << 62, 1 << 62), (0, u64::MAX)] {
        assert!(b.reserve(off, len).is_err() && b.punch(off, len).is_err(), "{off} {len}");
    }
    assert!(b.write_at(u64::MAX, &[1]).is_err() && b.set_len(u64::MAX).is_err() && b.push(u64::MAX, 1).is_err());
}

/// Where the filesystem is one that is known to sync ranges; elsewhere the call changes nothing.
#[test]
fn a_synced_write_is_written_or_refused_as_a_whole() {
    let d = dir();
    let path = d.path().join("a");
    let b = make(&path, ReadPath::Pread);
    b.write_at(0, &pattern(1 << 16, 1)).unwrap();
    for lane in [Lane::Flush, Lane::Checkpoint, Lane::Space] {
        let want = pattern(4096, 2 + lane as u64);
        match b.write_synced(lane, 8192, &want, &[0..4096, 16384..32768]) {
            Ok(n) => assert_eq!((b.syncs_ranges, n, fill(&b, 8192, 4096)), (true, 4096, want)),
            Err(e) => {
                assert_eq!((b.syncs_ranges, e.kind()), (false, io::ErrorKind::Unsupported));
                assert_eq!(fill(&b, 8192, 4096), pattern(1 << 16, 1)[8192..12288]);
            }
        }
    }
    drop(b);
    let r = FileBackend::open(&path, false, ReadPath::Pread).unwrap();
    assert!(
        r.write_synced(Lane::Flush, 0, &[1; 4096], &[]).is_err()
            && r.write_synced(Lane::Space, 0, &[1; 4096], &[]).is_err()
    );
    assert_eq!(fill(&r, 0, 4096), pattern(1 << 16, 1)[..4096]);
}

#[test]
fn more_buffers_than_one_call_takes_are_a_short_write() {
    let d = dir();
    let b = make(&d.path().join("a"), ReadPath::Pread);
    let bytes = pattern(3000, 2);
    let bufs: Vec<_> = bytes.chunks(1).map(IoSlice::new).collect();
    assert_eq!(b.write_vectored_at(5, &bufs).unwrap(), IOV_MAX);
    assert_eq!(fill(&b, 5, 3000), bytes[..IOV_MAX]);
}

/// Reads like any other, at any alignment, and to the end of the file only.
#[test]
fn cold_reads_return_what_was_synced() {
    let d = dir();
    let b = make(&d.path().join("a"), ReadPath::Auto);
    let bytes = pattern((2 << 20) + 777, 3);
    assert_eq!(b.write_at(0, &bytes).unwrap(), bytes.len());
    b.sync_data(Lane::Flush).unwrap();
    for off in [0, 1, 511, 512, 4095, 4096, 4097, 1 << 20, (2 << 20) + 1, bytes.len() - 1, bytes.len(), bytes.len() + 1]
    {
        for len in [0, 1, 100, 4096, 4097, 10_000, (1 << 20) + 5] {
            let want = &bytes[off.min(bytes.len())..(off + len).min(bytes.len())];
            let mut buf = vec![0xee; len + 1];
            let mut done = 0;
            while done < len {
                match b.read_cold((off + done) as u64, &mut buf[done..len]).unwrap() {
                    0 => break,
                    n => done += n,
                }
            }
            assert_eq!(&buf[..done], want, "{off} {len}");
            assert!(buf[done..].iter().all(|&x| x == 0xee), "{off} {len}: wrote past what it read");
        }
    }
}

#[test]
fn a_memory_filesystem_says_that_its_cache_is_the_medium() {
    let _no_forks = FORKS.read_recursive();
    let Ok(d) = tempfile::tempdir_in("/dev/shm") else { return };
    let b = make(&d.path().join("a"), ReadPath::Auto);
    let fs_type = fs::fstatfs(&b.file).unwrap().f_type as u32;
    if !magic::MEMORY.contains(&fs_type) {
        return;
    }
    assert!(b.has_cold_reads() && b.map.is_some());
    b.write_at(0, b"abc").unwrap();
    let mut buf = [0; 2];
    assert_eq!(b.read_cold(1, &mut buf).unwrap(), 2);
    assert_eq!(&buf, b"bc");
    b.reserve(0, 1 << 20).unwrap();
    b.punch(0, 1 << 20).unwrap();
    b.push(0, 1 << 20).unwrap();
    assert_eq!(fill(&b, 0, 4), [0; 4]);
}

#[test]
fn without_direct_reads_the_fallback_serves_and_says_so() {
    let d = dir();
    let mut b = make(&d.path().join("a"), ReadPath::Auto);
    b.direct = None;
    b.cache_is_medium = false;
    assert!(!b.has_cold_reads());
    b.write_at(0, &pattern(9000, 4)).unwrap();
    let mut buf = [0; 9000];
    assert_eq!(b.read_cold(0, &mut buf).unwrap(), 9000);
    assert_eq!(buf[..], pattern(9000, 4));
    assert_eq!(b.read_cold(u64::MAX >> 1, &mut buf).unwrap_or(0), 0);
}

/// A segment's border, a window's border, the tail, growth, holes: the map serves the same bytes or declines.
#[test]
fn the_map_and_pread_agree() {
    let d = dir();
    let b = make(&d.path().join("a"), ReadPath::Map);
    let model = MemoryBackend::new();
    let mut served = 0;
    let mut check = |b: &FileBackend, off: u64, len: usize| {
        let mut got = vec![0xee; len];
        if b.read_mapped(off, &mut got).unwrap() {
            assert_eq!(got, fill(&model, off, len), "{len} bytes at {off}");
            served += 1;
        }
        assert_eq!(fill(b, off, len), fill(&model, off, len));
    };
    let around = |x: u64| [x.saturating_sub(4096), x.saturating_sub(1), x, x + 1, x + 4096];
    let places =
        [0, map::WINDOW, 3 * map::WINDOW, map::SEGMENT - map::WINDOW, map::SEGMENT, map::SEGMENT + map::WINDOW];
    for round in 0..4u64 {
        let bytes = pattern(150_000, round);
        for p in places {
            let off = p + round * 1000;
            assert_eq!(b.write_at(off, &bytes).unwrap(), model.write_at(off, &bytes).unwrap());
        }
        if round == 2 {
            b.punch(map::WINDOW, map::WINDOW).unwrap();
            model.punch(map::WINDOW, map::WINDOW).unwrap();
        }
        if round == 3 {
            b.set_len(map::SEGMENT + 5000).unwrap();
            model.set_len(map::SEGMENT + 5000).unwrap();
        }
        for p in places.into_iter().flat_map(around) {
            for len in [0, 1, 512, 4096, 70_000, 200_000] {
                check(&b, p, len);
            }
        }
    }
    assert!(served > 200, "{served}");
}

/// Whether the map serves a range once the host has cached it, which it may also drop again by itself.
fn maps(b: &FileBackend, off: u64, buf: &mut [u8]) -> bool {
    (0..10).any(|_| {
        let _ = b.read_at(off, &mut vec![0; buf.len()]);
        b.read_mapped(off, buf).unwrap()
    })
}

#[test]
fn the_map_declines_what_it_must_not_touch() {
    let d = dir();
    let b = make(&d.path().join("a"), ReadPath::Map);
    let mut buf = [0; 4096];
    assert!(!b.read_mapped(0, &mut buf).unwrap(), "an empty file");
    b.set_len(map::WINDOW - 1).unwrap();
    assert!(!b.read_mapped(0, &mut buf).unwrap(), "an incomplete window");
    b.set_len(2 * map::WINDOW).unwrap();
    assert!(!b.read_mapped(map::WINDOW - 1, &mut buf).unwrap(), "not cached");
    assert!(maps(&b, map::WINDOW - 1, &mut buf));
    assert!(!b.read_mapped(2 * map::WINDOW - 1, &mut buf).unwrap(), "past the end");
    b.set_len(map::WINDOW).unwrap();
    assert!(!b.read_mapped(map::WINDOW, &mut buf).unwrap(), "cut off");
    b.set_len(map::SEGMENT * (map::SEGMENTS as u64 + 1)).unwrap();
    let border = map::SEGMENT * map::SEGMENTS as u64;
    assert!(maps(&b, border - 4096, &mut buf), "the last segment");
    assert!(!b.read_mapped(border - 4095, &mut buf).unwrap() && !b.read_mapped(border, &mut buf).unwrap());
    assert!(!b.read_mapped(u64::MAX, &mut buf).unwrap());
    let none = FileBackend::create(d.path().join("b"), ReadPath::Pread).unwrap();
    none.set_len(1 << 20).unwrap();
    assert!(!none.read_mapped(0, &mut buf).unwrap());
}

/// A file cut by somebody else before a window's first touch is an error of `pread`, not a signal.
#[test]
fn a_first_touch_past_a_foreign_cut_is_declined() {
    let d = dir();
    let p = d.path().join("a");
    let b = make(&p, ReadPath::Map);
    b.set_len(1 << 20).unwrap();
    let mut buf = [0; 4096];
    assert!(maps(&b, 0, &mut buf));
    assert_eq!(b.read_at(1 << 19, &mut buf).unwrap(), 4096);
    sfs::OpenOptions::new().write(true).open(&p).unwrap().set_len(4096).unwrap();
    assert!(!b.read_mapped(1 << 19, &mut buf).unwrap());
    assert_eq!(b.read_at(1 << 19, &mut buf).unwrap(), 0);
}

#[test]
fn readers_race_first_touches_and_writes() {
    let d = dir();
    let b = Arc::new(make(&d.path().join("a"), ReadPath::Map));
    b.set_len(4 << 20).unwrap();
    std::thread::scope(|s| {
        for t in 0..4u64 {
            let b = b.clone();
            s.spawn(move || {
                let mut x = t + 1;
                for _ in 0..2000 {
                    x = x.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(t * 2 + 1);
                    let off = (x >> 33) % 1023 * 4096;
                    if t == 0 {
                        b.write_at(off, &[(x >> 60) as u8; 4096]).unwrap();
                    } else {
                        assert!(maps(&b, off, &mut [0; 8192]));
                    }
                }
            });
        }
    });
}

#[test]
fn a_replaced_path_leaves_the_open_image_alone() {
    let d = dir();
    let (p, q) = (d.path().join("a"), d.path().join("b"));
    let a = make(&p, ReadPath::Auto);
    a.write_at(0, b"first").unwrap();
    let b = make(&q, ReadPath::Auto);
    b.write_at(0, b"other").unwrap();
    sfs::rename(&q, &p).unwrap();
    assert_eq!(fill(&a, 0, 9), b"first");
    assert_eq!(kind(FileBackend::open(&p, true, ReadPath::Auto)), ErrorKind::Locked);
    drop(b);
    assert_eq!(fill(&FileBackend::open(&p, true, ReadPath::Auto).unwrap(), 0, 9), b"other");
    a.sync_data(Lane::Flush).unwrap();
}

#[test]
fn released_images_can_be_opened_by_others() {
    let d = dir();
    let p = d.path().join("a");
    let a = make(&p, ReadPath::Auto);
    a.release();
    FileBackend::open(&p, true, ReadPath::Auto).unwrap();
}

#[test]
fn a_forked_child_is_told_from_its_parent() {
    let _alone = FORKS.write();
    let d = tempfile::tempdir().unwrap();
    let b = make(&d.path().join("a"), ReadPath::Auto);
    assert!(b.same_process());
    assert!(map::in_child(|| !b.same_process()));
    assert!(map::in_child(|| !map::in_child(|| b.same_process())));
    assert!(b.same_process());
    assert!(!ForkMark::foreign().is_maker());
}

/// What a forked child drops is the parent's: neither its lock nor its unfinished file.
#[test]
fn a_forked_child_takes_nothing_away() {
    let d = dir();
    let p = d.path().join("a");
    let mut in_child = FileBackend::create(&p, ReadPath::Auto).unwrap();
    let inherited = in_child.file.try_clone().unwrap();
    in_child.opener = ForkMark::foreign();
    assert!(!in_child.same_process());
    drop(in_child);
    let left: Vec<_> = sfs::read_dir(d.path()).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(left.len(), 1);
    assert_eq!(kind(FileBackend::open(&left[0], true, ReadPath::Auto)), ErrorKind::Locked);
    drop(inherited);
    FileBackend::open(&left[0], true, ReadPath::Auto).unwrap();
}

#[test]
fn many_race_to_open_and_one_wins() {
    let d = dir();
    let p = d.path().join("a");
    drop(make(&p, ReadPath::Auto));
    for _ in 0..50 {
        let start = std::sync::Barrier::new(4);
        let won: Vec<_> = std::thread::scope(|s| {
            let race = || {
                start.wait();
                FileBackend::open(&p, true, ReadPath::Auto)
            };
            let threads: Vec<_> = (0..4).map(|_| s.spawn(race)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(won.iter().filter(|r| r.is_ok()).count(), 1);
        assert!(won.iter().filter_map(|r| r.as_ref().err()).all(|e| e.kind() == ErrorKind::Locked));
    }
}

#[test]
fn memory_is_a_file_without_a_file() {
    let d = dir();
    let file = make(&d.path().join("a"), ReadPath::Pread);
    let mem = MemoryBackend::new();
    let both: [&dyn Backend; 2] = [&file, &mem];
    let mut x = 9u64;
    for step in 0..2000u64 {
        x = x.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        let off = (x >> 20) % 400_000;
        let len = (x >> 44) % 100_000;
        match x >> 61 {
            0 => both.iter().for_each(|b| b.punch(off, len).unwrap()),
            1 if step % 4 == 0 => both.iter().for_each(|b| b.set_len(off).unwrap()),
            2 => both.iter().for_each(|b| b.reserve(off, len).unwrap()),
            3 => {
                let (one, two) = (pattern(len as usize, x), [1, 2, 3]);
                let bufs = [IoSlice::new(&one), IoSlice::new(&two)];
                both.iter().for_each(|b| assert_eq!(b.write_vectored_at(off, &bufs).unwrap(), one.len() + 3));
            }
            _ => {
                both.iter().for_each(|b| assert_eq!(b.write_at(off, &pattern(len as usize, x)).unwrap(), len as usize))
            }
        }
        assert_eq!(file.len().unwrap(), mem.len().unwrap());
        assert_eq!(fill(&file, off / 2, 200_000), fill(&mem, off / 2, 200_000), "step {step}");
    }
    let bytes = mem.to_bytes();
    assert_eq!(bytes, fill(&file, 0, bytes.len() + 1));
    assert_eq!(MemoryBackend::from_bytes(bytes.clone()).to_bytes(), bytes);
    let huge = MemoryBackend::new();
    huge.set_len(1 << 40).unwrap();
    huge.write_at((1 << 40) - 3, &[1, 2, 3]).unwrap();
    assert_eq!(fill(&huge, (1 << 40) - 4, 9), [0, 1, 2, 3]);
    for b in both {
        assert!(b.write_at(u64::MAX, &[1]).is_err() && b.reserve(u64::MAX, 1).is_err() && b.set_len(u64::MAX).is_err());
    }
}

#[test]
fn the_host_has_a_clock_and_random_numbers() {
    let h = SystemHost;
    assert!(h.now() > 1_600_000_000_000_000_000);
    assert_ne!(h.random(), h.random());
}

#[test]
fn a_given_file_that_did_not_become_an_image_is_emptied_and_one_that_did_is_not() {
    let d = dir();
    let given = || sfs::OpenOptions::new().read(true).write(true).create(true).truncate(true).open(d.path().join("a"));
    let b = FileBackend::create_from_files(given().unwrap(), ReadPath::Auto).unwrap();
    b.write_at(0, b"half an image").unwrap();
    b.abandon();
    assert_eq!(b.len().unwrap(), 0);
    drop(b);
    let b = FileBackend::create_from_files(given().unwrap(), ReadPath::Auto).unwrap();
    b.write_at(0, b"an image").unwrap();
    b.publish().unwrap();
    b.abandon();
    assert_eq!(b.len().unwrap(), 8);
}
