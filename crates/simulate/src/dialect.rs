//! The API of a request, and its translation from bytes to a prompt and back. One module per dialect does the latter.

use super::embed::{self, Pack};
use super::http::{Endpoint, Request};
use super::ledger::Ask;
use super::prompt::{Answer, Fault, Problem, Prompt, Tokens};
use super::script::prompt_key;
use super::speech::Speech;
use super::trouble::Form;
use super::{SimConfig, Vendor, anthropic, gemini, openai, problems};

/// A protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// OpenAI's, as one vendor implements it; without a vendor, all that any vendor supports.
    OpenAi(Option<Vendor>),
    Anthropic,
    Gemini,
}

impl Default for Dialect {
    fn default() -> Dialect {
        Dialect::OpenAi(None)
    }
}

/// The request of a call.
#[derive(Debug)]
pub(super) enum Work {
    Answer(Prompt),
    Vectors(Pack),
    Sound(Speech),
}

impl Work {
    pub(super) fn model(&self) -> &str {
        match self {
            Work::Answer(prompt) => &prompt.model,
            Work::Vectors(pack) => &pack.model,
            Work::Sound(speech) => &speech.model,
        }
    }

    /// The keys of its prompts, without duplicates.
    pub(super) fn keys(&self) -> Vec<u64> {
        match self {
            Work::Answer(prompt) => vec![prompt_key(&prompt.text)],
            Work::Vectors(pack) => pack.keys.clone(),
            Work::Sound(speech) => vec![speech.key],
        }
    }

    /// Its question to the ledger, with its [`keys`](Work::keys).
    pub(super) fn ask<'w>(&'w self, keys: &'w [u64], config: &SimConfig) -> Ask<'w> {
        let (tokens, form, inputs) = match self {
            Work::Answer(prompt) => {
                let form = match prompt.shape {
                    Some(_) => Form::Shaped,
                    None => Form::Text,
                };
                (Tokens::of(prompt, config).total(), form, 0)
            }
            Work::Vectors(pack) => (pack.tokens, Form::Vectors, pack.len() as u64),
            Work::Sound(speech) => (speech.tokens, Form::Sound, 0),
        };
        Ask::Prompt {
            model: self.model(),
            keys,
            tokens,
            form,
            inputs,
        }
    }
}

impl Dialect {
    /// The dialect of paths below `/v1` or `/openai/v1`.
    pub(super) fn openai(request: &Request<'_>, config: &SimConfig) -> Dialect {
        Dialect::OpenAi(if request.groq && config.vendor != Some(Vendor::Azure) {
            Some(Vendor::Groq)
        } else {
            config.vendor
        })
    }

    pub(super) fn of(endpoint: &Endpoint, request: &Request<'_>, config: &SimConfig) -> Dialect {
        match endpoint {
            Endpoint::Chat | Endpoint::Embeddings | Endpoint::Speech => {
                Dialect::openai(request, config)
            }
            Endpoint::Messages => Dialect::Anthropic,
            Endpoint::Generate(_) | Endpoint::BatchEmbed(_) => Dialect::Gemini,
        }
    }

    /// The vendor whose errors are used.
    pub(super) fn vendor_name(self) -> &'static str {
        match self {
            Dialect::OpenAi(Some(vendor)) => vendor.name(),
            Dialect::OpenAi(None) => "openai",
            Dialect::Anthropic => "anthropic",
            Dialect::Gemini => "gemini",
        }
    }

    pub(super) fn has_embeddings(self) -> bool {
        !matches!(self, Dialect::OpenAi(Some(vendor)) if !vendor.has_embeddings())
    }

    /// Rejects a request because of its headers or its address, mostly because of its key.
    pub(super) fn admit(
        self,
        request: &Request<'_>,
        config: &SimConfig,
    ) -> Result<(), Problem<'static>> {
        match self {
            Dialect::OpenAi(vendor) => openai::admit(request, config, vendor),
            Dialect::Anthropic => anthropic::admit(request),
            Dialect::Gemini => gemini::admit(request),
        }
    }

    /// Appends an error body and returns its status.
    pub(super) fn problem(self, out: &mut Vec<u8>, problem: &Problem<'_>, call: u64) -> u16 {
        problems::write(out, problem, self.vendor_name(), call)
    }

    /// Appends the body of an answer.
    pub(super) fn answer(self, out: &mut Vec<u8>, answer: &Answer<'_>) {
        match self {
            Dialect::OpenAi(vendor) => openai::answer(out, answer, vendor),
            Dialect::Anthropic => anthropic::answer(out, answer),
            Dialect::Gemini => gemini::answer(out, answer),
        }
    }

    /// Appends the body with embeddings.
    pub(super) fn vectors(self, out: &mut Vec<u8>, pack: &Pack) {
        match self {
            Dialect::Gemini => embed::write_gemini(out, pack),
            Dialect::OpenAi(_) | Dialect::Anthropic => embed::write_openai(out, pack),
        }
    }
}

/// Reads a request.
pub(super) fn read(
    endpoint: &Endpoint,
    dialect: Dialect,
    request: &Request<'_>,
) -> Result<Work, Fault> {
    let vendor = match dialect {
        Dialect::OpenAi(vendor) => vendor,
        Dialect::Anthropic | Dialect::Gemini => None,
    };
    let body = request.body;
    match endpoint {
        Endpoint::Chat => openai::parse(body, vendor).map(Work::Answer),
        Endpoint::Messages => anthropic::parse(body, request.version).map(Work::Answer),
        Endpoint::Generate(model) => gemini::parse(body, model).map(Work::Answer),
        Endpoint::Embeddings => embed::parse_openai(body, vendor).map(Work::Vectors),
        Endpoint::Speech => Speech::parse(body).map(Work::Sound),
        Endpoint::BatchEmbed(model) => embed::parse_gemini(body, model).map(Work::Vectors),
    }
}
