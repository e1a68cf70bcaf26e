//! The search: runs cases, tries every crash, holds each outcome against the contract.

use std::{
    cell::Cell,
    collections::{BTreeSet, HashSet},
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Once},
};

use snapdisk::{
    ErrorKind, Options,
    io::sim::{
        Caps, Counts, Ev, Fault, Format, Protected, Rng, SimBackend, SimHost, StoreGuard, Trace, Violations, Walker,
    },
};

use super::case::{Case, start};
use crate::model::{
    Op,
    history::{History, Phase},
    observe,
    run::{Run, Setup},
};

/// States of each kind that were tried.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Tally {
    /// Of all kinds, every one different.
    pub(crate) unique: u64,
    /// Opened, deeper ones included.
    pub(crate) opened: u64,
    /// Cases run.
    pub(crate) cases: u64,
    /// A second crash, after the recovery from a first.
    pub(crate) double: u64,
    /// Process death, then power loss with the window of the dead carried over.
    pub(crate) carried: u64,
    /// Noise in pages being written.
    pub(crate) garbage: u64,
    /// After a failed sync.
    pub(crate) failed_sync: u64,
    /// A lost change of length.
    pub(crate) lost_length: u64,
    /// Crash inside a checkpoint.
    pub(crate) checkpoint: u64,
    /// Crash inside recovery.
    pub(crate) recovery: u64,
    /// Crash inside reclaim.
    pub(crate) reclaim: u64,
    /// Crash inside a flush or checkpoint beside which other operations run.
    pub(crate) beside: u64,
    /// Opened first while the host had no space to give.
    pub(crate) full: u64,
    /// Lives of images that had many.
    pub(crate) lives: u64,
}

impl Tally {
    /// The kinds of which there must be some.
    pub(crate) fn kinds(&self) -> [(&'static str, u64); 11] {
        [
            ("double crash", self.double),
            ("process death, window carried over", self.carried),
            ("page garbage", self.garbage),
            ("failed sync", self.failed_sync),
            ("lost set_len", self.lost_length),
            ("inside checkpoint", self.checkpoint),
            ("inside recovery", self.recovery),
            ("inside reclaim", self.reclaim),
            ("beside a sync", self.beside),
            ("full host", self.full),
            ("lives", self.lives),
        ]
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} unique states, {} cases", self.unique, self.cases)?;
        self.kinds().iter().try_for_each(|(name, n)| write!(f, ", {name} {n}"))
    }
}

/// One search with its memory of what it has seen.
pub(crate) struct Search {
    /// What it has done.
    pub(crate) tally: Tally,
    /// States tried at a crash point of the first run, and of the run after a crash.
    pub(crate) caps: [Caps; 2],
    /// About how many crash points of a first run are tried, of long ones not all.
    pub(crate) points: u64,
    /// One in so many first-level states is carried on to a second crash.
    pub(crate) deep: u64,
    /// Watch every call of the runs that are traced.
    pub(crate) guard: bool,
    /// Tell the traces that lead to a violation.
    pub(crate) verbose: bool,
    /// Stop trying states beyond this many unique ones.
    pub(crate) limit: u64,
    /// What it has seen.
    pub(crate) seen: HashSet<u64, rustc_hash::FxBuildHasher>,
}

/// Where a trace comes from.
#[derive(Clone, Copy, PartialEq)]
enum From {
    First,
    /// A crash state that was recovered.
    Crash,
    /// A process death: until the first sync the window of the dead is there.
    Death,
    /// A failed sync.
    Failure,
}

impl Search {
    /// A search that has seen nothing.
    pub(crate) fn new() -> Search {
        let caps = [Caps::SOME, Caps::FEW];
        Search {
            tally: Tally::default(),
            caps,
            points: 16,
            deep: 8,
            guard: false,
            verbose: false,
            limit: u64::MAX,
            seen: HashSet::default(),
        }
    }

    /// For many similar cases: few states of each.
    pub(crate) fn sweep(&mut self) {
        self.caps = [Caps::FEW, Caps::FEW];
        self.deep = 64;
    }

    /// The calls that a case makes before any crash.
    pub(crate) fn counts(&self, case: &Case) -> Result<Counts, String> {
        let (image, model) = start(case.size);
        let mut run = Run::open(Arc::new(SimBackend::of(image)), History::of(model), &case.setup(false), 0)?;
        run.disk.set_faults(Vec::new());
        run.steps(&case.ops)?;
        Ok(run.disk.counts())
    }

