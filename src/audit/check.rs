//! The checker: every checksum, exact counts, no leak, no double use; all findings, not the first. It writes nothing.

use super::Capture;
use crate::{
    BLOCK, Error, ErrorKind, Result,
    engine::Engine,
    format::{COUNT_RETURNED, COUNT_SYSTEM, RootPointer},
    tree::{Child, Key, Miss, Node, Root, Shape, read_step},
    units::Block,
};
use rustc_hash::FxHashMap;
use std::fmt;

/// What is wrong.
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
pub struct Finding {
    /// What is wrong.
    pub kind: FindingKind,
    /// Where: whose tree, which bytes, which nodes from the root down.
    pub place: String,
    /// What was found there.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}: {}", self.kind, self.place, self.what)
    }
}

/// What a check saw.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// All that is wrong.
    pub findings: Vec<Finding>,
    /// Volumes.
    pub volumes: u64,
    /// Snapshots.
    pub snapshots: u64,
    /// Nodes of all trees.
    pub nodes: u64,
    /// Data blocks in use.
    pub data_blocks: u64,
    /// Blocks that nothing uses.
    pub free_blocks: u64,
    /// Blocks given back to the host.
    pub returned_blocks: u64,
    /// Blocks counted and not used.
    pub leaked: u64,
}

impl Report {
    /// Nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}

/// How far long work is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Blocks looked at.
    pub done: u64,
    /// Blocks to look at.
    pub total: u64,
}

/// Lower and upper bound: whether each is to be looked at.
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
    /// Where another reference to the node asks for more; `None`: it expects another node.
    fn lacks(&self, want: Miss) -> Option<Sides> {
        let same = (self.shape, self.child, self.level) == (want.shape, want.child, want.level);
        same.then_some((want.bounds.0 > self.bounds.0, want.bounds.1 < self.bounds.1))
    }
}

struct Walk<'a> {
    capture: &'a Capture,
    refs: Vec<Vec<u32>>,
    /// Nodes with several parents: each of these may expect something else of them.
    shared: FxHashMap<u64, Seen>,
    report: Report,
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(Progress) -> bool,
}

/// Findings of one kind at one place are listed up to this many; the count goes on.
const LISTED: usize = 10_000;

pub(crate) fn check(engine: &Engine, progress: &mut dyn FnMut(Progress) -> bool) -> Result<Report> {
    let capture = engine.capture()?;
    let span = capture.geometry.span as usize;
    let used =
        capture.counts.iter().flatten().map(|c| c.iter().filter(|&&n| n > 0 && n < COUNT_RETURNED).count() as u64);
    let total = used.sum();
    let refs = vec![vec![0; span]; capture.counts.len()];
    let shared = FxHashMap::default();
    let mut walk = Walk { capture: &capture, refs, shared, report: Report::default(), done: 0, total, progress };
    for what in &capture.broken {
        walk.finding(FindingKind::Catalog, "catalog".to_owned(), what.clone());
    }
    walk.tree("catalog", capture.catalog, Shape::Records)?;
    for (id, v) in &capture.volumes {
        walk.tree(&format!("volume {id} ({})", v.name), v.root, Shape::Extents)?;
    }
    for (id, s) in &capture.snapshots {
        walk.tree(&format!("snapshot {id} ({})", s.name), s.root, Shape::Extents)?;
    }
    for (key, root) in &capture.doomed {
        walk.tree(&format!("doomed entry {}", !(*key as u64)), *root, Shape::Extents)?;
    }
    walk.compare();
    let mut report = walk.report;
    report.volumes = capture.volumes.len() as u64;
    report.snapshots = capture.snapshots.iter().filter(|s| !capture.sweeping.contains(&s.1.volume)).count() as u64;
    Ok(report)
}

