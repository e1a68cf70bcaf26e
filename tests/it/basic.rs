//! The whole engine against flat arrays: random operations on a memory backend, reopened now and then.

use snapdisk::{
    DeleteSnapshots, Durability, ErrorKind, Knobs, NewOptions, Options, SnapshotId, Store, Update, Volume,
    io::MemoryBackend,
};
use std::{collections::BTreeMap, sync::Arc};

struct Counter(std::sync::atomic::AtomicU64);
impl snapdisk::io::Host for Counter {
    fn now(&self) -> u64 {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst)
    }
    fn random(&self) -> u64 {
        self.now().wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

struct Rng(u64);
impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n.max(1)
    }
}

fn compare(store: &Store, model: &BTreeMap<String, Vec<u8>>, frozen: &BTreeMap<(u64, String), Vec<u8>>) {
    for (name, want) in model {
        let v = store.volume(name).unwrap();
        let mut got = vec![1; want.len()];
        v.read_at(&mut got, 0).unwrap();
        assert!(got == *want, "volume {name} differs");
    }
    for s in store.snapshots().unwrap() {
        let want = &frozen[&(s.volume().0, s.name().unwrap())];
        let mut got = vec![1; want.len()];
        s.read_at(&mut got, 0).unwrap();
        assert!(got == *want, "snapshot differs");
    }
    assert_eq!(store.snapshots().unwrap().len(), frozen.len());
    let report = store.check().unwrap();
    assert!(report.is_clean(), "{:#?}", &report.findings[..report.findings.len().min(5)]);
}

/// How large an image gets under random overwrites is what its slack says.
/// Blocks of an image after its volume of `blocks` blocks was overwritten at random, ten times as many.
fn blocks_after_overwrites(slack: u32, blocks: u64, each: impl Fn(u64, &Store)) -> u64 {
    let knobs = Knobs { log_pages: 64, span: 64, index_fanout: 8, growth: 16, reserve: 64, ..Knobs::default() };
    let options = Options::new().manual_maintenance(true).knobs(knobs).punch_from(None).slack(slack);
    let store = options.create_on(Arc::new(MemoryBackend::new()), Arc::new(Counter(1.into()))).unwrap();
    let volume = store.create_volume("v", blocks * 4096).unwrap();
    volume.write_at(&vec![1; (blocks * 4096) as usize], 0).unwrap();
    let mut r = Rng(9);
    for i in 0..10 * blocks {
        volume.write_at(&[i as u8; 4096], r.below(blocks) * 4096).unwrap();
        each(i, &store);
    }
    store.wait_reclaimed().unwrap();
    assert!(store.check().unwrap().is_clean());
    store.counters().unwrap().image_bytes / 4096
}

#[test]
fn slack_bounds_the_space_that_overwrites_take() {
    // What was freed comes back at once: what stays free is what the allocator leaves alone.
    let at_once = |i: u64, store: &Store| {
        if i.is_multiple_of(64) {
            store.wait_reclaimed().unwrap();
        }
    };
    let (tight, loose) = (blocks_after_overwrites(0, 2000, at_once), blocks_after_overwrites(100, 2000, at_once));
    assert!((2000..2900).contains(&tight), "{tight} blocks without slack");
    assert!((3600..4800).contains(&loose), "{loose} blocks with as much free space as data");
}

/// What was freed and waits for a checkpoint is free space too: the image does not grow past its slack because of it.
#[test]
fn slack_bounds_an_image_whose_freed_space_waits_for_a_checkpoint() {
    let (tight, loose) = (blocks_after_overwrites(0, 2000, |_, _| {}), blocks_after_overwrites(100, 2000, |_, _| {}));
    assert!((2000..2900).contains(&tight), "{tight} blocks without slack");
    assert!((3600..4800).contains(&loose), "{loose} blocks with as much free space as data");
}

