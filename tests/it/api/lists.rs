//! DescribeSnapshot: filters, pages, order, and what they cost.

use super::{World, main_account};
use snapdisk::{NewOptions, api::Caller};

#[test]
fn filters_are_all_met_and_elements_are_alternatives() {
    let w = World::new();
    let me = main_account();
    let (a, b) = (w.disk(&me), w.disk(&me));
    let make = |disk: &str, name: &str, remark: &str, project: &str, member: &str| {
        let params = [
            ("Region", "cn"),
            ("Name", name),
            ("Remark", remark),
            ("DiskID", disk),
            ("ProjectID", project),
            ("MemberID", member),
        ];
        w.get(&me, "CreateSnapshot", &params, "SnapshotID")
    };
    let one = make(&a, "Nightly 1", "", "default", "7");
    let two = make(&a, "100%_done", "before NIGHTLY", "p1", "8");
    let three = make(&b, "快照", "ümlaut", "p1", "");
    let names = |more: &[(&str, &str)]| w.names(&me, more);
    let all = ["Nightly 1", "100%_done", "快照"];
    assert_eq!(names(&[]), all);
    assert_eq!(names(&[("DiskID", &a)]), all[..2]);
    assert_eq!(names(&[("DiskID", "disk-none")]), [""; 0]);
    assert_eq!(names(&[("DiskID", "")]), all);
    assert_eq!(names(&[("Keyword", "nightly")]), all[..2]);
    assert_eq!(names(&[("Keyword", "NIGHTLY 1")]), all[..1]);
    assert_eq!(names(&[("Keyword", "%_")]), all[1..2], "no wildcards");
    assert_eq!(names(&[("Keyword", "%")]), all[1..2]);
    assert_eq!(names(&[("Keyword", "_")]), all[1..2]);
    assert_eq!(names(&[("Keyword", "照")]), all[2..]);
    assert_eq!(names(&[("Keyword", "Ümlaut")]), [""; 0], "case is ASCII's");
    assert_eq!(names(&[("Keyword", &one)]), [""; 0], "ids are no names");
    assert_eq!(names(&[("Keyword", &"x".repeat(10_000))]), [""; 0]);
    assert_eq!(names(&[("MemberID", "8")]), all[1..2]);
    assert_eq!(names(&[("MemberID", "7")]), [all[0], all[2]]);
    assert_eq!(names(&[("MemberID", "0")]), [""; 0]);
    assert_eq!(names(&[("ProjectIDs.0", "p1")]), all[1..]);
    assert_eq!(names(&[("ProjectIDs.5", "p1"), ("ProjectIDs.2", "default")]), all);
    assert_eq!(names(&[("ProjectIDs.0", "p1"), ("ProjectIDs.1", "p1")]), all[1..]);
    assert_eq!(names(&[("ProjectIDs.0", "nope")]), [""; 0]);
    assert_eq!(names(&[("ProjectIDs.0", ""), ("ProjectIDs.1", "")]), all, "nothing but empty elements is no filter");
    assert_eq!(names(&[("SnapshotIDs", &two)]), all[1..2]);
    assert_eq!(names(&[("SnapshotIDs.0", &three), ("SnapshotIDs.1", &one), ("SnapshotIDs.2", &one)]), [all[0], all[2]]);
    assert_eq!(names(&[("SnapshotIDs.0", "disksnapshot-none"), ("SnapshotIDs.1", &one)]), all[..1]);
    assert_eq!(names(&[("SnapshotIDs.0", &one), ("Keyword", "done")]), [""; 0]);
    assert_eq!(names(&[("DiskID", &a), ("ProjectIDs.0", "p1"), ("Keyword", "night"), ("MemberID", "8")]), all[1..2]);
    assert_eq!(names(&[("DiskID", &b), ("Keyword", "night")]), [""; 0]);
    assert_eq!(w.code(&me, "DescribeSnapshot", &[("Region", "mars")]), 400);
    assert_eq!(w.call(&me, "DescribeSnapshot", &[("Region", "eu")])["TotalCount"], 0);
}

