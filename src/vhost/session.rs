//! One connection of a monitor: what it says of the guest's memory and queues, and the configuration that it asks for.

use super::{
    message::{self, FDS, Message, bad, code, u64_at},
    request::{Medium, QUEUES},
    ring::{ENTRIES, Memory, Ring, Shared},
};
use crate::{Volume, sync};
use parking_lot::Mutex;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use std::{
    fs::File,
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::Arc,
    time::Duration,
};
use virtio_bindings::{
    virtio_blk::VIRTIO_BLK_F_FLUSH,
    virtio_config::VIRTIO_F_VERSION_1,
    virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC},
};
use vm_memory::{FileOffset, GuestAddress, GuestRegionMmap, MmapRegion};

/// The feature bit that says that there are features of the protocol.
const PROTOCOL_FEATURES: u64 = 1 << 30;
const MQ: u64 = 1 << 0;
const REPLY_ACK: u64 = 1 << 3;
const BACKEND_REQ: u64 = 1 << 5;
const CONFIG: u64 = 1 << 9;
const RESET_DEVICE: u64 = 1 << 13;
/// Features of the protocol that are served.
const PROTOCOL: u64 = MQ | REPLY_ACK | BACKEND_REQ | CONFIG | RESET_DEVICE;
/// How often the thread that waits for a new size looks whether its connection has ended.
const LOOK: Duration = Duration::from_secs(10);

/// A region of the guest's memory as the monitor has it.
struct Region {
    /// Address in the guest.
    guest: u64,
    bytes: u64,
    /// Address in the monitor, in which it names the places of queues.
    monitor: u64,
}

/// A connection.
pub(super) struct Session {
    stream: UnixStream,
    medium: Arc<Medium>,
    features: u64,
    protocol: u64,
    regions: Vec<Region>,
    memory: Option<Arc<Memory>>,
    rings: [Ring; QUEUES],
    /// Where the monitor is told of a new size, once it has said how, and whose.
    told: Arc<Mutex<Option<(UnixStream, Volume)>>>,
}

impl Session {
    pub(super) fn new(stream: UnixStream, medium: Medium) -> Session {
        Session {
            stream,
            medium: Arc::new(medium),
            features: 0,
            protocol: 0,
            regions: Vec::new(),
            memory: None,
            rings: std::array::from_fn(|_| Ring::default()),
            told: Arc::default(),
        }
    }

    /// Serves the connection until the monitor hangs up or says what nobody can.
    pub(super) fn run(mut self) -> io::Result<()> {
        self.watch()?;
        let done = self.serve();
        self.rings.iter_mut().for_each(Ring::stop);
        done
    }

