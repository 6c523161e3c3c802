//! Routes as plain values. Two equal plans create routes with the same behaviour, so a changed setting without an
//! effect creates no new route.

use std::path::PathBuf;
use std::time::Duration;

use crate::base::{Error, Optional};
use crate::config::choices::CachePrompt;
use crate::config::settings::Settings;
use crate::engine::limiter::Limits;
use crate::engine::route::RetryPolicy;
use crate::llm::prices::Prices;
use crate::llm::providers::config::LlmConfig;
use crate::llm::providers::survey::ProviderStatus;
use crate::llm::route::{Route, SkippedStep};

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

/// The parts of a [`Route`], as plain values.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct RoutePlan {
    /// The provider that is called first.
    pub first: RouteStep,
    /// The providers that are called for items that the previous ones failed permanently.
    pub fallbacks: Vec<RouteStep>,
    /// Providers that belong to the route and cannot be called.
    pub skipped: Vec<SkippedStep>,
    /// How failed calls are retried.
    pub retry: RetryPolicy,
    /// The prices of its calls.
    pub prices: Prices,
    /// Which prompts use the prompt cache of their provider.
    pub cache_prompt: CachePrompt,
    /// The folder through which other OS processes share its limits, if they do.
    pub shared_in: Option<PathBuf>,
}

/// One provider of a [`RoutePlan`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct RouteStep {
    /// Its address, key, model and time limits.
    pub config: LlmConfig,
    /// Its limits until its replies report others.
    pub limits: Limits,
}

impl RoutePlan {
    /// The route.
    ///
    /// # Errors
    /// As [`LlmConfig::client`].
    pub fn route(&self) -> Result<Route<'static>, Error> {
        let route = Route::limited(self.first.config.client()?, self.first.limits);
        let mut route = route.set(self.shared_in.as_ref(), Route::share_limits);
        for step in &self.fallbacks {
            route = route.then(step.config.client()?, step.limits);
        }
        Ok(route
            .retry(self.retry)
            .prices(self.prices.clone())
            .cache_prompt(self.cache_prompt)
            .skipping(&self.skipped))
    }

    /// Checks that every key is set, and that every address can be called.
    ///
    /// # Errors
    /// As [`route`](Self::route).
    pub fn check(&self) -> Result<(), Error> {
        let mut steps = std::iter::once(&self.first).chain(&self.fallbacks);
        steps.try_for_each(|step| step.config.client().map(drop))
    }

    /// The same route without fallbacks.
    pub(super) fn without_fallbacks(&self) -> Self {
        Self {
            fallbacks: Vec::new(),
            ..self.clone()
        }
    }
}

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
        let by_itself = caller == Caller::Run && !status.reports_slots();
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
    pub(super) fn first(
        &self,
        status: &ProviderStatus,
        config: LlmConfig,
        caller: Caller,
    ) -> RouteStep {
        let calls = self.concurrency(status, caller);
        let mut limits = calls
            .tuned(Limits::default().burst(self.burst))
            .set(self.rpm, Limits::requests_per_minute)
            .set(self.tpm, Limits::tokens_per_minute);
        if caller == Caller::Worker {
            limits = limits.in_flight(whole(calls.most()));
        }
        RouteStep {
            config: self.applied_to(config).concurrency(calls.most()),
            limits,
        }
    }

    /// Whether the user limits the first provider.
    pub(super) fn limits_rate(&self) -> bool {
        self.rpm.is_some() || self.tpm.is_some()
    }

    /// A later step of a route with `calls` in flight. It is called only for its own model, and a server with slots
    /// gets no more calls than it has slots.
    pub(super) fn fallback(
        &self,
        status: &ProviderStatus,
        calls: Concurrency,
        caller: Caller,
    ) -> RouteStep {
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
        let config = status.config().only_model(true);
        RouteStep {
            config: self
                .applied_to(config)
                .concurrency(most.unwrap_or(calls.most())),
            limits,
        }
    }
}

fn whole(calls: usize) -> u32 {
    u32::try_from(calls).unwrap_or(u32::MAX).max(1)
}

/// Whether a provider limits requests per minute. The user's own server has slots instead.
pub(super) fn has_allowance(provider: &str) -> bool {
    !matches!(provider, "local" | "extract")
}
