//! What the host makes of a plain file, where the engine's sizes come from: `cargo bench --bench host`.
//!
//! Folios: a file written in calls of some size, then written over by calls of that size, and at random in runs of a few blocks. Syncs: one
//! dirty page at random, two pages apart, two side by side, and one beside another writer. Checksums: what a block of data in large writes costs. `SNAPDISK_BENCH_MIB` (1024)
//! and `SNAPDISK_BENCH_DIR` as in `io`.

#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock and opens raw files")]

mod common;

use common::{BLOCK, Peer, Rng, Table, clock, median, noise, quantile};
use rustix::io::{ReadWriteFlags, pwritev2};
use std::{
    fs::File,
    hash::Hasher as _,
    hint::black_box,
    io::IoSlice,
    path::Path,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
};
use twox_hash::xxhash3_64::Hasher;

const KIB: usize = 1 << 10;

/// A file that calls of `call` bytes wrote, twice; gives it with the seconds of the second time.
fn written(path: &Path, len: u64, call: usize, noise: &[u8]) -> (File, f64) {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path).expect("a raw file");
    let write = || (0..len).step_by(call).for_each(|at| file.write(&noise[..call], at));
    write();
    file.sync();
    let over = clock(write);
    file.sync();
    (file, over)
}

/// The checksum of each block alone, beside it the hash of all data of a group, and the hash once 64 KiB are summed, when the processor's
/// nearest cache has lost their beginning.
fn checksums(noise: &[u8], rounds: u64, table: &mut Table) {
    const PIECE: usize = 64 * KIB;
    let sum = |block: &[u8]| {
        black_box(crc32fast::hash(black_box(block)));
    };
    let blocks = (noise.len() / BLOCK) as f64;
    for _ in 0..rounds {
        let mut hash = Hasher::with_seed(1);
        let mut add = |name, f: &mut dyn FnMut()| {
            table.add("checksums of data in the cache", "ns a block", name, clock(f) * 1e9 / blocks);
        };
        add("CRC-32", &mut || noise.chunks(BLOCK).for_each(sum));
        add("CRC-32 and hash, block by block", &mut || {
            noise.chunks(BLOCK).for_each(|block| {
                sum(block);
                hash.write(black_box(block));
            });
        });
        add("CRC-32 of 64 KiB, then their hash", &mut || {
            noise.chunks(PIECE).for_each(|piece| {
                piece.chunks(BLOCK).for_each(sum);
                hash.write(black_box(piece));
            });
        });
        black_box(hash.finish());
    }
}

/// One page in the first MiB, written and synced, while another thread does so with 4 MiB of the rest, over and over: by a sync of all of
/// the file, and by a write that is synced itself.
fn beside_a_writer(path: &Path, len: u64, rounds: u64, noise: &[u8], table: &mut Table) {
    const BURST: u64 = 64;
    let (file, _) = written(path, len, 64 * KIB, noise);
    let other = File::options().write(true).open(path).expect("a raw file");
    let (pieces, done) = ((len >> 16) - 16, AtomicBool::new(false));
    for how in ["fdatasync", "RWF_DSYNC"] {
        let mut times = Vec::new();
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut rng = Rng(5);
                while !done.load(SeqCst) {
                    (0..BURST).for_each(|_| other.write(&noise[..64 * KIB], (16 + rng.below(pieces)) << 16));
                    other.sync();
                }
            });
            for i in 0..rounds {
                let (page, at) = (&noise[i as usize..][..BLOCK], i % 256 * BLOCK as u64);
                times.push(clock(|| match how {
                    "fdatasync" => {
                        file.write(page, at);
                        file.sync();
                    }
                    _ => {
                        let page = [IoSlice::new(page)];
                        let n = pwritev2(&file, &page, at, ReadWriteFlags::DSYNC).expect("a synced write");
                        assert_eq!(n, BLOCK);
                    }
                }));
            }
            done.store(true, SeqCst);
        });
        done.store(false, SeqCst);
        let mean = times.iter().sum::<f64>() / times.len() as f64;
        table.add("write and sync of one page beside a writer that syncs, mean", "us", how, mean * 1e6);
        table.add(
            "write and sync of one page beside a writer that syncs, p99",
            "us",
            how,
            quantile(&times, 0.99) * 1e6,
        );
    }
}

fn main() {
    let full = common::is_bench();
    let len = common::setting("SNAPDISK_BENCH_MIB", if full { 1024 } else { 16 }) << 20;
    let (blocks, count) = (len / BLOCK as u64, if full { 30_000 } else { 300 });
    let dir = common::directory(len);
    let noise = noise(2 << 20);
    let mut table = Table::default();
    println!("{} MiB; before: {}", len >> 20, common::pressure());
    let calls =
        [(4 * KIB, "4 KiB"), (16 * KIB, "16 KiB"), (32 * KIB, "32 KiB"), (64 * KIB, "64 KiB"), (1024 * KIB, "1 MiB")];
    for (call, name) in calls {
        let (file, over) = written(&dir.path().join("file"), len, call, &noise);
        table.add(
            "written over in sequence, by calls as large as the first",
            "us a block",
            name,
            over * 1e6 / blocks as f64,
        );
        for (run, row) in [(1, "single blocks at random"), (3, "runs of 3"), (5, "runs of 5"), (16, "runs of 16")] {
            let mut rng = Rng(run + 1);
            let once = |rng: &mut Rng| {
                file.write(&noise[..run as usize * BLOCK], rng.below(blocks - run) * BLOCK as u64);
            };
            let took = clock(|| (0..count / run).for_each(|_| once(&mut rng)));
            table.add(row, "us a block", name, took * 1e6 / (count / run * run) as f64);
            file.sync();
        }
    }
    let (file, _) = written(&dir.path().join("file"), len, 16 * KIB, &noise);
    let mut rng = Rng(3);
    let (mut apart, mut one, mut beside) = (Vec::new(), Vec::new(), Vec::new());
    let mut log = 0;
    for _ in 0..if full { 1500 } else { 10 } {
        let at = rng.below(blocks) * BLOCK as u64;
        log = (log + 2) % (blocks / 64);
        one.push(clock(|| {
            file.write(&noise[..BLOCK], at);
            file.sync();
        }));
        apart.push(clock(|| {
            file.write(&noise[..BLOCK], at);
            file.write(&noise[..BLOCK], log * BLOCK as u64);
            file.sync();
        }));
        beside.push(clock(|| {
            file.write(&noise[..2 * BLOCK], log * BLOCK as u64);
            file.sync();
        }));
    }
    for (name, times) in [("one page", &one), ("two apart", &apart), ("two side by side", &beside)] {
        table.add("write and sync, p50", "us", name, median(times) * 1e6);
    }
    beside_a_writer(&dir.path().join("file"), len, if full { 1000 } else { 10 }, &noise, &mut table);
    checksums(&noise, if full { 201 } else { 1 }, &mut table);
    table.print();
    println!("after: {}", common::pressure());
}
