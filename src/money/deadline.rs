//! A deadline, and what became of it.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::base::{Error, ErrorKind, Timestamp};

/// The longest time until a deadline: 366 days.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);
/// The time by which a run is to be finished.
///
/// ```
/// use std::time::Duration;
/// use batchwright::Deadline;
/// let deadline = Deadline::within(Duration::from_secs(8 * 3600))?;
/// assert!(!deadline.is_missed() && deadline.left() <= Duration::from_secs(8 * 3600));
/// assert!(Deadline::within(Duration::MAX).is_err());
/// # Ok::<(), batchwright::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
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

/// How items are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Way {
    /// In batches.
    Batch,
    /// As calls at the flex tier.
    Flex,
    /// As calls at the standard tier.
    Sync,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Batch => "batch",
            Self::Flex => "flex",
            Self::Sync => "sync",
        })
    }
}

/// A change of the way in which a run with a deadline sends its items.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PlanChange {
    /// When it was decided, in milliseconds since 1970 (UTC).
    pub at: i64,
    /// The way from then on, of items that are in no batch.
    pub way: Way,
    /// Items that are withdrawn from batches.
    #[serde(default)]
    pub withdrawn: u64,
    /// What changed and why, in one line.
    pub line: String,
}

/// The deadline of a run, and how it is met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeadlinePlan {
    /// The deadline.
    pub deadline: Deadline,
    /// How it was given, for example `06:00`. The same words in a later command mean the same point in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given: Option<String>,
    /// The first decision and the latest changes of it, oldest first.
    #[serde(default)]
    pub changes: Vec<PlanChange>,
}

/// Changes that are kept: the first one, and the latest ones.
const MOST_CHANGES: usize = 20;

impl DeadlinePlan {
    pub(crate) fn new(deadline: Deadline, given: Option<String>) -> Self {
        Self {
            deadline,
            given,
            changes: Vec::new(),
        }
    }

    pub(crate) fn change(&mut self, change: PlanChange) {
        if self.changes.len() >= MOST_CHANGES {
            self.changes.remove(1);
        }
        self.changes.push(change);
    }
}

/// Prices of the ways, relative to each other. `None` if a price is unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct WayPrices {
    /// The price of the items in batches.
    pub batch: Option<f64>,
    /// The same for calls at the flex tier.
    pub flex: Option<f64>,
    /// The same for calls at the standard tier.
    pub sync: Option<f64>,
}

impl WayPrices {
    /// Whether a way may save money: not if both prices are known and it is not the cheaper one.
    pub(crate) fn may_save(way: Option<f64>, other: Option<f64>) -> bool {
        !way.zip(other).is_some_and(|(way, other)| way >= other)
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
