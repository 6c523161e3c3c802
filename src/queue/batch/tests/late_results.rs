//! Results that a batch which has ended does not give out, or not all of them: asked for ever more
//! rarely, held, and never failed or bought again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::base::{Clock, Error, ErrorKind, ProcessId, Sent, Time};
use crate::llm::batch::BatchState;

use super::super::settings::BatchSettings;
use super::fake_client::FakeClient;
use super::fake_provider::seconds;
use super::harness::{HOUR, Harness, answered, in_state, refused, transient};

const DAY: Duration = Duration::from_secs(86_400);

/// What a results endpoint says in place of results.
type Answer = fn() -> Option<Result<String, Error>>;

fn missing() -> Option<Result<String, Error>> {
    Some(Err(refused("no such file", 404)))
}

/// How often results were asked for.
#[derive(Clone, Default)]
struct Asked(Arc<AtomicU64>);

impl Asked {
    fn one_more(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst)
    }

    /// Since the last look.
    fn times(&self) -> u64 {
        self.0.swap(0, Ordering::SeqCst)
    }
}

/// Two prompts at a provider whose results endpoint answers so for this time.
fn endpoint(time: Duration, answer: Answer) -> (Harness, Arc<FakeClient>, ProcessId, Asked) {
    let (harness, client, process) = Harness::with(&["a", "b"]);
    let asked = Asked::default();
    let (clock, count) = (harness.clock.clone(), asked.clone());
    let until = if time.is_zero() {
        Time::FAR
    } else {
        clock.now().after(time)
    };
    client.download.set(move |_| {
        count.one_more();
        answer().filter(|_| clock.now() < until)
    });
    client.read.set(|line| {
        let unreadable = line.starts_with(['<', '{']);
        unreadable.then(|| Err(Error::new(ErrorKind::Malformed, "no line of results")))
    });
    // As people set it who want to see their results soon.
    let settings = BatchSettings::default().poll_interval(Some(seconds(1)));
    harness.set(settings);
    (harness, client, process, asked)
}

#[test]
fn results_that_are_there_later_are_stored_however_they_were_refused_before() {
    let answers: [Answer; 6] = [
        missing,
        || Some(Ok(String::new())),
        || Some(Ok("<html>please wait</html>\n".to_owned())),
        || Some(Ok("{\"error\":{\"message\":\"busy\"}}\n".to_owned())),
        || Some(Err(transient("bad gateway", 502))),
        || {
            let page = Error::new(ErrorKind::Transient, "not from the API itself: <html>");
            Some(Err(page.with_sent(Sent::Answered)))
        },
    ];
    for (n, answer) in answers.into_iter().enumerate() {
        for late in [HOUR, 20 * DAY] {
            let (harness, _client, process, asked) = endpoint(late, answer);
            harness.pass(&mut harness.new_poller(), late + 2 * HOUR);
            harness.ended(process, [2, 0, 0, 0]);
            assert!(harness.is_over(process));
            harness.bought_once();
            // Some dozen times at first, and then once an hour.
            let most = 16 + late.as_secs() / HOUR.as_secs();
            let asked = asked.times();
            assert!(asked <= most, "{n} {late:?}: asked {asked} times");
        }
    }
}

/// A batch that has ended names no results for two hours. If it says how many requests it has worked on, or has
/// completed, they are asked for again and not bought again; otherwise its requests go into another batch.
#[test]
fn a_batch_that_names_no_results_yet_is_asked_again_if_it_was_worked_on() {
    for (state, expected, is_worked_on) in [
        (BatchState::Completed, None, true),
        (BatchState::Completed, Some(2), true),
        (BatchState::Expired, Some(1), true),
        (BatchState::Cancelled, Some(1), true),
        (BatchState::Expired, None, false),
        (BatchState::Cancelled, None, false),
    ] {
        let (harness, client, process) = Harness::with(&["a", "b"]);
        let (clock, until) = (harness.clock.clone(), harness.clock.now().after(2 * HOUR));
        let ended = state.clone();
        harness.on_status(&client, move |status| {
            if clock.now() < until && status.state.is_final() {
                *status = in_state(ended.clone());
                status.expected = expected;
            }
        });
        let mut poller = harness.new_poller();
        if is_worked_on {
            harness.pass(&mut poller, HOUR);
            harness.ended(process, [0, 0, 0, 2]);
            let problem = harness.the_batch().problem.unwrap();
            assert!(
                problem.contains("names no file with its results"),
                "{problem}"
            );
            harness.pass(&mut poller, 3 * HOUR);
            assert!(harness.is_over(process), "{state:?}");
            harness.bought_once();
        } else {
            harness.until_created(&mut poller, 2);
        }
        assert_eq!(harness.counts(process).failed, 0);
    }
}

