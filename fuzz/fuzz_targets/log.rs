//! Groups, records and operations of the log that say anything.
#![no_main]

snapdisk_fuzz::target!(log);
