//! The transmission phase's bytes: requests in, replies out. Nothing here reads or writes a socket.

use crate::{Error, ErrorKind};

/// Bytes of a request without its payload.
pub const REQUEST: usize = 28;
/// Bytes in front of the payload of a simple reply.
pub const SIMPLE: usize = 16;
/// Bytes in front of the data of a structured reply: the chunk's head and the data's offset.
pub const STRUCTURED: usize = 28;
/// The longest payload, in bytes.
pub const PAYLOAD_MAX: u32 = 32 << 20;

const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_MAGIC: u32 = 0x6744_6698;
const STRUCTURED_MAGIC: u32 = 0x668e_33ef;

const FLAG_FUA: u16 = 1;
const FLAG_NO_HOLE: u16 = 2;
const FLAG_DF: u16 = 4;
const FLAG_REQ_ONE: u16 = 8;
const FLAG_FAST_ZERO: u16 = 16;

const DONE: u16 = 1;
const CHUNK_NONE: u16 = 0;
const CHUNK_DATA: u16 = 1;
const CHUNK_HOLE: u16 = 2;
const CHUNK_STATUS: u16 = 5;
const CHUNK_ERROR: u16 = 1 << 15 | 1;

/// A part is no data, and reads as zeros.
const STATE_HOLE_ZERO: u32 = 3;

/// The id of the one metadata context.
pub const CONTEXT: u32 = 1;

/// The error numbers of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Code {
    /// The export is read-only.
    NotPermitted = 1,
    /// The request failed, and its outcome is unknown.
    Io = 5,
    /// The request is at fault.
    Invalid = 22,
    /// There is no space, or the write reaches past the end.
    NoSpace = 28,
    /// The request is too large for one answer.
    Overflow = 75,
    /// Zeros can't be had faster than by writing them.
    NotSupported = 95,
    /// The export is gone, or the server is.
    Shutdown = 108,
}

/// Why a request fails: the protocol's number, and a message for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The number.
    pub code: Code,
    /// The message.
    pub message: String,
}

impl Fault {
    /// A fault with its message.
    pub fn new(code: Code, message: impl Into<String>) -> Fault {
        Fault { code, message: message.into() }
    }
}

impl From<Error> for Fault {
    fn from(e: Error) -> Fault {
        let code = match e.kind() {
            ErrorKind::Invalid | ErrorKind::OutOfRange => Code::Invalid,
            ErrorKind::ReadOnly => Code::NotPermitted,
            ErrorKind::NoSpace => Code::NoSpace,
            ErrorKind::Deleted | ErrorKind::Stale | ErrorKind::Closed => Code::Shutdown,
            _ => Code::Io,
        };
        Fault::new(code, e.to_string())
    }
}

/// What both sides agreed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    /// The export's size in bytes.
    pub size: u64,
    /// Whether it may be written.
    pub writable: bool,
    /// Whether structured replies are used.
    pub structured: bool,
    /// Whether `base:allocation` was selected.
    pub allocation: bool,
}

impl Terms {
    /// The transmission flags that tell the client of these terms.
    pub fn flags(&self) -> u16 {
        const ALWAYS: u16 = 1 | 1 << 2 | 1 << 3 | 1 << 8 | 1 << 10;
        let access = if self.writable { 1 << 5 | 1 << 6 | 1 << 11 } else { 1 << 1 };
        ALWAYS | access | if self.structured { 1 << 7 } else { 0 }
    }
}

/// The head of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    flags: u16,
    kind: u16,
    /// What the reply repeats.
    pub cookie: [u8; 8],
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u32,
}

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const CACHE: u16 = 5;
const WRITE_ZEROES: u16 = 6;
const BLOCK_STATUS: u16 = 7;

/// A request that the terms allow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the protocol's own words")]
pub enum Command {
    Read { unfragmented: bool },
    Write { durable: bool },
    Flush,
    Trim { durable: bool },
    Cache,
    Zeroes { durable: bool, allocated: bool },
    Status { one: bool },
}

impl Head {
    /// Reads a head; `None` if it does not begin with the magic number.
    pub fn parse(bytes: &[u8; REQUEST]) -> Option<Head> {
        let field = |at: usize| [bytes[at], bytes[at + 1]];
        let [magic, len] = [0, 24].map(|at| u32::from_be_bytes(std::array::from_fn(|i| bytes[at + i])));
        let [cookie, offset] = [8, 16].map(|at| std::array::from_fn(|i| bytes[at + i]));
        (magic == REQUEST_MAGIC).then(|| Head {
            flags: u16::from_be_bytes(field(4)),
            kind: u16::from_be_bytes(field(6)),
            cookie,
            offset: u64::from_be_bytes(offset),
            len,
        })
    }
    /// Bytes of payload that follow in the stream, whether or not the request is served.
    pub fn payload(&self) -> u32 {
        if self.kind == WRITE { self.len } else { 0 }
    }
    /// Whether the client wants to end the connection.
    pub fn is_disconnect(&self) -> bool {
        self.kind == DISCONNECT
    }

