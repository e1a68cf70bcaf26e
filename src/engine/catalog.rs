//! The catalog: records of volumes and snapshots, their names and tags, the doomed list.
//!
//! Keys are `kind (8 bits) | a (56) | b (64)`:
//! volume `1|0|id`, snapshot `2|0|id`, tags `3|id|snapshot? and chunk`, volume names `4|0|hash`, a volume's snapshot names
//! `5|volume|hash`, doomed subtrees `7|0|!sequence` (newest first), sweeps `8|0|volume`. Names that hash alike share one record.

use crate::{
    Error, Result,
    codec::{self, Kind},
    format::RootPointer,
    lack::{Key, Shape, Step},
    log::{TAG_CHUNK, TAGS_MAX, check_name, check_size},
    tree::{Forest, Fresh, Nodes, Record, Root, Value, read_record, read_records},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;

/// The record of a volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct VolumeRecord {
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) root: RootPointer,
    pub(crate) created: u64,
    /// The snapshot that it was last made from or rolled back to.
    pub(crate) parent: Option<u64>,
    /// The number of its snapshots.
    pub(crate) snapshots: u64,
    /// The number of records that its tags take.
    pub(crate) tag_records: u16,
}

/// The record of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotRecord {
    pub(crate) name: String,
    pub(crate) volume: u64,
    pub(crate) size: u64,
    pub(crate) root: RootPointer,
    pub(crate) created: u64,
    pub(crate) parent: Option<u64>,
    /// The number of records that its tags take.
    pub(crate) tag_records: u16,
}

/// Names that share a hash.
type Names = Vec<(String, u64)>;
/// Bound on the nodes that one insertion or removal needs: for each level above the leaves, and in addition. The path is copied, each of its
/// nodes may split, and so may the root.
pub(crate) const PUT_NODES: (usize, usize) = (2, 3);

fn key(kind: u8, a: u64, b: u64) -> Key {
    Key::from(kind) << 120 | Key::from(a & ((1 << 56) - 1)) << 64 | Key::from(b)
}
fn volume_key(id: u64) -> Key {
    key(1, 0, id)
}
fn snapshot_key(id: u64) -> Key {
    key(2, 0, id)
}
fn tags_key(snapshot: bool, id: u64, chunk: usize) -> Key {
    key(3, id, u64::from(snapshot) << 32 | chunk as u64)
}
pub(crate) fn doomed_key(sequence: u64) -> Key {
    key(7, 0, !sequence)
}
/// Returns the id in a key of this kind. A record under any other key with that id is never found by it.
fn id_of(key: Key, of: impl Fn(u64) -> Key) -> Result<u64> {
    let id = key as u64;
    if of(id) == key { Ok(id) } else { Err(Error::corrupt(format!("a record stands under the key {key:#x}"))) }
}
/// The range of keys of all doomed subtrees, newest first.
pub(crate) const DOOMED: (Key, Key) = (7 << 120, 8 << 120);

/// The catalog tree over a forest.
pub(crate) struct Catalog<'a> {
    pub(crate) forest: &'a mut Forest,
    pub(crate) root: &'a mut Root,
    pub(crate) hash_key: u64,
}

/// The catalog for reading, over nodes from anywhere.
pub(crate) struct CatalogView<'a, N = Forest> {
    pub(crate) nodes: &'a N,
    pub(crate) root: Root,
    pub(crate) hash_key: u64,
}

/// Checks what every reader of a record relies on: an image may contain anything.
fn sane(what: &str, id: u64, name: &str, size: u64, root: RootPointer, tag_records: u16) -> Result<()> {
    if check_name(name).is_ok()
        && check_size(size).is_ok()
        && root.level < crate::format::TREE_LEVELS
        && usize::from(tag_records) <= TAGS_MAX.div_ceil(TAG_CHUNK)
    {
        return Ok(());
    }
    Err(Error::corrupt(format!("the record of {what} {id} says what none can")))
}

