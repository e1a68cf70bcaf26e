//! The four snapshot actions.

use super::{
    code::{Fault, RetCode, shorten},
    index::{Index, Snap, SnapState, Work, gib, page},
    record::SnapRecord,
    service::{SnapshotService, Undo, idle, seconds, settle},
    tenant::{Caller, Directory, Scope},
    types::{
        CreateSnapshot, CreateSnapshotResponse, DeleteSnapshot, DescribeSnapshot, DescribeSnapshotResponse, Done,
        RollbackSnapshot, SnapshotInfo, SnapshotType,
    },
    validate::{self, Keyword, given, required},
};
use crate::{ErrorKind, SnapshotId, VolumeId};
use std::sync::atomic::Ordering::Relaxed;

impl SnapshotService {
    /// CreateSnapshot. Every write to the disk that returned before the call is in the snapshot. Durable on return.
    pub fn create_snapshot(&self, caller: &Caller, r: &CreateSnapshot) -> Result<CreateSnapshotResponse, Fault> {
        required(&[("Region", &r.region), ("Name", &r.name), ("DiskID", &r.disk_id)])?;
        validate::named_project(caller, r.project_id.as_deref())?;
        validate::name(&r.name)?;
        validate::at_most("Remark", r.remark.as_deref(), 100)?;
        validate::member(r.member_id)?;
        let directory = self.directory();
        let scope = directory.scope(caller, &r.region, r.company_id)?;
        let project = given(r.project_id.as_deref());
        directory.known_project(caller, scope.company, project)?;
        let kind = r.kind.unwrap_or_default();

        let (disk, record, bytes, disk_kind) = {
            let mut index = self.index_mut();
            let disk = index.find_disk(&scope, &r.disk_id).ok_or_else(|| Fault::not_found("DiskID", &r.disk_id))?;
            let (key, company, bytes) = (disk.key, disk.record.company, disk.bytes);
            let disk_kind = disk.record.kind;
            let (region, disk_id) = (disk.record.region.clone(), disk.record.id.clone());
            let project = match project {
                Some(_) => directory.project(caller, company, project)?,
                None => disk.record.project.to_string(),
            };
            let member = directory.owner(caller, company, r.member_id)?;
            idle(disk)?;
            let most = directory.limits(company).snapshots_per_disk;
            if kind == SnapshotType::Manual && most > 0 && disk.manual >= most {
                // The message does not say how many there are: the caller may not see all of them.
                let message = format!("DiskID: {disk_id:?} may not have more manual snapshots; the limit is {most}");
                return Err(Fault::new(RetCode::SnapshotLimit, message));
            }
            let record = SnapRecord {
                id: self.fresh_id("disksnapshot-").into(),
                region,
                company,
                project: index.intern(&project),
                member,
                name: r.name.as_str().into(),
                remark: r.remark.as_deref().unwrap_or("").into(),
                kind,
                disk: disk_id,
                schedule: None,
                damaged: false,
            };
            if let Some(disk) = index.disk_mut(key) {
                disk.work = Some(Work::Snapshoting);
            }
            (key, record, bytes, disk_kind)
        };
        let mut claims = self.claims(vec![Undo::Disk(disk)]);
        let id = record.id.to_string();
        let volume = self.store().volume_by_id(VolumeId(disk))?;
        let undo = &mut claims.undo;
        let key = self.store().update(|tx| {
            let key = tx.snapshot(&volume, &id, record.tags())?.0;
            undo.push(Undo::Create(key));
            let state = SnapState::Createing;
            let created = self.now();
            self.index_mut().add_snap(Snap { record, key, volume: disk, disk_kind, bytes, created, state, copies: 0 });
            Ok(key)
        })?;
        self.created(key);
        Ok(CreateSnapshotResponse { snapshot_id: id })
    }

    /// Settles a snapshot once it is durable: it is what the store says.
    pub(super) fn created(&self, key: u64) {
        let handle = self.store().snapshot_by_id(SnapshotId(key));
        let mut index = self.index_mut();
        settle(&mut index, key);
        if let (Ok(handle), Some(snap)) = (handle, index.snap_mut(key)) {
            (snap.bytes, snap.created) = (handle.size(), seconds(handle.created()));
        }
    }