    /// Checks the request against the terms.
    pub fn command(&self, terms: &Terms) -> Result<Command, Fault> {
        let has = |flag: u16| self.flags & flag != 0;
        let durable = has(FLAG_FUA);
        let (command, flags) = match self.kind {
            READ if terms.structured => (Command::Read { unfragmented: has(FLAG_DF) }, FLAG_DF),
            READ => (Command::Read { unfragmented: true }, 0),
            WRITE => (Command::Write { durable }, 0),
            FLUSH => (Command::Flush, 0),
            TRIM => (Command::Trim { durable }, 0),
            CACHE => (Command::Cache, 0),
            WRITE_ZEROES => (Command::Zeroes { durable, allocated: has(FLAG_NO_HOLE) }, FLAG_NO_HOLE | FLAG_FAST_ZERO),
            BLOCK_STATUS => (Command::Status { one: has(FLAG_REQ_ONE) }, FLAG_REQ_ONE),
            kind => return Err(Fault::new(Code::Invalid, format!("command {kind} is not known"))),
        };
        // Clients are known to ask for FUA where nothing is written.
        let unknown = self.flags & !(flags | FLAG_FUA);
        if unknown != 0 {
            return Err(Fault::new(Code::Invalid, format!("flags {unknown:#x} mean nothing with this command")));
        }
        let writes = matches!(command, Command::Write { .. } | Command::Trim { .. } | Command::Zeroes { .. });
        if writes && !terms.writable {
            return Err(Fault::new(Code::NotPermitted, "the export is read-only"));
        }
        self.check_range(command, terms)?;
        match command {
            Command::Status { .. } if !terms.allocation => {
                Err(Fault::new(Code::Invalid, "no metadata context was selected"))
            }
            Command::Zeroes { allocated: true, .. } if has(FLAG_FAST_ZERO) => {
                Err(Fault::new(Code::NotSupported, "zeros that take space are as slow as a write"))
            }
            _ => Ok(command),
        }
    }
    fn check_range(&self, command: Command, terms: &Terms) -> Result<(), Fault> {
        if command == Command::Flush {
            let whole = self.offset == 0 && self.len == 0;
            return if whole { Ok(()) } else { Err(Fault::new(Code::Invalid, "a flush has no offset and no length")) };
        }
        if self.offset.checked_add(u64::from(self.len)).is_none_or(|end| end > terms.size) {
            let what = format!("{} bytes at {} reach past the end, {}", self.len, self.offset, terms.size);
            let code = match command {
                Command::Write { .. } | Command::Zeroes { .. } => Code::NoSpace,
                _ => Code::Invalid,
            };
            return Err(Fault::new(code, what));
        }
        match command {
            Command::Status { .. } if self.len == 0 => {
                Err(Fault::new(Code::Invalid, "the status of nothing has no parts"))
            }
            Command::Read { .. } if self.len > PAYLOAD_MAX => {
                let code = if terms.structured { Code::Overflow } else { Code::Invalid };
                Err(Fault::new(code, format!("a read of {} bytes: {PAYLOAD_MAX} at most", self.len)))
            }
            _ => Ok(()),
        }
    }
}

/// The head of a simple reply; `code` 0 is success.
pub fn simple(cookie: [u8; 8], code: u32) -> [u8; SIMPLE] {
    let mut out = [0; SIMPLE];
    out[..4].copy_from_slice(&SIMPLE_MAGIC.to_be_bytes());
    out[4..8].copy_from_slice(&code.to_be_bytes());
    out[8..].copy_from_slice(&cookie);
    out
}

/// The head of a chunk of a structured reply.
fn chunk(cookie: [u8; 8], done: bool, kind: u16, len: u32) -> [u8; 20] {
    let mut out = [0; 20];
    out[..4].copy_from_slice(&STRUCTURED_MAGIC.to_be_bytes());
    out[4..6].copy_from_slice(&(if done { DONE } else { 0 }).to_be_bytes());
    out[6..8].copy_from_slice(&kind.to_be_bytes());
    out[8..16].copy_from_slice(&cookie);
    out[16..].copy_from_slice(&len.to_be_bytes());
    out
}

/// What stands in front of `len` bytes of data from `offset` on.
pub fn data(cookie: [u8; 8], done: bool, offset: u64, len: u32) -> [u8; STRUCTURED] {
    let mut out = [0; STRUCTURED];
    out[..20].copy_from_slice(&chunk(cookie, done, CHUNK_DATA, 8 + len));
    out[20..].copy_from_slice(&offset.to_be_bytes());
    out
}

/// A chunk that says that `len` bytes from `offset` on are zeros.
pub fn hole(cookie: [u8; 8], done: bool, offset: u64, len: u32) -> [u8; 32] {
    let mut out = [0; 32];
    out[..20].copy_from_slice(&chunk(cookie, done, CHUNK_HOLE, 12));
    out[20..28].copy_from_slice(&offset.to_be_bytes());
    out[28..].copy_from_slice(&len.to_be_bytes());
    out
}

/// The end of a structured reply that has nothing left to say.
pub fn end(cookie: [u8; 8]) -> [u8; 20] {
    chunk(cookie, true, CHUNK_NONE, 0)
}

/// Adds the reply to a request that failed.
pub fn failed(out: &mut Vec<u8>, cookie: [u8; 8], structured: bool, fault: &Fault) {
    if !structured {
        out.extend_from_slice(&simple(cookie, fault.code as u32));
        return;
    }
    let mut cut = fault.message.len().min(1024);
    while !fault.message.is_char_boundary(cut) {
        cut -= 1;
    }
    out.extend_from_slice(&chunk(cookie, true, CHUNK_ERROR, 6 + cut as u32));
    out.extend_from_slice(&(fault.code as u32).to_be_bytes());
    out.extend_from_slice(&(cut as u16).to_be_bytes());
    out.extend_from_slice(&fault.message.as_bytes()[..cut]);
}

/// Adds the parts of a range: lengths, and whether each is data. There is at least one, and none is empty.
pub fn status(out: &mut Vec<u8>, cookie: [u8; 8], parts: &[(u32, bool)]) {
    out.extend_from_slice(&chunk(cookie, true, CHUNK_STATUS, 4 + 8 * parts.len() as u32));
    out.extend_from_slice(&CONTEXT.to_be_bytes());
    for &(len, data) in parts {
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(&(if data { 0 } else { STATE_HOLE_ZERO }).to_be_bytes());
    }
}
