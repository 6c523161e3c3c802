//! The pace of a quota whose provider refuses calls for their number per time and reports no limit.
//!
//! Calls go out evenly, one at a time, so that a provider without room for bursts accepts them too. The pace
//! is found and held as TCP finds its window:
//!
//! - **Slow start** (RFC 5681): while nothing is known to be too much, the pace grows by a third each second.
//! - **CUBIC** (RFC 9438): after a refusal, the pace falls a little below the rate that the provider accepted,
//!   grows back fast, stays around that rate for a while, and then grows faster and faster, until the next
//!   refusal. Time counts only while the pace is what limits calls. The AWS SDKs' adaptive retry mode does the
//!   same.
//!
//! The accepted rate is measured: a refusal means that nothing is left of the provider's allowance, so the
//! calls that were accepted between two refusals, by the time between them, are at most its rate, whatever
//! room for bursts it has.

use std::time::Duration;

use crate::base::clock::Time;

use super::bucket::Bucket;

/// The part of the accepted rate by which a refusal lowers the pace.
const DEPTH: f64 = 0.07;
/// The pace is back at the accepted rate after so long, and after so many calls: this bounds refusals.
const RETURN: f64 = 6.0;
const RETURN_CALLS: f64 = 150.0;
/// What is left of a rate that was refused at once, where nothing was measured.
const MUCH_LESS: f64 = 0.5;
/// What is accepted of a rate at least that was refused before anything was measured, and had been fine.
const GUESSED: f64 = 0.75;
/// A pace so far above the rate that was accepted shows that the limit has changed.
const CHANGED: f64 = 1.15;
/// Growth of slow start in each step.
const FAST: f64 = 1.35;
/// The least time and the least number of calls between two changes of the pace.
const STEP: Duration = Duration::from_secs(1);
const STEP_CALLS: u64 = 1;
/// It grows only while calls are answered, the last one no longer ago than this, or than two calls are apart.
const ANSWERING: Duration = Duration::from_secs(3);
const ROOM: f64 = 2.0;
/// Accepted calls that show a rate to about a tenth, and those that give a first idea of it.
const TELLING: u64 = 10;
const ENOUGH: u64 = 2;
/// The part of the pace that calls make use of where the pace is what limits them.
const USED: f64 = 0.9;
/// After this number of unused steps, something else limits calls.
const UNUSED: u32 = 4;
/// So many refusals in a row of less than this part of a rate that was accepted have nothing to do with the pace.
const IN_VAIN: u32 = 4;
const LESS: f64 = 0.9;
const LOWERED: f64 = 0.5;
/// Calls a second that no pace is below: beyond that what a refusal asks for is waited for.
const LEAST: f64 = 1.0 / 60.0;
/// Seconds' worth of calls that may start at once.
const CAPACITY: f64 = 0.02;
/// Of calls that began within less seconds, some may yet be refused.
const SHORT: f64 = 0.1;
/// Refusals that no pace avoids are borne as long as they are fewer than one in so many calls; the first few
/// always are. After so many answers a pace may help again.
const CALLS_OF_A_STRAY: u64 = 12;
const FEW_STRAYS: u64 = 5;
const LOOK_AGAIN: u64 = 2_000;

/// A call that began: when, and its number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Begun {
    at: Time,
    number: u64,
}

impl Begun {
    pub(super) const NONE: Begun = Begun {
        at: Time::ZERO,
        number: 0,
    };
}

/// Calls that were accepted for a while, and how many a second that was.
#[derive(Debug, Clone, Copy)]
struct Accepted {
    calls: u64,
    rate: f64,
    /// The provider's rate is no lower than this; 0 where a pause hides it.
    least: f64,
}

#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Calls that have begun.
    begun: u64,
    /// The refused call from which on accepted calls are counted, and refusals since then.
    mark: Option<Begun>,
    refusals: u64,
    /// The quota paused since then: what has come back meanwhile is more than the rate.
    paused: bool,
    last_answer: Time,
    last_call: Time,
    last_refusal: Time,
    /// Seconds that a call takes.
    latency: f64,
    rate: Option<Rate>,
    strays: Option<Strays>,
}

/// Refusals that no pace avoids, and answers since this is known.
#[derive(Debug, Default)]
struct Strays {
    refusals: u64,
    answers: u64,
}

