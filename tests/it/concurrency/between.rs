//! What others do in the middle of a read or a checkpoint: what a second thread might do between a lookup and its copy, or between reading a block that is
//! to be changed in part and publishing it. The simulator runs it inside the call, so that it happens the same each time.

use parking_lot::Mutex;
use snapdisk::{
    BLOCK, ErrorKind, Knobs, Options, Store, Volume,
    io::{
        Lane,
        sim::{Call, SimBackend, SimHost},
    },
};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
};

const BLOCKS: usize = 8;

fn volume(direct: u32) -> (Arc<SimBackend>, Store, Volume) {
    // What runs in the middle of a checkpoint, on its thread, must not wait for one.
    let knobs = Knobs {
        fanout: 4,
        span: 48,
        index_fanout: 8,
        log_pages: 64,
        growth: 1,
        direct,
        inline: 0,
        recycle: false,
        ..Knobs::default()
    };
    let options = Options::new().manual_maintenance(true).punch_from(None).slack(0).knobs(knobs);
    let disk = Arc::new(SimBackend::new());
    let store = options.create_on(disk.clone(), Arc::new(SimHost::new(5))).unwrap();
    let v = store.create_volume("v", (BLOCKS * BLOCK) as u64).unwrap();
    v.write_at(&vec![1; BLOCKS * BLOCK], 0).unwrap();
    store.checkpoint().unwrap();
    // Everything but the data is in memory: the first read of the medium is of data.
    v.read_at(&mut vec![0; BLOCKS * BLOCK], 0).unwrap();
    (disk, store, v)
}

/// Runs `f` once, in the middle of the read of number `nth` from now on; says later whether that came.
fn during(disk: &SimBackend, nth: usize, f: impl FnOnce() + Send + 'static) -> Arc<AtomicBool> {
    let came = Arc::new(AtomicBool::new(false));
    let (told, mut f, mut left) = (came.clone(), Some(f), nth);
    disk.set_during(Some(Box::new(move |call, _| {
        if call != Call::Read || f.is_none() {
            return;
        }
        if left > 0 {
            left -= 1;
            return;
        }
        told.store(true, SeqCst);
        f.take().expect("once")();
    })));
    came
}

