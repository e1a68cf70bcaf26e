//! Trees against ordered maps, with exact counts.

use super::{Child, Forest, Fresh, Miss, Node, NodeCache, Root, Shape, read::Nodes, read_block, read_step};
use crate::{
    io::{Disk, MemoryBackend},
    space::{Geometry, Space},
    units::{Block, Stamp},
};
use std::{collections::BTreeMap, sync::Arc};

fn forest(fanout: usize) -> Forest {
    let disk = Arc::new(Disk::new(Arc::new(MemoryBackend::new()), true));
    let geo = Geometry { base: 100, span: 1008, fanout: 252 };
    let mut space = Space::new(geo, [7; 16], 0, 1 << 20, (4, 0), Space::entry(0, 0), (0, 0), 0);
    space.grow(&disk, 20).unwrap();
    Forest {
        disk,
        cache: NodeCache::new(1 << 20),
        uuid: [7; 16],
        space,
        stamp: Stamp::new(1, 1),
        dirty: Default::default(),
        frozen: Default::default(),
        pool: Vec::new(),
        fanout,
        shadowed: 0,
        dooms: Vec::new(),
        found: None,
        shape: 0,
        writes: 0,
    }
}

fn parents(f: &Forest, child: Child, level: u8, seen: &mut BTreeMap<u64, u32>) {
    let n = seen.entry(child.block.0).or_default();
    *n += 1;
    if *n > 1 {
        return;
    }
    let want = Miss { shape: Shape::Extents, child, level, bounds: (0, Shape::Extents.end()) };
    match &*f.now(|nodes| nodes.node(&want)).unwrap() {
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
    for seed in 0..30_u64 {
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
        for step in 0..400_u32 {
            let t = below(trees.len() as u64) as usize;
            let most = if below(4) == 0 { 900 } else { 70 };
            let (lo, len) = (below(3000), 1 + below(most));
            match below(8) {
                0 if trees.len() < 5 => {
                    let copy = trees[t].clone();
                    if let Some(child) = copy.0.node {
                        f.space.incref(&f.disk, child.block).unwrap();
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
                        let run = f.space.allocate(&f.disk, crate::space::Purpose::Data, want, true).unwrap().unwrap();
                        for i in 0..u64::from(run.len) {
                            f.space.first_parent(&f.disk, run.start.plus(i)).unwrap();
                            map.insert(at + i, step);
                        }
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
                        let got = f.now(|n| read_block(n, *root, key)).unwrap().map(|b| b.1);
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
                    for (i, &n) in f.space.counts(&f.disk, region).unwrap().iter().enumerate() {
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
