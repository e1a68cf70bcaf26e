//! What is served: every volume and every snapshot of a store, and who is connected to which.

use super::{
    command::Terms,
    option::{Refusal, Reply},
    server::Lease,
    socket::Socket,
};
use crate::{AttachedVolume, Error, ErrorKind, ReadDisk, Result, Snapshot, SnapshotId, Store, Volume, VolumeId};
use parking_lot::{Condvar, Mutex};
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// Volumes or snapshots that are looked up at a time.
const PAGE: usize = 256;
/// How long a new connection waits for those that a forced change of the volume has ended.
const ENDING: Duration = Duration::from_secs(5);

/// The exports of a store.
pub(super) struct Exports {
    store: Store,
    read_only: bool,
    hidden: Option<String>,
    lease: Option<Lease>,
    /// The volumes that somebody is connected to.
    held: Mutex<HashMap<VolumeId, Held>>,
    released: Condvar,
}

/// A volume that is attached for as long as anybody is connected to it.
struct Held {
    lease: Arc<AttachedVolume>,
    sockets: Vec<Arc<Socket>>,
}

/// A disk that a name stands for.
enum Found {
    Volume(Volume),
    Snapshot(Snapshot),
}

/// The disk of a connection.
pub(super) enum Disk {
    Volume(Arc<AttachedVolume>),
    Snapshot(Snapshot),
}

impl Disk {
    pub(super) fn reads(&self) -> &dyn ReadDisk {
        match self {
            Disk::Volume(volume) => &**volume,
            Disk::Snapshot(snapshot) => snapshot,
        }
    }
}

/// An open export. The fields are dropped in this order, so that a volume's lease ends with its last seat.
pub(super) struct Export {
    pub(super) disk: Disk,
    _seat: Option<Seat>,
}

impl Export {
    /// Whether the disk is still the one that the client connected to.
    pub(super) fn is_alive(&self) -> bool {
        !self.disk.reads().size().is_err_and(|e| is_gone(&e))
    }
}

/// One of the connections to a volume.
struct Seat {
    exports: Arc<Exports>,
    volume: VolumeId,
    socket: Arc<Socket>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut all = self.exports.held.lock();
        let Some(held) = all.get_mut(&self.volume) else { return };
        held.sockets.retain(|socket| !Arc::ptr_eq(socket, &self.socket));
        if held.sockets.is_empty() {
            // Under the lock: whoever is woken can attach the volume.
            all.remove(&self.volume);
        }
        self.exports.released.notify_all();
    }
}

fn is_gone(e: &Error) -> bool {
    matches!(e.kind(), ErrorKind::Deleted | ErrorKind::Stale | ErrorKind::Closed)
}

/// Why an export is not to be had.
fn refusal(e: &Error) -> Refusal {
    match e.kind() {
        ErrorKind::NotFound | ErrorKind::Deleted | ErrorKind::Invalid => {
            Refusal(Reply::Unknown, "there is no such volume or snapshot")
        }
        ErrorKind::Closed => Refusal(Reply::Shutdown, "the server is being stopped"),
        ErrorKind::Busy => Refusal(Reply::Policy, "the volume is in use by other means"),
        _ => Refusal(Reply::Policy, "the store failed; its owner has the reason"),
    }
}

impl Exports {
    pub(super) fn new(store: Store, read_only: bool, hidden: Option<String>, lease: Option<Lease>) -> Arc<Exports> {
        let read_only = read_only || store.is_read_only();
        let (held, released) = (Mutex::default(), Condvar::new());
        Arc::new(Exports { store, read_only, hidden, lease, held, released })
    }

    /// Calls `each` with the names of all exports: volumes and then snapshots, each in the order of their creation. What is created or deleted
    /// meanwhile is named or not. An error of `each` ends it.
    pub(super) fn names(&self, mut each: impl FnMut(&str) -> Result<()>) -> Result<()> {
        let mut after = None;
        loop {
            let page = self.store.volumes_page(after, PAGE)?;
            for volume in &page {
                after = Some(volume.id());
                match volume.name() {
                    Ok(name) if self.hidden.as_ref() == Some(&name) => {}
                    Ok(name) => each(&name)?,
                    Err(e) if is_gone(&e) => {}
                    Err(e) => return Err(e),
                }
            }
            if page.len() < PAGE {
                break;
            }
        }
        // Neighbours are mostly of one volume.
        let mut known: Option<(VolumeId, Option<String>)> = None;
        let mut after = None;
        loop {
            let page = self.store.snapshots_page(after, PAGE)?;
            for snapshot in &page {
                after = Some(snapshot.id());
                let of = snapshot.volume();
                if known.as_ref().is_none_or(|(id, _)| *id != of) {
                    let name = self.store.volume_by_id(of).and_then(|volume| volume.name());
                    known = Some((of, name.ok()));
                }
                let name = match (known.as_ref().and_then(|(_, name)| name.as_ref()), snapshot.name()) {
                    (Some(volume), Ok(name)) => format!("{volume}@{name}"),
                    (None, Ok(_)) => format!("@{}", snapshot.id()),
                    (_, Err(e)) if is_gone(&e) => continue,
                    (_, Err(e)) => return Err(e),
                };
                each(&name)?;
            }
            if page.len() < PAGE {
                return Ok(());
            }
        }
    }

