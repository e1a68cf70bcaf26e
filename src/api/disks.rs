//! The disk actions that the snapshot actions need.

use super::{
    code::{Fault, RetCode},
    disktypes::{
        AttachDisk, CloneDisk, CreateDisk, CreateDiskFromSnapshot, DeleteDisk, DescribeDisk, DescribeDiskResponse,
        DescribeRegionResponse, DetachDisk, DiskIdResponse, DiskInfo, DiskStatus, RegionInfo, UpgradeDisk,
    },
    index::{Disk, Snap, SnapState, Work, gib, page},
    record::{Bound, DiskRecord, Tags},
    service::{Claims, SnapshotService, Undo, idle, quota, seconds},
    snapshots::{find, state_fault, unused},
    tenant::{Caller, Directory, Scope},
    types::{DiskType, Done},
    validate::{self, Keyword, given, required},
};
use crate::{AttachedVolume, DeleteSnapshots, ErrorKind, SnapshotId, Update, Volume, VolumeId};
use std::sync::Arc;

const GIB: u64 = 1 << 30;

/// The properties of a new disk, whatever it is made from.
struct Plan<'a> {
    name: &'a str,
    remark: Option<&'a str>,
    member: i64,
    region: &'a str,
    company: i64,
    project: String,
    kind: DiskType,
    set_type: String,
    charge_type: String,
    gib: u64,
}

impl SnapshotService {
    /// DescribeRegion.
    pub fn describe_region(&self) -> DescribeRegionResponse {
        let directory = self.directory();
        let infos = directory.regions.iter();
        let infos: Vec<_> = infos.map(|r| RegionInfo { region: r.id.clone(), region_alias: r.alias.clone() }).collect();
        DescribeRegionResponse { total_count: infos.len() as u64, infos }
    }

    /// CreateDisk.
    pub fn create_disk(&self, caller: &Caller, r: &CreateDisk) -> Result<DiskIdResponse, Fault> {
        required(&[("Region", &r.region), ("Name", &r.name)])?;
        validate::named_project(caller, r.project_id.as_deref())?;
        // An admin's disk belongs to the company that the request names, or to the admin's own.
        let company = if caller.admin { r.company_id.or(caller.company) } else { caller.company };
        let company = company.ok_or_else(|| Fault::missing("CompanyID"))?;
        new_texts(&r.name, r.remark.as_deref(), r.member_id)?;
        validate::at_most("SetType", r.set_type.as_deref(), 64)?;
        validate::at_most("ChargeType", r.charge_type.as_deref(), 64)?;
        let gib = disk_space(r.disk_space)?;
        let directory = self.directory();
        directory.scope(caller, &r.region, Some(company))?;
        let project = directory.project(caller, company, given(r.project_id.as_deref()))?;
        let plan = Plan {
            name: &r.name,
            remark: r.remark.as_deref(),
            member: directory.owner(caller, company, r.member_id)?,
            region: &r.region,
            company,
            project,
            kind: r.disk_type.unwrap_or_default(),
            set_type: r.set_type.clone().unwrap_or_default(),
            charge_type: r.charge_type.clone().unwrap_or_default(),
            gib,
        };
        self.charge(&directory, &plan)?;
        let claims = self.claims(vec![Undo::Charge(company, 1, gib as i64)]);
        self.make(claims, plan, |tx, id, tags| tx.create_volume(id, gib * GIB, tags))
    }

