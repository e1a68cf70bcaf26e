//! Integration tests, one binary.

#![allow(clippy::disallowed_methods, reason = "tests print how long they took, and run threads")]

mod api;
mod basic;
mod costs;
#[cfg(feature = "cli")]
mod cli;
mod explorer;
mod faults;
mod flips;
mod format;
mod model;
mod tidy;
