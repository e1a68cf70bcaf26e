//! Opening images, and looking up what the command line names.

use crate::{
    args::Target,
    failure::{At, Failure, Outcome},
    progress::Meter,
    session::Console,
};
use snapdisk::{DeleteSnapshots, ErrorKind, Extents, NewOptions, Options, Result, Snapshot, SnapshotId, Store, Volume};
use std::{collections::BTreeMap, fs, ops::Range, os::unix::fs::MetadataExt, path::Path};

/// The name of a volume whose import is not finished. Only one process writes to an image, so that there is at most one, and whoever opens
/// the image for writing next knows that its import is dead. The tag distinguishes it from a volume that somebody named so through the
/// library.
pub(crate) const UNFINISHED: &str = "import.partial";
const TAG: (&str, &str) = ("snapdisk.import", "unfinished");

/// Opens for writing, alone; runs `work`; closes, which makes all of it durable. What an interrupted import left is removed first.
pub(crate) fn writing<T>(image: &Path, work: impl FnOnce(&Store) -> Outcome<T>) -> Outcome<T> {
    let store = Options::new().open(image)?;
    let done = sweep(&store).and_then(|()| work(&store));
    let closed = store.close();
    let out = done?;
    closed?;
    Ok(out)
}

fn sweep(store: &Store) -> Outcome {
    match store.volume(UNFINISHED) {
        Ok(volume) if is_unfinished(&volume)? => Ok(store.delete_volume(&volume, DeleteSnapshots::Delete)?),
        Ok(_) => Ok(()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Makes the volume that an import fills.
pub(crate) fn create_unfinished(store: &Store, bytes: u64) -> Result<Volume> {
    let tags = [(TAG.0.to_owned(), TAG.1.to_owned())].into();
    store.create_volume_with(UNFINISHED, bytes, NewOptions::new().tags(tags))
}

/// Whether the volume is an import that is not finished, and so not to be shown.
pub(crate) fn is_unfinished(volume: &Volume) -> Result<bool> {
    Ok(volume.name()? == UNFINISHED && volume.tags()?.get(TAG.0).is_some_and(|v| v == TAG.1))
}

/// Waits until the space of what was deleted is free.
pub(crate) fn reclaim(store: &Store, console: &dyn Console) -> Outcome {
    let _meter = Meter::wait(console, "reclaiming");
    Ok(store.wait_reclaimed()?)
}

/// Something that can be exported.
pub(crate) enum Source {
    Volume(Volume),
    Snapshot(Snapshot),
}

impl Source {
    pub(crate) fn size(&self) -> Result<u64> {
        match self {
            Source::Volume(v) => v.size(),
            Source::Snapshot(s) => Ok(s.size()),
        }
    }
    pub(crate) fn tags(&self) -> Result<BTreeMap<String, String>> {
        match self {
            Source::Volume(v) => v.tags(),
            Source::Snapshot(s) => s.tags(),
        }
    }
    pub(crate) fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        match self {
            Source::Volume(v) => v.read_at(buf, offset),
            Source::Snapshot(s) => s.read_at(buf, offset),
        }
    }
    pub(crate) fn extents(&self, range: Range<u64>) -> Extents<'_> {
        match self {
            Source::Volume(v) => v.extents(range),
            Source::Snapshot(s) => s.extents(range),
        }
    }
}

pub(crate) fn source(store: &Store, target: &Target) -> Outcome<Source> {
    match target {
        Target::Volume(name) => Ok(Source::Volume(store.volume(name)?)),
        _ => snapshot(store, target).map(Source::Snapshot),
    }
}

/// The snapshot that `target` names.
pub(crate) fn snapshot(store: &Store, target: &Target) -> Outcome<Snapshot> {
    match target {
        Target::Snapshot(volume, name) => store.volume(volume)?.snapshot_named(name).map_err(|e| match e.kind() {
            ErrorKind::NotFound => Failure::new(format!("no snapshot {target}")),
            _ => e.into(),
        }),
        Target::Id(id) => store.snapshot_by_id(SnapshotId(*id)).map_err(|e| match e.kind() {
            ErrorKind::Deleted => Failure::new(format!("no snapshot {target}")),
            _ => e.into(),
        }),
        Target::Volume(name) => Err(Failure::usage(format!("{name} is a volume, and a snapshot is meant"))),
    }
}

/// Refuses a copy whose other end is the image itself.
pub(crate) fn not_itself(image: &Path, file: &Path, meta: &fs::Metadata) -> Outcome {
    let own = fs::metadata(image).at(image.display())?;
    if (own.dev(), own.ino()) == (meta.dev(), meta.ino()) {
        return Err(Failure::new(format!("{} is the image itself", file.display())));
    }
    Ok(())
}
