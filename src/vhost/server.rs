//! The sockets of disks, and who accepts on them.

use super::{
    request::Medium,
    session::{Session, hang_up},
};
use crate::{
    DiskRef, Error, ErrorKind, Result, SnapshotId, Store, VolumeId,
    sync::{self, Thread},
    units::Target,
};
use parking_lot::Mutex;
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    fs::{Mode, chmod},
    io::{Errno, write},
};
use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::{
            fs::FileTypeExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
};

/// Connections of one server, at most. Those beyond are hung up on.
const CONNECTIONS: usize = 1024;

/// A disk that is served: see [`Server::list`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Export {
    /// What it was called when its socket was made: `VOLUME`, or `VOLUME@SNAPSHOT`.
    pub name: String,
    /// Its socket.
    pub path: PathBuf,
    /// How many monitors are connected.
    pub connections: usize,
}

/// A socket that is listened on.
struct Socket {
    disk: Target,
    name: String,
    path: PathBuf,
    listener: UnixListener,
}

impl Socket {
    /// Takes the name away, so that nobody connects any more. The acceptor may hold the socket for a moment longer.
    fn remove(&self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// A connection that is served.
struct Connection {
    disk: Target,
    stream: UnixStream,
    thread: Option<Thread>,
}

struct Inner {
    store: Store,
    /// The directory whose sockets follow the store's volumes.
    dir: Option<PathBuf>,
    /// The name of a volume without a socket there.
    hidden: Option<String>,
    sockets: Mutex<Vec<Arc<Socket>>>,
    connections: Mutex<Vec<(u64, Connection)>>,
    /// Connections whose thread is at its end.
    ended: Mutex<Vec<u64>>,
    next: AtomicU64,
    stop: AtomicBool,
    /// Has the acceptor look at the list of sockets again.
    wake: OwnedFd,
}

/// A server of disks to virtual machines: see the [module](super).
///
/// It works until [`Server::stop`], or until it is dropped, which is the same. Its sockets are removed then.
pub struct Server {
    inner: Arc<Inner>,
    acceptor: Option<Thread>,
}

impl Server {
    /// Serves one volume or snapshot of `store` at a socket `path`, which appears when it can be connected to. `Exists` if something is
    /// there; the socket that a server left behind when it was killed is replaced.
    pub fn one<'a>(store: &Store, disk: impl Into<DiskRef<'a>>, path: impl AsRef<Path>) -> Result<Server> {
        let server = Server::new(store, None, None)?;
        server.inner.listen(store.target(disk.into())?, path.as_ref())?;
        server.start()
    }
    /// Serves every volume of `store` as `DIR/NAME.sock`. The directory exists. Volumes that are created, deleted or renamed later are
    /// followed by [`Server::refresh`]. A volume named `hidden` gets no socket: one that somebody is still filling.
    pub fn all(store: &Store, dir: impl AsRef<Path>, hidden: Option<String>) -> Result<Server> {
        let server = Server::new(store, Some(dir.as_ref().to_owned()), hidden)?;
        server.refresh()?;
        server.start()
    }
    fn new(store: &Store, dir: Option<PathBuf>, hidden: Option<String>) -> Result<Server> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let inner = Inner {
            store: store.clone(),
            dir,
            hidden,
            sockets: Mutex::default(),
            connections: Mutex::default(),
            ended: Mutex::default(),
            next: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            wake: wake.map_err(|e| Error::io("an event", e.into()))?,
        };
        Ok(Server { inner: Arc::new(inner), acceptor: None })
    }
    fn start(mut self) -> Result<Server> {
        let inner = self.inner.clone();
        let thread = sync::spawn("snapdisk-vhost-accept", move || inner.accept());
        self.acceptor = Some(thread.map_err(|e| Error::io("start of a thread", e))?);
        Ok(self)
    }

