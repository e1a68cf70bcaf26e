//! The wire: signatures, encodings, and a server that is treated badly.

use super::{World, main_account};
use serde_json::{Value, json};
use snapdisk::{
    api::{Caller, Params},
    http::{Control, Incoming, Keys, Server, ServerOptions, handle, signature},
};
use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

pub(super) const PUBLIC: &str = "1UxDcqTHEGGGviQFqlt870EbLuaSJPZOB8hZ74tL";
pub(super) const PRIVATE: &str = "tcgX3Xi_mAKpQayggnVLWzerkWB_fH1KXuk05hUrus8KSziLVyjWXwKZ80FOOldC";

#[test]
fn published_signatures() {
    let create = [("Action", "CreateSnapshot"), ("Region", "cn"), ("DiskID", "disk-1"), ("Name", "快照-1")];
    let project = |n: &'static str, v| (n, v);
    for (params, want) in [
        (
            vec![("Action", "DescribeVMInstance"), ("Limit", "20"), ("Offset", "0")],
            "2d86e5b4186ac6e42b628f258a7037c7636c9a81",
        ),
        ([&create[..], &[("Remark", "")]].concat(), "66227918435c975679edd6efee4701c4ef7dff52"),
        ([&create[..], &[("Remark", "a&b=c +%20")]].concat(), "e2c0c4c8c6da2970d0e2e309ec32b9c48630783a"),
        (
            vec![
                ("Action", "DescribeSnapshot"),
                ("Region", "cn"),
                ("Limit", "20"),
                project("ProjectIDs.0", "p0"),
                project("ProjectIDs.1", "p1"),
                project("ProjectIDs.2", "p2"),
                project("ProjectIDs.10", "p10"),
            ],
            "8a0e72e2b00da6cde24b07c81a6a3a0da09afc1d",
        ),
        (
            vec![("Action", "DeleteSnapshot"), ("Region", "cn"), ("SnapshotID", "disksnapshot-v2lcgob2bide53")],
            "9813ffbd614a8d535d31d75e7eab7391cff9f7dd",
        ),
    ] {
        let params = Params::from_pairs(params.into_iter().chain([("PublicKey", PUBLIC), ("Signature", "x")])).unwrap();
        assert_eq!(signature(&params, PRIVATE), want);
    }
    let text = |limit: &str| {
        format!(
            r#"{{"Action":"DescribeSnapshot","Limit":{limit},"ProjectIDs":["p0","p1"],"PublicKey":"pk","Region":"cn","Zone":"zone-01"}}"#
        )
    };
    for limit in ["20", "20.0", "2e1"] {
        let params = Params::from_json(text(limit).as_bytes()).unwrap();
        assert_eq!(signature(&params, "sk"), "1ba1fca5a4c39963c6c68d5e75241f8ae7d34f22", "{limit}");
    }
    let same = |a: &str, b: &str| {
        let sign = |t: &str| signature(&Params::from_json(t.as_bytes()).unwrap(), "sk");
        assert_eq!(sign(a), sign(b), "{a} {b}");
    };
    same(r#"{"a":true,"b":null,"c":-0.5}"#, r#"{"a":"true","b":"","c":"-0.5"}"#);
    same(r#"{"a":{"z":1,"b":["x",2]}}"#, r#"{"a":"bx2z1"}"#);
}

/// Numbers in JSON that are no integers, as each of the vendor's SDKs writes them where it signs.
#[test]
fn fractions_are_signed_as_the_sdks_sign_them() {
    let mut keys = Keys::default();
    assert!(keys.add("pk", "sk", main_account()));
    let params = |extra: &str| {
        let text = format!(
            r#"{{"Action":"x","A":0.1,"B":1e-7,"C":1e22,"D":42.1,"E":20.0,"F":1e23,"G":-2.5,"PublicKey":"pk"{extra}}}"#
        );
        Params::from_json(text.as_bytes()).unwrap()
    };
    // A0.1 ... B0.0000001C10000000000000000000000D42.1E20F100000000000000000000000G-2.5: Go's FormatFloat(v, 'f', -1, 64), and Java's
    // DecimalFormat("#") with all fraction digits.
    let plain = "472bfd579552d80ab610ba9456b8e6aa1c6409b0";
    assert_eq!(signature(&params(""), "sk"), plain);
    // Python: str(int(v)) if v % 1 == 0 else str(v).
    let python = "2ae7bd8d13b80b6706ed70922d9dc0dd11e1b46b";
    for sum in [plain, python] {
        assert_eq!(keys.verify(&params(""), "pk", sum), Some(&main_account()), "{sum}");
        assert_eq!(keys.verify(&params(r#","H":0.5"#), "pk", sum), None);
    }
}

pub(super) fn keys() -> Keys {
    let mut keys = Keys::default();
    assert!(keys.add(PUBLIC, PRIVATE, main_account()));
    assert!(!keys.add(PUBLIC, "other", Caller::admin()));
    assert!(keys.add("two", "two's private key", Caller::main(2, 7)));
    keys
}

fn escape(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn form(pairs: &[(&str, &str)]) -> String {
    pairs.iter().map(|(k, v)| format!("{}={}", escape(k), escape(v))).collect::<Vec<_>>().join("&")
}

fn signed<'a>(pairs: &[(&'a str, &'a str)]) -> Vec<(&'a str, String)> {
    let all = Params::from_pairs(pairs.iter().copied().chain([("PublicKey", PUBLIC)])).unwrap();
    let mut out: Vec<_> = pairs.iter().map(|(k, v)| (*k, (*v).to_owned())).collect();
    out.push(("PublicKey", PUBLIC.to_owned()));
    out.push(("Signature", signature(&all, PRIVATE)));
    out
}

pub(super) fn signed_form(pairs: &[(&str, &str)]) -> String {
    let signed = signed(pairs);
    form(&signed.iter().map(|(k, v)| (*k, v.as_str())).collect::<Vec<_>>())
}

fn signed_json(mut value: Value) -> String {
    value["PublicKey"] = PUBLIC.into();
    value["Signature"] = signature(&Params::from_json(value.to_string().as_bytes()).unwrap(), PRIVATE).into();
    value.to_string()
}

fn get(query: &str) -> Incoming {
    Incoming { method: "GET".into(), query: query.into(), ..Incoming::default() }
}

fn post(kind: &str, body: impl Into<Vec<u8>>) -> Incoming {
    Incoming { method: "POST".into(), content_type: kind.into(), body: body.into(), ..Incoming::default() }
}

const FORM: &str = "application/x-www-form-urlencoded";

#[test]
fn three_encodings_of_one_action() {
    let w = World::new();
    let disk = w.disk(&main_account());
    let keys = keys();
    let name = "快照 & = + % 1";
    let pairs = [
        ("Action", "CreateSnapshot"),
        ("Region", "cn"),
        ("DiskID", &*disk),
        ("Name", name),
        ("Zone", "z"),
        ("Remark", ""),
    ];
    let object =
        json!({"Action": "CreateSnapshot", "Region": "cn", "DiskID": disk, "Name": name, "Tags": [1, {"a": true}]});
    for incoming in [
        get(&signed_form(&pairs)),
        post(FORM, signed_form(&pairs)),
        post(&format!("{}; charset=utf-8", FORM.to_uppercase()), signed_form(&pairs).replace("%20", "+")),
        post("", signed_form(&pairs)),
        Incoming { method: "POST".into(), ..get(&signed_form(&pairs)) },
        post("application/json", signed_json(object.clone())),
        Incoming {
            query: "Action=DeleteDisk&x".into(),
            ..post("application/json; charset=utf-8", signed_json(object))
        },
        Incoming {
            query: "Action=CreateSnapshot".into(),
            // It counts as one of the parameters, and is signed as one.
            ..post("application/json", {
                let full = json!({"Action": "CreateSnapshot", "Region": "cn", "DiskID": disk, "Name": name});
                let mut signed: Value = serde_json::from_str(&signed_json(full)).unwrap();
                signed.as_object_mut().unwrap().remove("Action");
                signed.to_string()
            })
        },
    ] {
        let out = handle(&w.service, &keys, &incoming);
        assert_eq!(
            (&out.body["RetCode"], &out.body["Action"]),
            (&json!(0), &json!("CreateSnapshotResponse")),
            "{incoming:?}"
        );
        assert_eq!(out.audit.caller, Some(main_account()));
    }
    let names = w.names(&main_account(), &[]);
    assert!(names.len() == 8 && names.iter().all(|n| n == name), "{names:?}");
}

#[test]
fn what_is_refused_before_any_action() {
    let w = World::new();
    let disk = w.disk(&main_account());
    let keys = keys();
    let pairs = [("Action", "CreateSnapshot"), ("Region", "cn"), ("DiskID", &*disk), ("Name", "n")];
    let good = signed_form(&pairs);
    let tampered = |from: &str, to: &str| {
        assert!(good.contains(from));
        good.replace(from, to)
    };
    let signature = &good[good.len() - 40..];
    let before = w.everything();
    for (incoming, code, action) in [
        (get(""), 101, ""),
        (get("Region=cn"), 101, ""),
        (get("Action="), 101, ""),
        (get("Action=CreateSnapshot"), 103, "CreateSnapshot"),
        (get("Action=CreateSnapshot&PublicKey="), 103, "CreateSnapshot"),
        (get("Action=CreateSnapshot&PublicKey=x"), 104, "CreateSnapshot"),
        (get("Action=CreateSnapshot&PublicKey=x&Signature="), 104, "CreateSnapshot"),
        (get("Action=CreateSnapshot&PublicKey=x&Signature=y"), 109, "CreateSnapshot"),
        (get("Action=Nonsense&PublicKey=x&Signature=y"), 109, "Nonsense"),
        (get(&signed_form(&[("Action", "Nonsense")])), 110, "Nonsense"),
        (get(&signed_form(&[("Action", "CreateSnapshot")])), 102, "CreateSnapshot"),
        (get(&tampered("Name=n", "Name=m")), 109, "CreateSnapshot"),
        (get(&tampered("Region=cn", "Region=cn&Zone=z")), 109, "CreateSnapshot"),
        (get(&tampered("&Name=n", "")), 109, "CreateSnapshot"),
        (get(&tampered("Action=CreateSnapshot", "Action=DescribeSnapshot")), 109, "DescribeSnapshot"),
        (get(&tampered(signature, &signature.to_uppercase())), 109, "CreateSnapshot"),
        (get(&tampered(signature, &signature[..39])), 109, "CreateSnapshot"),
        (get(&tampered(PUBLIC, "two")), 109, "CreateSnapshot"),
        (get(&format!("{good}&Name=n")), 4, "CreateSnapshot"),
        (get(&format!("{good}&%")), 4, ""),
        (get(&format!("{good}&x=%zz")), 4, ""),
        (get(&format!("{good}&x=%ff")), 4, ""),
        (get(&format!("{good}&=x")), 4, ""),
        (post("application/json", "{"), 4, ""),
        (post("application/json", "[1]"), 4, ""),
        (post("application/json", good.clone()), 4, ""),
        (post("application/json", &b"\xff\xfe"[..]), 4, ""),
        (post("application/json", r#"{"Action":1,"PublicKey":"x","Signature":"y"}"#), 101, ""),
        (
            post("application/json", r#"{"Action":"DeleteSnapshot","PublicKey":["x"],"Signature":"y"}"#),
            103,
            "DeleteSnapshot",
        ),
        (post("text/plain", good.clone()), 4, ""),
        (post("multipart/form-data; boundary=x", good.clone()), 4, ""),
        (Incoming { query: good.clone(), ..post(FORM, "Name=n") }, 103, "CreateSnapshot"),
        (Incoming { method: "PUT".into(), ..get(&good) }, 4, "CreateSnapshot"),
    ] {
        let out = handle(&w.service, &keys, &incoming);
        let want = (json!(code), json!(format!("{action}Response")));
        assert_eq!((out.body["RetCode"].clone(), out.body["Action"].clone()), want, "{incoming:?}: {}", out.body);
        assert!(!out.body["Message"].as_str().unwrap().is_empty());
    }
    assert_eq!(w.everything(), before);
    let unknown = handle(&w.service, &keys, &get("Action=A&PublicKey=x&Signature=y")).body["Message"].clone();
    let wrong =
        handle(&w.service, &keys, &get(&format!("Action=A&PublicKey={PUBLIC}&Signature=y"))).body["Message"].clone();
    assert_eq!(unknown, wrong, "which of the two it was is nobody's business");
}

/// A server on a port of its own.
pub(super) struct Running {
    pub(super) at: SocketAddr,
    pub(super) control: Control,
    pub(super) metrics: SocketAddr,
    thread: Option<JoinHandle<()>>,
    log: Arc<Mutex<Vec<String>>>,
    pub(super) world: World,
}

impl Running {
    pub(super) fn new(change: impl FnOnce(&mut ServerOptions)) -> Running {
        let world = World::new();
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = log.clone();
        let mut options = ServerOptions {
            log: Arc::new(move |line| {
                lines.lock().unwrap().push(line.to_owned());
                Ok(())
            }),
            metrics: Some("127.0.0.1:0".to_owned()),
            ..ServerOptions::default()
        };
        change(&mut options);
        let server = Server::bind(world.service.clone(), keys(), "127.0.0.1:0", options).unwrap();
        let (at, control) = (server.address().unwrap(), server.control());
        let metrics = server.metrics_address().unwrap().unwrap();
        let thread = Some(std::thread::spawn(move || server.run(false).unwrap()));
        Running { at, control, metrics, thread, log, world }
    }
    /// The log's lines of requests, once there are so many.
    pub(super) fn lines(&self, n: usize) -> Vec<String> {
        loop {
            let all = self.log.lock().unwrap().clone();
            let requests: Vec<_> = all.into_iter().filter(|l| l.contains("\"path\"")).collect();
            assert!(requests.len() <= n, "one line a request: {requests:?}");
            if requests.len() == n {
                return requests;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    pub(super) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.at).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }
    /// Sends bytes and reads until the server closes.
    pub(super) fn raw(&self, bytes: &[u8]) -> String {
        Running::say(self.connect(), bytes)
    }
    pub(super) fn say(mut stream: TcpStream, bytes: &[u8]) -> String {
        // The server may close before it has read everything.
        let _ = stream.write_all(bytes);
        let mut out = Vec::new();
        let _ = stream.read_to_end(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }
    pub(super) fn request(&self, head: &str, body: &str) -> (u16, String, Value) {
        let text = self.raw(
            format!("{head}\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
                .as_bytes(),
        );
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_ascii_lowercase(), serde_json::from_str(body).unwrap_or(Value::String(body.to_owned())))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.control.stop();
        let ended = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            ended.unwrap();
        }
    }
}

#[test]
fn a_server_answers() {
    let r = Running::new(|_| {});
    let disk = r.world.disk(&main_account());
    let pairs = [("Action", "CreateSnapshot"), ("Region", "cn"), ("DiskID", &*disk), ("Name", "n")];
    let (status, head, body) = r.request(&format!("GET /api?{} HTTP/1.1", signed_form(&pairs)), "");
    assert_eq!((status, &body["RetCode"]), (200, &json!(0)));
    let id = head.lines().find_map(|l| l.strip_prefix("x-ucloud-request-uuid: ")).unwrap().to_owned();
    assert_eq!(id.len(), 36);
    assert!(head.contains("content-type: application/json"));
    let (status, _, body) = r.request("POST /api HTTP/1.1\r\nContent-Type: application/json", "{");
    assert_eq!((status, &body["RetCode"], &body["Action"]), (200, &json!(4), &json!("Response")));
    assert_eq!(r.request("GET /health HTTP/1.1", "").2, "ok\n");
    assert_eq!(r.request("GET /metrics HTTP/1.1", "").0, 404, "not on the tenants' port");
    let (status, head, _) = r.request("GET /nowhere HTTP/1.1", "");
    assert_eq!(status, 404);
    assert!(head.contains("x-ucloud-request-uuid: "));
    let log = r.lines(5).join("\n");
    let line: Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&line["id"], &line["action"], &line["code"], &line["company"]),
        (&json!(id), &json!("CreateSnapshot"), &json!(0), &json!(1))
    );
    assert_eq!((&line["DiskID"], &line["client"]), (&json!(disk), &json!("127.0.0.1")));
    assert!(!log.contains(PRIVATE) && !log.contains("Signature"), "{log}");
}

#[test]
fn a_server_is_treated_badly() {
    let r = Running::new(|_| {});
    for broken in
        ["nonsense\r\n\r\n", "GET /api\r\n\r\n", "GET /api HTTP/1.1\r\nbad header\r\n\r\n", "\0\0\0\0\r\n\r\n"]
    {
        let text = r.raw(broken.as_bytes());
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 400"), "{broken:?}: {text:?}");
    }
    let long = format!("GET /api?{} HTTP/1.1\r\n\r\n", "a".repeat(1 << 20));
    let text = r.raw(long.as_bytes());
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{text:?}");
    // Ten megabytes, said beforehand or not.
    let big = "a".repeat(10 << 20);
    let (status, head, _) = r.request("POST /api HTTP/1.1\r\nContent-Type: application/json", &big);
    assert_eq!(status, 413);
    assert!(head.contains("connection: close"), "{head}");
    let text = r.raw(
        format!(
            "POST /api HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{big}\r\n0\r\n\r\n",
            big.len()
        )
        .as_bytes(),
    );
    assert!(text.starts_with("HTTP/1.1 413"), "{}", &text[..text.len().min(200)]);
    // Exactly as much as may be is read.
    let edge = "a".repeat(1 << 20);
    let (status, _, body) = r.request("POST /api HTTP/1.1", &edge);
    assert_eq!((status, &body["RetCode"]), (200, &json!(101)));
}

/// Those who say nothing, or never finish, are let go, and don't keep the others out.
#[test]
fn slow_clients_are_let_go() {
    let r = Running::new(|o| {
        (o.head_time, o.body_time) = (Duration::from_millis(300), Duration::from_millis(300));
        o.connections = 4;
    });
    let mut slow: Vec<_> = (0..8).map(|_| r.connect()).collect();
    for (i, s) in slow.iter_mut().enumerate() {
        let part = [
            "",
            "GET /api",
            "POST /api HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n",
            "POST /api HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab",
        ][i % 4];
        s.write_all(part.as_bytes()).unwrap();
    }
    assert_eq!(r.request("GET /health HTTP/1.1", "").0, 200);
    for mut s in slow {
        let mut rest = String::new();
        let _ = s.read_to_string(&mut rest);
        assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 40"), "{rest:?}");
    }
    // A client that goes while its action runs.
    for _ in 0..20 {
        let mut s = r.connect();
        s.write_all(b"GET /api?Action=DescribeRegion HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        s.shutdown(Shutdown::Both).unwrap();
    }
    assert_eq!(r.request("GET /health HTTP/1.1", "").0, 200);
}

#[test]
fn thirty_two_clients_at_once() {
    let r = Running::new(|_| {});
    let disks: Vec<_> = (0..32).map(|_| r.world.disk(&main_account())).collect();
    std::thread::scope(|scope| {
        for disk in &disks {
            let r = &r;
            scope.spawn(move || {
                let call = |action: &str, more: &[(&str, &str)]| {
                    let pairs: Vec<_> =
                        [("Action", action), ("Region", "cn"), ("DiskID", disk)].iter().chain(more).copied().collect();
                    let (status, _, body) = r.request("POST /api HTTP/1.1", &signed_form(&pairs));
                    assert_eq!((status, &body["RetCode"]), (200, &json!(0)), "{action}: {body}");
                    body
                };
                for _ in 0..5 {
                    let id = call("CreateSnapshot", &[("Name", "n")])["SnapshotID"].as_str().unwrap().to_owned();
                    assert_eq!(call("DescribeSnapshot", &[])["TotalCount"], 1);
                    call("RollbackSnapshot", &[("SnapshotID", &id)]);
                    call("DeleteSnapshot", &[("SnapshotID", &id)]);
                }
            });
        }
    });
    assert_eq!(r.world.list(&main_account(), &[]).0, 0);
    assert!(r.world.store.check().unwrap().is_clean());
}
