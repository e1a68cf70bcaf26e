//! What each request does to the disk, and what it is answered.

use super::{
    batch::{Batch, Piece},
    command::{self, Command, Fault, Head},
    export::Disk,
    transmit::{Connection, Failed, Input, PIECE},
};
use crate::AttachedVolume;
use std::ops::Range;

/// Parts of one answer about the status of a range.
const PARTS: usize = 256;
/// Bytes that a request to cache is followed for.
const CACHED_MAX: u32 = command::PAYLOAD_MAX;

/// What a long read is answered in, where it may be cut: a piece is sent while the processor has it in its cache.
const READ_PIECE: u64 = 256 << 10;

/// The pieces of a range, cut where the engine cuts reads and writes: first byte and bytes of each.
fn pieces(offset: u64, len: u32) -> impl Iterator<Item = (u64, usize)> {
    cut(offset, len, PIECE as u64)
}
/// The pieces of a range, cut at multiples of `step`.
fn cut(offset: u64, len: u32, step: u64) -> impl Iterator<Item = (u64, usize)> {
    let end = offset + u64::from(len);
    let mut at = offset;
    std::iter::from_fn(move || {
        let start = at;
        let len = (end - start).min(step - start % step);
        at += len;
        (len > 0).then_some((start, len as usize))
    })
}

impl Connection {
    /// The disk, for a request that changes it.
    fn volume(&self) -> Result<&AttachedVolume, Fault> {
        match &self.export.disk {
            Disk::Volume(volume) => Ok(volume),
            Disk::Snapshot(_) => Err(Fault::new(command::Code::NotPermitted, "a snapshot never changes")),
        }
    }

    /// Carries out a request whose payload, if any, is there, and adds the answer of a success.
    pub(super) fn carry_out(
        &self,
        head: &Head,
        command: Command,
        payload: &[u8],
        batch: &mut Batch,
    ) -> Result<(), Failed> {
        let (offset, len) = (head.offset, u64::from(head.len));
        match command {
            Command::Read { unfragmented } => return self.read(head, unfragmented, batch),
            Command::Status { one } => return self.status(head, one, batch),
            Command::Write { durable: true } => self.volume()?.write_fua_at(payload, offset)?,
            Command::Write { durable: false } => self.volume()?.write_at(payload, offset)?,
            Command::Trim { durable } => {
                self.volume()?.discard(offset, len)?;
                self.settle(durable)?;
            }
            Command::Zeroes { durable, allocated: false } => {
                self.volume()?.write_zeroes(offset, len)?;
                self.settle(durable)?;
            }
            Command::Zeroes { durable, allocated: true } => {
                self.fill_with_zeros(head)?;
                self.settle(durable)?;
            }
            Command::Flush => self.settle(true)?,
            Command::Cache => self.cache(head)?,
        }
        batch.succeeded(head);
        Ok(())
    }
    /// Makes durable what was written, if that is asked for.
    fn settle(&self, durable: bool) -> Result<(), Failed> {
        match &self.export.disk {
            Disk::Volume(volume) if durable && self.terms.writable => Ok(volume.flush()?),
            _ => Ok(()),
        }
    }
    /// Zeros that take space, so that the range is told as data. The engine never overwrites in place, so a later write needs space all the
    /// same.
    fn fill_with_zeros(&self, head: &Head) -> Result<(), Failed> {
        let zeros = vec![0; PIECE.min(head.len as usize)];
        for (at, len) in pieces(head.offset, head.len) {
            if self.socket.has_ended() {
                return Err(Fault::new(command::Code::Shutdown, "the connection is being ended").into());
            }
            self.volume()?.write_at(&zeros[..len], at)?;
        }
        Ok(())
    }
    /// Has the host fetch a range: it is read, and forgotten.
    fn cache(&self, head: &Head) -> Result<(), Failed> {
        let mut scrap = vec![0; PIECE.min(head.len as usize)];
        for (at, len) in pieces(head.offset, head.len.min(CACHED_MAX)) {
            self.export.disk.reads().read_at(&mut scrap[..len], at)?;
        }
        Ok(())
    }

