//! How batches behave: every knob with its default. Values are checked with those of the simulator.

use std::time::Duration;

use crate::config::LONGEST;

/// What a [`Simulator`](crate::Simulator) does with batches; see
/// [`SimConfig::batches`](crate::SimConfig::batches).
#[derive(Debug, Clone)]
pub struct BatchConfig {
    pub(super) duration: Duration,
    pub(super) validation: Duration,
    pub(super) item_failures: f64,
    pub(super) missing: f64,
    pub(super) expire_first: (u64, f64),
    pub(super) lost_creates: u64,
    pub(super) late_creates: Duration,
    pub(super) listing_lag: Duration,
    pub(super) poison: Option<String>,
    pub(super) name_lines: bool,
    pub(super) enqueued_tokens: Option<u64>,
    pub(super) reorder: bool,
    pub(super) duplicates: u64,
    pub(super) strangers: u64,
    pub(super) cut_downloads: u64,
    pub(super) short_downloads: u64,
    pub(super) download_rate: Option<u64>,
    pub(super) retention: Option<Duration>,
    pub(super) max_requests: Option<u64>,
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
    /// The time from a batch's creation to its end. Requests finish evenly over the first nine tenths
    /// of what [`validation`](BatchConfig::validation) leaves of it; the rest goes into the result
    /// files. A cancelled batch ends a tenth of this after the cancel. Default: 2 s.
    pub fn duration(mut self, duration: Duration) -> BatchConfig {
        self.duration = duration;
        self
    }

    /// How long a new batch is validated before it runs or fails. Default: none.
    pub fn validation(mut self, validation: Duration) -> BatchConfig {
        self.validation = validation;
        self
    }

    /// The share of prompts, from 0 to 1, whose request fails in any batch with status 400, unpaid.
    /// Which ones is decided by the seed and the prompt's text. Default: 0.
    pub fn item_failures(mut self, share: f64) -> BatchConfig {
        self.item_failures = share;
        self
    }

    /// The share of prompts, from 0 to 1, whose request in its first batch is never worked on and in
    /// no result file; the counts leave it out too. Default: 0.
    pub fn missing(mut self, share: f64) -> BatchConfig {
        self.missing = share;
        self
    }

    /// The first `batches` to start expire at the end of the [`duration`](BatchConfig::duration),
    /// with this share of their requests finished; with 0 there are no result files. At Gemini
    /// nothing is ever finished then, for there are no results. Default: none.
    pub fn expire_first(mut self, batches: u64, share: f64) -> BatchConfig {
        self.expire_first = (batches, share);
        self
    }

    /// The first so many calls that create a batch take effect, but their connection is closed
    /// without a reply. Default: 0.
    pub fn lost_creates(mut self, creates: u64) -> BatchConfig {
        self.lost_creates = creates;
        self
    }

    /// [`lost_creates`](BatchConfig::lost_creates) take effect only this much later, and not at all
    /// if their input file has been deleted by then. Default: at once.
    pub fn late_creates(mut self, delay: Duration) -> BatchConfig {
        self.late_creates = delay;
        self
    }

    /// How long a new batch is missing from lists; by its id it is found at once. Default: none.
    pub fn listing_lag(mut self, lag: Duration) -> BatchConfig {
        self.listing_lag = lag;
        self
    }

    /// A request whose prompt contains this text fails the validation of its whole batch; at
    /// Anthropic, which has none, only itself. Default: none.
    pub fn poison(mut self, text: impl Into<String>) -> BatchConfig {
        self.poison = Some(text.into());
        self
    }

    /// Whether a failed validation names the line, counted from 1, where the API can: OpenAI and
    /// Groq. Default: true.
    pub fn name_lines(mut self, name: bool) -> BatchConfig {
        self.name_lines = name;
        self
    }

    /// The most prompt tokens in unfinished batches of one model. A batch that would pass it fails
    /// validation with `token_limit_exceeded` at OpenAI and Groq, and is refused with status 429 by
    /// Anthropic and Gemini; xAI and Mistral have no such limit. Default: unlimited.
    pub fn enqueued_tokens(mut self, tokens: u64) -> BatchConfig {
        self.enqueued_tokens = Some(tokens);
        self
    }

    /// Whether results come in another order than the requests. Default: true.
    pub fn reorder(mut self, reorder: bool) -> BatchConfig {
        self.reorder = reorder;
        self
    }

    /// How many lines each result file has twice. Default: 0.
    pub fn duplicates(mut self, lines: u64) -> BatchConfig {
        self.duplicates = lines;
        self
    }

    /// How many lines each result file has with ids that nobody gave. Default: 0.
    pub fn strangers(mut self, lines: u64) -> BatchConfig {
        self.strangers = lines;
        self
    }

    /// The first so many downloads of results break off in the middle. Default: 0.
    pub fn cut_downloads(mut self, downloads: u64) -> BatchConfig {
        self.cut_downloads = downloads;
        self
    }

    /// The first so many downloads of results, after those cut, end as if all were well, but without
    /// the last third of their lines. Default: 0.
    pub fn short_downloads(mut self, downloads: u64) -> BatchConfig {
        self.short_downloads = downloads;
        self
    }

    /// The speed of each download of results in bytes per second. Default: unlimited.
    pub fn download_rate(mut self, bytes: u64) -> BatchConfig {
        self.download_rate = Some(bytes);
        self
    }

    /// Results are gone this long after their batch has ended. Default: never.
    pub fn retention(mut self, retention: Duration) -> BatchConfig {
        self.retention = Some(retention);
        self
    }

    /// The most requests of a batch. Default: 50,000; 100,000 at Anthropic, 1,000,000 at Mistral,
    /// unlimited at Gemini.
    pub fn max_requests(mut self, requests: u64) -> BatchConfig {
        self.max_requests = Some(requests);
        self
    }

    /// The largest input file, or body where there is no file, in bytes. Default: 200 MB; 256 MB at
    /// Anthropic, 512 MB at Mistral, 2 GB at Gemini.
    pub fn max_bytes(mut self, bytes: u64) -> BatchConfig {
        self.max_bytes = Some(bytes);
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
        let times = [
            ("duration", self.duration),
            ("validation", self.validation),
            ("late_creates", self.late_creates),
            ("listing_lag", self.listing_lag),
            ("retention", self.retention.unwrap_or_default()),
        ];
        for (name, time) in times {
            if time > LONGEST {
                return Err(format!("{name} is more than a year"));
            }
        }
        if self.validation > self.duration {
            return Err("validation takes longer than duration".to_owned());
        }
        let whole = [
            ("download_rate", self.download_rate),
            ("max_requests", self.max_requests),
            ("max_bytes", self.max_bytes),
            ("enqueued_tokens", self.enqueued_tokens),
        ];
        match whole.into_iter().find(|(_, value)| *value == Some(0)) {
            Some((name, _)) => Err(format!("{name} is 0; leave it out to have no limit")),
            None => Ok(()),
        }
    }
}
