//! A route: the ordered clients a prompt may go to, with their limits and the retry policy.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use derive_setters::Setters;
use serde::Serialize;

use crate::base::random::Random;
use crate::base::{Clock, Context, Error, SystemClock, Time};
use crate::config::choices::CachePrompt;
use crate::engine::dispatch::{Dispatcher, ErrorPolicy, Options};
use crate::engine::limiter::{Limiter, Limits, QuotaKey};
use crate::engine::quota::Class;
use crate::engine::route::{FallbackHistory, RetryPolicy, Tries};
use crate::engine::run::run_inline;
use crate::engine::work::{Cost, Ticket};
use crate::llm::pack::PackLimits;

use crate::engine::budget::Budget;
use crate::llm::prices::Prices;
use crate::observe::calls::CallObserver;

use super::carried::Carried;
use super::client::{LlmClient, guarded};
use super::outcome::{EarlierProvider, Outcome};
use super::params::CacheLifetime;
use super::params::RequestTask;
use super::pricing::{self, Pricing};
use super::prompt_cache::PromptPrefix;
use super::providers::further::{accepts_marks, for_provider};
use super::request::Request;
use super::response::Response;

mod call;

use call::Single;

#[derive(Clone)]
struct Step<'a> {
    client: Arc<dyn LlmClient + 'a>,
    provider: String,
    limits: Limits,
}

impl<'a> Step<'a> {
    fn new(client: impl LlmClient + 'a, limits: Limits) -> Self {
        Self {
            provider: guarded("provider()", || client.provider().to_owned()).unwrap_or_default(),
            client: Arc::new(client),
            limits,
        }
    }
}

/// Ordered clients with limiter and retry policy. A plain client is a route of one step.
///
/// A route is shared by all that use it: its limits hold for every run and every single call. Clones share them too.
#[derive(Clone, Setters)]
#[setters(generate = false, strip_option)]
pub struct Route<'a> {
    steps: Vec<Step<'a>>,
    /// Sets the retry policy. Default: 3 retries a step, waiting 1, 2 and 4 s.
    #[setters(generate)]
    retry: RetryPolicy,
    limiter: Arc<Limiter>,
    /// Sets the clock; for tests. Default: the system's.
    #[setters(generate)]
    clock: Arc<dyn Clock>,
    /// Sets the prices by which it computes the cost of a call whose reply does not report it. Default: the table in the
    /// program.
    #[setters(generate)]
    prices: Prices,
    budget: Option<Budget>,
    config_version: u32,
    /// Who hears of every call that is made. Default: nobody.
    #[setters(generate)]
    observer: Option<Arc<dyn CallObserver>>,
    skipped: Arc<[SkippedStep]>,
    /// Sets which prompts use the prompt cache of their provider. If all prompts of a list or a file share their system
    /// text, one call is in flight until the first reply; see [`CachePrompt`]. Default: [`CachePrompt::Auto`].
    #[setters(generate)]
    cache_prompt: CachePrompt,
}

/// A provider that a route should ask and cannot, so that it was left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SkippedStep {
    /// The provider's name.
    pub provider: String,
    /// Why it cannot be called, and what to set.
    pub reason: String,
}

impl SkippedStep {
    /// A provider, and why it cannot be called.
    pub fn new(provider: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            provider: provider.into(),
            reason: reason.into(),
        }
    }
}

impl<'a> Route<'a> {
    /// A route of one client, with limits learned from its replies.
    pub fn new(client: impl LlmClient + 'a) -> Self {
        Self::limited(client, Limits::default())
    }

    /// A route of one client with limits of its own.
    pub fn limited(client: impl LlmClient + 'a, limits: Limits) -> Self {
        Self {
            steps: vec![Step::new(client, limits)],
            retry: RetryPolicy::default(),
            limiter: Arc::new(Limiter::new()),
            clock: Arc::new(SystemClock),
            prices: Prices::default(),
            budget: None,
            config_version: 0,
            observer: None,
            skipped: Arc::default(),
            cache_prompt: CachePrompt::default(),
        }
    }

