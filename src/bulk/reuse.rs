//! Answers of earlier runs, whichever outputs they went to.

use sha2::{Digest, Sha256};

use crate::base::cancel::Context;
use crate::base::error::Error;
use crate::config::choices::Dedupe;
use crate::llm::hash::is_repeatable;
use crate::llm::outcome::Outcome;
use crate::llm::request::Request;
use crate::llm::response::FinishReason;
use crate::llm::route::Route;
use crate::observe::tally::Tally;

use super::equals::Equals;
use super::input::{FileIndex, InputFile, State};
use super::lines::{Lines, Named};
use super::open_output::OpenOutput;
use super::options::FileRunOptions;
use super::prompts::RequestKind;
use super::shared::SharedFile;

/// What an answer is known by: what was asked, and who was asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AnswerKey {
    /// The [fingerprint](crate::client::request_hash) of the request.
    pub request: [u8; 32],
    /// The beginning of the SHA-256 of the provider's name, its address and the model that it was asked for.
    pub answerer: [u8; 16],
}

/// A store of answers, which runs read and write. It may forget whatever it likes, and tells no errors: without it a run
/// only makes more calls.
pub trait AnswerStore: Send + Sync {
    /// False where it has no answer to any request whose fingerprint begins with these 8 bytes.
    fn may_have(&self, request: [u8; 8]) -> bool;

    /// The answer, as it was kept.
    fn answer(&self, key: &AnswerKey) -> Option<String>;

    /// Keeps an answer: one line of JSON without an id.
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

/// Which items are to be answered.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'w> {
    pub kinds: &'w [RequestKind],
    pub options: &'w FileRunOptions,
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

    /// Keeps the answer that a step of the route gave, if it is a whole one of a model.
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

    /// Writes the lines of items that have an answer in the store, and of those that ask the same. True when one of them
    /// takes the place of another result.
    pub(super) fn answer(
        &self,
        shared: &mut SharedFile,
        wanted: Wanted<'_>,
        output: &mut OpenOutput,
        tally: &mut Tally,
        ctx: &Context,
    ) -> Result<bool, Error> {
        let mut superseded = false;
        for item in 0..shared.index.len() {
            if ctx.is_cancelled() {
                break;
            }
            let SharedFile {
                input,
                index,
                equals,
                ..
            } = shared;
            let known = self.find(input, index, equals, item, wanted);
            let Some((named, outcome)) = known else {
                continue;
            };
            let step = tally.step_of(outcome.provider.as_deref().unwrap_or_default());
            let mut lines = Lines::default();
            let outcome = lines.add_reused(outcome, named)?;
            superseded |= shared.index.state(item) != State::New;
            let places = shared.equals.asked_for(&shared.index, item);
            let told = &mut |lines: &Lines| {
                superseded |= lines.superseded > 0;
                lines.tell(step, tally);
            };
            shared.write(&outcome, places, lines, output, told, ctx)?;
            shared.equals.spare_item(item, &shared.index);
        }
        Ok(superseded)
    }

    /// Takes the items that have an answer in the store out of what is to be asked, and says how many there are.
    pub(super) fn plan(
        &self,
        input: &InputFile,
        index: &FileIndex,
        equals: &mut Equals,
        wanted: Wanted<'_>,
    ) -> u64 {
        let mut items = 0;
        for item in 0..index.len() {
            if self.find(input, index, equals, item, wanted).is_some() {
                items += 1 + equals.asked_for(index, item).len() as u64;
                equals.spare_item(item, index);
            }
        }
        items
    }

    /// The answer to an item, if one is wanted and there is one.
    fn find(
        &self,
        input: &InputFile,
        index: &FileIndex,
        equals: &Equals,
        item: usize,
        wanted: Wanted<'_>,
    ) -> Option<(Named, Outcome)> {
        let repeatable = wanted.kinds[usize::from(index.class(item))].repeatable;
        let asked = wanted.options.wants(index, item) && !equals.is_spared(item);
        let prefix = index.request_prefix(item).to_be_bytes();
        if !asked || !self.dedupe.shares(repeatable) || !self.store.may_have(prefix) {
            return None;
        }
        let read = input.read(item, index).ok()?;
        let key = self.key(0, &read.request, &read.request_hash)?;
        let kept = self.store.answer(&key)?;
        let outcome: Outcome = serde_json::from_str(&kept).ok()?;
        let answers = outcome.is_success()
            && outcome.request_hash.as_deref() == Some(read.request_hash.as_str());
        let named = Named {
            id: read.request.id.unwrap_or_default(),
            request_hash: read.request_hash,
            model: read.request.model,
            input: read.request.input,
        };
        answers.then_some((named, outcome))
    }
}

/// The bytes of a fingerprint.
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
