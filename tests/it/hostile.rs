//! Images made to do harm: what stands in them is input, and is checked before anything is done or taken for it.

use crate::corpus::fuzz::{self, Image, Steps};
use snapdisk::{
    BLOCK, ErrorKind, Options, Store,
    format::{COUNTER_END, COUNTER_ROOM, GENERATION_END, ID_END, SUPERBLOCK_FIELDS},
    io::{Backend, MemoryBackend, sim::SimHost},
};
use std::{process::Command, sync::Arc};

const B: u64 = BLOCK as u64;

/// A record of one operation, written by hand.
struct Record(Vec<u8>);

impl Record {
    /// A list of one operation of this kind; `docs/format.md` says how it is encoded.
    fn new(kind: u32) -> Record {
        let mut bytes = 1u64.to_le_bytes().to_vec();
        bytes.extend_from_slice(&kind.to_le_bytes());
        Record(bytes)
    }
    fn number(mut self, n: u64) -> Record {
        self.0.extend_from_slice(&n.to_le_bytes());
        self
    }
    fn text(self, text: &str) -> Record {
        let mut record = self.number(text.len() as u64);
        record.0.extend_from_slice(text.as_bytes());
        record
    }
    fn create(id: u64, name: &str, size: u64) -> Record {
        Record::new(2).number(id).text(name).number(size).number(0).number(0)
    }
    /// A block of volume 1, placed at `physical`.
    fn write(physical: u64) -> Record {
        let mut record = Record::new(0).number(1).number(0).number(1).number(physical);
        record.0.extend_from_slice(&1u32.to_le_bytes());
        let mut record = record.number(1);
        record.0.extend_from_slice(&[0; 4]);
        record
    }
}

fn with_record(record: Record) -> Image {
    let mut image = fuzz::image(3);
    image.set_log(&record.0);
    image
}

fn field(name: &str) -> usize {
    SUPERBLOCK_FIELDS.iter().position(|f| f.0 == name).unwrap()
}

fn with_field(seed: u8, name: &str, value: u64) -> Image {
    let mut image = fuzz::image(seed);
    image.set_superblock(field(name), value);
    image.reseal();
    image
}

fn options() -> Options {
    Options::new().manual_maintenance(true).memory(16 << 20)
}

fn refused<T>(outcome: snapdisk::Result<T>) -> snapdisk::Error {
    match outcome {
        Err(e) => e,
        Ok(_) => panic!("opened"),
    }
}

fn open(backend: &Arc<MemoryBackend>) -> snapdisk::Result<Store> {
    options().open_on(backend.clone(), Arc::new(SimHost::new(5)))
}

fn look(backend: &Arc<MemoryBackend>) -> snapdisk::Result<Store> {
    options().open_read_only_on(backend.clone(), Arc::new(SimHost::new(6)))
}

#[test]
fn records_obey_the_rules_of_live_operations() {
    assert_eq!(fuzz::opening(with_record(Record::create(900, "fine", 4096)).bytes), Ok(()), "this test sees nothing");
    let long = "n".repeat(10_000);
    let records = [
        ("a name of 10,000 bytes", Record::create(900, &long, 4096)),
        ("a name of 2,000 bytes", Record::create(900, &long[..2000], 4096)),
        ("a name of 65 bytes", Record::create(900, &long[..65], 4096)),
        ("an empty name", Record::create(900, "", 4096)),
        ("a name with a slash", Record::create(900, "a/b", 4096)),
        ("a size that is no multiple of 512", Record::create(900, "fine", 4097)),
        ("a size past the largest", Record::create(900, "fine", u64::MAX - 511)),
        ("an id that leaves no room", Record::create(ID_END - 1, "fine", 4096)),
        ("a snapshot with a long name", Record::new(3).number(1).number(1).number(900).text(&long).number(0).number(0)),
        ("a snapshot of nothing", Record::new(3).number(0).number(0).number(0)),
        ("a clone with a long name", Record::new(5).number(1).number(900).text(&long).number(0).number(0)),
        ("a volume renamed", Record::new(8).number(1).text(&long)),
        ("a snapshot renamed", Record::new(9).number(1).text("-")),
    ];
    for (what, record) in records {
        let e = fuzz::opening(with_record(record).bytes).expect_err(what);
        assert!(e.contains("no engine writes"), "{what}: {e}");
    }
}

