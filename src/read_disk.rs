//! Reading, which volumes and snapshots do alike.

use crate::{
    Error, ErrorKind, Result,
    units::{BLOCK_BYTES, EXTENT_MAX, read_unit},
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
    /// Fills `buf` from `offset`. `OutOfRange` past the end, `Corrupt` where a block does not verify: never other bytes. What it sees of writes
    /// that run meanwhile is told at [`Volume::read_at`](crate::Volume::read_at).
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()>;
    /// Returns which parts of a byte range hold data, in order and without gaps. Whole blocks count as data.
    fn extents(&self, range: Range<u64>) -> Result<Vec<MapExtent>>;
    /// [`ReadDisk::read_at`] into several buffers, one after the other, as one read. The default reads into a buffer of its own, of up to 1 MiB
    /// and cut at multiples of that where the range is longer, so that it is of one point in time as far as [`ReadDisk::read_at`] is.
    fn read_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> Result<()> {
        let (len, size) = (bufs.iter().map(|b| b.len() as u64).sum::<u64>(), self.size()?);
        if offset.checked_add(len).is_none_or(|end| end > size) {
            let what = format!("a disk of {size} bytes: {len} bytes at offset {offset} reach past the end");
            return Err(Error::new(ErrorKind::OutOfRange, what));
        }
        let mut at = offset;
        let mut targets = bufs.iter_mut().map(|b| &mut b[..]).filter(|b| !b.is_empty());
        let mut target: &mut [u8] = &mut [];
        while at < offset + len {
            let mut part = vec![0; read_unit(at, offset + len - at) as usize];
            self.read_at(&mut part, at)?;
            at += part.len() as u64;
            let mut from = &part[..];
            while !from.is_empty() {
                if target.is_empty() {
                    target = targets.next().unwrap_or_default();
                }
                let n = from.len().min(target.len());
                let (here, rest) = target.split_at_mut(n);
                here.copy_from_slice(&from[..n]);
                (target, from) = (rest, &from[n..]);
            }
        }
        Ok(())
    }
    /// Returns the length, and alignment, in bytes that requests are best made in where there is a choice. Any other is served as well; whole
    /// blocks of 4096 bytes are read without a copy of more.
    fn preferred_io_size(&self) -> u64 {
        PREFERRED
    }
}
