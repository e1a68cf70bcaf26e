//! Random actions of several tenants against a model that is as simple as the contract.

use super::World;
use proptest::prelude::*;
use snapdisk::api::Caller;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
enum Act {
    CreateDisk,
    Write(usize, u8),
    Snapshot(usize),
    Rollback(usize, usize),
    DeleteSnapshot(usize),
    DeleteDisk(usize),
    Bind(usize, bool),
    Clone(usize),
    FromSnapshot(usize),
    Reopen,
}

#[derive(Clone, Debug)]
struct Disk {
    company: i64,
    project: &'static str,
    byte: u8,
    bound: bool,
}

#[derive(Clone, Debug)]
struct Snap {
    company: i64,
    project: &'static str,
    disk: String,
    byte: u8,
    name: String,
}

fn callers() -> [(Caller, &'static str); 4] {
    [
        (Caller::main(1, 7), "default"),
        (Caller::sub(1, 8, ["p1"]), "p1"),
        (Caller::main(2, 7), "default"),
        (Caller::admin(), "default"),
    ]
}

fn sees(caller: &Caller, company: i64, project: &str) -> bool {
    caller.admin
        || caller.company == Some(company)
            && caller.projects.as_ref().is_none_or(|list| list.iter().any(|p| p == project))
}

fn acts() -> impl Strategy<Value = Vec<(usize, Act)>> {
    let n = 0..6_usize;
    let act = prop_oneof![
        3 => Just(Act::CreateDisk),
        4 => (n.clone(), 1..9_u8).prop_map(|(d, b)| Act::Write(d, b)),
        6 => n.clone().prop_map(Act::Snapshot),
        4 => (n.clone(), n.clone()).prop_map(|(d, s)| Act::Rollback(d, s)),
        3 => n.clone().prop_map(Act::DeleteSnapshot),
        1 => n.clone().prop_map(Act::DeleteDisk),
        2 => (n.clone(), any::<bool>()).prop_map(|(d, b)| Act::Bind(d, b)),
        1 => n.clone().prop_map(Act::Clone),
        2 => n.prop_map(Act::FromSnapshot),
        1 => Just(Act::Reopen),
    ];
    prop::collection::vec((0..4_usize, act), 1..60)
}

fn run(acts: &[(usize, Act)]) -> Result<(), TestCaseError> {
    let mut w = World::new();
    let (mut disks, mut snaps) = (BTreeMap::<String, Disk>::new(), BTreeMap::<String, Snap>::new());
    let mut order: Vec<String> = Vec::new();
    // Not by number modulo what there is: a deleted disk stays a name that can be asked for.
    let (mut disk_names, mut snap_names) = (Vec::<String>::new(), Vec::<String>::new());
    let pick =
        |list: &[String], n: usize| list.get(n % list.len().max(1)).cloned().unwrap_or_else(|| "none".to_owned());
    for (i, (who, act)) in acts.iter().enumerate() {
        let (caller, project) = &callers()[*who];
        let cn = ("Region", "cn");
        let disk = |d: usize, disks: &BTreeMap<String, Disk>| {
            let id = pick(&disk_names, d);
            let seen = disks.get(&id).filter(|x| sees(caller, x.company, x.project)).cloned();
            (id, seen)
        };
        let snap = |s: usize, snaps: &BTreeMap<String, Snap>| {
            let id = pick(&snap_names, s);
            let seen = snaps.get(&id).filter(|x| sees(caller, x.company, x.project)).cloned();
            (id, seen)
        };
        match act {
            Act::CreateDisk => {
                let company = caller.company.unwrap_or(2);
                let text = company.to_string();
                let params = [cn, ("Name", "d"), ("DiskSpace", "1"), ("ProjectID", project), ("CompanyID", &text)];
                let id = w.get(caller, "CreateDisk", &params, "DiskID");
                disks.insert(id.clone(), Disk { company, project, byte: 0, bound: false });
                disk_names.push(id);
            }
            Act::Write(d, byte) => {
                let id = pick(&disk_names, *d);
                if let Some(disk) = disks.get_mut(&id) {
                    w.fill(&id, *byte);
                    disk.byte = *byte;
                }
            }
            Act::Snapshot(d) => {
                let (id, seen) = disk(*d, &disks);
                let name = format!("s{i}");
                let params = [cn, ("Name", &name), ("DiskID", &id), ("ProjectID", project)];
                let answer = w.call(caller, "CreateSnapshot", &params);
                let manual = snaps.values().filter(|s| s.disk == id).count();
                let want = match &seen {
                    None => 200,
                    Some(_) if manual >= 10 => 7000,
                    Some(_) => 0,
                };
                prop_assert_eq!(&answer["RetCode"], want, "{}", answer);
                if let (0, Some(disk)) = (want, seen) {
                    let new = answer["SnapshotID"].as_str().unwrap().to_owned();
                    let s = Snap { company: disk.company, project, disk: id, byte: disk.byte, name };
                    snaps.insert(new.clone(), s);
                    order.push(new.clone());
                    snap_names.push(new);
                }
            }
            Act::Rollback(d, s) => {
                let ((d, disk), (s, snap)) = (disk(*d, &disks), snap(*s, &snaps));
                let code = w.code(caller, "RollbackSnapshot", &[cn, ("DiskID", &d), ("SnapshotID", &s)]);
                let want = match (&disk, &snap) {
                    (None, _) | (_, None) => 200,
                    (_, Some(snap)) if snap.disk != d => 113,
                    (Some(disk), _) if disk.bound => 1014,
                    _ => 0,
                };
                prop_assert_eq!(code, want);
                if let (0, Some(snap)) = (want, snap) {
                    disks.get_mut(&d).unwrap().byte = snap.byte;
                }
            }
            Act::DeleteSnapshot(s) => {
                let (id, seen) = snap(*s, &snaps);
                let code = w.code(caller, "DeleteSnapshot", &[cn, ("SnapshotID", &id)]);
                prop_assert_eq!(code, if seen.is_some() { 0 } else { 200 });
                if seen.is_some() {
                    snaps.remove(&id);
                    order.retain(|x| *x != id);
                }
            }
            Act::DeleteDisk(d) => {
                let (id, seen) = disk(*d, &disks);
                let code = w.code(caller, "DeleteDisk", &[cn, ("DiskID", &id)]);
                let hidden = snaps.values().any(|s| s.disk == id && !sees(caller, s.company, s.project));
                let want = seen.map_or(200, |d| if d.bound || hidden { 5000 } else { 0 });
                prop_assert_eq!(code, want);
                if want == 0 {
                    disks.remove(&id);
                    snaps.retain(|_, s| s.disk != id);
                    order.retain(|x| snaps.contains_key(x));
                }
            }
            Act::Bind(d, bind) => {
                let (id, seen) = disk(*d, &disks);
                let action = if *bind { "AttachDisk" } else { "DetachDisk" };
                let code = w.code(caller, action, &[cn, ("DiskID", &id), ("ResourceID", "vm-1")]);
                let want = seen.map_or(200, |d| if d.bound == *bind { 5000 } else { 0 });
                prop_assert_eq!(code, want);
                if want == 0 {
                    disks.get_mut(&id).unwrap().bound = *bind;
                }
            }
            Act::Clone(d) => {
                let (id, seen) = disk(*d, &disks);
                let answer = w.call(caller, "CloneDisk", &[cn, ("SrcID", &id), ("Name", "c")]);
                let want = seen.as_ref().map_or(200, |d| if d.bound { 5000 } else { 0 });
                prop_assert_eq!(&answer["RetCode"], want);
                if let (0, Some(disk)) = (want, seen) {
                    let new = answer["DiskID"].as_str().unwrap().to_owned();
                    disks.insert(new.clone(), disk);
                    disk_names.push(new);
                }
            }
            Act::FromSnapshot(s) => {
                let (id, seen) = snap(*s, &snaps);
                let answer = w.call(caller, "CreateDiskFromSnapshot", &[cn, ("SrcSnapshotID", &id), ("Name", "f")]);
                prop_assert_eq!(&answer["RetCode"], if seen.is_some() { 0 } else { 200 });
                if let Some(s) = seen {
                    let new = answer["DiskID"].as_str().unwrap().to_owned();
                    let disk = Disk { company: s.company, project: s.project, byte: s.byte, bound: false };
                    disks.insert(new.clone(), disk);
                    disk_names.push(new);
                }
            }
            Act::Reopen => w = World { service: w.again(), ..w },
        }
        for (caller, _) in callers() {
            let want: Vec<&str> = order
                .iter()
                .map(|id| &snaps[id])
                .filter(|s| sees(&caller, s.company, s.project))
                .map(|s| &*s.name)
                .collect();
            prop_assert_eq!(w.names(&caller, &[("Limit", "100")]), want);
        }
    }
    for (id, disk) in &disks {
        prop_assert_eq!(w.byte(id), disk.byte);
    }
    for (id, s) in &snaps {
        let mut buf = [0; 10_000];
        w.store.volume(&s.disk).unwrap().snapshot_named(id).unwrap().read_at(&mut buf, 5_000).unwrap();
        prop_assert!(buf.iter().all(|&b| b == s.byte), "{} is not what it was", s.name);
    }
    prop_assert_eq!(w.store.volumes().unwrap().len(), disks.len());
    prop_assert_eq!(w.store.snapshots().unwrap().len(), snaps.len());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn tenants_at_random(acts in acts()) {
        run(&acts)?;
    }
}