/// A record that names a block far away, in a file that claims to be as long: neither memory nor the host's space goes to the claim.
#[test]
fn a_far_block_is_refused_before_anything_is_taken_for_it() {
    for far in [1u64 << 40, 8 << 40] {
        let backend = Arc::new(MemoryBackend::from_bytes(with_record(Record::write(far / B - 100)).bytes));
        backend.set_len(far).unwrap();
        for outcome in [look(&backend), open(&backend)] {
            let e = refused(outcome);
            assert_eq!(e.kind(), ErrorKind::Corrupt);
            assert!(e.to_string().contains("can't have grown to"), "{e}");
        }
        assert_eq!(backend.len().unwrap(), far, "a failed opening changes nothing");
    }
}

/// A record names a block in a region that the image may well have grown to, but not what lies there: only a full check sees that, and
/// until then the rest of the region is not asked for.
#[test]
fn a_failed_opening_takes_nothing_from_the_host() {
    let blocks = (fuzz::image(3).bytes.len() / BLOCK) as u64;
    let backend = Arc::new(MemoryBackend::from_bytes(with_record(Record::write(blocks + 5)).bytes));
    backend.set_len((blocks + 6) * B).unwrap();
    let outcome = options().untrusted(true).open_on(backend.clone(), Arc::new(SimHost::new(5)));
    assert_eq!(refused(outcome).kind(), ErrorKind::Corrupt);
    assert_eq!(backend.len().unwrap(), (blocks + 6) * B);
    // Who trusts it gets the region, and an error where the block is read.
    let store = open(&backend).unwrap();
    assert!(backend.len().unwrap() > (blocks + 6) * B);
    assert!(!store.check().unwrap().is_clean());
}

/// Counters that can't grow any more: nothing is acknowledged that leaves an image which its own decoder refuses.
#[test]
fn counters_have_room_to_grow() {
    for (name, end) in [
        ("sequence", COUNTER_END),
        ("epoch", COUNTER_END),
        ("doom_sequence", COUNTER_END),
        ("next_volume", ID_END),
        ("next_snapshot", ID_END),
        ("generation", GENERATION_END),
    ] {
        for from_end in [1, 2, COUNTER_ROOM, COUNTER_ROOM + 1, 2 * COUNTER_ROOM, 2 * COUNTER_ROOM + 1] {
            let what = format!("{name}, {from_end} from its end");
            let backend = Arc::new(MemoryBackend::from_bytes(with_field(1, name, end - from_end).bytes));
            if let Ok(store) = open(&backend) {
                let v = store.volumes().unwrap().remove(0);
                let outcomes = [
                    v.write_at(&[1; BLOCK], 0),
                    v.snapshot("new").map(drop),
                    store.create_volume("new", B).map(drop),
                    store.checkpoint(),
                ];
                if from_end <= 2 * COUNTER_ROOM {
                    let refused =
                        outcomes[..3].iter().all(|o| o.as_ref().is_err_and(|e| e.kind() == ErrorKind::Invalid));
                    assert!(refused, "{what}: {outcomes:?}");
                }
                store.close().unwrap();
                open(&backend).or_else(|_| look(&backend)).unwrap_or_else(|e| panic!("{what}, then: {e}"));
            } else {
                assert!(from_end <= COUNTER_ROOM, "{what}");
            }
            look(&backend).unwrap_or_else(|e| panic!("{what}: {e}"));
        }
    }
}

