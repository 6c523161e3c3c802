//! `run --strategy batch` with batches that were not submitted, or are being cancelled: its messages are correct.

use batchwright_simulate::Simulator;

use super::batch_runs::{SHORT, WORDS, batch, run, taking, whole};
use super::common::{Desk, Ended, NOBODY, RunToEnd};
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
