//! Why an exchange of bytes failed, and the time limits of a call. Time in which the process was stopped does not count: a
//! reply that arrived meanwhile is in time.

use std::cell::Cell;
use std::time::{Duration, Instant};
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
    /// The proxy with this name refused, and replied with this status.
    Refused(String, u16),
    /// There is no connection to the proxy with this name.
    NoProxy(String, Box<Self>),
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
            Self::Refused(proxy, status) => write!(f, "the proxy {proxy} refused, status {status}"),
            Self::NoProxy(proxy, why) => write!(f, "no connection to its proxy {proxy}: {why}"),
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

/// Maximum length of one wait. If a wait takes much longer, the process was stopped.
const WAIT_STEP: Duration = Duration::from_secs(1);
/// A delay from which the process counts as stopped. On a busy machine a thread waits for less.
const STOPPED: Duration = Duration::from_millis(500);

/// The remaining time of a call.
#[derive(Default)]
pub(super) struct Patience {
    call: Option<Instant>,
    reply: Cell<Option<Instant>>,
    idle: Cell<Option<Duration>>,
    /// The total time in which the process was stopped. The other limits do not include it.
    excluded: Cell<Duration>,
}

impl Patience {
    /// Creates it with a limit for the whole call.
    pub fn new(call: Option<Duration>) -> Self {
        Self {
            call: call.and_then(|most| Instant::now().checked_add(most)),
            ..Self::default()
        }
    }

    /// Sets the limits of the next step: for each pause, and for the whole step.
    pub fn allow(&self, idle: Option<Duration>, reply: Option<Duration>) {
        let now = Instant::now();
        let end = reply.and_then(|most| now.checked_add(most));
        self.idle.set(idle);
        // What was excluded before does not prolong this limit.
        let excluded = self.excluded.get();
        self.reply
            .set(end.map(|end| end.checked_sub(excluded).unwrap_or(now)));
    }

    /// Excludes this time from the limits.
    fn exclude(&self, time: Duration) {
        self.excluded.set(self.excluded.get().saturating_add(time));
    }

    /// Repeats an operation of a socket until it succeeds or fails. The operation receives its maximum blocking time,
    /// and must then return a time-out like a socket.
    ///
    /// # Errors
    /// [`Fault::Late`] within an error of `io`.
    pub fn wait<T>(&self, mut operation: impl FnMut(Duration) -> io::Result<T>) -> io::Result<T> {
        let mut waited = Duration::ZERO;
        loop {
            let started = Instant::now();
            let (left, limit) = self.left(started, waited);
            if left.is_zero() {
                return Err(Fault::Late(limit).into());
            }
            let piece = left.min(WAIT_STEP);
            let result = operation(piece);
            let took = started.elapsed();
            if took > piece + STOPPED {
                self.exclude(took);
            } else {
                waited += took;
            }
            match result {
                Err(error) if is_to_be_repeated(error.kind()) => {}
                ended => return ended,
            }
        }
    }

    /// The time that is left, and the limit that ends first.
    pub fn left(&self, now: Instant, waited: Duration) -> (Duration, Limit) {
        let excluded = self.excluded.get();
        let until = |end: Instant| {
            end.checked_add(excluded)
                .map_or(Duration::MAX, |end| end.saturating_duration_since(now))
        };
        let idle = self.idle.get().map(|most| most.saturating_sub(waited));
        let limits = [
            (self.call.map(until), Limit::Call),
            (self.reply.get().map(until), Limit::Reply),
            (idle, Limit::Idle),
        ];
        let limits = limits
            .into_iter()
            .filter_map(|(left, of)| Some((left?, of)));
        limits
            .min_by_key(|(left, _)| *left)
            .unwrap_or((Duration::MAX, Limit::Call))
    }
}

/// Whether an operation only reached its time-out and must be repeated.
fn is_to_be_repeated(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;

    use super::*;

    fn of_millis(millis: u64) -> Patience {
        Patience::new(Some(Duration::from_millis(millis)))
    }

    fn is_over(patience: &Patience) -> bool {
        patience.left(Instant::now(), Duration::ZERO).0.is_zero()
    }

    /// A server that does not send anything.
    fn silent(piece: Duration) -> io::Result<()> {
        sleep(piece);
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn limit_of(result: io::Result<()>) -> Option<Limit> {
        match Fault::from(result.unwrap_err()) {
            Fault::Late(limit) => Some(limit),
            _ => None,
        }
    }

    #[test]
    fn a_stop_of_the_process_does_not_count() {
        let patience = of_millis(100);
        let mut pieces = 0;
        let read = patience.wait(|piece| {
            pieces += 1;
            if pieces > 1 {
                return Ok(true);
            }
            sleep(piece + 2 * STOPPED);
            Err(io::ErrorKind::WouldBlock.into())
        });
        assert!(read.unwrap(), "it is read once more");
        assert!(!is_over(&patience));
    }

    #[test]
    fn time_without_reading_does_not_count() {
        let patience = of_millis(10);
        patience.wait(|_| Ok(())).unwrap();
        sleep(Duration::from_millis(20));
        assert!(is_over(&patience));
        patience.exclude(Duration::from_secs(60));
        assert!(!is_over(&patience));
        // A limit that begins now is not prolonged by an earlier exclusion.
        patience.allow(None, Some(Duration::from_millis(10)));
        sleep(Duration::from_millis(20));
        assert!(is_over(&patience));
    }

    #[test]
    fn the_limit_that_ends_first_ends_the_wait() {
        let patience = of_millis(50);
        assert_eq!(limit_of(patience.wait(silent)), Some(Limit::Call));
        let again = patience.wait(|_| panic!("its time is over"));
        assert_eq!(limit_of(again), Some(Limit::Call));
        let (short, long) = (Duration::from_millis(50), Duration::from_secs(1000));
        for (idle, reply, ends) in [
            (Some(short), Some(long), Limit::Idle),
            (Some(long), Some(short), Limit::Reply),
            (None, Some(short), Limit::Reply),
        ] {
            let patience = Patience::new(Some(long));
            patience.allow(idle, reply);
            assert_eq!(limit_of(patience.wait(silent)), Some(ends));
        }
    }

    #[test]
    fn a_pause_does_not_grow_by_waiting_in_pieces() {
        let patience = Patience::default();
        patience.allow(Some(Duration::from_millis(60)), None);
        let ended = patience.wait(|piece| silent(piece.min(Duration::from_millis(10))));
        assert_eq!(limit_of(ended), Some(Limit::Idle));
    }
}
