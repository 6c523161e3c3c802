//! How fast calls are answered, measured while they are made: plain numbers, with the time as a value.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::Time;

/// A shorter time without an answer shows nothing.
const SILENCE: Duration = Duration::from_secs(20);
/// The recent rate is that of at least this time and number of answers.
const RECENT: Duration = Duration::from_secs(5);
const RECENT_ANSWERS: u64 = 5;

/// The rate of calls, and how long one takes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CallPace {
    /// Answered items per second.
    pub per_second: f64,
    /// Mean duration of a call, in seconds.
    pub call_seconds: f64,
    /// Whether calls of this run show it. Otherwise it is an assumption.
    pub measured: bool,
}

/// Measures the rate of calls. Time counts while calls are in flight or wanted, so an answer never counts without the
/// time that it took, also if its call ends after the others.
#[derive(Debug, Clone, Default)]
pub(crate) struct CallRate {
    in_flight: u32,
    is_wanted: bool,
    /// Time counts since then.
    since: Option<Time>,
    /// The time that was counted before.
    busy: Duration,
    answered: u64,
    call_time: Duration,
    longest: Duration,
    /// Calls in flight at most; zero if that is unknown.
    slots: u32,
    /// The counted time in which slots were free and no item waited.
    idle: Duration,
    /// The counted time and the answers at the beginning of the recent time, and of the time before it.
    marks: [(Duration, u64); 2],
}

impl CallRate {
    /// The same with at most this number of calls in flight.
    #[cfg(test)]
    pub fn of_slots(slots: u32) -> Self {
        Self {
            slots,
            ..Self::default()
        }
    }

    /// So many calls can be in flight.
    pub fn set_slots(&mut self, slots: u32) {
        self.slots = slots;
    }

    /// The duration of the longest call.
    pub fn longest(&self) -> Duration {
        self.longest
    }

    /// A call begins.
    pub fn start(&mut self, now: Time) {
        self.count(now);
        self.in_flight += 1;
        self.count(now);
    }

    /// A call ends; `answered` if its item will not be sent again.
    pub fn end(&mut self, now: Time, took: Duration, answered: bool) {
        self.count(now);
        self.in_flight = self.in_flight.saturating_sub(1);
        self.answered += u64::from(answered);
        if answered {
            self.call_time = self.call_time.saturating_add(took);
        }
        // A call that was given up has held its slot too.
        self.longest = self.longest.max(took);
        self.count(now);
    }

    /// Whether items wait for such calls, so that a pause counts as time too.
    pub fn wanted(&mut self, now: Time, yes: bool) {
        self.count(now);
        self.is_wanted = yes;
        self.count(now);
    }

    /// The rate so far: the lower one of all the time and of the recent time, because a provider may accept a burst
    /// before its limit binds. `None` if no call was answered and not enough time has passed to show that none is.
    pub fn pace(&self, now: Time) -> Option<CallPace> {
        let busy = self.counted(now);
        if self.answered == 0 && busy < SILENCE {
            return None;
        }
        let (from, before) = self.marks[0];
        let rate = |answers: u64, time: Duration| answers as f64 / time.as_secs_f64().max(0.001);
        let overall = rate(self.answered, busy);
        let recent = busy.saturating_sub(from);
        let shows = recent >= RECENT && self.answered.max(RECENT_ANSWERS) > before;
        let recent = rate(self.answered.saturating_sub(before), recent);
        let rate = if shows { overall.min(recent) } else { overall };
        // Few answers may all be of the burst that a provider accepts before its limit binds.
        let trust = 1.0 - 0.5 / ((self.answered + 1) as f64).sqrt();
        let call_seconds = self.call_time.as_secs_f64() / self.answered.max(1) as f64;
        // Free slots without a waiting item: the number of items has limited the rate, and not the provider.
        let is_limited = self.answered == 0 || self.idle < busy / 2;
        if is_limited {
            return Some(CallPace {
                per_second: rate * trust,
                call_seconds,
                measured: true,
            });
        }
        let most = f64::from(self.slots) / call_seconds.max(0.001);
        Some(CallPace {
            // More than twice the rate that was seen would be a guess.
            per_second: most.min(rate * 2.0).max(rate) * trust,
            call_seconds,
            measured: false,
        })
    }

    fn counted(&self, now: Time) -> Duration {
        let open = self.since.map_or(Duration::ZERO, |since| now.since(since));
        self.busy + open
    }

