//! Every billed answer reaches the client.

use batchwright::config::ConfigStore;
use batchwright_simulate::{SimConfig, Trouble};
use serde_json::{Value, json};

use super::openai::{CHAT, completed, contents, line, question, unlimited};

/// Billed replies that are no good answers, and the finish reason that the client gets.
const PAID: [(Trouble, &str); 4] = [
    (Trouble::ContentFilter, "content_filter"),
    (Trouble::Empty, "stop"),
    (Trouble::InvalidJson, "stop"),
    (Trouble::Length, "length"),
];

fn with_schema() -> Value {
    let schema = json!({
        "type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"],
        "additionalProperties": false,
    });
    let schema = json!({"name": "number", "schema": schema, "strict": true});
    let mut body = question("Hello.");
    body["response_format"] = json!({"type": "json_schema", "json_schema": schema});
    body
}

#[test]
fn every_billed_reply_is_the_answer_to_a_call() {
    for (trouble, reason) in PAID {
        let desk = unlimited(SimConfig::default().trouble(trouble, 1.0));
        let answer = desk.send("POST", CHAT, &[], with_schema().to_string());
        let answer = answer.is(200).json();
        assert_eq!(answer["choices"][0]["finish_reason"], reason, "{answer}");
        let tokens = answer["usage"]["prompt_tokens"].as_u64();
        assert!(tokens > Some(0), "{answer}");
        assert_eq!(desk.sim.stats().calls, 1, "{trouble:?}");
    }
}

#[test]
fn every_billed_reply_is_in_the_output_of_a_batch() {
    for (trouble, reason) in PAID {
        for strategy in ["sync", "batch"] {
            let desk = unlimited(SimConfig::default().trouble(trouble, 1.0));
            desk.store.set("llm.bulk_strategy", strategy).unwrap();
            let mut one = line("one", "Hello.");
            one["body"] = with_schema();
            let mut two = one.clone();
            two["custom_id"] = json!("two");
            let done = completed(&desk, &format!("{one}\n{two}\n"));
            let [output, errors] = contents(&desk, &done);
            assert_eq!((output.len(), errors.len()), (2, 0), "{done}");
            for line in output {
                let choice = &line["response"]["body"]["choices"][0];
                assert_eq!(choice["finish_reason"], reason, "{strategy} {line}");
            }
            assert_eq!(desk.sim.stats().paid, 2, "{strategy} {trouble:?}");
        }
    }
}
