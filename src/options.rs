//! How a store is created and opened: plain data, every default stated.

use crate::{
    BLOCK, Error, IMAGE_MAX, Result, Store, audit,
    engine::{Config, Engine},
    events::{Call, Event, Events},
    io::{Backend, FileBackend, Host, ImageFiles, ReadPath, SystemHost},
    knobs::Knobs,
    units::BLOCK_BYTES,
};
use std::{os::fd::AsFd, path::Path, sync::Arc};

/// A builder of stores: how an image is created or opened.
///
/// ```
/// # fn main() -> snapdisk::Result<()> {
/// let dir = tempfile::tempdir().unwrap();
/// let store = snapdisk::Options::new().log_bytes(4 << 20).create(dir.path().join("disks.img"))?;
/// store.close()
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    log_bytes: u64,
    read_path: ReadPath,
    memory: u64,
    max_image_bytes: u64,
    punch_from: Option<u64>,
    slack: u32,
    write_fresh: bool,
    untrusted: bool,
    manual: bool,
    on_event: Option<Call>,
    knobs: Knobs,
}

impl Default for Options {
    fn default() -> Self {
        Options::new()
    }
}

impl Options {
    /// The defaults: 16 MiB of log, a read path chosen by the filesystem, 256 MiB of memory, images up to 64 TiB, free runs of 1 MiB and more
    /// returned to the host, as much free space as data before small holes are filled, background threads.
    pub fn new() -> Options {
        Options {
            log_bytes: 16 << 20,
            read_path: ReadPath::Auto,
            memory: 256 << 20,
            max_image_bytes: IMAGE_MAX,
            punch_from: Some(1 << 20),
            slack: 100,
            write_fresh: true,
            untrusted: false,
            manual: false,
            on_event: None,
            knobs: Knobs::default(),
        }
    }
    /// Size of the intent log, 1 to 64 MiB, fixed at creation.
    #[must_use]
    pub fn log_bytes(mut self, bytes: u64) -> Self {
        self.log_bytes = bytes;
        self
    }
    /// How data is read.
    #[must_use]
    pub fn read_path(mut self, path: ReadPath) -> Self {
        self.read_path = path;
        self
    }
    /// Bytes of memory for everything that the store keeps: cached nodes, changes that wait for a checkpoint, data that is being written,
    /// records of the log, the space map, the state of a check. The store uses up to 16 MiB more, whatever the size of the image. Writers
    /// wait rather than exceed the budget. Creating or opening an image answers `Invalid` if the budget is less than 1 MiB, or less than
    /// twice the image's log less 16 MiB, which recovery needs.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = bytes;
        self
    }
    /// The image file never grows beyond this size.
    #[must_use]
    pub fn max_image_bytes(mut self, bytes: u64) -> Self {
        self.max_image_bytes = bytes.min(IMAGE_MAX);
        self
    }
    /// Free runs of at least this many bytes are returned to the host; `None`: none are. About as much free space is kept as the image grows
    /// by at a time (63 MiB, or a sixteenth of its size), and, within [`Options::slack`], twice as much as was written between recent
    /// checkpoints, since that will soon be written again.
    #[must_use]
    pub fn punch_from(mut self, bytes: Option<u64>) -> Self {
        self.punch_from = bytes;
        self
    }
    /// How much free space the image may have, in percent of the space in use, before writes fill small holes instead of growing the image.
    /// More free space makes writes faster: random overwrites need about 100 (the default) to find runs of several blocks, while with 0 the
    /// image stays small and nearly every block is written by itself. An image that has this much free space does not grow while a checkpoint
    /// would make freed space allocatable: the write waits for the checkpoint.
    #[must_use]
    pub fn slack(mut self, percent: u32) -> Self {
        self.slack = percent;
        self
    }
    /// Whether space that the image takes from the host is written once, with zeros, before data goes there: ahead of need, in the
    /// background. On ext4, an acknowledged flush into space that was never written can be lost if the filesystem's journal is aborted at
    /// that moment; in space that was written before, it is not. Without this, a growing image is written once instead of twice, and its
    /// first writes take longer. On filesystems that never overwrite in place (btrfs and others) nothing is written ahead.
    #[must_use]
    pub fn write_fresh_space(mut self, yes: bool) -> Self {
        self.write_fresh = yes;
        self
    }
    /// Checks the whole image before anything is read from it or written to it, for images from elsewhere. Any finding makes opening fail
    /// with `Corrupt`, for reading and for salvage too.
    #[must_use]
    pub fn untrusted(mut self, yes: bool) -> Self {
        self.untrusted = yes;
        self
    }
    /// Starts no background threads: the caller runs [`Store::maintain`]. Operations still run checkpoints when the log or the space runs
    /// out.
    #[must_use]
    pub fn manual_maintenance(mut self, yes: bool) -> Self {
        self.manual = yes;
        self
    }
    /// Calls `hook` for what happens in the store besides what was asked for: see [`Event`]. It replaces an earlier hook.
    ///
    /// The hook is called when the operation or the step of background work in which the event happened has ended, with nothing of the store
    /// held, so that it may call the store. The thread that did the work calls it, or another one that is delivering events at that time; one
    /// thread at a time, in order. It should return soon: an operation waits for it, and of events that happen while it takes too long only
    /// the number is reported. A panic in it ends that call and nothing else. Events of an opening are delivered with the first operation. A
    /// hook that owns a handle of its own store keeps the store open: give it a weak one, or close the store.
    ///
    /// ```
    /// use snapdisk::{Event, Options};
    ///
    /// let options = Options::new().on_event(|event| {
    ///     if let Event::Poisoned { cause, .. } = event {
    ///         eprintln!("the store has stopped: {cause}");
    ///     }
    /// });
    /// ```
    #[must_use]
    pub fn on_event(mut self, hook: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.on_event = Some(Call::new(hook));
        self
    }
    /// Sizes, for tests.
    #[cfg(feature = "sim")]
    #[must_use]
    pub fn knobs(mut self, knobs: Knobs) -> Self {
        self.knobs = knobs;
        self
    }

    pub(crate) fn config(&self) -> Result<Config> {
        let k = &self.knobs;
        let log_pages = if k.log_pages > 0 { u64::from(k.log_pages) } else { self.log_bytes / BLOCK_BYTES };
        if k.log_pages == 0 && !(1 << 20..=64 << 20).contains(&self.log_bytes) {
            return Err(Error::invalid(format!("a log of {} bytes: 1 to 64 MiB", self.log_bytes)));
        }
        let punch_from = match self.punch_from {
            None => u32::MAX,
            Some(bytes) => u32::try_from(bytes.div_ceil(BLOCK_BYTES).max(1)).unwrap_or(u32::MAX),
        };
        let config = Config {
            log_pages,
            memory: self.memory,
            limit_blocks: self.max_image_bytes / BLOCK as u64,
            punch_from,
            slack: self.slack,
            write_fresh: self.write_fresh,
            manual: self.manual,
            events: Events::new(self.on_event.as_ref()),
            knobs: self.knobs,
        };
        config.check_memory(log_pages).map(|()| config)
    }

    /// Makes a new image file, which appears under its name only when it is complete. `Exists` if the name is taken.
    pub fn create(&self, path: impl AsRef<Path>) -> Result<Store> {
        let path = path.as_ref();
        let made = self.create_file_on(|read_path| FileBackend::create(path, read_path));
        made.map_err(|e| e.at(path.display()))
    }
    /// Opens an image for writing; recovers it if it was not closed. `Locked` if anyone else has it.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Store> {
        let path = path.as_ref();
        let file = FileBackend::open(path, true, self.read_path).map_err(|e| e.at(path.display()))?;
        self.open_on(Arc::new(file), Arc::new(SystemHost)).map_err(|e| e.at(path.display()))
    }
    /// Opens an image for reading, together with any number of other readers. It writes nothing: what the log says is applied in memory.
    /// `Locked` if someone has it for writing.
    pub fn open_read_only(&self, path: impl AsRef<Path>) -> Result<Store> {
        let path = path.as_ref();
        let file = FileBackend::open(path, false, self.read_path).map_err(|e| e.at(path.display()))?;
        self.open_read_only_on(Arc::new(file), Arc::new(SystemHost)).map_err(|e| e.at(path.display()))
    }
    /// [`Options::create`] as `name` in an open directory, for a process that can't open absolute paths or `/proc`. The name has no slash in
    /// it.
    pub fn create_at(&self, dir: impl AsFd, name: impl AsRef<Path>) -> Result<Store> {
        let name = name.as_ref();
        let made = self.create_file_on(|read_path| FileBackend::create_at(dir, name, read_path));
        made.map_err(|e| e.at(name.display()))
    }
    /// [`Options::open`] of `name` in an open directory; nothing outside of that directory is opened. A symbolic link is `Invalid`.
    pub fn open_at(&self, dir: impl AsFd, name: impl AsRef<Path>) -> Result<Store> {
        let name = name.as_ref();
        let file = FileBackend::open_at(dir, name, true, self.read_path).map_err(|e| e.at(name.display()))?;
        self.open_on(Arc::new(file), Arc::new(SystemHost)).map_err(|e| e.at(name.display()))
    }
    /// [`Options::open_read_only`] of `name` in an open directory, as [`Options::open_at`] does.
    pub fn open_read_only_at(&self, dir: impl AsFd, name: impl AsRef<Path>) -> Result<Store> {
        let name = name.as_ref();
        let file = FileBackend::open_at(dir, name, false, self.read_path).map_err(|e| e.at(name.display()))?;
        self.open_read_only_on(Arc::new(file), Arc::new(SystemHost)).map_err(|e| e.at(name.display()))
    }
    /// Creates a new image in an empty file that was opened for reading and writing, given as a [`std::fs::File`] or as [`ImageFiles`].
    /// `Exists` if the file is not empty. If this fails, the file is empty again; after a crash it may hold part of an image, which does not
    /// open.
    pub fn create_file(&self, file: impl Into<ImageFiles>) -> Result<Store> {
        self.create_file_on(|read_path| FileBackend::create_from_files(file, read_path))
    }
    /// [`Options::open`] of a file that was opened for reading and writing, given as a [`std::fs::File`] or as [`ImageFiles`]. A file alone
    /// is opened again through `/proc/self/fd`; `Invalid` if that fails.
    pub fn open_file(&self, file: impl Into<ImageFiles>) -> Result<Store> {
        let file = FileBackend::from_files(file, true, self.read_path)?;
        self.open_on(Arc::new(file), Arc::new(SystemHost))
    }
    /// [`Options::open_read_only`] of a file that was opened for reading.
    pub fn open_file_read_only(&self, file: impl Into<ImageFiles>) -> Result<Store> {
        let file = FileBackend::from_files(file, false, self.read_path)?;
        self.open_read_only_on(Arc::new(file), Arc::new(SystemHost))
    }
    fn create_file_on(&self, file: impl FnOnce(ReadPath) -> Result<FileBackend>) -> Result<Store> {
        let config = self.config()?;
        let file = Arc::new(file(self.read_path)?);
        let made = Engine::create(file.clone(), Arc::new(SystemHost), config).and_then(|engine| {
            file.publish()?;
            Ok(engine)
        });
        let engine = made.inspect_err(|_| file.abandon()).map_err(Error::nothing_applied)?;
        Store::new(engine)
    }
    /// [`Options::create`] on any storage.
    pub fn create_on(&self, backend: Arc<dyn Backend>, host: Arc<dyn Host>) -> Result<Store> {
        let engine = Engine::create(backend, host, self.config()?).map_err(Error::nothing_applied)?;
        Store::new(engine)
    }
    /// [`Options::open`] on any storage.
    pub fn open_on(&self, backend: Arc<dyn Backend>, host: Arc<dyn Host>) -> Result<Store> {
        let len = backend.len().map_err(|e| Error::io("length of the image", e))?;
        let engine = Engine::open(backend, host, self.config()?, true).map_err(Error::nothing_applied)?;
        self.trust(&engine).and_then(|()| engine.take_owed()).inspect_err(|_| engine.disk.cut_back(len))?;
        engine.begin_epoch().map_err(Error::nothing_applied)?;
        Store::new(engine)
    }
    /// Checks an image from elsewhere before anyone can use it.
    fn trust(&self, engine: &Engine) -> Result<()> {
        if !self.untrusted {
            return Ok(());
        }
        let report = audit::check(engine, &mut |_| true)?;
        match report.findings.first() {
            None => Ok(()),
            Some(first) => {
                let n = report.findings.len();
                Err(Error::corrupt(format!("{n} findings in an untrusted image; the first: {first}")))
            }
        }
    }
    /// [`Options::open_read_only`] on any storage.
    pub fn open_read_only_on(&self, backend: Arc<dyn Backend>, host: Arc<dyn Host>) -> Result<Store> {
        let engine = Engine::open(backend, host, self.config()?, false)?;
        self.trust(&engine)?;
        Store::new(engine)
    }
    /// Opens for reading what is readable of an image whose log is damaged, or of whose log or superblocks some can't be read: the state before
    /// the damage, which may be *older* than what was acknowledged. The second part of the result says what is missing; `None` if nothing is.
    pub fn open_salvage(&self, path: impl AsRef<Path>) -> Result<(Store, Option<Error>)> {
        let path = path.as_ref();
        let file = FileBackend::open(path, false, self.read_path).map_err(|e| e.at(path.display()))?;
        self.open_salvage_on(Arc::new(file), Arc::new(SystemHost)).map_err(|e| e.at(path.display()))
    }
    /// [`Options::open_salvage`] on any storage.
    pub fn open_salvage_on(&self, backend: Arc<dyn Backend>, host: Arc<dyn Host>) -> Result<(Store, Option<Error>)> {
        let (engine, lost) = Engine::open_with(backend, host, self.config()?, false, true)?;
        self.trust(&engine)?;
        Ok((Store::new(engine)?, lost))
    }
}
