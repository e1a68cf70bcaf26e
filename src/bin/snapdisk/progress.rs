//! Progress of long work, on standard error and only when that is a terminal.

use crate::session::Console;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::Duration;

/// A bar that goes away when dropped.
pub(crate) struct Meter(ProgressBar);

impl Meter {
    /// Counts bytes, up to `total` if that is known.
    pub(crate) fn bytes(console: &dyn Console, what: &'static str, total: Option<u64>) -> Meter {
        let template = match total {
            Some(_) => "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}",
            None => "{msg} {spinner} {binary_bytes} {binary_bytes_per_sec}",
        };
        Meter::start(console, what, total, template)
    }
    /// Counts steps.
    pub(crate) fn steps(console: &dyn Console, what: &'static str) -> Meter {
        Meter::start(console, what, Some(0), "{msg} {wide_bar} {percent}% {eta}")
    }
    /// Says that something is under way, no more.
    pub(crate) fn wait(console: &dyn Console, what: &'static str) -> Meter {
        let meter = Meter::start(console, what, None, "{msg} {spinner} {elapsed}");
        meter.0.enable_steady_tick(Duration::from_millis(100));
        meter
    }
    fn start(console: &dyn Console, what: &'static str, total: Option<u64>, template: &str) -> Meter {
        let target = if console.has_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(total, target);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what);
        Meter(bar)
    }
    pub(crate) fn set(&self, done: u64) {
        self.0.set_position(done);
    }
    pub(crate) fn of(&self, done: u64, total: u64) {
        self.0.set_length(total);
        self.0.set_position(done);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