/// Also of an image that never had more than a few regions.
#[test]
fn deleting_gives_the_space_of_a_small_image_back() {
    let options =
        Options::new().manual_maintenance(true).create_on(Arc::new(MemoryBackend::new()), Arc::new(Counter(1.into())));
    let store = options.unwrap();
    let volume = store.create_volume("v", 48 << 20).unwrap();
    for i in 0..48 {
        volume.write_at(&vec![i as u8 + 1; 1 << 20], i << 20).unwrap();
    }
    store.delete_volume(&volume, snapdisk::DeleteSnapshots::Refuse).unwrap();
    store.wait_reclaimed().unwrap();
    store.wait_reclaimed().unwrap();
    let now = store.counters().unwrap();
    assert!(now.returned_bytes > 24 << 20, "{now:?}");
    assert!(store.check().unwrap().is_clean());
}

fn run(seed: u64, fanout: usize, span: u32) {
    let mut r = Rng(seed * 2 + 1);
    let knobs =
        Knobs { fanout, span, index_fanout: 4, log_pages: 16, reserve: 64, growth: 4, direct: 2, ..Knobs::default() };
    let options = Options::new().manual_maintenance(true).knobs(knobs).punch_from(Some(16 << 10));
    let backend = Arc::new(MemoryBackend::new());
    let host = Arc::new(Counter(seed.into()));
    let mut store = options.create_on(backend.clone(), host.clone()).unwrap();
    let mut model: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut frozen: BTreeMap<(u64, String), Vec<u8>> = BTreeMap::new();
    let mut next = 0;
    for step in 0..400 {
        let names: Vec<String> = model.keys().cloned().collect();
        let pick = |r: &mut Rng| names[r.below(names.len() as u64) as usize].clone();
        let op = if names.is_empty() { 0 } else { r.below(20) };
        let volume = |s: &Store, n: &str| -> Volume { s.volume(n).unwrap() };
        match op {
            0 if model.len() < 4 => {
                next += 1;
                let size = r.below(400) * 512;
                store.create_volume(&format!("v{next}"), size).unwrap();
                model.insert(format!("v{next}"), vec![0; size as usize]);
            }
            1..=8 => {
                let n = pick(&mut r);
                let m = model.get_mut(&n).unwrap();
                let at = r.below(m.len() as u64 + 1) as usize;
                let len = r.below((m.len() - at) as u64 + 1).min(1 + r.below(40_000)) as usize;
                let (at, len) = if r.below(2) == 0 { (at / 4096 * 4096, len / 4096 * 4096) } else { (at, len) };
                let data: Vec<u8> = (0..len).map(|i| (step * 7 + i as u64 / 100) as u8).collect();
                volume(&store, &n).write_at(&data, at as u64).unwrap();
                m[at..at + len].copy_from_slice(&data);
            }
            9..=10 => {
                let n = pick(&mut r);
                let m = model.get_mut(&n).unwrap();
                let at = r.below(m.len() as u64 + 1) as usize;
                let len = r.below((m.len() - at) as u64 + 1) as usize;
                volume(&store, &n).discard(at as u64, len as u64).unwrap();
                m[at..at + len].fill(0);
            }
            11 | 12 => {
                let n = pick(&mut r);
                next += 1;
                let name = format!("s{next}");
                let o = NewOptions::new().durability(if r.below(2) == 0 {
                    Durability::Deferred
                } else {
                    Durability::Immediate
                });
                let v = volume(&store, &n);
                store.snapshot_with(&v, &name, o).unwrap();
                frozen.insert((v.id().0, name), model[&n].clone());
            }
            13 => {
                let n = pick(&mut r);
                let v = volume(&store, &n);
                let list = v.snapshots().unwrap();
                if !list.is_empty() {
                    let s = &list[r.below(list.len() as u64) as usize];
                    let want = frozen[&(v.id().0, s.name().unwrap())].clone();
                    if r.below(3) == 0 {
                        v.rollback_keep_size(s).unwrap();
                        let mut keep = want;
                        keep.resize(model[&n].len(), 0);
                        model.insert(n, keep);
                    } else {
                        v.rollback(s).unwrap();
                        model.insert(n, want);
                    }
                }
            }
            14 => {
                let list = store.snapshots().unwrap();
                if !list.is_empty() && list.len() > 3 {
                    let s = &list[r.below(list.len() as u64) as usize];
                    frozen.remove(&(s.volume().0, s.name().unwrap()));
                    store.delete_snapshot(s).unwrap();
                }
            }
            15 => {
                let list = store.snapshots().unwrap();
                if !list.is_empty() && model.len() < 5 {
                    let s = &list[r.below(list.len() as u64) as usize];
                    next += 1;
                    store.clone_volume(s, &format!("c{next}")).unwrap();
                    model.insert(format!("c{next}"), frozen[&(s.volume().0, s.name().unwrap())].clone());
                }
            }
            16 => {
                let n = pick(&mut r);
                let size = r.below(400) * 512;
                volume(&store, &n).resize(size).unwrap();
                model.get_mut(&n).unwrap().resize(size as usize, 0);
            }
            17 => {
                if r.below(3) == 0 {
                    let n = pick(&mut r);
                    let v = volume(&store, &n);
                    let id = v.id().0;
                    if r.below(2) == 0 {
                        store.delete_volume(&v, snapdisk::DeleteSnapshots::Delete).unwrap();
                        frozen.retain(|k, _| k.0 != id);
                    } else {
                        store.delete_volume(&v, snapdisk::DeleteSnapshots::Keep).unwrap();
                    }
                    model.remove(&n);
                } else {
                    store.maintain(8).unwrap();
                }
            }
            18 => store.flush().unwrap(),
            _ => match r.below(4) {
                0 => store.checkpoint().unwrap(),
                1 => {
                    store.close().unwrap();
                    store = options.open_on(backend.clone(), host.clone()).unwrap();
                }
                2 => {
                    store.flush().unwrap();
                    drop(store);
                    store = options.open_on(backend.clone(), host.clone()).unwrap();
                }
                _ => compare(&store, &model, &frozen),
            },
        }
        if step % 16 == 0 {
            compare(&store, &model, &frozen);
        }
    }
    store.wait_reclaimed().unwrap();
    compare(&store, &model, &frozen);
    store.close().unwrap();
    let store = options.open_read_only_on(backend, host).unwrap();
    compare(&store, &model, &frozen);
}

