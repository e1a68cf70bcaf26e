//! A client of the NBD protocol that sends whatever bytes it is told to.

use snapdisk::nbd::{Listener, Server, ServerOptions};
use snapdisk::{Options, Store};
use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

pub(crate) const READ: u16 = 0;
pub(crate) const WRITE: u16 = 1;
pub(crate) const DISC: u16 = 2;
pub(crate) const FLUSH: u16 = 3;
pub(crate) const TRIM: u16 = 4;
pub(crate) const CACHE: u16 = 5;
pub(crate) const ZEROES: u16 = 6;
pub(crate) const STATUS: u16 = 7;

pub(crate) const FUA: u16 = 1;
pub(crate) const NO_HOLE: u16 = 2;
pub(crate) const DF: u16 = 4;
pub(crate) const REQ_ONE: u16 = 8;
pub(crate) const FAST: u16 = 16;

pub(crate) const ACK: u32 = 1;
pub(crate) const UNSUP: u32 = 1 << 31 | 1;
pub(crate) const POLICY: u32 = 1 << 31 | 2;
pub(crate) const INVALID: u32 = 1 << 31 | 3;
pub(crate) const UNKNOWN: u32 = 1 << 31 | 6;
pub(crate) const TOO_BIG: u32 = 1 << 31 | 9;

/// A store with a server on it.
pub(crate) struct Served {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: Store,
    pub(crate) server: Option<Server>,
}

impl Served {
    pub(crate) fn new() -> Served {
        Served::with(ServerOptions::default())
    }
    pub(crate) fn with(options: ServerOptions) -> Served {
        let dir = tempfile::tempdir().unwrap();
        let store = Options::new().log_bytes(1 << 20).create(dir.path().join("a.img")).unwrap();
        let mut served = Served { dir, store, server: None };
        served.start(options);
        served
    }
    pub(crate) fn start(&mut self, options: ServerOptions) {
        let listener = Listener::unix(self.socket()).unwrap();
        self.server = Some(Server::start(self.store.clone(), vec![listener], options).unwrap());
    }
    pub(crate) fn stop(&mut self) {
        self.server.take().unwrap().stop();
    }
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("nbd")
    }
    pub(crate) fn connect(&self) -> Client {
        Client::connect(&self.socket())
    }
    /// A client in the transmission phase, with structured replies and `base:allocation` or without.
    pub(crate) fn client(&self, name: &str, structured: bool) -> Client {
        let mut client = self.connect();
        client.flags(3);
        if structured {
            client.structured();
            assert_eq!(client.contexts(10, name, &["base:allocation"]), (ACK, vec!["base:allocation".to_owned()]));
        }
        client.go(name);
        client
    }
}

pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    /// Size and transmission flags, once known.
    pub(crate) size: u64,
    pub(crate) transmission: u16,
    structured: bool,
}

/// A message of the transmission phase.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Message {
    /// Error and cookie.
    Simple(u32, u64),
    /// Flags, type, cookie and payload.
    Chunk(u16, u16, u64, Vec<u8>),
}

pub(crate) fn counted(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes(), text].concat()
}

/// The data of `INFO` and `GO`.
pub(crate) fn info(name: &str, kinds: &[u16]) -> Vec<u8> {
    let mut out = counted(name.as_bytes());
    out.extend((kinds.len() as u16).to_be_bytes());
    kinds.iter().for_each(|kind| out.extend(kind.to_be_bytes()));
    out
}

pub(crate) fn head(flags: u16, kind: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    let mut out = 0x2560_9513u32.to_be_bytes().to_vec();
    out.extend(flags.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend(cookie.to_be_bytes());
    out.extend(offset.to_be_bytes());
    out.extend(len.to_be_bytes());
    out
}

fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().unwrap())
}
fn be64(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes[..8].try_into().unwrap())
}

