//! A store that obeys one command a line and answers each with one line: `ok ...` or `err KIND ERRNO MESSAGE`.
//!
//! The script does something to the file or its filesystem between two commands, and knows what every block should hold: a block that was
//! written with a tag shows that tag and its own place.

use crate::{Args, say, told};
use snapdisk::{BLOCK, Error, ErrorKind, Options, Result, Store, io::ReadPath};
use std::{fmt::Write, io::BufRead};

const B: u64 = BLOCK as u64;
/// Blocks that are read at a time.
const PIECE: u64 = 64;

/// The content of a block.
fn block(tag: u64, at: u64) -> Vec<u8> {
    let head = tag.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ at.wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
    let rest = (0..BLOCK as u64 / 8 - 2).map(|i| head.wrapping_add(i));
    [tag, at].into_iter().chain(rest).flat_map(u64::to_le_bytes).collect()
}

/// What a block shows: its tag, 0 for zeros, `x` for anything else.
fn shown(bytes: &[u8], at: u64) -> String {
    let tag = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    match tag {
        0 if bytes.iter().all(|&b| b == 0) => "0".to_owned(),
        _ if bytes == block(tag, at) => tag.to_string(),
        _ => "x".to_owned(),
    }
}

struct Server {
    options: Options,
    store: Option<Store>,
}

impl Server {
    fn store(&self) -> Result<&Store> {
        self.store.as_ref().ok_or_else(|| Error::new(ErrorKind::Closed, "nothing is open"))
    }

    fn write(&self, name: &str, from: u64, count: u64, tag: u64) -> Result<()> {
        let bytes: Vec<u8> = (from..from + count).flat_map(|at| block(tag, at)).collect();
        self.store()?.volume(name)?.write_at(&bytes, from * B)
    }

    /// All blocks of a volume or `volume@snapshot`, as runs: what they show and how many; what can't be read shows the error's kind.
    fn read(&self, name: &str) -> Result<String> {
        let (volume, snapshot) = name.split_once('@').unzip();
        let volume = self.store()?.volume(volume.unwrap_or(name))?;
        let snapshot = snapshot.map(|s| volume.snapshot_named(s)).transpose()?;
        let size = snapshot.as_ref().map_or_else(|| volume.size(), |s| Ok(s.size()))?;
        let read = |bytes: &mut [u8], at: u64| match &snapshot {
            Some(s) => s.read_at(bytes, at * B),
            None => volume.read_at(bytes, at * B),
        };
        let mut runs: Vec<(String, u64)> = Vec::new();
        let mut bytes = vec![0; PIECE as usize * BLOCK];
        for from in (0..size / B).step_by(PIECE as usize) {
            let piece = PIECE.min(size / B - from);
            let whole = read(&mut bytes[..piece as usize * BLOCK], from).is_ok();
            for at in from..from + piece {
                let block = &mut bytes[(at - from) as usize * BLOCK..][..BLOCK];
                let again = if whole { Ok(()) } else { read(block, at) };
                let shows = again.map_or_else(|e| format!("{:?}", e.kind()), |()| shown(block, at));
                match runs.last_mut() {
                    Some((last, n)) if *last == shows => *n += 1,
                    _ => runs.push((shows, 1)),
                }
            }
        }
        let mut out = String::new();
        runs.iter().for_each(|(shows, n)| write!(out, " {shows}*{n}").unwrap());
        Ok(out)
    }

    fn hold(&mut self, store: Store) {
        self.store = Some(store);
    }

    fn obey(&mut self, words: &[&str]) -> Result<String> {
        let number = |w: &str| w.parse::<u64>().expect("a number");
        let nothing = |()| String::new();
        match *words {
            ["create", path] => self.options.create(path).map(|s| self.hold(s)).map(nothing),
            ["open", path] => self.options.open(path).map(|s| self.hold(s)).map(nothing),
            ["open_read_only", path] => self.options.open_read_only(path).map(|s| self.hold(s)).map(nothing),
            ["volume", name, blocks] => self.store()?.create_volume(name, number(blocks) * B).map(|_| String::new()),
            ["write", name, from, count, tag] => {
                self.write(name, number(from), number(count), number(tag)).map(nothing)
            }
            // Piece by piece until something fails: how many pieces that were, and the failure.
            ["fill", name, from, count, tag, end] => {
                let (mut at, end) = (number(from), number(end));
                let mut answer = "-".to_owned();
                while at < end {
                    if let Err(e) = self.write(name, at, number(count).min(end - at), number(tag)) {
                        answer = told(&e);
                        break;
                    }
                    at = (at + number(count)).min(end);
                }
                Ok(format!(" {} {answer}", at - number(from)))
            }
            ["discard", name, from, count] => {
                self.store()?.volume(name)?.discard(number(from) * B, number(count) * B).map(nothing)
            }
            ["snapshot", name, as_] => self.store()?.volume(name)?.snapshot(as_).map(|_| String::new()),
            ["delete", name, what] => {
                let store = self.store()?;
                store.delete_snapshot(&store.volume(name)?.snapshot_named(what)?).map(nothing)
            }
            ["rollback", name, to] => {
                let volume = self.store()?.volume(name)?;
                volume.rollback(&volume.snapshot_named(to)?).map(nothing)
            }
            ["flush"] => self.store()?.flush().map(nothing),
            ["checkpoint"] => self.store()?.checkpoint().map(nothing),
            ["reclaim"] => self.store()?.wait_reclaimed().map(nothing),
            ["read", name] => self.read(name),
            ["check"] => {
                let report = self.store()?.check()?;
                Ok(report.findings.first().map_or(" clean".to_owned(), |f| format!(" {} {f}", report.findings.len())))
            }
            ["syncs"] => self.store()?.counters().map(|s| format!(" {}", s.syncs)),
            ["close"] => {
                self.store.take().ok_or_else(|| Error::new(ErrorKind::Closed, "nothing is open"))?.close().map(nothing)
            }
            ["drop"] => {
                self.store = None;
                Ok(String::new())
            }
            _ => panic!("no command {words:?}"),
        }
    }
}

pub(crate) fn serve(args: &Args) {
    let way = match args.given.get("read-path").map(|w| &**w) {
        None | Some("auto") => ReadPath::Auto,
        Some("map") => ReadPath::Map,
        Some("pread") => ReadPath::Pread,
        Some(other) => panic!("no read path {other:?}"),
    };
    let mut server = Server { options: args.options().read_path(way), store: None };
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("lines on the standard input");
        let words: Vec<_> = line.split_whitespace().collect();
        match server.obey(&words) {
            Ok(answer) => say(format_args!("ok{answer}")),
            Err(e) => say(format_args!("err {}", told(&e))),
        }
    }
}
