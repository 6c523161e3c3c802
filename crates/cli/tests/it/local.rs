//! The program against local servers: what they report, models that load, truncated prompts.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use batchwright_simulate::SimConfig;
use serde_json::{Value, json};

use super::common::{Desk, Has, RunToEnd, Running, all_ids, simulator};
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
fn a_server_gets_as_many_concurrent_calls_as_it_has_slots() {
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
    start(&desk, &url, &["--provider", "local"])
        .wait()
        .ends(0, "model tiny, 3 in flight");
    desk.prompts("in.jsonl", 12);
    start(&desk, &url, &NAMED)
        .wait()
        .ends(0, "model tiny, 3 in flight");
    desk.prompts("in.jsonl", 18);
    start(&desk, &url, &["-j", "2"])
        .wait()
        .ends(0, "model tiny, 2 in flight");
    let mut command = desk.command(["providers", "--json"]);
    let command = command.env("LOCAL_LLM_BASE_URL", &url);
    let list = command.ended().json();
    let mut list = list["providers"].as_array().unwrap().iter();
    let local = list.find(|p| p["provider"] == "local").unwrap();
    let server = json!({
        "base_url": url, "server": "llama.cpp", "models": ["tiny"], "slots": 3, "state": "ready",
    });
    local.has(json!({"servers": [server], "default_concurrency": 3}));
    let mut command = desk.command(["providers"]);
    let table = command.env("LOCAL_LLM_BASE_URL", &url).ended();
    let words = "llama.cpp serves tiny, 3 slots";
    table.shows(words);
}

