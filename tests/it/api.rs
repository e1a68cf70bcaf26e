//! The snapshot service: the contract, row by row, through the flat service; what only a slow disk shows; tenants at random.

mod attached;
mod contract;
mod crash;
mod disks;
mod gate;
mod lists;
#[cfg(feature = "http")]
mod openapi;
#[cfg(feature = "http")]
mod pages;
#[cfg(all(feature = "cli", feature = "http"))]
mod process;
mod random;
mod schedule;
mod scrub;
#[cfg(feature = "http")]
mod server;
mod tenants;
#[cfg(feature = "http")]
mod wire;

use serde_json::Value;
use snapdisk::{
    Options, Store,
    api::{Caller, Company, Directory, Member, Params, Project, SnapshotService},
    io::{Backend, Host, MemoryBackend},
};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::SeqCst},
};

/// Time that stands still until told, and random numbers that repeat.
pub(crate) struct Clock {
    pub(crate) seconds: AtomicU64,
    random: AtomicU64,
}

impl Clock {
    pub(crate) fn at(seconds: u64) -> Arc<Clock> {
        Arc::new(Clock { seconds: AtomicU64::new(seconds), random: AtomicU64::new(seconds) })
    }
}

impl Host for Clock {
    fn now(&self) -> u64 {
        self.seconds.load(SeqCst) * 1_000_000_000
    }
    fn random(&self) -> u64 {
        self.random.fetch_add(1, SeqCst).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23)
    }
}

pub(crate) const START: u64 = 1_700_000_000;

/// Regions `cn` and `eu`; company 1 with projects `default` and `p1`, company 2 with `default` and `q1`.
pub(crate) fn directory() -> Directory {
    let mut directory = Directory::default();
    directory.regions.push(snapdisk::api::Region { id: "eu".into(), alias: "Europe".into() });
    for (id, extra) in [(1, "p1"), (2, "q1")] {
        let mut company = Company::new(id, format!("company {id}"));
        company.projects.push(Project { id: extra.into(), name: format!("Project {extra}") });
        company.members.push(Member { id: 7, email: format!("seven@{id}.example") });
        company.members.push(Member { id: 8, email: format!("eight@{id}.example") });
        directory.companies.insert(id, company);
    }
    directory
}

pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) service: SnapshotService,
    pub(crate) clock: Arc<Clock>,
}

impl World {
    pub(crate) fn new() -> World {
        World::over(Arc::new(MemoryBackend::new()))
    }
    pub(crate) fn over(backend: Arc<dyn Backend>) -> World {
        let clock = Clock::at(START);
        let store =
            Options::new().manual_maintenance(true).log_bytes(1 << 20).create_on(backend, clock.clone()).unwrap();
        let service = SnapshotService::with_host(store.clone(), directory(), clock.clone()).unwrap();
        World { store, service, clock }
    }
    /// The service made anew over the same store: what it knows then is what the catalog keeps.
    pub(crate) fn again(&self) -> SnapshotService {
        SnapshotService::with_host(self.store.clone(), directory(), self.clock.clone()).unwrap()
    }
    pub(crate) fn call(&self, caller: &Caller, action: &str, params: &[(&str, &str)]) -> Value {
        let answer = self.service.call(caller, action, &Params::from_pairs(params.iter().copied()).unwrap());
        assert_eq!(answer["Action"], format!("{action}Response"));
        assert_eq!(answer["Message"] == "", answer["RetCode"] == 0, "{answer}");
        answer
    }
    pub(crate) fn code(&self, caller: &Caller, action: &str, params: &[(&str, &str)]) -> u64 {
        self.call(caller, action, params)["RetCode"].as_u64().unwrap()
    }
    /// A call that must work, and a text of its answer.
    pub(crate) fn get(&self, caller: &Caller, action: &str, params: &[(&str, &str)], field: &str) -> String {
        let answer = self.call(caller, action, params);
        assert_eq!(answer["RetCode"], 0, "{action} {params:?}: {answer}");
        answer[field].as_str().unwrap_or_default().to_owned()
    }
    pub(crate) fn disk(&self, caller: &Caller) -> String {
        let project = caller.projects.as_ref().map_or(String::new(), |p| p[0].clone());
        let company = if caller.admin { "1" } else { "" };
        let params =
            [("Region", "cn"), ("Name", "disk"), ("DiskSpace", "1"), ("ProjectID", &project), ("CompanyID", company)];
        self.get(caller, "CreateDisk", &params, "DiskID")
    }
    pub(crate) fn snapshot(&self, caller: &Caller, disk: &str, name: &str) -> String {
        let project = caller.projects.as_ref().map_or(String::new(), |p| p[0].clone());
        let params = [("Region", "cn"), ("Name", name), ("DiskID", disk), ("ProjectID", &project)];
        self.get(caller, "CreateSnapshot", &params, "SnapshotID")
    }
    /// DescribeSnapshot in region `cn`.
    pub(crate) fn list(&self, caller: &Caller, more: &[(&str, &str)]) -> (u64, Vec<Value>) {
        let params: Vec<_> = [("Region", "cn")].iter().chain(more).copied().collect();
        let answer = self.call(caller, "DescribeSnapshot", &params);
        assert_eq!(answer["RetCode"], 0, "{answer}");
        (answer["TotalCount"].as_u64().unwrap(), answer["Infos"].as_array().unwrap().clone())
    }
    pub(crate) fn names(&self, caller: &Caller, more: &[(&str, &str)]) -> Vec<String> {
        self.list(caller, more).1.iter().map(|i| i["Name"].as_str().unwrap().to_owned()).collect()
    }
    pub(crate) fn fill(&self, disk: &str, byte: u8) {
        self.store.volume(disk).unwrap().write_at(&[byte; 10_000], 5_000).unwrap();
    }
    pub(crate) fn byte(&self, disk: &str) -> u8 {
        let mut buf = [0; 10_000];
        self.store.volume(disk).unwrap().read_at(&mut buf, 5_000).unwrap();
        assert!(buf.iter().all(|&b| b == buf[0]));
        buf[0]
    }
    /// Everything that anyone can see.
    pub(crate) fn everything(&self) -> Value {
        let admin = Caller::admin();
        let (mut snapshots, mut disks) = (Vec::new(), Vec::new());
        for region in ["cn", "eu"] {
            let params = [("Region", region), ("Limit", "100")];
            snapshots.push(self.call(&admin, "DescribeSnapshot", &params));
            disks.push(self.call(&admin, "DescribeDisk", &params));
        }
        serde_json::json!([snapshots, disks])
    }
}

pub(crate) fn main_account() -> Caller {
    Caller::main(1, 7)
}
