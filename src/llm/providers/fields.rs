//! What becomes of the fields that prompt files carry in OpenAI's words: one list per vendor of what
//! it has no place for, and of what it takes in certain values or other words.
//!
//! What has no place is left out rather than sent to be refused, and users are told. A field that
//! stands in no list is passed on: vendors add fields faster than lists grow.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::base::error::Error;
use crate::llm::hash::hex;
use crate::llm::params::ResponseFormat;
use crate::llm::request::Request;

use super::content::invalid;
use super::files::{self, Files};
use super::left_out::{LeftOut, Why};
use super::{anthropic_schema, calls};

#[path = "host_fields.rs"]
pub(super) mod hosts;

/// One vendor's list.
#[derive(Debug)]
pub(crate) struct Fields {
    /// Fields of the body that it would refuse a request for.
    lacks: &'static [&'static [&'static str]],
    /// Fields of which it takes some values only.
    takes: &'static [(&'static str, Takes)],
    /// Types of content parts, in OpenAI's words, that it has no place for, and what to write instead.
    pub(super) lacks_parts: &'static [(&'static str, &'static str)],
    /// The local files that it takes.
    pub(super) files: Files,
    /// What a message may have beside its role and content.
    turns: Turns,
    /// In whose words its dialect says tools, where it has others than OpenAI.
    tools: Option<calls::Words>,
    /// Which ids of tool calls it takes.
    call_ids: fn(&str) -> bool,
    seeds: Option<RangeInclusive<i64>>,
    temperatures: RangeInclusive<f64>,
    /// Whether blanks and line breaks may end the answer.
    blank_stops: bool,
    schemas: Schemas,
}

/// Which schemas have a place. One that has none is put into the system text.
#[derive(Debug)]
enum Schemas {
    All,
    If(fn(&Value) -> bool),
    Nothing,
}

#[derive(Debug)]
enum Takes {
    /// These words.
    These(&'static [&'static str]),
    /// These words, each beside the one that the vendor has for it.
    Words(&'static [(&'static str, &'static str)]),
    /// What this is true of.
    If(fn(&Value) -> bool),
}

#[derive(Debug)]
enum Turns {
    /// Whatever stands there, what another provider has signed included: for servers that are not known
    /// better, and for those that pass it on to that provider.
    All,
    AllBut(&'static [&'static str]),
    Nothing,
}

/// Set by a request's own parameters or, like a number of answers, by none.
const OWN: [&str; 14] = [
    "model",
    "messages",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "stop",
    "seed",
    "random_seed",
    "response_format",
    "n",
    "best_of",
    "stream",
    "stream_options",
];

/// Not every model reasons less than a little, or more than much.
const LOW_TO_HIGH: Takes = Takes::Words(&[
    ("none", "low"),
    ("minimal", "low"),
    ("low", "low"),
    ("medium", "medium"),
    ("high", "high"),
    ("xhigh", "high"),
    ("max", "high"),
]);

/// The same, and not at all.
const NONE_TO_HIGH: Takes = Takes::Words(&[
    ("none", "none"),
    ("minimal", "low"),
    ("low", "low"),
    ("medium", "medium"),
    ("high", "high"),
    ("xhigh", "high"),
    ("max", "high"),
]);

/// It has no word for less than a little, and words for more than much.
const LOW_TO_MAX: Takes = Takes::Words(&[
    ("none", "low"),
    ("minimal", "low"),
    ("low", "low"),
    ("medium", "medium"),
    ("high", "high"),
    ("xhigh", "xhigh"),
    ("max", "max"),
]);

/// Words of the servers that people run themselves.
const SERVERS: &[&str] = &[
    "chat_template_kwargs",
    "ignore_eos",
    "keep_alive",
    "length_penalty",
    "min_p",
    "min_tokens",
    "mirostat",
    "repeat_last_n",
    "repeat_penalty",
    "repetition_penalty",
    "stop_token_ids",
    "think",
    "top_a",
    "typical_p",
];

const TOP_K: &[&str] = &["top_k"];

/// What OpenAI has and no other vendor.
const OPENAI_ALONE: &[&str] = &[
    "audio",
    "modalities",
    "moderation",
    "prompt_cache_retention",
    "safety_identifier",
    "store",
    "verbosity",
];

const PENALTIES: &[&str] = &["frequency_penalty", "presence_penalty"];
const LOGITS: &[&str] = &["logit_bias", "logprobs", "top_logprobs"];

/// What the dialects that are not OpenAI's lack beside these.
const OPENAI_STYLE: &[&str] = &[
    "function_call",
    "functions",
    "prediction",
    "prompt_cache_key",
    "user",
    "web_search_options",
];

