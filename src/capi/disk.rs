//! Functions on disks, which are volumes and snapshots, as a whole.
//!
//! SAFETY throughout: as in `store.rs`.
#![allow(unsafe_code, reason = "functions that C calls")]
#![allow(
    clippy::missing_safety_doc,
    reason = "the rules P1 to P4 of `raw.rs` hold for every pointer; the header states them"
)]

use super::{
    handles,
    handles::Disk,
    raw,
    raw::{Fault, run},
    store::{check_flags, open_snapshot},
    types::*,
};
use crate::{DeleteSnapshots, Durability, ErrorKind, NewOptions};
use std::{ffi::c_char, ops::Not};

/// Closes the handle of a disk. Calls of other threads that use it go on to their end. A volume that the handle attached is then released.
#[unsafe(no_mangle)]
pub extern "C" fn snapdisk_disk_close(disk: u64) -> i32 {
    run(|| handles::close_disk(disk))
}

/// Describes the disk.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn snapdisk_disk_info(disk: u64, info: *mut Info) -> i32 {
    run(|| {
        // SAFETY: as the head of this file says.
        let place = unsafe { raw::Place::new(info) }?;
        let disk = handles::disk(disk)?;
        place.put(match &*disk {
            Disk::Snapshot(_, snapshot) => Info::of_snapshot(snapshot)?,
            other => Info::of_volume(other.volume()?)?,
        });
        Ok(())
    })
}

/// Puts the size of the disk in bytes into `bytes`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn snapdisk_disk_size(disk: u64, bytes: *mut u64) -> i32 {
    run(|| {
        // SAFETY: as the head of this file says.
        let place = unsafe { raw::Place::new(bytes) }?;
        place.put(handles::disk(disk)?.reader().size()?);
        Ok(())
    })
}

/// Puts the figures of the volume into `counters`, a structure of `size` bytes (`sizeof *counters`).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn snapdisk_disk_counters(disk: u64, counters: *mut VolumeFigures, size: usize) -> i32 {
    run(|| {
        let found = handles::disk(disk)?.volume()?.counters()?.into();
        // SAFETY: as the head of this file says; the structure has no padding.
        unsafe { raw::put_grown(counters, size, &found) }
    })
}

/// Renames the volume or snapshot.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn snapdisk_disk_rename(disk: u64, name: *const c_char) -> i32 {
    run(|| {
        // SAFETY: as the head of this file says.
        let name = unsafe { raw::name(name) }?;
        let disk = handles::disk(disk)?;
        match &*disk {
            Disk::Snapshot(store, snapshot) => store.rename_snapshot(snapshot, name)?,
            other => other.store().rename(other.volume()?, name)?,
        }
        Ok(())
    })
}

/// Deletes the volume or snapshot. `snapshots` (`SNAPDISK_SNAPSHOTS_…`) says what becomes of a volume's snapshots, and is 0 for a snapshot.
/// The handle answers `SNAPDISK_E_DELETED` from then on, and is still to be closed. The space is freed in the background.
#[unsafe(no_mangle)]
pub extern "C" fn snapdisk_disk_delete(disk: u64, snapshots: u32) -> i32 {
    run(|| {
        let mode = match snapshots {
            SNAPDISK_SNAPSHOTS_REFUSE => DeleteSnapshots::Refuse,
            SNAPDISK_SNAPSHOTS_KEEP => DeleteSnapshots::Keep,
            SNAPDISK_SNAPSHOTS_DELETE => DeleteSnapshots::Delete,
            other => return Err(Fault::invalid(format!("no such mode of deletion: {other}"))),
        };
        let disk = handles::disk(disk)?;
        match &*disk {
            Disk::Snapshot(..) if mode != DeleteSnapshots::Refuse => {
                return Err(Fault::invalid("a snapshot has no snapshots"));
            }
            Disk::Snapshot(store, snapshot) => store.delete_snapshot(snapshot)?,
            Disk::Attached(_, volume) => volume.delete(mode)?,
            Disk::Volume(store, volume) => store.delete_volume(volume, mode)?,
        }
        Ok(())
    })
}

/// Grows or shrinks the volume to `bytes`, a multiple of 512. What is cut off is gone; what is added reads as zeros.
#[unsafe(no_mangle)]
pub extern "C" fn snapdisk_resize(disk: u64, bytes: u64) -> i32 {
    run(|| {
        let disk = handles::disk(disk)?;
        match &*disk {
            Disk::Attached(_, volume) => volume.resize(bytes)?,
            other => other.volume()?.resize(bytes)?,
        }
        Ok(())
    })
}

