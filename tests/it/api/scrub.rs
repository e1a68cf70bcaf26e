//! Failure: what a scrub finds, marks and shows.

use super::{World, main_account};
use snapdisk::{
    ErrorKind, Options,
    api::SnapshotService,
    io::{Backend, MemoryBackend},
};
use std::sync::Arc;

/// Turns a bit of the block that begins with these bytes.
fn damage(backend: &MemoryBackend, start: &[u8]) -> u64 {
    let bytes = backend.to_bytes();
    let at = bytes.chunks(4096).position(|b| b.starts_with(start)).unwrap() as u64 * 4096;
    let byte = bytes[at as usize + 100] ^ 1;
    backend.write_at(at + 100, &[byte]).unwrap();
    at
}

#[test]
fn a_damaged_snapshot_fails() {
    let backend = Arc::new(MemoryBackend::new());
    let w = World::over(backend.clone());
    let me = main_account();
    let (disk, other) = (w.disk(&me), w.disk(&me));
    let write = |disk: &str, text: &str, offset: u64| {
        let mut block = text.as_bytes().repeat(4096 / text.len() + 1);
        block.truncate(4096);
        w.store.volume(disk).unwrap().write_at(&block, offset).unwrap();
    };
    write(&disk, "first of all", 0);
    write(&disk, "shared by two", 1 << 20);
    let one = w.snapshot(&me, &disk, "one");
    write(&disk, "only of two", 0);
    let two = w.snapshot(&me, &disk, "two");
    write(&disk, "of the disk", 0);
    w.fill(&other, 1);
    let sound = w.snapshot(&me, &other, "sound");
    w.store.checkpoint().unwrap();
    let states = |service: &SnapshotService| -> Vec<String> {
        let params = snapdisk::api::Params::from_pairs([("Region", "cn")]).unwrap();
        let infos = service.call(&me, "DescribeSnapshot", &params)["Infos"].clone();
        infos.as_array().unwrap().iter().map(|i| i["SnapshotStatus"].as_str().unwrap().to_owned()).collect()
    };
    let report = w.service.scrub(&mut |_| true).unwrap();
    assert_eq!((report.snapshots, report.damaged.len(), report.healed.len()), (3, 0, 0));
    assert!(report.blocks >= 6);

    let at = damage(&backend, b"first of all");
    let report = w.service.scrub(&mut |_| true).unwrap();
    assert_eq!((report.damaged.len(), report.damaged[0].offset), (1, 0));
    assert_eq!(states(&w.service), ["Failure", "Normal", "Normal"]);
    assert_eq!(states(&w.again()), ["Failure", "Normal", "Normal"], "it is kept in the catalog");
    let cn = ("Region", "cn");
    assert_eq!(w.code(&me, "RollbackSnapshot", &[cn, ("DiskID", &disk), ("SnapshotID", &one)]), 7001);
    assert_eq!(w.code(&me, "CreateDiskFromSnapshot", &[cn, ("SrcSnapshotID", &one), ("Name", "n")]), 7001);
    assert_eq!(w.code(&me, "RollbackSnapshot", &[cn, ("DiskID", &disk), ("SnapshotID", &two)]), 0);

    // The medium gives the right bytes again.
    damage(&backend, b"first of all");
    assert_eq!(w.service.scrub(&mut |_| true).unwrap().healed.len(), 1);
    assert_eq!(states(&w.service), ["Normal"; 3]);

    // What two snapshots share damages both; such a snapshot can be deleted.
    damage(&backend, b"shared by two");
    assert_eq!(w.service.scrub(&mut |_| true).unwrap().damaged.len(), 2);
    assert_eq!(states(&w.service), ["Failure", "Failure", "Normal"]);
    assert_eq!(w.code(&me, "DeleteSnapshot", &[cn, ("SnapshotID", &one)]), 0);
    assert_eq!(w.names(&me, &[]), ["two", "sound"]);
    assert_eq!(w.code(&me, "RollbackSnapshot", &[cn, ("DiskID", &other), ("SnapshotID", &sound)]), 0);
    assert!(at > 0);
}

#[test]
fn a_scrub_can_be_stopped_and_only_looks_where_it_may_not_write() {
    let backend = Arc::new(MemoryBackend::new());
    let w = World::over(backend.clone());
    let me = main_account();
    let disk = w.disk(&me);
    let bytes: Vec<u8> = (0..4_u32 << 20).map(|i| (i / 4096) as u8 ^ i as u8).collect();
    w.store.volume(&disk).unwrap().write_at(&bytes, 0).unwrap();
    w.snapshot(&me, &disk, "s");
    let mut calls = 0;
    let stopped = w.service.scrub(&mut |p| {
        calls += 1;
        assert!(p.done <= p.total);
        calls < 3
    });
    assert_eq!((stopped.unwrap_err().kind(), calls), (ErrorKind::Cancelled, 3));
    w.store.clone().close().unwrap();
    damage(&backend, &bytes[8192..8300]);
    let before = backend.to_bytes();
    let store = Options::new().open_read_only_on(backend.clone(), w.clock.clone()).unwrap();
    let report = store.scrub(&mut |_| true).unwrap();
    assert_eq!((report.damaged.len(), report.damaged[0].offset), (1, 8192));
    assert!(backend.to_bytes() == before);
}
