//! Fresh space that is written with zeros before it is used, on a host that is full in the middle of it.

use crate::wrapped::{Call, Watch, Wrapped};
use parking_lot::Mutex;
use snapdisk::{
    BLOCK, Error, ErrorKind, Knobs, Options,
    io::{Backend, Lane, MemoryBackend, SystemHost},
};
use std::{
    collections::HashSet,
    io::{self, IoSlice},
    sync::Arc,
};

/// Storage in which fresh space is weaker than space that was written.
#[derive(Default)]
struct Weak(MemoryBackend);

impl Backend for Weak {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, buf)
    }
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<usize> {
        self.0.write_at(offset, buf)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self, lane: Lane) -> io::Result<()> {
        self.0.sync_data(lane)
    }
    fn is_fresh_space_weak(&self) -> bool {
        true
    }
}

#[derive(Default)]
struct Zeros(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    /// Calls that wrote nothing but zeros, from now on: the host is full at the one of this number.
    full_at: Option<usize>,
    calls: usize,
    refused: usize,
    /// Blocks that such calls wrote since the last sync, and those that were written twice.
    window: HashSet<u64>,
    twice: Vec<u64>,
}

impl Watch for Zeros {
    fn before(&self, call: Call<'_>) -> io::Result<()> {
        let mut seen = self.0.lock();
        match call {
            Call::Write(offset, bufs) if is_zeros(bufs) => {
                if seen.full_at == Some(seen.calls) {
                    (seen.full_at, seen.refused) = (None, seen.refused + 1);
                    return Err(io::ErrorKind::StorageFull.into());
                }
                seen.calls += 1;
                let len: usize = bufs.iter().map(|b| b.len()).sum();
                for block in offset / BLOCK as u64..(offset + len as u64) / BLOCK as u64 {
                    if !seen.window.insert(block) {
                        seen.twice.push(block);
                    }
                }
            }
            Call::Sync => seen.window.clear(),
            _ => {}
        }
        Ok(())
    }
}

fn is_zeros(bufs: &[IoSlice<'_>]) -> bool {
    bufs.iter().map(|b| b.len()).sum::<usize>() > BLOCK && bufs.iter().all(|b| b.iter().all(|&x| x == 0))
}

/// C12: whoever tries again after the host was full does not write the same zeros in the same window: a medium may keep the older of two writes,
/// and then it is the zeros that come after the data.
#[test]
fn zeros_are_written_once_between_two_syncs() {
    let knobs = Knobs { span: 128, index_fanout: 8, log_pages: 64, growth: 2, ..Knobs::default() };
    let options = Options::new().manual_maintenance(true).knobs(knobs);
    let mut refused = 0;
    for full_at in 0..12 {
        let disk = Arc::new(Wrapped::new(Zeros::default(), Weak::default()));
        let store = options.create_on(disk.clone(), Arc::new(SystemHost)).unwrap();
        let volume = store.create_volume("v", 4 << 20).unwrap();
        {
            let mut seen = disk.0.lock();
            (seen.full_at, seen.calls) = (Some(full_at), 0);
            seen.window.clear();
        }
        let mut written = 0;
        for (i, at) in (0..4 << 20).step_by(16 * BLOCK).enumerate() {
            match volume.write_at(&[i as u8 + 1; 16 * BLOCK], at) {
                Ok(()) => written += 1,
                Err(e) => assert_eq!(e.kind(), ErrorKind::NoSpace, "{e}"),
            }
        }
        assert!(written > 50, "{written}");
        store.flush().unwrap();
        let seen = disk.0.lock();
        assert!(seen.twice.is_empty(), "full at {full_at}: {:?}", seen.twice);
        refused += seen.refused;
        drop(seen);
        assert!(store.check().unwrap().is_clean());
        store.close().map_err(|e: Error| e.to_string()).unwrap();
    }
    assert!(refused > 8, "{refused}");
}