/// What recorded conversations bring along and strict vendors refuse.
const RECORDED: &[&str] = &[
    "name",
    "refusal",
    "annotations",
    "audio",
    "function_call",
    "reasoning",
    "reasoning_content",
    "reasoning_details",
];

/// Everything, as a server that is not known better.
pub(super) const ALL: Fields = Fields {
    lacks: &[],
    takes: &[],
    lacks_parts: &[],
    files: files::ALL,
    turns: Turns::All,
    tools: None,
    call_ids: |_| true,
    seeds: Some(i64::MIN..=i64::MAX),
    temperatures: f64::MIN..=f64::MAX,
    blank_stops: true,
    schemas: Schemas::All,
};

pub(super) const OPENAI: Fields = Fields {
    lacks: &[SERVERS, TOP_K],
    files: files::OPENAI,
    // Refusals name that length.
    call_ids: |id| id.len() <= 40,
    turns: Turns::AllBut(&["reasoning", "reasoning_content", "reasoning_details"]),
    ..ALL
};

/// OpenAI's, without files: of each model its refusals say that it does not support them.
pub(super) const AZURE: Fields = Fields {
    lacks_parts: &[("file", "")],
    files: files::AZURE,
    ..OPENAI
};

/// docs.x.ai, "Chat completions"; that no model of 2026 takes penalties is from users' reports.
pub(super) const XAI: Fields = Fields {
    lacks: &[
        SERVERS,
        TOP_K,
        OPENAI_ALONE,
        PENALTIES,
        &[
            "function_call",
            "functions",
            "logit_bias",
            "metadata",
            "prediction",
            "prompt_cache_key",
        ],
    ],
    takes: &[
        ("reasoning_effort", NONE_TO_HIGH),
        // docs.x.ai, "Priority Processing".
        ("service_tier", Takes::These(&["default", "priority"])),
    ],
    lacks_parts: &[("input_audio", ""), ("file", "")],
    files: files::XAI,
    turns: Turns::AllBut(&[
        "refusal",
        "annotations",
        "audio",
        "function_call",
        "reasoning_details",
    ]),
    ..ALL
};

/// console.groq.com, "OpenAI compatibility", and the types of Groq's Python SDK.
pub(super) const GROQ: Fields = Fields {
    lacks: &[
        SERVERS,
        TOP_K,
        OPENAI_ALONE,
        PENALTIES,
        LOGITS,
        &[
            "metadata",
            "prediction",
            "prompt_cache_key",
            "web_search_options",
        ],
    ],
    takes: &[
        (
            "reasoning_effort",
            Takes::Words(&[
                ("none", "none"),
                ("default", "default"),
                ("minimal", "low"),
                ("low", "low"),
                ("medium", "medium"),
                ("high", "high"),
                ("xhigh", "high"),
                ("max", "high"),
            ]),
        ),
        (
            "service_tier",
            Takes::Words(&[
                ("auto", "auto"),
                ("on_demand", "on_demand"),
                ("default", "on_demand"),
                ("flex", "flex"),
                ("performance", "performance"),
            ]),
        ),
    ],
    lacks_parts: &[("input_audio", ""), ("file", "")],
    files: files::GROQ,
    turns: Turns::AllBut(RECORDED),
    ..ALL
};

/// docs.mistral.ai, "Chat completion", and the types of Mistral's Python SDK.
pub(super) const MISTRAL: Fields = Fields {
    lacks: &[
        SERVERS,
        TOP_K,
        OPENAI_ALONE,
        LOGITS,
        &[
            "function_call",
            "functions",
            "service_tier",
            "user",
            "web_search_options",
        ],
    ],
    takes: &[(
        "reasoning_effort",
        Takes::Words(&[
            ("none", "none"),
            ("minimal", "none"),
            ("low", "none"),
            ("medium", "high"),
            ("high", "high"),
            ("xhigh", "high"),
            ("max", "high"),
        ]),
    )],
    lacks_parts: &[
        (
            "input_audio",
            "it takes {\"type\": \"input_audio\", \"input_audio\": \"BASE64\"}",
        ),
        (
            "file",
            "it takes {\"type\": \"document_url\", \"document_url\": \"URL\"}",
        ),
    ],
    files: files::MISTRAL,
    turns: Turns::AllBut(RECORDED),
    // "Must be a-z, A-Z, 0-9, with a length of 9", say its refusals.
    call_ids: |id| id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()),
    seeds: Some(0..=i64::MAX),
    temperatures: 0.0..=1.5,
    ..ALL
};

