//! Replies of one thread that are sent together. Data is read straight into its place among them.

use super::command::{self, Fault, Head, SIMPLE, STRUCTURED, Terms};
use crate::{BLOCK, Result, SECTOR};

/// Runs of zeros of at least this many bytes are told rather than sent.
const HOLE_MIN: usize = 4 * BLOCK;

/// Replies that wait to be sent.
#[derive(Default)]
pub(super) struct Batch {
    /// It grows to the longest batch there was, and is written from the start again, so that it is cleared only once.
    buf: Vec<u8>,
    len: usize,
}

/// Where the data of a reply is in the disk.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) len: usize,
    /// The piece must not be cut.
    pub(super) whole: bool,
    /// It is the last of its reply.
    pub(super) last: bool,
}

fn is_zero(block: &[u8]) -> bool {
    // Most data differs from zeros in its first bytes.
    let (head, rest) = block.split_at(block.len().min(64));
    head.iter().all(|&b| b == 0) && rest.iter().fold(0, |all, b| all | b) == 0
}

/// The runs of data, and of at least [`HOLE_MIN`] zeros, that a piece consists of: lengths, and whether each is data.
fn runs(data: &[u8]) -> Vec<(usize, bool)> {
    let mut runs: Vec<(usize, bool)> = Vec::new();
    for block in data.chunks(BLOCK) {
        let is_data = !is_zero(block);
        match runs.last_mut() {
            Some((len, kind)) if *kind == is_data => *len += block.len(),
            _ => runs.push((block.len(), is_data)),
        }
    }
    // A hole's head has to fit in its place.
    let least = if runs.len() > 1 { HOLE_MIN } else { SECTOR as usize };
    runs.iter_mut().filter(|(len, _)| *len < least).for_each(|run| run.1 = true);
    runs.dedup_by(|next, before| {
        let same = next.1 == before.1;
        before.0 += if same { next.0 } else { 0 };
        same
    });
    runs
}

impl Batch {
    pub(super) fn len(&self) -> usize {
        self.len
    }
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buf[..self.len]
    }
    pub(super) fn clear(&mut self) {
        self.len = 0;
    }
    /// The next `n` bytes, to be written.
    fn room(&mut self, n: usize) -> &mut [u8] {
        if self.buf.len() < self.len + n {
            self.buf.resize(self.len + n, 0);
        }
        &mut self.buf[self.len..self.len + n]
    }
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.room(bytes.len()).copy_from_slice(bytes);
        self.len += bytes.len();
    }
    /// Adds the reply to a request that has succeeded and has nothing to tell.
    pub(super) fn succeeded(&mut self, head: &Head) {
        self.push(&command::simple(head.cookie, 0));
    }
    /// Adds the reply to a request that has failed.
    pub(super) fn failed(&mut self, head: &Head, terms: &Terms, fault: &Fault) {
        let mut out = Vec::new();
        command::failed(&mut out, head.cookie, terms.structured, fault);
        self.push(&out);
    }
    /// Adds data in the simple form, where that is the whole reply.
    pub(super) fn simple(&mut self, head: &Head, len: usize, read: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<()> {
        let room = self.room(SIMPLE + len);
        read(&mut room[SIMPLE..])?;
        room[..SIMPLE].copy_from_slice(&command::simple(head.cookie, 0));
        self.len += SIMPLE + len;
        Ok(())
    }
    /// Adds data in the structured form, and zeros as holes.
    pub(super) fn structured(
        &mut self,
        head: &Head,
        piece: Piece,
        read: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<()> {
        let room = self.room(STRUCTURED + piece.len);
        read(&mut room[STRUCTURED..])?;
        let runs = if piece.whole { vec![(piece.len, true)] } else { runs(&room[STRUCTURED..]) };
        // Heads take less than the zeros whose place they take, so that nothing is written over before it was moved.
        let (mut from, mut to, mut offset) = (STRUCTURED, 0, piece.offset);
        for (i, &(len, is_data)) in runs.iter().enumerate() {
            let done = piece.last && i + 1 == runs.len();
            if is_data {
                if from != to + STRUCTURED {
                    room.copy_within(from..from + len, to + STRUCTURED);
                }
                room[to..to + STRUCTURED].copy_from_slice(&command::data(head.cookie, done, offset, len as u32));
                to += STRUCTURED + len;
            } else {
                let hole = command::hole(head.cookie, done, offset, len as u32);
                room[to..to + hole.len()].copy_from_slice(&hole);
                to += hole.len();
            }
            (from, offset) = (from + len, offset + len as u64);
        }
        self.len += to;
        Ok(())
    }
}
