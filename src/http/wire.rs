//! From a request's bytes to an action's answer: encodings, keys and signatures, in the contract's order.

use super::sign::Keys;
use crate::api::{Caller, Fault, Params, RetCode, SnapshotService, answer};
use serde_json::Value;

/// Bytes that a body may have.
pub const BODY_MAX: usize = 1 << 20;

/// What came in, as far as it matters here.
#[derive(Clone, Debug, Default)]
pub struct Incoming {
    /// `GET` or `POST`.
    pub method: String,
    /// What follows the `?`, raw.
    pub query: String,
    /// The content type, as sent.
    pub content_type: String,
    /// The body.
    pub body: Vec<u8>,
}

/// What goes out, and what the log says of it.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The answer.
    pub body: Value,
    /// Its `Action`, without `Response`.
    pub action: String,
    /// Its RetCode.
    pub code: u16,
    /// Who it was, once that was known.
    pub caller: Option<Caller>,
    /// What the store said of a failure.
    pub cause: Option<crate::Error>,
}

/// The pairs of a query or form, decoded.
pub(super) fn form(text: &[u8]) -> Result<Vec<(String, String)>, Fault> {
    let pieces = text.split(|&b| b == b'&').filter(|p| !p.is_empty());
    pieces
        .map(|piece| {
            let mut halves = piece.splitn(2, |&b| b == b'=');
            let name = unescape(halves.next().unwrap_or_default())?;
            let value = unescape(halves.next().unwrap_or_default())?;
            if name.is_empty() { Err(malformed("a parameter without a name")) } else { Ok((name, value)) }
        })
        .collect()
}

fn malformed(what: &str) -> Fault {
    Fault::new(RetCode::Format, format!("the request is malformed: {what}"))
}

fn unescape(text: &[u8]) -> Result<String, Fault> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(&b) = bytes.next() {
        out.push(match b {
            b'+' => b' ',
            b'%' => {
                let mut digit = || bytes.next().and_then(|&d| char::from(d).to_digit(16));
                match (digit(), digit()) {
                    (Some(high), Some(low)) => (high * 16 + low) as u8,
                    _ => return Err(malformed("a % without two hex digits")),
                }
            }
            b => b,
        });
    }
    String::from_utf8(out).map_err(|_| malformed("not UTF-8"))
}

/// The parameters of a request. A body's are the ones that count, if there is one.
fn parameters(incoming: &Incoming) -> Result<Params, Fault> {
    if !matches!(&*incoming.method, "GET" | "POST") {
        return Err(malformed("the method is neither GET nor POST"));
    }
    if incoming.body.is_empty() {
        return Params::from_pairs(form(incoming.query.as_bytes())?);
    }
    let kind = incoming.content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match &*kind {
        "application/json" => Params::from_json(&incoming.body),
        "" | "application/x-www-form-urlencoded" => Params::from_pairs(form(&incoming.body)?),
        _ => Err(malformed("a content type that is neither a form nor JSON")),
    }
}

/// Answers a request. Everything that goes wrong is an answer too.
pub fn handle(service: &SnapshotService, keys: &Keys, incoming: &Incoming) -> Outgoing {
    // Only to name the action of an answer, or where a body does not: it is not signed then.
    let fallback = || {
        let pairs = form(incoming.query.as_bytes()).unwrap_or_default();
        pairs.into_iter().find(|(name, _)| name == "Action").map_or_else(String::new, |(_, value)| value)
    };
    let mut out = Outgoing { body: Value::Null, action: String::new(), code: 0, caller: None, cause: None };
    let outcome = parameters(incoming).and_then(|params| {
        let text = |name: &str| params.iter().find(|p| p.0 == name).and_then(|p| p.1.as_str()).unwrap_or_default();
        out.action = Some(text("Action").to_owned()).filter(|a| !a.is_empty()).unwrap_or_else(fallback);
        let missing = |code, name: &str| Fault::new(code, format!("{name} is required and missing or empty"));
        if out.action.is_empty() {
            return Err(missing(RetCode::NoAction, "Action"));
        }
        if text("PublicKey").is_empty() {
            return Err(missing(RetCode::NoPublicKey, "PublicKey"));
        }
        if text("Signature").is_empty() {
            return Err(missing(RetCode::NoSignature, "Signature"));
        }
        let caller = keys.verify(&params, text("PublicKey"), text("Signature"));
        let caller = caller.ok_or_else(|| Fault::new(RetCode::BadSignature, "unknown PublicKey or wrong Signature"))?;
        out.caller = Some(caller.clone());
        service.try_call(caller, &out.action, &params)
    });
    if out.action.is_empty() {
        out.action = fallback();
    }
    match outcome {
        Ok(map) => out.body = answer(&out.action, Ok(map)),
        Err(fault) => {
            (out.code, out.cause) = (fault.code().number(), fault.cause().cloned());
            out.body = answer(&out.action, Err(&fault));
        }
    }
    out
}
