//! Carries out actions and records who asked for what, for the API and the page alike.

use crate::api::{Caller, Fault, Params, SnapshotService, shorten};
use serde_json::{Map, Value};

/// Parameters that name objects; `ProjectIDs` and their like are filters and name none.
const OBJECTS: [&str; 8] =
    ["CompanyID", "MemberID", "ProjectID", "DiskID", "SnapshotID", "SrcID", "SrcSnapshotID", "ResourceID"];

/// What the log says of an action: never a key, a signature or content.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Audit {
    /// The action that was asked for.
    pub action: String,
    /// The RetCode of its answer.
    pub code: u16,
    /// The caller, once it is known.
    pub caller: Option<Caller>,
    /// The parameters and results that name objects, as they were sent.
    pub objects: Vec<(&'static str, String)>,
    /// The store's error, if the action failed.
    pub cause: Option<crate::Error>,
}

/// Carries out an action for a known caller.
pub(super) fn perform(
    service: &SnapshotService,
    caller: &Caller,
    action: &str,
    params: &Params,
) -> (Result<Map<String, Value>, Fault>, Audit) {
    let mut audit = Audit { action: action.to_owned(), caller: Some(caller.clone()), ..Audit::default() };
    let text = |v: &Value| shorten(&v.as_str().map_or_else(|| v.to_string(), str::to_owned));
    let named = params.iter().filter_map(|(name, v)| OBJECTS.iter().find(|o| **o == name).map(|o| (*o, text(v))));
    audit.objects.extend(named.filter(|(_, v)| !v.is_empty()));
    let outcome = service.try_call(caller, action, params);
    match &outcome {
        Ok(map) => {
            let made = OBJECTS.iter().filter_map(|o| map.get(*o).map(|v| (*o, text(v))));
            audit.objects.extend(made);
        }
        Err(fault) => audit.fail(fault),
    }
    (outcome, audit)
}

impl Audit {
    pub(super) fn fail(&mut self, fault: &Fault) {
        (self.code, self.cause) = (fault.code().number(), fault.cause().cloned());
    }
    /// The fields of the log's line.
    pub(super) fn fields(&self) -> Map<String, Value> {
        let mut out = Map::new();
        let mut put = |name: &str, value: Value| drop(out.insert(name.to_owned(), value));
        put("action", shorten(&self.action).into());
        put("code", self.code.into());
        if let Some(caller) = &self.caller {
            put("company", caller.company.into());
            put("member", caller.member.into());
            put("admin", caller.admin.into());
        }
        for (name, value) in &self.objects {
            put(name, value.as_str().into());
        }
        if let Some(cause) = &self.cause {
            put("cause", format!("{cause:?}").into());
        }
        out
    }
}
