//! The engine's view of a backend: whole transfers, errors with their place, and a latch that closes for good at the
//! first failed write or sync.

use super::{Backend, Lane, stripe::Counter};
use crate::{
    BLOCK, Error, ErrorKind, Result,
    error::is_no_space,
    events::{Event, Events},
    format::Page,
    units::Block,
};
use parking_lot::Mutex;
use std::{
    io::{self, IoSlice},
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst},
    },
};

/// Bytes that one call writes at most, and the boundary at which it ends. Linux caches what one call wrote first in folios as large as the
/// call, and each later write of a single block walks the buffer heads of its whole folio, at the write and again at the sync: in folios
/// of 1 MiB that costs several times the copy.
const CALL: usize = 64 << 10;

/// The same for large data. Where the host has the place cached, as it has after [`Disk::write_fresh`], its folios are [`CALL`] bytes long all the
/// same.
const LARGE_CALL: usize = 256 << 10;

/// What fresh space is written with.
static ZEROS: [u8; CALL] = [0; CALL];

/// A backend behind its latch.
pub(crate) struct Disk {
    backend: Arc<dyn Backend>,
    poisoned: AtomicBool,
    /// The failure that poisoned it.
    cause: Mutex<Option<Error>>,
    released: AtomicBool,
    writable: bool,
    pub(crate) events: Events,
    /// How often space was reserved, and how many of these are covered by a sync of everything. Recovery relies on the length of the file that
    /// an acknowledged group was written under.
    reserved: AtomicU64,
    reserved_synced: AtomicU64,
    pub(crate) syncs: AtomicU64,
    pub(crate) read_bytes: Counter,
    pub(crate) written_blocks: AtomicU64,
}

impl Disk {
    pub(crate) fn new(backend: Arc<dyn Backend>, writable: bool) -> Disk {
        Disk {
            backend,
            poisoned: AtomicBool::new(false),
            cause: Mutex::default(),
            released: AtomicBool::new(false),
            writable,
            events: Events::default(),
            reserved: AtomicU64::new(0),
            reserved_synced: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
            read_bytes: Counter::default(),
            written_blocks: AtomicU64::new(0),
        }
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.writable
    }
    pub(crate) fn is_poisoned(&self) -> bool {
        self.poisoned.load(SeqCst)
    }
    /// Closes the latch: after this nothing is written, synced, punched or grown. The first cause is kept.
    pub(crate) fn poison(&self, cause: Error) {
        let cause = self.cause.lock().get_or_insert(cause).clone();
        if !self.poisoned.swap(true, SeqCst) {
            self.events.note(|| Event::Poisoned { cause });
        }
    }
    /// An error of `kind` that tells what poisoned the store.
    fn because(&self, kind: ErrorKind, what: &str) -> Error {
        match &*self.cause.lock() {
            Some(cause) => cause.clone().of_kind(kind).at(what),
            None => Error::new(kind, what),
        }
    }
    /// The answer to an operation that was applied and can't be made durable any more.
    pub(crate) fn lost(&self) -> Error {
        self.because(
            ErrorKind::Io,
            "whether this is durable is unknown, since a write or sync that it depended on failed",
        )
    }
    pub(crate) fn same_process(&self) -> bool {
        self.backend.same_process()
    }
    pub(crate) fn has_cold_reads(&self) -> bool {
        self.backend.has_cold_reads()
    }
    pub(crate) fn drop_cache(&self) {
        self.backend.drop_cache();
    }
    pub(crate) fn len(&self) -> Result<u64> {
        self.backend.len().map_err(|e| Error::io("length of the image", e))
    }

    /// `Err` once poisoned or where nothing may be written. Every mutation asks here first.
    pub(crate) fn writes_allowed(&self) -> Result<()> {
        if self.released.load(SeqCst) {
            return Err(Error::new(ErrorKind::Closed, "the store was closed"));
        }
        if !self.writable {
            return Err(Error::new(ErrorKind::ReadOnly, "the store was opened for reading"));
        }
        if self.is_poisoned() {
            return Err(self.because(ErrorKind::Poisoned, "an earlier failure: close and open the image again"));
        }
        Ok(())
    }

