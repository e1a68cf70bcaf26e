//! What stands on a page or in a record, decoded loosely: any bytes give a value, every value gives bytes, and an input changes any part of it.

use super::{Input, reseal::seal_record};

/// How bytes are laid out.
pub(crate) enum Kind {
    /// A little-endian number of so many bytes.
    Num(u8),
    /// A length of 8 bytes and as many bytes.
    Bytes,
    /// A length of 8 bytes and as many items.
    List(&'static Kind),
    Struct(&'static [Kind]),
    Option(&'static Kind),
    /// An index of 4 bytes and the fields of that variant.
    Enum(&'static [&'static [Kind]]),
    /// Block and stamp of a node.
    Reference,
}

/// A decoded value.
#[derive(Clone)]
pub(crate) enum Value {
    Num {
        width: u8,
        n: u128,
    },
    Bytes(Vec<u8>),
    /// `prefixed`: its length stands before it.
    List {
        items: Vec<Value>,
        prefixed: bool,
    },
    Struct(Vec<Value>),
    Option {
        some: bool,
        value: Box<Value>,
    },
    /// The fields of all variants, so that one may become another.
    Enum {
        variant: u32,
        fields: Vec<Value>,
        of: &'static [&'static [Kind]],
    },
    Reference {
        block: u64,
        stamp: u64,
    },
    /// Kind and version of an envelope, and its body.
    Record {
        kind: u8,
        version: u8,
        body: Box<Value>,
    },
    /// What could not be taken apart.
    Raw(Vec<u8>),
}

/// Numbers and names that changes may take from elsewhere in the image.
pub(crate) struct Pool {
    pub(crate) numbers: Vec<u64>,
    pub(crate) references: Vec<(u64, u64)>,
}

const NAMES: [&str; 8] = ["a", "b", "one", "fuzzed", "new", "", "-", "a/b"];
/// Items that a list is read with.
const MOST: usize = 4096;
/// Bytes, about, from which on a value grows no more.
const LARGE: usize = 1 << 18;

pub(crate) fn num(width: u8, n: u64) -> Value {
    Value::Num { width, n: n.into() }
}

fn number(bytes: &[u8]) -> u128 {
    bytes.iter().rev().fold(0, |n, &b| n << 8 | u128::from(b))
}

impl Kind {
    /// Takes a value off the front of `bytes`; what is lacking is zeros.
    pub(crate) fn take(&'static self, bytes: &mut &[u8]) -> Value {
        let mut part = |n: usize| {
            let (head, rest) = bytes.split_at(n.min(bytes.len()));
            *bytes = rest;
            head
        };
        match self {
            Kind::Num(width) => Value::Num { width: *width, n: number(part((*width).into())) },
            Kind::Bytes => {
                let len = number(part(8)).min(MOST as u128) as usize;
                Value::Bytes(part(len).to_vec())
            }
            Kind::List(of) => {
                let len = number(part(8)).min(MOST as u128);
                let mut items = Vec::new();
                while (items.len() as u128) < len && !bytes.is_empty() {
                    items.push(of.take(bytes));
                }
                Value::List { items, prefixed: true }
            }
            Kind::Struct(fields) => Value::Struct(fields.iter().map(|f| f.take(bytes)).collect()),
            Kind::Option(of) => {
                let some = part(1).first().is_some_and(|&b| b != 0);
                let mut none: &[u8] = &[];
                Value::Option { some, value: Box::new(if some { of.take(bytes) } else { of.take(&mut none) }) }
            }
            Kind::Enum(of) => {
                let variant = number(part(4)) as u32;
                let fields = of.get(variant as usize).copied().unwrap_or_default();
                Value::Enum { variant, fields: fields.iter().map(|f| f.take(bytes)).collect(), of }
            }
            Kind::Reference => Value::Reference { block: number(part(8)) as u64, stamp: number(part(8)) as u64 },
        }
    }
    /// Items of this kind until there are no bytes any more.
    pub(crate) fn all(&'static self, mut bytes: &[u8]) -> Vec<Value> {
        let mut out = Vec::new();
        while !bytes.is_empty() {
            out.push(self.take(&mut bytes));
        }
        out
    }
}

impl Value {
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        match self {
            Value::Num { width, n } => out.extend_from_slice(&n.to_le_bytes()[..usize::from(*width)]),
            Value::Bytes(bytes) => {
                out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
                out.extend_from_slice(bytes);
            }
            Value::Raw(bytes) => out.extend_from_slice(bytes),
            Value::List { items, prefixed } => {
                if *prefixed {
                    out.extend_from_slice(&(items.len() as u64).to_le_bytes());
                }
                items.iter().for_each(|v| v.put(out));
            }
            Value::Struct(fields) => fields.iter().for_each(|v| v.put(out)),
            Value::Option { some, value } => {
                out.push((*some).into());
                if *some {
                    value.put(out);
                }
            }
            Value::Enum { variant, fields, .. } => {
                out.extend_from_slice(&variant.to_le_bytes());
                fields.iter().for_each(|v| v.put(out));
            }
            Value::Reference { block, stamp } => {
                out.extend_from_slice(&block.to_le_bytes());
                out.extend_from_slice(&stamp.to_le_bytes());
            }
            Value::Record { kind, version, body } => {
                let start = out.len();
                out.extend_from_slice(&[*kind, *version, 0, 0, 0, 0, 0, 0, 0, 0]);
                body.put(out);
                seal_record(&mut out[start..]);
            }
        }
    }
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.put(&mut out);
        out
    }

    fn children(&mut self) -> &mut [Value] {
        match self {
            Value::List { items, .. } => items,
            Value::Struct(fields) | Value::Enum { fields, .. } => fields,
            Value::Option { some: true, value } | Value::Record { body: value, .. } => {
                std::slice::from_mut(&mut **value)
            }
            _ => &mut [],
        }
    }
    pub(crate) fn field(&mut self, i: usize) -> Option<&mut Value> {
        self.children().get_mut(i)
    }
    /// Parts, itself counted; long lists have many.
    fn parts(&mut self) -> usize {
        1 + self.children().iter_mut().map(Value::parts).sum::<usize>()
    }
    /// About what it takes.
    fn weight(&mut self) -> usize {
        let own = match self {
            Value::Bytes(bytes) | Value::Raw(bytes) => bytes.len(),
            _ => 8,
        };
        own + self.children().iter_mut().map(Value::weight).sum::<usize>()
    }
    fn nth(&mut self, n: &mut usize) -> Option<&mut Value> {
        if *n == 0 {
            return Some(self);
        }
        *n -= 1;
        self.children().iter_mut().find_map(|c| c.nth(n))
    }
    pub(crate) fn as_u64(&self) -> u64 {
        match self {
            Value::Num { n, .. } => *n as u64,
            _ => 0,
        }
    }

    /// Changes one part as the input says.
    pub(crate) fn mutate(&mut self, input: &mut Input<'_>, pool: &Pool) {
        let mut at = input.u16() % self.parts();
        let how = input.u8();
        let grows = self.weight() < LARGE;
        // Something that stands elsewhere in the same value.
        let donor = if how & 0x80 == 0 {
            None
        } else {
            let mut from = input.u16() % self.parts();
            self.nth(&mut from).cloned()
        };
        let Some(part) = self.nth(&mut at) else { return };
        match part {
            Value::Num { width, n } => {
                let bits = u32::from(*width) * 8;
                *n = match how & 7 {
                    0 | 1 => n.wrapping_add_signed((input.u8() as i8).into()),
                    2 => input.u64().into(),
                    3 => u128::from(pool.number(input.u8())) << (bits.saturating_sub(64)),
                    4 => *n ^ 1 << (u32::from(input.u8()) % bits.max(1)),
                    5 => input.u8().into(),
                    _ => donor.map_or_else(|| pool.number(input.u8()).into(), |d| d.as_u64().into()),
                };
            }
            Value::Bytes(bytes) | Value::Raw(bytes) => match how & 7 {
                0 => *bytes = NAMES[usize::from(input.u8()) % NAMES.len()].as_bytes().to_vec(),
                1 => bytes.truncate(input.u8().into()),
                2 => bytes.resize(input.u16() % 5000, b'x'),
                3 => bytes.extend_from_slice(&input.bytes::<4>()),
                4 if grows => bytes.extend_from_within(..),
                _ => {
                    let (i, value) = (input.u16(), input.u8());
                    if let Some(n) = bytes.len().checked_sub(1) {
                        bytes[i % (n + 1)] ^= value;
                    }
                }
            },
            Value::List { items, .. } => {
                let (i, j) = (input.u8().into(), input.u8().into());
                let len = items.len().max(1);
                let (i, j): (usize, usize) = (i, j);
                match how & 7 {
                    _ if items.is_empty() => items.extend(donor),
                    0 => drop(items.remove(i % len)),
                    1 if grows => items.insert(j % (len + 1), items[i % len].clone()),
                    2 => items.swap(i % len, j % len),
                    3 => items.truncate(i % (len + 1)),
                    4 if grows => items.extend_from_within(..),
                    5 => items.reverse(),
                    _ => items[i % len] = donor.unwrap_or_else(|| items[j % len].clone()),
                }
            }
            // All items of a page side by side are worth less than what is in them: a field is chosen once more.
            Value::Struct(fields) => {
                let n = fields.len();
                if let Some(field) = fields.get_mut(usize::from(input.u8()) % n.max(1)) {
                    field.mutate(input, pool);
                }
            }
            Value::Option { some, .. } => *some = !*some,
            Value::Enum { variant, fields, of } => {
                *variant = u32::from(input.u8()) % (of.len() as u32 + 1);
                // What the new variant's fields say comes from the old one's, as far as the layouts agree.
                let old = Value::Struct(std::mem::take(fields)).bytes();
                let mut bytes = &old[..];
                let kinds = of.get(*variant as usize).copied().unwrap_or_default();
                *fields = kinds.iter().map(|k| k.take(&mut bytes)).collect();
            }
            Value::Reference { block, stamp } => match (how & 7, donor) {
                (0, _) => *block = block.wrapping_add_signed((input.u8() as i8).into()),
                (1, _) => *stamp = stamp.wrapping_add_signed((input.u8() as i8).into()),
                (2, _) => *block = pool.number(input.u8()),
                (3, _) => (*block, *stamp) = (0, 0),
                (_, Some(Value::Reference { block: b, stamp: s })) => (*block, *stamp) = (b, s),
                _ if pool.references.is_empty() => {}
                _ => (*block, *stamp) = pool.references[usize::from(input.u8()) % pool.references.len()],
            },
            Value::Record { kind, version, body } => match how & 7 {
                0 => *kind = kind.wrapping_add_signed(input.u8() as i8),
                1 => *version = input.u8(),
                2 => **body = Value::Raw(Vec::new()),
                3 => **body = Value::Raw(vec![input.u8(); input.u8().into()]),
                _ => body.mutate(input, pool),
            },
        }
    }
}

impl Pool {
    fn number(&self, i: u8) -> u64 {
        self.numbers[usize::from(i) % self.numbers.len()]
    }
}
