//! A rate that nobody tells, guessed from refusals: as many calls a second as were answered while the
//! provider refused more.
//!
//! A number of calls in flight is a poor measure of calls a minute: whoever stays just below has a tenth too
//! few, whoever is just above is refused all the time. So the first refusal of what had been accepted for a
//! while makes a guess, calls are let out at that pace, and each further refusal puts it right. Between
//! them it grows by small steps that double, so that a limit which was raised is soon found; that is how the
//! adaptive retry mode of the AWS SDKs paces itself, with the growth of CUBIC.

use std::time::Duration;

use crate::base::clock::Time;

use super::bucket::Bucket;

/// Answers and time that a guess is made of.
const ENOUGH: f64 = 20.0;
const LONG_ENOUGH: Duration = Duration::from_millis(200);
/// Of so many only the later half counts, about.
const RECENT: f64 = 100.0;
/// Just below what was refused.
const BELOW: f64 = 0.98;
/// Answers before the first step of growth, and between others; the first step, and the largest.
const REST: u32 = 400;
const STEADY: u32 = 100;
const FIRST_STEP: f64 = 0.01;
const LARGEST_STEP: f64 = 0.25;
/// Seconds' worth of calls that may start at once.
const CAPACITY: f64 = 0.05;

#[derive(Debug, Default)]
pub(super) struct RateGuess {
    /// Answers, and since when.
    answers: f64,
    since: Time,
    pace: Option<Pace>,
}

#[derive(Debug)]
struct Pace {
    bucket: Bucket,
    /// Of the rate, at the next growth.
    step: f64,
    /// Answers until then.
    rest: u32,
    /// It held a call back since the last one.
    binding: bool,
}

impl RateGuess {
    /// A call was answered.
    pub(super) fn answered(&mut self, now: Time) {
        self.answers += 1.0;
        if self.answers >= RECENT {
            let half = now.since(self.since).as_nanos() as u64 / 2;
            self.since = Time::from_nanos(now.as_nanos() - half);
            self.answers /= 2.0;
        }
        let Some(pace) = &mut self.pace else { return };
        pace.rest = pace.rest.saturating_sub(1);
        if pace.rest > 0 {
            return;
        }
        pace.rest = STEADY;
        // It limits nothing any more: there is another limit, or none.
        if !std::mem::take(&mut pace.binding) && pace.step >= LARGEST_STEP {
            self.pace = None;
            return;
        }
        pace.bucket.refill(now);
        pace.bucket.per_second *= 1.0 + pace.step;
        pace.bucket.capacity = capacity(pace.bucket.per_second);
        pace.step = (pace.step * 2.0).min(LARGEST_STEP);
    }

    /// A call was refused that had room in its window. True when the guess was put right for it.
    pub(super) fn refused(&mut self, now: Time) -> bool {
        let rate = self.rate(now);
        let Some(pace) = &mut self.pace else {
            return false;
        };
        let bucket = &mut pace.bucket;
        bucket.refill(now);
        let rate = rate.map_or(bucket.per_second, |rate| rate.min(bucket.per_second));
        bucket.per_second = rate * BELOW;
        bucket.capacity = capacity(bucket.per_second);
        bucket.level = bucket.level.min(0.0);
        pace.step = FIRST_STEP;
        pace.rest = REST;
        true
    }

    /// So many calls had been accepted before, and now one was refused.
    pub(super) fn begin(&mut self, now: Time) {
        if let (Some(rate), None) = (self.rate(now), &self.pace) {
            let capacity = capacity(rate);
            self.pace = Some(Pace {
                bucket: Bucket::per_minute(rate * 60.0, capacity, now),
                step: FIRST_STEP,
                rest: REST,
                binding: false,
            });
        }
        self.restart(now);
    }

    fn rate(&self, now: Time) -> Option<f64> {
        let span = now.since(self.since);
        let enough = self.answers >= ENOUGH && span >= LONG_ENOUGH;
        enough.then(|| self.answers / span.as_secs_f64())
    }

    /// What was before says nothing.
    pub(super) fn restart(&mut self, now: Time) {
        self.answers = 0.0;
        self.since = now;
    }

    pub(super) fn wait(&mut self, now: Time) -> Duration {
        let Some(pace) = &mut self.pace else {
            return Duration::ZERO;
        };
        pace.bucket.refill(now);
        let wait = pace.bucket.wait_for(1.0);
        pace.binding |= !wait.is_zero();
        wait
    }

    /// A call begins.
    pub(super) fn take(&mut self) {
        if let Some(pace) = &mut self.pace {
            pace.bucket.level -= 1.0;
        }
    }

    /// The provider tells it.
    pub(super) fn forget(&mut self) {
        self.pace = None;
    }
}

fn capacity(rate: f64) -> f64 {
    (rate * CAPACITY).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time::from_nanos(ms * 1_000_000)
    }

    /// Calls that start within a second, one for each that is let out.
    fn starts(guess: &mut RateGuess, from: u64) -> u32 {
        let mut started = 0;
        for ms in from..from + 1000 {
            if guess.wait(at(ms)).is_zero() {
                guess.take();
                guess.answered(at(ms));
                started += 1;
            }
        }
        started
    }

    /// As many a second were answered until one was refused.
    fn refused_at(rate: u64) -> RateGuess {
        let mut guess = RateGuess::default();
        (0..1000)
            .step_by(1000 / rate as usize)
            .for_each(|ms| guess.answered(at(ms)));
        guess.begin(at(1000));
        guess
    }

    #[test]
    fn what_was_answered_when_a_call_was_refused_is_the_pace_and_less_after_another_refusal() {
        let mut guess = refused_at(100);
        let first = starts(&mut guess, 1000);
        assert!((95..=112).contains(&first), "{first}");
        assert!(guess.refused(at(2000)));
        let less = starts(&mut guess, 2000);
        assert!((90..first).contains(&less), "{less} after {first}");
    }

    #[test]
    fn it_grows_faster_and_faster_until_it_limits_nothing() {
        let mut guess = refused_at(50);
        let seconds = (1..60).take_while(|second| starts(&mut guess, second * 1000) < 100);
        assert!(seconds.count() < 30);
        // Nobody wants more: then it is in nobody's way.
        for ms in (60_000..120_000).step_by(20) {
            let _ = guess.wait(at(ms));
            guess.answered(at(ms));
        }
        assert!(guess.pace.is_none());
    }

    #[test]
    fn a_few_answers_are_no_reason_for_a_guess() {
        let mut guess = RateGuess::default();
        (0..5).for_each(|ms| guess.answered(at(ms)));
        guess.begin(at(1000));
        assert!(!guess.refused(at(1001)) && guess.wait(at(1001)).is_zero());
    }
}
