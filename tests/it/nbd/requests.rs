//! Every command, flag and range, on volumes and on what is read-only.

use super::client::*;
use snapdisk::{BLOCK, nbd::ServerOptions};
use std::os::unix::fs::FileExt;

const EPERM: u32 = 1;
const EIO: u32 = 5;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;
const EOVERFLOW: u32 = 75;
const ENOTSUP: u32 = 95;

const SIZE: u64 = (40 << 20) + 512;

fn served() -> Served {
    let served = Served::new();
    served.store.create_volume("v", SIZE).unwrap();
    served
}

/// Bytes without zeros among them.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8 + 1).collect()
}

#[test]
fn requests_that_break_the_rules() {
    let served = served();
    for structured in [false, true] {
        let mut client = served.client("v", structured);
        assert_eq!((client.size, client.transmission >> 7 & 1), (SIZE, u16::from(structured)));
        let most = u64::MAX;
        let cases = [
            // Ranges past the end, by one byte and by all there are.
            (0, READ, SIZE, 1, EINVAL),
            (0, READ, SIZE - 511, 512, EINVAL),
            (0, READ, most, 1, EINVAL),
            (0, READ, most, u32::MAX, EINVAL),
            (0, TRIM, SIZE - 1, 2, EINVAL),
            (0, CACHE, most - 511, 512, EINVAL),
            (0, ZEROES, SIZE, 1, ENOSPC),
            (0, ZEROES, most, u32::MAX, ENOSPC),
            (0, STATUS, SIZE, 1, EINVAL),
            (0, STATUS, 0, 0, EINVAL),
            // More than one request may carry.
            (0, READ, 0, (32 << 20) + 1, if structured { EOVERFLOW } else { EINVAL }),
            // Commands and flags that nobody knows.
            (0, 8, 0, 512, EINVAL),
            (0, 9, 0, 512, EINVAL),
            (0, 0xffff, most, u32::MAX, EINVAL),
            (0x20, READ, 0, 512, EINVAL),
            (0x8000, WRITE, 0, 0, EINVAL),
            (NO_HOLE, TRIM, 0, 512, EINVAL),
            (NO_HOLE, READ, 0, 512, EINVAL),
            (DF, ZEROES, 0, 512, EINVAL),
            (REQ_ONE, READ, 0, 512, EINVAL),
            (FAST, TRIM, 0, 512, EINVAL),
            (FAST, FLUSH, 0, 0, EINVAL),
            (0, FLUSH, 1, 0, EINVAL),
            (0, FLUSH, 0, 1, EINVAL),
            (NO_HOLE | FAST, ZEROES, 0, 512, ENOTSUP),
            // Nothing at all is no error, and what is asked for durability may be.
            (0, WRITE, 0, 0, 0),
            (0, WRITE, SIZE, 0, 0),
            (FUA, TRIM, 0, 0, 0),
            (FUA | FAST, ZEROES, 1, 0, 0),
            (NO_HOLE, ZEROES, SIZE, 0, 0),
            (FUA, FLUSH, 0, 0, 0),
            (FUA, CACHE, 0, 4096, 0),
            (0, CACHE, 511, 3 << 20, 0),
        ];
        for (flags, kind, offset, len, error) in cases {
            assert_eq!(client.ask(flags, kind, offset, len, &[]), error, "{flags} {kind} {offset} {len}");
        }
        assert_eq!(client.read(0, SIZE, 0), Ok(vec![]));
        assert_eq!(client.read(FUA, SIZE - 1, 1), Ok(vec![0]));
        if !structured {
            assert_eq!(client.read(DF, 0, 512), Err(EINVAL));
            assert_eq!(client.ask(0, STATUS, 0, 512, &[]), EINVAL);
        }
        // The payload of a write that fails is taken all the same, be it short or long.
        for len in [1, 511, 70_000, 3 << 20] {
            assert_eq!(client.ask(0, WRITE, SIZE - u64::from(len) + 1, len, &pattern(len as usize)), ENOSPC);
            assert_eq!(client.ask(NO_HOLE, WRITE, 0, len, &pattern(len as usize)), EINVAL);
            assert_eq!(client.ask(0, WRITE, u64::MAX, len, &pattern(len as usize)), ENOSPC);
        }
        assert_eq!(client.read(0, 0, 32 << 20), Ok(vec![0; 32 << 20]), "none of it was written");
    }
}

#[test]
fn what_ends_a_connection_ends_that_one_alone() {
    let served = served();
    let mut other = served.client("v", true);
    let mut too_long = served.client("v", false);
    too_long.send(&head(0, WRITE, 1, 0, (32 << 20) + 1));
    too_long.is_over();
    let mut no_magic = served.client("v", true);
    no_magic.write(0, &[5; 100]);
    no_magic.send(&[0xff; 28]);
    no_magic.is_over();
    // Extended headers were not agreed on.
    let mut extended = served.client("v", true);
    extended.send(&[&0x21e4_1c71u32.to_be_bytes()[..], &[0; 28]].concat());
    extended.is_over();
    for len in [1, 27, 28, 29, 1000] {
        let mut half = served.client("v", false);
        half.send(&[head(0, WRITE, 1, 4096, 4096), vec![9; 4096]].concat()[..len]);
    }
    let mut done = served.client("v", true);
    // What was asked before is still answered.
    done.send(&[head(0, READ, 7, 0, 100), head(0, DISC, 0, 0, 0)].concat());
    assert_eq!(done.data(0, 100), Ok(vec![5; 100]));
    done.is_over();
    assert_eq!(other.read(0, 4096, 4096), Ok(vec![0; 4096]), "half a write is none");
}

