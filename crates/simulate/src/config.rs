//! The behaviour of a simulator: all settings with their defaults, and which prompt meets which trouble. Values are
//! checked together, by [`Simulator::start`](super::Simulator::start).

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use derive_setters::Setters;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::Value;

use super::prompt::Tokens;
use super::trouble::{Script, prompt_key};
use super::{Trouble, Vendor};

/// Beyond any use, and small enough that adding it to a clock cannot overflow.
pub(super) const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// The settings of a [`Simulator`](super::Simulator).
#[derive(Debug, Clone, Default, Setters)]
#[setters(strip_option)]
pub struct SimConfig {
    /// The port on 127.0.0.1; 0 takes any free one. Default: 0.
    pub(super) port: u16,
    /// The vendor whose variant of OpenAI's API is simulated below `/v1`. Default: no particular vendor; the fields of
    /// all vendors are accepted, and everything else is as at OpenAI. Below `/openai/v1` it is always [`Vendor::Groq`].
    pub(super) vendor: Option<Vendor>,
    /// The duration of every accepted call; rejected calls return immediately. Default: none.
    pub(super) latency: Duration,
    /// Additional random latency, uniform from zero to this value. Default: none.
    pub(super) jitter: Duration,
    /// Decides, together with a prompt's text, which trouble it meets; also the jitter. Default: 0.
    pub(super) seed: u64,
    /// The required key, in the header of the called API; calls without it, or with another one, get status 401, or 400
    /// for some vendors. Default: any key is accepted, and only Anthropic and Gemini require one. [`Vendor::Local`]
    /// never requires one.
    #[setters(into)]
    pub(super) api_key: Option<String>,
    #[setters(skip)]
    pub(super) models: Option<Vec<String>>,
    /// Accepted requests per minute, refilled continuously. Default: unlimited.
    pub(super) rpm: Option<u64>,
    /// Accepted tokens per minute, refilled continuously; a call costs the prompt and completion tokens that its normal
    /// reply reports. The bucket holds the tokens of one minute. Default: unlimited.
    pub(super) tpm: Option<u64>,
    /// The capacity of the bucket of [`rpm`](SimConfig::rpm): the number of requests that are accepted at once after a
    /// pause. Default: the requests of one minute.
    pub(super) burst: Option<u64>,
    /// Maximum number of concurrent calls; a further one gets status 429 immediately, like [`Trouble::RateLimit`], with
    /// the wait of [`retry_after`](SimConfig::retry_after). Default: unlimited.
    pub(super) max_parallel: Option<u64>,
    #[setters(skip)]
    prices: HashMap<String, SimPrice>,
    /// Whether replies to calls contain no rate-limit headers for the configured limits, in the format of the vendor.
    /// OpenAI's are `x-ratelimit-*`: `remaining` is the number of whole requests or tokens left in the bucket, `reset`
    /// the time until it is full, as a Go duration. Gemini, xAI and Mistral send none. Default: false.
    pub(super) hide_limits: bool,
    /// The wait that [`Trouble::RateLimit`] and [`Trouble::Error503`] request. Default: 1 s for the former, 2 s for the
    /// latter.
    pub(super) retry_after: Option<Duration>,
    /// The completion tokens of an answer; a request with a lower limit gets that many and finish reason `length`.
    /// Default: 16.
    pub(super) output_tokens: Option<u64>,
    /// Number of tokens for reasoning before the answer, reported in the format of the vendor; they count towards the
    /// request's limit, and if they use it up, the answer has no text. Default: 0.
    pub(super) reasoning_tokens: u64,
    /// Number of a prompt's tokens that are reported as read from the vendor's cache, at most all of them. Default: 0.
    pub(super) cached_tokens: u64,
    /// The text of every answer, in any requested format. Default: `echo: ` and the first 60 characters of the last
    /// user message; for JSON, an instance of its schema with that text in the first suitable string.
    #[setters(into)]
    pub(super) answer: Option<String>,
    #[setters(skip)]
    pub(super) script: Script,
    /// The behaviour of batches. Default: [`BatchConfig::default`].
    pub(super) batches: BatchConfig,
    /// Stores the bodies of requests for answers. Default: none.
    pub(super) recorder: Option<Recorder>,
}

impl SimConfig {
    /// The models that exist; calls for others get status 404. Default: every name is accepted, and the list of models
    /// contains `sim-1`.
    pub fn models<S: Into<String>>(mut self, models: impl IntoIterator<Item = S>) -> SimConfig {
        self.models = Some(models.into_iter().map(Into::into).collect());
        self
    }

    /// The prices of a model, for [`SimStats::billed_picos`](super::SimStats::billed_picos): requests of batches and at
    /// the flex tier cost half. Default: replies cost nothing.
    pub fn price(mut self, model: impl Into<String>, price: SimPrice) -> SimConfig {
        self.prices.insert(model.into(), price);
        self
    }

    /// The share of prompts, from 0 to 1, that meets this kind of trouble; a later call for the same kind replaces it.
    /// The sum of all shares must not exceed 1. Default: 0.
    pub fn trouble(mut self, kind: Trouble, share: f64) -> SimConfig {
        self.script.shares[kind as usize] = share;
        self
    }

