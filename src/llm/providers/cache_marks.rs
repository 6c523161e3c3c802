//! What a request says about the prompt cache of its provider, if the beginning of the prompt is to be cached.
//!
//! Sources: platform.claude.com, "Prompt caching" and "Batch processing" (a lifetime of 1 hour suits batches);
//! developers.openai.com, "Prompt caching" (keys; from GPT-5.6 on, writing costs more, and explicit breakpoints limit it to
//! the beginning); docs.mistral.ai, "Prompt caching".

use serde_json::{Value, json};

use crate::llm::params::CacheLifetime;
use crate::llm::prompt_cache::{PromptPrefix, has_breakpoints, least_tokens};
use crate::llm::request::{Request, Text};

use super::vendor::{PromptCache, Vendor};

/// Whether the beginning of a prompt of this length is cached.
pub(super) fn caches(vendor: &Vendor, model: Option<&str>, tokens: u32) -> bool {
    let least = || least_tokens(vendor.name, model.unwrap_or_default());
    vendor.prompt_cache.is_some() && tokens >= least()
}

/// The beginning of a request that is to be cached, unless it is too short for the model.
fn wanted(
    vendor: &Vendor,
    request: &Request,
    model: &str,
) -> Option<(PromptPrefix, CacheLifetime)> {
    let lifetime = request.cache_prefix?;
    let prefix = PromptPrefix::of(request)?;
    caches(vendor, Some(model), prefix.tokens).then_some((prefix, lifetime))
}

/// Anthropic's mark for the last block of the system text.
pub(super) fn cache_control(vendor: &Vendor, request: &Request, model: &str) -> Option<Value> {
    if vendor.prompt_cache != Some(PromptCache::CacheControl) {
        return None;
    }
    let (_, lifetime) = wanted(vendor, request, model)?;
    Some(match lifetime {
        CacheLifetime::Minutes => json!({"type": "ephemeral"}),
        CacheLifetime::Hour => json!({"type": "ephemeral", "ttl": "1h"}),
    })
}

/// The marks of a request in OpenAI's format.
pub(super) struct Keyed {
    pub key: String,
    /// Whether only the beginning is to be cached, up to a mark in its last text.
    pub has_breakpoint: bool,
}

impl Keyed {
    pub(super) fn of(vendor: &Vendor, request: &Request, model: &str) -> Option<Self> {
        if vendor.prompt_cache != Some(PromptCache::Key) {
            return None;
        }
        let (prefix, _) = wanted(vendor, request, model)?;
        Some(Self {
            key: prefix.key(),
            has_breakpoint: vendor.name == "openai" && has_breakpoints(model),
        })
    }
}

