//! The rate of a quota whose provider limits calls per time without reporting the limit.
//!
//! Calls start evenly, one at a time, so that providers without bursts accept them too. The rate is found and kept as
//! TCP finds its window:
//!
//! - **Slow start** (RFC 5681): until a call is rejected, the rate grows by a third each second.
//! - **CUBIC** (RFC 9438): after a rejected call, the rate falls slightly below the rate that the provider accepted, grows
//!   back fast, stays near that rate for a while, and then grows faster and faster until the next rejection. Time counts
//!   only while the rate is what limits calls. The adaptive retry mode of the AWS SDKs does the same.
//!
//! Some rejections do not depend on the rate, for example if the provider is short of capacity. Then the same part of the calls
//! is rejected at lower and lower rates; the rate is dropped, and such outliers are tolerated.
//!
//! The accepted rate is measured. A rejection means that the provider's allowance is empty. So the calls accepted
//! between two rejections, divided by the time between them, are at most its rate, whatever burst it allows.

use std::time::Duration;

use crate::base::Time;

use super::bucket::{Bucket, Flow};
use super::outliers::{Level, Outliers};

/// The part of the accepted rate by which a rejection lowers the rate.
const DEPTH: f64 = 0.07;
/// Seconds, and number of calls, after which the rate is back at the accepted rate. This bounds the number of
/// rejections.
const RETURN: f64 = 6.0;
const RETURN_CALLS: f64 = 150.0;
/// Factor for a rate that was rejected immediately, without a measurement.
const MUCH_LESS: f64 = 0.5;
/// Factor for a rate that was rejected before anything was measured, but had been accepted at first.
const GUESSED: f64 = 0.75;
/// A rate this much above the accepted one shows that the limit has changed.
const CHANGED: f64 = 1.15;
/// Growth per step of slow start.
const FAST: f64 = 1.35;
/// Minimum time between two changes of the rate.
const STEP: Duration = Duration::from_secs(1);
/// The rate grows only while calls are answered: the last answer is at most this old, or as old as two intervals
/// between calls.
const ANSWERING: Duration = Duration::from_secs(3);
const ROOM: f64 = 2.0;
/// Accepted calls that measure a rate to about 10 %, and those that give a first estimate.
const TELLING: u64 = 10;
const ENOUGH: u64 = 2;
/// The part of the rate that calls use if the rate limits them.
const USED: f64 = 0.9;
/// After this number of unused steps, something else limits calls.
const UNUSED: u32 = 4;
/// A much lower accepted rate shows that the limit was lowered.
const LOWERED: f64 = 0.5;
/// Lowest rate, in calls per second. Below it, the wait that a rejection requests is obeyed.
const LEAST: f64 = 1.0 / 60.0;
/// Burst, in seconds of the rate.
const CAPACITY: f64 = 0.02;
/// Calls that began within this many seconds may still be rejected.
const SHORT: f64 = 0.1;
/// The start of a call: its time and number.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Begun {
    pub at: Time,
    number: u64,
}

/// Calls that were accepted for a while, and their rate per second.
#[derive(Debug, Clone, Copy)]
struct Accepted {
    calls: u64,
    rate: f64,
    /// The provider's rate is at least this; 0 if a pause hides it.
    least: f64,
}

#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Number of calls that have started.
    begun: u64,
    /// The rejected call from which accepted calls are counted, and rejections since.
    pub mark: Option<Begun>,
    refusals: u64,
    /// The quota has paused since then, so accepted calls include what was refilled meanwhile.
    paused: bool,
    last_answer: Time,
    last_call: Time,
    /// Duration of a call in seconds.
    latency: f64,
    pub rate: Option<Rate>,
    outliers: Option<Outliers>,
}

/// The rate at which calls start, per second.
#[derive(Debug)]
pub(super) struct Rate {
    bucket: Bucket,
    /// The accepted rate at the last rejection; `None` in slow start.
    accepted: Option<f64>,
    /// The part of it by which the last rejection lowered the rate.
    depth: f64,
    /// The rate of the previous step.
    last: f64,
    /// Seconds since the last rejection in which the rate was used.
    used: f64,
    /// The last call that had started when the present step began.
    step: Begun,
    /// Consecutive steps in which the rate was not used.
    unused: u32,
    /// The last call that had started when the rate was lowered.
    lowered: u64,
    /// The accepted rate between the last two rejections.
    measured: f64,
    level: Level,
}

impl Pace {
    /// Records that a call was answered.
    pub(super) fn answered(&mut self, call: Begun, took: Duration, now: Time) {
        let took = took.as_secs_f64();
        self.latency = match self.latency {
            0.0 => took,
            latency => latency + (took - latency) / 16.0,
        };
        self.last_answer = now;
        if let Some(rate) = &mut self.rate {
            rate.level.answered(call.number);
        }
        self.outliers.take_if(|outliers| !outliers.answered());
    }

    /// Records a rejection. Returns true if it is an outlier: a rate would not avoid it either.
    pub(super) fn is_outlier(&mut self) -> bool {
        self.outliers.take_if(|outliers| !outliers.refused());
        self.outliers.is_some()
    }

