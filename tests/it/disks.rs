//! Volumes and snapshots as one kind of disk.

use snapdisk::{ATOMIC_WRITE_MAX, BLOCK, ErrorKind, Options, ReadDisk, Store, io::MemoryBackend, io::SystemHost};
use std::{collections::BTreeMap, io::IoSliceMut, sync::Arc};

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

    let extents = disk.extents(0..size).unwrap();
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
    fn extents(&self, range: std::ops::Range<u64>) -> snapdisk::Result<Vec<snapdisk::MapExtent>> {
        let store = store();
        let disk = store.create_volume("pattern", 1 << 14)?;
        disk.write_at(&[1; 1 << 14], 0)?;
        disk.extents(range)
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
    let data =
        |disk: &dyn ReadDisk| disk.extents(0..64 << 20).unwrap().iter().filter(|e| e.data).map(|e| e.len).sum::<u64>();
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
