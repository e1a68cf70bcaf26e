//! Automatic snapshots.

use super::{START, World, main_account};
use snapdisk::api::{Every, Schedule, Ticked};
use std::sync::atomic::Ordering::SeqCst;

fn nightly(keep: usize) -> Vec<Schedule> {
    let every = Every::Day { hour: 3, minute: 0 };
    vec![Schedule { name: "nightly".into(), company: None, disks: Vec::new(), every, keep }]
}

#[test]
fn when_each_is_due() {
    // 2023-11-14 22:13:20, a Tuesday.
    let now = START as i64;
    let day = now.div_euclid(86_400) * 86_400;
    assert_eq!(Every::Hour { minute: 13 }.last_due(now), now - 20);
    assert_eq!(Every::Hour { minute: 14 }.last_due(now), now - 20 + 60 - 3600);
    assert_eq!(Every::Day { hour: 22, minute: 13 }.last_due(now), now - 20);
    assert_eq!(Every::Day { hour: 23, minute: 0 }.last_due(now), day - 3600);
    assert_eq!(Every::Week { day: 1, hour: 0, minute: 0 }.last_due(now), day);
    assert_eq!(Every::Week { day: 2, hour: 0, minute: 0 }.last_due(now), day - 6 * 86_400);
    assert_eq!(Every::Week { day: 0, hour: 12, minute: 30 }.last_due(now), day - 86_400 + 12 * 3600 + 1800);
    assert_eq!(Every::Day { hour: 0, minute: 0 }.last_due(day), day);
    assert_eq!(Every::Week { day: 3, hour: 0, minute: 0 }.last_due(0), 0);
}

#[test]
fn taken_once_each_time_and_the_oldest_goes() {
    let mut w = World::new();
    let me = main_account();
    let disk = w.disk(&me);
    w.snapshot(&me, &disk, "manual");
    let schedules = nightly(3);
    let tick = |w: &World, hours: u64| {
        w.clock.seconds.fetch_add(hours * 3600, SeqCst);
        let t = w.service.run_schedules(&schedules);
        (t.taken, t.deleted)
    };
    assert_eq!(tick(&w, 0), (0, 0), "a new disk waits for the next time");
    assert_eq!(tick(&w, 1), (0, 0));
    assert_eq!(tick(&w, 4), (1, 0));
    assert_eq!(tick(&w, 1), (0, 0));
    let infos = w.list(&me, &[]).1;
    let name = infos[1]["Name"].as_str().unwrap();
    assert_eq!((&infos[1]["Type"], name), (&"Automatic".into(), "nightly 2023-11-15 03:00"));
    // Restarts change nothing; downtime is caught up with once.
    for (hours, want) in [(0, (0, 0)), (24, (1, 0)), (240, (1, 0)), (1, (0, 0)), (24, (1, 1)), (24, (1, 1))] {
        w = World { service: w.again(), ..w };
        assert_eq!(tick(&w, hours), want);
    }
    assert_eq!(w.list(&me, &[]).0, 4);
    assert_eq!(w.names(&me, &[])[0], "manual");
    // A clock that was set forward and back again stops nothing.
    assert_eq!(tick(&w, 100_000), (1, 1));
    w.clock.seconds.fetch_sub(99_000 * 3600, SeqCst);
    assert_eq!((tick(&w, 0), tick(&w, 0)), ((1, 1), (0, 0)));
    // Keeping fewer takes effect at once; user's own deletions bring nothing back.
    let ticked = w.service.run_schedules(&nightly(1));
    assert_eq!((ticked.taken, ticked.deleted, ticked.waiting, ticked.failed), (0, 2, 0, 0));
    let last = w.list(&me, &[("Keyword", "nightly")]).1[0]["SnapshotID"].as_str().unwrap().to_owned();
    assert_eq!(w.code(&me, "DeleteSnapshot", &[("Region", "cn"), ("SnapshotID", &last)]), 0);
    assert_eq!(tick(&w, 0), (0, 0));
    assert!(w.store.check().unwrap().is_clean());
}

#[test]
fn schedules_are_apart_and_choose_their_disks() {
    let w = World::new();
    let me = main_account();
    let (a, b) = (w.disk(&me), w.disk(&snapdisk::api::Caller::main(2, 0)));
    let mut schedules = nightly(2);
    schedules[0].company = Some(1);
    let every = Every::Hour { minute: 0 };
    schedules.push(Schedule { name: "hourly".into(), company: None, disks: vec![b.clone()], every, keep: 1 });
    let mut all = Ticked::default();
    for _ in 0..72 {
        w.clock.seconds.fetch_add(3600, SeqCst);
        let t = w.service.run_schedules(&schedules);
        (all.taken, all.deleted) = (all.taken + t.taken, all.deleted + t.deleted);
    }
    assert_eq!((all.taken, all.deleted), (72 + 3, 71 + 1));
    assert_eq!(w.list(&me, &[("DiskID", &a)]).0, 2);
    let other = w.list(&snapdisk::api::Caller::main(2, 0), &[]).1;
    assert_eq!((other.len(), &other[0]["DiskID"]), (1, &b.into()));
    // Automatic ones don't use up what a user may have.
    for _ in 0..10 {
        w.snapshot(&me, &a, "m");
    }
}
