//! Who may see and do what.

use super::{World, main_account};
use snapdisk::api::Caller;

/// Every action on somebody else's object answers exactly what it answers for one that does not exist.
#[test]
fn another_tenant_can_tell_nothing() {
    let w = World::new();
    let me = main_account();
    let (disk, own) = (w.disk(&me), w.disk(&Caller::main(2, 7)));
    let snap = w.snapshot(&me, &disk, "secret");
    let own_snap = w.snapshot(&Caller::main(2, 7), &own, "own");
    let fresh = |caller: &Caller, text: &str| {
        let masked = |t: &str| {
            t.replace(&disk, "X").replace(&snap, "X").replace("disk-nope", "X").replace("disksnapshot-nope", "X")
        };
        let _ = caller;
        masked(text)
    };
    let before = w.everything();
    let strangers =
        [Caller::main(2, 7), Caller::sub(2, 7, ["q1"]), Caller::sub(1, 9, ["p1"]), Caller::sub(1, 9, [""; 0])];
    for caller in &strangers {
        for (action, disk_name, snap_name) in [
            ("CreateSnapshot", "DiskID", ""),
            ("RollbackSnapshot", "DiskID", "SnapshotID"),
            ("DeleteSnapshot", "", "SnapshotID"),
            ("AttachDisk", "DiskID", ""),
            ("DetachDisk", "DiskID", ""),
            ("UpgradeDisk", "DiskID", ""),
            ("CloneDisk", "SrcID", ""),
            ("CreateDiskFromSnapshot", "", "SrcSnapshotID"),
            ("DeleteDisk", "DiskID", ""),
        ] {
            // With `CompanyID`, which is an admin's only.
            for company in ["", "1"] {
                let call = |d: &str, s: &str| {
                    let project = caller.projects.as_ref().and_then(|p| p.first().cloned()).unwrap_or_default();
                    let mut params = vec![
                        ("Region", "cn"),
                        ("Name", "n"),
                        ("ResourceID", "vm-1"),
                        ("DiskSpace", "2"),
                        ("CompanyID", company),
                        ("ProjectID", &project),
                    ];
                    params.extend([(disk_name, d), (snap_name, s)].iter().filter(|p| !p.0.is_empty()));
                    w.call(caller, action, &params)
                };
                let (real, none) = (call(&disk, &snap), call("disk-nope", "disksnapshot-nope"));
                if caller.projects.as_ref().is_some_and(Vec::is_empty) && action == "CreateSnapshot" {
                    assert_eq!(real["RetCode"], 3);
                } else {
                    assert_eq!(real["RetCode"], 200, "{action} {caller:?}");
                }
                assert_eq!(fresh(caller, &real.to_string()), fresh(caller, &none.to_string()), "{action}");
            }
        }
        let wide: [&[(&str, &str)]; 5] = [
            &[],
            &[("CompanyID", "1")],
            &[("DiskID", &disk)],
            &[("SnapshotIDs.0", &snap)],
            &[("ProjectIDs.0", "default"), ("MemberID", "7")],
        ];
        for filter in wide {
            let names = w.names(caller, filter);
            assert!(!names.contains(&"secret".to_owned()), "{caller:?} {filter:?}");
        }
    }
    // Mixed: an own disk and a foreign snapshot.
    let rollback = [("Region", "cn"), ("DiskID", &*own), ("SnapshotID", &*snap)];
    assert_eq!(w.code(&Caller::main(2, 7), "RollbackSnapshot", &rollback), 200);
    let rollback = [("Region", "cn"), ("DiskID", &*disk), ("SnapshotID", &*own_snap)];
    assert_eq!(w.code(&Caller::main(2, 7), "RollbackSnapshot", &rollback), 200);
    assert_eq!(w.everything(), before);
}

