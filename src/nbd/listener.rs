//! Where clients come in: sockets of Unix and of TCP.

use rustix::{
    fs::{Mode, fchmod},
    net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};
use std::{
    fs, io,
    net::{SocketAddr, TcpListener},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{
            fs::{FileTypeExt, MetadataExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

/// A socket that takes connections.
#[derive(Debug)]
pub struct Listener {
    kind: Kind,
    /// The name that it was given here, and that goes with it.
    _made: Option<Made>,
}

#[derive(Debug)]
enum Kind {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// A file of a socket: its path, device and inode.
#[derive(Debug)]
struct Made(PathBuf, u64, u64);

impl Drop for Made {
    fn drop(&mut self) {
        // Only if it is still the one that was made: somebody may have put another one in its place.
        if fs::symlink_metadata(&self.0).is_ok_and(|m| (m.dev(), m.ino()) == (self.1, self.2)) {
            let _ = fs::remove_file(&self.0);
        }
    }
}

impl Listener {
    /// Binds a socket of this host that only its owner may connect to. A socket that nobody listens at any more is replaced;
    /// `AddrInUse` if anybody does, or if the name is that of something else.
    pub fn unix(path: impl AsRef<Path>) -> io::Result<Listener> {
        let path = path.as_ref();
        if let Ok(meta) = fs::symlink_metadata(path) {
            let refused = || UnixStream::connect(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
            if !meta.file_type().is_socket() || !refused() {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            fs::remove_file(path)?;
        }
        let fd = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        // Linux gives the file the mode of the socket, so that there is no moment at which others may connect.
        fchmod(&fd, Mode::RUSR | Mode::WUSR)?;
        net::bind(&fd, &SocketAddrUnix::new(path)?)?;
        net::listen(&fd, 128)?;
        let meta = fs::symlink_metadata(path)?;
        let made = Made(path.to_owned(), meta.dev(), meta.ino());
        Listener::new(Kind::Unix(fd.into()), Some(made))
    }
    /// Binds a TCP socket. Whoever reaches the address can read and write every volume.
    pub fn tcp(address: SocketAddr) -> io::Result<Listener> {
        Listener::new(Kind::Tcp(TcpListener::bind(address)?), None)
    }
    /// A socket that somebody else has bound, such as a service manager.
    pub fn passed(fd: OwnedFd) -> io::Result<Listener> {
        let kind = match net::sockopt::socket_domain(&fd)? {
            AddressFamily::UNIX => Kind::Unix(fd.into()),
            AddressFamily::INET | AddressFamily::INET6 => Kind::Tcp(fd.into()),
            _ => return Err(io::Error::new(io::ErrorKind::Unsupported, "a socket that is neither of Unix nor of TCP")),
        };
        Listener::new(kind, None)
    }
    fn new(kind: Kind, made: Option<Made>) -> io::Result<Listener> {
        match &kind {
            Kind::Unix(listener) => listener.set_nonblocking(true)?,
            Kind::Tcp(listener) => listener.set_nonblocking(true)?,
        }
        Ok(Listener { kind, _made: made })
    }
    /// The TCP address at which it listens; `None` for a socket of Unix.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match &self.kind {
            Kind::Unix(_) => None,
            Kind::Tcp(listener) => listener.local_addr().ok(),
        }
    }
    pub(super) fn is_tcp(&self) -> bool {
        matches!(self.kind, Kind::Tcp(_))
    }
    /// The next connection. `None` if there is none, or none any more.
    pub(super) fn accept(&self) -> io::Result<Option<OwnedFd>> {
        let accepted = match &self.kind {
            Kind::Unix(listener) => listener.accept().map(|(stream, _)| stream.into()),
            Kind::Tcp(listener) => listener.accept().map(|(stream, _)| stream.into()),
        };
        match accepted {
            Ok(fd) => Ok(Some(fd)),
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
                ) =>
            {
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.kind {
            Kind::Unix(listener) => listener.as_fd(),
            Kind::Tcp(listener) => listener.as_fd(),
        }
    }
}
