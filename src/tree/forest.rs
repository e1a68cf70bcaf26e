//! All trees of an image: node cache, writable nodes, and the space that they live in.

use super::{
    node::{Child, Key, Node, Shape},
    read::{Found, Miss, Nodes},
};
use crate::{
    Error, Result,
    format::{Page, PageHeader},
    io::Disk,
    space::{Purpose, Space},
    units::{Block, Stamp},
};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

const SHARDS: usize = 16;
/// Blocks that the pool of nodes takes at a time.
const POOL: u64 = 128;

struct Cached {
    stamp: Stamp,
    level: u8,
    /// `None`: an inner node, whose shape its level's referrer knows.
    shape: Option<Shape>,
    /// The lowest and the highest key that it speaks of.
    keys: (Key, Key),
    node: Arc<Node>,
    used: AtomicBool,
}

impl Cached {
    fn new(stamp: Stamp, node: Arc<Node>) -> Cached {
        Cached {
            stamp,
            level: node.level(),
            shape: node.shape(),
            keys: node.keys(),
            node,
            used: AtomicBool::new(false),
        }
    }
    /// Whether it is what a referrer may mean. A hostile image refers to one node from two places: what was checked for one of them
    /// says nothing about the other.
    #[inline]
    fn is_for(&self, want: &Miss) -> bool {
        self.level == want.level
            && self.shape.is_none_or(|s| s == want.shape)
            && self.keys.0 >= want.bounds.0
            && self.keys.1 < want.bounds.1
    }
}

/// Verified copies of nodes that the disk holds too. Bounded; second chance decides who goes.
pub(crate) struct NodeCache {
    shards: [Mutex<Shard>; SHARDS],
    per_shard: usize,
}

#[derive(Default)]
struct Shard {
    nodes: FxHashMap<u64, Cached>,
    clock: Vec<u64>,
    hand: usize,
}

impl NodeCache {
    /// A cache of about `bytes`.
    pub(crate) fn new(bytes: u64) -> NodeCache {
        let per_shard = (bytes as usize / 8192 / SHARDS).max(8);
        NodeCache { shards: std::array::from_fn(|_| Mutex::default()), per_shard }
    }
    fn shard(&self, block: Block) -> &Mutex<Shard> {
        &self.shards[(block.0 % SHARDS as u64) as usize]
    }
    #[inline]
    pub(crate) fn get(&self, want: Miss) -> Option<Arc<Node>> {
        let shard = self.shard(want.child.block).lock();
        let c = shard.nodes.get(&want.child.block.0).filter(|c| c.stamp == want.child.stamp && c.is_for(&want))?;
        c.used.store(true, Relaxed);
        Some(c.node.clone())
    }
    pub(crate) fn insert(&self, child: Child, node: Arc<Node>) {
        let mut shard = self.shard(child.block).lock();
        let shard = &mut *shard;
        let cached = Cached::new(child.stamp, node);
        if shard.nodes.insert(child.block.0, cached).is_some() {
            return;
        }
        if shard.clock.len() < self.per_shard {
            shard.clock.push(child.block.0);
            return;
        }
        loop {
            shard.hand = (shard.hand + 1) % shard.clock.len();
            let victim = shard.clock[shard.hand];
            let spared = shard.nodes.get(&victim).is_some_and(|c| c.used.swap(false, Relaxed));
            if !spared {
                shard.nodes.remove(&victim);
                shard.clock[shard.hand] = child.block.0;
                return;
            }
        }
    }
    /// Reads, checks and keeps a node.
    pub(crate) fn load(&self, disk: &Disk, uuid: &[u8; 16], want: Miss) -> Result<Arc<Node>> {
        let mut page = disk.read_page(want.child.block)?;
        if disk.trusts_pages() {
            let header = PageHeader { kind: page[4], level: page[5], items: crate::format::get16(&page[..], 6) };
            crate::format::seal(&mut page, uuid, want.child.block, want.child.stamp, header);
        }
        let node = Arc::new(Node::decode(&page, want.shape, uuid, want.child, want.level, want.bounds)?);
        self.insert(want.child, node.clone());
        Ok(node)
    }
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
    pub(crate) disk: Arc<Disk>,
    pub(crate) cache: Arc<NodeCache>,
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
    /// What [`Forest::own_leaf`] last found: root, range, leaf. Whatever changes a tree's shape clears it.
    pub(crate) found: Option<(Child, u64, u64, Block)>,
}

impl Nodes for Forest {
    #[inline]
    fn node(&self, want: Miss) -> Found<Arc<Node>> {
        // A stamp says where its node can be: made in this generation, in the one being written, or on the disk.
        let nodes = if want.child.stamp == self.stamp {
            Some(&self.dirty)
        } else {
            Some(&*self.frozen).filter(|f| !f.is_empty())
        };
        if let Some(d) = nodes.and_then(|n| n.get(&want.child.block.0)).filter(|d| d.stamp == want.child.stamp) {
            return Ok(Ok(d.node.clone()));
        }
        Ok(self.cache.get(want).ok_or(want))
    }
}

/// A forest that reads what is not in memory at once.
pub(crate) struct Loading<'a>(pub(crate) &'a Forest);

