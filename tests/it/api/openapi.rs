//! The description for other programs: it says of each action what the contract's tables in docs/api.md say.

use serde_json::Value;
use snapdisk::{api::ACTIONS, http::openapi};
use std::collections::{BTreeMap, BTreeSet};

/// Parameters by action, each with whether it is required, as the document has them: in back quotes, in the paragraph below `### Action` or in
/// the second cell of a row; what stands in parentheses are values.
fn documented() -> BTreeMap<String, BTreeMap<String, bool>> {
    let text = include_str!("../../../docs/api.md");
    let mut out = BTreeMap::new();
    let sections = text.split("\n### ").skip(1).filter_map(|s| s.split("\n\n").next()?.split_once('\n'));
    let rows = text.lines().filter_map(|l| l.strip_prefix("| `")?.split_once(" | "));
    for (names, rest) in sections.chain(rows) {
        let cell = if rest.starts_with('|') { "" } else { rest.split(" | ").next().unwrap() };
        let outside: String = cell.split('(').map(|s| s.split_once(')').map_or(s, |(_, rest)| rest)).collect();
        // Of an admin alone.
        let outside = outside.replace("of an admin `CompanyID*`", "`CompanyID`");
        let parameters = outside
            .split('`')
            .skip(1)
            .step_by(2)
            .map(|n| (n.trim_end_matches('*').trim_end_matches(".N").to_owned(), n.ends_with('*')));
        let parameters: BTreeMap<String, bool> = parameters.collect();
        for name in names.split(", ").map(|n| n.trim_matches('`')).filter(|n| ACTIONS.contains(n)) {
            out.entry(name.to_owned()).or_insert_with(|| parameters.clone());
        }
    }
    out
}

fn resolve<'a>(all: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(path) => &all["components"]["schemas"][path.rsplit('/').next().unwrap()],
        None => schema,
    }
}

#[test]
fn the_description_is_the_contracts() {
    let all = openapi();
    for action in ACTIONS {
        let call = &all["components"]["schemas"][format!("{action}Call")];
        let request = resolve(&all, &call["allOf"][2]);
        let required: BTreeSet<&str> =
            request["required"].as_array().into_iter().flatten().map(|v| v.as_str().unwrap()).collect();
        let fields: BTreeMap<String, bool> = request["properties"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, _)| (name.clone(), required.contains(name.as_str())))
            .collect();
        let told = documented().remove(action).unwrap_or_else(|| panic!("{action} is not in docs/api.md"));
        for (name, required) in &told {
            assert_eq!(fields.get(name), Some(required), "{action}: {name}");
        }
        let required: Vec<_> = fields.iter().filter(|f| *f.1).map(|f| f.0).collect();
        assert!(required.iter().all(|n| told.contains_key(*n)), "{action}: {required:?} {told:?}");
    }
    // Every reference leads somewhere.
    fn refs(v: &Value, out: &mut Vec<String>) {
        match v {
            Value::Object(map) => map.iter().for_each(|(k, v)| match v.as_str() {
                Some(path) if k == "$ref" => out.push(path.to_owned()),
                _ => refs(v, out),
            }),
            Value::Array(list) => list.iter().for_each(|v| refs(v, out)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    refs(&all, &mut found);
    assert!(found.len() > 40);
    for path in found {
        assert!(all.pointer(path.strip_prefix('#').unwrap()).is_some(), "{path}");
    }
    let info = &all["components"]["schemas"]["SnapshotInfo"];
    assert_eq!(info["properties"].as_object().unwrap().len(), 16);
    assert_eq!(info["required"].as_array().unwrap().len(), 16, "all of them, always");
}
