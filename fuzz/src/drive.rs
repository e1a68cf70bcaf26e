//! Everything that a caller may do with an image that somebody else made.

use super::seeds::Counter;
use snapdisk::{
    DeleteSnapshots, Options, Store, Volume,
    io::{Backend, Lane},
};
use std::{
    io::{self, IoSlice},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Calls to the backend that one image may cause: more is a loop.
const STEPS: u64 = 1_000_000;
/// The image may grow to this while it is worked with.
const IMAGE: u64 = 32 << 20;

pub(crate) fn options() -> Options {
    Options::new().manual_maintenance(true).memory(1 << 20).max_image_bytes(IMAGE)
}

/// An image in memory that counts calls, and panics when there are too many. (`MemoryBackend` looks for empty chunks first, which costs more
/// than most images here.)
pub struct Steps {
    image: Mutex<Vec<u8>>,
    left: AtomicU64,
}

impl Steps {
    /// An image of these bytes.
    pub fn new(bytes: Vec<u8>) -> Arc<Steps> {
        Arc::new(Steps { image: Mutex::new(bytes), left: STEPS.into() })
    }
    fn step(&self) -> MutexGuard<'_, Vec<u8>> {
        let left = self.left.load(Relaxed);
        assert!(left > 0, "more than {STEPS} calls to the backend: a loop");
        self.left.store(left - 1, Relaxed);
        self.image.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn resize(&self, len: u64, shrink: bool) -> io::Result<()> {
        let mut image = self.step();
        if len > 2 * IMAGE {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let len = len as usize;
        if shrink || len > image.len() {
            image.resize(len, 0);
        }
        Ok(())
    }
}

fn end(off: u64, len: usize) -> io::Result<u64> {
    off.checked_add(len as u64).ok_or_else(|| io::ErrorKind::FileTooLarge.into())
}

impl Backend for Steps {
    fn len(&self) -> io::Result<u64> {
        Ok(self.step().len() as u64)
    }
    fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<usize> {
        let image = self.step();
        let from = image.get(usize::try_from(off).unwrap_or(usize::MAX)..).unwrap_or_default();
        let n = from.len().min(buf.len());
        buf[..n].copy_from_slice(&from[..n]);
        Ok(n)
    }
    fn read_cold(&self, off: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.read_at(off, buf)
    }
    fn has_cold_reads(&self) -> bool {
        true
    }
    fn read_mapped(&self, _: u64, _: &mut [u8]) -> io::Result<bool> {
        Ok(false)
    }
    fn write_at(&self, off: u64, buf: &[u8]) -> io::Result<usize> {
        self.resize(end(off, buf.len())?, false)?;
        self.step()[off as usize..][..buf.len()].copy_from_slice(buf);
        Ok(buf.len())
    }
    fn write_vectored_at(&self, off: u64, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        bufs.iter().try_fold(0, |done, buf| Ok(done + self.write_at(end(off, done)?, buf)?))
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.resize(len, true)
    }
    fn punch(&self, off: u64, len: u64) -> io::Result<()> {
        let mut image = self.step();
        let size = image.len() as u64;
        image[off.min(size) as usize..off.saturating_add(len).min(size) as usize].fill(0);
        Ok(())
    }
    fn reserve(&self, off: u64, len: u64) -> io::Result<()> {
        self.resize(off.saturating_add(len), false)
    }
    fn push(&self, _: u64, _: u64) -> io::Result<()> {
        drop(self.step());
        Ok(())
    }
    fn sync_data(&self, _: Lane) -> io::Result<()> {
        drop(self.step());
        Ok(())
    }
    fn same_process(&self) -> bool {
        true
    }
}

/// Opens the image for reading and for writing, and does everything with it that a caller can.
pub fn exercise(bytes: Vec<u8>) {
    let backend = Steps::new(bytes);
    if let Ok(store) = options().open_read_only_on(backend.clone(), Counter::new()) {
        look(&store);
        let _ = store.close();
    }
    if let Ok(store) = options().open_on(backend.clone(), Counter::new()) {
        look(&store);
        change(&store);
        look(&store);
        let _ = store.close();
    } else if let Ok(store) = options().untrusted(true).open_on(backend.clone(), Counter::new()) {
        look(&store);
    }
    for options in [options(), options().untrusted(true)] {
        if let Ok(store) = options.open_read_only_on(backend.clone(), Counter::new()) {
            look(&store);
        }
        if let Ok((store, _)) = options.open_salvage_on(backend.clone(), Counter::new()) {
            look(&store);
        }
    }
}

/// Offsets at which there is something to read.
fn places(size: u64) -> impl Iterator<Item = (u64, usize)> {
    let step = 1 << 30;
    let spread = (0..8).map(move |i| (i * step, 8192));
    let all = [(0, 66_000), (size.saturating_sub(5000), 5000)].into_iter().chain(spread);
    all.filter(move |&(at, _)| at < size).map(move |(at, len)| (at, len.min((size - at) as usize)))
}

fn look(store: &Store) {
    let mut buf = vec![0; 200_000];
    for v in store.volumes().unwrap_or_default() {
        let _ = (v.name(), v.tags(), v.created(), v.parent());
        let size = v.size().unwrap_or(0);
        for (at, len) in places(size) {
            let _ = v.read_at(&mut buf[..len], at);
        }
        let _ = v.extents(0..size);
        for s in v.snapshots().unwrap_or_default() {
            let _ = (s.name(), v.snapshot_named("one"));
        }
    }
    for s in store.snapshots().unwrap_or_default() {
        let _ = (s.name(), s.tags(), s.parent(), s.created());
        for (at, len) in places(s.size()) {
            let _ = s.read_at(&mut buf[..len], at);
        }
        let _ = s.extents(0..s.size());
    }
    if let Ok(report) = store.check() {
        for f in &report.findings {
            let _ = f.to_string();
        }
    }
    let _ = store.stats();
}

fn change(store: &Store) {
    let noise = vec![0x5a; 70_000];
    let volumes: Vec<Volume> = store.volumes().unwrap_or_default().into_iter().take(4).collect();
    for (i, v) in volumes.iter().enumerate() {
        let size = v.size().unwrap_or(0);
        for (at, len) in [(0, 4096), (1000, 5000), (8192, 70_000), (size / 2, 3), (1 << 30, 4096)] {
            let _ = v.write_at(&noise[..len], at);
        }
        let made = v.snapshot("fuzzed");
        let _ = v.write_at(&noise[..8192], 4096);
        let _ = v.discard(5000, 30_000);
        let _ = v.flush();
        if let Some(s) = v.snapshots().unwrap_or_default().first() {
            let _ = v.rollback(s);
            let _ = store.clone_volume(s, &format!("clone{i}"));
            let _ = store.delete_snapshot(s);
        }
        let _ = v.write_zeroes(size / 4, size / 3);
        let _ = v.resize(size / 2 / 512 * 512);
        if let Ok(s) = made {
            let _ = v.rollback_keep_size(&s);
            let _ = store.rename_snapshot(&s, "renamed-by-fuzzing");
        }
        let _ = v.resize(size.next_multiple_of(512));
        let _ = v.set_tags([("a".to_owned(), "b".repeat(3000))].into());
        let _ = store.rename(v, &format!("v{i}"));
    }
    let _ = store.checkpoint();
    for s in store.snapshots().unwrap_or_default().iter().skip(1).step_by(2).take(8) {
        let _ = store.delete_snapshot(s);
    }
    for v in volumes.iter().step_by(2) {
        let _ = store.delete_volume(v, DeleteSnapshots::Delete);
    }
    let _ = store.create_volume("new", 1 << 20).and_then(|v| v.write_at(&noise, 100));
    let _ = store.flush();
    (0..200).take_while(|_| store.maintain(16).unwrap_or(false)).for_each(drop);
}
