//! The table of open handles. A handle is a number and never an address, so that a wrong one, a closed one or one that went through a `fork`
//! is found out instead of followed.
//!
//! A number is never used again. Its upper half names the process, its lower half counts; a forked child begins a table of its own, and so
//! never waits for a lock that a thread which it does not have held at the fork.
#![allow(unsafe_code, reason = "the table that a process began is found through an atomic pointer")]

use super::raw::Fault;
use crate::{AttachedVolume, Error, ErrorKind, ReadDisk, Result, Snapshot, Store, Volume, io::ForkMark};
use parking_lot::RwLock;
use rustc_hash::FxHashMap;
use std::{
    process, ptr,
    sync::{
        Arc,
        atomic::{
            AtomicPtr, AtomicU32,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
    },
};

/// What a handle of a disk stands for.
pub(super) enum Disk {
    Volume(Store, Volume),
    Attached(Store, AttachedVolume),
    Snapshot(Store, Snapshot),
}

impl Disk {
    pub(super) fn store(&self) -> &Store {
        let (Disk::Volume(store, _) | Disk::Attached(store, _) | Disk::Snapshot(store, _)) = self;
        store
    }
    /// The disk as something to read.
    pub(super) fn reader(&self) -> &dyn ReadDisk {
        match self {
            Disk::Volume(_, volume) => volume,
            Disk::Attached(_, volume) => volume,
            Disk::Snapshot(_, snapshot) => snapshot,
        }
    }
    /// The volume, for operations that say nothing of an attachment. `ReadOnly` for a snapshot.
    pub(super) fn volume(&self) -> Result<&Volume> {
        match self {
            Disk::Volume(_, volume) => Ok(volume),
            Disk::Attached(_, volume) => Ok(volume.volume()),
            Disk::Snapshot(..) => Err(Error::new(ErrorKind::ReadOnly, "the disk is a snapshot, which never changes")),
        }
    }
    /// The snapshot. `Invalid` for a volume.
    pub(super) fn snapshot(&self) -> Result<&Snapshot> {
        match self {
            Disk::Snapshot(_, snapshot) => Ok(snapshot),
            _ => Err(Error::invalid("the disk is a volume, where a snapshot is needed")),
        }
    }
}

enum Object {
    Store(Store),
    Disk(Arc<Disk>),
}

/// Parts of the table, each with a lock of its own: threads that use different handles seldom meet.
const SHARDS: usize = 16;

struct Table {
    mark: ForkMark,
    process: u32,
    /// The counting half of the next number.
    next: AtomicU32,
    shards: [RwLock<FxHashMap<u64, Object>>; SHARDS],
}

impl Table {
    /// The table of this process.
    fn get() -> &'static Table {
        /// The table of the process that made it last. Tables are leaked, so that the address stays good for ever.
        static TABLE: AtomicPtr<Table> = AtomicPtr::new(ptr::null_mut());
        let mut seen = TABLE.load(Acquire);
        loop {
            // SAFETY: the pointer is null or came from `Box::leak` below: it is aligned, points to an initialised table that is never freed
            // and to which no exclusive reference exists. A forked child has a copy of that memory under the same address. The table was
            // complete before it was stored (AcqRel), and this thread saw it stored (Acquire).
            let table = unsafe { seen.as_ref() };
            if let Some(table) = table
                && table.mark.is_maker()
            {
                return table;
            }
            // A child counts on from where its parent was, so that no number of an ancestor comes again.
            let next = table.map_or(1, |parent| parent.next.load(Relaxed));
            let shards = Default::default();
            let (mark, process) = (ForkMark::new(), process::id());
            let fresh: *mut Table = Box::leak(Box::new(Table { mark, process, next: AtomicU32::new(next), shards }));
            // Of several threads one installs its table; the small tables of the others are lost, at most one a thread.
            match TABLE.compare_exchange(seen, fresh, AcqRel, Acquire) {
                Ok(_) => seen = fresh,
                Err(now) => seen = now,
            }
        }
    }
    fn shard(&self, handle: u64) -> &RwLock<FxHashMap<u64, Object>> {
        &self.shards[handle as usize % SHARDS]
    }
    /// Why there is no object of that number.
    fn missing(&self, handle: u64) -> Fault {
        if handle >> 32 != u64::from(self.process) && handle >> 32 != 0 {
            let what = format!("no handle {handle:#x} in this process: it was opened before a fork, or never");
            return Error::new(ErrorKind::WrongProcess, what).into();
        }
        Fault::handle(format!("no handle {handle:#x}: it was closed, or never opened"))
    }
    fn add(&self, object: Object) -> Result<u64, Fault> {
        let count = self.next.fetch_update(Relaxed, Relaxed, |n| n.checked_add(1));
        let count = count.map_err(|_| Fault::handle("this process has opened 2^32 handles".into()))?;
        let handle = u64::from(self.process) << 32 | u64::from(count);
        self.shard(handle).write().insert(handle, object);
        Ok(handle)
    }
    fn find<T>(&self, handle: u64, f: impl FnOnce(&Object) -> Option<T>) -> Result<T, Fault> {
        let shard = self.shard(handle).read();
        let object = shard.get(&handle).ok_or_else(|| self.missing(handle))?;
        f(object).ok_or_else(|| Fault::handle(format!("the handle {handle:#x} is one of another kind")))
    }
    /// Takes an object out if it is of the right kind. The caller drops it, with no lock held.
    fn remove(&self, handle: u64, is: impl FnOnce(&Object) -> bool) -> Result<Object, Fault> {
        let mut shard = self.shard(handle).write();
        let object = shard.get(&handle).ok_or_else(|| self.missing(handle))?;
        if !is(object) {
            return Err(Fault::handle(format!("the handle {handle:#x} is one of another kind")));
        }
        shard.remove(&handle).ok_or_else(|| self.missing(handle))
    }
}

