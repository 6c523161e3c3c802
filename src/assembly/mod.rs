//! From settings to bulk work: which provider, which strategy, and carrying it out.

use std::sync::Arc;
use std::time::SystemTime;

use derive_setters::Setters;
use parking_lot::Mutex;

#[cfg(not(feature = "queue"))]
use crate::base::error::ErrorKind;
use crate::base::{Context, Error, Optional, ProcessId};
use crate::bulk::run::{Bulk, BulkError};
use crate::config::choices::Strategy;
use crate::config::settings::Settings;
use crate::config::settings::SettingsWatch;
use crate::engine::budget::Budget;
use crate::llm::client::Client;
use crate::llm::outcome::Outcome;
use crate::llm::providers::batch::BatchApi;
use crate::llm::request::Request;
use crate::llm::route::Route;
use crate::observe::calls::CallObserver;
use crate::observe::progress::ProgressNotifier;
#[cfg(feature = "queue")]
use crate::queue::kind::JobKinds;

#[cfg(feature = "queue")]
mod durable;
mod follow;
mod options;
mod plan;
mod route_plan;
#[cfg(feature = "queue")]
mod worker;

use follow::Listener;
pub use follow::SettingsEvent;
pub use options::ProviderOptions;
pub use plan::{EffectiveStrategy, ProviderPlan, ProviderPlanError, clients_by_account};
use route_plan::Caller;
pub use route_plan::Concurrency;

/// Runs bulk work by a [plan](ProviderPlan): with its providers, limits and strategy.
///
/// Money and time: [`ProviderOptions`] have the prices. The manager has a [`budget`](Self::budget) and a
/// [`deadline`](Self::deadline). An
/// [`Estimate`](crate::Estimate) is computed before a call, from [`Request::estimated_tokens`].
///
/// ```no_run
/// use batchwright::plan::{ProviderOptions, ProviderPlan};
/// use batchwright::{LlmManager, ProcessId, Request, Settings};
///
/// let settings = Settings::new()
///     .environment(|name| std::env::var(name).ok())
///     .flag("llm.provider", "provider", Some("openai".to_owned()))?
///     .flag("llm.model", "model", Some("gpt-x".to_owned()))?
///     .flag("llm.bulk_strategy", "strategy", Some("batch".to_owned()))?;
/// let options = ProviderOptions::new().data_dir("/var/lib/prompts");
/// let manager = LlmManager::of(ProviderPlan::new(settings, options)?);
/// // The program stores the id: after a crash the same id attaches to what is under way.
/// let process = ProcessId::new();
/// let prompts = ["Name a prime.", "Name a river."].map(Request::new);
/// for outcome in manager.run_bulk(process, &prompts)? {
///     println!("{:?}", outcome.result.map(|answer| answer.text));
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// With a provider without a Batch API it uses the strategy `sync`, and reports why:
///
/// ```
/// use batchwright::{LlmManager, ProcessId, Request, Settings, Strategy};
/// let settings = Settings::new()
///     .flag("llm.provider", "provider", Some("extract".to_owned()))?
///     .flag("llm.bulk_strategy", "strategy", Some("batch".to_owned()))?;
/// let manager = LlmManager::new(settings)?;
/// let effective = manager.effective_strategy();
/// assert_eq!((effective.asked, effective.strategy), (Strategy::Batch, Strategy::Sync));
/// assert_eq!(effective.fallback_reason.as_ref().unwrap(), "extract has no Batch API: runs sync");
/// let outcomes = manager.run_bulk(ProcessId::new(), &[Request::new("Some text.")])?;
/// assert_eq!(outcomes[0].result.as_ref().unwrap().text, "Some text.");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, derive_more::Debug, Setters)]
#[setters(generate = false, strip_option)]
#[debug("LlmManager({plan:?})")]
pub struct LlmManager {
    plan: ProviderPlan,
    ctx: Context,
    /// Gets the progress of [`run_bulk`](Self::run_bulk). Default: none.
    #[setters(generate)]
    notifier: Option<Arc<dyn ProgressNotifier>>,
    /// Sets the deadline of [`run_bulk`](Self::run_bulk), and of the workers of this manager. With the strategy `sync`, no
    /// call starts after it, see [`Bulk::deadline`]. With `batch`, the call returns at the deadline: what is in
    /// batches stays there, and the same call attaches to it later. Default: no deadline.
    #[setters(generate)]
    deadline: Option<SystemTime>,
    budget: Option<Budget>,
    /// Gets every call of the routes and workers of this manager, except calls of Batch APIs. Default: none.
    #[setters(generate)]
    observer: Option<Arc<dyn CallObserver>>,
    watch: Option<SettingsWatch>,
    /// The plan of the settings that applied last, for this manager and its copies.
    latest: Arc<Mutex<Option<(ProviderPlan, SettingsWatch)>>>,
    listener: Listener,
    /// Types of jobs that a [worker](Self::worker) of this manager handles in addition to prompts. Those that call a
    /// model use the providers of [`ProviderPlan::for_job_types`]. Default: none.
    #[cfg(feature = "queue")]
    #[setters(generate, into)]
    #[cfg(feature = "queue")]
    job_types: Option<JobKinds>,
}