    /// One like this that has seen nothing.
    pub(crate) fn afresh(&self) -> Search {
        Search { caps: self.caps.clone(), points: self.points, deep: self.deep, guard: self.guard, ..Search::new() }
    }

    /// Runs a case without any crash: to its end and until nothing is left to do in the background, or to its failure.
    pub(crate) fn agree(&mut self, case: &Case) -> Result<(), String> {
        let result = quietly(|| {
            let (mut run, watched) = self.play(case, false)?;
            if !run.unknown {
                run.check()?;
                run.settle_down()?;
            }
            watched.verdict()
        });
        result.map_err(|e| told(&e, case))
    }

    /// Runs a case; says whether a sync failed in it. An error is a violation, told with the line that repeats it.
    pub(crate) fn run(&mut self, case: &Case) -> Result<bool, String> {
        self.tally.cases += 1;
        let result = quietly(|| match case.lives {
            0 => self.explore(case),
            _ => self.one_after_the_other(case).map(|()| false),
        });
        result.map_err(|e| told(&e, case))
    }

    fn explore(&mut self, case: &Case) -> Result<bool, String> {
        let (trace, history) = self.first(case)?;
        if self.tally.cases.is_multiple_of(100) {
            let again = self.first(case)?.0;
            if format!("{:?}", again.events) != format!("{:?}", trace.events) {
                return Err("not deterministic: the same case gave two traces".to_owned());
            }
        }
        let mut rng = Rng::new(case.seed);
        self.crashes(case, &trace, &history, From::First, &mut rng)?;
        self.deaths(case, &trace, &history, &mut rng)?;
        self.failures(case, &trace, &history, &mut rng)
    }

    /// The run before any crash.
    fn first(&self, case: &Case) -> Result<(Trace, History), String> {
        let (run, watched) = self.play(case, true)?;
        watched.verdict()?;
        Ok((run.disk.take_trace(), run.history))
    }

    /// A case's own operations, with what fails in them.
    fn play(&self, case: &Case, traced: bool) -> Result<(Run, Watched), String> {
        let (image, model) = start(case.size);
        let disk = Arc::new(SimBackend::of(image));
        disk.seed(case.seed);
        if traced {
            disk.start_trace();
        }
        let setup = case.setup(case.fault.is_some());
        let watched = self.watch(&disk, &setup);
        let mut run = Run::open(disk, History::of(model), &setup, 0)?;
        run.disk.set_faults(case.fault.into_iter().collect());
        run.steps(&case.ops)?;
        run.disk.set_faults(Vec::new());
        Ok((run, watched))
    }

    /// Power loss at every crash point of a trace.
    fn crashes(
        &mut self,
        case: &Case,
        trace: &Trace,
        history: &History,
        from: From,
        rng: &mut Rng,
    ) -> Result<(), String> {
        let setup = case.setup(false);
        let mut at = Position { issued: history.base, ..Position::default() };
        let mut walker = Walker::new(trace);
        let caps = self.caps[usize::from(from != From::First)].clone();
        let points = trace.events.iter().filter(|e| matches!(e, Ev::SyncEnd { .. })).count() as u64 + 1;
        while walker.advance(|ev| at.pass(ev)) {
            let tried = match from {
                From::First => rng.below(points) < self.points,
                From::Failure => true,
                From::Crash | From::Death => rng.one_in(3),
            };
            if !tried {
                continue;
            }
            let window = walker.window();
            let mut outcome = Ok(());
            let lower = history.states[at.acked].0;
            window.each(&caps, rng, &mut |pick| {
                if !self.seen.insert(pick.hash() ^ lower.rotate_left(17)) {
                    return true;
                }
                if self.tally.unique >= self.limit {
                    return false;
                }
                self.count(&at, from, !pick.garbage.is_empty(), pick.lost_length());
                let legal = history.cut(at.acked, at.issued);
                let disk = Arc::new(SimBackend::of(pick.image()));
                let deep = from == From::First && rng_one_in(pick.hash(), self.deep);
                outcome = match deep {
                    false => self.verify(disk, legal, &setup, 0).map(drop),
                    true => self.second(disk, legal, case, From::Crash, pick.hash()),
                };
                if let Err(e) = &mut outcome {
                    *e = format!("{e}\n  crash at event {} ({:?}), {pick:?}", walker.position(), at.phase);
                    if self.verbose {
                        *e = format!("{e}\n  trace:{}", brief(trace));
                    }
                }
                outcome.is_ok()
            });
            outcome?;
        }
        Ok(())
    }

