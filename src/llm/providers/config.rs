//! From settings to a client: provider, model, key, address, time-out.

use std::borrow::Cow;
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
use crate::llm::request::Request;
use crate::llm::response::Response;
use crate::llm::transport::{
    HttpReply, HttpRequest, HttpTransport, ReplyShare, Transport, is_callable,
};

use super::access::{Access, LeftOut, ModelChoice};
use super::batch::BatchApi;
use super::dialect::{Call, decode, encode};
use super::embed;
use super::extract::Extract;
use super::local_reply::{cut_warning, mark_loading};
use super::vendor::{Dialect, Vendor};

/// A server on this machine or next to it either takes a connection at once or is not there. Its
/// reply may take much longer than others': it queues without a word.
const LOCAL_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The most bytes that are read of a reply, where nothing is set.
pub(super) const MAX_REPLY: u64 = 16 << 20;
/// The same of one with vectors: a call may make thousands of them.
const MAX_VECTORS: u64 = 64 << 20;
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
    concurrency: Option<usize>,
    request_timeout: Duration,
    max_reply: Option<u64>,
    max_replies: u64,
    transfer_idle: Duration,
}

impl LlmConfig {
    /// Settings for the provider of that name: `openai`, `anthropic`, `gemini`, `xai`, `groq`,
    /// `mistral`, `local`, `custom` (any OpenAI-compatible server, with a
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
            Arc::new(match vendor.probed {
                true => HttpTransport::connecting_within(
                    LOCAL_CONNECT_TIMEOUT,
                    &access.base_url,
                    concurrency,
                    timeout,
                ),
                false => HttpTransport::new(&access.base_url, concurrency, timeout),
            })
        });
        Ok(Client(Inner::Remote(Box::new(Remote {
            vendor,
            transport,
            chat_url: format!("{}/chat/completions", access.base_url),
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
        let named = self.base_url.as_deref().map(|url| match self.exact {
            true => url.to_owned(),
            false => vendor.normalise(url),
        });
        let in_variable = || Some(vendor.base_from_variable(&setting(vendor.url_var, env)?));
        let given = named.or_else(in_variable);
        let withheld = vendor.probed && (self.unnamed || given.is_none());
        let credential = match &self.api_key {
            Some(key) => Some(Credential::given(vendor, key)),
            None if withheld => None,
            None => key_from(vendor, env),
        };
        if vendor.needs_key && credential.is_none() {
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
            (Some(credential), _) => format!("check {}", credential.variable),
            (None, [variable, ..]) if withheld => {
                let named = vendor.url_var;
                format!("{variable} is sent only to an address that {named} or --base-url names")
            }
            (None, variables) => format!("check {}", variables.join(" or ")),
        };
        let base_url = given.unwrap_or_else(|| vendor.normalise(vendor.base_url));
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
        let mut headers = vec![("content-type", "application/json".to_owned())];
        let mut account = String::new();
        if let Some(Credential { header, key, .. }) = &credential {
            let value = match *header {
                "authorization" => format!("Bearer {}", key.expose()),
                _ => key.expose().to_owned(),
            };
            headers.push((header, value));
            account.push_str(key.expose());
        }
        if let Some((header, version)) = vendor.version {
            headers.push((header, version.to_owned()));
        }
        for (header, variable) in vendor.identity {
            if let Some(value) = setting(variable, env) {
                let value = plain(variable, value.trim())?.to_owned();
                // One key may reach several projects, each with batches and limits of its own.
                account.push_str(&format!("\n{header}: {value}"));
                headers.push((header, value));
            }
        }
        if !account.is_empty() {
            account = hex(&Sha256::digest(&account)[..8]);
        }
        let secrets = credential.map(|credential| credential.key);
        Ok(Access {
            secrets: secrets.into_iter().chain(secrets_in(&base_url)).collect(),
            base_url,
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
    match value.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(value),
        false => Err(Error::new(
            ErrorKind::Auth,
            format!(
                "{what} contains a blank, a line break or another character that no header takes"
            ),
        )),
    }
}

/// A variable's value; an empty one counts as unset.
pub(crate) fn setting(name: &str, env: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    env(name).filter(|value| !name.is_empty() && !value.trim().is_empty())
}

/// What tells the provider who pays.
pub(crate) struct Credential {
    pub header: &'static str,
    pub key: Secret,
    /// The variable that holds it, or would.
    pub variable: &'static str,
}

impl Credential {
    fn given(vendor: &Vendor, key: &Secret) -> Self {
        Self {
            header: vendor.key_header,
            key: key.clone(),
            variable: vendor.key_vars.first().copied().unwrap_or("the key"),
        }
    }
}

/// The credential that the environment holds: a key, else a token.
pub(crate) fn key_from(
    vendor: &Vendor,
    env: &dyn Fn(&str) -> Option<String>,
) -> Option<Credential> {
    let keys = vendor
        .key_vars
        .iter()
        .map(|name| (vendor.key_header, *name));
    let mut all = keys.chain([("authorization", vendor.token_var)]);
    all.find_map(|(header, variable)| {
        let key = Secret::new(setting(variable, env)?.trim());
        Some(Credential {
            header,
            key,
            variable,
        })
    })
}

/// That there is none, and what to do about it.
pub(crate) fn no_key(vendor: &Vendor) -> String {
    let token = [vendor.token_var];
    let variables = vendor.key_vars.iter().chain(&token);
    let named: Vec<&str> = variables.copied().filter(|name| !name.is_empty()).collect();
    format!("no key: set {}", named.join(" or "))
}

/// A provider's client.
pub struct Client(Inner);

enum Inner {
    Remote(Box<Remote>),
    Extract(Extract),
}

struct Remote {
    vendor: &'static Vendor,
    transport: Arc<dyn Transport>,
    access: Access,
    /// Where nearly every call goes.
    chat_url: String,
    model: ModelChoice,
    left_out: LeftOut,
    concurrency: usize,
    timeout: Duration,
    max_reply: Option<u64>,
    max_replies: u64,
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
}

impl Remote {
    fn complete(&self, request: &Request, ctx: &Context) -> Result<Response, Error> {
        let call = encode(self.vendor, request, self.model.of_request(request))?;
        self.left_out.tell(self.vendor, request);
        let memory = ReplyShare::of_process(self.max_replies);
        let reply = self.send(&call, MAX_REPLY, &memory, ctx)?;
        let result = decode(self.vendor, &reply)
            .map_err(|error| self.explained(error))
            .map(|response| self.warned(request, response));
        result
            .map(|response| self.access.without_keys(response))
            .map_err(|error| self.access.redacted(error))
    }

    fn embed(&self, requests: &[&Request], ctx: &Context) -> Result<Vec<Response>, Error> {
        let model = requests
            .first()
            .and_then(|first| self.model.of_request(first));
        let call = embed::encode(self.vendor, requests, model)?;
        requests
            .first()
            .inspect(|request| self.left_out.tell(self.vendor, request));
        let memory = ReplyShare::of_process(self.max_replies);
        let reply = self.send(&call, MAX_VECTORS, &memory, ctx)?;
        let result =
            embed::decode(self.vendor, &reply, requests).map_err(|error| self.explained(error));
        result
            .map(|vectors| {
                let vectors = vectors.into_iter();
                let cleaned = vectors.map(|vector| self.access.without_keys(vector));
                cleaned.collect()
            })
            .map_err(|error| self.access.redacted(error))
    }

    fn send(
        &self,
        call: &Call,
        most: u64,
        memory: &ReplyShare,
        ctx: &Context,
    ) -> Result<HttpReply, Error> {
        let url = match &call.path {
            Cow::Borrowed("/chat/completions") => Cow::Borrowed(&*self.chat_url),
            path => Cow::Owned(format!("{}{path}", self.access.base_url)),
        };
        let request = HttpRequest {
            url: &url,
            headers: &self.access.headers,
            body: Some(&call.body),
            timeout: self.timeout,
            reply_limit: self.max_reply.unwrap_or(most),
            memory,
        };
        let reply = self.transport.send(&request, ctx);
        reply.map_err(|error| self.access.redacted(error))
    }

    /// With what only the client knows of a failure.
    fn explained(&self, error: Error) -> Error {
        mark_loading(self.vendor, self.access.explained(error))
    }

    /// With a warning, if what a local server has read cannot be the whole prompt.
    fn warned(&self, request: &Request, response: Response) -> Response {
        let usage = response.usage.filter(|_| self.vendor.probed);
        let cut = usage.and_then(|usage| cut_warning(request.text_bytes(), usage.input_tokens));
        response.warned(cut)
    }
}

impl LlmClient for Client {
    fn complete(&self, request: &Request, ctx: &Context) -> Result<Response, Error> {
        match &self.0 {
            Inner::Remote(remote) => remote.complete(request, ctx),
            Inner::Extract(extract) => extract.complete(request, ctx),
        }
    }

    fn embed(&self, requests: &[&Request], ctx: &Context) -> Result<Vec<Response>, Error> {
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
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Client").field(&self.provider()).finish()
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
