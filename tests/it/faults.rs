//! Failing calls: what each operation answers, what the store is good for afterwards, what a crash then leaves.

use std::sync::Arc;

use snapdisk::{
    ErrorKind, Knobs, Options, Store, Volume,
    io::sim::{Call, EINTR, EIO, ENOSPC, Fault, How, ReadOnlyGuard, SimBackend, SimHost, Violations},
};

use crate::{
    explorer::{
        case::{Case, SIZES, size, start},
        search::Search,
    },
    model::{Op, op::workload},
};

fn open_size(n: u8) -> (Options, Arc<SimBackend>, Store) {
    let (options, ..) = size(n);
    let disk = Arc::new(SimBackend::of(start(n).0));
    let store = options.open_on(disk.clone(), Arc::new(SimHost::new(3))).unwrap();
    (options, disk, store)
}

fn open() -> (Options, Arc<SimBackend>, Store, Volume) {
    let (options, disk, store) = open_size(2);
    let volume = store.volumes().unwrap().remove(0);
    (options, disk, store, volume)
}

fn fault(call: Call, nth: u64, how: How, sticky: bool) -> Fault {
    Fault { call, nth, how, sticky }
}

fn again(options: &Options, disk: &SimBackend) -> Store {
    let disk = Arc::new(SimBackend::reborn(disk.live(), disk.medium().abandoned()));
    options.open_on(disk, Arc::new(SimHost::new(4))).unwrap()
}

fn block(v: &Volume, n: u64) -> u8 {
    let mut buf = [0; 4096];
    v.read_at(&mut buf, n * 4096).unwrap();
    assert!(buf.iter().all(|&b| b == buf[0]));
    buf[0]
}

/// C9.
#[test]
fn a_failed_sync_is_final() {
    for (code, call) in [(EIO, Call::Sync), (ENOSPC, Call::Sync)] {
        let (options, disk, store, v) = open();
        v.write_at(&[1; 4096], 0).unwrap();
        store.flush().unwrap();
        v.write_at(&[2; 4096], 4096).unwrap();
        disk.set_faults(vec![fault(call, 0, How::Errno(code), false)]);
        assert_eq!(store.flush().unwrap_err().kind(), ErrorKind::Io, "whatever the errno");
        let after = disk.counts().mutating();
        assert_eq!(store.flush().unwrap_err().kind(), ErrorKind::Poisoned);
        assert_eq!(v.write_at(&[3; 4096], 0).unwrap_err().kind(), ErrorKind::Poisoned);
        assert_eq!(v.discard(0, 4096).unwrap_err().kind(), ErrorKind::Poisoned);
        assert_eq!(v.snapshot("s").err().unwrap().kind(), ErrorKind::Poisoned);
        assert_eq!(store.checkpoint().unwrap_err().kind(), ErrorKind::Poisoned);
        assert!(store.maintain(100).is_err() || !store.maintain(100).unwrap());
        assert_eq!(block(&v, 0), 1, "reads go on");
        let _ = store.close();
        assert_eq!(disk.counts().mutating(), after, "nothing is written or synced, by closing neither");
        let next = again(&options, &disk);
        assert_eq!(block(&next.volumes().unwrap()[0], 0), 1);
        assert!(next.check().unwrap().is_clean());
    }
}

/// Another call failed while the sync went on: what the host told to that one, once, it may not tell to the sync.
#[test]
fn a_sync_beside_a_failure_acknowledges_nothing() {
    let (options, disk, store, v) = open();
    v.write_at(&[1; 4096], 0).unwrap();
    store.flush().unwrap();
    v.write_at(&[2; 4096], 4096).unwrap();
    let (other, faulty) = (v.clone(), disk.clone());
    let mut once = true;
    disk.set_during(Some(Box::new(move |call, _| {
        if call == Call::Sync && std::mem::take(&mut once) {
            faulty.set_faults(vec![fault(Call::Write, 0, How::Errno(EIO), false)]);
            // Long enough to go to its place at once.
            assert_eq!(other.write_at(&[3; 2 * 4096], 8192).unwrap_err().kind(), ErrorKind::Io);
        }
    })));
    assert_eq!(store.flush().unwrap_err().kind(), ErrorKind::Io, "durable or not: nobody knows");
    disk.set_during(None);
    let refused = v.write_at(&[3; 4096], 0).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Poisoned);
    assert!(refused.to_string().contains("write at byte"), "the cause is told: {refused}");
    assert!(std::error::Error::source(&refused).is_some());
    drop(store);
    let next = again(&options, &disk);
    assert_eq!(block(&next.volumes().unwrap()[0], 0), 1);
}

