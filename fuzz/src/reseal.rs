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
        Image { uuid: sb.uuid, hash_key: sb.hash_key, log_hash: sb.log_hash, slot, sealed, log, bytes }
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
        let mut stream = vec![1, 1];
        stream.extend_from_slice(&(body.len() as u32).to_le_bytes());
        stream.extend_from_slice(&[0; 4]);
        stream.extend_from_slice(body);
        reseal_record(&mut stream);
        let start = self.slot.0 as usize * BLOCK;
        let page = <&Page>::try_from(&self.bytes[start..start + BLOCK]).expect("a page");
        let sb = Superblock::decode(page).expect("a superblock");
        let pages = stream.len().div_ceil(LOG_PAYLOAD);
        let mut previous = sb.log_hash;
        self.log.clear();
        // Nothing of what the ring had may prove or follow anything.
        (LOG_START.0..LOG_START.0 + sb.log_pages).for_each(|block| {
            if let Some(page) = self.page_mut(block) {
                page.fill(0);
            }
        });
        // The empty group behind it proves it.
        for (i, payload) in stream.chunks(LOG_PAYLOAD).chain([&[][..]]).enumerate() {
            let block = LOG_START.0 + (sb.log_position + i as u64) % sb.log_pages;
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
            let page = self.page_mut(block).expect("a page of the log");
            page.fill(0);
            page[HEADER..HEADER + payload.len()].copy_from_slice(payload);
            previous = format::seal_log(page, &sb.uuid, sb.hash_key, &header);
            self.log.push(block);
        }
    }

    fn page_mut(&mut self, block: u64) -> Option<&mut Page> {
        let start = block as usize * BLOCK;
        self.bytes.get_mut(start..start + BLOCK)?.try_into().ok()
    }

    /// Makes every checksum right.
    pub fn reseal(&mut self) {
        let (uuid, key) = (self.uuid, self.hash_key);
        for block in self.sealed.clone() {
            let Some(page) = self.page_mut(block) else { continue };
            let header = PageHeader { kind: page[4], level: page[5], items: u16::from_le_bytes(get(page, 6)) };
            if header.kind == PageKind::RecordLeaf as u8 {
                reseal_leaf(page, header.items);
            }
            let stamp = Stamp(u64::from_le_bytes(get(page, 32)));
            format::seal(page, &uuid, Block(block), stamp, header);
        }
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
        // Both slots say the same, or the other one would be taken where this one is out of bounds.
        let Some(page) = self.page_mut(self.slot.0) else { return };
        let mut crc = crc32fast::Hasher::new();
        crc.update(&page[..12]);
        crc.update(&page[16..format::SUPERBLOCK]);
        page[12..16].copy_from_slice(&crc.finalize().to_le_bytes());
        let page = *page;
        for slot in SLOTS {
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
