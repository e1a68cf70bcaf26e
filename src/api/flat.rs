//! The flat service: an action's name and its parameters, as they come on a wire.

use super::{
    code::{Fault, RetCode, shorten},
    disktypes::{
        AttachDisk, CloneDisk, CreateDisk, CreateDiskFromSnapshot, DeleteDisk, DescribeDisk, DetachDisk, UpgradeDisk,
    },
    params::Params,
    service::SnapshotService,
    tenant::Caller,
    types::{CreateSnapshot, DeleteSnapshot, DescribeSnapshot, DiskType, RollbackSnapshot, SnapshotType},
    validate::named_project,
};
use serde::Serialize;
use serde_json::{Map, Value};

/// All actions.
pub const ACTIONS: [&str; 13] = [
    "CreateSnapshot",
    "DescribeSnapshot",
    "RollbackSnapshot",
    "DeleteSnapshot",
    "CreateDisk",
    "DescribeDisk",
    "AttachDisk",
    "DetachDisk",
    "UpgradeDisk",
    "CloneDisk",
    "CreateDiskFromSnapshot",
    "DeleteDisk",
    "DescribeRegion",
];

/// The answer of an action: `Action`, `RetCode`, `Message` and what it gives.
pub fn answer(action: &str, outcome: Result<Map<String, Value>, &Fault>) -> Value {
    let (code, message, mut map) = match outcome {
        Ok(map) => (RetCode::Ok, String::new(), map),
        Err(fault) => (fault.code(), fault.to_string(), Map::new()),
    };
    map.insert("Action".to_owned(), format!("{}Response", shorten(action)).into());
    map.insert("RetCode".to_owned(), code.number().into());
    map.insert("Message".to_owned(), message.into());
    Value::Object(map)
}

fn shape(answer: impl Serialize) -> Result<Map<String, Value>, Fault> {
    match serde_json::to_value(answer) {
        Ok(Value::Object(map)) => Ok(map),
        _ => Err(Fault::new(RetCode::Internal, "internal error: an answer without a shape")),
    }
}

/// The value of an enumeration.
fn one_of<T>(p: &Params, name: &str, parse: impl Fn(&str) -> Option<T>, want: &str) -> Result<Option<T>, Fault> {
    let Some(text) = p.text(name)? else { return Ok(None) };
    parse(&text).map(Some).ok_or_else(|| Fault::format(name, text, want))
}

/// A required string: [`Params::require`] came before.
fn must(p: &Params, name: &str) -> Result<String, Fault> {
    p.text(name)?.ok_or_else(|| Fault::missing(name))
}

fn must_int(p: &Params, name: &str) -> Result<i64, Fault> {
    p.int(name)?.ok_or_else(|| Fault::missing(name))
}

impl SnapshotService {
    /// Does an action and gives its answer, `RetCode` and all. Unknown parameters are ignored.
    pub fn call(&self, caller: &Caller, action: &str, params: &Params) -> Value {
        match self.try_call(caller, action, params) {
            Ok(map) => answer(action, Ok(map)),
            Err(fault) => answer(action, Err(&fault)),
        }
    }

    /// [`SnapshotService::call`] for those who want the fault: its cause is for the operator only.
    pub fn try_call(&self, caller: &Caller, action: &str, p: &Params) -> Result<Map<String, Value>, Fault> {
        match action {
            "" => Err(Fault::new(RetCode::NoAction, "Action is required and missing or empty")),
            "CreateSnapshot" => {
                p.require(&["Region", "Name", "DiskID"])?;
                named_project(caller, p.text("ProjectID")?.as_deref())?;
                let kind = one_of(p, "Type", SnapshotType::parse, "Manual or Automatic")?;
                let r = CreateSnapshot {
                    region: must(p, "Region")?,
                    name: must(p, "Name")?,
                    disk_id: must(p, "DiskID")?,
                    remark: p.text("Remark")?,
                    company_id: p.int("CompanyID")?,
                    project_id: p.text("ProjectID")?,
                    kind,
                    member_id: p.int("MemberID")?,
                };
                shape(self.create_snapshot(caller, &r)?)
            }
            "DescribeSnapshot" => {
                p.require(&["Region"])?;
                let r = DescribeSnapshot {
                    region: must(p, "Region")?,
                    company_id: p.int("CompanyID")?,
                    member_id: p.int("MemberID")?,
                    offset: p.int("Offset")?,
                    limit: p.int("Limit")?,
                    keyword: p.text("Keyword")?,
                    project_ids: p.list("ProjectIDs")?,
                    snapshot_ids: p.list("SnapshotIDs")?,
                    disk_id: p.text("DiskID")?,
                };
                shape(self.describe_snapshot(caller, &r)?)
            }
            "RollbackSnapshot" => {
                p.require(&["Region", "DiskID", "SnapshotID"])?;
                let r = RollbackSnapshot {
                    region: must(p, "Region")?,
                    disk_id: must(p, "DiskID")?,
                    snapshot_id: must(p, "SnapshotID")?,
                    company_id: p.int("CompanyID")?,
                    member_id: p.int("MemberID")?,
                };
                shape(self.rollback_snapshot(caller, &r)?)
            }
            "DeleteSnapshot" => {
                p.require(&["Region", "SnapshotID"])?;
                let r = DeleteSnapshot {
                    region: must(p, "Region")?,
                    snapshot_id: must(p, "SnapshotID")?,
                    company_id: p.int("CompanyID")?,
                    member_id: p.int("MemberID")?,
                };
                shape(self.delete_snapshot(caller, &r)?)
            }
            _ => self.disk_call(caller, action, p),
        }
    }

