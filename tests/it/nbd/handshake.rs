//! Every option, and everything that is no option.

use super::client::{ACK, Client, INVALID, Served, TOO_BIG, UNKNOWN, UNSUP, counted, info};
use snapdisk::nbd::ServerOptions;
use std::{os::unix::fs::PermissionsExt, time::Duration};

fn served() -> Served {
    let served = Served::new();
    let web = served.store.create_volume("web", 1 << 20).unwrap();
    web.snapshot("mon").unwrap();
    served.store.create_volume("db", 512 * 3).unwrap();
    served
}

#[test]
fn exports_are_named_and_told() {
    let served = served();
    let mut client = served.connect();
    client.flags(3);
    assert_eq!(client.list(), ["web", "db", "web@mon"]);
    // New ones appear, and what has lost its volume keeps its number.
    let db = served.store.volume("db").unwrap();
    let kept = db.snapshot("kept").unwrap();
    served.store.delete_volume(&db, snapdisk::DeleteSnapshots::Keep).unwrap();
    let kept = format!("@{}", kept.id());
    assert_eq!(client.list(), ["web", "web@mon", &kept]);

    // INFO and GO tell the same: size, flags, block sizes, and the name if that is asked for.
    let flags: u16 = 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 10 | 1 << 11;
    let export = |flags: u16| [&[0, 0][..], &(1u64 << 20).to_be_bytes(), &flags.to_be_bytes()].concat();
    let sizes = [&[0, 3][..], &1u32.to_be_bytes(), &4096u32.to_be_bytes(), &(32u32 << 20).to_be_bytes()].concat();
    let told = [(3, export(flags)), (3, sizes.clone()), (ACK, vec![])];
    assert_eq!(client.option(6, &info("web", &[])), told);
    let named = (3, [&[0, 1][..], b"web"].concat());
    assert_eq!(client.option(6, &info("web", &[1, 3, 77])), [&told[..1], &[named], &told[1..]].concat());
    let frozen: u16 = 1 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 8 | 1 << 10;
    assert_eq!(client.option(6, &info("web@mon", &[]))[0], (3, export(frozen)));
    assert_eq!(client.outcome(6, &info(&kept, &[])), ACK);
    client.structured();
    assert_eq!(client.option(7, &info("web", &[3]))[0], (3, export(flags | 1 << 7)));
    assert!(client.read(0, 0, 512).is_ok());
}

#[test]
fn the_default_export_is_the_only_volume() {
    let served = Served::with(ServerOptions { hidden: Some("hidden".to_owned()), ..ServerOptions::default() });
    let mut client = served.connect();
    client.flags(3);
    served.store.create_volume("hidden", 4096).unwrap();
    assert_eq!(client.outcome(6, &info("", &[])), UNKNOWN);
    served.store.create_volume("v", 8192).unwrap();
    let told = client.option(6, &info("", &[1]));
    assert_eq!(told[1], (3, [&[0, 1][..], b"v"].concat()));
    assert_eq!((client.list(), client.outcome(7, &info("hidden", &[]))), (vec!["v".to_owned()], UNKNOWN));
    served.store.create_volume("w", 8192).unwrap();
    assert_eq!(client.outcome(7, &info("", &[])), UNKNOWN);
}

#[test]
fn the_oldest_way_in() {
    let served = served();
    for (flags, padding) in [(0, 124), (1, 124), (3, 0)] {
        let mut client = served.connect();
        client.flags(flags);
        client.send_option(1, b"web");
        let told = client.take(10 + padding);
        assert_eq!(told[..8], (1u64 << 20).to_be_bytes());
        assert!(told[10..].iter().all(|&b| b == 0));
        assert_eq!(client.ask(0, super::client::FLUSH, 0, 0, &[]), 0);
    }
    // It has no way to refuse but to close.
    for (flags, name) in [(3, &b"nothing"[..]), (3, b"\xff\xfe"), (0, b"web@none"), (3, &[b'x'; 5000])] {
        let mut client = served.connect();
        client.flags(flags);
        client.send_option(1, name);
        client.is_over();
    }
    // And a client that does not know the fixed handshake knows nothing else.
    let mut client = served.connect();
    client.flags(0);
    client.send_option(3, &[]);
    client.is_over();
}

#[test]
fn what_is_not_served_is_refused_and_the_handshake_goes_on() {
    let served = served();
    let mut client = served.connect();
    client.flags(3);
    // PEEK_EXPORT, STARTTLS, EXTENDED_HEADERS, and numbers that nobody knows.
    for option in [0, 4, 5, 11, 12, 1 << 31, u32::MAX] {
        for data in [&b""[..], b"data"] {
            assert_eq!(client.outcome(option, data), UNSUP, "{option}");
        }
    }
    let long = vec![1; 70_000];
    for (option, data, outcome) in [
        (3, &b"x"[..], INVALID),
        (8, b"x", INVALID),
        (6, b"", INVALID),
        (6, &[0, 0, 0, 3, b'w', b'e', b'b'], INVALID),
        (6, &[0, 0, 0, 3, b'w', b'e', b'b', 0, 2, 0, 0], INVALID),
        (6, &[0, 0, 0, 3, b'w', b'e', b'b', 0, 0, 0], INVALID),
        (7, &[255, 255, 255, 255, b'w', b'e', b'b', 0, 0], INVALID),
        (7, &info("web\0", &[]), INVALID),
        (7, &[counted(b"\xff\xfe"), vec![0, 0]].concat(), INVALID),
        (7, &info(&"x".repeat(4097), &[]), TOO_BIG),
        (6, &long, TOO_BIG),
        (99, &long, TOO_BIG),
    ] {
        assert_eq!(client.outcome(option, data), outcome, "{option} {data:?}");
    }
    for name in ["x", "web@", "@", "@x", "@99", "@-1", "web@tue", "web@mon@", "../web", "web ", "@18446744073709551615"]
    {
        assert_eq!(client.outcome(6, &info(name, &[])), UNKNOWN, "{name}");
        assert_eq!(client.outcome(7, &info(name, &[])), UNKNOWN, "{name}");
    }
    assert_eq!(client.list(), ["web", "db", "web@mon"]);
    client.go("web");
    assert_eq!(client.read(0, 0, 3), Ok(vec![0; 3]));
}

