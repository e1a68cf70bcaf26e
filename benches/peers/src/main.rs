//! Other ways to keep a disk with snapshots, beside snapdisk in one run: `cargo bench --manifest-path benches/peers/Cargo.toml`.
//!
//! A plain file, imago (qcow2), redb (a map of blocks), and files on XFS and btrfs whose snapshots are reflinks; the latter two need root,
//! `mkfs` and a loop device. What cannot run says "not run" and why. Rounds are interleaved: in each, every peer does the same work in turn.
//! All peers are as durable: a write counts once a sync after it returned, and an operation on snapshots once it would survive a loss of
//! power, as far as the peer promises that. Data does not compress. A disk is written in full before it is measured.
//!
//! `SNAPDISK_BENCH_MIB` (1024) and `SNAPDISK_BENCH_ROUNDS` (3) change the size of a disk and the rounds, `SNAPDISK_BENCH_DIR` the place;
//! `SNAPDISK_BENCH_ROWS` takes one kind of work alone: writes, snapshots, aging, many; `SNAPDISK_BENCH_PEERS` those whose names have it in them.
//! `python3 benches/table.py --peers` makes a table.

#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock and opens files of its own")]

#[path = "../../common/mod.rs"]
mod common;
mod database;
mod file;
mod own;
mod qcow2;

use common::{BLOCK, Peer, Rng, Table, clock, median};
use std::{fmt::Display, path::Path};

const MIB: u64 = 1 << 20;
/// Seconds that a peer may take for its many snapshots.
const PATIENCE: f64 = 10.0;
/// How many snapshots are many.
const MANY: u64 = 1000;

/// Why a peer takes no part.
type Missing = String;

/// A disk of which snapshots can be taken. Each of these operations is durable when it returns.
trait Disk: Peer {
    /// Whether the three operations below exist.
    fn has_snapshots(&self) -> bool {
        true
    }
    fn snapshot(&mut self, id: u64);
    /// Back to a snapshot, which is kept.
    fn rollback(&mut self, id: u64);
    /// Deletes a snapshot and leaves the disk's content as it is.
    fn delete(&mut self, id: u64);
    /// Waits for what a deletion left to be done later.
    fn settle(&mut self) {}
}

/// Names in the table, and what else it takes to repeat a run.
struct Contender {
    name: &'static str,
    settings: String,
    disk: Box<dyn Disk>,
}

fn why(e: impl Display) -> Missing {
    e.to_string()
}

/// Runs a program of the system; its complaint is the error.
fn system(program: &str, args: &[&str]) -> Result<String, Missing> {
    let done = std::process::Command::new(program).args(args).output().map_err(|e| format!("{program}: {e}"))?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if done.status.success() { Ok(said(&done.stdout)) } else { Err(format!("{program}: {}", said(&done.stderr))) }
}

/// The version of a crate that this program was built with.
fn version(package: &str) -> &'static str {
    let lock = include_str!("../Cargo.lock");
    let at = lock.split_once(&format!("name = \"{package}\"\nversion = \"")).map(|(_, rest)| rest);
    at.and_then(|rest| rest.split('"').next()).unwrap_or("unknown")
}

type Make = fn(&Path, u64, &[u8]) -> Result<Contender, Missing>;
const ALL: [(&str, Make); 7] = [
    (file::RAW[0], |dir, len, noise| file::raw(dir, len, noise, true)),
    (file::RAW[1], |dir, len, noise| file::raw(dir, len, noise, false)),
    (own::NAME, own::make),
    (qcow2::NAME, qcow2::make),
    (database::NAME, database::make),
    (file::XFS, |dir, len, _| file::mounted(dir, len, "xfs")),
    (file::BTRFS, |dir, len, _| file::mounted(dir, len, "btrfs")),
];

/// All peers that can run here, full and synced.
fn contenders(dir: &Path, len: u64, noise: &[u8], talk: bool) -> Vec<Contender> {
    let mut all = Vec::new();
    let only = std::env::var("SNAPDISK_BENCH_PEERS").unwrap_or_default();
    for (name, make) in ALL.into_iter().filter(|(name, _)| name.contains(&only)) {
        match make(dir, len, noise) {
            Ok(contender) => {
                common::fill(&*contender.disk, len, noise);
                if talk {
                    println!("{name}: {}", contender.settings);
                }
                all.push(contender);
            }
            Err(why) => println!("{name}: not run: {why}"),
        }
    }
    all
}

struct Bench {
    len: u64,
    noise: Vec<u8>,
    table: Table,
}

