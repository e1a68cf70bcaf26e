//! What a store tells whoever looks after it: events, and the one place at which the hook for them is called.
//!
//! The engine notes an event where it happens, often under its locks, and delivers it when the operation that is under way has ended and nothing
//! is held. Without a hook noting and delivering are one branch each.

#[cfg(feature = "tracing")]
mod trace;

use crate::{Error, VolumeId};
use parking_lot::{Mutex, MutexGuard};
use std::{
    collections::VecDeque,
    fmt, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::Duration,
};

#[cfg(feature = "tracing")]
pub use trace::trace;

/// Events that wait for a hook that does not keep up. Those that come beyond are counted.
const MOST: usize = 1024;

/// Something that happened in a store; see [`Options::on_event`](crate::Options::on_event).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A checkpoint has begun: what the log says is written to its home.
    CheckpointStarted,
    /// A checkpoint is durable, and the log is free again. One that fails is followed by `Poisoned` instead.
    #[non_exhaustive]
    CheckpointFinished {
        /// How long it took, by the host's clock.
        duration: Duration,
        /// Pages of 4 KiB that it wrote: nodes, counts, and data that only the log had.
        pages: u64,
    },
    /// Reclaim worked off something that was deleted.
    #[non_exhaustive]
    Reclaimed {
        /// Nodes of trees, and snapshots of deleted volumes.
        entries: u64,
    },
    /// The host gave space to the image.
    #[non_exhaustive]
    Grown {
        /// How much.
        bytes: u64,
    },
    /// Space of the image went back to the host.
    #[non_exhaustive]
    Punched {
        /// How much.
        bytes: u64,
    },
    /// An attached volume was rolled back, resized or deleted, by its holder or by others.
    #[non_exhaustive]
    VolumeChanged {
        /// Which.
        volume: VolumeId,
        /// [`AttachedVolume::generation`](crate::AttachedVolume::generation) from then on.
        generation: u64,
    },
    /// A write or sync failed: nothing more is written until the image is opened again. It comes once.
    #[non_exhaustive]
    Poisoned {
        /// What failed.
        cause: Error,
    },
    /// Background work failed and has changed nothing; see [`Store::background_error`](crate::Store::background_error).
    #[non_exhaustive]
    BackgroundError {
        /// What failed.
        error: Error,
    },
    /// The hook did not keep up, and was not told of this many events that came here.
    #[non_exhaustive]
    Lost {
        /// How many.
        events: u64,
    },
}

/// A hook as options keep it.
#[derive(Clone)]
pub(crate) struct Call(Arc<dyn Fn(&Event) + Send + Sync>);

impl Call {
    pub(crate) fn new(call: impl Fn(&Event) + Send + Sync + 'static) -> Call {
        Call(Arc::new(call))
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fn(&Event)")
    }
}

/// The events of one store.
#[derive(Clone, Debug, Default)]
pub(crate) struct Events(Option<Arc<Hook>>);

#[derive(Debug)]
struct Hook {
    call: Call,
    /// Held for no longer than it takes to put an event in or take one out, so that it can be taken under any other lock.
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Event>,
    lost: u64,
    /// Some thread is calling the hook, and goes on until nothing waits.
    delivering: bool,
}

impl Queue {
    fn next(&mut self) -> Option<Event> {
        self.waiting.pop_front().or_else(|| match mem::take(&mut self.lost) {
            0 => None,
            events => Some(Event::Lost { events }),
        })
    }
}

impl Events {
    pub(crate) fn new(call: Option<&Call>) -> Events {
        Events(call.map(|call| Arc::new(Hook { call: call.clone(), queue: Mutex::default() })))
    }
    pub(crate) fn is_wanted(&self) -> bool {
        self.0.is_some()
    }
    /// Has an event delivered when nothing is held any more. May be called under any lock.
    #[inline]
    pub(crate) fn note(&self, event: impl FnOnce() -> Event) {
        if let Some(hook) = &self.0 {
            hook.note(event());
        }
    }
    /// What delivers events when it is dropped. The caller holds no lock then.
    #[inline]
    pub(crate) fn delivery(&self) -> Delivery<'_> {
        Delivery(self.0.as_deref())
    }
}

impl Hook {
    fn note(&self, event: Event) {
        let mut queue = self.queue.lock();
        if queue.waiting.len() < MOST && queue.lost == 0 {
            queue.waiting.push_back(event);
        } else {
            queue.lost += 1;
        }
    }
    /// Calls the hook with what waits, in order and by one thread at a time. A hook that calls the store gets here again, and returns at once.
    fn deliver(&self) {
        let mut queue = self.queue.lock();
        if mem::replace(&mut queue.delivering, true) {
            return;
        }
        while let Some(event) = queue.next() {
            MutexGuard::unlocked(&mut queue, || {
                // A panic in the hook is the hook's own: it neither fails the operation that has just ended nor poisons the store.
                let _ = catch_unwind(AssertUnwindSafe(|| (self.call.0)(&event)));
            });
        }
        queue.delivering = false;
    }
}

/// Delivers events when it is dropped: the first value of an operation, so that it is dropped last.
pub(crate) struct Delivery<'a>(Option<&'a Hook>);

impl Drop for Delivery<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(hook) = self.0
            && !thread::panicking()
        {
            hook.deliver();
        }
    }
}
