//! Many threads and workers in one process, and jobs with unusual payloads.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use batchwright::progress::Timestamp;
use batchwright::queue::JobStatus;
use batchwright::unstable::{Clock, SystemClock, Time};
use batchwright::{Context, Error, ErrorKind, Handler, Job, ProcessId, RunningJob};
use serde_json::json;

use super::queue::{queue, worker};

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
        let handler = Handler::new(
            |job: &RunningJob, _: &Context| match job.parse::<usize>()? {
                1 => std::panic::panic_any(Bomb),
                n => Ok(n),
            },
        );
        let handler = match limit {
            Some(limit) => handler.within(limit),
            None => handler,
        };
        let process = ProcessId::new();
        let jobs = [job(0), job(1).max_retries(0), job(2)];
        queue.enqueue(process, jobs).unwrap();
        let report = worker(&queue).handle("count", handler).run().unwrap();
        assert_eq!((report.completed, report.failed), (2, 1));
        let all: Vec<_> = queue.get_results(process).map(Result::unwrap).collect();
        let error = all[1].error.as_ref().unwrap();
        assert_eq!(error.kind(), ErrorKind::Panic, "{error}");
    }
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
    let jobs = odd.map(|name| {
        let job = Job::new("echo", name).unwrap();
        job.item_id(name).request_hash(name).lane(name)
    });
    let ids = queue.enqueue(process, jobs).unwrap();
    let echo = Handler::new(|job: &RunningJob, _: &Context| {
        let text: String = job.parse()?;
        assert_eq!(job.item_id.as_ref(), Some(&text));
        Ok(text)
    });
    worker(&queue).handle("echo", echo).run().unwrap();
    let all: Vec<_> = queue.get_results(process).map(Result::unwrap).collect();
    assert_eq!(all.len(), odd.len());
    for ((result, name), id) in all.iter().zip(odd).zip(ids) {
        assert_eq!(result.status, JobStatus::Completed, "{name:?}");
        assert_eq!(result.item_id.as_deref(), Some(name));
        assert_eq!(result.request_hash.as_deref(), Some(name));
        let answer = result.result.as_ref().unwrap().get();
        assert_eq!(answer, json!(name).to_string());
        let job = queue.job(id).unwrap().unwrap();
        assert_eq!(job.item_id.as_deref(), Some(name));
    }
    let consumed = queue.consume(process, |_| Ok::<_, Error>(()));
    assert_eq!(consumed.unwrap(), odd.len() as u64);
}

/// The system's clock, whose time of day is set back by this many milliseconds.
#[derive(Default)]
struct SetClock(AtomicI64);

impl Clock for SetClock {
    fn now(&self) -> Time {
        SystemClock.now()
    }

    fn wall(&self) -> Timestamp {
        let Timestamp(millis) = SystemClock.wall();
        Timestamp(millis - self.0.load(Ordering::SeqCst))
    }
}

#[test]
fn a_clock_that_is_set_back_keeps_no_worker_waiting() {
    const THREE_HOURS: i64 = 3 * 3_600_000;
    let (_folder, queue) = queue();
    let clock = Arc::new(SetClock::default());
    let queue = queue.clock(clock.clone());
    let process = ProcessId::new();
    queue.enqueue(process, [0, 1, 2].map(job)).unwrap();
    // The first one waits for a retry when the second one sees the corrected clock.
    let calls = AtomicUsize::new(0);
    let handler = Handler::new(move |_: &RunningJob, _: &Context| {
        let later = Error::new(ErrorKind::Transient, "later");
        match calls.fetch_add(1, Ordering::SeqCst) {
            0 => return Err(later.with_retry_after(Some(Duration::from_secs(2)))),
            1 => clock.0.store(THREE_HOURS, Ordering::SeqCst),
            _ => {}
        }
        Ok(1)
    });
    // A run that would wait for hours stops here with a clear failure.
    let ctx = Context::new().with_timeout(Duration::from_secs(60));
    let running = worker(&queue).handle("count", handler).context(&ctx);
    let report = running.run().unwrap();
    assert_eq!(report.completed, 3, "{report:?}");
}
