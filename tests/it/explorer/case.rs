//! One case: a workload, what goes wrong in it, and what is done after the crash. As a value and as one line of text.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, OnceLock},
};

use proptest::prelude::*;
use snapdisk::{
    Options,
    io::sim::{Call, EINTR, EIO, ENOSPC, Fault, How, Image, SimBackend, SimHost},
};

pub(crate) use super::sizes::SIZES;
use super::{
    lives::LIVES,
    sizes::{SMALL, Size, size_of},
};
use crate::model::{
    Model, Object, Op, observe,
    op::{parse_all, texts, workload},
    run::Setup,
    steer::{failing, long, steered},
};

/// A case; see the [module](self).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Case {
    /// What everything random follows from.
    pub(crate) seed: u64,
    /// Which sizes.
    pub(crate) size: u8,
    /// What fails during the workload.
    pub(crate) fault: Option<Fault>,
    /// What fails after the crash, in recovery or later.
    pub(crate) later: Option<Fault>,
    /// The workload.
    pub(crate) ops: Vec<Op>,
    /// What goes on after the crash, until the second one.
    pub(crate) more: Vec<Op>,
    /// So many lives share the workload, one after the other; 0: one has it all, and every crash of it is tried.
    pub(crate) lives: u8,
}

/// Sizes as [`Case::size`] numbers them: options, whether space is short, blocks of the first volumes.
pub(crate) fn size(n: u8) -> (Options, bool, &'static [u64]) {
    let size = size_of(n);
    (size.options, size.tight, size.volumes)
}

/// The closed image that cases of a size start from, and its contents.
pub(crate) fn start(n: u8) -> (Image, Model) {
    static MADE: OnceLock<Mutex<HashMap<u8, (Image, Model)>>> = OnceLock::new();
    let n = n % SIZES;
    let mut made = MADE.get_or_init(Mutex::default).lock().unwrap_or_else(|e| e.into_inner());
    made.entry(n)
        .or_insert_with(|| {
            let (options, _, volumes) = size(n);
            let disk = Arc::new(SimBackend::new());
            let store = options.create_on(disk.clone(), Arc::new(SimHost::new(1))).expect("creating an image");
            let mut model = Model::default();
            for (i, blocks) in volumes.iter().enumerate() {
                let name = format!("v0{i}");
                store.create_volume(&name, blocks * 4096).expect("creating a volume");
                model.volumes.insert(name, Arc::new(Object::new(blocks * 4096)));
            }
            let seen = observe(&store).map_err(|e| e.1).expect("reading");
            assert_eq!(seen.hash, model.hash(), "a new image");
            model.learn(&seen).expect("ids");
            store.close().expect("closing");
            (disk.medium().latest(), model)
        })
        .clone()
}

impl Case {
    /// A case in which nothing fails.
    pub(crate) fn of(seed: u64, size: u8, ops: Vec<Op>) -> Case {
        Case { seed, size, fault: None, later: None, ops, more: Vec::new(), lives: 0 }
    }

    /// How its images are opened.
    pub(crate) fn setup(&self, faults: bool) -> Setup {
        let Size { options, tight, guaranteed, weak, spills, .. } = size_of(self.size);
        // A host that syncs ranges, and one that does not.
        let ranges = !self.seed.is_multiple_of(4);
        Setup { options, seed: self.seed, tight, faults, guaranteed, weak, ranges, spills }
    }

    /// The case of its text.
    pub(crate) fn parse(text: &str) -> Option<Case> {
        let mut case = Case::of(0, 0, Vec::new());
        for part in text.split_whitespace() {
            let (key, value) = part.split_once('=')?;
            match key {
                "seed" => case.seed = value.parse().ok()?,
                "size" => case.size = value.parse().ok()?,
                "fault" => case.fault = Some(parse_fault(value)?),
                "later" => case.later = Some(parse_fault(value)?),
                "ops" => case.ops = parse_all(value)?,
                "more" => case.more = parse_all(value)?,
                "lives" => case.lives = value.parse().ok()?,
                _ => return None,
            }
        }
        (!case.ops.is_empty()).then_some(case)
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed={} size={}", self.seed, self.size)?;
        for (name, fault) in [("fault", &self.fault), ("later", &self.later)] {
            if let Some(x) = fault {
                write!(f, " {name}={}", fault_text(x))?;
            }
        }
        if self.lives > 0 {
            write!(f, " lives={}", self.lives)?;
        }
        write!(f, " ops={} more={}", texts(&self.ops), texts(&self.more))
    }
}

const CALLS: [Call; 8] =
    [Call::Sync, Call::Write, Call::Reserve, Call::Push, Call::SetLen, Call::Punch, Call::Read, Call::ReadCold];
const HOWS: [How; 5] = [How::Errno(EIO), How::Errno(ENOSPC), How::Short, How::Errno(EINTR), How::Nothing];

