//! Copy-on-write B-trees of reference-counted nodes: one codec for extents, one for the catalog's records.
//!
//! A tree knows roots, nodes and blocks, and no volume. The only ways to a writable node are *allocate* and *shadow*
//! ([`Forest`]); everything else reads. Counts follow one rule (I3): a node's count is the number of nodes and root pointers that refer to
//! it, a data block's the number of leaves. Shadowing a node that only its parent refers to replaces it; forking a
//! shared one adds one parent to each of its children (Rodeh, "B-trees, shadowing, and clones", 2008).

mod diff;
mod edit;
mod forest;
mod node;
mod read;
#[cfg(test)]
mod tests;
mod walk;

pub(crate) use diff::differences;
pub(crate) use edit::{Doomed, Fresh};
pub(crate) use forest::{Cached, Dirty, DirtyNodes, Forest, FoundLeaf, Loaded, NodeCache, WithLoaded, decode_node};
pub(crate) use node::{EXTENT_BYTES, Node, Record, Root, Value};
pub(crate) use read::{
    Nodes, block as read_block, overlap, path as read_path, pieces as read_pieces, record as read_record,
    records as read_records, step as read_step,
};
pub(crate) use walk::Walk;
