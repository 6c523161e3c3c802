//! Refusals of whole inputs and batches, which are no verdicts on the requests in them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::{Error, ProcessId};
use crate::engine::dispatch::ErrorPolicy;
use crate::llm::batch::BatchStage;

use super::fake_provider::seconds;
use super::harness::{Harness, refused};

/// The names of prompts.
fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("p{n}")).collect()
}

fn enqueue(harness: &Harness, names: &[String]) -> ProcessId {
    harness.fake.lock().limits.requests = 5_000;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    harness.enqueue(&names)
}

/// The names of the jobs that failed.
fn failed(harness: &Harness, process: ProcessId) -> Vec<String> {
    let results = harness
        .store
        .peek(process, None, 10_000, usize::MAX)
        .unwrap();
    let failed = results.into_iter().filter(|done| !done.result.is_success());
    failed
        .filter_map(|done| done.result.item_id.clone())
        .collect()
}

/// Refuses the first step of this kind, an upload or a creation.
fn refuse_first(harness: &Harness, creation: bool, error: Error) {
    let client = harness.client();
    let mut error = Some(error);
    *client.advance.lock() = Box::new(move |stage| {
        let is_creation = matches!(stage, BatchStage::Uploaded { .. });
        let error = (is_creation == creation).then(|| error.take()).flatten();
        error.map(Err)
    });
}

#[test]
fn a_request_that_an_upload_or_a_creation_names_fails_alone() {
    for (creation, why, failing) in [
        (false, "Line 4 is not valid JSON", &["p3"][..]),
        (
            true,
            "requests.5.params.max_tokens: Field required",
            &["p5"],
        ),
        (
            true,
            "Line 2: no url; line 3: no body; line 9: no method",
            &["p1", "p2", "p8"],
        ),
    ] {
        let harness = Harness::new();
        refuse_first(&harness, creation, refused(why, 400));
        let process = enqueue(&harness, &names(10));
        harness.run(process);
        assert_eq!(failed(&harness, process), failing, "{why}");
        assert_eq!(harness.counts(process).completed, 10 - failing.len() as u64);
        assert_eq!(harness.fake.lock().batches.len(), 1, "{why}");
    }
}

#[test]
fn twenty_requests_that_are_named_one_by_one_fail_alone() {
    let harness = Harness::new();
    let client = harness.client();
    let names = names(400);
    let process = enqueue(&harness, &names);
    // The first invalid request of those that are left: every 20th.
    let store = harness.store.clone();
    *client.advance.lock() = Box::new(move |stage| {
        let BatchStage::Uploaded { .. } = stage else {
            return None;
        };
        let batch = store.batches(None).unwrap();
        // The one that is being created: the others are halves that wait.
        let batch = batch
            .iter()
            .find(|batch| batch.record.contains("\"sent\":true"))?;
        let jobs = store.batch_jobs(batch.no, None, 5_000, usize::MAX).unwrap();
        let bad = jobs
            .iter()
            .position(|job| job.receipt.number().is_multiple_of(20))?;
        let why = format!("requests.{bad}.params.max_tokens: Field required");
        Some(Err(refused(&why, 400)))
    });
    harness.run(process);
    let expected: Vec<String> = names.into_iter().step_by(20).collect();
    assert_eq!(failed(&harness, process), expected);
}

#[test]
fn an_unnamed_request_costs_some_batches_and_a_few_calls() {
    let harness = Harness::new();
    {
        let mut fake = harness.fake.lock();
        fake.names_lines = false;
    }
    let mut names = names(1_000);
    names[700].push_str(" poison");
    harness.client();
    let process = enqueue(&harness, &names);
    harness.run(process);
    assert_eq!(failed(&harness, process), ["p700 poison"]);
    let fake = harness.fake.lock();
    let in_batches: usize = fake
        .batches
        .iter()
        .filter(|batch| !batch.is_refused())
        .map(|batch| batch.items.len())
        .sum();
    assert!(
        (901..1_000).contains(&in_batches),
        "{in_batches} in batches"
    );
    assert!(fake.bought.values().all(|times| *times == 1));
}

