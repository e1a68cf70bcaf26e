//! How often each opening came to what, for who wants to know whether inputs get anywhere: printed when SNAPDISK_TALLY is set.

use snapdisk::Result;
use std::{
    collections::BTreeMap,
    sync::{Mutex, OnceLock, PoisonError},
};

/// Kind of opening and outcome, to how often it came to that.
type Counts = BTreeMap<(&'static str, String), u64>;

/// Notes an outcome; after each doubling of their number all are printed.
pub(crate) fn note<T>(mode: &'static str, outcome: &Result<T>) {
    static TALLY: OnceLock<Option<Mutex<(u64, Counts)>>> = OnceLock::new();
    let tally = TALLY.get_or_init(|| std::env::var_os("SNAPDISK_TALLY").map(|_| Mutex::default()));
    let Some(tally) = tally else { return };
    let outcome = match outcome {
        Ok(_) => "opened".to_owned(),
        Err(e) => {
            // Numbers aside, the same.
            let text: String =
                e.to_string().chars().take(100).map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
            let mut words: Vec<&str> = text.split_whitespace().collect();
            words.dedup();
            format!("{:?}: {}", e.kind(), words.join(" "))
        }
    };
    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    let (n, counts) = &mut *tally;
    *n += 1;
    *counts.entry((mode, outcome)).or_default() += 1;
    if n.is_power_of_two() && *n >= 1 << 10 {
        eprintln!("tally of {n} openings");
        for ((mode, outcome), times) in counts.iter().filter(|c| c.1 * 500 >= *n) {
            eprintln!("tally {times:>9} {mode}: {outcome}");
        }
    }
}
