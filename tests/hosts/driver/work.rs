//! The writer: threads that write, snapshot and flush until they are killed or the host fails, and say what is durable.

use crate::{
    Args,
    model::{Model, Profile, SECTOR, read_sector},
    say, told,
};
use snapdisk::{Error, ErrorKind, Store};
use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering::SeqCst},
};

/// A bug of the driver itself, which the script must notice.
#[derive(Clone, Copy, PartialEq)]
enum Lie {
    None,
    /// Acknowledges an operation before it calls it.
    Early,
    /// Acknowledges what was written as if it had been flushed.
    Unflushed,
}

/// What all threads share.
struct Shared {
    store: Store,
    lie: Lie,
    /// Operations of each thread that have returned.
    returned: Vec<AtomicU64>,
    /// Operations of each thread that are durable, as was said last.
    acknowledged: Mutex<Vec<u64>>,
}

impl Shared {
    fn returned(&self) -> Vec<u64> {
        self.returned.iter().map(|n| n.load(SeqCst)).collect()
    }
    /// Says that these many operations of each thread are durable.
    fn acknowledge(&self, durable: &[u64]) {
        let mut known = self.acknowledged.lock().unwrap();
        known.iter_mut().zip(durable).for_each(|(k, d)| *k = (*k).max(*d));
        say(format_args!("acked {}", list(&known)));
    }

    /// One thread's life. Ends with the first error.
    fn run(&self, model: &mut Model, thread: usize, operations: u64) -> Option<Error> {
        let end = model.done.saturating_add(operations);
        while model.done < end {
            if let Err(e) = self.step(model, thread) {
                return Some(e);
            }
        }
        None
    }
    fn step(&self, model: &mut Model, thread: usize) -> Result<(), Error> {
        let act = model.next();
        let mut before = self.returned();
        if self.lie == Lie::Early {
            before[thread] = model.done + 1;
            self.acknowledge(&before);
        }
        model.perform(&self.store, &act, &before)?;
        model.apply(&act);
        self.returned[thread].store(model.done, SeqCst);
        if act.is_durable() {
            // And with it all that comes before it in the one order of operations.
            before[thread] = model.done;
            self.acknowledge(&before);
        }
        if model.flushes() {
            let before = self.returned();
            if self.lie != Lie::Unflushed {
                self.store.flush()?;
            }
            self.acknowledge(&before);
        }
        Ok(())
    }

    /// Every block of a thread's volumes must be what it is after the operations that returned, or after the one that failed; or it can't
    /// be read.
    fn read_back(&self, model: &Model, thread: usize) -> (u64, u64) {
        let mut after = model.clone();
        after.advance(model.done + 1);
        let (mut read, mut failed) = (0, 0);
        for (name, expected) in &model.content.volumes {
            let Ok(volume) = self.store.volume(name) else { continue };
            let other = after.content.volumes.get(name);
            let sectors = expected.len().min(other.map_or(0, Vec::len));
            for from in (0..sectors / 8 * 8).step_by(8) {
                let mut bytes = vec![0; 8 * SECTOR];
                match volume.read_at(&mut bytes, (from * SECTOR) as u64) {
                    Ok(()) => read += 1,
                    Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Io | ErrorKind::Truncated) => {
                        failed += 1;
                        continue;
                    }
                    Err(e) => {
                        say(format_args!("wrong a read of {name} answers {}", told(&e)));
                        continue;
                    }
                }
                for (s, bytes) in (from..).zip(bytes.chunks_exact(SECTOR)) {
                    match read_sector(bytes, thread, s) {
                        Ok((n, _)) if n == expected[s] || other.is_some_and(|o| o[s] == n) => {}
                        Ok((n, _)) => say(format_args!(
                            "wrong sector {s} of {name} reads as of operation {n}, not {}, after {}",
                            expected[s], model.done
                        )),
                        Err(e) => say(format_args!("wrong {name}: {e}")),
                    }
                }
            }
        }
        (read, failed)
    }

    /// What the store answers after the failure. Nothing may be acknowledged that is not durable; what is acknowledged all the same is said.
    fn probe(&self, models: &mut [Model]) {
        let syncs = || self.store.counters().map_or("-".to_owned(), |s| s.syncs.to_string());
        let before = syncs();
        for round in 0..3 {
            for (thread, model) in models.iter_mut().enumerate() {
                let answer = match self.step(model, thread) {
                    Ok(()) => "Ok".to_owned(),
                    // A look-up of what the operation that failed may have taken away.
                    Err(e) if e.kind() == ErrorKind::NotFound => continue,
                    Err(e) => told(&e),
                };
                say(format_args!("probe step {round} {answer}"));
            }
            for (name, result) in [
                ("create", self.store.create_volume("probe", 512).map(drop)),
                ("flush", self.store.flush()),
                ("checkpoint", self.store.checkpoint()),
                ("maintain", self.store.maintain(10).map(drop)),
                ("mark", self.store.mark()),
            ] {
                let answer = result.map_or_else(|e| told(&e), |()| "Ok".to_owned());
                say(format_args!("probe {name} {round} {answer}"));
            }
        }
        say(format_args!("syncs {before} {}", syncs()));
    }
}