#[test]
fn what_never_comes_is_held_and_what_can_be_read_is_stored_at_once() {
    let (harness, client, process, asked) = endpoint(HOUR, || None);
    let count = asked.clone();
    harness.on_download(&client, move |items| {
        count.one_more();
        Some(answered(&items[0]))
    });
    let mut poller = harness.new_poller();
    harness.until(&mut poller, || harness.counts(process).completed == 1);
    harness.pass(&mut poller, 40 * DAY);
    harness.ended(process, [1, 0, 0, 1]);
    harness.bought_once();
    let before = asked.times();
    assert!(before < 40 * 24 + 20, "asked {before} times");
    // Results that the provider need not keep any more are asked for once a day.
    harness.pass(&mut poller, 10 * DAY);
    assert!((5..=11).contains(&asked.times()));
}

/// The provider names a second file that is empty. While that is downloaded, another program removes the first one.
#[test]
fn results_that_are_removed_before_they_are_read_are_fetched_again_and_not_bought_again() {
    let (harness, client, process, asked) = endpoint(HOUR, || None);
    harness.on_status(&client, |status| {
        (status.counts, status.expected) = (None, None);
        if status.state.is_final() {
            status.results.push("empty".to_owned());
        }
    });
    let (folder, count) = (harness.store.folder(), asked.clone());
    let mut is_removed = false;
    client.download.set(move |_| {
        let is_first_file = count.one_more() % 2 == 0;
        if is_first_file {
            return None;
        }
        for spooled in std::fs::read_dir(&folder).unwrap() {
            let path = spooled.unwrap().path();
            if !is_removed && path.extension().is_some_and(|end| end == "tmp") {
                std::fs::remove_file(path).unwrap();
                is_removed = true;
            }
        }
        Some(Ok(String::new()))
    });
    harness.run(process);
    harness.ended(process, [2, 0, 0, 0]);
    assert!(asked.times() > 2, "nothing was removed");
    harness.bought_once();
}

/// The limit of the results of two requests.
const MOST: usize = 32 << 20;

/// What came before is stored, and no more of it lies on the disk than was let in. If it cannot be stored, it is no
/// proof that all came, though it ends with a whole line and the batch does not say how many there are.
#[test]
fn results_beyond_all_measure_are_cut_off_and_what_came_before_is_stored() {
    for is_full in [false, true] {
        let (harness, client, process, asked) = endpoint(HOUR, || None);
        let settings = BatchSettings::default().poll_interval(Some(seconds(1)));
        harness.set(settings);
        harness.on_status(&client, move |status| {
            status.expected = status.expected.filter(|_| !is_full);
        });
        let failing = Arc::new(AtomicU64::new(0));
        let (count, fails) = (asked.clone(), failing.clone());
        harness.on_download(&client, move |items| {
            let lines: Vec<String> = items.iter().map(answered).collect();
            match (count.one_more(), is_full) {
                (0, true) => {
                    fails.store(1, Ordering::SeqCst);
                    let padding = " ".repeat(MOST - lines[0].len());
                    Some(format!("{}{padding}\n{}", lines[0].trim_end(), lines[1]))
                }
                (_, true) => Some(lines.concat()),
                (_, false) => Some(lines[0].clone() + &"x".repeat(MOST)),
            }
        });
        *harness.store.faults.unwritable.lock() = Some(Box::new(move || {
            let fails = failing.swap(0, Ordering::SeqCst) > 0;
            fails.then(|| Error::new(ErrorKind::Transient, "the disk is full"))
        }));
        let mut poller = harness.new_poller();
        if is_full {
            harness.until_over(&mut poller, process);
            harness.ended(process, [2, 0, 0, 0]);
            assert_eq!(asked.times(), 2);
        } else {
            harness.until(&mut poller, || harness.counts(process).completed == 1);
            harness.pass(&mut poller, HOUR);
            harness.ended(process, [1, 0, 0, 1]);
            let problem = harness.the_batch().problem.unwrap();
            assert!(problem.contains("larger than 32.0 MiB"), "{problem}");
        }
        harness.bought_once();
        let spooled = std::fs::read_dir(harness.store.folder()).unwrap();
        let sizes = spooled.map(|file| file.unwrap().metadata().unwrap().len());
        let most = if is_full { 0 } else { 10_000 };
        assert!(sizes.sum::<u64>() <= most);
    }
}

