//! Refusals of whole inputs and batches, which are no verdicts on the requests in them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::{Clock, Error, ErrorKind, ProcessId, Sent};
use crate::engine::dispatch::ErrorPolicy;
use crate::llm::batch::{BatchRefusal, BatchStage, RefusalOutcome, RequestName};

use super::fake_client::FakeClient;
use super::fake_provider::{FakeProvider, seconds};
use super::harness::{HOUR, Harness, lost, refused, refusing, transient};

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

/// A refusal that names these lines.
fn naming(lines: &[u64]) -> BatchRefusal {
    let why = refused("not valid", 400);
    let line = |line: &u64| (RequestName::Line(*line), why.clone());
    let names = lines.iter().map(line).collect();
    refusing(RefusalOutcome::Named(names), why.clone())
}

#[test]
fn a_request_that_an_upload_or_a_creation_names_fails_alone() {
    for (creation, lines, failing) in [
        (false, &[4][..], &["p3"][..]),
        (true, &[6], &["p5"]),
        (true, &[2, 3, 9], &["p1", "p2", "p8"]),
    ] {
        let (harness, client, process) = prompts(10);
        let mut first = true;
        client.advance.set(move |stage| {
            let refuses = first && creates(stage) == creation;
            first &= !refuses;
            refuses.then(|| Err(naming(lines)))
        });
        harness.run(process);
        assert_eq!(failed(&harness, process), failing);
        assert_eq!(harness.counts(process).completed, 10 - failing.len() as u64);
        assert_eq!(harness.fake.lock().batches.len(), 1);
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
        Some(Err(naming(&[bad as u64 + 1])))
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
fn what_has_no_room_is_held_with_the_words_of_the_provider_and_sent_again_with_its_file() {
    for (creation, room, status) in [
        (false, false, 400),
        (true, true, 429),
        (true, false, 429),
        (false, false, 503),
    ] {
        let (harness, client, process) = prompts(40);
        let clock = harness.clock.clone();
        let free = clock.now().after(seconds(200));
        let (uploads, counted) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (sent, tries) = (uploads.clone(), counted.clone());
        client.advance.set(move |stage| {
            sent.fetch_add(u64::from(!creates(stage)), Ordering::SeqCst);
            let refuses = creates(stage) == creation && clock.now() < free;
            refuses.then(|| {
                tries.fetch_add(1, Ordering::SeqCst);
                let why = refused("no room now", status);
                Err(refusing(RefusalOutcome::Wait { room }, why))
            })
        });
        let mut poller = harness.new_poller();
        harness.until(&mut poller, || harness.trouble().contains("no room now"));
        harness.until_over(&mut poller, process);
        harness.ended(process, [40, 0, 0, 0]);
        assert!(harness.overview.critical.lock().is_none());
        // After nothing, one and two minutes.
        assert_eq!(counted.load(Ordering::SeqCst), 3);
        let uploads = uploads.load(Ordering::SeqCst);
        assert_eq!(uploads, if creation { 1 } else { 4 });
    }
}

/// Such as a model that does not exist. Another process goes on, unless its account is concerned.
#[test]
fn what_concerns_no_request_stops_its_process_and_is_tried_once_by_each_worker() {
    for of_account in [false, true] {
        let (harness, client, process) = prompts(300);
        harness.fake.lock().limits.requests = 100;
        let tries = Arc::new(AtomicU64::new(0));
        let (counted, store) = (tries.clone(), harness.store.clone());
        client.advance.set(move |stage| {
            let batches = store.batches(None).unwrap();
            let mut sent = batches
                .iter()
                .filter(|b| b.record.contains("\"sent\":true"));
            let is_its = sent.any(|batch| batch.process_id == Some(process));
            (creates(stage) && is_its).then(|| {
                counted.fetch_add(1, Ordering::SeqCst);
                let why = refused("no such model", 404);
                Err(refusing(RefusalOutcome::Stops { of_account }, why))
            })
        });
        let worker = harness.worker();
        let mut poller = harness.poller(worker, &[]);
        poller.options.scope.until_empty = true;
        let halted = || harness.overview.halted.lock().clone();
        harness.until(&mut poller, || halted().is_some());
        harness.turns(&mut poller, 20);
        let first = tries.load(Ordering::SeqCst);
        assert!((1..=3).contains(&first), "{first}");
        assert!(halted().unwrap().message().contains("no such model"));
        assert!(harness.trouble().contains("no such model") && !harness.overview.open(false));
        assert_eq!(harness.counts(process).failed, 0);
        let other = harness.enqueue(&["other"]);
        harness.control.wake();
        harness.pass(&mut poller, seconds(1200));
        assert_eq!(harness.counts(other).completed, u64::from(!of_account));
        assert_eq!(tries.load(Ordering::SeqCst), first);
        // The next worker tries one, and once it is accepted all others.
        drop(poller);
        harness.retire(worker);
        client.advance.clear();
        let mut poller = harness.new_poller();
        harness.until_over(&mut poller, process);
        harness.ended(process, [300, 0, 0, 0]);
        assert!(harness.overview.halted.lock().is_none());
    }
}

/// The count survives a restart, and not more than 99 requests are called.
#[test]
fn what_is_refused_whatever_it_holds_stops_after_sixteen_and_few_are_called() {
    let (harness, client, process) = prompts(4_000);
    let refuses = || Err::<BatchStage, _>(refused("something that nobody knows", 400));
    client
        .advance
        .set(move |stage| creates(stage).then(refuses));
    for _ in 0..3 {
        let worker = harness.worker();
        let mut poller = harness.poller(worker, &[]);
        harness.until(&mut poller, || harness.overview.halted.lock().is_some());
        harness.pass(&mut poller, seconds(1200));
        drop(poller);
        harness.retire(worker);
        *harness.overview.halted.lock() = None;
        let counts = harness.counts(process);
        assert!(counts.failed == 0 && counts.completed < 100, "{counts:?}");
    }
}

/// A worker that only submits ends while the account has no room, has too many requests, or its provider is away. Another
/// one that stops on critical errors ends after four web pages in place of a reply.
#[test]
fn what_is_refused_again_and_again_for_no_request_ends_the_worker_and_fails_no_job() {
    let held = |room, error: Error| refusing(RefusalOutcome::Wait { room }, error);
    let full = held(false, refused("Project file storage limit exceeded", 400));
    let page = Error::new(ErrorKind::Malformed, "it is a web page, not JSON");
    let page = page.with_status(200).with_unreachable();
    let queue = held(true, refused("Enqueued token limit reached", 429));
    let away = Error::new(ErrorKind::Transient, "a web page").with_status(503);
    let rate = Error::new(ErrorKind::RateLimited, "slow down").with_status(429);
    let asks = |wait| rate.clone().with_retry_after(Some(seconds(wait))).into();
    for (count, tries, is_page, error) in [
        (3, 1, false, full),
        (120, 0, false, queue),
        (10, 4, false, rate.clone().into()),
        (10, 4, false, asks(20)),
        (10, 4, false, asks(60)),
        (10, 1, false, asks(900)),
        (3, 4, false, away.into()),
        (3, 4, true, page.into()),
    ] {
        let (harness, client, process) = prompts(count);
        let why = error.error.to_string();
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
        // Three waits, of 1, 2 and 4 minutes, and the last turn.
        let most = if tries == 0 { 24 * 3600 } else { 10 * 60 };
        assert!(is_page || took < seconds(most), "{why}: {took:?}");
        // The other half may not be in a batch yet.
        let counts = harness.counts(process);
        assert_eq!(counts.at_provider + counts.pending, count as u64);
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
