//! Reading, which volumes and snapshots do alike.

use crate::{
    Error, ErrorKind, Result,
    handle::Entered,
    units::{BLOCK_BYTES, EXTENT_MAX, read_unit},
};
use std::{fmt, io::IoSliceMut, iter::FusedIterator, ops::Range};

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

/// Parts that one page has at most.
const PAGE: usize = 256;

pub(crate) fn extents_page(disk: Entered<'_>, range: Range<u64>, limit: usize) -> Result<Vec<MapExtent>> {
    if limit == 0 {
        return Err(Error::invalid("a page of no extents"));
    }
    let parts = disk.engine.extents(disk.target, range, limit.min(PAGE))?;
    Ok(parts.into_iter().map(|(offset, len, data)| MapExtent { offset, len, data }).collect())
}

/// The parts of a range of a disk: see [`ReadDisk::extents`].
#[must_use = "nothing is looked up before a part is asked for"]
pub struct Extents<'a> {
    page: Box<dyn FnMut(Range<u64>) -> Result<Vec<MapExtent>> + Send + 'a>,
    found: std::vec::IntoIter<MapExtent>,
    /// What is still to be looked up.
    rest: Option<Range<u64>>,
}

impl Iterator for Extents<'_> {
    type Item = Result<MapExtent>;
    fn next(&mut self) -> Option<Result<MapExtent>> {
        if let Some(extent) = self.found.next() {
            return Some(Ok(extent));
        }
        let range = self.rest.take()?;
        let page = match (self.page)(range.clone()) {
            Ok(page) => page,
            Err(e) => return Some(Err(e)),
        };
        let end = page.last()?.offset.saturating_add(page.last()?.len);
        if end > range.start && end < range.end {
            self.rest = Some(end..range.end);
        }
        self.found = page.into_iter();
        self.found.next().map(Ok)
    }
}

impl FusedIterator for Extents<'_> {}

impl fmt::Debug for Extents<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Extents").field("found", &self.found).field("rest", &self.rest).finish_non_exhaustive()
    }
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
///     let extents = disk.extents(0..disk.size()?);
///     extents.map(|extent| extent.map(|e| if e.data { e.len } else { 0 })).sum()
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
    /// Returns the first parts of a byte range, up to `limit` of them (at least one), in order and without gaps. Whole blocks count as
    /// data. Fewer may come, but none only of an empty range: the next page begins where the last part ends. One page is of one point in
    /// time, and costs one lookup of at most 256 parts.
    fn extents_page(&self, range: Range<u64>, limit: usize) -> Result<Vec<MapExtent>>;
    /// Goes over all parts of a byte range, in order and without gaps, as [`ReadDisk::extents_page`] gives them. Two neighbours may both be
    /// data, or both be holes.
    ///
    /// A step costs at most one page, and nothing is held between two steps. So the parts are not of one point in time: of writes that run
    /// meanwhile, those ahead are seen or not. After an error there are no more parts; a volume that became too short meanwhile ends in
    /// `OutOfRange`. Where all parts must be of one point in time, ask a snapshot.
    fn extents(&self, range: Range<u64>) -> Extents<'_> {
        let page = Box::new(move |range| self.extents_page(range, PAGE));
        Extents { page, found: Vec::new().into_iter(), rest: Some(range) }
    }
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
