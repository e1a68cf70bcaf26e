//! The states that a store has had, in the order in which it had them.

use super::{Model, Seen};

/// What the harness is doing, for `Ev::Phase`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Phase {
    /// Something else.
    Work,
    /// An opening, and so recovery.
    Open,
    /// A checkpoint that was asked for, or a close.
    Checkpoint,
    /// Background steps while something is being reclaimed, and what follows until the next acknowledgement.
    Reclaim,
    /// Operations in the middle of another one's sync.
    Beside,
}

impl Phase {
    /// The phase of a mark.
    pub(crate) fn of(n: u32) -> Phase {
        [Phase::Work, Phase::Open, Phase::Checkpoint, Phase::Reclaim, Phase::Beside][n as usize % 5]
    }
}

/// Every state that the store has had, in commit order, and which of them is sure to survive.
#[derive(Clone, Default)]
pub(crate) struct History {
    /// Hash and state.
    pub(crate) states: Vec<(u64, Model)>,
    /// The newest acknowledged as durable.
    pub(crate) acked: usize,
    /// The newest that an image may show before anything is done to it.
    pub(crate) base: usize,
}

impl History {
    /// A history that starts with one durable state.
    pub(crate) fn of(model: Model) -> History {
        History { states: vec![(model.hash(), model)], acked: 0, base: 0 }
    }

    /// The newest state.
    pub(crate) fn last(&self) -> &Model {
        &self.states.last().expect("never empty").1
    }

    /// The newest of the states from `acked` to `issued` that a store shows.
    pub(crate) fn find(&self, acked: usize, issued: usize, hash: u64) -> Option<usize> {
        let issued = issued.min(self.states.len() - 1);
        (acked..=issued).rev().find(|&j| self.states[j].0 == hash)
    }

    /// The highest number that a name has.
    pub(crate) fn serial(&self) -> u32 {
        let models = self.states.iter().map(|s| &s.1);
        let names = models.flat_map(|m| m.volumes.keys().chain(m.snapshots.keys()));
        names.filter_map(|n| n[1..].parse().ok()).max().unwrap_or(0)
    }

    /// The part that a crash between these bounds leaves possible.
    pub(crate) fn cut(&self, acked: usize, issued: usize) -> History {
        let issued = issued.min(self.states.len() - 1);
        History { states: self.states[acked..=issued].to_vec(), acked: 0, base: issued - acked }
    }
}

/// Why no state fits.
pub(crate) fn explain(history: &History, from: usize, to: usize, seen: &Seen) -> String {
    let to = to.min(history.states.len() - 1);
    let elsewhere = history.states.iter().rposition(|s| s.0 == seen.hash);
    let what = match elsewhere {
        Some(j) if j < from => "an older state: acknowledged operations are lost".to_owned(),
        Some(j) => format!("state {j}, from which operations were never issued"),
        None => format!("no state at all; against the newest:{}", history.states[to].1.diff(seen)),
    };
    let oldest = if elsewhere.is_none() && from != to {
        format!("; against the oldest:{}", history.states[from].1.diff(seen))
    } else {
        String::new()
    };
    format!("legal are states {from} to {to}, it shows {what}{oldest}")
}