/// The Messages API's documentation and the types of Anthropic's Python SDK.
pub(super) const ANTHROPIC: Fields = Fields {
    lacks: &[SERVERS, OPENAI_ALONE, PENALTIES, LOGITS, OPENAI_STYLE],
    takes: &[
        ("reasoning_effort", LOW_TO_MAX),
        ("service_tier", Takes::These(&["auto", "standard_only"])),
        ("metadata", Takes::If(names_a_user_alone)),
        ("output_config", Takes::If(Value::is_object)),
    ],
    // What of them it has a place for, its own encoder finds.
    lacks_parts: &[],
    files: files::ANTHROPIC,
    turns: Turns::Nothing,
    tools: Some(calls::Words::Anthropic),
    call_ids: |id| !id.is_empty() && id.bytes().all(in_a_name),
    seeds: None,
    temperatures: 0.0..=1.0,
    blank_stops: false,
    schemas: Schemas::If(|schema| anthropic_schema::anthropic(schema).is_some()),
};

/// Google's `generative_service.proto` and "Gemini thinking".
pub(super) const GEMINI: Fields = Fields {
    lacks: &[
        SERVERS,
        OPENAI_ALONE,
        OPENAI_STYLE,
        &["contents", "encoding_format", "logit_bias", "metadata"],
    ],
    takes: &[
        (
            "reasoning_effort",
            Takes::Words(&[
                ("none", "MINIMAL"),
                ("minimal", "MINIMAL"),
                ("low", "LOW"),
                ("medium", "MEDIUM"),
                ("high", "HIGH"),
                ("xhigh", "HIGH"),
                ("max", "HIGH"),
            ]),
        ),
        // ai.google.dev, "Priority inference" and "Flex inference", and Google's Python SDK.
        (
            "service_tier",
            Takes::Words(&[
                ("default", "standard"),
                ("standard", "standard"),
                ("flex", "flex"),
                ("priority", "priority"),
            ]),
        ),
        ("logprobs", Takes::If(Value::is_boolean)),
        ("top_logprobs", Takes::If(Value::is_u64)),
        ("presence_penalty", Takes::If(Value::is_number)),
        ("frequency_penalty", Takes::If(Value::is_number)),
        ("generationConfig", Takes::If(Value::is_object)),
    ],
    files: files::GEMINI,
    turns: Turns::Nothing,
    tools: Some(calls::Words::Gemini),
    // The field has 32 bits.
    seeds: Some(i32::MIN as i64..=i32::MAX as i64),
    ..ALL
};

fn in_a_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

fn names_a_user_alone(metadata: &Value) -> bool {
    let fields = metadata.as_object();
    fields.is_some_and(|fields| {
        fields
            .iter()
            .all(|(name, value)| name == "user_id" && value.is_string())
    })
}

