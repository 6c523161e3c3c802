//! The parts that all clients of a provider share: address, credential, model, and secrets to remove.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::base::{Error, ErrorKind, Secret};
use crate::llm::params::RequestTask;
use crate::llm::reply_details::RawJson;
use crate::llm::request::Request;
use crate::llm::response::Response;

use super::address::ApiAddress;
use super::vendor::Vendor;

/// The address and the credential of a client.
pub(super) struct Access {
    pub address: ApiAddress,
    pub headers: Vec<(Cow<'static, str>, String)>,
    /// The key, and the secrets of the address and of the user's headers. They are removed from errors.
    pub secrets: Vec<Secret>,
    /// The keys among them. They are removed from answers too.
    pub keys: Vec<Secret>,
    /// Advice if the provider rejects the credential.
    pub key_hint: String,
    /// A name of the account.
    pub account: String,
}

impl Access {
    /// The URL of a path below the base URL.
    pub fn url(&self, path: &str) -> String {
        let ApiAddress {
            base_url, query, ..
        } = &self.address;
        let separator = if query.is_empty() {
            ""
        } else if path.contains('?') {
            "&"
        } else {
            "?"
        };
        format!("{base_url}{path}{separator}{query}")
    }

    /// The URL for calls of a model.
    pub fn call_url(&self, path: &str, model: &str) -> String {
        if self.address.by_deployment {
            self.url(&format!("/deployments/{}{path}", escaped(model)))
        } else {
            self.url(path)
        }
    }

    /// The error with advice about a rejected credential or an exhausted account.
    pub fn explained(&self, error: Error) -> Error {
        let advice = match error.kind() {
            ErrorKind::Auth => &self.key_hint,
            ErrorKind::Quota if !error.is_model_only() => ACCOUNT_ADVICE,
            _ => return error,
        };
        let said = error.message().trim_end_matches('.');
        let message = format!("{said}; {advice}");
        error.reworded(message)
    }

    pub fn redacted(&self, error: Error) -> Error {
        let secrets = self.secrets.iter();
        secrets.fold(error, |error, secret| error.redacted(secret))
    }

    /// An answer without keys. Some servers repeat the credential. This is done after decoding, because an escape such
    /// as `\/` hides a key in the bytes.
    pub fn remove_keys(&self, response: &mut Response) {
        self.real_keys().for_each(|key| response.redact(key));
    }

    /// A reply without keys.
    pub fn cleaned(&self, mut reply: RawJson) -> RawJson {
        self.real_keys()
            .for_each(|key| reply.without(&|text| key.redact(text)));
        reply
    }

    fn real_keys(&self) -> impl Iterator<Item = &Secret> {
        let keys = self.keys.iter();
        keys.filter(|key| key.expose().len() >= REAL_KEY)
    }
}

/// Advice for an account that has reached a limit.
const ACCOUNT_ADVICE: &str =
    "the prompts are valid: the account needs credit, a higher limit or the provider's support";

/// Marks the error of a server that is still loading its model. Only servers that users run themselves report this.
pub(super) fn mark_loading(vendor: &Vendor, error: Error) -> Error {
    let refused = error.status() == Some(503) && error.kind() == ErrorKind::Transient;
    let says = || says_loading(error.message()) || error.raw().is_some_and(says_loading);
    if vendor.may_load && refused && says() {
        let name = vendor.name;
        error
            .reworded(format!("{name}: the server is still loading its model"))
            .with_not_ready()
    } else {
        error
    }
}

/// llama.cpp replies `Loading model`; others report that the model is (still, currently) loading. A web page may
/// contain both words by chance.
pub(super) fn says_loading(text: &str) -> bool {
    let has = |wanted: &str| {
        let mut words = text.split(|c: char| !c.is_alphanumeric());
        words.any(|word| word.eq_ignore_ascii_case(wanted))
    };
    !text.trim_start().starts_with('<') && has("loading") && has("model")
}

/// All characters except letters, digits, and these.
const SPECIAL: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// A text, escaped for a path or a query.
pub(super) fn escaped(text: &str) -> String {
    utf8_percent_encode(text, SPECIAL).to_string()
}

/// The choice of the model of a request.
pub(super) struct ModelChoice {
    model: Option<String>,
    only: bool,
}

impl ModelChoice {
    /// The configured model, for all requests or for those without a model.
    pub fn new(model: Option<String>, only: bool) -> Self {
        Self { model, only }
    }

    pub fn of_request<'a>(&'a self, request: &'a Request) -> Option<&'a str> {
        // The configured model is for answers, not for speech.
        let is_asked = !self.only || request.task == RequestTask::Speech;
        let own = request.model.as_deref().filter(|_| is_asked);
        own.or(self.model.as_deref())
    }
}

/// The minimum length of a key that is removed from answers. Keys of providers are longer. The key of a local server
/// may be any word, which must stay in answers.
const REAL_KEY: usize = 16;
