//! Reads and writes beside a raw file in the same run: `cargo bench --bench io`.
//!
//! Rounds are interleaved: in each, every peer does the same work in turn. All data is written before, on both sides, so that
//! nobody pays for fresh space; it does not compress. `raw` is a file on the same filesystem, once with its page cache in large
//! folios and once in folios of 4 KiB (a 4 KiB `pwrite` into a large folio costs several times as much): ratios are taken
//! against the faster of the two. `SNAPDISK_BENCH_MIB` (1024), `SNAPDISK_BENCH_ROUNDS` (7) and `SNAPDISK_BENCH_DIR` change the
//! size, the rounds and the place; `SNAPDISK_BENCH_ROWS` and `SNAPDISK_BENCH_PEERS` pick by a part of
//! the name, for profiles.

#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock and opens raw files")]

mod common;

use common::{BLOCK, Limit, Peer, Rng, Summed, Table, clock, fill, median, noise, quantile};
use criterion::{BatchSize, Criterion, Throughput};
use snapdisk::{Options, Store, Volume, io::ReadPath};
use std::{fs::File, path::Path};

const MIB: u64 = 1 << 20;
const FAST: &str = "snapdisk map";
const PREAD: &str = "snapdisk pread";
const RAW: [&str; 2] = ["raw, large folios", "raw, 4 KiB folios"];
/// With the options that a user gets who sets none.
const USUAL: &str = "snapdisk, default options";
const SUMMED: &str = "raw pread + crc";
const LIMIT: &str = "staging alone";

struct Peers {
    len: u64,
    noise: Vec<u8>,
    /// A part of the names of the peers that take part.
    only: String,
    raw: [File; 2],
    store: Store,
    map: Volume,
    pread: Volume,
    usual: Volume,
    /// Volumes of one store that share `len` bytes.
    parts: Vec<Volume>,
}

/// A part of a raw file, which stands for one of the engine's volumes.
struct Part<'a> {
    whole: &'a File,
    from: u64,
}

impl Peer for Part<'_> {
    fn read(&self, buf: &mut [u8], offset: u64) {
        self.whole.read(buf, self.from + offset);
    }
    fn write(&self, buf: &[u8], offset: u64) {
        self.whole.write(buf, self.from + offset);
    }
    fn sync(&self) {
        self.whole.sync();
    }
}

/// Volumes, or parts of a raw file, that commits of a few blocks go to.
const PARTS: u64 = 16;

/// Overwrites every block of a volume once, in random order. Its data then lies in 4 KiB extents, one region after the other, and where it
/// lay before is free space as a whole: what the engine makes of plenty of room.
fn permute(store: &Store, volume: &Volume, len: u64, noise: &[u8], rng: &mut Rng) {
    let mut blocks: Vec<u64> = (0..len / BLOCK as u64).collect();
    for i in (1..blocks.len()).rev() {
        blocks.swap(i, rng.below(i as u64 + 1) as usize);
    }
    for block in blocks {
        volume.write(&noise[rng.below(MIB) as usize..][..BLOCK], block * BLOCK as u64);
    }
    volume.sync();
    store.wait_reclaimed().expect("a checkpoint");
}

/// A store with one volume that is full and was overwritten in random order, reopened.
fn engine(path: &Path, len: u64, noise: &[u8], options: &Options) -> (Store, Volume) {
    let store = options.create(path).expect("an image");
    let volume = store.create_volume("v", len).expect("a volume");
    fill(&volume, len, noise);
    // Twice: all the space that the volume goes back and forth between was then written before.
    (0..2).for_each(|i| permute(&store, &volume, len, noise, &mut Rng(7 + i)));
    store.close().expect("close");
    let store = options.open(path).expect("open");
    let volume = store.volume("v").expect("the volume");
    warm(&volume, len);
    (store, volume)
}

/// A store with the default options and [`PARTS`] full volumes that share `len` bytes.
fn parts(path: &Path, len: u64, noise: &[u8]) -> Vec<Volume> {
    let store = Options::new().create(path).expect("an image");
    let one = |i| {
        let volume = store.create_volume(&format!("v{i}"), len / PARTS).expect("a volume");
        fill(&volume, len / PARTS, noise);
        volume
    };
    (0..PARTS).map(one).collect()
}

/// Every round begins with another peer.
fn rotate<T>(peers: &mut [T], round: u64) {
    if !peers.is_empty() {
        let n = peers.len();
        peers.rotate_left(round as usize % n);
    }
}

