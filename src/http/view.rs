//! The page's HTML: disks, and the tree that their snapshots are.

use super::{page::Sizes, session::Session};
use crate::{
    SnapshotId,
    api::{
        DescribeDisk, DescribeSnapshot, DiskInfo, DiskStatus, Fault, SnapshotInfo, SnapshotService, SnapshotStatus, utc,
    },
};
use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
};

/// Disks on a page.
const DISKS: u64 = 20;
/// Snapshots of a disk that are shown, the newest.
const SNAPSHOTS: u64 = 200;

const STYLE: &str = include_str!("style.css");

/// What a page is made of.
pub(super) struct Screen<'a> {
    pub(super) service: &'a SnapshotService,
    pub(super) session: &'a Session,
    pub(super) region: &'a str,
    pub(super) offset: u64,
    pub(super) sizes: &'a Sizes,
    pub(super) fault: &'a str,
    pub(super) done: &'a str,
}

/// Text as HTML, in attributes too.
fn esc(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

fn frame(body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\"><title>snapdisk</title><style>{STYLE}</style></head>\n<body>\n{body}</body></html>\n"
    )
}

pub(super) fn message(text: &str) -> String {
    frame(&format!("<main><p class=\"fault\" role=\"alert\">{}</p><p><a href=\"/\">Back</a></p></main>\n", esc(text)))
}

pub(super) fn sign_in(fault: &str) -> String {
    let fault =
        if fault.is_empty() { String::new() } else { format!("<p class=\"fault\" role=\"alert\">{}</p>", esc(fault)) };
    frame(&format!(
        "<main class=\"signin\"><h1>snapdisk</h1>{fault}<form method=\"post\" action=\"/signin\">\
         <label>Public key<input name=\"public_key\" autocomplete=\"username\" required autofocus></label>\
         <label>Private key<input name=\"private_key\" type=\"password\" autocomplete=\"current-password\" required></label>\
         <button>Sign in</button></form></main>\n"
    ))
}

/// A size for people, in powers of 1024.
fn human(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let unit = (0..5).rev().find(|u| bytes >= 1 << (10 * (u + 1))).map_or(0, |u| u + 1);
    if unit == 0 {
        return format!("{bytes} B");
    }
    let tenths = (u128::from(bytes) * 10) >> (10 * unit);
    if tenths >= 100 {
        format!("{} {}", tenths / 10, UNITS[unit])
    } else {
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    }
}

/// A snapshot in its disk's tree.
struct Node<'a> {
    info: &'a SnapshotInfo,
    key: u64,
    children: Vec<usize>,
}

/// The snapshots of a disk by what they were derived from; where the disk itself is.
struct Tree<'a> {
    nodes: Vec<Node<'a>>,
    roots: Vec<usize>,
    /// The node that the disk's content was derived from.
    head: Option<usize>,
    /// The nodes from a root to the head.
    line: Vec<bool>,
}

