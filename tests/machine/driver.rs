//! The server of tests/machine/run.py: serves every volume of an image by vhost-user, and does what the lines of its input say.
//!
//! Each line is answered with one that begins with `ok` or `error`. An image that does not exist is created.

#![allow(clippy::disallowed_methods, reason = "a program that opens files of its own")]

use snapdisk::{DeleteSnapshots, Options, Result, Store, vhost::Server};
use std::{
    env,
    fs::File,
    io::{Read, stdin},
    path::Path,
    thread,
};

fn main() {
    let args: Vec<_> = env::args().skip(1).collect();
    let [image, sockets] = &args[..] else { panic!("usage: machine IMAGE DIRECTORY") };
    let options = Options::new();
    let store = if Path::new(image).exists() { options.open(image) } else { options.create(image) };
    let store = store.unwrap_or_else(|e| panic!("{e}"));
    let server = Server::all(&store, sockets, None).unwrap_or_else(|e| panic!("{e}"));
    println!("ok ready");
    for line in stdin().lines() {
        let line = line.expect("a line");
        let words: Vec<_> = line.split_whitespace().collect();
        if words == ["idle"] {
            wait_idle(&server);
            println!("ok");
            continue;
        }
        match step(&store, &words).and_then(|said| server.refresh().map(|()| said)) {
            Ok(said) => println!("ok {said}"),
            Err(e) => println!("error {:?} {e}", e.kind()),
        }
    }
    server.stop();
    store.close().unwrap_or_else(|e| panic!("{e}"));
}

/// Waits until the server has seen that no machine is there any more, so that volumes are not attached.
fn wait_idle(server: &Server) {
    while server.list().iter().any(|export| export.connections > 0) {
        thread::yield_now();
    }
}

fn step(store: &Store, words: &[&str]) -> Result<String> {
    match words {
        ["import", name, file] => import(store, name, file),
        ["snapshot", volume, name] => Ok(store.volume(volume)?.snapshot(name)?.id().to_string()),
        ["clone", volume, snapshot, name] => {
            let snapshot = store.volume(volume)?.snapshot_named(snapshot)?;
            Ok(store.clone_volume(&snapshot, name)?.id().to_string())
        }
        ["rollback", volume, snapshot] => {
            let volume = store.volume(volume)?;
            volume.rollback(&volume.snapshot_named(snapshot)?).map(|()| String::new())
        }
        ["resize", volume, bytes] => {
            store.volume(volume)?.resize(bytes.parse().expect("bytes")).map(|()| String::new())
        }
        ["delete", volume] => {
            store.delete_volume(&store.volume(volume)?, DeleteSnapshots::Keep).map(|()| String::new())
        }
        ["check"] => Ok(format!("{} findings", store.check()?.findings.len())),
        other => panic!("no such line: {other:?}"),
    }
}

/// Makes a volume out of a file.
fn import(store: &Store, name: &str, path: &str) -> Result<String> {
    let mut file = File::open(path).expect("the file");
    let bytes = file.metadata().expect("the file's size").len();
    let volume = store.create_volume(name, bytes)?;
    let mut buf = vec![0; 1 << 20];
    let mut at = 0;
    while at < bytes {
        let n = buf.len().min((bytes - at) as usize);
        file.read_exact(&mut buf[..n]).expect("the file's bytes");
        if buf[..n].iter().any(|&b| b != 0) {
            volume.write_at(&buf[..n], at)?;
        }
        at += n as u64;
    }
    volume.flush()?;
    Ok(format!("{bytes} bytes"))
}
