//! The short commands: each opens the image for writing, does one durable thing and closes.

use crate::{
    args::Target,
    failure::{Failure, Outcome},
    image::{reclaim, snapshot as find, writing},
    length,
};
use snapdisk::{DeleteSnapshots, ErrorKind, NewOptions, Options, Volume};
use std::path::Path;

pub(crate) fn init(image: &Path, log: u64) -> Outcome {
    Ok(Options::new().log_bytes(log).create(image)?.close()?)
}

pub(crate) fn create(image: &Path, name: &str, size: u64) -> Outcome {
    writing(image, |store| Ok(store.create_volume(name, size).map(drop)?))
}

pub(crate) fn snapshot(image: &Path, wanted: &[(String, String)]) -> Outcome {
    for (i, (volume, _)) in wanted.iter().enumerate() {
        if wanted[..i].iter().any(|(v, _)| v == volume) {
            return Err(Failure::usage(format!("{volume} stands twice: one snapshot of a volume at a time")));
        }
    }
    writing(image, |store| {
        let volumes: Vec<Volume> = wanted.iter().map(|(v, _)| store.volume(v)).collect::<Result<_, _>>()?;
        // One record, and so one point in time.
        Ok(store.update(|u| {
            for (volume, (_, name)) in volumes.iter().zip(wanted) {
                u.snapshot(volume, name, length::carried(&volume.tags()?))?;
            }
            Ok(())
        })?)
    })
}

pub(crate) fn rollback(image: &Path, target: &Target) -> Outcome {
    writing(image, |store| {
        let snapshot = find(store, target)?;
        let volume = store.volume_by_id(snapshot.volume()).map_err(|e| match e.kind() {
            ErrorKind::Deleted => Failure::new(format!("the volume of {target} is gone; `clone` makes one of it")),
            _ => e.into(),
        })?;
        let tags = length::replaced(volume.tags()?, &snapshot.tags()?);
        store.update(|u| {
            u.rollback(&volume, snapshot.id());
            u.set_volume_tags(&volume, tags);
            Ok(())
        })?;
        reclaim(store)
    })
}

pub(crate) fn clone(image: &Path, target: &Target, name: &str) -> Outcome {
    writing(image, |store| {
        let snapshot = find(store, target)?;
        let options = NewOptions::new().tags(length::carried(&snapshot.tags()?));
        Ok(store.clone_volume_with(&snapshot, name, options).map(drop)?)
    })
}

pub(crate) fn remove(image: &Path, target: &Target, with: bool, keep: bool) -> Outcome {
    let fate = match (with, keep) {
        (true, _) => DeleteSnapshots::Delete,
        (_, true) => DeleteSnapshots::Keep,
        _ => DeleteSnapshots::Refuse,
    };
    if !matches!(target, Target::Volume(_)) && fate != DeleteSnapshots::Refuse {
        return Err(Failure::usage(format!("{target} is a snapshot, and has none itself")));
    }
    writing(image, |store| {
        match target {
            Target::Volume(name) => {
                let volume = store.volume(name)?;
                store.delete_volume(&volume, fate).map_err(|e| match e.kind() {
                    ErrorKind::Invalid if fate == DeleteSnapshots::Refuse => {
                        Failure::new(format!("{name} has snapshots: --with-snapshots or --keep-snapshots"))
                    }
                    _ => e.into(),
                })?;
            }
            _ => store.delete_snapshot(&find(store, target)?)?,
        }
        reclaim(store)
    })
}

pub(crate) fn rename(image: &Path, target: &Target, name: &str) -> Outcome {
    writing(image, |store| match target {
        Target::Volume(old) => Ok(store.rename(&store.volume(old)?, name)?),
        _ => Ok(store.rename_snapshot(&find(store, target)?, name)?),
    })
}

pub(crate) fn resize(image: &Path, name: &str, size: u64) -> Outcome {
    writing(image, |store| {
        store.volume(name)?.resize(size)?;
        reclaim(store)
    })
}
