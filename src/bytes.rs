//! What is done to the bytes of blocks: sums, hashes, copies. The one place that knows the crate of the 64-bit hash.

use std::hash::Hasher;
use twox_hash::XxHash3_64;

/// Bytes that are copied at a time. From a few KiB on the C library copies by a string instruction, which takes many times as long where
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

/// Fills `to` from the start of `from`, which is at least as long, in pieces.
#[inline]
pub(crate) fn copy(from: &[u8], to: &mut [u8]) {
    let from = &from[..to.len()];
    to.chunks_mut(PIECE).zip(from.chunks(PIECE)).for_each(|(to, from)| to.copy_from_slice(from));
}

#[cfg(test)]
mod tests {
    use super::{Hash, PIECE, copy, hash};

    fn some(n: usize) -> Vec<u8> {
        (0..n).map(|i| (i * 7 + i / 251) as u8).collect()
    }

    #[test]
    fn copies_of_any_length_are_exact() {
        let from = some(3 * PIECE);
        for n in 0..from.len() {
            let mut to = vec![1; n];
            copy(&from, &mut to);
            assert_eq!(to, &from[..n]);
        }
    }

    /// What was hashed at once when it was written comes in parts at recovery.
    #[test]
    fn parts_hash_as_the_whole() {
        for len in [0, 1, 16, 17, 128, 129, 240, 241, 255, 256, 257, 1023, 1024, 1025, 4096, 64 << 10, 1 << 20] {
            let whole = some(len);
            for part in [8, 100, 4096, 64 << 10] {
                let mut parts = Hash::new(9);
                whole.chunks(part).for_each(|bytes| parts.add(bytes));
                assert_eq!(parts.finish(), hash(&whole, 9), "{len} bytes in parts of {part}");
            }
        }
    }

    /// The hash is on disk: XXH3, values of the reference implementation (`xxhash.xxh3_64_intdigest` in Python).
    #[test]
    fn the_hash_is_the_one_of_the_format() {
        let values = [
            (0, 0x4ede_ab53_0a54_fdce),
            (100, 0x6bf7_301e_5b37_ebbd),
            (4088, 0x23d3_d6ca_c061_fb0c),
            (4096, 0x8803_8f3a_6751_1d4b),
        ];
        values.into_iter().for_each(|(len, value)| assert_eq!(hash(&some(len), 0x1234_5678), value, "{len} bytes"));
    }
}