    /// Has the sockets under the directory agree with the volumes: makes those of new volumes, removes those of deleted ones and ends their
    /// connections. Connections of a volume that was renamed go on. Of a server of one disk, ends it if the disk is gone. It reads the list of
    /// volumes.
    pub fn refresh(&self) -> Result<()> {
        self.inner.refresh()
    }
    /// What is served, by name.
    pub fn list(&self) -> Vec<Export> {
        let connections = self.inner.connections.lock();
        let of = |disk| connections.iter().filter(|(_, c)| c.disk == disk).count();
        let sockets = self.inner.sockets.lock();
        let export = |s: &Arc<Socket>| Export { name: s.name.clone(), path: s.path.clone(), connections: of(s.disk) };
        let mut list: Vec<_> = sockets.iter().map(export).collect();
        list.sort_by(|a, b| a.name.cmp(&b.name));
        list
    }
    /// Removes the sockets, ends all connections once the requests that are being carried out are answered, and waits for that.
    pub fn stop(self) {}
}

impl Drop for Server {
    fn drop(&mut self) {
        self.inner.stop.store(true, SeqCst);
        self.inner.wake();
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join();
        }
        self.inner.sockets.lock().drain(..).for_each(|socket| socket.remove());
        self.inner.end(|_| true);
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("exports", &self.list()).finish_non_exhaustive()
    }
}

impl Inner {
    fn wake(&self) {
        // A full counter wakes as well.
        let _ = write(&self.wake, &1_u64.to_le_bytes());
    }

    fn listen(&self, disk: Target, path: &Path) -> Result<()> {
        let name = match disk {
            Target::Volume(id) => self.store.volume_by_id(VolumeId(id))?.name()?,
            Target::Snapshot(id) => {
                let snapshot = self.store.snapshot_by_id(SnapshotId(id))?;
                let volume = match self.store.volume_by_id(snapshot.volume()) {
                    Ok(volume) => volume.name()?,
                    // Its volume may be gone.
                    Err(_) => snapshot.volume().to_string(),
                };
                format!("{volume}@{}", snapshot.name()?)
            }
        };
        let listener = bind(path).map_err(|e| e.at(path.display()))?;
        let path = path.to_owned();
        self.sockets.lock().push(Arc::new(Socket { disk, name, path, listener }));
        self.wake();
        Ok(())
    }

    fn refresh(&self) -> Result<()> {
        let mut gone = Vec::new();
        match &self.dir {
            Some(dir) => {
                let mut wanted = Vec::new();
                for volume in self.store.volumes()? {
                    match volume.name() {
                        Ok(name) if self.hidden.as_ref() == Some(&name) => {}
                        Ok(name) => wanted.push((Target::Volume(volume.id().0), name)),
                        Err(e) if e.kind() == ErrorKind::Deleted => {}
                        Err(e) => return Err(e),
                    }
                }
                let is = |s: &Socket| wanted.iter().any(|(disk, name)| s.disk == *disk && s.name == *name);
                let exists = |s: &Socket| wanted.iter().any(|(disk, _)| s.disk == *disk);
                self.keep(|s| {
                    if !exists(s) {
                        gone.push(s.disk);
                    }
                    is(s)
                });
                for (disk, name) in &wanted {
                    if !self.sockets.lock().iter().any(|s| s.disk == *disk) {
                        let made = self.listen(*disk, &dir.join(format!("{name}.sock")));
                        match made {
                            Err(e) if e.kind() == ErrorKind::Deleted => {}
                            made => made?,
                        }
                    }
                }
            }
            None => self.keep(|s| {
                let there = self.medium_exists(s.disk);
                if !there {
                    gone.push(s.disk);
                }
                there
            }),
        }
        self.wake();
        self.end(|disk| gone.contains(&disk));
        Ok(())
    }
    /// Keeps some sockets, and removes the others.
    fn keep(&self, mut keeps: impl FnMut(&Socket) -> bool) {
        self.sockets.lock().retain(|socket| {
            let kept = keeps(socket);
            if !kept {
                socket.remove();
            }
            kept
        });
    }
    fn medium_exists(&self, disk: Target) -> bool {
        let found = match disk {
            Target::Volume(id) => self.store.volume_by_id(VolumeId(id)).map(drop),
            Target::Snapshot(id) => self.store.snapshot_by_id(SnapshotId(id)).map(drop),
        };
        !found.is_err_and(|e| e.kind() == ErrorKind::Deleted)
    }

    /// Ends the connections of some disks, and waits until they have.
    fn end(&self, of: impl Fn(Target) -> bool) {
        let mut ending = Vec::new();
        self.connections.lock().retain_mut(|(_, connection)| {
            let ends = of(connection.disk);
            if ends {
                hang_up(&connection.stream);
                ending.extend(connection.thread.take());
            }
            !ends
        });
        ending.into_iter().for_each(Thread::join);
    }

