//! Nodes of extent trees that say anything.
#![no_main]

snapdisk_fuzz::target!(nodes);
