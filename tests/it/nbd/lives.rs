//! Disks that change, end or stall while clients are connected.

use super::client::*;
use snapdisk::{DeleteSnapshots, ErrorKind, nbd::ServerOptions};
use std::{thread, time::Duration};

#[test]
fn connections_share_a_disk_and_keep_it() {
    let served = Served::new();
    let volume = served.store.create_volume("v", 1 << 20).unwrap();
    let snapshot = volume.snapshot("s").unwrap();
    let (mut one, mut two) = (served.client("v", true), served.client("v", false));
    one.write(0, &[7; 5000]);
    assert_eq!(two.read(0, 0, 5000), Ok(vec![7; 5000]));
    assert_eq!(two.ask(0, FLUSH, 0, 0, &[]), 0);
    let kinds = || {
        let busy = [
            volume.rollback(&snapshot),
            volume.resize(1 << 19),
            served.store.delete_volume(&volume, DeleteSnapshots::Delete),
            volume.attach().map(drop),
        ];
        busy.map(|r| r.map_err(|e| e.kind()))
    };
    assert_eq!(kinds(), [Err(ErrorKind::Busy); 4]);
    // What takes nothing goes on: a snapshot is there at once, a longer disk for those who connect anew.
    volume.snapshot("live").unwrap();
    assert_eq!(served.client("v@live", true).read(0, 0, 5000), Ok(vec![7; 5000]));
    served.store.rename(&volume, "w").unwrap();
    volume.resize(2 << 20).unwrap();
    assert_eq!(one.ask(0, TRIM, 1 << 20, 512, &[]), 22);
    one.write(5000, &[8; 100]);
    assert_eq!(served.client("w", true).size, 2 << 20);
    drop(one);
    assert_eq!(kinds(), [Err(ErrorKind::Busy); 4]);
    two.send(&head(0, DISC, 0, 0, 0));
    two.is_over();
    // The last one has let go of it, at the latest when its connection is seen to be closed.
    while served.server.as_ref().unwrap().connections() > 0 {
        thread::yield_now();
    }
    volume.rollback(&snapshot).unwrap();
    assert_eq!(served.client("w", true).read(0, 0, 100), Ok(vec![0; 100]));
}

#[test]
fn a_forced_change_ends_connections_and_new_ones_see_it() {
    let served = Served::new();
    let volume = served.store.create_volume("v", 1 << 20).unwrap();
    let other = served.store.create_volume("other", 1 << 20).unwrap();
    let mut bystander = served.client("other", true);
    volume.write_at(&[1; 4096], 0).unwrap();
    let snapshot = volume.snapshot("s").unwrap();
    for structured in [false, true] {
        let mut busy = served.client("v", structured);
        let mut idle = served.client("v", structured);
        busy.write(0, &[2; 4096]);
        volume.forced().rollback(&snapshot).unwrap();
        // A write from before has no effect on what was restored.
        let _ = std::io::Write::write_all(&mut busy.stream, &[head(0, WRITE, 7, 0, 4096), vec![3; 4096]].concat());
        let mut again = served.client("v", structured);
        assert_eq!(again.read(0, 0, 4096), Ok(vec![1; 4096]));
        busy.is_turned_away();
        idle.is_over();
        again.write(4096, &[4; 512]);
        volume.forced().resize(1 << 19).unwrap();
        again.is_turned_away();
        let mut shorter = served.client("v", structured);
        assert_eq!(shorter.size, 1 << 19);
        volume.forced().rollback(&snapshot).unwrap();
        shorter.is_turned_away();
    }
    let (mut one, mut frozen) = (served.client("v", true), served.client("v@s", true));
    volume.forced().delete(DeleteSnapshots::Keep).unwrap();
    one.is_over();
    assert_eq!(frozen.read(0, 0, 4096), Ok(vec![1; 4096]));
    let mut client = served.connect();
    client.flags(3);
    assert_eq!(client.outcome(7, &info("v", &[])), UNKNOWN);
    served.store.delete_snapshot(&snapshot).unwrap();
    frozen.is_over();
    bystander.write(0, &[9; 512]);
    let mut buf = [0; 512];
    other.read_at(&mut buf, 0).unwrap();
    assert_eq!(buf, [9; 512]);
}

#[test]
fn a_volume_that_somebody_else_has_attached() {
    let mut served = Served::new();
    let volume = served.store.create_volume("v", 1 << 20).unwrap();
    let snapshot = volume.snapshot("s").unwrap();
    let held = std::sync::Arc::new(volume.attach().unwrap());
    let mut client = served.connect();
    client.flags(3);
    assert_eq!(client.outcome(7, &info("v", &[])), POLICY);
    // Unless it is lent to the server.
    served.stop();
    let lent = held.clone();
    let lease: snapdisk::nbd::Lease =
        std::sync::Arc::new(move |volume| Ok(Some(lent.clone()).filter(|lent| lent.id() == volume.id())));
    served.start(ServerOptions { lease: Some(lease), ..ServerOptions::default() });
    served.client("v", true).write(0, &[1; 100]);
    volume.forced().rollback(&snapshot).unwrap();
    assert_eq!(served.client("v", true).read(0, 0, 100), Ok(vec![0; 100]));
}

#[test]
fn a_client_that_stalls_harms_nobody() {
    let options = ServerOptions { stall_time: Duration::from_secs(2), ..ServerOptions::default() };
    let served = Served::with(options);
    served.store.create_volume("v", 64 << 20).unwrap();
    let mut half = served.client("v", true);
    half.send(&[head(0, WRITE, 1, 0, 4096), vec![1; 100]].concat());
    let mut head_only = served.client("v", true);
    head_only.send(&head(0, READ, 1, 0, 4096)[..20]);
    // One that asks for much and takes nothing, as fast as it can.
    let mut greedy = served.client("v", false);
    let asks: Vec<u8> = (0..100).flat_map(|i| head(0, READ, i, 0, 32 << 20)).collect();
    greedy.send(&asks);
    let mut good = served.client("v", true);
    for i in 0..200 {
        good.write(i * 8192, &[i as u8; 8192]);
        assert_eq!(good.read(0, i * 8192, 8192), Ok(vec![i as u8; 8192]));
    }
    half.is_over();
    head_only.is_over();
    // Whoever is only idle is not ended.
    assert_eq!(good.read(0, 8192, 4), Ok(vec![1; 4]));
    assert_eq!(good.read(0, 4096, 4), Ok(vec![0; 4]));
}

#[test]
fn a_server_that_stops_answers_what_it_has_begun() {
    let mut served = Served::new();
    served.store.create_volume("v", 64 << 20).unwrap();
    let mut clients: Vec<Client> = (0..4).map(|i| served.client("v", i % 2 == 0)).collect();
    let mut haggling = served.connect();
    haggling.flags(3);
    for client in &mut clients {
        client.write(0, &[1; 512]);
    }
    let idle = served.client("v", true);
    served.stop();
    clients.iter_mut().for_each(Client::is_over);
    haggling.is_over();
    drop(idle);
    assert!(std::os::unix::net::UnixStream::connect(served.socket()).is_err());
    // The store goes on, and another server with it.
    served.start(ServerOptions::default());
    assert_eq!(served.client("v", true).read(0, 0, 512), Ok(vec![1; 512]));
}
