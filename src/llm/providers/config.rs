//! From settings to a client: provider, model, key, address, time-out.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::base::cancel::Context;
use crate::base::error::{Error, ErrorKind};
use crate::base::secret::{Secret, redacted_url, secrets_in};
use crate::config::choices::PROVIDERS;
use crate::engine::limiter::QuotaKey;
use crate::engine::pack::PackLimits;
use crate::llm::client::LlmClient;
use crate::llm::hash::hex;
use crate::llm::params::RequestTask;
use crate::llm::request::Request;
use crate::llm::response::Response;
use crate::llm::transport::{HttpTransport, Transport, is_callable};

use super::access::{Access, LeftOut, ModelChoice};
use super::batch::BatchApi;
use super::credential::{Credential, account_of, key_from, no_key, setting, withheld_headers};
use super::extract::Extract;
use super::headers::CallHeader;
use super::remote::CallPreview;
use super::remote::Remote;
use super::vendor::{Dialect, Vendor};

/// A server on this machine or next to it either takes a connection at once or is not there. Its
/// reply may take much longer than others': it queues without a word.
const LOCAL_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The most bytes of large replies that all calls of a process hold at once, where nothing is set: four
/// with vectors or sixteen others at their limit, and dozens as they usually are.
pub(super) const MAX_REPLIES: u64 = 256 << 20;