/// Makes the volume what `snapshot`, one of its own, is: content and size, or with `SNAPDISK_KEEP_SIZE` the content alone. It costs one small
/// record and one sync, whatever the size.
#[unsafe(no_mangle)]
pub extern "C" fn snapdisk_rollback(disk: u64, snapshot: u64, flags: u32) -> i32 {
    run(|| {
        check_flags(flags, SNAPDISK_KEEP_SIZE)?;
        let (disk, snapshot) = (handles::disk(disk)?, handles::disk(snapshot)?);
        let snapshot = snapshot.snapshot()?;
        match (&*disk, flags) {
            (Disk::Attached(_, volume), 0) => volume.rollback(snapshot)?,
            (Disk::Attached(_, volume), _) => volume.rollback_keep_size(snapshot)?,
            (other, 0) => other.volume()?.rollback(snapshot)?,
            (other, _) => other.volume()?.rollback_keep_size(snapshot)?,
        }
        Ok(())
    })
}

/// Takes a snapshot of the volume. It costs one small record and one sync, whatever the size; with `SNAPDISK_DEFERRED` it is durable with the
/// next flush. `snapshot` takes a handle of it, or is null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn snapdisk_snapshot_create(
    disk: u64,
    name: *const c_char,
    flags: u32,
    snapshot: *mut u64,
) -> i32 {
    run(|| {
        // SAFETY: as the head of this file says.
        let (name, place) = unsafe { (raw::name(name)?, raw::optional(snapshot)?) };
        let new = new_options(flags)?;
        let disk = handles::disk(disk)?;
        let made = disk.store().snapshot_with(disk.volume()?, name, new)?;
        if let Some(place) = place {
            place.put(handles::add_disk(Disk::Snapshot(disk.store().clone(), made))?);
        }
        Ok(())
    })
}

/// Opens the snapshot of the volume that has that name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn snapdisk_snapshot_named(disk: u64, name: *const c_char, snapshot: *mut u64) -> i32 {
    run(|| {
        // SAFETY: as the head of this file says.
        let (name, place) = unsafe { (raw::name(name)?, raw::Place::new(snapshot)?) };
        let disk = handles::disk(disk)?;
        let volume = disk.volume()?;
        place.put(open_snapshot(disk.store(), |_| volume.snapshot_named(name))?);
        Ok(())
    })
}

/// Lists up to `capacity` snapshots of the volume, oldest first, from the first one (`after` = 0) or from the one after the id `after`, and
/// puts their number into `count`. Each call looks all of the volume's snapshots up.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn snapdisk_disk_snapshots(
    disk: u64,
    after: u64,
    list: *mut Info,
    capacity: usize,
    count: *mut usize,
) -> i32 {
    run(|| {
        // SAFETY: as the head of this file says.
        let page = unsafe { raw::Page::new(list, capacity, count) }?;
        let disk = handles::disk(disk)?;
        let all = disk.volume()?.snapshots()?;
        let rest = all.iter().filter(|snapshot| snapshot.id().0 > after).map(Info::of_snapshot);
        // What was deleted since it was listed is left out.
        let rest = rest.filter(|info| info.as_ref().is_err_and(|e| e.kind() == ErrorKind::Deleted).not());
        page.put(rest.take(page.capacity).collect::<crate::Result<Vec<_>>>()?);
        Ok(())
    })
}

/// Creates a volume with the content of the snapshot, and opens it. It costs one small record and one sync, whatever the size; with
/// `SNAPDISK_DEFERRED` it is durable with the next flush.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn snapdisk_clone(snapshot: u64, name: *const c_char, flags: u32, disk: *mut u64) -> i32 {
    run(|| {
        // SAFETY: as the head of this file says.
        let (name, place) = unsafe { (raw::name(name)?, raw::Place::new(disk)?) };
        let new = new_options(flags)?;
        let of = handles::disk(snapshot)?;
        let made = of.store().clone_volume_with(of.snapshot()?, name, new)?;
        place.put(handles::add_disk(Disk::Volume(of.store().clone(), made))?);
        Ok(())
    })
}

fn new_options(flags: u32) -> Result<NewOptions, Fault> {
    check_flags(flags, SNAPDISK_DEFERRED)?;
    let durability = if flags == SNAPDISK_DEFERRED { Durability::Deferred } else { Durability::Immediate };
    Ok(NewOptions::new().durability(durability))
}

/// Puts into `generation` how often the volume, which the handle attached, was rolled back, resized or deleted since then, by anyone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn snapdisk_generation(disk: u64, generation: *mut u64) -> i32 {
    run(|| {
        // SAFETY: as the head of this file says.
        let place = unsafe { raw::Place::new(generation) }?;
        match &*handles::disk(disk)? {
            Disk::Attached(_, volume) => place.put(volume.generation()),
            _ => return Err(Fault::invalid("the handle attaches no volume")),
        }
        Ok(())
    })
}

/// Says that the holder of the attached volume knows of every change up to `generation`, so that a handle that answered `SNAPDISK_E_STALE`
/// serves again.
#[unsafe(no_mangle)]
pub extern "C" fn snapdisk_acknowledge(disk: u64, generation: u64) -> i32 {
    run(|| {
        match &*handles::disk(disk)? {
            Disk::Attached(_, volume) => volume.acknowledge(generation),
            _ => return Err(Fault::invalid("the handle attaches no volume")),
        }
        Ok(())
    })
}
