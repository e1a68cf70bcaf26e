//! The seed images: made anew in memory at each start, with small knobs, so that little holds much structure.

use super::{drive::options, reseal::Image};
use snapdisk::{
    DeleteSnapshots, Durability, Knobs, NewOptions, Options, Store,
    io::{Host, MemoryBackend},
};
use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// A clock and random numbers that every run repeats.
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn new() -> Arc<Counter> {
        Arc::new(Counter(1.into()))
    }
}

impl Host for Counter {
    fn now(&self) -> u64 {
        self.0.fetch_add(1, Relaxed)
    }
    fn random(&self) -> u64 {
        self.now().wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

const BLOCK: u64 = snapdisk::BLOCK as u64;

/// Seed image `n`, modulo their number.
pub(crate) fn seed(n: u8) -> Image {
    static SEEDS: OnceLock<Vec<Image>> = OnceLock::new();
    let seeds = SEEDS.get_or_init(|| {
        let small =
            Knobs { fanout: 4, span: 32, index_fanout: 4, log_pages: 16, reserve: 16, growth: 1, ..Knobs::default() };
        let wide = Knobs { inline: 0, log_pages: 16, reserve: 16, growth: 1, span: 128, ..Knobs::default() };
        let long = Knobs { log_pages: 64, span: 64, ..small };
        let plain = options();
        vec![
            make(&plain.clone().knobs(small), |_| true),
            make(&plain.clone().knobs(small), |s| few(s).close().is_ok()),
            make(&plain.clone().knobs(long), |s| rich(s).close().is_ok()),
            // With a hot log, whose last group is proven.
            make(&plain.clone().knobs(long), |s| {
                let s = rich(s);
                s.checkpoint().and_then(|()| hot(&s)).and_then(|()| s.mark()).is_ok()
            }),
            // And one whose last group is not.
            make(&plain.clone().knobs(long), |s| {
                let s = few(s);
                s.checkpoint().and_then(|()| hot(&s)).is_ok()
            }),
            make(&plain.clone().knobs(small), |s| doomed(s).checkpoint().is_ok()),
            make(&plain.clone().knobs(wide), |s| rich(s).close().is_ok()),
            make(&plain.knobs(wide), |s| {
                let s = rich(s);
                hot(&s).and_then(|()| s.mark()).is_ok()
            }),
        ]
    });
    seeds[usize::from(n) % seeds.len()].clone()
}

/// A seed image whose log says something.
pub(crate) fn with_log(n: u8) -> Image {
    seed([3, 4, 7][usize::from(n) % 3])
}

fn make(options: &Options, f: impl FnOnce(Store) -> bool) -> Image {
    let backend = Arc::new(MemoryBackend::new());
    let store = options.create_on(backend.clone(), Counter::new()).expect("a store");
    assert!(f(store), "a seed can't be made");
    Image::new(backend.to_bytes())
}

fn data(n: u64, blocks: u64) -> Vec<u8> {
    (0..blocks * BLOCK).map(|i| (i / BLOCK * 7 + n * 13 + i % 251) as u8).collect()
}

fn few(store: Store) -> Store {
    let a = store.create_volume("a", 64 * BLOCK).expect("create");
    a.write_at(&data(1, 3), 0).expect("write");
    a.write_at(&data(2, 1), 9 * BLOCK).expect("write");
    a.snapshot("one").expect("snapshot");
    a.write_at(&data(3, 2), BLOCK).expect("write");
    store.create_volume("b", 100 << 40).expect("create");
    store
}

/// Several volumes, snapshots, a clone, tags, trees of several levels.
fn rich(store: Store) -> Store {
    let tags = |n: u64| {
        let tags = (0..n).map(|i| (format!("key{i}"), "value".repeat(20 + i as usize))).collect();
        NewOptions::new().tags(tags).durability(Durability::Immediate)
    };
    let a = store.create_volume_with("a", 300 * BLOCK, tags(3)).expect("create");
    let b = store.create_volume("b", (1 << 40) + 512).expect("create");
    for i in 0..24 {
        a.write_at(&data(i, 1), (i * 7 % 24) * 2 * BLOCK).expect("write");
        if i % 6 == 5 {
            store.snapshot_with(&a, &format!("s{i}"), tags(i)).expect("snapshot");
        }
        b.write_at(&data(i, 1 + i % 3)[..], i << 30).expect("write");
    }
    let group = store.snapshot_group(&[(&a, "group"), (&b, "group")]).expect("group");
    let c = store.clone_volume(&group[0], "c").expect("clone");
    c.discard(5 * BLOCK + 100, 20 * BLOCK).expect("discard");
    store.rename(&b, "renamed").expect("rename");
    store.flush().expect("flush");
    store
}

/// Every kind of record in the log.
fn hot(store: &Store) -> snapdisk::Result<()> {
    let a = store.volume("a")?;
    let s = a.snapshot("hot")?;
    a.write_at(&data(50, 2), 4 * BLOCK)?;
    a.write_at(&data(51, 1)[..700], 3 * BLOCK + 10)?;
    a.discard(BLOCK + 5, 6 * BLOCK)?;
    a.flush()?;
    let c = store.clone_volume(&s, "hotclone")?;
    store.update(|tx| {
        tx.create_volume("fresh", 9 * BLOCK, [("k".into(), "v".into())].into())?;
        tx.snapshot(&c, "inside", Default::default())?;
        tx.rename(&a, "moved");
        Ok(())
    })?;
    a.resize(40 * BLOCK + 512)?;
    a.rollback(&s)?;
    store.rename_snapshot(&s, "hotter")?;
    c.set_tags([("x".into(), "y".repeat(2000))].into())?;
    a.write_at(&data(52, 5), 20 * BLOCK)?;
    store.delete_snapshot(&s)?;
    store.delete_volume(&c, DeleteSnapshots::Keep)?;
    a.write_at(&data(53, 1), 21 * BLOCK)?;
    a.flush()
}

/// A doomed list with nothing of it reclaimed.
fn doomed(store: Store) -> Store {
    let a = store.create_volume("a", 300 * BLOCK).expect("create");
    for i in 0..12 {
        a.write_at(&data(i, 1), i * 3 * BLOCK).expect("write");
        if i % 4 == 3 {
            a.snapshot(&format!("s{i}")).expect("snapshot");
        }
    }
    let b = store.create_volume("b", 300 * BLOCK).expect("create");
    (0..8).for_each(|i| b.write_at(&data(i, 1), i * 3 * BLOCK).expect("write"));
    b.snapshot("gone").expect("snapshot");
    let first = a.snapshot_named("s3").expect("the snapshot");
    a.rollback(&first).expect("rollback");
    store.delete_snapshot(&first).expect("delete");
    store.delete_volume(&b, DeleteSnapshots::Delete).expect("delete");
    store
}
