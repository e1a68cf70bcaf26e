//! How pages and records are laid out (`docs/format.md`), as values that an input can change.

use super::value::{Kind, Value, num};
use snapdisk::{
    BLOCK,
    format::{HEADER, Page, PageKind},
};

const KEY: Kind = Kind::Struct(&[Kind::Num(8), Kind::Num(7), Kind::Num(1)]);
const TAGS: Kind = Kind::List(&Kind::Struct(&[Kind::Bytes, Kind::Bytes]));
const ROOT: Kind = Kind::Struct(&[Kind::Reference, Kind::Num(1)]);
const PLACED: Kind =
    Kind::Struct(&[Kind::Num(8), Kind::List(&Kind::Struct(&[Kind::Num(8), Kind::Num(4)])), Kind::List(&Kind::Num(4))]);

static EXTENT: Kind = Kind::Struct(&[Kind::Num(8), Kind::Num(6), Kind::Num(1), Kind::Num(1)]);
static SUM: Kind = Kind::Num(4);
static EXTENT_CHILD: Kind = Kind::Struct(&[Kind::Num(8), Kind::Reference]);
static RECORD_CHILD: Kind = Kind::Struct(&[KEY, Kind::Reference]);
static RECORD_KEY: Kind = KEY;
static ENTRY: Kind = Kind::Struct(&[Kind::Num(8), Kind::Num(2), Kind::Num(2), Kind::Num(1), Kind::Num(3)]);

/// Bodies of records by their kind; 0 stands for what has no body.
static RECORDS: [Kind; 8] = [
    Kind::Struct(&[]),
    Kind::List(&Kind::Enum(OPS)),
    // A volume: name, size, root, created, parent, snapshots, records of tags.
    Kind::Struct(&[
        Kind::Bytes,
        Kind::Num(8),
        ROOT,
        Kind::Num(8),
        Kind::Option(&Kind::Num(8)),
        Kind::Num(8),
        Kind::Num(2),
    ]),
    // A snapshot: name, volume, size, root, created, parent, records of tags.
    Kind::Struct(&[
        Kind::Bytes,
        Kind::Num(8),
        Kind::Num(8),
        ROOT,
        Kind::Num(8),
        Kind::Option(&Kind::Num(8)),
        Kind::Num(2),
    ]),
    TAGS,
    Kind::List(&Kind::Struct(&[Kind::Bytes, Kind::Num(8)])),
    ROOT,
    Kind::Struct(&[]),
];

/// Operations of the log, in the order of their numbers.
const OPS: &[&[Kind]] = &[
    // Write
    &[Kind::Num(8), PLACED],
    // Cut
    &[Kind::Num(8), Kind::Num(8), Kind::Num(8), Kind::List(&PLACED)],
    // CreateVolume
    &[Kind::Num(8), Kind::Bytes, Kind::Num(8), Kind::Num(8), TAGS],
    // Snapshot
    &[Kind::List(&Kind::Struct(&[Kind::Num(8), Kind::Num(8), Kind::Bytes])), Kind::Num(8), TAGS],
    // Rollback
    &[Kind::Num(8), Kind::Num(8), Kind::Num(8), Kind::Option(&PLACED)],
    // Clone
    &[Kind::Num(8), Kind::Num(8), Kind::Bytes, Kind::Num(8), TAGS],
    // DeleteVolume
    &[Kind::Num(8), Kind::Num(4)],
    // DeleteSnapshot
    &[Kind::Num(8)],
    // RenameVolume
    &[Kind::Num(8), Kind::Bytes],
    // RenameSnapshot
    &[Kind::Num(8), Kind::Bytes],
    // Resize
    &[Kind::Num(8), Kind::Num(8), Kind::Option(&PLACED)],
    // SetTags
    &[Kind::Num(1), Kind::Num(8), TAGS],
    // Data
    &[Kind::Num(8), Kind::Bytes],
];

/// The record at the start of `bytes`, and its length.
pub(crate) fn record(bytes: &[u8]) -> Option<(Value, usize)> {
    let len = u32::from_le_bytes(bytes.get(2..6)?.try_into().ok()?) as usize;
    let mut body = bytes.get(10..)?.get(..len)?;
    let of = RECORDS.get(usize::from(bytes[0]))?;
    let value = of.take(&mut body);
    let body = if body.is_empty() { value } else { Value::Struct(vec![value, Value::Raw(body.to_vec())]) };
    Some((Value::Record { kind: bytes[0], version: bytes[1], body: Box::new(body) }, len + 10))
}