    /// Adds a client that takes over what the earlier ones finally failed.
    ///
    /// # Panics
    /// If the route already has 32 steps.
    pub fn then(mut self, client: impl LlmClient + 'a, limits: Limits) -> Self {
        assert!(self.steps.len() < 32, "a route has at most 32 steps");
        self.steps.push(Step::new(client, limits));
        self
    }

    /// What the provider of a step gets of a request, and the names of the fields that it does not get.
    fn own<'r>(&self, request: &'r Request, step: u8) -> (Cow<'r, Request>, Vec<String>) {
        if request.extra.is_empty() && request.params.seed.is_none() {
            return (Cow::Borrowed(request), Vec::new());
        }
        let provider = |step: u8| &self.steps[usize::from(step)].provider;
        for_provider(request, provider(step), provider(0))
    }

    /// The request for a step, with a mark for its system text if the provider caches it only with a mark.
    fn marked<'r>(&self, request: &'r Request, step: u8) -> Cow<'r, Request> {
        let prefix = PromptPrefix::of(request);
        if prefix.is_none_or(|prefix| !self.caches(&prefix, request, step)) {
            return Cow::Borrowed(request);
        }
        let marked = request.clone();
        Cow::Owned(marked.with_cache_prefix(Some(CacheLifetime::Minutes)))
    }

    fn caches(&self, prefix: &PromptPrefix, request: &Request, step: u8) -> bool {
        let client = self.client(step);
        let may_mark = match self.cache_prompt {
            CachePrompt::Never => false,
            CachePrompt::Always => true,
            CachePrompt::Auto => accepts_marks(client.provider(), client.address()),
        };
        may_mark && client.caches_prompts(request, prefix.tokens)
    }

    /// Makes one call until the first reply, if all requests of a run begin with this text and the provider caches it: the
    /// others can read the cache only when it has been written.
    pub(crate) fn start_with_one(&self, shared: Option<&PromptPrefix>, request: &Request) {
        if shared.is_some_and(|prefix| self.caches(prefix, request, 0)) {
            let class = self.class(request, &mut None);
            self.limiter.start_with_one(class.quota(0));
        }
    }

    /// Sets the limit of what all calls of the route, and of other routes with a clone of the budget, may cost. A call that
    /// could cost more is not made, and ends a run with [`StopReason::BudgetExceeded`](crate::StopReason::BudgetExceeded).
    /// Replaces an earlier budget. Default: no limit.
    pub fn budget(mut self, budget: &Budget) -> Self {
        self.budget = Some(budget.clone());
        self
    }

    /// Whether a budget limits it.
    #[cfg(feature = "queue")]
    pub(crate) fn has_budget(&self) -> bool {
        self.budget.is_some()
    }

    /// Whether the most that a call for such a request can cost is known at every provider of the route,
    /// if it has a budget. Without it, a budget cannot be kept.
    ///
    /// # Errors
    /// [`ErrorKind::BudgetExceeded`](crate::ErrorKind::BudgetExceeded), with a message that says what is missing.
    pub fn check_budget(&self, request: &Request) -> Result<(), Error> {
        if self.budget.is_some() {
            for step in &self.steps {
                let one = std::iter::once(request);
                pricing::most(&self.pricing(), &*step.client, one, &Tries::default())?;
            }
        }
        Ok(())
    }

    /// The most that a call for a request can cost at the current step, in picodollars.
    ///
    /// # Errors
    /// [`ErrorKind::BudgetExceeded`](crate::ErrorKind::BudgetExceeded) if there is no upper bound.
    #[cfg(feature = "queue")]
    pub(crate) fn most(&self, request: &Request, tries: &Tries) -> Result<u64, Error> {
        let client = self.client(tries.step);
        let one = std::iter::once(request);
        pricing::most(&self.pricing(), client, one, tries)
    }

    /// Shares the route's limits with every process that names the same folder: requests and
    /// tokens per minute, and pauses, hold for all of them together. One small file a quota.
    /// Default: shared within the route only.
    pub fn share_limits(mut self, folder: impl AsRef<Path>) -> Self {
        let folder = folder.as_ref();
        self.limiter = Arc::new(Limiter::shared(folder));
        self
    }

    /// Takes over what `other` has learned of limits, its pauses and calls in flight included. Limits
    /// that are given here replace those given there.
    pub fn succeeding(mut self, other: &Route<'_>) -> Self {
        self.limiter = other.limiter.clone();
        self.clock = other.clock.clone();
        self.config_version = other.config_version + 1;
        self
    }

    /// The same for a route that follows none.
    pub(crate) fn limited_by(mut self, limiter: Arc<Limiter>) -> Self {
        self.limiter = limiter;
        self
    }

    pub(crate) fn config_version(&self) -> u32 {
        self.config_version
    }

    /// The same without clients that cannot be asked such a thing; none if that is all of them. Limits and what was
    /// learned of them are shared.
    pub(crate) fn serving(&self, like: &Request) -> Option<Self> {
        let can = |step: &Step<'a>| guarded("can()", || step.client.can(like)).unwrap_or(true);
        let mut route = self.clone();
        route.steps.retain(can);
        (!route.steps.is_empty()).then_some(route)
    }

    /// Names the providers that should come before the stand-in `extract` and cannot be called, for the
    /// [mark](crate::client::ReplyDetails::degraded) of its answers. Default: none.
    pub(crate) fn skipping(mut self, steps: &[SkippedStep]) -> Self {
        self.skipped = steps.into();
        self
    }

    /// One prompt, with the route's limits, retries and fallback, on the calling thread.
    ///
    /// # Errors
    /// The error of the last call, or that of the context when it ended the wait; either with what
    /// all calls have cost.
    pub fn complete(&self, request: &Request, ctx: &Context) -> Result<Response, Error> {
        let work = Single {
            ticket: Some(self.ticket(request, request, &mut None)),
            due: Time::ZERO,
            result: None,
        };
        let options = self.options(ctx, 1, ErrorPolicy::ContinueOnError);
        let dispatcher = Dispatcher::new(work, self.limiter.clone(), options);
        let carried = Carried::default();
        let runner = |ticket: &Ticket<&Request>, ctx: &Context| {
            self.answers(&[ticket.task], &ticket.tries, &carried, ctx)
        };
        let end = run_inline(dispatcher, runner, ctx, &*self.clock);
        match end.work.result {
            Some(answers) => answers?.remove(0),
            None => {
                let stopped = ctx.check().err().unwrap_or_else(Error::cancelled);
                let ticket = end.work.ticket.as_ref();
                let stopped = ticket.map_or(stopped.clone(), |of| of.tries.ended(stopped));
                Err(carried.at_end(stopped))
            }
        }
    }

    /// How much goes into one call, at any step.
    pub(crate) fn pack_limits(&self, task: RequestTask) -> PackLimits {
        if task != RequestTask::Embed {
            return PackLimits::ONE;
        }
        let steps = self.steps.iter();
        let limits = steps.map(|step| {
            guarded("pack_limits()", || step.client.pack_limits()).unwrap_or(PackLimits::ONE)
        });
        limits.fold(WHOLE, PackLimits::and)
    }

    /// The prices now.
    pub(crate) fn pricing(&self) -> Pricing<'_> {
        Pricing {
            prices: &self.prices,
            at: self.clock.wall(),
        }
    }

    fn client(&self, step: u8) -> &dyn LlmClient {
        &*self.steps[usize::from(step)].client
    }

    /// The provider of a step, and the model a request would be sent to there.
    pub(crate) fn asked(&self, step: u8, request: &Request) -> (String, Option<String>) {
        // A queue's job may have been at a step that the route no longer has.
        let Some(step) = self.steps.get(usize::from(step)) else {
            return Default::default();
        };
        let model = guarded("model_for()", || step.client.model_for(request)).flatten();
        (step.provider.clone(), model)
    }

    /// The outcome of an item that was sent with a request for this model, without its id. Nothing else of the request is
    /// used.
    pub(crate) fn outcome(
        &self,
        request: &Request,
        tries: &Tries,
        latency: Duration,
        result: Result<Response, Error>,
    ) -> Outcome {
        let (provider, model) = self.asked(tries.step, request);
        Outcome {
            attempts: tries.calls.into(),
            latency,
            provider: Some(provider),
            model,
            earlier: self.earlier(&tries.fallbacks, request),
            ..Outcome::new(None, result)
        }
    }

    /// How many providers it has, one after the other.
    pub(crate) fn steps(&self) -> usize {
        self.steps.len()
    }

    /// Calls in flight for a run that sets no number: those that suit the first provider.
    pub(crate) fn concurrency(&self) -> usize {
        let first = self.steps.first();
        let asked = |step: &Step<'_>| guarded("concurrency()", || step.client.concurrency());
        let suits = first.and_then(asked).flatten();
        suits.unwrap_or(5).max(1)
    }

    /// The provider of each step.
    pub(crate) fn providers(&self) -> Vec<String> {
        let steps = self.steps.iter();
        steps.map(|step| step.provider.clone()).collect()
    }

    /// What happened to a request at the steps it has left behind.
    pub(crate) fn earlier(
        &self,
        left: &FallbackHistory,
        request: &Request,
    ) -> Vec<EarlierProvider> {
        let steps = left.steps().iter().cloned();
        steps
            .map(|(step, error)| {
                let (provider, model) = self.asked(step, request);
                EarlierProvider {
                    provider,
                    model,
                    error,
                }
            })
            .collect()
    }

    pub(crate) fn clock_ref(&self) -> &dyn Clock {
        &*self.clock
    }

    pub(crate) fn limiter(&self) -> Arc<Limiter> {
        self.limiter.clone()
    }

    pub(crate) fn options(
        &self,
        ctx: &Context,
        concurrency: usize,
        on_error: ErrorPolicy,
    ) -> Options {
        let now = self.clock.now();
        Options {
            concurrency,
            retry: self.retry,
            on_error,
            deadline: ctx.remaining().map(|left| now.after(left)),
            jitter: Random(now.as_nanos() ^ u64::from(std::process::id()).rotate_left(32)),
            durable: false,
            multi_tenant: false,
            no_shared_fate: false,
        }
    }

    /// The quotas a request meets. `last` remembers the previous answer: neighbours are alike.
    pub(crate) fn class(
        &self,
        request: &Request,
        last: &mut Option<(Vec<QuotaKey>, Class)>,
    ) -> Class {
        let keys = self.steps.iter().map(|step| {
            let quota = || step.client.quota(request);
            guarded("quota()", quota).unwrap_or(QuotaKey::none())
        });
        if let Some((known, class)) = last
            && keys.clone().eq(known.iter().copied())
        {
            return class.clone();
        }
        let keys: Vec<QuotaKey> = keys.collect();
        let now = self.clock.now();
        let ids = keys.iter().zip(&self.steps).map(|(key, step)| {
            self.limiter
                .quota(*key, step.limits, self.config_version, now)
        });
        let class = Class::new(ids.collect::<Vec<_>>());
        *last = Some((keys, class.clone()));
        class
    }

    pub(crate) fn ticket<T>(
        &self,
        task: T,
        request: &Request,
        last: &mut Option<(Vec<QuotaKey>, Class)>,
    ) -> Ticket<T> {
        Ticket {
            task,
            cost: cost(request),
            order: 0,
            class: self.class(request, last),
            tries: Default::default(),
        }
    }
}

impl<'a, C: LlmClient + 'a> From<C> for Route<'a> {
    fn from(client: C) -> Self {
        Self::new(client)
    }
}

const WHOLE: PackLimits = PackLimits {
    inputs: u16::MAX,
    tokens: u32::MAX,
};

pub(crate) fn cost(request: &Request) -> Cost {
    Cost {
        input: request.estimated_tokens(),
        output_cap: match request.task {
            RequestTask::Complete => request.params.max_tokens,
            RequestTask::Embed | RequestTask::Speech => Some(0),
        },
    }
}
