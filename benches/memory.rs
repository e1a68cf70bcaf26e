//! What a store takes of memory: the peak of a process that does one kind of work, above what it takes idle, beside `Options::memory`.

#![allow(clippy::disallowed_methods, reason = "a benchmark reads the process's own figures")]

mod common;

use snapdisk::{DeleteSnapshots, Options, Store, io::ReadPath};

const BLOCK: u64 = snapdisk::BLOCK as u64;
const MIB: u64 = 1 << 20;

/// Kilobytes that the process has had in memory at most since [`reset`].
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).expect("a peak");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
}

/// Has the peak begin again from what the process has now.
fn reset() {
    std::fs::write("/proc/self/clear_refs", "5").expect("clear_refs");
}

/// Blocks in an order that jumps about, each once.
fn scattered(blocks: u64) -> impl Iterator<Item = u64> {
    // Odd, so that it meets every block where their number is a power of two.
    (0..blocks)
        .map(move |i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15 | 1) % blocks.next_power_of_two())
        .filter(move |b| *b < blocks)
}

const WORK: &[&str] = &[
    "write in sequence",
    "write scattered",
    "overwrite scattered",
    "snapshots",
    "check",
    "scrub",
    "figures",
    "delete",
];

fn work(what: &str, store: &Store, blocks: u64) {
    let volume = || store.volume("v").expect("the volume");
    match what {
        "write in sequence" => {
            let v = store.create_volume("v", blocks * BLOCK).expect("a volume");
            let data = vec![0; MIB as usize];
            (0..blocks * BLOCK / MIB).for_each(|i| v.write_at(&data, i * MIB).expect("write"));
        }
        "write scattered" | "overwrite scattered" => {
            let v = volume();
            scattered(blocks).for_each(|b| v.write_at(&[0; BLOCK as usize], b * BLOCK).expect("write"));
        }
        "snapshots" => {
            for i in 0..2000u64 {
                let v = volume();
                v.snapshot(&format!("s{i}")).expect("a snapshot");
                v.write_at(&[0; BLOCK as usize], i * 77 % blocks * BLOCK).expect("write");
            }
        }
        "check" => assert!(store.check().expect("a check").is_clean()),
        "scrub" => drop(store.scrub(&mut |_| true).expect("a scrub")),
        "figures" => drop(store.usage_all().expect("figures")),
        _ => {
            store.delete_volume(&volume(), DeleteSnapshots::Delete).expect("delete");
            store.wait_reclaimed().expect("reclaim");
        }
    }
    store.flush().expect("flush");
}

const CHILD: &str = "SNAPDISK_BENCH_WORK";

fn child(what: &str) {
    let path = std::env::var_os("SNAPDISK_BENCH_PATH").expect("a path");
    let blocks = common::setting("SNAPDISK_BENCH_BLOCKS", 0);
    let options = Options::new().memory(common::setting("SNAPDISK_BENCH_MEMORY_MIB", 256) * MIB);
    // Mapped pages of the image would count as memory of the process.
    let options = options.read_path(ReadPath::Pread);
    let idle = peak();
    let store = if what == WORK[0] {
        options.create(&path).expect("an image")
    } else {
        options.open(&path).expect("the image")
    };
    let opened = peak();
    reset();
    work(what, &store, blocks);
    println!("{} {} {}", opened - idle, peak().saturating_sub(idle), idle);
    store.close().expect("close");
}

fn main() {
    if let Ok(what) = std::env::var(CHILD) {
        return child(&what);
    }
    let full = common::is_bench();
    let blocks = common::setting("SNAPDISK_BENCH_BLOCKS", if full { 1 << 20 } else { 1 << 12 });
    println!("a volume of {} MiB; peaks above an idle process, MiB", blocks * BLOCK / MIB);
    for memory in [16, 64, 256] {
        let dir = common::directory(3 * blocks * BLOCK + 64 * MIB);
        for what in WORK {
            let own = std::env::current_exe().expect("a path");
            let out = std::process::Command::new(own)
                .env(CHILD, what)
                .env("SNAPDISK_BENCH_PATH", dir.path().join("image"))
                .env("SNAPDISK_BENCH_BLOCKS", blocks.to_string())
                .env("SNAPDISK_BENCH_MEMORY_MIB", memory.to_string())
                .output()
                .expect("a process");
            assert!(out.status.success(), "{what}: {}", String::from_utf8_lossy(&out.stderr));
            let said = String::from_utf8_lossy(&out.stdout);
            let said: Vec<u64> = said.split_whitespace().map(|n| n.parse().expect("a number")).collect();
            println!("memory {memory:>3}, {what:<20} opening {:>4}  work {:>4}", said[0] / 1024, said[1] / 1024);
        }
    }
}
