//! Opening an image's file: by path, relative to an open directory, or from files that the caller opened; always under its lock, and with a
//! description of its own for each lane of syncs.
#![allow(clippy::disallowed_methods, reason = "a new image is synced before it gets its name")]

use super::{FileBackend, ReadPath, SystemHost, TRIES, magic, retry};
use crate::{
    Error, ErrorKind, Result,
    error::is_no_space,
    io::{Backend, Host, Lane},
};
use rustix::{
    fs::{self, AtFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags},
    io::{Errno, FdFlags},
};
use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Component, Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// What a new image still needs.
pub(super) enum Pending {
    /// Its name.
    Name(Place),
    /// A sync of the file, which has its name already or needs none.
    Sync,
}

/// Where a file under construction is, and the name that it will get.
pub(super) struct Place {
    dir: OwnedFd,
    temporary: PathBuf,
    name: PathBuf,
}

impl Drop for Place {
    fn drop(&mut self) {
        // Best effort: what stays behind is a stray file under a name that nothing opens.
        let _ = fs::unlinkat(&self.dir, &self.temporary, AtFlags::empty());
    }
}

/// Open file descriptions of one image, for a process that can't open it by name, such as a jail without `/proc` that got them from its
/// parent.
///
/// A store syncs through several *descriptions*: Linux reports a failed write-out once to each, so that a flush and a checkpoint that
/// shared one could hide each other's failure. A description comes from an `open` of its own; descriptors made by `dup`,
/// [`File::try_clone`] or `SCM_RIGHTS` share the one they were made from, and are refused.
///
/// A [`File`] alone converts into this: all else that is needed is then opened through `/proc/self/fd`, and the file itself is closed. Where
/// that fails, opening for writing is `Invalid`, and [`checkpoint`](ImageFiles::checkpoint) and [`space`](ImageFiles::space) have to be
/// given. With [`cold_reads`](ImageFiles::cold_reads) as well, `/proc` is not used.
///
/// Files that are given belong to the store from then on: it locks them with `flock`, and sets flags on them. The caller promises that no
/// other descriptor of theirs is used or locked; for a description that someone has locked already the answer is `Locked`. `close` takes the
/// lock off. After a crash the lock stays for as long as any process has a descriptor of `main`'s description: a parent that passed it on
/// closes its own.
#[derive(Debug)]
pub struct ImageFiles {
    main: File,
    checkpoint: Option<File>,
    space: Option<File>,
    cold: Option<File>,
}

impl From<File> for ImageFiles {
    fn from(main: File) -> ImageFiles {
        ImageFiles { main, checkpoint: None, space: None, cold: None }
    }
}

impl ImageFiles {
    /// An image that is read, written and flushed through `main`, opened for reading and, unless the store is read-only, for writing.
    pub fn new(main: File) -> ImageFiles {
        main.into()
    }
    /// The description of checkpoints, opened for reading and writing. A read-only store needs none.
    #[must_use]
    pub fn checkpoint(mut self, file: File) -> Self {
        self.checkpoint = Some(file);
        self
    }
    /// The description through which fresh space is synced before it is used, opened for reading and writing. A read-only store needs none.
    #[must_use]
    pub fn space(mut self, file: File) -> Self {
        self.space = Some(file);
        self
    }
    /// The description through which recovery reads past the page cache, opened for reading. The store sets `O_DIRECT` on it where the
    /// filesystem has such reads. Without it, and without `/proc`, recovery reads through the cache; see [`crate::Store::has_cold_reads`].
    #[must_use]
    pub fn cold_reads(mut self, file: File) -> Self {
        self.cold = Some(file);
        self
    }
    fn all(&self) -> Vec<&File> {
        [Some(&self.main), self.checkpoint.as_ref(), self.space.as_ref(), self.cold.as_ref()]
            .into_iter()
            .flatten()
            .collect()
    }
}

/// Where further descriptions of an open file come from.
pub(super) enum Source<'a> {
    /// This name in this directory, without `/proc`.
    At(BorrowedFd<'a>, &'a Path),
    /// `/proc`, or this path if that is not mounted.
    Path(&'a Path),
    /// The caller, and `/proc` for those that the caller did not give.
    Given { checkpoint: Option<File>, space: Option<File>, cold: Option<File> },
}

