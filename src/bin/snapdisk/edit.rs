//! The short commands: each opens the image for writing, does one durable thing and closes.

use crate::{
    args::Target,
    failure::{Failure, Outcome},
    image::{reclaim, snapshot as find},
    length,
    session::Session,
};
use snapdisk::{DeleteSnapshots, Error, ErrorKind, NewOptions, Options, Volume};
use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// How long a connection that its client has closed may take to let go of its volume.
const LETTING_GO: Duration = Duration::from_secs(1);

/// Does what a volume in use refuses, and waits shortly for a use that has just ended.
fn patiently<T>(mut work: impl FnMut() -> snapdisk::Result<T>) -> Outcome<T> {
    let begun = Instant::now();
    loop {
        match work() {
            Err(e) if e.kind() == ErrorKind::Busy && begun.elapsed() < LETTING_GO => {
                thread::sleep(Duration::from_millis(10));
            }
            done => return done.map_err(in_use),
        }
    }
}

/// Says what can be done about a volume that somebody uses.
fn in_use(e: Error) -> Failure {
    match e.kind() {
        ErrorKind::Busy => {
            Failure::new(format!("{e}: a client of the server uses it, and --force ends its connection"))
        }
        _ => e.into(),
    }
}

pub(crate) fn init(image: &Path, log: u64) -> Outcome {
    Ok(Options::new().log_bytes(log).create(image)?.close()?)
}

pub(crate) fn create(session: &mut Session<'_>, name: &str, size: u64) -> Outcome {
    session.writing(|store, _| Ok(store.create_volume(name, size).map(drop)?))
}

pub(crate) fn snapshot(session: &mut Session<'_>, wanted: &[(String, String)]) -> Outcome {
    for (i, (volume, _)) in wanted.iter().enumerate() {
        if wanted[..i].iter().any(|(v, _)| v == volume) {
            return Err(Failure::usage(format!("{volume} stands twice: one snapshot of a volume at a time")));
        }
    }
    session.writing(|store, _| {
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

pub(crate) fn rollback(session: &mut Session<'_>, target: &Target, force: bool) -> Outcome {
    session.writing(|store, console| {
        let snapshot = find(store, target)?;
        let volume = store.volume_by_id(snapshot.volume()).map_err(|e| match e.kind() {
            ErrorKind::Deleted => Failure::new(format!("the volume of {target} is gone; `clone` makes one of it")),
            _ => e.into(),
        })?;
        let tags = length::replaced(volume.tags()?, &snapshot.tags()?);
        patiently(|| {
            store.update(|u| {
                if force {
                    u.force(&volume);
                }
                u.rollback(&volume, snapshot.id());
                u.set_volume_tags(&volume, tags.clone());
                Ok(())
            })
        })?;
        reclaim(store, console)
    })
}

pub(crate) fn clone(session: &mut Session<'_>, target: &Target, name: &str) -> Outcome {
    session.writing(|store, _| {
        let snapshot = find(store, target)?;
        let options = NewOptions::new().tags(length::carried(&snapshot.tags()?));
        Ok(store.clone_volume_with(&snapshot, name, options).map(drop)?)
    })
}

pub(crate) fn remove(session: &mut Session<'_>, target: &Target, with: bool, keep: bool, force: bool) -> Outcome {
    let fate = match (with, keep) {
        (true, _) => DeleteSnapshots::Delete,
        (_, true) => DeleteSnapshots::Keep,
        _ => DeleteSnapshots::Refuse,
    };
    if !matches!(target, Target::Volume(_)) && fate != DeleteSnapshots::Refuse {
        return Err(Failure::usage(format!("{target} is a snapshot, and has none itself")));
    }
    session.writing(|store, console| {
        match target {
            Target::Volume(name) => {
                let volume = store.volume(name)?;
                if fate == DeleteSnapshots::Refuse && !volume.snapshots()?.is_empty() {
                    return Err(Failure::new(format!("{name} has snapshots: --with-snapshots or --keep-snapshots")));
                }
                patiently(|| if force { volume.forced().delete(fate) } else { store.delete_volume(&volume, fate) })?;
            }
            _ => store.delete_snapshot(&find(store, target)?)?,
        }
        reclaim(store, console)
    })
}

pub(crate) fn rename(session: &mut Session<'_>, target: &Target, name: &str) -> Outcome {
    session.writing(|store, _| match target {
        Target::Volume(old) => Ok(store.rename(&store.volume(old)?, name)?),
        _ => Ok(store.rename_snapshot(&find(store, target)?, name)?),
    })
}

pub(crate) fn resize(session: &mut Session<'_>, name: &str, size: u64, force: bool) -> Outcome {
    session.writing(|store, console| {
        let volume = store.volume(name)?;
        patiently(|| if force { volume.forced().resize(size) } else { volume.resize(size) })?;
        reclaim(store, console)
    })
}
