//! Store and model agree over long workloads in which nothing fails.

use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{TestCaseError, TestError},
};

use super::op::workload;
use crate::{
    explorer::{
        case::{Case, SIZES, steered_cases},
        runner,
        search::Search,
    },
    settings::{count, number},
};

#[test]
fn store_and_model_agree() {
    let cases = count("SNAPDISK_MODEL_CASES", 1_000);
    let mut runner = runner(number("SNAPDISK_SEED", 1), 1, false);
    let mut failures = Vec::new();
    for n in 0..cases {
        let ops = workload(60).new_tree(&mut runner).expect("a workload").current();
        failures.extend(Search::new().agree(&Case::of(n, n as u8 % SIZES, ops)).err());
        assert!(failures.len() < 8, "{}", failures.join("\n"));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The same of workloads that are steered to rare shapes; the first that fails comes shrunk.
#[test]
fn steered_histories_agree() {
    let cases = count("SNAPDISK_MODEL_CASES", 1_000);
    let mut search = Search::new();
    search.guard = true;
    let search = std::cell::RefCell::new(search);
    let result = runner(number("SNAPDISK_SEED", 1), cases as u32, false)
        .run(&steered_cases(), |case| search.borrow_mut().agree(&case).map_err(TestCaseError::fail));
    if let Err(TestError::Fail(_, case)) = result {
        panic!("{}", search.borrow_mut().agree(&case).expect_err("it failed before"));
    }
}
