//! The page of one disk: its snapshots, newest first, as a tree.

use super::view::{Place, Screen, esc, name, opening, space};
use crate::{
    SnapshotId, Volume,
    api::{DescribeDisk, DescribeSnapshot, DiskInfo, Fault, SnapshotInfo, SnapshotStatus, utc},
};
use std::{collections::HashMap, fmt::Write as _};

/// Snapshots on a page.
const SNAPSHOTS: u64 = 100;

/// A snapshot in its disk's tree.
struct Node<'a> {
    info: &'a SnapshotInfo,
    key: u64,
    children: Vec<usize>,
    parent: Option<usize>,
}

/// The snapshots of a page by what they were derived from; where the disk itself is.
struct Tree<'a> {
    /// Oldest first: a parent comes before its children.
    nodes: Vec<Node<'a>>,
    /// The node that the disk's content was derived from.
    head: Option<usize>,
    /// Whether a node is on the way from the head to its root.
    line: Vec<bool>,
}

impl<'a> Tree<'a> {
    fn of(volume: Option<&Volume>, list: &'a [SnapshotInfo]) -> Tree<'a> {
        let handles: Vec<_> = list.iter().map(|i| volume?.snapshot_named(&i.snapshot_id).ok()).collect();
        let at: HashMap<SnapshotId, usize> =
            handles.iter().enumerate().filter_map(|(i, h)| Some((h.as_ref()?.id(), i))).collect();
        let mut nodes: Vec<Node<'_>> = Vec::new();
        for (i, (info, handle)) in list.iter().zip(&handles).enumerate() {
            let parent = handle.as_ref().and_then(|h| h.parent().ok().flatten()).and_then(|p| at.get(&p).copied());
            // A parent is older; anything else would be no tree.
            let parent = parent.filter(|&p| p < i);
            if let Some(p) = parent {
                nodes[p].children.push(i);
            }
            nodes.push(Node { info, key: handle.as_ref().map_or(0, |h| h.id().0), children: Vec::new(), parent });
        }
        let head = volume.and_then(|v| v.parent().ok().flatten()).and_then(|p| at.get(&p).copied());
        let mut line = vec![false; nodes.len()];
        let mut next = head;
        while let Some(i) = next {
            line[i] = true;
            next = nodes[i].parent;
        }
        Tree { nodes, head, line }
    }

    /// How many snapshots a node has above it, itself included.
    fn size(&self, node: usize) -> usize {
        let mut all = vec![node];
        let mut i = 0;
        while i < all.len() {
            all.extend(&self.nodes[all[i]].children);
            i += 1;
        }
        all.len()
    }

    /// Returns the newest snapshot on the straight way on from `node`: the disk's own way, or else always the newest child.
    fn tip(&self, mut node: usize) -> usize {
        while self.head != Some(node) {
            let children = &self.nodes[node].children;
            match children.iter().copied().find(|&c| self.line[c]).or(children.last().copied()) {
                Some(next) => node = next,
                None => break,
            }
        }
        node
    }

    /// Renders the way from `tip` back to `root`; what branches off it is closed.
    fn draw(&self, screen: &Screen<'_>, disk: &DiskInfo, root: usize, out: &mut String) {
        let mut at = self.tip(root);
        let mut from = None;
        loop {
            let node = &self.nodes[at];
            let _ = write!(out, "<li id=\"{}\">", esc(&node.info.snapshot_id));
            screen.snapshot(disk, node.info, node.key, out);
            for &aside in node.children.iter().rev().filter(|&&c| Some(c) != from) {
                let mut inner = String::from("<ul>");
                self.draw(screen, disk, aside, &mut inner);
                inner.push_str("</ul>");
                let n = self.size(aside);
                let title = format!("{n} snapshot{} on another branch", if n == 1 { "" } else { "s" });
                let wanted = inner.contains(CHOSEN);
                let closed = opening("aside", &title, &inner);
                out.push_str(&if wanted { closed.replacen("<details", "<details open", 1) } else { closed });
            }
            out.push_str("</li>");
            if at == root {
                break;
            }
            from = Some(at);
            match node.parent {
                Some(parent) => at = parent,
                None => break,
            }
        }
    }
}

const NOW: &str = "<li class=\"now\" id=\"now\"><span class=\"dot\"></span><b>the disk now</b> (you are here)</li>";
/// Marks the snapshot whose actions are shown.
const CHOSEN: &str = "<div class=\"snap chosen\">";

impl Screen<'_> {
    /// The screen of the disk that the place names.
    pub(super) fn one_disk(&self, out: &mut String) -> Result<(), Fault> {
        let place = self.place;
        let request = DescribeDisk {
            region: place.region.to_owned(),
            disk_ids: Some(vec![place.disk.to_owned()]),
            ..DescribeDisk::default()
        };
        let Some(disk) = self.service.describe_disk(&self.session.caller, &request)?.infos.pop() else {
            out.push_str(
                "<p class=\"fault\" role=\"alert\">There is no such disk.</p><p><a href=\"/\">All disks</a></p>",
            );
            return Ok(());
        };
        let searched = !place.keyword.is_empty();
        let mut request = DescribeSnapshot {
            region: disk.region.clone(),
            disk_id: Some(disk.disk_id.clone()),
            limit: Some(1),
            ..DescribeSnapshot::default()
        };
        let all = self.service.describe_snapshot(&self.session.caller, &request)?.total_count;
        request.keyword = Some(place.keyword.to_owned());
        let total = self.service.describe_snapshot(&self.session.caller, &request)?.total_count;
        // Lists are oldest first, and pages are counted from the newest.
        let end = total.saturating_sub(place.offset);
        let begin = end.saturating_sub(SNAPSHOTS);
        (request.offset, request.limit) = (i64::try_from(begin).ok(), Some((end - begin).max(1) as i64));
        let mut list = self.service.describe_snapshot(&self.session.caller, &request)?.infos;
        list.truncate((end - begin) as usize);

        let _ = write!(
            out,
            "<p><a href=\"{}\">All disks</a></p>",
            esc(&Place { region: place.region, ..Place::default() }.address())
        );
        self.disk_head(&disk, all, list.last().filter(|_| !searched && place.offset == 0), out);
        if all > SNAPSHOTS || searched {
            out.push_str(&self.search("Find snapshots by name or remark"));
        }
        let volume = self.service.volume(&disk.disk_id).ok();
        let tree = Tree::of(volume.as_ref(), &list);
        out.push_str("<div class=\"tree\"><ul>");
        if searched {
            for node in tree.nodes.iter().rev() {
                let _ = write!(out, "<li id=\"{}\">", esc(&node.info.snapshot_id));
                self.snapshot(&disk, node.info, node.key, out);
                out.push_str("</li>");
            }
        } else {
            if place.offset == 0 || tree.head.is_some() {
                out.push_str(NOW);
            }
            let roots = (0..tree.nodes.len()).rev().filter(|&i| tree.nodes[i].parent.is_none());
            let (own, others): (Vec<usize>, Vec<usize>) = roots.partition(|&i| tree.line[i]);
            for root in own.into_iter().chain(others) {
                tree.draw(self, &disk, root, out);
            }
        }
        out.push_str("</ul></div>");
        if list.is_empty() {
            out.push_str(if searched {
                "<p>No snapshot has that in its name or remark.</p>"
            } else {
                "<p>No snapshots. Take one above: what the disk holds now can then be had back at any time.</p>"
            });
        }
        self.pages("Snapshots", list.len() as u64, SNAPSHOTS, total, out);
        out.push_str("</section>\n");
        Ok(())
    }

