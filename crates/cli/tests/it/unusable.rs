//! Billed but unusable replies: requested once, stored, and requested again only on demand.

use std::sync::{Arc, Mutex};

use batchwright_simulate::{BatchConfig, SimConfig, Trouble};
use serde_json::{Value, json};

use super::batch_runs;
use super::common::{Desk, Has, RunToEnd, all_ids, simulator};
use super::fake::{Fake, reply};

/// A billed reply without a usable answer.
fn picture() -> Value {
    let image =
        json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0="}});
    reply(json!({"role": "assistant", "content": null, "images": [image]}))
}

#[test]
fn a_batch_with_empty_answers_is_not_submitted_again() {
    let batches = BatchConfig::default().duration(batch_runs::SHORT);
    let settings = SimConfig::default().trouble(Trouble::Empty, 1.0);
    let (desk, sim) = (Desk::with(4), simulator(settings.batches(batches)));
    let run = |words: &str| batch_runs::run(&desk, &sim, &format!("in.jsonl -o out.jsonl {words}"));
    for (words, code, accepted) in [("", 3, 4), ("", 3, 4), ("--resend all", 0, 8)] {
        run(words).expect(code);
        assert_eq!(sim.batch_stats().items_accepted, accepted);
    }
    assert_eq!(desk.ids("out.jsonl"), all_ids(4));
}

#[test]
fn unusable_images_are_requested_once_and_again_only_on_demand() {
    let desk = Desk::with(4);
    let answer = Arc::new(Mutex::new(picture()));
    let told = answer.clone();
    let first = Fake::answering(move |_| told.lock().unwrap().clone());
    let fallback = Fake::answering(|_| json!({}));
    let run = |words: &str| {
        let mut command = first.run(&desk, &format!("-j 2 --fallback local:small {words}"));
        command.env("LOCAL_LLM_BASE_URL", fallback.url()).ended()
    };
    run("").ends(3, "4 replies were paid for and cannot be read");
    for line in desk.results("out.jsonl") {
        let why = "not a usable reply: the reply holds an image and no text";
        line["error"].has(
            json!({"kind": "malformed", "message": why, "unusable_reply": true,
            "raw": picture().to_string()}),
        );
        line.has(json!({"attempts": 1, "/usage/output_tokens": 5}));
    }
    // Neither the next run nor a changed server requests them again automatically.
    *answer.lock().unwrap() = reply(json!({"content": "Oslo"}));
    let plan =
        "4 items have replies that were paid for and cannot be read; --resend all sends them again";
    run("").ends(3, plan).hides("to try the failed ones again");
    run("--resend all --dry-run").ends(0, "would send 4 items");
    assert_eq!(first.calls().len(), 4);
    run("--resend all --max-items 1").expect(0);
    assert_eq!(first.calls().len(), 5);
    run("--resend all").expect(0);
    assert_eq!((first.calls().len(), fallback.calls().len()), (8, 0));
    assert_eq!(desk.ids("out.jsonl"), all_ids(4));
}
