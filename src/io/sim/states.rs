//! The states that a power loss may leave of a window.

use rustc_hash::FxHashMap;

use super::{
    image::{Image, PAGE, Rng, SECT, mix, term},
    trace::{Ev, Medium, pages_of},
    walker::seal,
};

/// How many states of each family are tried at one crash point.
#[derive(Clone, Debug)]
pub struct Caps {
    /// Prefixes of the window.
    pub prefixes: usize,
    /// Single writes missing, and single writes alone.
    pub singles: usize,
    /// Up to this many changes every subset is tried, each with every length.
    pub exhaustive: usize,
    /// Random subsets otherwise.
    pub subsets: usize,
    /// Sectors alone lost, alone kept, or garbage.
    pub sectors: usize,
    /// States with a random version of each sector.
    pub random: usize,
    /// States with garbage in one or two pages.
    pub garbage: usize,
}

impl Caps {
    /// Everything that the model allows one change at a time, and a good sample of the rest.
    pub const FULL: Caps =
        Caps { prefixes: 256, singles: 256, exhaustive: 6, subsets: 32, sectors: 96, random: 24, garbage: 24 };
    /// A sample, for where there are many crash points.
    pub const SOME: Caps =
        Caps { prefixes: 12, singles: 12, exhaustive: 3, subsets: 6, sectors: 12, random: 6, garbage: 6 };
    /// A few.
    pub const FEW: Caps =
        Caps { prefixes: 3, singles: 2, exhaustive: 2, subsets: 2, sectors: 3, random: 2, garbage: 2 };
}

/// Bytes of a page that a torn write left as noise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Garbage {
    /// The page.
    pub page: u64,
    /// First byte in it.
    pub at: usize,
    /// How many.
    pub len: usize,
    /// What the noise follows from.
    pub seed: u64,
}

/// What may be lost at a crash point.
pub struct Window<'a> {
    medium: &'a Medium,
    terms: &'a [u64],
    sum: u64,
    acts: Vec<&'a Ev>,
    sectors: Vec<Versions<'a>>,
    /// Every length of the window, the durable one first, with the act that set it.
    lengths: Vec<(Option<usize>, u64)>,
    /// Pages with a pending write.
    written: Vec<u64>,
    /// Ranges that the host has promised in the window.
    reserved: Vec<(u64, u64)>,
}

struct Versions<'a> {
    sector: u64,
    durable: u64,
    later: Vec<Version<'a>>,
}

struct Version<'a> {
    act: usize,
    /// `None`: zeros.
    data: Option<&'a [u8]>,
    term: u64,
}

/// One crash state of a window.
#[derive(Clone)]
#[non_exhaustive]
pub struct Pick<'w> {
    window: &'w Window<'w>,
    /// By touched sector: 0 for the durable version, else one of the window.
    versions: Vec<u16>,
    /// The file's length.
    pub length: u64,
    /// Noise.
    pub garbage: Vec<Garbage>,
    /// Grown space whose data was lost shows this noise instead of zeros.
    pub stale: Option<u64>,
    hash: u64,
}

