//! Automatic snapshots. That a schedule was done is a tag of the disk, written in the same record as the snapshot; the time is the service's.

use super::{
    index::{Snap, SnapState, Work},
    record::{DiskRecord, LAST_RUN, SnapRecord},
    service::{SnapshotService, Undo, idle},
    snapshots::deletable,
    types::SnapshotType,
};
use crate::{Result, SnapshotId, VolumeId};

/// When a schedule is due, in UTC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Every {
    /// At a minute of each hour.
    Hour {
        /// 0 to 59.
        minute: u8,
    },
    /// At a time of each day.
    Day {
        /// 0 to 23.
        hour: u8,
        /// 0 to 59.
        minute: u8,
    },
    /// At a time of one day of each week.
    Week {
        /// 0 (Monday) to 6 (Sunday).
        day: u8,
        /// 0 to 23.
        hour: u8,
        /// 0 to 59.
        minute: u8,
    },
}

impl Every {
    /// Returns the last time that was due at or before `now`, in Unix seconds.
    pub fn last_due(self, now: i64) -> i64 {
        let (period, at) = match self {
            Every::Hour { minute } => (3600, i64::from(minute) * 60),
            Every::Day { hour, minute } => (86_400, i64::from(hour) * 3600 + i64::from(minute) * 60),
            // Day 0 of the epoch was a Thursday; the first Monday was day 4.
            Every::Week { day, hour, minute } => {
                (604_800, (4 + i64::from(day)) * 86_400 + i64::from(hour) * 3600 + i64::from(minute) * 60)
            }
        };
        (now - at).div_euclid(period) * period + at
    }
}

/// Automatic snapshots of some disks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Schedule {
    /// Tells one schedule's snapshots from another's: `[A-Za-z0-9_-]{1,32}`.
    pub name: String,
    /// Disks of this company only; `None`: of all.
    pub company: Option<i64>,
    /// Ids of the disks; empty: all of them.
    pub disks: Vec<String>,
    /// When.
    pub every: Every,
    /// How many of its snapshots a disk keeps, 1 to 20; the oldest goes first.
    pub keep: usize,
}

/// The result of [`SnapshotService::run_schedules`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Ticked {
    /// Snapshots taken.
    pub taken: u64,
    /// Snapshots deleted.
    pub deleted: u64,
    /// Number of disks and snapshots that were in use, and are tried again the next time.
    pub waiting: u64,
    /// Number of disks whose operation failed, and is tried again the next time.
    pub failed: u64,
}

/// Deletions in one record.
const BATCH: usize = 64;

/// What one schedule has to do with one disk.
struct Turn {
    key: u64,
    record: DiskRecord,
    snap: Option<SnapRecord>,
    bytes: u64,
    leaving: Vec<u64>,
}

impl SnapshotService {
    /// Takes the snapshots that are due and deletes those beyond the number to keep, each disk in one record. Meant to be called about once a
    /// minute.
    ///
    /// A disk is due once, however long this was not called. A new disk waits for the schedule's next time.
    pub fn run_schedules(&self, schedules: &[Schedule]) -> Ticked {
        let mut out = Ticked::default();
        let mut fault = None;
        for schedule in schedules {
            for key in self.scheduled(schedule) {
                let Some(turn) = self.turn(schedule, key, &mut out) else { continue };
                let (takes, deletes) = (u64::from(turn.snap.is_some()), turn.leaving.len() as u64);
                let disk = turn.record.id.clone();
                match self.take_turn(turn).map_err(|e| (disk, e)) {
                    Ok(()) => (out.taken, out.deleted) = (out.taken + takes, out.deleted + deletes),
                    Err((disk, e)) => {
                        out.failed += 1;
                        fault.get_or_insert_with(|| format!("schedule {}, {disk}: {e}", schedule.name));
                    }
                }
            }
        }
        if out != Ticked::default() {
            *self.inner.schedule_fault.lock() = fault;
        }
        out
    }
    /// Returns why a schedule failed, the last time that any had something to do. It is for the operator, since it may name what a tenant
    /// must not see.
    pub fn schedule_fault(&self) -> Option<String> {
        self.inner.schedule_fault.lock().clone()
    }

    fn scheduled(&self, s: &Schedule) -> Vec<u64> {
        let index = self.inner.index.read();
        let mut keys: Vec<u64> = index
            .disks()
            .filter(|d| s.company.is_none_or(|c| c == d.record.company))
            .filter(|d| s.disks.is_empty() || s.disks.iter().any(|id| **id == *d.record.id))
            .map(|d| d.key)
            .collect();
        keys.sort_unstable();
        keys
    }

