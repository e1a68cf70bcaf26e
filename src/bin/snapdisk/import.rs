//! Raw disks into volumes.
//!
//! A new volume is filled under a reserved name and gets its own, its size and its tags in one record at the end: an
//! import that was interrupted, however, leaves no volume (see [`crate::image::UNFINISHED`]).

use crate::{
    failure::{At, Failure, Outcome},
    image, interrupt,
    length::{self, sectors},
    progress::Meter,
    session::{Console, Session},
    streams,
};
use rustix::{fs::SeekFrom, io::Errno};
use snapdisk::{ATOMIC_WRITE_MAX, BLOCK, DeleteSnapshots, Store, VOLUME_MAX, Volume};
use std::{
    fs::File,
    io::{self, IsTerminal, Read, Seek},
    os::unix::fs::{FileExt, FileTypeExt},
    path::Path,
};

/// One step of a copy: the largest write that is atomic.
pub(crate) const CHUNK: usize = ATOMIC_WRITE_MAX;
/// Holes are looked at in steps of this many bytes.
pub(crate) const WINDOW: u64 = 1 << 30;

pub(crate) fn run(session: &mut Session<'_>, name: &str, raw: &mut Raw<'_>, update: bool) -> Outcome {
    session.writing(|store, console| match update {
        true => refresh(store, name, raw, console),
        false => fill(store, name, raw, console),
    })
}

/// Makes the volume `name` from `raw`. Durable when it returns.
pub(crate) fn fill(store: &Store, name: &str, raw: &mut Raw<'_>, console: &mut dyn Console) -> Outcome {
    if store.volume(name).is_ok() {
        return Err(Failure::new(format!("volume {name} exists; --update writes what differs")));
    }
    // Where the length is not known, as large as can be: only what is written takes space.
    let volume = image::create_unfinished(store, raw.len.map_or(VOLUME_MAX, sectors))?;
    let done = copy(&volume, raw, None, console).and_then(|len| {
        let finish = store.update(|u| {
            if raw.len.is_none() {
                u.resize(&volume, sectors(len));
            }
            u.rename(&volume, name);
            u.set_volume_tags(&volume, length::tagged(Default::default(), len));
            Ok(())
        });
        Ok(finish?)
    });
    if done.is_err() {
        // If even this fails, the next writer removes it. Whoever pressed Ctrl-C does not want to wait.
        let deleted = store.delete_volume(&volume, DeleteSnapshots::Delete);
        if deleted.is_ok() && !console.interrupted() {
            let _ = image::reclaim(store, console);
        }
    }
    done
}

/// Makes the existing volume `name` equal to `raw`, writing only what differs. Durable when it returns.
pub(crate) fn refresh(store: &Store, name: &str, raw: &mut Raw<'_>, console: &mut dyn Console) -> Outcome {
    let volume = store.volume(name)?;
    let size = volume.size()?;
    let mismatch = |len: u64, note: &str| {
        Failure::new(format!("{} has {len} bytes and volume {name} has {size}{note}", raw_name(raw.len)))
    };
    if let Some(len) = raw.len.filter(|&len| sectors(len) != size) {
        return Err(mismatch(len, ""));
    }
    let len = copy(&volume, raw, Some(size), console)?;
    if sectors(len) != size {
        return Err(Failure::new(format!(
            "the input ended after {len} bytes and volume {name} has {size}; up to there it is updated"
        )));
    }
    let tags = volume.tags()?;
    let now = length::tagged(tags.clone(), len);
    if now != tags {
        volume.set_tags(now)?;
    }
    Ok(volume.flush()?)
}

fn raw_name(len: Option<u64>) -> &'static str {
    if len.is_some() { "the file" } else { "the input" }
}