/// Settings of a provider's client.
///
/// ```no_run
/// use batchwright::LlmConfig;
/// // The key comes from OPENAI_API_KEY.
/// let client = LlmConfig::new("openai").model("gpt-x").client()?;
/// # Ok::<(), batchwright::Error>(())
/// ```
#[derive(Clone, PartialEq)]
pub struct LlmConfig {
    provider: String,
    model: Option<String>,
    only_model: bool,
    base_url: Option<String>,
    /// The address is complete: nothing is added to it.
    exact: bool,
    /// The address is one that was looked at unasked.
    unnamed: bool,
    api_key: Option<Secret>,
    headers: Vec<CallHeader>,
    concurrency: Option<usize>,
    request_timeout: Duration,
    max_reply: Option<u64>,
    max_replies: u64,
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
            request_timeout: Duration::from_secs(600),
            max_reply: None,
            max_replies: MAX_REPLIES,
            transfer_idle: Duration::from_secs(60),
        }
    }

    /// The model for requests that name none. Default: none; such requests fail.
    pub fn model(mut self, model: impl Into<String>) -> Self {
        self.model = Some(model.into());
        self
    }

    /// Whether [`model`](Self::model) is used for every request, whatever it names: a fallback
    /// provider does not know the first one's models. Without a model, every request fails.
    /// Default: no.
    pub fn only_model(mut self, yes: bool) -> Self {
        self.only_model = yes;
        self
    }

    /// Where the provider is reached; the version of its API is added where it is left out, for the
    /// OpenAI style to an address without a path alone. Default: its environment variable, as the
    /// provider's own SDK reads it, else its own address.
    pub fn base_url(mut self, url: impl Into<String>) -> Self {
        self.base_url = Some(url.into());
        self.exact = false;
        self
    }

    /// An address that has been made out already: nothing is added to it.
    pub(super) fn at(mut self, url: &str) -> Self {
        self.base_url = Some(url.to_owned());
        self.exact = true;
        self
    }

    /// For an address that was found, and not named by the user: the key in the environment is not
    /// sent there.
    pub(super) fn found_at(self, url: &str) -> Self {
        Self {
            unnamed: true,
            ..self.at(url)
        }
    }

    /// The credential. Default: the provider's environment variable; that of `local` is sent only
    /// to an address that is named, by [`base_url`](Self::base_url) or `LOCAL_LLM_BASE_URL`.
    pub fn api_key(mut self, key: Secret) -> Self {
        self.api_key = Some(key);
        self
    }

    /// A header for every call: of prompts, and of batches with their uploads and downloads from the
    /// provider's own host. One that says who pays (`authorization`, `x-api-key`, `x-goog-api-key`,
    /// `api-key`) is sent instead of the key, and then none is needed; one that the provider has a
    /// variable for, such as `openai-project`, instead of that. What is in it is shown nowhere; in what a
    /// provider says, that holds for values of 8 characters and more. Default: none.
    ///
    /// # Errors
    /// As [`CallHeader::new`].
    pub fn header(mut self, name: &str, value: &str) -> Result<Self, Error> {
        self.headers.push(CallHeader::new(name, value)?);
        Ok(self)
    }

    /// Further headers for every call, as with [`header`](Self::header).
    pub fn headers(mut self, headers: &[CallHeader]) -> Self {
        self.headers.extend_from_slice(headers);
        self
    }

    /// Calls in flight. Default: the provider's own, see [`Client::default_concurrency`].
    pub fn concurrency(mut self, calls: usize) -> Self {
        self.concurrency = Some(calls);
        self
    }

    /// The longest wait for one call's reply. Default: 600 s, since a reply has no first byte
    /// until it is whole.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// The most bytes that are read of a reply to one call. What is longer fails as
    /// [`ErrorKind::Malformed`], is kept to its first 16 KiB, and is not asked for again by itself.
    /// Default: 64 MiB for vectors, 16 MiB else.
    pub fn max_reply_bytes(mut self, bytes: u64) -> Self {
        self.max_reply = Some(bytes);
        self
    }

    /// The most bytes that replies beyond 256 KiB take in memory at once, over all calls in flight of
    /// this process, until they have been decoded; decoding takes about as much again of those that are
    /// being decoded. What comes when there is no room is set aside in a temporary file without a name
    /// (in `TMPDIR`, else `/var/tmp` on Unix) and decoded in its turn, so that no server waits; where
    /// there can be no such file, it is not read until there is room. No wait of that kind counts as one
    /// for the reply: only the context ends it. A single reply always has room. Clients of one process
    /// share it, each by its own number. Default: 256 MiB.
    pub fn max_replies_bytes(mut self, bytes: u64) -> Self {
        self.max_replies = bytes;
        self
    }

    /// The longest that no byte of a batch's input or results may move. Default: 60 s. How long a
    /// transfer takes in all is no matter.
    pub fn transfer_idle_timeout(mut self, timeout: Duration) -> Self {
        self.transfer_idle = timeout;
        self
    }

    /// The client.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for an unknown provider or unusable URL, [`ErrorKind::Auth`] when
    /// the provider needs a key and none is set.
    pub fn client(&self) -> Result<Client, Error> {
        self.client_with(&|name| std::env::var(name).ok(), None)
    }

    /// The client over another transport. Unstable, like [`Transport`].
    ///
    /// # Errors
    /// As [`client`](Self::client).
    pub fn client_over(&self, transport: Arc<dyn Transport>) -> Result<Client, Error> {
        self.client_with(&|name| std::env::var(name).ok(), Some(transport))
    }

    pub(crate) fn client_with(
        &self,
        env: &dyn Fn(&str) -> Option<String>,
        transport: Option<Arc<dyn Transport>>,
    ) -> Result<Client, Error> {
        let vendor = known(&self.provider)?;
        if vendor.dialect == Dialect::Extract {
            return Ok(Client(Inner::Extract(Extract)));
        }
        let access = self.access(vendor, env)?;
        let concurrency = self.concurrency.unwrap_or(vendor.concurrency);
        let transport = transport.unwrap_or_else(|| {
            let timeout = self.request_timeout;
            Arc::new(if vendor.probed {
                HttpTransport::connecting_within(
                    LOCAL_CONNECT_TIMEOUT,
                    &access.base_url,
                    concurrency,
                    timeout,
                )
            } else {
                HttpTransport::new(&access.base_url, concurrency, timeout)
            })
        });
        Ok(Client(Inner::Remote(Box::new(Remote {
            vendor,
            transport,
            chat_url: if access.by_deployment {
                None
            } else {
                Some(access.url("/chat/completions"))
            },
            access,
            model: ModelChoice::new(self.model.clone(), self.only_model),
            left_out: LeftOut::default(),
            concurrency,
            timeout: self.request_timeout,
            max_reply: self.max_reply,
            max_replies: self.max_replies,
        }))))
    }

    /// The provider's Batch API.
    ///
    /// # Errors
    /// As [`client`](Self::client); [`ErrorKind::Invalid`] for a provider without one.
    pub fn batch_client(&self) -> Result<BatchApi, Error> {
        self.batch_client_with(&|name| std::env::var(name).ok(), None)
    }

    /// The Batch API over another transport, which must [stream](Transport::transfer). Unstable, like
    /// [`Transport`].
    ///
    /// # Errors
    /// As [`batch_client`](Self::batch_client).
    pub fn batch_client_over(&self, transport: Arc<dyn Transport>) -> Result<BatchApi, Error> {
        self.batch_client_with(&|name| std::env::var(name).ok(), Some(transport))
    }

    pub(crate) fn batch_client_with(
        &self,
        env: &dyn Fn(&str) -> Option<String>,
        transport: Option<Arc<dyn Transport>>,
    ) -> Result<BatchApi, Error> {
        let vendor = known(&self.provider)?;
        let batches = vendor.batch_api()?;
        let access = self.access(vendor, env)?;
        let model = ModelChoice::new(self.model.clone(), self.only_model);
        let api = BatchApi::new(vendor, batches, access, model, transport);
        Ok(api.idle_timeout(self.transfer_idle))
    }

    /// Where the calls go and what they are sent with, or why there can be none.
    pub(super) fn access(
        &self,
        vendor: &Vendor,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Access, Error> {
        let named = self.base_url.as_deref().map(|url| {
            if self.exact {
                url.to_owned()
            } else {
                vendor.normalise(url)
            }
        });
        let in_variable = || Some(vendor.base_from_variable(&setting(vendor.url_var, env)?));
        let given = named.or_else(in_variable);
        let withheld = vendor.probed && (self.unnamed || given.is_none());
        let own = |name: &str| self.headers.iter().any(|header| header.name() == name);
        let paying = self.headers.iter().any(CallHeader::pays);
        if withheld && !self.headers.is_empty() {
            let why = format!("{}: {}", vendor.name, withheld_headers(vendor));
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        let credential = match &self.api_key {
            _ if paying => None,
            Some(key) => Some(Credential::given(vendor, key)),
            None if withheld => None,
            None => key_from(vendor, env),
        };
        if vendor.needs_key && credential.is_none() && !paying {
            let why = format!("{}: {}", vendor.name, no_key(vendor));
            return Err(Error::new(ErrorKind::Auth, why));
        }
        if let Some(credential) = &credential {
            plain(
                &format!("{}: the key", vendor.name),
                credential.key.expose(),
            )?;
        }
        let key_hint = match (&credential, vendor.key_vars) {
            _ if paying => "check the header with the account that pays".to_owned(),
            (Some(credential), _) => format!("check {}", credential.variable),
            (None, [variable, ..]) if withheld => {
                let named = vendor.url_var;
                format!("{variable} is sent only to an address that {named} or --base-url names")
            }
            (None, variables) => format!("check {}", variables.join(" or ")),
        };
        let base_url = given.unwrap_or_else(|| vendor.normalise(vendor.base_url));
        let AzurePlace {
            base_url,
            query,
            by_deployment,
        } = if vendor.azure {
            AzurePlace::of(base_url, setting("OPENAI_API_VERSION", env))
        } else {
            AzurePlace::elsewhere(base_url)
        };
        let odd = |byte: u8| !byte.is_ascii_alphanumeric() && !b"-.=".contains(&byte);
        if query.bytes().any(odd) {
            let why = "OPENAI_API_VERSION is a version such as 2024-10-21";
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("{}: {why}", vendor.name),
            ));
        }
        if base_url.is_empty() {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("{}: no address: set {}", vendor.name, vendor.url_var),
            ));
        }
        let http = base_url.starts_with("http://") || base_url.starts_with("https://");
        if !http || base_url.contains(['?', '#']) {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "{}: the base URL must start with http:// or https:// and have no query, found `{}`",
                    vendor.name,
                    redacted_url(&base_url)
                ),
            ));
        }
        if !is_callable(&base_url) {
            let (name, shown) = (vendor.name, redacted_url(&base_url));
            let why = format!("{name}: the base URL names no host and port to call: `{shown}`");
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        let mut headers = vec![("content-type".into(), "application/json".to_owned())];
        let mut account = String::new();
        for header in &self.headers {
            if let Some(key) = header.credential() {
                account.push_str(&account_of(vendor, header.name(), key));
            }
        }
        if let Some(Credential { header, key, .. }) = &credential {
            let value = match *header {
                "authorization" => format!("Bearer {}", key.expose()),
                _ => key.expose().to_owned(),
            };
            headers.push(((*header).into(), value));
            account.push_str(&account_of(vendor, header, key.expose()));
        }
        if let Some((header, version)) = vendor.version
            && !own(header)
        {
            headers.push((header.into(), version.to_owned()));
        }
        for (header, variable) in vendor.identity {
            let given = self.headers.iter().find(|own| own.name() == *header);
            let value = match given {
                Some(own) => Some(own.value().to_owned()),
                None => match setting(variable, env) {
                    Some(value) => {
                        let value = plain(variable, value.trim())?.to_owned();
                        headers.push(((*header).into(), value.clone()));
                        Some(value)
                    }
                    None => None,
                },
            };
            // One key may reach several projects, each with batches and limits of its own.
            if let Some(value) = value {
                account.push_str(&format!("\n{header}: {value}"));
            }
        }
        headers.extend(self.headers.iter().map(CallHeader::sent));
        if !account.is_empty() {
            account = hex(&Sha256::digest(&account)[..8]);
        }
        let key = credential.map(|credential| credential.key);
        let own: Vec<Secret> = key.into_iter().chain(secrets_in(&base_url)).collect();
        let given = self.headers.iter().flat_map(CallHeader::secrets);
        let keys = self.headers.iter().flat_map(CallHeader::keys);
        Ok(Access {
            secrets: own.iter().cloned().chain(given).collect(),
            keys: own.iter().cloned().chain(keys).collect(),
            base_url,
            query,
            by_deployment,
            headers,
            key_hint,
            account,
        })
    }
}

