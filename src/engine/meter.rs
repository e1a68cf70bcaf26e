//! What was asked of each volume since the image was opened.
//!
//! A handle keeps the meter of its volume from its first request on: counting takes no lock and looks nothing up. Each thread counts in
//! a cache line that few others use, and a line is made when it is first needed, so that a volume that one thread uses costs two of
//! them, and one that is only listed none.

use crate::io::{Alone, STRIPES, stripe};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// A kind of request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum IoKind {
    Read,
    Write,
    /// A discard or a request for zeros.
    Discard,
}

/// Kinds of requests.
const KINDS: usize = 3;

/// For each kind of request how many succeeded, and their bytes.
pub(crate) type Counts = [(u64, u64); KINDS];

/// What the threads of one stripe have counted.
type Line = Alone<[(AtomicU64, AtomicU64); KINDS]>;

/// Counts the requests of one volume.
#[derive(Default)]
pub(crate) struct Meter([OnceLock<Box<Line>>; STRIPES]);

impl Meter {
    /// Counts a request that succeeded.
    #[inline]
    pub(crate) fn count(&self, kind: IoKind, bytes: u64) {
        let line = &self.0[stripe()].get_or_init(Box::default).0;
        let (requests, total) = &line[kind as usize];
        requests.fetch_add(1, Relaxed);
        total.fetch_add(bytes, Relaxed);
    }
    fn sum(&self) -> Counts {
        let mut sum = Counts::default();
        for line in self.0.iter().filter_map(OnceLock::get) {
            for (sum, (requests, bytes)) in sum.iter_mut().zip(&line.0) {
                *sum = (sum.0 + requests.load(Relaxed), sum.1 + bytes.load(Relaxed));
            }
        }
        sum
    }
}

/// What was asked of one volume.
#[derive(Default)]
struct Kept {
    /// The meter that handles count with, if there are any.
    meter: Option<Arc<Meter>>,
    /// What meters counted whose handles are gone.
    before: Counts,
}

impl Kept {
    fn sum(&self) -> Counts {
        let mut sum = self.before;
        if let Some(meter) = &self.meter {
            for (sum, (requests, bytes)) in sum.iter_mut().zip(meter.sum()) {
                *sum = (sum.0 + requests, sum.1 + bytes);
            }
        }
        sum
    }
}

/// The meters of all volumes that something was asked of.
#[derive(Default)]
pub(crate) struct Meters(Mutex<FxHashMap<u64, Kept>>);

impl Meters {
    /// Returns the meter of a volume, made if there is none.
    pub(crate) fn of(&self, volume: u64) -> Arc<Meter> {
        let mut kept = self.0.lock();
        // Before the table grows, the meters go that no handle counts with, of about 1 KiB each: they stay for handles, not for volumes.
        if kept.len() == kept.capacity() {
            for kept in kept.values_mut().filter(|k| k.meter.as_ref().is_some_and(|m| Arc::strong_count(m) == 1)) {
                (kept.before, kept.meter) = (kept.sum(), None);
            }
        }
        kept.entry(volume).or_default().meter.get_or_insert_default().clone()
    }
    /// Returns what was asked of a volume.
    pub(crate) fn sum(&self, volume: u64) -> Counts {
        self.0.lock().get(&volume).map(Kept::sum).unwrap_or_default()
    }
    /// Drops the meter of a volume that is gone. Ids are never used again.
    pub(crate) fn forget(&self, volume: u64) {
        self.0.lock().remove(&volume);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_several_threads_count_adds_up() {
        let meters = Meters::default();
        std::thread::scope(|s| {
            for thread in 1..=20 {
                let meter = meters.of(7);
                s.spawn(move || {
                    for _ in 0..100 {
                        meter.count(IoKind::Read, thread);
                        meter.count(IoKind::Discard, 1);
                    }
                });
            }
        });
        assert_eq!(meters.sum(7), [(2000, 100 * 210), (0, 0), (2000, 2000)]);
        assert_eq!(meters.sum(8), Counts::default());
        meters.forget(7);
        assert_eq!(meters.sum(7), Counts::default());
        assert!(meters.0.lock().is_empty(), "asking makes no meter");
    }

    #[test]
    fn meters_without_a_handle_are_folded_and_nothing_is_lost() {
        let meters = Meters::default();
        let held = meters.of(0);
        held.count(IoKind::Write, 7);
        for _ in 0..3 {
            for volume in 1..1000 {
                meters.of(volume).count(IoKind::Read, volume);
            }
        }
        (1000..5000).for_each(|volume| drop(meters.of(volume)));
        let live = |volume: u64| meters.0.lock()[&volume].meter.is_some();
        assert_eq!((0..1000).filter(|&volume| live(volume)).collect::<Vec<_>>(), [0]);
        for volume in 1..1000 {
            assert_eq!(meters.sum(volume), [(3, 3 * volume), (0, 0), (0, 0)]);
        }
        held.count(IoKind::Write, 7);
        assert_eq!(meters.sum(0)[1], (2, 14));
        assert!(Arc::ptr_eq(&held, &meters.of(0)));
    }
}
