//! Rot: every byte of a small image flipped, every sector zeroed, aged or swapped, the file cut and lengthened.
//!
//! The image has a hot log whose last group is proven, so there is one state that it may show. Each damage must end
//! in a refused opening, in reads that are right or fail, or in nothing at all: never in other bytes, an older state
//! or a panic.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use snapdisk::{
    ErrorKind, Knobs, Options, Store,
    io::sim::{Ev, Image, Rng, SECT, SimBackend, SimHost},
};

use crate::{explorer::search::quietly, model::fill};

struct Target {
    image: Image,
    /// The same disk earlier, at several moments.
    past: Vec<Image>,
    /// Volumes and snapshots with their contents.
    contents: Vec<(String, Vec<u8>)>,
    /// The log page that proves the last group.
    proof: u64,
    /// Pages that an opening and reading of everything reads.
    read: BTreeSet<u64>,
}

fn options(inline: u32) -> Options {
    let knobs = Knobs {
        fanout: 4,
        index_fanout: 4,
        span: 24,
        log_pages: 8,
        reserve: 4,
        growth: 1,
        direct: 16,
        inline,
        ..Knobs::default()
    };
    Options::new().manual_maintenance(true).punch_from(None).knobs(knobs)
}

/// A small image: two volumes, a snapshot, blocks in the trees and blocks that the log names or, with `inline`, has.
fn target(inline: u32) -> &'static Target {
    static MADE: [OnceLock<Target>; 2] = [const { OnceLock::new() }; 2];
    MADE[inline as usize].get_or_init(|| {
        let options = options(inline);
        let disk = Arc::new(SimBackend::new());
        let store = options.create_on(disk.clone(), Arc::new(SimHost::new(9))).unwrap();
        let mut past = Vec::new();
        let mut tag = 0;
        let mut write = |v: &snapdisk::Volume, block: u64| {
            tag += 1;
            let mut data = [0; 4096];
            fill(tag, &mut data);
            v.write_at(&data, block * 4096).unwrap();
        };
        let a = store.create_volume("a", 5 * 4096).unwrap();
        write(&a, 0);
        write(&a, 2);
        store.checkpoint().unwrap();
        past.push(disk.live());
        a.snapshot("s").unwrap();
        write(&a, 2);
        let b = store.create_volume("b", 3 * 4096).unwrap();
        write(&b, 1);
        store.checkpoint().unwrap();
        past.push(disk.live());
        // Enough groups for the ring to come round: what the checkpoint before the last needed is gone.
        for n in [1, 3, 1, 3] {
            write(&a, n);
            store.flush().unwrap();
            // The mark that proves the last group is not the first.
            store.mark().unwrap();
            past.push(disk.live());
        }
        b.write_at(&[7; 100], 4096 + 50).unwrap();
        store.flush().unwrap();
        // The last group goes where this mark is.
        store.mark().unwrap();
        past.push(disk.live());
        a.discard(0, 4096).unwrap();
        write(&a, 4);
        store.flush().unwrap();
        disk.start_trace();
        store.mark().unwrap();
        let Some(Ev::Write { off: proof, .. }) = disk.take_trace().events.pop() else { panic!("no mark") };
        let contents = contents(&store).into_iter().map(|(name, bytes)| (name, bytes.unwrap())).collect();
        let image = disk.live();
        assert!(image.len() <= 128 << 12, "a small image: {} blocks", image.len() >> 12);
        let disk = Arc::new(SimBackend::of(image.clone()));
        disk.start_read_log();
        let again = options.open_on(disk.clone(), Arc::new(SimHost::new(10))).unwrap();
        let _ = self::contents(&again);
        assert!(again.check().unwrap().is_clean());
        Target { image, past, contents, proof: proof >> 12, read: disk.take_read_log() }
    })
}

type Contents = Vec<(String, Result<Vec<u8>, snapdisk::Error>)>;

fn contents(store: &Store) -> Contents {
    let mut out = Vec::new();
    match store.volumes() {
        Err(e) => out.push(("volumes".to_owned(), Err(e))),
        Ok(all) => {
            for v in all {
                let mut buf = vec![0; v.size().unwrap_or(0) as usize];
                let read = v.read_at(&mut buf, 0).map(|()| buf);
                out.push((v.name().unwrap_or_default(), read));
            }
        }
    }
    match store.snapshots() {
        Err(e) => out.push(("snapshots".to_owned(), Err(e))),
        Ok(all) => {
            for s in all {
                let mut buf = vec![0; s.size() as usize];
                let read = s.read_at(&mut buf, 0).map(|()| buf);
                out.push((s.name().unwrap_or_default(), read));
            }
        }
    }
    out
}

