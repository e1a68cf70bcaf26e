//! What one thread of the writer does, as a function of its seed and of how much it has done, and what the image then holds.
//!
//! Each thread has volumes of its own, so its state is that after some number of its operations. Every sector that it writes also says how
//! many operations of each thread had returned before the write was called: whoever sees the sector must see those too.

use snapdisk::{DeleteSnapshots, Durability, ErrorKind, NewOptions, Result, Store, io::sim::Rng};
use std::collections::BTreeMap;

/// Bytes of a sector, the unit in which content is told apart.
pub(crate) const SECTOR: usize = 512;
/// Threads at most.
pub(crate) const THREADS: usize = 8;
/// Sectors that a volume may get in the mixed profile: no whole number of blocks.
const SIZES: [usize; 4] = [4001, 3500, 2048, 1111];
/// Sectors of a volume that grows.
const LONG: usize = 16384;
const WORDS: usize = SECTOR / 8;

/// What kind of load it is.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Profile {
    /// Every kind of operation on small volumes.
    Mixed,
    /// Long writes one behind the other, each of them flushed: the image takes space from the host all the time.
    Grow,
}

impl Profile {
    pub(crate) fn of(name: &str) -> Profile {
        match name {
            "mixed" => Profile::Mixed,
            "grow" => Profile::Grow,
            _ => panic!("no profile {name:?}"),
        }
    }
}

/// An operation. Volumes are named by the letter before the thread's number.
#[derive(Debug)]
pub(crate) enum Act {
    Create(char),
    Write {
        volume: char,
        from: usize,
        to: usize,
    },
    Discard {
        volume: char,
        from: usize,
        to: usize,
    },
    Snapshot {
        volume: char,
        durability: Durability,
    },
    DeleteSnapshot(usize),
    Rollback(usize),
    Resize {
        volume: char,
        sectors: usize,
    },
    /// Makes the clone of a snapshot, or deletes it if there is one.
    Clone(usize),
}

impl Act {
    /// Whether it is durable once it returns.
    pub(crate) fn is_durable(&self) -> bool {
        match self {
            Act::Write { .. } | Act::Discard { .. } => false,
            Act::Snapshot { durability, .. } => *durability == Durability::Immediate,
            _ => true,
        }
    }
}

const CLONE: char = 'c';

/// Name of a snapshot, name of its volume, content.
type Frozen = (String, String, Vec<u64>);

/// What the volumes and snapshots of one thread hold: for each sector the number of the operation that wrote it, 0 for zeros.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Content {
    pub(crate) volumes: BTreeMap<String, Vec<u64>>,
    /// Oldest first.
    pub(crate) snapshots: Vec<Frozen>,
}

/// A thread's state after `done` operations.
#[derive(Clone)]
pub(crate) struct Model {
    seed: u64,
    profile: Profile,
    thread: usize,
    pub(crate) done: u64,
    pub(crate) content: Content,
}

impl Model {
    pub(crate) fn new(seed: u64, profile: Profile, thread: usize) -> Model {
        let content = Content { volumes: BTreeMap::new(), snapshots: Vec::new() };
        Model { seed, profile, thread, done: 0, content }
    }
    fn rng(&self, n: u64) -> Rng {
        Rng::new(self.seed.wrapping_mul(1_000_003).wrapping_add(n * THREADS as u64 + self.thread as u64))
    }
    fn name(&self, letter: char) -> String {
        format!("{letter}{}", self.thread)
    }

    /// The operation after this state.
    pub(crate) fn next(&self) -> Act {
        let n = self.done + 1;
        let mut rng = self.rng(n);
        if self.profile == Profile::Grow {
            let Some(content) = self.content.volumes.get(&self.name('a')) else { return Act::Create('a') };
            // One behind the other, each a little longer than what a group keeps in the log.
            let from = (self.done as usize * 256) % content.len();
            return Act::Write { volume: 'a', from, to: from + 64 + rng.below(193) as usize };
        }
        let volume = ['a', 'b'][rng.below(2) as usize];
        let Some(content) = self.content.volumes.get(&self.name(volume)) else { return Act::Create(volume) };
        let from = rng.below(content.len() as u64) as usize;
        let longest = if rng.one_in(10) { 1500 } else { 60 };
        let to = content.len().min(from + 1 + rng.below(longest) as usize);
        let snapshots = self.content.snapshots.len();
        let pick = rng.below(snapshots.max(1) as u64) as usize;
        match rng.below(24) {
            0..=2 => Act::Discard { volume, from, to },
            3 | 4 if snapshots < 6 => {
                let durability = if rng.one_in(2) { Durability::Deferred } else { Durability::Immediate };
                Act::Snapshot { volume, durability }
            }
            5 | 6 if snapshots > 3 => Act::DeleteSnapshot(pick),
            7 if snapshots > 0 => Act::Rollback(pick),
            8 => Act::Resize { volume, sectors: SIZES[rng.below(4) as usize] },
            9 if snapshots > 0 => Act::Clone(pick),
            _ => Act::Write { volume, from, to },
        }
    }
    /// Whether a flush follows operation number `done`.
    pub(crate) fn flushes(&self) -> bool {
        self.profile == Profile::Grow || self.rng(self.done).one_in(5)
    }

