//! Parameters as they come on the wire: names and values, in whichever encoding, read with the contract's rules.

use super::code::{Fault, RetCode};
use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::{cell::Cell, collections::BTreeMap, fmt};

/// Elements that an array may have.
pub const ARRAY_MAX: usize = 100;
/// Values that a request may have, nested ones included: this and its length bound the memory that it takes.
pub const VALUES_MAX: usize = 1024;
/// Depth of nested values.
pub const NESTING_MAX: usize = 16;

/// The parameters of one request, by name. Form values are strings; JSON values keep their types.
///
/// Arrays are `X.0`, `X.1`, … (gaps allowed, ordered by number), a JSON list `X`, or one bare `X`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Params {
    map: BTreeMap<String, Value>,
}

impl Params {
    /// Reads a query or a form. A name that occurs twice is a format fault.
    pub fn from_pairs<K: Into<String>, V: Into<String>>(
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Params, Fault> {
        let mut map = BTreeMap::new();
        for (name, value) in pairs {
            let name = name.into();
            if map.contains_key(&name) {
                return Err(twice(&name));
            }
            if map.len() == VALUES_MAX {
                return Err(Fault::new(RetCode::Format, format!("the request has more than {VALUES_MAX} values")));
            }
            map.insert(name, Value::String(value.into()));
        }
        Ok(Params { map })
    }
    /// Reads the text of a JSON object. A name that occurs twice, anything but one object, or too many values is a format fault.
    pub fn from_json(text: &[u8]) -> Result<Params, Fault> {
        serde_json::from_slice(text)
            .map_err(|e| Fault::new(RetCode::Format, format!("the body is no JSON object: {e}")))
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }
    /// The value of a name, if it is there.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.map.get(name)
    }
    /// Sets a parameter to a text.
    pub fn set_text(&mut self, name: &str, value: &str) {
        self.map.insert(name.to_owned(), Value::String(value.to_owned()));
    }
    /// By name, sorted bytewise.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.map.iter().map(|(name, value)| (name.as_str(), value))
    }
    /// Removes a parameter and returns it, if it is a string.
    pub fn take_text(&mut self, name: &str) -> Option<String> {
        match self.map.remove(name)? {
            Value::String(s) => Some(s),
            _ => None,
        }
    }

    /// The value of a parameter that is there and not empty.
    fn given(&self, name: &str) -> Option<&Value> {
        self.map.get(name).filter(|v| !matches!(v, Value::Null) && v.as_str() != Some(""))
    }
    /// Returns whether there is a value for a field of that name. Names of arrays end with `IDs`: theirs may be given by element.
    pub(super) fn holds(&self, name: &str) -> bool {
        let by_element = || {
            let prefix = format!("{name}.");
            self.map.range(prefix.clone()..).next().is_some_and(|(key, _)| key.starts_with(&prefix))
        };
        self.given(name).is_some() || (name.ends_with("IDs") && by_element())
    }
    /// Checks that all of these are present and not empty.
    pub(super) fn require(&self, names: &[&str]) -> Result<(), Fault> {
        names.iter().try_for_each(|name| self.given(name).map(|_| ()).ok_or_else(|| Fault::missing(name)))
    }
    /// A string; absent and empty are the same.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>, Fault> {
        match self.given(name) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s.clone())),
            Some(other) => Err(Fault::format(name, other, "a string")),
        }
    }
    /// An integer: decimal with an optional minus, in the range of `i64`.
    pub(super) fn int(&self, name: &str) -> Result<Option<i64>, Fault> {
        let Some(value) = self.given(name) else { return Ok(None) };
        let parsed = match value {
            Value::String(s) if s.starts_with('+') => None,
            Value::String(s) => s.parse().ok(),
            Value::Number(n) => n.as_i64().or_else(|| n.as_f64().and_then(whole)),
            _ => None,
        };
        let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        parsed.map(Some).ok_or_else(|| Fault::format(name, shown, "an integer"))
    }
    /// An array, without its empty elements; `None` if that leaves nothing.
    pub(super) fn list(&self, name: &str) -> Result<Option<Vec<String>>, Fault> {
        let mut elements: BTreeMap<u64, &Value> = BTreeMap::new();
        let prefix = format!("{name}.");
        for (key, value) in self.map.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix)) {
            let suffix = &key[prefix.len()..];
            let number = Some(suffix).filter(|s| s.bytes().all(|b| b.is_ascii_digit())).and_then(|s| s.parse().ok());
            let number = number.ok_or_else(|| Fault::format(key, suffix, "the number of an array element"))?;
            if elements.insert(number, value).is_some() {
                return Err(twice(key));
            }
        }
        let whole = match self.map.get(name) {
            None | Some(Value::Null) => &[][..],
            Some(Value::Array(list)) => list,
            Some(one) => std::slice::from_ref(one),
        };
        if !whole.is_empty() && !elements.is_empty() {
            return Err(Fault::new(RetCode::Format, format!("{name} is given both whole and by element")));
        }
        if whole.len().max(elements.len()) > ARRAY_MAX {
            return Err(Fault::new(RetCode::Format, format!("{name} has more than {ARRAY_MAX} elements")));
        }
        let mut out = Vec::new();
        for value in whole.iter().chain(elements.into_values()) {
            match value {
                Value::Null => {}
                Value::String(s) if s.is_empty() => {}
                Value::String(s) => out.push(s.clone()),
                other => return Err(Fault::format(name, other, "an array of strings")),
            }
        }
        Ok(Some(out).filter(|list| !list.is_empty()))
    }
}