fn volume_record(id: u64, value: &[u8]) -> Result<VolumeRecord> {
    let r: VolumeRecord = codec::decode(Kind::Volume, value)?;
    sane("volume", id, &r.name, r.size, r.root, r.tag_records)?;
    Ok(r)
}

fn snapshot_record(id: u64, value: &[u8]) -> Result<SnapshotRecord> {
    let r: SnapshotRecord = codec::decode(Kind::Snapshot, value)?;
    sane("snapshot", id, &r.name, r.size, r.root, r.tag_records)?;
    Ok(r)
}

impl<N: Nodes> CatalogView<'_, N> {
    fn value(&self, key: Key) -> Step<Option<Value>> {
        read_record(self.nodes, self.root, key)
    }
    fn get<T: DeserializeOwned>(&self, kind: Kind, key: Key) -> Step<Option<T>> {
        Ok(self.value(key)?.map(|v| codec::decode(kind, &v)).transpose()?)
    }
    /// Returns the first records of `from..to`, not all of them; none only if there are none.
    fn range(&self, from: Key, to: Key, most: usize) -> Step<Vec<Record>> {
        read_records(self.nodes, self.root, from, to, most)
    }
    /// Calls `f` with the records of a range, batch by batch.
    fn each(&self, mut from: Key, to: Key, mut f: impl FnMut(&Record) -> Result<()>) -> Step<()> {
        loop {
            let batch = self.range(from, to, 512)?;
            let Some(last) = batch.last() else { return Ok(()) };
            from = last.key + 1;
            batch.iter().try_for_each(&mut f)?;
        }
    }
    fn hash(&self, name: &str) -> u64 {
        crate::bytes::hash(name.as_bytes(), self.hash_key)
    }

    pub(crate) fn volume(&self, id: u64) -> Step<Option<VolumeRecord>> {
        Ok(self.value(volume_key(id))?.map(|v| volume_record(id, &v)).transpose()?)
    }
    pub(crate) fn snapshot(&self, id: u64) -> Step<Option<SnapshotRecord>> {
        Ok(self.value(snapshot_key(id))?.map(|v| snapshot_record(id, &v)).transpose()?)
    }
    fn named(&self, key: Key, name: &str) -> Step<Option<u64>> {
        let names: Option<Names> = self.get(Kind::Names, key)?;
        Ok(names.and_then(|list| list.into_iter().find(|n| n.0 == name).map(|n| n.1)))
    }
    pub(crate) fn volume_named(&self, name: &str) -> Step<Option<u64>> {
        self.named(key(4, 0, self.hash(name)), name)
    }
    pub(crate) fn snapshot_named(&self, volume: u64, name: &str) -> Step<Option<u64>> {
        self.named(key(5, volume, self.hash(name)), name)
    }
    /// Returns the id of the volume of that name, or of the snapshot of `volume` of that name.
    pub(crate) fn named_in(&self, volume: Option<u64>, name: &str) -> Step<Option<u64>> {
        volume.map_or_else(|| self.volume_named(name), |volume| self.snapshot_named(volume, name))
    }
    /// Returns up to `most` volumes by id, from an id on.
    pub(crate) fn volumes(&self, from: u64, most: usize) -> Step<Vec<(u64, VolumeRecord)>> {
        let list = self.range(volume_key(from), snapshot_key(0), most)?;
        let record = |r: &Record| {
            let id = id_of(r.key, volume_key)?;
            Ok((id, volume_record(id, &r.value)?))
        };
        list.iter().map(record).collect()
    }
    /// Returns up to `most` snapshots by id, from an id on, those of volumes that are being removed included.
    pub(crate) fn snapshots(&self, from: u64, most: usize) -> Step<Vec<(u64, SnapshotRecord)>> {
        let list = self.range(snapshot_key(from), key(3, 0, 0), most)?;
        let record = |r: &Record| {
            let id = id_of(r.key, snapshot_key)?;
            Ok((id, snapshot_record(id, &r.value)?))
        };
        list.iter().map(record).collect()
    }
    /// Returns whether a volume, which may be deleted, has snapshots.
    pub(crate) fn has_snapshots(&self, volume: u64) -> Step<bool> {
        Ok(!self.range(key(5, volume, 0), key(5, volume, u64::MAX) + 1, 1)?.is_empty())
    }
    /// Returns ids of snapshots of a volume in the order of their names' hashes, from hash `from` on, and the hash to continue from.
    pub(crate) fn snapshots_of(&self, volume: u64, from: u64, most: usize) -> Step<(Vec<u64>, Option<u64>)> {
        let list = self.range(key(5, volume, from), key(5, volume, u64::MAX) + 1, most)?;
        let mut ids = Vec::new();
        for r in &list {
            ids.extend(codec::decode::<Names>(Kind::Names, &r.value)?.into_iter().map(|n| n.1));
        }
        Ok((ids, list.last().and_then(|r| (r.key as u64).checked_add(1))))
    }
    pub(crate) fn tags(&self, snapshot: bool, id: u64) -> Step<BTreeMap<String, String>> {
        let (from, to) = (tags_key(snapshot, id, 0), tags_key(snapshot, id, TAGS_MAX));
        let mut bytes = Vec::new();
        self.each(from, to, |r| {
            bytes.extend_from_slice(&r.value);
            if bytes.len() > 2 * TAGS_MAX { Err(Error::corrupt("more tags than fit")) } else { Ok(()) }
        })?;
        if bytes.is_empty() {
            return Ok(BTreeMap::new());
        }
        Ok(codec::decode(Kind::Tags, &bytes)?)
    }
    /// Returns some doomed subtrees, newest first, by key and root; none only if there are none.
    pub(crate) fn doomed(&self, from: Key, most: usize) -> Step<Vec<(Key, RootPointer)>> {
        let batch = self.range(from.max(DOOMED.0), DOOMED.1, most)?;
        batch.iter().map(|r| Ok((r.key, codec::decode(Kind::Doomed, &r.value)?))).collect()
    }
    /// Returns the number of names, of volumes and of snapshots.
    pub(crate) fn names(&self) -> Step<usize> {
        let mut names = 0;
        self.each(key(4, 0, 0), key(6, 0, 0), |r| {
            names += codec::decode::<Names>(Kind::Names, &r.value)?.len();
            Ok(())
        })?;
        Ok(names)
    }
    /// Returns some deleted volumes whose snapshots are deleted too, from an id on; none only if there are none.
    pub(crate) fn sweeps(&self, from: u64, most: usize) -> Step<Vec<u64>> {
        let list = self.range(key(8, 0, from), key(9, 0, 0), most)?;
        Ok(list.iter().map(|r| id_of(r.key, |id| key(8, 0, id))).collect::<Result<_>>()?)
    }
}