#[test]
fn metadata_contexts() {
    let served = served();
    let mut client = served.connect();
    client.flags(3);
    let all = || vec!["base:allocation".to_owned()];
    // Only with structured replies.
    assert_eq!(client.contexts(9, "web", &[]), (INVALID, vec![]));
    assert_eq!(client.contexts(10, "web", &["base:allocation"]), (INVALID, vec![]));
    client.structured();
    assert_eq!(client.contexts(9, "web", &[]), (ACK, all()));
    assert_eq!(client.contexts(9, "web", &["base:"]), (ACK, all()));
    assert_eq!(client.contexts(9, "web", &["qemu:", "x-other:y", "base:none"]), (ACK, vec![]));
    assert_eq!(client.contexts(9, "none", &[]), (UNKNOWN, vec![]));
    assert_eq!(client.contexts(10, "web", &[]), (ACK, vec![]));
    assert_eq!(client.contexts(10, "web", &["base:"]), (ACK, vec![]));
    assert_eq!(client.contexts(10, "web", &["nocolon"]), (INVALID, vec![]));
    assert_eq!(client.contexts(10, "web", &["x:y", "base:allocation", "base:allocation"]), (ACK, all()));
    for broken in [&b""[..], &counted(b"web"), &[counted(b"web"), vec![0, 0, 0, 9]].concat()] {
        assert_eq!(client.outcome(10, broken), INVALID);
    }
    let endless = [counted(b"web"), u32::MAX.to_be_bytes().to_vec(), counted(b"base:allocation")].concat();
    assert_eq!(client.outcome(9, &endless), INVALID);
    assert_eq!(client.outcome(9, &[counted(b"web"), vec![0, 0, 0, 0, 1]].concat()), INVALID);
    // A failed request has taken the selection back.
    client.go("web");
    assert_eq!(client.ask(0, super::client::STATUS, 0, 512, &[]), 22);

    // It counts for the export that it was made for.
    let mut client = served.connect();
    client.flags(3);
    client.structured();
    assert_eq!(client.contexts(10, "db", &["base:allocation"]).0, ACK);
    client.go("web");
    assert_eq!(client.ask(0, super::client::STATUS, 0, 512, &[]), 22);
}

#[test]
fn whoever_breaks_the_handshake_is_left() {
    let served = served();
    for flags in [4, 1 << 31, u32::MAX] {
        let mut client = served.connect();
        client.flags(flags);
        client.is_over();
    }
    let mut wrong = b"IHAVEOPT\0\0\0\x03\0\0\0\0".to_vec();
    wrong[3] ^= 1;
    // No magic number; an option that is longer than anything.
    for bytes in [&wrong[..], b"IHAVEOPT\0\0\0\x06\xff\xff\xff\xff", b"GET / HTTP/1.1\r\n"] {
        let mut client = served.connect();
        client.flags(3);
        client.send(bytes);
        client.is_over();
    }
    // Half of anything, and gone.
    for len in 0..19 {
        let mut client = served.connect();
        client.send(&[&[0, 0, 0, 3][..], b"IHAVEOPT\0\0\0\x07\0\0\0\x09"].concat()[..len]);
    }
    let mut client = served.connect();
    client.flags(3);
    assert_eq!(client.option(2, b"whatever"), [(ACK, vec![])]);
    client.is_over();
    // An endless haggler.
    let mut client = served.connect();
    client.flags(3);
    for _ in 0..1024 {
        assert_eq!(client.outcome(77, &[]), UNSUP);
    }
    client.is_over();
    served.client("web", true).write(0, &[1; 512]);
}

#[test]
fn time_and_number_of_connections_are_bounded() {
    let handshake_time = Duration::from_millis(1200);
    let options = ServerOptions { handshake_time, connections: 3, ..ServerOptions::default() };
    let mut served = Served::with(options);
    served.store.create_volume("v", 1 << 20).unwrap();
    let mode = std::fs::metadata(served.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut used = served.client("v", true);
    let (mut silent, mut slow) = (served.connect(), served.connect());
    slow.flags(3);
    // There is no room for a fourth, which is told nothing.
    let mut fourth = std::os::unix::net::UnixStream::connect(served.socket()).unwrap();
    assert!(!matches!(std::io::Read::read(&mut fourth, &mut [0; 18]), Ok(1..)));
    // Silence and endless options both end; the one at work goes on.
    silent.is_over();
    slow.is_over();
    assert_eq!(used.read(0, 0, 4), Ok(vec![0; 4]));
    drop((silent, slow));
    while served.server.as_ref().unwrap().connections() > 1 {
        std::thread::yield_now();
    }
    let mut again = Client::connect(&served.socket());
    again.flags(3);
    again.go("v");
    served.stop();
    used.is_over();
    assert!(!served.socket().exists());
}
