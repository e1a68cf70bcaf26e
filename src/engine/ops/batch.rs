//! Operations on volumes and snapshots: what may be asked, checked against the catalog, then logged and applied as one.

use crate::{
    Error, ErrorKind, Result,
    codec::{self, ENVELOPE, Kind},
    engine::{
        change::{Attempt, Claim, Room},
        staging::Staged,
        state::{Engine, State, Target, blocks_of, deleted},
    },
    log::{DeleteMode, Op, Placed, check_name, check_size, tag_chunks},
    units::BLOCK_BYTES,
};
use smallvec::smallvec;
use std::collections::{BTreeMap, HashMap, HashSet};

type Tags = BTreeMap<String, String>;

/// An operation as asked for, before it is checked. Ids of what is to be made were drawn before.
#[derive(Clone, Debug)]
pub(crate) enum Wish {
    CreateVolume {
        id: u64,
        name: String,
        size: u64,
        tags: Tags,
    },
    Snapshot {
        members: Vec<(u64, u64, String)>,
        tags: Tags,
    },
    Rollback {
        volume: u64,
        snapshot: u64,
        keep_size: bool,
    },
    Clone {
        snapshot: u64,
        id: u64,
        name: String,
        tags: Tags,
    },
    /// `None`: refuse if there are snapshots.
    DeleteVolume {
        volume: u64,
        mode: Option<DeleteMode>,
    },
    DeleteSnapshot {
        snapshot: u64,
    },
    RenameVolume {
        volume: u64,
        name: String,
    },
    RenameSnapshot {
        snapshot: u64,
        name: String,
    },
    Resize {
        volume: u64,
        size: u64,
    },
    SetTags {
        snapshot: bool,
        id: u64,
        tags: Tags,
    },
    /// Sets or removes one tag of a snapshot and leaves the others as they are at that moment.
    SetSnapshotTag {
        snapshot: u64,
        key: String,
        value: Option<String>,
    },
}

#[derive(Clone)]
struct VolumeSeen {
    name: String,
    size: u64,
    snapshots: u64,
    /// Not in the catalog yet, or its tree is not what the catalog says: nothing of it can be read.
    fresh: bool,
}
#[derive(Clone)]
struct SnapshotSeen {
    volume: u64,
    name: String,
    size: u64,
    fresh: bool,
}

/// The catalog with earlier wishes of the same update applied.
struct Overlay<'a> {
    state: &'a mut State,
    volumes: HashMap<u64, Option<VolumeSeen>>,
    snapshots: HashMap<u64, Option<SnapshotSeen>>,
    volume_names: HashMap<String, Option<u64>>,
    snapshot_names: HashMap<(u64, String), Option<u64>>,
    /// Volumes that were deleted with their snapshots.
    swept: HashSet<u64>,
    /// Snapshots that the update makes: volume, id, size in bytes.
    made: Vec<(u64, u64, u64)>,
}

/// What an update made, as of the moment at which it was applied.
#[derive(Debug)]
pub(crate) struct Committed {
    /// The group that makes it durable.
    target: u64,
    /// By the host's clock, in nanoseconds since the Unix epoch.
    pub(crate) created: u64,
    /// Volume, id and size in bytes of each new snapshot, in order.
    pub(crate) snapshots: Vec<(u64, u64, u64)>,
}

/// A cut in the middle of a block: the volume whose block at `size` must be zero from there on, and what it is read from.
pub(crate) struct EdgeNeed {
    pub(crate) target: Target,
    pub(crate) size: u64,
}

