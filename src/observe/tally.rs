//! Counts of the settled items of a run, and the summary.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Serialize, Serializer};

use crate::base::{Error, Paid, Time, Usage, Usd};
use crate::engine::dispatch::Counters;

use super::causes::{Causes, FailureCause};
use super::progress::{Phase, Progress, percent};
use super::tracker::Pace;

/// The contribution of a call's answers to the counts.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Measure {
    /// Items that it answered.
    pub items: u64,
    /// The part of these that got the answer of an identical request and cost nothing.
    pub shared: u64,
    /// The part of the items that are embeddings.
    pub vectors: u64,
    /// Minimum and maximum number of dimensions of the embeddings.
    pub dimensions: Option<(usize, usize)>,
    pub usage: Option<Usage>,
    /// The known cost.
    pub cost_usd: Usd,
    /// The part of the items with a known cost.
    pub priced: u64,
    /// The part of the items with an unknown cost.
    pub unpriced: u64,
    /// Duration of the call.
    pub took: Duration,
    pub truncated: u64,
    pub warned: u64,
    /// Answered by `extract`, which is not a model.
    pub extracted: bool,
}

/// The range that spans both.
pub(crate) fn range(
    a: Option<(usize, usize)>,
    b: Option<(usize, usize)>,
) -> Option<(usize, usize)> {
    match (a, b) {
        (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
        (one, other) => one.or(other),
    }
}

/// Running counts.
// More than 15 fields: most are a number of the summary or of a progress report.
#[derive(Default)]
pub(crate) struct Tally {
    /// The numbers of the summary that only grow. The others are computed when it is made.
    sums: Summary,
    total: Option<u64>,
    /// Items that had an answer before this run.
    before: u64,
    failed_before: u64,
    /// Number of items for this run, if it is not all remaining items.
    to_send: Option<u64>,
    /// Items of this run that were settled before its first call; they show nothing about its rate.
    settled_at_once: u64,
    /// Its calls request embeddings, and many items share one call.
    embeds: bool,
    completed: u64,
    failed: u64,
    unsent: u64,
    dimensions: Option<(usize, usize)>,
    /// The provider of each step of the route, and the number of items that it answered.
    answered_by: Vec<(String, u64)>,
    causes: Causes,
    /// Durations of the calls that brought an answer.
    calls: Option<Histogram<u32>>,
    started: Time,
    pace: Pace,
}

/// A histogram of durations in tens of microseconds, from one to an hour with two significant digits, which takes a few
/// kilobytes.
fn call_times() -> Histogram<u32> {
    Histogram::new_with_bounds(1, 360_000_000, 2).expect("constant limits")
}

impl Tally {
    pub(crate) fn new(total: Option<u64>, started: Time) -> Self {
        Self {
            total,
            started,
            ..Self::default()
        }
    }

    /// Sets the provider of each step, so that answers are counted per provider.
    pub(crate) fn by(mut self, providers: impl IntoIterator<Item = String>) -> Self {
        self.answered_by = providers.into_iter().map(|name| (name, 0)).collect();
        self
    }

    /// The step of the provider with this name; a new provider is added at the end.
    pub(crate) fn step_of(&mut self, provider: &str) -> u8 {
        let known = self
            .answered_by
            .iter()
            .position(|(name, _)| name == provider);
        let at = known.unwrap_or_else(|| {
            self.answered_by.push((provider.to_owned(), 0));
            self.answered_by.len() - 1
        });
        u8::try_from(at).unwrap_or(u8::MAX)
    }

    /// Items without an outcome, if the total is known.
    pub(crate) fn pending(&self) -> u64 {
        let settled = self.before + self.completed + self.failed_before + self.failed;
        self.total.map_or(0, |total| total.saturating_sub(settled))
    }

    /// Sets the items that earlier runs have settled.
    pub(crate) fn count_before(&mut self, completed: u64, failed: u64) {
        self.before = completed;
        self.failed_before = failed;
    }

    /// Sets how many of the failed items among these have a reply that was billed and is unusable.
    pub(crate) fn count_unusable_before(&mut self, items: u64) {
        self.sums.unusable_replies = items;
    }

    /// Sets whether the calls request embeddings.
    pub(crate) fn embedding(mut self, yes: bool) -> Self {
        self.embeds = yes;
        self
    }

    /// Sets the number of items that this run still has to process, just before its first call; progress is computed
    /// from it.
    pub(crate) fn will_send(&mut self, items: u64) {
        self.settled_at_once = self.completed + self.failed;
        self.to_send = Some(self.settled_at_once + items);
    }

    /// Adds items that a step of the route answered.
    pub(crate) fn answered(&mut self, step: u8, measure: &Measure) {
        self.completed += measure.items;
        if let Some((_, items)) = self.answered_by.get_mut(usize::from(step)) {
            *items += measure.items;
        }
        self.sums.truncated += measure.truncated;
        self.sums.warnings += measure.warned;
        self.sums.extracted += if measure.extracted { measure.items } else { 0 };
        self.sums.vectors += measure.vectors;
        self.dimensions = range(self.dimensions, measure.dimensions);
        self.sums.answered_by_equals += measure.shared;
        self.save_calls(measure.shared);
        if measure.shared == measure.items {
            return;
        }
        let tens = u64::try_from(measure.took.as_micros() / 10).unwrap_or(u64::MAX);
        let calls = self.calls.get_or_insert_with(call_times);
        calls.saturating_record(tens.max(1));
        self.sums.usage += measure.usage.unwrap_or_default();
        self.pay((measure.priced > 0).then_some(measure.cost_usd));
        self.sums.unpriced += measure.unpriced;
    }

    fn save_calls(&mut self, items: u64) {
        if !self.embeds {
            self.sums.calls_saved += items;
        }
    }

    /// Adds the cost of a failure. Most failures have none.
    fn pay_for_nothing(&mut self, error: &Error, items: u64) {
        let Paid { usage, cost_usd } = error.paid();
        self.sums.usage += usage.unwrap_or_default();
        match cost_usd {
            Some(_) => self.pay(cost_usd),
            None if usage.is_some() || error.is_billed_reply() => self.sums.unpriced += items,
            None => {}
        }
    }

    /// Adds items that failed for one reason.
    pub(crate) fn failed(&mut self, error: &Error, items: u64) {
        self.pay_for_nothing(error, items);
        self.note_failed(error, items);
    }

    fn note_failed(&mut self, error: &Error, items: u64) {
        self.failed += items;
        if error.is_unusable_reply() {
            self.sums.unusable_replies += items;
        }
        self.causes.add(error, items);
    }

    /// Adds items that failed together with an identical request.
    pub(crate) fn failed_as_equals(&mut self, error: &Error, items: u64) {
        if items > 0 {
            self.save_calls(items);
            self.note_failed(error, items);
        }
    }

    /// Adds items that have no outcome because the run was stopped.
    pub(crate) fn unsent(&mut self, error: &Error, items: u64) {
        self.unsent += items;
        self.pay_for_nothing(error, items);
    }

    /// Adds a known cost. The sum is `None` if the cost of every call is unknown.
    fn pay(&mut self, cost: Option<Usd>) {
        if let Some(cost) = cost {
            *self.sums.cost_usd.get_or_insert_default() += cost;
        }
    }

    fn settled_by_calls(&self) -> u64 {
        self.completed + self.failed - self.settled_at_once
    }

    pub(crate) fn progress(
        &mut self,
        counters: &Counters,
        now: Time,
        phase: Phase,
        trouble: Option<Error>,
        loading_since: Option<Time>,
    ) -> Progress {
        let elapsed = now.since(self.started);
        self.pace.advance(elapsed, self.settled_by_calls());
        let completed = self.before + self.completed;
        let failed = self.failed_before + self.failed;
        let goal = self.to_send.map(|n| self.before + self.failed_before + n);
        let total = goal.or(self.total);
        let left = total.map(|total| total.saturating_sub(completed + failed));
        Progress {
            phase,
            percent: total
                .filter(|total| *total > 0)
                .map(|total| percent(completed + failed, total)),
            total,
            completed,
            failed,
            in_flight: counters.in_flight as u64,
            retries: counters.retries,
            elapsed,
            rate: self.pace.rate(),
            eta: left.and_then(|left| self.pace.time_for(left)),
            input_tokens: self.sums.usage.input_tokens,
            output_tokens: self.sums.usage.output_tokens,
            cost_usd: self.sums.cost_usd,
            unpriced: self.sums.unpriced,
            trouble: trouble.as_ref().map(|error| error.message().to_owned()),
            trouble_kind: trouble.as_ref().map(Error::kind),
            loading: loading_since.map(|since| now.since(since)),
            ..Progress::default()
        }
    }

    pub(crate) fn summary(&self, counters: &Counters, now: Time) -> Summary {
        let busy = match (counters.first_start, counters.last_end) {
            (Some(start), Some(end)) => end.since(start),
            _ => Duration::ZERO,
        };
        let mut answered_by = BTreeMap::new();
        for (provider, items) in self.answered_by.iter().filter(|(_, items)| *items > 0) {
            *answered_by.entry(provider.clone()).or_default() += items;
        }
        let mut errors = BTreeMap::new();
        for cause in self.causes.iter() {
            *errors.entry(cause.kind).or_default() += cause.items;
        }
        let latency = |q| {
            let tens = self.calls.as_ref()?.value_at_quantile(q);
            Some(Duration::from_micros(tens * 10))
        };
        let elapsed = now.since(self.started);
        let settled = self.settled_by_calls() as f64;
        let completed = self.before + self.completed;
        let failed = self.failed_before + self.failed;
        let total = self.total.unwrap_or(completed + failed + self.unsent);
        Summary {
            total,
            completed,
            failed,
            pending: total.saturating_sub(completed + failed),
            completed_before: self.before,
            dimensions: self.dimensions.map_or(0, |(_, longest)| longest),
            min_dimensions: self.dimensions.map_or(0, |(shortest, _)| shortest),
            calls: counters.calls,
            retries: counters.retries,
            moved_on: counters.moved_on,
            divided: counters.divided,
            most_in_flight: counters.most_in_flight,
            rate_limited: counters.rate_limited,
            possibly_paid_twice: counters.possibly_paid_twice,
            cut_off: counters.cut_off,
            answered_by,
            errors,
            causes: self.causes.sorted(),
            latency_p50: latency(0.50),
            latency_p95: latency(0.95),
            latency_p99: latency(0.99),
            elapsed,
            busy,
            rate: if busy.is_zero() {
                0.0
            } else {
                settled / busy.as_secs_f64()
            },
            ..self.sums.clone()
        }
    }
}

/// Serializes a duration as milliseconds.
pub(crate) fn millis<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((time.as_secs_f64() * 1e6).round() / 1e3)
}

