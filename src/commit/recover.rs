//! Recovery: which groups of the log count, and applying them.
//!
//! Every group below the highest one in the ring was acknowledged: it must be whole, and damage there is an error, never the end of the
//! log. The highest counts wholly or not at all, by its hashes. Pass one takes every block that any record names,
//! superseded or not; pass two applies the records with the code that applied them live.

use super::{
    engine::State,
    log::{DataHash, page_block},
    ops::Op,
};
use crate::{
    BLOCK, Error, ErrorKind, IMAGE_MAX, Result,
    codec::{self, Kind},
    format::{HEADER, LogHeader, Page, Superblock, unseal_log},
    io::Disk,
    space::Run,
    units::{BLOCK_BYTES, Block},
};

/// What the log says after the checkpoint.
pub(crate) struct Replay {
    pub(crate) ops: Vec<Op>,
    /// The last group that counts, its last page's hash, and where the next one starts.
    pub(crate) group: u64,
    pub(crate) hash: u64,
    pub(crate) position: u64,
    /// Salvage only: what of the acknowledged log could not be read, so that everything from there on is missing.
    pub(crate) lost: Option<Error>,
    /// Pages of the ring that recovery needs.
    #[cfg_attr(not(feature = "sim"), allow(dead_code, reason = "the guard of the simulator asks for it"))]
    pub(crate) pages: Vec<Block>,
}

/// Regions that the image may have grown by for operations of which the log has no record: one that failed had its space all the same.
const MORE_REGIONS: u64 = 1024;

struct Ring {
    pages: Vec<Option<(LogHeader, u64)>>,
    bytes: Vec<u8>,
}

impl Ring {
    fn read(disk: &Disk, sb: &Superblock) -> Result<Ring> {
        let size = usize::try_from(sb.log_pages).unwrap_or(0) * BLOCK;
        let mut bytes = vec![0; size];
        let start = page_block(0, sb.log_pages).offset();
        for (i, chunk) in bytes.chunks_mut(1 << 20).enumerate() {
            disk.read_cold(start + (i << 20) as u64, chunk)?;
        }
        let pages = bytes
            .chunks_exact(BLOCK)
            .map(|page| {
                let page: &Page = page.try_into().expect("a page");
                let (h, hash) = unseal_log(page, &sb.uuid, sb.hash_key)?;
                (h.epoch == sb.epoch && h.group > sb.log_group && h.group < 1 << 62).then_some((h, hash))
            })
            .collect();
        Ok(Ring { pages, bytes })
    }
}

