//! Background work: what a failure in it stops and what it does not, and what an idle store costs.

use snapdisk::{
    BLOCK, DeleteSnapshots, ErrorKind, Knobs, Options, Store,
    io::{
        Backend, Lane,
        sim::{Call, EIO, ENOSPC, Ev, Fault, How, Image, SimBackend, SimHost},
    },
};
use std::{collections::BTreeMap, sync::Arc, thread, time::Duration};

const B: u64 = BLOCK as u64;

fn options() -> Options {
    Options::new().log_bytes(1 << 20).manual_maintenance(true).knobs(Knobs { fanout: 4, growth: 1, ..Knobs::default() })
}

fn open(image: Image) -> (Arc<SimBackend>, Store) {
    let disk = Arc::new(SimBackend::of(image));
    let store = options().open_on(disk.clone(), Arc::new(SimHost::new(4))).unwrap();
    (disk, store)
}

/// A closed image with dropped subtrees and a deleted volume whose snapshots are still to be removed.
fn with_things_to_reclaim() -> Image {
    let disk = Arc::new(SimBackend::new());
    let store = options().create_on(disk.clone(), Arc::new(SimHost::new(3))).unwrap();
    for name in ["stays", "goes"] {
        let v = store.create_volume(name, 64 * B).unwrap();
        for round in 1..4 {
            (0..64).step_by(2).for_each(|i| v.write_at(&[round; BLOCK], i * B).unwrap());
            v.snapshot(&format!("s{round}")).unwrap();
        }
    }
    let stays = store.volume("stays").unwrap();
    store.checkpoint().unwrap();
    store.delete_snapshot(&stays.snapshot_named("s1").unwrap()).unwrap();
    store.delete_snapshot(&stays.snapshot_named("s3").unwrap()).unwrap();
    store.delete_volume(&store.volume("goes").unwrap(), DeleteSnapshots::Delete).unwrap();
    store.close().unwrap();
    disk.live()
}

/// What has changed nothing poisons nothing: whichever read fails, the store goes on, tells it, and reclaims the rest later.
#[test]
fn a_failed_read_of_reclaim_is_told_and_tried_again() {
    let image = with_things_to_reclaim();
    let mut told = 0;
    for nth in 0.. {
        let (disk, store) = open(image.clone());
        let v = store.volume("stays").unwrap();
        disk.set_faults(vec![Fault { call: Call::Read, nth, how: How::Errno(EIO), sticky: false }]);
        store.wait_reclaimed().unwrap_or_else(|e| panic!("read {nth}: {e}"));
        let hit = disk.counts().faults_hit > 0;
        disk.set_faults(Vec::new());
        told += usize::from(store.background_error().is_some_and(|e| e.kind() == ErrorKind::Io));
        v.write_at(&[9; BLOCK], B).unwrap();
        store.wait_reclaimed().unwrap();
        assert_eq!(store.counters().unwrap().reclaim_entries, 0, "read {nth}");
        assert_eq!(store.snapshots().unwrap().len(), 1, "read {nth}");
        let report = store.check().unwrap();
        assert!(report.is_clean(), "read {nth}: {:#?}", report.findings);
        if !hit {
            break;
        }
    }
    assert!(told > 3, "only {told} reads were reclaim's");
}

/// Entries that can't be read stay, and stop none of the others.
#[test]
fn damaged_entries_do_not_stop_reclaim() {
    const DAMAGED: u64 = 70;
    let disk = Arc::new(SimBackend::new());
    let store = options().create_on(disk.clone(), Arc::new(SimHost::new(3))).unwrap();
    let names: Vec<String> = std::iter::once("sound".to_owned()).chain((0..DAMAGED).map(|i| format!("v{i}"))).collect();
    for name in &names {
        let v = store.create_volume(name, 100 * B).unwrap();
        v.write_at(&[1; BLOCK], if name == "sound" { 77 * B } else { 5 * B }).unwrap();
    }
    store.checkpoint().unwrap();
    // The list is worked off from its newest end: the sound one comes last.
    for name in &names {
        store.delete_volume(&store.volume(name).unwrap(), DeleteSnapshots::Refuse).unwrap();
    }
    store.close().unwrap();
    let mut bytes = disk.live().to_bytes();
    let mut damaged = 0;
    for page in bytes.chunks_mut(BLOCK) {
        // An extent leaf whose first extent lies at logical block 5.
        if page[4] == 2 && page[5] == 0 && page[64..72] == 5u64.to_le_bytes() {
            page[200] ^= 1;
            damaged += 1;
        }
    }
    assert!(damaged >= DAMAGED, "{damaged}");
    let (_, store) = open(Image::from_bytes(&bytes));
    store.wait_reclaimed().unwrap();
    assert_eq!(store.counters().unwrap().reclaim_entries, DAMAGED);
    assert_eq!(store.background_error().unwrap().kind(), ErrorKind::Corrupt);
    store.create_volume("new", B).unwrap();
    store.close().unwrap();
}

