//! Requests and answers of the disk actions. Their serde names are the wire's.

use super::types::DiskType;
use serde::{Deserialize, Serialize};

/// The state of a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub enum DiskStatus {
    /// Ready, bound to nothing.
    Unbound,
    /// Bound to a VM.
    Bound,
    /// A snapshot of it is being taken.
    Snapshoting,
    /// Being rolled back.
    Rollbacking,
    /// Being cloned.
    BeingCloned,
    /// Growing.
    Upgrading,
    /// Being deleted.
    Deleting,
}

/// CreateDisk: makes a disk that reads as zeros.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(schemars::JsonSchema))]
pub struct CreateDisk {
    /// Region, as DescribeRegion lists them. Required.
    #[serde(rename = "Region")]
    pub region: String,
    /// Name of the disk, 1 to 128 characters, no control characters; need not be unique. Required.
    #[serde(rename = "Name")]
    pub name: String,
    /// Size in GiB, 1 to 32000. Required.
    #[serde(rename = "DiskSpace")]
    pub disk_space: i64,
    /// Kind of storage; kept and shown, without effect.
    #[serde(rename = "SetType", default, skip_serializing_if = "Option::is_none")]
    pub set_type: Option<String>,
    /// Kind of charge; kept and shown, without effect.
    #[serde(rename = "ChargeType", default, skip_serializing_if = "Option::is_none")]
    pub charge_type: Option<String>,
    /// Periods to pay for; without effect.
    #[serde(rename = "Quantity", default, skip_serializing_if = "Option::is_none")]
    pub quantity: Option<i64>,
    /// `Data` if absent.
    #[serde(rename = "DiskType", default, skip_serializing_if = "Option::is_none")]
    pub disk_type: Option<DiskType>,
    /// Project's id; the tenant's default project if absent.
    #[serde(rename = "ProjectID", default, skip_serializing_if = "Option::is_none")]
    pub project_id: Option<String>,
    /// Description, up to 100 characters.
    #[serde(rename = "Remark", default, skip_serializing_if = "Option::is_none")]
    pub remark: Option<String>,
    /// Tenant's id; takes effect for admins only.
    #[serde(rename = "CompanyID", default, skip_serializing_if = "Option::is_none")]
    pub company_id: Option<i64>,
    /// Member's id: the owner. The caller if absent.
    #[serde(rename = "MemberID", default, skip_serializing_if = "Option::is_none")]
    pub member_id: Option<i64>,
}

/// DescribeDisk: lists disks, in order of creation.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(schemars::JsonSchema))]
pub struct DescribeDisk {
    /// Region, as DescribeRegion lists them. Required.
    #[serde(rename = "Region")]
    pub region: String,
    /// Only these disks.
    #[serde(rename = "DiskIDs", default, skip_serializing_if = "Option::is_none")]
    pub disk_ids: Option<Vec<String>>,
    /// How many to leave out; 0 if absent.
    #[serde(rename = "Offset", default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<i64>,
    /// How many to return: 20 if absent or 0, 100 at most.
    #[serde(rename = "Limit", default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<i64>,
    /// Only disks of these projects.
    #[serde(rename = "ProjectIDs", default, skip_serializing_if = "Option::is_none")]
    pub project_ids: Option<Vec<String>>,
    /// A substring of the name or the remark, ASCII case-insensitive.
    #[serde(rename = "Keyword", default, skip_serializing_if = "Option::is_none")]
    pub keyword: Option<String>,
    /// Tenant's id; takes effect for admins only.
    #[serde(rename = "CompanyID", default, skip_serializing_if = "Option::is_none")]
    pub company_id: Option<i64>,
    /// Member's id: disks of this owner only.
    #[serde(rename = "MemberID", default, skip_serializing_if = "Option::is_none")]
    pub member_id: Option<i64>,
}

