//! What an opening does about a host that failed: a medium that answers with an error where another would answer with wrong bytes, and a
//! cache that holds what the medium does not.

use crate::wrapped::{Call, Watch, Wrapped};
use snapdisk::{
    BLOCK, ErrorKind, Options,
    format::SLOTS,
    io::{MemoryBackend, SystemHost, sim::EIO},
};
use std::{
    io,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

/// A medium of which some bytes can't be read past the cache.
#[derive(Default)]
struct Unreadable {
    range: Range<u64>,
    /// How many reads of them fail.
    failures: AtomicU64,
    /// How often the cache was dropped, and how many reads through it came before that.
    drops: AtomicU64,
    warm_before: AtomicU64,
}

type Disk = Arc<Wrapped<Unreadable>>;

fn cached(bytes: Vec<u8>) -> Disk {
    unreadable(bytes, 0..0, 0)
}

fn unreadable(bytes: Vec<u8>, range: Range<u64>, failures: u64) -> Disk {
    let watch = Unreadable { range, failures: AtomicU64::new(failures), ..Unreadable::default() };
    Arc::new(Wrapped::new(watch, MemoryBackend::from_bytes(bytes)))
}

impl Watch for Unreadable {
    fn before(&self, call: Call<'_>) -> io::Result<()> {
        match call {
            Call::Read if self.drops.load(SeqCst) == 0 => drop(self.warm_before.fetch_add(1, SeqCst)),
            Call::ReadCold(off, len) => {
                let meets = off < self.range.end && self.range.start < off + len as u64;
                if meets && self.failures.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok() {
                    return Err(io::Error::from_raw_os_error(EIO));
                }
            }
            Call::DropCache => drop(self.drops.fetch_add(1, SeqCst)),
            _ => {}
        }
        Ok(())
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
            let disk = unreadable(bytes.clone(), range, failures);
            let store = open(&options, disk, Arc::new(SystemHost)).unwrap();
            let mut block = [0; BLOCK];
            store.volume("v").unwrap().read_at(&mut block, 0).unwrap();
            assert_eq!(block, [holds; BLOCK], "after {failures} failed reads");
            assert!(store.check().unwrap().is_clean());
        }
    }
}

/// A superblock or a page of the log that can't be read may be the newest: opening without it would silently lose what was acknowledged, and is
/// refused. Salvage goes on with what there is, and says that it is not everything.
#[test]
fn unreadable_superblocks_and_log_pages_are_refused_and_salvaged() {
    let options = Options::new().log_bytes(1 << 20).manual_maintenance(true);
    let memory = Arc::new(MemoryBackend::new());
    let store = options.create_on(memory.clone(), Arc::new(SystemHost)).unwrap();
    let v = store.create_volume("v", 1 << 20).unwrap();
    store.checkpoint().unwrap();
    let before = memory.to_bytes();
    v.write_at(&[1; BLOCK], 0).unwrap();
    v.flush().unwrap();
    let bytes = memory.to_bytes();
    let written =
        |from: usize| (from..).find(|&n| bytes[n * BLOCK..][..BLOCK] != before[n * BLOCK..][..BLOCK]).unwrap();
    drop((store, v));
    let log = written(32);
    // Either slot, the log's first page that was written, and one that never was.
    for (page, holds) in [(SLOTS[0].0 as usize, 1), (SLOTS[1].0 as usize, 1), (log, 0), (log + 9, 1)] {
        let range = (page * BLOCK) as u64..((page + 1) * BLOCK) as u64;
        let disk = || unreadable(bytes.clone(), range.clone(), u64::MAX);
        for open in [Options::open_read_only_on, Options::open_on] {
            let refused = open(&options, disk(), Arc::new(SystemHost)).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Io, "page {page}: {refused}");
        }
        let (store, lost) = options.open_salvage_on(disk(), Arc::new(SystemHost)).unwrap();
        assert_eq!(lost.expect("something may be missing").kind(), ErrorKind::Io, "page {page}");
        let mut block = [9; BLOCK];
        store.volume("v").unwrap().read_at(&mut block, 0).unwrap();
        assert_eq!(block, [holds; BLOCK], "page {page}");
    }
    let all = unreadable(bytes.clone(), 0..bytes.len() as u64, u64::MAX);
    assert_eq!(options.open_salvage_on(all, Arc::new(SystemHost)).unwrap_err().kind(), ErrorKind::Io);
}

/// After a failed write-out the host's cache holds pages that the medium does not. Recovery for writing reads none of them, and they are gone
/// before anything is written over them: ext4 was seen to lose what was written, and synced, into such a page.
#[test]
fn recovery_drops_the_hosts_cache_before_it_reads_through_it() {
    let options = Options::new().log_bytes(1 << 20).manual_maintenance(true);
    let disk = cached(Vec::new());
    let store = options.create_on(disk.clone(), Arc::new(SystemHost)).unwrap();
    store.create_volume("v", 1 << 20).unwrap().write_at(&[1; 20 * BLOCK], 0).unwrap();
    store.checkpoint().unwrap();
    store.create_volume("w", 1 << 20).unwrap();
    drop(store);
    assert_eq!(disk.drops.load(SeqCst), 0);

    let disk = cached(disk.inner.to_bytes());
    options.open_read_only_on(disk.clone(), Arc::new(SystemHost)).unwrap();
    assert_eq!(disk.drops.load(SeqCst), 0, "who reads leaves others' cache alone");

    let disk = cached(disk.inner.to_bytes());
    let store = options.open_on(disk.clone(), Arc::new(SystemHost)).unwrap();
    assert_eq!((disk.drops.load(SeqCst), disk.warm_before.load(SeqCst)), (1, 0));
    store.close().unwrap();

    let disk = cached(disk.inner.to_bytes());
    options.open_on(disk.clone(), Arc::new(SystemHost)).unwrap().close().unwrap();
    assert_eq!(disk.drops.load(SeqCst), 0, "an image that was closed");
}
