//! Which providers are asked: by the settings, and by what is asked for beside them.

use std::fmt;

use crate::base::cancel::Context;
use crate::base::error::{Error, ErrorKind};
use crate::config::settings::Settings;
use crate::llm::providers::headers::CallHeader;
#[cfg(feature = "queue")]
use crate::llm::providers::survey::api_keys_set;
use crate::llm::providers::survey::{ProviderStatus, inspect, inspect_with, survey};
use crate::llm::route::SkippedStep;

/// What is asked of providers beside the settings. By default a provider that answers prompts, at its own
/// address, with a model for those that name none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProviderQuery {
    base_url: Option<String>,
    embeddings: bool,
    models_named: bool,
    /// Whose headers these are.
    headers: Option<(String, Vec<CallHeader>)>,
}

impl ProviderQuery {
    /// The provider that `llm.provider` names, else the first usable one. `extract`, which asks no model, is
    /// used only if it is named.
    pub fn new() -> Self {
        Self::default()
    }

    /// The address of the first provider; without a name it is taken for an OpenAI-compatible server
    /// (`local`). Default: its environment variable, else its own.
    pub fn base_url(mut self, url: Option<String>) -> Self {
        self.base_url = url;
        self
    }

    /// Whether vectors are wanted and no answers. Then nobody takes over what the first provider failed:
    /// vectors of two models cannot be compared. Default: no.
    pub fn embeddings(mut self, yes: bool) -> Self {
        self.embeddings = yes;
        self
    }

    /// Whether a provider will do that has no model for requests that name none. Default: no.
    pub fn every_request_names_a_model(mut self, yes: bool) -> Self {
        self.models_named = yes;
        self
    }

    /// Headers for every call of the provider of that name, see
    /// [`LlmConfig::header`](crate::LlmConfig::header). They are sent where it is asked first, and to
    /// nobody else: neither to whoever takes over what it failed, nor to another provider that the
    /// settings come to name. Default: none.
    pub fn headers(mut self, provider: impl Into<String>, headers: Vec<CallHeader>) -> Self {
        self.headers = Some((provider.into(), headers));
        self
    }

    /// Finds the providers.
    ///
    /// # Errors
    /// When a setting cannot be used, the provider that it names cannot be, or nobody can.
    pub fn choose(&self, settings: &Settings) -> Result<ProviderChoice, ProviderChoiceError> {
        let model = settings.model()?;
        let model = model.as_deref();
        let url = self.base_url.as_deref();
        let look = |name: &str| {
            let own = self.headers.as_ref().filter(|(whose, _)| whose == name);
            let own = own.map_or(&[][..], |(_, headers)| headers);
            inspect_with(name, url, model, self.models_named, own)
        };
        let (first, passed) = match settings.provider()? {
            Some(name) => (look(&name)?, None),
            None if url.is_some() => (look("local")?, Some(Vec::new())),
            None => {
                let (first, passed) = self.first_usable(model)?;
                (first, Some(passed))
            }
        };
        if !first.usable && !first.lacks_model() {
            return Err(ProviderChoiceError::Unusable(Box::new(first)));
        }
        if self.embeddings {
            first.check_embeddings()?;
        }
        let fallbacks = if self.embeddings {
            Vec::new()
        } else {
            fallbacks(settings)?
        };
        Ok(ProviderChoice {
            first,
            fallbacks,
            passed,
            skipped: Vec::new(),
            query: Some(self.clone()),
        })
    }

    /// The first usable provider, and those before it.
    fn first_usable(
        &self,
        model: Option<&str>,
    ) -> Result<(ProviderStatus, Vec<ProviderStatus>), ProviderChoiceError> {
        let mut all = survey(model, self.models_named);
        let fits = |status: &ProviderStatus| {
            status.usable && (status.embeddings || !self.embeddings) && status.provider != "extract"
        };
        match all.iter().position(fits) {
            Some(at) => {
                let passed = all.drain(..at).collect();
                Ok((all.remove(0), passed))
            }
            None => Err(ProviderChoiceError::Nobody(all)),
        }
    }
}

