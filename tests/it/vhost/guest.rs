//! A monitor with its guest, in this process: the front end of the crate `vhost`, and a driver that writes descriptors by hand.

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use snapdisk::vhost::Server;
use std::{
    fs::File,
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::Path,
    thread,
    time::{Duration, Instant},
};
use vhost::{
    VhostBackend, VhostUserMemoryRegionInfo, VringConfigData,
    vhost_user::{
        Frontend, VhostUserFrontend,
        message::{VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures},
    },
};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::{
    epoll::{ControlOperation, Epoll, EpollEvent, EventSet},
    eventfd::EventFd,
};

pub(crate) const OK: u8 = 0;
pub(crate) const IOERR: u8 = 1;
pub(crate) const UNSUPP: u8 = 2;

/// Descriptor flags.
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// Entries of each queue.
pub(crate) const ENTRIES: u16 = 16;
/// Bytes of the guest's memory.
pub(crate) const MEMORY: u64 = 32 << 20;
/// Where it begins in the guest, and where the monitor says that it has it.
pub(crate) const BASE: u64 = 1 << 20;
const MONITOR: u64 = 0x7000_0000_0000;
/// Where the driver's buffers are.
pub(crate) const BUFFERS: u64 = BASE + (1 << 20);
/// Features that the driver takes: of a block device all but the largest segment and the read-only one, VERSION_1, INDIRECT, protocol.
const FEATURES: u64 = 1 << 9 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 28 | 1 << 30 | 1 << 32;

/// A descriptor as it stands in memory: address, length, flags, next.
pub(crate) type Descriptor = (u64, u32, u16, u16);

/// The memory of a guest, which outlives its connections.
pub(crate) struct Machine {
    pub(crate) memory: GuestMemoryMmap<()>,
    file: File,
}

impl Machine {
    pub(crate) fn new() -> Machine {
        let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
        ftruncate(&file, MEMORY).unwrap();
        let region = (GuestAddress(BASE), MEMORY as usize, Some(FileOffset::new(file.try_clone().unwrap(), 0)));
        Machine { memory: GuestMemoryMmap::from_ranges_with_files([region]).unwrap(), file }
    }
    pub(crate) fn put(&self, at: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(at)).unwrap();
    }
    pub(crate) fn get(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }
    fn get_u16(&self, at: u64) -> u16 {
        u16::from_le_bytes(self.get(at, 2).try_into().unwrap())
    }
}

/// The places of a queue.
fn table(queue: usize) -> u64 {
    BASE + queue as u64 * 0x4000
}
pub(crate) fn available(queue: usize) -> u64 {
    table(queue) + 0x1000
}
fn used(queue: usize) -> u64 {
    table(queue) + 0x2000
}

struct Queue {
    kick: EventFd,
    call: EventFd,
    err: EventFd,
    next: u16,
}

/// A connected guest.
pub(crate) struct Guest<'a> {
    pub(crate) machine: &'a Machine,
    pub(crate) front: Frontend,
    queues: Vec<Queue>,
}

