//! What is done to the bytes of blocks: sums, hashes, copies. The one place that knows the crate of the 64-bit hash.

use std::hash::Hasher;
use twox_hash::XxHash3_64;

/// Bytes that are copied at a time. From a few KiB on the C library copies by a string instruction, which takes twenty times as long where
/// both ends have nearly the same place in their pages, as blocks often do.
pub(crate) const PIECE: usize = 256;

/// The 64-bit hash (XXH3) of some bytes under a key.
pub(crate) fn hash(bytes: &[u8], key: u64) -> u64 {
    XxHash3_64::oneshot_with_seed(key, bytes)
}

/// [`hash`] of bytes that come in parts.
pub(crate) struct Hash(XxHash3_64);

impl Hash {
    pub(crate) fn new(key: u64) -> Hash {
        Hash(XxHash3_64::with_seed(key))
    }
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }
    pub(crate) fn finish(&self) -> u64 {
        self.0.finish()
    }
}

/// Copies as much as both have room for, in pieces.
#[inline]
pub(crate) fn copy(from: &[u8], to: &mut [u8]) {
    for (to, from) in to.chunks_mut(PIECE).zip(from.chunks(PIECE)) {
        let n = to.len().min(from.len());
        to[..n].copy_from_slice(&from[..n]);
    }
}

#[cfg(test)]
mod tests {
    use super::{Hash, copy, hash};

    #[test]
    fn copies_of_any_length_are_exact_and_parts_hash_as_the_whole() {
        let from: Vec<u8> = (0..300u32).map(|i| (i * 7) as u8).collect();
        for n in 0..from.len() {
            let mut to = vec![1; n + 3];
            copy(&from[..n], &mut to);
            assert_eq!((&to[..n], &to[n..]), (&from[..n], &[1, 1, 1][..]));
            let mut short = vec![1; n];
            copy(&from, &mut short);
            assert_eq!(short, &from[..n]);
            let mut parts = Hash::new(9);
            from[..n].chunks(50).for_each(|part| parts.add(part));
            assert_eq!(parts.finish(), hash(&from[..n], 9));
        }
    }
}
