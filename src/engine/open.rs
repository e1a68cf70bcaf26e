//! Creating and opening images.

use super::{
    recover,
    state::{Checkpointer, Config, Engine, Flusher, State},
};
use crate::{
    BLOCK, Error, ErrorKind, Result,
    format::{COUNTER_ROOM, LOG_START, Page, SLOTS, Superblock},
    io::{Backend, Disk, Host, Lane},
    log,
    sync::{self, Bell, Mutex, RwLock},
    units::BLOCK_BYTES,
};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64},
};

impl Engine {
    fn build(
        mut disk: Disk,
        host: Arc<dyn Host>,
        mut config: Config,
        sb: Superblock,
        slot: usize,
        epoch: u64,
    ) -> Engine {
        config.log_pages = sb.log_pages;
        disk.events = config.events.clone();
        let disk = Arc::new(disk);
        let salt = host.random() as u32 & 0xff_ffff;
        let state = State::new(&config, &sb, salt);
        Engine {
            disk,
            host,
            uuid: sb.uuid,
            hash_key: sb.hash_key,
            epoch,
            salt,
            translations: state.translations.clone(),
            state: sync::quick(state),
            flusher: Mutex::new(Flusher { previous: sb.log_hash, acked: sb.log_group, pages: Vec::new() }),
            spilling: Mutex::default(),
            placing: RwLock::default(),
            reading: Default::default(),
            meters: Default::default(),
            unpushed: Mutex::default(),
            checkpointer: Mutex::new(Checkpointer { superblock: sb, slot }),
            config,
            reserving: Mutex::default(),
            punched_at: AtomicU64::new(0),
            buffers: Mutex::default(),
            maintenance: Bell::default(),
            resting: AtomicBool::new(false),
            wakeups: AtomicU64::new(0),
            fresh_written: AtomicU64::new(0),
            background: Mutex::default(),
            behind: Bell::default(),
            stopping: AtomicBool::new(false),
        }
    }

    /// Creates an image on an empty backend.
    pub(crate) fn create(backend: Arc<dyn Backend>, host: Arc<dyn Host>, config: Config) -> Result<Engine> {
        let disk = Disk::new(backend, true);
        if disk.len()? != 0 {
            return Err(Error::new(ErrorKind::Exists, "the file is not empty"));
        }
        let mut uuid = [0; 16];
        uuid[..8].copy_from_slice(&host.random().to_le_bytes());
        uuid[8..].copy_from_slice(&host.random().to_le_bytes());
        let sb = Superblock::empty(uuid, host.random(), config.log_pages, config.knobs.span, config.knobs.index_fanout);
        // The ring is written, not only reserved: a first write into fresh space would add a journal commit of the host to every flush.
        let ring = LOG_START.offset() + sb.log_pages * BLOCK_BYTES;
        // The space between the superblocks is not used.
        for (start, end) in SLOTS.map(|s| (s, s.plus(1))).into_iter().chain([(LOG_START, LOG_START.plus(sb.log_pages))])
        {
            disk.reserve(start.offset(), end.offset() - start.offset())?;
        }
        // Page by page, so that the host caches the ring in small folios, which is how it will be written.
        for at in (LOG_START.offset()..ring).step_by(BLOCK) {
            disk.write(at, &[&[0; BLOCK]])?;
        }
        let engine = Engine::build(disk, host, config, sb, 0, 1);
        if !engine.reserve_space(1)? {
            return Err(Error::invalid("the largest image size leaves no room for data"));
        }
        engine.checkpoint()?;
        Ok(engine)
    }

    /// Opens an image and recovers it in memory. For writing, [`Engine::take_owed`] and [`Engine::begin_epoch`] must follow.
    pub(crate) fn open(
        backend: Arc<dyn Backend>,
        host: Arc<dyn Host>,
        config: Config,
        writable: bool,
    ) -> Result<Engine> {
        Engine::open_with(backend, host, config, writable, false).map(|opened| opened.0)
    }

    /// [`Engine::open`]. With `salvage`, for reading only, damage to the acknowledged log ends the replay instead of failing it, and is
    /// returned.
    pub(crate) fn open_with(
        backend: Arc<dyn Backend>,
        host: Arc<dyn Host>,
        config: Config,
        writable: bool,
        salvage: bool,
    ) -> Result<(Engine, Option<Error>)> {
        let disk = Disk::new(backend, writable);
        if writable {
            // After a killed process the cache may hold what the disk does not: nothing is read before this sync (I8).
            disk.sync_at_open(Lane::Flush)?;
        }
        let salvage = salvage && !writable;
        let Newest { superblock: sb, other: slot, unreadable } = newest_superblock(&disk, salvage)?;
        if writable && sb.read_only_compatible != 0 {
            return Err(Error::new(
                ErrorKind::UnsupportedVersion,
                format!("features {:#x}: this code can open the image for reading only", sb.read_only_compatible),
            ));
        }
        if writable && !sb.has_room(COUNTER_ROOM) {
            return Err(Error::corrupt(
                "superblock: a counter is at its end, and the image can be opened for reading only",
            ));
        }
        if writable && !sb.clean {
            // A write-out may have failed under the last writer: what the cache has of that is neither read nor written over.
            disk.drop_cache();
        }
        let len = disk.len()?;
        let needed = recover::needed_len(&sb);
        if len < needed {
            return Err(Error::new(ErrorKind::Truncated, format!("the image has {len} bytes and needs {needed}")));
        }
        config.check_memory(sb.log_pages)?;
        let mut replay = log::scan(&disk, &sb, salvage)?;
        replay.lost = replay.lost.or(unreadable);
        let next_epoch = sb.epoch + u64::from(writable);
        let engine = Engine::build(disk, host, config, sb, slot, next_epoch);
        engine.state.write().forest.space.imaginary = !writable;
        engine.replay(&replay, writable, len).inspect_err(|_| engine.disk.cut_back(len))?;
        Ok((engine, replay.lost))
    }

