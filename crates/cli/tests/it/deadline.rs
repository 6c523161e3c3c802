//! `run --by` and `--within`: a deadline is met at the least cost, and nothing is charged twice.

use std::process::Command;
use std::time::Duration;

use batchwright_simulate::{BatchConfig, SimConfig, Simulator};
use serde_json::{Value, json};

use super::batch::command;
use super::batch_runs::{only_process, queue, stores};
use super::common::{
    Desk, Ended, Has, PATIENCE, RunToEnd, Running, all_ids, cases, eventually, simulator,
};

/// A provider whose batches take so long. They are validated for nearly all of this time, so that nothing is answered
/// before. A cancelled one ends after a tenth of it.
fn slow(duration: Duration) -> Simulator {
    let batches = BatchConfig::default().duration(duration);
    with(batches.validation(duration * 9 / 10))
}

fn with(batches: BatchConfig) -> Simulator {
    simulator(SimConfig::default().batches(batches))
}

/// A run of `in.jsonl`; cancellations are waited for so long.
fn run(desk: &Desk, sim: &Simulator, wait: &str, words: &str) -> Command {
    let words = format!("run in.jsonl -o out.jsonl --json -j 100 {words}");
    let mut command = command(desk, sim, &words);
    command.env("BATCHWRIGHT_BATCH_CANCEL_WAIT", wait);
    command
}

fn ran(desk: &Desk, sim: &Simulator, wait: &str, words: &str) -> Ended {
    run(desk, sim, wait, words).ended()
}

/// Every item has one answer, and was charged once.
fn bought_once(desk: &Desk, sim: &Simulator, items: usize) {
    assert_eq!(desk.ids("out.jsonl"), all_ids(items));
    let (calls, batches) = (sim.stats(), sim.batch_stats());
    assert_eq!((calls.paid_twice, batches.bought_twice), (0, 0));
    assert_eq!(calls.answered + batches.items_finished, items as u64);
}

#[test]
fn a_batch_that_ends_in_time_answers_all() {
    let desk = Desk::new();
    let sim = with(BatchConfig::default().duration(Duration::from_millis(400)));
    desk.prompts("in.jsonl", 5);
    let ended = ran(&desk, &sim, "1s", "--within 10m --strategy auto").expect(0);
    let summary = ended.json();
    summary.has(json!({"strategy": "auto", "/deadline/missed": false,
        "/deadline/given": "--within 10m"}));
    let changes = summary["deadline"]["changes"].as_array().unwrap();
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert_eq!(changes[0]["way"], "batch");
    let ended =
        ended.says("strategy batch: if the batches are late, there is still time for calls");
    ended.says("deadline   met:");
    assert_eq!(sim.stats().calls, 0);
    bought_once(&desk, &sim, 5);
}

#[test]
fn a_batch_that_would_be_late_is_withdrawn_and_calls_do_the_rest() {
    // It is answered evenly in 27 s.
    let sim = with(BatchConfig::default().duration(Duration::from_secs(30)));
    let desk = Desk::with(40);
    // Without a known rate, calls are taken to need 9 s, and a cancellation 4 s. Until then, there are 8 s to submit it.
    let ended = ran(&desk, &sim, "4s", "--within 21s").ends(0, "strategy sync: withdraws");
    let summary = ended.json();
    assert_eq!(summary["deadline"]["missed"], false);
    let changes = summary["deadline"]["changes"].as_array().unwrap();
    let ways: Vec<&Value> = changes.iter().map(|change| &change["way"]).collect();
    assert_eq!(ways, ["batch", "sync"]);
    assert!(
        changes[1]["withdrawn"].as_u64().unwrap() > 20,
        "{changes:?}"
    );
    let batches = sim.batch_stats();
    assert_eq!((batches.created, batches.cancelled), (1, 1));
    assert!(batches.items_finished > 0, "the finished part is collected");
    assert!(sim.stats().answered > 0);
    bought_once(&desk, &sim, 40);
    // No attempt was lost with the batch.
    for line in desk.results("out.jsonl") {
        assert_eq!(line["attempts"], 1, "{line}");
    }
}

