//! The options of a plan that are not settings.

use std::path::{Path, PathBuf};

use derive_setters::Setters;

use crate::base::{Error, Secret};
use crate::config::settings::Settings;
use crate::engine::route::RetryPolicy;
use crate::llm::prices::Prices;
use crate::llm::providers::headers::CallHeader;
use crate::llm::providers::survey::ProviderStatus;

/// The choices of a program or of its flags, which the settings do not contain. By default, a
/// [plan](super::ProviderPlan) has a provider that answers prompts, at its usual address, with a model for prompts
/// without a model. `Debug` shows none of their values, because an address may contain a password.
#[derive(Clone, Default, derive_more::Debug, Setters)]
#[debug("ProviderOptions")]
pub struct ProviderOptions {
    #[setters(skip)]
    pub(super) provider: Option<Box<ProviderStatus>>,
    /// The address of the first provider. If no provider is named, it is an OpenAI-compatible server (`local`).
    /// Default: its environment variable, else its own address.
    pub(super) base_url: Option<String>,
    /// Whether embeddings are wanted instead of answers. Then the plan has no fallbacks, because embeddings of two
    /// models cannot be compared. Default: no.
    pub(super) embeddings: bool,
    /// Whether a provider without a default model may be used, because every request names a model. Default: no.
    #[setters(rename = "every_request_names_a_model")]
    pub(super) models_named: bool,
    /// The name of a provider, and its headers.
    #[setters(skip)]
    pub(super) headers: Option<(String, Vec<CallHeader>)>,
    /// The name of a provider, and its credential.
    #[setters(skip)]
    pub(super) api_key: Option<(String, Secret)>,
    /// The folder whose `llm_jobs.db` has the requests that are in batches, and in whose `quotas` limits are shared
    /// with other programs. Default: none, so that [`run_bulk`](crate::LlmManager::run_bulk) rejects the batch
    /// strategy.
    #[setters(strip_option, into)]
    pub(super) data_dir: Option<PathBuf>,
    /// Prices that override those of the setting `llm.prices`, see [`Settings::model_prices`]. Default: none.
    #[setters(strip_option)]
    prices: Option<Prices>,
    /// Retries at each provider. Default: `queue.max_retries`.
    #[setters(strip_option)]
    max_retries: Option<u8>,
    /// Whether a blocked answer fails over to the next provider. Default: no.
    fall_back_when_blocked: bool,
}

impl ProviderOptions {
    /// The provider of `llm.provider`, else the first usable one. `extract`, which is not a model, is used only if
    /// the setting names it.
    pub fn new() -> Self {
        Self::default()
    }

    /// The first provider; overrides `llm.provider`. Default: the one in the settings.
    pub fn provider(mut self, status: ProviderStatus) -> Self {
        self.provider = Some(Box::new(status));
        self
    }

    /// Headers for every call to the provider with this name, see [`LlmConfig::header`](crate::LlmConfig::header). They
    /// are sent only if it is the first provider, neither to a fallback nor to another provider that the settings name
    /// later. Default: none.
    pub fn headers(mut self, provider: impl Into<String>, headers: Vec<CallHeader>) -> Self {
        self.headers = Some((provider.into(), headers));
        self
    }

    /// The credential of the provider with this name. It is used only if that is the first provider. Default: its
    /// environment variable.
    pub fn api_key(mut self, provider: impl Into<String>, key: Secret) -> Self {
        self.api_key = Some((provider.into(), key));
        self
    }

    /// All prices, the first ones first.
    pub(super) fn all_prices(&self, settings: &Settings) -> Result<Prices, Error> {
        let own = self.prices.clone().unwrap_or_else(Prices::none);
        Ok(own.or(settings.model_prices()?))
    }

    pub(super) fn retries(&self, settings: &Settings) -> Result<u8, Error> {
        let set = self.max_retries;
        set.map_or_else(|| settings.max_retries(), Ok)
    }

    pub(super) fn retry(&self, settings: &Settings) -> Result<RetryPolicy, Error> {
        let policy = RetryPolicy::default().max_retries(self.retries(settings)?);
        Ok(policy.fall_back_when_blocked(self.fall_back_when_blocked))
    }
}

impl Settings {
    /// The prices in the file that `llm.prices` names, and then those of the table in the program.
    ///
    /// # Errors
    /// If the file cannot be read or contains no prices.
    pub fn model_prices(&self) -> Result<Prices, Error> {
        match self.prices()? {
            Some(file) => Prices::of_file(Path::new(&file)),
            None => Ok(Prices::default()),
        }
    }
}
