//! One case: what each thread does, what fails, and the seed that decides who runs when. As a value and as one line of text.

use std::fmt;

use snapdisk::{
    io::sim::{Call, EIO, ENOSPC, Fault, How, Rng},
    sim_support::schedule::{Choice, Plan},
};

use crate::explorer::case::{SIZES, fault_text, parse_fault};

/// Sectors in a block.
pub(super) const BLOCK: u64 = 8;
/// Blocks that the threads share: few, so that they meet.
pub(super) const BLOCKS: u64 = 4;
/// The volume's tags count as one more sector, behind those of the blocks.
pub(super) const TAGS: u64 = BLOCKS * BLOCK;

/// What one thread does at a time. Places and lengths are sectors of the first volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Write {
        at: u64,
        len: u64,
    },
    Read {
        at: u64,
        len: u64,
    },
    Discard {
        at: u64,
        len: u64,
    },
    Snapshot,
    /// Of the oldest snapshot that anyone took.
    Delete,
    /// To the newest snapshot.
    Rollback,
    /// Of the newest snapshot.
    Clone,
    Flush,
    Checkpoint,
    WaitReclaimed,
    Close,
    /// Gives the volume other tags.
    Tag,
    /// Reads its tags.
    ReadTags,
    /// Attaches the volume.
    Attach,
    /// Gives up the handle that whoever attached it last has.
    Detach,
    /// Acknowledges all changes so far.
    Acknowledge,
    /// A write through the attached handle.
    HeldWrite {
        at: u64,
        len: u64,
    },
    /// To the newest snapshot, by force.
    ForceRollback,
}

impl Act {
    fn random(rng: &mut Rng, rollback: bool, attach: bool) -> Act {
        let all = BLOCKS * BLOCK;
        let range = |rng: &mut Rng| match rng.below(3) {
            // Whole blocks.
            0 => {
                let block = rng.below(BLOCKS);
                (block * BLOCK, (1 + rng.below(BLOCKS - block)) * BLOCK)
            }
            // One whole block.
            1 => (rng.below(BLOCKS) * BLOCK, BLOCK),
            _ => {
                let at = rng.below(all);
                (at, 1 + rng.below((all - at).min(10)))
            }
        };
        if attach && rng.one_in(3) {
            return match rng.below(8) {
                0 | 1 => Act::Attach,
                2 => Act::Detach,
                3 => Act::Acknowledge,
                4 if rollback => Act::ForceRollback,
                _ => {
                    let (at, len) = range(rng);
                    Act::HeldWrite { at, len }
                }
            };
        }
        match rng.below(44) {
            0..14 => {
                let (at, len) = range(rng);
                Act::Write { at, len }
            }
            14..22 => {
                let (at, len) = range(rng);
                Act::Read { at, len }
            }
            22..24 => {
                let (at, len) = range(rng);
                Act::Discard { at, len }
            }
            24..27 => Act::Snapshot,
            27..29 => Act::Delete,
            29 if rollback => Act::Rollback,
            30 => Act::Clone,
            31..36 => Act::Flush,
            36..38 => Act::Checkpoint,
            38 => Act::WaitReclaimed,
            40 | 41 => Act::Tag,
            42 | 43 => Act::ReadTags,
            _ => Act::Flush,
        }
    }

    fn parse(text: &str) -> Option<Act> {
        let (letter, rest) = text.split_at_checked(1)?;
        let range = || {
            let (at, len) = rest.split_once('.')?;
            let (at, len): (u64, u64) = (at.parse().ok()?, len.parse().ok()?);
            (len > 0 && at.checked_add(len)? <= BLOCKS * BLOCK).then_some((at, len))
        };
        let act = match letter {
            "W" => return range().map(|(at, len)| Act::Write { at, len }),
            "H" => return range().map(|(at, len)| Act::HeldWrite { at, len }),
            "R" => return range().map(|(at, len)| Act::Read { at, len }),
            "D" => return range().map(|(at, len)| Act::Discard { at, len }),
            "S" => Act::Snapshot,
            "X" => Act::Delete,
            "B" => Act::Rollback,
            "C" => Act::Clone,
            "F" => Act::Flush,
            "K" => Act::Checkpoint,
            "V" => Act::WaitReclaimed,
            "Q" => Act::Close,
            "T" => Act::Tag,
            "G" => Act::ReadTags,
            "A" => Act::Attach,
            "E" => Act::Detach,
            "N" => Act::Acknowledge,
            "L" => Act::ForceRollback,
            _ => return None,
        };
        rest.is_empty().then_some(act)
    }
}

