//! What has to be known of a request before it is worth building its parameters: found in one pass that keeps nothing else.

use super::wire::{malformed, unescape};
use crate::api::Fault;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// Characters that are kept of a value. Whatever is longer is no action, key or signature.
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
    /// Of a query or a form. What is malformed in it is found later, if the key is somebody's.
    pub(super) fn of_form(text: &[u8]) -> Envelope {
        let mut out = Envelope::default();
        for piece in text.split(|&b| b == b'&') {
            let mut halves = piece.splitn(2, |&b| b == b'=');
            let (name, value) = (halves.next().unwrap_or_default(), halves.next().unwrap_or_default());
            // Each of its bytes may stand as three.
            if name.len() > 3 * "Signature".len() {
                continue;
            }
            if let Ok(name) = unescape(name)
                && let Some(field) = out.field(&name)
                && let Ok(value) = unescape(&value[..value.len().min(12 * KEPT)])
            {
                *field = kept(&value);
            }
        }
        out
    }
    /// Of a JSON object, which is checked to be one.
    pub(super) fn of_json(text: &[u8]) -> Result<Envelope, Fault> {
        let mut json = serde_json::Deserializer::from_slice(text);
        let out = json.deserialize_map(Object).and_then(|out| json.end().map(|()| out));
        out.map_err(|e| malformed(&format!("the body is no JSON object: {e}")))
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
        let mut out = Envelope::default();
        while let Some(name) = access.next_key_seed(Text)? {
            match out.field(&name) {
                Some(field) => *field = access.next_value_seed(Text)?,
                None => drop(access.next_value::<IgnoredAny>()?),
            }
        }
        Ok(out)
    }
}

/// The beginning of a text; of anything else nothing.
struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = String;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Text {
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
        while access.next_element::<IgnoredAny>()?.is_some() {}
        Ok(String::new())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<String, A::Error> {
        while access.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(String::new())
    }
}