/// A damaged image.
struct Damage {
    what: String,
    image: Image,
    /// Only one sector differs.
    one_place: bool,
    /// It is in a superblock, of which there is another.
    harmless: bool,
}

/// What came of a damaged image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Refused,
    SomeReadsFail,
    Harmless,
}

/// Opens a damaged image and reads everything. `Err`: it lied, or one volume's damage spoils another.
fn judge(target: &Target, options: &Options, damage: &Damage, read_only: bool) -> Result<Outcome, String> {
    let disk = Arc::new(SimBackend::of(damage.image.clone()));
    let host = Arc::new(SimHost::new(11));
    let store = match read_only {
        true => options.open_read_only_on(disk, host),
        false => options.open_on(disk, host),
    };
    let store = match store {
        Ok(s) => s,
        Err(e) => return told(&e).map(|()| Outcome::Refused),
    };
    let seen = contents(&store);
    let mut outcome = Outcome::Harmless;
    for (name, read) in &seen {
        match read {
            Err(e) => {
                told(e)?;
                outcome = Outcome::SomeReadsFail;
            }
            Ok(bytes) => match target.contents.iter().find(|c| c.0 == *name) {
                None => return Err(format!("{name} should not be there")),
                Some(c) if c.1 != *bytes => {
                    let at = bytes.iter().zip(&c.1).position(|(a, b)| a != b);
                    return Err(format!("{name}: wrong bytes at {at:?}"));
                }
                Some(_) => {}
            },
        }
    }
    let fails = |name: &str| seen.iter().any(|s| s.0 == name && s.1.is_err());
    if damage.one_place && fails("a") && fails("b") {
        return Err("damage in one volume spoils the other".to_owned());
    }
    let listed = |list: &str| !seen.iter().any(|s| s.0 == list && s.1.is_err());
    if listed("volumes") && listed("snapshots") && seen.len() != target.contents.len() {
        return Err(format!("{} objects instead of {}", seen.len(), target.contents.len()));
    }
    Ok(outcome)
}

fn told(e: &snapdisk::Error) -> Result<(), String> {
    match e.kind() {
        ErrorKind::Corrupt | ErrorKind::Truncated | ErrorKind::UnsupportedVersion | ErrorKind::Invalid => Ok(()),
        _ => Err(format!("an error that does not tell what is wrong: {e:?}")),
    }
}

/// Judges every damage of a list on two threads; says how they ended.
fn judge_all(
    what: &str,
    inline: u32,
    damages: &(dyn Fn(u64) -> Option<Damage> + Sync),
    count: u64,
) -> Result<[u64; 3], String> {
    let target = target(inline);
    let options = &options(inline);
    let (next, lie) = (AtomicU64::new(0), Mutex::new(None::<String>));
    let tally = [const { AtomicU64::new(0) }; 3];
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                loop {
                    let from = next.fetch_add(256, Relaxed);
                    if from >= count || lie.lock().unwrap().is_some() {
                        return;
                    }
                    for i in from..count.min(from + 256) {
                        let Some(damage) = damages(i) else {
                            tally[Outcome::Harmless as usize].fetch_add(1, Relaxed);
                            continue;
                        };
                        let what = &damage.what;
                        match quietly(|| judge(target, options, &damage, i % 3 == 1)) {
                            Ok(o) if damage.harmless && o != Outcome::Harmless => {
                                return *lie.lock().unwrap() = Some(format!("{what}: {o:?}, in spite of the copy"));
                            }
                            Ok(o) => _ = tally[o as usize].fetch_add(1, Relaxed),
                            Err(e) => return *lie.lock().unwrap() = Some(format!("{what}: {e}")),
                        }
                    }
                }
            });
        }
    });
    let tally = tally.map(|t| t.into_inner());
    match lie.into_inner().unwrap() {
        Some(e) => Err(e),
        None => {
            println!("{what}: {} refused, {} with failing reads, {} harmless", tally[0], tally[1], tally[2]);
            Ok(tally)
        }
    }
}

fn in_superblock(at: u64) -> bool {
    snapdisk::format::SLOTS.iter().any(|s| s.0 == at >> 12)
}

const PATTERNS: [u8; 3] = [0xff, 0x01, 0x80];

