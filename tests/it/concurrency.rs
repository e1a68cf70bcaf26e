//! Threads: who waits for whom is decided with gates in the way of syncs; what they see is checked against histories.
//!
//! Nothing here depends on time. A [`Watchdog`] ends the process if threads wait for each other for ever.

mod ahead;
mod between;
mod chaos;
mod close;
mod crash;
mod held;
mod history;
mod readers;
mod stress;
mod unlocked;

use history::{State, WRITERS, World, clean, of_volumes};
use parking_lot::Mutex;
use snapdisk::{
    BLOCK, Durability, ErrorKind, NewOptions, Options, Store, Volume,
    io::{
        Lane,
        sim::{Gate, Rng, SimBackend, SimHost},
    },
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::Duration,
};

const B: u64 = BLOCK as u64;

/// Aborts the process when it is not dropped for a very long time: a deadlock must not look like a slow machine.
struct Watchdog(#[allow(dead_code, reason = "dropping it is the signal")] mpsc::Sender<()>);

impl Watchdog {
    fn new(what: &'static str) -> Watchdog {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            if receiver.recv_timeout(Duration::from_secs(600)) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("{what}: deadlock");
                std::process::abort();
            }
        });
        Watchdog(sender)
    }
}

/// How long the tests with many threads run; the variable is for soaking.
fn rounds(n: u64) -> u64 {
    crate::settings::count("SNAPDISK_STRESS", 1) * n
}

// ---- gates

/// A store without background work whose syncs wait at a gate.
fn gated() -> (Store, Arc<Gate>, Volume) {
    let (backend, gate) = (Arc::new(SimBackend::new()), Arc::new(Gate::new()));
    let options = Options::new().log_bytes(1 << 20).manual_maintenance(true);
    let store = options.create_on(backend.clone(), Arc::new(SimHost::new(7))).unwrap();
    let v = store.create_volume("v", 1024 * B).unwrap();
    (0..64).for_each(|i| v.write_at(&[1; BLOCK], i * B).unwrap());
    store.checkpoint().unwrap();
    backend.set_gate(Some(gate.clone()));
    (store, gate, v)
}

fn block(v: &Volume, i: u64) -> u8 {
    let mut buf = [0; BLOCK];
    v.read_at(&mut buf, i * B).unwrap();
    assert!(buf.iter().all(|&b| b == buf[0]), "block {i} is of one write");
    buf[0]
}

/// What goes on beside a sync that does not return: reads of what is on disk, of what is being flushed, of what was written since, of
/// snapshots; writes, discards, and snapshots that need not be durable yet.
fn life_goes_on(store: &Store, v: &Volume, flushing: u64) {
    assert_eq!((block(v, 0), block(v, flushing)), (1, 2), "on disk; on its way");
    v.write_at(&[3; BLOCK], flushing * B).unwrap();
    v.write_at(&[4; BLOCK], 0).unwrap();
    v.write_at(&[5; 100], 10 * B + 7).unwrap();
    v.discard(11 * B, 5 * B).unwrap();
    assert_eq!((block(v, 0), block(v, flushing), block(v, 11), block(v, 16)), (4, 3, 0, 1));
    let mut part = [0; 108];
    v.read_at(&mut part, 10 * B).unwrap();
    assert_eq!((part[6], part[7], part[106], part[107]), (1, 5, 5, 1));
    let o = NewOptions::new().durability(Durability::Deferred);
    let s = store.snapshot_with(v, &format!("beside{flushing}"), o.clone()).unwrap();
    v.write_at(&[6; BLOCK], flushing * B).unwrap();
    let mut buf = [0; BLOCK];
    s.read_at(&mut buf, flushing * B).unwrap();
    assert_eq!((buf[0], block(v, flushing)), (3, 6));
    let c = store.clone_volume_with(&s, &format!("clone{flushing}"), o).unwrap();
    c.write_at(&[7; BLOCK], B).unwrap();
    assert_eq!((block(&c, flushing), block(&c, 1), block(v, 1)), (3, 7, 1));
    assert_eq!(store.volumes().unwrap().len(), store.snapshots().unwrap().len() + 1);
    assert!(v.extents(0..1024 * B).count() > 1);
}

