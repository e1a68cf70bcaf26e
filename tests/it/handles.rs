//! Every public method of a store and of its handles, against handles of another store, a closed store, deleted objects, a store that is
//! open for reading, and a forked child. A method that is not in the table fails the test.

use crate::forked::Memory;
use snapdisk::{
    AttachedVolume, DeleteSnapshots, Diff, DiffBase, ErrorKind, Extents, NewOptions, Options, ReadDisk, Result,
    Snapshot, Store, Volume, io::SystemHost,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{IoSlice, IoSliceMut},
    path::Path,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

/// What the methods are called on and with.
struct Case {
    store: Store,
    /// A live volume of `store`.
    own: Volume,
    /// What the situation is about; of `store` in all but the first.
    volume: Volume,
    snapshot: Snapshot,
    /// Of `volume`'s store, attached while it was whole.
    attached: AttachedVolume,
}

fn options() -> Options {
    Options::new().log_bytes(1 << 20).manual_maintenance(true)
}

fn furnished(memory: &Arc<Memory>) -> Case {
    let store = options().create_on(memory.clone(), Arc::new(SystemHost)).unwrap();
    let own = store.create_volume("own", 1 << 20).unwrap();
    let volume = store.create_volume("volume", 1 << 20).unwrap();
    volume.write_at(&[1; 10_000], 0).unwrap();
    volume.snapshot("kept").unwrap();
    let snapshot = own.snapshot("snapshot").unwrap();
    let attached = store.create_volume("attached", 1 << 20).unwrap().attach().unwrap();
    Case { store, own, volume, snapshot, attached }
}

/// The columns of the table, in order.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Situation {
    OtherStore,
    Closed,
    Deleted,
    ReadOnly,
    Child,
}
const SITUATIONS: [Situation; 5] =
    [Situation::OtherStore, Situation::Closed, Situation::Deleted, Situation::ReadOnly, Situation::Child];

fn case(situation: Situation, memory: &Arc<Memory>) -> Case {
    let mut case = furnished(memory);
    match situation {
        Situation::OtherStore => {
            let other = furnished(&Arc::default());
            (case.volume, case.snapshot, case.attached) = (other.volume, other.snapshot, other.attached);
        }
        Situation::Closed => case.store.clone().close().unwrap(),
        Situation::Deleted => {
            case.store.delete_volume(&case.volume, DeleteSnapshots::Keep).unwrap();
            case.store.delete_snapshot(&case.snapshot).unwrap();
            case.attached.volume().forced().delete(DeleteSnapshots::Keep).unwrap();
        }
        Situation::ReadOnly => {
            case.store.close().unwrap();
            let store = options().open_read_only_on(memory.clone(), Arc::new(SystemHost)).unwrap();
            let (own, volume) = (store.volume("own").unwrap(), store.volume("volume").unwrap());
            let snapshot = own.snapshot_named("snapshot").unwrap();
            let attached = store.volume("attached").unwrap().attach().unwrap();
            case = Case { store, own, volume, snapshot, attached };
        }
        Situation::Child => memory.child.store(true, SeqCst),
    }
    case
}

const OK: Option<ErrorKind> = None;
const INV: Option<ErrorKind> = Some(ErrorKind::Invalid);
const CLO: Option<ErrorKind> = Some(ErrorKind::Closed);
const DEL: Option<ErrorKind> = Some(ErrorKind::Deleted);
const RDO: Option<ErrorKind> = Some(ErrorKind::ReadOnly);
const CHI: Option<ErrorKind> = Some(ErrorKind::WrongProcess);

