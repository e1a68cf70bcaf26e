//! One case: a workload, what goes wrong in it, and what is done after the crash. As a value and as one line of text.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, OnceLock},
};

use proptest::prelude::*;
use snapdisk::{
    Knobs, Options,
    io::sim::{Call, EINTR, EIO, ENOSPC, Fault, How, Image, SimBackend, SimHost},
};

use crate::model::{
    Model, Object, Op, observe,
    op::{parse_all, texts, workload},
    run::Setup,
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
}

/// How many different sizes there are.
pub(crate) const SIZES: u8 = 9;

/// Sizes as [`Case::size`] numbers them: options, whether space is short, blocks of the first volumes.
pub(crate) fn size(n: u8) -> (Options, bool, &'static [u64]) {
    let (direct, ahead) = ([2, 16, 1][usize::from(n % 3)], [0, 2][usize::from(n % 2)]);
    let knobs = Knobs { fanout: 4, index_fanout: 4, direct, ahead, ..Knobs::default() };
    // Mostly without slack: blocks are used again as soon as they may be.
    let slack = if n % SIZES % 4 == 2 { 100 } else { 0 };
    let options = Options::new().manual_maintenance(true).slack(slack);
    let (knobs, options, tight, volumes): (Knobs, Options, bool, &[u64]) = match n % SIZES {
        0 => (
            Knobs { span: 48, log_pages: 8, reserve: 12, growth: 1, inline: 0, ..knobs },
            options.punch_from(None),
            false,
            &[6],
        ),
        1 => (
            Knobs { span: 16, log_pages: 8, reserve: 12, growth: 1, inline: 1, ..knobs },
            options.punch_from(Some(4096)),
            false,
            &[8, 5],
        ),
        2 => (
            Knobs { span: 32, log_pages: 12, reserve: 16, growth: 1, inline: 2, ..knobs },
            options.punch_from(None),
            false,
            &[16],
        ),
        3 => (
            Knobs { span: 24, log_pages: 8, reserve: 12, growth: 2, inline: 0, ..knobs },
            options.punch_from(Some(8192)),
            false,
            &[4, 4, 4],
        ),
        4 => (
            Knobs { span: 32, log_pages: 8, reserve: 16, growth: 1, inline: 1, ..knobs },
            options.punch_from(Some(4096)).max_image_bytes((40 + 3 * 32) << 12),
            true,
            &[12],
        ),
        // Less: recovery must do with what the live run had.
        7 => (
            Knobs { span: 20, log_pages: 8, reserve: 8, growth: 1, inline: 2, ..knobs },
            options.punch_from(None).max_image_bytes((40 + 4 * 20) << 12),
            true,
            &[10],
        ),
        // The reserve is large enough for what must always get through.
        8 => (
            Knobs { fanout: usize::MAX, span: 128, log_pages: 8, reserve: 150, growth: 1, inline: 3, ..knobs },
            options.punch_from(None).max_image_bytes((40 + 2 * 128) << 12),
            true,
            &[10],
        ),
        5 => (
            Knobs { span: 160, log_pages: 64, reserve: 16, growth: 1, inline: 3, ..knobs },
            options.punch_from(Some(8192)),
            false,
            &[12, 3],
        ),
        _ => (
            Knobs { fanout: 8, span: 64, log_pages: 32, reserve: 16, growth: 1, inline: 0, ..knobs },
            options.punch_from(None),
            false,
            &[24],
        ),
    };
    (options.knobs(knobs), tight, volumes)
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
    /// How its images are opened.
    pub(crate) fn setup(&self, faults: bool) -> Setup {
        let (options, tight, _) = size(self.size);
        let guaranteed = self.size % SIZES == 8;
        Setup { options, seed: self.seed, tight, faults, guaranteed, weak: self.size % 3 == 1 }
    }

    /// The case of its text.
    pub(crate) fn parse(text: &str) -> Option<Case> {
        let mut case = Case { seed: 0, size: 0, fault: None, later: None, ops: Vec::new(), more: Vec::new() };
        for part in text.split_whitespace() {
            let (key, value) = part.split_once('=')?;
            match key {
                "seed" => case.seed = value.parse().ok()?,
                "size" => case.size = value.parse().ok()?,
                "fault" => case.fault = Some(parse_fault(value)?),
                "later" => case.later = Some(parse_fault(value)?),
                "ops" => case.ops = parse_all(value)?,
                "more" => case.more = parse_all(value)?,
                _ => return None,
            }
        }
        Some(case)
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
        sticky: sticky == "on",
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

/// Random cases.
pub(crate) fn cases() -> impl Strategy<Value = Case> {
    let faults = (prop::option::weighted(0.45, fault()), prop::option::weighted(0.25, fault()));
    (workload(41), workload(9), faults, 0..SIZES, any::<u64>().no_shrink()).prop_map(
        |(ops, more, faults, size, seed)| Case { seed: seed >> 20, size, fault: faults.0, later: faults.1, ops, more },
    )
}

#[test]
fn cases_are_read_back() {
    let text = "seed=5 size=2 fault=Sync.3.Errno(5).once later=Write.0.Short.on ops=W0.1.2.3,F more=C";
    assert_eq!(Case::parse(text).unwrap().to_string(), text);
}
