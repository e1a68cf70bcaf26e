//! The page for people: signing in, what a form asks for, and what is shown then. It does nothing that the API does not.

use super::{
    audit::{Audit, perform},
    config::PublicUrl,
    limits::{Throttle, peer_of},
    session::{Session, Sessions},
    sign::{Keys, same},
    view::{self, Screen},
    wire::Incoming,
};
use crate::{
    Store,
    api::{Params, SnapshotService, shorten},
};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

const COOKIE: &str = "snapdisk-session";
/// Sizes are this old at most: they cost a walk over all trees.
const SIZES_AGE: Duration = Duration::from_secs(5);
/// What a form may ask for.
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

/// An answer: a page, or where to go.
pub(super) struct Seen {
    pub(super) status: u16,
    pub(super) body: String,
    pub(super) cookie: Option<String>,
    pub(super) location: Option<String>,
    /// The action that was done or refused, if there was one.
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

/// Bytes of a snapshot, by its id in the store: all that it maps, and what only it holds.
pub(super) type Sizes = HashMap<u64, (u64, u64)>;

#[derive(Default)]
pub(super) struct Pages {
    sessions: Sessions,
    sign_ins: Throttle,
    sizes: Mutex<Option<(Instant, Arc<Sizes>)>>,
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
        // A browser says where a form came from; whoever says it must be from here.
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
                let (address, key) = (format!("address {}", peer_of(visit.from)), given("public_key"));
                let names = [address.as_str(), &format!("key {}", shorten(key))];
                if self.sign_ins.refuses(&names, now) {
                    return Seen::page(429, view::sign_in("Too many attempts. Try again in a minute."));
                }
                let Some(caller) = keys.pair(key, given("private_key")) else {
                    self.sign_ins.failed(&names, now);
                    return Seen::page(403, view::sign_in("Unknown public key or wrong private key."));
                };
                if let Some(old) = token {
                    self.sessions.end(old);
                }
                let token = self.sessions.begin(caller.clone(), key, now);
                let mut seen = Seen::go("/".to_owned());
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
        let params = fields.iter().filter(|(name, _)| !matches!(&***name, "token" | "Action" | "offset"));
        let params = Params::from_pairs(params.map(|(k, v)| (k.as_str(), v.as_str())));
        let (outcome, audit) = match params {
            Ok(params) => perform(service, &s.caller, action, &params),
            Err(fault) => (Err(fault), Audit::default()),
        };
        let mut seen = match outcome {
            Ok(_) => {
                *self.sizes.lock() = None;
                let number = |name: &str| fields.get(name).and_then(|v| v.parse::<u64>().ok()).unwrap_or(0);
                Seen::go(format!("/?offset={}&done={action}", number("offset")))
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
        let screen = Screen {
            service,
            session: s,
            region: fields.get("Region").map_or("", |r| r),
            offset: fields.get("offset").and_then(|o| o.parse().ok()).unwrap_or(0),
            sizes: &self.sizes(service.store()),
            fault,
            done,
        };
        match screen.draw() {
            Ok(body) => Seen::page(status, body),
            Err(fault) => Seen::page(200, view::message(&fault.to_string())),
        }
    }

    /// Held while they are made: whoever asks meanwhile gets the same.
    fn sizes(&self, store: &Store) -> Arc<Sizes> {
        let mut kept = self.sizes.lock();
        if let Some((_, sizes)) = kept.as_ref().filter(|(made, _)| made.elapsed() < SIZES_AGE) {
            return sizes.clone();
        }
        let stats = store.stats().unwrap_or_default();
        let sizes: Sizes = stats.snapshots.iter().map(|s| (s.id.0, (s.usage.mapped, s.usage.exclusive))).collect();
        let sizes = Arc::new(sizes);
        *kept = Some((Instant::now(), sizes.clone()));
        sizes
    }
}

/// The session's token of a cookie header.
fn cookie(header: &str) -> Option<&str> {
    header.split(';').filter_map(|c| c.trim().split_once('=')).find(|c| c.0 == COOKIE).map(|c| c.1)
}

/// A form's fields; the same name twice is malformed.
fn fields(text: &[u8]) -> Option<HashMap<String, String>> {
    let pairs = super::wire::form(text).ok()?;
    let count = pairs.len();
    let fields: HashMap<_, _> = pairs.into_iter().collect();
    (fields.len() == count).then_some(fields)
}
