//! Queues and messages that no driver and no monitor writes.

use crate::vhost::guest::{
    BASE, BUFFERS, Descriptor, ENTRIES, Guest, INDIRECT, IOERR, MEMORY, Machine, NEXT, OK, UNSUPP, WRITE, available,
    header, wait_free,
};
use snapdisk::{Options, Store, vhost::Server};
use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
};

/// Sectors of the volume.
const SECTORS: u64 = 8192;

struct Fixture {
    store: Store,
    server: Server,
    path: PathBuf,
    machine: Machine,
    _dir: tempfile::TempDir,
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let store = Options::new().create(dir.path().join("disks.img")).unwrap();
    let volume = store.create_volume("a", SECTORS * 512).unwrap();
    volume.write_at(&[7; 4096], 0).unwrap();
    let path = dir.path().join("a.sock");
    let server = Server::one(&store, &volume, &path).unwrap();
    Fixture { store, server, path, machine: Machine::new(), _dir: dir }
}

/// Where a chain has its header, its data and its status.
const HEADER: u64 = BUFFERS;
const STATUS: u64 = BUFFERS + 16;
const DATA: u64 = BUFFERS + 4096;
const OUTSIDE: u64 = BASE + MEMORY;
/// The status before a request: it was not written.
const NONE: u8 = 0xee;

/// What is wrong, the header's type and sector, the descriptors, and the status that is expected.
type Row = (&'static str, u32, u64, &'static [Descriptor], u8);

const CHAINS: &[Row] = &[
    ("no status", 0, 0, &[(HEADER, 16, 0, 0)], NONE),
    ("nothing at all", 0, 0, &[(HEADER, 0, 0, 0)], NONE),
    ("no header", 0, 0, &[(STATUS, 1, WRITE, 0)], IOERR),
    ("half a header", 0, 0, &[(HEADER, 15, NEXT, 1), (STATUS, 1, WRITE, 0)], IOERR),
    ("an unknown type", 99, 0, &[(HEADER, 16, NEXT, 1), (STATUS, 1, WRITE, 0)], UNSUPP),
    ("a chain in a circle", 1, 0, &[(HEADER, 16, NEXT, 1), (STATUS, 1, NEXT | WRITE, 0)], IOERR),
    ("a descriptor that follows itself", 1, 0, &[(HEADER, 16, NEXT, 0)], NONE),
    ("a next one outside of the table", 0, 0, &[(HEADER, 16, NEXT, 999)], NONE),
    ("a header outside of memory", 0, 0, &[(OUTSIDE, 16, NEXT, 1), (STATUS, 1, WRITE, 0)], IOERR),
    ("a header over the end of memory", 0, 0, &[(OUTSIDE - 8, 16, NEXT, 1), (STATUS, 1, WRITE, 0)], IOERR),
    ("a status outside of memory", 4, 0, &[(HEADER, 16, NEXT, 1), (OUTSIDE, 1, WRITE, 0)], NONE),
    (
        "an address that overflows",
        1,
        0,
        &[(HEADER, 16, NEXT, 1), (u64::MAX - 8, 512, NEXT, 2), (STATUS, 1, WRITE, 0)],
        IOERR,
    ),
    (
        "room that overflows",
        0,
        0,
        &[(HEADER, 16, NEXT, 1), (u64::MAX - 8, 512, NEXT | WRITE, 2), (STATUS, 1, WRITE, 0)],
        NONE,
    ),
    ("data outside of memory", 1, 0, &[(HEADER, 16, NEXT, 1), (OUTSIDE, 512, NEXT, 2), (STATUS, 1, WRITE, 0)], IOERR),
    (
        "lengths that overflow",
        1,
        0,
        &[(HEADER, u32::MAX, NEXT, 1), (HEADER, u32::MAX, NEXT, 2), (STATUS, 1, WRITE, 0)],
        NONE,
    ),
    ("part of a sector", 1, 0, &[(HEADER, 16, NEXT, 1), (DATA, 511, NEXT, 2), (STATUS, 1, WRITE, 0)], IOERR),
    (
        "room for part of a sector",
        0,
        0,
        &[(HEADER, 16, NEXT, 1), (DATA, 511, NEXT | WRITE, 2), (STATUS, 1, WRITE, 0)],
        IOERR,
    ),
    ("past the end", 1, SECTORS, &[(HEADER, 16, NEXT, 1), (DATA, 512, NEXT, 2), (STATUS, 1, WRITE, 0)], IOERR),
    (
        "over the end",
        0,
        SECTORS - 1,
        &[(HEADER, 16, NEXT, 1), (DATA, 1024, NEXT | WRITE, 2), (STATUS, 1, WRITE, 0)],
        IOERR,
    ),
    (
        "the last sector there can be",
        1,
        u64::MAX,
        &[(HEADER, 16, NEXT, 1), (DATA, 512, NEXT, 2), (STATUS, 1, WRITE, 0)],
        IOERR,
    ),
    (
        "a sector whose byte overflows",
        0,
        1 << 55,
        &[(HEADER, 16, NEXT, 1), (DATA, 512, NEXT | WRITE, 2), (STATUS, 1, WRITE, 0)],
        IOERR,
    ),
    ("no ranges", 11, 0, &[(HEADER, 16, NEXT, 1), (STATUS, 1, WRITE, 0)], IOERR),
    ("half a range", 13, 0, &[(HEADER, 16, NEXT, 1), (DATA, 8, NEXT, 2), (STATUS, 1, WRITE, 0)], IOERR),
    ("too many ranges", 11, 0, &[(HEADER, 16, NEXT, 1), (DATA, 33 * 16, NEXT, 2), (STATUS, 1, WRITE, 0)], IOERR),
    ("an indirect table of part of an entry", 0, 0, &[(DATA, 17, INDIRECT, 0)], NONE),
    ("an indirect table of nothing", 0, 0, &[(DATA, 0, INDIRECT, 0)], NONE),
    ("an indirect table outside of memory", 0, 0, &[(OUTSIDE, 64, INDIRECT, 0)], NONE),
    ("the largest indirect table", 0, 0, &[(DATA, u32::MAX - 15, INDIRECT, 0)], NONE),
];

