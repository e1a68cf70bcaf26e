//! A backend in memory for tests of handles: of a process that was forked, and of a write that is on its way.

use crate::wrapped::{Call, Watch, Wrapped};
use snapdisk::BLOCK;
use std::{
    io,
    sync::{
        Barrier, OnceLock,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

/// Memory that can be made to look as it does to a forked child, and whose next write of data can be made to wait.
pub(crate) type Memory = Wrapped<Forked>;

#[derive(Default)]
pub(crate) struct Forked {
    /// The process that asks is a child of the one that opened the image.
    pub(crate) child: AtomicBool,
    /// The next write of eight blocks or more waits.
    pub(crate) holds: AtomicBool,
    /// Where it is met, and where it is let go.
    pub(crate) held: OnceLock<(Barrier, Barrier)>,
}

impl Watch for Forked {
    fn before(&self, call: Call<'_>) -> io::Result<()> {
        if let Call::Write(_, bufs) = call
            && bufs.iter().any(|b| b.len() >= BLOCK * 8)
            && self.holds.swap(false, SeqCst)
        {
            let (reached, go) = self.held.get().unwrap();
            reached.wait();
            go.wait();
        }
        Ok(())
    }
    fn same_process(&self) -> bool {
        !self.child.load(SeqCst)
    }
}
