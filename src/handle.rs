//! The one door between what a caller holds and the engine.
//!
//! [`Store`](crate::Store), [`Volume`](crate::Volume), [`Snapshot`](crate::Snapshot) and [`Update`](crate::Update) hold a [`Root`] or a
//! [`Handle`], whose fields only this file sees. What they get out of one is an engine that this process may use, and the number of an
//! object that is known to belong to it; no method can forget to ask. Whether the store is still open and the object still there is
//! asked by the operation itself, under the lock under which it takes effect: asked here, it could change meanwhile.

use crate::{
    Error, Result, SnapshotId, VolumeId,
    engine::{Engine, Owner, View},
    units::Target,
};
use std::sync::{Arc, OnceLock};

/// An id that names one kind of object.
pub(crate) trait Name: Copy {
    fn new(number: u64) -> Self;
    fn number(self) -> u64;
    fn target(self) -> Target;
}

impl Name for VolumeId {
    fn new(number: u64) -> Self {
        VolumeId(number)
    }
    fn number(self) -> u64 {
        self.0
    }
    fn target(self) -> Target {
        Target::Volume(self.0)
    }
}

impl Name for SnapshotId {
    fn new(number: u64) -> Self {
        SnapshotId(number)
    }
    fn number(self) -> u64 {
        self.0
    }
    fn target(self) -> Target {
        Target::Snapshot(self.0)
    }
}

/// An open store.
#[derive(Clone)]
pub(crate) struct Root(Arc<Owner>);

impl Root {
    pub(crate) fn new(engine: Engine) -> Result<Root> {
        Ok(Root(Owner::new(engine)?))
    }
    /// The engine, for an operation. `WrongProcess` in a forked child.
    #[inline]
    pub(crate) fn enter(&self) -> Result<&Engine> {
        self.0.check_process()?;
        Ok(&self.0)
    }
    /// The engine, for an operation that draws ids before it is checked as a whole: also `Closed`, `ReadOnly` and `Poisoned`.
    pub(crate) fn enter_to_write(&self) -> Result<&Engine> {
        let engine = self.enter()?;
        engine.disk.writes_allowed()?;
        Ok(engine)
    }
    /// What is true of the opening itself, which any process may know.
    pub(crate) fn fact<T>(&self, f: impl FnOnce(&Engine) -> T) -> T {
        f(&self.0)
    }
    /// A handle to an object of this store.
    pub(crate) fn handle<N: Name>(&self, number: u64) -> Handle<N> {
        Handle { root: self.clone(), name: N::new(number), view: OnceLock::new() }
    }
    /// The number of an object that an operation of this store was given. `Invalid` for one of another store.
    pub(crate) fn own<N: Name>(&self, handle: &Handle<N>) -> Result<u64> {
        if Arc::ptr_eq(&self.0, &handle.root.0) {
            Ok(handle.name.number())
        } else {
            Err(Error::invalid("a handle of another store"))
        }
    }
}

/// An object of a store.
#[derive(Clone)]
pub(crate) struct Handle<N> {
    root: Root,
    name: N,
    /// What reads know of it; kept from the first one on.
    view: OnceLock<Arc<View>>,
}

/// An object on the inside: its number, and the engine that it is of.
#[derive(Clone, Copy)]
pub(crate) struct Entered<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) number: u64,
    pub(crate) target: Target,
}

impl<N: Name> Handle<N> {
    /// What the object is called, for whoever shows it.
    pub(crate) fn name(&self) -> N {
        self.name
    }
    /// The store that it is of, for operations and handles of other objects.
    pub(crate) fn root(&self) -> &Root {
        &self.root
    }
    /// The object, for an operation. `WrongProcess` in a forked child.
    #[inline]
    pub(crate) fn enter(&self) -> Result<Entered<'_>> {
        Ok(Entered { engine: self.root.enter()?, number: self.name.number(), target: self.name.target() })
    }
    /// What reads know of the object.
    #[inline]
    pub(crate) fn view(&self, this: Entered<'_>) -> &View {
        self.view.get_or_init(|| this.engine.translations.view(this.target))
    }
}
