//! Everything that a caller may do with an image that somebody else made.

use super::{seeds::Counter, tally};
use snapdisk::{
    BLOCK, DeleteSnapshots, Options, Result, Store, Volume,
    io::{Backend, Lane},
};
use std::{
    collections::BTreeMap,
    io::{self, IoSlice},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Calls to the backend that one opening of an image may cause: more is a loop.
const STEPS: u64 = 300_000;
/// The image may grow to this while it is worked with.
const IMAGE: u64 = 32 << 20;
const B: u64 = BLOCK as u64;

pub(crate) fn options() -> Options {
    Options::new().manual_maintenance(true).memory(16 << 20).max_image_bytes(IMAGE)
}

/// An image in memory that counts calls, and panics when there are too many. Copies share what nobody wrote, and holes take no memory,
/// so that a file may say that it is as long as it likes.
pub struct Steps {
    base: Arc<Vec<u8>>,
    image: Mutex<Blocks>,
    /// The image can't get longer than this.
    most: u64,
}

#[derive(Clone)]
struct Blocks {
    len: u64,
    written: BTreeMap<u64, Box<[u8; BLOCK]>>,
    left: u64,
}

impl Steps {
    /// An image of these bytes.
    pub fn new(bytes: Vec<u8>) -> Arc<Steps> {
        Steps::long(Arc::new(bytes), 0)
    }
    /// An image of these bytes in a file that is at least so long.
    fn long(base: Arc<Vec<u8>>, claimed: u64) -> Arc<Steps> {
        let len = claimed.max(base.len() as u64);
        let image = Mutex::new(Blocks { len, written: BTreeMap::new(), left: STEPS });
        Arc::new(Steps { base, image, most: len.saturating_add(2 * IMAGE) })
    }
    /// The image as it is now, for another opening.
    fn copy(&self) -> Arc<Steps> {
        let image = Blocks { left: STEPS, ..self.step().clone() };
        Arc::new(Steps { base: self.base.clone(), image: Mutex::new(image), most: self.most })
    }
    fn step(&self) -> MutexGuard<'_, Blocks> {
        let mut image = self.image.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(image.left > 0, "more than {STEPS} calls to the backend: a loop");
        image.left -= 1;
        image
    }
    fn resize(&self, len: u64, shrink: bool) -> io::Result<()> {
        let mut image = self.step();
        if len > self.most {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if shrink && len < image.len {
            self.clear(&mut image, len, u64::MAX);
        }
        if shrink || len > image.len {
            image.len = len;
        }
        Ok(())
    }
    /// The part of block `b` that the image began with.
    fn first(&self, b: u64) -> &[u8] {
        let start = usize::try_from(b.saturating_mul(B)).unwrap_or(usize::MAX);
        let rest = self.base.get(start..).unwrap_or_default();
        &rest[..rest.len().min(BLOCK)]
    }
    fn block<'a>(&self, image: &'a mut Blocks, b: u64) -> &'a mut [u8; BLOCK] {
        image.written.entry(b).or_insert_with(|| {
            let mut block = Box::new([0; BLOCK]);
            let first = self.first(b);
            block[..first.len()].copy_from_slice(first);
            block
        })
    }
    /// Fills a range with zeros.
    fn clear(&self, image: &mut Blocks, from: u64, to: u64) {
        let last = image.written.last_key_value().map_or(0, |l| l.0 + 1).max((self.base.len() as u64).div_ceil(B));
        for b in from / B..to.div_ceil(B).min(last) {
            let start = b * B;
            let part = from.saturating_sub(start).min(B) as usize..(to - start).min(B) as usize;
            self.block(image, b)[part].fill(0);
        }
    }
}

fn end(off: u64, len: usize) -> io::Result<u64> {
    off.checked_add(len as u64).ok_or_else(|| io::ErrorKind::FileTooLarge.into())
}

