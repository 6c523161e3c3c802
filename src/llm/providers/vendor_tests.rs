use super::*;
use crate::llm::providers::dialect::testing::reply;
use crate::llm::providers::dialect::{decode, encode};
use crate::llm::request::Request;

#[test]
fn the_names_are_those_of_the_settings() {
    let names: Vec<&str> = VENDORS.iter().map(|vendor| vendor.name).collect();
    assert_eq!(names, crate::config::choices::PROVIDERS.all);
}

/// A further vendor of the OpenAI style is one row; beside it, settings know its name.
#[test]
fn a_row_of_the_table_is_enough_for_a_new_vendor() {
    let row = r#"{
        "name": "newcomer", "dialect": "openai", "base_url": "https://api.example.org/v1", "segment": "/v1",
        "key_vars": ["NEWCOMER_API_KEY"], "url_var": "NEWCOMER_BASE_URL", "needs_key": true,
        "key_header": "authorization", "cap": "max_tokens", "seed_field": "sampling_seed",
        "dimensions_field": "dimensions", "developer_role": false, "tells": "nothing", "concurrency": 5,
        "speaks": false
    }"#;
    let row: Vendor = serde_json::from_str(row).unwrap();
    let mut request = Request::new("U");
    request.params.seed = Some(7);
    request.params.max_tokens = Some(9);
    let call = encode(&row, &request, Some("m")).unwrap();
    let body: serde_json::Value = serde_json::from_slice(&call.body).unwrap();
    assert_eq!(call.path, "/chat/completions");
    assert_eq!(body["sampling_seed"], 7);
    assert_eq!(body["max_tokens"], 9);
    let body = r#"{"choices":[{"finish_reason":"stop","message":{"content":"x"}}]}"#;
    let answer = decode(&row, &reply(200, &[], body), false).unwrap();
    assert_eq!(answer.provider, "newcomer");
    let error = decode(&row, &reply(401, &[], "{}"), false).unwrap_err();
    assert!(error.message().contains("newcomer answered 401"));
}

#[test]
fn base_urls_are_used_as_in_each_sdk() {
    let cases: Vec<[&str; 3]> = serde_json::from_str(include_str!("base_urls_cases.json")).unwrap();
    for [vendor, given, meant] in cases {
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
