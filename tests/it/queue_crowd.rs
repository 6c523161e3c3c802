//! Many threads and workers in one process, and jobs with unusual payloads.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use batchwright::progress::Timestamp;
use batchwright::queue::{JobStatus, WorkerScale, WorkerSettings};
use batchwright::unstable::{Clock, Time};
use batchwright::{
    Context, Error, ErrorKind, Handler, Job, ProcessId, Progress, RunningJob, Worker,
};
use parking_lot::Mutex;
use serde_json::json;

use super::queue::queue;

fn counted(calls: &Arc<AtomicUsize>) -> Handler {
    let calls = calls.clone();
    Handler::new(move |_: &RunningJob, _: &Context| Ok(calls.fetch_add(1, Ordering::SeqCst)))
}

fn job(n: usize) -> Job {
    Job::new("count", &n).unwrap().item_id(format!("i-{n}"))
}

/// Panics again when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

#[test]
fn a_panic_with_a_panicking_payload_fails_one_job() {
    for limit in [None, Some(Duration::from_secs(20))] {
        let (_folder, queue) = queue();
        let handler = Handler::new(|job: &RunningJob, _: &Context| {
            let n: usize = job.parse()?;
            if n == 1 {
                std::panic::panic_any(Bomb);
            }
            Ok(n)
        });
        let handler = match limit {
            Some(limit) => handler.within(limit),
            None => handler,
        };
        let process = ProcessId::new();
        queue
            .enqueue(process, [job(0), job(1).max_retries(0), job(2)])
            .unwrap();
        let report = Worker::new(&queue)
            .settings(WorkerSettings::default().scale(WorkerScale::fixed(1)))
            .until_empty(true)
            .handle("count", handler)
            .run()
            .unwrap();
        assert_eq!((report.completed, report.failed), (2, 1));
        let all: Vec<_> = queue.get_results(process).map(Result::unwrap).collect();
        let error = all[1].error.as_ref().unwrap();
        assert_eq!(error.kind(), ErrorKind::Panic, "{error}");
    }
}

#[test]
fn a_payload_that_panics_when_dropped_fails_one_job() {
    #[derive(serde::Deserialize)]
    #[serde(transparent)]
    struct Touchy(usize);
    impl Drop for Touchy {
        fn drop(&mut self) {
            assert_ne!(self.0, 1, "touchy");
        }
    }
    let (_folder, queue) = queue();
    let process = ProcessId::new();
    queue.enqueue(process, [job(0), job(1), job(2)]).unwrap();
    let handler = Handler::new(|job: &RunningJob, _: &Context| Ok(job.parse::<Touchy>()?.0));
    let report = Worker::new(&queue)
        .until_empty(true)
        .handle("count", handler)
        .run()
        .unwrap();
    assert_eq!((report.completed, report.failed), (2, 1));
}

#[test]
fn names_and_texts_of_any_kind_are_returned_unchanged() {
    let (_folder, queue) = queue();
    let odd = [
        "it's",
        "\"quoted\"",
        "two\nlines",
        "nul\0inside",
        "\0",
        "",
        "🦀 émoji",
        "\u{202e}back",
        "a\\b",
        "';DROP TABLE jobs;--",
        "\r\n\t",
        "%00",
        "../../etc/passwd",
    ];
    let process = ProcessId::new();
    let jobs: Vec<Job> = odd
        .iter()
        .map(|name| {
            let job = Job::new("echo", *name).unwrap();
            job.item_id(*name).request_hash(*name).lane(*name)
        })
        .collect();
    let ids = queue.enqueue(process, jobs).unwrap();
    let echo = Handler::new(|job: &RunningJob, _: &Context| {
        let text: String = job.parse()?;
        assert_eq!(job.item_id.as_ref(), Some(&text));
        Ok(text)
    });
    Worker::new(&queue)
        .until_empty(true)
        .handle("echo", echo)
        .run()
        .unwrap();
    let all: Vec<_> = queue.get_results(process).map(Result::unwrap).collect();
    assert_eq!(all.len(), odd.len());
    for ((result, name), id) in all.iter().zip(odd).zip(ids) {
        assert_eq!(result.status, JobStatus::Completed, "{name:?}");
        assert_eq!(result.item_id.as_deref(), Some(name));
        assert_eq!(result.request_hash.as_deref(), Some(name));
        assert_eq!(
            result.result.as_ref().unwrap().get(),
            json!(name).to_string()
        );
        assert_eq!(
            queue.job(id).unwrap().unwrap().item_id.as_deref(),
            Some(name)
        );
    }
    assert_eq!(
        queue.consume(process, |_| Ok::<_, Error>(())).unwrap(),
        odd.len() as u64
    );
}

#[test]
fn large_payloads_and_results_pass_through() {
    let (_folder, queue) = queue();
    let process = ProcessId::new();
    let payload = "p".repeat(20 << 20);
    let jobs = (0..2).map(|_| Job::new("grow", &payload).unwrap());
    queue.enqueue(process, jobs.collect::<Vec<_>>()).unwrap();
    let grow = Handler::new(|job: &RunningJob, _: &Context| {
        assert_eq!(job.payload.get().len(), (20 << 20) + 2);
        Ok("r".repeat(50 << 20))
    });
    let report = Worker::new(&queue)
        .settings(WorkerSettings::default().scale(WorkerScale::fixed(2)))
        .until_empty(true)
        .handle("grow", grow)
        .run()
        .unwrap();
    assert_eq!(report.completed, 2);
    let mut chunks = Vec::new();
    let consumed = queue.consume(process, |results| {
        chunks.push(results.len());
        let long =
            |result: &batchwright::queue::JobResult| result.result.as_ref().unwrap().get().len();
        assert!(results.iter().all(|result| long(result) == (50 << 20) + 2));
        Ok::<_, Error>(())
    });
    assert_eq!(consumed.unwrap(), 2);
    // Only the necessary parts are in memory.
    assert_eq!(chunks, [1, 1]);
    assert!(queue.process(process).unwrap().is_none());
}

