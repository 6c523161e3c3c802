//! Replies that are paid for are kept, whatever their form.

use serde_json::json;

use super::common::{Desk, RunToEnd};
use super::fake::{Fake, reply, says};

#[test]
fn a_server_that_streams_unless_told_not_to_is_paid_once_for_each_item() {
    let (desk, whole) = (Desk::with(12), reply(json!({"content": "whole"})));
    let chunk = json!({"choices": [{"index": 0, "delta": {"content": "piece"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5}});
    let fake = Fake::start(move |asked| match &asked.json()["stream"] {
        _ if asked.body.is_empty() => says(404, "{}"),
        stream if *stream == json!(false) => says(200, &whole),
        _ => says(200, format!("data: {chunk}\n\ndata: [DONE]\n\n")),
    });
    let ended = fake.run(&desk, "-j 1").ended().expect(0);
    assert!(ended.stderr.contains("streams of events"));
    let bodies = fake.bodies();
    let told = bodies.iter().filter(|body| body["stream"] == json!(false));
    assert_eq!((bodies.len(), told.count()), (12, 11));
    let lines = desk.results("out.jsonl");
    let pieces = lines.iter().filter(|line| line["text"] == "piece");
    assert_eq!((lines.len(), pieces.count()), (12, 1));
    assert!(lines.iter().all(|line| line["usage"]["input_tokens"] == 10));
}

#[test]
fn a_prompt_that_a_server_cut_has_a_warning_and_is_counted() {
    for (words, tokens, cut) in [
        (6_000, 2050, true),
        (60_000, 16_386, true),
        (6_000, 6_007, false),
    ] {
        let desk = Desk::new();
        let prompt = json!({"id": "a", "prompt": "word ".repeat(words)});
        desk.write("in.jsonl", format!("{prompt}\n"));
        let fake = Fake::answering(move |_| {
            let mut answer = reply(json!({"content": "x"}));
            answer["usage"]["prompt_tokens"] = tokens.into();
            answer
        });
        let ended = fake.run(&desk, "").ended().expect(0);
        assert_eq!(
            ended.stderr.contains("has a warning"),
            cut,
            "{}",
            ended.stderr
        );
        let warning = &desk.results("out.jsonl")[0]["warning"];
        assert_eq!(
            warning.to_string().contains("probably cut"),
            cut,
            "{warning}"
        );
    }
}
