//! Writers with histories: what a reader, a snapshot or a crash may show of them.

use parking_lot::RwLock;
use snapdisk::{Snapshot, Store, Volume, io::sim::Rng};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::SeqCst},
};

/// The unit of the histories: smaller than a block, so that writers meet in the middle of one.
pub(super) const SECTOR: usize = 512;
pub(super) const WRITERS: usize = 3;
/// Sectors of each writer in each volume: no whole number of blocks.
pub(super) const OWN: usize = 777;

/// One operation of a writer on its own sectors of a volume.
#[derive(Clone, Copy)]
struct Act {
    volume: usize,
    from: usize,
    to: usize,
    discard: bool,
    /// When it began, by the world's clock.
    begun: u64,
}

/// What all threads know of one writer.
#[derive(Default)]
struct History {
    /// By number less one. An operation is in the list before it begins.
    acts: RwLock<Vec<Act>>,
    /// When each ended.
    ended: RwLock<Vec<u64>>,
    finished: AtomicU64,
    /// By sector, both volumes: the last finished operation on it, and the last seen by a reader.
    settled: Vec<AtomicU64>,
}

impl History {
    fn new() -> History {
        let settled = (0..2 * OWN).map(|_| AtomicU64::new(0)).collect();
        History { settled, ..History::default() }
    }
}

/// The state of a writer's sectors after a number of its operations: for each, the number of the last write, or 0 for zeros.
#[derive(Clone, PartialEq)]
pub(super) struct State {
    after: u64,
    sectors: Vec<u64>,
}

impl State {
    /// None at all, for every writer.
    pub(super) fn start() -> Vec<State> {
        vec![State::new(); WRITERS]
    }
    fn new() -> State {
        State { after: 0, sectors: vec![0; 2 * OWN] }
    }
    fn advance(&mut self, acts: &[Act], to: u64) {
        for n in self.after..to {
            let act = acts[n as usize];
            let content = if act.discard { 0 } else { n + 1 };
            self.sectors[act.volume * OWN + act.from..act.volume * OWN + act.to].fill(content);
        }
        self.after = to;
    }
}

/// What the writers did: outlives the store that they did it to.
pub(super) struct Past {
    histories: Vec<History>,
    /// Counts beginnings and ends of operations.
    clock: AtomicU64,
}

/// The world that the threads share.
pub(super) struct World {
    pub(super) volumes: [Volume; 2],
    pub(super) past: Arc<Past>,
}

fn tag(writer: usize, n: u64) -> u64 {
    (writer as u64 + 1) << 48 | n
}

/// What stands in a sector of a writer: the number of a write, or 0. Panics at anything else.
fn decode(writer: usize, bytes: &[u8]) -> u64 {
    let word = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert!(bytes.chunks_exact(8).all(|c| c == word.to_le_bytes()), "a torn sector");
    if word == 0 {
        return 0;
    }
    assert_eq!(word >> 48, writer as u64 + 1, "a sector of another writer");
    word & ((1 << 48) - 1)
}

impl World {
    pub(super) fn new(store: &Store) -> World {
        let bytes = (WRITERS * OWN * SECTOR) as u64;
        let volumes = ["a", "b"].map(|n| store.create_volume(n, bytes).unwrap());
        let histories = (0..WRITERS).map(|_| History::new()).collect();
        World { volumes, past: Arc::new(Past { histories, clock: AtomicU64::new(0) }) }
    }

    /// One operation of a writer; an error leaves it out of the history.
    pub(super) fn act(&self, writer: usize, rng: &mut Rng, buf: &mut Vec<u8>) -> snapdisk::Result<()> {
        let history = &self.past.histories[writer];
        let from = rng.below(OWN as u64) as usize;
        let longest = if rng.one_in(20) { 500 } else { 40 };
        let to = OWN.min(from + 1 + rng.below(longest) as usize);
        let (volume, discard) = (rng.below(2) as usize, rng.one_in(8));
        let (act, n) = {
            let mut acts = history.acts.write();
            let act = Act { volume, from, to, discard, begun: self.past.clock.fetch_add(1, SeqCst) };
            acts.push(act);
            (act, acts.len() as u64)
        };
        let (at, len) = (((writer * OWN + from) * SECTOR) as u64, (to - from) * SECTOR);
        let v = &self.volumes[act.volume];
        let result = if act.discard {
            v.discard(at, len as u64)
        } else {
            buf.clear();
            (0..len / 8).for_each(|_| buf.extend_from_slice(&tag(writer, n).to_le_bytes()));
            v.write_at(buf, at)
        };
        if let Err(e) = result {
            history.acts.write().pop();
            return Err(e);
        }
        for s in from..to {
            history.settled[act.volume * OWN + s].fetch_max(n, SeqCst);
        }
        history.ended.write().push(self.past.clock.fetch_add(1, SeqCst));
        history.finished.store(n, SeqCst);
        Ok(())
    }