#[test]
fn nobody_waits_for_a_flush_but_flushers() {
    let _watchdog = Watchdog::new("nobody_waits_for_a_flush_but_flushers");
    let (store, gate, v) = gated();
    gate.shut(Lane::Flush);
    v.write_at(&[2; BLOCK], 5 * B).unwrap();
    thread::scope(|s| {
        let flusher = s.spawn(|| v.flush());
        gate.wait_for(Lane::Flush, 1);
        life_goes_on(&store, &v, 5);
        assert_eq!(gate.passed(Lane::Flush), 0);
        assert!(!flusher.is_finished(), "a flush must not return before its sync");
        gate.open(Lane::Flush);
        flusher.join().unwrap().unwrap();
    });
    assert_eq!(gate.passed(Lane::Flush), 1);
    assert_eq!((block(&v, 5), block(&v, 0)), (6, 4));
    assert!(store.check().unwrap().is_clean());
}

#[test]
fn nobody_waits_for_a_checkpoint() {
    let _watchdog = Watchdog::new("nobody_waits_for_a_checkpoint");
    let (store, gate, v) = gated();
    gate.shut(Lane::Checkpoint);
    v.write_at(&[2; BLOCK], 5 * B).unwrap();
    thread::scope(|s| {
        let checkpoint = s.spawn(|| store.checkpoint());
        // Its two syncs: before the superblock and after it.
        for round in 0..2 {
            while gate.passed(Lane::Checkpoint) < round {
                thread::yield_now();
            }
            gate.wait_for(Lane::Checkpoint, 1);
            let at = 5 + round;
            if round > 0 {
                v.write_at(&[1; BLOCK], 0).unwrap();
                v.write_at(&[1; 5 * BLOCK], 10 * B).unwrap();
                v.write_at(&[1; BLOCK], 15 * B).unwrap();
                v.write_at(&[2; BLOCK], at * B).unwrap();
            }
            life_goes_on(&store, &v, at);
            // Flushes and what must be durable too.
            let before = gate.passed(Lane::Flush);
            v.flush().unwrap();
            v.snapshot(&format!("durable{round}")).unwrap();
            v.rollback(&v.snapshot_named(&format!("beside{at}")).unwrap()).unwrap();
            store.delete_snapshot(&v.snapshot_named(&format!("durable{round}")).unwrap()).unwrap();
            assert_eq!((block(&v, at), gate.passed(Lane::Flush) - before), (3, 4));
            assert_eq!(gate.passed(Lane::Checkpoint), round);
            gate.let_one_pass(Lane::Checkpoint);
        }
        checkpoint.join().unwrap().unwrap();
    });
    gate.open(Lane::Checkpoint);
    store.wait_reclaimed().unwrap();
    let report = store.check().unwrap();
    assert!(report.is_clean(), "{:#?}", report.findings);
}

#[test]
fn eight_flushers_share_two_syncs() {
    let _watchdog = Watchdog::new("eight_flushers_share_two_syncs");
    let (_store, gate, v) = gated();
    gate.shut(Lane::Flush);
    thread::scope(|s| {
        let (v, (sender, receiver)) = (&v, mpsc::channel());
        let flusher = move |i: u64, sender: mpsc::Sender<()>| {
            move || {
                v.write_at(&[2; BLOCK], i * B).unwrap();
                sender.send(()).unwrap();
                v.flush().unwrap();
            }
        };
        s.spawn(flusher(0, sender.clone()));
        gate.wait_for(Lane::Flush, 1);
        (1..8).for_each(|i| drop(s.spawn(flusher(i, sender.clone()))));
        (0..8).for_each(|_| receiver.recv().unwrap());
        gate.open(Lane::Flush);
    });
    // The first went alone; whoever came next took all others along, also those that were not at the gate yet.
    assert_eq!(gate.passed(Lane::Flush), 2);
}

// ---- ends