    /// Nothing is written any more; others may open the image.
    pub(crate) fn release(&self) {
        self.released.store(true, SeqCst);
        self.backend.release();
    }

    fn fill(&self, off: u64, buf: &mut [u8], read: impl Fn(u64, &mut [u8]) -> io::Result<usize>) -> Result<()> {
        self.read_bytes.add(buf.len() as u64);
        let mut done = 0;
        while done < buf.len() {
            let at = off + done as u64;
            match read(at, &mut buf[done..]) {
                Ok(0) => return Err(Error::new(ErrorKind::Truncated, format!("the image ends before byte {at}"))),
                Ok(n) => done += n.min(buf.len() - done),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io(format_args!("read at byte {at}"), e)),
            }
        }
        Ok(())
    }
    /// Fills `buf`, through the map where there is one.
    pub(crate) fn read(&self, off: u64, buf: &mut [u8]) -> Result<()> {
        if self.read_mapped(off, buf)? { Ok(()) } else { self.read_unmapped(off, buf) }
    }
    /// Fills `buf` through the map. `Ok(false)` where there is none: `buf` then holds anything.
    #[inline]
    pub(crate) fn read_mapped(&self, off: u64, buf: &mut [u8]) -> Result<bool> {
        let mapped =
            self.backend.read_mapped(off, buf).map_err(|e| Error::io(format_args!("read at byte {off}"), e))?;
        if mapped {
            self.read_bytes.add(buf.len() as u64);
        }
        Ok(mapped)
    }
    /// Has the processor fetch a block that [`Disk::read_mapped`] is to copy soon.
    #[inline]
    pub(crate) fn prefetch(&self, block: Block) {
        self.backend.prefetch_mapped(block.offset(), BLOCK);
    }
    /// Whether the host may have to fetch some of these blocks from the medium.
    #[inline]
    pub(crate) fn is_cold(&self, start: Block, blocks: u64) -> bool {
        self.backend.is_cold(start.offset(), blocks * BLOCK as u64)
    }
    /// Has the host begin to fetch blocks that will be read soon.
    pub(crate) fn read_ahead(&self, start: Block, blocks: u64) {
        self.backend.read_ahead(start.offset(), blocks * BLOCK as u64);
    }
    /// Fills `buf` by a system call.
    pub(crate) fn read_unmapped(&self, off: u64, buf: &mut [u8]) -> Result<()> {
        self.fill(off, buf, |o, b| self.backend.read_at(o, b))
    }
    /// Fills `buf` from the medium.
    pub(crate) fn read_cold(&self, off: u64, buf: &mut [u8]) -> Result<()> {
        self.fill(off, buf, |o, b| self.backend.read_cold(o, b))
    }
    /// Fills `buf` from the medium; what lies past the end reads as zeros.
    pub(crate) fn read_cold_padded(&self, off: u64, buf: &mut [u8]) -> Result<()> {
        let len = self.len()?;
        let here = usize::try_from(len.saturating_sub(off)).unwrap_or(usize::MAX).min(buf.len());
        buf[here..].fill(0);
        self.read_cold(off, &mut buf[..here])
    }
    /// One page.
    pub(crate) fn read_page(&self, block: Block) -> Result<Box<Page>> {
        let mut page = Box::new([0; BLOCK]);
        self.read_unmapped(block.offset(), &mut page[..])?;
        Ok(page)
    }

    fn failed(&self, what: std::fmt::Arguments<'_>, e: io::Error) -> Error {
        let error = Error::io(what, e);
        self.poison(error.clone());
        error
    }
    /// How many bytes a call wrote at `off`: none if it was interrupted. Any failure poisons, and so does a call that writes nothing.
    fn written(&self, off: u64, outcome: io::Result<usize>) -> Result<usize> {
        match outcome {
            Ok(0) => Err(self.failed(format_args!("write at byte {off}"), io::ErrorKind::WriteZero.into())),
            Ok(n) => {
                self.written_blocks.fetch_add(n.div_ceil(BLOCK) as u64, Relaxed);
                Ok(n)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(e) => Err(self.failed(format_args!("write at byte {off}"), e)),
        }
    }
    /// Writes all of `bufs`, one after the other from `off` on. Any failure poisons.
    pub(crate) fn write(&self, off: u64, bufs: &[&[u8]]) -> Result<()> {
        self.write_in_calls(off, bufs, CALL)
    }
    /// [`Disk::write`] of data that is large as a whole and will be overwritten as such.
    pub(crate) fn write_large(&self, off: u64, data: &[u8]) -> Result<()> {
        self.write_in_calls(off, &[data], LARGE_CALL)
    }
    fn write_in_calls(&self, mut off: u64, bufs: &[&[u8]], call: usize) -> Result<()> {
        let (mut i, mut skip) = (0, 0);
        while i < bufs.len() {
            // Before each call: nothing is written once another thread has met a failure.
            self.writes_allowed()?;
            if skip == bufs[i].len() {
                (i, skip) = (i + 1, 0);
                continue;
            }
            let mut left = call - (off % call as u64) as usize;
            let first = &bufs[i][skip..];
            let n = if bufs.len() - i == 1 || first.len() >= left {
                self.backend.write_at(off, &first[..first.len().min(left)])
            } else {
                let mut slices = Vec::with_capacity(left / BLOCK);
                for buf in std::iter::once(first).chain(bufs[i + 1..].iter().copied()) {
                    slices.push(IoSlice::new(&buf[..buf.len().min(left)]));
                    left -= buf.len().min(left);
                    if left == 0 {
                        break;
                    }
                }
                self.backend.write_vectored_at(off, &slices)
            };
            let mut n = self.written(off, n)?;
            off += n as u64;
            while n > 0 && i < bufs.len() {
                let step = n.min(bufs[i].len() - skip);
                (n, skip) = (n - step, skip + step);
                if skip == bufs[i].len() {
                    (i, skip) = (i + 1, 0);
                }
            }
        }
        Ok(())
    }
    /// The outcome of a sync that returned well. It is no success if another call failed meanwhile: the host may have told the failure to that
    /// call alone, once (measured on ext4, whose journal was aborted between the two).
    fn settled(&self) -> Result<()> {
        if self.is_poisoned() { Err(self.lost()) } else { Ok(()) }
    }
    /// Makes everything written so far durable. Any failure poisons, whatever the errno; never retried.
    pub(crate) fn sync(&self, lane: Lane) -> Result<()> {
        self.writes_allowed()?;
        self.sync_at_open(lane)
    }
    /// [`Disk::sync`] for a store that is not open yet.
    pub(crate) fn sync_at_open(&self, lane: Lane) -> Result<()> {
        self.syncs.fetch_add(1, Relaxed);
        let reserved = self.reserved.load(SeqCst);
        self.backend.sync_data(lane).map_err(|e| self.failed(format_args!("sync"), e))?;
        self.reserved_synced.fetch_max(reserved, SeqCst);
        self.settled()
    }
    /// Writes `data` and makes it durable, with what was written before to the ranges `with`, and nothing else where the host can do that alone.
    /// Otherwise, for data that is longer than one call, and while space was reserved that no sync has covered, everything written so
    /// far is made durable. Failures are those of [`Disk::write`] and [`Disk::sync`].
    pub(crate) fn write_synced(&self, lane: Lane, mut off: u64, mut data: &[u8], with: &[Range<u64>]) -> Result<()> {
        let all = data.len() > CALL || self.reserved.load(SeqCst) > self.reserved_synced.load(SeqCst);
        while !data.is_empty() {
            self.writes_allowed()?;
            let outcome = match all {
                true => Err(io::ErrorKind::Unsupported.into()),
                false => self.backend.write_synced(lane, off, data, with),
            };
            let n = match outcome {
                Err(e) if e.kind() == io::ErrorKind::Unsupported => {
                    self.write(off, &[data])?;
                    return self.sync(lane);
                }
                // It may have been the sync that was interrupted.
                Err(e) => return Err(self.failed(format_args!("synced write at byte {off}"), e)),
                outcome => self.written(off, outcome)?.min(data.len()),
            };
            self.syncs.fetch_add(1, Relaxed);
            (off, data) = (off + n as u64, &data[n..]);
        }
        self.settled()
    }
    /// Starts writing a range out. A failure is a failed sync.
    pub(crate) fn push(&self, off: u64, len: u64) -> Result<()> {
        self.writes_allowed()?;
        match self.backend.push(off, len) {
            Err(e) if e.kind() != io::ErrorKind::Unsupported => {
                Err(self.failed(format_args!("write-out at byte {off}"), e))
            }
            _ => Ok(()),
        }
    }
    /// Has the host promise space. `NoSpace` where it can't; nothing was published, so nothing is poisoned.
    pub(crate) fn reserve(&self, off: u64, len: u64) -> Result<()> {
        self.writes_allowed()?;
        let outcome = loop {
            match self.backend.reserve(off, len) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                outcome => break outcome,
            }
        };
        // After the call: a sync that began before it does not cover it. A call that failed may have done a part.
        self.reserved.fetch_add(1, SeqCst);
        outcome.map_err(|e| {
            let what = format_args!("reserve {len} bytes at byte {off}");
            if is_no_space(&e) { Error::caused(ErrorKind::NoSpace, what, e) } else { Error::io(what, e) }
        })
    }
    /// Cuts off what an opening that failed has added to the file, which had `len` bytes.
    pub(crate) fn cut_back(&self, len: u64) {
        if self.writable && self.backend.len().is_ok_and(|now| now > len) {
            // Nothing refers to it, and nothing was written there: if it stays, it is unused.
            let _ = self.backend.set_len(len);
        }
    }
    /// Writes fresh space once, with zeros, and syncs it, where the host is the better for it; otherwise nothing. Returns how many bytes
    /// that were. `NoSpace` where the host has less than it promised: nothing was published, so nothing is poisoned.
    pub(crate) fn write_fresh(&self, off: u64, len: u64) -> Result<u64> {
        if !self.backend.is_fresh_space_weak() {
            return Ok(0);
        }
        let (mut at, end) = (off, off + len);
        while at < end {
            self.writes_allowed()?;
            let n = (CALL as u64 - at % CALL as u64).min(end - at);
            match self.backend.write_at(at, &ZEROS[..n as usize]) {
                Err(e) if is_no_space(&e) => {
                    // Whoever tries again begins anew, and nothing is written twice between two syncs.
                    if at > off {
                        self.sync(Lane::Space)?;
                    }
                    let what = format_args!("write of fresh space at byte {at}");
                    return Err(Error::caused(ErrorKind::NoSpace, what, e));
                }
                outcome => at += self.written(at, outcome)? as u64,
            }
        }
        self.sync(Lane::Space)?;
        Ok(len)
    }
    /// Gives space back. `Ok(false)` where the host can't, as a filesystem that lacks the block that it would take to divide an extent.
    pub(crate) fn punch(&self, off: u64, len: u64) -> Result<bool> {
        self.writes_allowed()?;
        match self.backend.punch(off, len) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::Unsupported || is_no_space(&e) => Ok(false),
            Err(e) => Err(self.failed(format_args!("punch at byte {off}"), e)),
        }
    }
}