#[test]
fn an_admin_sees_all_or_one() {
    let w = World::new();
    let admin = Caller::admin();
    let (a, b) = (w.disk(&main_account()), w.disk(&Caller::main(2, 7)));
    w.snapshot(&main_account(), &a, "one");
    w.snapshot(&Caller::main(2, 7), &b, "two");
    assert_eq!(w.names(&admin, &[]), ["one", "two"]);
    assert_eq!(w.names(&admin, &[("CompanyID", "2")]), ["two"]);
    assert_eq!(w.names(&admin, &[("CompanyID", "2"), ("DiskID", &a)]), [""; 0]);
    assert_eq!(w.code(&admin, "DescribeSnapshot", &[("Region", "cn"), ("CompanyID", "3")]), 27001);
    assert_eq!(w.code(&admin, "DescribeSnapshot", &[("Region", "mars"), ("CompanyID", "3")]), 400);
    let create = |company: &str, project: &str, disk: &str| {
        let params =
            [("Region", "cn"), ("Name", "n"), ("DiskID", disk), ("CompanyID", company), ("ProjectID", project)];
        w.code(&admin, "CreateSnapshot", &params)
    };
    assert_eq!(create("2", "", &a), 200, "scoped to another company");
    assert_eq!(create("3", "nope", &a), 27001);
    assert_eq!(create("", "nope", &a), 651);
    assert_eq!(create("", "q1", &a), 651, "a project of another company");
    assert_eq!(create("", "p1", &a), 0);
    let new = &w.list(&admin, &[("CompanyID", "1")]).1[1];
    assert_eq!((&new["CompanyID"], &new["ProjectID"], &new["Email"]), (&1.into(), &"p1".into(), &"".into()));
    assert_eq!(w.code(&admin, "CreateDisk", &[("Region", "cn"), ("Name", "n"), ("DiskSpace", "x")]), 3);
    assert_eq!(
        w.code(&admin, "CreateDisk", &[("Region", "cn"), ("Name", "n"), ("DiskSpace", "1"), ("CompanyID", "9")]),
        27001
    );
}

#[test]
fn a_sub_account_is_confined_to_its_projects() {
    let w = World::new();
    let (me, sub) = (main_account(), Caller::sub(1, 8, ["p1"]));
    let (common, own) = (w.disk(&me), w.disk(&sub));
    w.snapshot(&me, &common, "common");
    let create = |disk: &str, project: &str| {
        w.code(&sub, "CreateSnapshot", &[("Region", "cn"), ("Name", "n"), ("DiskID", disk), ("ProjectID", project)])
    };
    assert_eq!(create(&own, ""), 3, "it must name one");
    assert_eq!((create(&own, "default"), create(&own, "q1"), create(&own, "nope")), (651, 651, 651));
    assert_eq!((create(&common, "p1"), create(&own, "p1")), (200, 0));
    assert_eq!(w.names(&sub, &[]), ["n"]);
    assert_eq!(w.names(&sub, &[("ProjectIDs.0", "default")]), [""; 0]);
    assert_eq!(w.names(&me, &[]), ["common", "n"]);
    // The main account's snapshot of its disk, in another project, is none of its business.
    let hidden = w.snapshot(&me, &own, "hidden");
    assert_eq!(w.names(&sub, &[("DiskID", &own)]), ["n"]);
    let rollback = [("Region", "cn"), ("DiskID", &*own), ("SnapshotID", &*hidden)];
    assert_eq!((w.code(&sub, "RollbackSnapshot", &rollback), w.code(&me, "RollbackSnapshot", &rollback)), (200, 0));
    // What it makes is its company's, in its project.
    let clone = w.get(&sub, "CloneDisk", &[("Region", "cn"), ("SrcID", &own), ("Name", "c")], "DiskID");
    let info = &w.call(&me, "DescribeDisk", &[("Region", "cn"), ("DiskIDs.0", &clone)])["Infos"][0];
    assert_eq!((&info["ProjectID"], &info["CompanyID"]), (&"p1".into(), &1.into()));
}
