//! The page for people: signing in, and forms for the API's actions. It does nothing that the API does not.

use super::{
    audit::{Audit, perform},
    config::PublicUrl,
    limits::{Throttle, peer_of},
    session::{Session, Sessions},
    sign::{Keys, same},
    view::{self, Place, Screen},
    wire::Incoming,
};
use crate::{
    Store,
    api::{Params, RetCode, SnapshotService, shorten},
};
use parking_lot::{Condvar, Mutex};
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

const COOKIE: &str = "snapdisk-session";
/// What the log calls an attempt to sign in.
const SIGN_IN: &str = "SignIn";
/// Attempts to sign in that may fail, of an address and with a key from there, within a minute; with a key from anywhere ten times as many.
const FAILURES: u32 = 10;
/// Shortest time between two counts of sizes, which walk over all trees.
const SIZES_AGE: Duration = Duration::from_secs(2);
/// And they take no more than one part in so many of the time.
const SIZES_SHARE: u32 = 20;
/// How long the first page waits for the sizes.
const FIRST_SIZES: Duration = Duration::from_millis(30);
/// The requests that a form may make.
const FORMS: [&str; 7] = [
    "CreateDisk",
    "CreateSnapshot",
    "RollbackSnapshot",
    "DeleteSnapshot",
    "CreateDiskFromSnapshot",
    "DeleteDisk",
    "DetachDisk",
];

/// A request for a page.
pub(super) struct Visit {
    pub(super) path: String,
    pub(super) incoming: Incoming,
    pub(super) origin: String,
    pub(super) host: String,
    pub(super) cookie: String,
    /// Who sent it.
    pub(super) from: IpAddr,
}

/// An answer: a page, or a redirection.
pub(super) struct Seen {
    pub(super) status: u16,
    pub(super) body: String,
    pub(super) cookie: Option<String>,
    pub(super) location: Option<String>,
    /// The action that was carried out or refused, if there was one.
    pub(super) audit: Option<Audit>,
}

impl Seen {
    fn page(status: u16, body: String) -> Seen {
        Seen { status, body, cookie: None, location: None, audit: None }
    }
    fn go(location: String) -> Seen {
        Seen { location: Some(location), ..Seen::page(303, String::new()) }
    }
}

/// Bytes by id in the store: all that is mapped, and what nothing else holds.
#[derive(Default)]
pub(super) struct Sizes {
    pub(super) disks: HashMap<u64, (u64, u64)>,
    pub(super) snapshots: HashMap<u64, (u64, u64)>,
}

/// The sizes as they were last counted, and whether a count is in progress.
#[derive(Default)]
struct Counted {
    sizes: Option<Arc<Sizes>>,
    /// When the next count may begin.
    next: Option<Instant>,
    busy: bool,
}

/// Says that nobody counts any more.
struct Done(Arc<(Mutex<Counted>, Condvar)>);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.0.lock().busy = false;
        self.0.1.notify_all();
    }
}

#[derive(Default)]
pub(super) struct Pages {
    sessions: Sessions,
    sign_ins: Throttle,
    counted: Arc<(Mutex<Counted>, Condvar)>,
}

