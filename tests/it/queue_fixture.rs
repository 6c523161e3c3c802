//! A database of each released schema, and one that was made just now: what is in it is found, and
//! worked to the end.
//!
//! With a new schema, keep one of it: `KEEP=$PWD/tests/data/llm_jobs_v4.db cargo test --test it
//! a_database_of_now`, and add it to the released ones.

use batchwright::unstable::{BatchStore, ClaimStore};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use batchwright::queue::{
    JobCounts, JobLane, JobResult, JobStatus, ProcessInfo, Severity, SqliteOptions, SqliteStore,
    WorkerScale,
};
use batchwright::unstable::{ClaimOutcome, Clock, JobStore, Settlement, SystemClock};
use batchwright::{
    Context, Error, ErrorKind, Handler, Job, JobQueue, LlmClient, ProcessId, Request, Route,
    RunningJob, Usage, Worker, client_fn,
};
use batchwright::{testing::ManualClock, testing::ScriptedClient};
use rusqlite::Connection;
use serde_json::value::RawValue;
use tempfile::TempDir;

const RELEASED: &[i64] = &[1, 2, 3, 4];

fn process(n: u8) -> ProcessId {
    ProcessId::from_bytes([n; 16])
}

fn prompt(text: &str) -> Job {
    Job::from(Request::new(text).with_id(text).with_model("m-1"))
}

/// What is told of the process whose jobs are in a batch.
fn info() -> ProcessInfo {
    let info = ProcessInfo::new().name("reviews").input("/in.jsonl");
    let info = info.output("/out.jsonl");
    info.provider("openai")
        .command("batchwright run in.jsonl -o out.jsonl")
}

/// The lane of those prompts.
fn lane() -> JobLane {
    JobLane {
        kind: "completion".to_owned(),
        name: Some("m-1".to_owned()),
        step: 0,
    }
}

fn worker(queue: &JobQueue, client: &Arc<ScriptedClient>) -> Worker {
    let client = client.clone();
    let paid = client_fn(move |request, ctx| {
        let usage = Usage {
            input_tokens: 3,
            output_tokens: 2,
            ..Usage::default()
        };
        Ok(client.complete(request, ctx)?.with_usage(usage))
    });
    Worker::new(queue)
        .scale(WorkerScale::fixed(1))
        .completions(Route::new(paid))
}

/// Jobs in every state, as a copy of the database has them while a worker has one of them in hand.
fn make(copy: &Path) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("llm_jobs.db");
    let store = SqliteStore::open(&path, SqliteOptions::default()).unwrap();
    let store: Arc<dyn JobStore> = Arc::new(store);
    let queue = JobQueue::on(store.clone());
    let client = Arc::new(ScriptedClient::new());
    let busy = Error::new(ErrorKind::Transient, "busy").with_status(503);
    client.fail(
        "later",
        busy.with_retry_after(Some(Duration::from_secs(60))),
    );
    client.fail("bad", Error::new(ErrorKind::Invalid, "no").with_status(400));
    let jobs = ["good", "bad", "later"].map(prompt);
    queue.enqueue(process(1), jobs).unwrap();
    let running = worker(&queue, &client).start().unwrap();
    assert!(client.wait_for_calls(3));
    running.stop().unwrap();

    let waits = Job::new("double", &21).unwrap().item_id("waits");
    let jobs = [waits.priority(9).max_retries(7), prompt("held")];
    queue.enqueue(process(1), jobs).unwrap();
    let half = ["one", "two"].map(prompt);
    store
        .insert(process(2), half.into(), false, SystemClock.wall())
        .unwrap();
    queue.enqueue(process(3), [prompt("unwanted")]).unwrap();
    queue.cancel(process(3)).unwrap();

    let out = ["out", "back"].map(prompt);
    let described = queue.described(info());
    described.enqueue(process(4), out).unwrap();
    let poller = store.register_worker(SystemClock.wall()).unwrap();
    let batch = store
        .open_batch(poller, process(4), &lane(), RECORD, SystemClock.wall())
        .unwrap();
    let filled = store
        .fill_batch(poller, batch, None, 9, 1 << 20, SystemClock.wall())
        .unwrap();
    assert_eq!(filled.jobs, 2);

    client.hold();
    let running = worker(&queue, &client).start().unwrap();
    assert!(client.wait_for_in_flight(1));
    let db = Connection::open(&path).unwrap();
    db.execute("VACUUM INTO ?1", [copy.to_str().unwrap()])
        .unwrap();
    client.release();
    running.stop().unwrap();
    // The name of this machine is nobody's business.
    let copy = Connection::open(copy).unwrap();
    copy.execute("UPDATE workers SET host = 'elsewhere'", [])
        .unwrap();
}

