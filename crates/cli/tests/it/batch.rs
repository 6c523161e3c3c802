//! The batch strategy through the real program: submit, show, collect, cancel.

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use batchwright::plan::{ProviderOptions, ProviderPlan};
use batchwright::provider::inspect;
use batchwright::{
    Deadline, ErrorKind, JobQueue, LlmManager, ProcessId, Progress, Request, Secret, Settings,
    StopReason, Strategy,
};
use batchwright_simulate::{BatchConfig, Simulator};
use serde_json::{Value, json};

use super::batch_runs::{SHORT, taking, with, with_provider};
use super::common::{Desk, Ended, Has, PATIENCE, RunToEnd, Running, all_ids, eventually};
use super::queue::{adds_up, database};

/// Long enough to see a batch in progress; a cancelled one ends after a tenth of it.
const LONG: Duration = Duration::from_secs(40);

/// The program on the queue of this desk, with a provider that has a Batch API.
pub fn command(desk: &Desk, sim: &Simulator, words: &str) -> Command {
    let mut command = with_provider(desk.command(words.split_whitespace()), sim);
    command.args(["--data-dir", "data"]);
    command
}

fn run(desk: &Desk, sim: &Simulator, words: &str) -> Ended {
    command(desk, sim, words).ended()
}

fn submit(desk: &Desk, sim: &Simulator, n: usize) -> ProcessId {
    desk.prompts("in.jsonl", n);
    let ended = run(desk, sim, "submit in.jsonl").expect(0);
    ended.stdout.trim().parse().unwrap()
}

fn status(desk: &Desk, sim: &Simulator, id: ProcessId) -> Value {
    let all = run(desk, sim, &format!("status --json {id}"))
        .expect(0)
        .json();
    let process = all["processes"][0].clone();
    adds_up(&process);
    process
}

#[test]
fn embeddings_use_individual_calls_next_to_batches() {
    let (desk, sim) = (Desk::new(), taking(SHORT));
    let prompts = submit(&desk, &sim, 2);
    let vectors = run(&desk, &sim, "submit in.jsonl --task embed").expect(0);
    let vectors: ProcessId = vectors.stdout.trim().parse().unwrap();
    run(&desk, &sim, "work --strategy batch --until-empty")
        .ends(0, "2 embeddings wait: they are not made in batches");
    assert_eq!(status(&desk, &sim, vectors)["completed"], 2);
    assert_eq!(status(&desk, &sim, prompts)["completed"], 2);
    assert_eq!(sim.batch_stats().items_accepted, 2);
    assert_eq!(sim.stats().embedded, 2);
    run(&desk, &sim, "config set llm.bulk_strategy batch").expect(0);
    let list = run(&desk, &sim, "config list").expect(0).stdout;
    assert!(
        list.contains("! llm.sync_concurrency is not used"),
        "{list}"
    );
}

#[test]
fn a_batch_is_submitted_at_night_and_collected_in_the_morning() {
    let (desk, sim) = (Desk::with(5), taking(Duration::from_millis(400)));
    let mut submit = command(&desk, &sim, "submit in.jsonl");
    submit.env("BATCHWRIGHT_BULK_STRATEGY", "batch");
    let submitted = submit.ended().expect(0);
    let id: ProcessId = submitted.stdout.trim().parse().unwrap();
    submitted.says("5 jobs are queued; strategy: batch");
    let night = run(
        &desk,
        &sim,
        "work --strategy batch --until-submitted --json",
    )
    .expect(0);
    let night = night.says(", no active worker").says(
        "to collect the batches of no run: batchwright work --strategy batch --data-dir data",
    );
    let report = night.json();
    report.has(json!({"batches": 1, "completed": 0}));
    assert_eq!(report["batches_open"], 1);

    let process = status(&desk, &sim, id);
    process.has(json!({"at_provider": 5, "strategy": "batch"}));
    let batch = &process["batches"][0];
    let remote = sim.batch_stats().batches[0].id.clone();
    assert_eq!(batch["remote_id"], remote);
    batch.has(json!({"provider": "openai", "total": 5}));
    batch.has(json!({"attended": false, "model": "m"}));
    let shown = run(&desk, &sim, "status").expect(0);
    let named = format!("batch {remote} at openai: ");
    shown.shows(&named);
    shown.shows(", no active worker");
    run(&desk, &sim, &format!("results {id} -o out.jsonl")).ends(0, "5 jobs are still open");

    // The strategy of the second worker does not matter: results of batches are collected.
    run(&desk, &sim, "work --until-empty").ends(0, "5 done");
    run(&desk, &sim, &format!("results {id} -o out.jsonl")).expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(5));
    for line in desk.results("out.jsonl") {
        line.has(json!({"provider": "openai", "attempts": 1}));
    }
    assert_eq!(sim.batch_stats().created, 1);
    assert_eq!(sim.stats().calls, 0);
}