impl Act {
    /// The sectors that it writes.
    pub(super) fn writes(self) -> Option<(u64, u64)> {
        match self {
            Act::Write { at, len } | Act::HeldWrite { at, len } => Some((at, len)),
            _ => None,
        }
    }
    pub(super) fn rolls_back(self) -> bool {
        matches!(self, Act::Rollback | Act::ForceRollback)
    }
    /// The sectors that it reads, the tags among them.
    pub(super) fn looks_at(self) -> Option<(u64, u64)> {
        match self {
            Act::Read { at, len } => Some((at, len)),
            Act::ReadTags => Some((TAGS, 1)),
            _ => None,
        }
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Act::Write { at, len } => write!(f, "W{at}.{len}"),
            Act::Read { at, len } => write!(f, "R{at}.{len}"),
            Act::Discard { at, len } => write!(f, "D{at}.{len}"),
            Act::Snapshot => f.write_str("S"),
            Act::Delete => f.write_str("X"),
            Act::Rollback => f.write_str("B"),
            Act::Clone => f.write_str("C"),
            Act::Flush => f.write_str("F"),
            Act::Checkpoint => f.write_str("K"),
            Act::WaitReclaimed => f.write_str("V"),
            Act::Close => f.write_str("Q"),
            Act::Tag => f.write_str("T"),
            Act::ReadTags => f.write_str("G"),
            Act::Attach => f.write_str("A"),
            Act::Detach => f.write_str("E"),
            Act::Acknowledge => f.write_str("N"),
            Act::HeldWrite { at, len } => write!(f, "H{at}.{len}"),
            Act::ForceRollback => f.write_str("L"),
        }
    }
}

/// A case; see the [module](self).
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Case {
    pub(super) seed: u64,
    pub(super) size: u8,
    pub(super) choice: Choice,
    pub(super) fault: Option<Fault>,
    pub(super) threads: Vec<Vec<Act>>,
}

impl Case {
    /// The case of a number.
    pub(super) fn random(seed: u64) -> Case {
        let mut rng = Rng::new(seed);
        let size = rng.below(SIZES.into()) as u8;
        let choice = match rng.below(4) {
            0 => Choice::Uniform,
            1 => Choice::Sticky(2 + rng.below(14)),
            _ => Choice::Priority(1 + rng.below(4) as u32),
        };
        let fault = rng.one_in(4).then(|| {
            let (call, nth) = match rng.below(5) {
                0 | 1 => (Call::Sync, rng.below(8)),
                2 => (Call::Write, rng.below(24)),
                3 => (Call::Push, rng.below(6)),
                _ => (Call::Read, rng.below(12)),
            };
            let how = if call == Call::Sync && rng.one_in(4) { ENOSPC } else { EIO };
            Fault { call, nth, how: How::Errno(how), sticky: false }
        });
        let attach = rng.one_in(4);
        let rollback = if attach { rng.one_in(2) } else { rng.one_in(4) };
        let acts = |rng: &mut Rng| (0..2 + rng.below(12)).map(|_| Act::random(rng, rollback, attach)).collect();
        let mut threads: Vec<Vec<Act>> = (0..2 + rng.below(3)).map(|_| acts(&mut rng)).collect();
        if rng.one_in(4) {
            // In the middle of what the others do.
            let among = rng.below(threads.len() as u64) as usize;
            let at = rng.below(threads[among].len() as u64) as usize;
            threads[among].insert(at, Act::Close);
        }
        Case { seed, size, choice, fault, threads }
    }

