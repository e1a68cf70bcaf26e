//! The intent log: records of operations, the groups that one sync makes durable, the ring of pages that holds them, and the scan of that
//! ring at recovery. Nothing here knows a tree, or what a record does.

mod group;
mod record;
mod ring;
mod scan;
#[cfg(test)]
mod tests;

pub(crate) use group::Group;
pub(crate) use record::{DeleteMode, Op, Placed, Sums, TAG_CHUNK, TAGS_MAX, check_name, check_size, tag_chunks};
pub(crate) use ring::{Log, page_block};
pub(crate) use scan::{Replay, scan};
