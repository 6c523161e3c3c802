//! Dates and times in ISO 8601.

use chrono::DateTime;

const NANOS: i128 = 1_000_000_000;
const NANOS_OF_DAY: i128 = 86_400 * NANOS;

/// The date of a number of days since 1970.
pub(super) fn date(days: i64) -> String {
    let start = days
        .checked_mul(86_400)
        .and_then(|s| DateTime::from_timestamp(s, 0));
    start.unwrap_or_default().date_naive().to_string()
}

/// A time of day in nanoseconds, with as many digits as needed.
pub(super) fn time(nanos: i128) -> String {
    let seconds = nanos / NANOS;
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let fraction = match nanos % NANOS {
        0 => String::new(),
        part => format!(".{part:09}").trim_end_matches('0').to_owned(),
    };
    format!("{hours:02}:{minutes:02}:{:02}{fraction}", seconds % 60)
}

/// A time in nanoseconds since 1970.
pub(super) fn timestamp(nanos: i128, is_utc: bool) -> String {
    let days = nanos.div_euclid(NANOS_OF_DAY);
    let zone = if is_utc { "Z" } else { "" };
    let day = date(i64::try_from(days).unwrap_or_default());
    format!("{day}T{}{zone}", time(nanos.rem_euclid(NANOS_OF_DAY)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_people_read_them() {
        for (days, text) in [
            (0, "1970-01-01"),
            (-1, "1969-12-31"),
            (11_016, "2000-02-29"),
            (19_844, "2024-05-01"),
            (-719_528, "0000-01-01"),
            (2_932_896, "9999-12-31"),
            (2_932_897, "+10000-01-01"),
            (-719_529, "-0001-12-31"),
        ] {
            assert_eq!(date(days), text);
        }
        assert_eq!(time(0), "00:00:00");
        assert_eq!(time(86_399 * NANOS + 120_000_000), "23:59:59.12");
        assert_eq!(timestamp(-1, true), "1969-12-31T23:59:59.999999999Z");
        assert_eq!(
            timestamp(1_714_566_600 * NANOS, false),
            "2024-05-01T12:30:00"
        );
    }
}
