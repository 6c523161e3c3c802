//! Prompt caches of providers: which prompts share a beginning that is worth caching.
//!
//! A provider that has read the beginning of a prompt can keep it for a while, and bills less for it when the next prompt
//! begins in the same way. The beginning that is considered here is the system text, with the tools and the format of the
//! answer, which providers read before the messages.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::Value;

use crate::base::clock::Timestamp;
use crate::config::choices::CachePrompt;
use crate::money::prices::Prices;

use super::params::RequestTask;
use super::request::{Request, Text, text_bytes};

/// Shorter beginnings are not cached. No provider with a lower minimum has much to save below it.
pub(crate) const LEAST_TOKENS: u32 = 1024;
/// By default, fewer prompts do not use a cache: writing it may cost more than an ordinary call.
pub(crate) const LEAST_PROMPTS: usize = 10;
/// Bytes of text per token, as estimated elsewhere.
const BYTES: usize = 4;

/// The beginning of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct PromptPrefix {
    /// The hash of its contents and of the model.
    pub hash: u64,
    /// Estimated tokens.
    pub tokens: u32,
}

impl PromptPrefix {
    /// The beginning of a request that may be cached; `None` if it is too short, or if the request sets something about
    /// caches itself. A body in the format of one provider stays as it is.
    pub(crate) fn of(request: &Request) -> Option<Self> {
        let tokens = system_bytes(request) / BYTES;
        let is_long = tokens >= LEAST_TOKENS as usize;
        if !is_long || request.native.is_some() || request.task != RequestTask::Complete {
            return None;
        }
        (!sets_cache(request)).then(|| Self {
            hash: hash(request),
            tokens: u32::try_from(tokens).unwrap_or(u32::MAX),
        })
    }

    /// A name of it for providers that want one. It does not reveal the text.
    pub(crate) fn key(&self) -> String {
        format!("batchwright-{:016x}", self.hash)
    }
}

/// The texts before the first message of the conversation.
pub(crate) fn leading(request: &Request) -> impl Iterator<Item = Text<'_>> {
    let rendered = request.rendered();
    let leading = rendered.take_while(|(role, ..)| matches!(*role, "system" | "developer"));
    leading.map(|(_, text, _)| text)
}

fn system_bytes(request: &Request) -> usize {
    let bytes = leading(request).map(|text| match text {
        Text::Plain(text) => text.len(),
        Text::Value(value) => text_bytes(value),
    });
    bytes.sum()
}

/// Fields by which a request controls the cache itself.
const FIELDS: [&str; 5] = [
    "cache_control",
    "prompt_cache_key",
    "prompt_cache_options",
    "cachedContent",
    "cached_content",
];

fn sets_cache(request: &Request) -> bool {
    let is_set = |name: &str| request.extra.contains_key(name);
    let in_parts = |value: &Value| {
        let fields = ["cache_control", "prompt_cache_breakpoint"];
        let parts = value.as_array().into_iter().flatten();
        parts
            .filter_map(Value::as_object)
            .any(|part| fields.iter().any(|field| part.contains_key(*field)))
    };
    FIELDS.into_iter().any(is_set)
        || request.extra.get("tools").is_some_and(in_parts)
        || request
            .messages
            .iter()
            .any(|message| in_parts(&message.content))
}

fn hash(request: &Request) -> u64 {
    let mut hasher = DefaultHasher::new();
    request.model.hash(&mut hasher);
    for text in leading(request) {
        match text {
            Text::Plain(text) => text.hash(&mut hasher),
            Text::Value(Value::String(text)) => text.as_str().hash(&mut hasher),
            Text::Value(value) => value.to_string().hash(&mut hasher),
        }
    }
    for field in ["tools", "functions", "thinking", "reasoning_effort"] {
        let value = request.extra.get(field);
        value.map(Value::to_string).hash(&mut hasher);
    }
    let format = request.params.response_format.as_ref();
    format.map(|format| format!("{format:?}")).hash(&mut hasher);
    hasher.finish()
}

