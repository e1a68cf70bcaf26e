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
    let elsewhere = [("Region", "cn"), ("Name", "hidden"), ("DiskID", &*own), ("ProjectID", "default")];
    let hidden = w.get(&me, "CreateSnapshot", &elsewhere, "SnapshotID");
    assert_eq!(w.names(&sub, &[("DiskID", &own)]), ["n"]);
    let rollback = [("Region", "cn"), ("DiskID", &*own), ("SnapshotID", &*hidden)];
    assert_eq!((w.code(&sub, "RollbackSnapshot", &rollback), w.code(&me, "RollbackSnapshot", &rollback)), (200, 0));
    // What it makes is its company's, in its project.
    let clone = w.get(&sub, "CloneDisk", &[("Region", "cn"), ("SrcID", &own), ("Name", "c")], "DiskID");
    let info = &w.call(&me, "DescribeDisk", &[("Region", "cn"), ("DiskIDs.0", &clone)])["Infos"][0];
    assert_eq!((&info["ProjectID"], &info["CompanyID"]), (&"p1".into(), &1.into()));
}

/// A disk that two projects use: whoever sees only one of them neither destroys nor counts what is in the other.
#[test]
fn a_sub_account_does_not_destroy_what_it_may_not_see() {
    let w = World::new();
    let (main, sub) = (main_account(), Caller::sub(1, 8, ["p1"]));
    let disk = w.disk(&sub);
    let create = |project: &str, name: &str| {
        let params = [("Region", "cn"), ("Name", name), ("DiskID", &*disk), ("ProjectID", project)];
        w.get(&main, "CreateSnapshot", &params, "SnapshotID")
    };
    // Without a project it is where its disk is.
    let seen = create("", "seen");
    assert_eq!(w.names(&sub, &[]), ["seen"]);
    assert_eq!(w.list(&main, &[]).1[0]["ProjectID"], "p1");
    let hidden: Vec<String> = (0..9).map(|i| create("default", &format!("hidden {i}"))).collect();
    assert_eq!(w.list(&sub, &[("DiskID", &disk)]).0, 1);

    let full =
        w.call(&sub, "CreateSnapshot", &[("Region", "cn"), ("Name", "n"), ("DiskID", &disk), ("ProjectID", "p1")]);
    assert_eq!(full["RetCode"], 7000);
    assert!(!full["Message"].as_str().unwrap().replace(&disk, "").contains('9'), "{full}");
    let before = w.everything();
    let delete = [("Region", "cn"), ("DiskID", &*disk)];
    let refused = w.call(&sub, "DeleteDisk", &delete);
    assert_eq!(refused["RetCode"], 5000);
    assert!(hidden.iter().all(|id| !refused.to_string().contains(id.as_str())), "{refused}");
    assert_eq!(w.everything(), before);
    for id in &hidden {
        assert_eq!(w.code(&main, "DeleteSnapshot", &[("Region", "cn"), ("SnapshotID", id)]), 0);
    }
    assert_eq!(w.code(&sub, "DeleteDisk", &delete), 0);
    assert_eq!(w.list(&main, &[("SnapshotIDs.0", &seen)]).1.len(), 1, "until its space is reclaimed");
}

/// What a company uses is the company's to know.
#[test]
fn quotas_tell_nobody_what_others_use() {
    let w = World::new();
    let mut directory = super::directory();
    directory.companies.get_mut(&1).unwrap().limits.disks = Some(3);
    w.service.set_directory(directory);
    for _ in 0..3 {
        w.disk(&main_account());
    }
    let params = [("Region", "cn"), ("Name", "n"), ("DiskSpace", "1"), ("ProjectID", "p1")];
    let refused = w.call(&Caller::sub(1, 8, ["p1"]), "CreateDisk", &params);
    assert_eq!(refused["RetCode"], 17005);
    assert!(refused["Message"].as_str().unwrap().contains("quota of 3 disks does not allow 1 more"));
    assert!(!refused["Message"].as_str().unwrap().contains("in use"));
}

#[test]
fn members_are_the_companys() {
    let w = World::new();
    let me = main_account();
    let disk = w.disk(&me);
    let snapshot = w.snapshot(&me, &disk, "s");
    let before = w.everything();
    for member in ["9", "99"] {
        for (action, params) in [
            ("CreateSnapshot", [("Name", "n"), ("DiskID", &*disk)]),
            ("CreateDisk", [("Name", "n"), ("DiskSpace", "1")]),
            ("CloneDisk", [("Name", "n"), ("SrcID", &*disk)]),
            ("CreateDiskFromSnapshot", [("Name", "n"), ("SrcSnapshotID", &*snapshot)]),
        ] {
            let params = [&params[..], &[("Region", "cn"), ("MemberID", member)]].concat();
            assert_eq!(w.code(&me, action, &params), 200, "{action}");
        }
    }
    assert_eq!(w.everything(), before);
    for member in ["0", "7"] {
        let params = [("Region", "cn"), ("Name", "n"), ("DiskID", &*disk), ("MemberID", member)];
        assert_eq!(w.code(&me, "CreateSnapshot", &params), 0);
    }
}

#[test]
fn a_released_snapshot_of_a_boot_disk_says_so() {
    let w = World::new();
    let me = main_account();
    let params = [("Region", "cn"), ("Name", "root"), ("DiskSpace", "1"), ("DiskType", "Boot")];
    let disk = w.get(&me, "CreateDisk", &params, "DiskID");
    w.fill(&disk, 1);
    let snapshot = w.snapshot(&me, &disk, "s");
    assert_eq!(w.code(&me, "DeleteDisk", &[("Region", "cn"), ("DiskID", &disk)]), 0);
    let released = w.list(&me, &[("SnapshotIDs.0", &snapshot)]).1.remove(0);
    assert_eq!((&released["SnapshotStatus"], &released["DiskType"]), (&"Released".into(), &"Boot".into()));
}
