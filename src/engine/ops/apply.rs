//! Applying an operation to trees and catalog: the same code live and at recovery (I7).
//!
//! By the time an operation is applied it was validated, its nodes are reserved and what it reads is in memory; an error here means
//! damage, and poisons.

use crate::{
    Error, Result,
    engine::{
        catalog::{PUT_NODES, SnapshotRecord, VolumeRecord, doomed_key},
        state::{State, Target},
    },
    format::{PAGE_PAYLOAD, RootPointer},
    log::{DeleteMode, Op, Placed, tag_chunks},
    tree::{Doomed, EXTENT_BYTES, Fresh, Miss, Node, Root, Shape, children_of, overlap, read_step},
    units::{BLOCK_BYTES, Block},
};

impl State {
    // ---- what it needs

    pub(crate) fn put_nodes(&self) -> usize {
        PUT_NODES.0 * usize::from(self.catalog.level) + PUT_NODES.1
    }
    fn tree_nodes(&self, volume: u64) -> usize {
        self.heads.get(&volume).map_or(1, |r| usize::from(r.root.level) + 2)
    }
    /// Ranges longer than this many blocks leave their inside to reclaim.
    pub(crate) fn doom_from(&self) -> u64 {
        if self.knobs.fanout == usize::MAX { 1024 } else { 8 }
    }
    /// Nodes that replacing a range by `extents` extents of `blocks` blocks needs at most: both edge paths copied, every node on them split,
    /// and the leaves that the new extents fill with the inner nodes above those.
    fn splice_nodes(&self, volume: u64, extents: usize, blocks: usize) -> usize {
        let bytes = (extents + 2) * EXTENT_BYTES + blocks * 4;
        let leaves = (2 * bytes).div_ceil(PAGE_PAYLOAD).max((2 * (extents + 2)).div_ceil(self.knobs.fanout)) + 1;
        4 * self.tree_nodes(volume) + 2 * leaves
    }

    /// Nodes that a write of `blocks` blocks needs at most: when each is an extent of its own.
    pub(crate) fn write_nodes(&self, volume: u64, blocks: usize) -> usize {
        self.splice_nodes(volume, blocks, blocks) + self.put_nodes()
    }
    /// Nodes that an operation needs at most.
    pub(crate) fn nodes_for(&self, op: &Op) -> Result<usize> {
        let put = self.put_nodes();
        // A cut leaves two doomed nodes a level, each with an entry of the list.
        let cut = |volume| self.splice_nodes(volume, 2, 2) + 2 * self.tree_nodes(volume) * (put + 1);
        let edge =
            |volume, edge: &Option<Placed>| cut(volume) + edge.as_ref().map_or(0, |_| self.splice_nodes(volume, 2, 2));
        Ok(match op {
            Op::Write { volume, data } => self.splice_nodes(*volume, extents_of(data), data.blocks() as usize) + put,
            Op::Cut { volume, from, to, edges } => {
                let inside = if to - from > self.doom_from() { cut(*volume) } else { self.splice_nodes(*volume, 2, 2) };
                inside + edges.len() * self.splice_nodes(*volume, 2, 2) + put
            }
            Op::CreateVolume { tags, .. } => (2 + tag_chunks(tags)?) * put,
            Op::Snapshot { members, tags, .. } => members.len() * (3 + tag_chunks(tags)?) * put,
            // The target's tree may be as high as any.
            Op::Rollback { volume, edge: e, .. } => 3 * put + edge(*volume, e) + 64,
            Op::Clone { tags, .. } => (2 + tag_chunks(tags)?) * put,
            Op::DeleteVolume { volume, .. } => {
                (5 + self.heads.get(volume).map_or(0, |r| usize::from(r.tag_records))) * put
            }
            Op::DeleteSnapshot { snapshot } => {
                (4 + self.frozen_heads.get(snapshot).map_or(0, |r| usize::from(r.tag_records))) * put
            }
            Op::RenameVolume { .. } | Op::RenameSnapshot { .. } => 3 * put,
            Op::Resize { volume, edge: e, .. } => put + edge(*volume, e),
            Op::SetTags { snapshot, id, tags } => {
                let old = if *snapshot {
                    self.frozen_heads.get(id).map_or(0, |r| r.tag_records)
                } else {
                    self.heads.get(id).map_or(0, |r| r.tag_records)
                };
                (1 + usize::from(old) + tag_chunks(tags)?) * put
            }
            Op::Data { .. } => 0,
        })
    }