fn flips(inline: u32) -> Result<[u64; 3], String> {
    let target = target(inline);
    // A page that nothing reads cannot change what is read.
    let all = crate::settings::switch("SNAPDISK_FULL", false);
    let flip = |i: u64| {
        let (at, pattern) = (i / 3, PATTERNS[i as usize % 3]);
        if !all && !target.read.contains(&(at >> 12)) {
            return None;
        }
        let mut image = target.image.clone();
        let old = image.page(at >> 12)[at as usize & 4095];
        image.write(at, &[old ^ pattern]);
        let what = format!("byte {at} (block {}, {:#x}) ^ {pattern:#x}", at >> 12, at & 4095);
        Some(Damage { what, image, one_place: true, harmless: in_superblock(at) })
    };
    judge_all("flips", inline, &flip, target.image.len() * 3)
}

#[test]
fn every_byte_flipped() {
    for inline in [0, 1] {
        let [refused, failing, _] = flips(inline).unwrap_or_else(|e| panic!("{e}"));
        assert!(refused > 10_000 && failing > 10_000, "rot is seen");
    }
}

#[test]
fn every_sector_zeroed_aged_or_swapped() {
    [0, 1].into_iter().for_each(sectors);
}

fn sectors(inline: u32) {
    let target = target(inline);
    let sectors = target.image.len() / SECT as u64;
    let kinds = 1 + target.past.len() as u64 + 6;
    let damage = |i: u64| {
        let (s, kind) = (i / kinds, i % kinds);
        let mut image = target.image.clone();
        let at = s * SECT as u64;
        let what = match kind {
            0 => {
                image.zero(at, SECT as u64);
                "zeroed".to_owned()
            }
            k if k <= target.past.len() as u64 => {
                image.write(at, target.past[k as usize - 1].sector(s));
                format!("as it was, {k}")
            }
            k => {
                // A neighbour, the same place in another page, any other.
                let mut rng = Rng::new(i);
                let other = match k % 3 {
                    0 => s ^ 1,
                    1 => (s + 8 * (1 + rng.below(sectors / 8 - 1))) % sectors,
                    _ => rng.below(sectors),
                };
                // Two sectors at once: the last group and its proof may both go, and nothing is left that could tell.
                if [s / 8, other / 8].contains(&target.proof) {
                    return None;
                }
                let (a, b) = (image.sector(s).to_vec(), image.sector(other).to_vec());
                image.write(at, &b);
                image.write(other * SECT as u64, &a);
                format!("swapped with {other}")
            }
        };
        let one_place = kind <= target.past.len() as u64;
        let harmless = one_place && in_superblock(at);
        let what = format!("sector {s} {what}");
        (image.to_bytes() != target.image.to_bytes()).then_some(Damage { what, image, one_place, harmless })
    };
    judge_all("sectors", inline, &damage, sectors * kinds).unwrap_or_else(|e| panic!("{e}"));
}

/// A write of a whole page that never reached the medium, though the sync after it said so: what was there before must not pass for it.
#[test]
fn every_page_as_it_was() {
    [0, 1].into_iter().for_each(pages);
}

fn pages(inline: u32) {
    let target = target(inline);
    let kinds = target.past.len() as u64;
    let damage = |i: u64| {
        let (page, old) = (i / kinds, &target.past[(i % kinds) as usize]);
        let mut image = target.image.clone();
        image.write(page << 12, &old.page(page)[..]);
        let what = format!("page {page} as it was, {}", i % kinds);
        let harmless = in_superblock(page << 12);
        (!image.pages_unlike(&target.image).is_empty()).then_some(Damage { what, image, one_place: true, harmless })
    };
    let count = target.image.len() / 4096 * kinds;
    let [refused, failing, _] = judge_all("pages", inline, &damage, count).unwrap_or_else(|e| panic!("{e}"));
    assert!(refused >= 8 && failing >= 8, "lost writes are seen: {refused}, {failing}");
}

#[test]
fn cut_and_lengthened() {
    [0, 1].into_iter().for_each(lengths);
}

