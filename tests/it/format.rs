//! `docs/format.md` and the constants say the same.

use snapdisk::format;

const DOC: &str = include_str!("../../docs/format.md");

fn rows(heading: &str) -> Vec<(String, String)> {
    let section = DOC.split("\n## ").find(|s| s.starts_with(heading)).expect("a section");
    let table = section.lines().filter(|l| l.starts_with("| ") && !l.contains("---"));
    table
        .skip(1)
        .map(|l| {
            let cells: Vec<&str> = l.split('|').map(str::trim).collect();
            (cells[1].to_owned(), cells[2].to_owned())
        })
        .collect()
}

#[test]
fn superblock_table_is_the_code() {
    let doc = rows("Superblock");
    let code: Vec<_> =
        format::SUPERBLOCK_FIELDS.iter().map(|(n, r)| ((*n).to_owned(), format!("{}..{}", r.start, r.end))).collect();
    assert_eq!(doc, code);
}

#[test]
fn log_and_page_headers_are_the_code() {
    let page = rows("Pages with a stamp");
    assert_eq!(page.last().unwrap().0, format!("40..{}", format::HEADER));
    let log = rows("Intent log");
    assert_eq!(log[9].0, format!("{}..{}", format::HEADER, format::HEADER + format::LOG_PAYLOAD));
    assert_eq!(log[0].1, format!("`{}`", std::str::from_utf8(&format::LOG_MAGIC.to_le_bytes()).unwrap()));
    for (n, what) in [(format::COUNT_RETURNED, "returned to the host"), (format::COUNT_SYSTEM, "the engine's own")] {
        assert!(DOC.contains(&format!("{n} {what}")), "{n}");
    }
    assert!(DOC.contains(&format!("block {}   intent log", format::LOG_START.0)));
    assert!(DOC.contains(&format!("block {}   superblock slot B", format::SLOTS[1].0)));
    assert!(DOC.contains(&format!("16 to {}", format::SPAN_MAX)));
    assert!(DOC.contains(&format!("4 to {}", format::INDEX_FANOUT_MAX)));
}

#[test]
fn superblocks_survive_the_trip() {
    let sb = format::Superblock {
        compatible: 1,
        read_only_compatible: 2,
        incompatible: 0,
        uuid: [9; 16],
        hash_key: 3,
        sequence: 4,
        epoch: 5,
        generation: 6,
        log_pages: 12,
        log_position: 7,
        log_group: 8,
        log_hash: 9,
        span: 32,
        index_fanout: 4,
        spans: 3,
        index_stamp: 10,
        index_level: 1,
        index_home: 1,
        catalog: format::RootPointer { block: 50, stamp: 11, level: 1 },
        free: 12,
        returned: 13,
        doomed: 14,
        doom_sequence: 15,
        next_volume: 16,
        next_snapshot: 17,
        delta: (0, 0),
        clean: true,
    };
    let page = sb.encode();
    assert_eq!(format::Superblock::decode(&page).unwrap(), sb);
    for byte in 0..format::SUPERBLOCK {
        let mut bad = page.clone();
        bad[byte] ^= 1;
        assert!(format::Superblock::decode(&bad).is_err(), "byte {byte}");
    }
}