fn records(items: usize, payload: &[u8]) -> Vec<Value> {
    let mut out = Vec::new();
    let mut at = 0;
    for _ in 0..items {
        let Some(head) = payload.get(at..at + 18) else { break };
        let (mut key, len) = (&head[..16], usize::from(u16::from_le_bytes([head[16], head[17]])));
        let bytes = payload.get(at + 18..at + 18 + len).unwrap_or_default();
        let value = record(bytes).filter(|r| r.1 == bytes.len()).map(|r| r.0);
        let value = value.unwrap_or_else(|| Value::Raw(bytes.to_vec()));
        out.push(Value::Struct(vec![RECORD_KEY.take(&mut key), value]));
        at += 18 + len;
    }
    out
}

/// What a page with a stamp says: kind, level, a number to add to the number of its items, the items, checksums of data.
pub(crate) fn page(page: &Page) -> Value {
    let (kind, level, items) = (page[4], page[5], usize::from(u16::from_le_bytes([page[6], page[7]])));
    let payload = &page[HEADER..];
    let list = |of: &'static Kind, width: usize| of.all(&payload[..(items * width).min(payload.len())]);
    let mut sums = Vec::new();
    let items = match kind {
        k if k == PageKind::ExtentInner as u8 => list(&EXTENT_CHILD, 24),
        k if k == PageKind::RecordInner as u8 => list(&RECORD_CHILD, 32),
        k if k == PageKind::RecordLeaf as u8 => records(items, payload),
        k if k == PageKind::Counts as u8 => list(&SUM, 4),
        k if k == PageKind::Index as u8 => list(&ENTRY, 16),
        _ => {
            let extents = list(&EXTENT, 16);
            let blocks: usize = payload.chunks(16).take(items).map(|e| usize::from(e[14])).sum();
            let rest = &payload[(items * 16).min(payload.len())..];
            sums = SUM.all(&rest[..(blocks * 4).min(rest.len())]);
            extents
        }
    };
    let list = |items| Value::List { items, prefixed: false };
    Value::Struct(vec![num(1, kind.into()), num(1, level.into()), num(2, 0), list(items), list(sums)])
}

/// The items of a page's value.
pub(crate) fn items(value: &mut Value) -> Option<&mut Vec<Value>> {
    match value.field(3)? {
        Value::List { items, .. } => Some(items),
        _ => None,
    }
}

/// Puts a value onto a page. What does not fit is cut off.
pub(crate) fn put_page(page: &mut Page, mut value: Value) {
    let mut payload = Vec::new();
    let kind = value.field(0).map_or(0, |v| v.as_u64()) as u8;
    let level = value.field(1).map_or(0, |v| v.as_u64()) as u8;
    let more = value.field(2).map_or(0, |v| v.as_u64()) as u16;
    let list = items(&mut value).map(std::mem::take).unwrap_or_default();
    for item in &list {
        match item {
            Value::Struct(fields) if kind == PageKind::RecordLeaf as u8 && fields.len() == 2 => {
                fields[0].put(&mut payload);
                let bytes = fields[1].bytes();
                payload.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
                payload.extend_from_slice(&bytes);
            }
            item => item.put(&mut payload),
        }
    }
    if let Some(sums) = value.field(4) {
        sums.put(&mut payload);
    }
    page[4] = kind;
    page[5] = level;
    page[6..8].copy_from_slice(&(list.len() as u16).wrapping_add(more).to_le_bytes());
    page[HEADER..].fill(0);
    let len = payload.len().min(BLOCK - HEADER);
    page[HEADER..HEADER + len].copy_from_slice(&payload[..len]);
}

/// The records of a group's payload.
pub(crate) fn stream(mut bytes: &[u8]) -> Value {
    let mut items = Vec::new();
    while let Some((value, len)) = record(bytes) {
        items.push(value);
        bytes = &bytes[len..];
    }
    Value::List { items, prefixed: false }
}
