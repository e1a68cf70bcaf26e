//! Operations that are refused: each with its kind, and without a trace.

use super::{everything, furnish, image, kind, options, seen};
use snapdisk::{
    ATOMIC_WRITE_MAX, BLOCK, DeleteSnapshots, Error, ErrorKind, NewOptions, Result, SnapshotId, Store, VOLUME_MAX,
    Volume, VolumeId,
    io::sim::{SimBackend, SimHost},
};
use std::{
    collections::BTreeMap,
    io::{IoSlice, IoSliceMut},
    sync::Arc,
};
use tempfile::TempDir;

/// Runs what must be refused: with this kind, and without a trace.
fn refuses<T>(store: &Store, expected: ErrorKind, what: &str, f: impl FnOnce() -> Result<T>) {
    let state = |s: &Store| {
        let now = s.counters().unwrap();
        let figures =
            (now.log_used_blocks, now.backend_written_bytes, now.syncs, now.nodes_shadowed, now.waiting_bytes);
        (everything(s), figures)
    };
    let before = state(store);
    match f() {
        Ok(_) => panic!("{what}: not refused"),
        Err(e) => {
            assert_eq!(e.kind(), expected, "{what}: {e}");
            assert!(!e.to_string().is_empty());
        }
    }
    assert!(state(store) == before, "{what}: something changed");
}

const BAD_NAMES: [&str; 11] = ["", ".", "..", ".a", "-a", "a/b", "a b", "a@b", "\u{e9}", "a\0", "a\n"];

fn quiet(dir: &TempDir) -> Store {
    let store = options().manual_maintenance(true).create(dir.path().join("quiet")).unwrap();
    furnish(&store);
    store
}

#[test]
fn bad_names_and_sizes_are_refused() {
    use ErrorKind::{Exists, Invalid, NotFound};
    let dir = tempfile::tempdir().unwrap();
    let store = &quiet(&dir);
    let (a, b) = (&store.volume("a").unwrap(), &store.volume("b").unwrap());
    let s = &a.snapshot_named("s").unwrap();
    let long = "x".repeat(65);
    for name in BAD_NAMES.into_iter().chain([&*long]) {
        refuses(store, Invalid, "create", || store.create_volume(name, 512));
        refuses(store, Invalid, "snapshot", || a.snapshot(name));
        refuses(store, Invalid, "group", || store.snapshot_group(&[(a, "new"), (b, name)]));
        refuses(store, Invalid, "clone", || store.clone_volume(s, name));
        refuses(store, Invalid, "rename", || store.rename(a, name));
        refuses(store, Invalid, "rename", || store.rename_snapshot(s, name));
        refuses(store, NotFound, "look up", || store.volume(name));
        refuses(store, NotFound, "look up", || a.snapshot_named(name));
    }
    refuses(store, Exists, "create", || store.create_volume("b", 512));
    refuses(store, Exists, "clone", || store.clone_volume(s, "a"));
    refuses(store, Exists, "rename", || store.rename(a, "b"));
    refuses(store, Exists, "snapshot", || a.snapshot("s"));
    refuses(store, Exists, "group", || store.snapshot_group(&[(b, "new"), (a, "s")]));
    refuses(store, NotFound, "look up", || store.volume("d"));
    refuses(store, ErrorKind::Deleted, "look up", || store.volume_by_id(VolumeId(999)));
    refuses(store, ErrorKind::Deleted, "look up", || store.snapshot_by_id(SnapshotId(999)));
    for size in [1, 511, 513, BLOCK as u64 + 1, VOLUME_MAX + 512, u64::MAX, u64::MAX - 511] {
        refuses(store, Invalid, "create", || store.create_volume("new", size));
        refuses(store, Invalid, "resize", || a.resize(size));
    }
    let many: BTreeMap<_, _> = (0..1000).map(|i| (format!("key{i}"), "x".repeat(50))).collect();
    let tagged = || NewOptions::new().tags(many.clone());
    refuses(store, Invalid, "tags", || store.create_volume_with("new", 512, tagged()));
    refuses(store, Invalid, "tags", || store.snapshot_with(a, "new", tagged()));
    refuses(store, Invalid, "tags", || store.clone_volume_with(s, "new", tagged()));
    // What is at the border is taken.
    store.create_volume(&"x".repeat(64), VOLUME_MAX).unwrap();
    store.create_volume("A.-_9", 0).unwrap();
    store.rename(a, "a").unwrap();
    assert!(store.check().unwrap().is_clean());
}

