//! From settings to a client: provider, model, key, address, time-out.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::base::cancel::Context;
use crate::base::error::{Error, ErrorKind};
use crate::base::secret::{Secret, shown_url};
use crate::engine::limit::QuotaKey;
use crate::llm::client::LlmClient;
use crate::llm::hash::hex;
use crate::llm::request::Request;
use crate::llm::response::Response;
use crate::llm::transport::{HttpRequest, HttpTransport, Transport};

use super::dialect::{decode, encode};
use super::extract::Extract;
use super::local_reply::{cut_warning, mark_loading};
use super::vendor::{Dialect, Vendor};

/// A server on this machine or next to it either takes a connection at once or is not there. Its
/// reply may take much longer than others': it queues without a word.
const LOCAL_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Settings of a provider's client.
///
/// ```no_run
/// use batchwright::LlmConfig;
/// // The key comes from OPENAI_API_KEY.
/// let client = LlmConfig::new("openai").model("gpt-x").client()?;
/// # Ok::<(), batchwright::Error>(())
/// ```
#[derive(Clone)]
pub struct LlmConfig {
    provider: String,
    model: Option<String>,
    only_model: bool,
    base_url: Option<String>,
    api_key: Option<Secret>,
    concurrency: Option<usize>,
    request_timeout: Duration,
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
            api_key: None,
            concurrency: None,
            request_timeout: Duration::from_secs(600),
        }
    }

    /// The model for requests that name none. Default: none; such requests fail.
    pub fn model(mut self, model: impl Into<String>) -> Self {
        self.model = Some(model.into());
        self
    }

    /// Whether [`model`](Self::model) is used for every request, whatever it names: a fallback
    /// provider does not know the first one's models. Default: no.
    pub fn only_model(mut self, yes: bool) -> Self {
        self.only_model = yes;
        self
    }

    /// Where the provider is reached. Default: its environment variable, else its own address.
    pub fn base_url(mut self, url: impl Into<String>) -> Self {
        self.base_url = Some(url.into());
        self
    }

    /// The credential. Default: the provider's environment variable.
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
        let (key_header, key) = match &self.api_key {
            Some(key) => (vendor.key_header, Some(key.clone())),
            None => key_from(vendor, env).map_or((vendor.key_header, None), |(header, key)| {
                (header, Some(key))
            }),
        };
        if vendor.needs_key && key.is_none() {
            return Err(Error::new(
                ErrorKind::Auth,
                format!(
                    "{}: no key: set {}",
                    vendor.name,
                    vendor.key_vars.join(" or ")
                ),
            ));
        }
        if let Some(key) = &key {
            plain(&format!("{}: the key", vendor.name), key.expose())?;
        }
        let given = self
            .base_url
            .clone()
            .or_else(|| setting(vendor.url_var, env));
        let base_url = vendor.normalise(given.as_deref().unwrap_or(vendor.base_url));
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
                    shown_url(&base_url)
                ),
            ));
        }
        let concurrency = self.concurrency.unwrap_or(vendor.concurrency);
        let transport = transport.unwrap_or_else(|| {
            let timeout = self.request_timeout;
            Arc::new(match vendor.probed {
                true => HttpTransport::connecting_within(
                    LOCAL_CONNECT_TIMEOUT,
                    &base_url,
                    concurrency,
                    timeout,
                ),
                false => HttpTransport::new(&base_url, concurrency, timeout),
            })
        });
        let mut headers = vec![("content-type", "application/json".to_owned())];
        let mut account = String::new();
        if let Some(key) = &key {
            let value = match key_header {
                "authorization" => format!("Bearer {}", key.expose()),
                _ => key.expose().to_owned(),
            };
            headers.push((key_header, value));
            account = hex(&Sha256::digest(key.expose())[..8]);
        }
        if let Some((header, version)) = vendor.dialect.version() {
            headers.push((header, version.to_owned()));
        }
        if vendor.name == "openai" {
            for (header, variable) in [
                ("openai-organization", "OPENAI_ORG_ID"),
                ("openai-project", "OPENAI_PROJECT_ID"),
            ] {
                if let Some(value) = setting(variable, env) {
                    headers.push((header, plain(variable, value.trim())?.to_owned()));
                }
            }
        }
        Ok(Client(Inner::Remote(Box::new(Remote {
            vendor,
            transport,
            base_url,
            headers,
            key,
            account,
            model: self.model.clone(),
            only_model: self.only_model && self.model.is_some(),
            left_out: Mutex::default(),
            concurrency,
            timeout: self.request_timeout,
        }))))
    }
}

