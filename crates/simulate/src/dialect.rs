//! The API of a request, and its translation from bytes to a prompt and back. One module per dialect does the latter.

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde_json::Value;

use super::embed::{self, Pack};
use super::http::Request;
use super::problems::{self, Problem};
use super::prompt::{self, Answer, Finish, Prompt, Tokens};
use super::rules::Fault;
use super::speech::Speech;
use super::trouble::{Form, prompt_key};
use super::vendor::{Row, row};
use super::{SimConfig, Trouble, Vendor, anthropic, gemini, openai};

/// The endpoint of a call, with the model if it is a part of the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Endpoint {
    Chat,
    Messages,
    Generate(String),
    Embeddings,
    Speech,
    BatchEmbed(String),
}

impl Endpoint {
    pub(super) fn of(path: &str) -> Option<Endpoint> {
        Some(match path {
            "/v1/chat/completions" => Endpoint::Chat,
            "/v1/messages" => Endpoint::Messages,
            "/v1/embeddings" => Endpoint::Embeddings,
            "/v1/audio/speech" => Endpoint::Speech,
            _ => match path.strip_prefix("/v1beta/models/")?.rsplit_once(':')? {
                (model, "generateContent") => Endpoint::Generate(model.to_owned()),
                (model, "batchEmbedContents") => Endpoint::BatchEmbed(model.to_owned()),
                _ => return None,
            },
        })
    }
}

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
pub(super) struct Work {
    pub(super) model: String,
    /// The keys of its prompts, without duplicates.
    pub(super) keys: Vec<u64>,
    /// The tokens that its normal reply reports.
    pub(super) tokens: u64,
    pub(super) form: Form,
    /// How many vectors it wants to have.
    pub(super) inputs: u64,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    Answer(Prompt),
    Vectors(Pack),
    Sound(Speech),
}

impl Work {
    fn of_prompt(prompt: Prompt, config: &SimConfig) -> Work {
        Work {
            model: prompt.model.clone(),
            keys: vec![prompt_key(&prompt.text)],
            tokens: Tokens::of(&prompt, config, None).total(),
            form: Form::of(prompt.shape.is_some()),
            inputs: 0,
            content: Content::Answer(prompt),
        }
    }

    fn of_pack(pack: Pack) -> Work {
        let keys: BTreeSet<_> = pack
            .inputs
            .iter()
            .map(|(text, _)| prompt_key(text))
            .collect();
        Work {
            model: pack.model.clone(),
            keys: keys.into_iter().collect(),
            tokens: pack.tokens(),
            form: Form::Vectors,
            inputs: pack.inputs.len() as u64,
            content: Content::Vectors(pack),
        }
    }

    fn of_speech(speech: Speech) -> Work {
        Work {
            model: speech.model.clone(),
            keys: vec![prompt_key(&speech.text)],
            // A token for every four bytes of text, rounded up.
            tokens: (speech.text.len() as u64).div_ceil(4),
            form: Form::Sound,
            inputs: 0,
            content: Content::Sound(speech),
        }
    }
}

impl Dialect {
    /// The dialect of paths below `/v1` or `/openai/v1`.
    pub(super) fn openai(request: &Request, config: &SimConfig) -> Dialect {
        Dialect::OpenAi(if request.groq && config.vendor != Some(Vendor::Azure) {
            Some(Vendor::Groq)
        } else {
            config.vendor
        })
    }

