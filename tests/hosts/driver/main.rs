//! The processes that `tests/hosts/run.py` starts on real filesystems: a writer that says what is durable, a verifier, and a store that obeys
//! one command at a time while the script does something to its file or its filesystem.

#![allow(clippy::disallowed_methods, reason = "tests run threads")]

mod model;
mod serve;
mod verify;
mod work;

use snapdisk::{Error, Options};
use std::{collections::BTreeMap, io::Write, path::PathBuf, process::ExitCode};

/// `--key value` pairs after the name of the mode.
pub(crate) struct Args {
    mode: String,
    given: BTreeMap<String, String>,
}

impl Args {
    fn parse() -> Option<Args> {
        let mut words = std::env::args().skip(1);
        let mode = words.next()?;
        let mut given = BTreeMap::new();
        while let Some(key) = words.next() {
            given.insert(key.strip_prefix("--")?.to_owned(), words.next()?);
        }
        Some(Args { mode, given })
    }
    /// The text of an argument; it has to be there.
    pub(crate) fn text(&self, key: &str) -> &str {
        self.given.get(key).unwrap_or_else(|| panic!("no --{key}"))
    }
    pub(crate) fn number(&self, key: &str) -> u64 {
        self.text(key).parse().unwrap_or_else(|_| panic!("--{key} is no number"))
    }
    pub(crate) fn image(&self) -> PathBuf {
        self.text("image").into()
    }
    /// One number for each thread.
    pub(crate) fn numbers(&self, key: &str) -> Vec<u64> {
        let one = |n: &str| n.parse().unwrap_or_else(|_| panic!("--{key} is no list of numbers"));
        self.text(key).split(',').map(one).collect()
    }
    /// Little memory and a small log, so that checkpoints and growth are frequent.
    pub(crate) fn options(&self) -> Options {
        let fresh = self.given.get("fresh").is_none_or(|f| f == "yes");
        Options::new().log_bytes(1 << 20).memory(1 << 20).write_fresh_space(fresh)
    }
}

/// Says one line to the script, in one piece.
pub(crate) fn say(what: impl std::fmt::Display) {
    let line = format!("{what}\n");
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
}

/// Kind, errno and message of an error. The errno is what the host said, never folded into the kind.
pub(crate) fn told(e: &Error) -> String {
    let source = std::error::Error::source(e).and_then(|s| s.downcast_ref::<std::io::Error>());
    let errno = source.and_then(std::io::Error::raw_os_error).map_or("-".to_owned(), |n| n.to_string());
    format!("{:?} {errno} {e}", e.kind())
}

fn main() -> ExitCode {
    let Some(args) = Args::parse() else {
        eprintln!("usage: hosts work|verify|serve [--KEY VALUE]...");
        return ExitCode::from(2);
    };
    match &*args.mode {
        "work" => work::work(&args),
        "verify" => return verify::verify(&args),
        "serve" => serve::serve(&args),
        _ => return ExitCode::from(2),
    }
    ExitCode::SUCCESS
}
