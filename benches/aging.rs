//! How overwrites at random go on as an image ages: `cargo bench --bench aging`.
//!
//! A full volume is overwritten at random by as many blocks as it has, again and again, with a sync after every 1024 and one at the end of
//! each pass, inside the clock. Raw files and stores take turns. The size of an image, as the host counts what it takes of the disk, stands
//! beside the rates, in multiples of the data. `SNAPDISK_BENCH_MIB` (256), `SNAPDISK_BENCH_PASSES` (10) and `SNAPDISK_BENCH_DIR` change the
//! size, the passes and the place.

#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock and opens raw files")]

mod common;

use common::{BLOCK, Peer, Rng, Table, clock};
use snapdisk::Options;
use std::{os::unix::fs::MetadataExt, path::Path};

const MIB: u64 = 1 << 20;
const RAW: [&str; 2] = ["raw, large folios", "raw, 4 KiB folios"];
const USUAL: &str = "snapdisk, default options";
const TIGHT: &str = "snapdisk, slack(0)";
const SUSTAINED: &str = "sustained: the second half of the passes";
/// Blocks between two syncs.
const GROUP: u64 = 1024;

/// Overwrites as many blocks as `peer` has, at random; thousands a second.
fn pass(peer: &dyn Peer, len: u64, noise: &[u8], rng: &mut Rng) -> f64 {
    let blocks = len / BLOCK as u64;
    let seconds = clock(|| {
        for i in 1..=blocks {
            let data = &noise[rng.below(MIB) as usize..][..BLOCK];
            peer.write(data, rng.below(blocks) * BLOCK as u64);
            if i % GROUP == 0 || i == blocks {
                peer.sync();
            }
        }
    });
    blocks as f64 / seconds / 1e3
}

/// What a file takes of the disk.
fn taken(path: &Path) -> u64 {
    std::fs::metadata(path).expect("a file").blocks() * 512
}

fn main() {
    let full = common::is_bench();
    let len = common::setting("SNAPDISK_BENCH_MIB", if full { 256 } else { 8 }) * MIB;
    let passes = common::setting("SNAPDISK_BENCH_PASSES", if full { 10 } else { 2 });
    let dir = common::directory(8 * len + 256 * MIB);
    let noise = common::noise(2 * MIB as usize);
    let path = |name: &str| dir.path().join(name);
    let raw = [true, false].map(|large| common::raw_file(&path(&format!("raw {large}")), len, &noise, large));
    let stores = [(USUAL, Options::new()), (TIGHT, Options::new().slack(0))].map(|(name, options)| {
        let store = options.create(path(name)).expect("an image");
        let volume = store.create_volume("v", len).expect("a volume");
        common::fill(&volume, len, &noise);
        (name, store, volume)
    });
    println!("{} MiB, {passes} passes; before: {}", len / MIB, common::pressure());
    let mut table = Table::default();
    for n in 0..passes {
        let mut add = |name, rate| {
            table.add(&format!("overwritten {n} times before"), "k ops/s", name, rate);
            // The first passes are of a fresh image: some of its free space was never used.
            if n >= passes / 2 {
                table.add(SUSTAINED, "k ops/s", name, rate);
            }
        };
        for (name, file) in RAW.into_iter().zip(&raw) {
            add(name, pass(file, len, &noise, &mut Rng(n * 2 + 1)));
        }
        for (name, _, volume) in &stores {
            add(name, pass(volume, len, &noise, &mut Rng(n * 2 + 1)));
        }
        for (name, ..) in &stores {
            let size = taken(&path(name)) as f64 / len as f64;
            table.add("size of the image", "multiples of the data", name, size);
        }
    }
    let faster = table.get(SUSTAINED, RAW[0]).max(table.get(SUSTAINED, RAW[1]));
    for (name, target) in [(USUAL, 2.0), (TIGHT, 1.5)] {
        let ratio = table.get(SUSTAINED, name) / faster;
        table.ratio(SUSTAINED, ratio, &format!("T16 {name} / faster raw: target >= {target}"));
    }
    let size = table.get("size of the image", USUAL);
    table.ratio("size of the image", size, "T16 median of the default options: target <= 2.1");
    table.print();
    for (_, store, _) in stores {
        store.close().expect("close");
    }
    println!("after: {}", common::pressure());
}
