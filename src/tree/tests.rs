//! Trees against ordered maps, with exact counts.

use super::{
    Forest, Fresh, Node, Record, Root, Value,
    node::{Entry, ExtentLeaf},
    read_block, read_step,
};
use crate::{
    format::PAGE_PAYLOAD,
    lack::{Child, Miss, Shape},
    space::{Geometry, Space},
    units::{Block, Stamp},
};
use std::collections::BTreeMap;

fn forest(fanout: usize) -> Forest {
    let geo = Geometry { base: 100, span: 1008, fanout: 252 };
    let mut space = Space::new(geo, [7; 16], 0, 1 << 20, (4, 0), Space::entry(0, 0), (0, 0), 0);
    space.grow(20).unwrap();
    Forest::new(space, [7; 16], Stamp::new(1, 1), fanout, 1 << 20)
}

fn parents(f: &Forest, child: Child, level: u8, seen: &mut BTreeMap<u64, u32>) {
    let n = seen.entry(child.block.0).or_default();
    *n += 1;
    if *n > 1 {
        return;
    }
    let want = Miss { shape: Shape::Extents, child, level, bounds: (0, Shape::Extents.end()) };
    match &*f.load(want).unwrap() {
        Node::Inner { entries, .. } => {
            for i in 0..entries.len() {
                parents(f, read_step(want, entries, i).child, level - 1, seen);
            }
        }
        Node::Extents(leaf) => {
            for e in &leaf.extents {
                (0..u64::from(e.len)).for_each(|i| *seen.entry(e.physical.0 + i).or_default() += 1);
            }
        }
        Node::Records(_) => unreachable!(),
    }
}

#[test]
fn trees_are_maps_and_counts_are_parents() {
    for seed in 0..if cfg!(miri) { 1 } else { 30 } {
        let mut f = forest(if seed % 3 == 0 { usize::MAX } else { 4 });
        let mut trees: Vec<(Root, BTreeMap<u64, u32>)> = vec![Default::default()];
        let mut doomed = Vec::new();
        let mut x = seed + 1;
        let mut below = |n: u64| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x % n
        };
        for step in 0..if cfg!(miri) { 12 } else { 400_u32 } {
            let t = below(trees.len() as u64) as usize;
            let most = if below(4) == 0 { 900 } else { 70 };
            let (lo, len) = (below(3000), 1 + below(most));
            match below(8) {
                0 if trees.len() < 5 => {
                    let copy = trees[t].clone();
                    if let Some(child) = copy.0.node {
                        f.space.incref(child.block).unwrap();
                    }
                    trees.push(copy);
                }
                1..=2 => {
                    let doom = below(2) == 0;
                    let (root, map) = &mut trees[t];
                    *root = f.splice(*root, Shape::Extents, lo.into(), (lo + len).into(), None, doom).unwrap();
                    map.retain(|&k, _| k < lo || k >= lo + len);
                }
                _ => {
                    let (root, map) = &mut trees[t];
                    let mut fresh = Vec::new();
                    let mut at = lo;
                    while at < lo + len.min(70) {
                        let want = (lo + len.min(70) - at).min(64) as u32;
                        let run = f.space.allocate(crate::space::Purpose::Data, want, true).unwrap().unwrap();
                        f.space.add_first_parents(run).unwrap();
                        map.extend((0..u64::from(run.len)).map(|i| (at + i, step)));
                        fresh.push((at, run.start, vec![step; run.len as usize]));
                        at += u64::from(run.len);
                    }
                    let fresh = Some(Fresh::Extents(fresh));
                    *root = f.splice(*root, Shape::Extents, lo.into(), at.into(), fresh, false).unwrap();
                }
            }
            doomed.append(&mut f.dooms);
            if step % 20 == 0 {
                for (root, map) in &trees {
                    for key in 0..4000 {
                        let got = read_block(&f, *root, key).unwrap().map(|b| b.1);
                        assert_eq!(got, map.get(&key).copied(), "seed {seed} step {step} key {key}");
                    }
                }
                let mut seen = BTreeMap::new();
                for (root, _) in &trees {
                    if let Some(child) = root.node {
                        parents(&f, child, root.level, &mut seen);
                    }
                }
                doomed.iter().for_each(|d| parents(&f, d.child, d.level, &mut seen));
                for region in 0..20 {
                    let start = f.space.geometry().start(region).0;
                    for (i, &n) in f.space.counts(region).unwrap().iter().enumerate() {
                        if n < crate::format::COUNT_RETURNED {
                            let want = seen.get(&(start + i as u64)).copied().unwrap_or(0);
                            assert_eq!(n, want, "count of {:?}, seed {seed}", Block(start + i as u64));
                        }
                    }
                }
            }
        }
    }
}

