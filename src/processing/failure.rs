//! File system failures and their meaning.

use std::io;

use crate::base::{Error, ErrorKind};

/// Numbers of temporary errors that [`io::ErrorKind`] does not name or classifies differently: EIO, which a network mount
/// returns whose server did not answer in time (nfs(5), "soft"), ENFILE and EMFILE; on Windows ERROR_TOO_MANY_OPEN_FILES,
/// and ERROR_SHARING_VIOLATION and ERROR_LOCK_VIOLATION while another program writes.
const TEMPORARY: &[i32] = if cfg!(unix) {
    &[5, 23, 24]
} else if cfg!(windows) {
    &[4, 32, 33]
} else {
    &[]
};

/// The kind of a failure: temporary, or if not, its cause.
pub(super) fn kind_of(error: &io::Error) -> ErrorKind {
    use io::ErrorKind as Io;
    let number = error.raw_os_error();
    match error.kind() {
        _ if number.is_some_and(|number| TEMPORARY.contains(&number)) => ErrorKind::Transient,
        Io::Interrupted | Io::WouldBlock | Io::TimedOut | Io::ResourceBusy | Io::Deadlock => {
            ErrorKind::Transient
        }
        // Errors of files on other machines.
        Io::StaleNetworkFileHandle | Io::NetworkDown | Io::NetworkUnreachable => {
            ErrorKind::Transient
        }
        Io::HostUnreachable | Io::ConnectionReset | Io::ConnectionAborted | Io::NotConnected => {
            ErrorKind::Transient
        }
        Io::OutOfMemory => ErrorKind::Transient,
        // A folder in its path was replaced by a file.
        Io::NotFound | Io::NotADirectory => ErrorKind::NotFound,
        Io::PermissionDenied => ErrorKind::PermissionDenied,
        _ => ErrorKind::Invalid,
    }
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
        // EINTR, EIO, ENFILE, EMFILE; ENOENT, EACCES, ENOTDIR, EISDIR.
        let numbers = [4, 5, 23, 24, 2, 13, 20, 21].map(io::Error::from_raw_os_error);
        let kinds = [
            io::ErrorKind::TimedOut,
            io::ErrorKind::WouldBlock,
            io::ErrorKind::StaleNetworkFileHandle,
            io::ErrorKind::InvalidData,
        ];
        let all = numbers.into_iter().chain(kinds.map(io::Error::from));
        use ErrorKind::{Invalid, NotFound, PermissionDenied, Transient};
        let expected = [
            [Transient; 4],
            [NotFound, PermissionDenied, NotFound, Invalid],
            [Transient, Transient, Transient, Invalid],
        ];
        let found: Vec<_> = all.map(|error| kind_of(&error)).collect();
        assert_eq!(found, expected.concat());
    }
}
