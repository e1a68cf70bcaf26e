//! The space map: the reference count of every block, and who may allocate what.
//!
//! Counts are a flat array by physical block in pages with two fixed homes each ([`Geometry`]); a checkpoint writes a page
//! into the home that is not current. The map is derived: the trees say the same. Nothing here knows a tree.
//!
//! The one rule of reuse (I1): a block whose count drops to zero goes into the quarantine of its generation, and is
//! allocatable only after the checkpoint that freezes that generation is durable and no read copies it any more
//! ([`Reading`]). `available` bits say what may be allocated now.

mod frozen;
mod geometry;
mod map;
mod pages;
mod reading;
mod region;
#[cfg(test)]
mod tests;

pub(crate) use frozen::FrozenSpace;
pub(crate) use geometry::Geometry;
pub(crate) use map::{Pin, Purpose, Reservation, Run, Space, no_space};
pub(crate) use reading::{Hold, Reading};
