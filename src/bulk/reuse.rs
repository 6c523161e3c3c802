//! Answers of earlier runs, from any output.

use sha2::{Digest, Sha256};

use crate::config::choices::Dedupe;
use crate::llm::hash::is_repeatable;
use crate::llm::outcome::Outcome;
use crate::llm::request::Request;
use crate::llm::response::FinishReason;
use crate::llm::route::Route;

/// Identifies an answer: by its request and by its answerer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AnswerKey {
    /// The [fingerprint](crate::client::request_hash) of the request.
    pub request: [u8; 32],
    /// The first bytes of the SHA-256 of the provider's name, its address and the requested model.
    pub answerer: [u8; 16],
}

/// A store of answers that runs read and write. It may drop answers, and reports no errors: without an answer a run
/// only makes another call.
pub trait AnswerStore: Send + Sync {
    /// False if no request whose hash has these first 8 bytes has an answer.
    fn may_have(&self, request: [u8; 8]) -> bool;

    /// The answer as it was stored.
    fn answer(&self, key: &AnswerKey) -> Option<String>;

    /// Stores an answer: one line of JSON without an id.
    fn keep(&self, key: &AnswerKey, line: String);

    /// The run has ended.
    fn flush(&self) {}
}

/// A store in use by a run.
#[derive(Clone, Copy)]
pub(super) struct Reuse<'r> {
    pub store: &'r dyn AnswerStore,
    pub route: &'r Route<'r>,
    pub dedupe: Dedupe,
}

impl Reuse<'_> {
    fn key(&self, step: u8, request: &Request, request_hash: &str) -> Option<AnswerKey> {
        let (provider, model) = self.route.asked(step, request);
        let model = model.unwrap_or_default();
        let address = self.route.address(step);
        let mut digest = Sha256::new();
        for part in [provider, address, model] {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        Some(AnswerKey {
            request: digest_of(request_hash)?,
            answerer: *digest.finalize().first_chunk()?,
        })
    }

    /// Stores the answer of a step of the route, if it is a complete answer of a model.
    pub(super) fn keep(&self, step: u8, request: &Request, outcome: &Outcome) {
        let Ok(answer) = &outcome.result else { return };
        let whole = answer.finish_reason != FinishReason::Length && answer.warning.is_none();
        if !whole || answer.provider == "extract" || !self.dedupe.shares(is_repeatable(request)) {
            return;
        }
        let hash = outcome.request_hash.as_deref().unwrap_or_default();
        let kept = Outcome {
            id: None,
            input: None,
            earlier: Vec::new(),
            ..outcome.clone()
        };
        if let (Some(key), Ok(line)) = (self.key(step, request, hash), serde_json::to_string(&kept))
        {
            self.store.keep(&key, line);
        }
    }

    /// The answer to a request, if the store has one.
    pub(super) fn answer(&self, request: &Request, request_hash: &str) -> Option<Outcome> {
        let key = self.key(0, request, request_hash)?;
        let kept = self.store.answer(&key)?;
        let outcome: Outcome = serde_json::from_str(&kept).ok()?;
        let answers = outcome.is_success() && outcome.request_hash.as_deref() == Some(request_hash);
        answers.then_some(outcome)
    }
}

/// The bytes of a hash.
fn digest_of(hash: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if hash.len() != 64 {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(hash.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}
