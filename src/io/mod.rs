//! The storage seam: everything that the engine asks of the host goes through these two traits.
//!
//! What is assumed of a disk, and all that is assumed:
//! 1. A write that returned is seen by later reads through the same backend.
//! 2. After a power loss each 512-byte sector written since the last completed sync holds its old content or that of
//!    any one of those writes, and up to two of the 4 KiB pages being written may hold garbage; everything written
//!    before a sync began that returned `Ok` is there, and after a synced write that returned `Ok`, what was written before to its ranges. A file
//!    length changed since then may be any value it had.
//! 3. A sync that failed says nothing about any write since the last good one, now or ever.

mod disk;
mod file;
mod map;
mod memory;
#[cfg(feature = "sim")]
pub mod sim;
mod stripe;

use std::{
    io::{self, IoSlice},
    ops::Range,
};

pub(crate) use disk::Disk;
pub use file::{FileBackend, ImageFiles, ReadPath, SystemHost};
#[cfg(feature = "capi")]
pub(crate) use map::ForkMark;
#[cfg(all(test, feature = "capi"))]
pub(crate) use map::in_child;
pub use memory::MemoryBackend;
pub(crate) use stripe::{Alone, STRIPES, stripe};

/// The open file description that a sync goes through. Linux reports a writeback error once per description, so that a flush and a checkpoint
/// that shared one could hide each other's failure. A backend with one description for each lane gives one to a lane that it does not know as
/// well, or fails the sync.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[non_exhaustive]
pub enum Lane {
    /// Group commits.
    Flush,
    /// Checkpoints and everything else.
    Checkpoint,
    /// Fresh space that is written before it is used.
    Space,
}

/// One image's storage. Offsets and lengths are bytes. All calls may come from any thread at once, but for [`set_len`](Backend::set_len) and
/// [`reserve`](Backend::reserve), of which the engine makes one at a time.
///
/// Five methods are required; with these alone a store works and keeps its promises on storage that always has space. Every other method has
/// a default that is safe, and whose documentation says what a store does without it:
///
/// | default | what is weaker for it |
/// |---|---|
/// | [`read_cold`](Backend::read_cold), [`has_cold_reads`](Backend::has_cold_reads), [`drop_cache`](Backend::drop_cache) | an opening after a *failed* sync may take for durable what only a cache below this backend holds; storage without such a cache answers `true` |
/// | [`reserve`](Backend::reserve) | a full host shows when data is written, as [`Io`](crate::ErrorKind::Io) and a poisoned store, rather than as [`NoSpace`](crate::ErrorKind::NoSpace) with nothing applied |
/// | [`is_fresh_space_weak`](Backend::is_fresh_space_weak) | an acknowledged flush can be lost where the storage below tracks which space was ever written and loses track of it (ext4, XFS) |
/// | [`release`](Backend::release) | a lock that this backend holds stays until it is dropped: another opening waits for the last handle, not for `close` |
/// | [`same_process`](Backend::same_process) | a forked child is not refused: parent and child are two writers of one image, which destroys it |
/// | [`punch`](Backend::punch) | no promise; freed space is used again but never returned to the host |
/// | [`read_mapped`](Backend::read_mapped), [`prefetch_mapped`](Backend::prefetch_mapped), [`is_cold`](Backend::is_cold), [`read_ahead`](Backend::read_ahead), [`write_vectored_at`](Backend::write_vectored_at), [`push`](Backend::push), [`write_synced`](Backend::write_synced) | no promise; speed |
///
/// Locking out a second writer is the backend's own affair, whichever methods it has: [`FileBackend`] holds a lock from its opening on.
#[allow(clippy::len_without_is_empty, reason = "an empty image is none")]
pub trait Backend: Send + Sync {
    /// Returns the length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Reads at `offset`; may be short; `Ok(0)` only at the end.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
    /// Writes at `offset`, growing the image where it ends before that; may be short. An error poisons the store, except
    /// [`Interrupted`](io::ErrorKind::Interrupted), after which the call is repeated.
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<usize>;
    /// Sets the length. What it adds reads as zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes everything written before the call durable, with all that is needed to read it back (length included).
    ///
    /// A failed sync is final, and the engine never repeats one. Syncs of different lanes may run at the same time, and each must fail
    /// if a write before it was lost. A backend with one cache that reports a loss once, to one of two syncs at a time, has to
    /// serialise them and to fail every later one.
    fn sync_data(&self, lane: Lane) -> io::Result<()>;

