//! The catalog: records of volumes and snapshots, their names and tags, the doomed list.
//!
//! Keys are `kind (8 bits) | a (56) | b (64)`:
//! volume `1|0|id`, snapshot `2|0|id`, tags `3|id|snapshot? and chunk`, volume names `4|0|hash`, a volume's snapshot names
//! `5|volume|hash`, doomed subtrees `7|0|!sequence` (newest first), sweeps `8|0|volume`. Names that hash alike share one record.

use crate::{
    Error, Result,
    codec::{self, Kind},
    format::RootPointer,
    log::{TAG_CHUNK, TAGS_MAX, check_name, check_size},
    tree::{Forest, Found, Fresh, Key, Record, Root, Shape, Value},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;

/// A volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct VolumeRecord {
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) root: RootPointer,
    pub(crate) created: u64,
    /// The snapshot that its content last was.
    pub(crate) parent: Option<u64>,
    /// How many it has.
    pub(crate) snapshots: u64,
    /// Records that its tags take.
    pub(crate) tag_records: u16,
}

/// A snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotRecord {
    pub(crate) name: String,
    pub(crate) volume: u64,
    pub(crate) size: u64,
    pub(crate) root: RootPointer,
    pub(crate) created: u64,
    pub(crate) parent: Option<u64>,
    /// Records that its tags take.
    pub(crate) tag_records: u16,
}

/// Names that share a hash.
type Names = Vec<(String, u64)>;
/// Nodes that one put or remove may need: for each level above the leaves, and besides. The path is copied, each node of it may
/// split, and so may the root.
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
/// The id in a key of this kind; a record under any other key with that id is never found by it.
fn id_of(key: Key, of: impl Fn(u64) -> Key) -> Result<u64> {
    let id = key as u64;
    if of(id) == key { Ok(id) } else { Err(Error::corrupt(format!("a record stands under the key {key:#x}"))) }
}
/// All doomed subtrees, newest first.
pub(crate) const DOOMED: (Key, Key) = (7 << 120, 8 << 120);

/// The catalog tree over a forest.
pub(crate) struct Catalog<'a> {
    pub(crate) forest: &'a mut Forest,
    pub(crate) root: &'a mut Root,
    pub(crate) hash_key: u64,
}

/// Reading needs no exclusive forest.
pub(crate) struct CatalogView<'a> {
    pub(crate) forest: &'a Forest,
    pub(crate) root: Root,
    pub(crate) hash_key: u64,
}

/// What every reader of a record relies on; anything may stand in an image.
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

