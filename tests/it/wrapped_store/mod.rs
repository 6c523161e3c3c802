//! A job store implemented outside of the library: it passes every rule of the test kit, and queue and worker run
//! on it.

pub(crate) mod store;

use std::sync::Arc;
use std::time::Duration;

use batchwright::batch::BatchSettings;
use batchwright::progress::Timestamp;
use batchwright::queue::{
    DeliveredResult, HealthFinding, JobLane, JobReceipt, JobResult, JobState, JobStatus,
    JobSummary, ProcessState, Severity, WorkerInfo, WorkerScale, WorkerSettings,
};
use batchwright::unstable::{
    BatchFill, BatchNo, ClaimReply, ClaimedJob, StoredBatch, WaitingJobs, WorkerId,
};
use batchwright::{
    Context, Error, ErrorKind, Handler, Job, JobId, JobQueue, LlmConfig, ProcessId, Request,
    RetryPolicy, Route, RunningJob, Secret, Worker,
};
use batchwright::{testing::ScriptedClient, testing::scripted_vector};
use batchwright::{
    testing::job_store::TestDatabase, testing::job_store::random_operations,
    testing::job_store::suite,
};
use batchwright_simulate::{BatchConfig, SimConfig};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::common::simulator;
use store::WrappedStore;

fn database() -> TestDatabase {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    TestDatabase::new(move || Arc::new(WrappedStore::open(&folder)))
}

suite!(rules, database);

#[test]
fn random_operations_end_as_on_the_model() {
    random_operations(1, 300, database);
}

/// Values that only a store creates, created outside of the library.
#[test]
fn a_custom_store_can_create_all_returned_values() {
    let (job_id, process_id) = (JobId::from_bytes([1; 16]), ProcessId::new());
    let (now, receipt) = (Timestamp(1), JobReceipt { job: 1, claim: 2 });
    let lane = Arc::new(JobLane {
        kind: "test".to_owned(),
        name: None,
        step: 0,
    });
    let state = JobState::new(job_id, process_id, "test", now);
    assert_eq!(state.status, JobStatus::Pending);
    assert_eq!(ProcessState::new(process_id, now).counts.total, 0);
    assert_eq!(WorkerInfo::new(WorkerId(3), "here", 4, now).jobs, 0);
    let finding = HealthFinding::new("due times", Severity::Warning, "far ahead".to_owned(), None);
    assert_eq!(finding.verdict, Severity::Warning);
    let result = JobResult::new(job_id, process_id, "test", JobStatus::Completed);
    let delivered = DeliveredResult { receipt, result };
    let claimed = ClaimedJob {
        receipt,
        job_id,
        process_id,
        owner: None,
        budget: None,
        lane: lane.clone(),
        item_id: None,
        request_hash: None,
        payload: RawValue::from_string("1".to_owned()).unwrap(),
        priority: 5,
        max_retries: None,
        attempt: 0,
        calls: 0,
        crashes: 0,
        lost: false,
        in_doubt: false,
        due_at: now,
        history: None,
    };
    let reply = ClaimReply {
        jobs: vec![claimed],
        next: None,
        more: false,
    };
    assert_eq!(reply.jobs[0].name(), delivered.result.job_id.to_string());
    let summary = JobSummary {
        job_id,
        item_id: None,
        request_hash: None,
        status: JobStatus::Pending,
        at_provider: false,
    };
    let waiting = WaitingJobs {
        process_id,
        lane: lane.clone(),
        due: 1,
        next: None,
    };
    let batch = StoredBatch {
        no: BatchNo(5),
        process_id: Some(process_id),
        lane,
        worker: None,
        is_stopped: false,
        stopped_at: None,
        jobs: BatchFill::default().jobs,
        record: String::new(),
        created_at: now,
    };
    assert_eq!(batch.process_id, Some(waiting.process_id));
    assert_eq!(summary.job_id, job_id);
}

/// Two processes on one database.
fn queues() -> [JobQueue; 2] {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    [(); 2].map(|()| JobQueue::on(Arc::new(WrappedStore::open(&folder))))
}

