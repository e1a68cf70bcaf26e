//! Blocks that reads are copying: they are not used again before the copy is done, and nothing else waits for it.
//!
//! The idea is that of hazard pointers (Michael, "Hazard Pointers: Safe Memory Reclamation for Lock-Free Objects", 2004), with the state's
//! lock in the place of memory fences: a read announces its blocks under the shared lock with which it looked them up, and blocks are
//! taken out of quarantine under the exclusive one. So whoever releases blocks sees every read that can still mean them.

use super::Run;
use crate::{
    io::{Alone, STRIPES, stripe},
    sync::Bell,
};
use parking_lot::Mutex;
use smallvec::SmallVec;
use std::{
    sync::{
        Arc,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{Acquire, Relaxed, SeqCst},
        },
    },
    time::Duration,
};

/// Reads of one run that the threads of a stripe can announce at once. Further ones are kept in a list.
const SLOTS: usize = 8;
/// Bits of a slot that hold the run's length; the others hold its start.
const LEN_BITS: u32 = 20;

/// The runs of one read.
pub(crate) type Runs = SmallVec<[Run; 2]>;

/// What all reads of a store are copying.
#[derive(Default)]
pub(crate) struct Reading {
    /// Start and length of a run, or 0.
    slots: [Alone<[AtomicU64; SLOTS]>; STRIPES],
    /// Reads of several runs, each with a number.
    others: Mutex<(u64, Vec<(u64, Runs)>)>,
    /// Threads in [`Reading::wait_for`], each with its bell, and their number.
    bells: Mutex<Vec<Arc<Bell>>>,
    waiting: AtomicUsize,
}

/// Held by a read until it has copied its blocks.
pub(crate) struct Hold<'a> {
    reading: &'a Reading,
    place: Place<'a>,
}

enum Place<'a> {
    /// Nothing is copied from the disk.
    Nowhere,
    Slot(&'a AtomicU64),
    Other(u64),
}

impl Reading {
    /// Announces a read of `runs`. The caller holds the state's lock under which it looked them up.
    pub(crate) fn hold(&self, runs: impl IntoIterator<Item = Run>) -> Hold<'_> {
        let runs: Runs = runs.into_iter().collect();
        let slot = match runs[..] {
            [] => return Hold { reading: self, place: Place::Nowhere },
            [run] => self.slot(run),
            _ => None,
        };
        let place = slot.map_or_else(|| self.other(runs), Place::Slot);
        Hold { reading: self, place }
    }

    fn other(&self, runs: Runs) -> Place<'_> {
        let mut others = self.others.lock();
        others.0 += 1;
        let number = others.0;
        others.1.push((number, runs));
        Place::Other(number)
    }

    /// The common case: announces a read of one run, without a lock.
    #[inline]
    fn slot(&self, run: Run) -> Option<&AtomicU64> {
        if run.len == 0 || run.len >> LEN_BITS != 0 || run.start.0 >> (64 - LEN_BITS) != 0 {
            return None;
        }
        let value = run.start.0 << LEN_BITS | u64::from(run.len);
        let slots = &self.slots[stripe()].0;
        slots.iter().find(|s| s.load(Relaxed) == 0 && s.compare_exchange(0, value, Acquire, Relaxed).is_ok())
    }

    /// Returns what is being read, as ranges of block numbers in order. Exact under the state's exclusive lock.
    pub(crate) fn held(&self) -> Vec<(u64, u64)> {
        let slots = self.slots.iter().flat_map(|s| &s.0).map(|s| s.load(SeqCst)).filter(|&v| v != 0);
        let mut held: Vec<_> = slots.map(|v| (v >> LEN_BITS, v & ((1 << LEN_BITS) - 1))).collect();
        held.extend(self.others.lock().1.iter().flat_map(|(_, runs)| runs).map(|r| (r.start.0, r.len.into())));
        held.sort_unstable();
        held.into_iter().map(|(start, len)| (start, start.saturating_add(len))).collect()
    }

    /// Waits until some of these runs are held by no read any more. The caller holds no blocks itself.
    pub(crate) fn wait_for(&self, runs: &[Run]) {
        let bell = Arc::<Bell>::default();
        self.bells.lock().push(bell.clone());
        self.waiting.fetch_add(1, SeqCst);
        loop {
            let held = self.held();
            if !runs.iter().all(|run| parts(*run, &held).all(|(_, is_held)| is_held)) {
                break;
            }
            bell.wait(Duration::MAX);
        }
        self.waiting.fetch_sub(1, SeqCst);
        self.bells.lock().retain(|b| !Arc::ptr_eq(b, &bell));
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        match self.place {
            Place::Nowhere => return,
            // What was copied was read before this: whoever sees the slot empty may write to the blocks.
            Place::Slot(slot) => slot.store(0, SeqCst),
            Place::Other(number) => self.reading.others.lock().1.retain(|(n, _)| *n != number),
        }
        // Sequentially consistent with a waiting thread, which is counted first and looks then.
        if self.reading.waiting.load(SeqCst) > 0 {
            let bells = self.reading.bells.lock().clone();
            bells.iter().for_each(|bell| bell.ring());
        }
    }
}