/// Puts a database in place as its backup is restored: with the lock files of its workers.
fn restored(from: &Path) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("llm_jobs.db");
    std::fs::copy(from, &path).unwrap();
    let locks = folder.path().join("llm_jobs.db.workers");
    std::fs::create_dir(&locks).unwrap();
    let db = Connection::open(&path).unwrap();
    let mut workers = db.prepare("SELECT name FROM workers").unwrap();
    let names = workers
        .query_map([], |row| row.get::<_, String>(0))
        .unwrap();
    for name in names {
        std::fs::write(locks.join(name.unwrap() + ".lock"), "").unwrap();
    }
    (folder, path)
}

fn counts(queue: &JobQueue, n: u8) -> JobCounts {
    queue.process(process(n)).unwrap().unwrap().counts
}

fn consumed(queue: &JobQueue, n: u8) -> Vec<JobResult> {
    let mut all = Vec::new();
    queue
        .consume(process(n), |results| {
            all.extend_from_slice(results);
            Ok::<(), Error>(())
        })
        .unwrap();
    all
}

fn texts(results: &[JobResult]) -> Vec<(String, JobStatus, u32, String)> {
    let text = |result: &JobResult| match result.parse::<serde_json::Value>() {
        Ok(line) if line.is_object() => line["text"].as_str().unwrap().to_owned(),
        Ok(other) => other.to_string(),
        Err(error) => error.kind().to_string(),
    };
    let row = |r: &JobResult| (r.item_id.clone().unwrap(), r.status, r.attempts, text(r));
    results.iter().map(row).collect()
}

fn row(id: &str, status: JobStatus, attempts: u32, text: &str) -> (String, JobStatus, u32, String) {
    (id.to_owned(), status, attempts, text.to_owned())
}

/// What a poller has written down of a batch that runs.
const RECORD: &str = r#"{"account":{"provider":"openai","base_url":"http://127.0.0.1:9/v1","credential":"0123456789abcdef"},"intent":{"label":"bw-01a1fa29115575b08024622055c1e91f","model":"m","items":2,"bytes":312,"begun":1795197000000},"phase":{"is":"running","id":"batch_1","file":"file-1"},"tried":false,"state":"in_progress","counts":{"total":2,"completed":1,"failed":0},"created":1795197001000,"cancelled":false,"failures":0,"uploads":0,"fetches":0,"due":1795197011000}"#;

/// Takes the batch over: one of its jobs has its result, the other one goes back.
fn a_batch_is_taken_over(path: &Path) {
    let store = SqliteStore::open(path, SqliteOptions::default()).unwrap();
    let now = SystemClock.wall();
    store.reclaim(now).unwrap();
    let worker = store.register_worker(now).unwrap();
    let adopted = store.adopt_batches(worker, &mut |_| true, &[process(4)], now);
    let [batch] = adopted.unwrap().try_into().unwrap();
    assert_eq!((batch.record.as_str(), batch.jobs), (RECORD, 2));
    assert_eq!(*batch.lane, lane());
    let jobs = store.batch_jobs_by(batch.no, &[0]).unwrap();
    assert_eq!(jobs[0].item_id.as_deref(), Some("out"));
    let result = RawValue::from_string("\"bought\"".to_owned()).unwrap();
    let end = Settlement {
        receipt: jobs[0].receipt,
        calls: 1,
        outcome: ClaimOutcome::Completed {
            result,
            spent: None,
        },
        worked: None,
    };
    store.settle(&[end], now).unwrap();
    store.close_batch(worker, batch.no, now).unwrap();
    store.unregister_worker(worker, now).unwrap();
}

