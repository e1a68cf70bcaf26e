//! Reads through handles that have read before: what they know of where blocks lie is never older than the last operation that returned.

use proptest::{collection::vec, prelude::*};
use snapdisk::{
    BLOCK, DeleteSnapshots, ErrorKind, Knobs, Options, ReadDisk, Snapshot, Store, Volume, io::MemoryBackend,
};
use std::sync::Arc;

/// Blocks of which one page of the cache speaks, and of a volume: its pages' borders are where the operations are.
const PAGE: u64 = 512;
const BLOCKS: u64 = 2 * PAGE + 40;

#[derive(Clone, Debug)]
enum Act {
    Write {
        at: u64,
        len: usize,
        byte: u8,
    },
    Discard {
        at: u64,
        len: u64,
    },
    DiscardAll,
    Resize {
        bytes: u64,
    },
    Snapshot,
    Rollback {
        to: usize,
        keep_size: bool,
    },
    DeleteSnapshot {
        which: usize,
    },
    /// What is staged goes to its place, and what is free is used again.
    Checkpoint,
}

fn place() -> impl Strategy<Value = u64> {
    (0..3u64, 0..24u64, prop_oneof![Just(0), 0..BLOCK as u64])
        .prop_map(|(page, block, within)| ((page * PAGE + block).saturating_sub(12)) * BLOCK as u64 + within)
}

fn act() -> impl Strategy<Value = Act> {
    let len = prop_oneof![Just(BLOCK), 1..3 * BLOCK, Just(20 * BLOCK)];
    prop_oneof![
        4 => (place(), len.clone(), any::<u8>()).prop_map(|(at, len, byte)| Act::Write { at, len, byte }),
        2 => (place(), len).prop_map(|(at, len)| Act::Discard { at, len: len as u64 }),
        1 => Just(Act::DiscardAll),
        1 => (0..BLOCKS * 8 + 1).prop_map(|sectors| Act::Resize { bytes: sectors * 512 }),
        1 => place().prop_map(|at| Act::Resize { bytes: at / 512 * 512 }),
        1 => Just(Act::Snapshot),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(to, keep_size)| Act::Rollback { to, keep_size }),
        1 => any::<usize>().prop_map(|which| Act::DeleteSnapshot { which }),
        2 => Just(Act::Checkpoint),
    ]
}

/// A disk through a handle that stays, and the bytes that it has to show.
fn agrees(disk: &dyn ReadDisk, bytes: &[u8], reads: &[(u64, usize)]) -> Result<(), TestCaseError> {
    // The second one finds what the first has entered.
    for &(at, len) in reads.iter().flat_map(|r| [r, r]) {
        let mut buf = vec![0xEE; len];
        let end = at as usize + len;
        match disk.read_at(&mut buf, at) {
            Ok(()) => prop_assert!(end <= bytes.len() && buf == bytes[at as usize..end], "{} bytes at {}", len, at),
            Err(e) => prop_assert!(end > bytes.len() && e.kind() == ErrorKind::OutOfRange, "{}", e),
        }
    }
    Ok(())
}

fn store() -> Store {
    // A cache of four pages, which volume and snapshots take from each other.
    let knobs = Knobs { fanout: 6, span: 64, index_fanout: 8, log_pages: 64, ..Knobs::default() };
    let options = Options::new().manual_maintenance(true).slack(0).knobs(knobs).memory(1 << 20);
    options.create_on(Arc::new(MemoryBackend::new()), Arc::new(snapdisk::io::SystemHost)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_handle_reads_what_was_replaced(
        acts in vec((act(), vec((place(), 1..3 * BLOCK), 1..4)), 1..40)
    ) {
        let store = store();
        let volume: Volume = store.create_volume("v", BLOCKS * BLOCK as u64).unwrap();
        let mut now = vec![0; (BLOCKS * BLOCK as u64) as usize];
        let mut snapshots: Vec<(Snapshot, Vec<u8>)> = Vec::new();
        let mut gone: Vec<Snapshot> = Vec::new();
        for (i, (act, mut reads)) in acts.into_iter().enumerate() {
            // Where something happens, it is looked at before and after.
            if let Act::Write { at, len, .. } = act {
                reads.push((at, len));
            }
            if let Act::Resize { bytes } = act {
                reads.push((bytes.saturating_sub(512), 512));
                reads.push((bytes, 512));
                reads.push(((now.len() as u64).saturating_sub(512), 512));
            }
            agrees(&volume, &now, &reads)?;
            match act {
                Act::Write { at, len, byte } => {
                    let end = at as usize + len;
                    let data = vec![byte; len];
                    prop_assert_eq!(volume.write_at(&data, at).is_ok(), end <= now.len());
                    if end <= now.len() {
                        now[at as usize..end].copy_from_slice(&data);
                    }
                }
                Act::Discard { at, len } => {
                    let end = (at + len) as usize;
                    prop_assert_eq!(volume.discard(at, len).is_ok(), end <= now.len());
                    if end <= now.len() {
                        now[at as usize..end].fill(0);
                    }
                }
                Act::DiscardAll => {
                    volume.discard(0, now.len() as u64).unwrap();
                    now.fill(0);
                }
                Act::Resize { bytes } => {
                    volume.resize(bytes.max(512)).unwrap();
                    now.resize(bytes.max(512) as usize, 0);
                }
                Act::Snapshot => {
                    snapshots.push((volume.snapshot(&format!("s{i}")).unwrap(), now.clone()));
                }
                Act::Rollback { to, keep_size } if !snapshots.is_empty() => {
                    let (snapshot, bytes) = &snapshots[to % snapshots.len()];
                    let size = now.len();
                    now.clone_from(bytes);
                    if keep_size {
                        volume.rollback_keep_size(snapshot).unwrap();
                        now.resize(size, 0);
                    } else {
                        volume.rollback(snapshot).unwrap();
                    }
                }
                Act::DeleteSnapshot { which } if !snapshots.is_empty() => {
                    let which = which % snapshots.len();
                    let (snapshot, _) = snapshots.swap_remove(which);
                    store.delete_snapshot(&snapshot).unwrap();
                    gone.push(snapshot);
                }
                Act::Checkpoint => {
                    store.maintain(1000).unwrap();
                    store.checkpoint().unwrap();
                }
                Act::Rollback { .. } | Act::DeleteSnapshot { .. } => {}
            }
            agrees(&volume, &now, &reads)?;
            for (snapshot, bytes) in &snapshots {
                agrees(snapshot, bytes, &reads)?;
            }
            for snapshot in &gone {
                prop_assert_eq!(snapshot.read_at(&mut [0], 0).unwrap_err().kind(), ErrorKind::Deleted);
            }
        }
        // With its volume goes the last snapshot, and then the store.
        let last = volume.snapshot("last").unwrap();
        agrees(&last, &now, &[(0, 512)])?;
        let other = store.create_volume("other", 1 << 20).unwrap();
        agrees(&other, &[0; 4096], &[(0, 4096)])?;
        store.delete_volume(&volume, DeleteSnapshots::Delete).unwrap();
        for disk in [&volume as &dyn ReadDisk, &last] {
            prop_assert_eq!(disk.read_at(&mut [0], 0).unwrap_err().kind(), ErrorKind::Deleted);
        }
        store.close().unwrap();
        prop_assert_eq!(other.read_at(&mut [0], 0).unwrap_err().kind(), ErrorKind::Closed);
    }
}
