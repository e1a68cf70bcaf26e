//! A backend that passes every call on to another one, after a test has watched it, failed it or held it up.

use snapdisk::io::{Backend, Lane, MemoryBackend};
use std::{
    io::{self, IoSlice},
    ops::Deref,
};

/// A call that changes or reads the storage.
#[derive(Clone, Copy)]
pub(crate) enum Call<'a> {
    Read,
    /// Past the cache: offset and length.
    ReadCold(u64, usize),
    /// Offset and buffers; one buffer where it was a plain write.
    Write(u64, &'a [IoSlice<'a>]),
    SetLen,
    Punch,
    Reserve,
    Push,
    Sync,
    DropCache,
    Release,
}

/// What a test does at each call.
pub(crate) trait Watch: Send + Sync {
    /// Comes before the call, which an error takes the place of.
    fn before(&self, call: Call<'_>) -> io::Result<()>;
    /// What [`Backend::same_process`] answers.
    fn same_process(&self) -> bool {
        true
    }
}

/// The backend.
#[derive(Default)]
pub(crate) struct Wrapped<W, B = MemoryBackend> {
    pub(crate) inner: B,
    watch: W,
}

impl<W, B> Wrapped<W, B> {
    pub(crate) fn new(watch: W, inner: B) -> Wrapped<W, B> {
        Wrapped { inner, watch }
    }
}

impl<W, B> Deref for Wrapped<W, B> {
    type Target = W;
    fn deref(&self) -> &W {
        &self.watch
    }
}

impl<W: Watch, B: Backend> Backend for Wrapped<W, B> {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.before(Call::Read)?;
        self.inner.read_at(offset, buf)
    }
    fn read_cold(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.before(Call::ReadCold(offset, buf.len()))?;
        self.inner.read_cold(offset, buf)
    }
    fn has_cold_reads(&self) -> bool {
        self.inner.has_cold_reads()
    }
    fn drop_cache(&self) {
        let _ = self.before(Call::DropCache);
        self.inner.drop_cache();
    }
    fn read_mapped(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        self.inner.read_mapped(offset, buf)
    }
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<usize> {
        self.before(Call::Write(offset, &[IoSlice::new(buf)]))?;
        self.inner.write_at(offset, buf)
    }
    fn write_vectored_at(&self, offset: u64, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.before(Call::Write(offset, bufs))?;
        self.inner.write_vectored_at(offset, bufs)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.before(Call::SetLen)?;
        self.inner.set_len(len)
    }
    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.before(Call::Punch)?;
        self.inner.punch(offset, len)
    }
    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        self.before(Call::Reserve)?;
        self.inner.reserve(offset, len)
    }
    fn is_fresh_space_weak(&self) -> bool {
        self.inner.is_fresh_space_weak()
    }
    fn push(&self, offset: u64, len: u64) -> io::Result<()> {
        self.before(Call::Push)?;
        self.inner.push(offset, len)
    }
    fn sync_data(&self, lane: Lane) -> io::Result<()> {
        self.before(Call::Sync)?;
        self.inner.sync_data(lane)
    }
    fn release(&self) {
        let _ = self.before(Call::Release);
        self.inner.release();
    }
    fn same_process(&self) -> bool {
        self.watch.same_process() && self.inner.same_process()
    }
}
