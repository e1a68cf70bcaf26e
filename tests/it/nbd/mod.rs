//! The NBD server, as clients see it that speak raw bytes: the handshake, every request, and what happens to a disk that is in use.

pub(crate) mod client;
mod handshake;
mod lives;
mod model;
mod requests;
mod wire;
