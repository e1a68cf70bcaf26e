//! Volumes and snapshots as one kind of disk.

use snapdisk::{
    ATOMIC_WRITE_MAX, BLOCK, ErrorKind, MapExtent, Options, ReadDisk, Store, Volume, io::MemoryBackend, io::SystemHost,
};
use std::{collections::BTreeMap, io::IoSliceMut, ops::Range, sync::Arc};

fn store() -> Store {
    let options = Options::new().log_bytes(1 << 20).manual_maintenance(true);
    options.create_on(Arc::new(MemoryBackend::new()), Arc::new(SystemHost)).unwrap()
}

/// Everything that a disk shows through the trait: its bytes by single and by scattered reads, and its holes.
fn seen(disk: &dyn ReadDisk) -> (Vec<u8>, Vec<(u64, u64, bool)>) {
    let size = disk.size().unwrap();
    let mut whole = vec![1; size as usize];
    disk.read_at(&mut whole, 0).unwrap();
    let mut parts = [vec![1; 100], vec![], vec![1; 5000], vec![1; size as usize - 5200]];
    let mut bufs: Vec<_> = parts.iter_mut().map(|p| IoSliceMut::new(p)).collect();
    disk.read_vectored_at(&mut bufs, 100).unwrap();
    assert!(parts.concat() == whole[100..]);

    let before = vec![7; 8];
    let mut bufs = [before.clone(), before.clone()];
    let mut slices: Vec<_> = bufs.iter_mut().map(|b| IoSliceMut::new(b)).collect();
    let e = disk.read_vectored_at(&mut slices, size - 15).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::OutOfRange);
    assert_eq!(disk.read_vectored_at(&mut slices, u64::MAX).unwrap_err().kind(), ErrorKind::OutOfRange);
    assert!(bufs.iter().all(|b| *b == before), "nothing is read where the whole does not fit");
    assert_eq!(disk.read_at(&mut [0], size).unwrap_err().kind(), ErrorKind::OutOfRange);

    let extents: Vec<_> = disk.extents(0..size).map(|e| e.unwrap()).collect();
    let end = extents.iter().fold(0, |at, e| {
        assert_eq!(e.offset, at);
        assert!(e.data || whole[e.offset as usize..][..e.len as usize].iter().all(|&b| b == 0));
        e.offset + e.len
    });
    assert_eq!(end, size);
    (whole, extents.into_iter().map(|e| (e.offset, e.len, e.data)).collect())
}

#[test]
fn a_snapshot_reads_as_its_volume_did() {
    let store = store();
    let disk = store.create_volume("disk", 1 << 20).unwrap();
    disk.write_at(&[1; 10_000], 5_000).unwrap();
    disk.write_at(&[2; 300], (1 << 20) - 300).unwrap();
    let before = disk.snapshot("before").unwrap();
    let then = seen(&disk);
    assert_eq!(seen(&before), then);
    disk.write_at(&[3; 100], 0).unwrap();
    disk.resize(1 << 21).unwrap();
    assert_eq!(seen(&before), then);
    assert_ne!(seen(&disk), then);
    let both: [&dyn ReadDisk; 2] = [&disk, &before];
    assert_eq!(both.map(|d| d.size().unwrap()), [1 << 21, 1 << 20]);
    store.delete_snapshot(&before).unwrap();
    let gone: &dyn ReadDisk = &before;
    assert_eq!(gone.size().unwrap_err().kind(), ErrorKind::Deleted);
    assert_eq!(gone.read_vectored_at(&mut [], 0).unwrap_err().kind(), ErrorKind::Deleted);
    // The handle itself still says what it was.
    assert_eq!(before.size(), 1 << 20);
}

/// Data in every other block, so that each block is a part of its own.
fn striped(blocks: u64) -> (Store, Volume) {
    let store = store();
    let disk = store.create_volume("striped", blocks * BLOCK as u64).unwrap();
    for i in (0..blocks).step_by(2) {
        disk.write_at(&[1; BLOCK], i * BLOCK as u64).unwrap();
    }
    (store, disk)
}

