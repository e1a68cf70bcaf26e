//! Images that are opened without a path: in files that the caller opened, and below a directory that is open, also where there is no
//! `/proc` and no way out of a directory.

use snapdisk::{
    BLOCK, Error, ErrorKind, Options, Result, Store,
    io::{FileBackend, ImageFiles, ReadPath},
};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Seek, Write},
    os::unix::fs::{OpenOptionsExt, symlink},
    path::Path,
    process::Command,
};

fn options() -> Options {
    Options::new().log_bytes(1 << 20)
}
fn read_write(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}
fn empty(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap()
}
fn directory(path: &Path) -> File {
    File::open(path).unwrap()
}
fn all(path: &Path) -> ImageFiles {
    ImageFiles::new(read_write(path)).checkpoint(read_write(path)).space(read_write(path)).cold_reads(directory(path))
}
#[track_caller]
fn refused<T>(result: Result<T>, kind: ErrorKind, says: &str) -> Error {
    let e = result.err().expect("refused");
    assert_eq!(e.kind(), kind, "{e}");
    assert!(e.to_string().contains(says), "{e}");
    e
}

/// Writes something, syncs it, checkpoints it and closes.
fn use_and_close(store: Store, n: u8) {
    let disk = store.volume("disk").or_else(|_| store.create_volume("disk", 1 << 20)).unwrap();
    let mut buf = [0; BLOCK];
    disk.read_at(&mut buf, 0).unwrap();
    assert_eq!(buf, [n; BLOCK]);
    disk.write_at(&[n + 1; BLOCK], 0).unwrap();
    disk.flush().unwrap();
    store.checkpoint().unwrap();
    store.close().unwrap();
}

#[test]
fn an_image_lives_in_files_that_the_caller_opened() {
    let d = tempfile::tempdir().unwrap();
    let path = d.path().join("image");
    use_and_close(options().create_file(empty(&path)).unwrap(), 0);
    use_and_close(options().open_file(read_write(&path)).unwrap(), 1);
    use_and_close(options().open_file(all(&path)).unwrap(), 2);
    use_and_close(options().open(&path).unwrap(), 3);
    for file in [read_write(&path), directory(&path)] {
        let store = options().open_file_read_only(file).unwrap();
        assert!(store.is_read_only());
        let mut buf = [0; BLOCK];
        store.volume("disk").unwrap().read_at(&mut buf, 0).unwrap();
        assert_eq!(buf, [4; BLOCK]);
    }
    let other = d.path().join("other");
    let first = empty(&other);
    use_and_close(
        options().create_file(ImageFiles::new(first).checkpoint(read_write(&other)).space(read_write(&other))).unwrap(),
        0,
    );
    use_and_close(options().open(&other).unwrap(), 1);
}

#[test]
fn files_that_are_no_use_are_refused() {
    let d = tempfile::tempdir().unwrap();
    let path = d.path().join("image");
    use_and_close(options().create(&path).unwrap(), 0);
    let bytes = fs::read(&path).unwrap();
    let opened = |o: &mut OpenOptions| o.open(&path).unwrap();
    let o = OpenOptions::new;
    let (direct, place) = (0o40000, 0o10000000);
    let open = |file: File| options().open_file(file);
    let invalid = ErrorKind::Invalid;
    refused(open(directory(&path)), invalid, "for reading only");
    refused(open(opened(o().write(true))), invalid, "for writing only");
    refused(options().open_file_read_only(opened(o().write(true))), invalid, "for writing only");
    refused(open(opened(o().read(true).append(true))), invalid, "O_APPEND");
    refused(open(opened(o().read(true).custom_flags(place))), invalid, "O_PATH");
    if let Ok(file) = o().read(true).write(true).custom_flags(direct).open(&path) {
        refused(open(file), invalid, "O_DIRECT");
    }
    refused(open(directory(d.path())), invalid, "a directory");
    refused(options().create_file(read_write(&path)), ErrorKind::Exists, "not empty");
    // Not one description for two purposes, and not two files for one image.
    let two = read_write(&path);
    let copies = |file: &File| file.try_clone().unwrap();
    refused(options().open_file(ImageFiles::new(copies(&two)).checkpoint(copies(&two))), invalid, "share one");
    let files = ImageFiles::new(read_write(&path)).checkpoint(copies(&two)).space(copies(&two));
    refused(options().open_file(files), invalid, "share one");
    let files = ImageFiles::new(read_write(&path)).checkpoint(read_write(&path)).cold_reads(copies(&two)).space(two);
    refused(options().open_file(files), invalid, "share one");
    let other = empty(&d.path().join("other"));
    refused(options().open_file(ImageFiles::new(read_write(&path)).space(other)), invalid, "not the same file");
    fs::hard_link(&path, d.path().join("second")).unwrap();
    refused(open(read_write(&path)), invalid, "more than one name");
    options().open_file_read_only(directory(&path)).unwrap();
    assert!(fs::read(&path).unwrap() == bytes);
}