impl Pages {
    pub(super) fn show(
        &self,
        service: &SnapshotService,
        keys: &Keys,
        public_url: Option<&PublicUrl>,
        visit: &Visit,
    ) -> Seen {
        let now = Instant::now();
        let token = cookie(&visit.cookie);
        let session = token.and_then(|t| self.sessions.find(t, keys, now));
        let post = visit.incoming.method == "POST";
        if !matches!(&*visit.incoming.method, "GET" | "HEAD" | "POST") {
            return Seen::page(405, view::message("That is not how this page is used."));
        }
        // A browser says where a form came from; a request that says so must be from here.
        let from_here = match public_url {
            Some(url) => visit.origin.eq_ignore_ascii_case(url.origin()),
            None => visit.origin.split_once("://").is_some_and(|o| o.1 == visit.host),
        };
        if post && !visit.origin.is_empty() && !from_here {
            return Seen::page(403, view::message("This form is from elsewhere."));
        }
        let secure = if public_url.is_some_and(PublicUrl::is_secure) { "; Secure" } else { "" };
        let rules = format!("Path=/; HttpOnly; SameSite=Strict{secure}");
        let fields = if post { fields(&visit.incoming.body) } else { fields(visit.incoming.query.as_bytes()) };
        let Some(fields) = fields else {
            return Seen::page(400, view::message("The form is malformed."));
        };
        match (&*visit.path, post, session) {
            ("/", false, None) => Seen::page(200, view::sign_in("")),
            ("/", false, Some(s)) => self.screen(service, &s, &fields, 200, ""),
            ("/signin", true, _) => {
                let given = |name: &str| fields.get(name).map_or("", |v| v.trim());
                let (address, key) = (peer_of(visit.from), given("public_key"));
                let (by_address, by_key) = (format!("address {address}"), format!("key {}", shorten(key)));
                let by_both = format!("{by_key} {by_address}");
                // The limit for the key alone is high: whoever knows the key could otherwise keep its owner out.
                let names = [(&*by_address, FAILURES), (&*by_both, FAILURES), (&*by_key, 10 * FAILURES)];
                let told = |status: u16, text: &str, code: u16| {
                    let audit = Audit { action: SIGN_IN.to_owned(), code, ..Audit::default() };
                    Seen { audit: Some(audit), ..Seen::page(status, view::sign_in(text)) }
                };
                let wrong = RetCode::BadSignature.number();
                if self.sign_ins.refuses(&names, now) {
                    return told(429, "Too many attempts. Try again in a minute.", wrong);
                }
                let Some(caller) = keys.pair(key, given("private_key")) else {
                    self.sign_ins.failed(&names, now);
                    return told(403, "Unknown public key or wrong private key.", wrong);
                };
                if let Some(old) = token {
                    self.sessions.end(old);
                }
                let token = self.sessions.begin(caller.clone(), (key, given("private_key")), now);
                let mut seen = Seen::go("/".to_owned());
                let caller = Some(caller.clone());
                seen.audit = Some(Audit { action: SIGN_IN.to_owned(), caller, ..Audit::default() });
                seen.cookie = Some(format!("{COOKIE}={token}; {rules}; Max-Age=43200"));
                seen
            }
            ("/signout" | "/do", true, None) => Seen::page(403, view::sign_in("You are not signed in any more.")),
            (path @ ("/signout" | "/do"), true, Some(s)) => {
                if !same(fields.get("token").map_or("", |t| t), &s.form_token) {
                    return Seen::page(403, view::message("This form is from elsewhere, or too old."));
                }
                if path == "/do" {
                    return self.act(service, &s, &fields);
                }
                token.into_iter().for_each(|t| self.sessions.end(t));
                let mut seen = Seen::go("/".to_owned());
                seen.cookie = Some(format!("{COOKIE}=; {rules}; Max-Age=0"));
                seen
            }
            _ => Seen::page(404, view::message("There is no such page.")),
        }
    }

    fn act(&self, service: &SnapshotService, s: &Session, fields: &HashMap<String, String>) -> Seen {
        let action = fields.get("Action").map_or("", |a| a);
        if !FORMS.contains(&action) {
            return Seen::page(400, view::message("There is no such form."));
        }
        let params =
            fields.iter().filter(|(name, _)| !matches!(&***name, "token" | "Action" | "disk" | "q" | "offset"));
        let params = Params::from_pairs(params.map(|(k, v)| (k.as_str(), v.as_str())));
        let (outcome, audit) = match params {
            Ok(params) => perform(service, &s.caller, action, &params),
            Err(fault) => (Err(fault), Audit::default()),
        };
        let mut seen = match outcome {
            Ok(made) => {
                let made = |name: &str| made.get(name).and_then(|v| v.as_str()).unwrap_or_default();
                let given = |name: &str| fields.get(name).map_or("", |v| v);
                let place = place(given, given("Region"));
                // The redirection leads to where the object of the action is, or was.
                let (place, anchor) = match action {
                    "CreateDisk" | "CreateDiskFromSnapshot" => {
                        (Place { disk: made("DiskID"), keyword: "", offset: 0, ..place }, "now")
                    }
                    "DeleteDisk" => (Place { disk: "", ..place }, ""),
                    "CreateSnapshot" if !place.disk.is_empty() => {
                        (Place { offset: 0, keyword: "", ..place }, made("SnapshotID"))
                    }
                    "RollbackSnapshot" => (place, "now"),
                    _ => (place, given("DiskID")),
                };
                let address = place.address();
                let more = if address.contains('?') { '&' } else { '?' };
                Seen::go(format!("{address}{more}done={action}#{}", view::url(anchor)))
            }
            Err(fault) => self.screen(service, s, fields, 200, &format!("{fault} (code {})", fault.code().number())),
        };
        seen.audit = Some(audit);
        seen
    }