/// The rate at which calls start.
#[derive(Debug)]
struct Rate {
    bucket: Bucket,
    /// What was accepted when calls were last refused; nothing in slow start.
    accepted: Option<f64>,
    /// The part of it that the last refusal took.
    depth: f64,
    /// The rate of the step before.
    last: f64,
    /// Seconds since then in which the rate was used.
    used: f64,
    /// What had begun when the present step did.
    step: Begun,
    /// Steps in a row that were not used.
    unused: u32,
    /// The last call that had begun when it was lowered.
    lowered: u64,
    /// What was accepted between the last two refusals.
    measured: f64,
    /// Refusals in a row below what had been accepted between two others.
    in_vain: u32,
}

impl Pace {
    /// A call was answered.
    pub(super) fn answered(&mut self, took: Duration, now: Time) {
        let took = took.as_secs_f64();
        self.latency = match self.latency {
            0.0 => took,
            latency => latency + (took - latency) / 16.0,
        };
        self.last_answer = now;
        if let Some(strays) = &mut self.strays {
            strays.answers += 1;
            if strays.answers >= LOOK_AGAIN {
                self.strays = None;
            }
        }
    }

    /// Whether a refusal of a number of calls that had been accepted has nothing to do with a rate either.
    pub(super) fn is_stray(&mut self) -> bool {
        let Some(strays) = &mut self.strays else {
            return false;
        };
        strays.refusals += 1;
        let many = strays.refusals * CALLS_OF_A_STRAY > strays.answers;
        if strays.refusals >= FEW_STRAYS && many {
            self.strays = None;
        }
        self.strays.is_some()
    }

    /// Looks for a rate, upwards from what so many calls at once come to, unless one is known.
    pub(super) fn start(&mut self, at_once: u32, now: Time) {
        let rate = f64::from(at_once) / self.latency.max(1e-3);
        let begun = self.so_far(now);
        self.rate.get_or_insert_with(|| Rate::new(rate, begun));
    }

