//! Every byte on disk, apart from node contents (`tree::node`), and nothing else: constants, encoders, decoders.
//!
//! `docs/format.md` says the same in prose; a test holds the two together. All numbers are little-endian. Decoding
//! never panics and never allocates more than a page.

use crate::{
    Error, Result,
    units::{BLOCK, BLOCK_BYTES, Block, Stamp},
};
use std::ops::Range;

/// First bytes of an image.
pub(crate) const MAGIC: [u8; 8] = *b"SNAPDISK";
/// Format version that this code writes, and the only one that it reads.
pub(crate) const VERSION: u32 = 1;
/// The two superblock slots, 64 KiB apart.
pub const SLOTS: [Block; 2] = [Block(0), Block(16)];
/// First page of the intent log's ring.
pub const LOG_START: Block = Block(32);
/// Bytes of a superblock in use: one sector, which is old, new or damaged, but never a mix of two superblocks.
pub const SUPERBLOCK: usize = 512;
/// Bytes of header in nodes, count pages, index pages and log pages.
pub const HEADER: usize = 64;
/// Payload bytes of a node, count page or index page.
pub(crate) const PAGE_PAYLOAD: usize = BLOCK - HEADER;
/// Payload bytes of a log page: its own hash takes the last eight.
pub const LOG_PAYLOAD: usize = BLOCK - HEADER - 8;
/// Blocks that one count page covers, at most.
pub const SPAN_MAX: u32 = (PAGE_PAYLOAD / 4) as u32;
/// Entries of an index page, at most.
pub const INDEX_FANOUT_MAX: u32 = (PAGE_PAYLOAD / 16) as u32;
/// Levels of index pages above the count pages, at most.
pub(crate) const INDEX_LEVELS: u8 = 4;
/// A count that marks the engine's own block: a home of a count page or index page.
pub const COUNT_SYSTEM: u32 = u32::MAX;
/// A count that marks a block whose space was returned to the host.
pub const COUNT_RETURNED: u32 = u32::MAX - 1;
/// The largest real count.
pub(crate) const COUNT_MAX: u32 = u32::MAX - 2;
/// Levels of a tree, at most. Ten levels of fan-out four already hold more than an image can.
pub(crate) const TREE_LEVELS: u8 = 32;

/// One page's bytes.
pub type Page = [u8; BLOCK];

/// The kind of a checksummed page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum PageKind {
    /// Inner node of an extent tree.
    ExtentInner = 1,
    /// Leaf of an extent tree.
    ExtentLeaf = 2,
    /// Inner node of the catalog.
    RecordInner = 3,
    /// Leaf of the catalog.
    RecordLeaf = 4,
    /// Counts of one region.
    Counts = 5,
    /// Index over count pages or over lower index pages.
    Index = 6,
}

pub(crate) fn get<const N: usize>(page: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    if let Some(bytes) = page.get(at..at.saturating_add(N)) {
        out.copy_from_slice(bytes);
    }
    out
}
pub(crate) fn get16(page: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(get(page, at))
}
pub(crate) fn get32(page: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(get(page, at))
}
pub(crate) fn get64(page: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(get(page, at))
}
pub(crate) fn put(page: &mut [u8], at: usize, bytes: &[u8]) {
    page[at..at + bytes.len()].copy_from_slice(bytes);
}

/// The header of a page whose referrer holds its address and stamp.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageHeader {
    /// Its [`PageKind`], as a number.
    pub kind: u8,
    /// Distance from the leaves.
    pub level: u8,
    /// Number of items.
    pub items: u16,
}

fn seeded(uuid: &[u8; 16], block: Block, stamp: Stamp, page: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(uuid);
    crc.update(&block.0.to_le_bytes());
    crc.update(&stamp.0.to_le_bytes());
    crc.update(&page[4..]);
    crc.finalize()
}

/// Writes header and checksum of a page for `block` with `stamp` around a payload that is already in place.
pub fn seal(page: &mut Page, uuid: &[u8; 16], block: Block, stamp: Stamp, header: PageHeader) {
    page[4] = header.kind;
    page[5] = header.level;
    put(page, 6, &header.items.to_le_bytes());
    put(page, 8, uuid);
    put(page, 24, &block.0.to_le_bytes());
    put(page, 32, &stamp.0.to_le_bytes());
    page[40..HEADER].fill(0);
    let crc = seeded(uuid, block, stamp, page);
    put(page, 0, &crc.to_le_bytes());
}

