//! Operations on volumes and snapshots: one, or several as one record.

use super::{
    ask::Ask,
    edge::{Edge, EdgeNeed},
};
use crate::{
    Error, ErrorKind, Result,
    engine::{
        change::{Changed, Claim, Request},
        lease::Authority,
        staging::Staged,
        state::{Engine, State},
    },
    lack::{Lack, Step},
    log::{Op, Placed},
    tree::Root,
    units::{BLOCK_BYTES, Target},
};
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::smallvec;

/// What an update made, as of the moment at which it was applied.
#[derive(Debug, Default)]
pub(crate) struct Committed {
    /// The group that makes it durable.
    target: u64,
    /// By the host's clock, in nanoseconds since the Unix epoch.
    pub(crate) created: u64,
    /// Volume, id and size in bytes of each new snapshot, in order.
    pub(crate) snapshots: Vec<(u64, u64, u64)>,
}

/// Operations that become one record, or none does.
struct Batch<'a> {
    engine: &'a Engine,
    asked: &'a [Ask],
    authority: &'a Authority,
    claim: Claim,
    /// Blocks that a size cuts in two, by the number of the operation: to be read, and as read.
    wanted: Vec<(usize, EdgeNeed)>,
    edges: FxHashMap<usize, (u64, Edge<'a>)>,
    /// What the operations before the one that is checked have made or cut: its blocks are not what the disk has.
    fresh: FxHashSet<Target>,
    prepared: bool,
}

impl<'a> Batch<'a> {
    fn new(engine: &'a Engine, asked: &'a [Ask], authority: &'a Authority) -> Batch<'a> {
        let claim = if asked.iter().all(Ask::frees) { Claim::Freeing } else { Claim::Ordinary };
        let (wanted, edges, fresh) = (Vec::new(), FxHashMap::default(), FxHashSet::default());
        Batch { engine, asked, authority, claim, wanted, edges, fresh, prepared: false }
    }
    /// Places the block that an operation cuts in two: new content for what stands there, if anything does.
    fn place_edge(
        &mut self,
        state: &mut State,
        i: usize,
        need: EdgeNeed,
        any: bool,
        staged: &mut Vec<(crate::units::Block, Staged)>,
    ) -> Step<Option<Placed>> {
        if self.fresh.contains(&need.target) {
            let what = "what was made or cut in the same update can't be cut inside a block";
            return Err(Error::invalid(what).into());
        }
        let Some((_, edge)) = self.edges.get(&i).filter(|(size, _)| *size == need.size) else {
            self.wanted.push((i, need));
            return Err(Lack::Reread.into());
        };
        if !edge.holds(state, need.target)? {
            self.wanted.push((i, need));
            return Err(Lack::Reread.into());
        }
        if edge.mapped.is_none() {
            return Ok(None);
        }
        let data = edge.data.clone();
        state.reserve(self.claim, 0, 1)?;
        let at = state.allocate_data(1, any)?[0].start;
        let (runs, sums) = (smallvec![(at.0, 1)], smallvec![crc32fast::hash(&data)]);
        staged.push((at, Staged { data, offset: 0, blocks: 1 }));
        Ok(Some(Placed { block: need.size / BLOCK_BYTES, runs, sums }))
    }
    /// Notes what later operations of the same update can't read from the disk.
    fn note_fresh(&mut self, op: &Op) {
        match op {
            Op::CreateVolume { id, .. } | Op::Clone { id, .. } => drop(self.fresh.insert(Target::Volume(*id))),
            Op::Rollback { volume, .. } | Op::Resize { volume, .. } => drop(self.fresh.insert(Target::Volume(*volume))),
            Op::Snapshot { members, .. } => self.fresh.extend(members.iter().map(|m| Target::Snapshot(m.1))),
            _ => {}
        }
    }
}

impl Request for Batch<'_> {
    type Made = Committed;
    fn prepare(&mut self) -> Result<()> {
        if !std::mem::replace(&mut self.prepared, true) {
            self.engine.fetch_for(self.asked)?;
        }
        for (i, need) in std::mem::take(&mut self.wanted) {
            let edge = self.engine.read_edge(need.target, need.size / BLOCK_BYTES)?.cut_at(need.size);
            self.edges.insert(i, (need.size, edge));
        }
        Ok(())
    }
    fn release(&mut self) {
        self.edges.clear();
    }
    fn attempt(&mut self, state: &mut State, any: bool) -> Step<Committed> {
        let mut made =
            Committed { created: self.engine.host.now(), target: state.log.target(), ..Committed::default() };
        let (mut ops, mut staged, mut told) = (Vec::with_capacity(self.asked.len()), Vec::new(), Vec::new());
        self.fresh.clear();
        for (i, ask) in self.asked.iter().enumerate() {
            let (mut op, need) = state.check(ask, made.created)?;
            op.validate()?;
            state.check_new(&op)?;
            told.extend(state.check_lease(&op, self.authority)?);
            if let Some(need) = need {
                let placed = self.place_edge(state, i, need, any, &mut staged)?;
                if let Op::Rollback { edge, .. } | Op::Resize { edge, .. } = &mut op {
                    *edge = placed;
                }
            }
            let nodes = state.needs(&op)?;
            state.reserve(self.claim, nodes, 0)?;
            if let Op::Snapshot { members, .. } = &op {
                for (volume, id, _) in members {
                    made.snapshots.push((*volume, *id, state.volume_record(*volume)?.size));
                }
            }
            state.apply(&op)?;
            self.note_fresh(&op);
            ops.push(op);
        }
        if ops.is_empty() {
            return Ok(made);
        }
        state.may_begin_anew()?;
        state.log.write(&ops)?;
        state.log.count(staged.iter().map(|(_, run)| self.engine.data_hash(run.bytes())));
        for (at, run) in staged {
            state.staging.add(at, run);
        }
        state.leases.tell(told, self.authority, &self.engine.config.events);
        made.target = state.log.target();
        Ok(made)
    }
}