/// The batch takes what the budget allows. It would be late, and calls cost twice as much, so they do not do all of it.
#[test]
fn calls_for_a_late_batch_stay_within_the_budget() {
    let (desk, sim) = (Desk::with(40), slow(Duration::from_secs(60)));
    // A call costs 0.00001 dollars, and can cost 0.00005.
    let model = "--model gpt-4o-mini --max-tokens 20 --within 21s";
    let ended = ran(&desk, &sim, "4s", &format!("{model} --budget 0.0002"))
        .ends(4, "strategy sync: withdraws");
    let ended = ended.says("the budget of $0.000200 is used up");
    let ended = ended
        .says("remaining items would cost about")
        .says(" --budget 0.01");
    let summary = ended.json();
    let changes = summary["deadline"]["changes"].as_array().unwrap();
    let ways: Vec<&Value> = changes.iter().map(|change| &change["way"]).collect();
    assert_eq!(ways[0], "batch");
    assert!(ways[1..].iter().all(|way| **way == "sync"), "{ways:?}");
    assert!(summary["budget"]["spent"].as_f64().unwrap() <= 0.0002);
    let (batches, answered) = (sim.batch_stats(), sim.stats().answered);
    assert_eq!((batches.cancelled, batches.items_finished), (1, 0));
    assert!(batches.items_accepted < 20 && (10..=20).contains(&answered));
    ran(&desk, &sim, "4s", &format!("{model} --budget 0.01")).expect(0);
    bought_once(&desk, &sim, 40);
}

#[test]
fn a_killed_run_keeps_its_deadline() {
    let sim = slow(Duration::from_secs(10));
    let desk = Desk::with(10);
    let running = Running::start(&mut run(&desk, &sim, "1s", "--within 2h"));
    assert!(eventually(|| sim.batch_stats().created == 1));
    let status = || {
        let mut status = command(&desk, &sim, "status --json");
        let all = status.ended().expect(0).json();
        all["processes"][0].clone()
    };
    assert!(eventually(
        || status()["batches"][0]["remote_id"].is_string()
    ));
    let before = status()["deadline"].clone();
    before.has(json!({"given": "--within 2h", "/changes/0/way": "batch"}));
    assert_eq!(status()["strategy"], "auto");
    running.signal("KILL");
    drop(running.wait());

    let mut shown = command(&desk, &sim, "status");
    let shown = shown.ended().expect(0);
    shown.shows("strategy batch: if the batches are late");
    let ended = ran(&desk, &sim, "1s", "--within 2h").ends(0, "of the run that this one continues");
    assert_eq!(ended.json()["deadline"]["by"], before["deadline"]);
    assert_eq!(sim.batch_stats().created, 1);
    bought_once(&desk, &sim, 10);
}

#[test]
fn items_whose_cancellation_is_not_confirmed_are_on_hold() {
    let sim = slow(Duration::from_secs(70));
    let desk = Desk::with(3);
    let ended = ran(&desk, &sim, "50ms", "--within 9s")
        .expect(4)
        .says("the provider has not confirmed the cancellation of batch");
    let ended = ended.says("its items are on hold and were not sent again");
    let ended = ended.says("is being cancelled at openai");
    let summary = ended.json();
    assert_eq!(summary["deadline"]["missed"], true);
    assert_eq!(sim.stats().calls, 0);
    assert_eq!(sim.batch_stats().cancels, 1);
    // The same command goes on as soon as it is confirmed, however late that is.
    let ended = ran(&desk, &sim, "60m", "--within 9s")
        .expect(5)
        .says("the deadline of the run that this one continues was missed");
    ended.says("deadline   missed:");
    assert_eq!(sim.stats().answered, 3);
    bought_once(&desk, &sim, 3);
}

#[test]
fn a_date_that_was_missed_can_be_resumed_and_a_new_one_is_refused() {
    let sim = slow(Duration::from_secs(10));
    let desk = Desk::with(3);
    let ended = ran(&desk, &sim, "1s", "--by 2020-01-01T06:00").expect(2);
    ended.tells("this time is over");
    assert_eq!(sim.batch_stats().creates + sim.stats().calls, 0);
    // Only the time that calls need is left, so they begin at once.
    let soon = std::time::SystemTime::now() + Duration::from_millis(1500);
    let words = format!("--by {}", humantime::format_rfc3339_millis(soon));
    ran(&desk, &sim, "1s", &words).expect(0);
    bought_once(&desk, &sim, 3);
    assert!(eventually(|| std::time::SystemTime::now() > soon));
    // Everything is answered.
    ran(&desk, &sim, "1s", &words).expect(0);
}