    pub(crate) fn apply(&mut self, act: &Act) {
        self.done += 1;
        let n = self.done;
        let name = |letter: &char| format!("{letter}{}", self.thread);
        let Content { volumes, snapshots } = &mut self.content;
        match act {
            Act::Create(volume) => {
                let sectors = if self.profile == Profile::Grow { LONG } else { SIZES[0] };
                volumes.insert(name(volume), vec![0; sectors]);
            }
            Act::Write { volume, from, to } => volumes.get_mut(&name(volume)).unwrap()[*from..*to].fill(n),
            Act::Discard { volume, from, to } => volumes.get_mut(&name(volume)).unwrap()[*from..*to].fill(0),
            Act::Snapshot { volume, .. } => {
                snapshots.push((format!("s{n}"), name(volume), volumes[&name(volume)].clone()));
            }
            Act::DeleteSnapshot(i) => drop(snapshots.remove(*i)),
            Act::Rollback(i) => {
                let (_, volume, then) = snapshots[*i].clone();
                volumes.insert(volume, then);
            }
            Act::Resize { volume, sectors } => volumes.get_mut(&name(volume)).unwrap().resize(*sectors, 0),
            Act::Clone(i) => {
                if volumes.remove(&name(&CLONE)).is_none() {
                    volumes.insert(name(&CLONE), snapshots[*i].2.clone());
                }
            }
        }
    }

    pub(crate) fn advance(&mut self, done: u64) {
        while self.done < done {
            let act = self.next();
            self.apply(&act);
        }
    }

    /// Does the operation that `act` is after this state. `returned` goes into what it writes.
    pub(crate) fn perform(&self, store: &Store, act: &Act, returned: &[u64]) -> Result<()> {
        let n = self.done + 1;
        let volume = |letter: &char| store.volume(&self.name(*letter));
        let snapshot = |i: usize| {
            let (name, volume, _) = &self.content.snapshots[i];
            store.volume(volume)?.snapshot_named(name)
        };
        match act {
            Act::Create(letter) => {
                let sectors = if self.profile == Profile::Grow { LONG } else { SIZES[0] };
                store.create_volume(&self.name(*letter), (sectors * SECTOR) as u64).map(drop)
            }
            Act::Write { volume: letter, from, to } => {
                let content: Vec<u8> = (*from..*to).flat_map(|s| sector(n, self.thread, returned, s)).collect();
                volume(letter)?.write_at(&content, (from * SECTOR) as u64)
            }
            Act::Discard { volume: letter, from, to } => {
                volume(letter)?.discard((from * SECTOR) as u64, ((to - from) * SECTOR) as u64)
            }
            Act::Snapshot { volume: letter, durability } => {
                let o = NewOptions::new().durability(*durability);
                store.snapshot_with(&volume(letter)?, &format!("s{n}"), o).map(drop)
            }
            Act::DeleteSnapshot(i) => store.delete_snapshot(&snapshot(*i)?),
            Act::Rollback(i) => {
                let s = snapshot(*i)?;
                store.volume_by_id(s.volume())?.rollback(&s)
            }
            Act::Resize { volume: letter, sectors } => volume(letter)?.resize((sectors * SECTOR) as u64),
            Act::Clone(i) => match volume(&CLONE) {
                Ok(v) => store.delete_volume(&v, DeleteSnapshots::Refuse),
                Err(e) if e.kind() == ErrorKind::NotFound => {
                    store.clone_volume(&snapshot(*i)?, &self.name(CLONE)).map(drop)
                }
                Err(e) => Err(e),
            },
        }
    }
}

/// What operation `n` of a thread writes into one sector.
fn sector(n: u64, thread: usize, returned: &[u64], at: usize) -> [u8; SECTOR] {
    let mut words = [0; WORDS];
    (words[0], words[1], words[2]) = (n, thread as u64, at as u64);
    words[3..3 + returned.len()].copy_from_slice(returned);
    fill(&mut words);
    let mut out = [0; SECTOR];
    out.chunks_exact_mut(8).zip(words).for_each(|(o, w)| o.copy_from_slice(&w.to_le_bytes()));
    out
}

/// The rest of a sector follows from its head.
fn fill(words: &mut [u64; WORDS]) {
    let head =
        words[..3 + THREADS].iter().fold(0, |h: u64, w| (h ^ w).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29));
    (3 + THREADS..).zip(&mut words[3 + THREADS..]).for_each(|(i, w)| *w = head.wrapping_add(i as u64));
}

/// What a sector says: the operation that wrote it, and what had returned before that one was called.
pub(crate) fn read_sector(
    bytes: &[u8],
    thread: usize,
    at: usize,
) -> std::result::Result<(u64, [u64; THREADS]), String> {
    let mut words = [0; WORDS];
    words.iter_mut().zip(bytes.chunks_exact(8)).for_each(|(w, b)| *w = u64::from_le_bytes(b.try_into().unwrap()));
    if words == [0; WORDS] {
        return Ok((0, [0; THREADS]));
    }
    let mut expected = words;
    fill(&mut expected);
    if words != expected {
        return Err(format!("sector {at} is torn or holds foreign bytes"));
    }
    if (words[1], words[2]) != (thread as u64, at as u64) {
        return Err(format!("sector {at} of thread {thread} holds sector {} of thread {}", words[2], words[1]));
    }
    Ok((words[0], words[3..3 + THREADS].try_into().unwrap()))
}
