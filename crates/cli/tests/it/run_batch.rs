//! `run --strategy batch`: the lines of `sync`.

use std::process::Stdio;
use std::time::Duration;

use batchwright::{JobQueue, ProcessId};
use batchwright_simulate::{BatchConfig, Simulator};
use serde_json::{Value, json};

use super::batch_runs::{
    LONG, SHORT, STORE, WORDS, accepted, batch, clean, command, home_queue, only_process, queue,
    run, start, submitted, taking, whole, with, with_provider, without_latency,
};
use super::common::{
    Desk, HOME, Has, NOBODY, RunToEnd, Running, all_ids, eventually, id, ids_in_order, prompt_lines,
};

#[test]
fn the_lines_equal_those_of_sync_except_for_their_time() {
    let (desk, sim) = (Desk::new(), taking(SHORT));
    desk.input(prompt_lines(7) + "{\"prompt\":\"no id\"}\n{\"prompt\":\"no id\"}\n");
    let words = "in.jsonl -o batch.jsonl --ordered --json";
    let ended = run(&desk, &sim, words).expect(0);
    assert_eq!(sim.stats().calls, 0, "no prompt was a call of its own");
    assert_eq!(sim.batch_stats().items_accepted, 9);
    let told = ended.json();
    told.has(
        json!({"strategy": "batch", "fallback_reason": null, "submitted": 9, "attached": 0,
        "/summary/completed": 9, "/summary/answered_by": {"openai": 9}, "batches_created": 1}),
    );
    let ended = ended.says("prompts go to openai in batches");
    ended
        .says("strategy   batch")
        .says("1 created, 9 items submitted");
    command(&desk, &sim, "in.jsonl -o sync.jsonl --ordered")
        .ended()
        .expect(0);
    let lines = |name, tier: Option<&str>| -> Vec<Value> {
        let without_tier = |mut line: Value| {
            let told = line.as_object_mut().unwrap().remove("service_tier");
            assert_eq!(told.as_ref().and_then(Value::as_str), tier);
            line
        };
        let lines = desk.results(name).into_iter();
        lines.map(without_latency).map(without_tier).collect()
    };
    assert_eq!(
        lines("batch.jsonl", Some("batch")),
        lines("sync.jsonl", None)
    );
    assert_eq!(desk.order("batch.jsonl")[..7], ids_in_order(7));
    clean(&desk);

    // All is done: nothing is sent, and no request is made.
    let before = sim.batch_stats();
    run(&desk, &sim, "in.jsonl -o batch.jsonl").ends(0, "nothing to send");
    assert_eq!(sim.batch_stats(), before);
}

#[test]
fn items_that_fail_in_a_batch_fail_over() {
    let sim = with(BatchConfig::default().duration(SHORT).item_failures(1.0));
    let desk = Desk::with(3);
    let words = format!("{WORDS} --max-retries 0 --fallback extract --json");
    let ended = run(&desk, &sim, &words).expect(0);
    let told = ended.json();
    told.has(json!({"/summary/answered_by": {"extract": 3}, "/summary/extracted": 3}));
    assert_eq!(desk.ids("out.jsonl"), all_ids(3));
    assert_eq!(
        desk.results("out.jsonl")[0]["earlier"][0]["provider"],
        "openai"
    );
    ended.says("answers by extract 3");
}

#[test]
fn standard_output_gets_the_lines_and_the_process_is_named() {
    let (desk, sim) = (Desk::with(4), taking(SHORT));
    let ended = run(&desk, &sim, "in.jsonl").expect(0);
    let mut ids: Vec<String> = super::common::results(&ended.stdout)
        .iter()
        .map(id)
        .collect();
    ids.sort();
    assert_eq!(ids, all_ids(4));
    clean(&desk);

    let sim = taking(LONG);
    let running = start(&desk, &sim, "in.jsonl --quiet");
    accepted(&sim, 4);
    assert!(eventually(|| {
        let batches = home_queue(&desk).batches(None).unwrap();
        batches.iter().any(|batch| batch.remote_id.is_some())
    }));
    running.signal("INT");
    let ended = running.wait().expect(130);
    assert_eq!(ended.stdout, "");
    let id: ProcessId = home_queue(&desk).open_processes().unwrap()[0].process_id;
    ended
        .says("the output cannot be attached to again")
        .says("interrupted; what finished is saved")
        .says(&format!("batchwright results {id} -o FILE"))
        .hides("error:");
}

#[test]
fn standard_input_is_read_completely_and_can_be_reattached() {
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
    submitted(&desk, 4);
    running.signal("INT");
    running.wait().expect(130);
    begin("- -o out.jsonl", prompt_lines(5)).wait().expect(0);
    whole(&desk, &sim, "out.jsonl", 5);
    let bad = begin("- -o out.jsonl", "{\"id\":\"x\"}\n".to_owned())
        .wait()
        .expect(2);
    bad.errs("(standard input):1: ");
    let left = std::fs::read_dir(desk.path(HOME)).unwrap().flatten();
    let spools = left.filter(|file| file.file_name().to_string_lossy().starts_with("stdin"));
    assert_eq!(spools.count(), 0);
    clean(&desk);
}

