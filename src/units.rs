//! Units: block numbers of two kinds and the only casts between them and bytes.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

/// Bytes in a block: the unit of mapping, counting and checksumming.
pub const BLOCK: usize = 4096;
/// [`BLOCK`] as a byte count.
pub(crate) const BLOCK_BYTES: u64 = BLOCK as u64;
/// The longest write that is atomic across a crash, in bytes. Longer ones are cut at this border.
pub const ATOMIC_WRITE_MAX: usize = 1 << 20;
/// The longest extent, in blocks. It bounds what forking one leaf costs.
pub const EXTENT_MAX: u32 = 64;
/// The largest volume, in bytes.
pub const VOLUME_MAX: u64 = 256 << 40;
/// [`VOLUME_MAX`] in blocks.
pub(crate) const VOLUME_BLOCKS: u64 = VOLUME_MAX / BLOCK_BYTES;
/// The largest image, in bytes.
pub const IMAGE_MAX: u64 = 64 << 40;
/// Volume sizes are a multiple of this many bytes.
pub const SECTOR: u64 = 512;

/// A physical block: a position in the image file, in blocks from its start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Block(pub u64);

impl Block {
    /// The byte offset of the block's start in the image.
    #[inline]
    pub fn offset(self) -> u64 {
        self.0.saturating_mul(BLOCK_BYTES)
    }
    /// The block `n` places further on.
    #[inline]
    pub fn plus(self, n: u64) -> Block {
        Block(self.0.saturating_add(n))
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {}", self.0)
    }
}

/// A birth stamp: the generation in which a node was made (upper 40 bits) and a number drawn at random
/// at each opening (lower 24), so that no two attempts at a checkpoint share one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Stamp(pub u64);

impl Stamp {
    /// The stamp of `generation` in the opening that drew `salt` (of which 24 bits count).
    #[inline]
    pub fn new(generation: u64, salt: u32) -> Stamp {
        Stamp(generation << 24 | u64::from(salt & 0xff_ffff))
    }
    /// The generation part.
    #[inline]
    pub fn generation(self) -> u64 {
        self.0 >> 24
    }
}

/// A moment of the host's clock, from nanoseconds since the Unix epoch.
pub(crate) fn time(nanos: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos)
}

/// Names a volume for ever: ids are not used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VolumeId(pub u64);

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Names a snapshot for ever: ids are not used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SnapshotId(pub u64);

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The length in bytes of the next unit of a read that has come to `at` and has `left` bytes to go. A unit is of one point in time; a read
/// is cut into several where a write is.
pub(crate) fn read_unit(at: u64, left: u64) -> u64 {
    const MOST: u64 = ATOMIC_WRITE_MAX as u64;
    if left <= MOST { left } else { MOST - at % MOST }
}

/// A volume or a snapshot, by its id: whose content or record is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub(crate) enum Target {
    Volume(u64),
    Snapshot(u64),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Volume(id) => write!(f, "volume {id}"),
            Target::Snapshot(id) => write!(f, "snapshot {id}"),
        }
    }
}
