//! Geometry and the allocator by themselves.

use super::{
    Geometry, Space,
    pages::{self, Entry},
};
use crate::{
    format::{COUNT_MAX, COUNT_RETURNED, COUNT_SYSTEM},
    units::Block,
};
use std::collections::BTreeSet;

/// Clean regions go until as many are left as may stay, and no further.
#[test]
fn eviction_keeps_what_it_may() {
    let geo = Geometry { base: 100, span: 16, fanout: 4 };
    let mut space = Space::new(geo, [7; 16], 0, 1 << 20, (1, 0), Space::entry(0, 0), (0, 0), 0);
    space.grow(40).unwrap();
    space.evict(10);
    assert_eq!(space.loaded(), 40, "the disk does not have them yet");
    let mut frozen = space.freeze(1);
    assert_eq!(frozen.encode_counts(&[7; 16], 0, 30).len(), 30);
    assert_eq!(frozen.encode_counts(&[7; 16], 30, 30).len(), 10);
    frozen.encode_index(&[7; 16]);
    space.thawed(frozen);
    space.evict(10);
    assert_eq!(space.loaded(), 10);
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
