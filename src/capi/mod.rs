//! The C interface: what other languages, and programs that load plugins, use the library through.
//!
//! `src/capi/snapdisk.h` is its header, made by cbindgen from this directory; a test says whether it is current. The functions are a thin
//! layer over [`Store`](crate::Store), [`Volume`](crate::Volume), [`AttachedVolume`](crate::AttachedVolume) and
//! [`Snapshot`](crate::Snapshot), whose documentation says what each of them promises. The library is built by
//!
//! ```text
//! cargo rustc --release --lib --features capi --crate-type cdylib,staticlib
//! ```
//!
//! as `target/release/libsnapdisk.so` and `libsnapdisk.a`. The crate types are named there and not in `Cargo.toml`, since every build of
//! the crate by a Rust program would make both libraries too, and could not be optimised across crates.
//!
//! * Handles are numbers that are looked up: a closed one, one of another kind and one that went through a `fork` are answered with an
//!   error.
//! * Every function answers a code, and keeps a message for its thread.
//! * A panic ends at one place, as a code.
//! * Pointers are the caller's promise where nothing can check them: see `raw.rs`.
//!
//! Rust programs have no use for this module.

mod data;
mod disk;
mod handles;
mod raw;
mod store;
mod types;

pub use data::*;
pub use disk::*;
pub use store::*;
pub use types::*;
