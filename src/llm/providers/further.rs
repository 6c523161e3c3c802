//! The further fields of a request and of its messages, in OpenAI's format or in that of the provider. They are sent as
//! they are: a provider that does not support one says so, and bills nothing.
//!
//! Also what a request says about the prompt cache of its provider, if the beginning of the prompt is to be cached.
//! Sources: platform.claude.com, "Prompt caching" and "Batch processing" (a lifetime of 1 hour suits batches);
//! developers.openai.com, "Prompt caching" (keys; from GPT-5.6 on, writing costs more, and explicit breakpoints limit it to
//! the beginning); docs.mistral.ai, "Prompt caching".

use std::borrow::Cow;

use serde_json::{Map, Value, json};
use ureq::http;

use crate::llm::native::NativeFormat;
use crate::llm::params::CacheLifetime;
use crate::llm::prompt_cache::PromptPrefix;
use crate::llm::request::Request;

use super::vendor::{Dialect, PromptCache, Vendor};

/// The fields about tools, which each wire format has in its own words.
const TOOLS: [&str; 3] = ["tools", "tool_choice", "parallel_tool_calls"];

/// Fields that the request's own parameters set, or that are never set, for example the number of answers.
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

/// The further fields that are sent.
pub(super) fn further(request: &Request) -> impl Iterator<Item = (&String, &Value)> {
    given(request).filter(|(field, _)| !OWN.contains(&field.as_str()))
}

/// The same without the fields about tools, for formats that have them in other words.
pub(super) fn without_tools(request: &Request) -> Map<String, Value> {
    let rest = further(request).filter(|(field, _)| !TOOLS.contains(&field.as_str()));
    rest.map(|(field, value)| (field.clone(), value.clone()))
        .collect()
}

fn given(request: &Request) -> impl Iterator<Item = (&String, &Value)> {
    request.extra.iter().filter(|(_, value)| !value.is_null())
}

/// The further fields of a message that are not empty. In recorded conversations many are null or an empty list, and
/// OpenAI rejects some of these.
pub(super) fn of_turn(extra: &Map<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    extra.iter().filter(|(field, value)| {
        let empty = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
        !empty && !matches!(field.as_str(), "role" | "content")
    })
}

/// What a provider gets of a request that was made for `first`: without the further fields if its wire format is
/// another one. Beside it the names of the fields that it does not get.
pub(crate) fn for_provider<'r>(
    request: &'r Request,
    provider: &str,
    first: &str,
) -> (Cow<'r, Request>, Vec<String>) {
    let (own, first) = (Vendor::named(provider), Vendor::named(first));
    let (Some(own), Some(first), None) = (own, first, &request.native) else {
        return (Cow::Borrowed(request), Vec::new());
    };
    if own.dialect == Dialect::Extract {
        return (Cow::Borrowed(request), Vec::new());
    }
    let is_foreign = own.dialect != first.dialect;
    let goes = |field: &str| TOOLS.contains(&field) || !(is_foreign || OWN.contains(&field));
    let stays = given(request).filter(|(field, _)| !goes(field));
    let mut left_out: Vec<String> = stays.map(|(field, _)| field.clone()).collect();
    let mut sent = Cow::Borrowed(request);
    if !left_out.is_empty() {
        sent.to_mut().extra.retain(|field, _| goes(field));
    }
    if request.params.seed.is_some() && own.seed_field.is_empty() {
        left_out.push("seed".to_owned());
    }
    (sent, left_out)
}

/// Why a provider does not get a body of this format, if it does not. Clients of users get all.
pub(crate) fn refused(format: NativeFormat, provider: &str) -> Option<String> {
    let own = format.provider();
    let is_of_user = Vendor::named(provider).is_none();
    (!is_of_user && provider != own).then(|| {
        format!("a line in the format of {own}'s API goes only to {own}, and not to {provider}")
    })
}