    /// CloneDisk.
    pub fn clone_disk(&self, caller: &Caller, r: &CloneDisk) -> Result<DiskIdResponse, Fault> {
        required(&[("Region", &r.region), ("SrcID", &r.src_id), ("Name", &r.name)])?;
        new_texts(&r.name, r.remark.as_deref(), r.member_id)?;
        let directory = self.directory();
        let scope = directory.scope(caller, &r.region, r.company_id)?;
        let project = given(r.project_id.as_deref());
        directory.known_project(caller, scope.company, project)?;
        let (key, plan) = {
            let mut index = self.index_mut();
            let disk = index.find_disk(&scope, &r.src_id).ok_or_else(|| Fault::not_found("SrcID", &r.src_id))?;
            let source = &disk.record;
            let project = match project {
                Some(_) => directory.project(caller, source.company, project)?,
                None => source.project.to_string(),
            };
            let member = directory.owner(caller, source.company, r.member_id)?;
            unbound(disk)?;
            let plan = Plan {
                name: &r.name,
                remark: r.remark.as_deref(),
                member,
                region: &r.region,
                company: source.company,
                project,
                kind: source.kind,
                set_type: source.set_type.clone(),
                charge_type: source.charge_type.clone(),
                gib: gib(disk.bytes),
            };
            let (key, used) = (disk.key, index.used(plan.company));
            quota(&directory.limits(plan.company), used, 1, plan.gib)?;
            index.charge(plan.company, 1, plan.gib as i64);
            if let Some(disk) = index.disk_mut(key) {
                disk.work = Some(Work::BeingCloned);
            }
            (key, plan)
        };
        let claims = self.claims(vec![Undo::Charge(plan.company, 1, plan.gib as i64), Undo::Disk(key)]);
        let source = self.store().volume_by_id(VolumeId(key))?;
        // The store clones snapshots: one is taken and deleted in the same record.
        let between = self.fresh_id("clone-");
        self.make(claims, plan, |tx, id, tags| {
            let snapshot = tx.snapshot(&source, &between, Tags::new())?;
            let clone = tx.clone_volume(snapshot, id, tags)?;
            tx.delete_snapshot(snapshot);
            Ok(clone)
        })
    }

    /// CreateDiskFromSnapshot.
    pub fn create_disk_from_snapshot(
        &self,
        caller: &Caller,
        r: &CreateDiskFromSnapshot,
    ) -> Result<DiskIdResponse, Fault> {
        required(&[("Region", &r.region), ("SrcSnapshotID", &r.src_snapshot_id), ("Name", &r.name)])?;
        new_texts(&r.name, r.remark.as_deref(), r.member_id)?;
        let directory = self.directory();
        let scope = directory.scope(caller, &r.region, r.company_id)?;
        let project = given(r.project_id.as_deref());
        directory.known_project(caller, scope.company, project)?;
        let (key, plan) = {
            let mut index = self.index_mut();
            let snap = find(&index, &scope, &r.src_snapshot_id)?;
            let source = &snap.record;
            let project = match project {
                Some(_) => directory.project(caller, source.company, project)?,
                None => source.project.to_string(),
            };
            let member = directory.owner(caller, source.company, r.member_id)?;
            // A rollback only reads the snapshot, and so does this.
            if !matches!(snap.state, SnapState::Normal | SnapState::RollBacking) {
                return Err(state_fault(snap, "Normal"));
            }
            let disk = index.disk(snap.volume).map(|d| &d.record);
            let plan = Plan {
                name: &r.name,
                remark: r.remark.as_deref(),
                member,
                region: &r.region,
                company: source.company,
                project,
                kind: disk.map(|d| d.kind).unwrap_or_default(),
                set_type: disk.map_or_else(String::new, |d| d.set_type.clone()),
                charge_type: disk.map_or_else(String::new, |d| d.charge_type.clone()),
                gib: gib(snap.bytes),
            };
            let key = snap.key;
            quota(&directory.limits(plan.company), index.used(plan.company), 1, plan.gib)?;
            index.charge(plan.company, 1, plan.gib as i64);
            if let Some(snap) = index.snap_mut(key) {
                snap.copies += 1;
            }
            (key, plan)
        };
        let claims = self.claims(vec![Undo::Charge(plan.company, 1, plan.gib as i64), Undo::Copy(key)]);
        self.make(claims, plan, |tx, id, tags| tx.clone_volume(SnapshotId(key), id, tags))
    }

