//! Which time it is if the system's clock may be wrong: what is deleted for its age would be gone for good.

use super::Timestamp;

/// A clock may jump so far, in milliseconds, and is believed once it has gone on for so long after a larger jump.
const DAY: i64 = 24 * 60 * 60 * 1000;
/// What is known is written again after this time.
const HOUR: i64 = 60 * 60 * 1000;

/// What the time is at least and at most. The two differ for a day after the clock has jumped by more than a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrustedTime {
    /// For what ends: nothing is deleted because a clock is ahead.
    pub earliest: Timestamp,
    /// For what begins: nothing ends early because it was made while a clock was behind.
    pub latest: Timestamp,
}

/// What is kept of the time between two looks at the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KnownTime {
    /// When the clock was last believed.
    believed: i64,
    /// When it was first seen so far from that.
    doubted: Option<i64>,
}

impl KnownTime {
    /// As [`text`](Self::text) wrote it.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (believed, doubted) = text.split_once(' ')?;
        Some(Self {
            believed: believed.parse().ok()?,
            doubted: doubted.parse().ok(),
        })
    }

    pub(crate) fn text(self) -> String {
        let doubted = self
            .doubted
            .map_or_else(|| "-".to_owned(), |at| at.to_string());
        format!("{} {doubted}", self.believed)
    }

    /// What the time is while the clock says this, and what is to be kept instead of `known`, if anything.
    pub(crate) fn look(known: Option<Self>, clock: Timestamp) -> (TrustedTime, Option<Self>) {
        let now = clock.0;
        let believe = Self {
            believed: now,
            doubted: None,
        };
        let Some(known) = known else {
            return (between(now, now), Some(believe));
        };
        // A clock that was behind and is ahead now has not gone on.
        let is_ahead = |at: i64| at >= known.believed;
        let doubted = known.doubted.filter(|at| is_ahead(*at) == is_ahead(now));
        // Less than zero if it has fallen back before the time at which it was first doubted.
        let gone_on = doubted.map_or(0, |since| now.saturating_sub(since));
        let estimate = known.believed.saturating_add(gone_on.max(0));
        if now.abs_diff(estimate) <= DAY as u64 || gone_on >= DAY {
            let is_old = known.doubted.is_some() || now.abs_diff(known.believed) >= HOUR as u64;
            return (between(now, now), is_old.then_some(believe));
        }
        let is_new = doubted.is_none() || gone_on < 0;
        let doubt = Self {
            doubted: Some(now),
            ..known
        };
        (between(now, estimate), is_new.then_some(doubt))
    }
}

fn between(one: i64, other: i64) -> TrustedTime {
    TrustedTime {
        earliest: Timestamp(one.min(other)),
        latest: Timestamp(one.max(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the time is at most and at least, in hours, as the clock shows these one after another.
    fn seen(clock: &[i64]) -> Vec<(i64, i64)> {
        let mut known = None;
        let look = |hours: &i64| {
            let (time, new) = KnownTime::look(known, Timestamp(hours * HOUR));
            if let Some(new) = new {
                known = KnownTime::parse(&new.text());
                assert_eq!(known, Some(new));
            }
            (time.earliest.0 / HOUR, time.latest.0 / HOUR)
        };
        clock.iter().map(look).collect()
    }

    #[test]
    fn a_jump_of_more_than_a_day_is_believed_after_a_day() {
        let steady = [(100, 100), (101, 101), (125, 125)];
        assert_eq!(seen(&[100, 101, 125]), steady);
        // Ahead, and back again: the next time, it is new.
        let ahead = [
            (100, 100),
            (100, 1540),
            (110, 1550),
            (111, 111),
            (111, 1600),
        ];
        assert_eq!(seen(&[100, 1540, 1550, 111, 1600]), ahead);
        let right = [
            (100, 100),
            (100, 1540),
            (123, 1563),
            (1564, 1564),
            (1570, 1570),
        ];
        assert_eq!(seen(&[100, 1540, 1563, 1564, 1570]), right);
        // Restarts and sleep count, and less far ahead is first seen anew.
        assert_eq!(seen(&[100, 1540, 1700])[2], (1700, 1700));
        assert_eq!(seen(&[100, 1540, 800, 823])[2..], [(100, 800), (123, 823)]);
        // Behind.
        let behind = [(1000, 1000), (5, 1000), (7, 1002), (1003, 1003)];
        assert_eq!(seen(&[1000, 5, 7, 1003]), behind);
        assert_eq!(seen(&[1000, 5, 29])[2], (29, 29));
        assert_eq!(seen(&[1000, 5, 2000])[2], (1000, 2000));
    }
}