    /// DescribeSnapshot.
    pub fn describe_snapshot(&self, caller: &Caller, r: &DescribeSnapshot) -> Result<DescribeSnapshotResponse, Fault> {
        required(&[("Region", &r.region)])?;
        let (offset, limit) = validate::paging(r.offset, r.limit)?;
        validate::member(r.member_id)?;
        let projects = validate::array("ProjectIDs", r.project_ids.as_deref())?;
        let ids = validate::array("SnapshotIDs", r.snapshot_ids.as_deref())?;
        let directory = self.directory();
        let scope = directory.scope(caller, &r.region, r.company_id)?;
        let keyword = given(r.keyword.as_deref()).map(Keyword::new);
        let disk_id = given(r.disk_id.as_deref());
        let wanted = |s: &Snap| {
            let x = &s.record;
            scope.sees(&x.region, x.company, &x.project)
                && projects.as_ref().is_none_or(|list| list.iter().any(|p| **p == *x.project))
                && disk_id.is_none_or(|id| *id == *x.disk)
                && r.member_id.is_none_or(|m| m == x.member)
                && keyword.as_ref().is_none_or(|k| k.matches(&x.name) || k.matches(&x.remark))
        };
        if ids.is_some() {
            self.forget_reclaimed();
        }

        let index = self.inner.index.read();
        if let Some(ids) = ids {
            let mut found: Vec<&Snap> = ids
                .iter()
                .filter_map(|id| match index.snap_key(id) {
                    Some(key) => index.snap(key),
                    None => index.find_released(id),
                })
                .filter(|s| wanted(s))
                .collect();
            found.sort_unstable_by_key(|s| s.key);
            found.dedup_by_key(|s| s.key);
            self.inner.visited.fetch_add(found.len() as u64, Relaxed);
            let infos = found.iter().skip(offset).take(limit).map(|s| info(&index, &directory, s)).collect();
            return Ok(DescribeSnapshotResponse { total_count: found.len() as u64, infos });
        }
        // Only these may match; if there is nothing else to compare, all of them do.
        let plain = r.member_id.is_none() && keyword.is_none();
        let (lists, exact) = match disk_id {
            Some(id) => {
                let disk = index.disk_key(id).and_then(|key| index.disk(key));
                let disk = disk.filter(|d| scope.company.is_none_or(|c| c == d.record.company));
                let disk = disk.filter(|d| *d.record.region == *scope.region);
                let list = disk.map_or(&[][..], |d| d.snapshots.keys());
                (vec![list], plain && scope.projects.is_none() && projects.is_none())
            }
            None => match index.exact_snaps(&scope, projects.as_deref()).filter(|_| plain) {
                Some(lists) => (lists, true),
                None => (vec![index.all_snaps(&scope)], false),
            },
        };
        let (total, keys) = if exact {
            (lists.iter().map(|l| l.len()).sum(), page(&lists, offset, limit))
        } else {
            let mut total = 0;
            let mut keys = Vec::new();
            for &key in lists.into_iter().flatten() {
                self.inner.visited.fetch_add(1, Relaxed);
                if index.snap(key).is_some_and(wanted) {
                    if total >= offset && keys.len() < limit {
                        keys.push(key);
                    }
                    total += 1;
                }
            }
            (total, keys)
        };
        self.inner.visited.fetch_add(keys.len() as u64, Relaxed);
        let infos = keys.iter().filter_map(|&key| index.snap(key)).map(|s| info(&index, &directory, s)).collect();
        Ok(DescribeSnapshotResponse { total_count: total as u64, infos })
    }

    /// RollbackSnapshot. The disk equals the snapshot byte for byte; one that has grown since keeps its size and reads
    /// zeros beyond the snapshot's. Durable on return; after a crash the disk is wholly old or wholly new.
    pub fn rollback_snapshot(&self, caller: &Caller, r: &RollbackSnapshot) -> Result<Done, Fault> {
        required(&[("Region", &r.region), ("DiskID", &r.disk_id), ("SnapshotID", &r.snapshot_id)])?;
        validate::member(r.member_id)?;
        let scope = self.directory().scope(caller, &r.region, r.company_id)?;
        let (disk, key, bound, attached) = {
            let mut index = self.index_mut();
            let disk = index.find_disk(&scope, &r.disk_id).ok_or_else(|| Fault::not_found("DiskID", &r.disk_id))?;
            let snap = find(&index, &scope, &r.snapshot_id)?;
            if snap.volume != disk.key {
                let message = format!("SnapshotID: {:?} is not of DiskID {:?}", r.snapshot_id, r.disk_id);
                return Err(Fault::new(RetCode::Contradiction, message));
            }
            if snap.state != SnapState::Normal {
                return Err(state_fault(snap, "Normal"));
            }
            idle(disk)?;
            if let Some(bound) = disk.record.bound.as_ref().filter(|b| !index.stopped.contains(&b.id)) {
                let message = format!("DiskID: {:?} is bound to {} {:?}, which runs", r.disk_id, bound.kind, bound.id);
                return Err(Fault::new(RetCode::VmRunning, message));
            }
            let (bound, attached) = (disk.record.bound.is_some(), disk.attached.is_some());
            let (disk, key) = (disk.key, snap.key);
            if let Some(disk) = index.disk_mut(disk) {
                disk.work = Some(Work::Rollbacking);
            }
            if let Some(snap) = index.snap_mut(key) {
                snap.state = SnapState::RollBacking;
            }
            (disk, key, bound, attached)
        };
        let _claims = self.claims(vec![Undo::Disk(disk), Undo::RollBack(key)]);
        let store = self.store();
        let (volume, snapshot) = (store.volume_by_id(VolumeId(disk))?, store.snapshot_by_id(SnapshotId(key))?);
        // The service's own attachment yields: a VM that is said to be shut down and still writes has its requests refused.
        let rolled = match attached {
            true => volume.forced().rollback_keep_size(&snapshot),
            false => volume.rollback_keep_size(&snapshot),
        };
        match rolled {
            Err(e) if e.kind() == ErrorKind::Busy && bound => {
                let message = format!("DiskID: {:?} is attached by a VM that runs", r.disk_id);
                Err(Fault::new(RetCode::VmRunning, message))
            }
            Err(e) => Err(e.into()),
            Ok(()) => Ok(Done {}),
        }
    }