impl Overlay<'_> {
    fn volume(&mut self, id: u64) -> Result<VolumeSeen> {
        if let Some(seen) = self.volumes.get(&id) {
            return seen.clone().ok_or_else(|| deleted(Target::Volume(id)));
        }
        let r = self.state.head(id)?;
        Ok(VolumeSeen { name: r.name.clone(), size: r.size, snapshots: r.snapshots, fresh: false })
    }
    fn snapshot(&mut self, id: u64) -> Result<SnapshotSeen> {
        if let Some(seen) = self.snapshots.get(&id) {
            return seen.clone().ok_or_else(|| deleted(Target::Snapshot(id)));
        }
        let r = self.state.frozen_head(id)?;
        let seen = SnapshotSeen { volume: r.volume, name: r.name.clone(), size: r.size, fresh: false };
        if self.swept.contains(&seen.volume) {
            return Err(deleted(Target::Snapshot(id)));
        }
        Ok(seen)
    }
    fn free_volume_name(&mut self, name: &str) -> Result<()> {
        check_name(name)?;
        let taken = match self.volume_names.get(name) {
            Some(id) => id.is_some(),
            None => self.state.catalog_view().volume_named(name)?.is_some(),
        };
        if taken { Err(Error::new(ErrorKind::Exists, format!("volume {name:?} exists"))) } else { Ok(()) }
    }
    fn free_snapshot_name(&mut self, volume: u64, name: &str) -> Result<()> {
        check_name(name)?;
        let taken = match self.snapshot_names.get(&(volume, name.to_owned())) {
            Some(id) => id.is_some(),
            None => self.state.catalog_view().snapshot_named(volume, name)?.is_some(),
        };
        if taken {
            return Err(Error::new(ErrorKind::Exists, format!("volume {volume} has a snapshot {name:?}")));
        }
        Ok(())
    }
    fn add_volume(&mut self, id: u64, name: &str, size: u64) {
        self.volume_names.insert(name.to_owned(), Some(id));
        let seen = VolumeSeen { name: name.to_owned(), size, snapshots: 0, fresh: true };
        self.volumes.insert(id, Some(seen));
    }

    /// Checks a wish against everything before it; gives the operation and, where a size cuts a block in two, which.
    fn check(&mut self, wish: &Wish, now: u64) -> Result<(Op, Option<EdgeNeed>)> {
        let mut edge = None;
        let op = match wish.clone() {
            Wish::CreateVolume { id, name, size, tags } => {
                check_size(size)?;
                tag_chunks(&tags)?;
                self.free_volume_name(&name)?;
                self.add_volume(id, &name, size);
                Op::CreateVolume { id, name, size, created: now, tags }
            }
            Wish::Snapshot { members, tags } => {
                tag_chunks(&tags)?;
                for (volume, id, name) in &members {
                    let mut seen = self.volume(*volume)?;
                    self.free_snapshot_name(*volume, name)?;
                    self.snapshot_names.insert((*volume, name.clone()), Some(*id));
                    self.made.push((*volume, *id, seen.size));
                    let snapshot = SnapshotSeen { volume: *volume, name: name.clone(), size: seen.size, fresh: true };
                    self.snapshots.insert(*id, Some(snapshot));
                    seen.snapshots = seen.snapshots.saturating_add(1);
                    self.volumes.insert(*volume, Some(seen));
                }
                Op::Snapshot { members, created: now, tags }
            }
            Wish::Rollback { volume, snapshot, keep_size } => {
                let mut seen = self.volume(volume)?;
                let target = self.snapshot(snapshot)?;
                if target.volume != volume {
                    return Err(Error::invalid(format!(
                        "snapshot {snapshot} is of volume {}, not of volume {volume}: clone it instead",
                        target.volume
                    )));
                }
                let size = if keep_size { seen.size } else { target.size };
                if size < target.size && !size.is_multiple_of(BLOCK_BYTES) {
                    if target.fresh {
                        return Err(Error::invalid("a snapshot of the same update can't be cut inside a block"));
                    }
                    edge = Some(EdgeNeed { target: Target::Snapshot(snapshot), size });
                }
                (seen.size, seen.fresh) = (size, true);
                self.volumes.insert(volume, Some(seen));
                Op::Rollback { volume, snapshot, size, edge: None }
            }
            Wish::Clone { snapshot, id, name, tags } => {
                tag_chunks(&tags)?;
                let origin = self.snapshot(snapshot)?;
                self.free_volume_name(&name)?;
                self.add_volume(id, &name, origin.size);
                Op::Clone { snapshot, id, name, created: now, tags }
            }
            Wish::DeleteVolume { volume, mode } => {
                let seen = self.volume(volume)?;
                if mode.is_none() && seen.snapshots > 0 {
                    return Err(Error::invalid(format!(
                        "volume {:?} has {} snapshots: say whether they stay or go too",
                        seen.name, seen.snapshots
                    )));
                }
                self.volume_names.insert(seen.name, None);
                self.volumes.insert(volume, None);
                if mode == Some(DeleteMode::Sweep) {
                    for s in self.snapshots.values_mut().filter(|s| s.as_ref().is_some_and(|s| s.volume == volume)) {
                        *s = None;
                    }
                    self.swept.insert(volume);
                }
                Op::DeleteVolume { volume, mode: mode.unwrap_or(DeleteMode::Keep) }
            }
            Wish::DeleteSnapshot { snapshot } => {
                let seen = self.snapshot(snapshot)?;
                if let Ok(mut v) = self.volume(seen.volume) {
                    v.snapshots = v.snapshots.saturating_sub(1);
                    self.volumes.insert(seen.volume, Some(v));
                }
                self.snapshot_names.insert((seen.volume, seen.name), None);
                self.snapshots.insert(snapshot, None);
                Op::DeleteSnapshot { snapshot }
            }
            Wish::RenameVolume { volume, name } => {
                let mut seen = self.volume(volume)?;
                if seen.name != name {
                    self.free_volume_name(&name)?;
                }
                self.volume_names.insert(seen.name.clone(), None);
                self.volume_names.insert(name.clone(), Some(volume));
                seen.name.clone_from(&name);
                self.volumes.insert(volume, Some(seen));
                Op::RenameVolume { volume, name }
            }
            Wish::RenameSnapshot { snapshot, name } => {
                let mut seen = self.snapshot(snapshot)?;
                if seen.name != name {
                    self.free_snapshot_name(seen.volume, &name)?;
                }
                self.snapshot_names.insert((seen.volume, seen.name.clone()), None);
                self.snapshot_names.insert((seen.volume, name.clone()), Some(snapshot));
                seen.name.clone_from(&name);
                self.snapshots.insert(snapshot, Some(seen));
                Op::RenameSnapshot { snapshot, name }
            }
            Wish::Resize { volume, size } => {
                check_size(size)?;
                let mut seen = self.volume(volume)?;
                if size < seen.size && !size.is_multiple_of(BLOCK_BYTES) {
                    if seen.fresh {
                        return Err(Error::invalid("a volume made in the same update can't be cut inside a block"));
                    }
                    edge = Some(EdgeNeed { target: Target::Volume(volume), size });
                }
                // What was cut off must not come back through a second cut of the same update.
                seen.fresh |= size < seen.size;
                seen.size = size;
                self.volumes.insert(volume, Some(seen));
                Op::Resize { volume, size, edge: None }
            }
            Wish::SetTags { snapshot, id, tags } => {
                tag_chunks(&tags)?;
                if snapshot {
                    self.snapshot(id)?;
                } else {
                    self.volume(id)?;
                }
                Op::SetTags { snapshot, id, tags }
            }
            Wish::SetSnapshotTag { snapshot, key, value } => {
                if self.snapshot(snapshot)?.fresh {
                    return Err(Error::invalid("a snapshot of the same update has the tags that it is made with"));
                }
                let mut tags = self.state.catalog_view().tags(true, snapshot)?;
                match value {
                    Some(value) => tags.insert(key, value),
                    None => tags.remove(&key),
                };
                tag_chunks(&tags)?;
                Op::SetTags { snapshot: true, id: snapshot, tags }
            }
        };
        Ok((op, edge))
    }
}

