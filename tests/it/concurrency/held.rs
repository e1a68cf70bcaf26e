//! A backend whose calls a test can hold up.

use parking_lot::Mutex;
use snapdisk::io::{Backend, Lane, sim::SimBackend};
use std::{
    io::{self, IoSlice},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
        mpsc::{Receiver, Sender, channel},
    },
};

/// A backend that holds one write or read up, and knows whether it was given away.
pub(super) struct Held {
    pub(super) disk: SimBackend,
    released: AtomicBool,
    write: Mutex<Option<Stop>>,
    read: Mutex<Option<Stop>>,
    late: AtomicBool,
}

/// Told once a call waits, and waited for by it.
pub(super) type Stop = (Sender<()>, Receiver<()>);

impl Held {
    pub(super) fn new() -> Arc<Held> {
        Arc::new(Held {
            disk: SimBackend::new(),
            released: AtomicBool::new(false),
            write: Mutex::default(),
            read: Mutex::default(),
            late: AtomicBool::new(false),
        })
    }
    /// Holds the next write up: the first channel tells that it waits, the second lets it go on.
    pub(super) fn hold_a_write(&self) -> (Receiver<()>, Sender<()>) {
        hold(&self.write)
    }
    /// Holds the next read up.
    pub(super) fn hold_a_read(&self) -> (Receiver<()>, Sender<()>) {
        hold(&self.read)
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

impl Backend for Held {
    fn len(&self) -> io::Result<u64> {
        self.disk.len()
    }
    fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.wait(&self.read);
        self.disk.read_at(off, buf)
    }
    fn read_cold(&self, off: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.disk.read_cold(off, buf)
    }
    fn has_cold_reads(&self) -> bool {
        self.disk.has_cold_reads()
    }
    fn read_mapped(&self, off: u64, buf: &mut [u8]) -> io::Result<bool> {
        self.disk.read_mapped(off, buf)
    }
    fn write_at(&self, off: u64, buf: &[u8]) -> io::Result<usize> {
        self.wait(&self.write);
        self.disk.write_at(off, buf)
    }
    fn write_vectored_at(&self, off: u64, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.disk.write_vectored_at(off, bufs)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.set_len(len)
    }
    fn punch(&self, off: u64, len: u64) -> io::Result<()> {
        self.disk.punch(off, len)
    }
    fn reserve(&self, off: u64, len: u64) -> io::Result<()> {
        self.disk.reserve(off, len)
    }
    fn is_fresh_space_weak(&self) -> bool {
        self.disk.is_fresh_space_weak()
    }
    fn push(&self, off: u64, len: u64) -> io::Result<()> {
        self.disk.push(off, len)
    }
    fn sync_data(&self, lane: Lane) -> io::Result<()> {
        self.disk.sync_data(lane)
    }
    fn release(&self) {
        self.released.store(true, SeqCst);
    }
    fn same_process(&self) -> bool {
        self.disk.same_process()
    }
}

fn hold(stop: &Mutex<Option<Stop>>) -> (Receiver<()>, Sender<()>) {
    let ((waits, waiting), (go, gone)) = (channel(), channel());
    *stop.lock() = Some((waits, gone));
    (waiting, go)
}
