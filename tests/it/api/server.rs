//! The server in operation: its log, its places, its memory, its keys, and the page's forms, each treated badly.

use super::{
    World, main_account,
    wire::{PRIVATE, PUBLIC, Running, keys, signed_form},
};
use serde_json::{Value, json};
use snapdisk::http::{Config, PublicUrl, Server, ServerOptions};
use std::{
    io::{self, Read, Write},
    net::TcpStream,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
        mpsc,
    },
    time::Duration,
};

fn describe() -> String {
    format!("GET /api?{} HTTP/1.1", signed_form(&[("Action", "DescribeRegion")]))
}

/// Whoever reads the log may stop, go away or be full: each action is answered, and the server ends when it is told to.
#[test]
fn a_log_that_fails_or_stalls_stops_nobody() {
    let (release, stalled) = mpsc::channel::<()>();
    let stalled = Mutex::new(stalled);
    let r = Running::new(|o| {
        o.log = Arc::new(move |_| {
            // Until the other end is dropped.
            let _ = stalled.lock().unwrap().recv();
            Ok(())
        });
    });
    for _ in 0..1500 {
        assert_eq!(r.request(&describe(), "").2["RetCode"], 0);
    }
    let lost = r.metric("snapdisk_log_lines_lost_total");
    assert!((400..1500).contains(&lost), "a bounded number waits, the others are counted: {lost}");
    drop(r);
    drop(release);

    let tried = Arc::new(AtomicU64::new(0));
    let count = tried.clone();
    let r = Running::new(|o| {
        o.log = Arc::new(move |_| {
            count.fetch_add(1, SeqCst);
            Err(io::ErrorKind::BrokenPipe.into())
        });
    });
    for _ in 0..20 {
        assert_eq!(r.request(&describe(), "").2["RetCode"], 0);
    }
    drop(r);
    assert!(tried.load(SeqCst) >= 20, "each is tried");

    let r = Running::new(|o| o.log = Arc::new(|_| panic!("a sink with a bug")));
    for _ in 0..20 {
        assert_eq!(r.request(&describe(), "").2["RetCode"], 0);
    }
}

#[test]
fn health_and_metrics_have_a_listener_of_their_own() {
    let r = Running::new(|_| {});
    let disk = r.world.disk(&main_account());
    let snapshot = [("Action", "CreateSnapshot"), ("Region", "cn"), ("DiskID", &*disk), ("Name", "n")];
    assert_eq!(r.request(&format!("GET /api?{} HTTP/1.1", signed_form(&snapshot)), "").2["RetCode"], 0);
    let text = r.ops("/metrics");
    for line in [
        "snapdisk_calls_total{action=\"CreateSnapshot\",code=\"0\"} 1\n",
        "snapdisk_call_seconds_bucket{action=\"CreateSnapshot\",le=\"+Inf\"} 1\n",
        "snapdisk_call_seconds_count{action=\"CreateSnapshot\"} 1\n",
        "snapdisk_snapshots{state=\"Normal\"} 1\n",
        "snapdisk_snapshots{state=\"Failure\"} 0\n",
        "snapdisk_reclaim_pending 0\n",
        "# TYPE snapdisk_stored_bytes gauge\n",
        "snapdisk_failed{of=\"schedule\"} 0\n",
        "snapdisk_disks 1\n",
    ] {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }
    assert!(!text.contains(&disk), "no object of a tenant has a series");
    assert!(r.ops("/health").ends_with("\r\n\r\nok\n") && r.ops("/").starts_with("HTTP/1.1 404"));
    for (method, body) in [("GET", "ok\n"), ("HEAD", "")] {
        let (status, _, text) = r.request(&format!("{method} /health HTTP/1.1"), "");
        assert_eq!((status, text), (200, json!(body)));
    }
}

