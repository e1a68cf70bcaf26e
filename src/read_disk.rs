//! Reading, which volumes and snapshots do alike.

use crate::{
    Error, ErrorKind, Result,
    units::{BLOCK_BYTES, EXTENT_MAX},
};
use std::{io::IoSliceMut, ops::Range};

/// The length that reads and writes are best made in, where there is a choice: the largest extent.
pub(crate) const PREFERRED: u64 = EXTENT_MAX as u64 * BLOCK_BYTES;

/// A part of a volume or snapshot: data, or a hole that reads as zeros.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct MapExtent {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// Data or hole.
    pub data: bool,
}

/// A disk that can be read: a [`Volume`](crate::Volume) or a [`Snapshot`](crate::Snapshot).
///
/// What serves, copies, compares or exports disks can take a `&dyn ReadDisk` and work on both.
///
/// ```
/// use snapdisk::{Options, ReadDisk, Result};
///
/// /// Bytes of data, holes left out.
/// fn mapped(disk: &dyn ReadDisk) -> Result<u64> {
///     let extents = disk.extents(0..disk.size()?)?;
///     Ok(extents.iter().filter(|e| e.data).map(|e| e.len).sum())
/// }
///
/// # fn main() -> Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// let store = Options::new().create(dir.path().join("disks.img"))?;
/// let disk = store.create_volume("root", 1 << 30)?;
/// let before = disk.snapshot("before")?;
/// disk.write_at(&[1; 8192], 0)?;
/// assert_eq!((mapped(&disk)?, mapped(&before)?), (8192, 0));
/// store.close()
/// # }
/// ```
pub trait ReadDisk: Send + Sync {
    /// Returns the size in bytes.
    fn size(&self) -> Result<u64>;
    /// Fills `buf` from `offset`. `OutOfRange` past the end, `Corrupt` where a block does not verify: never other bytes.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()>;
    /// Returns which parts of a byte range hold data, in order and without gaps. Whole blocks count as data.
    fn extents(&self, range: Range<u64>) -> Result<Vec<MapExtent>>;
    /// [`ReadDisk::read_at`] into several buffers, one after the other. The whole range is checked first. Other writers may write between two
    /// buffers.
    fn read_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> Result<()> {
        let (len, size) = (bufs.iter().map(|b| b.len() as u64).sum(), self.size()?);
        if offset.checked_add(len).is_none_or(|end| end > size) {
            let what = format!("a disk of {size} bytes: {len} bytes at offset {offset} reach past the end");
            return Err(Error::new(ErrorKind::OutOfRange, what));
        }
        let mut at = offset;
        for buf in bufs {
            self.read_at(buf, at)?;
            at += buf.len() as u64;
        }
        Ok(())
    }
    /// Returns the length, and alignment, in bytes that requests are best made in where there is a choice. Any other is served as well; whole
    /// blocks of 4096 bytes are read without a copy of more.
    fn preferred_io_size(&self) -> u64 {
        PREFERRED
    }
}
