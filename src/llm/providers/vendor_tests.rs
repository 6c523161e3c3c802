use super::*;
use crate::llm::providers::dialect::testing::reply;
use crate::llm::providers::dialect::{decode, encode};
use crate::llm::request::Request;

#[test]
fn the_names_are_those_that_settings_take() {
    let names: Vec<&str> = VENDORS.iter().map(|vendor| vendor.name).collect();
    assert_eq!(names, crate::config::choices::PROVIDERS.all);
}

/// A further vendor of the OpenAI style is one row; beside it, settings know its name.
#[test]
fn a_row_is_all_that_a_vendor_takes() {
    let row = r#"{
        "name": "newcomer", "dialect": "openai", "base_url": "https://api.example.org/v1", "segment": "/v1",
        "key_vars": ["NEWCOMER_API_KEY"], "url_var": "NEWCOMER_BASE_URL", "needs_key": true,
        "key_header": "authorization", "cap": "max_tokens", "seed_field": "sampling_seed",
        "dimensions_field": "dimensions", "developer_role": false, "tells": "nothing", "concurrency": 5,
        "speaks": false, "fields": {"lacks": ["store"]}
    }"#;
    let row: Vendor = serde_json::from_str(row).unwrap();
    let mut request = Request::new("U").with_extra("store", true.into());
    request.params.seed = Some(7);
    request.params.max_tokens = Some(9);
    let call = encode(&row, &request, Some("m")).unwrap();
    let body: serde_json::Value = serde_json::from_slice(&call.body).unwrap();
    assert_eq!(call.path, "/chat/completions");
    assert_eq!(body["sampling_seed"], 7);
    assert_eq!(body["max_tokens"], 9);
    assert!(body.get("store").is_none());
    let body = r#"{"choices":[{"finish_reason":"stop","message":{"content":"x"}}]}"#;
    let answer = decode(&row, &reply(200, &[], body)).unwrap();
    assert_eq!(answer.provider, "newcomer");
    let error = decode(&row, &reply(401, &[], "{}")).unwrap_err();
    assert!(error.message().contains("newcomer answered 401"));
}

#[test]
fn base_urls_mean_what_each_sdk_takes_them_to_mean() {
    for (vendor, given, meant) in [
        ("openai", "http://h:1", "http://h:1/v1"),
        ("openai", "http://h:1/", "http://h:1/v1"),
        ("openai", "http://h:1/v1/", "http://h:1/v1"),
        ("openai", "http://h:1/gateway", "http://h:1/gateway"),
        ("local", "http://127.0.0.1:8080", "http://127.0.0.1:8080/v1"),
        ("groq", "http://h", "http://h/openai/v1"),
        ("groq", "http://h/openai/v1", "http://h/openai/v1"),
        ("mistral", "http://h/x", "http://h/x/v1"),
        ("gemini", "http://h", "http://h/v1beta"),
        ("xai", "http://h/api", "http://h/api"),
        (
            "azure",
            "https://r.openai.azure.com/",
            "https://r.openai.azure.com/openai",
        ),
        (
            "azure",
            "https://r.openai.azure.com/openai",
            "https://r.openai.azure.com/openai",
        ),
        (
            "azure",
            "https://r.openai.azure.com/openai/v1/",
            "https://r.openai.azure.com/openai/v1",
        ),
        (
            "azure",
            "https://r.openai.azure.com/openai/v1/chat/completions",
            "https://r.openai.azure.com/openai/v1",
        ),
        (
            "azure",
            "https://r.openai.azure.com/openai/deployments/d/chat/completions?api-version=1",
            "https://r.openai.azure.com/openai",
        ),
        (
            "openrouter",
            "https://openrouter.ai",
            "https://openrouter.ai/api/v1",
        ),
        ("openrouter", "http://h/gateway", "http://h/gateway"),
        (
            "deepseek",
            "https://api.deepseek.com",
            "https://api.deepseek.com/v1",
        ),
        (
            "together",
            "https://api.together.xyz/v1/",
            "https://api.together.xyz/v1",
        ),
        (
            "fireworks",
            "https://api.fireworks.ai",
            "https://api.fireworks.ai/inference/v1",
        ),
        (
            "deepinfra",
            "https://api.deepinfra.com",
            "https://api.deepinfra.com/v1/openai",
        ),
        (
            "cerebras",
            "https://api.cerebras.ai",
            "https://api.cerebras.ai/v1",
        ),
        (
            "nvidia",
            "https://integrate.api.nvidia.com/v1",
            "https://integrate.api.nvidia.com/v1",
        ),
        ("anthropic", "http://h", "http://h/v1"),
        ("anthropic", "http://h/v1/messages", "http://h/v1"),
        ("custom", "", ""),
        ("openai", "http://h/v1/chat/completions", "http://h/v1"),
        ("local", "http://h/v1/embeddings", "http://h/v1"),
    ] {
        assert_eq!(Vendor::named(vendor).unwrap().normalise(given), meant);
    }
}

#[test]
fn the_variable_of_openais_sdk_is_used_as_that_sdk_uses_it() {
    for (vendor, given, meant) in [
        ("openai", "http://h:1", "http://h:1"),
        ("openai", "http://h:1/", "http://h:1"),
        ("openai", "http://h:1/v1/", "http://h:1/v1"),
        ("openai", "http://h:1/gateway", "http://h:1/gateway"),
        ("xai", "http://h", "http://h/v1"),
        ("local", "http://h", "http://h/v1"),
        ("groq", "http://h", "http://h/openai/v1"),
        ("gemini", "http://h/x", "http://h/x/v1beta"),
        ("openai", "", ""),
    ] {
        let vendor = Vendor::named(vendor).unwrap();
        assert_eq!(vendor.base_from_variable(given), meant);
    }
}
