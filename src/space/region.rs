//! One region's counts in memory, and which of its blocks may be allocated now.

use crate::format::COUNT_RETURNED;
use std::sync::Arc;

/// One region in memory.
pub(super) struct Region {
    pub(super) counts: Arc<Vec<u32>>,
    /// Bit set: allocatable now.
    pub(super) available: Vec<u64>,
    pub(super) free: u16,
    /// Blocks given back to the host.
    pub(super) returned: u16,
    /// Blocks of count zero that are not available: in quarantine, or allocated and not yet counted.
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
        Region { counts: Arc::new(counts), available, free, returned, held: 0, home, stamp, changed }
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
    /// First run of available blocks, cut at `want`.
    pub(super) fn first_run(&self, want: u32) -> Option<(usize, usize)> {
        let word = self.available.iter().position(|&w| w != 0)?;
        let place = word * 64 + self.available[word].trailing_zeros() as usize;
        let len = (place..self.counts.len()).take(want as usize).take_while(|&i| bit(&self.available, i)).count();
        Some((place, len))
    }
}
