//! Disks of virtual machines: a driver of the tests' own against a model, and what a monitor is promised.

mod guest;
mod hostile;

use guest::{Guest, IOERR, Machine, OK, wait_free};
use snapdisk::{ErrorKind, Options, Store, vhost::Server};
use std::{fs, io::Read, os::unix::fs::PermissionsExt, path::Path};
use vhost::{VhostBackend, vhost_user::VhostUserFrontend};

const SIZE: u64 = 4 << 20;

fn store(dir: &Path) -> Store {
    Options::new().create(dir.join("disks.img")).unwrap()
}

/// Numbers that look random.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// Requests of every kind and length on two queues, across reconnections and restarts of the server, against a plain array.
#[test]
fn a_driver_agrees_with_a_model() {
    let dir = tempfile::tempdir().unwrap();
    let (store, path, machine) = (store(dir.path()), dir.path().join("a.sock"), Machine::new());
    let volume = store.create_volume("a", SIZE).unwrap();
    let (mut model, mut random) = (vec![0; SIZE as usize], Numbers(1));
    let mut server = Server::one(&store, &volume, &path).unwrap();
    let mut guest = Guest::connect(&machine, &path, 2);
    for step in 0..1500_u32 {
        let queue = random.below(2) as usize;
        let longest = if step % 10 == 0 { 1500 } else { 24 };
        let sectors = 1 + random.below(longest);
        let sector = random.below(SIZE / 512 - sectors + 1);
        let range = sector as usize * 512..(sector + sectors) as usize * 512;
        match random.below(20) {
            0..8 => {
                let data: Vec<u8> = (0..range.len()).map(|i| (i as u32 / 100 + step) as u8).collect();
                assert_eq!(guest.write(queue, sector, &data), OK);
                model[range].copy_from_slice(&data);
            }
            8..16 => {
                let read = guest.read(queue, sector, range.len() as u32);
                assert!(read == (OK, model[range.clone()].to_vec()), "step {step}: {range:?}");
            }
            16 => {
                assert_eq!(guest.cut(queue, 11, &[(sector, sectors as u32, 0)]), OK);
                model[range].fill(0);
            }
            17 => {
                let half = sectors as u32 / 2;
                let list = [(sector, half, 1), (sector + u64::from(half), sectors as u32 - half, 0)];
                assert_eq!(guest.cut(queue, 13, &list), OK);
                model[range].fill(0);
            }
            18 => assert_eq!(guest.flush(queue), OK),
            _ if step % 3 == 0 => {
                drop(guest);
                wait_free(&server);
                if step % 2 == 0 {
                    server.stop();
                    server = Server::one(&store, &volume, &path).unwrap();
                }
                guest = Guest::connect(&machine, &path, 2);
            }
            _ => {}
        }
    }
    drop(guest);
    server.stop();
    let mut all = vec![0; SIZE as usize];
    volume.read_at(&mut all, 0).unwrap();
    assert!(all == model);
    assert!(store.check().unwrap().findings.is_empty());
}

/// Requests that nobody answered when the server ended are made after the monitor has connected anew, and no answered one is made again.
#[test]
fn a_monitor_that_reconnects_goes_on_behind_what_was_answered() {
    let dir = tempfile::tempdir().unwrap();
    let (store, path, machine) = (store(dir.path()), dir.path().join("a.sock"), Machine::new());
    let volume = store.create_volume("a", SIZE).unwrap();
    let server = Server::one(&store, &volume, &path).unwrap();
    let mut guest = Guest::connect(&machine, &path, 1);
    assert_eq!(guest.write(0, 0, &[1; 4096]), OK);
    assert_eq!(guest.write(0, 8, &[2; 4096]), OK);
    assert_eq!(guest.stop(0), 2);
    server.stop();
    assert!(!path.exists());
    // Made available while nobody serves: a write of 3 to sector 16.
    let at = guest::BUFFERS;
    machine.put(at, &guest::header(1, 16));
    machine.put(at + 16, &[0xee]);
    machine.put(at + 4096, &[3; 4096]);
    let next = guest::NEXT;
    guest.describe(0, &[(at, 16, next, 1), (at + 4096, 4096, next, 2), (at + 16, 1, guest::WRITE, 0)]);
    guest.offer(0, 0);
    drop(guest);
    volume.write_at(&[9; 4096], 0).unwrap();

    let server = Server::one(&store, &volume, &path).unwrap();
    let guest = Guest::connect(&machine, &path, 1);
    guest.wait(0);
    assert_eq!(machine.get(at + 16, 1), [OK]);
    drop(guest);
    server.stop();
    let mut blocks = [0; 3 * 4096];
    volume.read_at(&mut blocks, 0).unwrap();
    assert!(blocks.chunks(4096).zip([9, 2, 3]).all(|(block, byte)| block.iter().all(|&b| b == byte)));
}