    fn disk_call(&self, caller: &Caller, action: &str, p: &Params) -> Result<Map<String, Value>, Fault> {
        match action {
            "CreateDisk" => {
                p.require(&["Region", "Name", "DiskSpace"])?;
                if caller.admin && caller.company.is_none() {
                    p.require(&["CompanyID"])?;
                }
                named_project(caller, p.text("ProjectID")?.as_deref())?;
                let r = CreateDisk {
                    region: must(p, "Region")?,
                    name: must(p, "Name")?,
                    disk_space: must_int(p, "DiskSpace")?,
                    set_type: p.text("SetType")?,
                    charge_type: p.text("ChargeType")?,
                    quantity: p.int("Quantity")?,
                    disk_type: one_of(p, "DiskType", DiskType::parse, "Data or Boot")?,
                    project_id: p.text("ProjectID")?,
                    remark: p.text("Remark")?,
                    company_id: p.int("CompanyID")?,
                    member_id: p.int("MemberID")?,
                };
                shape(self.create_disk(caller, &r)?)
            }
            "DescribeDisk" => {
                p.require(&["Region"])?;
                let r = DescribeDisk {
                    region: must(p, "Region")?,
                    disk_ids: p.list("DiskIDs")?,
                    offset: p.int("Offset")?,
                    limit: p.int("Limit")?,
                    project_ids: p.list("ProjectIDs")?,
                    keyword: p.text("Keyword")?,
                    company_id: p.int("CompanyID")?,
                    member_id: p.int("MemberID")?,
                };
                shape(self.describe_disk(caller, &r)?)
            }
            "AttachDisk" => {
                p.require(&["Region", "DiskID", "ResourceID"])?;
                let r = AttachDisk {
                    region: must(p, "Region")?,
                    disk_id: must(p, "DiskID")?,
                    resource_id: must(p, "ResourceID")?,
                    resource_type: p.text("ResourceType")?,
                    company_id: p.int("CompanyID")?,
                    member_id: p.int("MemberID")?,
                };
                shape(self.attach_disk(caller, &r)?)
            }
            "DetachDisk" => {
                p.require(&["Region", "DiskID", "ResourceID"])?;
                let r = DetachDisk {
                    region: must(p, "Region")?,
                    disk_id: must(p, "DiskID")?,
                    resource_id: must(p, "ResourceID")?,
                    resource_type: p.text("ResourceType")?,
                    company_id: p.int("CompanyID")?,
                    member_id: p.int("MemberID")?,
                };
                shape(self.detach_disk(caller, &r)?)
            }
            "UpgradeDisk" => {
                p.require(&["Region", "DiskID", "DiskSpace"])?;
                let r = UpgradeDisk {
                    region: must(p, "Region")?,
                    disk_id: must(p, "DiskID")?,
                    disk_space: must_int(p, "DiskSpace")?,
                    company_id: p.int("CompanyID")?,
                    member_id: p.int("MemberID")?,
                };
                shape(self.upgrade_disk(caller, &r)?)
            }
            "CloneDisk" => {
                p.require(&["Region", "SrcID", "Name"])?;
                let r = CloneDisk {
                    region: must(p, "Region")?,
                    src_id: must(p, "SrcID")?,
                    name: must(p, "Name")?,
                    project_id: p.text("ProjectID")?,
                    remark: p.text("Remark")?,
                    company_id: p.int("CompanyID")?,
                    member_id: p.int("MemberID")?,
                };
                shape(self.clone_disk(caller, &r)?)
            }
            "CreateDiskFromSnapshot" => {
                p.require(&["Region", "SrcSnapshotID", "Name"])?;
                let r = CreateDiskFromSnapshot {
                    region: must(p, "Region")?,
                    src_snapshot_id: must(p, "SrcSnapshotID")?,
                    name: must(p, "Name")?,
                    project_id: p.text("ProjectID")?,
                    remark: p.text("Remark")?,
                    company_id: p.int("CompanyID")?,
                    member_id: p.int("MemberID")?,
                };
                shape(self.create_disk_from_snapshot(caller, &r)?)
            }
            "DeleteDisk" => {
                p.require(&["Region", "DiskID"])?;
                let r = DeleteDisk {
                    region: must(p, "Region")?,
                    disk_id: must(p, "DiskID")?,
                    company_id: p.int("CompanyID")?,
                    member_id: p.int("MemberID")?,
                };
                shape(self.delete_disk(caller, &r)?)
            }
            "DescribeRegion" => shape(self.describe_region()),
            _ => Err(Fault::new(RetCode::UnknownAction, format!("Action: {:?} does not exist", shorten(action)))),
        }
    }
}
