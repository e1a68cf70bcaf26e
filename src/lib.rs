//! Many virtual disks in one image file, inside the process that uses them, with copy-on-write snapshots.
//!
//! A store is one file. It holds *volumes*, which are writable disks of up to 256 TiB, and *snapshots* of them, which never change. Taking,
//! rolling back to, cloning and deleting a snapshot costs one small record and one sync, whatever the size of the disk and however many
//! snapshots there are. Every block is covered by a checksum, and after a crash the image holds exactly the state after some
//! prefix of the operations, with at least all that was flushed.
//!
//! The crate is for authors of virtual machine monitors, sandboxes, build and test environments, and storage services. It is a library with
//! blocking calls; it is no filesystem, has no encryption or compression, and serves block devices only with the feature `nbd`. It needs Linux
//! on a 64-bit machine.
//!
//! # Example
//!
//! ```
//! use snapdisk::{Options, ReadDisk};
//!
//! # fn main() -> snapdisk::Result<()> {
//! # let dir = tempfile::tempdir().unwrap();
//! # let path = dir.path().join("disks.img");
//! let store = Options::new().create(&path)?;
//! let disk = store.create_volume("root", 10 << 30)?;
//! disk.write_at(b"hello", 4096)?;
//! let before = disk.snapshot("before")?;
//! disk.write_at(b"HELLO", 4096)?;
//! disk.flush()?;
//!
//! // A second branch that starts at the snapshot, and the first one back at it.
//! let copy = store.clone_volume(&before, "experiment")?;
//! disk.rollback(&before)?;
//! let disks: [&dyn ReadDisk; 3] = [&disk, &before, &copy];
//! for disk in disks {
//!     let mut buf = [0; 5];
//!     disk.read_at(&mut buf, 4096)?;
//!     assert_eq!(&buf, b"hello");
//! }
//! store.close()?;
//!
//! // Another day, or after a crash.
//! let store = Options::new().open(&path)?;
//! assert_eq!(store.volume("root")?.snapshots()?.len(), 1);
//! # store.close() }
//! ```
//!
//! # The types, in the order in which one meets them
//!
//! | type | what it is |
//! |---|---|
//! | [`Options`] | how an image is created or opened: by path, below an open directory, in files that are open already, or on storage of one's own |
//! | [`Store`] | the open image: makes, finds, clones and deletes volumes and snapshots; checks; closes |
//! | [`Volume`] | a writable disk: reads, writes, discards, flushes, resizes, rolls back |
//! | [`AttachedVolume`] | a volume in use, which nobody rolls back, shrinks or deletes but by force |
//! | [`Snapshot`] | a frozen one: reads |
//! | [`ReadDisk`] | what both of them do alike, for code that takes either: bytes, and which parts are data ([`Extents`]) |
//! | [`NewOptions`] | tags of a new volume, snapshot or clone, and when it is durable |
//! | [`Update`] | several operations as one, all of which happen or none |
//! | [`Error`], [`ErrorKind`] | what went wrong, whether it was applied, and the errno of a block device; converts into [`std::io::Error`] |
//! | [`Event`] | what happens in the background, and what goes wrong there |
//! | [`Counters`], [`VolumeCounters`] | figures that cost nothing to ask for |
//! | [`Usage`], [`Report`], [`ScrubReport`] | what walks found: the space of a volume or snapshot, damage |
//! | [`io::Backend`] | storage of one's own: five methods |
//!
//! Handles are cheap to clone and may be used from any thread at once. A store has one writer, which holds a lock on the file, or any number of readers.
//!
//! # What is durable when
//!
//! A write is seen by every later read when it returns, and is durable when a later [`Volume::flush`] or [`Store::flush`] of any handle has returned; a write
//! of up to [`ATOMIC_WRITE_MAX`] bytes is there whole or not at all. Creating, snapshotting, cloning, rolling back, renaming and deleting are
//! durable when they return, unless [`Durability::Deferred`] was asked for. Dropping a store without [`Store::close`] is as a crash is.
//! After a failed write or sync every change answers [`ErrorKind::Poisoned`] until the image is opened again; reads go on.
//!
//! # Features
//!
//! * `api`: a snapshot service over a store, typed and flat, without HTTP. `http`: the same behind signed requests, with a page for people. `cli`: the
//!   command `snapdisk`.
//! * `capi`: the C interface, for other languages and for plugins.
//! * `vhost`: volumes and snapshots as disks of virtual machines.
//! * `nbd`: a server of volumes and snapshots as network block devices.
//! * `tracing`: [`Event`]s for the crate `tracing`.
//! * `sim`: the simulated disk, the format and what else the project's own tools need. It promises no stable interface.
//!
//! # Further
//!
//! In the repository: `docs/embedding.md` (jails, passed files, system calls, errors of a server), `docs/architecture.md` (how it works, the
//! invariants), `docs/format.md` (every byte), `docs/reliability.md` (how the promises are tested), `README.md` (the command, and quirks that are worth
//! knowing), `examples/`.

