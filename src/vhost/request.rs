//! Requests of a virtio block device: what a chain of descriptors asks for, and its answer.

use super::message::{u32_at, u64_at};
use crate::{AttachedVolume, Result, SECTOR, Snapshot, units::BLOCK_BYTES};
use std::io::{Read, Write};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO,
    VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR,
    VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID,
    VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
};

/// Queues of a device, at most.
pub(super) const QUEUES: usize = 16;
/// Bytes of data of one request, at most.
const REQUEST_MAX: usize = 64 << 20;
/// Bytes that are copied from or to the guest at a time: the buffer of a queue. A multiple of it is where a long request is cut, so that large
/// writes go to their places in the image directly.
pub(super) const BUFFER: usize = 256 << 10;
/// Data segments of a request, as the guest is told. With header and status it fits the smallest queue that monitors make.
const SEGMENTS: u32 = 126;
/// Ranges of one discard or write of zeros, at most.
const RANGES: u32 = 32;
/// Bytes of a range: sector, length, flags.
const RANGE: usize = 16;
/// Sectors of a range, as the guest is told. The engine has no bound.
const RANGE_MAX: u32 = 1 << 22;
/// Bytes of a request's header: type, reserved, sector.
const HEADER: usize = 16;
/// Bytes of the configuration that is filled; what a front end asks for beyond reads as zeros.
const CONFIG: usize = 60;

/// What is served.
pub(super) enum Medium {
    Volume(AttachedVolume),
    Snapshot(Snapshot),
}

impl Medium {
    pub(super) fn size(&self) -> Result<u64> {
        match self {
            Medium::Volume(volume) => volume.volume().size(),
            Medium::Snapshot(snapshot) => Ok(snapshot.size()),
        }
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        match self {
            Medium::Volume(volume) => volume.read_at(buf, offset),
            Medium::Snapshot(snapshot) => snapshot.read_at(buf, offset),
        }
    }
    /// The volume, where it may be written to.
    fn volume(&self) -> std::result::Result<&AttachedVolume, u32> {
        match self {
            Medium::Volume(volume) => Ok(volume),
            Medium::Snapshot(_) => Err(VIRTIO_BLK_S_IOERR),
        }
    }
    fn serial(&self) -> String {
        match self {
            Medium::Volume(volume) => format!("volume-{}", volume.id()),
            Medium::Snapshot(snapshot) => format!("snapshot-{}", snapshot.id()),
        }
    }
    /// The features of a block device that the guest may use, as bits.
    pub(super) fn features(&self) -> u64 {
        let common = [VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_MQ];
        let own: &[u32] = match self {
            Medium::Volume(_) => &[VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES],
            Medium::Snapshot(_) => &[VIRTIO_BLK_F_RO],
        };
        common.iter().chain(own).fold(0, |bits, feature| bits | 1 << feature)
    }
    /// The device's configuration, `len` bytes from `offset` on. `None` for a range that no configuration has.
    pub(super) fn config(&self, offset: usize, len: usize) -> Result<Option<Vec<u8>>> {
        let mut all = [0; CONFIG];
        let mut put = |at: usize, bytes: &[u8]| all[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &(self.size()? / SECTOR).to_le_bytes());
        put(12, &SEGMENTS.to_le_bytes());
        put(20, &(SECTOR as u32).to_le_bytes());
        // Blocks of 4096 bytes, of which the smallest good request is one and the best one 256 KiB.
        put(24, &[(BLOCK_BYTES / SECTOR).trailing_zeros() as u8, 0]);
        put(26, &((BLOCK_BYTES / SECTOR) as u16).to_le_bytes());
        put(28, &((BUFFER as u64 / SECTOR) as u32).to_le_bytes());
        // A write-back cache.
        put(32, &[1]);
        put(34, &(QUEUES as u16).to_le_bytes());
        for (at, word) in [(36, RANGE_MAX), (40, RANGES), (44, (BLOCK_BYTES / SECTOR) as u32)] {
            put(at, &word.to_le_bytes());
        }
        for (at, word) in [(48, RANGE_MAX), (52, RANGES), (56, 1)] {
            put(at, &word.to_le_bytes());
        }
        let Some(end) = offset.checked_add(len).filter(|&end| end <= 256) else { return Ok(None) };
        Ok(Some((offset..end).map(|at| all.get(at).copied().unwrap_or(0)).collect()))
    }
}

/// What a queue works with.
pub(super) struct Desk<'a> {
    pub(super) medium: &'a Medium,
    /// [`BUFFER`] bytes.
    pub(super) buffer: &'a mut [u8],
    /// The guest can't ask for a flush, so that each write has to be durable.
    pub(super) write_through: bool,
}

/// Why a request fails: its status.
type Outcome = std::result::Result<(), u32>;

fn failed<E>(_: E) -> u32 {
    VIRTIO_BLK_S_IOERR
}

