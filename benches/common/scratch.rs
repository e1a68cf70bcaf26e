//! Whether a directory is fit for measurements: on a disk of this machine, with room for what will be written.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd},
    path::Path,
};

/// Filesystems whose files are memory.
const MEMORY: &[&str] = &["devtmpfs", "hugetlbfs", "ramfs", "rootfs", "tmpfs"];
/// Filesystems whose calls another machine, another kernel or another process answers. Those of FUSE are recognised by their prefix.
const REMOTE: &[&str] = &[
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "fuse", "gfs2", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2",
    "orangefs", "panfs", "pvfs2", "smb3", "smbfs", "vboxsf", "virtiofs",
];

/// Where a directory lies.
#[derive(Debug)]
pub(crate) struct Place {
    /// The filesystem's type as the kernel names it, such as `ext4`.
    pub(crate) filesystem: String,
    /// Bytes that an ordinary user may still write.
    pub(crate) free: u64,
}

impl Place {
    /// Asks the kernel where `dir` lies.
    ///
    /// # Errors
    ///
    /// `dir` cannot be opened, or procfs is not mounted.
    pub(crate) fn of(dir: &Path) -> io::Result<Place> {
        #[allow(clippy::disallowed_methods, reason = "this is a directory, and no image")]
        let dir = fs::File::open(dir)?;
        let room = rustix::fs::fstatvfs(dir.as_fd())?;
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", dir.as_raw_fd()))?;
        let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:")).map(str::trim);
        let filesystem = mount.and_then(|id| filesystem_of(&fs::read_to_string("/proc/self/mountinfo").ok()?, id));
        Ok(Place {
            filesystem: filesystem.unwrap_or_else(|| "a filesystem that the kernel does not name".into()),
            free: room.f_bavail.saturating_mul(room.f_frsize),
        })
    }

    /// Why figures taken here would mean nothing, or the run would not reach its end, if it writes `need` bytes at most.
    pub(crate) fn objection(&self, need: u64) -> Option<String> {
        let Place { filesystem, free } = self;
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        if MEMORY.contains(&filesystem.as_str()) {
            Some(format!("is on {filesystem}, which is memory: nothing there ever waits for a disk"))
        } else if REMOTE.contains(&filesystem.as_str()) || filesystem.starts_with("fuse.") {
            Some(format!(
                "is on {filesystem}, which is a network filesystem or one that another system or process serves"
            ))
        } else if *free == 0 {
            Some(format!("is on a full filesystem ({filesystem})"))
        } else if *free < need {
            Some(format!("has {} MiB free on {filesystem}, and the run may write {} MiB", free >> 20, mib(need)))
        } else {
            None
        }
    }
}

/// The type of the mounted filesystem `id` in the text of `/proc/self/mountinfo`: the field behind the lone hyphen.
fn filesystem_of(mountinfo: &str, id: &str) -> Option<String> {
    let line = mountinfo.lines().find(|line| line.split(' ').next() == Some(id))?;
    Some(line.split_once(" - ")?.1.split(' ').next()?.to_owned())
}