    /// Number of calls of one prompt that meet this kind; `None`, or more than 255, for all of them. With a share of 1
    /// and `None` every call fails in this way. Default: [`Trouble::times`].
    pub fn trouble_times(mut self, kind: Trouble, times: Option<u32>) -> SimConfig {
        self.script.times[kind as usize] = times;
        self
    }

    /// The trouble of a prompt whose last user message has this text. It depends only on the text, the seed and the
    /// shares.
    ///
    /// ```
    /// use batchwright_simulate::{SimConfig, Trouble};
    ///
    /// let config = SimConfig::default().trouble(Trouble::Quota, 1.0);
    /// assert_eq!(config.plan("hello"), Some(Trouble::Quota));
    /// ```
    pub fn plan(&self, user_text: &str) -> Option<Trouble> {
        self.plan_key(prompt_key(user_text))
    }

    pub(super) fn plan_key(&self, key: u64) -> Option<Trouble> {
        self.script.plan(self.seed, key)
    }

    /// Whether this key is accepted.
    pub(super) fn is_key(&self, shown: &str) -> bool {
        match &self.api_key {
            Some(key) => shown == key,
            None => !shown.is_empty(),
        }
    }

    pub(super) fn knows_model(&self, model: &str) -> bool {
        self.models
            .as_ref()
            .is_none_or(|models| models.iter().any(|known| known == model))
    }

    /// The cost of a reply with these tokens, in picodollars; 0 if the model has no price.
    pub(super) fn cost(&self, model: &str, tokens: Tokens, reduced: bool) -> u64 {
        let price = self.prices.get(model).copied().unwrap_or_default();
        let cost = (tokens.prompt - tokens.cached) * price.input
            + tokens.cached * price.cached_input
            + tokens.completion() * price.output;
        if reduced { cost / REDUCED } else { cost }
    }

    /// The tokens of an answer without a limit, and those of reasoning before it.
    pub(super) fn tokens(&self) -> (u64, u64) {
        (self.output_tokens.unwrap_or(16), self.reasoning_tokens)
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let limits = [self.rpm, self.tpm, self.max_parallel, self.burst];
        if limits.contains(&Some(0)) {
            return Err("a limit is 0; leave it out to have none".to_owned());
        }
        if self.burst.is_some() && self.rpm.is_none() {
            return Err("burst is set without rpm".to_owned());
        }
        self.batches.check()?;
        self.script.check()
    }
}

/// The bodies of requests for answers, by calls and in batches, in the order in which they arrived. Clones
/// share them.
#[derive(Clone, Default, derive_more::Debug)]
#[debug("Recorder")]
pub struct Recorder(Arc<Mutex<Vec<String>>>);

impl Recorder {
    /// The requests received since the last call of this function.
    pub fn take(&self) -> Vec<String> {
        mem::take(&mut self.0.lock())
    }

    pub(super) fn record(&self, body: &[u8]) {
        let body = String::from_utf8_lossy(body).into_owned();
        self.0.lock().push(body);
    }
}

/// The prices of a model for calls, in picodollars (10⁻¹² US dollars) per token: the same number as millionths of a
/// dollar per million tokens. See [`SimConfig::price`](super::SimConfig::price).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SimPrice {
    /// Input tokens that were not read from a cache.
    pub input: u64,
    /// Input tokens that were read from a cache.
    pub cached_input: u64,
    /// Output tokens, including reasoning.
    pub output: u64,
}

impl SimPrice {
    /// Prices of input and output; cached input costs like other input.
    pub const fn new(input: u64, output: u64) -> SimPrice {
        SimPrice {
            input,
            cached_input: input,
            output,
        }
    }
}

/// The part of the price that is charged for requests of batches, and for calls at the flex tier: a half.
const REDUCED: u64 = 2;