#[test]
fn what_belongs_to_the_account_holds_the_batch_and_says_what_to_do() {
    for (creation, status, why, advice) in [
        (
            false,
            400,
            "You have exceeded your file storage quota of 100 GB",
            "delete files",
        ),
        (
            false,
            403,
            "This organization already has the maximum number of files",
            "delete files",
        ),
        (
            true,
            429,
            "Enqueued token limit reached for m. Limit: 90,000 enqueued tokens",
            "wait until",
        ),
        (
            true,
            400,
            "Too many batches: at most 100 may be in progress",
            "wait until",
        ),
        (
            true,
            400,
            "Billing hard limit has been reached",
            "billing settings",
        ),
    ] {
        let harness = Harness::new();
        let client = harness.client();
        let clock = harness.clock.clone();
        let free = crate::base::Clock::now(&*clock).after(seconds(3 * 3600));
        *client.advance.lock() = Box::new(move |stage| {
            let is_creation = matches!(stage, BatchStage::Uploaded { .. });
            let refuses = is_creation == creation && crate::base::Clock::now(&*clock) < free;
            refuses.then(|| Err(refused(why, status)))
        });
        let process = enqueue(&harness, &names(40));
        let mut poller = harness.poller(harness.worker(), &[]);
        let says = |harness: &Harness| {
            let trouble = harness.overview.trouble.lock().clone();
            trouble.is_some_and(|trouble| trouble.contains(advice) && trouble.contains(why))
        };
        assert!(harness.until(&mut poller, || says(&harness)), "{why}");
        harness.until_over(&mut poller, process);
        assert_eq!(harness.counts(process).completed, 40, "{why}");
        assert!(harness.overview.critical.lock().is_none());
    }
}

#[test]
fn a_worker_that_only_submits_ends_while_the_account_has_no_room() {
    let harness = Harness::new();
    let client = harness.client();
    *client.advance.lock() = Box::new(|_| {
        let why = "Project file storage limit exceeded";
        Some(Err(refused(why, 400)))
    });
    let process = enqueue(&harness, &names(3));
    let mut poller = harness.poller(harness.worker(), &[]);
    poller.options.until_submitted = true;
    let stops = || harness.overview.critical.lock().is_some();
    assert!(harness.until(&mut poller, stops));
    assert_eq!(harness.counts(process).failed, 0);
    assert_eq!(harness.overview.failed.load(Ordering::SeqCst), 0);
}

#[test]
fn creations_that_are_answered_with_web_pages_end_the_worker_after_four() {
    let harness = Harness::new();
    let client = harness.client();
    let pages = Arc::new(AtomicU64::new(0));
    let count = pages.clone();
    *client.advance.lock() = Box::new(move |stage| {
        matches!(stage, BatchStage::Uploaded { .. }).then(|| {
            count.fetch_add(1, Ordering::SeqCst);
            let page = Error::new(
                crate::base::ErrorKind::Malformed,
                "it is a web page, not JSON",
            );
            Err(page.with_status(200).with_unreachable())
        })
    });
    let process = enqueue(&harness, &names(3));
    let mut poller = harness.poller(harness.worker(), &[]);
    poller.options.on_error = ErrorPolicy::StopOnCriticalError;
    let stops = || harness.overview.critical.lock().is_some();
    assert!(harness.until(&mut poller, stops));
    assert_eq!(pages.load(Ordering::SeqCst), 4);
    assert_eq!(harness.counts(process).failed, 0);
}

#[test]
fn a_batch_that_fails_its_validation_for_the_account_is_formed_again() {
    use crate::llm::batch::{BatchRefusal, BatchState};
    let harness = Harness::new();
    let client = harness.client();
    let mut times = 3;
    *client.status.lock() = Box::new(move |_| {
        times -= 1;
        let full = Error::new(crate::base::ErrorKind::Quota, "too many batches; wait");
        let refusal = BatchRefusal::Account(full);
        (times >= 0).then(|| Ok(super::harness::in_state(BatchState::Refused(refusal))))
    });
    let process = enqueue(&harness, &names(5));
    harness.run(process);
    assert_eq!(harness.counts(process).completed, 5);
}
