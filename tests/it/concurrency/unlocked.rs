//! Nothing reads, writes or syncs while the state's lock is held, so that whoever waits for the disk waits alone.

use super::{B, Watchdog, chaos, held::Held};
use crate::wrapped::{Call, Watch, Wrapped};
use parking_lot::Mutex;
use snapdisk::{
    BLOCK, DeleteSnapshots, Knobs, NewOptions, Options, Store, Volume,
    io::sim::{Rng, SimHost},
    sim_support::holds_state,
};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    thread,
};

/// Notes every call that comes while its caller holds the state's lock.
#[derive(Default)]
struct Strict {
    calls: AtomicU64,
    wrong: Mutex<Vec<&'static str>>,
}

impl Watch for Strict {
    fn before(&self, call: Call<'_>) -> io::Result<()> {
        let call = match call {
            Call::Read | Call::ReadCold(..) => "read",
            Call::Write(..) => "write",
            Call::SetLen => "change of the length",
            Call::Punch => "punch",
            Call::Reserve => "reservation",
            Call::Push => "write-out",
            Call::Sync => "sync",
            Call::DropCache | Call::Release => return Ok(()),
        };
        self.calls.fetch_add(1, SeqCst);
        if holds_state() {
            self.wrong.lock().push(call);
        }
        Ok(())
    }
}

/// Everything that a store does, by several threads, with a cache that is too small for it.
#[test]
fn the_disk_is_never_at_work_under_the_lock() {
    let _watchdog = Watchdog::new("the_disk_is_never_at_work_under_the_lock");
    let knobs = Knobs { fanout: 4, span: 64, index_fanout: 8, log_pages: 64, growth: 4, direct: 2, ..Knobs::default() };
    let options = Options::new().memory(1 << 20).punch_from(Some(4 * B)).knobs(knobs);
    let (backend, host) = (Arc::new(Wrapped::<Strict>::default()), Arc::new(SimHost::new(3)));
    let mut store = options.create_on(backend.clone(), host.clone()).unwrap();
    for round in 0..3 {
        thread::scope(|s| {
            for t in 0..3 {
                let store = &store;
                s.spawn(move || {
                    let mut rng = Rng::new(round << 8 | t);
                    (0..150).for_each(|i| chaos::allowed(chaos::step(store, &mut rng, &format!("s{round}.{t}.{i}"))));
                });
            }
            s.spawn(|| {
                store.check().unwrap();
                store.scrub(&mut |_| true).unwrap();
                store.counters().unwrap();
                store.usage_all().unwrap();
            });
        });
        store.flush().unwrap();
        drop(store);
        store = options.open_on(backend.clone(), host.clone()).unwrap();
    }
    store.wait_reclaimed().unwrap();
    store.close().unwrap();
    let report = options.untrusted(true).open_read_only_on(backend.clone(), host).unwrap().check().unwrap();
    assert!(report.is_clean(), "{:#?}", report.findings);
    assert!(backend.calls.load(SeqCst) > 1000);
    let wrong = backend.wrong.lock();
    assert!(wrong.is_empty(), "{} calls under the lock, the first: {}", wrong.len(), wrong[0]);
}

/// A store whose volume `cold` has a tree that is on the disk alone, and whose volume `warm` has none of its tree there.
fn cold_and_warm() -> (Store, Arc<Held>, Volume, Volume) {
    let (backend, host) = (Arc::<Held>::default(), Arc::new(SimHost::new(5)));
    let options = Options::new().log_bytes(1 << 20).manual_maintenance(true);
    let store = options.create_on(backend.clone(), host.clone()).unwrap();
    let cold = store.create_volume("cold", 1 << 30).unwrap();
    // Every other block: many extents, so that the tree has several levels.
    (0..2000).for_each(|i| cold.write_at(&[1; BLOCK], 2 * i * B).unwrap());
    cold.snapshot("s").unwrap();
    store.create_volume("warm", 1 << 20).unwrap();
    store.close().unwrap();
    let store = options.open_on(backend.clone(), host).unwrap();
    let (cold, warm) = (store.volume("cold").unwrap(), store.volume("warm").unwrap());
    warm.write_at(&[2; 20 * BLOCK], 0).unwrap();
    warm.snapshot("first").unwrap();
    warm.write_at(&[3; BLOCK], 0).unwrap();
    store.volumes().unwrap();
    store.snapshots().unwrap();
    (store, backend, cold, warm)
}

