//! An image whose pages are known, and making all its checksums right after edits.

use snapdisk::{
    BLOCK, Block, Stamp,
    format::{self, HEADER, LOG_PAYLOAD, LOG_START, LogHeader, Page, PageHeader, PageKind, SLOTS, Superblock},
};
use std::ops::Range;

/// Bytes of a record's envelope, and of the part before its checksum.
const ENVELOPE: (usize, usize) = (10, 6);

fn get<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("in range")
}

/// An image to edit.
#[derive(Clone)]
pub struct Image {
    /// All of it.
    pub bytes: Vec<u8>,
    uuid: [u8; 16],
    hash_key: u64,
    log_hash: u64,
    /// Which slot is the newest.
    slot: Block,
    /// Blocks of nodes, count and index pages, stale ones too.
    sealed: Vec<u64>,
    /// Blocks of the log's live pages, in order.
    log: Vec<u64>,
    /// The superblock as it was.
    pub(crate) superblock: Superblock,
    /// How long the file says it is, if longer than its bytes: the rest is a hole.
    pub claimed: u64,
}

impl Image {
    /// Finds the pages of an image.
    pub fn new(bytes: Vec<u8>) -> Image {
        let page = |b: u64| <&Page>::try_from(&bytes[b as usize * BLOCK..][..BLOCK]).expect("a page");
        let newest = SLOTS.into_iter().filter_map(|s| Some((s, Superblock::decode(page(s.0)).ok()?)));
        let (slot, sb) = newest.max_by_key(|(_, sb)| sb.sequence).expect("a superblock");
        let sealed = (LOG_START.0 + sb.log_pages..(bytes.len() / BLOCK) as u64)
            .filter(|&b| {
                let stamp = Stamp(u64::from_le_bytes(get(page(b), 32)));
                format::unseal(page(b), &sb.uuid, Block(b), stamp).is_ok()
            })
            .collect();
        let ring = (0..sb.log_pages).map(|i| LOG_START.0 + (sb.log_position + i) % sb.log_pages);
        let mut previous = sb.log_hash;
        let live = |&b: &u64| {
            let found = format::unseal_log(page(b), &sb.uuid, sb.hash_key);
            let chained = found.filter(|(h, _)| h.previous == previous && h.epoch == sb.epoch);
            previous = chained.map_or(previous, |(_, hash)| hash);
            chained.is_some()
        };
        let log = ring.take_while(live).collect();
        Image {
            uuid: sb.uuid,
            hash_key: sb.hash_key,
            log_hash: sb.log_hash,
            slot,
            sealed,
            log,
            superblock: sb,
            claimed: 0,
            bytes,
        }
    }

    /// How many pages edits can name.
    pub fn pages(&self) -> usize {
        self.log.len() + self.sealed.len()
    }
    /// The block of a page that edits name by a number: the log's pages first.
    fn block(&self, page: usize) -> u64 {
        let all = self.log.len() + self.sealed.len();
        if all == 0 {
            return self.slot.0;
        }
        let i = page % all;
        *self.log.get(i).unwrap_or_else(|| &self.sealed[i - self.log.len()])
    }
    fn place(&self, page: usize, at: usize, len: usize) -> Range<usize> {
        let start = self.block(page) as usize * BLOCK + at % (BLOCK - len + 1);
        start..start + len
    }
    /// Bytes of a page; zeros where the image was cut.
    pub fn get<const N: usize>(&self, page: usize, at: usize) -> [u8; N] {
        self.bytes.get(self.place(page, at, N)).map_or([0; N], |b| b.try_into().expect("as many"))
    }
    /// Replaces bytes of a page.
    pub fn put(&mut self, page: usize, at: usize, new: &[u8]) {
        let place = self.place(page, at, new.len());
        if let Some(bytes) = self.bytes.get_mut(place) {
            bytes.copy_from_slice(new);
        }
    }
    /// Block and stamp of a page, as a referrer holds them.
    pub fn reference(&self, page: usize) -> [u8; 16] {
        let mut out = [0; 16];
        out[..8].copy_from_slice(&self.block(page).to_le_bytes());
        out[8..].copy_from_slice(&self.get::<8>(page, 32));
        out
    }
    /// Sets a field of the newest superblock.
    pub fn set_superblock(&mut self, field: usize, value: u64) {
        let (_, range) = &format::SUPERBLOCK_FIELDS[field % format::SUPERBLOCK_FIELDS.len()];
        let start = self.slot.0 as usize * BLOCK + range.start;
        let len = range.len().min(8);
        if let Some(bytes) = self.bytes.get_mut(start..start + len) {
            bytes.copy_from_slice(&value.to_le_bytes()[..len]);
        }
    }

