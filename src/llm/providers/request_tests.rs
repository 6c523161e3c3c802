//! Requests, and the calls that they become for each vendor: the cases of `request_cases.json`.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::attached::filled;
use super::dialect::encode;
use super::dialect::testing::encoded;
use super::vendor::Vendor;
use crate::base::{ErrorKind, Sent};
use crate::llm::request::Request;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    vendor: String,
    request: Value,
    path: Option<String>,
    body: Option<Value>,
    /// Parts of the body, by JSON pointer; null if there is no such part.
    #[serde(default)]
    at: Map<String, Value>,
    /// A part of the message, if the request is refused and not sent.
    error: Option<String>,
}

#[test]
fn requests_are_encoded_in_the_format_of_each_vendor() {
    let cases = include_str!("request_cases.json");
    for case in serde_json::from_str::<Vec<Case>>(cases).unwrap() {
        let (vendor, shown) = (&case.vendor, &case.request);
        let request: Request = serde_json::from_value(case.request.clone()).unwrap();
        if let Some(expected) = &case.error {
            let refused = encode(Vendor::named(vendor).unwrap(), &request, Some("m"));
            let error = refused.err().unwrap_or_else(|| panic!("{vendor} {shown}"));
            let found = (error.kind(), error.sent());
            assert_eq!(found, (ErrorKind::Invalid, Sent::No), "{vendor} {shown}");
            assert!(error.message().contains(expected), "{shown}: {error}");
            continue;
        }
        let request = filled(Vendor::named(vendor).unwrap(), &request).unwrap();
        let (path, body) = encoded(vendor, &request);
        assert!(case.path.is_none_or(|expected| expected == path));
        if let Some(expected) = case.body {
            assert_eq!(body, expected, "{vendor} {shown}");
        }
        for (pointer, expected) in &case.at {
            let found = body.pointer(pointer).unwrap_or(&Value::Null);
            assert_eq!(found, expected, "{vendor} {shown} {pointer}");
        }
    }
}

/// The result of a call names it as the call is named.
#[test]
fn ids_of_calls_that_anthropic_refuses_are_replaced_and_stay_distinct() {
    let ids = ["functions.bash:0", "functions.bash:1", "", "toolu_1-A"];
    let calls = ids.map(|id| json!({"id": id, "function": {"name": "f", "arguments": null}}));
    let mut messages = vec![json!({"role": "assistant", "content": null, "tool_calls": calls})];
    messages.extend(ids.map(|id| json!({"role": "tool", "tool_call_id": id, "content": "1"})));
    let request: Request = serde_json::from_value(json!({ "messages": messages })).unwrap();
    let (_, body) = encoded("anthropic", &request);
    let named = |at: usize, field: &str| {
        let blocks = body["messages"][at]["content"].as_array().unwrap();
        let ids = blocks.iter().map(|block| block[field].as_str().unwrap());
        ids.map(str::to_owned).collect::<Vec<_>>()
    };
    let made = named(0, "id");
    assert_eq!(made, named(1, "tool_use_id"));
    assert_eq!(made[3], "toolu_1-A");
    assert_eq!(
        body.pointer("/messages/0/content/0/input"),
        Some(&json!({}))
    );
    let accepted = |id: &String| !id.is_empty() && !id.contains(['.', ':']);
    assert!(made.iter().all(accepted), "{made:?}");
    assert!(
        made.iter()
            .enumerate()
            .all(|(at, id)| !made[..at].contains(id)),
        "{made:?}"
    );
}

/// Whatever label a client gave to its data.
#[test]
fn media_types_follow_the_bytes() {
    let (jpeg, png, webp) = (
        "/9j/4AAQSkZJRgABAQAAAQ==",
        "iVBORw0KGgoAAAANSUhEUgAA",
        "UklGRhAAAABXRUJQVlA4IA==",
    );
    for (label, data, kind) in [
        ("image/jpg", jpeg, "image/jpeg"),
        ("image/png", jpeg, "image/jpeg"),
        ("", png, "image/png"),
        ("IMAGE/JPEG;charset=utf-8", png, "image/png"),
        ("image/jpeg", webp, "image/webp"),
        ("image/png", "JVBERi0xLjQK", "application/pdf"),
        ("image/JPG", "AAAA", "image/jpeg"),
        ("Image/Heic; x=y", "AAAA", "image/heic"),
    ] {
        for scheme in ["data", "DATA"] {
            let url = format!("{scheme}:{label};base64,{data}");
            let image = json!({"type": "image_url", "image_url": {"url": url}});
            let request = json!({"messages": [{"role": "user", "content": [image]}]});
            let request: Request = serde_json::from_value(request).unwrap();
            let at =
                |vendor: &str, place: &str| encoded(vendor, &request).1.pointer(place).cloned();
            let source = at("anthropic", "/messages/0/content/0/source").unwrap();
            assert_eq!(
                source,
                json!({"type": "base64", "media_type": kind, "data": data})
            );
            let block = at("anthropic", "/messages/0/content/0/type").unwrap();
            assert_eq!(
                block,
                if kind.starts_with("image/") {
                    "image"
                } else {
                    "document"
                }
            );
            let part = at("gemini", "/contents/0/parts/0/inlineData").unwrap();
            assert_eq!(part, json!({"mimeType": kind, "data": data}), "{url}");
        }
    }
}