impl Source<'_> {
    /// Returns a description for syncs of `lane`.
    pub(super) fn second(&mut self, file: &File, lane: Lane) -> Result<File> {
        let given = match self {
            Source::Given { checkpoint, .. } if lane == Lane::Checkpoint => checkpoint.take(),
            Source::Given { space, .. } if lane == Lane::Space => space.take(),
            _ => None,
        };
        given.map_or_else(|| self.reopen(file, OFlags::RDWR), Ok).map_err(|e| self.lacking(e))
    }
    fn lacking(&self, e: io::Error) -> Error {
        match self {
            Source::Given { .. } => Error::caused(
                ErrorKind::Invalid,
                "the image needs a file description of its own for checkpoints and one for fresh space, and /proc/self/fd does not \
                 open them: give them with ImageFiles",
                e,
            ),
            _ => open_error("open the image once more", e),
        }
    }
    /// Returns a description that reads past the page cache.
    pub(super) fn direct(&mut self, file: &File) -> io::Result<File> {
        if let Source::Given { cold, .. } = self
            && let Some(cold) = cold.take()
        {
            fs::fcntl_setfl(&cold, fs::fcntl_getfl(&cold)? | OFlags::DIRECT)?;
            return Ok(cold);
        }
        self.reopen(file, OFlags::RDONLY | OFlags::DIRECT)
    }
    /// Opens the file behind `file` again, since descriptors made by `dup` share one description, and with it the errors that a sync reports.
    fn reopen(&self, file: &File, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY;
        let by_name =
            |dir: BorrowedFd<'_>, name: &Path| retry(|| fs::openat(dir, name, flags | OFlags::NOFOLLOW, Mode::empty()));
        let opened = match self {
            Source::At(dir, name) => by_name(*dir, name)?,
            Source::Path(path) => through_proc(file, flags).or_else(|_| by_name(fs::CWD, path))?,
            Source::Given { .. } => through_proc(file, flags)?,
        };
        if !same_file(&fs::fstat(&opened)?, &fs::fstat(file)?) {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the file was replaced while it was opened"));
        }
        Ok(opened.into())
    }
}

fn through_proc(file: &File, flags: OFlags) -> io::Result<OwnedFd> {
    retry(|| fs::openat(fs::CWD, format!("/proc/self/fd/{}", file.as_raw_fd()), flags, Mode::empty()))
}

/// Makes the error of a failed opening. It does not name the path, which the caller has.
pub(super) fn open_error(what: &str, e: io::Error) -> Error {
    let kind = match Errno::from_io_error(&e) {
        Some(Errno::NOENT | Errno::NOTDIR) => ErrorKind::NotFound,
        Some(Errno::EXIST) => ErrorKind::Exists,
        Some(Errno::NAMETOOLONG | Errno::INVAL) => ErrorKind::Invalid,
        _ if e.kind() == io::ErrorKind::InvalidInput => ErrorKind::Invalid,
        _ if is_no_space(&e) => ErrorKind::NoSpace,
        _ => ErrorKind::Io,
    };
    Error::caused(kind, what, e)
}

fn regular(stat: &fs::Stat) -> Result<()> {
    let what = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => return Ok(()),
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a pipe",
        FileType::Socket => "a socket",
        FileType::BlockDevice | FileType::CharacterDevice => "a device",
        _ => "no regular file",
    };
    Err(Error::invalid(format!("this is {what}; an image is a regular file")))
}

