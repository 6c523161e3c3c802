//! Results that a batch which has ended does not give out, or not all of them: asked for ever more
//! rarely, held, and never failed or bought again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::base::{Clock, Context, Error, ErrorKind, ProcessId, Sent, Time};
use crate::llm::batch::{BatchClient, BatchState, BatchStatus};

use super::super::info::BatchInfo;
use super::super::poller::Poller;
use super::super::settings::BatchSettings;
use super::fake_provider::{FakeClient, seconds};
use super::harness::{Harness, ScriptedClient, answered, refused};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

fn not_found() -> Error {
    refused("no such file", 404)
}

fn transient(why: &str) -> Error {
    Error::new(ErrorKind::Transient, why).with_sent(Sent::Answered)
}

/// What a results endpoint says in place of results.
type Answer = fn() -> Option<Result<String, Error>>;

/// A provider whose results endpoint answers so until then; every download is counted.
fn endpoint(
    harness: &Harness,
    until: Time,
    answer: Answer,
) -> (Arc<ScriptedClient>, Arc<AtomicU64>) {
    let client = harness.client();
    let asked = Arc::new(AtomicU64::new(0));
    let (clock, count) = (harness.clock.clone(), asked.clone());
    *client.download.lock() = Box::new(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        answer().filter(|_| clock.now() < until)
    });
    *client.read.lock() = Box::new(|line| {
        let unreadable = line.starts_with(b"<") || line.starts_with(b"{");
        unreadable.then(|| Err(Error::new(ErrorKind::Malformed, "no line of results")))
    });
    // As people set it who want to see their results soon.
    harness
        .control
        .set(BatchSettings::default().poll_interval(Some(seconds(1))));
    (client, asked)
}

/// Until then the batch has ended and names no results, of which so many were worked on.
fn nameless(
    harness: &Harness,
    client: &ScriptedClient,
    (state, expected): (BatchState, Option<u64>),
    until: Time,
) {
    let (fake, clock) = (harness.fake.clone(), harness.clock.clone());
    *client.status.lock() = Box::new(move |id| {
        let status = FakeClient(fake.clone()).status(id, &Context::new());
        let early = clock.now() < until;
        let nameless = |status: BatchStatus| {
            if early && status.state.is_final() {
                BatchStatus {
                    state: state.clone(),
                    results: Vec::new(),
                    expected,
                    counts: None,
                    poll_after: None,
                }
            } else {
                status
            }
        };
        Some(status.map(nameless))
    });
}

fn missing() -> Option<Result<String, Error>> {
    Some(Err(not_found()))
}

/// Lets time pass from one thing that is due to the next.
fn pass(harness: &Harness, poller: &mut Poller<'_>, time: Duration) {
    let end = harness.clock.now().after(time);
    while harness.clock.now() < end {
        poller.receive_answers();
        poller.turn();
        poller.receive_answers();
        let now = harness.clock.now();
        let due = poller.next_due().unwrap_or(now.after(HOUR)).min(end);
        let wait = due.since(now).max(Duration::from_millis(10));
        harness.clock.advance(wait);
    }
}

fn the_batch(harness: &Harness) -> BatchInfo {
    let [batch] = harness.infos().try_into().unwrap();
    batch
}

fn nothing_was_bought_again(harness: &Harness, process: ProcessId) {
    assert_eq!(harness.counts(process).failed, 0);
    assert_eq!(harness.fake.lock().creates, 1);
    assert_eq!((harness.bought("a"), harness.bought("b")), (1, 1));
}

