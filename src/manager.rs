//! From settings to bulk work: which provider, which strategy, and carrying it out.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::base::cancel::Context;
use crate::base::error::{Error, ErrorKind};
use crate::base::id::ProcessId;
use crate::base::secret::Secret;
use crate::bulk::run::{Bulk, BulkError};
use crate::config::choices::Strategy;
use crate::config::settings::Settings;
use crate::config::watch::SettingsWatch;
use crate::engine::dispatch::StopReason;
use crate::engine::route::RetryPolicy;
use crate::llm::batch::{BatchAccount, BatchClient};
use crate::llm::outcome::Outcome;
use crate::llm::providers::batch::BatchApi;
use crate::llm::providers::config::{Client, LlmConfig, known};
use crate::llm::providers::survey::ProviderStatus;
use crate::llm::request::Request;
use crate::llm::route::Route;
use crate::observe::calls::CallObserver;
use crate::observe::progress::ProgressNotifier;
#[cfg(feature = "queue")]
use crate::queue::job_kinds::JobKinds;
#[cfg(feature = "queue")]
use crate::queue::model_call::ModelCall;

mod choice;
#[cfg(feature = "queue")]
mod durable;
mod follow;
mod plan;
#[cfg(feature = "queue")]
mod worker;
#[cfg(feature = "queue")]
mod worker_follower;

pub use choice::{ProviderChoice, ProviderChoiceError, ProviderQuery};
use follow::Listener;
pub use follow::SettingsEvent;
use plan::{CallSettings, Caller};
pub use plan::{Concurrency, RoutePlan, RouteStep};
#[cfg(feature = "queue")]
pub use worker::WorkerPlan;

/// The strategy that bulk work is carried out by, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EffectiveStrategy {
    /// What is done.
    pub strategy: Strategy,
    /// What `llm.bulk_strategy` asks for.
    pub asked: Strategy,
    /// Why something else is done than what was asked for, for people; the setting stays as it is.
    pub fallback_reason: Option<String>,
    /// The provider that sells these calls at full price although batches, at half of it, were asked for.
    full_price_at: Option<String>,
}

impl EffectiveStrategy {
    /// What a strategy comes to with a provider that has a Batch API.
    pub fn possible(asked: Strategy) -> Self {
        Self {
            strategy: asked,
            asked,
            fallback_reason: None,
            full_price_at: None,
        }
    }

    /// What the strategy of these settings comes to as far as they name the provider: whether one answers is
    /// the worker's business, and so is a setting that cannot be used.
    pub fn expected(settings: &Settings) -> Self {
        let asked = settings.bulk_strategy().unwrap_or_default();
        match settings.provider() {
            Ok(Some(provider)) => Self::new(asked, &provider),
            _ => Self::possible(asked),
        }
    }

    /// What a strategy comes to with the provider of that name.
    pub fn new(asked: Strategy, provider: &str) -> Self {
        let possible = known(provider).is_ok_and(|vendor| vendor.batches.is_some());
        match asked {
            Strategy::Batch if !possible => Self {
                strategy: Strategy::Sync,
                asked,
                fallback_reason: Some(format!("{provider} has no Batch API: runs sync")),
                full_price_at: plan::has_allowance(provider).then(|| provider.to_owned()),
            },
            _ => Self::possible(asked),
        }
    }

    /// Whether prompts cost no more than was asked for: a paid provider without a Batch API sells at full
    /// price what a batch has for half of it. Local servers and `extract` cost the same either way.
    ///
    /// # Errors
    /// When they cost more, with the providers that have a Batch API.
    pub fn check_price(&self) -> Result<(), Error> {
        let Some(provider) = &self.full_price_at else {
            return Ok(());
        };
        let Err(error) = known(provider)?.batch_api() else {
            return Ok(());
        };
        let why = format!(
            "every prompt would cost the full price, because {}",
            error.message()
        );
        Err(Error::new(ErrorKind::Invalid, why))
    }
}