/// A content with a breakpoint at its end; `None` if it has no text.
pub(super) fn with_breakpoint(content: Text<'_>) -> Option<Value> {
    let mark = json!({"mode": "explicit"});
    let text = match content {
        Text::Plain(text) => text,
        Text::Value(Value::String(text)) => text,
        Text::Value(Value::Array(parts)) => {
            let mut parts = parts.clone();
            let last = parts.iter_mut().rfind(|part| part["type"] == "text")?;
            last["prompt_cache_breakpoint"] = mark;
            return Some(parts.into());
        }
        Text::Value(_) => return None,
    };
    Some(json!([{"type": "text", "text": text, "prompt_cache_breakpoint": mark}]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::prompt_cache::accepts_marks;
    use crate::llm::providers::dialect::encode;
    use crate::llm::providers::dialect::testing::encoded;
    use crate::llm::providers::vendor::VENDORS;

    fn body_for(vendor: &str, model: &str, request: &Request) -> Value {
        let vendor = Vendor::named(vendor).unwrap();
        let call = encode(vendor, request, Some(model)).unwrap();
        serde_json::from_slice(&call.body).unwrap()
    }

    fn long() -> Request {
        let system = "All rules. ".repeat(2_000);
        let request = Request::new("U").with_system(system).with_model("m");
        request.with_cache_prefix(Some(CacheLifetime::Minutes))
    }

    #[test]
    fn explicit_breakpoints_are_for_newer_models_only() {
        for model in "gpt-5.6 gpt-5.6-mini-2026-08-01 gpt-6 gpt-5.10".split(' ') {
            assert!(has_breakpoints(model), "{model}");
        }
        let older = "gpt-5.5 gpt-5 gpt-5-mini gpt-4o gpt-4.1 o3 gpt-oss-120b";
        for model in older.split(' ') {
            assert!(!has_breakpoints(model), "{model}");
        }
    }

    #[test]
    fn a_vendor_that_needs_marks_has_an_address_of_its_own() {
        for vendor in VENDORS.iter() {
            let cache = vendor.prompt_cache;
            let marks = cache.is_some_and(|cache| cache != PromptCache::Automatic);
            let local = accepts_marks(vendor.name, "http://127.0.0.1:8090/v1");
            assert_eq!(local, !marks, "{}", vendor.name);
            let own = accepts_marks(vendor.name, vendor.base_url);
            assert!(own, "{}", vendor.name);
        }
    }

    #[test]
    fn nothing_is_marked_below_the_minimum_of_a_model() {
        for (vendor, model, tokens, expected) in [
            ("anthropic", Some("claude-sonnet-5"), 1024, true),
            ("anthropic", Some("claude-sonnet-5"), 1023, false),
            ("anthropic", Some("claude-haiku-4-5-20251001"), 4095, false),
            ("local", None, 1 << 20, false),
        ] {
            let vendor = Vendor::named(vendor).unwrap();
            assert_eq!(caches(vendor, model, tokens), expected, "{model:?}");
        }
        let short = long().with_system("x".repeat(4 * 4095));
        assert!(body_for("anthropic", "claude-haiku-4-5", &short)["system"].is_string());
        assert!(body_for("anthropic", "claude-sonnet-5", &short)["system"].is_array());
    }

    #[test]
    fn marks_of_the_user_stay_alone_and_a_provider_that_knows_none_gets_none() {
        let own = long().with_extra("prompt_cache_key", "mine".into());
        assert_eq!(encoded("openai", &own).1["prompt_cache_key"], "mine");
        let own = long().with_extra("cache_control", json!({"type": "ephemeral"}));
        assert!(encoded("anthropic", &own).1["system"].is_string());
        for vendor in ["local", "groq", "deepseek", "xai", "together", "gemini"] {
            let plain = encoded(vendor, &long().with_cache_prefix(None));
            assert_eq!(encoded(vendor, &long()), plain, "{vendor}");
        }
    }

    #[test]
    fn only_the_beginning_of_a_prompt_is_written_by_models_that_bill_it() {
        let body = body_for("openai", "gpt-5.6", &long());
        let explicit = json!({"mode": "explicit"});
        assert_eq!(body["prompt_cache_options"], explicit);
        let part = &body["messages"][0]["content"][0];
        assert_eq!(part["prompt_cache_breakpoint"], explicit);
        assert_eq!(body["messages"][1]["content"], "U");
        let body = body_for("openai", "gpt-5", &long());
        assert!(body["messages"][0]["content"].is_string());
        assert!(body["prompt_cache_key"].is_string() && body["prompt_cache_options"].is_null());
    }

    #[test]
    fn the_lifetime_is_an_hour_in_batches() {
        for (lifetime, mark) in [
            (
                CacheLifetime::Hour,
                json!({"type": "ephemeral", "ttl": "1h"}),
            ),
            (CacheLifetime::Minutes, json!({"type": "ephemeral"})),
        ] {
            let body = encoded("anthropic", &long().with_cache_prefix(Some(lifetime))).1;
            assert_eq!(body["system"][0]["cache_control"], mark);
        }
    }
}
