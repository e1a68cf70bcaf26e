//! From a trace to the points at which a crash is tried.

use super::{
    image::{Image, SECT, mix, term},
    states::Window,
    trace::{Ev, Medium, Trace, redo},
};

/// Replays a trace's effect on the medium, with a hash of the durable image kept up to date by what changed.
pub struct Walker<'a> {
    events: &'a [Ev],
    at: usize,
    medium: Medium,
    live: Image,
    terms: Vec<u64>,
    sum: u64,
    fresh: bool,
    done: bool,
}

impl<'a> Walker<'a> {
    /// A walk from the start of `trace`.
    pub fn new(trace: &'a Trace) -> Walker<'a> {
        let medium = trace.start.clone();
        let sectors = medium.durable.len().div_ceil(SECT as u64);
        let terms: Vec<u64> = (0..sectors).map(|s| term(s, medium.durable.sector(s))).collect();
        let sum = terms.iter().fold(0, |a, t| a ^ t);
        let live = trace.live.clone();
        Walker { events: &trace.events, at: 0, medium, live, terms, sum, fresh: false, done: false }
    }

    /// Goes on to the next crash point: just before a sync completes, or the end. `each` sees every event passed.
    /// False when there is none left.
    pub fn advance(&mut self, mut each: impl FnMut(&Ev)) -> bool {
        while self.at < self.events.len() {
            let ev = &self.events[self.at];
            if matches!(ev, Ev::SyncEnd { .. }) && !self.fresh {
                self.fresh = true;
                return true;
            }
            self.fresh = false;
            each(ev);
            self.pass(ev);
        }
        !std::mem::replace(&mut self.done, true)
    }

    /// Goes on to the event of this number.
    pub fn advance_to(&mut self, at: usize, mut each: impl FnMut(&Ev)) {
        while self.at < at.min(self.events.len()) {
            let ev = &self.events[self.at];
            each(ev);
            self.pass(ev);
        }
    }

    fn pass(&mut self, ev: &Ev) {
        self.at += 1;
        redo(&mut self.live, ev, &|_| true);
        for s in self.medium.apply(ev) {
            let gone = s * SECT as u64 >= self.medium.durable.len();
            let new = if gone { 0 } else { term(s, self.medium.durable.sector(s)) };
            if self.terms.len() <= s as usize {
                self.terms.resize(s as usize + 1, 0);
            }
            self.sum ^= std::mem::replace(&mut self.terms[s as usize], new) ^ new;
        }
    }

    /// What the process sees here: what the next one finds if it dies.
    pub fn live(&self) -> &Image {
        &self.live
    }

    /// The medium here.
    pub fn medium(&self) -> &Medium {
        &self.medium
    }

    /// How many events have been passed.
    pub fn position(&self) -> usize {
        self.at
    }

    /// What may be lost here.
    pub fn window(&self) -> Window<'_> {
        Window::new(&self.medium, &self.terms, self.sum)
    }
}

/// Hash of an image of this length whose sectors' terms add up to `sum`.
pub(super) fn seal(sum: u64, len: u64) -> u64 {
    mix(sum ^ mix(len))
}
