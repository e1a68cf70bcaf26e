//! `tour`: all of it at work on a real disk, each step proved against plain files that the engine never saw.

mod child;
mod disk;
mod report;
mod work;

use crate::{
    args::Target,
    export,
    failure::{At, Failure, Outcome},
    image, import,
    import::Raw,
    interrupt,
    session::Here,
};
use disk::{Change, Disk, Tools};
use report::Report;
use snapdisk::{DeleteSnapshots, Options, Store};
use std::{
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
};
use work::{Work, sha256};

pub(crate) use child::run as child;

/// A state that the image must hold, and the checksum that a plain copy gave.
struct State {
    target: Target,
    sha256: String,
    /// Whether a filesystem is in it that must be clean.
    filesystem: bool,
}

fn head(volume: &str) -> Target {
    Target::Volume(volume.to_owned())
}

fn at(volume: &str, snapshot: &str) -> Target {
    Target::Snapshot(volume.to_owned(), snapshot.to_owned())
}

struct Tour {
    work: Work,
    disk: Disk,
    report: Report,
    states: Vec<State>,
}

pub(crate) fn run(file: Option<&Path>, dir: Option<&Path>, keep: bool, as_json: bool) -> Outcome {
    interrupt::catch()?;
    let work = Work::new(dir, keep)?;
    let mut report = Report::new(as_json);
    let tools = Tools::find();
    if tools.is_none() {
        report.note("e2fsprogs (mkfs.ext4, debugfs, e2fsck) is not installed: no filesystem, plain bytes instead")?;
    }
    report.note(&format!("working in {}", work.dir.display()))?;
    report.heading()?;
    let (disk, what) = match file {
        Some(file) => disk::adopt(&work, file, tools)?,
        None => disk::make(&work, tools)?,
    };
    report.step(&format!("the disk: {what}"), None)?;
    let mut tour = Tour { work, disk, report, states: Vec::new() };
    tour.walk()?;
    if keep {
        tour.report.note(&format!("left there: {}", tour.work.dir.display()))?;
    }
    tour.report.verdict()
}

impl Tour {
    fn walk(&mut self) -> Outcome {
        let image = self.work.path("tour.snapdisk");
        let mut store = Options::new().create(&image)?;
        self.step(&store, "an empty image")?;

        import::fill(&store, "disk", &mut self.raw("base.img")?, &mut Here)?;
        self.step(&store, "import it as volume `disk`")?;
        self.snapshot(&store, "disk", "original")?;
        let original = self.sha256("base.img")?;
        self.expect(at("disk", "original"), &original, true);

        work::copy(&self.work.path("base.img"), &self.work.path("plain.img"))?;
        let edited = self.edit(&store, "disk", "plain.img", "first", 11)?;
        self.snapshot(&store, "disk", "edited")?;
        self.expect(at("disk", "edited"), &edited, true);
        work::copy(&self.work.path("plain.img"), &self.work.path("plain-fork.img"))?;

        let later = self.edit(&store, "disk", "plain.img", "second", 22)?;
        self.snapshot(&store, "disk", "later")?;
        self.expect(at("disk", "later"), &later, true);

        let middle = image::snapshot(&store, &at("disk", "edited"))?;
        let fork = store.clone_volume(&middle, "fork")?;
        self.step(&store, "clone `disk@edited` as volume `fork`")?;
        let forked = self.edit(&store, "fork", "plain-fork.img", "third", 33)?;
        self.expect(head("fork"), &forked, true);

        let volume = store.volume("disk")?;
        store.snapshot_group(&[(&volume, "pair"), (&fork, "pair")])?;
        self.step(&store, "snapshot both volumes at one point: `disk@pair`, `fork@pair`")?;
        self.expect(at("disk", "pair"), &later, true);
        self.expect(at("fork", "pair"), &forked, true);

        volume.rollback(&image::snapshot(&store, &at("disk", "original"))?)?;
        self.step(&store, "roll `disk` back to `original`")?;
        self.expect(head("disk"), &original, true);
        self.prove_last(&store)?;
        volume.rollback(&image::snapshot(&store, &at("disk", "later"))?)?;
        self.step(&store, "roll `disk` forward to `later`")?;
        self.expect(head("disk"), &later, true);
        self.prove_last(&store)?;

        store.delete_snapshot(&middle)?;
        store.wait_reclaimed()?;
        self.states.retain(|s| s.target != at("disk", "edited"));
        self.step(&store, "delete `disk@edited`, in the middle of it all")?;

        store.clone_volume(&image::snapshot(&store, &at("disk", "original"))?, "victim")?;
        self.step(&store, "clone `disk@original` as volume `victim`")?;
        drop((volume, fork, middle));
        store.close()?;
        store = self.crash(&image, &original)?;

        for i in 0..self.states.len() {
            self.prove(&store, i)?;
        }
        let report = store.check()?;
        let good = report.is_clean();
        self.report.proof("check", good, "every checksum, every count")?;
        for finding in report.findings.iter().take(10) {
            self.report.note(&finding.to_string())?;
        }

        let (volume, victim) = (store.volume("disk")?, store.volume("victim")?);
        store.delete_volume(&victim, DeleteSnapshots::Delete)?;
        store.delete_volume(&volume, DeleteSnapshots::Keep)?;
        store.wait_reclaimed()?;
        self.step(&store, "delete `victim` with its snapshots and `disk` without")?;
        let kept = origin_id(&store, "original")?;
        self.states.retain(|s| s.target == head("fork") || s.target == at("fork", "pair"));
        self.states.push(State { target: kept, sha256: original, filesystem: true });
        store.close()?;
        let store = Options::new().open_read_only(&image)?;
        for i in 0..self.states.len() {
            self.prove(&store, i)?;
        }
        let report = store.check()?;
        self.report.proof("check", report.is_clean(), "every checksum, every count")?;
        self.report.image(&image)?;
        Ok(store.close()?)
    }