#[test]
fn a_running_worker_follows_the_strategy_and_old_batches_finish() {
    let (desk, sim) = (Desk::new(), taking(LONG));
    let worker = Running::start(&mut command(&desk, &sim, "work"));
    worker.hears("provider openai");
    run(&desk, &sim, "config set llm.bulk_strategy batch").expect(0);
    worker.hears("settings changed: llm.bulk_strategy sync -> batch");
    worker.hears("prompts go to openai in batches");
    let old = submit(&desk, &sim, 4);
    let there = || status(&desk, &sim, old)["at_provider"] == 4;
    assert!(sim.wait_for_batches(|stats| stats.created == 1, PATIENCE));
    assert!(eventually(there));
    run(&desk, &sim, "config set llm.bulk_strategy sync").expect(0);
    worker.hears("settings changed: llm.bulk_strategy batch -> sync");
    let new = submit(&desk, &sim, 3);
    assert!(eventually(|| status(&desk, &sim, new)["completed"] == 3));
    assert_eq!(sim.stats().calls, 3);
    let left = status(&desk, &sim, old);
    left.has(json!({"at_provider": 4, "strategy": "batch"}));
    assert_eq!(left["batches"][0]["attended"], true);

    // The worker that owns the batch cancels it.
    run(&desk, &sim, &format!("cancel {old}"))
        .expect(0)
        .says("; its worker cancels it");
    assert!(sim.wait_for_batches(|stats| stats.cancelled == 1, PATIENCE));
    let over = || {
        let process = status(&desk, &sim, old);
        process["at_provider"] == 0 && process["batches"] == json!([])
    };
    assert!(eventually(over));
    let process = status(&desk, &sim, old);
    let ended = |name: &str| process[name].as_u64().unwrap();
    assert_eq!(ended("cancelled") + ended("completed"), 4, "{process}");
    assert_eq!(ended("pending"), 0);
}

#[test]
fn cancel_ends_batches_without_a_worker_and_keeps_their_results() {
    let (desk, sim) = (Desk::new(), taking(Duration::from_secs(10)));
    let id = submit(&desk, &sim, 20);
    run(&desk, &sim, "work --strategy batch --until-submitted").expect(0);
    let some = |stats: &batchwright_simulate::BatchStats| stats.batches[0].finished > 0;
    assert!(sim.wait_for_batches(some, PATIENCE));
    run(&desk, &sim, &format!("cancel {id} --wait 30s")).expect(0);
    let stats = sim.batch_stats();
    assert_eq!((stats.cancels, stats.cancelled), (1, 1));
    let process = status(&desk, &sim, id);
    process.has(json!({"batches": [], "completed": stats.items_finished}));
    assert_eq!(process["cancelled"], 20 - stats.items_finished);

    // The requeued jobs are billed for the first time.
    run(&desk, &sim, &format!("retry {id}")).expect(0);
    run(&desk, &sim, "work --strategy sync --until-empty").expect(0);
    run(&desk, &sim, &format!("results {id} -o out.jsonl")).expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(20));
    assert_eq!(sim.stats().calls, 20 - stats.items_finished);
}

