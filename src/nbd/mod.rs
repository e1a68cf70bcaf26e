//! An NBD server: every volume of a store is an export, and every snapshot a read-only one.
//!
//! A volume's export has the volume's name; a snapshot's is `VOL@NAME`, or `@ID` where its volume is gone. The empty name stands for the only
//! volume of a store that has just one. What is created while the server runs can be connected to at once.
//!
//! ```no_run
//! use snapdisk::{Options, nbd};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = Options::new().open("disks.img")?;
//! let listener = nbd::Listener::unix("disks.nbd")?;
//! let server = nbd::Server::start(store.clone(), vec![listener], nbd::ServerOptions::default())?;
//! // Here clients connect: nbd+unix:///root?socket=disks.nbd
//! server.stop();
//! store.close()?;
//! # Ok(()) }
//! ```
//!
//! # What a connection means
//!
//! A volume is attached ([`Volume::attach`](crate::Volume::attach)) for as long as anybody is connected to it. Any number of clients may be,
//! and they see one another's writes (`MULTI_CONN`). Meanwhile deletion, rollback and shrinking answer [`Busy`](crate::ErrorKind::Busy) to
//! everybody else, unless they are forced. Where they are, each client is answered `ESHUTDOWN` to whatever it sends, nothing of which is
//! carried out, and its connection is closed, within a second if it is idle. A client that connects anew gets the new content.
//! A volume that grows keeps its old size for those that are connected. A snapshot can be deleted while it is read: its connections end as well.
//!
//! # What is durable when
//!
//! `FLUSH` makes durable every write, of any connection, that was answered before it came; a request with `FUA` is durable when it is
//! answered. A write of up to 1 MiB is there whole or not at all after a crash. A volume's data may be in no more than the store's memory until
//! then, as behind the cache of any disk.
//!
//! # What the protocol leaves open
//!
//! Offsets and lengths are bytes, at any alignment. `TRIM` and `WRITE_ZEROES` free whole blocks of 4 KiB. `WRITE_ZEROES` with `NO_HOLE` writes
//! zeros that take space, and with `FAST_ZERO` as well it answers `ENOTSUP`. Since nothing is overwritten in place, a write to a part that
//! `base:allocation` tells as data may still fail for want of space. Runs of zeros of 16 KiB and more in a longer read are told as holes, whether they are holes
//! or were written. A status tells of at most 256 parts. Reads of up to 32 MiB are served, and so are writes; a write of more ends the connection.
//! TLS and extended headers are refused.

#![allow(
    clippy::disallowed_methods,
    reason = "a server has peers whose silence it measures, and threads of its own; no replay goes through it"
)]

mod batch;
// The protocol's bytes, for the fuzz targets and the tests of this project.
#[cfg(feature = "sim")]
pub mod command;
#[cfg(not(feature = "sim"))]
#[allow(unreachable_pub, reason = "public with the feature `sim`, for tools")]
mod command;
mod export;
mod handshake;
mod listener;
// The protocol's bytes, for the fuzz targets and the tests of this project.
#[cfg(feature = "sim")]
pub mod option;
#[cfg(not(feature = "sim"))]
#[allow(unreachable_pub, reason = "public with the feature `sim`, for tools")]
mod option;
mod request;
mod server;
mod socket;
mod transmit;

pub use listener::Listener;
pub use server::{Lease, Server, ServerOptions};
