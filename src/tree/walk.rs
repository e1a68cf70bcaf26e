//! The way through a whole tree, from the root down and from low keys to high ones, wherever its nodes come from.

use super::{
    node::{Entry, Root},
    read::step,
};
use crate::{
    format::RootPointer,
    lack::{Miss, Shape},
};

/// Nodes still to be looked at, the next one last, each with what its parent said to it. A list, not recursion: a hostile image chooses the
/// depth.
pub(crate) struct Walk<T>(Vec<(Miss, T)>);

impl<T: Clone> Walk<T> {
    pub(crate) fn new(root: RootPointer, shape: Shape, said: T) -> Walk<T> {
        let root = Root::from(root);
        let start = root.node.map(|child| Miss { shape, child, level: root.level, bounds: (0, shape.end()) });
        Walk(start.map(|start| (start, said)).into_iter().collect())
    }
    /// Goes on with all children of an inner node.
    pub(crate) fn enter(&mut self, at: Miss, entries: &[Entry], said: &T) {
        self.0.extend((0..entries.len()).rev().map(|i| (step(at, entries, i), said.clone())));
    }
    /// Goes on with one child of an inner node, before everything else.
    pub(crate) fn enter_child(&mut self, at: Miss, entries: &[Entry], i: usize, said: T) {
        self.0.push((step(at, entries, i), said));
    }
}

impl<T> Iterator for Walk<T> {
    type Item = (Miss, T);
    fn next(&mut self) -> Option<(Miss, T)> {
        self.0.pop()
    }
}