#[test]
fn groups_and_updates_happen_whole_or_not_at_all() {
    use ErrorKind::Invalid;
    let dir = tempfile::tempdir().unwrap();
    let store = &quiet(&dir);
    let (a, b) = (&store.volume("a").unwrap(), &store.volume("b").unwrap());
    let s = &a.snapshot_named("s").unwrap();
    let none = BTreeMap::new;
    refuses(store, Invalid, "an empty group", || store.snapshot_group(&[]));
    refuses(store, Invalid, "a repeated volume", || store.snapshot_group(&[(a, "x"), (b, "x"), (a, "y")]));
    refuses(store, Invalid, "another volume's snapshot", || b.rollback(s));
    refuses(store, Invalid, "another volume's snapshot", || b.rollback_keep_size(s));
    refuses(store, Invalid, "it has snapshots", || store.delete_volume(a, DeleteSnapshots::Refuse));
    refuses(store, ErrorKind::Exists, "an update", || {
        store.update(|u| {
            u.create_volume("new", 512, none())?;
            u.snapshot(a, "new", none())?;
            u.rename(b, "bb");
            u.create_volume("bb", 512, none())
        })
    });
    refuses(store, ErrorKind::Cancelled, "an update given up", || {
        store.update(|u| {
            u.delete_volume(b, DeleteSnapshots::Delete);
            Err::<(), _>(Error::new(ErrorKind::Cancelled, "never mind"))
        })
    });
    let elsewhere = quiet(&tempfile::tempdir().unwrap());
    let foreign = &elsewhere.volume("a").unwrap();
    let theirs = &foreign.snapshot_named("s").unwrap();
    refuses(store, Invalid, "another store's", || store.snapshot(foreign, "x"));
    refuses(store, Invalid, "another store's", || store.snapshot_group(&[(a, "x"), (foreign, "x")]));
    refuses(store, Invalid, "another store's", || store.clone_volume(theirs, "x"));
    refuses(store, Invalid, "another store's", || store.delete_snapshot(theirs));
    refuses(store, Invalid, "another store's", || store.delete_volume(foreign, DeleteSnapshots::Delete));
    refuses(store, Invalid, "another store's", || store.rename(foreign, "x"));
    refuses(store, Invalid, "another store's", || a.rollback(theirs));
    assert!(store.check().unwrap().is_clean());
}

type Io = (&'static str, fn(&Volume, u64, u64) -> Result<()>);
const IO: [Io; 8] = [
    ("read", |v, at, len| v.read_at(&mut vec![0; len as usize], at)),
    ("read_vectored", |v, at, len| {
        let (mut x, mut y) = (vec![0; len as usize / 2], vec![0; (len - len / 2) as usize]);
        v.read_vectored_at(&mut [IoSliceMut::new(&mut x), IoSliceMut::new(&mut y)], at)
    }),
    ("write", |v, at, len| v.write_at(&vec![9; len as usize], at)),
    ("write_fua", |v, at, len| v.write_fua_at(&vec![9; len as usize], at)),
    ("write_vectored", |v, at, len| {
        let (x, y) = (vec![9; len as usize / 2], vec![8; (len - len / 2) as usize]);
        v.write_vectored_at(&[IoSlice::new(&x), IoSlice::new(&y)], at)
    }),
    ("discard", Volume::discard),
    ("write_zeroes", Volume::write_zeroes),
    ("extents", |v, at, len| v.extents(at..at.saturating_add(len)).try_for_each(|e| e.map(drop))),
];

#[test]
fn ranges_past_the_end_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = &quiet(&dir);
    for name in ["a", "c"] {
        let v = &store.volume(name).unwrap();
        let size = v.size().unwrap();
        for (what, io) in IO {
            for (at, len) in [(size, 1), (size + 1, 0), (size - 1, 2), (0, size + 1), (size + (1 << 40), 512)] {
                refuses(store, ErrorKind::OutOfRange, what, || io(v, at, len));
            }
            for at in [u64::MAX, u64::MAX - 511, u64::MAX - BLOCK as u64 + 1, 1 << 63] {
                refuses(store, ErrorKind::OutOfRange, what, || io(v, at, 512));
            }
            // A longer one than is atomic is not begun either.
            let long = 2 * ATOMIC_WRITE_MAX as u64;
            refuses(store, ErrorKind::OutOfRange, what, || io(v, size.saturating_sub(long - 1), long));
            let before = everything(store);
            for at in [0, 1, size / 2, size] {
                io(v, at, 0).unwrap_or_else(|e| panic!("{what} of nothing: {e}"));
            }
            assert!(everything(store) == before, "{what} of nothing changed something");
        }
        for len in [u64::MAX, u64::MAX - size] {
            refuses(store, ErrorKind::OutOfRange, "discard", || v.discard(size / 2, len));
        }
        #[allow(clippy::reversed_empty_ranges, reason = "that is the point")]
        let backwards = v.extents_page(1024..512, 1);
        assert_eq!(kind(backwards), ErrorKind::Invalid);
        let s = &v.snapshot_named("s").unwrap();
        for (at, len) in [(size, 1), (size - 1, 2), (u64::MAX, 1), (u64::MAX - 4095, BLOCK)] {
            refuses(store, ErrorKind::OutOfRange, "snapshot", || s.read_at(&mut vec![0; len], at));
        }
        s.read_at(&mut [], size).unwrap();
    }
}