/// The providers of a route, in the order in which they are asked.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ProviderChoice {
    /// Who is asked first.
    pub first: ProviderStatus,
    /// Who takes over what those before finally failed.
    pub fallbacks: Vec<ProviderStatus>,
    /// Who was passed over before the first one, where no name was given.
    pub passed: Option<Vec<ProviderStatus>>,
    /// Providers that should be asked and cannot be called, so that they are left out.
    pub skipped: Vec<SkippedStep>,
    /// How they were found, if they were.
    query: Option<ProviderQuery>,
}

impl ProviderChoice {
    /// This provider, and the fallbacks of the settings.
    ///
    /// # Errors
    /// When these cannot be used.
    pub fn of(first: ProviderStatus, settings: &Settings) -> Result<Self, ProviderChoiceError> {
        Ok(Self {
            first,
            fallbacks: fallbacks(settings)?,
            passed: None,
            skipped: Vec::new(),
            query: None,
        })
    }

    /// The providers for job types that ask a model. Unless `llm.fallback` is set, Groq and Anthropic follow the
    /// first provider, if their keys and their models in `jobs.models` are set, and `extract` comes last. A provider
    /// that has a key and no model is skipped, unless it is the only one.
    #[cfg(feature = "queue")]
    pub(super) fn for_job_types(&self, settings: &Settings) -> Result<Self, Error> {
        let models = settings.job_models()?;
        let model_of = |name: &str| {
            let found = models.iter().find(|(provider, _)| provider == name);
            found.map(|(_, model)| model.as_str())
        };
        let mut choice = self.clone();
        if let (None, Some(model)) = (&choice.first.model, model_of(choice.first.provider)) {
            choice.first = choice.first.with_model(model);
        }
        let fallback_is_set = settings.explain("llm.fallback")?.value.is_some();
        if !fallback_is_set && settings.fallback_enabled()? && choice.first.provider != "extract" {
            for name in ["groq", "anthropic", "extract"] {
                let step = inspect(name, None, model_of(name), false)?;
                if name == choice.first.provider {
                    continue;
                } else if step.usable {
                    choice.fallbacks.push(step);
                } else if step.lacks_model() {
                    choice.skipped.push(without_model(name));
                }
            }
        }
        let first = &choice.first;
        let lacks_model =
            first.model.is_none() && first.provider != "extract" && !first.is_loading();
        if lacks_model && !choice.fallbacks.is_empty() {
            choice.skipped.insert(0, without_model(first.provider));
            choice.first = choice.fallbacks.remove(0);
        }
        Ok(choice)
    }

    /// The providers that job types skip by these settings, without asking a server on this machine; none if a setting
    /// cannot be used.
    #[cfg(feature = "queue")]
    pub fn skipped_by_job_types(settings: &Settings) -> Vec<SkippedStep> {
        let skipped = || -> Result<Vec<SkippedStep>, Error> {
            let with_key = || {
                let mut keys = api_keys_set().into_iter();
                keys.find_map(|(name, key)| key.map(|_| name.to_owned()))
            };
            let first = settings.provider()?.or_else(with_key);
            let Some(first) = first.filter(|name| name != "local") else {
                return Ok(Vec::new());
            };
            let first = inspect(&first, None, settings.model()?.as_deref(), true)?;
            let choice = Self::of(first, settings)?.for_job_types(settings)?;
            Ok(choice.skipped)
        };
        skipped().unwrap_or_default()
    }

    /// Those that other settings mean. A first provider that was given stays.
    pub(super) fn again(&self, settings: &Settings) -> Result<Self, ProviderChoiceError> {
        match &self.query {
            Some(query) => query.choose(settings),
            None => Self::of(self.first.clone(), settings),
        }
    }

    /// Those whose server still loads its model and which are worth waiting for: what it serves and how many
    /// calls at once is known only then. A fallback whose model was named needs no wait: its calls wait,
    /// if there are any.
    pub fn loading(&mut self) -> impl Iterator<Item = &mut ProviderStatus> {
        let fallbacks = self.fallbacks.iter_mut();
        let unnamed = fallbacks.filter(|status| status.model.is_none());
        let all = std::iter::once(&mut self.first).chain(unnamed);
        all.filter(|status| status.is_loading())
    }

