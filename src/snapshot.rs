//! Snapshots: a frozen volume, readable while it exists.

use crate::{
    Result, SnapshotId,
    engine::{Owner, Target},
    volume::{MapExtent, time},
};
use std::{collections::BTreeMap, fmt, ops::Range, sync::Arc, time::SystemTime};

/// A handle to a snapshot. Cheap to clone; may be used from any thread. Once the snapshot is deleted everything that reads answers
/// `Deleted`.
#[derive(Clone)]
pub struct Snapshot {
    pub(crate) engine: Arc<Owner>,
    pub(crate) id: SnapshotId,
    pub(crate) volume: crate::VolumeId,
    pub(crate) created: u64,
    pub(crate) size: u64,
}

impl Snapshot {
    fn record(&self) -> Result<crate::engine::SnapshotRecord> {
        self.engine.state_mut()?.frozen_head(self.id.0).cloned()
    }
    /// Its id.
    pub fn id(&self) -> SnapshotId {
        self.id
    }
    /// Its name.
    pub fn name(&self) -> Result<String> {
        Ok(self.record()?.name)
    }
    /// The volume that it was taken of, which may be gone.
    pub fn volume(&self) -> crate::VolumeId {
        self.volume
    }
    /// When it was taken, by the host's clock.
    pub fn created(&self) -> SystemTime {
        time(self.created)
    }
    /// The snapshot that the volume's content was derived from when this one was taken; `None` if there was none or it is gone.
    pub fn parent(&self) -> Result<Option<SnapshotId>> {
        let parent = self.record()?.parent;
        let mut state = self.engine.state_mut()?;
        Ok(parent.filter(|&p| state.frozen_head(p).is_ok()).map(SnapshotId))
    }
    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
    /// Its tags.
    pub fn tags(&self) -> Result<BTreeMap<String, String>> {
        if self.record()?.tag_records == 0 {
            return Ok(BTreeMap::new());
        }
        self.engine.view()?.catalog_view().tags(true, self.id.0)
    }
    /// Fills `buf` from `offset` (bytes). `OutOfRange` past the end, `Corrupt` where a block does not verify.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let target = Target::Snapshot(self.id.0);
        self.engine.with_head(target, || self.engine.read(target, buf, offset))
    }
    /// Which parts of a byte range hold data, in order and without gaps. Whole blocks count as data.
    pub fn extents(&self, range: Range<u64>) -> Result<Vec<MapExtent>> {
        crate::volume::extents(&self.engine, Target::Snapshot(self.id.0), range)
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("id", &self.id.0).field("volume", &self.volume.0).finish_non_exhaustive()
    }
}
