//! What the threads did, and what a read, a snapshot or a crash may show of it.
//!
//! Each sector is a register, each write has a tag of its own, and times are a count of beginnings and ends. A write whose answer says "not
//! applied" is none; one whose outcome is unknown has no end.

use super::case::{Act, TAGS};

/// How an operation ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    Done,
    /// Its answer says that it was not applied.
    Refused,
    /// It may or may not have been applied.
    Unknown,
}

/// One operation. Times count beginnings and ends; events are positions in the disk's trace.
#[derive(Clone, Debug)]
pub(super) struct Did {
    pub(super) act: Act,
    pub(super) tag: u64,
    pub(super) begun: u64,
    pub(super) ended: u64,
    pub(super) from_event: usize,
    pub(super) to_event: usize,
    pub(super) end: End,
    /// What a read saw, by sector.
    pub(super) saw: Vec<u64>,
    /// The snapshot that it was about.
    pub(super) snapshot: Option<String>,
    /// The call that attached the volume whose handle it used: the tag of that.
    pub(super) lease: Option<u64>,
}

/// The operations of a run, and whether contents may come back by a rollback.
#[derive(Clone, Default)]
pub(super) struct History {
    pub(super) all: Vec<Did>,
}

/// A change of a sector.
#[derive(Clone, Copy)]
struct Change {
    tag: u64,
    begun: u64,
    ended: u64,
}

const START: Change = Change { tag: 0, begun: 0, ended: 0 };

/// What stands in a sector. `Err`: no tag.
pub(super) fn tag_of(sector: &[u8]) -> Result<u64, String> {
    let word = |c: &[u8]| c.iter().rev().fold(0u64, |a, b| a << 8 | u64::from(*b));
    let tag = word(&sector[..8]);
    if sector.chunks_exact(8).all(|c| word(c) == tag) { Ok(tag) } else { Err("a torn sector".to_owned()) }
}

impl History {
    fn rolls_back(&self) -> bool {
        self.all.iter().any(|d| d.act.rolls_back() && d.end != End::Refused)
    }

    /// The changes of a sector among operations begun before an event of the trace.
    fn changes(&self, sector: u64, before: usize) -> Vec<Change> {
        let mut out = vec![START];
        for d in self.all.iter().filter(|d| d.end != End::Refused && d.from_event <= before) {
            let (at, len, tag) = match d.act {
                Act::Write { at, len } | Act::HeldWrite { at, len } => (at, len, d.tag),
                Act::Discard { at, len } => (at, len, 0),
                Act::Tag => (TAGS, 1, d.tag),
                _ => continue,
            };
            if (at..at + len).contains(&sector) {
                let ended = if d.end == End::Unknown { u64::MAX } else { d.ended };
                out.push(Change { tag, begun: d.begun, ended });
            }
        }
        out
    }

    /// The times between which a sector may have held `tag`, of a look that took place in `from..=to`.
    fn interval(&self, sector: u64, tag: u64, from: u64, to: u64, before: usize) -> Result<(u64, u64), String> {
        let changes = self.changes(sector, before);
        let mut found: Option<(u64, u64)> = None;
        for c in changes.iter().filter(|c| c.tag == tag && c.begun <= to) {
            let next = changes.iter().filter(|n| n.begun > c.ended).map(|n| n.ended).min().unwrap_or(u64::MAX);
            if next >= from || self.rolls_back() {
                let (a, b) = found.unwrap_or((u64::MAX, 0));
                found = Some((a.min(c.begun), b.max(next)));
            }
        }
        found.ok_or_else(|| {
            let known = changes.iter().any(|c| c.tag == tag);
            let why =
                if known { "which is older than what had been done, or newer" } else { "which was never written" };
            format!("sector {sector} shows {tag}, {why} (looked at in {from}..{to})")
        })
    }

