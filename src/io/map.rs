//! Memory maps: that of an image, for reads of cached bytes without a system call, and a page that shows a fork.
//!
//! The file is mapped in fixed segments, each on its first use, reaching past the end of the file and never mapped
//! anew, so a growing file needs no bookkeeping and no reader ever waits for a remap. Only the first [`SEGMENTS`]
//! segments of a file are mapped; whatever lies beyond is read by system calls, as is the last, incomplete window.
//!
//! Only what the host has cached is read through the map: before a block's first touch the host is asked (`mincore`), and a block that it has not
//! cached is left to `pread`, which reads as much as was asked for, reads ahead where that pays, and names an error of the medium. A page
//! that the medium can't deliver would kill a process that touches it through a map (SIGBUS); cached pages are then mapped by
//! `MADV_POPULATE_READ`, which reports an error instead. What remains: a page that the kernel evicted later and then fails to read again,
//! and a file that somebody else truncates. Who can't live with that opens with [`ReadPath::Pread`](super::ReadPath::Pread).
#![allow(unsafe_code, reason = "reads out of mappings")]

use crate::{BLOCK, bytes::PIECE, hint};
use memmap2::{Advice, MmapMut, MmapOptions, MmapRaw};
use rustix::{
    mm,
    param::page_size,
    process::{Pid, getpid},
};
use std::{
    fs::File,
    io,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
};

/// Bytes in a segment.
pub(crate) const SEGMENT: u64 = 1 << 30;
/// Segments mapped at most: they bound the address space, and the page tables that the kernel builds for it.
pub(crate) const SEGMENTS: usize = 64;
/// Bytes whose first touch is prepared at once: as much as the kernel maps around a fault that finds its page cached. A multiple of every
/// page size.
pub(crate) const WINDOW: u64 = 64 << 10;
/// Blocks of a window: a bit of [`Segment::seen`] each.
const BLOCKS: usize = WINDOW as usize / BLOCK;

/// The map of one file.
pub(crate) struct Map {
    segments: Box<[OnceLock<Option<Segment>>]>,
    /// A length that the file has: nothing past it is touched.
    len: AtomicU64,
    /// Held while `len` is brought up to date and while the file is cut, so that no stale length is stored over a
    /// smaller one.
    resizing: Mutex<()>,
}

struct Segment {
    map: MmapRaw,
    /// One bit for each block that was found to be cached.
    seen: Box<[AtomicU64]>,
}

impl Map {
    /// A map of which nothing is mapped yet.
    pub(crate) fn new() -> Map {
        Map {
            segments: (0..SEGMENTS).map(|_| OnceLock::new()).collect(),
            len: AtomicU64::new(0),
            resizing: Mutex::new(()),
        }
    }

    /// Fills `buf` with the bytes of `file` at `off`; `false` where the map doesn't serve them, with `buf` then
    /// holding anything.
    #[inline]
    pub(crate) fn read(&self, file: &File, off: u64, buf: &mut [u8]) -> bool {
        let Some(windows_end) = off.checked_add(buf.len() as u64).and_then(|end| end.checked_next_multiple_of(WINDOW))
        else {
            return false;
        };
        if windows_end > SEGMENT * SEGMENTS as u64 {
            return false;
        }
        if windows_end > self.len.load(Acquire) && windows_end > self.refresh(file) {
            return false;
        }
        let mut done = 0;
        while done < buf.len() {
            let at = off + done as u64;
            let within = at % SEGMENT;
            let n = (SEGMENT - within).min((buf.len() - done) as u64) as usize;
            let index = (at / SEGMENT) as usize;
            let Some(segment) = self.segments[index].get_or_init(|| Segment::new(file, index)) else {
                return false;
            };
            if !segment.read(within as usize, &mut buf[done..done + n]) {
                return false;
            }
            done += n;
        }
        true
    }

    /// Has the processor fetch `len` bytes at `off`, where the map has served some of them before.
    #[inline]
    pub(crate) fn prefetch(&self, off: u64, len: usize) {
        let (index, at) = (off / SEGMENT, (off % SEGMENT) as usize);
        // Past the end of the file there is nothing that could be fetched.
        if let Some(Some(Some(segment))) = self.segments.get(index as usize).map(OnceLock::get) {
            hint::prefetch_bytes(segment.map.as_ptr().wrapping_add(at), len);
        }
    }

