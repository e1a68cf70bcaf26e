//! A seeded scheduler: real threads of which exactly one runs, and a seed decides at each switch point which one goes on.
//!
//! A switch point is every operation on a lock or a bell of [`crate::sync`], the start and end of a thread, and every call of the simulated
//! disk. A lock is taken by an attempt, and whoever fails is out until it is released; a wait with a time limit may end at any time. If
//! nobody can go on, or the run takes more steps than its budget, the run has failed: everyone who meets a switch point unwinds.
//!
//! Why not shuttle or loom: both replace every lock and thread of a build, while here the same binary also runs with real threads, and the
//! disk's calls have to be switch points too. A seed has to replay the order of threads together with the crash states that follow
//! from it, which neither of them records.

use rustc_hash::FxHasher;
use std::{
    any::{Any, type_name},
    cell::{Cell, RefCell},
    fmt::Write,
    hash::{Hash, Hasher},
    panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind},
    sync::Arc,
    thread,
    time::Duration,
};

/// How the next thread is chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Choice {
    /// Any one that can go on.
    Uniform,
    /// The same one mostly, another every so many steps.
    Sticky(u64),
    /// The one with the highest of random priorities; at so many random steps the running one falls behind all others. Finds, with a known
    /// probability, what needs few switches in the right places (Burckhardt et al., ASPLOS 2010).
    Priority(u32),
}

/// What a run follows from.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Decides everything that is open.
    pub seed: u64,
    /// How the next thread is chosen.
    pub choice: Choice,
    /// Switch points that a run is expected to have: those at which priorities change lie among them.
    pub expected: u64,
    /// Switch points after which a run counts as one that never ends.
    pub budget: u64,
}

/// What came of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Switch points passed.
    pub steps: u64,
    /// Hash of who passed which switch point when: equal for equal runs.
    pub hash: u64,
    /// A deadlock, a run without end, a panic.
    pub failure: Option<String>,
}

/// Steps after which a thread that never waits lets others go first, so that one that waits for another by trying again gets on.
const STREAK: u64 = 4000;
/// One in so many choices ends a wait with a time limit although others could go on.
const TIMEOUT: u64 = 48;

/// What a thread runs.
pub(super) type Body = Box<dyn FnOnce() + Send>;

/// What unwinds the threads of a run that has failed.
struct Aborted;

/// Whether a thread can go on.
#[derive(Clone, Copy, PartialEq)]
enum Going {
    Ready,
    /// Until `key` is woken, or some time has passed.
    Waiting {
        key: usize,
        timed: bool,
        what: &'static str,
        place: &'static Location<'static>,
    },
    Done,
}

struct Task {
    name: String,
    going: Going,
    /// Its wait ended because the time was over.
    late: bool,
    priority: u64,
    signal: Arc<parking_lot::Condvar>,
}

struct Core {
    plan: Plan,
    random: u64,
    changes: Vec<u64>,
    tasks: Vec<Task>,
    current: usize,
    streak: u64,
    /// Falls below all priorities given so far.
    lowest: u64,
    steps: u64,
    trace: FxHasher,
    failure: Option<String>,
}

struct Run(parking_lot::Mutex<Core>);

thread_local! {
    static ON: Cell<bool> = const { Cell::new(false) };
    static ME: RefCell<Option<(Arc<Run>, usize)>> = const { RefCell::new(None) };
}

fn is_on() -> bool {
    ON.try_with(Cell::get).unwrap_or(false)
}

fn me() -> Option<(Arc<Run>, usize)> {
    if !is_on() {
        return None;
    }
    ME.with_borrow(Clone::clone)
}

fn enter(run: &Arc<Run>, id: usize) {
    ME.set(Some((run.clone(), id)));
    ON.set(true);
}

fn leave() {
    ON.set(false);
    ME.set(None);
}