    /// DeleteSnapshot. Final; frees exactly what nothing else refers to. Durable on return.
    pub fn delete_snapshot(&self, caller: &Caller, r: &DeleteSnapshot) -> Result<Done, Fault> {
        required(&[("Region", &r.region), ("SnapshotID", &r.snapshot_id)])?;
        validate::member(r.member_id)?;
        let directory = self.directory();
        let scope = directory.scope(caller, &r.region, r.company_id)?;
        let key = {
            let mut index = self.index_mut();
            let snap = find(&index, &scope, &r.snapshot_id)?;
            if !directory.limits(snap.record.company).delete_snapshots {
                return Err(Fault::new(RetCode::DeletionOff, "deletion of snapshots is switched off by the admin"));
            }
            deletable(snap)?;
            let key = snap.key;
            if let Some(snap) = index.snap_mut(key) {
                snap.state = SnapState::Leaving;
            }
            index.hide(key, true);
            key
        };
        let _claims = self.claims(vec![Undo::Leave(key)]);
        let store = self.store();
        let deleted = store.snapshot_by_id(SnapshotId(key)).and_then(|s| store.delete_snapshot(&s));
        match deleted {
            Ok(()) => {}
            // Its disk was deleted meanwhile with all its snapshots, or an earlier deletion did not reach the disk.
            Err(e) if e.kind() == ErrorKind::Deleted => store.flush()?,
            Err(e) => return Err(e.into()),
        }
        let mut index = self.index_mut();
        if let Some(snap) = index.remove_snap(key) {
            index.release(snap);
        }
        Ok(Done {})
    }
}

pub(super) fn find<'a>(index: &'a Index, scope: &Scope, id: &str) -> Result<&'a Snap, Fault> {
    index.find_snap(scope, id).ok_or_else(|| Fault::not_found("SnapshotID", id))
}

pub(super) fn state_fault(snap: &Snap, want: &str) -> Fault {
    let message = format!("SnapshotID: {:?} is {:?}; it must be {want}", shorten(&snap.record.id), snap.status());
    Fault::new(RetCode::SnapshotState, message)
}

/// Checks that nothing is being done to the snapshot, or made from it.
pub(super) fn deletable(snap: &Snap) -> Result<(), Fault> {
    if matches!(snap.state, SnapState::Createing | SnapState::RollBacking) {
        return Err(state_fault(snap, "Normal or Failure"));
    }
    unused(snap)
}

/// Checks that nothing is being made from the snapshot.
pub(super) fn unused(snap: &Snap) -> Result<(), Fault> {
    if snap.copies > 0 {
        let message = format!("SnapshotID: a disk is being made from {:?}", &*snap.record.id);
        return Err(Fault::new(RetCode::SnapshotInUse, message));
    }
    Ok(())
}

fn info(index: &Index, directory: &Directory, snap: &Snap) -> SnapshotInfo {
    let r = &snap.record;
    let disk = index.disk(snap.volume);
    let bound = disk.and_then(|d| d.record.bound.as_ref());
    SnapshotInfo {
        region: r.region.to_string(),
        name: r.name.to_string(),
        remark: r.remark.to_string(),
        company_id: r.company,
        project_id: r.project.to_string(),
        project_name: directory.project_name(r.company, &r.project),
        snapshot_id: r.id.to_string(),
        snapshot_status: snap.status(),
        kind: r.kind,
        disk_id: r.disk.to_string(),
        disk_type: snap.disk_kind,
        disk_attach_resource_id: bound.map_or_else(String::new, |b| b.id.clone()),
        disk_attach_resource_type: bound.map_or_else(String::new, |b| b.kind.clone()),
        create_time: snap.created,
        snapshot_size: gib(snap.bytes),
        email: directory.email(r.company, r.member),
    }
}
