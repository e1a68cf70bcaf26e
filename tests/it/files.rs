//! Real files: what is refused, and that a refusal changes nothing; who may open an image beside whom; space given back to the host.

mod kill;
mod refused;

use snapdisk::{
    ATOMIC_WRITE_MAX, BLOCK, ErrorKind, Knobs, Options, Result, Store,
    format::{SLOTS, Superblock},
    io::{Backend, FileBackend, MemoryBackend, ReadPath, sim::SimHost},
};
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Arc,
};
use tempfile::TempDir;

const B: u64 = BLOCK as u64;

fn options() -> Options {
    Options::new().log_bytes(1 << 20)
}

fn kind<T>(r: Result<T>) -> ErrorKind {
    r.err().expect("refused").kind()
}

/// An image with a little of everything, closed.
fn image(dir: &TempDir) -> PathBuf {
    let path = dir.path().join("image");
    let store = options().create(&path).unwrap();
    furnish(&store);
    store.close().unwrap();
    path
}

fn furnish(store: &Store) {
    let a = store.create_volume("a", 1 << 20).unwrap();
    a.write_at(&[1; 100_000], 1000).unwrap();
    let s = a.snapshot("s").unwrap();
    a.write_at(&[2; 10_000], 5000).unwrap();
    store.clone_volume(&s, "b").unwrap();
    let c = store.create_volume("c", 512 * 7).unwrap();
    c.snapshot("s").unwrap();
}

/// Everything that a caller can see.
pub(crate) fn everything(store: &Store) -> Vec<String> {
    let mut out = Vec::new();
    let mut buf = Vec::new();
    for v in store.volumes().unwrap() {
        buf.resize(v.size().unwrap() as usize, 1);
        v.read_at(&mut buf, 0).unwrap();
        let (hash, tags) = (crc32fast::hash(&buf), v.tags().unwrap());
        out.push(format!("{} {} {} {hash} {tags:?} {:?}", v.id(), v.name().unwrap(), buf.len(), v.parent().unwrap()));
    }
    for s in store.snapshots().unwrap() {
        buf.resize(s.size() as usize, 1);
        s.read_at(&mut buf, 0).unwrap();
        let (hash, tags) = (crc32fast::hash(&buf), s.tags().unwrap());
        out.push(format!("{} {} {} {hash} {tags:?} {:?}", s.id(), s.name().unwrap(), buf.len(), s.parent().unwrap()));
    }
    out
}

/// A file as the host shows it: bytes, and when they were last changed.
fn seen(path: &Path) -> (Vec<u8>, i64, i64) {
    let m = fs::metadata(path).unwrap();
    (fs::read(path).unwrap(), m.mtime(), m.mtime_nsec())
}

// ---- a child process

