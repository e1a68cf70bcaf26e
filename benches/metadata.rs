//! Snapshot, rollback, clone, delete, whatever is mapped and however many snapshots there are: `cargo bench --bench metadata`.
//!
//! Images on a backend that drops data blocks and keeps the rest, reopened before they are measured; a block is overwritten and flushed
//! between any two operations, outside the clock, so that nothing is staged and each operation really forks. `raw` is one 4 KiB `pwrite`
//! with `fdatasync` on a file beside. All are measured in turn in the same loop. Pages and syncs are counted too: they do not depend on
//! the machine.
//!
//! `SNAPDISK_BENCH_GIB` (64) is mapped in the large image, `SNAPDISK_BENCH_EXTENTS` (262144) are in the scattered one, each of one block,
//! `SNAPDISK_BENCH_SNAPSHOTS` (100000) in the rich one; stores have `SNAPDISK_BENCH_MEMORY_MIB` (256) of memory.
//! 1024 and 10000000 take some minutes to build and 4 GiB of disk; with
//! `MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=1073741824` a third less, as the allocator then keeps the buffers.
//! `SNAPDISK_BENCH_KEEP` names a directory that keeps them for the next run.

#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock and opens raw files")]

mod common;

use common::{BLOCK, Peer, Rng, Table, clock, nodata::NoData};
use snapdisk::{Durability, NewOptions, Options, Store, Volume};
use std::{fs::File, path::Path, sync::Arc};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const RAW: &str = "raw 4 KiB pwrite + fdatasync";
const DEFERRED: NewOptions = NewOptions::new().durability(Durability::Deferred);

struct Image {
    name: &'static str,
    store: Store,
    volume: Volume,
    backend: Arc<NoData>,
    bytes: u64,
}

fn options() -> Options {
    Options::new().memory(common::setting("SNAPDISK_BENCH_MEMORY_MIB", 256) << 20)
}

/// An image with one volume of `bytes`, mapped by `map`, and `snapshots` snapshots with an overwrite between any two.
fn build(dir: &Path, name: &'static str, bytes: u64, map: impl FnOnce(&Volume), snapshots: u64) -> Image {
    let path = dir.join(name);
    let took = common::image(&path, &format!("{name}, {bytes}"), || {
        let store = NoData::create(&path, &options());
        map(&store.create_volume("v", bytes).expect("a volume"));
        store.close().expect("close");
    });
    let took = took
        + clock(|| {
            let store = NoData::open(&path, &options()).0;
            let volume = store.volume("v").expect("the volume");
            let mut rng = Rng(3);
            for i in 0..snapshots {
                volume.write_at(&[0; BLOCK], rng.below(bytes / BLOCK as u64) * BLOCK as u64).expect("write");
                store.snapshot_with(&volume, &format!("old{i}"), DEFERRED).expect("snapshot");
            }
            store.close().expect("close");
        });
    let (store, backend) = NoData::open(&path, &options());
    let volume = store.volume("v").expect("the volume");
    println!(
        "built {name}: {} MiB, {snapshots} snapshots, {took:.1} s; memory {:?} MiB",
        bytes / MIB,
        common::memory()
    );
    Image { name, store, volume, backend, bytes }
}

impl Image {
    fn overwrite(&self, rng: &mut Rng) {
        self.volume.write_at(&[0; BLOCK], rng.below(self.bytes / BLOCK as u64) * BLOCK as u64).expect("write");
        self.volume.flush().expect("flush");
    }
    /// One sample: microseconds, and what it cost in syncs and pages.
    fn sample(&self, table: &mut Table, what: &str, rng: &mut Rng, f: impl FnOnce()) {
        self.overwrite(rng);
        let before = self.backend.counts();
        let us = clock(f) * 1e6;
        let after = self.backend.counts();
        table.add(what, "us", self.name, us);
        table.add(&format!("{what}: syncs"), "", self.name, (after.syncs - before.syncs) as f64);
        table.add(&format!("{what}: pages written"), "", self.name, (after.written - before.written) as f64);
        table.add(&format!("{what}: pages read"), "", self.name, (after.read - before.read) as f64);
    }
    /// Every operation once, leaving things as they were.
    fn round(&self, table: &mut Table, round: u64) {
        let mut rng = Rng(round * 2 + 1);
        let (a, b) = (format!("a{round}"), format!("b{round}"));
        let mut made = None;
        self.sample(table, "snapshot", &mut rng, || made = Some(self.volume.snapshot(&a).expect("snapshot")));
        let made = made.expect("a snapshot");
        self.sample(table, "rollback", &mut rng, || self.volume.rollback(&made).expect("rollback"));
        let mut clone = None;
        self.sample(table, "clone", &mut rng, || clone = Some(self.store.clone_volume(&made, &b).expect("clone")));
        self.sample(table, "delete snapshot", &mut rng, || self.store.delete_snapshot(&made).expect("delete"));
        let clone = clone.expect("a clone");
        let keep = snapdisk::DeleteSnapshots::Refuse;
        self.sample(table, "delete clone", &mut rng, || self.store.delete_volume(&clone, keep).expect("delete"));
        let mut made = None;
        self.sample(table, "deferred snapshot", &mut rng, || {
            made = Some(self.store.snapshot_with(&self.volume, &a, DEFERRED).expect("snapshot"));
        });
        self.store.delete_snapshot(&made.expect("a snapshot")).expect("delete");
    }
}

