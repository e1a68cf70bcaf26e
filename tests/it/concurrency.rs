//! Threads: who waits for whom is decided with gates in the way of syncs; what they see is checked against histories.
//!
//! Nothing here depends on time. A [`Watchdog`] ends the process if threads wait for each other for ever.

use parking_lot::{Mutex, RwLock};
use snapdisk::{
    BLOCK, DeleteSnapshots, Durability, ErrorKind, Knobs, NewOptions, Options, Snapshot, Store, Volume,
    io::{
        Lane, MemoryBackend,
        sim::{Gate, Rng, SimBackend, SimHost},
    },
};
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
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
    let o = NewOptions { durability: Durability::Deferred, ..NewOptions::default() };
    let s = store.snapshot_with(v, &format!("beside{flushing}"), o.clone()).unwrap();
    v.write_at(&[6; BLOCK], flushing * B).unwrap();
    let mut buf = [0; BLOCK];
    s.read_at(&mut buf, flushing * B).unwrap();
    assert_eq!((buf[0], block(v, flushing)), (3, 6));
    let c = store.clone_volume_with(&s, &format!("clone{flushing}"), o).unwrap();
    c.write_at(&[7; BLOCK], B).unwrap();
    assert_eq!((block(&c, flushing), block(&c, 1), block(v, 1)), (3, 7, 1));
    assert_eq!(store.volumes().unwrap().len(), store.snapshots().unwrap().len() + 1);
    assert!(v.extents(0..1024 * B).unwrap().len() > 1);
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

// ---- histories

/// The unit of the histories: smaller than a block, so that writers meet in the middle of one.
const SECTOR: usize = 512;
const WRITERS: usize = 3;
/// Sectors of each writer in each volume: no whole number of blocks.
const OWN: usize = 777;

/// One operation of a writer on its own sectors of a volume.
#[derive(Clone, Copy)]
struct Act {
    volume: usize,
    from: usize,
    to: usize,
    discard: bool,
}

/// What all threads know of one writer.
#[derive(Default)]
struct History {
    /// By number less one. An operation is in the list before it begins.
    acts: RwLock<Vec<Act>>,
    finished: AtomicU64,
    /// By sector, both volumes: the last finished operation on it, and the last seen by a reader.
    settled: Vec<AtomicU64>,
}

impl History {
    fn new() -> History {
        let settled = (0..2 * OWN).map(|_| AtomicU64::new(0)).collect();
        History { settled, ..History::default() }
    }
}

/// The state of a writer's sectors after a number of its operations: for each, the number of the last write, or 0 for zeros.
#[derive(Clone, PartialEq)]
struct State {
    after: u64,
    sectors: Vec<u64>,
}

impl State {
    fn new() -> State {
        State { after: 0, sectors: vec![0; 2 * OWN] }
    }
    fn advance(&mut self, acts: &[Act], to: u64) {
        for n in self.after..to {
            let act = acts[n as usize];
            let content = if act.discard { 0 } else { n + 1 };
            self.sectors[act.volume * OWN + act.from..act.volume * OWN + act.to].fill(content);
        }
        self.after = to;
    }
}

/// The world that the threads share.
struct World {
    volumes: [Volume; 2],
    histories: Vec<History>,
}

fn tag(writer: usize, n: u64) -> u64 {
    (writer as u64 + 1) << 48 | n
}

/// What stands in a sector of a writer: the number of a write, or 0. Panics at anything else.
fn decode(writer: usize, bytes: &[u8]) -> u64 {
    let word = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert!(bytes.chunks_exact(8).all(|c| c == word.to_le_bytes()), "a torn sector");
    if word == 0 {
        return 0;
    }
    assert_eq!(word >> 48, writer as u64 + 1, "a sector of another writer");
    word & ((1 << 48) - 1)
}

impl World {
    fn new(store: &Store) -> World {
        let bytes = (WRITERS * OWN * SECTOR) as u64;
        let volumes = ["a", "b"].map(|n| store.create_volume(n, bytes).unwrap());
        World { volumes, histories: (0..WRITERS).map(|_| History::new()).collect() }
    }