/// The user requested half the price: the full price is paid only if a stored setting for other providers requests
/// it, and never without a message.
#[test]
fn batch_at_a_paid_provider_without_a_batch_api_is_refused_as_a_flag_and_reported_as_a_setting() {
    let (desk, sim) = (Desk::with(3), taking(SHORT));
    let at_deepseek = |words: &str| {
        let mut command = desk.command(words.split(' '));
        let url = sim.base_url();
        command
            .args(["--provider", "deepseek", "--model", "m", "--base-url", &url])
            .env("DEEPSEEK_API_KEY", "sk-0123456789abcdef");
        command.ended()
    };
    for command in [
        "run in.jsonl -o out.jsonl",
        "work --until-empty",
        "serve --port 0",
    ] {
        let words = format!("{command} --quiet --data-dir data --strategy batch");
        at_deepseek(&words)
            .expect(2)
            .says("--strategy batch: every prompt would cost the full price")
            .says("deepseek has no Batch API; these have one: groq,")
            .says("use --strategy sync")
            .says("--provider NAME");
        assert_eq!(sim.stats().calls, 0, "{command}");
    }
    assert!(!desk.path("out.jsonl").exists());

    let set = "config set llm.bulk_strategy batch --data-dir data";
    desk.plain(set).expect(0);
    desk.plain("submit in.jsonl --data-dir data").expect(0);
    let mut status = desk.command(["status", "--json", "--data-dir", "data"]);
    status
        .env("BATCHWRIGHT_PROVIDER", "deepseek")
        .env("DEEPSEEK_API_KEY", "k");
    let why = "deepseek has no Batch API: runs sync";
    let shown = status.ended().expect(0).json();
    shown.has(json!({"/processes/0/strategy": "sync", "/processes/0/fallback_reason": why}));
    let why = format!("strategy: {why}");
    for command in ["run in.jsonl -o out.jsonl", "work --until-empty"] {
        let ended = at_deepseek(&format!("{command} --quiet --data-dir data"));
        let ended = ended.ends(0, &why);
        assert_eq!(ended.stderr.matches(&why).count(), 1, "{}", ended.stderr);
    }
    assert_eq!((sim.stats().calls, sim.batch_stats().created), (6, 0));
}

#[test]
fn a_policy_that_stops_at_the_first_failure_is_refused() {
    let (desk, sim) = (Desk::with(1), taking(SHORT));
    let ended = run(&desk, &sim, &format!("{WORDS} --on-error stop")).expect(2);
    assert!(
        ended
            .error()
            .contains("--on-error stop cannot be used with batches")
    );
    assert!(!desk.exists("out.jsonl"));
}

#[test]
fn the_same_command_reattaches_from_another_folder_after_an_interrupt() {
    let (desk, sim) = (Desk::with(5), taking(LONG));
    std::fs::create_dir(desk.path("elsewhere")).unwrap();
    let running = start(&desk, &sim, WORDS);
    accepted(&sim, 5);
    submitted(&desk, 5);
    running.signal("INT");
    let ended = running.wait().expect(130);
    let store = desk.path("").canonicalize().unwrap().join(STORE);
    let remote = sim.batch_stats().batches[0].id.clone();
    let ended = ended.says("stopping: batches that are at their provider go on there");
    let ended = ended.says(&format!("batch {remote} at openai: "));
    let ended = ended.says("to collect the results, run the same command in this folder");
    ended.says(&format!(
        "to give it up:  batchwright cancel {} --queue {}",
        only_process(&desk),
        store.display()
    ));

    let mut again = batch(&desk, &sim, "../in.jsonl -o ../out.jsonl --json");
    let ended = again.current_dir(desk.path("elsewhere")).ended().expect(0);
    let told = ended.json();
    told.has(json!({"submitted": 0, "attached": 5}));
    ended.says("5 items: 5 under way");
    whole(&desk, &sim, "out.jsonl", 5);
}

