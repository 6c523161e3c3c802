//! Single orders of events that the seeded schedules do not make: servers that lie, files that go,
//! calls that fail for good, and what is done elsewhere meanwhile.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::base::{Context, Error, ErrorKind, Sent};
use crate::llm::batch::{
    BatchClient, BatchInput, BatchLine, BatchLineResult, BatchRefusal, BatchStage, BatchState,
    BatchStatus, RequestName,
};

use super::super::context::Counts;
use super::fake_provider::{FakeClient, seconds};
use super::harness::{Harness, ScriptedClient, answered, in_state, intent, lost, refused};

fn transient(why: &str, status: u16) -> Error {
    Error::new(ErrorKind::Transient, why)
        .with_status(status)
        .with_sent(Sent::Answered)
}

#[test]
fn a_deadline_that_passes_during_the_upload_fails_no_job() {
    let (harness, client, process) = Harness::with(&["a", "b"]);
    let mut first = true;
    *client.advance.lock() = Box::new(move |_| {
        let ended = Error::new(ErrorKind::DeadlineExceeded, "the deadline passed");
        std::mem::take(&mut first).then_some(Err(ended))
    });
    harness.run(process);
    assert_eq!(harness.counts(process).failed, 0);
}

#[test]
fn results_under_strange_ids_are_not_bought_again_and_again() {
    let (harness, client, process) = Harness::with(&["a", "b"]);
    *client.download.lock() = Box::new(|_| Some(Ok("x-1 +a\nx-2 +b\n".to_owned())));
    let mut poller = harness.poller(harness.worker(), &[]);
    harness.until(&mut poller, || harness.is_over(process));
    // Four calls at most, as for any job that fails.
    assert!(
        harness.bought("a") <= 4,
        "bought {} times",
        harness.bought("a")
    );
}

#[test]
fn an_answer_counts_wherever_a_failure_of_its_request_stands() {
    let (harness, client, process) = Harness::with(&["a", "b"]);
    harness.on_download(&client, |items| {
        let answered: String = items.iter().map(answered).collect();
        let failed = answered.replace('+', "-");
        Some(format!("{failed}{answered}{failed}"))
    });
    harness.run(process);
    assert_eq!(harness.counts(process).completed, 2);
    assert_eq!((harness.bought("a"), harness.bought("b")), (1, 1));
}

#[test]
fn lines_of_requests_that_had_no_turn_hide_no_truncation() {
    let (harness, client, process) = Harness::with(&["a", "b"]);
    // `a` was answered before the batch expired. Its line is cut off the first download, `b`'s is not.
    *client.status.lock() = Box::new(|_| {
        Some(Ok(BatchStatus {
            state: BatchState::Expired,
            counts: None,
            results: vec!["results".to_owned()],
            expected: Some(1),
            poll_after: None,
        }))
    });
    let mut first = true;
    harness.on_download(&client, move |items| {
        let mut lines: Vec<String> = items.iter().map(answered).collect();
        if let Some(late) = lines.get_mut(1) {
            *late = late.replace('+', "~");
        }
        let skipped = usize::from(std::mem::take(&mut first));
        Some(lines[skipped..].concat())
    });
    *client.read.lock() = Box::new(|line| {
        let text = String::from_utf8(line.clone()).unwrap();
        let (key, prompt) = text.split_once(' ')?;
        prompt.starts_with('~').then(|| {
            let error = Error::new(ErrorKind::Transient, "it had no turn");
            Ok(BatchLine {
                key: key.to_owned(),
                result: BatchLineResult::NotProcessed(error),
            })
        })
    });
    harness.run(process);
    assert_eq!(harness.counts(process).completed, 2);
    let fake = harness.fake.lock();
    assert_eq!(fake.with("a").len(), 1, "it was sent twice");
}

#[test]
fn an_input_that_was_removed_is_written_again() {
    let (harness, client, process) = Harness::with(&["a", "b"]);
    let folder = harness.store.folder();
    let mut first = true;
    *client.advance.lock() = Box::new(move |_| {
        std::mem::take(&mut first).then(|| {
            std::fs::remove_dir_all(&folder).unwrap();
            Err(transient("busy", 503))
        })
    });
    harness.run(process);
    assert_eq!(harness.counts(process).completed, 2);
    assert!(harness.folder.path().exists());
}

#[test]
fn batches_that_a_provider_does_not_take_keep_no_other_from_its_work() {
    let harness = Harness::new();
    let broke = ScriptedClient {
        provider: "broke",
        ..ScriptedClient::of(&harness.fake)
    };
    *broke.advance.lock() = Box::new(|_| {
        Some(Err(
            Error::new(ErrorKind::Quota, "no credit").with_status(402)
        ))
    });
    let broke = Arc::new(broke);
    harness.control.set_client(Some(broke.clone()));
    harness.fake.lock().limits.requests = 1;
    harness.enqueue(&["a", "b", "c", "d"]);
    let mut poller = harness.poller(harness.worker(), &[]);
    let begun = || harness.store.batches(None).unwrap().len();
    assert!(harness.until(&mut poller, || begun() > 0));
    for _ in 0..40 {
        harness.turn(&mut poller);
    }
    // The provider is changed.
    harness.client();
    let process = harness.enqueue(&["e"]);
    harness.control.wake();
    let ended = harness.until(&mut poller, || harness.counts(process).is_finished());
    assert!(ended, "{:?}", harness.counts(process));
}

