//! Edited images whose checksums are all right again, opened and worked with.
#![no_main]

snapdisk_fuzz::target!(open_resealed);
