//! `run --strategy batch`: the lines of `sync`, at any interruption each item bought once.

use std::collections::HashMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use batchwright::files::QueueRun;
use batchwright::{JobQueue, ProcessId};
use batchwright_simulate::{BatchConfig, BatchStats, SimConfig, Simulator, Trouble};
use serde_json::{Value, json};

use super::common::{
    Desk, Ended, HOME, PATIENCE, Running, all_ids, eventually, ids_in_order, prompt_line,
    prompt_lines, simulator,
};

pub fn taking(duration: Duration) -> Simulator {
    with(BatchConfig::default().duration(duration))
}

pub fn with(batches: BatchConfig) -> Simulator {
    simulator(SimConfig::default().batches(batches))
}

pub const SHORT: Duration = Duration::from_millis(100);
/// Long enough to be found under way.
pub const LONG: Duration = Duration::from_secs(3);

/// `run` with these words against a provider that has a Batch API, or another one.
pub fn command(desk: &Desk, sim: &Simulator, words: &str) -> Command {
    let words = ["run"].into_iter().chain(words.split_whitespace());
    with_provider(desk.command(words), sim)
}

/// A program that finds this provider in its environment.
pub fn with_provider(mut command: Command, sim: &Simulator) -> Command {
    command
        .env("BATCHWRIGHT_PROVIDER", "openai")
        .env("BATCHWRIGHT_MODEL", "m")
        .env("OPENAI_API_KEY", "k")
        .env("OPENAI_BASE_URL", sim.base_url())
        .env("BATCHWRIGHT_BATCH_POLL_INTERVAL", "100ms");
    command
}

/// The same with the batch strategy.
pub fn batch(desk: &Desk, sim: &Simulator, words: &str) -> Command {
    command(desk, sim, &format!("--strategy batch {words}"))
}

pub fn start(desk: &Desk, sim: &Simulator, words: &str) -> Running {
    Running::start(&mut batch(desk, sim, words))
}

pub fn run(desk: &Desk, sim: &Simulator, words: &str) -> Ended {
    start(desk, sim, words).wait()
}

pub const WORDS: &str = "in.jsonl -o out.jsonl";

pub fn queue(desk: &Desk) -> JobQueue {
    JobQueue::open(&desk.path(HOME).join("llm_jobs.db")).unwrap()
}

/// Nothing is left behind.
#[track_caller]
pub fn clean(desk: &Desk) {
    assert!(queue(desk).open_processes().unwrap().is_empty());
    assert!(queue(desk).batches(None).unwrap().is_empty());
}

/// Waits until so many requests are at the provider for good.
#[track_caller]
pub fn accepted(sim: &Simulator, items: u64) {
    let there = |stats: &BatchStats| stats.items_accepted == items;
    assert!(
        sim.wait_for_batches(there, PATIENCE),
        "{:?}",
        sim.batch_stats()
    );
}

/// Waits until the queue knows that so many are at the provider.
#[track_caller]
pub fn handed_over(desk: &Desk, items: u64) {
    let queue = queue(desk);
    let there = || {
        let batches = queue.batches(None).unwrap();
        let known = batches.iter().filter(|batch| batch.remote_id.is_some());
        known.map(|batch| batch.total).sum::<u64>() == items
    };
    assert!(eventually(there), "{:?}", queue.batches(None).unwrap());
}

pub fn kill(mut running: Running) {
    running.child.kill().unwrap();
    running.child.wait().unwrap();
}

pub fn without_latency(mut line: Value) -> Value {
    line.as_object_mut().unwrap().remove("latency_ms");
    line
}

pub fn by_id(lines: Vec<Value>) -> HashMap<String, Value> {
    let named = lines.into_iter().map(without_latency);
    named
        .map(|line| (line["id"].as_str().unwrap().to_owned(), line))
        .collect()
}

pub fn summary(ended: &Ended) -> Value {
    serde_json::from_str(&ended.stdout).unwrap()
}