impl std::fmt::Debug for LlmConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LlmConfig")
            .field("provider", &self.provider)
            .field("model", &self.model)
            .field("base_url", &self.base_url.as_deref().map(redacted_url))
            .field("concurrency", &self.concurrency)
            .field("request_timeout", &self.request_timeout)
            .finish_non_exhaustive()
    }
}

pub(crate) fn known(provider: &str) -> Result<&'static Vendor, Error> {
    Vendor::named(provider)
        .ok_or_else(|| Error::new(ErrorKind::Invalid, PROVIDERS.unknown(provider)))
}

/// What goes into a header must be visible ASCII; the value itself is not shown.
fn plain<'v>(what: &str, value: &'v str) -> Result<&'v str, Error> {
    if value.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(value)
    } else {
        Err(Error::new(
            ErrorKind::Auth,
            format!(
                "{what} contains a blank, a line break or another character that no header takes"
            ),
        ))
    }
}

/// Where the calls of Azure go, as OpenAI's SDK for it has them, and the newer API that needs no version.
struct AzurePlace {
    base_url: String,
    query: String,
    by_deployment: bool,
}

impl AzurePlace {
    fn elsewhere(base_url: String) -> Self {
        Self {
            base_url,
            query: String::new(),
            by_deployment: false,
        }
    }

