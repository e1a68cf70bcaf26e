//! A backend that lets something happen in the midst of an operation.

use snapdisk::io::{Backend, Lane, MemoryBackend};
use std::{
    io,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

/// What happens in the midst of a read.
type Hook = Box<dyn FnOnce() + Send>;

/// Memory that does something once, before one of its reads.
#[derive(Default)]
pub(crate) struct Hooked {
    inner: MemoryBackend,
    reads: AtomicU64,
    hook: Mutex<Option<(u64, Hook)>>,
}

impl Hooked {
    /// Runs `hook` at the read after `skipped` others.
    pub(crate) fn set(&self, skipped: u64, hook: impl FnOnce() + Send + 'static) {
        *self.hook.lock().unwrap() = Some((self.reads.load(SeqCst) + skipped, Box::new(hook)));
    }
    /// Whether the hook has run.
    pub(crate) fn has_run(&self) -> bool {
        self.hook.lock().unwrap().take().is_none()
    }
}

impl Backend for Hooked {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.reads.fetch_add(1, SeqCst);
        let hook = self.hook.lock().unwrap().take_if(|(at, _)| *at <= n);
        if let Some((_, hook)) = hook {
            hook();
        }
        self.inner.read_at(offset, buf)
    }
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<usize> {
        self.inner.write_at(offset, buf)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }
    fn sync_data(&self, lane: Lane) -> io::Result<()> {
        self.inner.sync_data(lane)
    }
}
