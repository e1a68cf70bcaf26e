//! Many virtual disks in one image file, in process, with real copy-on-write snapshots.
#![doc = include_str!("../README.md")]

#[cfg(not(target_os = "linux"))]
compile_error!("snapdisk needs Linux: flock, fallocate, O_DIRECT and MADV_POPULATE_READ are what it stands on");
#[cfg(not(target_pointer_width = "64"))]
compile_error!("snapdisk needs a 64-bit target");

mod error;
mod units;
pub mod format;
pub mod io;

pub use error::{Error, ErrorKind, Result};
pub use units::{ATOMIC_WRITE_MAX, BLOCK, EXTENT_MAX, IMAGE_MAX, SECTOR, VOLUME_MAX};
