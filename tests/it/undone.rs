//! An update whose last operation is refused has done none of those before it: not in what is read, not in the counts, not after a crash.

use crate::files::everything;
use snapdisk::{
    BLOCK, DeleteSnapshots, ErrorKind, Knobs, Options, Result, Store, Update,
    io::{MemoryBackend, sim::SimHost},
};
use std::sync::Arc;

const B: u64 = BLOCK as u64;

/// Adds operations of one kind to an update.
type Operations = fn(&mut Update<'_>, &Store) -> Result<()>;

fn operations() -> Vec<(&'static str, Operations)> {
    vec![
        ("create", |u, _| u.create_volume("new", 9 * B, [("a".into(), "b".repeat(2000))].into()).map(drop)),
        ("snapshot", |u, s| u.snapshot(&s.volume("v")?, "s9", [("k".into(), "v".into())].into()).map(drop)),
        ("rollback", |u, s| {
            let v = s.volume("v")?;
            u.rollback(&v, v.snapshot_named("s0")?.id());
            Ok(())
        }),
        ("rollback to what the update took", |u, s| {
            let v = s.volume("v")?;
            let taken = u.snapshot(&v, "s9", Default::default())?;
            u.resize(&v, 300 * B);
            u.rollback(&v, taken);
            Ok(())
        }),
        ("clone", |u, s| {
            u.clone_volume(s.volume("v")?.snapshot_named("s0")?.id(), "copy", Default::default()).map(drop)
        }),
        ("delete with snapshots", |u, s| {
            u.delete_volume(&s.volume("v")?, DeleteSnapshots::Delete);
            Ok(())
        }),
        ("delete and keep", |u, s| {
            u.delete_volume(&s.volume("v")?, DeleteSnapshots::Keep);
            Ok(())
        }),
        ("delete a snapshot", |u, s| {
            u.delete_snapshot(s.volume("v")?.snapshot_named("s0")?.id());
            Ok(())
        }),
        ("rename", |u, s| {
            u.rename(&s.volume("v")?, "w");
            u.rename_snapshot(s.volume("v")?.snapshot_named("s0")?.id(), "t0");
            Ok(())
        }),
        ("shrink inside a block", |u, s| {
            u.resize(&s.volume("v")?, 100 * B + 512);
            Ok(())
        }),
        ("shrink far", |u, s| {
            u.resize(&s.volume("v")?, B);
            Ok(())
        }),
        ("tags", |u, s| {
            let v = s.volume("v")?;
            u.set_volume_tags(&v, [("long".into(), "x".repeat(20_000))].into());
            u.set_snapshot_tags(v.snapshot_named("s0")?.id(), Default::default());
            Ok(())
        }),
    ]
}

fn clean(store: &Store, what: &str) {
    let report = store.check().unwrap();
    assert!(report.is_clean(), "{what}: {:#?}", report.findings);
}

#[test]
fn an_update_that_is_refused_has_done_nothing() {
    for fanout in [4, usize::MAX] {
        let knobs = Knobs { fanout, span: 64, index_fanout: 8, log_pages: 64, direct: 4, ..Knobs::default() };
        let options = Options::new().memory(1 << 20).manual_maintenance(true).knobs(knobs);
        let (backend, host) = (Arc::new(MemoryBackend::new()), Arc::new(SimHost::new(7)));
        let mut store = options.create_on(backend.clone(), host.clone()).unwrap();
        let v = store.create_volume("v", 200 * B + 1024).unwrap();
        for i in 0..60 {
            v.write_at(&[i as u8 + 1; 3000], i * 3 * B + 17).unwrap();
        }
        v.snapshot("s0").unwrap().set_tags([("one".into(), "1".into())].into()).unwrap();
        v.write_at(&[99; 5 * BLOCK], 40 * B).unwrap();
        v.snapshot("s1").unwrap();
        drop(v);
        for (what, add) in operations() {
            // Both in the generation that has made everything and in one that finds it on the disk.
            for cold in [false, true] {
                if cold {
                    store.checkpoint().unwrap();
                    drop(store);
                    store = options.open_on(backend.clone(), host.clone()).unwrap();
                }
                let before = everything(&store);
                let e = store.update(|u| {
                    add(u, &store)?;
                    u.create_volume("v", B, Default::default())?;
                    // Where the volume has another name or is gone, something else is refused.
                    u.create_volume("twice", B, Default::default())?;
                    u.create_volume("twice", B, Default::default()).map(drop)
                });
                assert_eq!(e.unwrap_err().kind(), ErrorKind::Exists, "{what}");
                assert!(everything(&store) == before, "{what}: something is there");
                clean(&store, what);
                // The next record is the only one.
                store.update(|u| u.create_volume("after", B, Default::default()).map(drop)).unwrap();
                store.delete_volume(&store.volume("after").unwrap(), DeleteSnapshots::Refuse).unwrap();
                drop(store);
                store = options.open_on(backend.clone(), host.clone()).unwrap();
                assert!(everything(&store) == before, "{what}: something is there after a crash");
                clean(&store, what);
            }
        }
        store.wait_reclaimed().unwrap();
        clean(&store, "reclaimed");
        store.close().unwrap();
    }
}
