//! The operations of a workload, as values, as text, and as proptest draws them.
//!
//! Every operation is total: whatever there is at that moment, it means something (volumes and snapshots are picked
//! modulo how many are live, ranges are clipped). So any operation can be taken out of a case and the rest still runs.

use proptest::prelude::*;

macro_rules! ops {
    ($($(#[$doc:meta])* $name:ident $text:literal ($($arg:ident),*);)*) => {
        /// One step of a workload.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(crate) enum Op { $($(#[$doc])* $name { $($arg: u8),* },)* }

        impl Op {
            /// Short text that [`Op::parse`] reads.
            pub(crate) fn text(&self) -> String {
                match *self {
                    $(Op::$name { $($arg),* } => {
                        let args: Vec<String> = vec![$($arg.to_string()),*];
                        format!("{}{}", $text, args.join("."))
                    })*
                }
            }

            /// The operation of a text.
            pub(crate) fn parse(text: &str) -> Option<Op> {
                let split = text.find(|c: char| c.is_ascii_digit()).unwrap_or(text.len());
                let mut args = text[split..].split_terminator('.').map(|s| s.parse::<u8>());
                let op = match &text[..split] {
                    $($text => Op::$name { $($arg: args.next()?.ok()?),* },)*
                    _ => return None,
                };
                args.next().is_none().then_some(op)
            }

            /// Its kind, as a number.
            pub(crate) fn kind(&self) -> usize {
                let mut i = 0;
                $(if matches!(self, Op::$name { .. }) { return i; } i += 1;)*
                i
            }
        }
    };
}

ops! {
    /// Whole blocks. Tag 0 is zeros, 1 and 2 are always the same content, the others are unique.
    Write "W" (v, b, n, t);
    /// Group commit.
    Flush "F" ();
    /// Discard of blocks.
    Trim "T" (v, b, n);
    /// Snapshot.
    Snap "S" (v);
    /// Delete a snapshot.
    DelSnap "D" (k);
    /// Checkpoint.
    Checkpoint "C" ();
    /// Some steps of background work.
    Maintain "M" (n);
    /// The empty group that proves the last flush.
    Mark "A" ();
    /// Bytes at any alignment.
    Bytes "B" (v, at, n, t);
    /// Zeros over blocks.
    Zero "Z" (v, b, n);
    /// Discard at any alignment.
    Cut "X" (v, at, n);
    /// A write that is durable when it returns.
    Fua "U" (v, b, t);
    /// Clone of a snapshot.
    Clone "K" (k);
    /// Rollback, size included.
    Rollback "R" (v, k);
    /// Rollback of the contents only.
    RollbackKeep "Q" (v, k);
    /// Resize.
    Resize "L" (v, n);
    /// A new volume.
    CreateVol "N" (n);
    /// Delete a volume; `how`: refuse, keep or delete its snapshots.
    DelVol "V" (v, how);
    /// One snapshot of each of several volumes.
    SnapGroup "G" (v, n);
    /// A snapshot that becomes durable with the next flush.
    SnapDeferred "E" (v);
    /// Rename a volume.
    Rename "I" (v);
    /// Rename a snapshot.
    RenameSnap "J" (k);
    /// Other tags for a volume. `n` 0: none; from 250 on so many that their record takes several pages of the log.
    TagVol "TV" (v, n);
    /// Other tags for a snapshot.
    TagSnap "TS" (k, n);
    /// Several metadata operations as one.
    Update "Y" (v, n);
    /// Attach a volume.
    Attach "AT" (v);
    /// Release an attached volume.
    Detach "AD" (h);
    /// The holder acknowledges its generation, or one that is by `less % 3` older.
    Acknowledge "AK" (h, less);
    /// A write of one block through an attached handle; tag 0: a discard.
    HeldWrite "AW" (h, b, t);
    /// Rollback by force (`by % 3` is 0), by the holder (1) or by anyone; of the contents only with `by & 4`.
    RollbackBy "AR" (v, k, by);
    /// Resize, as in `RollbackBy`.
    ResizeBy "AL" (v, n, by);
    /// Delete a volume, as in `RollbackBy`.
    DelVolBy "AV" (v, how, by);
    /// Several metadata operations as one, as in `RollbackBy`.
    UpdateBy "AY" (v, n, by);
    /// A checkpoint, and in the middle of one of its writes, pushes or syncs the next few operations.
    BesideCheckpoint "CB" (at, n);
    /// A flush, and in the middle of one of its writes or its sync the next few operations.
    BesideFlush "FB" (at, n);
    /// Close and open.
    Reopen "O" ();
    /// The process dies and the next one opens the image.
    Die "P" ();
    /// The checker.
    Check "H" ();
}

/// Texts of a list.
pub(crate) fn texts(ops: &[Op]) -> String {
    ops.iter().map(Op::text).collect::<Vec<_>>().join(",")
}

/// The list of its text.
pub(crate) fn parse_all(text: &str) -> Option<Vec<Op>> {
    text.split(',').filter(|s| !s.is_empty()).map(Op::parse).collect()
}

fn tag() -> impl Strategy<Value = u8> {
    // A quarter from {0, A, B}: identical content has to meet stale records.
    prop_oneof![3 => Just(3u8), 1 => 0u8..3]
}

/// A block of a volume, wrapped around where that is smaller.
fn block() -> impl Strategy<Value = u8> {
    prop_oneof![4 => 0u8..24, 1 => 0u8..200]
}

/// One operation, simple kinds first, since that is the way in which cases shrink.
pub(crate) fn op() -> impl Strategy<Value = Op> {
    let small = 0u8..4;
    prop_oneof![
        10 => (small.clone(), block(), 0u8..6, tag()).prop_map(|(v, b, n, t)| Op::Write { v, b, n, t }),
        6 => Just(Op::Flush {}),
        3 => (small.clone(), block(), 0u8..8).prop_map(|(v, b, n)| Op::Trim { v, b, n }),
        4 => small.clone().prop_map(|v| Op::Snap { v }),
        3 => (0u8..8).prop_map(|k| Op::DelSnap { k }),
        4 => Just(Op::Checkpoint {}),
        4 => (0u8..8).prop_map(|n| Op::Maintain { n }),
        2 => Just(Op::Mark {}),
        4 => (small.clone(), any::<u8>(), any::<u8>(), tag()).prop_map(|(v, at, n, t)| Op::Bytes { v, at, n, t }),
        2 => (small.clone(), block(), 0u8..8).prop_map(|(v, b, n)| Op::Zero { v, b, n }),
        1 => (small.clone(), any::<u8>(), any::<u8>()).prop_map(|(v, at, n)| Op::Cut { v, at, n }),
        1 => (small.clone(), block(), tag()).prop_map(|(v, b, t)| Op::Fua { v, b, t }),
        2 => (0u8..8).prop_map(|k| Op::Clone { k }),
        2 => (small.clone(), 0u8..8).prop_map(|(v, k)| Op::Rollback { v, k }),
        1 => (small.clone(), 0u8..8).prop_map(|(v, k)| Op::RollbackKeep { v, k }),
        2 => (small.clone(), any::<u8>()).prop_map(|(v, n)| Op::Resize { v, n }),
        2 => any::<u8>().prop_map(|n| Op::CreateVol { n }),
        1 => (small.clone(), 0u8..3).prop_map(|(v, how)| Op::DelVol { v, how }),
        1 => (small.clone(), 1u8..4).prop_map(|(v, n)| Op::SnapGroup { v, n }),
        1 => small.clone().prop_map(|v| Op::SnapDeferred { v }),
        1 => small.clone().prop_map(|v| Op::Rename { v }),
        1 => (0u8..8).prop_map(|k| Op::RenameSnap { k }),
        1 => (small.clone(), any::<u8>()).prop_map(|(v, n)| Op::TagVol { v, n }),
        1 => (0u8..8, any::<u8>()).prop_map(|(k, n)| Op::TagSnap { k, n }),
        1 => (small.clone(), any::<u8>()).prop_map(|(v, n)| Op::Update { v, n }),
        3 => lease(),
        5 => (0u8..10, 1u8..5).prop_map(|(at, n)| Op::BesideCheckpoint { at, n }),
        3 => (0u8..4, 1u8..4).prop_map(|(at, n)| Op::BesideFlush { at, n }),
        1 => Just(Op::Reopen {}),
        1 => Just(Op::Die {}),
        1 => Just(Op::Check {}),
    ]
}

/// An operation on attached volumes, or one that they refuse.
pub(super) fn lease() -> impl Strategy<Value = Op> {
    let small = 0u8..4;
    let by = 0u8..8;
    prop_oneof![
        5 => small.clone().prop_map(|v| Op::Attach { v }),
        1 => small.clone().prop_map(|h| Op::Detach { h }),
        2 => (small.clone(), 0u8..6).prop_map(|(h, less)| Op::Acknowledge { h, less: less.saturating_sub(3) }),
        4 => (small.clone(), block(), tag()).prop_map(|(h, b, t)| Op::HeldWrite { h, b, t }),
        3 => (small.clone(), 0u8..8, by.clone()).prop_map(|(v, k, by)| Op::RollbackBy { v, k, by }),
        2 => (small.clone(), any::<u8>(), by.clone()).prop_map(|(v, n, by)| Op::ResizeBy { v, n, by }),
        1 => (small.clone(), 0u8..3, by.clone()).prop_map(|(v, how, by)| Op::DelVolBy { v, how, by }),
        1 => (small, any::<u8>(), by).prop_map(|(v, n, by)| Op::UpdateBy { v, n, by }),
    ]
}

/// A workload of up to `max` operations in which a random third of the kinds does not occur.
pub(crate) fn workload(max: usize) -> impl Strategy<Value = Vec<Op>> {
    (prop::collection::vec(op(), 1..max), any::<u64>().no_shrink()).prop_map(|(ops, swarm)| {
        let off = |kind: usize| snapdisk::io::sim::Rng::new(swarm ^ kind as u64).one_in(3);
        ops.into_iter().filter(|op| !off(op.kind())).collect()
    })
}

#[test]
fn texts_are_read_back() {
    let ops =
        [Op::Write { v: 1, b: 2, n: 3, t: 4 }, Op::Flush {}, Op::Bytes { v: 0, at: 255, n: 9, t: 3 }, Op::Check {}];
    assert_eq!(parse_all(&texts(&ops)).unwrap(), ops);
    for text in ["W1.2.3", "W1.2.3.4.5", "F1", "W1.2.3.256", "w1.2.3.4", "W1..3.4", "1"] {
        assert_eq!(parse_all(text), None, "{text}");
    }
}
