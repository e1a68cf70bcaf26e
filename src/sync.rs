//! Locks, threads and what background threads wait for: the one place through which the engine meets other threads.
//!
//! Without the feature `sim` the locks are those of `parking_lot` under their own names. With it, each operation first asks whether the
//! calling thread belongs to a seeded schedule (see `schedule`), which then decides who goes on; any other thread gets what
//! `parking_lot` gives.

#[cfg(feature = "sim")]
mod locks;
#[cfg(feature = "sim")]
pub(crate) mod schedule;

#[cfg(feature = "sim")]
pub(crate) use locks::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
#[cfg(not(feature = "sim"))]
pub(crate) use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

use std::{
    io, mem, thread,
    time::{Duration, Instant},
};

/// A lock that is held for what happens in memory alone. Builds with `sim` know which threads hold one, for tests whose disk refuses to work
/// meanwhile.
pub(crate) fn quick<T>(value: T) -> RwLock<T> {
    #[cfg(feature = "sim")]
    return RwLock::quick(value);
    #[cfg(not(feature = "sim"))]
    RwLock::new(value)
}

/// Whether the calling thread holds a lock that was made by [`quick`].
#[cfg(feature = "sim")]
pub(crate) fn holds_quick() -> bool {
    locks::holds_quick()
}

/// What a background thread waits for.
#[derive(Default)]
pub(crate) struct Bell {
    /// Of `parking_lot` in every build: it is never held where a schedule may switch.
    rung: parking_lot::Mutex<bool>,
    heard: parking_lot::Condvar,
}

impl Bell {
    /// Has the thread that waits, or the next that will, go on.
    #[track_caller]
    pub(crate) fn ring(&self) {
        #[cfg(feature = "sim")]
        schedule::point("a bell");
        let mut rung = self.rung.lock();
        if !mem::replace(&mut *rung, true) {
            self.heard.notify_one();
        }
        drop(rung);
        #[cfg(feature = "sim")]
        schedule::wake(schedule::key(self));
    }

    /// Waits until it is rung, or was since the last wait. `false`: the time is over.
    #[track_caller]
    pub(crate) fn wait(&self, most: Duration) -> bool {
        #[cfg(feature = "sim")]
        if let Some(rung) =
            schedule::wait(schedule::key(self), most != Duration::MAX, || mem::take(&mut *self.rung.lock()))
        {
            return rung;
        }
        let mut rung = self.rung.lock();
        if !*rung {
            self.heard.wait_for(&mut rung, most);
        }
        mem::take(&mut *rung)
    }
}

/// What any number of threads wait at until something that they look at themselves has changed.
#[derive(Default)]
pub(crate) struct Signal {
    /// Of `parking_lot` in every build, for the reason that [`Bell`] has. It guards nothing: a waiter that holds it has looked and is about to
    /// sleep.
    looking: parking_lot::Mutex<()>,
    changed: parking_lot::Condvar,
}

impl Signal {
    /// Has every waiter look again. What they look at was changed before.
    pub(crate) fn notify(&self) {
        drop(self.looking.lock());
        self.changed.notify_all();
        #[cfg(feature = "sim")]
        schedule::wake(schedule::key(self));
    }

    /// Waits until `ready` says yes, or `most` is over.
    #[track_caller]
    pub(crate) fn wait(&self, most: Duration, mut ready: impl FnMut() -> bool) {
        #[cfg(feature = "sim")]
        if schedule::wait(schedule::key(self), true, &mut ready).is_some() {
            return;
        }
        #[allow(clippy::disallowed_methods, reason = "a caller's own deadline, on which nothing of the engine depends")]
        let end = Instant::now().checked_add(most);
        let mut looking = self.looking.lock();
        while !ready() {
            match end {
                Some(end) if self.changed.wait_until(&mut looking, end).timed_out() => return,
                Some(_) => {}
                None => self.changed.wait(&mut looking),
            }
        }
    }
}

/// A thread that was started here.
pub(crate) struct Thread {
    handle: thread::JoinHandle<()>,
    /// Its number in the schedule that it belongs to.
    #[cfg(feature = "sim")]
    scheduled: Option<usize>,
}

/// Starts a thread. It belongs to the schedule of the thread that starts it, if that has one.
#[track_caller]
pub(crate) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<Thread> {
    #[cfg(feature = "sim")]
    let (scheduled, body) = match schedule::enlist(name, body) {
        Ok((id, body)) => (Some(id), body),
        Err(body) => (None, Box::new(body) as schedule::Body),
    };
    #[allow(clippy::disallowed_methods, reason = "the engine's threads are started here and nowhere else")]
    let started = thread::Builder::new().name(name.to_owned()).spawn(body);
    #[cfg(feature = "sim")]
    if let Some(id) = scheduled {
        schedule::started(id, started.is_ok());
    }
    Ok(Thread {
        handle: started?,
        #[cfg(feature = "sim")]
        scheduled,
    })
}

impl Thread {
    /// Waits until it has ended, by itself or by a panic. A thread that is the caller itself, and goes on until its caller's work is done, is
    /// not waited for.
    #[track_caller]
    pub(crate) fn join(self) {
        if self.handle.thread().id() == thread::current().id() {
            return;
        }
        #[cfg(feature = "sim")]
        if let Some(id) = self.scheduled {
            schedule::join(id);
        }
        let _ = self.handle.join();
    }
}
