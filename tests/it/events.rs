//! The hook for events: what it is told, that it may call the store, and that it harms nobody.

use snapdisk::{
    BLOCK, DeleteSnapshots, ErrorKind, Event, Knobs, Options, Store,
    io::{
        Lane,
        sim::{Call, EIO, Fault, Gate, How, SimBackend, SimHost},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
        mpsc,
    },
    thread,
};

const B: u64 = BLOCK as u64;

fn options() -> Options {
    let knobs = Knobs { fanout: 4, growth: 1, ..Knobs::default() };
    Options::new().log_bytes(1 << 20).punch_from(Some(4096)).manual_maintenance(true).knobs(knobs)
}

fn name(event: &Event) -> &'static str {
    match event {
        Event::CheckpointStarted => "started",
        Event::CheckpointFinished { .. } => "finished",
        Event::Reclaimed { .. } => "reclaimed",
        Event::Grown { .. } => "grown",
        Event::Punched { .. } => "punched",
        Event::VolumeChanged { .. } => "changed",
        Event::Poisoned { .. } => "poisoned",
        Event::BackgroundError { .. } => "background error",
        Event::Lost { .. } => "lost",
        _ => "another",
    }
}

/// Events as they come, and a store for the hook.
#[derive(Default)]
struct Log {
    seen: Mutex<Vec<Event>>,
    store: Mutex<Option<Store>>,
}

impl Log {
    /// A store whose hook notes each event and then does `then`.
    fn open(disk: &Arc<SimBackend>, then: impl Fn(&Store) + Send + Sync + 'static) -> (Arc<Log>, Store) {
        let log = Arc::new(Log::default());
        let hook = log.clone();
        let options = options().on_event(move |event| {
            hook.seen.lock().unwrap().push(event.clone());
            let store = hook.store.lock().unwrap().clone();
            store.iter().for_each(&then);
        });
        let store = options.create_on(disk.clone(), Arc::new(SimHost::new(3))).unwrap();
        *log.store.lock().unwrap() = Some(store.clone());
        (log, store)
    }
    fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
    fn names(&self) -> Vec<&'static str> {
        self.take().iter().map(name).collect()
    }
}

/// Does what makes each kind of event but the last ones.
fn use_a_lot(disk: &SimBackend, store: &Store) {
    let volume = store.create_volume("disk", 2048 * B).unwrap();
    volume.write_at(&vec![1; 1024 * BLOCK], 1024 * B).unwrap();
    for round in 1..4 {
        (0..64).step_by(2).for_each(|i| volume.write_at(&[round; BLOCK], i * B).unwrap());
        volume.snapshot(&format!("s{round}")).unwrap();
    }
    let held = volume.attach().unwrap();
    held.resize(2049 * B).unwrap();
    store.checkpoint().unwrap();
    held.delete(DeleteSnapshots::Delete).unwrap();
    // Once per kind of work, a read that fails.
    disk.set_faults(vec![Fault { call: Call::Read, nth: 0, how: How::Errno(EIO), sticky: false }]);
    let _ = store.maintain(1);
    disk.set_faults(Vec::new());
    store.wait_reclaimed().unwrap();
    // Space goes back to the host a checkpoint after the one that says so.
    for i in 0..3 {
        store.create_volume(&format!("v{i}"), B).unwrap();
        store.checkpoint().unwrap();
    }
}

