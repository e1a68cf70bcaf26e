//! Tags: which ones an operation sets, and a number that tells them apart.

use std::collections::BTreeMap;

use twox_hash::XxHash3_64;

/// Tags that a store can have: none for `n` 0; up to four; for large `n` as many bytes as several records of the catalog take, and from
/// 250 on as several pages of the log do. `serial` makes them differ from all others.
pub(crate) fn of(n: u8, serial: u32) -> BTreeMap<String, String> {
    let value = match n {
        0 => return BTreeMap::new(),
        250.. => 3900,
        220.. => 700,
        _ => usize::from(n % 40),
    };
    let text = |i: u8| format!("{serial:08x}{i}").chars().cycle().take(9 + value).collect();
    (0..1 + n % 4).map(|i| (format!("k{}", i + n % 3), text(i))).collect()
}

/// A number that tells tags apart; 0 for none.
pub(crate) fn hash(tags: &BTreeMap<String, String>) -> u64 {
    tags.iter().fold(0, |sum, (k, v)| {
        XxHash3_64::oneshot_with_seed(sum, k.as_bytes()) ^ XxHash3_64::oneshot_with_seed(!sum, v.as_bytes())
    })
}