    /// Writes the buffers one after the other at `offset`; may be short. The default writes the first buffer that is not empty.
    fn write_vectored_at(&self, offset: u64, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        bufs.iter().find(|b| !b.is_empty()).map_or(Ok(0), |first| self.write_at(offset, first))
    }
    /// Writes at `offset` and makes that durable before it returns, with the bytes that were written before to the ranges `with`, which ascend and
    /// are disjoint. It need not make durable anything else, so that it does not wait for other data that is on its way to the medium. May
    /// be short; what it says that it wrote is durable. An error other than [`Unsupported`](io::ErrorKind::Unsupported), the default's, is
    /// final as that of [`Backend::sync_data`] is, even if what was lost is other data. After `Unsupported`, with which nothing was written, the
    /// engine writes and syncs in two calls.
    fn write_synced(&self, lane: Lane, offset: u64, buf: &[u8], with: &[Range<u64>]) -> io::Result<usize> {
        let _ = (lane, offset, buf, with);
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Reads what the medium holds rather than a cache of it, where the host can. Used by recovery only. Any alignment of `offset` and
    /// `buf`. The default is [`Backend::read_at`].
    fn read_cold(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.read_at(offset, buf)
    }
    /// Returns whether [`Backend::read_cold`] really bypasses every cache (or the cache is the medium). [`crate::Store::has_cold_reads`]
    /// passes it on. The default, `false`, is the answer that promises less.
    fn has_cold_reads(&self) -> bool {
        false
    }
    /// Drops what the host has cached of the file and written out, or believes to have written: after a failed write-out its cache can hold
    /// pages that the medium does not have, and treat what is written there again as unchanged. Called at most once, while nothing is mapped.
    /// It is a hint; the default does nothing.
    fn drop_cache(&self) {}
    /// Copies `buf.len()` bytes at `offset` out of a shared read-only map. `Ok(false)`, the default: there is no map (or none there, or
    /// it would have to wait for the medium), use [`Backend::read_at`].
    fn read_mapped(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        let _ = (offset, buf);
        Ok(false)
    }
    /// Tells that [`Backend::read_mapped`] of this range follows soon, so that the processor can fetch it while something else is copied.
    /// Changes nothing, waits for nothing, and may be of any range; the default does nothing.
    fn prefetch_mapped(&self, offset: u64, len: usize) {
        let _ = (offset, len);
    }
    /// Returns whether the host may have to fetch some of a range from the medium, as far as that is known without asking it. Where it is not
    /// known at all the answer is `false`, as the default's.
    fn is_cold(&self, offset: u64, len: u64) -> bool {
        let _ = (offset, len);
        false
    }
    /// Tells that a range will be read soon, so that the host begins to fetch what it has not cached, and returns at once. A hint; the default
    /// does nothing.
    fn read_ahead(&self, offset: u64, len: u64) {
        let _ = (offset, len);
    }
    /// Returns a range to the host; it reads as zeros from then on. `Unsupported`, the default, is no failure.
    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let _ = (offset, len);
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Makes the host promise space for a range, growing the file where it ends inside the range. Contents stay;
    /// fresh space reads as zeros. The default grows the image by [`Backend::set_len`] and promises nothing.
    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = offset.checked_add(len).ok_or(io::ErrorKind::FileTooLarge)?;
        if len > 0 && self.len()? < end { self.set_len(end) } else { Ok(()) }
    }
    /// Returns whether space that was reserved and never written is weaker than space that was written: whether the host records separately
    /// what was written there, a failure can undo that record after a sync returned `Ok`, and writing the space once avoids this. It is so on
    /// filesystems that overwrite in place (ext4, XFS). The default is `false`.
    fn is_fresh_space_weak(&self) -> bool {
        false
    }
    /// Starts writing a range out, on the checkpoint's description, so that the sync that follows has less to wait for. May fail as a sync
    /// does. The default does nothing.
    fn push(&self, offset: u64, len: u64) -> io::Result<()> {
        let _ = (offset, len);
        Ok(())
    }
    /// Called when the store was closed: nothing is written from here on, and another opening may have the image. The default does nothing.
    fn release(&self) {}
    /// Returns `false` in a forked child of the process that opened this: operations are refused there with
    /// [`WrongProcess`](crate::ErrorKind::WrongProcess). The default, `true`, is for processes that don't use a store after a fork.
    fn same_process(&self) -> bool {
        true
    }
}

/// What the engine needs of the host besides storage: time and randomness.
pub trait Host: Send + Sync {
    /// Seconds and nanoseconds since the Unix epoch, as nanoseconds. Goes into records only; nothing depends on it.
    fn now(&self) -> u64;
    /// A random number: for UUIDs, hash keys and stamps.
    fn random(&self) -> u64;
}
