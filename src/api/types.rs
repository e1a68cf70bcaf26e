//! Requests and answers of the four snapshot actions. Their serde names are the wire's.

use serde::{Deserialize, Serialize};

/// How a snapshot came to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub enum SnapshotType {
    /// By somebody's request.
    #[default]
    Manual,
    /// By a schedule.
    Automatic,
}

impl SnapshotType {
    pub(super) fn name(self) -> &'static str {
        match self {
            SnapshotType::Manual => "Manual",
            SnapshotType::Automatic => "Automatic",
        }
    }
    pub(super) fn parse(text: &str) -> Option<SnapshotType> {
        [SnapshotType::Manual, SnapshotType::Automatic].into_iter().find(|t| t.name() == text)
    }
}

/// The state of a snapshot, spelled as the document spells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub enum SnapshotStatus {
    /// Being taken.
    Createing,
    /// Ready for use.
    Normal,
    /// Its disk is being rolled back to it.
    RollBacking,
    /// Some of its blocks are damaged: a scrub found them.
    Failure,
    /// Deleted; its space is being reclaimed. Shown only when asked for by id.
    Released,
}

/// What a disk is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub enum DiskType {
    /// A system disk.
    Boot,
    /// A data disk.
    #[default]
    Data,
}

impl DiskType {
    pub(super) fn name(self) -> &'static str {
        match self {
            DiskType::Boot => "Boot",
            DiskType::Data => "Data",
        }
    }
    pub(super) fn parse(text: &str) -> Option<DiskType> {
        [DiskType::Boot, DiskType::Data].into_iter().find(|t| t.name() == text)
    }
}

/// CreateSnapshot: takes a snapshot of a cloud disk.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(schemars::JsonSchema))]
#[serde(rename_all = "PascalCase")]
pub struct CreateSnapshot {
    /// Region, as DescribeRegion lists them. Required.
    pub region: String,
    /// Name of the snapshot, 1 to 128 characters, no control characters; need not be unique. Required.
    pub name: String,
    /// Id of the cloud disk. Required.
    #[serde(rename = "DiskID")]
    pub disk_id: String,
    /// Description, up to 100 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remark: Option<String>,
    /// Tenant's id; takes effect for admins only.
    #[serde(rename = "CompanyID", default, skip_serializing_if = "Option::is_none")]
    pub company_id: Option<i64>,
    /// Project's id; the disk's project if absent.
    #[serde(rename = "ProjectID", default, skip_serializing_if = "Option::is_none")]
    pub project_id: Option<String>,
    /// Kind of snapshot: `Manual` if absent.
    #[serde(rename = "Type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<SnapshotType>,
    /// Member's id: the owner. The caller if absent.
    #[serde(rename = "MemberID", default, skip_serializing_if = "Option::is_none")]
    pub member_id: Option<i64>,
}

/// Answer of CreateSnapshot.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(schemars::JsonSchema))]
#[serde(rename_all = "PascalCase")]
#[non_exhaustive]
pub struct CreateSnapshotResponse {
    /// Id of the snapshot.
    #[serde(rename = "SnapshotID")]
    pub snapshot_id: String,
}

/// DescribeSnapshot: lists snapshots. Filters AND; the elements of an array OR. In order of creation.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(schemars::JsonSchema))]
#[serde(rename_all = "PascalCase")]
pub struct DescribeSnapshot {
    /// Region, as DescribeRegion lists them. Required.
    pub region: String,
    /// Tenant's id; takes effect for admins only.
    #[serde(rename = "CompanyID", default, skip_serializing_if = "Option::is_none")]
    pub company_id: Option<i64>,
    /// Member's id: snapshots of this owner only.
    #[serde(rename = "MemberID", default, skip_serializing_if = "Option::is_none")]
    pub member_id: Option<i64>,
    /// How many to leave out; 0 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<i64>,
    /// How many to return: 20 if absent or 0, 100 at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<i64>,
    /// Fuzzy search: a substring of the name or the remark, ASCII case-insensitive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keyword: Option<String>,
    /// Only snapshots of these projects.
    #[serde(rename = "ProjectIDs", default, skip_serializing_if = "Option::is_none")]
    pub project_ids: Option<Vec<String>>,
    /// Only these snapshots.
    #[serde(rename = "SnapshotIDs", default, skip_serializing_if = "Option::is_none")]
    pub snapshot_ids: Option<Vec<String>>,
    /// Only snapshots of this cloud disk.
    #[serde(rename = "DiskID", default, skip_serializing_if = "Option::is_none")]
    pub disk_id: Option<String>,
}

