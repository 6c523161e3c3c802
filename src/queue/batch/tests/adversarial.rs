//! Single orders of events that the seeded schedules do not make: servers that lie, files that go,
//! calls that fail for good, and what is done elsewhere meanwhile.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::base::random::Random;
use crate::base::{Clock, Context, Error, ErrorKind};
use crate::llm::batch::{
    BatchClient, BatchInput, BatchIntent, BatchLine, BatchLineResult, BatchStage, BatchState,
    RefusalOutcome, RequestName,
};
use crate::queue::store::WorkerId;

use super::fake_client::FakeClient;
use super::fake_provider::seconds;
use super::harness::{HOUR, Harness, answered, in_state, lost, refused, refusing, transient};

/// A request that had no turn in its batch.
fn had_no_turn(line: &str, kind: ErrorKind) -> BatchLine {
    BatchLine {
        key: line.split(' ').next().unwrap().to_owned(),
        result: BatchLineResult::NotProcessed(Error::new(kind, "it had no turn")),
    }
}

#[test]
fn trouble_that_passes_costs_no_job_and_no_second_batch() {
    type Trouble = fn(&Harness, &FakeClient);
    let troubles: [(&str, u64, Trouble); 8] = [
        ("a deadline passes during the upload", 1, |_, client| {
            let ended = Error::new(ErrorKind::DeadlineExceeded, "the deadline passed");
            client.advance.once(|_| Err(ended));
        }),
        ("the input is removed", 1, |harness, client| {
            let folder = harness.store.folder();
            client.advance.once(move |_| {
                fs::remove_dir_all(&folder).unwrap();
                Err(transient("busy", 503))
            });
        }),
        ("the host's client panics", 1, |_, client| {
            client.status.once(|_| panic!("the host's client panics"));
        }),
        ("a wait without measure is asked for", 1, |_, client| {
            let months = transient("busy", 503).with_retry_after(Some(seconds(10_000_000)));
            client.status.once(|_| Err(months));
        }),
        ("failures around each answer", 1, |harness, client| {
            harness.on_download(client, |items| {
                let answered: String = items.iter().map(answered).collect();
                let failed = answered.replace('+', "-");
                Some(format!("{failed}{answered}{failed}"))
            });
        }),
        ("a line that cannot be read", 1, |harness, client| {
            harness.on_download(client, |items| {
                let lines: String = items.iter().map(answered).collect();
                Some(lines + "<!-- served by edge 7 -->\n")
            });
            client.read.set(|line| {
                let error = || Error::new(ErrorKind::Malformed, "no line of results");
                line.starts_with('<').then(|| Err(error()))
            });
        }),
        // As Anthropic's `canceled` is read.
        ("somebody cancels it before a turn", 2, |_, client| {
            let mut first = None;
            client.read.set(move |line| {
                let (label, _) = line.rsplit_once('-')?;
                let is_first = first.get_or_insert(label.to_owned()) == label;
                is_first.then(|| Ok(had_no_turn(line, ErrorKind::Cancelled)))
            });
        }),
        ("its account is full as it is validated", 4, |_, client| {
            let mut times = 3;
            client.status.set(move |_| {
                times -= 1;
                let full = Error::new(ErrorKind::Quota, "too many batches; wait");
                let refusal = refusing(RefusalOutcome::Wait { room: false }, full);
                (times >= 0).then(|| Ok(in_state(BatchState::Refused(refusal))))
            });
        }),
    ];
    for (name, creates, trouble) in troubles {
        let (harness, client, process) = Harness::with(&["a", "b"]);
        trouble(&harness, &client);
        harness.run(process);
        harness.ended(process, [2, 0, 0, 0]);
        assert_eq!(harness.fake.lock().creates, creates, "{name}");
    }
}