    /// One operation of a writer; an error leaves it out of the history.
    fn act(&self, writer: usize, rng: &mut Rng, buf: &mut Vec<u8>) -> snapdisk::Result<()> {
        let history = &self.histories[writer];
        let from = rng.below(OWN as u64) as usize;
        let longest = if rng.one_in(20) { 500 } else { 40 };
        let to = OWN.min(from + 1 + rng.below(longest) as usize);
        let act = Act { volume: rng.below(2) as usize, from, to, discard: rng.one_in(8) };
        let n = {
            let mut acts = history.acts.write();
            acts.push(act);
            acts.len() as u64
        };
        let (at, len) = (((writer * OWN + from) * SECTOR) as u64, (to - from) * SECTOR);
        let v = &self.volumes[act.volume];
        let result = if act.discard {
            v.discard(at, len as u64)
        } else {
            buf.clear();
            (0..len / 8).for_each(|_| buf.extend_from_slice(&tag(writer, n).to_le_bytes()));
            v.write_at(buf, at)
        };
        if let Err(e) = result {
            history.acts.write().pop();
            return Err(e);
        }
        for s in from..to {
            history.settled[act.volume * OWN + s].fetch_max(n, SeqCst);
        }
        history.finished.store(n, SeqCst);
        Ok(())
    }

    /// One read somewhere: no sector may be older than what had been finished, or seen by anyone, before the read began.
    fn look(&self, rng: &mut Rng, buf: &mut Vec<u8>) {
        let all = WRITERS * OWN;
        let volume = rng.below(2) as usize;
        let from = rng.below(all as u64) as usize;
        let to = all.min(from + 1 + rng.below(64) as usize);
        let place = |s: usize| (&self.histories[s / OWN], volume * OWN + s % OWN);
        let least: Vec<u64> = (from..to).map(|s| place(s).0.settled[place(s).1].load(SeqCst)).collect();
        buf.resize((to - from) * SECTOR, 1);
        self.volumes[volume].read_at(buf, (from * SECTOR) as u64).unwrap();
        for ((s, bytes), least) in (from..to).zip(buf.chunks_exact(SECTOR)).zip(least) {
            let (history, at) = place(s);
            let seen = decode(s / OWN, bytes);
            let acts = history.acts.read();
            let covers = |a: &Act| a.volume == volume && a.from <= s % OWN && s % OWN < a.to;
            let seen = if seen > 0 {
                let act = &acts[seen as usize - 1];
                assert!(covers(act) && !act.discard, "sector {s}: write {seen} never went there");
                seen
            } else if least == 0 {
                0
            } else {
                // Zeros: some discard that is not older than `least`.
                let from = least as usize - 1;
                let found = acts[from..].iter().position(|a| covers(a) && a.discard);
                (from + found.unwrap_or_else(|| panic!("sector {s}: zeros after write {least}"))) as u64 + 1
            };
            assert!(seen >= least, "sector {s}: write {seen} seen after {least}");
            history.settled[at].fetch_max(seen, SeqCst);
        }
    }

    fn finished(&self) -> Vec<u64> {
        self.histories.iter().map(|h| h.finished.load(SeqCst)).collect()
    }
    fn begun(&self) -> Vec<u64> {
        self.histories.iter().map(|h| h.acts.read().len() as u64).collect()
    }

    /// Both volumes' content as states of the writers.
    fn parse(&self, contents: &[Vec<u8>; 2]) -> Vec<Vec<u64>> {
        (0..WRITERS)
            .map(|w| {
                let own = |bytes: &[u8]| -> Vec<u64> {
                    let own = &bytes[w * OWN * SECTOR..(w + 1) * OWN * SECTOR];
                    own.chunks_exact(SECTOR).map(|s| decode(w, s)).collect()
                };
                contents.iter().flat_map(|c| own(c)).collect()
            })
            .collect()
    }

    /// Checks that the content is, for each writer, its state after some number of operations between `least` and `most`. `base` is
    /// advanced to `least`. Gives the numbers.
    fn is_a_cut(&self, contents: &[Vec<u8>; 2], base: &mut [State], least: &[u64], most: &[u64]) -> Vec<u64> {
        let found = self.parse(contents);
        let mut at = Vec::new();
        for w in 0..WRITERS {
            let acts = self.histories[w].acts.read();
            base[w].advance(&acts, least[w]);
            let mut state = base[w].clone();
            while state.sectors != found[w] {
                assert!(state.after < most[w], "writer {w}: no state from {} to {}", least[w], most[w]);
                state.advance(&acts, state.after + 1);
            }
            at.push(state.after);
        }
        at
    }
}

