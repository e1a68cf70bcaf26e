//! The disk that the tour works on, and real changes to it that can be made twice: to what the engine exported, and to a
//! plain copy that the engine never saw.

use super::work::{Numbers, Work, execute, said};
use crate::failure::{At, Failure, Outcome};
use std::{
    env,
    fs::{self, File, OpenOptions},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
};

/// Bytes of the disk that is made when none is given.
const SIZE: u64 = 256 << 20;
/// The smallest disk that is taken.
const SMALLEST: u64 = 1 << 20;
/// Files in it: this many if the machine has them, and the rest made up to the second number.
const FILES: usize = 3000;
const AT_LEAST: usize = 1200;
/// Their bytes together, at most.
const CONTENT: u64 = 112 << 20;
/// Files of the machine that are looked at.
const CANDIDATES: usize = 40_000;
/// The largest one.
const LARGEST: u64 = 1 << 20;
/// All changes happen at this moment, so that making them twice gives the same bytes.
const NOW: &str = "20200102030405";

/// The programs of e2fsprogs.
pub(crate) struct Tools {
    mkfs: PathBuf,
    debugfs: PathBuf,
    e2fsck: PathBuf,
}

impl Tools {
    /// Those of this machine, if it has them all.
    pub(crate) fn find() -> Option<Tools> {
        let path = env::var_os("PATH").unwrap_or_default();
        let dirs: Vec<PathBuf> = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).collect();
        let find = |name: &str| dirs.iter().map(|d| d.join(name)).find(|p| p.is_file());
        Some(Tools { mkfs: find("mkfs.ext4")?, debugfs: find("debugfs")?, e2fsck: find("e2fsck")? })
    }
    /// Whether `e2fsck -fn` finds the filesystem in `disk` clean.
    pub(crate) fn is_clean(&self, disk: &Path) -> Outcome<bool> {
        let shown = disk.to_str().ok_or_else(|| Failure::new(format!("{}: not UTF-8", disk.display())))?;
        let dir = disk.parent().unwrap_or(Path::new("/"));
        Ok(execute(&self.e2fsck, &["-fn", shown], dir)?.status.code() == Some(0))
    }
}

/// How a disk is changed.
pub(crate) enum Disk {
    /// By `debugfs -w`, and proved by `e2fsck -fn`.
    Ext4 {
        tools: Tools,
        /// Paths of files that were there from the start and may be changed.
        files: Vec<String>,
        /// Which of them are in use: a file is removed once.
        next: usize,
    },
    /// By writing into it.
    Raw,
}

/// One change, ready to be made to any copy.
pub(crate) enum Change {
    /// A script for `debugfs`, run in the working directory.
    Script { name: String, files: usize },
    /// Numbers from which to draw places and bytes.
    Writes { seed: u64, count: usize },
}

impl Change {
    pub(crate) fn describe(&self) -> String {
        match self {
            Change::Script { files, .. } => format!("debugfs -w: {files} files"),
            Change::Writes { count, .. } => format!("{count} writes"),
        }
    }
}

/// Makes `base.img` from nothing: an ext4 filesystem with real files, or noise and zeros. Says what it made.
pub(crate) fn make(work: &Work, tools: Option<Tools>) -> Outcome<(Disk, String)> {
    let base = work.path("base.img");
    let file = File::create_new(&base).at(base.display())?;
    file.set_len(SIZE).at(base.display())?;
    let Some(tools) = tools else {
        let mut numbers = Numbers(1);
        let mut buf = vec![0; 64 << 10];
        for _ in 0..1200 {
            numbers.fill(&mut buf);
            file.write_all_at(&buf, numbers.below(SIZE / 4096 - 16) * 4096).at(base.display())?;
        }
        return Ok((Disk::Raw, "a generated disk of 256M (e2fsprogs is not installed)".to_owned()));
    };
    drop(file);
    let (files, copied) = stage(&work.path("stage"))?;
    let args = ["-q", "-F", "-E", "root_owner=0:0", "-d", "stage", "base.img"];
    let out = execute(&tools.mkfs, &args, &work.dir)?;
    if !out.status.success() {
        return Err(said(&out));
    }
    fs::remove_dir_all(work.path("stage")).at("stage")?;
    let what =
        format!("an ext4 filesystem of 256M with {} files, {copied} of them copied from this machine", files.len());
    Ok((Disk::Ext4 { tools, files, next: 0 }, what))
}

