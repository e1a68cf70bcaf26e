//! The handshake of one connection, up to the export that the client chose.

use super::{
    command::{CONTEXT, Terms},
    export::{Export, Exports},
    option::{self, FLAG_FIXED, FLAG_NO_ZEROES, OPTION_MAX, Refusal, Reply, Request},
    socket::Socket,
};
use crate::{Error, ErrorKind};
use std::{io, sync::Arc, time::Instant};

/// Options that a client may send.
const OPTIONS: usize = 1024;
/// Replies are sent once there are this many bytes of them.
const BATCH: usize = 32 << 10;

/// A handshake under way.
pub(super) struct Handshake<'a> {
    socket: &'a Arc<Socket>,
    exports: &'a Arc<Exports>,
    /// When it is over, whatever the client does.
    deadline: Instant,
    /// Replies that are not sent yet.
    out: Vec<u8>,
    no_zeroes: bool,
    structured: bool,
    /// The export of which `base:allocation` was selected.
    allocation: Option<String>,
}

/// What comes after an option.
enum Next {
    More,
    Transmit(Export, Terms),
    Close,
}

impl<'a> Handshake<'a> {
    pub(super) fn new(socket: &'a Arc<Socket>, exports: &'a Arc<Exports>, deadline: Instant) -> Handshake<'a> {
        let (no_zeroes, structured, allocation) = (false, false, None);
        Handshake { socket, exports, deadline, out: Vec::new(), no_zeroes, structured, allocation }
    }

    /// Carries it out. `None` if no transmission follows.
    pub(super) fn run(mut self) -> io::Result<Option<(Export, Terms)>> {
        self.socket.send(&option::GREETING)?;
        let mut flags = [0; 4];
        self.socket.fill(&mut flags, Some(self.deadline))?;
        let flags = u32::from_be_bytes(flags);
        if flags & !(FLAG_FIXED | FLAG_NO_ZEROES) != 0 {
            return Ok(None);
        }
        self.no_zeroes = flags & FLAG_NO_ZEROES != 0;
        for _ in 0..OPTIONS {
            let mut head = [0; 16];
            self.socket.fill(&mut head, Some(self.deadline))?;
            let [high, low, code, len] =
                [0, 4, 8, 12].map(|at| u32::from_be_bytes(std::array::from_fn(|i| head[at + i])));
            if u64::from(high) << 32 | u64::from(low) != option::OPTION_MAGIC {
                return Ok(None);
            }
            // Other options are for clients that know how they are refused.
            if flags & FLAG_FIXED == 0 && code != option::EXPORT_NAME {
                return Ok(None);
            }
            let next = self.option(code, len)?;
            self.send()?;
            match next {
                Next::More => {}
                Next::Transmit(export, terms) => return Ok(Some((export, terms))),
                Next::Close => return Ok(None),
            }
        }
        Ok(None)
    }

    fn send(&mut self) -> io::Result<()> {
        self.socket.send(&self.out)?;
        self.out.clear();
        if Instant::now() >= self.deadline { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }

    fn option(&mut self, code: u32, len: u32) -> io::Result<Next> {
        if code == option::SET_META {
            self.allocation = None;
        }
        let refused = if len > OPTION_MAX {
            if code == option::EXPORT_NAME || len > 64 * OPTION_MAX {
                return Ok(Next::Close);
            }
            self.socket.skip(len as usize, Some(self.deadline))?;
            Refusal(Reply::TooBig, "an option has at most 64 KiB of data")
        } else {
            let mut data = vec![0; len as usize];
            self.socket.fill(&mut data, Some(self.deadline))?;
            match option::parse(code, &data) {
                Ok(request) => match self.answer(code, request)? {
                    Ok(next) => return Ok(next),
                    Err(refused) => refused,
                },
                Err(refused) => refused,
            }
        };
        if code == option::EXPORT_NAME {
            return Ok(Next::Close);
        }
        option::refuse(&mut self.out, code, &refused);
        Ok(Next::More)
    }

    fn answer(&mut self, code: u32, request: Request<'_>) -> io::Result<Result<Next, Refusal>> {
        if self.socket.has_ended() && request != Request::Abort {
            return Ok(Err(Refusal(Reply::Shutdown, "the server is being stopped")));
        }
        Ok(match request {
            Request::Abort => {
                option::reply(&mut self.out, code, Reply::Ack, &[]);
                Ok(Next::Close)
            }
            Request::List => self.list(code)?,
            Request::StructuredReply => {
                self.structured = true;
                option::reply(&mut self.out, code, Reply::Ack, &[]);
                Ok(Next::More)
            }
            Request::MetaContext { set, name, allocation } => self.context(set, name, allocation),
            Request::ExportName(name) => self.export_name(name),
            Request::Info { go, name, canonical } => self.info(go, name, canonical),
        })
    }

    fn list(&mut self, code: u32) -> io::Result<Result<Next, Refusal>> {
        let exports = self.exports;
        let mut lost = None;
        let listed = exports.names(|name| {
            option::listed(&mut self.out, name);
            if self.out.len() < BATCH {
                return Ok(());
            }
            self.send().map_err(|e| {
                lost = Some(e);
                Error::new(ErrorKind::Cancelled, "the client is gone")
            })
        });
        match (listed, lost) {
            (Ok(()), _) => {
                option::reply(&mut self.out, code, Reply::Ack, &[]);
                Ok(Ok(Next::More))
            }
            (Err(_), Some(lost)) => Err(lost),
            (Err(_), None) => Ok(Err(Refusal(Reply::Policy, "the list of exports could not be read"))),
        }
    }

    fn context(&mut self, set: bool, name: &str, allocation: bool) -> Result<Next, Refusal> {
        if !self.structured {
            return Err(Refusal(Reply::Invalid, "metadata contexts need structured replies"));
        }
        self.exports.terms(name)?;
        if set && allocation {
            self.allocation = Some(name.to_owned());
        }
        let id = if set { CONTEXT } else { 0 };
        option::context(&mut self.out, set, allocation.then_some(id));
        Ok(Next::More)
    }

    /// What was agreed on before, for the export that is chosen now.
    fn agreed(&self, terms: Terms, name: &str) -> Terms {
        let allocation = self.allocation.as_deref() == Some(name);
        Terms { structured: self.structured, allocation, ..terms }
    }

    fn export_name(&mut self, name: &str) -> Result<Next, Refusal> {
        let (export, terms) = self.exports.open(name, self.socket)?;
        let terms = self.agreed(terms, name);
        self.out.extend_from_slice(&terms.size.to_be_bytes());
        self.out.extend_from_slice(&terms.flags().to_be_bytes());
        if !self.no_zeroes {
            self.out.extend_from_slice(&[0; 124]);
        }
        Ok(Next::Transmit(export, terms))
    }

    fn info(&mut self, go: bool, name: &str, canonical: bool) -> Result<Next, Refusal> {
        let (found, own) = self.exports.terms(name)?;
        let export = if go { Some(self.exports.open(name, self.socket)?) } else { None };
        // The size is that of the moment from which on the volume is attached.
        let terms = self.agreed(export.as_ref().map_or(found, |(_, terms)| *terms), name);
        option::described(&mut self.out, go, terms.size, terms.flags(), canonical.then_some(&own));
        Ok(export.map_or(Next::More, |(export, _)| Next::Transmit(export, terms)))
    }
}
