//! A pace at which calls are let out where their provider refuses what goes faster, and tells no rate.
//!
//! It is TCP's way with a rate in place of a window: after a refusal it goes back to what worked, at once,
//! and beyond that it grows slowly, in steps that double (slow start up to a threshold, RFC 5681; the memory
//! of where refusals began and the growth around it, CUBIC, RFC 9438). The adaptive retry mode of the AWS
//! SDKs paces itself like that. Between growths it rests, longer after each one in vain: one refusal in a
//! thousand calls is what it costs to notice that a limit was raised.

use std::time::Duration;

use crate::base::clock::Time;

use super::bucket::Bucket;

/// Just below what was refused; so much less where nothing tells how much was accepted; and no less than
/// this at once, where few calls tell it.
const BELOW: f64 = 0.97;
const MUCH_BELOW: f64 = 0.85;
const LEAST_LEFT: f64 = 0.4;
/// Fewer calls tell a rate to no more than a quarter.
const TELLING: u64 = 20;
/// Answers of a rest, at first and after growths in vain; beyond the first, it is over after a time.
const FIRST_REST: u32 = 300;
const LONGEST_REST: u32 = 1200;
const LONGEST: Duration = Duration::from_secs(10);
/// A step lasts so many answers, and so long, since a provider's room for bursts hides what is too much.
const STEP: u32 = 40;
const STEP_TIME: Duration = Duration::from_secs(1);
/// By so much a pace grows: first, first from a rate that few calls tell, and at most.
const FIRST_STEP: f64 = 0.02;
const FIRST_STEP_OF_FEW: f64 = 0.03;
const LARGEST_STEP: f64 = 0.15;
/// A rate that has grown by more without a refusal is no longer the one that was remembered.
const CHANGED: f64 = 1.3;
/// A limit is as good as the one that worked before where it is less than so much above it.
const SAME: f64 = 1.05;
/// So much of a pace is made use of where it is what limits.
const USED: f64 = 0.85;
/// So many refusals in a row, each of a rate below one that had worked, have nothing to do with rates.
const IN_VAIN: u32 = 4;
/// Of a limit that falls the refusals follow one upon the other.
const LASTED: u64 = 10;
/// Calls that say nothing of it yet.
const TOO_FEW: u64 = 4;
/// Seconds' worth of calls that may start at once.
const CAPACITY: f64 = 0.02;

/// A call that began: when, and the how many-th it was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Begun {
    pub at: Time,
    pub number: u64,
}

impl Begun {
    pub(super) const NONE: Begun = Begun {
        at: Time::ZERO,
        number: 0,
    };
}

/// Calls that were accepted for a while, and how many a second that was.
#[derive(Debug, Clone, Copy)]
pub(super) struct Accepted {
    pub calls: u64,
    pub rate: f64,
}

#[derive(Debug)]
pub(super) struct Pace {
    bucket: Bucket,
    /// The rate that worked.
    safe: f64,
    /// Of the rate, at the next growth.
    step: f64,
    /// Answers until then, as long as none of the two times says otherwise.
    rest: u32,
    not_before: Time,
    /// When a rest ends that is longer than the first.
    latest: Time,
    /// Answers that the next rest lasts.
    next_rest: u32,
    /// What had begun when the rate was set.
    first: Begun,
    /// Refusals in a row of the rate that worked.
    in_vain: u32,
}

impl Accepted {
    fn is_telling(self) -> bool {
        self.calls >= TELLING
    }

    /// Answers after which it is time to learn more, and the step then.
    fn rest(self) -> u32 {
        u32::try_from(self.calls * 10)
            .unwrap_or(u32::MAX)
            .max(2 * TELLING as u32)
    }

    fn step(self) -> f64 {
        match self.is_telling() {
            true => FIRST_STEP,
            false => FIRST_STEP_OF_FEW,
        }
    }
}

impl Pace {
    pub(super) fn new(accepted: Accepted, begun: Begun) -> Self {
        let rate = accepted.rate * BELOW;
        let mut pace = Self {
            bucket: Bucket::per_minute(rate * 60.0, capacity(rate), begun.at),
            safe: rate,
            step: FIRST_STEP,
            rest: 0,
            not_before: Time::ZERO,
            latest: Time::ZERO,
            next_rest: FIRST_REST,
            first: begun,
            in_vain: 0,
        };
        pace.hold(rate, begun);
        pace.learn_more(accepted);
        pace
    }

