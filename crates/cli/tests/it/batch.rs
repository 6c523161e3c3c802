//! The batch strategy through the real program: submit, show, collect, cancel.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use batchwright::plan::{ProviderOptions, ProviderPlan};
use batchwright::provider::inspect;
use batchwright::{
    Context, ErrorKind, JobQueue, LlmManager, ProcessId, Progress, Request, Secret, Settings,
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
    run(desk, sim, "submit in.jsonl").expect(0).process()
}

fn status(desk: &Desk, sim: &Simulator, id: ProcessId) -> Value {
    let all = run(desk, sim, &format!("status --json {id}")).expect(0);
    let process = all.json()["processes"][0].take();
    adds_up(&process);
    process
}

#[test]
fn embeddings_use_individual_calls_next_to_batches() {
    let (desk, sim) = (Desk::new(), taking(SHORT));
    let prompts = submit(&desk, &sim, 2);
    let vectors = run(&desk, &sim, "submit in.jsonl --task embed");
    let vectors = vectors.expect(0).process();
    run(&desk, &sim, "work --strategy batch --until-empty")
        .ends(0, "2 embeddings wait: they are not made in batches");
    assert_eq!(status(&desk, &sim, vectors)["completed"], 2);
    assert_eq!(status(&desk, &sim, prompts)["completed"], 2);
    let (accepted, embedded) = (sim.batch_stats().items_accepted, sim.stats().embedded);
    assert_eq!((accepted, embedded), (2, 2));
    run(&desk, &sim, "config set llm.bulk_strategy batch").expect(0);
    let list = run(&desk, &sim, "config list").expect(0);
    list.shows("! llm.sync_concurrency is not used");
}

#[test]
fn a_batch_is_submitted_at_night_and_collected_in_the_morning() {
    let (desk, sim) = (Desk::with(5), taking(Duration::from_millis(400)));
    let mut submit = command(&desk, &sim, "submit in.jsonl");
    submit.env("BATCHWRIGHT_BULK_STRATEGY", "batch");
    let submitted = submit.ended().ends(0, "5 jobs are queued; strategy: batch");
    let id = submitted.process();
    let night = "work --strategy batch --until-submitted --json";
    let collects =
        "to collect the batches of no run: batchwright work --strategy batch --data-dir data";
    let night = run(&desk, &sim, night).ends(0, ", no active worker");
    let report = night.says(collects).json();
    report.has(json!({"batches": 1, "completed": 0, "batches_open": 1}));

    let remote = sim.batch_stats().batches[0].id.clone();
    let process = status(&desk, &sim, id);
    process.has(json!({"at_provider": 5, "strategy": "batch"}));
    process["batches"][0].has(
        json!({"remote_id": remote, "provider": "openai", "total": 5,
        "attended": false, "model": "m"}),
    );
    let shown = run(&desk, &sim, "status").expect(0);
    shown.shows(&format!("batch {remote} at openai: "));
    shown.shows(", no active worker");
    let take = format!("results {id} -o out.jsonl");
    run(&desk, &sim, &take).ends(0, "5 jobs are still open");

    // The strategy of the second worker does not matter: results of batches are collected.
    run(&desk, &sim, "work --until-empty").ends(0, "5 done");
    run(&desk, &sim, &take).expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(5));
    for line in desk.results("out.jsonl") {
        line.has(json!({"provider": "openai", "attempts": 1}));
    }
    assert_eq!((sim.batch_stats().created, sim.stats().calls), (1, 0));
}

#[test]
fn a_running_worker_follows_the_strategy_and_cancels_its_batches() {
    let (desk, sim) = (Desk::new(), taking(LONG));
    let worker = Running::start(&mut command(&desk, &sim, "work"));
    worker.hears("provider openai");
    run(&desk, &sim, "config set llm.bulk_strategy batch").expect(0);
    worker.hears("changed settings apply: provider openai");
    worker.hears("prompts go to openai in batches");
    let old = submit(&desk, &sim, 4);
    assert!(eventually(|| status(&desk, &sim, old)["at_provider"] == 4));
    run(&desk, &sim, "config set llm.bulk_strategy sync").expect(0);
    worker.hears("changed settings apply: provider openai");
    let new = submit(&desk, &sim, 3);
    assert!(eventually(|| status(&desk, &sim, new)["completed"] == 3));
    assert_eq!(sim.stats().calls, 3);
    let left = status(&desk, &sim, old);
    left.has(json!({"at_provider": 4, "strategy": "batch", "/batches/0/attended": true}));

    run(&desk, &sim, &format!("cancel {old}")).ends(0, "; its worker cancels it");
    assert!(sim.wait_for_batches(|stats| stats.cancelled == 1, PATIENCE));
    let over = || status(&desk, &sim, old)["batches"] == json!([]);
    assert!(eventually(over));
    status(&desk, &sim, old).has(json!({"pending": 0, "at_provider": 0}));
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
    let (done, left) = (stats.items_finished, 20 - stats.items_finished);
    status(&desk, &sim, id).has(json!({"batches": [], "completed": done, "cancelled": left}));

    // The requeued jobs are billed for the first time.
    for words in [
        &format!("retry {id}"),
        "work --strategy sync --until-empty",
        &format!("results {id} -o out.jsonl"),
    ] {
        run(&desk, &sim, words).expect(0);
    }
    assert_eq!(desk.ids("out.jsonl"), all_ids(20));
    assert_eq!(sim.stats().calls, left);
}