#[test]
fn a_creation_that_somebody_left_undecided_keeps_no_other_process_waiting() {
    let harness = Harness::new();
    harness.fake.lock().uploads = false;
    let client = harness.client();
    let left = harness.enqueue(&["a", "b"]);
    let process = harness.enqueue(&["c"]);
    *client.advance.lock() = Box::new(|_| Some(Err(lost())));
    let worker = harness.worker();
    let only = [left];
    let mut poller = harness.poller(worker, &only);
    assert!(harness.until(&mut poller, || {
        let batches = harness.store.batches(None).unwrap();
        batches.iter().any(|batch| batch.record.contains("unknown"))
    }));
    drop(poller);
    harness.retire(worker);
    // `run` of another file: it looks after its own process alone.
    harness.client();
    let only = [process];
    let mut poller = harness.poller(harness.worker(), &only);
    let ended = harness.until(&mut poller, || harness.counts(process).is_finished());
    assert!(ended, "{:?}", harness.store.batches(None).unwrap());
}

#[test]
fn a_cancellation_that_is_refused_for_good_keeps_nobody_from_the_results() {
    let (harness, client, process) = Harness::with(&["a", "b"]);
    *client.cancel.lock() = Box::new(|_| Some(Err(transient("cannot", 500))));
    let mut poller = harness.poller(harness.worker(), &[]);
    assert!(harness.until(&mut poller, || !harness.fake.lock().batches.is_empty()));
    harness.cancel(process);
    harness.until_over(&mut poller, process);
    assert_eq!(harness.counts(process).completed, 2);
}

#[test]
fn an_input_that_cannot_be_deleted_does_not_hide_a_batch_that_is_there() {
    let (harness, client, process) = Harness::with(&["a", "b"]);
    {
        let mut fake = harness.fake.lock();
        // It is listed after the time to reconcile.
        fake.lag = seconds(1_000_000);
    }
    *client.discard.lock() = Box::new(|_| Some(Err(refused("this key deletes no files", 403))));
    let (fake, mut first) = (FakeClient(harness.fake.clone()), true);
    *client.advance.lock() = Box::new(move |stage| {
        let BatchStage::Uploaded { .. } = stage else {
            return None;
        };
        if !std::mem::take(&mut first) {
            return None;
        }
        struct None_;
        impl BatchInput for None_ {
            fn open(&mut self) -> Result<Box<dyn std::io::Read + Send + '_>, Error> {
                unreachable!("no input")
            }
        }
        let intent = intent("late");
        fake.advance(&intent, stage, &mut None_, &Context::new())
            .unwrap();
        Some(Err(lost()))
    });
    let mut poller = harness.poller(harness.worker(), &[]);
    for _ in 0..60 {
        harness.turn(&mut poller);
    }
    harness.fake.lock().list_all();
    harness.until_over(&mut poller, process);
    assert_eq!((harness.bought("a"), harness.bought("b")), (1, 1));
}

#[test]
fn what_is_refused_whatever_it_holds_fails_after_a_few_batches() {
    let harness = Harness::new();
    harness.fake.lock().limits.requests = 5_000;
    let client = harness.client();
    let names: Vec<String> = (0..4_000).map(|n| format!("p{n}")).collect();
    let prompts: Vec<&str> = names.iter().map(String::as_str).collect();
    let process = harness.enqueue(&prompts);
    *client.status.lock() = Box::new(|_| {
        let why = refused("something that nobody knows here", 400);
        Some(Ok(in_state(BatchState::Refused(BatchRefusal::Unnamed(
            why,
        )))))
    });
    harness.run(process);
    let (creates, counts) = (harness.fake.lock().creates, harness.counts(process));
    assert!(creates <= 32, "{creates} submissions");
    assert!(counts.failed > 3_000, "{counts:?}");
}

#[test]
fn lines_that_a_batch_does_not_have_are_not_complained_of_for_ever() {
    let (harness, client, process) = Harness::with(&["a", "b"]);
    *client.status.lock() = Box::new(|_| {
        let lines = vec![(RequestName::Line(900), refused("bad line", 400))];
        Some(Ok(in_state(BatchState::Refused(BatchRefusal::Named(
            lines,
        )))))
    });
    harness.run(process);
    let creates = harness.fake.lock().creates;
    assert!(creates < 100, "{creates} submissions of two requests");
}

