//! The open image: what the log, the checkpoint and recovery make of trees and space.
//!
//! Only this layer syncs, and only it knows volumes. [`Engine`] is the open image; everything that a caller holds has an
//! `Arc` of it.

mod apply;
mod catalog;
mod checkpoint;
mod data;
mod engine;
mod flush;
mod log;
mod maintain;
mod meta;
mod open;
mod ops;
mod recover;
#[cfg(test)]
mod tests;
mod walk;
mod write;

pub(crate) use catalog::{SnapshotRecord, VolumeRecord};
pub(crate) use data::Target;
pub(crate) use engine::{Config, Engine, Owner};
pub(crate) use meta::Wish;
pub(crate) use ops::DeleteMode;
pub(crate) use walk::Capture;
#[cfg(feature = "sim")]
#[allow(unreachable_pub, reason = "public through `sim_support`")]
pub use walk::{Protected, protected};
pub(crate) use write::Bytes;
