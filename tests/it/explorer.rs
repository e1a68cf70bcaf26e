//! The crash explorer: a workload, a crash anywhere, recovery, more work, a second crash; and the contract after each.
//!
//! What a crash may leave is the simulator's business ([`snapdisk::io::sim`]). What must come out is this:
//! 1. the image opens; 2. everything reads without an error; 3. the whole store is one of the states of the model
//!    between the newest acknowledged and the newest issued; 4. the checker is content; 5. in one of eight states more
//!    operations follow and a second crash; 6. so it goes for crashes inside recovery, for a process that dies before
//!    the power fails, for a failed sync; 7. the live view is the model's after every operation.
//!
//! A violation is told with one line that repeats it (`SNAPDISK_CASE='…'`). `SNAPDISK_STATES` sets how many different
//! states [`random`] has to try, `SNAPDISK_SEED` where it starts.

pub(crate) mod case;
mod lives;
pub(crate) mod search;
mod sizes;

use std::{cell::RefCell, time::Instant};

use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, FileFailurePersistence, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner},
};
use snapdisk::io::sim::{Call, Caps, EIO, Fault, How};

use crate::{
    model::Op,
    settings::{count, number, parsed, switch},
};
use case::{Case, cases, many_lives, steered_cases};
use search::{Search, Tally, sequences};

fn plain(seed: u64, ops: Vec<Op>) -> Case {
    Case { more: vec![Op::Write { v: 0, b: 0, n: 1, t: 3 }, Op::Flush {}], ..Case::of(seed, 0, ops) }
}