#[test]
fn a_line_that_was_refused_is_failed_once_though_the_batch_could_not_be_closed() {
    let (harness, _client, process) = Harness::with(&["poison", "b", "c"]);
    let mut poller = harness.poller(harness.worker(), &[]);
    assert!(harness.until(&mut poller, || !harness.fake.lock().batches.is_empty()));
    // The disk is full when the batch is to be closed, and has room again later.
    harness.store.chunks_left.store(0, Ordering::Relaxed);
    assert!(harness.until(&mut poller, || harness.counts(process).failed > 0));
    harness.turn(&mut poller);
    harness.store.chunks_left.store(i64::MAX, Ordering::Relaxed);
    harness.until_over(&mut poller, process);
    let counts = harness.counts(process);
    assert_eq!((counts.completed, counts.failed), (2, 1));
}

#[test]
fn a_client_that_panics_ends_no_poller() {
    let (harness, client, process) = Harness::with(&["a"]);
    let mut first = true;
    *client.status.lock() = Box::new(move |_| {
        assert!(!std::mem::take(&mut first), "the host's client panics");
        None
    });
    let mut poller = harness.poller(harness.worker(), &[]);
    let over = catch_unwind(AssertUnwindSafe(|| {
        harness.until(&mut poller, || harness.is_over(process))
    }));
    assert!(over.is_ok_and(|over| over), "its thread has ended");
}

#[test]
fn requests_that_had_no_turn_because_somebody_cancelled_the_batch_go_back() {
    let (harness, client, process) = Harness::with(&["a"]);
    let mut first = true;
    // As Anthropic's `canceled` is read.
    *client.read.lock() = Box::new(move |line| {
        let text = String::from_utf8(line.clone()).unwrap();
        std::mem::take(&mut first).then(|| {
            let why = "the batch was cancelled before this request's turn";
            let error = Error::new(ErrorKind::Cancelled, why).with_sent(Sent::Answered);
            Ok(BatchLine {
                key: text.split(' ').next().unwrap().to_owned(),
                result: BatchLineResult::NotProcessed(error),
            })
        })
    });
    // In the first batch it has no turn.
    harness.run(process);
    assert_eq!(harness.counts(process).completed, 1);
}

#[test]
fn who_could_not_look_does_not_say_that_nothing_is_there() {
    let (harness, _client, process) = Harness::with(&["a"]);
    let worker = harness.worker();
    let mut poller = harness.poller(worker, &[]);
    assert!(harness.until(&mut poller, || harness.counts(process).at_provider == 1));
    drop(poller);
    harness.retire(worker);
    // Another life, whose first look at the store fails.
    harness.overview.not_scanned.store(true, Ordering::SeqCst);
    harness.overview.report(Counts::default());
    harness.overview.not_scanned.store(true, Ordering::SeqCst);
    let conn = rusqlite::Connection::open(harness.folder.path().join("jobs.db")).unwrap();
    conn.execute("ALTER TABLE batches RENAME TO away", [])
        .unwrap();
    let mut poller = harness.poller(harness.worker(), &[]);
    poller.turn();
    assert!(
        harness.overview.open(false),
        "a worker that ends when all is done would end now"
    );
}

#[test]
fn a_wait_without_measure_does_not_outlast_the_results() {
    let (harness, client, process) = Harness::with(&["a"]);
    let mut first = true;
    *client.status.lock() = Box::new(move |_| {
        let months = transient("busy", 503).with_retry_after(Some(seconds(10_000_000)));
        std::mem::take(&mut first).then_some(Err(months))
    });
    harness.run(process);
}

#[test]
fn a_cancelled_batch_that_was_never_made_ends_though_its_input_stays() {
    let (harness, client, process) = Harness::with(&["a"]);
    *client.advance.lock() = Box::new(|stage| match stage {
        BatchStage::Uploaded { .. } => Some(Err(transient("busy", 429))),
        _ => None,
    });
    *client.discard.lock() = Box::new(|_| Some(Err(refused("this key deletes no files", 403))));
    let mut poller = harness.poller(harness.worker(), &[]);
    assert!(harness.until(&mut poller, || {
        let batches = harness.store.batches(None).unwrap();
        batches
            .iter()
            .any(|batch| batch.record.contains("uploaded"))
    }));
    harness.cancel(process);
    harness.until_over(&mut poller, process);
}

#[test]
fn what_waits_once_is_put_into_one_batch() {
    let harness = Harness::new();
    let client = harness.client();
    harness.enqueue(&["a"]);
    // The account is left alone for a while before anything is moved.
    *client.advance.lock() = Box::new(|_| {
        Some(Err(
            Error::new(ErrorKind::Quota, "no credit").with_status(402)
        ))
    });
    let mut poller = harness.poller(harness.worker(), &[]);
    for _ in 0..20 {
        harness.turn(&mut poller);
    }
    harness.enqueue(&["b"]);
    harness.control.wake();
    for _ in 0..200 {
        harness.control.wake();
        poller.turn();
        harness.clock.advance(Duration::from_millis(250));
    }
    assert_eq!(harness.store.batches(None).unwrap().len(), 2);
}
