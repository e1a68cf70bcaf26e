//! Counters: figures that cost nothing to ask for.

use crate::{
    Result,
    engine::{Counts, Engine},
    format::GENERATION_END,
    units::BLOCK_BYTES,
};
use std::sync::atomic::Ordering::Relaxed;

/// What [`crate::Store::counters`] returns. All of it is of one moment but for what the backend was asked; what only goes up starts at 0
/// when the image is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Counters {
    /// Bytes of the image file that the engine has laid out.
    pub image_bytes: u64,
    /// Bytes that are free to allocate now.
    pub free_bytes: u64,
    /// Bytes that were freed and wait for a checkpoint, or for reads to end.
    pub waiting_bytes: u64,
    /// Bytes that were returned to the host.
    pub returned_bytes: u64,
    /// Subtrees that wait for reclaim.
    pub reclaim_entries: u64,
    /// Blocks of the log.
    pub log_blocks: u64,
    /// Blocks of the log that are in use.
    pub log_used_blocks: u64,
    /// The number of the last durable checkpoint.
    pub generation: u64,
    /// Syncs that the backend was asked for.
    pub syncs: u64,
    /// Bytes that were read from the backend.
    pub backend_read_bytes: u64,
    /// Bytes that were written to the backend.
    pub backend_written_bytes: u64,
    /// Nodes that were copied because they were shared or on the disk.
    pub nodes_shadowed: u64,
    /// Bytes of fresh space that were written before they were used; see [`crate::Options::write_fresh_space`].
    pub fresh_written_bytes: u64,
    /// Times that the maintenance thread woke. An idle store does not wake it.
    pub wakeups: u64,
}

/// What [`crate::Volume::counters`] returns: requests that succeeded since the image was opened, of all handles of the volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct VolumeCounters {
    /// Reads, each of one or several buffers.
    pub reads: u64,
    /// Bytes that were read.
    pub read_bytes: u64,
    /// Writes, each of one or several buffers.
    pub writes: u64,
    /// Bytes that were written.
    pub written_bytes: u64,
    /// Discards and requests for zeros.
    pub discards: u64,
    /// Bytes that were discarded or zeroed.
    pub discarded_bytes: u64,
}

/// The counters of an open store.
pub(crate) fn counters(engine: &Engine) -> Result<Counters> {
    let state = engine.view()?;
    let space = &state.forest.space;
    Ok(Counters {
        image_bytes: space.end(),
        free_bytes: (space.available() + state.forest.pool.len() as u64) * BLOCK_BYTES,
        waiting_bytes: space.waiting() * BLOCK_BYTES,
        returned_bytes: space.returned() * BLOCK_BYTES,
        reclaim_entries: state.doomed,
        log_blocks: state.log.pages,
        log_used_blocks: state.log.used_pages(),
        // Of an image at the last generation there can be, the next one has no number in a stamp.
        generation: state.generation.checked_sub(1).unwrap_or(GENERATION_END - 1),
        syncs: engine.disk.syncs.load(Relaxed),
        backend_read_bytes: engine.disk.read_bytes.sum(),
        backend_written_bytes: engine.disk.written_blocks.load(Relaxed) * BLOCK_BYTES,
        nodes_shadowed: state.forest.shadowed,
        fresh_written_bytes: engine.fresh_written.load(Relaxed),
        wakeups: engine.wakeups.load(Relaxed),
    })
}

impl From<Counts> for VolumeCounters {
    fn from([reads, writes, discards]: Counts) -> VolumeCounters {
        VolumeCounters {
            reads: reads.0,
            read_bytes: reads.1,
            writes: writes.0,
            written_bytes: writes.1,
            discards: discards.0,
            discarded_bytes: discards.1,
        }
    }
}
