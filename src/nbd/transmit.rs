//! The transmission phase of one connection, by as many threads as that is good for.
//!
//! One thread at a time has the *input*, and reads the next request. While requests are answered at once, the same thread serves them: it reads
//! as many as there are, and sends their replies together, without waking anybody. A request that may take long, or one of several where
//! processors are free, is preceded by putting the input back, so that another thread goes on reading; threads are started for that when
//! none waits. So one request at a time costs two system calls, and many are served in parallel.

use super::{
    batch::Batch,
    command::{Code, Command, Fault, Head, PAYLOAD_MAX, REQUEST, Terms},
    export::Export,
    server::Helpers,
    socket::{Socket, TICK},
};
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::{
    io,
    num::NonZero,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

/// Bytes that are received ahead.
const AHEAD: usize = 64 << 10;
/// Payloads of at least this many bytes are received where they are used, rather than ahead.
const LARGE: u32 = 16 << 10;
/// A payload of more bytes than this is carried out in pieces as it comes, as the engine would cut it.
pub(super) const PIECE: usize = crate::ATOMIC_WRITE_MAX;
/// Threads of one connection.
const THREADS: usize = 16;
/// A request is slow if it took longer than this and half a nanosecond for each byte, in which it can be copied and verified.
const SLOW: Duration = Duration::from_micros(100);
/// Requests for which another thread reads after a slow one.
const WARY: u32 = 64;
/// How long a thread without work stays.
const STAY: Duration = Duration::from_secs(5);
/// Replies are sent once there are this many bytes of them.
const BATCH: usize = 256 << 10;

/// A connection in its transmission phase.
pub(super) struct Connection {
    pub(super) export: Export,
    pub(super) terms: Terms,
    pub(super) socket: Arc<Socket>,
    helpers: Arc<Helpers>,
    turn: Mutex<Turn>,
    /// Notified when the input was put back, and at the end.
    put_back: Condvar,
    /// Held while replies are sent.
    sending: Mutex<()>,
    /// How many more requests are expected to be slow.
    slow: AtomicU32,
    /// Threads that serve quick requests at once: there are no more processors.
    quick: usize,
}

/// Whose turn it is to read.
struct Turn {
    /// The input, unless a thread has it.
    input: Option<Input>,
    threads: usize,
    waiting: usize,
    ended: bool,
}

/// Bytes that were received and not used yet.
pub(super) struct Input {
    buf: Vec<u8>,
    from: usize,
    to: usize,
    /// The last request had a large payload: the next head is received by itself, so that what follows it need not be moved.
    large: bool,
}

impl Input {
    fn new() -> Input {
        Input { buf: vec![0; AHEAD], from: 0, to: 0, large: false }
    }
    fn len(&self) -> usize {
        self.to - self.from
    }
    /// Whether a request can be read without waiting for the peer, its payload included.
    fn has_request(&self) -> bool {
        let bytes = &self.buf[self.from..self.to];
        let head = bytes.first_chunk::<REQUEST>().and_then(Head::parse);
        head.is_some_and(|head| bytes.len() - REQUEST >= head.payload() as usize)
    }
    /// Takes up to `out.len()` bytes that are there.
    fn take(&mut self, out: &mut [u8]) -> usize {
        let n = out.len().min(self.len());
        out[..n].copy_from_slice(&self.buf[self.from..self.from + n]);
        self.from += n;
        n
    }
}

impl Connection {
    pub(super) fn new(export: Export, terms: Terms, socket: Arc<Socket>, helpers: Arc<Helpers>) -> Connection {
        let turn = Turn { input: Some(Input::new()), threads: 1, waiting: 0, ended: false };
        let quick = thread::available_parallelism().map_or(1, NonZero::get);
        let (turn, put_back, sending) = (Mutex::new(turn), Condvar::new(), Mutex::default());
        let slow = AtomicU32::new(0);
        Connection { export, terms, socket, helpers, turn, put_back, sending, slow, quick }
    }

    /// Serves the connection until it ends. The calling thread stays to the end.
    pub(super) fn run(self) {
        let this = Arc::new(self);
        this.work(true);
        // The others see that it has ended as soon as they have answered what they serve.
        let mut turn = this.turn.lock();
        while turn.threads > 0 {
            this.put_back.wait(&mut turn);
        }
        drop(turn);
        let socket = this.socket.clone();
        drop(this);
        socket.finish();
    }

    /// What a further thread does.
    pub(super) fn help(self: Arc<Self>) {
        self.work(false);
    }
    fn work(self: &Arc<Self>, stays: bool) {
        let _leaving = Leaving(self);
        let (mut batch, mut payload) = (Batch::default(), Vec::new());
        let mut own = None;
        while let Some(input) = own.take().or_else(|| self.take_turn(stays)) {
            let served = self.one(input, &mut batch, &mut payload).and_then(|kept| {
                // A thread that is not going to read at once leaves no reply behind.
                if kept.is_none() {
                    self.send(&mut batch)?;
                }
                Ok(kept)
            });
            match served {
                Ok(kept) => own = kept,
                // The peer has ended the connection, or has broken the protocol, for which it has no answer.
                Err(_) => {
                    self.end();
                    break;
                }
            }
        }
        // Those that were read before the connection ended.
        let _ = self.send(&mut batch);
    }

    /// Ends the connection: what is being served is still answered.
    fn end(&self) {
        self.turn.lock().ended = true;
        self.put_back.notify_all();
        self.socket.end();
    }

    /// The input, once it is this thread's turn. `None`: the connection has ended, or this thread is not needed.
    fn take_turn(&self, stays: bool) -> Option<Input> {
        let mut turn = self.turn.lock();
        loop {
            if turn.ended {
                return None;
            }
            if let Some(input) = turn.input.take() {
                return Some(input);
            }
            turn.waiting += 1;
            let over = self.put_back.wait_for(&mut turn, STAY).timed_out();
            turn.waiting -= 1;
            if over && !stays && turn.input.is_none() && !turn.ended {
                return None;
            }
        }
    }

    /// Lets another thread read, and starts one if none waits.
    fn put_back(self: &Arc<Self>, input: Input) {
        let mut turn = self.turn.lock();
        turn.input = Some(input);
        if turn.waiting > 0 {
            self.put_back.notify_one();
        } else if turn.threads < THREADS && !turn.ended {
            turn.threads += 1;
            drop(turn);
            // Where there is no room for a further thread, this one reads on when it has answered.
            if !self.helpers.start(self) {
                self.turn.lock().threads -= 1;
            }
        }
    }

    /// Reads and serves one request. Returns the input if this thread has kept it.
    fn one(self: &Arc<Self>, mut input: Input, batch: &mut Batch, own: &mut Vec<u8>) -> io::Result<Option<Input>> {
        if !input.has_request() || batch.len() >= BATCH {
            self.send(batch)?;
        }
        let head = self.read_head(&mut input)?;
        let len = head.payload() as usize;
        if head.is_disconnect() || len > PAYLOAD_MAX as usize {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let command = head.command(&self.terms);
        if len > PIECE {
            // The replies before it do not wait for all of it.
            self.send(batch)?;
            let done = self.write_pieces(&head, command, &mut input, own).map(|()| batch.succeeded(&head));
            self.put_back(input);
            return self.answered(&head, done, batch).map(|()| None);
        }
        let ahead = len > 0 && input.len() >= len;
        let shares = self.shares(&input, &command, len);
        let at = input.from;
        match (ahead, shares) {
            (true, false) => input.from += len,
            _ => self.receive(&mut input, own, len)?,
        }
        input.large = head.payload() >= LARGE;
        let mut input = Some(input);
        if shares {
            input.take().into_iter().for_each(|input| self.put_back(input));
        }
        let payload = match &input {
            Some(input) if ahead => &input.buf[at..at + len],
            _ => &own[..len],
        };
        let expected = SLOW + Duration::from_nanos(u64::from(head.len) / 2);
        let begun = Instant::now();
        let done = command.map_err(Failed::from).and_then(|command| self.carry_out(&head, command, payload, batch));
        self.note(begun.elapsed() > expected);
        self.answered(&head, done, batch)?;
        Ok(input)
    }

    /// Whether another thread is to read while this request is served.
    fn shares(&self, input: &Input, command: &Result<Command, Fault>, len: usize) -> bool {
        let durable = matches!(
            command,
            Ok(Command::Flush
                | Command::Write { durable: true }
                | Command::Trim { durable: true }
                | Command::Zeroes { durable: true, .. })
        );
        if durable || self.slow.load(Relaxed) > 0 {
            return true;
        }
        // This request's payload may stand in front of the next request.
        let more = input.len() >= len + REQUEST;
        more && self.quick > 1 && {
            let turn = self.turn.lock();
            turn.threads - turn.waiting < self.quick
        }
    }
    /// Notes whether a request was slow. Two threads at once may lose one of the two notes, which does no harm.
    fn note(&self, slow: bool) {
        match self.slow.load(Relaxed) {
            _ if slow => self.slow.store(WARY, Relaxed),
            0 => {}
            n => self.slow.store(n - 1, Relaxed),
        }
    }

    /// Waits for the head of the next request. An idle connection may be silent for as long as its disk is there.
    fn read_head(&self, input: &mut Input) -> io::Result<Head> {
        let mut silent = Duration::ZERO;
        loop {
            if let Some(head) = input.buf[input.from..input.to].first_chunk::<REQUEST>() {
                let head = Head::parse(head).ok_or(io::ErrorKind::InvalidData)?;
                input.from += REQUEST;
                return Ok(head);
            }
            input.buf.copy_within(input.from..input.to, 0);
            (input.from, input.to) = (0, input.to - input.from);
            let most = if input.large { REQUEST } else { AHEAD };
            match self.socket.receive(&mut input.buf[input.to..most])? {
                Some(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Some(n) => (input.to, silent) = (input.to + n, Duration::ZERO),
                None if input.len() > 0 => silent += TICK,
                None if self.export.is_alive() => {}
                None => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
            if self.socket.has_ended() || self.socket.is_too_long(silent) {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
    /// Receives `len` bytes of payload into a buffer of the thread, which may be longer.
    pub(super) fn receive(&self, input: &mut Input, own: &mut Vec<u8>, len: usize) -> io::Result<()> {
        if own.len() < len {
            own.resize(len, 0);
        }
        let ahead = input.take(&mut own[..len]);
        self.socket.fill(&mut own[ahead..len], None)
    }

    /// Sends the replies of a batch.
    pub(super) fn send(&self, batch: &mut Batch) -> io::Result<()> {
        if batch.len() > 0 {
            let _one = self.sending.lock();
            self.socket.send(batch.bytes())?;
            batch.clear();
        }
        Ok(())
    }
    /// Sends something that has to stay together, by itself.
    pub(super) fn sending(&self) -> MutexGuard<'_, ()> {
        self.sending.lock()
    }
    /// Completes the answer to a request.
    fn answered(&self, head: &Head, done: Result<(), Failed>, batch: &mut Batch) -> io::Result<()> {
        let fault = match done {
            Ok(()) => return Ok(()),
            Err(Failed::Socket(e)) => return Err(e),
            Err(Failed::Request(fault)) => fault,
        };
        batch.failed(head, &self.terms, &fault);
        if fault.code == Code::Shutdown {
            // The disk is no longer the one that the client knows. Nothing it sends from here on is carried out.
            self.send(batch)?;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }
}

/// Why a request has not succeeded.
pub(super) enum Failed {
    /// The client is told so.
    Request(Fault),
    /// The connection is of no use any more.
    Socket(io::Error),
}

impl From<Fault> for Failed {
    fn from(fault: Fault) -> Failed {
        Failed::Request(fault)
    }
}

impl From<crate::Error> for Failed {
    fn from(e: crate::Error) -> Failed {
        Failed::Request(e.into())
    }
}

impl From<io::Error> for Failed {
    fn from(e: io::Error) -> Failed {
        Failed::Socket(e)
    }
}

/// Counts a thread out when it ends. One that panics ends the connection, of which it may have had the input.
struct Leaving<'a>(&'a Connection);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.end();
        }
        self.0.turn.lock().threads -= 1;
        self.0.put_back.notify_all();
    }
}
