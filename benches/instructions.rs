//! Instructions of one operation of a store, for callgrind to count: `python3 benches/instructions.py`, which holds them to
//! `benches/instructions.tsv`.
//!
//! Callgrind collects in [`measured`] alone, so that what prepares an operation costs nothing. All that could differ between runs is fixed: the
//! random numbers, the clock, one thread, a medium that is memory. `instructions NAME` runs one operation and prints how often it ran.
//! Without a name every operation runs once, to show that it does.

#![allow(clippy::disallowed_methods, reason = "what the benchmarks share reads the clock")]

mod common;

use common::{BLOCK, Rng, noise};
use snapdisk::{
    Options, Store, Volume,
    io::{Host, MemoryBackend},
};
use std::{
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

const MIB: u64 = 1 << 20;
/// Bytes of the volume.
const LEN: u64 = 64 * MIB;
const BLOCKS: u64 = LEN / BLOCK as u64;

/// A host whose numbers every run repeats.
struct Fixed(AtomicU64);

impl Host for Fixed {
    fn now(&self) -> u64 {
        0
    }
    fn random(&self) -> u64 {
        // Steps of one, spread over all bits by an odd factor: no number comes twice.
        self.0.fetch_add(1, Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// Callgrind collects while this function is on the stack.
#[inline(never)]
fn measured<T>(f: &mut dyn FnMut() -> T) -> T {
    // The box keeps the call from becoming a jump, after which this function would no longer be on the stack.
    black_box(f())
}

struct Bench {
    store: Store,
    volume: Volume,
    noise: Vec<u8>,
    rng: Rng,
}

impl Bench {
    fn new() -> Bench {
        // Without slack small holes are filled before the image grows, as in an image that is nearly full.
        let options = Options::new().manual_maintenance(true).slack(0);
        let backend = Arc::new(MemoryBackend::new());
        let store = options.create_on(backend, Arc::new(Fixed(1.into()))).expect("a store");
        let volume = store.create_volume("v", LEN).expect("a volume");
        Bench { store, volume, noise: noise(2 * MIB as usize), rng: Rng(7) }
    }
    /// Writes `bytes` to the place `at`, in units of as many bytes.
    fn write(&mut self, at: u64, bytes: usize) {
        let from = self.rng.below(MIB) as usize;
        self.volume.write_at(&self.noise[from..][..bytes], at * bytes as u64).expect("write");
    }
    /// What the store's threads would do meanwhile.
    fn settle(&self) {
        self.store.flush().expect("flush");
        while self.store.maintain(1 << 20).expect("maintenance") {}
        self.store.checkpoint().expect("a checkpoint");
    }
    /// Every block of the volume written once, in an order that leaves no two neighbours side by side.
    fn scatter(&mut self, blocks: u64) {
        order(BLOCKS).take(blocks as usize).for_each(|block| self.write(block, BLOCK));
        self.settle();
    }
}

/// The numbers below `n`, a power of two, each once.
fn order(n: u64) -> impl Iterator<Item = u64> {
    (0..n).map(move |i| i.wrapping_mul(0x9e37_79b1) % n)
}

/// An operation: its name, how often it runs under callgrind, and what runs. The latter calls [`measured`] as often as it is told.
type Operation = (&'static str, u64, fn(&mut Bench, u64));

const OPERATIONS: &[Operation] = &[
    ("lookup", 1000, lookup),
    ("lookup_again", 2000, lookup_again),
    ("insert", 1000, insert),
    ("shadow", 200, shadow),
    ("allocate", 16, allocate),
    ("append", 200, append),
];

/// Reads blocks whose nodes are in memory, and which were not read before: a search in the tree.
fn lookup(bench: &mut Bench, times: u64) {
    bench.scatter(BLOCKS);
    let mut buf = [0; BLOCK];
    for block in order(BLOCKS).take(times as usize) {
        measured(&mut || bench.volume.read_at(&mut buf, block * BLOCK as u64)).expect("read");
    }
}

/// Reads blocks that were read before: the translation cache knows their places.
fn lookup_again(bench: &mut Bench, times: u64) {
    bench.scatter(BLOCKS);
    let mut buf = [0; BLOCK];
    for pass in 0..2 {
        for block in order(BLOCKS).take(times as usize) {
            let mut read = || bench.volume.read_at(&mut buf, block * BLOCK as u64);
            if pass == 0 { read() } else { measured(&mut read) }.expect("read");
        }
    }
}

/// Writes blocks to which nothing was written before.
fn insert(bench: &mut Bench, times: u64) {
    bench.scatter(BLOCKS / 2);
    for block in order(BLOCKS).skip(BLOCKS as usize / 2).take(times as usize) {
        measured(&mut || bench.write(block, BLOCK));
    }
}

/// Overwrites a block after each snapshot: every node on the way to it is copied.
fn shadow(bench: &mut Bench, times: u64) {
    bench.scatter(BLOCKS);
    for (i, block) in order(BLOCKS).take(times as usize).enumerate() {
        bench.store.snapshot(&bench.volume, &format!("s{i}")).expect("a snapshot");
        measured(&mut || bench.write(block, BLOCK));
    }
}

/// Writes 256 blocks at once, into space of which every second block is taken.
fn allocate(bench: &mut Bench, times: u64) {
    bench.scatter(BLOCKS);
    for block in (0..BLOCKS).step_by(2) {
        bench.volume.discard(block * BLOCK as u64, BLOCK as u64).expect("discard");
    }
    bench.settle();
    for at in 0..times {
        measured(&mut || bench.write(at, MIB as usize));
    }
}

/// Writes one block and flushes.
fn append(bench: &mut Bench, times: u64) {
    bench.scatter(BLOCKS);
    for block in order(BLOCKS).take(times as usize) {
        bench.write(block, BLOCK);
        measured(&mut || bench.volume.flush()).expect("flush");
    }
}

fn main() {
    let name = std::env::args().nth(1).filter(|a| !a.starts_with('-'));
    let Some(name) = name else {
        return OPERATIONS.iter().for_each(|(_, _, run)| run(&mut Bench::new(), 1));
    };
    let Some((_, times, run)) = OPERATIONS.iter().find(|(n, ..)| *n == name) else {
        eprintln!("error: no operation {name}; there are {:?}", OPERATIONS.iter().map(|o| o.0).collect::<Vec<_>>());
        std::process::exit(2);
    };
    run(&mut Bench::new(), *times);
    println!("{times}");
}