fn warm(peer: &dyn Peer, len: u64) {
    let mut buf = vec![0; MIB as usize];
    (0..len).step_by(MIB as usize).for_each(|at| peer.read(&mut buf, at));
}

fn write_random(peer: &dyn Peer, len: u64, noise: &[u8], rng: &mut Rng) {
    let data = &noise[rng.below(MIB) as usize..][..BLOCK];
    peer.write(data, rng.below(len / BLOCK as u64) * BLOCK as u64);
}

fn read_random(peer: &dyn Peer, len: u64, count: u64, seed: u64) {
    let (mut rng, mut buf) = (Rng(seed), [0; BLOCK]);
    (0..count).for_each(|_| peer.read(&mut buf, rng.below(len / BLOCK as u64) * BLOCK as u64));
}

impl Peers {
    fn new(dir: &Path, len: u64, only: String) -> Peers {
        let noise = noise(2 * MIB as usize);
        let raw = [(true, "large"), (false, "small")]
            .map(|(large, name)| common::raw_file(&dir.join(name), len, &noise, large));
        // Without punching: a punched block costs its first writer the host's extent conversion, which is not what these two measure.
        let kept = |read_path| Options::new().read_path(read_path).punch_from(None);
        let (store, map) = engine(&dir.join("map.img"), len, &noise, &kept(ReadPath::Map));
        let (_, pread) = engine(&dir.join("pread.img"), len, &noise, &kept(ReadPath::Pread));
        let (_, usual) = engine(&dir.join("usual.img"), len, &noise, &Options::new());
        let parts = parts(&dir.join("parts.img"), len, &noise);
        Peers { len, noise, only, raw, store, map, pread, usual, parts }
    }
    /// Who takes part in the writes.
    fn writers(&self) -> Vec<(&'static str, &dyn Peer)> {
        let [large, small] = &self.raw;
        self.picked([(RAW[0], large as &dyn Peer), (RAW[1], small), (FAST, &self.map), (USUAL, &self.usual)])
    }
    fn readers<'a>(&'a self, summed: &'a Summed<'a>) -> Vec<(&'static str, &'a dyn Peer)> {
        let [large, small] = &self.raw;
        self.picked([
            (RAW[0], large as &dyn Peer),
            (RAW[1], small),
            (SUMMED, summed),
            (FAST, &self.map),
            (PREAD, &self.pread),
        ])
    }
    fn picked<'a, const N: usize>(&self, all: [(&'static str, &'a dyn Peer); N]) -> Vec<(&'static str, &'a dyn Peer)> {
        all.into_iter().filter(|(name, _)| name.contains(&self.only)).collect()
    }

    fn reads(&self, round: u64, count: u64, table: &mut Table) {
        let summed = Summed(&self.raw[0]);
        let mut readers = self.readers(&summed);
        rotate(&mut readers, round);
        for &(name, peer) in &readers {
            read_random(peer, self.len, count / 10, 3);
            let before = common::processor();
            let t = clock(|| read_random(peer, self.len, count, round + 11));
            table.add("4 KiB random read, cached, 1 thread", "ns", name, t * 1e9 / count as f64);
            let busy = common::processor() - before;
            table.add("4 KiB random read, cached, 1 thread: processor time", "ns", name, busy * 1e9 / count as f64);
        }
        for &(name, peer) in &readers {
            let t = clock(|| {
                std::thread::scope(|s| {
                    for thread in 0..2 {
                        s.spawn(move || read_random(peer, self.len, count, round * 2 + thread + 17));
                    }
                });
            });
            table.add("4 KiB random read, cached, 2 threads", "k ops/s", name, 2.0 * count as f64 / t / 1e3);
        }
    }
    fn sequential(&self, round: u64, table: &mut Table) {
        let gib = self.len as f64 / (1u64 << 30) as f64;
        let summed = Summed(&self.raw[0]);
        let mut readers = self.readers(&summed);
        rotate(&mut readers, round);
        for &(name, peer) in &readers {
            let t = clock(|| warm(peer, self.len));
            table.add("sequential read, 1 MiB", "GiB/s", name, gib / t);
        }
        let mut writers = self.writers();
        rotate(&mut writers, round);
        for (name, peer) in writers {
            let mut written = 0.0;
            let whole = clock(|| {
                written = clock(|| {
                    (0..self.len).step_by(MIB as usize).for_each(|at| {
                        peer.write(&self.noise[(at / 64) as usize % MIB as usize..][..MIB as usize], at)
                    });
                });
                peer.sync();
            });
            table.add("sequential write, 1 MiB, no sync", "GiB/s", name, gib / written);
            table.add("sequential write, 1 MiB, final sync included", "GiB/s", name, gib / whole);
        }
    }
    /// Aligned writes of 64 KiB, at random.
    fn large_random_writes(&self, round: u64, count: u64, table: &mut Table) {
        const LARGE: usize = 64 << 10;
        let mut writers = self.writers();
        rotate(&mut writers, round);
        for (name, peer) in writers {
            let mut rng = Rng(round * 43 + 3);
            let mut write = || {
                let data = &self.noise[rng.below(MIB) as usize..][..LARGE];
                peer.write(data, rng.below(self.len / LARGE as u64) * LARGE as u64);
            };
            let mut written = 0.0;
            let whole = clock(|| {
                written = clock(|| (0..count).for_each(|_| write()));
                peer.sync();
            });
            let gib = (count * LARGE as u64) as f64 / (1u64 << 30) as f64;
            table.add("64 KiB random write, no sync", "GiB/s", name, gib / written);
            table.add("64 KiB random write, final sync included", "GiB/s", name, gib / whole);
        }
    }
    /// What a few blocks in several volumes cost with their flush. On the raw files a volume is a part of the one file, so that they too
    /// sync once.
    fn commits(&self, round: u64, count: u64, table: &mut Table) {
        let len = self.len / PARTS;
        let raw = |i: usize| (0..PARTS).map(move |part| Part { whole: &self.raw[i], from: part * len });
        let raw = [raw(0).collect::<Vec<_>>(), raw(1).collect()];
        fn all<P: Peer>(list: &[P]) -> Vec<&dyn Peer> {
            list.iter().map(|p| p as &dyn Peer).collect()
        }
        let all = [(RAW[0], all(&raw[0])), (RAW[1], all(&raw[1])), (USUAL, all(&self.parts))];
        let mut writers: Vec<_> = all.into_iter().filter(|(name, _)| name.contains(&self.only)).collect();
        rotate(&mut writers, round);
        for (row, volumes, database) in [
            ("16 KiB + 4 KiB, then flush", 1, true),
            ("16 KiB + 4 KiB in each of two volumes, then flush", 2, true),
            ("16 blocks over 16 volumes, then flush", 16, false),
            ("2 blocks, then flush", 2, false),
            ("8 blocks, then flush", 8, false),
            ("24 blocks, then flush", 24, false),
            ("32 blocks, then flush", 32, false),
        ] {
            for (name, peers) in &writers {
                let (mut rng, mut log) = (Rng(round * 47 + 11), 0);
                let mut random = |peer: &dyn Peer, bytes: usize| {
                    let data = &self.noise[rng.below(MIB) as usize..][..bytes];
                    peer.write(data, rng.below(len / 2 / bytes as u64) * bytes as u64);
                };
                let mut one = || {
                    for peer in peers.iter().cycle().take(volumes) {
                        if database {
                            // A page of the database, and the next one of its log, in the volume's other half.
                            random(*peer, 16 << 10);
                            peer.write(&self.noise[..BLOCK], len / 2 + log * BLOCK as u64);
                        } else {
                            random(*peer, BLOCK);
                        }
                    }
                    log = (log + 1) % (len / 2 / BLOCK as u64);
                    peers[0].sync();
                };
                let times: Vec<f64> = (0..count).map(|_| clock(&mut one)).collect();
                table.add(&format!("{row}, p50"), "us", name, median(&times) * 1e6);
                table.add(&format!("{row}, p99"), "us", name, quantile(&times, 0.99) * 1e6);
            }
        }
    }
    /// The engine's free space lies together, or is scattered as after overwrites at random of all of the volume, several times over.
    fn random_writes(&self, round: u64, count: u64, scattered: bool, table: &mut Table) {
        let limit = Limit::new(&self.raw[0], self.len);
        let mut writers = self.writers();
        if LIMIT.contains(&self.only) && !scattered {
            writers.push((LIMIT, &limit));
        }
        rotate(&mut writers, round);
        for (name, peer) in writers {
            let mut rng = Rng(round * 31 + 5);
            if name == FAST {
                if scattered {
                    (0..2 * self.len / BLOCK as u64).for_each(|_| write_random(peer, self.len, &self.noise, &mut rng));
                    peer.sync();
                } else {
                    permute(&self.store, &self.map, self.len, &self.noise, &mut rng);
                }
            }
            let mut written = 0.0;
            let before = common::processor();
            let whole = clock(|| {
                written = clock(|| (0..count).for_each(|_| write_random(peer, self.len, &self.noise, &mut rng)));
                peer.sync();
            });
            let row = if scattered { "4 KiB random write, free space scattered" } else { "4 KiB random write" };
            table.add(&format!("{row}, no sync"), "k ops/s", name, count as f64 / written / 1e3);
            table.add(&format!("{row}, final sync included"), "k ops/s", name, count as f64 / whole / 1e3);
            let busy = common::processor() - before;
            let row = format!("{row}, final sync included: processor time");
            table.add(&row, "us", name, busy * 1e6 / count as f64);
        }
    }
    fn flushes(&self, round: u64, count: u64, batch: u64, table: &mut Table) {
        let mut writers = self.writers();
        rotate(&mut writers, round);
        for (name, peer) in writers {
            let mut rng = Rng(round * 37 + batch);
            let mut one = || {
                clock(|| {
                    (0..batch).for_each(|_| write_random(peer, self.len, &self.noise, &mut rng));
                    peer.sync();
                })
            };
            let times: Vec<f64> = (0..count).map(|_| one()).collect();
            if batch == 1 {
                table.add("4 KiB write + flush each, p50", "us", name, median(&times) * 1e6);
                table.add("4 KiB write + flush each, p99", "us", name, quantile(&times, 0.99) * 1e6);
            } else {
                let row = format!("{batch} x 4 KiB write, then flush");
                table.add(&row, "k ops/s", name, batch as f64 / median(&times) / 1e3);
            }
        }
    }
    /// Overwrites after a snapshot beside the same without one.
    fn after_snapshot(&self, round: u64, count: u64, table: &mut Table) {
        const ROW: &str = "first 4 KiB overwrite after a snapshot, p50";
        const SYNCED: &str = "first 4 KiB overwrites after a snapshot, final sync included";
        let mut one = |name, peer: &dyn Peer| {
            let mut rng = Rng(round * 41 + 1);
            let mut times = Vec::with_capacity(count as usize);
            let whole = clock(|| {
                times.extend((0..count).map(|_| clock(|| write_random(peer, self.len, &self.noise, &mut rng))));
                peer.sync();
            });
            table.add(ROW, "us", name, median(&times) * 1e6);
            table.add(SYNCED, "k ops/s", name, count as f64 / whole / 1e3);
        };
        for (name, peer) in RAW.iter().zip(&self.raw).filter(|(name, _)| name.contains(&self.only)) {
            one(name, peer);
        }
        one("snapdisk, no snapshot", &self.map);
        let snapshot = self.map.snapshot("s").expect("a snapshot");
        one(FAST, &self.map);
        self.store.delete_snapshot(&snapshot).expect("delete");
        self.store.wait_reclaimed().expect("reclaim");
    }
}

