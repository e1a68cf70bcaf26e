//! Edited images as they are, or any bytes at all, opened and worked with:
//! `cargo +nightly fuzz run open_plain -- -malloc_limit_mb=64 -rss_limit_mb=512 -timeout=10`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| snapdisk_fuzz::open_plain(input));