    /// Starts to search for a rate, upwards from that of `at_once` calls in flight, unless one is known.
    pub(super) fn start(&mut self, at_once: u32, now: Time) {
        let rate = f64::from(at_once) / self.latency.max(1e-3);
        let begun = self.so_far(now);
        self.rate.get_or_insert_with(|| Rate::new(rate, begun));
    }

    /// Records that a call was rejected because of its rate.
    pub(super) fn refused(&mut self, call: Begun, now: Time) {
        let accepted = self.accepted(call);
        let begun = self.so_far(now);
        if let Some(rate) = &mut self.rate {
            rate.level.refused(call.number);
        }
        match &mut self.rate {
            // The call started before the rate was last lowered, so it shows nothing about the new rate.
            Some(rate) if call.number <= rate.lowered => {}
            Some(rate) => {
                rate.refused(accepted, begun);
                let lower = rate.bucket.per_second;
                if let Some(share) = rate.level.in_vain(lower, begun.number) {
                    (self.rate, self.outliers) = (None, Some(Outliers::new(share)));
                }
            }
            None => {
                if let Some(accepted) = accepted.filter(|accepted| accepted.calls >= ENOUGH) {
                    let mut rate = Rate::new(accepted.rate, begun);
                    rate.hold_back(accepted.rate);
                    self.rate = Some(rate);
                }
            }
        }
        self.mark(call);
    }

    /// Records that a call was rejected for any reason. If few calls were accepted since the last rejection, the
    /// count continues.
    pub(super) fn mark(&mut self, call: Begun) {
        let accepted = self.accepted(call);
        if self.mark.is_none() || accepted.is_some_and(|accepted| accepted.calls >= TELLING) {
            (self.mark, self.refusals, self.paused) = (Some(call), 0, false);
        } else {
            self.refusals += 1;
        }
    }

    /// Records the rejection of a call that had started before the last rejection was known.
    pub(super) fn refused_too(&mut self, call: Begun) {
        self.refusals += 1;
        if let Some(rate) = &mut self.rate {
            rate.level.refused_late(call.number);
        }
    }

    /// Calls that were accepted between the marked rejection and this one.
    fn accepted(&self, call: Begun) -> Option<Accepted> {
        let mark = self.mark?;
        let span = call.at.since(mark.at).as_secs_f64().max(SHORT);
        let begun = call.number.saturating_sub(mark.number + 1);
        let calls = begun.saturating_sub(self.refusals);
        (calls > 0).then(|| Accepted {
            calls,
            rate: calls as f64 / span,
            least: if self.paused {
                0.0
            } else {
                (calls - 1) as f64 / span
            },
        })
    }

    fn so_far(&self, now: Time) -> Begun {
        Begun {
            at: now,
            number: self.begun,
        }
    }

    /// Whether the rate is in slow start: no rate is known to be too high.
    pub(super) fn is_starting(&self) -> bool {
        self.rate
            .as_ref()
            .is_some_and(|rate| rate.accepted.is_none())
    }

    /// Whether the rate grows fast, back to a much higher one: few of the calls that it has started are answered yet.
    pub(super) fn is_returning(&self) -> bool {
        self.rate.as_ref().is_some_and(Rate::is_returning)
    }

    /// Calls in flight at this rate, with some margin.
    pub(super) fn in_flight(&self) -> u32 {
        let rate = self
            .rate
            .as_ref()
            .map_or(0.0, |rate| rate.bucket.per_second);
        (ROOM * rate * self.latency).ceil() as u32
    }

    /// Whether the rate limits calls.
    pub(super) fn is_used(&self, now: Time) -> bool {
        let begun = self.so_far(now);
        self.rate.as_ref().is_some_and(|rate| rate.is_used(begun))
    }

    /// Adds a pause in which no call starts.
    pub(super) fn skip(&mut self, pause: Duration) {
        if let Some(mark) = &mut self.mark {
            mark.at = mark.at.after(pause);
            self.paused = true;
        }
        if let Some(rate) = &mut self.rate
            && pause.as_secs_f64() * rate.bucket.per_second >= 1.0
        {
            rate.level.paused();
        }
    }

    /// Seconds between two calls at this rate; 0 if no rate is known.
    fn apart(&self) -> f64 {
        let rate = self.rate.as_ref();
        rate.map_or(0.0, |rate| 2.0 / rate.bucket.per_second)
    }

    /// Time until which the rate may have delayed calls.
    pub(super) fn held_until(&self) -> Time {
        self.last_call.after(Duration::from_secs_f64(self.apart()))
    }

    /// Time until a call may start.
    pub(super) fn wait(&mut self, now: Time) -> Duration {
        self.rate.as_mut().map_or(Duration::ZERO, |rate| {
            rate.bucket.refill(now);
            rate.bucket.wait_for(1.0)
        })
    }

    /// The calls that may start, if there is a rate.
    pub(super) fn flow(&mut self, now: Time) -> Option<Flow> {
        Some(self.rate.as_mut()?.bucket.flow(1.0, now))
    }

