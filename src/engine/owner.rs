//! What all handles share: the engine with its background threads.

use super::state::{Engine, PanicGuard};
use crate::{Error, Result, sync};
use std::sync::Arc;

/// The engine and its background threads, which end with the last handle.
pub(crate) struct Owner {
    engine: Arc<Engine>,
    threads: Vec<sync::Thread>,
}

impl Owner {
    pub(crate) fn new(engine: Engine) -> Result<Arc<Owner>> {
        // Owned from the start, so that a failure ends the threads that run already.
        let mut owner = Owner { engine: Arc::new(engine), threads: Vec::new() };
        if !owner.config.manual && owner.disk.is_writable() {
            owner.start("snapdisk", Engine::maintain_behind)?;
            owner.start("snapdisk-write", Engine::write_behind)?;
        }
        Ok(Arc::new(owner))
    }
    fn start(&mut self, name: &str, body: fn(&Engine)) -> Result<()> {
        let engine = self.engine.clone();
        let spawned = sync::spawn(name, move || {
            let _guard = PanicGuard::new(&engine.disk);
            body(&engine);
        });
        self.threads.push(spawned.map_err(|e| Error::io("start of a background thread", e))?);
        Ok(())
    }
}

impl std::ops::Deref for Owner {
    type Target = Engine;
    fn deref(&self) -> &Engine {
        &self.engine
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // A forked child has the handles and not the threads, and a lock that was held at the fork is held for ever there.
        if !self.engine.disk.same_process() {
            return;
        }
        self.engine.stop();
        for thread in self.threads.drain(..) {
            thread.join();
        }
    }
}
