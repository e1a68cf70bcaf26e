//! What an opening does about a host that failed: a medium that answers with an error where another would answer with wrong bytes, and a
//! cache that holds what the medium does not.

use snapdisk::{
    BLOCK, Options,
    io::{Backend, Lane, MemoryBackend, SystemHost, sim::EIO},
};
use std::{
    io::{self, IoSlice},
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

/// A medium in memory of which some bytes can't be read past the cache.
struct Unreadable {
    memory: MemoryBackend,
    range: Range<u64>,
    /// How many reads of them fail.
    failures: AtomicU64,
    /// How often the cache was dropped, and how many reads through it came before that.
    drops: AtomicU64,
    warm_before: AtomicU64,
}

impl Unreadable {
    fn new(bytes: Vec<u8>, range: Range<u64>, failures: u64) -> Arc<Unreadable> {
        let (drops, warm_before) = (AtomicU64::new(0), AtomicU64::new(0));
        let (memory, failures) = (MemoryBackend::from_bytes(bytes), AtomicU64::new(failures));
        Arc::new(Unreadable { memory, range, failures, drops, warm_before })
    }
}

impl Backend for Unreadable {
    fn len(&self) -> io::Result<u64> {
        self.memory.len()
    }
    fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<usize> {
        if self.drops.load(SeqCst) == 0 {
            self.warm_before.fetch_add(1, SeqCst);
        }
        self.memory.read_at(off, buf)
    }
    fn read_cold(&self, off: u64, buf: &mut [u8]) -> io::Result<usize> {
        let meets = off < self.range.end && self.range.start < off + buf.len() as u64;
        if meets && self.failures.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok() {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        self.memory.read_cold(off, buf)
    }
    fn drop_cache(&self) {
        self.drops.fetch_add(1, SeqCst);
    }
    fn has_cold_reads(&self) -> bool {
        true
    }
    fn read_mapped(&self, _off: u64, _buf: &mut [u8]) -> io::Result<bool> {
        Ok(false)
    }
    fn write_at(&self, off: u64, buf: &[u8]) -> io::Result<usize> {
        self.memory.write_at(off, buf)
    }
    fn write_vectored_at(&self, off: u64, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.memory.write_vectored_at(off, bufs)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.memory.set_len(len)
    }
    fn punch(&self, off: u64, len: u64) -> io::Result<()> {
        self.memory.punch(off, len)
    }
    fn reserve(&self, off: u64, len: u64) -> io::Result<()> {
        self.memory.reserve(off, len)
    }
    fn push(&self, off: u64, len: u64) -> io::Result<()> {
        self.memory.push(off, len)
    }
    fn sync_data(&self, lane: Lane) -> io::Result<()> {
        self.memory.sync_data(lane)
    }
    fn same_process(&self) -> bool {
        true
    }
}

/// A sector whose write was interrupted can be unreadable rather than torn (so it is on btrfs after a failed write-out): a group of which
/// nothing says that it was acknowledged ends there, as it does at a wrong hash. A single failed read is repeated; of a group that is known
/// to be acknowledged nothing is read at all.
#[test]
fn unreadable_data_of_an_unproven_group_is_the_end_of_the_log() {
    let options = Options::new().log_bytes(1 << 20).manual_maintenance(true);
    let memory = Arc::new(MemoryBackend::new());
    let store = options.create_on(memory.clone(), Arc::new(SystemHost)).unwrap();
    let v = store.create_volume("v", 1 << 20).unwrap();
    v.write_at(&[1; 20 * BLOCK], 0).unwrap();
    store.checkpoint().unwrap();
    let before = memory.to_bytes();
    v.write_at(&[2; 20 * BLOCK], 0).unwrap();
    store.flush().unwrap();
    let unproven = memory.to_bytes();
    store.mark().unwrap();
    let proven = memory.to_bytes();
    drop((store, v));
    // Where the second write went.
    let at = unproven.windows(BLOCK).step_by(BLOCK).position(|b| b == [2; BLOCK]).unwrap() * BLOCK;
    assert!(before[at..at + BLOCK] != [2; BLOCK]);
    for (bytes, failures, holds) in
        [(&unproven, 0, 2), (&unproven, 1, 2), (&unproven, u64::MAX, 1), (&proven, u64::MAX, 2)]
    {
        for open in [Options::open_read_only_on, Options::open_on] {
            let range = at as u64..(at + BLOCK) as u64;
            let disk = Unreadable::new(bytes.clone(), range, failures);
            let store = open(&options, disk, Arc::new(SystemHost)).unwrap();
            let mut block = [0; BLOCK];
            store.volume("v").unwrap().read_at(&mut block, 0).unwrap();
            assert_eq!(block, [holds; BLOCK], "after {failures} failed reads");
            assert!(store.check().unwrap().is_clean());
        }
    }
}

/// After a failed write-out the host's cache holds pages that the medium does not. Recovery for writing reads none of them, and they are gone
/// before anything is written over them: ext4 was seen to lose what was written, and synced, into such a page.
#[test]
fn recovery_drops_the_hosts_cache_before_it_reads_through_it() {
    let options = Options::new().log_bytes(1 << 20).manual_maintenance(true);
    let disk = Unreadable::new(Vec::new(), 0..0, 0);
    let store = options.create_on(disk.clone(), Arc::new(SystemHost)).unwrap();
    store.create_volume("v", 1 << 20).unwrap().write_at(&[1; 20 * BLOCK], 0).unwrap();
    store.checkpoint().unwrap();
    store.create_volume("w", 1 << 20).unwrap();
    drop(store);
    assert_eq!(disk.drops.load(SeqCst), 0);

    let disk = Unreadable::new(disk.memory.to_bytes(), 0..0, 0);
    options.open_read_only_on(disk.clone(), Arc::new(SystemHost)).unwrap();
    assert_eq!(disk.drops.load(SeqCst), 0, "who reads leaves others' cache alone");

    let disk = Unreadable::new(disk.memory.to_bytes(), 0..0, 0);
    let store = options.open_on(disk.clone(), Arc::new(SystemHost)).unwrap();
    assert_eq!((disk.drops.load(SeqCst), disk.warm_before.load(SeqCst)), (1, 0));
    store.close().unwrap();

    let disk = Unreadable::new(disk.memory.to_bytes(), 0..0, 0);
    options.open_on(disk.clone(), Arc::new(SystemHost)).unwrap().close().unwrap();
    assert_eq!(disk.drops.load(SeqCst), 0, "an image that was closed");
}