/// Reads the ring and decides what counts. `salvage`: at damage to what was acknowledged it stops instead of failing, and says so.
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
    let ring = Ring::read(disk, sb)?;
    let Some(highest) = ring.pages.iter().flatten().map(|p| p.0.group).max() else { return Ok(replay) };
    for group in sb.log_group + 1..=highest {
        let at = replay.position;
        match read_group(&ring, sb, group, replay.hash, at) {
            // The next real group takes an empty one's number: where another number follows, the real one was written and is gone.
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
                // An empty group is a placeholder: the next real one takes its number and page.
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

/// The log can't be followed past what was acknowledged: an error, unless `salvage` takes what there is.
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
    /// A crash may leave a group so that was not acknowledged.
    torn: bool,
}

struct Found {
    bytes: Vec<u8>,
    data: u64,
    hash: u64,
    pages: u64,
}

/// One group's payload, or what is wrong with it.
fn read_group(ring: &Ring, sb: &Superblock, group: u64, mut previous: u64, start: u64) -> Result<Found, Wrong> {
    let wrong = |why, torn| Err(Wrong { why, torn });
    let mut bytes = Vec::new();
    for index in 0..sb.log_pages {
        let at = page_block(start + index, sb.log_pages);
        let slot = ((start + index) % sb.log_pages) as usize;
        let Some((h, hash)) = ring.pages[slot] else {
            return wrong(format!("{at}: damaged"), true);
        };
        if h.group != group || u64::from(h.index) != index {
            return wrong(format!("{at}: page {} of group {} stands there", h.index, h.group), true);
        }
        // The page is what was written there last in this opening. So the page before it is not the one that it followed.
        if h.previous != previous {
            return wrong(format!("{at}: it continues another page than the one before it"), false);
        }
        let o = slot * BLOCK + HEADER;
        bytes.extend_from_slice(&ring.bytes[o..o + h.len as usize]);
        if h.last {
            return Ok(Found { bytes, data: h.data, hash, pages: index + 1 });
        }
        previous = hash;
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

/// Whether a group has its data in itself: then it has each block that it places, once and with the right content.
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

/// Whether all data that a group names is on the medium. If it is `inline`, the group's pages are all there is to that; but the blocks must
/// exist: a group that was acknowledged has made the file's length durable.
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
                // The file's growth was lost, and the data with it, zeros or not.
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

/// Reads data that may have been on its way when its writer ended. Returns `false` if the medium does not give it back, twice: a sector
/// whose write was interrupted, or one that a filesystem with checksums has lost, can be unreadable rather than wrong.
fn read_in_flight(disk: &Disk, off: u64, buf: &mut [u8]) -> Result<bool> {
    match disk.read_cold(off, buf).or_else(|_| disk.read_cold(off, buf)) {
        Err(e) if e.kind() == ErrorKind::Io => Ok(false),
        other => other.map(|()| true),
    }
}

impl State {
    /// Applies what counts. Space that the records name and that the host may have to give again is noted in [`State::owed`]: nothing is
    /// asked of the host for a claim before all of them were found to hold.
    pub(crate) fn replay(&mut self, replay: &Replay, writable: bool, base_len: u64) -> Result<()> {
        let damaged = |e: Error| match e.kind() {
            ErrorKind::Deleted | ErrorKind::NotFound => Error::corrupt(format!("intent log: {e}")),
            _ => e.at("intent log"),
        };
        replay.ops.iter().try_for_each(|op| self.give_again(op)).map_err(damaged)?;
        let (before, most) = (self.forest.space.spans(), self.most_regions(replay));
        replay.ops.iter().try_for_each(|op| self.take_placed(op, most, base_len)).map_err(damaged)?;
        let geometry = self.forest.space.geometry();
        let (start, end) = (geometry.start(before), geometry.start(self.forest.space.spans()));
        if start < end {
            self.owed.push((start.offset(), end.offset() - start.offset()));
        }
        for op in &replay.ops {
            self.check_new(op).map_err(damaged)?;
            self.heads_of(op).map_err(damaged)?;
            let nodes = self.nodes_for(op).map_err(damaged)?;
            // The live run had these; where the host gives no more, what is there has to do.
            let mut refused = None;
            while refused.is_none() && !self.forest.fill_pool(nodes)? {
                refused = self.grow_for_nodes(nodes, writable).err();
            }
            match self.apply(op) {
                Ok(()) => {}
                Err(e) => return Err(refused.unwrap_or_else(|| damaged(e))),
            }
        }
        Ok(())
    }

    /// `nodes_for` wants the records of volumes and snapshots in memory, as the live run had them.
    fn heads_of(&mut self, op: &Op) -> Result<()> {
        match op {
            Op::Write { volume, .. }
            | Op::Cut { volume, .. }
            | Op::Rollback { volume, .. }
            | Op::DeleteVolume { volume, .. }
            | Op::SetTags { snapshot: false, id: volume, .. }
            | Op::Resize { volume, .. } => self.head(*volume).map(drop),
            Op::DeleteSnapshot { snapshot } | Op::SetTags { snapshot: true, id: snapshot, .. } => {
                self.frozen_head(*snapshot).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Regions that the image can have at most: what it grew by since the checkpoint was used up, but for what one operation asks for,
    /// before it grew again (see `Space::find_region`). So memory for regions follows from what the log says, not from what a file's length
    /// claims.
    fn most_regions(&self, replay: &Replay) -> u64 {
        let mut placed = Vec::new();
        replay.ops.iter().for_each(|op| op.placed(&mut placed));
        let named: u64 = placed.iter().map(|p| p.blocks()).sum();
        let nodes: u64 = replay.ops.iter().map(Op::weight).sum();
        let spans = self.forest.space.spans();
        spans + MORE_REGIONS + (2 * (named + nodes)).div_ceil(self.forest.space.geometry().usable())
    }

    /// Has the host give regions for nodes. Where it has no space for so many, fewer may do: the live run took no more than it needed.
    fn grow_for_nodes(&mut self, nodes: usize, writable: bool) -> Result<()> {
        let (geometry, spans) = (self.forest.space.geometry(), self.forest.space.spans());
        let mut more = (nodes as u64).div_ceil(6);
        let ask = |more| {
            let (start, end) = (geometry.start(spans).offset(), geometry.start(spans + more).offset());
            if writable { self.forest.disk.reserve(start, end - start) } else { Ok(()) }
        };
        while let Err(e) = ask(more) {
            if e.kind() != ErrorKind::NoSpace || more == 1 {
                return Err(e);
            }
            more /= 2;
        }
        self.grow(spans + more)
    }

    fn grow(&mut self, to: u64) -> Result<()> {
        let forest = &mut self.forest;
        if forest.space.geometry().start(to).offset() > IMAGE_MAX {
            return Err(Error::corrupt("intent log: a record names a block past the largest image"));
        }
        forest.space.grow(&forest.disk, to)
    }

    /// A block whose content only the log has was perhaps given by the host, again, since the checkpoint: no data that landed there says so.
    fn give_again(&mut self, op: &Op) -> Result<()> {
        let Op::Data { at, .. } = op else { return Ok(()) };
        let (run, forest) = (Run { start: Block(*at), len: 1 }, &mut self.forest);
        let region = forest.space.geometry().locate(run.start).map(|place| place.0);
        if region.is_some_and(|r| r < forest.space.spans()) && forest.space.is_returned(&forest.disk, run)? {
            self.owed.push((run.start.offset(), BLOCK_BYTES));
        }
        Ok(())
    }

    fn take_placed(&mut self, op: &Op, most: u64, base_len: u64) -> Result<()> {
        let mut placed = Vec::new();
        op.placed(&mut placed);
        for &(start, len) in placed.iter().flat_map(|p| &p.runs) {
            let last = Block(start).plus(u64::from(len) - 1);
            if last.plus(1).offset() > base_len {
                return Err(Error::new(ErrorKind::Truncated, format!("acknowledged data at {last} lies past the end")));
            }
            let geometry = self.forest.space.geometry();
            if let Some((region, _)) = geometry.locate(last)
                && region >= self.forest.space.spans()
            {
                if region >= most {
                    return Err(Error::corrupt(format!("a record names {last}, which the image can't have grown to")));
                }
                self.grow(region + 1)?;
            }
            for i in 0..u64::from(len) {
                self.forest.space.take(&self.forest.disk, Block(start).plus(i))?;
            }
        }
        Ok(())
    }
}

/// Bytes that the image must have for its durable checkpoint.
pub(crate) fn needed_len(sb: &Superblock) -> u64 {
    crate::space::Geometry::of(sb).start(sb.spans).0.saturating_mul(BLOCK_BYTES)
}