#[test]
fn a_batch_of_unknown_state_is_on_hold_and_the_queue_is_not_empty() {
    let hour = Duration::from_secs(3600);
    let lost = BatchConfig::default().lost_creates(1).late_creates(hour);
    let (desk, sim) = (Desk::new(), with(lost.duration(SHORT)));
    let id = submit(&desk, &sim, 2);
    let anthropic = |words: &str| {
        let mut command = command(&desk, &sim, words);
        command
            .env("BATCHWRIGHT_PROVIDER", "anthropic")
            .env("ANTHROPIC_API_KEY", "k")
            .env("ANTHROPIC_BASE_URL", format!("http://{}", sim.addr()))
            .env("BATCHWRIGHT_BATCH_RECONCILE_WAIT", "100ms");
        command.ended()
    };
    let resubmit = "batchwright config set batch.on_unknown resubmit";
    let work = "work --strategy batch --until-empty --json";
    let ended = anthropic(work).ends(4, &format!("To send it again anyway: {resubmit}"));
    ended.json().has(json!({"batches_held": 1}));
    assert_eq!(status(&desk, &sim, id)["batches"][0]["state"], "held");
    anthropic("status").expect(0).shows(resubmit);
    anthropic("config set batch.on_unknown resubmit").expect(0);
    anthropic(work).expect(0);
    assert_eq!(status(&desk, &sim, id)["completed"], 2);
}

/// A manager in a library with the queue of this desk.
fn manager(desk: &Desk, sim: &Simulator, ctx: &Context) -> LlmManager {
    let set = [
        ("llm.bulk_strategy", "batch"),
        ("batch.poll_interval", "50ms"),
    ];
    let settings = set.iter().fold(Settings::new(), |settings, (key, value)| {
        let flag = settings.flag(key, "flag", Some((*value).to_owned()));
        flag.unwrap()
    });
    let provider = inspect("openai", Some(&sim.base_url()), None, true).unwrap();
    let options = ProviderOptions::new()
        .provider(provider)
        .api_key("openai", Secret::new("k"))
        .data_dir(database(desk).parent().unwrap());
    LlmManager::of(ProviderPlan::new(settings, options).unwrap()).context(ctx)
}

#[test]
fn the_library_returns_outcomes_in_order_and_reattaches_after_a_stop() {
    let (desk, sim) = (Desk::new(), taking(Duration::from_secs(4)));
    let process = ProcessId::new();
    // Identical requests in the queue are two requests.
    let requests: Vec<Request> = (0..6)
        .map(|at| Request {
            model: Some("m".to_owned()),
            ..Request::new(format!("prompt {}", at / 2))
        })
        .collect();

    let ctx = Context::new();
    let stop = ctx.clone();
    let stopped = manager(&desk, &sim, &ctx).notifier(Arc::new(move |progress: &Progress| {
        if progress.at_provider == 6 {
            stop.cancel();
        }
    }));
    assert_eq!(stopped.effective_strategy().strategy, Strategy::Batch);
    let error = stopped.run_bulk(process, &requests).unwrap_err();
    assert_eq!(error.outcomes.len(), 6);
    assert!(error.outcomes.iter().all(|outcome| !outcome.is_success()));
    assert_eq!(sim.batch_stats().items_accepted, 6);

    let manager = || manager(&desk, &sim, &Context::new());
    // It has come already, so that the batch cannot end before it.
    let error = manager().deadline(SystemTime::now());
    let error = error.run_bulk(process, &requests);
    let error = error.unwrap_err();
    assert!(matches!(error.reason, StopReason::DeadlineExceeded));
    for outcome in &error.outcomes {
        let why = outcome.result.as_ref().unwrap_err();
        assert_eq!(why.kind(), ErrorKind::DeadlineExceeded);
        // It may be billed: it is in a batch.
        assert!(why.message().contains("its job stays in the queue"));
    }

    let outcomes = manager().run_bulk(process, &requests).unwrap();
    let texts = outcomes
        .into_iter()
        .map(|outcome| outcome.result.unwrap().text);
    let texts: Vec<String> = texts.collect();
    assert_eq!(texts.len(), 6);
    assert!(texts.chunks(2).all(|pair| pair[0] == pair[1]) && texts[0] != texts[2]);
    let accepted = sim.batch_stats().items_accepted;
    assert_eq!(accepted, 6, "nothing was bought twice");
    let queue = JobQueue::open(&database(&desk)).unwrap();
    assert!(queue.open_processes().unwrap().is_empty());
}
