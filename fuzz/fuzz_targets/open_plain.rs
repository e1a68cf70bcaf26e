//! Edited images as they are, or any bytes at all, opened and worked with.
#![no_main]

snapdisk_fuzz::target!(open_plain);