/// Takes `file` for `base.img`. It is changed as an ext4 filesystem if it is one, and clean.
pub(crate) fn adopt(work: &Work, file: &Path, tools: Option<Tools>) -> Outcome<(Disk, String)> {
    let base = work.path("base.img");
    super::work::copy(file, &base)?;
    let disk = OpenOptions::new().read(true).write(true).open(&base).at(base.display())?;
    let len = disk.metadata().at(base.display())?.len();
    if len < SMALLEST {
        return Err(Failure::new(format!("{} has {len} bytes: too small a disk to show much", file.display())));
    }
    disk.set_len(crate::length::sectors(len)).at(base.display())?;
    let mut magic = [0; 2];
    let ext4 = disk.read_exact_at(&mut magic, 0x438).is_ok() && magic == [0x53, 0xef];
    match tools {
        Some(tools) if ext4 && tools.is_clean(&base)? => {
            Ok((Disk::Ext4 { tools, files: Vec::new(), next: 0 }, format!("{}, ext4", file.display())))
        }
        None if ext4 => Ok((Disk::Raw, format!("{}, as raw bytes (e2fsprogs is not installed)", file.display()))),
        _ => Ok((Disk::Raw, format!("{}, as raw bytes", file.display()))),
    }
}

/// Fills a directory with files of this machine, and made-up ones up to [`AT_LEAST`]. Gives their paths and how many were
/// copied.
fn stage(stage: &Path) -> Outcome<(Vec<String>, usize)> {
    fs::create_dir(stage).at(stage.display())?;
    let mut found: Vec<(PathBuf, u64)> = Vec::new();
    for root in ["/usr/share", "/usr/include", "/usr/lib"] {
        collect(Path::new(root), &mut found);
    }
    // From all over the place, not the first ones.
    let step = (found.len() / FILES).max(1);
    let mut room = CONTENT;
    let mut files = Vec::new();
    let mut add = |write: &dyn Fn(&Path) -> std::io::Result<()>, label: &str| -> Outcome<bool> {
        let dir = format!("d{:02}", files.len() / 64);
        if files.len() % 64 == 0 {
            fs::create_dir(stage.join(&dir)).at(&dir)?;
        }
        let name = format!("{dir}/{:04}-{label}", files.len());
        if write(&stage.join(&name)).is_err() {
            return Ok(false);
        }
        files.push(format!("/{name}"));
        Ok(true)
    };
    let mut copied = 0;
    for (from, size) in found.iter().step_by(step).take(FILES) {
        if *size > room {
            continue;
        }
        let fits = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let label: String =
            from.file_name().unwrap_or_default().to_string_lossy().chars().filter(fits).take(40).collect();
        // A file that can't be read is passed over.
        if add(&|to| fs::read(from).and_then(|bytes| fs::write(to, bytes)), &label)? {
            copied += 1;
            room -= size;
        }
    }
    let mut n = copied;
    while n < AT_LEAST {
        let mut numbers = Numbers(n as u64);
        let len = 200 + numbers.below(40_000) as usize;
        if !add(&|to| fs::write(to, numbers.clone().text(len)), "text")? {
            return Err(Failure::new("no room to make files"));
        }
        n += 1;
    }
    Ok((files, copied))
}