    /// At an address that ends with `/openai`, or with `/openai/v1` if the newer API is named by it.
    fn of(base_url: String, version: Option<String>) -> Self {
        let version = version.map(|version| version.trim().to_owned());
        let dated = version
            .as_ref()
            .filter(|version| !matches!(version.as_str(), "preview" | "latest" | "v1"));
        let newer = base_url.ends_with("/v1");
        match dated {
            _ if base_url.is_empty() => Self::elsewhere(base_url),
            Some(version) if !newer => Self {
                base_url,
                query: format!("api-version={version}"),
                by_deployment: true,
            },
            _ => Self::elsewhere(if newer {
                base_url
            } else {
                format!("{base_url}/v1")
            }),
        }
    }
}

/// A provider's client.
pub struct Client(Inner);

enum Inner {
    Remote(Box<Remote>),
    Extract(Extract),
}

impl Client {
    /// Calls in flight that suit the provider: the number in its settings, else 1 for a local
    /// server and 5 for the others.
    pub fn default_concurrency(&self) -> usize {
        match &self.0 {
            Inner::Remote(remote) => remote.concurrency,
            Inner::Extract(_) => 5,
        }
    }

    /// The call that a request makes, if it does not share one: where it goes, and what it says. Nothing is sent. Files of
    /// the prompt are read.
    ///
    /// # Errors
    /// If the request names no model, if the provider cannot express what it asks, and for `extract`, which makes no calls.
    pub fn preview(&self, request: &Request, ctx: &Context) -> Result<CallPreview, Error> {
        match &self.0 {
            Inner::Remote(remote) => remote.preview(request, ctx),
            Inner::Extract(_) => {
                let why = "extract is not a model and makes no calls";
                Err(Error::new(ErrorKind::Invalid, why))
            }
        }
    }
}