#[test]
fn chains_that_are_no_requests_are_answered() {
    let f = fixture();
    let mut guest = Guest::connect(&f.machine, &f.path, 1);
    for (what, kind, sector, list, expected) in CHAINS {
        f.machine.put(HEADER, &header(*kind, *sector));
        f.machine.put(STATUS, &[NONE]);
        guest.describe(0, list);
        guest.offer(0, 0);
        guest.kick(0);
        guest.wait(0);
        assert_eq!(f.machine.get(STATUS, 1)[0], *expected, "{what}");
        assert_eq!(guest.read(0, 0, 512), (OK, vec![7; 512]), "after {what}");
    }
    // An indirect table within another, and one whose 65535 entries are a circle.
    guest.describe_at(DATA, &[(DATA, 16, INDIRECT, 0)]);
    guest.describe_at(DATA + 4096, &[(HEADER, 16, NEXT, 1), (DATA, 4096, NEXT | WRITE, 1)]);
    for (table, len) in [(DATA, 16), (DATA + 4096, 65535 * 16)] {
        guest.describe(0, &[(table, len, INDIRECT, 0)]);
        guest.offer(0, 0);
        guest.kick(0);
        guest.wait(0);
    }
    assert_eq!(guest.read(0, 0, 512), (OK, vec![7; 512]));
    drop(guest);
    wait_free(&f.server);
    assert!(f.store.check().unwrap().findings.is_empty());
}

#[test]
fn ranges_of_a_discard() {
    let f = fixture();
    let mut guest = Guest::connect(&f.machine, &f.path, 1);
    for (kind, range, expected) in [
        (11, (0, 8, 1), UNSUPP),
        (13, (0, 8, 2), UNSUPP),
        (11, (SECTORS, 1, 0), IOERR),
        (13, (SECTORS - 1, 2, 1), IOERR),
        (11, (u64::MAX, u32::MAX, 0), IOERR),
        (13, (1 << 55, 1, 0), IOERR),
        (11, (1, 1, 0), OK),
        (13, (3, 1, 1), OK),
        (11, (0, 0, 0), OK),
        (11, (SECTORS, 0, 0), OK),
    ] {
        assert_eq!(guest.cut(0, kind, &[range]), expected, "{kind} {range:?}");
    }
    let sevens = |yes| vec![if yes { 7 } else { 0 }; 512];
    let expected = [sevens(true), sevens(false), sevens(true), sevens(false)].concat();
    assert_eq!(guest.read(0, 0, 2048), (OK, expected));
}

