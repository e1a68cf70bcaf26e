//! An image in memory: for tests, and for stores that need not outlive the process.

use super::{Backend, Lane};
use parking_lot::RwLock;
use rustc_hash::FxHashMap;
use std::io::{self, IoSlice};

/// Bytes in a chunk. A chunk that was never written takes no memory, so that a huge image with little content is small.
const CHUNK: u64 = 64 << 10;

/// A [`Backend`] whose medium is memory. Nothing of it survives a drop, and it locks out no second store: whoever
/// shares one between stores opens them one after the other.
#[derive(Default)]
pub struct MemoryBackend {
    image: RwLock<Image>,
}

#[derive(Default)]
struct Image {
    len: u64,
    /// By number. Every byte at `len` or beyond is zero.
    chunks: FxHashMap<u64, Box<[u8]>>,
}

/// Cuts `len` bytes at `offset` at the borders of chunks. Each part is a chunk, an offset in it, a length, and an offset in the whole.
fn parts(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let (chunk, within) = (at / CHUNK, at % CHUNK);
        let n = (len - done).min((CHUNK - within) as usize);
        let part = (chunk, within as usize, n, done);
        done += n;
        (n > 0).then_some(part)
    })
}

fn end(offset: u64, len: u64) -> io::Result<u64> {
    offset.checked_add(len).filter(|&end| end <= i64::MAX as u64).ok_or_else(|| io::ErrorKind::FileTooLarge.into())
}

impl Image {
    fn read(&self, offset: u64, buf: &mut [u8]) -> usize {
        let n = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX).min(buf.len());
        for (chunk, within, n, at) in parts(offset, n) {
            match self.chunks.get(&chunk) {
                Some(bytes) => buf[at..at + n].copy_from_slice(&bytes[within..within + n]),
                None => buf[at..at + n].fill(0),
            }
        }
        n
    }
    fn write(&mut self, offset: u64, buf: &[u8]) -> io::Result<()> {
        let end = end(offset, buf.len() as u64)?;
        for (chunk, within, n, at) in parts(offset, buf.len()) {
            let bytes = self.chunks.entry(chunk).or_insert_with(|| vec![0; CHUNK as usize].into());
            bytes[within..within + n].copy_from_slice(&buf[at..at + n]);
        }
        if !buf.is_empty() {
            self.len = self.len.max(end);
        }
        Ok(())
    }
    /// Zeroes `offset..end`, and drops the chunks that lie inside.
    fn clear(&mut self, offset: u64, end: u64) {
        let end = end.min(self.len);
        if offset >= end {
            return;
        }
        let (first, last) = (offset / CHUNK, (end - 1) / CHUNK);
        self.chunks.retain(|&chunk, bytes| {
            if chunk < first || chunk > last {
                return true;
            }
            let from = offset.saturating_sub(chunk * CHUNK) as usize;
            let to = (end - chunk * CHUNK).min(CHUNK) as usize;
            bytes[from..to].fill(0);
            from > 0 || (to < CHUNK as usize && end < self.len)
        });
    }
}

impl MemoryBackend {
    /// An empty image.
    pub fn new() -> MemoryBackend {
        MemoryBackend::default()
    }
    /// An image of these bytes.
    pub fn from_bytes(bytes: Vec<u8>) -> MemoryBackend {
        let mut image = Image { len: bytes.len() as u64, ..Image::default() };
        for (n, chunk) in (0..).zip(bytes.chunks(CHUNK as usize)) {
            if chunk.iter().any(|&b| b != 0) {
                let mut whole = vec![0; CHUNK as usize];
                whole[..chunk.len()].copy_from_slice(chunk);
                image.chunks.insert(n, whole.into());
            }
        }
        MemoryBackend { image: RwLock::new(image) }
    }
    /// All bytes of the image, holes included: as many as it is long.
    pub fn to_bytes(&self) -> Vec<u8> {
        let image = self.image.read();
        let mut bytes = vec![0; image.len as usize];
        image.read(0, &mut bytes);
        bytes
    }
}

impl Backend for MemoryBackend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.image.read().len)
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        Ok(self.image.read().read(offset, buf))
    }
    fn has_cold_reads(&self) -> bool {
        true
    }
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<usize> {
        self.image.write().write(offset, buf)?;
        Ok(buf.len())
    }
    fn write_vectored_at(&self, offset: u64, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut image = self.image.write();
        let mut done = 0;
        for buf in bufs {
            image.write(end(offset, done as u64)?, buf)?;
            done += buf.len();
        }
        Ok(done)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        end(len, 0)?;
        let mut image = self.image.write();
        let old = image.len;
        image.clear(len, old);
        image.len = len;
        Ok(())
    }
    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = end(offset, len)?;
        self.image.write().clear(offset, end);
        Ok(())
    }
    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = end(offset, len)?;
        let mut image = self.image.write();
        image.len = image.len.max(end);
        Ok(())
    }
    fn sync_data(&self, _lane: Lane) -> io::Result<()> {
        Ok(())
    }
}