#[test]
fn the_lines_are_those_of_sync_but_for_their_time() {
    let (desk, sim) = (Desk::new(), taking(SHORT));
    desk.write(
        "in.jsonl",
        prompt_lines(7) + "{\"prompt\":\"no id\"}\n{\"prompt\":\"no id\"}\n",
    );
    let ended = run(&desk, &sim, "in.jsonl -o batch.jsonl --ordered --json").expect(0);
    assert_eq!(sim.stats().calls, 0, "no prompt was a call of its own");
    assert_eq!(sim.batch_stats().items_accepted, 9);
    let told = summary(&ended);
    assert_eq!(
        (&told["strategy"], &told["fallback_reason"]),
        (&json!("batch"), &Value::Null)
    );
    assert_eq!(
        (&told["submitted"], &told["attached"]),
        (&json!(9), &json!(0))
    );
    assert_eq!(told["summary"]["completed"], 9);
    assert_eq!(told["summary"]["answered_by"], json!({"openai": 9}));
    assert_eq!(told["batches_created"], 1);
    let ended = ended.says("prompts go to openai in batches");
    ended
        .says("strategy   batch")
        .says("1 created, 9 items submitted");
    Running::start(&mut command(
        &desk,
        &sim,
        "in.jsonl -o sync.jsonl --ordered",
    ))
    .wait()
    .expect(0);
    let lines = |name| -> Vec<Value> {
        let lines = desk.results(name).into_iter();
        lines.map(without_latency).collect()
    };
    assert_eq!(lines("batch.jsonl"), lines("sync.jsonl"));
    assert_eq!(desk.order("batch.jsonl")[..7], ids_in_order(7));
    clean(&desk);

    // All is done: nothing is sent, and nothing is asked for.
    let before = sim.batch_stats();
    run(&desk, &sim, "in.jsonl -o batch.jsonl")
        .expect(0)
        .says("nothing to send");
    assert_eq!(sim.batch_stats(), before);
}

#[test]
fn what_is_interrupted_goes_on_and_the_same_command_attaches_from_another_folder() {
    let (desk, sim) = (Desk::new(), taking(LONG));
    desk.prompts("in.jsonl", 5);
    std::fs::create_dir(desk.path("elsewhere")).unwrap();
    let running = start(&desk, &sim, WORDS);
    accepted(&sim, 5);
    handed_over(&desk, 5);
    running.signal("INT");
    let ended = running.wait().expect(130);
    let id = QueueRun::process_of(&desk.path("out.jsonl")).unwrap();
    let remote = sim.batch_stats().batches[0].id.clone();
    let ended = ended.says("stopping: batches go on at their provider");
    let ended = ended.says(&format!("batch {remote} (5 requests) goes on at openai"));
    let ended = ended.says("the same command comes back to it, from any folder");
    ended.says(&format!("to give it up:  batchwright cancel {id}"));

    let mut again = batch(&desk, &sim, "../in.jsonl -o ../out.jsonl --json");
    let ended = Running::start(again.current_dir(desk.path("elsewhere")))
        .wait()
        .expect(0);
    let told = summary(&ended);
    assert_eq!(
        (&told["submitted"], &told["attached"]),
        (&json!(0), &json!(5))
    );
    ended.says("5 items: 5 under way");
    assert_eq!(desk.ids("out.jsonl"), all_ids(5));
    assert_eq!(sim.batch_stats().items_accepted, 5);
    clean(&desk);
}

