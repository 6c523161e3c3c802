//! Errors of files and sockets as errors of calls and jobs.

use std::io;

use super::{Error, ErrorKind};

/// Lets `?` convert errors of files and sockets in handlers and clients.
///
/// A missing file is [`NotFound`](ErrorKind::NotFound); a file without permission is
/// [`PermissionDenied`](ErrorKind::PermissionDenied). Errors that a retry cannot change are
/// [`Invalid`](ErrorKind::Invalid): bad input or data, a directory instead of a file, a file that already exists, a
/// read-only file system. All others are temporary and are [`Transient`](ErrorKind::Transient), for example a lost
/// connection, a time-out or a full disk. An [`Error`] within an `io::Error` is returned unchanged.
impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        let error = match error.downcast::<Error>() {
            Ok(own) => return own,
            Err(error) => error,
        };
        let kind = match error.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            io::ErrorKind::InvalidInput
            | io::ErrorKind::InvalidData
            | io::ErrorKind::AlreadyExists
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::DirectoryNotEmpty
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::FileTooLarge
            | io::ErrorKind::InvalidFilename
            | io::ErrorKind::Unsupported => ErrorKind::Invalid,
            _ => ErrorKind::Transient,
        };
        Self::new(kind, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_errors_are_retried_and_others_are_not() {
        let read = || -> Result<Vec<u8>, Error> { Ok(std::fs::read("/nowhere/at/all")?) };
        assert_eq!(read().unwrap_err().kind(), ErrorKind::NotFound);
        for (io, kind) in [
            (io::ErrorKind::PermissionDenied, ErrorKind::PermissionDenied),
            (io::ErrorKind::InvalidData, ErrorKind::Invalid),
            (io::ErrorKind::IsADirectory, ErrorKind::Invalid),
            (io::ErrorKind::ConnectionReset, ErrorKind::Transient),
            (io::ErrorKind::TimedOut, ErrorKind::Transient),
            (io::ErrorKind::StorageFull, ErrorKind::Transient),
            (io::ErrorKind::Other, ErrorKind::Transient),
        ] {
            assert_eq!(Error::from(io::Error::from(io)).kind(), kind, "{io}");
        }
        let own = Error::new(ErrorKind::Quota, "no credit").with_status(402);
        let back = Error::from(io::Error::other(own.clone()));
        assert_eq!((back.kind(), back.status()), (own.kind(), Some(402)));
    }
}
