//! The reference model: what a store must contain, as flat maps from names to blocks.

mod agree;
pub(crate) mod apart;
mod beside;
mod held;
pub(crate) mod history;
mod looks;
mod names;
pub(crate) mod op;
pub(crate) mod run;
pub(crate) mod steer;
mod tags;

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    sync::Arc,
};

use snapdisk::{BLOCK, Store, io::sim::Rng};
use twox_hash::XxHash3_64;

pub(crate) use op::Op;

/// Blocks of a volume at most.
pub(crate) const BLOCKS_MAX: u64 = 24;

/// One block's content and its hash; `None` where zeros are meant.
pub(crate) type Content = Option<Arc<(u64, [u8; BLOCK])>>;

fn content(data: [u8; BLOCK]) -> Content {
    let hash = block_hash(&data);
    (hash != 0).then(|| Arc::new((hash, data)))
}

/// The hash of a block: 0 for zeros.
fn block_hash(data: &[u8]) -> u64 {
    if *data == [0; BLOCK] {
        return 0;
    }
    XxHash3_64::oneshot(data).max(1)
}

/// Fills a buffer with the pattern of a tag: each word tells the tag and its place, so a sector out of place shows.
pub(crate) fn fill(tag: u64, buf: &mut [u8]) {
    let base = if tag == 0 { return buf.fill(0) } else { Rng::new(tag).number() };
    for (i, word) in buf.chunks_mut(8).enumerate() {
        let w = base.wrapping_add((i % (BLOCK / 8)) as u64).to_le_bytes();
        word.copy_from_slice(&w[..word.len()]);
    }
}

/// A volume or a snapshot.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    /// Its id, once the engine has told.
    pub(crate) id: Option<u64>,
    /// Bytes.
    pub(crate) size: u64,
    /// Of a snapshot: the volume's id, once known.
    pub(crate) of: Option<u64>,
    /// By block.
    pub(crate) blocks: Vec<Content>,
    /// The hash of its tags, 0 for none.
    pub(crate) tags: u64,
}

impl Object {
    /// All zeros.
    pub(crate) fn new(size: u64) -> Object {
        Object { id: None, size, of: None, blocks: vec![None; size.div_ceil(BLOCK as u64) as usize], tags: 0 }
    }

    /// Changes a range of bytes.
    pub(crate) fn change(&mut self, off: u64, len: u64, f: impl Fn(u64, &mut [u8])) {
        let (mut at, end) = (off, off + len);
        while at < end {
            let (b, from) = (at / BLOCK as u64, (at % BLOCK as u64) as usize);
            let n = (BLOCK - from).min((end - at) as usize);
            let mut data = self.blocks[b as usize].as_ref().map_or([0; BLOCK], |c| c.1);
            f(at - off, &mut data[from..from + n]);
            self.blocks[b as usize] = content(data);
            at += n as u64;
        }
    }

    /// Writes bytes.
    pub(crate) fn write(&mut self, off: u64, bytes: &[u8]) {
        self.change(off, bytes.len() as u64, |at, to| to.copy_from_slice(&bytes[at as usize..][..to.len()]));
    }

    /// Zeroes bytes.
    pub(crate) fn zero(&mut self, off: u64, len: u64) {
        self.change(off, len, |_, to| to.fill(0));
    }

    /// Cuts or grows.
    pub(crate) fn resize(&mut self, size: u64) {
        if size < self.size {
            self.zero(size, self.size.min(size.next_multiple_of(BLOCK as u64)) - size);
        }
        self.size = size;
        self.blocks.resize(size.div_ceil(BLOCK as u64) as usize, None);
    }

    fn hash(&self, name: &str, kind: u64) -> u64 {
        let blocks = self.blocks.iter().map(|c| c.as_ref().map_or(0, |c| c.0));
        object_hash(name, kind, (self.size, self.tags), blocks)
    }
}

fn object_hash(name: &str, kind: u64, (size, tags): (u64, u64), blocks: impl Iterator<Item = u64>) -> u64 {
    let key = XxHash3_64::oneshot_with_seed(kind, name.as_bytes());
    let mut sum = mix(key, size, u64::MAX ^ tags);
    for (i, h) in blocks.enumerate().filter(|b| b.1 != 0) {
        sum = sum.wrapping_add(mix(key, i as u64, h));
    }
    sum
}

fn mix(a: u64, b: u64, c: u64) -> u64 {
    let x = (a ^ b.wrapping_mul(0x9e37_79b9_7f4a_7c15)).rotate_left(23) ^ c.wrapping_mul(0xd6e8_feb8_6659_fd93);
    let x = (x ^ (x >> 32)).wrapping_mul(0x2545_f491_4f6c_dd1d);
    x ^ (x >> 29)
}

const VOLUME: u64 = 1;
const SNAPSHOT: u64 = 2;

/// A whole store.
#[derive(Clone, Default, Debug)]
pub(crate) struct Model {
    /// Volumes by name.
    pub(crate) volumes: BTreeMap<String, Arc<Object>>,
    /// Snapshots by name.
    pub(crate) snapshots: BTreeMap<String, Arc<Object>>,
}

impl Model {
    /// A number that tells states apart: names, sizes and contents of everything.
    pub(crate) fn hash(&self) -> u64 {
        let v = self.volumes.iter().map(|(n, o)| o.hash(n, VOLUME));
        let s = self.snapshots.iter().map(|(n, o)| o.hash(n, SNAPSHOT));
        v.chain(s).fold(0, u64::wrapping_add)
    }