#[test]
fn a_process_says_which_run_it_belongs_to() {
    let (desk, sim) = (Desk::new(), taking(LONG));
    desk.prompts("in put.jsonl", 1);
    let mut command = batch(&desk, &sim, "--no-wait -o out.jsonl");
    Running::start(command.arg("in put.jsonl")).wait().expect(0);
    let [process] = queue(&desk).open_processes().unwrap().try_into().unwrap();
    let info = process.info;
    assert_eq!(info.name.as_deref(), Some("in put.jsonl"));
    let whole = |name| desk.path(name).canonicalize().unwrap();
    assert_eq!(info.input.as_deref(), whole("in put.jsonl").to_str());
    assert_eq!(info.output.as_deref(), whole("out.jsonl").to_str());

    let again = info.command.unwrap();
    let mut shell = with_provider(desk.other("sh", ["-c", &again]), &sim);
    let ended = Running::start(shell.current_dir("/")).wait().expect(0);
    ended.says("1 under way");
    assert_eq!(desk.ids("out.jsonl"), all_ids(1));
    assert_eq!(sim.batch_stats().items_accepted, 1);
    clean(&desk);

    desk.prompts("in.jsonl", 1);
    let secret = sim.base_url().replace("http://", "http://me:secret@");
    let words = format!("{WORDS}2 --no-wait --base-url {secret}");
    run(&desk, &sim, &words).expect(0);
    let [process] = queue(&desk).open_processes().unwrap().try_into().unwrap();
    assert!(!process.info.command.unwrap().contains("secret"));
}

#[test]
fn sigterm_ends_with_its_own_code() {
    let (desk, sim) = (Desk::new(), taking(LONG));
    desk.prompts("in.jsonl", 2);
    let running = start(&desk, &sim, WORDS);
    accepted(&sim, 2);
    running.signal("TERM");
    running.wait().expect(143);
    run(&desk, &sim, WORDS).expect(0);
    assert_eq!(sim.batch_stats().items_accepted, 2);
}

#[test]
fn of_a_thousand_items_that_were_stopped_and_edited_fifteen_are_submitted() {
    let (desk, sim) = (Desk::new(), taking(Duration::from_secs(4)));
    desk.prompts("in.jsonl", 1000);
    let running = start(&desk, &sim, WORDS);
    accepted(&sim, 1000);
    handed_over(&desk, 1000);
    running.signal("INT");
    running.wait().expect(130);

    let mut text = String::new();
    for i in 0..1005 {
        match i {
            100..110 => text.push_str(&format!("{{\"id\":\"i-{i}\",\"prompt\":\"edited {i}\"}}\n")),
            500..505 => {}
            _ => text.push_str(&prompt_line(i)),
        }
    }
    desk.write("in.jsonl", text);
    let ended = run(&desk, &sim, "in.jsonl -o out.jsonl --json").expect(0);
    let told = summary(&ended);
    assert_eq!(
        (&told["submitted"], &told["attached"]),
        (&json!(15), &json!(985))
    );
    assert_eq!(told["summary"]["completed"], 1000);
    ended.says("1,000 items: 985 under way, 15 to send");
    let stats = sim.batch_stats();
    let sizes: Vec<u64> = stats.batches.iter().map(|batch| batch.items).collect();
    assert_eq!(sizes, [1000, 15]);
    assert_eq!((stats.bought_twice, sim.stats().calls), (0, 0));

    // The five that were removed are there too: they were paid for.
    assert_eq!(desk.ids("out.jsonl"), all_ids(1005));
    let fresh = Desk::new();
    fresh.write("in.jsonl", desk.read("in.jsonl"));
    Running::start(&mut command(&fresh, &sim, WORDS))
        .wait()
        .expect(0);
    let (here, there) = (
        by_id(desk.results("out.jsonl")),
        by_id(fresh.results("out.jsonl")),
    );
    for (id, line) in &there {
        assert_eq!(
            here[id]["text"], line["text"],
            "{id} has the answer to an old question"
        );
        assert_eq!(here[id]["request_hash"], line["request_hash"]);
    }
    clean(&desk);
}

