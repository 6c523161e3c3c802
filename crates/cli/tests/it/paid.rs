//! Replies that are paid for are kept, whatever their form.

use serde_json::{Value, json};

use super::common::{Desk, RunToEnd};
use super::fake::{Fake, reply, says};
use super::serve::{ask, serve_at};

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
    for (words, tokens, task, cut) in [
        (6_000, 2050, "", true),
        (60_000, 16_386, "", true),
        (6_000, 6_007, "", false),
        (6_000, 2048, "--task embed", true),
        (60_000, 2048, "--task embed", true),
        (6_000, 6_001, "--task embed", false),
    ] {
        let desk = Desk::new();
        let prompt = json!({"id": "a", "prompt": "word ".repeat(words)});
        desk.write("in.jsonl", format!("{prompt}\n"));
        let fake = Fake::answering(move |_| {
            let mut answer = reply(json!({"content": "x"}));
            answer["data"] = json!([{"index": 0, "embedding": [1]}]);
            answer["usage"]["prompt_tokens"] = tokens.into();
            answer
        });
        let ended = fake.run(&desk, task).ended().expect(0);
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

#[test]
fn a_mended_reply_reaches_the_client_of_a_server_with_its_warning_and_is_billed_once() {
    let whole = reply(json!({"content": "Os lo"})).to_string();
    let end = "}}],";
    let mended = [
        (
            whole.replace(
                end,
                r#"},"logprobs":{"content":[{"token":"Os","logprob":NaN}]}}],"#,
            ),
            "NaN",
        ),
        (
            whole.replace(r#""usage""#, r#""usage":null,"usage""#),
            "twice",
        ),
        (whole.replace("Os lo", "Os\\ud83d"), "surrogate"),
        (
            format!(
                "data: {}\n\ndata: [DONE]\n\n",
                whole.replace("message", "delta")
            ),
            "stream",
        ),
    ];
    assert!(mended.iter().all(|(body, _)| *body != whole));
    let bodies = mended.clone();
    let fake = Fake::start(
        move |asked| match asked.json()["messages"][0]["content"].as_str() {
            Some(which) => says(200, &bodies[which.parse::<usize>().unwrap()].0),
            None => says(404, "{}"),
        },
    );
    let desk = Desk::new();
    let (_running, address) = serve_at(&desk, &fake.url(), "");
    for (which, (_, says)) in mended.iter().enumerate() {
        let body =
            json!({"model": "m", "messages": [{"role": "user", "content": which.to_string()}]});
        let key = format!("idempotency-key: k-{which}\r\n");
        let post = || {
            ask(
                &address,
                "POST",
                "/v1/chat/completions",
                &key,
                &body.to_string(),
            )
            .unwrap()
        };
        let (status, text) = post();
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(status, 200, "{says}: {answer}");
        let content = answer["choices"][0]["message"]["content"].as_str().unwrap();
        assert!(content.starts_with("Os"), "{says}: {answer}");
        assert!(
            answer["warning"].as_str().unwrap().contains(says),
            "{answer}"
        );
        assert_eq!(answer["usage"]["prompt_tokens"], 10, "{says}: {answer}");
        // The client asks again, and gets the same.
        assert_eq!(post(), (200, text), "{says}");
        assert_eq!(fake.calls().len(), which + 1, "{says}");
    }
}
