//! A JSON log for other programs.

use serde_json::Value;

use super::common::{Desk, good};

#[test]
fn a_log_of_json_has_one_event_a_line_and_no_text_of_prompts() {
    let (desk, sim) = (Desk::new(), good());
    desk.input("{\"id\":\"a-1\",\"prompt\":\"the secret question\"}\n");
    let ended = desk.run(
        &sim,
        "in.jsonl -o out.jsonl --log-format json --log-level debug --progress always",
    );
    let ended = ended.expect(0);
    let lines = ended
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let events: Vec<Value> = lines.collect();
    let call = events
        .iter()
        .find(|event| event["gen_ai.provider.name"] == "local");
    let call = call.unwrap_or_else(|| panic!("{}", ended.stderr));
    for (name, value) in [
        ("level", Value::from("debug")),
        ("gen_ai.operation.name", "chat".into()),
        ("gen_ai.request.model", "sim-1".into()),
        ("batchwright.item", "a-1".into()),
        ("batchwright.attempt", 1.into()),
    ] {
        assert_eq!(call[name], value, "{call}");
    }
    assert!(call["gen_ai.usage.output_tokens"].is_u64(), "{call}");
    assert!(call.get("error.type").is_none(), "{call}");
    for event in &events {
        let time = event["timestamp"].as_str().unwrap();
        assert!(time.starts_with("20") && time.ends_with('Z'), "{event}");
    }
    ended.hides("secret question");
}
