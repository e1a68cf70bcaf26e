//! Typed requests from parameters: serde's data model over [`Params`], with the contract's rules for each kind of value.

use super::{code::Fault, params::Params};
use serde::{
    Deserialize,
    de::{
        self, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, Visitor,
        value::{SeqDeserializer, StrDeserializer, StringDeserializer},
    },
    forward_to_deserialize_any,
};
use std::fmt;

/// Reads the request. The presence of required parameters was checked before.
pub(super) fn read<'de, T: Deserialize<'de>>(params: &'de Params) -> Result<T, Fault> {
    T::deserialize(Whole(params)).map_err(|e| e.0)
}

#[derive(Debug)]
struct Unreadable(Fault);

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Unreadable {}

impl de::Error for Unreadable {
    fn custom<T: fmt::Display>(message: T) -> Unreadable {
        Unreadable(Fault::new(super::RetCode::Format, message.to_string()))
    }
    fn missing_field(field: &'static str) -> Unreadable {
        Unreadable(Fault::missing(field))
    }
}

/// All parameters, as a structure with a field for each that is given.
struct Whole<'de>(&'de Params);

impl<'de> Deserializer<'de> for Whole<'de> {
    type Error = Unreadable;
    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Unreadable> {
        Err(de::Error::custom("parameters are a structure"))
    }
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unreadable> {
        visitor.visit_map(Fields { params: self.0, names: fields.iter(), next: "" })
    }
    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

struct Fields<'de> {
    params: &'de Params,
    names: std::slice::Iter<'static, &'static str>,
    next: &'static str,
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = Unreadable;
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Unreadable> {
        let params = self.params;
        let Some(&name) = self.names.find(|name| params.holds(name)) else { return Ok(None) };
        self.next = name;
        seed.deserialize(StrDeserializer::new(name)).map(Some)
    }
    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Unreadable> {
        seed.deserialize(One { params: self.params, name: self.next })
    }
}

/// One parameter that is given.
struct One<'de> {
    params: &'de Params,
    name: &'static str,
}

impl One<'_> {
    fn text(&self) -> Result<String, Unreadable> {
        self.params.text(self.name).map(Option::unwrap_or_default).map_err(Unreadable)
    }
    fn int(&self) -> Result<i64, Unreadable> {
        self.params.int(self.name).and_then(|n| n.ok_or_else(|| Fault::missing(self.name))).map_err(Unreadable)
    }
}

impl<'de> Deserializer<'de> for One<'de> {
    type Error = Unreadable;
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unreadable> {
        visitor.visit_string(self.text()?)
    }
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unreadable> {
        visitor.visit_some(self)
    }
    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unreadable> {
        visitor.visit_i64(self.int()?)
    }
    /// An array without its empty elements; a filter without elements counts as absent.
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unreadable> {
        let list = self.params.list(self.name).map_err(Unreadable)?.unwrap_or_default();
        visitor.visit_seq(SeqDeserializer::new(list.into_iter()))
    }
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unreadable> {
        let text = self.text()?;
        if !variants.contains(&&*text) {
            return Err(Unreadable(Fault::format(self.name, text, &variants.join(" or "))));
        }
        let text: StringDeserializer<Unreadable> = text.into_deserializer();
        visitor.visit_enum(text)
    }
    forward_to_deserialize_any! {
        bool i8 i16 i32 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf unit unit_struct newtype_struct
        tuple tuple_struct map struct identifier ignored_any
    }
}