#[test]
fn ten_thousand_processes_of_one_job_each_are_reported_and_finished() {
    const MANY: usize = 10_000;
    let (_folder, queue) = queue();
    for n in 0..MANY {
        queue.enqueue(ProcessId::new(), [job(n)]).unwrap();
    }
    let calls = Arc::new(AtomicUsize::new(0));
    let finished = Arc::new(Mutex::new(HashSet::new()));
    let heard = finished.clone();
    let notifier = move |progress: &Progress| {
        if progress.phase == batchwright::progress::Phase::Finished {
            heard.lock().insert(progress.process_id.unwrap());
        }
    };
    let report = Worker::new(&queue)
        .settings(WorkerSettings::default().scale(WorkerScale::fixed(8)))
        .until_empty(true)
        .notifier(Arc::new(notifier))
        .handle("count", counted(&calls))
        .run()
        .unwrap();
    assert_eq!(report.completed, MANY as u64);
    assert_eq!(calls.load(Ordering::SeqCst), MANY);
    assert_eq!(finished.lock().len(), MANY);
    let all = queue.open_processes().unwrap();
    assert_eq!(all.len(), MANY);
    assert!(all.iter().all(|process| process.counts.is_finished()));
}

/// The system's clock, with a settable time of day.
#[derive(Default)]
struct SetClock(AtomicI64);

impl SetClock {
    fn set(&self, by: Duration, back: bool) {
        let millis = by.as_millis() as i64;
        self.0
            .fetch_add(if back { -millis } else { millis }, Ordering::SeqCst);
    }
}

impl Clock for SetClock {
    fn now(&self) -> Time {
        batchwright::unstable::SystemClock.now()
    }

    fn wall(&self) -> Timestamp {
        let Timestamp(millis) = batchwright::unstable::SystemClock.wall();
        Timestamp(millis + self.0.load(Ordering::SeqCst))
    }
}

#[test]
fn changes_of_the_clock_lose_nothing() {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let (_folder, queue) = queue();
    let clock = Arc::new(SetClock::default());
    let queue = queue.clock(clock.clone());
    let calls = Arc::new(AtomicUsize::new(0));
    let process = ProcessId::new();
    // Enqueued while the clock was wrong by two days.
    clock.set(2 * DAY, false);
    queue.enqueue(process, [job(0)]).unwrap();
    clock.set(2 * DAY, true);
    queue.enqueue(process, [job(1)]).unwrap();
    let worker = Worker::new(&queue)
        .settings(WorkerSettings::default().poll_interval(Duration::from_millis(20)))
        .handle("count", counted(&calls))
        .start()
        .unwrap();
    while queue.process(process).unwrap().unwrap().counts.completed < 2 {
        std::thread::sleep(Duration::from_millis(5));
    }
    worker.stop().unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

#[test]
fn a_clock_that_is_set_back_keeps_no_worker_waiting() {
    const THREE_HOURS: Duration = Duration::from_secs(3 * 3600);
    let (_folder, queue) = queue();
    let clock = Arc::new(SetClock::default());
    let queue = queue.clock(clock.clone());
    let process = ProcessId::new();
    queue.enqueue(process, [0, 1, 2].map(job)).unwrap();
    // The first one waits for a retry when the second one sees the corrected clock.
    let calls = AtomicUsize::new(0);
    let handler = Handler::new(move |_: &RunningJob, _: &Context| {
        match calls.fetch_add(1, Ordering::SeqCst) {
            0 => {
                return Err(Error::new(ErrorKind::Transient, "later")
                    .with_retry_after(Some(Duration::from_secs(2))));
            }
            1 => clock.set(THREE_HOURS, true),
            _ => {}
        }
        Ok(1)
    });
    let report = Worker::new(&queue)
        .handle("count", handler)
        .settings(WorkerSettings::default().scale(WorkerScale::fixed(1)))
        // A run that would wait for hours stops here with a clear failure.
        .context(&Context::new().with_timeout(Duration::from_secs(60)))
        .until_empty(true)
        .run()
        .unwrap();
    assert_eq!(report.completed, 3, "{report:?}");
}

#[test]
fn a_job_that_waits_for_its_time_runs_when_the_clock_is_set_forward() {
    let (_folder, queue) = queue();
    let clock = Arc::new(SetClock::default());
    let queue = queue.clock(clock.clone());
    let process = ProcessId::new();
    queue.enqueue(process, [job(0)]).unwrap();
    let failed = Arc::new(AtomicBool::new(false));
    let once = failed.clone();
    let handler = Handler::new(move |_: &RunningJob, _: &Context| {
        if once.swap(true, Ordering::SeqCst) {
            Ok(1)
        } else {
            Err(Error::new(ErrorKind::Transient, "later")
                .with_retry_after(Some(Duration::from_secs(50))))
        }
    });
    let worker = Worker::new(&queue)
        .settings(WorkerSettings::default().poll_interval(Duration::from_millis(20)))
        .handle("count", handler)
        .start()
        .unwrap();
    let waits = || {
        let counts = queue.process(process).unwrap().unwrap().counts;
        failed.load(Ordering::SeqCst) && counts.pending == 1
    };
    while !waits() {
        std::thread::sleep(Duration::from_millis(5));
    }
    clock.set(Duration::from_secs(200), false);
    while queue.process(process).unwrap().unwrap().counts.completed < 1 {
        std::thread::sleep(Duration::from_millis(5));
    }
    worker.stop().unwrap();
}