/// Whatever a peer does with its connections, others are served.
#[test]
fn one_peer_does_not_shut_the_others_out() {
    // All from one address, which has fewer places than there are.
    let r = Running::new(|o| (o.connections, o.connections_per_peer) = (8, 4));
    let held: Vec<_> = (0..4)
        .map(|_| {
            let mut s = r.connect();
            s.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            let mut first = [0; 12];
            s.read_exact(&mut first).unwrap();
            assert_eq!(&first, b"HTTP/1.1 200");
            s
        })
        .collect();
    assert_eq!(r.raw(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"), "", "the fifth is closed");
    drop(held);

    // From anywhere, as many as there are places: heads that never come, silence between requests.
    let r = Running::new(|o| (o.connections, o.connections_per_peer) = (8, 0));
    let mut held = Vec::new();
    for i in 0..8 {
        let mut s = r.connect();
        match i % 3 {
            0 => {}
            1 => s.write_all(b"GET /health HTTP/1.1\r\nHost").unwrap(),
            _ => s.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").unwrap(),
        }
        held.push(s);
    }
    for _ in 0..20 {
        assert_eq!(r.request("GET /health HTTP/1.1", "").0, 200);
        assert_eq!(r.request(&describe(), "").2["RetCode"], 0);
        held.push(r.connect());
    }
    assert!(r.ops("/health").starts_with("HTTP/1.1 200"), "and the listener for it is never in anybody's way");
}

/// Size, number and nesting are bounded before anything is built.
#[test]
fn requests_of_too_many_values_are_refused() {
    const WHO: &str = "\"Action\":\"A\",\"PublicKey\":\"1UxDcqTHEGGGviQFqlt870EbLuaSJPZOB8hZ74tL\",\"Signature\":\"y\"";
    let r = Running::new(|_| {});
    let json = |body: &str| r.request("POST /api HTTP/1.1\r\nContent-Type: application/json", body).2;
    let many = |n: usize| format!("{{{WHO},\"x\":[{}]}}", vec!["1"; n].join(","));
    let nested = |n: usize| format!("{{{WHO},\"x\":{}1{}}}", "[".repeat(n), "]".repeat(n));
    let objects = |n: usize| format!("{{{WHO},\"x\":{}1{}}}", "{\"a\":".repeat(n), "}".repeat(n));
    for (body, code) in [
        (many(1020), 109),
        (many(1021), 4),
        (many(300_000), 4),
        (nested(15), 109),
        (nested(16), 4),
        (nested(300_000), 4),
        (objects(15), 109),
        (objects(16), 4),
        (format!("{{{WHO},{}}}", (0..1025).map(|i| format!("\"k{i}\":0")).collect::<Vec<_>>().join(",")), 4),
    ] {
        assert_eq!(json(&body)["RetCode"], code, "{}", &body[..60.min(body.len())]);
    }
    let form = |n: usize| (0..n).map(|i| format!("&k{i}=")).collect::<String>();
    for (n, code) in [(1021, 109), (1022, 4), (100_000, 4)] {
        let body = format!("Action=A&PublicKey={PUBLIC}&Signature=y{}", form(n));
        assert_eq!(r.request("POST /api HTTP/1.1", &body).2["RetCode"], code, "{n}");
    }
    // The same for whoever has no key: nobody learns from it which keys there are.
    for (body, code) in
        [(many(1020), 109), (many(1021), 4), (nested(16), 4), (many(2).replace("\"x\"", "\"Action\""), 4)]
    {
        assert_eq!(json(&body.replace(PUBLIC, "nobody"))["RetCode"], code);
        assert_eq!(json(&body)["RetCode"], code);
    }
    for (more, code) in [("&a=%zz", 4), ("&Action=B", 4), ("&=x", 4), ("", 109)] {
        for key in [PUBLIC, "nobody"] {
            let body = format!("Action=A&PublicKey={key}&Signature=y{more}");
            assert_eq!(r.request("POST /api HTTP/1.1", &body).2["RetCode"], code, "{more}");
        }
    }
}

#[test]
fn exactly_one_host_is_named() {
    let r = Running::new(|_| {});
    for (head, status) in [
        ("GET /health HTTP/1.1\r\n\r\n", "400"),
        ("GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400"),
        ("GET /health HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "400"),
        ("GET /health HTTP/1.1\r\nHost:\r\n\r\n", "400"),
        ("GET /health HTTP/1.1\r\nHost: a, b\r\n\r\n", "400"),
        ("GET /health HTTP/1.0\r\n\r\n", "200"),
    ] {
        assert_eq!(r.raw(head.as_bytes()).split(' ').nth(1), Some(status), "{head:?}");
    }
}

const SESSION: &str = "snapdisk-session=";

fn sign_in(r: &Running, more: &str, public: &str, private: &str) -> (u16, String) {
    let head = format!("POST /signin HTTP/1.1\r\nContent-Type: application/x-www-form-urlencoded{more}");
    let (status, head, _) = r.request(&head, &format!("public_key={public}&private_key={private}"));
    (status, head)
}

fn cookie(head: &str) -> String {
    let line = head.lines().find_map(|l| l.strip_prefix("set-cookie: ")).expect("a cookie");
    line.split(';').next().unwrap().to_owned()
}

fn token(page: &str) -> String {
    let at = page.find("name=\"token\" value=\"").expect("a form") + 20;
    page[at..].split('"').next().unwrap().to_owned()
}

/// What is signed is what is done: an action in the address is one of the parameters, or it does not count.
#[test]
fn another_action_than_the_signed_one_is_not_done() {
    let r = Running::new(|_| {});
    let disk = r.world.disk(&main_account());
    let signed = signed_form(&[("Action", "DescribeSnapshot"), ("DiskID", &disk), ("Region", "cn")]);
    let moved = signed.replace("Action=DescribeSnapshot", "ActionDescribeSnapshot=");
    assert_ne!(signed, moved);
    for body in [moved, signed.replace("Action=DescribeSnapshot&", ""), signed.replace("=DescribeSnapshot", "=")] {
        let answer = r.request("POST /api?Action=DeleteDisk HTTP/1.1", &body).2;
        assert_ne!(answer["RetCode"], 0, "{answer}");
    }
    assert!(r.world.store.volume(&disk).is_ok());
    let answer = r.request("POST /api?Action=DeleteDisk HTTP/1.1", &signed).2;
    assert_eq!((&answer["Action"], &answer["RetCode"]), (&json!("DescribeSnapshotResponse"), &json!(0)));
}

/// Whoever hangs up before the answer is in the log like everybody else.
#[test]
fn who_hangs_up_is_in_the_log() {
    let r = Running::new(|_| {});
    let disk = r.world.disk(&main_account());
    let pairs = [("Action", "DeleteDisk"), ("DiskID", &*disk), ("Region", "cn")];
    let mut stream = r.connect();
    stream.write_all(format!("GET /api?{} HTTP/1.1\r\nHost: x\r\n\r\n", signed_form(&pairs)).as_bytes()).unwrap();
    drop(stream);
    while r.world.store.volume(&disk).is_ok() {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(r.lines(1)[0].contains("\"action\":\"DeleteDisk\""));
}

/// One pair of keys has a few sessions, which leave the others' alone, and none once its private key is another.
#[test]
fn sessions_are_of_the_keys_that_were_given() {
    let changed = format!("public_key = \"{PUBLIC}\"\nprivate_key = \"another private key\"\n");
    let r = Running::new(|o| o.reload = Some(Arc::new(move || Ok(config(&changed)))));
    let signed_in = |cookie: &str| {
        let page = r.request(&format!("GET / HTTP/1.1\r\nCookie: {cookie}"), "").2;
        page.as_str().unwrap().contains("Sign out")
    };
    let other = cookie(&sign_in(&r, "", "two", "two's+private+key").1);
    let all: Vec<String> = (0..20).map(|_| cookie(&sign_in(&r, "", PUBLIC, PRIVATE).1)).collect();
    assert_eq!(all.iter().filter(|c| signed_in(c)).count(), 16);
    assert!(signed_in(&other) && signed_in(&all[19]) && !signed_in(&all[0]));
    // An offset of any size is one of a page that is empty.
    let page = r.request(&format!("GET /?offset=18446744073709551615 HTTP/1.1\r\nCookie: {other}"), "");
    assert_eq!(page.0, 200);
    r.control.reload().unwrap();
    assert!(!signed_in(&all[19]) && !signed_in(&other));
}

/// What is done by a form is counted and told as what is done by a call is.
#[test]
fn the_page_and_the_api_have_one_audit() {
    let r = Running::new(|_| {});
    let disk = r.world.disk(&main_account());
    let (status, head) = sign_in(&r, "", PUBLIC, PRIVATE);
    assert_eq!(status, 303);
    let cookie = format!("\r\nCookie: {}", cookie(&head));
    let page = r.request(&format!("GET / HTTP/1.1{cookie}"), "").2.as_str().unwrap().to_owned();
    let form = |action: &str, more: &str| {
        let body = format!("token={}&Action={action}&Region=cn{more}", token(&page));
        r.request(&format!("POST /do HTTP/1.1{cookie}"), &body).0
    };
    assert_eq!(form("CreateSnapshot", &format!("&DiskID={disk}&Name=n&MemberID=7")), 303);
    assert_eq!(form("DeleteDisk", "&DiskID=disk-none"), 200);
    let pairs = [("Action", "DeleteDisk"), ("Region", "cn"), ("DiskID", "disk-none"), ("MemberID", "7")];
    r.request(&format!("GET /api?{} HTTP/1.1", signed_form(&pairs)), "");
    assert!(r.lines(5)[0].contains("\"action\":\"SignIn\",\"admin\":false,\"client\""), "{}", r.lines(5)[0]);
    let lines: Vec<Value> = r.lines(5).iter().map(|l| serde_json::from_str(l).unwrap()).collect();
    let told = |l: &Value| [&l["action"], &l["code"], &l["company"], &l["member"], &l["DiskID"]].map(Value::clone);
    assert_eq!(told(&lines[2]), [json!("CreateSnapshot"), json!(0), json!(1), json!(7), json!(disk)]);
    assert_eq!(lines[2]["MemberID"], "7");
    assert!(lines[2]["SnapshotID"].as_str().unwrap().starts_with("disksnapshot-") && lines[2]["id"].is_string());
    let refused = [json!("DeleteDisk"), json!(200), json!(1), json!(7), json!("disk-none")];
    assert_eq!((told(&lines[3]), told(&lines[4])), (refused.clone(), refused));
    let metrics = r.ops("/metrics");
    assert!(metrics.contains("snapdisk_calls_total{action=\"DeleteDisk\",code=\"200\"} 2\n"), "{metrics}");
    assert!(metrics.contains("snapdisk_calls_total{action=\"CreateSnapshot\",code=\"0\"} 1\n"), "{metrics}");
    let log = r.lines(5).join("\n");
    for secret in [PRIVATE, "private", SESSION, "token", "ignature"] {
        assert!(!log.contains(secret), "{secret}: {log}");
    }
}

/// A store that has stopped shows on the page's account as it does on the API's.
#[test]
fn a_stopped_store_is_seen_by_whoever_meets_it() {
    let r = Running::new(|_| {});
    let disk = r.world.disk(&main_account());
    let (_, head) = sign_in(&r, "", PUBLIC, PRIVATE);
    let cookie = format!("\r\nCookie: {}", cookie(&head));
    let page = r.request(&format!("GET / HTTP/1.1{cookie}"), "").2.as_str().unwrap().to_owned();
    assert_eq!(r.request("GET /health HTTP/1.1", "").0, 200);
    r.world.store.clone().close().unwrap();
    let body = format!("token={}&Action=CreateSnapshot&Region=cn&DiskID={disk}&Name=n", token(&page));
    r.request(&format!("POST /do HTTP/1.1{cookie}"), &body);
    assert_eq!(r.request("GET /health HTTP/1.1", "").0, 503);
}

#[test]
fn behind_a_proxy_the_public_address_decides() {
    let r = Running::new(|o| o.public_url = Some(PublicUrl::parse("https://Disks.example.com/").unwrap()));
    let from = |origin: &str| sign_in(&r, &format!("\r\nOrigin: {origin}"), PUBLIC, PRIVATE);
    assert_eq!(from("https://x").0, 403, "the proxy may rewrite Host");
    assert_eq!(from("http://disks.example.com").0, 403);
    let (status, head) = from("https://disks.example.com");
    assert_eq!(status, 303);
    assert!(head.contains("; samesite=strict; secure;"), "{head}");
    r.request("GET /health HTTP/1.1\r\nX-Forwarded-For: 10.0.0.9, 203.0.113.7", "");
    let lines = r.lines(4);
    assert!(lines[3].contains("\"client\":\"203.0.113.7\""), "{}", lines[3]);

    let r = Running::new(|_| {});
    let (_, head) = sign_in(&r, "\r\nOrigin: http://x", PUBLIC, PRIVATE);
    assert!(!head.contains("secure"), "{head}");
    assert_eq!(sign_in(&r, "\r\nOrigin: http://y", PUBLIC, PRIVATE).0, 403);
    r.request("GET /health HTTP/1.1\r\nX-Forwarded-For: 203.0.113.7", "");
    assert!(r.lines(3)[2].contains("\"client\":\"127.0.0.1\""), "nobody vouches for it");
    for bad in ["disks.example.com", "ftp://x", "https://", "https://x/path", "https://a b", "https://x?y"] {
        assert!(PublicUrl::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn guessing_keys_is_slowed_down() {
    let r = Running::new(|o| o.public_url = Some(PublicUrl::parse("https://x").unwrap()));
    let try_from = |address: &str, public: &str, private: &str| {
        sign_in(&r, &format!("\r\nX-Forwarded-For: {address}"), public, private).0
    };
    for i in 0..10 {
        assert_eq!(try_from(&format!("10.0.0.{i}"), PUBLIC, "wrong"), 403);
    }
    assert_eq!(try_from("10.0.0.99", PUBLIC, PRIVATE), 303, "a few from elsewhere keep nobody out");
    for _ in 0..10 {
        try_from("10.0.0.0", PUBLIC, "wrong");
    }
    assert_eq!(try_from("10.0.0.0", PUBLIC, PRIVATE), 429, "by key and address");
    for i in 0..90 {
        try_from(&format!("10.1.0.{i}"), PUBLIC, "wrong");
    }
    assert_eq!(try_from("10.0.0.99", PUBLIC, PRIVATE), 429, "by key, wherever from");
    for i in 0..10 {
        assert_eq!(try_from("10.9.9.9", &format!("k{i}"), "wrong"), 403);
    }
    assert_eq!(try_from("10.9.9.9", "two", "two's private key"), 429, "by address, whichever key");
    assert_eq!(try_from("10.0.0.98", "two", "two's private key"), 303);
    // The signed calls go on.
    assert_eq!(r.request(&describe(), "").2["RetCode"], 0);
}

fn config(pairs: &str) -> Config {
    let text = format!(
        "[[region]]\nid = \"cn\"\n[[company]]\nid = 1\n[[company.project]]\nid = \"default\"\n[[company.member]]\nid = 7\n{pairs}"
    );
    Config::parse(&text).unwrap()
}

/// Keys change while connections stay: the second pair is added, the first removed.
#[test]
fn keys_change_without_a_restart() {
    let first = format!("public_key = \"{PUBLIC}\"\nprivate_key = \"{PRIVATE}\"\n");
    let both = format!("{first}second_public_key = \"next\"\nsecond_private_key = \"the next private key\"\n");
    let only = "public_key = \"next\"\nprivate_key = \"the next private key\"\n";
    let now = Arc::new(Mutex::new(Some(both)));
    let source = now.clone();
    let world = World::new();
    let options = ServerOptions {
        reload: Some(Arc::new(move || match &*source.lock().unwrap() {
            Some(text) => Ok(config(text)),
            None => Config::parse("nonsense"),
        })),
        log: Arc::new(|_| Ok(())),
        ..ServerOptions::default()
    };
    let server = Server::bind(world.service.clone(), keys(), "127.0.0.1:0", options).unwrap();
    let (at, control) = (server.address().unwrap(), server.control());
    let thread = std::thread::spawn(move || server.run(false).unwrap());
    let mut stream = TcpStream::connect(at).unwrap();
    let mut ask = |public: &str, private: &str| -> u64 {
        let body = format!("public_key={public}&private_key={private}");
        let head = format!("POST /signin HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        // On one connection, throughout.
        stream.write_all(head.as_bytes()).unwrap();
        let mut text = Vec::new();
        let mut byte = [0];
        while !text.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            text.push(byte[0]);
        }
        let text = String::from_utf8(text).unwrap().to_ascii_lowercase();
        let len = text.lines().find_map(|l| l.strip_prefix("content-length: ")).unwrap().parse().unwrap();
        stream.read_exact(&mut vec![0; len]).unwrap();
        text.split(' ').nth(1).unwrap().parse().unwrap()
    };
    let next = "the next private key".replace(' ', "+");
    assert_eq!((ask(PUBLIC, PRIVATE), ask("next", &next)), (303, 403));
    control.reload().unwrap();
    assert_eq!((ask(PUBLIC, PRIVATE), ask("next", &next)), (303, 303));
    // A configuration with a fault changes nothing.
    *now.lock().unwrap() = None;
    assert!(control.reload().is_err());
    assert_eq!((ask(PUBLIC, PRIVATE), ask("next", &next)), (303, 303));
    *now.lock().unwrap() = Some(only.to_owned());
    control.reload().unwrap();
    assert_eq!((ask(PUBLIC, PRIVATE), ask("next", &next)), (403, 303));
    drop(stream);
    control.stop();
    thread.join().unwrap();

    let half = "public_key = \"a\"\nprivate_key = \"0123456789abcdef\"\nsecond_public_key = \"b\"\n";
    let text = format!(
        "[[region]]\nid = \"cn\"\n[[company]]\nid = 1\n[[company.project]]\nid = \"p\"\n[[company.member]]\nid = 7\n{half}"
    );
    assert!(Config::parse(&text).is_err());
}

impl Running {
    /// An answer of the listener for health and metrics.
    fn ops(&self, path: &str) -> String {
        let stream = TcpStream::connect(self.metrics).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Running::say(stream, format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
    }
    fn metric(&self, name: &str) -> u64 {
        let text = self.ops("/metrics");
        let line = text.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {text}"));
        line.trim().parse().unwrap()
    }
}
