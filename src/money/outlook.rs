//! The decision how to meet a deadline at the least cost: a pure computation.

use std::time::Duration;

use super::call_rate::CallPace;
use super::deadline::{Way, WayPrices};

/// The time that measured calls need is lengthened by this factor, because rates vary.
const MARGIN: f64 = 1.1;
/// The same for a rate that nothing has shown yet.
const UNMEASURED: f64 = 2.0;
/// Batches begin, and a cheaper way is taken up again, only if it needs this much less time than is left.
const RETURN: f64 = 1.15;
/// Flex calls begin so much earlier than at their last moment.
const HEAD: f64 = 1.1;
/// They begin if they need a little more time than is left: standard calls do the rest.
const ALMOST: f64 = 0.85;
/// Batches that have answered nothing in this part of the time are taken to stall. Later, no batches begin after calls.
const SILENT: f64 = 0.25;
/// At most this share of the items is sent as a trial, and at most this many, unless more are needed to fill all slots.
const TRIAL_SHARE: u64 = 20;
const MOST_TRIED: u64 = 20;
const FEWEST_TRIED: u64 = 8;
/// Polls after which the progress of batches is known.
const POLLS: u32 = 3;
/// A trial fills all slots this number of times, if that is not more than the share.
const ROUNDS: u64 = 2;
/// A trial may take this part of the time.
const TRIAL_TIME: u32 = 20;

/// Where the batches of a run stand.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct BatchPace {
    /// Requests that are answered per second; `None` before the first one.
    pub per_second: Option<f64>,
    /// The shortest time that a batch takes, because of the interval at which it is polled.
    pub least: Duration,
    /// The time between two polls at present: results are seen so much later than they are there.
    pub every: Duration,
    /// How long the batches have been observed since this run was started or resumed.
    pub watched: Duration,
    /// Answers of a batch that is cancelled are kept.
    pub keeps_results: bool,
    /// How long a provider may take to confirm that a batch is cancelled.
    pub cancel: Duration,
}

/// What is known when it is decided how to go on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Outlook {
    /// Time until the deadline.
    pub left: Duration,
    /// Time since the beginning.
    pub spent: Duration,
    /// Items that are in no batch and have no answer.
    pub waiting: u64,
    /// Unanswered items in batches that can be withdrawn.
    pub in_batches: u64,
    /// Unanswered items in batches that are being withdrawn.
    pub returning: u64,
    /// Unanswered items in running batches that cannot be withdrawn without losing answers.
    pub unmovable: u64,
    /// Items in batches of other workers, and in batches that may not exist or whose results are missing.
    pub elsewhere: u64,
    /// The way at present; `None` at the beginning.
    pub now: Option<Way>,
    /// Calls could have met the deadline at some time.
    pub was_safe: bool,
    /// Batches were withdrawn before.
    pub has_withdrawn: bool,
    /// `None` if there are no batches.
    pub batch: Option<BatchPace>,
    /// `None` if there is no flex tier.
    pub flex: Option<CallPace>,
    /// The longest wait of an item after the flex tier rejected it.
    pub backoff: Duration,
    /// The longest call at the flex tier so far: it may hold its slot for that time.
    pub longest_flex: Duration,
    pub sync: CallPace,
    /// Calls in flight at most.
    pub slots: u64,
    pub prices: WayPrices,
}

/// How to go on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Decision {
    /// The way of the items that are in no batch.
    pub way: Way,
    /// This many items are withdrawn from batches: at least, or at most if others must stay.
    pub withdraw: u64,
    pub others_stay: bool,
    /// Why, in one line.
    pub reason: String,
    /// Whether calls could still meet the deadline.
    pub is_safe: bool,
}

