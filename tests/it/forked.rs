//! A backend in memory for tests of handles: of a process that was forked, and of a write that is on its way.

use snapdisk::{
    BLOCK,
    io::{Backend, Lane, MemoryBackend},
};
use std::{
    io,
    sync::{
        Barrier, OnceLock,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

/// Memory that can be made to look as it does to a forked child, and whose next write of data can be made to wait.
#[derive(Default)]
pub(crate) struct Memory {
    inner: MemoryBackend,
    /// The process that asks is a child of the one that opened the image.
    pub(crate) child: AtomicBool,
    /// The next write of eight blocks waits.
    pub(crate) holds: AtomicBool,
    /// Where it is met, and where it is let go.
    pub(crate) held: OnceLock<(Barrier, Barrier)>,
}

impl Backend for Memory {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read_at(offset, buf)
    }
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<usize> {
        if buf.len() == BLOCK * 8 && self.holds.swap(false, SeqCst) {
            let (reached, go) = self.held.get().unwrap();
            reached.wait();
            go.wait();
        }
        self.inner.write_at(offset, buf)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }
    fn sync_data(&self, lane: Lane) -> io::Result<()> {
        self.inner.sync_data(lane)
    }
    fn same_process(&self) -> bool {
        !self.child.load(SeqCst)
    }
}