impl<'a> Tree<'a> {
    fn of(service: &SnapshotService, disk: &str, list: &'a [SnapshotInfo]) -> Tree<'a> {
        let volume = service.volume(disk).ok();
        let handles: Vec<_> = list.iter().map(|i| volume.as_ref()?.snapshot_named(&i.snapshot_id).ok()).collect();
        let at: HashMap<SnapshotId, usize> =
            handles.iter().enumerate().filter_map(|(i, h)| Some((h.as_ref()?.id(), i))).collect();
        let mut nodes: Vec<Node<'_>> = list
            .iter()
            .zip(&handles)
            .map(|(info, h)| Node { info, key: h.as_ref().map_or(0, |h| h.id().0), children: Vec::new() })
            .collect();
        let mut parents = Vec::new();
        let mut roots = Vec::new();
        for (i, handle) in handles.iter().enumerate() {
            let parent = handle.as_ref().and_then(|h| h.parent().ok().flatten()).and_then(|p| at.get(&p).copied());
            // A parent is older; anything else would be no tree.
            let parent = parent.filter(|&p| p < i);
            match parent {
                Some(p) => nodes[p].children.push(i),
                None => roots.push(i),
            }
            parents.push(parent);
        }
        let head = volume.and_then(|v| v.parent().ok().flatten()).and_then(|p| at.get(&p).copied());
        let mut line = vec![false; nodes.len()];
        let mut next = head;
        while let Some(i) = next {
            line[i] = true;
            next = parents[i];
        }
        Tree { nodes, roots, head, line }
    }

    /// Draws the siblings `list` as one list: the last one's line goes straight on, the others branch off.
    fn draw(&self, screen: &Screen<'_>, disk: &DiskInfo, list: &[usize], out: &mut String) {
        out.push_str("<ul>");
        for &start in list {
            let mut at = start;
            loop {
                let node = &self.nodes[at];
                out.push_str("<li>");
                screen.snapshot(disk, node, out);
                // The disk's own line goes straight on, or else the newest.
                let straight = node.children.iter().copied().find(|&c| self.line[c]);
                let ends_here = self.head == Some(at);
                let straight = if ends_here { None } else { straight.or(node.children.last().copied()) };
                let aside: Vec<usize> = node.children.iter().copied().filter(|&c| Some(c) != straight).collect();
                if !aside.is_empty() {
                    self.draw(screen, disk, &aside, out);
                }
                out.push_str("</li>");
                if ends_here {
                    out.push_str(NOW);
                }
                match straight {
                    Some(next) => at = next,
                    None => break,
                }
            }
        }
        out.push_str("</ul>");
    }
}

const NOW: &str = "<li class=\"now\"><span class=\"dot\"></span><b>the disk now</b></li>";

impl Screen<'_> {
    pub(super) fn draw(&self) -> Result<String, Fault> {
        let directory = self.service.directory();
        let caller = &self.session.caller;
        let region = directory.regions.iter().find(|r| r.id == self.region).or(directory.regions.first());
        let region = region.map_or("", |r| &r.id);
        let wish = DescribeDisk {
            region: region.to_owned(),
            offset: i64::try_from(self.offset).ok(),
            limit: Some(DISKS as i64),
            ..DescribeDisk::default()
        };
        let disks = self.service.describe_disk(caller, &wish)?;
        let mut out = String::from("<header><h1>snapdisk</h1><nav>");
        if directory.regions.len() > 1 {
            for r in &directory.regions {
                let here = if r.id == region { " aria-current=\"page\"" } else { "" };
                let _ = write!(out, "<a href=\"/?Region={}\"{here}>{}</a>", url(&r.id), esc(&r.alias));
            }
        }
        let who = match (caller.admin, caller.company.and_then(|c| directory.companies.get(&c))) {
            (true, _) => "admin".to_owned(),
            (false, Some(c)) => format!("{}, member {}", c.name, caller.member),
            (false, None) => String::new(),
        };
        let _ =
            write!(out, "<span>{}</span>{}", esc(&who), self.form("/signout", "", &[], "<button>Sign out</button>"));
        out.push_str("</nav></header>\n<main>");
        if !self.fault.is_empty() {
            let _ = write!(out, "<p class=\"fault\" role=\"alert\">{}</p>", esc(self.fault));
        } else if !self.done.is_empty() {
            let _ = write!(out, "<p class=\"done\" role=\"status\">Done: {}.</p>", esc(said(self.done)));
        }
        self.new_disk(region, &mut out);
        if disks.infos.is_empty() {
            out.push_str("<p>No disks yet.</p>");
        }
        for disk in &disks.infos {
            self.disk(disk, &mut out)?;
        }
        let (shown, total) = (self.offset + disks.infos.len() as u64, disks.total_count);
        if self.offset > 0 || shown < total {
            let _ = write!(out, "<p class=\"pages\">Disks {}–{shown} of {total}", (self.offset + 1).min(shown));
            let mut link = |to: u64, text: &str| {
                let _ = write!(out, " <a href=\"/?Region={}&amp;offset={to}\">{text}</a>", url(region));
            };
            if self.offset > 0 {
                link(self.offset.saturating_sub(DISKS), "Back");
            }
            if shown < total {
                link(self.offset + DISKS, "Next");
            }
            out.push_str("</p>");
        }
        out.push_str("</main>\n");
        Ok(frame(&out))
    }