impl std::fmt::Debug for LlmConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LlmConfig")
            .field("provider", &self.provider)
            .field("model", &self.model)
            .field("base_url", &self.base_url.as_deref().map(shown_url))
            .field("concurrency", &self.concurrency)
            .field("request_timeout", &self.request_timeout)
            .finish_non_exhaustive()
    }
}

pub(crate) fn known(provider: &str) -> Result<&'static Vendor, Error> {
    Vendor::named(provider).ok_or_else(|| {
        Error::new(
            ErrorKind::Invalid,
            format!(
                "unknown provider `{provider}`; expected one of: {}",
                Vendor::names()
            ),
        )
    })
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

/// The credential that the environment holds, and the header that takes it.
pub(crate) fn key_from(
    vendor: &Vendor,
    env: &dyn Fn(&str) -> Option<String>,
) -> Option<(&'static str, Secret)> {
    let key = vendor.key_vars.iter().find_map(|name| setting(name, env));
    let key = key.map(|key| (vendor.key_header, key));
    let token = || Some(("authorization", setting(vendor.token_var, env)?));
    let (header, value) = key.or_else(token)?;
    Some((header, Secret::new(value.trim())))
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
    base_url: String,
    headers: Vec<(&'static str, String)>,
    key: Option<Secret>,
    account: String,
    model: Option<String>,
    only_model: bool,
    /// Fields that users were told of already.
    left_out: Mutex<HashSet<String>>,
    concurrency: usize,
    timeout: Duration,
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
        let call = encode(self.vendor, request, self.model_of(request))?;
        self.tell_left_out(request);
        let reply = self.transport.send(
            &HttpRequest {
                url: &format!("{}{}", self.base_url, call.path),
                headers: &self.headers,
                body: Some(&call.body),
                timeout: self.timeout,
            },
            ctx,
        )?;
        let result = decode(self.vendor, &reply)
            .map_err(|error| mark_loading(self.vendor.name, error))
            .map(|response| self.warned(request, response));
        match &self.key {
            Some(key) => redacted(result, key),
            None => result,
        }
    }

    /// Says once of each field that it does not go out.
    fn tell_left_out(&self, request: &Request) {
        for left_out in self.vendor.fields.left_out(request) {
            let mut told = self.left_out.lock();
            if !told.contains(&left_out.field) {
                log::warn!("{} {left_out}", self.vendor.name);
                told.insert(left_out.field);
            }
        }
    }

    /// With a warning, if what a local server has read cannot be the whole prompt.
    fn warned(&self, request: &Request, mut response: Response) -> Response {
        if let Some(usage) = response.usage
            && self.vendor.probed
        {
            response.warning = cut_warning(request.text_bytes(), usage.input_tokens);
        }
        response
    }

    fn model_of<'a>(&'a self, request: &'a Request) -> Option<&'a str> {
        let own = request.model.as_deref().filter(|_| !self.only_model);
        own.or(self.model.as_deref())
    }
}

/// Keys of real providers are longer. What people write for a local server that wants some key
/// may be any word, and an answer is not maimed for the sake of a word.
const REAL_KEY: usize = 16;

/// Servers have been seen to echo the credential; it goes no further than this. Done after
/// decoding, since an escape such as `\/` hides it from a look at the bytes.
fn redacted(result: Result<Response, Error>, key: &Secret) -> Result<Response, Error> {
    match result {
        Ok(mut response) if key.expose().len() >= REAL_KEY => {
            if let Some(cleaned) = key.redact(&response.text) {
                response.text = cleaned;
            }
            Ok(response)
        }
        Ok(response) => Ok(response),
        Err(error) => Err(error.redacted(key)),
    }
}

impl LlmClient for Client {
    fn complete(&self, request: &Request, ctx: &Context) -> Result<Response, Error> {
        match &self.0 {
            Inner::Remote(remote) => remote.complete(request, ctx),
            Inner::Extract(extract) => extract.complete(request, ctx),
        }
    }

