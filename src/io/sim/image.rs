//! The bytes of a simulated file: a length and 4 KiB pages shared between copies until one of them changes.

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
};

/// Bytes in a page: the unit in which a host caches, and the most that one torn write can damage.
pub const PAGE: usize = 4096;
/// Bytes in a sector: the unit in which a write survives a power loss or does not.
pub const SECT: usize = 512;

/// One file's content. Cloning costs a pointer a page. Bytes past the length are zeros and stay zeros.
#[derive(Clone, Default)]
pub struct Image {
    len: u64,
    /// `None`: a hole, for which the host has promised no space.
    pages: Vec<Option<Arc<[u8; PAGE]>>>,
}

static ZEROS: [u8; PAGE] = [0; PAGE];

fn zeros() -> Arc<[u8; PAGE]> {
    static SHARED: OnceLock<Arc<[u8; PAGE]>> = OnceLock::new();
    SHARED.get_or_init(|| Arc::new(ZEROS)).clone()
}

impl Image {
    /// An image of these bytes.
    pub fn from_bytes(bytes: &[u8]) -> Image {
        let mut image = Image::default();
        image.set_len(bytes.len() as u64);
        image.write(0, bytes);
        image
    }

    /// All bytes, length included.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![0; self.len as usize];
        self.read(0, &mut out);
        out
    }

    /// The length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the length is zero.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// One page; zeros where nothing was written.
    pub fn page(&self, n: u64) -> &[u8; PAGE] {
        self.pages.get(n as usize).and_then(Option::as_deref).unwrap_or(&ZEROS)
    }

    /// One sector.
    pub fn sector(&self, n: u64) -> &[u8] {
        let at = n as usize % (PAGE / SECT) * SECT;
        &self.page(n / (PAGE / SECT) as u64)[at..at + SECT]
    }

    /// Copies out what lies before the end and returns how much that was.
    pub fn read(&self, off: u64, buf: &mut [u8]) -> usize {
        let n = self.len.saturating_sub(off).min(buf.len() as u64) as usize;
        for (page, at, range) in pieces(off, n) {
            let len = range.len();
            buf[range].copy_from_slice(&self.page(page)[at..at + len]);
        }
        n
    }

    /// Writes without looking at the length: what lies past it must be cut off by the caller.
    pub fn write(&mut self, off: u64, data: &[u8]) {
        for (page, at, range) in pieces(off, data.len()) {
            let len = range.len();
            self.page_mut(page)[at..at + len].copy_from_slice(&data[range]);
        }
    }

    /// Whether the host has given all of a range.
    pub fn is_given(&self, off: u64, len: u64) -> bool {
        let pages = off / PAGE as u64..(off + len).div_ceil(PAGE as u64);
        pages.into_iter().all(|p| self.pages.get(p as usize).is_some_and(Option::is_some))
    }

    /// Has the host give the pages of a range; their contents stay.
    pub fn give(&mut self, off: u64, len: u64) {
        let end = (off + len).div_ceil(PAGE as u64) as usize;
        if self.pages.len() < end {
            self.pages.resize(end, None);
        }
        for page in &mut self.pages[(off / PAGE as u64) as usize..end] {
            page.get_or_insert_with(zeros);
        }
    }

    /// Zeroes a range; pages wholly in it become holes.
    pub fn zero(&mut self, off: u64, len: u64) {
        let end = (off + len).min((self.pages.len() * PAGE) as u64);
        if off >= end {
            return;
        }
        for (page, at, range) in pieces(off, (end - off) as usize) {
            if range.len() == PAGE {
                self.pages[page as usize] = None;
            } else if self.pages[page as usize].is_some() {
                self.page_mut(page)[at..at + range.len()].fill(0);
            }
        }
    }

    /// Sets the length; what is cut off is gone.
    pub fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.zero(len, self.len - len);
        }
        self.len = len;
    }

    /// Sets the length and forgets every byte that was written past it.
    pub fn cut(&mut self, len: u64) {
        let all = (self.pages.len() * PAGE) as u64;
        if len < all {
            self.zero(len, all - len);
        }
        self.len = len;
    }

    /// The pages in which two images differ; cheap where they share theirs.
    pub fn pages_unlike(&self, other: &Image) -> BTreeSet<u64> {
        let n = self.pages.len().max(other.pages.len());
        let same = |i: usize| match (
            self.pages.get(i).and_then(Option::as_ref),
            other.pages.get(i).and_then(Option::as_ref),
        ) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a == b,
            (None, None) => true,
            (Some(p), None) | (None, Some(p)) => **p == ZEROS,
        };
        (0..n).filter(|&i| !same(i)).map(|i| i as u64).collect()
    }

    fn page_mut(&mut self, n: u64) -> &mut [u8; PAGE] {
        let n = n as usize;
        if n >= self.pages.len() {
            self.pages.resize(n + 1, None);
        }
        Arc::make_mut(self.pages[n].get_or_insert_with(zeros))
    }
}

/// The pieces of a byte range by page: page number, offset in the page, range of the buffer.
fn pieces(off: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let pos = off + done as u64;
        let at = (pos % PAGE as u64) as usize;
        let n = (PAGE - at).min(len - done);
        let piece = (pos / PAGE as u64, at, done..done + n);
        done += n;
        Some(piece)
    })
}

/// What a sector adds to its image's hash; nothing if it is all zeros, so that length and holes need no care.
pub(super) fn term(sector: u64, data: &[u8]) -> u64 {
    if *data == ZEROS[..data.len()] { 0 } else { crate::bytes::hash(data, mix(sector)) }
}

/// A 64-bit finaliser (splitmix64's).
pub(super) fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A small seeded generator of random numbers; the same seed gives the same numbers for ever.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The generator of a seed.
    pub fn new(seed: u64) -> Rng {
        Rng(mix(seed))
    }
    /// The next 64 bits.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0)
    }
    /// A number below `n`; 0 if `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.number()) * u128::from(n)) >> 64) as u64
    }
    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}
