//! What the log says: a record is a list of operations, nearly always one, of which all count or none. Applying them live and at
//! recovery is the same code (I7). No type here holds itself: decoding can't recurse.

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use std::{collections::BTreeMap, sync::Arc};

/// Checksums of a write's blocks, in order; the common write has one, or few.
pub(crate) type Sums = SmallVec<[u32; 4]>;

/// Physical runs of a write, in logical order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, Default)]
pub(crate) struct Placed {
    /// First logical block.
    pub(crate) block: u64,
    /// Physical start and blocks.
    #[serde(with = "few")]
    pub(crate) runs: SmallVec<[(u64, u32); 1]>,
    /// One CRC-32 a block.
    #[serde(with = "few")]
    pub(crate) sums: Sums,
}

impl Placed {
    pub(crate) fn blocks(&self) -> u64 {
        self.runs.iter().map(|r| u64::from(r.1)).sum()
    }
    /// Each block with its checksum.
    pub(crate) fn sums(&self) -> impl Iterator<Item = (u64, u32)> {
        let blocks =
            self.runs.iter().flat_map(|&(start, len)| (0..u64::from(len)).map(move |i| start.saturating_add(i)));
        blocks.zip(self.sums.iter().copied())
    }
    /// Whether runs and checksums agree, and every block is one that a volume can have.
    pub(crate) fn is_sane(&self) -> bool {
        let end = self.block.checked_add(self.blocks());
        self.blocks() == self.sums.len() as u64
            && self.runs.iter().all(|r| r.1 > 0)
            && end.is_some_and(|end| end <= crate::VOLUME_MAX / crate::units::BLOCK_BYTES)
    }
}

/// What becomes of a volume's snapshots when it is deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum DeleteMode {
    Keep,
    Sweep,
}

/// One operation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Op {
    /// New content of whole blocks.
    Write {
        volume: u64,
        data: Placed,
    },
    /// Blocks `from..to` read as zeros, but for the edge blocks, which are written.
    Cut {
        volume: u64,
        from: u64,
        to: u64,
        edges: Vec<Placed>,
    },
    CreateVolume {
        id: u64,
        name: String,
        size: u64,
        created: u64,
        tags: BTreeMap<String, String>,
    },
    /// Members: volume, snapshot id, name.
    Snapshot {
        members: Vec<(u64, u64, String)>,
        created: u64,
        tags: BTreeMap<String, String>,
    },
    /// `size`: what the volume's size becomes; a cut at its end with its edge block.
    Rollback {
        volume: u64,
        snapshot: u64,
        size: u64,
        edge: Option<Placed>,
    },
    Clone {
        snapshot: u64,
        id: u64,
        name: String,
        created: u64,
        tags: BTreeMap<String, String>,
    },
    DeleteVolume {
        volume: u64,
        mode: DeleteMode,
    },
    DeleteSnapshot {
        snapshot: u64,
    },
    RenameVolume {
        volume: u64,
        name: String,
    },
    RenameSnapshot {
        snapshot: u64,
        name: String,
    },
    Resize {
        volume: u64,
        size: u64,
        edge: Option<Placed>,
    },
    /// Of a volume, or of a snapshot.
    SetTags {
        snapshot: bool,
        id: u64,
        tags: BTreeMap<String, String>,
    },
    /// Content of a block that another operation of the same group places. A group has all of its data in this way, or none.
    Data {
        at: u64,
        #[serde(with = "content")]
        bytes: Arc<[u8]>,
    },
}

/// A few items as a list. Decoded as one, which is careful with the length that it claims.
mod few {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use smallvec::{Array, SmallVec};

    pub(super) fn serialize<A: Array, S: Serializer>(few: &SmallVec<A>, to: S) -> Result<S::Ok, S::Error>
    where
        A::Item: Serialize,
    {
        few.as_slice().serialize(to)
    }
    pub(super) fn deserialize<'de, A: Array, D: Deserializer<'de>>(from: D) -> Result<SmallVec<A>, D::Error>
    where
        A::Item: Deserialize<'de>,
    {
        Vec::deserialize(from).map(SmallVec::from_vec)
    }
}

/// Bytes as such, not as a list of numbers.
mod content {
    use serde::{Deserialize, Deserializer, Serializer};
    use std::sync::Arc;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<[u8]>, D::Error> {
        <&[u8]>::deserialize(from).map(Arc::from)
    }
}

impl Op {
    /// Every placement of data that the operation names.
    pub(crate) fn placed<'a>(&'a self, out: &mut Vec<&'a Placed>) {
        match self {
            Op::Write { data, .. } => out.push(data),
            Op::Cut { edges, .. } => out.extend(edges),
            Op::Rollback { edge, .. } | Op::Resize { edge, .. } => out.extend(edge),
            _ => {}
        }
    }
    /// Whether it has the shape that the engine writes; anything may stand in a log.
    pub(crate) fn is_sane(&self) -> bool {
        let mut placed = Vec::new();
        self.placed(&mut placed);
        let id = |id: u64| id < 1 << 56;
        let size = |n: u64| n <= crate::VOLUME_MAX && n.is_multiple_of(crate::SECTOR);
        placed.iter().all(|p| p.is_sane())
            && match self {
                Op::Cut { from, to, edges, .. } => {
                    let last = crate::VOLUME_MAX / crate::units::BLOCK_BYTES;
                    from <= to && *to <= last && edges.iter().all(|e| e.block >= *from && e.block + e.blocks() <= *to)
                }
                Op::CreateVolume { id: n, size: bytes, .. } => id(*n) && size(*bytes),
                Op::Resize { size: bytes, .. } | Op::Rollback { size: bytes, .. } => size(*bytes),
                Op::Clone { id: n, .. } => id(*n),
                Op::Snapshot { members, .. } => members.iter().all(|m| id(m.1)),
                Op::Data { bytes, .. } => bytes.len() == crate::BLOCK,
                _ => true,
            }
    }
}