#[cfg(not(target_os = "linux"))]
compile_error!("snapdisk needs Linux: flock, fallocate, O_DIRECT and MADV_POPULATE_READ are what it stands on");
#[cfg(not(target_pointer_width = "64"))]
compile_error!("snapdisk needs a 64-bit target");

#[cfg(feature = "api")]
pub mod api;
mod attached;
mod audit;
mod bytes;
#[cfg(feature = "capi")]
pub mod capi;
mod codec;
mod counters;
mod diff;
mod engine;
mod error;
mod events;
// The bytes on disk, for the tools of this project: the explorer, the fuzz targets and the tests that forge images.
#[cfg(feature = "sim")]
pub mod format;
#[cfg(not(feature = "sim"))]
#[allow(dead_code, unreachable_pub, reason = "public with the feature `sim`, for tools")]
mod format;
mod handle;
mod hint;
#[cfg(feature = "http")]
pub mod http;
pub mod io;
mod knobs;
mod lack;
mod log;
#[cfg(feature = "nbd")]
pub mod nbd;
mod options;
mod read_disk;
mod snapshot;
mod space;
mod store;
mod sync;
mod terms;
mod tree;
#[cfg_attr(not(feature = "sim"), allow(unreachable_pub, reason = "two of them are public with the feature `sim`"))]
mod units;
#[cfg(feature = "vhost")]
pub mod vhost;
mod volume;

pub use attached::{AttachedVolume, Forced};
pub use audit::{
    DAMAGED, Damage, Finding, FindingKind, Progress, Report, ScrubReport, SnapshotUsage, Usage, UsageReport,
    VolumeUsage,
};
pub use counters::{Counters, VolumeCounters};
pub use diff::{Diff, DiffKind, DiffRange};
pub use error::{Error, ErrorKind, Result};
pub use events::Event;
#[cfg(feature = "tracing")]
pub use events::trace;
#[cfg(feature = "sim")]
pub use knobs::Knobs;
pub use options::Options;
pub use read_disk::{Extents, MapExtent, ReadDisk};
pub use snapshot::Snapshot;
pub use store::{DiffBase, DiskRef, SnapshotRef, Store, Update};
pub use terms::{DeleteSnapshots, Durability, NewOptions};
pub use units::{ATOMIC_WRITE_MAX, BLOCK, EXTENT_MAX, IMAGE_MAX, SECTOR, SnapshotId, VOLUME_MAX, VolumeId};
#[cfg(feature = "sim")]
pub use units::{Block, Stamp};
pub use volume::Volume;

/// What the simulator needs to know of an image.
#[cfg(feature = "sim")]
pub mod sim_support {
    use crate::{Options, Result, io};
    use std::sync::Arc;

    pub use crate::audit::Protected;

    /// A seeded scheduler of threads over the engine and the simulated disk.
    pub mod schedule {
        pub use crate::sync::schedule::{Caller, Choice, Outcome, Plan, run};
    }

    /// Whether the calling thread holds the lock of a store's state, under which no disk may be at work.
    pub fn holds_state() -> bool {
        crate::sync::holds_quick()
    }

    /// What a crash right now would need of `durable`, an image that nobody writes.
    pub fn protected(durable: Arc<dyn io::Backend>, host: Arc<dyn io::Host>, options: &Options) -> Result<Protected> {
        crate::audit::protected(durable, host, options.config()?)
    }
}

/// The examples of the README and of the page for embedders, to be compiled.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../docs/embedding.md")]
    struct Embedding;
}
