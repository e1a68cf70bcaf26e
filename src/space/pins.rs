//! What reads hold while they copy, and how their generation sees that they have gone.

use crate::io::{Alone, STRIPES, stripe};
use std::sync::Arc;

/// Held by a read, from its lookup on, until it has copied.
pub(crate) type Pin = Arc<Alone<()>>;

/// The pins of one generation: one for each stripe of threads, so that reads don't wait for each other's cache lines.
pub(super) struct Pins([Pin; STRIPES]);

impl Pins {
    pub(super) fn new() -> Pins {
        Pins(std::array::from_fn(|_| Arc::default()))
    }
    #[inline]
    pub(super) fn pin(&self) -> Pin {
        self.0[stripe()].clone()
    }
    /// Whether nobody holds one of them. Asked when no more can be given out.
    pub(super) fn are_free(&mut self) -> bool {
        self.0.iter_mut().all(|pin| Arc::get_mut(pin).is_some())
    }
}
