//! A large write that fails once its data is in place: its blocks are not written again before a checkpoint, since a medium may keep the
//! older of two writes.

use crate::wrapped::{Call, Watch, Wrapped};
use parking_lot::Mutex;
use snapdisk::{BLOCK, ErrorKind, Options, io::sim::SimHost};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

const B: u64 = BLOCK as u64;

/// Notes where blocks of one content are written, and fails reads when told to.
#[derive(Default)]
struct Watched {
    fails: AtomicBool,
    places: Mutex<Vec<u64>>,
}

/// The content that is looked for.
const MARK: u8 = 0xd7;

impl Watch for Watched {
    fn before(&self, call: Call<'_>) -> io::Result<()> {
        match call {
            Call::Read | Call::ReadCold(..) if self.fails.load(SeqCst) => Err(io::Error::other("told to fail")),
            Call::Write(offset, bufs) => {
                let bytes: Vec<u8> = bufs.iter().flat_map(|b| b.iter().copied()).collect();
                let marked = |(_, block): &(usize, &[u8])| block.iter().all(|&b| b == MARK);
                let blocks = bytes.chunks(BLOCK).enumerate().filter(marked);
                self.places.lock().extend(blocks.map(|(i, _)| offset / B + i as u64));
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[test]
fn blocks_of_a_write_that_failed_wait_for_a_checkpoint() {
    let (backend, host) = (Arc::new(Wrapped::<Watched>::default()), Arc::new(SimHost::new(3)));
    let options = Options::new().log_bytes(1 << 20).manual_maintenance(true);
    let store = options.create_on(backend.clone(), host.clone()).unwrap();
    let v = store.create_volume("v", 4096 * B).unwrap();
    // Many extents: the tree has leaves that an opening does not read.
    (0..2000).for_each(|i| v.write_at(&[1; BLOCK], 2 * i * B).unwrap());
    drop(v);
    store.close().unwrap();
    let store = options.open_on(backend.clone(), host).unwrap();
    let v = store.volume("v").unwrap();
    // The count pages that allocation needs are in memory; the leaf of the range is not.
    v.write_at(&[2; 64 * BLOCK], 0).unwrap();
    backend.fails.store(true, SeqCst);
    let data = vec![MARK; 64 * BLOCK];
    assert_eq!(v.write_at(&data, 3000 * B).unwrap_err().kind(), ErrorKind::Io);
    let first = std::mem::take(&mut *backend.places.lock());
    assert_eq!(first.len(), 64, "the data was in place when the write failed");
    backend.fails.store(false, SeqCst);
    v.write_at(&data, 3000 * B).unwrap();
    let second = std::mem::take(&mut *backend.places.lock());
    assert_eq!(second.len(), 64);
    assert!(second.iter().all(|b| !first.contains(b)), "{first:?} and {second:?}");
    // The failure has poisoned nothing and lost nothing.
    store.flush().unwrap();
    store.checkpoint().unwrap();
    let report = store.check().unwrap();
    assert!(report.is_clean(), "{:#?}", report.findings);
    assert_eq!(report.leaked, 0);
    let mut buf = vec![0; 64 * BLOCK];
    v.read_at(&mut buf, 3000 * B).unwrap();
    assert!(buf == data);
}
