//! A process that dies in the middle of its work, and what must be there afterwards.
//!
//! The child changes a volume, flushes and snapshots, and tells each flush and snapshot over a pipe once it is done; the
//! parent kills it with SIGKILL at some moment. All that it does follows from a seed, so the parent can do the same to a
//! plain file: the volume must be that file after exactly some number of operations, at least the number that the last
//! flush covered.

use super::work::Numbers;
use crate::failure::{At, Failure, Outcome};
use snapdisk::{Options, Volume};
use std::{
    env,
    fs::File,
    io::{BufRead, BufReader, Write, stdout},
    os::unix::{fs::FileExt, process::ExitStatusExt},
    path::Path,
    process::{Command, Stdio},
};

/// Flushes that the parent waits for.
const FLUSHES: u64 = 150;
/// A snapshot follows every so many flushes.
const SNAPSHOT_EVERY: u64 = 25;

/// What one operation does: bytes to write, or a length to make zero.
struct Action {
    offset: u64,
    len: u64,
    bytes: Option<Vec<u8>>,
}

/// The `i`-th operation on a volume of `size` bytes. At most 1 MiB, so that it happens whole or not at all.
fn action(seed: u64, i: u64, size: u64) -> Action {
    let mut numbers = Numbers(seed ^ i.wrapping_mul(0xd6e8_feb8_6659_fd93));
    let zero = numbers.below(8) == 0;
    let len = (1 + numbers.below(if zero { 1 << 20 } else { 200_000 })).min(size);
    let len = if numbers.below(2) == 0 { len.next_multiple_of(4096).min(size) } else { len };
    let offset = numbers.below(size - len + 1);
    let offset = if numbers.below(2) == 0 { offset / 4096 * 4096 } else { offset };
    let bytes = (!zero).then(|| {
        let mut bytes = vec![0; len as usize];
        numbers.fill(&mut bytes);
        bytes
    });
    Action { offset, len, bytes }
}

/// Operations before the flush that follows operation `done`.
fn batch(seed: u64, done: u64) -> u64 {
    1 + Numbers(seed ^ !done).below(6)
}

/// The child. It only ends by being killed, or when nobody listens any more.
pub(crate) fn run(image: &Path, volume: &str, seed: u64) -> Outcome {
    let store = Options::new().open(image)?;
    let volume = store.volume(volume)?;
    let size = volume.size()?;
    let mut tell = stdout().lock();
    let mut done = 0;
    for flushes in 1.. {
        for _ in 0..batch(seed, done) {
            let a = action(seed, done, size);
            match &a.bytes {
                Some(bytes) => volume.write_at(bytes, a.offset)?,
                None => volume.write_zeroes(a.offset, a.len)?,
            }
            done += 1;
        }
        volume.flush()?;
        writeln!(tell, "flushed {done}").and_then(|()| tell.flush()).at("pipe")?;
        if flushes % SNAPSHOT_EVERY == 0 {
            volume.snapshot(&format!("at-{done}"))?;
            writeln!(tell, "snapshot {done}").and_then(|()| tell.flush()).at("pipe")?;
        }
    }
    Ok(())
}

/// What the child told before it died.
pub(crate) struct Told {
    /// Flushes that returned.
    pub(crate) flushes: u64,
    /// Operations that the last one covered.
    pub(crate) flushed: u64,
    /// Operations at which a snapshot was taken.
    pub(crate) snapshots: Vec<u64>,
    seed: u64,
}

/// Starts the child and kills it.
pub(crate) fn kill_one(image: &Path, volume: &str, seed: u64) -> Outcome<Told> {
    let own = env::current_exe().at("this program")?;
    let mut child = Command::new(own)
        .arg("tour-child")
        .arg(image)
        .arg(volume)
        .arg(seed.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .at("child")?;
    let mut told = Told { flushes: 0, flushed: 0, snapshots: Vec::new(), seed };
    let mut killed = false;
    let pipe = child.stdout.take().map(BufReader::new);
    for line in pipe.into_iter().flat_map(BufRead::lines) {
        // After the kill, what was told before it is still in the pipe. A line cut short tells nothing.
        let line = line.at("child")?;
        match line.split_once(' ').and_then(|(what, n)| Some((what, n.parse().ok()?))) {
            Some(("flushed", n)) => (told.flushes, told.flushed) = (told.flushes + 1, n),
            Some(("snapshot", n)) => told.snapshots.push(n),
            _ => {}
        }
        if told.flushes >= FLUSHES && !killed {
            child.kill().at("child")?;
            killed = true;
        }
    }
    let status = child.wait().at("child")?;
    if status.signal() != Some(9) {
        return Err(Failure::new(format!("the child ended by itself: {status}")));
    }
    Ok(told)
}

impl Told {
    /// Does the operations `from..to` to a plain file.
    pub(crate) fn apply(&self, file: &File, size: u64, from: u64, to: u64) -> Outcome {
        for i in from..to {
            let a = action(self.seed, i, size);
            let bytes = a.bytes.unwrap_or_else(|| vec![0; a.len as usize]);
            file.write_all_at(&bytes, a.offset).at("plain copy")?;
        }
        Ok(())
    }

    /// Brings `file`, which stands after the flushed operations, to where the volume is, and gives the number of operations;
    /// none if the volume is nowhere. Only what the operations in question touch is compared here: whether the rest is right, the
    /// whole of it must show.
    pub(crate) fn catch_up(&self, file: &File, volume: &Volume) -> Outcome<Option<u64>> {
        let size = volume.size()?;
        let last = self.flushed + batch(self.seed, self.flushed);
        let places: Vec<Action> = (self.flushed..last).map(|i| action(self.seed, i, size)).collect();
        for at in self.flushed..=last {
            let mut same = true;
            for p in &places {
                let (mut is, mut should) = (vec![0; p.len as usize], vec![0; p.len as usize]);
                volume.read_at(&mut is, p.offset)?;
                file.read_exact_at(&mut should, p.offset).at("plain copy")?;
                same &= is == should;
            }
            if same {
                return Ok(Some(at));
            }
            if at < last {
                self.apply(file, size, at, at + 1)?;
            }
        }
        Ok(None)
    }
}