    /// Whether all of a range was read through the map before, or could have been.
    pub(crate) fn has_seen(&self, off: u64, len: u64) -> bool {
        let segment = self.segments.get((off / SEGMENT) as usize).and_then(OnceLock::get);
        let Some(Some(segment)) = segment else { return false };
        let at = (off % SEGMENT) as usize;
        let len = (len as usize).min(SEGMENT as usize - at);
        Segment::windows(at, len).all(|(window, blocks)| segment.has_seen(window, blocks))
    }

    /// Asks the file for its length.
    #[cold]
    fn refresh(&self, file: &File) -> u64 {
        let _held = self.resizing.lock().unwrap_or_else(PoisonError::into_inner);
        let len = file.metadata().map_or(0, |m| m.len());
        self.len.store(len, Release);
        len
    }

    /// Runs `resize`, which sets the file's length to `len`, such that nothing that it cuts off is touched from
    /// before it begins on. Reads of those bytes that began earlier are the caller's to wait for.
    pub(crate) fn resize(&self, len: u64, resize: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let _held = self.resizing.lock().unwrap_or_else(PoisonError::into_inner);
        self.len.fetch_min(len, Release);
        resize()
    }
}

impl Segment {
    /// `None` where the host can't map the file: an answer for good, so that it is asked once.
    #[cold]
    fn new(file: &File, index: usize) -> Option<Segment> {
        let map =
            MmapOptions::new().offset(index as u64 * SEGMENT).len(SEGMENT as usize).map_raw_read_only(file).ok()?;
        let seen = (0..SEGMENT as usize / BLOCK / 64).map(|_| AtomicU64::new(0)).collect();
        Some(Segment { map, seen })
    }

    /// The blocks of a window that some bytes touch, as bits, with the window's number.
    fn windows(at: usize, len: usize) -> impl Iterator<Item = (usize, u16)> {
        let (first, last) = (at / BLOCK, (at + len.max(1) - 1) / BLOCK);
        (first / BLOCKS..=last / BLOCKS).map(move |window| {
            let from = first.max(window * BLOCKS) % BLOCKS;
            let to = last.min(window * BLOCKS + BLOCKS - 1) % BLOCKS;
            (window, u16::MAX << from & u16::MAX >> (BLOCKS - 1 - to))
        })
    }
    /// Whether all of these blocks of a window were found to be cached.
    #[inline]
    fn has_seen(&self, window: usize, blocks: u16) -> bool {
        let seen = self.seen[window / 4].load(Relaxed) >> (window % 4 * BLOCKS);
        seen as u16 & blocks == blocks
    }
    /// Has blocks of a window mapped, if all of them are cached.
    #[cold]
    fn touch(&self, window: usize, blocks: u16) -> bool {
        let start = window * WINDOW as usize;
        let Some(cached) = self.cached(start).filter(|cached| cached & blocks == blocks) else { return false };
        let (from, to) = match cached {
            u16::MAX => (0, BLOCKS),
            _ => (blocks.trailing_zeros() as usize, BLOCKS - blocks.leading_zeros() as usize),
        };
        if self.map.advise_range(Advice::PopulateRead, start + from * BLOCK, (to - from) * BLOCK).is_err() {
            return false;
        }
        self.seen[window / 4].fetch_or(u64::from(cached) << (window % 4 * BLOCKS), Relaxed);
        true
    }
    /// Which blocks of the window at `start` the host has cached, as far as it says. `None`: it says nothing.
    fn cached(&self, start: usize) -> Option<u16> {
        let page = page_size();
        let mut pages = [0_u8; BLOCKS];
        if page > WINDOW as usize || page < BLOCK || start + WINDOW as usize > self.map.len() {
            return None;
        }
        // SAFETY: address and length are those of whole pages of the mapping (checked), which lives as long as `self`; the call
        // writes a byte for each of them, of which there are at most as many as `pages` has, since a page is no smaller than
        // a block (checked).
        let told =
            unsafe { libc::mincore(self.map.as_mut_ptr().add(start).cast(), WINDOW as usize, pages.as_mut_ptr()) };
        (told == 0)
            .then(|| (0..BLOCKS).filter(|i| pages[i * BLOCK / page] & 1 == 1).fold(0, |cached, i| cached | 1 << i))
    }

