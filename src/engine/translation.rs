//! The translation cache: where blocks of volumes and snapshots lie in the image, and their checksums, for reads that take no lock.
//!
//! It is to the extent trees what a TLB is to page tables. A page of it speaks of [`PAGE`] consecutive blocks of one volume or snapshot,
//! in a word of eight bytes for each, so that what one read looks at is one cache line of a page and one of its header.
//!
//! # Why a read needs no lock
//!
//! Words are entered under the state's shared lock, with which they were looked up, and removed under the exclusive one, by the operation
//! that changes what they say. A read takes its words, copies the blocks, verifies the copies, and looks whether its words are still there.
//! If all are, there was a moment between the two looks at which all of them were true, and none of the blocks was used again before the
//! second one: a block is first replaced, which removes its word, and reused after that. If any is gone, the read is done again under the
//! lock. That is a sequence lock (Boehm, "Can Seqlocks Get Along with Programming Language Memory Models?", 2012) with the words
//! themselves in the place of its counter; a page that passes to other blocks has a counter of its own.
//!
//! A word that is missing costs a lookup in the tree, and nothing else: whatever is in doubt, is removed.

use super::{ahead::Ahead, state::blocks_of};
use crate::units::{Block, Target};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::{
    mem,
    sync::{
        Arc, OnceLock,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
            fence,
        },
    },
};

/// Blocks that a page speaks of.
const PAGE: u64 = 512;
/// Pages among which a block's page is searched.
const WAYS: usize = 4;
/// Blocks of a change from which on all words of its volume are removed, rather than those of the range.
const LONG: u64 = 64 * PAGE;

/// Word of a block that is not known, and of one that is a hole.
const UNKNOWN: u64 = 0;
const HOLE: u64 = u64::MAX;

/// Where a block lies, with its checksum; `None` is a hole.
pub(super) type Place = Option<(Block, u32)>;

/// The word for a block. Blocks beyond 16 TiB of the image have none.
fn word(place: Place) -> u64 {
    match place {
        None => HOLE,
        Some((block, sum)) if block.0 < u32::MAX.into() => block.0 << 32 | u64::from(sum),
        Some(_) => UNKNOWN,
    }
}

fn place(word: u64) -> Place {
    (word != HOLE).then_some((Block(word >> 32), word as u32))
}

/// What reads of a volume or snapshot share. The cache knows it by a number, as long as neither its size nor its content as a whole is
/// changed.
#[derive(Default)]
pub(crate) struct View {
    /// 0: nothing is known. A number is never used again.
    number: AtomicU64,
    /// Size in bytes.
    size: AtomicU64,
    pub(super) ahead: Ahead,
}

impl View {
    /// Whether a byte range is inside the volume, as far as that is known.
    #[inline]
    pub(super) fn covers(&self, offset: u64, len: u64) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.size.load(Relaxed))
    }
}

/// A page's header, in a cache line of its own.
#[derive(Default)]
#[repr(align(64))]
struct Header {
    /// Odd while the page passes to other blocks.
    version: AtomicU64,
    /// The view, and which of its pages this is.
    view: AtomicU64,
    index: AtomicU64,
    /// It was used since somebody looked for a page to take.
    used: AtomicBool,
    words: OnceLock<Box<[AtomicU64]>>,
}

impl Header {
    #[inline]
    fn is(&self, view: u64, index: u64) -> bool {
        self.view.load(Relaxed) == view && self.index.load(Relaxed) == index
    }
}

/// What whoever enters something needs, one thread at a time.
#[derive(Default)]
struct Filling {
    last_view: u64,
    /// Which of a set's pages is taken next, where all are in use.
    hand: usize,
}

/// The cache.
pub(crate) struct Translations {
    pages: Box<[Header]>,
    filling: Mutex<Filling>,
    /// The view of each volume and snapshot that somebody has a handle to, and of some others.
    views: Mutex<FxHashMap<Target, Arc<View>>>,
}

