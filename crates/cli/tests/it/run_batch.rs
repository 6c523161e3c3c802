//! `run --strategy batch`: the lines of `sync`.

use std::process::Stdio;
use std::time::Duration;

use batchwright_simulate::BatchConfig;
use serde_json::{Value, json};

use super::batch_runs::{
    LONG, SHORT, STORE, WORDS, batch, bought, clean, command, only_process, queue, run, start,
    submitted, taking, whole, with, with_provider,
};
use super::common::{
    Desk, HOME, Has, NOBODY, RunToEnd, Running, all_ids, cases, eventually, ids_in_order,
    prompt_lines,
};

#[test]
fn the_lines_equal_those_of_sync_except_for_their_time() {
    let (desk, sim) = (Desk::new(), taking(SHORT));
    desk.input(prompt_lines(7) + "{\"prompt\":\"no id\"}\n{\"prompt\":\"no id\"}\n");
    let ended = run(&desk, &sim, "in.jsonl -o batch.jsonl --ordered --json").expect(0);
    assert_eq!(sim.stats().calls, 0, "no prompt was a call of its own");
    ended.json().has(
        json!({"strategy": "batch", "fallback_reason": null, "submitted": 9, "attached": 0,
        "/summary/completed": 9, "/summary/answered_by": {"openai": 9}, "batches_created": 1}),
    );
    ended
        .says("prompts go to openai in batches")
        .says("strategy   batch")
        .says("1 created, 9 items submitted");
    let mut sync = command(&desk, &sim, "in.jsonl -o sync.jsonl --ordered");
    sync.ended().expect(0);
    let lines = |name, tier: Value| -> Vec<Value> {
        let mut lines = desk.results(name);
        for fields in lines.iter_mut().filter_map(Value::as_object_mut) {
            let told = fields.remove("service_tier").unwrap_or_default();
            assert_eq!(told, tier);
            fields.remove("latency_ms");
        }
        lines
    };
    let batch = lines("batch.jsonl", json!("batch"));
    assert_eq!(batch, lines("sync.jsonl", Value::Null));
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
    let ended = run(&desk, &sim, &words).ends(0, "answers by extract 3");
    ended
        .json()
        .has(json!({"/summary/answered_by": {"extract": 3}, "/summary/extracted": 3}));
    assert_eq!(desk.ids("out.jsonl"), all_ids(3));
    desk.results("out.jsonl")[0].has(json!({"/earlier/0/provider": "openai"}));
}

/// A store that was emptied, or whose log was damaged after a kill, is not a new one.
#[test]
fn a_damaged_store_buys_nothing_again() {
    let (desk, sim) = (Desk::with(20), taking(LONG));
    let words = "in.jsonl -o out.jsonl";
    let store = desk.path("out.jsonl.batchwright");
    let running = start(&desk, &sim, words);
    submitted(&desk, 20);
    running.signal("KILL");
    running.wait();
    let whole = std::fs::read(&store).unwrap();
    let log = desk.path("out.jsonl.batchwright-wal");
    let flipped = std::fs::read(&log)
        .unwrap()
        .iter()
        .map(|byte| !byte)
        .collect::<Vec<u8>>();
    assert!(!flipped.is_empty());
    std::fs::write(&store, "").unwrap();
    run(&desk, &sim, words).ends(1, "so it is damaged");
    std::fs::write(&store, whole).unwrap();
    std::fs::write(&log, flipped).unwrap();
    run(&desk, &sim, words).expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(20));
    bought(&sim, 20);
}

/// Its output is still there, so the run would be bought again for it.
#[test]
fn the_store_of_another_output_is_not_taken() {
    let (desk, sim) = (Desk::with(3), taking(LONG));
    run(&desk, &sim, "in.jsonl -o out.jsonl --no-wait").expect(0);
    let [from, to] =
        ["out.jsonl", "other.jsonl"].map(|name| desk.path(&format!("{name}.batchwright")));
    std::fs::write(desk.path("other.jsonl"), "").unwrap();
    std::fs::rename(&from, &to).unwrap();
    run(&desk, &sim, "in.jsonl -o other.jsonl").ends(2, "which is there without it");
    std::fs::rename(&to, &from).unwrap();
    run(&desk, &sim, "in.jsonl -o out.jsonl").expect(0);
    bought(&sim, 3);
}

