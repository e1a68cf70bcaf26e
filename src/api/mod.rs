//! The snapshot API: CreateSnapshot, DescribeSnapshot, RollbackSnapshot, DeleteSnapshot and the disk actions around
//! them, over a [`Store`](crate::Store), in process.
//!
//! [`SnapshotService`] validates, checks who may, makes one operation of the store, and shapes the answer. It keeps
//! nothing that the store does not keep: names, remarks, tenants and attachments are tags in the store's catalog,
//! written in the same record as the operation, so that a crash leaves an action whole or absent; the API's ids are the
//! store's names. In memory it has an index of the catalog and what is under way, no more.
//!
//! Two ways in: typed ([`SnapshotService::create_snapshot`] and its like) and flat ([`SnapshotService::call`]: an
//! action's name and its parameters, as they come on a wire). Neither knows HTTP or signatures.
//!
//! Volumes and snapshots that were made by other means are left alone and not shown, until
//! [`SnapshotService::adopt`]. What is changed behind the service's back is seen by the next service that is made over
//! the store.
//!
//! ```
//! use snapdisk::{Options, api::{Caller, CreateDisk, CreateSnapshot, Directory, Params, SnapshotService}};
//! # let dir = tempfile::tempdir().unwrap();
//! # let path = dir.path().join("disks.img");
//! let store = Options::new().create(path).unwrap();
//! let service = SnapshotService::new(store.clone(), Directory::default()).unwrap();
//! let me = Caller::main(1, 0);
//! let disk = CreateDisk { region: "cn".into(), name: "data".into(), disk_space: 10, ..Default::default() };
//! let disk_id = service.create_disk(&me, &disk).unwrap().disk_id;
//! store.volume(&disk_id).unwrap().write_at(b"one", 0).unwrap();
//! let wish = CreateSnapshot { region: "cn".into(), name: "before".into(), disk_id, ..Default::default() };
//! let made = service.create_snapshot(&me, &wish).unwrap();
//!
//! let params = Params::from_pairs([("Region", "cn"), ("SnapshotIDs.0", &made.snapshot_id)]).unwrap();
//! let answer = service.call(&me, "DescribeSnapshot", &params);
//! assert_eq!(answer["RetCode"], 0);
//! assert_eq!(answer["Infos"][0]["Name"], "before");
//! ```

mod code;
mod disks;
mod disktypes;
mod flat;
mod index;
mod params;
mod read;
mod record;
mod schedule;
mod service;
mod snapshots;
mod tenant;
mod types;
mod validate;

pub use code::{Fault, RetCode};
pub use disktypes::{
    AttachDisk, CloneDisk, CreateDisk, CreateDiskFromSnapshot, DeleteDisk, DescribeDisk, DescribeDiskResponse,
    DescribeRegion, DescribeRegionResponse, DetachDisk, DiskIdResponse, DiskInfo, DiskStatus, RegionInfo, UpgradeDisk,
};
pub use flat::{ACTIONS, answer};
pub use params::{ARRAY_MAX, NESTING_MAX, Params, VALUES_MAX};
pub use schedule::{Every, Schedule, Ticked};
pub use service::{ServiceStats, SnapshotService};
pub use tenant::{Caller, Company, Directory, Limits, Member, Project, Region};
pub use types::{
    CreateSnapshot, CreateSnapshotResponse, DeleteSnapshot, DescribeSnapshot, DescribeSnapshotResponse, DiskType, Done,
    RollbackSnapshot, SnapshotInfo, SnapshotStatus, SnapshotType,
};

#[cfg(feature = "http")]
pub(crate) use {code::shorten, flat::TABLE, params::Budget, schedule::utc};
