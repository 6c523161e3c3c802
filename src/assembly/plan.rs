//! The one plan from settings to routes and workers: its providers, its strategy, and the accounts of its batches.

use std::fmt;
use std::sync::Arc;

use crate::base::{Error, ErrorKind, Optional};
use crate::config::choices::Strategy;
use crate::config::settings::Settings;
use crate::llm::batch::{BatchAccount, BatchClient};
use crate::llm::client::Client;
use crate::llm::providers::batch::BatchApi;
use crate::llm::providers::config::{LlmConfig, known};
use crate::llm::providers::survey::{
    Given, ProviderStatus, inspect, inspect_with, provider_at, survey,
};
use crate::llm::route::{Route, SkippedStep};
#[cfg(feature = "queue")]
use crate::queue::kind::ModelCall;

use super::options::ProviderOptions;
use super::route_plan::{CallSettings, Caller, Concurrency, has_allowance};

/// All decisions about providers before the first call: which ones are called in which order, with which API key,
/// model and limits, and with which strategy. [`new`](Self::new) reads all settings that it needs, so using a plan
/// causes no further errors of settings. `Debug` shows names only, because settings may be private.
#[derive(Clone, derive_more::Debug)]
#[debug("ProviderPlan({}, {:?})", first.provider, asked)]
#[non_exhaustive]
pub struct ProviderPlan {
    /// The provider that is called first.
    pub first: ProviderStatus,
    /// The providers that are called for items that the previous ones failed permanently.
    pub fallbacks: Vec<ProviderStatus>,
    /// The unusable providers before the first one, if the settings name none.
    pub passed: Option<Vec<ProviderStatus>>,
    /// Providers that job types skip, because they cannot be called.
    pub skipped: Vec<SkippedStep>,
    pub(super) settings: Settings,
    pub(super) options: ProviderOptions,
    pub(super) calls: CallSettings,
    /// The strategy that the settings name.
    pub(super) asked: Strategy,
}

impl ProviderPlan {
    /// Finds the providers, and reads the other settings of their calls.
    ///
    /// # Errors
    /// If a setting or the provider that it names cannot be used, or if there is no usable provider.
    pub fn new(settings: Settings, options: ProviderOptions) -> Result<Self, ProviderPlanError> {
        let (first, passed) = first(&settings, &options)?;
        let fallbacks = if options.embeddings {
            Vec::new()
        } else {
            fallbacks(&settings)?
        };
        Ok(Self {
            asked: settings.bulk_strategy()?,
            calls: CallSettings::of(&settings, &options)?,
            first,
            fallbacks,
            passed,
            skipped: Vec::new(),
            settings,
            options,
        })
    }

    /// The same options with other settings. It looks for providers again only if the settings name others.
    pub(super) fn with_settings(&self, settings: &Settings) -> Result<Self, ProviderPlanError> {
        let names = |settings: &Settings| {
            let by = (settings.provider()?, settings.model()?);
            Ok::<_, Error>((by, settings.fallback()?))
        };
        let mut options = self.options.clone();
        if names(settings)? != names(&self.settings)? {
            // A given provider keeps its last status.
            options.provider = options.provider.map(|_| Box::new(self.first.clone()));
            self.check_followed(&settings.provider()?)?;
            return Self::new(settings.clone(), options);
        }
        Ok(Self {
            asked: settings.bulk_strategy()?,
            calls: CallSettings::of(settings, &options)?,
            settings: settings.clone(),
            options,
            ..self.clone()
        })
    }

    /// An address that was given for one provider must not receive the API key of another one.
    fn check_followed(&self, provider: &Option<String>) -> Result<(), Error> {
        let now = self.first.provider;
        let other = provider.as_deref().filter(|name| *name != now);
        match (&self.options.base_url, other) {
            (Some(_), Some(name)) if known(name)?.needs_key => {
                let why = format!(
                    "llm.provider is {name}, but --base-url was given for {now}; restart without it to call {name}"
                );
                Err(Error::new(ErrorKind::Invalid, why))
            }
            _ => Ok(()),
        }
    }

    /// The settings of this plan.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The strategy of bulk work at the first provider.
    pub fn strategy(&self) -> EffectiveStrategy {
        EffectiveStrategy::new(self.asked, self.first.provider)
    }

