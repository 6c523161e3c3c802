//! `run --strategy batch`: the lines of `sync`.

use std::process::Stdio;

use batchwright::ProcessId;
use batchwright_simulate::BatchConfig;
use serde_json::{Value, json};

use super::batch_runs::{
    LONG, SHORT, WORDS, accepted, batch, clean, command, home_queue, run, start, submitted, taking,
    whole, with, without_latency,
};
use super::common::{
    Desk, HOME, Has, RunToEnd, Running, all_ids, eventually, ids_in_order, prompt_lines,
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
        .map(super::common::id)
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
    let why = "strategy: deepseek has no Batch API: runs sync";
    for command in ["run in.jsonl -o out.jsonl", "work --until-empty"] {
        let ended = at_deepseek(&format!("{command} --quiet --data-dir data"));
        let ended = ended.ends(0, why);
        assert_eq!(ended.stderr.matches(why).count(), 1, "{}", ended.stderr);
    }
    assert_eq!((sim.stats().calls, sim.batch_stats().created), (3, 0));
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
