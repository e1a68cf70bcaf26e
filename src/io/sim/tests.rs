//! The simulator keeps to its own table.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::*;
use crate::io::{Backend, Lane};

const P: u64 = PAGE as u64;

fn page(b: u8) -> Vec<u8> {
    vec![b; PAGE]
}

fn traced(image: &[u8]) -> SimBackend {
    let disk = SimBackend::of(Image::from_bytes(image));
    disk.start_trace();
    disk
}

/// All states of the last crash point of a trace.
fn states(trace: &Trace, caps: &Caps) -> Vec<(u64, Image, bool)> {
    let mut walker = Walker::new(trace);
    let mut out = Vec::new();
    while walker.advance(|_| {}) {
        out.clear();
        walker.window().each(caps, &mut Rng::new(7), &mut |p| {
            out.push((p.hash(), p.image(), !p.garbage.is_empty() || p.stale.is_some()));
            true
        });
    }
    out
}

#[test]
fn reads_see_writes_and_syncs_move_the_medium() {
    let disk = SimBackend::new();
    assert_eq!(disk.write_at(100, &[7; 5000]).unwrap(), 5000);
    assert_eq!(disk.len().unwrap(), 5100);
    let mut buf = [0; 8000];
    assert_eq!(disk.read_at(0, &mut buf).unwrap(), 5100);
    assert!(buf[..100].iter().all(|&b| b == 0) && buf[100..5100].iter().all(|&b| b == 7));
    assert!(disk.medium().durable.is_empty());
    disk.sync_data(Lane::Flush).unwrap();
    assert_eq!(disk.medium().durable.to_bytes(), disk.live().to_bytes());
    assert!(disk.medium().pending.is_empty());
    disk.set_len(512).unwrap();
    disk.set_len(5100).unwrap();
    assert_eq!(disk.read_at(0, &mut buf).unwrap(), 5100);
    assert!(buf[512..5100].iter().all(|&b| b == 0));
}

/// A synced write covers its own pages and those named with it, of every write that hits them, and nothing else.
#[test]
fn a_synced_write_covers_ranges() {
    let disk = SimBackend::of(Image::from_bytes(&[0; 8 * PAGE]));
    disk.write_at(0, &[page(1), page(1), page(1)].concat()).unwrap();
    disk.write_at(5 * P, &page(2)).unwrap();
    disk.set_len(9 * P).unwrap();
    assert_eq!(disk.write_synced(Lane::Flush, 7 * P, &page(3), &[P..2 * P, 3 * P..4 * P]).unwrap(), PAGE);
    let durable = |n| disk.medium().durable.page(n)[0];
    assert_eq!([0, 1, 2, 5, 7].map(durable), [0, 1, 0, 0, 3]);
    assert_eq!(disk.medium().durable.len(), 8 * P);
    assert_eq!(disk.medium().latest().to_bytes(), disk.live().to_bytes());
    // What is needed to read it back is the length too.
    disk.write_synced(Lane::Flush, 8 * P, &page(4), &[]).unwrap();
    assert_eq!((disk.medium().durable.len(), durable(8), durable(5)), (9 * P, 4, 0));
    disk.sync_data(Lane::Flush).unwrap();
    assert_eq!(disk.medium().durable.to_bytes(), disk.live().to_bytes());
}

#[test]
fn every_version_of_a_sector_is_reached_and_nothing_else() {
    let disk = traced(&[page(1), page(2)].concat());
    disk.write_at(0, &page(3)).unwrap();
    disk.write_at(0, &page(4)).unwrap();
    disk.punch(P, P).unwrap();
    let mut seen = BTreeSet::new();
    for (_, image, noise) in states(&disk.take_trace(), &Caps { random: 200, ..Caps::FULL }) {
        assert_eq!(image.len(), 2 * P);
        if noise {
            continue;
        }
        for s in 0..16 {
            let b = image.sector(s)[0];
            assert!(image.sector(s).iter().all(|&x| x == b), "a sector is never torn");
            assert!(if s < 8 { [1, 3, 4].contains(&b) } else { [0, 2].contains(&b) });
            seen.insert((s, b));
        }
    }
    assert_eq!(seen.len(), 8 * 3 + 8 * 2);
}