    /// Whether what an operation makes gets an id that nothing has, so that it replaces nothing. The counters of an image may lie.
    pub(crate) fn check_new(&self, op: &Op) -> Result<()> {
        let view = self.catalog_view();
        let exists = |what| Err(Error::corrupt(format!("{what} exists already: the image's counter of ids is wrong")));
        match op {
            Op::CreateVolume { id, .. } | Op::Clone { id, .. } => {
                // Snapshots may outlive their volume, and its number with them.
                let used = self.sweeping.contains(id) || view.has_snapshots(*id)? || view.volume(*id)?.is_some();
                if used { exists(Target::Volume(*id)) } else { Ok(()) }
            }
            Op::Snapshot { members, .. } => members.iter().try_for_each(|(_, id, _)| match view.snapshot(*id)? {
                Some(_) => exists(Target::Snapshot(*id)),
                None => Ok(()),
            }),
            _ => Ok(()),
        }
    }

    // ---- doing it

    pub(crate) fn apply(&mut self, op: &Op) -> Result<()> {
        match op {
            Op::Write { volume, data } => self.place(*volume, data),
            Op::Cut { volume, from, to, edges } => {
                self.cut(*volume, *from, *to)?;
                edges.iter().try_for_each(|e| self.place(*volume, e))
            }
            Op::CreateVolume { id, name, size, created, tags } => {
                let record = VolumeRecord {
                    name: name.clone(),
                    size: *size,
                    root: RootPointer::default(),
                    created: *created,
                    parent: None,
                    snapshots: 0,
                    tag_records: tag_chunks(tags)? as u16,
                };
                self.add_volume(*id, record, tags)
            }
            Op::Snapshot { members, created, tags } => {
                members.iter().try_for_each(|(volume, id, name)| self.snapshot(*volume, *id, name, *created, tags))
            }
            Op::Rollback { volume, snapshot, size, edge } => self.rollback(*volume, *snapshot, *size, edge.as_ref()),
            Op::Clone { snapshot, id, name, created, tags } => {
                let origin = self.frozen_head(*snapshot)?.clone();
                self.add_reference(origin.root)?;
                let record = VolumeRecord {
                    name: name.clone(),
                    size: origin.size,
                    root: origin.root,
                    created: *created,
                    parent: Some(*snapshot),
                    snapshots: 0,
                    tag_records: tag_chunks(tags)? as u16,
                };
                self.add_volume(*id, record, tags)
            }
            Op::DeleteVolume { volume, mode } => {
                let record = self.head(*volume)?.clone();
                let mut catalog = self.catalog();
                catalog.remove_volume_name(&record.name)?;
                catalog.remove_volume(*volume)?;
                if record.tag_records > 0 {
                    catalog.put_tags(false, *volume, &Default::default())?;
                }
                if *mode == DeleteMode::Sweep && record.snapshots > 0 {
                    catalog.put_sweep(*volume)?;
                    self.sweeping.insert(*volume);
                    self.frozen_heads.retain(|_, s| s.volume != *volume);
                }
                self.heads.remove(volume);
                self.drop_root(record.root)
            }
            Op::DeleteSnapshot { snapshot } => self.delete_snapshot(*snapshot),
            Op::RenameVolume { volume, name } => {
                let old = self.head(*volume)?.name.clone();
                let mut catalog = self.catalog();
                catalog.remove_volume_name(&old)?;
                catalog.put_volume_name(name, *volume)?;
                self.head(*volume)?.name = name.clone();
                self.save_head(*volume)
            }
            Op::RenameSnapshot { snapshot, name } => {
                let mut record = self.frozen_head(*snapshot)?.clone();
                let mut catalog = self.catalog();
                catalog.remove_snapshot_name(record.volume, &record.name)?;
                catalog.put_snapshot_name(record.volume, name, *snapshot)?;
                record.name = name.clone();
                catalog.put_snapshot(*snapshot, &record)?;
                self.frozen_heads.insert(*snapshot, record);
                Ok(())
            }
            Op::Resize { volume, size, edge } => {
                let old = self.head(*volume)?.size;
                if *size < old {
                    self.cut_end(*volume, *size, edge.as_ref())?;
                }
                self.head(*volume)?.size = *size;
                self.save_head(*volume)
            }
            Op::Data { at, bytes } => {
                self.staging.log(*at, bytes.clone());
                Ok(())
            }
            Op::SetTags { snapshot, id, tags } => {
                let count = self.catalog().put_tags(*snapshot, *id, tags)?;
                if *snapshot {
                    let mut record = self.frozen_head(*id)?.clone();
                    record.tag_records = count;
                    self.catalog().put_snapshot(*id, &record)?;
                    self.frozen_heads.insert(*id, record);
                    Ok(())
                } else {
                    self.head(*id)?.tag_records = count;
                    self.save_head(*id)
                }
            }
        }
    }

