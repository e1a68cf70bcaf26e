//! Superblocks that say anything, in files of any length.
#![no_main]

// The log's ring is read as a whole: up to 64 MiB where the file is as long.
snapdisk_fuzz::target!(superblock, 136);
