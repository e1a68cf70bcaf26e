//! What the tour tells: each step with its time and space, each proof, a verdict.

use crate::{
    failure::{At, DAMAGE, Failure, Outcome},
    text::{self, bytes},
};
use serde_json::{Value, json};
use snapdisk::Store;
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, Instant},
};

pub(crate) struct Report {
    as_json: bool,
    begun: Instant,
    last: Instant,
    /// Bytes in use after the last step.
    used: u64,
    steps: Vec<Value>,
    proofs: Vec<Value>,
    failed: usize,
    image: Value,
}

impl Report {
    pub(crate) fn new(as_json: bool) -> Report {
        let now = Instant::now();
        let (steps, proofs) = (Vec::new(), Vec::new());
        Report { as_json, begun: now, last: now, used: 0, steps, proofs, failed: 0, image: Value::Null }
    }

    /// Time from here on belongs to the next step.
    pub(crate) fn mark(&mut self) {
        self.last = Instant::now();
    }

    pub(crate) fn note(&mut self, what: &str) -> Outcome {
        self.print(&format!("        {what}"))
    }

    pub(crate) fn heading(&self) -> Outcome {
        self.print("")?;
        self.print("    time     space  what")
    }

    /// A step is done. With a store, the space that it took there is told: what is in use, without what is free or waits to
    /// be.
    pub(crate) fn step(&mut self, what: &str, store: Option<&Store>) -> Outcome {
        let took = self.last.elapsed();
        let mut space = None;
        if let Some(store) = store {
            store.checkpoint()?;
            let s = store.counters()?;
            let used = s.image_bytes - s.free_bytes - s.returned_bytes - s.waiting_bytes;
            space = Some(used as i64 - self.used as i64);
            self.used = used;
        }
        let cost =
            space.map_or(String::new(), |n| format!("{}{}", if n < 0 { "-" } else { "+" }, bytes(n.unsigned_abs())));
        self.print(&format!("{:>8} {cost:>9}  {what}", seconds(took)))?;
        self.steps.push(json!({"step": what, "seconds": took.as_secs_f64(), "space_bytes": space}));
        self.mark();
        Ok(())
    }

    pub(crate) fn proof(&mut self, name: &str, good: bool, what: &str) -> Outcome {
        self.print(&format!(
            "{:>8} {:>9}    {name}: {what}",
            seconds(self.last.elapsed()),
            if good { "ok" } else { "FAILED" }
        ))?;
        self.proofs.push(json!({"state": name, "ok": good, "proof": what}));
        self.failed += usize::from(!good);
        self.mark();
        Ok(())
    }

    pub(crate) fn image(&mut self, path: &Path) -> Outcome {
        let meta = fs::metadata(path).at(path.display())?;
        let allocated = meta.blocks() * 512;
        self.image = json!({"file_bytes": meta.len(), "allocated_bytes": allocated, "used_bytes": self.used});
        self.note(&format!("the image file: {}, {} of it allocated", bytes(meta.len()), bytes(allocated)))
    }

    pub(crate) fn verdict(&mut self) -> Outcome {
        let took = self.begun.elapsed();
        let proofs = self.proofs.len();
        if self.as_json {
            text::emit_json(&json!({
                "ok": self.failed == 0,
                "seconds": took.as_secs_f64(),
                "steps": self.steps,
                "proofs": self.proofs,
                "image": self.image,
            }))?;
        } else {
            let verdict = match self.failed {
                0 => format!("PASSED: all {proofs} proofs hold"),
                n => format!("FAILED: {n} of {proofs} proofs do not hold"),
            };
            text::emit(&format!("\n{verdict}; {} steps in {}\n", self.steps.len(), seconds(took)))?;
        }
        if self.failed == 0 { Ok(()) } else { Err(Failure::silent(DAMAGE)) }
    }

    fn print(&self, line: &str) -> Outcome {
        if self.as_json { Ok(()) } else { text::emit(&format!("{}\n", text::printable(line))) }
    }
}

fn seconds(t: Duration) -> String {
    match t.as_secs_f64() {
        s if s < 0.1 => format!("{:.1} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}
