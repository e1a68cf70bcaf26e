//! What a verb works with: an image that it opens for itself, or the store of a server that has it open.

use crate::{
    failure::{Failure, Outcome},
    image, interrupt, text,
};
use snapdisk::{Options, Store};
use std::path::Path;

/// Where a verb prints, and who may interrupt it.
pub(crate) trait Console {
    /// Prints to standard output.
    fn emit(&mut self, text: &str) -> Outcome;
    /// Returns whether the work is to stop.
    fn interrupted(&mut self) -> bool;
    /// Returns whether progress may be shown on this process's terminal.
    fn has_terminal(&self) -> bool;
    /// Fails once the work is to stop.
    fn check(&mut self) -> Outcome {
        if self.interrupted() { Err(Failure::new("interrupted")) } else { Ok(()) }
    }
    /// Prints a value as indented JSON.
    fn emit_json(&mut self, value: &serde_json::Value) -> Outcome {
        self.emit(&format!("{value:#}\n"))
    }
}

/// The process's own streams and signals.
pub(crate) struct Here;

impl Console for Here {
    fn emit(&mut self, text: &str) -> Outcome {
        text::emit(text)
    }
    fn interrupted(&mut self) -> bool {
        interrupt::came()
    }
    fn has_terminal(&self) -> bool {
        true
    }
}

/// One verb under way.
pub(crate) struct Session<'a> {
    /// The image, by the name that the command line gives it.
    pub(crate) shown: &'a Path,
    /// The image, by a name that this process can open.
    pub(crate) path: &'a Path,
    /// The store of the server that the verb runs in.
    live: Option<&'a Store>,
    pub(crate) console: &'a mut dyn Console,
}

impl<'a> Session<'a> {
    /// A verb that opens the image for itself.
    pub(crate) fn alone(image: &'a Path, console: &'a mut dyn Console) -> Session<'a> {
        Session { shown: image, path: image, live: None, console }
    }
    /// A verb inside of a server that has `path` open as `store`.
    pub(crate) fn within(store: &'a Store, path: &'a Path, shown: &'a Path, console: &'a mut dyn Console) -> Self {
        Session { shown, path, live: Some(store), console }
    }
    /// Runs what only reads.
    pub(crate) fn reading(&mut self, work: impl FnOnce(&Store, &mut dyn Console) -> Outcome) -> Outcome {
        if let Some(store) = self.live {
            return work(store, self.console);
        }
        let store = Options::new().open_read_only(self.path)?;
        work(&store, self.console)?;
        Ok(store.close()?)
    }
    /// Runs what writes, and makes it durable.
    pub(crate) fn writing(&mut self, work: impl FnOnce(&Store, &mut dyn Console) -> Outcome) -> Outcome {
        match self.live {
            Some(store) => {
                work(store, self.console)?;
                if store.is_read_only() { Ok(()) } else { Ok(store.flush()?) }
            }
            None => image::writing(self.path, |store| work(store, self.console)),
        }
    }
}