/// Answer of DescribeSnapshot.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(schemars::JsonSchema))]
#[serde(rename_all = "PascalCase")]
#[non_exhaustive]
pub struct DescribeSnapshotResponse {
    /// Snapshots that match, before paging.
    pub total_count: u64,
    /// The page.
    pub infos: Vec<SnapshotInfo>,
}

/// A snapshot, as DescribeSnapshot shows it. All fields are always there.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(schemars::JsonSchema))]
#[serde(rename_all = "PascalCase")]
#[non_exhaustive]
pub struct SnapshotInfo {
    /// Region.
    pub region: String,
    /// Name of the snapshot.
    pub name: String,
    /// Remark.
    pub remark: String,
    /// Id of the company that it belongs to.
    #[serde(rename = "CompanyID")]
    pub company_id: i64,
    /// Project's id.
    #[serde(rename = "ProjectID")]
    pub project_id: String,
    /// Project's name; empty if unknown.
    pub project_name: String,
    /// Snapshot's id.
    #[serde(rename = "SnapshotID")]
    pub snapshot_id: String,
    /// State.
    pub snapshot_status: SnapshotStatus,
    /// Manual or automatic.
    #[serde(rename = "Type")]
    pub kind: SnapshotType,
    /// Id of the cloud disk.
    #[serde(rename = "DiskID")]
    pub disk_id: String,
    /// System disk or data disk.
    pub disk_type: DiskType,
    /// Id of the resource that the disk is bound to now; empty if it is not.
    #[serde(rename = "DiskAttachResourceID")]
    pub disk_attach_resource_id: String,
    /// Kind of the resource that the disk is bound to now; empty if it is not.
    pub disk_attach_resource_type: String,
    /// When it was taken, in Unix seconds.
    pub create_time: i64,
    /// The disk's size at that moment, in GiB, rounded up.
    pub snapshot_size: u64,
    /// Owner's mail address; empty if unknown. The document's type, int, is a slip.
    pub email: String,
}

/// RollbackSnapshot: makes a disk what a snapshot of it is. All its snapshots, older and newer, stay.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(schemars::JsonSchema))]
#[serde(rename_all = "PascalCase")]
pub struct RollbackSnapshot {
    /// Region, as DescribeRegion lists them. Required.
    pub region: String,
    /// Id of the disk. Required.
    #[serde(rename = "DiskID")]
    pub disk_id: String,
    /// Id of the snapshot. Required.
    #[serde(rename = "SnapshotID")]
    pub snapshot_id: String,
    /// Tenant's id; takes effect for admins only.
    #[serde(rename = "CompanyID", default, skip_serializing_if = "Option::is_none")]
    pub company_id: Option<i64>,
    /// Member's id; checked, without effect.
    #[serde(rename = "MemberID", default, skip_serializing_if = "Option::is_none")]
    pub member_id: Option<i64>,
}

/// DeleteSnapshot: deletes a snapshot for good. Nothing else changes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(schemars::JsonSchema))]
#[serde(rename_all = "PascalCase")]
pub struct DeleteSnapshot {
    /// Region, as DescribeRegion lists them. Required.
    pub region: String,
    /// Id of the snapshot. Required.
    #[serde(rename = "SnapshotID")]
    pub snapshot_id: String,
    /// Tenant's id; takes effect for admins only.
    #[serde(rename = "CompanyID", default, skip_serializing_if = "Option::is_none")]
    pub company_id: Option<i64>,
    /// Member's id; checked, without effect.
    #[serde(rename = "MemberID", default, skip_serializing_if = "Option::is_none")]
    pub member_id: Option<i64>,
}

/// An answer with nothing but its RetCode.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Done {}
