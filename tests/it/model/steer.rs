//! Workloads that are steered to where random ones hardly get: trees of many small nodes that share and merge, rings that run full, space
//! that goes back to the host and comes again, images that fill up while things are dropped.
//!
//! A workload is made of pieces, each a few operations with one aim; a case shrinks by whole pieces first.

use proptest::prelude::*;

use super::Op;

/// Operations with one aim.
type Piece = Vec<Op>;

/// Writes of single blocks, `step` apart: an extent for each.
fn fill(v: u8, from: u8, step: u8, count: u8, around: u8) -> Piece {
    let block = |i: u8| ((u16::from(from) + u16::from(i) * u16::from(step)) % u16::from(around)) as u8;
    (0..count).map(|i| Op::Write { v, b: block(i), n: 0, t: 3 }).collect()
}

/// The same of discards, `n + 1` blocks each: leaves lose some of their extents.
fn thin(v: u8, from: u8, step: u8, count: u8, n: u8, around: u8) -> Piece {
    let block = |i: u8| ((u16::from(from) + u16::from(i) * u16::from(step)) % u16::from(around)) as u8;
    (0..count).map(|i| Op::Trim { v, b: block(i), n }).collect()
}

/// A full volume of single blocks, in an order; a discard, one block of it written again, and then what lies on one side of it discarded.
/// Where an inner node began at the first discard, it now has a key below that of its first child, and is taken in by a neighbour.
fn border((step, b, n, back): (u8, u8, u8, u8), (more, left, shared): (u8, bool, bool)) -> Piece {
    let mut ops = fill(0, 0, step, 24, 24);
    if shared {
        ops.push(Op::Snap { v: 0 });
    }
    let (around, wide) = if left { (b.saturating_sub(more), b.min(more).saturating_sub(1)) } else { (b + n + 1, more) };
    let again = Op::Write { v: 0, b: b + back.min(n), n: 0, t: 3 };
    ops.extend([Op::Trim { v: 0, b, n }, again, Op::Trim { v: 0, b: around, n: wide }]);
    ops
}

fn borders() -> BoxedStrategy<Vec<Op>> {
    let first = (prop::sample::select(vec![1u8, 5, 7, 11, 13, 17, 19, 23]), 3u8..22, 0u8..8, 0u8..8);
    let then = (2u8..14, prop::bool::weighted(0.8), prop::bool::weighted(0.2));
    pieces((first, then).prop_map(|(first, then)| border(first, then)), 8)
}

/// Trees with many small nodes: filled in some order, thinned, shared, cut and written across, dropped.
fn trees(around: u8) -> BoxedStrategy<Vec<Op>> {
    let (v, at) = (0u8..2, 0..around);
    let fills = (v.clone(), at.clone(), 1u8..14, 4u8..if around > 24 { 90 } else { 28 });
    // Longer than an extent, where there is room for it.
    let long = if around > 24 { 60u8..200 } else { 6..12 };
    let piece = prop_oneof![
        2 => (v.clone(), at.clone(), long).prop_map(|(v, b, n)| vec![Op::Write { v, b, n, t: 3 }]),
        4 => fills.prop_map(move |(v, from, step, count)| fill(v, from, step, count, around)),
        3 => (v.clone(), at.clone(), 2u8..9, 1u8..9, 0u8..3)
            .prop_map(move |(v, from, step, count, n)| thin(v, from, step, count, n, around)),
        4 => (v.clone(), at.clone(), 0u8..around).prop_map(|(v, b, n)| vec![Op::Trim { v, b, n }]),
        4 => (v.clone(), at.clone(), 0u8..9).prop_map(|(v, b, n)| vec![Op::Write { v, b, n, t: 3 }]),
        1 => (v.clone(), any::<u8>(), any::<u8>()).prop_map(|(v, at, n)| vec![Op::Cut { v, at, n }]),
        3 => v.clone().prop_map(|v| vec![Op::Snap { v }]),
        1 => (0u8..4).prop_map(|k| vec![Op::Clone { k }]),
        1 => (v.clone(), 0u8..4).prop_map(|(v, k)| vec![Op::Rollback { v, k }]),
        2 => (0u8..4).prop_map(|k| vec![Op::DelSnap { k }]),
        1 => (v, 150u8..255).prop_map(|(v, n)| vec![Op::Resize { v, n }]),
        1 => Just(vec![Op::Checkpoint {}]),
        2 => (0u8..8).prop_map(|n| vec![Op::Maintain { n }, Op::Check {}]),
    ];
    pieces(piece, 14)
}

/// Groups of one page to many, without a checkpoint that was asked for: the ring fills up.
fn rings() -> BoxedStrategy<Vec<Op>> {
    let piece = prop_oneof![
        6 => (0u8..24, 0u8..3, 1u8..9).prop_map(|(b, n, times)| {
            (0..times).flat_map(|i| [Op::Write { v: 0, b: b.wrapping_add(i), n, t: 3 }, Op::Flush {}]).collect()
        }),
        2 => (0u8..2, 220u8..=255).prop_map(|(v, n)| vec![Op::TagVol { v, n }]),
        2 => (0u8..2, any::<u8>(), any::<u8>()).prop_map(|(v, at, n)| vec![Op::Bytes { v, at, n, t: 3 }, Op::Flush {}]),
        2 => Just(vec![Op::Mark {}]),
        1 => (0u8..4, 1u8..4).prop_map(|(at, n)| vec![Op::BesideFlush { at, n }]),
        1 => (0u8..2).prop_map(|v| vec![Op::Snap { v }]),
        1 => prop_oneof![Just(Op::Reopen {}), Just(Op::Die {})].prop_map(|op| vec![op]),
        1 => Just(vec![Op::Checkpoint {}]),
    ];
    pieces(piece, 8)
}

