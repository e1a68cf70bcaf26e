//! Counts and the index over them that say anything.
#![no_main]

snapdisk_fuzz::target!(counts);