fn lengths(inline: u32) {
    let target = target(inline);
    let sectors = target.image.len() / SECT as u64;
    let damage = |i: u64| {
        let mut image = target.image.clone();
        if i < sectors {
            image.cut(i * SECT as u64);
            let what = format!("cut to {} bytes", i * SECT as u64);
            return Some(Damage { what, image, one_place: false, harmless: false });
        }
        let more = (i - sectors + 1) * 1536;
        let mut rng = Rng::new(i);
        let noise: Vec<u8> = (0..more).map(|_| rng.number() as u8).collect();
        image.set_len(target.image.len() + more);
        image.write(target.image.len(), &noise);
        let what = format!("{more} bytes of noise behind the end");
        Some(Damage { what, image, one_place: false, harmless: true })
    };
    let [refused, _, harmless] = judge_all("lengths", inline, &damage, sectors + 100).unwrap_or_else(|e| panic!("{e}"));
    assert!(refused > sectors / 2 && harmless >= 100);
}

/// The last group's write is lost, and the mark that it went over, of the same number, is left; the next mark proves the group.
#[test]
fn a_lost_group_is_not_its_placeholder() {
    for inline in [0, 1] {
        let options = options(inline);
        let disk = Arc::new(SimBackend::new());
        let store = options.create_on(disk.clone(), Arc::new(SimHost::new(9))).unwrap();
        let a = store.create_volume("a", 4096).unwrap();
        a.write_at(&[1; 4096], 0).unwrap();
        store.flush().unwrap();
        store.mark().unwrap();
        let before = disk.live();
        disk.start_trace();
        a.write_at(&[2; 4096], 0).unwrap();
        store.flush().unwrap();
        let events = disk.take_trace().events;
        let Some(page) =
            events.iter().rev().find_map(|e| if let Ev::Write { off, .. } = e { Some(off >> 12) } else { None })
        else {
            panic!("a group is written")
        };
        store.mark().unwrap();
        let mut lost = disk.live();
        lost.write(page << 12, &before.page(page)[..]);
        let outcome = options.open_on(Arc::new(SimBackend::of(lost)), Arc::new(SimHost::new(10)));
        assert_eq!(outcome.map(drop).unwrap_err().kind(), ErrorKind::Corrupt, "inline {inline}");
    }
}

/// A page as a process that died wrote it, at the same place and in the same generation: a write that the medium lost later leaves it
/// there, and it must not pass for the page that is meant.
#[test]
fn pages_of_a_life_that_was_lost() {
    [0, 1].into_iter().for_each(lost_life);
}

fn lost_life(inline: u32) {
    let options = options(inline);
    let disk = Arc::new(SimBackend::new());
    let store = options.create_on(disk.clone(), Arc::new(SimHost::new(9))).unwrap();
    store.create_volume("a", 5 * 4096).unwrap();
    store.close().unwrap();
    let before = disk.live();
    let live = |host: u64| {
        let disk = Arc::new(SimBackend::of(before.clone()));
        let store = options.open_on(disk.clone(), Arc::new(SimHost::new(host))).unwrap();
        let a = store.volume("a").unwrap();
        for block in 0..5 {
            let mut data = [0; 4096];
            fill(host * 100 + block, &mut data);
            a.write_at(&data, block * 4096).unwrap();
        }
        store.checkpoint().unwrap();
        // Groups of the same numbers at the same places, data and no data, the last one proven.
        for block in [host % 2, 2 + host % 2] {
            let mut data = [0; 4096];
            fill(host * 100 + 50 + block, &mut data);
            a.write_at(&data, 4 * 4096).unwrap();
            store.flush().unwrap();
            a.discard(block * 4096, 4096).unwrap();
            store.flush().unwrap();
        }
        store.mark().unwrap();
        let contents = contents(&store).into_iter().map(|(name, bytes)| (name, bytes.unwrap())).collect();
        (disk.live(), contents)
    };
    let ((lost, _), (image, contents)): ((Image, Vec<_>), _) = (live(20), live(21));
    let target = Target { image: image.clone(), past: Vec::new(), contents, proof: 0, read: BTreeSet::new() };
    let mut failing = 0;
    // The log begins at block 32. Superblocks have a sequence for this.
    for block in 32..image.len() >> 12 {
        let mut damaged = image.clone();
        damaged.write(block << 12, &lost.page(block)[..]);
        let what = format!("block {block} of the lost life");
        let damage = Damage { what, image: damaged, one_place: false, harmless: false };
        let outcome = judge(&target, &options, &damage, true).unwrap_or_else(|e| panic!("{}: {e}", damage.what));
        failing += u64::from(outcome != Outcome::Harmless);
    }
    assert!(failing >= 12, "five pages of the log, five blocks, the catalog and a leaf: {failing}");
}
