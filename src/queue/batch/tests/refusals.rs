//! Refusals of whole inputs and batches, which are no verdicts on the requests in them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::{Clock, Error, ErrorKind, ProcessId, Sent};
use crate::engine::dispatch::ErrorPolicy;
use crate::llm::batch::BatchStage;

use super::fake_client::FakeClient;
use super::fake_provider::{FakeProvider, seconds};
use super::harness::{HOUR, Harness, lost, refused, transient};

/// A process with this number of prompts.
fn prompts(count: usize) -> (Harness, Arc<FakeClient>, ProcessId) {
    let harness = Harness::new();
    harness.fake.lock().limits.requests = 5_000;
    let names: Vec<String> = (0..count).map(|n| format!("p{n}")).collect();
    let (client, process) = (harness.client(), harness.enqueue(&names));
    (harness, client, process)
}

fn creates(stage: &BatchStage) -> bool {
    matches!(stage, BatchStage::Uploaded { .. })
}

/// The names of the jobs that failed.
fn failed(harness: &Harness, process: ProcessId) -> Vec<String> {
    let results = harness.store.peek(process, None, 10_000, usize::MAX);
    let results = results.unwrap().into_iter();
    let failed = results.filter(|done| !done.result.is_success());
    failed
        .filter_map(|done| done.result.item_id.clone())
        .collect()
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
        let (harness, client, process) = prompts(10);
        let mut first = true;
        client.advance.set(move |stage| {
            let refuses = first && creates(stage) == creation;
            first &= !refuses;
            refuses.then(|| Err(refused(why, 400)))
        });
        harness.run(process);
        assert_eq!(failed(&harness, process), failing, "{why}");
        assert_eq!(harness.counts(process).completed, 10 - failing.len() as u64);
        assert_eq!(harness.fake.lock().batches.len(), 1, "{why}");
    }
}

#[test]
fn twenty_requests_that_are_named_one_by_one_fail_alone() {
    let (harness, client, process) = prompts(400);
    // The first invalid request of those that are left: every 20th.
    let store = harness.store.clone();
    client.advance.set(move |stage| {
        let batches = store.batches(None).unwrap();
        // The one that is being created: the others are halves that wait.
        let mut batches = batches.iter().filter(|_| creates(stage));
        let batch = batches.find(|batch| batch.record.contains("\"sent\":true"))?;
        let jobs = store.batch_jobs(batch.no, None, 5_000, usize::MAX).unwrap();
        let mut numbers = jobs.iter().map(|job| job.receipt.number());
        let bad = numbers.position(|number| number.is_multiple_of(20))?;
        let why = format!("requests.{bad}.params.max_tokens: Field required");
        Some(Err(refused(&why, 400)))
    });
    harness.run(process);
    let expected: Vec<String> = (0..400).step_by(20).map(|n| format!("p{n}")).collect();
    assert_eq!(failed(&harness, process), expected);
}

#[test]
fn an_unnamed_request_costs_some_batches_and_a_few_calls() {
    let (harness, _client, _) = prompts(0);
    harness.fake.lock().names_lines = false;
    let mut names: Vec<String> = (0..1_000).map(|n| format!("p{n}")).collect();
    names[700].push_str(" poison");
    let process = harness.enqueue(&names);
    harness.run(process);
    assert_eq!(failed(&harness, process), ["p700 poison"]);
    let fake = harness.fake.lock();
    let taken = fake.batches.iter().filter(|batch| batch.refused.is_none());
    let in_batches: usize = taken.map(|batch| batch.items.len()).sum();
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
        (true, 429, "Slow down", "tried again every minute"),
        (false, 429, "Request too large: 9 tokens", "every minute"),
    ] {
        let (harness, client, process) = prompts(40);
        let clock = harness.clock.clone();
        let free = clock.now().after(3 * HOUR);
        client.advance.set(move |stage| {
            let refuses = creates(stage) == creation && clock.now() < free;
            refuses.then(|| Err(refused(why, status)))
        });
        let mut poller = harness.new_poller();
        let says = |what: &str| harness.trouble().contains(what);
        harness.until(&mut poller, || says(advice) && says(why));
        harness.until_over(&mut poller, process);
        harness.ended(process, [40, 0, 0, 0]);
        assert!(harness.overview.critical.lock().is_none());
        // Only one that may be too large for the queue there is divided.
        let batches = harness.fake.lock().batches.len();
        assert!(batches == 1 || why.contains("Enqueued"), "{why}: {batches}");
    }
}