#[test]
fn who_ends_when_all_is_done_waits_some_minutes_and_another_worker_asks_at_once() {
    let (harness, client, process, asked) = endpoint(Duration::ZERO, missing);
    let worker = harness.worker();
    let mut poller = harness.poller(worker, &[]);
    harness.until(&mut poller, || asked.0.load(Ordering::SeqCst) > 0);
    let begun = harness.clock.now();
    assert!(harness.overview.open(false), "asked again in a moment");
    harness.until(&mut poller, || !harness.overview.open(false));
    let waited = harness.clock.now().since(begun);
    assert!(seconds(120) < waited && waited < seconds(720), "{waited:?}");
    let counts = *harness.overview.counts.lock();
    assert_eq!((counts.put_off, counts.running), (1, 0));
    let shown = harness.the_batch();
    assert_eq!(shown.state, "uncollected");
    assert!(shown.problem.unwrap().contains("no such file"));
    assert_eq!(shown.uncollected.unwrap().requests, 2);
    drop(poller);
    harness.retire(worker);
    // Hours later, and hours before it would be asked again by itself.
    harness.clock.advance(2 * HOUR);
    asked.times();
    let worker = harness.worker();
    let mut poller = harness.poller(worker, &[]);
    client.status.set(|_| Some(Err(transient("trouble", 503))));
    harness.pass(&mut poller, seconds(1));
    client.status.clear();
    assert!(harness.overview.open(false), "it ends before it has asked");
    harness.pass(&mut poller, seconds(10));
    assert_eq!(asked.times(), 1);
    assert!(!harness.overview.open(false), "it waits and has asked");
    drop(poller);
    harness.retire(worker);
    client.download.clear();
    harness.pass(&mut harness.new_poller(), seconds(1));
    assert!(harness.is_over(process));
    harness.bought_once();
}

#[test]
fn a_worker_that_ends_slowly_still_counts_the_batch_that_it_does_not_wait_for() {
    let (harness, _, _, asked) = endpoint(Duration::ZERO, missing);
    let mut poller = harness.new_poller();
    harness.until(&mut poller, || asked.0.load(Ordering::SeqCst) > 0);
    harness.until(&mut poller, || !harness.overview.open(false));
    harness.clock.advance(2 * HOUR);
    poller.drain_transfers();
    let counts = *harness.overview.counts.lock();
    assert_eq!((counts.put_off, counts.running), (1, 0));
}

/// Who cancels a batch whose results are known to be missing gives them up. Who cancels it before does not, until he
/// cancels it once more.
#[test]
fn cancelling_what_is_withheld_gives_it_up_and_cancelling_what_runs_does_not() {
    for (is_early, comes) in [(false, false), (true, false), (true, true)] {
        let (harness, client, _, asked) = endpoint(Duration::ZERO, missing);
        let process = harness.enqueue(&["c", "d", "e", "f"]);
        let mut poller = harness.new_poller();
        if is_early {
            harness.until_created(&mut poller, 2);
            harness.cancel(process);
            harness.pass(&mut poller, 20 * DAY);
            assert!(asked.times() > 20);
        } else {
            harness.until(&mut poller, || {
                let infos = harness.infos();
                let missing = infos.iter().filter(|info| info.state == "uncollected");
                missing.count() == 2
            });
        }
        harness.ended(process, [0, 0, 0, 4]);
        if comes {
            client.download.clear();
            harness.pass(&mut poller, 2 * DAY);
        } else {
            harness.cancel(process);
            harness.pass(&mut poller, seconds(5));
        }
        let completed = u64::from(comes);
        harness.ended(process, [completed, 0, 4 - completed, 0]);
        assert_eq!(harness.fake.lock().creates, 2);
    }
}

#[test]
fn a_batch_whose_results_are_withheld_may_be_unknown_for_a_day() {
    let (harness, client, process, _) = endpoint(HOUR, missing);
    let (clock, lost) = (harness.clock.clone(), harness.clock.now().after(HOUR));
    let asked = Asked::default();
    let count = asked.clone();
    client.status.set(move |_| {
        let now = clock.now();
        let is_lost = lost < now && now < lost.after(DAY);
        is_lost.then(|| {
            count.one_more();
            Err(refused("no such batch", 404))
        })
    });
    harness.pass(&mut harness.new_poller(), DAY + 4 * HOUR);
    assert!(harness.is_over(process));
    harness.bought_once();
    assert!(asked.times() < 40);
}
