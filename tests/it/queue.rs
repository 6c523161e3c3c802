//! The queue and its worker through the public API.

use std::sync::Arc;
use std::time::Duration;

use super::bulk::{HOUR, manual_deadline};
use super::common::eventually;
use batchwright::progress::Phase;
use batchwright::queue::{
    Children, JobResult, JobStatus, ProcessInfo, WorkerScale, WorkerSettings,
};
use batchwright::testing::{ManualClock, ScriptedClient};
use batchwright::unstable::Clock;
use batchwright::{
    Budget, Context, Error, ErrorKind, Extract, Handler, Job, JobQueue, LlmConfig, ProcessId,
    Progress, Request, Response, RetryPolicy, Route, RunningJob, Secret, StopReason, Usd, Worker,
    client_fn,
};
use parking_lot::Mutex;
use tempfile::TempDir;

pub fn queue() -> (TempDir, JobQueue) {
    let folder = tempfile::tempdir().unwrap();
    let queue = JobQueue::open(&folder.path().join("llm_jobs.db")).unwrap();
    (folder, queue)
}

fn prompts(texts: &[&str]) -> Vec<Job> {
    let request = |text: &&str| Job::from(Request::new(*text).with_id(*text));
    texts.iter().map(request).collect()
}

fn quick() -> RetryPolicy {
    RetryPolicy::default().base_delay(Duration::from_millis(1))
}

fn route(client: &Arc<ScriptedClient>) -> Route<'static> {
    Route::new(client.clone()).retry(quick())
}

fn settings(slots: usize) -> WorkerSettings {
    let settings = WorkerSettings::default().retry(quick());
    settings.scale(WorkerScale::fixed(slots))
}

/// A worker with one slot that ends when no work is left.
pub fn worker(queue: &JobQueue) -> Worker {
    Worker::new(queue).settings(settings(1)).until_empty(true)
}

/// Stores the ends that it receives.
#[derive(Default)]
struct Ends(Mutex<Vec<Heard>>);

type Heard = (String, Option<(ProcessId, batchwright::JobId)>);

impl batchwright::progress::JobObserver for Ends {
    fn on_job_end(&self, job: &batchwright::progress::EndedJob<'_>) {
        self.0.lock().push((job.kind.to_owned(), job.ids));
    }
}

