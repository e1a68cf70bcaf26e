//! A disk that can lose power: the storage simulator.
//!
//! [`SimBackend`] keeps a file in memory twice: as the process sees it (the page cache) and as the medium holds it
//! (what the last completed sync covered). Everything between is the *window*. It records a [`Trace`], fails on
//! request ([`Fault`]), counts calls, and tells a [`Guard`] about each before it happens.
//!
//! From a trace, [`Walker`] replays the disk to every point at which a crash is worth trying, just before each sync
//! completes and at the end, and a [`Window`] there yields the states that a power loss may leave:
//!
//! | level | a sector or length after the crash |
//! |---|---|
//! | M0 | process death: every completed call survives ([`SimBackend::reborn`] carries the window on) |
//! | M1 | each 512-byte sector holds its durable version or any version written in the window; any length of the window; a punched sector old or zero |
//! | M1g | up to two 4 KiB pages with a pending write are garbage, whole or for a short run |
//! | M2 | a lost length with kept data cuts the data off; a kept length with lost data shows zeros or stale bytes |
//! | M3 | a failed sync: each dirty page is on the medium or not, none is dirty any more, the process still sees all |
//!
//! A state opens as a new [`SimBackend`] that shares its pages with the others, so it costs what changed.
//! Everything random comes from seeds: the same calls give the same trace. Each call, and the middle of a sync, is a switch point of a
//! seeded schedule (`sim_support::schedule`).

mod faults;
mod gate;
mod guard;
mod image;
mod states;
mod trace;
mod walker;