impl Client {
    pub(crate) fn connect(path: &std::path::Path) -> Client {
        let stream = UnixStream::connect(path).unwrap();
        // A bound against hanging, far from what anything takes.
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut client = Client { stream, size: 0, transmission: 0, structured: false };
        assert_eq!(client.take(18), b"NBDMAGICIHAVEOPT\0\x03");
        client
    }
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }
    pub(crate) fn take(&mut self, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        self.stream.read_exact(&mut out).unwrap();
        out
    }
    /// The server has nothing more to say.
    #[track_caller]
    pub(crate) fn is_over(&mut self) {
        let mut rest = Vec::new();
        // A server that closes while bytes wait for it resets the connection.
        let end = self.stream.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{rest:?}");
        assert!(end.is_ok() || end.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset));
    }
    pub(crate) fn flags(&mut self, flags: u32) {
        self.send(&flags.to_be_bytes());
    }
    pub(crate) fn send_option(&mut self, option: u32, data: &[u8]) {
        let head = [&b"IHAVEOPT"[..], &option.to_be_bytes(), &(data.len() as u32).to_be_bytes(), data].concat();
        self.send(&head);
    }
    /// Sends an option, and returns the replies up to the last one: types and data.
    pub(crate) fn option(&mut self, option: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        self.send_option(option, data);
        self.replies(option)
    }
    pub(crate) fn replies(&mut self, option: u32) -> Vec<(u32, Vec<u8>)> {
        let mut out = Vec::new();
        loop {
            let head = self.take(20);
            assert_eq!((be64(&head), be32(&head[8..])), (0x0003_e889_0455_65a9, option));
            let (kind, len) = (be32(&head[12..]), be32(&head[16..]));
            let data = self.take(len as usize);
            out.push((kind, data));
            if kind == ACK || kind >> 31 == 1 {
                return out;
            }
        }
    }
    /// The type of the last reply to an option.
    pub(crate) fn outcome(&mut self, option: u32, data: &[u8]) -> u32 {
        self.option(option, data).pop().unwrap().0
    }
    pub(crate) fn structured(&mut self) {
        assert_eq!(self.option(8, &[]), [(ACK, vec![])]);
        self.structured = true;
    }
    pub(crate) fn contexts(&mut self, option: u32, name: &str, queries: &[&str]) -> (u32, Vec<String>) {
        let mut data = counted(name.as_bytes());
        data.extend((queries.len() as u32).to_be_bytes());
        queries.iter().for_each(|query| data.extend(counted(query.as_bytes())));
        let mut replies = self.option(option, &data);
        let outcome = replies.pop().unwrap().0;
        (outcome, replies.into_iter().map(|(_, data)| String::from_utf8(data[4..].to_vec()).unwrap()).collect())
    }
    pub(crate) fn list(&mut self) -> Vec<String> {
        let mut replies = self.option(3, &[]);
        assert_eq!(replies.pop().unwrap().0, ACK);
        let name = |(kind, data): (u32, Vec<u8>)| {
            assert_eq!((kind, be32(&data) as usize), (2, data.len() - 4));
            String::from_utf8(data[4..].to_vec()).unwrap()
        };
        replies.into_iter().map(name).collect()
    }
    pub(crate) fn go(&mut self, name: &str) {
        let replies = self.option(7, &info(name, &[3]));
        assert_eq!(replies.last().unwrap().0, ACK, "{name}: {replies:?}");
        let export = replies.iter().find(|(kind, data)| *kind == 3 && data[..2] == [0, 0]).unwrap();
        self.size = be64(&export.1[2..]);
        self.transmission = u16::from_be_bytes(export.1[10..12].try_into().unwrap());
    }

    pub(crate) fn message(&mut self) -> Message {
        let magic = be32(&self.take(4));
        match magic {
            0x6744_6698 => {
                let rest = self.take(12);
                Message::Simple(be32(&rest), be64(&rest[4..]))
            }
            0x668e_33ef => {
                let rest = self.take(16);
                let [flags, kind] = [0, 2].map(|at| u16::from_be_bytes([rest[at], rest[at + 1]]));
                let payload = self.take(be32(&rest[12..]) as usize);
                Message::Chunk(flags, kind, be64(&rest[4..]), payload)
            }
            _ => panic!("{magic:#x} is no magic number"),
        }
    }
    /// The chunks of one structured reply, or the simple one.
    pub(crate) fn reply(&mut self) -> Vec<Message> {
        let mut out = Vec::new();
        loop {
            out.push(self.message());
            match out.last().unwrap() {
                Message::Simple(..) => return out,
                Message::Chunk(flags, ..) if flags & 1 == 1 => return out,
                Message::Chunk(..) => {}
            }
        }
    }
    /// Makes a request that has no data in its reply; returns the error.
    #[track_caller]
    pub(crate) fn ask(&mut self, flags: u16, kind: u16, offset: u64, len: u32, payload: &[u8]) -> u32 {
        let cookie = 0x1122_3344_5566_7788;
        self.send(&[head(flags, kind, cookie, offset, len), payload.to_vec()].concat());
        match &self.reply()[..] {
            [Message::Simple(error, c)] if *c == cookie => *error,
            [Message::Chunk(1, kind, c, payload)] if *c == cookie && kind >> 15 == 1 => {
                assert_eq!(usize::from(u16::from_be_bytes([payload[4], payload[5]])), payload.len() - 6);
                assert!(self.structured && payload.len() > 6 && std::str::from_utf8(&payload[6..]).is_ok());
                be32(payload)
            }
            [Message::Chunk(1, 0, c, payload)] if *c == cookie && payload.is_empty() => 0,
            other => panic!("{other:?}"),
        }
    }
    #[track_caller]
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        assert_eq!(self.ask(0, WRITE, offset, data.len() as u32, data), 0);
    }
    /// Reads; an error of the server as such.
    #[track_caller]
    pub(crate) fn read(&mut self, flags: u16, offset: u64, len: u32) -> Result<Vec<u8>, u32> {
        self.send(&head(flags, READ, 7, offset, len));
        self.data(offset, len)
    }
    /// The data of the reply that comes next.
    #[track_caller]
    pub(crate) fn data(&mut self, offset: u64, len: u32) -> Result<Vec<u8>, u32> {
        if !self.structured {
            let Message::Simple(error, 7) = self.message() else { panic!("no reply to this") };
            return if error == 0 { Ok(self.take(len as usize)) } else { Err(error) };
        }
        let (mut out, mut covered) = (vec![0xee; len as usize], 0);
        for message in self.reply() {
            let Message::Chunk(_, kind, 7, payload) = message else { panic!("{message:?}") };
            let at = || (be64(&payload) - offset) as usize;
            match kind {
                0 => {}
                1 => {
                    out[at()..at() + payload.len() - 8].copy_from_slice(&payload[8..]);
                    covered += payload.len() - 8;
                }
                2 => {
                    let n = be32(&payload[8..]) as usize;
                    out[at()..at() + n].fill(0);
                    covered += n;
                }
                _ => return Err(be32(&payload)),
            }
        }
        assert_eq!(covered, len as usize);
        Ok(out)
    }
    /// The parts of a range: lengths and states.
    pub(crate) fn status(&mut self, flags: u16, offset: u64, len: u32) -> Vec<(u32, u32)> {
        self.send(&head(flags, STATUS, 7, offset, len));
        let reply = self.reply();
        let [Message::Chunk(1, 5, 7, payload)] = &reply[..] else { panic!("{reply:?}") };
        payload[4..].chunks(8).map(|part| (be32(part), be32(&part[4..]))).collect()
    }
    /// The server closes after it has answered `ESHUTDOWN` to what it was asked, or at once.
    #[track_caller]
    pub(crate) fn is_turned_away(&mut self) {
        let _ = self.stream.write_all(&head(0, READ, 7, 0, 512));
        let mut rest = Vec::new();
        let end = self.stream.read_to_end(&mut rest);
        assert!(end.is_ok() || end.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset));
        let error = match (self.structured, rest.len()) {
            (_, 0) => 108,
            (false, _) => be32(&rest[4..]),
            (true, _) => be32(&rest[20..]),
        };
        assert_eq!(error, 108, "{rest:?}");
    }
}
