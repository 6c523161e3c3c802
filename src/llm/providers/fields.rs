//! What becomes of the fields that prompt files carry in OpenAI's words: one list per vendor of what
//! it has no place for, and of what it takes in certain values or other words.
//!
//! What has no place is left out rather than sent to be refused, and users are told. A field that
//! stands in no list is passed on: vendors add fields faster than lists grow.

use std::borrow::Cow;
use std::fmt;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::llm::request::{Request, ResponseFormat};

use super::{anthropic_schema, calls};

/// One vendor's list.
#[derive(Debug)]
pub(crate) struct Fields {
    /// Fields of the body that it would refuse a request for.
    lacks: &'static [&'static [&'static str]],
    /// Fields of which it takes some values only.
    takes: &'static [(&'static str, Takes)],
    /// Types of content parts, in OpenAI's words, that it has no place for, and what to write instead.
    pub(super) lacks_parts: &'static [(&'static str, &'static str)],
    /// What a message may have beside its role and content.
    turns: Turns,
    /// Whether it has other words for tool calls in a conversation, in which they are told.
    tells_calls: bool,
    seeds: Option<RangeInclusive<i64>>,
    temperatures: RangeInclusive<f64>,
    /// Whether blanks and line breaks may end the answer.
    blank_stops: bool,
    /// Whether a schema has a place. One that has none is put into the system text.
    schemas: fn(&Value) -> bool,
}

#[derive(Debug)]
enum Takes {
    /// These words, each as the vendor says it.
    Words(&'static [(&'static str, &'static str)]),
    /// What this is true of.
    If(fn(&Value) -> bool),
}

#[derive(Debug)]
enum Turns {
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
    "parallel_tool_calls",
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
];

/// Everything, as a server that is not known better.
pub(super) const ALL: Fields = Fields {
    lacks: &[],
    takes: &[],
    lacks_parts: &[],
    turns: Turns::AllBut(&[]),
    tells_calls: false,
    seeds: Some(i64::MIN..=i64::MAX),
    temperatures: f64::MIN..=f64::MAX,
    blank_stops: true,
    schemas: |_| true,
};

pub(super) const OPENAI: Fields = Fields {
    lacks: &[SERVERS, TOP_K],
    turns: Turns::AllBut(&["reasoning", "reasoning_content"]),
    ..ALL
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
            "service_tier",
        ],
    ],
    takes: &[(
        "reasoning_effort",
        Takes::Words(&[
            ("none", "none"),
            ("minimal", "low"),
            ("low", "low"),
            ("medium", "medium"),
            ("high", "high"),
            ("xhigh", "high"),
            ("max", "high"),
        ]),
    )],
    lacks_parts: &[("input_audio", ""), ("file", "")],
    turns: Turns::AllBut(&["refusal", "annotations", "audio", "function_call"]),
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
    turns: Turns::AllBut(RECORDED),
    seeds: Some(0..=i64::MAX),
    temperatures: 0.0..=1.5,
    ..ALL
};

/// The Messages API's documentation and the types of Anthropic's Python SDK.
pub(super) const ANTHROPIC: Fields = Fields {
    lacks: &[SERVERS, OPENAI_ALONE, PENALTIES, LOGITS, OPENAI_STYLE],
    takes: &[
        // It has no word for less than `low`.
        (
            "reasoning_effort",
            Takes::Words(&[
                ("none", "low"),
                ("minimal", "low"),
                ("low", "low"),
                ("medium", "medium"),
                ("high", "high"),
                ("xhigh", "xhigh"),
                ("max", "max"),
            ]),
        ),
        (
            "service_tier",
            Takes::Words(&[("auto", "auto"), ("standard_only", "standard_only")]),
        ),
        ("metadata", Takes::If(names_a_user_alone)),
        ("tools", Takes::If(no_functions)),
        ("tool_choice", Takes::If(no_function)),
        ("output_config", Takes::If(Value::is_object)),
    ],
    // What of them it has a place for, its own encoder finds.
    lacks_parts: &[],
    turns: Turns::Nothing,
    tells_calls: true,
    seeds: None,
    temperatures: 0.0..=1.0,
    blank_stops: false,
    schemas: |schema| anthropic_schema::anthropic(schema).is_some(),
};

