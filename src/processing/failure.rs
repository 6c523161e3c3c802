//! The table of file system failures and their meaning.

use std::io;

use crate::base::{Error, ErrorKind};

/// By the system's error number, where [`io::ErrorKind`] has no name for the error or classifies it differently.
#[cfg(unix)]
const BY_NUMBER: &[(i32, ErrorKind)] = &[
    // EIO: a network mount whose server did not answer in time (nfs(5), "soft"), or a disk that reads
    // at the second try.
    (5, ErrorKind::Transient),
    // ENFILE and EMFILE: too many open files at the moment.
    (23, ErrorKind::Transient),
    (24, ErrorKind::Transient),
];

#[cfg(windows)]
const BY_NUMBER: &[(i32, ErrorKind)] = &[
    // ERROR_TOO_MANY_OPEN_FILES.
    (4, ErrorKind::Transient),
    // ERROR_SHARING_VIOLATION and ERROR_LOCK_VIOLATION: another program is writing to it.
    (32, ErrorKind::Transient),
    (33, ErrorKind::Transient),
];

#[cfg(not(any(unix, windows)))]
const BY_NUMBER: &[(i32, ErrorKind)] = &[];

const BY_KIND: &[(io::ErrorKind, ErrorKind)] = &[
    (io::ErrorKind::Interrupted, ErrorKind::Transient),
    (io::ErrorKind::WouldBlock, ErrorKind::Transient),
    (io::ErrorKind::TimedOut, ErrorKind::Transient),
    (io::ErrorKind::ResourceBusy, ErrorKind::Transient),
    (io::ErrorKind::Deadlock, ErrorKind::Transient),
    (io::ErrorKind::OutOfMemory, ErrorKind::Transient),
    // ESTALE and other errors of files on other machines.
    (io::ErrorKind::StaleNetworkFileHandle, ErrorKind::Transient),
    (io::ErrorKind::NetworkDown, ErrorKind::Transient),
    (io::ErrorKind::NetworkUnreachable, ErrorKind::Transient),
    (io::ErrorKind::HostUnreachable, ErrorKind::Transient),
    (io::ErrorKind::ConnectionReset, ErrorKind::Transient),
    (io::ErrorKind::ConnectionAborted, ErrorKind::Transient),
    (io::ErrorKind::NotConnected, ErrorKind::Transient),
    (io::ErrorKind::NotFound, ErrorKind::NotFound),
    // A folder in its path was replaced by a file.
    (io::ErrorKind::NotADirectory, ErrorKind::NotFound),
    (io::ErrorKind::PermissionDenied, ErrorKind::PermissionDenied),
];

/// The kind of a failure: temporary, or if not, its cause. An error in neither table is [`ErrorKind::Invalid`].
pub(super) fn kind_of(error: &io::Error) -> ErrorKind {
    let number = error.raw_os_error();
    let by_number = BY_NUMBER.iter().find(|(known, _)| number == Some(*known));
    let by_kind = || BY_KIND.iter().find(|(known, _)| error.kind() == *known);
    let kind = by_number.map(|(_, kind)| *kind);
    kind.or_else(|| by_kind().map(|(_, kind)| *kind))
        .unwrap_or(ErrorKind::Invalid)
}

/// The failure as an [`Error`], with the operation that failed.
pub(super) fn failed_to(what: &str, error: &io::Error) -> Error {
    Error::new(kind_of(error), format!("cannot {what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn temporary_and_permanent_failures_are_distinguished() {
        // EINTR, EAGAIN, EIO, ENFILE and EMFILE have the same numbers on every Unix, except EAGAIN.
        for number in [4, 5, 23, 24] {
            let error = io::Error::from_raw_os_error(number);
            assert_eq!(kind_of(&error), ErrorKind::Transient, "{error}");
        }
        let table = [
            (2, ErrorKind::NotFound),
            (13, ErrorKind::PermissionDenied),
            (20, ErrorKind::NotFound),
            (21, ErrorKind::Invalid),
        ];
        for (number, kind) in table {
            let error = io::Error::from_raw_os_error(number);
            assert_eq!(kind_of(&error), kind, "{error}");
        }
        for kind in [
            io::ErrorKind::TimedOut,
            io::ErrorKind::WouldBlock,
            io::ErrorKind::StaleNetworkFileHandle,
        ] {
            assert_eq!(kind_of(&kind.into()), ErrorKind::Transient, "{kind}");
        }
        assert_eq!(
            kind_of(&io::ErrorKind::InvalidData.into()),
            ErrorKind::Invalid
        );
    }
}