    /// One read somewhere: no sector may be older than what had been finished, or seen by anyone, before the read began.
    pub(super) fn look(&self, rng: &mut Rng, buf: &mut Vec<u8>) {
        let all = WRITERS * OWN;
        let volume = rng.below(2) as usize;
        let from = rng.below(all as u64) as usize;
        let to = all.min(from + 1 + rng.below(64) as usize);
        let place = |s: usize| (&self.past.histories[s / OWN], volume * OWN + s % OWN);
        let least: Vec<u64> = (from..to).map(|s| place(s).0.settled[place(s).1].load(SeqCst)).collect();
        buf.resize((to - from) * SECTOR, 1);
        self.volumes[volume].read_at(buf, (from * SECTOR) as u64).unwrap();
        for ((s, bytes), least) in (from..to).zip(buf.chunks_exact(SECTOR)).zip(least) {
            let (history, at) = place(s);
            let seen = decode(s / OWN, bytes);
            let acts = history.acts.read();
            let covers = |a: &Act| a.volume == volume && a.from <= s % OWN && s % OWN < a.to;
            let seen = if seen > 0 {
                let act = &acts[seen as usize - 1];
                assert!(covers(act) && !act.discard, "sector {s}: write {seen} never went there");
                seen
            } else if least == 0 {
                0
            } else {
                // Zeros: some discard that is not older than `least`.
                let from = least as usize - 1;
                let found = acts[from..].iter().position(|a| covers(a) && a.discard);
                (from + found.unwrap_or_else(|| panic!("sector {s}: zeros after write {least}"))) as u64 + 1
            };
            assert!(seen >= least, "sector {s}: write {seen} seen after {least}");
            history.settled[at].fetch_max(seen, SeqCst);
        }
    }
}

impl Past {
    pub(super) fn finished(&self) -> Vec<u64> {
        self.histories.iter().map(|h| h.finished.load(SeqCst)).collect()
    }
    pub(super) fn begun(&self) -> Vec<u64> {
        self.histories.iter().map(|h| h.acts.read().len() as u64).collect()
    }

    /// Both volumes' content as states of the writers.
    fn parse(&self, contents: &[Vec<u8>; 2]) -> Vec<Vec<u64>> {
        (0..WRITERS)
            .map(|w| {
                let own = |bytes: &[u8]| -> Vec<u64> {
                    let own = &bytes[w * OWN * SECTOR..(w + 1) * OWN * SECTOR];
                    own.chunks_exact(SECTOR).map(|s| decode(w, s)).collect()
                };
                contents.iter().flat_map(|c| own(c)).collect()
            })
            .collect()
    }

    /// Checks that the content is, for each writer, its state after some number of operations between `least` and `most`, and that
    /// none that shows began after one had ended that does not show: a cut through the one order of all operations. `base` is
    /// advanced to `least`.
    pub(super) fn is_a_cut(&self, contents: &[Vec<u8>; 2], base: &mut [State], least: &[u64], most: &[u64]) {
        let found = self.parse(contents);
        // More than one number fits where a discard changed nothing.
        let mut fits = Vec::new();
        for w in 0..WRITERS {
            let acts = self.histories[w].acts.read();
            base[w].advance(&acts, least[w]);
            let mut state = base[w].clone();
            while state.sectors != found[w] {
                assert!(state.after < most[w], "writer {w}: no state from {} to {}", least[w], most[w]);
                state.advance(&acts, state.after + 1);
            }
            let lowest = state.after;
            let mut highest = lowest;
            while highest < most[w] {
                state.advance(&acts, highest + 1);
                if state.sectors != found[w] {
                    break;
                }
                highest += 1;
            }
            let last_begun = lowest.checked_sub(1).map_or(0, |n| acts[n as usize].begun);
            fits.push((last_begun, highest));
        }
        for (w, (_, highest)) in fits.iter().enumerate() {
            let ended = self.histories[w].ended.read();
            for (other, (begun, _)) in fits.iter().enumerate() {
                let before = ended.partition_point(|e| e < begun) as u64;
                assert!(
                    *highest >= before,
                    "writer {other}'s last operation shows, writer {w}'s {before} before it do not"
                );
            }
        }
    }
}

fn contents(read: impl Fn(usize, &mut [u8])) -> [Vec<u8>; 2] {
    [0, 1].map(|i| {
        let mut buf = vec![1; WRITERS * OWN * SECTOR];
        read(i, &mut buf);
        buf
    })
}

pub(super) fn of_volumes(volumes: &[Volume; 2]) -> [Vec<u8>; 2] {
    contents(|i, buf| volumes[i].read_at(buf, 0).unwrap())
}
pub(super) fn of_snapshots(pair: &[Snapshot]) -> [Vec<u8>; 2] {
    contents(|i, buf| pair[i].read_at(buf, 0).unwrap())
}

/// No findings.
pub(super) fn clean(store: &Store) {
    let report = store.check().unwrap();
    assert!(report.is_clean(), "{:#?}", &report.findings[..report.findings.len().min(5)]);
}