#[test]
fn batches_need_an_output_that_later_runs_can_go_on_with() {
    let (desk, sim) = (Desk::with(4), taking(SHORT));
    for words in ["in.jsonl", "in.jsonl -o /dev/stdout"] {
        run(&desk, &sim, words).ends(2, "add -o FILE, or use --strategy sync");
    }
    let mut by_setting = command(&desk, &sim, "in.jsonl");
    by_setting.env("BATCHWRIGHT_BULK_STRATEGY", "batch");
    by_setting
        .ended()
        .ends(2, "(llm.bulk_strategy is set to batch)");
    bought(&sim, 0);
}

#[test]
fn standard_input_is_read_completely_and_can_be_reattached() {
    let (desk, sim) = (Desk::new(), taking(LONG));
    let begin = |lines: String| {
        let mut command = batch(&desk, &sim, "- -o out.jsonl");
        let mut running = Running::start(command.stdin(Stdio::piped()));
        running.feed(&lines);
        drop(running.child.stdin.take());
        running
    };
    let running = begin(prompt_lines(4));
    submitted(&desk, 4);
    running.signal("INT");
    running.wait().expect(130);
    begin(prompt_lines(5)).wait().expect(0);
    whole(&desk, &sim, "out.jsonl", 5);
    let bad = begin("{\"id\":\"x\"}\n".to_owned()).wait().expect(2);
    bad.errs("(standard input):1: ");
    let left = std::fs::read_dir(desk.path(HOME)).unwrap().flatten();
    let mut spools = left.filter(|file| file.file_name().to_string_lossy().starts_with("stdin"));
    assert!(spools.next().is_none());
    clean(&desk);
}

#[test]
fn batch_at_a_paid_provider_without_a_batch_api_is_refused_as_a_flag_and_reported_as_a_setting() {
    let (desk, sim) = (Desk::with(3), taking(SHORT));
    let at_deepseek = |words: &str| {
        let mut command = desk.command(words.split(' '));
        command
            .args(["--quiet", "--data-dir", "data", "--provider", "deepseek"])
            .args(["--model", "m", "--base-url", &sim.base_url()])
            .env("DEEPSEEK_API_KEY", "sk-0123456789abcdef");
        command.ended()
    };
    let (run, work) = ("run in.jsonl -o out.jsonl", "work --until-empty");
    for command in [run, work, "serve --port 0"] {
        at_deepseek(&format!("{command} --strategy batch"))
            .ends(
                2,
                "--strategy batch: every prompt would cost the full price",
            )
            .says("deepseek has no Batch API; these have one: groq,")
            .says("use --strategy sync")
            .says("--provider NAME");
        assert_eq!(sim.stats().calls, 0, "{command}");
    }
    assert!(!desk.exists("out.jsonl"));

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
    for command in [run, work] {
        let ended = at_deepseek(command).expect(0);
        assert_eq!(ended.stderr.matches(&why).count(), 1, "{}", ended.stderr);
    }
    assert_eq!((sim.stats().calls, sim.batch_stats().created), (6, 0));
}

#[test]
fn what_is_for_calls_is_refused_with_batches() {
    let (desk, sim) = (Desk::with(1), taking(SHORT));
    for (flags, says) in cases(
        "
        --on-error stop => --on-error stop cannot be used with batches
        --dedupe => goes through the queue, where each prompt is a separate request: remove it, or use --strategy sync
        --dedupe --dry-run => --dedupe is for calls
    ",
    ) {
        run(&desk, &sim, &format!("{WORDS} {flags}")).ends(2, says);
    }
    assert!(!desk.exists("out.jsonl"));
    bought(&sim, 0);
}

#[test]
fn the_same_command_reattaches_from_another_folder_after_an_interrupt() {
    let (desk, sim) = (Desk::with(5), taking(LONG));
    std::fs::create_dir(desk.path("elsewhere")).unwrap();
    let running = start(&desk, &sim, WORDS);
    submitted(&desk, 5);
    running.signal("INT");
    let ended = running.wait().expect(130);
    let store = desk.path("").canonicalize().unwrap().join(STORE);
    let (remote, process) = (sim.batch_stats().batches[0].id.clone(), only_process(&desk));
    ended
        .says("stopping: batches that are at their provider go on there")
        .says(&format!("batch {remote} at openai: "))
        .says("to collect the results, run the same command in this folder")
        .says("to give it up:  batchwright cancel ")
        .says(&format!("cancel {process} --queue {}", store.display()));

    let mut again = batch(&desk, &sim, "../in.jsonl -o ../out.jsonl --json");
    let again = again.current_dir(desk.path("elsewhere")).ended();
    let told = again.ends(0, "5 items: 5 under way").json();
    told.has(json!({"submitted": 0, "attached": 5}));
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
    let mut shell = with_provider(desk.other("sh", ["-c", &info.command.unwrap()]), &sim);
    shell.current_dir("/").ended().ends(0, "1 under way");
    whole(&desk, &sim, "out.jsonl", 1);
}