/// Once the last group is marked nothing wakes the store any more, until there is something to do.
#[test]
fn an_idle_store_sleeps() {
    let disk = Arc::new(SimBackend::new());
    let store = Options::new().log_bytes(1 << 20).create_on(disk, Arc::new(SimHost::new(3))).unwrap();
    let v = store.create_volume("v", 64 * B).unwrap();
    let wakeups = || store.counters().unwrap().wakeups;
    let sleeps = || {
        // A loaded machine may be late to fall asleep; one that wakes for ever never passes.
        (0..100).any(|_| {
            let before = wakeups();
            thread::sleep(Duration::from_millis(250));
            wakeups() == before
        })
    };
    v.write_at(&[1; BLOCK], 0).unwrap();
    v.flush().unwrap();
    assert!(sleeps(), "woken {} times, and still awake", wakeups());
    let s = v.snapshot("s").unwrap();
    v.write_at(&[2; BLOCK], 0).unwrap();
    store.delete_snapshot(&s).unwrap();
    while store.counters().unwrap().reclaim_entries > 0 {
        thread::sleep(Duration::from_millis(5));
    }
    assert!(sleeps());
}

/// On a host whose fresh space is weak nothing goes where nothing was: each page was written, and that synced, before anything is put
/// there, and again after it was given back.
#[test]
fn fresh_space_is_written_before_it_is_used() {
    let used_before_it_was_written = |write_fresh: bool| {
        let disk = Arc::new(SimBackend::new());
        disk.set_fresh_weak(true);
        disk.start_trace();
        let knobs = Knobs { log_pages: 8, span: 64, growth: 1, ..Knobs::default() };
        let options = Options::new().manual_maintenance(true).punch_from(Some(4 * B)).write_fresh_space(write_fresh);
        let store = options.knobs(knobs).create_on(disk.clone(), Arc::new(SimHost::new(3))).unwrap();
        let v = store.create_volume("v", 512 * B).unwrap();
        for round in 1..6 {
            (0..40).for_each(|i| v.write_at(&[round; 8 * BLOCK], i * 8 * B).unwrap());
            v.flush().unwrap();
            v.discard(0, 512 * B).unwrap();
            store.wait_reclaimed().unwrap();
            store.checkpoint().unwrap();
        }
        assert_eq!(store.counters().unwrap().fresh_written_bytes > 0, write_fresh);
        let trace = disk.take_trace();
        let punches = trace.events.iter().filter(|e| matches!(e, Ev::Punch { .. })).count();
        assert!(punches > 0, "nothing was given back");
        // By page: when it was written since it was given last, and whether a sync that began after that has ended.
        let mut pages: BTreeMap<u64, (usize, bool)> = BTreeMap::new();
        let mut begun = BTreeMap::new();
        let mut early = 0;
        for (now, ev) in trace.events.iter().enumerate() {
            match ev {
                Ev::Write { off, data } => {
                    for (page, data) in (off / B..).zip(data.chunks(BLOCK)).filter(|(page, _)| *page >= 32 + 8) {
                        let is_data = data.iter().any(|&b| b != 0);
                        early += usize::from(is_data && !pages.get(&page).is_some_and(|p| p.1));
                        pages.entry(page).or_insert((now, false));
                    }
                }
                Ev::Punch { off, len } => {
                    pages.retain(|page, _| !(off / B..(off + len) / B).contains(page));
                }
                Ev::SyncBegin { id, .. } => {
                    begun.insert(*id, now);
                }
                Ev::SyncEnd { id, ok: true, .. } => {
                    let since = begun[id];
                    pages.values_mut().filter(|p| p.0 < since).for_each(|p| p.1 = true);
                }
                _ => {}
            }
        }
        early
    };
    assert_eq!(used_before_it_was_written(true), 0);
    assert!(used_before_it_was_written(false) > 0, "this test sees nothing");
}

