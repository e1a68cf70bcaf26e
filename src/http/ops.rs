//! Health and metrics for the operator, on a listener of their own: the tenants' port has none of them.

use super::server::Shared;
use std::{collections::BTreeMap, fmt::Write as _, sync::atomic::Ordering::Relaxed, time::Duration};

/// Upper bounds of the histogram's buckets, in microseconds.
const BOUNDS: [u64; 8] = [1_000, 5_000, 25_000, 100_000, 500_000, 2_500_000, 10_000_000, u64::MAX];

/// Counts and durations of the answers of actions, by action and code.
#[derive(Default)]
pub(super) struct Calls {
    codes: BTreeMap<(String, u16), u64>,
    times: BTreeMap<String, ([u64; BOUNDS.len()], u64)>,
}

impl Calls {
    pub(super) fn count(&mut self, action: &str, code: u16, took: Duration) {
        // Only names of existing actions are used: any other could be anything.
        let known = crate::api::ACTIONS.contains(&action);
        let action = if known { action } else { "other" }.to_owned();
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        *self.codes.entry((action.clone(), code)).or_default() += 1;
        let (buckets, sum) = self.times.entry(action).or_default();
        let bucket = BOUNDS.iter().position(|&bound| micros <= bound).unwrap_or(BOUNDS.len() - 1);
        buckets[bucket] += 1;
        *sum = sum.saturating_add(micros);
    }
    fn write(&self, out: &mut String) {
        head(out, "snapdisk_calls_total", "counter", "Answers by action and RetCode.");
        for ((action, code), n) in &self.codes {
            let _ = writeln!(out, "snapdisk_calls_total{{action=\"{action}\",code=\"{code}\"}} {n}");
        }
        head(out, "snapdisk_call_seconds", "histogram", "Time from an action's begin to its answer.");
        for (action, (buckets, sum)) in &self.times {
            let mut all = 0;
            for (n, &bound) in buckets.iter().zip(&BOUNDS) {
                all += n;
                let le = if bound == u64::MAX { "+Inf".to_owned() } else { (bound as f64 / 1e6).to_string() };
                let _ = writeln!(out, "snapdisk_call_seconds_bucket{{action=\"{action}\",le=\"{le}\"}} {all}");
            }
            let _ = writeln!(out, "snapdisk_call_seconds_sum{{action=\"{action}\"}} {}", *sum as f64 / 1e6);
            let _ = writeln!(out, "snapdisk_call_seconds_count{{action=\"{action}\"}} {all}");
        }
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
}

/// All metrics, in the text format of Prometheus.
pub(super) fn metrics(shared: &Shared) -> String {
    let stats = shared.service.stats();
    let mut out = String::new();
    let mut put = |name: &str, kind: &str, help: &str, value: u64| {
        head(&mut out, name, kind, help);
        let _ = writeln!(out, "{name} {value}");
    };
    put("snapdisk_disks", "gauge", "Disks.", stats.disks);
    put("snapdisk_list_entries_total", "counter", "Index entries that lists looked at.", stats.visited);
    put("snapdisk_connections_total", "counter", "Connections accepted.", shared.accepted.load(Relaxed));
    let refused = "Connections closed at once: of a peer with too many, or because all places were taken.";
    put("snapdisk_connections_refused_total", "counter", refused, shared.refused.load(Relaxed));
    put("snapdisk_log_lines_lost_total", "counter", "Lines that the log could not take.", shared.log.lost());
    let stopped = "1 once a call met a store that has stopped.";
    put("snapdisk_store_stopped", "gauge", stopped, shared.broken.load(Relaxed).into());
    let store = shared.service.store();
    if let Ok(space) = store.counters() {
        let used = space.image_bytes.saturating_sub(space.free_bytes + space.waiting_bytes + space.returned_bytes);
        put("snapdisk_stored_bytes", "gauge", "Bytes that disks, snapshots and their trees take.", used);
        put("snapdisk_image_bytes", "gauge", "Bytes that the image has laid out.", space.image_bytes);
        put("snapdisk_free_bytes", "gauge", "Bytes free to allocate now.", space.free_bytes);
        put("snapdisk_reclaim_pending", "gauge", "Subtrees that wait to be reclaimed.", space.reclaim_entries);
    }
    head(&mut out, "snapdisk_snapshots", "gauge", "Snapshots by state.");
    for (state, n) in stats.by_state() {
        let _ = writeln!(out, "snapdisk_snapshots{{state=\"{state}\"}} {n}");
    }
    let failed =
        [("background", store.background_error().is_some()), ("schedule", shared.service.schedule_fault().is_some())];
    head(
        &mut out,
        "snapdisk_failed",
        "gauge",
        "1 if background work, or the last run of the schedules, failed; the log has why.",
    );
    for (of, failed) in failed {
        let _ = writeln!(out, "snapdisk_failed{{of=\"{of}\"}} {}", u8::from(failed));
    }
    shared.calls.lock().write(&mut out);
    out
}
