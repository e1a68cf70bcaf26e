//! The scan of the ring: which groups of the log count.
//!
//! Every group below the highest one in the ring was acknowledged: it must be whole, and damage there is an error, never the end of the log.
//! The highest group counts as a whole or not at all, by its hashes. Recovery first takes every block that any record names, superseded or
//! not, and then applies the records with the code that applied them live.

use super::{group::DataHash, record::Op, ring::page_block};
use crate::{
    BLOCK, Error, ErrorKind, IMAGE_MAX, Result,
    codec::{self, Kind},
    format::{HEADER, LogHeader, Page, Superblock, unseal_log},
    io::Disk,
    units::Block,
};

/// Pages of the ring read at a time.
const CHUNK: usize = 256;

/// What the log says after the checkpoint.
pub(crate) struct Replay {
    pub(crate) ops: Vec<Op>,
    /// Number of the last group that counts, the hash of its last page, and where the next group starts.
    pub(crate) group: u64,
    pub(crate) hash: u64,
    pub(crate) position: u64,
    /// Salvage only: why the acknowledged log could not be read further, so that everything after that is missing.
    pub(crate) lost: Option<Error>,
    /// The pages of the ring that recovery needs.
    #[cfg_attr(not(feature = "sim"), allow(dead_code, reason = "the guard of the simulator asks for it"))]
    pub(crate) pages: Vec<Block>,
}

/// A page of the ring that the last opening for writing wrote since the checkpoint.
struct RingPage {
    header: LogHeader,
    hash: u64,
    /// Taken by the group to which the page belongs, so that the ring is not in memory twice.
    payload: Box<[u8]>,
}

/// The ring.
struct Ring {
    /// The pages by their place; `None` for one that can't count.
    pages: Vec<Option<RingPage>>,
    /// Salvage only: why a page could not be read.
    unreadable: Option<Error>,
}

impl Ring {
    fn read(disk: &Disk, sb: &Superblock, salvage: bool) -> Result<Ring> {
        let (mut pages, mut unreadable, mut chunk) = (Vec::new(), None, vec![0; CHUNK * BLOCK]);
        while (pages.len() as u64) < sb.log_pages {
            let more = CHUNK.min((sb.log_pages - pages.len() as u64) as usize);
            let chunk = &mut chunk[..more * BLOCK];
            let offset = page_block(pages.len() as u64, sb.log_pages).offset();
            if let Err(e) = disk.read_cold(offset, chunk) {
                if !salvage {
                    return Err(e.at("intent log"));
                }
                // Page by page: those beside the one that can't be read may count.
                for (at, page) in (offset..).step_by(BLOCK).zip(chunk.chunks_exact_mut(BLOCK)) {
                    if let Err(e) = disk.read_cold(at, page) {
                        unreadable.get_or_insert(e.at("intent log"));
                        page.fill(0);
                    }
                }
            }
            pages.extend(chunk.chunks_exact(BLOCK).map(|page| {
                let page: &Page = page.try_into().expect("a page");
                let (header, hash) = unseal_log(page, &sb.uuid, sb.hash_key)?;
                let counts = header.epoch == sb.epoch && header.group > sb.log_group && header.group < 1 << 62;
                let payload = || page[HEADER..][..header.len as usize].into();
                counts.then(|| RingPage { header, hash, payload: payload() })
            }));
        }
        Ok(Ring { pages, unreadable })
    }
}

/// Reads the ring and decides which groups count. With `salvage`, damage to what was acknowledged ends the log instead of failing, and is
/// returned.
pub(crate) fn scan(disk: &Disk, sb: &Superblock, salvage: bool) -> Result<Replay> {
    let mut replay = Replay {
        ops: Vec::new(),
        group: sb.log_group,
        hash: sb.log_hash,
        position: sb.log_position,
        lost: None,
        pages: Vec::new(),
    };
    if sb.clean {
        return Ok(replay);
    }
    let mut ring = Ring::read(disk, sb, salvage)?;
    replay.lost = ring.unreadable.take();
    let Some(highest) = ring.pages.iter().flatten().map(|p| p.header.group).max() else { return Ok(replay) };
    for group in sb.log_group + 1..=highest {
        let at = replay.position;
        match read_group(&mut ring, sb, group, replay.hash, at) {
            // The next real group takes an empty one's number: if another number follows, the real group was written and is lost.
            Ok(found) if found.bytes.is_empty() && group < highest => {
                let why = format!("{}: its placeholder stands there", page_block(at, sb.log_pages));
                lost(&mut replay, group, highest, &why, salvage)?;
                return Ok(replay);
            }
            Ok(found) => {
                let ops = decode(&found.bytes)?;
                let inline = is_inline(&ops)?;
                if group == highest && !landed(disk, sb, &ops, inline, found.data)? {
                    return Ok(replay);
                }
                let pages = (at..at + found.pages).map(|p| page_block(p, sb.log_pages));
                replay.pages.extend(pages);
                // An empty group is a placeholder: the next real group takes its number and page.
                if !found.bytes.is_empty() {
                    replay.ops.extend(ops);
                    (replay.group, replay.hash, replay.position) = (group, found.hash, at + found.pages);
                }
            }
            Err(Wrong { why, torn }) if group < highest || !torn => {
                lost(&mut replay, group, highest, &why, salvage)?;
                return Ok(replay);
            }
            Err(_) => {}
        }
    }
    Ok(replay)
}

