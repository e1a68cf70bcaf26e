//! What only shows while an operation is under way: a disk whose sync waits at a gate.

use super::{World, main_account};
use serde_json::Value;
use snapdisk::{
    api::Caller,
    io::{
        Lane,
        sim::{Call, EIO, Fault, Gate, How, SimBackend},
    },
};
use std::{sync::Arc, thread};

struct Gated {
    world: World,
    gate: Arc<Gate>,
}

impl Gated {
    fn new() -> Gated {
        let gate = Arc::new(Gate::new());
        let backend = Arc::new(SimBackend::new());
        backend.set_gate(Some(gate.clone()));
        Gated { world: World::over(backend), gate }
    }
    /// Runs `action` up to its sync, then `meanwhile`, then lets it end; gives its answer.
    fn hold(&self, caller: &Caller, action: &str, params: &[(&str, &str)], meanwhile: impl FnOnce()) -> Value {
        self.gate.shut(Lane::Flush);
        thread::scope(|scope| {
            let call = scope.spawn(|| self.world.call(caller, action, params));
            self.gate.wait_for(Lane::Flush, 1);
            // Opened whatever happens, or a failed assertion would never end.
            let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(meanwhile));
            self.gate.open(Lane::Flush);
            let answer = call.join().unwrap();
            seen.map_err(std::panic::resume_unwind).ok();
            answer
        })
    }
    fn status(&self, id: &str) -> String {
        let (total, infos) = self.world.list(&main_account(), &[("SnapshotIDs.0", id)]);
        assert!(total <= 1);
        infos.first().map_or_else(String::new, |i| i["SnapshotStatus"].as_str().unwrap().to_owned())
    }
    fn disk_status(&self, id: &str) -> String {
        let answer = self.world.call(&main_account(), "DescribeDisk", &[("Region", "cn"), ("DiskIDs.0", id)]);
        answer["Infos"][0]["DiskStatus"].as_str().unwrap_or_default().to_owned()
    }
}

/// Every action on the disk that must wait its turn.
fn refused_on_busy_disk(w: &World, me: &Caller, disk: &str, normal: &str) {
    let d = ("DiskID", disk);
    for (action, params) in [
        ("CreateSnapshot", vec![d, ("Name", "n")]),
        ("RollbackSnapshot", vec![d, ("SnapshotID", normal)]),
        ("UpgradeDisk", vec![d, ("DiskSpace", "2")]),
        ("AttachDisk", vec![d, ("ResourceID", "vm-1")]),
        ("CloneDisk", vec![("SrcID", disk), ("Name", "n")]),
        ("DeleteDisk", vec![d]),
    ] {
        let params: Vec<_> = [("Region", "cn")].into_iter().chain(params).collect();
        assert_eq!(w.code(me, action, &params), 5000, "{action}");
    }
}

#[test]
fn while_a_snapshot_is_taken() {
    let g = Gated::new();
    let (w, me) = (&g.world, main_account());
    let disk = w.disk(&me);
    let old = w.snapshot(&me, &disk, "old");
    w.fill(&disk, 1);
    let create = [("Region", "cn"), ("Name", "new"), ("DiskID", &*disk)];
    let answer = g.hold(&me, "CreateSnapshot", &create, || {
        let (total, infos) = w.list(&me, &[]);
        assert_eq!((total, &infos[1]["SnapshotStatus"]), (2, &Value::from("Createing")));
        assert_eq!(infos[1].as_object().unwrap().len(), 16);
        let new = infos[1]["SnapshotID"].as_str().unwrap();
        assert_eq!(g.status(new), "Createing");
        assert_eq!(g.disk_status(&disk), "Snapshoting");
        assert_eq!(w.code(&me, "DeleteSnapshot", &[("Region", "cn"), ("SnapshotID", new)]), 7001);
        // The snapshot's state is looked at before the disk's.
        let rollback = [("Region", "cn"), ("DiskID", &*disk), ("SnapshotID", new)];
        assert_eq!(w.code(&me, "RollbackSnapshot", &rollback), 7001);
        let make = [("Region", "cn"), ("SrcSnapshotID", new), ("Name", "n")];
        assert_eq!(w.code(&me, "CreateDiskFromSnapshot", &make), 7001);
        refused_on_busy_disk(w, &me, &disk, &old);
        // Another tenant is told nothing.
        let other = Caller::main(2, 0);
        assert_eq!(w.code(&other, "DeleteSnapshot", &[("Region", "cn"), ("SnapshotID", new)]), 200);
        // Readers and writers of the disk go on.
        w.fill(&disk, 2);
        assert_eq!(w.byte(&disk), 2);
    });
    let new = answer["SnapshotID"].as_str().unwrap();
    assert_eq!((answer["RetCode"].as_u64(), &*g.status(new), &*g.disk_status(&disk)), (Some(0), "Normal", "Unbound"));
    let rollback = [("Region", "cn"), ("DiskID", &*disk), ("SnapshotID", new)];
    assert_eq!((w.code(&me, "RollbackSnapshot", &rollback), w.byte(&disk)), (0, 1));
}