impl Engine {
    /// Makes all that is asked one record, or none; `durable`: on disk before this returns.
    pub(crate) fn commit(&self, asked: &[Ask], durable: bool) -> Result<Committed> {
        self.commit_as(asked, durable, &Authority::default())
    }
    /// [`Engine::commit`] with what the caller may do to attached volumes.
    pub(crate) fn commit_as(&self, asked: &[Ask], durable: bool, authority: &Authority) -> Result<Committed> {
        let _delivery = self.delivery();
        let Changed { made, relieve } = self.change(&mut Batch::new(self, asked, authority))?;
        asked.iter().filter_map(Ask::deletes).for_each(|volume| self.meters.forget(volume));
        if durable {
            self.flush_to(made.target)?;
        } else {
            self.relieve_after(relieve)?;
        }
        Ok(made)
    }

    /// Reads what many operations at once would lack one after the other, each time from the first one on: the leaves for new names, which
    /// are scattered over the catalog by their hash; records of volumes and snapshots, and the counts of their roots.
    fn fetch_for(&self, asked: &[Ask]) -> Result<()> {
        let names: Vec<_> = asked.iter().flat_map(Ask::names).collect();
        let targets: Vec<_> = asked.iter().flat_map(Ask::targets).collect();
        // So few are fetched by the attempts.
        if names.len() + targets.len() <= 2 {
            return Ok(());
        }
        for (volume, name) in names {
            self.lookup(|state| state.catalog_view().named_in(volume, name).map(drop))?;
        }
        for target in targets {
            let fetched = self.step(|state| {
                let root = match target {
                    Target::Volume(id) => state.volume_record(id)?.root,
                    Target::Snapshot(id) => state.snapshot_record(id)?.root,
                };
                Root::from(root).node.map_or(Ok(0), |root| state.forest.space.count(root.block))
            });
            match fetched {
                // What an operation before makes is not there yet; what is not there at all is the attempt's to say.
                Err(e) if e.kind() != ErrorKind::Deleted => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }
}
