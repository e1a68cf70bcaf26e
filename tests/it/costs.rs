//! Costs that are promises, counted at the storage seam and never timed: blocks read and written, syncs, nodes copied.

use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashMap;
use snapdisk::{
    BLOCK, DiffBase, Durability, NewOptions, Options, Store, Volume,
    format::{LOG_START, SLOTS, Superblock},
    io::{Backend, Lane, sim::SimHost},
};
use std::{
    io::{self, IoSlice},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Pages of the log in these tests.
const LOG: u64 = 4096;

/// What was asked of a [`Meter`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Tally {
    /// Pages read, and how many of them were data.
    reads: u64,
    data: u64,
    /// Pages written to superblocks, to the log, and elsewhere.
    slots: u64,
    log: u64,
    others: u64,
    /// Syncs for flushes and for checkpoints.
    flushes: u64,
    checkpoints: u64,
}

/// A page: one byte all over, or bytes and then zeros. So a million blocks of data take no more memory than their number.
enum Page {
    Same(u8),
    Bytes(Box<[u8]>),
}

#[derive(Default)]
struct Image {
    len: u64,
    pages: FxHashMap<u64, Page>,
}

impl Image {
    fn read(&self, off: u64, buf: &mut [u8]) -> usize {
        let n = usize::try_from(self.len.saturating_sub(off)).unwrap().min(buf.len());
        let mut done = 0;
        while done < n {
            let (page, within) = ((off + done as u64) / BLOCK as u64, ((off + done as u64) % BLOCK as u64) as usize);
            let out = &mut buf[done..n.min(done + BLOCK - within)];
            match self.pages.get(&page) {
                Some(Page::Same(b)) => out.fill(*b),
                Some(Page::Bytes(bytes)) => {
                    let from = bytes.get(within..).unwrap_or(&[]);
                    let k = from.len().min(out.len());
                    out[..k].copy_from_slice(&from[..k]);
                    out[k..].fill(0);
                }
                None => out.fill(0),
            }
            done += out.len();
        }
        n
    }
    fn write(&mut self, off: u64, buf: &[u8]) {
        assert!(off.is_multiple_of(BLOCK as u64) && buf.len().is_multiple_of(BLOCK), "the engine writes whole pages");
        for (page, bytes) in (off / BLOCK as u64..).zip(buf.chunks_exact(BLOCK)) {
            let end = bytes.iter().rposition(|&b| b != 0).map_or(0, |i| i + 1);
            let same = end == BLOCK && bytes.iter().all(|&b| b == bytes[0]);
            self.pages.insert(page, if same { Page::Same(bytes[0]) } else { Page::Bytes(bytes[..end].into()) });
        }
        self.len = self.len.max(off + buf.len() as u64);
    }
}

/// A backend that counts.
#[derive(Default)]
struct Meter {
    image: RwLock<Image>,
    tally: Mutex<Tally>,
    syncs: AtomicU64,
}

impl Meter {
    /// What `f` costs.
    fn cost<T>(&self, f: impl FnOnce() -> T) -> (T, Tally) {
        *self.tally.lock() = Tally::default();
        let out = f();
        (out, *self.tally.lock())
    }
    fn put(&self, off: u64, buf: &[u8]) {
        self.image.write().write(off, buf);
        let mut tally = self.tally.lock();
        for page in off / BLOCK as u64..(off + buf.len() as u64) / BLOCK as u64 {
            match page {
                p if SLOTS.iter().any(|s| s.0 == p) => tally.slots += 1,
                p if (LOG_START.0..LOG_START.0 + LOG).contains(&p) => tally.log += 1,
                _ => tally.others += 1,
            }
        }
    }
}

