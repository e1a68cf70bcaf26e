//! What the benchmarks share: noise, peers, rounds, and a table of medians with the target beside each.

#![allow(dead_code, reason = "each benchmark uses a part")]

pub(crate) mod nodata;
mod scratch;

use snapdisk::Volume;
use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Mutex,
    time::Instant,
};

/// Bytes in a block.
pub(crate) const BLOCK: usize = 4096;

/// A sequence that every run repeats.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }
}

/// Bytes that don't compress.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut rng = Rng(0x9e37_79b9_7f4a_7c15);
    (0..len.div_ceil(8)).flat_map(|_| rng.next().to_le_bytes()).take(len).collect()
}

/// How much is measured: `cargo bench` the figures, `cargo test` only that it runs.
pub(crate) fn is_bench() -> bool {
    std::env::args().any(|a| a == "--bench")
}

/// A number from the environment, small enough that as many GiB can be counted in bytes. What is none ends the run with status 2.
pub(crate) fn setting(name: &str, default: u64) -> u64 {
    const MOST: u64 = 1 << 30;
    let Some(value) = std::env::var_os(name) else { return default };
    value.to_str().and_then(|v| v.parse().ok()).filter(|n| *n <= MOST).unwrap_or_else(|| {
        eprintln!("error: {name}={value:?} is not a number from 0 to {MOST}");
        std::process::exit(2);
    })
}

/// A fresh directory on the filesystem under test: in `SNAPDISK_BENCH_DIR`, or in the build directory. Says which filesystem that is. Where
/// figures of it would mean nothing, or `need` bytes do not fit in, the run ends with status 2.
pub(crate) fn directory(need: u64) -> tempfile::TempDir {
    let base = std::env::var_os("SNAPDISK_BENCH_DIR").map_or_else(|| env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from);
    let refuse = |why: String| -> ! {
        eprintln!("error: {} {why}; SNAPDISK_BENCH_DIR names the directory to measure in", base.display());
        std::process::exit(2);
    };
    let place = scratch::Place::of(&base).unwrap_or_else(|e| refuse(format!("is no directory to measure in: {e}")));
    if let Some(why) = place.objection(need) {
        refuse(why);
    }
    println!("images in {} ({})", base.display(), place.filesystem);
    tempfile::tempdir_in(&base).unwrap_or_else(|e| refuse(format!("takes no directory for the images: {e}")))
}

/// What is written to, read from and made durable.
pub(crate) trait Peer: Sync {
    fn read(&self, buf: &mut [u8], offset: u64);
    fn write(&self, buf: &[u8], offset: u64);
    fn sync(&self);
}

impl Peer for File {
    fn read(&self, buf: &mut [u8], offset: u64) {
        self.read_exact_at(buf, offset).expect("pread");
    }
    fn write(&self, buf: &[u8], offset: u64) {
        self.write_all_at(buf, offset).expect("pwrite");
    }
    fn sync(&self) {
        self.sync_data().expect("fdatasync");
    }
}

impl Peer for Volume {
    fn read(&self, buf: &mut [u8], offset: u64) {
        self.read_at(buf, offset).expect("read_at");
    }
    fn write(&self, buf: &[u8], offset: u64) {
        self.write_at(buf, offset).expect("write_at");
    }
    fn sync(&self) {
        self.flush().expect("flush");
    }
}

/// `pread` with the checksum that the engine verifies: what a verified read costs at least without a map.
pub(crate) struct Summed<'a>(pub(crate) &'a File);

impl Peer for Summed<'_> {
    fn read(&self, buf: &mut [u8], offset: u64) {
        self.0.read(buf, offset);
        buf.chunks(BLOCK).for_each(|b| {
            std::hint::black_box(crc32fast::hash(b));
        });
    }
    fn write(&self, buf: &[u8], offset: u64) {
        self.0.write(buf, offset);
    }
    fn sync(&self) {
        self.0.sync();
    }
}

/// What a log-structured engine comes to without its engine: blocks are copied, summed and hashed as ours are, and written one after the other
/// in pieces of 1 MiB, wherever they belong. No tree, no log, no order: nothing can be read back.
pub(crate) struct Limit<'a> {
    file: &'a File,
    len: u64,
    staged: Mutex<(Vec<u8>, u64)>,
}

