//! All trees of an image: node cache, writable nodes, and the space that they live in.

use super::{node::Node, read::Nodes};
use crate::{
    Error, Result,
    format::Page,
    lack::{Child, Key, Lack, Miss, Shape, Step, Stop},
    space::{Purpose, Run, Space},
    units::{Block, Stamp},
};
use rustc_hash::{FxHashMap, FxHashSet};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

/// Blocks that the pool of nodes takes at a time.
const POOL: u64 = 128;
/// About what a node takes in the cache.
const NODE_BYTES: usize = 7 << 10;

/// A verified node with what is looked at when it is found.
pub(crate) struct Cached {
    child: Child,
    level: u8,
    /// `None`: an inner node, whose shape its level's referrer knows.
    shape: Option<Shape>,
    used: AtomicBool,
    /// The lowest and the highest key that it speaks of.
    keys: (Key, Key),
    node: Arc<Node>,
}

impl Cached {
    pub(crate) fn new(child: Child, node: Arc<Node>) -> Cached {
        Cached {
            child,
            level: node.level(),
            shape: node.shape(),
            used: AtomicBool::new(false),
            keys: node.keys(),
            node,
        }
    }
    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.node
    }
    /// Whether it is what a referrer may mean. A hostile image refers to one node from two places: what was checked for one of them
    /// says nothing about the other.
    #[inline]
    fn is_for(&self, want: &Miss) -> bool {
        self.child == want.child
            && self.level == want.level
            && self.shape.is_none_or(|s| s == want.shape)
            && self.keys.0 >= want.bounds.0
            && self.keys.1 < want.bounds.1
    }
}

/// Verified copies of nodes that the disk holds too. Bounded; second chance decides who goes. It changes only under `&mut`: a lookup
/// borrows its nodes and takes no lock.
pub(crate) struct NodeCache {
    nodes: FxHashMap<u64, Cached>,
    clock: Vec<u64>,
    hand: usize,
    pub(crate) most: usize,
}

impl NodeCache {
    /// A cache of about `bytes`. It holds the longest path of a tree several times, or a lookup might never find all of it.
    pub(crate) fn new(bytes: u64) -> NodeCache {
        let most = (bytes as usize / NODE_BYTES).max(128);
        NodeCache { nodes: FxHashMap::default(), clock: Vec::new(), hand: 0, most }
    }
    /// A node to keep hold of, if it is here.
    pub(crate) fn find(&self, want: &Miss) -> Option<Arc<Node>> {
        self.get(want).map(|c| c.node.clone())
    }
    #[inline]
    fn get(&self, want: &Miss) -> Option<&Cached> {
        let c = self.nodes.get(&want.child.block.0).filter(|c| c.is_for(want))?;
        // Stored only once: a store takes the line from other processors.
        if !c.used.load(Relaxed) {
            c.used.store(true, Relaxed);
        }
        Some(c)
    }
    pub(crate) fn insert(&mut self, cached: Cached) {
        let block = cached.child.block;
        if self.nodes.insert(block.0, cached).is_some() {
            return;
        }
        if self.clock.len() < self.most {
            self.clock.push(block.0);
            return;
        }
        loop {
            self.hand = (self.hand + 1) % self.clock.len();
            let victim = self.clock[self.hand];
            let spared = self.nodes.get_mut(&victim).is_some_and(|c| std::mem::take(c.used.get_mut()));
            if !spared {
                self.nodes.remove(&victim);
                self.clock[self.hand] = block.0;
                return;
            }
        }
    }
}

/// Checks the page of a node that was lacking.
pub(crate) fn decode_node(page: &Page, uuid: &[u8; 16], want: &Miss) -> Result<Cached> {
    let node = Node::decode(page, want.shape, uuid, want.child, want.level, want.bounds)?;
    Ok(Cached::new(want.child, Arc::new(node)))
}

/// A node that is not on disk yet.
#[derive(Clone)]
pub(crate) struct Dirty {
    pub(crate) stamp: Stamp,
    pub(crate) shape: Shape,
    pub(crate) node: Arc<Node>,
}

/// Nodes by block.
pub(crate) type DirtyNodes = FxHashMap<u64, Dirty>;

