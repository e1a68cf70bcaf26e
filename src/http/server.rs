//! The server: connections, bodies and times are bounded; every request is one line of log.

use super::{
    audit::Audit,
    config::{Config, PublicUrl},
    limits::{Phase, Place, Places, Seat},
    log::{Log, Sink, standard_error},
    openapi::openapi,
    ops::{Calls, metrics},
    page::{Pages, Seen, Visit},
    sign::{Keys, hex},
    wire::{BODY_MAX, Incoming, handle},
};
use crate::{
    ErrorKind, Result as StoreResult,
    api::{Fault, RetCode, Schedule, SnapshotService},
    io::{Host, SystemHost},
};
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response, StatusCode, Version,
    body::{Bytes, Incoming as Body},
    header::{self, HeaderMap, HeaderValue},
    http::request::Parts,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::{Mutex, RwLock};
use serde_json::json;
use std::{
    convert::Infallible,
    future::Future,
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    pin::pin,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::timeout,
};

/// Bytes of a body that is too long that are still read, so that its sender sees the answer.
const DRAIN_MAX: usize = 16 << 20;
/// A body of more bytes than this is a long one.
const LONG_BODY: usize = 32 << 10;
/// Long bodies in memory at once; further ones wait.
const LONG_BODIES: usize = 4;
/// Time for the rest of a long body once there is room for it.
const LONG_TIME: Duration = Duration::from_secs(5);
/// New connections that wait for a place.
const NEWCOMERS: usize = 64;
/// How long a new connection waits for a place.
const PATIENCE: Duration = Duration::from_secs(1);
/// Connections of the listener for health and metrics.
const OPS_CONNECTIONS: usize = 16;
/// Pages for people that are made at once.
const PAGES: usize = 2;

/// Reads the configuration again.
pub type Reload = Arc<dyn Fn() -> StoreResult<Config> + Send + Sync>;

/// The server's limits and surroundings.
#[derive(Clone)]
pub struct ServerOptions {
    /// Connections at once. Beyond that the one closes that does nothing for longest. Default 256.
    pub connections: usize,
    /// Connections of one address at once; further ones are closed. 0: no limit. Default 64.
    pub connections_per_peer: usize,
    /// Time for the head of a request, and for silence between two. Default 15 s.
    pub head_time: Duration,
    /// Time for a body. Default 30 s.
    pub body_time: Duration,
    /// Time for a connection, whatever it does. Default 10 min.
    pub connection_time: Duration,
    /// Time for requests in progress when the server is told to stop. Default 10 s.
    pub stop_time: Duration,
    /// Automatic snapshots. Default none.
    pub schedules: Vec<Schedule>,
    /// How often schedules are looked at. Default 20 s.
    pub schedule_time: Duration,
    /// Where health and metrics are served, `host:port`. Default nowhere; health is on the tenants' port as well.
    pub metrics: Option<String>,
    /// How clients name the server, if a proxy stands in front of it. Default none.
    pub public_url: Option<PublicUrl>,
    /// The proxy's address. Default this host's own, loopback.
    pub proxy: Option<IpAddr>,
    /// Where the configuration comes from when it is to be read anew. Default nowhere.
    pub reload: Option<Reload>,
    /// Where log lines go. Default standard error.
    pub log: Sink,
}

impl Default for ServerOptions {
    fn default() -> Self {
        ServerOptions {
            connections: 256,
            connections_per_peer: 64,
            head_time: Duration::from_secs(15),
            body_time: Duration::from_secs(30),
            connection_time: Duration::from_secs(600),
            stop_time: Duration::from_secs(10),
            schedules: Vec::new(),
            schedule_time: Duration::from_secs(20),
            metrics: None,
            public_url: None,
            proxy: None,
            reload: None,
            log: standard_error(),
        }
    }
}

/// A server that is bound to its address.
pub struct Server {
    listener: TcpListener,
    ops: Option<TcpListener>,
    shared: Arc<Shared>,
    stop: watch::Receiver<bool>,
    control: Control,
}

