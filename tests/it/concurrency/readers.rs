//! Slow readers: what they keep from reuse, and what they do not.

use super::{B, BLOCK, Watchdog, held::Held};
use snapdisk::{
    ErrorKind, Knobs, Options, Store, Volume,
    io::sim::{Call, SimHost},
};
use std::{sync::Arc, thread, time::Duration};

/// A full image of 512 blocks with a volume of which `live` blocks are written.
fn small(live: u64) -> (Arc<Held>, Store, Volume) {
    let knobs = Knobs { log_pages: 32, span: 128, growth: 1, reserve: 16, inline: 0, ..Knobs::default() };
    let options = Options::new().manual_maintenance(true).punch_from(None).max_image_bytes((64 + 512) * B).knobs(knobs);
    let disk = Arc::<Held>::default();
    let store = options.create_on(disk.clone(), Arc::new(SimHost::new(3))).unwrap();
    let v = store.create_volume("v", live * B).unwrap();
    (0..live).for_each(|i| v.write_at(&[1; BLOCK], i * B).unwrap());
    store.checkpoint().unwrap();
    (disk, store, v)
}

/// One block is being read for as long as this takes; all others go round as if it was not.
#[test]
fn a_slow_reader_holds_back_only_what_it_reads() {
    let _watchdog = Watchdog::new("a_slow_reader_holds_back_only_what_it_reads");
    let (disk, store, v) = small(16);
    let (waiting, go) = disk.hold_a_read();
    let mut buf = [0; BLOCK];
    thread::scope(|s| {
        let reader = s.spawn(|| v.read_at(&mut buf, 3 * B));
        waiting.recv().unwrap();
        let before = disk.inner.counts().of(Call::Sync);
        for round in 0..500 {
            (0..16).for_each(|i| v.write_at(&[2; BLOCK], i * B).unwrap_or_else(|e| panic!("round {round}: {e}")));
        }
        let syncs = disk.inner.counts().of(Call::Sync) - before;
        assert!(syncs < 1000, "{syncs} syncs for 8000 blocks in an image with room for 400");
        go.send(()).unwrap();
        reader.join().unwrap().unwrap();
    });
    assert_eq!(buf, [1; BLOCK], "what it was when it was looked up");
    assert!(store.check().unwrap().is_clean());
    store.close().unwrap();
}

/// Where all that is free is being read, a write waits for the reader and then goes on.
#[test]
fn a_write_waits_for_the_reader_that_has_all_the_space() {
    let _watchdog = Watchdog::new("a_write_waits_for_the_reader_that_has_all_the_space");
    let (disk, store, v) = small(200);
    let (waiting, go) = disk.hold_a_read();
    let mut buf = vec![0; 200 * BLOCK];
    thread::scope(|s| {
        let reader = s.spawn(|| v.read_at(&mut buf, 0));
        waiting.recv().unwrap();
        let writer =
            s.spawn(|| (2..5).try_for_each(|round| (0..200).try_for_each(|i| v.write_at(&[round; BLOCK], i * B))));
        // It can't be told that a thread waits for ever: it is given the time in which it would fail.
        for _ in 0..100 {
            if writer.is_finished() {
                break;
            }
            thread::sleep(Duration::from_millis(2));
        }
        go.send(()).unwrap();
        reader.join().unwrap().unwrap();
        writer.join().unwrap().unwrap();
    });
    assert_eq!(buf, vec![1; 200 * BLOCK]);
    assert!(store.check().unwrap().is_clean());
}

/// A scrub may be run by the thread that writes: it is told what holds the space instead of waiting for itself.
#[test]
fn a_scrub_that_holds_the_space_is_told() {
    let (_disk, store, v) = small(300);
    v.snapshot("s").unwrap();
    let mut refused = None;
    let report = store.scrub(&mut |_| {
        let mut writes = (0..300).map(|i| v.write_at(&[2; BLOCK], i % 100 * B));
        refused = refused.take().or_else(|| writes.find_map(Result::err));
        true
    });
    assert!(report.unwrap().damaged.is_empty());
    let refused = refused.expect("the scrub holds what it looks at");
    assert_eq!(refused.kind(), ErrorKind::NoSpace);
    assert!(refused.to_string().contains("are held until a check"), "{refused}");
    (0..16).for_each(|i| v.write_at(&[3; BLOCK], i * B).unwrap());
}
