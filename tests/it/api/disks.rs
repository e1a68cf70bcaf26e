//! The disk actions.

use super::{START, World, main_account};
use serde_json::json;
use snapdisk::api::Caller;

#[test]
fn a_disk_is_what_it_was_created_as() {
    let w = World::new();
    let me = main_account();
    let params = [
        ("Region", "cn"),
        ("Zone", "zone-01"),
        ("Name", "数据"),
        ("DiskSpace", "32000"),
        ("SetType", "StorageSet-1"),
        ("ChargeType", "Month"),
        ("Quantity", "1"),
        ("ProjectID", "p1"),
        ("Remark", "r"),
    ];
    let id = w.get(&me, "CreateDisk", &params, "DiskID");
    assert!(id.starts_with("disk-") && id.len() == 19);
    assert_eq!(w.store.volume(&id).unwrap().size().unwrap(), 32_000 << 30);
    let want = json!({
        "DiskID": id, "Name": "数据", "Remark": "r", "Region": "cn", "Zone": "", "Size": 32000, "DiskStatus": "Unbound",
        "DiskType": "Data", "SetType": "StorageSet-1", "ChargeType": "Month", "AttachResourceID": "",
        "AttachResourceType": "", "CompanyID": 1, "ProjectID": "p1", "Email": "seven@1.example", "CreateTime": START,
        "ExpireTime": 0,
    });
    let answer = w.call(&me, "DescribeDisk", &[("Region", "cn")]);
    assert_eq!((&answer["TotalCount"], &answer["Infos"]), (&json!(1), &json!([want])));
    let again = World { service: w.again(), store: w.store.clone(), clock: w.clock.clone() };
    assert_eq!(again.call(&me, "DescribeDisk", &[("Region", "cn")]), answer);
}

#[test]
fn bad_parameters() {
    let w = World::new();
    let me = main_account();
    let disk = w.disk(&me);
    let d = ("DiskID", &*disk);
    let long = "n".repeat(129);
    let before = w.everything();
    for (action, params, code) in [
        ("CreateDisk", vec![("Name", "n")], 3),
        ("CreateDisk", vec![("DiskSpace", "1")], 3),
        ("CreateDisk", vec![("Name", "n"), ("DiskSpace", "")], 3),
        ("CreateDisk", vec![("Name", "n"), ("DiskSpace", "0")], 4),
        ("CreateDisk", vec![("Name", "n"), ("DiskSpace", "32001")], 4),
        ("CreateDisk", vec![("Name", "n"), ("DiskSpace", "-1")], 4),
        ("CreateDisk", vec![("Name", "n"), ("DiskSpace", "1.5")], 4),
        ("CreateDisk", vec![("Name", &long), ("DiskSpace", "1")], 4),
        ("CreateDisk", vec![("Name", "n"), ("DiskSpace", "1"), ("DiskType", "boot")], 4),
        ("CreateDisk", vec![("Name", "n"), ("DiskSpace", "1"), ("Quantity", "x")], 4),
        ("CreateDisk", vec![("Name", "n"), ("DiskSpace", "1"), ("ProjectID", "q1")], 651),
        ("AttachDisk", vec![d], 3),
        ("AttachDisk", vec![d, ("ResourceID", "vm"), ("ResourceType", "LB")], 4),
        ("AttachDisk", vec![("DiskID", "disk-none"), ("ResourceID", "vm")], 200),
        ("DetachDisk", vec![d, ("ResourceID", "vm")], 5000),
        ("UpgradeDisk", vec![d], 3),
        ("UpgradeDisk", vec![d, ("DiskSpace", "0")], 4),
        ("UpgradeDisk", vec![("DiskID", "disk-none"), ("DiskSpace", "2")], 200),
        ("CloneDisk", vec![("SrcID", &disk)], 3),
        ("CloneDisk", vec![("SrcID", "disk-none"), ("Name", "n")], 200),
        ("CreateDiskFromSnapshot", vec![("Name", "n")], 3),
        ("CreateDiskFromSnapshot", vec![("SrcSnapshotID", &disk), ("Name", "n")], 200),
        ("DeleteDisk", vec![], 3),
        ("DeleteDisk", vec![("DiskID", "disk-none")], 200),
        ("DescribeDisk", vec![("Limit", "101")], 4),
    ] {
        let params: Vec<_> = [("Region", "cn")].into_iter().chain(params).collect();
        assert_eq!(w.code(&me, action, &params), code, "{action} {params:?}");
        assert_eq!(w.code(&me, action, &params[1..]), 102, "{action} without a region");
    }
    assert_eq!(w.everything(), before);
}

