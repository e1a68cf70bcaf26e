//! One region's counts in memory, and which of its blocks may be allocated now.

use crate::{format::COUNT_RETURNED, units::Block};
use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
};

/// Counts that a checkpoint or a check may be looking at: a change is made to a copy then.
pub(super) enum Counts {
    Own(Vec<u32>),
    Shared(Arc<Vec<u32>>),
}

impl Counts {
    /// Returns the counts as they are now, for someone else to look at.
    pub(super) fn share(&mut self) -> Arc<Vec<u32>> {
        let shared = match self {
            Counts::Own(counts) => Arc::new(std::mem::take(counts)),
            Counts::Shared(shared) => shared.clone(),
        };
        *self = Counts::Shared(shared.clone());
        shared
    }
}

impl Counts {
    /// Returns whether someone else looks at them.
    pub(super) fn is_lent(&self) -> bool {
        matches!(self, Counts::Shared(counts) if Arc::strong_count(counts) > 1)
    }
}

impl Deref for Counts {
    type Target = [u32];
    #[inline]
    fn deref(&self) -> &[u32] {
        match self {
            Counts::Own(counts) => counts,
            Counts::Shared(shared) => shared,
        }
    }
}

impl DerefMut for Counts {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u32] {
        if let Counts::Shared(shared) = self {
            *self = Counts::Own(Arc::unwrap_or_clone(std::mem::take(shared)));
        }
        match self {
            Counts::Own(counts) => counts,
            Counts::Shared(_) => unreachable!("made its own"),
        }
    }
}

/// One region in memory.
pub(super) struct Region {
    pub(super) counts: Counts,
    /// A set bit means that the block may be allocated now.
    pub(super) available: Vec<u64>,
    pub(super) free: u16,
    /// Number of blocks returned to the host.
    pub(super) returned: u16,
    /// Number of blocks of count zero that are not available: in quarantine, or allocated and not yet counted.
    pub(super) held: u32,
    pub(super) home: u8,
    pub(super) stamp: u64,
    /// Generation of the last change.
    pub(super) changed: u64,
}

pub(super) fn bit(bits: &[u64], i: usize) -> bool {
    bits[i / 64] >> (i % 64) & 1 == 1
}

impl Region {
    pub(super) fn new(counts: Vec<u32>, home: u8, stamp: u64, changed: u64) -> Region {
        let mut available = vec![0; counts.len().div_ceil(64)];
        let (mut free, mut returned) = (0, 0);
        for (i, &n) in counts.iter().enumerate() {
            if n == 0 {
                available[i / 64] |= 1 << (i % 64);
                free += 1;
            }
            returned += u16::from(n == COUNT_RETURNED);
        }
        Region { counts: Counts::Own(counts), available, free, returned, held: 0, home, stamp, changed }
    }
    pub(super) fn set_available(&mut self, place: usize, yes: bool) {
        let (word, mask) = (&mut self.available[place / 64], 1 << (place % 64));
        debug_assert_ne!(*word & mask != 0, yes, "available twice, or taken twice");
        if yes {
            *word |= mask;
            self.free += 1;
        } else {
            *word &= !mask;
            self.free -= 1;
        }
    }
    /// Returns the first run of available blocks, at most `want` of them.
    pub(super) fn first_run(&self, want: u32) -> Option<(usize, usize)> {
        let word = self.available.iter().position(|&w| w != 0)?;
        let place = word * 64 + self.available[word].trailing_zeros() as usize;
        Some((place, self.run_at(place, want)))
    }
    /// First run of at least `align` available blocks that begins at a block of the image that is a multiple of `align`, cut at `want`. `start` is
    /// the region's first block.
    pub(super) fn first_aligned_run(&self, want: u32, align: u32, start: Block) -> Option<(usize, usize)> {
        let first = start.0.next_multiple_of(align.into()) - start.0;
        let mut places = (first as usize..self.counts.len()).step_by(align as usize);
        let place = places.find(|&place| self.run_at(place, align) == align as usize)?;
        Some((place, self.run_at(place, want)))
    }
    /// How many blocks are available from `place` on, cut at `want`.
    fn run_at(&self, place: usize, want: u32) -> usize {
        (place..self.counts.len()).take(want as usize).take_while(|&i| bit(&self.available, i)).count()
    }
}