/// A counter of ids that has fallen behind: what is made next must not take the place of what is there.
#[test]
fn ids_in_use_are_not_given_again() {
    for name in ["next_volume", "next_snapshot"] {
        let backend = Arc::new(MemoryBackend::from_bytes(with_field(2, name, 1).bytes));
        let store = open(&backend).unwrap();
        let ids = |store: &Store| -> Vec<_> {
            let volumes = store.volumes().unwrap().into_iter().map(|v| (v.id().0, v.name().unwrap()));
            volumes.chain(store.snapshots().unwrap().into_iter().map(|s| (s.id().0, s.name().unwrap()))).collect()
        };
        let before = ids(&store);
        let v = store.volumes().unwrap().remove(0);
        let outcome = match name {
            "next_volume" => store.create_volume("new", B).map(drop),
            _ => v.snapshot("new").map(drop),
        };
        assert_eq!(refused(outcome).kind(), ErrorKind::Corrupt, "{name}");
        assert_eq!(ids(&store), before, "{name}");
        v.write_at(&[1; BLOCK], 0).unwrap();
        store.close().unwrap();
    }
    // The same from a record of the log.
    let e = fuzz::opening(with_record(Record::create(1, "again", 4096)).bytes).unwrap_err();
    assert!(e.contains("exists already"), "{e}");
}

/// Both claims at once: more regions than there are, and a record that names a block in one more.
#[test]
fn a_far_block_beyond_claimed_regions_costs_nothing() {
    let most = snapdisk::IMAGE_MAX / B / 64 / 2;
    let mut image = with_record(Record::write(most * 64 * 17 / 16));
    image.set_superblock(field("spans"), most);
    image.set_superblock(field("index_level"), 4);
    image.set_superblock(field("index_fanout"), 252);
    image.reseal();
    let backend = Arc::new(MemoryBackend::from_bytes(image.bytes));
    backend.set_len(snapdisk::IMAGE_MAX).unwrap();
    let e = refused(look(&backend));
    assert!(e.kind() == ErrorKind::Corrupt && e.to_string().contains("can't have grown to"), "{e}");
}

/// An image that claims as many regions as there can be, in a file that claims to be as long.
#[test]
fn regions_without_counts_cost_nothing() {
    let most = snapdisk::IMAGE_MAX / B / 32 - 2;
    let mut image = with_field(1, "spans", most);
    image.set_superblock(field("index_level"), 4);
    image.set_superblock(field("index_fanout"), 252);
    image.reseal();
    let backend = Arc::new(MemoryBackend::from_bytes(image.bytes));
    backend.set_len(snapdisk::IMAGE_MAX).unwrap();
    let store = look(&backend).unwrap();
    let e = store.check().unwrap_err();
    assert!(e.kind() == ErrorKind::Corrupt && e.to_string().contains("have their counts"), "{e}");
    // Figures need the counts of what is there alone.
    store.counters().unwrap();
    store.usage_all().unwrap();
}

/// The full check of an image from elsewhere comes before any kind of opening.
#[test]
fn untrusted_images_are_checked_however_they_are_opened() {
    let mut image = fuzz::image(6);
    // The data of some block: everything else verifies.
    let at = image.bytes.chunks(BLOCK).rposition(|b| b[..32] != b[32..64] && b[4] > 6 && b[100] != 0).unwrap() * BLOCK;
    image.bytes[at + 99] ^= 1;
    let backend = || Steps::new(image.bytes.clone());
    let host = || Arc::new(SimHost::new(5));
    assert!(options().open_read_only_on(backend(), host()).is_ok());
    let careful = options().untrusted(true);
    let outcomes = [
        careful.open_on(backend(), host()).err(),
        careful.open_read_only_on(backend(), host()).err(),
        careful.open_salvage_on(backend(), host()).err(),
    ];
    for e in outcomes {
        assert_eq!(e.expect("refused").kind(), ErrorKind::Corrupt);
    }
}

