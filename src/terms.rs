//! What is said of a new volume or snapshot, and of the snapshots of a volume that is deleted.

use crate::log::DeleteMode;
use std::collections::BTreeMap;

/// When a new snapshot or clone is durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Durability {
    /// When the call returns.
    #[default]
    Immediate,
    /// With the next flush of the store.
    Deferred,
}

/// What a new volume, snapshot or clone gets besides its name, in the same record.
///
/// ```
/// use snapdisk::{Durability, NewOptions};
/// let later = NewOptions::new().tag("made-by", "backup").durability(Durability::Deferred);
/// assert_eq!(later.tags["made-by"], "backup");
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct NewOptions {
    /// Free-form tags; together up to 32 KiB.
    pub tags: BTreeMap<String, String>,
    /// When it is durable.
    pub durability: Durability,
}

impl NewOptions {
    /// No tags, and durable when the call returns.
    pub const fn new() -> NewOptions {
        NewOptions { tags: BTreeMap::new(), durability: Durability::Immediate }
    }
    /// Replaces all tags.
    #[must_use]
    pub fn tags(mut self, tags: BTreeMap<String, String>) -> Self {
        self.tags = tags;
        self
    }
    /// Adds one tag, or replaces its value.
    #[must_use]
    pub fn tag(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.tags.insert(key.into(), value.into());
        self
    }
    /// When it is durable.
    #[must_use]
    pub const fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }
}

/// What becomes of the snapshots of a volume that is deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum DeleteSnapshots {
    /// A volume that has any is not deleted: `Invalid`.
    #[default]
    Refuse,
    /// They stay, listed and clonable.
    Keep,
    /// They go too.
    Delete,
}

impl DeleteSnapshots {
    pub(crate) fn mode(self) -> Option<DeleteMode> {
        match self {
            DeleteSnapshots::Refuse => None,
            DeleteSnapshots::Keep => Some(DeleteMode::Keep),
            DeleteSnapshots::Delete => Some(DeleteMode::Sweep),
        }
    }
}