    /// Every read by itself, and all reads of a sector together.
    pub(super) fn reads_are_linear(&self) -> Result<(), String> {
        for d in self.all.iter().filter(|d| d.end == End::Done) {
            let Some((at, _)) = d.act.looks_at() else { continue };
            for (sector, tag) in (at..).zip(&d.saw) {
                self.interval(sector, *tag, d.begun, d.ended, usize::MAX).map_err(|e| format!("a read: {e}"))?;
            }
        }
        if self.rolls_back() {
            return Ok(());
        }
        (0..=TAGS).try_for_each(|sector| self.zones(sector))
    }

    /// Gibbons and Korach: the zone of a value lies between the first end and the last beginning of the operations on it. Two that
    /// run forwards must not overlap, one that runs backwards must not lie within one that runs forwards.
    fn zones(&self, sector: u64) -> Result<(), String> {
        let changes = self.changes(sector, usize::MAX);
        // Zeros that come from several places are no value of one register.
        let unique = |tag: u64| changes.iter().filter(|c| c.tag == tag).count() == 1;
        let mut zones: Vec<(u64, u64, u64)> = Vec::new();
        for c in changes.iter().filter(|c| unique(c.tag)) {
            let (mut first_end, mut last_begin) = (c.ended, c.begun);
            for d in self.all.iter().filter(|d| d.end == End::Done) {
                let Some((at, len)) = d.act.looks_at() else { continue };
                if (at..at + len).contains(&sector) && d.saw[(sector - at) as usize] == c.tag {
                    (first_end, last_begin) = (first_end.min(d.ended), last_begin.max(d.begun));
                }
            }
            zones.push((first_end, last_begin, c.tag));
        }
        for (i, &(f, s, tag)) in zones.iter().enumerate() {
            if f >= s {
                continue;
            }
            for (j, &(f2, s2, other)) in zones.iter().enumerate() {
                let overlap = if f2 < s2 { j > i && f < s2 && f2 < s } else { i != j && f < s2 && f2 < s };
                if overlap {
                    return Err(format!("sector {sector}: reads of {tag} and of {other} have no order"));
                }
            }
        }
        Ok(())
    }

    /// Whether contents, by sector, are those of one moment in `from..=to`, of operations begun before an event of the trace.
    pub(super) fn is_a_cut(&self, saw: &[u64], from: u64, to: u64, before: usize) -> Result<(), String> {
        let (mut lowest, mut highest) = ((from, usize::MAX), (to, usize::MAX));
        for (sector, tag) in saw.iter().enumerate() {
            let (a, b) = self.interval(sector as u64, *tag, from, to, before)?;
            lowest = lowest.max((a, sector));
            highest = highest.min((b, sector));
        }
        if self.rolls_back() {
            return Ok(());
        }
        if lowest.0 > highest.0 {
            let (a, b) = (lowest.1, highest.1);
            return Err(format!(
                "sector {a} shows {}, sector {b} still {:?}: no moment shows both",
                saw[a],
                saw.get(b)
            ));
        }
        for d in &self.all {
            let Some((at, len)) = d.act.writes() else { continue };
            if !(at..at + len).any(|s| saw[s as usize] == d.tag) {
                continue;
            }
            for s in at..at + len {
                let shown = self.changes(s, before).into_iter().filter(|c| c.tag == saw[s as usize]);
                if shown.map(|c| c.ended).max().is_some_and(|ended| ended < d.begun) {
                    return Err(format!("write {} shows in part: sector {s} shows {}", d.tag, saw[s as usize]));
                }
            }
        }
        Ok(())
    }

    /// When the last operation began that had returned before an event of the trace and makes what returned before it durable.
    pub(super) fn durable(&self, event: usize) -> u64 {
        let syncs = |d: &&Did| {
            use Act::{Checkpoint, Clone, Close, Delete, Flush, ForceRollback, Rollback, Snapshot, Tag, WaitReclaimed};
            d.end == End::Done
                && d.to_event <= event
                && matches!(
                    d.act,
                    Flush
                        | Checkpoint
                        | Snapshot
                        | Delete
                        | Rollback
                        | ForceRollback
                        | Clone
                        | Close
                        | WaitReclaimed
                        | Tag
                )
        };
        self.all.iter().filter(syncs).map(|d| d.begun).max().unwrap_or(0)
    }