use std::{
    collections::BTreeSet,
    io::{self, IoSlice},
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;

pub use faults::{CALLS, Call, Counts, EINTR, EIO, ENOSPC, Fault, How};
pub use gate::Gate;
pub use guard::{Format, Guard, Mutation, Protected, ReadOnlyGuard, StoreGuard, Violations};
pub use image::{Image, PAGE, Rng, SECT};
pub use states::{Caps, Garbage, Pick, Window};
pub use trace::{Ev, Medium, Pages, Trace};
pub use walker::Walker;

use crate::{
    io::{Backend, Host, Lane},
    sync::schedule::{point, unscheduled},
};
use faults::{Plan, errno};

/// What is run in the middle of a call: of which kind, and on which lane if it is a sync.
pub type During = Box<dyn FnMut(Call, Option<Lane>) + Send>;

/// A simulated file; see the [module](self).
pub struct SimBackend {
    inner: Mutex<Sim>,
}

struct Sim {
    live: Image,
    medium: Medium,
    /// The length that the medium has once the window is on it.
    length: u64,
    /// Pages of which the process sees other bytes than the medium will ever get.
    ghosts: BTreeSet<u64>,
    trace: Option<Trace>,
    read_log: Option<BTreeSet<u64>>,
    plan: Plan,
    rng: Rng,
    guard: Option<Box<dyn Guard>>,
    gate: Option<Arc<Gate>>,
    during: Option<During>,
    next_sync: u32,
    failed: bool,
    full: bool,
    cold: bool,
    mapped: bool,
    foreign: bool,
    fresh_is_weak: bool,
    syncs_ranges: bool,
}

impl Default for SimBackend {
    fn default() -> Self {
        SimBackend::new()
    }
}

impl SimBackend {
    /// An empty file.
    pub fn new() -> SimBackend {
        SimBackend::of(Image::default())
    }

    /// A file that holds `image`, durably.
    pub fn of(image: Image) -> SimBackend {
        SimBackend::over(image.clone(), Medium::new(image), BTreeSet::new())
    }

    /// The file as the next process finds it when one has died: `live` in the page cache over `medium`.
    pub fn reborn(live: Image, medium: Medium) -> SimBackend {
        let ghosts = live.pages_unlike(&medium.latest());
        SimBackend::over(live, medium, ghosts)
    }

    fn over(live: Image, medium: Medium, ghosts: BTreeSet<u64>) -> SimBackend {
        let sim = Sim {
            length: live.len(),
            live,
            medium,
            ghosts,
            trace: None,
            read_log: None,
            plan: Plan::default(),
            rng: Rng::new(0),
            guard: None,
            gate: None,
            during: None,
            next_sync: 0,
            failed: false,
            full: false,
            cold: true,
            mapped: false,
            foreign: false,
            fresh_is_weak: false,
            syncs_ranges: true,
        };
        SimBackend { inner: Mutex::new(sim) }
    }

    /// Seeds what is random here: which pages survive a failed sync, how short a short call is.
    pub fn seed(&self, seed: u64) {
        self.inner.lock().rng = Rng::new(seed);
    }
    /// Starts a new trace at the present state.
    pub fn start_trace(&self) {
        let mut sim = self.inner.lock();
        sim.trace = Some(Trace { start: sim.medium.clone(), live: sim.live.clone(), events: Vec::new() });
    }
    /// Ends the trace and returns it; empty if none was started.
    pub fn take_trace(&self) -> Trace {
        self.inner.lock().trace.take().unwrap_or_default()
    }
    /// How many events the trace has.
    pub fn trace_len(&self) -> usize {
        self.inner.lock().trace.as_ref().map_or(0, |t| t.events.len())
    }
    /// Starts to note which pages are read.
    pub fn start_read_log(&self) {
        self.inner.lock().read_log = Some(BTreeSet::new());
    }
    /// The pages read since; none if nothing was noted.
    pub fn take_read_log(&self) -> BTreeSet<u64> {
        self.inner.lock().read_log.take().unwrap_or_default()
    }
    /// Puts a mark of the harness into the trace.
    pub fn mark(&self, ev: Ev) {
        if let Some(t) = &mut self.inner.lock().trace {
            t.events.push(ev);
        }
    }
    /// What the process sees.
    pub fn live(&self) -> Image {
        self.inner.lock().live.clone()
    }
    /// What is on the medium for sure, and the window.
    pub fn medium(&self) -> Medium {
        self.inner.lock().medium.clone()
    }
    /// What the calls so far were.
    pub fn counts(&self) -> Counts {
        self.inner.lock().plan.counts.clone()
    }
    /// Sets the planned failures; their counting starts here.
    pub fn set_faults(&self, faults: Vec<Fault>) {
        self.inner.lock().plan.set(faults);
    }
    /// Makes the host full, or not: nothing but space already given can be written, no space is given.
    pub fn set_full(&self, full: bool) {
        self.inner.lock().full = full;
    }
    /// Puts a guard in place, which hears of each call that changes something before it happens.
    pub fn set_guard(&self, guard: Option<Box<dyn Guard>>) {
        let mut sim = self.inner.lock();
        sim.guard = guard;
        let durable = sim.medium.durable.clone();
        if let Some(g) = &mut sim.guard {
            g.durable(durable, None);
        }
    }
    /// Puts a gate in the way of syncs: each waits at it between its beginning and its end.
    pub fn set_gate(&self, gate: Option<Arc<Gate>>) {
        self.inner.lock().gate = gate;
    }
    /// Has something run in the middle of each read, write, push and sync, on the thread that makes it: what another thread
    /// might do meanwhile, at a moment that is always the same. It must not want what that thread holds.
    pub fn set_during(&self, during: Option<During>) {
        self.inner.lock().during = during;
    }
    /// Whether cold reads exist; without them they read what the process sees. They do from the start.
    pub fn set_cold(&self, cold: bool) {
        self.inner.lock().cold = cold;
    }
    /// Whether [`Backend::read_mapped`] works. Not from the start.
    pub fn set_mapped(&self, mapped: bool) {
        self.inner.lock().mapped = mapped;
    }
    /// Whether fresh space counts as weak, so that the engine writes it before it uses it. Not from the start.
    pub fn set_fresh_weak(&self, weak: bool) {
        self.inner.lock().fresh_is_weak = weak;
    }
    /// Whether [`Backend::write_synced`] works. It does from the start.
    pub fn set_synced_writes(&self, works: bool) {
        self.inner.lock().syncs_ranges = works;
    }
    /// Makes every caller a forked child, or not.
    pub fn set_foreign(&self, foreign: bool) {
        self.inner.lock().foreign = foreign;
    }
}

impl SimBackend {
    /// Begins a call that changes something. Says whether a sync had failed by then: what is under way when one fails may still be done.
    #[track_caller]
    fn begin(&self, what: &'static str) -> bool {
        let failed = self.inner.lock().failed;
        point(what);
        failed
    }

    fn meanwhile(&self, call: Call, lane: Option<Lane>) {
        let during = self.inner.lock().during.take();
        if let Some(mut during) = during {
            during(call, lane);
            self.inner.lock().during.get_or_insert(during);
        }
    }
}

impl Sim {
    fn event(&mut self, ev: Ev) {
        self.medium.apply(&ev);
        if let Some(t) = &mut self.trace {
            t.events.push(ev);
        }
    }

    fn tell(&mut self, m: Mutation<'_>, failed: bool) {
        if let Some(g) = &mut self.guard {
            // It reads the image with an engine of its own, under the lock of this file.
            unscheduled(|| g.before(&m, failed));
        }
    }

    fn tell_durable(&mut self, by: Option<(Lane, Option<Arc<[Pages]>>)>) {
        if let Some(g) = &mut self.guard {
            unscheduled(|| g.durable(self.medium.durable.clone(), by));
        }
    }

    fn grow(&mut self, len: u64) {
        if len > self.length {
            self.length = len;
            self.event(Ev::SetLen(len));
        }
        if len > self.live.len() {
            self.live.set_len(len);
        }
    }

    fn write(&mut self, off: u64, bytes: &[u8], failed: bool) -> io::Result<usize> {
        let given = self.live.is_given(off, bytes.len() as u64);
        let how = self.plan.enter(Call::Write).or((self.full && !given).then_some(How::Errno(ENOSPC)));
        let done = match how {
            None => bytes.len(),
            Some(How::Short) => bytes.len().min(1 + self.rng.below((bytes.len() as u64).saturating_sub(1)) as usize),
            Some(How::Errno(EIO)) => self.rng.below(bytes.len() as u64 + 1) as usize / SECT * SECT,
            Some(_) => 0,
        };
        self.plan.counts.writes_not_given += u64::from(!given && done > 0);
        self.tell(Mutation::Write { off, data: &bytes[..done], given: given || done == 0 }, failed);
        self.store(off, &bytes[..done]);
        match how {
            Some(How::Errno(code)) => Err(errno(code)),
            _ => Ok(done),
        }
    }

    fn store(&mut self, off: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let end = off + bytes.len() as u64;
        self.grow(end);
        self.live.write(off, bytes);
        self.plan.counts.bytes_written += bytes.len() as u64;
        // Whole sectors; and whole pages where a ghost is: a page is written as the cache has it.
        let ghost = (off / PAGE as u64..end.div_ceil(PAGE as u64)).any(|p| self.ghosts.remove(&p));
        let unit = if ghost { PAGE } else { SECT } as u64;
        let (from, to) = (off / unit * unit, end.div_ceil(unit) * unit);
        let mut data = vec![0; (to - from) as usize];
        self.live.read(from, &mut data);
        self.event(Ev::Write { off: from, data: data.into() });
    }

    fn read(&mut self, call: Call, off: u64, buf: &mut [u8]) -> io::Result<usize> {
        let how = self.plan.enter(call);
        let want = match how {
            Some(How::Errno(code)) => return Err(errno(code)),
            Some(How::Short) => 1 + self.rng.below(buf.len().saturating_sub(1) as u64) as usize,
            Some(How::Nothing) => 0,
            None => buf.len(),
        };
        let want = want.min(buf.len());
        let n = self.live.read(off, &mut buf[..want]);
        if call == Call::ReadCold && self.cold && !self.ghosts.is_empty() {
            // A cold read has the dirty pages written out first, so it sees the window; ghosts it does not.
            for p in self.ghosts.range(off / PAGE as u64..(off + n as u64).div_ceil(PAGE as u64)) {
                let from = (p * PAGE as u64).max(off);
                let to = ((p + 1) * PAGE as u64).min(off + n as u64);
                let at = (from % PAGE as u64) as usize;
                let page = &self.medium.durable.page(*p)[at..at + (to - from) as usize];
                buf[(from - off) as usize..(to - off) as usize].copy_from_slice(page);
            }
        }
        self.plan.counts.bytes_read += n as u64;
        if n > 0 {
            let pages = off / PAGE as u64..(off + n as u64).div_ceil(PAGE as u64);
            self.plan.counts.pages_read += pages.end - pages.start;
            if let Some(log) = &mut self.read_log {
                log.extend(pages);
            }
        }
        Ok(n)
    }
}

impl Backend for SimBackend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.inner.lock().live.len())
    }

    fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<usize> {
        point("a read");
        self.meanwhile(Call::Read, None);
        self.inner.lock().read(Call::Read, off, buf)
    }

    fn read_cold(&self, off: u64, buf: &mut [u8]) -> io::Result<usize> {
        point("a cold read");
        self.inner.lock().read(Call::ReadCold, off, buf)
    }

    fn has_cold_reads(&self) -> bool {
        self.inner.lock().cold
    }

    fn read_mapped(&self, off: u64, buf: &mut [u8]) -> io::Result<bool> {
        point("a read of the map");
        let mut sim = self.inner.lock();
        if !sim.mapped || off + buf.len() as u64 > sim.live.len() {
            return Ok(false);
        }
        Ok(sim.read(Call::Read, off, buf)? == buf.len())
    }

    fn write_at(&self, off: u64, buf: &[u8]) -> io::Result<usize> {
        let failed = self.begin("a write");
        self.meanwhile(Call::Write, None);
        self.inner.lock().write(off, buf, failed)
    }

    fn write_vectored_at(&self, off: u64, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let failed = self.begin("a write");
        self.meanwhile(Call::Write, None);
        let all: Vec<u8> = bufs.iter().flat_map(|b| b.iter().copied()).collect();
        self.inner.lock().write(off, &all, failed)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let failed = self.begin("a change of length");
        let mut sim = self.inner.lock();
        sim.tell(Mutation::SetLen(len), failed);
        if let Some(How::Errno(code)) = sim.plan.enter(Call::SetLen) {
            return Err(errno(code));
        }
        let old = sim.live.len();
        if len < old && !len.is_multiple_of(SECT as u64) {
            // The sector that is cut through changes as well.
            let pad = vec![0; SECT - (len % SECT as u64) as usize];
            sim.store(len, &pad);
        }
        sim.live.set_len(len);
        sim.length = len;
        sim.event(Ev::SetLen(len));
        Ok(())
    }

    fn punch(&self, off: u64, len: u64) -> io::Result<()> {
        let failed = self.begin("a punch");
        let mut sim = self.inner.lock();
        sim.tell(Mutation::Punch { off, len }, failed);
        if let Some(How::Errno(code)) = sim.plan.enter(Call::Punch) {
            return Err(errno(code));
        }
        let end = (off + len).min(sim.live.len());
        if off >= end {
            return Ok(());
        }
        if !off.is_multiple_of(SECT as u64) || !end.is_multiple_of(SECT as u64) {
            return Err(errno(22));
        }
        sim.live.zero(off, end - off);
        for p in off / PAGE as u64..end.div_ceil(PAGE as u64) {
            sim.ghosts.remove(&p);
        }
        sim.event(Ev::Punch { off, len: end - off });
        Ok(())
    }

    fn reserve(&self, off: u64, len: u64) -> io::Result<()> {
        let failed = self.begin("a reservation");
        let mut sim = self.inner.lock();
        sim.tell(Mutation::Reserve { off, len }, failed);
        if let Some(How::Errno(code)) = sim.plan.enter(Call::Reserve) {
            return Err(errno(code));
        }
        if sim.full && !sim.live.is_given(off, len) {
            return Err(errno(ENOSPC));
        }
        sim.grow(off + len);
        sim.live.give(off, len);
        sim.event(Ev::Reserve { off, len });
        Ok(())
    }

    fn is_fresh_space_weak(&self) -> bool {
        self.inner.lock().fresh_is_weak
    }

    fn push(&self, off: u64, len: u64) -> io::Result<()> {
        let failed = self.begin("a push");
        self.meanwhile(Call::Push, None);
        let mut sim = self.inner.lock();
        sim.tell(Mutation::Push { off, len }, failed);
        if let Some(How::Errno(code)) = sim.plan.enter(Call::Push) {
            // It consumed the error: what it covered is clean and may be lost, as after a failed sync.
            let id = sim.next_sync;
            sim.next_sync += 1;
            sim.event(Ev::SyncBegin { id, lane: Lane::Checkpoint, only: None });
            sim.fail(id);
            return Err(errno(code));
        }
        sim.event(Ev::Push { off, len });
        Ok(())
    }

    fn sync_data(&self, lane: Lane) -> io::Result<()> {
        self.sync(lane, None)
    }

    fn write_synced(&self, lane: Lane, off: u64, buf: &[u8], with: &[Range<u64>]) -> io::Result<usize> {
        if !self.inner.lock().syncs_ranges {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let n = loop {
            match self.write_at(off, buf) {
                // The kernel says so only where it has written nothing.
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                outcome => break outcome?,
            }
        };
        if n > 0 {
            let ranges = with.iter().cloned().chain(std::iter::once(off..off + n as u64));
            let mut pages: Vec<Pages> = ranges.map(|r| r.start / PAGE as u64..r.end.div_ceil(PAGE as u64)).collect();
            pages.sort_unstable_by_key(|p| p.start);
            self.sync(lane, Some(pages.into()))?;
        }
        Ok(n)
    }

    fn same_process(&self) -> bool {
        !self.inner.lock().foreign
    }
}