/// All trees of an image.
pub(crate) struct Forest {
    pub(crate) cache: NodeCache,
    /// Nodes that were read for the operation in progress, which the cache must not take from it.
    pub(crate) guests: Loaded,
    /// Blocks of nodes that could not be read where a step can do without.
    pub(crate) unreadable: FxHashSet<u64>,
    pub(crate) uuid: [u8; 16],
    pub(crate) space: Space,
    /// Stamp of nodes made now.
    pub(crate) stamp: Stamp,
    /// Nodes of the current generation.
    pub(crate) dirty: DirtyNodes,
    /// Nodes of the generation that a checkpoint is writing.
    pub(crate) frozen: Arc<DirtyNodes>,
    /// Blocks allocated for nodes to come.
    pub(crate) pool: Vec<Block>,
    /// Most items in a node.
    pub(crate) fanout: usize,
    /// Nodes copied, ever.
    pub(crate) shadowed: u64,
    pub(crate) dooms: Vec<super::Doomed>,
    /// What [`Forest::own_leaf`] last found.
    pub(crate) found: Option<FoundLeaf>,
    /// Counts what may change a tree's shape.
    pub(crate) shape: u64,
    /// What stood in `dirty` under each block that the operation in progress has changed.
    pub(crate) saved: FxHashMap<u64, Option<Dirty>>,
}

/// The leaf responsible for `lo..hi` of the tree at `top`, as long as no tree changes its shape.
#[derive(Clone, Copy)]
pub(crate) struct FoundLeaf {
    pub(super) top: Child,
    pub(super) lo: u64,
    pub(super) hi: u64,
    pub(super) leaf: Block,
    pub(super) shape: u64,
}

impl Forest {
    /// A node that is not on disk yet. A stamp says where its node can be: made in this generation, in the one being written, or on the
    /// disk.
    #[inline]
    fn unwritten(&self, want: &Miss) -> Option<&Arc<Node>> {
        let nodes = if want.child.stamp == self.stamp {
            &self.dirty
        } else if !self.frozen.is_empty() {
            &*self.frozen
        } else {
            return None;
        };
        nodes.get(&want.child.block.0).filter(|d| d.stamp == want.child.stamp).map(|d| &d.node)
    }
}

impl Nodes for Forest {
    type Ref<'a> = &'a Node;
    #[inline]
    fn node(&self, want: &Miss) -> Step<&Node> {
        if let Some(node) = self.unwritten(want) {
            return Ok(node);
        }
        match self.cached(want) {
            Some(c) => Ok(&c.node),
            None => Err(Lack::Node(*want).into()),
        }
    }
}

/// Nodes that a lookup or an operation has loaded, for its own use, by block.
#[derive(Default)]
pub(crate) struct Loaded(FxHashMap<u64, Cached>);

impl Loaded {
    fn get(&self, want: &Miss) -> Option<&Cached> {
        self.0.get(&want.child.block.0).filter(|c| c.is_for(want))
    }
    pub(crate) fn insert(&mut self, node: Cached) {
        self.0.insert(node.child.block.0, node);
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Lets go of all nodes but these.
    pub(crate) fn keep(&mut self, nodes: &[Child]) {
        self.0.retain(|_, cached| nodes.contains(&cached.child));
    }
    pub(crate) fn into_nodes(self) -> impl Iterator<Item = Cached> {
        self.0.into_values()
    }
}

/// A forest in which a lookup also finds the nodes that it has loaded itself, whatever the cache has let go meanwhile.
pub(crate) struct WithLoaded<'a> {
    pub(crate) forest: &'a Forest,
    pub(crate) loaded: &'a Loaded,
}

impl Nodes for WithLoaded<'_> {
    type Ref<'a>
        = &'a Node
    where
        Self: 'a;
    #[inline]
    fn node(&self, want: &Miss) -> Step<&Node> {
        let found = self.forest.node(want);
        if self.loaded.is_empty() || !matches!(found, Err(Stop::Lack(Lack::Node(_)))) {
            return found;
        }
        match self.loaded.get(want) {
            Some(c) => Ok(&c.node),
            None => found,
        }
    }
}

impl Forest {
    /// Trees of which nothing is in memory. `cache`: bytes of nodes to keep.
    pub(crate) fn new(space: Space, uuid: [u8; 16], stamp: Stamp, fanout: usize, cache: u64) -> Forest {
        Forest {
            cache: NodeCache::new(cache),
            guests: Loaded::default(),
            unreadable: FxHashSet::default(),
            uuid,
            space,
            stamp,
            dirty: FxHashMap::default(),
            frozen: Arc::default(),
            pool: Vec::new(),
            fanout,
            shadowed: 0,
            dooms: Vec::new(),
            found: None,
            shape: 0,
            saved: FxHashMap::default(),
        }
    }
    #[inline]
    fn cached(&self, want: &Miss) -> Option<&Cached> {
        self.cache.get(want).or_else(|| self.guests.get(want))
    }
    /// A node to keep hold of.
    pub(crate) fn load(&self, want: Miss) -> Step<Arc<Node>> {
        match self.unwritten(&want).or_else(|| self.cached(&want).map(|c| &c.node)) {
            Some(node) => Ok(node.clone()),
            None => Err(Lack::Node(want).into()),
        }
    }

    // ---- operations as a whole

