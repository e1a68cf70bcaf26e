//! One virtqueue: its places, and the thread that serves it.

use super::{
    message::bad,
    request::{BUFFER, Desk, Medium},
};
use crate::sync::{self, Thread};
use parking_lot::Mutex;
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    io::{Errno, read, write},
};
use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
};
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT, Reader, Writer};
use vm_memory::GuestMemoryMmap;

/// Entries of a queue, at most.
pub(super) const ENTRIES: u16 = 1024;

pub(super) type Memory = GuestMemoryMmap<()>;

/// What a front end says of a queue.
#[derive(Default)]
pub(super) struct Ring {
    pub(super) entries: u16,
    /// Descriptor table, used ring, available ring, in the guest's memory.
    pub(super) places: Option<[u64; 3]>,
    /// The entry of the available ring that comes next.
    pub(super) base: u16,
    pub(super) kick: Option<Arc<OwnedFd>>,
    pub(super) call: Option<Arc<OwnedFd>>,
    pub(super) err: Option<Arc<OwnedFd>>,
    pub(super) enabled: bool,
    worker: Option<Worker>,
}

struct Worker {
    thread: Thread,
    stop: Arc<Stop>,
    queue: Arc<Mutex<Queue>>,
}

struct Stop {
    asked: AtomicBool,
    event: OwnedFd,
}

/// What all queues of a connection share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) medium: Arc<Medium>,
    pub(super) memory: Arc<Memory>,
    pub(super) event_idx: bool,
    pub(super) write_through: bool,
}

impl Ring {
    pub(super) fn is_running(&self) -> bool {
        self.worker.is_some()
    }
    /// Starts the thread if all is there that it needs.
    pub(super) fn start(&mut self, index: usize, shared: &Shared) -> io::Result<()> {
        let (Some([table, used, available]), Some(kick), true) = (self.places, &self.kick, self.enabled) else {
            return Ok(());
        };
        let wrong = |e: virtio_queue::Error| bad(format_args!("queue {index}: {e}"));
        let mut queue = Queue::new(ENTRIES).map_err(wrong)?;
        queue.try_set_size(self.entries).map_err(wrong)?;
        queue.try_set_desc_table_address(vm_memory::GuestAddress(table)).map_err(wrong)?;
        queue.try_set_avail_ring_address(vm_memory::GuestAddress(available)).map_err(wrong)?;
        queue.try_set_used_ring_address(vm_memory::GuestAddress(used)).map_err(wrong)?;
        queue.set_event_idx(shared.event_idx);
        queue.set_next_avail(self.base);
        // What was answered before stands in the guest's memory.
        queue.set_next_used(queue.used_idx(&*shared.memory, Acquire).map_err(wrong)?.0);
        queue.set_ready(true);
        if !queue.is_valid(&*shared.memory) {
            return Err(bad(format_args!("queue {index} reaches outside of the guest's memory")));
        }
        let stop = Arc::new(Stop { asked: AtomicBool::new(false), event: eventfd(0, EventfdFlags::CLOEXEC)? });
        let queue = Arc::new(Mutex::new(queue));
        let served = Served {
            shared: shared.clone(),
            kick: kick.clone(),
            call: self.call.clone(),
            err: self.err.clone(),
            stop: stop.clone(),
            queue: queue.clone(),
        };
        let thread = sync::spawn("snapdisk-vhost", move || served.run())?;
        self.worker = Some(Worker { thread, stop, queue });
        Ok(())
    }
    /// Ends the thread once the request that it carries out is answered.
    pub(super) fn stop(&mut self) {
        let Some(Worker { thread, stop, queue }) = self.worker.take() else { return };
        stop.asked.store(true, Release);
        // A counter that can't be increased any more is readable.
        let _ = write(&stop.event, &1_u64.to_le_bytes());
        thread.join();
        self.base = queue.lock().next_avail();
    }
}

