//! The checker: every checksum, exact counts, no leak, no double use. It reports all findings, not only the first, and writes nothing.

use super::{Capture, capture::Tally, names};
use crate::{
    BLOCK, Error, ErrorKind, Result,
    engine::Engine,
    format::{COUNT_RETURNED, COUNT_SYSTEM, RootPointer},
    lack::{Child, Key, Miss, Shape},
    tree::{Node, Walk as TreeWalk},
    units::Block,
};
use rustc_hash::{FxHashMap, FxHashSet};
use std::fmt;

/// The kind of a finding.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[non_exhaustive]
pub enum FindingKind {
    /// A node does not verify or breaks its tree's order: what lies below is unknown.
    Node,
    /// A data block does not match its checksum.
    Data,
    /// A count page can't be read. The counts can be rebuilt from the trees.
    CountPage,
    /// A block is counted more often than it is used: space is lost, data is not.
    Leak,
    /// A block is used more often than it is counted: it could be overwritten while in use.
    Undercounted,
    /// Records of the catalog contradict each other.
    Catalog,
    /// Totals in memory differ from what was counted.
    Totals,
}

/// One finding, with its path.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Finding {
    /// The kind of problem.
    pub kind: FindingKind,
    /// Its place: whose tree, which bytes, which nodes from the root down.
    pub place: String,
    /// What was found there.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}: {}", self.kind, self.place, self.what)
    }
}

/// The result of a check.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// All findings.
    pub findings: Vec<Finding>,
    /// Number of volumes.
    pub volumes: u64,
    /// Number of snapshots.
    pub snapshots: u64,
    /// Number of nodes in all trees.
    pub nodes: u64,
    /// Number of data blocks in use.
    pub data_blocks: u64,
    /// Number of blocks that nothing uses.
    pub free_blocks: u64,
    /// Number of blocks returned to the host.
    pub returned_blocks: u64,
    /// Number of blocks that are counted and not used.
    pub leaked: u64,
}

impl Report {
    /// Returns whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}

/// The progress of long work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Progress {
    /// Blocks examined so far.
    pub done: u64,
    /// Blocks to examine.
    pub total: u64,
}

/// For the lower and the upper bound, whether it is to be examined.
type Sides = (bool, bool);

/// What a node that was read agrees with.
struct Seen {
    shape: Shape,
    child: Child,
    level: u8,
    bounds: (Key, Key),
}

impl Seen {
    fn of(Miss { shape, child, level, bounds }: Miss) -> Seen {
        Seen { shape, child, level, bounds }
    }
    /// What of another reference's expectations is still to be checked; `None` if it expects another node.
    fn lacks(&self, want: Miss) -> Option<Sides> {
        let same = (self.shape, self.child, self.level) == (want.shape, want.child, want.level);
        same.then_some((want.bounds.0 > self.bounds.0, want.bounds.1 < self.bounds.1))
    }
}

struct Walk<'a> {
    capture: &'a Capture,
    /// Parents found of each block of the regions that this pass counts.
    refs: Vec<Vec<u32>>,
    /// Nodes of these regions with several parents, each of which may expect something else of them.
    shared: FxHashMap<u64, Seen>,
    /// Nodes of other regions that were examined.
    passed: FxHashSet<u64>,
    report: Report,
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(Progress) -> bool,
}

/// Findings of one kind at one place that are listed; further ones are only counted.
const LISTED: usize = 10_000;

/// Checks everything. Counts are compared region by region, as many regions at a time as the memory budget allows; each pass walks over all
/// nodes, and proves its regions for one instant.
pub(crate) fn check(engine: &Engine, progress: &mut dyn FnMut(Progress) -> bool) -> Result<Report> {
    let (mut report, mut tally) = (Report::default(), Tally::default());
    let (mut first, mut done, mut moment) = (0, 0, None);
    let mut totals = Totals::default();
    loop {
        let (spans, span) = {
            let state = engine.view()?;
            (state.forest.space.spans(), state.forest.space.geometry().span)
        };
        let end = spans.min(first + engine.config.regions_checked(span));
        let capture = Capture::take(engine, first..end, &mut tally)?;
        let refs = vec![vec![0; span as usize]; capture.counts.len()];
        let (shared, passed) = (FxHashMap::default(), FxHashSet::default());
        let total = capture.used();
        let mut walk = Walk { capture: &capture, refs, shared, passed, report, done, total, progress };
        if first == 0 {
            for what in names::contradictions(&capture) {
                walk.finding(FindingKind::Catalog, "catalog".to_owned(), what);
            }
        }
        walk.all(&mut totals)?;
        walk.compare(&mut totals);
        (report, done) = (walk.report, walk.done);
        // Totals of several passes agree only if nothing has changed meanwhile.
        totals.unread |= moment.replace(capture.moment).is_some_and(|before| before != capture.moment);
        first = end;
        if end >= capture.spans {
            totals.compare(&capture, &mut report);
            return Ok(report);
        }
    }
}

