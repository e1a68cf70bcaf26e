//! The server's side of the control socket: other commands on the same image run here, on the store that is open.

use crate::{
    args::{Cli, Command},
    export::{Content, Own},
    failure::{At, ERROR, Failure, LOCKED, Outcome, USAGE},
    frames::{Kind, Link, NO_LENGTH, split},
    image,
    import::{self, CHUNK, Raw},
    session::{Console, Session},
    verb,
};
use clap::Parser;
use rustix::{
    event::{PollFd, PollFlags, poll},
    net::{SocketFlags, accept_with},
};
use snapdisk::{Store, VOLUME_MAX, nbd::Listener};
use std::{
    ffi::OsString,
    fs::File,
    io::{self, Write},
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Commands at once; further ones are told to wait.
const COMMANDS: usize = 16;
/// Time for a command line.
const PATIENCE: Duration = Duration::from_secs(10);

/// A place for a control socket, by a name that is short however long the path is.
pub(crate) struct Place {
    name: OsString,
    /// It keeps the name valid.
    dir: File,
}

impl Place {
    /// Beside the image, and where the user's sockets are.
    pub(crate) fn all(image: &Path) -> Vec<Place> {
        let Ok(image) = image.canonicalize() else { return Vec::new() };
        let mut out = Vec::new();
        if let (Some(dir), Some(name)) = (image.parent(), image.file_name()) {
            let mut name = name.to_owned();
            name.push(".control");
            out.extend(File::open(dir).map(|dir| Place { name, dir }));
        }
        let of_user = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
        if let (Some(dir), Ok(meta)) = (of_user, image.metadata()) {
            use std::os::unix::fs::MetadataExt;
            let name = format!("snapdisk-{:x}-{:x}.control", meta.dev(), meta.ino()).into();
            out.extend(File::open(dir).map(|dir| Place { name, dir }));
        }
        out
    }
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.dir.as_raw_fd())).join(&self.name)
    }
}

/// A control socket that is bound.
pub(crate) struct Bound {
    listener: Listener,
    /// It keeps the name of the socket valid, under which it is removed.
    _place: Place,
}

/// Binds the control socket of an image. `None` if there is no place for one; `LOCKED` if another server has it.
pub(crate) fn bind(image: &Path) -> Outcome<Option<Bound>> {
    for place in Place::all(image) {
        match Listener::unix(place.path()) {
            Ok(listener) => return Ok(Some(Bound { listener, _place: place })),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                let message = format!("{}: another server has the control socket", image.display());
                return Err(Failure { code: LOCKED, message });
            }
            Err(_) => {}
        }
    }
    Ok(None)
}

/// The control socket at work.
pub(crate) struct Control {
    shared: Arc<Shared>,
    waker: UnixStream,
    accepting: JoinHandle<()>,
}

struct Shared {
    store: Store,
    image: PathBuf,
    stop: AtomicBool,
    running: AtomicUsize,
}