impl Backend for Steps {
    fn len(&self) -> io::Result<u64> {
        Ok(self.step().len)
    }
    fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<usize> {
        let image = self.step();
        let n = image.len.saturating_sub(off).min(buf.len() as u64) as usize;
        let mut done = 0;
        while done < n {
            let (b, at) = ((off + done as u64) / B, ((off + done as u64) % B) as usize);
            let part = &mut buf[done..n.min(done + BLOCK - at)];
            let block = image.written.get(&b).map_or_else(|| self.first(b), |w| &w[..]);
            let known = block.get(at..).unwrap_or_default();
            let known = &known[..known.len().min(part.len())];
            part[..known.len()].copy_from_slice(known);
            part[known.len()..].fill(0);
            done += part.len();
        }
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
        let mut image = self.step();
        let mut done = 0;
        while done < buf.len() {
            let (b, at) = ((off + done as u64) / B, ((off + done as u64) % B) as usize);
            let part = &buf[done..buf.len().min(done + BLOCK - at)];
            self.block(&mut image, b)[at..at + part.len()].copy_from_slice(part);
            done += part.len();
        }
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
        let to = off.saturating_add(len).min(image.len);
        self.clear(&mut image, off.min(to), to);
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

/// Opens the image in every way there is, each time a fresh copy of it, and does everything with it that a caller can.
pub fn exercise(bytes: Vec<u8>) {
    exercise_long(bytes, 0);
}

/// [`exercise`] of an image in a file that is at least so long.
pub(crate) fn exercise_long(bytes: Vec<u8>, claimed: u64) {
    let image = Steps::long(Arc::new(bytes), claimed);
    let note = |mode: &'static str, outcome: Result<Store>| {
        tally::note(mode, &outcome);
        outcome.ok()
    };
    let (careful, roomy) = (options().untrusted(true), options().memory(24 << 20));
    for (mode, options) in [("read-only", &options()), ("read-only, untrusted", &careful)] {
        if let Some(store) = note(mode, options.open_read_only_on(image.copy(), Counter::new())) {
            look(&store);
            let _ = store.close();
        }
    }
    for (mode, options) in [("salvage", &options()), ("salvage, untrusted", &careful)] {
        if let Some(store) = note(mode, options.open_salvage_on(image.copy(), Counter::new()).map(|o| o.0)) {
            look(&store);
        }
    }
    for (mode, options) in [("writable", &roomy), ("writable, small caches", &options())] {
        let backend = image.copy();
        let Some(store) = note(mode, options.open_on(backend.clone(), Counter::new())) else { continue };
        look(&store);
        change(&store);
        look(&store);
        if store.close().is_ok() {
            // A superblock that this code wrote it reads again. Elsewhere there may be damage that nobody came across before.
            if let Err(e) = options.open_read_only_on(backend.copy(), Counter::new()) {
                assert!(!e.to_string().contains("superblock"), "{mode}: closed, and then not opened: {e}");
            }
        }
    }
    let backend = image.copy();
    if let Some(store) = note("writable, untrusted", careful.open_on(backend.clone(), Counter::new())) {
        look(&store);
        change(&store);
        // Nothing was wrong with it, so nothing can have become wrong.
        let clean = |store: &Store| match store.check() {
            Ok(report) => assert!(report.is_clean(), "checked, changed, and then: {:?}", report.findings.first()),
            Err(e) => panic!("checked, changed, and then: {e}"),
        };
        clean(&store);
        if store.close().is_ok() {
            let again = careful.open_read_only_on(backend.copy(), Counter::new());
            again.unwrap_or_else(|e| panic!("checked, changed, closed, and then not opened: {e}"));
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
        v.extents(0..size).for_each(drop);
        for s in v.snapshots().unwrap_or_default() {
            let _ = (s.name(), v.snapshot_named("one"));
        }
    }
    for s in store.snapshots().unwrap_or_default() {
        let _ = (s.name(), s.tags(), s.parent(), s.created());
        for (at, len) in places(s.size()) {
            let _ = s.read_at(&mut buf[..len], at);
        }
        s.extents(0..s.size()).for_each(drop);
    }
    if let Ok(report) = store.check() {
        for f in &report.findings {
            let _ = f.to_string();
        }
    }
    let _ = (store.counters(), store.usage_all());
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