impl Outlook {
    /// Decides which way the items go from now on, and how many are withdrawn from batches.
    ///
    /// A cheaper way is used only as long as the next dearer one could do everything that is left in the time that is
    /// left. So a batch that stalls, or a flex tier without capacity, does not make the run late.
    pub fn decide(&self) -> Decision {
        // Between two polls of batches, nothing seems to happen.
        let is_first = self.now.is_none() || self.was_safe;
        let is_safe = self.fits(self.sync, if is_first { 1.0 } else { RETURN });
        let (way, withdraw, why) = match self.now {
            _ if self.left.is_zero() => self.too_late(),
            None => self.begin(),
            Some(Way::Batch) => self.after_batches(),
            Some(Way::Flex) if !self.may_use_flex(1.0) => (
                Way::Sync,
                self.in_batches,
                "the flex tier is too slow for the time that is left",
            ),
            Some(Way::Flex) => (Way::Flex, 0, "the flex tier may still answer in time"),
            Some(Way::Sync) => self.after_calls(),
        };
        Decision {
            others_stay: !is_safe && !self.was_safe && !self.left.is_zero(),
            reason: self.line(way, why),
            way,
            withdraw,
            is_safe,
        }
    }

    /// Which calls to make first, to measure their rate, and with how many items. `None` if their rates are known, if
    /// no other way is cheaper than standard calls, or if there is no time for a trial.
    pub fn trial(&self) -> Option<(Way, u64)> {
        if self.flex().is_none() && !self.batches_save() {
            return None;
        }
        let flex = self.flex().filter(|_| self.may_use_flex(1.0));
        let (way, pace) = match flex {
            Some(flex) if !flex.measured => (Way::Flex, flex),
            _ => (Way::Sync, self.sync),
        };
        // A trial of a slow provider must leave the time to send everything as calls.
        let is_short = self.trial_time().as_secs_f64() < 2.0 * pace.call_seconds;
        if pace.measured || is_short {
            return None;
        }
        let share = self.waiting / TRIAL_SHARE;
        // A single round of calls shows how many were sent, and not how many the provider answers.
        let rounds = Some(self.slots.saturating_mul(ROUNDS)).filter(|items| *items <= share);
        let items = share
            .clamp(FEWEST_TRIED, MOST_TRIED)
            .max(rounds.unwrap_or(0));
        (items * 5 <= self.waiting).then_some((way, items))
    }

    /// How long a trial may take.
    pub fn trial_time(&self) -> Duration {
        self.left / TRIAL_TIME
    }

    /// Items that cannot go another way.
    pub fn others(&self) -> u64 {
        self.unmovable + self.elsewhere
    }

    /// Items without an answer that can go another way.
    pub fn items(&self) -> u64 {
        self.waiting + self.in_batches + self.returning
    }

    /// The seconds until calls of that rate would have answered this many items.
    fn seconds(pace: CallPace, items: u64) -> f64 {
        if items == 0 {
            return 0.0;
        }
        let margin = if pace.measured { MARGIN } else { UNMEASURED };
        // The last call takes its time too.
        items as f64 / pace.per_second.max(0.0) * margin + pace.call_seconds
    }

    /// The time that withdrawn items need to return.
    fn cancelling(&self) -> f64 {
        let waits = self.in_batches + self.returning > 0;
        let cancel = self.batch.filter(|_| waits).map(|batch| batch.cancel);
        cancel.unwrap_or_default().as_secs_f64()
    }

    /// Whether standard calls could do all in time after the flex tier has rejected items, which then wait.
    fn may_use_flex(&self, factor: f64) -> bool {
        let calls = Self::seconds(self.sync, self.items()) * factor;
        // Flex calls in flight are not ended, and standard calls wait for their slots.
        let running = self.longest_flex.as_secs_f64();
        let running = if self.now == Some(Way::Flex) {
            running
        } else {
            0.0
        };
        let waits = self.backoff.as_secs_f64().max(running);
        let waits = self.cancelling().max(waits);
        calls + waits <= self.left.as_secs_f64()
    }

    /// Whether calls of that rate could do all in `1 / factor` of the time.
    fn fits(&self, pace: CallPace, factor: f64) -> bool {
        let needed = Self::seconds(pace, self.items()) * factor + self.cancelling();
        needed <= self.left.as_secs_f64()
    }

    /// Whether batches that go on as they did until now are answered in time.
    fn batches_are_in_time(&self) -> bool {
        let Some(batch) = self.batch else {
            return false;
        };
        // The last answers are seen at the next poll.
        let left = self.left.saturating_sub(batch.every).as_secs_f64();
        let items = (self.in_batches + self.returning + self.unmovable) as f64;
        let rate = batch.per_second;
        rate.is_some_and(|rate| rate > 0.0 && items / rate <= left)
    }

