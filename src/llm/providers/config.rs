//! Makes a client from settings: provider, model, key, address, timeouts.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use derive_setters::Setters;

use crate::base::secret::redacted_url;
use crate::base::{Error, ErrorKind, Secret};
use crate::config::choices::PROVIDERS;
use crate::llm::client::Client;
use crate::llm::transport::{HttpTransport, Transport};

use super::access::{Access, Credential, Env, ModelChoice, key_from, plain, setting};
use super::batch::BatchApi;
use super::extract::Extract;
use super::headers::CallHeader;
use super::remote::Remote;
use super::vendor::{Dialect, Vendor};

/// The default time limit of a call.
const TIMEOUT: Duration = Duration::from_secs(600);

/// Settings of a provider's client.
///
/// ```no_run
/// use batchwright::LlmConfig;
/// // The key comes from OPENAI_API_KEY.
/// let client = LlmConfig::new("openai").model("gpt-x").client()?;
/// # Ok::<(), batchwright::Error>(())
/// ```
#[derive(Clone, PartialEq, derive_more::Debug, Setters)]
#[setters(strip_option)]
pub struct LlmConfig {
    #[setters(skip)]
    provider: String,
    /// The model of requests without a model. Default: none; such requests fail.
    #[setters(into)]
    model: Option<String>,
    /// Whether [`model`](Self::model) replaces the model of every request, because a fallback provider does not have
    /// the models of the first one. If no model is set, every request fails. Default: no.
    only_model: bool,
    #[debug("{:?}", base_url.as_deref().map(redacted_url))]
    #[setters(skip)]
    base_url: Option<String>,
    /// Whether the address is complete, so that no version is added.
    #[setters(skip)]
    exact: bool,
    /// Whether the address was found and not named by the user.
    #[setters(skip)]
    unnamed: bool,
    /// The credential. Default: the provider's environment variable, else the file that the variable with `_FILE` at
    /// its end names, else the file with the variable's name in systemd's `CREDENTIALS_DIRECTORY`. Those of `local` are
    /// used only if [`base_url`](Self::base_url) or `LOCAL_LLM_BASE_URL` names an address.
    api_key: Option<Secret>,
    #[setters(skip)]
    headers: Vec<CallHeader>,
    /// Calls in flight. Default: what suits the provider, 1 for a local server and 5 for
    /// the others.
    concurrency: Option<usize>,
    /// The maximum wait for the reply to one call. Default: 600 s, because the first byte of a
    /// reply arrives only when the reply is complete.
    request_timeout: Option<Duration>,
    /// The maximum number of bytes of a reply to one call. A longer reply fails as [`ErrorKind::Malformed`], its first
    /// 16 KiB are kept, and it is not retried. Default: 64 MiB for embeddings, 16 MiB for others.
    #[setters(rename = "max_reply_bytes")]
    max_reply: Option<u64>,
    /// The maximum time without any byte transferred during the upload or download of a batch. The total time of a
    /// transfer has no limit. Default: 60 s.
    #[setters(rename = "transfer_idle_timeout")]
    transfer_idle: Duration,
}

impl LlmConfig {
    /// Settings for the provider of that name: `openai`, `anthropic`, `gemini`, `xai`, `groq`,
    /// `mistral`, `openrouter`, `deepseek`, `together`, `fireworks`, `deepinfra`, `cerebras`, `nvidia`,
    /// `azure`, `local`, `custom` (any OpenAI-compatible server, with a
    /// [`base_url`](Self::base_url)) or `extract`.
    pub fn new(provider: impl Into<String>) -> Self {
        Self {
            provider: provider.into(),
            model: None,
            only_model: false,
            base_url: None,
            exact: false,
            unnamed: false,
            api_key: None,
            headers: Vec::new(),
            concurrency: None,
            request_timeout: None,
            max_reply: None,
            transfer_idle: Duration::from_secs(60),
        }
    }

    /// The address of the provider. The version of the API is added if it is missing; in OpenAI's format only if the
    /// address has no path. Default: the provider's environment variable, as its own SDK reads it, or else its own
    /// address.
    pub fn base_url(mut self, url: impl Into<String>) -> Self {
        self.base_url = Some(url.into());
        self.exact = false;
        self
    }

    /// Sets a complete address, to which nothing is added.
    pub(super) fn at(mut self, url: &str) -> Self {
        self.base_url = Some(url.to_owned());
        self.exact = true;
        self
    }

    /// Sets an address that was found and not named by the user. The key in the environment is not sent there.
    pub(super) fn found_at(self, url: &str) -> Self {
        Self {
            unnamed: true,
            ..self.at(url)
        }
    }

    /// A header for every call, including calls for batches, and their uploads and downloads from the provider's own
    /// host. A header with a credential (`authorization`, `x-api-key`, `x-goog-api-key`, `api-key`) replaces the key,
    /// which is then not required. A header that the provider has a variable for, for example `openai-project`,
    /// replaces that variable. Values are never shown; in messages of a provider, values of 8 characters or more are
    /// removed. Default: none.
    ///
    /// # Errors
    /// The same as for [`CallHeader::new`].
    pub fn header(mut self, name: &str, value: &str) -> Result<Self, Error> {
        self.headers.push(CallHeader::new(name, value)?);
        Ok(self)
    }

    /// Adds headers for every call, like [`header`](Self::header).
    pub fn headers(mut self, headers: &[CallHeader]) -> Self {
        self.headers.extend_from_slice(headers);
        self
    }