    fn save_head(&mut self, id: u64) -> Result<()> {
        let record = self.head(id)?.clone();
        self.catalog().put_volume(id, &record)
    }
    fn add_volume(
        &mut self,
        id: u64,
        record: VolumeRecord,
        tags: &std::collections::BTreeMap<String, String>,
    ) -> Result<()> {
        self.next_volume = self.next_volume.max(id + 1);
        let mut catalog = self.catalog();
        catalog.put_volume_name(&record.name, id)?;
        catalog.put_volume(id, &record)?;
        if record.tag_records > 0 {
            catalog.put_tags(false, id, tags)?;
        }
        self.heads.insert(id, record);
        Ok(())
    }

    /// Gives a volume its new tree.
    fn set_root(&mut self, volume: u64, root: Root) -> Result<()> {
        let pointer = RootPointer::from(root);
        if self.head(volume)?.root != pointer {
            self.head(volume)?.root = pointer;
            self.save_head(volume)?;
        }
        self.list_doomed()
    }
    fn list_doomed(&mut self) -> Result<()> {
        while let Some(d) = self.forest.dooms.pop() {
            self.doom(d)?;
        }
        Ok(())
    }
    /// Adds to the doomed list; the reference passes to it.
    pub(crate) fn doom(&mut self, d: Doomed) -> Result<()> {
        let sequence = self.doom_sequence;
        self.doom_sequence += 1;
        self.doomed += 1;
        let pointer = Root { node: Some(d.child), level: d.level }.into();
        self.catalog().put_doomed(doomed_key(sequence), pointer)
    }
    /// Takes a root's reference away.
    pub(crate) fn drop_root(&mut self, root: RootPointer) -> Result<()> {
        let root = Root::from(root);
        let Some(child) = root.node else { return Ok(()) };
        let forest = &mut self.forest;
        if forest.space.count(&forest.disk, child.block)? > 1 {
            forest.space.decref(&forest.disk, child.block).map(drop)
        } else {
            self.doom(Doomed { child, level: root.level })
        }
    }
    fn add_reference(&mut self, root: RootPointer) -> Result<()> {
        match Root::from(root).node {
            Some(child) => self.forest.space.incref(&self.forest.disk, child.block),
            None => Ok(()),
        }
    }

    /// Puts data that is already allocated in its place.
    fn place(&mut self, volume: u64, data: &Placed) -> Result<()> {
        let root = Root::from(self.head(volume)?.root);
        for &(start, len) in &data.runs {
            for i in 0..u64::from(len) {
                self.forest.space.first_parent(&self.forest.disk, Block(start).plus(i))?;
            }
        }
        if let [(start, _)] = data.runs[..]
            && self.forest.exchange(root, data.block, Block(start), &data.sums)?
        {
            return Ok(());
        }
        let mut fresh = Vec::with_capacity(extents_of(data));
        let (mut logical, mut at) = (data.block, 0);
        for &(start, len) in &data.runs {
            let mut done = 0;
            while done < len {
                let n = (len - done).min(crate::EXTENT_MAX);
                fresh.push((logical, Block(start).plus(done.into()), data.sums[at..at + n as usize].to_vec()));
                (done, at, logical) = (done + n, at + n as usize, logical + u64::from(n));
            }
        }
        if self.forest.overwrite(root, data.block, logical, &fresh)? {
            return Ok(());
        }
        let (lo, hi) = (data.block.into(), logical.into());
        let root = self.forest.splice(root, Shape::Extents, lo, hi, Some(Fresh::Extents(fresh)), false)?;
        self.set_root(volume, root)
    }

    /// Takes the blocks `from..to` out of a volume.
    fn cut(&mut self, volume: u64, from: u64, to: u64) -> Result<()> {
        if from >= to {
            return Ok(());
        }
        let root = Root::from(self.head(volume)?.root);
        let doom = to - from > self.doom_from();
        let root = self.forest.splice(root, Shape::Extents, from.into(), to.into(), None, doom)?;
        self.set_root(volume, root)
    }
    /// Cuts a volume at `size`; `edge` is its last block where that is cut in two.
    fn cut_end(&mut self, volume: u64, size: u64, edge: Option<&Placed>) -> Result<()> {
        self.cut(volume, size.div_ceil(BLOCK_BYTES), crate::VOLUME_MAX / BLOCK_BYTES)?;
        edge.map_or(Ok(()), |e| self.place(volume, e))
    }