    /// Whether each fallback has a model of its own.
    ///
    /// # Errors
    /// When one has none.
    pub(super) fn check(&self, settings: &Settings) -> Result<(), Error> {
        let by = settings.explain("llm.fallback")?.set_by();
        let checked = self
            .fallbacks
            .iter()
            .try_for_each(|one| check_model(one, by));
        checked.map_err(Error::from)
    }

    /// Waits for [those](Self::loading), up to ten minutes each.
    ///
    /// # Errors
    /// When the context ends the wait, or a server has not loaded its model by then or cannot be used.
    pub fn once_loaded(mut self, ctx: &Context) -> Result<Self, Error> {
        for status in self.loading() {
            let name = status.provider;
            log::info!("{name}: the server is still loading its model; waiting");
            *status = status.clone().once_loaded(ctx)?;
            if status.is_loading() || !status.usable {
                let why = if status.is_loading() {
                    "the server is still loading its model"
                } else {
                    status.reason.as_str()
                };
                return Err(Error::new(ErrorKind::Invalid, format!("{name}: {why}")));
            }
        }
        Ok(self)
    }
}

#[cfg(feature = "queue")]
fn without_model(provider: &'static str) -> SkippedStep {
    let reason = format!(
        "no model is named: batchwright config set jobs.models {provider}=MODEL, or llm.model"
    );
    SkippedStep::new(provider, reason)
}

/// A server that has loaded its model and lists none is asked for none.
fn check_model(fallback: &ProviderStatus, by: &str) -> Result<(), ProviderChoiceError> {
    let status = fallback;
    if status.provider == "extract" || status.model.is_some() || status.is_loading() {
        Ok(())
    } else {
        let name = status.provider;
        let why = format!("{by} {name}: name its model: {name}:MODEL");
        Err(ProviderChoiceError::Fallback(why))
    }
}

/// Who takes over, as `llm.fallback` has them: `name` or `name:model`. The first provider's models mean
/// nothing to them, so that each needs one of its own.
fn fallbacks(settings: &Settings) -> Result<Vec<ProviderStatus>, ProviderChoiceError> {
    let by = settings.explain("llm.fallback")?.set_by();
    let refused = |why: String| ProviderChoiceError::Fallback(format!("{by}{why}"));
    let entries = settings.fallback()?;
    let statuses = entries.iter().map(|entry| {
        let (name, model) = match entry.split_once(':') {
            Some((name, model)) => (name.trim(), Some(model.trim())),
            None => (entry.as_str(), None),
        };
        let model = model.filter(|model| !model.is_empty());
        let status = inspect(name, None, model, false)
            .map_err(|error| refused(format!(": {}", error.message())))?;
        if !status.usable && !status.lacks_model() {
            return Err(refused(match status.config().client() {
                Err(error) => format!(" {}", error.message()),
                Ok(_) => format!(" {name}: {}", status.reason),
            }));
        }
        check_model(&status, by)?;
        Ok(status)
    });
    statuses.collect()
}

/// Why there are no [providers](ProviderChoice) to ask.
#[derive(Debug)]
#[non_exhaustive]
pub enum ProviderChoiceError {
    /// A setting cannot be used.
    Setting(Error),
    /// The provider that is named cannot be used.
    Unusable(Box<ProviderStatus>),
    /// No provider can be used; all were looked at.
    Nobody(Vec<ProviderStatus>),
    /// A fallback cannot be used, or has no model of its own.
    Fallback(String),
}

impl fmt::Display for ProviderChoiceError {
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

impl std::error::Error for ProviderChoiceError {}

impl From<Error> for ProviderChoiceError {
    fn from(error: Error) -> Self {
        Self::Setting(error)
    }
}

impl From<ProviderChoiceError> for Error {
    fn from(error: ProviderChoiceError) -> Self {
        match error {
            ProviderChoiceError::Setting(error) => error,
            other => Error::new(ErrorKind::Invalid, other.to_string()),
        }
    }
}
