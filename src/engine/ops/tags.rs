//! Tags of volumes and snapshots.

use super::Op;
use crate::{engine::state::State, lack::Step};
use std::collections::BTreeMap;

type Tags = BTreeMap<String, String>;

impl State {
    pub(super) fn check_tagged(&mut self, snapshot: bool, id: u64) -> Step<()> {
        self.tag_records(snapshot, id).map(drop)
    }
    /// Sets or removes one tag of a snapshot and leaves the others as they are at this moment.
    pub(super) fn check_tag(&mut self, id: u64, key: String, value: Option<String>) -> Step<Op> {
        self.check_tagged(true, id)?;
        let mut tags = self.catalog_view().tags(true, id)?;
        match value {
            Some(value) => tags.insert(key, value),
            None => tags.remove(&key),
        };
        Ok(Op::SetTags { snapshot: true, id, tags })
    }
    /// Records that the tags of a volume or snapshot take.
    pub(super) fn tag_records(&mut self, snapshot: bool, id: u64) -> Step<u16> {
        if snapshot { Ok(self.frozen_head(id)?.tag_records) } else { Ok(self.head(id)?.tag_records) }
    }
    pub(super) fn set_tags(&mut self, snapshot: bool, id: u64, tags: &Tags) -> Step<()> {
        let count = self.catalog().put_tags(snapshot, id, tags)?;
        if !snapshot {
            self.head_mut(id)?.tag_records = count;
            return self.save_head(id);
        }
        let mut record = self.frozen_head(id)?.clone();
        record.tag_records = count;
        self.catalog().put_snapshot(id, &record)?;
        self.set_frozen_head(id, record);
        Ok(())
    }
}