impl<'a> Guest<'a> {
    /// Connects as a monitor does, and starts `queues` queues behind what was answered before.
    pub(crate) fn connect(machine: &'a Machine, path: &Path, queues: usize) -> Guest<'a> {
        Guest::connect_with(machine, path, queues, FEATURES)
    }
    pub(crate) fn connect_with(machine: &'a Machine, path: &Path, queues: usize, features: u64) -> Guest<'a> {
        let mut front = Frontend::connect(path, 16).unwrap();
        let offered = front.get_features().unwrap();
        front.set_features(features & offered).unwrap();
        let protocol = front.get_protocol_features().unwrap();
        front.set_protocol_features(protocol).unwrap();
        assert!(protocol.contains(VhostUserProtocolFeatures::REPLY_ACK | VhostUserProtocolFeatures::CONFIG));
        front.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        front.set_owner().unwrap();
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: BASE,
            memory_size: MEMORY,
            userspace_addr: MONITOR,
            mmap_offset: 0,
            mmap_handle: machine.file.as_raw_fd(),
        };
        front.set_mem_table(&[region]).unwrap();
        let mut guest = Guest { machine, front, queues: Vec::new() };
        (0..queues).for_each(|queue| guest.start(queue));
        guest
    }
    /// Starts the queues anew, as a driver does that begins with the device.
    pub(crate) fn start_again(&mut self, queues: usize) {
        self.queues.clear();
        (0..queues).for_each(|queue| self.start(queue));
    }
    fn start(&mut self, queue: usize) {
        let (kick, call, err) = (EventFd::new(0).unwrap(), EventFd::new(0).unwrap(), EventFd::new(0).unwrap());
        let done = self.machine.get_u16(used(queue) + 2);
        let at = |guest: u64| guest - BASE + MONITOR;
        let places = VringConfigData {
            queue_max_size: ENTRIES,
            queue_size: ENTRIES,
            flags: 0,
            desc_table_addr: at(table(queue)),
            used_ring_addr: at(used(queue)),
            avail_ring_addr: at(available(queue)),
            log_addr: None,
        };
        self.front.set_vring_num(queue, ENTRIES).unwrap();
        self.front.set_vring_base(queue, done).unwrap();
        self.front.set_vring_addr(queue, &places).unwrap();
        self.front.set_vring_call(queue, &call).unwrap();
        self.front.set_vring_err(queue, &err).unwrap();
        self.front.set_vring_kick(queue, &kick).unwrap();
        self.front.set_vring_enable(queue, true).unwrap();
        let next = self.machine.get_u16(available(queue) + 2);
        self.queues.push(Queue { kick, call, err, next });
    }

    /// Writes descriptors, from the first one of the table on.
    pub(crate) fn describe(&self, queue: usize, list: &[Descriptor]) {
        self.describe_at(table(queue), list);
    }
    pub(crate) fn describe_at(&self, at: u64, list: &[Descriptor]) {
        for (i, (address, len, flags, next)) in list.iter().enumerate() {
            let bytes = [&address.to_le_bytes()[..], &len.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()];
            self.machine.put(at + 16 * i as u64, &bytes.concat());
        }
    }
    /// Makes the chain that begins with descriptor `head` available, without telling.
    pub(crate) fn offer(&mut self, queue: usize, head: u16) {
        let q = &mut self.queues[queue];
        self.machine.put(available(queue) + 4 + 2 * u64::from(q.next % ENTRIES), &head.to_le_bytes());
        q.next = q.next.wrapping_add(1);
        self.machine.put(available(queue) + 2, &q.next.to_le_bytes());
    }
    pub(crate) fn kick(&self, queue: usize) {
        self.queues[queue].kick.write(1).unwrap();
    }
    /// Waits until everything that was offered is answered. Returns the bytes that were written for the last one.
    pub(crate) fn wait(&self, queue: usize) -> u32 {
        let q = &self.queues[queue];
        while self.machine.get_u16(used(queue) + 2) != q.next {
            assert!(self.hears(&q.call), "no answer");
            q.call.read().unwrap();
        }
        let last = used(queue) + 4 + 8 * u64::from(q.next.wrapping_sub(1) % ENTRIES);
        u32::from_le_bytes(self.machine.get(last + 4, 4).try_into().unwrap())
    }
    /// Waits until the back end says that it can't read a ring.
    pub(crate) fn wait_broken(&self, queue: usize) {
        assert!(self.hears(&self.queues[queue].err), "the ring still works");
    }
    /// Waits for an event, with a limit that only a hang reaches.
    fn hears(&self, event: &EventFd) -> bool {
        let epoll = Epoll::new().unwrap();
        epoll.ctl(ControlOperation::Add, event.as_raw_fd(), EpollEvent::new(EventSet::IN, 0)).unwrap();
        epoll.wait(120_000, &mut [EpollEvent::default()]).unwrap() > 0
    }

    /// Makes a request of a header, data that goes to the device, and room for data from it. Returns the status and that data.
    pub(crate) fn request(&mut self, queue: usize, kind: u32, sector: u64, data: &[u8], room: u32) -> (u8, Vec<u8>) {
        let at = BUFFERS + queue as u64 * (8 << 20);
        self.machine.put(at, &header(kind, sector));
        self.machine.put(at + 16, &[0xee]);
        self.machine.put(at + 4096, data);
        let mut list = vec![(at, 16, NEXT, 1)];
        // In two parts, of which one ends in the middle of a sector.
        let half = data.len() as u32 / 2 + 3 * u32::from(data.len() > 6);
        let parts = [(at + 4096, half), (at + 4096 + u64::from(half), data.len() as u32 - half)];
        for (address, len) in parts.into_iter().filter(|(_, len)| *len > 0) {
            list.push((address, len, NEXT, list.len() as u16 + 1));
        }
        if room > 0 {
            list.push((at + 4096, room, NEXT | WRITE, list.len() as u16 + 1));
        }
        list.push((at + 16, 1, WRITE, 0));
        self.describe(queue, &list);
        self.offer(queue, 0);
        self.kick(queue);
        let written = self.wait(queue);
        let status = self.machine.get(at + 16, 1)[0];
        if status == OK {
            assert_eq!(written, room + 1);
        }
        (status, self.machine.get(at + 4096, room as usize))
    }
    pub(crate) fn read(&mut self, queue: usize, sector: u64, len: u32) -> (u8, Vec<u8>) {
        self.request(queue, 0, sector, &[], len)
    }
    pub(crate) fn write(&mut self, queue: usize, sector: u64, data: &[u8]) -> u8 {
        self.request(queue, 1, sector, data, 0).0
    }
    pub(crate) fn flush(&mut self, queue: usize) -> u8 {
        self.request(queue, 4, 0, &[], 0).0
    }
    /// Discards (11) or zeroes (13) ranges of sectors.
    pub(crate) fn cut(&mut self, queue: usize, kind: u32, ranges: &[(u64, u32, u32)]) -> u8 {
        let bytes = ranges.iter().flat_map(|(sector, sectors, flags)| {
            [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
        });
        self.request(queue, kind, 0, &bytes.collect::<Vec<_>>(), 0).0
    }
    /// The capacity in sectors, as the configuration says.
    pub(crate) fn capacity(&mut self) -> u64 {
        let config = self.front.get_config(0, 60, VhostUserConfigFlags::empty(), &[0; 60]).unwrap().1;
        u64::from_le_bytes(config[..8].try_into().unwrap())
    }
    /// Stops a queue, and returns the index that comes next.
    pub(crate) fn stop(&mut self, queue: usize) -> u32 {
        self.front.get_vring_base(queue).unwrap()
    }
    /// The stream on which the back end makes requests of its own.
    pub(crate) fn listen(&mut self) -> UnixStream {
        let (here, there) = UnixStream::pair().unwrap();
        self.front.set_backend_request_fd(&there).unwrap();
        here
    }
}

pub(crate) fn header(kind: u32, sector: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
}

/// Waits until a server has no connection, so that a volume can be attached again.
pub(crate) fn wait_free(server: &Server) {
    let limit = Instant::now() + Duration::from_secs(120);
    while server.list().iter().any(|e| e.connections > 0) {
        assert!(Instant::now() < limit, "a connection does not end");
        thread::yield_now();
    }
}