#[test]
fn hashes_tell_images_apart() {
    let disk = traced(&[page(1), page(2), page(0)].concat());
    disk.write_at(P, &page(5)).unwrap();
    disk.set_len(6 * P).unwrap();
    disk.write_at(5 * P, &page(6)).unwrap();
    disk.set_len(2 * P).unwrap();
    disk.write_at(4 * P, &page(9)).unwrap();
    let mut by_hash: HashMap<u64, Vec<u8>> = HashMap::new();
    let mut by_bytes: HashMap<Vec<u8>, u64> = HashMap::new();
    for (hash, image, noise) in states(&disk.take_trace(), &Caps { exhaustive: 10, random: 300, ..Caps::FULL }) {
        let bytes = image.to_bytes();
        assert_eq!(by_hash.entry(hash).or_insert_with(|| bytes.clone()), &bytes);
        if !noise {
            assert_eq!(*by_bytes.entry(bytes).or_insert(hash), hash);
        }
    }
    assert!(by_bytes.len() > 100);
}

#[test]
fn a_lost_length_cuts_and_a_kept_one_shows_zeros() {
    let disk = traced(&page(1));
    disk.set_len(2 * P).unwrap();
    disk.write_at(P, &page(2)).unwrap();
    let all: BTreeSet<(u64, u8)> = states(&disk.take_trace(), &Caps::FULL)
        .iter()
        .filter(|s| !s.2)
        .map(|s| (s.1.len(), s.1.sector(8)[0]))
        .collect();
    assert_eq!(all, BTreeSet::from([(P, 0), (2 * P, 0), (2 * P, 2)]));
}

#[test]
fn a_write_during_a_sync_belongs_to_the_next_window() {
    let gate = Arc::new(Gate::new());
    gate.shut(Lane::Flush);
    let disk = Arc::new(traced(&[page(0), page(0)].concat()));
    disk.set_gate(Some(gate.clone()));
    disk.write_at(0, &page(1)).unwrap();
    std::thread::scope(|s| {
        s.spawn(|| disk.sync_data(Lane::Flush).unwrap());
        gate.wait_for(Lane::Flush, 1);
        disk.write_at(P, &page(2)).unwrap();
        gate.open(Lane::Flush);
    });
    let medium = disk.medium();
    assert_eq!((medium.durable.sector(0)[0], medium.durable.sector(8)[0]), (1, 0));
    assert_eq!(medium.pending.len(), 1);
}

#[test]
fn a_failed_sync_leaves_ghosts() {
    let blank = vec![0; 64 * PAGE];
    let disk = traced(&blank);
    disk.seed(3);
    disk.write_at(0, &vec![1; 64 * PAGE]).unwrap();
    disk.set_faults(vec![Fault { call: Call::Sync, nth: 0, how: How::Errno(EIO), sticky: false }]);
    assert_eq!(disk.sync_data(Lane::Flush).unwrap_err().raw_os_error(), Some(EIO));
    assert!(disk.sync_data(Lane::Flush).is_ok(), "the error is reported once");
    let kept = (0..64).filter(|&p| disk.medium().durable.page(p)[0] == 1).count();
    assert!((10..54).contains(&kept));
    let count = |cold: bool| {
        (0..64u64)
            .filter(|p| {
                let mut b = [0];
                if cold { disk.read_cold(p * P, &mut b) } else { disk.read_at(p * P, &mut b) }.unwrap();
                b[0] == 1
            })
            .count()
    };
    assert_eq!((count(false), count(true)), (64, kept));
    assert_eq!(disk.counts().syncs_after_failure, 1);
    // The next process finds the same, and one byte written makes its page dirty as a whole.
    let next = SimBackend::reborn(disk.live(), disk.medium());
    let lost = (0..64).find(|&p| disk.medium().durable.page(p)[0] == 0).unwrap();
    next.write_at(lost * P, &[9]).unwrap();
    next.sync_data(Lane::Flush).unwrap();
    assert_eq!(next.medium().durable.page(lost)[..2], [9, 1]);
    assert_eq!((0..64).filter(|&p| next.medium().durable.page(p)[1] == 1).count(), kept + 1);
}

#[test]
fn a_dead_process_leaves_its_window() {
    let disk = traced(&[page(1), page(1)].concat());
    disk.write_at(0, &page(2)).unwrap();
    let next = SimBackend::reborn(disk.live(), disk.medium());
    next.start_trace();
    next.write_at(P, &page(3)).unwrap();
    let seen: BTreeSet<(u8, u8)> = states(&next.take_trace(), &Caps::FULL)
        .iter()
        .filter(|s| !s.2)
        .map(|s| (s.1.sector(0)[0], s.1.sector(8)[0]))
        .collect();
    assert!(seen.is_superset(&BTreeSet::from([(1, 1), (2, 1), (1, 3), (2, 3)])));
}