/// Which beginnings are cached.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CacheRule<'p> {
    pub mode: CachePrompt,
    pub prices: &'p Prices,
    pub at: Timestamp,
}

impl CacheRule<'_> {
    /// Whether the beginning of this number of prompts is cached at a provider. `None` prompts: their number is unknown.
    pub(crate) fn caches(
        &self,
        prompts: Option<usize>,
        provider: &str,
        model: Option<&str>,
    ) -> bool {
        match self.mode {
            CachePrompt::Never => false,
            CachePrompt::Always => true,
            CachePrompt::Auto => {
                prompts.is_some_and(|prompts| prompts >= LEAST_PROMPTS)
                    && self.has_price(provider, model)
            }
        }
    }

    /// Whether cached tokens are cheaper than others.
    fn has_price(&self, provider: &str, model: Option<&str>) -> bool {
        let prices = self.prices.of_call(provider, None, model);
        let entry = prices.as_ref().and_then(|prices| prices.entry("", self.at));
        entry.is_some_and(|entry| {
            entry
                .cached_input
                .is_some_and(|price| price.0 < entry.input.0)
        })
    }
}

/// The shortest beginning that a model caches, in tokens. A shorter one is read without a cache, and without an error.
///
/// Sources: platform.claude.com, "Prompt caching", section "Cache limitations", as of November 2026, where Sonnet 4.6 is
/// listed with 1,024 tokens but was seen to cache from 2,048 on (anthropic-sdk-python, issue 1194);
/// developers.openai.com, "Prompt caching"; ai.google.dev, "Context caching".
pub(crate) fn least_tokens(provider: &str, model: &str) -> u32 {
    let anthropic: [(&str, u32); 9] = [
        ("claude-haiku-4-5", 4096),
        ("claude-opus-4-5", 4096),
        ("claude-opus-4-6", 4096),
        ("claude-opus-4-7", 2048),
        ("claude-sonnet-4-6", 2048),
        ("claude-3-5-haiku", 2048),
        ("claude-3-haiku", 2048),
        ("claude-haiku-3", 2048),
        ("claude-haiku-5", 4096),
    ];
    let named = |names: &[(&str, u32)]| {
        let found = names.iter().find(|(name, _)| model.starts_with(name));
        found.map_or(LEAST_TOKENS, |(_, tokens)| *tokens)
    };
    match provider {
        "anthropic" => named(&anthropic),
        "gemini" if model.contains("pro") => 4096,
        _ => LEAST_TOKENS,
    }
}

/// Whether a provider caches beginnings of this length in its batches, if they are marked.
#[cfg(feature = "queue")]
pub(crate) fn caches_in_batches(provider: &str, model: &str, tokens: u32) -> bool {
    matches!(provider, "anthropic" | "openai") && tokens >= least_tokens(provider, model)
}

/// Whether writing the cache costs more than reading a prompt without it, and is reported.
#[cfg(feature = "queue")]
pub(crate) fn writes_cost(provider: &str, model: &str) -> bool {
    provider == "anthropic" || has_breakpoints(model)
}

/// Whether a model of OpenAI accepts explicit breakpoints, and bills what is written: GPT-5.6 and later ones.
pub(crate) fn has_breakpoints(model: &str) -> bool {
    let Some(version) = model.strip_prefix("gpt-") else {
        return false;
    };
    let end = version.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, rest) = version.split_at(end.unwrap_or(version.len()));
    // `gpt-4o` is no version 4.
    if !rest.is_empty() && !rest.starts_with('-') {
        return false;
    }
    let mut parts = number.split('.').map(|part| part.parse::<u32>().ok());
    let major = parts.next().flatten();
    let minor = parts.next().map_or(Some(0), |minor| minor);
    major.zip(minor).is_some_and(|version| version >= (5, 6))
}