#[test]
fn a_process_says_which_run_it_belongs_to() {
    let (desk, sim) = (Desk::new(), taking(LONG));
    desk.prompts("in put.jsonl", 1);
    let mut command = batch(&desk, &sim, "--no-wait -o out.jsonl");
    command.arg("in put.jsonl").ended().expect(0);
    let [process] = queue(&desk).open_processes().unwrap().try_into().unwrap();
    let info = process.info;
    assert_eq!(info.name.as_deref(), Some("in put.jsonl"));
    let full = |name| desk.path(name).canonicalize().unwrap();
    assert_eq!(info.input.as_deref(), full("in put.jsonl").to_str());
    assert_eq!(info.output.as_deref(), full("out.jsonl").to_str());

    let again = info.command.unwrap();
    let mut shell = with_provider(desk.other("sh", ["-c", &again]), &sim);
    shell.current_dir("/").ended().ends(0, "1 under way");
    whole(&desk, &sim, "out.jsonl", 1);

    desk.prompts("in.jsonl", 1);
    let secret = sim.base_url().replace("http://", "http://me:secret@");
    let words = format!("{WORDS}2 --no-wait --base-url {secret}");
    run(&desk, &sim, &words).expect(0);
    let [process] = JobQueue::open(desk.path("out.jsonl2.batchwright"))
        .and_then(|queue| queue.open_processes())
        .unwrap()
        .try_into()
        .unwrap();
    assert!(!process.info.command.unwrap().contains("secret"));
}

#[test]
fn two_runs_on_one_output_are_kept_apart_and_a_worker_may_help() {
    let (desk, sim) = (Desk::with(3), taking(Duration::from_secs(6)));
    run(&desk, &sim, &format!("{WORDS} --no-wait")).expect(0);
    let worker = desk.command(["work", "--until-empty", "--queue", STORE]);
    let worker = Running::start(&mut with_provider(worker, &sim));
    assert!(eventually(
        || queue(&desk).batches(None).unwrap()[0].attended
    ));
    let first = start(&desk, &sim, WORDS);
    first.hears("3 under way");
    let second = run(&desk, &sim, WORDS).expect(1);
    second.errs("another run is writing to it");
    first.wait().expect(0);
    worker.wait().expect(0);
    whole(&desk, &sim, "out.jsonl", 3);
}

#[test]
fn a_dry_run_reports_items_in_progress_and_changes_nothing() {
    let (desk, sim) = (Desk::with(3), taking(LONG));
    run(&desk, &sim, &format!("{WORDS} --dry-run")).ends(0, "in batches; nothing was sent");
    assert!(!desk.path(HOME).join("llm_jobs.db").exists() && !desk.exists(STORE));
    assert!(!desk.exists("out.jsonl"));
    run(&desk, &sim, &format!("{WORDS} --no-wait --max-items 2")).expect(0);
    let ended = run(&desk, &sim, &format!("{WORDS} --dry-run --json")).expect(0);
    let told = ended.json();
    told.has(json!({"under_way": 2, "to_send": 1}));
    assert_eq!(sim.batch_stats().items_accepted, 2);
}

#[test]
fn results_of_a_batch_stay_in_the_queue_if_their_file_is_removed() {
    let (desk, sim) = (Desk::with(4), taking(LONG));
    let running = start(&desk, &sim, "in.jsonl -o out.jsonl");
    accepted(&sim, 4);
    submitted(&desk, 4);
    std::fs::remove_file(desk.path("out.jsonl")).unwrap();
    running.wait().ends(4, "removed or replaced");
    assert!(!desk.exists("out.jsonl"));
    run(&desk, &sim, "in.jsonl -o out.jsonl").expect(0);
    whole(&desk, &sim, "out.jsonl", 4);
}

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
    for words in ["goes on at", "items submitted", "are in a batch"] {
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
    ended.hides("another key");
    whole(&desk, &sim, "out.jsonl", 3);
}

/// A faulty request that the provider names fails alone. If it names none, the requests are called one by one.
#[test]
fn a_named_request_fails_alone_and_calls_for_refused_batches_stay_within_the_budget() {
    let faulty = |text: &str| BatchConfig::default().duration(SHORT).poison(text);
    let (desk, sim) = (Desk::with(8), with(faulty("prompt 3")));
    run(&desk, &sim, WORDS).expect(3);
    let lines = desk.results("out.jsonl");
    let failed = lines.iter().filter(|line| line["success"] == false);
    assert_eq!(failed.map(id).collect::<Vec<_>>(), ["i-3"]);
    let finished = sim.batch_stats().items_finished;
    assert_eq!((finished, sim.stats().calls), (7, 0));

    let (desk, sim) = (Desk::with(40), with(faulty("prompt").hide_lines(true)));
    let prices = json!([{"input": 0, "output": 100}, {"tier": "batch", "input": 0, "output": 10}]);
    let models = json!([{"models": ["m"], "prices": prices}]);
    let prices = json!({"providers": {"*": {"models": models}}});
    desk.write("prices.json", prices.to_string());
    // The batch costs 0.004 at most, and a call 0.001.
    let words = "--prices prices.json --max-tokens 10 --budget 0.005";
    run(&desk, &sim, &format!("{WORDS} {words}")).ends(4, "the budget of");
    let calls = sim.stats().calls;
    assert!((1..40).contains(&calls), "{calls}");
}