    /// The disk that a name stands for: `VOL`, `VOL@SNAP`, `@ID` of a snapshot, or nothing where there is just one volume.
    fn find(&self, name: &str) -> Result<Found> {
        if let Some((volume, snapshot)) = name.split_once('@') {
            if !volume.is_empty() {
                return self.visible(volume)?.snapshot_named(snapshot).map(Found::Snapshot);
            }
            let id = snapshot.parse().map_err(|_| Error::invalid("after a bare @ comes a snapshot's number"))?;
            return self.store.snapshot_by_id(SnapshotId(id)).map(Found::Snapshot);
        }
        if !name.is_empty() {
            return self.visible(name).map(Found::Volume);
        }
        let mut page = self.store.volumes_page(None, 3)?;
        page.retain(|v| v.name().ok() != self.hidden);
        match (page.pop(), page.pop()) {
            (Some(only), None) => Ok(Found::Volume(only)),
            _ => Err(Error::new(ErrorKind::NotFound, "there is no default export")),
        }
    }
    fn visible(&self, name: &str) -> Result<Volume> {
        match self.hidden.as_deref() == Some(name) {
            true => Err(Error::new(ErrorKind::NotFound, "the volume is no export")),
            false => self.store.volume(name),
        }
    }

    /// Tells what a client would get that connects to an export now, and the export's own name.
    pub(super) fn terms(&self, name: &str) -> Result<(Terms, String), Refusal> {
        let terms = |size, writable| Terms { size, writable, structured: false, allocation: false };
        let look = || match self.find(name)? {
            Found::Volume(volume) => Ok((terms(volume.size()?, !self.read_only), volume.name()?)),
            Found::Snapshot(snapshot) => Ok((terms(snapshot.size(), false), name.to_owned())),
        };
        look().map_err(|e| refusal(&e))
    }

    /// Opens an export for the client at `socket`.
    pub(super) fn open(self: &Arc<Exports>, name: &str, socket: &Arc<Socket>) -> Result<(Export, Terms), Refusal> {
        let terms = |size, writable| Terms { size, writable, structured: false, allocation: false };
        match self.find(name).map_err(|e| refusal(&e))? {
            Found::Snapshot(snapshot) => {
                let terms = terms(snapshot.size(), false);
                Ok((Export { disk: Disk::Snapshot(snapshot), _seat: None }, terms))
            }
            Found::Volume(volume) => {
                let lease = self.take_seat(&volume, socket)?;
                let seat = Seat { exports: self.clone(), volume: volume.id(), socket: socket.clone() };
                let size = lease.size().map_err(|e| refusal(&e));
                let export = Export { disk: Disk::Volume(lease), _seat: Some(seat) };
                Ok((export, terms(size?, !self.read_only)))
            }
        }
    }
    fn take_seat(&self, volume: &Volume, socket: &Arc<Socket>) -> Result<Arc<AttachedVolume>, Refusal> {
        let end = Instant::now() + ENDING;
        let mut all = self.held.lock();
        loop {
            match all.get_mut(&volume.id()) {
                Some(held) if held.lease.size().is_err_and(|e| is_gone(&e)) => {
                    // Connections that know another content: they end first.
                    held.sockets.iter().for_each(|socket| socket.kill());
                    if self.released.wait_until(&mut all, end).timed_out() {
                        return Err(Refusal(
                            Reply::Policy,
                            "connections from before a change of the volume are ending",
                        ));
                    }
                }
                Some(held) => {
                    held.sockets.push(socket.clone());
                    return Ok(held.lease.clone());
                }
                None => {
                    let lease = self.attach(volume).map_err(|e| refusal(&e))?;
                    all.insert(volume.id(), Held { lease: lease.clone(), sockets: vec![socket.clone()] });
                    return Ok(lease);
                }
            }
        }
    }
    /// The lease of a volume to which nobody is connected.
    fn attach(&self, volume: &Volume) -> Result<Arc<AttachedVolume>> {
        let lent = self.lease.as_ref().map(|of| of(volume)).transpose()?.flatten();
        let lease = match lent {
            Some(lease) => lease,
            None => Arc::new(volume.attach()?),
        };
        // A client that is only now connecting knows no earlier content.
        lease.acknowledge(lease.generation());
        Ok(lease)
    }
}