impl<'a> Window<'a> {
    pub(super) fn new(medium: &'a Medium, terms: &'a [u64], sum: u64) -> Window<'a> {
        let mut w = Window {
            medium,
            terms,
            sum,
            acts: Vec::new(),
            sectors: Vec::new(),
            lengths: vec![(None, medium.durable.len())],
            written: Vec::new(),
            reserved: Vec::new(),
        };
        let mut index: FxHashMap<u64, usize> = FxHashMap::default();
        let mut length = medium.durable.len();
        for (_, ev) in &medium.pending {
            if let Ev::Reserve { off, len } = ev {
                w.reserved.push((*off, *len));
                continue;
            }
            let act = w.acts.len();
            w.acts.push(ev);
            match ev {
                Ev::Write { off, data } => {
                    for (i, piece) in data.chunks(SECT).enumerate() {
                        w.version(&mut index, off / SECT as u64 + i as u64, act, Some(piece));
                    }
                    w.written.extend(pages_of(ev));
                }
                Ev::Punch { off, len } => {
                    for s in off / SECT as u64..(off + len) / SECT as u64 {
                        w.version(&mut index, s, act, None);
                    }
                }
                Ev::SetLen(n) => {
                    w.lengths.push((Some(act), *n));
                    for s in n.div_ceil(SECT as u64)..length.div_ceil(SECT as u64) {
                        w.version(&mut index, s, act, None);
                    }
                    length = *n;
                }
                _ => {}
            }
        }
        w.written.sort_unstable();
        w.written.dedup();
        w
    }

    fn version(&mut self, index: &mut FxHashMap<u64, usize>, sector: u64, act: usize, data: Option<&'a [u8]>) {
        let durable = self.terms.get(sector as usize).copied().unwrap_or(0);
        let at = *index.entry(sector).or_insert_with(|| {
            self.sectors.push(Versions { sector, durable, later: Vec::new() });
            self.sectors.len() - 1
        });
        let term = data.map_or(0, |d| term(sector, d));
        self.sectors[at].later.push(Version { act, data, term });
    }

    /// How many changes the window holds.
    pub fn changes(&self) -> usize {
        self.acts.len()
    }

    /// The state in which exactly the changes that `keep` names happened.
    pub fn subset(&self, keep: impl Fn(usize) -> bool) -> Pick<'_> {
        let newest = |v: &Versions<'_>| v.later.iter().rposition(|v| keep(v.act)).map_or(0, |i| i as u16 + 1);
        let versions = self.sectors.iter().map(newest).collect();
        let length = self.lengths.iter().rev().find(|l| l.0.is_none_or(&keep)).map_or(0, |l| l.1);
        self.pick(versions, length)
    }

    /// The state in which the whole window happened.
    pub fn all(&self) -> Pick<'_> {
        self.subset(|_| true)
    }

    /// Hands states to `f` until it returns false, family by family, most telling first.
    /// The same state may come more than once; [`Pick::hash`] tells.
    pub fn each(&self, caps: &Caps, rng: &mut Rng, f: &mut dyn FnMut(Pick<'_>) -> bool) -> bool {
        let n = self.acts.len();
        if !(f(self.subset(|_| false)) && f(self.all())) {
            return false;
        }
        if n == 0 {
            return true;
        }
        self.prefixes(caps, rng, f)
            && self.singles(caps, rng, f)
            && self.noise(caps, rng, f)
            && self.subsets(caps, rng, f)
            && self.lengths(rng, f)
            && self.by_sector(caps, rng, f)
            && self.random(caps, rng, f)
    }

    fn prefixes(&self, caps: &Caps, rng: &mut Rng, f: &mut dyn FnMut(Pick<'_>) -> bool) -> bool {
        some(1, self.acts.len(), caps.prefixes, rng).into_iter().all(|k| f(self.subset(|a| a < k)))
    }

    fn singles(&self, caps: &Caps, rng: &mut Rng, f: &mut dyn FnMut(Pick<'_>) -> bool) -> bool {
        let n = self.acts.len();
        some(0, n, caps.singles, rng).into_iter().all(|k| f(self.subset(|a| a != k)))
            && some(0, n, caps.singles, rng).into_iter().all(|k| f(self.subset(|a| a == k)))
    }

    fn subsets(&self, caps: &Caps, rng: &mut Rng, f: &mut dyn FnMut(Pick<'_>) -> bool) -> bool {
        let n = self.acts.len();
        if n <= caps.exhaustive {
            return (0..1u32 << n).all(|set| {
                let p = self.subset(|a| set >> a & 1 == 1);
                self.lengths.iter().all(|l| f(self.pick(p.versions.clone(), l.1)))
            });
        }
        (0..caps.subsets).all(|_| {
            let set: Vec<u64> = (0..n.div_ceil(64)).map(|_| rng.number()).collect();
            let p = self.subset(|a| set[a / 64] >> (a % 64) & 1 == 1);
            let length = self.any_length(rng);
            f(self.pick(p.versions, length))
        })
    }

    fn lengths(&self, rng: &mut Rng, f: &mut dyn FnMut(Pick<'_>) -> bool) -> bool {
        let mut all: Vec<u64> = self.lengths.iter().map(|l| l.1).collect();
        all.sort_unstable();
        all.dedup();
        all.len() == 1
            || all.into_iter().all(|l| {
                let stale = Some(rng.number());
                f(self.pick(self.all().versions, l))
                    && f(self.pick(vec![0; self.sectors.len()], l))
                    && f(self.pick(vec![0; self.sectors.len()], l).stale(stale))
            })
    }

    fn by_sector(&self, caps: &Caps, rng: &mut Rng, f: &mut dyn FnMut(Pick<'_>) -> bool) -> bool {
        let all = self.all();
        let none = vec![0; self.sectors.len()];
        some(0, self.sectors.len(), caps.sectors.div_ceil(3), rng).into_iter().all(|i| {
            let mut lost = all.versions.clone();
            lost[i] = 0;
            let mut kept = none.clone();
            kept[i] = self.sectors[i].later.len() as u16;
            let s = self.sectors[i].sector;
            let garbage = Garbage { page: s / 8, at: (s % 8) as usize * SECT, len: SECT, seed: rng.number() };
            let length = self.any_length(rng);
            f(self.pick(lost, all.length))
                && f(self.pick(kept, length))
                && (self.written.binary_search(&garbage.page).is_err()
                    || f(self.pick(all.versions.clone(), all.length).noise(vec![garbage])))
        })
    }

    fn random(&self, caps: &Caps, rng: &mut Rng, f: &mut dyn FnMut(Pick<'_>) -> bool) -> bool {
        (0..caps.random).all(|_| {
            let p = self.anything(rng);
            f(p)
        })
    }

    fn noise(&self, caps: &Caps, rng: &mut Rng, f: &mut dyn FnMut(Pick<'_>) -> bool) -> bool {
        if self.written.is_empty() {
            return true;
        }
        // Each page once over a complete window, then any over anything.
        some(0, self.written.len(), caps.garbage.div_ceil(2), rng)
            .into_iter()
            .all(|i| f(self.all().noise(vec![self.garbage_in(self.written[i], rng)])))
            && (0..caps.garbage / 2).all(|_| {
                let n = 1 + rng.below(2);
                let noise = (0..n).map(|_| {
                    let page = self.written[rng.below(self.written.len() as u64) as usize];
                    self.garbage_in(page, rng)
                });
                let noise = noise.collect();
                let k = rng.below(self.acts.len() as u64 + 1) as usize;
                let p = match rng.below(3) {
                    0 => self.anything(rng),
                    1 => self.subset(|a| a < k),
                    _ => self.subset(|_| false),
                };
                f(p.noise(noise))
            })
    }

    fn garbage_in(&self, page: u64, rng: &mut Rng) -> Garbage {
        let seed = rng.number();
        if rng.one_in(2) {
            return Garbage { page, at: 0, len: PAGE, seed };
        }
        let len = 1 + rng.below(64) as usize;
        Garbage { page, at: rng.below((PAGE - len) as u64 + 1) as usize, len, seed }
    }

    fn anything(&self, rng: &mut Rng) -> Pick<'_> {
        let versions = self.sectors.iter().map(|v| rng.below(v.later.len() as u64 + 1) as u16).collect();
        let length = self.any_length(rng);
        let stale = (self.lengths.len() > 1 && rng.one_in(2)).then(|| rng.number());
        self.pick(versions, length).stale(stale)
    }

    fn any_length(&self, rng: &mut Rng) -> u64 {
        self.lengths[rng.below(self.lengths.len() as u64) as usize].1
    }

    fn pick(&self, versions: Vec<u16>, length: u64) -> Pick<'_> {
        let mut sum = self.sum;
        let kept = length.div_ceil(SECT as u64);
        for (v, &i) in self.sectors.iter().zip(&versions) {
            sum ^= v.durable;
            if v.sector < kept {
                sum ^= v.term(i);
            }
        }
        if length < self.medium.durable.len() {
            let touched: std::collections::BTreeSet<u64> = self.sectors.iter().map(|v| v.sector).collect();
            for s in kept..self.terms.len() as u64 {
                if !touched.contains(&s) {
                    sum ^= self.terms[s as usize];
                }
            }
        }
        Pick { window: self, versions, length, garbage: Vec::new(), stale: None, hash: seal(sum, length) }
    }
}

impl Versions<'_> {
    fn term(&self, i: u16) -> u64 {
        if i == 0 { self.durable } else { self.later[i as usize - 1].term }
    }
}

impl Pick<'_> {
    fn noise(mut self, garbage: Vec<Garbage>) -> Self {
        for g in &garbage {
            self.hash = mix(self.hash ^ mix(g.page) ^ mix(g.seed) ^ mix((g.at * PAGE + g.len) as u64));
        }
        self.garbage = garbage;
        self
    }

    fn stale(mut self, stale: Option<u64>) -> Self {
        self.stale = stale;
        self.hash = stale.map_or(self.hash, |s| mix(self.hash ^ s));
        self
    }

    /// Tells states apart.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Whether a change of length was lost.
    pub fn lost_length(&self) -> bool {
        self.window.lengths.last().is_some_and(|l| l.1 != self.length)
    }

    /// The file after the crash.
    pub fn image(&self) -> Image {
        let w = self.window;
        let mut image = w.medium.durable.clone();
        let durable = image.len();
        // A promise of space is kept or lost too; which, does not make another state.
        for &(off, len) in w.reserved.iter().filter(|r| mix(self.hash ^ r.0) & 1 == 1) {
            image.give(off, len);
        }
        for (v, &i) in w.sectors.iter().zip(&self.versions) {
            let at = v.sector * SECT as u64;
            match i {
                0 => {
                    if let (Some(seed), true) = (self.stale, at >= durable && v.later.iter().any(|l| l.data.is_some()))
                    {
                        image.write(at, &bytes(seed ^ mix(v.sector), SECT));
                    }
                }
                i => match v.later[i as usize - 1].data {
                    Some(d) => image.write(at, d),
                    None => image.zero(at, SECT as u64),
                },
            }
        }
        // A page whose punch made it is a hole.
        for p in w.acts.iter().filter(|e| matches!(e, Ev::Punch { .. })).flat_map(|e| pages_of(e)) {
            if image.page(p) == &[0; PAGE] {
                image.zero(p * PAGE as u64, PAGE as u64);
            }
        }
        for g in &self.garbage {
            image.write(g.page * PAGE as u64 + g.at as u64, &bytes(g.seed, g.len));
        }
        image.cut(self.length);
        image
    }
}

impl std::fmt::Debug for Pick<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "length {}, garbage {:?}, stale {:?}, sectors", self.length, self.garbage, self.stale)?;
        for (v, i) in self.window.sectors.iter().zip(&self.versions) {
            write!(f, " {}:{}/{}", v.sector, i, v.later.len())?;
        }
        Ok(())
    }
}

fn bytes(seed: u64, n: usize) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let mut out = vec![0; n];
    for word in out.chunks_mut(8) {
        word.copy_from_slice(&rng.number().to_le_bytes()[..word.len()]);
    }
    out
}

/// All numbers from `from` below `to`, or a random sample of `cap` of them, in order.
fn some(from: usize, to: usize, cap: usize, rng: &mut Rng) -> Vec<usize> {
    let mut all: Vec<usize> = (from..to).collect();
    while all.len() > cap {
        all.swap_remove(rng.below(all.len() as u64) as usize);
    }
    all.sort_unstable();
    all
}