    /// The plan for job types that call a model. Unless `llm.fallback` is set, Groq and Anthropic follow the first
    /// provider, if their keys and their models in `jobs.models` are set, and `extract` comes last. A provider that has
    /// a key and no model is skipped, unless it is the only one. A call may take
    /// [30 s](crate::queue::ModelCall::DEFAULT_TIMEOUT) unless `llm.request_timeout` is set.
    ///
    /// # Errors
    /// If a setting cannot be used.
    #[cfg(feature = "queue")]
    pub fn for_job_types(&self) -> Result<Self, Error> {
        let settings = &self.settings;
        let models = settings.job_models()?;
        let model_of = |name: &str| {
            let found = models.iter().find(|(provider, _)| provider == name);
            found.map(|(_, model)| model.as_str())
        };
        let mut plan = self.clone();
        plan.calls = plan.calls.within(ModelCall::DEFAULT_TIMEOUT);
        if let (None, Some(model)) = (&plan.first.model, model_of(plan.first.provider)) {
            plan.first = plan.first.with_model(model);
        }
        let is_unset = settings.given_fallback()?.is_default();
        if is_unset && settings.fallback_enabled()? && plan.first.provider != "extract" {
            for name in ["groq", "anthropic", "extract"] {
                let step = inspect(name, None, model_of(name), false)?;
                if name == plan.first.provider {
                    continue;
                } else if step.usable {
                    plan.fallbacks.push(step);
                } else if step.lacks_model {
                    plan.skipped.push(without_model(name));
                }
            }
        }
        if plan.lacks_model() && !plan.fallbacks.is_empty() {
            plan.skipped.insert(0, without_model(plan.first.provider));
            plan.first = plan.fallbacks.remove(0);
        }
        Ok(plan)
    }

    /// Removes `extract` from the fallbacks, for answers in a format that it cannot return. Returns whether it was
    /// there.
    pub fn remove_extract(&mut self) -> bool {
        let before = self.fallbacks.len();
        self.fallbacks.retain(|status| status.provider != "extract");
        self.fallbacks.len() < before
    }

    /// Whether the first provider has no model for requests that name none.
    pub fn lacks_model(&self) -> bool {
        let first = &self.first;
        first.provider != "extract" && first.model.is_none()
    }

    /// Calls of a run in flight at the first provider: `llm.sync_concurrency`, else the slots of a llama.cpp server, else
    /// a number that adapts to the provider, at a local server from 1.
    pub fn concurrency(&self) -> Concurrency {
        self.concurrency_of(Caller::Run)
    }

    /// Calls of a worker in flight at the first provider: `llm.sync_concurrency`, else the slots of a local server or 1,
    /// else as many as the worker runs jobs at once.
    #[cfg(feature = "queue")]
    pub fn worker_concurrency(&self) -> Concurrency {
        self.concurrency_of(Caller::Worker)
    }

    pub(super) fn concurrency_of(&self, caller: Caller) -> Concurrency {
        self.calls.concurrency(&self.first, caller)
    }

    /// Checks that every key is set, and that every address can be called.
    ///
    /// # Errors
    /// As [`LlmConfig::client`].
    pub fn check(&self) -> Result<(), Error> {
        self.first_config().client()?;
        let mut fallbacks = self.fallbacks.iter();
        fallbacks.try_for_each(|status| status.config().client().map(drop))
    }

    pub(super) fn route_of(&self, caller: Caller) -> Result<Route<'static>, Error> {
        let (config, limits) = self.calls.first(&self.first, self.first_config(), caller);
        let mut all = std::iter::once(&self.first).chain(&self.fallbacks);
        // A worker may get other providers later, and shares their limits from the start.
        let shares = caller == Caller::Worker
            || self.calls.limits_rate()
            || all.any(|status| has_allowance(status.provider));
        let folder = self.options.data_dir.as_ref().filter(|_| shares);
        let shared_in = folder.map(|folder| folder.join("quotas"));
        let route = Route::limited(config.client()?, limits).set(shared_in, Route::share_limits);
        let mut route = route;
        let most = self.concurrency_of(caller);
        for status in &self.fallbacks {
            let (config, limits) = self.calls.fallback(status, most, caller);
            route = route.then(config.client()?, limits);
        }
        Ok(route
            .retry(self.calls.retry)
            .prices(self.calls.prices.clone())
            .cache_prompt(self.calls.cache_prompt)
            .skipping(&self.skipped))
    }

    /// The client of the first provider.
    ///
    /// # Errors
    /// See [`LlmConfig::client`].
    pub fn client(&self) -> Result<Client, Error> {
        let config = self.calls.applied_to(self.first_config());
        config.concurrency(self.concurrency().most()).client()
    }

    /// The Batch API of the first provider, for any strategy; `None` if it has none.
    ///
    /// # Errors
    /// See [`LlmConfig::batch_client`].
    pub fn batch_client(&self) -> Result<Option<BatchApi>, Error> {
        let config = self.first.batch_api.then(|| self.batch_config());
        config.map(|config| config.batch_client()).transpose()
    }

    /// Finds the clients of batches, see [`clients_by_account`]: of the first provider, and
    /// of all others with the keys of the environment.
    pub fn clients_by_account(
        &self,
    ) -> impl Fn(&BatchAccount) -> Option<Arc<dyn BatchClient>> + Send + Sync + use<> {
        clients_by_account(Some(self.first_config()))
    }

    /// How the first provider is called, before the settings of calls are applied.
    pub(super) fn first_config(&self) -> LlmConfig {
        let config = self.first.config();
        match &self.options.api_key {
            Some((whose, key)) if whose == self.first.provider => config.api_key(key.clone()),
            _ => config,
        }
    }

    pub(super) fn batch_config(&self) -> LlmConfig {
        self.calls.applied_to(self.first_config())
    }
}