/// Data that was taken out of staging and not written must not be acknowledged, whatever kept it from being written.
#[test]
fn a_panic_of_the_backend_is_final() {
    let options = Options::new().manual_maintenance(true).log_bytes(1 << 20).memory(1 << 20);
    let disk = Arc::new(SimBackend::new());
    let store = options.create_on(disk.clone(), Arc::new(SimHost::new(3))).unwrap();
    let v = store.create_volume("v", 1 << 20).unwrap();
    v.write_at(&[1; 4096], 0).unwrap();
    store.flush().unwrap();
    disk.set_during(Some(Box::new(|call, _| assert_ne!(call, Call::Write, "planted"))));
    let writes = || (0..64).for_each(|i| v.write_at(&[2; 4096], i * 4096).unwrap());
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(writes)).is_err(), "nothing was written ahead");
    disk.set_during(None);
    assert_eq!(store.flush().unwrap_err().kind(), ErrorKind::Poisoned);
    drop(store);
    let next = again(&options, &disk);
    assert_eq!(block(&next.volumes().unwrap()[0], 0), 1);
    assert!(next.check().unwrap().is_clean());
}

/// A block that comes out of a map comes in two parts, and counts as one.
#[test]
fn blocks_are_counted_once_on_either_read_path() {
    let (_, disk, store, v) = open();
    v.write_at(&[1; 8 * 4096], 0).unwrap();
    store.checkpoint().unwrap();
    let cost = |blocks| {
        let before = store.counters().unwrap().backend_read_bytes;
        (0..blocks).for_each(|i| assert_eq!(block(&v, i), 1));
        store.counters().unwrap().backend_read_bytes - before
    };
    // Nodes are in memory from now on.
    cost(8);
    for mapped in [false, true] {
        disk.set_mapped(mapped);
        assert_eq!(cost(8), 8 * 4096, "mapped: {mapped}");
    }
}

/// C10.
#[test]
fn a_full_host_is_no_disaster() {
    let knobs = Knobs { log_pages: 64, growth: 1, ..Knobs::default() };
    let options = Options::new().manual_maintenance(true).punch_from(None).knobs(knobs);
    let disk = Arc::new(SimBackend::new());
    let store = options.create_on(disk.clone(), Arc::new(SimHost::new(3))).unwrap();
    let v = store.create_volume("v", 16 * 4096).unwrap();
    v.write_at(&[1; 8 * 4096], 0).unwrap();
    let s = v.snapshot("s").unwrap();
    disk.set_full(true);
    let mut n = 2;
    let refused = loop {
        assert!(n < 200, "space never ends");
        match v.write_at(&vec![n; 16 * 4096], 0) {
            Ok(()) => n += 1,
            Err(e) => break e,
        }
        if let Err(e) = v.snapshot(&format!("s{n}")) {
            break e;
        }
    };
    assert_eq!(refused.kind(), ErrorKind::NoSpace);
    let now = block(&v, 0);
    store.flush().unwrap();
    v.discard(4096, 4096).unwrap();
    store.delete_snapshot(&s).unwrap();
    store.checkpoint().unwrap();
    assert_eq!((block(&v, 0), block(&v, 1)), (now, 0));
    disk.set_full(false);
    v.write_at(&[99; 4096], 0).unwrap();
    store.flush().unwrap();
    assert!(store.check().unwrap().is_clean());
    let next = again(&options, &disk);
    assert_eq!(block(&next.volumes().unwrap()[0], 0), 99);
    assert!(next.check().unwrap().is_clean());
}

/// C11.
#[test]
fn short_and_interrupted_calls_are_continued() {
    let (_, disk, store, v) = open();
    let mut faults: Vec<Fault> = (0..40).map(|n| fault(Call::Write, n, How::Short, false)).collect();
    faults.extend((40..44).map(|n| fault(Call::Write, n, How::Errno(EINTR), false)));
    faults.extend((0..400).step_by(2).map(|n| fault(Call::Read, n, How::Short, false)));
    disk.set_faults(faults);
    for n in 1..12 {
        v.write_at(&[n; 3 * 4096], u64::from(n) * 4096).unwrap();
        store.flush().unwrap();
        assert_eq!(block(&v, u64::from(n)), n);
    }
    assert!(disk.counts().faults_hit > 20);
    // A write that never writes anything is an error, not a loop.
    disk.set_faults(vec![fault(Call::Write, 0, How::Nothing, true)]);
    let failed = v.write_at(&[1; 4096], 0).and_then(|()| store.flush());
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::Io);
}

