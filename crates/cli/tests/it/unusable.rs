//! Billed but unusable replies: requested once, stored, and requested again only on demand.

use std::sync::{Arc, Mutex};

use batchwright::queue::{WorkerScale, WorkerSettings};
use batchwright::{LlmConfig, Route, Worker};
use batchwright_simulate::{BatchConfig, SimConfig, Trouble};
use serde_json::{Value, json};

use super::common::{Desk, Ended, Has, RunToEnd, all_ids, simulator};
use super::fake::{Fake, says};
use super::{batch_runs, queue};

/// A server that answers each call with the given reply, and counts the calls.
struct Server {
    url: String,
    server: Fake,
    reply: Arc<Mutex<String>>,
}

impl Server {
    fn new(reply: impl Into<String>) -> Self {
        let reply = Arc::new(Mutex::new(reply.into()));
        let told = reply.clone();
        let server = Fake::start(move |asked| {
            if asked.body.is_empty() {
                says(404, "{}")
            } else {
                says(200, told.lock().unwrap())
            }
        });
        Self {
            url: server.url(),
            server,
            reply,
        }
    }

    fn answers(&self, reply: impl Into<String>) {
        *self.reply.lock().unwrap() = reply.into();
    }

    fn calls(&self) -> usize {
        let asked = self.server.asked();
        asked.iter().filter(|asked| !asked.body.is_empty()).count()
    }

    fn command(&self, desk: &Desk, words: &str) -> std::process::Command {
        let words = format!("run --provider custom --model m {words}");
        let mut command = desk.command(words.split_whitespace());
        command.env("CUSTOM_LLM_BASE_URL", &self.url);
        command
    }

    fn run(&self, desk: &Desk, words: &str) -> Ended {
        self.command(desk, words).ended()
    }
}

fn reply(message: Value) -> String {
    json!({
        "model": "m-1",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5},
    })
    .to_string()
}

/// A billed reply without a usable answer.
fn picture() -> String {
    let image =
        json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0="}});
    reply(json!({"role": "assistant", "content": null, "images": [image]}))
}

fn tool_call() -> String {
    let call = json!({"id": "c", "type": "function",
        "function": {"name": "get_weather", "arguments": "{\"city\":\"Oslo\"}"}});
    reply(json!({"role": "assistant", "content": null, "tool_calls": [call]}))
}

const WORDS: &str = "in.jsonl -o out.jsonl -j 2";
const PLAN: &str =
    "4 items have replies that were paid for and cannot be read; --resend all sends them again";