/// The test of this name in this binary is the child's whole life.
struct Other {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Other {
    /// Runs the child test with a task.
    fn start(task: &str, path: &Path, more: &str) -> Other {
        let name = format!("{}::child", module_path!().split_once("::").unwrap().1);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([&*name, "--exact", "--nocapture", "--test-threads=1"])
            .env("SNAPDISK_CHILD", task)
            .env("SNAPDISK_CHILD_PATH", path)
            .env("SNAPDISK_CHILD_MORE", more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Other { child, input, output }
    }
    /// Its next message; `None` once it is gone.
    fn next(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            // A line that the end of the process cut short says nothing.
            if let Some((_, said)) = line.trim_end_matches('\n').split_once("child: ")
                && line.ends_with(".\n")
            {
                return Some(said.trim_end_matches('.').to_owned());
            }
        }
    }
    /// Lets it end by itself.
    fn finish(mut self) {
        drop(self.input.take());
        while self.next().is_some() {}
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn say(what: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "child: {what}.");
    let _ = out.flush();
}

/// Does nothing unless another test started it as a process of its own.
#[test]
fn child() {
    let Ok(task) = std::env::var("SNAPDISK_CHILD") else { return };
    let path = PathBuf::from(std::env::var_os("SNAPDISK_CHILD_PATH").unwrap());
    let more = std::env::var("SNAPDISK_CHILD_MORE").unwrap();
    let told = |r: Result<Store>| match r {
        Ok(_) => say("opened"),
        Err(e) => say(format_args!("{:?}", e.kind())),
    };
    match &*task {
        "open" => told(options().open(&path)),
        "open_read_only" => told(options().open_read_only(&path)),
        "hold" | "hold_read_only" => {
            let store = if task == "hold" { options().open(&path) } else { options().open_read_only(&path) };
            let store = store.unwrap();
            say("held");
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            drop(store);
        }
        "work" => kill::work(&path, more.parse().unwrap()),
        _ => panic!("no task {task:?}"),
    }
}

// ---- opening and creating

fn refused(path: &Path, expected: ErrorKind) {
    let before = seen(path);
    for untrusted in [false, true] {
        assert_eq!(kind(options().untrusted(untrusted).open(path)), expected);
        assert_eq!(kind(options().untrusted(untrusted).open_read_only(path)), expected);
    }
    assert!(seen(path) == before, "a refused file was changed");
}

#[test]
fn what_is_no_image_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let mut other_magic = fs::read(image(&dir)).unwrap();
    SLOTS.iter().for_each(|s| other_magic[s.offset() as usize..][..8].copy_from_slice(b"QFI\xfb\0\0\0\x03"));
    for bytes in [vec![], b"hello".to_vec(), vec![0; 1 << 20], vec![0xa5; 300_000], other_magic] {
        fs::write(&path, bytes).unwrap();
        refused(&path, ErrorKind::Invalid);
    }
}

/// Rewrites the superblocks, and seals them again.
fn doctor(bytes: &mut [u8], change: impl Fn(&mut Superblock), version: u32) {
    for slot in SLOTS {
        let at = slot.offset() as usize;
        let mut sb = Superblock::decode((&bytes[at..at + BLOCK]).try_into().unwrap()).unwrap();
        change(&mut sb);
        let mut page = sb.encode();
        page[8..12].copy_from_slice(&version.to_le_bytes());
        let mut crc = crc32fast::Hasher::new();
        crc.update(&page[..12]);
        crc.update(&page[16..snapdisk::format::SUPERBLOCK]);
        page[12..16].copy_from_slice(&crc.finalize().to_le_bytes());
        bytes[at..at + BLOCK].copy_from_slice(&page[..]);
    }
}

#[test]
fn newer_formats_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (path, bytes) = (dir.path().join("x"), fs::read(image(&dir)).unwrap());
    let with = |change: fn(&mut Superblock), version| {
        let mut bytes = bytes.clone();
        doctor(&mut bytes, change, version);
        fs::write(&path, bytes).unwrap();
    };
    with(|_| {}, 2);
    refused(&path, ErrorKind::UnsupportedVersion);
    with(|sb| sb.incompatible = 4, 1);
    refused(&path, ErrorKind::UnsupportedVersion);
    with(|sb| sb.read_only_compatible = 1, 1);
    let before = seen(&path);
    assert_eq!(kind(options().open(&path)), ErrorKind::UnsupportedVersion);
    options().open_read_only(&path).unwrap().close().unwrap();
    assert!(seen(&path) == before);
    with(|sb| sb.compatible = 1, 1);
    options().open(&path).unwrap().close().unwrap();
}

#[test]
fn truncated_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (path, bytes) = (dir.path().join("x"), fs::read(image(&dir)).unwrap());
    for len in [bytes.len() - 1, bytes.len() - BLOCK, bytes.len() / 2, (1 << 20) + (200 << 10), 200_000, BLOCK] {
        fs::write(&path, &bytes[..len]).unwrap();
        refused(&path, ErrorKind::Truncated);
    }
    // More than there should be does no harm.
    let mut longer = bytes.clone();
    longer.extend_from_slice(&[0x5a; 12345]);
    fs::write(&path, &longer).unwrap();
    let store = options().open(&path).unwrap();
    assert!(store.check().unwrap().is_clean());
    store.close().unwrap();
}

#[test]
fn what_is_no_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let open = |p: &Path| [kind(options().open(p)), kind(options().open_read_only(p))];
    assert_eq!(open(dir.path()), [ErrorKind::Invalid; 2], "a directory");
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    assert_eq!(open(Path::new("/dev/null")), [ErrorKind::Invalid; 2], "a device");
    assert!(Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
    assert_eq!(open(&at("pipe")), [ErrorKind::Invalid; 2], "a pipe");
    assert_eq!(open(&at("nothing")), [ErrorKind::NotFound; 2]);
    assert_eq!(open(&at("no/where")), [ErrorKind::NotFound; 2]);
    std::os::unix::fs::symlink(at("nothing"), at("link")).unwrap();
    assert_eq!(open(&at("link")), [ErrorKind::NotFound; 2], "a link to nothing");
    assert_eq!(kind(options().create(at("no/where"))), ErrorKind::NotFound);
    assert_eq!(kind(options().create("")), ErrorKind::Invalid);
    assert_eq!(kind(options().create(at("x/"))), ErrorKind::Invalid);
    assert_eq!(kind(options().create(dir.path())), ErrorKind::Exists);
    assert_eq!(kind(options().create(at("link"))), ErrorKind::Exists);
    assert_eq!(kind(options().create(at("y".repeat(300).as_str()))), ErrorKind::Invalid);
    for bytes in [0, 1 << 19, (64 << 20) + BLOCK as u64, u64::MAX] {
        assert_eq!(kind(Options::new().log_bytes(bytes).create(at("x"))), ErrorKind::Invalid);
    }
    for bytes in [0, 1 << 20, (1 << 20) + (1 << 18)] {
        assert_eq!(kind(options().max_image_bytes(bytes).create(at("x"))), ErrorKind::Invalid);
    }
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "a refused creation left something: {left:?}");
}

