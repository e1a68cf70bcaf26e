//! `snapdisk serve`: the server's life, and the other commands on the image that it has open.

use super::{
    cli::{PROGRAM, Shell, noise, text},
    nbd::client::Client,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::{
        fd::AsRawFd,
        unix::{
            fs::PermissionsExt,
            net::{UnixDatagram, UnixListener, UnixStream},
            process::CommandExt,
        },
    },
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

/// A server of `a.img` in the directory of a shell. Killed if a test leaves it running.
struct Server(Option<Child>, Vec<String>);

impl Server {
    fn start(sh: &Shell, args: &[&str]) -> Server {
        Server::spawn(sh.command(&[&["serve", "a.img"], args].concat()))
    }
    fn spawn(mut command: Command) -> Server {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
        let lines: Vec<String> = lines.map(|l| l.unwrap()).take_while(|l| l != "ready").collect();
        Server(Some(child), lines)
    }
    fn end(mut self, signal: Signal) -> Output {
        let child = self.0.take().unwrap();
        kill_process(Pid::from_child(&child), signal).unwrap();
        child.wait_with_output().unwrap()
    }
    #[track_caller]
    fn stop(self) {
        let out = self.end(Signal::TERM);
        assert_eq!((out.status.code(), text(&out.stderr)), (Some(0), String::new()));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

fn client(sh: &Shell, name: &str) -> Client {
    let mut client = Client::connect(&sh.path("nbd"));
    client.flags(3);
    client.go(name);
    client
}

#[test]
fn a_server_begins_and_ends_in_order() {
    let sh = Shell::new();
    sh.ok(&["create", "a.img", "v", "--size", "1M"]);
    for signal in [Signal::TERM, Signal::INT] {
        let server = Server::start(&sh, &["--nbd", "./nbd", "--nbd", "127.0.0.1:0"]);
        assert_eq!(server.1[0], "nbd ./nbd");
        let tcp: std::net::SocketAddr = server.1[1].strip_prefix("nbd ").unwrap().parse().unwrap();
        let mut greeting = [0; 18];
        std::net::TcpStream::connect(tcp).unwrap().read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting, b"NBDMAGICIHAVEOPT\0\x03");
        for socket in ["nbd", "a.img.control"] {
            assert_eq!(fs::metadata(sh.path(socket)).unwrap().permissions().mode() & 0o777, 0o600, "{socket}");
        }
        // Nobody else may have the image, whatever they want to do with it.
        sh.fails(4, &["serve", "a.img", "--nbd", "./other"]);
        sh.fails(4, &["serve", "a.img", "--read-only"]);
        assert!(!sh.path("other").exists());
        let mut device = client(&sh, "v");
        device.write(100, b"unflushed");
        assert_eq!(server.end(signal).status.code(), Some(0));
        device.is_over();
        assert!(!sh.path("nbd").exists() && !sh.path("a.img.control").exists());
        assert_eq!(&sh.exported("v")[100..109], b"unflushed");
    }
    // A server that was killed leaves sockets behind, which are replaced; a crash is recovered from.
    let server = Server::start(&sh, &["--nbd", "./nbd"]);
    client(&sh, "v").write(0, b"lost or not");
    server.end(Signal::KILL);
    assert!(sh.path("nbd").exists() && sh.path("a.img.control").exists());
    sh.ok(&["check", "a.img"]);
    Server::start(&sh, &["--nbd", "./nbd"]).stop();
    sh.ok(&["check", "a.img"]);
}

#[test]
fn addresses_that_are_refused() {
    let sh = Shell::new();
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:10809"] {
        assert!(sh.fails(2, &["serve", "a.img", "--nbd", address]).contains("--insecure"));
    }
    assert!(sh.fails(1, &["serve", "a.img", "--nbd", "./missing/nbd"]).contains("missing"));
    fs::write(sh.path("file"), "mine").unwrap();
    sh.fails(1, &["serve", "a.img", "--nbd", "./file"]);
    assert_eq!(fs::read(sh.path("file")).unwrap(), b"mine");
    let _listening = UnixListener::bind(sh.path("busy")).unwrap();
    sh.fails(1, &["serve", "a.img", "--nbd", "./busy"]);
    sh.fails(1, &["serve", "none.img"]);
    sh.ok(&["check", "a.img"]);
}

#[test]
fn the_service_manager_is_told_and_passes_sockets() {
    let sh = Shell::new();
    sh.ok(&["create", "a.img", "v", "--size", "1M"]);
    let manager = UnixDatagram::bind(sh.path("notify")).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let heard = || {
        let mut buf = [0; 100];
        let n = manager.recv(&mut buf).unwrap();
        text(&buf[..n])
    };
    let passed = UnixListener::bind(sh.path("nbd")).unwrap();
    // As a manager does it: descriptor 3, and the process that it is meant for, which a shell knows.
    let mut command = Command::new("sh");
    let line = format!("exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec {PROGRAM} serve a.img");
    command.arg("-c").arg(line).env("NOTIFY_SOCKET", sh.path("notify")).current_dir(sh.0.path());
    command.stdin(passed.try_clone().map(std::os::fd::OwnedFd::from).unwrap()).arg0("sh");
    let server = Server::spawn(command);
    assert_eq!(heard(), "READY=1");
    client(&sh, "v").write(0, b"by a socket that was passed");
    server.stop();
    assert_eq!(heard(), "STOPPING=1");
    // It belongs to the manager, which goes on listening.
    assert!(sh.path("nbd").exists() && passed.as_raw_fd() > 0);
    UnixStream::connect(sh.path("nbd")).unwrap();
    assert_eq!(&sh.exported("v")[..27], b"by a socket that was passed");
}

/// What a command prints and how it ends is the same with a server and without.
/// Sockets for virtual machines follow the volumes that other commands make, rename and remove.
#[cfg(feature = "vhost")]
#[test]
fn machines_find_a_socket_for_each_volume() {
    let sh = Shell::new();
    sh.ok(&["create", "a.img", "v", "--size", "1M"]);
    sh.fails(1, &["serve", "a.img", "--vhost-user", "missing"]);
    sh.fails(2, &["serve", "a.img", "--vhost-user", "machines", "--read-only"]);
    fs::create_dir(sh.path("machines")).unwrap();
    let sockets = || {
        let mut names: Vec<_> =
            fs::read_dir(sh.path("machines")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let server = Server::start(&sh, &["--vhost-user", "machines"]);
    assert_eq!(sockets(), ["v.sock"]);
    assert_eq!(fs::metadata(sh.path("machines/v.sock")).unwrap().permissions().mode() & 0o777, 0o600);
    for (args, want) in [
        (&["create", "a.img", "w", "--size", "1M"][..], &["v.sock", "w.sock"][..]),
        (&["rename", "a.img", "w", "x"], &["v.sock", "x.sock"]),
        (&["rm", "a.img", "x"], &["v.sock"]),
    ] {
        sh.ok(args);
        while sockets() != want {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    server.stop();
    assert_eq!(sockets(), [""; 0]);
}

#[test]
fn every_verb_works_on_the_live_store() {
    let (alone, served) = (Shell::new(), Shell::new());
    let server = Server::start(&served, &["--nbd", "./nbd"]);
    let disk = noise(3, (3 << 20) + 77);
    for sh in [&alone, &served] {
        fs::write(sh.path("disk"), &disk).unwrap();
    }
    let moments = |text: String| -> String {
        let is_time = |w: &str| w.len() >= 20 && w.contains('T') && w.ends_with(['Z', '"', ',']);
        text.split(' ').map(|w| if is_time(w.trim()) { "TIME" } else { w }).collect::<Vec<_>>().join(" ")
    };
    for args in [
        &["create", "a.img", "web", "--size", "4M"][..],
        &["import", "a.img", "db", "disk"],
        &["import", "a.img", "db", "disk"],
        &["import", "a.img", "none", "missing"],
        &["snapshot", "a.img", "db@one", "web@one"],
        &["snapshot", "a.img", "db@one"],
        &["import", "a.img", "db", "disk", "--update"],
        &["diff", "a.img", "-", "db@one"],
        &["diff", "a.img", "web", "db", "--json"],
        &["diff", "a.img", "web", "none"],
        &["diff", "a.img", "-"],
        &["clone", "a.img", "db@one", "copy"],
        &["clone", "a.img", "db@none", "copy2"],
        &["rename", "a.img", "copy", "old"],
        &["resize", "a.img", "old", "1M"],
        &["resize", "a.img", "none", "1M"],
        &["rollback", "a.img", "db@one"],
        &["ls", "a.img"],
        &["ls", "a.img", "--json"],
        &["export", "a.img", "db@one", "out"],
        &["export", "a.img", "db@one", "out"],
        &["export", "a.img", "db", "out", "--force"],
        &["export", "a.img", "old", "-"],
        &["export", "a.img", "none", "-"],
        &["rm", "a.img", "db"],
        &["rm", "a.img", "db", "--keep-snapshots"],
        &["rm", "a.img", "@1"],
        &["check", "a.img", "--json"],
        &["scrub", "a.img"],
        &["ls", "a.img"],
        &["create", "a.img", "bad name", "--size", "1M"],
        &["create", "a.img"],
    ] {
        let outs = [&alone, &served].map(|sh| sh.run(args));
        let told = |out: &Output| (out.status.code(), out.stderr.clone());
        assert_eq!(told(&outs[0]), told(&outs[1]), "{args:?}: {} {}", text(&outs[0].stderr), text(&outs[1].stderr));
        match String::from_utf8(outs[0].stdout.clone()) {
            // How much lies where differs between an image that is open and one that is not.
            Ok(_) if args[0] == "check" => {}
            Ok(out) => assert_eq!(moments(out), moments(text(&outs[1].stdout)), "{args:?}"),
            Err(_) => assert!(outs[0].stdout == outs[1].stdout, "{args:?}"),
        }
    }
    assert!(fs::read(served.path("out")).unwrap() == disk && fs::read(alone.path("out")).unwrap() == disk);
    let info = served.json(&["info", "a.img", "--json"]);
    assert_eq!((&info["image"], &info["unfinished_import"]), (&Value::from("a.img"), &Value::from(false)));
    // Streams, by another name of the image.
    std::os::unix::fs::symlink("a.img", served.path("link")).unwrap();
    assert_eq!(served.feed(&["import", "link", "piped", "-"], &disk).status.code(), Some(0));
    assert!(served.exported("piped") == disk);
    server.stop();
    assert!(served.exported("piped") == disk);
    served.ok(&["check", "a.img"]);
}

#[test]
fn a_volume_in_use_is_changed_by_force_alone() {
    let sh = Shell::new();
    sh.ok(&["create", "a.img", "v", "--size", "1M"]);
    let server = Server::start(&sh, &["--nbd", "./nbd"]);
    sh.ok(&["snapshot", "a.img", "v@empty"]);
    let mut device = client(&sh, "v");
    device.write(0, &[1; 512]);
    sh.ok(&["snapshot", "a.img", "v@live"]);
    for args in [
        &["rollback", "a.img", "v@empty"][..],
        &["resize", "a.img", "v", "512K"],
        &["rm", "a.img", "v", "--with-snapshots"],
    ] {
        assert!(sh.fails(1, args).contains("--force"), "{args:?}");
    }
    sh.ok(&["resize", "a.img", "v", "2M"]);
    device.write(512, &[2; 512]);
    sh.ok(&["rollback", "a.img", "v@live", "--force"]);
    device.is_turned_away();
    let mut device = client(&sh, "v");
    assert_eq!(device.size, 1 << 20);
    assert_eq!(device.read(0, 0, 1024), Ok([[1; 512], [0; 512]].concat()));
    sh.ok(&["resize", "a.img", "v", "512K", "--force"]);
    device.is_turned_away();
    let mut device = client(&sh, "v");
    sh.ok(&["rm", "a.img", "v", "--with-snapshots", "--force"]);
    device.is_over();
    assert_eq!(sh.ok(&["ls", "a.img"]), "");
    server.stop();
}

#[test]
fn an_import_that_is_interrupted_leaves_nothing_on_the_live_store() {
    let sh = Shell::new();
    let server = Server::start(&sh, &["--nbd", "./nbd"]);
    for signal in [Signal::INT, Signal::KILL] {
        let mut child = sh.spawn(&["import", "a.img", "v", "-"]);
        child.stdin.as_mut().unwrap().write_all(&noise(11, 9 << 20)).unwrap();
        // While it is being filled it is no volume that anybody sees, and there is one import at a time.
        let mut device = Client::connect(&sh.path("nbd"));
        device.flags(3);
        assert_eq!(device.list(), Vec::<String>::new());
        assert_eq!(sh.ok(&["ls", "a.img"]), "");
        kill_process(Pid::from_child(&child), signal).unwrap();
        drop(child.stdin.take());
        let out = child.wait_with_output().unwrap();
        assert_eq!(out.status.code(), if signal == Signal::INT { Some(1) } else { None });
        while sh.json(&["info", "a.img", "--json"])["unfinished_import"] == true {
            std::thread::yield_now();
        }
        assert_eq!(sh.volumes(), Vec::<String>::new());
    }
    // A server that stops in the middle of one.
    let mut child = sh.spawn(&["import", "a.img", "v", "-"]);
    child.stdin.as_mut().unwrap().write_all(&noise(11, 9 << 20)).unwrap();
    server.stop();
    drop(child.stdin.take());
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(1), "{}", text(&out.stderr));
    sh.ok(&["check", "a.img"]);
    assert_eq!(sh.volumes(), Vec::<String>::new());
}

#[test]
fn hostile_bytes_at_the_control_socket() {
    let sh = Shell::new();
    sh.ok(&["create", "a.img", "v", "--size", "1M"]);
    let server = Server::start(&sh, &[]);
    let frame = |kind: u8, number: u64, bytes: &[u8]| {
        [&[kind][..], &number.to_be_bytes(), &(bytes.len() as u32).to_be_bytes(), bytes].concat()
    };
    let line = |args: &[&str]| [&["snapdisk-control-1", "snapdisk"], args].concat().join("\0").into_bytes();
    // Its whole answer, once it has closed; it may close before it has taken all.
    let tell = |bytes: &[u8]| {
        let mut stream = UnixStream::connect(sh.path("a.img.control")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        answer
    };
    let code = |answer: &[u8]| (answer.first().copied(), answer.get(8).copied());
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0; 64],
        &[b'A'; 64],
        &frame(b'A', 0, b"snapdisk-control-9\0snapdisk\0ls\0a.img"),
        &frame(b'A', 0, b""),
        &frame(b'D', 0, &line(&["ls", "a.img"])),
        &frame(b'A', 0, &[0xff; 70_000]),
    ] {
        assert_eq!(code(&tell(bytes)), (Some(b'X'), Some(1)), "{}", String::from_utf8_lossy(bytes));
    }
    // What is no verb on an open image is not run here, and what is no command line is a usage error.
    for args in
        [&["init", "new.img"][..], &["serve", "a.img"], &["tour"], &["ls"], &["rm", "a.img", "../v"], &["--help"]]
    {
        assert_eq!(code(&tell(&frame(b'A', 0, &line(args)))), (Some(b'X'), Some(2)), "{args:?}");
    }
    assert!(!sh.path("new.img").exists());
    // An image by another name is this one all the same: a path from the socket opens nothing.
    assert_eq!(
        code(&tell(&frame(b'A', 0, &line(&["create", "/etc/passwd", "w", "--size", "512"])))),
        (Some(b'X'), Some(0))
    );
    // Half a request, and imports of anything but pieces.
    drop(UnixStream::connect(sh.path("a.img.control")).map(|mut s| s.write_all(b"A")));
    let import = frame(b'A', 0, &line(&["import", "a.img", "x", "/etc/passwd"]));
    for then in [
        frame(b'X', 0, b""),
        [frame(b'L', u64::MAX, b""), frame(b'H', u64::MAX, b""), frame(b'E', 0, b"")].concat(),
        [frame(b'L', 512, b""), frame(b'D', 0, &[1; 4096]), frame(b'E', 0, b"")].concat(),
        [frame(b'L', u64::MAX - 5, b""), frame(b'E', 0, b"")].concat(),
        [frame(b'L', 4096, b""), frame(b'D', 0, b"")].concat(),
        [frame(b'L', 4096, b""), frame(b'H', 1 << 63, b""), frame(b'H', 1 << 63, b"")].concat(),
    ] {
        assert_eq!(code(&tell(&[&import[..], &then].concat())), (Some(b'X'), Some(1)), "{then:?}");
    }
    // Those that stall have places of their own to stall in, and give way to nobody's harm when they go.
    let stalled: Vec<_> = (0..15).map(|_| UnixStream::connect(sh.path("a.img.control")).unwrap()).collect();
    assert_eq!(sh.volumes(), ["v", "w"]);
    drop(stalled);
    sh.ok(&["check", "a.img"]);
    server.stop();
}

#[test]
fn a_server_that_only_reads() {
    let sh = Shell::new();
    sh.ok(&["create", "a.img", "v", "--size", "1M"]);
    let server = Server::start(&sh, &["--read-only", "--nbd", "./nbd"]);
    assert_eq!(client(&sh, "v").transmission & 2, 2);
    assert_eq!(sh.volumes(), ["v"]);
    sh.fails(1, &["create", "a.img", "w", "--size", "1M"]);
    sh.fails(4, &["serve", "a.img", "--read-only"]);
    sh.ok(&["check", "a.img"]);
    sh.ok(&["scrub", "a.img"]);
    server.stop();
}

/// The API in the same process, on the same store.
#[cfg(feature = "http")]
#[test]
fn a_server_with_the_api() {
    let sh = Shell::new();
    sh.ok(&["create", "a.img", "v", "--size", "1M"]);
    sh.ok(&["api", "a.img", "--init-config", "api.toml"]);
    let config = fs::read_to_string(sh.path("api.toml")).unwrap();
    let lines = config.lines().filter(|line| !line.starts_with("listen"));
    let config = lines.fold("listen = \"127.0.0.1:0\"\n".to_owned(), |all, line| all + line + "\n");
    fs::write(sh.path("api.toml"), config).unwrap();
    let server = Server::start(&sh, &["--nbd", "./nbd", "--api", "api.toml"]);
    client(&sh, "v").write(0, &[1; 512]);
    assert_eq!(sh.volumes(), ["v"]);
    let child = server.0.as_ref().unwrap();
    kill_process(Pid::from_child(child), Signal::HUP).unwrap();
    let out = server.end(Signal::TERM);
    let said = text(&out.stderr);
    assert_eq!(out.status.code(), Some(0), "{said}");
    assert!(said.contains("\"event\":\"listening\"") && said.contains("\"event\":\"stopped\""), "{said}");
    fs::write(sh.path("api.toml"), "nonsense").unwrap();
    sh.fails(1, &["serve", "a.img", "--api", "api.toml"]);
    assert!(!sh.path("a.img.control").exists());
}