impl Core {
    fn number(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.number() % n.max(1) as u64) as usize
    }

    fn add(&mut self, name: &str) -> usize {
        // Well above what threads that fall behind get.
        let priority = (1 << 32) + self.number() % (1 << 32);
        let signal = Arc::default();
        self.tasks.push(Task { name: name.to_owned(), going: Going::Ready, late: false, priority, signal });
        self.tasks.len() - 1
    }

    fn fall_behind(&mut self) {
        self.lowest = self.lowest.saturating_sub(1);
        self.tasks[self.current].priority = self.lowest;
    }

    fn fail(&mut self, what: String) {
        self.failure.get_or_insert(what);
        for task in &self.tasks {
            task.signal.notify_all();
        }
    }

    fn wake(&mut self, key: usize) {
        for task in &mut self.tasks {
            if matches!(task.going, Going::Waiting { key: k, .. } if k == key) {
                task.going = Going::Ready;
            }
        }
    }

    fn told(&self) -> String {
        let mut out = String::new();
        for t in &self.tasks {
            let _ = match t.going {
                Going::Ready => write!(out, "; {} can go on", t.name),
                Going::Waiting { what, place, .. } => write!(out, "; {} waits for {what} at {place}", t.name),
                Going::Done => write!(out, "; {} has ended", t.name),
            };
        }
        out
    }

    /// Chooses who goes on.
    fn choose(&mut self) {
        self.steps += 1;
        if self.steps > self.plan.budget {
            let told = self.told();
            return self.fail(format!("no end after {} steps{told}", self.plan.budget));
        }
        let (mut ready, mut timed) = (Vec::new(), Vec::new());
        for (i, t) in self.tasks.iter().enumerate() {
            match t.going {
                Going::Ready => ready.push(i),
                Going::Waiting { timed: true, .. } => timed.push(i),
                _ => {}
            }
        }
        if ready.is_empty() && timed.is_empty() {
            if self.tasks.iter().any(|t| t.going != Going::Done) {
                let told = self.told();
                self.fail(format!("deadlock{told}"));
            }
            return;
        }
        if !timed.is_empty() && (ready.is_empty() || self.number().is_multiple_of(TIMEOUT)) {
            let late = timed[self.below(timed.len())];
            (self.tasks[late].going, self.tasks[late].late) = (Going::Ready, true);
            ready.push(late);
        }
        self.streak += 1;
        if self.changes.contains(&self.steps) || self.streak > STREAK {
            self.fall_behind();
        }
        let stays = ready.contains(&self.current) && self.streak <= STREAK;
        let another = self.number();
        let next = match self.plan.choice {
            Choice::Sticky(n) if stays && !another.is_multiple_of(n.max(1)) => self.current,
            Choice::Uniform | Choice::Sticky(_) => ready[self.below(ready.len())],
            Choice::Priority(_) => {
                let of = |i: &usize| self.tasks[*i].priority;
                ready.iter().copied().max_by_key(of).unwrap_or(self.current)
            }
        };
        if next != self.current {
            self.streak = 0;
            self.current = next;
            self.tasks[next].signal.notify_all();
        }
    }
}

impl Run {
    /// Passes a switch point. `None`: the run has failed, and the thread unwinds already. Otherwise whether a wait ended by time.
    fn step(&self, id: usize, going: Going, what: &str, place: &Location<'_>) -> Option<bool> {
        let mut core = self.0.lock();
        if core.failure.is_none() {
            (id, what, place.line()).hash(&mut core.trace);
            core.tasks[id].going = going;
            core.tasks[id].late = false;
            core.choose();
        }
        self.turn(core, id)
    }

    fn turn(&self, mut core: parking_lot::MutexGuard<'_, Core>, id: usize) -> Option<bool> {
        let signal = core.tasks[id].signal.clone();
        while core.failure.is_none() && core.current != id {
            signal.wait(&mut core);
        }
        if core.failure.is_none() {
            return Some(core.tasks[id].late);
        }
        drop(core);
        if !thread::panicking() {
            resume_unwind(Box::new(Aborted));
        }
        None
    }

    /// Ends a thread's part in the run.
    fn finish(&self, id: usize, result: Result<(), Box<dyn Any + Send>>) {
        let mut core = self.0.lock();
        core.tasks[id].going = Going::Done;
        core.wake(end_of(id));
        match result {
            Err(p) if !p.is::<Aborted>() => {
                let what = p.downcast_ref::<String>().map(String::as_str).or(p.downcast_ref::<&str>().copied());
                let what = format!("{} panicked: {}", core.tasks[id].name, what.unwrap_or("(no message)"));
                core.fail(what);
            }
            _ if core.failure.is_none() => core.choose(),
            _ => {}
        }
        // The thread that made the run may wait for the last one of a run that failed.
        core.tasks[0].signal.notify_all();
    }
}

/// What waits for the end of a thread.
fn end_of(id: usize) -> usize {
    usize::MAX - id
}

/// What stands for a lock or bell.
pub(super) fn key<T>(of: &T) -> usize {
    std::ptr::from_ref(of).addr()
}

/// A place where another thread may go on.
#[track_caller]
pub(crate) fn point(what: &'static str) {
    if let Some((run, id)) = me() {
        run.step(id, Going::Ready, what, Location::caller());
    }
}

/// Takes a lock: by `attempt` in a scheduled thread, by `real` in any other.
#[track_caller]
pub(super) fn acquire<T, G>(key: usize, mut attempt: impl FnMut() -> Option<G>, real: impl FnOnce() -> G) -> G {
    let Some((run, id)) = me() else { return real() };
    let (what, place) = (type_name::<T>(), Location::caller());
    let mut going = Going::Ready;
    while run.step(id, going, what, place).is_some() {
        if let Some(guard) = attempt() {
            return guard;
        }
        going = Going::Waiting { key, timed: false, what, place };
    }
    real()
}

