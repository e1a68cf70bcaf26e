//! Signals: long work stops at its next step and cleans up; a second signal ends the process at once.

use crate::failure::{At, Failure, Outcome};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
};
use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

static STOP: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Has signals noted, from here on, instead of ending the process.
pub(crate) fn catch() -> Outcome {
    let stop = STOP.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // In this order: the first signal finds the flag down and raises it, the next one finds it up.
        flag::register_conditional_shutdown(signal, 1, stop.clone()).at("signals")?;
        flag::register(signal, stop.clone()).at("signals")?;
    }
    Ok(())
}

/// Returns whether a signal came.
pub(crate) fn came() -> bool {
    STOP.get().is_some_and(|stop| stop.load(Ordering::Relaxed))
}

/// Fails once a signal came.
pub(crate) fn check() -> Outcome {
    if came() { Err(Failure::new("interrupted")) } else { Ok(()) }
}
