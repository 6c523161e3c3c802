//! Former bugs of workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use batchwright::progress::{Phase, Timestamp};
use batchwright::queue::{JobStatus, SqliteOptions, Store, WorkerSettings};
use batchwright::testing::ScriptedClient;
use batchwright::unstable::ClaimRequest;
use batchwright::{
    Context, Error, ErrorKind, Extract, Handler, Job, JobQueue, Limits, ProcessId, Progress,
    Request, RetryPolicy, Route, RunningJob, StopReason, Worker,
};
use parking_lot::Mutex;
use serde_json::json;

use super::common::{Has, eventually};

fn prompt(text: &str) -> Job {
    Job::from(Request::new(text).with_id(text))
}

#[test]
fn a_job_beyond_the_end_of_a_shortened_route_ends_on_its_last_step() {
    for last_one_fails in [false, true] {
        let queue = JobQueue::in_memory().unwrap();
        let no = || Error::new(ErrorKind::Invalid, "no").with_status(400);
        let busy = Error::new(ErrorKind::Transient, "busy").with_status(503);
        let steps = [(); 3].map(|()| Arc::new(ScriptedClient::new()));
        steps[0].refuse("x", no());
        steps[1].refuse("x", no());
        steps[2].refuse("x", busy.with_retry_after(Some(Duration::from_millis(300))));
        let process = ProcessId::new();
        let ids = queue.enqueue(process, [prompt("x")]).unwrap();
        let route = Route::new(steps[0].clone())
            .then(steps[1].clone(), Limits::default())
            .then(steps[2].clone(), Limits::default());
        let running = Worker::new(&queue).completions(route).start().unwrap();
        assert!(steps[2].wait_for_calls(1));
        running.stop().unwrap();
        assert_eq!(queue.job(ids[0]).unwrap().unwrap().step, 2);
        let only = Arc::new(ScriptedClient::new());
        if last_one_fails {
            only.refuse("x", no());
        }
        let worker = Worker::new(&queue).completions(Route::new(only.clone()));
        worker.until_empty(true).run().unwrap();
        let job = queue.job(ids[0]).unwrap().unwrap();
        let wanted = if last_one_fails {
            JobStatus::Failed
        } else {
            JobStatus::Completed
        };
        assert_eq!((job.status, only.calls().len()), (wanted, 1), "{job:?}");
        let line: serde_json::Value = serde_json::from_str(job.result.unwrap().get()).unwrap();
        assert_eq!(line["earlier"].as_array().unwrap().len(), 2);
        assert_eq!(line["earlier"][0]["provider"], "scripted");
    }
}

#[test]
fn the_end_of_a_workers_time_fails_no_job() {
    let queue = JobQueue::in_memory().unwrap();
    let client = Arc::new(ScriptedClient::new());
    let later = Error::new(ErrorKind::RateLimited, "later").with_status(429);
    client.refuse("x", later.with_retry_after(Some(Duration::from_secs(3600))));
    let process = ProcessId::new();
    let ids = queue.enqueue(process, [prompt("x")]).unwrap();
    let ctx = Context::new().with_timeout(Duration::from_millis(400));
    let worker = Worker::new(&queue)
        .completions(Route::new(client))
        .context(&ctx);
    let report = worker.run().unwrap();
    assert!(matches!(report.stop, Some(StopReason::DeadlineExceeded)));
    let job = queue.job(ids[0]).unwrap().unwrap();
    assert_eq!((job.status, job.attempts), (JobStatus::Pending, 1));
}

#[test]
fn a_worker_of_some_processes_ends_when_they_have_no_jobs_for_it() {
    let queue = JobQueue::in_memory().unwrap();
    let process = ProcessId::new();
    queue
        .enqueue(process, [Job::new("unknown", &1).unwrap()])
        .unwrap();
    let report = Worker::new(&queue)
        .completions(Route::new(Extract))
        .processes([process])
        .until_empty(true)
        .run()
        .unwrap();
    assert_eq!(report.completed, 0);
    assert_eq!(queue.process(process).unwrap().unwrap().counts.pending, 1);
}

#[test]
fn a_worker_whose_notifier_panics_keeps_no_jobs() {
    let queue = JobQueue::in_memory().unwrap();
    let client = Arc::new(ScriptedClient::new());
    client.hold();
    let process = ProcessId::new();
    queue.enqueue(process, [prompt("a"), prompt("b")]).unwrap();
    let armed = Arc::new(AtomicBool::new(false));
    let arms = armed.clone();
    let notifier = move |_: &Progress| assert!(!arms.load(Ordering::SeqCst), "the host's own");
    let quick = |_: &RunningJob, _: &Context| Ok(());
    let running = Worker::new(&queue)
        .completions(Route::new(client.clone()))
        .handle("quick", Handler::new(quick))
        .notifier(Arc::new(notifier))
        .start()
        .unwrap();
    assert!(client.wait_for_calls(2));
    armed.store(true, Ordering::SeqCst);
    let other = ProcessId::new();
    queue
        .enqueue(other, [Job::new("quick", &()).unwrap()])
        .unwrap();
    assert!(eventually(|| running.is_finished()));
    drop(running);
    let free = Worker::new(&queue)
        .completions(Route::new(Extract))
        .until_empty(true);
    assert_eq!(free.run().unwrap().completed, 2);
}

