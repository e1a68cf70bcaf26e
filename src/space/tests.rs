//! Geometry and the allocator by themselves.

use super::{Geometry, Space};
use crate::io::{Disk, MemoryBackend};
use std::{collections::BTreeSet, sync::Arc};

/// Clean regions go until as many are left as may stay, and no further.
#[test]
fn eviction_keeps_what_it_may() {
    let disk = Disk::new(Arc::new(MemoryBackend::new()), true);
    let geo = Geometry { base: 100, span: 16, fanout: 4 };
    let mut space = Space::new(geo, [7; 16], 0, 1 << 20, (1, 0), Space::entry(0, 0), (0, 0), 0);
    space.grow(&disk, 40).unwrap();
    space.evict(10);
    assert_eq!(space.loaded(), 40, "the disk does not have them yet");
    let mut frozen = space.freeze(1);
    frozen.encode(&[7; 16]);
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
