//! Geometry and the allocator by themselves.

use super::{
    Geometry, Purpose, Run, Space,
    pages::{self, Entry},
    reading::Reading,
};
use crate::{
    format::{COUNT_MAX, COUNT_RETURNED, COUNT_SYSTEM, Page},
    lack::{Lack, PageRef, Step, Stop},
    units::Block,
};
use std::collections::{BTreeSet, HashMap};

/// Clean regions go until as many are left as may stay, and no further.
#[test]
fn eviction_keeps_what_it_may() {
    let geo = Geometry { base: 100, span: 16, fanout: 4 };
    let mut space = Space::new(geo, [7; 16], 0, 1 << 20, (1, 0), Space::entry(0, 0), (0, 0), 0);
    space.grow(40).unwrap();
    space.evict(10);
    assert_eq!(space.loaded().0, 40, "the disk does not have them yet");
    let mut frozen = space.freeze(1);
    assert_eq!(frozen.encode_counts(&[7; 16], 0, 30).len(), 30);
    assert_eq!(frozen.encode_counts(&[7; 16], 30, 30).len(), 10);
    frozen.encode_index(&[7; 16]);
    space.thawed(frozen);
    space.evict(30);
    let (regions, index) = space.loaded();
    assert_eq!(regions + index, 30);
}

/// Large data lies at aligned places while a region has any, then wherever there is room; small data takes what is left between.
#[test]
fn large_data_is_aligned() {
    let geo = Geometry { base: 100, span: 100, fanout: 4 };
    let mut space = Space::new(geo, [7; 16], 0, 1 << 20, (1, 0), Space::entry(0, 0), (0, 0), 0);
    space.grow(1).unwrap();
    let mut take = |want| {
        let run = space.allocate(Purpose::Data, want, true).unwrap().unwrap();
        (run.start.0, run.len)
    };
    // Blocks 100 to 104 and 195 to 199 are homes.
    let first = 100 + geo.homes(0) as u64;
    let end = 200 - geo.homes(0) as u64;
    assert_eq!(take(32), (112, 32));
    assert_eq!(take(20), (144, 20));
    assert_eq!(take(1), (first, 1), "small data goes to the smallest place");
    assert_eq!(take(16), (176, 16), "the next multiple after 164");
    assert_eq!(take(16), (first + 1, (112 - first - 1) as u32), "no aligned place is left");
    assert_eq!(take(100), (164, 12));
    assert_eq!(take(100), (192, (end - 192) as u32));
}

#[test]
fn homes_never_meet() {
    for (span, fanout) in [(16, 4), (32, 4), (1008, 252)] {
        let geo = Geometry { base: 100, span, fanout };
        let mut seen = BTreeSet::new();
        for region in 0..200 {
            for level in (0..=4).filter(|&l| region % geo.regions_under(l) == 0) {
                for home in 0..2 {
                    let block = geo.home(level, region / geo.regions_under(level), home);
                    assert!(seen.insert(block), "two pages share {block}");
                    let (r, place) = geo.locate(block).unwrap();
                    assert!(r == region && geo.is_system(r, place));
                }
            }
            let system = (0..span as usize).filter(|&p| geo.is_system(region, p)).count();
            assert_eq!(system, 2 * geo.homes(region));
        }
    }
}

/// Count pages and index pages are read back as they were written, for their place, stamp, size and level and for no other.
#[test]
fn pages_survive_the_trip_and_nothing_else_does() {
    let (uuid, at) = ([7; 16], Block(77));
    for (span, fanout) in [(16, 4), (32, 5), (1008, 252)] {
        let geo = Geometry { base: 40, span, fanout };
        let other = Geometry { base: 40, span: span - 1, fanout: fanout - 1 };
        for stamp in [1, 1 << 40, u64::MAX] {
            let ends = [0, 1, COUNT_MAX, COUNT_RETURNED, COUNT_SYSTEM];
            let counts: Vec<u32> = (0..span as usize).map(|i| ends[i % ends.len()] ^ (i as u32 & 8)).collect();
            let page = pages::encode_counts(&counts, &uuid, at, stamp);
            assert_eq!(pages::decode_counts(&page, &uuid, at, stamp, &geo).unwrap(), counts);
            assert!(pages::decode_counts(&page, &uuid, Block(78), stamp, &geo).is_err());
            assert!(pages::decode_counts(&page, &uuid, at, stamp ^ 1, &geo).is_err());
            assert!(pages::decode_counts(&page, &[8; 16], at, stamp, &geo).is_err());
            assert!(pages::decode_counts(&page, &uuid, at, stamp, &other).is_err());
            let entry = |i: u64| Entry { stamp: !i, free: i as u16, returned: !i as u16, home: (i % 2) as u8 };
            let mut entries: Vec<Entry> = (0..u64::from(fanout)).map(entry).collect();
            for level in 1..=4 {
                let page = pages::encode_index(&entries, &uuid, at, stamp, level);
                assert_eq!(pages::decode_index(&page, &uuid, at, stamp, level, &geo).unwrap(), entries);
                assert!(pages::decode_index(&page, &uuid, at, stamp, level + 1, &geo).is_err());
                assert!(pages::decode_index(&page, &uuid, at, stamp, level, &other).is_err());
                assert!(pages::decode_counts(&page, &uuid, at, stamp, &geo).is_err());
            }
            entries[1].home = 2;
            let page = pages::encode_index(&entries, &uuid, at, stamp, 1);
            assert!(pages::decode_index(&page, &uuid, at, stamp, 1, &geo).is_err(), "there are two homes");
        }
    }
}

