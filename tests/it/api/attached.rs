//! Bound disks hold their volumes, and the service honours those of others.

use super::{World, directory, main_account};
use snapdisk::{ErrorKind, api::SnapshotService};

struct Bound {
    w: World,
    disk: String,
    snapshot: String,
}

impl Bound {
    /// A disk of twos with a snapshot of ones.
    fn new() -> Bound {
        let w = World::new();
        let disk = w.disk(&main_account());
        w.fill(&disk, 1);
        let snapshot = w.snapshot(&main_account(), &disk, "ones");
        w.fill(&disk, 2);
        Bound { w, disk, snapshot }
    }
    fn code(&self, action: &str, more: &[(&str, &str)]) -> u64 {
        let params: Vec<_> = [("Region", "cn"), ("DiskID", &self.disk)].iter().chain(more).copied().collect();
        self.w.code(&main_account(), action, &params)
    }
    fn bind(&self, action: &str) -> u64 {
        self.code(action, &[("ResourceID", "vm-1")])
    }
    fn rollback(&self) -> u64 {
        self.code("RollbackSnapshot", &[("SnapshotID", &self.snapshot)])
    }
}

#[test]
fn a_bound_disk_is_not_changed_behind_the_service() {
    let b = Bound::new();
    let volume = b.w.store.volume(&b.disk).unwrap();
    let snapshot = volume.snapshots().unwrap().remove(0);
    assert_eq!(b.bind("AttachDisk"), 0);
    assert_eq!(volume.rollback(&snapshot).unwrap_err().kind(), ErrorKind::Busy);
    assert_eq!(volume.attach().unwrap_err().kind(), ErrorKind::Busy);
    // A service that is made anew finds it bound, and so does one beside it.
    let second = b.w.again();
    assert!(second.attached(&b.disk).is_none());
    drop(b.w.service.attached(&b.disk).unwrap());
    assert_eq!(b.bind("DetachDisk"), 0);
    assert!(b.w.service.attached(&b.disk).is_none());
    volume.rollback(&snapshot).unwrap();
    assert_eq!(b.bind("AttachDisk"), 0);
    // Without the service it is free; the next one takes it again.
    let Bound { w: World { store, service, .. }, disk, .. } = b;
    drop((service, second));
    drop(volume.attach().unwrap());
    let service = SnapshotService::new(store, directory()).unwrap();
    assert!(service.attached(&disk).is_some());
    assert_eq!(volume.resize(512).unwrap_err().kind(), ErrorKind::Busy);
}

#[test]
fn a_rollback_fences_a_vm_that_was_said_to_be_shut_down() {
    let b = Bound::new();
    assert_eq!(b.bind("AttachDisk"), 0);
    let attached = b.w.service.attached(&b.disk).unwrap();
    assert_eq!((b.rollback(), attached.generation()), (1014, 0));
    b.w.service.set_vm_running("vm-1", false);
    assert_eq!((b.rollback(), attached.generation(), b.w.byte(&b.disk)), (0, 1, 1));
    assert_eq!(attached.write_at(&[3], 0).unwrap_err().kind(), ErrorKind::Stale);
    attached.acknowledge(1);
    attached.write_at(&[3; 20_000], 0).unwrap();
    assert_eq!(b.w.byte(&b.disk), 3);
    // A disk grows under its VM.
    assert_eq!(b.code("UpgradeDisk", &[("DiskSpace", "2")]), 0);
    assert_eq!((attached.size().unwrap(), attached.generation()), (2 << 30, 2));
}

#[test]
fn a_volume_that_the_embedder_has_attached_is_in_use() {
    let b = Bound::new();
    let held = b.w.store.volume(&b.disk).unwrap().attach().unwrap();
    // Nothing is bound, and the disk is in use all the same.
    assert_eq!((b.rollback(), b.code("DeleteDisk", &[])), (5000, 5000));
    assert_eq!((b.bind("AttachDisk"), b.w.service.attached(&b.disk).is_none()), (0, true));
    b.w.service.set_vm_running("vm-1", false);
    assert_eq!((b.rollback(), b.w.byte(&b.disk), held.generation()), (1014, 2, 0));
    held.detach().unwrap();
    assert_eq!((b.rollback(), b.w.byte(&b.disk)), (0, 1));
    // The VM lets go later than DetachDisk says.
    assert_eq!((b.bind("DetachDisk"), b.bind("AttachDisk")), (0, 0));
    let late = b.w.service.attached(&b.disk).unwrap();
    assert_eq!((b.bind("DetachDisk"), b.code("DeleteDisk", &[])), (0, 5000));
    drop(late);
    assert_eq!(b.code("DeleteDisk", &[]), 0);
}
