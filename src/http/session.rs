//! Sessions of the page, in memory, by a random token.

use super::sign::Keys;
use crate::{
    api::Caller,
    io::{Host, SystemHost},
};
use parking_lot::Mutex;
use std::{collections::HashMap, time::Duration, time::Instant};

/// A session ends after this long without a request.
const IDLE: Duration = Duration::from_secs(30 * 60);
/// A session ends after this long in any case.
const LIFE: Duration = Duration::from_secs(12 * 3600);
/// Sessions at once; the one that was idle longest goes.
const SESSIONS_MAX: usize = 10_000;
/// Of one pair of keys; the oldest of them goes.
const SESSIONS_OF_ONE: usize = 16;

/// Somebody who is signed in.
#[derive(Clone)]
pub(super) struct Session {
    pub(super) caller: Caller,
    /// The key pair that was given: the session ends when the pair is revoked.
    keys: (String, String),
    /// A secret in each form of the session.
    pub(super) form_token: String,
    begun: Instant,
    seen: Instant,
}

#[derive(Default)]
pub(super) struct Sessions {
    by_token: Mutex<HashMap<String, Session>>,
}

fn token() -> String {
    (0..4).map(|_| format!("{:016x}", SystemHost.random())).collect()
}

impl Sessions {
    /// Starts a session and returns its token.
    pub(super) fn begin(&self, caller: Caller, (public_key, private_key): (&str, &str), now: Instant) -> String {
        let mut all = self.by_token.lock();
        all.retain(|_, s| alive(s, now));
        let own = |s: &Session| s.keys.0 == public_key;
        let oldest = if all.values().filter(|s| own(s)).count() >= SESSIONS_OF_ONE {
            all.iter().filter(|(_, s)| own(s)).min_by_key(|(_, s)| s.seen)
        } else {
            all.iter().min_by_key(|(_, s)| s.seen).filter(|_| all.len() >= SESSIONS_MAX)
        };
        if let Some(oldest) = oldest.map(|(t, _)| t.clone()) {
            all.remove(&oldest);
        }
        let token = token();
        let keys = (public_key.to_owned(), private_key.to_owned());
        all.insert(token.clone(), Session { caller, keys, form_token: self::token(), begun: now, seen: now });
        token
    }
    /// Returns the session of a token, with its keys' present rights.
    pub(super) fn find(&self, token: &str, keys: &Keys, now: Instant) -> Option<Session> {
        let mut all = self.by_token.lock();
        let session = all.get_mut(token).filter(|s| alive(s, now))?;
        session.caller = keys.pair(&session.keys.0, &session.keys.1)?.clone();
        session.seen = now;
        Some(session.clone())
    }
    pub(super) fn end(&self, token: &str) {
        self.by_token.lock().remove(token);
    }
}

fn alive(s: &Session, now: Instant) -> bool {
    now.saturating_duration_since(s.seen) < IDLE && now.saturating_duration_since(s.begun) < LIFE
}