    /// Whether there must be, may be, must not be a snapshot of this name after a crash at an event.
    pub(super) fn existence(&self, name: &str, event: usize) -> (bool, bool) {
        let of = |act: Act| self.all.iter().filter(move |d| d.act == act && d.snapshot.as_deref() == Some(name));
        let made = of(Act::Snapshot).next();
        let begun = |d: &&Did| d.end != End::Refused && d.from_event <= event;
        let sure = |d: &&Did| d.end == End::Done && d.to_event <= event;
        let must = made.is_some_and(|d| sure(&d)) && !of(Act::Delete).any(|d| begun(&d));
        let may = made.is_some_and(|d| begun(&d)) && !of(Act::Delete).any(|d| sure(&d));
        (must, may)
    }

    /// The call that took a snapshot.
    pub(super) fn taken(&self, name: &str) -> Option<&Did> {
        self.all.iter().find(|d| d.act == Act::Snapshot && d.snapshot.as_deref() == Some(name))
    }
}

impl History {
    fn ended(&self, act: Act) -> impl Iterator<Item = &Did> {
        self.all.iter().filter(move |d| d.act == act && d.end == End::Done)
    }

    /// What attached handles answered. `last`: what the volume holds once everything has returned, by sector.
    pub(super) fn leases_hold(&self, last: Option<&[u64]>) -> Result<(), String> {
        for lease in self.ended(Act::Attach) {
            let release = self.ended(Act::Detach).filter(|d| d.lease == Some(lease.tag)).map(|d| d.begun).min();
            let within = |d: &&Did| lease.ended < d.begun && release.is_none_or(|begun| d.ended < begun);
            let mut others = self.ended(Act::Attach).chain(self.ended(Act::Rollback));
            if let Some(other) = others.find(within) {
                return Err(format!("{} succeeded while the volume was attached by {}", other.act, lease.tag));
            }
            for forced in self.ended(Act::ForceRollback).filter(|d| lease.ended < d.begun) {
                self.is_fenced(lease, forced, last)?;
            }
        }
        Ok(())
    }

    /// After a rollback by force the holder's writes are refused, those that began before it included, until it acknowledges.
    fn is_fenced(&self, lease: &Did, forced: &Did, last: Option<&[u64]>) -> Result<(), String> {
        let ours = |d: &&Did| d.lease == Some(lease.tag) && d.end == End::Done;
        for write in self.all.iter().filter(ours) {
            let Some((at, len)) = write.act.writes() else { continue };
            let knew =
                self.ended(Act::Acknowledge).filter(ours).any(|d| forced.begun < d.ended && d.begun < write.ended);
            if knew {
                continue;
            }
            if forced.ended < write.begun {
                return Err(format!("write {} after a rollback that its holder did not acknowledge", write.tag));
            }
            let restored = |d: &&Did| d.act.rolls_back() && d.end != End::Refused;
            let holds =
                |d: &Did| d.snapshot.as_deref().and_then(|s| self.taken(s)).is_none_or(|s| s.ended > write.begun);
            let shows = last.is_some_and(|last| (at..at + len).any(|s| last[s as usize] == write.tag));
            if shows && !self.all.iter().filter(restored).any(holds) {
                return Err(format!("write {} was applied to what a rollback by force restored", write.tag));
            }
        }
        Ok(())
    }
}

fn did(act: Act, tag: u64, begun: u64, ended: u64, saw: &[u64]) -> Did {
    let (end, snapshot) = (End::Done, None);
    let (from_event, to_event) = (begun as usize, ended as usize);
    Did { act, tag, begun, ended, from_event, to_event, end, saw: saw.to_vec(), snapshot, lease: None }
}