#[test]
fn results_that_are_there_later_are_stored_however_they_were_refused_before() {
    let answers: [Answer; 6] = [
        missing,
        || Some(Ok(String::new())),
        || Some(Ok("<html>please wait</html>\n".to_owned())),
        || Some(Ok("{\"error\":{\"message\":\"busy\"}}\n".to_owned())),
        || Some(Err(transient("bad gateway").with_status(502))),
        || Some(Err(transient("not from the API itself: <html>"))),
    ];
    for (n, answer) in answers.into_iter().enumerate() {
        for late in [HOUR, 20 * DAY] {
            let harness = Harness::new();
            let until = harness.clock.now().after(late);
            let (_client, asked) = endpoint(&harness, until, answer);
            let process = harness.enqueue(&["a", "b"]);
            let mut poller = harness.poller(harness.worker(), &[]);
            pass(&harness, &mut poller, late + 2 * HOUR);
            let counts = harness.counts(process);
            assert_eq!(counts.completed, 2, "{n} {late:?}: {counts:?}");
            assert!(harness.is_over(process));
            nothing_was_bought_again(&harness, process);
            // Some dozen times at first, and then once an hour.
            let most = 16 + late.as_secs() / HOUR.as_secs();
            let asked = asked.load(Ordering::SeqCst);
            assert!(asked <= most, "{n} {late:?}: asked {asked} times");
        }
    }
}

#[test]
fn a_batch_that_names_no_results_yet_is_asked_again_and_not_bought_again() {
    for ended in [
        (BatchState::Completed, None),
        (BatchState::Completed, Some(2)),
        (BatchState::Expired, Some(1)),
        (BatchState::Cancelled, Some(1)),
    ] {
        let harness = Harness::new();
        let client = harness.client();
        let until = harness.clock.now().after(2 * HOUR);
        nameless(&harness, &client, ended.clone(), until);
        let process = harness.enqueue(&["a", "b"]);
        let mut poller = harness.poller(harness.worker(), &[]);
        pass(&harness, &mut poller, HOUR);
        assert_eq!(harness.counts(process).at_provider, 2, "{ended:?}");
        let problem = the_batch(&harness).problem.unwrap();
        assert!(
            problem.contains("names no file with its results"),
            "{problem}"
        );
        pass(&harness, &mut poller, 3 * HOUR);
        assert!(harness.is_over(process), "{ended:?}");
        assert_eq!(harness.counts(process).completed, 2, "{ended:?}");
        nothing_was_bought_again(&harness, process);
    }
}

#[test]
fn what_a_batch_never_reached_goes_into_another_one() {
    for ended in [BatchState::Expired, BatchState::Cancelled] {
        let harness = Harness::new();
        let client = harness.client();
        let until = harness.clock.now().after(HOUR);
        nameless(&harness, &client, (ended, None), until);
        let process = harness.enqueue(&["a", "b"]);
        let mut poller = harness.poller(harness.worker(), &[]);
        assert!(harness.until(&mut poller, || harness.fake.lock().creates == 2));
        assert_eq!(harness.counts(process).failed, 0);
    }
}

#[test]
fn what_never_comes_is_held_and_what_can_be_read_is_stored_at_once() {
    let harness = Harness::new();
    let (client, asked) = endpoint(&harness, Time::ZERO, || None);
    let count = asked.clone();
    harness.on_download(&client, move |items| {
        count.fetch_add(1, Ordering::SeqCst);
        Some(answered(&items[0]))
    });
    let process = harness.enqueue(&["a", "b"]);
    let mut poller = harness.poller(harness.worker(), &[]);
    assert!(harness.until(&mut poller, || harness.counts(process).completed == 1));
    pass(&harness, &mut poller, 40 * DAY);
    let counts = harness.counts(process);
    assert_eq!((counts.completed, counts.at_provider), (1, 1), "{counts:?}");
    nothing_was_bought_again(&harness, process);
    let before = asked.swap(0, Ordering::SeqCst);
    assert!(before < 40 * 24 + 20, "asked {before} times");
    // Results that the provider need not keep any more are asked for once a day.
    pass(&harness, &mut poller, 10 * DAY);
    assert!((5..=11).contains(&asked.load(Ordering::SeqCst)));
}

