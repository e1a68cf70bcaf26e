//! The server as a process: what it takes in memory under attack, and how it ends.

use super::wire::{PRIVATE, PUBLIC, signed_form};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::unix::fs::OpenOptionsExt,
    process::{Child, ChildStderr, Command, Stdio},
    time::Duration,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_snapdisk");

struct Process {
    child: Child,
    address: String,
    /// What it says from then on.
    log: Option<BufReader<ChildStderr>>,
    dir: tempfile::TempDir,
}

impl Process {
    fn new(config: &str) -> Process {
        let dir = tempfile::tempdir().unwrap();
        let made = Command::new(PROGRAM).args(["init", "a.img", "--log", "1M"]).current_dir(dir.path()).status();
        assert!(made.unwrap().success());
        Process::config(dir.path(), config);
        let mut child = Command::new(PROGRAM)
            .args(["api", "a.img", "--config", "c.toml", "--listen", "127.0.0.1:0"])
            .current_dir(dir.path())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        log.read_line(&mut line).unwrap();
        let address = line.split("http://").nth(1).unwrap_or_else(|| panic!("{line}")).split('/').next().unwrap();
        Process { address: address.to_owned(), log: Some(log), child, dir }
    }
    fn config(dir: &std::path::Path, more: &str) {
        let text = format!(
            "{more}\n[[region]]\nid = \"cn\"\n[[company]]\nid = 1\n[[company.project]]\nid = \"default\"\n\
             [[company.member]]\nid = 7\npublic_key = \"{PUBLIC}\"\nprivate_key = \"{PRIVATE}\"\n"
        );
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(dir.join("c.toml"));
        file.unwrap().write_all(text.as_bytes()).unwrap();
    }
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }
    fn answer(&self, head: &str, body: &[u8]) -> String {
        let mut stream = self.connect();
        let head = format!("{head} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        let mut out = Vec::new();
        let _ = stream.read_to_end(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }
    fn region(&self) -> bool {
        let query = signed_form(&[("Action", "DescribeRegion")]);
        self.answer(&format!("GET /api?{query}"), b"").contains("\"RetCode\":0")
    }
    /// Bytes of a field of the process's status.
    fn memory(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix(field)).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
    }
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
    fn end(mut self) {
        self.signal(Signal::TERM);
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        let checked = Command::new(PROGRAM).args(["check", "a.img"]).current_dir(self.dir.path()).output().unwrap();
        assert!(checked.status.success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Two hundred connections that send as much as they may, of what costs most, unsigned.
#[test]
fn hostile_requests_take_little_memory() {
    let mut p = Process::new("connections_per_peer = 0");
    let mut log = p.log.take().unwrap();
    let reader = std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
    assert!(p.region());
    let idle = p.memory("VmRSS:");
    let list = |piece: &str, len: usize| piece.repeat(len / piece.len());
    let mebibyte = (1 << 20) - 64;
    let bodies = [
        (
            "application/json",
            format!("{{\"PublicKey\":\"x\",\"Signature\":\"y\",\"Action\":[{}1]}}", list("1,", mebibyte)),
        ),
        ("application/json", format!("{{\"Action\":\"A\",\"x\":[{}{{}}]}}", list("{\"\":[]},", mebibyte))),
        (
            "application/json",
            format!("{{\"Action\":\"{}\",\"PublicKey\":\"{PUBLIC}\",\"Signature\":\"y\"}}", "a".repeat(1_000_000)),
        ),
        ("application/x-www-form-urlencoded", list("a=&", mebibyte)),
        (
            "application/x-www-form-urlencoded",
            format!("Action=A&PublicKey={PUBLIC}&Signature=y&z={}", "a".repeat(1_000_000)),
        ),
    ];
    for (kind, body) in &bodies {
        std::thread::scope(|scope| {
            for _ in 0..200 {
                scope
                    .spawn(|| p.answer(&format!("POST /api HTTP/1.1\r\nContent-Type: {kind}\r\nX: "), body.as_bytes()));
            }
        });
    }
    // And two hundred that never finish what they began.
    let held: Vec<_> = (0..200)
        .map(|_| {
            let mut s = p.connect();
            s.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
            let _ = s.write_all(b"POST /api HTTP/1.1\r\nHost: x\r\nContent-Length: 1048576\r\n\r\n");
            let _ = s.write_all(&vec![b'a'; 1_000_000]);
            s
        })
        .collect();
    assert!(p.region());
    let more = p.memory("VmHWM:").saturating_sub(idle);
    println!("{} MiB above idle", more >> 20);
    assert!(more < 64 << 20, "{} MiB above idle", more >> 20);
    drop(held);
    p.end();
    reader.join().unwrap().unwrap();
}

/// Nobody reads the log, or nobody is there to: actions are answered, SIGHUP is heeded and SIGTERM ends it well.
#[test]
fn a_process_whose_log_nobody_reads_goes_on_and_ends() {
    let p = Process::new("");
    // More than a pipe and the queue hold.
    for _ in 0..1500 {
        assert!(p.region());
    }
    Process::config(p.dir.path(), "[[admin]]\npublic_key = \"a\"\nprivate_key = \"the admin's private key\"");
    p.signal(Signal::HUP);
    let sign_in = || p.answer("POST /signin", b"public_key=a&private_key=the+admin's+private+key");
    while !sign_in().starts_with("HTTP/1.1 303") {
        // Not too often, or the address is refused.
        std::thread::sleep(Duration::from_secs(1));
    }
    p.end();

    let mut p = Process::new("");
    drop(p.log.take());
    for _ in 0..50 {
        assert!(p.region());
    }
    p.end();
}

/// A log that is full from the start is no reason not to serve.
#[test]
fn a_full_log_does_not_keep_the_server_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    Process::config(dir.path(), "");
    let made = Command::new(PROGRAM).args(["init", "a.img", "--log", "1M"]).current_dir(dir.path()).status();
    assert!(made.unwrap().success());
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut child = Command::new(PROGRAM)
        .args(["api", "a.img", "--config", "c.toml", "--listen", &address])
        .current_dir(dir.path())
        .stderr(full)
        .spawn()
        .unwrap();
    while TcpStream::connect(&address).is_err() {
        assert!(child.try_wait().unwrap().is_none(), "it has ended");
        std::thread::sleep(Duration::from_millis(20));
    }
    let p = Process { child, address, log: None, dir };
    assert!(p.region());
    p.end();
}
