use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::llm::providers::dialect::testing::encoded;
use crate::llm::request::{Message, Request, Role};

/// Whoever made a call, its id is one that the vendor takes, and the same at the result.
#[test]
fn each_vendor_gets_call_ids_that_it_accepts() {
    let long = "c".repeat(41);
    let ids = [
        "call_9zZb2aQ",
        "toolu_01A",
        "functions.get_weather:0",
        &long,
    ];
    for name in ["openai", "mistral", "anthropic"] {
        let takes = |id: &str| match name {
            "mistral" => id.len() == 9 && id.bytes().all(|b| b.is_ascii_alphanumeric()),
            "anthropic" => id
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b)),
            _ => true,
        };
        for in_openais_shape in [true, false] {
            let mut turn = Message::new(Role::Assistant, "");
            let calls = ids.map(|id| {
                if in_openais_shape {
                    json!({"id": id, "type": "function",
            "function": {"name": "f", "arguments": "{}"}})
                } else {
                    json!({"id": id, "name": "f", "arguments": {}})
                }
            });
            turn.extra
                .insert("tool_calls".to_owned(), calls.to_vec().into());
            let results = ids.map(|id| Message::tool_result(id, "7"));
            let request = Request::chat([vec![turn], results.to_vec()].concat());
            let messages = encoded(name, &request).1["messages"].clone();
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let (made, answered): (Vec<String>, Vec<String>) = match name {
                "anthropic" => {
                    let blocks = |turn: usize| messages[turn]["content"].as_array().unwrap().iter();
                    (
                        blocks(0).map(|block| text(&block["id"])).collect(),
                        blocks(1).map(|block| text(&block["tool_use_id"])).collect(),
                    )
                }
                _ => (
                    messages[0]["tool_calls"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .map(|call| text(&call["id"]))
                        .collect(),
                    (1..=4)
                        .map(|at| text(&messages[at]["tool_call_id"]))
                        .collect(),
                ),
            };
            assert_eq!(made, answered, "{name}");
            for (sent, id) in made.iter().zip(ids) {
                assert!(takes(sent), "{name}: {sent}");
                assert_eq!(sent == id, takes(id), "{name}: {id} is {sent}");
            }
            let apart: BTreeSet<_> = made.iter().collect();
            assert_eq!(apart.len(), 4, "{name}");
        }
    }
}
