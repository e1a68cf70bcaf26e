//! Walks over everything that an image holds at one instant: the checker, the scrub, the figures of single volumes and snapshots.

mod capture;
mod check;
mod names;
#[cfg(feature = "sim")]
mod protected;
mod scrub;
mod usage;

pub(crate) use capture::Capture;
pub(crate) use check::check;
pub use check::{Finding, FindingKind, Progress, Report};
#[cfg(feature = "sim")]
#[allow(unreachable_pub, reason = "public through `sim_support`")]
pub use protected::{Protected, protected};
pub(crate) use scrub::scrub;
pub use scrub::{DAMAGED, Damage, ScrubReport};
pub use usage::{SnapshotUsage, Usage, UsageReport, VolumeUsage};
pub(crate) use usage::{usage, usage_all};
