//! The intent log's state in memory: a ring of pages, and the open group.
//!
//! Positions count pages from the image's creation; page `p` lies at `LOG_START + p mod pages`.

use super::{
    group::{DataHash, Group, page_count},
    record::Op,
};
use crate::{
    codec::{self, Kind},
    format::{LOG_PAYLOAD, LOG_START},
    lack::{Lack, Step},
    units::Block,
};

/// Records of closed groups at which a checkpoint is due.
pub(crate) const RECORDS_MAX: u64 = 32768;

/// Returns where a page of the ring lies.
pub(crate) fn page_block(position: u64, pages: u64) -> Block {
    LOG_START.plus(position % pages)
}

/// The log's state in memory.
pub(crate) struct Log {
    pub(crate) pages: u64,
    /// Pages that the open group may have before it must be written.
    group_most: u64,
    key: u64,
    /// The first page that recovery needs.
    pub(crate) tail: u64,
    /// The page at which the open group will start.
    pub(crate) position: u64,
    /// Records of the open group, encoded.
    pub(crate) group: u64,
    pending: Vec<u8>,
    /// A buffer for the next group.
    spare: Vec<u8>,
    data: DataHash,
    /// Number of records in the open group.
    open: u64,
    /// Number of records of closed groups since the last freeze, which a recovery has to apply.
    pub(crate) records: u64,
    /// The empty group was written at `position`.
    pub(crate) marked: bool,
    /// A group was written since the log was last empty.
    pub(crate) used: bool,
}

impl Log {
    pub(crate) fn new((pages, group_most): (u64, u64), key: u64, position: u64, group: u64) -> Log {
        Log {
            pages,
            group_most,
            key,
            tail: position,
            position,
            group,
            pending: Vec::new(),
            spare: Vec::new(),
            data: DataHash::new(key),
            open: 0,
            records: 0,
            marked: false,
            used: false,
        }
    }
    pub(crate) fn used_pages(&self) -> u64 {
        self.position - self.tail + if self.pending.is_empty() { 0 } else { page_count(self.pending.len()) }
    }
    /// Returns whether a record of `bytes` can be appended now; one page stays free.
    pub(crate) fn fits(&self, bytes: usize) -> bool {
        page_count(self.pending.len() + bytes) + 1 + (self.position - self.tail) <= self.pages
    }
    /// Appends a record to the open group. It does not count until [`Log::count`], and [`Log::cut`] removes it until then.
    pub(crate) fn write(&mut self, ops: &[Op]) -> Step<()> {
        let start = self.pending.len();
        codec::encode_into(&mut self.pending, Kind::Log, &ops)?;
        let bytes = self.pending.len() - start;
        if self.fits(0) {
            return Ok(());
        }
        self.pending.truncate(start);
        Err(Lack::Log(bytes).into())
    }
    /// Makes the record that was written last part of the group; `data` are the hashes of the data that it names, in order.
    pub(crate) fn count(&mut self, data: impl IntoIterator<Item = u64>) {
        data.into_iter().for_each(|h| self.data.add(h));
        self.open += 1;
    }
    /// Returns the bytes of records in the open group.
    pub(crate) fn len(&self) -> usize {
        self.pending.len()
    }
    /// Removes what was written after there were `len` bytes and was not counted.
    pub(crate) fn cut(&mut self, len: usize) {
        self.pending.truncate(len);
    }
    /// Has the open group carry its own data, for which the hashes of its pages speak then. Returns `false` if there is no room for it.
    pub(crate) fn write_data(&mut self, data: &[Op]) -> bool {
        let fits = self.write(data).is_ok();
        if fits {
            self.data = DataHash::new(self.key);
        }
        fits
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }
    /// Returns the number of the group whose sync makes everything durable that was appended so far.
    pub(crate) fn target(&self) -> u64 {
        if self.pending.is_empty() { self.group - 1 } else { self.group }
    }
    /// Returns whether the open group is long enough to be written by itself.
    pub(crate) fn is_long(&self) -> bool {
        self.has_pages(self.group_most / 2) || self.open >= 2 * RECORDS_MAX
    }
    /// Returns whether the open group must be written before anything is added to it.
    pub(crate) fn is_too_long(&self) -> bool {
        self.has_pages(self.group_most) || self.open >= 4 * RECORDS_MAX
    }
    fn has_pages(&self, pages: u64) -> bool {
        page_count(self.pending.len()) >= pages.max(1) && self.pending.len() > LOG_PAYLOAD / 2
    }
    /// Returns whether a checkpoint is due: because of the records that a recovery would have to apply, because of the ring, or because the
    /// open group has to be written anyway.
    pub(crate) fn wants_checkpoint(&self) -> bool {
        self.records >= RECORDS_MAX || self.used_pages() * 4 >= self.pages * 3 || self.is_long()
    }
    /// Closes the open group, if it has any records.
    pub(crate) fn close(&mut self) -> Option<Group> {
        if self.pending.is_empty() {
            return None;
        }
        let bytes = std::mem::replace(&mut self.pending, std::mem::take(&mut self.spare));
        let data = std::mem::replace(&mut self.data, DataHash::new(self.key)).finish();
        let group = Group { number: self.group, position: self.position, bytes, data };
        self.records += std::mem::take(&mut self.open);
        self.position += page_count(group.bytes.len());
        self.group += 1;
        self.marked = false;
        self.used = true;
        Some(group)
    }
    /// Keeps a written group's buffer for a later group, unless it is long.
    pub(crate) fn keep(&mut self, mut bytes: Vec<u8>) {
        bytes.clear();
        if bytes.capacity() <= codec::RECORD_MAX {
            self.spare = bytes;
        }
    }
    /// Returns the empty group, if the last one needs a proof and there is room for it.
    pub(crate) fn mark(&mut self) -> Option<Group> {
        let room = self.position - self.tail < self.pages;
        if self.marked || !self.used || !self.pending.is_empty() || !room {
            return None;
        }
        self.marked = true;
        let data = DataHash::new(self.key).finish();
        Some(Group { number: self.group, position: self.position, bytes: Vec::new(), data })
    }
}
