//! Packed nodes against the nodes that they stand for.

use super::*;
use crate::tree::node::{Entry, Extent, child_of};

/// Every form gives what the node itself says, at and beside every border.
#[test]
fn packed_nodes_say_what_the_node_says() {
    let mut x = 1_u64;
    let mut random = |n: u64| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x % n
    };
    let mut forms = [0; 3];
    for round in 0..600 {
        let (gap, run, most) = ([1, 2, 500][round % 3], [1, 3, 64][round / 3 % 3], 1 + round % 200);
        let base = [0, 5, (1 << 32) - 40, 7 << 32][round / 9 % 4];
        let high = [0, 3 << 32, u64::from(u32::MAX) - 50][round / 36 % 3];
        let mut leaf = ExtentLeaf::default();
        let mut at = base + random(3);
        while leaf.extents.len() < most && leaf.extents.len() * 16 + leaf.sums.len() * 4 < 3700 {
            let sums: Vec<u32> = (0..=random(run)).map(|_| random(1 << 32) as u32).collect();
            leaf.push(at, Block(high + random(1000) * 100), &sums);
            at += sums.len() as u64 + random(gap);
        }
        let keys: Vec<u64> = leaf.extents.iter().map(|e| e.logical).collect();
        let entries: Vec<Entry> = (keys.iter().enumerate())
            .map(|(i, &k)| Entry {
                key: k.into(),
                child: Child { block: Block((i as u64 * 3) << 30), stamp: Stamp((k * 7) << 30) },
            })
            .collect();
        let packed = Packed::of(&Node::Extents(leaf.clone()));
        let inner = Packed::of(&Node::Inner { level: 1, entries: entries.clone() });
        forms[packed.as_ref().map_or(2, |p| usize::from(matches!(p, Packed::Groups(_))))] += 1;
        let groups = Groups::of(&Node::Extents(leaf.clone()));
        for logical in (base.saturating_sub(2)..at + 70).chain([0, u64::from(u32::MAX), 1 << 32, 1 << 35]) {
            let holds = |e: &&Extent| e.logical <= logical && logical < e.end();
            let said = leaf.extents.iter().find(holds).map(|e| {
                let i = logical - e.logical;
                (e.physical.plus(i), leaf.sums[e.sums_at as usize + i as usize])
            });
            assert_eq!(leaf.block(logical), said, "round {round}, block {logical}, in the leaf itself");
            if let Some(found) = packed.as_ref().and_then(|p| p.block(logical)) {
                assert_eq!(found, said, "round {round}, block {logical}");
            }
            if let Some(found) = groups.as_ref().and_then(|g| g.block(logical)) {
                assert_eq!(found, said, "round {round}, block {logical}, in groups");
            }
            if let Some((child, lo, hi)) = inner.as_ref().and_then(|p| p.child(logical.into())) {
                let i = child_of(&entries, logical.into());
                assert_eq!(child, entries[i].child, "round {round}, key {logical}");
                assert_eq!(lo, if i == 0 { 0 } else { entries[i].key });
                assert_eq!(hi, entries.get(i + 1).map(|e| e.key));
            }
        }
    }
    assert!(forms.iter().all(|&n| n > 0), "{forms:?}");
}
