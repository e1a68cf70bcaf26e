//! `ls`: volumes, and under each the tree of its snapshots.

use crate::{
    failure::Outcome,
    image,
    session::Session,
    text::{self, bytes, columns, moment},
};
use serde_json::{Value, json};
use snapdisk::{Result, Snapshot, SnapshotId, Store, Volume, VolumeId};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Snapshots of one volume.
#[derive(Default)]
struct History {
    /// Those whose parent is none of them, oldest first.
    roots: Vec<SnapshotId>,
    children: HashMap<SnapshotId, Vec<SnapshotId>>,
}

struct Listing {
    volumes: Vec<Volume>,
    snapshots: BTreeMap<SnapshotId, Snapshot>,
    histories: BTreeMap<VolumeId, History>,
}

impl Listing {
    fn of(store: &Store) -> Result<Listing> {
        let mut volumes = store.volumes()?;
        let mut hidden = HashSet::new();
        for v in &volumes {
            if image::is_unfinished(v)? {
                hidden.insert(v.id());
            }
        }
        volumes.retain(|v| !hidden.contains(&v.id()));
        let snapshots: BTreeMap<_, _> = store.snapshots()?.into_iter().map(|s| (s.id(), s)).collect();
        let mut histories: BTreeMap<VolumeId, History> = BTreeMap::new();
        for (&id, s) in &snapshots {
            let history = histories.entry(s.volume()).or_default();
            // Ids grow, so a parent is older than its child and no chain can close.
            let parent = s.parent()?.filter(|p| *p < id && snapshots.get(p).is_some_and(|p| p.volume() == s.volume()));
            match parent {
                Some(parent) => history.children.entry(parent).or_default().push(id),
                None => history.roots.push(id),
            }
        }
        Ok(Listing { volumes, snapshots, histories })
    }
    /// `VOL@SNAP` where that names it, else `@ID`.
    fn reference(&self, id: SnapshotId) -> Result<String> {
        let Some(s) = self.snapshots.get(&id) else { return Ok(format!("@{id}")) };
        match self.volumes.iter().find(|v| v.id() == s.volume()) {
            Some(v) => Ok(format!("{}@{}", v.name()?, s.name()?)),
            None => Ok(format!("@{id}")),
        }
    }
}

pub(crate) fn run(session: &mut Session<'_>, as_json: bool) -> Outcome {
    session.reading(|store, console| {
        let listing = Listing::of(store)?;
        if as_json { console.emit_json(&to_json(&listing)?) } else { console.emit(&tree(&listing)?) }
    })
}

fn tree(listing: &Listing) -> Result<String> {
    let mut rows = Vec::new();
    let mut shown = HashSet::new();
    for v in &listing.volumes {
        let at = v.parent()?;
        let own = |id: &SnapshotId| listing.snapshots.get(id).is_some_and(|s| s.volume() == v.id());
        let note = match at.filter(|id| !own(id)) {
            Some(id) => format!("from {}", listing.reference(id)?),
            None => String::new(),
        };
        rows.push(vec![v.name()?, String::new(), bytes(v.size()?), moment(v.created()?), note]);
        shown.insert(v.id());
        if let Some(history) = listing.histories.get(&v.id()) {
            branch(listing, history, at, &mut rows)?;
        }
    }
    for (id, history) in listing.histories.iter().filter(|(id, _)| !shown.contains(id)) {
        rows.push(vec![format!("(deleted volume {id})"), String::new(), String::new(), String::new(), String::new()]);
        branch(listing, history, None, &mut rows)?;
    }
    for row in &mut rows {
        row.iter_mut().for_each(|cell| *cell = text::printable(cell));
    }
    Ok(if rows.is_empty() { String::new() } else { columns(&["NAME", " ID", " SIZE", "CREATED", "NOTE"], &rows) })
}

/// Lines of one volume's snapshots; `now` is the one that the volume's content comes from. A line without a branch mark goes
/// on from the line above it, so only branches make the tree deeper. Nothing recurses: a history is as deep as it is long.
fn branch(listing: &Listing, history: &History, now: Option<SnapshotId>, rows: &mut Vec<Vec<String>>) -> Result<()> {
    const WIDEST: usize = 96;
    let mut stack: Vec<(SnapshotId, String, String)> = Vec::new();
    let push = |stack: &mut Vec<(SnapshotId, String, String)>, ids: &[SnapshotId], lead: &str, chain: bool| match ids {
        [only] if chain => stack.push((*only, lead.to_owned(), lead.to_owned())),
        _ => {
            for (i, &id) in ids.iter().enumerate().rev() {
                let (mark, below) = if i + 1 == ids.len() { ("└─ ", "   ") } else { ("├─ ", "│  ") };
                let deeper = lead.len() < WIDEST;
                stack.push((
                    id,
                    format!("{lead}{mark}"),
                    if deeper { format!("{lead}{below}") } else { lead.to_owned() },
                ));
            }
        }
    };
    push(&mut stack, &history.roots, "", false);
    while let Some((id, lead, below)) = stack.pop() {
        let s = &listing.snapshots[&id];
        let note = if now == Some(id) { "<- the volume is here" } else { "" };
        rows.push(vec![lead + &s.name()?, format!("@{id}"), bytes(s.size()), moment(s.created()), note.to_owned()]);
        push(&mut stack, history.children.get(&id).map_or(&[][..], Vec::as_slice), &below, true);
    }
    Ok(())
}

fn to_json(listing: &Listing) -> Result<Value> {
    let mut volumes = Vec::new();
    for v in &listing.volumes {
        volumes.push(json!({
            "name": v.name()?,
            "id": v.id().0,
            "size": v.size()?,
            "created": moment(v.created()?),
            "parent": v.parent()?.map(|p| p.0),
            "tags": v.tags()?,
        }));
    }
    let names: HashMap<VolumeId, String> =
        listing.volumes.iter().map(|v| Ok((v.id(), v.name()?))).collect::<Result<_>>()?;
    let mut snapshots = Vec::new();
    for s in listing.snapshots.values() {
        snapshots.push(json!({
            "name": s.name()?,
            "id": s.id().0,
            "volume": names.get(&s.volume()),
            "volume_id": s.volume().0,
            "size": s.size(),
            "created": moment(s.created()),
            "parent": s.parent()?.map(|p| p.0),
            "tags": s.tags()?,
        }));
    }
    Ok(json!({"volumes": volumes, "snapshots": snapshots}))
}