/// A fault as [`parse_fault`] reads it.
pub(crate) fn fault_text(x: &Fault) -> String {
    format!("{:?}.{}.{:?}.{}", x.call, x.nth, x.how, if x.sticky { "on" } else { "once" })
}

/// The fault of its text.
pub(crate) fn parse_fault(text: &str) -> Option<Fault> {
    let mut parts = text.split('.');
    let (call, nth, how, sticky) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    Some(Fault {
        call: CALLS.into_iter().find(|c| format!("{c:?}") == call)?,
        nth: nth.parse().ok()?,
        how: HOWS.into_iter().find(|h| format!("{h:?}") == how)?,
        sticky: match sticky {
            "on" => true,
            "once" => false,
            _ => return None,
        },
    })
}

/// Failures that the contract has an answer to. A write of nothing or an interrupted one belongs to writes alone.
fn fault() -> impl Strategy<Value = Fault> {
    let call = prop_oneof![
        8 => Just(Call::Sync), 3 => Just(Call::Write), 3 => Just(Call::Reserve), 1 => Just(Call::Push),
        1 => Just(Call::SetLen), 1 => Just(Call::Punch), 1 => Just(Call::Read), 1 => Just(Call::ReadCold),
    ];
    (call, 0u64..48, 0u8..8, prop::bool::weighted(0.25)).prop_map(|(call, nth, how, sticky)| {
        let nth = match call {
            Call::Sync | Call::Push => nth % 8,
            Call::Reserve | Call::SetLen | Call::Punch => nth % 3,
            Call::Write => nth % 24,
            Call::Read | Call::ReadCold => nth,
        };
        let how = match (call, how) {
            (Call::Write, 0..2) => How::Short,
            (Call::Write, 2) => How::Errno(EINTR),
            (Call::Read | Call::ReadCold, 0..4) => How::Short,
            (Call::Read | Call::ReadCold, _) => How::Errno(EIO),
            (Call::Reserve | Call::SetLen, 0..6) => How::Errno(ENOSPC),
            (_, 3) => How::Errno(ENOSPC),
            _ => How::Errno(EIO),
        };
        // An interrupted call that is never let through has no answer.
        let sticky = sticky && matches!(how, How::Errno(EIO | ENOSPC));
        Fault { call, nth, how, sticky }
    })
}

/// Random cases: mostly any operations on a small image, now and then on a large one, and steered ones.
pub(crate) fn cases() -> impl Strategy<Value = Case> {
    let small = (workload(41), 0..SMALL);
    // Some of what is written there is longer than an extent.
    let long = |op| match op {
        Op::Write { v, b, n, t } if n > 3 => Op::Write { v, b, n: n * 30, t },
        other => other,
    };
    let large = (workload(20).prop_map(move |ops| ops.into_iter().map(long).collect()), SMALL..SIZES);
    let what = prop_oneof![24 => small, 1 => large, 5 => steered()];
    let faults = (prop::option::weighted(0.45, fault()), prop::option::weighted(0.25, fault()));
    let lives = prop_oneof![9 => Just(0), 1 => 2..=LIVES];
    (what, workload(9), faults, lives, any::<u64>().no_shrink()).prop_map(|((ops, size), more, faults, lives, seed)| {
        Case { fault: faults.0, later: faults.1, more, lives, ..Case::of(seed >> 20, size, ops) }
    })
}

/// Steered cases. In one of five a write, push or sync fails.
pub(crate) fn steered_cases() -> impl Strategy<Value = Case> {
    let call = prop_oneof![2 => Just(Call::Write), 1 => Just(Call::Push), 2 => Just(Call::Sync)];
    let fault = (call, 0u64..12).prop_map(|(call, nth)| Fault { call, nth, how: How::Errno(EIO), sticky: false });
    let what = prop_oneof![
        4 => (steered(), Just(None)),
        1 => (failing(), fault.prop_map(Some)),
    ];
    (what, workload(9), any::<u64>().no_shrink()).prop_map(|(((ops, size), fault), more, seed)| Case {
        fault,
        more,
        ..Case::of(seed >> 20, size, ops)
    })
}

/// Cases of many lives, which write much of the log or do anything.
pub(crate) fn many_lives() -> impl Strategy<Value = Case> {
    let what = prop_oneof![1 => long(), 1 => (workload(41), 0..SMALL)];
    (what, LIVES / 2..=LIVES, any::<u64>().no_shrink())
        .prop_map(|((ops, size), lives, seed)| Case { lives, ..Case::of(seed >> 20, size, ops) })
}

#[test]
fn cases_are_read_back() {
    let text = "seed=5 size=2 fault=Sync.3.Errno(5).once later=Write.0.Short.on lives=7 ops=W0.1.2.3,F more=C";
    assert_eq!(Case::parse(text).unwrap().to_string(), text);
    for text in ["", "seed=5", "seed=5 ops=W0", "ops=F fault=Sync.3.Errno(5).twice", "ops=F size=x", "ops=F=F", "ops"] {
        assert_eq!(Case::parse(text), None, "{text}");
    }
}