/// The log can't be followed past what was acknowledged: returns an error, unless `salvage` accepts what there is.
fn lost(replay: &mut Replay, group: u64, highest: u64, why: &str, salvage: bool) -> Result<()> {
    let proof = if group < highest { format!(" (acknowledged: group {highest} follows)") } else { String::new() };
    let damage = Error::corrupt(format!("intent log, group {group}{proof}, {why}"));
    if !salvage {
        return Err(damage);
    }
    replay.lost = Some(damage);
    Ok(())
}

/// Why a group can't be read.
struct Wrong {
    why: String,
    /// A crash may leave a group like this if it was not acknowledged.
    torn: bool,
}

struct Found {
    bytes: Vec<u8>,
    data: u64,
    hash: u64,
    pages: u64,
}

/// Returns one group's payload, or what is wrong with it.
fn read_group(ring: &mut Ring, sb: &Superblock, group: u64, mut previous: u64, start: u64) -> Result<Found, Wrong> {
    let wrong = |why, torn| Err(Wrong { why, torn });
    let mut bytes = Vec::new();
    for index in 0..sb.log_pages {
        let at = page_block(start + index, sb.log_pages);
        let slot = ((start + index) % sb.log_pages) as usize;
        let Some(page) = &mut ring.pages[slot] else {
            return wrong(format!("{at}: damaged"), true);
        };
        let h = &page.header;
        if h.group != group || u64::from(h.index) != index {
            return wrong(format!("{at}: page {} of group {} stands there", h.index, h.group), true);
        }
        // The page is the last that was written there in this opening, so the page before it is not the one that it followed.
        if h.previous != previous {
            return wrong(format!("{at}: it continues another page than the one before it"), false);
        }
        bytes.extend_from_slice(&std::mem::take(&mut page.payload));
        if h.last {
            return Ok(Found { bytes, data: h.data, hash: page.hash, pages: index + 1 });
        }
        previous = page.hash;
    }
    wrong("it has no last page".to_owned(), true)
}

fn decode(mut bytes: &[u8]) -> Result<Vec<Op>> {
    let mut ops = Vec::new();
    while !bytes.is_empty() {
        let (record, len): (Vec<Op>, usize) = codec::decode_prefix(Kind::Log, bytes).map_err(|e| e.at("intent log"))?;
        for op in &record {
            op.validate().map_err(|e| Error::corrupt(format!("intent log: a record that no engine writes: {e}")))?;
        }
        ops.extend(record);
        bytes = &bytes[len..];
    }
    Ok(ops)
}

/// Returns whether a group carries its own data. If it does, it has each block that it places once and with the right content.
fn is_inline(ops: &[Op]) -> Result<bool> {
    let content = |op: &Op| match op {
        Op::Data { at, bytes } => Some((*at, crc32fast::hash(bytes))),
        _ => None,
    };
    let mut data: Vec<_> = ops.iter().filter_map(content).collect();
    if data.is_empty() {
        return Ok(false);
    }
    let mut placed = Vec::new();
    ops.iter().for_each(|op| op.placed(&mut placed));
    let mut named: Vec<_> = placed.iter().flat_map(|p| p.sums()).collect();
    data.sort_unstable();
    named.sort_unstable();
    if named != data || data.windows(2).any(|w| w[0].0 == w[1].0) {
        return Err(Error::corrupt("intent log: a group with other data than it places"));
    }
    Ok(true)
}

/// Returns whether all data that a group names is on the medium. For an `inline` group its pages prove that; but the blocks must exist, since
/// an acknowledged group has made the file's length durable.
fn landed(disk: &Disk, sb: &Superblock, ops: &[Op], inline: bool, expected: u64) -> Result<bool> {
    let mut fold = DataHash::new(sb.hash_key);
    let mut placed = Vec::new();
    ops.iter().for_each(|op| op.placed(&mut placed));
    let len_now = disk.len()?;
    for p in placed {
        let mut hash = crate::bytes::Hash::new(sb.hash_key);
        for &(start, len) in &p.runs {
            if Block(start).plus(len.into()).offset() > IMAGE_MAX {
                return Err(Error::corrupt(format!("intent log: a record names {}", Block(start))));
            }
            if Block(start).plus(len.into()).offset() > len_now {
                // The file's growth was lost, and with it the data, even if that was zeros.
                return Ok(false);
            }
            if inline {
                continue;
            }
            let mut buf = vec![0; (len as usize).min(256) * BLOCK];
            let mut done = 0;
            while done < len {
                let n = (len - done).min(256);
                let part = &mut buf[..n as usize * BLOCK];
                if !read_in_flight(disk, Block(start).plus(done.into()).offset(), part)? {
                    return Ok(false);
                }
                hash.add(part);
                done += n;
            }
        }
        if !inline {
            fold.add(hash.finish());
        }
    }
    Ok(fold.finish() == expected)
}

/// Reads data that may have been in flight when its writer ended. Returns `false` if the medium fails to return it twice: a sector whose
/// write was interrupted, or one that a filesystem with checksums has lost, can be unreadable rather than wrong.
fn read_in_flight(disk: &Disk, off: u64, buf: &mut [u8]) -> Result<bool> {
    match disk.read_cold(off, buf).or_else(|_| disk.read_cold(off, buf)) {
        Err(e) if e.kind() == ErrorKind::Io => Ok(false),
        other => other.map(|()| true),
    }
}
