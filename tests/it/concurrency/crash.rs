//! Power loss among threads: a trace of everything at once, crashed at many points, held against what had been flushed by then.

use super::{
    Watchdog,
    history::{State, WRITERS, World, clean, of_volumes},
    rounds,
};
use parking_lot::Mutex;
use snapdisk::{
    Knobs, Options, Store,
    io::sim::{Caps, Gate, Rng, SimBackend, SimHost, Walker},
};
use std::{sync::Arc, thread};

/// One in so many of the states of a crash point is tried.
const SOME: u64 = 4;

/// Where in the trace something was known: its length then, and a number for each writer.
type Known = Mutex<Vec<(usize, Vec<u64>)>>;

/// For each writer the largest number that was known at a point of the trace.
fn at(known: &Known, position: usize) -> Vec<u64> {
    let mut out = vec![0; WRITERS];
    for (_, numbers) in known.lock().iter().filter(|k| k.0 <= position) {
        out.iter_mut().zip(numbers).for_each(|(o, n)| *o = (*o).max(*n));
    }
    out
}

/// Writers, flushers, a thread that takes, deletes and rolls nothing back, the background threads: one trace of it.
fn one_trace(seed: u64) -> usize {
    let knobs = Knobs { fanout: 6, span: 64, index_fanout: 8, log_pages: 64, growth: 4, ..Knobs::default() };
    let options = Options::new().memory(1 << 20).knobs(knobs);
    let backend = Arc::new(SimBackend::new());
    // An open gate: other threads get between a sync's beginning and its end.
    backend.set_gate(Some(Arc::new(Gate::new())));
    let store = options.create_on(backend.clone(), Arc::new(SimHost::new(seed))).unwrap();
    let world = World::new(&store);
    store.checkpoint().unwrap();
    backend.start_trace();
    let (flushed, begun) = (Known::default(), Known::default());
    thread::scope(|s| {
        let (store, world, backend, flushed, begun) = (&store, &world, &backend, &flushed, &begun);
        // What had ended before is durable once `f` returns.
        let durable = move |f: &dyn Fn(&Store)| {
            let before = world.past.finished();
            f(store);
            let known = (backend.trace_len(), before);
            flushed.lock().push(known);
        };
        for w in 0..WRITERS {
            s.spawn(move || {
                let (mut rng, mut buf) = (Rng::new(seed << 8 | w as u64), Vec::new());
                for n in 1..=80 {
                    let mut numbers = vec![0; WRITERS];
                    numbers[w] = n;
                    begun.lock().push((backend.trace_len(), numbers));
                    world.act(w, &mut rng, &mut buf).unwrap();
                    if rng.one_in(6) {
                        durable(&|store| store.flush().unwrap());
                    }
                }
            });
        }
        s.spawn(move || {
            for i in 0..12 {
                let name = format!("s{i}");
                durable(&|store| drop(store.snapshot(&world.volumes[i % 2], &name).unwrap()));
                if i % 3 == 2 {
                    let old = world.volumes[i % 2].snapshots().unwrap().remove(0);
                    durable(&|store| store.delete_snapshot(&old).unwrap());
                }
                if i % 4 == 3 {
                    durable(&|store| store.checkpoint().unwrap());
                }
            }
        });
    });
    let past = world.past.clone();
    drop((world, store));
    let trace = backend.take_trace();
    let (mut walker, mut rng, mut states) = (Walker::new(&trace), Rng::new(seed), 0);
    while walker.advance(|_| {}) {
        let position = walker.position();
        let (least, most) = (at(&flushed, position), at(&begun, position));
        let mut tried = 0;
        walker.window().each(&Caps { random: 1, subsets: 1, ..Caps::FEW }, &mut rng, &mut |pick| {
            // All lost and all kept everywhere, of the others some.
            tried += 1;
            if tried > 2 && !pick.hash().is_multiple_of(SOME) {
                return true;
            }
            states += 1;
            let disk = Arc::new(SimBackend::of(pick.image()));
            let host = Arc::new(SimHost::new(seed + 1));
            let store = options.clone().manual_maintenance(true).open_on(disk, host).unwrap_or_else(|e| {
                panic!("seed {seed}, crash before event {position} of {}: {e}", trace.events.len());
            });
            let now = of_volumes(&["a", "b"].map(|n| store.volume(n).unwrap()));
            past.is_a_cut(&now, &mut State::start(), &least, &most);
            clean(&store);
            true
        });
    }
    states
}

/// After a crash at any point the image holds a cut through the one order of all threads' operations, with all that was flushed.
#[test]
fn a_crash_among_threads_leaves_a_prefix() {
    let _watchdog = Watchdog::new("a_crash_among_threads_leaves_a_prefix");
    let states: usize = (0..rounds(3)).map(one_trace).sum();
    println!("{states} states");
    assert!(states > 100);
}