impl<'a> Limit<'a> {
    pub(crate) fn new(file: &'a File, len: u64) -> Limit<'a> {
        Limit { file, len, staged: Mutex::new((Vec::with_capacity(1 << 20), 0)) }
    }
}

impl Peer for Limit<'_> {
    fn read(&self, buf: &mut [u8], offset: u64) {
        self.file.read(buf, offset);
    }
    fn write(&self, buf: &[u8], _: u64) {
        let (staged, at) = &mut *self.staged.lock().expect("no panic");
        std::hint::black_box((crc32fast::hash(buf), twox_hash::XxHash3_64::oneshot_with_seed(1, buf)));
        staged.extend_from_slice(buf);
        if staged.len() == staged.capacity() {
            self.file.write(staged, *at);
            *at = (*at + staged.len() as u64) % self.len;
            staged.clear();
        }
    }
    fn sync(&self) {
        {
            let (staged, at) = &mut *self.staged.lock().expect("no panic");
            self.file.write(staged, *at);
            staged.clear();
        }
        self.file.sync();
    }
}

/// A written file. The page cache holds it in large folios, as 1 MiB writes leave it, or in folios of 4 KiB.
pub(crate) fn raw_file(path: &Path, len: u64, noise: &[u8], large_folios: bool) -> File {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path).expect("a raw file");
    fill(&file, len, noise);
    if !large_folios {
        let advise = |advice| rustix::fs::fadvise(&file, 0, None, advice).expect("fadvise");
        advise(rustix::fs::Advice::DontNeed);
        advise(rustix::fs::Advice::Random);
        let mut buf = [0; BLOCK];
        (0..len / BLOCK as u64).for_each(|b| file.read(&mut buf, b * BLOCK as u64));
    }
    file
}

/// Writes a peer from end to end in steps of 1 MiB, and syncs.
pub(crate) fn fill(peer: &dyn Peer, len: u64, noise: &[u8]) {
    (0..len).step_by(1 << 20).for_each(|at| peer.write(&noise[at as usize % (1 << 20)..][..1 << 20], at));
    peer.sync();
}

/// Seconds that `f` took.
pub(crate) fn clock(f: impl FnOnce()) -> f64 {
    let start = Instant::now();
    f();
    start.elapsed().as_secs_f64()
}

/// Processor seconds of this process so far, all threads, kernel included.
pub(crate) fn processor() -> f64 {
    let ns = |task: PathBuf| {
        let text = std::fs::read_to_string(task.join("schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0)
    };
    let tasks = std::fs::read_dir("/proc/self/task").expect("procfs");
    tasks.flatten().map(|t| ns(t.path())).sum::<f64>() / 1e9
}

/// The value below which a share `q` of the samples lies.
pub(crate) fn quantile(samples: &[f64], q: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * q).round() as usize]
}

/// The middle of the samples.
pub(crate) fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
}

/// One column's samples of one row.
pub(crate) type Samples = Vec<f64>;

/// A table whose rows are samples in columns.
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
}