#[test]
fn trouble_that_stays_costs_a_few_batches() {
    type Trouble = fn(&FakeClient);
    let troubles: [(&str, u64, u64, Trouble); 3] = [
        ("results have strange ids", 2, 4, |client| {
            let strange = |_: &str| Some(Ok("x-1 +a\nx-2 +b\n".to_owned()));
            client.download.set(strange);
        }),
        ("a line is named that is not there", 2, 100, |client| {
            let lines = vec![(RequestName::Line(900), refused("bad line", 400))];
            let names = RefusalOutcome::Named(lines);
            let refusal = BatchState::Refused(refusing(names, refused("bad line", 400)));
            client
                .status
                .set(move |_| Some(Ok(in_state(refusal.clone()))));
        }),
        ("whatever it holds is refused", 4_000, 32, |client| {
            let why = refused("something that nobody knows here", 400);
            let refusal = BatchState::Refused(why.into());
            client
                .status
                .set(move |_| Some(Ok(in_state(refusal.clone()))));
        }),
    ];
    for (name, jobs, most, trouble) in troubles {
        let harness = Harness::new();
        harness.fake.lock().limits.requests = 5_000;
        let names: Vec<String> = (0..jobs).map(|n| format!("p{n}")).collect();
        let process = harness.enqueue(&names);
        trouble(&harness.client());
        let (mut poller, end) = (harness.new_poller(), harness.clock.now().after(48 * HOUR));
        while !harness.is_over(process) && harness.clock.now() < end {
            harness.turn(&mut poller);
        }
        let (creates, counts) = (harness.fake.lock().creates, harness.counts(process));
        assert!(creates <= most, "{name}: {creates} submissions");
        // Sixteen alike ones say nothing about requests.
        let called = counts.completed;
        assert!(
            jobs < 4_000 || counts.failed == 0 && called < 100,
            "{counts:?}"
        );
    }
}

#[test]
fn what_is_cancelled_ends_whatever_its_provider_says_to_that() {
    type Trouble = fn(&Harness, &FakeClient);
    // What is cancelled once this holds, and how many of two requests are answered.
    type Moment = fn(&Harness) -> bool;
    let troubles: [(u64, Moment, Trouble); 3] = [
        // It cannot be cancelled.
        (2, is_there, |_, client| {
            client.cancel.fail(transient("cannot", 500));
        }),
        // What was created shows a moment later.
        (0, is_there, |harness, client| {
            let shows = harness.clock.now().after(seconds(35));
            let clock = harness.clock.clone();
            let is_hidden = move || clock.now() < shows;
            let hides = is_hidden.clone();
            let error = || refused("no such batch", 404);
            client
                .status
                .set(move |_| is_hidden().then(|| Err(error())));
            client.cancel.set(move |_| hides().then(|| Err(error())));
        }),
        // It was never made, and its input stays.
        (
            0,
            |harness| harness.has_record("uploaded"),
            |_, client| {
                client.advance.set(|stage| {
                    let creates = matches!(stage, BatchStage::Uploaded { .. });
                    creates.then(|| Err(transient("busy", 429)))
                });
                client
                    .discard
                    .fail(refused("this key deletes no files", 403));
            },
        ),
    ];
    for (answered, cancels, trouble) in troubles {
        let (harness, client, process) = Harness::with(&["a", "b"]);
        trouble(&harness, &client);
        let mut poller = harness.new_poller();
        harness.until(&mut poller, || cancels(&harness));
        harness.cancel(process);
        harness.until_over(&mut poller, process);
        harness.ended(process, [answered, 0, 2 - answered, 0]);
        assert_eq!(harness.fake.lock().alive(), 0, "it is still paid for");
    }
}

fn is_there(harness: &Harness) -> bool {
    !harness.fake.lock().batches.is_empty()
}