    /// Receives the payload of a long write, and writes each piece once it is there.
    pub(super) fn write_pieces(
        &self,
        head: &Head,
        command: Result<Command, Fault>,
        input: &mut Input,
        own: &mut Vec<u8>,
    ) -> Result<(), Failed> {
        let mut outcome = command.map_err(Failed::from);
        // A head that breaks the rules says nothing of where its pieces would be cut.
        let offset = if outcome.is_ok() { head.offset } else { 0 };
        for (at, len) in pieces(offset, head.len) {
            self.receive(input, own, len)?;
            outcome = outcome.and_then(|command| Ok(self.volume()?.write_at(&own[..len], at).map(|()| command)?));
        }
        self.settle(outcome? == Command::Write { durable: true })
    }

    fn read(&self, head: &Head, unfragmented: bool, batch: &mut Batch) -> Result<(), Failed> {
        let disk = self.export.disk.reads();
        let (offset, len) = (head.offset, head.len as usize);
        if len > PIECE && unfragmented {
            return self.read_whole(head, batch);
        }
        if !self.terms.structured {
            return Ok(batch.simple(head, len, |buf| disk.read_at(buf, offset))?);
        }
        if len == 0 {
            batch.push(&command::end(head.cookie));
        }
        let end = offset + len as u64;
        // One piece where it must be; it is no longer than a buffer then.
        let step = if unfragmented { u64::MAX } else { READ_PIECE };
        for (at, len) in cut(offset, head.len, step) {
            let piece = Piece { offset: at, len, whole: unfragmented, last: at + len as u64 == end };
            batch.structured(head, piece, |buf| disk.read_at(buf, at))?;
            if !piece.last {
                self.send(batch)?;
            }
        }
        Ok(())
    }
    /// A long read that is answered in one chunk, which is sent as it is read: no other reply is sent meanwhile.
    fn read_whole(&self, head: &Head, batch: &mut Batch) -> Result<(), Failed> {
        let disk = self.export.disk.reads();
        let mut buf = vec![0; PIECE];
        let mut pieces = pieces(head.offset, head.len);
        let read = |buf: &mut [u8], (at, len): (u64, usize)| disk.read_at(&mut buf[..len], at).map(|()| len);
        let Some(first) = pieces.next() else { return Ok(()) };
        // Up to here an error is answered like any other.
        let n = read(&mut buf, first)?;
        self.send(batch)?;
        let mut fault = None;
        {
            let _one = self.sending();
            if self.terms.structured {
                self.socket.send(&command::data(head.cookie, false, head.offset, head.len))?;
            } else {
                self.socket.send(&command::simple(head.cookie, 0))?;
            }
            self.socket.send(&buf[..n])?;
            for piece in pieces {
                let n = match read(&mut buf, piece) {
                    Ok(n) => n,
                    // The simple form has no way to take its success back.
                    Err(e) if !self.terms.structured => return Err(std::io::Error::from(e).into()),
                    Err(e) => {
                        buf[..piece.1].fill(0);
                        fault.get_or_insert(Fault::from(e));
                        piece.1
                    }
                };
                self.socket.send(&buf[..n])?;
            }
        }
        match fault {
            Some(fault) => return Err(fault.into()),
            None if self.terms.structured => batch.push(&command::end(head.cookie)),
            None => {}
        }
        Ok(())
    }

    /// Tells which parts of a range are data: those of one page, which is less than the range where there are many.
    fn status(&self, head: &Head, one: bool, batch: &mut Batch) -> Result<(), Failed> {
        let range: Range<u64> = head.offset..head.offset + u64::from(head.len);
        let page = self.export.disk.reads().extents_page(range, if one { 1 } else { PARTS })?;
        let mut parts: Vec<(u32, bool)> = Vec::with_capacity(page.len());
        for extent in page {
            // The range is no longer than this number can tell.
            let len = extent.len as u32;
            match parts.last_mut() {
                Some((before, data)) if *data == extent.data => *before += len,
                _ => parts.push((len, extent.data)),
            }
        }
        let mut out = Vec::new();
        command::status(&mut out, head.cookie, &parts);
        batch.push(&out);
        Ok(())
    }
}