/// A queue on its thread.
struct Served {
    shared: Shared,
    kick: Arc<OwnedFd>,
    call: Option<Arc<OwnedFd>>,
    err: Option<Arc<OwnedFd>>,
    stop: Arc<Stop>,
    queue: Arc<Mutex<Queue>>,
}

/// The ring can't be read or written any more, or what it says can't be.
struct Broken;

impl From<virtio_queue::Error> for Broken {
    fn from(_: virtio_queue::Error) -> Broken {
        Broken
    }
}

impl Served {
    fn run(self) {
        let mut buffer = vec![0; BUFFER];
        // Held for as long as the thread runs: who stops it takes the queue from it.
        let mut queue = self.queue.lock();
        // What came before this thread began has no kick any more.
        while self.drain(&mut queue, &mut buffer).is_ok() {
            match self.wait() {
                Ok(true) => {}
                Ok(false) => return,
                Err(_) => break,
            }
        }
        if let Some(err) = &self.err {
            let _ = write(&**err, &1_u64.to_le_bytes());
        }
    }

    /// Waits for a kick. `false`: the thread is to end.
    fn wait(&self) -> io::Result<bool> {
        loop {
            let mut fds = [PollFd::new(&*self.kick, PollFlags::IN), PollFd::new(&self.stop.event, PollFlags::IN)];
            match poll(&mut fds, None) {
                Err(Errno::INTR) => continue,
                done => done?,
            };
            if !fds[1].revents().is_empty() || self.stop.asked.load(Acquire) {
                return Ok(false);
            }
            // The descriptor does not block (see `Session::take_fd`), whoever else reads it.
            match read(&*self.kick, &mut [0_u8; 8]) {
                Ok(8) => return Ok(true),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Ok(_) => return Err(bad("a kick that is no event")),
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Serves what is available until nothing is, or the thread is to end.
    fn drain(&self, queue: &mut Queue, buffer: &mut [u8]) -> Result<(), Broken> {
        let memory = &*self.shared.memory;
        loop {
            queue.disable_notification(memory)?;
            let mut served = false;
            while !self.stop.asked.load(Relaxed) {
                let Some(chain) = queue.iter(memory)?.next() else { break };
                let head = chain.head_index();
                let written = self.answer(chain, buffer);
                // The order in which requests are answered is that in which they were made: see `super`.
                queue.add_used(memory, head, written)?;
                served = true;
                if queue.needs_notification(memory)?
                    && let Some(call) = &self.call
                {
                    // A full counter wakes the guest as well.
                    let _ = write(&**call, &1_u64.to_le_bytes());
                }
            }
            if self.stop.asked.load(Relaxed) || !queue.enable_notification(memory)? {
                return Ok(());
            }
            if !served {
                // There is something, and it can't be read.
                return Err(Broken);
            }
        }
    }

    /// Carries out a request, and returns how many bytes were written for the guest.
    fn answer(&self, chain: DescriptorChain<&Memory>, buffer: &mut [u8]) -> u32 {
        let memory = &*self.shared.memory;
        let writer: Result<Writer<'_>, _> = Writer::new(memory, chain.clone());
        let Ok(mut into) = writer else { return 0 };
        // A request without a place for its status is none.
        let Some(room) = into.available_bytes().checked_sub(1) else { return 0 };
        let Ok(mut status) = into.split_at(room) else { return 0 };
        let reader: Result<Reader<'_>, _> = Reader::new(memory, chain);
        let code = match reader {
            Ok(mut from) => {
                let mut desk = Desk { medium: &self.shared.medium, buffer, write_through: self.shared.write_through };
                let readable = from.available_bytes();
                desk.serve(&mut from, readable, &mut into, room)
            }
            Err(_) => virtio_bindings::virtio_blk::VIRTIO_BLK_S_IOERR as u8,
        };
        let written = into.bytes_written() as u32;
        match status.write_obj(code) {
            // The status counts only where all before it was written, since it is the last byte.
            Ok(()) if written as usize == room => written + 1,
            Ok(()) => written,
            Err(_) => 0,
        }
    }
}