fn is_found_and_worked_to_the_end(from: &Path, version: i64) {
    use JobStatus::{Cancelled, Completed, Failed};
    let (_folder, path) = restored(from);
    // Long after: what waits for its time is due.
    let clock = Arc::new(ManualClock::new());
    clock.advance(Duration::from_secs(100 * 365 * 24 * 3600));
    let queue = JobQueue::open(&path).unwrap().clock(clock);
    let has_batch = version > 1;
    assert_eq!(queue.batches(None).unwrap().len(), usize::from(has_batch));
    if has_batch {
        assert_eq!(counts(&queue, 4).at_provider, 2);
        let [batch] = queue.batches(Some(process(4))).unwrap().try_into().unwrap();
        assert_eq!((batch.total, batch.completed), (2, Some(1)));
        assert_eq!(batch.remote_id.as_deref(), Some("batch_1"));
        assert_eq!(
            (batch.provider.as_str(), batch.state.as_str()),
            ("openai", "in_progress")
        );
    }
    let open = queue.open_processes().unwrap();
    for known in &open {
        let described = version > 2 && known.process_id == process(4);
        let expected = described.then(info).unwrap_or_default();
        assert_eq!(known.info, expected);
    }
    let states = open
        .iter()
        .take(3)
        .map(|p| (p.process_id, p.sealed, p.cancelled));
    let expected = [(1, true, false), (2, false, false), (3, true, true)];
    assert!(states.eq(expected.map(|(n, sealed, cancelled)| (process(n), sealed, cancelled))));
    let first = counts(&queue, 1);
    assert_eq!((first.pending, first.in_progress), (2, 1), "{first:?}");
    assert_eq!((first.completed, first.failed), (1, 1), "{first:?}");
    assert_eq!((counts(&queue, 2).pending, counts(&queue, 2).total), (2, 2));
    assert_eq!(
        (counts(&queue, 3).cancelled, counts(&queue, 3).total),
        (1, 1)
    );
    let spent = open[0].spent;
    assert_eq!((spent.input_tokens, spent.output_tokens), (3, 2));
    let findings = queue.check().unwrap();
    let bad = findings.iter().find(|f| f.verdict == Severity::Bad);
    assert!(bad.is_none(), "{bad:?}");

    queue.seal(process(2)).unwrap();
    if has_batch {
        a_batch_is_taken_over(&path);
    }
    let double = Handler::new(|job: &RunningJob, _: &Context| Ok(2 * job.parse::<i64>()?));
    let client = Arc::new(ScriptedClient::new());
    let worker = worker(&queue, &client).handle("double", double);
    let report = worker.until_empty(true).run().unwrap();
    let expected = 5 + u64::from(has_batch);
    assert_eq!(
        (report.completed, report.failed),
        (expected, 0),
        "{report:?}"
    );
    let expected = [
        row("good", Completed, 1, "echo: good"),
        row("bad", Failed, 1, "invalid"),
        row("later", Completed, 2, "echo: later"),
        row("waits", Completed, 1, "42"),
        row("held", Completed, 1, "echo: held"),
    ];
    assert_eq!(texts(&consumed(&queue, 1)), expected);
    let expected = ["one", "two"].map(|id| row(id, Completed, 1, &format!("echo: {id}")));
    assert_eq!(texts(&consumed(&queue, 2)), expected);
    let expected = [row("unwanted", Cancelled, 0, "cancelled")];
    assert_eq!(texts(&consumed(&queue, 3)), expected);
    if has_batch {
        let expected = [
            row("out", Completed, 1, "\"bought\""),
            row("back", Completed, 1, "echo: back"),
        ];
        assert_eq!(texts(&consumed(&queue, 4)), expected);
    }
    assert!(queue.open_processes().unwrap().is_empty());
    assert!(queue.batches(None).unwrap().is_empty());
}

#[test]
fn databases_of_released_schemas_are_found_and_worked_to_the_end() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    for version in RELEASED {
        let path = data.join(format!("llm_jobs_v{version}.db"));
        let (_folder, copy) = restored(&path);
        let db = Connection::open(copy).unwrap();
        let found: i64 = db
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .unwrap();
        assert_eq!(found, *version);
        is_found_and_worked_to_the_end(&path, *version);
    }
}

#[test]
fn a_database_of_now_is_found_and_worked_to_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let keep = std::env::var_os("KEEP").map(PathBuf::from);
    let path = keep.unwrap_or_else(|| folder.path().join("made.db"));
    make(&path);
    is_found_and_worked_to_the_end(&path, i64::MAX);
}
