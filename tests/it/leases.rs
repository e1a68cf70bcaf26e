//! Attached volumes: what is refused while one is in use, what the holder learns of what was forced, and who releases it.

use crate::forked::Memory;
use snapdisk::{
    AttachedVolume, BLOCK, DeleteSnapshots, ErrorKind, Options, ReadDisk, Result, Snapshot, Store, Update, Volume,
    io::SystemHost,
};
use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Barrier, atomic::Ordering::SeqCst, mpsc},
    thread,
    time::Duration,
};

const SIZE: u64 = 1 << 20;

fn options() -> Options {
    Options::new().log_bytes(1 << 20).manual_maintenance(true)
}

struct World {
    memory: Arc<Memory>,
    store: Store,
    volume: Volume,
    /// Of `volume`, when all of it was ones.
    ones: Snapshot,
}

/// A volume of twos.
fn world() -> World {
    let memory = Arc::new(Memory::default());
    let store = options().create_on(memory.clone(), Arc::new(SystemHost)).unwrap();
    let volume = store.create_volume("disk", SIZE).unwrap();
    volume.write_at(&[1; SIZE as usize], 0).unwrap();
    let ones = volume.snapshot("ones").unwrap();
    volume.write_at(&[2; SIZE as usize], 0).unwrap();
    World { memory, store, volume, ones }
}

fn byte(disk: &dyn ReadDisk) -> u8 {
    let mut buf = [9; 10_000];
    disk.read_at(&mut buf, 3000).unwrap();
    assert!(buf.iter().all(|&b| b == buf[0]));
    buf[0]
}

#[track_caller]
fn refused<T>(result: Result<T>, kind: ErrorKind) {
    assert_eq!(result.err().expect("an error").kind(), kind);
}

/// Who does it.
#[derive(Clone, Copy)]
enum By<'a> {
    Anyone,
    Force,
    Holder(&'a AttachedVolume),
}
use By::{Anyone, Force, Holder};

fn in_update(w: &World, by: By<'_>, change: impl FnOnce(&mut Update<'_>)) -> Result<()> {
    w.store.update(|u| {
        match by {
            Anyone => {}
            Force => u.force(&w.volume),
            Holder(held) => u.hold(held),
        }
        change(u);
        Ok(())
    })
}

type Taking = (&'static str, fn(&World, By<'_>) -> Result<()>);

/// Everything that takes content from the user of a volume.
const TAKES: &[Taking] = &[
    ("rollback", |w, by| match by {
        Anyone => w.volume.rollback(&w.ones),
        Force => w.volume.forced().rollback(&w.ones),
        Holder(held) => held.rollback(&w.ones),
    }),
    ("rollback_keep_size", |w, by| match by {
        Anyone => w.volume.rollback_keep_size(&w.ones),
        Force => w.volume.forced().rollback_keep_size(&w.ones),
        Holder(held) => held.rollback_keep_size(&w.ones),
    }),
    ("shrink", |w, by| match by {
        Anyone => w.volume.resize(SIZE / 2),
        Force => w.volume.forced().resize(SIZE / 2),
        Holder(held) => held.resize(SIZE / 2),
    }),
    ("delete", |w, by| match by {
        Anyone => w.store.delete_volume(&w.volume, DeleteSnapshots::Keep),
        Force => w.volume.forced().delete(DeleteSnapshots::Keep),
        Holder(held) => held.delete(DeleteSnapshots::Keep),
    }),
    ("rollback in an update", |w, by| in_update(w, by, |u| u.rollback(&w.volume, &w.ones))),
    ("shrink in an update", |w, by| in_update(w, by, |u| u.resize(&w.volume, SIZE / 2))),
    ("delete in an update", |w, by| in_update(w, by, |u| u.delete_volume(&w.volume, DeleteSnapshots::Keep))),
];