/// The words of a read.
pub(crate) struct Found<'a> {
    view: &'a View,
    number: u64,
    first: u64,
    words: SmallVec<[u64; 4]>,
    /// The pages that they stand in, with their versions.
    pages: SmallVec<[(&'a Header, u64); 2]>,
}

impl Translations {
    /// A cache that takes about `bytes`, as it fills.
    pub(crate) fn new(bytes: u64) -> Translations {
        let page = PAGE as usize * mem::size_of::<u64>() + mem::size_of::<Header>();
        let sets = (bytes as usize / page / WAYS).max(1);
        Translations {
            pages: (0..sets * WAYS).map(|_| Header::default()).collect(),
            filling: Mutex::default(),
            views: Mutex::default(),
        }
    }
    /// The view of a volume or snapshot.
    pub(crate) fn view(&self, target: Target) -> Arc<View> {
        let mut views = self.views.lock();
        if let Some(view) = views.get(&target) {
            return view.clone();
        }
        // Before the table grows, those go to which nobody has a handle any more: it grows with the handles there are.
        if views.len() == views.capacity() {
            views.retain(|_, view| Arc::strong_count(view) > 1);
        }
        views.entry(target).or_default().clone()
    }

    /// The pages among which a block's is.
    #[inline]
    fn set(&self, view: u64, index: u64) -> &[Header] {
        // Pages that follow each other stand in sets that follow each other; views begin anywhere.
        let sets = self.pages.len() / WAYS;
        let set = index.wrapping_add(view.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % sets as u64;
        &self.pages[set as usize * WAYS..][..WAYS]
    }
    #[inline]
    fn page(&self, view: u64, index: u64) -> Option<&Header> {
        self.set(view, index).iter().find(|h| h.is(view, index))
    }

    /// The words of all blocks of a byte range, if the range is inside the volume and all of them are known. Takes no lock.
    #[inline]
    pub(crate) fn find<'a>(&'a self, view: &'a View, offset: u64, len: u64) -> Option<Found<'a>> {
        let number = view.number.load(Acquire);
        if number == 0 || len == 0 || !view.covers(offset, len) {
            return None;
        }
        let (first, to) = blocks_of(offset, len);
        let mut found = Found { view, number, first, words: SmallVec::new(), pages: SmallVec::new() };
        let mut at = first;
        while at < to {
            let index = at / PAGE;
            let header = self.page(number, index)?;
            let version = header.version.load(Acquire);
            // Looked at again: between the two the page may have passed to other blocks.
            if version % 2 == 1 || !header.is(number, index) {
                return None;
            }
            if !header.used.load(Relaxed) {
                header.used.store(true, Relaxed);
            }
            let end = to.min((index + 1) * PAGE);
            for word in &header.words.get()?[(at % PAGE) as usize..][..(end - at) as usize] {
                let word = word.load(Acquire);
                if word == UNKNOWN {
                    return None;
                }
                found.words.push(word);
            }
            found.pages.push((header, version));
            at = end;
        }
        Some(found)
    }

    /// Enters where blocks from `first` on lie; what `places` leaves open stays as it is. The caller has the state's lock with which it looked
    /// them up, and `size`. Does nothing where another thread is at it.
    pub(crate) fn learn(&self, view: &View, size: u64, first: u64, places: impl IntoIterator<Item = Option<Place>>) {
        let Some(mut filling) = self.filling.try_lock() else { return };
        let mut number = view.number.load(Relaxed);
        if number == 0 {
            filling.last_view += 1;
            number = filling.last_view;
            view.size.store(size, Relaxed);
            view.number.store(number, Release);
        }
        let mut words: &[AtomicU64] = &[];
        for (i, known) in places.into_iter().enumerate() {
            let block = first + i as u64;
            if i == 0 || block.is_multiple_of(PAGE) {
                words = self.take(number, block / PAGE, &mut filling);
            }
            if let Some(place) = known {
                words[(block % PAGE) as usize].store(word(place), Release);
            }
        }
    }
    /// The page for some blocks; if there is none, another one is taken.
    fn take(&self, view: u64, index: u64, filling: &mut Filling) -> &[AtomicU64] {
        let header = self.page(view, index).unwrap_or_else(|| {
            let set = self.set(view, index);
            let unused = set.iter().find(|h| !h.used.load(Relaxed));
            let taken = unused.unwrap_or_else(|| {
                set.iter().for_each(|h| h.used.store(false, Relaxed));
                filling.hand = (filling.hand + 1) % WAYS;
                &set[filling.hand]
            });
            let version = taken.version.load(Relaxed);
            taken.version.store(version + 1, Relaxed);
            // Whoever sees anything of what follows sees that the page is not what it was.
            fence(Release);
            taken.words.get().into_iter().flatten().for_each(|w| w.store(UNKNOWN, Relaxed));
            taken.view.store(view, Relaxed);
            taken.index.store(index, Relaxed);
            taken.used.store(true, Relaxed);
            taken.version.store(version + 2, Release);
            taken
        });
        header.words.get_or_init(|| (0..PAGE).map(|_| AtomicU64::new(UNKNOWN)).collect())
    }

    /// Removes what is known of the blocks `from..to`, which an operation changes. The caller has the state's exclusive lock.
    pub(crate) fn forget(&self, target: Target, from: u64, to: u64) {
        let views = self.views.lock();
        let Some(view) = views.get(&target) else { return };
        if to.saturating_sub(from) >= LONG {
            return view.number.store(0, Release);
        }
        let number = view.number.load(Relaxed);
        let mut at = from;
        while at < to && number != 0 {
            let end = to.min((at / PAGE + 1) * PAGE);
            if let Some(words) = self.page(number, at / PAGE).and_then(|page| page.words.get()) {
                let range = (at % PAGE) as usize..(at % PAGE + end - at) as usize;
                words[range].iter().for_each(|w| w.store(UNKNOWN, Release));
            }
            at = end;
        }
    }
    /// Removes all that is known of a volume or snapshot, its size too. The caller has the state's exclusive lock.
    pub(crate) fn forget_all(&self, target: Target) {
        if let Some(view) = self.views.lock().get(&target) {
            view.number.store(0, Release);
        }
    }
    /// [`Translations::forget_all`] for all snapshots.
    pub(crate) fn forget_snapshots(&self) {
        self.forget_each(|target| matches!(target, Target::Snapshot(_)));
    }
    /// Removes everything: every read has to ask whether the store is still open.
    pub(crate) fn close(&self) {
        self.forget_each(|_| true);
    }
    fn forget_each(&self, which: impl Fn(Target) -> bool) {
        let views = self.views.lock();
        views.iter().filter(|(target, _)| which(**target)).for_each(|(_, view)| view.number.store(0, Release));
    }
}

impl Found<'_> {
    /// The blocks in order, each with where it lies.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = (u64, Place)> {
        (self.first..).zip(&self.words).map(|(block, &word)| (block, place(word)))
    }
    /// Where the first block lies.
    #[inline]
    pub(crate) fn first(&self) -> Place {
        place(self.words[0])
    }
    /// Whether all of it still was so after what the caller has read before this.
    #[inline]
    pub(crate) fn holds(&self) -> bool {
        fence(Acquire);
        let mut rest = &self.words[..];
        let mut at = self.first;
        for (header, version) in &self.pages {
            let here = ((at / PAGE + 1) * PAGE - at).min(rest.len() as u64);
            let (words, after) = rest.split_at(here as usize);
            let Some(now) = header.words.get() else { return false };
            let now = &now[(at % PAGE) as usize..][..words.len()];
            if header.version.load(Relaxed) != *version
                || !words.iter().zip(now).all(|(then, now)| now.load(Relaxed) == *then)
            {
                return false;
            }
            (rest, at) = (after, at + here);
        }
        self.view.number.load(Relaxed) == self.number
    }
}

#[cfg(test)]
mod tests;
