//! The flat service: actions by name, with parameters as they come on a wire.

use super::{
    code::{Fault, RetCode, shorten},
    disktypes::{
        AttachDisk, CloneDisk, CreateDisk, CreateDiskFromSnapshot, DeleteDisk, DescribeDisk, DescribeDiskResponse,
        DescribeRegion, DescribeRegionResponse, DetachDisk, DiskIdResponse, UpgradeDisk,
    },
    params::Params,
    read::read,
    service::SnapshotService,
    tenant::Caller,
    types::{
        CreateSnapshot, CreateSnapshotResponse, DeleteSnapshot, DescribeSnapshot, DescribeSnapshotResponse, Done,
        RollbackSnapshot,
    },
    validate::named_project,
};
use serde::Serialize;
use serde_json::{Map, Value};

type Answer = Result<Map<String, Value>, Fault>;

/// An action on the wire.
pub(crate) struct Action {
    pub(crate) name: &'static str,
    /// Parameters that must be present and not empty, in the order in which their absence is reported.
    pub(crate) required: &'static [&'static str],
    /// A sub-account must name the project of what it makes.
    in_project: bool,
    run: fn(&SnapshotService, &Caller, &Params) -> Answer,
    /// The schemas of its parameters and of its answer.
    #[cfg(feature = "http")]
    pub(crate) schemas: fn(&mut schemars::SchemaGenerator) -> (schemars::Schema, schemars::Schema),
}

/// Declares an action by its request, its answer, and the method that carries it out.
macro_rules! action {
    ($request:ident => $answer:ident, $required:expr, $in_project:expr, |$service:ident, $caller:ident, $r:ident| $call:expr) => {
        Action {
            name: stringify!($request),
            required: &$required,
            in_project: $in_project,
            run: |$service, $caller, params| {
                let $r: $request = read(params)?;
                let answer: $answer = $call;
                shape(answer)
            },
            #[cfg(feature = "http")]
            schemas: |all| (all.subschema_for::<$request>(), all.subschema_for::<$answer>()),
        }
    };
}

pub(crate) const TABLE: [Action; 13] = [
    action!(CreateSnapshot => CreateSnapshotResponse, ["Region", "Name", "DiskID"], true, |s, c, r| s.create_snapshot(c, &r)?),
    action!(DescribeSnapshot => DescribeSnapshotResponse, ["Region"], false, |s, c, r| s.describe_snapshot(c, &r)?),
    action!(RollbackSnapshot => Done, ["Region", "DiskID", "SnapshotID"], false, |s, c, r| s.rollback_snapshot(c, &r)?),
    action!(DeleteSnapshot => Done, ["Region", "SnapshotID"], false, |s, c, r| s.delete_snapshot(c, &r)?),
    action!(CreateDisk => DiskIdResponse, ["Region", "Name", "DiskSpace"], true, |s, c, r| s.create_disk(c, &r)?),
    action!(DescribeDisk => DescribeDiskResponse, ["Region"], false, |s, c, r| s.describe_disk(c, &r)?),
    action!(AttachDisk => Done, ["Region", "DiskID", "ResourceID"], false, |s, c, r| s.attach_disk(c, &r)?),
    action!(DetachDisk => Done, ["Region", "DiskID", "ResourceID"], false, |s, c, r| s.detach_disk(c, &r)?),
    action!(UpgradeDisk => Done, ["Region", "DiskID", "DiskSpace"], false, |s, c, r| s.upgrade_disk(c, &r)?),
    action!(CloneDisk => DiskIdResponse, ["Region", "SrcID", "Name"], false, |s, c, r| s.clone_disk(c, &r)?),
    action!(CreateDiskFromSnapshot => DiskIdResponse, ["Region", "SrcSnapshotID", "Name"], false, |s, c, r| {
        s.create_disk_from_snapshot(c, &r)?
    }),
    action!(DeleteDisk => Done, ["Region", "DiskID"], false, |s, c, r| s.delete_disk(c, &r)?),
    action!(DescribeRegion => DescribeRegionResponse, [], false, |s, _caller, _r| s.describe_region()),
];

/// The names of all actions.
pub const ACTIONS: [&str; TABLE.len()] = {
    let (mut out, mut i) = ([""; TABLE.len()], 0);
    while i < out.len() {
        out[i] = TABLE[i].name;
        i += 1;
    }
    out
};

/// Makes the answer of an action: `Action`, `RetCode`, `Message` and the result.
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

fn shape(answer: impl Serialize) -> Answer {
    match serde_json::to_value(answer) {
        Ok(Value::Object(map)) => Ok(map),
        _ => Err(Fault::new(RetCode::Internal, "internal error: an answer without a shape")),
    }
}

impl SnapshotService {
    /// Carries out an action and returns its answer, `RetCode` included. Unknown parameters are ignored.
    pub fn call(&self, caller: &Caller, action: &str, params: &Params) -> Value {
        match self.try_call(caller, action, params) {
            Ok(map) => answer(action, Ok(map)),
            Err(fault) => answer(action, Err(&fault)),
        }
    }

    /// [`SnapshotService::call`] that returns the fault, whose cause is for the operator only.
    pub fn try_call(&self, caller: &Caller, action: &str, params: &Params) -> Result<Map<String, Value>, Fault> {
        if action.is_empty() {
            return Err(Fault::new(RetCode::NoAction, "Action is required and missing or empty"));
        }
        let unknown = || Fault::new(RetCode::UnknownAction, format!("Action: {:?} does not exist", shorten(action)));
        let action = TABLE.iter().find(|a| a.name == action).ok_or_else(unknown)?;
        params.require(action.required)?;
        // An admin belongs to no company, so that the company of what is made has to be named.
        if action.name == "CreateDisk" && caller.admin && caller.company.is_none() {
            params.require(&["CompanyID"])?;
        }
        if action.in_project {
            named_project(caller, params.text("ProjectID")?.as_deref())?;
        }
        (action.run)(self, caller, params)
    }
}
