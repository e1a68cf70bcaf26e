//! What work of one kind costs work of another kind beside it, on one store: `cargo bench --bench beside`.
//!
//! Two writers on two volumes against one; a writer while a snapshot is taken every 30 ms; a writer while a large volume is reclaimed. With
//! default options, so that the threads of the store run too: on two processors two writers have none for them. `SNAPDISK_BENCH_MIB` (256
//! a volume), `SNAPDISK_BENCH_ROUNDS` (5) and `SNAPDISK_BENCH_DIR` change the size, the rounds and the place.

#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock and opens raw files")]

mod common;

use common::{BLOCK, Peer, Rng, Samples, Table, clock, median, quantile};
use snapdisk::{DeleteSnapshots, Options, Store, Volume};
use std::{
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
    time::Duration,
};

const MIB: u64 = 1 << 20;

struct Bench {
    store: Store,
    volumes: [Volume; 2],
    len: u64,
    noise: Vec<u8>,
    writes: u64,
}

impl Bench {
    fn write(&self, volume: &Volume, rng: &mut Rng) {
        let data = &self.noise[rng.below(MIB) as usize..][..BLOCK];
        volume.write(data, rng.below(self.len / BLOCK as u64) * BLOCK as u64);
    }
    /// Writes of `writers` threads, each to a volume of its own and flushing after every `flush` of them; thousands a second in all.
    fn writers(&self, writers: usize, flush: u64, seed: u64) -> f64 {
        let seconds = clock(|| {
            thread::scope(|scope| {
                for (i, volume) in self.volumes.iter().take(writers).enumerate() {
                    scope.spawn(move || {
                        let mut rng = Rng(seed * 2 + 1 + i as u64);
                        for n in 1..=self.writes {
                            self.write(volume, &mut rng);
                            if flush > 0 && n % flush == 0 {
                                volume.sync();
                            }
                        }
                    });
                }
            });
        });
        self.store.flush().expect("flush");
        (writers as u64 * self.writes) as f64 / seconds / 1e3
    }
    /// Writes as long as `other` runs, flushing after every 64: thousands of writes a second, and milliseconds of each flush.
    fn beside<T>(&self, seed: u64, other: impl FnOnce() -> T + Send) -> (f64, Samples, T)
    where
        T: Send,
    {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let (mut rng, mut n, mut flushes) = (Rng(seed * 2 + 1), 0, Vec::new());
                let seconds = clock(|| {
                    while !done.load(SeqCst) {
                        (0..64).for_each(|_| self.write(&self.volumes[0], &mut rng));
                        n += 64;
                        flushes.push(clock(|| self.volumes[0].sync()) * 1e3);
                    }
                });
                (f64::from(n) / seconds / 1e3, flushes)
            });
            let other = other();
            done.store(true, SeqCst);
            let (rate, flushes) = writer.join().expect("a writer");
            (rate, flushes, other)
        })
    }
    /// Snapshots, one every 30 ms; milliseconds of each.
    fn snapshots(&self, count: u64, round: u64) -> Samples {
        let take = |i| {
            thread::sleep(Duration::from_millis(30));
            clock(|| drop(self.volumes[0].snapshot(&format!("s{round}.{i}")).expect("a snapshot"))) * 1e3
        };
        let times = (0..count).map(take).collect();
        for snapshot in self.volumes[0].snapshots().expect("snapshots") {
            self.store.delete_snapshot(&snapshot).expect("delete");
        }
        times
    }
}

fn main() {
    let full = common::is_bench();
    let len = common::setting("SNAPDISK_BENCH_MIB", if full { 256 } else { 8 }) * MIB;
    let rounds = common::setting("SNAPDISK_BENCH_ROUNDS", if full { 5 } else { 1 });
    let dir = common::directory(14 * len + 1024 * MIB);
    let noise = common::noise(2 * MIB as usize);
    let store = Options::new().create(dir.path().join("image")).expect("an image");
    let volumes = ["a", "b"].map(|name| store.create_volume(name, len).expect("a volume"));
    volumes.iter().for_each(|v| common::fill(v, len, &noise));
    let bench = Bench { store, volumes, len, noise, writes: if full { 30_000 } else { 300 } };
    println!("{} MiB a volume, {rounds} rounds; before: {}", len / MIB, common::pressure());
    let mut table = Table::default();
    let (mut quiet_flush, mut busy_flush, mut taken) = (Vec::new(), Vec::new(), Vec::new());
    let pause = Duration::from_millis(if full { 1500 } else { 10 });
    for round in 0..rounds {
        for (row, flush) in [("two writers, no sync", 0), ("two writers, a flush every 64", 64)] {
            let columns = if round % 2 == 0 { [(1, "one"), (2, "two")] } else { [(2, "two"), (1, "one")] };
            for (writers, column) in columns {
                table.add(row, "k ops/s", column, bench.writers(writers, flush, round));
            }
        }
        let (row, unit) = ("a writer beside others", "k ops/s");
        let (rate, flushes, ()) = bench.beside(round, || thread::sleep(pause));
        table.add(row, unit, "alone", rate);
        quiet_flush.extend(flushes);
        let (rate, _, times) = bench.beside(round, || bench.snapshots(if full { 40 } else { 2 }, round));
        table.add(row, unit, "a snapshot every 30 ms", rate);
        taken.extend(times);
        let large = bench.store.create_volume("large", 4 * len).expect("a volume");
        common::fill(&large, 4 * len, &bench.noise);
        let (rate, flushes, ()) = bench.beside(round, || {
            bench.store.delete_volume(&large, DeleteSnapshots::Delete).expect("delete");
            bench.store.wait_reclaimed().expect("reclaim");
        });
        table.add(row, unit, "reclaim", rate);
        busy_flush.extend(flushes);
    }
    for (row, target) in [("two writers, no sync", 1.6), ("two writers, a flush every 64", 1.2)] {
        let ratio = table.get(row, "two") / table.get(row, "one");
        table.ratio(row, ratio, &format!("T18 two writers / one: target >= {target}"));
    }
    let row = "a writer beside others";
    let alone = table.get(row, "alone");
    table.ratio(
        row,
        table.get(row, "a snapshot every 30 ms") / alone,
        "T10b rate beside snapshots / alone: target >= 0.8",
    );
    table.ratio(row, table.get(row, "reclaim") / alone, "T10 rate beside reclaim / alone: target >= 0.5");
    let tail = quantile(&busy_flush, 0.99) / quantile(&quiet_flush, 0.99);
    table.ratio(row, tail, "T10 flush p99 beside reclaim / alone: target <= 2");
    table.ratio(row, quantile(&taken, 0.99) / median(&quiet_flush), "T10b snapshot p99 / flush p50 alone: target <= 5");
    table.print();
    for (name, samples) in [("flush alone", &quiet_flush), ("flush beside reclaim", &busy_flush), ("snapshot", &taken)]
    {
        let q = |q| quantile(samples, q);
        println!("{name}, ms: p50 {:.2}, p99 {:.2}, p99.9 {:.2}, most {:.2}", q(0.5), q(0.99), q(0.999), q(1.0));
    }
    println!("after: {}", common::pressure());
}
