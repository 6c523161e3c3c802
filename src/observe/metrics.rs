//! Counts and times in the text format of Prometheus.
//!
//! The names of call metrics are those of OpenTelemetry's GenAI semantic conventions
//! (<https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/>), in the format of Prometheus: underscores
//! instead of dots, and the unit at the end.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus::IntGauge;
use prometheus::core::Collector;
use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder,
    exponential_buckets,
};

use crate::base::{Error, ErrorKind, Usd};
use crate::engine::limited_by::WORDS;
use crate::observe::calls::{CallObserver, CallResult, ObservedCall};
use crate::observe::jobs::{EndedJob, JobObserver};
use crate::observe::progress::{Progress, ProgressNotifier};

/// The first bound of the buckets in seconds, which double, and their number: those of the conventions, and four more,
/// because a reply that is not streamed may take minutes.
const SECONDS: (f64, f64, usize) = (0.01, 2.0, 18);
/// The same for tokens, from the conventions.
const TOKENS: (f64, f64, usize) = (1.0, 4.0, 14);
/// Maximum number of models, and of kinds, with separate series. The authors of prompts and jobs choose these
/// names, so their number must be limited.
const MOST_NAMES: usize = 100;
/// The name that replaces all further ones.
const OTHER_NAME: &str = "_OTHER";

/// Everything that can limit a worker.
fn limits() -> impl Iterator<Item = &'static str> {
    let of_worker = ["load", "memory", "budget"];
    WORDS.iter().copied().chain(of_worker)
}

/// Counts events and writes the counts in the text format of Prometheus (version 0.0.4). Clones share their
/// numbers; nothing is global.
///
/// | series | of what |
/// |---|---|
/// | `gen_ai_client_operation_duration_seconds` | calls and how long they took, by operation, provider, model and `error_type`, an [`ErrorKind`] (empty for an answer) |
/// | `gen_ai_client_token_usage` | tokens of a call, by the same and `gen_ai_token_type` (`input`, `output`) |
/// | `batchwright_calls_in_flight` | calls that are being made, by provider |
/// | `batchwright_rate_limited_total` | calls refused for their pace (429), by provider |
/// | `batchwright_job_duration_seconds` | jobs of a queue and how long they took from their first call to their outcome, by `kind`, provider and `error_type` |
/// | `batchwright_worker_slots`, `batchwright_worker_slots_used` | jobs that the worker may have at once, and has |
/// | `batchwright_worker_limited_by` | 1 for what limits the worker at the moment, as [`Progress::limited_by`](crate::Progress::limited_by) names it, 0 for all others |
/// | `batchwright_items` | items of a run by state, or jobs of a queue once it was observed |
/// | `batchwright_cost_usd`, `batchwright_unpriced_items` | their known cost so far, and items of unknown cost |
///
/// ```
/// use std::ops::ControlFlow;
/// use std::sync::Arc;
/// use batchwright::progress::Metrics;
/// use batchwright::{Bulk, Extract, Request, Route};
///
/// let metrics = Metrics::new();
/// let route = Route::new(Extract).observer(Arc::new(metrics.clone()));
/// Bulk::new(route)
///     .notifier(Arc::new(metrics.clone()))
///     .for_each((0..3).map(|i| Request::new(format!("text {i}"))), |_| ControlFlow::Continue(()))?;
/// let text = metrics.text()?;
/// assert!(text.contains(r#"batchwright_items{state="completed"} 3"#), "{text}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Metrics(Arc<Series>);

struct Series {
    registry: Registry,
    durations: HistogramVec,
    tokens: HistogramVec,
    in_flight: IntGaugeVec,
    rate_limited: IntCounterVec,
    items: IntGaugeVec,
    cost: GaugeVec,
    unpriced: IntGauge,
    month_cost: GaugeVec,
    month_calls: IntGaugeVec,
    month_tokens: IntGaugeVec,
    jobs: HistogramVec,
    slots: IntGauge,
    slots_used: IntGauge,
    limited_by: IntGaugeVec,
    lengths: IntGaugeVec,
    batches: IntGaugeVec,
    batch_ages: IntGaugeVec,
    /// Kinds of jobs with separate series.
    kinds: Names,
    /// Models with separate series.
    models: Names,
}

