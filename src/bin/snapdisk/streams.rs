//! The descriptors that the process began with: sockets that a service manager has passed, and whether the standard streams were open. The runtime opens `/dev/null` in the place of one that was not, after
//! which a lost output can't be told from one that nobody wants, nor a missing input from an empty one.
#![allow(
    unsafe_code,
    reason = "a function that runs before the runtime, and descriptors that are known by their number"
)]

use rustix::{
    io::{FdFlags, fcntl_getfd, fcntl_setfd},
    stdio::{stdin, stdout},
};
use std::{
    os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

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

/// The first descriptor that a service manager passes.
const FIRST: RawFd = 3;
/// More than this many sockets are no list of a service manager.
const MOST: RawFd = 64;

/// The sockets that a service manager has passed to this process, as `sd_listen_fds` has them. Only the first call gets them.
pub(crate) fn passed_sockets() -> Vec<OwnedFd> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<RawFd>().ok());
    let count = number("LISTEN_FDS").filter(|n| (1..=MOST).contains(n));
    // The variables may be meant for another process, from which this one has inherited them.
    let (Some(count), true) = (count, number("LISTEN_PID") == Some(std::process::id() as RawFd)) else {
        return Vec::new();
    };
    if TAKEN.swap(true, Relaxed) {
        return Vec::new();
    }
    (FIRST..FIRST + count)
        .filter_map(|fd| {
            // SAFETY: the descriptor is borrowed for one call that looks whether it is open, and answers with an error if it is not.
            let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
            fcntl_setfd(borrowed, FdFlags::CLOEXEC).ok()?;
            // SAFETY: it is open, as was just seen. By the manager's convention it was opened for this process to own, before the process began, so
            // that nothing here has opened it or will close it. Each is taken once: `TAKEN` lets only the first call come here.
            Some(unsafe { OwnedFd::from_raw_fd(fd) })
        })
        .collect()
}
