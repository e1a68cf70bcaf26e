//! Reads of parts: inside a block and across blocks, in one buffer or two, and the list of extents.

use std::{io::IoSliceMut, ops::Range};

use snapdisk::{BLOCK, Error, MapExtent, ReadDisk, SnapshotId, Store, VolumeId};

use super::{Model, Object, run::Run};

const B: u64 = BLOCK as u64;

impl Run {
    /// Looks at a part of a volume and of a snapshot, another one after every fourth operation.
    pub(super) fn looks_hold(&self, store: &Store, now: &Model) -> Result<(), String> {
        let turn = self.history.states.len() as u64;
        if self.setup.faults || !turn.is_multiple_of(4) {
            return Ok(());
        }
        let turn = turn / 4;
        let pick = turn as u8;
        if let Some((name, o)) = now.pick_volume(pick) {
            let volume = store.volume_by_id(VolumeId(o.id.expect("learned"))).map_err(|e| format!("{name}: {e:?}"))?;
            look(&volume, o, turn).map_err(|e| format!("volume {name}: {e}"))?;
        }
        if let Some((name, o)) = now.pick_snapshot(pick) {
            let snapshot =
                store.snapshot_by_id(SnapshotId(o.id.expect("learned"))).map_err(|e| format!("{name}: {e:?}"))?;
            look(&snapshot, o, turn).map_err(|e| format!("snapshot {name}: {e}"))?;
        }
        Ok(())
    }
}

fn look(disk: &dyn ReadDisk, o: &Object, turn: u64) -> Result<(), String> {
    let failed = |e: Error| format!("{e:?}");
    let Some(from) = (turn * 397).checked_rem(o.size) else { return Ok(()) };
    let to = o.size.min(from + 1 + turn * 61 % (3 * B));
    let mut buf = vec![1; (to - from) as usize];
    let middle = buf.len() / 3;
    let (first, second) = buf.split_at_mut(middle);
    match turn % 2 {
        0 => disk.read_vectored_at(&mut [IoSliceMut::new(first), IoSliceMut::new(second)], from),
        _ => disk.read_at(&mut buf, from),
    }
    .map_err(failed)?;
    if buf != expected(o, from..to) {
        return Err(format!("bytes {from}..{to} are not what was written"));
    }
    let mut at = from / B * B;
    while at < to {
        let page: Vec<MapExtent> = disk.extents_page(at..to, 2).map_err(failed)?;
        for e in &page {
            let end = e.offset + e.len;
            if e.offset != at || e.len == 0 || end > to {
                return Err(format!("an extent of {}..{end} at {at} of {from}..{to}", e.offset));
            }
            if !e.data && expected(o, at..end).iter().any(|&b| b != 0) {
                return Err(format!("a hole at {at}..{end} where there is data"));
            }
            at = end;
        }
        if page.is_empty() {
            return Err(format!("no extents from {at} to {to}"));
        }
    }
    Ok(())
}

/// What a range of bytes must read as.
fn expected(o: &Object, range: Range<u64>) -> Vec<u8> {
    let mut out = Vec::with_capacity((range.end - range.start) as usize);
    let mut at = range.start;
    while at < range.end {
        let (block, within) = ((at / B) as usize, (at % B) as usize);
        let n = (BLOCK - within).min((range.end - at) as usize);
        match &o.blocks[block] {
            Some(c) => out.extend_from_slice(&c.1[within..within + n]),
            None => out.resize(out.len() + n, 0),
        }
        at += n as u64;
    }
    out
}
