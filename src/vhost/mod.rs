//! Volumes and snapshots as disks of virtual machines: a vhost-user-blk back end.
//!
//! A virtual machine monitor (QEMU, cloud-hypervisor) connects to a Unix socket, hands over the guest's memory and the places of its
//! virtqueues, and from then on the guest's requests come straight to this process, one thread for each queue. There is a socket for each
//! disk: [`Server`] serves one, or every volume of a store under a directory.
//!
//! ```no_run
//! use snapdisk::{Options, vhost};
//!
//! # fn main() -> snapdisk::Result<()> {
//! let store = Options::new().open("disks.img")?;
//! let server = vhost::Server::all(&store, "/run/snapdisk", None)?;
//! for export in server.list() {
//!     println!("{}: {}", export.name, export.path.display());
//! }
//! // qemu-system-x86_64 -m 1G -object memory-backend-memfd,id=m,size=1G,share=on -numa node,memdev=m \
//! //     -chardev socket,id=c,path=/run/snapdisk/root.sock,reconnect=1 -device vhost-user-blk-pci,chardev=c
//! server.stop();
//! store.close()
//! # }
//! ```
//!
//! # What the guest is promised
//!
//! A connection attaches its volume ([`Volume::attach`](crate::Volume::attach)) until it ends, so that a volume has one guest at a time, which
//! nobody rolls back, shrinks or deletes behind its back but by force. After a forced change of content every request fails until the machine
//! is reset or connects anew. A snapshot is read-only, and any number of machines may read it.
//!
//! A request that was answered is in the volume, and durable after a later FLUSH that was answered; so the guest sees a write-back cache. A
//! guest that does not accept FLUSH gets every write durable. DISCARD and WRITE_ZEROES take any ranges. A resize is told to the guest.
//!
//! Requests of one queue are answered in their order. So the used ring says at any time which ones were answered: a monitor that reconnects
//! after this process was killed goes on behind it (as QEMU does with `reconnect`), the ones after it are made again, and no list of requests
//! in flight is needed. Making a request a second time, with the guest's data of that moment, gives what making it once gives.
//!
//! # What a guest can do
//!
//! A guest writes what it likes into its queues, also while they are read. A chain that is no request, reaches outside of memory, loops or is
//! longer than 64 MiB is answered with an error where it has a place for one, and with nothing where not; a ring that can't be read stops, and
//! only it. A queue takes 256 KiB of memory for data and up to 4 MiB for a chain's description, whatever the guest says.
//!
//! Data goes through that buffer rather than between the guest's memory and the store directly. A checksum that is made of bytes which the
//! guest changes before they are stored would make the block unreadable for ever; and two queues can be given the same memory, of which there
//! can't be two exclusive borrows. See `docs/vhost.md` for what the copy costs.
//!
//! The *monitor* is trusted as far as memory goes: one that truncates the file of the guest's memory ends this process by a `SIGBUS`, as it
//! ends every vhost-user back end. The sockets are for the user who runs this process alone (mode 0600).

#[cfg(target_endian = "big")]
compile_error!("vhost-user speaks the host's byte order, and the feature `vhost` is written for little-endian hosts");

mod message;
mod request;
mod ring;
mod server;
mod session;

pub use server::{Export, Server};