    /// Makes the client.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for an unknown provider or an unusable URL, [`ErrorKind::Auth`] if the provider requires
    /// a key and none is set.
    pub fn client(&self) -> Result<Client, Error> {
        self.client_with(&|name| std::env::var(name).ok(), None)
    }

    /// Makes the client with another transport. Unstable, like [`Transport`].
    ///
    /// # Errors
    /// The same as for [`client`](Self::client).
    pub fn client_over(&self, transport: Arc<dyn Transport>) -> Result<Client, Error> {
        self.client_with(&|name| std::env::var(name).ok(), Some(transport))
    }

    pub(crate) fn client_with(
        &self,
        env: Env<'_>,
        transport: Option<Arc<dyn Transport>>,
    ) -> Result<Client, Error> {
        let vendor = known(&self.provider)?;
        if vendor.dialect == Dialect::Extract {
            return Ok(Box::new(Extract));
        }
        let access = self.access(vendor, env)?;
        let concurrency = self.concurrency.unwrap_or(vendor.concurrency);
        let timeout = self.request_timeout.unwrap_or(TIMEOUT);
        let transport = match transport {
            Some(transport) => transport,
            None => Arc::new(HttpTransport::new(&access.base_url, concurrency, timeout)?),
        };
        Ok(Box::new(Remote {
            unordered: AtomicBool::new(false),
            streams: AtomicBool::new(false),
            vendor,
            transport,
            access,
            model: self.model_choice(),
            concurrency,
            timeout,
            max_reply: self.max_reply,
        }))
    }

    /// Makes the client of the provider's Batch API.
    ///
    /// # Errors
    /// The same as for [`client`](Self::client); also [`ErrorKind::Invalid`] for a provider without a Batch API.
    pub fn batch_client(&self) -> Result<BatchApi, Error> {
        self.batch_client_with(&|name| std::env::var(name).ok(), None)
    }

    pub(crate) fn batch_client_with(
        &self,
        env: Env<'_>,
        transport: Option<Arc<dyn Transport>>,
    ) -> Result<BatchApi, Error> {
        let vendor = known(&self.provider)?;
        let batches = vendor.batch_api()?;
        let access = self.access(vendor, env)?;
        let (model, idle) = (self.model_choice(), self.transfer_idle);
        BatchApi::new(vendor, batches, access, model, transport, idle)
    }

    fn model_choice(&self) -> ModelChoice {
        ModelChoice {
            model: self.model.clone(),
            only: self.only_model,
        }
    }

    /// The address, headers and secrets of calls.
    ///
    /// # Errors
    /// If there is no key, or if the address or a header cannot be used.
    pub(super) fn access(&self, vendor: &Vendor, env: Env<'_>) -> Result<Access, Error> {
        let given = self.given_address(vendor, env);
        let withheld = vendor.probed && (self.unnamed || given.is_none());
        let credential = self.credential(vendor, withheld, env)?;
        let base_url = given.unwrap_or_else(|| vendor.normalise(vendor.base_url));
        let key_hint = self.key_hint(vendor, credential.as_ref(), withheld);
        Access::new(vendor, base_url, credential, &self.headers, key_hint, env)
    }

    /// The address that the user named.
    pub(super) fn given_address(&self, vendor: &Vendor, env: Env<'_>) -> Option<String> {
        match &self.base_url {
            Some(url) if self.exact => Some(url.clone()),
            Some(url) => Some(vendor.normalise(url)),
            None => Some(vendor.base_from_variable(&setting(vendor.url_var, env)?)),
        }
    }

    /// The key or token; `None` if none is required, if a header replaces it, or if the user did not name the address.
    fn credential(
        &self,
        vendor: &Vendor,
        withheld: bool,
        env: Env<'_>,
    ) -> Result<Option<Credential>, Error> {
        if withheld && !self.headers.is_empty() {
            let (name, url) = (vendor.name, vendor.url_var);
            let why = format!(
                "{name}: headers are sent only to an address that {url} or --base-url names"
            );
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        if self.pays_by_header() {
            return Ok(None);
        }
        let credential = match &self.api_key {
            Some(key) => Some(Credential::given(vendor, key)),
            None if withheld => None,
            None => key_from(vendor, env)?,
        };
        match &credential {
            Some(credential) => {
                let what = format!("{}: the key", vendor.name);
                plain(&what, credential.key.expose())?;
            }
            None if vendor.needs_key => {
                let variables = vendor.key_vars.iter().chain([&vendor.token_var]);
                let named: Vec<&str> = variables.copied().filter(|name| !name.is_empty()).collect();
                let why = format!("{}: no key: set {}", vendor.name, named.join(" or "));
                return Err(Error::new(ErrorKind::Auth, why));
            }
            None => {}
        }
        Ok(credential)
    }

    pub(super) fn pays_by_header(&self) -> bool {
        self.headers.iter().any(CallHeader::pays)
    }

    /// Advice if the provider rejects the credential.
    fn key_hint(&self, vendor: &Vendor, credential: Option<&Credential>, withheld: bool) -> String {
        match (credential, &vendor.key_vars[..]) {
            _ if self.pays_by_header() => "check the header with the account that pays".to_owned(),
            (Some(credential), _) => format!("check {}", credential.place),
            (None, [variable, ..]) if withheld => {
                let named = vendor.url_var;
                format!("{variable} is sent only to an address that {named} or --base-url names")
            }
            (None, variables) => format!("no key was sent; check {}", variables.join(" or ")),
        }
    }
}

pub(crate) fn known(provider: &str) -> Result<&'static Vendor, Error> {
    Vendor::named(provider)
        .ok_or_else(|| Error::new(ErrorKind::Invalid, PROVIDERS.unknown(provider)))
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