#[test]
fn an_answer_to_an_old_question_never_takes_the_place_of_the_new_one() {
    let (desk, sim) = (Desk::new(), taking(Duration::from_secs(2)));
    desk.write("in.jsonl", "{\"id\":\"a\",\"prompt\":\"old\"}\n");
    run(&desk, &sim, &format!("{WORDS} --no-wait")).expect(0);
    desk.write("in.jsonl", "{\"id\":\"a\",\"prompt\":\"new\"}\n");
    // Answered at once, so that the old answer is the later one.
    let sync = Running::start(&mut command(&desk, &sim, WORDS))
        .wait()
        .expect(0);
    sync.says("of an earlier run goes on");
    assert_eq!(
        (sim.stats().calls, sim.batch_stats().items_accepted),
        (1, 1)
    );
    let lines = desk.results("out.jsonl");
    assert_eq!(lines.len(), 1);
    desk.write("once.jsonl", desk.read("in.jsonl"));
    Running::start(&mut command(&desk, &sim, "once.jsonl -o once-out.jsonl"))
        .wait()
        .expect(0);
    assert_eq!(
        lines[0]["request_hash"],
        desk.results("once-out.jsonl")[0]["request_hash"]
    );
    clean(&desk);
}

#[test]
fn what_comes_back_from_an_expired_batch_is_bought_again_only_if_it_is_asked_for() {
    let expiring = BatchConfig::default().duration(SHORT).expire_first(1, 0.0);
    let (desk, sim) = (Desk::new(), with(expiring));
    desk.prompts("in.jsonl", 10);
    run(&desk, &sim, &format!("{WORDS} --no-wait")).expect(0);
    accepted(&sim, 10);
    desk.write(
        "in.jsonl",
        prompt_lines(8).replace("\"prompt 3\"", "\"edited\""),
    );
    run(&desk, &sim, WORDS).expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(8));
    // The edited one, and the seven that were asked for still.
    assert_eq!(sim.batch_stats().items_accepted, 10 + 8);
    clean(&desk);
}

#[test]
fn progress_tells_what_is_at_the_provider() {
    let (desk, sim) = (Desk::new(), taking(LONG));
    desk.prompts("in.jsonl", 3);
    let running = start(&desk, &sim, &format!("{WORDS} --progress always"));
    running.hears("0/3 0%");
    running.hears("3 in batches: 0 done");
    running.wait().expect(0);
}

#[test]
fn what_fails_in_a_batch_goes_to_the_fallback() {
    let sim = with(BatchConfig::default().duration(SHORT).item_failures(1.0));
    let desk = Desk::new();
    desk.prompts("in.jsonl", 3);
    let words = format!("{WORDS} --max-retries 0 --fallback extract --json");
    let ended = run(&desk, &sim, &words).expect(0);
    let told = summary(&ended);
    assert_eq!(told["summary"]["answered_by"], json!({"extract": 3}));
    assert_eq!(told["summary"]["extracted"], 3);
    assert_eq!(desk.ids("out.jsonl"), all_ids(3));
    assert_eq!(
        desk.results("out.jsonl")[0]["earlier"][0]["provider"],
        "openai"
    );
    ended.says("answers by extract 3");
}

#[test]
fn calls_for_what_a_queue_has_stop_after_ten_replies_that_cannot_be_used() {
    for (words, code, results) in [("", 4, 10..40), ("--on-error continue", 3, 60..61)] {
        let empty = SimConfig::default().trouble(Trouble::Empty, 1.0);
        let sim = simulator(empty.trouble_times(Trouble::Empty, None));
        let desk = Desk::new();
        desk.prompts("in.jsonl", 60);
        kill(sealed(&desk, &sim));
        let words = format!("{WORDS} -j 2 {words}");
        let ended = Running::start(&mut command(&desk, &sim, &words)).wait();
        let ended = ended.expect(code).says("of an earlier run goes on");
        if code == 4 {
            ended
                .says("stopped: none of the first 10 replies can be used, and each was paid for")
                .says("items wait in the queue");
        }
        let found = desk.results("out.jsonl").len();
        assert!(results.contains(&found), "{found} results");
    }
}