#[test]
fn an_existing_file_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = image(&dir);
    let before = seen(&path);
    assert_eq!(kind(options().create(&path)), ErrorKind::Exists);
    fs::write(dir.path().join("text"), "precious").unwrap();
    assert_eq!(kind(options().create(dir.path().join("text"))), ErrorKind::Exists);
    assert_eq!(fs::read(dir.path().join("text")).unwrap(), b"precious");
    assert!(seen(&path) == before);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn permissions_hold() {
    let dir = tempfile::tempdir().unwrap();
    let path = image(&dir);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "nobody else reads it");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
    let before = seen(&path);
    let store = options().open_read_only(&path).unwrap();
    assert!(store.check().unwrap().is_clean());
    store.close().unwrap();
    let everything_is_allowed = fs::OpenOptions::new().write(true).open(&path).is_ok();
    if !everything_is_allowed {
        let e = options().open(&path).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Io);
        let source = std::error::Error::source(&e).and_then(|s| s.downcast_ref::<std::io::Error>()).unwrap();
        assert_eq!(source.kind(), std::io::ErrorKind::PermissionDenied);
    }
    assert!(seen(&path) == before);
}

#[test]
fn one_writer_or_many_readers() {
    let dir = tempfile::tempdir().unwrap();
    let path = image(&dir);
    let other = |task: &str| {
        let mut other = Other::start(task, &path, "");
        let said = other.next().unwrap();
        other.finish();
        said
    };
    let store = options().open(&path).unwrap();
    let before = seen(&path);
    assert_eq!(kind(options().open(&path)), ErrorKind::Locked);
    assert_eq!(kind(options().open_read_only(&path)), ErrorKind::Locked);
    assert_eq!((&*other("open"), &*other("open_read_only")), ("Locked", "Locked"));
    assert!(seen(&path) == before, "a refused opening changed the file");
    // A handle that lives on does not keep a closed image.
    let (kept, volume) = (store.clone(), store.volume("a").unwrap());
    store.close().unwrap();
    assert_eq!(other("open"), "opened");
    let store = options().open(&path).unwrap();
    assert_eq!(kind(kept.volume("a")), ErrorKind::Closed);
    assert_eq!(kind(volume.write_at(&[7; 512], 0)), ErrorKind::Closed);
    drop(kept);
    store.volume("a").unwrap().write_at(&[3; 512], 0).unwrap();
    store.close().unwrap();

    let readers = [options().open_read_only(&path).unwrap(), options().open_read_only(&path).unwrap()];
    assert_eq!((&*other("open"), &*other("open_read_only")), ("Locked", "opened"));
    assert_eq!(kind(options().open(&path)), ErrorKind::Locked);
    drop(readers);

    for (task, beside) in [("hold", Err(ErrorKind::Locked)), ("hold_read_only", Ok(()))] {
        let mut other = Other::start(task, &path, "");
        assert_eq!(other.next().unwrap(), "held");
        assert_eq!(kind(options().open(&path)), ErrorKind::Locked);
        assert_eq!(options().open_read_only(&path).map(drop).map_err(|e| e.kind()), beside);
        // Its death frees the image.
        other.child.kill().unwrap();
        other.child.wait().unwrap();
        options().open(&path).unwrap().close().unwrap();
    }
}

// ---- space

