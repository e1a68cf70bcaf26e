//! Events for the crate `tracing`.

use super::Event;
use tracing::{debug, error, info, warn};

/// Passes an event on to the subscriber of the crate `tracing`, with the target `snapdisk`: a hook for
/// [`Options::on_event`](crate::Options::on_event), by itself or within another one.
///
/// ```
/// let options = snapdisk::Options::new().on_event(snapdisk::trace);
/// ```
pub fn trace(event: &Event) {
    match event {
        Event::CheckpointStarted => debug!(target: "snapdisk", "checkpoint started"),
        Event::CheckpointFinished { duration, pages } => {
            debug!(target: "snapdisk", ?duration, pages, "checkpoint finished");
        }
        Event::Reclaimed { entries } => debug!(target: "snapdisk", entries, "reclaimed"),
        Event::Grown { bytes } => debug!(target: "snapdisk", bytes, "image grown"),
        Event::Punched { bytes } => debug!(target: "snapdisk", bytes, "space returned to the host"),
        Event::VolumeChanged { volume, generation } => {
            info!(target: "snapdisk", volume = volume.0, generation, "attached volume changed");
        }
        Event::Poisoned { cause } => error!(target: "snapdisk", %cause, "store poisoned"),
        Event::BackgroundError { error } => warn!(target: "snapdisk", %error, "background work failed"),
        Event::Lost { events } => warn!(target: "snapdisk", events, "events lost"),
    }
}