#[test]
fn a_server_that_reports_no_properties_is_still_used() {
    let url = serve(|path, _| match path {
        "/v1/chat/completions" => answer_with(9),
        // Not even a rejection.
        _ => None,
    });
    let desk = Desk::with(3);
    start(&desk, &url, &NAMED)
        .wait()
        .ends(0, "model tiny, 1 in flight");
    assert_eq!(desk.ids("out.jsonl"), all_ids(3));
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
fn a_server_that_loads_at_the_start_is_waited_for_and_retried() {
    let loading = Duration::from_millis(700);
    let sim = simulator(SimConfig::default().loading(loading).models(["tiny"]));
    let desk = Desk::with(3);
    start(&desk, &sim.base_url(), &["--provider", "local"])
        .wait()
        .ends(0, "local: the server is still loading its model; waiting")
        .says("local: the server is ready after")
        .says("model tiny, 1 in flight");
    assert_eq!(desk.ids("out.jsonl"), all_ids(3));
}

#[test]
fn a_server_that_replies_late_is_waited_for_although_there_is_a_fallback() {
    let (go, may_reply) = std::sync::mpsc::channel::<()>();
    let may_reply = std::sync::Mutex::new(may_reply);
    let url = serve(move |path, _| match path {
        "/v1/models" => {
            // It replies as soon as the test drops the other end.
            let _ = may_reply.lock().unwrap().recv();
            says(200, json!({"data": [{"id": "tiny"}]}))
        }
        "/v1/chat/completions" => answer_with(9),
        _ => unknown(),
    });
    let desk = Desk::with(2);
    let words = ["--provider", "local", "--fallback", "extract"];
    let running = start(&desk, &url, &words);
    running.hears("the local server does not reply yet; waiting up to 5 s");
    drop(go);
    running.wait().ends(0, "model tiny").hides("skipping");
    for line in desk.results("out.jsonl") {
        assert_eq!(line["provider"], "local");
    }
}

#[test]
fn a_fallback_that_loads_gets_its_own_model_and_no_more_calls_than_slots() {
    let broken = serve(|_, _| says(400, json!({"error": {"message": "no"}})));
    let sim = simulator(
        SimConfig::default()
            .loading(Duration::from_millis(500))
            .models(["tiny"]),
    );
    let desk = Desk::with(12);
    let words = "run in.jsonl -o out.jsonl -j 6 --provider custom --model big --fallback local";
    let mut command = desk.command(words.split(' '));
    command
        .env("CUSTOM_LLM_BASE_URL", broken)
        .env("LOCAL_LLM_BASE_URL", sim.base_url());
    command.ended().ends(0, "local: the server is ready after");
    let results = desk.results("out.jsonl");
    assert_eq!(results.len(), 12);
    for line in results {
        line.has(json!({"provider": "local", "model": "tiny"}));
        assert_eq!(line["earlier"][0]["model"], "big");
    }
    assert_eq!(sim.stats().max_in_flight, 1);
}

#[test]
fn a_fallback_that_lists_no_model_is_refused() {
    let url = serve(|path, _| match path {
        "/v1/models" => says(200, json!({"data": []})),
        _ => unknown(),
    });
    let desk = Desk::with(1);
    let words = "run in.jsonl -o out.jsonl --provider extract --fallback local";
    let mut command = desk.command(words.split(' '));
    let ended = command.env("LOCAL_LLM_BASE_URL", url).ended();
    ended.ends(2, "--fallback local: name its model: local:MODEL");
    assert!(!desk.exists("out.jsonl"));
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
    let words = "run in.jsonl -o out.jsonl --provider local -v";
    let mut command = desk.command(words.split(' '));
    let ended = command.env("LOCAL_LLM_BASE_URL", url).ended();
    let ended = ended.ends(3, "local answered 400:  ]0;owned");
    assert!(!ended.stderr.contains(['\u{1b}', '\u{7}']));
    // Data are not changed.
    let error = &desk.results("out.jsonl")[0]["error"]["message"];
    assert!(error.as_str().unwrap().ends_with(named), "{error}");
}

#[test]
fn the_name_of_a_model_stays_in_its_row_of_the_table() {
    let named = "m\u{1b}[2J\nextract    yes\u{9b}31m\u{202e}z";
    let url = serve(move |path, _| match path {
        "/v1/models" => says(200, json!({"data": [{"id": named}]})),
        _ => unknown(),
    });
    let desk = Desk::new();
    let providers = |words: &str| {
        let mut command = desk.command(words.split(' '));
        let ended = command.env("LOCAL_LLM_BASE_URL", &url).ended();
        ended.expect(0).stdout
    };
    let table = providers("providers");
    assert!(
        table.contains("m [2J extract    yes 31m\u{fffd}z"),
        "{table}"
    );
    let evil = ['\u{1b}', '\u{9b}', '\u{202e}'];
    assert!(!table.contains(evil), "{table}");
    let json = providers("providers --json");
    assert!(!json.contains(evil), "{json}");
    let list: Value = serde_json::from_str(&json).unwrap();
    let list = list["providers"].as_array().unwrap();
    let local = list.iter().find(|one| one["provider"] == "local");
    assert_eq!(local.unwrap()["model"], named);
}

#[test]
fn a_loading_server_is_not_waited_for_without_items_to_send() {
    let desk = Desk::with(3);
    let ready = simulator(SimConfig::default());
    let words =
        |url: &str, more: &'static [&'static str]| start(&desk, url, &[&NAMED[..], more].concat());
    let url = serve(|_, _| still_loading());
    let dry = words(&url, &["--dry-run"])
        .wait()
        .ends(0, "the server is still loading its model");
    words(&ready.base_url(), &[]).wait().expect(0);
    let done = words(&url, &[]).wait().expect(0);
    let all = [dry.stderr, done.stderr].concat();
    assert!(!all.contains("waiting"), "{all}");
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_both_waits_at_once() {
    let always = serve(|_, _| still_loading());
    let later = serve(|path, _| match path {
        "/v1/chat/completions" => still_loading(),
        _ => unknown(),
    });
    for url in [always, later] {
        let desk = Desk::with(3);
        let running = start(&desk, &url, &NAMED);
        running.hears("still loading its model; waiting");
        running.signal("INT");
        let ended = running.wait().expect(130);
        ended.hides("is ready");
        assert!(!desk.exists("out.jsonl") || desk.results("out.jsonl").is_empty());
    }
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_the_wait_of_a_worker_as_it_ends_a_run() {
    let url = serve(|_, _| still_loading());
    for command in ["work", "serve --port 0"] {
        let desk = Desk::new();
        let words = format!("{command} --provider local");
        let mut command = desk.command(words.split(' '));
        let running = Running::start(command.env("LOCAL_LLM_BASE_URL", &url));
        running.hears("still loading its model; waiting");
        running.signal("INT");
        running.wait().expect(130);
    }
}

#[test]
fn a_prompt_truncated_by_a_local_server_is_reported() {
    let url = serve(|path, _| match path {
        "/v1/chat/completions" => answer_with(2048),
        _ => unknown(),
    });
    let desk = Desk::new();
    let long = json!({"id": "long", "prompt": "word ".repeat(8000)});
    let short = json!({"id": "short", "prompt": "word ".repeat(1600)});
    desk.write("in.jsonl", format!("{long}\n{short}\n"));
    let ended = start(&desk, &url, &NAMED).wait().expect(0);
    let summary = ended.json();
    assert_eq!(summary["summary"]["warnings"], 1);
    ended.says("warnings   1 answers have a warning: the server has probably cut the prompt");
    let results = desk.results("out.jsonl");
    let of = |id: &str| results.iter().find(|line| line["id"] == id).unwrap();
    assert!(
        of("long")["warning"]
            .as_str()
            .unwrap()
            .contains("2048 tokens")
    );
    assert!(of("short").get("warning").is_none());
    let text = desk.read("out.jsonl");
    assert!(text.contains(r#""cost_usd":null,"warning":"#), "{text}");
}
