//! The server: connections, bodies and times are bounded; every request is one line of log.

use super::{
    page::Pages,
    sign::{Keys, hex},
    wire::{BODY_MAX, Incoming, handle},
};
use crate::{
    ErrorKind,
    api::{Schedule, SnapshotService},
    io::{Host, SystemHost},
};
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming as Body},
    header::{self, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt::Write as _,
    future::Future,
    io,
    net::{SocketAddr, TcpListener},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::{Semaphore, watch},
    time::timeout,
};

/// Bytes of a body that is too long that are still read, so that its sender gets to see the answer.
const DRAIN_MAX: usize = 16 << 20;

/// Bounds, and what else a server does.
#[derive(Clone)]
pub struct ServerOptions {
    /// Connections at once; more wait. Default 256.
    pub connections: usize,
    /// For the head of a request, and for silence between two. Default 15 s.
    pub head_time: Duration,
    /// For a body. Default 30 s.
    pub body_time: Duration,
    /// For a connection, whatever it does. Default 10 min.
    pub connection_time: Duration,
    /// For what is under way when the server is told to stop. Default 10 s.
    pub stop_time: Duration,
    /// Automatic snapshots. Default none.
    pub schedules: Vec<Schedule>,
    /// How often schedules are looked at. Default 20 s.
    pub schedule_time: Duration,
    /// Where log lines go. Default standard error.
    pub log: Arc<dyn Fn(&str) + Send + Sync>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        ServerOptions {
            connections: 256,
            head_time: Duration::from_secs(15),
            body_time: Duration::from_secs(30),
            connection_time: Duration::from_secs(600),
            stop_time: Duration::from_secs(10),
            schedules: Vec::new(),
            schedule_time: Duration::from_secs(20),
            log: Arc::new(|line| eprintln!("{line}")),
        }
    }
}

/// A server that is bound to its address.
pub struct Server {
    listener: TcpListener,
    shared: Arc<Shared>,
    stop: watch::Receiver<bool>,
    handle: Stop,
}

/// Tells a server to stop.
#[derive(Clone)]
pub struct Stop(Arc<watch::Sender<bool>>);

impl Stop {
    /// No new connections; what is under way is finished.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

struct Shared {
    service: SnapshotService,
    keys: Keys,
    options: ServerOptions,
    pages: Pages,
    counts: Mutex<BTreeMap<(String, u16), u64>>,
    connections: AtomicU64,
    /// A call was answered by a store that is closed or has stopped.
    broken: AtomicBool,
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
    /// A server of `service` for whoever has one of `keys`, at `address` (`host:port`; port 0: any).
    pub fn bind(service: SnapshotService, keys: Keys, address: &str, options: ServerOptions) -> io::Result<Server> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let (sender, stop) = watch::channel(false);
        let shared = Arc::new(Shared {
            service,
            keys,
            options,
            pages: Pages::default(),
            counts: Mutex::default(),
            connections: AtomicU64::new(0),
            broken: AtomicBool::new(false),
        });
        Ok(Server { listener, shared, stop, handle: Stop(Arc::new(sender)) })
    }
    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
    /// What stops it.
    pub fn stop_handle(&self) -> Stop {
        self.handle.clone()
    }
    /// Serves until it is told to stop; with `signals`, by SIGTERM or SIGINT as well. The store stays open.
    pub fn run(self, signals: bool) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(64)
            .enable_all()
            .build()?;
        let outcome = runtime.block_on(self.serve(signals));
        runtime.shutdown_timeout(Duration::from_secs(1));
        outcome
    }

    async fn serve(self, signals: bool) -> io::Result<()> {
        let Server { listener, shared, stop, handle } = self;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        if signals {
            tokio::spawn(stop_on_signals(handle)?);
        }
        let schedules =
            (!shared.options.schedules.is_empty()).then(|| tokio::spawn(run_schedules(shared.clone(), stop.clone())));
        let places = Arc::new(Semaphore::new(shared.options.connections));
        loop {
            let mut stopping = stop.clone();
            let stopped = stopping.wait_for(|&s| s);
            // A place first, and then whoever waits for it: the rest stays in the host's queue.
            let accepted = tokio::select! {
                _ = stopped => break,
                accepted = async {
                    let place = places.clone().acquire_owned().await.ok();
                    (place, listener.accept().await)
                } => accepted,
            };
            match accepted {
                (place, Ok((stream, peer))) => {
                    let (shared, stop) = (shared.clone(), stop.clone());
                    tokio::spawn(async move {
                        connection(shared, stream, peer, stop).await;
                        drop(place);
                    });
                }
                // Out of descriptors, or a client that is gone already.
                (_, Err(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        drop(listener);
        let all = u32::try_from(shared.options.connections).unwrap_or(u32::MAX);
        let _ = timeout(shared.options.stop_time, places.acquire_many(all)).await;
        if let Some(schedules) = schedules {
            let _ = timeout(shared.options.stop_time, schedules).await;
        }
        Ok(())
    }
}

fn stop_on_signals(stop: Stop) -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        stop.stop();
    })
}

