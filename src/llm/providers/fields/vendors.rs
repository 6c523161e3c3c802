//! The lists of those who have models of their own: what each documents of a request.

use serde_json::Value;

use crate::llm::providers::files;
use crate::llm::providers::{anthropic_schema, calls};

use super::{Fields, Schemas, Takes, Turns};

/// Not every model reasons less than a little, or more than much.
pub(super) const LOW_TO_HIGH: Takes = Takes::Words(&[
    ("none", "low"),
    ("minimal", "low"),
    ("low", "low"),
    ("medium", "medium"),
    ("high", "high"),
    ("xhigh", "high"),
    ("max", "high"),
]);

/// The same, and not at all.
pub(super) const NONE_TO_HIGH: Takes = Takes::Words(&[
    ("none", "none"),
    ("minimal", "low"),
    ("low", "low"),
    ("medium", "medium"),
    ("high", "high"),
    ("xhigh", "high"),
    ("max", "high"),
]);

/// It has no word for less than a little, and words for more than much.
pub(super) const LOW_TO_MAX: Takes = Takes::Words(&[
    ("none", "low"),
    ("minimal", "low"),
    ("low", "low"),
    ("medium", "medium"),
    ("high", "high"),
    ("xhigh", "xhigh"),
    ("max", "max"),
]);

/// Words of the servers that people run themselves.
pub(super) const SERVERS: &[&str] = &[
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

pub(super) const TOP_K: &[&str] = &["top_k"];

/// What OpenAI has and no other vendor.
pub(super) const OPENAI_ALONE: &[&str] = &[
    "audio",
    "modalities",
    "moderation",
    "prompt_cache_retention",
    "safety_identifier",
    "store",
    "verbosity",
];

pub(super) const PENALTIES: &[&str] = &["frequency_penalty", "presence_penalty"];
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
pub(in super::super) const ALL: Fields = Fields {
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

pub(in super::super) const OPENAI: Fields = Fields {
    lacks: &[SERVERS, TOP_K],
    files: files::OPENAI,
    // Refusals name that length.
    call_ids: |id| id.len() <= 40,
    turns: Turns::AllBut(&["reasoning", "reasoning_content", "reasoning_details"]),
    ..ALL
};

/// OpenAI's, without files: of each model its refusals say that it does not support them.
pub(in super::super) const AZURE: Fields = Fields {
    lacks_parts: &[("file", "")],
    files: files::AZURE,
    ..OPENAI
};

/// docs.x.ai, "Chat completions"; that no model of 2026 takes penalties is from users' reports.
pub(in super::super) const XAI: Fields = Fields {
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
pub(in super::super) const GROQ: Fields = Fields {
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
pub(in super::super) const MISTRAL: Fields = Fields {
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
pub(in super::super) const ANTHROPIC: Fields = Fields {
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
pub(in super::super) const GEMINI: Fields = Fields {
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
