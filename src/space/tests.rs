//! Geometry and the allocator by themselves.

use super::Geometry;
use std::collections::BTreeSet;

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
