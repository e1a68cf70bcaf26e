//! A backend that has only the methods that it must have, and what the defaults of the others do.

use crate::files::everything;
use snapdisk::{
    BLOCK, Options, Store,
    io::{Backend, Lane, SystemHost},
};
use std::{
    io::{self, IoSlice},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

/// A medium behind a cache: only what was synced outlives a crash.
#[derive(Default)]
struct Five {
    cache: Mutex<Vec<u8>>,
    medium: Mutex<Vec<u8>>,
    writes: AtomicUsize,
}

impl Five {
    /// The storage as it is after a power loss.
    fn after_crash(&self) -> Arc<Five> {
        let medium = self.medium.lock().unwrap().clone();
        Arc::new(Five { cache: Mutex::new(medium.clone()), medium: Mutex::new(medium), writes: AtomicUsize::new(0) })
    }
}

impl Backend for Five {
    fn len(&self) -> io::Result<u64> {
        Ok(self.cache.lock().unwrap().len() as u64)
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let cache = self.cache.lock().unwrap();
        let here = cache.get(offset as usize..).unwrap_or_default();
        let n = here.len().min(buf.len());
        buf[..n].copy_from_slice(&here[..n]);
        Ok(n)
    }
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<usize> {
        self.writes.fetch_add(1, Relaxed);
        let mut cache = self.cache.lock().unwrap();
        let end = offset as usize + buf.len();
        if cache.len() < end {
            cache.resize(end, 0);
        }
        cache[offset as usize..end].copy_from_slice(buf);
        Ok(buf.len())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.cache.lock().unwrap().resize(len as usize, 0);
        Ok(())
    }
    fn sync_data(&self, _: Lane) -> io::Result<()> {
        let cache = self.cache.lock().unwrap();
        self.medium.lock().unwrap().clone_from(&cache);
        Ok(())
    }
}

fn options() -> Options {
    Options::new().log_bytes(1 << 20).manual_maintenance(true)
}

fn furnish(store: &Store) {
    let a = store.create_volume("a", 16 << 20).unwrap();
    // Scattered blocks, a run that goes straight to its place, and a hole.
    for i in 0..100 {
        a.write_at(&[i as u8 + 1; BLOCK], i * 3 * BLOCK as u64).unwrap();
    }
    let snapshot = a.snapshot("before").unwrap();
    a.write_at(&vec![7; 1 << 20], 4 << 20).unwrap();
    a.discard(0, 64 << 10).unwrap();
    store.clone_volume(&snapshot, "copy").unwrap().write_at(b"copied", 511).unwrap();
    store.flush().unwrap();
}

#[test]
fn five_methods_carry_a_store_through_a_crash() {
    let storage = Arc::new(Five::default());
    let store = options().create_on(storage.clone(), Arc::new(SystemHost)).unwrap();
    assert!(!store.has_cold_reads());
    furnish(&store);
    let flushed = everything(&store);
    store.volume("a").unwrap().write_at(&[9; BLOCK], 0).unwrap();
    assert_ne!(everything(&store), flushed);
    let crashed = storage.after_crash();
    drop(store);

    let store = options().open_read_only_on(crashed.clone(), Arc::new(SystemHost)).unwrap();
    assert_eq!(everything(&store), flushed);
    assert_eq!(crashed.writes.load(Relaxed), 0);
    drop(store);
    let store = options().open_on(crashed.clone(), Arc::new(SystemHost)).unwrap();
    assert_eq!(everything(&store), flushed);
    let report = store.check().unwrap();
    assert!(report.is_clean(), "{:?}", report.findings);

    // Space that is freed is used again, though the host takes none of it back.
    let b = store.create_volume("b", 64 << 20).unwrap();
    for round in 0..8 {
        b.write_at(&vec![round + 1; 8 << 20], 0).unwrap();
        b.discard(0, 64 << 20).unwrap();
        store.flush().unwrap();
        store.wait_reclaimed().unwrap();
    }
    let len = crashed.len().unwrap();
    assert!(len < 64 << 20, "{len} bytes");
    store.close().unwrap();

    let store = options().open_on(crashed.after_crash(), Arc::new(SystemHost)).unwrap();
    let report = store.check().unwrap();
    assert!(report.is_clean(), "{:?}", report.findings);
    store.close().unwrap();
}

#[test]
fn each_default_promises_less_rather_than_more() {
    let b = Five::default();
    assert_eq!(b.write_vectored_at(5, &[]).unwrap(), 0);
    let bufs = [IoSlice::new(b""), IoSlice::new(b"abc"), IoSlice::new(b"def")];
    assert_eq!(b.write_vectored_at(5, &bufs).unwrap(), 3);
    let mut buf = [1; 9];
    assert_eq!(b.read_cold(0, &mut buf).unwrap(), 8);
    assert_eq!(&buf[..8], b"\0\0\0\0\0abc");
    assert!(!b.has_cold_reads());
    assert!(!b.read_mapped(0, &mut buf).unwrap());
    assert_eq!(b.write_synced(Lane::Flush, 5, b"xyz", &[]).unwrap_err().kind(), io::ErrorKind::Unsupported);
    assert_eq!(b.punch(0, 4).unwrap_err().kind(), io::ErrorKind::Unsupported);
    // A reservation grows the image and never cuts it.
    b.reserve(0, 4).unwrap();
    assert_eq!(b.len().unwrap(), 8);
    b.reserve(6, 10).unwrap();
    assert_eq!(b.len().unwrap(), 16);
    b.reserve(100, 0).unwrap();
    assert_eq!(b.len().unwrap(), 16);
    assert_eq!(b.reserve(u64::MAX, 2).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    assert_eq!(b.read_at(5, &mut buf).unwrap(), 9);
    assert_eq!(&buf, b"abc\0\0\0\0\0\0");
    b.push(0, 16).unwrap();
    b.drop_cache();
    b.release();
    assert!(!b.is_fresh_space_weak());
    assert!(b.same_process());
}
