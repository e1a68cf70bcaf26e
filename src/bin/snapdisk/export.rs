//! Volumes and snapshots into raw files.
//!
//! A file is written beside its place under a name of its own and moved there when it is complete and durable, so that nobody ever sees part
//! of a disk under the name that was asked for.

use crate::{
    args::Target,
    failure::{At, Failure, Outcome},
    image::{self, Source},
    import::{CHUNK, WINDOW},
    interrupt, length,
    progress::Meter,
    session::{Console, Here},
    text::{output_failed, require_output},
};
use rustix::{
    fs::{CWD, FlockOperation, OFlags, RenameFlags, flock, renameat_with},
    io::Errno,
};
use snapdisk::{BLOCK, Options};
use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    hash::{BuildHasher, Hasher, RandomState},
    io::{self, IsTerminal, Write, stdout},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The content of a disk, from start to end.
pub(crate) trait Content {
    /// Its length in bytes. Asked for once, before anything else.
    fn len(&mut self) -> Outcome<u64>;
    /// Calls `each` for what there is, in order: with data of at most a chunk, or with nothing where a stretch without data begins.
    fn walk(&mut self, len: u64, each: &mut Each<'_>) -> Outcome;
}

/// What is done with a part: its first byte, and its data if it is data.
pub(crate) type Each<'a> = dyn FnMut(u64, Option<&[u8]>) -> Outcome + 'a;

/// A disk of a store that is open here.
pub(crate) struct Own<'a> {
    pub(crate) source: &'a Source,
    pub(crate) console: &'a mut dyn Console,
}

impl Content for Own<'_> {
    fn len(&mut self) -> Outcome<u64> {
        length::of(self.source)
    }
    fn walk(&mut self, len: u64, each: &mut Each<'_>) -> Outcome {
        walk(self.source, len, self.console, each)
    }
}

/// Exports from an image that nobody serves.
pub(crate) fn run(image: &Path, target: &Target, file: &Path, force: bool) -> Outcome {
    let store = Options::new().open_read_only(image)?;
    let source = image::source(&store, target)?;
    copy(&mut Own { source: &source, console: &mut Here }, image, file, force)?;
    Ok(store.close()?)
}

/// Copies content into a file, or to standard output.
pub(crate) fn copy(content: &mut dyn Content, image: &Path, file: &Path, force: bool) -> Outcome {
    if file.as_os_str() == "-" {
        if stdout().is_terminal() {
            return Err(Failure::usage("standard output is a terminal"));
        }
        require_output()?;
        interrupt::catch()?;
        to_stream(content, &mut stdout().lock())
    } else {
        let place = place(image, file, force)?;
        interrupt::catch()?;
        to_file(content, &place, force, true)
    }
}

/// Where the file goes, links followed.
fn place(image: &Path, file: &Path, force: bool) -> Outcome<PathBuf> {
    let shown = file.display();
    if fs::symlink_metadata(file).is_err() {
        return Ok(file.to_owned());
    }
    if !force {
        return Err(Failure::new(format!("{shown} exists; --force replaces it")));
    }
    let place = fs::canonicalize(file).at(&shown)?;
    let meta = fs::metadata(&place).at(&shown)?;
    if !meta.is_file() {
        return Err(Failure::new(format!("{shown} is not a file; - writes to standard output")));
    }
    image::not_itself(image, file, &meta)?;
    Ok(place)
}

/// A file that goes away unless it is published.
struct Partial {
    path: PathBuf,
    published: bool,
}

/// What the names of unfinished exports to `name` begin and end with.
fn affixes(name: &OsStr) -> (Vec<u8>, &'static [u8]) {
    ([b".", name.as_bytes(), b"."].concat(), b".partial")
}

impl Partial {
    /// A new file beside `name`, locked for as long as it is open.
    fn create(dir: &Path, name: &OsStr) -> io::Result<(File, Partial)> {
        let (before, after) = affixes(name);
        loop {
            let middle = format!("{:08x}", RandomState::new().build_hasher().finish() as u32);
            let path = dir.join(OsStr::from_bytes(&[&before[..], middle.as_bytes(), after].concat()));
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            let partial = Partial { path, published: false };
            // Without locks, another export may take this file for an abandoned one, and this export then fails.
            let _ = flock(&file, FlockOperation::NonBlockingLockExclusive);
            // Another export may have removed the file before it was locked.
            if file.metadata()?.nlink() > 0 {
                return Ok((file, partial));
            }
        }
    }
}