#[test]
fn pages_of_extents_are_bounded_and_follow_each_other() {
    let (_store, disk) = striped(1000);
    let size = disk.size().unwrap();
    for limit in [1, 7, 256, 100_000] {
        let (mut at, mut parts) = (100, 0);
        while at < size {
            let page = disk.extents_page(at..size, limit).unwrap();
            assert!(!page.is_empty() && page.len() <= limit.min(256), "{} parts", page.len());
            for part in &page {
                assert_eq!((part.offset, part.data), (at, (at / BLOCK as u64).is_multiple_of(2)));
                at += part.len;
            }
            parts += page.len();
        }
        assert_eq!((at, parts), (size, 1000));
    }
    assert!(disk.extents_page(5..5, 1).unwrap().is_empty());
    assert_eq!(disk.extents_page(0..1, 0).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(disk.extents_page(0..size + 1, 1).unwrap_err().kind(), ErrorKind::OutOfRange);
}

/// What is ahead of the iterator is looked up when it comes there, and no sooner.
#[test]
fn extents_go_on_beside_writes_and_end_with_an_error() {
    let (_store, disk) = striped(1000);
    let size = disk.size().unwrap();
    let mut extents = disk.extents(0..size);
    let first: Vec<_> = extents.by_ref().take(256).map(|e| e.unwrap()).collect();
    disk.discard(0, size).unwrap();
    let rest: Vec<_> = extents.map(|e| e.unwrap()).collect();
    assert_eq!(first.iter().filter(|e| e.data).count(), 128);
    assert_eq!(rest.len(), 1, "the rest is one hole: {rest:?}");
    assert_eq!(rest[0].offset + rest[0].len, size);

    let (_store, disk) = striped(1000);
    let mut extents = disk.extents(0..size);
    assert!(extents.next().unwrap().is_ok());
    disk.resize(4096).unwrap();
    let errors: Vec<_> = extents.by_ref().filter_map(|e| e.err()).collect();
    assert_eq!(errors.iter().map(|e| e.kind()).collect::<Vec<_>>(), [ErrorKind::OutOfRange]);
    assert!(extents.next().is_none());
}

/// A disk of an embedder's own, with what the trait asks for and no more.
struct Pattern;
impl ReadDisk for Pattern {
    fn size(&self) -> snapdisk::Result<u64> {
        Ok(1 << 14)
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> snapdisk::Result<()> {
        if offset + buf.len() as u64 > 1 << 14 {
            return Err(snapdisk::Error::new(ErrorKind::OutOfRange, "past the end"));
        }
        (offset..).zip(buf).for_each(|(at, b)| *b = (at / 100) as u8);
        Ok(())
    }
    fn extents_page(&self, range: Range<u64>, limit: usize) -> snapdisk::Result<Vec<MapExtent>> {
        let store = store();
        let disk = store.create_volume("pattern", 1 << 14)?;
        disk.write_at(&[1; 1 << 14], 0)?;
        disk.extents_page(range, limit)
    }
}

#[test]
fn another_disk_can_be_one_too() {
    seen(&Pattern);
}

#[test]
fn tags_of_a_snapshot_are_its_own() {
    let store = store();
    let disk = store.create_volume("disk", 1 << 20).unwrap();
    let before = disk.snapshot("before").unwrap();
    let tags = BTreeMap::from([("made-by".to_owned(), "test".to_owned())]);
    before.set_tags(tags.clone()).unwrap();
    assert_eq!(before.tags().unwrap(), tags);
    assert!(disk.tags().unwrap().is_empty());
    before.set_tags(BTreeMap::new()).unwrap();
    assert!(before.tags().unwrap().is_empty());
}

#[test]
fn the_sizes_of_requests_are_those_that_the_store_keeps_to() {
    let store = store();
    let disk = store.create_volume("disk", 64 << 20).unwrap();
    // A discard of one granule frees it, and one byte less does not.
    let granule = disk.discard_granularity();
    assert_eq!(granule, BLOCK as u64);
    let data = |disk: &dyn ReadDisk| {
        disk.extents(0..64 << 20).map(|e| e.unwrap()).filter(|e| e.data).map(|e| e.len).sum::<u64>()
    };
    disk.write_at(&[1; 3 * BLOCK], 0).unwrap();
    disk.discard(0, granule - 1).unwrap();
    assert_eq!(data(&disk), 3 * granule);
    disk.discard(granule, granule).unwrap();
    assert_eq!(data(&disk), 2 * granule);
    assert_eq!(disk.atomic_write_max(), ATOMIC_WRITE_MAX as u64);
    for size in [disk.preferred_io_size(), ReadDisk::preferred_io_size(&disk)] {
        assert!(size.is_power_of_two() && size >= granule && size <= disk.atomic_write_max());
    }
    let snapshot = disk.snapshot("s").unwrap();
    assert_eq!(snapshot.preferred_io_size(), disk.preferred_io_size());
}