    /// A form with its token and hidden fields; `Action` if there is one.
    fn form(&self, to: &str, action: &str, hidden: &[(&str, &str)], inner: &str) -> String {
        let mut out = format!(
            "<form method=\"post\" action=\"{to}\"><input type=\"hidden\" name=\"token\" value=\"{}\">",
            self.session.form_token
        );
        let offset = self.offset.to_string();
        let fixed = [("Action", action), ("offset", &*offset)];
        let fixed = if action.is_empty() { &[][..] } else { &fixed[..] };
        for (name, value) in fixed.iter().chain(hidden) {
            let _ = write!(out, "<input type=\"hidden\" name=\"{name}\" value=\"{}\">", esc(value));
        }
        out + inner + "</form>"
    }

    /// A choice of projects for those who must make one.
    fn projects(&self, company: i64) -> String {
        let directory = self.service.directory();
        let Some(company) = directory.companies.get(&company) else { return String::new() };
        let own = self.session.caller.projects.as_ref().filter(|_| !self.session.caller.admin);
        let mut out = String::from("<label>Project<select name=\"ProjectID\">");
        for p in company.projects.iter().filter(|p| own.is_none_or(|list| list.contains(&p.id))) {
            let name = if p.name.is_empty() { &p.id } else { &p.name };
            let _ = write!(out, "<option value=\"{}\">{}</option>", esc(&p.id), esc(name));
        }
        out + "</select></label>"
    }

    fn new_disk(&self, region: &str, out: &mut String) {
        let caller = &self.session.caller;
        let mut inner = String::from(
            "<label>Name<input name=\"Name\" required maxlength=\"128\"></label>\
             <label>GiB<input name=\"DiskSpace\" type=\"number\" min=\"1\" max=\"32000\" value=\"10\" required></label>",
        );
        if caller.admin {
            inner.push_str("<label>Company<select name=\"CompanyID\">");
            for c in self.service.directory().companies.values() {
                let _ = write!(inner, "<option value=\"{}\">{}</option>", c.id, esc(&c.name));
            }
            inner.push_str("</select></label>");
        } else {
            inner.push_str(&self.projects(caller.company.unwrap_or(0)));
        }
        inner.push_str("<button>Create disk</button>");
        let form = self.form("/do", "CreateDisk", &[("Region", region)], &inner);
        let _ = write!(out, "<details class=\"new\"><summary>New disk</summary>{form}</details>");
    }

    fn disk(&self, disk: &DiskInfo, out: &mut String) -> Result<(), Fault> {
        let mut list = Vec::new();
        let mut wish = DescribeSnapshot {
            region: disk.region.clone(),
            disk_id: Some(disk.disk_id.clone()),
            limit: Some(1),
            ..DescribeSnapshot::default()
        };
        let total = self.service.describe_snapshot(&self.session.caller, &wish)?.total_count;
        let mut offset = total.saturating_sub(SNAPSHOTS);
        wish.limit = Some(100);
        while offset < total {
            wish.offset = i64::try_from(offset).ok();
            let page = self.service.describe_snapshot(&self.session.caller, &wish)?;
            if page.infos.is_empty() {
                break;
            }
            offset += page.infos.len() as u64;
            list.extend(page.infos);
        }
        let directory = self.service.directory();
        let status = if disk.disk_status == DiskStatus::Bound {
            format!("bound to {} {}", disk.attach_resource_type, disk.attach_resource_id)
        } else {
            format!("{:?}", disk.disk_status)
        };
        let company = if self.session.caller.admin {
            directory.companies.get(&disk.company_id).map_or_else(String::new, |c| format!("{} · ", c.name))
        } else {
            String::new()
        };
        let _ = write!(
            out,
            "<section id=\"{id}\"><h2>{}</h2><p class=\"about\">{}{} GiB · {:?} · {} · <span class=\"status\">{}</span> · <code>{id}</code></p>",
            esc(&disk.name),
            esc(&company),
            disk.size,
            disk.disk_type,
            esc(&disk.project_id),
            esc(&status),
            id = esc(&disk.disk_id),
        );
        let ids = [("Region", &*disk.region), ("DiskID", &*disk.disk_id)];
        let take = format!(
            "<label>Name<input name=\"Name\" required maxlength=\"128\"></label>\
             <label>Remark<input name=\"Remark\" maxlength=\"100\"></label>{}<button>Take snapshot</button>",
            self.projects(disk.company_id)
        );
        let take = self.form("/do", "CreateSnapshot", &ids, &take);
        let what = if list.is_empty() {
            "Delete this disk for good."
        } else {
            "Delete this disk and all its snapshots for good."
        };
        let delete = format!("<p>{what}</p><button class=\"danger\">Delete disk</button>");
        let delete = self.form("/do", "DeleteDisk", &ids, &delete);
        let _ = write!(
            out,
            "<div class=\"acts\"><details><summary>Snapshot…</summary>{take}</details>\
             <details><summary>Delete disk…</summary>{delete}</details></div>"
        );
        if list.len() as u64 != total {
            let _ = write!(out, "<p>The newest {} of {total} snapshots:</p>", list.len());
        }
        let tree = Tree::of(self.service, &disk.disk_id, &list);
        out.push_str("<div class=\"tree\">");
        if tree.nodes.is_empty() {
            out.push_str("<p>No snapshots.</p>");
        } else {
            tree.draw(self, disk, &tree.roots, out);
            if tree.head.is_none() {
                let _ = write!(out, "<ul>{NOW}</ul>");
            }
        }
        out.push_str("</div></section>\n");
        Ok(())
    }