/// Hostile images by name.
fn thirty() -> Vec<(String, Vec<u8>)> {
    let mut out: Vec<(String, Vec<u8>)> = Vec::new();
    let mut add = |what: &str, image: Image| out.push((what.to_owned(), image.bytes));
    for (name, value) in [
        ("spans", u64::MAX),
        ("spans", 1 << 30),
        ("free", u64::MAX / 2),
        ("free", 1 << 20),
        ("returned", 1 << 10),
        ("doomed", 1 << 50),
        ("span", 16),
        ("span", 1008),
        ("index_fanout", 252),
        ("index_level", 4),
        ("index_home", 1),
        ("log_pages", 16384),
        ("log_pages", 8),
        ("log_position", COUNTER_END - 1),
        ("log_group", COUNTER_END - 1),
        ("catalog.level", 7),
        ("catalog.block", 0),
        ("catalog.block", 1),
        ("catalog.block", u64::MAX),
        ("catalog.stamp", 0),
        ("generation", 0),
        ("index_stamp", 0),
        ("clean", 0),
    ] {
        add(&format!("{name} = {value}"), with_field(2, name, value));
    }
    add("a write over a superblock", with_record(Record::write(0)));
    add("a write into the log", with_record(Record::write(40)));
    add("a write over the catalog's root", with_record(Record::write(97)));
    add("a write past the end", with_record(Record::write(u64::MAX)));
    add("a long name", with_record(Record::create(900, &"n".repeat(10_000), 4096)));
    add("a volume that exists", with_record(Record::create(1, "again", 4096)));
    add("a list of 2^64 - 1 operations", {
        let mut image = fuzz::image(3);
        image.set_log(&u64::MAX.to_le_bytes());
        image
    });
    // Every node of a kind refers to itself: a cycle.
    let mut cycle = fuzz::image(2);
    for page in 0..cycle.pages() {
        let reference = cycle.reference(page);
        cycle.put(page, 64 + 8, &reference);
        cycle.put(page, 64 + 16, &reference);
    }
    cycle.reseal();
    add("nodes that refer to themselves", cycle);
    // Counts that say less than there is: live blocks look free.
    let mut low = fuzz::image(2);
    for page in 0..low.pages() {
        if low.get::<1>(page, 4) == [5] {
            (64 + 8..BLOCK - 8).step_by(4).for_each(|at| low.put(page, at, &[0; 4]));
        }
    }
    low.reseal();
    add("counts of zero everywhere", low);
    // One byte more in every length and number of items.
    let mut items = fuzz::image(2);
    for page in 0..items.pages() {
        items.put(page, 6, &[255, 255]);
    }
    items.reseal();
    add("nodes with 65,535 items", items);
    out
}

/// Run by [`hostile_images_do_no_harm`] in a process with little memory.
#[test]
fn child() {
    if std::env::var_os("SNAPDISK_HOSTILE").is_none() {
        return;
    }
    let images = thirty();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmSize:")).unwrap();
    let now: u64 = line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024;
    let limit = rustix::process::Rlimit { current: Some(now + (64 << 20)), maximum: Some(now + (64 << 20)) };
    rustix::process::setrlimit(rustix::process::Resource::As, limit).unwrap();
    for (what, bytes) in images {
        println!("image: {what}");
        fuzz::exercise(bytes);
    }
    println!("image: none, all done");
}

/// Each is refused or can be worked with: no panic, no loop (calls of the backend are counted), no more than 64 MiB.
#[test]
fn hostile_images_do_no_harm() {
    assert!(thirty().len() >= 30);
    let run = Command::new(std::env::current_exe().unwrap())
        .args(["hostile::child", "--exact", "--nocapture", "--test-threads=1"])
        .env("SNAPDISK_HOSTILE", "1")
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    let last = out.lines().rfind(|l| l.contains("image: ")).unwrap_or("none");
    assert!(run.status.success() && last.ends_with("all done"), "{}: {last}\n{err}", run.status);
}