/// Nodes are read back as they were written, within bounds that their keys just keep, and not within narrower ones.
#[test]
fn nodes_survive_the_trip_and_their_bounds() {
    let mut x = 3_u64;
    let mut below = |n: u64| {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (x >> 33) % n
    };
    for round in 0..if cfg!(miri) { 5 } else { 2000 } {
        let items = 1 + below(if round % 2 == 0 { 3 } else { 100 });
        let mut leaf = ExtentLeaf::default();
        let mut at = below(1 << 20);
        for _ in 0..items {
            let len = 1 + below(64) as usize;
            let sums: Vec<u32> = (0..len).map(|_| below(1 << 32) as u32).collect();
            leaf.push(at, Block(below(1 << 40)), &sums);
            if Node::Extents(leaf.clone()).bytes(Shape::Extents) > PAGE_PAYLOAD - 64 * 4 - 16 {
                break;
            }
            at += len as u64 + below(3);
        }
        let mut keys: Vec<u128> = (0..items).map(|_| u128::from(below(1 << 31)) << below(90)).collect();
        keys.sort_unstable();
        keys.dedup();
        let child = |n: u64| Child { block: Block(n), stamp: Stamp(!n) };
        let inner: Vec<Entry> =
            keys.iter().map(|&key| Entry { key: key % Shape::Extents.end(), child: child(key as u64) }).collect();
        let ordered = inner.windows(2).all(|w| w[0].key < w[1].key);
        let records: Vec<Record> = keys
            .iter()
            .map(|&key| Record { key, value: Value::new(&vec![key as u8; below(40) as usize]) })
            .take(60)
            .collect();
        let mut nodes = vec![(Shape::Extents, Node::Extents(leaf)), (Shape::Records, Node::Records(records))];
        if ordered {
            nodes.push((Shape::Extents, Node::Inner { level: 1 + below(9) as u8, entries: inner }));
        }
        for (shape, node) in nodes {
            let (at, uuid) = (child(below(1 << 50)), [round as u8; 16]);
            let (level, (first, last)) = (node.level(), node.keys());
            let page = node.encode(shape, &uuid, at);
            let decode = |at, level, bounds| Node::decode(&page, shape, &uuid, at, level, bounds);
            assert_eq!(decode(at, level, (first, last + 1)).unwrap(), node, "round {round}");
            assert!(decode(at, level, (first + 1, last + 2)).is_err(), "a lower key");
            assert!(decode(at, level, (first, last)).is_err(), "a higher key");
            assert!(decode(at, level + 1, (first, last + 1)).is_err(), "another level");
            assert!(decode(child(at.block.0 + 1), level, (first, last + 1)).is_err(), "another place");
        }
    }
}

/// A leaf finds each of its blocks, and its holes, whatever its extents are like.
#[test]
fn a_leaf_finds_every_block_and_every_hole() {
    let mut x = 1_u64;
    let mut random = |n: u64| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x % n
    };
    for round in 0..if cfg!(miri) { 20 } else { 600 } {
        let (gap, run, most) = ([1, 2, 500, 1 << 50][round % 4], [1, 3, 64][round / 4 % 3], 1 + round % 200);
        let mut at = [0, 5, (1 << 32) - 40, 7 << 32][round / 12 % 4] + random(3);
        let first = at.saturating_sub(2);
        let mut leaf = ExtentLeaf::default();
        let mut near = vec![0, u64::from(u32::MAX), 1 << 32, 1 << 51, u64::MAX - 1];
        while leaf.extents.len() < most && leaf.extents.len() * 16 + leaf.sums.len() * 4 < 3700 {
            let sums: Vec<u32> = (0..=random(run)).map(|_| random(1 << 32) as u32).collect();
            leaf.push(at, Block(random(1 << 40)), &sums);
            near.extend(at.saturating_sub(2)..at + sums.len() as u64 + 2);
            at += sums.len() as u64 + random(gap);
        }
        for logical in near.into_iter().chain(first..first + 200) {
            let after = leaf.extents.iter().position(|e| e.end() > logical).unwrap_or(leaf.extents.len());
            assert_eq!(leaf.from(logical), after, "round {round}, block {logical}");
            let here = leaf.extents.get(after).filter(|e| e.logical <= logical);
            let said =
                here.map(|e| (e.physical.plus(logical - e.logical), leaf.sums_of(e)[(logical - e.logical) as usize]));
            assert_eq!(leaf.block(logical), said, "round {round}, block {logical}");
        }
    }
    assert_eq!((ExtentLeaf::default().from(0), ExtentLeaf::default().block(0)), (0, None));
}