impl Catalog<'_> {
    pub(crate) fn view(&self) -> CatalogView<'_> {
        CatalogView { nodes: &*self.forest, root: *self.root, hash_key: self.hash_key }
    }
    fn put_raw(&mut self, key: Key, value: &[u8]) -> Step<()> {
        let record = Record { key, value: Value::new(value) };
        *self.root =
            self.forest.splice(*self.root, Shape::Records, key, key + 1, Some(Fresh::Record(record)), false)?;
        Ok(())
    }
    fn put<T: Serialize>(&mut self, kind: Kind, key: Key, value: &T) -> Step<()> {
        self.put_raw(key, &codec::encode(kind, value)?)
    }
    fn remove(&mut self, key: Key) -> Step<()> {
        *self.root = self.forest.splice(*self.root, Shape::Records, key, key + 1, None, false)?;
        Ok(())
    }
    fn put_name(&mut self, key: Key, name: &str, id: u64) -> Step<()> {
        let mut names: Names = self.view().get(Kind::Names, key)?.unwrap_or_default();
        names.push((name.to_owned(), id));
        self.put(Kind::Names, key, &names)
    }
    fn remove_name(&mut self, key: Key, name: &str) -> Step<()> {
        let mut names: Names = self.view().get(Kind::Names, key)?.unwrap_or_default();
        names.retain(|n| n.0 != name);
        if names.is_empty() { self.remove(key) } else { self.put(Kind::Names, key, &names) }
    }

    pub(crate) fn put_volume(&mut self, id: u64, record: &VolumeRecord) -> Step<()> {
        self.put(Kind::Volume, volume_key(id), record)
    }
    pub(crate) fn remove_volume(&mut self, id: u64) -> Step<()> {
        self.remove(volume_key(id))
    }
    pub(crate) fn put_snapshot(&mut self, id: u64, record: &SnapshotRecord) -> Step<()> {
        self.put(Kind::Snapshot, snapshot_key(id), record)
    }
    pub(crate) fn remove_snapshot(&mut self, id: u64) -> Step<()> {
        self.remove(snapshot_key(id))
    }
    pub(crate) fn put_volume_name(&mut self, name: &str, id: u64) -> Step<()> {
        let key = key(4, 0, self.view().hash(name));
        self.put_name(key, name, id)
    }
    pub(crate) fn remove_volume_name(&mut self, name: &str) -> Step<()> {
        let key = key(4, 0, self.view().hash(name));
        self.remove_name(key, name)
    }
    pub(crate) fn put_snapshot_name(&mut self, volume: u64, name: &str, id: u64) -> Step<()> {
        let key = key(5, volume, self.view().hash(name));
        self.put_name(key, name, id)
    }
    pub(crate) fn remove_snapshot_name(&mut self, volume: u64, name: &str) -> Step<()> {
        let key = key(5, volume, self.view().hash(name));
        self.remove_name(key, name)
    }
    /// Replaces all tags. Returns how many records they take.
    pub(crate) fn put_tags(&mut self, snapshot: bool, id: u64, tags: &BTreeMap<String, String>) -> Step<u16> {
        let (from, to) = (tags_key(snapshot, id, 0), tags_key(snapshot, id, TAGS_MAX));
        let mut old = Vec::new();
        self.view().each(from, to, |r| {
            old.push(r.key);
            Ok(())
        })?;
        old.into_iter().try_for_each(|key| self.remove(key))?;
        let mut count = 0;
        if !tags.is_empty() {
            for chunk in codec::encode(Kind::Tags, tags)?.chunks(TAG_CHUNK) {
                self.put_raw(from + Key::from(count), chunk)?;
                count += 1;
            }
        }
        Ok(count)
    }
    pub(crate) fn put_doomed(&mut self, key: Key, root: RootPointer) -> Step<()> {
        self.put(Kind::Doomed, key, &root)
    }
    pub(crate) fn remove_doomed(&mut self, key: Key) -> Step<()> {
        self.remove(key)
    }
    pub(crate) fn put_sweep(&mut self, volume: u64) -> Step<()> {
        self.put(Kind::Sweep, key(8, 0, volume), &())
    }
    pub(crate) fn remove_sweep(&mut self, volume: u64) -> Step<()> {
        self.remove(key(8, 0, volume))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each field of a record is checked, whatever the others say.
    #[test]
    fn records_that_none_can_have_are_refused() {
        let root = |level| RootPointer { level, ..RootPointer::default() };
        let tags = TAGS_MAX.div_ceil(TAG_CHUNK) as u16;
        let top = crate::format::TREE_LEVELS - 1;
        assert!(sane("volume", 1, "v", 4096, root(top), tags).is_ok());
        for refused in [
            sane("volume", 1, "", 4096, root(top), tags),
            sane("volume", 1, "v", 4097, root(top), tags),
            sane("volume", 1, "v", 4096, root(top + 1), tags),
            sane("volume", 1, "v", 4096, root(top), tags + 1),
        ] {
            assert_eq!(refused.unwrap_err().kind(), crate::ErrorKind::Corrupt);
        }
    }
}
