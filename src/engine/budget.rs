//! How a store divides its memory budget, so that all of it together stays within [`crate::Options::memory`] and 16 MiB.
//!
//! | what | share | bound by |
//! |---|---|---|
//! | cached nodes | 3/32 | [`crate::tree::NodeCache`] evicts |
//! | where cached blocks lie | 1/32 | [`super::translation`] evicts |
//! | nodes and counts that wait for a checkpoint, with those that one is writing | 6/16 | writers wait for the checkpoint |
//! | staged data: waiting, being written, buffers to be used again | 1/8 each | the writer that reaches it writes it out |
//! | records of the open group, of the one being written, and its pages | 1/32 each | the writer that reaches it flushes |
//! | count pages and index pages of the space map as the disk has them | 1/32 | evicted |
//! | a check: counts and parents of as many regions | 1/4, for the time of the check | it goes through the regions in passes |
//!
//! Recovery holds the log and its decoded records: twice the log's size, which is why a budget must be at least that less 16 MiB.

use super::state::Config;
use crate::{BLOCK, Error, Result, units::BLOCK_BYTES};

/// Bytes that a store may take in addition to its budget.
const BESIDE: u64 = 16 << 20;
/// The smallest budget.
const LEAST: u64 = 1 << 20;
/// Upper bound on the staged bytes that writers leave to the write-behind thread.
const STAGED_MOST: u64 = 32 << 20;
/// Bytes that the medium is asked to begin with at a time. With less it is asked more often; with more the sync that follows has more left to wait for, and
/// a checkpoint waits longer for a request to return.
const PUSH: u64 = 4 << 20;
/// Bytes that a count page or an index page takes in memory at most.
const MAP_PAGE_BYTES: u64 = 5200;
/// Bytes, approximately, that a changed node takes in memory.
pub(super) const NODE_BYTES: u64 = 9 << 10;

impl Config {
    /// Refuses a budget that is too small for the log that recovery has to read.
    pub(crate) fn check_memory(&self, log_pages: u64) -> Result<()> {
        let (log, memory) = (log_pages * BLOCK_BYTES, self.memory);
        let least = LEAST.max((2 * log).saturating_sub(BESIDE));
        if memory >= least {
            return Ok(());
        }
        Err(Error::invalid(format!("memory of {memory} bytes: a log of {log} bytes needs at least {least}")))
    }
    /// Bytes for cached nodes.
    pub(super) fn cached_most(&self) -> u64 {
        self.memory / 32 * 3
    }
    /// Bytes for what reads know without a lock.
    pub(super) fn translated_most(&self) -> u64 {
        self.memory / 32
    }
    /// Bytes of changed nodes and counts at which a checkpoint is due.
    pub(super) fn dirty_due(&self) -> u64 {
        self.memory / 16 * 3
    }
    /// Bytes of changed nodes and counts, those that a checkpoint is writing included, at which writers wait.
    pub(super) fn dirty_most(&self) -> u64 {
        self.memory / 16 * 6
    }
    /// Upper bound on staged bytes; the writer that reaches it writes them out itself.
    pub(super) fn staged_most(&self) -> usize {
        (self.memory / 8).clamp(64 << 10, STAGED_MOST) as usize
    }
    /// Staged bytes at which they are written out ahead of their group. Not after every write, since writing them out takes the state's lock.
    pub(super) fn spill_from(&self) -> usize {
        match self.knobs.ahead {
            0 => self.staged_most() / 8,
            blocks => blocks as usize * BLOCK,
        }
    }
    /// Bytes of one request to the medium to begin writing out, at most, and how many have to be waiting before one is made.
    pub(super) fn push_from(&self) -> u64 {
        match self.knobs.ahead {
            0 => PUSH,
            blocks => u64::from(blocks) * BLOCK_BYTES,
        }
    }
    /// Pages of records at which the open group is written before anything is added to it.
    pub(super) fn group_most(&self) -> u64 {
        (self.memory / 32 / BLOCK_BYTES).max(64).min(self.log_pages / 2).max(1)
    }
    /// Count pages and index pages that stay in memory, those that a checkpoint has to write included.
    pub(super) fn map_pages(&self) -> usize {
        match self.knobs.map_pages {
            0 => (self.memory / 32 / MAP_PAGE_BYTES).max(64) as usize,
            pages => pages as usize,
        }
    }
    /// Regions whose counts a check compares at a time, at eight bytes for each of their blocks.
    pub(crate) fn regions_checked(&self, span: u32) -> u64 {
        (self.memory / 4 / (8 * u64::from(span))).max(64)
    }
}