impl Backend for Meter {
    fn len(&self) -> io::Result<u64> {
        Ok(self.image.read().len)
    }
    fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<usize> {
        let image = self.image.read();
        let n = image.read(off, buf);
        let pages = off / BLOCK as u64..(off + n as u64).div_ceil(BLOCK as u64);
        let data = pages.clone().filter(|p| matches!(image.pages.get(p), Some(Page::Same(_)))).count();
        let mut tally = self.tally.lock();
        tally.reads += pages.count() as u64;
        tally.data += data as u64;
        Ok(n)
    }
    fn read_cold(&self, off: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.read_at(off, buf)
    }
    fn has_cold_reads(&self) -> bool {
        true
    }
    fn read_mapped(&self, _off: u64, _buf: &mut [u8]) -> io::Result<bool> {
        Ok(false)
    }
    fn write_at(&self, off: u64, buf: &[u8]) -> io::Result<usize> {
        self.put(off, buf);
        Ok(buf.len())
    }
    fn write_vectored_at(&self, mut off: u64, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let start = off;
        for buf in bufs {
            self.put(off, buf);
            off += buf.len() as u64;
        }
        Ok((off - start) as usize)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut image = self.image.write();
        image.pages.retain(|&p, _| p * (BLOCK as u64) < len);
        image.len = len;
        Ok(())
    }
    fn punch(&self, off: u64, len: u64) -> io::Result<()> {
        let (from, to) = (off / BLOCK as u64, (off + len) / BLOCK as u64);
        let mut image = self.image.write();
        (from..to).for_each(|p| drop(image.pages.remove(&p)));
        Ok(())
    }
    fn reserve(&self, off: u64, len: u64) -> io::Result<()> {
        let mut image = self.image.write();
        image.len = image.len.max(off + len);
        Ok(())
    }
    fn push(&self, _off: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }
    fn sync_data(&self, lane: Lane) -> io::Result<()> {
        self.syncs.fetch_add(1, Relaxed);
        let mut tally = self.tally.lock();
        match lane {
            Lane::Flush => tally.flushes += 1,
            _ => tally.checkpoints += 1,
        }
        Ok(())
    }
    fn same_process(&self) -> bool {
        true
    }
}

/// A store on a meter, without background work: whatever is counted was asked for.
struct Bench {
    meter: Arc<Meter>,
    host: Arc<SimHost>,
    store: Option<Store>,
}

fn options() -> Options {
    Options::new().manual_maintenance(true).log_bytes(LOG * BLOCK as u64)
}

impl Bench {
    fn new() -> Bench {
        let (meter, host) = (Arc::new(Meter::default()), Arc::new(SimHost::new(1)));
        let store = options().create_on(meter.clone(), host.clone()).unwrap();
        Bench { meter, host, store: Some(store) }
    }
    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }
    fn open(&mut self) {
        self.store = Some(options().open_on(self.meter.clone(), self.host.clone()).unwrap());
    }
    fn close(&mut self) {
        self.store.take().unwrap().close().unwrap();
    }
    fn superblock(&self) -> Superblock {
        let slots = SLOTS.iter().filter_map(|slot| {
            let mut page = [0; BLOCK];
            self.meter.image.read().read(slot.offset(), &mut page);
            Superblock::decode(&page).ok()
        });
        slots.max_by_key(|sb| sb.sequence).unwrap()
    }
    /// What `f` costs on a store that was just opened: nothing is in memory. Opening itself reads superblocks and one way down the
    /// catalog, whatever there is.
    fn cold<T>(&mut self, f: impl FnOnce(&Store) -> T) -> (T, Tally) {
        self.close();
        let meter = self.meter.clone();
        let ((), cost) = meter.cost(|| self.open());
        let most = SLOTS.len() as u64 + u64::from(self.superblock().catalog.level) + 1;
        assert!(cost.reads <= most, "opening reads {} blocks, at most {most} are for it", cost.reads);
        assert_eq!(cost, Tally { reads: cost.reads, slots: 2, flushes: 1, checkpoints: 1, ..Tally::default() }, "open");
        self.meter.cost(|| f(self.store.as_ref().unwrap()))
    }
}

/// Writes `extents` blocks, no two adjacent.
fn scatter(v: &Volume, extents: u64) {
    for i in 0..extents {
        v.write_at(&[i as u8 | 1; BLOCK], i * 2 * BLOCK as u64).unwrap();
    }
}