/// A ring that can't be read stops, and the others go on.
#[test]
fn a_broken_ring_is_alone() {
    let f = fixture();
    let mut guest = Guest::connect(&f.machine, &f.path, 3);
    // A head outside of the table.
    guest.offer(0, ENTRIES + 3);
    guest.kick(0);
    guest.wait_broken(0);
    // More that is available than a ring has.
    f.machine.put(available(1) + 2, &1000_u16.to_le_bytes());
    guest.kick(1);
    guest.wait_broken(1);
    assert_eq!(guest.read(2, 0, 512), (OK, vec![7; 512]));
    for queue in 0..3 {
        guest.stop(queue);
    }
}

/// Memory that the guest changes while it is written: what is stored is some of what was there, and every block of it can be read.
#[test]
fn data_that_changes_while_it_is_written() {
    let f = fixture();
    let mut guest = Guest::connect(&f.machine, &f.path, 1);
    let done = AtomicBool::new(false);
    let codes: Vec<_> = thread::scope(|scope| {
        scope.spawn(|| {
            let mut byte = 0_u8;
            while !done.load(Relaxed) {
                byte = byte.wrapping_add(1);
                f.machine.put(DATA, &[byte; 256 << 10]);
            }
        });
        let codes = (0..50).map(|_| guest.write(0, 0, &vec![1; 256 << 10])).collect();
        done.store(true, Relaxed);
        codes
    });
    assert_eq!(codes, [OK; 50]);
    assert_eq!(guest.read(0, 0, 256 << 10).0, OK);
    assert_eq!(guest.flush(0), OK);
    drop(guest);
    wait_free(&f.server);
    let report = f.store.check().unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
}

/// A message: request, flags, body.
fn message(code: u32, flags: u32, body: &[u8]) -> Vec<u8> {
    [&code.to_le_bytes()[..], &flags.to_le_bytes(), &(body.len() as u32).to_le_bytes(), body].concat()
}

/// Sends bytes on a connection of its own, and waits until the server hangs up.
#[track_caller]
fn is_hung_up_on(path: &Path, bytes: &[u8]) {
    let mut stream = UnixStream::connect(path).unwrap();
    // The server may hang up before it has all.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
}

#[test]
fn messages_that_nobody_sends() {
    let f = fixture();
    let words = |list: &[u32]| list.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>();
    let table = |bytes: u64| {
        let region = [BASE, bytes, 0, 0].iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>();
        [words(&[1, 0]), region].concat()
    };
    for bytes in [
        vec![],
        vec![1],
        message(1, 1, &[])[..11].to_vec(),
        message(0, 1, &[]),
        message(6, 1, &[0; 16]),
        message(u32::MAX, 1, &[]),
        message(1, 0, &[]),
        message(1, 2, &[]),
        message(1, 5, &[]),
        [message(2, 1, &[])[..8].to_vec(), words(&[u32::MAX])].concat(),
        [message(2, 1, &[])[..8].to_vec(), words(&[4096]), vec![0; 100]].concat(),
        message(2, 1, &[0; 7]),
        message(2, 1, &[0xff; 8]),
        message(16, 1, &[0xff; 8]),
        message(5, 1, &[]),
        message(5, 1, &words(&[u32::MAX, 0])),
        message(5, 1, &table(1 << 40)),
        message(8, 1, &words(&[0, 0])),
        message(8, 1, &words(&[0, 3])),
        message(8, 1, &words(&[0, 65536])),
        message(8, 1, &words(&[16, 8])),
        message(9, 1, &[0; 40]),
        message(9, 1, &[0xff; 40]),
        message(10, 1, &words(&[0, 70000])),
        message(11, 1, &words(&[u32::MAX, 0])),
        message(12, 1, &256_u64.to_le_bytes()),
        message(12, 1, &0_u64.to_le_bytes()),
        message(13, 1, &u64::MAX.to_le_bytes()),
        message(18, 1, &words(&[0, 2])),
        message(21, 1, &[]),
        message(24, 1, &words(&[0, 4, 0])),
        message(24, 1, &[words(&[u32::MAX, 4, 0]), vec![0; 4]].concat()),
        message(24, 1, &[words(&[0, 4084, 0]), vec![0; 4084]].concat()),
        message(25, 1, &[words(&[0, 1, 0]), vec![0]].concat()),
    ] {
        is_hung_up_on(&f.path, &bytes);
        wait_free(&f.server);
        let mut guest = Guest::connect(&f.machine, &f.path, 1);
        assert_eq!(guest.read(0, 0, 512), (OK, vec![7; 512]), "after {bytes:?}");
        drop(guest);
        wait_free(&f.server);
    }
}