    /// Claims what has to be done; `None` if there is nothing, or nothing that can be done now.
    fn turn(&self, s: &Schedule, key: u64, out: &mut Ticked) -> Option<Turn> {
        let now = self.now();
        let due = s.every.last_due(now);
        let tag = format!("{LAST_RUN}{}", s.name);
        let mut index = self.index_mut();
        let disk = index.disk(key)?;
        let last: Option<i64> = disk.record.rest.get(&tag).and_then(|t| t.parse().ok());
        // A time in the future means that the clock was set back, which must not stop the schedule.
        let last = last.unwrap_or(disk.created);
        let takes = last < due || last > now;
        let own: Vec<&Snap> = disk
            .snapshots
            .keys()
            .iter()
            .filter_map(|&k| index.snap(k))
            .filter(|snap| snap.record.schedule.as_deref() == Some(&*s.name))
            .collect();
        let surplus = (own.len() + usize::from(takes)).saturating_sub(s.keep.max(1)).min(BATCH);
        if !takes && surplus == 0 {
            return None;
        }
        if idle(disk).is_err() {
            out.waiting += 1;
            return None;
        }
        let leaving: Vec<u64> =
            own[..surplus.min(own.len())].iter().filter(|s| deletable(s).is_ok()).map(|s| s.key).collect();
        out.waiting += (surplus.min(own.len()) - leaving.len()) as u64;
        if !takes && leaving.is_empty() {
            return None;
        }
        let (mut record, bytes) = (disk.record.clone(), disk.bytes);
        let snap = takes.then(|| SnapRecord {
            id: self.fresh_id("disksnapshot-").into(),
            region: record.region.clone(),
            company: record.company,
            project: record.project.clone(),
            member: record.member,
            name: format!("{} {}", s.name, utc(due)).into(),
            remark: "".into(),
            kind: SnapshotType::Automatic,
            disk: record.id.clone(),
            schedule: Some(index.intern(&s.name)),
            damaged: false,
        });
        if takes {
            record.rest.insert(tag, due.to_string());
        }
        if let Some(disk) = index.disk_mut(key) {
            disk.work = Some(if takes { Work::Snapshoting } else { Work::Binding });
        }
        for &key in &leaving {
            if let Some(snap) = index.snap_mut(key) {
                snap.state = SnapState::Leaving;
            }
            index.hide(key, true);
        }
        Some(Turn { key, record, snap, bytes, leaving })
    }

    fn take_turn(&self, turn: Turn) -> Result<()> {
        let mut claims = self.claims(vec![Undo::Disk(turn.key)]);
        claims.undo.extend(turn.leaving.iter().map(|&key| Undo::Leave(key)));
        let volume = self.store().volume_by_id(VolumeId(turn.key))?;
        let undo = &mut claims.undo;
        let made = self.store().update(|tx| {
            let mut made = None;
            if let Some(record) = turn.snap {
                let key = tx.snapshot(&volume, &record.id, record.tags())?.0;
                undo.push(Undo::Create(key));
                let (bytes, created, state) = (turn.bytes, self.now(), SnapState::Createing);
                let (of, disk_kind) = (turn.key, turn.record.kind);
                self.index_mut().add_snap(Snap {
                    record,
                    key,
                    volume: of,
                    disk_kind,
                    bytes,
                    created,
                    state,
                    copies: 0,
                });
                tx.set_volume_tags(&volume, turn.record.tags());
                made = Some(key);
            }
            turn.leaving.iter().for_each(|&key| tx.delete_snapshot(SnapshotId(key)));
            Ok(made)
        })?;
        made.into_iter().for_each(|key| self.created(key));
        let mut index = self.index_mut();
        if let Some(disk) = index.disk_mut(turn.key) {
            disk.record = turn.record;
        }
        for key in turn.leaving {
            if let Some(snap) = index.remove_snap(key) {
                index.release(snap);
            }
        }
        Ok(())
    }
}

/// `2026-01-31 23:59` for Unix seconds, in UTC.
pub(crate) fn utc(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days since 0000-03-01, in eras of 400 years that are all alike.
    let z = days + 719_468;
    let (era, day) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month_of_year) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = year + era * 400 + i64::from(month_of_year <= 2);
    format!("{year:04}-{month_of_year:02}-{day:02} {:02}:{:02}", rest / 3600, rest / 60 % 60)
}