impl Walk<'_> {
    fn finding(&mut self, kind: FindingKind, place: String, what: String) {
        if self.report.findings.len() < LISTED {
            self.report.findings.push(Finding { kind, place, what });
        }
    }

    /// Counts one more parent of a block; gives whether it is the first.
    fn count(&mut self, block: Block, place: &str) -> Option<bool> {
        let geometry = &self.capture.geometry;
        match geometry.locate(block) {
            Some((region, at)) if (region as usize) < self.refs.len() && !geometry.is_system(region, at) => {
                let n = &mut self.refs[region as usize][at];
                *n = n.saturating_add(1);
                Some(*n == 1)
            }
            _ => {
                self.finding(
                    FindingKind::Node,
                    place.to_owned(),
                    format!("it refers to {block}, which can't hold anything"),
                );
                None
            }
        }
    }

    /// Whether a block that can hold something is counted more than once.
    fn is_shared(&self, block: Block) -> bool {
        let Some((region, at)) = self.capture.geometry.locate(block) else { return false };
        matches!(self.capture.counts.get(region as usize), Some(Ok(counts)) if counts[at] > 1)
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
        let root = Root::from(root);
        let Some(child) = root.node else { return Ok(()) };
        // A stack, not recursion: a hostile image chooses the depth. Each entry has its path from the root, and which of its bounds alone
        // are to be looked at where its parent was counted before.
        let mut stack = vec![(Miss { shape, child, level: root.level, bounds: (0, shape.end()) }, String::new(), None)];
        while let Some((want, path, mut again)) = stack.pop() {
            let block = want.child.block;
            let path = format!("{path}/{block:?}");
            let place = format!("{name}, node {path}");
            if again.is_none() {
                let Some(first) = self.count(block, &place) else { continue };
                // More parents than its count are a finding of their own.
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
                    // Reading it says what is wrong.
                    (None, _) => expected = false,
                }
            }
            self.step()?;
            let node = match self.capture.node(want) {
                Ok(node) => node,
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
                (Node::Inner { entries, .. }, None) => {
                    stack.extend((0..entries.len()).rev().map(|i| (read_step(want, entries, i), path.clone(), None)));
                }
                // What lies below was counted, and only the outermost children inherit a bound.
                (Node::Inner { entries, .. }, Some((low, high))) => {
                    let last = entries.len() - 1;
                    let sides =
                        if last == 0 { vec![(0, (low, high))] } else { vec![(0, (low, false)), (last, (false, high))] };
                    let sides = sides.into_iter().filter(|(_, (low, high))| *low || *high);
                    stack.extend(sides.map(|(i, s)| (read_step(want, entries, i), path.clone(), Some(s))));
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

    /// Counts against parents.
    fn compare(&mut self) {
        let (mut free, mut returned) = (0, 0);
        let mut unread = false;
        for region in 0..self.refs.len() {
            let counts = match &self.capture.counts[region] {
                Ok(counts) => counts.clone(),
                Err(e) => {
                    unread = true;
                    self.finding(FindingKind::CountPage, format!("region {region}"), e.to_string());
                    continue;
                }
            };
            let start = self.capture.geometry.start(region as u64);
            for (i, &count) in counts.iter().enumerate() {
                let (block, refs) = (start.plus(i as u64), self.refs[region][i]);
                let count = match count {
                    COUNT_SYSTEM => continue,
                    COUNT_RETURNED => {
                        returned += 1;
                        0
                    }
                    n => {
                        free += u64::from(n == 0);
                        n
                    }
                };
                if count > refs {
                    self.report.leaked += u64::from(refs == 0);
                    self.finding(FindingKind::Leak, block.to_string(), format!("count {count}, {refs} parents"));
                } else if count < refs {
                    self.finding(
                        FindingKind::Undercounted,
                        block.to_string(),
                        format!("count {count}, {refs} parents"),
                    );
                }
            }
        }
        (self.report.free_blocks, self.report.returned_blocks) = (free, returned);
        let c = self.capture;
        if !unread {
            for (what, says, is) in [
                ("free blocks", c.free, free),
                ("blocks given back", c.returned, returned),
                ("allocatable, waiting and reserved blocks", c.accounted, free),
                ("doomed entries", c.doomed_count, c.doomed.len() as u64),
            ] {
                if says != is {
                    self.finding(FindingKind::Totals, what.to_owned(), format!("{says} noted, {is} counted"));
                }
            }
        }
    }
}