/// A volume of `extents` extents with one snapshot.
fn with_extents(extents: u64) -> Bench {
    let b = Bench::new();
    let v = b.store().create_volume("v", extents * 2 * BLOCK as u64).unwrap();
    scatter(&v, extents);
    v.snapshot("s0").unwrap();
    b
}
/// A volume with that many snapshots, an overwrite between any two.
fn with_snapshots(snapshots: u64) -> Bench {
    let b = with_extents(256);
    let v = b.store().volume("v").unwrap();
    let deferred = NewOptions::new().durability(Durability::Deferred);
    for i in 1..snapshots {
        v.write_at(&[i as u8 | 1; BLOCK], i % 256 * 2 * BLOCK as u64).unwrap();
        b.store().snapshot_with(&v, &format!("s{i}"), deferred.clone()).unwrap();
    }
    b
}

/// Each operation on a store of its own opening, handles looked up inside: one page of log, one sync, and no more reads than the ways
/// down the catalog (names, volume, snapshot), for each node there the page with its count, and the index of those.
fn constant_costs(mut b: Bench, name: &str) {
    type Act = fn(&Store, &str);
    let acts: [(&str, Act); 4] = [
        ("snapshot", |s, _| drop(s.volume("v").unwrap().snapshot("new").unwrap())),
        ("rollback", |s, old| {
            let v = s.volume("v").unwrap();
            v.rollback(&v.snapshot_named(old).unwrap()).unwrap();
        }),
        ("clone", |s, old| {
            let snapshot = s.volume("v").unwrap().snapshot_named(old).unwrap();
            s.clone_volume(&snapshot, "c").unwrap();
        }),
        ("delete", |s, old| {
            let snapshot = s.volume("v").unwrap().snapshot_named(old).unwrap();
            s.delete_snapshot(&snapshot).unwrap();
        }),
    ];
    for (act, f) in acts {
        b.store().volume("v").unwrap().write_at(&[255; BLOCK], 0).unwrap();
        let ((), cost) = b.cold(|s| f(s, name));
        let sb = b.superblock();
        let most = 2 * 3 * (u64::from(sb.catalog.level) + 1) + 2 * u64::from(sb.index_level) + 2;
        println!("{act}: {cost:?}, at most {most} reads");
        assert!(cost.reads <= most, "{act}: {cost:?}, more than {most} reads");
        assert_eq!(cost, Tally { reads: cost.reads, log: 1, flushes: 1, ..Tally::default() }, "{act}");
    }
    b.close();
}

#[test]
fn snapshots_cost_the_same_at_few_extents_and_at_a_million() {
    constant_costs(with_extents(1 << 8), "s0");
    constant_costs(with_extents(1 << 20), "s0");
}

#[test]
fn snapshots_cost_the_same_at_one_and_at_a_hundred_thousand() {
    constant_costs(with_snapshots(1), "s0");
    constant_costs(with_snapshots(100_000), "s500");
}

/// The first write after a snapshot copies one node a level of the volume's tree and of the catalog, and no data.
#[test]
fn the_first_write_after_a_snapshot_copies_nodes_and_no_data() {
    for (extents, height) in [(1, 1), (1 << 8, 2), (1 << 16, 3)] {
        let mut b = with_extents(extents);
        let shadowed = |s: &Store| s.counters().unwrap().nodes_shadowed;
        b.close();
        b.open();
        let v = b.store().volume("v").unwrap();
        let before = shadowed(b.store());
        let ((), first) = b.meter.cost(|| {
            v.write_at(&[255; BLOCK], 0).unwrap();
            v.flush().unwrap();
        });
        assert_eq!(shadowed(b.store()) - before, height + 1, "{extents} extents");
        assert_eq!((first.data, first.others, first.log, first.flushes), (0, 0, 2, 1), "{extents} extents: {first:?}");
        let before = shadowed(b.store());
        let ((), again) = b.meter.cost(|| {
            v.write_at(&[253; BLOCK], 0).unwrap();
            v.flush().unwrap();
        });
        assert_eq!(shadowed(b.store()), before, "already ours");
        assert_eq!(again, Tally { log: 2, flushes: 1, ..Tally::default() });
        // A snapshot in the same generation: forked once more, with nothing to read.
        v.snapshot("again").unwrap();
        let before = shadowed(b.store());
        let ((), forked) = b.meter.cost(|| {
            v.write_at(&[251; BLOCK], 0).unwrap();
            v.flush().unwrap();
        });
        assert_eq!(shadowed(b.store()) - before, height, "{extents} extents");
        assert_eq!(forked, again);
        drop(v);
        b.close();
    }
}