/// A run all of whose items wait: nobody takes them over.
fn sealed(desk: &Desk, sim: &Simulator) -> Running {
    let mut refused = batch(desk, sim, WORDS);
    refused
        .env("OPENAI_BASE_URL", super::common::NOBODY)
        .env("BATCHWRIGHT_BATCH_RECONCILE_WAIT", "1s");
    let running = Running::start(&mut refused);
    let id = QueueRun::process_of(&desk.path("out.jsonl")).unwrap();
    let is_sealed = || {
        let now = queue(desk).process(id).unwrap();
        now.is_some_and(|now| now.sealed)
    };
    assert!(eventually(is_sealed));
    running
}

#[test]
fn what_waits_and_is_no_longer_asked_for_is_never_sent() {
    let (desk, sim) = (Desk::new(), taking(SHORT));
    desk.prompts("in.jsonl", 4);
    kill(sealed(&desk, &sim));
    desk.write("in.jsonl", prompt_lines(3).replace("prompt 2", "edited"));
    run(&desk, &sim, WORDS).expect(0);
    assert_eq!(sim.batch_stats().items_accepted, 3);
    assert_eq!(desk.ids("out.jsonl"), all_ids(3));
    clean(&desk);
}

#[test]
fn a_run_that_does_not_wait_is_collected_by_the_same_command() {
    let (desk, sim) = (Desk::new(), taking(Duration::from_millis(500)));
    desk.prompts("in.jsonl", 4);
    let ended = run(&desk, &sim, &format!("{WORDS} --no-wait --json")).expect(0);
    let told = summary(&ended);
    assert_eq!(
        (&told["summary"]["pending"], &told["exit_code"]),
        (&json!(4), &json!(0))
    );
    assert_eq!(told["batches"][0]["total"], 4);
    ended
        .says("goes on at openai")
        .says("the same command comes back to it");
    assert_eq!(desk.read("out.jsonl"), "");
    run(&desk, &sim, WORDS).expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(4));
    assert_eq!(sim.batch_stats().items_accepted, 4);
    let sync = Running::start(&mut command(&desk, &sim, "in.jsonl -o out.jsonl --no-wait"));
    let ended = sync.wait().expect(2);
    assert!(
        ended
            .error()
            .contains("--no-wait goes with --strategy batch")
    );
    clean(&desk);
}

#[test]
fn standard_output_gets_the_lines_and_the_process_is_named() {
    let (desk, sim) = (Desk::new(), taking(SHORT));
    desk.prompts("in.jsonl", 4);
    let ended = run(&desk, &sim, "in.jsonl").expect(0);
    let mut ids: Vec<String> = super::common::results(&ended.stdout)
        .iter()
        .map(super::common::id)
        .collect();
    ids.sort();
    assert_eq!(ids, all_ids(4));
    clean(&desk);

    let sim = taking(LONG);
    let running = start(&desk, &sim, "in.jsonl");
    accepted(&sim, 4);
    handed_over(&desk, 4);
    running.signal("INT");
    let ended = running.wait().expect(130);
    assert_eq!(ended.stdout, "");
    let id: ProcessId = queue(&desk).open_processes().unwrap()[0].process_id;
    ended.says(&format!("batchwright results {id} -o FILE"));
}

#[test]
fn standard_input_is_taken_in_whole_and_attached_to_as_well() {
    let (desk, sim) = (Desk::new(), taking(LONG));
    let begin = |words: &str, lines: String| {
        let mut command = batch(&desk, &sim, words);
        let mut running = Running::start(command.stdin(Stdio::piped()));
        running.feed(&lines);
        drop(running.child.stdin.take());
        running
    };
    let running = begin("- -o out.jsonl", prompt_lines(4));
    accepted(&sim, 4);
    handed_over(&desk, 4);
    running.signal("INT");
    running.wait().expect(130);
    begin("- -o out.jsonl", prompt_lines(5)).wait().expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(5));
    assert_eq!(sim.batch_stats().items_accepted, 5);
    let bad = begin("- -o out.jsonl", "{\"id\":\"x\"}\n".to_owned())
        .wait()
        .expect(2);
    assert!(
        bad.error().contains("(standard input):1: "),
        "{}",
        bad.stderr
    );
    let left = std::fs::read_dir(desk.path(HOME)).unwrap().flatten();
    let spools = left.filter(|file| file.file_name().to_string_lossy().starts_with("stdin"));
    assert_eq!(spools.count(), 0);
    clean(&desk);
}

