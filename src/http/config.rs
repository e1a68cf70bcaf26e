//! The configuration: regions, companies, members with their key pairs, limits, schedules. TOML.

use super::sign::Keys;
use crate::{
    Error, ErrorKind, Result,
    api::{Caller, Company, Directory, Every, Limits, Member, Project, Region, Schedule},
    io::{Host, SystemHost},
};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

/// Bytes that a configuration may have.
const CONFIG_MAX: u64 = 16 << 20;

/// A configuration, checked.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The address to listen at, if given.
    pub listen: Option<String>,
    /// The address of health and metrics, if any.
    pub metrics: Option<String>,
    /// The address by which people and clients know the server, if a proxy stands in front of it.
    pub public_url: Option<PublicUrl>,
    /// The proxy's address, if it is not on this host.
    pub proxy: Option<std::net::IpAddr>,
    /// Connections that one peer may have, if given.
    pub connections_per_peer: Option<usize>,
    /// Regions and tenants.
    pub directory: Directory,
    /// Who may call.
    pub keys: Keys,
    /// Automatic snapshots.
    pub schedules: Vec<Schedule>,
}

/// The address of a server for those who use it: scheme, host and port, as a browser names a page's origin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PublicUrl {
    origin: String,
}

impl PublicUrl {
    /// From `https://host` or `http://host:port`, without a path.
    pub fn parse(text: &str) -> Result<PublicUrl> {
        let origin = text.trim_end_matches('/').to_ascii_lowercase();
        let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
        let fine = |h: &str| !h.is_empty() && h.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b));
        match host.filter(|h| fine(h)) {
            // As browsers name it.
            Some(_) => {
                let port = if origin.starts_with("https:") { ":443" } else { ":80" };
                Ok(PublicUrl { origin: origin.strip_suffix(port).unwrap_or(&origin).to_owned() })
            }
            None => Err(wrong(format!("public_url {text:?}: https://host or http://host:port, without a path"))),
        }
    }
    /// What a browser sends as `Origin`.
    pub(super) fn origin(&self) -> &str {
        &self.origin
    }
    pub(super) fn is_secure(&self) -> bool {
        self.origin.starts_with("https:")
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    listen: Option<String>,
    metrics: Option<String>,
    public_url: Option<String>,
    proxy: Option<std::net::IpAddr>,
    connections_per_peer: Option<usize>,
    region: Vec<RegionEntry>,
    company: Vec<CompanyEntry>,
    #[serde(default)]
    admin: Vec<AdminEntry>,
    #[serde(default)]
    schedule: Vec<ScheduleEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RegionEntry {
    id: String,
    #[serde(default)]
    alias: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CompanyEntry {
    id: i64,
    #[serde(default)]
    name: String,
    #[serde(default = "default_snapshots")]
    snapshots_per_disk: u32,
    max_disks: Option<u64>,
    max_gib: Option<u64>,
    #[serde(default = "yes")]
    delete_snapshots: bool,
    project: Vec<ProjectEntry>,
    member: Vec<MemberEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProjectEntry {
    id: String,
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberEntry {
    id: i64,
    #[serde(default)]
    email: String,
    public_key: String,
    private_key: String,
    /// A second pair of keys, which replaces the first or is replaced by it.
    second_public_key: Option<String>,
    second_private_key: Option<String>,
    projects: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AdminEntry {
    public_key: String,
    private_key: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScheduleEntry {
    name: String,
    company: Option<i64>,
    #[serde(default)]
    disks: Vec<String>,
    every: String,
    at: String,
    #[serde(default = "default_keep")]
    keep: usize,
}

fn default_snapshots() -> u32 {
    10
}
fn default_keep() -> usize {
    10
}
fn yes() -> bool {
    true
}

fn wrong(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, what)
}

/// An id: 1 to 64 printable characters without blanks.
fn id(what: &str, text: &str) -> Result<()> {
    let fine = (1..=64).contains(&text.chars().count()) && !text.chars().any(|c| c.is_control() || c.is_whitespace());
    if fine { Ok(()) } else { Err(wrong(format!("{what} {text:?}: an id is 1 to 64 characters without blanks"))) }
}

/// Private keys never appear in messages.
fn key_pair(keys: &mut Keys, whose: &str, public: &str, private: &str, caller: Caller) -> Result<()> {
    if public.is_empty() || private.len() < 16 {
        return Err(wrong(format!("{whose}: a public_key, and a private_key of at least 16 characters")));
    }
    if !keys.add(public, private, caller) {
        return Err(wrong(format!("{whose}: its public_key is somebody else's as well")));
    }
    Ok(())
}

fn unique<T: Ord + std::fmt::Debug>(what: &str, list: impl IntoIterator<Item = T>) -> Result<()> {
    let mut seen = BTreeSet::new();
    for item in list {
        if seen.contains(&item) {
            return Err(wrong(format!("{what} {item:?} stands twice")));
        }
        seen.insert(item);
    }
    Ok(())
}

fn clock(text: &str) -> Option<(u8, u8)> {
    let (hour, minute) = text.split_once(':')?;
    let two = |t: &str, below: u8| (t.len() == 2).then(|| t.parse().ok()).flatten().filter(|&n: &u8| n < below);
    Some((two(hour, 24)?, two(minute, 60)?))
}

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

fn every(entry: &ScheduleEntry) -> Option<Every> {
    match &*entry.every {
        "hourly" => {
            let (_, minute) = clock(&format!("00{}", entry.at))?;
            Some(Every::Hour { minute })
        }
        "daily" => clock(&entry.at).map(|(hour, minute)| Every::Day { hour, minute }),
        "weekly" => {
            let (day, at) = entry.at.split_once(' ')?;
            let day = DAYS.iter().position(|d| *d == day)? as u8;
            clock(at).map(|(hour, minute)| Every::Week { day, hour, minute })
        }
        _ => None,
    }
}

impl CompanyEntry {
    fn check(&self) -> Result<()> {
        let me = format!("company {}", self.id);
        if self.id < 1 {
            return Err(wrong(format!("{me}: ids are above 0")));
        }
        if self.snapshots_per_disk > 200 {
            return Err(wrong(format!("{me}: snapshots_per_disk is 0 (no limit) to 200")));
        }
        if self.project.is_empty() || self.member.is_empty() {
            return Err(wrong(format!("{me}: it needs a project and a member")));
        }
        self.project.iter().try_for_each(|p| id(&format!("{me}: project"), &p.id))?;
        unique(&format!("{me}: project"), self.project.iter().map(|p| &p.id))?;
        unique(&format!("{me}: member"), self.member.iter().map(|m| m.id))?;
        for (i, m) in self.member.iter().enumerate() {
            let whose = format!("{me}, member {}", m.id);
            if m.id < 1 {
                return Err(wrong(format!("{whose}: ids are above 0")));
            }
            match (i, &m.projects) {
                (0, None) => {}
                (0, Some(_)) => {
                    return Err(wrong(format!("{whose}: the first member is the main account, of all projects")));
                }
                (_, None) => return Err(wrong(format!("{whose}: a sub-account names its projects"))),
                (_, Some(list)) => {
                    if let Some(p) = list.iter().find(|p| !self.project.iter().any(|q| q.id == **p)) {
                        return Err(wrong(format!("{whose}: project {p:?} does not exist")));
                    }
                }
            }
        }
        Ok(())
    }
}

impl Config {
    /// Reads and checks a file. A file that others than its owner may read or write is refused, since it holds private keys.
    pub fn load(path: impl AsRef<Path>) -> Result<Config> {
        let path = path.as_ref();
        let io = |e| Error::io(path.display(), e);
        let file = fs::File::open(path).map_err(io)?;
        let mode = file.metadata().map_err(io)?.mode();
        if mode & 0o077 != 0 {
            let what = "others may read or write it, and it holds private keys: chmod 600";
            return Err(wrong(format!("{}: mode {:03o}: {what}", path.display(), mode & 0o777)));
        }
        let mut text = String::new();
        file.take(CONFIG_MAX + 1).read_to_string(&mut text).map_err(io)?;
        if text.len() as u64 > CONFIG_MAX {
            return Err(wrong(format!("{}: longer than 16 MiB", path.display())));
        }
        Config::parse(&text).map_err(|e| e.at(path.display()))
    }

    /// Checks the text of a configuration.
    pub fn parse(text: &str) -> Result<Config> {
        let file: File = toml::from_str(text).map_err(|e| {
            // The whole error would quote the line, which may hold a key.
            let line = e.span().map_or(0, |s| text.get(..s.start).unwrap_or("").matches('\n').count() + 1);
            wrong(format!("line {line}: {}", e.message()))
        })?;
        if file.region.is_empty() || file.company.is_empty() {
            return Err(wrong("it needs a region and a company"));
        }
        file.region.iter().try_for_each(|r| id("region", &r.id))?;
        unique("region", file.region.iter().map(|r| &r.id))?;
        unique("company", file.company.iter().map(|c| c.id))?;
        unique("schedule", file.schedule.iter().map(|s| &s.name))?;
        let mut keys = Keys::default();
        let mut companies = BTreeMap::new();
        for (i, a) in file.admin.iter().enumerate() {
            key_pair(&mut keys, &format!("admin {}", i + 1), &a.public_key, &a.private_key, Caller::admin())?;
        }
        for c in file.company {
            c.check()?;
            for m in &c.member {
                let caller = Caller { company: Some(c.id), member: m.id, projects: m.projects.clone(), admin: false };
                let whose = format!("company {}, member {}", c.id, m.id);
                match (&m.second_public_key, &m.second_private_key) {
                    (None, None) => {}
                    (Some(public), Some(private)) => key_pair(&mut keys, &whose, public, private, caller.clone())?,
                    _ => return Err(wrong(format!("{whose}: of a second pair both keys are needed"))),
                }
                key_pair(&mut keys, &whose, &m.public_key, &m.private_key, caller)?;
            }
            let company = Company {
                id: c.id,
                name: c.name,
                projects: c.project.into_iter().map(|p| Project { id: p.id, name: p.name }).collect(),
                members: c.member.into_iter().map(|m| Member { id: m.id, email: m.email }).collect(),
                limits: Limits {
                    snapshots_per_disk: c.snapshots_per_disk,
                    disks: c.max_disks,
                    gib: c.max_gib,
                    delete_snapshots: c.delete_snapshots,
                },
            };
            companies.insert(c.id, company);
        }
        let mut schedules = Vec::new();
        for s in file.schedule {
            let me = format!("schedule {:?}", s.name);
            let fine = (1..=32).contains(&s.name.len())
                && s.name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
            if !fine {
                return Err(wrong(format!("{me}: a name is 1 to 32 of A-Z a-z 0-9 _ -")));
            }
            if !(1..=20).contains(&s.keep) {
                return Err(wrong(format!("{me}: keep is 1 to 20")));
            }
            if s.company.is_some_and(|c| !companies.contains_key(&c)) {
                return Err(wrong(format!("{me}: its company does not exist")));
            }
            let forms = "hourly at \":15\", daily at \"03:00\", weekly at \"sun 03:00\" (UTC)";
            let every = every(&s).ok_or_else(|| wrong(format!("{me}: every {:?} at {:?}: {forms}", s.every, s.at)))?;
            schedules.push(Schedule { name: s.name, company: s.company, disks: s.disks, every, keep: s.keep });
        }
        let regions = file
            .region
            .into_iter()
            .map(|r| Region { alias: if r.alias.is_empty() { r.id.clone() } else { r.alias }, id: r.id });
        let directory = Directory { regions: regions.collect(), companies };
        let public_url = file.public_url.map(|url| PublicUrl::parse(&url)).transpose()?;
        Ok(Config {
            listen: file.listen,
            metrics: file.metrics,
            public_url,
            proxy: file.proxy,
            connections_per_peer: file.connections_per_peer,
            directory,
            keys,
            schedules,
        })
    }

    /// Writes a first configuration, with fresh key pairs, readable by its owner only. `Exists` if there is a file of that name.
    pub fn init(path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(path);
        let mut file = file.map_err(|e| match e.kind() {
            std::io::ErrorKind::AlreadyExists => {
                Error::new(ErrorKind::Exists, format!("{}: it exists", path.display()))
            }
            _ => Error::io(path.display(), e),
        })?;
        let written = file.write_all(Config::template().as_bytes()).and_then(|()| file.sync_all());
        written.map_err(|e| Error::io(path.display(), e))
    }

    /// Makes a first configuration.
    pub fn template() -> String {
        let mut text = include_str!("template.toml").to_owned();
        for (mark, len) in [("PUBLIC", 40), ("PRIVATE", 64)] {
            while text.contains(mark) {
                text = text.replacen(mark, &random_key(len), 1);
            }
        }
        text
    }
}

/// Returns random characters of a URL's alphabet, in lower case so that no mark of the template occurs among them.
fn random_key(len: usize) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut out = String::new();
    while out.len() < len {
        let mut random = SystemHost.random();
        for _ in 0..12.min(len - out.len()) {
            out.push(ALPHABET[(random % 32) as usize].into());
            random /= 32;
        }
    }
    out
}
