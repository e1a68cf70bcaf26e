//! A gate in the way of syncs, so that a test decides when one returns.

use parking_lot::{Condvar, Mutex};

use crate::io::Lane;

/// A gate per lane. Open from the start.
#[derive(Default)]
pub struct Gate {
    state: Mutex<[LaneState; 3]>,
    changed: Condvar,
}

#[derive(Default)]
struct LaneState {
    shut: bool,
    /// How many may still pass while it is shut.
    tickets: u64,
    waiting: u64,
    passed: u64,
}

impl Gate {
    /// An open gate.
    pub fn new() -> Gate {
        Gate::default()
    }
    /// Shuts a lane: syncs that come now wait.
    pub fn shut(&self, lane: Lane) {
        self.state.lock()[lane as usize].shut = true;
    }
    /// Opens a lane, for those that wait too.
    pub fn open(&self, lane: Lane) {
        let mut s = self.state.lock();
        s[lane as usize].shut = false;
        s[lane as usize].tickets = 0;
        self.changed.notify_all();
    }
    /// Lets one sync pass a shut lane.
    pub fn let_one_pass(&self, lane: Lane) {
        self.state.lock()[lane as usize].tickets += 1;
        self.changed.notify_all();
    }
    /// Waits until at least `n` syncs stand at a lane.
    pub fn wait_for(&self, lane: Lane, n: u64) {
        let mut s = self.state.lock();
        while s[lane as usize].waiting < n {
            self.changed.wait(&mut s);
        }
    }
    /// How many syncs have passed a lane.
    pub fn passed(&self, lane: Lane) -> u64 {
        self.state.lock()[lane as usize].passed
    }

    pub(super) fn pass(&self, lane: Lane) {
        let mut s = self.state.lock();
        s[lane as usize].waiting += 1;
        self.changed.notify_all();
        while s[lane as usize].shut && s[lane as usize].tickets == 0 {
            self.changed.wait(&mut s);
        }
        let l = &mut s[lane as usize];
        l.tickets = l.tickets.saturating_sub(u64::from(l.shut));
        l.waiting -= 1;
        l.passed += 1;
    }
}