    /// The process dies at some points; the next one finds the page cache; then power is lost.
    fn deaths(&mut self, case: &Case, trace: &Trace, history: &History, rng: &mut Rng) -> Result<(), String> {
        let mut points: BTreeSet<usize> = (0..2).map(|_| rng.below(trace.events.len() as u64 + 1) as usize).collect();
        points.insert(trace.events.len());
        let mut walker = Walker::new(trace);
        let mut at = Position { issued: history.base, ..Position::default() };
        for point in points {
            walker.advance_to(point, |ev| at.pass(ev));
            if self.tally.unique >= self.limit || at.failed {
                break;
            }
            let legal = history.cut(at.acked, at.issued);
            let disk = Arc::new(SimBackend::reborn(walker.live().clone(), walker.medium().abandoned()));
            let from = if walker.medium().pending.is_empty() { From::Crash } else { From::Death };
            self.second(disk, legal, case, from, rng.number())
                .map_err(|e| format!("{e}\n  process death at event {point}"))?;
        }
        Ok(())
    }

    /// After a failed sync the next process sees bytes that are not on the medium, whichever those are.
    fn failures(&mut self, case: &Case, trace: &Trace, history: &History, rng: &mut Rng) -> Result<bool, String> {
        let Some(failure) = trace.events.iter().position(|e| matches!(e, Ev::SyncEnd { ok: false, .. })) else {
            return Ok(false);
        };
        let mut before = Walker::new(trace);
        before.advance_to(failure, |_| {});
        let dirty = before.medium().dirty_pages();
        for round in 0..4 {
            let mut other = trace.clone();
            if let (Ev::SyncEnd { kept, .. }, true) = (&mut other.events[failure], round > 0) {
                // All, none, some.
                *kept = Arc::new(dirty.iter().copied().filter(|_| round == 1 || round == 3 && rng.one_in(2)).collect());
            }
            let mut walker = Walker::new(&other);
            let mut at = Position { issued: history.base, ..Position::default() };
            walker.advance_to(other.events.len(), |ev| at.pass(ev));
            let legal = history.cut(at.acked, at.issued);
            let disk = Arc::new(SimBackend::reborn(walker.live().clone(), walker.medium().abandoned()));
            self.second(disk, legal, case, From::Failure, rng.number())
                .map_err(|e| format!("{e}\n  after the failed sync, round {round}"))?;
        }
        Ok(true)
    }

    /// Opens a crash state and holds it against the oracle.
    pub(super) fn verify(
        &mut self,
        disk: Arc<SimBackend>,
        legal: History,
        setup: &Setup,
        serial: u32,
    ) -> Result<Run, String> {
        self.tally.opened += 1;
        let run = Run::open(disk, legal, setup, serial)?;
        run.disk.set_faults(Vec::new());
        run.check()?;
        match run.disk.counts().writes_not_given {
            0 => Ok(run),
            n => Err(format!("recovery made {n} writes where the host had given no space")),
        }
    }

    /// As [`Search::verify`]; then more operations, and a second crash anywhere, recovery included.
    fn second(
        &mut self,
        disk: Arc<SimBackend>,
        legal: History,
        case: &Case,
        from: From,
        seed: u64,
    ) -> Result<(), String> {
        let setup = case.setup(case.later.is_some());
        disk.seed(seed);
        disk.start_trace();
        let mut later: Vec<Fault> = case.later.into_iter().collect();
        later.retain(|_| seed.is_multiple_of(2) && from != From::Failure);
        let in_recovery = seed.is_multiple_of(4);
        if in_recovery {
            disk.set_faults(later.clone());
        }
        let watched = self.watch(&disk, &setup);
        if later.is_empty() && seed % 4 == 1 {
            self.full_host(&disk, &legal, &setup)?;
        }
        // Names must differ from all that there may be.
        let serial = legal.serial() + 1000;
        let mut run = self.verify(disk, legal, &setup, serial)?;
        if !in_recovery {
            run.disk.set_faults(later);
        }
        run.steps(&case.more)?;
        run.disk.set_faults(Vec::new());
        if seed.is_multiple_of(3) {
            run.settle_down()?;
        }
        watched.verdict()?;
        let trace = run.disk.take_trace();
        let mut rng = Rng::new(seed);
        self.crashes(case, &trace, &run.history, from, &mut rng).map_err(|e| format!("{e}\n  the second crash"))?;
        match from {
            From::Failure => Ok(()),
            _ => self.failures(case, &trace, &run.history, &mut rng).map(drop),
        }
    }