#[test]
fn a_provider_without_a_batch_api_runs_sync_and_says_why() {
    let (desk, sim) = (Desk::new(), taking(SHORT));
    desk.prompts("in.jsonl", 3);
    let mut local = desk.against(&sim, "in.jsonl -o out.jsonl --json");
    local.env("BATCHWRIGHT_BULK_STRATEGY", "batch");
    let ended = Running::start(&mut local).wait().expect(0);
    let why = "local has no Batch API: runs sync";
    let told = summary(&ended);
    assert_eq!(
        (&told["strategy"], &told["fallback_reason"]),
        (&json!("sync"), &json!(why))
    );
    ended
        .says(&format!("strategy: {why}"))
        .says(&format!("strategy   {why}"));
    assert_eq!((sim.stats().calls, sim.batch_stats().created), (3, 0));
    assert!(!desk.path(HOME).join("llm_jobs.db").exists());
}

#[test]
fn nobody_to_hand_batches_to_is_an_error_and_no_answer_of_extract() {
    let desk = Desk::new();
    desk.prompts("in.jsonl", 3);
    let words = "run in.jsonl -o out.jsonl --strategy batch --data-dir data";
    let ended = Running::start(&mut desk.command(words.split(' '))).wait();
    ended.expect(1);
    assert!(!desk.path("out.jsonl").exists());
}

#[test]
fn vectors_are_made_by_calls_also_under_batch() {
    let (desk, sim) = (Desk::new(), taking(SHORT));
    desk.write("in.txt", "one\ntwo\n");
    let ended = run(&desk, &sim, "in.txt -o out.jsonl --task embed --json").expect(0);
    assert_eq!(
        summary(&ended)["fallback_reason"],
        "vectors are not made in batches: runs sync"
    );
    assert_eq!(
        ended
            .stderr
            .matches("strategy: vectors are not made")
            .count(),
        1
    );
    assert_eq!(sim.batch_stats().created, 0);
}

#[test]
fn failed_items_run_again_unless_they_are_to_stay() {
    let sim = with(BatchConfig::default().duration(SHORT).item_failures(1.0));
    let desk = Desk::new();
    desk.prompts("in.jsonl", 3);
    let ended = run(&desk, &sim, &format!("{WORDS} --max-retries 0 --json")).expect(3);
    assert_eq!(summary(&ended)["summary"]["failed"], 3);
    assert_eq!(desk.results("out.jsonl").len(), 3);
    clean(&desk);
    let bought = sim.batch_stats().items_accepted;
    run(&desk, &sim, &format!("{WORDS} --keep-failed")).expect(3);
    assert_eq!(sim.batch_stats().items_accepted, bought);

    let good = taking(SHORT);
    let ended = run(&desk, &good, WORDS).expect(0);
    ended.says("3 failed before").says("3 to send");
    assert_eq!(desk.ids("out.jsonl"), all_ids(3));
    assert_eq!(good.batch_stats().items_accepted, 3);
}

#[test]
fn two_runs_on_one_output_are_kept_apart_and_a_worker_may_help() {
    let (desk, sim) = (Desk::new(), taking(Duration::from_secs(2)));
    desk.prompts("in.jsonl", 3);
    run(&desk, &sim, &format!("{WORDS} --no-wait")).expect(0);
    let mut worker = desk.command(["work", "--until-empty"]);
    worker
        .env("OPENAI_API_KEY", "k")
        .env("OPENAI_BASE_URL", sim.base_url());
    worker
        .env("BATCHWRIGHT_PROVIDER", "openai")
        .env("BATCHWRIGHT_BATCH_POLL_INTERVAL", "100ms");
    let worker = Running::start(&mut worker);
    assert!(eventually(
        || queue(&desk).batches(None).unwrap()[0].attended
    ));
    let first = start(&desk, &sim, WORDS);
    first.hears("3 under way");
    let second = run(&desk, &sim, WORDS).expect(1);
    assert!(second.error().contains("another run is writing to it"));
    first.wait().expect(0);
    worker.wait().expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(3));
    assert_eq!(sim.batch_stats().items_accepted, 3);
    clean(&desk);
}

