//! An embedder in five phases, for `tests/syscalls.sh`: it says on standard error which one begins, and does nothing else outside of
//! the library but to open what it passes on.

#![allow(clippy::disallowed_methods, reason = "opens files to pass them on")]

use snapdisk::{Options, io::ImageFiles};
use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::Path,
};

/// Starts a phase of the trace. The line that is written is the mark.
fn phase(name: &str) {
    // One call, so that it is one line of the trace.
    std::io::stderr().write_all(format!("phase {name}\n").as_bytes()).expect("standard error");
}

fn main() -> snapdisk::Result<()> {
    let dir = std::env::args_os().nth(1).expect("a directory");
    let dir = Path::new(&dir);
    let (by_path, options) = (dir.join("image"), Options::new().log_bytes(1 << 20));
    let opened = || OpenOptions::new().read(true).write(true).open(&by_path).expect("the image");
    let directory = File::open(dir).expect("a directory");

    phase("create");
    let store = options.create(&by_path)?;
    phase("-");
    store.close()?;
    phase("create_at");
    let store = options.create_at(&directory, "second")?;
    phase("-");
    store.close()?;

    phase("open");
    let store = options.open(&by_path)?;
    phase("-");
    store.close()?;
    phase("open_at");
    let store = options.open_at(&directory, "image")?;
    phase("-");
    store.close()?;
    let file = opened();
    phase("open_file");
    let store = options.open_file(file)?;
    phase("-");
    store.close()?;
    let files = ImageFiles::new(opened()).checkpoint(opened()).space(opened()).cold_reads(opened());
    phase("open_file with ImageFiles");
    let store = options.open_file(files)?;

    phase("run");
    let disk = store.create_volume("disk", 1 << 30)?;
    let mut buf = vec![7; 4 << 20];
    for i in 0..16 {
        disk.write_at(&buf, i * (4 << 20))?;
        disk.write_at(&buf[..4096], i * (8 << 20) + 512)?;
        disk.flush()?;
    }
    let before = disk.snapshot("before")?;
    disk.write_at(&buf, 0)?;
    disk.read_at(&mut buf, 1 << 20)?;
    before.read_at(&mut buf, 1 << 20)?;
    disk.rollback(&before)?;
    store.delete_snapshot(&before)?;
    disk.discard(0, 1 << 30)?;
    store.checkpoint()?;
    store.wait_reclaimed()?;
    store.checkpoint()?;
    assert!(store.check()?.is_clean());

    phase("close");
    store.close()?;
    drop((disk, before));
    phase("open_read_only");
    let store = options.open_read_only(&by_path)?;
    drop(store);
    phase("-");
    Ok(())
}
