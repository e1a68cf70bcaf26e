//! Messages of the vhost-user protocol: their framing, and the descriptors that come with them.

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendFlags, recv, recvmsg,
    sendmsg,
};
use std::{
    fmt,
    io::{self, ErrorKind::InvalidData, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::net::UnixStream},
};

/// Requests of the front end that are served.
pub(super) mod code {
    pub(in crate::vhost) const GET_FEATURES: u32 = 1;
    pub(in crate::vhost) const SET_FEATURES: u32 = 2;
    pub(in crate::vhost) const SET_OWNER: u32 = 3;
    pub(in crate::vhost) const RESET_OWNER: u32 = 4;
    pub(in crate::vhost) const SET_MEM_TABLE: u32 = 5;
    pub(in crate::vhost) const SET_VRING_NUM: u32 = 8;
    pub(in crate::vhost) const SET_VRING_ADDR: u32 = 9;
    pub(in crate::vhost) const SET_VRING_BASE: u32 = 10;
    pub(in crate::vhost) const GET_VRING_BASE: u32 = 11;
    pub(in crate::vhost) const SET_VRING_KICK: u32 = 12;
    pub(in crate::vhost) const SET_VRING_CALL: u32 = 13;
    pub(in crate::vhost) const SET_VRING_ERR: u32 = 14;
    pub(in crate::vhost) const GET_PROTOCOL_FEATURES: u32 = 15;
    pub(in crate::vhost) const SET_PROTOCOL_FEATURES: u32 = 16;
    pub(in crate::vhost) const GET_QUEUE_NUM: u32 = 17;
    pub(in crate::vhost) const SET_VRING_ENABLE: u32 = 18;
    pub(in crate::vhost) const SET_BACKEND_REQ_FD: u32 = 21;
    pub(in crate::vhost) const GET_CONFIG: u32 = 24;
    pub(in crate::vhost) const SET_CONFIG: u32 = 25;
    pub(in crate::vhost) const RESET_DEVICE: u32 = 34;
    /// The request of the back end that says that the configuration has changed.
    pub(in crate::vhost) const CONFIG_CHANGE: u32 = 2;
}

const VERSION: u32 = 1;
const REPLY: u32 = 4;
const NEED_REPLY: u32 = 8;
/// Bytes of a header: request, flags, size.
const HEADER: usize = 12;
/// Bytes of a payload, at most. The longest one that is served is a table of eight regions, or a configuration.
const MOST: usize = 4096;
/// Descriptors of a message, at most: one for each region of memory.
pub(super) const FDS: usize = 8;

/// A message as it came.
pub(super) struct Message {
    pub(super) code: u32,
    needs_reply: bool,
    pub(super) body: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
}

impl Message {
    /// The body as numbers of 32 bits. `InvalidData` if it has another length.
    pub(super) fn words<const N: usize>(&self) -> io::Result<[u32; N]> {
        self.exact(4 * N)?;
        Ok(std::array::from_fn(|i| u32_at(&self.body, 4 * i)))
    }
    /// The body as one number of 64 bits.
    pub(super) fn number(&self) -> io::Result<u64> {
        self.exact(8)?;
        Ok(u64_at(&self.body, 0))
    }
    pub(super) fn exact(&self, len: usize) -> io::Result<()> {
        if self.body.len() == len { Ok(()) } else { Err(bad(format_args!("a body of {} bytes", self.body.len()))) }
    }
    /// Whether the front end waits for an answer that says how it went, where the request has none of its own.
    pub(super) fn needs_reply(&self) -> bool {
        self.needs_reply
    }
}

pub(super) fn bad(what: impl fmt::Display) -> io::Error {
    io::Error::new(InvalidData, format!("vhost-user: {what}"))
}

/// A number in a body that is long enough.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

/// Waits for the next message. `None` where the front end has hung up between two of them.
pub(super) fn receive(from: &UnixStream) -> io::Result<Option<Message>> {
    let mut header = [0; HEADER];
    let mut fds = Vec::new();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS))];
    let mut have = 0;
    while have < HEADER {
        // Descriptors come with the first byte; an empty buffer refuses those of later ones.
        let mut control = RecvAncillaryBuffer::new(if have == 0 { &mut space } else { &mut [] });
        let mut into = [IoSliceMut::new(&mut header[have..])];
        let got = match recvmsg(from, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => continue,
            got => got?,
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(list) = message {
                fds.extend(list);
            }
        }
        if got.flags.contains(ReturnFlags::CTRUNC) {
            return Err(bad("more descriptors than a message has"));
        }
        match (got.bytes, have) {
            (0, 0) => return Ok(None),
            (0, _) => return Err(io::ErrorKind::UnexpectedEof.into()),
            (n, _) => have += n,
        }
    }
    let (code, flags, len) = (u32_at(&header, 0), u32_at(&header, 4), u32_at(&header, 8) as usize);
    if flags & 3 != VERSION || flags & REPLY != 0 || len > MOST {
        return Err(bad(format_args!("request {code} with flags {flags:#x} and {len} bytes")));
    }
    let mut body = vec![0; len];
    let mut have = 0;
    while have < len {
        match recv(from, &mut body[have..], RecvFlags::empty()) {
            Ok((_, 0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok((_, n)) => have += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(Some(Message { code, needs_reply: flags & NEED_REPLY != 0, body, fds }))
}

/// Sends the answer to a request.
pub(super) fn reply(to: &UnixStream, code: u32, body: &[u8]) -> io::Result<()> {
    send(to, code, VERSION | REPLY, body)
}

/// Sends a request of the back end, which wants no answer.
pub(super) fn request(to: &UnixStream, code: u32) -> io::Result<()> {
    send(to, code, VERSION, &[])
}

fn send(to: &UnixStream, code: u32, flags: u32, body: &[u8]) -> io::Result<()> {
    let mut message = Vec::with_capacity(HEADER + body.len());
    for word in [code, flags, body.len() as u32] {
        message.extend_from_slice(&word.to_le_bytes());
    }
    message.extend_from_slice(body);
    let mut rest = &message[..];
    while !rest.is_empty() {
        // A front end that is gone is an error here, not a signal to the process.
        match sendmsg(to, &[IoSlice::new(rest)], &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL) {
            Ok(n) => rest = &rest[n..],
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}