impl Control {
    pub(crate) fn start(store: &Store, image: &Path, bound: Bound) -> Outcome<Control> {
        let (stop, running) = (AtomicBool::new(false), AtomicUsize::new(0));
        let shared = Arc::new(Shared { store: store.clone(), image: image.to_owned(), stop, running });
        let (waker, woken) = UnixStream::pair().at("the control socket")?;
        let serving = shared.clone();
        let accepting = thread::Builder::new().name("control".to_owned());
        let accepting = accepting.spawn(move || accept(&serving, &bound, &woken)).at("the control socket")?;
        Ok(Control { shared, waker, accepting })
    }
    /// Takes no further commands, interrupts those that run, and waits for them shortly.
    pub(crate) fn stop(mut self) {
        self.shared.stop.store(true, SeqCst);
        let _ = self.waker.write_all(&[0]);
        let _ = self.accepting.join();
        let end = Instant::now() + Duration::from_secs(10);
        while self.shared.running.load(SeqCst) > 0 && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn accept(shared: &Arc<Shared>, bound: &Bound, woken: &UnixStream) {
    let listener = &bound.listener;
    loop {
        let mut fds = [PollFd::new(listener, PollFlags::IN), PollFd::new(woken, PollFlags::IN)];
        if poll(&mut fds, None).is_err() {
            continue;
        }
        if !fds[1].revents().is_empty() {
            return;
        }
        match accept_with(listener, SocketFlags::CLOEXEC) {
            Ok(fd) => shared.take_in(UnixStream::from(fd)),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {}
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Counts a command out when it has ended.
struct Running(Arc<Shared>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

impl Shared {
    fn take_in(self: &Arc<Self>, stream: UnixStream) {
        let Ok(mut link) = Link::new(stream) else { return };
        let many = self.running.fetch_add(1, SeqCst) >= COMMANDS;
        let running = Running(self.clone());
        if many {
            let _ = link.send(Kind::Done, u64::from(LOCKED), b"the server runs as many commands as it may");
            return;
        }
        let thread = thread::Builder::new().name("control-verb".to_owned());
        let _ = thread.spawn(move || {
            let (code, message) = match running.0.command(&mut link) {
                Ok(()) => (0, String::new()),
                Err(Failure { code, message }) => (code, message),
            };
            let _ = link.send(Kind::Done, u64::from(code), message.as_bytes());
        });
    }

    /// Reads a command line and runs it.
    fn command(&self, link: &mut Link) -> Outcome {
        let mut bytes = Vec::new();
        let end = Instant::now() + PATIENCE;
        let (kind, _) = link.receive(&mut bytes, &mut || self.stop.load(SeqCst) || Instant::now() >= end)?;
        let args = split(&bytes).filter(|_| kind == Kind::Args);
        let args = args.ok_or_else(|| Failure { code: ERROR, message: "the server has another version".to_owned() })?;
        let cli = Cli::try_parse_from(args).map_err(|e| Failure { code: USAGE, message: e.render().to_string() })?;
        let mut remote = Remote { link: link.again().at("the control socket")?, stop: &self.stop };
        let Some(shown) = cli.command.image().map(Path::to_owned) else {
            return Err(Failure::usage("the command is none on an image that is open"));
        };
        let mut session = Session::within(&self.store, &self.image, &shown, &mut remote);
        match cli.command {
            Command::Import { volume, update, .. } => {
                let mut stop = || self.stop.load(SeqCst);
                let (Kind::Length, len) = link.receive(&mut bytes, &mut stop)? else {
                    return Err(Failure::new("an import begins with the length of the disk"));
                };
                let len = Some(len).filter(|&len| len != NO_LENGTH);
                let fits = |len: u64| match len <= VOLUME_MAX {
                    true => Ok(()),
                    false => Err(Failure::new("the disk is longer than a volume can be")),
                };
                len.map_or(Ok(()), fits)?;
                let mut sum = 0u64;
                let mut next = |buf: &mut [u8]| {
                    let piece = link.piece(buf, &mut stop)?;
                    sum = sum.saturating_add(piece.len());
                    fits(sum).map(|()| piece)
                };
                import::run(&mut session, &volume, &mut Raw::pieces(len, &mut next), update)
            }
            Command::Export { source, .. } => session.reading(|store, console| {
                let source = image::source(store, &source)?;
                let mut own = Own { source: &source, console };
                let len = own.len()?;
                link.send(Kind::Size, len, &[]).at("the control socket")?;
                own.walk(len, &mut |at, data| {
                    let kind = if data.is_some() { Kind::Data } else { Kind::Hole };
                    link.send(kind, at, data.unwrap_or_default()).at("the control socket")
                })
            }),
            command => verb(&mut session, command),
        }
    }
}

/// A command's own streams, at the other end.
struct Remote<'a> {
    link: Link,
    stop: &'a AtomicBool,
}

impl Console for Remote<'_> {
    fn emit(&mut self, text: &str) -> Outcome {
        let mut parts = text.as_bytes().chunks(CHUNK);
        parts.try_for_each(|part| self.link.send(Kind::Out, 0, part)).at("the control socket")
    }
    fn interrupted(&mut self) -> bool {
        self.stop.load(SeqCst) || self.link.is_gone()
    }
    fn has_terminal(&self) -> bool {
        false
    }
}