    fn snapshot(
        &mut self,
        volume: u64,
        id: u64,
        name: &str,
        created: u64,
        tags: &std::collections::BTreeMap<String, String>,
    ) -> Result<()> {
        self.next_snapshot = self.next_snapshot.max(id + 1);
        let head = self.head(volume)?;
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
        self.save_head(volume)?;
        let mut catalog = self.catalog();
        catalog.put_snapshot_name(volume, name, id)?;
        catalog.put_snapshot(id, &record)?;
        if record.tag_records > 0 {
            catalog.put_tags(true, id, tags)?;
        }
        Ok(())
    }

    fn rollback(&mut self, volume: u64, snapshot: u64, size: u64, edge: Option<&Placed>) -> Result<()> {
        let target = self.frozen_head(snapshot)?.clone();
        let old = self.head(volume)?.root;
        self.add_reference(target.root)?;
        self.drop_root(old)?;
        let head = self.head(volume)?;
        (head.root, head.parent, head.size) = (target.root, Some(snapshot), size);
        self.save_head(volume)?;
        if size < target.size { self.cut_end(volume, size, edge) } else { Ok(()) }
    }

    /// Removes a snapshot, by request or as part of a sweep.
    pub(crate) fn delete_snapshot(&mut self, id: u64) -> Result<()> {
        let record = match self.frozen_heads.remove(&id) {
            Some(record) => record,
            None => {
                let record = self.catalog_view().snapshot(id)?;
                record.ok_or_else(|| Error::corrupt(format!("snapshot {id} has no record")))?
            }
        };
        let mut catalog = self.catalog();
        catalog.remove_snapshot_name(record.volume, &record.name)?;
        catalog.remove_snapshot(id)?;
        if record.tag_records > 0 {
            catalog.put_tags(true, id, &Default::default())?;
        }
        if self.heads.contains_key(&record.volume) || self.catalog_view().volume(record.volume)?.is_some() {
            let head = self.head(record.volume)?;
            head.snapshots = head.snapshots.saturating_sub(1);
            self.save_head(record.volume)?;
        }
        self.drop_root(record.root)
    }

    /// Reads into memory what splicing `from..to` of a volume reads, so that nothing can fail half-way.
    pub(crate) fn touch(&mut self, volume: u64, from: u64, to: u64) -> Result<()> {
        let root = Root::from(self.head(volume)?.root);
        let Some(child) = root.node else { return Ok(()) };
        let forest = &mut self.forest;
        if let Some(block) = forest.own_leaf(root, from, to)?
            && let Some(Node::Extents(leaf)) = forest.dirty.get(&block.0).map(|d| &*d.node)
        {
            let mut extents = leaf.extents[overlap(leaf, from, to)].iter();
            return extents.try_for_each(|e| forest.space.touch_run(&forest.disk, e.physical, e.len));
        }
        let want = Miss { shape: Shape::Extents, child, level: root.level, bounds: (0, Shape::Extents.end()) };
        self.touch_below(want, from, to, false)
    }
    fn touch_below(&mut self, want: Miss, from: u64, to: u64, shared: bool) -> Result<()> {
        let node = self.forest.load(want)?;
        let doom = to - from > self.doom_from();
        let forest = &mut self.forest;
        let shared = shared || forest.space.count(&forest.disk, want.child.block)? > 1;
        match &*node {
            Node::Inner { entries, .. } if want.level > 0 => {
                if shared {
                    // It will be forked: every child gets one more parent.
                    entries.iter().try_for_each(|e| forest.space.touch(&forest.disk, e.child.block))?;
                }
                for i in children_of(entries, from.into(), to.into()) {
                    let below = read_step(want, entries, i);
                    let inside = below.bounds.0 >= from.into() && below.bounds.1 <= to.into();
                    if !(inside && doom) {
                        self.touch_below(below, from, to, shared)?;
                    }
                }
            }
            Node::Extents(leaf) => {
                let range = if shared { 0..leaf.extents.len() } else { overlap(leaf, from, to) };
                for e in &leaf.extents[range] {
                    forest.space.touch_run(&forest.disk, e.physical, e.len)?;
                }
            }
            _ => return Err(Error::corrupt(format!("{}: a node of another kind", want.child.block))),
        }
        Ok(())
    }
}

/// Extents that a placement makes.
fn extents_of(data: &Placed) -> usize {
    data.runs.iter().map(|r| r.1.div_ceil(crate::EXTENT_MAX) as usize).sum()
}
