//! Snapdisk, with default options.

use super::{Contender, Disk, Missing, Peer, why};
use snapdisk::{Options, Snapshot, Store, Volume};
use std::path::Path;

pub(crate) const NAME: &str = "snapdisk, default options";

struct Own {
    store: Store,
    volume: Volume,
}

impl Own {
    fn find(&self, id: u64) -> Snapshot {
        self.volume.snapshot_named(&format!("s{id}")).expect("the snapshot")
    }
}

impl Peer for Own {
    fn read(&self, buf: &mut [u8], offset: u64) {
        self.volume.read_at(buf, offset).expect("read_at");
    }
    fn write(&self, buf: &[u8], offset: u64) {
        self.volume.write_at(buf, offset).expect("write_at");
    }
    fn sync(&self) {
        self.volume.flush().expect("flush");
    }
}

impl Disk for Own {
    fn snapshot(&mut self, id: u64) {
        self.volume.snapshot(&format!("s{id}")).expect("snapshot");
    }
    fn rollback(&mut self, id: u64) {
        self.volume.rollback(&self.find(id)).expect("rollback");
    }
    fn delete(&mut self, id: u64) {
        self.store.delete_snapshot(&self.find(id)).expect("delete");
    }
    fn settle(&mut self) {
        self.store.wait_reclaimed().expect("reclaim");
    }
}

pub(crate) fn make(dir: &Path, len: u64, _: &[u8]) -> Result<Contender, Missing> {
    let path = dir.join("snapdisk");
    let _ = std::fs::remove_file(&path);
    let store = Options::new().create(path).map_err(why)?;
    let volume = store.create_volume("v", len).map_err(why)?;
    let settings = format!("version {}, blocks of 4 KiB, each summed and verified", super::version("snapdisk"));
    Ok(Contender { name: NAME, settings, disk: Box::new(Own { store, volume }) })
}