#[test]
fn unassignable_embeddings_are_requested_in_parts_and_never_again() {
    let (desk, server) = (Desk::new(), Server::new(r#"{"data":[]}"#));
    desk.prompts("in.jsonl", 4);
    let words = format!("{WORDS} --task embed");
    server.run(&desk, &words).expect(3);
    // All four in one call, two and two, and each alone.
    assert_eq!(server.calls(), 7);
    let ended = server.run(&desk, &words).expect(3);
    ended.tells(PLAN);
    assert_eq!(server.calls(), 7);
    server.answers(r#"{"data":[{"embedding":[1.0]}]}"#);
    server
        .run(&desk, &format!("{words} --resend all"))
        .expect(0);
}

#[test]
fn a_broken_embedding_fails_only_its_text_in_one_call_under_each_strategy() {
    let entry = |vector: &str| format!(r#"{{"embedding":{vector}}}"#);
    let vectors = ["[1,2]", "null", "[3,4]", "[5,6]"].map(entry);
    let server = Server::new(format!(r#"{{"data":[{}]}}"#, vectors.join(",")));
    let check = |lines: Vec<Value>| {
        assert_eq!(lines.len(), 4);
        for line in lines {
            let error = &line["error"];
            assert_eq!(line["success"] == true, error.is_null());
            assert_eq!(line["embedding"].is_null(), !error.is_null());
            if !error.is_null() {
                error.has(json!({"raw": "null", "unusable_reply": true}));
            }
        }
    };
    let desk = Desk::with(4);
    server
        .run(&desk, &format!("{WORDS} --task embed"))
        .ends(3, "3 completed, 1 failed");
    assert_eq!(server.calls(), 1);
    check(desk.results("out.jsonl"));

    let id = queue::submit(&desk, "in.jsonl --task embed --model m");
    let config = LlmConfig::new("custom").base_url(&server.url).model("m");
    let worker = Worker::new(&queue::queue(&desk))
        .settings(WorkerSettings::default().scale(WorkerScale::fixed(1)))
        .until_empty(true)
        .embeddings(Route::new(config.client().unwrap()));
    worker.run().unwrap();
    assert_eq!(server.calls(), 2);
    let ended = queue::plain(&desk, &format!("results {id} --keep")).expect(3);
    check(super::common::results(&ended.stdout));
}

#[test]
fn unusable_images_are_requested_once_and_again_only_on_demand() {
    let (desk, first, fallback) = (Desk::new(), Server::new(picture()), Server::new("{}"));
    desk.prompts("in.jsonl", 4);
    let words = format!("{WORDS} --fallback local:small");
    let run = |words: &str| {
        let mut command = first.command(&desk, words);
        command.env("LOCAL_LLM_BASE_URL", &fallback.url);
        command.ended()
    };
    run(&words).ends(3, "4 replies were paid for and cannot be read");
    assert_eq!((first.calls(), fallback.calls()), (4, 0));
    for line in desk.results("out.jsonl") {
        let error = &line["error"];
        let why = "not a usable reply: the reply holds an image and no text";
        error.has(json!({"kind": "malformed", "message": why}));
        assert_eq!(error["unusable_reply"], true);
        assert_eq!(error["raw"], picture());
        line.has(json!({"attempts": 1, "/usage/output_tokens": 5}));
    }
    // Neither the next run nor a changed server requests them again automatically.
    first.answers(reply(json!({"content": "Oslo"})));
    let again = run(&words).ends(3, PLAN);
    again.hides("to try the failed ones again");
    assert_eq!((first.calls(), fallback.calls()), (4, 0));
    run(&format!("{words} --resend all --dry-run")).ends(0, "would send 4 items");
    run(&format!("{words} --resend all --max-items 1")).expect(0);
    assert_eq!(first.calls(), 5);
    run(&format!("{words} --resend all")).expect(0);
    assert_eq!((first.calls(), fallback.calls()), (8, 0));
    assert_eq!(desk.ids("out.jsonl"), all_ids(4));
}

#[test]
fn tool_calls_are_answers_and_requested_once() {
    let (desk, first, fallback) = (Desk::new(), Server::new(tool_call()), Server::new("{}"));
    desk.prompts("in.jsonl", 4);
    let words = format!("{WORDS} --fallback local:small --json-schema schema.json");
    std::fs::write(
        desk.path("schema.json"),
        r#"{"type": "object", "required": ["city"]}"#,
    )
    .unwrap();
    for _ in 0..2 {
        let mut command = first.command(&desk, &words);
        command.env("LOCAL_LLM_BASE_URL", &fallback.url);
        command.ended().expect(0);
        assert_eq!((first.calls(), fallback.calls()), (4, 0));
    }
    for line in desk.results("out.jsonl") {
        let call = json!({"id": "c", "name": "get_weather", "arguments": {"city": "Oslo"}});
        line.has(json!({"text": null, "tool_calls": [call]}));
        line.has(json!({"finish_reason": "tool_calls", "error": null}));
    }
}

#[test]
fn items_that_failed_for_other_reasons_run_again() {
    let (desk, server) = (Desk::new(), Server::new(picture()));
    desk.prompts("in.jsonl", 1);
    server.run(&desk, WORDS).expect(3);
    desk.prompts("in.jsonl", 2);
    server.answers(r#"{"error":{"code":400,"message":"no"}}"#);
    server
        .run(&desk, &format!("{WORDS} --max-retries 0"))
        .expect(3);
    server.answers(reply(json!({"content": "Oslo"})));
    let calls = server.calls();
    server
        .run(&desk, &format!("{WORDS} --resend none"))
        .expect(3);
    assert_eq!(server.calls(), calls);
    server.run(&desk, WORDS).expect(3);
    assert_eq!(server.calls(), calls + 1);
    server
        .run(&desk, &format!("{WORDS} --resend all"))
        .expect(0);
    assert_eq!(server.calls(), calls + 2);
}

#[test]
fn a_large_reply_is_kept_completely_in_a_file_or_on_standard_output_in_its_line() {
    let page = format!("<!doctype html><p>{}</p>", "ä".repeat(40_000));
    let (desk, server) = (Desk::new(), Server::new(page.as_str()));
    desk.prompts("in.jsonl", 2);
    server.run(&desk, WORDS).expect(3);
    for line in desk.results("out.jsonl") {
        let file = line["error"]["reply_file"].as_str().unwrap();
        assert!(file.starts_with("out.jsonl.replies/"), "{file}");
        assert_eq!(desk.read(file), page);
        let head = line["error"]["raw"].as_str().unwrap();
        assert!(head.len() <= 1024 && page.starts_with(head));
    }
    server.run(&desk, WORDS).expect(3);
    let shown = server.run(&desk, "in.jsonl -j 2").expect(3).stdout;
    for line in super::common::results(&shown) {
        line.has(json!({"/error/raw": page, "/error/reply_file": null}));
    }
    assert_eq!(server.calls(), 4);
}

#[test]
fn the_queue_keeps_unusable_replies_and_retries_only_on_demand() {
    let page = format!("<!doctype html><p>{}</p>", "ä".repeat(40_000));
    let server = Server::new(page.as_str());
    let (desk, id) = queue::submitted(2);
    let work = || {
        let config = LlmConfig::new("custom").base_url(&server.url).model("m");
        let worker = Worker::new(&queue::queue(&desk))
            .settings(WorkerSettings::default().scale(WorkerScale::fixed(2)))
            .until_empty(true)
            .completions(Route::new(config.client().unwrap()));
        worker.run().unwrap();
        server.calls()
    };
    assert_eq!((work(), work()), (2, 2));
    queue::plain(&desk, &format!("retry {id}")).expect(0);
    assert_eq!(work(), 4);
    let shown = queue::plain(&desk, &format!("results {id} --keep"))
        .expect(3)
        .stdout;
    for line in super::common::results(&shown) {
        assert_eq!(line["error"]["raw"], page);
    }
    queue::plain(&desk, &format!("results {id} -o out.jsonl")).expect(3);
    let lines = desk.results("out.jsonl");
    assert_eq!(lines.len(), 2);
    for line in lines {
        assert_eq!(line["error"]["unusable_reply"], true);
        assert_eq!(
            desk.read(line["error"]["reply_file"].as_str().unwrap()),
            page
        );
    }
}

#[test]
fn a_batch_with_empty_answers_is_not_submitted_again() {
    let batches = BatchConfig::default().duration(batch_runs::SHORT);
    let settings = SimConfig::default().trouble(Trouble::Empty, 0.3);
    let (desk, sim) = (Desk::with(20), simulator(settings.batches(batches)));
    let run = |words: &str| batch_runs::run(&desk, &sim, &format!("in.jsonl -o out.jsonl {words}"));
    run("").expect(3);
    let failed = desk.results("out.jsonl");
    let failed = failed
        .iter()
        .filter(|line| line["error"]["unusable_reply"] == true)
        .count();
    assert!((1..20).contains(&failed), "{failed}");
    let accepted = || sim.batch_stats().items_accepted;
    assert_eq!(accepted(), 20);
    run("").ends(3, "--resend all sends them again");
    assert_eq!(accepted(), 20);
    run("--resend all").expect(0);
    assert_eq!(accepted(), 20 + failed as u64);
    assert_eq!(desk.ids("out.jsonl"), all_ids(20));
}

#[test]
fn result_lines_and_summary_hold_what_filtered_refused_and_empty_replies_used() {
    let kinds = [Trouble::ContentFilter, Trouble::Refusal, Trouble::Empty];
    let settings = kinds
        .into_iter()
        .fold(SimConfig::default(), |s, kind| s.trouble(kind, 0.25));
    let (desk, sim) = (Desk::with(10), simulator(settings));
    let ended = desk
        .run(&sim, "in.jsonl -o out.jsonl -j 4 --json")
        .expect(3);
    let (stats, lines) = (sim.stats(), desk.results("out.jsonl"));
    for kind in kinds {
        assert!(stats.by_trouble.contains_key(&kind.to_string()), "{kind}");
    }
    let input = |line: &Value| line["usage"]["input_tokens"].as_u64().unwrap();
    let plain = lines.iter().find(|line| line["attempts"] == 1).unwrap();
    for line in &lines {
        let calls = line["attempts"].as_u64().unwrap();
        assert_eq!(input(line), calls * input(plain), "{line}");
    }
    assert!(lines.iter().any(|line| line["success"] == false));
    let summary = ended.json();
    let sum: u64 = lines.iter().map(input).sum();
    assert_eq!(summary["summary"]["usage"]["input_tokens"], sum);
    assert_eq!(sum, stats.paid * input(plain));
}
