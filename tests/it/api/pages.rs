//! The page for people: its size with many disks and snapshots, what it finds, and names that try tricks.

use super::{
    main_account,
    wire::{PRIVATE, PUBLIC, Running},
};
use snapdisk::{
    DeleteSnapshots,
    api::{Caller, Company, Directory},
};

struct Visitor {
    server: Running,
    cookie: String,
}

impl Visitor {
    fn new() -> Visitor {
        let server = Running::new(|_| {});
        let body = format!("public_key={PUBLIC}&private_key={PRIVATE}");
        let head = server.request("POST /signin HTTP/1.1", &body).1;
        let line = head.lines().find_map(|l| l.strip_prefix("set-cookie: ")).unwrap();
        let cookie = format!("\r\nCookie: {}", line.split(';').next().unwrap());
        Visitor { server, cookie }
    }
    fn page(&self, path: &str) -> String {
        let (status, _, body) = self.server.request(&format!("GET {path} HTTP/1.1{}", self.cookie), "");
        assert_eq!(status, 200);
        body.as_str().unwrap().to_owned()
    }
    /// Where a form leads.
    fn act(&self, fields: &str) -> String {
        let page = self.page("/");
        let at = page.find("name=\"token\" value=\"").unwrap() + 20;
        let token = page[at..].split('"').next().unwrap();
        let head = format!("POST /do HTTP/1.1{}", self.cookie);
        let (status, head, body) = self.server.request(&head, &format!("token={token}&Region=cn&{fields}"));
        assert_eq!(status, 303, "{body}");
        head.lines().find_map(|l| l.strip_prefix("location: ")).unwrap().to_owned()
    }
}

fn texts(page: &str, before: &str) -> Vec<String> {
    page.split(before).skip(1).map(|rest| rest.split('<').next().unwrap().to_owned()).collect()
}

#[test]
fn a_hundred_disks_make_small_pages() {
    let v = Visitor::new();
    let (w, me) = (&v.server.world, main_account());
    let mut directory = super::directory();
    directory.companies.get_mut(&1).unwrap().limits.snapshots_per_disk = 0;
    w.service.set_directory(directory);
    let long = "长".repeat(100);
    let mut first = String::new();
    for i in 0..100 {
        let name = format!("{long} disk {i}");
        let params = [("Region", "cn"), ("Name", &*name), ("DiskSpace", "1"), ("Remark", &*long)];
        let disk = w.get(&me, "CreateDisk", &params, "DiskID");
        if i < 20 {
            for n in 0..200 {
                let params =
                    [("Region", "cn"), ("Name", &*format!("snapshot {n}")), ("DiskID", &*disk), ("Remark", &long)];
                w.get(&me, "CreateSnapshot", &params, "SnapshotID");
            }
            first = if first.is_empty() { disk } else { first };
        }
    }
    let list = v.page("/");
    assert!(list.len() < 200 << 10, "{} bytes", list.len());
    assert_eq!(list.matches("<section").count(), 20);
    assert!(
        list.contains("200 snapshots</a>, the newest <bdi>snapshot 199</bdi>") && list.contains("Disks 1–20 of 100")
    );
    let found = v.page("/?q=DISK+7");
    assert_eq!(found.matches("<section").count(), 11, "7, and 70 to 79");
    assert!(v.page("/?q=nothing").contains("No disk has that"));
    let last = v.page("/?offset=80");
    assert!(last.contains("disk 99") && !last.contains(">Next<") && last.contains(">Back<"));

    let address = |more: &str| format!("/?Region=cn&disk={first}{more}");
    let tree = v.page(&address(""));
    assert!(tree.len() < 200 << 10, "{} bytes", tree.len());
    let names = texts(&tree, "<span class=\"dot\"></span><b><bdi>");
    let newest: Vec<String> = (100..200).rev().map(|n| format!("snapshot {n}")).collect();
    assert_eq!(names, newest, "newest first");
    assert!(tree.contains("you are here") && tree.contains("Snapshots 1–100 of 200"));
    let older = v.page(&address("&offset=100"));
    assert!(older.contains("snapshot 0<") && !older.contains("snapshot 100<") && !older.contains("you are here"));
    let found = v.page(&address("&q=shot+19"));
    assert_eq!(texts(&found, "<span class=\"dot\"></span><b><bdi>").len(), 11);
}