/// What [`Settings`] come to: a provider, its clients, and the strategy for bulk work.
///
/// ```no_run
/// use std::path::Path;
/// use batchwright::{LlmManager, ProcessId, Request, Settings};
///
/// let settings = Settings::new()
///     .environment(|name| std::env::var(name).ok())
///     .flag("llm.provider", "provider", Some("openai".to_owned()))?
///     .flag("llm.model", "model", Some("gpt-x".to_owned()))?
///     .flag("llm.bulk_strategy", "strategy", Some("batch".to_owned()))?;
/// let manager = LlmManager::new(settings)?.data_dir(Path::new("/var/lib/prompts"));
/// // Kept by the program: after a crash the same id attaches to what is under way.
/// let process = ProcessId::new();
/// let prompts = ["Name a prime.", "Name a river."].map(Request::new);
/// for outcome in manager.run_bulk(process, &prompts)? {
///     println!("{:?}", outcome.result.map(|answer| answer.text));
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A provider without a Batch API runs `sync`, and says so:
///
/// ```
/// use batchwright::{LlmManager, ProcessId, Request, Settings, Strategy};
/// let settings = Settings::new()
///     .flag("llm.provider", "provider", Some("extract".to_owned()))?
///     .flag("llm.bulk_strategy", "strategy", Some("batch".to_owned()))?;
/// let manager = LlmManager::new(settings)?;
/// let effective = manager.effective_strategy();
/// assert_eq!((effective.asked, effective.strategy), (Strategy::Batch, Strategy::Sync));
/// assert_eq!(effective.fallback_reason.unwrap(), "extract has no Batch API: runs sync");
/// let outcomes = manager.run_bulk(ProcessId::new(), &[Request::new("Some text.")])?;
/// assert_eq!(outcomes[0].result.as_ref().unwrap().text, "Some text.");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct LlmManager {
    settings: Settings,
    choice: ProviderChoice,
    asked: Strategy,
    options: ManagerOptions,
    ctx: Context,
    notifier: Option<Arc<dyn ProgressNotifier>>,
    watch: Option<SettingsWatch>,
    /// What held last, for whoever has this manager or a copy of it.
    latest: Arc<Mutex<Option<(Settings, ProviderChoice, SettingsWatch)>>>,
    listener: Option<Listener>,
    #[cfg(feature = "queue")]
    job_types: Option<JobKinds>,
}

/// What no setting says.
#[derive(Clone, Default)]
struct ManagerOptions {
    api_key: Option<Secret>,
    data_dir: Option<PathBuf>,
    max_retries: Option<u8>,
    fall_back_when_blocked: bool,
    fixed_slots: bool,
    observer: Option<Arc<dyn CallObserver>>,
}

/// What settings come to.
impl Settings {
    /// The retry policy of these settings: as many retries at each provider, and the longest
    /// `Retry-After` that is obeyed.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub fn retry_policy(&self, max_retries: u8) -> Result<RetryPolicy, Error> {
        Ok(RetryPolicy::default()
            .max_retries(max_retries)
            .max_rate_limit_wait(self.max_rate_limit_wait()?)
            .max_retry_after(self.max_retry_after()?))
    }
}

