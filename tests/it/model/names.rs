//! Names: whoever has one is found by it, and what nothing has any more is free.

use std::collections::BTreeSet;

use snapdisk::{ErrorKind, Store};

use super::{Model, run::Run};

impl Run {
    /// Names that something had in one of the states that are known, and that nothing has in this one.
    pub(super) fn retired(&self, now: &Model) -> BTreeSet<String> {
        let models = self.history.states.iter().map(|s| &s.1);
        let names = models.flat_map(|m| m.volumes.keys().chain(m.snapshots.keys()));
        names.filter(|n| !now.volumes.contains_key(*n) && !now.snapshots.contains_key(*n)).cloned().collect()
    }

    /// Every name leads to what has it; one that is free leads to nothing.
    pub(super) fn names_hold(&self, store: &Store, now: &Model) -> Result<(), String> {
        if self.setup.faults {
            return Ok(());
        }
        for (name, o) in &now.volumes {
            let found = store.volume(name).map_err(|e| format!("volume {name} by its name: {e:?}"))?;
            if o.id != Some(found.id().0) {
                return Err(format!("the name of volume {name} leads to volume {}", found.id().0));
            }
            for (snapshot, s) in now.snapshots.iter().filter(|(_, s)| s.of == o.id) {
                let named =
                    found.snapshot_named(snapshot).map_err(|e| format!("snapshot {snapshot} by its name: {e:?}"))?;
                if s.id != Some(named.id().0) {
                    return Err(format!("the name of snapshot {snapshot} leads to snapshot {}", named.id().0));
                }
            }
        }
        for name in self.retired(now) {
            let is_free = |kind: Option<ErrorKind>| match kind {
                Some(ErrorKind::NotFound) => Ok(()),
                other => Err(format!("the name {name} is free and leads to something: {other:?}")),
            };
            is_free(store.volume(&name).err().map(|e| e.kind()))?;
            for volume in now.volumes.keys() {
                let volume = store.volume(volume).map_err(|e| format!("volume {volume} by its name: {e:?}"))?;
                is_free(volume.snapshot_named(&name).err().map(|e| e.kind()))?;
            }
        }
        Ok(())
    }
}
