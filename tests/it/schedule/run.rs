//! Runs one case, and holds what came of it against the contract.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering::SeqCst},
};

use snapdisk::{
    AttachedVolume, Error, ErrorKind, Options, Snapshot, Store, Volume,
    io::sim::{Caps, Rng, SimBackend, SimHost, StoreGuard, Trace, Violations, Walker},
    sim_support::schedule::{Caller, Outcome, run},
};

use super::{
    case::{Act, BLOCK, BLOCKS, Case},
    history::{Did, End, History, tag_of},
};
use crate::explorer::{
    case::{size, start},
    search::guarded_format,
};

const SECTOR: usize = 512;
/// Crash states that are tried of one run.
const STATES: u64 = 10;

/// What the threads of a run share.
struct World {
    disk: Arc<SimBackend>,
    clock: AtomicU64,
    history: Mutex<History>,
    snapshots: Mutex<Vec<(String, Snapshot)>>,
    /// The attached volume, with the tag of the call that attached it.
    held: Mutex<Option<(u64, Arc<AttachedVolume>)>>,
    /// What must not happen, as far as the threads themselves see.
    wrong: Mutex<Vec<String>>,
    tight: bool,
    fault: bool,
    closes: bool,
}

fn of<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(|e| e.into_inner())
}

impl World {
    /// What an answer means; an error that the case gives no reason for is wrong.
    fn judge(&self, act: Act, result: Result<(), Error>) -> End {
        let Err(e) = result else { return End::Done };
        let (end, expected) = match e.kind() {
            ErrorKind::Closed => (End::Refused, self.closes),
            ErrorKind::Deleted | ErrorKind::NotFound => {
                let of_snapshot = matches!(act, Act::Snapshot | Act::Delete | Act::Clone) || act.rolls_back();
                (End::Refused, of_snapshot)
            }
            ErrorKind::Busy => match act {
                Act::Attach => (End::Refused, self.begun(act) > 1),
                _ => (End::Refused, act == Act::Rollback && self.begun(Act::Attach) > 0),
            },
            ErrorKind::Stale => {
                (End::Refused, matches!(act, Act::HeldWrite { .. }) && self.begun(Act::ForceRollback) > 0)
            }
            ErrorKind::NoSpace => (End::Refused, self.tight),
            ErrorKind::Poisoned => (End::Refused, self.fault),
            ErrorKind::Io => (End::Unknown, self.fault),
            _ => (End::Refused, false),
        };
        if !expected {
            of(&self.wrong).push(format!("{act}: {:?}: {e}", e.kind()));
        }
        end
    }

    fn begun(&self, act: Act) -> usize {
        of(&self.history).all.iter().filter(|d| d.act == act).count()
    }

