//! qcow2 in process, by imago. It has no internal snapshots, so a snapshot is the image below a fresh overlay.

use super::{BLOCK, Contender, Disk, Missing, Peer, why};
use imago::{
    DenyImplicitOpenGate, FormatAccess, FormatCreateBuilder, FormatDriverBuilder, Storage, StorageCreateOptions,
    StorageOpenOptions, file::File, qcow2::Qcow2,
};
use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

pub(crate) const NAME: &str = "imago (qcow2)";
const CLUSTER: usize = 64 << 10;

type Image = Arc<FormatAccess<File>>;

/// An image in a chain, and the blocks written to it while it was the topmost one.
struct Layer {
    image: Image,
    path: PathBuf,
    written: Mutex<BTreeSet<u64>>,
}

struct Chain {
    dir: PathBuf,
    len: u64,
    /// The lowest image first; never empty. A snapshot is a layer that is not the last.
    layers: Vec<Layer>,
    made: u64,
}

fn layer(dir: &Path, len: u64, number: u64, backing: Option<Image>) -> io::Result<Layer> {
    let path = dir.join(format!("qcow2 {number}"));
    let file = File::create_open(StorageCreateOptions::new().filename(&path).overwrite(true))?;
    let image = Qcow2::<File, Image>::create_builder(file).size(len).cluster_size(CLUSTER);
    image.create()?;
    let file = File::open(StorageOpenOptions::new().filename(&path).write(true))?;
    let image =
        Qcow2::<File, Image>::builder(file).write(true).backing(backing).open(DenyImplicitOpenGate::default())?;
    let image = Arc::new(FormatAccess::new(image));
    image.flush()?;
    image.sync()?;
    fs::File::open(dir)?.sync_all()?;
    Ok(Layer { image, path, written: Mutex::default() })
}

impl Chain {
    fn top(&self) -> &Layer {
        &self.layers[self.layers.len() - 1]
    }
    fn push(&mut self) {
        self.made += 1;
        let backing = self.layers.last().map(|l| l.image.clone());
        self.layers.push(layer(&self.dir, self.len, self.made, backing).expect("an overlay"));
    }
    fn pop(&mut self) -> Layer {
        let layer = self.layers.pop().expect("a layer");
        fs::remove_file(&layer.path).expect("a file");
        layer
    }
}

impl Peer for Chain {
    fn read(&self, buf: &mut [u8], offset: u64) {
        self.top().image.read(buf, offset).expect("read");
    }
    fn write(&self, buf: &[u8], offset: u64) {
        let top = self.top();
        if self.layers.len() > 1 {
            let first = offset / BLOCK as u64;
            top.written.lock().expect("no panic").extend(first..first + (buf.len() / BLOCK) as u64);
        }
        top.image.write(buf, offset).expect("write");
    }
    fn sync(&self) {
        let image = &self.top().image;
        image.flush().expect("flush");
        image.sync().expect("sync");
    }
}

impl Disk for Chain {
    fn snapshot(&mut self, _: u64) {
        self.sync();
        self.push();
    }
    /// Of the last snapshot: a fresh overlay in place of the topmost image.
    fn rollback(&mut self, _: u64) {
        self.pop();
        self.push();
    }
    /// Of the last snapshot: what the topmost image holds is copied into the one below it, by the list of what was written to it. imago
    /// itself has no such operation.
    fn delete(&mut self, _: u64) {
        let top = self.pop();
        let mut buf = vec![0; BLOCK];
        for block in top.written.into_inner().expect("no panic") {
            top.image.read(&mut buf[..], block * BLOCK as u64).expect("read");
            self.top().image.write(&buf[..], block * BLOCK as u64).expect("write");
        }
        self.sync();
    }
}

pub(crate) fn make(dir: &Path, len: u64, _: &[u8]) -> Result<Contender, Missing> {
    let dir = dir.join("qcow2");
    fs::create_dir_all(&dir).map_err(why)?;
    let lowest = layer(&dir, len, 0, None).map_err(why)?;
    let settings = format!(
        "version {}, clusters of {} KiB, flush and sync at each sync, no barrier between data and metadata; a snapshot is a fresh overlay",
        super::version("imago"),
        CLUSTER >> 10
    );
    let chain = Chain { dir, len, layers: vec![lowest], made: 0 };
    Ok(Contender { name: NAME, settings, disk: Box::new(chain) })
}