impl Desk<'_> {
    /// Carries out a request whose readable part is `from` (`readable` bytes) and whose writable part, but for the status, is `into` (`room`
    /// bytes). Returns the status.
    pub(super) fn serve(&mut self, from: &mut impl Read, readable: usize, into: &mut impl Write, room: usize) -> u8 {
        let mut header = [0; HEADER];
        if readable < HEADER || from.read_exact(&mut header).is_err() {
            return VIRTIO_BLK_S_IOERR as u8;
        }
        let (kind, sector, payload) = (u32_at(&header, 0), u64_at(&header, 8), readable - HEADER);
        let outcome = match kind {
            VIRTIO_BLK_T_IN => self.read(sector, into, room),
            VIRTIO_BLK_T_OUT => self.write(sector, from, payload),
            VIRTIO_BLK_T_FLUSH => self.medium.volume().and_then(|volume| volume.flush().map_err(failed)),
            VIRTIO_BLK_T_GET_ID => self.identify(into, room),
            VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES => self.cut(kind, from, payload),
            _ => Err(VIRTIO_BLK_S_UNSUPP),
        };
        outcome.err().unwrap_or(VIRTIO_BLK_S_OK) as u8
    }

    /// The byte at which a request of `len` bytes of data begins. One that is carried out in several pieces is on the disk as a whole, or none of
    /// it is; of a single piece the engine says whether it is.
    fn data(&self, sector: u64, len: usize) -> std::result::Result<u64, u32> {
        if len > REQUEST_MAX || !(len as u64).is_multiple_of(SECTOR) {
            return Err(VIRTIO_BLK_S_IOERR);
        }
        let start = byte(sector)?;
        let end = start.checked_add(len as u64).ok_or(VIRTIO_BLK_S_IOERR)?;
        if len > BUFFER && end > self.medium.size().map_err(failed)? {
            return Err(VIRTIO_BLK_S_IOERR);
        }
        Ok(start)
    }
    fn read(&mut self, sector: u64, into: &mut impl Write, len: usize) -> Outcome {
        let start = self.data(sector, len)?;
        for_each_piece(start, len, |at, n| {
            let piece = &mut self.buffer[..n];
            self.medium.read_at(piece, at).map_err(failed)?;
            into.write_all(piece).map_err(failed)
        })
    }
    fn write(&mut self, sector: u64, from: &mut impl Read, len: usize) -> Outcome {
        let volume = self.medium.volume()?;
        let start = self.data(sector, len)?;
        for_each_piece(start, len, |at, n| {
            let piece = &mut self.buffer[..n];
            from.read_exact(piece).map_err(failed)?;
            volume.write_at(piece, at).map_err(failed)
        })?;
        self.settle(volume)
    }
    /// Makes a change durable where the guest can't ask for that.
    fn settle(&self, volume: &AttachedVolume) -> Outcome {
        if self.write_through { volume.flush().map_err(failed) } else { Ok(()) }
    }
    fn identify(&self, into: &mut impl Write, room: usize) -> Outcome {
        let mut id = self.medium.serial().into_bytes();
        id.resize(VIRTIO_BLK_ID_BYTES as usize, 0);
        let n = id.len().min(room);
        into.write_all(&id[..n]).map_err(failed)
    }
    /// Discards, or zeroes, each range of a list.
    fn cut(&self, kind: u32, from: &mut impl Read, len: usize) -> Outcome {
        let volume = self.medium.volume()?;
        if len == 0 || !len.is_multiple_of(RANGE) || len > RANGES as usize * RANGE {
            return Err(VIRTIO_BLK_S_IOERR);
        }
        let mut ranges = [0; RANGES as usize * RANGE];
        let ranges = &mut ranges[..len];
        from.read_exact(ranges).map_err(failed)?;
        // A zeroed range may keep its space or not; zeros need none.
        let known = if kind == VIRTIO_BLK_T_WRITE_ZEROES { 1 } else { 0 };
        for range in ranges.chunks_exact(RANGE) {
            let (sector, sectors, flags) = (u64_at(range, 0), u32_at(range, 8), u32_at(range, 12));
            if flags & !known != 0 {
                return Err(VIRTIO_BLK_S_UNSUPP);
            }
            volume.discard(byte(sector)?, u64::from(sectors) * SECTOR).map_err(failed)?;
        }
        self.settle(volume)
    }
}

/// The byte at which a sector begins.
fn byte(sector: u64) -> std::result::Result<u64, u32> {
    sector.checked_mul(SECTOR).ok_or(VIRTIO_BLK_S_IOERR)
}

/// Calls `f` for the pieces of a range, cut at multiples of [`BUFFER`].
fn for_each_piece(start: u64, len: usize, mut f: impl FnMut(u64, usize) -> Outcome) -> Outcome {
    let (mut at, end) = (start, start + len as u64);
    while at < end {
        let n = (end - at).min(BUFFER as u64 - at % BUFFER as u64);
        f(at, n as usize)?;
        at += n;
    }
    Ok(())
}
