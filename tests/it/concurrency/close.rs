//! Closing beside work that has not ended yet.

use super::{B, BLOCK, Watchdog, held::Held};
use parking_lot::Mutex;
use snapdisk::{
    ErrorKind, Knobs, Options, Store,
    io::{
        Lane,
        sim::{Call, SimBackend, SimHost},
    },
};
use std::{
    sync::{Arc, mpsc::channel},
    thread,
    time::Duration,
};

/// Whoever opens the image next may find the blocks of that write free, and use them: nothing may be written once it is given away.
#[test]
fn a_close_waits_for_writes_on_their_way() {
    let _watchdog = Watchdog::new("a close beside a write");
    let disk = Arc::<Held>::default();
    let options = Options::new().log_bytes(1 << 20).manual_maintenance(true);
    let store: Store = options.create_on(disk.clone(), Arc::new(SimHost::new(3))).unwrap();
    let volume = store.create_volume("v", 64 * B).unwrap();
    let (waiting, go) = disk.hold_a_write();
    let writer = thread::spawn(move || volume.write_at(&[7; 32 << 12], 0));
    waiting.recv().unwrap();
    let other = store.clone();
    let closer = thread::spawn(move || other.close());
    while store.volumes().is_ok() {
        thread::yield_now();
    }
    // It can't be told that a close waits for ever; one that does not wait is through by then, and shows.
    for _ in 0..100 {
        if disk.is_released() {
            break;
        }
        thread::sleep(Duration::from_millis(2));
    }
    go.send(()).unwrap();
    assert_eq!(writer.join().unwrap().unwrap_err().kind(), ErrorKind::Closed);
    closer.join().unwrap().unwrap();
    assert!(!disk.was_late(), "written after the image was given away");
    assert!(disk.is_released());
    drop(store);
    let store = options.open_on(disk, Arc::new(SimHost::new(4))).unwrap();
    assert!(store.check().unwrap().is_clean());
    store.close().unwrap();
}

/// Runs `work` and has the store closed by another thread in the middle of the first call that `is_it` accepts.
fn closed_in_the_middle<T: Send>(
    options: &Options,
    is_it: fn(Call, Option<Lane>) -> bool,
    work: impl FnOnce(&Store) -> T + Send,
) -> (T, Store) {
    let disk = Arc::new(SimBackend::new());
    let store = options.create_on(disk.clone(), Arc::new(SimHost::new(3))).unwrap();
    store.create_volume("v", 64 * B).unwrap();
    let ((waits, waiting), (go, gone)) = (channel(), channel::<()>());
    let (mut waits, gone) = (Some(waits), Mutex::new(gone));
    disk.set_during(Some(Box::new(move |call, lane| {
        if is_it(call, lane)
            && let Some(waits) = waits.take()
        {
            waits.send(()).unwrap();
            gone.lock().recv().unwrap();
        }
    })));
    let outcome = thread::scope(|s| {
        let worker = s.spawn(|| work(&store));
        waiting.recv().unwrap();
        let closer = s.spawn(|| store.clone().close());
        while store.volumes().is_ok() {
            thread::yield_now();
        }
        go.send(()).unwrap();
        let outcome = worker.join().unwrap();
        closer.join().unwrap().unwrap();
        outcome
    });
    drop(store);
    (outcome, options.open_on(disk, Arc::new(SimHost::new(4))).unwrap())
}

/// An operation that was applied is never answered with `Closed`, which says that it was not.
#[test]
fn what_was_applied_before_a_close_is_not_refused() {
    let _watchdog = Watchdog::new("what_was_applied_before_a_close_is_not_refused");
    let options = Options::new().log_bytes(1 << 20).manual_maintenance(true);
    let in_flush = |call, lane| call == Call::Sync && lane == Some(Lane::Flush);
    let (made, again) = closed_in_the_middle(&options, in_flush, |store| {
        let v = store.volume("v").unwrap();
        v.snapshot("s").map(|s| (s.id(), s.size(), s.volume()))
    });
    let kept = again.volume("v").unwrap().snapshot_named("s").unwrap();
    assert_eq!(made.unwrap(), (kept.id(), kept.size(), kept.volume()));
    // What is staged is written out by the write itself: the close comes between that and the flush.
    let options = options.knobs(Knobs { ahead: 1, ..Knobs::default() });
    let (written, again) = closed_in_the_middle(
        &options,
        |call, _| call == Call::Write,
        |store| store.volume("v").unwrap().write_fua_at(&[7; BLOCK], B),
    );
    written.unwrap();
    let mut buf = [0; BLOCK];
    again.volume("v").unwrap().read_at(&mut buf, B).unwrap();
    assert_eq!(buf, [7; BLOCK]);
}
