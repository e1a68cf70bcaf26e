//! The snapshot service behind HTTP: `/api` with key pairs and signatures, `/` for people, `/health`, `/metrics`.
//!
//! There is no TLS here; listen on the loopback address, or put a proxy in front.

#![allow(clippy::disallowed_methods, reason = "a server has clocks, and a configuration is a file")]

mod config;
mod page;
mod server;
mod session;
mod sign;
mod view;
mod wire;

pub use config::Config;
pub use server::{Server, ServerOptions, Stop};
pub use sign::{Keys, signature};
pub use wire::{BODY_MAX, Incoming, Outgoing, handle};
