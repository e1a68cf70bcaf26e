//! Everything at once, held against the histories of the writers.

use super::{
    B, Watchdog,
    history::{State, WRITERS, World, clean, of_snapshots, of_volumes},
    rounds,
};
use snapdisk::{
    BLOCK, DeleteSnapshots, Durability, ErrorKind, Knobs, NewOptions, Options, Snapshot, Store,
    io::{
        MemoryBackend,
        sim::{Rng, SimHost},
    },
};
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread,
};

/// Takes group snapshots and holds each against the histories, clones them, deletes the oldest, until `done`.
fn snapshots(store: &Store, world: &World, done: &AtomicBool, seed: u64) -> VecDeque<(Vec<Snapshot>, [Vec<u8>; 2])> {
    let mut rng = Rng::new(seed);
    let mut kept: VecDeque<(Vec<Snapshot>, [Vec<u8>; 2])> = VecDeque::new();
    let mut base = State::start();
    let mut round = 0;
    while !done.load(SeqCst) {
        round += 1;
        let name = format!("s{round}");
        let least = world.past.finished();
        let members = [(&world.volumes[0], &*name), (&world.volumes[1], &*name)];
        let o = NewOptions::new().durability(if rng.one_in(2) { Durability::Deferred } else { Durability::Immediate });
        let pair = store.snapshot_group_with(&members, o).unwrap();
        let most = world.past.begun();
        let now = of_snapshots(&pair);
        world.past.is_a_cut(&now, &mut base, &least, &most);
        if rng.one_in(2) {
            // A clone is the snapshot, whatever happens to either.
            let c = store.clone_volume(&pair[0], &format!("c{round}")).unwrap();
            let mut expected = now[0].clone();
            let at = rng.below(expected.len() as u64 - 5000) as usize;
            c.write_at(&[9; 5000], at as u64).unwrap();
            expected[at..at + 5000].fill(9);
            let mut got = vec![0; expected.len()];
            c.read_at(&mut got, 0).unwrap();
            assert!(got == expected, "a clone differs");
            store.delete_volume(&c, DeleteSnapshots::Refuse).unwrap();
            assert_eq!(c.read_at(&mut got, 0).unwrap_err().kind(), ErrorKind::Deleted);
        }
        kept.push_back((pair, now));
        if kept.len() > 6 {
            let i = rng.below(kept.len() as u64) as usize;
            let (pair, then) = kept.remove(i).unwrap();
            assert!(of_snapshots(&pair) == then, "a snapshot changed");
            pair.iter().for_each(|s| store.delete_snapshot(s).unwrap());
        }
    }
    kept
}

/// A volume that one thread has for itself: writes, snapshots, rollbacks, against a flat array.
fn alone(store: &Store, done: &AtomicBool, seed: u64) {
    let mut rng = Rng::new(seed);
    let v = store.create_volume("alone", 512 * B).unwrap();
    let mut now = vec![0; 512 * BLOCK];
    let mut kept: Vec<(Snapshot, Vec<u8>)> = Vec::new();
    let mut round = 0;
    while !done.load(SeqCst) {
        round += 1;
        for _ in 0..20 {
            let at = rng.below(now.len() as u64) as usize;
            let len = (now.len() - at).min(1 + rng.below(30_000) as usize);
            let byte = rng.number() as u8;
            v.write_at(&vec![byte; len], at as u64).unwrap();
            now[at..at + len].fill(byte);
        }
        match rng.below(4) {
            0 | 1 => kept.push((v.snapshot(&format!("s{round}")).unwrap(), now.clone())),
            2 if !kept.is_empty() => {
                let (s, then) = &kept[rng.below(kept.len() as u64) as usize];
                v.rollback(s).unwrap();
                now.clone_from(then);
            }
            _ => {}
        }
        if kept.len() > 5 {
            store.delete_snapshot(&kept.swap_remove(rng.below(6) as usize).0).unwrap();
        }
        let mut got = vec![0; now.len()];
        v.read_at(&mut got, 0).unwrap();
        assert!(got == now, "the volume differs");
        if rng.one_in(10) {
            clean(store);
        }
    }
}

