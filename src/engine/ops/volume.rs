//! Volumes: made, cloned, renamed, resized, rolled back, deleted.

use super::{ask::Terms, edge::EdgeNeed};
use crate::{
    Error, ErrorKind,
    engine::{
        catalog::{VolumeRecord, doomed_key},
        state::State,
    },
    format::RootPointer,
    lack::Step,
    log::{DeleteMode, Placed, check_name, check_size, tag_chunks},
    tree::{Doomed, Root},
    units::{BLOCK_BYTES, Target, VOLUME_BLOCKS},
};
use std::collections::BTreeMap;

type Tags = BTreeMap<String, String>;

impl State {
    // ---- what is demanded

    /// A name that a volume may have and none has.
    pub(super) fn check_volume_name(&mut self, name: &str) -> Step<()> {
        check_name(name)?;
        match self.catalog_view().volume_named(name)? {
            Some(_) => Err(Error::new(ErrorKind::Exists, format!("volume {name:?} exists")).into()),
            None => Ok(()),
        }
    }
    pub(super) fn check_delete_volume(&mut self, volume: u64, terms: &Terms) -> Step<()> {
        let record = self.volume_record(volume)?;
        if matches!(terms, Terms::WithoutSnapshots) && record.snapshots > 0 {
            let (name, n) = (&record.name, record.snapshots);
            let what = format!("volume {name:?} has {n} snapshots: say whether they stay or go too");
            return Err(Error::invalid(what).into());
        }
        Ok(())
    }
    pub(super) fn check_resize(&mut self, volume: u64, size: u64) -> Step<Option<EdgeNeed>> {
        check_size(size)?;
        let cuts = size < self.volume_record(volume)?.size && !size.is_multiple_of(BLOCK_BYTES);
        Ok(cuts.then_some(EdgeNeed { target: Target::Volume(volume), size }))
    }
    /// Returns the volume's size after the rollback.
    pub(super) fn check_rollback(
        &mut self,
        volume: u64,
        snapshot: u64,
        terms: &Terms,
    ) -> Step<(u64, Option<EdgeNeed>)> {
        let now = self.volume_record(volume)?.size;
        let target = self.snapshot_record(snapshot)?;
        if target.volume != volume {
            let of = target.volume;
            let what = format!("snapshot {snapshot} is of volume {of}, not of volume {volume}: clone it instead");
            return Err(Error::invalid(what).into());
        }
        let size = if matches!(terms, Terms::KeepSize) { now } else { target.size };
        let cuts = size < target.size && !size.is_multiple_of(BLOCK_BYTES);
        Ok((size, cuts.then_some(EdgeNeed { target: Target::Snapshot(snapshot), size })))
    }

    // ---- what is done

