//! The storage seam: everything that the engine asks of the host goes through these two traits.
//!
//! What is assumed of a disk, and all that is assumed:
//! 1. A write that returned is seen by later reads through the same backend.
//! 2. After a power loss each 512-byte sector written since the last completed sync holds its old content or that of
//!    any one of those writes, and up to two of the 4 KiB pages being written may hold garbage; everything written
//!    before a sync began that returned `Ok` is there. A file length changed since then may be any value it had.
//! 3. A sync that failed says nothing about any write since the last good one, now or ever.

mod disk;
mod file;
mod map;
mod memory;
#[cfg(feature = "sim")]
pub mod sim;
mod stripe;

use std::io::{self, IoSlice};

pub(crate) use disk::Disk;
pub use file::{FileBackend, ReadPath, SystemHost};
pub use memory::MemoryBackend;
pub(crate) use stripe::{Alone, STRIPES, stripe};

/// Which of the open file descriptions a sync goes through. Linux reports a writeback error once per description,
/// so a flush and a checkpoint that shared one could hide each other's failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Lane {
    /// Group commits.
    Flush,
    /// Checkpoints and everything else.
    Checkpoint,
    /// Fresh space that is written before it is used.
    Space,
}

#[allow(clippy::len_without_is_empty, reason = "an empty image is none")]
/// One image's storage. Offsets and lengths are bytes. All calls may come from any thread at once.
pub trait Backend: Send + Sync {
    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Reads at `off`; may be short; `Ok(0)` only at the end.
    fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<usize>;
    /// Reads what the medium holds rather than a cache of it, where the host can; otherwise as [`Backend::read_at`].
    /// Used by recovery only. Any alignment of `off` and `buf`.
    fn read_cold(&self, off: u64, buf: &mut [u8]) -> io::Result<usize>;
    /// Whether [`Backend::read_cold`] really bypasses the cache (or the cache is the medium).
    fn has_cold_reads(&self) -> bool;
    /// Drops what the host has cached of the file and written out, or believes that it has: after a failed write-out its cache can hold
    /// pages that the medium does not, and take what is written there again for a change of what is there. Called at most once, while
    /// nothing is mapped. A hint, where the host can't.
    fn drop_cache(&self) {}
    /// Copies `buf.len()` bytes at `off` out of a shared read-only map. `Ok(false)`: there is no map (or none there),
    /// use [`Backend::read_at`]. Never faults on a medium that fails when the window is first touched.
    fn read_mapped(&self, off: u64, buf: &mut [u8]) -> io::Result<bool>;
    /// Has the processor fetch the first bytes at `off` of a map, for a read that is about to come. A hint.
    fn prefetch(&self, _off: u64) {}
    /// Writes at `off`; may be short.
    fn write_at(&self, off: u64, buf: &[u8]) -> io::Result<usize>;
    /// Writes the buffers one after the other at `off`; may be short.
    fn write_vectored_at(&self, off: u64, bufs: &[IoSlice<'_>]) -> io::Result<usize>;
    /// Sets the length.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Gives a range back to the host; it reads as zeros from then on. `Unsupported` is no failure.
    fn punch(&self, off: u64, len: u64) -> io::Result<()>;
    /// Makes the host promise space for a range, growing the file where it ends inside the range. Contents stay;
    /// fresh space reads as zeros.
    fn reserve(&self, off: u64, len: u64) -> io::Result<()>;
    /// Whether space that was reserved and never written is a weaker disk than space that was: whether the host keeps a note of its own
    /// of what was written there, which a failure can take back after a sync returned `Ok`, and whether writing the space once ends
    /// that. So it is on filesystems that overwrite in place (ext4, XFS).
    fn is_fresh_space_weak(&self) -> bool {
        false
    }
    /// Starts writing a range out, on the checkpoint's description. May fail as a sync does.
    fn push(&self, off: u64, len: u64) -> io::Result<()>;
    /// Makes everything written before the call durable, with all that is needed to read it back (length included).
    fn sync_data(&self, lane: Lane) -> io::Result<()>;
    /// The store was closed: nothing is written from here on, and whoever waits for the image may have it.
    fn release(&self) {}
    /// Called with the current process's identity checks: `false` in a forked child of the process that opened this.
    fn same_process(&self) -> bool;
}

/// What else the engine takes from the host: time and randomness.
pub trait Host: Send + Sync {
    /// Seconds and nanoseconds since the Unix epoch, as nanoseconds. Goes into records only; nothing depends on it.
    fn now(&self) -> u64;
    /// A random number: for UUIDs, hash keys and stamps.
    fn random(&self) -> u64;
}