#[test]
fn faults_strike_the_call_they_name() {
    let disk = SimBackend::of(Image::from_bytes(&page(1)));
    let fault = |call, nth, how, sticky| Fault { call, nth, how, sticky };
    disk.set_faults(vec![
        fault(Call::Write, 1, How::Errno(ENOSPC), false),
        fault(Call::Write, 2, How::Short, false),
        fault(Call::Reserve, 0, How::Errno(ENOSPC), true),
        fault(Call::Read, 0, How::Errno(EIO), false),
    ]);
    assert_eq!(disk.write_at(0, &page(2)).unwrap(), PAGE);
    assert!(disk.write_at(0, &page(3)).is_err());
    let n = disk.write_at(0, &page(4)).unwrap();
    assert!(n > 0 && n < PAGE);
    assert!(disk.reserve(0, P).is_err() && disk.reserve(0, P).is_err());
    assert!(disk.read_at(0, &mut [0; 8]).is_err() && disk.read_at(0, &mut [0; 8]).is_ok());
    assert_eq!(disk.counts().of(Call::Write), 3);
    assert_eq!(disk.counts().faults_hit, 5);
    disk.set_faults(Vec::new());
    disk.punch(0, P).unwrap();
    disk.set_full(true);
    assert!(disk.write_at(0, &page(5)).is_err(), "a hole is not given");
    disk.set_full(false);
    disk.reserve(0, P).unwrap();
    disk.set_full(true);
    assert!(disk.write_at(0, &page(5)).is_ok());
}

#[test]
fn the_same_calls_give_the_same_trace() {
    let run = || {
        let disk = traced(&page(1));
        disk.seed(5);
        disk.set_faults(vec![Fault { call: Call::Sync, nth: 0, how: How::Errno(EIO), sticky: false }]);
        disk.write_at(0, &vec![2; 40 * PAGE]).unwrap();
        disk.sync_data(Lane::Checkpoint).unwrap_err();
        format!("{:?}", disk.take_trace().events)
    };
    assert_eq!(run(), run());
}

#[test]
fn the_guard_sees_a_rewrite_and_a_retried_sync() {
    let seen = Violations::default();
    let format = Format {
        slots: [0, 16 * P],
        protected: Box::new(|disk| {
            let mut slot = [0; 1];
            disk.read_at(0, &mut slot).unwrap();
            Ok(Protected { slot: 0, blocks: BTreeSet::from([3]), log_pages: BTreeSet::from([5]) })
        }),
        is_empty_group: |p| p[0] == 0xee,
    };
    let disk = SimBackend::of(Image::from_bytes(&vec![0; 32 * PAGE]));
    disk.set_guard(Some(Box::new(StoreGuard::new(format, seen.clone()))));
    disk.write_at(7 * P, &page(1)).unwrap();
    disk.write_at(8 * P, &page(0xee)).unwrap();
    disk.write_at(8 * P, &page(1)).unwrap();
    assert_eq!(seen.take(), Vec::<String>::new());
    disk.write_at(7 * P, &page(2)).unwrap();
    disk.write_at(3 * P, &page(2)).unwrap();
    disk.punch(5 * P, P).unwrap();
    disk.set_len(4 * P).unwrap();
    let rules: Vec<String> = seen.take().iter().map(|v| v[..2].to_owned()).collect();
    assert_eq!(rules, ["G2", "G1", "G6", "G6"]);
    disk.sync_data(Lane::Flush).unwrap();
    disk.write_at(2 * P, &page(2)).unwrap();
    assert_eq!(seen.take(), Vec::<String>::new());
    disk.set_faults(vec![Fault { call: Call::Sync, nth: 0, how: How::Errno(EIO), sticky: false }]);
    disk.sync_data(Lane::Flush).unwrap_err();
    disk.sync_data(Lane::Flush).unwrap();
    assert_eq!(seen.take().len(), 1);
}

/// A write of several calls ends at the call during which another thread meets a failure.
#[test]
fn a_long_write_ends_at_a_failure() {
    let backend = Arc::new(SimBackend::new());
    let disk = Arc::new(crate::io::Disk::new(backend.clone(), true));
    let other = disk.clone();
    backend.set_during(Some(Box::new(move |_, _| other.poison(crate::Error::corrupt("a failure")))));
    assert!(disk.write(0, &[&[1; 96 << 10]]).is_err());
    assert_eq!(backend.counts().of(Call::Write), 1);
}
