//! The locks of builds with the feature `sim`: `parking_lot`'s, each operation of a scheduled thread a switch point.

use super::schedule::{self, acquire, key};
use std::{
    cell::Cell,
    ops::{Deref, DerefMut},
};

/// Tells the schedule that a lock is free. The last field of each guard, since fields are dropped in order.
struct Released(usize);

impl Drop for Released {
    fn drop(&mut self) {
        schedule::released(self.0);
    }
}

/// As `parking_lot::Mutex`.
#[derive(Default)]
pub(crate) struct Mutex<T>(parking_lot::Mutex<T>);

/// As `parking_lot::MutexGuard`.
pub(crate) struct MutexGuard<'a, T> {
    inner: parking_lot::MutexGuard<'a, T>,
    _released: Released,
}

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Mutex<T> {
        Mutex(parking_lot::Mutex::new(value))
    }
    #[track_caller]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        let inner = acquire::<T, _>(key(self), || self.0.try_lock(), || self.0.lock());
        MutexGuard { inner, _released: Released(key(self)) }
    }
    #[track_caller]
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        schedule::point("an attempt at a lock");
        let inner = self.0.try_lock()?;
        Some(MutexGuard { inner, _released: Released(key(self)) })
    }
    #[track_caller]
    pub(crate) fn is_locked(&self) -> bool {
        schedule::point("a look at a lock");
        self.0.is_locked()
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

thread_local! {
    /// Locks under which the disk must not be at work that this thread holds.
    static QUICK: Cell<u32> = const { Cell::new(0) };
}

/// Whether this thread holds a lock that was made by [`super::quick`].
pub(super) fn holds_quick() -> bool {
    QUICK.get() > 0
}

/// Counts a lock of that kind as long as it is held.
struct Counted(bool);

impl Counted {
    fn new(quick: bool) -> Counted {
        QUICK.set(QUICK.get() + u32::from(quick));
        Counted(quick)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        QUICK.set(QUICK.get() - u32::from(self.0));
    }
}

/// As `parking_lot::RwLock`.
#[derive(Default)]
pub(crate) struct RwLock<T> {
    inner: parking_lot::RwLock<T>,
    quick: bool,
}

/// As `parking_lot::RwLockReadGuard`.
pub(crate) struct RwLockReadGuard<'a, T> {
    inner: parking_lot::RwLockReadGuard<'a, T>,
    _counted: Counted,
    _released: Released,
}

/// As `parking_lot::RwLockWriteGuard`.
pub(crate) struct RwLockWriteGuard<'a, T> {
    inner: parking_lot::RwLockWriteGuard<'a, T>,
    _counted: Counted,
    _released: Released,
}

impl<T> RwLock<T> {
    pub(super) const fn quick(value: T) -> RwLock<T> {
        RwLock { inner: parking_lot::RwLock::new(value), quick: true }
    }
    #[track_caller]
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
        let inner = acquire::<T, _>(key(self), || self.inner.try_read(), || self.inner.read());
        RwLockReadGuard { inner, _counted: Counted::new(self.quick), _released: Released(key(self)) }
    }
    #[track_caller]
    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
        let inner = acquire::<T, _>(key(self), || self.inner.try_write(), || self.inner.write());
        RwLockWriteGuard { inner, _counted: Counted::new(self.quick), _released: Released(key(self)) }
    }
}

impl<T> Deref for RwLockReadGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for RwLockWriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}