    pub(super) fn of(endpoint: &Endpoint, request: &Request, config: &SimConfig) -> Dialect {
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
            Dialect::OpenAi(vendor) => vendor.map_or("openai", Vendor::name),
            Dialect::Anthropic => "anthropic",
            Dialect::Gemini => "gemini",
        }
    }

    /// What a vendor has of its own.
    pub(super) fn row(self) -> &'static Row {
        row(match self {
            // All that any vendor takes.
            Dialect::OpenAi(None) => "any",
            dialect => dialect.vendor_name(),
        })
    }

    /// Rejects a request because of its headers or its address, mostly because of its key.
    pub(super) fn admit(self, request: &Request, config: &SimConfig) -> Result<(), Problem> {
        match self {
            Dialect::OpenAi(vendor) => openai::admit(request, config, vendor),
            Dialect::Anthropic => anthropic::admit(request, config),
            Dialect::Gemini => gemini::admit(request, config),
        }
    }

    /// The status and the body of an error.
    pub(super) fn problem(self, problem: &Problem, call: u64) -> (u16, Value) {
        problems::reply(problem, self.vendor_name(), call)
    }

    /// The body of an answer.
    pub(super) fn answer(self, answer: &Answer<'_>) -> Value {
        match self {
            Dialect::OpenAi(_) => openai::answer(answer, self.row()),
            Dialect::Anthropic => anthropic::answer(answer),
            Dialect::Gemini => gemini::answer(answer),
        }
    }

    /// The body with status 200 that answers `prompt`; with `odd`, a wrong one. It is for the call of this number at this
    /// time in seconds since the epoch.
    pub(super) fn reply(
        self,
        config: &SimConfig,
        prompt: &Prompt,
        odd: Option<Trouble>,
        (call, created): (u64, u64),
    ) -> Value {
        let tokens = Tokens::of(prompt, config, odd);
        let (finish, text): (_, Cow<'_, str>) = match odd {
            None => {
                let (output, reasoning) = config.tokens();
                let finish = if tokens.completion() < output.saturating_add(reasoning) {
                    Finish::Length
                } else {
                    Finish::Stop
                };
                (finish, prompt::words(config, prompt, tokens))
            }
            Some(Trouble::ContentFilter) => (Finish::Filtered, "".into()),
            Some(Trouble::Refusal) => {
                (Finish::Refused, "I'm sorry, I can't help with that.".into())
            }
            Some(Trouble::Length) => {
                let whole = prompt::words(config, prompt, tokens);
                let half = whole.chars().count() / 2;
                (Finish::Length, whole.chars().take(half).collect())
            }
            Some(Trouble::InvalidJson) => (Finish::Stop, "This is not JSON.".into()),
            Some(_) => (Finish::Stop, "".into()),
        };
        let calls = match odd {
            None if finish == Finish::Stop => prompt.tools.calls(&prompt.text),
            _ => Vec::new(),
        };
        self.answer(&Answer {
            calls: &calls,
            flex: prompt.flex,
            call,
            created,
            model: &prompt.model,
            text: if calls.is_empty() { &text } else { "" },
            finish,
            tokens,
        })
    }

    /// The body with embeddings.
    pub(super) fn vectors(self, pack: &Pack) -> Value {
        match self {
            Dialect::Gemini => embed::gemini_body(pack),
            Dialect::OpenAi(_) | Dialect::Anthropic => embed::openai_body(pack),
        }
    }

    /// Reads the body of a request for an answer; `model` is that of the address, or of the whole batch.
    pub(super) fn prompt(self, body: &[u8], model: &str) -> Result<Prompt, Fault> {
        match self {
            Dialect::OpenAi(_) => openai::parse(body, self.row()),
            Dialect::Anthropic => anthropic::parse(body),
            Dialect::Gemini => gemini::parse(body, model),
        }
    }

    /// Reads the request of a call, which is for a model that exists.
    pub(super) fn read(
        self,
        endpoint: &Endpoint,
        request: &Request,
        config: &SimConfig,
    ) -> Result<Work, Problem> {
        let body = &request.body;
        let rule = self.row().embeddings.as_deref().unwrap_or_default();
        let prompt = |model: &str| {
            let prompt = self.prompt(body, model)?;
            Ok(Work::of_prompt(prompt, config))
        };
        let work = match endpoint {
            Endpoint::Chat | Endpoint::Messages => prompt(""),
            Endpoint::Generate(model) => prompt(model),
            Endpoint::Embeddings => embed::parse_openai(body, rule).map(Work::of_pack),
            Endpoint::Speech => Speech::parse(body).map(Work::of_speech),
            Endpoint::BatchEmbed(model) => embed::parse_gemini(body, model).map(Work::of_pack),
        }?;
        if let (Content::Answer(_), Some(recorder)) = (&work.content, &config.recorder) {
            recorder.record(body);
        }
        if config.knows_model(&work.model) {
            Ok(work)
        } else {
            Err(Problem::no_model(&work.model))
        }
    }
}