/// Names with separate series.
#[derive(Default)]
struct Names(Mutex<HashMap<String, Arc<str>>>);

const CALL_LABELS: [&str; 4] = [
    "gen_ai_operation_name",
    "gen_ai_provider_name",
    "gen_ai_request_model",
    "error_type",
];
const TOKEN_LABELS: [&str; 4] = [
    "gen_ai_operation_name",
    "gen_ai_provider_name",
    "gen_ai_request_model",
    "gen_ai_token_type",
];
const JOB_LABELS: [&str; 3] = ["kind", "gen_ai_provider_name", "error_type"];
const PROVIDER: [&str; 1] = ["gen_ai_provider_name"];
const MODEL: [&str; 1] = ["gen_ai_request_model"];

impl Metrics {
    /// A collection without counts.
    ///
    /// # Panics
    /// Never: the names of all series are valid and distinct.
    pub fn new() -> Self {
        Self(Arc::new(
            Series::new().expect("the series have valid names of their own"),
        ))
    }

    /// All series as text, for a scrape.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`] if they cannot be written, which no name of this program causes.
    pub fn text(&self) -> Result<String, Error> {
        let families = self.0.registry.gather();
        TextEncoder::new()
            .encode_to_string(&families)
            .map_err(|error| Error::new(ErrorKind::Malformed, format!("the metrics: {error}")))
    }
}

impl Metrics {
    pub(crate) fn set_queue_lengths(&self, waiting: &[(u8, u64)]) {
        let series = &self.0.lengths;
        series.reset();
        for (priority, jobs) in waiting {
            let length = series.with_label_values(&[&priority.to_string()]);
            length.set(level(*jobs));
        }
    }

    /// Replaces the items: by state, in the order of [`STATES`], and what they have cost.
    pub(crate) fn set_items(&self, items: [u64; 6], cost: Option<Usd>, unpriced: u64) {
        self.0.count(items.map(Some), cost, unpriced);
    }

    /// Replaces what was spent in this month: models, calls, tokens and known cost.
    pub(crate) fn set_month_costs<'m>(
        &self,
        models: impl Iterator<Item = (&'m str, u64, u64, Usd)>,
    ) {
        let series = &*self.0;
        series.month_cost.reset();
        series.month_calls.reset();
        series.month_tokens.reset();
        for (model, calls, tokens, cost) in models {
            let label = &[model];
            let sum = series.month_cost.with_label_values(label);
            sum.add(cost.dollars());
            let sum = series.month_calls.with_label_values(label);
            sum.add(level(calls));
            let sum = series.month_tokens.with_label_values(label);
            sum.add(level(tokens));
        }
    }

