//! The records of the log. A record is a list of operations, nearly always one, of which all count or none. The same code applies them live
//! and at recovery (I7). No type here contains itself, so that decoding can't recurse.

use crate::{
    Error, Result, SECTOR, VOLUME_MAX,
    format::{COUNTER_ROOM, ID_END},
};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use std::{collections::BTreeMap, sync::Arc};

/// Tags are kept in chunks of this many bytes.
pub(crate) const TAG_CHUNK: usize = 900;
/// The longest encoded tags of one volume or snapshot, in bytes.
pub(crate) const TAGS_MAX: usize = 32 << 10;

/// Checksums of a write's blocks, in order; most writes have one, or few.
pub(crate) type Sums = SmallVec<[u32; 4]>;

/// Physical runs of a write, in logical order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, Default)]
pub(crate) struct Placed {
    /// First logical block.
    pub(crate) block: u64,
    /// Physical start and number of blocks.
    #[serde(with = "few")]
    pub(crate) runs: SmallVec<[(u64, u32); 1]>,
    /// One CRC-32 for each block.
    #[serde(with = "few")]
    pub(crate) sums: Sums,
}

impl Placed {
    pub(crate) fn blocks(&self) -> u64 {
        self.runs.iter().map(|r| u64::from(r.1)).sum()
    }
    /// Returns each block with its checksum.
    pub(crate) fn sums(&self) -> impl Iterator<Item = (u64, u32)> {
        let blocks =
            self.runs.iter().flat_map(|&(start, len)| (0..u64::from(len)).map(move |i| start.saturating_add(i)));
        blocks.zip(self.sums.iter().copied())
    }
    /// Returns whether runs and checksums agree, and every block is one that a volume can have.
    pub(crate) fn is_sane(&self) -> bool {
        let end = self.block.checked_add(self.blocks());
        self.blocks() == self.sums.len() as u64
            && self.runs.iter().all(|r| r.1 > 0)
            && end.is_some_and(|end| end <= crate::VOLUME_MAX / crate::units::BLOCK_BYTES)
    }
}

/// What happens to a volume's snapshots when it is deleted.
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
    /// `size` is what the volume's size becomes; a cut at its end may have an edge block.
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
    /// The target is a snapshot rather than a volume.
    SetTags {
        snapshot: bool,
        id: u64,
        tags: BTreeMap<String, String>,
    },
    /// Content of a block that another operation of the same group places. A group carries all of its data in this way, or none.
    Data {
        at: u64,
        #[serde(with = "content")]
        bytes: Arc<[u8]>,
    },
}

/// A list of few items. It decodes as a list, which does not trust the length that it claims.
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