/// Cuts a run into parts that are held or not, according to the ranges of [`Reading::held`].
pub(super) fn parts(run: Run, held: &[(u64, u64)]) -> impl Iterator<Item = (Run, bool)> {
    let (mut at, end) = (run.start.0, run.start.0 + u64::from(run.len));
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let over = held.iter().take_while(|h| h.0 <= at).map(|h| h.1).max().filter(|&to| to > at);
        let to = over.or_else(|| held.iter().map(|h| h.0).find(|&from| from > at)).map_or(end, |to| to.min(end));
        let part = Run { start: crate::units::Block(at), len: (to - at) as u32 };
        at = to;
        Some((part, over.is_some()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Block;

    fn run(start: u64, len: u32) -> Run {
        Run { start: Block(start), len }
    }

    #[test]
    fn runs_are_cut_at_what_is_held() {
        for held in [vec![], vec![(3, 5)], vec![(0, 2), (1, 4), (6, 7)], vec![(2, 9)], vec![(0, 1), (9, 20)]] {
            let mut at = 2;
            for (part, is_held) in parts(run(2, 6), &held) {
                assert_eq!((part.start.0, part.len > 0), (at, true));
                for b in at..at + u64::from(part.len) {
                    assert_eq!(held.iter().any(|h| h.0 <= b && b < h.1), is_held, "{b} of {held:?}");
                }
                at += u64::from(part.len);
            }
            assert_eq!(at, 8, "{held:?}");
        }
    }

    #[test]
    fn what_is_held_is_told_until_it_is_dropped() {
        let reading = Reading::default();
        let mut all = Vec::new();
        // More reads than there are slots, of one run and of several, and one longer than a slot can say.
        for i in 0..40 {
            all.push(reading.hold([run(100 * i, 3)]));
            all.push(reading.hold([run(100 * i + 10, 1), run(100 * i + 20, 2)]));
        }
        let long = reading.hold([run(10_000, 1 << LEN_BITS)]);
        assert_eq!(reading.held().len(), 121);
        assert_eq!(reading.held()[120], (10_000, 10_000 + (1 << LEN_BITS)));
        drop(long);
        assert_eq!(reading.held().last(), Some(&(3920, 3922)));
        drop(all);
        assert!(reading.held().is_empty());
    }

    #[test]
    fn waiting_ends_when_a_part_is_free() {
        let reading = Reading::default();
        let (one, two) = (reading.hold([run(1, 1)]), reading.hold([run(2, 1), run(9, 1)]));
        std::thread::scope(|s| {
            let waiting = s.spawn(|| reading.wait_for(&[run(1, 2)]));
            while reading.waiting.load(SeqCst) == 0 {
                std::thread::yield_now();
            }
            assert!(!waiting.is_finished());
            drop(two);
            waiting.join().unwrap();
        });
        drop(one);
        reading.wait_for(&[run(1, 2)]);
    }
}
