//! What happened to the disk, in order, and what the medium holds because of it.

use std::{collections::BTreeSet, ops::Range, sync::Arc};

use crate::io::Lane;

use super::image::{Image, PAGE, SECT};

/// A range of pages, by number.
pub type Pages = Range<u64>;

/// One event of a trace. Offsets and lengths of writes are whole sectors, and a write or reservation that grows the
/// file is preceded by its own [`Ev::SetLen`], since a host may keep either without the other.
#[derive(Clone, Debug)]
pub enum Ev {
    /// Bytes written.
    Write {
        /// Where, in bytes.
        off: u64,
        /// What.
        data: Arc<[u8]>,
    },
    /// The length changed.
    SetLen(u64),
    /// A range given back.
    Punch {
        /// Start in bytes.
        off: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Space promised.
    Reserve {
        /// Start in bytes.
        off: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Write-out started. Promises nothing.
    Push {
        /// Start in bytes.
        off: u64,
        /// Length in bytes.
        len: u64,
    },
    /// A sync began: it covers every event before this one, or what they did to some pages.
    SyncBegin {
        /// Its number.
        id: u32,
        /// Its description.
        lane: Lane,
        /// The pages that it covers, ascending, if not all.
        only: Option<Arc<[Pages]>>,
    },
    /// A sync returned.
    SyncEnd {
        /// Its number.
        id: u32,
        /// Whether it returned `Ok`.
        ok: bool,
        /// If it failed: the pages that reached the medium all the same. The length does: a host that cannot log
        /// one goes read-only.
        kept: Arc<BTreeSet<u64>>,
    },
    /// The harness is about to start the operation that leads to state `i`.
    Issued(u32),
    /// State `i` was acknowledged as durable.
    Acked(u32),
    /// The harness says what it is doing; the number means something to it alone.
    Phase(u32),
}

/// A trace: what the disk was and what happened to it.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct Trace {
    /// The disk before the first event, its pending window included.
    pub start: Medium,
    /// What the process saw then.
    pub live: Image,
    /// The events, oldest first.
    pub events: Vec<Ev>,
}

/// A sync that has begun.
#[derive(Clone)]
struct Begun {
    id: u32,
    /// The number of the first event that it does not cover.
    end: u64,
    only: Option<Arc<[Pages]>>,
}

/// The medium under a page cache: what survives for sure, and what was written since and may or may not.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct Medium {
    /// Everything covered by the last completed sync.
    pub durable: Image,
    /// Changes since, oldest first, each with its number.
    pub pending: Vec<(u64, Ev)>,
    begun: Vec<Begun>,
    next: u64,
}

impl Medium {
    /// A medium that holds exactly this.
    pub fn new(durable: Image) -> Medium {
        Medium { durable, ..Medium::default() }
    }

    /// Takes an event in. Returns the sectors of the durable image that changed.
    pub fn apply(&mut self, ev: &Ev) -> Vec<u64> {
        match ev {
            Ev::Write { .. } | Ev::SetLen(_) | Ev::Punch { .. } | Ev::Reserve { .. } => {
                self.pending.push((self.next, ev.clone()));
                self.next += 1;
            }
            Ev::SyncBegin { id, only, .. } => self.begun.push(Begun { id: *id, end: self.next, only: only.clone() }),
            Ev::SyncEnd { id, ok, kept } => return self.end(*id, *ok, kept),
            Ev::Push { .. } | Ev::Issued(_) | Ev::Acked(_) | Ev::Phase(_) => {}
        }
        Vec::new()
    }

    /// The pages of which a sync begun now would fail to say anything.
    pub fn dirty_pages(&self) -> BTreeSet<u64> {
        self.pending.iter().flat_map(|(_, ev)| pages_of(ev)).collect()
    }

    /// The syncs that have begun and not returned.
    pub fn syncs_under_way(&self) -> usize {
        self.begun.len()
    }

    /// The same after the death of the process: its syncs will not return.
    pub fn abandoned(&self) -> Medium {
        Medium { begun: Vec::new(), ..self.clone() }
    }

    /// The image with the whole window kept.
    pub fn latest(&self) -> Image {
        let mut image = self.durable.clone();
        for (_, ev) in &self.pending {
            redo(&mut image, ev, &|_| true);
        }
        image
    }