/// Controls a server while it runs.
#[derive(Clone)]
pub struct Control {
    stop: Arc<watch::Sender<bool>>,
    shared: Arc<Shared>,
}

impl Control {
    /// Stops the server: it takes no new connections, and finishes what is in progress.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }
    /// Reads the configuration again: regions, tenants, keys and schedules. A configuration with a fault changes nothing. Connections stay.
    pub fn reload(&self) -> StoreResult<()> {
        self.shared.reload()
    }
}

/// What a reload replaces.
pub(super) struct Live {
    pub(super) keys: Keys,
    schedules: Vec<Schedule>,
}

pub(super) struct Shared {
    pub(super) service: SnapshotService,
    live: RwLock<Arc<Live>>,
    reloading: Mutex<()>,
    options: ServerOptions,
    pages: Pages,
    places: Arc<Places>,
    long_bodies: Arc<Semaphore>,
    /// Pages rendered at once; further ones wait, so that calls need not.
    drawing: Arc<Semaphore>,
    pub(super) log: Log,
    pub(super) calls: Mutex<Calls>,
    pub(super) accepted: AtomicU64,
    pub(super) refused: AtomicU64,
    /// A call was answered by a store that is closed or has stopped.
    pub(super) broken: AtomicBool,
}

impl Shared {
    fn live(&self) -> Arc<Live> {
        self.live.read().clone()
    }
    fn reload(&self) -> StoreResult<()> {
        let Some(read) = &self.options.reload else { return Ok(()) };
        // Replaced in one critical section, so that keys and tenants are of one configuration.
        let _one = self.reloading.lock();
        let outcome = read().map(|config| {
            self.service.set_directory(config.directory);
            *self.live.write() = Arc::new(Live { keys: config.keys, schedules: config.schedules });
        });
        let fault = outcome.as_ref().err().map(ToString::to_string);
        self.log.put(&json!({ "event": "reload", "fault": fault }));
        outcome
    }
    /// Counts an action of the API or the page, and returns the fields of its log line.
    fn record(&self, audit: &Audit, took: Duration) -> serde_json::Map<String, serde_json::Value> {
        let kind = audit.cause.as_ref().map(crate::Error::kind);
        if matches!(kind, Some(ErrorKind::Poisoned | ErrorKind::Closed | ErrorKind::Io)) {
            self.broken.store(true, Relaxed);
        }
        self.calls.lock().count(&audit.action, audit.code, took);
        audit.fields()
    }
}

/// What a handler gives, and the log line's own fields.
struct Reply {
    status: StatusCode,
    kind: &'static str,
    body: Bytes,
    headers: Vec<(header::HeaderName, String)>,
    close: bool,
    log: serde_json::Map<String, serde_json::Value>,
}

