//! Every row of the four actions, and every edge, as tables.

use super::{START, World, main_account};
use serde_json::json;
use snapdisk::api::{ARRAY_MAX, Caller, Params};

type Row<'a> = (&'a str, Vec<(&'a str, String)>, u64);

fn row<'a>(action: &'a str, params: &[(&'a str, &str)], code: u64) -> Row<'a> {
    (action, params.iter().map(|(k, v)| (*k, (*v).to_owned())).collect(), code)
}

/// Calls that fail change nothing; those of the table answer what it says.
fn table(world: &World, caller: &Caller, rows: &[Row<'_>]) {
    for (action, params, code) in rows {
        let before = world.everything();
        let params: Vec<_> = params.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let answer = world.call(caller, action, &params);
        assert_eq!(answer["RetCode"], *code, "{action} {params:?}: {answer}");
        if *code != 0 {
            assert_eq!(answer.as_object().unwrap().len(), 3, "a fault says no more: {answer}");
            assert_eq!(world.everything(), before, "{action} {params:?} changed something");
        }
    }
}

#[test]
fn bad_parameters_of_each_action() {
    let w = World::new();
    let me = main_account();
    let disk = w.disk(&me);
    let other = w.disk(&me);
    let snap = w.snapshot(&me, &disk, "s");
    let (d, o, s) = (disk.as_str(), other.as_str(), snap.as_str());
    let long = |n: usize| "名".repeat(n);
    let create = |more: &[(&'static str, &str)], code| {
        let mut params = vec![("Region", "cn".to_owned()), ("Name", "n".to_owned()), ("DiskID", d.to_owned())];
        for (name, value) in more {
            params.retain(|p| p.0 != *name);
            params.push((name, (*value).to_owned()));
        }
        ("CreateSnapshot", params, code)
    };
    let mut rows = vec![
        row("", &[], 101),
        row("Nonsense", &[("Region", "cn")], 110),
        row("createsnapshot", &[("Region", "cn")], 110),
        // Required, in the document's order: Region has a code of its own.
        row("CreateSnapshot", &[], 102),
        row("CreateSnapshot", &[("Name", "n"), ("DiskID", d)], 102),
        row("CreateSnapshot", &[("Region", ""), ("Name", "n"), ("DiskID", d)], 102),
        row("CreateSnapshot", &[("Region", "cn"), ("DiskID", d)], 3),
        row("CreateSnapshot", &[("Region", "cn"), ("Name", ""), ("DiskID", d)], 3),
        row("CreateSnapshot", &[("Region", "cn"), ("Name", "n")], 3),
        row("CreateSnapshot", &[("Region", "cn"), ("Name", "n"), ("DiskID", "")], 3),
        row("DescribeSnapshot", &[], 102),
        row("RollbackSnapshot", &[("DiskID", d), ("SnapshotID", s)], 102),
        row("RollbackSnapshot", &[("Region", "cn"), ("SnapshotID", s)], 3),
        row("RollbackSnapshot", &[("Region", "cn"), ("DiskID", d)], 3),
        row("DeleteSnapshot", &[("SnapshotID", s)], 102),
        row("DeleteSnapshot", &[("Region", "cn")], 3),
        // Missing comes before malformed, malformed before unknown.
        row("CreateSnapshot", &[("Region", "cn"), ("Name", "n"), ("CompanyID", "x")], 3),
        create(&[("CompanyID", "x"), ("Region", "mars")], 4),
        create(&[("Region", "mars"), ("ProjectID", "nope")], 400),
        create(&[("ProjectID", "nope"), ("DiskID", "disk-none")], 651),
        create(&[("ProjectID", "q1")], 651),
        create(&[("DiskID", "disk-none")], 200),
        create(&[("DiskID", s)], 200),
        create(&[("Region", "eu")], 200),
        create(&[("Region", "CN")], 400),
        // Lengths are of characters.
        create(&[("Name", &long(129))], 4),
        create(&[("Remark", &long(101))], 4),
        create(&[("Name", "a\nb")], 4),
        create(&[("Name", "a\u{7f}")], 4),
        create(&[("Type", "manual")], 4),
        create(&[("Type", "Other")], 4),
        create(&[("MemberID", "-1")], 4),
        create(&[("MemberID", "seven")], 4),
        row("RollbackSnapshot", &[("Region", "cn"), ("DiskID", "disk-none"), ("SnapshotID", s)], 200),
        row("RollbackSnapshot", &[("Region", "cn"), ("DiskID", d), ("SnapshotID", "disksnapshot-none")], 200),
        row("RollbackSnapshot", &[("Region", "cn"), ("DiskID", o), ("SnapshotID", s)], 113),
        row("RollbackSnapshot", &[("Region", "cn"), ("DiskID", d), ("SnapshotID", s), ("MemberID", "-1")], 4),
        row("RollbackSnapshot", &[("Region", "mars"), ("DiskID", d), ("SnapshotID", s)], 400),
        row("DeleteSnapshot", &[("Region", "cn"), ("SnapshotID", d)], 200),
        row("DeleteSnapshot", &[("Region", "eu"), ("SnapshotID", s)], 200),
        row("DeleteSnapshot", &[("Region", "mars"), ("SnapshotID", s)], 400),
        row("DeleteSnapshot", &[("Region", "cn"), ("SnapshotID", s), ("CompanyID", "1.0")], 4),
    ];
    for bad in ["+1", " 1", "1 ", "1.0", "1e3", "0x1", "９", "9223372036854775808", "--1", "-", "true"] {
        for name in ["CompanyID", "MemberID", "Offset", "Limit"] {
            rows.push(row("DescribeSnapshot", &[("Region", "cn"), (name, bad)], 4));
        }
    }
    for (name, value) in [("Limit", "-1"), ("Limit", "101"), ("Offset", "-1"), ("MemberID", "-1")] {
        rows.push(row("DescribeSnapshot", &[("Region", "cn"), (name, value)], 4));
    }
    for name in ["SnapshotIDs.x", "SnapshotIDs.", "SnapshotIDs.-1", "ProjectIDs.0.1", "ProjectIDs.99999999999999999999"]
    {
        rows.push(row("DescribeSnapshot", &[("Region", "cn"), (name, "a")], 4));
    }
    rows.push(row("DescribeSnapshot", &[("Region", "cn"), ("SnapshotIDs.0", "a"), ("SnapshotIDs.00", "b")], 4));
    rows.push(row("DescribeSnapshot", &[("Region", "cn"), ("SnapshotIDs.0", "a"), ("SnapshotIDs", "b")], 4));
    let many: Vec<_> = (0..=ARRAY_MAX).map(|i| format!("SnapshotIDs.{i}")).collect();
    let mut params = vec![("Region", "cn".to_owned())];
    params.extend(many.iter().map(|name| (name.as_str(), "x".to_owned())));
    rows.push(("DescribeSnapshot", params.clone(), 4));
    params.pop();
    rows.push(("DescribeSnapshot", params, 0));
    table(&w, &me, &rows);

    // The longest that fit; what is unknown is ignored, and so is an empty value.
    table(
        &w,
        &me,
        &[
            create(&[("Name", &long(128)), ("Remark", &long(100)), ("Type", "Manual"), ("MemberID", "0")], 0),
            create(&[("CompanyID", "999"), ("MemberID", "")], 0),
            create(&[("Zone", "zone-01"), ("Tag.x", "y"), ("ProjectID", "p1"), ("Remark", "")], 0),
            create(&[("CompanyID", "-9223372036854775808")], 0),
        ],
    );
}

#[test]
fn what_create_keeps_describe_shows() {
    let w = World::new();
    let me = main_account();
    let params = [("Region", "cn"), ("Name", "d"), ("DiskSpace", "3"), ("DiskType", "Boot")];
    let disk = w.get(&me, "CreateDisk", &params, "DiskID");
    let params = [("Region", "cn"), ("DiskID", &disk), ("ResourceID", "vm-1")];
    w.get(&me, "AttachDisk", &params, "");
    let params = [
        ("Region", "cn"),
        ("Name", "快照-1"),
        ("DiskID", &disk),
        ("Remark", "a&b=c +%20"),
        ("ProjectID", "p1"),
        ("Type", "Automatic"),
    ];
    let id = w.get(&me, "CreateSnapshot", &params, "SnapshotID");
    let tail = id.strip_prefix("disksnapshot-").unwrap();
    assert!(tail.len() == 14 && tail.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase()), "{id}");
    let want = json!({
        "Region": "cn", "Name": "快照-1", "Remark": "a&b=c +%20", "CompanyID": 1, "ProjectID": "p1",
        "ProjectName": "Project p1", "SnapshotID": id, "SnapshotStatus": "Normal", "Type": "Automatic",
        "DiskID": disk, "DiskType": "Boot", "DiskAttachResourceID": "vm-1", "DiskAttachResourceType": "VM",
        "CreateTime": START, "SnapshotSize": 3, "Email": "seven@1.example",
    });
    assert_eq!(w.list(&me, &[]), (1, vec![want.clone()]));
    // The attachment is the present one.
    w.get(&me, "DetachDisk", &[("Region", "cn"), ("DiskID", &disk), ("ResourceID", "vm-1")], "");
    let plain = w.snapshot(&Caller::main(1, 0), &disk, "plain");
    let (_, infos) = w.list(&me, &[]);
    assert_eq!((&infos[0]["DiskAttachResourceID"], &infos[0]["DiskAttachResourceType"]), (&json!(""), &json!("")));
    let want = json!({
        "Region": "cn", "Name": "plain", "Remark": "", "CompanyID": 1, "ProjectID": "default", "ProjectName": "default",
        "SnapshotID": plain, "SnapshotStatus": "Normal", "Type": "Manual", "DiskID": disk, "DiskType": "Boot",
        "DiskAttachResourceID": "", "DiskAttachResourceType": "", "CreateTime": START, "SnapshotSize": 3, "Email": "",
    });
    assert_eq!(infos[1], want);
    // All of it is in the store.
    let again = World { service: w.again(), store: w.store.clone(), clock: w.clock.clone() };
    assert_eq!(again.everything(), w.everything());
    // Sizes are rounded up to GiB, of the moment of the snapshot.
    w.get(&me, "UpgradeDisk", &[("Region", "cn"), ("DiskID", &disk), ("DiskSpace", "4")], "");
    assert_eq!(w.list(&me, &[]).1[1]["SnapshotSize"], 3);
    let odd = w.store.create_volume("odd", (1 << 30) + 512).unwrap();
    w.service.adopt(&odd, "cn", 1, "odd").unwrap();
    let id = w.snapshot(&me, "odd", "odd");
    assert_eq!(w.list(&me, &[("SnapshotIDs.0", &id)]).1[0]["SnapshotSize"], 2);
}

#[test]
fn rollback_takes_content_and_keeps_size_and_snapshots() {
    let w = World::new();
    let me = main_account();
    let disk = w.disk(&me);
    let mut snaps = Vec::new();
    for byte in 1..=3 {
        w.fill(&disk, byte);
        snaps.push(w.snapshot(&me, &disk, &format!("s{byte}")));
    }
    w.fill(&disk, 4);
    for turn in [2, 0, 1, 1, 0, 2] {
        let params = [("Region", "cn"), ("DiskID", &*disk), ("SnapshotID", &*snaps[turn])];
        w.get(&me, "RollbackSnapshot", &params, "");
        assert_eq!(w.byte(&disk), turn as u8 + 1);
        w.fill(&disk, 9);
        assert_eq!(w.names(&me, &[]), ["s1", "s2", "s3"]);
        assert!(w.list(&me, &[]).1.iter().all(|i| i["SnapshotStatus"] == "Normal"));
    }
    // Grown since: the size stays, and beyond the snapshot there are zeros.
    w.get(&me, "UpgradeDisk", &[("Region", "cn"), ("DiskID", &disk), ("DiskSpace", "2")], "");
    let volume = w.store.volume(&disk).unwrap();
    volume.write_at(&[5; 4096], (1 << 30) + 4096).unwrap();
    w.get(&me, "RollbackSnapshot", &[("Region", "cn"), ("DiskID", &disk), ("SnapshotID", &snaps[0])], "");
    assert_eq!((volume.size().unwrap(), w.byte(&disk)), (2 << 30, 1));
    let mut buf = [1; 4096];
    volume.read_at(&mut buf, (1 << 30) + 4096).unwrap();
    assert_eq!(buf, [0; 4096]);
    assert!(w.store.check().unwrap().is_clean());
}

#[test]
fn a_running_vm_forbids_rollback_and_nothing_else() {
    let w = World::new();
    let me = main_account();
    let disk = w.disk(&me);
    w.fill(&disk, 1);
    let snap = w.snapshot(&me, &disk, "before");
    w.get(&me, "AttachDisk", &[("Region", "cn"), ("DiskID", &disk), ("ResourceID", "vm-1")], "");
    w.fill(&disk, 2);
    let rollback = [("Region", "cn"), ("DiskID", &*disk), ("SnapshotID", &*snap)];
    assert_eq!(w.code(&me, "RollbackSnapshot", &rollback), 1014);
    w.snapshot(&me, &disk, "while it runs");
    w.service.set_vm_running("vm-1", false);
    assert_eq!(w.code(&me, "RollbackSnapshot", &rollback), 0);
    assert_eq!(w.byte(&disk), 1);
    w.service.set_vm_running("vm-1", true);
    assert_eq!(w.code(&me, "RollbackSnapshot", &rollback), 1014);
    assert_eq!(w.code(&me, "DeleteSnapshot", &[("Region", "cn"), ("SnapshotID", &snap)]), 0);
}

#[test]
fn deleted_is_gone_and_shown_as_released_until_reclaimed() {
    let w = World::new();
    let me = main_account();
    let disk = w.disk(&me);
    w.fill(&disk, 1);
    let first = w.snapshot(&me, &disk, "first");
    w.fill(&disk, 2);
    let second = w.snapshot(&me, &disk, "second");
    w.fill(&disk, 3);
    let delete = [("Region", "cn"), ("SnapshotID", &*first)];
    assert_eq!(w.code(&me, "DeleteSnapshot", &delete), 0);
    assert_eq!(w.names(&me, &[]), ["second"]);
    let (total, infos) = w.list(&me, &[("SnapshotIDs.0", &first)]);
    assert_eq!((total, &infos[0]["SnapshotStatus"], &infos[0]["Name"]), (1, &json!("Released"), &json!("first")));
    assert_eq!(infos[0].as_object().unwrap().len(), 16);
    assert_eq!(w.list(&me, &[("SnapshotIDs.0", &first), ("DiskID", &disk)]).0, 1);
    assert_eq!(w.list(&Caller::main(2, 0), &[("SnapshotIDs.0", &first)]).0, 0);
    // Deleted is unknown to every other action.
    assert_eq!(w.code(&me, "DeleteSnapshot", &delete), 200);
    let rollback = [("Region", "cn"), ("DiskID", &*disk), ("SnapshotID", &*first)];
    assert_eq!(w.code(&me, "RollbackSnapshot", &rollback), 200);
    w.store.checkpoint().unwrap();
    w.store.wait_reclaimed().unwrap();
    assert_eq!(w.list(&me, &[("SnapshotIDs.0", &first)]).0, 0);
    let rollback = [("Region", "cn"), ("DiskID", &*disk), ("SnapshotID", &*second)];
    assert_eq!((w.byte(&disk), w.code(&me, "RollbackSnapshot", &rollback), w.byte(&disk)), (3, 0, 2));
}

#[test]
fn a_disk_has_so_many_manual_snapshots() {
    let w = World::new();
    let me = main_account();
    let disk = w.disk(&me);
    let create = [("Region", "cn"), ("Name", "n"), ("DiskID", &*disk)];
    for _ in 0..10 {
        assert_eq!(w.code(&me, "CreateSnapshot", &create), 0);
    }
    assert_eq!(w.code(&me, "CreateSnapshot", &create), 7000);
    let automatic = [create[0], create[1], create[2], ("Type", "Automatic")];
    for _ in 0..3 {
        assert_eq!(w.code(&me, "CreateSnapshot", &automatic), 0);
    }
    let one = w.list(&me, &[]).1[4]["SnapshotID"].as_str().unwrap().to_owned();
    assert_eq!(w.code(&me, "DeleteSnapshot", &[("Region", "cn"), ("SnapshotID", &one)]), 0);
    assert_eq!(w.code(&me, "CreateSnapshot", &create), 0);
    assert_eq!(w.code(&me, "CreateSnapshot", &create), 7000);
    let mut directory = super::directory();
    directory.companies.get_mut(&1).unwrap().limits.snapshots_per_disk = 0;
    w.service.set_directory(directory.clone());
    for _ in 0..5 {
        assert_eq!(w.code(&me, "CreateSnapshot", &create), 0);
    }
    directory.companies.get_mut(&1).unwrap().limits.snapshots_per_disk = 200;
    w.service.set_directory(directory);
    assert_eq!(w.code(&me, "CreateSnapshot", &create), 0);
}

#[test]
fn deletion_can_be_switched_off() {
    let w = World::new();
    let me = main_account();
    let disk = w.disk(&me);
    let snap = w.snapshot(&me, &disk, "kept");
    let mut directory = super::directory();
    directory.companies.get_mut(&1).unwrap().limits.delete_snapshots = false;
    w.service.set_directory(directory);
    assert_eq!(w.code(&me, "DeleteSnapshot", &[("Region", "cn"), ("SnapshotID", &snap)]), 209);
    assert_eq!(w.code(&me, "DeleteSnapshot", &[("Region", "cn"), ("SnapshotID", "disksnapshot-none")]), 200);
    assert_eq!(w.code(&me, "DeleteDisk", &[("Region", "cn"), ("DiskID", &disk)]), 209);
    assert_eq!(w.names(&me, &[]), ["kept"]);
}

#[test]
fn json_values_keep_their_types() {
    let w = World::new();
    let me = main_account();
    let disk = w.disk(&me);
    let (a, b) = (w.snapshot(&me, &disk, "a"), w.snapshot(&me, &disk, "b"));
    let call = |action: &str, text: &str| {
        let text = text.replace("DISK", &disk).replace("AAA", &a).replace("BBB", &b);
        w.service.call(&me, action, &Params::from_json(text.as_bytes()).unwrap())
    };
    let total = |text: &str| call("DescribeSnapshot", text)["TotalCount"].as_u64();
    assert_eq!(total(r#"{"Region":"cn","SnapshotIDs":["AAA","BBB",""]}"#), Some(2));
    assert_eq!(total(r#"{"Region":"cn","SnapshotIDs.3":"AAA","SnapshotIDs.11":"BBB"}"#), Some(2));
    assert_eq!(total(r#"{"Region":"cn","SnapshotIDs":"AAA"}"#), Some(1));
    assert_eq!(total(r#"{"Region":"cn","SnapshotIDs":[],"ProjectIDs":null,"Keyword":null}"#), Some(2));
    assert_eq!(total(r#"{"Region":"cn","SnapshotIDs":["",null]}"#), Some(2));
    assert_eq!(total(r#"{"Region":"cn","Limit":1.0,"Offset":"1","MemberID":7}"#), Some(2));
    for bad in [
        r#"{"Region":"cn","Limit":1.5}"#,
        r#"{"Region":"cn","Limit":true}"#,
        r#"{"Region":"cn","Limit":[1]}"#,
        r#"{"Region":"cn","Limit":1e300}"#,
        r#"{"Region":"cn","MemberID":18446744073709551615}"#,
        r#"{"Region":"cn","Keyword":5}"#,
        r#"{"Region":"cn","SnapshotIDs":[1]}"#,
        r#"{"Region":"cn","SnapshotIDs":{"0":"a"}}"#,
        r#"{"Region":["cn"]}"#,
    ] {
        assert_eq!(call("DescribeSnapshot", bad)["RetCode"], 4, "{bad}");
    }
    assert_eq!(call("CreateSnapshot", r#"{"Region":"cn","Name":null,"DiskID":"DISK"}"#)["RetCode"], 3);
    for bad in ["", "[]", "1", "{", r#"{"a":1,"a":2}"#, r#"{"a":1} x"#, "\u{fffe}", r#"{"a":"\ud800"}"#] {
        assert_eq!(Params::from_json(bad.as_bytes()).unwrap_err().code().number(), 4, "{bad}");
    }
    assert_eq!(Params::from_pairs([("a", "1"), ("a", "1")]).unwrap_err().code().number(), 4);
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(Params::from_json(deep.as_bytes()).unwrap_err().code().number(), 4);
}

#[test]
fn a_store_that_is_closed_answers_so() {
    let w = World::new();
    let me = main_account();
    let disk = w.disk(&me);
    w.store.clone().close().unwrap();
    let answer = w.call(&me, "CreateSnapshot", &[("Region", "cn"), ("Name", "n"), ("DiskID", &disk)]);
    assert_eq!(answer["RetCode"], 2);
    assert_eq!(w.list(&me, &[]).0, 0);
}