    /// DescribeDisk.
    pub fn describe_disk(&self, caller: &Caller, r: &DescribeDisk) -> Result<DescribeDiskResponse, Fault> {
        required(&[("Region", &r.region)])?;
        let (offset, limit) = validate::paging(r.offset, r.limit)?;
        validate::member(r.member_id)?;
        let projects = validate::array("ProjectIDs", r.project_ids.as_deref())?;
        let ids = validate::array("DiskIDs", r.disk_ids.as_deref())?;
        let directory = self.directory();
        let scope = directory.scope(caller, &r.region, r.company_id)?;
        let keyword = given(r.keyword.as_deref()).map(Keyword::new);
        let wanted = |d: &Disk| {
            let x = &d.record;
            scope.sees(&x.region, x.company, &x.project)
                && projects.as_ref().is_none_or(|list| list.iter().any(|p| **p == *x.project))
                && r.member_id.is_none_or(|m| m == x.member)
                && keyword.as_ref().is_none_or(|k| k.matches(&x.name) || k.matches(&x.remark))
        };
        let index = self.inner.index.read();
        let plain = r.member_id.is_none() && keyword.is_none() && ids.is_none();
        let exact = index.exact_disks(&scope, projects.as_deref()).filter(|_| plain);
        let (total, keys) = match (exact, ids) {
            (Some(lists), _) => (lists.iter().map(|l| l.len()).sum(), page(&lists, offset, limit)),
            (None, ids) => {
                let mut keys = match ids {
                    Some(ids) => ids.iter().filter_map(|id| index.disk_key(id)).collect(),
                    None => index.all_disks(&scope).to_vec(),
                };
                keys.sort_unstable();
                keys.dedup();
                keys.retain(|&key| index.disk(key).is_some_and(wanted));
                (keys.len(), keys.into_iter().skip(offset).take(limit).collect())
            }
        };
        let infos = keys.iter().filter_map(|&key| index.disk(key)).map(|d| info(&directory, d)).collect();
        Ok(DescribeDiskResponse { total_count: total as u64, infos })
    }

    /// AttachDisk.
    pub fn attach_disk(&self, caller: &Caller, r: &AttachDisk) -> Result<Done, Fault> {
        required(&[("Region", &r.region), ("DiskID", &r.disk_id), ("ResourceID", &r.resource_id)])?;
        let kind = resource(&r.resource_id, r.resource_type.as_deref(), r.member_id)?;
        let scope = self.directory().scope(caller, &r.region, r.company_id)?;
        self.bind(&scope, &r.disk_id, |disk| {
            unbound(disk)?;
            Ok(Some(Bound { kind: kind.to_owned(), id: r.resource_id.clone() }))
        })
    }

    /// DetachDisk.
    pub fn detach_disk(&self, caller: &Caller, r: &DetachDisk) -> Result<Done, Fault> {
        required(&[("Region", &r.region), ("DiskID", &r.disk_id), ("ResourceID", &r.resource_id)])?;
        resource(&r.resource_id, r.resource_type.as_deref(), r.member_id)?;
        let scope = self.directory().scope(caller, &r.region, r.company_id)?;
        self.bind(&scope, &r.disk_id, |disk| match &disk.record.bound {
            Some(bound) if bound.id != r.resource_id => {
                let message = format!("DiskID: {:?} is bound to {:?}, not to {:?}", r.disk_id, bound.id, r.resource_id);
                Err(Fault::new(RetCode::Contradiction, message))
            }
            Some(_) => idle(disk).map(|()| None),
            None => Err(Fault::new(RetCode::DiskState, format!("DiskID: {:?} is Unbound", r.disk_id))),
        })
    }

    /// UpgradeDisk.
    pub fn upgrade_disk(&self, caller: &Caller, r: &UpgradeDisk) -> Result<Done, Fault> {
        required(&[("Region", &r.region), ("DiskID", &r.disk_id)])?;
        validate::member(r.member_id)?;
        let bytes = disk_space(r.disk_space)? * GIB;
        let directory = self.directory();
        let scope = directory.scope(caller, &r.region, r.company_id)?;
        let (key, company, more) = {
            let mut index = self.index_mut();
            let disk = index.find_disk(&scope, &r.disk_id).ok_or_else(|| Fault::not_found("DiskID", &r.disk_id))?;
            idle(disk)?;
            if bytes < disk.bytes {
                let message = format!("DiskSpace: {} GiB are less than the disk's {}", r.disk_space, gib(disk.bytes));
                return Err(Fault::new(RetCode::Shrink, message));
            }
            let (key, company, more) = (disk.key, disk.record.company, gib(bytes) - gib(disk.bytes));
            quota(&directory.limits(company), index.used(company), 0, more)?;
            index.charge(company, 0, more as i64);
            if let Some(disk) = index.disk_mut(key) {
                disk.work = Some(Work::Upgrading);
            }
            (key, company, more)
        };
        let mut claims = self.claims(vec![Undo::Disk(key), Undo::Charge(company, 0, more as i64)]);
        self.store().volume_by_id(VolumeId(key))?.resize(bytes)?;
        claims.undo.pop();
        if let Some(disk) = self.index_mut().disk_mut(key) {
            disk.bytes = bytes;
        }
        Ok(Done {})
    }

