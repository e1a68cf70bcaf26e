//! Space for recovery: what a live run did with the blocks that it had, its replay can do as well (I7).

use snapdisk::{
    BLOCK, Event, Knobs, Options,
    io::sim::{SimBackend, SimHost},
};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::SeqCst},
};

const B: u64 = BLOCK as u64;
/// Blocks of the volume; every other one is mapped, so that each is an extent of its own.
const BLOCKS: u64 = 1800;
/// Bytes of the largest image: what the volume needs, and some.
const LIMIT: u64 = 4520 * B;
/// Bytes of it that are left free: enough for what follows, by little.
const LEFT: u64 = 310 * B;

fn options() -> Options {
    let knobs = Knobs {
        fanout: 4,
        span: 64,
        index_fanout: 4,
        log_pages: 2048,
        growth: 8,
        reserve: 8,
        direct: 100,
        ..Knobs::default()
    };
    Options::new().manual_maintenance(true).punch_from(None).knobs(knobs).max_image_bytes(LIMIT)
}

/// A node that lost a parent to reclaim would be changed in place, where its replay, which does not reclaim, has to make another one. In an image
/// that is nearly full there would be no block for it.
#[test]
fn a_full_image_has_the_blocks_that_its_replay_needs() {
    let disk = Arc::new(SimBackend::new());
    let store = options().create_on(disk.clone(), Arc::new(SimHost::new(1))).unwrap();
    let volume = store.create_volume("v", BLOCKS * B).unwrap();
    let filler = store.create_volume("filler", 4096 * B).unwrap();
    store.checkpoint().unwrap();
    let mapped = || (0..BLOCKS).step_by(2);
    for i in mapped() {
        volume.write_at(&[i as u8 + 1; BLOCK], i * B).unwrap();
    }
    // All nodes are of this generation. The old root keeps only the snapshot, which goes.
    let snapshot = volume.snapshot("s").unwrap();
    volume.write_at(&[7; BLOCK], 0).unwrap();
    store.delete_snapshot(&snapshot).unwrap();
    store.maintain(1).unwrap();
    for i in 0.. {
        let now = store.counters().unwrap();
        if now.image_bytes + 8 * 64 * B > LIMIT && now.free_bytes <= LEFT {
            break;
        }
        filler.write_at(&[9; BLOCK], i * B).unwrap();
    }
    // One in each leaf, in the leaves' places.
    for i in mapped().filter(|i| i % 12 == 2) {
        volume.write_at(&[5; BLOCK], i * B).unwrap();
    }
    store.flush().unwrap();
    drop((volume, filler, snapshot));
    drop(store);

    // The next process finds a host that has no more to give.
    let disk = Arc::new(SimBackend::reborn(disk.live(), disk.medium().abandoned()));
    disk.set_full(true);
    let store = options().open_on(disk, Arc::new(SimHost::new(2))).unwrap();
    assert!(store.check().unwrap().is_clean());
    let volume = store.volume("v").unwrap();
    for i in mapped().skip(1) {
        let mut block = [0; BLOCK];
        volume.read_at(&mut block, i * B).unwrap();
        assert_eq!(block[0], if i % 12 == 2 { 5 } else { i as u8 + 1 }, "block {i}");
    }
}

/// What is written over again and again within the slack is neither punched nor reserved anew. Without slack it goes back to the host at once, and
/// so does what no demand is for.
#[test]
fn space_that_is_soon_written_again_is_not_punched() {
    let knobs = Knobs { span: 64, index_fanout: 8, log_pages: 256, growth: 1, ..Knobs::default() };
    for (slack, kept) in [(100, true), (0, false)] {
        let punched = Arc::new(AtomicU64::new(0));
        let sum = punched.clone();
        let options = Options::new().manual_maintenance(true).punch_from(Some(8 * B)).slack(slack).knobs(knobs);
        let options = options.on_event(move |event| {
            if let Event::Punched { bytes, .. } = event {
                sum.fetch_add(*bytes, SeqCst);
            }
        });
        let store = options.create_on(Arc::new(SimBackend::new()), Arc::new(SimHost::new(1))).unwrap();
        let volume = store.create_volume("v", BLOCKS * B).unwrap();
        let settle = || {
            for _ in 0..3 {
                store.maintain(1000).unwrap();
                store.checkpoint().unwrap();
            }
        };
        let overwrite = |byte| {
            (0..BLOCKS).step_by(200).for_each(|i| volume.write_at(&vec![byte; 200 * BLOCK], i * B).unwrap());
            store.checkpoint().unwrap();
        };
        (1..5).for_each(overwrite);
        let before = punched.load(SeqCst);
        (5..15).for_each(overwrite);
        let while_written = punched.load(SeqCst) - before;
        assert_eq!(while_written == 0, kept, "slack {slack}: {while_written} bytes");
        let file = store.counters().unwrap().image_bytes / B - 256;
        // Regions of 64 blocks have homes and nodes in them.
        assert!(file <= 2 * BLOCKS * 9 / 8, "slack {slack}: {file} blocks beside the log");
        // Nobody writes any more, and what there is goes.
        volume.discard(0, BLOCKS * B).unwrap();
        settle();
        let returned = (punched.load(SeqCst) - before) / B;
        assert!(returned > if kept { BLOCKS * 3 / 2 } else { BLOCKS / 2 }, "slack {slack}: {returned} blocks");
        assert!(store.check().unwrap().is_clean());
    }
}