fn optional_millis<S: Serializer>(
    time: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => millis(time, serializer),
        None => serializer.serialize_none(),
    }
}

/// The numbers of a run: `total = completed + failed + pending`.
// More than 15 fields, because each is public and a field of the summary in JSON.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// Total number of items.
    pub total: u64,
    /// Items with an answer.
    pub completed: u64,
    /// Items that failed permanently.
    pub failed: u64,
    /// Items without an outcome.
    pub pending: u64,
    /// The part of the completed items that was finished before this run.
    pub completed_before: u64,
    /// The part of the failed items with a reply that was billed and is unusable, including those of earlier runs. They
    /// are not sent again automatically.
    pub unusable_replies: u64,
    /// Answers cut at the token limit.
    pub truncated: u64,
    /// Answers with a warning, for example because a reply was repaired.
    pub warnings: u64,
    /// Placeholder answers of `extract`.
    pub extracted: u64,
    /// Items that this run completed with the answer to an identical request, without a call.
    pub answered_by_equals: u64,
    /// Calls that were saved for these items, and for items that failed with an identical request. Embeddings are not
    /// counted, because many of them share a call.
    pub calls_saved: u64,
    /// Embeddings that this run received.
    pub vectors: u64,
    /// Maximum number of dimensions; 0 without embeddings.
    pub dimensions: usize,
    /// Minimum number of dimensions. Embeddings with different numbers of dimensions cannot be compared.
    pub min_dimensions: usize,
    /// Calls; one may have returned many embeddings. Calls that were rejected because the server was still loading its
    /// model are not counted: they are not attempts and cost nothing.
    pub calls: u64,
    /// Calls that repeated a failed one at the same provider.
    pub retries: u64,
    /// Calls at the next provider after the previous one had failed.
    pub moved_on: u64,
    /// Calls for a part of the items of a failed shared call, to find the text that caused the failure.
    pub divided: u64,
    /// Maximum number of calls in flight.
    pub most_in_flight: usize,
    /// Rate-limited calls (HTTP 429).
    pub rate_limited: u64,
    /// Calls that were repeated although the previous one may have been processed and billed; each counts once,
    /// whatever its number of embeddings.
    pub possibly_paid_twice: u64,
    /// Calls in flight that a stop aborted; they may have been billed.
    pub cut_off: u64,
    /// Tokens used: the sum of [`Outcome::usage`](crate::Outcome::usage) over all outcomes of this run, including
    /// failed ones. An item that a stopped run left waiting has no outcome, so the tokens of its calls are not
    /// included.
    pub usage: Usage,
    /// The cost of these items, without the `unpriced` ones; `None` if there are no others.
    pub cost_usd: Option<Usd>,
    /// Items of this run whose calls have an unknown cost. Failed items without reported tokens do not count.
    pub unpriced: u64,
    /// Items that this run completed, by the [`provider`](crate::LlmClient::provider) that answered them.
    pub answered_by: BTreeMap<String, u64>,
    /// Failed items of this run by kind.
    pub errors: BTreeMap<&'static str, u64>,
    /// Why items of this run failed, the most frequent cause first. Failures have the same cause if they have the same
    /// kind and HTTP status, and their messages differ only in numbers and quoted text. Above 100 causes, further ones
    /// are distinguished by kind only.
    pub causes: Vec<FailureCause>,
    /// Median duration of the calls that brought an answer.
    #[serde(rename = "latency_p50_ms", serialize_with = "optional_millis")]
    pub latency_p50: Option<Duration>,
    /// 95th percentile of these durations.
    #[serde(rename = "latency_p95_ms", serialize_with = "optional_millis")]
    pub latency_p95: Option<Duration>,
    /// 99th percentile of these durations.
    #[serde(rename = "latency_p99_ms", serialize_with = "optional_millis")]
    pub latency_p99: Option<Duration>,
    /// Time from the start of the run to its end.
    #[serde(rename = "elapsed_ms", serialize_with = "millis")]
    pub elapsed: Duration,
    /// Time from the start of the first call to the end of the last one.
    #[serde(rename = "busy_ms", serialize_with = "millis")]
    pub busy: Duration,
    /// Outcomes per second of `busy`, without those that existed before the first call.
    pub rate: f64,
}

#[cfg(test)]
#[path = "tally_tests.rs"]
mod tests;