impl Bench {
    fn write_random(&self, peer: &dyn Peer, rng: &mut Rng) {
        let data = &self.noise[rng.below(MIB) as usize..][..BLOCK];
        peer.write(data, rng.below(self.len / BLOCK as u64) * BLOCK as u64);
    }
    /// Thousands of writes a second, with a sync after every `group` and one at the end.
    fn rate(&self, peer: &dyn Peer, count: u64, group: u64, rng: &mut Rng) -> f64 {
        let seconds = clock(|| {
            for i in 1..=count {
                self.write_random(peer, rng);
                if i % group == 0 || i == count {
                    peer.sync();
                }
            }
        });
        count as f64 / seconds / 1e3
    }
    /// Leaves the disk written in sequence.
    fn writes(&mut self, c: &Contender, round: u64) {
        let (peer, mut rng): (&dyn Peer, _) = (&*c.disk, Rng(round * 2 + 1));
        let mut buf = vec![0; BLOCK];
        let rate = self.rate(peer, 20_000, u64::MAX, &mut rng);
        self.table.add("4 KiB random write, final sync included", "k ops/s", c.name, rate);
        let one = |rng: &mut Rng| {
            clock(|| {
                self.write_random(peer, rng);
                peer.sync();
            })
        };
        let times: Vec<f64> = (0..200).map(|_| one(&mut rng)).collect();
        self.table.add("4 KiB write + sync each, p50", "us", c.name, median(&times) * 1e6);
        let mut large = vec![0; MIB as usize];
        (0..self.len).step_by(MIB as usize).for_each(|at| peer.read(&mut large, at));
        let mut read = || peer.read(&mut buf, rng.below(self.len / BLOCK as u64) * BLOCK as u64);
        let seconds = clock(|| (0..50_000).for_each(|_| read()));
        self.table.add("4 KiB random read, cached", "ns", c.name, seconds * 1e9 / 5e4);
        let seconds = clock(|| common::fill(peer, self.len, &self.noise));
        let gib = self.len as f64 / (1u64 << 30) as f64;
        self.table.add("sequential write, 1 MiB, final sync included", "GiB/s", c.name, gib / seconds);
    }
    /// A snapshot, and what follows from it.
    fn snapshots(&mut self, c: &mut Contender, round: u64, image: &str) {
        let mut rng = Rng(round * 2 + 1);
        self.rate(&*c.disk, 16, 16, &mut rng);
        let created = clock(|| c.disk.snapshot(round)) * 1e3;
        let rate = self.rate(&*c.disk, 5000, u64::MAX, &mut rng);
        let rolled_back = clock(|| c.disk.rollback(round)) * 1e3;
        self.rate(&*c.disk, 5000, u64::MAX, &mut rng);
        let deleted = clock(|| c.disk.delete(round)) * 1e3;
        c.disk.settle();
        for (row, unit, sample) in [
            ("create a snapshot", "ms", created),
            ("first 4 KiB writes after a snapshot, final sync included", "k ops/s", rate),
            ("roll back after 5,000 writes", "ms", rolled_back),
            ("delete a snapshot after 5,000 writes", "ms", deleted),
        ] {
            self.table.add(&format!("{row}, {image}"), unit, c.name, sample);
        }
    }
    /// Many snapshots, 16 writes between two; the last ten of them count.
    fn many(&mut self, c: &mut Contender) {
        let (mut rng, mut times, mut took) = (Rng(5), Vec::new(), 0.0);
        while took < PATIENCE && (times.len() as u64) < MANY {
            self.rate(&*c.disk, 16, 16, &mut rng);
            times.push(clock(|| c.disk.snapshot(times.len() as u64)) * 1e3);
            took += times[times.len() - 1] / 1e3;
        }
        let last = median(&times[times.len().saturating_sub(10)..]);
        if times.len() as u64 == MANY {
            self.table.add("create snapshot number 1,000", "ms", c.name, last);
        } else {
            println!("{}: {} snapshots took {took:.0} s, the last of them {last:.1} ms each", c.name, times.len());
        }
    }
}

fn main() {
    let full = common::is_bench();
    let len = common::setting("SNAPDISK_BENCH_MIB", if full { 1024 } else { 32 }) * MIB;
    let rounds = common::setting("SNAPDISK_BENCH_ROUNDS", if full { 3 } else { 1 });
    let part = std::env::var("SNAPDISK_BENCH_ROWS").unwrap_or_default();
    let wanted = |name: &str| part.is_empty() || part == name;
    let dir = common::directory(18 * len + 1024 * MIB);
    let mut bench = Bench { len, noise: common::noise(2 * MIB as usize), table: Table::default() };
    println!("{} MiB, {rounds} rounds; before: {}", len / MIB, common::pressure());
    let mut all = if part == "many" { Vec::new() } else { contenders(dir.path(), len, &bench.noise, true) };
    let in_order = if wanted("writes") || wanted("snapshots") { rounds } else { 0 };
    for round in 0..in_order {
        // Every round begins with another peer.
        let first = all.len().min(1);
        all.rotate_left(first);
        for c in &mut all {
            if wanted("writes") {
                bench.writes(c, round);
            } else if round > 0 {
                common::fill(&*c.disk, len, &bench.noise);
            }
            if wanted("snapshots") && c.disk.has_snapshots() {
                bench.snapshots(c, round, "written in sequence");
            }
        }
    }
    if wanted("aging") {
        // As many blocks as the disk has, a quarter of them in each step.
        for step in 0..4 {
            for c in &all {
                let rate = bench.rate(&*c.disk, len / 4 / BLOCK as u64, 1024, &mut Rng(step * 2 + 1));
                let row = if step == 0 { "the first quarter" } else { "the rest" };
                bench.table.add(
                    &format!("4 KiB random write, a sync after every 1024, {row}"),
                    "k ops/s",
                    c.name,
                    rate,
                );
            }
        }
        for round in 0..rounds {
            all.iter_mut()
                .filter(|c| c.disk.has_snapshots())
                .for_each(|c| bench.snapshots(c, round, "overwritten at random"));
        }
    }
    drop(all);
    if wanted("many") {
        let mut all = contenders(dir.path(), len, &bench.noise, part == "many");
        all.iter_mut().filter(|c| c.disk.has_snapshots()).for_each(|c| bench.many(c));
    }
    bench.table.print();
    println!("after: {}", common::pressure());
}
