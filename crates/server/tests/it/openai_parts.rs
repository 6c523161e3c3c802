//! Lines of batches that stand for several requests: vectors of a list of texts.

use std::time::Duration;

use batchwright_simulate::{SimConfig, Trouble, embedding};
use serde_json::{Value, json};

use super::common::{Has, PATIENCE};
use super::openai::{CHAT, content, create, line, unlimited, uploaded, wait_for};

pub const EMBEDDINGS: &str = "/v1/embeddings";

/// A line with this number of texts, which no other line has.
pub fn several(id: &str, count: usize) -> Value {
    let texts: Vec<String> = (0..count).map(|n| format!("Text {n} of {id}.")).collect();
    vectors(id, json!(texts))
}

fn vectors(id: &str, input: Value) -> Value {
    let body = json!({"model": "sim-1", "input": input});
    json!({"custom_id": id, "method": "POST", "url": EMBEDDINGS, "body": body})
}

fn text(lines: &[Value]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn of<'l>(lines: &'l [Value], id: &str) -> &'l Value {
    let line = lines.iter().find(|line| line["custom_id"] == id);
    &line.unwrap()["response"]["body"]
}

#[test]
fn a_list_of_texts_on_a_line_becomes_its_vectors_in_their_order() {
    let desk = unlimited(SimConfig::default());
    let many: Vec<String> = (0..300).map(|n| format!("Text {n}.")).collect();
    let packed = |id, input| {
        let mut line = vectors(id, input);
        line["body"]["encoding_format"] = json!("base64");
        line
    };
    let lines = [
        vectors("alone", json!("one")),
        vectors("list", json!(["one", "two"])),
        vectors("single", json!(["one"])),
        vectors("many", json!(many)),
        packed("packed", json!(["a", "b"])),
        packed("packed one", json!("b")),
    ];
    let batch = create(&desk, &uploaded(&desk, &text(&lines)), EMBEDDINGS);
    let done = wait_for(&desk, &batch, "completed");
    assert_eq!(done["request_counts"]["completed"], 6);
    let output = content(&desk, &done["output_file_id"]);
    let data = |id: &str| of(&output, id)["data"].as_array().unwrap().clone();
    let vector = |text: &str, like: &Value| {
        let like: Vec<f32> = serde_json::from_value(like["embedding"].clone()).unwrap();
        assert_eq!(like, embedding(text, like.len()));
    };
    vector("one", &data("list")[0]);
    vector("two", &data("list")[1]);
    assert_eq!(data("single"), data("alone"));
    for (n, one) in data("many").iter().enumerate() {
        assert_eq!(one["index"], n);
        vector(&many[n], one);
    }
    assert_eq!(data("many").len(), 300);
    assert!(data("packed").len() == 2 && data("packed")[1]["embedding"].is_string());
    assert_eq!(
        data("packed one")[0]["embedding"],
        data("packed")[1]["embedding"]
    );
    // Texts of several lines share calls, whose tokens are shared out among them: single texts cannot be compared, sums
    // can.
    let used = |body: &Value| body["usage"]["total_tokens"].as_u64().unwrap();
    let sum: u64 = output
        .iter()
        .map(|line| used(&line["response"]["body"]))
        .sum();
    assert_eq!(done["usage"]["total_tokens"], sum);
    let many = used(of(&output, "many"));
    assert!(many >= 300, "{many} of {sum} tokens for 300 texts");
}

#[test]
fn a_part_that_fails_fails_its_line_and_no_other() {
    let config = SimConfig::default().trouble(Trouble::BadRequest, 0.5);
    let prompt = |fails: bool| {
        let mut prompts = (0..).map(|n| format!("Prompt {n}."));
        prompts
            .find(|prompt| config.plan(prompt).is_some() == fails)
            .unwrap()
    };
    let (good, bad) = (prompt(false), prompt(true));
    let lines = [
        vectors("good", json!([good, good])),
        vectors("bad", json!([good, bad])),
    ];
    let desk = unlimited(config.clone());
    let batch = create(&desk, &uploaded(&desk, &text(&lines)), EMBEDDINGS);
    let done = wait_for(&desk, &batch, "completed");
    done.has(json!({"request_counts": {"total": 2, "completed": 1, "failed": 1}}));
    let output = content(&desk, &done["output_file_id"]);
    assert_eq!(of(&output, "good")["data"].as_array().unwrap().len(), 2);
    let errors = content(&desk, &done["error_file_id"]);
    assert_eq!(errors[0]["response"]["status_code"], 400);
    let bad = of(&errors, "bad");
    assert_eq!(bad["error"]["type"], "invalid_request_error");
}

#[test]
fn a_server_that_stops_buys_no_part_twice() {
    let mut desk = unlimited(SimConfig::default().latency(Duration::from_millis(100)));
    let lines: Vec<Value> = (0..400).map(|n| several(&format!("r-{n}"), 3)).collect();
    let batch = create(&desk, &uploaded(&desk, &text(&lines)), EMBEDDINGS);
    let some = |stats: &batchwright_simulate::SimStats| stats.embedded > 10;
    assert!(desk.sim.wait_until(some, PATIENCE));
    desk.stop();
    assert!(desk.sim.stats().embedded < 1_200, "it was too quick");
    desk.start(|server| server);
    let done = wait_for(&desk, &batch, "completed");
    let output = content(&desk, &done["output_file_id"]);
    assert_eq!(output.len(), 400);
    for n in 0..400 {
        let body = of(&output, &format!("r-{n}"));
        assert_eq!(body["data"].as_array().unwrap().len(), 3);
    }
    assert_eq!(desk.sim.stats().embedded, 1_200);
}

#[test]
fn a_line_that_stands_for_too_many_is_a_fault() {
    let desk = unlimited(SimConfig::default());
    let too_many = vec!["a"; 2049];
    let lines = [
        vectors("good", json!(["one", "two"])),
        vectors("many", json!(too_many)),
        vectors("none", json!([])),
        vectors("mixed", json!(["one", [1, 2]])),
    ];
    let batch = create(&desk, &uploaded(&desk, &text(&lines)), EMBEDDINGS);
    let failed = wait_for(&desk, &batch, "failed");
    let faults = failed["errors"]["data"].as_array().unwrap();
    let lines: Vec<&Value> = faults.iter().map(|fault| &fault["line"]).collect();
    assert_eq!(lines, [2, 3, 4]);
    assert!(
        faults
            .iter()
            .all(|fault| fault["code"] == "invalid_request")
    );
    let lines = [("n", json!(2)), ("n", json!(0)), ("functions", json!([]))];
    let lines = lines.map(|(field, value)| {
        let mut line = line(field, "Hello.");
        line["custom_id"] = json!(format!("{field} {value}"));
        line["body"][field] = value;
        line
    });
    let batch = create(&desk, &uploaded(&desk, &text(&lines)), CHAT);
    let failed = wait_for(&desk, &batch, "failed");
    assert_eq!(failed["errors"]["data"].as_array().unwrap().len(), 3);
    assert_eq!(desk.sim.stats().calls, 0);
}