/// The first provider; if nothing names it, also the unusable ones before it.
type First = (ProviderStatus, Option<Vec<ProviderStatus>>);

fn first(settings: &Settings, options: &ProviderOptions) -> Result<First, ProviderPlanError> {
    if let Some(given) = &options.provider {
        if options.base_url.is_some() || options.headers.is_some() {
            let why = "a provider that was looked at already has its address and headers: give \
                       ProviderOptions either the provider, or base_url and headers";
            return Err(Error::new(ErrorKind::Invalid, why).into());
        }
        if options.embeddings {
            given.check_embeddings()?;
        }
        return Ok((ProviderStatus::clone(given), None));
    }
    let model = settings.model()?;
    let model = model.as_deref();
    let url = options.base_url.as_deref();
    let named = settings.provider()?;
    // What belongs to an address without a provider is given to `local`.
    let alone = named.is_none() && url.is_some();
    let look = |name: &str| {
        let is_own = |whose: &str| whose == name || alone && whose == "local";
        let own = options.headers.as_ref().filter(|(whose, _)| is_own(whose));
        let own = own.map_or(&[][..], |(_, headers)| headers);
        let key = options.api_key.as_ref().filter(|(whose, _)| is_own(whose));
        let given = Given {
            base_url: url,
            api_key: key.map(|(_, key)| key),
            model,
            models_named: options.models_named,
            headers: own,
            asks_models: alone,
        };
        inspect_with(name, &given)
    };
    let (first, passed) = match (named, url) {
        (Some(name), _) => (look(&name)?, None),
        (None, Some(url)) => (look(provider_at(url))?, Some(Vec::new())),
        (None, None) => first_usable(model, options)?,
    };
    if !first.usable && !first.lacks_model {
        return Err(ProviderPlanError::Unusable(Box::new(first)));
    }
    if options.embeddings {
        first.check_embeddings()?;
    }
    Ok((first, passed))
}

fn first_usable(
    model: Option<&str>,
    options: &ProviderOptions,
) -> Result<First, ProviderPlanError> {
    let mut all = survey(model, options.models_named);
    let fits = |status: &ProviderStatus| {
        status.usable && (status.embeddings || !options.embeddings) && status.provider != "extract"
    };
    match all.iter().position(fits) {
        Some(at) => {
            let passed = all.drain(..at).collect();
            Ok((all.remove(0), Some(passed)))
        }
        None => Err(ProviderPlanError::Nobody(all)),
    }
}

fn without_model(provider: &'static str) -> SkippedStep {
    let reason = format!(
        "no model is named: batchwright config set jobs.models {provider}=MODEL, or llm.model"
    );
    SkippedStep::new(provider, reason)
}

/// The providers of `llm.fallback`, each as `name` or `name:model`. Each needs its own model, because it does not
/// know the models of the first provider.
fn fallbacks(settings: &Settings) -> Result<Vec<ProviderStatus>, ProviderPlanError> {
    let by = settings.given_fallback()?.set_by;
    let refused = |why: String| ProviderPlanError::Fallback(format!("{by}{why}"));
    let entries = settings.fallback()?;
    let statuses = entries.iter().map(|entry| {
        let (name, model) = match entry.split_once(':') {
            Some((name, model)) => (name.trim(), Some(model.trim())),
            None => (entry.as_str(), None),
        };
        let model = model.filter(|model| !model.is_empty());
        let status = inspect(name, None, model, false)
            .map_err(|error| refused(format!(": {}", error.message())))?;
        if !status.usable && !status.lacks_model {
            return Err(refused(match status.config().client() {
                Err(error) => format!(" {}", error.message()),
                Ok(_) => format!(" {name}: {}", status.reason),
            }));
        }
        // A server that lists no model cannot be a fallback.
        let name = status.provider;
        if name != "extract" && status.model.is_none() {
            return Err(refused(format!(" {name}: name its model: {name}:MODEL")));
        }
        Ok(status)
    });
    statuses.collect()
}