/// Checks a page against what its referrer expects and returns its header.
pub fn unseal(page: &Page, uuid: &[u8; 16], block: Block, stamp: Stamp) -> Result<PageHeader> {
    if get32(page, 0) != seeded(uuid, block, stamp, page) {
        let (at, seen) = (get64(page, 24), get64(page, 32));
        let why = match (get::<16>(page, 8) == *uuid, at == block.0, seen == stamp.0) {
            (false, _, _) => "not a page of this image".to_owned(),
            (_, false, _) => format!("written for block {at}: a misdirected write"),
            (_, _, false) => format!("stamp {seen:#x} where {:#x} is due: a lost or stale write", stamp.0),
            _ => "checksum mismatch".to_owned(),
        };
        return Err(Error::corrupt(format!("{block}: {why}")));
    }
    Ok(PageHeader { kind: page[4], level: page[5], items: get16(page, 6) })
}

/// Where the root of a tree is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct RootPointer {
    /// The root node's block; 0 for an empty tree.
    pub block: u64,
    /// Its birth stamp.
    pub stamp: u64,
    /// Its level.
    pub level: u8,
}

/// Counters of a superblock stay below this: sequence, epoch, positions, groups, entries of the doomed list.
pub const COUNTER_END: u64 = 1 << 62;
/// Ids of volumes and snapshots stay below this.
pub const ID_END: u64 = 1 << 56;
/// Generations stay below this: a stamp has no more bits for them.
pub const GENERATION_END: u64 = 1 << 40;
/// Distance of a counter from its end at which the image is no longer opened for writing; at twice the distance, operations are refused. It
/// is more than openings, closings and operations in progress can still add, so that no image is written which its own decoder refuses.
pub const COUNTER_ROOM: u64 = 1 << 32;

/// Returns whether counters, ids and a generation are further than `room` from their ends.
pub(crate) fn have_room(counters: &[u64], ids: [u64; 2], generation: u64, room: u64) -> bool {
    counters.iter().all(|&n| n < COUNTER_END - room)
        && ids.iter().all(|&n| n < ID_END - room)
        && generation < GENERATION_END - room
}

/// The superblock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Superblock {
    /// Features that a reader may ignore.
    pub compatible: u64,
    /// Features that a writer must know.
    pub read_only_compatible: u64,
    /// Features that everybody must know.
    pub incompatible: u64,
    /// Identifies the image.
    pub uuid: [u8; 16],
    /// Key of the log's hashes.
    pub hash_key: u64,
    /// Grows with every new superblock; a copy carries the same.
    pub sequence: u64,
    /// Number of the opening for writing to which the log's pages belong.
    pub epoch: u64,
    /// Generation of the last durable checkpoint.
    pub generation: u64,
    /// Pages of the log's ring.
    pub log_pages: u64,
    /// Position of the first page after the checkpoint, counted in pages from the image's creation; modulo `log_pages` it is a place in the
    /// ring.
    pub log_position: u64,
    /// Number of the last acknowledged group.
    pub log_group: u64,
    /// Hash of that group's last page.
    pub log_hash: u64,
    /// Blocks in a region.
    pub span: u32,
    /// Entries in an index page.
    pub index_fanout: u32,
    /// Number of regions.
    pub spans: u64,
    /// Level of the top index page.
    pub index_level: u8,
    /// Which of the top index page's two homes is current.
    pub index_home: u8,
    /// Stamp of the top index page.
    pub index_stamp: u64,
    /// Root of the catalog.
    pub catalog: RootPointer,
    /// Free blocks whose space the image has from the host.
    pub free: u64,
    /// Blocks returned to the host.
    pub returned: u64,
    /// Number of entries in the doomed list.
    pub doomed: u64,
    /// Sequence number of the next doomed entry.
    pub doom_sequence: u64,
    /// Id of the next volume.
    pub next_volume: u64,
    /// Id of the next snapshot.
    pub next_snapshot: u64,
    /// The delta list: first block and pages in use; this version writes (0, 0).
    pub delta: (u64, u64),
    /// The image was closed, and the ring need not be scanned.
    pub clean: bool,
}