#[test]
fn a_process_finished_by_others_is_reported() {
    let queue = JobQueue::in_memory().unwrap();
    let seen: Arc<Mutex<Vec<(Phase, u64)>>> = Arc::default();
    let told = seen.clone();
    let notifier =
        move |progress: &Progress| told.lock().push((progress.phase, progress.completed));
    let watching = Worker::new(&queue)
        .notifier(Arc::new(notifier))
        .start()
        .unwrap();
    let process = ProcessId::new();
    queue.enqueue(process, [prompt("x")]).unwrap();
    let other = Worker::new(&queue)
        .completions(Route::new(Extract))
        .until_empty(true);
    other.run().unwrap();
    let finished = || seen.lock().last() == Some(&(Phase::Finished, 1));
    assert!(eventually(finished), "{:?}", seen.lock());
    watching.stop().unwrap();
}

#[test]
fn the_cost_of_failed_attempts_is_counted_however_the_job_ends() {
    let queue = JobQueue::in_memory().unwrap();
    let client = Arc::new(ScriptedClient::new());
    let paid = batchwright::Usage {
        input_tokens: 7,
        output_tokens: 3,
        ..Default::default()
    };
    for _ in 0..2 {
        let bad = Error::new(ErrorKind::Malformed, "nonsense").with_usage(paid);
        client.fail("x", bad.with_retry_after(Some(Duration::from_millis(1))));
    }
    let process = ProcessId::new();
    queue.enqueue(process, [prompt("x")]).unwrap();
    let quick = RetryPolicy::default().base_delay(Duration::from_millis(1));
    let worker = Worker::new(&queue)
        .completions(Route::new(client).retry(quick))
        .settings(WorkerSettings::default().retry(quick));
    worker.until_empty(true).run().unwrap();
    let state = queue.process(process).unwrap().unwrap();
    assert_eq!(state.counts.completed, 1);
    assert_eq!(
        (state.spent.input_tokens, state.spent.output_tokens),
        (14, 6)
    );
    let json = serde_json::to_value(&state).unwrap();
    json.has(json!({"cancelled": 0, "is_cancelled": false}));
}

#[test]
fn a_deleted_process_is_reported() {
    let queue = JobQueue::in_memory().unwrap();
    let process = ProcessId::new();
    queue
        .enqueue(process, [Job::new("unknown", &1).unwrap()])
        .unwrap();
    let seen: Arc<Mutex<Vec<Phase>>> = Arc::default();
    let told = seen.clone();
    let notifier = move |progress: &Progress| told.lock().push(progress.phase);
    let watching = Worker::new(&queue)
        .notifier(Arc::new(notifier))
        .start()
        .unwrap();
    assert!(eventually(|| seen.lock().last() == Some(&Phase::Running)));
    queue.delete(process).unwrap();
    let deleted = || seen.lock().last() == Some(&Phase::Deleted);
    assert!(eventually(deleted), "{:?}", seen.lock());
    watching.stop().unwrap();
}

#[test]
fn a_worker_that_could_not_unregister_keeps_no_jobs_after_recovery() {
    let folder = tempfile::tempdir().unwrap();
    let (there, away) = (folder.path().join("data"), folder.path().join("away"));
    let store = Store::open(&there.join("jobs.db"), SqliteOptions::default()).unwrap();
    let now = Timestamp(1_000);
    let jobs = vec![Job::new("kind", &1).unwrap()];
    let id = store.insert(ProcessId::new(), jobs, true, now).unwrap()[0];
    let worker = store.register_worker().unwrap();
    let wanted = ClaimRequest {
        most: 1,
        idle: true,
        processes: &[],
        open: &mut |_| 1,
    };
    assert_eq!(store.claim(worker, wanted, now).unwrap().jobs.len(), 1);
    std::fs::rename(&there, &away).unwrap();
    assert!(store.unregister_worker(worker, now).is_err());
    std::fs::rename(&away, &there).unwrap();
    assert_eq!(store.reclaim(now).unwrap(), 1);
    let job = store.job(id).unwrap().unwrap();
    assert_eq!((job.status, job.crashes), (JobStatus::Pending, 0));
}