#[test]
fn a_direct_job_is_answered_like_others_and_its_end_is_reported_with_its_ids() {
    let (_folder, queue) = queue();
    let process = ProcessId::new();
    let jobs = prompts(&["a"]).into_iter().map(Job::direct);
    let ids = queue.enqueue(process, jobs.collect::<Vec<_>>()).unwrap();
    let ends = Arc::new(Ends::default());
    let client = Arc::new(ScriptedClient::new());
    let worker = worker(&queue).completions(route(&client));
    worker.observer(ends.clone()).run().unwrap();
    assert_eq!(
        *ends.0.lock(),
        [("completion_direct".to_owned(), Some((process, ids[0])))]
    );
    let result = queue.get_results(process).next().unwrap().unwrap();
    assert!(result.line().starts_with(r#"{"id":"a","success":true"#));
}

#[test]
fn attempts_are_stored_and_counted_across_restarts() {
    let (folder, queue) = queue();
    let client = Arc::new(ScriptedClient::new());
    let busy = Error::new(ErrorKind::Transient, "busy").with_status(503);
    client.refuse("a", busy);
    let jobs = prompts(&["a"]).into_iter().map(|job| job.max_retries(2));
    let ids = queue.enqueue(ProcessId::new(), jobs.collect::<Vec<_>>());
    let ids = ids.unwrap();
    // Each instance of the worker makes one call: the second call waits for an hour.
    for life in 1..=3_u32 {
        let slow = RetryPolicy::default().base_delay(Duration::from_millis(30));
        let running = Worker::new(&queue)
            .settings(WorkerSettings::default().retry(slow))
            .completions(Route::new(client.clone()).retry(slow))
            .start()
            .unwrap();
        assert!(client.wait_for_calls(life as usize));
        running.stop().unwrap();
        let queue = JobQueue::open(&folder.path().join("llm_jobs.db")).unwrap();
        let job = queue.job(ids[0]).unwrap().unwrap();
        assert!(job.attempts >= life, "{job:?}");
    }
    worker(&queue).completions(route(&client)).run().unwrap();
    let job = queue.job(ids[0]).unwrap().unwrap();
    assert_eq!((job.status, job.attempts), (JobStatus::Failed, 3));
    assert_eq!(client.calls().len(), 3);
    let errors = job.errors.iter().map(|one| &one.error);
    let errors = errors.map(|error| (error.message(), error.status()));
    assert!(errors.eq([("busy", Some(503)); 2]));
}

#[test]
fn a_wait_requested_by_a_handler_is_kept_exactly() {
    for (kind, wait) in [
        (ErrorKind::Transient, Duration::from_millis(70)),
        (ErrorKind::Transient, Duration::from_secs(3 * 3600)),
        (ErrorKind::RateLimited, Duration::from_secs(2 * 3600)),
    ] {
        let clock = Arc::new(ManualClock::new());
        let queue = JobQueue::in_memory().unwrap().clock(clock.clone());
        let jobs = [Job::new("sync", &1).unwrap()];
        let ids = queue.enqueue(ProcessId::new(), jobs).unwrap();
        let (began, begins) = crossbeam_channel::unbounded();
        let handler = Handler::new(move |job: &RunningJob, _: &Context| {
            began.send(job.attempts).unwrap();
            match job.attempts {
                0 => Err(Error::new(kind, "later").with_retry_after(Some(wait))),
                _ => Ok(()),
            }
        });
        let worker = Worker::new(&queue).handle("sync", handler);
        let running = worker.until_empty(true).start().unwrap();
        let patience = Duration::from_secs(30);
        assert_eq!(begins.recv_timeout(patience), Ok(0));
        let due = || queue.job(ids[0]).unwrap().unwrap().due_at;
        let asked = Some(clock.wall().after(wait));
        assert!(eventually(|| due() == asked), "{kind}: {:?}", due());
        clock.advance(wait - Duration::from_millis(1));
        assert!(begins.recv_timeout(Duration::from_millis(100)).is_err());
        clock.advance(Duration::from_millis(1));
        assert_eq!(begins.recv_timeout(patience), Ok(1));
        running.join().unwrap();
    }
}

#[test]
fn an_aborted_call_uses_no_attempt_and_is_possibly_billed() {
    let (_folder, queue) = queue();
    let client = Arc::new(ScriptedClient::new());
    client.hold();
    let process = ProcessId::new();
    let ids = queue.enqueue(process, prompts(&["a"])).unwrap();
    let ctx = Context::new().with_grace(Duration::ZERO);
    let running = Worker::new(&queue).context(&ctx);
    let running = running.completions(route(&client)).start().unwrap();
    assert!(client.wait_for_calls(1));
    let report = running.stop().unwrap();
    assert_eq!(report.given_back, 1);
    let job = queue.job(ids[0]).unwrap().unwrap();
    assert_eq!((job.status, job.crashes), (JobStatus::Pending, 0));
    client.release();
    let report = worker(&queue).completions(route(&client)).run().unwrap();
    assert_eq!(report.completed, 1);
}

#[test]
fn a_late_listener_gets_the_state_first_and_then_each_change() {
    let (_folder, queue) = queue();
    let client = Arc::new(ScriptedClient::new());
    let process = ProcessId::new();
    queue.enqueue(process, prompts(&["a", "b"])).unwrap();
    let first = worker(&queue).processes([process]);
    first.completions(route(&client)).run().unwrap();
    queue.enqueue(process, prompts(&["c"])).unwrap();
    let seen: Arc<Mutex<Vec<Progress>>> = Arc::default();
    let told = seen.clone();
    let notifier = move |progress: &Progress| told.lock().push(progress.clone());
    let watching = worker(&queue).notifier(Arc::new(notifier));
    watching.completions(route(&client)).run().unwrap();
    let seen = seen.lock();
    let first = &seen[0];
    assert_eq!(first.process_id, Some(process));
    assert_eq!((first.total, first.completed), (Some(3), 2));
    for progress in seen.iter() {
        let known = progress.completed + progress.failed + progress.cancelled;
        assert!(known + progress.in_flight + progress.at_provider <= progress.total.unwrap());
    }
    let last = seen.last().unwrap();
    assert_eq!((last.completed, last.percent), (3, Some(100.0)));
}

/// The numbers of completed and of waiting jobs.
fn ended_and_waiting(queue: &JobQueue, process: ProcessId) -> (u64, u64) {
    let counts = queue.process(process).unwrap().unwrap().counts;
    assert_eq!((counts.in_progress, counts.failed), (0, 0));
    (counts.completed, counts.pending)
}

/// The grace period of calls, by the clock of a test.
const GRACE: Duration = Duration::from_secs(60);

#[test]
fn a_worker_claims_nothing_after_its_deadline_and_calls_in_flight_end() {
    let (_folder, queue) = queue();
    let (clock, deadline) = manual_deadline();
    let queue = queue.clock(clock.clone());
    let process = ProcessId::new();
    queue.enqueue(process, prompts(&["a", "b", "c"])).unwrap();
    let (now, ends) = (clock.clone(), clock.wall().after(HOUR + GRACE));
    // Its answer arrives when its grace period ends, so the worker has noticed the deadline by then.
    let slow = client_fn(move |_: &Request, ctx: &Context| {
        now.advance(HOUR);
        let is_aborted = || {
            let is_aborted = ctx.is_cancelled();
            now.advance(GRACE / 10);
            is_aborted
        };
        assert!(eventually(is_aborted));
        assert!(now.wall() > ends, "the call has its grace period");
        Ok(Response::new("own", "late"))
    });
    let ctx = Context::new().with_grace(GRACE);
    let running = worker(&queue).completions(Route::new(slow).retry(quick()));
    let report = running.deadline(deadline).context(&ctx).run().unwrap();
    let is_over = |stop| assert!(matches!(stop, Some(StopReason::DeadlineExceeded)));
    is_over(report.stop);
    assert_eq!(ended_and_waiting(&queue, process), (1, 2));

    let client = Arc::new(ScriptedClient::new());
    // The next worker has the rest; one whose deadline is over claims nothing.
    let late = worker(&queue)
        .completions(route(&client))
        .deadline(deadline);
    is_over(late.run().unwrap().stop);
    assert_eq!(ended_and_waiting(&queue, process), (1, 2));
    let in_time = deadline + 1_000 * HOUR;
    let next = worker(&queue).completions(route(&client)).deadline(in_time);
    assert!(next.run().unwrap().stop.is_none());
    assert_eq!(ended_and_waiting(&queue, process), (3, 0));
    assert_eq!(client.calls(), ["b", "c"]);
}

#[test]
fn a_budget_of_the_route_ends_a_worker_and_its_jobs_wait() {
    let (_folder, queue) = queue();
    let process = ProcessId::new();
    let jobs = ["a", "b", "c"].map(|text| Job::from(Request::new(text).with_max_tokens(5)));
    queue.enqueue(process, jobs).unwrap();
    let client = Arc::new(ScriptedClient::new());
    let budget = Budget::usd(Usd::from_picos(1));
    let report = worker(&queue)
        .completions(route(&client).budget(&budget))
        .run()
        .unwrap();
    assert!(
        matches!(report.stop, Some(StopReason::BudgetExceeded(_))),
        "{report:?}"
    );
    assert_eq!(ended_and_waiting(&queue, process), (0, 3));
    assert!(client.calls().is_empty());

    // It would not limit batches.
    let api = LlmConfig::new("openai")
        .api_key(Secret::new("k"))
        .model("m");
    let route = route(&client).budget(&budget);
    let batches = worker(&queue)
        .completions(route)
        .batches(api.batch_client().unwrap());
    assert_eq!(batches.run().unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn results_of_a_collector_are_left_to_it() {
    let (_folder, queue) = queue();
    let process = ProcessId::new();
    let own = queue.described(ProcessInfo::new().collector("batch_1"));
    let other = queue.described(ProcessInfo::new().collector("batch_2"));
    own.enqueue(process, prompts(&["a", "b"])).unwrap();
    queue.cancel(process).unwrap();
    let save = |_: &[JobResult]| Ok::<(), Error>(());
    for stranger in [&queue, &other] {
        let consumed = stranger.consume(process, save).unwrap_err().to_string();
        let deleted = stranger.delete(process).unwrap_err().to_string();
        for refused in [consumed, deleted] {
            assert!(refused.contains("belongs to batch_1"), "{refused}");
        }
        assert_eq!(stranger.get_results(process).count(), 2);
    }
    assert_eq!(own.consume(process, save).unwrap(), 2);
}

#[test]
fn what_others_do_with_a_process_is_reported() {
    let queue = JobQueue::in_memory().unwrap();
    let seen: Arc<Mutex<Vec<(Phase, u64)>>> = Arc::default();
    let told = seen.clone();
    let notifier =
        move |progress: &Progress| told.lock().push((progress.phase, progress.completed));
    let watching = Worker::new(&queue).notifier(Arc::new(notifier));
    let watching = watching.start().unwrap();
    let sees = |phase| {
        let last = || seen.lock().last().is_some_and(|last| last.0 == phase);
        assert!(eventually(last), "{:?}", seen.lock());
        seen.lock().last().unwrap().1
    };
    let process = ProcessId::new();
    queue.enqueue(process, prompts(&["x"])).unwrap();
    let other = Worker::new(&queue).completions(Route::new(Extract));
    other.until_empty(true).run().unwrap();
    assert_eq!(sees(Phase::Finished), 1);
    let unknown = [Job::new("unknown", &1).unwrap()];
    queue.enqueue(process, unknown).unwrap();
    sees(Phase::Running);
    queue.delete(process).unwrap();
    sees(Phase::Deleted);
    watching.stop().unwrap();
}

#[test]
fn results_that_a_parent_collects_are_not_returned_to_hosts() {
    let queue = JobQueue::in_memory().unwrap();
    let process = ProcessId::new();
    let parent = [Job::new("gather", &1).unwrap()];
    queue.enqueue(process, parent).unwrap();
    let gathering = || {
        Handler::with_children(|_: &RunningJob, children: &Children, _: &Context| {
            let results = children.gather("prompts", || Ok(prompts(&["a", "b"])))?;
            Ok(results.map(|results| results.len()))
        })
    };
    worker(&queue).handle("gather", gathering()).run().unwrap();
    let client = Arc::new(ScriptedClient::new());
    worker(&queue).completions(route(&client)).run().unwrap();
    let mut below = queue.open_processes().unwrap();
    below.retain(|process| process.info.parent.is_some());
    let id = below[0].process_id;
    let taken = queue.consume(id, |_| panic!("nothing is handed out") as Result<(), Error>);
    let refused = taken.unwrap_err().to_string();
    assert!(refused.contains(&process.to_string()), "{refused}");
    let receipts = queue.peek(id, 9).unwrap();
    let receipts: Vec<_> = receipts.iter().map(|one| one.receipt).collect();
    let refused = queue.ack(&receipts).unwrap_err();
    assert_eq!((receipts.len(), refused.kind()), (2, ErrorKind::Invalid));
    let last = worker(&queue).handle("gather", gathering());
    last.completions(route(&client)).run().unwrap();
    let counts = queue.process(process).unwrap().unwrap().counts;
    assert_eq!((counts.completed, client.calls().len()), (1, 2));
}
