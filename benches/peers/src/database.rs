//! redb as a map from blocks to values of 4 KiB, with savepoints as snapshots.

use super::{BLOCK, Contender, Disk, Missing, Peer, why};
use redb::{Database, Durability, ReadOnlyTable, ReadableDatabase, TableDefinition, WriteTransaction};
use std::{collections::BTreeMap, path::Path, sync::Mutex};

pub(crate) const NAME: &str = "redb";
/// Bytes of its cache: enough for a disk of 1 GiB, of which the other peers have all in the host's cache.
const CACHE: usize = 4 << 30;
const BLOCKS: TableDefinition<u64, &[u8]> = TableDefinition::new("blocks");

struct Map {
    db: Database,
    /// What was written since the last sync.
    open: Mutex<Option<WriteTransaction>>,
    /// A view of the last sync, for reads.
    view: Mutex<Option<ReadOnlyTable<u64, &'static [u8]>>>,
    savepoints: BTreeMap<u64, u64>,
}

impl Map {
    fn begin(&self) -> WriteTransaction {
        let mut transaction = self.db.begin_write().expect("a transaction");
        transaction.set_durability(Durability::Immediate).expect("a durability");
        transaction
    }
}

impl Peer for Map {
    fn read(&self, buf: &mut [u8], offset: u64) {
        let mut view = self.view.lock().expect("no panic");
        let view =
            view.get_or_insert_with(|| self.db.begin_read().expect("a view").open_table(BLOCKS).expect("the table"));
        for (i, part) in buf.chunks_mut(BLOCK).enumerate() {
            let found = view.get(offset / BLOCK as u64 + i as u64).expect("get").expect("a block");
            part.copy_from_slice(found.value());
        }
    }
    fn write(&self, buf: &[u8], offset: u64) {
        let mut open = self.open.lock().expect("no panic");
        let mut table = open.get_or_insert_with(|| self.begin()).open_table(BLOCKS).expect("the table");
        for (i, part) in buf.chunks(BLOCK).enumerate() {
            table.insert(offset / BLOCK as u64 + i as u64, part).expect("insert");
        }
    }
    fn sync(&self) {
        *self.view.lock().expect("no panic") = None;
        if let Some(transaction) = self.open.lock().expect("no panic").take() {
            transaction.commit().expect("commit");
        }
    }
}

impl Disk for Map {
    fn snapshot(&mut self, id: u64) {
        self.sync();
        let transaction = self.begin();
        self.savepoints.insert(id, transaction.persistent_savepoint().expect("a savepoint"));
        transaction.commit().expect("commit");
    }
    fn rollback(&mut self, id: u64) {
        self.sync();
        let mut transaction = self.begin();
        let savepoint = transaction.get_persistent_savepoint(self.savepoints[&id]).expect("a savepoint");
        transaction.restore_savepoint(&savepoint).expect("a rollback");
        transaction.commit().expect("commit");
    }
    fn delete(&mut self, id: u64) {
        self.sync();
        let transaction = self.begin();
        let savepoint = self.savepoints.remove(&id).expect("a savepoint");
        assert!(transaction.delete_persistent_savepoint(savepoint).expect("delete"), "a savepoint was there");
        transaction.commit().expect("commit");
    }
}

pub(crate) fn make(dir: &Path, _: u64, _: &[u8]) -> Result<Contender, Missing> {
    let path = dir.join("redb");
    let _ = std::fs::remove_file(&path);
    let db = Database::builder().set_cache_size(CACHE).create(path).map_err(why)?;
    let settings = format!(
        "version {}, values of 4 KiB by block, a cache of 4 GiB, Durability::Immediate at each sync; a rollback destroys later savepoints",
        super::version("redb")
    );
    let map = Map { db, open: Mutex::default(), view: Mutex::default(), savepoints: BTreeMap::new() };
    Ok(Contender { name: NAME, settings, disk: Box::new(map) })
}