#[test]
fn what_is_read_only_stays_as_it_is() {
    let mut served = served();
    let volume = served.store.volume("v").unwrap();
    volume.write_at(&pattern(10_000), 0).unwrap();
    volume.snapshot("s").unwrap();
    let look = |served: &Served, name: &str| {
        let mut client = served.client(name, true);
        assert_eq!(client.transmission & (1 << 1 | 1 << 5 | 1 << 6 | 1 << 11), 1 << 1);
        for (flags, kind, len) in [(0, TRIM, 512), (0, ZEROES, 512), (FUA | NO_HOLE, ZEROES, 0), (FUA, TRIM, 0)] {
            assert_eq!(client.ask(flags, kind, 0, len, &[]), EPERM);
        }
        for len in [0, 1, 4096, 2 << 20] {
            assert_eq!(client.ask(0, WRITE, 0, len, &vec![7; len as usize]), EPERM);
        }
        assert_eq!(client.ask(0, FLUSH, 0, 0, &[]), 0);
        assert_eq!(client.ask(0, CACHE, 0, 4096, &[]), 0);
        assert_eq!(client.read(0, 0, 10_000), Ok(pattern(10_000)));
        assert_eq!(client.status(0, 0, 1 << 20), [(12_288, 0), ((1 << 20) - 12_288, 3)]);
    };
    look(&served, "v@s");
    served.stop();
    served.start(ServerOptions { read_only: true, ..ServerOptions::default() });
    look(&served, "v");
    served.stop();
    // And on an image that is open for reading.
    let path = served.dir.path().join("a.img");
    served.store.clone().close().unwrap();
    served.store = snapdisk::Options::new().open_read_only(path).unwrap();
    served.start(ServerOptions::default());
    look(&served, "v");
    look(&served, "v@s");
}

#[test]
fn holes_are_told_and_not_sent() {
    let served = served();
    let volume = served.store.volume("v").unwrap();
    // Data, a hole, zeros that were written, three blocks of zeros, data up to an odd end.
    volume.write_at(&pattern(64 << 10), 0).unwrap();
    volume.write_at(&[0; 64 << 10], 512 << 10).unwrap();
    volume.write_at(&pattern(4096), 640 << 10).unwrap();
    volume.write_at(&pattern(4096), 656 << 10).unwrap();
    volume.write_at(&pattern(100), SIZE - 100).unwrap();
    let mut expected = vec![0; SIZE as usize];
    volume.read_at(&mut expected, 0).unwrap();

    let mut client = served.client("v", true);
    let shape = |client: &mut Client, flags, offset, len| {
        client.send(&head(flags, READ, 7, offset, len));
        let reply = client.reply();
        let chunk = |m: &Message| match m {
            Message::Chunk(flags, kind, _, payload) => (*flags, *kind, payload.len()),
            m => panic!("{m:?}"),
        };
        reply.iter().map(chunk).collect::<Vec<_>>()
    };
    let kib = |n: usize| n << 10;
    assert_eq!(shape(&mut client, 0, 0, 256 << 10), [(0, 1, 8 + kib(64)), (1, 2, 12)]);
    assert_eq!(shape(&mut client, 0, 512 << 10, 256 << 10), [(0, 2, 12), (0, 1, 8 + kib(20)), (1, 2, 12)]);
    assert_eq!(shape(&mut client, DF, 0, 1 << 20), [(1, 1, 8 + kib(1024))]);
    assert_eq!(shape(&mut client, 0, 4 << 20, 512), [(1, 2, 12)]);
    assert_eq!(shape(&mut client, 0, 0, 1), [(1, 1, 9)]);
    // Longer ones come in pieces, but for those that must not.
    assert_eq!(shape(&mut client, 0, 1 << 20, 600 << 10), [(0, 2, 12), (0, 2, 12), (1, 2, 12)]);
    assert_eq!(shape(&mut client, DF, 0, 3 << 20), [(0, 1, 8 + (3 << 20)), (1, 0, 0)]);

    for (flags, offset, len) in [
        (0, 0, 32 << 20),
        (DF, 0, 32 << 20),
        (0, 1, 700 << 10),
        (DF, 511, (5 << 20) + 1),
        (0, 60 << 10, 4 << 20),
        (0, SIZE - 5000, 5000),
        (0, (1 << 20) - 1, 2),
    ] {
        let (from, to) = (offset as usize, offset as usize + len as usize);
        assert!(client.read(flags, offset, len).unwrap() == expected[from..to], "{offset} {len}");
        let mut plain = served.client("v", false);
        assert!(plain.read(0, offset, len).unwrap() == expected[from..to], "{offset} {len}");
    }
}

