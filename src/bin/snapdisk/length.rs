//! Lengths of raw disks that are no whole number of sectors.
//!
//! A volume has whole sectors. The length of the disk that was imported is kept in a tag, which snapshots, clones and rollbacks carry along,
//! so that an export gives the same bytes back.

use crate::{failure::Outcome, image::Source};
use snapdisk::SECTOR;
use std::collections::BTreeMap;

type Tags = BTreeMap<String, String>;

const TAG: &str = "snapdisk.length";

/// Up to whole sectors.
pub(crate) fn sectors(len: u64) -> u64 {
    len.div_ceil(SECTOR) * SECTOR
}

/// The tags of a volume whose disk has `len` bytes now.
pub(crate) fn tagged(mut tags: Tags, len: u64) -> Tags {
    tags.remove(TAG);
    if sectors(len) != len {
        tags.insert(TAG.to_owned(), len.to_string());
    }
    tags
}

/// What a copy of something with these tags takes along.
pub(crate) fn carried(tags: &Tags) -> Tags {
    tags.get_key_value(TAG).map(|(k, v)| (k.clone(), v.clone())).into_iter().collect()
}

/// The tags of a volume whose content becomes that of something with the tags `from`.
pub(crate) fn replaced(mut tags: Tags, from: &Tags) -> Tags {
    tags.remove(TAG);
    tags.extend(carried(from));
    tags
}

/// The bytes to export: those of the disk that was imported, unless something was written behind them or the size has changed since.
pub(crate) fn of(source: &Source) -> Outcome<u64> {
    let size = source.size()?;
    let noted = source.tags()?.get(TAG).and_then(|n| n.parse().ok()).filter(|&n| n < size && sectors(n) == size);
    let Some(noted) = noted else { return Ok(size) };
    let mut tail = vec![0; (size - noted) as usize];
    source.read_at(&mut tail, noted)?;
    Ok(if tail.iter().all(|&b| b == 0) { noted } else { size })
}
