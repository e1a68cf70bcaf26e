//! Several callers and both background threads, in an order that a seed decides, on a disk that loses power.
//!
//! A case is what each thread does, what fails, and a seed. It runs under the seeded scheduler
//! ([`snapdisk::sim_support::schedule`]), which may switch at every lock and every call of the disk. What must hold:
//! 1. no panic, no deadlock, no run without end, no answer that the case gives no reason for;
//! 2. reads and writes of each sector have an order that agrees with when they began and returned; a snapshot shows one moment of its call;
//! 3. the guard of the simulated disk sees no violation;
//! 4. after a power loss the image opens, its checker is content, everything can be read, and it holds one moment of the
//!    operations that is not before the last flush: none in part, none that was refused;
//! 5. what is closed and opened again is the same.
//!
//! A violation is told with one line that repeats it (`SNAPDISK_SCHEDULE='…'`), shrunk. `SNAPDISK_SCHEDULES` sets how many cases
//! [`random`] runs, `SNAPDISK_SEED` where it starts.

mod case;
mod history;
mod run;

use std::time::Instant;

use crate::{
    explorer::search::quietly,
    settings::{count, number, parsed},
};
use case::Case;

/// One in so many cases is run twice, and must do the same.
const AGAIN: u64 = 50;

/// Runs a case: steps of its schedule, and crash states that were tried.
fn try_case(case: &Case) -> Result<(u64, u64), String> {
    quietly(|| {
        let ran = run::threads(case)?;
        if case.seed.is_multiple_of(AGAIN) {
            let again = run::threads(case)?;
            if again.outcome != ran.outcome || again.events() != ran.events() {
                return Err("not deterministic: the same case gave two traces".to_owned());
            }
        }
        Ok((ran.outcome.steps, ran.reopen(case)?))
    })
}

/// Takes away of a case that fails whatever it fails without.
fn shrunk(mut case: Case, mut why: String) -> (Case, String) {
    let mut left = 300;
    'again: loop {
        for smaller in case.smaller() {
            if left == 0 {
                break 'again;
            }
            left -= 1;
            if let Err(e) = try_case(&smaller) {
                (case, why) = (smaller, e);
                continue 'again;
            }
        }
        break;
    }
    (case, why)
}

fn told(case: &Case, why: &str) -> String {
    format!("{why}\n  SNAPDISK_SCHEDULE='{case}' cargo test --all-features --test it schedule::replay -- --nocapture")
}

/// Random cases; the first that fails comes shrunk.
#[test]
fn random() {
    let (began, cases, seed) = (Instant::now(), count("SNAPDISK_SCHEDULES", 300), number("SNAPDISK_SEED", 1));
    let (mut steps, mut states) = (0, 0);
    for n in 0..cases {
        let case = Case::random((seed << 32) + n);
        match try_case(&case) {
            Ok(done) => (steps, states) = (steps + done.0, states + done.1),
            Err(why) => {
                let (small, why) = shrunk(case.clone(), why);
                panic!("schedule {n}: {case}\n  {}", told(&small, &why));
            }
        }
    }
    let rate = cases as f64 / began.elapsed().as_secs_f64();
    println!("schedules: seed {seed}, {cases} cases, {steps} steps, {states} crash states, {rate:.0} schedules/s");
    assert!(steps > 100 * cases && states > cases);
}

/// One thread writes as a holder, others roll back by force meanwhile: few of the random cases have that.
#[test]
fn holders_are_fenced() {
    for n in 0..count("SNAPDISK_SCHEDULES", 300) {
        let case = Case::fenced((number("SNAPDISK_SEED", 1) << 32) + n);
        try_case(&case).unwrap_or_else(|why| panic!("{}", told(&case, &why)));
    }
}

/// Schedules that found something.
const ONCE: [&str; 1] =
    // A direct write that failed once its data was in place gave its blocks to the next one, in the same window.
    ["seed=7714175075125036591 size=3 by=s8 fault=Read.3.Errno(5).once threads=W8.24||W24.8|W24.4"];

#[test]
fn what_once_failed() {
    for text in ONCE {
        let case = Case::parse(text).expect("a case");
        try_case(&case).unwrap_or_else(|why| panic!("{}", told(&case, &why)));
    }
}

/// Repeats the case in `SNAPDISK_SCHEDULE`.
#[test]
fn replay() {
    let form = "a case: seed=N size=N by=u|sN|pN [fault=…] threads=W0.8,F|R0.8";
    let Some(case) = parsed("SNAPDISK_SCHEDULE", form, Case::parse) else { return };
    match try_case(&case) {
        Ok((steps, states)) => println!("{case}: {steps} steps, {states} crash states, nothing found"),
        Err(why) => panic!("{}", told(&case, &why)),
    }
}
