//! The verdict on what a crash left, in a process of its own.

use crate::{
    Args,
    model::{Content, Model, Profile, SECTOR, THREADS, read_sector},
    say, told,
    work::list,
};
use snapdisk::Store;
use std::{
    collections::BTreeMap,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    process::ExitCode,
};

/// A thread does at most this many operations after one that it acknowledged.
const BETWEEN: u64 = 2000;

type Checked<T> = Result<T, String>;

/// What the image holds of each thread, and the most that any sector says had returned.
struct Found {
    threads: Vec<Content>,
    returned: [u64; THREADS],
}

fn error(what: &str) -> impl Fn(snapdisk::Error) -> String {
    move |e| format!("{what}: {}", told(&e))
}

impl Found {
    fn of(store: &Store, threads: usize) -> Checked<Found> {
        let none = || Content { volumes: BTreeMap::new(), snapshots: Vec::new() };
        let mut found = Found { threads: (0..threads).map(|_| none()).collect(), returned: [0; THREADS] };
        let mut names = BTreeMap::new();
        // Of one operation of one thread, what had returned is the same in all its sectors.
        let mut said = BTreeMap::new();
        let mut content = |name: &str, bytes: &[u8]| -> Checked<(usize, Vec<u64>)> {
            let thread = name.get(1..).and_then(|t| t.parse().ok()).filter(|&t| t < threads);
            let thread = thread.ok_or_else(|| format!("a volume {name}, which nobody made"))?;
            let mut out = Vec::with_capacity(bytes.len() / SECTOR);
            for (s, sector) in bytes.chunks_exact(SECTOR).enumerate() {
                let (n, returned) = read_sector(sector, thread, s).map_err(|e| format!("{name}: {e}"))?;
                if n > 0 && *said.entry((thread, n)).or_insert(returned) != returned {
                    return Err(format!("{name}: two versions of operation {n}"));
                }
                found.returned.iter_mut().zip(returned).for_each(|(f, r)| *f = (*f).max(r));
                out.push(n);
            }
            Ok((thread, out))
        };
        for v in store.volumes().map_err(error("volumes"))? {
            let name = v.name().map_err(error("name"))?;
            let mut bytes = vec![1; v.size().map_err(error("size"))? as usize];
            v.read_at(&mut bytes, 0).map_err(error(&format!("read {name}")))?;
            let (thread, sectors) = content(&name, &bytes)?;
            names.insert(v.id(), name.clone());
            found.threads[thread].volumes.insert(name, sectors);
        }
        for s in store.snapshots().map_err(error("snapshots"))? {
            let name = s.name().map_err(error("name"))?;
            let volume = names.get(&s.volume()).ok_or_else(|| format!("snapshot {name} of no volume"))?.clone();
            let mut bytes = vec![1; s.size() as usize];
            s.read_at(&mut bytes, 0).map_err(error(&format!("read {volume}@{name}")))?;
            let (thread, sectors) = content(&volume, &bytes)?;
            found.threads[thread].snapshots.push((name, volume, sectors));
        }
        Ok(found)
    }
}

fn check(store: &Store) -> Checked<()> {
    let report = store.check().map_err(error("check"))?;
    match report.findings.first() {
        None => Ok(()),
        Some(first) => Err(format!("check: {} findings, the first: {first}", report.findings.len())),
    }
}

/// What a reader must leave as it is: length, time, and the bytes, or the errno of a page that the host has lost.
fn seen(path: &Path) -> (u64, i64, i64, u32) {
    let file = std::fs::File::open(path).expect("the image is there");
    let m = file.metadata().expect("the image is there");
    let mut hash = crc32fast::Hasher::new();
    let mut bytes = vec![0; 4096];
    for at in (0..m.len()).step_by(bytes.len()) {
        match file.read_at(&mut bytes, at) {
            Ok(n) => hash.update(&bytes[..n]),
            Err(e) => hash.update(&e.raw_os_error().unwrap_or(-1).to_le_bytes()),
        }
    }
    (m.len(), m.mtime(), m.mtime_nsec(), hash.finalize())
}

/// Finds the state that the image holds; says it.
fn find(args: &Args) -> Checked<Vec<u64>> {
    let (path, acked) = (args.image(), args.numbers("acked"));
    let (seed, profile) = (args.number("seed"), Profile::of(args.text("profile")));
    let before = seen(&path);
    let store = args.options().open_read_only(&path).map_err(error("open for reading"))?;
    let found = Found::of(&store, acked.len())?;
    let mut state = Vec::new();
    for (thread, (content, &acked)) in found.threads.iter().zip(&acked).enumerate() {
        // Some states are equal, since an operation changed nothing or the next one undid it: any of them will do that is not too early.
        let least = acked.max(found.returned[thread]);
        let mut model = Model::new(seed, profile, thread);
        model.advance(least);
        while model.content != *content {
            if model.done == least + BETWEEN {
                let known = found.returned[thread];
                let instead = nearest(seed, profile, thread, content, least);
                return Err(format!("thread {thread} acknowledged {acked}, later writes knew of {known}; {instead}"));
            }
            model.advance(model.done + 1);
        }
        state.push(model.done);
    }
    check(&store)?;
    drop(store);
    if seen(&path) != before {
        return Err("opening for reading changed the file".to_owned());
    }
    if args.given.get("reading").is_some_and(|r| r == "only") {
        return Ok(state);
    }
    let store = args.options().open(&path).map_err(error("open for writing"))?;
    if Found::of(&store, acked.len())?.threads != found.threads {
        return Err("recovery gives another state than reading did".to_owned());
    }
    check(&store)?;
    if args.given.get("close").is_some_and(|c| c == "yes") {
        store.close().map_err(error("close"))?;
    }
    Ok(state)
}

/// Which earlier state the content is, if any.
fn nearest(seed: u64, profile: Profile, thread: usize, content: &Content, acked: u64) -> String {
    let mut model = Model::new(seed, profile, thread);
    while model.done < acked {
        if model.content == *content {
            return format!("the image holds its state after {}", model.done);
        }
        model.advance(model.done + 1);
    }
    "the image holds no state of it".to_owned()
}

pub(crate) fn verify(args: &Args) -> ExitCode {
    match find(args) {
        Ok(state) => {
            say(format_args!("state {}", list(&state)));
            ExitCode::SUCCESS
        }
        Err(e) => {
            say(format_args!("lost {e}"));
            ExitCode::from(3)
        }
    }
}