impl CatalogView<'_> {
    fn value(&self, key: Key) -> Result<Option<Value>> {
        self.forest.now(|nodes| crate::tree::read_record(nodes, self.root, key))
    }
    fn get<T: DeserializeOwned>(&self, kind: Kind, key: Key) -> Result<Option<T>> {
        self.value(key)?.map(|v| codec::decode(kind, &v)).transpose()
    }
    fn range(&self, from: Key, to: Key, most: usize) -> Result<Vec<Record>> {
        self.forest.now(|nodes| crate::tree::read_records(nodes, self.root, from, to, most))
    }
    /// Reads a whole range in batches.
    fn each(&self, mut from: Key, to: Key, mut f: impl FnMut(&Record) -> Result<()>) -> Result<()> {
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

    pub(crate) fn volume(&self, id: u64) -> Result<Option<VolumeRecord>> {
        self.value(volume_key(id))?.map(|v| volume_record(id, &v)).transpose()
    }
    pub(crate) fn snapshot(&self, id: u64) -> Result<Option<SnapshotRecord>> {
        self.value(snapshot_key(id))?.map(|v| snapshot_record(id, &v)).transpose()
    }
    fn named(&self, key: Key, name: &str) -> Result<Option<u64>> {
        let names: Option<Names> = self.get(Kind::Names, key)?;
        Ok(names.and_then(|list| list.into_iter().find(|n| n.0 == name).map(|n| n.1)))
    }
    pub(crate) fn volume_named(&self, name: &str) -> Result<Option<u64>> {
        self.named(key(4, 0, self.hash(name)), name)
    }
    pub(crate) fn snapshot_named(&self, volume: u64, name: &str) -> Result<Option<u64>> {
        self.named(key(5, volume, self.hash(name)), name)
    }
    /// Whether a lookup of the name, of a snapshot of `volume` or of a volume, finds all its nodes in memory.
    pub(crate) fn at_hand(&self, volume: Option<u64>, name: &str) -> Found<()> {
        let key = volume.map_or_else(|| key(4, 0, self.hash(name)), |id| key(5, id, self.hash(name)));
        Ok(crate::tree::read_record(self.forest, self.root, key)?.map(drop))
    }
    pub(crate) fn volumes(&self) -> Result<Vec<(u64, VolumeRecord)>> {
        let mut out = Vec::new();
        self.each(volume_key(0), snapshot_key(0), |r| {
            let id = id_of(r.key, volume_key)?;
            out.push((id, volume_record(id, &r.value)?));
            Ok(())
        })?;
        Ok(out)
    }
    pub(crate) fn snapshots(&self) -> Result<Vec<(u64, SnapshotRecord)>> {
        let mut out = Vec::new();
        self.each(snapshot_key(0), key(3, 0, 0), |r| {
            let id = id_of(r.key, snapshot_key)?;
            out.push((id, snapshot_record(id, &r.value)?));
            Ok(())
        })?;
        Ok(out)
    }
    /// Whether there are snapshots of a volume, which may be gone.
    pub(crate) fn has_snapshots(&self, volume: u64) -> Result<bool> {
        Ok(!self.range(key(5, volume, 0), key(5, volume, u64::MAX) + 1, 1)?.is_empty())
    }
    /// Up to `most` snapshots of a volume, by id where all fit.
    pub(crate) fn snapshots_of(&self, volume: u64, most: usize) -> Result<Vec<(u64, SnapshotRecord)>> {
        let mut ids = Vec::new();
        let (mut from, to) = (key(5, volume, 0), key(5, volume, u64::MAX));
        while ids.len() < most {
            let batch = self.range(from, to + 1, (most - ids.len()).min(256))?;
            let Some(last) = batch.last() else { break };
            from = last.key + 1;
            for r in &batch {
                ids.extend(codec::decode::<Names>(Kind::Names, &r.value)?.into_iter().map(|n| n.1));
            }
        }
        ids.truncate(most);
        ids.sort_unstable();
        ids.into_iter()
            .map(|id| {
                let record = self.snapshot(id)?;
                Ok((id, record.ok_or_else(|| Error::corrupt(format!("snapshot {id} has a name and no record")))?))
            })
            .collect()
    }
    pub(crate) fn tags(&self, snapshot: bool, id: u64) -> Result<BTreeMap<String, String>> {
        let (from, to) = (tags_key(snapshot, id, 0), tags_key(snapshot, id, TAGS_MAX));
        let chunks = self.range(from, to, TAGS_MAX.div_ceil(TAG_CHUNK) + 2)?;
        if chunks.is_empty() {
            return Ok(BTreeMap::new());
        }
        let bytes: Vec<u8> = chunks.iter().flat_map(|r| r.value.iter().copied()).collect();
        codec::decode(Kind::Tags, &bytes)
    }
    /// Doomed subtrees, newest first: their keys and roots.
    pub(crate) fn doomed(&self, from: Key, most: usize) -> Result<Vec<(Key, RootPointer)>> {
        let batch = self.range(from.max(DOOMED.0), DOOMED.1, most)?;
        batch.iter().map(|r| Ok((r.key, codec::decode(Kind::Doomed, &r.value)?))).collect()
    }
    /// How many names there are, of volumes and of snapshots.
    pub(crate) fn names(&self) -> Result<usize> {
        let mut names = 0;
        self.each(key(4, 0, 0), key(6, 0, 0), |r| {
            names += codec::decode::<Names>(Kind::Names, &r.value)?.len();
            Ok(())
        })?;
        Ok(names)
    }
    pub(crate) fn sweeps(&self) -> Result<Vec<u64>> {
        let mut out = Vec::new();
        self.each(key(8, 0, 0), key(9, 0, 0), |r| {
            out.push(id_of(r.key, |id| key(8, 0, id))?);
            Ok(())
        })?;
        Ok(out)
    }
}

