//! The one error type: few kinds, each of which tells the caller what to do.

use rustix::io::Errno;
use std::{error, fmt, io, sync::Arc};

/// What kind of failure an [`Error`] is.
///
/// "Not applied" means in no part, now or after a crash. "Unknown" means that the operation may or may not be
/// there, block by block, until the store is reopened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument breaks its documented rules. Not applied.
    Invalid,
    /// The range reaches past the end of the volume or snapshot. Not applied.
    OutOfRange,
    /// No volume, snapshot or image of that name. Not applied.
    NotFound,
    /// The name is taken. Not applied.
    Exists,
    /// The volume or snapshot behind this handle was deleted. Not applied.
    Deleted,
    /// The store was closed. Not applied.
    Closed,
    /// The image is open elsewhere, in this process or another. Not applied.
    Locked,
    /// The volume is attached, and the operation would change its content or size behind the holder's back, or attach it a second time.
    /// Not applied.
    Busy,
    /// The content of the attached volume was changed by force, and the holder of this handle has not acknowledged it. Not applied.
    Stale,
    /// The store was opened for reading. Not applied.
    ReadOnly,
    /// No space: the image is at its limit or the host is full. Not applied; work resumes once there is space.
    NoSpace,
    /// An earlier write or sync failed; nothing more is written until the image is reopened. Not applied.
    Poisoned,
    /// Bytes of the image do not verify. Nothing wrong was returned; a retry reads them again.
    Corrupt,
    /// The file is shorter than what it must hold.
    Truncated,
    /// The image uses a format that this version does not know.
    UnsupportedVersion,
    /// The handle was made before a `fork` and is used in the child. Not applied.
    WrongProcess,
    /// The caller asked for the work to stop. Checks and copies stop part-way, harmlessly.
    Cancelled,
    /// The host failed to read or write. For a mutation the outcome is unknown and the store is poisoned;
    /// a read may be retried.
    Io,
}