#[test]
fn handles_of_what_was_deleted_say_so() {
    use ErrorKind::Deleted;
    let dir = tempfile::tempdir().unwrap();
    let store = &quiet(&dir);
    let a = &store.volume("a").unwrap();
    let s = &a.snapshot_named("s").unwrap();
    let again = s.clone();
    let gone = |v: &Volume| {
        for (what, io) in IO {
            for len in [0, 512] {
                refuses(store, Deleted, what, || io(v, 0, len));
            }
        }
        refuses(store, Deleted, "name", || v.name());
        refuses(store, Deleted, "size", || v.size());
        refuses(store, Deleted, "tags", || v.tags());
        refuses(store, Deleted, "parent", || v.parent());
        refuses(store, Deleted, "created", || v.created());
        refuses(store, Deleted, "resize", || v.resize(512));
        refuses(store, Deleted, "snapshot", || v.snapshot("x"));
        refuses(store, Deleted, "snapshots", || v.snapshots());
        refuses(store, Deleted, "rename", || store.rename(v, "x"));
        refuses(store, Deleted, "delete", || store.delete_volume(v, DeleteSnapshots::Keep));
        refuses(store, Deleted, "look up", || store.volume_by_id(v.id()));
    };
    store.delete_volume(a, DeleteSnapshots::Keep).unwrap();
    gone(a);
    refuses(store, Deleted, "rollback", || a.rollback(s));
    // The name is free, the old handle is not of the new volume.
    let new = store.create_volume("a", 512).unwrap();
    gone(a);
    assert_ne!(new.id(), a.id());
    s.read_at(&mut [0; 512], 0).unwrap();
    assert_eq!(s.volume(), a.id());
    store.delete_snapshot(s).unwrap();
    for s in [s, &again] {
        refuses(store, Deleted, "read", || s.read_at(&mut [0; 512], 0));
        refuses(store, Deleted, "read", || s.read_at(&mut [], 0));
        refuses(store, Deleted, "name", || s.name());
        refuses(store, Deleted, "tags", || s.tags());
        refuses(store, Deleted, "extents", || s.extents(0..512).collect::<Result<Vec<_>>>());
        refuses(store, Deleted, "clone", || store.clone_volume(s, "x"));
        refuses(store, Deleted, "delete", || store.delete_snapshot(s));
        refuses(store, Deleted, "rename", || store.rename_snapshot(s, "x"));
    }
    let b = &store.volume("b").unwrap();
    assert_eq!(b.parent().unwrap(), None, "its parent is gone");
    store.wait_reclaimed().unwrap();
    gone(a);
    assert!(store.check().unwrap().is_clean());
}