pub(crate) fn runner(seed: u64, batch: u32, persist: bool) -> TestRunner {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let kept: Option<Box<dyn proptest::test_runner::FailurePersistence>> = match persist {
        true => Some(Box::new(FileFailurePersistence::Direct("tests/it/explorer/regressions.txt"))),
        false => None,
    };
    let config = Config { cases: batch, failure_persistence: kept, max_shrink_iters: 4000, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

/// Random cases until there are `target` unique states; the first violation comes shrunk.
fn search_randomly(search: Search, seed: u64, target: u64) -> Result<Search, String> {
    let cell = RefCell::new(search);
    let shrinking = RefCell::new(None::<String>);
    let mut batch = 0;
    while cell.borrow().tally.unique < target {
        let result = runner(seed << 32 | batch, 64, batch == 0).run(&cases(), |case| {
            let mut search = cell.borrow_mut();
            let result = match shrinking.borrow().is_some() {
                // What has been seen must be seen again.
                true => search.afresh().run(&case).map(drop),
                false if search.tally.unique >= target => Ok(()),
                false => search.run(&case).map(drop),
            };
            result.map_err(|e| {
                *shrinking.borrow_mut() = Some(e.clone());
                TestCaseError::fail(e)
            })
        });
        match result {
            Ok(()) => batch += 1,
            Err(TestError::Fail(_, case)) => {
                let what = cell.borrow().afresh().run(&case).err().or(shrinking.take()).unwrap_or_default();
                return Err(what);
            }
            Err(e) => return Err(e.to_string()),
        }
    }
    Ok(cell.into_inner())
}

#[test]
fn random() {
    let target = count("SNAPDISK_STATES", 100_000);
    let seed = number("SNAPDISK_SEED", 1);
    let began = Clock::start();
    let mut search = Search::new();
    // Without the guard the oracle stands alone, which is how to see what it is worth.
    search.guard = switch("SNAPDISK_GUARD", true);
    let search = search_randomly(search, seed, target).unwrap_or_else(|e| panic!("{e}"));
    println!("explorer: seed {seed}, {}, {}", search.tally, rate(&search.tally, &began));
    assert!(search.tally.unique >= target);
    for (kind, n) in search.tally.kinds() {
        assert!(n > 0, "no state of the kind {kind}");
    }
}

/// What a core did of it in a second. The explorer is one thread; where the host does not tell what time that has had, the clock says.
fn rate(tally: &Tally, began: &Clock) -> String {
    format!("{:.0} states/s a core", tally.unique as f64 / began.elapsed().max(0.001))
}

/// The time that a thread has spent.
struct Clock(Instant, Option<f64>);

impl Clock {
    fn start() -> Clock {
        Clock(Instant::now(), Clock::on_a_core())
    }
    fn on_a_core() -> Option<f64> {
        let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        Some(stat.split(' ').next()?.parse::<f64>().ok()? / 1e9)
    }
    fn elapsed(&self) -> f64 {
        match (self.1, Clock::on_a_core()) {
            (Some(then), Some(now)) => now - then,
            _ => self.0.elapsed().as_secs_f64(),
        }
    }
}

/// Every two operations, the second one in the middle of a checkpoint or flush that follows the first.
fn besides() -> impl Iterator<Item = Case> {
    sequences(2).flat_map(|pair| {
        let besides =
            (0..10).map(|at| Op::BesideCheckpoint { at, n: 1 }).chain((0..3).map(|at| Op::BesideFlush { at, n: 1 }));
        besides.flat_map(move |beside| {
            let ops = vec![Op::Write { v: 0, b: 2, n: 0, t: 3 }, pair[0], beside, pair[1], Op::Flush {}];
            [5, 6].map(|size| Case { size, ..plain(2, ops.clone()) })
        })
    })
}

/// Every sequence of up to three operations; of two, with each of their syncs failing; of two, one in the
/// middle of a checkpoint or flush that follows the other; and of two, a crash, and two more.
#[test]
fn exhaustive() {
    let began = Clock::start();
    let mut search = Search::new();
    search.caps = [Caps::FULL, Caps::FEW];
    search.guard = true;
    search.deep = 64;
    for len in 1..=count("SNAPDISK_LENGTH", 3) as u32 {
        for mut ops in sequences(len) {
            ops.push(Op::Flush {});
            // Data at its place, and in the log.
            for size in [0, 1] {
                search.run(&Case { size, ..plain(0, ops.clone()) }).unwrap_or_else(|e| panic!("{e}"));
            }
        }
    }
    for ops in (1..=2).flat_map(sequences) {
        for (nth, size) in (0..8).flat_map(|nth| [(nth, 0), (nth, 1)]) {
            let fault = Some(Fault { call: Call::Sync, nth, how: How::Errno(EIO), sticky: false });
            let case = Case { fault, size, ..plain(1, ops.clone()) };
            if !search.run(&case).unwrap_or_else(|e| panic!("{e}")) {
                break;
            }
        }
    }
    for case in besides() {
        search.run(&case).unwrap_or_else(|e| panic!("{e}"));
    }
    let seconds: Vec<Vec<Op>> = sequences(2).collect();
    for ops in sequences(2) {
        for size in [0, 1] {
            search.pairs(&Case { size, ..plain(0, ops.clone()) }, &seconds).unwrap_or_else(|e| panic!("{e}"));
        }
    }
    println!("exhaustive: {}, {}", search.tally, rate(&search.tally, &began));
}

/// Cases that found something, kept in the words in which it was told.
const ONCE: [&str; 4] = [
    // The rest of a superblock was written, of which a short synced write had made the beginning durable.
    "seed=5401156644095 size=4 fault=Write.10.Short.once ops=W1.0.0.3,B2.23.119.3,C,O more=W0.0.0.3",
    // A group that carries its data was synced alone, under a length of the file that no sync had covered.
    "seed=13347327462634 size=5 ops=U0.0.3 more=W0.0.0.3",
    // Fresh space was written again from its begin, in the same window, after the host had no space half-way.
    "seed=17215967276177 size=1 later=Write.12.Errno(28).once ops=E1,C more=TV0.0,O,L0.0",
    // A host that was full after the crash: the replay asked it for more regions at a time than the live run had.
    "seed=12000934024752 size=2 ops=T0.13.20,W0.16.0.3,W0.19.0.3,W0.22.0.3,W0.1.0.3,W0.4.0.3,W0.7.0.3,W0.10.0.3,W0.13.0.3,\
     W0.16.0.3,W0.19.0.3,W0.22.0.3,W0.1.0.3,W0.4.0.3,W0.7.0.3,W0.10.0.3,W0.13.0.3,W0.16.0.3,W0.19.0.3,W1.12.8.3,D2,S1,W0.10.0.3,\
     W0.17.0.3,W0.0.0.3,W0.7.0.3,W0.14.0.3,W0.21.0.3,W0.4.0.3,W0.11.0.3,W0.18.0.3,W0.1.0.3,W0.8.0.3,W0.15.0.3,W0.22.0.3,W0.5.0.3,\
     W0.12.0.3,W0.19.0.3,W0.2.0.3,W0.9.0.3,W0.16.0.3,W0.23.0.3,W0.6.0.3,W0.13.0.3,W0.20.0.3 more=",
];

#[test]
fn what_once_failed() {
    for text in ONCE {
        let mut search = Search::new();
        search.guard = true;
        search.run(&Case::parse(text).expect("a case")).unwrap_or_else(|e| panic!("{e}"));
    }
}

/// Repeats the case in `SNAPDISK_CASE`.
#[test]
fn replay() {
    let form = "a case: seed=N size=N [fault=…] [later=…] ops=W0.1.2.3,F more=C";
    let Some(case) = parsed("SNAPDISK_CASE", form, Case::parse) else { return };
    let mut search = Search::new();
    (search.guard, search.verbose) = (true, true);
    let result = search.run(&case);
    println!("{}", search.tally);
    let _ = result.unwrap_or_else(|e| panic!("{e}"));
}

/// Cases beside each of a hunt's that run without a crash: what that has no part in shows so too, and costs little.
const WITHOUT: usize = 4;

/// Short sequences, then random cases, steered ones, many lives and operations beside others in turn, without the guard unless `SNAPDISK_GUARD` is 1:
/// what `tests/mutants/run.sh` runs on an engine with a planted bug. Fails at the first violation and says after how many states; passes
/// after `SNAPDISK_STATES` of them.
#[test]
#[ignore = "tests/mutants/run.sh runs it"]
fn hunt() {
    fn draw(cases: &impl Strategy<Value = Case>, runner: &mut TestRunner) -> Case {
        cases.new_tree(runner).expect("a case").current()
    }
    let limit = count("SNAPDISK_STATES", 100_000);
    let began = Clock::start();
    let mut search = Search::new();
    (search.limit, search.guard) = (limit, switch("SNAPDISK_GUARD", false));
    let mut short = (1..=2).flat_map(sequences).map(|mut ops| {
        ops.push(Op::Flush {});
        plain(0, ops)
    });
    let mut runner = runner(number("SNAPDISK_SEED", 1), 1, false);
    let (random, steered, lives) = (cases(), steered_cases(), many_lives());
    // Spread, so that each part of them holds a bit of everything.
    let besides: Vec<Case> = besides().collect();
    let mut besides = (0..besides.len()).map(|i| besides[i * 613 % besides.len()].clone());
    let mut turn = 0;
    while search.tally.unique < limit {
        let case = short.next().unwrap_or_else(|| {
            turn += 1;
            // Of each crash point of a long history little: there are many.
            search.caps[0] = if turn % 6 < 2 { Caps::FEW } else { Caps::SOME };
            match turn % 6 {
                0 | 1 => draw(&steered, &mut runner),
                2 => besides.next().unwrap_or_else(|| draw(&random, &mut runner)),
                3 => draw(&lives, &mut runner),
                _ => draw(&random, &mut runner),
            }
        });
        let mut outcome = (0..WITHOUT).try_for_each(|_| search.agree(&draw(&steered, &mut runner)));
        outcome = outcome.and_then(|()| search.run(&case).map(drop));
        if let Err(e) = outcome {
            panic!("violation after {} states: {e}", search.tally.unique);
        }
    }
    println!("hunt: {}, {}", search.tally, rate(&search.tally, &began));
}
