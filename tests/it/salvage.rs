//! Damage in the acknowledged log: opening refuses, salvage gives what was before it and says so.

use snapdisk::{BLOCK, ErrorKind, Knobs, Options, io::MemoryBackend, io::SystemHost};
use std::sync::Arc;

#[test]
fn salvage_gives_the_state_before_the_damage() {
    damage_the_second_group(0, 1);
    damage_the_second_group(1, 2);
}

/// With groups of `pages_each` pages.
fn damage_the_second_group(inline: u32, pages_each: usize) {
    let knobs = Knobs { log_pages: 16, span: 64, growth: 1, reserve: 16, inline, ..Knobs::default() };
    let options = Options::new().manual_maintenance(true).knobs(knobs);
    let backend = Arc::new(MemoryBackend::new());
    let store = options.create_on(backend.clone(), Arc::new(SystemHost)).unwrap();
    let volume = store.create_volume("v", 1 << 20).unwrap();
    store.checkpoint().unwrap();
    assert_eq!(store.counters().unwrap().log_used_blocks, 0);
    let before = backend.to_bytes();
    for value in 1..=3_u8 {
        volume.write_at(&[value; BLOCK], 0).unwrap();
        volume.flush().unwrap();
    }
    drop((store, volume));

    // The second of the three groups that were written since.
    let mut bytes = backend.to_bytes();
    let log = 32 * BLOCK..(32 + 16) * BLOCK;
    let pages: Vec<usize> = log.step_by(BLOCK).filter(|&at| bytes[at..at + BLOCK] != before[at..at + BLOCK]).collect();
    assert_eq!(pages.len(), 3 * pages_each);
    bytes[pages[pages_each] + 100] ^= 1;

    let damaged = || Arc::new(MemoryBackend::from_bytes(bytes.clone()));
    for open in [Options::open_on, Options::open_read_only_on] {
        let refused = open(&options, damaged(), Arc::new(SystemHost)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Corrupt, "{refused}");
    }
    let (store, lost) = options.open_salvage_on(damaged(), Arc::new(SystemHost)).unwrap();
    let lost = lost.expect("something is missing, and salvage says so");
    assert_eq!(lost.kind(), ErrorKind::Corrupt);
    let mut block = [0; BLOCK];
    store.volume("v").unwrap().read_at(&mut block, 0).unwrap();
    assert!(block == [1; BLOCK], "the state after the first flush");
    assert_eq!(store.create_volume("w", 0).unwrap_err().kind(), ErrorKind::ReadOnly);

    let whole = Arc::new(MemoryBackend::from_bytes(backend.to_bytes()));
    let (store, lost) = options.open_salvage_on(whole, Arc::new(SystemHost)).unwrap();
    assert!(lost.is_none());
    store.volume("v").unwrap().read_at(&mut block, 0).unwrap();
    assert!(block == [3; BLOCK]);
}
