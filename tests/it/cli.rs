//! The command `snapdisk` as a shell sees it: exit codes, files, what it prints and what it must not.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use snapdisk::Options;
use std::{
    ffi::OsStr,
    fs,
    io::Write,
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_snapdisk");

/// A directory, and the command run in it.
pub(crate) struct Shell(pub(crate) tempfile::TempDir);

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

impl Shell {
    pub(crate) fn new() -> Shell {
        let shell = Shell(tempfile::tempdir().unwrap());
        shell.ok(&["init", "a.img", "--log", "1M"]);
        shell
    }
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(args).current_dir(self.0.path()).stdin(Stdio::null());
        command
    }
    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Output {
        self.command(args).output().unwrap()
    }
    /// Runs what must succeed; gives what it printed.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let out = self.run(args);
        assert_eq!(out.status.code(), Some(0), "{args:?}: {}", text(&out.stderr));
        assert!(out.stderr.is_empty(), "{args:?}: {}", text(&out.stderr));
        text(&out.stdout)
    }
    /// Runs what must fail with `code`; gives what it said.
    pub(crate) fn fails(&self, code: i32, args: &[&str]) -> String {
        let out = self.run(args);
        let said = text(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{args:?}: {said}");
        assert!(!said.is_empty() && out.stdout.is_empty(), "{args:?}");
        said
    }
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(args)).unwrap()
    }
    /// Gives standard input to a command that must succeed.
    pub(crate) fn feed(&self, args: &[&str], input: &[u8]) -> Output {
        let mut child = self.spawn(args);
        // A command that fails early closes the pipe.
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    }
    pub(crate) fn spawn(&self, args: &[&str]) -> Child {
        self.command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }
    pub(crate) fn volumes(&self) -> Vec<String> {
        let list = self.json(&["ls", "a.img", "--json"]);
        list["volumes"].as_array().unwrap().iter().map(|v| v["name"].as_str().unwrap().to_owned()).collect()
    }
    pub(crate) fn exported(&self, what: &str) -> Vec<u8> {
        let out = self.run(&["export", "a.img", what, "-"]);
        assert!(out.status.success(), "{what}: {}", text(&out.stderr));
        out.stdout
    }
    /// The bytes that only this volume or snapshot holds, and those that it maps.
    pub(crate) fn usage(&self, kind: &str, name: &str) -> (u64, u64) {
        let info = self.json(&["info", "a.img", "--json"]);
        let row = info[kind].as_array().unwrap().iter().find(|v| v["name"] == name).unwrap().clone();
        (row["exclusive"].as_u64().unwrap(), row["mapped"].as_u64().unwrap())
    }
}

/// Bytes without pattern, the same for the same seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed * 2 + 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 32) as u8
    };
    (0..len).map(|_| next()).collect()
}