    /// Replaces the log by one acknowledged group with this record, whose envelope is put around `body`.
    pub fn set_log(&mut self, body: &[u8]) {
        let mut stream = vec![1, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        stream.extend_from_slice(body);
        seal_record(&mut stream);
        let sb = self.superblock.clone();
        let pages = stream.len().div_ceil(LOG_PAYLOAD);
        let mut previous = sb.log_hash;
        // Nothing of what the ring had may prove or follow anything.
        self.clear_log();
        // The empty group behind it proves it.
        for (i, payload) in stream.chunks(LOG_PAYLOAD).chain([&[][..]]).enumerate() {
            let proof = i == pages;
            let header = LogHeader {
                epoch: sb.epoch,
                group: sb.log_group + 1 + u64::from(proof),
                index: if proof { 0 } else { i as u32 },
                last: i + 1 >= pages,
                len: payload.len() as u32,
                previous,
                data: 0,
            };
            previous = self.push_log(payload, &header);
        }
    }

    pub(crate) fn page(&self, block: u64) -> Option<&Page> {
        let start = usize::try_from(block).ok()?.checked_mul(BLOCK)?;
        self.bytes.get(start..start.checked_add(BLOCK)?)?.try_into().ok()
    }
    pub(crate) fn page_mut(&mut self, block: u64) -> Option<&mut Page> {
        let start = usize::try_from(block).ok()?.checked_mul(BLOCK)?;
        self.bytes.get_mut(start..start.checked_add(BLOCK)?)?.try_into().ok()
    }
    /// The page of a node, count page or index page, if that is what stands there.
    pub(crate) fn stamped(&self, block: u64, stamp: u64) -> Option<&Page> {
        let page = self.page(block).filter(|_| self.sealed.binary_search(&block).is_ok())?;
        (u64::from_le_bytes(get(page, 32)) == stamp).then_some(page)
    }
    /// The newest superblock's page.
    pub(crate) fn superblock_mut(&mut self) -> Option<&mut Page> {
        self.page_mut(self.slot.0)
    }
    pub(crate) fn superblock_page(&self) -> Option<&Page> {
        self.page(self.slot.0)
    }
    pub(crate) fn log_pages(&self) -> &[u64] {
        &self.log
    }
    /// Writes a page of the log. The others of the ring are there no more once the first one is written.
    pub(crate) fn push_log(&mut self, payload: &[u8], header: &LogHeader) -> u64 {
        let (uuid, key) = (self.uuid, self.hash_key);
        let block = LOG_START.0 + (self.superblock.log_position + self.log.len() as u64) % self.superblock.log_pages;
        self.log.push(block);
        let Some(page) = self.page_mut(block) else { return 0 };
        page.fill(0);
        page[HEADER..HEADER + payload.len()].copy_from_slice(payload);
        format::seal_log(page, &uuid, key, header)
    }
    /// Empties the ring.
    pub(crate) fn clear_log(&mut self) {
        self.log.clear();
        for block in LOG_START.0..LOG_START.0 + self.superblock.log_pages {
            if let Some(page) = self.page_mut(block) {
                page.fill(0);
            }
        }
    }

    /// Makes the checksums of a node, count page or index page right, for its place and with the stamp in its header.
    pub(crate) fn seal(&mut self, block: u64) {
        let uuid = self.uuid;
        let Some(page) = self.page_mut(block) else { return };
        let header = PageHeader { kind: page[4], level: page[5], items: u16::from_le_bytes(get(page, 6)) };
        let stamp = Stamp(u64::from_le_bytes(get(page, 32)));
        format::seal(page, &uuid, Block(block), stamp, header);
    }

    /// Makes every checksum right.
    pub fn reseal(&mut self) {
        for block in self.sealed.clone() {
            let Some(page) = self.page_mut(block) else { continue };
            if page[4] == PageKind::RecordLeaf as u8 {
                reseal_leaf(page, u16::from_le_bytes(get(page, 6)));
            }
            self.seal(block);
        }
        self.reseal_log();
        self.reseal_superblock(true);
    }
    fn reseal_log(&mut self) {
        let (uuid, key) = (self.uuid, self.hash_key);
        self.reseal_records_of_log();
        let mut previous = self.log_hash;
        for block in self.log.clone() {
            let Some(page) = self.page_mut(block) else { continue };
            let header = LogHeader {
                epoch: u64::from_le_bytes(get(page, 24)),
                group: u64::from_le_bytes(get(page, 32)),
                index: u32::from_le_bytes(get(page, 40)),
                last: page[4] == 1,
                len: u32::from_le_bytes(get(page, 44)),
                previous,
                data: u64::from_le_bytes(get(page, 56)),
            };
            previous = format::seal_log(page, &uuid, key, &header);
        }
    }
    /// `both`: the other slot says the same, or it would be taken where this one is out of bounds.
    pub(crate) fn reseal_superblock(&mut self, both: bool) {
        let Some(page) = self.page_mut(self.slot.0) else { return };
        let mut crc = crc32fast::Hasher::new();
        crc.update(&page[..12]);
        crc.update(&page[16..format::SUPERBLOCK]);
        page[12..16].copy_from_slice(&crc.finalize().to_le_bytes());
        let page = *page;
        for slot in SLOTS.into_iter().filter(|_| both) {
            if let Some(p) = self.page_mut(slot.0) {
                *p = page;
            }
        }
    }

    /// The records are one stream through the pages of a group.
    fn reseal_records_of_log(&mut self) {
        let mut places = Vec::new();
        let mut stream = Vec::new();
        for block in self.log.clone() {
            let Some(page) = self.page_mut(block) else { return };
            let len = (u32::from_le_bytes(get(page, 44)) as usize).min(LOG_PAYLOAD);
            places.push((block, stream.len()..stream.len() + len));
            stream.extend_from_slice(&page[HEADER..HEADER + len]);
        }
        let mut rest = &mut stream[..];
        while let Some(len) = reseal_record(rest) {
            rest = &mut rest[len..];
        }
        for (block, range) in places {
            let len = range.len();
            if let Some(page) = self.page_mut(block) {
                page[HEADER..HEADER + len].copy_from_slice(&stream[range]);
            }
        }
    }
}

/// Makes length and checksum right of a record that fills `bytes`.
pub(crate) fn seal_record(bytes: &mut [u8]) {
    let len = bytes.len() - ENVELOPE.0;
    bytes[2..ENVELOPE.1].copy_from_slice(&(len as u32).to_le_bytes());
    reseal_record(bytes);
}

/// Makes the checksum of the record at the start right; gives its length, `None` if it reaches past the end.
fn reseal_record(bytes: &mut [u8]) -> Option<usize> {
    let (envelope, before) = ENVELOPE;
    if bytes.len() < envelope {
        return None;
    }
    let end = envelope.checked_add(u32::from_le_bytes(get(bytes, 2)) as usize)?;
    let record = bytes.get_mut(..end)?;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&record[..before]);
    crc.update(&record[envelope..]);
    record[before..envelope].copy_from_slice(&crc.finalize().to_le_bytes());
    Some(end)
}

/// The records of a leaf of the catalog: key (16), length (2), value.
fn reseal_leaf(page: &mut Page, items: u16) {
    let mut at = HEADER;
    for _ in 0..items {
        let Some(head) = page.get(at + 16..at + 18) else { return };
        let len = usize::from(u16::from_le_bytes([head[0], head[1]]));
        let Some(value) = page.get_mut(at + 18..at + 18 + len) else { return };
        reseal_record(value);
        at += 18 + len;
    }
}