/// A space map over pages that are on a disk as far as a checkpoint has written them.
struct Mapped {
    space: Space,
    disk: HashMap<u64, Box<Page>>,
    /// Count pages and index pages that stay in memory.
    keep: usize,
}

const UUID: [u8; 16] = [7; 16];

impl Mapped {
    fn new(geo: Geometry, keep: usize) -> Mapped {
        let space = Space::new(geo, UUID, 0, 1 << 20, (1, 0), Space::entry(0, 0), (0, 0), 0);
        Mapped { space, disk: HashMap::new(), keep }
    }
    /// Runs a step as an engine does: what it lacks is read, and some other page may go for it.
    fn step<T>(&mut self, mut f: impl FnMut(&mut Space) -> Step<T>) -> T {
        let mut read = Vec::new();
        for _ in 0..100 {
            for page in &read {
                let PageRef { at, .. } = *page;
                let bytes = self.disk.get(&at.0).unwrap_or_else(|| panic!("{page:?} is nowhere"));
                self.space.install(*page, bytes).unwrap();
            }
            match f(&mut self.space) {
                Ok(t) => {
                    self.space.keep();
                    return t;
                }
                Err(Stop::Lack(Lack::Page(page))) => read.push(page),
                Err(Stop::Failed(e)) => panic!("{e}"),
                Err(Stop::Lack(other)) => panic!("{other:?}"),
            }
            self.space.undo();
            self.space.make_way(self.keep);
        }
        panic!("a step that always lacks something");
    }
    fn checkpoint(&mut self, stamp: u64) {
        let mut frozen = self.space.freeze(stamp);
        let mut pages = frozen.encode_counts(&UUID, 0, usize::MAX);
        pages.extend(frozen.encode_index(&UUID));
        self.disk.extend(pages.into_iter().map(|(at, page)| (at.0, page)));
        // Beside a checkpoint pages come and go as well.
        self.space.evict(self.keep);
        self.space.thawed(frozen);
        self.space.release(8, &Reading::default());
        self.space.evict(self.keep);
    }
}

/// However few pages stay in memory, the map does the same as with all of them, and what stays is bounded.
#[test]
fn a_map_of_which_little_is_in_memory_does_the_same() {
    // Four levels of index pages.
    let geo = Geometry { base: 100, span: 16, fanout: 4 };
    let mut maps = [Mapped::new(geo, 24), Mapped::new(geo, usize::MAX)];
    maps.iter_mut().for_each(|m| m.step(|space| space.grow(200)));
    maps.iter_mut().for_each(|m| m.checkpoint(1));
    let (mut random, mut runs, mut stamp) = (1u64, Vec::<Run>::new(), 1);
    let mut below = move |n: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) % n
    };
    for round in 0..4000 {
        match below(20) {
            0 => {
                stamp += 1;
                maps.iter_mut().for_each(|m| m.checkpoint(stamp));
                let waiting = maps[0].space.waiting() > 0;
                let (regions, index) = maps[0].space.loaded();
                assert!(waiting || regions + index <= 24 + 8, "{regions} regions and {index} index pages stay");
            }
            1 if maps[0].space.spans() < 253 => {
                let to = maps[0].space.spans() + 1 + below(3);
                maps.iter_mut().for_each(|m| m.step(|space| space.grow(to)));
            }
            2..=10 => {
                let (want, any, nodes) = (1 + below(6) as u32, below(2) == 0, below(3) == 0);
                let purpose = if nodes { Purpose::Nodes } else { Purpose::Data };
                let taken = maps.each_mut().map(|m| m.step(|space| space.allocate(purpose, want, any)));
                assert_eq!(taken[0], taken[1], "round {round}");
                if let Some(run) = taken[0] {
                    let first = |space: &mut Space| space.add_first_parents(run);
                    maps.iter_mut().for_each(|m| m.step(first));
                    runs.push(run);
                }
            }
            _ if runs.is_empty() => {}
            _ => {
                let run = runs.swap_remove(below(runs.len() as u64) as usize);
                let last = |space: &mut Space| {
                    (0..u64::from(run.len)).try_for_each(|i| space.decref(run.start.plus(i)).map(drop))
                };
                maps.iter_mut().for_each(|m| m.step(last));
            }
        }
        let totals = maps.each_ref().map(|m| {
            let space = &m.space;
            (space.available(), space.free(), space.waiting(), space.returned())
        });
        assert_eq!(totals[0], totals[1], "round {round}");
    }
    maps.iter_mut().for_each(|m| m.checkpoint(stamp + 1));
    let end = geo.start(maps[0].space.spans()).0;
    for block in (geo.base..end).map(Block).filter(|b| geo.locate(*b).is_some_and(|(r, p)| !geo.is_system(r, p))) {
        let counts = maps.each_mut().map(|m| m.step(|space| space.count(block)));
        assert_eq!(
            counts[0],
            u32::from(runs.iter().any(|r| r.start <= block && block.0 < r.start.0 + u64::from(r.len)))
        );
        assert_eq!(counts[0], counts[1], "{block}");
    }
    let (regions, index) = maps[1].space.loaded();
    assert!(regions > 200 && index > 60, "the other has them all: {regions} and {index}");
}