pub(crate) fn list(numbers: &[u64]) -> String {
    numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(",")
}

pub(crate) fn work(args: &Args) {
    let (path, done) = (args.image(), args.numbers("done"));
    let (seed, profile) = (args.number("seed"), Profile::of(args.text("profile")));
    let operations = args.given.get("operations").map_or(u64::MAX, |_| args.number("operations"));
    let lie = match args.given.get("lie").map(|l| &**l) {
        None => Lie::None,
        Some("early") => Lie::Early,
        Some("unflushed") => Lie::Unflushed,
        Some(other) => panic!("no lie {other:?}"),
    };
    say("begin");
    let opened = if path.exists() { args.options().open(&path) } else { args.options().create(&path) };
    let store = match opened {
        Ok(store) => store,
        Err(e) => return say(format_args!("unopened {}", told(&e))),
    };
    let mut models: Vec<_> = (0..done.len()).map(|t| Model::new(seed, profile, t)).collect();
    models.iter_mut().zip(&done).for_each(|(m, &d)| m.advance(d));
    let returned = done.iter().map(|&d| AtomicU64::new(d)).collect();
    let shared = Shared { store, lie, returned, acknowledged: Mutex::new(done) };
    say("open");
    let failures: Vec<_> = std::thread::scope(|s| {
        let one = |(thread, model)| {
            let shared = &shared;
            s.spawn(move || {
                let e = shared.run(model, thread, operations);
                if let Some(e) = &e {
                    say(format_args!("stopped {thread} {}", told(e)));
                }
                e
            })
        };
        let threads: Vec<_> = models.iter_mut().enumerate().map(one).collect();
        threads.into_iter().filter_map(|t| t.join().expect("no panic")).collect()
    });
    if failures.iter().all(|e| e.kind() == ErrorKind::NoSpace) {
        // Nothing happened to the store: what returned can still be made durable.
        let returned = shared.returned();
        let closed = shared.store.clone().close();
        return match closed {
            Ok(()) => {
                shared.acknowledge(&returned);
                say("closed");
            }
            Err(e) => say(format_args!("stopped close {}", told(&e))),
        };
    }
    let (mut read, mut failed) = (0, 0);
    for (thread, model) in models.iter().enumerate() {
        let (r, f) = shared.read_back(model, thread);
        (read, failed) = (read + r, failed + f);
    }
    say(format_args!("read {read} {failed}"));
    shared.probe(&mut models);
    let answer = shared.store.clone().close().map_or_else(|e| told(&e), |()| "Ok".to_owned());
    say(format_args!("close {answer}"));
}
