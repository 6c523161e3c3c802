//! How batches behave: every knob with its default. Values are checked with those of the simulator.

use std::time::Duration;

use derive_setters::Setters;

use crate::config::{at_most_a_year, no_zero};

/// The behaviour of batches of a [`Simulator`](crate::Simulator); see
/// [`SimConfig::batches`](crate::SimConfig::batches).
#[derive(Debug, Clone, Setters)]
#[setters(strip_option)]
pub struct BatchConfig {
    /// The time from a batch's creation to its end. After [`validation`](BatchConfig::validation), requests finish
    /// evenly over the first nine tenths of the remaining time; the last tenth is for the result files. A cancelled
    /// batch ends a tenth of this time after the cancellation. Default: 2 s.
    pub(super) duration: Duration,
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
    /// Whether a failed validation names the line, counted from 1, where the API can: OpenAI and
    /// Groq. Default: true.
    pub(super) name_lines: bool,
    /// Maximum number of prompt tokens in unfinished batches of one model. A batch that would exceed it fails
    /// validation with `token_limit_exceeded` at OpenAI and Groq, and is rejected with status 429 by Anthropic and
    /// Gemini; xAI has no such limit. Default: unlimited.
    pub(super) enqueued_tokens: Option<u64>,
    /// Whether the order of results differs from that of the requests. Default: true.
    pub(super) reorder: bool,
    /// How many lines each result file has twice. Default: 0.
    pub(super) duplicates: u64,
    /// Number of lines with unknown ids in each result file. Default: 0.
    pub(super) strangers: u64,
    /// The first N downloads of results break off in the middle. Default: 0.
    pub(super) cut_downloads: u64,
    /// Number of first downloads of results, after those that break off, that end normally but lack the last third of
    /// their lines. Default: 0.
    pub(super) short_downloads: u64,
    /// The speed of each download of results in bytes per second. Default: unlimited.
    pub(super) download_rate: Option<u64>,
    /// Results are deleted this long after the end of their batch. Default: never.
    pub(super) retention: Option<Duration>,
    /// The most requests of a batch. Default: 50,000; 100,000 at Anthropic,
    /// unlimited at Gemini.
    pub(super) max_requests: Option<u64>,
    /// The largest input file, or body where there is no file, in bytes. Default: 200 MB; 256 MB at
    /// Anthropic, 2 GB at Gemini.
    pub(super) max_bytes: Option<u64>,
}

impl Default for BatchConfig {
    fn default() -> BatchConfig {
        BatchConfig {
            duration: Duration::from_secs(2),
            validation: Duration::ZERO,
            item_failures: 0.0,
            missing: 0.0,
            expire_first: (0, 0.0),
            lost_creates: 0,
            late_creates: Duration::ZERO,
            listing_lag: Duration::ZERO,
            poison: None,
            name_lines: true,
            enqueued_tokens: None,
            reorder: true,
            duplicates: 0,
            strangers: 0,
            cut_downloads: 0,
            short_downloads: 0,
            download_rate: None,
            retention: None,
            max_requests: None,
            max_bytes: None,
        }
    }
}

impl BatchConfig {
    /// The first `batches` to start expire at the end of the [`duration`](BatchConfig::duration), with this share of
    /// their requests finished; with 0 there are no result files. At Gemini no request is finished then, because an
    /// expired batch has no results. Default: none.
    pub fn expire_first(mut self, batches: u64, share: f64) -> BatchConfig {
        self.expire_first = (batches, share);
        self
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
        at_most_a_year([
            ("duration", self.duration),
            ("validation", self.validation),
            ("late_creates", self.late_creates),
            ("listing_lag", self.listing_lag),
            ("retention", self.retention.unwrap_or_default()),
        ])?;
        if self.validation > self.duration {
            return Err("validation takes longer than duration".to_owned());
        }
        no_zero([
            ("download_rate", self.download_rate),
            ("max_requests", self.max_requests),
            ("max_bytes", self.max_bytes),
            ("enqueued_tokens", self.enqueued_tokens),
        ])
    }
}