impl Nodes for Loading<'_> {
    fn node(&self, want: Miss) -> Found<Arc<Node>> {
        match self.0.node(want)? {
            Ok(node) => Ok(Ok(node)),
            Err(miss) => self.0.cache.load(&self.0.disk, &self.0.uuid, miss).map(Ok),
        }
    }
}

impl Forest {
    /// Runs a lookup that loads what it lacks.
    pub(crate) fn now<T>(&self, f: impl Fn(&Loading<'_>) -> Found<T>) -> Result<T> {
        match f(&Loading(self))? {
            Ok(t) => Ok(t),
            Err(miss) => Err(Error::corrupt(format!("{}: can't be loaded", miss.child.block))),
        }
    }
    pub(crate) fn load(&self, want: Miss) -> Result<Arc<Node>> {
        self.now(|nodes| nodes.node(want))
    }

    /// Puts blocks into the pool until `nodes` nodes can be made. `Ok(false)`: not without more space; what was got stays
    /// in the pool.
    pub(crate) fn fill_pool(&mut self, nodes: usize) -> Result<bool> {
        while self.pool.len() < nodes {
            // More than is needed where there is plenty: nodes then lie together and do not cut data apart.
            let more = if self.space.available() > 16 * POOL { POOL } else { 0 };
            let want = (nodes - self.pool.len()).max(more as usize) as u32;
            let disk = &*self.disk;
            let run = match self.space.allocate(disk, Purpose::Nodes, want, false)? {
                Some(run) => run,
                None => match self.space.allocate(disk, Purpose::Nodes, want, true)? {
                    Some(run) => run,
                    None => return Ok(false),
                },
            };
            self.pool.extend((0..u64::from(run.len)).rev().map(|i| run.start.plus(i)));
        }
        Ok(true)
    }

    fn node_block(&mut self) -> Result<Block> {
        if self.pool.is_empty() {
            self.fill_pool(1)?;
        }
        let block = self.pool.pop().ok_or_else(|| Error::corrupt("the reserve for nodes ran out"))?;
        self.space.first_parent(&self.disk, block)?;
        Ok(block)
    }

    /// A new node with one parent: the caller's reference.
    pub(super) fn allocate(&mut self, shape: Shape, node: Node) -> Result<Child> {
        let child = Child { block: self.node_block()?, stamp: self.stamp };
        self.dirty.insert(child.block.0, Dirty { stamp: child.stamp, shape, node: Arc::new(node) });
        Ok(child)
    }

    /// The node at `want`, writable by whoever holds the reference that this gives in exchange: itself, if it is of this generation and has one
    /// parent, else a copy. Forking one with more parents gives its children one more.
    pub(super) fn shadow(&mut self, want: Miss) -> Result<Child> {
        let count = self.space.count(&self.disk, want.child.block)?;
        if want.child.stamp == self.stamp && count == 1 {
            return Ok(want.child);
        }
        let node = self.load(want)?;
        if count > 1 {
            self.each_block(&node, |forest, block| forest.space.incref(&forest.disk, block))?;
        }
        let copy = self.allocate(want.shape, (*node).clone())?;
        self.space.decref(&self.disk, want.child.block)?;
        self.shadowed += 1;
        Ok(copy)
    }

    /// Calls `f` for every block that a node refers to.
    pub(super) fn each_block(
        &mut self,
        node: &Node,
        mut f: impl FnMut(&mut Forest, Block) -> Result<()>,
    ) -> Result<()> {
        match node {
            Node::Inner { entries, .. } => entries.iter().try_for_each(|e| f(self, e.child.block)),
            Node::Extents(leaf) => leaf
                .extents
                .iter()
                .flat_map(|e| (0..u64::from(e.len)).map(|i| e.physical.plus(i)))
                .try_for_each(|b| f(self, b)),
            Node::Records(_) => Ok(()),
        }
    }

    /// A writable node's content.
    pub(super) fn writable(&mut self, child: Child) -> Result<&mut Node> {
        debug_assert_eq!(child.stamp, self.stamp, "writable nodes are of this generation");
        match self.dirty.get_mut(&child.block.0) {
            Some(d) => Ok(Arc::make_mut(&mut d.node)),
            None => Err(Error::corrupt(format!("{}: a writable node is not in memory", child.block))),
        }
    }

    /// A node that nobody refers to any more loses its block. Its children are the caller's.
    pub(super) fn free_node(&mut self, child: Child) -> Result<()> {
        if self.space.decref(&self.disk, child.block)? == 0 && child.stamp == self.stamp {
            self.dirty.remove(&child.block.0);
        }
        Ok(())
    }

    /// Dirty nodes as pages for a checkpoint.
    pub(crate) fn encode(uuid: &[u8; 16], nodes: &DirtyNodes) -> Vec<(Block, Box<Page>)> {
        let mut pages: Vec<_> = nodes
            .iter()
            .map(|(&b, d)| {
                let at = Child { block: Block(b), stamp: d.stamp };
                (at.block, d.node.encode(d.shape, uuid, at))
            })
            .collect();
        pages.sort_unstable_by_key(|p| p.0);
        pages
    }
}