/// The behaviour of batches of a [`Simulator`](super::Simulator); see
/// [`SimConfig::batches`](super::SimConfig::batches).
#[derive(Debug, Clone, Default, Setters)]
#[setters(strip_option)]
pub struct BatchConfig {
    /// The time from a batch's creation to its end. After [`validation`](BatchConfig::validation), requests finish
    /// evenly over the first nine tenths of the remaining time; the last tenth is for the result files. A cancelled
    /// batch ends a tenth of this time after the cancellation. Default: 2 s.
    #[setters(rename = "duration")]
    pub(super) length: Option<Duration>,
    /// Duration of the validation of a new batch before it runs or fails. Default: none.
    pub(super) validation: Duration,
    /// The share of prompts, from 0 to 1, whose request fails in any batch with status 400, not billed. The seed and
    /// the prompt's text decide which. Default: 0.
    pub(super) item_failures: f64,
    /// The share of prompts, from 0 to 1, whose request in its first batch is never processed and is missing in all
    /// result files; the counts omit it too. Default: 0.
    pub(super) missing: f64,
    #[setters(skip)]
    pub(super) expire_first: (u64, f64),
    /// The first N calls that create a batch take effect, but their connection is closed
    /// without a reply. Default: 0.
    pub(super) lost_creates: u64,
    /// [`lost_creates`](BatchConfig::lost_creates) take effect only this much later, and not at all
    /// if their input file has been deleted by then. Default: at once.
    pub(super) late_creates: Duration,
    /// How long a new batch is missing from lists; it can be read by its id immediately. Default: none.
    pub(super) listing_lag: Duration,
    /// If a prompt contains this text, the validation of its whole batch fails; at Anthropic, which has no validation,
    /// only the request fails. Default: none.
    #[setters(into)]
    pub(super) poison: Option<String>,
    /// Whether a failed validation does not name the line, counted from 1, where the API can: OpenAI and Groq.
    /// Default: false.
    pub(super) hide_lines: bool,
    /// Maximum number of prompt tokens in unfinished batches. A batch that would exceed it fails
    /// validation with `token_limit_exceeded` at OpenAI and Groq, and is rejected with status 429 by Anthropic and
    /// Gemini; xAI has no such limit. Default: unlimited.
    pub(super) enqueued_tokens: Option<u64>,
    /// Whether results are in the order of the requests, and not the other way round. Default: false.
    pub(super) in_order: bool,
    /// How many lines each result file has twice. Default: 0.
    pub(super) duplicates: u64,
    /// Number of lines with unknown ids in each result file. Default: 0.
    pub(super) strangers: u64,
    /// The first N downloads of results break off in the middle. Default: 0.
    pub(super) cut_downloads: u64,
    /// Number of first downloads of results, after those that break off, that end normally but lack the last third of
    /// their lines. Default: 0.
    pub(super) short_downloads: u64,
    /// Results are deleted this long after the end of their batch. Default: never.
    pub(super) retention: Option<Duration>,
}

impl BatchConfig {
    /// The first `batches` to start expire at the end of the [`duration`](BatchConfig::duration), with this share of
    /// their requests finished; with 0 there are no result files. At Gemini no request is finished then, because an
    /// expired batch has no results. Default: none.
    pub fn expire_first(mut self, batches: u64, share: f64) -> BatchConfig {
        self.expire_first = (batches, share);
        self
    }

    pub(super) fn duration_of(&self) -> Duration {
        self.length.unwrap_or(Duration::from_secs(2))
    }

    fn check(&self) -> Result<(), String> {
        let shares = [
            ("item_failures", self.item_failures),
            ("missing", self.missing),
            ("expire_first", self.expire_first.1),
        ];
        for (name, share) in shares {
            if !(0.0..=1.0).contains(&share) {
                return Err(format!("{name} is {share}; it must be from 0 to 1"));
            }
        }
        if self.validation > self.duration_of() {
            Err("validation takes longer than duration".to_owned())
        } else {
            Ok(())
        }
    }
}

/// Exact counts of files and batches since the simulator's start, taken at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct BatchStats {
    /// Requests to create a batch, including rejected ones.
    pub creates: u64,
    /// Created batches.
    pub created: u64,
    /// Batches that passed validation: their requests are worked on and paid.
    pub started: u64,
    /// Batches that failed validation.
    pub failed: u64,
    /// Batches that expired before all of their requests were finished.
    pub expired: u64,
    /// Batches whose cancellation is complete.
    pub cancelled: u64,
    /// Batches that are over, in whatever way.
    pub ended: u64,
    /// Requests in the batches that started.
    pub items_accepted: u64,
    /// Requests that were worked on, also those that failed.
    pub items_finished: u64,
    /// Requests that a batch answered for pay though their prompt had been paid before.
    pub bought_twice: u64,
    /// Input files received.
    pub files_uploaded: u64,
    /// Input files deleted.
    pub files_deleted: u64,
    /// Input files that are still there.
    pub files_left: u64,
    /// Requests for one batch.
    pub statuses: u64,
    /// Requests for a page of batches.
    pub lists: u64,
    /// Requests for results that were served, also those cut.
    pub downloads: u64,
    /// Requests to cancel a batch.
    pub cancels: u64,
    /// Each batch, the oldest first.
    pub batches: Vec<BatchSeen>,
}

/// One batch in [`BatchStats`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct BatchSeen {
    /// Its id at the provider.
    pub id: String,
    /// Data of the client: metadata, or a name; null at Anthropic.
    pub label: Value,
    /// How many requests it has.
    pub items: u64,
    /// How many were worked on.
    pub finished: u64,
    /// `validating`, `failed`, `running`, `finalizing`, `expired`, `cancelling`, `cancelled` or
    /// `ended`, whatever the API calls it.
    pub state: &'static str,
    /// Whether its record has been deleted.
    pub deleted: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_values_are_refused() {
        let base = SimConfig::default;
        assert!(base().check().is_ok());
        for (config, words) in [
            (base().rpm(0), "limit is 0"),
            (base().burst(5), "burst"),
            (base().trouble(Trouble::Drop, 1.5), "drop"),
        ] {
            let error = config.check().unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}