impl LlmClient for Client {
    fn concurrency(&self) -> Option<usize> {
        Some(self.default_concurrency())
    }

    fn complete(&self, request: &Request, ctx: &Context) -> Result<Response, Error> {
        match &self.0 {
            Inner::Remote(remote) => remote.complete(request, ctx),
            Inner::Extract(extract) => extract.complete(request, ctx),
        }
    }

    fn embed(
        &self,
        requests: &[&Request],
        ctx: &Context,
    ) -> Result<Vec<Result<Response, Error>>, Error> {
        match &self.0 {
            Inner::Remote(remote) => remote.embed(requests, ctx),
            Inner::Extract(extract) => extract.embed(requests, ctx),
        }
    }

    fn pack_limits(&self) -> PackLimits {
        match &self.0 {
            Inner::Remote(remote) => remote.vendor.embeds.unwrap_or(PackLimits::ONE),
            Inner::Extract(extract) => extract.pack_limits(),
        }
    }

    fn quota(&self, request: &Request) -> QuotaKey {
        match &self.0 {
            Inner::Remote(remote) => {
                let model = remote.model.of_request(request).unwrap_or("");
                let access = &remote.access;
                QuotaKey::new(&[remote.vendor.name, &access.base_url, &access.account, model])
            }
            Inner::Extract(_) => QuotaKey::none(),
        }
    }

    fn provider(&self) -> &str {
        match &self.0 {
            Inner::Remote(remote) => remote.vendor.name,
            Inner::Extract(extract) => extract.provider(),
        }
    }

    fn model_for(&self, request: &Request) -> Option<String> {
        match &self.0 {
            Inner::Remote(remote) => remote.model.of_request(request).map(str::to_owned),
            Inner::Extract(extract) => extract.model_for(request),
        }
    }

    fn can(&self, request: &Request) -> bool {
        match &self.0 {
            Inner::Remote(remote) => match request.task {
                RequestTask::Complete => true,
                RequestTask::Embed => remote.vendor.embeds.is_some(),
                RequestTask::Speech => remote.vendor.speaks,
            },
            Inner::Extract(extract) => extract.can(request),
        }
    }

    fn address(&self) -> &str {
        match &self.0 {
            Inner::Remote(remote) => &remote.access.base_url,
            Inner::Extract(_) => "",
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Client").field(&self.provider()).finish()
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
