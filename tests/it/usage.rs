//! Counters and the space of single disks: what they say, and what asking for them costs.

use crate::hooked::Hooked;
use snapdisk::{
    BLOCK, DeleteSnapshots, ErrorKind, Knobs, Options, Store, Usage, Volume,
    io::{Backend, SystemHost},
    sim_support::schedule::{Choice, Plan, run},
};
use std::{io::IoSlice, io::IoSliceMut, sync::Arc};

const B: u64 = BLOCK as u64;

fn options() -> Options {
    let knobs = Knobs { fanout: 8, ..Knobs::default() };
    Options::new().log_bytes(4 << 20).manual_maintenance(true).memory(1 << 20).knobs(knobs)
}

fn open(memory: &Arc<Hooked>) -> Store {
    match memory.len().unwrap() {
        0 => options().create_on(memory.clone(), Arc::new(SystemHost)).unwrap(),
        _ => options().open_on(memory.clone(), Arc::new(SystemHost)).unwrap(),
    }
}

/// Writes every other block, so that each is an extent of its own.
fn fill(volume: &Volume, blocks: u64) {
    (0..blocks).for_each(|i| volume.write_at(&[1; BLOCK], 2 * i * B).unwrap());
}

fn read_bytes(store: &Store) -> u64 {
    store.counters().unwrap().backend_read_bytes
}

/// What deleting a disk frees, found by doing it.
fn freed(store: &Store, delete: impl FnOnce()) -> u64 {
    let room = || {
        store.wait_reclaimed().unwrap();
        store.checkpoint().unwrap();
        store.checkpoint().unwrap();
        let c = store.counters().unwrap();
        c.free_bytes + c.waiting_bytes + c.returned_bytes
    };
    let before = room();
    delete();
    room() - before
}

#[test]
fn usage_is_what_is_mapped_and_what_deleting_frees() {
    let store = open(&Arc::default());
    let disk = store.create_volume("disk", 1 << 24).unwrap();
    assert_eq!(store.usage(&disk).unwrap(), Usage::default());
    fill(&disk, 300);
    let alone = store.usage(&disk).unwrap();
    assert_eq!(alone.mapped_bytes, 300 * B);
    assert!(alone.exclusive_bytes > 340 * B, "data and nodes: {alone:?}");

    let snapshot = disk.snapshot("s").unwrap();
    let shared = Usage::clone(&store.usage(&snapshot).unwrap());
    assert_eq!((shared.mapped_bytes, shared.exclusive_bytes), (300 * B, 0));
    assert_eq!(store.usage(&disk).unwrap(), shared);
    for i in (0..300).step_by(60) {
        disk.write_at(&[2; BLOCK], 2 * i * B).unwrap();
    }
    let both = [store.usage(&disk).unwrap(), store.usage(&snapshot).unwrap()];
    assert_eq!(both.map(|u| u.mapped_bytes), [300 * B; 2]);
    assert!(both.iter().all(|u| u.exclusive_bytes > 5 * B && u.exclusive_bytes < 40 * B), "{both:?}");
    assert_eq!(store.usage(disk.id()).unwrap(), both[0]);
    assert_eq!(store.usage(snapshot.id()).unwrap(), both[1]);

    let copy = store.clone_volume(&snapshot, "copy").unwrap();
    disk.snapshot("later").unwrap();
    let all = store.usage_all().unwrap();
    let ids: Vec<_> = all.volumes.iter().map(|v| v.id).collect();
    assert_eq!(ids, [disk.id(), copy.id()]);
    assert_eq!(all.snapshots.len(), 2);
    all.volumes.iter().for_each(|v| assert_eq!(store.usage(v.id).unwrap(), v.usage));
    all.snapshots.iter().for_each(|s| assert_eq!(store.usage(s.id).unwrap(), s.usage));

    store.delete_volume(&copy, DeleteSnapshots::Delete).unwrap();
    let own = store.usage(&snapshot).unwrap().exclusive_bytes;
    assert_eq!(freed(&store, || store.delete_snapshot(&snapshot).unwrap()), own);
}

