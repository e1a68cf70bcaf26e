//! `snapdisk serve`: one process that has the image open, and serves it to devices and to other commands.

#[cfg(feature = "http")]
use crate::api::Api;
use crate::{
    control::{self, Control},
    failure::{At, Failure, Outcome},
    image::{self, UNFINISHED},
    notify, streams, text,
};
use clap::Args;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    low_level::pipe,
};
#[cfg(feature = "vhost")]
use snapdisk::vhost;
use snapdisk::{
    Options, Store,
    nbd::{Listener, Server, ServerOptions},
};
use std::{
    io::{self, Read},
    net::{SocketAddr, ToSocketAddrs},
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

/// Keep an image open and serve it: as network block devices, and to the other commands
#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    /// The image
    image: PathBuf,
    /// Serve every volume VOL and snapshot VOL@SNAP by the NBD protocol, at a socket's path or at HOST:PORT
    #[arg(long, value_name = "PATH|HOST:PORT")]
    nbd: Vec<String>,
    /// Open the image for reading, together with other readers
    #[arg(long)]
    read_only: bool,
    /// Serve NBD also to other hosts, without encryption, to whoever reaches the address
    #[arg(long)]
    insecure: bool,
    /// Serve every volume VOL to a virtual machine by vhost-user-blk, at DIR/VOL.sock
    #[cfg(feature = "vhost")]
    #[arg(long, value_name = "DIR", conflicts_with = "read_only")]
    vhost_user: Option<PathBuf>,
    /// Serve the snapshot API with this configuration
    #[cfg(feature = "http")]
    #[arg(long, value_name = "CONFIG", conflicts_with = "read_only")]
    api: Option<PathBuf>,
}

/// Where a listener was asked for.
enum Place {
    Path(PathBuf),
    Tcp(SocketAddr),
}

/// What has a slash, or no port, is a path.
fn place(text: &str, insecure: bool) -> Outcome<Place> {
    let port = text.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    if text.contains('/') || port.is_none() {
        return Ok(Place::Path(text.into()));
    }
    let address = text.to_socket_addrs().at(text)?.next().ok_or_else(|| Failure::new(format!("{text}: no address")))?;
    if !address.ip().is_loopback() && !insecure {
        let what = format!("{text} can be reached from other hosts, and NBD has no encryption: --insecure");
        return Err(Failure::usage(what));
    }
    Ok(Place::Tcp(address))
}

fn listen(place: Place) -> Outcome<Listener> {
    match place {
        Place::Path(path) => Listener::unix(&path).at(path.display()),
        Place::Tcp(address) => Listener::tcp(address).at(address),
    }
}

pub(crate) fn run(args: ServeArgs) -> Outcome {
    let places = args.nbd.iter().map(|text| place(text, args.insecure)).collect::<Outcome<Vec<_>>>()?;
    let passed = streams::passed_sockets();
    // From here on a signal ends the server in order, however far it has come.
    let (mut told, stop) = UnixStream::pair().at("signals")?;
    for signal in [SIGTERM, SIGINT] {
        pipe::register(signal, stop.try_clone().at("signals")?).at("signals")?;
    }
    signal_hook::flag::register(SIGHUP, Arc::<AtomicBool>::default()).at("signals")?;
    let serve = |store: &Store| serve(store, &args, places, passed, (&mut told, &stop));
    if args.read_only {
        let store = Options::new().open_read_only(&args.image)?;
        serve(&store)?;
        return Ok(store.close()?);
    }
    image::writing(&args.image, serve)
}

fn serve(
    store: &Store,
    args: &ServeArgs,
    places: Vec<Place>,
    passed: Vec<std::os::fd::OwnedFd>,
    (told, stop): (&mut UnixStream, &UnixStream),
) -> Outcome {
    // Only the API has a reason of its own to stop.
    let _ = stop;
    let bound = control::bind(&args.image)?;
    let mut listeners = places.into_iter().map(listen).collect::<Outcome<Vec<_>>>()?;
    for fd in passed {
        listeners.push(Listener::passed(fd).at("a socket that the service manager has passed")?);
    }
    let mut lines = String::new();
    for (text, listener) in args.nbd.iter().zip(&listeners) {
        let at = listener.tcp_address().map_or_else(|| text.clone(), |address| address.to_string());
        lines += &format!("nbd {}\n", text::printable(&at));
    }
    #[cfg(feature = "http")]
    let api = args.api.as_deref().map(|file| Api::start(store, file, stop)).transpose()?;
    let hidden = Some(UNFINISHED.to_owned());
    #[cfg(feature = "http")]
    let lease = api.as_ref().map(Api::lease);
    #[cfg(not(feature = "http"))]
    let lease = None;
    let options = ServerOptions { read_only: args.read_only, hidden, lease, ..ServerOptions::default() };
    let nbd = Server::start(store.clone(), listeners, options).at("the NBD server")?;
    let control = bound.map(|bound| Control::start(store, &args.image, bound)).transpose()?;
    #[cfg(feature = "vhost")]
    let machines = args.vhost_user.as_deref().map(|dir| vhost::Server::all(store, dir, Some(UNFINISHED.to_owned())));
    #[cfg(feature = "vhost")]
    let machines = machines.transpose()?;
    // Whoever started the server need not listen to it.
    let _ = text::emit(&(lines + "ready\n"));
    notify::ready();
    // A directory that can't be written to now may be later.
    #[cfg(feature = "vhost")]
    let refresh = machines.as_ref().map(|machines| || drop(machines.refresh()));
    #[cfg(not(feature = "vhost"))]
    let refresh: Option<fn()> = None;
    wait(told, refresh).at("signals")?;
    notify::stopping();
    control.into_iter().for_each(Control::stop);
    nbd.stop();
    #[cfg(feature = "vhost")]
    machines.into_iter().for_each(vhost::Server::stop);
    #[cfg(feature = "http")]
    api.map_or(Ok(()), Api::stop)?;
    Ok(())
}

/// How long a volume that was made may wait for its socket.
const FOLLOW: Duration = Duration::from_millis(500);

/// Waits for a signal that tells the server to stop. Meanwhile `refresh` has sockets follow the volumes.
fn wait(told: &mut UnixStream, refresh: Option<impl Fn()>) -> io::Result<()> {
    told.set_read_timeout(refresh.as_ref().map(|_| FOLLOW))?;
    loop {
        match told.read(&mut [0]) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => refresh.iter().for_each(|refresh| refresh()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map(drop),
        }
    }
}