    fn snapshot(&self, disk: &DiskInfo, s: &SnapshotInfo, key: u64, out: &mut String) {
        let chosen = self.place.snapshot == s.snapshot_id;
        let usage = self.sizes.and_then(|all| all.snapshots.get(&key));
        let mark = if s.snapshot_status == SnapshotStatus::Normal {
            String::new()
        } else {
            format!(" <em>{:?}</em>", s.snapshot_status)
        };
        let remark = if s.remark.is_empty() { String::new() } else { format!(" <q>{}</q>", name(&s.remark)) };
        let _ = write!(
            out,
            "{}<span class=\"dot\"></span><b>{}</b>{mark}{remark}<span class=\"meta\">{} UTC · {:?} · {} · <code>{}</code>",
            if chosen { CHOSEN } else { "<div class=\"snap\">" },
            name(&s.name),
            utc(s.create_time),
            s.kind,
            space(self.sizes.is_some(), usage),
            esc(&s.snapshot_id),
        );
        if !chosen {
            let to = Place { snapshot: &s.snapshot_id, ..self.place }.address();
            let _ = write!(out, " <a href=\"{}#{}\">Actions</a></span></div>", esc(&to), esc(&s.snapshot_id));
            return;
        }
        let ids = [("Region", &*s.region), ("DiskID", &*s.disk_id), ("SnapshotID", &*s.snapshot_id)];
        let ask = format!(
            "<p>Everything on {} since its last snapshot is lost.</p><button class=\"danger\">Roll back</button>",
            name(&disk.name)
        );
        let back = opening("", "Roll back…", &self.form("/do", "RollbackSnapshot", &ids, &ask));
        let source = [ids[0], ("SrcSnapshotID", &*s.snapshot_id)];
        let ask = "<label>Name of the new disk<input name=\"Name\" required maxlength=\"128\"></label><button>Make disk</button>";
        let clone = opening("", "Clone…", &self.form("/do", "CreateDiskFromSnapshot", &source, ask));
        let ask = "<p>Delete this snapshot for good.</p><button class=\"danger\">Delete</button>";
        let gone = opening("", "Delete…", &self.form("/do", "DeleteSnapshot", &[ids[0], ids[2]], ask));
        let _ = write!(out, "</span><span class=\"acts\">{back}{clone}{gone}</span></div>");
    }
}
