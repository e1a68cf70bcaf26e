//! A backend whose calls a test can hold up.

use crate::wrapped::{Call, Watch, Wrapped};
use parking_lot::Mutex;
use snapdisk::io::sim::SimBackend;
use std::{
    io,
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
        mpsc::{Receiver, Sender, channel},
    },
};

/// A simulated disk that holds one write, read or push up, and knows whether it was released.
pub(super) type Held = Wrapped<Hold, SimBackend>;

/// What is held up.
#[derive(Default)]
pub(super) struct Hold {
    released: AtomicBool,
    write: Mutex<Option<Stop>>,
    read: Mutex<Option<Stop>>,
    push: Mutex<Option<Stop>>,
    syncs: AtomicU64,
    late: AtomicBool,
}

/// Told once a call waits, and waited for by it.
pub(super) type Stop = (Sender<()>, Receiver<()>);

impl Hold {
    /// Holds the next write up: the first channel tells that it waits, the second lets it go on.
    pub(super) fn hold_a_write(&self) -> (Receiver<()>, Sender<()>) {
        hold(&self.write)
    }
    /// Holds the next read up.
    pub(super) fn hold_a_read(&self) -> (Receiver<()>, Sender<()>) {
        hold(&self.read)
    }
    /// Holds the next push up.
    pub(super) fn hold_a_push(&self) -> (Receiver<()>, Sender<()>) {
        hold(&self.push)
    }
    /// Syncs that were begun.
    pub(super) fn syncs(&self) -> u64 {
        self.syncs.load(SeqCst)
    }
    pub(super) fn is_released(&self) -> bool {
        self.released.load(SeqCst)
    }
    /// Whether a call that was held up went on when the image had been given away.
    pub(super) fn was_late(&self) -> bool {
        self.late.load(SeqCst)
    }

    fn wait(&self, stop: &Mutex<Option<Stop>>) {
        let stop = stop.lock().take();
        if let Some((waits, go)) = stop {
            waits.send(()).unwrap();
            go.recv().unwrap();
            self.late.store(self.released.load(SeqCst), SeqCst);
        }
    }
}

impl Watch for Hold {
    fn before(&self, call: Call<'_>) -> io::Result<()> {
        match call {
            Call::Read => self.wait(&self.read),
            Call::Write(_, [_]) => self.wait(&self.write),
            Call::Push => self.wait(&self.push),
            Call::Sync => drop(self.syncs.fetch_add(1, SeqCst)),
            Call::Release => self.released.store(true, SeqCst),
            _ => {}
        }
        Ok(())
    }
}

fn hold(stop: &Mutex<Option<Stop>>) -> (Receiver<()>, Sender<()>) {
    let ((waits, waiting), (go, gone)) = (channel(), channel());
    *stop.lock() = Some((waits, gone));
    (waiting, go)
}
