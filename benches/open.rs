//! Opening: after `close`, and after a crash with a full log: `cargo bench --bench open`.
//!
//! The crash is a store dropped without `close` behind its last flush, on a backend that drops data blocks (so that the image may be
//! large). `SNAPDISK_BENCH_GIB` (64) are mapped in the large image, `SNAPDISK_BENCH_EXTENTS` (262144) in the scattered one, each of one
//! block; `SNAPDISK_BENCH_KEEP` names a directory that keeps them for the next run. What an opening takes of memory is seen in a process of its own.

#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

mod common;

use common::{BLOCK, Rng, Table, clock, nodata::NoData};
use snapdisk::Options;
use std::path::Path;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// No background thread: it would write a checkpoint and so empty the log before it is full.
fn options() -> Options {
    Options::new().manual_maintenance(true)
}

/// Fills the log with small writes until the next one would need a checkpoint, near enough: as many records as are not its due yet, in small
/// groups, and one more group as long as it gets by itself.
fn crash(path: &Path, bytes: u64, seed: u64) {
    let (store, _) = NoData::open(path, &options());
    let volume = store.volume("v").expect("the volume");
    let mut rng = Rng(seed);
    let mut write = || volume.write_at(&[0; BLOCK], rng.below(bytes / BLOCK as u64) * BLOCK as u64).expect("write");
    // 32,768 records of closed groups are a checkpoint's due, and 59,000 a group that is written without being asked for.
    for i in 0..30_000u64 {
        write();
        if i % 16 == 15 {
            volume.flush().expect("flush");
        }
    }
    (0..55_000).for_each(|_| write());
    volume.flush().expect("flush");
}

/// In a process of its own: opens the image and says what that took of memory.
fn look(path: &Path) {
    let before = common::memory();
    let (store, _) = NoData::open(path, &options());
    println!("memory, MiB (most, private): {before:?} before opening, {:?} after", common::memory());
    drop(store);
}

fn look_at(name: &str, path: &Path) {
    let own = std::env::current_exe().expect("a path");
    let out = std::process::Command::new(own).env(LOOK, path).output().expect("a process");
    print!("{name}: {}", String::from_utf8_lossy(&out.stdout));
}

const LOOK: &str = "SNAPDISK_BENCH_LOOK";

fn main() {
    if let Some(path) = std::env::var_os(LOOK) {
        return look(Path::new(&path));
    }
    let full = common::is_bench();
    let rounds = common::setting("SNAPDISK_BENCH_ROUNDS", if full { 5 } else { 1 });
    let large = common::setting("SNAPDISK_BENCH_GIB", if full { 64 } else { 1 }) * GIB;
    let extents = common::setting("SNAPDISK_BENCH_EXTENTS", if full { 1 << 18 } else { 1000 });
    // Data is dropped: what is written are nodes, and a log for each image.
    let dir = common::directory(large / 1024 + extents * 128 + 2 * GIB);
    let images = [("1 GiB", GIB), ("4 KiB extents", extents * BLOCK as u64), ("large", large)];
    for (i, (name, bytes)) in images.into_iter().enumerate() {
        let path = dir.path().join(name);
        let kept_as = format!("{name}, {bytes}");
        let took = common::image(&path, &kept_as, || {
            let store = NoData::create(&path, &options());
            let volume = store.create_volume("v", bytes).expect("a volume");
            if i == 1 {
                common::map_scattered(&volume, extents)
            } else {
                common::map_large(&volume, bytes)
            }
            store.close().expect("close");
        });
        println!("built {name}: {} MiB, {took:.1} s", bytes / MIB);
        look_at(&format!("{name}, closed"), &path);
        crash(&path, bytes, 4);
        look_at(&format!("{name}, crashed with a full log"), &path);
        NoData::open(&path, &options()).0.close().expect("close");
    }
    println!("large: {} GiB; scattered: {extents}; before: {}", large / GIB, common::pressure());
    let mut table = Table::default();
    for round in 0..rounds {
        for (name, bytes) in images {
            let path = dir.path().join(name);
            let (clean, after) = ("open, closed", "open, crashed with a full log");
            let mut store = None;
            table.add(clean, "ms", name, clock(|| store = Some(NoData::open(&path, &options()).0)) * 1e3);
            drop(store);
            crash(&path, bytes, round + 5);
            let mut store = None;
            table.add(after, "ms", name, clock(|| store = Some(NoData::open(&path, &options()).0)) * 1e3);
            let store = store.expect("a store");
            table.add("close after that", "ms", name, clock(|| store.close().expect("close")) * 1e3);
        }
    }
    for (name, _) in images {
        table.ratio("open, closed", table.get("open, closed", name), &format!("ms, {name}: target <= 1"));
        let row = "open, crashed with a full log";
        table.ratio(row, table.get(row, name), &format!("ms, {name}: floor < 1000, target <= 50 without cold reads"));
    }
    table.print();
    println!("after: {}", common::pressure());
}