    /// Accepts connections on all sockets until the server stops.
    fn accept(self: Arc<Inner>) {
        while !self.stop.load(SeqCst) {
            let sockets = self.sockets.lock().clone();
            let mut fds = vec![PollFd::new(&self.wake, PollFlags::IN)];
            fds.extend(sockets.iter().map(|s| PollFd::new(&s.listener, PollFlags::IN)));
            match poll(&mut fds, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(_) => return,
            }
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            drop(fds);
            if ready[0] {
                let _ = rustix::io::read(&self.wake, &mut [0_u8; 8]);
            }
            self.reap();
            for (socket, _) in sockets.iter().zip(&ready[1..]).filter(|(_, ready)| **ready) {
                // Taken back meanwhile, or more than the process may open: the one who connects learns it.
                if let Ok((stream, _)) = socket.listener.accept() {
                    let _ = self.connect(socket.disk, stream);
                }
            }
        }
    }
    /// Forgets connections that have ended.
    fn reap(&self) {
        let ended = std::mem::take(&mut *self.ended.lock());
        let mut threads = Vec::new();
        self.connections.lock().retain_mut(|(number, connection)| {
            let over = ended.contains(number);
            if over {
                threads.extend(connection.thread.take());
            }
            !over
        });
        threads.into_iter().for_each(Thread::join);
    }

    /// Serves a connection on a thread of its own. One that can't be served is hung up on.
    fn connect(self: &Arc<Inner>, disk: Target, stream: UnixStream) -> Result<()> {
        let mut connections = self.connections.lock();
        if connections.len() >= CONNECTIONS {
            return Err(Error::new(ErrorKind::Busy, "as many connections as there may be"));
        }
        let medium = match disk {
            Target::Volume(id) => Medium::Volume(self.store.volume_by_id(VolumeId(id))?.attach()?),
            Target::Snapshot(id) => Medium::Snapshot(self.store.snapshot_by_id(SnapshotId(id))?),
        };
        let io = |e: io::Error| Error::io("a connection", e);
        stream.set_nonblocking(false).map_err(io)?;
        let handle = stream.try_clone().map_err(io)?;
        let number = self.next.fetch_add(1, Relaxed);
        let (inner, session) = (self.clone(), Session::new(stream, medium));
        let serve = move || {
            // A monitor that says what nobody can loses its connection, and is told no more.
            let _ = session.run();
            inner.ended.lock().push(number);
            inner.wake();
        };
        let thread = Some(sync::spawn("snapdisk-vhost", serve).map_err(io)?);
        connections.push((number, Connection { disk, stream: handle, thread }));
        Ok(())
    }
}

/// Makes a listening socket that nobody else may connect to before it is complete. What a dead server left behind is replaced.
fn bind(path: &Path) -> Result<UnixListener> {
    let io = |e: io::Error| Error::io("a socket", e);
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(io(e)),
        Ok(there) => match UnixStream::connect(path) {
            Err(e) if there.file_type().is_socket() && e.kind() == io::ErrorKind::ConnectionRefused => {}
            _ => return Err(Error::new(ErrorKind::Exists, "the place of the socket is taken")),
        },
    }
    // Under another name first, so that a socket is there as a whole, with its mode, or not at all.
    let mut hidden = path.as_os_str().to_owned();
    hidden.push("~");
    let hidden = Path::new(&hidden);
    let _ = fs::remove_file(hidden);
    let listener = UnixListener::bind(hidden).map_err(|e| match e.kind() {
        io::ErrorKind::InvalidInput => Error::caused(ErrorKind::Invalid, "a path that is too long for a socket", e),
        io::ErrorKind::NotFound => Error::caused(ErrorKind::NotFound, "the directory of a socket", e),
        _ => io(e),
    })?;
    let ready = chmod(hidden, Mode::RUSR | Mode::WUSR).map_err(io::Error::from);
    let ready = ready.and_then(|()| listener.set_nonblocking(true)).and_then(|()| fs::rename(hidden, path));
    ready.inspect_err(|_| drop(fs::remove_file(hidden))).map_err(io)?;
    Ok(listener)
}
