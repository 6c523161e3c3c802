//! The queue and its worker through the public API.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::common::eventually;
use batchwright::client::PackLimits;
use batchwright::queue::{JobStatus, WorkerScale};
use batchwright::testing::{ManualClock, ScriptedClient};
use batchwright::unstable::Clock;
use batchwright::{
    Context, Error, ErrorKind, ErrorPolicy, Handler, Job, JobQueue, Limits, Outcome, ProcessId,
    Progress, Request, RetryPolicy, Route, RunningJob, StopReason, Worker,
};
use parking_lot::{Condvar, Mutex};
use serde_json::{Value, json};
use tempfile::TempDir;

fn queue() -> (TempDir, JobQueue) {
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

/// A worker of one slot that ends when nothing is left.
fn worker(queue: &JobQueue) -> Worker {
    Worker::new(queue)
        .retry(quick())
        .scale(WorkerScale::fixed(1))
        .until_empty(true)
}

fn lines(queue: &JobQueue, process: ProcessId) -> Vec<Value> {
    let results = queue.get_results(process);
    let line = |result: Result<batchwright::queue::JobResult, Error>| {
        serde_json::from_str(result.unwrap().result.unwrap().get()).unwrap()
    };
    results.map(line).collect()
}

/// Counts up and lets others wait for it.
#[derive(Default)]
struct Steps(Mutex<usize>, Condvar);

impl Steps {
    fn next(&self) {
        *self.0.lock() += 1;
        self.1.notify_all();
    }

    fn wait_for(&self, n: usize) {
        let mut count = self.0.lock();
        while *count < n {
            let late = self.1.wait_for(&mut count, Duration::from_secs(10));
            assert!(!late.timed_out(), "{} of {n}", *count);
        }
    }
}

/// Keeps what it hears of ends.
#[derive(Default)]
struct Ends(Mutex<Vec<Heard>>);

type Heard = (String, Option<(ProcessId, batchwright::JobId)>);

impl batchwright::progress::JobObserver for Ends {
    fn on_job_end(&self, job: &batchwright::progress::EndedJob<'_>) {
        self.0.lock().push((job.kind.to_owned(), job.ids));
    }
}

#[test]
fn a_direct_job_is_answered_like_others_and_its_end_is_told_by_its_ids() {
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
fn prompts_go_in_and_result_lines_come_out() {
    let (_folder, queue) = queue();
    let client = Arc::new(ScriptedClient::new());
    client.fail("bad", Error::new(ErrorKind::Invalid, "no").with_status(400));
    let process = ProcessId::new();
    queue.enqueue(process, prompts(&["a", "bad", "c"])).unwrap();
    let report = worker(&queue).completions(route(&client)).run().unwrap();
    assert_eq!((report.completed, report.failed, report.calls), (2, 1, 3));
    assert!(report.stop.is_none());
    let counts = queue.process(process).unwrap().unwrap().counts;
    assert_eq!((counts.total, counts.completed, counts.failed), (3, 2, 1));
    let lines = lines(&queue, process);
    assert_eq!(lines[0]["id"], "a");
    assert_eq!(lines[0]["text"], "echo: a");
    assert_eq!(lines[0]["attempts"], 1);
    assert_eq!(lines[1]["error"]["kind"], "invalid");
    assert_eq!(lines[1]["request_hash"].as_str().unwrap().len(), 64);
    let mut saved = 0;
    let consumed = queue.consume(process, |results| {
        saved += results.len();
        Ok::<(), Error>(())
    });
    assert_eq!((consumed.unwrap(), saved), (3, 3));
    assert!(queue.process(process).unwrap().is_none());
    assert!(queue.open_processes().unwrap().is_empty());
}

#[test]
fn a_result_that_could_not_be_saved_stays() {
    let (_folder, queue) = queue();
    let client = Arc::new(ScriptedClient::new());
    let process = ProcessId::new();
    queue.enqueue(process, prompts(&["a", "b"])).unwrap();
    worker(&queue).completions(route(&client)).run().unwrap();
    assert!(queue.consume(process, |_| Err("disk full")).is_err());
    assert_eq!(queue.get_results(process).count(), 2);
    assert_eq!(queue.process(process).unwrap().unwrap().counts.consumed, 0);
}

#[test]
fn a_failure_waits_in_its_row_and_is_remembered() {
    let (_folder, queue) = queue();
    let client = Arc::new(ScriptedClient::new());
    for _ in 0..2 {
        client.fail(
            "a",
            Error::new(ErrorKind::Transient, "busy").with_status(503),
        );
    }
    let process = ProcessId::new();
    let ids = queue.enqueue(process, prompts(&["a"])).unwrap();
    let report = worker(&queue).completions(route(&client)).run().unwrap();
    assert_eq!((report.completed, report.retries, report.calls), (1, 2, 3));
    let job = queue.job(ids[0]).unwrap().unwrap();
    assert_eq!((job.status, job.attempts), (JobStatus::Completed, 3));
    assert_eq!(job.errors.len(), 2);
    assert_eq!(job.errors[0].error.message(), "busy");
    assert_eq!(job.errors[0].error.status(), Some(503));
}

#[test]
fn the_time_of_a_job_adds_up_over_its_claims() {
    let (_folder, queue) = queue();
    let client = Arc::new(ScriptedClient::new());
    let busy = Error::new(ErrorKind::Transient, "busy").with_status(503);
    client.fail("a", busy.clone());
    client.fail("a", busy);
    let process = ProcessId::new();
    let ids = queue.enqueue(process, prompts(&["a", "b"])).unwrap();
    let wait = Duration::from_millis(30);
    let slow = RetryPolicy::default().base_delay(wait);
    let worker = worker(&queue).retry(slow);
    worker.completions(route(&client)).run().unwrap();
    let job = queue.job(ids[0]).unwrap().unwrap();
    let outcome: Outcome = serde_json::from_str(job.result.unwrap().get()).unwrap();
    let time = outcome.time.unwrap();
    // The second wait is twice as long as the first.
    assert_eq!((outcome.attempts, time.total()), (3, outcome.latency));
    assert!(
        time.backoff >= 3 * wait && time.backoff <= outcome.latency,
        "{time:?}"
    );
    assert!(time.queued.is_zero());
    let before = job.time.unwrap();
    assert!(before.backoff >= 3 * wait, "{before:?} of {time:?}");
    assert!(
        before.total() - before.queued <= time.total(),
        "{before:?} of {time:?}"
    );
    let once = queue.job(ids[1]).unwrap().unwrap();
    assert!(once.time.is_none() && !once.result.unwrap().get().contains("time_ms"));
}

#[test]
fn retries_are_counted_across_restarts() {
    let (folder, queue) = queue();
    let client = Arc::new(ScriptedClient::new());
    client.refuse(
        "a",
        Error::new(ErrorKind::Transient, "busy").with_status(503),
    );
    let process = ProcessId::new();
    let jobs: Vec<Job> = prompts(&["a"])
        .into_iter()
        .map(|job| job.max_retries(2))
        .collect();
    let ids = queue.enqueue(process, jobs).unwrap();
    // Each life of the worker makes one call: the second one waits for an hour.
    for life in 1..=3_u32 {
        let slow = RetryPolicy::default().base_delay(Duration::from_millis(30));
        let running = Worker::new(&queue)
            .retry(slow)
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
}

#[test]
fn a_wait_that_a_handler_asks_for_is_kept_exactly() {
    for (kind, wait) in [
        (ErrorKind::Transient, Duration::from_millis(70)),
        (ErrorKind::Transient, Duration::from_secs(3 * 3600)),
        (ErrorKind::RateLimited, Duration::from_secs(2 * 3600)),
    ] {
        let clock = Arc::new(ManualClock::new());
        let queue = JobQueue::in_memory().unwrap().clock(clock.clone());
        let process = ProcessId::new();
        let ids = queue
            .enqueue(process, [Job::new("sync", &1).unwrap()])
            .unwrap();
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
        assert!(eventually(|| due().is_some()));
        assert_eq!(due(), Some(clock.wall().after(wait)), "{kind}");
        clock.advance(wait - Duration::from_millis(1));
        assert!(begins.recv_timeout(Duration::from_millis(100)).is_err());
        clock.advance(Duration::from_millis(1));
        assert_eq!(begins.recv_timeout(patience), Ok(1));
        running.join().unwrap();
    }
}

#[test]
fn the_step_of_the_route_is_remembered() {
    let (_folder, queue) = queue();
    let (first, second) = (
        Arc::new(ScriptedClient::new()),
        Arc::new(ScriptedClient::new()),
    );
    first.refuse(
        "a",
        Error::new(ErrorKind::Invalid, "not here").with_status(400),
    );
    second.refuse(
        "a",
        Error::new(ErrorKind::RateLimited, "later")
            .with_status(429)
            .with_retry_after(Some(Duration::from_secs(3600))),
    );
    let process = ProcessId::new();
    let ids = queue.enqueue(process, prompts(&["a"])).unwrap();
    let both = |second: &Arc<ScriptedClient>| {
        Route::new(first.clone())
            .then(second.clone(), Limits::default())
            .retry(quick())
    };
    let running = Worker::new(&queue)
        .completions(both(&second))
        .start()
        .unwrap();
    assert!(second.wait_for_calls(1));
    running.stop().unwrap();
    let job = queue.job(ids[0]).unwrap().unwrap();
    assert_eq!((job.status, job.step), (JobStatus::Pending, 1));
    assert!(job.due_at.is_some());
    queue.retry_failed(process).unwrap();
    assert_eq!(
        queue.job(ids[0]).unwrap().unwrap().step,
        1,
        "it has not failed"
    );
    assert_eq!(first.calls().len(), 1);
}

#[test]
fn the_fallbacks_answer_tells_why_the_others_gave_none() {
    let (_folder, queue) = queue();
    let (first, second) = (
        Arc::new(ScriptedClient::new()),
        Arc::new(ScriptedClient::new()),
    );
    first.refuse(
        "a",
        Error::new(ErrorKind::Invalid, "not here").with_status(400),
    );
    let process = ProcessId::new();
    queue.enqueue(process, prompts(&["a"])).unwrap();
    let both = Route::new(first)
        .then(second, Limits::default())
        .retry(quick());
    worker(&queue).completions(both).run().unwrap();
    let lines = lines(&queue, process);
    assert_eq!(lines[0]["success"], true);
    assert_eq!(lines[0]["attempts"], 2);
    assert_eq!(lines[0]["earlier"][0]["error"]["message"], "not here");
}

#[test]
fn higher_priorities_run_first_and_older_ones_first_within_one() {
    let (_folder, queue) = queue();
    let client = Arc::new(ScriptedClient::new());
    let process = ProcessId::new();
    let job = |(name, priority): (&str, u8)| Job::from(Request::new(name)).priority(priority);
    let jobs = [("low", 1), ("normal", 5), ("high", 9), ("normal too", 5)].map(job);
    queue.enqueue(process, jobs).unwrap();
    worker(&queue).completions(route(&client)).run().unwrap();
    assert_eq!(client.calls(), ["high", "normal", "normal too", "low"]);
}

#[test]
fn a_low_priority_is_not_starved_by_an_endless_stream_of_high_ones() {
    let (_folder, queue) = queue();
    let process = ProcessId::new();
    let stream = ProcessId::new();
    let started = Arc::new(AtomicUsize::new(0));
    let low_at = Arc::new(AtomicUsize::new(0));
    let (host, count, seen) = (queue.clone(), started.clone(), low_at.clone());
    // Each high job brings the next two along: there are always some.
    let high = move |_: &RunningJob, _: &Context| {
        count.fetch_add(1, Ordering::SeqCst);
        if seen.load(Ordering::SeqCst) == 0 {
            let more = [(); 2].map(|()| Job::new("high", &()).unwrap().priority(7));
            host.enqueue(stream, more)?;
        }
        Ok(())
    };
    let (count, seen) = (started.clone(), low_at.clone());
    let low = move |_: &RunningJob, _: &Context| {
        seen.store(count.load(Ordering::SeqCst).max(1), Ordering::SeqCst);
        Ok(())
    };
    let first = [
        Job::new("high", &()).unwrap().priority(7),
        Job::new("low", &()).unwrap().priority(1),
    ];
    queue.enqueue(process, first).unwrap();
    worker(&queue)
        .handle("high", Handler::new(high))
        .handle("low", Handler::new(low))
        .run()
        .unwrap();
    // One older job was due before it: at most two rounds of eight.
    let before = low_at.load(Ordering::SeqCst);
    assert!((1..=16).contains(&before), "{before} high ones went first");
}

#[test]
fn a_panic_and_a_hang_cost_one_job_each() {
    let (_folder, queue) = queue();
    let process = ProcessId::new();
    let hold = Arc::new(Steps::default());
    let held = hold.clone();
    let handler = move |job: &RunningJob, _: &Context| match job.parse::<String>()?.as_str() {
        "hang" => {
            held.wait_for(1);
            Ok("late")
        }
        _ => Ok("done"),
    };
    let panics = |_: &RunningJob, _: &Context| -> Result<(), Error> { panic!("oh no") };
    let jobs = [("panic", "panic"), ("odd", "hang"), ("odd", "good")];
    let jobs = jobs.map(|(kind, text)| Job::new(kind, text).unwrap().max_retries(0));
    let ids = queue.enqueue(process, jobs).unwrap();
    let report = worker(&queue)
        .scale(WorkerScale::fixed(3))
        .handle("panic", Handler::new(panics))
        .handle(
            "odd",
            Handler::new(handler).within(Duration::from_millis(50)),
        )
        .run()
        .unwrap();
    assert_eq!((report.completed, report.failed), (1, 2));
    let error = |id| queue.job(id).unwrap().unwrap().error.unwrap();
    assert_eq!(error(ids[0]).kind(), ErrorKind::Panic);
    assert_eq!(error(ids[1]).kind(), ErrorKind::Transient);
    hold.next();
}

#[test]
fn texts_to_embed_share_calls() {
    let (_folder, queue) = queue();
    let client = Arc::new(ScriptedClient::new());
    client.embeds(PackLimits {
        inputs: 8,
        tokens: u32::MAX,
    });
    let process = ProcessId::new();
    let text = |n: usize| Job::from(Request::embedding(format!("text {n}")).with_id(n.to_string()));
    queue
        .enqueue(process, (0..20).map(text).collect::<Vec<_>>())
        .unwrap();
    let report = worker(&queue).embeddings(route(&client)).run().unwrap();
    assert_eq!(report.completed, 20);
    assert_eq!(client.packs(), [8, 8, 4]);
    let lines = lines(&queue, process);
    assert!(lines.iter().all(|line| line["embedding"].is_array()));
}

#[test]
fn a_provider_that_refuses_the_key_fails_no_job() {
    let (_folder, queue) = queue();
    let client = Arc::new(ScriptedClient::new());
    let texts = ["a", "b", "c", "d"];
    for text in texts {
        client.refuse(
            text,
            Error::new(ErrorKind::Auth, "wrong key").with_status(401),
        );
    }
    let process = ProcessId::new();
    queue.enqueue(process, prompts(&texts)).unwrap();
    let report = worker(&queue)
        .completions(route(&client))
        .on_error(ErrorPolicy::StopOnCriticalError)
        .run()
        .unwrap();
    assert!(
        matches!(report.stop, Some(StopReason::Critical(_))),
        "{report:?}"
    );
    assert_eq!(
        (report.failed, report.given_back, client.calls().len()),
        (0, 1, 1)
    );
    let counts = queue.process(process).unwrap().unwrap().counts;
    assert_eq!(counts.pending, 4);
}

#[test]
fn a_new_route_serves_what_the_old_one_could_not() {
    let (_folder, queue) = queue();
    let (wrong, right) = (
        Arc::new(ScriptedClient::new()),
        Arc::new(ScriptedClient::new()),
    );
    wrong.refuse(
        "a",
        Error::new(ErrorKind::Transient, "no answer").with_unreachable(),
    );
    let process = ProcessId::new();
    let hour = RetryPolicy::default().max_retries(0);
    let done = Arc::new(Steps::default());
    let told = done.clone();
    let running = Worker::new(&queue)
        .completions(Route::new(wrong.clone()).retry(hour))
        .max_retries(0)
        .handle("other", Handler::new(|_: &RunningJob, _: &Context| Ok(())))
        .notifier(Arc::new(move |progress: &Progress| {
            if progress.completed > 0 {
                told.next();
            }
        }))
        .start()
        .unwrap();
    queue.enqueue(process, prompts(&["a"])).unwrap();
    assert!(wrong.wait_for_calls(1));
    running.set_completions(route(&right));
    done.wait_for(1);
    running.stop().unwrap();
    assert_eq!(lines(&queue, process)[0]["success"], true);
}

#[test]
fn slots_become_more_and_fewer_while_the_worker_runs() {
    let (_folder, queue) = queue();
    let client = Arc::new(ScriptedClient::new());
    client.hold();
    let texts: Vec<String> = (0..30).map(|n| n.to_string()).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let process = ProcessId::new();
    queue.enqueue(process, prompts(&texts)).unwrap();
    let unlimited = Limits::default().burst(100);
    let running = Worker::new(&queue)
        .scale(WorkerScale::fixed(2))
        .completions(Route::limited(client.clone(), unlimited))
        .start()
        .unwrap();
    assert!(client.wait_for_calls(2));
    running.set(running.settings().scale(WorkerScale::fixed(12)));
    assert!(client.wait_for_calls(12));
    assert_eq!(client.max_in_flight(), 12);
    let claimed = queue.process(process).unwrap().unwrap().counts.in_progress;
    assert_eq!(claimed, 12, "never more than there are slots");
    client.release();
    assert!(client.wait_for_calls(30));
    running.stop().unwrap();
}

#[test]
fn a_worker_that_stops_lets_calls_end_and_gives_back_the_rest() {
    let (_folder, queue) = queue();
    let client = Arc::new(ScriptedClient::new());
    client.hold();
    let process = ProcessId::new();
    queue.enqueue(process, prompts(&["a", "b", "c"])).unwrap();
    let ctx = Context::new();
    let running = Worker::new(&queue)
        .context(&ctx)
        .scale(WorkerScale::fixed(2))
        .completions(route(&client))
        .start()
        .unwrap();
    assert!(client.wait_for_calls(2));
    ctx.cancel();
    client.release();
    let report = running.stop().unwrap();
    assert_eq!(report.completed, 2);
    let counts = queue.process(process).unwrap().unwrap().counts;
    assert_eq!(
        (counts.completed, counts.pending, counts.in_progress),
        (2, 1, 0)
    );
}

#[test]
fn a_call_that_is_cut_off_spends_no_attempt_and_is_in_doubt() {
    let (_folder, queue) = queue();
    let client = Arc::new(ScriptedClient::new());
    client.hold();
    let process = ProcessId::new();
    let ids = queue.enqueue(process, prompts(&["a"])).unwrap();
    let ctx = Context::new().with_grace(Duration::ZERO);
    let running = Worker::new(&queue)
        .context(&ctx)
        .completions(route(&client))
        .start()
        .unwrap();
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
fn a_late_listener_is_told_the_state_first_and_then_each_change() {
    let (_folder, queue) = queue();
    let client = Arc::new(ScriptedClient::new());
    let process = ProcessId::new();
    queue.enqueue(process, prompts(&["a", "b"])).unwrap();
    worker(&queue)
        .processes([process])
        .completions(route(&client))
        .run()
        .unwrap();
    queue.enqueue(process, prompts(&["c"])).unwrap();
    let seen: Arc<Mutex<Vec<Progress>>> = Arc::default();
    let told = seen.clone();
    worker(&queue)
        .completions(route(&client))
        .notifier(Arc::new(move |progress: &Progress| {
            told.lock().push(progress.clone())
        }))
        .run()
        .unwrap();
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

#[test]
fn an_iterator_is_started_only_when_all_of_it_is_there() {
    let (_folder, queue) = queue();
    let client = Arc::new(ScriptedClient::new());
    let process = ProcessId::new();
    let source = (0..2500).map(|n| {
        if n == 2000 {
            // Two groups are written and nothing of them can be claimed.
            let report = worker(&queue).completions(route(&client)).run().unwrap();
            assert_eq!(report.completed, 0);
            assert!(!queue.process(process).unwrap().unwrap().sealed);
        }
        Job::from(Request::new(n.to_string()))
    });
    assert_eq!(queue.enqueue_iter(process, source).unwrap(), 2500);
    let report = worker(&queue)
        .scale(WorkerScale::fixed(8))
        .completions(Route::limited(client.clone(), Limits::default().burst(100)))
        .run()
        .unwrap();
    assert_eq!(report.completed, 2500);
}

#[test]
fn what_was_cancelled_stays_undone_and_what_failed_can_be_put_back() {
    let (_folder, queue) = queue();
    let client = Arc::new(ScriptedClient::new());
    client.fail("a", Error::new(ErrorKind::Invalid, "no").with_status(400));
    let process = ProcessId::new();
    queue.enqueue(process, prompts(&["a"])).unwrap();
    worker(&queue).completions(route(&client)).run().unwrap();
    assert_eq!(queue.retry_failed(process).unwrap(), 1);
    queue.enqueue(process, prompts(&["b"])).unwrap();
    worker(&queue).completions(route(&client)).run().unwrap();
    assert_eq!(
        lines(&queue, process)
            .iter()
            .filter(|l| l["success"] == true)
            .count(),
        2
    );
    let other = ProcessId::new();
    queue.enqueue(other, prompts(&["c", "d"])).unwrap();
    assert_eq!(queue.cancel(other).unwrap(), 2);
    let before = client.calls().len();
    worker(&queue).completions(route(&client)).run().unwrap();
    assert_eq!(client.calls().len(), before);
    assert!(queue.enqueue(other, prompts(&["e"])).is_err());
    assert_eq!(queue.delete(other).unwrap(), 2);
    assert!(queue.process(other).unwrap().is_none());
}

#[test]
fn jobs_nobody_here_knows_wait_for_another_worker() {
    let (_folder, queue) = queue();
    let process = ProcessId::new();
    let job = Job::new("resize", &json!({"width": 100})).unwrap();
    let ids = queue.enqueue(process, [job]).unwrap();
    let client = Arc::new(ScriptedClient::new());
    worker(&queue).completions(route(&client)).run().unwrap();
    assert_eq!(
        queue.job(ids[0]).unwrap().unwrap().status,
        JobStatus::Pending
    );
    let width = |job: &RunningJob, _: &Context| Ok(job.parse::<Value>()?["width"].clone());
    worker(&queue)
        .handle("resize", Handler::new(width))
        .run()
        .unwrap();
    let job = queue.job(ids[0]).unwrap().unwrap();
    assert_eq!(job.result.unwrap().get(), "100");
}