impl Fields {
    /// The value of a field of the body as the vendor takes it.
    fn place<'v>(&self, field: &str, value: &'v Value) -> Result<Cow<'v, Value>, Why> {
        if OWN.contains(&field) {
            return Err(Why::Own);
        }
        if self.lacks.iter().any(|names| names.contains(&field)) {
            return Err(Why::Lacking);
        }
        let rule = self.takes.iter().find(|(name, _)| *name == field);
        match rule.map(|(_, takes)| takes) {
            None => Ok(Cow::Borrowed(value)),
            Some(Takes::If(good)) => good(value)
                .then_some(Cow::Borrowed(value))
                .ok_or(Why::Value),
            Some(Takes::These(words)) => match words.iter().any(|word| value == word) {
                true => Ok(Cow::Borrowed(value)),
                false => Err(Why::Words(words.to_vec())),
            },
            Some(Takes::Words(words)) => match words.iter().find(|(word, _)| value == word) {
                Some((_, own)) => Ok(Cow::Owned(Value::from(*own))),
                None => Err(Why::Words(words.iter().map(|(word, _)| *word).collect())),
            },
        }
    }

    /// Refuses a value that would be left out, with those that are taken.
    pub(super) fn check(&self, vendor: &str, field: &str, value: &Value) -> Result<(), Error> {
        let Err(why) = self.place(field, value) else {
            return Ok(());
        };
        let why = match why {
            Why::Words(words) => {
                let words = words.join(", ");
                format!("{vendor} takes no {field} {value}, only {words}")
            }
            _ => format!("{vendor} takes no {field}"),
        };
        Err(invalid(why))
    }

    /// The id of a tool call as the vendor takes it. Those that others gave become another, the same one
    /// wherever it stands in a conversation, which every vendor takes.
    pub(super) fn call_id<'i>(&self, id: &'i str) -> Cow<'i, str> {
        match (self.call_ids)(id) {
            true => Cow::Borrowed(id),
            false => Cow::Owned(hex(&Sha256::digest(id))[..9].to_owned()),
        }
    }

    pub(super) fn has_turn(&self, field: &str) -> bool {
        match self.turns {
            Turns::All => true,
            Turns::AllBut(names) => !names.contains(&field),
            Turns::Nothing => false,
        }
    }

    /// The request's further fields that have a place, as the vendor takes them.
    pub(super) fn further<'r>(
        &'r self,
        request: &'r Request,
    ) -> impl Iterator<Item = (&'r str, Cow<'r, Value>)> {
        let given = self.given(request);
        given.filter_map(|(field, value)| Some((field.as_str(), self.place(field, value).ok()?)))
    }

    /// The request's further fields, without those that the dialect has words of its own for.
    fn given<'r>(&self, request: &'r Request) -> impl Iterator<Item = (&'r String, &'r Value)> {
        let own = match self.tools {
            Some(_) => &calls::FIELDS[..],
            None => &[],
        };
        let given = request.extra.iter().filter(|(_, value)| !value.is_null());
        given.filter(|(field, _)| !own.contains(&field.as_str()))
    }

    /// Whether it may take back what another provider has signed.
    pub(super) fn takes_signatures(&self) -> bool {
        matches!(self.turns, Turns::All)
    }

    /// A message's further fields that have a place.
    pub(super) fn of_turn<'r>(
        &'r self,
        extra: &'r Map<String, Value>,
    ) -> impl Iterator<Item = (&'r String, &'r Value)> {
        given(extra).filter(|(field, _)| self.has_turn(field))
    }

    pub(super) fn seed(&self, request: &Request) -> Option<i64> {
        let seeds = self.seeds.as_ref()?;
        request.seed().filter(|seed| seeds.contains(seed))
    }

    pub(super) fn temperature(&self, request: &Request) -> Option<f64> {
        let wanted = request.params.temperature;
        wanted.filter(|wanted| self.temperatures.contains(wanted))
    }

    pub(super) fn takes_schema(&self, schema: &Value) -> bool {
        match self.schemas {
            Schemas::All => true,
            Schemas::If(fits) => fits(schema),
            Schemas::Nothing => false,
        }
    }

    /// The texts that end the answer.
    pub(super) fn stops<'r>(&self, request: &'r Request) -> Vec<&'r str> {
        let stops = request.params.stop.iter().map(String::as_str);
        stops.filter(|stop| self.takes_stop(stop)).collect()
    }

    fn takes_stop(&self, stop: &str) -> bool {
        self.blank_stops || !stop.trim().is_empty()
    }

    /// Everything that does not go out.
    pub(super) fn left_out(&self, request: &Request) -> Vec<LeftOut> {
        let mut out = Vec::new();
        for (field, value) in self.given(request) {
            if let Err(why) = self.place(field, value) {
                out.push(LeftOut::new(field, why));
            }
        }
        let tools = self.tools.map(|words| calls::left_out(words, request));
        for (field, otherwise) in tools.into_iter().flatten() {
            let why = if otherwise { Why::Value } else { Why::Lacking };
            out.push(LeftOut::new(&field, why));
        }
        for (field, value) in request.messages.iter().flat_map(|turn| given(&turn.extra)) {
            let told = match field.as_str() {
                "tool_calls" | "tool_call_id" => self.tools.is_some(),
                // As a result has it, it is said in the words of whoever takes it back.
                "reasoning" if value.is_object() => {
                    self.tools.is_some() || self.has_turn("reasoning_content")
                }
                _ => false,
            };
            if !self.has_turn(field) && !told {
                out.push(LeftOut::new(&format!("messages[].{field}"), Why::Lacking));
            }
        }
        let params = &request.params;
        if params.seed.is_some() && self.seed(request).is_none() {
            let why = self.seeds.as_ref().map_or(Why::Lacking, |_| Why::Value);
            out.push(LeftOut::new("seed", why));
        }
        if let Some(wanted) = params.temperature
            && self.temperature(request).is_none()
        {
            let why = match *self.temperatures.end() {
                most if most < wanted => Why::Hot(most, wanted),
                _ => Why::Value,
            };
            out.push(LeftOut::new("temperature", why));
        }
        if params.stop.iter().any(|stop| !self.takes_stop(stop)) {
            out.push(LeftOut::new("stop", Why::Value));
        }
        if let Some(ResponseFormat::JsonSchema { name, schema, .. }) = &params.response_format
            && !self.takes_schema(schema)
        {
            let why = match self.schemas {
                Schemas::Nothing => Why::AnySchema,
                _ => Why::Schema,
            };
            out.push(LeftOut::new(&format!("schema as `{name}`"), why));
        }
        out
    }
}

/// A message's further fields that say something. In recorded conversations many are null or an
/// empty list, which OpenAI itself refuses for some.
fn given(extra: &Map<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    extra.iter().filter(|(field, value)| {
        let empty = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
        !empty && !matches!(field.as_str(), "role" | "content")
    })
}

#[cfg(test)]
#[path = "fields_tests.rs"]
mod tests;