fn raw(file: &File, table: &mut Table, round: u64, len: u64) {
    let mut rng = Rng(round * 2 + 1);
    for _ in 0..5 {
        let at = rng.below(len / BLOCK as u64) * BLOCK as u64;
        let us = clock(|| {
            file.write(&[1; BLOCK], at);
            file.sync();
        }) * 1e6;
        for what in OPERATIONS {
            table.add(what, "us", RAW, us);
        }
    }
}

const OPERATIONS: [&str; 5] = ["snapshot", "rollback", "clone", "delete snapshot", "delete clone"];

fn main() {
    let full = common::is_bench();
    let rounds = common::setting("SNAPDISK_BENCH_ROUNDS", if full { 100 } else { 1 });
    let large = common::setting("SNAPDISK_BENCH_GIB", if full { 64 } else { 1 }) * GIB;
    let extents = common::setting("SNAPDISK_BENCH_EXTENTS", if full { 1 << 18 } else { 1000 });
    let many = common::setting("SNAPDISK_BENCH_SNAPSHOTS", if full { 100_000 } else { 20 });
    let small = if full { GIB } else { 64 * MIB };
    // Data is dropped: what is written are nodes, five for each snapshot, and a log for each image.
    let dir = common::directory(small + large / 1024 + extents * 128 + many * 5 * BLOCK as u64 + GIB / 2);
    let noise = common::noise(2 * MIB as usize);
    let file = common::raw_file(&dir.path().join("raw"), small, &noise, false);
    let mib = |bytes| move |v: &Volume| common::map_large(v, bytes);
    let images = [
        build(dir.path(), "1 GiB, 1 snapshot", small, mib(small), 1),
        build(dir.path(), "4 KiB extents", extents * BLOCK as u64, |v| common::map_scattered(v, extents), 1),
        build(dir.path(), "1 GiB, many snapshots", small, mib(small), many),
        build(dir.path(), "large", large, mib(large), 1),
    ];
    println!("large: {} GiB; scattered: {extents}; many: {many}; before: {}", large / GIB, common::pressure());
    let mut table = Table::default();
    for round in 0..rounds {
        raw(&file, &mut table, round, small);
        images.iter().for_each(|i| i.round(&mut table, round));
    }
    for what in OPERATIONS {
        let base = table.get(what, images[0].name);
        table.ratio(what, base / table.get(what, RAW), "1 GiB, 1 snapshot / raw: target <= 1.3");
        for i in &images[1..] {
            let ratio = table.get(what, i.name) / base;
            table.ratio(what, ratio, &format!("{} / 1 GiB, 1 snapshot: floor <= 1.5, target <= 1.2", i.name));
        }
    }
    let most = images.iter().map(|i| table.get("deferred snapshot", i.name)).fold(0.0, f64::max);
    table.ratio("deferred snapshot", most, "us, the slowest: target <= 10");
    table.print();
    for i in &images {
        let took = clock(|| {
            i.store.delete_volume(&i.volume, snapdisk::DeleteSnapshots::Delete).expect("delete");
            i.store.wait_reclaimed().expect("reclaim");
        });
        println!("{}: all deleted and reclaimed in {took:.1} s; memory {:?} MiB", i.name, common::memory());
    }
    println!("after: {}; memory {:?} MiB", common::pressure(), common::memory());
}
