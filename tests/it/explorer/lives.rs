//! Many lives of one image: each does a part of a case's operations and ends in a power loss, a process death or both, and the next one
//! goes on from there, with what stamps, epochs, generations and the ring have come to.

use std::sync::Arc;

use snapdisk::io::sim::{Caps, Ev, Rng, SimBackend, Trace, Walker};

use super::{
    case::{Case, start},
    search::{Position, Search},
};
use crate::model::history::History;

/// Lives that one image has at most.
pub(super) const LIVES: u8 = 20;

impl Search {
    /// Lets the image of a case have its lives. The operations are dealt to them in turn, again from the start when they are used up.
    pub(super) fn one_after_the_other(&mut self, case: &Case) -> Result<(), String> {
        let (image, model) = start(case.size);
        let (lives, mut rng) = (case.lives, Rng::new(case.seed));
        let (mut disk, mut history) = (Arc::new(SimBackend::of(image)), History::of(model));
        let mut ops = case.ops.iter().cycle();
        for life in 0..lives {
            self.tally.lives += 1;
            disk.seed(rng.number());
            disk.start_trace();
            let setup = case.setup(false);
            let watched = self.watch(&disk, &setup);
            let serial = history.serial() + 1000;
            let mut run = self.verify(disk, history, &setup, serial).map_err(|e| format!("{e}\n  life {life}"))?;
            let part: Vec<_> = ops.by_ref().take(rng.below(1 + case.ops.len() as u64) as usize).copied().collect();
            run.steps(&part).and_then(|()| watched.verdict()).map_err(|e| format!("{e}\n  life {life}"))?;
            let trace = run.disk.take_trace();
            (disk, history) = self.end(&trace, &run.history, &mut rng);
        }
        let last = self.verify(disk, history.clone(), &case.setup(false), history.serial() + 1000);
        last.and_then(|mut run| run.settle_down()).map_err(|e| format!("{e}\n  life {lives}"))
    }

    /// The disk as a life leaves it that ends somewhere in its trace, and what it may show.
    fn end(&mut self, trace: &Trace, history: &History, rng: &mut Rng) -> (Arc<SimBackend>, History) {
        let mut at = Position { issued: history.base, ..Position::default() };
        let mut walker = Walker::new(trace);
        if rng.one_in(3) {
            // A process death: what the cache has is still there.
            let point = rng.below(trace.events.len() as u64 + 1) as usize;
            walker.advance_to(point, |ev| at.pass(ev));
            let disk = SimBackend::reborn(walker.live().clone(), walker.medium().abandoned());
            return (Arc::new(disk), history.cut(at.acked, at.issued));
        }
        let points = trace.events.iter().filter(|e| matches!(e, Ev::SyncEnd { .. })).count() as u64 + 1;
        for _ in 0..=rng.below(points) {
            walker.advance(|ev| at.pass(ev));
        }
        let (mut left, mut chosen) = (rng.below(24), None);
        walker.window().each(&Caps::FEW, &mut Rng::new(rng.number()), &mut |pick| {
            chosen = Some((pick.image(), pick.hash()));
            left -= u64::from(left > 0);
            left > 0
        });
        let (image, hash) = chosen.expect("at least the durable state");
        self.tally.unique += u64::from(self.seen.insert(hash ^ history.states[at.acked].0.rotate_left(17)));
        (Arc::new(SimBackend::of(image)), history.cut(at.acked, at.issued))
    }
}