/// An error: a kind to act on, a message that names the place, and the cause where there is one.
#[derive(Clone)]
pub struct Error {
    kind: ErrorKind,
    message: Box<str>,
    source: Option<Arc<io::Error>>,
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind` with its message.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into().into_boxed_str(), source: None }
    }
    /// An error caused by the host; `what` names the call and the place.
    pub fn io(what: impl fmt::Display, source: io::Error) -> Error {
        Error::caused(ErrorKind::Io, what, source)
    }
    /// An error of `kind` caused by the host.
    pub fn caused(kind: ErrorKind, what: impl fmt::Display, source: io::Error) -> Error {
        Error { kind, message: format!("{what}: {source}").into_boxed_str(), source: Some(Arc::new(source)) }
    }
    pub(crate) fn corrupt(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Corrupt, message)
    }
    pub(crate) fn invalid(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Invalid, message)
    }
    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
    /// The errno that a block device would answer with, for servers whose protocol has such numbers (NBD, ublk, FUSE, vhost).
    ///
    /// | kind | errno | why this one |
    /// |---|---|---|
    /// | `Invalid`, `OutOfRange` | `EINVAL` | the request itself is at fault, and neither the medium nor its capacity is |
    /// | `NotFound` | `ENOENT` | |
    /// | `Exists` | `EEXIST` | |
    /// | `Deleted`, `Closed` | `ENODEV` | the Linux block layer's answer of a device that is gone |
    /// | `Locked`, `Busy` | `EBUSY` | |
    /// | `Stale` | `ESTALE` | the disk is no longer the one that the caller knows |
    /// | `ReadOnly` | `EROFS` | |
    /// | `NoSpace` | `ENOSPC` | as a thinly provisioned device answers; guests can pause and retry |
    /// | `Corrupt` | `EILSEQ` | what the Linux block layer answers when integrity data does not match (`BLK_STS_PROTECTION`) |
    /// | `UnsupportedVersion` | `EOPNOTSUPP` | |
    /// | `WrongProcess` | `EBADF` | the handle means nothing in this process |
    /// | `Cancelled` | `ECANCELED` | |
    /// | `Io`, `Poisoned`, `Truncated` | `EIO` | |
    ///
    /// The host's own errno is never passed on in its place: after a failed write the outcome is unknown, and a host's `EAGAIN` or `ENOSPC`
    /// would tell a guest that nothing was applied. It is in [`source`](error::Error::source).
    pub fn errno(&self) -> i32 {
        errno(self.kind).raw_os_error()
    }
    /// The same message and cause as an error of another kind.
    pub(crate) fn of_kind(self, kind: ErrorKind) -> Error {
        Error { kind, ..self }
    }
    /// The error of an operation that has applied nothing: `NoSpace` where that is why the host failed.
    pub(crate) fn nothing_applied(self) -> Error {
        match &self.source {
            Some(e) if self.kind == ErrorKind::Io && is_no_space(e) => self.of_kind(ErrorKind::NoSpace),
            _ => self,
        }
    }
    /// The same error with the place put in front of its message.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Error {
        self.message = format!("{place}: {}", self.message).into_boxed_str();
        self
    }
}

fn errno(kind: ErrorKind) -> Errno {
    match kind {
        ErrorKind::Invalid | ErrorKind::OutOfRange => Errno::INVAL,
        ErrorKind::NotFound => Errno::NOENT,
        ErrorKind::Exists => Errno::EXIST,
        ErrorKind::Deleted | ErrorKind::Closed => Errno::NODEV,
        ErrorKind::Locked | ErrorKind::Busy => Errno::BUSY,
        ErrorKind::Stale => Errno::STALE,
        ErrorKind::ReadOnly => Errno::ROFS,
        ErrorKind::NoSpace => Errno::NOSPC,
        ErrorKind::Corrupt => Errno::ILSEQ,
        ErrorKind::UnsupportedVersion => Errno::OPNOTSUPP,
        ErrorKind::WrongProcess => Errno::BADF,
        ErrorKind::Cancelled => Errno::CANCELED,
        ErrorKind::Io | ErrorKind::Poisoned | ErrorKind::Truncated => Errno::IO,
    }
}

/// The standard library's kind for an errno of this crate. `Other` stands where it has no stable one.
fn io_kind(errno: Errno) -> io::ErrorKind {
    match errno {
        Errno::INVAL => io::ErrorKind::InvalidInput,
        Errno::NOENT | Errno::NODEV => io::ErrorKind::NotFound,
        Errno::EXIST => io::ErrorKind::AlreadyExists,
        Errno::BUSY => io::ErrorKind::ResourceBusy,
        Errno::STALE => io::ErrorKind::StaleNetworkFileHandle,
        Errno::ROFS => io::ErrorKind::ReadOnlyFilesystem,
        Errno::NOSPC => io::ErrorKind::StorageFull,
        Errno::ILSEQ => io::ErrorKind::InvalidData,
        Errno::OPNOTSUPP => io::ErrorKind::Unsupported,
        _ => io::ErrorKind::Other,
    }
}

/// An [`io::Error`] that holds the whole [`Error`]: its kind follows from [`Error::errno`], its message is the same, and `get_ref` or
/// `into_inner` with `downcast` gives the [`Error`] back. An [`io::Error`] holds either an errno or another error, so its `raw_os_error` is
/// `None`: a caller that needs the number asks for [`Error::errno`] first.
impl From<Error> for io::Error {
    fn from(e: Error) -> io::Error {
        io::Error::new(io_kind(errno(e.kind)), e)
    }
}

/// Whether an error of the host says that it has no space; anything else is the host's own trouble.
pub(crate) fn is_no_space(e: &io::Error) -> bool {
    matches!(e.raw_os_error().map(Errno::from_raw_os_error), Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG))
        || matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({})", self.kind, self.message)
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.source.as_ref().map(|e| e.as_ref() as _)
    }
}

#[cfg(test)]
mod tests;