    /// A call was answered. True when it limits nothing any more: there is another limit, or none.
    pub(super) fn answered(&mut self, begun: Begun) -> bool {
        self.rest = self.rest.saturating_sub(1);
        let rested = self.next_rest - self.rest.min(self.next_rest);
        let is_over = self.rest == 0 || begun.at >= self.latest && rested >= FIRST_REST;
        if !is_over || begun.at < self.not_before {
            return false;
        }
        if !self.is_used(begun) && self.step >= LARGEST_STEP {
            return true;
        }
        self.rest = STEP;
        self.not_before = begun.at.after(STEP_TIME);
        self.set(self.bucket.per_second * (1.0 + self.step), begun);
        self.step = (self.step * 2.0).min(LARGEST_STEP);
        if self.bucket.per_second > CHANGED * self.safe {
            self.safe = self.bucket.per_second / CHANGED;
            self.next_rest = FIRST_REST;
        }
        false
    }

    /// A call was refused; so many had been accepted since the refusal before.
    pub(super) fn refused(&mut self, accepted: Option<Accepted>, begun: Begun) {
        let (rate, safe) = (self.bucket.per_second, self.safe);
        let below = accepted.map(|accepted| accepted.rate * BELOW);
        let next = if rate > safe {
            self.in_vain = 0;
            // Growth was in vain.
            let next = below.map_or(safe, |below| below.max(safe));
            self.next_rest = match next < SAME * safe {
                true => (self.next_rest * 2).min(LONGEST_REST),
                false => FIRST_REST,
            };
            next
        } else {
            let lasted = accepted.is_some_and(|accepted| accepted.calls >= LASTED);
            self.in_vain += u32::from(lasted);
            self.next_rest = FIRST_REST;
            let least = match accepted {
                Some(accepted) if !accepted.is_telling() => rate * LEAST_LEFT,
                _ => 0.0,
            };
            below.map_or(rate * MUCH_BELOW, |below| below.max(least))
        };
        let next = next.min(rate * BELOW);
        self.hold(next, begun);
        if let Some(accepted) = accepted.filter(|_| next < safe) {
            self.learn_more(accepted);
        }
    }

    /// Whether calls are refused however slow they are.
    pub(super) fn is_in_vain(&self) -> bool {
        self.in_vain >= IN_VAIN
    }

    /// Rests at this rate, after the provider's own room has come back a little.
    fn hold(&mut self, rate: f64, begun: Begun) {
        self.set(rate, begun);
        self.safe = rate;
        (self.step, self.rest) = (FIRST_STEP, self.next_rest);
        self.not_before = begun.at.after(STEP_TIME);
        self.latest = begun.at.after(LONGEST);
        let owed = -1.0 - CAPACITY * rate;
        self.bucket.level = self.bucket.level.min(owed);
    }

    /// So few calls are not to be trusted for long.
    fn learn_more(&mut self, accepted: Accepted) {
        self.rest = self.rest.min(accepted.rest());
        self.step = accepted.step();
    }

    fn set(&mut self, rate: f64, begun: Begun) {
        self.first = begun;
        self.bucket.refill(begun.at);
        self.bucket.per_second = rate;
        self.bucket.capacity = capacity(rate);
    }

    /// Whether it is what limits calls, of which so many have begun.
    pub(super) fn is_used(&self, begun: Begun) -> bool {
        let calls = begun.number.saturating_sub(self.first.number);
        let could = begun.at.since(self.first.at).as_secs_f64() * self.bucket.per_second;
        calls < TOO_FEW || calls as f64 >= USED * could
    }

    /// Until a call may start.
    pub(super) fn wait(&mut self, now: Time) -> Duration {
        self.bucket.refill(now);
        self.bucket.wait_for(1.0)
    }

    /// A call begins.
    pub(super) fn take(&mut self) {
        self.bucket.level -= 1.0;
    }
}

fn capacity(rate: f64) -> f64 {
    (rate * CAPACITY).max(1.0)
}