    /// Opens the durable checkpoint alone, for the simulator's guard.
    #[cfg(feature = "sim")]
    pub(crate) fn checkpoint_view(
        backend: Arc<dyn Backend>,
        host: Arc<dyn Host>,
        config: Config,
        sb: Superblock,
    ) -> Result<Engine> {
        let epoch = sb.epoch;
        let engine = Engine::build(Disk::new(backend, false), host, config, sb, 0, epoch);
        engine.state.write().forest.space.imaginary = true;
        Ok(engine)
    }

    /// Reserves the space that recovery assumed to be reserved. Nothing was written before this.
    pub(crate) fn take_owed(&self) -> Result<()> {
        let owed = std::mem::take(&mut self.state.write().owed);
        owed.into_iter().try_for_each(|(start, len)| self.disk.reserve(start, len))
    }

    /// Ends an opening for writing: a checkpoint of what was replayed, and then the new epoch, before the first append.
    pub(crate) fn begin_epoch(&self) -> Result<()> {
        let mut checkpointer = self.checkpointer.lock();
        if !checkpointer.superblock.clean {
            self.checkpoint_with(&mut checkpointer, false)?;
        }
        let old = &checkpointer.superblock;
        if old.epoch != self.epoch || old.clean {
            let next = Superblock { sequence: old.sequence + 1, epoch: self.epoch, clean: false, ..old.clone() };
            self.write_superblock(&mut checkpointer, next)?;
        }
        Ok(())
    }

    /// Flushes, writes a last checkpoint and leaves the image clean. From now on all handles answer `Closed`.
    pub(crate) fn close(&self) -> Result<()> {
        let _delivery = self.delivery();
        self.check_process()?;
        {
            let mut state = self.state.write();
            if state.closed {
                return Err(super::state::closed());
            }
            state.closed = true;
            state.translations.close();
            state.leases.close();
        }
        self.stop();
        // These locks are held until the image is released, so that whoever waits for one of them to write finds the disk released.
        let mut checkpointer = self.checkpointer.lock();
        let outcome = if self.disk.is_writable() {
            self.disk.writes_allowed().and_then(|()| self.checkpoint_with(&mut checkpointer, true))
        } else {
            Ok(())
        };
        let _flusher = self.flusher.lock();
        let _spilling = self.spilling.lock();
        let _reserving = self.reserving.lock();
        let _placing = self.placing.write();
        self.disk.release();
        outcome
    }

    /// Asks the background threads to end.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, std::sync::atomic::Ordering::SeqCst);
        self.maintenance.ring();
        self.behind.ring();
    }
}

/// The newest valid superblock.
pub(crate) struct Newest {
    pub(crate) superblock: Superblock,
    /// The slot that does not hold it.
    pub(crate) other: usize,
    /// Salvage only: why the other slot could not be read.
    unreadable: Option<Error>,
}

/// Reads both superblocks. A slot that can't be read may hold the newer one, without which acknowledged operations would be missing: that is an
/// error, unless `salvage` accepts what there is.
pub(crate) fn newest_superblock(disk: &Disk, salvage: bool) -> Result<Newest> {
    let mut found: Option<(Superblock, usize)> = None;
    let (mut problem, mut unreadable): (Option<Error>, _) = (None, None);
    for (i, slot) in SLOTS.iter().enumerate() {
        let mut page: Box<Page> = Box::new([0; BLOCK]);
        if let Err(e) = disk.read_cold_padded(slot.offset(), &mut page[..]) {
            let e = e.at("superblock");
            if !salvage {
                return Err(e);
            }
            unreadable = Some(e);
            continue;
        }
        match Superblock::decode(&page) {
            Ok(sb) if found.as_ref().is_none_or(|(best, _)| sb.sequence > best.sequence) => found = Some((sb, 1 - i)),
            Ok(_) => {}
            // A missing magic number says least: any other problem is the better answer.
            Err(e) if problem.as_ref().is_none_or(|p| p.kind() == ErrorKind::Invalid) => problem = Some(e),
            Err(_) => {}
        }
    }
    match (found, problem) {
        (Some(found), Some(p)) if p.kind() == ErrorKind::UnsupportedVersion => {
            let _ = found;
            Err(p)
        }
        (Some((superblock, other)), _) => Ok(Newest { superblock, other, unreadable }),
        (None, p) => Err(p.or(unreadable).unwrap_or_else(|| Error::invalid("no snapdisk image"))),
    }
}