/// I1: what a reader has looked up stays as it is until it has copied, whatever is overwritten, freed and used again meanwhile. A reader that
/// knew where its blocks lie holds nothing: it finds that they were replaced, and sees what is there by then.
#[test]
fn nothing_is_overwritten_under_a_reader() {
    for (offset, len) in [(0, BLOCKS * BLOCK), (BLOCK, BLOCK), (100, 50), (5000, 3 * BLOCK)] {
        for (direct, frozen, known) in
            [1, 64].into_iter().flat_map(|d| [(d, false, false), (d, true, false), (d, false, true), (d, true, true)])
        {
            let (disk, store, v) = volume(direct);
            let snapshot = v.snapshot("s").unwrap();
            if !frozen {
                store.delete_snapshot(&snapshot).unwrap();
            }
            store.checkpoint().unwrap();
            let read = |buf: &mut [u8], offset| match frozen {
                true => snapshot.read_at(buf, offset),
                false => v.read_at(buf, offset),
            };
            if known {
                read(&mut vec![0; BLOCKS * BLOCK], 0).unwrap();
            } else {
                // The same again, in places that no read has seen.
                v.write_at(&vec![1; BLOCKS * BLOCK], 0).unwrap();
                store.checkpoint().unwrap();
            }
            let (others, theirs) = (store.clone(), v.clone());
            let came = during(&disk, 0, move || {
                if frozen {
                    let s = others.snapshots().unwrap().remove(0);
                    others.delete_snapshot(&s).unwrap();
                }
                for round in 2..20 {
                    theirs.write_at(&vec![round; BLOCKS * BLOCK], 0).unwrap();
                    others.maintain(64).unwrap();
                    others.checkpoint().unwrap();
                }
            });
            let mut seen = vec![0; len];
            let outcome = read(&mut seen, offset as u64);
            disk.set_during(None);
            let what = format!("{len} bytes at {offset}, direct {direct}, frozen {frozen}, known {known}");
            assert!(came.load(SeqCst), "{what}");
            match outcome {
                Ok(()) => {
                    let want = if known { 19 } else { 1 };
                    assert!(seen.iter().all(|&b| b == want), "{what}: {}", seen[0]);
                }
                Err(e) => {
                    assert!(known && frozen && e.kind() == ErrorKind::Deleted, "{what}: {e}");
                }
            }
            assert!(store.check().unwrap().is_clean());
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Write(usize, usize),
    Discard(usize, usize),
}

impl Change {
    fn of(self, v: &Volume, byte: u8) {
        match self {
            Change::Write(at, len) => v.write_at(&vec![byte; len], at as u64).unwrap(),
            Change::Discard(at, len) => v.discard(at as u64, len as u64).unwrap(),
        }
    }
    fn model(self, bytes: &mut [u8], byte: u8) {
        match self {
            Change::Write(at, len) => bytes[at..at + len].fill(byte),
            Change::Discard(at, len) => bytes[at..at + len].fill(0),
        }
    }
}

/// C3: of two changes to parts of the same blocks, the second made while the first has read what it will keep, neither is lost.
#[test]
fn changes_of_parts_of_one_block_are_both_kept() {
    let changes = [
        Change::Write(0, 100),
        Change::Write(50, 200),
        Change::Write(300, 10),
        Change::Write(4000, 200),
        Change::Write(4090, 2 * BLOCK),
        Change::Write(0, BLOCK),
        Change::Discard(0, 100),
        Change::Discard(300, 10),
        Change::Discard(4090, 2 * BLOCK),
        Change::Discard(0, BLOCK),
    ];
    let mut met = 0;
    for (first, second) in changes.iter().flat_map(|&a| changes.map(|b| (a, b))) {
        for nth in 0..2 {
            let (disk, store, v) = volume(64);
            let theirs = v.clone();
            let came = during(&disk, nth, move || second.of(&theirs, 3));
            first.of(&v, 2);
            disk.set_during(None);
            if !came.load(SeqCst) {
                continue;
            }
            met += 1;
            let mut seen = vec![0; BLOCKS * BLOCK];
            v.read_at(&mut seen, 0).unwrap();
            let mut legal = [vec![1; BLOCKS * BLOCK], vec![1; BLOCKS * BLOCK]];
            first.model(&mut legal[0], 2);
            second.model(&mut legal[0], 3);
            second.model(&mut legal[1], 3);
            first.model(&mut legal[1], 2);
            assert!(legal.contains(&seen), "{second:?} inside {first:?}, read {nth}: one of them is lost");
            assert!(store.check().unwrap().is_clean());
        }
    }
    assert!(met >= 80, "most changes read: {met}");
}

/// I1: flushes beside a checkpoint, as many as the ring has room for, leave the groups alone that recovery needs until the superblock is
/// durable: a crash at that moment loses nothing.
#[test]
fn the_ring_keeps_what_recovery_needs_beside_a_checkpoint() {
    for (before, nth) in [10, 30, 50].into_iter().flat_map(|n| (0..4).map(move |nth| (n, nth))) {
        let (disk, store, v) = volume(64);
        let flushed = |v: &Volume, n: u32| {
            v.write_at(&n.to_le_bytes(), u64::from(n % 8) * BLOCK as u64).unwrap();
        };
        for n in 0..before {
            flushed(&v, n);
            store.flush().unwrap();
        }
        let (others, theirs, same, mut left) = (store.clone(), v.clone(), disk.clone(), nth);
        let (last, crashed) = (Arc::new(AtomicU32::new(0)), Arc::new(Mutex::new(None)));
        let (told, kept) = (last.clone(), crashed.clone());
        disk.set_during(Some(Box::new(move |call, lane| {
            if (call != Call::Push && lane != Some(Lane::Checkpoint)) || kept.lock().is_some() {
                return;
            }
            if left > 0 {
                left -= 1;
                return;
            }
            let mut n = before;
            // What needs the checkpoint would wait for it.
            while n < 200 && others.counters().is_ok_and(|s| s.log_blocks - s.log_used_blocks > 9) {
                flushed(&theirs, n);
                others.flush().unwrap();
                n += 1;
            }
            told.store(n, SeqCst);
            *kept.lock() = Some(same.live());
        })));
        store.checkpoint().unwrap();
        disk.set_during(None);
        let Some(image) = crashed.lock().take() else { continue };
        let last = last.load(SeqCst);
        assert!(before == 50 || last > before + 10, "{last}");
        let options = Options::new().manual_maintenance(true);
        let next = options.open_on(Arc::new(SimBackend::of(image)), Arc::new(SimHost::new(6))).unwrap();
        let v = next.volume("v").unwrap();
        for n in last - 8..last {
            let mut seen = [0; 4];
            v.read_at(&mut seen, u64::from(n % 8) * BLOCK as u64).unwrap();
            assert_eq!(u32::from_le_bytes(seen), n, "of {last}, {before} before the checkpoint, call {nth}");
        }
        assert!(next.check().unwrap().is_clean());
    }
}
