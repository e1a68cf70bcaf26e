//! The one place that knows `bincode`: records in an envelope of kind, version, length and CRC-32.
//!
//! Envelope: kind (1 byte), version (1), length of the body (4), CRC-32 of kind, version, length and body (4), body. Bodies are
//! bincode 1.3 with fixed-width little-endian integers, decoded from slices only, with a limit and no trailing bytes.

use crate::{Error, Result, format::get32};
use bincode::Options as _;
use serde::{Serialize, de::DeserializeOwned};
use std::io;

/// Bytes of an envelope around a body.
pub(crate) const ENVELOPE: usize = 10;
/// The longest record, in bytes, envelope included.
pub(crate) const RECORD_MAX: usize = 64 << 10;

/// What a record holds. The numbers are on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Kind {
    Log = 1,
    Volume = 2,
    Snapshot = 3,
    Tags = 4,
    Names = 5,
    Doomed = 6,
    Sweep = 7,
}

const VERSION: u8 = 1;

/// Bytes that end at `most`.
struct Bounded<'a> {
    out: &'a mut Vec<u8>,
    most: usize,
}

impl io::Write for Bounded<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.most - self.out.len() {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.out.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn options() -> impl bincode::Options {
    bincode::DefaultOptions::new().with_fixint_encoding().with_limit(RECORD_MAX as u64).reject_trailing_bytes()
}

/// Appends the record to `out`; `Invalid` (and `out` as it was) if it is longer than [`RECORD_MAX`].
pub(crate) fn encode_into<T: Serialize>(out: &mut Vec<u8>, kind: Kind, value: &T) -> Result<()> {
    let start = out.len();
    out.extend_from_slice(&[kind as u8, VERSION, 0, 0, 0, 0, 0, 0, 0, 0]);
    // The writer keeps the limit: bincode would go through the value once more for it.
    let most = start + RECORD_MAX;
    if options().with_no_limit().serialize_into(Bounded { out, most }, value).is_err() {
        out.truncate(start);
        return Err(Error::invalid(format!("the operation's record would be longer than {RECORD_MAX} bytes")));
    }
    let len = (out.len() - start - ENVELOPE) as u32;
    out[start + 2..start + 6].copy_from_slice(&len.to_le_bytes());
    let crc = checksum(&out[start..]);
    out[start + 6..start + ENVELOPE].copy_from_slice(&crc.to_le_bytes());
    Ok(())
}

/// A record as bytes of its own.
pub(crate) fn encode<T: Serialize>(kind: Kind, value: &T) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(128);
    encode_into(&mut out, kind, value)?;
    Ok(out)
}

fn checksum(record: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&record[..6]);
    crc.update(&record[ENVELOPE..]);
    crc.finalize()
}

/// Decodes the record at the start of `bytes`; gives it with its whole length.
pub(crate) fn decode_prefix<T: DeserializeOwned>(kind: Kind, bytes: &[u8]) -> Result<(T, usize)> {
    let bad = |why: &str| Error::corrupt(format!("{kind:?} record: {why}"));
    if bytes.len() < ENVELOPE {
        return Err(bad("cut short"));
    }
    let end = ENVELOPE + get32(bytes, 2) as usize;
    if end > RECORD_MAX || end > bytes.len() {
        return Err(bad("length out of bounds"));
    }
    if get32(bytes, 6) != checksum(&bytes[..end]) {
        return Err(bad("checksum mismatch"));
    }
    if bytes[0] != kind as u8 {
        return Err(bad("another kind stands here"));
    }
    if bytes[1] != VERSION {
        return Err(Error::new(
            crate::ErrorKind::UnsupportedVersion,
            format!("{kind:?} record of version {}", bytes[1]),
        ));
    }
    let value = options().deserialize(&bytes[ENVELOPE..end]).map_err(|e| bad(&e.to_string()))?;
    Ok((value, end))
}

/// Decodes a record that fills `bytes` exactly.
pub(crate) fn decode<T: DeserializeOwned>(kind: Kind, bytes: &[u8]) -> Result<T> {
    let (value, end) = decode_prefix(kind, bytes)?;
    if end != bytes.len() {
        return Err(Error::corrupt(format!("{kind:?} record: trailing bytes")));
    }
    Ok(value)
}