/// Why there is no [plan](ProviderPlan).
#[derive(Debug, derive_more::From)]
#[non_exhaustive]
pub enum ProviderPlanError {
    /// A setting cannot be used, or the context ended a wait.
    #[from]
    Setting(Error),
    /// A provider that the settings name cannot be used.
    Unusable(Box<ProviderStatus>),
    /// No provider can be used; the status of each.
    Nobody(Vec<ProviderStatus>),
    /// A fallback cannot be used, or has no model of its own.
    Fallback(String),
}

impl fmt::Display for ProviderPlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setting(error) => f.write_str(error.message()),
            Self::Unusable(status) => write!(f, "{}: {}", status.provider, status.reason),
            Self::Nobody(_) => {
                f.write_str("no provider can be used: set the key of one and name a model (llm.model), start a local server, or set llm.provider to extract")
            }
            Self::Fallback(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for ProviderPlanError {}

impl From<ProviderPlanError> for Error {
    fn from(error: ProviderPlanError) -> Self {
        match error {
            ProviderPlanError::Setting(error) => error,
            other => Error::new(ErrorKind::Invalid, other.to_string()),
        }
    }
}

/// The strategy that is used for bulk work, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EffectiveStrategy {
    /// The strategy that is used.
    pub strategy: Strategy,
    /// The strategy that `llm.bulk_strategy` sets.
    pub asked: Strategy,
    /// Why the strategy differs from the setting, as text for people. The setting does not change.
    pub fallback_reason: Option<String>,
    /// Why these calls cost the full price, although batches were requested.
    full_price: Option<String>,
}

impl EffectiveStrategy {
    /// The effect of a strategy at a provider that has a Batch API.
    pub fn possible(asked: Strategy) -> Self {
        Self {
            strategy: asked,
            asked,
            fallback_reason: None,
            full_price: None,
        }
    }

    /// The expected effect of the strategy in these settings, if they name the provider. It ignores unusable settings,
    /// and does not check whether the provider can be called.
    pub fn expected(settings: &Settings) -> Self {
        let asked = settings.bulk_strategy().unwrap_or_default();
        match settings.provider() {
            Ok(Some(provider)) => Self::new(asked, &provider),
            _ => Self::possible(asked),
        }
    }

    /// The effect of a strategy at the provider with this name.
    pub fn new(asked: Strategy, provider: &str) -> Self {
        let missing = known(provider).and_then(|vendor| vendor.batch_api().map(drop));
        let Some(error) = missing.err().filter(|_| asked == Strategy::Batch) else {
            return Self::possible(asked);
        };
        let why = || {
            let error = error.message();
            format!("every prompt would cost the full price, because {error}")
        };
        Self {
            strategy: Strategy::Sync,
            asked,
            fallback_reason: Some(format!("{provider} has no Batch API: runs sync")),
            full_price: has_allowance(provider).then(why),
        }
    }

    /// Checks that prompts cost no more than the setting requests: a paid provider without a Batch API charges the full
    /// price where others charge half. Local servers and `extract` cost the same either way.
    ///
    /// # Errors
    /// If they cost more; the error names the providers that support the strategy.
    pub fn check_price(&self) -> Result<(), Error> {
        let refused = |why| Err(Error::new(ErrorKind::Invalid, why));
        self.full_price.as_ref().map_or(Ok(()), refused)
    }
}

/// Finds the client of an account with which batches were created: the client of `own`, or of the account's
/// provider at the address and with the API key that the environment has now. If that key differs from the one that
/// created the batches, the client of the same address is used: it collects the batches that the provider shows to it.
/// An API key is never sent to an address only because a batch was created there.
pub fn clients_by_account(
    own: Option<LlmConfig>,
) -> impl Fn(&BatchAccount) -> Option<Arc<dyn BatchClient>> + Send + Sync + use<> {
    move |account| {
        let configs = [own.clone(), Some(LlmConfig::new(&account.provider))];
        let configs = configs.into_iter().flatten();
        let clients = configs.filter_map(|config| config.batch_client().ok());
        let there = clients.filter(|client| client.account().is_at_the_same_address(account));
        let client = there.min_by_key(|client| client.account() != *account)?;
        Some(Arc::new(client))
    }
}