    fn act(&self, act: Act, tag: u64, store: &Store, volume: &Volume) {
        let name = format!("s{tag}");
        let newest = || of(&self.snapshots).last().cloned();
        // An operation on a snapshot, where there is none, is none.
        let mut acted = true;
        let mut nothing = || {
            acted = false;
            Ok(())
        };
        let (begun, from_event) = (self.clock.fetch_add(1, SeqCst), self.disk.trace_len());
        let at = {
            let mut history = of(&self.history);
            // In the history before it begins, without an end.
            let (end, to_event) = (End::Unknown, usize::MAX);
            let (ended, saw) = (u64::MAX, Vec::new());
            history.all.push(Did {
                act,
                tag,
                begun,
                ended,
                from_event,
                to_event,
                end,
                saw,
                snapshot: None,
                lease: None,
            });
            history.all.len() - 1
        };
        let note = |name: &str| of(&self.history).all[at].snapshot = Some(name.to_owned());
        let held = || {
            let held = of(&self.held).clone();
            held.map(|(lease, handle)| {
                of(&self.history).all[at].lease = Some(lease);
                handle
            })
        };
        let bytes = |len: u64| -> Vec<u8> { (0..len * SECTOR as u64 / 8).flat_map(|_| tag.to_le_bytes()).collect() };
        let mut saw = Vec::new();
        let result = match act {
            Act::Write { at, len } => volume.write_at(&bytes(len), at * SECTOR as u64),
            Act::HeldWrite { at, len } => {
                held().map_or_else(nothing, |held| held.write_at(&bytes(len), at * SECTOR as u64))
            }
            Act::Attach => volume.attach().map(|handle| {
                *of(&self.held) = Some((tag, Arc::new(handle)));
            }),
            Act::Detach => {
                let taken = of(&self.held).take();
                taken.map_or_else(nothing, |(lease, handle)| {
                    of(&self.history).all[at].lease = Some(lease);
                    drop(handle);
                    Ok(())
                })
            }
            Act::Acknowledge => held().map_or_else(nothing, |held| {
                held.acknowledge(held.generation());
                Ok(())
            }),
            Act::Read { at, len } => {
                let mut bytes = vec![1; len as usize * SECTOR];
                volume.read_at(&mut bytes, at * SECTOR as u64).map(|()| saw = self.tags(&bytes))
            }
            Act::Discard { at, len } => volume.discard(at * SECTOR as u64, len * SECTOR as u64),
            Act::Snapshot => {
                note(&name);
                volume.snapshot(&name).map(|s| of(&self.snapshots).push((name.clone(), s)))
            }
            Act::Delete => {
                let oldest = {
                    let mut list = of(&self.snapshots);
                    if list.is_empty() { None } else { Some(list.remove(0)) }
                };
                oldest.map_or_else(&mut nothing, |(name, s)| {
                    note(&name);
                    store.delete_snapshot(&s)
                })
            }
            Act::Rollback | Act::ForceRollback => newest().map_or_else(nothing, |(name, s)| {
                note(&name);
                if act == Act::Rollback { volume.rollback(&s) } else { volume.forced().rollback(&s) }
            }),
            Act::Clone => newest().map_or_else(nothing, |(_, s)| store.clone_volume(&s, &format!("c{tag}")).map(drop)),
            Act::Flush => volume.flush(),
            Act::Checkpoint => store.checkpoint(),
            Act::WaitReclaimed => store.wait_reclaimed(),
            Act::Close => store.clone().close(),
            Act::Tag => volume.set_tags([("tag".to_owned(), tag.to_string())].into()),
            Act::ReadTags => tags(volume).map(|tag| saw = vec![tag]),
        };
        let end = self.judge(act, result);
        let mut history = of(&self.history);
        let did = &mut history.all[at];
        did.end = if acted { end } else { End::Refused };
        (did.ended, did.to_event, did.saw) = (self.clock.fetch_add(1, SeqCst), self.disk.trace_len(), saw);
    }

    fn tags(&self, bytes: &[u8]) -> Vec<u64> {
        bytes
            .chunks_exact(SECTOR)
            .map(|s| {
                tag_of(s).unwrap_or_else(|e| {
                    of(&self.wrong).push(e);
                    u64::MAX
                })
            })
            .collect()
    }
}

/// The number in a volume's tags; 0 where it has none.
fn tags(volume: &Volume) -> snapdisk::Result<u64> {
    volume.tags().map(|tags| tags.get("tag").map_or(0, |t| t.parse().unwrap_or(u64::MAX)))
}

/// Everything that is to be read of a store.
#[derive(PartialEq, Debug)]
struct Contents {
    /// By sector; the tags are the last one.
    volume: Vec<u64>,
    snapshots: Vec<(String, Vec<u64>)>,
    clones: Vec<(String, Vec<u64>)>,
}

fn read(what: &str, f: impl FnOnce(&mut [u8]) -> snapdisk::Result<()>) -> Result<Vec<u64>, String> {
    let mut bytes = vec![1; (BLOCKS * BLOCK) as usize * SECTOR];
    f(&mut bytes).map_err(|e| format!("{what} can't be read: {e}"))?;
    bytes.chunks_exact(SECTOR).map(tag_of).collect::<Result<_, _>>().map_err(|e| format!("{what}: {e}"))
}

