//! What the clients of a provider share: where its calls go, as whom, for which model, and what of it
//! must not leave.

use std::borrow::Cow;
use std::collections::HashSet;
use std::time::Duration;

use parking_lot::Mutex;

use crate::base::error::{Error, ErrorKind};
use crate::base::secret::Secret;
use crate::llm::params::RequestTask;
use crate::llm::reply_details::RawJson;
use crate::llm::request::Request;
use crate::llm::response::Response;

use super::address::ApiAddress;
use super::native;
use super::vendor::Vendor;

/// What a client needs to be let in.
pub(super) struct Access {
    pub address: ApiAddress,
    pub headers: Vec<(Cow<'static, str>, String)>,
    /// The key, and the secrets of the address and of the user's headers. No error shows them.
    pub secrets: Vec<Secret>,
    /// Those of them that are keys: no answer that holds one leaves the client with it.
    pub keys: Vec<Secret>,
    /// What to look at when the provider refuses the credential.
    pub key_hint: String,
    /// Which credential it is.
    pub account: String,
}

impl Access {
    /// A path below the base URL as an address.
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

    /// The address for calls of a model.
    pub fn call_url(&self, path: &str, model: &str) -> String {
        if self.address.by_deployment {
            self.url(&format!("/deployments/{}{path}", escaped(model)))
        } else {
            self.url(path)
        }
    }

    /// With what is known here of a credential that was refused, or what an account needs.
    pub fn explained(&self, error: Error) -> Error {
        let advice = match error.kind() {
            ErrorKind::Auth => self.key_hint.clone(),
            ErrorKind::Quota if !error.is_model_only() => account_advice(&error),
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

    /// An answer that gives nothing away. Servers have been seen to echo the credential; it goes no
    /// further than this. Done after decoding, since an escape such as `\/` hides it from a look at
    /// the bytes.
    pub fn without_keys(&self, response: Response) -> Response {
        self.real_keys().fold(response, Response::redacted)
    }

    /// A reply that gives nothing away.
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

/// Shorter waits are of the pace, which comes back while the account still has no credit.
const REPLENISHED: Duration = Duration::from_secs(60);

/// What to do about an account that is not served any more.
fn account_advice(error: &Error) -> String {
    match error.retry_after().filter(|wait| *wait >= REPLENISHED) {
        Some(wait) => {
            let minutes = wait.as_secs().div_ceil(60);
            format!(
                "the account can be used again in {minutes} min; another provider can be called now"
            )
        }
        None => "the prompts are valid: the account needs credit, a higher limit or the \
                 provider's support"
            .to_owned(),
    }
}

/// A text as part of a path or a query.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Which model a request goes to.
pub(super) struct ModelChoice {
    model: Option<String>,
    only: bool,
}

impl ModelChoice {
    /// The model of the settings, for all requests or for those that name none.
    pub fn new(model: Option<String>, only: bool) -> Self {
        Self { model, only }
    }

    pub fn of_request<'a>(&'a self, request: &'a Request) -> Option<&'a str> {
        // The model of the settings is one for answers.
        let is_asked = !self.only || request.task == RequestTask::Speech;
        let own = request.model.as_deref().filter(|_| is_asked);
        own.or(self.model.as_deref())
    }
}

/// The fields that users were told of: they do not go out.
#[derive(Default)]
pub(super) struct LeftOut(Mutex<HashSet<String>>);

impl LeftOut {
    /// Says once of each field of a request that the vendor does not take it.
    pub fn tell(&self, vendor: &Vendor, request: &Request) {
        if native::own(vendor, request).is_some() {
            return;
        }
        for left_out in vendor.fields.left_out(request) {
            let mut warned = self.0.lock();
            if !warned.contains(&left_out.field) {
                log::warn!("{} {left_out}", vendor.name);
                warned.insert(left_out.field);
            }
        }
    }
}

/// Keys of real providers are longer. What people write for a local server that wants some key
/// may be any word, and an answer is not maimed for the sake of a word.
const REAL_KEY: usize = 16;