#[test]
fn bound_disks() {
    let w = World::new();
    let me = main_account();
    let disk = w.disk(&me);
    let bind = |action: &str, vm: &str| w.code(&me, action, &[("Region", "cn"), ("DiskID", &disk), ("ResourceID", vm)]);
    let info = || w.call(&me, "DescribeDisk", &[("Region", "cn"), ("DiskIDs.0", &disk)])["Infos"][0].clone();
    assert_eq!(bind("AttachDisk", "vm-1"), 0);
    assert_eq!((&info()["DiskStatus"], &info()["AttachResourceID"]), (&json!("Bound"), &json!("vm-1")));
    assert_eq!((bind("AttachDisk", "vm-2"), bind("DetachDisk", "vm-2")), (5000, 113));
    assert_eq!(w.code(&me, "DeleteDisk", &[("Region", "cn"), ("DiskID", &disk)]), 5000);
    assert_eq!(w.code(&me, "CloneDisk", &[("Region", "cn"), ("SrcID", &disk), ("Name", "n")]), 5000);
    assert_eq!(w.code(&me, "UpgradeDisk", &[("Region", "cn"), ("DiskID", &disk), ("DiskSpace", "2")]), 0);
    assert_eq!((bind("DetachDisk", "vm-1"), &info()["DiskStatus"]), (0, &json!("Unbound")));
    assert_eq!(w.code(&me, "DeleteDisk", &[("Region", "cn"), ("DiskID", &disk)]), 0);
}

#[test]
fn copies_share_and_go_their_own_ways() {
    let w = World::new();
    let me = main_account();
    let disk = w.disk(&me);
    w.fill(&disk, 1);
    let snap = w.snapshot(&me, &disk, "s");
    w.fill(&disk, 2);
    let clone = w.get(&me, "CloneDisk", &[("Region", "cn"), ("SrcID", &disk), ("Name", "c")], "DiskID");
    let from = [("Region", "cn"), ("SrcSnapshotID", &*snap), ("Name", "f")];
    let from = w.get(&me, "CreateDiskFromSnapshot", &from, "DiskID");
    assert_eq!((w.byte(&disk), w.byte(&clone), w.byte(&from)), (2, 2, 1));
    w.fill(&clone, 3);
    w.fill(&from, 4);
    assert_eq!((w.byte(&disk), w.byte(&clone), w.byte(&from)), (2, 3, 4));
    assert_eq!(w.names(&me, &[]), ["s"], "cloning leaves no snapshot behind");
    // Another disk's snapshot is no state of the clone.
    let rollback = [("Region", "cn"), ("DiskID", &*clone), ("SnapshotID", &*snap)];
    assert_eq!(w.code(&me, "RollbackSnapshot", &rollback), 113);
    assert_eq!(w.code(&me, "DeleteDisk", &[("Region", "cn"), ("DiskID", &disk)]), 0);
    assert_eq!((w.list(&me, &[]).0, w.byte(&clone), w.byte(&from)), (0, 3, 4));
    w.store.checkpoint().unwrap();
    w.store.wait_reclaimed().unwrap();
    assert!(w.store.check().unwrap().is_clean());
    assert_eq!(w.store.snapshots().unwrap().len(), 0);
}

#[test]
fn what_was_made_by_other_means_is_left_alone() {
    let w = World::new();
    let admin = Caller::admin();
    let volume = w.store.create_volume("mine", 4096).unwrap();
    volume.snapshot("before").unwrap();
    let w = World { service: w.again(), ..w };
    assert_eq!(w.call(&admin, "DescribeDisk", &[("Region", "cn")])["TotalCount"], 0);
    assert_eq!(w.code(&admin, "DeleteDisk", &[("Region", "cn"), ("DiskID", "mine")]), 200);
    assert_eq!(w.service.adopt(&volume, "cn", 3, "m").unwrap_err().code().number(), 27001);
    assert_eq!(w.service.adopt(&volume, "mars", 1, "m").unwrap_err().code().number(), 400);
    w.service.adopt(&volume, "cn", 1, "m").unwrap();
    assert_eq!(w.service.adopt(&volume, "cn", 1, "m").unwrap_err().code().number(), 5000);
    let me = main_account();
    w.snapshot(&me, "mine", "by the service");
    assert_eq!(w.names(&me, &[]), ["by the service"]);
    assert_eq!(w.service.volume("mine").unwrap().snapshots().unwrap().len(), 2);
}

#[test]
fn regions() {
    let w = World::new();
    let answer = w.call(&main_account(), "DescribeRegion", &[]);
    let want = json!([{"Region": "cn", "RegionAlias": "cn"}, {"Region": "eu", "RegionAlias": "Europe"}]);
    assert_eq!((&answer["TotalCount"], &answer["Infos"]), (&json!(2), &want));
}