#[test]
fn a_batch_of_unknown_state_is_on_hold_and_the_queue_is_not_empty() {
    let lost = BatchConfig::default()
        .duration(SHORT)
        .lost_creates(1)
        .late_creates(Duration::from_secs(3600));
    let (desk, sim) = (Desk::new(), with(lost));
    let id = submit(&desk, &sim, 2);
    let anthropic = |words: &str| {
        let mut command = command(&desk, &sim, words);
        command
            .env("BATCHWRIGHT_PROVIDER", "anthropic")
            .env("ANTHROPIC_API_KEY", "k")
            .env("ANTHROPIC_BASE_URL", format!("http://{}", sim.addr()))
            .env("BATCHWRIGHT_BATCH_POLL_INTERVAL", "1s")
            .env("BATCHWRIGHT_BATCH_RECONCILE_WAIT", "100ms");
        command.ended()
    };
    let resubmit = "batchwright config set batch.on_unknown resubmit";
    let ended = anthropic("work --strategy batch --until-empty --json")
        .ends(4, &format!("To send it again anyway: {resubmit}"));
    let report = ended.json();
    assert_eq!(report["batches_held"], 1, "{report}");
    let process = status(&desk, &sim, id);
    assert_eq!(process["batches"][0]["state"], "held");
    anthropic("status").expect(0).shows(resubmit);
    anthropic("config set batch.on_unknown resubmit").expect(0);
    anthropic("work --strategy batch --until-empty").expect(0);
    assert_eq!(status(&desk, &sim, id)["completed"], 2);
}

/// A manager in a library with this data folder.
fn manager(sim: &Simulator, folder: &Path, strategy: &str) -> LlmManager {
    let settings = Settings::new()
        .flag("llm.bulk_strategy", "strategy", Some(strategy.to_owned()))
        .unwrap()
        .flag("batch.poll_interval", "poll", Some("50ms".to_owned()))
        .unwrap();
    let provider = inspect("openai", Some(&sim.base_url()), None, true).unwrap();
    let options = ProviderOptions::new()
        .provider(provider)
        .api_key("openai", Secret::new("k"))
        .data_dir(folder);
    LlmManager::of(ProviderPlan::new(settings, options).unwrap())
}

#[test]
fn the_library_returns_outcomes_in_order_and_reattaches_after_a_stop() {
    let (desk, sim) = (Desk::new(), taking(Duration::from_secs(4)));
    let folder = database(&desk).parent().unwrap().to_owned();
    let manager = |ctx: &batchwright::Context| manager(&sim, &folder, "batch").context(ctx);
    let process = ProcessId::new();
    let requests: Vec<Request> = (0..6)
        .map(|at| Request {
            model: Some("m".to_owned()),
            // Identical requests in the queue are two requests.
            ..Request::new(format!("prompt {}", at / 2))
        })
        .collect();

    let ctx = batchwright::Context::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (stop, notes) = (ctx.clone(), seen.clone());
    let stopped = manager(&ctx).notifier(Arc::new(move |progress: &Progress| {
        notes.lock().unwrap().push(progress.at_provider);
        if progress.at_provider == 6 {
            stop.cancel();
        }
    }));
    assert_eq!(stopped.effective_strategy().strategy, Strategy::Batch);
    let error = stopped.run_bulk(process, &requests).unwrap_err();
    assert_eq!(error.outcomes.len(), 6);
    assert!(error.outcomes.iter().all(|outcome| !outcome.is_success()));
    assert!(seen.lock().unwrap().contains(&6));

    let in_time = manager(&batchwright::Context::new())
        .deadline(Deadline::within(Duration::from_millis(50)).unwrap());
    let error = in_time.run_bulk(process, &requests).unwrap_err();
    assert!(matches!(error.reason, StopReason::DeadlineExceeded));
    for outcome in &error.outcomes {
        let why = outcome.result.as_ref().unwrap_err();
        assert_eq!(why.kind(), ErrorKind::DeadlineExceeded);
        // It may be billed: it is in a batch.
        assert!(why.message().contains("its job stays in the queue"));
    }

    let outcomes = manager(&batchwright::Context::new())
        .run_bulk(process, &requests)
        .unwrap();
    assert_eq!(
        sim.batch_stats().items_accepted,
        6,
        "nothing was bought twice"
    );
    let texts: Vec<String> = outcomes
        .into_iter()
        .map(|outcome| outcome.result.unwrap().text)
        .collect();
    assert_eq!(texts.len(), 6);
    for pair in texts.chunks(2) {
        assert_eq!(pair[0], pair[1]);
    }
    assert_ne!(texts[0], texts[2]);
    let queue = JobQueue::open(&database(&desk)).unwrap();
    assert!(queue.open_processes().unwrap().is_empty());
}