fn contents(store: &Store) -> Result<Contents, String> {
    let told = |e: Error| format!("can't be listed: {e}");
    let mut out = Contents { volume: Vec::new(), snapshots: Vec::new(), clones: Vec::new() };
    for volume in store.volumes().map_err(told)? {
        let name = volume.name().map_err(told)?;
        match name.as_bytes()[0] {
            b'c' => out.clones.push((name.clone(), read(&name, |b| volume.read_at(b, 0))?)),
            _ if name == "v00" => {
                out.volume = read(&name, |b| volume.read_at(b, 0))?;
                out.volume.push(tags(&volume).map_err(told)?);
            }
            _ => {}
        }
    }
    for snapshot in store.snapshots().map_err(told)? {
        let name = snapshot.name().map_err(told)?;
        out.snapshots.push((name.clone(), read(&name, |b| snapshot.read_at(b, 0))?));
    }
    Ok(out)
}

impl Contents {
    /// Against what was done until an event of the trace, of which what returned before `durable` must show.
    fn hold(&self, history: &History, durable: u64, event: usize) -> Result<(), String> {
        history.is_a_cut(&self.volume, durable, u64::MAX, event).map_err(|e| format!("the volume: {e}"))?;
        for (name, saw) in &self.snapshots {
            let did = history.taken(name).ok_or_else(|| format!("snapshot {name:?} that nobody took"))?;
            history.is_a_cut(saw, did.begun, did.ended, event).map_err(|e| format!("snapshot {name}: {e}"))?;
        }
        for did in history.all.iter().filter(|d| d.act == Act::Snapshot) {
            let name = did.snapshot.as_deref().unwrap_or_default();
            let there = self.snapshots.iter().any(|(n, _)| n == name);
            let (must, may) = history.existence(name, event);
            if there && !may || !there && must {
                return Err(format!("snapshot {name}: there: {there}, must be: {must}, may be: {may}"));
            }
        }
        for (name, saw) in &self.clones {
            history.is_a_cut(saw, 0, u64::MAX, event).map_err(|e| format!("clone {name}: {e}"))?;
            let did = history.all.iter().find(|d| d.act == Act::Clone && format!("c{}", d.tag) == *name);
            if did.is_none_or(|d| d.end == End::Refused || d.from_event > event) {
                return Err(format!("clone {name} that was refused or not asked for"));
            }
        }
        Ok(())
    }
}

fn clean(store: &Store) -> Result<(), String> {
    let report = store.check().map_err(|e| format!("check: {e}"))?;
    if report.is_clean() { Ok(()) } else { Err(format!("check: {:?}", report.findings.first())) }
}

/// What a run left behind.
pub(super) struct Ran {
    pub(super) outcome: Outcome,
    trace: Trace,
    history: History,
    /// What all read at the end, before it was closed.
    last: Option<Contents>,
    closed: bool,
    disk: Arc<SimBackend>,
    options: Options,
}