type Call = fn(&Case) -> Result<()>;
type Row = (&'static str, Call, [Option<ErrorKind>; 5]);

fn each(diff: Result<Diff>) -> Result<()> {
    diff?.try_for_each(done)
}
fn done<T>(result: Result<T>) -> Result<()> {
    result.map(drop)
}
fn walk(mut extents: Extents<'_>) -> Result<()> {
    extents.try_for_each(done)
}
fn fact<T>(_: T) -> Result<()> {
    Ok(())
}
fn tags() -> BTreeMap<String, String> {
    BTreeMap::from([("key".to_owned(), "value".to_owned())])
}
fn new() -> NewOptions {
    NewOptions::new().tags(tags())
}

#[rustfmt::skip]
#[allow(clippy::unit_arg, reason = "operations of an update return nothing")]
const TABLE: &[Row] = &[
    // method, call                                                                            other store, closed, deleted, read-only, child
    ("Store::create_volume", |c| done(c.store.create_volume("new", 512)),                      [OK, CLO, OK, RDO, CHI]),
    ("Store::create_volume_with", |c| done(c.store.create_volume_with("new", 512, new())),     [OK, CLO, OK, RDO, CHI]),
    ("Store::volume", |c| done(c.store.volume("own")),                                         [OK, CLO, OK, OK, CHI]),
    ("Store::volume_by_id", |c| done(c.store.volume_by_id(c.volume.id())),                     [OK, CLO, DEL, OK, CHI]),
    ("Store::volumes", |c| done(c.store.volumes()),                                            [OK, CLO, OK, OK, CHI]),
    ("Store::volumes_page", |c| done(c.store.volumes_page(None, 1)),                           [OK, CLO, OK, OK, CHI]),
    ("Store::snapshot", |c| done(c.store.snapshot(&c.volume, "new")),                          [INV, CLO, DEL, RDO, CHI]),
    ("Store::snapshot_with", |c| done(c.store.snapshot_with(&c.volume, "new", new())),         [INV, CLO, DEL, RDO, CHI]),
    ("Store::snapshot_group", |c| done(c.store.snapshot_group(&[(&c.own, "new"), (&c.volume, "new")])),
                                                                                               [INV, CLO, DEL, RDO, CHI]),
    ("Store::snapshot_group_with", |c| done(c.store.snapshot_group_with(&[(&c.own, "new"), (&c.volume, "new")], new())),
                                                                                               [INV, CLO, DEL, RDO, CHI]),
    ("Store::snapshots", |c| done(c.store.snapshots()),                                        [OK, CLO, OK, OK, CHI]),
    ("Store::snapshots_page", |c| done(c.store.snapshots_page(None, 1)),                       [OK, CLO, OK, OK, CHI]),
    ("Store::snapshot_by_id", |c| done(c.store.snapshot_by_id(c.snapshot.id())),               [OK, CLO, DEL, OK, CHI]),
    ("Store::clone_volume", |c| done(c.store.clone_volume(&c.snapshot, "new")),                [INV, CLO, DEL, RDO, CHI]),
    ("Store::clone_volume_with", |c| done(c.store.clone_volume_with(&c.snapshot, "new", new())), [INV, CLO, DEL, RDO, CHI]),
    ("Store::delete_volume", |c| c.store.delete_volume(&c.volume, DeleteSnapshots::Delete),    [INV, CLO, DEL, RDO, CHI]),
    ("Store::delete_snapshot", |c| c.store.delete_snapshot(&c.snapshot),                       [INV, CLO, DEL, RDO, CHI]),
    ("Store::rename", |c| c.store.rename(&c.volume, "new"),                                    [INV, CLO, DEL, RDO, CHI]),
    ("Store::rename_snapshot", |c| c.store.rename_snapshot(&c.snapshot, "new"),                [INV, CLO, DEL, RDO, CHI]),
    ("Store::update", |c| c.store.update(|_| Ok(())),                                          [OK, CLO, OK, RDO, CHI]),
    ("Store::check", |c| done(c.store.check()),                                                [OK, CLO, OK, OK, CHI]),
    ("Store::check_with", |c| done(c.store.check_with(&mut |_| true)),                         [OK, CLO, OK, OK, CHI]),
    ("Store::scrub", |c| done(c.store.scrub(&mut |_| true)),                                   [OK, CLO, OK, OK, CHI]),
    ("Store::counters", |c| done(c.store.counters()),                                          [OK, CLO, OK, OK, CHI]),
    ("Store::usage", |c| done(c.store.usage(&c.volume)),                                       [INV, CLO, DEL, OK, CHI]),
    ("Store::usage", |c| done(c.store.usage(&c.snapshot)),                                     [INV, CLO, DEL, OK, CHI]),
    ("Store::usage", |c| done(c.store.usage(c.volume.id())),                                   [OK, CLO, DEL, OK, CHI]),
    ("Store::usage", |c| done(c.store.usage(c.snapshot.id())),                                 [OK, CLO, DEL, OK, CHI]),
    ("Store::diff", |c| each(c.store.diff(&c.snapshot, &c.volume)),                            [INV, CLO, DEL, OK, CHI]),
    ("Store::diff", |c| each(c.store.diff(DiffBase::NOTHING, c.volume.id())),                  [OK, CLO, DEL, OK, CHI]),
    ("Store::diff", |c| each(c.store.diff(c.snapshot.id(), c.snapshot.id())),                  [OK, CLO, DEL, OK, CHI]),
    ("Store::usage_all", |c| done(c.store.usage_all()),                                        [OK, CLO, OK, OK, CHI]),
    ("Store::maintain", |c| done(c.store.maintain(1)),                                         [OK, CLO, OK, RDO, CHI]),
    ("Store::checkpoint", |c| c.store.checkpoint(),                                            [OK, CLO, OK, RDO, CHI]),
    ("Store::reclaim_pending", |c| done(c.store.reclaim_pending()),                            [OK, CLO, OK, OK, CHI]),
    ("Store::wait_reclaimed", |c| c.store.wait_reclaimed(),                                    [OK, CLO, OK, RDO, CHI]),
    ("Store::flush", |c| c.store.flush(),                                                      [OK, CLO, OK, RDO, CHI]),
    ("Store::mark", |c| c.store.mark(),                                                        [OK, CLO, OK, RDO, CHI]),
    ("Store::close", |c| c.store.clone().close(),                                              [OK, CLO, OK, OK, CHI]),
    ("Store::background_error", |c| fact(c.store.background_error()),                          [OK, OK, OK, OK, OK]),
    ("Store::is_read_only", |c| fact(c.store.is_read_only()),                                  [OK, OK, OK, OK, OK]),
    ("Store::has_cold_reads", |c| fact(c.store.has_cold_reads()),                              [OK, OK, OK, OK, OK]),

    ("Update::create_volume", |c| c.store.update(|u| done(u.create_volume("new", 512, tags()))), [OK, CLO, OK, RDO, CHI]),
    ("Update::snapshot", |c| c.store.update(|u| done(u.snapshot(&c.volume, "new", tags()))),   [INV, CLO, DEL, RDO, CHI]),
    // Whose error is swallowed: the update is refused all the same.
    ("Update::snapshot", |c| c.store.update(|u| fact(u.snapshot(&c.volume, "new", tags()))),   [INV, CLO, DEL, RDO, CHI]),
    ("Update::rollback", |c| c.store.update(|u| fact(u.rollback(&c.own, &c.snapshot))),        [INV, CLO, DEL, RDO, CHI]),
    ("Update::rollback", |c| c.store.update(|u| fact(u.rollback(&c.volume, c.snapshot.id()))), [INV, CLO, DEL, RDO, CHI]),
    ("Update::clone_volume", |c| c.store.update(|u| done(u.clone_volume(&c.snapshot, "new", tags()))), [INV, CLO, DEL, RDO, CHI]),
    ("Update::clone_volume", |c| c.store.update(|u| fact(u.clone_volume(&c.snapshot, "new", tags()))), [INV, CLO, DEL, RDO, CHI]),
    ("Update::delete_volume", |c| c.store.update(|u| fact(u.delete_volume(&c.volume, DeleteSnapshots::Delete))),
                                                                                               [INV, CLO, DEL, RDO, CHI]),
    ("Update::delete_snapshot", |c| c.store.update(|u| fact(u.delete_snapshot(&c.snapshot))),  [INV, CLO, DEL, RDO, CHI]),
    ("Update::rename", |c| c.store.update(|u| fact(u.rename(&c.volume, "new"))),               [INV, CLO, DEL, RDO, CHI]),
    ("Update::rename_snapshot", |c| c.store.update(|u| fact(u.rename_snapshot(&c.snapshot, "new"))), [INV, CLO, DEL, RDO, CHI]),
    ("Update::resize", |c| c.store.update(|u| fact(u.resize(&c.volume, 512))),                 [INV, CLO, DEL, RDO, CHI]),
    ("Update::set_volume_tags", |c| c.store.update(|u| fact(u.set_volume_tags(&c.volume, tags()))), [INV, CLO, DEL, RDO, CHI]),
    ("Update::set_snapshot_tags", |c| c.store.update(|u| fact(u.set_snapshot_tags(&c.snapshot, tags()))), [INV, CLO, DEL, RDO, CHI]),

    ("Update::force", |c| c.store.update(|u| fact(u.force(&c.volume))),                        [INV, CLO, OK, RDO, CHI]),
    ("Update::hold", |c| c.store.update(|u| fact(u.hold(&c.attached))),                        [INV, CLO, OK, RDO, CHI]),

    ("Volume::id", |c| fact(c.volume.id()),                                                    [OK, OK, OK, OK, OK]),
    ("Volume::name", |c| done(c.volume.name()),                                                [OK, CLO, DEL, OK, CHI]),
    ("Volume::size", |c| done(c.volume.size()),                                                [OK, CLO, DEL, OK, CHI]),
    ("Volume::tags", |c| done(c.volume.tags()),                                                [OK, CLO, DEL, OK, CHI]),
    ("Volume::set_tags", |c| c.volume.set_tags(tags()),                                        [OK, CLO, DEL, RDO, CHI]),
    ("Volume::created", |c| done(c.volume.created()),                                          [OK, CLO, DEL, OK, CHI]),
    ("Volume::parent", |c| done(c.volume.parent()),                                            [OK, CLO, DEL, OK, CHI]),
    ("Volume::read_at", |c| c.volume.read_at(&mut [0; 10], 0),                                 [OK, CLO, DEL, OK, CHI]),
    ("Volume::read_at", |c| c.volume.read_at(&mut [], 0),                                      [OK, CLO, DEL, OK, CHI]),
    ("Volume::read_vectored_at", |c| c.volume.read_vectored_at(&mut [IoSliceMut::new(&mut [0; 10])], 0), [OK, CLO, DEL, OK, CHI]),
    ("Volume::read_vectored_at", |c| c.volume.read_vectored_at(&mut [], 0),                    [OK, CLO, DEL, OK, CHI]),
    ("Volume::write_at", |c| c.volume.write_at(&[0; 10], 0),                                   [OK, CLO, DEL, RDO, CHI]),
    ("Volume::write_at", |c| c.volume.write_at(&[], 0),                                        [OK, CLO, DEL, RDO, CHI]),
    ("Volume::write_fua_at", |c| c.volume.write_fua_at(&[0; 10], 0),                           [OK, CLO, DEL, RDO, CHI]),
    ("Volume::write_vectored_at", |c| c.volume.write_vectored_at(&[IoSlice::new(&[0; 10])], 0), [OK, CLO, DEL, RDO, CHI]),
    ("Volume::write_vectored_at", |c| c.volume.write_vectored_at(&[], 0),                      [OK, CLO, DEL, RDO, CHI]),
    ("Volume::discard", |c| c.volume.discard(0, 8192),                                         [OK, CLO, DEL, RDO, CHI]),
    ("Volume::discard", |c| c.volume.discard(0, 0),                                            [OK, CLO, DEL, RDO, CHI]),
    ("Volume::write_zeroes", |c| c.volume.write_zeroes(0, 8192),                               [OK, CLO, DEL, RDO, CHI]),
    ("Volume::extents", |c| walk(c.volume.extents(0..1 << 20)),                                [OK, CLO, DEL, OK, CHI]),
    ("Volume::extents_page", |c| done(c.volume.extents_page(0..512, 1)),                       [OK, CLO, DEL, OK, CHI]),
    ("Volume::extents", |c| walk(c.volume.extents(0..0)),                                      [OK, CLO, DEL, OK, CHI]),
    ("Volume::counters", |c| done(c.volume.counters()),                                        [OK, CLO, DEL, OK, CHI]),
    ("Volume::preferred_io_size", |c| fact(c.volume.preferred_io_size()),                      [OK, OK, OK, OK, OK]),
    ("Volume::discard_granularity", |c| fact(c.volume.discard_granularity()),                  [OK, OK, OK, OK, OK]),
    ("Volume::atomic_write_max", |c| fact(c.volume.atomic_write_max()),                        [OK, OK, OK, OK, OK]),
    ("Volume::flush", |c| c.volume.flush(),                                                    [OK, CLO, DEL, RDO, CHI]),
    ("Volume::resize", |c| c.volume.resize(512),                                               [OK, CLO, DEL, RDO, CHI]),
    ("Volume::snapshot", |c| done(c.volume.snapshot("new")),                                   [OK, CLO, DEL, RDO, CHI]),
    ("Volume::snapshot_named", |c| done(c.volume.snapshot_named("kept")),                      [OK, CLO, DEL, OK, CHI]),
    ("Volume::snapshots", |c| done(c.volume.snapshots()),                                      [OK, CLO, DEL, OK, CHI]),
    ("Volume::rollback", |c| c.own.rollback(&c.snapshot),                                      [INV, CLO, DEL, RDO, CHI]),
    ("Volume::rollback", |c| c.volume.rollback(&c.own.snapshot("new")?),                       [INV, CLO, DEL, RDO, CHI]),
    ("Volume::rollback_keep_size", |c| c.own.rollback_keep_size(&c.snapshot),                  [INV, CLO, DEL, RDO, CHI]),
    ("Volume::attach", |c| done(c.volume.attach()),                                            [OK, CLO, DEL, OK, CHI]),
    ("Volume::forced", |c| fact(c.volume.forced()),                                            [OK, OK, OK, OK, OK]),

    ("Forced::rollback", |c| c.own.forced().rollback(&c.snapshot),                             [INV, CLO, DEL, RDO, CHI]),
    ("Forced::rollback_keep_size", |c| c.own.forced().rollback_keep_size(&c.snapshot),         [INV, CLO, DEL, RDO, CHI]),
    ("Forced::resize", |c| c.volume.forced().resize(512),                                      [OK, CLO, DEL, RDO, CHI]),
    ("Forced::delete", |c| c.volume.forced().delete(DeleteSnapshots::Keep),                    [OK, CLO, DEL, RDO, CHI]),

    ("AttachedVolume::id", |c| fact(c.attached.id()),                                          [OK, OK, OK, OK, OK]),
    ("AttachedVolume::volume", |c| fact(c.attached.volume()),                                  [OK, OK, OK, OK, OK]),
    ("AttachedVolume::generation", |c| fact(c.attached.generation()),                          [OK, OK, OK, OK, OK]),
    ("AttachedVolume::wait_generation", |c| done(c.attached.wait_generation(c.attached.generation(), Duration::ZERO)),[OK, CLO, DEL, OK, CHI]),
    ("AttachedVolume::acknowledge", |c| fact(c.attached.acknowledge(1)),                       [OK, OK, OK, OK, OK]),
    ("AttachedVolume::size", |c| done(c.attached.size()),                                      [OK, CLO, DEL, OK, CHI]),
    ("AttachedVolume::read_at", |c| c.attached.read_at(&mut [0; 10], 0),                       [OK, CLO, DEL, OK, CHI]),
    ("AttachedVolume::read_at", |c| c.attached.read_at(&mut [], 0),                            [OK, CLO, DEL, OK, CHI]),
    ("AttachedVolume::read_vectored_at", |c| c.attached.read_vectored_at(&mut [], 0),          [OK, CLO, DEL, OK, CHI]),
    ("AttachedVolume::extents", |c| walk(c.attached.extents(0..1 << 20)),                      [OK, CLO, DEL, OK, CHI]),
    ("AttachedVolume::extents_page", |c| done(c.attached.extents_page(0..512, 1)),             [OK, CLO, DEL, OK, CHI]),
    ("AttachedVolume::write_at", |c| c.attached.write_at(&[0; 10], 0),                         [OK, CLO, DEL, RDO, CHI]),
    ("AttachedVolume::write_at", |c| c.attached.write_at(&[], 0),                              [OK, CLO, DEL, RDO, CHI]),
    ("AttachedVolume::write_fua_at", |c| c.attached.write_fua_at(&[0; 10], 0),                 [OK, CLO, DEL, RDO, CHI]),
    ("AttachedVolume::write_vectored_at", |c| c.attached.write_vectored_at(&[IoSlice::new(&[0; 10])], 0),[OK, CLO, DEL, RDO, CHI]),
    ("AttachedVolume::write_vectored_at", |c| c.attached.write_vectored_at(&[], 0),            [OK, CLO, DEL, RDO, CHI]),
    ("AttachedVolume::discard", |c| c.attached.discard(0, 8192),                               [OK, CLO, DEL, RDO, CHI]),
    ("AttachedVolume::write_zeroes", |c| c.attached.write_zeroes(0, 8192),                     [OK, CLO, DEL, RDO, CHI]),
    ("AttachedVolume::flush", |c| c.attached.flush(),                                          [OK, CLO, DEL, RDO, CHI]),
    ("AttachedVolume::preferred_io_size", |c| fact(c.attached.preferred_io_size()),            [OK, OK, OK, OK, OK]),
    ("AttachedVolume::discard_granularity", |c| fact(c.attached.discard_granularity()),        [OK, OK, OK, OK, OK]),
    ("AttachedVolume::atomic_write_max", |c| fact(c.attached.atomic_write_max()),              [OK, OK, OK, OK, OK]),
    ("AttachedVolume::rollback", |c| c.own.attach()?.rollback(&c.snapshot),                    [INV, CLO, DEL, RDO, CHI]),
    ("AttachedVolume::rollback_keep_size", |c| c.own.attach()?.rollback_keep_size(&c.snapshot),[INV, CLO, DEL, RDO, CHI]),
    ("AttachedVolume::resize", |c| c.attached.resize(512),                                     [OK, CLO, DEL, RDO, CHI]),
    ("AttachedVolume::delete", |c| c.attached.delete(DeleteSnapshots::Keep),                   [OK, CLO, DEL, RDO, CHI]),
    ("AttachedVolume::detach", |c| c.volume.attach()?.detach(),                                [OK, CLO, DEL, OK, CHI]),

    ("Snapshot::id", |c| fact(c.snapshot.id()),                                                [OK, OK, OK, OK, OK]),
    ("Snapshot::name", |c| done(c.snapshot.name()),                                            [OK, CLO, DEL, OK, CHI]),
    ("Snapshot::volume", |c| fact(c.snapshot.volume()),                                        [OK, OK, OK, OK, OK]),
    ("Snapshot::created", |c| fact(c.snapshot.created()),                                      [OK, OK, OK, OK, OK]),
    ("Snapshot::parent", |c| done(c.snapshot.parent()),                                        [OK, CLO, DEL, OK, CHI]),
    ("Snapshot::size", |c| fact(c.snapshot.size()),                                            [OK, OK, OK, OK, OK]),
    ("Snapshot::tags", |c| done(c.snapshot.tags()),                                            [OK, CLO, DEL, OK, CHI]),
    ("Snapshot::set_tags", |c| c.snapshot.set_tags(tags()),                                    [OK, CLO, DEL, RDO, CHI]),
    ("Snapshot::preferred_io_size", |c| fact(c.snapshot.preferred_io_size()),                  [OK, OK, OK, OK, OK]),
    ("Snapshot::read_at", |c| c.snapshot.read_at(&mut [0; 10], 0),                             [OK, CLO, DEL, OK, CHI]),
    ("Snapshot::read_at", |c| c.snapshot.read_at(&mut [], 0),                                  [OK, CLO, DEL, OK, CHI]),
    ("Snapshot::read_vectored_at", |c| c.snapshot.read_vectored_at(&mut [IoSliceMut::new(&mut [0; 10])], 0), [OK, CLO, DEL, OK, CHI]),
    ("Snapshot::read_vectored_at", |c| c.snapshot.read_vectored_at(&mut [], 0),                [OK, CLO, DEL, OK, CHI]),
    ("Snapshot::extents", |c| walk(c.snapshot.extents(0..1 << 20)),                            [OK, CLO, DEL, OK, CHI]),
    ("Snapshot::extents_page", |c| done(c.snapshot.extents_page(0..512, 1)),                   [OK, CLO, DEL, OK, CHI]),
    ("Snapshot::size", |c| done(ReadDisk::size(&c.snapshot)),                                  [OK, CLO, DEL, OK, CHI]),
];

#[test]
fn every_method_asks_whose_handle_it_got() {
    let mut bad = Vec::new();
    for (i, (name, call, expected)) in TABLE.iter().enumerate() {
        for (situation, expected) in SITUATIONS.into_iter().zip(*expected) {
            let memory = Arc::new(Memory::default());
            let case = case(situation, &memory);
            let got = call(&case).err().map(|e| e.kind());
            if got != expected {
                bad.push(format!("{name} (row {i}) with {situation:?}: {got:?}, not {expected:?}"));
            }
            memory.child.store(false, SeqCst);
        }
    }
    assert!(bad.is_empty(), "\n{}\n", bad.join("\n"));
}

/// A refused operation has done nothing: the store of the handle, and the one that was asked, are as they were.
#[test]
fn what_was_refused_left_both_stores_alone() {
    for (name, call, expected) in TABLE.iter().filter(|row| row.2[0].is_some()) {
        let case = case(Situation::OtherStore, &Arc::default());
        let names =
            || (case.store.volumes().unwrap().len(), case.own.snapshots().unwrap().len(), case.own.size().unwrap());
        let made_first = *name == "Volume::rollback";
        let before = names();
        assert_eq!(call(&case).unwrap_err().kind(), expected[0].unwrap());
        assert!(names() == before || made_first, "{name}");
        assert_eq!(
            (case.volume.name().unwrap(), case.volume.size().unwrap()),
            ("volume".to_owned(), 1 << 20),
            "{name}"
        );
        assert_eq!(case.snapshot.name().unwrap(), "snapshot", "{name}");
    }
}

/// The public methods of the types that hold a store, as the sources have them.
fn methods(source: &str, found: &mut BTreeSet<String>) {
    let mut of = None;
    for line in source.lines() {
        if let Some(rest) = line.strip_prefix("impl") {
            let rest =
                if rest.starts_with('<') { rest.split_once("> ").map_or("", |(_, r)| r) } else { rest.trim_start() };
            let name = rest.split(|c: char| !c.is_alphanumeric()).next().unwrap_or("");
            let held = ["Store", "Volume", "AttachedVolume", "Forced", "Snapshot", "Update"].contains(&name);
            of = (held && !rest.contains(" for ")).then_some(name);
        } else if line.starts_with('}') {
            of = None;
        } else if let (Some(of), Some(rest)) = (of, line.strip_prefix("    pub ")) {
            let words = rest.split(['(', '<', ' ']).skip_while(|w| ["const", "async", "unsafe", "fn"].contains(w));
            if rest.contains("fn ") && !rest.starts_with('(') {
                found.extend(words.take(1).map(|name| format!("{of}::{name}")));
            }
        }
    }
}

fn sources(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).unwrap().map(|e| e.unwrap()) {
        match entry.file_type().unwrap().is_dir() {
            true => sources(&entry.path(), found),
            false if entry.path().extension().is_some_and(|e| e == "rs") => {
                methods(&fs::read_to_string(entry.path()).unwrap(), found)
            }
            false => {}
        }
    }
}

#[test]
fn no_public_method_is_left_out_of_the_table() {
    let mut found = BTreeSet::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    let table: BTreeSet<String> = TABLE.iter().map(|row| row.0.to_owned()).collect();
    assert_eq!(found, table);
}

#[test]
fn a_method_without_a_row_is_caught() {
    let mut found = BTreeSet::new();
    let source = "impl Store {\n    fn a() {}\n    pub fn b(&self) {}\n    pub(crate) fn c() {}\n    pub const fn d<T>() {}\n}\n\
                  impl<'a> Update<'a> {\n    pub fn e() {}\n}\nimpl fmt::Debug for Store {\n    pub fn f() {}\n}\nimpl Other {\n    pub fn g() {}\n}\n";
    methods(source, &mut found);
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["Store::b", "Store::d", "Update::e"]);
}
