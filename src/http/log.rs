//! The log: lines go through a bounded queue to a thread of their own, so that no reader of the log fails or delays an answer.

use parking_lot::RwLock;
use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::Duration,
};

/// Lines that wait to be written, at most. Further ones are lost and counted.
const LINES: usize = 1024;

/// Writes one line, without its end. An error loses the line.
pub type Sink = Arc<dyn Fn(&str) -> io::Result<()> + Send + Sync>;

/// Lines to standard error.
pub(super) fn standard_error() -> Sink {
    // One call for each line, so that lines of other threads do not come between.
    Arc::new(|line| io::stderr().lock().write_all(format!("{line}\n").as_bytes()))
}

pub(super) struct Log {
    queue: RwLock<Option<SyncSender<String>>>,
    lost: Arc<AtomicU64>,
    /// Is disconnected once the last line was written.
    written: parking_lot::Mutex<Receiver<()>>,
}

impl Log {
    pub(super) fn new(sink: Sink) -> io::Result<Log> {
        let (queue, lines) = sync_channel::<String>(LINES);
        let (ended, written) = sync_channel::<()>(0);
        let lost = Arc::new(AtomicU64::new(0));
        let count = lost.clone();
        std::thread::Builder::new().name("snapdisk-log".to_owned()).spawn(move || {
            let _ended = ended;
            let mut told = 0;
            for line in lines {
                let all = count.load(Relaxed);
                if all > told && sink(&format!("{{\"event\":\"lines lost\",\"lines\":{}}}", all - told)).is_ok() {
                    told = all;
                }
                if sink(&line).is_err() {
                    count.fetch_add(1, Relaxed);
                }
            }
        })?;
        Ok(Log { queue: RwLock::new(Some(queue)), lost, written: written.into() })
    }
    /// Queues a line without waiting.
    pub(super) fn put(&self, line: &serde_json::Value) {
        let queue = self.queue.read();
        if queue.as_ref().is_none_or(|q| q.try_send(line.to_string()).is_err()) {
            self.lost.fetch_add(1, Relaxed);
        }
    }
    /// Lines that were lost.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }
    /// Waits until what is queued is written, for at most `most`: a stalled reader does not keep the process from ending.
    pub(super) fn finish(&self, most: Duration) {
        drop(self.queue.write().take());
        let ended = self.written.lock().recv_timeout(most);
        debug_assert!(matches!(ended, Err(RecvTimeoutError::Disconnected | RecvTimeoutError::Timeout)));
    }
}