    /// Records the start of a call.
    pub(super) fn take(&mut self, now: Time) -> Begun {
        self.begun += 1;
        let begun = self.so_far(now);
        let apart = Duration::from_secs_f64(self.apart() + self.latency);
        let answering = now.since(self.last_answer) < ANSWERING.max(apart);
        self.last_call = now;
        if let Some(rate) = &mut self.rate {
            rate.bucket.level -= 1.0;
            if answering && rate.called(begun) {
                self.rate = None;
            }
        }
        begun
    }
}

impl Rate {
    /// Slow start from this rate.
    fn new(rate: f64, begun: Begun) -> Self {
        let rate = rate.max(LEAST);
        Self {
            bucket: Bucket::per_minute(rate * 60.0, capacity(rate), begun.at),
            accepted: None,
            depth: DEPTH,
            used: 0.0,
            step: begun,
            unused: 0,
            lowered: begun.number,
            measured: 0.0,
            level: Level::new(rate, begun.number),
            last: rate,
        }
    }

    /// Records the start of a call. Returns true if something else limits calls.
    fn called(&mut self, begun: Begun) -> bool {
        let span = begun.at.since(self.step.at);
        if span < STEP {
            return false;
        }
        if !self.is_used(begun) {
            self.unused += 1;
            self.step = begun;
            return self.unused >= UNUSED;
        }
        self.unused = 0;
        let longest = (2.0 / self.bucket.per_second).max(2.0 * STEP.as_secs_f64());
        self.used += span.as_secs_f64().min(longest);
        self.last = self.bucket.per_second;
        let rate = self.grown();
        self.set(rate, begun);
        false
    }

    /// The rate at the present time.
    fn grown(&mut self) -> f64 {
        let Some(accepted) = self.accepted else {
            return self.bucket.per_second * FAST;
        };
        let back = RETURN.max(RETURN_CALLS / accepted);
        let rate = accepted * (1.0 + self.depth * (self.used / back - 1.0).powi(3));
        if rate > CHANGED * accepted {
            self.accepted = None;
        }
        if self.used >= back {
            self.measured = 0.0;
            self.level = Level::new(rate, self.step.number);
        }
        rate
    }

    /// Lowers the rate after a rejection; `since` are the calls accepted since the previous one.
    fn refused(&mut self, since: Option<Accepted>, begun: Begun) {
        let rate = self.bucket.per_second;
        let since = since.filter(|accepted| accepted.calls >= TELLING);
        let measured = since.map(|accepted| accepted.rate.min(rate));
        let before = self.measured;
        if let Some(Accepted { least, .. }) = since {
            self.measured = if least < LOWERED * before {
                least
            } else {
                least.max(before)
            };
        }
        match self.accepted {
            // The last step exceeded the limit, unless a burst had hidden that before.
            None => {
                let last = if self.last < rate {
                    self.last
                } else {
                    rate * MUCH_LESS
                };
                let accepted = measured.map_or(last, |measured| (measured + last) / 2.0);
                self.fall_below(rate, 1.0 - accepted / rate * (1.0 - DEPTH), begun);
            }
            // During fast growth back to the accepted rate.
            Some(_) if self.is_returning() => {
                self.fall_below((self.last + rate) / 2.0, DEPTH, begun)
            }
            Some(_) => {
                let guessed = before.clamp(rate * GUESSED, rate * (1.0 - 2.0 * DEPTH));
                let measured = measured.unwrap_or(guessed);
                self.fall_below((measured + rate) / 2.0, DEPTH, begun);
            }
        }
    }

    fn is_returning(&self) -> bool {
        self.accepted.is_some() && self.depth > 2.0 * DEPTH
    }

    /// Continues at `depth` below the accepted rate.
    fn fall_below(&mut self, accepted: f64, depth: f64, begun: Begun) {
        (self.accepted, self.depth, self.used, self.unused) = (Some(accepted), depth, 0.0, 0);
        self.lowered = begun.number;
        let rate = accepted * (1.0 - depth);
        self.set(rate, begun);
        self.hold_back(rate);
    }

    /// The provider's allowance is empty: calls pause until it has refilled a little.
    fn hold_back(&mut self, rate: f64) {
        self.bucket.level = self.bucket.level.min(-1.0 - CAPACITY * rate);
    }

    fn set(&mut self, rate: f64, begun: Begun) {
        let rate = rate.max(LEAST);
        self.level.grown_to(rate, begun.number);
        self.step = begun;
        self.bucket.refill(begun.at);
        self.bucket.per_second = rate;
        self.bucket.capacity = capacity(rate);
    }

    /// Whether calls have used the rate in this step.
    fn is_used(&self, begun: Begun) -> bool {
        let calls = begun.number.saturating_sub(self.step.number);
        let could = begun.at.since(self.step.at).as_secs_f64() * self.bucket.per_second;
        calls as f64 + 2.0 >= USED * could
    }
}

fn capacity(rate: f64) -> f64 {
    (rate * CAPACITY).max(1.0)
}

#[cfg(test)]
#[path = "pace_tests.rs"]
mod tests;