    fn flex(&self) -> Option<CallPace> {
        self.flex
            .filter(|_| WayPrices::may_save(self.prices.flex, self.prices.sync))
    }

    /// Whether batches are known to be too slow, or have answered nothing for long.
    fn batches_stall(&self) -> bool {
        let rate = self.batch.and_then(|batch| batch.per_second);
        let is_late = rate.is_none() || !self.batches_are_in_time();
        is_late && !self.is_early()
    }

    /// Whether batches had too little time to show whether they stall.
    fn is_early(&self) -> bool {
        let total = (self.left + self.spent).as_secs_f64();
        self.spent.as_secs_f64() <= total * SILENT
    }

    fn too_late(&self) -> (Way, u64, &'static str) {
        (Way::Sync, self.in_batches, "the deadline was missed")
    }

    fn batches_save(&self) -> bool {
        self.batch.is_some() && WayPrices::may_save(self.prices.batch, self.prices.sync)
    }

    /// Whether there is time for batches and, if they stall, for calls.
    fn may_begin_batches(&self, factor: f64) -> bool {
        let may_begin = self.batches_save() && !self.has_withdrawn;
        let Some(batch) = self.batch.filter(|_| may_begin) else {
            return false;
        };
        let calls = Self::seconds(self.sync, self.items()) * factor;
        (batch.least + batch.cancel).as_secs_f64() + calls <= self.left.as_secs_f64()
    }

    /// Whether calls are known to be too slow for all items, and a batch may end in time.
    fn calls_are_too_slow(&self) -> bool {
        // The margins of a rate that is hardly known do not show that.
        let calls = Self::seconds(self.sync, self.items()) / (MARGIN * MARGIN);
        let has_time = self.batch.is_some_and(|batch| self.left > batch.least);
        self.sync.measured && calls > self.left.as_secs_f64() && has_time
    }

    fn begin(&self) -> (Way, u64, &'static str) {
        // The first calls seem slower than they are: without time to spare, batches would be withdrawn at once.
        if self.may_begin_batches(RETURN) {
            return (Way::Batch, 0, self.batches_first());
        }
        if self.calls_are_too_slow() {
            return (Way::Batch, 0, "calls alone would be too slow");
        }
        match self.flex() {
            // If its rate is unknown or a little too low, standard calls can take over.
            Some(flex) if self.may_use_flex(1.0) && (!flex.measured || self.fits(flex, ALMOST)) => {
                (Way::Flex, 0, "batches may not end in time")
            }
            _ => (Way::Sync, 0, "nothing cheaper is sure to end in time"),
        }
    }

