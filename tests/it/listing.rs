//! Lists in pages.

use crate::wrapped::{Call, Watch, Wrapped};
use snapdisk::{
    DeleteSnapshots, ErrorKind, Options, Result, SnapshotId, Store, VolumeId,
    io::{MemoryBackend, SystemHost, sim::EIO},
};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

fn store() -> Store {
    let options = Options::new().log_bytes(4 << 20).manual_maintenance(true);
    options.create_on(Arc::new(MemoryBackend::new()), Arc::new(SystemHost)).unwrap()
}

/// The ids of all pages, each of which is as long as it can be.
fn pages<I: Copy>(limit: usize, page: impl Fn(Option<I>, usize) -> Result<Vec<I>>) -> Vec<I> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = page(after, limit).unwrap();
        assert!(page.len() <= limit);
        all.extend_from_slice(&page);
        after = page.last().copied().or(after);
        if page.len() < limit {
            return all;
        }
    }
}

#[test]
fn pages_are_the_whole_list_by_id() {
    let store = store();
    let volumes: Vec<_> =
        (0..600).map(|i| store.create_volume(&format!("{:03}", 600 - i), 4096).unwrap().id()).collect();
    let first = store.volume_by_id(volumes[0]).unwrap();
    let of_one = |names: std::ops::Range<usize>| {
        store.update(|u| {
            names.map(|i| u.snapshot(&first, &format!("{i}"), Default::default())).collect::<Result<Vec<_>>>()
        })
    };
    let mut snapshots = of_one(0..300).unwrap();
    // Those of a volume that is being removed are in no page, however many follow each other.
    let swept = store.volume_by_id(volumes[1]).unwrap();
    let gone = |u: &mut snapdisk::Update<'_>| {
        (0..700).map(|i| u.snapshot(&swept, &format!("{i}"), Default::default())).collect::<Result<Vec<_>>>()
    };
    store.update(gone).unwrap();
    snapshots.extend(of_one(300..600).unwrap());
    store.delete_volume(&swept, DeleteSnapshots::Delete).unwrap();
    let volumes: Vec<_> = volumes.into_iter().filter(|id| *id != swept.id()).collect();

    let ids_of = |after: Option<VolumeId>, limit| {
        Ok(store.volumes_page(after, limit)?.iter().map(|v| v.id()).collect::<Vec<_>>())
    };
    let ids = |after: Option<SnapshotId>, limit| {
        Ok(store.snapshots_page(after, limit)?.iter().map(|s| s.id()).collect::<Vec<_>>())
    };
    for limit in [7, 256, 257, 600, 10_000, usize::MAX] {
        assert_eq!(pages(limit, ids_of), volumes, "{limit}");
        assert_eq!(pages(limit, ids), snapshots, "{limit}");
    }
    assert_eq!(ids_of(Some(volumes[598]), 1).unwrap(), []);
    assert_eq!(ids_of(Some(VolumeId(u64::MAX)), 1).unwrap(), []);
    assert_eq!(ids(Some(SnapshotId(u64::MAX)), 1).unwrap(), []);
    assert_eq!(store.volumes_page(None, 0).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(store.snapshots_page(None, 0).unwrap_err().kind(), ErrorKind::Invalid);

    // The one that the next page comes after may be deleted.
    store.delete_snapshot(&store.snapshot_by_id(snapshots[10]).unwrap()).unwrap();
    assert_eq!(ids(Some(snapshots[10]), 2).unwrap(), snapshots[11..13]);
    let sorted: Vec<_> = store.snapshots().unwrap().iter().map(|s| s.id()).collect();
    assert_eq!(sorted.len(), 599);
    assert!(sorted.is_sorted());
    let names: Vec<_> = store.volumes().unwrap().iter().map(|v| v.name().unwrap()).collect();
    assert!(names.is_sorted() && names.len() == 599);
}

/// Fails one read, and no other.
struct OneFails(AtomicU64);

impl Watch for OneFails {
    fn before(&self, call: Call<'_>) -> io::Result<()> {
        match call {
            Call::Read if self.0.fetch_sub(1, SeqCst) == 0 => Err(io::Error::from_raw_os_error(EIO)),
            _ => Ok(()),
        }
    }
}

/// A list in which something could not be looked up is an error, not a shorter list.
#[test]
fn a_list_is_whole_or_an_error() {
    let options = Options::new().log_bytes(4 << 20).manual_maintenance(true);
    let disk = Arc::new(Wrapped::new(OneFails(AtomicU64::new(u64::MAX)), MemoryBackend::new()));
    let store = options.create_on(disk.clone(), Arc::new(SystemHost)).unwrap();
    let volume = store.create_volume("v", 4096).unwrap();
    (0..300).for_each(|i| drop(volume.snapshot(&format!("{i}")).unwrap()));
    let copy = store.clone_volume(&volume.snapshot("last").unwrap(), "copy").unwrap();
    let parent = copy.parent().unwrap();
    drop((volume, copy));
    store.close().unwrap();
    let mut failed = 0;
    for nth in 0.. {
        let store = options.open_on(disk.clone(), Arc::new(SystemHost)).unwrap();
        let (volume, copy) = (store.volume("v").unwrap(), store.volume("copy").unwrap());
        disk.0.store(nth, SeqCst);
        let looked = volume.snapshots().and_then(|list| Ok((list.len(), store.snapshots()?.len(), copy.parent()?)));
        let struck = disk.0.swap(u64::MAX, SeqCst) > nth;
        match looked {
            Ok(looked) => assert_eq!(looked, (301, 301, parent), "read {nth}"),
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::Io, "{e}");
                failed += 1;
            }
        }
        if !struck {
            break;
        }
    }
    assert!(failed > 5, "{failed} reads");
}
