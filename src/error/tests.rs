//! What each kind of error is to an embedder's protocol and to `std::io`.

use super::*;
use std::error::Error as _;

/// Every kind with its errno and the standard library's kind.
const TABLE: &[(ErrorKind, i32, io::ErrorKind)] = &[
    (ErrorKind::Invalid, libc::EINVAL, io::ErrorKind::InvalidInput),
    (ErrorKind::OutOfRange, libc::EINVAL, io::ErrorKind::InvalidInput),
    (ErrorKind::NotFound, libc::ENOENT, io::ErrorKind::NotFound),
    (ErrorKind::Exists, libc::EEXIST, io::ErrorKind::AlreadyExists),
    (ErrorKind::Deleted, libc::ENODEV, io::ErrorKind::NotFound),
    (ErrorKind::Closed, libc::ENODEV, io::ErrorKind::NotFound),
    (ErrorKind::Locked, libc::EBUSY, io::ErrorKind::ResourceBusy),
    (ErrorKind::Busy, libc::EBUSY, io::ErrorKind::ResourceBusy),
    (ErrorKind::Stale, libc::ESTALE, io::ErrorKind::StaleNetworkFileHandle),
    (ErrorKind::ReadOnly, libc::EROFS, io::ErrorKind::ReadOnlyFilesystem),
    (ErrorKind::NoSpace, libc::ENOSPC, io::ErrorKind::StorageFull),
    (ErrorKind::Poisoned, libc::EIO, io::ErrorKind::Other),
    (ErrorKind::Corrupt, libc::EILSEQ, io::ErrorKind::InvalidData),
    (ErrorKind::Truncated, libc::EIO, io::ErrorKind::Other),
    (ErrorKind::UnsupportedVersion, libc::EOPNOTSUPP, io::ErrorKind::Unsupported),
    (ErrorKind::WrongProcess, libc::EBADF, io::ErrorKind::Other),
    (ErrorKind::Cancelled, libc::ECANCELED, io::ErrorKind::Other),
    (ErrorKind::Io, libc::EIO, io::ErrorKind::Other),
];

/// The position of a kind in the table. A kind that is added does not compile until it has a row.
fn row(kind: ErrorKind) -> usize {
    match kind {
        ErrorKind::Invalid => 0,
        ErrorKind::OutOfRange => 1,
        ErrorKind::NotFound => 2,
        ErrorKind::Exists => 3,
        ErrorKind::Deleted => 4,
        ErrorKind::Closed => 5,
        ErrorKind::Locked => 6,
        ErrorKind::Busy => 7,
        ErrorKind::Stale => 8,
        ErrorKind::ReadOnly => 9,
        ErrorKind::NoSpace => 10,
        ErrorKind::Poisoned => 11,
        ErrorKind::Corrupt => 12,
        ErrorKind::Truncated => 13,
        ErrorKind::UnsupportedVersion => 14,
        ErrorKind::WrongProcess => 15,
        ErrorKind::Cancelled => 16,
        ErrorKind::Io => 17,
    }
}

#[test]
fn each_kind_has_the_errno_of_a_block_device() {
    for (i, &(kind, errno, io_kind)) in TABLE.iter().enumerate() {
        assert_eq!(row(kind), i, "{kind:?} stands at another place of the table");
        let error = Error::new(kind, "volume 7 at byte 4096");
        assert_eq!(error.errno(), errno, "{kind:?}");
        let io = io::Error::from(error);
        assert_eq!(io.kind(), io_kind, "{kind:?}");
        // Where the standard library knows the errno, it agrees.
        let standard = io::Error::from_raw_os_error(errno).kind();
        assert!(standard == io_kind || format!("{standard:?}") == "Uncategorized", "{kind:?}: {standard:?}");
    }
    assert_eq!(TABLE.len(), row(ErrorKind::Io) + 1);
}

#[test]
fn an_io_error_keeps_message_kind_and_cause() {
    let cause = io::Error::from_raw_os_error(libc::EAGAIN);
    let error = Error::io("write at byte 4096", cause);
    let (message, errno) = (error.to_string(), error.errno());
    let io = io::Error::from(error);
    assert_eq!(io.to_string(), message);
    // The host's EAGAIN would say that nothing was applied.
    assert_eq!(errno, libc::EIO);
    assert_ne!(io.kind(), io::ErrorKind::WouldBlock);
    let back = io.into_inner().unwrap().downcast::<Error>().unwrap();
    assert_eq!(back.kind(), ErrorKind::Io);
    let cause = back.source().unwrap().downcast_ref::<io::Error>().unwrap();
    assert_eq!(cause.raw_os_error(), Some(libc::EAGAIN));
}

#[test]
fn a_store_on_a_backend_that_answers_with_this_error_still_sees_a_full_host() {
    assert!(is_no_space(&Error::new(ErrorKind::NoSpace, "full").into()));
    assert!(!is_no_space(&Error::new(ErrorKind::Io, "broken").into()));
}