    fn count(&mut self, now: Time) {
        let before = self.busy;
        self.busy = self.counted(now);
        if !self.is_wanted && self.in_flight < self.slots {
            self.idle += self.busy.saturating_sub(before);
        }
        self.since = (self.in_flight > 0 || self.is_wanted).then_some(now);
        let [_, latest] = self.marks;
        let is_long = self.busy.saturating_sub(latest.0) >= RECENT.max(self.busy / 4);
        if is_long && self.answered - latest.1 >= RECENT_ANSWERS {
            self.marks = [latest, (self.busy, self.answered)];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Time {
        Time::ZERO.after(Duration::from_secs_f64(seconds))
    }

    /// The part of a rate that this number of answers shows.
    fn trust(answers: u32) -> f64 {
        1.0 - 0.5 / f64::from(answers + 1).sqrt()
    }

    fn is_about(rate: &CallRate, now: f64, expected: f64) -> bool {
        let pace = rate.pace(at(now)).unwrap();
        (pace.per_second - expected).abs() < 1e-9
    }

    const LONG: Duration = Duration::from_secs(2);

    #[test]
    fn an_answer_counts_with_the_time_that_it_took() {
        let mut rate = CallRate::default();
        rate.wanted(at(0.0), true);
        for _ in 0..10 {
            rate.start(at(0.0));
        }
        // Half of the calls end when no more are wanted; the others end 8 s later.
        for _ in 0..5 {
            rate.end(at(2.0), LONG, true);
        }
        rate.wanted(at(2.0), false);
        assert!(is_about(&rate, 2.0, 2.5 * trust(5)));
        for _ in 0..5 {
            rate.end(at(10.0), 4 * LONG, true);
        }
        assert!(is_about(&rate, 10.0, trust(10)));
        // Nothing is in flight or wanted: this time does not count.
        assert!(is_about(&rate, 500.0, trust(10)));
        assert_eq!(rate.pace(at(500.0)).unwrap().call_seconds, 5.0);
    }

    #[test]
    fn a_burst_before_a_limit_is_not_the_rate() {
        let mut rate = CallRate::default();
        rate.wanted(at(0.0), true);
        for _ in 0..20 {
            rate.start(at(0.0));
            rate.end(at(1.0), LONG, true);
        }
        for second in 2..60 {
            rate.start(at(f64::from(second)));
            rate.end(at(f64::from(second) + 0.5), LONG, true);
        }
        let pace = rate.pace(at(60.0)).unwrap().per_second;
        assert!((0.9..=1.1).contains(&pace), "{pace}");
    }

    #[test]
    fn fewer_items_than_slots_show_how_long_a_call_takes_and_not_the_rate() {
        let trial = |items: u32, slots: u32| {
            let mut rate = CallRate::of_slots(slots);
            for _ in 0..items {
                rate.start(at(0.0));
            }
            for _ in 0..items {
                rate.end(at(10.0), 5 * LONG, true);
            }
            rate.pace(at(10.0)).unwrap()
        };
        let few = trial(20, 200);
        assert!(!few.measured);
        // 200 slots could do 20 per second, and 2 were seen.
        assert!((few.per_second - 4.0 * trust(20)).abs() < 1e-9, "{few:?}");
        let full = trial(20, 20);
        assert!(full.measured);
        assert!((full.per_second - 2.0 * trust(20)).abs() < 1e-9, "{full:?}");
    }

    #[test]
    fn a_rejection_does_not_shorten_the_time_of_a_call() {
        let mut rate = CallRate::default();
        rate.start(at(0.0));
        rate.start(at(0.0));
        rate.end(at(0.1), LONG / 20, false);
        rate.end(at(2.0), LONG, true);
        rate.start(at(2.0));
        rate.end(at(6.0), 2 * LONG, false);
        assert_eq!(rate.pace(at(6.0)).unwrap().call_seconds, 2.0);
        assert_eq!(rate.longest(), 2 * LONG);
    }

    #[test]
    fn refusals_show_that_nothing_is_answered_after_a_while() {
        let mut rate = CallRate::default();
        rate.wanted(at(0.0), true);
        rate.start(at(0.0));
        rate.end(at(1.0), LONG, false);
        assert_eq!(rate.pace(at(1.0)), None);
        assert_eq!(rate.pace(at(30.0)).unwrap().per_second, 0.0);
    }
}