fn contents(read: impl Fn(usize, &mut [u8])) -> [Vec<u8>; 2] {
    [0, 1].map(|i| {
        let mut buf = vec![1; WRITERS * OWN * SECTOR];
        read(i, &mut buf);
        buf
    })
}

fn of_volumes(volumes: &[Volume; 2]) -> [Vec<u8>; 2] {
    contents(|i, buf| volumes[i].read_at(buf, 0).unwrap())
}
fn of_snapshots(pair: &[Snapshot]) -> [Vec<u8>; 2] {
    contents(|i, buf| pair[i].read_at(buf, 0).unwrap())
}

fn clean(store: &Store) {
    let report = store.check().unwrap();
    assert!(report.is_clean(), "{:#?}", &report.findings[..report.findings.len().min(5)]);
}

/// Takes group snapshots and holds each against the histories, clones them, deletes the oldest, until `done`.
fn snapshots(store: &Store, world: &World, done: &AtomicBool, seed: u64) -> VecDeque<(Vec<Snapshot>, [Vec<u8>; 2])> {
    let mut rng = Rng::new(seed);
    let mut kept: VecDeque<(Vec<Snapshot>, [Vec<u8>; 2])> = VecDeque::new();
    let mut base = vec![State::new(); WRITERS];
    let mut round = 0;
    while !done.load(SeqCst) {
        round += 1;
        let name = format!("s{round}");
        let least = world.finished();
        let members = [(&world.volumes[0], &*name), (&world.volumes[1], &*name)];
        let o = NewOptions {
            durability: if rng.one_in(2) { Durability::Deferred } else { Durability::Immediate },
            ..NewOptions::default()
        };
        let pair = store.snapshot_group_with(&members, o).unwrap();
        let most = world.begun();
        let now = of_snapshots(&pair);
        world.is_a_cut(&now, &mut base, &least, &most);
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

/// Everything at once: three writers whose areas meet inside blocks, readers, snapshots, a volume aside, and the background thread.
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
    let finished = world.finished();
    assert_eq!(finished, [rounds; WRITERS]);
    let same = |store: &Store| {
        let volumes = ["a", "b"].map(|n| store.volume(n).unwrap());
        world.is_a_cut(&of_volumes(&volumes), &mut vec![State::new(); WRITERS], &finished, &finished);
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

/// How long the tests with many threads run; the variable is for soaking.
fn rounds(n: u64) -> u64 {
    std::env::var("SNAPDISK_STRESS").ok().and_then(|s| s.parse().ok()).unwrap_or(1) * n
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
    let knobs = Knobs { fanout: 4, span: 64, index_fanout: 8, log_pages: 64, growth: 4, ..Knobs::default() };
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
    let options = Options::new().memory(1 << 20).knobs(Knobs { fanout: 4, ..Knobs::default() });
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
    assert_eq!(v.extents(0..4096 * B).unwrap().len(), 4096);
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
        let finished = world.finished();
        let volumes = ["a", "b"].map(|n| again.volume(n).unwrap());
        world.is_a_cut(&of_volumes(&volumes), &mut vec![State::new(); WRITERS], &finished, &finished);
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
                            let before = world.finished();
                            world.volumes[w % 2].flush().unwrap();
                            flushed.lock().iter_mut().zip(before).for_each(|(f, b)| *f = b.max(*f));
                        }
                    }
                })
            })
            .collect();
        drop(store);
        threads.into_iter().for_each(|t| t.join().unwrap());
        let histories = match Arc::try_unwrap(world) {
            Ok(world) => world.histories,
            Err(_) => panic!("the threads have ended"),
        };
        let store = options.open(&path).unwrap();
        let volumes = ["a", "b"].map(|n| store.volume(n).unwrap());
        let world = World { volumes, histories };
        let now = of_volumes(&world.volumes);
        world.is_a_cut(&now, &mut vec![State::new(); WRITERS], &flushed.lock(), &world.finished());
        clean(&store);
    }
}