/// A failed read is the caller's to repeat.
#[test]
fn a_failed_read_may_be_repeated() {
    let (options, disk, store, v) = open();
    v.write_at(&[1; 4096], 0).unwrap();
    store.close().unwrap();
    let disk = Arc::new(SimBackend::of(disk.live()));
    let store = options.open_on(disk.clone(), Arc::new(SimHost::new(5))).unwrap();
    let v = store.volumes().unwrap().remove(0);
    disk.set_faults(vec![fault(Call::Read, 0, How::Errno(EIO), false)]);
    let mut buf = [0; 4096];
    assert_eq!(v.read_at(&mut buf, 0).unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(block(&v, 0), 1);
    v.write_at(&[2; 4096], 0).unwrap();
    store.flush().unwrap();
}

/// G5: the number of syncs.
#[test]
fn syncs_are_counted() {
    let (_, disk, store, v) = open();
    let syncs = |f: &dyn Fn()| {
        let before = disk.counts().of(Call::Sync);
        f();
        disk.counts().of(Call::Sync) - before
    };
    assert_eq!(syncs(&|| v.write_at(&[1; 4096], 0).unwrap()), 0);
    assert_eq!(syncs(&|| store.flush().unwrap()), 1);
    assert_eq!(syncs(&|| store.flush().unwrap()), 0, "an empty flush");
    assert_eq!(syncs(&|| drop(v.snapshot("s").unwrap())), 1);
    assert_eq!(syncs(&|| v.write_fua_at(&[2; 4096], 0).unwrap()), 1);
    assert_eq!(syncs(&|| store.mark().unwrap()), 0);
    assert_eq!(syncs(&|| store.checkpoint().unwrap()), 2, "a checkpoint with nothing to flush");
    v.write_at(&[3; 4096], 0).unwrap();
    assert_eq!(syncs(&|| store.checkpoint().unwrap()), 3, "a checkpoint that flushes first");
}

/// G7, C22.
#[test]
fn a_read_only_opening_changes_nothing() {
    let (options, disk, store, v) = open();
    v.write_at(&[1; 4096], 0).unwrap();
    store.flush().unwrap();
    v.snapshot("s").unwrap();
    drop((store, v));
    let disk = Arc::new(SimBackend::reborn(disk.live(), disk.medium().abandoned()));
    let seen = Violations::default();
    disk.set_guard(Some(Box::new(ReadOnlyGuard(seen.clone()))));
    let store = options.open_read_only_on(disk.clone(), Arc::new(SimHost::new(6))).unwrap();
    let v = store.volumes().unwrap().remove(0);
    assert_eq!(block(&v, 0), 1);
    assert_eq!(store.snapshots().unwrap().len(), 1);
    assert!(store.check().unwrap().is_clean());
    assert_eq!(v.write_at(&[1; 4096], 0).unwrap_err().kind(), ErrorKind::ReadOnly);
    assert_eq!(store.checkpoint().unwrap_err().kind(), ErrorKind::ReadOnly);
    store.close().unwrap();
    assert_eq!(seen.take(), Vec::<String>::new());
    assert_eq!(disk.counts().mutating(), 0);
}

/// The N-th call of each kind fails, for every N, in many workloads; then every crash.
#[test]
fn every_call_fails_once() {
    use proptest::strategy::{Strategy, ValueTree};
    let workloads = crate::settings::count("SNAPDISK_SWEEP", 16);
    let mut runner = crate::explorer::runner(77, 1, false);
    let mut search = Search::new();
    search.sweep();
    let mut runs = 0;
    for w in 0..workloads {
        let ops = workload(24).new_tree(&mut runner).expect("a workload").current();
        let plain = Case { more: vec![Op::Flush {}], ..Case::of(w, w as u8 % SIZES, ops) };
        let counts = search.counts(&plain).unwrap_or_else(|e| panic!("{e}\n  {plain}"));
        for (call, how, sticky) in KINDS {
            for nth in 0..counts.of(call).min(80) {
                let case = Case { fault: Some(fault(call, nth, how, sticky)), ..plain.clone() };
                search.run(&case).unwrap_or_else(|e| panic!("{e}"));
                runs += 1;
            }
        }
    }
    println!("fault sweep: {runs} runs of {workloads} workloads, {}", search.tally);
}

const KINDS: [(Call, How, bool); 9] = [
    (Call::Sync, How::Errno(EIO), false),
    (Call::Sync, How::Errno(ENOSPC), false),
    (Call::Write, How::Errno(EIO), false),
    (Call::Write, How::Errno(ENOSPC), true),
    (Call::Write, How::Short, false),
    (Call::Reserve, How::Errno(ENOSPC), false),
    (Call::Reserve, How::Errno(ENOSPC), true),
    (Call::Push, How::Errno(EIO), false),
    (Call::Read, How::Errno(EIO), false),
];

/// A host that needs free space even to overwrite: an opening has applied nothing, and says that space is all it lacks.
#[test]
fn an_opening_on_a_full_host_lacks_space_and_nothing_else() {
    for call in [Call::Write, Call::Sync] {
        for nth in 0..4 {
            let (options, disk, store) = open_size(2);
            store.create_volume("more", 4096).unwrap();
            drop(store);
            let full = Arc::new(SimBackend::reborn(disk.live(), disk.medium().abandoned()));
            full.set_faults(vec![fault(call, nth, How::Errno(ENOSPC), true)]);
            match options.open_on(full.clone(), Arc::new(SimHost::new(4))) {
                Ok(_) => assert!(call == Call::Sync && nth > 1 || nth > 2, "{call:?} {nth}"),
                Err(e) => assert_eq!(e.kind(), ErrorKind::NoSpace, "{call:?} {nth}: {e}"),
            }
            assert!(again(&options, &full).volume("more").is_ok());
        }
    }
    let full = Arc::new(SimBackend::new());
    full.set_faults(vec![fault(Call::Write, 0, How::Errno(ENOSPC), true)]);
    let outcome = size(2).0.create_on(full, Arc::new(SimHost::new(4)));
    assert_eq!(outcome.err().unwrap().kind(), ErrorKind::NoSpace);
}