    /// Replaces the batches: their providers, states, and ages in seconds.
    pub(crate) fn set_batches<'b>(&self, batches: impl Iterator<Item = ((&'b str, &'b str), u64)>) {
        let series = &*self.0;
        series.batches.reset();
        series.batch_ages.reset();
        for ((provider, state), age) in batches {
            series.batches.with_label_values(&[provider, state]).inc();
            let oldest = series.batch_ages.with_label_values(&[provider]);
            oldest.set(oldest.get().max(level(age)));
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Registers series.
struct Register(Registry);

impl Register {
    fn add<C: Collector + Clone + 'static>(
        &self,
        series: prometheus::Result<C>,
    ) -> prometheus::Result<C> {
        let series = series?;
        self.0.register(Box::new(series.clone()))?;
        Ok(series)
    }

    fn histogram(
        &self,
        name: &str,
        help: &str,
        (first, factor, n): (f64, f64, usize),
        labels: &[&str],
    ) -> prometheus::Result<HistogramVec> {
        let buckets = exponential_buckets(first, factor, n)?;
        let options = HistogramOpts::new(name, help).buckets(buckets);
        self.add(HistogramVec::new(options, labels))
    }

    fn gauge(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn amount(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<GaugeVec> {
        self.add(GaugeVec::new(Opts::new(name, help), labels))
    }

    fn single(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.add(IntGauge::new(name, help))
    }
}

impl Series {
    fn new() -> Result<Self, prometheus::Error> {
        let to = Register(Registry::new());
        let refused = Opts::new(
            "batchwright_rate_limited_total",
            "Calls that the provider rate-limited (HTTP 429).",
        );
        Ok(Self {
            durations: to.histogram(
                "gen_ai_client_operation_duration_seconds",
                "Duration of calls to providers.",
                SECONDS,
                &CALL_LABELS,
            )?,
            tokens: to.histogram(
                "gen_ai_client_token_usage",
                "Input and output tokens of a call.",
                TOKENS,
                &TOKEN_LABELS,
            )?,
            in_flight: to.gauge("batchwright_calls_in_flight", "Calls in flight.", &PROVIDER)?,
            rate_limited: to.add(IntCounterVec::new(refused, &PROVIDER))?,
            items: to.gauge("batchwright_items", "Items by state.", &["state"])?,
            cost: to.amount(
                "batchwright_cost_usd",
                "Known cost of the items so far, in US dollars.",
                &[],
            )?,
            unpriced: to.single("batchwright_unpriced_items", "Items of unknown cost.")?,
            month_cost: to.amount(
                "batchwright_month_cost_usd",
                "Known cost of the calls of this month (UTC), in US dollars.",
                &MODEL,
            )?,
            month_calls: to.gauge(
                "batchwright_month_calls",
                "Calls of this month (UTC) that were billed.",
                &MODEL,
            )?,
            month_tokens: to.gauge(
                "batchwright_month_tokens",
                "Input and output tokens of the calls of this month (UTC).",
                &MODEL,
            )?,
            jobs: to.histogram(
                "batchwright_job_duration_seconds",
                "Duration of jobs, from their first call to their result.",
                SECONDS,
                &JOB_LABELS,
            )?,
            kinds: Names::default(),
            slots: to.single("batchwright_worker_slots", "Slots of the worker.")?,
            slots_used: to.single(
                "batchwright_worker_slots_used",
                "Slots of the worker in use.",
            )?,
            limited_by: to.gauge(
                "batchwright_worker_limited_by",
                "1 for what limits the worker at the moment.",
                &["limit"],
            )?,
            lengths: to.gauge("batchwright_queue_length", "Waiting jobs.", &["priority"])?,
            batches: to.gauge(
                "batchwright_batches",
                "Batches at providers, and batches that are being submitted.",
                &["gen_ai_provider_name", "state"],
            )?,
            batch_ages: to.gauge(
                "batchwright_oldest_batch_age_seconds",
                "Age of the oldest batch.",
                &PROVIDER,
            )?,
            models: Names::default(),
            registry: to.0,
        })
    }

    /// Sets the items by state, in the order of [`STATES`], and what they have cost.
    fn count(&self, items: [Option<u64>; 6], cost: Option<Usd>, unpriced: u64) {
        for (state, items) in STATES.into_iter().zip(items) {
            if let Some(items) = items {
                self.items.with_label_values(&[state]).set(level(items));
            }
        }
        if let Some(cost) = cost {
            let gauge = self.cost.with_label_values::<&str>(&[]);
            gauge.set(cost.dollars());
        }
        self.unpriced.set(level(unpriced));
    }
}

/// The value of a gauge.
fn level(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl Names {
    fn get(&self, name: &str) -> Arc<str> {
        let mut names = self.0.lock();
        if let Some(known) = names.get(name) {
            return known.clone();
        }
        if names.len() >= MOST_NAMES {
            return OTHER_NAME.into();
        }
        let own: Arc<str> = name.into();
        names.insert(name.to_owned(), own.clone());
        own
    }
}

impl JobObserver for Metrics {
    fn on_job_end(&self, job: &EndedJob<'_>) {
        let series = &*self.0;
        let kind = series.kinds.get(job.kind);
        let labels = [
            &*kind,
            job.provider.unwrap_or_default(),
            error_type(job.error),
        ];
        let duration = series.jobs.with_label_values(&labels);
        duration.observe(job.took.as_secs_f64());
    }

    fn on_slots(&self, used: usize, slots: usize) {
        let series = &*self.0;
        for (gauge, slots) in [(&series.slots_used, used), (&series.slots, slots)] {
            gauge.set(level(slots as u64));
        }
    }

    fn on_limit(&self, limited_by: &'static str) {
        for limit in limits() {
            let gauge = self.0.limited_by.with_label_values(&[limit]);
            gauge.set(i64::from(limit == limited_by));
        }
    }
}

/// The kind of a failure; empty for a success.
fn error_type(error: Option<&Error>) -> &'static str {
    error.map_or("", |error| error.kind().as_str())
}

impl CallObserver for Metrics {
    fn on_start(&self, call: &ObservedCall<'_>) {
        self.0.in_flight.with_label_values(&[call.provider]).inc();
    }

    fn on_end(&self, call: &ObservedCall<'_>, end: &CallResult<'_>) {
        let series = &*self.0;
        let provider = call.provider;
        series.in_flight.with_label_values(&[provider]).dec();
        let model = series.models.get(call.model.unwrap_or_default());
        let labels = [call.operation, provider, &model, error_type(end.error)];
        let duration = series.durations.with_label_values(&labels);
        duration.observe(end.took.as_secs_f64());
        if end.error.map(Error::kind) == Some(ErrorKind::RateLimited) {
            series.rate_limited.with_label_values(&[provider]).inc();
        }
        let Some((input, output)) = end.tokens else {
            return;
        };
        for (tokens, direction) in [(input, "input"), (output, "output")] {
            let labels = [call.operation, provider, &model, direction];
            series
                .tokens
                .with_label_values(&labels)
                .observe(tokens as f64);
        }
    }
}

const STATES: [&str; 6] = [
    "completed",
    "failed",
    "cancelled",
    "pending",
    "in_flight",
    "at_provider",
];

/// Counts the items of a run. Progress of a process is left to what the queue says of all its jobs.
impl ProgressNotifier for Metrics {
    fn on_progress(&self, progress: &Progress) {
        if progress.process_id.is_some() {
            return;
        }
        let settled = progress.completed + progress.failed + progress.cancelled;
        let under_way = progress.in_flight + progress.at_provider;
        let pending = progress
            .total
            .map(|total| total.saturating_sub(settled + under_way));
        let items = [
            Some(progress.completed),
            Some(progress.failed),
            Some(progress.cancelled),
            pending,
            Some(progress.in_flight),
            Some(progress.at_provider),
        ];
        self.0.count(items, progress.cost_usd, progress.unpriced);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_limit_of_a_worker_has_a_series() {
        let metrics = Metrics::new();
        for now in ["quota", "concurrency"] {
            metrics.on_limit(now);
            let text = metrics.text().unwrap();
            for limit in limits() {
                let is_it = u8::from(limit == now);
                let line = format!("batchwright_worker_limited_by{{limit=\"{limit}\"}} {is_it}\n");
                assert!(text.contains(&line), "{line}{text}");
            }
        }
    }

    #[test]
    fn the_number_of_series_for_model_names_is_limited() {
        let metrics = Metrics::new();
        for n in 0..2 * MOST_NAMES {
            let model = format!("m-{n}");
            let call = ObservedCall {
                operation: "chat",
                provider: "p",
                model: Some(&model),
                item: None,
                items: 1,
                attempt: 1,
            };
            let end = CallResult {
                took: Duration::from_millis(5),
                error: None,
                tokens: None,
            };
            metrics.on_start(&call);
            metrics.on_end(&call, &end);
        }
        let text = metrics.text().unwrap();
        let counts = text
            .lines()
            .filter(|line| line.contains("duration_seconds_count{"));
        let counts: Vec<&str> = counts.collect();
        assert_eq!(counts.len(), MOST_NAMES + 1);
        let others = counts.iter().find(|line| line.contains(OTHER_NAME));
        assert!(others.unwrap().ends_with(&format!(" {MOST_NAMES}")));
    }
}
