//! What the tour stands on: a directory of its own, plain files, checksums, repeatable numbers.

use crate::{
    failure::{At, Failure, Outcome},
    interrupt,
};
use sha2::{Digest, Sha256};
use std::{
    env, fs,
    hash::{BuildHasher, Hasher, RandomState},
    io::Read,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// The working directory; it goes away at the end.
pub(crate) struct Work {
    pub(crate) dir: PathBuf,
    keep: bool,
}

impl Work {
    pub(crate) fn new(parent: Option<&Path>, keep: bool) -> Outcome<Work> {
        let parent = parent.map_or_else(env::temp_dir, Path::to_owned);
        let parent = fs::canonicalize(&parent).at(parent.display())?;
        let unique = RandomState::new().build_hasher().finish();
        let dir = parent.join(format!("snapdisk-tour-{unique:016x}"));
        fs::DirBuilder::new().mode(0o700).create(&dir).at(dir.display())?;
        Ok(Work { dir, keep })
    }
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if !self.keep {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// SHA-256 of a file, and nothing but its bytes.
pub(crate) fn sha256(path: &Path) -> Outcome<String> {
    let mut file = fs::File::open(path).at(path.display())?;
    let mut hash = Sha256::new();
    let mut buf = vec![0; 1 << 20];
    loop {
        interrupt::check()?;
        match file.read(&mut buf).at(path.display())? {
            0 => return Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect()),
            n => hash.update(&buf[..n]),
        }
    }
}

/// A plain copy, by the host's own `cp`, which knows holes.
pub(crate) fn copy(from: &Path, to: &Path) -> Outcome {
    let copied = Command::new("cp").arg("--").args([from, to]).stdin(Stdio::null()).output();
    if copied.is_ok_and(|out| out.status.success()) {
        return Ok(());
    }
    fs::copy(from, to).map(drop).at(from.display())
}

/// Runs a program to its end in `dir`.
pub(crate) fn execute(program: &Path, args: &[&str], dir: &Path) -> Outcome<Output> {
    Command::new(program)
        .args(args)
        .env("LC_ALL", "C")
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .at(program.display())
}

/// What a program said, for a message.
pub(crate) fn said(out: &Output) -> Failure {
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let tail: Vec<&str> = text.lines().rev().take(6).collect();
    Failure::new(tail.into_iter().rev().collect::<Vec<_>>().join("; "))
}

/// Numbers that are the same in every run (splitmix64).
#[derive(Clone)]
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// Below `n`, which is not 0.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    /// Fills `buf` with noise.
    pub(crate) fn fill(&mut self, buf: &mut [u8]) {
        for part in buf.chunks_mut(8) {
            part.copy_from_slice(&self.next().to_le_bytes()[..part.len()]);
        }
    }
    /// Text of about `len` bytes, in lines.
    pub(crate) fn text(&mut self, len: usize) -> Vec<u8> {
        const WORDS: [&str; 8] = ["block", "extent", "leaf", "root", "group", "log", "volume", "snapshot"];
        let mut out = Vec::with_capacity(len + 32);
        while out.len() < len {
            let n = self.next();
            out.extend_from_slice(
                format!("{} {} {n}\n", WORDS[(n % 8) as usize], WORDS[(n / 8 % 8) as usize]).as_bytes(),
            );
        }
        out
    }
}