#[test]
fn what_takes_content_from_the_user_is_refused_and_has_done_nothing() {
    for (name, take) in TAKES {
        let w = world();
        let held = w.volume.attach().unwrap();
        // The volume's own handle, a clone and one that was looked up are all anyone's.
        for handle in [w.volume.clone(), w.store.volume("disk").unwrap(), held.volume().clone()] {
            let w = World { memory: w.memory.clone(), store: w.store.clone(), volume: handle, ones: w.ones.clone() };
            assert_eq!(take(&w, Anyone).expect_err(name).kind(), ErrorKind::Busy, "{name}");
        }
        assert_eq!((held.generation(), held.size().unwrap(), byte(&held)), (0, SIZE, 2), "{name}");
        held.detach().unwrap();
        take(&w, Anyone).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

#[test]
fn a_batch_with_a_refused_operation_does_none_of_them() {
    let w = world();
    let held = w.volume.attach().unwrap();
    let other = w.store.create_volume("other", SIZE).unwrap();
    let update = w.store.update(|u| {
        u.create_volume("new", SIZE, BTreeMap::new())?;
        u.resize(&other, SIZE / 2);
        u.rollback(&w.volume, &w.ones);
        Ok(())
    });
    refused(update, ErrorKind::Busy);
    refused(w.store.volume("new"), ErrorKind::NotFound);
    assert_eq!((other.size().unwrap(), byte(&held), held.generation()), (SIZE, 2, 0));
    // To force another volume is not to force this one.
    let update = w.store.update(|u| {
        u.force(&other);
        u.rollback(&w.volume, &w.ones);
        Ok(())
    });
    refused(update, ErrorKind::Busy);
    // An update that fails for another reason tells the holder nothing.
    let update = w.store.update(|u| {
        u.force(&w.volume);
        u.rollback(&w.volume, &w.ones);
        u.resize(&other, 7);
        Ok(())
    });
    refused(update, ErrorKind::Invalid);
    assert_eq!((byte(&held), held.generation()), (2, 0));
}

#[test]
fn what_takes_nothing_goes_on() {
    let w = world();
    let held = w.volume.attach().unwrap();
    w.volume.snapshot("twos").unwrap();
    w.store.rename(&w.volume, "renamed").unwrap();
    w.volume.set_tags(BTreeMap::from([("a".into(), "b".into())])).unwrap();
    w.volume.write_at(&[3; SIZE as usize], 0).unwrap();
    w.volume.discard(0, SIZE).unwrap();
    w.store.delete_snapshot(&w.ones).unwrap();
    w.volume.resize(SIZE).unwrap();
    assert_eq!(held.generation(), 0);
    w.volume.resize(2 * SIZE).unwrap();
    assert_eq!((held.generation(), held.size().unwrap()), (1, 2 * SIZE));
    // Growing took nothing, and needs no acknowledgement.
    held.write_at(&[4; BLOCK], SIZE).unwrap();
    held.flush().unwrap();
    // To the size that it has: nothing to refuse, nothing to tell.
    w.volume.resize(2 * SIZE).unwrap();
    assert_eq!(held.generation(), 1);
}

#[test]
fn a_volume_is_attached_once_and_released_by_its_holder() {
    let w = world();
    let held = w.volume.attach().unwrap();
    refused(w.volume.attach(), ErrorKind::Busy);
    refused(w.store.volume("disk").unwrap().attach(), ErrorKind::Busy);
    drop(held);
    let again = w.volume.attach().unwrap();
    let other = w.store.create_volume("other", SIZE).unwrap().attach().unwrap();
    again.detach().unwrap();
    refused(other.volume().attach(), ErrorKind::Busy);
    // An attachment is in memory only.
    let last = w.volume.attach().unwrap();
    w.store.clone().close().unwrap();
    let store = options().open_on(w.memory.clone(), Arc::new(SystemHost)).unwrap();
    let volume = store.volume("disk").unwrap();
    let held = volume.attach().unwrap();
    // The handle of the closed store releases nothing of the new one.
    drop(last);
    refused(volume.attach(), ErrorKind::Busy);
    drop(held);
    store.delete_volume(&volume, DeleteSnapshots::Delete).unwrap();
}

#[test]
fn a_forked_child_releases_nothing() {
    let w = world();
    let (dropped, detached) = (w.volume.attach().unwrap(), w.store.create_volume("b", SIZE).unwrap().attach().unwrap());
    let other = detached.volume().clone();
    w.memory.child.store(true, SeqCst);
    drop(dropped);
    refused(detached.detach(), ErrorKind::WrongProcess);
    w.memory.child.store(false, SeqCst);
    refused(w.volume.attach(), ErrorKind::Busy);
    refused(other.attach(), ErrorKind::Busy);
    refused(w.volume.rollback(&w.ones), ErrorKind::Busy);
}

/// Every request of an attached handle.
fn requests(held: &AttachedVolume) -> Vec<(&'static str, Result<()>)> {
    let mut buf = [0; 100];
    vec![
        ("size", held.size().map(drop)),
        ("read_at", held.read_at(&mut buf, 0)),
        ("read_vectored_at", held.read_vectored_at(&mut [io::IoSliceMut::new(&mut [0; 10])], 0)),
        ("extents", held.extents(0..100).try_for_each(|e| e.map(drop))),
        ("write_at", held.write_at(&buf, 0)),
        ("write_fua_at", held.write_fua_at(&buf, 0)),
        ("write_vectored_at", held.write_vectored_at(&[io::IoSlice::new(&buf)], 0)),
        ("discard", held.discard(0, 100)),
        ("write_zeroes", held.write_zeroes(0, 100)),
        ("flush", held.flush()),
        ("resize", held.resize(2 * SIZE)),
    ]
}

#[test]
fn after_a_forced_change_of_content_the_holder_is_told_before_it_goes_on() {
    for (name, take) in TAKES {
        let w = world();
        let held = w.volume.attach().unwrap();
        take(&w, Force).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(held.generation(), 1, "{name}");
        let deleted = name.starts_with("delete");
        let kind = if deleted { ErrorKind::Deleted } else { ErrorKind::Stale };
        for (request, result) in requests(&held) {
            assert_eq!(result.expect_err(request).kind(), kind, "{request} after {name}");
        }
        assert_eq!(take(&w, Holder(&held)).unwrap_err().kind(), kind, "{name}");
        assert_eq!(held.generation(), 1, "{name}: what was refused is no change");
        held.acknowledge(0);
        assert_eq!(held.size().unwrap_err().kind(), kind, "{name}: another generation was acknowledged");
        held.acknowledge(held.generation());
        if deleted {
            refused(held.size(), ErrorKind::Deleted);
            refused(held.wait_generation(1, Duration::MAX), ErrorKind::Deleted);
            continue;
        }
        let expected = if name.starts_with("shrink") { (SIZE / 2, 2) } else { (SIZE, 1) };
        assert_eq!((held.size().unwrap(), byte(&held)), expected, "{name}");
        requests(&held).into_iter().for_each(|(request, r)| r.unwrap_or_else(|e| panic!("{request}: {e}")));
    }
}

#[test]
fn the_holder_itself_needs_not_be_told() {
    for (name, take) in TAKES {
        let w = world();
        let held = w.volume.attach().unwrap();
        take(&w, Holder(&held)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(held.generation(), 1, "{name}");
        match name.starts_with("delete") {
            true => refused(held.size(), ErrorKind::Deleted),
            false => held.write_at(&[1], 0).unwrap(),
        }
    }
}

#[test]
fn a_change_that_follows_the_acknowledged_one_is_to_be_acknowledged_too() {
    let w = world();
    let held = w.volume.attach().unwrap();
    w.volume.forced().rollback(&w.ones).unwrap();
    let seen = held.generation();
    w.volume.forced().rollback(&w.ones).unwrap();
    held.acknowledge(seen);
    refused(held.write_at(&[1], 0), ErrorKind::Stale);
    // Nobody acknowledges what is still to come.
    held.acknowledge(u64::MAX);
    held.write_at(&[1], 0).unwrap();
    w.volume.forced().rollback(&w.ones).unwrap();
    refused(held.write_at(&[1], 0), ErrorKind::Stale);
}

/// A long write of the holder that has written its data and not published it when the volume is rolled back.
#[test]
fn a_write_that_was_begun_before_a_forced_rollback_does_not_reach_what_came_of_it() {
    let w = world();
    let held = w.volume.attach().unwrap();
    w.memory.held.set((Barrier::new(2), Barrier::new(2))).ok().unwrap();
    thread::scope(|scope| {
        let (reached, go) = w.memory.held.get().unwrap();
        w.memory.holds.store(true, SeqCst);
        let write = scope.spawn(|| held.write_at(&[7; SIZE as usize], 0));
        reached.wait();
        w.volume.forced().rollback(&w.ones).unwrap();
        go.wait();
        refused(write.join().unwrap(), ErrorKind::Stale);
    });
    assert_eq!(byte(&w.volume), 1);
    assert!(w.store.check().unwrap().is_clean());
    held.acknowledge(held.generation());
    held.write_at(&[7; SIZE as usize], 0).unwrap();
    assert_eq!(byte(&held), 7);
}

#[test]
fn waiters_wake_with_the_change_and_with_the_end_of_the_store() {
    let w = world();
    let held = w.volume.attach().unwrap();
    assert_eq!(held.wait_generation(0, Duration::ZERO).unwrap(), 0);
    // What is no longer so is not waited for.
    assert_eq!(held.wait_generation(5, Duration::MAX).unwrap(), 0);
    thread::scope(|scope| {
        let (told, waiting) = mpsc::channel();
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let (told, held) = (told.clone(), &held);
                scope.spawn(move || {
                    told.send(()).unwrap();
                    held.wait_generation(0, Duration::MAX)
                })
            })
            .collect();
        (0..3).for_each(|_| waiting.recv().unwrap());
        w.volume.forced().rollback(&w.ones).unwrap();
        for waiter in waiters {
            assert_eq!(waiter.join().unwrap().unwrap(), 1);
        }
        let waiter = scope.spawn(|| held.wait_generation(1, Duration::MAX));
        w.store.clone().close().unwrap();
        refused(waiter.join().unwrap(), ErrorKind::Closed);
    });
}

#[test]
fn attaching_and_changing_at_once_leave_one_answer() {
    for _ in 0..50 {
        let w = world();
        let begin = Barrier::new(2);
        thread::scope(|scope| {
            let rolled = scope.spawn(|| {
                begin.wait();
                w.volume.rollback(&w.ones)
            });
            begin.wait();
            let held = w.volume.attach().unwrap();
            let seen = byte(&held);
            // Either it was refused, or it came before the attachment.
            match rolled.join().unwrap() {
                Ok(()) => assert_eq!((seen, held.generation()), (1, 0)),
                Err(e) => assert_eq!((e.kind(), seen, byte(&held)), (ErrorKind::Busy, 2, 2)),
            }
        });
    }
}