/// Everything at once: three writers whose areas meet inside blocks, readers, snapshots, a volume aside, and the background threads.
fn stress(options: &Options, create: impl Fn(&Options) -> Store, open: impl Fn(&Options) -> Store, rounds: u64) {
    let store = create(options);
    let world = World::new(&store);
    let (done, ended) = (AtomicBool::new(false), AtomicU64::new(0));
    let kept = thread::scope(|s| {
        let (store, world, done, ended) = (&store, &world, &done, &ended);
        for w in 0..WRITERS {
            s.spawn(move || {
                let end = Ended(ended, done);
                let (mut rng, mut buf) = (Rng::new(w as u64 + 1), Vec::new());
                for _ in 0..rounds {
                    world.act(w, &mut rng, &mut buf).unwrap();
                    if rng.one_in(50) {
                        store.flush().unwrap();
                    }
                }
                drop(end);
            });
        }
        for r in 0..2 {
            s.spawn(move || {
                let (mut rng, mut buf) = (Rng::new(100 + r), Vec::new());
                while !done.load(SeqCst) {
                    world.look(&mut rng, &mut buf);
                }
            });
        }
        s.spawn(move || alone(store, done, 200));
        s.spawn(move || snapshots(store, world, done, 300)).join().unwrap()
    });
    let finished = world.past.finished();
    assert_eq!(finished, [rounds; WRITERS]);
    let same = |store: &Store| {
        let volumes = ["a", "b"].map(|n| store.volume(n).unwrap());
        world.past.is_a_cut(&of_volumes(&volumes), &mut State::start(), &finished, &finished);
        for (pair, then) in &kept {
            let pair: Vec<_> = pair.iter().map(|s| store.snapshot_by_id(s.id()).unwrap()).collect();
            assert!(of_snapshots(&pair) == *then, "a snapshot changed");
        }
        clean(store);
    };
    same(&store);
    store.wait_reclaimed().unwrap();
    same(&store);
    store.close().unwrap();
    let store = open(options);
    same(&store);
    store.close().unwrap();
}

/// Says that the work is done when the last writer is, also one that panics.
struct Ended<'a>(&'a AtomicU64, &'a AtomicBool);
impl Drop for Ended<'_> {
    fn drop(&mut self) {
        if self.0.fetch_add(1, SeqCst) + 1 == WRITERS as u64 || thread::panicking() {
            self.1.store(true, SeqCst);
        }
    }
}

#[test]
fn everything_at_once_on_a_file() {
    let _watchdog = Watchdog::new("everything_at_once_on_a_file");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let options = Options::new().log_bytes(1 << 20).memory(1 << 20);
    stress(&options, |o| o.create(&path).unwrap(), |o| o.open(&path).unwrap(), rounds(5000));
}

#[test]
fn everything_at_once_with_small_nodes() {
    let _watchdog = Watchdog::new("everything_at_once_with_small_nodes");
    let knobs = Knobs { fanout: 4, span: 64, index_fanout: 8, log_pages: 64, growth: 4, direct: 2, ..Knobs::default() };
    let options = Options::new().memory(1 << 20).punch_from(Some(4 * B)).knobs(knobs);
    let backend = Arc::new(MemoryBackend::new());
    let (create, open) = (
        |o: &Options| o.create_on(backend.clone(), Arc::new(SimHost::new(3))).unwrap(),
        |o: &Options| o.open_on(backend.clone(), Arc::new(SimHost::new(4))).unwrap(),
    );
    stress(&options, create, open, rounds(5000));
}

/// One read that crosses many times as many nodes as the cache holds.
#[test]
fn a_read_needs_only_one_path_at_a_time() {
    let _watchdog = Watchdog::new("a_read_needs_only_one_path_at_a_time");
    let options = Options::new().log_bytes(1 << 20).memory(1 << 20).knobs(Knobs { fanout: 4, ..Knobs::default() });
    let (backend, host) = (Arc::new(MemoryBackend::new()), Arc::new(SimHost::new(1)));
    let store = options.create_on(backend.clone(), host.clone()).unwrap();
    let v = store.create_volume("v", 4096 * B).unwrap();
    (0..2048).for_each(|i| v.write_at(&[i as u8; BLOCK], i * 2 * B).unwrap());
    store.close().unwrap();
    let store = options.open_on(backend, host).unwrap();
    let v = store.volume("v").unwrap();
    let mut buf = vec![1; 4096 * BLOCK];
    v.read_at(&mut buf, 0).unwrap();
    for (i, pair) in buf.chunks_exact(2 * BLOCK).enumerate() {
        assert!(pair[..BLOCK].iter().all(|&b| b == i as u8) && pair[BLOCK..].iter().all(|&b| b == 0));
    }
    assert_eq!(v.extents(0..4096 * B).filter(Result::is_ok).count(), 4096);
}