impl LlmManager {
    /// With the provider of `llm.provider`, else the first usable one; `extract`, which is no model, only
    /// if it is named.
    ///
    /// # Errors
    /// When that one cannot be used, or none can; when a setting cannot be used.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        Self::find(settings, ProviderQuery::new()).map_err(Error::from)
    }

    /// With the providers that are found so.
    ///
    /// # Errors
    /// As [`ProviderQuery::choose`], and when `llm.bulk_strategy` cannot be used.
    pub fn find(settings: Settings, query: ProviderQuery) -> Result<Self, ProviderChoiceError> {
        let choice = query.choose(&settings)?;
        Ok(Self::with(settings, choice)?)
    }

    /// With a provider that was chosen already, and the fallbacks of the settings.
    ///
    /// # Errors
    /// When `llm.bulk_strategy` or a fallback cannot be used.
    pub fn of(settings: Settings, provider: ProviderStatus) -> Result<Self, Error> {
        let choice = ProviderChoice::of(provider, &settings)?;
        Self::with(settings, choice)
    }

    /// With providers that were chosen already.
    ///
    /// # Errors
    /// When `llm.bulk_strategy` cannot be used.
    pub fn with(settings: Settings, choice: ProviderChoice) -> Result<Self, Error> {
        Ok(Self {
            asked: settings.bulk_strategy()?,
            settings,
            choice,
            options: ManagerOptions::default(),
            ctx: Context::new(),
            notifier: None,
            watch: None,
            latest: Arc::default(),
            listener: None,
            #[cfg(feature = "queue")]
            job_types: None,
        })
    }

    /// The first provider's credential. Default: its environment variable.
    pub fn api_key(mut self, key: Secret) -> Self {
        self.options.api_key = Some(key);
        self
    }

    /// The folder whose `llm_jobs.db` holds what is in batches, and in whose `quotas` all limits are shared
    /// with other programs. Default: none, so that [`run_bulk`](Self::run_bulk) refuses the batch strategy.
    pub fn data_dir(mut self, folder: impl AsRef<Path>) -> Self {
        let folder = folder.as_ref();
        self.options.data_dir = Some(folder.to_owned());
        self
    }

    /// Retries at each provider. Default: `queue.max_retries`.
    pub fn max_retries(mut self, retries: u8) -> Self {
        self.options.max_retries = Some(retries);
        self
    }

    /// Whether a blocked answer moves on to the next provider. Default: no.
    pub fn fall_back_when_blocked(mut self, yes: bool) -> Self {
        self.options.fall_back_when_blocked = yes;
        self
    }

    /// Whether a worker has exactly as many slots as there may be
    /// [calls in flight](Self::concurrency) at the first provider, whatever the machine does. Default: no,
    /// they are what `queue.min_workers`, `queue.worker_count` and `queue.max_workers` say.
    pub fn fixed_slots(mut self, yes: bool) -> Self {
        self.options.fixed_slots = yes;
        self
    }

    /// Cancellation, deadline and grace of [`run_bulk`](Self::run_bulk). Default: a context that nobody
    /// cancels.
    pub fn context(mut self, ctx: &Context) -> Self {
        self.ctx = ctx.clone();
        self
    }

    /// Who is told how [`run_bulk`](Self::run_bulk) goes. Default: nobody.
    pub fn notifier(mut self, notifier: Arc<dyn ProgressNotifier>) -> Self {
        self.notifier = Some(notifier);
        self
    }

    /// Who hears of every call of the routes and workers that it makes; calls of Batch APIs are none of these.
    /// Default: nobody.
    pub fn observer(mut self, observer: Arc<dyn CallObserver>) -> Self {
        self.options.observer = Some(observer);
        self
    }

    /// The provider that is asked first.
    pub fn provider(&self) -> &ProviderStatus {
        &self.choice.first
    }

    /// The providers, in the order in which they are asked.
    pub fn providers(&self) -> &ProviderChoice {
        &self.choice
    }

    /// The client of that provider.
    ///
    /// # Errors
    /// As [`LlmConfig::client`], and when a setting cannot be used.
    pub fn client(&self) -> Result<Client, Error> {
        let calls = CallSettings::of(&self.settings)?;
        let config = calls.applied_to(self.own());
        config
            .concurrency(calls.concurrency(self.provider(), Caller::Run).most())
            .client()
    }

    /// Its Batch API, whatever the strategy; `None` for a provider without one.
    ///
    /// # Errors
    /// As [`LlmConfig::batch_client`], and when a setting cannot be used.
    pub fn batch_client(&self) -> Result<Option<BatchApi>, Error> {
        if self.provider().batch_api {
            self.batch_config()?.batch_client().map(Some)
        } else {
            Ok(None)
        }
    }

    /// Its Batch API, if the [strategy](Self::effective_strategy) is to use it.
    ///
    /// # Errors
    /// As [`batch_client`](Self::batch_client).
    pub fn batches(&self) -> Result<Option<BatchApi>, Error> {
        match self.effective_strategy().strategy {
            Strategy::Batch => self.batch_client(),
            Strategy::Sync => Ok(None),
        }
    }

    /// What `llm.bulk_strategy` comes to with this provider.
    pub fn effective_strategy(&self) -> EffectiveStrategy {
        EffectiveStrategy::new(self.asked, self.provider().provider)
    }

    /// Calls of a run in flight at the first provider: `llm.sync_concurrency`; else as many as a local server
    /// has slots, and as many as help at another.
    ///
    /// # Errors
    /// When the setting cannot be used.
    pub fn concurrency(&self) -> Result<Concurrency, Error> {
        self.concurrency_of(Caller::Run)
    }

    fn concurrency_of(&self, caller: Caller) -> Result<Concurrency, Error> {
        Ok(CallSettings::of(&self.settings)?.concurrency(self.provider(), caller))
    }

    /// What the [route](Self::route) of a run is made of.
    ///
    /// # Errors
    /// When a setting cannot be used, or a fallback has no model of its own.
    pub fn route_plan(&self) -> Result<RoutePlan, Error> {
        self.plan(Caller::Run)
    }

    /// The first provider and those of `llm.fallback`, with the limits that are set. A local server that is a
    /// fallback gets no more calls at once than it has slots.
    ///
    /// # Errors
    /// When a setting or one of the providers cannot be used.
    pub fn route(&self) -> Result<Route<'static>, Error> {
        self.made(&self.route_plan()?)
    }

    fn made(&self, plan: &RoutePlan) -> Result<Route<'static>, Error> {
        let route = plan.route()?;
        Ok(match &self.options.observer {
            Some(observer) => route.observer(observer.clone()),
            None => route,
        })
    }

    /// Types of jobs that a [worker](Self::worker) of this manager carries out beside prompts. Those that ask
    /// a model go to the first provider, and then to those of `llm.fallback`. If `llm.fallback` is not set and
    /// `llm.fallback_enabled` is not off, they go to Groq and Anthropic, if their keys and their models in
    /// `jobs.models` are set, and then to `extract`. A call of theirs may take
    /// [30 s](crate::queue::ModelCall::DEFAULT_TIMEOUT) unless `llm.request_timeout` is set. Default: none.
    #[cfg(feature = "queue")]
    pub fn job_types(mut self, types: impl Into<JobKinds>) -> Self {
        self.job_types = Some(types.into());
        self
    }

    /// The providers of [job types](Self::job_types) that ask a model, in the order in which they are asked, and those
    /// that are skipped since they cannot be called.
    ///
    /// # Errors
    /// When a setting cannot be used.
    #[cfg(feature = "queue")]
    pub fn providers_of_job_types(&self) -> Result<ProviderChoice, Error> {
        self.choice.for_job_types(&self.settings)
    }

    /// What the route of the [types](Self::job_types) that ask a model is made of.
    #[cfg(feature = "queue")]
    fn plan_of_model_calls(&self, caller: Caller) -> Result<Option<RoutePlan>, Error> {
        if self.job_types.is_none() {
            return Ok(None);
        }
        let calls = CallSettings::of(&self.settings)?.within(ModelCall::DEFAULT_TIMEOUT);
        let choice = self.providers_of_job_types()?;
        choice.check(&self.settings)?;
        let (retry, folder) = (self.retry()?, self.options.data_dir.as_deref());
        let config = if choice.first.provider == self.provider().provider {
            self.with_key(choice.first.config())
        } else {
            choice.first.config()
        };
        let plan = calls.route_plan(&choice, config, caller, retry, folder);
        Ok(Some(plan))
    }

    fn plan(&self, caller: Caller) -> Result<RoutePlan, Error> {
        let calls = CallSettings::of(&self.settings)?;
        self.choice.check(&self.settings)?;
        let (retry, folder) = (self.retry()?, self.options.data_dir.as_deref());
        Ok(calls.route_plan(&self.choice, self.own(), caller, retry, folder))
    }

    fn max_retries_now(&self) -> Result<u8, Error> {
        let set = self.options.max_retries;
        set.map_or_else(|| self.settings.max_retries(), Ok)
    }

    fn retry(&self) -> Result<RetryPolicy, Error> {
        let policy = self.settings.retry_policy(self.max_retries_now()?)?;
        Ok(policy.fall_back_when_blocked(self.options.fall_back_when_blocked))
    }

    /// Waits for servers that still load their model.
    fn once_loaded(self) -> Result<Self, Error> {
        Ok(Self {
            choice: self.choice.once_loaded(&self.ctx)?,
            ..self
        })
    }

    /// Carries requests out by the [strategy](Self::effective_strategy) and returns one outcome for each,
    /// in their order.
    ///
    /// `sync` asks the [route](Self::route) and keeps everything in memory. `llm.sync_concurrency` calls are in flight,
    /// by default as many as suit the provider: 5, or a local server's slots. `batch` puts the requests on the queue in
    /// the [data folder](Self::data_dir), hands them over, and waits for the end, which may take a day.
    /// They survive this program there: called again with the same process id and requests it attaches
    /// to what is under way. The same happens after a cancellation; to give them up instead, cancel the
    /// process in its queue. Their results are deleted from the queue when they are returned. A server that
    /// still loads its model is waited for, up to ten minutes.
    ///
    /// # Errors
    /// When the context ended it, or it could not begin or go on; what has finished is in
    /// [`BulkError::outcomes`].
    pub fn run_bulk(
        &self,
        process: ProcessId,
        requests: &[Request],
    ) -> Result<Vec<Outcome>, BulkError> {
        let now = self.present().once_loaded().map_err(misuse)?;
        let effective = now.effective_strategy();
        if let Some(reason) = &effective.fallback_reason {
            log::warn!("{reason}");
        }
        match effective.strategy {
            Strategy::Sync => now.run_sync(requests),
            Strategy::Batch => now.run_batch(process, requests),
        }
    }

    fn run_sync(&self, requests: &[Request]) -> Result<Vec<Outcome>, BulkError> {
        let plan = self.plan(Caller::List).map_err(misuse)?;
        let route = self.made(&plan).map_err(misuse)?;
        let bulk = Bulk::new(route).context(&self.ctx);
        let mut bulk = match self.concurrency_of(Caller::List).map_err(misuse)? {
            Concurrency::Fixed(calls) => bulk.concurrency(calls),
            Concurrency::Auto { most, .. } => bulk.up_to(most),
        };
        if let Some(notifier) = &self.notifier {
            bulk = bulk.notifier(notifier.clone());
        }
        bulk.collect(requests)
    }

    #[cfg(not(feature = "queue"))]
    fn run_batch(&self, _: ProcessId, _: &[Request]) -> Result<Vec<Outcome>, BulkError> {
        let why = "the batch strategy keeps its work in the queue: it needs the feature `queue`";
        Err(misuse(Error::new(ErrorKind::Invalid, why)))
    }

    /// Finds the clients of batches, see [`clients_by_account`]: of this manager's provider, and of all
    /// others as the environment has them.
    ///
    /// # Errors
    /// When `batch.transfer_idle_timeout` cannot be used.
    pub fn clients_by_account(
        &self,
    ) -> Result<impl Fn(&BatchAccount) -> Option<Arc<dyn BatchClient>> + Send + Sync + use<>, Error>
    {
        let idle = self.settings.transfer_idle_timeout()?;
        Ok(clients_by_account(Some(self.own()), idle))
    }

    /// How the first provider is called, before the settings say more.
    fn own(&self) -> LlmConfig {
        self.with_key(self.provider().config())
    }

    fn with_key(&self, config: LlmConfig) -> LlmConfig {
        match &self.options.api_key {
            Some(key) => config.api_key(key.clone()),
            None => config,
        }
    }

    fn batch_config(&self) -> Result<LlmConfig, Error> {
        Ok(CallSettings::of(&self.settings)?.applied_to(self.own()))
    }
}

