//! A backend that lets something happen in the midst of an operation.

use crate::wrapped::{Call, Watch, Wrapped};
use std::{
    io,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

/// Memory that does something once, before one of its reads.
pub(crate) type Hooked = Wrapped<Hook>;

/// What happens, and before which read.
#[derive(Default)]
pub(crate) struct Hook {
    reads: AtomicU64,
    act: Mutex<Option<(u64, Act)>>,
}

type Act = Box<dyn FnOnce() + Send>;

impl Hook {
    /// Runs `act` at the read after `skipped` others.
    pub(crate) fn set(&self, skipped: u64, act: impl FnOnce() + Send + 'static) {
        *self.act.lock().unwrap() = Some((self.reads.load(SeqCst) + skipped, Box::new(act)));
    }
    /// Whether that has happened.
    pub(crate) fn has_run(&self) -> bool {
        self.act.lock().unwrap().take().is_none()
    }
}

impl Watch for Hook {
    fn before(&self, call: Call<'_>) -> io::Result<()> {
        if let Call::Read = call {
            let n = self.reads.fetch_add(1, SeqCst);
            let due = self.act.lock().unwrap().take_if(|(at, _)| *at <= n);
            if let Some((_, act)) = due {
                act();
            }
        }
        Ok(())
    }
}