pub(super) fn add_store(store: Store) -> Result<u64, Fault> {
    Table::get().add(Object::Store(store))
}
pub(super) fn add_disk(disk: Disk) -> Result<u64, Fault> {
    Table::get().add(Object::Disk(Arc::new(disk)))
}
pub(super) fn store(handle: u64) -> Result<Store, Fault> {
    Table::get().find(handle, |object| match object {
        Object::Store(store) => Some(store.clone()),
        Object::Disk(_) => None,
    })
}
/// The disk of that number. It lives at least as long as the call that asked, even if another thread closes the handle meanwhile.
pub(super) fn disk(handle: u64) -> Result<Arc<Disk>, Fault> {
    Table::get().find(handle, |object| match object {
        Object::Disk(disk) => Some(disk.clone()),
        Object::Store(_) => None,
    })
}
pub(super) fn take_store(handle: u64) -> Result<Store, Fault> {
    match Table::get().remove(handle, |object| matches!(object, Object::Store(_)))? {
        Object::Store(store) => Ok(store),
        Object::Disk(_) => Err(Fault::handle("not a store".into())),
    }
}
pub(super) fn close_disk(handle: u64) -> Result<(), Fault> {
    Table::get().remove(handle, |object| matches!(object, Object::Disk(_))).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Options, io::in_child};

    /// In a forked child: its parent's handles are refused, and it can open images of its own.
    #[test]
    fn a_child_has_a_table_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let here = Options::new().create(dir.path().join("a")).unwrap();
        let handle = add_store(here).unwrap();
        assert!(store(handle).is_ok());
        // Held at the fork, for ever as far as the child can tell.
        let _held = Table::get().shard(handle).write();
        assert!(in_child(|| {
            let refused = store(handle).err().map(|fault| fault.code);
            let made = Options::new().manual_maintenance(true).create(dir.path().join("b"));
            let Ok(Ok(own)) = made.map(add_store) else { return false };
            refused == Some(super::super::SNAPDISK_E_WRONG_PROCESS) && own != handle && store(own).is_ok()
        }));
    }
}