#[test]
fn usage_of_one_reads_its_own_tree_and_leaves_the_cache_alone() {
    let memory = Arc::<Hooked>::default();
    let store = open(&memory);
    let (small, large) =
        (store.create_volume("small", 1 << 24).unwrap(), store.create_volume("large", 1 << 26).unwrap());
    fill(&small, 100);
    fill(&large, 4000);
    store.close().unwrap();

    let store = open(&memory);
    let (small, large) = (store.volume("small").unwrap(), store.volume("large").unwrap());
    let start = read_bytes(&store);
    let before = store.usage(&small).unwrap();
    let cost = read_bytes(&store) - start;
    // The records, one page of counts or two, and its nodes, each of them once.
    let nodes = before.exclusive_bytes - before.mapped_bytes;
    assert!(cost >= nodes && cost <= nodes + 10 * B, "{cost} bytes for {nodes} bytes of nodes");

    // More nodes than the cache holds.
    let warm = |expected: u64| {
        let start = read_bytes(&store);
        small.read_at(&mut [0; BLOCK], 0).unwrap();
        assert_eq!(read_bytes(&store) - start, expected);
    };
    small.read_at(&mut [0; BLOCK], 0).unwrap();
    warm(B);
    let usage = store.usage(&large).unwrap();
    assert!(usage.exclusive_bytes - usage.mapped_bytes > 500 * B);
    warm(B);
}

/// Nodes of which little is left merge, so that a tree takes no more nodes than its content needs.
#[test]
fn a_tree_that_is_thinned_has_fewer_nodes() {
    let store = open(&Arc::default());
    let disk = store.create_volume("disk", 1 << 24).unwrap();
    let nodes = || {
        let usage = store.usage(&disk).unwrap();
        (usage.exclusive_bytes - usage.mapped_bytes) / B
    };
    fill(&disk, 600);
    let before = nodes();
    // From the end on: a node takes in the one behind it.
    (0..600).rev().filter(|i| i % 12 != 0).for_each(|i| disk.discard(2 * i * B, B).unwrap());
    let after = nodes();
    assert!(before > 75 && after * 3 < before, "{before} nodes, and {after} for a twelfth of the extents");
    // Of whole blocks nothing stays, not even zeros.
    let mapped = || store.usage(&disk).unwrap().mapped_bytes;
    assert_eq!(mapped(), 50 * B);
    disk.discard(24 * B, 48 * B).unwrap();
    assert_eq!(mapped(), 48 * B);
    disk.discard(72 * B, B / 2).unwrap();
    assert_eq!(mapped(), 48 * B);
}

/// What walking a tree costs those who write: the scheduler counts a step for each lock that is taken.
#[test]
fn usage_takes_the_lock_for_many_extents_at_a_time() {
    let memory = Arc::<Hooked>::default();
    let options = options().knobs(Knobs::default());
    let store = options.create_on(memory.clone(), Arc::new(SystemHost)).unwrap();
    let disk = store.create_volume("disk", 1 << 24).unwrap();
    fill(&disk, 160);
    // More blocks than a leaf names.
    store.create_volume("large", 1 << 26).unwrap().write_at(&vec![1; 5000 * BLOCK], 0).unwrap();
    store.close().unwrap();
    let steps = |name: &'static str, usages: usize| {
        let plan = Plan { seed: 1, choice: Choice::Uniform, expected: 600, budget: 400_000 };
        let (usage, outcome) = run(plan, || {
            let store = options.open_on(memory.clone(), Arc::new(SystemHost)).unwrap();
            let disk = store.volume(name).unwrap();
            (0..usages).map(|_| store.usage(&disk).unwrap()).last().unwrap()
        });
        (usage.unwrap(), outcome.steps)
    };
    for (name, mapped, most) in [("disk", 160 * B, 40), ("large", 5000 * B, 100)] {
        let ((usage, once), (_, twice)) = (steps(name, 1), steps(name, 2));
        let cost = twice - once;
        assert_eq!(usage.mapped_bytes, mapped);
        assert!(usage.exclusive_bytes > mapped, "{usage:?}");
        assert!(cost > 5 && cost <= most, "{name}: {cost} steps for one walk");
    }
}