/// Removes what exports to `name` have left that were killed: unfinished files that nobody has locked.
fn remove_stale(dir: &Path, name: &OsStr) {
    let (before, after) = affixes(name);
    let is_partial = |found: &OsStr| {
        let middle = found.as_bytes().strip_prefix(&before[..]).and_then(|rest| rest.strip_suffix(after));
        middle.is_some_and(|m| m.len() == 8 && m.iter().all(u8::is_ascii_hexdigit))
    };
    for entry in fs::read_dir(dir).into_iter().flatten().flatten().filter(|e| is_partial(&e.file_name())) {
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
        let Ok(file) = OpenOptions::new().write(true).custom_flags(flags).open(entry.path()) else { continue };
        if file.metadata().is_ok_and(|m| m.is_file()) && flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
        {
            let _ = fs::remove_file(entry.path());
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Writes a sparse file, durable when this returns if that is asked for. Without `replace` the name must be free.
pub(crate) fn to_file(content: &mut dyn Content, place: &Path, replace: bool, durable: bool) -> Outcome {
    let shown = place.display();
    let name = place.file_name().ok_or_else(|| Failure::new(format!("{shown} is no name of a file")))?;
    let dir = place.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    remove_stale(dir, name);
    let (file, mut partial) = Partial::create(dir, name).at(&shown)?;
    fill(content, &file, place)?;
    if durable {
        file.sync_all().at(&shown)?;
    }
    publish(&partial.path, place, replace)?;
    partial.published = true;
    if durable { File::open(dir).and_then(|d| d.sync_all()).at(dir.display()) } else { Ok(()) }
}

fn publish(from: &Path, to: &Path, replace: bool) -> Outcome {
    let shown = to.display();
    if replace {
        return fs::rename(from, to).at(&shown);
    }
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        // Some filesystems can't do this: a link never replaces a file either.
        Err(Errno::INVAL | Errno::NOSYS) => fs::hard_link(from, to).and_then(|()| fs::remove_file(from)).at(&shown),
        Err(Errno::EXIST) => Err(Failure::new(format!("{shown} exists; --force replaces it"))),
        Err(e) => Err(e).at(&shown),
    }
}

fn fill(content: &mut dyn Content, file: &File, place: &Path) -> Outcome {
    let size = content.len()?;
    file.set_len(size).at(place.display())?;
    content.walk(size, &mut |at, piece| {
        let Some(data) = piece else { return Ok(()) };
        let zero = |start: usize| data[start..].iter().take(BLOCK).all(|&b| b == 0);
        let mut start = 0;
        while start < data.len() {
            let skip = zero(start);
            let mut end = start + BLOCK;
            while end < data.len() && zero(end) == skip {
                end += BLOCK;
            }
            let end = end.min(data.len());
            if !skip {
                file.write_all_at(&data[start..end], at + start as u64).at(place.display())?;
            }
            start = end;
        }
        Ok(())
    })
}

fn to_stream(content: &mut dyn Content, out: &mut impl Write) -> Outcome {
    let size = content.len()?;
    let mut done = 0;
    content.walk(size, &mut |at, piece| {
        pad(out, at - done)?;
        done = at;
        if let Some(data) = piece {
            out.write_all(data).map_err(|e| output_failed(&e))?;
            done += data.len() as u64;
        }
        Ok(())
    })?;
    pad(out, size - done)?;
    out.flush().map_err(|e| output_failed(&e))
}

fn pad(out: &mut impl Write, mut len: u64) -> Outcome {
    while len > 0 {
        interrupt::check()?;
        let n = len.min(ZEROS.len() as u64);
        out.write_all(&ZEROS[..n as usize]).map_err(|e| output_failed(&e))?;
        len -= n;
    }
    Ok(())
}

fn walk(source: &Source, size: u64, console: &mut dyn Console, each: &mut Each<'_>) -> Outcome {
    let meter = Meter::bytes(console, "exporting", Some(size));
    let mut buf = vec![0; CHUNK];
    let mut start = 0;
    while start < size {
        let stop = size.min(start + WINDOW);
        for part in source.extents(start..stop) {
            let part = part?;
            let mut at = part.offset;
            let end = stop.min(part.offset + part.len);
            if !part.data {
                each(at, None)?;
                meter.set(end);
                continue;
            }
            while at < end {
                console.check()?;
                let n = (end - at).min(CHUNK as u64) as usize;
                source.read_at(&mut buf[..n], at)?;
                each(at, Some(&buf[..n]))?;
                at += n as u64;
                meter.set(at);
            }
        }
        start = stop;
    }
    Ok(())
}