impl Reply {
    fn new(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Reply {
        Reply { status, kind, body: body.into(), headers: Vec::new(), close: false, log: serde_json::Map::new() }
    }
    fn plain(status: StatusCode, text: &'static str) -> Reply {
        Reply::new(status, "text/plain; charset=utf-8", text)
    }
}

impl Server {
    /// Binds a server of `service` for the owners of `keys` to `address` (`host:port`; port 0: any).
    pub fn bind(service: SnapshotService, keys: Keys, address: &str, options: ServerOptions) -> io::Result<Server> {
        let bind = |address: &str| {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true).map(|()| listener)
        };
        let listener = bind(address)?;
        let ops = options.metrics.as_deref().map(bind).transpose()?;
        let (sender, stop) = watch::channel(false);
        let shared = Arc::new(Shared {
            service,
            live: RwLock::new(Arc::new(Live { keys, schedules: options.schedules.clone() })),
            reloading: Mutex::default(),
            pages: Pages::default(),
            places: Places::new(options.connections, options.connections_per_peer),
            long_bodies: Arc::new(Semaphore::new(LONG_BODIES)),
            drawing: Arc::new(Semaphore::new(PAGES)),
            log: Log::new(options.log.clone())?,
            options,
            calls: Mutex::default(),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            broken: AtomicBool::new(false),
        });
        let control = Control { stop: Arc::new(sender), shared: shared.clone() };
        Ok(Server { listener, ops, shared, stop, control })
    }
    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
    /// Where health and metrics are.
    pub fn metrics_address(&self) -> io::Result<Option<SocketAddr>> {
        self.ops.as_ref().map(TcpListener::local_addr).transpose()
    }
    /// Returns what stops the server and has it read its configuration again.
    pub fn control(&self) -> Control {
        self.control.clone()
    }
    /// Serves until it is told to stop. With `signals`, SIGTERM and SIGINT tell it too, and SIGHUP has it read its configuration. The store
    /// stays open.
    pub fn run(self, signals: bool) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(32)
            .enable_all()
            .build()?;
        let shared = self.shared.clone();
        let outcome = runtime.block_on(self.serve(signals));
        runtime.shutdown_timeout(Duration::from_secs(1));
        shared.log.put(&json!({ "event": "stopped" }));
        shared.log.finish(Duration::from_secs(1));
        outcome
    }

    async fn serve(self, signals: bool) -> io::Result<()> {
        let Server { listener, ops, shared, stop, control } = self;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        shared.log.put(&json!({ "event": "listening", "url": format!("http://{}/", listener.local_addr()?) }));
        if signals {
            tokio::spawn(heed_signals(control)?);
        }
        if let Some(ops) = ops {
            let ops = tokio::net::TcpListener::from_std(ops)?;
            shared.log.put(&json!({ "event": "metrics", "url": format!("http://{}/metrics", ops.local_addr()?) }));
            tokio::spawn(serve_ops(shared.clone(), ops, stop.clone()));
        }
        let schedules = tokio::spawn(run_schedules(shared.clone(), stop.clone()));
        let newcomers = Arc::new(Semaphore::new(NEWCOMERS));
        loop {
            let mut stopping = stop.clone();
            let accepted = tokio::select! {
                _ = stopping.wait_for(|&s| s) => break,
                accepted = listener.accept() => accepted,
            };
            let Ok((stream, peer)) = accepted else {
                // Out of descriptors, or a client that is gone already.
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            // Some connections wait for a place; further ones are closed at once.
            let Ok(newcomer) = newcomers.clone().try_acquire_owned() else {
                shared.refused.fetch_add(1, Relaxed);
                continue;
            };
            let (shared, stop) = (shared.clone(), stop.clone());
            tokio::spawn(async move {
                let Ok(place) = shared.places.take_in(peer.ip(), PATIENCE).await else {
                    shared.refused.fetch_add(1, Relaxed);
                    return;
                };
                drop(newcomer);
                shared.accepted.fetch_add(1, Relaxed);
                connection(shared, stream, peer, Arc::new(place), stop).await;
            });
        }
        drop(listener);
        let _ = timeout(shared.options.stop_time, shared.places.empty()).await;
        let _ = timeout(shared.options.stop_time, schedules).await;
        Ok(())
    }
}

fn heed_signals(control: Control) -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hup = signal(SignalKind::hangup())?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = term.recv() => break,
                _ = int.recv() => break,
                _ = hup.recv() => {
                    let control = control.clone();
                    // Faults of the configuration are logged. Not awaited: the next signal may be to stop.
                    drop(tokio::task::spawn_blocking(move || control.reload()));
                }
            }
        }
        control.stop();
    })
}

/// Runs schedules that are due, and logs failures of background work, at intervals.
async fn run_schedules(shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let mut told = None;
    loop {
        let (s, live) = (shared.clone(), shared.live());
        let ticked = tokio::task::spawn_blocking(move || s.service.run_schedules(&live.schedules)).await;
        if let Ok(t) = ticked
            && t != Default::default()
        {
            shared.log.put(&json!({
                "event": "schedules", "taken": t.taken, "deleted": t.deleted, "waiting": t.waiting, "failed": t.failed,
                "cause": shared.service.schedule_fault(),
            }));
        }
        let background = shared.service.store().background_error().map(|e| e.to_string());
        if background != told {
            shared.log.put(&json!({ "event": "background", "cause": background }));
            told = background;
        }
        let stopped = stop.wait_for(|&s| s);
        if timeout(shared.options.schedule_time, stopped).await.is_ok() {
            return;
        }
    }
}