/// Whether requests to this address certainly may have the fields that mark a beginning: it is the provider's own, or the
/// provider caches without a mark.
pub(crate) fn accepts_marks(provider: &str, address: &str) -> bool {
    let needs_marks = |vendor: &&Vendor| {
        let cache = vendor.prompt_cache;
        cache.is_some_and(|cache| cache != PromptCache::Automatic)
    };
    let Some(vendor) = Vendor::named(provider).filter(needs_marks) else {
        return true;
    };
    let [own, url] = [vendor.base_url, address].map(|url| url.parse::<http::Uri>().ok());
    let own = own.as_ref().and_then(http::Uri::host);
    // Regional hosts have a name before it.
    url.as_ref().and_then(http::Uri::host).is_some_and(|host| {
        let region = own.and_then(|own| host.strip_suffix(own));
        region.is_some_and(|region| region.is_empty() || region.ends_with('.'))
    })
}

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
    use crate::llm::providers::dialect::testing::encoded;
    use crate::llm::providers::vendor::VENDORS;

    #[test]
    fn further_fields_are_sent_unchanged_and_cannot_set_what_parameters_set() {
        let field = json!({"deep": [1, null, "x"]});
        let mut request = Request::new("U").with_extra("new_field", field.clone());
        // Five answers would be paid for, and one be read.
        for own in OWN {
            request = request.with_extra(own, 5.into());
        }
        let request = request.with_extra("none", Value::Null);
        for name in ["openai", "groq", "mistral", "anthropic", "gemini", "custom"] {
            let (_, body) = encoded(name, &request);
            assert_eq!(body["new_field"], field, "{name}");
            assert!(body.get("none").is_none(), "{name}");
            for own in OWN {
                assert_ne!(body.get(own), Some(&json!(5)), "{name} {own}");
            }
        }
    }

    #[test]
    fn another_wire_format_gets_no_further_fields_but_tools() {
        let tool = json!([{"type": "function", "function": {"name": "f"}}]);
        let mut request = Request::new("U")
            .with_extra("tools", tool)
            .with_extra("logit_bias", json!({"5": 1}))
            .with_extra("n", 5.into());
        request.params.seed = Some(7);
        for (provider, left_out) in [
            ("openai", &["n"][..]),
            ("groq", &["n"]),
            ("deepseek", &["n", "seed"]),
            ("gemini", &["logit_bias", "n"]),
            ("anthropic", &["logit_bias", "n", "seed"]),
            ("extract", &[]),
            ("a client of a user", &[]),
        ] {
            let (sent, mut out) = for_provider(&request, provider, "openai");
            out.sort();
            assert_eq!(out, left_out, "{provider}");
            assert!(sent.extra.contains_key("tools"), "{provider}");
            let has_all = sent.extra.contains_key("logit_bias");
            assert_eq!(has_all, !left_out.contains(&"logit_bias"), "{provider}");
        }
        let (sent, out) = for_provider(&request, "anthropic", "anthropic");
        assert!(sent.extra.contains_key("logit_bias"));
        assert_eq!(out, ["n", "seed"]);
    }

    #[test]
    fn by_default_no_gateway_gets_fields_that_it_may_reject() {
        for own in ["https://api.openai.com/v1", "https://eu.api.openai.com/v1"] {
            assert!(accepts_marks("openai", own), "{own}");
        }
        let others = "https://notapi.openai.com.example.org/v1,https://myapi.openai.com/v1,http://127.0.0.1:8090/v1,";
        for other in others.split(',') {
            assert!(!accepts_marks("openai", other), "{other}");
        }
        let local = accepts_marks("deepseek", "http://127.0.0.1:8090/v1");
        assert!(local, "it needs no mark");
    }

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
    fn a_system_text_of_white_space_is_left_out_and_not_marked() {
        let blank = long().with_system(" \n".repeat(4_000));
        assert!(super::cache_control(Vendor::named("anthropic").unwrap(), &blank).is_some());
        assert!(encoded("anthropic", &blank).1.get("system").is_none());
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
