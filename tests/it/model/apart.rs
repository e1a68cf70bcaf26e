//! Differences between what a store holds, against the bytes of the model.

use snapdisk::{BLOCK, DiffBase, DiffKind, DiffRange, DiskRef, SnapshotId, Store, VolumeId};

use super::{Content, Model, Object, run::Run};

const B: u64 = BLOCK as u64;

impl Run {
    /// Compares a volume and a snapshot both ways, and one of them with nothing, another pair after every fourth operation.
    pub(super) fn differences_hold(&self, store: &Store, now: &Model) -> Result<(), String> {
        let turn = self.history.states.len() as u64;
        if self.setup.faults || turn % 4 != 2 {
            return Ok(());
        }
        let turn = turn / 4;
        let volume = now.pick_volume(turn as u8).map(|(name, o)| (name, o, VolumeId(o.id.expect("learned")).into()));
        let snapshots = [turn / 2, turn / 3 + 1].map(|pick| {
            let (name, o) = now.pick_snapshot(pick as u8)?;
            Some((name, o, DiskRef::from(SnapshotId(o.id.expect("learned")))))
        });
        let disks: Vec<_> = [volume].into_iter().chain(snapshots).flatten().collect();
        let start = turn * 7919;
        for (name, to, disk) in &disks {
            for (base, from, other) in &disks {
                compare(store, ((*other).into(), Some(from)), (*disk, to), start)
                    .map_err(|e| format!("{name} since {base}: {e}"))?;
            }
            compare(store, (DiffBase::NOTHING, None), (*disk, to), start).map_err(|e| format!("{name}: {e}"))?;
        }
        Ok(())
    }
}

fn compare(
    store: &Store,
    (base, from): (DiffBase<'_>, Option<&Object>),
    (disk, to): (DiskRef<'_>, &Object),
    start: u64,
) -> Result<(), String> {
    let mut diff = store.diff(base, disk).map_err(|e| format!("{e:?}"))?;
    let ranges: Vec<_> = diff.by_ref().collect::<Result<_, _>>().map_err(|e| format!("{e:?}"))?;
    // The bytes before the first range of these were found to be the same, or told.
    let (mut told, mut last) = (0, None);
    for r in &ranges {
        let end = r.offset + r.len;
        let apart = r.offset > told || told == 0 || last != Some(r.kind);
        if r.len == 0 || r.offset < told || !apart || end > to.size || (end % B != 0 && end != to.size) {
            return Err(format!("{r:?} after {told} of {} bytes", to.size));
        }
        same(from, to, told / B..r.offset / B)?;
        if r.kind == DiffKind::Zero && blocks(to, r.offset / B..end.div_ceil(B)).any(|c| c.is_some()) {
            return Err(format!("{r:?} is not zero"));
        }
        (told, last) = (end, Some(r.kind));
    }
    same(from, to, told.div_ceil(B)..to.size.div_ceil(B))?;

    let start = start.checked_rem(to.size + 1).unwrap_or(0);
    diff.seek(start);
    let again: Vec<_> = diff.collect::<Result<_, _>>().map_err(|e| format!("{e:?}"))?;
    if again != rest_of(&ranges, start) {
        return Err(format!("from {start} on {again:?}, of {ranges:?}"));
    }
    Ok(())
}

/// What of some ranges lies at `start` or after it.
pub(crate) fn rest_of(ranges: &[DiffRange], start: u64) -> Vec<DiffRange> {
    let cut = |r: &DiffRange| {
        let mut cut = *r;
        cut.offset = r.offset.max(start);
        cut.len = (r.offset + r.len).saturating_sub(cut.offset);
        (cut.len > 0).then_some(cut)
    };
    ranges.iter().filter_map(cut).collect()
}

fn blocks(o: &Object, range: std::ops::Range<u64>) -> impl Iterator<Item = &Content> {
    range.map(|i| o.blocks.get(i as usize).unwrap_or(&None))
}

fn same(from: Option<&Object>, to: &Object, range: std::ops::Range<u64>) -> Result<(), String> {
    let nothing = Object::new(0);
    let hash = |c: &Content| c.as_ref().map(|c| c.0);
    let pairs = range.clone().zip(blocks(from.unwrap_or(&nothing), range.clone()).zip(blocks(to, range)));
    match pairs.into_iter().find(|(_, (a, b))| hash(a) != hash(b)) {
        Some((block, _)) => Err(format!("block {block} differs, and is in no range")),
        None => Ok(()),
    }
}
