//! Days of the calendar (UTC).

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::clock::Timestamp;

const MILLIS: i64 = 86_400_000;

/// A day (UTC). As text and in JSON `2026-10-14`.
///
/// ```
/// use std::time::UNIX_EPOCH;
/// use batchwright::provider::Day;
/// let day: Day = "2026-11-26".parse()?;
/// assert_eq!(day.first_of_month().to_string(), "2026-11-01");
/// assert_eq!(Day::of(UNIX_EPOCH.into()).to_string(), "1970-01-01");
/// # Ok::<(), batchwright::provider::InvalidDay>(())
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

/// The date of a number of days since 1 January 1970.
fn date(days: i64) -> String {
    // <https://howardhinnant.github.io/date_algorithms.html>, civil_from_days.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    match year {
        0..=9999 => format!("{year:04}-{month:02}-{day:02}"),
        _ => format!("{year:+05}-{month:02}-{day:02}"),
    }
}

/// The number of days from 1 January 1970 to a date such as `2024-05-01`.
fn days(text: &str) -> Option<i32> {
    let bytes = text.as_bytes();
    if bytes.len() != 10 || bytes[4] != b'-' || bytes[7] != b'-' {
        return None;
    }
    let year = digits(text.get(..4)?)?;
    let (month, day) = (digits(text.get(5..7)?)?, digits(text.get(8..)?)?);
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let longest = match month {
        2 => 28 + i64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=longest).contains(&day) {
        return None;
    }
    // <https://howardhinnant.github.io/date_algorithms.html>, days_from_civil.
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    i32::try_from(era * 146_097 + day_of_era - 719_468).ok()
}

/// A number that consists only of digits.
fn digits(text: &str) -> Option<i64> {
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| text.parse().ok())?
}

/// A text that is not a [`Day`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidDay;

impl fmt::Display for InvalidDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a day is written like 2026-10-14")
    }
}

impl std::error::Error for InvalidDay {}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&date(self.0.into()))
    }
}

impl FromStr for Day {
    type Err = InvalidDay;

    fn from_str(text: &str) -> Result<Self, InvalidDay> {
        days(text).map(Self).ok_or(InvalidDay)
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
        for days in [-719_162, -1, 0, 58, 59, 11_016, 20_000, 20_783, 2_932_896] {
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
