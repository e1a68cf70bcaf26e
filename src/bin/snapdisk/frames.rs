//! What commands and a server say to each other at the control socket: frames of a kind, a number and bytes. Whatever comes is bounded, and
//! nothing that comes is trusted but by the rules of the command line, under which it is read.

use crate::{
    failure::{Failure, Outcome},
    import::{CHUNK, Piece},
};
use std::{
    ffi::{OsStr, OsString},
    io::{self, Read, Write},
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        net::UnixStream,
    },
    time::Duration,
};

/// How long a call waits before it is looked whether to go on.
const TICK: Duration = Duration::from_millis(200);
/// How long a peer may take nothing of what is sent.
const STALL: Duration = Duration::from_secs(60);
/// What a request begins with. It changes with the frames.
const VERSION: &[u8] = b"snapdisk-control-1";
/// Bytes of a command line.
const ARGS_MAX: usize = 64 << 10;

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Kind {
    /// A command line.
    Args = b'A',
    /// The length of a disk that is imported, in its number; [`NO_LENGTH`] if it is not known.
    Length = b'L',
    /// Text for standard output.
    Out = b'O',
    /// The length of a disk that is exported, in its number.
    Size = b'S',
    /// Data; its offset is in the number when it is exported.
    Data = b'D',
    /// Zeros: as many as the number when they are imported, from the number on when they are exported.
    Hole = b'H',
    /// The end of a disk that is imported.
    End = b'E',
    /// The outcome: its exit code in the number, and the message.
    Done = b'X',
}

/// The length of a stream.
pub(crate) const NO_LENGTH: u64 = u64::MAX;

const HEAD: usize = 13;

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        use Kind::{Args, Data, Done, End, Hole, Length, Out, Size};
        [Args, Length, Out, Size, Data, Hole, End, Done].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// Reads a frame's head: its kind, its number and the bytes that follow.
fn parse(head: &[u8; HEAD]) -> Option<(Kind, u64, usize)> {
    let number = u64::from_be_bytes(std::array::from_fn(|i| head[1 + i]));
    let len = u32::from_be_bytes(std::array::from_fn(|i| head[9 + i])) as usize;
    Some((Kind::of(head[0])?, number, len)).filter(|(.., len)| *len <= CHUNK)
}

/// Writes a command line.
pub(crate) fn join(args: &[OsString]) -> Vec<u8> {
    let mut out = VERSION.to_vec();
    for arg in args {
        out.push(0);
        out.extend_from_slice(arg.as_bytes());
    }
    out
}

/// Reads a command line. `None` if it is none, or one of another version.
pub(crate) fn split(bytes: &[u8]) -> Option<Vec<OsString>> {
    let mut parts = bytes.split(|&b| b == 0);
    (parts.next() == Some(VERSION) && bytes.len() <= ARGS_MAX)
        .then(|| parts.map(|part| OsStr::from_bytes(part).to_owned()).collect::<Vec<_>>())
        .map(|args| args.into_iter().map(|arg| OsString::from_vec(arg.into_vec())).collect())
}

/// One end of the control socket.
pub(crate) struct Link(UnixStream);

impl Link {
    pub(crate) fn new(stream: UnixStream) -> io::Result<Link> {
        stream.set_read_timeout(Some(TICK))?;
        stream.set_write_timeout(Some(STALL))?;
        Ok(Link(stream))
    }
    /// A second handle to the same end.
    pub(crate) fn again(&self) -> io::Result<Link> {
        self.0.try_clone().map(Link)
    }
    /// Sends a frame.
    pub(crate) fn send(&mut self, kind: Kind, number: u64, bytes: &[u8]) -> io::Result<()> {
        let mut head = [0; HEAD];
        head[0] = kind as u8;
        head[1..9].copy_from_slice(&number.to_be_bytes());
        head[9..].copy_from_slice(&(bytes.len() as u32).to_be_bytes());
        self.0.write_all(&head)?;
        self.0.write_all(bytes)
    }
    /// Receives a frame into `buf`. `stop` is asked now and then whether to give up.
    pub(crate) fn receive(&mut self, buf: &mut Vec<u8>, stop: &mut dyn FnMut() -> bool) -> Outcome<(Kind, u64)> {
        let mut head = [0; HEAD];
        self.fill(&mut head, stop)?;
        let (kind, number, len) =
            parse(&head).ok_or_else(|| Failure::new("the control socket carries something else"))?;
        buf.resize(len, 0);
        self.fill(buf, stop)?;
        Ok((kind, number))
    }
    fn fill(&mut self, mut buf: &mut [u8], stop: &mut dyn FnMut() -> bool) -> Outcome {
        while !buf.is_empty() {
            match self.0.read(buf) {
                Ok(0) => return Err(gone()),
                Ok(n) => buf = &mut buf[n..],
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                    if stop() {
                        return Err(Failure::new("interrupted"));
                    }
                }
                Err(_) => return Err(gone()),
            }
        }
        Ok(())
    }
    /// Whether the other end is closed, as far as can be seen without taking what it has sent.
    pub(crate) fn is_gone(&self) -> bool {
        use rustix::net::{RecvFlags, recv};
        matches!(recv(&self.0, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT), Ok((0, _)))
    }
    /// The user whose process is at the other end.
    pub(crate) fn user(&self) -> io::Result<u32> {
        Ok(rustix::net::sockopt::socket_peercred(&self.0)?.uid.as_raw())
    }
    /// The next piece of a disk that is imported.
    pub(crate) fn piece(&mut self, out: &mut [u8], stop: &mut dyn FnMut() -> bool) -> Outcome<Piece> {
        let mut buf = Vec::new();
        match self.receive(&mut buf, stop)? {
            (Kind::Data, _) if (1..=out.len()).contains(&buf.len()) => {
                out[..buf.len()].copy_from_slice(&buf);
                Ok(Piece::Data(buf.len()))
            }
            (Kind::Hole, len) if len > 0 => Ok(Piece::Hole(len)),
            (Kind::End, _) => Ok(Piece::End),
            _ => Err(Failure::new("no piece of a disk")),
        }
    }
}

fn gone() -> Failure {
    Failure::new("the other end of the control socket is gone")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        for kind in [Kind::Args, Kind::Length, Kind::Out, Kind::Size, Kind::Data, Kind::Hole, Kind::End, Kind::Done] {
            let mut head = [0; HEAD];
            head[0] = kind as u8;
            head[8] = 7;
            head[11] = 1;
            assert_eq!(parse(&head), Some((kind, 7, 256)));
        }
        assert_eq!(parse(&[0; HEAD]), None);
        let mut long = [0; HEAD];
        (long[0], long[9]) = (b'D', 1);
        assert_eq!(parse(&long), None);
    }

    #[test]
    fn command_lines() {
        let args = ["snapdisk", "", "a\u{fffd}", "--x=\n"].map(OsString::from).to_vec();
        assert_eq!(split(&join(&args)), Some(args));
        assert_eq!(split(b"snapdisk-control-2\0ls"), None);
        assert_eq!(split(&[0; 5]), None);
        assert_eq!(split(&join(&[OsString::from("x".repeat(ARGS_MAX))])), None);
    }
}