/// Byte ranges of the superblock's fields, in order, as `docs/format.md` lists them.
pub const SUPERBLOCK_FIELDS: [(&str, Range<usize>); 33] = [
    ("magic", 0..8),
    ("version", 8..12),
    ("checksum", 12..16),
    ("compatible", 16..24),
    ("read_only_compatible", 24..32),
    ("incompatible", 32..40),
    ("uuid", 40..56),
    ("hash_key", 56..64),
    ("sequence", 64..72),
    ("epoch", 72..80),
    ("generation", 80..88),
    ("log_pages", 88..96),
    ("log_position", 96..104),
    ("log_group", 104..112),
    ("log_hash", 112..120),
    ("span", 120..124),
    ("index_fanout", 124..128),
    ("spans", 128..136),
    ("index_stamp", 136..144),
    ("index_level", 144..145),
    ("index_home", 145..146),
    ("catalog.level", 146..147),
    ("clean", 147..148),
    ("catalog.block", 152..160),
    ("catalog.stamp", 160..168),
    ("free", 168..176),
    ("returned", 176..184),
    ("doomed", 184..192),
    ("doom_sequence", 192..200),
    ("next_volume", 200..208),
    ("next_snapshot", 208..216),
    ("delta.block", 216..224),
    ("delta.pages", 224..232),
];

impl Superblock {
    /// The superblock of an image that has a log and nothing else yet, before its first checkpoint.
    pub(crate) fn empty(uuid: [u8; 16], hash_key: u64, log_pages: u64, span: u32, index_fanout: u32) -> Superblock {
        Superblock {
            compatible: 0,
            read_only_compatible: 0,
            incompatible: 0,
            uuid,
            hash_key,
            sequence: 0,
            epoch: 1,
            generation: 0,
            log_pages,
            log_position: 0,
            log_group: 0,
            log_hash: 0,
            span,
            index_fanout,
            spans: 0,
            index_level: 1,
            index_home: 0,
            index_stamp: 0,
            catalog: RootPointer::default(),
            free: 0,
            returned: 0,
            doomed: 0,
            doom_sequence: 0,
            next_volume: 1,
            next_snapshot: 1,
            delta: (0, 0),
            clean: false,
        }
    }
    /// Encodes the superblock as a page.
    pub fn encode(&self) -> Box<Page> {
        let mut p = Box::new([0; BLOCK]);
        put(&mut p[..], 0, &MAGIC);
        put(&mut p[..], 8, &VERSION.to_le_bytes());
        put(&mut p[..], 40, &self.uuid);
        put(&mut p[..], 120, &self.span.to_le_bytes());
        put(&mut p[..], 124, &self.index_fanout.to_le_bytes());
        p[144] = self.index_level;
        p[145] = self.index_home;
        p[146] = self.catalog.level;
        p[147] = u8::from(self.clean);
        for (at, value) in [
            (16, self.compatible),
            (24, self.read_only_compatible),
            (32, self.incompatible),
            (56, self.hash_key),
            (64, self.sequence),
            (72, self.epoch),
            (80, self.generation),
            (88, self.log_pages),
            (96, self.log_position),
            (104, self.log_group),
            (112, self.log_hash),
            (128, self.spans),
            (136, self.index_stamp),
            (152, self.catalog.block),
            (160, self.catalog.stamp),
            (168, self.free),
            (176, self.returned),
            (184, self.doomed),
            (192, self.doom_sequence),
            (200, self.next_volume),
            (208, self.next_snapshot),
            (216, self.delta.0),
            (224, self.delta.1),
        ] {
            put(&mut p[..], at, &value.to_le_bytes());
        }
        let crc = Superblock::checksum(&p);
        put(&mut p[..], 12, &crc.to_le_bytes());
        p
    }

