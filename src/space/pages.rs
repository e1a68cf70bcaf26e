//! Codecs of count pages and index pages.

use super::Geometry;
use crate::{
    BLOCK, Error, Result,
    format::{self, HEADER, Page, PageHeader, PageKind, get16, get32, get64, put},
    units::{Block, Stamp},
};

/// What the page above says of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Entry {
    /// The page's stamp; 0 for a page that was never written.
    pub(crate) stamp: u64,
    /// The most free blocks in any one region below.
    pub(crate) free: u16,
    /// The most blocks returned to the host in any one region below.
    pub(crate) returned: u16,
    /// Which home is current.
    pub(crate) home: u8,
}

/// Checks a count page and returns its counts.
pub(crate) fn decode_counts(page: &Page, uuid: &[u8; 16], at: Block, stamp: u64, geo: &Geometry) -> Result<Vec<u32>> {
    let h = format::unseal(page, uuid, at, Stamp(stamp))?;
    if h.kind != PageKind::Counts as u8 || u32::from(h.items) != geo.span {
        return Err(Error::corrupt(format!("{at}: not a count page")));
    }
    Ok((0..geo.span as usize).map(|i| get32(page, HEADER + 4 * i)).collect())
}

pub(crate) fn encode_counts(counts: &[u32], uuid: &[u8; 16], at: Block, stamp: u64) -> Box<Page> {
    let mut page = Box::new([0; BLOCK]);
    for (i, n) in counts.iter().enumerate() {
        put(&mut page[..], HEADER + 4 * i, &n.to_le_bytes());
    }
    let header = PageHeader { kind: PageKind::Counts as u8, level: 0, items: counts.len() as u16 };
    format::seal(&mut page, uuid, at, Stamp(stamp), header);
    page
}

/// Checks an index page of `level` and returns its entries.
pub(crate) fn decode_index(
    page: &Page,
    uuid: &[u8; 16],
    at: Block,
    stamp: u64,
    level: u8,
    geo: &Geometry,
) -> Result<Vec<Entry>> {
    let h = format::unseal(page, uuid, at, Stamp(stamp))?;
    let wrong = h.kind != PageKind::Index as u8 || h.level != level || u32::from(h.items) != geo.fanout;
    let entries: Vec<_> = (0..geo.fanout as usize)
        .map(|i| {
            let o = HEADER + 16 * i;
            Entry { stamp: get64(page, o), free: get16(page, o + 8), returned: get16(page, o + 10), home: page[o + 12] }
        })
        .collect();
    if wrong || entries.iter().any(|e| e.home > 1) {
        return Err(Error::corrupt(format!("{at}: not an index page of level {level}")));
    }
    Ok(entries)
}

pub(crate) fn encode_index(entries: &[Entry], uuid: &[u8; 16], at: Block, stamp: u64, level: u8) -> Box<Page> {
    let mut page = Box::new([0; BLOCK]);
    for (i, e) in entries.iter().enumerate() {
        let o = HEADER + 16 * i;
        put(&mut page[..], o, &e.stamp.to_le_bytes());
        put(&mut page[..], o + 8, &e.free.to_le_bytes());
        put(&mut page[..], o + 10, &e.returned.to_le_bytes());
        page[o + 12] = e.home;
    }
    let header = PageHeader { kind: PageKind::Index as u8, level, items: entries.len() as u16 };
    format::seal(&mut page, uuid, at, Stamp(stamp), header);
    page
}
