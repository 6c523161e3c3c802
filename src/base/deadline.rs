//! A point in time after which no call starts.

use std::time::{Duration, SystemTime};

use super::{Error, ErrorKind, Timestamp};

/// The longest time until a deadline: 366 days.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

/// The time after which a run starts no call.
///
/// ```
/// use std::time::Duration;
/// use batchwright::Deadline;
/// let deadline = Deadline::within(Duration::from_secs(8 * 3600))?;
/// assert!(!deadline.is_missed() && deadline.left() <= Duration::from_secs(8 * 3600));
/// assert!(Deadline::within(Duration::MAX).is_err());
/// # Ok::<(), batchwright::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Deadline(Timestamp);

impl Deadline {
    /// This point in time, which may be in the past.
    pub fn at(time: SystemTime) -> Self {
        Self(time.into())
    }

    /// This long after now.
    ///
    /// # Errors
    /// If that is more than 366 days.
    pub fn within(time: Duration) -> Result<Self, Error> {
        if time > LONGEST {
            let why = "a deadline is at most 366 days away";
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        Ok(Self(Timestamp::from(SystemTime::now()).after(time)))
    }

    /// The time until then; zero if it is over.
    pub fn left(self) -> Duration {
        self.left_at(SystemTime::now().into())
    }

    /// Whether it is over.
    pub fn is_missed(self) -> bool {
        self.left().is_zero()
    }

    /// The same as a point in time.
    pub fn time(self) -> SystemTime {
        let millis = u64::try_from(self.0.0).unwrap_or(0);
        SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
    }

    pub(crate) fn timestamp(self) -> Timestamp {
        self.0
    }

    pub(crate) fn left_at(self, now: Timestamp) -> Duration {
        self.0.since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_at_most_a_year_away() {
        assert!(Deadline::within(LONGEST).is_ok());
        let error = Deadline::within(LONGEST + Duration::from_secs(3600)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(Deadline::at(SystemTime::UNIX_EPOCH).is_missed());
    }
}
