//! How a call fails: the RetCodes, and the fault that carries one.

use crate::{Error, ErrorKind};
use std::{fmt, sync::Arc};

/// The values of the answers' `RetCode`.
///
/// Clients repeat a call that answered a code above 2000 at once, so such a code means that nothing was changed. An
/// outcome that is unknown is always [`RetCode::Internal`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u16)]
#[non_exhaustive]
pub enum RetCode {
    /// Done.
    Ok = 0,
    /// The store failed, is full or has stopped; the outcome may be unknown.
    Internal = 2,
    /// A required parameter is missing or empty.
    Missing = 3,
    /// A parameter, or the request, has the wrong form.
    Format = 4,
    /// No `Action`.
    NoAction = 101,
    /// No `Region`.
    NoRegion = 102,
    /// No `PublicKey`.
    NoPublicKey = 103,
    /// No `Signature`.
    NoSignature = 104,
    /// Unknown key or wrong signature.
    BadSignature = 109,
    /// No such action.
    UnknownAction = 110,
    /// Parameters contradict each other.
    Contradiction = 113,
    /// No such disk or snapshot, or not one that the caller may see.
    NotFound = 200,
    /// Deletion is switched off by the admin.
    DeletionOff = 209,
    /// No such region.
    UnknownRegion = 400,
    /// No such project, or not one of the caller's.
    UnknownProject = 651,
    /// The VM that the disk is bound to is not shut down.
    VmRunning = 1014,
    /// The disk's state does not allow it.
    DiskState = 5000,
    /// Disks don't shrink.
    Shrink = 5001,
    /// The disk has as many manual snapshots as it may have.
    SnapshotLimit = 7000,
    /// The snapshot's state does not allow it.
    SnapshotState = 7001,
    /// A disk is being made from the snapshot.
    SnapshotInUse = 7002,
    /// The company's quota is used up.
    Quota = 17005,
    /// No such company.
    UnknownCompany = 27001,
}

impl RetCode {
    /// The number on the wire.
    pub fn number(self) -> u16 {
        self as u16
    }
}

/// A call that failed: nothing was changed, except where the code is [`RetCode::Internal`].
#[derive(Clone, Debug)]
pub struct Fault {
    code: RetCode,
    message: Box<str>,
    cause: Option<Arc<Error>>,
}

impl Fault {
    /// A fault with its message: what is wrong, with the parameter's name and value.
    pub fn new(code: RetCode, message: impl Into<String>) -> Fault {
        Fault { code, message: message.into().into(), cause: None }
    }
    /// The message for the client.
    pub fn code(&self) -> RetCode {
        self.code
    }
    /// The store's error, for the operator's log: it may name what a tenant must not see.
    pub fn cause(&self) -> Option<&Error> {
        self.cause.as_deref()
    }
    pub(super) fn missing(name: &str) -> Fault {
        let code = if name == "Region" { RetCode::NoRegion } else { RetCode::Missing };
        Fault::new(code, format!("{name} is required and missing or empty"))
    }
    pub(super) fn format(name: &str, value: impl fmt::Display, want: &str) -> Fault {
        Fault::new(RetCode::Format, format!("{name}: {:?} is not {want}", shorten(&value.to_string())))
    }
    pub(super) fn not_found(name: &str, value: &str) -> Fault {
        Fault::new(RetCode::NotFound, format!("{name}: {:?} does not exist", shorten(value)))
    }
}

/// Messages repeat what the client sent, but not megabytes of it.
pub(crate) fn shorten(text: &str) -> String {
    match text.char_indices().nth(64) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

impl From<Error> for Fault {
    fn from(e: Error) -> Fault {
        let (code, message) = match e.kind() {
            ErrorKind::Deleted | ErrorKind::NotFound => (RetCode::NotFound, "it was deleted meanwhile"),
            ErrorKind::Busy => (RetCode::DiskState, "the disk is in use; nothing was changed"),
            ErrorKind::NoSpace => (RetCode::Internal, "internal error: the store is full; nothing was changed"),
            ErrorKind::Poisoned => {
                (RetCode::Internal, "internal error: the store stopped after a failed write; nothing was changed")
            }
            ErrorKind::ReadOnly => (RetCode::Internal, "internal error: the store is read-only; nothing was changed"),
            ErrorKind::Closed => (RetCode::Internal, "internal error: the store is closed; nothing was changed"),
            ErrorKind::Io => (RetCode::Internal, "internal error: a write failed; the outcome is unknown"),
            _ => (RetCode::Internal, "internal error"),
        };
        Fault { code, message: message.into(), cause: Some(Arc::new(e)) }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_deref().map(|e| e as _)
    }
}
