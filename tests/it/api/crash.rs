//! A crash leaves each action whole or absent: every action on a disk that loses power at every point.

use super::{Clock, START, World, directory};
use snapdisk::{
    Options,
    api::{Every, Schedule, SnapshotService},
    io::sim::{Caps, Ev, Rng, SimBackend, Walker},
};
use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering::SeqCst},
};

/// What anyone sees, and what the disks hold.
fn state(w: &World) -> String {
    let mut disks = Vec::new();
    for volume in w.store.volumes().unwrap() {
        let mut bytes = vec![0; 16_384];
        volume.read_at(&mut bytes, 0).unwrap();
        let tags = volume.tags().unwrap();
        disks.push(format!("{} {} {:08x} {tags:?}", volume.name().unwrap(), volume.size().unwrap(), sum(&bytes)));
    }
    let snapshots = w.store.snapshots().unwrap().into_iter().map(|s| {
        let mut bytes = vec![0; 16_384];
        s.read_at(&mut bytes, 0).unwrap();
        format!("{} {:08x}", s.name().unwrap(), sum(&bytes))
    });
    format!("{} {disks:?} {:?}", w.everything(), snapshots.collect::<Vec<_>>())
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(1, |a, &b| a.wrapping_mul(31).wrapping_add(u32::from(b)))
}

#[test]
fn each_action_is_whole_or_absent() {
    let backend = Arc::new(SimBackend::new());
    backend.start_trace();
    let w = World::over(backend.clone());
    let me = super::main_account();
    let mut states = vec![state(&w)];
    let mut step = |act: &mut dyn FnMut()| {
        backend.mark(Ev::Issued(states.len() as u32));
        act();
        states.push(state(&w));
        backend.mark(Ev::Acked(states.len() as u32 - 1));
    };
    let cn = ("Region", "cn");
    let mut disk = String::new();
    let mut snaps = Vec::new();
    step(&mut || disk = w.disk(&me));
    for byte in 1..=3 {
        // A write is durable with the next action, of which it is the first half: both are one step here.
        step(&mut || {
            w.fill(&disk, byte);
            w.store.flush().unwrap();
        });
        step(&mut || snaps.push(w.snapshot(&me, &disk, "s")));
    }
    step(&mut || drop(w.get(&me, "RollbackSnapshot", &[cn, ("DiskID", &disk), ("SnapshotID", &snaps[1])], "")));
    step(&mut || drop(w.get(&me, "UpgradeDisk", &[cn, ("DiskID", &disk), ("DiskSpace", "2")], "")));
    step(&mut || drop(w.get(&me, "RollbackSnapshot", &[cn, ("DiskID", &disk), ("SnapshotID", &snaps[0])], "")));
    step(&mut || drop(w.get(&me, "AttachDisk", &[cn, ("DiskID", &disk), ("ResourceID", "vm-1")], "")));
    step(&mut || drop(w.get(&me, "DetachDisk", &[cn, ("DiskID", &disk), ("ResourceID", "vm-1")], "")));
    step(&mut || drop(w.get(&me, "CloneDisk", &[cn, ("SrcID", &disk), ("Name", "c")], "DiskID")));
    step(&mut || drop(w.get(&me, "CreateDiskFromSnapshot", &[cn, ("SrcSnapshotID", &snaps[2]), ("Name", "f")], "")));
    let every = Every::Hour { minute: 0 };
    let schedules = [Schedule { name: "h".into(), company: None, disks: vec![disk.clone()], every, keep: 1 }];
    for _ in 0..2 {
        step(&mut || {
            w.clock.seconds.fetch_add(3600, SeqCst);
            assert_eq!(w.service.run_schedules(&schedules).taken, 1);
        });
    }
    step(&mut || w.store.checkpoint().unwrap());
    step(&mut || drop(w.get(&me, "DeleteSnapshot", &[cn, ("SnapshotID", &snaps[1])], "")));
    step(&mut || drop(w.get(&me, "DeleteDisk", &[cn, ("DiskID", &disk)], "")));

    let trace = backend.take_trace();
    let mut walker = Walker::new(&trace);
    let (mut acked, mut issued) = (None, 0_u32);
    let (mut seen, mut rng) = (HashSet::new(), Rng::new(1));
    let mut tried = 0;
    while walker.advance(|ev| match ev {
        Ev::Issued(n) => issued = *n,
        Ev::Acked(n) => acked = Some(*n),
        _ => {}
    }) {
        // Before the first is acknowledged there may be no image.
        let Some(acked) = acked else { continue };
        walker.window().each(&Caps::FULL, &mut rng, &mut |pick| {
            if seen.insert((pick.hash(), acked)) {
                tried += 1;
                let clock = Clock::at(START);
                let disk = Arc::new(SimBackend::of(pick.image()));
                let options = Options::new().manual_maintenance(true).log_bytes(1 << 20);
                let store = options.open_on(disk, clock.clone()).unwrap_or_else(|e| panic!("{pick:?}: {e}"));
                let service = SnapshotService::with_host(store.clone(), directory(), clock.clone()).unwrap();
                let now = state(&World { store: store.clone(), service, clock });
                let legal = &states[acked as usize..=issued.max(acked) as usize];
                assert!(legal.contains(&now), "{pick:?}: after {acked} of {issued}: {now}\nnone of {legal:#?}");
                assert!(store.check().unwrap().is_clean());
            }
            true
        });
    }
    assert!(tried > 300, "only {tried} states");
}