/// Copies everything; gives the bytes that there were. With `existing` (its size) the volume is compared first; without,
/// it is taken to read as zeros.
fn copy(volume: &Volume, raw: &mut Raw<'_>, existing: Option<u64>, console: &mut dyn Console) -> Outcome<u64> {
    let meter = Meter::bytes(console, "importing", raw.len);
    let mut new = vec![0; CHUNK];
    let mut old = vec![0; if existing.is_some() { CHUNK } else { 0 }];
    let mut at = 0;
    loop {
        let piece = raw.next(&mut new)?;
        // Checked after the read: what ends the input together with this process, such as Ctrl-C on a pipeline, is no end of the disk.
        console.check()?;
        match piece {
            Piece::End => return Ok(at),
            Piece::Hole(len) => {
                if existing.is_some() {
                    clear(volume, at, sectors(len), &mut old, console)?;
                }
                at += len;
            }
            Piece::Data(n) => {
                let whole = sectors(n as u64) as usize;
                new[n..whole].fill(0);
                match existing {
                    None => put(volume, at, &new[..whole], None)?,
                    Some(size) if at + whole as u64 > size => {
                        return Err(Failure::new(format!(
                            "the input has more than the volume's {size} bytes; the volume is updated up to {at}"
                        )));
                    }
                    Some(_) => {
                        volume.read_at(&mut old[..whole], at)?;
                        put(volume, at, &new[..whole], Some(&old[..whole]))?;
                    }
                }
                at += n as u64;
            }
        }
        meter.set(at);
    }
}

/// Makes a range read as zeros that is a hole in the file.
fn clear(volume: &Volume, from: u64, len: u64, old: &mut [u8], console: &mut dyn Console) -> Outcome {
    let zeros = vec![0; CHUNK];
    let end = from + len;
    let mut start = from;
    while start < end {
        console.check()?;
        let stop = end.min(start + WINDOW);
        for part in volume.extents(start..stop) {
            let part = part?;
            if !part.data {
                continue;
            }
            let mut at = part.offset;
            while at < part.offset + part.len {
                let n = (part.offset + part.len - at).min(CHUNK as u64) as usize;
                volume.read_at(&mut old[..n], at)?;
                put(volume, at, &zeros[..n], Some(&old[..n]))?;
                at += n as u64;
            }
        }
        start = stop;
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Same,
    Zero,
    Write,
}

/// Writes `new` at `at` where it differs from `old` (none: from zeros), in runs of blocks.
fn put(volume: &Volume, at: u64, new: &[u8], old: Option<&[u8]>) -> Outcome {
    const ZEROS: [u8; BLOCK] = [0; BLOCK];
    let kind = |start: usize| {
        let end = new.len().min(start + BLOCK);
        let block = &new[start..end];
        let zero = block == &ZEROS[..block.len()];
        match old {
            Some(old) if block == &old[start..end] => Kind::Same,
            None if zero => Kind::Same,
            _ if zero => Kind::Zero,
            _ => Kind::Write,
        }
    };
    let mut start = 0;
    while start < new.len() {
        let this = kind(start);
        let mut end = start + BLOCK;
        while end < new.len() && kind(end) == this {
            end += BLOCK;
        }
        let end = end.min(new.len());
        match this {
            Kind::Same => {}
            Kind::Zero => volume.write_zeroes(at + start as u64, (end - start) as u64)?,
            Kind::Write => volume.write_at(&new[start..end], at + start as u64)?,
        }
        start = end;
    }
    Ok(())
}

/// The next part of a raw disk.
pub(crate) enum Piece {
    /// This many bytes that the host knows to be zeros, or the rest of them.
    Hole(u64),
    /// This many bytes in the buffer. Less than the buffer only before a hole or the end.
    Data(usize),
    End,
}

impl Piece {
    /// Its bytes.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Piece::Hole(len) => *len,
            Piece::Data(len) => *len as u64,
            Piece::End => 0,
        }
    }
}

/// A raw disk to read from start to end.
pub(crate) struct Raw<'a> {
    input: Input<'a>,
    /// Its length, unless it is a stream.
    pub(crate) len: Option<u64>,
    at: u64,
    /// The end of the run of data that `at` is in.
    data_end: u64,
}

enum Input<'a> {
    File(File, String),
    Stream(Box<dyn Read>),
    /// The pieces that another process has read.
    Pieces(&'a mut dyn FnMut(&mut [u8]) -> Outcome<Piece>),
}