fn ratios(table: &mut Table) {
    /// Less is better.
    fn time(table: &mut Table, row: &str, column: &str, targets: &str) {
        let raw = table.get(row, RAW[0]).min(table.get(row, RAW[1]));
        table.ratio(row, table.get(row, column) / raw, &format!("{column} / faster raw: {targets}"));
    }
    /// More is better.
    fn rate(table: &mut Table, row: &str, column: &str, targets: &str) {
        let raw = table.get(row, RAW[0]).max(table.get(row, RAW[1]));
        table.ratio(row, table.get(row, column) / raw, &format!("{column} / faster raw: {targets}"));
    }
    time(table, "4 KiB random read, cached, 1 thread", FAST, "floor <= 1, target <= 0.7");
    time(table, "4 KiB random read, cached, 1 thread", PREAD, "no target");
    rate(table, "4 KiB random read, cached, 2 threads", FAST, "target >= 1.9");
    rate(table, "sequential read, 1 MiB", FAST, "target >= 0.65");
    let row = "sequential read, 1 MiB";
    let ratio = table.get(row, FAST) / table.get(row, SUMMED);
    table.ratio(row, ratio, "snapdisk map / raw pread + crc: target >= 0.95");
    rate(table, "sequential write, 1 MiB, no sync", FAST, "target >= 0.9");
    rate(table, "sequential write, 1 MiB, final sync included", FAST, "target >= 0.95");
    rate(table, "4 KiB random write, no sync", FAST, "floor >= 1, target >= 1.5");
    rate(table, "4 KiB random write, final sync included", FAST, "floor >= 3, target >= 6");
    rate(table, "4 KiB random write, no sync", LIMIT, "what copying and writing in sequence alone comes to");
    rate(
        table,
        "4 KiB random write, final sync included",
        LIMIT,
        "what copying and writing in sequence alone comes to",
    );
    rate(table, "4 KiB random write, free space scattered, no sync", FAST, "no target");
    rate(
        table,
        "4 KiB random write, free space scattered, final sync included",
        FAST,
        "target >= 2 at twice the space",
    );
    for (row, targets) in [("no sync", "target >= 0.9"), ("final sync included", "target >= 1.2")] {
        rate(table, &format!("sequential write, 1 MiB, {row}"), USUAL, targets);
        rate(table, &format!("64 KiB random write, {row}"), USUAL, targets);
    }
    for row in [
        "16 KiB + 4 KiB, then flush",
        "16 KiB + 4 KiB in each of two volumes, then flush",
        "16 blocks over 16 volumes, then flush",
    ] {
        time(table, &format!("{row}, p50"), USUAL, "target <= 1");
        time(table, &format!("{row}, p99"), USUAL, "target <= 1.2");
    }
    time(table, "4 KiB write + flush each, p50", FAST, "floor <= 1.2, target <= 1.1");
    time(table, "4 KiB write + flush each, p99", FAST, "target <= 1.1");
    rate(table, "64 x 4 KiB write, then flush", FAST, "target >= 2.5");
    let row = "first 4 KiB overwrite after a snapshot, p50";
    let ratio = table.get(row, "snapdisk, no snapshot") / table.get(row, FAST);
    table.ratio(row, ratio, "own steady state / after a snapshot (times): target >= 0.5; a forking write <= 10 us");
    rate(table, "first 4 KiB overwrites after a snapshot, final sync included", FAST, "target >= 4");
}