    /// The changes made so far stand.
    pub(crate) fn keep(&mut self) {
        self.saved.clear();
        self.space.keep();
    }
    /// Takes back every change of a node or a count since [`Forest::keep`].
    pub(crate) fn undo(&mut self) {
        self.space.undo();
        for (block, before) in self.saved.drain() {
            match before {
                Some(node) => {
                    self.dirty.insert(block, node);
                }
                // Made by the operation: the block is one of those that nodes can be made in again.
                None => {
                    self.dirty.remove(&block);
                    self.pool.push(Block(block));
                }
            }
        }
        self.dooms.clear();
        (self.found, self.shape) = (None, self.shape + 1);
    }
    fn save(&mut self, block: Block) {
        self.saved.entry(block.0).or_insert_with(|| self.dirty.get(&block.0).cloned());
    }

    // ---- writable nodes

    /// Puts blocks into the pool until `nodes` nodes can be made. `Ok(false)`: not without more space; what was got stays
    /// in the pool.
    pub(crate) fn fill_pool(&mut self, nodes: usize) -> Step<bool> {
        while self.pool.len() < nodes {
            // More than is needed where there is plenty: nodes then lie together and do not cut data apart.
            let more = if self.space.available() > 16 * POOL { POOL } else { 0 };
            let want = (nodes - self.pool.len()).max(more as usize) as u32;
            let run = match self.space.allocate(Purpose::Nodes, want, false)? {
                Some(run) => run,
                None => match self.space.allocate(Purpose::Nodes, want, true)? {
                    Some(run) => run,
                    None => return Ok(false),
                },
            };
            self.pool.extend((0..u64::from(run.len)).rev().map(|i| run.start.plus(i)));
        }
        Ok(true)
    }

    fn node_block(&mut self) -> Step<Block> {
        if self.pool.is_empty() {
            self.fill_pool(1)?;
        }
        let block = self.pool.pop().ok_or_else(|| Error::corrupt("the reserve for nodes ran out"))?;
        self.saved.entry(block.0).or_insert(None);
        self.space.add_first_parents(Run { start: block, len: 1 })?;
        Ok(block)
    }

    /// A new node with one parent: the caller's reference.
    pub(super) fn allocate(&mut self, shape: Shape, node: Node) -> Step<Child> {
        let child = Child { block: self.node_block()?, stamp: self.stamp };
        self.dirty.insert(child.block.0, Dirty { stamp: child.stamp, shape, node: Arc::new(node) });
        Ok(child)
    }

    /// The node at `want`, writable by whoever holds the reference that this returns: itself, if it is of this generation and has one
    /// parent, else a copy. Forking one with more parents adds one parent to each of its children.
    pub(super) fn shadow(&mut self, want: Miss) -> Step<Child> {
        let count = self.space.count(want.child.block)?;
        if want.child.stamp == self.stamp && count == 1 {
            return Ok(want.child);
        }
        let node = self.load(want)?;
        if count > 1 {
            self.each_run(&node, |forest, run| forest.space.add_parents(run))?;
        }
        let copy = self.allocate(want.shape, (*node).clone())?;
        self.space.decref(want.child.block)?;
        self.shadowed += 1;
        Ok(copy)
    }

    /// Calls `f` for every run of blocks that a node refers to.
    pub(super) fn each_run(&mut self, node: &Node, mut f: impl FnMut(&mut Forest, Run) -> Step<()>) -> Step<()> {
        match node {
            Node::Inner { entries, .. } => {
                entries.iter().try_for_each(|e| f(self, Run { start: e.child.block, len: 1 }))
            }
            Node::Extents(leaf) => leaf.extents.iter().try_for_each(|e| f(self, Run { start: e.physical, len: e.len })),
            Node::Records(_) => Ok(()),
        }
    }

    /// A writable node's content.
    pub(super) fn writable(&mut self, child: Child) -> Step<&mut Node> {
        debug_assert_eq!(child.stamp, self.stamp, "writable nodes are of this generation");
        self.save(child.block);
        match self.dirty.get_mut(&child.block.0) {
            Some(d) => Ok(Arc::make_mut(&mut d.node)),
            None => Err(Error::corrupt(format!("{}: a writable node is not in memory", child.block)).into()),
        }
    }

    /// A node that nobody refers to any more loses its block. Its children are the caller's.
    pub(super) fn free_node(&mut self, child: Child) -> Step<()> {
        if self.space.decref(child.block)? == 0 && child.stamp == self.stamp {
            self.save(child.block);
            self.dirty.remove(&child.block.0);
        }
        Ok(())
    }
}

impl Dirty {
    /// The node's page for a checkpoint.
    pub(crate) fn encode(&self, uuid: &[u8; 16], block: Block) -> Box<Page> {
        self.node.encode(self.shape, uuid, Child { block, stamp: self.stamp })
    }
}
