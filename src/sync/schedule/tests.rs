//! The schedule: what it must find, what it must replay, what it must leave alone.

use super::*;
use crate::sync::{Bell, Mutex, spawn};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

fn plan(seed: u64, choice: Choice) -> Plan {
    Plan { seed, choice, expected: 12, budget: 10_000 }
}

const CHOICES: [Choice; 3] = [Choice::Uniform, Choice::Sticky(4), Choice::Priority(2)];

/// Two threads that read, switch, and write back what they read plus one.
fn lost_update() -> u64 {
    let sum = Arc::new(AtomicU64::new(0));
    let threads: Vec<_> = (0..2)
        .map(|i| {
            let sum = sum.clone();
            let body = move || {
                let read = sum.load(SeqCst);
                point("between");
                sum.store(read + 1, SeqCst);
            };
            spawn(&format!("t{i}"), body).unwrap()
        })
        .collect();
    threads.into_iter().for_each(super::super::Thread::join);
    sum.load(SeqCst)
}

#[test]
fn a_race_is_found_and_replays() {
    for choice in CHOICES {
        let results: Vec<_> = (0..64).map(|seed| run(plan(seed, choice), lost_update)).collect();
        let lost = |r: &(Option<u64>, Outcome)| r.0 == Some(1);
        assert!(results.iter().any(lost) && !results.iter().all(lost), "{choice:?}");
        for (seed, first) in results.iter().enumerate() {
            assert_eq!(run(plan(seed as u64, choice), lost_update), *first, "{choice:?}");
        }
    }
}

/// Two locks in two orders.
fn crossed() {
    let locks = Arc::new((Mutex::new(1u8), Mutex::new(2u16)));
    let other = locks.clone();
    let thread = spawn("other", move || {
        let _b = other.1.lock();
        let _a = other.0.lock();
    })
    .unwrap();
    {
        let _a = locks.0.lock();
        let _b = locks.1.lock();
    }
    thread.join();
}

#[test]
fn a_deadlock_is_told_with_its_locks_and_threads() {
    let told: Vec<String> = (0..64).filter_map(|seed| run(plan(seed, Choice::Uniform), crossed).1.failure).collect();
    assert!(!told.is_empty() && told.len() < 64);
    for text in told {
        for part in ["deadlock", "main waits for u16", "other waits for u8", "tests.rs"] {
            assert!(text.contains(part), "{text}");
        }
    }
}

#[test]
fn a_run_without_end_is_told() {
    let endless = || {
        loop {
            point("again");
        }
    };
    let (_, outcome) = run(plan(1, Choice::Uniform), endless);
    assert!(outcome.failure.is_some_and(|f| f.starts_with("no end after 10000 steps")));
}

#[test]
fn a_panic_is_told() {
    let (_, outcome) = run(plan(1, Choice::Uniform), || {
        let body = || resume_unwind(Box::new("on purpose".to_owned()));
        spawn("breaks", body).unwrap().join();
    });
    assert_eq!(outcome.failure.as_deref(), Some("breaks panicked: on purpose"));
}

#[test]
fn a_bell_wakes_and_time_passes_only_in_waits_with_a_limit() {
    for seed in 0..64 {
        let heard = || {
            let bell = Arc::new(Bell::default());
            let ringer = bell.clone();
            let thread = spawn("ringer", move || ringer.ring()).unwrap();
            let heard = bell.wait(Duration::MAX);
            thread.join();
            (heard, bell.wait(Duration::from_millis(1)))
        };
        let (out, outcome) = run(plan(seed, Choice::Uniform), heard);
        assert_eq!((out, outcome.failure), (Some((true, false)), None));
    }
}

#[test]
fn what_is_unscheduled_is_no_step() {
    let lock = Mutex::new(0);
    *lock.lock() += 1;
    let sum = || (0..100).map(|_| *lock.lock()).sum::<i32>();
    let (out, inside) = run(plan(1, Choice::Uniform), sum);
    assert_eq!(out, Some(100));
    let (out, outside) = run(plan(1, Choice::Uniform), || unscheduled(sum));
    assert_eq!(out, Some(100));
    assert!(inside.steps >= 200 && outside.steps < 10, "{} {}", inside.steps, outside.steps);
}