/// Bytes, encoded as such rather than as a list of numbers.
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
    /// Collects every placement of data that the operation names.
    pub(crate) fn placed<'a>(&'a self, out: &mut Vec<&'a Placed>) {
        match self {
            Op::Write { data, .. } => out.push(data),
            Op::Cut { edges, .. } => out.extend(edges),
            Op::Rollback { edge, .. } | Op::Resize { edge, .. } => out.extend(edge),
            _ => {}
        }
    }
    /// Checks the rules that every operation obeys, whether it was just asked for or read from a log, which may contain anything. Rules that
    /// depend on the state, such as who has which name, are not among them.
    pub(crate) fn validate(&self) -> Result<()> {
        let mut placed = Vec::new();
        self.placed(&mut placed);
        if !placed.iter().all(|p| p.is_sane()) {
            return Err(Error::invalid("blocks and checksums that do not agree, or past the largest volume"));
        }
        match self {
            Op::Cut { from, to, edges, .. } => {
                let last = crate::VOLUME_MAX / crate::units::BLOCK_BYTES;
                let inside = |e: &Placed| e.block >= *from && e.block + e.blocks() <= *to;
                match from <= to && *to <= last && edges.iter().all(inside) {
                    true => Ok(()),
                    false => Err(Error::invalid("a cut with an edge outside it, or past the largest volume")),
                }
            }
            Op::CreateVolume { id, name, size, tags, .. } => {
                check_id(*id)?;
                check_name(name)?;
                check_size(*size)?;
                tag_chunks(tags).map(drop)
            }
            Op::Resize { size, .. } | Op::Rollback { size, .. } => check_size(*size),
            Op::Clone { id, name, tags, .. } => {
                check_id(*id)?;
                check_name(name)?;
                tag_chunks(tags).map(drop)
            }
            Op::Snapshot { members, tags, .. } => {
                if members.is_empty() {
                    return Err(Error::invalid("a group snapshot needs at least one volume"));
                }
                for (_, id, name) in members {
                    check_id(*id)?;
                    check_name(name)?;
                }
                let twice = |mut ids: Vec<u64>| {
                    ids.sort_unstable();
                    ids.windows(2).any(|w| w[0] == w[1])
                };
                if twice(members.iter().map(|m| m.0).collect()) || twice(members.iter().map(|m| m.1).collect()) {
                    return Err(Error::invalid("a volume stands twice in a group snapshot"));
                }
                tag_chunks(tags).map(drop)
            }
            Op::RenameVolume { name, .. } | Op::RenameSnapshot { name, .. } => check_name(name),
            Op::SetTags { tags, .. } => tag_chunks(tags).map(drop),
            Op::Data { bytes, .. } if bytes.len() != crate::BLOCK => {
                Err(Error::invalid("data of another length than a block"))
            }
            Op::Write { .. } | Op::DeleteVolume { .. } | Op::DeleteSnapshot { .. } | Op::Data { .. } => Ok(()),
        }
    }

    /// Returns an upper bound on the blocks, data aside, that applying the operation can have made the image take from the host. How far the
    /// image may have grown since its checkpoint follows from it.
    pub(crate) fn weight(&self) -> u64 {
        let chunks = |tags| tag_chunks(tags).unwrap_or(0) as u64;
        match self {
            Op::Snapshot { members, tags, .. } => 64 * members.len() as u64 * (3 + chunks(tags)),
            Op::CreateVolume { tags, .. } | Op::Clone { tags, .. } | Op::SetTags { tags, .. } => {
                256 + 64 * chunks(tags)
            }
            _ => 256,
        }
    }
}

/// Checks that an id leaves room for others.
fn check_id(id: u64) -> Result<()> {
    if id < ID_END - 2 * COUNTER_ROOM {
        return Ok(());
    }
    Err(Error::invalid(format!("id {id} leaves no room for others")))
}

/// `[A-Za-z0-9._-]{1,64}`, no leading dot or dash.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let fine = (1..=64).contains(&name.len())
        && !name.starts_with(['.', '-'])
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if fine {
        return Ok(());
    }
    Err(Error::invalid(format!("name {name:?}: 1 to 64 of A-Z a-z 0-9 . _ -, not starting with . or -")))
}

/// A multiple of 512 up to 256 TiB.
pub(crate) fn check_size(size: u64) -> Result<()> {
    if size.is_multiple_of(SECTOR) && size <= VOLUME_MAX {
        return Ok(());
    }
    Err(Error::invalid(format!("size {size}: a multiple of {SECTOR} up to {VOLUME_MAX}")))
}

/// Encoded size of tags, for a bound on what an operation needs.
pub(crate) fn tag_chunks(tags: &BTreeMap<String, String>) -> Result<usize> {
    if tags.is_empty() {
        return Ok(0);
    }
    let bytes: usize = 18 + tags.iter().map(|(k, v)| 16 + k.len() + v.len()).sum::<usize>();
    if bytes > TAGS_MAX {
        return Err(Error::invalid(format!("tags of {bytes} bytes: at most {TAGS_MAX} fit")));
    }
    Ok(bytes.div_ceil(TAG_CHUNK))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{self, Kind};

    #[test]
    fn tag_chunks_is_what_tags_take() {
        let sizes: &[usize] = if cfg!(miri) { &[0, 1, 7] } else { &[0, 1, 7, 100, 400] };
        for &n in sizes {
            let tags: BTreeMap<String, String> = (0..n).map(|i| (format!("key{i}"), "x".repeat(i % 70))).collect();
            let bytes = codec::encode(Kind::Tags, &tags).unwrap().len();
            assert_eq!(tag_chunks(&tags).unwrap(), if n == 0 { 0 } else { bytes.div_ceil(TAG_CHUNK) });
        }
    }
}
