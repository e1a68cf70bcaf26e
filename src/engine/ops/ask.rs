//! What may be asked for: an operation as the log will have it, and the terms on which it is carried out.

use crate::{
    log::{DeleteMode, Op},
    units::Target,
};
use std::collections::BTreeMap;

type Tags = BTreeMap<String, String>;

/// An operation that is asked for. Ids of what it makes were drawn before; what only the moment of its execution decides is filled in by
/// [`super::State::check`]: times, sizes, blocks that are cut in two.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(super) op: Op,
    pub(super) terms: Terms,
}

/// What the record does not say.
#[derive(Clone, Debug)]
pub(super) enum Terms {
    None,
    /// A volume that has snapshots is not deleted.
    WithoutSnapshots,
    /// A rollback leaves the volume's size as it is.
    KeepSize,
    /// One tag is set, or removed, and the others stay as they are at that moment.
    OneTag(String, Option<String>),
}

impl From<Op> for Ask {
    fn from(op: Op) -> Ask {
        Ask { op, terms: Terms::None }
    }
}

impl Ask {
    pub(crate) fn create_volume(id: u64, name: &str, size: u64, tags: Tags) -> Ask {
        Op::CreateVolume { id, name: name.to_owned(), size, created: 0, tags }.into()
    }
    pub(crate) fn clone_volume(snapshot: u64, id: u64, name: &str, tags: Tags) -> Ask {
        Op::Clone { snapshot, id, name: name.to_owned(), created: 0, tags }.into()
    }
    /// `mode` `None`: not if it has snapshots.
    pub(crate) fn delete_volume(volume: u64, mode: Option<DeleteMode>) -> Ask {
        let terms = if mode.is_none() { Terms::WithoutSnapshots } else { Terms::None };
        Ask { op: Op::DeleteVolume { volume, mode: mode.unwrap_or(DeleteMode::Keep) }, terms }
    }
    pub(crate) fn rename_volume(volume: u64, name: &str) -> Ask {
        Op::RenameVolume { volume, name: name.to_owned() }.into()
    }
    pub(crate) fn resize(volume: u64, size: u64) -> Ask {
        Op::Resize { volume, size, edge: None }.into()
    }
    pub(crate) fn rollback(volume: u64, snapshot: u64, keep_size: bool) -> Ask {
        let terms = if keep_size { Terms::KeepSize } else { Terms::None };
        Ask { op: Op::Rollback { volume, snapshot, size: 0, edge: None }, terms }
    }
    /// Members: volume, id of the new snapshot, name.
    pub(crate) fn snapshot(members: Vec<(u64, u64, String)>, tags: Tags) -> Ask {
        Op::Snapshot { members, created: 0, tags }.into()
    }
    pub(crate) fn delete_snapshot(snapshot: u64) -> Ask {
        Op::DeleteSnapshot { snapshot }.into()
    }
    pub(crate) fn rename_snapshot(snapshot: u64, name: &str) -> Ask {
        Op::RenameSnapshot { snapshot, name: name.to_owned() }.into()
    }
    pub(crate) fn set_volume_tags(id: u64, tags: Tags) -> Ask {
        Op::SetTags { snapshot: false, id, tags }.into()
    }
    pub(crate) fn set_snapshot_tags(id: u64, tags: Tags) -> Ask {
        Op::SetTags { snapshot: true, id, tags }.into()
    }
    /// `value` `None`: the tag goes.
    pub(crate) fn set_snapshot_tag(id: u64, key: &str, value: Option<String>) -> Ask {
        let op = Op::SetTags { snapshot: true, id, tags: Tags::new() };
        Ask { op, terms: Terms::OneTag(key.to_owned(), value) }
    }

    /// Whether it frees space, so that it may use the reserve.
    pub(super) fn frees(&self) -> bool {
        matches!(self.op, Op::Rollback { .. } | Op::DeleteVolume { .. } | Op::DeleteSnapshot { .. } | Op::Resize { .. })
    }
    /// The volume that it deletes.
    pub(super) fn deletes(&self) -> Option<u64> {
        match self.op {
            Op::DeleteVolume { volume, .. } => Some(volume),
            _ => None,
        }
    }
    /// The volumes and snapshots that it works on.
    pub(super) fn targets(&self) -> Vec<Target> {
        match &self.op {
            Op::Snapshot { members, .. } => members.iter().map(|m| Target::Volume(m.0)).collect(),
            Op::Rollback { volume, snapshot, .. } => vec![Target::Volume(*volume), Target::Snapshot(*snapshot)],
            Op::DeleteVolume { volume, .. } | Op::RenameVolume { volume, .. } | Op::Resize { volume, .. } => {
                vec![Target::Volume(*volume)]
            }
            Op::Clone { snapshot, .. } | Op::DeleteSnapshot { snapshot } | Op::RenameSnapshot { snapshot, .. } => {
                vec![Target::Snapshot(*snapshot)]
            }
            Op::SetTags { snapshot: true, id, .. } => vec![Target::Snapshot(*id)],
            Op::SetTags { snapshot: false, id, .. } => vec![Target::Volume(*id)],
            Op::CreateVolume { .. } | Op::Write { .. } | Op::Cut { .. } | Op::Data { .. } => Vec::new(),
        }
    }
    /// The new names in it, of volumes and of snapshots of a volume.
    pub(super) fn names(&self) -> Vec<(Option<u64>, &str)> {
        match &self.op {
            Op::CreateVolume { name, .. } | Op::Clone { name, .. } | Op::RenameVolume { name, .. } => {
                vec![(None, name)]
            }
            Op::Snapshot { members, .. } => members.iter().map(|(id, _, name)| (Some(*id), name.as_str())).collect(),
            _ => Vec::new(),
        }
    }
}
