//! The server: listeners, the threads of its connections, and their bounds.

use super::{export::Exports, handshake::Handshake, listener::Listener, socket::Socket, transmit::Connection};
use crate::{AttachedVolume, Result as StoreResult, Store, Volume};
use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, poll};
use std::{
    fmt,
    io::{self, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Lends the attachment of a volume that somebody in this process has attached already; `None` if the server is to attach it.
pub type Lease = Arc<dyn Fn(&Volume) -> StoreResult<Option<Arc<AttachedVolume>>> + Send + Sync>;

/// Threads of all connections together, besides one for each.
const HELPERS: usize = 128;

/// The server's limits and surroundings.
#[derive(Clone)]
pub struct ServerOptions {
    /// No export may be written. Default: false.
    pub read_only: bool,
    /// Connections at once; further ones are closed. Default: 256.
    pub connections: usize,
    /// Time for the whole handshake. Default: 10 s.
    pub handshake_time: Duration,
    /// How long a client may leave a message unfinished, or not receive one. Default: 60 s.
    pub stall_time: Duration,
    /// Time for requests in progress when the server is stopped. Default: 10 s.
    pub stop_time: Duration,
    /// A volume of this name is no export. Default: none.
    pub hidden: Option<String>,
    /// Who has attached a volume that is served. Default: nobody but the server.
    pub lease: Option<Lease>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        ServerOptions {
            read_only: false,
            connections: 256,
            handshake_time: Duration::from_secs(10),
            stall_time: Duration::from_secs(60),
            stop_time: Duration::from_secs(10),
            hidden: None,
            lease: None,
        }
    }
}

impl fmt::Debug for ServerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (read_only, connections) = (self.read_only, self.connections);
        f.debug_struct("ServerOptions")
            .field("read_only", &read_only)
            .field("connections", &connections)
            .finish_non_exhaustive()
    }
}

/// A server that runs. Dropping it stops it as [`Server::stop`] does.
pub struct Server {
    shared: Arc<Shared>,
    /// What wakes the thread that accepts connections.
    waker: UnixStream,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    exports: Arc<Exports>,
    helpers: Arc<Helpers>,
    options: ServerOptions,
    /// The connections that there are.
    sockets: Mutex<Sockets>,
    /// Notified when a connection has ended.
    left: Condvar,
}

#[derive(Default)]
struct Sockets {
    list: Vec<Arc<Socket>>,
    stopping: bool,
}

/// Threads that help connections to serve several requests at once.
pub(super) struct Helpers(AtomicUsize);

impl Helpers {
    /// Starts a thread for a connection. `false`: there are enough, or the host has none to give.
    pub(super) fn start(self: &Arc<Self>, connection: &Arc<Connection>) -> bool {
        if self.0.fetch_add(1, SeqCst) >= HELPERS {
            self.0.fetch_sub(1, SeqCst);
            return false;
        }
        let (helper, connection) = (Helper(self.clone()), connection.clone());
        thread::Builder::new()
            .name("nbd-helper".to_owned())
            .spawn(move || {
                let _helper = helper;
                connection.help();
            })
            .is_ok()
    }
}

struct Helper(Arc<Helpers>);

impl Drop for Helper {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, SeqCst);
    }
}

impl Server {
    /// Serves every volume and snapshot of a store to whoever connects, from threads of its own. The store stays open after the server.
    pub fn start(store: Store, listeners: Vec<Listener>, options: ServerOptions) -> io::Result<Server> {
        let exports = Exports::new(store, options.read_only, options.hidden.clone(), options.lease.clone());
        let (helpers, sockets) = (Arc::new(Helpers(AtomicUsize::new(0))), Mutex::default());
        let shared = Arc::new(Shared { exports, helpers, options, sockets, left: Condvar::new() });
        let (waker, woken) = UnixStream::pair()?;
        let serving = shared.clone();
        let accepting = thread::Builder::new()
            .name("nbd-accept".to_owned())
            .spawn(move || accept_all(&serving, &listeners, &woken))?;
        Ok(Server { shared, waker, accepting: Some(accepting) })
    }
    /// Connections that there are now.
    pub fn connections(&self) -> usize {
        self.shared.sockets.lock().list.len()
    }
    /// Takes no new connections and no new requests, answers those in progress, and closes: within about [`ServerOptions::stop_time`], after
    /// which connections are cut. Sockets that the server made are removed.
    pub fn stop(mut self) {
        self.end();
    }
    fn end(&mut self) {
        let Some(accepting) = self.accepting.take() else { return };
        self.shared.sockets.lock().stopping = true;
        // The other end is there for as long as the thread is.
        let _ = self.waker.write_all(&[0]);
        let _ = accepting.join();
        let mut sockets = self.shared.sockets.lock();
        sockets.list.iter().for_each(|socket| socket.end());
        let mut end = Instant::now() + self.shared.options.stop_time;
        let mut cut = false;
        while !sockets.list.is_empty() {
            if self.shared.left.wait_until(&mut sockets, end).timed_out() {
                if cut {
                    return;
                }
                sockets.list.iter().for_each(|socket| socket.kill());
                (cut, end) = (true, Instant::now() + Duration::from_secs(5));
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("connections", &self.connections()).finish_non_exhaustive()
    }
}

fn accept_all(shared: &Arc<Shared>, listeners: &[Listener], woken: &UnixStream) {
    loop {
        let mut fds: Vec<PollFd<'_>> = listeners.iter().map(|l| PollFd::new(l, PollFlags::IN)).collect();
        fds.push(PollFd::new(woken, PollFlags::IN));
        let ready = match poll(&mut fds, None) {
            Ok(_) => fds.iter().map(|fd| !fd.revents().is_empty()).collect::<Vec<_>>(),
            Err(_) => continue,
        };
        if ready.last() == Some(&true) {
            return;
        }
        for (listener, _) in listeners.iter().zip(&ready).filter(|(_, ready)| **ready) {
            match listener.accept() {
                Ok(Some(fd)) => shared.take_in(fd, listener.is_tcp()),
                Ok(None) => {}
                // Out of descriptors or memory: the connection stays in the queue until there are some.
                Err(_) => thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

impl Shared {
    /// Starts a connection, or closes it.
    fn take_in(self: &Arc<Self>, fd: OwnedFd, tcp: bool) {
        let Ok(socket) = Socket::new(fd, tcp, self.options.stall_time) else { return };
        let socket = Arc::new(socket);
        {
            let mut sockets = self.sockets.lock();
            if sockets.stopping || sockets.list.len() >= self.options.connections {
                return;
            }
            sockets.list.push(socket.clone());
        }
        let place = Place { shared: self.clone(), socket };
        // Without a thread the place is given up again, and the connection closed.
        let _ = thread::Builder::new().name("nbd".to_owned()).spawn(move || place.serve());
    }
}

/// A connection's place among those that there may be.
struct Place {
    shared: Arc<Shared>,
    socket: Arc<Socket>,
}

impl Place {
    fn serve(self) {
        let deadline = Instant::now() + self.shared.options.handshake_time;
        let shaken = Handshake::new(&self.socket, &self.shared.exports, deadline).run();
        match shaken {
            Ok(Some((export, terms))) => {
                Connection::new(export, terms, self.socket.clone(), self.shared.helpers.clone()).run();
            }
            // Whoever broke the protocol gets no answer.
            Ok(None) | Err(_) => self.socket.finish(),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.sockets.lock().list.retain(|socket| !Arc::ptr_eq(socket, &self.socket));
        self.shared.left.notify_all();
    }
}