    /// DeleteDisk.
    pub fn delete_disk(&self, caller: &Caller, r: &DeleteDisk) -> Result<Done, Fault> {
        required(&[("Region", &r.region), ("DiskID", &r.disk_id)])?;
        validate::member(r.member_id)?;
        let directory = self.directory();
        let scope = directory.scope(caller, &r.region, r.company_id)?;
        let key = {
            let mut index = self.index_mut();
            let disk = index.find_disk(&scope, &r.disk_id).ok_or_else(|| Fault::not_found("DiskID", &r.disk_id))?;
            let snapshots = disk.snapshots.keys();
            // A caller can't delete what they may not see, and learns no more of it than that it exists.
            let sees = |s: &Snap| scope.sees(&s.record.region, s.record.company, &s.record.project);
            if !snapshots.iter().filter_map(|&k| index.snap(k)).all(sees) {
                let message = format!("DiskID: {:?} has snapshots in projects that are not the caller's", r.disk_id);
                return Err(Fault::new(RetCode::DiskState, message));
            }
            if !snapshots.is_empty() && !directory.limits(disk.record.company).delete_snapshots {
                let message = "the disk has snapshots, and deletion of snapshots is switched off by the admin";
                return Err(Fault::new(RetCode::DeletionOff, message));
            }
            snapshots.iter().filter_map(|&k| index.snap(k)).try_for_each(unused)?;
            unbound(disk)?;
            let key = disk.key;
            if let Some(disk) = index.disk_mut(key) {
                disk.work = Some(Work::Deleting);
            }
            key
        };
        let _claims = self.claims(vec![Undo::Disk(key)]);
        let store = self.store();
        store.delete_volume(&store.volume_by_id(VolumeId(key))?, DeleteSnapshots::Delete)?;
        self.index_mut().remove_disk(key);
        Ok(Done {})
    }

    fn charge(&self, directory: &Directory, plan: &Plan<'_>) -> Result<(), Fault> {
        let mut index = self.index_mut();
        quota(&directory.limits(plan.company), index.used(plan.company), 1, plan.gib)?;
        index.charge(plan.company, 1, plan.gib as i64);
        Ok(())
    }