#[test]
fn copies_of_one_descriptor_do_not_open_an_image_twice() {
    let d = tempfile::tempdir().unwrap();
    let path = d.path().join("image");
    let first = empty(&path);
    let copy = first.try_clone().unwrap();
    let store = options().create_file(first).unwrap();
    refused(options().open_file(copy.try_clone().unwrap()), ErrorKind::Locked, "open elsewhere");
    refused(options().open_file_read_only(copy), ErrorKind::Locked, "open elsewhere");
    store.close().unwrap();

    let (main, checkpoint, space) = (read_write(&path), read_write(&path), read_write(&path));
    let files = || {
        let copy = |file: &File| file.try_clone().unwrap();
        ImageFiles::new(copy(&main)).checkpoint(copy(&checkpoint)).space(copy(&space))
    };
    let store = options().open_file(files()).unwrap();
    refused(options().open_file(files()), ErrorKind::Locked, "open elsewhere");
    refused(options().open(&path), ErrorKind::Locked, "open elsewhere");
    store.close().unwrap();
    options().open_file(files()).unwrap().close().unwrap();
}

#[test]
fn what_did_not_become_an_image_leaves_nothing() {
    let d = tempfile::tempdir().unwrap();
    let path = d.path().join("image");
    let small = options().max_image_bytes(4096);
    refused(small.create_file(empty(&path)), ErrorKind::Invalid, "no room");
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    use_and_close(options().create_file(read_write(&path)).unwrap(), 0);
    // Dropped before it was published, likewise.
    let backend = FileBackend::create_at(directory(d.path()), "other", ReadPath::Auto).unwrap();
    drop(backend);
    assert_eq!(fs::read_dir(d.path()).unwrap().count(), 1);
}

#[test]
fn an_image_lives_in_a_directory_that_is_open() {
    let d = tempfile::tempdir().unwrap();
    let dir = directory(d.path());
    use_and_close(options().create_at(&dir, "image").unwrap(), 0);
    refused(options().create_at(&dir, "image"), ErrorKind::Exists, "image");
    use_and_close(options().open_at(&dir, "image").unwrap(), 1);
    let store = options().open_read_only_at(&dir, "image").unwrap();
    refused(options().open_at(&dir, "image"), ErrorKind::Locked, "image");
    drop(store);
    // A directory that was opened as a place only.
    let place = OpenOptions::new().read(true).custom_flags(0o10000000).open(d.path()).unwrap();
    use_and_close(options().create_at(&place, "second").unwrap(), 0);
    use_and_close(options().open_at(&place, "second").unwrap(), 1);

    fs::create_dir(d.path().join("sub")).unwrap();
    fs::rename(d.path().join("second"), d.path().join("sub/image")).unwrap();
    symlink("image", d.path().join("link")).unwrap();
    for name in ["", ".", "..", "sub/image", "sub/../image", "./sub/image", "image/", "/image", "../image"] {
        refused(options().open_at(&dir, name), ErrorKind::Invalid, "");
        refused(options().create_at(&dir, name), ErrorKind::Invalid, "");
    }
    refused(options().open_at(&dir, "link"), ErrorKind::Invalid, "a symbolic link");
    refused(options().open_read_only_at(&dir, "link"), ErrorKind::Invalid, "a symbolic link");
    refused(options().open_at(&dir, "sub"), ErrorKind::Invalid, "a directory");
    refused(options().open_at(&dir, "none"), ErrorKind::NotFound, "none");
    assert_eq!(fs::read_dir(d.path()).unwrap().count(), 3);
}