impl<'a> Raw<'a> {
    /// A disk of `len` bytes, if that is known, whose pieces come from elsewhere.
    pub(crate) fn pieces(len: Option<u64>, next: &'a mut dyn FnMut(&mut [u8]) -> Outcome<Piece>) -> Raw<'a> {
        Raw { input: Input::Pieces(next), len, at: 0, data_end: 0 }
    }
    /// Opens a file, a block device, a pipe, or `-`.
    pub(crate) fn open(image: &Path, path: &Path) -> Outcome<Raw<'a>> {
        if path.as_os_str() == "-" {
            let input = io::stdin();
            if !streams::has_input() {
                return Err(Failure::usage("standard input is closed"));
            }
            if input.is_terminal() {
                return Err(Failure::usage("standard input is a terminal"));
            }
            return Ok(Raw::stream(Box::new(input.lock())));
        }
        let shown = path.display();
        let mut file = File::open(path).at(&shown)?;
        let meta = file.metadata().at(&shown)?;
        image::not_itself(image, path, &meta)?;
        let kind = meta.file_type();
        if kind.is_file() {
            Ok(Raw::sized(file, meta.len(), shown.to_string()))
        } else if kind.is_block_device() {
            let len = file.seek(io::SeekFrom::End(0)).at(&shown)?;
            Ok(Raw::sized(file, len, shown.to_string()))
        } else if kind.is_fifo() {
            Ok(Raw::stream(Box::new(file)))
        } else {
            Err(Failure::new(format!("{shown}: not a file, a block device or a pipe")))
        }
    }
    fn sized(file: File, len: u64, name: String) -> Raw<'a> {
        Raw { input: Input::File(file, name), len: Some(len), at: 0, data_end: 0 }
    }
    fn stream(input: Box<dyn Read>) -> Raw<'a> {
        Raw { input: Input::Stream(input), len: None, at: 0, data_end: 0 }
    }

    pub(crate) fn next(&mut self, buf: &mut [u8]) -> Outcome<Piece> {
        let (file, name, len) = match (&mut self.input, self.len) {
            (Input::File(file, name), Some(len)) => (file, name, len),
            (Input::Stream(input), _) => return next_of_stream(input.as_mut(), buf),
            (Input::Pieces(next), _) => return next(buf),
            (Input::File(..), None) => return Ok(Piece::End),
        };
        if self.at == len {
            return Ok(Piece::End);
        }
        if self.at >= self.data_end {
            // Hosts that know no holes answer that all is data, or that the call is not supported.
            let data = match rustix::fs::seek(&*file, SeekFrom::Data(self.at)) {
                Ok(data) => data.min(len) / BLOCK as u64 * BLOCK as u64,
                Err(Errno::NXIO) => len,
                Err(Errno::INVAL | Errno::OPNOTSUPP) => self.at,
                Err(e) => return Err(e).at(name),
            };
            if data > self.at {
                let hole = data - self.at;
                self.at = data;
                return Ok(Piece::Hole(hole));
            }
            self.data_end = match rustix::fs::seek(&*file, SeekFrom::Hole(self.at)) {
                Ok(hole) => hole.next_multiple_of(BLOCK as u64).min(len),
                Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NXIO) => len,
                Err(e) => return Err(e).at(name),
            };
            if self.data_end <= self.at {
                return Err(Failure::new(format!("{name}: it changed while it was read")));
            }
        }
        // Steps stay on the borders of whole chunks, so that runs of blocks do too.
        let room = buf.len() as u64 - self.at % buf.len() as u64;
        let n = room.min(self.data_end - self.at) as usize;
        file.read_exact_at(&mut buf[..n], self.at).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => Failure::new(format!("{name}: it shrank while it was read")),
            _ => Failure::host(&*name, &e),
        })?;
        self.at += n as u64;
        Ok(Piece::Data(n))
    }
}

fn next_of_stream(input: &mut dyn Read, buf: &mut [u8]) -> Outcome<Piece> {
    let mut n = 0;
    while n < buf.len() {
        match input.read(&mut buf[n..]) {
            Ok(0) => break,
            Ok(more) => n += more,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => interrupt::check()?,
            Err(e) => return Err(Failure::host("standard input", &e)),
        }
    }
    Ok(if n == 0 { Piece::End } else { Piece::Data(n) })
}
