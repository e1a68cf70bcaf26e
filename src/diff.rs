//! Differences between two disks, as ranges in order.

use crate::{Result, engine::Differences, handle::Root, units::Target};
use std::{fmt, iter::FusedIterator};

/// What a range of the later disk is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum DiffKind {
    /// Data, to be read from the later disk.
    Data,
    /// A hole, which reads as zeros, where the earlier disk has data.
    Zero,
}

/// A range in which the later disk differs from the earlier one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct DiffRange {
    /// First byte.
    pub offset: u64,
    /// Bytes, at least one.
    pub len: u64,
    /// What the later disk has there.
    pub kind: DiffKind,
}

impl DiffRange {
    /// Whether `other` goes on where this one ends, with the same kind.
    fn continues_in(&self, other: &DiffRange) -> bool {
        self.kind == other.kind && self.offset + self.len == other.offset
    }
}

/// The ranges in which one disk differs from another, in order: see [`Store::diff`](crate::Store::diff).
///
/// It keeps the store open, and holds nothing else between two steps.
#[must_use = "nothing is looked up before a range is asked for"]
pub struct Diff {
    root: Root,
    from: Option<Target>,
    to: Target,
    /// Where the next lookup begins; `None` once there is none.
    next: Option<u64>,
    found: std::vec::IntoIter<DiffRange>,
    /// A range that what follows may still extend.
    open: Option<DiffRange>,
    /// Why the last lookup failed, to be told after `open`.
    failed: Option<crate::Error>,
}

impl Diff {
    pub(crate) fn new(root: Root, from: Option<Target>, to: Target) -> Diff {
        Diff { root, from, to, next: Some(0), found: Vec::new().into_iter(), open: None, failed: None }
    }

    /// Continues at byte `offset`, whatever was returned before: forwards or backwards, after the end or an error too. A range that lies
    /// around `offset` begins there. Costs no lookup.
    pub fn seek(&mut self, offset: u64) {
        *self = Diff { next: Some(offset), ..Diff::new(self.root.clone(), self.from, self.to) };
    }

    fn look_up(&self, start: u64) -> Result<Differences> {
        self.root.enter()?.differences(self.from, self.to, start)
    }
}

impl Iterator for Diff {
    type Item = Result<DiffRange>;
    fn next(&mut self) -> Option<Result<DiffRange>> {
        loop {
            if let Some(range) = self.found.next() {
                match &mut self.open {
                    Some(open) if open.continues_in(&range) => open.len += range.len,
                    open => {
                        if let Some(done) = open.replace(range) {
                            return Some(Ok(done));
                        }
                    }
                }
                continue;
            }
            // What lies behind a gap extends nothing.
            if self.next.is_some_and(|at| self.open.is_some_and(|open| open.offset + open.len < at)) {
                return self.open.take().map(Ok);
            }
            let Some(start) = self.next.take() else {
                return self.open.take().map(Ok).or_else(|| self.failed.take().map(Err));
            };
            match self.look_up(start) {
                Ok(Differences { ranges, next }) => {
                    let range = |(offset, len, data)| {
                        let kind = if data { DiffKind::Data } else { DiffKind::Zero };
                        DiffRange { offset, len, kind }
                    };
                    self.found = ranges.into_iter().map(range).collect::<Vec<_>>().into_iter();
                    self.next = next;
                }
                Err(e) => self.failed = Some(e),
            }
        }
    }
}

impl FusedIterator for Diff {}

impl fmt::Debug for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Diff { from, to, next, open, .. } = self;
        f.debug_struct("Diff")
            .field("from", from)
            .field("to", to)
            .field("next", next)
            .field("open", open)
            .finish_non_exhaustive()
    }
}