/// Runs the threads of a case to their end. What they themselves see to be wrong is an error.
pub(super) fn threads(case: &Case) -> Result<Ran, String> {
    let (options, tight, _) = size(case.size);
    let (image, _) = start(case.size);
    let disk = Arc::new(SimBackend::of(image));
    disk.seed(case.seed);
    let seen = Violations::default();
    disk.set_guard(Some(Box::new(StoreGuard::new(guarded_format(options.clone()), seen.clone()))));
    let world = Arc::new(World {
        disk: disk.clone(),
        clock: AtomicU64::new(1),
        history: Mutex::default(),
        snapshots: Mutex::default(),
        held: Mutex::default(),
        wrong: Mutex::default(),
        tight,
        fault: case.fault.is_some(),
        closes: case.threads.iter().flatten().any(|a| *a == Act::Close),
    });
    disk.start_trace();
    let live = options.clone().manual_maintenance(false);
    let (result, outcome) = run(case.plan(), || -> Result<(Option<Contents>, bool), String> {
        let host = Arc::new(SimHost::new(case.seed));
        let store = live.open_on(disk.clone(), host).map_err(|e| format!("opening: {e}"))?;
        let volume = store.volume("v00").map_err(|e| format!("the volume: {e}"))?;
        disk.set_faults(case.fault.into_iter().collect());
        let mut callers = Vec::new();
        for (t, acts) in case.threads.iter().enumerate() {
            let (world, store, volume, acts) = (world.clone(), store.clone(), volume.clone(), acts.clone());
            let body = move || {
                for (i, act) in acts.into_iter().enumerate() {
                    world.act(act, (t * 100 + i + 1) as u64, &store, &volume);
                }
            };
            callers.push(Caller::start(&format!("caller {t}"), body).map_err(|e| e.to_string())?);
        }
        callers.into_iter().for_each(Caller::join);
        disk.set_faults(Vec::new());
        let open = store.volumes().is_ok();
        let last = if open { Some(contents(&store)?) } else { None };
        of(&world.snapshots).clear();
        let held = of(&world.held).take();
        drop(held);
        drop(volume);
        // Otherwise the last handle is dropped: a crash of the process.
        let closing = open && case.seed.is_multiple_of(2);
        let mut closed = !open && case.fault.is_none();
        if closing {
            match store.close() {
                Ok(()) => closed = true,
                Err(_) if case.fault.is_some() => {}
                Err(e) => return Err(format!("closing: {e}")),
            }
        }
        Ok((last, closed))
    });
    if let Some(failure) = outcome.failure {
        return Err(failure);
    }
    let (last, closed) = result.unwrap_or_else(|| Err("no result".to_owned()))?;
    let violations = seen.take();
    if !violations.is_empty() {
        return Err(format!("guard: {}", violations.join("; ")));
    }
    disk.set_guard(None);
    let history = of(&world.history).clone();
    let wrong = of(&world.wrong);
    if let Some(first) = wrong.first() {
        return Err(format!("an answer without a reason: {first}"));
    }
    history.reads_are_linear()?;
    history.leases_hold(last.as_ref().map(|last| &last.volume[..]))?;
    if let Some(last) = &last {
        // Everything has returned: what was not refused shows now.
        let now = world.clock.load(SeqCst);
        last.hold(&history, now, usize::MAX).map_err(|e| format!("at the end, live: {e}"))?;
    }
    Ok(Ran { outcome, trace: disk.take_trace(), history, last, closed, disk, options })
}

impl Ran {
    /// What happened on the disk, for comparison.
    pub(super) fn events(&self) -> String {
        format!("{:?}", self.trace.events)
    }

    /// Opens what is left: closed, it is what was read last; and after a power loss at some of the points it holds what it must. Returns
    /// how many states were tried.
    pub(super) fn reopen(&self, case: &Case) -> Result<u64, String> {
        let options = self.options.clone().manual_maintenance(true);
        let open = |disk: Arc<SimBackend>| {
            let host = Arc::new(SimHost::new(case.seed ^ 1));
            options.open_on(disk, host).map_err(|e| format!("can't be opened: {e}"))
        };
        if self.closed {
            let store =
                open(Arc::new(SimBackend::of(self.disk.medium().latest()))).map_err(|e| format!("closed: {e}"))?;
            clean(&store).map_err(|e| format!("closed: {e}"))?;
            let now = contents(&store).map_err(|e| format!("closed: {e}"))?;
            if self.last.as_ref().is_some_and(|last| *last != now) {
                return Err(format!("closed with {:?}, opened with {now:?}", self.last));
            }
            now.hold(&self.history, self.history.durable(usize::MAX), usize::MAX)
                .map_err(|e| format!("closed: {e}"))?;
        }
        let mut points = 0;
        let mut walker = Walker::new(&self.trace);
        while walker.advance(|_| {}) {
            points += 1;
        }
        let (mut rng, mut states) = (Rng::new(case.seed), 0);
        let mut walker = Walker::new(&self.trace);
        while walker.advance(|_| {}) {
            if rng.below(points) >= STATES / 2 {
                continue;
            }
            let event = walker.position();
            let durable = self.history.durable(event);
            let window = walker.window();
            let mut outcome = Ok(());
            let mut tried = 0;
            let first = rng.below(4);
            window.each(&Caps::FEW, &mut Rng::new(rng.number()), &mut |pick| {
                tried += 1;
                if tried % 4 != first {
                    return true;
                }
                states += 1;
                outcome = open(Arc::new(SimBackend::of(pick.image()))).and_then(|store| {
                    clean(&store)?;
                    contents(&store)?.hold(&self.history, durable, event)
                });
                if let Err(e) = &mut outcome {
                    *e = format!("{e}\n  power loss at event {event} of {}, {pick:?}", self.trace.events.len());
                }
                outcome.is_ok() && tried < 12
            });
            outcome?;
        }
        Ok(states)
    }
}