    fn end(&mut self, id: u32, ok: bool, kept: &BTreeSet<u64>) -> Vec<u64> {
        let Some(at) = self.begun.iter().position(|b| b.id == id) else { return Vec::new() };
        let Begun { end, only, .. } = self.begun.swap_remove(at);
        let split = self.pending.partition_point(|p| p.0 < end);
        let rest = self.pending.split_off(split);
        let (mut changed, mut uncovered) = (Vec::new(), Vec::new());
        // What a page needs to be read back is durable with it, the file's length included.
        let past_the_end = |pages: &Pages| pages.end * PAGE as u64 > self.durable.len();
        let length = only.as_ref().is_none_or(|only| only.iter().any(past_the_end));
        // A page that was dirtied again after the sync began is still dirty as a whole: it counts as kept.
        let again: BTreeSet<u64> =
            if ok { BTreeSet::new() } else { rest.iter().flat_map(|(_, e)| pages_of(e)).collect() };
        for (number, ev) in std::mem::take(&mut self.pending) {
            let covered = match &only {
                Some(pages) => {
                    let (inside, outside) = divide(ev, pages, length);
                    uncovered.extend(outside.into_iter().map(|ev| (number, ev)));
                    inside
                }
                None => vec![ev],
            };
            for ev in covered {
                changed.extend(redo(&mut self.durable, &ev, &|p| ok || kept.contains(&p) || again.contains(&p)));
            }
        }
        uncovered.extend(rest);
        self.pending = uncovered;
        changed
    }
}

/// Divides an event into what it did to `pages` and what it did elsewhere. Lengths and promises of space count as inside if `length`.
fn divide(ev: Ev, pages: &[Pages], length: bool) -> (Vec<Ev>, Vec<Ev>) {
    let (off, end) = match &ev {
        Ev::Write { off, data } => (*off, off + data.len() as u64),
        Ev::Punch { off, len } => (*off, off + len),
        _ if length => return (vec![ev], Vec::new()),
        _ => return (Vec::new(), vec![ev]),
    };
    let part = |from: u64, to: u64| {
        (from < to).then(|| match &ev {
            Ev::Write { data, .. } => {
                Ev::Write { off: from, data: data[(from - off) as usize..(to - off) as usize].into() }
            }
            _ => Ev::Punch { off: from, len: to - from },
        })
    };
    let (mut inside, mut outside, mut at) = (Vec::new(), Vec::new(), off);
    for range in pages {
        let (from, to) = (range.start * PAGE as u64, range.end * PAGE as u64);
        outside.extend(part(at, end.min(from)));
        inside.extend(part(at.max(from), end.min(to)));
        at = at.max(to);
    }
    outside.extend(part(at, end));
    (inside, outside)
}

/// Applies an event to the pages that `keep` names; returns the sectors touched.
pub(super) fn redo(image: &mut Image, ev: &Ev, keep: &dyn Fn(u64) -> bool) -> Vec<u64> {
    let mut touched = Vec::new();
    match ev {
        Ev::Write { off, data } => {
            for (i, piece) in data.chunks(SECT).enumerate() {
                let sector = off / SECT as u64 + i as u64;
                if keep(sector / (PAGE / SECT) as u64) {
                    image.write(sector * SECT as u64, piece);
                    touched.push(sector);
                }
            }
            let len = image.len();
            if off + data.len() as u64 > len {
                // The length that came with it was lost.
                image.cut(len);
            }
        }
        Ev::SetLen(len) => {
            let old = image.len();
            image.set_len(*len);
            touched.extend(len / SECT as u64..old.max(*len).div_ceil(SECT as u64));
        }
        Ev::Punch { off, len } => {
            for page in pages_of(ev).filter(|&p| keep(p)) {
                let (from, to) = ((page * PAGE as u64).max(*off), ((page + 1) * PAGE as u64).min(off + len));
                image.zero(from, to - from);
                touched.extend(from / SECT as u64..to / SECT as u64);
            }
        }
        Ev::Reserve { off, len } => image.give(*off, *len),
        _ => {}
    }
    touched
}

/// The pages that an event changes.
pub(super) fn pages_of(ev: &Ev) -> std::ops::Range<u64> {
    let (off, len) = match ev {
        Ev::Write { off, data } => (*off, data.len() as u64),
        Ev::Punch { off, len } => (*off, *len),
        _ => return 0..0,
    };
    off / PAGE as u64..(off + len).div_ceil(PAGE as u64)
}