#[test]
fn random_operations_match_flat_arrays() {
    for seed in 1..=60 {
        println!("seed {seed}");
        run(seed, if seed % 2 == 0 { 4 } else { usize::MAX }, if seed % 3 == 0 { 1008 } else { 32 });
    }
}

/// Volumes are numbered in each store by itself: a handle of another one must not be taken for one of this.
#[test]
fn an_update_refuses_handles_of_another_store() {
    type Act = fn(&mut Update<'_>, &Volume, SnapshotId);
    const ACTS: [Act; 6] = [
        |tx, v, _| tx.delete_volume(v, DeleteSnapshots::Delete),
        |tx, v, s| tx.rollback(v, s),
        |tx, v, _| tx.rename(v, "other"),
        |tx, v, _| tx.resize(v, 4096),
        |tx, v, _| tx.set_volume_tags(v, BTreeMap::from([("k".to_owned(), "v".to_owned())])),
        // Also where the caller drops the error.
        |tx, v, _| drop(tx.snapshot(v, "more", BTreeMap::new())),
    ];
    let make = |fill: u8| {
        let options = Options::new().log_bytes(1 << 20).manual_maintenance(true);
        let host = Arc::new(snapdisk::io::SystemHost);
        let store = options.create_on(Arc::new(snapdisk::io::MemoryBackend::new()), host).unwrap();
        let v = store.create_volume("v", 8192).unwrap();
        let s = v.snapshot("s").unwrap();
        v.write_at(&[fill; 8192], 0).unwrap();
        (store, v, s)
    };
    let ((a, of_a, s), (_b, of_b, _)) = (make(1), make(2));
    assert_eq!(of_a.id(), of_b.id());
    for act in ACTS {
        let outcome = a.update(|tx| {
            tx.rename_snapshot(s.id(), "renamed");
            act(tx, &of_b, s.id());
            Ok(())
        });
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(s.name().unwrap(), "s", "all or nothing");
        let mut buf = [0; 8192];
        of_a.read_at(&mut buf, 0).unwrap();
        assert_eq!((buf, of_a.name().unwrap().as_str()), ([1; 8192], "v"));
        assert!(of_a.tags().unwrap().is_empty());
        assert_eq!(a.snapshots().unwrap().len(), 1);
    }
}
