//! Store and model agree over long workloads in which nothing fails.

use std::sync::Arc;

use proptest::strategy::{Strategy, ValueTree};
use snapdisk::io::sim::SimBackend;

use super::{
    history::History,
    op::{texts, workload},
    run::Run,
};
use crate::explorer::{
    case::{Case, SIZES, start},
    number, runner,
    search::quietly,
};

#[test]
fn store_and_model_agree() {
    let count = number("SNAPDISK_MODEL_CASES", 1_000);
    let mut runner = runner(number("SNAPDISK_SEED", 1), 1, false);
    let mut failures = Vec::new();
    for n in 0..count {
        let ops = workload(60).new_tree(&mut runner).expect("a workload").current();
        let case = Case { seed: n, size: n as u8 % SIZES, fault: None, later: None, ops, more: Vec::new() };
        let (image, model) = start(case.size);
        let result = quietly(|| {
            let mut run = Run::open(Arc::new(SimBackend::of(image)), History::of(model), &case.setup(false), 0)?;
            run.steps(&case.ops)?;
            run.check()?;
            run.settle_down()
        });
        if let Err(e) = result {
            failures.push(format!("{e}\n  size {} ops {}", case.size, texts(&case.ops)));
        }
        assert!(failures.len() < 8, "{}", failures.join("\n"));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