    /// A case of a number in which a holder writes while others roll its volume back.
    pub(super) fn fenced(seed: u64) -> Case {
        let mut rng = Rng::new(seed);
        let mut threads =
            vec![vec![Act::Snapshot, Act::Attach], vec![Act::ForceRollback; 3], vec![Act::ForceRollback; 2]];
        for _ in 0..4 + rng.below(4) {
            let block = rng.below(BLOCKS);
            let at = block * BLOCK + rng.below(2);
            let write = Act::HeldWrite { at, len: BLOCK - at % BLOCK };
            threads[0].push(if rng.one_in(4) { Act::Acknowledge } else { write });
        }
        Case { fault: None, threads, ..Case::random(rng.number()) }
    }

    /// What the scheduler goes by.
    pub(super) fn plan(&self) -> Plan {
        Plan { seed: self.seed, choice: self.choice, expected: 600, budget: 400_000 }
    }

    /// The case of its text.
    pub(super) fn parse(text: &str) -> Option<Case> {
        let mut case = Case { seed: 0, size: 0, choice: Choice::Uniform, fault: None, threads: Vec::new() };
        for part in text.split_whitespace() {
            let (key, value) = part.split_once('=')?;
            match key {
                "seed" => case.seed = value.parse().ok()?,
                "size" => case.size = value.parse().ok()?,
                "by" => {
                    case.choice = match value.split_at_checked(1)? {
                        ("u", "") => Choice::Uniform,
                        ("s", n) => Choice::Sticky(n.parse().ok()?),
                        ("p", n) => Choice::Priority(n.parse().ok()?),
                        _ => return None,
                    }
                }
                "fault" => case.fault = Some(parse_fault(value)?),
                "threads" => {
                    let acts = |t: &str| t.split(',').filter(|a| !a.is_empty()).map(Act::parse).collect();
                    case.threads = value.split('|').map(acts).collect::<Option<_>>()?;
                }
                _ => return None,
            }
        }
        (!case.threads.is_empty()).then_some(case)
    }

    /// Cases that lack one thing of this one, the most first.
    pub(super) fn smaller(&self) -> Vec<Case> {
        let mut out = Vec::new();
        if self.threads.len() > 1 {
            out.extend((0..self.threads.len()).map(|t| {
                let mut case = self.clone();
                case.threads.remove(t);
                case
            }));
        }
        out.extend(self.fault.map(|_| Case { fault: None, ..self.clone() }));
        for (t, acts) in self.threads.iter().enumerate() {
            out.extend((0..acts.len()).map(|i| {
                let mut case = self.clone();
                case.threads[t].remove(i);
                case
            }));
        }
        out
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed={} size={} by=", self.seed, self.size)?;
        match self.choice {
            Choice::Uniform => f.write_str("u")?,
            Choice::Sticky(n) => write!(f, "s{n}")?,
            Choice::Priority(n) => write!(f, "p{n}")?,
        }
        if let Some(fault) = &self.fault {
            write!(f, " fault={}", fault_text(fault))?;
        }
        let list = |acts: &Vec<Act>| acts.iter().map(Act::to_string).collect::<Vec<_>>().join(",");
        write!(f, " threads={}", self.threads.iter().map(list).collect::<Vec<_>>().join("|"))
    }
}

#[test]
fn cases_are_read_back() {
    for case in (0..200).flat_map(|seed| [Case::random(seed), Case::fenced(seed)]) {
        assert_eq!(Case::parse(&case.to_string()).as_ref(), Some(&case), "{case}");
    }
    for text in
        ["", "seed=1", "seed=x threads=F", "threads=W0", "threads=W30.4", "threads=W1.0", "threads=F by=é", "threads=é"]
    {
        assert_eq!(Case::parse(text), None, "{text}");
    }
}
