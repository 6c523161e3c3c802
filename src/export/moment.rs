//! Dates and times of typed inputs, as ISO 8601 texts in their rows.

pub(super) use crate::base::day::days;
use crate::base::day::digits;

use super::cell::ColumnType;

/// The type of a text in a column of dates.
pub(super) fn kind(text: &str) -> ColumnType {
    match (days(text), micros(text)) {
        (Some(_), _) => ColumnType::Date,
        (None, Some(_)) if text.ends_with('Z') => ColumnType::Instant,
        (None, Some(_)) => ColumnType::DateTime,
        (None, None) => ColumnType::Text,
    }
}

/// Microseconds from the beginning of 1970 to `2024-05-01T12:30:00.5`, with or without a `Z`, or to the beginning
/// of a day. `None` for a time with more digits.
pub(super) fn micros(text: &str) -> Option<i64> {
    const SECONDS_OF_DAY: i64 = 86_400;
    let Some((day, time)) = text.split_once('T') else {
        return Some(i64::from(days(text)?) * SECONDS_OF_DAY * 1_000_000);
    };
    let time = time.strip_suffix('Z').unwrap_or(time);
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut parts = time.splitn(3, ':').map(digits);
    let mut part = |most: i64| parts.next().flatten().filter(|n| *n < most);
    let seconds = (part(24)? * 60 + part(60)?) * 60 + part(60)?;
    let places = u32::try_from(fraction.len())
        .ok()
        .filter(|n| (1..=6).contains(n))?;
    let fraction = digits(fraction)? * 10_i64.pow(6 - places);
    Some((i64::from(days(day)?) * SECONDS_OF_DAY + seconds) * 1_000_000 + fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_times_are_counted_from_1970() {
        for (text, count) in [
            ("1970-01-01", Some(0)),
            ("1969-12-31", Some(-1)),
            ("2000-02-29", Some(11_016)),
            ("2024-05-01", Some(19_844)),
            ("0000-01-01", Some(-719_528)),
            ("9999-12-31", Some(2_932_896)),
            ("2023-02-29", None),
            ("2024-13-01", None),
            ("2024-00-10", None),
            ("2024-5-01", None),
            ("+024-05-01", None),
            ("äää4-05-0", None),
        ] {
            assert_eq!(days(text), count, "{text}");
        }
        for (text, count) in [
            ("1970-01-02", Some(86_400_000_000)),
            ("2024-05-01T12:30:00Z", Some(1_714_566_600_000_000)),
            ("2024-05-01T12:30:00.25", Some(1_714_566_600_250_000)),
            ("1969-12-31T23:59:59.999999", Some(-1)),
            ("2024-05-01T24:00:00", None),
            ("2024-05-01T12:30", None),
            ("2024-05-01T12:30:00.1234567", None),
        ] {
            assert_eq!(micros(text), count, "{text}");
        }
        use ColumnType::{Date, DateTime, Instant, Text};
        for (text, wanted) in [
            ("2024-05-01", Date),
            ("2024-05-01T12:30:00", DateTime),
            ("2024-05-01T12:30:00Z", Instant),
            ("12:30:00", Text),
            ("", Text),
        ] {
            assert_eq!(kind(text), wanted, "{text}");
        }
    }
}
