//! What is asserted at each call, whatever the enumeration of crash states happens to try.
//!
//! | rule | asserted |
//! |---|---|
//! | G1 | no write, punch or truncation hits what the durable image needs |
//! | G2 | no sector is written twice in a window, a page that holds an empty group excepted |
//! | G3 | after a failed sync there is no call but reads |
//! | G4 | a superblock is written only when the durable image holds all that it names |
//! | G6 | no log page that recovery needs is written |
//! | G7 | a read-only opening changes nothing ([`ReadOnlyGuard`]) |
//! | I2 | nothing is written where the host has not given space |
//!
//! (G5, the number of syncs, is a matter of counting: see [`Counts`](super::Counts).)

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use parking_lot::Mutex;

use crate::io::{Backend, Lane};

use super::{
    SimBackend,
    image::{Image, PAGE, SECT},
    trace::Pages,
};

/// A call that changes or syncs the file, about to happen.
#[derive(Clone, Copy, Debug)]
pub enum Mutation<'a> {
    /// `write_at`, `write_vectored_at`.
    Write {
        /// Where, in bytes.
        off: u64,
        /// What.
        data: &'a [u8],
        /// Whether the host has given all of this space.
        given: bool,
    },
    /// `set_len`.
    SetLen(u64),
    /// `punch`.
    Punch {
        /// Start in bytes.
        off: u64,
        /// Length in bytes.
        len: u64,
    },
    /// `reserve`.
    Reserve {
        /// Start in bytes.
        off: u64,
        /// Length in bytes.
        len: u64,
    },
    /// `push`.
    Push {
        /// Start in bytes.
        off: u64,
        /// Length in bytes.
        len: u64,
    },
    /// `sync_data`.
    Sync(Lane),
}

/// Hears of every change before it happens.
pub trait Guard: Send {
    /// A call is about to be made; `failed`: a sync has failed before.
    fn before(&mut self, call: &Mutation<'_>, failed: bool);
    /// What is on the medium for sure changed, by a sync of this lane if any, and of these pages if not of all.
    fn durable(&mut self, image: Image, by: Option<(Lane, Option<Arc<[Pages]>>)>);
}

/// The violations that a guard has seen, shared with the test that set it.
#[derive(Clone, Default)]
pub struct Violations(Arc<Mutex<Vec<String>>>);

impl Violations {
    /// Takes them out.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock())
    }
    fn add(&self, what: String) {
        let mut all = self.0.lock();
        if all.len() < 20 {
            all.push(what);
        }
    }
}

/// Allows nothing (G7).
#[derive(Clone, Default)]
pub struct ReadOnlyGuard(pub Violations);

impl Guard for ReadOnlyGuard {
    fn before(&mut self, call: &Mutation<'_>, _: bool) {
        self.0.add(format!("G7: {}", name(call)));
    }
    fn durable(&mut self, _: Image, _: Option<(Lane, Option<Arc<[Pages]>>)>) {}
}

/// What a durable image needs in order to be read.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub struct Protected {
    /// Where the newest valid superblock is, in bytes.
    pub slot: u64,
    /// Blocks reachable from its roots, nodes and data, current homes of count pages, and blocks that a valid log
    /// record names.
    pub blocks: BTreeSet<u64>,
    /// Log pages of groups that recovery needs.
    pub log_pages: BTreeSet<u64>,
}

/// What the guard has to know about the format.
pub struct Format {
    /// Where superblocks are, in bytes.
    pub slots: [u64; 2],
    /// What an image needs; the reason if it cannot be read.
    #[allow(clippy::type_complexity)]
    pub protected: Box<dyn Fn(Arc<dyn Backend>) -> Result<Protected, String> + Send>,
    /// Whether a page is the whole of an empty group.
    pub is_empty_group: fn(&[u8]) -> bool,
}

/// Watches a store at work (G1 to G4, G6, I2).
pub struct StoreGuard {
    format: Format,
    seen: Violations,
    image: Image,
    needs: Option<Protected>,
    /// By sector: when it was written in this window, and whether that may be written over.
    window: BTreeMap<u64, (u64, bool)>,
    clock: u64,
    begun: [u64; 3],
}