/// A difference reads each node that differs once, in both trees, and no data, however much the two share.
#[test]
fn a_difference_reads_what_has_changed() {
    const EXTENTS: u64 = 1 << 18;
    let mut b = with_extents(EXTENTS);
    let volume = |s: &Store| s.volume("v").unwrap();
    let (ranges, all) = b.cold(|s| s.diff(DiffBase::NOTHING, &volume(s)).unwrap().count());
    assert_eq!((ranges as u64, all.data), (EXTENTS, 0));
    // One percent of the blocks: together, in groups, and as far from each other as can be.
    for (i, group) in [EXTENTS / 100, 100, 1].into_iter().enumerate() {
        let name = format!("before{i}");
        let v = volume(b.store());
        v.snapshot(&name).unwrap();
        let shadowed = b.store().counters().unwrap().nodes_shadowed;
        for k in 0..EXTENTS / 100 {
            v.write_at(&[k as u8 | 1; BLOCK], (k / group * group * 100 + k % group) * 2 * BLOCK as u64).unwrap();
        }
        let changed = b.store().counters().unwrap().nodes_shadowed - shadowed;
        drop(v);
        let changes = |s: &Store| {
            let v = volume(s);
            let ranges = s.diff(&v.snapshot_named(&name).unwrap(), &v).unwrap();
            ranges.map(|r| r.unwrap().len / BLOCK as u64).sum::<u64>()
        };
        let (blocks, cost) = b.cold(changes);
        println!("groups of {group}: {changed} nodes changed, {cost:?}; all {all:?}");
        assert_eq!(blocks, EXTENTS / 100);
        // The rest are the ways down the catalog.
        let most = 2 * changed + 4 * (u64::from(b.superblock().catalog.level) + 1);
        assert!(cost.reads <= most, "{cost:?}, of {changed} changed nodes");
        assert_eq!(cost, Tally { reads: cost.reads, ..Tally::default() });
        assert!(group == 1 || cost.reads * 8 < all.reads, "{cost:?} of {all:?}");
    }
    b.close();
}