    /// The `k`th live snapshot.
    pub(crate) fn pick_snapshot(&self, k: u8) -> Option<(&String, &Arc<Object>)> {
        self.snapshots.iter().nth(usize::from(k).checked_rem(self.snapshots.len())?)
    }

    /// The `v`th live volume.
    pub(crate) fn pick_volume(&self, v: u8) -> Option<(&String, &Arc<Object>)> {
        self.volumes.iter().nth(usize::from(v).checked_rem(self.volumes.len())?)
    }

    /// The volume to change.
    pub(crate) fn volume_mut(&mut self, name: &str) -> &mut Object {
        Arc::make_mut(self.volumes.get_mut(name).expect("a live volume"))
    }

    /// Whether a snapshot is of this volume.
    pub(crate) fn owns(&self, volume: &str, snapshot: &str) -> bool {
        self.snapshots[snapshot].of.is_some() && self.snapshots[snapshot].of == self.volumes[volume].id
    }

    /// Takes the ids over that a store with the same contents shows, and complains where a known one differs.
    pub(crate) fn learn(&mut self, seen: &Seen) -> Result<(), String> {
        let learn = |known: &mut Option<u64>, now: u64, what: &str, name: &str| match known.replace(now) {
            Some(old) if old != now => Err(format!("{what} of {name} was {old}, is {now}")),
            _ => Ok(()),
        };
        for (name, o) in &mut self.volumes {
            learn(&mut Arc::make_mut(o).id, seen.ids[&(VOLUME, name.clone())].0, "id", name)?;
        }
        for (name, o) in &mut self.snapshots {
            let (id, of) = seen.ids[&(SNAPSHOT, name.clone())];
            let o = Arc::make_mut(o);
            learn(&mut o.id, id, "id", name)?;
            learn(&mut o.of, of, "volume", name)?;
        }
        Ok(())
    }

    /// Where a store differs from this.
    pub(crate) fn diff(&self, seen: &Seen) -> String {
        let mut out = String::new();
        for (kind, what, objects) in [(VOLUME, "volume", &self.volumes), (SNAPSHOT, "snapshot", &self.snapshots)] {
            for (name, o) in objects {
                let Some((size, blocks, tags)) = seen.contents.get(&(kind, name.clone())) else {
                    let _ = write!(out, " {what} {name} missing;");
                    continue;
                };
                if *size != o.size {
                    let _ = write!(out, " {what} {name}: {size} bytes, not {};", o.size);
                }
                if *tags != o.tags {
                    let _ = write!(out, " {what} {name}: other tags;");
                }
                let bad: Vec<usize> = (0..blocks.len().max(o.blocks.len()))
                    .filter(|&i| {
                        let mine = o.blocks.get(i).and_then(|c| c.as_ref()).map_or(0, |c| c.0);
                        mine != blocks.get(i).copied().unwrap_or(0)
                    })
                    .collect();
                if !bad.is_empty() {
                    let _ = write!(out, " {what} {name}: blocks {bad:?} differ;");
                }
            }
            for (_, name) in seen.contents.keys().filter(|k| k.0 == kind && !objects.contains_key(&k.1)) {
                let _ = write!(out, " {what} {name} should not be there;");
            }
        }
        out
    }
}

/// What a store shows.
#[derive(Default)]
pub(crate) struct Seen {
    /// As [`Model::hash`].
    pub(crate) hash: u64,
    ids: HashMap<(u64, String), (u64, u64)>,
    /// Size, hash of each block, hash of the tags.
    contents: HashMap<(u64, String), (u64, Vec<u64>, u64)>,
}

/// Reads everything. An error names what could not be read.
pub(crate) fn observe(store: &Store) -> Result<Seen, (String, snapdisk::Error)> {
    let mut seen = Seen::default();
    let mut buf = Vec::new();
    let mut add = |seen: &mut Seen, kind, name: String, ids, what: Look<'_>| {
        let size = what.size as usize;
        buf.resize(size, 0);
        (what.read)(&mut buf).map_err(|e| (format!("reading {name}"), e))?;
        buf.resize(size.next_multiple_of(BLOCK), 0);
        let blocks: Vec<u64> = buf.chunks(BLOCK).map(block_hash).collect();
        let tags = tags::hash(&what.tags.map_err(|e| (format!("tags of {name}"), e))?);
        seen.hash = seen.hash.wrapping_add(object_hash(&name, kind, (what.size, tags), blocks.iter().copied()));
        seen.ids.insert((kind, name.clone()), ids);
        seen.contents.insert((kind, name), (what.size, blocks, tags));
        Ok(())
    };
    let place = |what: &'static str| move |e| (what.to_owned(), e);
    for v in store.volumes().map_err(place("listing volumes"))? {
        let (name, size) = (v.name().map_err(place("name"))?, v.size().map_err(place("size"))?);
        let what = Look { size, tags: v.tags(), read: &|buf| v.read_at(buf, 0) };
        add(&mut seen, VOLUME, name, (v.id().0, 0), what)?;
    }
    for s in store.snapshots().map_err(place("listing snapshots"))? {
        let name = s.name().map_err(place("name"))?;
        let what = Look { size: s.size(), tags: s.tags(), read: &|buf| s.read_at(buf, 0) };
        add(&mut seen, SNAPSHOT, name, (s.id().0, s.volume().0), what)?;
    }
    Ok(seen)
}

/// What is looked at of a volume or snapshot.
struct Look<'a> {
    size: u64,
    tags: snapdisk::Result<BTreeMap<String, String>>,
    read: &'a dyn Fn(&mut [u8]) -> snapdisk::Result<()>,
}