    /// Creates a disk in one record. The first claim is its charge, which stays if the disk is created.
    fn make(
        &self,
        mut claims: Claims<'_>,
        plan: Plan<'_>,
        volume: impl FnOnce(&mut Update<'_>, &str, Tags) -> crate::Result<Volume>,
    ) -> Result<DiskIdResponse, Fault> {
        let id = self.fresh_id("disk-");
        let record = {
            let mut index = self.index_mut();
            DiskRecord {
                id: id.as_str().into(),
                region: index.intern(plan.region),
                company: plan.company,
                project: index.intern(&plan.project),
                member: plan.member,
                name: plan.name.to_owned(),
                remark: plan.remark.unwrap_or("").to_owned(),
                kind: plan.kind,
                set_type: plan.set_type,
                charge_type: plan.charge_type,
                bound: None,
                rest: Tags::new(),
            }
        };
        let volume = self.store().update(|tx| volume(tx, &id, record.tags()))?;
        claims.undo.remove(0);
        let created = volume.created().map_or_else(|_| self.now(), seconds);
        let (key, bytes) = (volume.id().0, volume.size().unwrap_or(plan.gib * GIB));
        let disk =
            Disk { record, key, bytes, created, work: None, attached: None, snapshots: Default::default(), manual: 0 };
        self.index_mut().add_disk(disk);
        Ok(DiskIdResponse { disk_id: id })
    }

    /// Changes the attachment of a disk.
    fn bind(
        &self,
        scope: &Scope,
        id: &str,
        change: impl FnOnce(&Disk) -> Result<Option<Bound>, Fault>,
    ) -> Result<Done, Fault> {
        let (key, record) = {
            let mut index = self.index_mut();
            let disk = index.find_disk(scope, id).ok_or_else(|| Fault::not_found("DiskID", id))?;
            let record = DiskRecord { bound: change(disk)?, ..disk.record.clone() };
            let key = disk.key;
            if let Some(disk) = index.disk_mut(key) {
                disk.work = Some(Work::Binding);
            }
            (key, record)
        };
        let _claims = self.claims(vec![Undo::Disk(key)]);
        let volume = self.store().volume_by_id(VolumeId(key))?;
        let mut attached = attachment(&volume, &record)?;
        volume.set_tags(record.tags())?;
        if let Some(disk) = self.index_mut().disk_mut(key) {
            disk.record = record;
            std::mem::swap(&mut disk.attached, &mut attached);
        }
        // The old attachment is released with no lock of the index held.
        drop(attached);
        Ok(Done {})
    }
}

/// Attaches the volume of a bound disk. If another user of the store has attached it, such as a monitor of the embedder, the disk is in use
/// as well, and that user keeps the attachment.
pub(super) fn attachment(volume: &Volume, record: &DiskRecord) -> crate::Result<Option<Arc<AttachedVolume>>> {
    if record.bound.is_none() {
        return Ok(None);
    }
    match volume.attach() {
        Ok(attached) => Ok(Some(Arc::new(attached))),
        Err(e) if e.kind() == ErrorKind::Busy => Ok(None),
        Err(e) => Err(e),
    }
}

fn new_texts(name: &str, remark: Option<&str>, member: Option<i64>) -> Result<(), Fault> {
    validate::name(name)?;
    validate::at_most("Remark", remark, 100)?;
    validate::member(member)
}

fn disk_space(value: i64) -> Result<u64, Fault> {
    match value {
        1..=32000 => Ok(value as u64),
        _ => Err(Fault::format("DiskSpace", value, "from 1 to 32000")),
    }
}

fn resource<'a>(id: &str, kind: Option<&'a str>, member: Option<i64>) -> Result<&'a str, Fault> {
    validate::at_most("ResourceID", Some(id), 128)?;
    validate::member(member)?;
    match given(kind).unwrap_or("VM") {
        "VM" => Ok("VM"),
        other => Err(Fault::format("ResourceType", other, "VM")),
    }
}

/// Checks that the disk is bound to nothing, and that nothing is done to it.
fn unbound(disk: &Disk) -> Result<(), Fault> {
    idle(disk)?;
    match &disk.record.bound {
        None => Ok(()),
        Some(b) => {
            let message =
                format!("DiskID: {:?} is bound to {} {:?}; it must be Unbound", &*disk.record.id, b.kind, b.id);
            Err(Fault::new(RetCode::DiskState, message))
        }
    }
}

fn info(directory: &Directory, disk: &Disk) -> DiskInfo {
    let r = &disk.record;
    let status = match (disk.work, &r.bound) {
        (None | Some(Work::Binding), None) => DiskStatus::Unbound,
        (None | Some(Work::Binding), Some(_)) => DiskStatus::Bound,
        (Some(Work::Snapshoting), _) => DiskStatus::Snapshoting,
        (Some(Work::Rollbacking), _) => DiskStatus::Rollbacking,
        (Some(Work::BeingCloned), _) => DiskStatus::BeingCloned,
        (Some(Work::Upgrading), _) => DiskStatus::Upgrading,
        (Some(Work::Deleting), _) => DiskStatus::Deleting,
    };
    DiskInfo {
        disk_id: r.id.to_string(),
        name: r.name.clone(),
        remark: r.remark.clone(),
        region: r.region.to_string(),
        zone: String::new(),
        size: gib(disk.bytes),
        disk_status: status,
        disk_type: r.kind,
        set_type: r.set_type.clone(),
        charge_type: r.charge_type.clone(),
        attach_resource_id: r.bound.as_ref().map_or_else(String::new, |b| b.id.clone()),
        attach_resource_type: r.bound.as_ref().map_or_else(String::new, |b| b.kind.clone()),
        company_id: r.company,
        project_id: r.project.to_string(),
        email: directory.email(r.company, r.member),
        create_time: disk.created,
        expire_time: 0,
    }
}