fn same_file(a: &fs::Stat, b: &fs::Stat) -> bool {
    (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
}

fn lock(file: &File, exclusive: bool) -> Result<()> {
    let how = if exclusive { FlockOperation::NonBlockingLockExclusive } else { FlockOperation::NonBlockingLockShared };
    retry(|| fs::flock(file, how)).map_err(|e| match Errno::from_io_error(&e) {
        Some(Errno::WOULDBLOCK) => Error::new(ErrorKind::Locked, "the image is open elsewhere"),
        Some(Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS) => Error::io("the filesystem can't lock the image", e),
        _ => Error::io("lock the image", e),
    })
}

/// Checks whether an image can be read, and written, through a file that the caller opened.
fn usable(file: &File, writable: bool) -> Result<fs::Stat> {
    let failed = |e: Errno| open_error("look at the file", e.into());
    let stat = fs::fstat(file).map_err(failed)?;
    regular(&stat)?;
    let flags = fs::fcntl_getfl(file).map_err(failed)?;
    let access = flags & OFlags::RWMODE;
    let refused = |why: &str| Err(Error::invalid(format!("the file was opened {why}")));
    if flags.contains(OFlags::PATH) {
        return refused("with O_PATH, and can't be read");
    }
    if access == OFlags::WRONLY {
        return refused("for writing only");
    }
    if writable && access != OFlags::RDWR {
        return refused("for reading only");
    }
    if writable && flags.contains(OFlags::APPEND) {
        return refused("with O_APPEND, and would be written at its end alone");
    }
    if flags.contains(OFlags::DIRECT) {
        return refused("with O_DIRECT; ImageFiles::cold_reads takes one without and sets it");
    }
    if writable && stat.st_nlink > 1 {
        return Err(Error::invalid("the file has more than one name (hard links)"));
    }
    rustix::io::fcntl_setfd(file, FdFlags::CLOEXEC).map_err(failed)?;
    Ok(stat)
}

/// Returns whether two open files share one description. Their positions tell, which no call of the engine uses.
fn shares_description(a: &File, b: &File) -> io::Result<bool> {
    fs::seek(a, fs::SeekFrom::Start(1))?;
    fs::seek(b, fs::SeekFrom::Start(2))?;
    let shared = fs::tell(a)? != 1;
    fs::seek(a, fs::SeekFrom::Start(0))?;
    fs::seek(b, fs::SeekFrom::Start(0))?;
    Ok(shared)
}

/// Returns the last part of a path that names a file.
fn file_name(path: &Path) -> Result<&Path> {
    if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
        return Err(Error::invalid("names a directory"));
    }
    path.file_name().map(Path::new).ok_or_else(|| Error::invalid("names no file"))
}

/// Checks that a name is that of a file in an open directory.
fn name_in_directory(name: &Path) -> Result<&Path> {
    let mut parts = name.components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(_)), None) => file_name(name),
        _ => Err(Error::invalid("this is no plain name of a file in the directory")),
    }
}

fn open_directory(dir: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    retry(|| fs::openat(dir, path, flags, Mode::empty())).map_err(|e| open_error("open the directory", e))
}

/// Has btrfs overwrite an empty file's data in place (`chattr +C`): on a full filesystem, an image has to be able to write its log and its
/// superblocks, and to free space. The image's own checksums replace those that btrfs then leaves out. Where this fails, or once the file
/// shares its extents with a snapshot of the filesystem, overwriting needs free space again.
fn overwrite_in_place(file: &File) {
    if fs::fstatfs(file).is_ok_and(|s| s.f_type as u32 == magic::BTRFS)
        && let Ok(flags) = fs::ioctl_getflags(file)
    {
        let _ = fs::ioctl_setflags(file, flags | fs::IFlags::NOCOW);
    }
}

impl FileBackend {
    /// Opens the image at `path` and locks it before a byte of it is read. Symbolic links are followed.
    ///
    /// `NotFound` if there is nothing, `Locked` if it is open elsewhere, `Invalid` if it is no regular file or, for
    /// writing, has more than one name (a lock or a rename by one name says nothing to users of the other).
    pub fn open(path: impl AsRef<Path>, writable: bool, read_path: ReadPath) -> Result<FileBackend> {
        FileBackend::open_named(|| {
            let path = path.as_ref().canonicalize().map_err(|e| open_error("open the image", e))?;
            let found = FileBackend::locked(fs::CWD, &path, writable, true)?;
            found.map(|file| FileBackend::new(file, &mut Source::Path(&path), writable, read_path)).transpose()
        })
    }

    /// Opens the image `name` of the directory `dir`, and nothing outside of that directory: no absolute path, no `/proc`. A symbolic
    /// link is `Invalid`. Else as [`FileBackend::open`].
    pub fn open_at(dir: impl AsFd, name: impl AsRef<Path>, writable: bool, read_path: ReadPath) -> Result<FileBackend> {
        let (dir, name) = (dir.as_fd(), name_in_directory(name.as_ref())?);
        FileBackend::open_named(|| {
            let found = FileBackend::locked(dir, name, writable, false)?;
            found.map(|file| FileBackend::new(file, &mut Source::At(dir, name), writable, read_path)).transpose()
        })
    }