/// Nothing is held while the walk reads, and nothing that it meets may be of another tree by then.
#[test]
fn usage_goes_on_beside_anything() {
    let memory = Arc::<Hooked>::default();
    let mut skipped = 0;
    let (mut gone, mut counted) = (0, 0);
    loop {
        let store = open(&memory);
        let disk = store.create_volume("disk", 1 << 24).unwrap();
        fill(&disk, 200);
        store.close().unwrap();
        let store = open(&memory);
        let disk = store.volume("disk").unwrap();
        let (others, victim) = (store.clone(), disk.clone());
        memory.set(skipped, move || {
            let new = others.create_volume("new", 1 << 24).unwrap();
            others.delete_volume(&victim, DeleteSnapshots::Delete).unwrap();
            others.wait_reclaimed().unwrap();
            others.checkpoint().unwrap();
            // In the place of what was freed.
            fill(&new, 300);
        });
        match store.usage(&disk) {
            Ok(usage) => {
                assert_eq!(usage.mapped_bytes, 200 * B);
                counted += 1;
            }
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::Deleted, "{e}");
                gone += 1;
            }
        }
        let ran = memory.has_run();
        if !ran {
            break;
        }
        store.delete_volume(&store.volume("new").unwrap(), DeleteSnapshots::Delete).unwrap();
        store.wait_reclaimed().unwrap();
        store.close().unwrap();
        skipped += 1;
    }
    assert!(gone > 20 && counted > 0, "{gone} deleted, {counted} counted");
}

#[test]
fn a_volume_counts_what_was_asked_of_it() {
    let memory = Arc::<Hooked>::default();
    let store = open(&memory);
    let (disk, other) = (store.create_volume("disk", 1 << 20).unwrap(), store.create_volume("other", 1 << 20).unwrap());
    let counts = |v: &Volume| {
        let c = v.counters().unwrap();
        [c.reads, c.read_bytes, c.writes, c.written_bytes, c.discards, c.discarded_bytes]
    };
    assert_eq!(counts(&disk), [0; 6]);
    disk.write_at(&[1; 5000], 0).unwrap();
    disk.write_vectored_at(&[IoSlice::new(&[1; 10]), IoSlice::new(&[2; 20])], 100).unwrap();
    disk.write_fua_at(&[1; 7], 0).unwrap();
    assert_eq!(counts(&disk), [0, 0, 3, 5037, 0, 0]);
    // Of all handles and threads.
    let same = store.volume("disk").unwrap();
    std::thread::scope(|s| {
        s.spawn(|| same.read_at(&mut [0; 3000], 0).unwrap());
        s.spawn(|| disk.read_at(&mut [0; 100], 0).unwrap());
    });
    same.clone().read_vectored_at(&mut [IoSliceMut::new(&mut [0; 1]), IoSliceMut::new(&mut [0; 2])], 0).unwrap();
    disk.discard(0, 4096).unwrap();
    same.write_zeroes(0, 10).unwrap();
    let all = [3, 3103, 3, 5037, 2, 4106];
    assert_eq!((counts(&disk), counts(&same), counts(&other)), (all, all, [0; 6]));
    // An attached volume is the same volume.
    let attached = other.attach().unwrap();
    attached.write_at(&[1; 3], 0).unwrap();
    attached.write_vectored_at(&[IoSlice::new(&[1; 4])], 0).unwrap();
    attached.read_at(&mut [0; 2], 0).unwrap();
    attached.discard(0, 5).unwrap();
    attached.write_zeroes(0, 6).unwrap();
    assert_eq!(counts(&other), [1, 2, 2, 7, 2, 11]);
    attached.detach().unwrap();
    // What was refused was not done.
    disk.read_at(&mut [0; 2], 1 << 20).unwrap_err();
    disk.write_at(&[0; 2], 1 << 20).unwrap_err();
    disk.discard(0, 1 << 21).unwrap_err();
    // A snapshot is not its volume.
    disk.snapshot("s").unwrap().read_at(&mut [0; 2], 0).unwrap();
    assert_eq!(counts(&disk), all);

    store.delete_volume(&disk, DeleteSnapshots::Keep).unwrap();
    assert_eq!(disk.counters().unwrap_err().kind(), ErrorKind::Deleted);
    other.write_at(&[1], 0).unwrap();
    store.close().unwrap();
    let store = open(&memory);
    assert_eq!(counts(&store.volume("other").unwrap()), [0; 6], "they start at opening");
}