/// The provider names a second file that is empty. While that is downloaded, another program removes the first one.
#[test]
fn results_that_are_removed_before_they_are_read_are_fetched_again_and_not_bought_again() {
    let harness = Harness::new();
    let (client, asked) = endpoint(&harness, Time::ZERO, || None);
    let fake = harness.fake.clone();
    *client.status.lock() = Box::new(move |id| {
        let status = FakeClient(fake.clone()).status(id, &Context::new());
        Some(status.map(|mut status| {
            (status.counts, status.expected) = (None, None);
            if status.state.is_final() {
                status.results.push("empty".to_owned());
            }
            status
        }))
    });
    let (folder, count) = (harness.store.folder(), asked.clone());
    let mut removed = 0;
    *client.download.lock() = Box::new(move |_| {
        let is_first_file = count.fetch_add(1, Ordering::SeqCst) % 2 == 0;
        if is_first_file {
            return None;
        }
        for spooled in std::fs::read_dir(&folder).unwrap() {
            let path = spooled.unwrap().path();
            if removed == 0 && path.extension().is_some_and(|end| end == "results") {
                std::fs::remove_file(path).unwrap();
                removed += 1;
            }
        }
        Some(Ok(String::new()))
    });
    let process = harness.enqueue(&["a", "b"]);
    harness.run(process);
    assert_eq!(harness.counts(process).completed, 2);
    assert!(asked.load(Ordering::SeqCst) > 2, "nothing was removed");
    nothing_was_bought_again(&harness, process);
}

#[test]
fn results_beyond_all_measure_are_cut_off_and_what_came_before_is_stored() {
    let harness = Harness::new();
    let (client, _) = endpoint(&harness, Time::ZERO, || None);
    let settings = BatchSettings::default().poll_interval(Some(seconds(1)));
    harness.control.set(settings.max_result_bytes(1_000));
    harness.on_download(&client, |items| {
        Some(answered(&items[0]) + &"x".repeat(1 << 20))
    });
    let process = harness.enqueue(&["a", "b"]);
    let mut poller = harness.poller(harness.worker(), &[]);
    assert!(harness.until(&mut poller, || harness.counts(process).completed == 1));
    pass(&harness, &mut poller, HOUR);
    let counts = harness.counts(process);
    assert_eq!((counts.completed, counts.at_provider), (1, 1), "{counts:?}");
    nothing_was_bought_again(&harness, process);
    let told = format!("{:?}", the_batch(&harness).problem);
    assert!(told.contains("larger than 0.0 MiB"), "{told}");
    // No more of it lies on the disk than was let in.
    let spooled = std::fs::read_dir(harness.store.folder()).unwrap();
    let bytes: u64 = spooled
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    assert!(bytes < 10_000, "{bytes}");
}

#[test]
fn what_came_of_refused_results_is_not_all_of_them_when_it_could_not_be_stored_either() {
    let harness = Harness::new();
    let (client, asked) = endpoint(&harness, Time::ZERO, || None);
    let settings = BatchSettings::default().poll_interval(Some(seconds(1)));
    harness.control.set(settings.max_result_bytes(1_000));
    let fake = harness.fake.clone();
    // Of those that do not say how many results there are.
    *client.status.lock() = Box::new(move |id| {
        let status = FakeClient(fake.clone()).status(id, &Context::new());
        let silent = |status| BatchStatus {
            expected: None,
            ..status
        };
        Some(status.map(silent))
    });
    let refusals = Arc::new(AtomicU64::new(0));
    let (count, failing) = (asked.clone(), refusals.clone());
    harness.on_download(&client, move |items| {
        let lines: Vec<String> = items.iter().map(answered).collect();
        if count.fetch_add(1, Ordering::SeqCst) > 0 {
            return Some(lines.concat());
        }
        // It ends with a whole line.
        failing.store(1, Ordering::SeqCst);
        Some(format!("{:<1999}\n{}", lines[0].trim_end(), lines[1]))
    });
    *harness.store.unwritable.lock() = Some(Box::new(move || {
        let failing = refusals.swap(0, Ordering::SeqCst) > 0;
        failing.then(|| Error::new(ErrorKind::Transient, "the disk is full"))
    }));
    let process = harness.enqueue(&["a", "b"]);
    harness.run(process);
    assert_eq!(harness.counts(process).completed, 2);
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    nothing_was_bought_again(&harness, process);
    let spooled = std::fs::read_dir(harness.store.folder()).unwrap();
    assert_eq!(spooled.count(), 0);
}