    /// Opens while the host has no space to give: that works, or changes nothing and says why. The process then dies.
    fn full_host(&mut self, disk: &Arc<SimBackend>, legal: &History, setup: &Setup) -> Result<(), String> {
        self.tally.full += 1;
        disk.set_fresh_weak(setup.weak);
        disk.set_synced_writes(setup.ranges);
        let before = disk.live();
        disk.set_full(true);
        let opened = setup.options.open_on(disk.clone(), Arc::new(SimHost::new(setup.seed ^ 5 << 40)));
        let outcome = match opened {
            Ok(store) => match observe(&store) {
                Ok(seen) if legal.find(0, usize::MAX, seen.hash).is_some() => Ok(()),
                Ok(_) => Err("another state than it shows later".to_owned()),
                Err((what, e)) => Err(format!("{what}: {e:?}")),
            },
            Err(e) if e.kind() != ErrorKind::NoSpace => Err(format!("{e:?}")),
            Err(_) if disk.live().len() != before.len() || !disk.live().pages_unlike(&before).is_empty() => {
                Err("an opening that failed has changed the image".to_owned())
            }
            Err(_) => Ok(()),
        };
        disk.set_full(false);
        outcome.map_err(|e| format!("opening on a full host: {e}"))
    }

    pub(super) fn watch(&self, disk: &SimBackend, setup: &Setup) -> Watched {
        let seen = Violations::default();
        if self.guard {
            disk.set_guard(Some(Box::new(StoreGuard::new(guarded_format(setup.options.clone()), seen.clone()))));
        }
        Watched(seen)
    }

    /// Crash states of a workload, each carried on with another one to a second crash: `seconds` in turn.
    pub(crate) fn pairs(&mut self, case: &Case, seconds: &[Vec<Op>]) -> Result<(), String> {
        self.tally.cases += 1;
        let (trace, history) = self.first(case)?;
        let mut states = Vec::new();
        let mut at = Position::default();
        let mut walker = Walker::new(&trace);
        while walker.advance(|ev| at.pass(ev)) {
            walker.window().each(&Caps::SOME, &mut Rng::new(case.seed), &mut |pick| {
                states.push((pick.image(), history.cut(at.acked, at.issued), pick.hash()));
                true
            });
        }
        states.sort_by_key(|s| s.2);
        states.dedup_by_key(|s| s.2);
        for (i, more) in seconds.iter().enumerate() {
            let (image, legal, hash) = states[i * states.len() / seconds.len()].clone();
            let case = Case { more: more.clone(), ..case.clone() };
            quietly(|| self.second(Arc::new(SimBackend::of(image)), legal, &case, From::Crash, hash | 1))
                .map_err(|e| format!("{e}\n  {case}"))?;
        }
        Ok(())
    }

    fn count(&mut self, at: &Position, from: From, garbage: bool, lost_length: bool) {
        let t = &mut self.tally;
        t.unique += 1;
        t.double += u64::from(from == From::Crash);
        t.carried += u64::from(from == From::Death && at.syncs == 0);
        t.failed_sync += u64::from(from == From::Failure || at.failed);
        t.garbage += u64::from(garbage);
        t.lost_length += u64::from(lost_length);
        t.checkpoint += u64::from(at.phase == Phase::Checkpoint);
        t.recovery += u64::from(at.phase == Phase::Open && from != From::First);
        t.beside += u64::from(at.phase == Phase::Beside);
        t.reclaim += u64::from(at.phase == Phase::Reclaim);
    }
}

/// What a violation is, with the line that repeats it.
pub(super) fn told(what: &str, case: &Case) -> String {
    format!("{what}\n  SNAPDISK_CASE='{case}' cargo test --all-features --test it explorer::replay -- --nocapture")
}