#[test]
fn lines_of_requests_that_had_no_turn_hide_no_truncation() {
    let (harness, client, process) = Harness::with(&["a", "b"]);
    // `a` was answered before the batch expired. Its line is cut off the first download, `b`'s is not.
    harness.on_status(&client, |status| {
        if status.state.is_final() {
            (status.state, status.expected) = (BatchState::Expired, Some(1));
        }
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
    let no_turn = |line: &str| Ok(had_no_turn(line, ErrorKind::Transient));
    let read = move |line: &str| line.contains('~').then(|| no_turn(line));
    client.read.set(read);
    harness.run(process);
    harness.ended(process, [2, 0, 0, 0]);
    assert_eq!(harness.fake.lock().with("a").len(), 1, "it was sent twice");
}

#[test]
fn batches_that_a_provider_does_not_take_keep_no_other_from_its_work() {
    let harness = Harness::new();
    let broke = FakeClient {
        provider: "broke",
        ..FakeClient::of(&harness.fake)
    };
    let no_credit = Error::new(ErrorKind::Quota, "no credit").with_status(402);
    broke.advance.fail(no_credit);
    let _broke = harness.use_client(broke);
    harness.fake.lock().limits.requests = 1;
    harness.enqueue(&["a", "b", "c", "d"]);
    let mut poller = harness.new_poller();
    harness.until(&mut poller, || !harness.infos().is_empty());
    harness.turns(&mut poller, 40);
    // The provider is changed.
    harness.client();
    let process = harness.enqueue(&["e"]);
    harness.control.wake();
    harness.until(&mut poller, || harness.counts(process).is_finished());
}

#[test]
fn a_creation_that_somebody_left_undecided_keeps_no_other_process_waiting() {
    let harness = Harness::new();
    harness.fake.lock().uploads = false;
    let left = harness.enqueue(&["a", "b"]);
    let process = harness.enqueue(&["c"]);
    harness.client().advance.fail(lost());
    let worker = harness.worker();
    let only = [left];
    let mut poller = harness.poller(worker, &only);
    harness.until(&mut poller, || harness.has_record("unknown"));
    drop(poller);
    harness.retire(worker);
    // `run` of another file: it looks after its own process alone.
    harness.client();
    let only = [process];
    let mut poller = harness.poller(harness.worker(), &only);
    harness.until(&mut poller, || harness.counts(process).is_finished());
}

#[test]
fn what_waits_once_is_put_into_one_batch() {
    let harness = Harness::new();
    let client = harness.client();
    harness.enqueue(&["a"]);
    // The account is left alone for a while before anything is moved.
    let away = Error::new(ErrorKind::Transient, "no connection").with_unreachable();
    client.advance.fail(away);
    let mut poller = harness.new_poller();
    harness.turns(&mut poller, 20);
    harness.enqueue(&["b"]);
    for _ in 0..200 {
        harness.control.wake();
        poller.turn();
        harness.clock.advance(Duration::from_millis(250));
    }
    assert_eq!(harness.infos().len(), 2);
}

/// Creations at a provider without uploads get no reply and come to nothing, while another program has a batch of the
/// same size. It is watched, but neither cancelled nor counted, and let go once its results show whose it is.
#[test]
fn a_batch_that_may_be_another_programs_is_never_cancelled_nor_counted_nor_collected() {
    struct Theirs;
    impl BatchInput for Theirs {
        fn open(&mut self) -> Result<Box<dyn std::io::Read + Send + '_>, Error> {
            Ok(Box::new(&b"their-1 x\ntheir-2 y\n"[..]))
        }
    }
    for end in ["not_ours", "cancelled", "expired"] {
        let harness = Harness::new();
        harness.fake.lock().uploads = false;
        let client = harness.client();
        if end == "expired" {
            // Without a result that shows whose it is.
            harness.fake.lock().expiring = 100;
            harness.on_status(&client, |status| {
                let is_expired = matches!(status.state, BatchState::Expired);
                status.expected = status
                    .expected
                    .map(|some| if is_expired { 0 } else { some });
            });
            client.download.set(|_| Some(Ok(String::new())));
        }
        let process = harness.enqueue(&["a", "b"]);
        let plain = FakeClient::of(&harness.fake);
        client.advance.set(move |stage| {
            let intent = BatchIntent {
                label: "their".to_owned(),
                model: None,
                items: 2,
                bytes: 0,
                begun: crate::base::Timestamp(0),
            };
            let theirs = plain.advance(&intent, stage, &mut Theirs, &Context::new());
            theirs.unwrap();
            Some(Err(lost()))
        });
        let mut poller = harness.new_poller();
        let presumed = || harness.infos().into_iter().find(|i| i.state == "presumed");
        harness.until(&mut poller, || presumed().is_some());
        let known = presumed().unwrap();
        let (why, id) = (known.problem.unwrap(), known.remote_id.unwrap());
        assert!(why.contains("not cancelled"), "{why}");
        match end {
            "cancelled" => {
                harness.cancel(process);
                harness.turns(&mut poller, 400);
            }
            "expired" => {
                let is_held = || harness.infos().iter().any(|info| info.state == "held");
                harness.until(&mut poller, is_held);
            }
            _ => {
                let left = format!("\"not_ours\":[\"{id}\"]");
                harness.until(&mut poller, || harness.has_record(&left));
            }
        }
        assert_eq!((harness.bought("a"), harness.bought("b")), (0, 0));
        assert_eq!(harness.counts(process).failed, 0);
        assert_eq!(harness.overview.tally.lock().created, 0);
        let fake = harness.fake.lock();
        assert!(fake.batches.iter().all(|batch| batch.cancelled.is_none()));
    }
}

/// The present key of the same address collects the batches of a replaced key that the provider shows to it, and does
/// nothing else: what may have been created is held.
#[test]
fn batches_of_a_replaced_key_are_collected_if_they_are_shown_and_otherwise_held() {
    for (is_created, is_left) in [(true, "running"), (false, "it is not known whether")] {
        let (harness, old, process) = Harness::with(&["a", "b"]);
        if !is_created {
            old.advance.set(|stage| {
                let creates = matches!(stage, BatchStage::Uploaded { .. });
                creates.then(|| Err(lost()))
            });
        }
        let work = |done: &dyn Fn() -> bool| {
            let worker = harness.worker();
            let mut poller = harness.poller(worker, &[]);
            harness.until(&mut poller, done);
            drop(poller);
            harness.retire(worker);
            harness.store.batches(None).unwrap()
        };
        let left = work(&|| harness.has_record(is_left));
        let new = harness.use_client(FakeClient {
            credential: "new",
            ..FakeClient::of(&harness.fake)
        });
        new.status.fail(refused("no such batch", 404));
        let held = work(&|| {
            let trouble = harness.trouble();
            trouble.contains("wait for the API key that created")
        });
        assert_eq!((&held[0].record, held[0].worker), (&left[0].record, None));
        assert_eq!(harness.fake.lock().creates, u64::from(is_created));
        if is_created {
            new.status.clear();
            work(&|| harness.is_over(process));
            harness.bought_once();
        }
    }
}

/// As long as there are batches, they are this worker's, and it does not end.
fn is_attended(harness: &Harness, worker: WorkerId) {
    let batches = harness.store.batches(None).unwrap();
    assert!(batches.iter().all(|batch| batch.worker == Some(worker)));
    assert!(
        batches.is_empty() || harness.overview.open(false),
        "it ends"
    );
}

#[test]
fn a_store_that_cannot_be_written_for_whatever_reason_costs_nothing_but_time() {
    for &kind in ErrorKind::ALL {
        for uploads in [true, false] {
            let harness = Harness::new();
            harness.client();
            harness.fake.lock().uploads = uploads;
            // Uploads that hold poison are refused for it.
            let process = harness.enqueue(&["a", "poison", "b"]);
            let worker = harness.worker();
            let mut fate = Random(kind as u64);
            *harness.store.faults.unwritable.lock() = Some(Box::new(move || {
                fate.chance(70).then(|| Error::new(kind, "not now"))
            }));
            let mut poller = harness.poller(worker, &[]);
            harness.until(&mut poller, || {
                is_attended(&harness, worker);
                harness.is_over(process)
            });
            harness.ended(process, [2, 1, 0, 0]);
            assert_eq!((harness.bought("a"), harness.bought("b")), (1, 1), "{kind}");
            assert_eq!(
                harness.fake.lock().creates,
                1 + u64::from(uploads),
                "{kind}"
            );
        }
    }
}

#[test]
fn a_database_that_is_moved_away_and_back_has_its_batch_polled_on() {
    let (harness, client, process) = Harness::with(&["a", "b"]);
    let worker = harness.worker();
    let [path, away] = ["jobs.db", "moved.db"].map(|name| harness.folder.path().join(name));
    let polls = Arc::new(AtomicU64::new(0));
    let (from, to, count) = (path.clone(), away.clone(), polls.clone());
    // Gone before what the first look at the batch shows can be written down.
    client.status.set(move |_| {
        if count.fetch_add(1, Ordering::SeqCst) == 0 {
            fs::rename(&from, &to).unwrap();
        }
        None
    });
    let mut poller = harness.poller(worker, &[]);
    harness.until(&mut poller, || polls.load(Ordering::SeqCst) == 1);
    let back = harness.clock.now().after(HOUR);
    while harness.clock.now() < back {
        harness.turn(&mut poller);
        is_attended(&harness, worker);
        let trouble = harness.trouble();
        assert!(trouble.contains("removed while it was open"), "{trouble}");
    }
    assert_eq!(polls.load(Ordering::SeqCst), 1, "no step before it is said");
    fs::rename(&away, &path).unwrap();
    harness.until_over(&mut poller, process);
    harness.bought_once();
}

#[test]
fn a_batch_that_another_worker_was_given_is_left_to_it() {
    let (harness, _client, process) = Harness::with(&["a", "b"]);
    let first = harness.worker();
    let mut taken_for_dead = harness.poller(first, &[]);
    harness.until_created(&mut taken_for_dead, 1);
    harness.retire(first);
    let mut poller = harness.new_poller();
    poller.turn();
    assert_eq!(poller.batches.len(), 1);
    // It finds out when it writes.
    harness.turns(&mut taken_for_dead, 100);
    assert!(taken_for_dead.batches.is_empty(), "it goes on");
    harness.until_over(&mut poller, process);
    harness.bought_once();
    // Another life, whose first look at the store fails, does not say that nothing is there.
    drop((poller, taken_for_dead));
    harness.overview.not_scanned.store(true, Ordering::SeqCst);
    let conn = rusqlite::Connection::open(harness.folder.path().join("jobs.db")).unwrap();
    let away = "ALTER TABLE batches RENAME TO away";
    conn.execute(away, []).unwrap();
    harness.new_poller().turn();
    assert!(harness.overview.open(false), "it would end now");
}

#[test]
fn a_clock_that_is_moved_by_hand_wakes_the_poller() {
    let (harness, _client, process) = Harness::with(&["a", "b"]);
    let worker = harness.worker();
    let (_keep, stop) = crossbeam_channel::bounded::<()>(0);
    std::thread::scope(|scope| {
        scope.spawn(|| harness.poller(worker, &[]).run(&stop));
        let until = std::time::Instant::now() + seconds(30);
        // Nothing but the clock wakes it between the steps of its batch.
        while !harness.is_over(process) && std::time::Instant::now() < until {
            harness.clock.advance(seconds(60));
            std::thread::sleep(Duration::from_millis(2));
        }
        harness.ctx.cancel();
    });
    assert!(harness.is_over(process));
    harness.bought_once();
}
