//! The page's HTML: signing in, the list of disks, and what all screens share.

use super::{page::Sizes, session::Session};
use crate::api::{DescribeDisk, DescribeSnapshot, DiskInfo, DiskStatus, Fault, SnapshotInfo, SnapshotService, utc};
use std::fmt::Write as _;

/// Disks on a page.
const DISKS: u64 = 20;

const STYLE: &str = include_str!("style.css");

/// Which screen: in its links, in its forms, and in where an action returns to.
#[derive(Clone, Copy, Default)]
pub(super) struct Place<'a> {
    pub(super) region: &'a str,
    /// The disk whose snapshots are shown; none: all disks.
    pub(super) disk: &'a str,
    /// The snapshot whose actions are shown.
    pub(super) snapshot: &'a str,
    /// What is searched for.
    pub(super) keyword: &'a str,
    pub(super) offset: u64,
}

impl Place<'_> {
    /// Its address, for a header or, escaped, for a link.
    pub(super) fn address(&self) -> String {
        let offset = if self.offset > 0 { self.offset.to_string() } else { String::new() };
        let fields = [
            ("Region", self.region),
            ("disk", self.disk),
            ("snapshot", self.snapshot),
            ("q", self.keyword),
            ("offset", &*offset),
        ];
        let mut out = "/".to_owned();
        for (name, value) in fields.into_iter().filter(|(_, v)| !v.is_empty()) {
            let _ = write!(out, "{}{name}={}", if out.len() == 1 { '?' } else { '&' }, url(value));
        }
        out
    }
}

/// What a page is made of.
pub(super) struct Screen<'a> {
    pub(super) service: &'a SnapshotService,
    pub(super) session: &'a Session,
    pub(super) place: Place<'a>,
    /// None while they are counted for the first time.
    pub(super) sizes: Option<&'a Sizes>,
    pub(super) fault: &'a str,
    pub(super) done: &'a str,
}

