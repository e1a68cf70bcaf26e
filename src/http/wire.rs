//! From a request's bytes to an action's answer: encodings, keys and signatures, in the contract's order.

use super::{
    audit::{Audit, perform},
    envelope::Envelope,
    sign::Keys,
};
use crate::api::{Fault, Params, RetCode, SnapshotService, VALUES_MAX, answer};
use serde_json::Value;

/// Bytes that a body may have.
pub const BODY_MAX: usize = 1 << 20;

/// The parts of a request that matter here.
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
#[non_exhaustive]
pub struct Outgoing {
    /// An answer, and what the log says of it.
    pub body: Value,
    /// Who asked for what.
    pub audit: Audit,
}

/// The pairs of a query or form, decoded one after the other.
pub(super) fn pairs(text: &[u8]) -> impl Iterator<Item = Result<(String, String), Fault>> {
    text.split(|&b| b == b'&').filter(|p| !p.is_empty()).map(|piece| {
        let mut halves = piece.splitn(2, |&b| b == b'=');
        let name = unescape(halves.next().unwrap_or_default())?;
        let value = unescape(halves.next().unwrap_or_default())?;
        if name.is_empty() { Err(malformed("a parameter without a name")) } else { Ok((name, value)) }
    })
}

/// All of them, if they are not too many.
pub(super) fn form(text: &[u8]) -> Result<Vec<(String, String)>, Fault> {
    let mut out = Vec::new();
    for pair in pairs(text) {
        if out.len() == VALUES_MAX {
            return Err(malformed(&format!("more than {VALUES_MAX} parameters")));
        }
        out.push(pair?);
    }
    Ok(out)
}

pub(super) fn malformed(what: &str) -> Fault {
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

/// How the parameters of a request are written.
#[derive(Clone, Copy)]
enum Encoding<'a> {
    Form(&'a [u8]),
    Json(&'a [u8]),
}

/// Where the parameters of a request are. A body's are the ones that count, if there is one.
fn encoding(incoming: &Incoming) -> Result<Encoding<'_>, Fault> {
    if !matches!(&*incoming.method, "GET" | "POST") {
        return Err(malformed("the method is neither GET nor POST"));
    }
    if incoming.body.is_empty() {
        return Ok(Encoding::Form(incoming.query.as_bytes()));
    }
    let kind = incoming.content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match &*kind {
        "application/json" => Ok(Encoding::Json(&incoming.body)),
        "" | "application/x-www-form-urlencoded" => Ok(Encoding::Form(&incoming.body)),
        _ => Err(malformed("a content type that is neither a form nor JSON")),
    }
}

impl Encoding<'_> {
    fn envelope(self) -> Result<Envelope, Fault> {
        match self {
            Encoding::Form(text) => Envelope::of_form(text),
            Encoding::Json(text) => Envelope::of_json(text),
        }
    }
    fn parameters(self) -> Result<Params, Fault> {
        match self {
            Encoding::Form(text) => Params::from_pairs(form(text)?),
            Encoding::Json(text) => Params::from_json(text),
        }
    }
}

/// Answers a request. Every failure is an answer too.
pub fn handle(service: &SnapshotService, keys: &Keys, incoming: &Incoming) -> Outgoing {
    // The action of an answer to a request whose body does not name it.
    let fallback = || {
        let pairs = form(incoming.query.as_bytes()).unwrap_or_default();
        pairs.into_iter().find(|(name, _)| name == "Action").map_or_else(String::new, |(_, value)| value)
    };
    let mut audit = Audit::default();
    let outcome = encoding(incoming).and_then(|encoding| {
        let envelope = encoding.envelope()?;
        audit.action = Some(envelope.action).filter(|a| !a.is_empty()).unwrap_or_else(fallback);
        let missing = |code, name: &str| Fault::new(code, format!("{name} is required and missing or empty"));
        if audit.action.is_empty() {
            return Err(missing(RetCode::NoAction, "Action"));
        }
        if envelope.public_key.is_empty() {
            return Err(missing(RetCode::NoPublicKey, "PublicKey"));
        }
        if envelope.signature.is_empty() {
            return Err(missing(RetCode::NoSignature, "Signature"));
        }
        let refused = || Fault::new(RetCode::BadSignature, "unknown PublicKey or wrong Signature");
        // Nothing is built for an unknown key.
        keys.owner(&envelope.public_key).ok_or_else(refused)?;
        let mut params = encoding.parameters()?;
        // The signed parameters are carried out: an action in the address counts as one of them.
        match params.get("Action") {
            None => params.set_text("Action", &audit.action),
            Some(Value::String(action)) if !action.is_empty() => audit.action = action.clone(),
            Some(_) => return Err(missing(RetCode::NoAction, "Action")),
        }
        let caller = keys.verify(&params, &envelope.public_key, &envelope.signature).ok_or_else(refused)?;
        let (outcome, done) = perform(service, caller, &audit.action, &params);
        audit = done;
        outcome
    });
    if audit.action.is_empty() {
        audit.action = fallback();
    }
    let body = match outcome {
        Ok(map) => answer(&audit.action, Ok(map)),
        Err(fault) => {
            audit.fail(&fault);
            answer(&audit.action, Err(&fault))
        }
    };
    Outgoing { body, audit }
}