#[test]
fn each_kind_is_told() {
    let disk = Arc::new(SimBackend::new());
    let (log, store) = Log::open(&disk, |_| {});
    // Before anything else, what happened while the image was made.
    store.flush().unwrap();
    assert_eq!(log.names(), ["grown", "started", "finished"]);
    use_a_lot(&disk, &store);
    let events = log.take();
    let names: BTreeSet<_> = events.iter().map(name).collect();
    let expected = ["changed", "finished", "grown", "punched", "reclaimed", "started"];
    assert!(expected.iter().all(|n| names.contains(n)), "{names:?}");
    let sum = |f: fn(&Event) -> u64| events.iter().map(f).sum::<u64>();
    let reclaimed = sum(|e| if let Event::Reclaimed { entries, .. } = e { *entries } else { 0 });
    let pages = sum(|e| if let Event::CheckpointFinished { pages, .. } = e { *pages } else { 0 });
    let punched = sum(|e| if let Event::Punched { bytes, .. } = e { *bytes } else { 0 });
    assert!(reclaimed > 3 && pages > 3 && punched > 0 && punched.is_multiple_of(B), "{reclaimed} {pages} {punched}");
    let changes: Vec<u64> = events
        .iter()
        .filter_map(|e| if let Event::VolumeChanged { generation, .. } = e { Some(*generation) } else { None })
        .collect();
    assert_eq!(changes, [1, 2]);
    // A checkpoint that finds nothing to do is none.
    store.checkpoint().unwrap();
    assert!(log.names().is_empty());
    // Reads deliver nothing and make nothing.
    let volume = store.create_volume("other", B).unwrap();
    volume.write_at(&[1], 0).unwrap();
    log.take();
    disk.set_faults(vec![Fault { call: Call::Sync, nth: 0, how: How::Errno(EIO), sticky: false }]);
    assert_eq!(store.flush().unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(store.flush().unwrap_err().kind(), ErrorKind::Poisoned);
    match &log.take()[..] {
        [Event::Poisoned { cause, .. }] => assert!(cause.to_string().starts_with("sync"), "{cause}"),
        other => panic!("{other:?}"),
    }
    log.store.lock().unwrap().take();
}

#[test]
fn a_failure_of_reclaim_is_told() {
    let mut told = 0;
    for nth in 0..40 {
        let disk = Arc::new(SimBackend::new());
        let (_, store) = Log::open(&disk, |_| {});
        let volume = store.create_volume("disk", 64 * B).unwrap();
        (0..64).step_by(2).for_each(|i| volume.write_at(&[1; BLOCK], i * B).unwrap());
        store.delete_volume(&volume, DeleteSnapshots::Refuse).unwrap();
        store.close().unwrap();
        let log = Arc::new(Log::default());
        let hook = log.clone();
        let options = options().on_event(move |e| hook.seen.lock().unwrap().push(e.clone()));
        let store = options.open_on(disk.clone(), Arc::new(SimHost::new(4))).unwrap();
        disk.set_faults(vec![Fault { call: Call::Read, nth, how: How::Errno(EIO), sticky: false }]);
        let _ = store.wait_reclaimed();
        let noted = log.names().contains(&"background error");
        assert_eq!(noted, store.background_error().is_some(), "read {nth}");
        told += u32::from(noted);
    }
    assert!(told > 0);
}

/// With a lock held any of these would wait for its own thread.
#[test]
fn the_hook_may_call_the_store() {
    let disk = Arc::new(SimBackend::new());
    let rounds = AtomicU64::new(0);
    let (log, store) = Log::open(&disk, move |store| {
        let round = rounds.fetch_add(1, SeqCst);
        let own = store.volume("own").or_else(|_| store.create_volume("own", B)).unwrap();
        own.write_at(&[round as u8], 0).unwrap();
        let mut byte = [0];
        own.read_at(&mut byte, 0).unwrap();
        assert_eq!(byte[0], round as u8);
        store.flush().unwrap();
        assert!(store.check().unwrap().is_clean());
        if round < 20 {
            store.checkpoint().unwrap();
            store.maintain(1).unwrap();
        }
    });
    use_a_lot(&disk, &store);
    assert!(log.names().len() > 20);
    log.store.lock().unwrap().take();
    assert!(store.volume("own").is_ok());
    store.close().unwrap();
}

/// A checkpoint of the background that ends when nobody else does anything is told by a thread of the background.
#[test]
fn the_hook_may_call_a_store_with_threads_too() {
    let (told, events) = mpsc::channel();
    let store = Arc::new(Mutex::new(None::<Store>));
    let hook = store.clone();
    let options = Options::new().log_bytes(1 << 20).on_event(move |event| {
        let store = hook.lock().unwrap().clone();
        if let Some(store) = store {
            store.checkpoint().unwrap();
            store.volume("disk").unwrap().write_fua_at(&[1; 5000], 0).unwrap();
            let _ = told.send((name(event), thread::current().name().map(str::to_owned)));
        }
    });
    let (disk, gate) = (Arc::new(SimBackend::new()), Arc::new(Gate::new()));
    let opened = options.create_on(disk.clone(), Arc::new(SimHost::new(3))).unwrap();
    let volume = opened.create_volume("disk", 1 << 20).unwrap();
    opened.checkpoint().unwrap();
    disk.set_gate(Some(gate.clone()));
    gate.shut(Lane::Checkpoint);
    // Three quarters of the log, a page each, and not all of it.
    (0..200).for_each(|i| volume.set_tags(BTreeMap::from([("n".to_owned(), i.to_string())])).unwrap());
    gate.wait_for(Lane::Checkpoint, 1);
    *store.lock().unwrap() = Some(opened.clone());
    gate.open(Lane::Checkpoint);
    let (_, thread) = events.iter().find(|e| e.0 == "finished").unwrap();
    assert!(thread.as_deref().is_some_and(|name| name.starts_with("snapdisk")), "{thread:?}");
    store.lock().unwrap().take();
    opened.close().unwrap();
}

/// A hook that has the last handle drops it on a thread that ends with it.
#[test]
fn the_hook_may_drop_the_last_handle() {
    let (told, dropped) = mpsc::channel();
    let last = Arc::new(Mutex::new(None::<Store>));
    let hook = last.clone();
    let options = Options::new().log_bytes(1 << 20).on_event(move |_| {
        let store = hook.lock().unwrap().take();
        if store.is_some() {
            drop(store);
            let _ = told.send(thread::current().name().map(str::to_owned));
        }
    });
    let (disk, gate) = (Arc::new(SimBackend::new()), Arc::new(Gate::new()));
    let opened = options.create_on(disk.clone(), Arc::new(SimHost::new(3))).unwrap();
    let volume = opened.create_volume("disk", 1 << 20).unwrap();
    disk.set_gate(Some(gate.clone()));
    gate.shut(Lane::Checkpoint);
    (0..200).for_each(|i| volume.set_tags(BTreeMap::from([("n".to_owned(), i.to_string())])).unwrap());
    gate.wait_for(Lane::Checkpoint, 1);
    drop(volume);
    *last.lock().unwrap() = Some(opened);
    gate.open(Lane::Checkpoint);
    let thread = dropped.recv().unwrap();
    assert!(thread.as_deref().is_some_and(|name| name.starts_with("snapdisk")), "{thread:?}");
    // The threads end, and with them what they have of the store.
    while Arc::strong_count(&disk) > 1 {
        thread::yield_now();
    }
}

#[test]
fn a_panic_in_the_hook_is_its_own() {
    let disk = Arc::new(SimBackend::new());
    let (log, store) = Log::open(&disk, |_| panic!("expected: of the hook"));
    use_a_lot(&disk, &store);
    assert!(log.names().len() > 6);
    let volume = store.create_volume("after", B).unwrap();
    volume.write_at(&[1], 0).unwrap();
    log.store.lock().unwrap().take();
    store.close().unwrap();
}

#[test]
fn events_that_the_hook_is_too_slow_for_are_counted() {
    const MORE: u64 = 100;
    let disk = Arc::new(SimBackend::new());
    let busy = AtomicU64::new(0);
    let (log, store) = Log::open(&disk, move |store| {
        if busy.fetch_add(1, SeqCst) == 0 {
            let held = store.volume("disk").unwrap().attach().unwrap();
            (1..=1024 + MORE).for_each(|n| held.resize((n + 1) * B).unwrap());
        }
    });
    log.store.lock().unwrap().take();
    store.create_volume("disk", B).unwrap();
    log.take();
    *log.store.lock().unwrap() = Some(store.clone());
    let held = store.create_volume("other", B).unwrap().attach().unwrap();
    held.resize(2 * B).unwrap();
    let events = log.take();
    let told: Vec<u64> = events
        .iter()
        .filter_map(|e| if let Event::VolumeChanged { generation, .. } = e { Some(*generation) } else { None })
        .collect();
    let lost: u64 = events.iter().map(|e| if let Event::Lost { events, .. } = e { *events } else { 0 }).sum();
    assert!(told[1..].is_sorted(), "in order");
    assert!(lost >= MORE, "{lost}");
    // Checkpoints that so many operations made are among them.
    let others = events.iter().filter(|e| !matches!(e, Event::VolumeChanged { .. } | Event::Lost { .. })).count();
    assert_eq!(told.len() as u64 + others as u64, 1 + 1024);
    log.store.lock().unwrap().take();
}

#[cfg(feature = "tracing")]
mod tracing {
    use super::*;
    use ::tracing::{
        Level, Metadata, Subscriber,
        field::{Field, Visit},
        span,
    };
    use std::fmt::{Debug, Write};

    /// Keeps the text of what it is told.
    struct Lines(Arc<Mutex<Vec<(Level, String)>>>);

    struct Text(String);

    impl Visit for Text {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            match field.name() {
                "message" => write!(self.0, "{value:?};"),
                name => write!(self.0, " {name}={value:?}"),
            }
            .unwrap();
        }
    }

    impl Subscriber for Lines {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.target() == "snapdisk"
        }
        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }
        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
        fn event(&self, event: &::tracing::Event<'_>) {
            let mut text = Text(String::new());
            event.record(&mut text);
            self.0.lock().unwrap().push((*event.metadata().level(), text.0));
        }
        fn enter(&self, _: &span::Id) {}
        fn exit(&self, _: &span::Id) {}
    }

    #[test]
    fn events_reach_a_subscriber() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let disk = Arc::new(SimBackend::new());
        let options = options().on_event(snapdisk::trace);
        let store = options.create_on(disk.clone(), Arc::new(SimHost::new(3))).unwrap();
        // With `std` left out there is one subscriber for the process, and this test is the only one that sets it.
        ::tracing::dispatcher::set_global_default(::tracing::Dispatch::new(Lines(lines.clone()))).unwrap();
        use_a_lot(&disk, &store);
        disk.set_faults(vec![Fault { call: Call::Sync, nth: 0, how: How::Errno(EIO), sticky: false }]);
        store.create_volume("last", B).unwrap_err();
        let lines = lines.lock().unwrap();
        let has = |level: Level, start: &str| lines.iter().any(|(l, text)| *l == level && text.starts_with(start));
        for start in
            ["checkpoint started;", "checkpoint finished; duration=", "reclaimed; entries=", "image grown; bytes="]
        {
            assert!(has(Level::DEBUG, start), "{start}: {lines:?}");
        }
        assert!(has(Level::INFO, "attached volume changed; volume=1 generation=1"), "{lines:?}");
        assert!(has(Level::ERROR, "store poisoned; cause=sync"), "{lines:?}");
    }
}
