//! What goes out of fields in OpenAI's words, vendor by vendor, and what users are told.

use super::*;
use crate::llm::params::ResponseFormat;
use crate::llm::providers::dialect::testing::{encoded, vendor};
use crate::llm::providers::vendor::VENDORS;
use crate::llm::request::{Message, Role};
use serde_json::json;

const HOSTED: [&str; 6] = ["openai", "anthropic", "gemini", "xai", "groq", "mistral"];

fn with(field: &str, value: Value) -> Request {
    Request::new("U").with_extra(field, value)
}

fn warnings(name: &str, request: &Request) -> Vec<String> {
    let out = vendor(name).fields.left_out(request);
    out.iter().map(LeftOut::to_string).collect()
}

/// `cases.json` lists, for two groups of vendors, a field, its value, and the vendors that support it.
#[test]
fn fields_are_sent_to_the_vendors_that_support_them_and_warned_of_for_the_others() {
    type Cases = HashMap<String, Vec<(String, Value, String)>>;
    let cases: Cases = serde_json::from_str(include_str!("cases.json")).unwrap();
    for (vendors, rows) in cases {
        for (field, value, takers) in rows {
            let request = with(&field, value);
            for name in vendors.split(' ') {
                let takes = takers.split(' ').any(|taker| taker == name);
                let goes = vendor(name).fields.further(&request).count() == 1;
                assert_eq!(goes, takes, "{name} {field}");
                assert_eq!(warnings(name, &request).is_empty(), takes, "{name} {field}");
                let (_, body) = encoded(name, &request);
                assert!(takes || body.get(&field).is_none(), "{body}");
            }
            for name in ["local", "custom"] {
                assert!(encoded(name, &request).1.get(&field).is_some(), "{field}");
            }
        }
    }
}

#[test]
fn a_vendor_without_schemas_gets_the_schema_in_the_system_text() {
    let schema = ResponseFormat::json_schema(json!({"type": "object", "required": ["a"]})).unwrap();
    let told = warnings("deepseek", &Request::new("U").with_response_format(schema));
    assert!(
        told[0].starts_with("does not support schema as `answer`, only JSON of any form"),
        "{told:?}"
    );
}

#[test]
fn no_vendor_has_a_field_twice() {
    for vendor in VENDORS.iter() {
        let (lacks, takes) = (&vendor.fields.lacks, vendor.fields.takes.keys());
        let mut names: Vec<&String> = lacks.iter().chain(takes).collect();
        names.sort_unstable();
        let twice = names.windows(2).find(|pair| pair[0] == pair[1]);
        assert_eq!(twice, None, "{}", vendor.name);
    }
}

#[test]
fn reasoning_effort_is_translated_for_each_vendor() {
    const EFFORTS: [&str; 7] = ["none", "minimal", "low", "medium", "high", "xhigh", "max"];
    for (name, place, known) in [
        (
            "anthropic",
            "/output_config/effort",
            "low medium high xhigh max",
        ),
        (
            "gemini",
            "/generationConfig/thinkingConfig/thinkingLevel",
            "MINIMAL LOW MEDIUM HIGH",
        ),
        ("xai", "/reasoning_effort", "none low medium high"),
        ("groq", "/reasoning_effort", "none default low medium high"),
        ("mistral", "/reasoning_effort", "none high"),
    ] {
        for effort in EFFORTS {
            let (_, body) = encoded(name, &with("reasoning_effort", json!(effort)));
            let error_body = body.pointer(place).and_then(Value::as_str).unwrap();
            assert!(
                known.split(' ').any(|word| word == error_body),
                "{name} {error_body}"
            );
            assert!(!known.split(' ').any(|word| word == effort) || error_body == effort);
        }
    }
}

#[test]
fn a_further_field_cannot_set_what_parameters_set() {
    for field in OWN {
        // Five answers would be paid for, and one be read.
        let request = with(field, json!(5));
        for name in HOSTED.iter().chain(&["local", "custom"]) {
            let (_, body) = encoded(name, &request);
            assert_ne!(body.get(field), Some(&json!(5)), "{name}");
            assert_eq!(
                warnings(name, &request),
                [format!("the extra field `{field}` is not sent")]
            );
        }
    }
}

#[test]
fn null_fields_are_ignored() {
    for name in HOSTED {
        let request = with("metadata", Value::Null);
        assert!(encoded(name, &request).1.get("metadata").is_none());
        assert!(warnings(name, &request).is_empty());
    }
}

fn recorded() -> Request {
    let mut turn = Message::new(Role::Assistant, "A");
    for (field, value) in [
        ("refusal", Value::Null),
        ("annotations", json!([])),
        ("tool_calls", json!([])),
        ("name", json!("ann")),
        ("reasoning_content", json!("hm")),
    ] {
        turn.extra.insert(field.into(), value);
    }
    Request::chat(vec![turn, Message::new(Role::User, "V")])
}

#[test]
fn recorded_messages_keep_the_fields_that_the_vendor_supports() {
    for (name, messages, kept) in [
        ("openai", "messages", "content name role"),
        ("xai", "messages", "content name reasoning_content role"),
        ("groq", "messages", "content role"),
        ("mistral", "messages", "content role"),
        ("anthropic", "messages", "content role"),
        ("gemini", "contents", "parts role"),
        ("local", "messages", "content name reasoning_content role"),
    ] {
        let (_, body) = encoded(name, &recorded());
        let mut keys: Vec<_> = body[messages][0].as_object().unwrap().keys().collect();
        keys.sort_unstable();
        assert_eq!(keys, kept.split(' ').collect::<Vec<_>>(), "{name}");
    }
    assert_eq!(
        warnings("groq", &recorded()),
        [
            "does not support `messages[].name`; it is omitted",
            "does not support `messages[].reasoning_content`; it is omitted",
        ]
    );
}