#[test]
fn flex_calls_are_made_if_batches_cannot_end_in_time() {
    let sim = slow(Duration::from_secs(10));
    let desk = Desk::with(3);
    let ended = ran(&desk, &sim, "60m", "--within 10m")
        .ends(0, "strategy flex: batches may not end in time");
    // No item was submitted in a batch.
    ended.says("batches    0 created\n");
    for line in desk.results("out.jsonl") {
        assert_eq!(line["service_tier"], "flex", "{line}");
    }
    assert_eq!(sim.batch_stats().created, 0);
    bought_once(&desk, &sim, 3);
}

#[test]
fn a_missed_deadline_does_not_end_the_run() {
    let sim = slow(Duration::from_secs(10));
    let desk = Desk::with(30);
    let ended = ran(&desk, &sim, "1s", "--within 1ms").ends(5, "the deadline was missed");
    assert_eq!(ended.json()["exit_code"], json!(5));
    assert_eq!(sim.batch_stats().created, 0);
    bought_once(&desk, &sim, 30);
}

#[test]
fn words_that_make_no_deadline_are_refused() {
    let sim = slow(Duration::from_secs(10));
    let desk = Desk::with(1);
    for (words, why) in cases(
        "
        --within 9000y => at most 366 days
        --within soon => write a time, for example
        --by 25:00 => write a time of day
        --by 06:00 --within 1h => cannot be used with
        --strategy auto => add --by TIME or --within TIME
        --strategy flex --within 1h => --within cannot be used with --strategy
        --no-wait --within 1h => --within cannot be used with --no-wait
    ",
    ) {
        let mut command = command(&desk, &sim, &format!("run in.jsonl -o out.jsonl {words}"));
        command.ended().ends(2, why);
    }
    assert_eq!(sim.stats().calls + sim.batch_stats().creates, 0);
    let mut help = command(&desk, &sim, "run --help");
    let help = help.ended().expect(0);
    help.shows("--within <TIME>");
}

#[test]
fn a_sample_of_a_run_with_a_deadline_is_sent_as_calls() {
    let sim = slow(Duration::from_secs(10));
    let desk = Desk::with(20);
    let words = "estimate in.jsonl -o out.jsonl --sample 3 --within 10m";
    let ended = command(&desk, &sim, words).ended();
    let ended = ended.ends(0, "sample: 3 of 3 answered");
    ended.says("in the cheapest way that meets the deadline");
    assert_eq!((sim.stats().answered, sim.batch_stats().creates), (3, 0));
}

#[test]
fn a_run_that_is_cancelled_during_a_trial_keeps_its_answers_and_can_be_continued() {
    for by_signal in [false, true] {
        let (desk, sim) = (Desk::with(60), simulator(SimConfig::default()));
        sim.hold();
        let words = "run in.jsonl -o out.jsonl --json -j 4 --within 20m";
        let running = Running::start(&mut command(&desk, &sim, words));
        // The trial has 8 items, and 4 of them are sent at a time. They are answered after the run was cancelled.
        assert!(sim.wait_until(|stats| stats.in_flight == 4, PATIENCE));
        let ended = if by_signal {
            running.signal("INT");
            running.hears("stopping: ");
            sim.release();
            running.wait().expect(130)
        } else {
            queue(&desk).cancel(only_process(&desk)).unwrap();
            sim.release();
            running.wait().expect(4)
        };
        let ended = ended.says("interrupted; what finished is saved");
        assert_eq!(ended.json()["deadline"]["missed"], false);
        let kept = desk.results("out.jsonl").len();
        assert!((4..=8).contains(&kept), "{kept}");
        assert_eq!(
            (sim.stats().answered, sim.batch_stats().creates),
            (kept as u64, 0)
        );
        ran(&desk, &sim, "1s", "--within 20m").expect(0);
        bought_once(&desk, &sim, 60);
        assert!(stores(&desk).is_empty());
    }
}

#[test]
fn an_estimate_tells_whether_the_deadline_can_be_met() {
    let sim = slow(Duration::from_secs(10));
    let desk = Desk::with(600);
    let estimate = |words: &str| {
        let words =
            format!("estimate in.jsonl -o out.jsonl --json --max-tokens 9 --rpm 60 {words}");
        let ended = command(&desk, &sim, &words).ended();
        ended.expect(0).json()["estimate"]["deadline"].clone()
    };
    let early = estimate("--within 5m");
    early.has(json!({"way": "sync", "met": false}));
    let late = estimate("--within 8h");
    late.has(json!({"way": "batch", "met": null}));
    let reason = late["reason"].as_str().unwrap();
    assert!(reason.contains("need an unknown time"), "{reason}");
    assert_eq!(estimate(""), Value::Null);
    assert_eq!(sim.stats().calls + sim.batch_stats().creates, 0);
}