#[test]
fn a_connection_is_the_attachment() {
    let dir = tempfile::tempdir().unwrap();
    let (store, path, machine) = (store(dir.path()), dir.path().join("a.sock"), Machine::new());
    let volume = store.create_volume("a", SIZE).unwrap();
    let before = volume.snapshot("before").unwrap();
    let server = Server::one(&store, &volume, &path).unwrap();
    volume.rollback(&before).unwrap();

    let mut guest = Guest::connect(&machine, &path, 1);
    assert_eq!(guest.write(0, 0, &[1; 512]), OK);
    assert_eq!(volume.rollback(&before).unwrap_err().kind(), ErrorKind::Busy);
    // Snapshots go on. After a forced change every request fails.
    let live = volume.snapshot("live").unwrap();
    volume.forced().rollback(&before).unwrap();
    assert_eq!(guest.read(0, 0, 512).0, IOERR);
    assert_eq!(guest.write(0, 0, &[2; 512]), IOERR);
    assert_eq!(guest.flush(0), IOERR);
    drop(guest);
    wait_free(&server);
    volume.rollback(&live).unwrap();
    let mut guest = Guest::connect(&machine, &path, 1);
    assert_eq!(guest.read(0, 0, 512), (OK, vec![1; 512]));
    drop(guest);
    wait_free(&server);
    volume.rollback(&before).unwrap();
}

/// A machine that is paused and goes on knows as little as before; one that is reset reads the disk anew.
#[test]
fn a_reset_makes_a_stale_disk_usable() {
    let dir = tempfile::tempdir().unwrap();
    let (store, path, machine) = (store(dir.path()), dir.path().join("a.sock"), Machine::new());
    let volume = store.create_volume("a", SIZE).unwrap();
    let before = volume.snapshot("before").unwrap();
    let _server = Server::one(&store, &volume, &path).unwrap();
    let mut guest = Guest::connect(&machine, &path, 1);
    volume.forced().rollback(&before).unwrap();
    assert_eq!(guest.write(0, 0, &[2; 512]), IOERR);
    guest.stop(0);
    guest.start_again(1);
    assert_eq!(guest.write(0, 0, &[2; 512]), IOERR);
    guest.front.reset_device().unwrap();
    guest.start_again(1);
    assert_eq!(guest.write(0, 0, &[2; 512]), OK);
}