/// AttachDisk: notes that a disk is bound to a VM.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(schemars::JsonSchema))]
pub struct AttachDisk {
    /// Region, as DescribeRegion lists them. Required.
    #[serde(rename = "Region")]
    pub region: String,
    /// Id of the disk. Required.
    #[serde(rename = "DiskID")]
    pub disk_id: String,
    /// Id of the VM. Required.
    #[serde(rename = "ResourceID")]
    pub resource_id: String,
    /// `VM`, which it is if absent.
    #[serde(rename = "ResourceType", default, skip_serializing_if = "Option::is_none")]
    pub resource_type: Option<String>,
    /// Tenant's id; takes effect for admins only.
    #[serde(rename = "CompanyID", default, skip_serializing_if = "Option::is_none")]
    pub company_id: Option<i64>,
    /// Member's id; checked, without effect.
    #[serde(rename = "MemberID", default, skip_serializing_if = "Option::is_none")]
    pub member_id: Option<i64>,
}

/// DetachDisk: notes that a disk is not bound any more.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(schemars::JsonSchema))]
pub struct DetachDisk {
    /// Region, as DescribeRegion lists them. Required.
    #[serde(rename = "Region")]
    pub region: String,
    /// Id of the disk. Required.
    #[serde(rename = "DiskID")]
    pub disk_id: String,
    /// Id of the VM that it is bound to. Required.
    #[serde(rename = "ResourceID")]
    pub resource_id: String,
    /// `VM`, which it is if absent.
    #[serde(rename = "ResourceType", default, skip_serializing_if = "Option::is_none")]
    pub resource_type: Option<String>,
    /// Tenant's id; takes effect for admins only.
    #[serde(rename = "CompanyID", default, skip_serializing_if = "Option::is_none")]
    pub company_id: Option<i64>,
    /// Member's id; checked, without effect.
    #[serde(rename = "MemberID", default, skip_serializing_if = "Option::is_none")]
    pub member_id: Option<i64>,
}

/// UpgradeDisk: grows a disk. What is added reads as zeros.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(schemars::JsonSchema))]
pub struct UpgradeDisk {
    /// Region, as DescribeRegion lists them. Required.
    #[serde(rename = "Region")]
    pub region: String,
    /// Id of the disk. Required.
    #[serde(rename = "DiskID")]
    pub disk_id: String,
    /// New size in GiB, 1 to 32000, no less than it has. Required.
    #[serde(rename = "DiskSpace")]
    pub disk_space: i64,
    /// Tenant's id; takes effect for admins only.
    #[serde(rename = "CompanyID", default, skip_serializing_if = "Option::is_none")]
    pub company_id: Option<i64>,
    /// Member's id; checked, without effect.
    #[serde(rename = "MemberID", default, skip_serializing_if = "Option::is_none")]
    pub member_id: Option<i64>,
}

/// CloneDisk: makes a disk that starts as another is now.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(schemars::JsonSchema))]
pub struct CloneDisk {
    /// Region, as DescribeRegion lists them. Required.
    #[serde(rename = "Region")]
    pub region: String,
    /// Id of the disk to clone, which must be Unbound. Required.
    #[serde(rename = "SrcID")]
    pub src_id: String,
    /// Name of the disk, 1 to 128 characters, no control characters; need not be unique. Required.
    #[serde(rename = "Name")]
    pub name: String,
    /// Project's id; that of the source if absent.
    #[serde(rename = "ProjectID", default, skip_serializing_if = "Option::is_none")]
    pub project_id: Option<String>,
    /// Description, up to 100 characters.
    #[serde(rename = "Remark", default, skip_serializing_if = "Option::is_none")]
    pub remark: Option<String>,
    /// Tenant's id; takes effect for admins only.
    #[serde(rename = "CompanyID", default, skip_serializing_if = "Option::is_none")]
    pub company_id: Option<i64>,
    /// Member's id: the owner. The caller if absent.
    #[serde(rename = "MemberID", default, skip_serializing_if = "Option::is_none")]
    pub member_id: Option<i64>,
}

