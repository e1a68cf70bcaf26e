//! Plain files: on the filesystem under test, where they have no snapshots, and on XFS and btrfs, where reflinks are theirs.

use super::{BLOCK, Contender, Disk, MIB, Missing, Peer, common, system, why};
use std::{
    fs::{self, File},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

pub(crate) const RAW: [&str; 2] = ["raw, large folios", "raw, 4 KiB folios"];
pub(crate) const XFS: &str = "xfs reflink";
pub(crate) const BTRFS: &str = "btrfs reflink";

struct Raw(File);

impl Peer for Raw {
    fn read(&self, buf: &mut [u8], offset: u64) {
        self.0.read(buf, offset);
    }
    fn write(&self, buf: &[u8], offset: u64) {
        self.0.write(buf, offset);
    }
    fn sync(&self) {
        Peer::sync(&self.0);
    }
}

impl Disk for Raw {
    fn has_snapshots(&self) -> bool {
        false
    }
    fn snapshot(&mut self, _: u64) {}
    fn rollback(&mut self, _: u64) {}
    fn delete(&mut self, _: u64) {}
}

pub(crate) fn raw(dir: &Path, len: u64, noise: &[u8], large: bool) -> Result<Contender, Missing> {
    let name = RAW[usize::from(!large)];
    let file = common::raw_file(&dir.join(name), len, noise, large);
    Ok(Contender { name, settings: "pwrite, pread, fdatasync".into(), disk: Box::new(Raw(file)) })
}

/// A file whose snapshots are reflinks beside it, on a filesystem that goes with its last open file: nothing has it mounted any more.
struct Reflinked {
    file: File,
    directory: File,
}

impl Reflinked {
    fn path(&self, id: u64) -> PathBuf {
        format!("/proc/self/fd/{}/snapshot {id}", self.directory.as_raw_fd()).into()
    }
}

impl Peer for Reflinked {
    fn read(&self, buf: &mut [u8], offset: u64) {
        self.file.read(buf, offset);
    }
    fn write(&self, buf: &[u8], offset: u64) {
        self.file.write(buf, offset);
    }
    fn sync(&self) {
        Peer::sync(&self.file);
    }
}

impl Disk for Reflinked {
    fn snapshot(&mut self, id: u64) {
        let copy = File::create(self.path(id)).expect("a file");
        rustix::fs::ioctl_ficlone(&copy, &self.file).expect("a reflink");
        copy.sync_all().expect("sync");
        self.directory.sync_all().expect("sync");
    }
    fn rollback(&mut self, id: u64) {
        let copy = File::open(self.path(id)).expect("a snapshot");
        rustix::fs::ioctl_ficlone(&self.file, &copy).expect("a reflink");
        self.file.sync_all().expect("sync");
    }
    fn delete(&mut self, id: u64) {
        fs::remove_file(self.path(id)).expect("a snapshot");
        self.directory.sync_all().expect("sync");
    }
}

/// A file on a filesystem of its own. Its loop file is written before, as the other peers' files are.
pub(crate) fn mounted(dir: &Path, len: u64, kind: &'static str) -> Result<Contender, Missing> {
    if !rustix::process::geteuid().is_root() {
        return Err("mounting needs root".into());
    }
    let (image, at) = (dir.join(format!("{kind} image")), dir.join(kind));
    let size = (5 * len / 2).max(512 * MIB);
    let zeros = vec![0; MIB as usize];
    let file = File::create(&image).map_err(why)?;
    (0..size / MIB).for_each(|i| file.write(&zeros, i * MIB));
    file.sync_all().map_err(why)?;
    drop(file);
    fs::create_dir_all(&at).map_err(why)?;
    let (image_name, at_name) = (image.to_string_lossy(), at.to_string_lossy());
    let program = format!("mkfs.{kind}");
    // Without discard the loop file keeps its written space.
    let keep = if kind == "xfs" { "-K" } else { "--nodiscard" };
    let prepare = || {
        system(&program, &["-q", keep, "-f", &image_name])?;
        system("mount", &["-t", kind, "-o", "loop", &image_name, &at_name])
    };
    let mounted = prepare();
    // The loop device keeps the file.
    let remove = || fs::remove_file(&image).map_err(why);
    if let Err(e) = mounted {
        remove()?;
        return Err(e);
    }
    let file = File::options().read(true).write(true).create(true).truncate(true).open(at.join("disk")).map_err(why);
    let directory = File::open(&at).map_err(why);
    let options = system("findmnt", &["-no", "OPTIONS", &at_name]).unwrap_or_else(|e| e);
    // From here on the filesystem ends with this process, whatever ends it.
    system("umount", &["--lazy", &at_name])?;
    remove()?;
    let (file, directory) = (file?, directory?);
    let made_by = system(&program, &["-V"]).unwrap_or_else(|e| e);
    let block = rustix::fs::fstatvfs(&directory).map_err(why)?.f_bsize;
    assert_eq!(block as usize, BLOCK, "blocks of the filesystem");
    Ok(Contender {
        name: if kind == "xfs" { XFS } else { BTRFS },
        settings: format!(
            "{made_by}, blocks of {block} bytes, mounted {options}, FICLONE + fsync of copy and directory"
        ),
        disk: Box::new(Reflinked { file, directory }),
    })
}
