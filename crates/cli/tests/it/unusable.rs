//! Billed but unusable replies: requested once, stored, and requested again only on demand.

use std::sync::{Arc, Mutex};

use batchwright_simulate::{BatchConfig, SimConfig, Trouble};
use serde_json::{Value, json};

use super::batch_runs;
use super::common::{Desk, Has, RunToEnd, all_ids, simulator};
use super::fake::{Fake, says};

/// A server that answers each call with the given reply, and counts the calls.
struct Server {
    server: Fake,
    reply: Arc<Mutex<String>>,
}

impl Server {
    fn new(reply: impl Into<String>) -> Self {
        let reply = Arc::new(Mutex::new(reply.into()));
        let told = reply.clone();
        let server = Fake::start(move |asked| match &*asked.body {
            [] => says(404, "{}"),
            _ => says(200, told.lock().unwrap()),
        });
        Self { server, reply }
    }

    fn answers(&self, reply: impl Into<String>) {
        *self.reply.lock().unwrap() = reply.into();
    }

    fn calls(&self) -> usize {
        self.server.calls().len()
    }

    fn command(&self, desk: &Desk, words: &str) -> std::process::Command {
        let words = format!("run --provider custom --model m {words}");
        let mut command = desk.command(words.split_whitespace());
        command.env("CUSTOM_LLM_BASE_URL", self.server.url());
        command
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

const WORDS: &str = "in.jsonl -o out.jsonl -j 2";
const PLAN: &str =
    "4 items have replies that were paid for and cannot be read; --resend all sends them again";

#[test]
fn unusable_images_are_requested_once_and_again_only_on_demand() {
    let (desk, first, fallback) = (Desk::new(), Server::new(picture()), Server::new("{}"));
    desk.prompts("in.jsonl", 4);
    let words = format!("{WORDS} --fallback local:small");
    let run = |words: &str| {
        let mut command = first.command(&desk, words);
        command.env("LOCAL_LLM_BASE_URL", fallback.server.url());
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