#[test]
fn the_limit_counts_what_is_under_way() {
    let g = Gated::new();
    let (w, me) = (&g.world, main_account());
    let mut directory = super::directory();
    let limits = &mut directory.companies.get_mut(&1).unwrap().limits;
    (limits.disks, limits.gib) = (Some(2), Some(3));
    w.service.set_directory(directory);
    let create = [("Region", "cn"), ("Name", "d"), ("DiskSpace", "1")];
    w.disk(&me);
    let answer = g.hold(&me, "CreateDisk", &create, || assert_eq!(w.code(&me, "CreateDisk", &create), 17005));
    assert_eq!(answer["RetCode"], 0);
    let disk = answer["DiskID"].as_str().unwrap();
    let grow = |gib: &str| w.code(&me, "UpgradeDisk", &[("Region", "cn"), ("DiskID", disk), ("DiskSpace", gib)]);
    assert_eq!((grow("3"), grow("2"), grow("1")), (17005, 0, 5001));
    assert_eq!(w.code(&me, "DeleteDisk", &[("Region", "cn"), ("DiskID", disk)]), 0);
    assert_eq!(w.code(&me, "CreateDisk", &create), 0);
    assert_eq!(w.code(&Caller::main(2, 0), "CreateDisk", &create), 0);
}

#[test]
fn while_a_disk_is_rolled_back() {
    let g = Gated::new();
    let (w, me) = (&g.world, main_account());
    let disk = w.disk(&me);
    w.fill(&disk, 1);
    let (snap, other) = (w.snapshot(&me, &disk, "a"), w.snapshot(&me, &disk, "b"));
    w.fill(&disk, 2);
    let rollback = [("Region", "cn"), ("DiskID", &*disk), ("SnapshotID", &*snap)];
    let answer = g.hold(&me, "RollbackSnapshot", &rollback, || {
        assert_eq!(
            (&*g.status(&snap), &*g.status(&other), &*g.disk_status(&disk)),
            ("RollBacking", "Normal", "Rollbacking")
        );
        assert_eq!(w.code(&me, "RollbackSnapshot", &rollback), 7001);
        assert_eq!(w.code(&me, "DeleteSnapshot", &[("Region", "cn"), ("SnapshotID", &snap)]), 7001);
        assert_eq!(w.code(&me, "DeleteDisk", &[("Region", "cn"), ("DiskID", &disk)]), 5000);
        let second = [rollback[0], rollback[1], ("SnapshotID", &*other)];
        assert_eq!(w.code(&me, "RollbackSnapshot", &second), 5000);
    });
    assert_eq!(answer["RetCode"], 0);
    assert_eq!((w.byte(&disk), &*g.status(&snap), &*g.disk_status(&disk)), (1, "Normal", "Unbound"));
}

