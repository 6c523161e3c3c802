//! The program against local servers: what they list, models that load.

use std::sync::atomic::{AtomicUsize, Ordering};

use batchwright_simulate::SimConfig;
use serde_json::json;

use super::common::{Desk, RunToEnd, Running, all_ids, simulator};
use super::fake::{Answer, Fake, says};

/// A minimal server: `answer` receives the path, and the number of earlier prompts.
fn serve(answer: impl Fn(&str, usize) -> Answer + Send + Sync + 'static) -> String {
    let prompts = AtomicUsize::new(0);
    let server = Fake::start(move |asked| {
        let is_prompt = asked.path.ends_with("/chat/completions");
        let before = prompts.fetch_add(usize::from(is_prompt), Ordering::SeqCst);
        answer(&asked.path, if is_prompt { before } else { 0 })
    });
    server.url()
}

fn answer_with(input_tokens: u64) -> Answer {
    let answer = json!({
        "model": "tiny",
        "choices": [{"finish_reason": "stop", "message": {"content": "Blue."}}],
        "usage": {"prompt_tokens": input_tokens, "completion_tokens": 1},
    });
    says(200, answer)
}

fn still_loading() -> Answer {
    let error = json!({"code": 503, "message": "Loading model", "type": "unavailable_error"});
    says(503, json!({"error": error}))
}

fn unknown() -> Answer {
    says(
        404,
        json!({"error": {"message": "File Not Found", "type": "not_found_error"}}),
    )
}

const NAMED: [&str; 4] = ["--provider", "local", "--model", "tiny"];

/// `run in.jsonl -o out.jsonl --json` against the server at `url`.
fn start(desk: &Desk, url: &str, words: &[&str]) -> Running {
    let run = format!("run in.jsonl -o out.jsonl --json --base-url {url}");
    Running::start(desk.command(run.split(' ')).args(words))
}

#[test]
fn a_server_that_only_its_address_names_is_asked_what_it_is() {
    // llama.cpp reports its slots, and gets as many calls at once, whether the model is named or not.
    let url = serve(|path, _| match path {
        "/v1/models" => says(
            200,
            json!({"data": [{"id": "tiny", "owned_by": "llamacpp"}]}),
        ),
        "/props" => says(200, json!({"total_slots": 3})),
        "/v1/chat/completions" => answer_with(9),
        _ => unknown(),
    });
    let desk = Desk::with(6);
    start(&desk, &url, &[])
        .wait()
        .ends(0, "provider local at ")
        .says("model tiny, 3 in flight\n");
    desk.prompts("in.jsonl", 9);
    start(&desk, &url, &["--model", "tiny"])
        .wait()
        .ends(0, "model tiny, 3 in flight\n");
    desk.prompts("in.jsonl", 12);
    start(&desk, &url, &["-j", "2"])
        .wait()
        .ends(0, "model tiny, 2 in flight");
    let mut command = desk.command(["providers"]);
    let table = command.env("LOCAL_LLM_BASE_URL", &url).ended();
    table.shows("serves tiny, 3 slots");
    // Any other server on this machine starts with one call.
    let sim = simulator(SimConfig::default().models(["tiny"]));
    desk.prompts("in.jsonl", 15);
    start(&desk, &sim.base_url(), &[])
        .wait()
        .ends(0, "model tiny, 1 in flight, up to 256 while that helps");
    // Elsewhere is another service, which must name its model or have only one.
    desk.prompts("in.jsonl", 18);
    start(
        &desk,
        "http://192.0.2.1:9/v1",
        &["--model", "m", "--dry-run"],
    )
    .wait()
    .ends(0, "taking an OpenAI-compatible server (custom)")
    .says("provider custom at http://192.0.2.1:9/v1, model m, 5 in flight");
}

#[test]
fn a_model_that_loads_during_the_run_is_waited_for_and_reported_once() {
    for progress in ["auto", "never"] {
        let url = serve(|path, number| match (path, number) {
            ("/v1/chat/completions", 2..=3) => still_loading(),
            ("/v1/chat/completions", _) => answer_with(9),
            _ => unknown(),
        });
        let desk = Desk::with(6);
        let words = [&NAMED[..], &["--max-retries", "0", "--progress", progress]].concat();
        let ended = start(&desk, &url, &words).wait().expect(0);
        assert_eq!(desk.ids("out.jsonl"), all_ids(6));
        let attempts = desk.results("out.jsonl");
        assert!(attempts.iter().all(|line| line["attempts"] == 1));
        let summary = ended.json();
        assert_eq!(summary["summary"]["calls"], 6);
        let waiting = "local: the server is still loading its model; waiting\n";
        assert_eq!(ended.stderr.matches(waiting).count(), 1, "{}", ended.stderr);
        let ready = "batchwright: the server is ready after ";
        assert_eq!(ended.stderr.matches(ready).count(), 1, "{}", ended.stderr);
    }
}

#[test]
fn texts_of_a_server_cannot_control_the_terminal() {
    let named = "\u{1b}]0;owned\u{7}\u{1b}[31mm";
    let url = serve(move |path, _| match path {
        "/v1/models" => says(200, json!({"data": [{"id": named}]})),
        "/v1/chat/completions" => says(400, json!({"error": {"message": named}})),
        _ => unknown(),
    });
    let desk = Desk::with(1);
    let words = "run in.jsonl -o out.jsonl --provider local --log-level info";
    let mut command = desk.command(words.split(' '));
    let ended = command.env("LOCAL_LLM_BASE_URL", url).ended();
    let ended = ended.ends(3, "local answered 400:  ]0;owned");
    assert!(!ended.stderr.contains(['\u{1b}', '\u{7}']));
    // Data are not changed.
    let error = &desk.results("out.jsonl")[0]["error"]["message"];
    assert!(error.as_str().unwrap().ends_with(named), "{error}");
}
