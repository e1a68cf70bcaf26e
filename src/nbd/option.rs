//! The handshake's bytes: options in, replies out. Nothing here reads or writes a socket.

use super::command::PAYLOAD_MAX;

/// What the server sends first: two magic numbers and its flags (fixed newstyle, no zeroes).
pub const GREETING: [u8; 18] = *b"NBDMAGICIHAVEOPT\x00\x03";
/// The magic number in front of every option.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// The magic number in front of every reply to an option.
pub const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// The client knows the fixed newstyle handshake.
pub const FLAG_FIXED: u32 = 1;
/// The client wants no padding after the reply to `EXPORT_NAME`.
pub const FLAG_NO_ZEROES: u32 = 2;
/// The longest string of the protocol, in bytes.
pub const STRING_MAX: usize = 4096;
/// The longest data of an option that is looked at, in bytes.
pub const OPTION_MAX: u32 = 64 << 10;
/// The only metadata context: which parts are data.
pub const ALLOCATION: &str = "base:allocation";

/// `EXPORT_NAME`, the one option that has no reply of its own.
pub const EXPORT_NAME: u32 = 1;
const ABORT: u32 = 2;
const LIST: u32 = 3;
const STARTTLS: u32 = 5;
const INFO: u32 = 6;
const GO: u32 = 7;
const STRUCTURED_REPLY: u32 = 8;
const LIST_META: u32 = 9;
/// `SET_META_CONTEXT`, which takes back what was selected before, even if it fails.
pub const SET_META: u32 = 10;

const INFO_EXPORT: u16 = 0;
const INFO_NAME: u16 = 1;
const INFO_BLOCK_SIZE: u16 = 3;

/// The type of a reply to an option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Reply {
    /// Success, and the end of the replies.
    Ack = 1,
    /// The name of an export.
    Server = 2,
    /// One fact about an export.
    Info = 3,
    /// A metadata context.
    MetaContext = 4,
    /// The option is not known here.
    Unsupported = 1 << 31 | 1,
    /// The option is known, and not to be had.
    Policy = 1 << 31 | 2,
    /// The option is malformed, or comes at the wrong time.
    Invalid = 1 << 31 | 3,
    /// There is no such export.
    Unknown = 1 << 31 | 6,
    /// The server is being stopped.
    Shutdown = 1 << 31 | 7,
    /// The option is too large.
    TooBig = 1 << 31 | 9,
}

/// Why an option is refused: a reply's type, and a message for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal(pub Reply, pub &'static str);

/// An option, as far as its bytes go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request<'a> {
    /// Go over to transmission with the export of this name, or close the connection.
    ExportName(&'a str),
    /// End the handshake.
    Abort,
    /// Name all exports.
    List,
    /// Tell of an export, and with `go` go over to transmission.
    Info {
        /// Whether transmission follows.
        go: bool,
        /// The export's name; empty: the default one.
        name: &'a str,
        /// The export's canonical name is asked for.
        canonical: bool,
    },
    /// Use structured replies.
    StructuredReply,
    /// Name the metadata contexts of an export, and with `set` select them.
    MetaContext {
        /// Whether the contexts are selected.
        set: bool,
        /// The export's name.
        name: &'a str,
        /// `base:allocation` is among those that are meant.
        allocation: bool,
    },
}

/// Splits a big-endian number off.
fn number<const N: usize>(data: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = data.split_first_chunk::<N>()?;
    *data = rest;
    Some(*head)
}

/// Splits off a string that has its length, of 32 bits, in front.
fn counted<'a>(data: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = u32::from_be_bytes(number(data)?) as usize;
    let (head, rest) = data.split_at_checked(len)?;
    *data = rest;
    Some(head)
}

fn string(bytes: &[u8]) -> Result<&str, Refusal> {
    if bytes.len() > STRING_MAX {
        return Err(Refusal(Reply::TooBig, "a name has at most 4096 bytes"));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err(Refusal(Reply::Invalid, "a name is UTF-8 without NUL")),
    }
}

fn invalid() -> Refusal {
    Refusal(Reply::Invalid, "the option's data does not have the form that the protocol prescribes")
}