    fn screen(
        &self,
        service: &SnapshotService,
        s: &Session,
        fields: &HashMap<String, String>,
        status: u16,
        fault: &str,
    ) -> Seen {
        let done = fields.get("done").filter(|d| FORMS.contains(&d.as_str())).map_or("", |d| d);
        let directory = service.directory();
        let given = |name: &str| fields.get(name).map_or("", |v| v);
        let region = directory.regions.iter().find(|r| r.id == given("Region")).or(directory.regions.first());
        let sizes = self.sizes(service.store());
        let place = place(given, region.map_or("", |r| &r.id));
        // After a refusal the snapshot is open as it was.
        let snapshot = if fault.is_empty() { place.snapshot } else { given("SnapshotID") };
        let place = Place { snapshot, ..place };
        let screen = Screen { service, session: s, place, sizes: sizes.as_deref(), fault, done };
        match screen.draw() {
            Ok(body) => Seen::page(status, body),
            Err(fault) => Seen::page(200, view::message(&fault.to_string())),
        }
    }

    /// Returns the sizes as last counted, which a thread of its own does, so that no page and no call waits for a walk over all trees. The
    /// first page waits a moment, which is enough if there is little to count.
    fn sizes(&self, store: &Store) -> Option<Arc<Sizes>> {
        let (counted, made) = &*self.counted;
        let mut c = counted.lock();
        if !c.busy && c.next.is_none_or(|next| next <= Instant::now()) {
            let (shared, store) = (self.counted.clone(), store.clone());
            let counting = std::thread::Builder::new().name("snapdisk-sizes".to_owned()).spawn(move || {
                let begun = Instant::now();
                // However it ends.
                let _done = Done(shared.clone());
                let usage = store.usage_all();
                let mut c = shared.0.lock();
                if let Ok(usage) = usage {
                    let of = |u: crate::Usage| (u.mapped_bytes, u.exclusive_bytes);
                    let disks = usage.volumes.iter().map(|v| (v.id.0, of(v.usage)));
                    let snapshots = usage.snapshots.iter().map(|s| (s.id.0, of(s.usage)));
                    c.sizes = Some(Arc::new(Sizes { disks: disks.collect(), snapshots: snapshots.collect() }));
                }
                c.next = Some(Instant::now() + SIZES_AGE.max(begun.elapsed() * SIZES_SHARE));
            });
            c.busy = counting.is_ok();
        }
        if c.sizes.is_none() && c.busy {
            made.wait_for(&mut c, FIRST_SIZES);
        }
        c.sizes.clone()
    }
}

/// The session's token of a cookie header.
fn cookie(header: &str) -> Option<&str> {
    header.split(';').filter_map(|c| c.trim().split_once('=')).find(|c| c.0 == COOKIE).map(|c| c.1)
}

/// The place that a request's fields name.
fn place<'a>(given: impl Fn(&str) -> &'a str, region: &'a str) -> Place<'a> {
    let offset = given("offset").parse().unwrap_or(0).min(i64::MAX as u64);
    Place { region, disk: given("disk"), snapshot: given("snapshot"), keyword: given("q"), offset }
}

/// A form's fields; the same name twice is malformed.
fn fields(text: &[u8]) -> Option<HashMap<String, String>> {
    let pairs = super::wire::form(text).ok()?;
    let count = pairs.len();
    let fields: HashMap<_, _> = pairs.into_iter().collect();
    (fields.len() == count).then_some(fields)
}
