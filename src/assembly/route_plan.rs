//! How the providers of a route are called, and how many calls are in flight.

use std::time::Duration;

use crate::base::{Error, Optional};
use crate::config::choices::CachePrompt;
use crate::config::settings::Settings;
use crate::engine::limiter::Limits;
use crate::engine::route::RetryPolicy;
use crate::llm::prices::Prices;
use crate::llm::providers::config::LlmConfig;
use crate::llm::providers::survey::ProviderStatus;

use super::options::ProviderOptions;

/// Maximum calls in flight at a provider if their number adapts.
pub(super) const MOST_FOUND: usize = 256;

/// How many calls are in flight at a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concurrency {
    /// This number, or fewer while the provider rejects some.
    Fixed(usize),
    /// A number that adapts to the provider.
    Auto {
        /// The number at first.
        start: usize,
        /// The maximum.
        most: usize,
    },
}

impl Concurrency {
    /// The number at first.
    pub fn start(self) -> usize {
        match self {
            Self::Fixed(calls) => calls,
            Self::Auto { start, .. } => start,
        }
    }

    /// The maximum.
    pub fn most(self) -> usize {
        match self {
            Self::Fixed(calls) => calls,
            Self::Auto { most, .. } => most,
        }
    }

    fn tuned(self, limits: Limits) -> Limits {
        match self {
            Self::Fixed(_) => limits,
            Self::Auto { start, most } => limits.self_tuned(whole(start), whole(most)),
        }
    }
}

/// Who makes the calls of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    /// A run of a file, which adapts its calls in flight to the first provider.
    Run,
    /// A list in memory, with the default calls in flight of the first provider.
    List,
    /// A worker of a queue, whose jobs come from many programs and whose slots are for several providers.
    Worker,
}

/// How a provider of a route is called, and its limits until its replies report others.
pub(super) type Step = (LlmConfig, Limits);

/// The settings of calls and of their retries, for any provider.
#[derive(Clone)]
pub(super) struct CallSettings {
    pub(super) retry: RetryPolicy,
    pub(super) prices: Prices,
    pub(super) cache_prompt: CachePrompt,
    timeout: Option<Duration>,
    /// The number of calls at once, if set.
    calls: Option<usize>,
    /// The number of calls in flight adapts, also for a worker.
    finds_calls: bool,
    /// Most jobs at once of a worker for which no number is set.
    most_jobs: usize,
    burst: u32,
    rpm: Option<f64>,
    tpm: Option<f64>,
}

impl CallSettings {
    pub(super) fn of(settings: &Settings, options: &ProviderOptions) -> Result<Self, Error> {
        Ok(Self {
            retry: options.retry(settings)?,
            prices: options.all_prices(settings)?,
            cache_prompt: settings.cache_prompt()?,
            timeout: settings.request_timeout()?,
            calls: settings.sync_concurrency()?,
            finds_calls: settings.finds_concurrency()?,
            most_jobs: settings.max_concurrent_requests()?,
            burst: settings.burst_size()?,
            rpm: settings.requests_per_minute()?,
            tpm: settings.tokens_per_minute()?,
        })
    }

    /// The same with this time limit of a call, unless one is set.
    pub(super) fn within(mut self, time: Duration) -> Self {
        self.timeout.get_or_insert(time);
        self
    }

    /// Calls in flight at a provider.
    pub(super) fn concurrency(&self, status: &ProviderStatus, caller: Caller) -> Concurrency {
        let start = status.default_concurrency;
        let by_itself = caller == Caller::Run && status.slots.is_none();
        match self.calls {
            Some(calls) => Concurrency::Fixed(calls),
            None if status.provider != "extract" && (self.finds_calls || by_itself) => {
                Concurrency::Auto {
                    start,
                    most: MOST_FOUND.max(start),
                }
            }
            // The worker decides how many jobs it runs; a local server has its own slots.
            None if caller == Caller::Worker && status.provider != "local" => {
                Concurrency::Fixed(self.most_jobs)
            }
            None => Concurrency::Fixed(start),
        }
    }

    pub(super) fn applied_to(&self, config: LlmConfig) -> LlmConfig {
        config.set(self.timeout, LlmConfig::request_timeout)
    }

    /// The first step of a route, called through `config`.
    pub(super) fn first(&self, status: &ProviderStatus, config: LlmConfig, caller: Caller) -> Step {
        let calls = self.concurrency(status, caller);
        let mut limits = calls
            .tuned(Limits::default().burst(self.burst))
            .set(self.rpm, Limits::requests_per_minute)
            .set(self.tpm, Limits::tokens_per_minute);
        if caller == Caller::Worker {
            limits = limits.in_flight(whole(calls.most()));
        }
        (self.applied_to(config).concurrency(calls.most()), limits)
    }

    /// Whether the user limits the first provider.
    pub(super) fn limits_rate(&self) -> bool {
        self.rpm.is_some() || self.tpm.is_some()
    }

    /// A later step of a route with `calls` in flight. It is called only for its own model, and a local server
    /// gets one call at once, or as many as it has slots.
    pub(super) fn fallback(
        &self,
        status: &ProviderStatus,
        calls: Concurrency,
        caller: Caller,
    ) -> Step {
        let own_slots = status.provider == "local";
        let own = self.concurrency(status, caller);
        let most = match (own_slots, caller) {
            (true, _) => Some(status.default_concurrency),
            (false, Caller::Worker) => Some(own.most()),
            (false, Caller::Run | Caller::List) => None,
        };
        let limits = Limits::default()
            .burst(self.burst)
            .when(!own_slots, |limits| own.tuned(limits))
            .set(most.map(whole), Limits::in_flight);
        let config = self.applied_to(status.config().only_model(true));
        (config.concurrency(most.unwrap_or(calls.most())), limits)
    }
}

fn whole(calls: usize) -> u32 {
    u32::try_from(calls).unwrap_or(u32::MAX).max(1)
}

/// Whether a provider limits requests per minute. The user's own server has slots instead.
pub(super) fn has_allowance(provider: &str) -> bool {
    !matches!(provider, "local" | "extract")
}
