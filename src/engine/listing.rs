//! Lookups in the catalog for handles: records, names, tags, lists. Each answer shows one moment; a list shows one moment per page.

use super::{
    catalog::{SnapshotRecord, VolumeRecord},
    state::Engine,
};
use crate::{ErrorKind, Result, units::Target};
use std::collections::BTreeMap;

/// Records that one lookup reads at most.
const PAGE: usize = 256;

impl Engine {
    /// Returns a volume's record; `Deleted` if there is none.
    pub(crate) fn volume_record(&self, id: u64) -> Result<VolumeRecord> {
        self.step(|state| state.volume_record(id).cloned())
    }
    /// Returns a snapshot's record; `Deleted` if there is none.
    pub(crate) fn snapshot_record(&self, id: u64) -> Result<SnapshotRecord> {
        self.step(|state| state.snapshot_record(id).cloned())
    }
    /// Returns the size of a volume or snapshot in bytes.
    pub(crate) fn size(&self, target: Target) -> Result<u64> {
        self.lookup(|state| Ok(state.extent_root(target)?.1))
    }
    pub(crate) fn tags(&self, target: Target) -> Result<BTreeMap<String, String>> {
        let (snapshot, id, records) = match target {
            Target::Volume(id) => (false, id, self.volume_record(id)?.tag_records),
            Target::Snapshot(id) => (true, id, self.snapshot_record(id)?.tag_records),
        };
        match records {
            0 => Ok(BTreeMap::new()),
            _ => self.lookup(|state| state.catalog_view().tags(snapshot, id)),
        }
    }
    /// Returns the snapshot with that id, if it still exists.
    pub(crate) fn existing_snapshot(&self, id: u64) -> Result<Option<SnapshotRecord>> {
        match self.snapshot_record(id) {
            Ok(record) => Ok(Some(record)),
            Err(e) if e.kind() == ErrorKind::Deleted => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Returns up to `most` volumes by id, from an id on.
    pub(crate) fn volumes(&self, from: u64, most: usize) -> Result<Vec<(u64, VolumeRecord)>> {
        self.lookup(|state| state.catalog_view().volumes(from, most.min(PAGE)))
    }
    /// Returns up to `most` snapshots by id, from an id on, and the id to continue from, `None` if there are no more. There may be fewer,
    /// where some belong to volumes that are being removed.
    #[allow(clippy::type_complexity, reason = "a page and where it ends")]
    pub(crate) fn snapshots(&self, from: u64, most: usize) -> Result<(Vec<(u64, SnapshotRecord)>, Option<u64>)> {
        self.lookup(|state| {
            let mut page = state.catalog_view().snapshots(from, most.min(PAGE))?;
            let next = page.last().and_then(|(id, _)| id.checked_add(1));
            page.retain(|(_, record)| !state.sweeping.contains(&record.volume));
            Ok((page, next))
        })
    }
    /// Returns all snapshots of a volume, by id.
    pub(crate) fn snapshots_of(&self, volume: u64) -> Result<Vec<(u64, SnapshotRecord)>> {
        let (mut ids, mut from) = (Vec::new(), Some(0));
        while let Some(hash) = from {
            let (page, next) = self.lookup(|state| state.catalog_view().snapshots_of(volume, hash, PAGE))?;
            ids.extend(page);
            from = next;
        }
        ids.sort_unstable();
        let record = |id| Ok(self.existing_snapshot(id)?.map(|record| (id, record)));
        ids.into_iter().filter_map(|id| record(id).transpose()).collect()
    }

    /// Returns the first of `count` ids for new snapshots.
    pub(crate) fn draw_snapshots(&self, count: usize) -> Result<u64> {
        let mut state = self.state_mut()?;
        let first = state.next_snapshot;
        state.next_snapshot += count as u64;
        Ok(first)
    }
    /// Returns an id for a new volume.
    pub(crate) fn draw_volume(&self) -> Result<u64> {
        let mut state = self.state_mut()?;
        state.next_volume += 1;
        Ok(state.next_volume - 1)
    }
}
