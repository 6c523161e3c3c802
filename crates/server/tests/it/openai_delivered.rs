//! Every billed answer reaches the client, unless its request is strict.

use batchwright::config::ConfigStore;
use batchwright_simulate::{SimConfig, Trouble};
use serde_json::{Value, json};

use super::common::{Answer, Desk};
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

fn ask(desk: &Desk, strict: &[&str]) -> Answer {
    let name = "x-batchwright-strict";
    let strict: Vec<_> = strict.iter().map(|strict| (name, *strict)).collect();
    desk.send("POST", CHAT, &strict, with_schema().to_string())
}

#[test]
fn every_billed_reply_is_the_answer_to_a_call() {
    for (trouble, reason) in PAID {
        let desk = unlimited(SimConfig::default().trouble(trouble, 1.0));
        let answer = ask(&desk, &[]).is(200).json();
        assert_eq!(answer["choices"][0]["finish_reason"], reason, "{answer}");
        let tokens = answer["usage"]["prompt_tokens"].as_u64();
        assert!(tokens > Some(0), "{answer}");
        assert_eq!(desk.sim.stats().calls, 1, "{trouble:?}");
    }
}

#[test]
fn a_strict_request_is_checked_and_tried_once_more() {
    let always = SimConfig::default().trouble_times(Trouble::InvalidJson, None);
    let desk = unlimited(always.trouble(Trouble::InvalidJson, 1.0));
    ask(&desk, &["perhaps"]).is(400);
    assert_eq!(desk.sim.stats().calls, 0);
    let refused = ask(&desk, &["true"]).is(400).json();
    let why = refused["error"]["message"].as_str().unwrap();
    assert!(why.contains("does not fit the schema"), "{why}");
    assert_eq!(desk.sim.stats().calls, 2);
    ask(&desk, &["false"]).is(200);
    assert_eq!(desk.sim.stats().calls, 3);
}

/// The client set the limit, and another call would be cut at the same place and billed again.
#[test]
fn a_text_that_was_cut_off_is_the_answer_to_a_strict_request() {
    let desk = unlimited(SimConfig::default());
    let mut body = question("Hello.");
    body["max_tokens"] = json!(3);
    let strict = [("x-batchwright-strict", "true")];
    let answer = desk.send("POST", CHAT, &strict, body.to_string());
    let answer = answer.is(200).json();
    assert_eq!(answer["choices"][0]["finish_reason"], "length", "{answer}");
    assert_eq!(desk.sim.stats().calls, 1);
    // JSON that was cut off is not of the requested format; it is not requested again either.
    let desk = unlimited(SimConfig::default().trouble(Trouble::Length, 1.0));
    let refused = ask(&desk, &["true"]).is(400).json();
    let why = refused["error"]["message"].as_str().unwrap();
    assert!(why.contains("cut at the token limit"), "{why}");
    assert_eq!(desk.sim.stats().calls, 1);
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
