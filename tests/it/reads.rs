//! What a read sees of writes that run meanwhile: up to 1 MiB is of one point in time, however many nodes and buffers that takes.

use crate::hooked::Hooked;
use snapdisk::{
    ATOMIC_WRITE_MAX, BLOCK, Knobs, Options, Store, Volume,
    io::{Backend, MemoryBackend, SystemHost},
};
use std::{
    io::IoSliceMut,
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

const UNIT: usize = ATOMIC_WRITE_MAX;

fn options() -> Options {
    let knobs = Knobs { fanout: 4, ..Knobs::default() };
    Options::new().log_bytes(4 << 20).manual_maintenance(true).knobs(knobs)
}

/// A volume whose blocks lie apart from each other, so that a read of them needs many nodes, none of which is in memory.
fn scattered(memory: &Arc<Hooked>, blocks: u64) -> (Store, Volume) {
    let store = match memory.len().unwrap() {
        0 => options().create_on(memory.clone(), Arc::new(SystemHost)).unwrap(),
        _ => options().open_on(memory.clone(), Arc::new(SystemHost)).unwrap(),
    };
    let volume = store.volume("v").or_else(|_| store.create_volume("v", 8 << 20)).unwrap();
    for i in (0..blocks).step_by(2).chain((1..blocks).step_by(2)) {
        volume.write_at(&[1; BLOCK], i * BLOCK as u64).unwrap();
    }
    store.close().unwrap();
    let store = options().open_on(memory.clone(), Arc::new(SystemHost)).unwrap();
    let volume = store.volume("v").unwrap();
    (store, volume)
}

/// Reads `len` bytes of ones at `offset` while they are all written over with twos, at each moment at which the read touches the disk.
/// Tells `seen` what each read got.
fn overwritten(
    offset: u64,
    len: usize,
    step: u64,
    read: impl Fn(&Volume, &mut [u8], u64),
    mut seen: impl FnMut(&[u8]),
) -> u64 {
    let memory = Arc::<Hooked>::default();
    let mut skipped = 0;
    loop {
        let (store, volume) = scattered(&memory, (offset + len as u64).div_ceil(BLOCK as u64));
        let writer = volume.clone();
        let mut buf = vec![0; len];
        memory.set(skipped, move || writer.write_at(&vec![2; len], offset).unwrap());
        read(&volume, &mut buf, offset);
        let ran = memory.has_run();
        assert!(buf.iter().all(|b| [1, 2].contains(b)));
        seen(&buf);
        drop((volume, store));
        if !ran {
            return skipped;
        }
        skipped += step;
    }
}

fn single(buf: &[u8]) -> bool {
    buf.iter().all(|&b| b == buf[0])
}

/// Cuts a buffer into several, at places that are no borders of blocks.
fn vectored(volume: &Volume, buf: &mut [u8], offset: u64) {
    let (mut bufs, mut rest) = (Vec::new(), buf);
    for n in [0, 1, 4095, 5000, 0, 3 * BLOCK, 100].into_iter().cycle() {
        let n = n.min(rest.len());
        let (here, more) = mem::take(&mut rest).split_at_mut(n);
        bufs.push(IoSliceMut::new(here));
        rest = more;
        if rest.is_empty() {
            break;
        }
    }
    volume.read_vectored_at(&mut bufs, offset).unwrap();
}

fn plain(volume: &Volume, buf: &mut [u8], offset: u64) {
    volume.read_at(buf, offset).unwrap();
}

#[test]
fn a_read_sees_a_write_whole_or_not_at_all() {
    for read in [plain, vectored] {
        let (mut olds, mut news) = (0, 0);
        let moments = overwritten(700, 30 * BLOCK, 1, read, |buf| {
            assert!(single(buf), "a part of a write");
            *(if buf[0] == 1 { &mut olds } else { &mut news }) += 1;
        });
        assert!(moments > 10 && olds > 10 && news > 0, "{moments} moments, {olds} old, {news} new");
    }
}

#[test]
fn a_mebibyte_is_of_one_point_in_time() {
    for (read, offset) in [(plain as fn(&Volume, &mut [u8], u64), 4095), (vectored, 0), (vectored, 1)] {
        let moments = overwritten(offset, UNIT, 17, read, |buf| assert!(single(buf), "a part of a write"));
        assert!(moments > 60, "{moments} moments");
    }
}

#[test]
fn a_longer_read_is_of_several_points_in_time() {
    for read in [plain, vectored] {
        let (offset, mut mixed) = (UNIT as u64 / 2, 0);
        overwritten(offset, 2 * UNIT, 53, read, |buf| {
            let units = [&buf[..UNIT / 2], &buf[UNIT / 2..3 * UNIT / 2], &buf[3 * UNIT / 2..]];
            assert!(units.iter().all(|u| single(u)), "a part of a unit");
            let order = units.map(|u| u[0]);
            assert!(order.is_sorted(), "a unit is older than the one before it: {order:?}");
            mixed += u32::from(!single(&order));
        });
        assert!(mixed > 0, "units are of different points in time");
    }
}

/// The same with threads, where the write comes at any moment, and each writes and reads ranges of its own length.
#[test]
fn racing_writes_are_seen_whole() {
    let store = options().create_on(Arc::new(MemoryBackend::new()), Arc::new(SystemHost)).unwrap();
    let volume = store.create_volume("v", 2 << 20).unwrap();
    volume.write_at(&vec![255; UNIT], 1234).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|s| {
        for read in [plain, vectored] {
            let (volume, done) = (&volume, &done);
            s.spawn(move || {
                let mut buf = vec![0; UNIT];
                while !done.load(SeqCst) {
                    read(volume, &mut buf, 1234);
                    assert!(single(&buf));
                }
            });
        }
        for i in 0..100 {
            volume.write_at(&vec![i; UNIT], 1234).unwrap();
            if i % 10 == 0 {
                store.checkpoint().unwrap();
            }
        }
        done.store(true, SeqCst);
    });
}