/// Serves health and metrics to whoever reaches their address.
async fn serve_ops(shared: Arc<Shared>, listener: tokio::net::TcpListener, mut stop: watch::Receiver<bool>) {
    let places = Places::new(OPS_CONNECTIONS, 0);
    loop {
        let accepted = tokio::select! {
            _ = stop.wait_for(|&s| s) => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, peer)) = accepted else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let Ok(place) = places.take_in(peer.ip(), PATIENCE).await else { continue };
        let (shared, head_time) = (shared.clone(), shared.options.head_time);
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Body>| {
                let (shared, seat) = (shared.clone(), place.seat.clone());
                async move {
                    seat.set(Phase::Work);
                    let reply = match (request.method(), request.uri().path()) {
                        (&(Method::GET | Method::HEAD), "/health") => health(&shared),
                        (&(Method::GET | Method::HEAD), "/metrics") => {
                            let done = tokio::task::spawn_blocking(move || metrics(&shared)).await;
                            Reply::new(StatusCode::OK, "text/plain; version=0.0.4", done.unwrap_or_default())
                        }
                        _ => Reply::plain(StatusCode::NOT_FOUND, "there are /health and /metrics\n"),
                    };
                    seat.rest();
                    Ok::<_, Infallible>(reply.into_response(None))
                }
            });
            let mut builder = http1::Builder::new();
            let connection = builder.timer(TokioTimer::new()).header_read_timeout(head_time);
            tokio::select! {
                _ = connection.serve_connection(TokioIo::new(stream), service) => {}
                () = place.seat.told() => {}
            }
        });
    }
}

async fn connection(
    shared: Arc<Shared>,
    stream: tokio::net::TcpStream,
    peer: SocketAddr,
    place: Arc<Place>,
    mut stop: watch::Receiver<bool>,
) {
    let _ = stream.set_nodelay(true);
    let (s, at) = (shared.clone(), place.clone());
    let service = service_fn(move |request| {
        // In a task of its own: a client that hangs up is logged like any other, and keeps its place until the work is done.
        let task = tokio::spawn(respond(s.clone(), request, peer, at.clone()));
        async move {
            let failed = |_| Reply::plain(StatusCode::INTERNAL_SERVER_ERROR, "internal error\n").into_response(None);
            Ok::<_, Infallible>(task.await.unwrap_or_else(failed))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.options.head_time)
        .max_buf_size(32 << 10)
        .half_close(false)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let told = async {
        let _ = timeout(shared.options.connection_time, stop.wait_for(|&s| s)).await;
    };
    tokio::select! {
        // Errors of the client are not logged; hyper has answered 400 where it could.
        _ = connection.as_mut() => return,
        // The place is needed, and nothing is in progress here.
        () = place.seat.told() => return,
        () = told => connection.as_mut().graceful_shutdown(),
    }
    let _ = timeout(shared.options.stop_time, connection).await;
}

/// A random UUID.
fn request_id() -> String {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&SystemHost.random().to_be_bytes());
    bytes[8..].copy_from_slice(&SystemHost.random().to_be_bytes());
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let h = hex(&bytes);
    format!("{}-{}-{}-{}-{}", &h[..8], &h[8..12], &h[12..16], &h[16..20], &h[20..])
}

/// Returns where a request came from: what a proxy says, if it came through one.
fn client(options: &ServerOptions, headers: &HeaderMap, peer: IpAddr) -> IpAddr {
    let proxied = options.public_url.is_some() && options.proxy.map_or(peer.is_loopback(), |proxy| proxy == peer);
    let last = headers.get_all("x-forwarded-for").iter().next_back().filter(|_| proxied);
    let named = last.and_then(|v| v.to_str().ok()).and_then(|v| v.rsplit(',').next()).map(str::trim);
    named.and_then(|v| v.parse().ok()).unwrap_or(peer)
}

async fn respond(
    shared: Arc<Shared>,
    request: Request<Body>,
    peer: SocketAddr,
    place: Arc<Place>,
) -> Response<Full<Bytes>> {
    let begun = Instant::now();
    let id = request_id();
    let from = client(&shared.options, request.headers(), peer.ip().to_canonical());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut reply = route(&shared, request, from, &place.seat).await;
    place.seat.rest();
    let line = json!({
        "time": SystemHost.now() / 1_000_000,
        "id": id,
        "peer": peer.to_string(),
        "client": from.to_string(),
        "method": method.as_str().chars().take(16).collect::<String>(),
        "path": path.chars().take(64).collect::<String>(),
        "status": reply.status.as_u16(),
        "micros": u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX),
    });
    if let serde_json::Value::Object(mut line) = line {
        line.append(&mut reply.log);
        shared.log.put(&serde_json::Value::Object(line));
    }
    reply.into_response(Some(&id))
}