#[test]
fn each_action_returns_to_its_place() {
    let v = Visitor::new();
    let w = &v.server.world;
    assert!(v.page("/").contains("No disks yet. Make one above"));
    let to = v.act("Action=CreateDisk&Name=d&DiskSpace=1");
    let disk = to.split("disk=").nth(1).unwrap().split('&').next().unwrap().to_owned();
    assert!(to.ends_with("#now"), "{to}");
    let empty = v.page(to.split('#').next().unwrap());
    assert!(
        empty.contains("No snapshots. Take one above") && v.page("/?done=CreateDisk").contains("Done: disk created")
    );
    let to = v.act(&format!("Action=CreateSnapshot&DiskID={disk}&Name=s&disk={disk}&offset=7"));
    let snapshot = to.split('#').nth(1).unwrap().to_owned();
    assert!(snapshot.starts_with("disksnapshot-") && !to.contains("offset"), "{to}");
    let page = v.page(to.split('#').next().unwrap());
    assert!(page.contains(&format!("<li id=\"{snapshot}\">")), "what it returns to is there");
    assert!(!page.contains("value=\"RollbackSnapshot\""), "its actions are a page away");
    let chosen = v.page(&format!("/?disk={disk}&snapshot={snapshot}"));
    for action in ["RollbackSnapshot", "CreateDiskFromSnapshot", "DeleteSnapshot"] {
        assert!(chosen.contains(&format!("value=\"{action}\"")), "{action}");
    }
    let to = v.act(&format!("Action=RollbackSnapshot&DiskID={disk}&SnapshotID={snapshot}&disk={disk}"));
    assert!(to.ends_with("#now") && to.contains(&disk), "{to}");
    let to = v.act(&format!("Action=CreateSnapshot&DiskID={disk}&Name=t&offset=20&q=x"));
    assert_eq!(to, format!("/?region=cn&q=x&offset=20&done=createsnapshot#{disk}"), "in the list, at the disk");

    // A snapshot goes to its disk's project, unless somebody chooses another.
    let params = [("Region", "cn"), ("Name", "theirs"), ("DiskSpace", "1"), ("ProjectID", "p1")];
    let theirs = w.get(&main_account(), "CreateDisk", &params, "DiskID");
    assert!(v.page(&format!("/?disk={theirs}")).contains("<option value=\"p1\" selected>"));

    // Detach is there where there is something to detach.
    assert!(!v.page("/").contains("value=\"DetachDisk\""));
    let attach = [("Region", "cn"), ("DiskID", &*disk), ("ResourceID", "vm-<1>")];
    assert_eq!(w.code(&main_account(), "AttachDisk", &attach), 0);
    let page = v.page("/");
    assert!(page.contains("value=\"DetachDisk\"") && page.contains("bound to VM <bdi>vm-&lt;1&gt;</bdi>"));
    v.act(&format!("Action=DetachDisk&DiskID={disk}&ResourceID=vm-%3C1%3E"));
    v.act(&format!("Action=DeleteDisk&DiskID={disk}&disk={disk}"));
    assert!(v.page(&format!("/?disk={disk}")).contains("There is no such disk"));
}

/// Whatever a name is made of, it stays in its place, in the direction of the page.
#[test]
fn names_are_kept_apart() {
    let v = Visitor::new();
    let (w, me) = (&v.server.world, main_account());
    let evil = "<b>\u{202e}gnp.\"'&";
    let disk = w.get(&me, "CreateDisk", &[("Region", "cn"), ("Name", evil), ("DiskSpace", "1")], "DiskID");
    let params = [("Region", "cn"), ("Name", evil), ("DiskID", &*disk), ("Remark", evil)];
    w.get(&me, "CreateSnapshot", &params, "SnapshotID");
    let shown = "<bdi>&lt;b&gt;\u{202e}gnp.&quot;&#39;&amp;</bdi>";
    for page in [v.page("/"), v.page(&format!("/?disk={disk}"))] {
        assert!(page.matches(shown).count() >= 2, "{page}");
        assert_eq!(page.matches('\u{202e}').count(), page.matches(shown).count(), "nowhere else");
    }
    // What is asked for is shown as what it is, too.
    let page = v.page(&format!("/?disk={disk}&q=%22%3E%3Cscript%3E&snapshot=%22%3E%3Cscript%3E&offset=%22"));
    assert!(!page.contains("<script"));
}

/// Sizes are there once they were counted, and what came since says so.
#[test]
fn sizes_do_not_vanish() {
    let v = Visitor::new();
    let (w, me) = (&v.server.world, main_account());
    let disk = w.disk(&me);
    w.fill(&disk, 1);
    w.snapshot(&me, &disk, "s");
    let path = format!("/?disk={disk}");
    while v.page(&path).contains("counted") {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    v.act(&format!("Action=CreateSnapshot&DiskID={disk}&Name=t&disk={disk}"));
    let page = v.page(&path);
    assert!(page.matches("its own").count() >= 2, "those that were known stay: {page}");
}

/// A tree with branches: the way of the disk is open, the others are closed, and a chosen snapshot is never hidden.
#[test]
fn branches_are_closed_but_for_the_disks_own() {
    let v = Visitor::new();
    let (w, me) = (&v.server.world, main_account());
    let disk = w.disk(&me);
    let one = w.snapshot(&me, &disk, "one");
    let two = w.snapshot(&me, &disk, "two");
    let back = |to: &str| {
        let params = [("Region", "cn"), ("DiskID", &*disk), ("SnapshotID", to)];
        assert_eq!(w.code(&me, "RollbackSnapshot", &params), 0);
    };
    back(&one);
    w.snapshot(&me, &disk, "three");
    let page = v.page(&format!("/?disk={disk}"));
    assert_eq!(texts(&page, "<span class=\"dot\"></span><b><bdi>"), ["three", "one", "two"]);
    assert!(page.contains("<details class=\"aside\"><summary>1 snapshot on another branch</summary>"), "{page}");
    let page = v.page(&format!("/?disk={disk}&snapshot={two}"));
    assert!(page.contains("<details open class=\"aside\">"), "{page}");
    // Without its root the rest is still a forest.
    assert_eq!(w.code(&me, "DeleteSnapshot", &[("Region", "cn"), ("SnapshotID", &one)]), 0);
    let page = v.page(&format!("/?disk={disk}"));
    assert_eq!(texts(&page, "<span class=\"dot\"></span><b><bdi>"), ["three", "two"]);
    // Another tenant's page has nothing of it, and a disk that went behind the page's back is none.
    assert!(!w.names(&Caller::main(2, 7), &[]).contains(&"three".to_owned()));
    let volume = w.store.volume(&disk).unwrap();
    w.store.delete_volume(&volume, DeleteSnapshots::Delete).unwrap();
    v.page(&format!("/?disk={disk}"));
    w.service.set_directory(Directory { companies: [(2, Company::new(2, "two"))].into(), ..super::directory() });
    v.page("/");
}