#[test]
fn two_runs_on_one_output_are_kept_apart_and_a_worker_may_help() {
    let (desk, sim) = (Desk::with(3), taking(Duration::from_secs(6)));
    run(&desk, &sim, &format!("{WORDS} --no-wait")).expect(0);
    let worker = desk.command(["work", "--until-empty", "--queue", STORE]);
    let worker = Running::start(&mut with_provider(worker, &sim));
    let attended = || queue(&desk).batches(None).unwrap()[0].attended;
    assert!(eventually(attended));
    let first = start(&desk, &sim, WORDS);
    first.hears("3 under way");
    run(&desk, &sim, WORDS).ends(1, "another run is writing to it");
    first.wait().expect(0);
    worker.wait().expect(0);
    whole(&desk, &sim, "out.jsonl", 3);
}

#[test]
fn a_dry_run_reports_items_in_progress_and_changes_nothing() {
    let (desk, sim) = (Desk::with(3), taking(LONG));
    run(&desk, &sim, &format!("{WORDS} --dry-run")).ends(0, "in batches; nothing was sent");
    assert!(!desk.path(HOME).join("llm_jobs.db").exists());
    assert!(!desk.exists(STORE) && !desk.exists("out.jsonl"));
    run(&desk, &sim, &format!("{WORDS} --no-wait --max-items 2")).expect(0);
    let ended = run(&desk, &sim, &format!("{WORDS} --dry-run --json")).expect(0);
    ended.json().has(json!({"under_way": 2, "to_send": 1}));
    bought(&sim, 2);
}

#[test]
fn results_of_a_batch_stay_in_the_queue_if_their_file_is_removed() {
    let (desk, sim) = (Desk::with(4), taking(LONG));
    let running = start(&desk, &sim, WORDS);
    submitted(&desk, 4);
    std::fs::remove_file(desk.path("out.jsonl")).unwrap();
    running.wait().ends(4, "removed or replaced");
    assert!(!desk.exists("out.jsonl"));
    run(&desk, &sim, WORDS).expect(0);
    whole(&desk, &sim, "out.jsonl", 4);
}

#[test]
fn an_address_without_a_server_ends_the_run_and_the_same_command_resumes() {
    let (desk, sim) = (Desk::with(3), taking(SHORT));
    let left = " at openai: not handed over, 3 requests";
    let mut at_nobody = batch(&desk, &sim, &format!("{WORDS} --no-wait"));
    let ended = at_nobody.env("OPENAI_BASE_URL", NOBODY).ended();
    let ended = ended
        .ends(
            4,
            "the provider cannot be reached: cannot reach http://127.0.0.1:9/v1/files",
        )
        .says("no server has been reached there")
        .says(left);
    for words in ["goes on at", "items submitted", "are in a batch"] {
        ended.hides(words);
    }
    run(&desk, &sim, WORDS).ends(0, left).hides("another key");
    whole(&desk, &sim, "out.jsonl", 3);
}

/// A refused batch that names no request is called one by one, for as much as the budget allows.
#[test]
fn calls_for_refused_batches_stay_within_the_budget() {
    let faulty = BatchConfig::default().duration(SHORT).poison("prompt");
    let (desk, sim) = (Desk::with(40), with(faulty.hide_lines(true)));
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

/// The address is a flag, which `cancel` does not have.
#[test]
fn a_batch_at_a_named_address_is_given_up_as_the_run_says() {
    let (desk, sim) = (Desk::with(3), taking(LONG));
    let url = sim.base_url();
    let mut run = batch(&desk, &sim, &format!("{WORDS} --no-wait --base-url {url}"));
    let ended = run.env_remove("OPENAI_BASE_URL").ended().expect(0);
    let id = only_process(&desk);
    let ended = ended.says(&format!(
        "BATCHWRIGHT_BASE_URL={url} batchwright cancel {id}"
    ));
    ended.hides("its key is not set here");
    let mut cancel = desk.command(["cancel", &id.to_string(), "--queue", STORE]);
    cancel
        .env("OPENAI_API_KEY", "k")
        .env("BATCHWRIGHT_BASE_URL", &url);
    cancel.ended().expect(0).says("3 jobs cancelled");
}
