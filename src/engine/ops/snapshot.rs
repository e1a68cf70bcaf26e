//! Snapshots: taken, renamed, deleted.

use crate::{
    Error, ErrorKind,
    engine::{catalog::SnapshotRecord, state::State},
    lack::Step,
    log::{check_name, tag_chunks},
    units::Target,
};
use std::collections::BTreeMap;

type Tags = BTreeMap<String, String>;

impl State {
    /// A name that a snapshot of this volume may have and none has.
    pub(super) fn check_snapshot_name(&mut self, volume: u64, name: &str) -> Step<()> {
        check_name(name)?;
        match self.catalog_view().snapshot_named(volume, name)? {
            Some(_) => Err(Error::new(ErrorKind::Exists, format!("volume {volume} has a snapshot {name:?}")).into()),
            None => Ok(()),
        }
    }

    pub(super) fn snapshot(&mut self, volume: u64, id: u64, name: &str, created: u64, tags: &Tags) -> Step<()> {
        self.next_snapshot = self.next_snapshot.max(id + 1);
        let head = self.volume_record_mut(volume)?;
        let record = SnapshotRecord {
            name: name.to_owned(),
            volume,
            size: head.size,
            root: head.root,
            created,
            parent: head.parent,
            tag_records: tag_chunks(tags)? as u16,
        };
        head.parent = Some(id);
        head.snapshots = head.snapshots.saturating_add(1);
        self.add_reference(record.root)?;
        self.save_volume_record(volume)?;
        let mut catalog = self.catalog();
        catalog.put_snapshot_name(volume, name, id)?;
        catalog.put_snapshot(id, &record)?;
        if record.tag_records > 0 {
            catalog.put_tags(true, id, tags)?;
        }
        Ok(())
    }
    pub(super) fn rename_snapshot(&mut self, snapshot: u64, name: &str) -> Step<()> {
        let mut record = self.snapshot_record(snapshot)?.clone();
        let mut catalog = self.catalog();
        catalog.remove_snapshot_name(record.volume, &record.name)?;
        catalog.put_snapshot_name(record.volume, name, snapshot)?;
        name.clone_into(&mut record.name);
        catalog.put_snapshot(snapshot, &record)?;
        self.set_snapshot_record(snapshot, record);
        Ok(())
    }
    /// Removes a snapshot, by request or since its volume was deleted with all of them.
    pub(in crate::engine) fn delete_snapshot(&mut self, id: u64) -> Step<()> {
        let record = match self.snapshot_records.remove(&id) {
            Some(record) => record,
            None => {
                let record = self.catalog_view().snapshot(id)?;
                record.ok_or_else(|| Error::corrupt(format!("snapshot {id} has no record")))?
            }
        };
        self.translations.forget_all(Target::Snapshot(id));
        let mut catalog = self.catalog();
        catalog.remove_snapshot_name(record.volume, &record.name)?;
        catalog.remove_snapshot(id)?;
        if record.tag_records > 0 {
            catalog.put_tags(true, id, &Tags::new())?;
        }
        if self.volume_records.contains_key(&record.volume) || self.catalog_view().volume(record.volume)?.is_some() {
            let head = self.volume_record_mut(record.volume)?;
            head.snapshots = head.snapshots.saturating_sub(1);
            self.save_volume_record(record.volume)?;
        }
        self.drop_root(record.root)
    }
}
