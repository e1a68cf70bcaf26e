//! Data that the medium begins with before its group is flushed.

use super::{B, Watchdog, held::Held};
use snapdisk::{Knobs, Options, io::sim::SimHost};
use std::{sync::Arc, thread, time::Duration};

/// Large data goes to its place without staging. The medium begins with it before anybody flushes; writers and flushes do not wait for that,
/// and a checkpoint does, since its sync goes through the same description.
#[test]
fn the_medium_begins_with_large_writes_and_only_a_checkpoint_waits_for_that() {
    let _watchdog = Watchdog::new("a push");
    let disk = Arc::new(Held::default());
    let options = Options::new().log_bytes(1 << 20).knobs(Knobs { ahead: 16, ..Knobs::default() });
    let store = options.create_on(disk.clone(), Arc::new(SimHost::new(3))).unwrap();
    let volume = store.create_volume("v", 256 * B).unwrap();

    let (waiting, go) = disk.hold_a_push();
    volume.write_at(&[7; 32 << 12], 0).unwrap();
    waiting.recv().unwrap();
    volume.write_at(&[8; 64 << 12], 32 * B).unwrap();
    volume.flush().unwrap();
    let flushed = disk.syncs();
    let other = store.clone();
    let checkpoint = thread::spawn(move || other.checkpoint());
    // It can't be told that it waits for ever; one that does not wait is through by then, and shows.
    for _ in 0..100 {
        if checkpoint.is_finished() {
            break;
        }
        thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(disk.syncs(), flushed, "a sync beside a push through the same description");
    go.send(()).unwrap();
    checkpoint.join().unwrap().unwrap();
    assert!(disk.syncs() > flushed);
    store.close().unwrap();
}
