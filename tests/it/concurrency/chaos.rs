//! Volumes and snapshots that change, grow, shrink and go under the threads that use them.
//!
//! Who wins is open; what is checked is that every call ends in one of the ways that are documented, that the image stays whole, and that
//! what is in memory is what a crash gives back: the log says all that happened, in its order.

use super::{B, Watchdog, history::clean, rounds};
use crate::files::everything;
use snapdisk::{
    BLOCK, DeleteSnapshots, Durability, ErrorKind, Knobs, NewOptions, Options, Result, Store, Volume,
    io::{
        MemoryBackend,
        sim::{Rng, SimHost},
    },
};
use std::{sync::Arc, thread};

const NAMES: [&str; 3] = ["x", "y", "z"];
/// Blocks of the largest size.
const LARGEST: u64 = 300;

/// Ends that a call may come to when others change what it works on.
pub(super) fn allowed(outcome: Result<()>) {
    if let Err(e) = outcome {
        let kinds =
            [ErrorKind::OutOfRange, ErrorKind::Deleted, ErrorKind::NotFound, ErrorKind::Exists, ErrorKind::Invalid];
        assert!(kinds.contains(&e.kind()), "{e}");
    }
}

fn volume(store: &Store, rng: &mut Rng) -> Result<Volume> {
    let name = NAMES[rng.below(3) as usize];
    match store.volume(name) {
        Err(e) if e.kind() == ErrorKind::NotFound => store.create_volume(name, LARGEST * B),
        found => found,
    }
}

pub(super) fn step(store: &Store, rng: &mut Rng, name: &str) -> Result<()> {
    let v = volume(store, rng)?;
    let size = rng.below(2 * LARGEST) * 512 * 4;
    let at = rng.below(LARGEST * B);
    let len = 1 + rng.below(40_000);
    let snapshot = |rng: &mut Rng| {
        let mut list = v.snapshots()?;
        if list.is_empty() { v.snapshot(name) } else { Ok(list.swap_remove(rng.below(list.len() as u64) as usize)) }
    };
    match rng.below(40) {
        0..=15 => v.write_at(&vec![rng.number() as u8; len as usize], at),
        16..=18 => v.discard(at, len),
        19..=22 => {
            let mut buf = vec![0; len as usize];
            v.read_at(&mut buf, at)?;
            snapshot(rng)?.read_at(&mut buf, 0)
        }
        23 | 24 => v.resize(size),
        25 | 26 => {
            let durability = if rng.one_in(2) { Durability::Deferred } else { Durability::Immediate };
            store.snapshot_with(&v, name, NewOptions::new().durability(durability)).map(drop)
        }
        27..=29 => store.delete_snapshot(&snapshot(rng)?),
        30 => v.rollback(&snapshot(rng)?),
        31 => v.rollback_keep_size(&snapshot(rng)?),
        32 => {
            let s = snapshot(rng)?;
            let free = NAMES.iter().find(|n| store.volume(n).is_err()).unwrap_or(&NAMES[0]);
            store.clone_volume(&s, free).map(drop)
        }
        33 => {
            let mode = [DeleteSnapshots::Refuse, DeleteSnapshots::Keep, DeleteSnapshots::Delete][rng.below(3) as usize];
            store.delete_volume(&v, mode)
        }
        34 => store.rename_snapshot(&snapshot(rng)?, name),
        35 => store.update(|u| {
            let s = u.snapshot(&v, name, Default::default())?;
            u.resize(&v, LARGEST * B);
            u.rollback(&v, s);
            Ok(())
        }),
        36 => {
            let others: Vec<_> = store.volumes()?;
            let members: Vec<_> = others.iter().map(|v| (v, name)).collect();
            store.snapshot_group(&members).map(drop)
        }
        37 => store.flush(),
        38 => v.extents(0..v.size()?).try_for_each(|e| e.map(drop)),
        _ => {
            // Kept snapshots of deleted volumes go here.
            let list = store.snapshots()?;
            if list.len() > 12 { store.delete_snapshot(&list[rng.below(list.len() as u64) as usize]) } else { Ok(()) }
        }
    }
}

#[test]
fn whatever_threads_do_a_crash_gives_back() {
    let _watchdog = Watchdog::new("whatever_threads_do_a_crash_gives_back");
    for seed in 0..rounds(4) {
        let fanout = if seed % 2 == 0 { 4 } else { usize::MAX };
        let knobs =
            Knobs { fanout, span: 64, index_fanout: 8, log_pages: 64, growth: 4, direct: 2, ..Knobs::default() };
        let options = Options::new().memory(1 << 20).punch_from(Some(4 * BLOCK as u64)).knobs(knobs);
        let (backend, host) = (Arc::new(MemoryBackend::new()), Arc::new(SimHost::new(seed)));
        let mut store = options.create_on(backend.clone(), host.clone()).unwrap();
        for round in 0..6 {
            thread::scope(|s| {
                for t in 0..4u64 {
                    let store = &store;
                    s.spawn(move || {
                        let mut rng = Rng::new(seed << 16 | round << 8 | t);
                        (0..150).for_each(|i| allowed(step(store, &mut rng, &format!("s{round}.{t}.{i}"))));
                    });
                }
            });
            store.flush().unwrap();
            let before = everything(&store);
            if round % 2 == 0 {
                clean(&store);
            }
            // The process dies; then once more without anything done in between.
            drop(store);
            drop(options.open_on(backend.clone(), host.clone()).unwrap());
            store = options.open_on(backend.clone(), host.clone()).unwrap();
            assert!(everything(&store) == before, "seed {seed}, round {round}: recovery gives another state");
            clean(&store);
        }
        let before = everything(&store);
        store.wait_reclaimed().unwrap();
        assert!(everything(&store) == before, "reclaim changed something");
        clean(&store);
        store.close().unwrap();
    }
}