#[test]
fn queue_and_worker_run_on_it() {
    let [host, other] = queues();
    let process = ProcessId::new();
    let prompt = |text: &str| Request::new(text).with_id(text);
    let mut jobs: Vec<Job> = (0..200).map(|n| prompt(&n.to_string()).into()).collect();
    jobs.push(prompt("flaky").into());
    jobs.push(prompt("bad").into());
    jobs.push(Request::embedding("a text").with_id("vector").into());
    jobs.push(Job::new("double", &21).unwrap().item_id("own"));
    let total = jobs.len() as u64;
    host.enqueue(process, jobs).unwrap();

    let client = Arc::new(ScriptedClient::new());
    let busy = || Error::new(ErrorKind::Transient, "busy").with_status(503);
    client.fail("flaky", busy());
    client.fail("bad", Error::new(ErrorKind::Invalid, "no").with_status(400));
    let retry = || RetryPolicy::default().base_delay(Duration::from_millis(1));
    let route = || Route::new(client.clone()).retry(retry());
    let double = |job: &RunningJob, _: &Context| job.parse::<u64>().map(|n| json!(n * 2));
    let worker = |queue| {
        let worker = Worker::new(queue).completions(route()).embeddings(route());
        let worker = worker.handle("double", Handler::new(double));
        worker
            .settings(WorkerSettings::default().scale(WorkerScale::fixed(3)))
            .until_empty(true)
    };
    let reports = std::thread::scope(|scope| {
        let running = [&host, &other].map(|queue| scope.spawn(|| worker(queue).run()));
        running.map(|worker| worker.join().unwrap().unwrap())
    });
    let done: u64 = reports.iter().map(|report| report.completed).sum();
    assert_eq!(done, total - 1);
    assert_eq!(client.calls_of("flaky"), 2);

    let state = other.process(process).unwrap().unwrap();
    assert!(state.counts.is_finished());
    assert_eq!(
        (state.counts.completed, state.counts.failed),
        (total - 1, 1)
    );
    let mut lines: Vec<Value> = Vec::new();
    let consumed = host.consume(process, |results| {
        for result in results {
            assert_ne!(result.status, JobStatus::Cancelled);
            lines.push(serde_json::from_str(&result.line()).unwrap());
        }
        Ok::<(), Error>(())
    });
    assert_eq!(consumed.unwrap(), total);
    let of = |id: &str| lines.iter().find(|line| line["id"] == id).unwrap();
    assert_eq!(of("7")["text"], "echo: 7");
    assert_eq!(of("flaky")["attempts"], 2);
    assert_eq!(of("bad")["error"]["kind"], "invalid");
    assert_eq!(of("own")["result"], 42);
    let vector: Vec<f32> = serde_json::from_value(of("vector")["embedding"].clone()).unwrap();
    assert_eq!(vector, scripted_vector("a text"));
    assert!(host.process(process).unwrap().is_none());
}

#[test]
fn batches_are_submitted_and_collected_on_it() {
    let batches = BatchConfig::default().duration(Duration::from_millis(20));
    let sim = simulator(SimConfig::default().batches(batches));
    let openai = LlmConfig::new("openai").model("sim-1");
    let openai = openai.base_url(format!("http://{}", sim.addr()));
    let openai = openai.api_key(Secret::new("sk-simulated-key"));

    let [host, other] = queues();
    let process = ProcessId::new();
    let prompt = |n| Request::new(format!("prompt {n}")).with_max_tokens(50);
    let jobs: Vec<Job> = (0..10).map(|n| prompt(n).into()).collect();
    host.enqueue(process, jobs).unwrap();
    let worker = |queue: &JobQueue, poll_interval| {
        let settings = BatchSettings::default().poll_interval(Some(poll_interval));
        Worker::new(queue)
            .batches(openai.batch_client().unwrap())
            .settings(WorkerSettings::default().batches(settings))
            .completions(Route::new(openai.client().unwrap()))
    };
    // One process submits and ends, and polls too rarely to collect anything itself; another one continues with its
    // batch.
    let seldom = Duration::from_secs(3_600);
    let report = worker(&host, seldom).until_submitted(true).run().unwrap();
    assert_eq!((report.batches, report.batches_open), (1, 1), "{report:?}");
    drop(host);
    let often = Duration::from_millis(20);
    let report = worker(&other, often).until_empty(true).run().unwrap();
    assert_eq!(report.completed, 10, "{report:?}");
    let stats = sim.batch_stats();
    assert_eq!((stats.created, stats.bought_twice), (1, 0), "{stats:?}");
    assert_eq!(other.get_results(process).count(), 10);
}