impl Catalog<'_> {
    pub(crate) fn view(&self) -> CatalogView<'_> {
        CatalogView { forest: self.forest, root: *self.root, hash_key: self.hash_key }
    }
    fn put_raw(&mut self, key: Key, value: &[u8]) -> Result<()> {
        let record = Record { key, value: Value::new(value) };
        *self.root =
            self.forest.splice(*self.root, Shape::Records, key, key + 1, Some(Fresh::Record(record)), false)?;
        Ok(())
    }
    fn put<T: Serialize>(&mut self, kind: Kind, key: Key, value: &T) -> Result<()> {
        self.put_raw(key, &codec::encode(kind, value)?)
    }
    fn remove(&mut self, key: Key) -> Result<()> {
        *self.root = self.forest.splice(*self.root, Shape::Records, key, key + 1, None, false)?;
        Ok(())
    }
    fn put_name(&mut self, key: Key, name: &str, id: u64) -> Result<()> {
        let mut names: Names = self.view().get(Kind::Names, key)?.unwrap_or_default();
        names.push((name.to_owned(), id));
        self.put(Kind::Names, key, &names)
    }
    fn remove_name(&mut self, key: Key, name: &str) -> Result<()> {
        let mut names: Names = self.view().get(Kind::Names, key)?.unwrap_or_default();
        names.retain(|n| n.0 != name);
        if names.is_empty() { self.remove(key) } else { self.put(Kind::Names, key, &names) }
    }

    /// Reads into memory what removing a snapshot reads, so that it can't fail half-way.
    pub(crate) fn touch_snapshot(&mut self, id: u64, record: &SnapshotRecord) -> Result<()> {
        let name = key(5, record.volume, self.view().hash(&record.name));
        let tags = record.tag_records > 0;
        let keys = [name, snapshot_key(id), volume_key(record.volume), DOOMED.0];
        let tags = tags.then(|| tags_key(true, id, 0));
        keys.into_iter().chain(tags).try_for_each(|key| self.forest.touch_record(*self.root, key))
    }
    /// Reads into memory what removing an entry of the doomed list and adding others reads.
    pub(crate) fn touch_doomed(&mut self, key: Key) -> Result<()> {
        [key, DOOMED.0].into_iter().try_for_each(|key| self.forest.touch_record(*self.root, key))
    }
    /// Reads into memory what removing a sweep reads.
    pub(crate) fn touch_sweep(&mut self, volume: u64) -> Result<()> {
        self.forest.touch_record(*self.root, key(8, 0, volume))
    }

    pub(crate) fn put_volume(&mut self, id: u64, record: &VolumeRecord) -> Result<()> {
        self.put(Kind::Volume, volume_key(id), record)
    }
    pub(crate) fn remove_volume(&mut self, id: u64) -> Result<()> {
        self.remove(volume_key(id))
    }
    pub(crate) fn put_snapshot(&mut self, id: u64, record: &SnapshotRecord) -> Result<()> {
        self.put(Kind::Snapshot, snapshot_key(id), record)
    }
    pub(crate) fn remove_snapshot(&mut self, id: u64) -> Result<()> {
        self.remove(snapshot_key(id))
    }
    pub(crate) fn put_volume_name(&mut self, name: &str, id: u64) -> Result<()> {
        let key = key(4, 0, self.view().hash(name));
        self.put_name(key, name, id)
    }
    pub(crate) fn remove_volume_name(&mut self, name: &str) -> Result<()> {
        let key = key(4, 0, self.view().hash(name));
        self.remove_name(key, name)
    }
    pub(crate) fn put_snapshot_name(&mut self, volume: u64, name: &str, id: u64) -> Result<()> {
        let key = key(5, volume, self.view().hash(name));
        self.put_name(key, name, id)
    }
    pub(crate) fn remove_snapshot_name(&mut self, volume: u64, name: &str) -> Result<()> {
        let key = key(5, volume, self.view().hash(name));
        self.remove_name(key, name)
    }
    /// Replaces all tags; gives how many records they take.
    pub(crate) fn put_tags(&mut self, snapshot: bool, id: u64, tags: &BTreeMap<String, String>) -> Result<u16> {
        let (from, to) = (tags_key(snapshot, id, 0), tags_key(snapshot, id, TAGS_MAX));
        for r in self.view().range(from, to, usize::MAX)? {
            self.remove(r.key)?;
        }
        let mut count = 0;
        if !tags.is_empty() {
            for chunk in codec::encode(Kind::Tags, tags)?.chunks(TAG_CHUNK) {
                self.put_raw(from + Key::from(count), chunk)?;
                count += 1;
            }
        }
        Ok(count)
    }
    pub(crate) fn put_doomed(&mut self, key: Key, root: RootPointer) -> Result<()> {
        self.put(Kind::Doomed, key, &root)
    }
    pub(crate) fn remove_doomed(&mut self, key: Key) -> Result<()> {
        self.remove(key)
    }
    pub(crate) fn put_sweep(&mut self, volume: u64) -> Result<()> {
        self.put(Kind::Sweep, key(8, 0, volume), &())
    }
    pub(crate) fn remove_sweep(&mut self, volume: u64) -> Result<()> {
        self.remove(key(8, 0, volume))
    }
}