/// A worker that only submits ends while the account has no room, has too many requests, or its provider is away. Another
/// one that stops on critical errors ends after four web pages in place of a reply.
#[test]
fn what_is_refused_again_and_again_for_no_request_ends_the_worker_and_fails_no_job() {
    let full = refused("Project file storage limit exceeded", 400);
    let page = Error::new(ErrorKind::Malformed, "it is a web page, not JSON");
    let page = page.with_status(200).with_unreachable();
    let queue = refused("Enqueued token limit reached", 429);
    let away = Error::new(ErrorKind::Transient, "a web page").with_status(503);
    let rate = Error::new(ErrorKind::RateLimited, "slow down").with_status(429);
    let asks = |wait| rate.clone().with_retry_after(Some(seconds(wait)));
    for (count, tries, is_page, error) in [
        (3, 1, false, full),
        (120, 0, false, queue),
        (10, 4, false, rate.clone()),
        (10, 4, false, asks(20)),
        (10, 4, false, asks(60)),
        (10, 1, false, asks(900)),
        (3, 4, false, away),
        (3, 4, true, page),
    ] {
        let (harness, client, process) = prompts(count);
        let why = error.to_string();
        let times = Arc::new(AtomicU64::new(0));
        let counted = times.clone();
        client.advance.set(move |stage| {
            let refuses = creates(stage) || !is_page && count != 10;
            refuses.then(|| {
                counted.fetch_add(1, Ordering::SeqCst);
                Err(error.clone())
            })
        });
        let mut poller = harness.new_poller();
        let began = harness.clock.now();
        if is_page {
            poller.options.on_error = ErrorPolicy::StopOnCriticalError;
        } else {
            poller.options.scope.until_submitted = true;
        }
        let stops = || harness.overview.critical.lock().is_some();
        harness.until(&mut poller, stops);
        let tried = times.load(Ordering::SeqCst);
        assert!(tries == 0 || tried == tries, "{why}: {tried}");
        let took = harness.clock.now().since(began);
        // Three waits, and the last turn.
        assert!(is_page || took < seconds(250), "{why}: {took:?}");
        harness.ended(process, [0, 0, 0, count as u64]);
        assert_eq!(harness.overview.tally.lock().failed, 0);
    }
}

/// A worker that only submits ends as well if the outcome of each creation is unknown, whether or not the list fails, or
/// if the connection is cut after an earlier reply. The next worker creates one batch.
#[test]
fn a_provider_that_is_lost_while_it_is_sent_a_batch_ends_the_worker_and_is_paid_once() {
    let cut = Error::new(ErrorKind::Transient, "no connection").with_unreachable();
    let cut = cut.with_sent(Sent::No);
    for (uploads, creation, trouble, error) in [
        (true, true, 100, transient("away", 500)),
        (true, true, 0, transient("away", 500)),
        (false, true, 100, transient("away", 529)),
        (true, true, 100, lost()),
        (true, true, 100, cut),
        (true, false, 100, lost()),
    ] {
        // Two that cannot be uploaded may be too large, and are divided.
        let count = if creation { 3 } else { 1 };
        let (harness, client, process) = prompts(count as usize);
        harness.fake.lock().uploads = uploads;
        let (fake, why) = (harness.fake.clone(), error.clone());
        let mut texts = ["away", "busy"].into_iter().cycle();
        client.advance.set(move |stage| {
            let refuses = !uploads || creates(stage) == creation;
            refuses.then(|| {
                fake.lock().trouble = trouble;
                Err(why.clone().reworded(texts.next().unwrap().to_owned()))
            })
        });
        let worker = harness.worker();
        let mut poller = harness.poller(worker, &[]);
        poller.options.scope.until_submitted = true;
        harness.until(&mut poller, || harness.overview.critical.lock().is_some());
        drop(poller);
        harness.ended(process, [0, 0, 0, count]);
        assert_eq!(harness.overview.tally.lock().failed, 0);
        if uploads {
            client.advance.clear();
            harness.fake.lock().trouble = 0;
            *harness.overview.critical.lock() = None;
            harness.retire(worker);
            harness.run(process);
            harness.ended(process, [count, 0, 0, 0]);
            assert_eq!(harness.fake.lock().creates, 1, "{error}");
        }
    }
}

/// In place of answering 413. A worker that only submits goes on.
#[test]
fn an_upload_whose_connection_is_reset_for_its_size_is_divided() {
    let (harness, client, _) = prompts(4);
    let store = harness.store.clone();
    client.advance.set(move |_| {
        let mut batches = store.batches(None).unwrap().into_iter();
        let is_large = batches.any(|batch| batch.record.contains("\"items\":4"));
        is_large.then(|| Err(lost()))
    });
    let mut poller = harness.new_poller();
    poller.options.scope.until_submitted = true;
    harness.until_created(&mut poller, 2);
    assert!(harness.overview.critical.lock().is_none());
}

#[test]
fn a_batch_at_an_earlier_provider_that_is_away_does_not_end_the_worker_before_others_are_sent() {
    let (harness, client, _) = prompts(2);
    let (fake, creation) = (harness.fake.clone(), lost());
    client.advance.set(move |stage| {
        fake.lock().trouble = if creates(stage) { 100 } else { 0 };
        creates(stage).then(|| Err(creation.clone()))
    });
    let mut poller = harness.new_poller();
    harness.until(&mut poller, || harness.has_record("\"failures\":5"));
    poller.options.scope.until_submitted = true;
    let other = FakeProvider::new(7, harness.clock.clone());
    let other = Arc::new(parking_lot::Mutex::new(other));
    other.lock().overview = harness.overview.clone();
    let new = harness.use_client(FakeClient {
        provider: "new",
        ..FakeClient::of(&other)
    });
    new.advance.once(|_| Err(transient("busy", 503)));
    harness.enqueue(&["a"]);
    harness.until(&mut poller, || harness.has_record("\"failures\":1,"));
    // Its next step is late.
    let mut batches = poller.batches.values_mut();
    let late = batches.find(|open| open.record.failures == 1).unwrap();
    (late.record.failures, late.due) = (0, harness.clock.now().after(HOUR));
    harness.until(&mut poller, || harness.has_record("\"failures\":8"));
    assert!(harness.overview.critical.lock().is_none());
    harness.until(&mut poller, || harness.overview.critical.lock().is_some());
    assert_eq!(other.lock().creates, 1);
}
