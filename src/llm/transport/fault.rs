//! Why an exchange of bytes failed.

use std::{fmt, io};

/// The limit that ended a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    /// The one for the whole call.
    Call,
    /// The one for the reply, or for its beginning.
    Reply,
    /// The one for a pause between two bytes.
    Idle,
}

/// Why an exchange failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// A time limit has ended.
    Late(Limit),
    /// A header of the request is not valid.
    BadRequest,
    /// The reply is not valid HTTP.
    BadReply(&'static str),
    /// The server answered plain HTTP with an alert of TLS.
    Tls,
    /// The head of the reply does not end.
    EndlessHead,
    /// The proxy did not connect, and replied with this status.
    Refused(u16),
    Io(io::Error),
}

impl Fault {
    /// Whether this machine, and not the server, has too little of something: open files, memory or ports.
    pub fn is_shortage(&self) -> bool {
        use rustix::io::Errno;
        let Self::Io(error) = self else { return false };
        let number = error.raw_os_error().map(Errno::from_raw_os_error);
        let scarce = [
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOMEM,
            Errno::NOBUFS,
            Errno::AGAIN,
        ];
        number.is_some_and(|number| scarce.contains(&number))
    }

    /// The connection ended within a reply.
    pub fn cut() -> Self {
        Self::Io(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the server closed it before the end of the reply",
        ))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late(_) => f.write_str("a time limit has ended"),
            Self::BadRequest => f.write_str("a header of the request is not valid"),
            Self::BadReply(why) => f.write_str(why),
            Self::Tls => f.write_str("it speaks TLS"),
            Self::EndlessHead => f.write_str("the headers do not end"),
            Self::Refused(status) => write!(f, "the proxy refused, status {status}"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Fault {}

/// A fault passes through `Read` and `Write` as an error of theirs.
impl From<Fault> for io::Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Io(error) => error,
            other => Self::other(other),
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        error.downcast::<Self>().unwrap_or_else(Self::Io)
    }
}