async fn run_schedules(shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    loop {
        let s = shared.clone();
        let ticked = tokio::task::spawn_blocking(move || s.service.run_schedules(&s.options.schedules)).await;
        if let Ok(t) = ticked.as_ref().map(|t| *t)
            && t != Default::default()
        {
            let line = serde_json::json!({
                "event": "schedules", "taken": t.taken, "deleted": t.deleted, "waiting": t.waiting, "failed": t.failed,
            });
            (shared.options.log)(&line.to_string());
        }
        let stopped = stop.wait_for(|&s| s);
        if timeout(shared.options.schedule_time, stopped).await.is_ok() {
            return;
        }
    }
}

async fn connection(
    shared: Arc<Shared>,
    stream: tokio::net::TcpStream,
    peer: SocketAddr,
    mut stop: watch::Receiver<bool>,
) {
    shared.connections.fetch_add(1, Relaxed);
    let _ = stream.set_nodelay(true);
    let s = shared.clone();
    let service = service_fn(move |request| {
        let shared = s.clone();
        async move { Ok::<_, Infallible>(respond(shared, request, peer).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.options.head_time)
        .max_buf_size(64 << 10)
        .half_close(false)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let told = async {
        let _ = timeout(shared.options.connection_time, stop.wait_for(|&s| s)).await;
    };
    tokio::select! {
        // What a client does wrong is its own affair; hyper has answered 400 where it could.
        _ = connection.as_mut() => return,
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

async fn respond(shared: Arc<Shared>, request: Request<Body>, peer: SocketAddr) -> Response<Full<Bytes>> {
    let begun = Instant::now();
    let id = request_id();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut reply = route(&shared, request).await;
    let line = serde_json::json!({
        "time": SystemHost.now() / 1_000_000,
        "id": id,
        "peer": peer.to_string(),
        "method": method.as_str(),
        "path": path.chars().take(64).collect::<String>(),
        "status": reply.status.as_u16(),
        "micros": u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX),
    });
    if let serde_json::Value::Object(mut line) = line {
        line.append(&mut reply.log);
        (shared.options.log)(&serde_json::Value::Object(line).to_string());
    }
    let mut response = Response::new(Full::new(reply.body));
    *response.status_mut() = reply.status;
    let headers = response.headers_mut();
    let mut set = |name: header::HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.append(name, value);
        }
    };
    set(header::CONTENT_TYPE, reply.kind);
    set(header::HeaderName::from_static("x-ucloud-request-uuid"), &id);
    set(header::CACHE_CONTROL, "no-store");
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    for (name, value) in reply.headers {
        set(name, &value);
    }
    if reply.close {
        set(header::CONNECTION, "close");
    }
    response
}

/// A body of bounded length, in bounded time.
async fn read(shared: &Shared, mut body: Body) -> Result<Vec<u8>, Reply> {
    let mut out = Vec::new();
    let mut len = 0;
    let reading = async {
        while let Some(frame) = body.frame().await {
            // A connection that broke; nobody reads the answer.
            let frame = frame.map_err(|_| Reply::plain(StatusCode::BAD_REQUEST, "the body is broken\n"))?;
            let Ok(data) = frame.into_data() else { continue };
            len += data.len();
            if len <= BODY_MAX {
                out.extend_from_slice(&data);
            } else if len > DRAIN_MAX {
                break;
            }
        }
        Ok(())
    };
    let mut bad = match timeout(shared.options.body_time, reading).await {
        Ok(Ok(())) if len <= BODY_MAX => return Ok(out),
        Ok(Ok(())) => Reply::plain(StatusCode::PAYLOAD_TOO_LARGE, "the body is longer than 1 MiB\n"),
        Ok(Err(reply)) => reply,
        Err(_) => Reply::plain(StatusCode::REQUEST_TIMEOUT, "the body takes too long\n"),
    };
    bad.close = true;
    Err(bad)
}

async fn route(shared: &Arc<Shared>, request: Request<Body>) -> Reply {
    let (head, body) = request.into_parts();
    match head.uri.path() {
        "/health" if head.method == Method::GET => match shared.broken.load(Relaxed) {
            false => Reply::plain(StatusCode::OK, "ok\n"),
            true => Reply::plain(StatusCode::SERVICE_UNAVAILABLE, "the store has stopped\n"),
        },
        "/metrics" if head.method == Method::GET => {
            Reply::new(StatusCode::OK, "text/plain; version=0.0.4", metrics(shared))
        }
        path => {
            let text = |name| head.headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok()).unwrap_or_default();
            let incoming = Incoming {
                method: head.method.to_string(),
                query: head.uri.query().unwrap_or_default().to_owned(),
                content_type: text(header::CONTENT_TYPE).to_owned(),
                body: match read(shared, body).await {
                    Ok(body) => body,
                    Err(reply) => return reply,
                },
            };
            let (origin, cookie) = (text(header::ORIGIN).to_owned(), text(header::COOKIE).to_owned());
            let host = text(header::HOST).to_owned();
            let (path, s) = (path.to_owned(), shared.clone());
            let work = move || {
                if path == "/api" || path == "/api/" {
                    return call(&s, &incoming);
                }
                let seen =
                    s.pages.show(&s.service, &s.keys, &super::page::Visit { path, incoming, origin, host, cookie });
                let status = StatusCode::from_u16(seen.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                let mut reply = Reply::new(status, "text/html; charset=utf-8", seen.body);
                reply.headers.extend(seen.cookie.map(|c| (header::SET_COOKIE, c)));
                reply.headers.extend(seen.location.map(|l| (header::LOCATION, l)));
                let policy = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";
                reply.headers.push((header::CONTENT_SECURITY_POLICY, policy.to_owned()));
                reply.headers.push((header::REFERRER_POLICY, "same-origin".to_owned()));
                reply
            };
            let done = tokio::task::spawn_blocking(work).await;
            done.unwrap_or_else(|_| Reply::plain(StatusCode::INTERNAL_SERVER_ERROR, "internal error\n"))
        }
    }
}

fn call(shared: &Shared, incoming: &Incoming) -> Reply {
    let out = handle(&shared.service, &shared.keys, incoming);
    let kind = out.cause.as_ref().map(crate::Error::kind);
    if matches!(kind, Some(ErrorKind::Poisoned | ErrorKind::Closed | ErrorKind::Io)) {
        shared.broken.store(true, Relaxed);
    }
    // Names of actions that there are; anything else could be anything.
    let known = crate::api::ACTIONS.contains(&&*out.action);
    let label = if known { out.action.clone() } else { "other".to_owned() };
    *shared.counts.lock().entry((label, out.code)).or_default() += 1;
    let mut reply = Reply::new(StatusCode::OK, "application/json", out.body.to_string());
    let mut put = |name: &str, value: serde_json::Value| drop(reply.log.insert(name.to_owned(), value));
    put("action", out.action.chars().take(64).collect::<String>().into());
    put("code", out.code.into());
    if let Some(caller) = out.caller {
        put("company", caller.company.into());
        put("member", caller.member.into());
        put("admin", caller.admin.into());
    }
    if let Some(cause) = out.cause {
        put("cause", format!("{cause:?}").into());
    }
    reply
}

fn metrics(shared: &Shared) -> String {
    let stats = shared.service.stats();
    let mut out = String::new();
    let mut put = |name: &str, kind: &str, help: &str, value: u64| {
        let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
    };
    put("snapdisk_disks", "gauge", "Disks.", stats.disks);
    put("snapdisk_snapshots", "gauge", "Snapshots.", stats.snapshots);
    put("snapdisk_list_entries_total", "counter", "Index entries that lists looked at.", stats.visited);
    put("snapdisk_connections_total", "counter", "Connections accepted.", shared.connections.load(Relaxed));
    put(
        "snapdisk_store_stopped",
        "gauge",
        "1 once a call met a store that has stopped.",
        shared.broken.load(Relaxed).into(),
    );
    out.push_str("# HELP snapdisk_calls_total Answers by action and RetCode.\n# TYPE snapdisk_calls_total counter\n");
    for ((action, code), n) in &*shared.counts.lock() {
        let _ = writeln!(out, "snapdisk_calls_total{{action=\"{action}\",code=\"{code}\"}} {n}");
    }
    out
}
