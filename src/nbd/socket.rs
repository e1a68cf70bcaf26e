//! Sockets with a bound on how long a peer may leave a message unfinished.

use rustix::net::{self, RecvFlags, SendFlags, Shutdown, sockopt};
use std::{
    io,
    os::fd::OwnedFd,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    time::{Duration, Instant},
};

/// How long a call of the host waits at most. A connection that is idle looks this often whether its disk is still there.
pub(super) const TICK: Duration = Duration::from_secs(1);
/// How long a peer may take to close after this side has.
const LINGER: Duration = Duration::from_secs(2);

/// A connection to a client.
pub(super) struct Socket {
    fd: OwnedFd,
    /// How long a peer may leave a message unfinished.
    patience: Duration,
    ended: AtomicBool,
}

fn closed() -> io::Error {
    io::ErrorKind::UnexpectedEof.into()
}

impl Socket {
    pub(super) fn new(fd: OwnedFd, tcp: bool, patience: Duration) -> io::Result<Socket> {
        if tcp {
            sockopt::set_tcp_nodelay(&fd, true)?;
            sockopt::set_socket_keepalive(&fd, true)?;
        }
        for which in [sockopt::Timeout::Recv, sockopt::Timeout::Send] {
            sockopt::set_socket_timeout(&fd, which, Some(TICK))?;
        }
        Ok(Socket { fd, patience, ended: AtomicBool::new(false) })
    }

    /// Whether a peer has left a message unfinished for too long.
    pub(super) fn is_too_long(&self, silent: Duration) -> bool {
        silent >= self.patience
    }
    /// Receives what there is, at least one byte unless the peer has closed: 0. `None` after a tick of silence.
    pub(super) fn receive(&self, buf: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match net::recv(&self.fd, &mut *buf, RecvFlags::empty()) {
                Ok((n, _)) => return Ok(Some(n)),
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
    /// Fills `buf` with the rest of a message. The peer may be silent for as long as a message may be left unfinished, and not beyond
    /// `deadline`.
    pub(super) fn fill(&self, mut buf: &mut [u8], deadline: Option<Instant>) -> io::Result<()> {
        let mut silent = Duration::ZERO;
        while !buf.is_empty() {
            match self.receive(buf)? {
                Some(0) => return Err(closed()),
                Some(n) => (buf, silent) = (&mut buf[n..], Duration::ZERO),
                None => silent += TICK,
            }
            if self.is_too_long(silent) || deadline.is_some_and(|end| Instant::now() >= end) || self.has_ended() {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }
    /// Receives `len` bytes of a message and forgets them.
    pub(super) fn skip(&self, mut len: usize, deadline: Option<Instant>) -> io::Result<()> {
        let mut scrap = [0; 16 << 10];
        while len > 0 {
            let n = len.min(scrap.len());
            self.fill(&mut scrap[..n], deadline)?;
            len -= n;
        }
        Ok(())
    }
    /// Sends everything. The peer may stop receiving for as long as a message may be left unfinished.
    pub(super) fn send(&self, mut bytes: &[u8]) -> io::Result<()> {
        let mut silent = Duration::ZERO;
        while !bytes.is_empty() {
            match net::send(&self.fd, bytes, SendFlags::NOSIGNAL) {
                Ok(n) => (bytes, silent) = (&bytes[n..], Duration::ZERO),
                Err(rustix::io::Errno::AGAIN) if self.is_too_long(silent) => return Err(io::ErrorKind::TimedOut.into()),
                Err(rustix::io::Errno::AGAIN) => silent += TICK,
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Takes no further request; what is being served is still answered. Wakes whoever receives.
    pub(super) fn end(&self) {
        self.ended.store(true, SeqCst);
        // A socket that the peer has closed already needs nothing.
        let _ = net::shutdown(&self.fd, Shutdown::Read);
    }
    /// Ends the connection whatever is under way. Wakes whoever sends or receives.
    pub(super) fn kill(&self) {
        self.ended.store(true, SeqCst);
        let _ = net::shutdown(&self.fd, Shutdown::Both);
    }
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(SeqCst)
    }
    /// Says that nothing more comes, and waits shortly for the peer to agree: closing a socket in which bytes wait to be received can take
    /// the last reply from the peer.
    pub(super) fn finish(&self) {
        if net::shutdown(&self.fd, Shutdown::Write).is_err() {
            return;
        }
        let end = Instant::now() + LINGER;
        let mut scrap = [0; 16 << 10];
        while Instant::now() < end && matches!(self.receive(&mut scrap), Ok(None | Some(1..))) {}
    }
}