#[test]
fn zeros_with_and_without_space() {
    let served = served();
    let mut client = served.client("v", true);
    client.write(0, &pattern(1 << 20));
    let mapped = |client: &mut Client| client.status(0, 0, 1 << 20);
    let all = [(1 << 20, 0)];
    assert_eq!(mapped(&mut client), all);
    // A hole in whole blocks; the edges are zeroed.
    assert_eq!(client.ask(FAST | FUA, ZEROES, 1000, 100_000, &[]), 0);
    assert_eq!(mapped(&mut client), [(4096, 0), (94_208, 3), ((1 << 20) - 98_304, 0)]);
    let now = client.read(0, 0, 1 << 20).unwrap();
    let data = pattern(1 << 20);
    assert!(
        now[..1000] == data[..1000] && now[1000..101_000].iter().all(|&b| b == 0) && now[101_000..] == data[101_000..]
    );
    // Filled again, with zeros.
    assert_eq!(client.ask(NO_HOLE | FUA, ZEROES, 0, 1 << 20, &[]), 0);
    assert_eq!(mapped(&mut client), all);
    assert_eq!(client.ask(NO_HOLE, ZEROES, (2 << 20) - 5, 3 << 20, &[]), 0);
    assert_eq!(client.read(0, 0, 1 << 20), Ok(vec![0; 1 << 20]));
    assert_eq!(client.ask(FUA, TRIM, 0, 6 << 20, &[]), 0);
    assert_eq!(client.status(0, 0, SIZE as u32), [(SIZE as u32, 3)]);
    // One part, and no longer than what was asked.
    client.write(1 << 20, &pattern(8192));
    assert_eq!(client.status(REQ_ONE, 0, 5 << 20), [(1 << 20, 3)]);
    assert_eq!(client.status(REQ_ONE, (1 << 20) + 1, 5), [(5, 0)]);
    assert_eq!(client.status(REQ_ONE, 3 << 20, 1000), [(1000, 3)]);
    // Of very many parts those of one page come.
    for i in 0..400 {
        client.write(i * 2 * BLOCK as u64, &[1; 4096]);
    }
    let page = client.status(0, 0, 8 << 20);
    assert!(page.len() <= 256 && page.iter().zip([0, 3].iter().cycle()).all(|(part, state)| *part == (4096, *state)));
}

#[test]
fn damage_is_an_error_and_never_other_bytes() {
    let served = served();
    let volume = served.store.volume("v").unwrap();
    let data = pattern(4 << 20);
    volume.write_at(&data, 0).unwrap();
    volume.write_at(&[0xd7; 4096], 3 << 20).unwrap();
    volume.flush().unwrap();
    served.store.checkpoint().unwrap();
    let path = served.dir.path().join("a.img");
    let image = std::fs::read(&path).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    let hit = (0..image.len()).step_by(4096).filter(|&at| image[at..at + 4096] == [0xd7; 4096]);
    hit.for_each(|at| file.write_all_at(&[0xd6], at as u64 + 99).unwrap());

    let mut client = served.client("v", true);
    assert_eq!(client.read(0, 3 << 20, 4096), Err(EIO));
    assert_eq!(client.read(0, 0, 4 << 20), Err(EIO));
    assert_eq!(client.read(DF, 0, 4 << 20), Err(EIO));
    assert!(client.read(0, 0, 3 << 20).unwrap() == data[..3 << 20]);
    let mut plain = served.client("v", false);
    assert_eq!(plain.read(0, 3 << 20, 1 << 20), Err(EIO));
    assert!(plain.read(0, 0, 3 << 20).unwrap() == data[..3 << 20]);
    // Success was said already.
    plain.send(&head(0, READ, 7, 0, 4 << 20));
    let mut rest = Vec::new();
    std::io::Read::read_to_end(&mut plain.stream, &mut rest).unwrap();
    assert_eq!(rest.len(), 16 + (3 << 20));
    assert_eq!(client.ask(FUA, WRITE, 3 << 20, 4096, &[1; 4096]), 0);
    assert_eq!(client.read(0, 3 << 20, 4096), Ok(vec![1; 4096]));
}

#[test]
fn a_full_image_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let options = snapdisk::Options::new().log_bytes(1 << 20).max_image_bytes(16 << 20);
    let store = options.create(dir.path().join("a.img")).unwrap();
    store.create_volume("v", 64 << 20).unwrap();
    let mut served = Served { dir, store, server: None };
    served.start(ServerOptions::default());
    let mut client = served.client("v", true);
    let full = (0..60).find(|i| match client.ask(0, WRITE, i << 20, 1 << 20, &pattern(1 << 20)) {
        0 => false,
        ENOSPC => true,
        other => panic!("{other}"),
    });
    assert!(full.is_some());
    assert_eq!(client.ask(0, TRIM, 0, 8 << 20, &[]), 0);
    assert_eq!(client.ask(0, FLUSH, 0, 0, &[]), 0);
    client.write(0, &pattern(4096));
}
