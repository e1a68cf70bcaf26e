//! The snapshot service behind HTTP: `/api` with key pairs and signatures, `/` for people, `/health`; metrics on a
//! listener of their own.
//!
//! There is no TLS here; listen on the loopback address, or put a proxy in front.

#![allow(clippy::disallowed_methods, reason = "a server has clocks, and a configuration is a file")]

mod audit;
mod config;
mod envelope;
mod limits;
mod log;
mod openapi;
mod ops;
mod page;
mod server;
mod session;
mod sign;
mod tree;
mod view;
mod wire;

pub use audit::Audit;
pub use config::{Config, PublicUrl};
pub use log::Sink;
pub use openapi::openapi;
pub use server::{Control, Reload, Server, ServerOptions};
pub use sign::{Keys, signature};
pub use wire::{BODY_MAX, Incoming, Outgoing, handle};
