//! The scrub: reads and verifies everything that snapshots hold while the store is in use, and marks those that are damaged.

use super::{Capture, capture::Tally};
use crate::{
    BLOCK, Error, ErrorKind, Progress, Result, SnapshotId, VolumeId,
    engine::{Ask, Engine},
    format::RootPointer,
    lack::{Miss, Shape, Stop},
    tree::{Node, Root, read_step},
    units::{BLOCK_BYTES, Target},
};
use rustc_hash::FxHashMap;
use std::rc::Rc;

/// The tag that marks a damaged snapshot in the catalog. Its value says what was found first.
pub const DAMAGED: &str = "snapdisk.damaged";

/// Blocks between two calls of the progress callback: 1 MiB.
const STEP: u64 = 256;
/// Blocks read over one view of the store. While it is held, freed space is not used again.
const VIEW: u64 = 1 << 18;

/// Snapshots looked up at a time.
const PAGE: usize = 64;

/// Damage of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Damage {
    /// The damaged snapshot.
    pub snapshot: SnapshotId,
    /// The volume that it was taken of.
    pub volume: VolumeId,
    /// The first byte that can't be read.
    pub offset: u64,
    /// What was found at that offset.
    pub what: String,
}

/// The result of a scrub.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct ScrubReport {
    /// Number of snapshots verified.
    pub snapshots: u64,
    /// Number of blocks read, of data and nodes. Nodes that snapshots share are read once, with what lies below.
    pub blocks: u64,
    /// The first damage of each damaged snapshot.
    pub damaged: Vec<Damage>,
    /// Snapshots that an earlier scrub had marked and that verify now.
    pub healed: Vec<SnapshotId>,
}

/// The first damage below a node: its offset and what was found.
type Found = Option<Rc<(u64, String)>>;

struct Walk<'a> {
    capture: Capture,
    /// What was found below each node, by its block and birth stamp, which together name a node for ever.
    known: FxHashMap<(u64, u64), Found>,
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(Progress) -> bool,
    buf: Box<[u8; BLOCK]>,
}

/// Verifies every block that a snapshot holds, and marks those that are damaged.
pub(crate) fn scrub(engine: &Engine, progress: &mut dyn FnMut(Progress) -> bool) -> Result<ScrubReport> {
    let capture = view(engine)?;
    let (last, total) = (capture.next_snapshot, capture.used());
    let buf = Box::new([0; BLOCK]);
    let mut walk = Walk { capture, known: FxHashMap::default(), done: 0, total, progress, buf };
    let mut out = ScrubReport::default();
    let (mut from, mut viewed) = (0, 0);
    loop {
        if walk.done - viewed > VIEW {
            walk.capture = view(engine)?;
            viewed = walk.done;
        }
        let page = walk.capture.catalog().snapshots(from, PAGE).map_err(Stop::into_error)?;
        for (id, record) in &page {
            from = id + 1;
            if *id >= last || walk.capture.sweeping.contains(&record.volume) {
                continue;
            }
            let (snapshot, volume) = (SnapshotId(*id), VolumeId(record.volume));
            let found = walk.tree(record.root)?;
            out.snapshots += 1;
            mark_damage(engine, snapshot, found.as_deref(), &mut out)?;
            if let Some(found) = found {
                out.damaged.push(Damage { snapshot, volume, offset: found.0, what: found.1.clone() });
            }
            if walk.done - viewed > VIEW {
                break;
            }
        }
        if page.is_empty() {
            out.blocks = walk.done;
            return Ok(out);
        }
    }
}

/// Captures the store without counts.
fn view(engine: &Engine) -> Result<Capture> {
    Capture::take(engine, 0..0, &mut Tally::default())
}

fn mark_damage(engine: &Engine, id: SnapshotId, found: Option<&(u64, String)>, out: &mut ScrubReport) -> Result<()> {
    let marked = had_mark(engine, id).and_then(|had| {
        if had != found.is_some() && engine.disk.is_writable() {
            let value = found.map(|(offset, what)| format!("offset {offset}: {what}"));
            // One tag is set, not all, since others may be set meanwhile.
            let ask = Ask::set_snapshot_tag(id.0, DAMAGED, value);
            engine.commit(&[ask], true)?;
        }
        Ok(had)
    });
    match marked {
        Ok(true) if found.is_none() => out.healed.push(id),
        // The snapshot was deleted meanwhile: nobody is misled.
        Err(e) if e.kind() != ErrorKind::Deleted => return Err(e),
        _ => {}
    }
    Ok(())
}

/// Returns whether an earlier scrub has marked the snapshot.
fn had_mark(engine: &Engine, id: SnapshotId) -> Result<bool> {
    Ok(engine.tags(Target::Snapshot(id.0))?.contains_key(DAMAGED))
}

impl Walk<'_> {
    fn tree(&mut self, root: RootPointer) -> Result<Found> {
        let root = Root::from(root);
        let Some(child) = root.node else { return Ok(None) };
        self.below(Miss { shape: Shape::Extents, child, level: root.level, bounds: (0, Shape::Extents.end()) })
    }

    /// Verifies a subtree. It recurses one level at a time, since a node of another level does not decode.
    fn below(&mut self, want: Miss) -> Result<Found> {
        let name = (want.child.block.0, want.child.stamp.0);
        if let Some(found) = self.known.get(&name) {
            return Ok(found.clone());
        }
        self.step()?;
        let node = self.capture.get(&want);
        let mut found = None;
        match node.as_deref() {
            Err(e) => {
                let offset = u64::try_from(want.bounds.0).unwrap_or(u64::MAX).saturating_mul(BLOCK_BYTES);
                found = Some(Rc::new((offset, tell(e)?)));
            }
            Ok(Node::Inner { entries, .. }) => {
                for i in 0..entries.len() {
                    let below = self.below(read_step(want, entries, i))?;
                    found = found.or(below);
                }
            }
            Ok(Node::Extents(leaf)) => {
                for e in &leaf.extents {
                    for (i, &sum) in (0..).zip(leaf.sums_of(e)) {
                        self.step()?;
                        let block = e.physical.plus(i);
                        let what = match self.capture.data(block, &mut self.buf[..]) {
                            Ok(()) if crc32fast::hash(&self.buf[..]) == sum => continue,
                            Ok(()) => "checksum mismatch".to_owned(),
                            Err(e) => tell(&e)?,
                        };
                        let offset = (e.logical + i) * BLOCK_BYTES;
                        found = found.or_else(|| Some(Rc::new((offset, format!("{block}: {what}")))));
                    }
                }
            }
            Ok(Node::Records(_)) => {}
        }
        self.known.insert(name, found.clone());
        Ok(found)
    }

    fn step(&mut self) -> Result<()> {
        self.done += 1;
        let told = Progress { done: self.done.min(self.total), total: self.total };
        if self.done.is_multiple_of(STEP) && !(self.progress)(told) {
            return Err(Error::new(ErrorKind::Cancelled, "the scrub was cancelled"));
        }
        Ok(())
    }
}

/// Returns what a failed read says of the medium. An error that says nothing of it ends the scrub.
fn tell(e: &Error) -> Result<String> {
    match e.kind() {
        ErrorKind::Corrupt | ErrorKind::Truncated | ErrorKind::Io => Ok(e.to_string()),
        _ => Err(e.clone()),
    }
}