/// A trace in short, blocks instead of bytes.
fn brief(trace: &Trace) -> String {
    let mut out = format!(" durable {} blocks", trace.start.durable.len() >> 12);
    for (i, ev) in trace.start.pending.iter().map(|p| &p.1).chain(&trace.events).enumerate() {
        if i == trace.start.pending.len() {
            out += " |";
        }
        out += &match ev {
            Ev::Write { off, data } => format!(" w{}+{}", *off as f64 / 4096.0, data.len() as f64 / 4096.0),
            Ev::SetLen(n) => format!(" len{}", n >> 12),
            Ev::Punch { off, len } => format!(" punch{}+{}", off >> 12, len >> 12),
            Ev::Reserve { off, len } => format!(" reserve{}+{}", off >> 12, len >> 12),
            Ev::Push { .. } => String::new(),
            Ev::SyncBegin { id, .. } => format!(" sync{id}("),
            Ev::SyncEnd { id, ok, .. } => format!(" {id}){}", if *ok { "" } else { "FAILED" }),
            Ev::Issued(n) => format!(" issued{n}"),
            Ev::Acked(n) => format!(" acked{n}"),
            Ev::Phase(n) => format!(" [{:?}]", Phase::of(*n)),
        };
    }
    out
}

pub(super) struct Watched(Violations);

impl Watched {
    pub(super) fn verdict(&self) -> Result<(), String> {
        let all = self.0.take();
        if all.is_empty() { Ok(()) } else { Err(format!("guard: {}", all.join("; "))) }
    }
}

/// What the guard has to know.
pub(crate) fn guarded_format(options: Options) -> Format {
    Format {
        slots: snapdisk::format::SLOTS.map(|b| b.0 * 4096),
        protected: Box::new(move |disk| {
            let needs = snapdisk::sim_support::protected(disk, Arc::new(SimHost::new(0)), &options);
            let needs = needs.map_err(|e| e.to_string())?;
            Ok(Protected { slot: needs.superblock, blocks: needs.blocks, log_pages: needs.log_pages })
        }),
        is_empty_group: |page| {
            let at = |i: usize| u32::from_le_bytes(page[i..i + 4].try_into().expect("four bytes"));
            at(0) == snapdisk::format::LOG_MAGIC && at(40) == 0 && at(44) == 0
        },
    }
}

fn rng_one_in(seed: u64, n: u64) -> bool {
    Rng::new(seed).one_in(n)
}

/// What is known at a point of a trace.
pub(super) struct Position {
    pub(super) acked: usize,
    pub(super) issued: usize,
    pub(super) phase: Phase,
    pub(super) syncs: u64,
    pub(super) failed: bool,
}

impl Default for Position {
    fn default() -> Self {
        Position { acked: 0, issued: 0, phase: Phase::Work, syncs: 0, failed: false }
    }
}

impl Position {
    pub(super) fn pass(&mut self, ev: &Ev) {
        match *ev {
            Ev::Issued(i) => self.issued = self.issued.max(i as usize),
            Ev::Acked(i) => {
                self.acked = self.acked.max(i as usize);
                if self.phase == Phase::Reclaim {
                    self.phase = Phase::Work;
                }
            }
            Ev::Phase(p) => self.phase = Phase::of(p),
            Ev::SyncEnd { ok, .. } => {
                self.syncs += u64::from(ok);
                self.failed |= !ok;
            }
            _ => {}
        }
    }
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
    static PLACE: Cell<Option<String>> = const { Cell::new(None) };
}

/// Runs `f`; a panic in it becomes an error instead of a message.
pub(crate) fn quietly<T>(f: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| match QUIET.get() {
            true => PLACE.set(info.location().map(|l| format!("at {l}"))),
            false => usual(info),
        }));
    });
    let was = QUIET.replace(true);
    let result = catch_unwind(AssertUnwindSafe(f));
    QUIET.set(was);
    result.unwrap_or_else(|p| {
        let what = p.downcast_ref::<String>().cloned().or_else(|| p.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        let place = PLACE.take().unwrap_or_default();
        Err(format!("panic: {} {place}", what.unwrap_or_default()))
    })
}

/// The eight operations of the exhaustive search, on one small volume.
pub(crate) const ALPHABET: [Op; 8] = [
    Op::Write { v: 0, b: 0, n: 0, t: 3 },
    Op::Write { v: 0, b: 0, n: 1, t: 3 },
    Op::Write { v: 0, b: 1, n: 0, t: 3 },
    Op::Trim { v: 0, b: 0, n: 0 },
    Op::Snap { v: 0 },
    Op::DelSnap { k: 0 },
    Op::Flush {},
    Op::Checkpoint {},
];

/// Every sequence of the alphabet of this length.
pub(crate) fn sequences(len: u32) -> impl Iterator<Item = Vec<Op>> {
    (0..8u32.pow(len)).map(move |n| (0..len).map(|i| ALPHABET[(n >> (3 * i)) as usize % 8]).collect())
}
