//! Tags of volumes and snapshots.

use super::ask::Terms;
use crate::{engine::state::State, lack::Step};
use std::collections::BTreeMap;

type Tags = BTreeMap<String, String>;

impl State {
    /// Puts what the tags are to be into `tags`.
    pub(super) fn check_tags(&mut self, snapshot: bool, id: u64, tags: &mut Tags, terms: &Terms) -> Step<()> {
        self.tag_records(snapshot, id)?;
        let Terms::OneTag(key, value) = terms else { return Ok(()) };
        *tags = self.catalog_view().tags(snapshot, id)?;
        match value {
            Some(value) => tags.insert(key.clone(), value.clone()),
            None => tags.remove(key),
        };
        Ok(())
    }
    /// Records that the tags of a volume or snapshot take.
    pub(super) fn tag_records(&mut self, snapshot: bool, id: u64) -> Step<u16> {
        if snapshot { Ok(self.snapshot_record(id)?.tag_records) } else { Ok(self.volume_record(id)?.tag_records) }
    }
    pub(super) fn set_tags(&mut self, snapshot: bool, id: u64, tags: &Tags) -> Step<()> {
        let count = self.catalog().put_tags(snapshot, id, tags)?;
        if !snapshot {
            self.volume_record_mut(id)?.tag_records = count;
            return self.save_volume_record(id);
        }
        let mut record = self.snapshot_record(id)?.clone();
        record.tag_records = count;
        self.catalog().put_snapshot(id, &record)?;
        self.set_snapshot_record(id, record);
        Ok(())
    }
}
