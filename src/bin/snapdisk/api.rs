//! `snapdisk api`: the snapshot service of an image over HTTP.

use crate::{
    failure::{At, Failure, Outcome},
    image, text,
};
use clap::Args;
use signal_hook::{consts::SIGHUP, low_level::pipe};
use snapdisk::{
    Store,
    api::{RetCode, SnapshotService},
    http::{Config, Control, Server, ServerOptions},
    nbd::Lease,
};
use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
};

/// Serve the snapshot API of an image, and a page for people, over HTTP
#[derive(Args, Debug)]
pub(crate) struct ApiArgs {
    /// The image
    image: PathBuf,
    /// Tenants, key pairs, limits and schedules; readable by its owner only
    #[arg(long, value_name = "FILE", required_unless_present = "init_config")]
    config: Option<PathBuf>,
    /// Where to listen; goes before the configuration's `listen` [default: 127.0.0.1:8080]
    #[arg(long, value_name = "HOST:PORT", value_parser = host_and_port)]
    listen: Option<String>,
    /// Give a volume that was made by other means to a company, once
    #[arg(long, value_name = "VOLUME=COMPANY", value_parser = gift)]
    adopt: Vec<(String, i64)>,
    /// Write a configuration to begin with, with fresh key pairs, and do nothing else
    #[arg(long, value_name = "FILE", conflicts_with_all = ["config", "listen", "adopt"])]
    init_config: Option<PathBuf>,
}

fn gift(arg: &str) -> Result<(String, i64), String> {
    let (volume, company) = arg.split_once('=').ok_or("VOLUME=COMPANY, such as db=1")?;
    let company = company.parse().map_err(|_| "a company is named by its number")?;
    Ok((volume.to_owned(), company))
}

/// The host may be a name that nobody knows yet.
fn host_and_port(arg: &str) -> Result<String, String> {
    let port = arg.rsplit_once(':').filter(|(host, _)| !host.is_empty()).and_then(|(_, port)| port.parse::<u16>().ok());
    port.map(|_| arg.to_owned()).ok_or_else(|| "HOST:PORT, such as 127.0.0.1:8080".to_owned())
}

/// The API beside other services of the same store.
pub(crate) struct Api {
    service: SnapshotService,
    control: Control,
    serving: JoinHandle<io::Result<()>>,
}

impl Api {
    /// Serves the API from a thread of its own. `ended` is told when it ends, whatever the reason.
    pub(crate) fn start(store: &Store, file: &Path, ended: &UnixStream) -> Outcome<Api> {
        let config = Config::load(file)?;
        let (server, service) = bind(store, config, file.to_owned(), None, &[])?;
        let control = server.control();
        signals(control.clone())?;
        let mut ended = ended.try_clone().at("the API")?;
        let thread = thread::Builder::new().name("api".to_owned());
        let serving = thread.spawn(move || {
            let outcome = server.run(false);
            let _ = ended.write_all(&[0]);
            outcome
        });
        Ok(Api { service, control, serving: serving.at("the API")? })
    }
    /// A disk that is bound is attached by the service, and lent to whoever serves it.
    pub(crate) fn lease(&self) -> Lease {
        let service = self.service.clone();
        Arc::new(move |volume| Ok(service.attached(&volume.name()?)))
    }
    /// Finishes what is in progress.
    pub(crate) fn stop(self) -> Outcome {
        self.control.stop();
        match self.serving.join() {
            Ok(outcome) => outcome.at("the API"),
            Err(_) => Err(Failure::new("the API has failed")),
        }
    }
}

/// SIGHUP has the configuration read again. Faults are logged by the server.
fn signals(control: Control) -> Outcome {
    let (mut told, tells) = UnixStream::pair().at("signals")?;
    pipe::register(SIGHUP, tells).at("signals")?;
    let heed = move || {
        while told.read_exact(&mut [0]).is_ok() {
            let _ = control.reload();
        }
    };
    thread::Builder::new().name("reload".to_owned()).spawn(heed).map(drop).at("signals")
}

pub(crate) fn run(args: ApiArgs) -> Outcome {
    if let Some(file) = args.init_config {
        Config::init(&file)?;
        let (image, file) = (args.image.display(), file.display());
        return text::emit(&format!(
            "wrote {}\nnext: snapdisk api {} --config {}\n",
            text::printable(&file.to_string()),
            text::printable(&image.to_string()),
            text::printable(&file.to_string()),
        ));
    }
    // Until it serves, the configuration can't be read again, and the signal must not end the process.
    signal_hook::flag::register(signal_hook::consts::SIGHUP, Arc::default()).at("signals")?;
    let file = args.config.ok_or_else(|| Failure::usage("--config is missing"))?;
    let config = Config::load(&file)?;
    image::writing(&args.image, |store| serve(store, config, file, args.listen, &args.adopt))
}

fn serve(store: &Store, config: Config, file: PathBuf, listen: Option<String>, adopt: &[(String, i64)]) -> Outcome {
    let (server, _) = bind(store, config, file, listen, adopt)?;
    server.run(true).at("the server")
}

/// The server of the API, bound to its address.
fn bind(
    store: &Store,
    config: Config,
    file: PathBuf,
    listen: Option<String>,
    adopt: &[(String, i64)],
) -> Outcome<(Server, SnapshotService)> {
    let region = config.directory.regions.first().map_or_else(String::new, |r| r.id.clone());
    let service = SnapshotService::new(store.clone(), config.directory)?;
    for (volume, company) in adopt {
        match service.adopt(&store.volume(volume)?, &region, *company, volume) {
            // It belongs to a company already.
            Err(fault) if fault.code() == RetCode::DiskState => {}
            Err(fault) => return Err(Failure::new(format!("{volume}: {fault}"))),
            Ok(()) => {}
        }
    }
    let listen = listen.or(config.listen).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let defaults = ServerOptions::default();
    let options = ServerOptions {
        schedules: config.schedules,
        metrics: config.metrics,
        public_url: config.public_url,
        proxy: config.proxy,
        connections_per_peer: config.connections_per_peer.unwrap_or(defaults.connections_per_peer),
        reload: Some(Arc::new(move || Config::load(&file))),
        ..defaults
    };
    Ok((Server::bind(service.clone(), config.keys, &listen, options).at(&listen)?, service))
}
