//! The operations. Each has what it demands, what it needs and what it does side by side; applying a record is the same code live and
//! at recovery (I7).
//!
//! What an operation lacks, or finds damaged, undoes all of it: see [`State::transact`].

mod ask;
mod batch;
mod cut;
mod direct;
mod edge;
mod snapshot;
mod tags;
mod volume;
mod write;

use super::{catalog::PUT_NODES, state::State};
use crate::{
    Error, Result,
    lack::Step,
    log::{Op, tag_chunks},
    units::Target,
};
use edge::EdgeNeed;

pub(crate) use ask::Ask;
pub(crate) use write::Bytes;

impl State {
    /// Checks what is asked for against what there is. Returns the operation and, where a size cuts a block in two, which.
    fn check(&mut self, ask: &Ask, now: u64) -> Step<(Op, Option<EdgeNeed>)> {
        let mut op = ask.op.clone();
        let mut edge = None;
        match &mut op {
            Op::CreateVolume { name, created, .. } => {
                self.check_volume_name(name)?;
                *created = now;
            }
            Op::Clone { snapshot, name, created, .. } => {
                self.snapshot_record(*snapshot)?;
                self.check_volume_name(name)?;
                *created = now;
            }
            Op::DeleteVolume { volume, .. } => self.check_delete_volume(*volume, &ask.terms)?,
            Op::RenameVolume { volume, name } => {
                if self.volume_record(*volume)?.name != *name {
                    self.check_volume_name(name)?;
                }
            }
            Op::Resize { volume, size, .. } => edge = self.check_resize(*volume, *size)?,
            Op::Rollback { volume, snapshot, size, .. } => {
                (*size, edge) = self.check_rollback(*volume, *snapshot, &ask.terms)?;
            }
            Op::Snapshot { members, created, .. } => {
                for (volume, _, name) in members {
                    self.volume_record(*volume)?;
                    self.check_snapshot_name(*volume, name)?;
                }
                *created = now;
            }
            Op::DeleteSnapshot { snapshot } => drop(self.snapshot_record(*snapshot)?),
            Op::RenameSnapshot { snapshot, name } => {
                let record = self.snapshot_record(*snapshot)?;
                let (volume, same) = (record.volume, record.name == *name);
                if !same {
                    self.check_snapshot_name(volume, name)?;
                }
            }
            Op::SetTags { snapshot, id, tags } => self.check_tags(*snapshot, *id, tags, &ask.terms)?,
            // Writes and discards are requests of their own.
            Op::Write { .. } | Op::Cut { .. } | Op::Data { .. } => {}
        }
        Ok((op, edge))
    }

    /// Nodes that an operation needs at most.
    pub(super) fn needs(&mut self, op: &Op) -> Step<usize> {
        let put = self.put_nodes();
        Ok(match op {
            Op::Write { volume, data } => self.needs_place(*volume, data)? + put,
            Op::Cut { volume, from, to, edges } => self.needs_cut(*volume, to - from, edges.len())? + put,
            Op::CreateVolume { tags, .. } | Op::Clone { tags, .. } => (2 + tag_chunks(tags)?) * put,
            Op::DeleteVolume { volume, .. } => (5 + usize::from(self.volume_record(*volume)?.tag_records)) * put,
            Op::RenameVolume { .. } | Op::RenameSnapshot { .. } => 3 * put,
            Op::Resize { volume, edge, .. } => put + self.needs_cut(*volume, u64::MAX, edge.iter().len())?,
            // The target's tree may be as high as any.
            Op::Rollback { volume, edge, .. } => 3 * put + self.needs_cut(*volume, u64::MAX, edge.iter().len())? + 64,
            Op::Snapshot { members, tags, .. } => members.len() * (3 + tag_chunks(tags)?) * put,
            Op::DeleteSnapshot { snapshot } => (4 + usize::from(self.snapshot_record(*snapshot)?.tag_records)) * put,
            Op::SetTags { snapshot, id, tags } => {
                (1 + usize::from(self.tag_records(*snapshot, *id)?) + tag_chunks(tags)?) * put
            }
            Op::Data { .. } => 0,
        })
    }

    pub(super) fn apply(&mut self, op: &Op) -> Step<()> {
        match op {
            Op::Write { volume, data } => self.place(*volume, data, false),
            Op::Cut { volume, from, to, edges } => {
                self.cut(*volume, *from, *to, false)?;
                edges.iter().try_for_each(|e| self.place(*volume, e, false))
            }
            Op::CreateVolume { id, name, size, created, tags } => self.create_volume(*id, name, *size, *created, tags),
            Op::Clone { snapshot, id, name, created, tags } => self.clone_volume(*snapshot, *id, name, *created, tags),
            Op::DeleteVolume { volume, mode } => self.delete_volume(*volume, *mode),
            Op::RenameVolume { volume, name } => self.rename_volume(*volume, name),
            Op::Resize { volume, size, edge } => self.resize(*volume, *size, edge.as_ref()),
            Op::Rollback { volume, snapshot, size, edge } => self.rollback(*volume, *snapshot, *size, edge.as_ref()),
            Op::Snapshot { members, created, tags } => {
                members.iter().try_for_each(|(volume, id, name)| self.snapshot(*volume, *id, name, *created, tags))
            }
            Op::DeleteSnapshot { snapshot } => self.delete_snapshot(*snapshot),
            Op::RenameSnapshot { snapshot, name } => self.rename_snapshot(*snapshot, name),
            Op::SetTags { snapshot, id, tags } => self.set_tags(*snapshot, *id, tags),
            Op::Data { at, bytes } => {
                self.staging.log(*at, bytes.clone());
                Ok(())
            }
        }
    }

    /// Nodes that one put into the catalog needs at most.
    pub(super) fn put_nodes(&self) -> usize {
        PUT_NODES.0 * usize::from(self.catalog.level) + PUT_NODES.1
    }

    /// Whether what an operation makes gets an id that nothing has, so that it replaces nothing. The counters of an image may lie.
    pub(super) fn check_new(&self, op: &Op) -> Step<()> {
        let view = self.catalog_view();
        let exists = |what: Target| -> Result<()> {
            Err(Error::corrupt(format!("{what} exists already: the image's counter of ids is wrong")))
        };
        match op {
            Op::CreateVolume { id, .. } | Op::Clone { id, .. } => {
                // Snapshots may outlive their volume, and its number with them.
                let used = self.sweeping.contains(id) || view.has_snapshots(*id)? || view.volume(*id)?.is_some();
                if used { Ok(exists(Target::Volume(*id))?) } else { Ok(()) }
            }
            Op::Snapshot { members, .. } => members.iter().try_for_each(|(_, id, _)| match view.snapshot(*id)? {
                Some(_) => Ok(exists(Target::Snapshot(*id))?),
                None => Ok(()),
            }),
            _ => Ok(()),
        }
    }
}
