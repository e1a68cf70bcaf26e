//! Whether the standard streams were open when the process began. The runtime opens `/dev/null` in the place of one that was not, after
//! which a lost output can't be told from one that nobody wants, nor a missing input from an empty one.
#![allow(unsafe_code, reason = "a function that runs before the runtime")]

use rustix::{
    io::fcntl_getfd,
    stdio::{stdin, stdout},
};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

static INPUT: AtomicBool = AtomicBool::new(true);
static OUTPUT: AtomicBool = AtomicBool::new(true);

// SAFETY: the C library calls each pointer in this section once, before `main`, by a convention with which a function without parameters
// and result agrees. `look` needs nothing of Rust's runtime: it makes two system calls and stores to two atomics, and can't unwind.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

extern "C" fn look() {
    INPUT.store(fcntl_getfd(stdin()).is_ok(), Relaxed);
    OUTPUT.store(fcntl_getfd(stdout()).is_ok(), Relaxed);
}

pub(crate) fn has_input() -> bool {
    INPUT.load(Relaxed)
}
pub(crate) fn has_output() -> bool {
    OUTPUT.load(Relaxed)
}
