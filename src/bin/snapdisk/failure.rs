//! How a command fails: exit codes and messages.

use snapdisk::{Error, ErrorKind};
use std::{fmt, io};

/// Something failed.
pub(crate) const ERROR: u8 = 1;
/// The command line is wrong.
pub(crate) const USAGE: u8 = 2;
/// The image is damaged.
pub(crate) const DAMAGE: u8 = 3;
/// Another process has the image open.
pub(crate) const LOCKED: u8 = 4;

/// A message for standard error (none if all is said) and the exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    pub(crate) message: String,
}

pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Failure {
        Failure { code: ERROR, message: message.into() }
    }
    pub(crate) fn usage(message: impl Into<String>) -> Failure {
        Failure { code: USAGE, message: message.into() }
    }
    /// What is wrong has been printed already.
    pub(crate) fn silent(code: u8) -> Failure {
        Failure { code, message: String::new() }
    }
    pub(crate) fn host(what: impl fmt::Display, e: &io::Error) -> Failure {
        Failure::new(format!("{what}: {e}"))
    }
}

impl From<Error> for Failure {
    fn from(e: Error) -> Failure {
        let code = match e.kind() {
            ErrorKind::Corrupt | ErrorKind::Truncated => DAMAGE,
            ErrorKind::Locked => LOCKED,
            _ => ERROR,
        };
        Failure { code, message: e.to_string() }
    }
}

/// Says which file a host error is about.
pub(crate) trait At<T> {
    fn at(self, what: impl fmt::Display) -> Outcome<T>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, what: impl fmt::Display) -> Outcome<T> {
        self.map_err(|e| Failure::host(what, &e))
    }
}

impl<T> At<T> for rustix::io::Result<T> {
    fn at(self, what: impl fmt::Display) -> Outcome<T> {
        self.map_err(|e| Failure::host(what, &e.into()))
    }
}