/// Writers that go on until the store says no; gives the kinds of error that ended each thread.
fn until_refused(world: &World, store: &Store, running: &AtomicU64) -> Vec<ErrorKind> {
    let seen = Mutex::new(Vec::new());
    thread::scope(|s| {
        let seen = &seen;
        for w in 0..WRITERS {
            s.spawn(move || {
                let (mut rng, mut buf) = (Rng::new(w as u64 + 9), Vec::new());
                let e = loop {
                    let outcome = world.act(w, &mut rng, &mut buf);
                    running.fetch_add(1, SeqCst);
                    if let Err(e) = outcome {
                        break e;
                    }
                };
                seen.lock().push(e.kind());
            });
        }
        s.spawn(move || seen.lock().push(until(|_| store.flush())));
        s.spawn(move || seen.lock().push(until(|_| world.volumes[0].read_at(&mut [0; 3 * BLOCK], 100))));
        s.spawn(move || {
            seen.lock().push(until(|i| {
                let s = store.snapshot(&world.volumes[1], &format!("s{i}"))?;
                store.delete_snapshot(&s)
            }));
        });
    });
    seen.into_inner()
}

fn until(mut f: impl FnMut(u64) -> snapdisk::Result<()>) -> ErrorKind {
    (0..).find_map(|i| f(i).err()).unwrap().kind()
}

/// `close` among running threads: each of them ends with `Closed`; what returned before is in the image, what was refused is not; and the
/// image is free although handles live on.
#[test]
fn close_while_threads_run() {
    let _watchdog = Watchdog::new("close_while_threads_run");
    let dir = tempfile::tempdir().unwrap();
    for round in 0..rounds(10) {
        let path = dir.path().join(format!("image{round}"));
        let options = Options::new().log_bytes(1 << 20).memory(1 << 20);
        let store = options.create(&path).unwrap();
        let world = World::new(&store);
        let running = AtomicU64::new(0);
        let kinds = thread::scope(|s| {
            let threads = s.spawn(|| until_refused(&world, &store, &running));
            while running.load(SeqCst) < 100 * round {
                thread::yield_now();
            }
            store.clone().close().unwrap();
            threads.join().unwrap()
        });
        assert_eq!(kinds, vec![ErrorKind::Closed; WRITERS + 3]);
        let again = options.open(&path).unwrap();
        let finished = world.past.finished();
        let volumes = ["a", "b"].map(|n| again.volume(n).unwrap());
        world.past.is_a_cut(&of_volumes(&volumes), &mut State::start(), &finished, &finished);
        clean(&again);
        again.close().unwrap();
        assert_eq!(store.close().unwrap_err().kind(), ErrorKind::Closed);
    }
}

/// The store's handle goes while others work: nothing happens to them. With the last one the image is free, and holds at least what was
/// flushed, as after a crash.
#[test]
fn drop_while_threads_run() {
    let _watchdog = Watchdog::new("drop_while_threads_run");
    let dir = tempfile::tempdir().unwrap();
    for round in 0..rounds(10) {
        let path = dir.path().join(format!("image{round}"));
        let options = Options::new().log_bytes(1 << 20).memory(1 << 20);
        let store = options.create(&path).unwrap();
        let world = Arc::new(World::new(&store));
        let flushed = Arc::new(Mutex::new(vec![0; WRITERS]));
        let threads: Vec<_> = (0..WRITERS)
            .map(|w| {
                let (world, flushed) = (world.clone(), flushed.clone());
                thread::spawn(move || {
                    let (mut rng, mut buf) = (Rng::new(round * 10 + w as u64), Vec::new());
                    for i in 0..20 + 10 * round {
                        world.act(w, &mut rng, &mut buf).unwrap();
                        if i % 16 == 0 {
                            let before = world.past.finished();
                            world.volumes[w % 2].flush().unwrap();
                            flushed.lock().iter_mut().zip(before).for_each(|(f, b)| *f = b.max(*f));
                        }
                    }
                })
            })
            .collect();
        drop(store);
        threads.into_iter().for_each(|t| t.join().unwrap());
        let past = world.past.clone();
        // With this the last handle goes.
        drop(world);
        let store = options.open(&path).unwrap();
        let now = of_volumes(&["a", "b"].map(|n| store.volume(n).unwrap()));
        past.is_a_cut(&now, &mut State::start(), &flushed.lock(), &past.finished());
        clean(&store);
    }
}
