//! Planned failures and counters of calls.

use std::io;

/// A kind of call.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Call {
    /// `read_at` and `read_mapped`.
    Read,
    /// `read_cold`.
    ReadCold,
    /// `write_at` and `write_vectored_at`.
    Write,
    /// `set_len`.
    SetLen,
    /// `punch`.
    Punch,
    /// `reserve`.
    Reserve,
    /// `push`.
    Push,
    /// `sync_data`.
    Sync,
}

/// Every kind of call, in the order of [`Counts`].
pub const CALLS: [Call; 8] =
    [Call::Read, Call::ReadCold, Call::Write, Call::SetLen, Call::Punch, Call::Reserve, Call::Push, Call::Sync];

/// How a call fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// With this errno. A write may have written a part before it; a sync forgets what it did not write.
    Errno(i32),
    /// A read or write does a part of the work and says so.
    Short,
    /// A read or write does nothing and returns 0.
    Nothing,
}

/// One planned failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Of which calls.
    pub call: Call,
    /// Which of them, counted from 0 when the plan is set.
    pub nth: u64,
    /// How.
    pub how: How,
    /// All later ones too.
    pub sticky: bool,
}

/// Errno of a failing medium.
pub const EIO: i32 = 5;
/// Errno of a full host.
pub const ENOSPC: i32 = 28;
/// Errno of an interrupted call.
pub const EINTR: i32 = 4;

/// How often each kind of call was made, and how much it moved.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    calls: [u64; CALLS.len()],
    /// Bytes written.
    pub bytes_written: u64,
    /// Bytes read, cold or warm.
    pub bytes_read: u64,
    /// Distinct 4 KiB pages read, summed over calls.
    pub pages_read: u64,
    /// Syncs begun after one had failed.
    pub syncs_after_failure: u64,
    /// Faults that struck.
    pub faults_hit: u64,
    /// Writes where the host had given no space.
    pub writes_not_given: u64,
}

impl Counts {
    /// Calls of one kind.
    pub fn of(&self, call: Call) -> u64 {
        self.calls[call as usize]
    }
    /// Calls that change or sync the file.
    pub fn mutating(&self) -> u64 {
        CALLS[2..].iter().map(|&c| self.of(c)).sum()
    }
}

#[derive(Default)]
pub(super) struct Plan {
    faults: Vec<Fault>,
    seen: [u64; CALLS.len()],
    pub(super) counts: Counts,
}

impl Plan {
    pub(super) fn set(&mut self, faults: Vec<Fault>) {
        self.faults = faults;
        self.seen = Default::default();
    }

    /// Counts a call and says whether it is to fail.
    pub(super) fn enter(&mut self, call: Call) -> Option<How> {
        let i = call as usize;
        self.counts.calls[i] += 1;
        let n = self.seen[i];
        self.seen[i] += 1;
        let hit = self.faults.iter().find(|f| f.call == call && (f.nth == n || f.sticky && f.nth <= n)).map(|f| f.how);
        self.counts.faults_hit += u64::from(hit.is_some());
        hit
    }
}

pub(super) fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}