    fn quota(&self, request: &Request) -> QuotaKey {
        match &self.0 {
            Inner::Remote(remote) => {
                let model = remote.model_of(request).unwrap_or("");
                QuotaKey::new(&[remote.vendor.name, &remote.base_url, &remote.account, model])
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
            Inner::Remote(remote) => remote.model_of(request).map(str::to_owned),
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
mod tests {
    use super::*;
    use crate::llm::transport::{Headers, HttpReply};

    /// Keeps the headers of what it is sent.
    #[derive(Default)]
    struct Kept(Mutex<Vec<(&'static str, String)>>);

    impl Transport for Kept {
        fn send(&self, request: &HttpRequest<'_>, _: &Context) -> Result<HttpReply, Error> {
            self.0.lock().extend_from_slice(request.headers);
            Ok(HttpReply {
                status: 200,
                headers: Headers::default(),
                body: Vec::new(),
            })
        }
    }

    fn sent(variables: &[(&str, &str)]) -> Result<Vec<(&'static str, String)>, Error> {
        let kept = Arc::new(Kept::default());
        let env = |name: &str| {
            let found = variables.iter().find(|(own, _)| *own == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let config = LlmConfig::new("openai").model("m");
        let client = config.client_with(&env, Some(kept.clone()))?;
        let _ = client.complete(&Request::new("x"), &Context::new());
        let headers = kept.0.lock().clone();
        Ok(headers)
    }

    #[test]
    fn variables_that_end_in_a_line_break_are_trimmed() {
        let headers = sent(&[
            ("OPENAI_API_KEY", " sk-1\r\n"),
            ("OPENAI_ORG_ID", "org-2\r"),
            ("OPENAI_PROJECT_ID", "\tproj-3\n"),
        ])
        .unwrap();
        for wanted in [
            ("authorization", "Bearer sk-1"),
            ("openai-organization", "org-2"),
            ("openai-project", "proj-3"),
        ] {
            let found = headers.iter().find(|(name, _)| *name == wanted.0);
            assert_eq!(found.map(|(_, value)| &**value), Some(wanted.1));
        }
        let blank = sent(&[("OPENAI_API_KEY", "sk-1"), ("OPENAI_ORG_ID", " \r")]).unwrap();
        assert!(blank.iter().all(|(name, _)| *name != "openai-organization"));
    }

    #[test]
    fn a_variable_that_no_header_takes_is_named_before_anything_is_sent() {
        for variable in ["OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_API_KEY"] {
            for value in ["two-words here", "line\r\nx-evil: 1", "\u{fc}ber", "nul\0"] {
                let mut variables = vec![(variable, value)];
                variables.push(("OPENAI_API_KEY", "sk-1"));
                let error = sent(&variables).unwrap_err();
                let name = match variable {
                    "OPENAI_API_KEY" => "the key",
                    other => other,
                };
                assert!(error.message().contains(name), "{error}");
                assert!(error.message().contains("no header takes"), "{error}");
                assert!(!error.message().contains(value), "{error}");
            }
        }
    }

    /// Answers everything with one reply.
    struct Always(u16, &'static str);

    impl Transport for Always {
        fn send(&self, _: &HttpRequest<'_>, _: &Context) -> Result<HttpReply, Error> {
            Ok(HttpReply {
                status: self.0,
                headers: Headers::default(),
                body: self.1.as_bytes().to_vec(),
            })
        }
    }

    #[test]
    fn only_local_servers_are_suspected_of_cutting_prompts() {
        let body = r#"{"choices":[{"finish_reason":"stop","message":{"content":"x"}}],
            "usage":{"prompt_tokens":4096,"completion_tokens":1}}"#;
        let answer = |provider: &str| {
            let config = LlmConfig::new(provider)
                .api_key(Secret::new("k"))
                .model("m");
            let client = config.client_over(Arc::new(Always(200, body))).unwrap();
            let request = Request::new("word ".repeat(8000));
            client.complete(&request, &Context::new()).unwrap()
        };
        assert!(answer("local").warning.unwrap().contains("4096 tokens"));
        assert_eq!(answer("openai").warning, None);
    }

    #[test]
    fn a_loading_model_is_not_an_ordinary_failure() {
        let body = r#"{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}"#;
        let config = LlmConfig::new("local").model("m");
        let client = config.client_over(Arc::new(Always(503, body))).unwrap();
        let refused = client.complete(&Request::new("x"), &Context::new());
        let error = refused.unwrap_err();
        assert!(error.is_not_ready() && error.status() == Some(503));
        assert_eq!(
            error.message(),
            "local: the server is still loading its model"
        );
    }

    #[test]
    fn concurrency_is_the_settings_own_or_the_vendors() {
        let calls = |config: LlmConfig| config.client().unwrap().default_concurrency();
        assert_eq!(calls(LlmConfig::new("local")), 1);
        assert_eq!(calls(LlmConfig::new("local").concurrency(4)), 4);
        let key = Secret::new("k");
        assert_eq!(calls(LlmConfig::new("openai").api_key(key)), 5);
    }
}
