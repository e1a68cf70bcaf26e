//! Edited images whose checksums are all right again, opened and worked with:
//! `cargo +nightly fuzz run open_resealed -- -malloc_limit_mb=64 -rss_limit_mb=512 -timeout=10`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| snapdisk_fuzz::open_resealed(input));