impl SimBackend {
    /// Syncs everything, or these pages only.
    #[track_caller]
    fn sync(&self, lane: Lane, only: Option<Arc<[Pages]>>) -> io::Result<()> {
        let failed = self.begin("a sync");
        let mut sim = self.inner.lock();
        sim.tell(Mutation::Sync(lane), failed);
        let how = sim.plan.enter(Call::Sync);
        sim.plan.counts.syncs_after_failure += u64::from(failed);
        let id = sim.next_sync;
        sim.next_sync += 1;
        sim.event(Ev::SyncBegin { id, lane, only: only.clone() });
        if let Some(gate) = sim.gate.clone() {
            drop(sim);
            gate.pass(lane);
            sim = self.inner.lock();
        }
        drop(sim);
        point("a sync under way");
        self.meanwhile(Call::Sync, Some(lane));
        let mut sim = self.inner.lock();
        if let Some(How::Errno(code)) = how {
            sim.fail(id);
            return Err(errno(code));
        }
        sim.event(Ev::SyncEnd { id, ok: true, kept: Arc::default() });
        sim.tell_durable(Some((lane, only)));
        Ok(())
    }
}

impl Sim {
    fn fail(&mut self, id: u32) {
        let dirty = self.medium.dirty_pages();
        let kept: BTreeSet<u64> = dirty.iter().copied().filter(|_| self.rng.one_in(2)).collect();
        self.event(Ev::SyncEnd { id, ok: false, kept: Arc::new(kept) });
        self.failed = true;
        let latest = self.medium.latest();
        self.ghosts.extend(self.live.pages_unlike(&latest));
        self.tell_durable(None);
    }
}

/// A host whose clock counts up and whose random numbers follow from a seed.
pub struct SimHost {
    clock: AtomicU64,
    rng: Mutex<Rng>,
}

impl SimHost {
    /// The host of a seed.
    pub fn new(seed: u64) -> SimHost {
        SimHost { clock: AtomicU64::new(1_000_000_000_000), rng: Mutex::new(Rng::new(seed)) }
    }
    /// Moves the clock, backwards too.
    pub fn set_clock(&self, nanoseconds: u64) {
        self.clock.store(nanoseconds, Relaxed);
    }
}

impl Host for SimHost {
    fn now(&self) -> u64 {
        self.clock.fetch_add(1_000_000, Relaxed)
    }
    fn random(&self) -> u64 {
        self.rng.lock().number()
    }
}

#[cfg(test)]
mod tests;
