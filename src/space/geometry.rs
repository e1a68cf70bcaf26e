//! Fixed addresses: the region of a block, and the two homes of every count page and index page.
//!
//! Region `i` has `span` blocks from `base + i * span` on. Its count page has its homes in the region's first and last block. The index page
//! of level `l` over the regions from `i` up to `i + fanout^l`, where `i` is a multiple of that, lives in region `i` too, `l` blocks inwards
//! from either end. All addresses follow by arithmetic, so that the space map allocates nothing.

use crate::{
    format::{INDEX_LEVELS, LOG_START, Superblock},
    units::Block,
};

/// The image's shape, fixed at creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// First block of region 0.
    pub(crate) base: u64,
    /// Blocks in a region.
    pub(crate) span: u32,
    /// Entries in an index page.
    pub(crate) fanout: u32,
}

impl Geometry {
    pub(crate) fn of(sb: &Superblock) -> Geometry {
        Geometry { base: LOG_START.0 + sb.log_pages, span: sb.span, fanout: sb.index_fanout }
    }
    /// First block of a region.
    pub(crate) fn start(&self, region: u64) -> Block {
        Block(self.base + region * u64::from(self.span))
    }
    /// Lower bound on the blocks of a region that are not homes.
    pub(crate) fn usable(&self) -> u64 {
        u64::from(self.span) - 2 * (1 + u64::from(INDEX_LEVELS))
    }
    /// Returns the region of a block and its place there; `None` for superblocks and log.
    #[inline]
    pub(crate) fn locate(&self, block: Block) -> Option<(u64, usize)> {
        let n = block.0.checked_sub(self.base)?;
        Some((n / u64::from(self.span), (n % u64::from(self.span)) as usize))
    }
    /// Number of regions under one page of `level`.
    pub(crate) fn regions_under(&self, level: u8) -> u64 {
        u64::from(self.fanout).saturating_pow(level.into())
    }
    /// Block of home `home` (0 or 1) of page `index` of `level` (0: count pages).
    pub(crate) fn home(&self, level: u8, index: u64, home: u8) -> Block {
        let start = self.start(index * self.regions_under(level)).0;
        let l = u64::from(level);
        Block(if home == 0 { start + l } else { start + u64::from(self.span) - 1 - l })
    }
    /// Number of homes at each end of a region.
    pub(crate) fn homes(&self, region: u64) -> usize {
        1 + (1..=INDEX_LEVELS).take_while(|&l| region.is_multiple_of(self.regions_under(l))).count()
    }
    /// Number of homes at one end of each of the first `regions` regions, together.
    pub(crate) fn homes_of(&self, regions: u64) -> u64 {
        regions + (1..=INDEX_LEVELS).map(|l| regions.div_ceil(self.regions_under(l))).sum::<u64>()
    }
    /// Returns the lowest index level that covers `regions` regions.
    pub(crate) fn top_level(&self, regions: u64) -> u8 {
        (1..INDEX_LEVELS).find(|&l| self.regions_under(l) >= regions).unwrap_or(INDEX_LEVELS)
    }
    /// Returns whether a place in a region is a home.
    #[inline]
    pub(crate) fn is_system(&self, region: u64, place: usize) -> bool {
        // Nearly every block lies further inwards than the homes of all levels.
        let most = 1 + usize::from(INDEX_LEVELS);
        if place >= most && place < self.span as usize - most {
            return false;
        }
        let homes = self.homes(region);
        place < homes || place >= self.span as usize - homes
    }
}
