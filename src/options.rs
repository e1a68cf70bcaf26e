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

/// Builder of stores.
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
    /// The defaults: 16 MiB of log, read path chosen by the filesystem, 256 MiB of memory, images up to 64 TiB, runs of 1 MiB and more
    /// given back to the host, as much free space as there is data before small holes are filled, background threads.
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
    /// Bytes of memory for everything that the store keeps: cached nodes, changes that wait for a checkpoint, data on its way to the file,
    /// records of the log, the space map, a check's notes. It takes up to 16 MiB more, whatever the size of the image. Writers wait rather than
    /// exceed it. Creating or opening an image answers `Invalid` where it is less than 1 MiB, or less than twice the image's log less
    /// 16 MiB, which recovery needs.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = bytes;
        self
    }
    /// The image file never grows past this.
    #[must_use]
    pub fn max_image_bytes(mut self, bytes: u64) -> Self {
        self.max_image_bytes = bytes.min(IMAGE_MAX);
        self
    }
    /// Free runs of this many bytes and more go back to the host; `None`: none do. About as much as the image grows by at a time (63 MiB, or
    /// a sixteenth of it) is kept, and, within [`Options::slack`], twice what was written between two checkpoints of late, since that is
    /// soon written again.
    #[must_use]
    pub fn punch_from(mut self, bytes: Option<u64>) -> Self {
        self.punch_from = bytes;
        self
    }
    /// How much free space the image may have, in percent of what is in use, before writes fill small holes in it instead of growing it:
    /// room for speed. Random overwrites need about 100 (the default) to find runs of several blocks; 0 keeps the image small and
    /// has nearly every block written by itself. An image that has so much does not grow while a checkpoint would make freed space allocatable:
    /// the write waits for the checkpoint.
    #[must_use]
    pub fn slack(mut self, percent: u32) -> Self {
        self.slack = percent;
        self
    }
    /// Whether space that the image takes from the host is written once, with zeros, before anything is put there: ahead of need, in the
    /// background. On ext4 an acknowledged flush into space that was never written can be lost when the filesystem's journal is aborted in that
    /// moment; in space that was written before it is not. Without it an image that grows
    /// is written once instead of twice, and takes its first writes at the host's price. On filesystems that never overwrite in place (btrfs
    /// and others) nothing is written ahead.
    #[must_use]
    pub fn write_fresh_space(mut self, yes: bool) -> Self {
        self.write_fresh = yes;
        self
    }
    /// Checks the whole image before anything is read from it or written to it: for images from elsewhere. Any finding makes opening,
    /// for reading and salvage too, fail with `Corrupt`.
    #[must_use]
    pub fn untrusted(mut self, yes: bool) -> Self {
        self.untrusted = yes;
        self
    }
    /// No background threads: the caller runs [`Store::maintain`]. Operations still checkpoint when the log or the space runs out.
    #[must_use]
    pub fn manual_maintenance(mut self, yes: bool) -> Self {
        self.manual = yes;
        self
    }
    /// Has `hook` told of what happens in the store besides what was asked for: see [`Event`]. In place of an earlier hook.
    ///
    /// It is called with nothing of the store held, so that it may call the store, when the operation or the step of background work has
    /// ended in which the event happened: by the thread that did it, or by one that is delivering just then; by one thread at a time, in order. So
    /// it should not take long: an operation waits for it, and of events that come while it takes too long only the number is told. A
    /// panic in it ends that call and nothing else. What happens while the image is being opened is told with the first operation. A hook that
    /// owns a handle of its own store keeps the store open: give it a weak one, or close the store.
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
    /// Opens an image for reading, with any number of others that do. Writes nothing: what the log says is applied in memory. `Locked` if someone
    /// has it for writing.
    pub fn open_read_only(&self, path: impl AsRef<Path>) -> Result<Store> {
        let path = path.as_ref();
        let file = FileBackend::open(path, false, self.read_path).map_err(|e| e.at(path.display()))?;
        self.open_read_only_on(Arc::new(file), Arc::new(SystemHost)).map_err(|e| e.at(path.display()))
    }
    /// [`Options::create`] as `name` in an open directory, for a process that can't open absolute paths or `/proc`. The name is a plain one,
    /// without a slash.
    pub fn create_at(&self, dir: impl AsFd, name: impl AsRef<Path>) -> Result<Store> {
        let name = name.as_ref();
        let made = self.create_file_on(|read_path| FileBackend::create_at(dir, name, read_path));
        made.map_err(|e| e.at(name.display()))
    }
    /// [`Options::open`] of `name` in an open directory, with nothing outside of it opened. A symbolic link is `Invalid`.
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
    /// Makes a new image in an empty file that was opened for reading and writing, as a [`std::fs::File`] or as [`ImageFiles`]. `Exists` if the
    /// file is not empty. Where this fails the file is empty again; after a crash it may hold part of an image, which does not open.
    pub fn create_file(&self, file: impl Into<ImageFiles>) -> Result<Store> {
        self.create_file_on(|read_path| FileBackend::create_from_files(file, read_path))
    }
    /// [`Options::open`] of a file that was opened for reading and writing, as a [`std::fs::File`] or as [`ImageFiles`]. A file alone is
    /// opened anew through `/proc/self/fd`; `Invalid` where that can't be.
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
    /// Checks an image from elsewhere before anyone gets it.
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
    /// Opens for reading what can be had of an image whose log is damaged: the state before the damage, which is *older* than what was
    /// acknowledged. The second part says what is missing; `None`: nothing is.
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
