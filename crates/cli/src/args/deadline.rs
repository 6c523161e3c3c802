//! The arguments of a run with a deadline.

use batchwright::Deadline;
use chrono::{
    DateTime, Days, FixedOffset, Local, MappedLocalTime, NaiveDate, NaiveDateTime, NaiveTime,
    TimeDelta, TimeZone, Timelike,
};
use clap::Args;

#[derive(Debug, Args)]
#[command(next_help_heading = "Pace")]
pub struct DeadlineArgs {
    /// Finish by this time at least cost, for example 06:00
    ///
    /// A time of day is the next one, in the local time zone. A date is written as 2026-12-01T06:00, with Z or an offset
    /// for another zone. The run begins with batches if they can end in time, and moves items that would be late to
    /// the flex tier, then to standard calls. A run that is resumed with the same words keeps its deadline; if that is
    /// over, a time of day is again the next one. If the deadline passes, the run goes on with standard calls, and its
    /// exit code is 5
    #[arg(long, value_name = "TIME", value_parser = by, conflicts_with = "within")]
    pub by: Option<GivenDeadline>,

    /// The same, this long after the start, for example 8h
    #[arg(long, value_name = "TIME", value_parser = within, hide_short_help = true)]
    pub within: Option<GivenDeadline>,
}

/// A deadline as it was given.
#[derive(Debug, Clone)]
pub struct GivenDeadline {
    pub deadline: Deadline,
    /// The flag and its value.
    pub words: String,
    /// It is a time of day, which comes again.
    pub recurs: bool,
}

impl DeadlineArgs {
    pub fn given(&self) -> Option<&GivenDeadline> {
        self.by.as_ref().or(self.within.as_ref())
    }
}

fn within(text: &str) -> Result<GivenDeadline, String> {
    let text = text.trim();
    let bad = |_| "write a time, for example 90s, 45m, 8h or 2days".to_owned();
    let time = humantime::parse_duration(text).map_err(bad)?;
    let deadline = Deadline::within(time).map_err(|error| error.message().to_owned())?;
    let words = format!("--within {text}");
    Ok(GivenDeadline {
        deadline,
        words,
        recurs: false,
    })
}

fn by(text: &str) -> Result<GivenDeadline, String> {
    let text = text.trim();
    let time = moment(text, Local::now())?;
    Ok(GivenDeadline {
        deadline: Deadline::at(time.into()),
        words: format!("--by {text}"),
        recurs: time_of_day(text).is_some(),
    })
}

/// The moment that these words name at `now`.
fn moment<Z: TimeZone>(text: &str, now: DateTime<Z>) -> Result<DateTime<FixedOffset>, String> {
    let bad = || {
        "write a time of day, for example 06:00, or a date with a time, for example 2026-12-01T06:00".to_owned()
    };
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time);
    }
    if let Some(time) = time_of_day(text) {
        return next(time, &now).ok_or_else(bad);
    }
    let forms = [
        "%Y-%m-%dT%H:%M",
        "%Y-%m-%d %H:%M",
        "%Y-%m-%dT%H:%M:%S",
        "%Y-%m-%d %H:%M:%S",
    ];
    let mut forms = forms.iter();
    let date = forms.find_map(|form| NaiveDateTime::parse_from_str(text, form).ok());
    let date = date.ok_or_else(bad)?;
    here(date, &now).ok_or_else(|| format!("{text} does not exist in the local time zone"))
}

fn time_of_day(text: &str) -> Option<NaiveTime> {
    let mut forms = ["%H:%M", "%H:%M:%S"].into_iter();
    forms.find_map(|form| NaiveTime::parse_from_str(text, form).ok())
}

/// The next time of day after `now`. If the clock skips it, it is the first moment after the gap.
fn next<Z: TimeZone>(time: NaiveTime, now: &DateTime<Z>) -> Option<DateTime<FixedOffset>> {
    let today: NaiveDate = now.date_naive();
    let days = [0, 1, 2].map(|days| today.checked_add_days(Days::new(days)));
    let times = days.into_iter().flatten().filter_map(|day| {
        let time = day.and_time(time);
        here(time, now).or_else(|| after_gap(time, now))
    });
    times.into_iter().find(|at| at > now)
}

/// The first minute that the clock shows after this one, which it skips.
fn after_gap<Z: TimeZone>(time: NaiveDateTime, now: &DateTime<Z>) -> Option<DateTime<FixedOffset>> {
    let minute = time.with_second(0)?;
    // The longest gap is a day, where a zone has moved across the date line.
    let mut minutes = 1..=24 * 60;
    minutes.find_map(|more| here(minute + TimeDelta::minutes(more), now))
}

/// This local time. Of a time that the clock shows twice, it is the first one that is not over.
fn here<Z: TimeZone>(time: NaiveDateTime, now: &DateTime<Z>) -> Option<DateTime<FixedOffset>> {
    match now.timezone().from_local_datetime(&time) {
        MappedLocalTime::Single(at) => Some(at.fixed_offset()),
        MappedLocalTime::Ambiguous(first, second) => {
            let at = if first > *now { first } else { second };
            Some(at.fixed_offset())
        }
        MappedLocalTime::None => None,
    }
}

