//! The lists of those who host open models and of who passes on to them: what each documents of a chat
//! request. What their documentation lists nowhere is left out and told, rather than passed over by
//! them in silence.

use serde_json::Value;

use crate::llm::providers::files;

use super::vendors::{
    ALL, LOW_TO_HIGH, LOW_TO_MAX, NONE_TO_HIGH, OPENAI_ALONE, PENALTIES, SERVERS, TOP_K,
};
use super::{Fields, Schemas, Takes, Turns};

/// Words of servers on one's own machine that none of them has.
const OWN_SERVERS: &[&str] = &[
    "keep_alive",
    "length_penalty",
    "mirostat",
    "repeat_last_n",
    "repeat_penalty",
    "stop_token_ids",
    "think",
    "top_a",
];

/// OpenRouter's OpenAPI description; what a model does not take is passed over there.
pub(in super::super) const OPENROUTER: Fields = Fields {
    takes: &[(
        "service_tier",
        Takes::These(&["auto", "default", "fast", "flex", "priority", "scale"]),
    )],
    ..ALL
};

/// api-docs.deepseek.com, "Create Chat Completion" and "Thinking Mode". Its JSON has no schema.
pub(in super::super) const DEEPSEEK: Fields = Fields {
    lacks: &[
        SERVERS,
        TOP_K,
        OPENAI_ALONE,
        &[
            "function_call",
            "functions",
            "logit_bias",
            "metadata",
            "parallel_tool_calls",
            "prediction",
            "prompt_cache_key",
            "service_tier",
            "user",
            "web_search_options",
        ],
    ],
    takes: &[("reasoning_effort", LOW_TO_MAX)],
    files: files::HOSTS,
    lacks_parts: &[("input_audio", ""), ("file", "")],
    turns: Turns::AllBut(&[
        "refusal",
        "annotations",
        "audio",
        "function_call",
        "reasoning",
    ]),
    seeds: None,
    temperatures: 0.0..=2.0,
    schemas: Schemas::Nothing,
    ..ALL
};

/// Together's OpenAPI description.
pub(in super::super) const TOGETHER: Fields = Fields {
    lacks: &[
        OWN_SERVERS,
        OPENAI_ALONE,
        &[
            "functions",
            "ignore_eos",
            "metadata",
            "min_tokens",
            "parallel_tool_calls",
            "prediction",
            "prompt_cache_key",
            "service_tier",
            "top_logprobs",
            "typical_p",
            "user",
            "web_search_options",
        ],
    ],
    takes: &[
        ("reasoning_effort", LOW_TO_HIGH),
        // A number of them, where OpenAI has a yes and a number apart.
        ("logprobs", Takes::If(Value::is_u64)),
    ],
    files: files::TOGETHER,
    lacks_parts: &[("file", "")],
    turns: Turns::AllBut(&[
        "refusal",
        "annotations",
        "audio",
        "reasoning",
        "reasoning_content",
    ]),
    ..ALL
};

/// The types of Fireworks' Python SDK.
pub(in super::super) const FIREWORKS: Fields = Fields {
    lacks: &[
        OWN_SERVERS,
        OPENAI_ALONE,
        &["chat_template_kwargs", "min_tokens", "web_search_options"],
    ],
    takes: &[
        ("reasoning_effort", NONE_TO_HIGH),
        (
            "service_tier",
            Takes::These(&["auto", "default", "flex", "priority"]),
        ),
    ],
    files: files::HOSTS,
    lacks_parts: &[("file", "")],
    turns: Turns::AllBut(&[
        "refusal",
        "annotations",
        "audio",
        "function_call",
        "reasoning",
        "name",
    ]),
    ..ALL
};

/// docs.deepinfra.com, "Chat Completions" and its API reference.
pub(in super::super) const DEEPINFRA: Fields = Fields {
    lacks: &[
        OWN_SERVERS,
        OPENAI_ALONE,
        &[
            "function_call",
            "functions",
            "ignore_eos",
            "logit_bias",
            "metadata",
            "min_tokens",
            "parallel_tool_calls",
            "prediction",
            "top_logprobs",
            "typical_p",
            "web_search_options",
        ],
    ],
    takes: &[
        ("reasoning_effort", NONE_TO_HIGH),
        // The other one is that of requests which name none.
        ("service_tier", Takes::These(&["priority"])),
    ],
    files: files::HOSTS,
    lacks_parts: &[("file", "")],
    turns: Turns::AllBut(&[
        "refusal",
        "annotations",
        "audio",
        "function_call",
        "reasoning",
    ]),
    seeds: Some(0..=i64::MAX),
    temperatures: 0.0..=2.0,
    ..ALL
};

/// inference-docs.cerebras.ai, "OpenAI Compatibility" and "Service Tiers", and the types of Cerebras'
/// Python SDK. The first says that penalties and biases are refused, the last has them.
pub(in super::super) const CEREBRAS: Fields = Fields {
    lacks: &[
        OWN_SERVERS,
        TOP_K,
        OPENAI_ALONE,
        PENALTIES,
        &[
            "chat_template_kwargs",
            "function_call",
            "functions",
            "ignore_eos",
            "logit_bias",
            "metadata",
            "min_p",
            "prompt_cache_key",
            "repetition_penalty",
            "typical_p",
            "web_search_options",
        ],
    ],
    takes: &[
        ("reasoning_effort", LOW_TO_HIGH),
        (
            "service_tier",
            Takes::These(&["auto", "default", "flex", "priority"]),
        ),
    ],
    files: files::HOSTS,
    lacks_parts: &[("input_audio", ""), ("file", "")],
    turns: Turns::AllBut(&[
        "refusal",
        "annotations",
        "audio",
        "function_call",
        "reasoning_content",
    ]),
    temperatures: 0.0..=1.5,
    ..ALL
};
