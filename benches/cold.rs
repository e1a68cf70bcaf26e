//! Reads of what the host has not cached, beside a raw file in the same run: `cargo bench --bench cold`.
//!
//! Before each sample the page cache is told to drop both files (`POSIX_FADV_DONTNEED`), and the image is opened again, so that nothing of
//! it is known. `in order` is a volume that was written in sequence, `scattered` one that was then overwritten in random order: there a
//! read in sequence asks the disk for single blocks, which `raw, the same blocks` does as well, all of a piece at once: that is what the
//! disk gives. Bytes read from the disk are counted by the kernel (`/proc/self/io`). `SNAPDISK_BENCH_MIB` (512), `SNAPDISK_BENCH_ROUNDS`
//! (5) and `SNAPDISK_BENCH_DIR` change the size, the rounds and the place.

#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock and opens raw files")]

mod common;

use common::{BLOCK, Peer, Rng, Table, clock};
use rustix::fs::{Advice, fadvise};
use snapdisk::{Options, Volume};
use std::{fs::File, num::NonZeroU64, path::Path};

const MIB: u64 = 1 << 20;

/// A way of reading: its name, bytes of a request, whether at random, and how many requests.
struct Work {
    name: &'static str,
    size: u64,
    random: bool,
    count: u64,
}

fn image(path: &Path, len: u64, noise: &[u8], scattered: bool) {
    let store = Options::new().create(path).expect("an image");
    let volume = store.create_volume("v", len).expect("a volume");
    common::fill(&volume, len, noise);
    if scattered {
        let (mut rng, blocks) = (Rng(3), len / BLOCK as u64);
        let mut order: Vec<u64> = (0..blocks).collect();
        (1..order.len()).rev().for_each(|i| order.swap(i, rng.below(i as u64 + 1) as usize));
        order.iter().for_each(|b| volume.write(&noise[rng.below(MIB) as usize..][..BLOCK], b * BLOCK as u64));
        volume.sync();
        store.wait_reclaimed().expect("reclaim");
    }
    store.close().expect("close");
}

/// Has the host drop what it has cached of a file.
fn cool(path: &Path) {
    let file = File::open(path).expect("a file");
    file.sync_all().expect("sync");
    fadvise(&file, 0, None, Advice::DontNeed).expect("fadvise");
}

/// Bytes that this process had the disk read.
fn disk_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/io").expect("procfs");
    let line = text.lines().find_map(|l| l.strip_prefix("read_bytes: ")).expect("the count");
    line.trim().parse().expect("a number")
}

fn run(table: &mut Table, work: &Work, column: &'static str, peer: &dyn Peer, len: u64, seed: u64) {
    let (mut rng, mut buf) = (Rng(seed), vec![0; work.size as usize]);
    let before = disk_bytes();
    let places = len / work.size;
    let seconds = clock(|| {
        for i in 0..work.count {
            let at = if work.random { rng.below(places) } else { i % places };
            peer.read(&mut buf, at * work.size);
        }
    });
    let bytes = (disk_bytes() - before) as f64 / work.count as f64;
    table.add(work.name, "us", column, seconds * 1e6 / work.count as f64);
    table.add(&format!("{}: read from the disk", work.name), "bytes a request", column, bytes);
}

/// Single blocks at random of a raw file, as many as a request has and all of a request at once.
struct Scattered<'a>(&'a File, u64);

impl Peer for Scattered<'_> {
    fn read(&self, buf: &mut [u8], offset: u64) {
        // Each block once: the factor is a prime.
        let (first, blocks) = (offset / BLOCK as u64, self.1 / BLOCK as u64);
        let place = |i| (first + i) * 2_654_435_761 % blocks * BLOCK as u64;
        let places: Vec<u64> = (0..(buf.len() / BLOCK) as u64).map(place).collect();
        for at in &places {
            fadvise(self.0, *at, NonZeroU64::new(BLOCK as u64), Advice::WillNeed).expect("fadvise");
        }
        buf.chunks_mut(BLOCK).zip(&places).for_each(|(block, at)| self.0.read(block, *at));
    }
    fn write(&self, _: &[u8], _: u64) {}
    fn sync(&self) {}
}

fn main() {
    let full = common::is_bench();
    let len = common::setting("SNAPDISK_BENCH_MIB", if full { 512 } else { 8 }) * MIB;
    let rounds = common::setting("SNAPDISK_BENCH_ROUNDS", if full { 5 } else { 1 });
    let dir = common::directory(5 * len + 128 * MIB);
    let noise = common::noise(2 * MIB as usize);
    let path = |name: &str| dir.path().join(name);
    drop(common::raw_file(&path("raw"), len, &noise, true));
    image(&path("in order"), len, &noise, false);
    image(&path("scattered"), len, &noise, true);
    let times = if full { 1 } else { 100 };
    let works = [
        Work { name: "cold: 4 KiB at random", size: BLOCK as u64, random: true, count: 3000 / times },
        Work { name: "cold: 4 KiB in sequence", size: BLOCK as u64, random: false, count: 40_000 / times },
        Work { name: "cold: 64 KiB in sequence", size: 64 << 10, random: false, count: 2500 / times },
        Work { name: "cold: 1 MiB in sequence", size: MIB, random: false, count: 160 / times.min(20) },
    ];
    println!("{} MiB, {rounds} rounds; before: {}", len / MIB, common::pressure());
    let mut table = Table::default();
    for round in 0..rounds {
        for work in &works {
            let seed = round * 2 + 1;
            cool(&path("raw"));
            let file = File::open(path("raw")).expect("a file");
            run(&mut table, work, "raw", &file, len, seed);
            if !work.random {
                cool(&path("raw"));
                let file = File::open(path("raw")).expect("a file");
                fadvise(&file, 0, None, Advice::Random).expect("fadvise");
                run(&mut table, work, "raw, blocks at random", &Scattered(&file, len), len, seed);
            }
            for name in ["in order", "scattered"] {
                cool(&path(name));
                let store = Options::new().open(path(name)).expect("open");
                let volume: Volume = store.volume("v").expect("the volume");
                cool(&path(name));
                run(&mut table, work, name, &volume, len, seed);
                store.close().expect("close");
            }
        }
    }
    for work in &works {
        let get = |column| table.get(work.name, column);
        let (ordered, scattered) = (get("raw") / get("in order"), get("raw") / get("scattered"));
        if work.random {
            table.ratio(work.name, ordered, "T17 rate / raw, in order: target >= 0.95");
            table.ratio(work.name, scattered, "T17 rate / raw, scattered: target >= 0.95");
        } else {
            let limit = get("raw, blocks at random") / get("scattered");
            table.ratio(work.name, ordered, "T17 rate / raw, in order: target >= 0.95");
            table.ratio(work.name, scattered, "T17 rate / raw, scattered: target >= 0.8");
            table.ratio(work.name, limit, "rate / raw that reads blocks at random, scattered: what the disk gives");
        }
        let row = format!("{}: read from the disk", work.name);
        if work.random {
            let bytes = table.get(&row, "scattered");
            table.ratio(&row, bytes, "T17 bytes read for 4 KiB, scattered: target <= 8192");
        }
    }
    table.print();
    println!("after: {}", common::pressure());
}