impl StoreGuard {
    /// A guard that reports to `seen`.
    pub fn new(format: Format, seen: Violations) -> StoreGuard {
        let window = BTreeMap::new();
        StoreGuard { format, seen, image: Image::default(), needs: None, window, clock: 0, begun: [0; 3] }
    }

    fn hit(&mut self, what: &str, from: u64, to: u64) {
        let (image, format) = (&self.image, &self.format);
        let needs = self.needs.get_or_insert_with(|| {
            // An image that cannot be read protects nothing: it is being created, or the oracle will say so.
            (format.protected)(Arc::new(SimBackend::of(image.clone()))).unwrap_or_default()
        });
        let pages = from / PAGE as u64..to.div_ceil(PAGE as u64);
        if let Some(b) = needs.blocks.range(pages.clone()).next() {
            self.seen.add(format!("G1: {what} hits block {b}, which the durable image needs"));
        }
        if let Some(b) = needs.log_pages.range(pages.clone()).find(|&&b| !(format.is_empty_group)(image.page(b))) {
            self.seen.add(format!("G6: {what} hits log page {b}, which recovery needs"));
        }
        let [a, b] = format.slots.map(|s| image.page(s / PAGE as u64));
        // A write from inside the page goes on where a short one ended, of which the beginning may already be valid and durable. Nothing relies
        // on it before all of it is: until then the other superblock serves.
        let continues = !from.is_multiple_of(PAGE as u64) && needs.slot / PAGE as u64 == from / PAGE as u64;
        if *needs != Protected::default() && pages.contains(&(needs.slot / PAGE as u64)) && a != b && !continues {
            self.seen.add(format!("G1: {what} hits the newest superblock, of which there is no copy"));
        }
    }

    fn written(&mut self, off: u64, data: &[u8]) {
        self.clock += 1;
        for (i, page) in data.chunks(PAGE).enumerate() {
            let at = off + (i * PAGE) as u64;
            let excused = page.len() == PAGE && at.is_multiple_of(PAGE as u64) && (self.format.is_empty_group)(page);
            // Starting inside a sector it goes on where a short write ended.
            for s in at.div_ceil(SECT as u64)..(at + page.len() as u64).div_ceil(SECT as u64) {
                if let Some((_, false)) = self.window.insert(s, (self.clock, excused)) {
                    self.seen.add(format!("G2: sector {s} (block {}) written twice in a window", s / 8));
                    break;
                }
            }
        }
    }
}

impl Guard for StoreGuard {
    fn before(&mut self, call: &Mutation<'_>, failed: bool) {
        if failed {
            self.seen.add(format!("G3: {} after a failed sync", name(call)));
        }
        match *call {
            Mutation::Write { off, data, given } => {
                if !given {
                    self.seen.add(format!("I2: write at {off}, {} bytes, where nothing was given", data.len()));
                }
                self.hit("a write", off, off + data.len() as u64);
                self.written(off, data);
                if self.format.slots.contains(&off) {
                    let mut image = self.image.clone();
                    image.write(off, data);
                    if let Err(e) = (self.format.protected)(Arc::new(SimBackend::of(image))) {
                        self.seen.add(format!("G4: superblock at {off} names what is not durable: {e}"));
                    }
                }
            }
            Mutation::Punch { off, len } => self.hit("a punch", off, off + len),
            Mutation::SetLen(len) if len < self.image.len() => self.hit("a truncation", len, self.image.len()),
            Mutation::Sync(lane) => {
                self.clock += 1;
                self.begun[lane as usize] = self.clock;
            }
            Mutation::SetLen(_) | Mutation::Reserve { .. } | Mutation::Push { .. } => {}
        }
    }

    fn durable(&mut self, image: Image, by: Option<(Lane, Option<Arc<[Pages]>>)>) {
        self.image = image;
        self.needs = None;
        if let Some((lane, only)) = by {
            let begun = self.begun[lane as usize];
            let covers = |sector: u64| {
                let page = sector / (PAGE / SECT) as u64;
                only.as_ref().is_none_or(|only| only.iter().any(|pages| pages.contains(&page)))
            };
            self.window.retain(|&sector, w| w.0 > begun || !covers(sector));
        }
    }
}

fn name(call: &Mutation<'_>) -> String {
    match call {
        Mutation::Write { off, data, .. } => format!("write at {off}, {} bytes", data.len()),
        other => format!("{other:?}"),
    }
}