    pub(super) fn create_volume(&mut self, id: u64, name: &str, size: u64, created: u64, tags: &Tags) -> Step<()> {
        let (root, tag_records) = (RootPointer::default(), tag_chunks(tags)? as u16);
        let record =
            VolumeRecord { name: name.to_owned(), size, root, created, parent: None, snapshots: 0, tag_records };
        self.add_volume(id, record, tags)
    }
    pub(super) fn clone_volume(&mut self, snapshot: u64, id: u64, name: &str, created: u64, tags: &Tags) -> Step<()> {
        let origin = self.snapshot_record(snapshot)?.clone();
        self.add_reference(origin.root)?;
        let record = VolumeRecord {
            name: name.to_owned(),
            size: origin.size,
            root: origin.root,
            created,
            parent: Some(snapshot),
            snapshots: 0,
            tag_records: tag_chunks(tags)? as u16,
        };
        self.add_volume(id, record, tags)
    }
    fn add_volume(&mut self, id: u64, record: VolumeRecord, tags: &Tags) -> Step<()> {
        self.next_volume = self.next_volume.max(id + 1);
        let mut catalog = self.catalog();
        catalog.put_volume_name(&record.name, id)?;
        catalog.put_volume(id, &record)?;
        if record.tag_records > 0 {
            catalog.put_tags(false, id, tags)?;
        }
        self.set_volume_record(id, record);
        Ok(())
    }
    pub(super) fn delete_volume(&mut self, volume: u64, mode: DeleteMode) -> Step<()> {
        let record = self.volume_record(volume)?.clone();
        let mut catalog = self.catalog();
        catalog.remove_volume_name(&record.name)?;
        catalog.remove_volume(volume)?;
        if record.tag_records > 0 {
            catalog.put_tags(false, volume, &Tags::new())?;
        }
        if mode == DeleteMode::Sweep && record.snapshots > 0 {
            catalog.put_sweep(volume)?;
            self.set_sweeping(volume, true);
            self.snapshot_records.retain(|_, s| s.volume != volume);
            self.translations.forget_snapshots();
        }
        self.volume_records.remove(&volume);
        self.translations.forget_all(Target::Volume(volume));
        self.drop_root(record.root)
    }
    pub(super) fn rename_volume(&mut self, volume: u64, name: &str) -> Step<()> {
        let old = self.volume_record(volume)?.name.clone();
        let mut catalog = self.catalog();
        catalog.remove_volume_name(&old)?;
        catalog.put_volume_name(name, volume)?;
        name.clone_into(&mut self.volume_record_mut(volume)?.name);
        self.save_volume_record(volume)
    }
    pub(super) fn resize(&mut self, volume: u64, size: u64, edge: Option<&Placed>) -> Step<()> {
        if size < self.volume_record(volume)?.size {
            self.cut_end(volume, size, edge)?;
        }
        self.volume_record_mut(volume)?.size = size;
        self.translations.forget_all(Target::Volume(volume));
        self.save_volume_record(volume)
    }
    pub(super) fn rollback(&mut self, volume: u64, snapshot: u64, size: u64, edge: Option<&Placed>) -> Step<()> {
        let target = self.snapshot_record(snapshot)?.clone();
        let old = self.volume_record(volume)?.root;
        self.add_reference(target.root)?;
        self.drop_root(old)?;
        let head = self.volume_record_mut(volume)?;
        (head.root, head.parent, head.size) = (target.root, Some(snapshot), size);
        self.translations.forget_all(Target::Volume(volume));
        self.save_volume_record(volume)?;
        if size < target.size { self.cut_end(volume, size, edge) } else { Ok(()) }
    }
    /// Cuts a volume at `size`; `edge` is its last block where that is cut in two.
    fn cut_end(&mut self, volume: u64, size: u64, edge: Option<&Placed>) -> Step<()> {
        self.cut(volume, size.div_ceil(BLOCK_BYTES), VOLUME_BLOCKS, false)?;
        edge.map_or(Ok(()), |e| self.place(volume, e, false))
    }

    // ---- records and roots

    pub(super) fn save_volume_record(&mut self, id: u64) -> Step<()> {
        let record = self.volume_record(id)?.clone();
        self.catalog().put_volume(id, &record)
    }
    /// Sets the root of a volume's tree.
    pub(super) fn set_root(&mut self, volume: u64, root: Root) -> Step<()> {
        let pointer = RootPointer::from(root);
        if self.volume_record(volume)?.root != pointer {
            self.volume_record_mut(volume)?.root = pointer;
            self.save_volume_record(volume)?;
        }
        while let Some(d) = self.forest.dooms.pop() {
            self.doom(d)?;
        }
        Ok(())
    }
    /// Adds to the doomed list; the reference passes to it.
    pub(in crate::engine) fn doom(&mut self, d: Doomed) -> Step<()> {
        let sequence = self.doom_sequence;
        self.doom_sequence += 1;
        self.doomed += 1;
        let pointer = Root { node: Some(d.child), level: d.level }.into();
        self.catalog().put_doomed(doomed_key(sequence), pointer)
    }
    /// Takes a root's reference away.
    pub(super) fn drop_root(&mut self, root: RootPointer) -> Step<()> {
        let root = Root::from(root);
        let Some(child) = root.node else { return Ok(()) };
        if self.forest.space.count(child.block)? > 1 {
            self.forest.space.decref(child.block).map(drop)
        } else {
            self.doom(Doomed { child, level: root.level })
        }
    }
    pub(super) fn add_reference(&mut self, root: RootPointer) -> Step<()> {
        match Root::from(root).node {
            Some(child) => self.forest.space.incref(child.block),
            None => Ok(()),
        }
    }
}
