//! Hints to the processor, which change nothing but how soon something is there.
#![allow(unsafe_code, reason = "the instruction takes a pointer")]

/// Has the processor fetch an item, if there is such a one, while it goes on with something else.
#[inline]
pub(crate) fn prefetch<T>(items: &[T], i: usize) {
    if let Some(item) = items.get(i) {
        fetch(std::ptr::from_ref(item).cast());
    }
}

/// Bytes of a cache line.
const LINE: usize = 64;

/// Has the processor fetch `len` bytes from `at` on, wherever that is.
#[inline]
pub(crate) fn prefetch_bytes(at: *const u8, len: usize) {
    (0..len).step_by(LINE).for_each(|i| fetch(at.wrapping_add(i)));
}

#[inline]
fn fetch(at: *const u8) {
    // SAFETY: a prefetch reads and writes nothing as far as the program can tell, and no address makes it fault. The instruction is
    // part of every x86-64 processor.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}