    fn checksum(page: &Page) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&page[..12]);
        crc.update(&page[16..SUPERBLOCK]);
        crc.finalize()
    }

    /// Returns whether a page starts like a superblock, valid or not.
    pub(crate) fn has_magic(page: &Page) -> bool {
        page[..8] == MAGIC
    }

    /// Decodes and checks a slot. The checksum is checked before the version, so that a torn page is never taken for a newer format.
    pub fn decode(page: &Page) -> Result<Superblock> {
        if !Superblock::has_magic(page) {
            return Err(Error::invalid("no snapdisk image: the magic number is missing"));
        }
        if get32(page, 12) != Superblock::checksum(page) {
            return Err(Error::corrupt("superblock: checksum mismatch"));
        }
        let version = get32(page, 8);
        let q = |at| get64(page, at);
        if version != VERSION || q(32) != 0 {
            return Err(Error::new(
                crate::ErrorKind::UnsupportedVersion,
                format!(
                    "format version {version}, incompatible features {:#x}: this code reads version {VERSION}",
                    q(32)
                ),
            ));
        }
        let sb = Superblock {
            compatible: q(16),
            read_only_compatible: q(24),
            incompatible: q(32),
            uuid: get(page, 40),
            hash_key: q(56),
            sequence: q(64),
            epoch: q(72),
            generation: q(80),
            log_pages: q(88),
            log_position: q(96),
            log_group: q(104),
            log_hash: q(112),
            span: get32(page, 120),
            index_fanout: get32(page, 124),
            spans: q(128),
            index_stamp: q(136),
            index_level: page[144],
            index_home: page[145],
            catalog: RootPointer { block: q(152), stamp: q(160), level: page[146] },
            clean: page[147] == 1,
            free: q(168),
            returned: q(176),
            doomed: q(184),
            doom_sequence: q(192),
            next_volume: q(200),
            next_snapshot: q(208),
            delta: (q(216), q(224)),
        };
        sb.validate()?;
        Ok(sb)
    }

    /// Returns whether every counter is further than `room` from its end.
    pub(crate) fn has_room(&self, room: u64) -> bool {
        let counters = [self.sequence, self.epoch, self.log_position, self.log_group, self.doom_sequence];
        have_room(&counters, [self.next_volume, self.next_snapshot], self.generation, room)
    }

    /// Checks the bounds that everything else relies on.
    fn validate(&self) -> Result<()> {
        let blocks_max = crate::IMAGE_MAX / BLOCK_BYTES;
        let sane = (8..=16384).contains(&self.log_pages)
            && (16..=SPAN_MAX).contains(&self.span)
            && (4..=INDEX_FANOUT_MAX).contains(&self.index_fanout)
            && self.spans >= 1
            && self.spans <= blocks_max / u64::from(self.span)
            && (1..=INDEX_LEVELS).contains(&self.index_level)
            && self.index_home <= 1
            && self.catalog.level < TREE_LEVELS
            && self.generation < GENERATION_END
            && [
                self.sequence,
                self.epoch,
                self.log_position,
                self.log_group,
                self.doom_sequence,
                self.next_volume,
                self.next_snapshot,
                self.doomed,
            ]
            .iter()
            .all(|&n| n < COUNTER_END)
            && u64::from(self.index_fanout).checked_pow(self.index_level.into()).is_some_and(|n| n >= self.spans)
            && self.free.checked_add(self.returned).is_some_and(|n| n <= self.spans * u64::from(self.span))
            && self.next_volume < ID_END
            && self.next_snapshot < ID_END;
        if sane { Ok(()) } else { Err(Error::corrupt("superblock: a field is out of bounds")) }
    }
}

/// Header of a log page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogHeader {
    /// Number of the opening that wrote it.
    pub epoch: u64,
    /// Number of its group.
    pub group: u64,
    /// Its place in its group, from 0.
    pub index: u32,
    /// Whether it is the last page of its group.
    pub last: bool,
    /// Payload bytes in use.
    pub len: u32,
    /// Hash of the page before it, in this group or the one before.
    pub previous: u64,
    /// On the last page of a group, the hash of all data that the group's records name.
    pub data: u64,
}

/// Magic number of a log page.
pub const LOG_MAGIC: u32 = u32::from_le_bytes(*b"SDLG");

/// Writes header and hash around a payload that is already in place; returns the hash.
pub fn seal_log(page: &mut Page, uuid: &[u8; 16], key: u64, h: &LogHeader) -> u64 {
    put(page, 0, &LOG_MAGIC.to_le_bytes());
    put(page, 4, &u32::from(h.last).to_le_bytes());
    put(page, 8, uuid);
    put(page, 24, &h.epoch.to_le_bytes());
    put(page, 32, &h.group.to_le_bytes());
    put(page, 40, &h.index.to_le_bytes());
    put(page, 44, &h.len.to_le_bytes());
    put(page, 48, &h.previous.to_le_bytes());
    put(page, 56, &h.data.to_le_bytes());
    let hash = crate::bytes::hash(&page[..BLOCK - 8], key);
    put(page, BLOCK - 8, &hash.to_le_bytes());
    hash
}

/// Returns the header and hash of a page that verifies as this image's; `None` for any other page.
pub fn unseal_log(page: &Page, uuid: &[u8; 16], key: u64) -> Option<(LogHeader, u64)> {
    let hash = get64(page, BLOCK - 8);
    if get32(page, 0) != LOG_MAGIC || get::<16>(page, 8) != *uuid || hash != crate::bytes::hash(&page[..BLOCK - 8], key)
    {
        return None;
    }
    let h = LogHeader {
        epoch: get64(page, 24),
        group: get64(page, 32),
        index: get32(page, 40),
        last: get32(page, 4) == 1,
        len: get32(page, 44),
        previous: get64(page, 48),
        data: get64(page, 56),
    };
    (h.len as usize <= LOG_PAYLOAD).then_some((h, hash))
}