#[test]
fn a_resize_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (store, path, machine) = (store(dir.path()), dir.path().join("a.sock"), Machine::new());
    let volume = store.create_volume("a", SIZE).unwrap();
    let _server = Server::one(&store, &volume, &path).unwrap();
    let mut guest = Guest::connect(&machine, &path, 1);
    let mut told = guest.listen();
    assert_eq!(guest.capacity(), SIZE / 512);
    assert_eq!(guest.write(0, SIZE / 512, &[1; 512]), IOERR);
    volume.resize(2 * SIZE).unwrap();
    let mut message = [0; 12];
    told.read_exact(&mut message).unwrap();
    // CONFIG_CHANGE of version 1, with no body.
    assert_eq!(message, [2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(guest.capacity(), 2 * SIZE / 512);
    assert_eq!(guest.write(0, SIZE / 512, &[1; 512]), OK);
}

#[test]
fn a_snapshot_is_read_only_and_has_many_readers() {
    let dir = tempfile::tempdir().unwrap();
    let (store, path) = (store(dir.path()), dir.path().join("s.sock"));
    let volume = store.create_volume("a", SIZE).unwrap();
    volume.write_at(&[5; 4096], 4096).unwrap();
    let snapshot = volume.snapshot("s").unwrap();
    let server = Server::one(&store, &snapshot, &path).unwrap();
    let machines = [Machine::new(), Machine::new()];
    let mut guests = machines.each_ref().map(|machine| Guest::connect(machine, &path, 1));
    assert_eq!(server.list()[0].name, "a@s");
    for guest in &mut guests {
        assert_ne!(guest.front.get_features().unwrap() & 1 << 5, 0, "read-only");
        assert_eq!(guest.read(0, 8, 4096), (OK, vec![5; 4096]));
        assert_eq!(guest.write(0, 8, &[1; 512]), IOERR);
        assert_eq!(guest.cut(0, 11, &[(8, 8, 0)]), IOERR);
    }
    assert_eq!(server.list()[0].connections, 2);
}

/// A guest that does not take the flush has every write durable.
#[test]
fn without_a_flush_writes_are_durable() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disks.img");
    let store = Options::new().manual_maintenance(true).create(&image).unwrap();
    let (path, machine) = (dir.path().join("a.sock"), Machine::new());
    let volume = store.create_volume("a", SIZE).unwrap();
    let server = Server::one(&store, &volume, &path).unwrap();
    let syncs = |store: &Store| store.counters().unwrap().syncs;
    let mut guest = Guest::connect(&machine, &path, 1);
    // The first write may need space from the host, which is synced.
    assert_eq!(guest.write(0, 0, &[0; 512]), OK);
    let start = syncs(&store);
    assert_eq!(guest.write(0, 0, &[1; 512]), OK);
    assert_eq!(syncs(&store), start);
    drop(guest);
    wait_free(&server);
    let mut guest = Guest::connect_with(&machine, &path, 1, 1 << 30 | 1 << 32);
    assert_eq!(guest.write(0, 0, &[2; 512]), OK);
    assert!(syncs(&store) > start);
}

#[test]
fn a_directory_follows_its_volumes() {
    let dir = tempfile::tempdir().unwrap();
    let (store, machine) = (store(dir.path()), Machine::new());
    let a = store.create_volume("a", SIZE).unwrap();
    let sockets = dir.path().join("sockets");
    assert_eq!(Server::all(&store, &sockets, None).unwrap_err().kind(), ErrorKind::NotFound);
    fs::create_dir(&sockets).unwrap();
    let server = Server::all(&store, &sockets, None).unwrap();
    let names = |server: &Server| server.list().into_iter().map(|e| e.name).collect::<Vec<_>>().join(" ");
    assert_eq!(names(&server), "a");
    assert_eq!(fs::metadata(sockets.join("a.sock")).unwrap().permissions().mode() & 0o777, 0o600);

    let b = store.create_volume("b", SIZE).unwrap();
    store.create_volume("c", SIZE).unwrap();
    server.refresh().unwrap();
    assert_eq!(names(&server), "a b c");
    let mut guest = Guest::connect(&machine, &sockets.join("b.sock"), 1);
    assert_eq!(guest.write(0, 0, &[1; 512]), OK);
    // A renamed volume gets another socket, and its guest goes on.
    store.rename(&b, "bb").unwrap();
    server.refresh().unwrap();
    assert_eq!(names(&server), "a bb c");
    assert!(!sockets.join("b.sock").exists());
    assert_eq!(guest.read(0, 0, 512), (OK, vec![1; 512]));
    // A deleted one has its connection ended.
    b.forced().delete(snapdisk::DeleteSnapshots::Refuse).unwrap();
    server.refresh().unwrap();
    assert_eq!(names(&server), "a c");
    drop(guest);
    // Two servers at one place, and what a dead one left.
    assert_eq!(Server::one(&store, &a, sockets.join("a.sock")).unwrap_err().kind(), ErrorKind::Exists);
    server.stop();
    assert_eq!(fs::read_dir(&sockets).unwrap().count(), 0);
    drop(std::os::unix::net::UnixListener::bind(sockets.join("a.sock")).unwrap());
    fs::write(sockets.join("file.sock"), "mine").unwrap();
    let server = Server::one(&store, &a, sockets.join("a.sock")).unwrap();
    assert_eq!(Server::one(&store, &a, sockets.join("file.sock")).unwrap_err().kind(), ErrorKind::Exists);
    let long = sockets.join("x".repeat(120));
    assert_eq!(Server::one(&store, &a, long).unwrap_err().kind(), ErrorKind::Invalid);
    let mut guest = Guest::connect(&machine, &sockets.join("a.sock"), 1);
    assert_eq!(guest.read(0, 0, 512).0, OK);
    drop((guest, server));
}