impl Engine {
    /// Makes all wishes one record, or none; `durable`: on disk before this returns.
    pub(crate) fn commit(&self, wishes: &[Wish], durable: bool) -> Result<Committed> {
        // The edge blocks of shrinking volumes, as last read: what was read, and the new content.
        let mut edges: Vec<Option<(Target, u64, EdgeBlock<'_>)>> = Vec::new();
        let mut room = Room::default();
        self.fetch_names(wishes)?;
        let committed = loop {
            self.make_room(&mut room)?;
            match self.change(&mut room, |state, any| self.try_commit(state, any, wishes, &edges))? {
                Some(Ok(committed)) => break committed,
                Some(Err(needs)) => edges = self.read_edges(needs)?,
                None => edges.clear(),
            }
        };
        if durable {
            self.flush_to(committed.target)?;
        } else {
            self.relieve_after(&room)?;
        }
        Ok(committed)
    }

    /// Reads the leaves for new names before the lock is taken: names are scattered over the catalog by their hash, so that nearly every one
    /// of many needs a leaf that is not in memory.
    fn fetch_names(&self, wishes: &[Wish]) -> Result<()> {
        let fetch = |volume, name: &str| self.lookup(|state| state.catalog_view().at_hand(volume, name));
        for wish in wishes {
            match wish {
                Wish::CreateVolume { name, .. } | Wish::Clone { name, .. } | Wish::RenameVolume { name, .. } => {
                    fetch(None, name)?;
                }
                Wish::Snapshot { members, .. } => {
                    members.iter().try_for_each(|(id, _, name)| fetch(Some(*id), name))?
                }
                _ => {}
            }
        }
        Ok(())
    }

    #[allow(clippy::type_complexity, reason = "outcome or what must be read first")]
    fn try_commit(
        &self,
        state: &mut State,
        any: bool,
        wishes: &[Wish],
        edges: &[Option<(Target, u64, EdgeBlock<'_>)>],
    ) -> Result<Attempt<Result<Committed, Vec<Option<EdgeNeed>>>>> {
        let now = self.host.now();
        let mut overlay = Overlay {
            state,
            volumes: HashMap::new(),
            snapshots: HashMap::new(),
            volume_names: HashMap::new(),
            snapshot_names: HashMap::new(),
            swept: HashSet::new(),
            made: Vec::new(),
        };
        let mut ops = Vec::new();
        let mut needs = Vec::new();
        for wish in wishes {
            let (op, need) = overlay.check(wish, now)?;
            ops.push(op);
            needs.push(need);
        }
        let snapshots = overlay.made;
        for op in &ops {
            op.validate()?;
            state.check_new(op)?;
        }
        if ops.is_empty() {
            return Ok(Attempt::Done(Ok(Committed { target: state.log.target(), created: now, snapshots })));
        }
        // Blocks that a new size cuts in two: read outside the lock, still what the tree says, or read again.
        let mut wanted = 0;
        for (i, need) in needs.iter().enumerate() {
            let Some(need) = need else { continue };
            let Some(Some((_, size, block))) = edges.get(i) else { return Ok(Attempt::Done(Err(needs))) };
            let root = state.extent_root(need.target)?.0;
            let mapped = state.forest.now(|n| crate::tree::read_block(n, root, need.size / BLOCK_BYTES))?;
            if *size != need.size || mapped != block.mapped {
                return Ok(Attempt::Done(Err(needs)));
            }
            wanted += u64::from(mapped.is_some());
        }
        let nodes = ops.iter().map(|o| state.nodes_for(o)).sum::<Result<usize>>()?;
        if let Some(lack) = state.reserve(claim_of(wishes), nodes, wanted)? {
            return Ok(Attempt::Space(lack));
        }
        let Some(mut runs) = state.allocate_data(wanted, any)? else { return Ok(Attempt::Space(wanted)) };
        let mut staged = Vec::new();
        for (i, op) in ops.iter_mut().enumerate() {
            let (Some(Some((_, size, block))), true) = (edges.get(i), needs[i].is_some()) else { continue };
            if block.mapped.is_none() {
                continue;
            }
            let run = runs.last_mut().expect("allocated one for each");
            let at = run.start;
            (run.start, run.len) = (run.start.plus(1), run.len - 1);
            if run.len == 0 {
                runs.pop();
            }
            let placed = Placed {
                block: size / BLOCK_BYTES,
                runs: smallvec![(at.0, 1)],
                sums: smallvec![crc32fast::hash(&block.data)],
            };
            staged.push((at, block.data.clone()));
            match op {
                Op::Rollback { edge, .. } | Op::Resize { edge, .. } => *edge = Some(placed),
                _ => {}
            }
        }
        let record = match codec::encode(Kind::Log, &ops) {
            Ok(record) => record,
            Err(e) => {
                staged.iter().for_each(|s| state.forest.space.give_back(crate::space::Run { start: s.0, len: 1 }));
                return Err(e);
            }
        };
        if !state.log.fits(record.len()) {
            staged.iter().for_each(|s| state.forest.space.give_back(crate::space::Run { start: s.0, len: 1 }));
            self.log_room(record.len())?;
            return Ok(Attempt::Log);
        }
        let hashes: Vec<u64> = staged.iter().map(|s| self.data_hash(&s.1)).collect();
        for (at, data) in staged {
            state.staging.add(at, Staged { data, offset: 0, blocks: 1 });
        }
        state.log.append(&record, hashes);
        self.applied(ops.iter().try_for_each(|op| state.apply(op)))?;
        Ok(Attempt::Done(Ok(Committed { target: state.log.target(), created: now, snapshots })))
    }

    /// A record that can't ever fit the ring is the caller's to make shorter.
    pub(crate) fn log_room(&self, bytes: usize) -> Result<()> {
        let most = (self.config.log_pages as usize - 2) * crate::format::LOG_PAYLOAD;
        if bytes > most {
            return Err(Error::invalid(format!("a record of {} bytes: the log holds {most}", bytes + ENVELOPE)));
        }
        Ok(())
    }

    /// An operation that failed after it was logged: nothing may be written any more.
    pub(crate) fn applied(&self, result: Result<()>) -> Result<()> {
        if let Err(e) = &result {
            self.disk.poison(e.clone().at("an operation that the log already had could not be applied"));
        }
        result
    }

    fn read_edges(&self, needs: Vec<Option<EdgeNeed>>) -> Result<Vec<Option<(Target, u64, EdgeBlock<'_>)>>> {
        needs
            .into_iter()
            .map(|need| {
                let Some(EdgeNeed { target, size }) = need else { return Ok(None) };
                let mut block = self.read_edge(target, blocks_of(size, 1).0)?;
                let mut data = block.data.to_vec();
                data[(size % BLOCK_BYTES) as usize..].fill(0);
                block.data = data.into();
                Ok(Some((target, size, block)))
            })
            .collect()
    }
}

/// A block that is to be changed in part: where it was when it was read, and its content.
pub(crate) struct EdgeBlock<'a> {
    pub(crate) mapped: Option<(crate::units::Block, u32)>,
    pub(crate) data: std::sync::Arc<[u8]>,
    /// Keeps `mapped` from meaning another content by the time it is compared.
    pub(crate) _hold: Option<crate::space::Hold<'a>>,
}

fn claim_of(wishes: &[Wish]) -> Claim {
    let frees = |w: &Wish| {
        matches!(
            w,
            Wish::Rollback { .. } | Wish::DeleteVolume { .. } | Wish::DeleteSnapshot { .. } | Wish::Resize { .. }
        )
    };
    if wishes.iter().all(frees) { Claim::Freeing } else { Claim::Ordinary }
}
