//! Integration tests, one binary.

#![allow(clippy::disallowed_methods, reason = "tests print how long they took, and run threads")]

mod abandoned;
mod api;
mod backend;
mod background;
mod basic;
mod benchmarks;
#[cfg(feature = "capi")]
mod capi;
#[cfg(feature = "cli")]
mod cli;
mod concurrency;
mod corpus;
mod costs;
mod diff;
mod disks;
mod events;
mod explorer;
mod faults;
mod files;
mod flips;
mod forked;
mod format;
mod fresh;
mod handles;
mod hooked;
mod hostile;
mod jail;
mod known;
mod leases;
mod listing;
mod memory;
mod model;
#[cfg(feature = "nbd")]
mod nbd;
mod passes;
mod reads;
mod room;
mod salvage;
mod schedule;
#[cfg(feature = "cli")]
mod serve;
mod settings;
mod surface;
mod tidy;
mod undone;
mod unreadable;
mod usage;
#[cfg(feature = "vhost")]
mod vhost;
mod wrapped;
