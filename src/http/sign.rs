//! Signatures: which key pair a request is from.

use crate::api::{Caller, Params};
use serde_json::Value;
use sha1::{Digest, Sha1};
use std::collections::HashMap;
use subtle::ConstantTimeEq;

/// How a JSON number that is no integer is written where it is signed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Floats {
    /// With as many digits as distinguish it, and never an exponent, as the vendor's SDKs for Go and Java do.
    Plain,
    /// As Python's `str`, and whole numbers in all digits, as the vendor's SDK for Python does.
    Python,
}

/// The signature of a request: lower-case hex SHA-1 over all parameters but `Signature`, sorted bytewise by name, each
/// as name and value, and the private key.
pub fn signature(params: &Params, private_key: &str) -> String {
    sum(params, private_key, Floats::Plain)
}

fn sum(params: &Params, private_key: &str, floats: Floats) -> String {
    let mut hash = Sha1::new();
    for (name, value) in params.iter().filter(|(name, _)| *name != "Signature") {
        hash.update(name);
        add(&mut hash, value, floats);
    }
    hash.update(private_key);
    hex(&hash.finalize())
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A list contributes its values, an object its sorted keys and values.
fn add(hash: &mut Sha1, value: &Value, floats: Floats) {
    match value {
        Value::Null => {}
        Value::String(s) => hash.update(s),
        Value::Bool(b) => hash.update(if *b { "true" } else { "false" }),
        Value::Number(n) => match n.as_f64().filter(|_| n.is_f64()) {
            Some(f) if floats == Floats::Python => hash.update(python(f)),
            Some(f) => hash.update(f.to_string()),
            None => hash.update(n.to_string()),
        },
        Value::Array(list) => list.iter().for_each(|v| add(hash, v, floats)),
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
            for (name, value) in entries {
                hash.update(name);
                add(hash, value, floats);
            }
        }
    }
}

/// A float as the vendor's SDK for Python signs it: `str(int(f))` if it is whole, else `str(f)`.
fn python(f: f64) -> String {
    if f.fract() == 0.0 {
        return format!("{:.0}", f + 0.0);
    }
    if f.abs() >= 1e-4 {
        return f.to_string();
    }
    let text = format!("{f:e}");
    let (digits, exponent) = text.split_once("e-").unwrap_or((&text, "0"));
    format!("{digits}e-{exponent:0>2}")
}

fn has_float(value: &Value) -> bool {
    match value {
        Value::Number(n) => n.is_f64(),
        Value::Array(list) => list.iter().any(has_float),
        Value::Object(map) => map.values().any(has_float),
        _ => false,
    }
}

/// Compares two texts in a time that does not tell where they differ.
pub(super) fn same(a: &str, b: &str) -> bool {
    a.as_bytes().ct_eq(b.as_bytes()).into()
}

/// Key pairs, and whose they are.
#[derive(Clone, Default)]
pub struct Keys {
    by_public: HashMap<String, (String, Caller)>,
}

impl Keys {
    /// Adds a pair. `false`: the public key is taken.
    pub fn add(&mut self, public_key: &str, private_key: &str, caller: Caller) -> bool {
        if self.by_public.contains_key(public_key) {
            return false;
        }
        self.by_public.insert(public_key.to_owned(), (private_key.to_owned(), caller));
        true
    }
    /// Returns whose signature it is; `None` for an unknown key as for a wrong signature. Nothing is computed for an unknown key.
    pub fn verify(&self, params: &Params, public_key: &str, claimed: &str) -> Option<&Caller> {
        let (private_key, caller) = self.by_public.get(public_key)?;
        let agrees = |floats| same(&sum(params, private_key, floats), claimed);
        let agrees = agrees(Floats::Plain) || (params.iter().any(|(_, v)| has_float(v)) && agrees(Floats::Python));
        agrees.then_some(caller)
    }
    /// Whose public key it is.
    pub(super) fn owner(&self, public_key: &str) -> Option<&Caller> {
        self.by_public.get(public_key).map(|k| &k.1)
    }
    /// Whose pair of keys it is.
    pub fn pair(&self, public_key: &str, private_key: &str) -> Option<&Caller> {
        let known = self.by_public.get(public_key);
        let agrees = same(known.map_or("", |k| &k.0), private_key);
        known.filter(|_| agrees).map(|k| &k.1)
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("pairs", &self.by_public.len()).finish()
    }
}
