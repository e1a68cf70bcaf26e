//! DescribeSnapshot over 100,000 snapshots: what is found by position, and what has to look at all.

use criterion::{Criterion, criterion_group, criterion_main};
use snapdisk::{
    Durability, NewOptions, Options,
    api::{Caller, Directory, Params, SnapshotService},
    io::{MemoryBackend, SystemHost},
};
use std::{hint::black_box, sync::Arc};

const SNAPSHOTS: usize = 100_000;
const DISKS: usize = 100;

fn describe(c: &mut Criterion) {
    let store = Options::new().create_on(Arc::new(MemoryBackend::new()), Arc::new(SystemHost)).unwrap();
    let tags = |disk: &str, name: String| {
        let tags = [("region", "cn"), ("company", "1"), ("project", "default"), ("disk", disk), ("name", &name)];
        tags.into_iter().map(|(k, v)| (format!("api.{k}"), v.to_owned())).collect()
    };
    let disks: Vec<_> = (0..DISKS)
        .map(|d| {
            let id = format!("disk-{d:014}");
            let o = NewOptions::new().tags(tags("", format!("disk {d}")));
            store.create_volume_with(&id, 1 << 30, o).unwrap()
        })
        .collect();
    for i in 0..SNAPSHOTS {
        let tags = tags(&format!("disk-{:014}", i % DISKS), format!("snapshot {i} of a disk"));
        let o = NewOptions::new().tags(tags).durability(Durability::Deferred);
        store.snapshot_with(&disks[i % DISKS], &format!("disksnapshot-{i:014}"), o).unwrap();
    }
    let service = SnapshotService::new(store.clone(), Directory::default()).unwrap();
    let caller = Caller::main(1, 0);
    let mut group = c.benchmark_group("describe_100k");
    for (name, more) in [
        ("unfiltered", vec![]),
        ("last_page", vec![("Offset", "99900"), ("Limit", "100")]),
        ("by_id", vec![("SnapshotIDs.0", "disksnapshot-00000000077777")]),
        ("by_disk", vec![("DiskID", "disk-00000000000042"), ("Offset", "900")]),
        ("keyword", vec![("Keyword", "77777 OF")]),
        ("member", vec![("MemberID", "7")]),
    ] {
        let params = Params::from_pairs([("Region", "cn")].into_iter().chain(more)).unwrap();
        group.bench_function(name, |b| b.iter(|| black_box(service.call(&caller, "DescribeSnapshot", &params))));
    }
    group.finish();
    let mut group = c.benchmark_group("open_100k");
    group.sample_size(10);
    group.bench_function("index", |b| {
        b.iter(|| SnapshotService::new(store.clone(), Directory::default()).unwrap().stats());
    });
    group.finish();
}

criterion_group!(benches, describe);
criterion_main!(benches);
