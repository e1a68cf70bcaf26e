//! The ring's arithmetic and the codec of records, each at every position and size of small cases.

use super::{
    group::Group,
    record::{DeleteMode, Op, Placed},
    ring::{Log, page_block},
    scan::scan,
};
use crate::{
    BLOCK,
    codec::{self, Kind},
    format::{COUNTER_END, LOG_PAYLOAD, Superblock},
    io::{Disk, MemoryBackend},
};
use std::sync::Arc;

const UUID: [u8; 16] = [7; 16];
const KEY: u64 = 99;

fn superblock(pages: u64, position: u64) -> Superblock {
    Superblock {
        sequence: 1,
        epoch: 5,
        generation: 1,
        log_position: position,
        log_group: 40,
        log_hash: 1234,
        spans: 1,
        index_stamp: 1,
        ..Superblock::empty(UUID, KEY, pages, 32, 4)
    }
}

/// Appends records until the open group has so many pages. Returns how many records.
fn fill(log: &mut Log, pages: u64) -> usize {
    let mut records = 0;
    let used = log.used_pages();
    while log.used_pages() < used + pages {
        let tags = [("k".to_owned(), "v".repeat(1900))].into();
        let op = Op::SetTags { snapshot: false, id: records, tags };
        assert!(log.write(&[op]).is_ok(), "there is room for {pages} pages");
        log.count([]);
        records += 1;
    }
    records as usize
}

/// Groups of all sizes at all positions of small rings are read back as they were written, over the ring's end too, and never more of them
/// than there is room for.
#[test]
fn groups_survive_the_ring_at_every_position_and_size() {
    let (sizes, positions) = if cfg!(miri) { (8..=8, 7..=7) } else { (8..=9, 0..=19) };
    for pages in sizes {
        for position in positions.clone() {
            for first in 1..pages {
                for second in 0..pages - first {
                    if cfg!(miri) && ![(1, 1), (2, 0)].contains(&(first, second)) {
                        continue;
                    }
                    for marked in [false, true] {
                        ring(pages, position, [first, second], marked);
                    }
                }
            }
        }
    }
    // And where positions are as large as they get.
    if !cfg!(miri) {
        ring(8, COUNTER_END - 20, [3, 4], true);
    }
}

fn ring(pages: u64, position: u64, sizes: [u64; 2], marked: bool) {
    let what = format!("ring of {pages}, from {position}, groups of {sizes:?}, marked {marked}");
    let sb = superblock(pages, position);
    let disk = Disk::new(Arc::new(MemoryBackend::new()), true);
    let mut log = Log::new((pages, pages / 2), KEY, position, sb.log_group + 1);
    let (mut records, mut previous, mut buffer) = (0, sb.log_hash, Vec::new());
    let mut write = |group: Group| {
        previous = group.encode(&UUID, KEY, sb.epoch, previous, &mut buffer);
        for (i, page) in (0..).zip(buffer.chunks(BLOCK)) {
            let at = page_block(group.position + i, pages);
            assert!((32..32 + pages).contains(&at.0), "{what}: {at}");
            disk.write(at.offset(), &[page]).unwrap();
        }
    };
    for size in sizes.into_iter().filter(|&n| n > 0) {
        let before = log.used_pages();
        records += fill(&mut log, size);
        let group = log.close().unwrap();
        assert_eq!(log.used_pages(), before + size, "{what}");
        write(group);
    }
    // One page stays free for the empty group.
    let room = pages - sizes[0] - sizes[1];
    assert_eq!(log.fits(1), room > 1, "{what}");
    assert_eq!(log.fits((room - 1) as usize * LOG_PAYLOAD), room > 1, "{what}");
    assert!(!log.fits((room - 1) as usize * LOG_PAYLOAD + 1), "{what}");
    if marked {
        write(log.mark().unwrap());
    }
    let end = superblock(pages, 0);
    disk.write(page_block(pages - 1, pages).offset() + BLOCK as u64, &[&end.encode()[..]]).unwrap();
    let replay = scan(&disk, &sb, false).unwrap();
    let groups = sizes.into_iter().filter(|&n| n > 0).count() as u64;
    assert_eq!(replay.ops.len(), records, "{what}");
    assert_eq!(replay.position, position + sizes[0] + sizes[1], "{what}");
    assert_eq!((replay.group, log.group), (sb.log_group + groups, sb.log_group + groups + 1), "{what}");
}

/// One of each operation, with numbers at their ends.
fn operations(n: u64) -> Vec<Op> {
    let placed = |runs: &[(u64, u32)]| Placed {
        block: n,
        runs: runs.iter().copied().collect(),
        sums: (0..3).map(|i| i ^ n as u32).collect(),
    };
    let tags = || [("k".to_owned(), "v".repeat(n as usize % 50)), (String::new(), String::new())].into();
    let name = || "n".repeat(n as usize % 65);
    vec![
        Op::Write { volume: n, data: placed(&[(n, 2), (!n, 1)]) },
        Op::Cut { volume: n, from: n, to: !n, edges: vec![placed(&[]), placed(&[(n, 3)])] },
        Op::CreateVolume { id: n, name: name(), size: !n, created: n, tags: tags() },
        Op::Snapshot { members: vec![(n, !n, name()), (0, 1, name())], created: n, tags: tags() },
        Op::Rollback { volume: n, snapshot: n, size: n, edge: Some(placed(&[(n, 3)])) },
        Op::Clone { snapshot: n, id: n, name: name(), created: n, tags: tags() },
        Op::DeleteVolume { volume: n, mode: if n.is_multiple_of(2) { DeleteMode::Keep } else { DeleteMode::Sweep } },
        Op::DeleteSnapshot { snapshot: n },
        Op::RenameVolume { volume: n, name: name() },
        Op::RenameSnapshot { snapshot: n, name: name() },
        Op::Resize { volume: n, size: n, edge: None },
        Op::SetTags { snapshot: n.is_multiple_of(2), id: n, tags: tags() },
        Op::Data { at: n, bytes: (0..BLOCK).map(|i| (i as u64).wrapping_mul(n) as u8).collect() },
    ]
}

/// Records are read back as they were written; a record that is cut short or has a bit changed anywhere is none.
#[test]
fn records_survive_the_trip_and_nothing_else_does() {
    let ends = [0, u64::MAX, 1, 63, 255, u64::from(u32::MAX), 1 << 56];
    for n in ends.into_iter().take(if cfg!(miri) { 2 } else { 7 }) {
        for op in operations(n) {
            let ops = vec![op];
            let bytes = codec::encode(Kind::Log, &ops).unwrap();
            assert_eq!(codec::decode::<Vec<Op>>(Kind::Log, &bytes).unwrap(), ops);
            let mut longer = bytes.clone();
            longer.push(0);
            assert_eq!(codec::decode_prefix::<Vec<Op>>(Kind::Log, &longer).unwrap(), (ops.clone(), bytes.len()));
            assert!(codec::decode::<Vec<Op>>(Kind::Log, &longer).is_err());
            assert!(codec::decode::<Vec<Op>>(Kind::Doomed, &bytes).is_err());
            let step = if cfg!(miri) { 97 } else { 1 };
            for at in (0..bytes.len().min(400)).step_by(step) {
                assert!(codec::decode::<Vec<Op>>(Kind::Log, &bytes[..at]).is_err(), "cut at {at}");
                let mut bad = bytes.clone();
                bad[at] ^= 1 << (at % 8);
                assert!(codec::decode::<Vec<Op>>(Kind::Log, &bad).is_err(), "byte {at}");
            }
        }
    }
}
