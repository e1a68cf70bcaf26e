//! The memory budget: what a process takes at most while its store works, and budgets that are too small.

use snapdisk::{BLOCK, DeleteSnapshots, ErrorKind, Options, io::MemoryBackend, io::ReadPath, io::sim::SimHost};
use std::{path::Path, process::Command, sync::Arc};

const B: u64 = BLOCK as u64;
const MIB: u64 = 1 << 20;
/// Blocks of the volume: a tree of them, changed everywhere, takes several times the budget.
const BLOCKS: u64 = 1 << 17;

fn options() -> Options {
    // Mapped pages of the image would count as memory of the process.
    Options::new().memory(16 * MIB).read_path(ReadPath::Pread)
}

/// Bytes that the process has had in memory at most.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Does nothing unless [`a_store_keeps_to_its_budget`] started it as a process of its own: then it says what the work took.
#[test]
fn child() {
    let Some(path) = std::env::var_os("SNAPDISK_MEMORY_CHILD") else { return };
    let idle = peak();
    work(Path::new(&path));
    println!("child: {}", peak() - idle);
}

fn work(path: &Path) {
    let store = options().create(path).unwrap();
    let v = store.create_volume("v", BLOCKS * B).unwrap();
    // In an order that jumps about, so that every leaf changes again and again, and nothing is flushed.
    let mut block = [0; BLOCK];
    for round in 0..2u64 {
        for i in 0..BLOCKS {
            block[..8].copy_from_slice(&(i + round).to_le_bytes());
            v.write_at(&block, i.wrapping_mul(0x9e37_79b9_7f4a_7c15 | 1) % BLOCKS * B).unwrap();
        }
        v.snapshot(&format!("s{round}")).unwrap();
    }
    let large = vec![7; MIB as usize];
    (0..BLOCKS * B / MIB / 4).for_each(|i| v.write_at(&large, i * 4 * MIB).unwrap());
    drop((v, store));
    // What was not flushed is recovered, as far as it was written.
    let store = options().open(path).unwrap();
    assert!(store.check().unwrap().is_clean());
    store.scrub(&mut |_| true).unwrap();
    store.usage_all().unwrap();
    store.delete_volume(&store.volume("v").unwrap(), DeleteSnapshots::Delete).unwrap();
    store.wait_reclaimed().unwrap();
    store.close().unwrap();
}

#[test]
fn a_store_keeps_to_its_budget() {
    let dir = tempfile::tempdir().unwrap();
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["memory::child", "--exact", "--nocapture", "--test-threads=1"])
        .env("SNAPDISK_MEMORY_CHILD", dir.path().join("image"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{said}{}", String::from_utf8_lossy(&out.stderr));
    let took: u64 = said.split("child: ").nth(1).unwrap().lines().next().unwrap().parse().unwrap();
    assert!(took <= 32 * MIB, "{} MiB with a budget of 16 MiB and 16 MiB beside it", took / MIB);
}

#[test]
fn a_budget_that_is_too_small_is_refused() {
    let (backend, host) = (Arc::new(MemoryBackend::new()), Arc::new(SimHost::new(1)));
    let refused = |options: Options| options.create_on(backend.clone(), host.clone()).unwrap_err();
    let e = refused(Options::new().log_bytes(MIB).memory(MIB - 1));
    assert!(e.kind() == ErrorKind::Invalid && e.to_string().contains("needs at least 1048576"), "{e}");
    // Recovery holds the log twice, and may take 16 MiB beside the budget.
    let e = refused(Options::new().log_bytes(32 * MIB).memory(48 * MIB - 1));
    assert!(e.kind() == ErrorKind::Invalid && e.to_string().contains("needs at least 50331648"), "{e}");
    assert!(backend.to_bytes().is_empty(), "nothing was written");
    Options::new()
        .log_bytes(32 * MIB)
        .memory(48 * MIB)
        .create_on(backend.clone(), host.clone())
        .unwrap()
        .close()
        .unwrap();
    // An image knows the size of its log, whatever the options say of it.
    let small = Options::new().log_bytes(MIB).memory(48 * MIB - 1);
    for e in [small.open_on(backend.clone(), host.clone()).err(), small.open_read_only_on(backend, host).err()] {
        assert_eq!(e.unwrap().kind(), ErrorKind::Invalid);
    }
}
