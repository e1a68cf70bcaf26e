//! The tags of volumes and snapshots in which the store's catalog keeps the service's data.
//!
//! A volume is a disk of the service if it has the tag `api.company`; a snapshot is one if it has that tag too. All
//! others are left alone and are not shown.

use super::types::{DiskType, SnapshotType};
use crate::DAMAGED;
use std::{collections::BTreeMap, sync::Arc};

/// Tags.
pub(super) type Tags = BTreeMap<String, String>;

/// Tag of a volume: when the schedule whose name follows was last done, in Unix seconds.
pub(super) const LAST_RUN: &str = "api.last-run.";

const REGION: &str = "api.region";
const COMPANY: &str = "api.company";
const PROJECT: &str = "api.project";
const MEMBER: &str = "api.member";
const NAME: &str = "api.name";
const REMARK: &str = "api.remark";
const TYPE: &str = "api.type";
const DISK: &str = "api.disk";
const SET_TYPE: &str = "api.set-type";
const CHARGE_TYPE: &str = "api.charge-type";
const BOUND: &str = "api.bound";
const SCHEDULE: &str = "api.schedule";

/// The tags that a disk and a snapshot share. `None`: it is not the service's.
struct Common {
    region: String,
    company: i64,
    project: String,
    member: i64,
    name: String,
    remark: String,
}

fn take(tags: &mut Tags, key: &str) -> String {
    tags.remove(key).unwrap_or_default()
}

fn common(tags: &mut Tags) -> Option<Common> {
    Some(Common {
        company: tags.remove(COMPANY)?.parse().ok()?,
        region: take(tags, REGION),
        project: take(tags, PROJECT),
        member: take(tags, MEMBER).parse().unwrap_or(0),
        name: take(tags, NAME),
        remark: take(tags, REMARK),
    })
}

fn put(tags: &mut Tags, key: &str, value: impl ToString) {
    let value = value.to_string();
    if !value.is_empty() {
        tags.insert(key.to_owned(), value);
    }
}

/// What a disk is bound to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Bound {
    pub(super) kind: String,
    pub(super) id: String,
}

#[derive(Clone, Debug)]
pub(super) struct DiskRecord {
    /// The volume's name in the store.
    pub(super) id: Arc<str>,
    pub(super) region: Arc<str>,
    pub(super) company: i64,
    pub(super) project: Arc<str>,
    pub(super) member: i64,
    pub(super) name: String,
    pub(super) remark: String,
    pub(super) kind: DiskType,
    pub(super) set_type: String,
    pub(super) charge_type: String,
    pub(super) bound: Option<Bound>,
    /// Tags of others, which stay when the service's tags change.
    pub(super) rest: Tags,
}

impl DiskRecord {
    pub(super) fn tags(&self) -> Tags {
        let mut tags = self.rest.clone();
        put(&mut tags, REGION, &self.region);
        put(&mut tags, COMPANY, self.company);
        put(&mut tags, PROJECT, &self.project);
        put(&mut tags, MEMBER, self.member);
        put(&mut tags, NAME, &self.name);
        put(&mut tags, REMARK, &self.remark);
        put(&mut tags, TYPE, self.kind.name());
        put(&mut tags, SET_TYPE, &self.set_type);
        put(&mut tags, CHARGE_TYPE, &self.charge_type);
        if let Some(bound) = &self.bound {
            put(&mut tags, BOUND, format!("{}:{}", bound.kind, bound.id));
        }
        tags
    }
    pub(super) fn read(id: &str, mut tags: Tags, intern: &mut impl FnMut(&str) -> Arc<str>) -> Option<DiskRecord> {
        let c = common(&mut tags)?;
        let bound = take(&mut tags, BOUND);
        let bound = bound.split_once(':').map(|(kind, id)| Bound { kind: kind.to_owned(), id: id.to_owned() });
        Some(DiskRecord {
            id: id.into(),
            region: intern(&c.region),
            company: c.company,
            project: intern(&c.project),
            member: c.member,
            name: c.name,
            remark: c.remark,
            kind: DiskType::parse(&take(&mut tags, TYPE)).unwrap_or_default(),
            set_type: take(&mut tags, SET_TYPE),
            charge_type: take(&mut tags, CHARGE_TYPE),
            bound,
            rest: tags,
        })
    }
}

#[derive(Clone, Debug)]
pub(super) struct SnapRecord {
    /// The snapshot's name in the store.
    pub(super) id: Arc<str>,
    pub(super) region: Arc<str>,
    pub(super) company: i64,
    pub(super) project: Arc<str>,
    pub(super) member: i64,
    pub(super) name: Box<str>,
    pub(super) remark: Box<str>,
    pub(super) kind: SnapshotType,
    pub(super) disk: Arc<str>,
    /// The schedule that took it.
    pub(super) schedule: Option<Arc<str>>,
    pub(super) damaged: bool,
}

impl SnapRecord {
    pub(super) fn is_manual(&self) -> bool {
        self.kind == SnapshotType::Manual
    }
    pub(super) fn tags(&self) -> Tags {
        let mut tags = Tags::new();
        put(&mut tags, REGION, &self.region);
        put(&mut tags, COMPANY, self.company);
        put(&mut tags, PROJECT, &self.project);
        put(&mut tags, MEMBER, self.member);
        put(&mut tags, NAME, &self.name);
        put(&mut tags, REMARK, &self.remark);
        put(&mut tags, TYPE, self.kind.name());
        put(&mut tags, DISK, &self.disk);
        put(&mut tags, SCHEDULE, self.schedule.as_deref().unwrap_or(""));
        tags
    }
    pub(super) fn read(id: &str, mut tags: Tags, intern: &mut impl FnMut(&str) -> Arc<str>) -> Option<SnapRecord> {
        let c = common(&mut tags)?;
        let schedule = take(&mut tags, SCHEDULE);
        Some(SnapRecord {
            id: id.into(),
            region: intern(&c.region),
            company: c.company,
            project: intern(&c.project),
            member: c.member,
            name: c.name.into(),
            remark: c.remark.into(),
            kind: SnapshotType::parse(&take(&mut tags, TYPE)).unwrap_or_default(),
            disk: intern(&take(&mut tags, DISK)),
            schedule: (!schedule.is_empty()).then(|| intern(&schedule)),
            damaged: tags.contains_key(DAMAGED),
        })
    }
}
