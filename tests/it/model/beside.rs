//! Operations in the middle of others: what threads do to each other, on one thread and so the same each time.
//!
//! The simulator runs them inside a write, push or sync of a flush or checkpoint. There the engine holds the locks of
//! flushing or of checkpointing and no others, so whatever needs neither can run, and must see and leave a whole store.

use std::sync::{Arc, Mutex};

use snapdisk::io::{
    Lane,
    sim::{Call, Ev},
};

use super::{Op, history::Phase, run::Run};

/// Where operations run in the middle of another one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A flush's writes and its sync.
    Flush,
    /// A checkpoint's writes, those of the group that it commits first included.
    CheckpointWrite,
    /// What a checkpoint pushes and syncs after that.
    Checkpoint,
}

/// Whether an operation can run there: it needs no checkpoint; nor a flush where one may be under way.
fn may_run_beside(op: &Op, place: Place) -> bool {
    match op {
        Op::Write { .. } | Op::Bytes { .. } | Op::Trim { .. } | Op::Zero { .. } | Op::Cut { .. } => true,
        Op::SnapDeferred { .. } | Op::HeldWrite { .. } => true,
        Op::Attach { .. } | Op::Detach { .. } | Op::Acknowledge { .. } => true,
        Op::Maintain { .. } | Op::Checkpoint {} | Op::Check {} | Op::Reopen {} | Op::Die {} => false,
        Op::BesideCheckpoint { .. } | Op::BesideFlush { .. } => false,
        _ => place == Place::Checkpoint,
    }
}

impl Run {
    /// Runs operations on both and compares. An error is a violation.
    pub(crate) fn steps(&mut self, ops: &[Op]) -> Result<(), String> {
        let mut rest = ops;
        while let Some((op, after)) = rest.split_first() {
            let (place, at, n) = match *op {
                Op::BesideCheckpoint { at, n } if at % 2 == 0 => (Place::Checkpoint, at / 2, n),
                Op::BesideCheckpoint { at, n } => (Place::CheckpointWrite, at / 2, n),
                Op::BesideFlush { at, n } => (Place::Flush, at, n),
                _ => {
                    self.step(op)?;
                    rest = after;
                    continue;
                }
            };
            let (near, after) = after.split_at(after.len().min(n.into()));
            let (inner, outer): (Vec<Op>, Vec<Op>) = near.iter().partition(|op| may_run_beside(op, place));
            self.beside(place, at, &inner)?;
            self.steps(&outer)?;
            rest = after;
        }
        Ok(())
    }

    /// A flush or checkpoint with other operations in the middle of one of its syncs.
    fn beside(&mut self, place: Place, at: u8, inner: &[Op]) -> Result<(), String> {
        let outer = if place == Place::Flush { Op::Flush {} } else { Op::Checkpoint {} };
        let (false, Some(store)) = (self.unknown, self.store.clone()) else { return Ok(()) };
        // What runs inside must not need the checkpoint or flush that it runs in.
        let roomy = store.counters().is_ok_and(|s| s.log_blocks - s.log_used_blocks > 9);
        // Nor the lock under which the outer one writes out what is staged: it runs on the same thread, which would wait for itself.
        if !roomy || self.setup.spills || self.setup.tight || self.setup.faults {
            self.step(&outer)?;
            return inner.iter().try_for_each(|op| self.step(op));
        }
        self.disk.mark(Ev::Phase(Phase::Checkpoint as u32));
        self.disk.mark(Ev::Issued(self.history.states.len() as u32));
        let last = self.history.states.last().expect("never empty").clone();
        self.history.states.push(last);
        let before = self.history.states.len() - 1;
        let sub = Run {
            disk: self.disk.clone(),
            store: Some(store.clone()),
            history: self.history.clone(),
            unknown: false,
            held: std::mem::take(&mut self.held),
            setup: self.setup.clone(),
            serial: self.serial,
            openings: 0,
        };
        let cell = Arc::new(Mutex::new((sub, Ok(()), false)));
        let (there, ops, mut countdown) = (cell.clone(), inner.to_vec(), Some(at));
        self.disk.set_during(Some(Box::new(move |call, on| {
            let here = match place {
                Place::Checkpoint => call == Call::Push || on == Some(Lane::Checkpoint),
                Place::CheckpointWrite => call == Call::Write,
                Place::Flush => call == Call::Write || on == Some(Lane::Flush),
            };
            if !here {
                return;
            }
            let due = countdown == Some(0);
            countdown = countdown.and_then(|n| n.checked_sub(1));
            if due {
                let mut there = there.lock().unwrap_or_else(|e| e.into_inner());
                there.0.disk.mark(Ev::Phase(Phase::Beside as u32));
                there.2 = true;
                there.1 = ops.iter().try_for_each(|op| there.0.step(op));
            }
        })));
        let result = if place == Place::Flush { store.flush() } else { store.checkpoint() };
        self.disk.set_during(None);
        let ran = {
            let mut there = cell.lock().unwrap_or_else(|e| e.into_inner());
            std::mem::replace(&mut there.1, Ok(())).map_err(|e| format!("beside {}: {e}", outer.text()))?;
            self.history = there.0.history.clone();
            self.serial = there.0.serial;
            self.held = std::mem::take(&mut there.0.held);
            there.2
        };
        result.map_err(|e| format!("{} beside others: {e:?}", outer.text()))?;
        if self.history.acked < before {
            self.history.acked = before;
            self.disk.mark(Ev::Acked(before as u32));
        }
        self.disk.mark(Ev::Phase(Phase::Work as u32));
        let last = self.history.states.len() - 1;
        self.settle(&store, last, last).map(drop).map_err(|e| format!("beside {}: {e}", outer.text()))?;
        // The moment may not have come.
        let left = if ran { &[] } else { inner };
        left.iter().try_for_each(|op| self.step(op))
    }
}