/// Finds the client of an account that batches were made with: that of `own`, or of the account's provider
/// at the address and with the key that the environment has now, if these are the account's. No key is
/// sent to an address just because a batch was made there. `idle` as in
/// [`LlmConfig::transfer_idle_timeout`].
pub fn clients_by_account(
    own: Option<LlmConfig>,
    idle: Duration,
) -> impl Fn(&BatchAccount) -> Option<Arc<dyn BatchClient>> + Send + Sync + use<> {
    move |account| {
        let mut clients = present_clients(own.clone(), account, idle);
        let client = clients.find(|client| client.account() == *account)?;
        Some(Arc::new(client))
    }
}

/// Finds the client of an account as [`clients_by_account`] does; where its key is not here, the one with
/// the present key at the same provider and address. For
/// `JobQueue::adopt_batches`, after a key was rotated.
pub fn clients_by_address(
    own: Option<LlmConfig>,
    idle: Duration,
) -> impl Fn(&BatchAccount) -> Option<Arc<dyn BatchClient>> + Send + Sync + use<> {
    move |account| {
        let there = |client: &BatchApi| client.account().is_at_the_same_address(account);
        let mut clients: Vec<BatchApi> = present_clients(own.clone(), account, idle)
            .filter(there)
            .collect();
        let same = clients
            .iter()
            .position(|client| client.account() == *account);
        (!clients.is_empty()).then(|| {
            let client: Arc<dyn BatchClient> = Arc::new(clients.swap_remove(same.unwrap_or(0)));
            client
        })
    }
}

/// The clients that `own` and the environment have now for the provider of an account.
fn present_clients(
    own: Option<LlmConfig>,
    account: &BatchAccount,
    idle: Duration,
) -> impl Iterator<Item = BatchApi> + use<> {
    let configs = [own, Some(LlmConfig::new(&account.provider))];
    let configs = configs.into_iter().flatten();
    configs.filter_map(move |config| config.transfer_idle_timeout(idle).batch_client().ok())
}

fn misuse(error: Error) -> BulkError {
    BulkError {
        reason: StopReason::Fatal(error),
        outcomes: Vec::new(),
    }
}