/// CreateDiskFromSnapshot: makes a disk that starts as a snapshot is.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(schemars::JsonSchema))]
pub struct CreateDiskFromSnapshot {
    /// Region, as DescribeRegion lists them. Required.
    #[serde(rename = "Region")]
    pub region: String,
    /// Id of the snapshot. Required.
    #[serde(rename = "SrcSnapshotID")]
    pub src_snapshot_id: String,
    /// Name of the disk, 1 to 128 characters, no control characters; need not be unique. Required.
    #[serde(rename = "Name")]
    pub name: String,
    /// Project's id; that of the source if absent.
    #[serde(rename = "ProjectID", default, skip_serializing_if = "Option::is_none")]
    pub project_id: Option<String>,
    /// Description, up to 100 characters.
    #[serde(rename = "Remark", default, skip_serializing_if = "Option::is_none")]
    pub remark: Option<String>,
    /// Tenant's id; takes effect for admins only.
    #[serde(rename = "CompanyID", default, skip_serializing_if = "Option::is_none")]
    pub company_id: Option<i64>,
    /// Member's id: the owner. The caller if absent.
    #[serde(rename = "MemberID", default, skip_serializing_if = "Option::is_none")]
    pub member_id: Option<i64>,
}

/// DeleteDisk: deletes a disk, which must be Unbound, with all its snapshots.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(schemars::JsonSchema))]
pub struct DeleteDisk {
    /// Region, as DescribeRegion lists them. Required.
    #[serde(rename = "Region")]
    pub region: String,
    /// Id of the disk. Required.
    #[serde(rename = "DiskID")]
    pub disk_id: String,
    /// Tenant's id; takes effect for admins only.
    #[serde(rename = "CompanyID", default, skip_serializing_if = "Option::is_none")]
    pub company_id: Option<i64>,
    /// Member's id; checked, without effect.
    #[serde(rename = "MemberID", default, skip_serializing_if = "Option::is_none")]
    pub member_id: Option<i64>,
}

/// Answer of the actions that make a disk.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct DiskIdResponse {
    /// Id of the new disk.
    #[serde(rename = "DiskID")]
    pub disk_id: String,
}

/// Answer of DescribeDisk.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(schemars::JsonSchema))]
#[serde(rename_all = "PascalCase")]
#[non_exhaustive]
pub struct DescribeDiskResponse {
    /// Disks that match, before paging.
    pub total_count: u64,
    /// The page.
    pub infos: Vec<DiskInfo>,
}

/// A disk, as DescribeDisk shows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(schemars::JsonSchema))]
#[serde(rename_all = "PascalCase")]
#[non_exhaustive]
pub struct DiskInfo {
    /// Disk's id.
    #[serde(rename = "DiskID")]
    pub disk_id: String,
    /// Name.
    pub name: String,
    /// Remark.
    pub remark: String,
    /// Region.
    pub region: String,
    /// Always empty: there are no zones here.
    pub zone: String,
    /// GiB, rounded up.
    pub size: u64,
    /// State.
    pub disk_status: DiskStatus,
    /// System disk or data disk.
    pub disk_type: DiskType,
    /// As CreateDisk said.
    pub set_type: String,
    /// As CreateDisk said.
    pub charge_type: String,
    /// Id of the resource that it is bound to, or empty.
    #[serde(rename = "AttachResourceID")]
    pub attach_resource_id: String,
    /// Kind of the resource that it is bound to, or empty.
    pub attach_resource_type: String,
    /// Id of the company that it belongs to.
    #[serde(rename = "CompanyID")]
    pub company_id: i64,
    /// Project's id.
    #[serde(rename = "ProjectID")]
    pub project_id: String,
    /// Owner's mail address; empty if unknown.
    pub email: String,
    /// When it was made, in Unix seconds.
    pub create_time: i64,
    /// Always 0: disks don't expire here.
    pub expire_time: i64,
}

/// DescribeRegion: lists the regions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(schemars::JsonSchema))]
pub struct DescribeRegion {}

/// Answer of DescribeRegion.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(schemars::JsonSchema))]
#[serde(rename_all = "PascalCase")]
#[non_exhaustive]
pub struct DescribeRegionResponse {
    /// Regions.
    pub total_count: u64,
    /// All of them.
    pub infos: Vec<RegionInfo>,
}

/// A region.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(schemars::JsonSchema))]
#[serde(rename_all = "PascalCase")]
#[non_exhaustive]
pub struct RegionInfo {
    /// What `Region` names.
    pub region: String,
    /// For people.
    pub region_alias: String,
}