impl LlmManager {
    /// A manager of the [plan](ProviderPlan) of these settings, with the default
    /// [options](crate::plan::ProviderOptions).
    ///
    /// # Errors
    /// See [`ProviderPlan::new`].
    pub fn new(settings: Settings) -> Result<Self, Error> {
        let plan = ProviderPlan::new(settings, ProviderOptions::new());
        Ok(plan.map(Self::of)?)
    }

    /// A manager of this plan.
    pub fn of(plan: ProviderPlan) -> Self {
        Self {
            plan,
            ctx: Context::new(),
            notifier: None,
            deadline: None,
            budget: None,
            observer: None,
            watch: None,
            latest: Arc::default(),
            listener: Arc::new(follow::log),
            #[cfg(feature = "queue")]
            job_types: None,
        }
    }

    /// Cancellation, deadline and grace of [`run_bulk`](Self::run_bulk). Default: a context without them.
    pub fn context(mut self, ctx: &Context) -> Self {
        self.ctx = ctx.clone();
        self
    }

    /// Limits what [`run_bulk`](Self::run_bulk) may cost, together with what else was spent of the budget. With `batch`, the
    /// process in the queue gets this limit, or what other calls have left of it, and the budget adds what the process
    /// spends, so use the budget in one call at a time. If it is used up, the call ends with
    /// [`StopReason::BudgetExceeded`](crate::StopReason::BudgetExceeded). The workers of this manager keep the budget of each
    /// process instead. Default: no limit.
    pub fn budget(mut self, budget: &Budget) -> Self {
        self.budget = Some(budget.clone());
        self
    }

    /// Everything that is decided about providers.
    pub fn plan(&self) -> &ProviderPlan {
        &self.plan
    }

    /// The client of the first provider.
    ///
    /// # Errors
    /// See [`LlmConfig::client`](crate::LlmConfig::client).
    pub fn client(&self) -> Result<Client, Error> {
        self.plan.client()
    }

    /// The Batch API of the first provider, for any strategy; `None` if it has none.
    ///
    /// # Errors
    /// See [`LlmConfig::batch_client`](crate::LlmConfig::batch_client).
    pub fn batch_client(&self) -> Result<Option<BatchApi>, Error> {
        self.plan.batch_client()
    }

    /// The strategy of bulk work at the first provider.
    pub fn effective_strategy(&self) -> EffectiveStrategy {
        self.plan.strategy()
    }

    /// The first provider and its fallbacks, with the limits of the settings. A local server that is a fallback gets no
    /// more calls at once than it has slots.
    ///
    /// # Errors
    /// If one of the providers cannot be called.
    pub fn route(&self) -> Result<Route<'static>, Error> {
        self.route_of(&self.plan, Caller::Run)
    }

    fn route_of(&self, plan: &ProviderPlan, caller: Caller) -> Result<Route<'static>, Error> {
        let route = plan.route_of(caller)?;
        Ok(route.set(self.observer.clone(), Route::observer))
    }

    /// Runs requests with the [strategy](Self::effective_strategy) and returns one outcome for each, in their order.
    ///
    /// `sync` uses the [route](Self::route) and keeps everything in memory. `llm.sync_concurrency` calls are in flight,
    /// by default as many as suit the provider: 5, or a local server's slots. `batch` puts the requests on the queue in
    /// the [data folder](crate::plan::ProviderOptions::data_dir), submits them, and waits for the end, which may take a
    /// day. They survive this program there: another call with the same process id and the same list attaches to what is
    /// under way, also after a cancellation. To give them up instead, cancel the process in its queue. Their results are
    /// deleted from the queue when they are returned; another call then needs another id.
    ///
    /// # Errors
    /// If the context ended it, or it could not begin or go on; finished items are in [`BulkError::outcomes`].
    pub fn run_bulk(
        &self,
        process: ProcessId,
        requests: &[Request],
    ) -> Result<Vec<Outcome>, BulkError> {
        let now = self.present();
        let strategy = now.plan.strategy();
        if let Some(reason) = &strategy.fallback_reason {
            log::warn!("{reason}");
        }
        match strategy.strategy {
            Strategy::Sync => now.run_sync(requests),
            Strategy::Batch => now.run_batch(process, requests),
        }
    }

    fn run_sync(&self, requests: &[Request]) -> Result<Vec<Outcome>, BulkError> {
        let route = self.route_of(&self.plan, Caller::List)?;
        let route = route.set(self.budget.as_ref(), Route::budget);
        let bulk = Bulk::new(route).context(&self.ctx);
        let bulk = bulk.concurrency(self.plan.concurrency_of(Caller::List).most());
        bulk.set(self.notifier.clone(), |bulk, notifier| {
            bulk.notifier(notifier)
        })
        .set(self.deadline, Bulk::deadline)
        .collect(requests)
    }

    #[cfg(not(feature = "queue"))]
    fn run_batch(&self, _: ProcessId, _: &[Request]) -> Result<Vec<Outcome>, BulkError> {
        let why = "the batch strategy keeps its work in the queue: it needs the feature `queue`";
        Err(Error::new(ErrorKind::Invalid, why).into())
    }
}