#[test]
fn syncs_are_counted() {
    let syncs = |flushes, checkpoints| Tally { flushes, checkpoints, ..Tally::default() };
    let only_syncs = |t: Tally| syncs(t.flushes, t.checkpoints);
    let (meter, host) = (Arc::new(Meter::default()), Arc::new(SimHost::new(1)));
    let (store, cost) = meter.cost(|| options().create_on(meter.clone(), host.clone()).unwrap());
    assert_eq!(only_syncs(cost), syncs(0, 2), "create");
    let ((), cost) = meter.cost(|| store.flush().unwrap());
    assert_eq!(cost, Tally::default(), "a flush of nothing");
    let (v, cost) = meter.cost(|| store.create_volume("v", 64 << 20).unwrap());
    assert_eq!((cost.flushes, cost.checkpoints, cost.log), (1, 0, 1), "create_volume");

    let write = |n: u64, i: u64| (0..n).for_each(|k| v.write_at(&[(i + k) as u8 | 1; BLOCK], k * 8192).unwrap());
    // Little data goes with the record, a page more a block; much to its place.
    for (n, log, others) in [(1, 2, 0), (2, 3, 0), (4, 5, 0), (5, 1, 5), (50, 1, 50)] {
        let ((), cost) = meter.cost(|| write(n, 0));
        assert_eq!(only_syncs(cost), syncs(0, 0), "writes alone");
        let ((), cost) = meter.cost(|| v.flush().unwrap());
        let expected = Tally { log, others, ..syncs(1, 0) };
        assert_eq!(cost, expected, "a flush of {n} writes");
        let ((), cost) = meter.cost(|| v.flush().unwrap());
        assert_eq!(cost, Tally::default(), "a flush of nothing more");
    }
    let ((), cost) = meter.cost(|| v.write_fua_at(&[1; BLOCK], 0).unwrap());
    assert_eq!(cost, Tally { log: 2, ..syncs(1, 0) }, "a write through");
    let ((), cost) = meter.cost(|| {
        v.discard(0, 32 << 20).unwrap();
        v.flush().unwrap();
    });
    assert_eq!((cost.flushes, cost.checkpoints, cost.log), (1, 0, 1), "a discard of 32 MiB");
    let ((), cost) = meter.cost(|| v.resize(1 << 30).unwrap());
    assert_eq!((cost.flushes, cost.checkpoints, cost.log), (1, 0, 1), "resize");
    let (_, cost) = meter.cost(|| {
        store
            .update(|u| (0..20).try_for_each(|i| u.create_volume(&format!("u{i}"), 4096, Default::default()).map(drop)))
    });
    assert_eq!((cost.flushes, cost.checkpoints, cost.log), (1, 0, 1), "twenty volumes in one update");

    let ((), cost) = meter.cost(|| store.mark().unwrap());
    assert_eq!(cost, Tally { log: 1, ..Tally::default() }, "the empty group");
    let ((), cost) = meter.cost(|| store.mark().unwrap());
    assert_eq!(cost, Tally::default(), "it stands there");
    let ((), cost) = meter.cost(|| store.checkpoint().unwrap());
    assert_eq!(only_syncs(cost), syncs(0, 2), "a checkpoint after a flush");
    write(4, 1);
    store.flush().unwrap();
    write(4, 2);
    store.flush().unwrap();
    let ((), four) = meter.cost(|| store.checkpoint().unwrap());
    write(5, 1);
    store.flush().unwrap();
    let ((), five) = meter.cost(|| store.checkpoint().unwrap());
    assert_eq!(
        four.others,
        five.others + 4,
        "a checkpoint writes to its place what only the log has, and was not replaced"
    );
    write(1, 3);
    let ((), cost) = meter.cost(|| store.checkpoint().unwrap());
    assert_eq!(only_syncs(cost), syncs(1, 2), "a checkpoint with an open group");
    let ((), cost) = meter.cost(|| store.checkpoint().unwrap());
    assert_eq!(cost, Tally::default(), "a checkpoint of nothing");
    assert_eq!(store.counters().unwrap().syncs, meter.syncs.load(Relaxed), "what the store counts");

    let ((), cost) = meter.cost(|| store.close().unwrap());
    assert_eq!((cost.flushes, cost.checkpoints, cost.others), (0, 2, 0), "close with nothing to say");
    let open = || options().open_on(meter.clone(), host.clone()).unwrap();
    let (store, cost) = meter.cost(open);
    assert_eq!((cost.flushes, cost.checkpoints, cost.others), (1, 1, 0), "open after close");
    store.volume("v").unwrap().write_at(&[1; BLOCK], 0).unwrap();
    store.flush().unwrap();
    store.volume("v").unwrap().write_at(&[3; BLOCK], 0).unwrap();
    let ((), cost) = meter.cost(|| store.close().unwrap());
    assert_eq!(only_syncs(cost), syncs(1, 2), "close with an open group");
    let store = open();
    store.volume("v").unwrap().write_at(&[1; BLOCK], 0).unwrap();
    store.flush().unwrap();
    drop(store);
    let (store, cost) = meter.cost(open);
    assert_eq!(only_syncs(cost), syncs(1, 2), "open after a crash");
    drop(store);
    let (store, cost) = meter.cost(open);
    assert_eq!(only_syncs(cost), syncs(1, 1), "open after a crash without anything new");
    drop(store);
    let (store, cost) = meter.cost(|| options().open_read_only_on(meter.clone(), host.clone()).unwrap());
    assert_eq!(cost, Tally { reads: cost.reads, ..Tally::default() }, "open for reading");
    let ((), cost) = meter.cost(|| store.close().unwrap());
    assert_eq!(cost, Tally::default(), "close after reading");
}
