//! A file that keeps nodes, counts, log and superblocks and drops data blocks: images of any size on a small disk.

use super::BLOCK;
use snapdisk::{
    Options, Store,
    io::{Backend, FileBackend, Lane, ReadPath, SystemHost},
};
use std::{
    io::{self, IoSlice},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Where the regions start at the latest: behind the longest log. Below it everything is kept.
const REGIONS: u64 = (32 << 12) + (64 << 20);

/// [`FileBackend`] without data. Blocks that are dropped read as zeros, so whoever writes zeros reads what it wrote. Nothing
/// is reserved: the file stays sparse.
pub(crate) struct NoData {
    file: FileBackend,
    /// Syncs, pages written (dropped ones not), pages read: costs that don't depend on the machine.
    pub(crate) syncs: AtomicU64,
    pub(crate) written: AtomicU64,
    pub(crate) read: AtomicU64,
}

/// What [`NoData`] counted.
#[derive(Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) syncs: u64,
    pub(crate) written: u64,
    pub(crate) read: u64,
}

impl NoData {
    fn new(file: FileBackend) -> Arc<NoData> {
        Arc::new(NoData { file, syncs: 0.into(), written: 0.into(), read: 0.into() })
    }
    pub(crate) fn create(path: &Path, options: &Options) -> Store {
        let backend = NoData::new(FileBackend::create(path, ReadPath::Pread).expect("an image"));
        let store = options.create_on(backend.clone(), Arc::new(SystemHost)).expect("a store");
        backend.file.publish().expect("a name");
        store
    }
    pub(crate) fn open(path: &Path, options: &Options) -> (Store, Arc<NoData>) {
        let backend = NoData::new(FileBackend::open(path, true, ReadPath::Pread).expect("the image"));
        let store = options.open_on(backend.clone(), Arc::new(SystemHost)).expect("a store");
        (store, backend)
    }
    pub(crate) fn counts(&self) -> Counts {
        Counts { syncs: self.syncs.load(Relaxed), written: self.written.load(Relaxed), read: self.read.load(Relaxed) }
    }
    /// A page that names its own place is metadata.
    fn is_kept(off: u64, page: &[u8]) -> bool {
        let own = (off / BLOCK as u64).to_le_bytes();
        off < REGIONS || page.get(24..32).is_some_and(|at| *at == own && (1..=6).contains(&page[4]))
    }
}

impl Backend for NoData {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.read.fetch_add(buf.len().div_ceil(BLOCK) as u64, Relaxed);
        self.file.read_at(off, buf)
    }
    fn read_cold(&self, off: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read_cold(off, buf)
    }
    fn has_cold_reads(&self) -> bool {
        self.file.has_cold_reads()
    }
    fn read_mapped(&self, _: u64, _: &mut [u8]) -> io::Result<bool> {
        Ok(false)
    }
    fn write_at(&self, off: u64, buf: &[u8]) -> io::Result<usize> {
        for (i, page) in buf.chunks(BLOCK).enumerate() {
            let at = off + (i * BLOCK) as u64;
            if NoData::is_kept(at, page) {
                self.written.fetch_add(1, Relaxed);
                let mut done = 0;
                while done < page.len() {
                    done += self.file.write_at(at + done as u64, &page[done..])?;
                }
            }
        }
        Ok(buf.len())
    }
    fn write_vectored_at(&self, off: u64, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        bufs.iter().try_fold(0, |done, buf| self.write_at(off + done as u64, buf).map(|n| done + n))
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn punch(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn reserve(&self, off: u64, len: u64) -> io::Result<()> {
        if off + len > self.file.len()? { self.file.set_len(off + len) } else { Ok(()) }
    }
    fn push(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn sync_data(&self, lane: Lane) -> io::Result<()> {
        self.syncs.fetch_add(1, Relaxed);
        self.file.sync_data(lane)
    }
    fn release(&self) {
        self.file.release();
    }
    fn same_process(&self) -> bool {
        true
    }
}