#[test]
fn a_line_that_cannot_be_read_keeps_no_batch_whose_requests_all_have_their_end() {
    let harness = Harness::new();
    let (client, _) = endpoint(&harness, Time::ZERO, || None);
    harness.on_download(&client, |items| {
        let lines: String = items.iter().map(answered).collect();
        Some(lines + "<!-- served by edge 7 -->\n")
    });
    let process = harness.enqueue(&["a", "b"]);
    let mut poller = harness.poller(harness.worker(), &[]);
    pass(&harness, &mut poller, HOUR);
    assert!(harness.is_over(process), "{:?}", the_batch(&harness));
    assert_eq!(harness.counts(process).completed, 2);
}

#[test]
fn who_ends_when_all_is_done_waits_some_minutes_and_another_worker_asks_at_once() {
    let harness = Harness::new();
    let (client, asked) = endpoint(&harness, Time::FAR, missing);
    let process = harness.enqueue(&["a", "b"]);
    let worker = harness.worker();
    let mut poller = harness.poller(worker, &[]);
    assert!(harness.until(&mut poller, || asked.load(Ordering::SeqCst) > 0));
    let begun = harness.clock.now();
    assert!(
        harness.overview.open(false),
        "it is asked again in a moment"
    );
    assert!(harness.until(&mut poller, || !harness.overview.open(false)));
    let waited = harness.clock.now().since(begun);
    assert!(seconds(120) < waited && waited < seconds(720), "{waited:?}");
    let counts = harness.overview.counts();
    assert_eq!((counts.put_off, counts.running), (1, 0));
    let shown = the_batch(&harness);
    assert_eq!(shown.state, "uncollected");
    let problem = shown.problem.unwrap();
    assert!(problem.contains("no such file"), "{problem}");
    assert_eq!(shown.uncollected.unwrap().requests, 2);
    drop(poller);
    harness.retire(worker);
    // Hours later, and hours before it would be asked again by itself.
    harness.clock.advance(2 * HOUR);
    asked.store(0, Ordering::SeqCst);
    let worker = harness.worker();
    let mut poller = harness.poller(worker, &[]);
    poller.turn();
    assert!(harness.overview.open(false), "it ends before it has asked");
    pass(&harness, &mut poller, seconds(1));
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    assert!(
        !harness.overview.open(false),
        "it waits though it has asked"
    );
    drop(poller);
    harness.retire(worker);
    *client.download.lock() = Box::new(|_| None);
    let mut poller = harness.poller(harness.worker(), &[]);
    pass(&harness, &mut poller, seconds(1));
    assert!(harness.is_over(process));
    nothing_was_bought_again(&harness, process);
}