impl Reply {
    fn into_response(self, id: Option<&str>) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        let mut set = |name: header::HeaderName, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.append(name, value);
            }
        };
        set(header::CONTENT_TYPE, self.kind);
        id.into_iter().for_each(|id| set(header::HeaderName::from_static("x-ucloud-request-uuid"), id));
        set(header::CACHE_CONTROL, "no-store");
        set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
        for (name, value) in self.headers {
            set(name, &value);
        }
        if self.close {
            set(header::CONNECTION, "close");
        }
        response
    }
}

/// A body, and its share of the memory for long ones.
struct Read {
    bytes: Vec<u8>,
    _long: Option<OwnedSemaphorePermit>,
}

/// A body of bounded length, in bounded time.
async fn read(shared: &Shared, mut body: Body) -> Result<Read, Reply> {
    let mut out = Vec::new();
    let mut long = None;
    let mut deadline = None;
    let mut len = 0;
    let reading = async {
        loop {
            let next = match deadline {
                None => body.frame().await,
                Some(end) => match tokio::time::timeout_at(end, body.frame()).await {
                    Ok(next) => next,
                    Err(_) => return Err(Reply::plain(StatusCode::REQUEST_TIMEOUT, "the body takes too long\n")),
                },
            };
            let Some(frame) = next else { return Ok(()) };
            // A connection that broke; nobody reads the answer.
            let frame = frame.map_err(|_| Reply::plain(StatusCode::BAD_REQUEST, "the body is broken\n"))?;
            let Ok(data) = frame.into_data() else { continue };
            len += data.len();
            if len > LONG_BODY && len <= BODY_MAX && long.is_none() {
                long = shared.long_bodies.clone().acquire_owned().await.ok();
                deadline = Some(tokio::time::Instant::now() + LONG_TIME);
                // At once, rather than by doubling.
                out.reserve_exact(BODY_MAX - out.len());
            }
            if len <= BODY_MAX {
                out.extend_from_slice(&data);
            } else if len > DRAIN_MAX {
                return Ok(());
            } else {
                // Others may have the room.
                (out, long, deadline) = (Vec::new(), None, None);
            }
        }
    };
    let mut bad = match timeout(shared.options.body_time, reading).await {
        Ok(Ok(())) if len <= BODY_MAX => return Ok(Read { bytes: out, _long: long }),
        Ok(Ok(())) => Reply::plain(StatusCode::PAYLOAD_TOO_LARGE, "the body is longer than 1 MiB\n"),
        Ok(Err(reply)) => reply,
        Err(_) => Reply::plain(StatusCode::REQUEST_TIMEOUT, "the body takes too long\n"),
    };
    bad.close = true;
    Err(bad)
}

fn health(shared: &Shared) -> Reply {
    match shared.broken.load(Relaxed) {
        false => Reply::plain(StatusCode::OK, "ok\n"),
        true => Reply::plain(StatusCode::SERVICE_UNAVAILABLE, "the store has stopped\n"),
    }
}