/// Its name, whether it changes something, and the operation.
type Operation = (&'static str, bool, Box<dyn Fn() -> Result<()>>);

/// Every operation of a store, its volumes and snapshots.
fn every_operation(store: &Store) -> Vec<Operation> {
    let (a, b) = (store.volume("a").unwrap(), store.volume("b").unwrap());
    let s = a.snapshot_named("s").unwrap();
    let mut out: Vec<Operation> = Vec::new();
    macro_rules! op {
        ($name:literal, $changes:literal, |$st:ident, $va:ident, $vb:ident, $sn:ident| $call:expr) => {
            let ($st, $va, $vb, $sn) = (store.clone(), a.clone(), b.clone(), s.clone());
            out.push((
                $name,
                $changes,
                Box::new(move || {
                    let _ = (&$st, &$va, &$vb, &$sn);
                    $call.map(|_| ())
                }),
            ));
        };
    }
    for (name, io) in IO {
        let v = a.clone();
        out.push((name, !matches!(name, "read" | "read_vectored" | "extents"), Box::new(move || io(&v, 0, 512))));
    }
    op!("volume", false, |st, a, b, s| st.volume("a"));
    op!("volumes", false, |st, a, b, s| st.volumes());
    op!("volume_by_id", false, |st, a, b, s| st.volume_by_id(a.id()));
    op!("snapshots", false, |st, a, b, s| st.snapshots());
    op!("snapshot_by_id", false, |st, a, b, s| st.snapshot_by_id(s.id()));
    op!("counters", false, |st, a, b, s| st.counters());
    op!("counters of", false, |st, a, b, s| a.counters());
    op!("usage", false, |st, a, b, s| st.usage(&a));
    op!("usage of a snapshot", false, |st, a, b, s| st.usage(&s));
    op!("usage of all", false, |st, a, b, s| st.usage_all());
    op!("volumes_page", false, |st, a, b, s| st.volumes_page(None, 1));
    op!("snapshots_page", false, |st, a, b, s| st.snapshots_page(None, 1));
    op!("check", false, |st, a, b, s| st.check());
    op!("name", false, |st, a, b, s| a.name());
    op!("size", false, |st, a, b, s| a.size());
    op!("tags", false, |st, a, b, s| a.tags());
    op!("created", false, |st, a, b, s| a.created());
    op!("parent", false, |st, a, b, s| a.parent());
    op!("snapshots of", false, |st, a, b, s| a.snapshots());
    op!("snapshot_named", false, |st, a, b, s| a.snapshot_named("s"));
    op!("snapshot's read", false, |st, a, b, s| s.read_at(&mut [0; 512], 0));
    op!("snapshot's name", false, |st, a, b, s| s.name());
    op!("snapshot's tags", false, |st, a, b, s| s.tags());
    op!("snapshot's parent", false, |st, a, b, s| s.parent());
    op!("snapshot's extents", false, |st, a, b, s| s.extents(0..512).collect::<Result<Vec<_>>>());
    op!("create_volume", true, |st, a, b, s| st.create_volume("x", 512));
    op!("snapshot", true, |st, a, b, s| a.snapshot("x"));
    op!("snapshot_group", true, |st, a, b, s| st.snapshot_group(&[(&a, "y"), (&b, "y")]));
    op!("rollback", true, |st, a, b, s| a.rollback(&s));
    op!("rollback_keep_size", true, |st, a, b, s| a.rollback_keep_size(&s));
    op!("clone", true, |st, a, b, s| st.clone_volume(&s, "y"));
    op!("rename", true, |st, a, b, s| st.rename(&b, "z"));
    op!("rename_snapshot", true, |st, a, b, s| st.rename_snapshot(&s, "z"));
    op!("resize", true, |st, a, b, s| a.resize(512));
    op!("update", true, |st, a, b, s| st.update(|u| {
        u.resize(&a, 1024);
        Ok(())
    }));
    op!("flush", true, |st, a, b, s| a.flush());
    op!("mark", true, |st, a, b, s| st.mark());
    op!("checkpoint", true, |st, a, b, s| st.checkpoint());
    op!("maintain", true, |st, a, b, s| st.maintain(1));
    op!("wait_reclaimed", true, |st, a, b, s| st.wait_reclaimed());
    op!("delete_snapshot", true, |st, a, b, s| st.delete_snapshot(&s));
    op!("delete_volume", true, |st, a, b, s| st.delete_volume(&b, DeleteSnapshots::Delete));
    out
}

#[test]
fn a_closed_store_answers_closed() {
    let dir = tempfile::tempdir().unwrap();
    let path = image(&dir);
    for writable in [true, false] {
        let store = if writable { options().open(&path) } else { options().open_read_only(&path) }.unwrap();
        let ops = every_operation(&store);
        store.clone().close().unwrap();
        let before = seen(&path);
        for (name, _, op) in &ops {
            assert_eq!(kind(op()), ErrorKind::Closed, "{name}, writable: {writable}");
        }
        assert_eq!(kind(store.close()), ErrorKind::Closed);
        assert!(seen(&path) == before);
    }
}

#[test]
fn a_store_for_reading_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = image(&dir);
    let before = seen(&path);
    let store = options().open_read_only(&path).unwrap();
    assert!(store.is_read_only());
    for (name, changes, op) in every_operation(&store) {
        match op() {
            Ok(()) => assert!(!changes, "{name} on a store for reading"),
            Err(e) => assert_eq!((e.kind(), changes), (ErrorKind::ReadOnly, true), "{name}"),
        }
    }
    store.close().unwrap();
    assert!(seen(&path) == before);
}

#[test]
fn a_forked_childs_handles_answer_wrong_process() {
    let (backend, host) = (Arc::new(SimBackend::new()), Arc::new(SimHost::new(1)));
    let store = options().manual_maintenance(true).create_on(backend.clone(), host).unwrap();
    furnish(&store);
    let before = everything(&store);
    let ops = every_operation(&store);
    backend.start_trace();
    backend.set_foreign(true);
    for (name, _, op) in &ops {
        assert_eq!(kind(op()), ErrorKind::WrongProcess, "{name}");
    }
    assert_eq!(kind(store.clone().close()), ErrorKind::WrongProcess);
    assert_eq!(backend.trace_len(), 0);
    backend.set_foreign(false);
    assert!(everything(&store) == before);
    store.close().unwrap();
}
