//! What a service manager is told: that the server is ready, and that it stops. One datagram to the socket that the environment names.

use std::{
    env,
    os::{
        linux::net::SocketAddrExt,
        unix::ffi::OsStrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
};

fn tell(what: &str) {
    let Some(name) = env::var_os("NOTIFY_SOCKET") else { return };
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&name),
    };
    // A manager that does not listen is none of the server's concern.
    if let (Ok(address), Ok(socket)) = (address, UnixDatagram::unbound()) {
        let _ = socket.send_to_addr(what.as_bytes(), &address);
    }
}

pub(crate) fn ready() {
    tell("READY=1");
}
pub(crate) fn stopping() {
    tell("STOPPING=1");
}