fn twice(name: &str) -> Fault {
    Fault::new(RetCode::Format, format!("{:?} is given twice", super::code::shorten(name)))
}

/// Converts a float that is an integer. Beyond 2^53 the conversion would be a guess.
fn whole(f: f64) -> Option<i64> {
    (f.fract() == 0.0 && f.abs() <= (1_u64 << 53) as f64).then_some(f as i64)
}

/// The values that a JSON text may still have, and how deep the present one is.
#[derive(Clone, Copy)]
pub(crate) struct Budget<'a> {
    left: &'a Cell<usize>,
    depth: usize,
}

impl<'a> Budget<'a> {
    /// Counts a whole object, with `left` set to [`VALUES_MAX`].
    pub(crate) fn of(left: &'a Cell<usize>) -> Budget<'a> {
        Budget { left, depth: 1 }
    }
    /// Counts what is inside a value.
    pub(crate) fn inner<E: de::Error>(self) -> Result<Self, E> {
        if self.depth == NESTING_MAX {
            return Err(E::custom(format!("more than {NESTING_MAX} values inside one another")));
        }
        Ok(Budget { depth: self.depth + 1, ..self })
    }
    /// One value.
    pub(crate) fn spend<E: de::Error>(self) -> Result<(), E> {
        let left = self.left.get().checked_sub(1);
        self.left.set(left.ok_or_else(|| E::custom(format!("more than {VALUES_MAX} values")))?);
        Ok(())
    }
}

/// Builds a value, as long as values are left to build.
#[derive(Clone, Copy)]
struct Bounded<'a>(Budget<'a>);

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.0.spend()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let (inner, mut out) = (Bounded(self.0.inner()?), Vec::new());
        while let Some(value) = access.next_element_seed(inner)? {
            out.push(value);
        }
        Ok(Value::Array(out))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let (inner, mut out) = (Bounded(self.0.inner()?), Map::new());
        while let Some(name) = access.next_key::<String>()? {
            out.insert(name, access.next_value_seed(inner)?);
        }
        Ok(Value::Object(out))
    }
}

impl<'de> Deserialize<'de> for Params {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Params, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Params;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Params, A::Error> {
                let mut map = BTreeMap::new();
                let left = Cell::new(VALUES_MAX);
                while let Some(name) = access.next_key::<String>()? {
                    let value = access.next_value_seed(Bounded(Budget::of(&left)))?;
                    if map.contains_key(&name) {
                        return Err(A::Error::custom(format!("{:?} is given twice", super::code::shorten(&name))));
                    }
                    map.insert(name, value);
                }
                Ok(Params { map })
            }
        }
        deserializer.deserialize_map(Object)
    }
}