    /// Why batches come first, and what that may cost.
    fn batches_first(&self) -> &'static str {
        if self.batch.is_none_or(|batch| batch.keeps_results) {
            return "if the batches are late, there is still time for calls";
        }
        "if the batches are late, there is still time for calls, but a batch of this provider can be withdrawn only while it has \
         answered nothing: one that stalls after that may miss the deadline"
    }

    fn after_batches(&self) -> (Way, u64, &'static str) {
        let in_time = self.batches_are_in_time();
        if self.fits(self.sync, 1.0) {
            let Some(flex) = self.flex().filter(|_| self.may_use_flex(1.0)) else {
                return (
                    Way::Batch,
                    0,
                    "if the batches are late, there is still time for calls",
                );
            };
            // At the last moment for the flex tier, with some time for it before standard calls must take over.
            let has_time = self.fits(flex, HEAD) && self.may_use_flex(HEAD);
            let answers = flex.per_second > 0.0;
            let may_fit = self.fits(flex, ALMOST) || answers && self.batches_stall();
            if has_time || !may_fit || in_time {
                return (
                    Way::Batch,
                    0,
                    "if the batches are late, there is still time for calls",
                );
            }
            let why = "the batches may not end in time, and flex calls need the time that is left";
            return (Way::Flex, self.in_batches, why);
        }
        if !self.was_safe {
            return self.with_slow_calls(in_time);
        }
        let why = "the batches may not end in time, and standard calls need the time that is left";
        (Way::Sync, self.withdrawal(in_time), why)
    }

    /// Whether batches have time before calls are made next to them, if calls alone are too slow.
    fn is_patient(&self) -> bool {
        let least = self.batch.map(|batch| batch.least).unwrap_or_default();
        self.spent < least || !self.knows_batches()
    }

    /// Whether batches were observed for long enough to judge them. A run that was resumed knows no rate at first.
    fn knows_batches(&self) -> bool {
        let shows = |batch: BatchPace| batch.watched >= batch.every * POLLS;
        self.in_batches == 0 || self.batch.is_none_or(shows)
    }

    /// Calls alone were always too slow, so batches are needed.
    fn with_slow_calls(&self, in_time: bool) -> (Way, u64, &'static str) {
        if in_time || self.is_patient() {
            return (Way::Batch, 0, "calls alone would be too slow");
        }
        let time = self.left.as_secs_f64() - self.cancelling();
        let possible = (time.max(0.0) * self.sync.per_second / MARGIN) as u64;
        let withdraw = self.in_batches.min(possible);
        let why = "neither batches nor calls alone would end in time";
        (Way::Sync, withdraw, why)
    }

    fn after_calls(&self) -> (Way, u64, &'static str) {
        let in_time = self.batches_are_in_time();
        if self.fits(self.sync, 1.0) {
            // Calls were faster than was known before.
            if self.sync.measured && self.waiting > 0 {
                if self.is_early() && self.may_begin_batches(RETURN) {
                    return (Way::Batch, 0, self.batches_first());
                }
                let tries = |flex: &CallPace| !flex.measured || self.fits(*flex, RETURN);
                if self.flex().is_some_and(|flex| tries(&flex)) && self.may_use_flex(RETURN) {
                    return (Way::Flex, 0, "there is time for flex calls");
                }
            }
            return (Way::Sync, 0, "standard calls meet the deadline");
        }
        // The first calls may be slower than the others.
        let shows = self.spent > self.trial_time();
        let is_unused = self.in_batches + self.returning == 0 && !self.has_withdrawn;
        // Otherwise the next decision would be calls again: calls that could have met the deadline once take over at
        // their last moment, and later when the patience with batches is over.
        let lasts = !self.was_safe && self.is_patient();
        if shows && is_unused && lasts && self.waiting > 0 && self.calls_are_too_slow() {
            return (Way::Batch, 0, "calls alone would be too slow");
        }
        let why = "standard calls need the time that is left";
        if self.was_safe {
            return (Way::Sync, self.withdrawal(in_time), why);
        }
        let (way, withdraw, _) = self.with_slow_calls(in_time);
        let more = if way == Way::Sync { withdraw } else { 0 };
        (
            Way::Sync,
            more.saturating_sub(self.waiting + self.returning),
            why,
        )
    }

    /// Items that must return from batches: all, or as many as calls can do until more return, if the batches would end
    /// in time.
    fn withdrawal(&self, in_time: bool) -> u64 {
        if !in_time {
            return self.in_batches;
        }
        let busy = (self.sync.per_second * (self.cancelling() + 60.0)).ceil() as u64;
        let more = busy.saturating_sub(self.waiting + self.returning);
        more.min(self.in_batches)
    }

    /// The decision for people.
    fn line(&self, way: Way, why: &str) -> String {
        let needed = |pace| Duration::try_from_secs_f64(Self::seconds(pace, self.items()));
        let pace = match way {
            Way::Flex => self.flex.unwrap_or(self.sync),
            Way::Sync | Way::Batch => self.sync,
        };
        let calls = match needed(pace) {
            // A forecast may know nothing about the duration of a call.
            Ok(time) if pace.measured || pace.call_seconds > 0.0 => {
                format!("about {}", minutes(time))
            }
            _ => "an unknown time".to_owned(),
        };
        let what = match way {
            Way::Flex => "flex calls",
            Way::Sync | Way::Batch => "standard calls",
        };
        let items = self.items();
        let left = minutes(self.left);
        let others = match self.others() {
            0 => String::new(),
            others => format!(", {others} items in batches that cannot be withdrawn"),
        };
        format!("{why} ({items} items left, {left} left, {what} need {calls}{others})")
    }
}

/// A time in its two largest units.
fn minutes(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    match (hours, minutes) {
        (0, 0) => format!("{:.1} s", time.as_secs_f64()),
        (0, _) => format!("{minutes} min {} s", seconds % 60),
        _ => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
#[path = "outlook_tests.rs"]
mod tests;

#[cfg(test)]
mod simulation;