/// The rows that fit criterion's model, for its history and plots.
fn criterion_rows(peers: &Peers, c: &mut Criterion) {
    let mut group = c.benchmark_group("read 4 KiB random, cached");
    group.throughput(Throughput::Bytes(BLOCK as u64));
    let summed = Summed(&peers.raw[0]);
    for (name, peer) in peers.readers(&summed) {
        let (mut rng, mut buf) = (Rng(23), [0; BLOCK]);
        group.bench_function(name, |b| {
            b.iter_batched(
                || rng.below(peers.len / BLOCK as u64) * BLOCK as u64,
                |at| peer.read(&mut buf, at),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn main() {
    let full = common::is_bench();
    let len = common::setting("SNAPDISK_BENCH_MIB", if full { 1024 } else { 16 }) * MIB;
    let rounds = common::setting("SNAPDISK_BENCH_ROUNDS", if full { 7 } else { 1 });
    let text = |name| std::env::var(name).unwrap_or_default();
    let (part, only) = (text("SNAPDISK_BENCH_ROWS"), text("SNAPDISK_BENCH_PEERS"));
    let scale = if full { 1 } else { 100 };
    let dir = common::directory(14 * len + 256 * MIB);
    let peers = Peers::new(dir.path(), len, only);
    println!("{} MiB, {rounds} rounds; before: {}", len / MIB, common::pressure());
    let mut table = Table::default();
    let wanted = |name: &str| name.contains(&part);
    for round in 0..rounds {
        if wanted("random writes") {
            peers.random_writes(round, 100_000 / scale, false, &mut table);
            peers.random_writes(round, 100_000 / scale, true, &mut table);
        }
        if wanted("flush each") {
            peers.flushes(round, 400 / scale, 1, &mut table);
        }
        if wanted("batches") {
            peers.flushes(round, 100 / scale, 64, &mut table);
        }
        if wanted("commits") {
            peers.commits(round, 400 / scale, &mut table);
        }
        if wanted("large random writes") {
            peers.large_random_writes(round, 16384 / scale, &mut table);
        }
        if wanted("after a snapshot") {
            peers.after_snapshot(round, 5000 / scale, &mut table);
        }
        for (_, peer) in peers.writers() {
            warm(peer, len);
        }
        if wanted("reads") {
            peers.reads(round, 200_000 / scale, &mut table);
        }
    }
    // Last: it makes everything sequential again.
    for round in 0..rounds {
        if wanted("sequential") {
            peers.sequential(round, &mut table);
        }
    }
    if part.is_empty() && peers.only.is_empty() {
        ratios(&mut table);
    }
    table.print();
    let image = std::fs::metadata(dir.path().join("map.img")).map_or(0, |m| m.len());
    println!("\nthe image has {} MiB for a volume of {}", image / MIB, len / MIB);
    println!("after: {}", common::pressure());
    if part.is_empty() && peers.only.is_empty() {
        let mut c = Criterion::default().configure_from_args();
        criterion_rows(&peers, &mut c);
        c.final_summary();
    }
}
