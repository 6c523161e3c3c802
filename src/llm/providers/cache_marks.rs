//! What a request says about the prompt cache of its provider, if the beginning of the prompt is to be cached.
//!
//! Sources: platform.claude.com, "Prompt caching" and "Batch processing" (a lifetime of 1 hour suits batches);
//! developers.openai.com, "Prompt caching" (keys; from GPT-5.6 on, writing costs more, and explicit breakpoints limit it to
//! the beginning); docs.mistral.ai, "Prompt caching".

use serde_json::{Value, json};

use crate::llm::params::CacheLifetime;
use crate::llm::prompt_cache::PromptPrefix;
use crate::llm::request::Request;

use super::vendor::{PromptCache, Vendor};

/// Anthropic's mark for the last block of a system text that is to be cached.
pub(super) fn cache_control(vendor: &Vendor, request: &Request) -> Option<Value> {
    let lifetime = request.cache_prefix?;
    if vendor.prompt_cache != Some(PromptCache::CacheControl) {
        return None;
    }
    PromptPrefix::of(request)?;
    Some(match lifetime {
        CacheLifetime::Minutes => json!({"type": "ephemeral"}),
        CacheLifetime::Hour => json!({"type": "ephemeral", "ttl": "1h"}),
    })
}

/// The `prompt_cache_key` of a request whose beginning is to be cached.
pub(super) fn cache_key(vendor: &Vendor, request: &Request) -> Option<String> {
    request.cache_prefix?;
    if vendor.prompt_cache != Some(PromptCache::Key) {
        return None;
    }
    Some(PromptPrefix::of(request)?.key())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::prompt_cache::accepts_marks;
    use crate::llm::providers::dialect::testing::encoded;
    use crate::llm::providers::vendor::VENDORS;

    fn long() -> Request {
        let system = "All rules. ".repeat(2_000);
        let request = Request::new("U").with_system(system).with_model("m");
        request.with_cache_prefix(Some(CacheLifetime::Minutes))
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
