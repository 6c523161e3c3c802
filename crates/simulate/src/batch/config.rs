//! How batches behave: every knob with its default. Values are checked with those of the simulator.

use std::time::Duration;

use derive_setters::Setters;
use serde::Serialize;
use serde_json::Value;

/// The behaviour of batches of a [`Simulator`](crate::Simulator); see
/// [`SimConfig::batches`](crate::SimConfig::batches).
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

    pub(crate) fn check(&self) -> Result<(), String> {
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