#[test]
fn a_full_image_refuses_and_goes_on() {
    let options = options().max_image_bytes(40 << 20).manual_maintenance(true);
    let dir = tempfile::tempdir().unwrap();
    let store = &options.create(dir.path().join("image")).unwrap();
    let v = &store.create_volume("v", 64 << 20).unwrap();
    let mut written = 0;
    let full = loop {
        match v.write_at(&[7; 64 * BLOCK], written) {
            Ok(()) => written += 64 * B,
            Err(e) => break e,
        }
    };
    assert_eq!(full.kind(), ErrorKind::NoSpace);
    assert!(written > 20 << 20, "most of it is of use: {written}");
    for _ in 0..3 {
        let before = everything(store);
        assert_eq!(kind(v.write_at(&[8; ATOMIC_WRITE_MAX], 0)), ErrorKind::NoSpace);
        assert!(everything(store) == before, "a refused write shows");
    }
    // What frees space passes, and there is some again.
    v.flush().unwrap();
    v.discard(0, 10 << 20).unwrap();
    v.write_at(&[9; ATOMIC_WRITE_MAX], 0).unwrap();
    // Also for a write that holds on to the blocks at its edges, while all that is free waits for a checkpoint.
    while v.write_at(&[7; BLOCK], written).is_ok() {
        written += B;
    }
    v.discard(0, 16 << 20).unwrap();
    v.write_at(&[9; ATOMIC_WRITE_MAX], 5).unwrap();
    assert!(fs::metadata(dir.path().join("image")).unwrap().len() <= 40 << 20);
    let s = v.snapshot("s").unwrap();
    v.discard(0, 64 << 20).unwrap();
    store.delete_snapshot(&s).unwrap();
    store.wait_reclaimed().unwrap();
    v.write_at(&vec![1; 16 << 20], 0).unwrap();
    assert!(store.check().unwrap().is_clean());
}

#[test]
fn freed_space_goes_back_to_the_host() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let probe = FileBackend::create(dir.path().join("probe"), ReadPath::Auto).unwrap();
    probe.reserve(0, 1 << 20).unwrap();
    if probe.punch(0, 1 << 20).is_err() {
        println!("no holes on this filesystem");
        return;
    }
    let allocated = || fs::metadata(&path).unwrap().blocks() * 512;
    for (punch_from, back) in [(Some(1 << 20), true), (None, false)] {
        // As much as the image grows by at a time is kept: here little.
        let knobs = Knobs { growth: 1, ..Knobs::default() };
        let options = options().manual_maintenance(true).punch_from(punch_from).knobs(knobs);
        let store = options.create(&path).unwrap();
        let v = store.create_volume("v", 64 << 20).unwrap();
        v.write_at(&vec![5; 48 << 20], 0).unwrap();
        store.checkpoint().unwrap();
        let full = allocated();
        assert!(full >= 48 << 20);
        v.discard(0, 40 << 20).unwrap();
        // Two checkpoints: in the first the space is free, after the second it is punched.
        store.wait_reclaimed().unwrap();
        v.write_at(&[6; BLOCK], 60 << 20).unwrap();
        store.checkpoint().unwrap();
        v.write_at(&[6; BLOCK], 61 << 20).unwrap();
        store.checkpoint().unwrap();
        assert_eq!(allocated() + (32 << 20) <= full, back, "{full} bytes became {}", allocated());
        assert_eq!(store.counters().unwrap().returned_bytes >= 32 << 20, back);
        // And is taken again.
        v.write_at(&vec![7; 40 << 20], 0).unwrap();
        store.flush().unwrap();
        let mut buf = vec![0; 48 << 20];
        v.read_at(&mut buf, 0).unwrap();
        assert!(buf[..40 << 20].iter().all(|&b| b == 7) && buf[40 << 20..].iter().all(|&b| b == 5));
        assert!(store.check().unwrap().is_clean());
        store.close().unwrap();
        fs::remove_file(&path).unwrap();
    }
}

/// The same image through the map, by `pread`, and in memory: the same bytes.
#[test]
fn ways_of_reading_agree() {
    let dir = tempfile::tempdir().unwrap();
    let path = image(&dir);
    let memory = Arc::new(MemoryBackend::from_bytes(fs::read(&path).unwrap()));
    let expected = everything(&options().open_read_only_on(memory, Arc::new(SimHost::new(1))).unwrap());
    for way in [ReadPath::Auto, ReadPath::Map, ReadPath::Pread] {
        let options = options().read_path(way);
        assert_eq!(everything(&options.open_read_only(&path).unwrap()), expected);
        let store = options.open(&path).unwrap();
        let v = store.volume("a").unwrap();
        for i in 0..200u64 {
            let at = i * 7919 % ((1 << 20) - 9000);
            v.write_at(&[i as u8; 9000], at).unwrap();
            let mut buf = [0; 9000];
            v.read_at(&mut buf, at).unwrap();
            assert!(buf.iter().all(|&b| b == i as u8));
            if i % 20 == 0 {
                store.checkpoint().unwrap();
            }
        }
        v.rollback(&v.snapshot_named("s").unwrap()).unwrap();
        v.write_at(&[2; 10_000], 5000).unwrap();
        assert_eq!(everything(&store), expected);
        store.close().unwrap();
    }
}

/// A new image takes little from the host: its log, and one region to begin with.
#[test]
fn an_empty_image_is_small() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    Options::new().create(&path).unwrap().close().unwrap();
    let taken = fs::metadata(&path).unwrap().blocks() * 512;
    assert!((16 << 20..=20 << 20).contains(&taken), "{taken} bytes");
}