    /// A call was refused for its rate.
    pub(super) fn refused(&mut self, call: Begun, now: Time) {
        self.last_refusal = now;
        let accepted = self.accepted(call);
        let begun = self.so_far(now);
        match &mut self.rate {
            // It says nothing of a rate that was lowered since.
            Some(rate) if call.number <= rate.lowered => {}
            Some(rate) => {
                rate.refused(accepted, begun);
                if rate.in_vain >= IN_VAIN {
                    (self.rate, self.strays) = (None, Some(Strays::default()));
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

    /// A call was refused, for whatever reason. While few were accepted since the last refusal, they go on
    /// being counted.
    pub(super) fn mark(&mut self, call: Begun) {
        let accepted = self.accepted(call);
        if self.mark.is_none() || accepted.is_some_and(|accepted| accepted.calls >= TELLING) {
            (self.mark, self.refusals, self.paused) = (Some(call), 0, false);
        } else {
            self.refusals += 1;
        }
    }

    /// A call was refused that had begun before the last refusal was heard of.
    pub(super) fn refused_too(&mut self) {
        self.refusals += 1;
    }

    /// Calls that were accepted between the marked refusal and this.
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

    /// Whether a refusal is known from which on accepted calls are counted.
    pub(super) fn was_refused(&self) -> bool {
        self.mark.is_some()
    }

    pub(super) fn is_known(&self) -> bool {
        self.rate.is_some()
    }

    /// Whether nothing is known to be too much.
    pub(super) fn is_starting(&self) -> bool {
        self.rate
            .as_ref()
            .is_some_and(|rate| rate.accepted.is_none())
    }

    /// Whether it grows fast, back to a rate far above: of the calls that it lets out by now, few are answered.
    pub(super) fn is_returning(&self) -> bool {
        self.rate.as_ref().is_some_and(Rate::is_returning)
    }

    /// Calls in flight at once that this pace comes to, with some room.
    pub(super) fn in_flight(&self) -> u32 {
        let rate = self
            .rate
            .as_ref()
            .map_or(0.0, |rate| rate.bucket.per_second);
        (ROOM * rate * self.latency).ceil() as u32
    }

    /// Whether the pace is what limits calls.
    pub(super) fn is_used(&self, now: Time) -> bool {
        let begun = self.so_far(now);
        self.rate.as_ref().is_some_and(|rate| rate.is_used(begun))
    }

    /// No call may start for this long.
    pub(super) fn skip(&mut self, pause: Duration) {
        if let Some(mark) = &mut self.mark {
            mark.at = mark.at.after(pause);
            self.paused = true;
        }
    }

    /// Seconds that two calls take at this pace; none where it is not known.
    fn apart(&self) -> f64 {
        let rate = self.rate.as_ref();
        rate.map_or(0.0, |rate| 2.0 / rate.bucket.per_second)
    }

    /// Until when the pace may have held calls back.
    pub(super) fn held_until(&self) -> Time {
        self.last_call.after(Duration::from_secs_f64(self.apart()))
    }

    /// Nobody wanted to call for a while. If no pace held calls back, there were none, and what is accepted
    /// while little is asked is no rate.
    pub(super) fn resume(&mut self) {
        self.mark = None;
    }

    /// Until a call may start.
    pub(super) fn wait(&mut self, now: Time) -> Duration {
        self.rate.as_mut().map_or(Duration::ZERO, |rate| {
            rate.bucket.refill(now);
            rate.bucket.wait_for(1.0)
        })
    }

    /// Calls per minute at this pace, and how long ago a call was last refused for it.
    pub(super) fn inferred(&self, now: Time) -> Option<(u64, Duration)> {
        let rate = self.rate.as_ref()?;
        let per_minute = rate.bucket.minute().round().max(1.0) as u64;
        Some((per_minute, now.since(self.last_refusal)))
    }

    /// A call begins.
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

    /// The provider reports its rate.
    pub(super) fn forget(&mut self) {
        self.rate = None;
    }
}

impl Rate {
    /// Slow start from this rate on.
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
            in_vain: 0,
            last: rate,
        }
    }

    /// A call begins. True when something else limits calls.
    fn called(&mut self, begun: Begun) -> bool {
        let span = begun.at.since(self.step.at);
        if span < STEP || begun.number < self.step.number + STEP_CALLS {
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

    /// The rate at this time.
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
            (self.measured, self.in_vain) = (0.0, 0);
        }
        rate
    }

    /// A call was refused; so many had been accepted since the refusal before.
    fn refused(&mut self, since: Option<Accepted>, begun: Begun) {
        let rate = self.bucket.per_second;
        let since = since.filter(|accepted| accepted.calls >= TELLING);
        let measured = since.map(|accepted| accepted.rate.min(rate));
        let before = self.measured;
        if let Some(Accepted { least, .. }) = since {
            // What is far less than before shows that the limit was lowered.
            (self.measured, self.in_vain) = if least < LOWERED * before {
                (least, 0)
            } else {
                let in_vain = self.in_vain + u32::from(rate < LESS * before);
                (least.max(before), in_vain)
            };
        }
        match self.accepted {
            // The last step is where it became too much, unless room for bursts had hidden it before.
            None => {
                let last = if self.last < rate {
                    self.last
                } else {
                    rate * MUCH_LESS
                };
                let accepted = measured.map_or(last, |measured| (measured + last) / 2.0);
                self.fall_below(rate, 1.0 - accepted / rate * (1.0 - DEPTH), begun);
            }
            // On a steep way back.
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

    /// Goes on with so much less than this rate.
    fn fall_below(&mut self, accepted: f64, depth: f64, begun: Begun) {
        (self.accepted, self.depth, self.used, self.unused) = (Some(accepted), depth, 0.0, 0);
        self.lowered = begun.number;
        let rate = accepted * (1.0 - depth);
        self.set(rate, begun);
        self.hold_back(rate);
    }

    /// The provider's allowance is empty: it gets time to come back a little.
    fn hold_back(&mut self, rate: f64) {
        self.bucket.level = self.bucket.level.min(-1.0 - CAPACITY * rate);
    }

    fn set(&mut self, rate: f64, begun: Begun) {
        let rate = rate.max(LEAST);
        self.step = begun;
        self.bucket.refill(begun.at);
        self.bucket.per_second = rate;
        self.bucket.capacity = capacity(rate);
    }

    /// Whether calls have made use of it in this step.
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
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time::from_nanos(ms * 1_000_000)
    }

    /// A provider that accepts `rate` calls a second, one at a time, and takes 50 ms for each answer.
    struct Provider {
        rate: f64,
        level: f64,
        now: u64,
    }

    impl Provider {
        fn new(rate: f64) -> Self {
            Self {
                rate,
                level: 1.0,
                now: 0,
            }
        }

        /// Calls that were accepted and refused within `seconds`.
        fn run(&mut self, pace: &mut Pace, seconds: u64) -> (u64, u64) {
            let (mut accepted, mut refused) = (0, 0);
            for _ in 0..seconds * 1000 {
                self.now += 1;
                self.level = (self.level + self.rate / 1000.0).min(1.0);
                let now = at(self.now);
                if !pace.wait(now).is_zero() {
                    continue;
                }
                let call = pace.take(now);
                if self.level >= 1.0 {
                    self.level -= 1.0;
                    accepted += 1;
                    pace.answered(Duration::from_millis(50), now);
                } else {
                    refused += 1;
                    pace.refused(call, now);
                }
            }
            (accepted, refused)
        }
    }

    #[test]
    fn a_rate_is_found_and_then_refuses_less_than_one_call_of_a_hundred() {
        for rate in [1.0, 8.0, 20.0, 40.0] {
            let (mut provider, mut pace) = (Provider::new(rate), Pace::default());
            provider.run(&mut pace, 30);
            let (accepted, refused) = provider.run(&mut pace, 600);
            let used = accepted as f64 / (600.0 * rate);
            assert!(used > 0.9, "{rate}: {used}");
            assert!(refused * 100 <= accepted, "{rate}: {refused} of {accepted}");
        }
    }

    #[test]
    fn a_limit_that_changes_is_followed() {
        let (mut provider, mut pace) = (Provider::new(40.0), Pace::default());
        provider.run(&mut pace, 60);
        for rate in [10.0, 80.0] {
            provider.rate = rate;
            provider.run(&mut pace, 60);
            let (accepted, _) = provider.run(&mut pace, 60);
            let used = accepted as f64 / (60.0 * rate);
            assert!((0.9..=1.01).contains(&used), "{rate}: {used}");
        }
    }

    #[test]
    fn a_pace_of_a_call_in_many_seconds_grows_again() {
        for rate in [0.1, 0.3, 1.0] {
            let (mut provider, mut pace) = (Provider::new(rate), Pace::default());
            provider.run(&mut pace, 300);
            provider.rate = 10.0;
            provider.run(&mut pace, 7200);
            let (accepted, _) = provider.run(&mut pace, 60);
            assert!(accepted > 300, "{rate}: {accepted}");
        }
    }

    #[test]
    fn a_pace_that_nobody_needs_any_more_is_given_up() {
        let (mut provider, mut pace) = (Provider::new(20.0), Pace::default());
        provider.run(&mut pace, 30);
        assert!(pace.is_known());
        for ms in (30_000..60_000).step_by(500) {
            pace.take(at(ms));
            pace.answered(Duration::from_millis(50), at(ms));
        }
        assert!(!pace.is_known());
    }

    #[test]
    fn refusals_that_never_end_leave_one_call_a_minute() {
        let (mut provider, mut pace) = (Provider::new(1.0), Pace::default());
        provider.run(&mut pace, 60);
        assert!(pace.is_known());
        let mut now = at(provider.now);
        for _ in 0..200 {
            now = now.after(pace.wait(now));
            let call = pace.take(now);
            pace.refused(call, now);
            assert!(pace.wait(now) <= Duration::from_secs(125));
        }
        assert!(pace.wait(now) >= Duration::from_secs(60));
    }

    #[test]
    fn a_pace_that_holds_calls_back_is_no_reason_to_count_anew() {
        let (mut provider, mut pace) = (Provider::new(0.1), Pace::default());
        provider.run(&mut pace, 300);
        let call = pace.take(at(provider.now));
        assert!(pace.held_until() >= call.at.after(Duration::from_secs(10)));
        assert!(pace.was_refused());
        pace.resume();
        assert!(!pace.was_refused());
    }

    #[test]
    fn one_refusal_is_no_reason_for_a_pace() {
        let mut pace = Pace::default();
        (0..10).for_each(|ms| _ = pace.take(at(ms)));
        let refused = pace.take(at(20));
        pace.refused(refused, at(40));
        assert!(!pace.is_known() && pace.wait(at(41)).is_zero());
    }
}
