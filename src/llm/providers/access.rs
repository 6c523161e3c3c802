//! What the clients of a provider share: where its calls go, as whom, for which model, and what of it
//! must not leave.

use std::collections::HashSet;

use parking_lot::Mutex;

use crate::base::error::{Error, ErrorKind};
use crate::base::secret::Secret;
use crate::llm::request::Request;
use crate::llm::response::{FinishReason, Response};

use super::vendor::Vendor;

/// What a client needs to be let in.
pub(super) struct Access {
    pub base_url: String,
    pub headers: Vec<(&'static str, String)>,
    /// The key, and what the address holds: none of it leaves the client.
    pub secrets: Vec<Secret>,
    /// What to look at when the provider refuses the credential.
    pub key_hint: String,
    /// Which credential it is.
    pub account: String,
}

impl Access {
    /// With what is known here of a credential that was refused.
    pub fn explained(&self, error: Error) -> Error {
        if error.kind() != ErrorKind::Auth {
            return error;
        }
        let error_body = error.message().trim_end_matches('.');
        let message = format!("{error_body}; {}", self.key_hint);
        error.reworded(message)
    }

    pub fn redacted(&self, error: Error) -> Error {
        let secrets = self.secrets.iter();
        secrets.fold(error, |error, secret| error.redacted(secret))
    }

    /// An answer that gives nothing away.
    pub fn without_keys(&self, response: Response) -> Response {
        self.secrets.iter().fold(response, without_key)
    }
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
        let own = request.model.as_deref().filter(|_| !self.only);
        own.or(self.model.as_deref())
    }
}

/// The fields that users were told of: they do not go out.
#[derive(Default)]
pub(super) struct LeftOut(Mutex<HashSet<String>>);

impl LeftOut {
    /// Says once of each field of a request that the vendor does not take it.
    pub fn tell(&self, vendor: &Vendor, request: &Request) {
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

/// Servers have been seen to echo the credential; it goes no further than this. Done after
/// decoding, since an escape such as `\/` hides it from a look at the bytes.
fn without_key(mut response: Response, key: &Secret) -> Response {
    if key.expose().len() < REAL_KEY {
        return response;
    }
    let end = match &mut response.finish_reason {
        FinishReason::Other(word) => Some(word),
        _ => None,
    };
    let texts = [Some(&mut response.text), response.model.as_mut(), end];
    for text in texts.into_iter().flatten() {
        if let Some(cleaned) = key.redact(text) {
            *text = cleaned;
        }
    }
    response
}