#[test]
fn a_cancelled_process_keeps_what_it_had_and_can_be_run_again() {
    let (desk, sim) = (Desk::new(), taking(Duration::from_secs(2)));
    desk.prompts("in.jsonl", 8);
    run(&desk, &sim, &format!("{WORDS} --no-wait")).expect(0);
    let id = QueueRun::process_of(&desk.path("out.jsonl")).unwrap();
    let mut cancel = desk.command(["cancel", &id.to_string()]);
    cancel
        .env("OPENAI_API_KEY", "k")
        .env("OPENAI_BASE_URL", sim.base_url());
    Running::start(&mut cancel).wait().expect(0);
    run(&desk, &sim, WORDS).expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(8));
    assert_eq!(sim.batch_stats().bought_twice, 0);
    clean(&desk);
}

#[test]
fn what_has_its_outcome_is_not_called_under_way() {
    let (desk, sim) = (Desk::new(), taking(SHORT));
    desk.prompts("in.jsonl", 6);
    run(&desk, &sim, &format!("{WORDS} --no-wait")).expect(0);
    let mut work = desk.command(["work", "--strategy", "batch", "--until-empty"]);
    work.env("BATCHWRIGHT_PROVIDER", "openai")
        .env("BATCHWRIGHT_MODEL", "m")
        .env("OPENAI_API_KEY", "k")
        .env("OPENAI_BASE_URL", sim.base_url())
        .env("BATCHWRIGHT_BATCH_POLL_INTERVAL", "100ms");
    Running::start(&mut work).wait().expect(0);
    let id = queue(&desk).open_processes().unwrap()[0].process_id;
    queue(&desk).cancel(id).unwrap();
    let planned = run(&desk, &sim, &format!("{WORDS} --dry-run --json")).expect(0);
    let told: Value = serde_json::from_str(&planned.stdout).unwrap();
    assert_eq!(
        (&told["under_way"], &told["to_collect"]),
        (&0.into(), &6.into())
    );
    planned.says("6 done, to be collected");
    run(&desk, &sim, WORDS).expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(6));
    assert_eq!(sim.batch_stats().created, 1);
}

#[test]
fn a_dry_run_tells_what_is_under_way_and_changes_nothing() {
    let (desk, sim) = (Desk::new(), taking(LONG));
    desk.prompts("in.jsonl", 3);
    run(&desk, &sim, &format!("{WORDS} --dry-run"))
        .expect(0)
        .says("in batches; nothing was sent");
    assert!(!desk.path(HOME).join("llm_jobs.db").exists());
    assert!(!desk.exists("out.jsonl"));
    run(&desk, &sim, &format!("{WORDS} --no-wait --max-items 2")).expect(0);
    let ended = run(&desk, &sim, &format!("{WORDS} --dry-run --json")).expect(0);
    let told = summary(&ended);
    assert_eq!(
        (&told["under_way"], &told["to_send"]),
        (&json!(2), &json!(1))
    );
    assert_eq!(sim.batch_stats().items_accepted, 2);
}

#[test]
fn a_policy_that_stops_at_the_first_failure_is_refused() {
    let (desk, sim) = (Desk::new(), taking(SHORT));
    desk.prompts("in.jsonl", 1);
    let ended = run(&desk, &sim, &format!("{WORDS} --on-error stop")).expect(2);
    assert!(
        ended
            .error()
            .contains("--on-error stop does not go with batches")
    );
    assert!(!desk.exists("out.jsonl"));
}