#[test]
fn cancelling_what_is_withheld_gives_it_up_and_cancelling_what_runs_does_not() {
    let harness = Harness::new();
    let (client, asked) = endpoint(&harness, Time::FAR, missing);
    let process = harness.enqueue(&["a", "b"]);
    let mut poller = harness.poller(harness.worker(), &[]);
    assert!(harness.until(&mut poller, || asked.load(Ordering::SeqCst) > 3));
    harness.cancel(process);
    pass(&harness, &mut poller, seconds(5));
    assert!(harness.is_over(process), "{:?}", the_batch(&harness));
    let counts = harness.counts(process);
    assert_eq!((counts.cancelled, counts.failed), (2, 0), "{counts:?}");
    drop(poller);

    // This one is cancelled at its beginning; what it has answered by then comes weeks later.
    let process = harness.enqueue(&["c", "d", "e", "f"]);
    let mut poller = harness.poller(harness.worker(), &[]);
    let created = || harness.fake.lock().creates == 2;
    assert!(harness.until(&mut poller, created));
    asked.store(0, Ordering::SeqCst);
    harness.cancel(process);
    pass(&harness, &mut poller, 20 * DAY);
    assert!(asked.load(Ordering::SeqCst) > 20);
    assert_eq!(harness.counts(process).at_provider, 4);
    *client.download.lock() = Box::new(|_| None);
    pass(&harness, &mut poller, 2 * DAY);
    let counts = harness.counts(process);
    assert_eq!((counts.completed, counts.cancelled), (1, 3), "{counts:?}");
}

#[test]
fn what_was_cancelled_early_is_given_up_by_who_cancels_it_once_its_results_are_missing() {
    let harness = Harness::new();
    let (_client, asked) = endpoint(&harness, Time::FAR, missing);
    let process = harness.enqueue(&["a", "b", "c", "d"]);
    let cancel = || {
        harness.cancel(process);
    };
    let mut poller = harness.poller(harness.worker(), &[]);
    assert!(harness.until(&mut poller, || harness.fake.lock().creates == 1));
    cancel();
    assert!(harness.until(&mut poller, || asked.load(Ordering::SeqCst) > 0));
    pass(&harness, &mut poller, 2 * DAY);
    assert_eq!(harness.counts(process).at_provider, 4);
    let shown = the_batch(&harness).uncollected.unwrap();
    cancel();
    let next = harness.clock.wall();
    assert!(
        shown.next_at > next.after(seconds(60)),
        "it is not due by itself"
    );
    pass(&harness, &mut poller, seconds(5));
    assert_eq!(harness.counts(process).cancelled, 4);
    assert!(harness.is_over(process), "{:?}", the_batch(&harness));
    assert_eq!(harness.fake.lock().creates, 1);
}

#[test]
fn a_batch_whose_results_are_withheld_may_be_unknown_for_a_day() {
    let harness = Harness::new();
    let until = harness.clock.now().after(HOUR);
    let (client, _) = endpoint(&harness, until, missing);
    let process = harness.enqueue(&["a", "b"]);
    let (clock, end) = (harness.clock.clone(), until.after(DAY));
    let asked = Arc::new(AtomicU64::new(0));
    let count = asked.clone();
    *client.status.lock() = Box::new(move |_| {
        let now = clock.now();
        let lost = until < now && now < end;
        count.fetch_add(u64::from(lost), Ordering::SeqCst);
        lost.then(|| Err(not_found()))
    });
    let mut poller = harness.poller(harness.worker(), &[]);
    pass(&harness, &mut poller, DAY + 4 * HOUR);
    assert!(harness.is_over(process), "{:?}", the_batch(&harness));
    nothing_was_bought_again(&harness, process);
    assert!(asked.load(Ordering::SeqCst) < 40);
}

#[test]
fn a_clock_that_is_moved_by_hand_wakes_the_poller() {
    let harness = Harness::new();
    harness.client();
    let process = harness.enqueue(&["a", "b"]);
    let worker = harness.worker();
    let (_keep, stop) = crossbeam_channel::bounded::<()>(0);
    let over = std::thread::scope(|scope| {
        scope.spawn(|| harness.poller(worker, &[]).run(&stop));
        let until = std::time::Instant::now() + Duration::from_secs(30);
        // Nothing but the clock wakes it between the steps of its batch.
        while !harness.is_over(process) && std::time::Instant::now() < until {
            harness.clock.advance(Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(2));
        }
        harness.ctx.cancel();
        harness.is_over(process)
    });
    assert!(over);
    assert_eq!(harness.bought("a") + harness.bought("b"), 2);
}