    /// Copies the bytes at `at` of the segment, all of which lie in windows that the file fills; `false` where some of them are not cached.
    #[inline]
    fn read(&self, at: usize, buf: &mut [u8]) -> bool {
        for (window, blocks) in Segment::windows(at, buf.len()) {
            if !self.has_seen(window, blocks) && !self.touch(window, blocks) {
                return false;
            }
        }
        assert!(at <= self.map.len() && buf.len() <= self.map.len() - at);
        // SAFETY:
        // - Source: `at..at + buf.len()` lies inside the mapping (asserted), which is readable and lives as long as
        //   `self`; it is never unmapped or remapped before.
        // - The pages exist: `Map::read` admits only windows below a length that the file has, and each block was
        //   found to be cached. Should the medium or another process take one away again, the access raises SIGBUS, which
        //   ends the process; it is never undefined behaviour of the copy.
        // - Destination: `buf` is a unique borrow of `buf.len()` writable bytes, so it can't overlap the mapping, to
        //   which no Rust reference is ever made.
        // - Concurrent change: no Rust code stores to the mapping, it is read-only. The kernel may change its bytes
        //   meanwhile (`pwrite`), outside the abstract machine and through no Rust object; each byte read is some
        //   initialised `u8`, and callers verify the copy, never the mapping.
        // - Alignment: `u8` needs none.
        // - Pieces: they lie side by side in `buf`, and the one at `i` of `buf` begins at `i` of the source.
        unsafe {
            let from = self.map.as_ptr().add(at);
            // As `bytes::copy` does.
            for (i, piece) in buf.chunks_mut(PIECE).enumerate() {
                from.add(i * PIECE).copy_to_nonoverlapping(piece.as_mut_ptr(), piece.len());
            }
        }
        true
    }
}

/// Tells the process that made it from its forked children, without a system call where the kernel can (4.14).
pub(crate) struct ForkMark {
    /// One byte that is 1, in a page that a child finds zeroed.
    page: Option<MmapRaw>,
    maker: Pid,
}

impl ForkMark {
    pub(crate) fn new() -> ForkMark {
        let page = MmapMut::map_anon(1).ok().and_then(|mut page| {
            page[0] = 1;
            let page = MmapRaw::from(page);
            // SAFETY: address and length are those of a private anonymous mapping that this function owns, which is
            // what the advice asks for. It changes nothing in this process; in a child it zeroes the page, which is
            // then read as a plain byte, of which zero is a valid value.
            let advised = unsafe { mm::madvise(page.as_mut_ptr().cast(), page.len(), mm::Advice::LinuxWipeOnFork) };
            advised.ok().map(|()| page)
        });
        ForkMark { page, maker: getpid() }
    }

    /// Whether this is the process that made the mark.
    #[inline]
    pub(crate) fn is_maker(&self) -> bool {
        match &self.page {
            // SAFETY: the pointer is that of a live mapping of at least one readable byte, to which no reference is
            // held and which nobody writes; volatile, as a fork changes it behind the compiler's back.
            Some(page) => unsafe { page.as_ptr().read_volatile() == 1 },
            None => getpid() == self.maker,
        }
    }

    /// The mark as a child sees it.
    #[cfg(test)]
    pub(crate) fn foreign() -> ForkMark {
        ForkMark { page: None, maker: Pid::INIT }
    }
}

/// What `f` returns in a forked child, which does nothing else.
#[cfg(test)]
pub(crate) fn in_child(f: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child runs `f` alone, which by contract takes no lock that another thread may have held at the fork,
    // and then leaves by `_exit`, also when `f` panics: it never gets back into this function's callers.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork");
    if child == 0 {
        let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).is_ok_and(|yes| yes).into();
        // SAFETY: takes no pointer and doesn't return.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: `status` is a live `c_int` for the call to write to.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert!(libc::WIFEXITED(status));
    libc::WEXITSTATUS(status) == 1
}
