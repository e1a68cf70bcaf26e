//! What must be known of a request before its parameters are worth building. One pass finds it, keeps nothing else, and finds everything that
//! is malformed, so that a malformed request gets the same answer whoever has the key.

use super::wire::{malformed, pairs};
use crate::api::{Budget, Fault, VALUES_MAX, shorten};
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::{
    cell::Cell,
    collections::HashSet,
    fmt,
    hash::{BuildHasher, RandomState},
};

/// Characters of a value that are kept. Whatever is longer is no action, key or signature.
const KEPT: usize = 256;

#[derive(Default, Debug)]
pub(super) struct Envelope {
    pub(super) action: String,
    pub(super) public_key: String,
    pub(super) signature: String,
}

impl Envelope {
    fn field(&mut self, name: &str) -> Option<&mut String> {
        match name {
            "Action" => Some(&mut self.action),
            "PublicKey" => Some(&mut self.public_key),
            "Signature" => Some(&mut self.signature),
            _ => None,
        }
    }
    /// Of a query or a form.
    pub(super) fn of_form(text: &[u8]) -> Result<Envelope, Fault> {
        let (mut out, mut names) = (Envelope::default(), Names::default());
        for pair in pairs(text) {
            let (name, value) = pair?;
            names.add(&name).map_err(|what| malformed(&what))?;
            if let Some(field) = out.field(&name) {
                *field = kept(&value);
            }
        }
        Ok(out)
    }
    /// Of a JSON object.
    pub(super) fn of_json(text: &[u8]) -> Result<Envelope, Fault> {
        let mut json = serde_json::Deserializer::from_slice(text);
        let out = json.deserialize_map(Object).and_then(|out| json.end().map(|()| out));
        out.map_err(|e| malformed(&format!("the body is no JSON object: {e}")))
    }
}

/// Names that were seen, by their hashes.
#[derive(Default)]
struct Names(HashSet<u64>, RandomState);

impl Names {
    fn add(&mut self, name: &str) -> Result<(), String> {
        if self.0.len() == VALUES_MAX {
            return Err(format!("more than {VALUES_MAX} parameters"));
        }
        if self.0.insert(self.1.hash_one(name)) { Ok(()) } else { Err(format!("{:?} is given twice", shorten(name))) }
    }
}

fn kept(text: &str) -> String {
    text.chars().take(KEPT).collect()
}

struct Object;

impl<'de> Visitor<'de> for Object {
    type Value = Envelope;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Envelope, A::Error> {
        let (mut out, mut names, left) = (Envelope::default(), Names::default(), Cell::new(VALUES_MAX));
        while let Some(name) = access.next_key::<String>()? {
            names.add(&name).map_err(A::Error::custom)?;
            let value = access.next_value_seed(Skim(Budget::of(&left)))?;
            if let Some(field) = out.field(&name) {
                *field = value;
            }
        }
        Ok(out)
    }
}

/// Passes over a value and counts those inside it. Returns the beginning of a text, and nothing of any other value.
#[derive(Clone, Copy)]
struct Skim<'a>(Budget<'a>);

impl<'de> DeserializeSeed<'de> for Skim<'_> {
    type Value = String;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        self.0.spend()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Skim<'_> {
    type Value = String;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_str<E>(self, value: &str) -> Result<String, E> {
        Ok(kept(value))
    }
    fn visit_unit<E>(self) -> Result<String, E> {
        Ok(String::new())
    }
    fn visit_bool<E>(self, _: bool) -> Result<String, E> {
        Ok(String::new())
    }
    fn visit_i64<E>(self, _: i64) -> Result<String, E> {
        Ok(String::new())
    }
    fn visit_u64<E>(self, _: u64) -> Result<String, E> {
        Ok(String::new())
    }
    fn visit_f64<E>(self, _: f64) -> Result<String, E> {
        Ok(String::new())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<String, A::Error> {
        let inner = Skim(self.0.inner()?);
        while access.next_element_seed(inner)?.is_some() {}
        Ok(String::new())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<String, A::Error> {
        let inner = Skim(self.0.inner()?);
        while access.next_key::<IgnoredAny>()?.is_some() {
            access.next_value_seed(inner)?;
        }
        Ok(String::new())
    }
}
