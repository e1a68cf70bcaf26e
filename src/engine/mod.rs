//! The engine: the log, checkpoints and recovery over the trees and the space map.
//!
//! Only this layer syncs, and only it knows volumes. [`Engine`] is the open image; every handle has an `Arc` of it.

mod ahead;
mod budget;
mod catalog;
mod change;
mod checkpoint;
mod diff;
mod flush;
mod lease;
mod listing;
mod maintain;
mod meter;
mod open;
mod ops;
mod owner;
mod read;
mod reclaim;
mod recover;
mod staging;
mod state;
mod translation;
mod writeback;

pub(crate) use catalog::{CatalogView, SnapshotRecord, VolumeRecord};
pub(crate) use diff::Differences;
pub(crate) use lease::{Authority, Lease};
pub(crate) use meter::{Counts, IoKind, Meter};
#[cfg(feature = "sim")]
pub(crate) use open::{Newest, newest_superblock};
pub(crate) use ops::{Ask, Bytes};
pub(crate) use owner::Owner;
#[cfg(feature = "sim")]
pub(crate) use recover::needed_len;
pub(crate) use staging::Staging;
pub(crate) use state::{Config, Engine, State};
pub(crate) use translation::View;