/// Regular files below `dir` with their sizes, in an order that stays, until there are enough.
fn collect(dir: &Path, found: &mut Vec<(PathBuf, u64)>) {
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        let mut entries: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
        entries.sort();
        for path in entries {
            if found.len() == CANDIDATES {
                return;
            }
            let Ok(meta) = fs::symlink_metadata(&path) else { continue };
            if meta.is_dir() {
                dirs.push(path);
            } else if meta.is_file() && (1..=LARGEST).contains(&meta.size()) {
                found.push((path, meta.size()));
            }
        }
    }
}

impl Disk {
    pub(crate) fn tools(&self) -> Option<&Tools> {
        match self {
            Disk::Ext4 { tools, .. } => Some(tools),
            Disk::Raw => None,
        }
    }

    /// Draws up the change called `name`, which is not used twice.
    pub(crate) fn plan(&mut self, work: &Work, name: &str, seed: u64) -> Outcome<Change> {
        let Disk::Ext4 { files, next, .. } = self else { return Ok(Change::Writes { seed, count: 300 }) };
        let mut numbers = Numbers(seed);
        let mut script = format!("set_current_time {NOW}\nmkdir /{name}\n");
        let mut touched = 0;
        let mut content = |bytes: Vec<u8>| -> Outcome<String> {
            let file = format!("{name}-{touched}");
            fs::write(work.path(&file), bytes).at(&file)?;
            touched += 1;
            Ok(file)
        };
        let add = if files.is_empty() { 16 } else { 64 };
        for i in 0..add {
            let len = 1 + numbers.below(60_000) as usize;
            let from = content(numbers.text(len))?;
            script += &format!("write {from} /{name}/new-{i}\n");
        }
        let mut big = vec![0; if files.is_empty() { 256 << 10 } else { 4 << 20 }];
        numbers.fill(&mut big);
        script += &format!("write {} /{name}/big\nsymlink /{name}/link big\n", content(big)?);
        let (mut replaced, mut removed) = (0, 0);
        while *next < files.len() && replaced + removed < 150 {
            let file = &files[*next];
            script += &format!("rm {file}\n");
            if replaced < 50 {
                let len = 1 + numbers.below(90_000) as usize;
                script += &format!("write {} {file}\n", content(numbers.text(len))?);
                replaced += 1;
            } else {
                removed += 1;
            }
            *next += 1;
        }
        let script_name = format!("{name}.debugfs");
        fs::write(work.path(&script_name), script).at(&script_name)?;
        Ok(Change::Script { name: script_name, files: touched + removed })
    }

    /// Makes a change to a file in the working directory.
    pub(crate) fn change(&self, work: &Work, change: &Change, file: &str) -> Outcome {
        match (self, change) {
            (Disk::Ext4 { tools, .. }, Change::Script { name, .. }) => {
                let out = execute(&tools.debugfs, &["-w", "-f", name, file], &work.dir)?;
                // It never fails by its exit code; all that it says beside its version is an error.
                let quiet =
                    String::from_utf8_lossy(&out.stderr).lines().all(|l| l.is_empty() || l.starts_with("debugfs "));
                if out.status.success() && quiet { Ok(()) } else { Err(said(&out)) }
            }
            (_, Change::Writes { seed, count }) => {
                let path = work.path(file);
                let disk = OpenOptions::new().write(true).open(&path).at(path.display())?;
                let len = disk.metadata().at(path.display())?.len();
                let mut numbers = Numbers(*seed);
                let mut buf = vec![0; 64 << 10];
                for i in 0..*count {
                    let n = (1 + numbers.below(buf.len() as u64)).min(len) as usize;
                    numbers.fill(&mut buf[..n]);
                    if i % 4 == 0 {
                        buf[..n].fill(0);
                    }
                    let at = numbers.below(len - n as u64 + 1);
                    disk.write_all_at(&buf[..n], at).at(path.display())?;
                }
                Ok(())
            }
            (Disk::Raw, Change::Script { .. }) => Err(Failure::new("a script for a disk that has no filesystem")),
        }
    }
}
