//! `run --strategy batch` with batches that were not submitted, or are being cancelled: its messages are correct.

use std::time::Duration;

use batchwright_simulate::{BatchConfig, SimConfig, Simulator};
use serde_json::json;

use super::batch_runs::{
    SHORT, STORE, WORDS, batch, bought, clean, left_alone, queue, run, taking, whole, with_provider,
};
use super::common::{Desk, Ended, Has, NOBODY, RunToEnd, Running, eventually, simulator};
use super::fake::{Fake, says};

/// A run of three prompts against an address without a server.
#[track_caller]
fn at_nobody(desk: &Desk, sim: &Simulator, words: &str) {
    let mut command = batch(desk, sim, words);
    let ended = command.env("OPENAI_BASE_URL", NOBODY).ended();
    let ended = ended
        .expect(4)
        .says("the provider cannot be reached: cannot reach http://127.0.0.1:9/v1/files")
        .says("no server has been reached there")
        .says(" at openai: not handed over, 3 requests");
    says_nothing_of(&ended, &["goes on at", "items submitted", "are in a batch"]);
}

#[track_caller]
fn says_nothing_of(ended: &Ended, words: &[&str]) {
    for words in words {
        ended.hides(words);
    }
}

#[test]
fn an_address_without_a_server_ends_the_run_and_the_same_command_resumes() {
    let (desk, sim) = (Desk::with(3), taking(SHORT));
    at_nobody(&desk, &sim, &format!("{WORDS} --no-wait"));
    let ended = run(&desk, &sim, WORDS)
        .expect(0)
        .says(" at openai: not handed over, 3 requests");
    says_nothing_of(&ended, &["another key", "are in a batch", "cancel"]);
    whole(&desk, &sim, "out.jsonl", 3);
}

#[test]
fn unsubmitted_items_that_were_removed_are_not_sent() {
    let (desk, sim) = (Desk::with(3), taking(SHORT));
    at_nobody(&desk, &sim, &format!("{WORDS} --template A:{{{{prompt}}}}"));
    let words = format!("{WORDS} --template B:{{{{prompt}}}}");
    let plan = run(&desk, &sim, &format!("{words} --dry-run --json")).expect(0);
    assert_eq!(plan.json()["under_way_superseded"], 0);
    let ended = run(&desk, &sim, &words).expect(0);
    says_nothing_of(&ended, &["will be paid for", "are in a batch"]);
    assert_eq!(desk.results("out.jsonl").len(), 3);
    bought(&sim, 3);
    clean(&desk);
}

#[test]
fn a_run_resumes_with_the_right_key_after_a_wrong_one() {
    let batches = BatchConfig::default().duration(SHORT);
    let sim = simulator(SimConfig::default().api_key("k").batches(batches));
    let desk = Desk::with(3);
    for words in ["", "--no-wait"] {
        let mut wrong = batch(&desk, &sim, &format!("{WORDS} {words}"));
        let ended = wrong.env("OPENAI_API_KEY", "wrong").ended();
        let ended = ended.ends(4, ": not handed over, 3 requests");
        says_nothing_of(&ended, &["adopt-batches"]);
    }
    let ended = run(&desk, &sim, WORDS).expect(0);
    says_nothing_of(&ended, &["another key", "are in a batch", "cancel"]);
    whole(&desk, &sim, "out.jsonl", 3);
}

#[test]
fn prompts_that_no_provider_accepted_were_not_submitted() {
    let refuses = Fake::start(|_| says(413, "{}"));
    let (desk, sim) = (Desk::with(3), taking(SHORT));
    let mut command = batch(&desk, &sim, WORDS);
    command.env("OPENAI_BASE_URL", refuses.url());
    let ended = command
        .ended()
        .ends(3, "0 created, 3 items put on the queue");
    says_nothing_of(&ended, &["items submitted"]);
}

/// As a login or a wrong address answers.
#[test]
fn a_web_page_instead_of_the_batch_api_ends_the_run() {
    let pages = Fake::start(|_| says(200, "<html>Log in</html>"));
    let (desk, sim) = (Desk::with(3), taking(SHORT));
    let mut command = batch(&desk, &sim, WORDS);
    command.env("OPENAI_BASE_URL", pages.url());
    command
        .ended()
        .ends(4, "it is a web page, not JSON; is the base URL right?")
        .says(": not handed over, 3 requests");
    run(&desk, &sim, WORDS).expect(0);
    whole(&desk, &sim, "out.jsonl", 3);
}

#[test]
fn a_dry_run_without_a_key_names_the_strategy() {
    let (desk, sim) = (Desk::with(3), taking(SHORT));
    let mut command = batch(&desk, &sim, &format!("{WORDS} --dry-run --json"));
    let ended = command.env_remove("OPENAI_API_KEY").ended();
    let told = ended.expect(0).json();
    told.has(json!({"strategy": "batch", "fallback_reason": null}));
}

#[test]
fn a_batch_that_is_being_cancelled_is_reported() {
    let (desk, sim) = (Desk::with(3), taking(Duration::from_secs(600)));
    run(&desk, &sim, &format!("{WORDS} --no-wait")).expect(0);
    let cancel = desk.command(["cancel", "--queue", STORE]);
    let cancel = Running::start(&mut with_provider(cancel, &sim));
    let asked = eventually(|| queue(&desk).batches(None).unwrap()[0].cancel_asked);
    assert!(asked, "it said: {}", cancel.said());
    // Otherwise it waits for the end. A shell lets programs in the background ignore SIGINT.
    cancel.signal("TERM");
    cancel.wait();
    let ended = run(&desk, &sim, &format!("{WORDS} --no-wait"))
        .ends(0, ": being cancelled, ")
        .says(
            "was cancelled: what its batches have not answered is sent again once they have ended",
        );
    says_nothing_of(&ended, &["goes on at"]);
}

#[test]
fn a_batch_that_continues_is_reported() {
    let (desk, sim) = left_alone(2);
    run(&desk, &sim, WORDS).ends(0, " at openai: submitted, 2 requests");
}