/// Google's `generative_service.proto` and "Gemini thinking".
pub(super) const GEMINI: Fields = Fields {
    lacks: &[
        SERVERS,
        OPENAI_ALONE,
        LOGITS,
        OPENAI_STYLE,
        &[
            "contents",
            "encoding_format",
            "metadata",
            "service_tier",
            "tool_choice",
        ],
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
        ("presence_penalty", Takes::If(Value::is_number)),
        ("frequency_penalty", Takes::If(Value::is_number)),
        ("tools", Takes::If(no_functions)),
        ("generationConfig", Takes::If(Value::is_object)),
    ],
    turns: Turns::Nothing,
    tells_calls: true,
    // The field has 32 bits.
    seeds: Some(i32::MIN as i64..=i32::MAX as i64),
    ..ALL
};

fn names_a_user_alone(metadata: &Value) -> bool {
    let fields = metadata.as_object();
    fields.is_some_and(|fields| {
        fields
            .iter()
            .all(|(name, value)| name == "user_id" && value.is_string())
    })
}

/// Whether a choice of tools is not in OpenAI's shape.
fn no_function(tool: &Value) -> bool {
    tool.is_object() && tool.get("function").is_none()
}

fn no_functions(tools: &Value) -> bool {
    tools
        .as_array()
        .is_some_and(|tools| tools.iter().all(no_function))
}

/// Something that does not go out, for people.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LeftOut {
    pub field: String,
    why: Why,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Why {
    Own,
    Lacking,
    Value,
    Schema,
    /// It takes a temperature of at most the first number, and this is another.
    Hot(f64, f64),
}

impl LeftOut {
    fn new(field: &str, why: Why) -> Self {
        Self {
            field: field.to_owned(),
            why,
        }
    }
}

/// What follows a vendor's name.
impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = &self.field;
        match self.why {
            Why::Own => write!(f, "is sent no `{field}` from among the extra fields"),
            Why::Lacking => write!(f, "takes no `{field}`; it is left out"),
            Why::Value => write!(f, "takes no such `{field}`; it is left out"),
            Why::Schema => write!(
                f,
                "takes no such {field} (maps with any keys, recursion, allOf or many options); it \
                 is told in the system text, and answers are checked all the same"
            ),
            Why::Hot(most, found) => {
                write!(f, "takes a {field} of at most {most}; {found} is left out")
            }
        }
    }
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
            Some(Takes::Words(words)) => {
                let given = words.iter().find(|(word, _)| value == word);
                given
                    .map(|(_, own)| Cow::Owned(Value::from(*own)))
                    .ok_or(Why::Value)
            }
        }
    }

    fn has_turn(&self, field: &str) -> bool {
        match self.turns {
            Turns::AllBut(names) => !names.contains(&field),
            Turns::Nothing => false,
        }
    }

    /// The request's further fields that have a place, as the vendor takes them.
    pub(super) fn further<'r>(
        &'r self,
        request: &'r Request,
    ) -> impl Iterator<Item = (&'r str, Cow<'r, Value>)> {
        let given = request.extra.iter().filter(|(_, value)| !value.is_null());
        given.filter_map(|(field, value)| Some((field.as_str(), self.place(field, value).ok()?)))
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
        request.params.seed.filter(|seed| seeds.contains(seed))
    }

    pub(super) fn temperature(&self, request: &Request) -> Option<f64> {
        let wanted = request.params.temperature;
        wanted.filter(|wanted| self.temperatures.contains(wanted))
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
        let has_place = |field: &str| match field {
            "tools" | "tool_choice" => self.tells_calls && calls::are_told(request),
            _ => false,
        };
        for (field, value) in request.extra.iter().filter(|(_, value)| !value.is_null()) {
            if let Err(why) = self.place(field, value)
                && !has_place(field)
            {
                out.push(LeftOut::new(field, why));
            }
        }
        for (field, _) in request.messages.iter().flat_map(|turn| given(&turn.extra)) {
            let has_place =
                self.tells_calls && ["tool_calls", "tool_call_id"].contains(&field.as_str());
            if !self.has_turn(field) && !has_place {
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
            && !(self.schemas)(schema)
        {
            out.push(LeftOut::new(&format!("schema as `{name}`"), Why::Schema));
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