fn allocated(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

#[test]
fn a_life() {
    let sh = Shell::new();
    assert_eq!(sh.ok(&["ls", "a.img"]), "");
    sh.ok(&["create", "a.img", "web", "--size", "10G"]);
    let one = noise(1, 3 << 20);
    fs::write(sh.path("one"), &one).unwrap();
    sh.ok(&["import", "a.img", "db", "one"]);
    sh.ok(&["snapshot", "a.img", "web@mon", "db@mon"]);
    let two = noise(2, 3 << 20);
    fs::write(sh.path("two"), &two).unwrap();
    sh.ok(&["import", "a.img", "db", "two", "--update"]);
    sh.ok(&["snapshot", "a.img", "db@tue"]);
    sh.ok(&["clone", "a.img", "db@mon", "copy"]);
    assert!(sh.exported("db") == two && sh.exported("db@tue") == two);
    assert!(sh.exported("db@mon") == one && sh.exported("copy") == one);

    sh.ok(&["rollback", "a.img", "db@mon"]);
    assert!(sh.exported("db") == one && sh.exported("db@tue") == two);
    sh.ok(&["rollback", "a.img", "db@tue"]);
    assert!(sh.exported("db") == two);

    sh.ok(&["rename", "a.img", "db@tue", "wed"]);
    sh.ok(&["rename", "a.img", "copy", "old"]);
    assert!(sh.exported("db@wed") == two && sh.exported("old") == one);
    assert!(sh.fails(1, &["export", "a.img", "db@tue", "-"]).contains("no snapshot db@tue"));

    sh.ok(&["resize", "a.img", "old", "1M"]);
    sh.ok(&["resize", "a.img", "old", "2M"]);
    assert!(sh.exported("old") == [&one[..1 << 20], &[0; 1 << 20]].concat());

    let list = sh.ok(&["ls", "a.img"]);
    for part in ["web ", "10G", "db ", "└─ mon", "   wed", "old ", "from db@mon", "<- the volume is here"] {
        assert!(list.contains(part), "{part:?} is not in:\n{list}");
    }
    let list = sh.json(&["ls", "a.img", "--json"]);
    let wed = list["snapshots"].as_array().unwrap().iter().find(|s| s["name"] == "wed").unwrap();
    assert_eq!((&wed["volume"], wed["size"].as_u64()), (&Value::from("db"), Some(3 << 20)));
    let created = wed["created"].as_str().unwrap();
    assert!(created.len() == 20 && created.starts_with("20") && created.ends_with('Z'), "{created}");

    assert!(sh.fails(1, &["rm", "a.img", "db"]).contains("--with-snapshots"));
    sh.ok(&["rm", "a.img", "db@mon"]);
    let wed = format!("@{}", wed["id"]);
    sh.ok(&["rm", "a.img", "db", "--keep-snapshots"]);
    assert!(sh.ok(&["ls", "a.img"]).contains("(deleted volume "));
    assert!(sh.exported(&wed) == two);
    assert!(sh.fails(1, &["rollback", "a.img", &wed]).contains("gone"));
    sh.ok(&["clone", "a.img", &wed, "db"]);
    sh.ok(&["rm", "a.img", &wed]);
    assert!(sh.exported("db") == two);
    sh.ok(&["rm", "a.img", "web", "--with-snapshots"]);
    assert_eq!(sh.volumes(), ["db", "old"]);
    assert!(sh.ok(&["check", "a.img"]).starts_with("clean: 2 volumes, 0 snapshots"));
    let info = sh.json(&["info", "a.img", "--json"]);
    assert_eq!(info["reclaim_entries"], 0);
    assert_eq!(info["unfinished_import"], false);
    assert!(sh.ok(&["info", "a.img"]).contains("2 volumes, 0 snapshots"));
}

#[test]
fn differences_are_told() {
    let sh = Shell::new();
    sh.ok(&["create", "a.img", "w", "--size", "1G"]);
    let one = noise(1, 20 * 4096 + 512);
    fs::write(sh.path("one"), &one).unwrap();
    sh.ok(&["import", "a.img", "v", "one"]);
    sh.ok(&["snapshot", "a.img", "v@s"]);
    assert_eq!(sh.ok(&["diff", "a.img", "v@s", "v"]), "no difference\n");
    let (mut two, kept) = (one.clone(), one.len());
    two[5 * 4096] ^= 1;
    two[kept - 1] ^= 1;
    fs::write(sh.path("two"), &two).unwrap();
    sh.ok(&["import", "a.img", "v", "two", "--update"]);
    let told = sh.ok(&["diff", "a.img", "v@s", "v"]);
    let lines: Vec<Vec<&str>> = told.lines().map(|l| l.split_whitespace().collect()).collect();
    let expected: [&[&str]; 4] = [
        &["OFFSET", "BYTES", "KIND"],
        &["20480", "4096", "data"],
        &["81920", "512", "data"],
        &["4.5K", "of", "data,", "0", "of", "zeros"],
    ];
    assert_eq!(lines, expected);
    let json = sh.json(&["diff", "a.img", "v", "w", "--json"]);
    assert_eq!(json["ranges"][0], serde_json::json!({"offset": 0, "len": 21 * 4096, "kind": "zero"}));
    assert_eq!((&json["data_bytes"], &json["zero_bytes"]), (&Value::from(0), &Value::from(21 * 4096)));
    for nothing in [
        &["diff", "a.img", "-", "v", "--json"][..],
        &["diff", "a.img", "v", "--json"],
        &["diff", "a.img", "w", "@1", "--json"],
    ] {
        let json = sh.json(nothing);
        assert_eq!(json["ranges"], serde_json::json!([{"offset": 0, "len": kept, "kind": "data"}]), "{nothing:?}");
    }
    let none = serde_json::json!({"ranges": [], "data_bytes": 0, "zero_bytes": 0});
    assert_eq!(sh.json(&["diff", "a.img", "-", "w", "--json"]), none);
    for (code, args) in [(2, "-"), (2, "v -"), (2, "- -"), (2, "v w v"), (1, "v x"), (1, "v@x v"), (1, "@99 v")] {
        let args: Vec<&str> = ["diff", "a.img"].into_iter().chain(args.split(' ')).collect();
        sh.fails(code, &args);
    }
}

#[test]
fn usage_errors_are_2() {
    let sh = Shell::new();
    let cases: &[&[&str]] = &[
        &[],
        &["nonsense"],
        &["ls"],
        &["create", "a.img", "v"],
        &["create", "a.img", "v", "--size", "10X"],
        &["create", "a.img", "v", "--size", "1.5G"],
        &["create", "a.img", ".v", "--size", "1M"],
        &["create", "a.img", "v@s", "--size", "1M"],
        &["create", "a.img", "import.partial", "--size", "1M"],
        &["snapshot", "a.img"],
        &["snapshot", "a.img", "v"],
        &["rollback", "a.img", "v"],
        &["clone", "a.img", "v@s", "bad name"],
        &["export", "a.img", "v@", "out"],
        &["export", "a.img", "@x", "out"],
        &["rm", "a.img", "v", "--with-snapshots", "--keep-snapshots"],
        &["rm", "a.img", "v@s", "--with-snapshots"],
        &["init", "b.img", "--log", "100G"],
        &["init", "b.img", "--log", "1000"],
        &["create", "a.img", "x", "--size", "513"],
        &["create", "a.img", "x", "--size", "257T"],
        &["resize", "a.img", "v", "1000"],
        &["snapshot", "a.img", "v@t", "v@u"],
        &["scrub", "a.img", "--rate", "0"],
        &["api", "a.img"],
        &["api", "a.img", "--config", "c", "--listen", "nowhere"],
        &["api", "a.img", "--config", "c", "--listen", ":80"],
        &["api", "a.img", "--config", "c", "--listen", "localhost:99999"],
        &["api", "a.img", "--config", "c", "--adopt", "v"],
        &["api", "a.img", "--config", "c", "--adopt", "v=one"],
        &["tour-child", "a.img", "v", "x"],
    ];
    for args in cases {
        sh.fails(2, args);
    }
    for args in [&["--help"][..], &["--version"], &["import", "--help"]] {
        assert!(!sh.ok(args).is_empty());
    }
}

#[test]
fn errors_are_1_and_change_nothing() {
    let sh = Shell::new();
    fs::write(sh.path("disk"), noise(3, 8192)).unwrap();
    sh.ok(&["import", "a.img", "v", "disk"]);
    sh.ok(&["create", "a.img", "w", "--size", "512"]);
    sh.ok(&["snapshot", "a.img", "v@s"]);
    fs::write(sh.path("junk"), noise(4, 200_000)).unwrap();
    fs::write(sh.path("larger"), noise(5, 8193)).unwrap();
    let before = (sh.json(&["ls", "a.img", "--json"]), sh.exported("v"));
    let cases: &[&[&str]] = &[
        &["init", "a.img"],
        &["init", "no/such.img"],
        &["ls", "missing"],
        &["ls", "junk"],
        &["ls", "."],
        &["ls", "/dev/null"],
        &["create", "a.img", "v", "--size", "1M"],
        &["snapshot", "a.img", "v@s"],
        &["snapshot", "a.img", "nobody@s"],
        &["snapshot", "a.img", "w@t", "v@s"],
        &["rollback", "a.img", "w@s"],
        &["rollback", "a.img", "@99"],
        &["clone", "a.img", "v@s", "w"],
        &["clone", "a.img", "v@nobody", "x"],
        &["rm", "a.img", "nobody"],
        &["rm", "a.img", "v"],
        &["rename", "a.img", "v", "w"],
        &["import", "a.img", "v", "disk"],
        &["import", "a.img", "x", "missing"],
        &["import", "a.img", "x", "."],
        &["import", "a.img", "x", "/dev/null"],
        &["import", "a.img", "x", "a.img"],
        &["import", "a.img", "v", "larger", "--update"],
        &["import", "a.img", "nobody", "disk", "--update"],
        &["export", "a.img", "nobody", "out"],
        &["export", "a.img", "v", "disk"],
        &["export", "a.img", "v", "no/such"],
        &["export", "a.img", "v", "a.img", "--force"],
        &["export", "a.img", "v", ".", "--force"],
        &["export", "a.img", "v", "/dev/null", "--force"],
        &["check", "missing"],
    ];
    for args in cases {
        sh.fails(1, args);
    }
    assert!((sh.json(&["ls", "a.img", "--json"]), sh.exported("v")) == before);
    assert!(fs::read(sh.path("disk")).unwrap() == noise(3, 8192));
    let left: Vec<_> = fs::read_dir(sh.0.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 4, "{left:?}");
    sh.ok(&["check", "a.img"]);
}

#[test]
fn an_image_in_use_is_4() {
    let sh = Shell::new();
    sh.ok(&["create", "a.img", "v", "--size", "1M"]);
    let store = Options::new().open(sh.path("a.img")).unwrap();
    for args in [&["ls", "a.img"][..], &["check", "a.img"], &["create", "a.img", "w", "--size", "1M"]] {
        sh.fails(4, args);
    }
    store.close().unwrap();
    // Readers share, and keep writers out.
    let store = Options::new().open_read_only(sh.path("a.img")).unwrap();
    sh.ok(&["ls", "a.img"]);
    sh.ok(&["export", "a.img", "v", "out"]);
    sh.fails(4, &["rm", "a.img", "v"]);
    store.close().unwrap();
    sh.ok(&["rm", "a.img", "v"]);
}

#[test]
fn damage_is_3() {
    let sh = Shell::new();
    let disk = noise(6, 64 << 10);
    fs::write(sh.path("disk"), &disk).unwrap();
    sh.ok(&["import", "a.img", "good", "disk"]);
    fs::write(sh.path("disk2"), noise(7, 64 << 10)).unwrap();
    sh.ok(&["import", "a.img", "bad", "disk2"]);
    let image = fs::read(sh.path("a.img")).unwrap();
    let block = noise(7, 64 << 10)[4096..8192].to_vec();
    let at = (0..image.len()).step_by(4096).find(|&i| image[i..i + 4096] == block).unwrap();
    let file = fs::OpenOptions::new().write(true).open(sh.path("a.img")).unwrap();
    file.write_all_at(&[image[at + 7] ^ 1], at as u64 + 7).unwrap();

    let out = sh.run(&["check", "a.img"]);
    assert_eq!(out.status.code(), Some(3));
    assert!(text(&out.stdout).contains("bad"), "{}", text(&out.stdout));
    let out = sh.run(&["check", "a.img", "--json"]);
    assert_eq!(out.status.code(), Some(3));
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((&report["clean"], report["findings"].as_array().unwrap().len()), (&Value::from(false), 1));
    sh.fails(3, &["export", "a.img", "bad", "out"]);
    assert!(!sh.path("out").exists());
    assert!(sh.exported("good") == disk);

    file.set_len(100_000).unwrap();
    for args in [&["check", "a.img"][..], &["ls", "a.img"]] {
        sh.fails(3, args);
    }
}

#[test]
fn what_only_reads_writes_nothing() {
    let sh = Shell::new();
    fs::write(sh.path("disk"), noise(8, 1 << 20)).unwrap();
    sh.ok(&["import", "a.img", "v", "disk"]);
    // A crashed image too: its log is applied in memory.
    let store = Options::new().open(sh.path("a.img")).unwrap();
    let v = store.volume("v").unwrap();
    v.write_at(&[9; 5000], 12_345).unwrap();
    v.flush().unwrap();
    drop((v, store));
    let state = || {
        let meta = fs::metadata(sh.path("a.img")).unwrap();
        (
            fs::read(sh.path("a.img")).unwrap(),
            meta.mtime_nsec(),
            meta.mtime(),
            meta.ctime(),
            meta.ctime_nsec(),
            meta.len(),
        )
    };
    let before = state();
    let mut disk = noise(8, 1 << 20);
    disk[12_345..17_345].fill(9);
    assert!(sh.exported("v") == disk);
    for args in [
        &["ls", "a.img"][..],
        &["info", "a.img"],
        &["diff", "a.img", "v"],
        &["check", "a.img"],
        &["export", "a.img", "v", "out"],
    ] {
        sh.ok(args);
    }
    assert!(state() == before);
    // And where nothing may be written at all.
    fs::set_permissions(sh.path("a.img"), fs::Permissions::from_mode(0o444)).unwrap();
    sh.ok(&["check", "a.img"]);
}

#[test]
fn import_takes_what_there_is() {
    let sh = Shell::new();
    // Holes, zeros and an odd length.
    let mut disk = vec![0; (5 << 20) + 77];
    disk[300_000..300_100].copy_from_slice(&noise(9, 100));
    disk[(5 << 20) + 70..].fill(7);
    let file = fs::File::create(sh.path("disk")).unwrap();
    file.set_len(disk.len() as u64).unwrap();
    file.write_all_at(&disk[290_000..310_000], 290_000).unwrap();
    file.write_all_at(&disk[5 << 20..], 5 << 20).unwrap();
    sh.ok(&["import", "a.img", "v", "disk"]);
    assert!(sh.exported("v") == disk);
    assert_eq!(sh.usage("volumes", "v").1, 2 * 4096, "only blocks that are not zero take space");

    // The same from a stream, and from nothing.
    for (name, input) in [("stream", &disk), ("empty", &Vec::new())] {
        let out = sh.feed(&["import", "a.img", name, "-"], input);
        assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    }
    assert!(sh.exported("stream") == disk && sh.exported("empty").is_empty());

    // A file comes out sparse, private and whole; a name that is taken needs --force.
    sh.ok(&["export", "a.img", "v", "out"]);
    let meta = fs::metadata(sh.path("out")).unwrap();
    assert_eq!((meta.len(), meta.mode() & 0o777), (disk.len() as u64, 0o600));
    assert!(allocated(&sh.path("out")) < 200_000 && fs::read(sh.path("out")).unwrap() == disk);
    fs::write(sh.path("out"), "mine").unwrap();
    assert!(sh.fails(1, &["export", "a.img", "v", "out"]).contains("--force"));
    assert_eq!(fs::read(sh.path("out")).unwrap(), b"mine");
    sh.ok(&["export", "a.img", "v", "out", "--force"]);
    assert!(fs::read(sh.path("out")).unwrap() == disk);
}

/// A volume has whole sectors; what comes out is what went in all the same.
#[test]
fn exports_have_the_length_of_the_import() {
    let sh = Shell::new();
    let put = |args: &[&str], len: usize| {
        fs::write(sh.path("disk"), noise(12, len)).unwrap();
        sh.ok(args);
    };
    put(&["import", "a.img", "v", "disk"], 70_001);
    sh.ok(&["snapshot", "a.img", "v@one"]);
    put(&["import", "a.img", "v", "disk", "--update"], 70_100);
    sh.ok(&["snapshot", "a.img", "v@two"]);
    sh.ok(&["clone", "a.img", "v@one", "w"]);
    let lengths = || ["v", "v@one", "v@two", "w"].map(|name| sh.exported(name).len());
    assert_eq!(lengths(), [70_100, 70_001, 70_100, 70_001]);
    assert!(sh.exported("v@one") == noise(12, 70_001) && sh.exported("v") == noise(12, 70_100));
    sh.ok(&["rollback", "a.img", "v@one"]);
    assert_eq!(lengths(), [70_001, 70_001, 70_100, 70_001]);
    sh.ok(&["export", "a.img", "v", "out"]);
    assert!(fs::read(sh.path("out")).unwrap() == noise(12, 70_001));

    // A disk of whole sectors, other sizes, and bytes behind the length are exported whole.
    put(&["import", "a.img", "v", "disk", "--update"], 70_144);
    assert_eq!(lengths(), [70_144, 70_001, 70_100, 70_001]);
    sh.ok(&["resize", "a.img", "w", "1M"]);
    assert_eq!(sh.exported("w").len(), 1 << 20);
    sh.ok(&["rollback", "a.img", "v@two"]);
    let store = Options::new().open(sh.path("a.img")).unwrap();
    store.volume("v").unwrap().write_at(&[1], 70_120).unwrap();
    store.close().unwrap();
    assert_eq!(lengths(), [70_144, 70_001, 70_100, 1 << 20]);
}

/// An export that is killed leaves its unfinished file; the next one to that place removes it, and none that is at work.
#[test]
fn an_export_removes_what_a_killed_one_left() {
    let sh = Shell::new();
    fs::write(sh.path("disk"), noise(13, 4096)).unwrap();
    sh.ok(&["import", "a.img", "v", "disk"]);
    let others = [".out.0123456.partial", ".out.xxxxxxxx.partial", ".other.01234567.partial", ".out.01234567.partial2"];
    for name in others.into_iter().chain([".out.01234567.partial", ".out.89abcdef.partial"]) {
        fs::write(sh.path(name), "half a disk").unwrap();
    }
    let at_work = fs::File::open(sh.path(".out.89abcdef.partial")).unwrap();
    rustix::fs::flock(&at_work, rustix::fs::FlockOperation::LockExclusive).unwrap();
    std::os::unix::fs::symlink("disk", sh.path(".out.00000000.partial")).unwrap();
    sh.ok(&["export", "a.img", "v", "out"]);
    for name in others.into_iter().chain([".out.89abcdef.partial", ".out.00000000.partial"]) {
        assert!(fs::symlink_metadata(sh.path(name)).is_ok(), "{name}");
    }
    assert!(!sh.path(".out.01234567.partial").exists());
    // Unlocked rather than closed: a child that another test is starting may have the description for a moment longer.
    rustix::fs::flock(&at_work, rustix::fs::FlockOperation::Unlock).unwrap();
    sh.ok(&["export", "a.img", "v", "out", "--force"]);
    assert!(!sh.path(".out.89abcdef.partial").exists());
    assert!(fs::read(sh.path("out")).unwrap() == noise(13, 4096));
}

/// What could not be said is no success, and what was not given is no empty disk.
#[test]
fn lost_streams_are_errors() {
    let sh = Shell::new();
    fs::write(sh.path("disk"), noise(14, 2 << 20)).unwrap();
    sh.ok(&["import", "a.img", "v", "disk"]);
    let shell = |line: &str| {
        let mut command = Command::new("sh");
        command.arg("-c").arg(line).env("SNAPDISK", PROGRAM).current_dir(sh.0.path());
        let out = command.output().unwrap();
        (out.status.code(), text(&out.stderr))
    };
    for what in [
        "ls a.img",
        "info a.img --json",
        "diff a.img v",
        "check a.img",
        "export a.img v -",
        "scrub a.img",
        "--help",
        "--version",
    ] {
        let (code, said) = shell(&format!("\"$SNAPDISK\" {what} >&-"));
        assert!(code == Some(1) && said.contains("standard output is closed"), "{what}: {code:?} {said}");
        let (code, said) = shell(&format!("\"$SNAPDISK\" {what} >/dev/full"));
        assert!(code == Some(1) && said.contains("No space left"), "{what}: {code:?} {said}");
        assert_eq!(shell(&format!("\"$SNAPDISK\" {what} >/dev/null")), (Some(0), String::new()), "{what}");
    }
    // A reader that goes away ends the command quietly, with an error for whoever asks.
    let (_, said) = shell("{ \"$SNAPDISK\" export a.img v -; echo $? >code; } | head -c 1 >/dev/null");
    assert_eq!((said.as_str(), fs::read_to_string(sh.path("code")).unwrap().trim()), ("", "1"));
    // What prints nothing needs no output.
    assert_eq!(shell("\"$SNAPDISK\" create a.img w --size 1M >&-"), (Some(0), String::new()));
    let (code, said) = shell("\"$SNAPDISK\" import a.img x - <&-");
    assert!(code == Some(2) && said.contains("standard input is closed"), "{code:?} {said}");
    assert_eq!(shell("\"$SNAPDISK\" import a.img x - </dev/null"), (Some(0), String::new()));
    // With all three gone none of the files that the command opens takes their place.
    assert_eq!(shell("\"$SNAPDISK\" create a.img y --size 1M <&- >&- 2>&-").0, Some(0));
    sh.ok(&["check", "a.img"]);
    assert_eq!(sh.volumes(), ["v", "w", "x", "y"]);
}

#[test]
fn update_writes_only_what_differs() {
    let sh = Shell::new();
    let mut disk = noise(10, 4 << 20);
    fs::write(sh.path("disk"), &disk).unwrap();
    sh.ok(&["import", "a.img", "v", "disk"]);
    sh.ok(&["snapshot", "a.img", "v@s"]);
    sh.ok(&["import", "a.img", "v", "disk", "--update"]);
    assert_eq!(sh.usage("volumes", "v").0, 0, "the same again changes nothing");
    disk[1 << 20] ^= 1;
    disk[(3 << 20) + 5000] ^= 1;
    fs::write(sh.path("disk"), &disk).unwrap();
    sh.ok(&["import", "a.img", "v", "disk", "--update"]);
    let (exclusive, mapped) = sh.usage("volumes", "v");
    assert!((2 * 4096..=6 * 4096).contains(&exclusive), "two blocks and the path to them, and not {exclusive}");
    assert_eq!(mapped, 4 << 20);
    assert!(sh.exported("v") == disk && sh.exported("v@s") == noise(10, 4 << 20));

    // Zeros and holes give space back.
    disk[..2 << 20].fill(0);
    let file = fs::File::create(sh.path("disk")).unwrap();
    file.set_len(disk.len() as u64).unwrap();
    file.write_all_at(&disk[1 << 20..], 1 << 20).unwrap();
    let out = sh.feed(&["import", "a.img", "v", "-", "--update"], &disk);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    assert!(sh.exported("v") == disk);
    assert_eq!(sh.usage("volumes", "v").1, 2 << 20);
    sh.ok(&["rollback", "a.img", "v@s"]);
    sh.ok(&["import", "a.img", "v", "disk", "--update"]);
    assert!(sh.exported("v") == disk);
    assert_eq!(sh.usage("volumes", "v").1, 2 << 20);

    // A stream that does not fit is an error; up to there the volume is updated.
    for len in [disk.len() - 4096, disk.len() + 1] {
        let out = sh.feed(&["import", "a.img", "v", "-", "--update"], &vec![5; len]);
        assert_eq!(out.status.code(), Some(1));
        assert!(text(&out.stderr).contains("updated"), "{}", text(&out.stderr));
    }
}

/// Starts an import, lets it take 9 MiB and does `end` to it.
fn cut_short(sh: &Shell, end: impl FnOnce(&mut Child)) -> Output {
    let mut child = sh.spawn(&["import", "a.img", "v", "-"]);
    // A pipe holds little: when all this has gone in, the command has taken most of it, and written some.
    child.stdin.as_mut().unwrap().write_all(&noise(11, 9 << 20)).unwrap();
    end(&mut child);
    child.wait_with_output().unwrap()
}

#[test]
fn an_interrupted_import_leaves_no_volume() {
    let sh = Shell::new();
    sh.ok(&["create", "a.img", "other", "--size", "1M"]);
    let out = cut_short(&sh, |child| child.kill().unwrap());
    assert_eq!(out.status.code(), None);
    assert_eq!(sh.volumes(), ["other"]);
    sh.ok(&["check", "a.img"]);
    // The next that writes removes the rest.
    sh.ok(&["create", "a.img", "v", "--size", "1M"]);
    sh.ok(&["rm", "a.img", "v"]);
    let info = sh.json(&["info", "a.img", "--json"]);
    assert_eq!((&info["unfinished_import"], &info["reclaim_entries"]), (&Value::from(false), &Value::from(0)));
    let names = |path: &Path| -> Vec<String> {
        let store = Options::new().open_read_only(path).unwrap();
        store.volumes().unwrap().iter().map(|v| v.name().unwrap()).collect()
    };
    assert_eq!(names(&sh.path("a.img")), ["other"]);

    // A signal that can be caught: it cleans up itself, and takes no end of input for the end of the disk.
    for signal in [Signal::INT, Signal::TERM] {
        let out = cut_short(&sh, |child| {
            kill_process(Pid::from_child(child), signal).unwrap();
        });
        assert_eq!(out.status.code(), Some(1), "{}", text(&out.stderr));
        assert!(text(&out.stderr).contains("interrupted"));
        assert_eq!(names(&sh.path("a.img")), ["other"]);
    }
    sh.ok(&["check", "a.img"]);
}

#[test]
fn nothing_raw_reaches_the_terminal() {
    let sh = Shell::new();
    let evil = "x\u{1b}]0;owned\u{7}\u{1b}[2J\r\u{9b}";
    for args in [["ls", evil], ["check", evil], [evil, "a.img"], ["info", evil]] {
        let out = sh.run(&args);
        let said = text(&out.stderr);
        assert!(!said.is_empty() && !said.chars().any(|c| c.is_control() && c != '\n'), "{said:?}");
    }
    // An image under such a name is fine.
    sh.ok(&["init", evil]);
    let told = sh.ok(&["info", evil]);
    assert!(told.contains("\\u{1b}") && !told.chars().any(|c| c.is_control() && c != '\n'), "{told:?}");
}

#[test]
fn tour() {
    let sh = Shell::new();
    let out = sh.run(&["tour", "--dir", ".", "--json"]);
    let told: Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|_| panic!("{}", text(&out.stderr)));
    assert_eq!((out.status.code(), &told["ok"]), (Some(0), &Value::from(true)), "{told:#}");
    assert!(told["proofs"].as_array().unwrap().len() >= 12, "{told:#}");

    let out = sh.run(&["tour", "missing", "--dir", "."]);
    assert!(out.status.code() == Some(1) && text(&out.stderr).contains("missing"), "{}", text(&out.stderr));

    // A disk without a filesystem, of an odd length; it is only read.
    let disk = noise(12, (2 << 20) + 100);
    fs::write(sh.path("disk"), &disk).unwrap();
    let told = sh.ok(&["tour", "disk", "--dir", "."]);
    assert!(told.contains("PASSED") && told.contains("raw bytes"), "{told}");
    assert!(fs::read(sh.path("disk")).unwrap() == disk);
    let left: Vec<_> = fs::read_dir(sh.0.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}