/// A deadline in local time.
pub fn shown(deadline: Deadline) -> String {
    let time: DateTime<Local> = deadline.time().into();
    time.format("%Y-%m-%d %H:%M:%S %:z").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<FixedOffset> {
        DateTime::parse_from_rfc3339(text).unwrap()
    }

    #[test]
    fn a_time_of_day_is_the_next_one_and_a_date_is_exact() {
        let now = at("2026-11-26T22:00:00+01:00");
        for (text, expected) in [
            ("06:00", "2026-11-27T06:00:00+01:00"),
            ("22:00", "2026-11-27T22:00:00+01:00"),
            ("22:00:01", "2026-11-26T22:00:01+01:00"),
            ("2026-12-01T06:00", "2026-12-01T06:00:00+01:00"),
            ("2026-12-01 06:00:30", "2026-12-01T06:00:30+01:00"),
            ("2020-01-01T00:00:00Z", "2020-01-01T00:00:00Z"),
        ] {
            assert_eq!(moment(text, now), Ok(at(expected)), "{text}");
        }
        for text in [
            "",
            "6",
            "25:00",
            "2026-13-01T06:00",
            "tomorrow",
            "2026-12-01",
        ] {
            assert!(moment(text, now).is_err(), "{text}");
        }
    }

    /// A zone whose clock goes from 02:00 to 03:00 on 2027-03-28, and from 03:00 back to 02:00 on 2026-10-25.
    #[derive(Clone, Copy)]
    struct Zone;

    impl Zone {
        const WINTER: i32 = 3600;
        const SUMMER: i32 = 7200;

        fn of(seconds: i32) -> FixedOffset {
            FixedOffset::east_opt(seconds).unwrap()
        }
    }

    impl TimeZone for Zone {
        type Offset = FixedOffset;

        fn from_offset(_: &FixedOffset) -> Self {
            Self
        }
        fn offset_from_local_date(&self, _: &NaiveDate) -> MappedLocalTime<FixedOffset> {
            MappedLocalTime::None
        }
        fn offset_from_local_datetime(&self, at: &NaiveDateTime) -> MappedLocalTime<FixedOffset> {
            let fits = [Self::SUMMER, Self::WINTER].map(Self::of).map(|offset| {
                let utc = *at - offset;
                (self.offset_from_utc_datetime(&utc) == offset).then_some(offset)
            });
            match fits {
                [Some(first), Some(second)] => MappedLocalTime::Ambiguous(first, second),
                [Some(one), None] | [None, Some(one)] => MappedLocalTime::Single(one),
                [None, None] => MappedLocalTime::None,
            }
        }
        fn offset_from_utc_date(&self, _: &NaiveDate) -> FixedOffset {
            Self::of(Self::WINTER)
        }
        fn offset_from_utc_datetime(&self, utc: &NaiveDateTime) -> FixedOffset {
            let moment = |text: &str| at(text).naive_utc();
            let is_winter =
                *utc >= moment("2026-10-25T01:00:00Z") && *utc < moment("2027-03-28T01:00:00Z");
            Self::of(if is_winter {
                Self::WINTER
            } else {
                Self::SUMMER
            })
        }
    }

    #[test]
    fn a_skipped_time_is_the_first_moment_after_it_and_a_repeated_one_may_be_the_second() {
        for (now, text, expected) in [
            ("2027-03-27T22:00:00Z", "02:30", "2027-03-28T01:00:00Z"),
            ("2027-03-28T01:00:00Z", "02:30", "2027-03-29T00:30:00Z"),
            ("2026-10-25T00:10:00Z", "02:30", "2026-10-25T00:30:00Z"),
            ("2026-10-25T01:10:00Z", "02:30", "2026-10-25T01:30:00Z"),
            ("2026-10-25T01:40:00Z", "02:30", "2026-10-26T01:30:00Z"),
        ] {
            let now = at(now).with_timezone(&Zone);
            assert_eq!(moment(text, now), Ok(at(expected)), "{now:?} {text}");
        }
        let now = at("2027-03-27T22:00:00Z").with_timezone(&Zone);
        assert!(moment("2027-03-28T02:30", now).is_err());
    }

    #[test]
    fn only_a_time_of_day_comes_again() {
        assert!(by("06:00").unwrap().recurs);
        assert!(!by("2026-12-01T06:00").unwrap().recurs);
        assert!(!within("8h").unwrap().recurs);
    }

    #[test]
    fn a_time_too_far_away_is_rejected_without_a_panic() {
        assert!(within("8h").is_ok());
        for text in ["9000y", "99999999999999999999y", "-1h", "soon", "5"] {
            assert!(within(text).is_err(), "{text}");
        }
    }
}