    /// Lets a child be killed in the middle of writing to `victim`, opens the image again and holds it against what the child
    /// had been promised.
    fn crash(&mut self, image: &Path, origin: &str) -> Outcome<Store> {
        let told = child::kill_one(image, "victim", 44)?;
        let what = format!(
            "kill -9 a child after {} flushes ({} operations) and {} snapshots",
            told.flushes,
            told.flushed,
            told.snapshots.len()
        );
        self.report.step(&what, None)?;
        let store = Options::new().open(image)?;
        self.step(&store, "open the image again")?;

        let plain = self.work.path("plain-victim.img");
        work::copy(&self.work.path("base.img"), &plain)?;
        let file = OpenOptions::new().read(true).write(true).open(&plain).at(plain.display())?;
        let volume = store.volume("victim")?;
        let size = volume.size()?;
        let mut done = 0;
        for &n in &told.snapshots {
            told.apply(&file, size, done, n)?;
            done = n;
            let name = format!("at-{n}");
            if volume.snapshot_named(&name).is_err() {
                self.report.proof(&format!("victim@{name}"), false, "acknowledged, and not there")?;
            } else if Some(&n) == told.snapshots.last() {
                let sha256 = self.sha256("plain-victim.img")?;
                self.states.push(State { target: at("victim", &name), sha256, filesystem: false });
            }
        }
        told.apply(&file, size, done, told.flushed)?;
        let found = told.catch_up(&file, &volume)?;
        let expected = self.sha256("plain-victim.img")?;
        if expected == origin {
            return Err(Failure::new("the child changed nothing"));
        }
        let out = self.export(&store, &head("victim"), "proof.img")?;
        let found = if sha256(&out)? == expected { found } else { None };
        let what = match found {
            Some(n) => format!("the first {n} operations and no other; {} were acknowledged", told.flushed),
            None => format!("not the state after {} operations or any number up to the kill", told.flushed),
        };
        self.report.proof("every acknowledged flush", found.is_some(), &what)?;
        self.states.push(State { target: head("victim"), sha256: expected, filesystem: false });
        self.report.mark();
        Ok(store)
    }

    /// Changes a volume for real: export, change the file, import what differs. The same change to a plain copy gives the
    /// checksum that must come out.
    fn edit(&mut self, store: &Store, volume: &str, plain: &str, name: &str, seed: u64) -> Outcome<String> {
        let change: Change = self.disk.plan(&self.work, name, seed)?;
        self.disk.change(&self.work, &change, plain)?;
        let expected = self.sha256(plain)?;
        self.report.mark();
        self.export(store, &head(volume), "work.img")?;
        self.disk.change(&self.work, &change, "work.img")?;
        import::refresh(store, volume, &mut self.raw("work.img")?, &mut Here)?;
        self.step(store, &format!("export `{volume}`, {}, import --update", change.describe()))?;
        Ok(expected)
    }

    fn snapshot(&mut self, store: &Store, volume: &str, name: &str) -> Outcome {
        store.volume(volume)?.snapshot(name)?;
        self.step(store, &format!("snapshot `{volume}@{name}`"))
    }

    /// From now on the image must hold this.
    fn expect(&mut self, target: Target, sha256: &str, filesystem: bool) {
        self.states.retain(|s| s.target != target);
        self.states.push(State { target, sha256: sha256.to_owned(), filesystem });
    }

    fn prove_last(&mut self, store: &Store) -> Outcome {
        self.prove(store, self.states.len() - 1)
    }

    /// Exports a state and holds it against what was expected.
    fn prove(&mut self, store: &Store, i: usize) -> Outcome {
        interrupt::check()?;
        let state = &self.states[i];
        let name = state.target.to_string();
        let out = self.export(store, &state.target, "proof.img")?;
        let same = sha256(&out)? == state.sha256;
        let mut what = if same { format!("sha256 {}…", &state.sha256[..12]) } else { "sha256 DIFFERS".to_owned() };
        let mut good = same;
        if let (true, Some(tools)) = (state.filesystem, self.disk.tools()) {
            let clean = tools.is_clean(&out)?;
            good &= clean;
            what += if clean { ", e2fsck clean" } else { ", e2fsck FINDS ERRORS" };
        }
        self.report.proof(&name, good, &what)
    }

    /// Exports to a file that is new: hosts write one that replaces another through to the disk at once.
    fn export(&self, store: &Store, target: &Target, name: &str) -> Outcome<PathBuf> {
        let out = self.work.path(name);
        if out.exists() {
            fs::remove_file(&out).at(out.display())?;
        }
        let source = image::source(store, target)?;
        export::to_file(&mut export::Own { source: &source, console: &mut Here }, &out, false, false)?;
        Ok(out)
    }

    fn step(&mut self, store: &Store, what: &str) -> Outcome {
        interrupt::check()?;
        self.report.step(what, Some(store))
    }

    fn raw(&self, name: &str) -> Outcome<Raw<'static>> {
        let path = self.work.path(name);
        Raw::open(&self.work.path("tour.snapdisk"), &path)
    }

    fn sha256(&self, name: &str) -> Outcome<String> {
        sha256(&self.work.path(name))
    }
}

/// A snapshot whose volume is gone, by its number.
fn origin_id(store: &Store, name: &str) -> Outcome<Target> {
    for s in store.snapshots()? {
        if s.name()? == name {
            return Ok(Target::Id(s.id().0));
        }
    }
    Err(Failure::new(format!("no snapshot {name} was kept")))
}