/// Run by the test below in a process of its own, which has nothing but one directory.
#[test]
fn child() {
    let Some(path) = std::env::var_os("SNAPDISK_JAIL").filter(|path| !path.is_empty()) else { return };
    let path = Path::new(&path);
    let (dir, image) = (directory(path), path.join("image"));
    // The first is created below; all are opened while there is a path.
    let given = path.join("given");
    let first = empty(&given);
    let (files, more, alone) = (all(&given), all(&given), read_write(&given));
    let readers = [directory(&given), directory(&given)];
    fs::create_dir(path.join("jail")).unwrap();
    match std::os::unix::fs::chroot(path.join("jail")) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return println!("jail: it takes root to make one"),
        made => made.unwrap(),
    }
    std::env::set_current_dir("/").unwrap();
    assert!(!image.exists() && fs::read_dir("/proc").is_err());

    let e = refused(options().create_file(first), ErrorKind::Invalid, "ImageFiles");
    assert!(std::error::Error::source(&e).is_some());
    use_and_close(options().create_file(files).unwrap(), 0);
    refused(options().open_file(alone), ErrorKind::Invalid, "/proc/self/fd");
    let store = options().open_file(more).unwrap();
    let cold = store.has_cold_reads();
    use_and_close(store, 1);
    // For reading one description is enough; past the cache it reads through another one.
    let [reader, other] = readers;
    drop(options().open_file_read_only(reader.try_clone().unwrap()).unwrap());
    assert_eq!(
        options().open_file_read_only(ImageFiles::new(reader).cold_reads(other)).unwrap().has_cold_reads(),
        cold
    );

    use_and_close(options().create_at(&dir, "image").unwrap(), 0);
    use_and_close(options().open_at(&dir, "image").unwrap(), 1);
    drop(options().open_read_only_at(&dir, "image").unwrap());
    println!("jail: done");
}

#[test]
fn a_jail_without_proc_and_paths_is_enough() {
    let d = tempfile::tempdir().unwrap();
    let run = Command::new(std::env::current_exe().unwrap())
        .args(["jail::child", "--exact", "--nocapture", "--test-threads=1"])
        .env("SNAPDISK_JAIL", d.path())
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{out}\n{}", String::from_utf8_lossy(&run.stderr));
    assert!(out.contains("jail: "), "{out}");
    if out.contains("jail: it takes root") {
        let _ = writeln!(io::stderr(), "left out: {out}");
        return;
    }
    // What was made in there is there.
    for name in ["given", "image"] {
        use_and_close(options().open(d.path().join(name)).unwrap(), 2);
    }
}

#[test]
fn the_position_of_a_given_file_is_left_at_its_start() {
    let d = tempfile::tempdir().unwrap();
    let path = d.path().join("image");
    use_and_close(options().create(&path).unwrap(), 0);
    let mut main = read_write(&path);
    main.seek(io::SeekFrom::End(0)).unwrap();
    let mut seen = main.try_clone().unwrap();
    let files = ImageFiles::new(main).checkpoint(read_write(&path)).space(read_write(&path));
    let store = options().open_file(files).unwrap();
    assert_eq!(seen.stream_position().unwrap(), 0);
    use_and_close(store, 1);
    assert_eq!(seen.stream_position().unwrap(), 0);
}
