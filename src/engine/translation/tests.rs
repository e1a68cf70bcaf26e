//! What the translation cache says, and that it never says what is no longer so.

use super::*;
use proptest::prelude::*;
use std::collections::HashMap;

const VOLUME: Target = Target::Volume(7);
const SIZE: u64 = 1 << 40;

fn at(block: u64) -> Option<Place> {
    Some(Some((Block(block), block as u32 ^ 5)))
}

fn found(cache: &Translations, view: &View, from: u64, to: u64) -> Option<Vec<Place>> {
    let found = cache.find(view, from * BLOCK, (to - from) * BLOCK)?;
    assert!(found.holds());
    Some(found.blocks().map(|(_, place)| place).collect())
}

const BLOCK: u64 = crate::units::BLOCK_BYTES;

#[test]
fn words_say_where_a_block_lies() {
    for place in [None, Some((Block(1), 0)), Some((Block(9), u32::MAX)), Some((Block(u64::from(u32::MAX) - 1), 3))] {
        assert_ne!(word(place), UNKNOWN);
        assert_eq!(super::place(word(place)), place);
    }
    // 16 TiB and beyond.
    assert_eq!(word(Some((Block(u32::MAX.into()), u32::MAX))), UNKNOWN);
    assert_eq!(word(Some((Block(1 << 40), 1))), UNKNOWN);
}

#[test]
fn a_read_past_the_end_or_of_nothing_is_not_answered() {
    let cache = Translations::new(1 << 20);
    let view = cache.view(VOLUME);
    cache.learn(&view, 3 * BLOCK + 512, 0, [at(4), at(5), at(6), at(7)]);
    assert!(cache.find(&view, 3 * BLOCK, 512).is_some());
    for (offset, len) in [(0, 0), (3 * BLOCK, 513), (3 * BLOCK + 512, 1), (u64::MAX, 1), (1, u64::MAX)] {
        assert!(cache.find(&view, offset, len).is_none(), "{offset} {len}");
    }
}

/// What was found does not hold once any of its blocks was changed, or entered anew elsewhere, or its page taken.
#[test]
fn what_changes_between_both_looks_shows() {
    let cache = Translations::new(0);
    let view = cache.view(VOLUME);
    let learn = |block: u64| cache.learn(&view, SIZE, block, [at(block + 1), at(block + 2), None, Some(None)]);
    let changes: [&dyn Fn(); 7] = [
        &|| cache.forget(VOLUME, 0, 1),
        &|| cache.forget(VOLUME, 1, 2),
        &|| cache.forget(VOLUME, 1, LONG + 1),
        &|| cache.forget_all(VOLUME),
        &|| cache.close(),
        &|| cache.learn(&view, SIZE, 1, [at(99)]),
        // Other pages, until this one has passed to another and back again.
        &|| {
            (1..=3 * WAYS as u64).for_each(|page| learn(page * PAGE));
            learn(0);
        },
    ];
    for (i, change) in changes.into_iter().enumerate() {
        learn(0);
        let found = cache.find(&view, 0, 2 * BLOCK).expect("just entered");
        cache.forget(VOLUME, 2, 9);
        cache.forget(Target::Snapshot(7), 0, 2);
        cache.forget_snapshots();
        assert!(found.holds(), "{i}: nothing of it was changed");
        change();
        assert!(!found.holds(), "{i}");
    }
}

#[test]
fn a_snapshot_is_forgotten_with_all_others() {
    let cache = Translations::new(1 << 20);
    let views = [Target::Volume(1), Target::Snapshot(1), Target::Snapshot(2)].map(|t| cache.view(t));
    views.iter().for_each(|view| cache.learn(view, SIZE, 0, [at(1)]));
    cache.forget_snapshots();
    assert_eq!(views.each_ref().map(|view| cache.find(view, 0, 1).is_some()), [true, false, false]);
}

#[test]
fn views_without_a_handle_do_not_pile_up() {
    let cache = Translations::new(1 << 20);
    let kept: Vec<_> = (0..100).map(|id| cache.view(Target::Snapshot(id))).collect();
    (100..100_000).for_each(|id| drop(cache.view(Target::Snapshot(id))));
    assert!(cache.views.lock().capacity() < 1000);
    for (id, view) in (0..).zip(&kept) {
        assert!(Arc::ptr_eq(view, &cache.view(Target::Snapshot(id))));
    }
}

#[derive(Clone, Debug)]
enum Act {
    Learn(u64, u64),
    Forget(u64, u64),
    ForgetAll,
    Look(u64, u64),
}

fn act() -> impl Strategy<Value = (bool, Act)> {
    // A few pages, more than there is room for, and their edges.
    let block = (0..9u64, 0..8u64).prop_map(|(page, i)| (page * PAGE + PAGE - 4 + i).min(9 * PAGE));
    let act = prop_oneof![
        (block.clone(), 1..6u64).prop_map(|(at, len)| Act::Learn(at, len)),
        (block.clone(), 1..2 * PAGE).prop_map(|(at, len)| Act::Forget(at, len)),
        Just(Act::ForgetAll),
        (block, 1..6u64).prop_map(|(at, len)| Act::Look(at, len)),
    ];
    (any::<bool>(), act)
}

proptest! {
    /// Against a map that never loses anything: the cache may know less, and says nothing else.
    #[test]
    fn it_never_says_what_is_no_longer_so(acts in prop::collection::vec(act(), 1..200)) {
        let cache = Translations::new(0);
        let targets = [VOLUME, Target::Volume(8)];
        let views = targets.map(|target| cache.view(target));
        let mut truth = HashMap::new();
        let mut next = 1;
        for (second, act) in acts {
            let t = usize::from(second);
            match act {
                Act::Learn(first, len) => {
                    let places: Vec<_> = (0..len).map(|i| (next + i, (next + i) % 7 != 0)).collect();
                    next += len;
                    let places = places.into_iter().map(|(p, mapped)| mapped.then_some((Block(p), p as u32)));
                    let places: Vec<_> = places.collect();
                    truth.extend((first..).zip(&places).map(|(block, place)| ((t, block), *place)));
                    cache.learn(&views[t], SIZE, first, places.into_iter().map(Some));
                    // Of several pages, one may have taken the place of another.
                    prop_assert!(found(&cache, &views[t], first + len - 1, first + len).is_some());
                }
                Act::Forget(from, len) => {
                    cache.forget(targets[t], from, from + len);
                    truth.retain(|&(of, block), _| of != t || !(from..from + len).contains(&block));
                }
                Act::ForgetAll => {
                    cache.forget_all(targets[t]);
                    truth.retain(|&(of, _), _| of != t);
                }
                Act::Look(from, len) => {
                    let Some(places) = found(&cache, &views[t], from, from + len) else { continue };
                    for (block, place) in (from..).zip(places) {
                        prop_assert_eq!(truth.get(&(t, block)), Some(&place), "block {}", block);
                    }
                }
            }
        }
    }
}
