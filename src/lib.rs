#![doc = include_str!("../README.md")]

#[cfg(not(target_os = "linux"))]
compile_error!("snapdisk needs Linux: flock, fallocate, O_DIRECT and MADV_POPULATE_READ are what it stands on");
#[cfg(not(target_pointer_width = "64"))]
compile_error!("snapdisk needs a 64-bit target");

#[cfg(feature = "api")]
pub mod api;
mod audit;
mod bytes;
mod codec;
mod engine;
mod error;
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
mod options;
mod read_disk;
mod snapshot;
mod space;
mod store;
mod sync;
mod tree;
#[cfg_attr(not(feature = "sim"), allow(unreachable_pub, reason = "two of them are public with the feature `sim`"))]
mod units;
mod volume;

pub use audit::{
    DAMAGED, Damage, Finding, FindingKind, Progress, Report, ScrubReport, SnapshotStats, Stats, Usage, VolumeStats,
};
pub use error::{Error, ErrorKind, Result};
#[cfg(feature = "sim")]
pub use knobs::Knobs;
pub use options::Options;
pub use read_disk::{MapExtent, ReadDisk};
pub use snapshot::Snapshot;
pub use store::{DeleteSnapshots, Durability, NewOptions, SnapshotRef, Store, Update};
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

    /// What a crash right now would need of `durable`, an image that nobody writes.
    pub fn protected(durable: Arc<dyn io::Backend>, host: Arc<dyn io::Host>, options: &Options) -> Result<Protected> {
        crate::audit::protected(durable, host, options.config()?)
    }
}
