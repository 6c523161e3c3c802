//! Days of the calendar (UTC).

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::clock::Timestamp;
use super::error::{Error, ErrorKind};

const MILLIS: i64 = 86_400_000;
/// 31 December 9999.
const LAST: i32 = 2_932_896;

/// A day (UTC). As text and in JSON `2026-10-14`.
///
/// ```
/// use std::time::UNIX_EPOCH;
/// use batchwright::provider::Day;
/// let day: Day = "2026-11-26".parse()?;
/// assert_eq!(day.first_of_month().to_string(), "2026-11-01");
/// assert_eq!(Day::of(UNIX_EPOCH.into()).to_string(), "1970-01-01");
/// # Ok::<(), batchwright::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(pub(crate) i32);

impl Day {
    /// The day of a point in time.
    pub fn of(at: Timestamp) -> Self {
        let days = at.0.div_euclid(MILLIS);
        Self(i32::try_from(days).unwrap_or(i32::MAX))
    }

    /// When it begins.
    pub fn start(self) -> Timestamp {
        Timestamp(i64::from(self.0) * MILLIS)
    }

    /// The number of days since 1 January 1970.
    pub(crate) const fn number(self) -> i32 {
        self.0
    }

    /// The first day of its month.
    pub fn first_of_month(self) -> Self {
        let day = self.to_string();
        let first = format!("{}-01", &day[..day.len() - 3]);
        first.parse().unwrap_or(self)
    }
}

/// Days before 1970 and after the year 9999 are shown as the first and the last of these years.
impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days = self.0.clamp(0, LAST) as u64;
        let start = UNIX_EPOCH + Duration::from_secs(days * 86_400);
        let text = humantime::format_rfc3339_seconds(start).to_string();
        f.write_str(text.split('T').next().unwrap_or_default())
    }
}

impl FromStr for Day {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let start = humantime::parse_rfc3339(&format!("{text}T00:00:00Z"));
        let day = start.map(|start: SystemTime| Self::of(start.into()));
        day.map_err(|_| Error::new(ErrorKind::Invalid, "a day is written like 2026-10-14"))
    }
}

impl Serialize for Day {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Day {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_written_in_the_format_that_is_read() {
        for days in [0, 58, 59, 11_016, 20_000, 20_783, LAST] {
            let day = Day(days);
            assert_eq!(day.to_string().parse::<Day>().unwrap(), day);
            assert_eq!(Day::of(day.start()), day);
            assert_eq!(Day::of(Timestamp(day.start().0 - 1)), Day(days - 1));
            assert!(day.first_of_month() <= day);
        }
        let leap: Day = "2024-02-10".parse().unwrap();
        assert_eq!(leap.first_of_month().to_string(), "2024-02-01");
        for odd in [
            "2025-02-29",
            "2025-1-01",
            "2025-13-01",
            "today",
            "20250101",
            "2025-01-0x",
        ] {
            odd.parse::<Day>().unwrap_err();
        }
    }
}