/// Returns whether a request names its host exactly once, as HTTP/1.1 requires: a proxy and this server could choose different ones of two.
fn names_its_host(head: &Parts) -> bool {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let is_one = |h: &HeaderValue| !h.is_empty() && !h.as_bytes().iter().any(|b| b",\t ".contains(b));
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => is_one(host),
        (None, _) => head.version < Version::HTTP_11,
        _ => false,
    }
}

async fn route(shared: &Arc<Shared>, request: Request<Body>, from: IpAddr, seat: &Seat) -> Reply {
    let (head, body) = request.into_parts();
    if !names_its_host(&head) {
        let mut bad = Reply::plain(StatusCode::BAD_REQUEST, "exactly one Host is needed\n");
        bad.close = true;
        return bad;
    }
    if head.uri.path() == "/health" && matches!(head.method, Method::GET | Method::HEAD) {
        return health(shared);
    }
    if head.uri.path() == "/openapi.json" && matches!(head.method, Method::GET | Method::HEAD) {
        static TEXT: LazyLock<Bytes> = LazyLock::new(|| openapi().to_string().into());
        return Reply::new(StatusCode::OK, "application/json", TEXT.clone());
    }
    let text = |name| head.headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok()).unwrap_or_default();
    seat.set(Phase::Body);
    let read = match read(shared, body).await {
        Ok(read) => read,
        Err(reply) => return reply,
    };
    let incoming = Incoming {
        method: head.method.to_string(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        content_type: text(header::CONTENT_TYPE).to_owned(),
        body: read.bytes,
    };
    let visit = Visit {
        path: head.uri.path().to_owned(),
        incoming,
        origin: text(header::ORIGIN).to_owned(),
        host: text(header::HOST).to_owned(),
        cookie: text(header::COOKIE).to_owned(),
        from,
    };
    let is_call = matches!(&*visit.path, "/api" | "/api/");
    let drawing = if is_call { None } else { shared.drawing.clone().acquire_owned().await.ok() };
    // A connection that waits for others' pages may have to close; one that is at work may not.
    seat.set(Phase::Work);
    let (s, held) = (shared.clone(), (read._long, drawing));
    let work = move || {
        let _held = held;
        let (begun, live) = (Instant::now(), s.live());
        if is_call {
            let out = handle(&s.service, &live.keys, &visit.incoming);
            let mut reply = Reply::new(StatusCode::OK, "application/json", out.body.to_string());
            reply.log = s.record(&out.audit, begun.elapsed());
            return reply;
        }
        let mut seen = s.pages.show(&s.service, &live.keys, s.options.public_url.as_ref(), &visit);
        let done = seen.audit.take().map(|audit| s.record(&audit, begun.elapsed()));
        let mut reply = page(seen);
        reply.log = done.unwrap_or_default();
        reply
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(reply) => reply,
        Err(_) if is_call => {
            let fault = Fault::new(RetCode::Internal, "internal error");
            let audit = Audit { code: fault.code().number(), ..Audit::default() };
            let body = crate::api::answer("", Err(&fault)).to_string();
            let mut reply = Reply::new(StatusCode::OK, "application/json", body);
            reply.log = shared.record(&audit, Duration::ZERO);
            reply
        }
        Err(_) => Reply::plain(StatusCode::INTERNAL_SERVER_ERROR, "internal error\n"),
    }
}

fn page(seen: Seen) -> Reply {
    let status = StatusCode::from_u16(seen.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut reply = Reply::new(status, "text/html; charset=utf-8", seen.body);
    reply.headers.extend(seen.cookie.map(|c| (header::SET_COOKIE, c)));
    reply.headers.extend(seen.location.map(|l| (header::LOCATION, l)));
    let policy =
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";
    reply.headers.push((header::CONTENT_SECURITY_POLICY, policy.to_owned()));
    reply.headers.push((header::REFERRER_POLICY, "same-origin".to_owned()));
    reply
}