struct Row {
    name: String,
    unit: &'static str,
    cells: Vec<(&'static str, Samples)>,
    /// Ratio's name, the two columns, and the target.
    ratios: Vec<(f64, String)>,
}

impl Table {
    /// Adds one sample.
    pub(crate) fn add(&mut self, row: &str, unit: &'static str, column: &'static str, sample: f64) {
        let at = self.rows.iter().position(|r| r.name == row).unwrap_or_else(|| {
            self.rows.push(Row { name: row.to_owned(), unit, cells: Vec::new(), ratios: Vec::new() });
            self.rows.len() - 1
        });
        let cells = &mut self.rows[at].cells;
        match cells.iter_mut().find(|c| c.0 == column) {
            Some(c) => c.1.push(sample),
            None => cells.push((column, vec![sample])),
        }
    }
    /// A cell's median.
    pub(crate) fn get(&self, row: &str, column: &str) -> f64 {
        let row = self.rows.iter().find(|r| r.name == row).expect("a row of that name");
        median(&row.cells.iter().find(|c| c.0 == column).expect("a column of that name").1)
    }
    /// Puts a ratio and what it should be under a row.
    pub(crate) fn ratio(&mut self, row: &str, ratio: f64, meaning: &str) {
        if let Some(r) = self.rows.iter_mut().find(|r| r.name == row) {
            r.ratios.push((ratio, meaning.to_owned()));
        }
    }
    /// Prints all: medians, in brackets the lowest and the highest round.
    pub(crate) fn print(&self) {
        for row in &self.rows {
            println!("\n{} [{}]", row.name, row.unit);
            for (column, samples) in &row.cells {
                let (low, high) = (quantile(samples, 0.0), quantile(samples, 1.0));
                println!("    {column:<28} {:>12}   ({} .. {})", short(median(samples)), short(low), short(high));
            }
            for (ratio, meaning) in &row.ratios {
                println!("  = {ratio:<6.2} {meaning}");
            }
        }
        println!();
    }
}

fn short(x: f64) -> String {
    match x {
        x if x >= 100.0 => format!("{x:.0}"),
        x if x >= 1.0 => format!("{x:.2}"),
        x => format!("{x:.4}"),
    }
}

/// What of this process is in memory, in MiB: most at any time, and private now.
pub(crate) fn memory() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let mib = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) >> 10
    };
    (mib("VmHWM:"), mib("RssAnon:"))
}

/// Maps `bytes` of a volume in pieces of 1 MiB: 16 extents each, as an extent has at most 64 blocks. Two halves at once.
pub(crate) fn map_large(volume: &Volume, bytes: u64) {
    const MIB: u64 = 1 << 20;
    let zeros = vec![0; MIB as usize];
    let half = (bytes / 2).next_multiple_of(MIB);
    std::thread::scope(|scope| {
        for (from, to) in [(0, half), (half, bytes)] {
            let zeros = &zeros;
            scope.spawn(move || {
                (from..to).step_by(MIB as usize).for_each(|at| volume.write_at(zeros, at).expect("write"));
            });
        }
    });
}

/// Maps `blocks` blocks of a volume as extents of one block: each GiB in an order of its own, so that no neighbours are joined.
pub(crate) fn map_scattered(volume: &Volume, blocks: u64) {
    const WINDOW: u64 = (1 << 30) / BLOCK as u64;
    let mut rng = Rng(3);
    for from in (0..blocks).step_by(WINDOW as usize) {
        let mut order: Vec<u64> = (from..blocks.min(from + WINDOW)).collect();
        (1..order.len()).rev().for_each(|i| order.swap(i, rng.below(i as u64 + 1) as usize));
        order.iter().for_each(|b| volume.write_at(&[0; BLOCK], b * BLOCK as u64).expect("write"));
    }
}

/// Has `build` make the closed image `path`, unless `SNAPDISK_BENCH_KEEP` names a directory where an earlier run left a copy of it: large
/// images take minutes to build. Gives the seconds.
pub(crate) fn image(path: &Path, kept_as: &str, build: impl FnOnce()) -> f64 {
    let copy = |from: &Path, to: &Path| {
        let status = std::process::Command::new("cp").arg("--sparse=always").args([from, to]).status();
        assert!(status.is_ok_and(|s| s.success()), "copy of an image");
    };
    let kept = std::env::var_os("SNAPDISK_BENCH_KEEP").map(|dir| PathBuf::from(dir).join(kept_as));
    clock(|| match kept {
        Some(kept) if kept.exists() => copy(&kept, path),
        kept => {
            build();
            kept.inspect(|kept| copy(path, kept));
        }
    })
}

/// How busy the machine is: it goes beside the figures.
pub(crate) fn pressure() -> String {
    let first = |p: &str| std::fs::read_to_string(p).ok().and_then(|s| s.lines().next().map(str::to_owned));
    let load = first("/proc/loadavg").unwrap_or_default();
    let io = first("/proc/pressure/io").unwrap_or_default();
    format!("load {load}; io {io}")
}