#[test]
fn seeds_are_sent_only_within_the_vendors_range() {
    for (seed, takers) in [
        (7, "openai xai groq mistral gemini"),
        (-7, "openai xai groq gemini"),
        (5_000_000_000, "openai xai groq mistral"),
    ] {
        let mut request = Request::new("U");
        request.params.seed = Some(seed);
        for name in HOSTED {
            let takes = takers.split(' ').any(|taker| taker == name);
            let body = encoded(name, &request).1.to_string();
            assert_eq!(body.contains("seed"), takes, "{body}");
            assert_eq!(warnings(name, &request).is_empty(), takes, "{name}");
        }
    }
}

#[test]
fn a_temperature_beyond_the_vendors_range_is_left_out() {
    for (degrees, takers) in [
        (1.0, "openai xai groq mistral anthropic gemini"),
        (1.2, "openai xai groq mistral gemini"),
        (1.8, "openai xai groq gemini"),
    ] {
        let request = Request::new("U").with_temperature(degrees);
        for name in HOSTED {
            let takes = takers.split(' ').any(|taker| taker == name);
            let body = encoded(name, &request).1.to_string();
            assert_eq!(body.contains("temperature"), takes, "{body}");
            assert_eq!(warnings(name, &request).is_empty(), takes, "{name}");
        }
    }
}

#[test]
fn a_blank_stop_is_left_out_where_it_is_refused() {
    let mut request = Request::new("U");
    request.params.stop = vec!["\n".into(), "END".into()];
    let (_, body) = encoded("anthropic", &request);
    assert_eq!(body["stop_sequences"], json!(["END"]));
    assert_eq!(
        warnings("anthropic", &request),
        ["does not support this value of `stop`; it is omitted"]
    );
    assert_eq!(encoded("groq", &request).1["stop"], json!(["\n", "END"]));
}

#[test]
fn tools_are_sent_to_all_vendors_with_tools() {
    let function = json!({"name": "f", "parameters": {"type": "object"}});
    let functions = json!([{"type": "function", "function": function}]);
    let choice = json!({"type": "function", "function": {"name": "f"}});
    let request = with("tools", functions.clone()).with_extra("tool_choice", choice.clone());
    for name in HOSTED {
        assert!(warnings(name, &request).is_empty(), "{name}");
        let (_, body) = encoded(name, &request);
        assert!(
            body["tools"].to_string().contains(r#""name":"f""#),
            "{name}"
        );
    }
    let custom = json!({"type": "custom", "custom": {"name": "c"}});
    let mixed = json!([functions[0], custom]);
    for (request, told) in [
        (
            with("tools", json!("x")),
            "does not support this value of `tools`",
        ),
        (
            with("tools", json!([{"function": {}}])),
            "does not support this value of `tools[]`",
        ),
        (with("tools", mixed), "does not support `tools[].custom`"),
        (
            with("tool_choice", choice),
            "does not support `tool_choice`",
        ),
        (
            request.clone().with_extra("tool_choice", json!("some")),
            "does not support this value of `tool_choice`",
        ),
        (
            with("parallel_tool_calls", json!(false)),
            "does not support `parallel_tool_calls`",
        ),
    ] {
        for name in ["anthropic", "gemini"] {
            let said = warnings(name, &request);
            assert!(
                said.len() == 1 && said[0].starts_with(told),
                "{name} {said:?}"
            );
        }
    }
    let one = request
        .clone()
        .with_extra("parallel_tool_calls", json!(false));
    assert!(warnings("anthropic", &one).is_empty());
    assert_eq!(warnings("gemini", &one).len(), 1);
    let any = request.with_extra("tool_choice", json!({"type": "any"}));
    assert!(warnings("anthropic", &any).is_empty());
    assert_eq!(warnings("gemini", &any).len(), 1);
    // What is in a vendor's own words is its own matter.
    for (name, own) in [
        (
            "anthropic",
            json!([{"type": "web_search_20250305", "name": "web_search"}]),
        ),
        ("gemini", json!([{"googleSearch": {}}])),
    ] {
        let request = with("tools", own.clone());
        assert!(warnings(name, &request).is_empty());
        assert_eq!(encoded(name, &request).1["tools"], own);
    }
}

#[test]
fn a_schema_in_the_system_text_is_warned_about() {
    let asking = |schema: Value| {
        let mut request = Request::new("U");
        request.params.response_format = Some(ResponseFormat::JsonSchema {
            name: "row".to_owned(),
            schema,
            strict: false,
        });
        request
    };
    let row = asking(json!({"type": "object", "properties": {"a": {"type": "string"}}}));
    let map = asking(json!({"type": "object", "additionalProperties": {"type": "integer"}}));
    for name in HOSTED {
        assert!(warnings(name, &row).is_empty(), "{name}");
        assert_eq!(
            warnings(name, &map).len(),
            usize::from(name == "anthropic"),
            "{name}"
        );
    }
    assert_eq!(
        warnings("anthropic", &map),
        [
            "does not support this schema as `row` (maps with any keys, recursion, allOf or many options); it \
          is added to the system text, and answers are checked anyway"
        ]
    );
}

#[test]
fn a_temperature_out_of_range_is_left_out_with_its_bound() {
    let hot = |degrees| Request::new("U").with_temperature(degrees);
    assert_eq!(
        warnings("anthropic", &hot(1.5)),
        ["accepts a temperature of at most 1; 1.5 is omitted"]
    );
    assert_eq!(
        warnings("mistral", &hot(1.8)),
        ["accepts a temperature of at most 1.5; 1.8 is omitted"]
    );
}
