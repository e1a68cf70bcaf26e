//! Benchmarks refuse a directory whose figures would mean nothing, and one that their files do not fit in.

#[path = "../../benches/common/scratch.rs"]
mod scratch;

use scratch::Place;
use std::path::Path;

const GIB: u64 = 1 << 30;

fn objection(filesystem: &str, free: u64, need: u64) -> Option<String> {
    Place { filesystem: filesystem.into(), free }.objection(need)
}

#[track_caller]
fn refused(filesystem: &str, free: u64, need: u64, why: &str) {
    let said = objection(filesystem, free, need).unwrap_or_default();
    assert!(said.contains(filesystem) && said.contains(why), "{filesystem}: {said:?}");
}

#[test]
fn a_directory_in_memory_or_on_another_machine_is_refused() {
    for filesystem in ["tmpfs", "ramfs"] {
        refused(filesystem, GIB, 1, "memory");
    }
    for filesystem in ["nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "fuse.sshfs", "virtiofs"] {
        refused(filesystem, GIB, 1, "network");
    }
    for filesystem in ["ext4", "xfs", "btrfs", "overlay", "fuseblk"] {
        assert_eq!(objection(filesystem, GIB, GIB), None);
    }
}

#[test]
fn a_directory_without_room_is_refused() {
    refused("ext4", 0, 1, "full");
    refused("ext4", GIB - 1, GIB, "1023 MiB free");
    refused("ext4", GIB - 1, GIB, "may write 1024 MiB");
}

#[test]
fn the_kernel_says_where_a_directory_lies() {
    let proc = Place::of(Path::new("/proc/self")).unwrap();
    assert_eq!((proc.filesystem.as_str(), proc.free), ("proc", 0));
    let own = Place::of(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap();
    assert!(own.free > 0, "{own:?}");
    assert!(Place::of(Path::new("/nowhere/at/all")).is_err());
}