    fn serve(&mut self) -> io::Result<()> {
        while let Some(mut message) = message::receive(&self.stream)? {
            let fds = std::mem::take(&mut message.fds);
            match self.handle(&message, fds) {
                Ok(Some(body)) => message::reply(&self.stream, message.code, &body)?,
                Ok(None) if self.acknowledges(&message) => self.acknowledge(message.code, 0)?,
                Ok(None) => {}
                Err(_) if self.acknowledges(&message) && !has_reply(message.code) => {
                    self.acknowledge(message.code, 1)?;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
    fn acknowledges(&self, message: &Message) -> bool {
        message.needs_reply() && self.protocol & REPLY_ACK != 0
    }
    fn acknowledge(&self, code: u32, outcome: u64) -> io::Result<()> {
        message::reply(&self.stream, code, &outcome.to_le_bytes())
    }

    /// Starts the thread that tells the monitor of a new size. It holds nothing that keeps the volume attached or the store open, and ends by
    /// itself soon after the connection.
    fn watch(&self) -> io::Result<()> {
        let Medium::Volume(volume) = &*self.medium else { return Ok(()) };
        let (lease, told) = (volume.lease().clone(), Arc::downgrade(&self.told));
        let (mut seen, mut size) = (volume.generation(), self.medium.size().ok());
        let watch = move || {
            while let Ok(now) = lease.wait(seen, LOOK) {
                let Some(told) = told.upgrade() else { return };
                if now != seen {
                    seen = now;
                    let Some((stream, volume)) = &*told.lock() else { continue };
                    let now_size = volume.size().ok();
                    if now_size != size {
                        // One that does not listen learns of it when it asks the next time.
                        let _ = message::request(stream, code::CONFIG_CHANGE);
                    }
                    size = now_size;
                }
            }
        };
        sync::spawn("snapdisk-vhost-size", watch).map(drop)
    }

    fn device_features(&self) -> u64 {
        let ring = [VIRTIO_F_VERSION_1, VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC];
        ring.iter().fold(self.medium.features() | PROTOCOL_FEATURES, |bits, feature| bits | 1 << feature)
    }

    /// Carries out a request. `Some`: the answer that it has of its own.
    fn handle(&mut self, message: &Message, mut fds: Vec<OwnedFd>) -> io::Result<Option<Vec<u8>>> {
        let number = |value: u64| Ok(Some(value.to_le_bytes().to_vec()));
        match message.code {
            code::GET_FEATURES => return number(self.device_features()),
            code::SET_FEATURES => self.set_features(message.number()?)?,
            code::GET_PROTOCOL_FEATURES => return number(PROTOCOL),
            code::SET_PROTOCOL_FEATURES => {
                self.protocol = message.number()?;
                check(self.protocol & !PROTOCOL == 0, "features of the protocol that were not offered")?;
            }
            code::SET_OWNER | code::RESET_OWNER => {}
            code::GET_QUEUE_NUM => return number(QUEUES as u64),
            code::SET_MEM_TABLE => self.set_memory(&message.body, fds)?,
            code::SET_VRING_NUM => {
                let [index, entries] = message.words()?;
                let fits = entries <= u32::from(ENTRIES) && entries.is_power_of_two();
                check(fits, format_args!("a queue of {entries} entries"))?;
                self.change(index, |ring| ring.entries = entries as u16)?;
            }
            code::SET_VRING_ADDR => {
                message.exact(40)?;
                let [table, used, available] = [8, 16, 24].map(|at| self.guest_address(u64_at(&message.body, at)));
                let places = Some([table?, used?, available?]);
                self.change(message::u32_at(&message.body, 0), |ring| ring.places = places)?;
            }
            code::SET_VRING_BASE => {
                let [index, base] = message.words()?;
                let base = u16::try_from(base).map_err(|_| bad(format_args!("an index of {base}")))?;
                self.change(index, |ring| ring.base = base)?;
            }
            code::GET_VRING_BASE => {
                let [index, _] = message.words()?;
                let ring = self.ring(index)?;
                ring.stop();
                ring.kick = None;
                let words = [index.to_le_bytes(), u32::from(ring.base).to_le_bytes()];
                return Ok(Some(words.concat()));
            }
            code::SET_VRING_KICK | code::SET_VRING_CALL | code::SET_VRING_ERR => {
                self.set_event(message.code, message.number()?, fds.pop())?;
            }
            code::SET_VRING_ENABLE => {
                let [index, enabled] = message.words()?;
                check(enabled <= 1, "neither on nor off")?;
                self.change(index, |ring| ring.enabled = enabled == 1)?;
            }
            code::SET_BACKEND_REQ_FD => {
                let fd = fds.pop().ok_or_else(|| bad("no descriptor"))?;
                let stream = UnixStream::from(fd);
                stream.set_nonblocking(true)?;
                if let Medium::Volume(volume) = &*self.medium {
                    *self.told.lock() = Some((stream, volume.volume().clone()));
                }
            }
            code::GET_CONFIG => return self.config(&message.body).map(Some),
            // The cache can't be switched, and nothing else can be written.
            code::SET_CONFIG => return Err(bad("the configuration can't be changed")),
            code::RESET_DEVICE => self.reset(),
            other => return Err(bad(format_args!("request {other}, which was not offered"))),
        }
        Ok(None)
    }

    fn set_features(&mut self, features: u64) -> io::Result<()> {
        check(features & !self.device_features() == 0, "features that were not offered")?;
        if features != self.features {
            self.halted(|session| {
                session.features = features;
                // Without features of the protocol, queues are on from the start.
                let on = features & PROTOCOL_FEATURES == 0;
                session.rings.iter_mut().for_each(|ring| ring.enabled |= on);
                Ok(())
            })?;
        }
        Ok(())
    }

    fn set_memory(&mut self, body: &[u8], fds: Vec<OwnedFd>) -> io::Result<()> {
        check(body.len() >= 8, "a table of no length")?;
        let n = message::u32_at(body, 0) as usize;
        check((1..=FDS).contains(&n) && fds.len() == n && body.len() == 8 + 32 * n, "a table of another length")?;
        let mut mapped = Vec::new();
        let mut regions = Vec::new();
        for (i, fd) in fds.into_iter().enumerate() {
            let [guest, bytes, monitor, offset] = [0, 8, 16, 24].map(|at| u64_at(body, 8 + 32 * i + at));
            let fits = [guest, monitor, offset].iter().all(|from| from.checked_add(bytes).is_some());
            check(fits && bytes > 0, "a region that has no end")?;
            // The mapping is refused where the file is shorter.
            let region = MmapRegion::from_file(FileOffset::new(File::from(fd), offset), bytes as usize);
            let region = GuestRegionMmap::new(region.map_err(bad)?, GuestAddress(guest));
            mapped.push((guest, region.ok_or_else(|| bad("a region that has no end"))?));
            regions.push(Region { guest, bytes, monitor });
        }
        mapped.sort_by_key(|(guest, _)| *guest);
        let memory = Memory::from_regions(mapped.into_iter().map(|(_, region)| region).collect());
        let memory = Arc::new(memory.map_err(bad)?);
        self.halted(|session| {
            (session.regions, session.memory) = (regions, Some(memory));
            Ok(())
        })
    }
    /// The guest's address of a place that the monitor names by its own.
    fn guest_address(&self, monitor: u64) -> io::Result<u64> {
        let inside = |r: &&Region| monitor >= r.monitor && monitor - r.monitor < r.bytes;
        let region = self.regions.iter().find(inside);
        region.map(|r| r.guest + (monitor - r.monitor)).ok_or_else(|| bad("a place outside of the guest's memory"))
    }

    fn ring(&mut self, index: u32) -> io::Result<&mut Ring> {
        self.rings.get_mut(index as usize).ok_or_else(|| bad(format_args!("a queue {index}")))
    }
    fn shared(&self) -> Option<Shared> {
        Some(Shared {
            medium: self.medium.clone(),
            memory: self.memory.clone()?,
            event_idx: self.features & 1 << VIRTIO_RING_F_EVENT_IDX != 0,
            write_through: self.features & 1 << VIRTIO_BLK_F_FLUSH == 0,
        })
    }
    /// Changes what is said of a queue. Its thread, if it runs, is halted meanwhile.
    fn change(&mut self, index: u32, f: impl FnOnce(&mut Ring)) -> io::Result<()> {
        let shared = self.shared();
        let ring = self.ring(index)?;
        ring.stop();
        f(ring);
        shared.map_or(Ok(()), |shared| ring.start(index as usize, &shared))
    }
    /// Changes what all queues use.
    fn halted(&mut self, f: impl FnOnce(&mut Session) -> io::Result<()>) -> io::Result<()> {
        let running: Vec<_> = (0..QUEUES).filter(|&i| self.rings[i].is_running()).collect();
        self.rings.iter_mut().for_each(Ring::stop);
        f(self)?;
        let Some(shared) = self.shared() else { return Ok(()) };
        running.into_iter().try_for_each(|i| self.rings[i].start(i, &shared))
    }
    /// Takes the event that a queue is kicked by, calls the guest by, or tells an error by.
    fn set_event(&mut self, code: u32, says: u64, fd: Option<OwnedFd>) -> io::Result<()> {
        /// Says that no descriptor comes.
        const NONE: u64 = 1 << 8;
        check((says & NONE == 0) == fd.is_some() && says < 2 * NONE, "a descriptor more or less")?;
        check(code != code::SET_VRING_KICK || fd.is_some(), "a queue without a kick, which would have to be polled")?;
        let fd = fd.map(take_fd).transpose()?;
        self.change((says & 0xff) as u32, |ring| match code {
            code::SET_VRING_KICK => ring.kick = fd,
            code::SET_VRING_CALL => ring.call = fd,
            _ => ring.err = fd,
        })
    }

    fn config(&self, body: &[u8]) -> io::Result<Vec<u8>> {
        check(body.len() >= 12, "a configuration of no length")?;
        let [offset, len] = [0, 4].map(|at| message::u32_at(body, at) as usize);
        check(body.len() == 12 + len, "a configuration of another length")?;
        let config = self.medium.config(offset, len);
        let config = config.map_err(io::Error::from)?.ok_or_else(|| bad("a configuration past its end"))?;
        Ok([&body[..12], &config].concat())
    }

    /// The guest was reset: it knows nothing of the content any more.
    fn reset(&mut self) {
        for ring in &mut self.rings {
            ring.stop();
            ring.enabled = false;
        }
        if let Medium::Volume(volume) = &*self.medium {
            volume.acknowledge(volume.generation());
        }
    }
}

/// A descriptor that never makes this process wait, whoever else uses it. A monitor's events do not block either.
fn take_fd(fd: OwnedFd) -> io::Result<Arc<OwnedFd>> {
    fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
    Ok(Arc::new(fd))
}

/// Whether a request has an answer of its own, so that its failure can only end the connection.
fn has_reply(of: u32) -> bool {
    let own = [code::GET_FEATURES, code::GET_PROTOCOL_FEATURES, code::GET_QUEUE_NUM, code::GET_VRING_BASE];
    own.contains(&of) || of == code::GET_CONFIG
}

fn check(yes: bool, what: impl std::fmt::Display) -> io::Result<()> {
    if yes { Ok(()) } else { Err(bad(what)) }
}

/// Whether a session of this stream is to be ended from elsewhere.
pub(super) fn hang_up(stream: &UnixStream) {
    let _ = stream.shutdown(std::net::Shutdown::Both);
}
