//! `diff`: where one disk differs from another.

use crate::{
    args::{Base, Target},
    failure::{Failure, Outcome},
    image::{self, Source},
    session::{Console, Session},
    text::bytes,
};
use snapdisk::{DiffBase, DiffKind, DiskRef, Store};
use std::fmt::Write;

/// Bytes of text that are printed at once. A list is as long as what has changed, and is not kept.
const BATCH: usize = 64 << 10;

impl<'a> From<&'a Source> for DiskRef<'a> {
    fn from(source: &'a Source) -> Self {
        match source {
            Source::Volume(volume) => volume.into(),
            Source::Snapshot(snapshot) => snapshot.into(),
        }
    }
}

/// Compares `second` with `first`, or `first` with nothing if it stands alone.
pub(crate) fn run(session: &mut Session<'_>, first: Base, second: Option<Target>, as_json: bool) -> Outcome {
    let (from, to) = match (first, second) {
        (Base(from), Some(to)) => (from, to),
        (Base(Some(to)), None) => (None, to),
        (Base(None), None) => return Err(Failure::usage("a volume or a snapshot is to be compared with nothing")),
    };
    session.reading(|store, console| {
        let from = from.map(|from| image::source(store, &from)).transpose()?;
        let to = image::source(store, &to)?;
        print(store, console, from.as_ref(), &to, as_json)
    })
}

fn print(store: &Store, console: &mut dyn Console, from: Option<&Source>, to: &Source, as_json: bool) -> Outcome {
    let base = from.map_or(DiffBase::NOTHING, |from| DiskRef::from(from).into());
    let mut out = if as_json { "{\n  \"ranges\": [" } else { "" }.to_owned();
    let (mut data, mut zero, mut first) = (0u64, 0u64, true);
    for range in store.diff(base, to)? {
        let range = range?;
        let (kind, sum) = match range.kind {
            DiffKind::Data => ("data", &mut data),
            _ => ("zero", &mut zero),
        };
        *sum += range.len;
        let _ = match as_json {
            true => {
                let comma = if first { "" } else { "," };
                let (offset, len) = (range.offset, range.len);
                write!(out, "{comma}\n    {{\"offset\": {offset}, \"len\": {len}, \"kind\": \"{kind}\"}}")
            }
            false => {
                if first {
                    out += "         OFFSET           BYTES  KIND\n";
                }
                writeln!(out, "{:>15} {:>15}  {kind}", range.offset, range.len)
            }
        };
        first = false;
        if out.len() >= BATCH {
            console.check()?;
            console.emit(&out)?;
            out.clear();
        }
    }
    let _ = match as_json {
        true => {
            let end = if first { "]" } else { "\n  ]" };
            writeln!(out, "{end},\n  \"data_bytes\": {data},\n  \"zero_bytes\": {zero}\n}}")
        }
        false if first => writeln!(out, "no difference"),
        false => writeln!(out, "{} of data, {} of zeros", bytes(data), bytes(zero)),
    };
    console.emit(&out)
}
