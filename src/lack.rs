//! What a step that works in memory alone may lack.
//!
//! Trees, space map and state do no input or output: where something is not in memory they stop and say what it is. Whoever
//! called them gets it while no lock is held and calls again. That a step changes all that it is meant to or nothing is the
//! business of its caller ([`Stop`] says nothing of it).

use crate::{
    Error,
    units::{Block, Stamp, Target, VOLUME_BLOCKS},
};

/// A key: a logical block in extent trees, a packed catalog key in the catalog.
pub(crate) type Key = u128;

/// Which codec a tree uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shape {
    Extents,
    Records,
}

impl Shape {
    /// One more than the largest key.
    pub(crate) fn end(self) -> Key {
        match self {
            Shape::Extents => VOLUME_BLOCKS as Key,
            Shape::Records => Key::MAX,
        }
    }
}

/// A reference to a node: where it is and the stamp that only the meant content carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Child {
    pub(crate) block: Block,
    pub(crate) stamp: Stamp,
}

/// A node that is not in memory: enough to load and check it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Miss {
    pub(crate) shape: Shape,
    pub(crate) child: Child,
    pub(crate) level: u8,
    /// The keys that its referrer allows: lowest, and one more than the highest.
    pub(crate) bounds: (Key, Key),
}

/// A page of the space map that is not in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PageRef {
    /// 0 for a region's counts, else the level of an index page.
    pub(crate) level: u8,
    pub(crate) index: u64,
    /// Its current home, and the stamp that the page has there.
    pub(crate) at: Block,
    pub(crate) stamp: u64,
}

/// What a step lacks.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Lack {
    Node(Miss),
    /// A node that the step makes use of if it can be read, and does without if not.
    Neighbour(Miss),
    Page(PageRef),
    /// The record of a volume or snapshot.
    Record(Target),
    /// So many free blocks more than may be taken.
    Space(u64),
    /// Room in the log for a record of so many bytes.
    Log(usize),
    /// What was read before the lock was taken is no longer so, or was not read yet.
    Reread,
}

/// Why a step stopped.
#[derive(Debug)]
pub(crate) enum Stop {
    Lack(Lack),
    Failed(Error),
}

/// What a step in memory gives.
pub(crate) type Step<T> = Result<T, Stop>;

impl Stop {
    /// The failure of a step whose nodes are read when they are asked for, so that it lacks nothing.
    pub(crate) fn into_error(self) -> Error {
        match self {
            Stop::Failed(e) => e,
            Stop::Lack(lack) => Error::corrupt(format!("{lack:?} can't be had here")),
        }
    }
}

impl From<Error> for Stop {
    fn from(e: Error) -> Stop {
        Stop::Failed(e)
    }
}

impl From<Lack> for Stop {
    fn from(lack: Lack) -> Stop {
        Stop::Lack(lack)
    }
}