/// What does not need the part of the disk that someone else waits for.
fn the_rest_goes_on(store: &Store, warm: &Volume, name: &str) {
    let mut buf = [0; 3 * BLOCK];
    warm.write_at(&[4; 2 * BLOCK], 0).unwrap();
    warm.write_at(&[5; 100], 50).unwrap();
    warm.read_at(&mut buf, 0).unwrap();
    assert_eq!((buf[49], buf[50], buf[150], buf[2 * BLOCK]), (4, 5, 4, 2));
    warm.discard(10 * B, 3 * B).unwrap();
    warm.flush().unwrap();
    let s = warm.snapshot(name).unwrap();
    warm.write_at(&[6; BLOCK], 0).unwrap();
    s.read_at(&mut buf, 0).unwrap();
    assert_eq!(buf[0], 4);
    let c = store.clone_volume_with(&s, &format!("clone-{name}"), NewOptions::new()).unwrap();
    c.write_at(&[7; BLOCK], B).unwrap();
    warm.rollback(&s).unwrap();
    store.delete_volume(&c, DeleteSnapshots::Refuse).unwrap();
    assert!(store.volumes().unwrap().len() >= 2 && store.snapshots().unwrap().len() >= 2);
    assert!(warm.extents(0..1 << 20).filter(Result::is_ok).count() > 1);
    store.flush().unwrap();
}

/// Holds up a read of `work`, which needs what is on the disk alone, and sees that everybody else goes on.
fn beside(what: &'static str, work: impl FnOnce(&Store, &Volume) + Send) {
    let _watchdog = Watchdog::new(what);
    let (store, backend, cold, warm) = cold_and_warm();
    let (waits, go) = backend.hold_a_read();
    thread::scope(|s| {
        let (store, cold) = (&store, &cold);
        let waiting = s.spawn(move || work(store, cold));
        waits.recv().unwrap();
        the_rest_goes_on(store, &warm, "beside");
        assert!(!waiting.is_finished(), "{what}: it waits for the disk");
        go.send(()).unwrap();
        waiting.join().unwrap();
    });
    let report = store.check().unwrap();
    assert!(report.is_clean(), "{what}: {:#?}", report.findings);
}

#[test]
fn nobody_waits_for_another_ones_cold_node() {
    beside("a write", |_, cold| cold.write_at(&[9; BLOCK], 3000 * B).unwrap());
    beside("a write of part of a block", |_, cold| cold.write_at(&[9; 100], 3000 * B).unwrap());
    beside("a large write", |_, cold| cold.write_at(&vec![9; 64 * BLOCK], 3000 * B).unwrap());
    beside("a discard", |_, cold| cold.discard(100 * B, 2000 * B).unwrap());
    beside("a read", |_, cold| cold.read_at(&mut [0; BLOCK], 3000 * B).unwrap());
    beside("a shrinking", |_, cold| cold.resize(1000 * B + 512).unwrap());
}

#[test]
fn nobody_waits_for_those_who_look_at_everything() {
    beside("a check", |store, _| assert!(store.check().unwrap().is_clean()));
    beside("a scrub", |store, _| drop(store.scrub(&mut |_| true).unwrap()));
    beside("usage", |store, _| drop(store.usage_all().unwrap()));
    beside("usage of one", |store, cold| assert!(store.usage(cold).unwrap().mapped_bytes > 0));
    beside("extents", |_, cold| cold.extents(0..1 << 30).for_each(|e| assert!(e.unwrap().len > 0)));
}