/// Text as HTML, in attributes too.
pub(super) fn esc(text: &str) -> String {
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

/// Escapes text of another user and isolates its direction, so that it does not reorder the text around it.
pub(super) fn name(text: &str) -> String {
    format!("<bdi>{}</bdi>", esc(text))
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
pub(super) fn human(bytes: u64) -> String {
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

/// A part of a page that opens.
pub(super) fn opening(class: &str, title: &str, inner: &str) -> String {
    format!("<details class=\"{class}\"><summary>{title}</summary>{inner}</details>")
}

impl Screen<'_> {
    pub(super) fn draw(&self) -> Result<String, Fault> {
        let directory = self.service.directory();
        let caller = &self.session.caller;
        let mut out = String::from("<header><h1><a href=\"/\">snapdisk</a></h1><nav>");
        if directory.regions.len() > 1 {
            for r in &directory.regions {
                let here = if r.id == self.place.region { " aria-current=\"page\"" } else { "" };
                let to = Place { region: &r.id, ..Place::default() }.address();
                let _ = write!(out, "<a href=\"{}\"{here}>{}</a>", esc(&to), name(&r.alias));
            }
        }
        let who = match (caller.admin, caller.company.and_then(|c| directory.companies.get(&c))) {
            (true, _) => "admin".to_owned(),
            (false, Some(c)) => format!("{}, member {}", name(&c.name), caller.member),
            (false, None) => String::new(),
        };
        let _ = write!(out, "<span>{who}</span>{}", self.form("/signout", "", &[], "<button>Sign out</button>"));
        out.push_str("</nav></header>\n<main>");
        if !self.fault.is_empty() {
            let _ = write!(out, "<p class=\"fault\" role=\"alert\">{}</p>", esc(self.fault));
        }
        if !self.done.is_empty() {
            let _ = write!(out, "<p class=\"done\" role=\"status\">Done: {}.</p>", esc(said(self.done)));
        }
        if self.place.disk.is_empty() {
            self.disks(&mut out)?
        } else {
            self.one_disk(&mut out)?
        }
        out.push_str("</main>\n");
        Ok(frame(&out))
    }

    fn disks(&self, out: &mut String) -> Result<(), Fault> {
        let place = self.place;
        let request = DescribeDisk {
            region: place.region.to_owned(),
            offset: i64::try_from(place.offset).ok(),
            limit: Some(DISKS as i64),
            keyword: Some(place.keyword.to_owned()),
            ..DescribeDisk::default()
        };
        let disks = self.service.describe_disk(&self.session.caller, &request)?;
        let searched = !place.keyword.is_empty();
        if disks.total_count > DISKS || searched {
            out.push_str(&self.search("Find disks by name or remark"));
        }
        self.new_disk(disks.total_count == 0 && !searched, out);
        if disks.infos.is_empty() {
            out.push_str(match (searched, place.offset) {
                (true, _) => "<p>No disk has that in its name or remark.</p>",
                (false, 0) => {
                    "<p>No disks yet. Make one above; then attach it, write to it, and take snapshots to come back to.</p>"
                }
                _ => "<p>There are no more disks.</p>",
            });
        }
        for disk in &disks.infos {
            self.disk(disk, out)?;
        }
        self.pages("Disks", disks.infos.len() as u64, DISKS, disks.total_count, out);
        Ok(())
    }

    /// A form that asks for a word.
    pub(super) fn search(&self, what: &str) -> String {
        let Place { region, disk, keyword, .. } = self.place;
        let mut out = String::from("<form class=\"search\" method=\"get\" action=\"/\" role=\"search\">");
        for (field, value) in [("Region", region), ("disk", disk)].into_iter().filter(|(_, v)| !v.is_empty()) {
            let _ = write!(out, "<input type=\"hidden\" name=\"{field}\" value=\"{}\">", esc(value));
        }
        let _ = write!(
            out,
            "<label>{what}<input type=\"search\" name=\"q\" value=\"{}\" maxlength=\"128\"></label><button>Find</button>",
            esc(keyword)
        );
        if !keyword.is_empty() {
            let all = Place { keyword: "", offset: 0, snapshot: "", ..self.place }.address();
            let _ = write!(out, "<a href=\"{}\">Show all</a>", esc(&all));
        }
        out + "</form>"
    }

    /// Which part of a list is shown, and links to the parts beside it.
    pub(super) fn pages(&self, what: &str, here: u64, page: u64, total: u64, out: &mut String) {
        let offset = self.place.offset;
        let shown = offset + here;
        if offset == 0 && shown >= total {
            return;
        }
        let _ = write!(out, "<p class=\"pages\">{what} {}–{shown} of {total}", (offset + 1).min(shown));
        let mut link = |to: u64, text: &str| {
            let to = Place { offset: to, snapshot: "", ..self.place }.address();
            let _ = write!(out, " <a href=\"{}\">{text}</a>", esc(&to));
        };
        if offset > 0 {
            link(offset.saturating_sub(page), "Back");
        }
        if shown < total {
            link(offset + page, "Next");
        }
        out.push_str("</p>");
    }

    /// A form with its token and hidden fields; `Action` and the way back if there is one.
    pub(super) fn form(&self, to: &str, action: &str, hidden: &[(&str, &str)], inner: &str) -> String {
        let mut out = format!(
            "<form method=\"post\" action=\"{to}\"><input type=\"hidden\" name=\"token\" value=\"{}\">",
            self.session.form_token
        );
        let offset = self.place.offset.to_string();
        let back = [("disk", self.place.disk), ("q", self.place.keyword), ("offset", &*offset)];
        let back = back.into_iter().filter(|(_, v)| !v.is_empty() && *v != "0");
        let fixed = std::iter::once(("Action", action)).chain(back).filter(|_| !action.is_empty());
        for (name, value) in fixed.chain(hidden.iter().copied()) {
            let _ = write!(out, "<input type=\"hidden\" name=\"{name}\" value=\"{}\">", esc(value));
        }
        out + inner + "</form>"
    }

    /// A choice of projects, for callers who must name one.
    fn projects(&self, company: i64, chosen: &str) -> String {
        let directory = self.service.directory();
        let Some(company) = directory.companies.get(&company) else { return String::new() };
        let own = self.session.caller.projects.as_ref().filter(|_| !self.session.caller.admin);
        let mut out = String::from("<label>Project<select name=\"ProjectID\">");
        for p in company.projects.iter().filter(|p| own.is_none_or(|list| list.contains(&p.id))) {
            let shown = if p.name.is_empty() { &p.id } else { &p.name };
            let selected = if p.id == chosen { " selected" } else { "" };
            let _ = write!(out, "<option value=\"{}\"{selected}>{}</option>", esc(&p.id), esc(shown));
        }
        out + "</select></label>"
    }

    fn new_disk(&self, open: bool, out: &mut String) {
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
            inner.push_str(&self.projects(caller.company.unwrap_or(0), ""));
        }
        inner.push_str("<button>Create disk</button>");
        let form = self.form("/do", "CreateDisk", &[("Region", self.place.region)], &inner);
        let opened = opening("new", "New disk", &form);
        out.push_str(&if open { opened.replacen("<details", "<details open", 1) } else { opened });
    }

    /// A disk in the list.
    fn disk(&self, disk: &DiskInfo, out: &mut String) -> Result<(), Fault> {
        let mut request = DescribeSnapshot {
            region: disk.region.clone(),
            disk_id: Some(disk.disk_id.clone()),
            limit: Some(1),
            ..DescribeSnapshot::default()
        };
        let total = self.service.describe_snapshot(&self.session.caller, &request)?.total_count;
        request.offset = i64::try_from(total.saturating_sub(1)).ok();
        let newest = self.service.describe_snapshot(&self.session.caller, &request)?.infos.pop();
        self.disk_head(disk, total, newest.as_ref(), out);
        out.push_str("</section>\n");
        Ok(())
    }

    /// The beginning of a disk's section: its properties, its sizes, and its actions.
    pub(super) fn disk_head(&self, disk: &DiskInfo, total: u64, newest: Option<&SnapshotInfo>, out: &mut String) {
        let directory = self.service.directory();
        let status = if disk.disk_status == DiskStatus::Bound {
            format!("bound to {} {}", esc(&disk.attach_resource_type), name(&disk.attach_resource_id))
        } else {
            format!("{:?}", disk.disk_status)
        };
        let company = if self.session.caller.admin {
            directory.companies.get(&disk.company_id).map_or_else(String::new, |c| format!("{} · ", name(&c.name)))
        } else {
            String::new()
        };
        let to = Place { region: &disk.region, disk: &disk.disk_id, ..Place::default() }.address();
        let _ = write!(
            out,
            "<section id=\"{id}\"><h2><a href=\"{}\">{}</a></h2><p class=\"about\">{company}{} GiB · {:?} · {} · \
             <span class=\"status\">{status}</span> · <code>{id}</code></p>",
            esc(&to),
            name(&disk.name),
            disk.size,
            disk.disk_type,
            name(&disk.project_id),
            id = esc(&disk.disk_id),
        );
        let key = self.service.volume(&disk.disk_id).ok().map(|v| v.id().0);
        let usage = self.sizes.and_then(|s| key.and_then(|k| s.disks.get(&k)));
        let _ = write!(out, "<p class=\"about\">{}</p>", space(self.sizes.is_some(), usage));
        let snapshots = match (total, newest) {
            (0, _) => "No snapshots.".to_owned(),
            (n, None) => format!("{n} snapshots"),
            (n, Some(s)) => {
                let plural = if n == 1 { "" } else { "s" };
                format!(
                    "<a href=\"{}\">{n} snapshot{plural}</a>, the newest {} of {} UTC",
                    esc(&to),
                    name(&s.name),
                    utc(s.create_time)
                )
            }
        };
        let ids = [("Region", &*disk.region), ("DiskID", &*disk.disk_id)];
        let take = format!(
            "<label>Name<input name=\"Name\" required maxlength=\"128\"></label>\
             <label>Remark<input name=\"Remark\" maxlength=\"100\"></label>{}<button>Take snapshot</button>",
            self.projects(disk.company_id, &disk.project_id)
        );
        let take = opening("", "Snapshot…", &self.form("/do", "CreateSnapshot", &ids, &take));
        let detach = if disk.disk_status == DiskStatus::Bound {
            let bound = [ids[0], ids[1], ("ResourceID", &*disk.attach_resource_id)];
            let ask = "<p>The machine that uses it loses the disk.</p><button class=\"danger\">Detach</button>";
            opening("", "Detach…", &self.form("/do", "DetachDisk", &bound, ask))
        } else {
            String::new()
        };
        let what =
            if total == 0 { "Delete this disk for good." } else { "Delete this disk and all its snapshots for good." };
        let delete = format!("<p>{what}</p><button class=\"danger\">Delete disk</button>");
        let delete = opening("", "Delete disk…", &self.form("/do", "DeleteDisk", &ids, &delete));
        let _ = write!(out, "<p>{snapshots}</p><div class=\"acts\">{take}{detach}{delete}</div>");
    }
}

/// What a disk or a snapshot holds, in words and as a bar: shared with others, and its own.
pub(super) fn space(counted: bool, usage: Option<&(u64, u64)>) -> String {
    let Some(&(mapped, own)) = usage else {
        let what = if counted { "not counted yet" } else { "sizes are being counted" };
        return format!("<span class=\"bar\"></span> {what}");
    };
    let shared = mapped.saturating_sub(own);
    let percent = |n: u64| (n as f64 / mapped.max(own).max(1) as f64 * 100.0).clamp(0.0, 100.0);
    format!(
        "<span class=\"bar\" aria-hidden=\"true\"><i style=\"width:{:.0}%\"></i><b style=\"width:{:.0}%\"></b></span> {} shared, {} its own",
        percent(shared),
        percent(own),
        human(shared),
        human(own)
    )
}

/// An action in a person's words.
fn said(action: &str) -> &'static str {
    match action {
        "CreateDisk" => "disk created",
        "CreateSnapshot" => "snapshot taken",
        "RollbackSnapshot" => "disk rolled back",
        "DeleteSnapshot" => "snapshot deleted",
        "CreateDiskFromSnapshot" => "disk made from the snapshot",
        "DeleteDisk" => "disk deleted",
        "DetachDisk" => "disk detached",
        _ => "",
    }
}

/// Text as part of a URL.
pub(super) fn url(text: &str) -> String {
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
