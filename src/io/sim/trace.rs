//! What happened to the disk, in order, and what the medium holds because of it.

use std::{collections::BTreeSet, sync::Arc};

use crate::io::Lane;

use super::image::{Image, PAGE, SECT};

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
    /// A sync began: it covers every event before this one.
    SyncBegin {
        /// Its number.
        id: u32,
        /// Its description.
        lane: Lane,
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

/// The medium under a page cache: what survives for sure, and what was written since and may or may not.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct Medium {
    /// Everything covered by the last completed sync.
    pub durable: Image,
    /// Changes since, oldest first, each with its number.
    pub pending: Vec<(u64, Ev)>,
    begun: Vec<(u32, u64)>,
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
            Ev::SyncBegin { id, .. } => self.begun.push((*id, self.next)),
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
        let Some(at) = self.begun.iter().position(|b| b.0 == id) else { return Vec::new() };
        let (_, covered) = self.begun.swap_remove(at);
        let split = self.pending.partition_point(|p| p.0 < covered);
        let rest = self.pending.split_off(split);
        let mut changed = Vec::new();
        // A page that was dirtied again after the sync began is still dirty as a whole: it counts as kept.
        let again: BTreeSet<u64> =
            if ok { BTreeSet::new() } else { rest.iter().flat_map(|(_, e)| pages_of(e)).collect() };
        for (_, ev) in std::mem::replace(&mut self.pending, rest) {
            changed.extend(redo(&mut self.durable, &ev, &|p| ok || kept.contains(&p) || again.contains(&p)));
        }
        changed
    }
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