#[test]
fn while_a_disk_is_made_from_a_snapshot() {
    let g = Gated::new();
    let (w, me) = (&g.world, main_account());
    let disk = w.disk(&me);
    w.fill(&disk, 1);
    let snap = w.snapshot(&me, &disk, "a");
    let make = [("Region", "cn"), ("SrcSnapshotID", &*snap), ("Name", "copy")];
    let delete = [("Region", "cn"), ("SnapshotID", &*snap)];
    let answer = g.hold(&me, "CreateDiskFromSnapshot", &make, || {
        assert_eq!(w.code(&me, "DeleteSnapshot", &delete), 7002);
        assert_eq!(w.code(&me, "DeleteDisk", &[("Region", "cn"), ("DiskID", &disk)]), 7002);
        assert_eq!(g.status(&snap), "Normal");
    });
    let copy = answer["DiskID"].as_str().unwrap();
    assert_eq!((w.code(&me, "DeleteSnapshot", &delete), w.byte(copy)), (0, 1));
}

#[test]
fn while_a_snapshot_is_deleted() {
    let g = Gated::new();
    let (w, me) = (&g.world, main_account());
    let disk = w.disk(&me);
    let snap = w.snapshot(&me, &disk, "a");
    let delete = [("Region", "cn"), ("SnapshotID", &*snap)];
    let answer = g.hold(&me, "DeleteSnapshot", &delete, || {
        assert_eq!(w.list(&me, &[]).0, 0);
        assert_eq!(w.code(&me, "DeleteSnapshot", &delete), 200);
        let rollback = [delete[0], delete[1], ("DiskID", &*disk)];
        assert_eq!(w.code(&me, "RollbackSnapshot", &rollback), 200);
    });
    assert_eq!(answer["RetCode"], 0);
}

#[test]
fn while_a_disk_is_cloned_grown_bound_deleted() {
    let g = Gated::new();
    let (w, me) = (&g.world, main_account());
    let disk = w.disk(&me);
    w.fill(&disk, 3);
    let snap = w.snapshot(&me, &disk, "a");
    let d = [("Region", "cn"), ("DiskID", &*disk)];
    let clone = [("Region", "cn"), ("SrcID", &*disk), ("Name", "c")];
    let busy = |status: &'static str| {
        let (g, disk, snap, me) = (&g, &disk, &snap, &me);
        move || {
            assert_eq!(g.disk_status(disk), status);
            refused_on_busy_disk(&g.world, me, disk, snap);
        }
    };
    let answer = g.hold(&me, "CloneDisk", &clone, busy("BeingCloned"));
    assert_eq!(w.byte(answer["DiskID"].as_str().unwrap()), 3);
    g.hold(&me, "UpgradeDisk", &[d[0], d[1], ("DiskSpace", "2")], busy("Upgrading"));
    g.hold(&me, "AttachDisk", &[d[0], d[1], ("ResourceID", "vm-1")], busy("Unbound"));
    g.hold(&me, "DetachDisk", &[d[0], d[1], ("ResourceID", "vm-1")], busy("Bound"));
    g.hold(&me, "DeleteDisk", &d, busy("Deleting"));
    assert_eq!((&*g.disk_status(&disk), w.list(&me, &[]).0), ("", 0));
    assert_eq!(w.list(&me, &[("SnapshotIDs.0", &snap)]).1[0]["SnapshotStatus"], "Released");
}

#[test]
fn a_failed_sync_is_an_unknown_outcome_and_then_a_stopped_store() {
    for action in ["CreateSnapshot", "RollbackSnapshot", "DeleteSnapshot", "CreateDisk", "DeleteDisk"] {
        let backend = Arc::new(SimBackend::new());
        let w = World::over(backend.clone());
        let me = main_account();
        let disk = w.disk(&me);
        w.fill(&disk, 1);
        let snap = w.snapshot(&me, &disk, "a");
        w.fill(&disk, 2);
        let params = [("Region", "cn"), ("Name", "n"), ("DiskID", &*disk), ("SnapshotID", &*snap), ("DiskSpace", "1")];
        backend.set_faults(vec![Fault { call: Call::Sync, nth: 0, how: How::Errno(EIO), sticky: true }]);
        let answer = w.call(&me, action, &params);
        assert_eq!(answer["RetCode"], 2, "{action}: {answer}");
        let answer = w.call(&me, action, &params);
        assert!([2, 200].contains(&answer["RetCode"].as_u64().unwrap()), "{action}: {answer}");
        // What is known is still shown.
        assert!(w.list(&me, &[]).0 <= 1);
    }
}
