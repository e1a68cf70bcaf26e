//! The caller of an action, and the directory of companies, projects and members: plain data, given by the embedder.

use super::code::{Fault, RetCode, shorten};
use std::collections::BTreeMap;

/// The caller of an action. The embedder has authenticated it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Caller {
    /// The company that the caller belongs to. An admin may have none.
    pub company: Option<i64>,
    /// The member's id; `0`: none.
    pub member: i64,
    /// The projects of a sub-account; `None`: all of the company's.
    pub projects: Option<Vec<String>>,
    /// Sees all companies, and may name one with `CompanyID`.
    pub admin: bool,
}

impl Caller {
    /// A caller who may do everything for everyone.
    pub fn admin() -> Caller {
        Caller { admin: true, ..Caller::default() }
    }
    /// The main account of a company.
    pub fn main(company: i64, member: i64) -> Caller {
        Caller { company: Some(company), member, projects: None, admin: false }
    }
    /// A sub-account, confined to some of its company's projects.
    pub fn sub(company: i64, member: i64, projects: impl IntoIterator<Item = impl Into<String>>) -> Caller {
        let projects = projects.into_iter().map(Into::into).collect();
        Caller { company: Some(company), member, projects: Some(projects), admin: false }
    }
}

/// A region that the service answers for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Region {
    /// What `Region` names.
    pub id: String,
    /// For people.
    pub alias: String,
}

/// A project of a company.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Project {
    /// What `ProjectID` names.
    pub id: String,
    /// For people: `ProjectName`.
    pub name: String,
}

/// A member of a company.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// What `MemberID` names; above 0.
    pub id: i64,
    /// The answer's `Email`.
    pub email: String,
}

/// What a company may use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Manual snapshots of a disk, 0 to 200; 0: no limit. Default 10.
    pub snapshots_per_disk: u32,
    /// Disks; `None`: no limit.
    pub disks: Option<u64>,
    /// GiB of all its disks together; `None`: no limit.
    pub gib: Option<u64>,
    /// Whether snapshots may be deleted.
    pub delete_snapshots: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { snapshots_per_disk: 10, disks: None, gib: None, delete_snapshots: true }
    }
}

/// A tenant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Company {
    /// What `CompanyID` names.
    pub id: i64,
    /// For people.
    pub name: String,
    /// Its projects, at least one; the first is the default.
    pub projects: Vec<Project>,
    /// Who belongs to it.
    pub members: Vec<Member>,
    /// Its limits.
    pub limits: Limits,
}

impl Company {
    /// A company with one project, `default`.
    pub fn new(id: i64, name: impl Into<String>) -> Company {
        let projects = vec![Project { id: "default".to_owned(), name: "default".to_owned() }];
        Company { id, name: name.into(), projects, members: Vec::new(), limits: Limits::default() }
    }
    pub(super) fn project(&self, id: &str) -> Option<&Project> {
        self.projects.iter().find(|p| p.id == id)
    }
}

/// All tenants and regions. Replaced as a whole: see [`super::SnapshotService::set_directory`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Directory {
    /// Regions, at least one.
    pub regions: Vec<Region>,
    /// Companies, by id.
    pub companies: BTreeMap<i64, Company>,
}

impl Default for Directory {
    /// Region `cn` and company 1 with the project `default`.
    fn default() -> Self {
        let region = Region { id: "cn".to_owned(), alias: "cn".to_owned() };
        Directory { regions: vec![region], companies: BTreeMap::from([(1, Company::new(1, "company"))]) }
    }
}

/// What a call may see: a region, one company or all, some projects or all.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    pub(super) region: String,
    pub(super) company: Option<i64>,
    pub(super) projects: Option<Vec<String>>,
}

impl Scope {
    pub(super) fn sees(&self, region: &str, company: i64, project: &str) -> bool {
        self.region == region
            && self.company.is_none_or(|c| c == company)
            && self.projects.as_ref().is_none_or(|list| list.iter().any(|p| p == project))
    }
}

impl Directory {
    /// Checks region, company and projects of a call, in the contract's order: 400, then 27001.
    pub(super) fn scope(&self, caller: &Caller, region: &str, company: Option<i64>) -> Result<Scope, Fault> {
        if !self.regions.iter().any(|r| r.id == region) {
            return Err(Fault::new(RetCode::UnknownRegion, format!("Region: {:?} does not exist", shorten(region))));
        }
        // "Only takes effect for admin": for anyone else it counts as absent.
        let company = if caller.admin { company } else { Some(caller.company.unwrap_or(0)) };
        if let Some(id) = company.filter(|id| !self.companies.contains_key(id)) {
            return Err(Fault::new(RetCode::UnknownCompany, format!("CompanyID: {id} does not exist")));
        }
        let projects = if caller.admin { None } else { caller.projects.clone() };
        Ok(Scope { region: region.to_owned(), company, projects })
    }

    /// Returns the project of something new that belongs to `company`.
    pub(super) fn project(&self, caller: &Caller, company: i64, wanted: Option<&str>) -> Result<String, Fault> {
        let confined = caller.projects.as_ref().filter(|_| !caller.admin);
        let known = self.companies.get(&company);
        match wanted {
            Some(id) => {
                let known = known.is_some_and(|c| c.project(id).is_some());
                let own = confined.is_none_or(|list| list.iter().any(|p| p == id));
                if known && own {
                    return Ok(id.to_owned());
                }
                Err(Fault::new(RetCode::UnknownProject, format!("ProjectID: {:?} does not exist", shorten(id))))
            }
            None => Ok(known.and_then(|c| c.projects.first()).map_or_else(String::new, |p| p.id.clone())),
        }
    }
    /// Checks for 651 where that is possible before the disk is known: the company of an admin's call may follow from the disk.
    pub(super) fn known_project(
        &self,
        caller: &Caller,
        company: Option<i64>,
        wanted: Option<&str>,
    ) -> Result<(), Fault> {
        match (company, wanted) {
            (_, None) => Ok(()),
            (Some(company), wanted) => self.project(caller, company, wanted).map(drop),
            (None, Some(id)) if self.companies.values().any(|c| c.project(id).is_some()) => Ok(()),
            (None, wanted) => self.project(caller, 0, wanted).map(drop),
        }
    }
    /// Returns the member of `company` that owns something new: the one that is named, or the caller. A company without a list of members
    /// accepts any.
    pub(super) fn owner(&self, caller: &Caller, company: i64, wanted: Option<i64>) -> Result<i64, Fault> {
        let Some(id) = wanted else { return Ok(caller.member) };
        let members = self.companies.get(&company).map_or(&[][..], |c| &c.members);
        let known = id == 0 || members.is_empty() || members.iter().any(|m| m.id == id);
        if known { Ok(id) } else { Err(Fault::new(RetCode::NotFound, format!("MemberID: {id} does not exist"))) }
    }
    pub(super) fn limits(&self, company: i64) -> Limits {
        self.companies.get(&company).map(|c| c.limits.clone()).unwrap_or_default()
    }
    pub(super) fn email(&self, company: i64, member: i64) -> String {
        let members = self.companies.get(&company).map_or(&[][..], |c| &c.members);
        members.iter().find(|m| m.id == member).map_or_else(String::new, |m| m.email.clone())
    }
    pub(super) fn project_name(&self, company: i64, project: &str) -> String {
        let project = self.companies.get(&company).and_then(|c| c.project(project));
        project.map_or_else(String::new, |p| p.name.clone())
    }
}