    fn snapshot(&self, disk: &DiskInfo, node: &Node<'_>, out: &mut String) {
        let s = node.info;
        let sizes = self.sizes.get(&node.key);
        let sizes = sizes.map_or_else(String::new, |&(mapped, own)| {
            let shared = mapped.saturating_sub(own);
            format!(" · {} shared, {} its own", human(shared), human(own))
        });
        let mark = if s.snapshot_status == SnapshotStatus::Normal {
            String::new()
        } else {
            format!(" <em>{:?}</em>", s.snapshot_status)
        };
        let remark = if s.remark.is_empty() { String::new() } else { format!(" <q>{}</q>", esc(&s.remark)) };
        let _ = write!(
            out,
            "<div class=\"snap\"><span class=\"dot\"></span><b>{}</b>{mark}{remark}<span class=\"meta\">{} UTC · {:?}{sizes} · <code>{}</code></span>",
            esc(&s.name),
            utc(s.create_time),
            s.kind,
            esc(&s.snapshot_id),
        );
        let ids = [("Region", &*s.region), ("DiskID", &*s.disk_id), ("SnapshotID", &*s.snapshot_id)];
        let back = self.form(
            "/do",
            "RollbackSnapshot",
            &ids,
            &format!(
                "<p>Everything on {} since its last snapshot is lost.</p><button class=\"danger\">Roll back</button>",
                esc(&disk.name)
            ),
        );
        let source = [ids[0], ("SrcSnapshotID", &*s.snapshot_id)];
        let clone = "<label>Name of the new disk<input name=\"Name\" required maxlength=\"128\"></label><button>Make disk</button>";
        let clone = self.form("/do", "CreateDiskFromSnapshot", &source, clone);
        let gone = "<p>Delete this snapshot for good.</p><button class=\"danger\">Delete</button>";
        let gone = self.form("/do", "DeleteSnapshot", &[ids[0], ids[2]], gone);
        let _ = write!(
            out,
            "<span class=\"acts\"><details><summary>Roll back…</summary>{back}</details>\
             <details><summary>Clone…</summary>{clone}</details><details><summary>Delete…</summary>{gone}</details></span></div>"
        );
    }
}

/// An action in a person's words.
fn said(action: &str) -> &'static str {
    let words = BTreeMap::from([
        ("CreateDisk", "disk created"),
        ("CreateSnapshot", "snapshot taken"),
        ("RollbackSnapshot", "disk rolled back"),
        ("DeleteSnapshot", "snapshot deleted"),
        ("CreateDiskFromSnapshot", "disk made from the snapshot"),
        ("DeleteDisk", "disk deleted"),
        ("DetachDisk", "disk unbound"),
    ]);
    words.get(action).copied().unwrap_or_default()
}

/// Text as part of a URL.
fn url(text: &str) -> String {
    let mut out = String::new();
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || b"-._~".contains(&b) {
            out.push(b.into());
        } else {
            let _ = write!(out, "%{b:02X}");
        }
    }
    out
}