/// Tells that a lock is free.
pub(super) fn released(key: usize) {
    if let Some((run, id)) = me() {
        run.0.lock().wake(key);
        run.step(id, Going::Ready, "a release", Location::caller());
    }
}

/// Lets those go on who wait for `key`.
pub(super) fn wake(key: usize) {
    if let Some((run, _)) = me() {
        run.0.lock().wake(key);
    }
}

/// Waits for `key` until `rung` says yes, or, if `timed`, some time has passed. `None`: the thread is not scheduled.
#[track_caller]
pub(super) fn wait(key: usize, timed: bool, mut rung: impl FnMut() -> bool) -> Option<bool> {
    let (run, id) = me()?;
    let (what, place) = ("a bell", Location::caller());
    let mut going = Going::Ready;
    loop {
        let late = run.step(id, going, what, place);
        if rung() {
            return Some(true);
        }
        match late {
            None => return Some(false),
            Some(true) if going != Going::Ready => return Some(false),
            _ => going = Going::Waiting { key, timed, what, place },
        }
    }
}

/// Makes a thread part of the caller's run: its number, and what it has to run. `Err`: the caller is in none.
pub(super) fn enlist<F: FnOnce() + Send + 'static>(name: &str, body: F) -> Result<(usize, Body), F> {
    let Some((run, _)) = me() else { return Err(body) };
    let id = run.0.lock().add(name);
    let scheduled = move || {
        enter(&run, id);
        let result = catch_unwind(AssertUnwindSafe(|| {
            run.turn(run.0.lock(), id);
            body();
        }));
        run.finish(id, result);
        leave();
    };
    Ok((id, Box::new(scheduled)))
}

/// A thread was started, or could not be.
#[track_caller]
pub(super) fn started(id: usize, ok: bool) {
    if let Some((run, me)) = me() {
        if !ok {
            run.0.lock().tasks[id].going = Going::Done;
        }
        run.step(me, Going::Ready, "a start", Location::caller());
    }
}

/// Waits for the end of a thread of the same run.
#[track_caller]
pub(super) fn join(id: usize) {
    let Some((run, me)) = me() else { return };
    let place = Location::caller();
    while run.0.lock().tasks[id].going != Going::Done {
        let going = Going::Waiting { key: end_of(id), timed: false, what: "the end of a thread", place };
        if run.step(me, going, "a join", place).is_none() {
            return;
        }
    }
}

/// Runs `f` with the calling thread outside its schedule: what it does is one step.
pub(crate) fn unscheduled<T>(f: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            ON.set(self.0);
        }
    }
    let _restore = Restore(ON.replace(false));
    f()
}

/// A thread of a run that a harness started.
pub struct Caller(super::Thread);

impl Caller {
    /// Starts one in the caller's run.
    pub fn start(name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<Caller> {
        super::spawn(name, body).map(Caller)
    }
    /// Waits for its end.
    #[track_caller]
    pub fn join(self) {
        self.0.join();
    }
}

/// Runs `f`, and every thread that it starts, one at a time as the plan has it. Returns once all have ended.
pub fn run<T>(plan: Plan, f: impl FnOnce() -> T) -> (Option<T>, Outcome) {
    let mut core = Core {
        plan,
        random: plan.seed,
        changes: Vec::new(),
        tasks: Vec::new(),
        current: 0,
        streak: 0,
        lowest: 1 << 32,
        steps: 0,
        trace: FxHasher::default(),
        failure: None,
    };
    if let Choice::Priority(changes) = plan.choice {
        core.changes = (0..changes).map(|_| core.number() % plan.expected.max(1)).collect();
    }
    core.add("main");
    let run = Arc::new(Run(parking_lot::Mutex::new(core)));
    enter(&run, 0);
    let mut out = None;
    let result = catch_unwind(AssertUnwindSafe(|| {
        out = Some(f());
        let mut id = 1;
        while run.0.lock().tasks.len() > id {
            join(id);
            id += 1;
        }
    }));
    run.finish(0, result);
    leave();
    let mut core = run.0.lock();
    let signal = core.tasks[0].signal.clone();
    while core.tasks.iter().any(|t| t.going != Going::Done) {
        // Only threads of a failed run are left, which unwind by themselves; one that can't is left alone.
        if signal.wait_for(&mut core, Duration::from_secs(5)).timed_out() {
            break;
        }
    }
    let failure = core.failure.clone();
    let out = if failure.is_none() { out } else { None };
    (out, Outcome { steps: core.steps, hash: core.trace.finish(), failure })
}

#[cfg(test)]
mod tests;
