//! Nodes and records of the catalog that say anything.
#![no_main]

snapdisk_fuzz::target!(catalog);