    /// Repeats `open` until the name meant the same file before and after it was locked.
    fn open_named(mut open: impl FnMut() -> Result<Option<FileBackend>>) -> Result<FileBackend> {
        for _ in 0..TRIES {
            if let Some(backend) = open()? {
                return Ok(backend);
            }
        }
        Err(Error::new(ErrorKind::Io, "the image was replaced again and again while it was opened"))
    }

    /// Opens and locks a file by its name. `None` if the name meant another file once the lock was held, or a link where links
    /// have been resolved.
    fn locked(dir: BorrowedFd<'_>, name: &Path, writable: bool, resolved: bool) -> Result<Option<File>> {
        let look = || retry(|| fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW));
        // The file is looked at before it is opened, since opening a device or a pipe can have effects.
        let before = look().map_err(|e| open_error("open the image", e))?;
        if resolved && FileType::from_raw_mode(before.st_mode) == FileType::Symlink {
            return Ok(None);
        }
        regular(&before)?;
        let access = if writable { OFlags::RDWR } else { OFlags::RDONLY };
        let flags = access | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file: File = match retry(|| fs::openat(dir, name, flags, Mode::empty())) {
            Ok(file) => file.into(),
            // The name is a symbolic link by now.
            Err(e) if e.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => return Ok(None),
            Err(e) => return Err(open_error("open the image", e)),
        };
        let stat = fs::fstat(&file).map_err(|e| open_error("open the image", e.into()))?;
        regular(&stat)?;
        lock(&file, writable)?;
        // The lock is of use only if whoever opens this name next meets the same file.
        match look() {
            Ok(now) if same_file(&now, &stat) && now.st_nlink > 1 && writable => {
                Err(Error::invalid("the file has more than one name (hard links)"))
            }
            Ok(now) if same_file(&now, &stat) => Ok(Some(file)),
            _ => Ok(None),
        }
    }

    /// Opens an image in a file, or files, that the caller opened. See [`ImageFiles`] for what they have to be; `Invalid` if they are not.
    pub fn from_files(files: impl Into<ImageFiles>, writable: bool, read_path: ReadPath) -> Result<FileBackend> {
        let mut files = files.into();
        let stat = usable(&files.main, writable)?;
        for (i, file) in files.all().into_iter().enumerate().skip(1) {
            // The last one is for cold reads alone.
            let other = usable(file, writable && !files.cold.as_ref().is_some_and(|cold| std::ptr::eq(cold, file)))?;
            if !same_file(&stat, &other) {
                return Err(Error::invalid("the files are not the same file"));
            }
            for before in &files.all()[..i] {
                if shares_description(before, file).map_err(|e| open_error("look at the file", e))? {
                    return Err(Error::invalid(
                        "two of the files share one description: each needs an open of its own",
                    ));
                }
            }
        }
        let alone = files.all().len() == 1;
        let mut source = Source::Given { checkpoint: files.checkpoint, space: files.space, cold: files.cold };
        if alone {
            // The caller may have other descriptors of this description, which would share its lock.
            match source.reopen(&files.main, if writable { OFlags::RDWR } else { OFlags::RDONLY }) {
                Ok(own) => files.main = own,
                Err(_) if !writable => {}
                Err(e) => return Err(source.lacking(e)),
            }
        }
        if let Source::Given { checkpoint: Some(other), .. } = &source {
            // A lock that a descriptor of the same description holds does not refuse `main`; it does refuse this one.
            lock(other, true)?;
            retry(|| fs::flock(other, FlockOperation::Unlock)).map_err(|e| Error::io("unlock the image", e))?;
        }
        lock(&files.main, writable)?;
        FileBackend::new(files.main, &mut source, writable, read_path)
    }

    /// Takes an empty file, or files, that the caller opened for a new image. It is locked, and becomes an image by
    /// [`FileBackend::publish`]. `Exists` if the file is not empty.
    pub fn create_from_files(files: impl Into<ImageFiles>, read_path: ReadPath) -> Result<FileBackend> {
        let backend = FileBackend::from_files(files, true, read_path)?;
        if backend.len().map_err(|e| open_error("length of the file", e))? > 0 {
            return Err(Error::new(ErrorKind::Exists, "the file is not empty"));
        }
        overwrite_in_place(&backend.file);
        *backend.pending.lock().unwrap_or_else(PoisonError::into_inner) = Some(Pending::Sync);
        Ok(backend)
    }

    /// Makes a new, empty file that shall become the image at `path`, under a temporary name beside it. It is locked,
    /// and nobody else can read it (mode 0600). [`FileBackend::publish`] gives it its name; dropped before that, it
    /// leaves nothing.
    pub fn create(path: impl AsRef<Path>, read_path: ReadPath) -> Result<FileBackend> {
        let (path, name) = (path.as_ref(), file_name(path.as_ref())?);
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        FileBackend::create_in(open_directory(fs::CWD, parent)?, name, read_path)
    }

    /// [`FileBackend::create`] as `name` in the directory `dir`, with nothing outside of that directory opened.
    pub fn create_at(dir: impl AsFd, name: impl AsRef<Path>, read_path: ReadPath) -> Result<FileBackend> {
        let name = name_in_directory(name.as_ref())?;
        // A directory that was opened with `O_PATH` can't be synced.
        FileBackend::create_in(open_directory(dir.as_fd(), Path::new("."))?, name, read_path)
    }

    /// Empties a file that the caller opened for a new image, which did not become one.
    pub(crate) fn abandon(&self) {
        if let Some(Pending::Sync) = &*self.pending.lock().unwrap_or_else(PoisonError::into_inner) {
            // Best effort: what stays is no image.
            let _ = self.set_len(0);
        }
    }

    fn create_in(dir: OwnedFd, name: &Path, read_path: ReadPath) -> Result<FileBackend> {
        match retry(|| fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)) {
            Ok(_) => return Err(Error::new(ErrorKind::Exists, "the file exists")),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(open_error("look for the image", e)),
        }
        for _ in 0..TRIES {
            let temporary = PathBuf::from(format!(".snapdisk-{:016x}.tmp", SystemHost.random()));
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let file: File = match retry(|| fs::openat(&dir, &temporary, flags, Mode::RUSR | Mode::WUSR)) {
                Ok(file) => file.into(),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(open_error("create the image", e)),
            };
            overwrite_in_place(&file);
            let place = Place { dir, temporary, name: name.into() };
            lock(&file, true)?;
            let mut source = Source::At(place.dir.as_fd(), &place.temporary);
            let mut backend = FileBackend::new(file, &mut source, true, read_path)?;
            backend.pending = Mutex::new(Some(Pending::Name(place)));
            return Ok(backend);
        }
        Err(Error::new(ErrorKind::Io, "no temporary name is free"))
    }

    /// Makes a new image durable, and gives it its name if it has none yet: after a crash there is no file of that name, or this one in its
    /// present state. `Exists` if the name was taken meanwhile. Does nothing if the image was published before.
    pub fn publish(&self) -> Result<()> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(waits_for) = pending.as_ref() else { return Ok(()) };
        fs::fsync(&self.file).map_err(|e| open_error("sync a new image", e.into()))?;
        let Pending::Name(p) = waits_for else {
            *pending = None;
            return Ok(());
        };
        // A rename is one step: no crash leaves the file with two names.
        match retry(|| fs::renameat_with(&p.dir, &p.temporary, &p.dir, &p.name, RenameFlags::NOREPLACE)) {
            Err(e) if renames_only_over(&e) => {
                retry(|| fs::linkat(&p.dir, &p.temporary, &p.dir, &p.name, AtFlags::empty()))
                    .map_err(|e| open_error("name a new image", e))?;
                retry(|| fs::unlinkat(&p.dir, &p.temporary, AtFlags::empty()))
                    .map_err(|e| open_error("take a new image's temporary name away", e))?;
            }
            renamed => renamed.map_err(|e| open_error("name a new image", e))?,
        }
        let synced = fs::fsync(&p.dir).map_err(|e| open_error("sync a new image's directory", e.into()));
        *pending = None;
        synced
    }
}

/// Returns whether a rename failed because the filesystem can't keep it from replacing an existing file.
fn renames_only_over(e: &io::Error) -> bool {
    matches!(Errno::from_io_error(e), Some(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP))
}