/// Counted over all passes.
#[derive(Default)]
struct Totals {
    free: u64,
    returned: u64,
    doomed: u64,
    /// The totals prove nothing: counts could not be read, or the store has changed between two passes.
    unread: bool,
}

impl Totals {
    fn compare(&self, c: &Capture, report: &mut Report) {
        (report.free_blocks, report.returned_blocks) = (self.free, self.returned);
        if self.unread {
            return;
        }
        for (what, says, is) in [
            ("free blocks", c.free, self.free),
            ("blocks returned to the host", c.returned, self.returned),
            ("allocatable, waiting and reserved blocks", c.accounted, self.free),
            ("doomed entries", c.doomed_count, self.doomed),
        ] {
            if says != is {
                list(report, FindingKind::Totals, what.to_owned(), format!("{says} noted, {is} counted"));
            }
        }
    }
}

fn list(report: &mut Report, kind: FindingKind, place: String, what: String) {
    if report.findings.len() < LISTED {
        report.findings.push(Finding { kind, place, what });
    }
}

impl Walk<'_> {
    fn finding(&mut self, kind: FindingKind, place: String, what: String) {
        list(&mut self.report, kind, place, what);
    }

    /// Walks all trees. Damage to the catalog has been reported already.
    fn all(&mut self, totals: &mut Totals) -> Result<()> {
        let capture = self.capture;
        let mut failed = None;
        self.tree("catalog", capture.catalog, Shape::Records)?;
        let (mut volumes, mut snapshots) = (0, 0);
        let mut tree = |name: &str, root| match self.tree(name, root, Shape::Extents) {
            Err(e) => {
                failed = Some(e.clone());
                Err(e)
            }
            ok => ok,
        };
        // A listing that can't be read ends there, and the next one begins.
        let _ = capture.each_volume(|id, v| {
            volumes += 1;
            tree(&format!("volume {id} ({})", v.name), v.root)
        });
        let _ = capture.each_snapshot(|id, s| {
            snapshots += u64::from(!capture.sweeping.contains(&s.volume));
            tree(&format!("snapshot {id} ({})", s.name), s.root)
        });
        totals.doomed = 0;
        let _ = capture.each_doomed(|key, root| {
            totals.doomed += 1;
            tree(&format!("doomed entry {}", !(key as u64)), root)
        });
        (self.report.volumes, self.report.snapshots) = (volumes, snapshots);
        failed.map_or(Ok(()), Err)
    }

    /// Returns the index of a block's count, if this pass has it.
    fn place(&self, block: Block) -> Option<(usize, usize)> {
        let (region, at) = self.capture.geometry.locate(block)?;
        let regions = &self.capture.regions;
        let here = regions.contains(&region) && !self.capture.geometry.is_system(region, at);
        here.then(|| ((region - regions.start) as usize, at))
    }
    /// Returns whether findings about a block belong to this pass: its region does, or it has none and this is the first pass.
    fn is_mine(&self, block: Block) -> bool {
        self.place(block).is_some() || (self.capture.regions.start == 0 && !self.can_hold(block))
    }
    fn can_hold(&self, block: Block) -> bool {
        let geometry = &self.capture.geometry;
        geometry.locate(block).is_some_and(|(r, at)| r < self.capture.spans && !geometry.is_system(r, at))
    }

    /// Counts one more parent of a block. Returns whether it is the first, or `None` if the block is counted in another pass, or can't be.
    fn count(&mut self, block: Block, place: &str) -> Option<bool> {
        if let Some((region, at)) = self.place(block) {
            let n = &mut self.refs[region][at];
            *n = n.saturating_add(1);
            return Some(*n == 1);
        }
        if self.is_mine(block) {
            let what = format!("it refers to {block}, which can't hold anything");
            self.finding(FindingKind::Node, place.to_owned(), what);
        }
        None
    }

    /// Returns whether a block that this pass counts has a count of more than one.
    fn is_shared(&self, block: Block) -> bool {
        let Some((region, at)) = self.place(block) else { return false };
        matches!(self.capture.counts.get(region), Some(Ok(counts)) if counts[at] > 1)
    }

    fn step(&mut self) -> Result<()> {
        self.done += 1;
        if self.done.is_multiple_of(1024)
            && !(self.progress)(Progress { done: self.done.min(self.total), total: self.total })
        {
            return Err(Error::new(ErrorKind::Cancelled, "the check was cancelled"));
        }
        Ok(())
    }

    fn tree(&mut self, name: &str, root: RootPointer, shape: Shape) -> Result<()> {
        // Each node has its path from the root, and where its parent was counted before, only the bounds that are still to be examined.
        let mut walk = TreeWalk::new(root, shape, (String::new(), None));
        while let Some((want, (path, mut again))) = walk.next() {
            let block = want.child.block;
            let path = format!("{path}/{block:?}");
            let place = format!("{name}, node {path}");
            if again.is_none() && self.place(block).is_none() && self.can_hold(block) {
                // The node is counted in another pass; what it refers to may belong to this one.
                if !self.passed.insert(block.0) {
                    continue;
                }
            } else if again.is_none() {
                let Some(first) = self.count(block, &place) else { continue };
                // More parents than the count says are a finding of their own.
                if !first && !self.is_shared(block) {
                    continue;
                }
                if !first && !self.shared.contains_key(&block.0) {
                    let what = format!("{block} is used as data as well, or could not be read for another parent");
                    self.finding(FindingKind::Node, place, what);
                    continue;
                }
                self.report.nodes += u64::from(first);
            }
            let mut expected = true;
            if let Some(seen) = self.shared.get(&block.0) {
                match (seen.lacks(want), again) {
                    (Some((false, false)), _) => continue,
                    (Some(sides), None) => again = Some(sides),
                    (Some(_), Some(_)) => {}
                    // Reading the node reports what is wrong.
                    (None, _) => expected = false,
                }
            }
            self.step()?;
            let node = match self.capture.get(&want) {
                Ok(node) => node,
                Err(_) if !self.is_mine(block) => continue,
                Err(e) => {
                    let (lo, hi) = (want.bounds.0.saturating_mul(4096), want.bounds.1.saturating_mul(4096));
                    let range = if shape == Shape::Extents { format!(", bytes {lo}..{hi}") } else { String::new() };
                    self.finding(FindingKind::Node, format!("{place}{range}"), e.to_string());
                    continue;
                }
            };
            if expected && self.is_shared(block) {
                let bounds = want.bounds;
                let seen = self.shared.entry(block.0).or_insert(Seen::of(want));
                seen.bounds = (seen.bounds.0.max(bounds.0), seen.bounds.1.min(bounds.1));
            }
            match (&*node, again) {
                (Node::Inner { entries, .. }, None) => walk.enter(want, entries, &(path, None)),
                // What lies below was counted before; only the outermost children inherit a bound.
                (Node::Inner { entries, .. }, Some((low, high))) => {
                    let last = entries.len() - 1;
                    let sides =
                        if last == 0 { vec![(0, (low, high))] } else { vec![(0, (low, false)), (last, (false, high))] };
                    for (i, sides) in sides.into_iter().filter(|(_, (low, high))| *low || *high) {
                        walk.enter_child(want, entries, i, (path.clone(), Some(sides)));
                    }
                }
                (Node::Extents(leaf), None) => {
                    for e in &leaf.extents {
                        for (i, &sum) in (0..).zip(leaf.sums_of(e)) {
                            let offset = (e.logical + i) * BLOCK as u64;
                            self.data(&format!("{name}, offset {offset}"), e.physical.plus(i), sum)?;
                        }
                    }
                }
                (Node::Extents(_) | Node::Records(_), _) => {}
            }
        }
        Ok(())
    }

    fn data(&mut self, place: &str, block: Block, sum: u32) -> Result<()> {
        let Some(first) = self.count(block, place) else { return Ok(()) };
        if self.shared.contains_key(&block.0) {
            self.finding(FindingKind::Data, format!("{place}, {block}"), "the block holds a node as well".to_owned());
        }
        if first {
            self.report.data_blocks += 1;
            self.step()?;
        }
        let mut buf = [0; BLOCK];
        match self.capture.data(block, &mut buf) {
            Ok(()) if crc32fast::hash(&buf) == sum => {}
            Ok(()) => self.finding(FindingKind::Data, format!("{place}, {block}"), "checksum mismatch".to_owned()),
            Err(e) => self.finding(FindingKind::Data, format!("{place}, {block}"), e.to_string()),
        }
        Ok(())
    }

    /// Compares counts with parents.
    fn compare(&mut self, totals: &mut Totals) {
        let capture = self.capture;
        for (i, counts) in capture.counts.iter().enumerate() {
            let region = capture.regions.start + i as u64;
            let counts = match counts {
                Ok(counts) => counts,
                Err(e) => {
                    totals.unread = true;
                    self.finding(FindingKind::CountPage, format!("region {region}"), e.to_string());
                    continue;
                }
            };
            let start = capture.geometry.start(region);
            for (at, &count) in counts.iter().enumerate() {
                let (block, refs) = (start.plus(at as u64), self.refs[i][at]);
                let count = match count {
                    COUNT_SYSTEM => continue,
                    COUNT_RETURNED => {
                        totals.returned += 1;
                        0
                    }
                    n => {
                        totals.free += u64::from(n == 0);
                        n
                    }
                };
                let what = format_args!("count {count}, {refs} parents");
                if count > refs {
                    self.report.leaked += u64::from(refs == 0);
                    list(&mut self.report, FindingKind::Leak, block.to_string(), what.to_string());
                } else if count < refs {
                    list(&mut self.report, FindingKind::Undercounted, block.to_string(), what.to_string());
                }
            }
        }
    }
}