/// Histories that the checks must refuse, and what they let through.
#[test]
fn checks_of_histories_can_fail() {
    let write = |tag, begun, ended| did(Act::Write { at: 0, len: 2 }, tag, begun, ended, &[]);
    let read = |tag, begun, ended| did(Act::Read { at: 0, len: 1 }, 0, begun, ended, &[tag]);
    let linear = |all: &[Did]| History { all: all.to_vec() }.reads_are_linear().is_ok();
    assert!(linear(&[write(1, 1, 2), read(1, 3, 4)]));
    assert!(linear(&[write(1, 1, 9), read(0, 2, 3), read(1, 4, 5)]));
    assert!(!linear(&[write(1, 1, 2), read(0, 3, 4)]), "stale");
    assert!(!linear(&[write(1, 5, 6), read(1, 3, 4)]), "from the future");
    assert!(!linear(&[read(7, 3, 4)]), "never written");
    assert!(!linear(&[write(1, 1, 9), read(1, 2, 3), read(0, 4, 5)]), "back in time");
    assert!(!linear(&[write(1, 1, 9), write(2, 1, 9), read(1, 10, 11), read(2, 12, 13)]), "two orders");
    let mut refused = write(1, 1, 2);
    refused.end = End::Refused;
    assert!(!linear(&[refused, read(1, 3, 4)]), "refused, and there");
    let tagged = |tag, begun, ended| did(Act::Tag, tag, begun, ended, &[]);
    let tags = |tag, begun, ended| did(Act::ReadTags, 0, begun, ended, &[tag]);
    assert!(linear(&[tagged(1, 1, 2), tags(1, 3, 4)]) && !linear(&[tagged(1, 1, 2), tags(0, 3, 4)]), "stale tags");
    assert!(!linear(&[tagged(1, 1, 9), tags(1, 2, 3), tags(0, 4, 5)]), "tags back in time");
    let mut saw = vec![0; TAGS as usize];
    let all = vec![write(1, 1, 2), did(Act::Write { at: 4, len: 1 }, 2, 3, 4, &[])];
    let history = History { all };
    let cut = |saw: &[u64], from| history.is_a_cut(saw, from, 9, usize::MAX).is_ok();
    assert!(cut(&saw, 0) && !cut(&saw, 3));
    saw[0] = 1;
    assert!(!cut(&saw, 0), "torn");
    saw[1] = 1;
    assert!(cut(&saw, 0) && cut(&saw, 3) && !cut(&saw, 5));
    saw[4] = 2;
    assert!(cut(&saw, 5));
    (saw[0], saw[1]) = (0, 0);
    assert!(!cut(&saw, 0), "the second without the first");
}

/// Histories of attached volumes that the checks must refuse, and what they let through.
#[test]
fn checks_of_leases_can_fail() {
    let held = |act, tag, begun, ended| Did { lease: Some(1), ..did(act, tag, begun, ended, &[]) };
    let write = |begun, ended| held(Act::HeldWrite { at: 0, len: 1 }, 7, begun, ended);
    let attach = |tag, begun, ended| did(Act::Attach, tag, begun, ended, &[]);
    let forced = |begun, ended| Did { snapshot: Some("s".to_owned()), ..did(Act::ForceRollback, 9, begun, ended, &[]) };
    let snapshot = |begun, ended| Did { snapshot: Some("s".to_owned()), ..did(Act::Snapshot, 8, begun, ended, &[]) };
    let hold = |all: &[Did], shows: u64| History { all: all.to_vec() }.leases_hold(Some(&[shows])).is_ok();
    assert!(!hold(&[attach(1, 1, 2), attach(2, 3, 4)], 0), "attached twice");
    assert!(hold(&[attach(1, 1, 2), held(Act::Detach, 2, 3, 6), attach(3, 4, 5)], 0));
    assert!(!hold(&[attach(1, 1, 2), did(Act::Rollback, 2, 3, 4, &[])], 0), "rolled back under its holder");
    let before = [snapshot(1, 2), attach(1, 3, 4), forced(5, 7)];
    let with = |more: &[Did]| [&before[..], more].concat();
    assert!(!hold(&with(&[write(8, 9)]), 0), "not acknowledged");
    assert!(hold(&with(&[held(Act::Acknowledge, 2, 8, 9), write(10, 11)]), 7));
    assert!(hold(&with(&[write(6, 8)]), 0) && !hold(&with(&[write(6, 8)]), 7), "begun before");
    let inside = [attach(1, 1, 2), write(3, 4), snapshot(5, 6), forced(7, 8)];
    assert!(hold(&inside, 7), "the snapshot has it");
}