/// Space that is used, freed, returned to the host and used again.
fn returns() -> BoxedStrategy<Vec<Op>> {
    let grow = |v: u8, times: u8| -> Piece {
        (0..times).flat_map(|_| [vec![Op::Snap { v }], fill(v, 0, 1, 8, 8)].concat()).collect()
    };
    let drop_all = |checkpoints: u8| -> Piece {
        let mut ops = vec![Op::DelSnap { k: 0 }; 6];
        ops.push(Op::Maintain { n: 7 });
        ops.extend((0..checkpoints).map(|_| Op::Checkpoint {}));
        ops
    };
    let again = |v: u8, times: u8| -> Piece {
        let round = |i: u8| [Op::Write { v, b: i % 8, n: u8::from(i.is_multiple_of(5)), t: 3 }, Op::Flush {}];
        (0..times)
            .flat_map(|i| {
                [(i.is_multiple_of(4)).then_some(Op::SnapDeferred { v })].into_iter().flatten().chain(round(i))
            })
            .collect()
    };
    let cycle = (0u8..2, 3u8..7, 1u8..4, 4u8..24).prop_map(move |(v, times, checkpoints, rounds)| {
        [grow(v, times), drop_all(checkpoints), again(v, rounds)].concat()
    });
    let piece = prop_oneof![
        4 => cycle,
        1 => super::op::op().prop_map(|op| vec![op]),
    ];
    pieces(piece, 4)
}

/// An image that fills up in one generation, while snapshots are taken and dropped and what they held is reclaimed.
fn full() -> BoxedStrategy<Vec<Op>> {
    let round = (1u8..12, 0u8..8, 1u8..13, any::<bool>()).prop_map(|(step, from, few, deferred)| {
        let mut ops = vec![if deferred { Op::SnapDeferred { v: 0 } } else { Op::Snap { v: 0 } }];
        // The fewer are written, the more nodes are shared with what is dropped next.
        ops.extend(fill(0, from, step, few, 24));
        // One step: another one, with nothing left to do, ends the generation.
        ops.extend([Op::DelSnap { k: 0 }, Op::Maintain { n: 3 }]);
        ops.extend(fill(0, from.wrapping_add(1), step, 12, 24));
        ops
    });
    let piece = prop_oneof![
        6 => round,
        1 => (0u8..24, 0u8..8).prop_map(|(b, n)| vec![Op::Trim { v: 0, b, n }]),
        1 => Just(vec![Op::Flush {}]),
        1 => super::op::op().prop_map(|op| vec![op]),
    ];
    pieces(piece, 12)
}

/// Data that is written out ahead of its group, and groups: something of that fails.
fn spills() -> BoxedStrategy<Vec<Op>> {
    let piece = prop_oneof![
        6 => (0u8..2, 0u8..8, 0u8..4).prop_map(|(v, b, n)| vec![Op::Write { v, b, n, t: 3 }]),
        2 => (0u8..2, any::<u8>(), any::<u8>()).prop_map(|(v, at, n)| vec![Op::Bytes { v, at, n, t: 3 }]),
        2 => Just(vec![Op::Flush {}]),
        1 => Just(vec![Op::Checkpoint {}]),
        1 => (0u8..2).prop_map(|v| vec![Op::SnapDeferred { v }]),
    ];
    pieces(piece, 12)
}

/// Volumes that are attached while they are rolled back, resized and deleted by anyone, by force and by their holders.
fn leases() -> BoxedStrategy<Vec<Op>> {
    let piece = prop_oneof![
        6 => super::op::lease().prop_map(|op| vec![op]),
        2 => (0u8..2, 0u8..8, 0u8..4).prop_map(|(v, b, n)| vec![Op::Write { v, b, n, t: 3 }]),
        2 => (0u8..2).prop_map(|v| vec![Op::Snap { v }]),
        1 => (0u8..4, 0u8..8).prop_map(|(v, k)| vec![Op::Rollback { v, k }]),
        1 => (0u8..4, any::<u8>()).prop_map(|(v, n)| vec![Op::Resize { v, n }]),
        1 => super::op::op().prop_map(|op| vec![op]),
    ];
    pieces(piece, 24)
}

/// Workloads, with sizes, in which failing writes find something to spoil.
pub(crate) fn failing() -> impl Strategy<Value = (Vec<Op>, u8)> {
    (spills(), prop::sample::select(vec![1u8, 3, 7, 12]))
}

fn pieces(piece: impl Strategy<Value = Piece> + 'static, most: usize) -> BoxedStrategy<Vec<Op>> {
    prop::collection::vec(piece, 1..most).prop_map(|pieces| pieces.concat()).boxed()
}

/// Workloads that write much of the log, with sizes.
pub(crate) fn long() -> impl Strategy<Value = (Vec<Op>, u8)> {
    (rings(), prop::sample::select(vec![0u8, 1, 2, 5, 7, 8, 10]))
}

/// Steered workloads with sizes, of those of the explorer, that they have something to say about.
pub(crate) fn steered() -> impl Strategy<Value = (Vec<Op>, u8)> {
    prop_oneof![
        4 => (trees(24), prop::sample::select(vec![2u8, 6, 9, 9])),
        2 => (borders(), Just(9u8)),
        1 => (trees(200), Just(12u8)),
        2 => long(),
        2 => (returns(), prop::sample::select(vec![1u8, 4, 10, 10, 10])),
        2 => (leases(), prop::sample::select(vec![0u8, 1, 3, 5, 9])),
        3 => (full(), prop::sample::select(vec![4u8, 11, 11, 11])),
    ]
}