/// A host may need space in order to give some back. That it has none is no failure of the medium.
#[test]
fn a_full_host_that_cant_punch_harms_nothing() {
    for (code, poisons) in [(ENOSPC, false), (EIO, true)] {
        let disk = Arc::new(SimBackend::new());
        let options = options().punch_from(Some(4 * B)).slack(0);
        let store = options.create_on(disk.clone(), Arc::new(SimHost::new(3))).unwrap();
        let v = store.create_volume("v", 4096 * B).unwrap();
        (0..64).for_each(|i| v.write_at(&[1; 64 * BLOCK], i * 64 * B).unwrap());
        store.checkpoint().unwrap();
        v.discard(0, 4096 * B).unwrap();
        disk.set_faults(vec![Fault { call: Call::Punch, nth: 0, how: How::Errno(code), sticky: true }]);
        let outcome = (0..4).try_for_each(|_| {
            store.wait_reclaimed()?;
            v.write_at(&[2; BLOCK], 0)?;
            store.checkpoint()
        });
        assert!(disk.counts().faults_hit > 0);
        assert_eq!((outcome.is_err(), v.write_at(&[3; BLOCK], 0).is_err()), (poisons, poisons), "{outcome:?}");
    }
}

/// A flush beside a checkpoint waits for its own data: neither what is in the log nor what is written beside it has the checkpoint's pages
/// synced as well, although these were written before.
#[test]
fn a_flush_beside_a_checkpoint_syncs_its_own_data_only() {
    for blocks in [1, 9] {
        let disk = Arc::new(SimBackend::new());
        let store = options().create_on(disk.clone(), Arc::new(SimHost::new(3))).unwrap();
        let v = store.create_volume("v", 64 * B).unwrap();
        (0..64).for_each(|i| v.write_at(&[1; BLOCK], i * B).unwrap());
        store.checkpoint().unwrap();
        (0..64).step_by(2).for_each(|i| v.write_at(&[2; BLOCK], i * B).unwrap());
        let other = v.clone();
        let mut once = false;
        disk.start_trace();
        disk.set_during(Some(Box::new(move |call, _| {
            if call == Call::Push && !std::mem::replace(&mut once, true) {
                (0..blocks).for_each(|i| other.write_at(&[3; BLOCK], (2 * i + 1) * B).unwrap());
                other.flush().unwrap();
            }
        })));
        store.checkpoint().unwrap();
        let trace = disk.take_trace();
        // The first is the checkpoint's own group.
        let beside = trace.events.iter().rev().find_map(|ev| match ev {
            Ev::SyncBegin { lane: Lane::Flush, only, .. } => Some(only.clone()),
            _ => None,
        });
        let only = beside.flatten().expect("a sync of ranges");
        let pages: u64 = only.iter().map(|r| r.end - r.start).sum();
        // Its own page of the log, and what it wrote, in or beside that.
        assert!((blocks + 1..=blocks + 2).contains(&pages), "{only:?}");
    }
}

/// Marking a snapshot as damaged changes one tag. The log has no room for the mark at first; the tags that are set while a checkpoint
/// makes room are not taken back.
#[test]
fn a_scrub_leaves_other_tags_alone() {
    let disk = Arc::new(SimBackend::new());
    let options = options().knobs(Knobs { log_pages: 8, inline: 0, growth: 1, ..Knobs::default() });
    let store = options.create_on(disk.clone(), Arc::new(SimHost::new(3))).unwrap();
    let v = store.create_volume("v", 64 * B).unwrap();
    v.write_at(&[7; BLOCK], 0).unwrap();
    let s = v.snapshot("s").unwrap();
    let set = |store: &Store, id, key: &str, value: String| {
        store.update(|tx| {
            tx.set_snapshot_tags(id, BTreeMap::from([(key.to_owned(), value)]));
            Ok(())
        })
    };
    // Two pages of the log.
    set(&store, s.id(), "old", "x".repeat(5000)).unwrap();
    store.checkpoint().unwrap();
    let at = disk.live().to_bytes().chunks(BLOCK).position(|b| b == [7; BLOCK]).unwrap() as u64 * B;
    disk.write_at(at, &[6]).unwrap();
    for i in 0..6 {
        v.write_at(&[1; BLOCK], i * B).unwrap();
        v.flush().unwrap();
    }
    let mut other = Some((store.clone(), s.id()));
    disk.set_during(Some(Box::new(move |call, lane| {
        if call == Call::Sync
            && lane == Some(Lane::Checkpoint)
            && let Some((store, id)) = other.take()
        {
            set(&store, id, "new", "y".to_owned()).unwrap();
        }
    })));
    let report = store.scrub(&mut |_| true).unwrap();
    assert_eq!(report.damaged.len(), 1);
    let tags: Vec<_> = s.tags().unwrap().into_keys().collect();
    assert_eq!(tags, ["new", snapdisk::DAMAGED]);
}
