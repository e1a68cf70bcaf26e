//! A group of the intent log: what one sync makes durable, and how it is framed in pages.
//!
//! No byte of group g+1 is written before g's sync returned, so g+1 on disk proves g. The empty group is a placeholder that
//! proves the last one: the next real group takes its number, page and previous hash.

use crate::{
    BLOCK,
    bytes::Hash,
    format::{HEADER, LOG_PAYLOAD, LogHeader, Page, put, seal_log},
};

/// A closed group that is to be written.
pub(crate) struct Group {
    pub(crate) number: u64,
    pub(crate) position: u64,
    pub(crate) bytes: Vec<u8>,
    pub(crate) data: u64,
}

impl Group {
    /// Frames the group in pages and appends them to `pages`. Returns the hash of the last one.
    pub(crate) fn encode(&self, uuid: &[u8; 16], key: u64, epoch: u64, mut previous: u64, pages: &mut Vec<u8>) -> u64 {
        let count = page_count(self.bytes.len()) as usize;
        pages.clear();
        pages.resize(count * BLOCK, 0);
        let mut chunks = self.bytes.chunks(LOG_PAYLOAD);
        for (index, page) in pages.chunks_exact_mut(BLOCK).enumerate() {
            let page: &mut Page = page.try_into().expect("a page");
            let payload = chunks.next().unwrap_or(&[]);
            put(page, HEADER, payload);
            let last = index + 1 == count;
            let header = LogHeader {
                epoch,
                group: self.number,
                index: index as u32,
                last,
                len: payload.len() as u32,
                previous,
                data: if last { self.data } else { 0 },
            };
            previous = seal_log(page, uuid, key, &header);
        }
        previous
    }
}

pub(super) fn page_count(bytes: usize) -> u64 {
    bytes.div_ceil(LOG_PAYLOAD).max(1) as u64
}

/// Folds the hashes of the data that a group names, in the order of its records.
pub(crate) struct DataHash(Hash);

impl DataHash {
    pub(crate) fn new(key: u64) -> DataHash {
        DataHash(Hash::new(key))
    }
    pub(crate) fn add(&mut self, hash: u64) {
        self.0.add(&hash.to_le_bytes());
    }
    pub(crate) fn finish(&self) -> u64 {
        self.0.finish()
    }
}