fn nothing(request: Request<'static>, data: &[u8]) -> Result<Request<'static>, Refusal> {
    if data.is_empty() { Ok(request) } else { Err(Refusal(Reply::Invalid, "this option has no data")) }
}

/// Reads an option. The refusal is the protocol's answer to it; of `EXPORT_NAME`, which has none, it means that the connection is closed.
pub fn parse(option: u32, data: &[u8]) -> Result<Request<'_>, Refusal> {
    match option {
        EXPORT_NAME => string(data).map(Request::ExportName),
        // What comes with it is to be ignored.
        ABORT => Ok(Request::Abort),
        LIST => nothing(Request::List, data),
        STARTTLS => Err(Refusal(Reply::Unsupported, "this server has no TLS")),
        INFO | GO => info(option == GO, data),
        STRUCTURED_REPLY => nothing(Request::StructuredReply, data),
        LIST_META | SET_META => contexts(option == SET_META, data),
        _ => Err(Refusal(Reply::Unsupported, "this server does not know the option")),
    }
}

fn info(go: bool, mut data: &[u8]) -> Result<Request<'_>, Refusal> {
    let name = counted(&mut data).ok_or_else(invalid)?;
    let wanted = u16::from_be_bytes(number(&mut data).ok_or_else(invalid)?);
    if data.len() != 2 * usize::from(wanted) {
        return Err(invalid());
    }
    let canonical = data.chunks_exact(2).any(|kind| kind == INFO_NAME.to_be_bytes());
    Ok(Request::Info { go, name: string(name)?, canonical })
}

fn contexts(set: bool, mut data: &[u8]) -> Result<Request<'_>, Refusal> {
    let name = counted(&mut data).ok_or_else(invalid)?;
    let queries = u32::from_be_bytes(number(&mut data).ok_or_else(invalid)?);
    // Without a query all contexts are listed, and none is selected.
    let mut allocation = !set && queries == 0;
    for _ in 0..queries {
        let query = string(counted(&mut data).ok_or_else(invalid)?)?;
        if !query.contains(':') {
            return Err(Refusal(Reply::Invalid, "a metadata context has a namespace and a colon"));
        }
        allocation |= query == ALLOCATION || !set && query == "base:";
    }
    if !data.is_empty() {
        return Err(invalid());
    }
    Ok(Request::MetaContext { set, name: string(name)?, allocation })
}

/// Adds a reply to an option.
pub fn reply(out: &mut Vec<u8>, option: u32, kind: Reply, data: &[&[u8]]) {
    let len = data.iter().map(|part| part.len()).sum::<usize>() as u32;
    out.extend_from_slice(&REPLY_MAGIC.to_be_bytes());
    for field in [option, kind as u32, len] {
        out.extend_from_slice(&field.to_be_bytes());
    }
    data.iter().for_each(|part| out.extend_from_slice(part));
}

/// Adds the refusal of an option.
pub fn refuse(out: &mut Vec<u8>, option: u32, refusal: &Refusal) {
    reply(out, option, refusal.0, &[refusal.1.as_bytes()]);
}

/// Adds the name of an export to the answer to `LIST`.
pub fn listed(out: &mut Vec<u8>, name: &str) {
    reply(out, LIST, Reply::Server, &[&(name.len() as u32).to_be_bytes(), name.as_bytes()]);
}

/// Adds the facts about an export in answer to `INFO` and `GO`, and the end of them. `name` is told where it was asked for.
pub fn described(out: &mut Vec<u8>, go: bool, size: u64, flags: u16, name: Option<&str>) {
    let option = if go { GO } else { INFO };
    let fact = |kind: u16| kind.to_be_bytes();
    reply(out, option, Reply::Info, &[&fact(INFO_EXPORT), &size.to_be_bytes(), &flags.to_be_bytes()]);
    if let Some(name) = name {
        reply(out, option, Reply::Info, &[&fact(INFO_NAME), name.as_bytes()]);
    }
    // Any byte can be addressed; whole blocks are written without being read first.
    let [min, preferred, max] = [1, crate::BLOCK as u32, PAYLOAD_MAX].map(u32::to_be_bytes);
    reply(out, option, Reply::Info, &[&fact(INFO_BLOCK_SIZE), &min, &preferred, &max]);
    reply(out, option, Reply::Ack, &[]);
}

/// Adds the metadata contexts that an export has, and the end of them.
pub fn context(out: &mut Vec<u8>, set: bool, id: Option<u32>) {
    let option = if set { SET_META } else { LIST_META };
    if let Some(id) = id {
        reply(out, option, Reply::MetaContext, &[&id.to_be_bytes(), ALLOCATION.as_bytes()]);
    }
    reply(out, option, Reply::Ack, &[]);
}
