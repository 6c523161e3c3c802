//! The other endpoints in OpenAI's format: older completions, uploads in parts, and those that are not offered.

use batchwright_simulate::SimConfig;
use serde_json::{Value, json};

use super::common::{Answer, Desk, Has};
use super::openai::{content, create, line, unlimited, uploaded, wait_for};

const COMPLETIONS: &str = "/v1/completions";

#[test]
fn completions_of_texts_are_answered_and_batched() {
    let desk = unlimited(SimConfig::default());
    let one =
        json!({"model": "sim-1", "prompt": "One.", "max_tokens": 50, "best_of": 1, "echo": false});
    let answer = desk.done(COMPLETIONS, &one);
    answer.has(json!({"object": "text_completion", "model": "sim-1"}));
    answer["choices"][0].has(json!({"index": 0, "finish_reason": "stop", "logprobs": null}));
    let first = answer["choices"][0]["text"].as_str().unwrap();
    assert!(!first.is_empty());
    let several = json!({"model": "sim-1", "prompt": ["One.", "Two."], "n": 2, "stream": true});
    let streamed = desk.post(COMPLETIONS, &several).is(200).text;
    let events: Vec<&str> = streamed.split_terminator("\n\n").collect();
    assert_eq!((events.len(), events[4]), (5, "data: [DONE]"));
    assert!(
        events[0].contains(first) && events[3].contains("\"index\":3"),
        "{streamed}"
    );
    for (field, value) in [
        ("best_of", json!(2)),
        ("echo", json!(true)),
        ("logprobs", json!(0)),
        ("prompt", json!([1, 2])),
        ("suffix", json!("x")),
    ] {
        let mut body = one.clone();
        body[field] = value;
        let refused = desk.post(COMPLETIONS, &body).is(400).json();
        assert_eq!(refused["error"]["param"], field);
    }
    assert_eq!(desk.sim.stats().calls, 5);
    let lines = [one, json!({"model": "sim-1", "prompt": ["One.", "Two."]})];
    let lines = lines.iter().enumerate().map(|(n, body)| {
        let line = json!({"custom_id": format!("c-{n}"), "method": "POST", "url": COMPLETIONS, "body": body});
        format!("{line}\n")
    });
    let file = uploaded(&desk, &lines.collect::<String>());
    let done = wait_for(&desk, &create(&desk, &file, COMPLETIONS), "completed");
    let mut output = content(&desk, &done["output_file_id"]);
    output.sort_by_key(|line| line["custom_id"].to_string());
    let bodies = output
        .iter()
        .map(|line| &line["response"]["body"]["choices"]);
    let choices: Vec<usize> = bodies
        .map(|choices| choices.as_array().unwrap().len())
        .collect();
    assert_eq!(choices, [1, 2]);
    assert_eq!(output[0]["response"]["body"]["choices"][0]["text"], first);
}

fn part(desk: &Desk, upload: &str, text: &str) -> Answer {
    let body = format!(
        "--b\r\ncontent-disposition: form-data; name=\"data\"; filename=\"p\"\r\n\r\n{text}\r\n--b--\r\n"
    );
    let request = desk.agent().post(desk.url(&format!("{upload}/parts")));
    let request = request.header("content-type", "multipart/form-data; boundary=b");
    Answer::of(request.send(body).unwrap())
}

#[test]
fn an_upload_in_parts_is_a_file() {
    let desk = unlimited(SimConfig::default());
    let text = format!("{}\n{}\n", line("a", "One."), line("b", "Two."));
    let (first, second) = text.split_at(100);
    let begin = |bytes: usize| {
        let asked = json!({"bytes": bytes, "filename": "in.jsonl", "purpose": "batch", "mime_type": "application/jsonl"});
        let upload = desk.done("/v1/uploads", &asked);
        upload.has(json!({"object": "upload", "status": "pending", "file": null}));
        format!("/v1/uploads/{}", upload["id"].as_str().unwrap())
    };
    let upload = begin(text.len());
    let id = |answer: Answer| answer.is(200).json()["id"].take();
    // In the order of the ids, not of arrival.
    let (second, first) = (
        id(part(&desk, &upload, second)),
        id(part(&desk, &upload, first)),
    );
    let complete = |upload: &str, ids: &Value| {
        desk.post(&format!("{upload}/complete"), &json!({"part_ids": ids}))
    };
    complete(&upload, &json!([first])).is(400);
    complete(&upload, &json!([first, "part_unknown"])).is(400);
    let ids = json!([first, second]);
    let completed = complete(&upload, &ids).is(200).json();
    completed.has(json!({"status": "completed", "bytes": text.len()}));
    // A client that did not get the answer repeats the request.
    assert_eq!(complete(&upload, &ids).is(200).json(), completed);
    part(&desk, &upload, "more").is(400);
    let file = completed["file"]["id"].as_str().unwrap();
    assert_eq!(
        desk.get(&format!("/v1/files/{file}/content")).is(200).text,
        text
    );
    wait_for(
        &desk,
        &create(&desk, file, "/v1/chat/completions"),
        "completed",
    );
    assert_eq!(desk.read("/v1/files")["data"].as_array().unwrap().len(), 2);

    let upload = begin(5);
    let ids = json!([id(part(&desk, &upload, "12345"))]);
    let cancelled = desk.done(&format!("{upload}/cancel"), &json!({}));
    assert_eq!(cancelled["status"], "cancelled");
    complete(&upload, &ids).is(400);
    let left = std::fs::read_dir(desk.folder.path().join("files")).unwrap();
    let left = left.filter(|entry| {
        entry
            .as_ref()
            .unwrap()
            .file_name()
            .to_string_lossy()
            .starts_with("part_")
    });
    assert_eq!(left.count(), 0);
}

#[test]
fn an_endpoint_that_is_not_offered_says_what_is() {
    let desk = unlimited(SimConfig::default());
    for (path, what) in [
        ("/v1/assistants", "the Assistants API"),
        ("/v1/fine_tuning/jobs", "fine-tuning"),
        ("/v1/images/generations", "images"),
        ("/v1/moderations", "moderations"),
        ("/v1/responses/compact", "unknown request URL"),
        ("/v1/unknown", "unknown request URL"),
    ] {
        // Not 501: clients would repeat the request.
        let refused = desk.post(path, &json!({})).is(404).json();
        refused["error"].has(json!({"type": "invalid_request_error", "code": "unknown_url"}));
        let why = refused["error"]["message"].as_str().unwrap();
        assert!(
            why.contains(what) && why.contains("chat/completions"),
            "{why}"
        );
    }
}