#[test]
fn pages() {
    let w = World::new();
    let me = main_account();
    let disk = w.disk(&me);
    let mut directory = super::directory();
    directory.companies.get_mut(&1).unwrap().limits.snapshots_per_disk = 0;
    w.service.set_directory(directory);
    for i in 0..130 {
        let project = if i % 3 == 0 { "p1" } else { "default" };
        let name = format!("s{i}");
        let params = [("Region", "cn"), ("Name", &*name), ("DiskID", &*disk), ("ProjectID", project)];
        w.get(&me, "CreateSnapshot", &params, "SnapshotID");
    }
    let want = |range: std::ops::Range<usize>| range.map(|i| format!("s{i}")).collect::<Vec<_>>();
    let sub = Caller::sub(1, 7, ["p1", "default"]);
    let paths: &[(&Caller, &[(&str, &str)])] = &[
        (&me, &[]),
        (&me, &[("DiskID", &disk)]),
        (&me, &[("Keyword", "S")]),
        (&me, &[("MemberID", "7")]),
        (&me, &[("ProjectIDs.0", "p1"), ("ProjectIDs.1", "default")]),
        (&sub, &[]),
        (&sub, &[("DiskID", &disk)]),
        (&Caller::admin(), &[]),
        (&Caller::admin(), &[("CompanyID", "1")]),
        (&Caller::admin(), &[("ProjectIDs.0", "default"), ("ProjectIDs.1", "p1")]),
    ];
    for (caller, filter) in paths {
        for (offset, limit, range) in [
            ("", "", 0..20),
            ("", "0", 0..20),
            ("0", "1", 0..1),
            ("37", "", 37..57),
            ("100", "100", 100..130),
            ("129", "100", 129..130),
            ("130", "100", 0..0),
            ("9223372036854775807", "100", 0..0),
            ("", "100", 0..100),
        ] {
            let more: Vec<_> = filter.iter().copied().chain([("Offset", offset), ("Limit", limit)]).collect();
            assert_eq!(w.names(caller, &more), want(range), "{more:?}");
            assert_eq!(w.list(caller, &more).0, 130, "{more:?}");
        }
    }
    let p1: Vec<_> = (0..130).step_by(3).map(|i| format!("s{i}")).collect();
    let more = [("ProjectIDs.0", "p1"), ("Offset", "5"), ("Limit", "7")];
    assert_eq!((w.list(&me, &more).0, w.names(&me, &more)), (p1.len() as u64, p1[5..12].to_vec()));
}

/// Lists are found by position: a page costs itself, whatever there is.
#[test]
fn a_page_costs_what_it_shows() {
    const MANY: usize = 20_000;
    let w = World::new();
    let me = main_account();
    let disks: Vec<_> = (0..4).map(|_| w.disk(&me)).collect();
    for (i, id) in disks.iter().cycle().take(MANY).enumerate() {
        let volume = w.store.volume(id).unwrap();
        let tags = [("api.region", "cn"), ("api.company", "1"), ("api.project", "default"), ("api.disk", id)];
        let tags = tags.iter().map(|(k, v)| (String::from(*k), String::from(*v)));
        let tags = tags.chain([("api.name".to_owned(), format!("s{i}"))]).collect();
        let o = NewOptions::new().tags(tags).durability(snapdisk::Durability::Deferred);
        w.store.snapshot_with(&volume, &format!("disksnapshot-{i:014}"), o).unwrap();
    }
    let w = World { service: w.again(), ..w };
    assert_eq!(w.service.stats().snapshots, MANY as u64);
    let cost = |more: &[(&str, &str)], total: u64| {
        let before = w.service.stats().visited;
        assert_eq!(w.list(&me, more).0, total, "{more:?}");
        w.service.stats().visited - before
    };
    let (all, each) = (MANY as u64, MANY as u64 / 4);
    assert_eq!(cost(&[], all), 20);
    assert_eq!(cost(&[("Offset", "19900"), ("Limit", "100")], all), 100);
    assert_eq!(cost(&[("DiskID", &disks[2]), ("Offset", "4000")], each), 20);
    assert_eq!(cost(&[("ProjectIDs.0", "default"), ("Offset", "4000")], all), 20);
    assert_eq!(cost(&[("SnapshotIDs.0", "disksnapshot-00000000019999")], 1), 1);
    assert!(
        cost(&[("Keyword", "s1")], (1..=19_999).filter(|i: &u64| i.to_string().starts_with('1')).count() as u64) >= all
    );
}
