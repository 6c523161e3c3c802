//! What every store of jobs must do, as tests that know nothing of any database: two handles on one
//! are all they need. [`suite!`] runs them against a store.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::value::RawValue;

use super::*;
use crate::base::error::ErrorKind;
use crate::queue::job::{Counts, JobStatus};

/// One database, opened twice.
pub(crate) struct Opened {
    pub one: Option<Arc<dyn JobStore>>,
    pub two: Arc<dyn JobStore>,
    /// After this many chunks of two jobs the first handle abandons what it carries out.
    pub abandon_after: Box<dyn Fn(i64)>,
    /// What the database lies in.
    pub _keep: Box<dyn std::any::Any>,
}

type Open<'a> = &'a dyn Fn() -> Opened;

impl Opened {
    fn store(&self) -> &dyn JobStore {
        self.one.as_deref().unwrap()
    }

    /// A worker of the first handle.
    fn worker(&self) -> Hand<'_> {
        Hand::new(self.store())
    }

    fn counts(&self, process: ProcessId) -> Counts {
        self.two.process(process).unwrap().unwrap().counts
    }

    /// Every counter is that of the jobs, as a recount sees them.
    fn sound(&self) {
        for finding in self.two.check(T).unwrap() {
            assert!(finding.verdict < Verdict::Bad, "{finding:?}");
        }
    }
}

/// A worker that is given whatever it asks for.
struct Hand<'a> {
    store: &'a dyn JobStore,
    id: WorkerId,
}

impl<'a> Hand<'a> {
    fn new(store: &'a dyn JobStore) -> Self {
        let id = store.enlist(T).unwrap();
        Self { store, id }
    }

    fn ask(
        &self,
        most: usize,
        idle: bool,
        now: Wall,
        open: impl FnMut(&Arc<Lane>) -> usize,
    ) -> Claims {
        self.ask_for(&[], most, idle, now, open)
    }

    fn ask_for(
        &self,
        processes: &[ProcessId],
        most: usize,
        idle: bool,
        now: Wall,
        mut open: impl FnMut(&Arc<Lane>) -> usize,
    ) -> Claims {
        let wanted = Wanted {
            most,
            idle,
            processes,
            open: &mut open,
        };
        self.store.claim(self.id, wanted, now).unwrap()
    }

    fn claim(&self, most: usize, now: Wall) -> Vec<Claimed> {
        self.ask(most, true, now, |_| usize::MAX).jobs
    }

    fn one(&self) -> Claimed {
        let mut jobs = self.claim(1, T);
        jobs.pop().expect("a job is due")
    }

    fn settle(&self, receipt: Receipt, ending: Ending) -> Vec<Process> {
        let end = End {
            receipt,
            calls: 1,
            ending,
        };
        self.store.settle(&[end], T).unwrap()
    }
}

const T: Wall = Wall(1_763_000_000_000);

fn at(millis: i64) -> Wall {
    Wall(T.0 + millis)
}

fn json(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

fn job(name: &str) -> Job {
    Job::raw("test", json("{\"a\": 1}")).item_id(name)
}

fn jobs(names: &[&str]) -> Vec<Job> {
    names.iter().map(|name| job(name)).collect()
}

fn named(jobs: &[Claimed]) -> Vec<&str> {
    jobs.iter()
        .map(|job| job.item_id.as_deref().unwrap())
        .collect()
}

fn completed() -> Ending {
    Ending::Completed {
        result: json("\"yes\""),
        spent: None,
    }
}

fn failed() -> Ending {
    Ending::Failed {
        error: Error::new(ErrorKind::Invalid, "no"),
        result: None,
        spent: None,
    }
}

fn retry(due_at: Wall, step: u8) -> Ending {
    Ending::Retry {
        due_at,
        step,
        attempt: 2,
        in_doubt: true,
        history: "{\"errors\": [{\"step\": 0, \"at\": 7, \"error\": {\"kind\": \"transient\", \
                  \"message\": \"reset\"}}]}"
            .to_owned(),
    }
}

const PLACE: Ending = Ending::Snooze { due_at: None };

fn enqueue(store: &dyn JobStore, jobs: Vec<Job>) -> ProcessId {
    let process = ProcessId::new();
    store.insert(process, jobs, true, T).unwrap();
    process
}

fn peek(store: &dyn JobStore, process: ProcessId) -> Vec<Delivery> {
    store.peek(process, None, usize::MAX, usize::MAX).unwrap()
}

fn statuses(store: &dyn JobStore, process: ProcessId) -> Vec<JobStatus> {
    peek(store, process)
        .iter()
        .map(|delivery| delivery.result.status)
        .collect()
}

pub(crate) fn the_oldest_of_the_highest_priority_comes_first(open: Open<'_>) {
    let db = open();
    let process = ProcessId::new();
    let wave = |priority: u8, name: &str, now| {
        let job = job(name).priority(priority).lane(format!("lane of {name}"));
        db.two.insert(process, vec![job], true, now).unwrap();
    };
    wave(5, "a", at(0));
    wave(7, "c", at(2));
    wave(7, "b", at(1));
    wave(1, "d", at(0));
    let given = db.worker().claim(9, at(10));
    assert_eq!(named(&given), ["b", "c", "a", "d"]);
    db.sound();
}

pub(crate) fn jobs_of_one_moment_come_in_the_order_they_were_handed_over(open: Open<'_>) {
    let db = open();
    let names: Vec<String> = (0..40).map(|n| n.to_string()).collect();
    enqueue(db.store(), names.iter().map(|name| job(name)).collect());
    let worker = db.worker();
    let mut given = Vec::new();
    for most in [1, 7, 32] {
        given.extend(worker.claim(most, T));
    }
    assert_eq!(named(&given), names);
}

pub(crate) fn one_in_eight_is_the_oldest_of_any_priority(open: Open<'_>) {
    let db = open();
    let process = ProcessId::new();
    db.store()
        .insert(process, vec![job("low").priority(1)], true, T)
        .unwrap();
    let worker = db.worker();
    let mut given = Vec::new();
    // An endless stream of higher ones, claimed three by three.
    for round in 1..5 {
        let more = (0..8).map(|_| job("high").priority(7)).collect();
        db.store().insert(process, more, true, at(round)).unwrap();
        given.extend(worker.claim(3, at(round)));
    }
    assert_eq!(
        named(&given).iter().position(|name| *name == "low"),
        Some(7)
    );
}

pub(crate) fn a_closed_lane_holds_up_no_other(open: Open<'_>) {
    let db = open();
    let lanes = ["full", "some", "full", "some", "free", "some", "free"];
    enqueue(
        db.store(),
        lanes.map(|lane| job(lane).lane(lane).priority(5)).to_vec(),
    );
    let worker = db.worker();
    let mut asked = Vec::new();
    let claims = worker.ask(9, true, T, |lane| {
        assert_eq!((lane.kind.as_str(), lane.step), ("test", 0));
        let name = lane.name.clone().unwrap();
        asked.push(name.clone());
        ["full", "some", "free"]
            .iter()
            .position(|lane| *lane == name)
            .unwrap()
            * 2
    });
    asked.sort();
    assert_eq!(asked, ["free", "full", "some"], "each is asked once");
    assert_eq!(named(&claims.jobs), ["some", "some", "free", "free"]);
    assert!(claims.more && claims.next.is_none());
    let rest = worker.ask(9, true, T, |_| 9);
    assert_eq!(named(&rest.jobs), ["full", "full", "some"]);
    assert!(!rest.more);
}

pub(crate) fn a_claim_tells_when_the_next_job_comes_due(open: Open<'_>) {
    let db = open();
    let process = enqueue(db.store(), jobs(&["a", "b"]));
    let worker = db.worker();
    let all = worker.ask(9, true, T, |_| 9);
    assert_eq!((all.next, all.more), (None, false));
    for (job, wait) in all.jobs.iter().zip([20, 10]) {
        worker.settle(job.receipt, retry(at(wait), 0));
    }
    let early = worker.ask(9, true, at(5), |_| 9);
    assert!(early.jobs.is_empty() && early.more);
    assert_eq!(early.next, Some(at(10)));
    assert_eq!(
        worker.ask(9, true, at(5), |_| 0).next,
        None,
        "closed lanes do not count"
    );
    let due = worker.ask(9, true, at(10), |_| 9);
    assert_eq!(named(&due.jobs), ["b"]);
    assert_eq!(due.next, Some(at(20)));
    assert_eq!(
        worker.ask(1, true, at(30), |_| 9).next,
        None,
        "as many as wanted"
    );
    assert_eq!(db.counts(process).in_progress, 2);
}

pub(crate) fn a_worker_may_ask_for_some_processes_only(open: Open<'_>) {
    let db = open();
    let first = enqueue(db.store(), jobs(&["a", "b"]));
    let second = enqueue(db.store(), jobs(&["c", "d"]));
    let worker = db.worker();
    let claims = worker.ask_for(&[second], 9, true, T, |_| 9);
    assert_eq!(named(&claims.jobs), ["c", "d"]);
    assert!(!claims.more, "others do not concern it");
    let none = worker.ask_for(&[ProcessId::new()], 9, true, T, |_| 9);
    assert!(none.jobs.is_empty() && !none.more);
    assert_eq!(
        named(&worker.ask_for(&[second, first], 1, true, T, |_| 9).jobs),
        ["a"]
    );
}

pub(crate) fn a_job_comes_with_all_that_was_handed_over(open: Open<'_>) {
    let db = open();
    let process = ProcessId::new();
    let full = Job::raw("kind", json("[1, \"ä\"]"))
        .item_id("i")
        .request_hash("h")
        .lane("model")
        .priority(9)
        .max_retries(4);
    let plain = Job::raw("kind", json("null"));
    let ids = db
        .store()
        .insert(process, vec![full, plain], true, at(3))
        .unwrap();
    let given = Hand::new(&*db.two).claim(2, at(4));
    let job = &given[0];
    assert_eq!((job.job_id, job.process_id), (ids[0], process));
    assert_eq!(job.payload.get(), "[1, \"ä\"]");
    assert_eq!(
        (job.item_id.as_deref(), job.request_hash.as_deref()),
        (Some("i"), Some("h"))
    );
    assert_eq!(
        (job.priority, job.max_retries, job.due_at),
        (9, Some(4), at(3))
    );
    assert_eq!(
        (job.crashes, job.lost, job.in_doubt, job.attempt),
        (0, false, false, 0)
    );
    assert_eq!(
        (given[1].item_id.as_ref(), given[1].max_retries),
        (None, None)
    );
    assert_eq!(given[1].lane.name, None);
    let seen = db.store().job(ids[0]).unwrap().unwrap();
    assert_eq!(
        (seen.kind.as_str(), seen.status),
        ("kind", JobStatus::InProgress)
    );
    assert_eq!((seen.created_at, seen.due_at), (at(3), None));
    let mut other = ids[0].bytes();
    other[7] ^= 1;
    assert!(db.store().job(JobId::from_bytes(other)).unwrap().is_none());
}

pub(crate) fn what_a_dead_worker_had_is_taken_over(open: Open<'_>) {
    let mut db = open();
    let process = enqueue(db.store(), jobs(&["a", "b"]));
    let dead = db.worker();
    let first = dead.claim(1, T);
    assert_eq!(
        db.two.reclaim(T).unwrap(),
        0,
        "it lives, however long it takes"
    );
    assert_eq!(db.counts(process).in_progress, 1);
    // Its process ends without a word.
    db.one = None;
    assert_eq!(db.two.reclaim(at(5)).unwrap(), 1);
    assert_eq!(db.two.reclaim(at(5)).unwrap(), 0);
    let heir = Hand::new(&*db.two);
    let again = heir.claim(2, at(5));
    assert_eq!(named(&again), ["a", "b"], "it keeps its place");
    assert_eq!((again[0].lost, again[0].crashes), (true, 1));
    assert_eq!((again[1].lost, again[1].crashes), (false, 0));
    assert!(again[0].receipt.claim > first[0].receipt.claim);
    db.sound();
}

pub(crate) fn what_a_worker_had_that_retires_goes_back_untouched(open: Open<'_>) {
    let db = open();
    enqueue(db.store(), jobs(&["a"]));
    let worker = db.worker();
    worker.one();
    db.store().retire(worker.id, T).unwrap();
    db.store().retire(worker.id, T).unwrap();
    let again = Hand::new(&*db.two).one();
    assert_eq!((again.lost, again.crashes), (false, 0));
    let mut open = |_: &Arc<Lane>| 1;
    let wanted = Wanted {
        most: 1,
        idle: true,
        processes: &[],
        open: &mut open,
    };
    let refused = db.store().claim(worker.id, wanted, T).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    db.sound();
}

pub(crate) fn a_late_failure_overwrites_nothing(open: Open<'_>) {
    let db = open();
    let process = enqueue(db.store(), jobs(&["a"]));
    let (slow, quick) = (db.worker(), Hand::new(&*db.two));
    let old = slow.one();
    slow.settle(old.receipt, PLACE);
    let new = quick.one();
    for late in [failed(), PLACE, retry(at(9), 1)] {
        assert!(slow.settle(old.receipt, late).is_empty());
        assert_eq!(db.counts(process).in_progress, 1);
    }
    let changed = quick.settle(new.receipt, completed());
    assert_eq!(changed.len(), 1);
    assert_eq!(changed[0].counts.completed, 1);
    for late in [failed(), PLACE, completed()] {
        assert!(quick.settle(new.receipt, late).is_empty());
    }
    assert_eq!(statuses(&*db.two, process), [JobStatus::Completed]);
    db.sound();
}

pub(crate) fn a_late_success_is_never_thrown_away(open: Open<'_>) {
    let db = open();
    let process = enqueue(db.store(), jobs(&["a", "b"]));
    let (slow, quick) = (db.worker(), Hand::new(&*db.two));
    let old = slow.claim(2, T);
    for job in &old {
        slow.settle(job.receipt, PLACE);
    }
    // One runs elsewhere by now, the other one waits.
    let new = quick.one();
    for job in &old {
        assert_eq!(slow.settle(job.receipt, completed()).len(), 1);
    }
    assert!(quick.settle(new.receipt, failed()).is_empty());
    assert!(quick.claim(2, at(9)).is_empty());
    assert_eq!(statuses(&*db.two, process), [JobStatus::Completed; 2]);
    assert_eq!(db.counts(process).completed, 2);
    db.sound();
}

pub(crate) fn a_success_after_the_end_is_refused(open: Open<'_>) {
    let db = open();
    let process = enqueue(db.store(), jobs(&["a"]));
    let worker = db.worker();
    let job = worker.one();
    worker.settle(job.receipt, PLACE);
    assert_eq!(db.store().cancel(process, T).unwrap(), 1);
    assert!(worker.settle(job.receipt, completed()).is_empty());
    assert_eq!(statuses(&*db.two, process), [JobStatus::Cancelled]);
    let error = peek(&*db.two, process).remove(0).result.error.unwrap();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}

pub(crate) fn nothing_unsealed_is_started(open: Open<'_>) {
    let db = open();
    let process = ProcessId::new();
    let (store, worker) = (db.store(), db.worker());
    store.insert(process, jobs(&["a"]), true, T).unwrap();
    store.insert(process, jobs(&["b", "c"]), false, T).unwrap();
    store.insert(process, jobs(&["d"]), true, T).unwrap();
    assert_eq!(named(&worker.claim(9, at(1))), ["a"]);
    let seen = db.two.process(process).unwrap().unwrap();
    assert!(!seen.sealed);
    assert_eq!((seen.counts.total, seen.counts.pending), (4, 3));
    store.seal(process, at(2)).unwrap();
    store.insert(process, jobs(&["e"]), true, at(3)).unwrap();
    assert!(db.two.process(process).unwrap().unwrap().sealed);
    assert_eq!(named(&worker.claim(9, at(3))), ["b", "c", "d", "e"]);
    store.seal(process, at(4)).unwrap();
    let nobody = store.seal(ProcessId::new(), T).unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::Invalid);
    db.sound();
}

pub(crate) fn a_seal_is_carried_out_by_whoever_lives(open: Open<'_>) {
    for chunks in 0..4 {
        let db = open();
        let process = ProcessId::new();
        db.store()
            .insert(process, jobs(&["a", "b", "c", "d", "e"]), false, T)
            .unwrap();
        (db.abandon_after)(chunks);
        let whole = chunks * 2 >= 5;
        assert_eq!(db.store().seal(process, T).is_ok(), whole);
        assert!(
            db.two.process(process).unwrap().unwrap().sealed,
            "it was decided"
        );
        // What comes now must not overtake what is still held.
        db.two.insert(process, jobs(&["f"]), true, at(1)).unwrap();
        let worker = Hand::new(&*db.two);
        let early = worker.claim(9, at(1));
        let mut names = named(&early);
        while db.two.chore(at(2)).unwrap() {}
        let late = worker.claim(9, at(3));
        names.extend(named(&late));
        assert_eq!(names, ["a", "b", "c", "d", "e", "f"]);
        assert_eq!(early.len() as i64, if whole { 6 } else { chunks * 2 });
        db.sound();
    }
}

pub(crate) fn a_snoozed_job_keeps_its_place(open: Open<'_>) {
    let db = open();
    enqueue(db.store(), jobs(&["a", "b"]));
    let worker = db.worker();
    let first = worker.one();
    worker.settle(first.receipt, PLACE);
    let again = worker.one();
    assert_eq!(named(&[again]), ["a"]);
    let second = worker.one();
    worker.settle(
        second.receipt,
        Ending::Snooze {
            due_at: Some(at(9)),
        },
    );
    assert!(worker.claim(9, at(8)).is_empty());
    let later = worker.claim(9, at(9));
    assert_eq!(named(&later), ["b"]);
    assert_eq!((later[0].attempt, later[0].due_at), (0, at(9)));
}

pub(crate) fn a_retry_brings_back_what_it_left(open: Open<'_>) {
    let db = open();
    enqueue(db.store(), vec![job("a").lane("model")]);
    let worker = db.worker();
    let first = worker.one();
    assert_eq!((first.history.as_ref(), first.calls), (None, 0));
    worker.settle(first.receipt, retry(at(5), 1));
    let waiting = db.two.job(first.job_id).unwrap().unwrap();
    assert_eq!(
        (waiting.status, waiting.due_at),
        (JobStatus::Pending, Some(at(5)))
    );
    assert_eq!((waiting.step, waiting.attempts), (1, 1));
    assert_eq!(waiting.errors[0].error.message(), "reset");
    let again = worker.claim(1, at(5)).remove(0);
    assert_eq!((again.attempt, again.calls, again.in_doubt), (2, 1, true));
    assert_eq!(
        (again.lane.step, again.lane.name.as_deref()),
        (1, Some("model"))
    );
    assert!(again.history.unwrap().contains("reset"));
    worker.settle(again.receipt, failed());
    let ended = db.two.job(first.job_id).unwrap().unwrap();
    assert_eq!(
        (ended.errors.len(), ended.error.unwrap().message()),
        (1, "no")
    );
}

pub(crate) fn a_job_that_kills_its_workers_fails_at_the_fifth(open: Open<'_>) {
    let mut db = open();
    let process = enqueue(db.store(), jobs(&["killer"]));
    for crash in 1..=MOST_CRASHES {
        let victim = Hand::new(db.one.as_deref().unwrap());
        assert_eq!(victim.one().crashes, crash - 1);
        db.one = None;
        assert_eq!(db.two.reclaim(T).unwrap(), 1);
        let next = (open_again(&db))();
        db.one = Some(next);
    }
    let outcome = peek(&*db.two, process).remove(0).result;
    assert_eq!(outcome.status, JobStatus::Failed);
    assert_eq!(outcome.error.unwrap().kind(), ErrorKind::Crashed);
    db.sound();
    assert_eq!(db.two.retry_failed(process, T).unwrap(), 1);
    assert_eq!(Hand::new(&*db.two).one().crashes, 0);
}

/// Another handle on the same database.
fn open_again(db: &Opened) -> impl Fn() -> Arc<dyn JobStore> {
    let again = db._keep.downcast_ref::<Again>().unwrap();
    || (again.0)()
}

/// How a database is opened once more.
pub(crate) struct Again(pub Box<dyn Fn() -> Arc<dyn JobStore>>);

pub(crate) fn a_suspect_runs_alone(open: Open<'_>) {
    let mut db = open();
    enqueue(
        db.store(),
        vec![job("suspect").priority(6), job("a"), job("b")],
    );
    for _ in 0..SUSPECT_CRASHES {
        let victim = Hand::new(db.one.as_deref().unwrap());
        assert_eq!(named(&[victim.one()]), ["suspect"]);
        db.one = None;
        db.two.reclaim(T).unwrap();
        let next = (open_again(&db))();
        db.one = Some(next);
    }
    enqueue(&*db.two, vec![job("first").priority(7)]);
    let worker = db.worker();
    let busy = worker.ask(9, false, T, |_| 9);
    assert_eq!(
        named(&busy.jobs),
        ["first"],
        "nothing behind it, so that the worker drains"
    );
    assert!(busy.more);
    assert!(worker.ask(9, false, T, |_| 9).jobs.is_empty());
    let alone = worker.ask(9, true, T, |_| 9);
    assert_eq!(named(&alone.jobs), ["suspect"]);
    assert_eq!(named(&worker.claim(9, T)), ["a", "b"]);
    db.sound();
}

pub(crate) fn cancelled_work_is_not_started_and_not_tried_again(open: Open<'_>) {
    let db = open();
    let process = enqueue(
        db.store(),
        jobs(&["done", "again", "asleep", "fails", "waits"]),
    );
    let worker = db.worker();
    let given = worker.claim(4, T);
    assert_eq!(db.two.cancel(process, T).unwrap(), 1);
    for (job, ending) in given
        .iter()
        .zip([completed(), retry(at(1), 0), PLACE, failed()])
    {
        worker.settle(job.receipt, ending);
    }
    use JobStatus::{Cancelled, Completed, Failed};
    let ended = [Completed, Cancelled, Cancelled, Failed, Cancelled];
    assert_eq!(statuses(&*db.two, process), ended);
    let refused = db
        .store()
        .insert(process, jobs(&["more"]), true, T)
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(db.store().process(process).unwrap().unwrap().cancelled);
    assert_eq!(db.two.cancel(process, T).unwrap(), 0);
    assert_eq!(db.two.cancel(ProcessId::new(), T).unwrap(), 0);
    db.sound();
}

pub(crate) fn a_dead_workers_jobs_of_a_cancelled_process_are_cancelled(open: Open<'_>) {
    let mut db = open();
    let process = enqueue(db.store(), jobs(&["a"]));
    db.worker().one();
    db.two.cancel(process, T).unwrap();
    db.one = None;
    db.two.reclaim(T).unwrap();
    assert_eq!(statuses(&*db.two, process), [JobStatus::Cancelled]);
    db.sound();
}

pub(crate) fn a_cancellation_holds_from_its_decision_on(open: Open<'_>) {
    for chunks in 0..3 {
        let db = open();
        let process = ProcessId::new();
        let store = db.store();
        store.insert(process, jobs(&["a", "b"]), true, T).unwrap();
        store
            .insert(process, jobs(&["c", "d", "e"]), false, T)
            .unwrap();
        let other = enqueue(store, jobs(&["other"]));
        (db.abandon_after)(chunks);
        assert_eq!(store.cancel(process, T).is_ok(), chunks == 3);
        let worker = Hand::new(&*db.two);
        assert_eq!(named(&worker.claim(9, at(1))), ["other"]);
        while db.two.chore(T).unwrap() {}
        assert_eq!(statuses(&*db.two, process), [JobStatus::Cancelled; 5]);
        assert_eq!(db.counts(other).in_progress, 1);
        db.sound();
    }
}

pub(crate) fn failed_and_cancelled_jobs_can_be_put_back(open: Open<'_>) {
    for chunks in 0..3 {
        let db = open();
        let process = enqueue(db.store(), jobs(&["ok", "bad", "tried", "waits", "w2"]));
        let worker = db.worker();
        let given = worker.claim(3, T);
        worker.settle(given[0].receipt, completed());
        worker.settle(given[1].receipt, failed());
        worker.settle(given[2].receipt, retry(T, 1));
        let tried = worker.one();
        assert_eq!(named(std::slice::from_ref(&tried)), ["tried"]);
        worker.settle(tried.receipt, failed());
        db.store().cancel(process, T).unwrap();
        let old = peek(&*db.two, process);
        (db.abandon_after)(chunks);
        db.store().retry_failed(process, at(1)).unwrap_err();
        while db.two.chore(at(1)).unwrap() {}
        let again = Hand::new(&*db.two).claim(9, at(2));
        assert_eq!(named(&again), ["bad", "tried", "waits", "w2"]);
        assert!(
            again
                .iter()
                .all(|job| job.history.is_none() && job.lane.step == 0)
        );
        assert_eq!(again[1].attempt, 0);
        let receipts: Vec<Receipt> = old.iter().map(|delivery| delivery.receipt).collect();
        assert_eq!(
            db.two.ack(&receipts, T).unwrap(),
            1,
            "only what nothing happened to"
        );
        assert!(!db.two.process(process).unwrap().unwrap().cancelled);
        db.sound();
    }
}

pub(crate) fn what_is_retried_is_counted(open: Open<'_>) {
    let db = open();
    let process = enqueue(db.store(), jobs(&["a", "b", "c", "d", "e"]));
    let worker = db.worker();
    for job in worker.claim(5, T) {
        worker.settle(job.receipt, failed());
    }
    let old = peek(db.store(), process);
    assert_eq!(db.two.retry_failed(process, T).unwrap(), 5);
    assert_eq!(db.two.retry_failed(process, T).unwrap(), 0);
    for job in worker.claim(5, T) {
        worker.settle(job.receipt, failed());
    }
    let receipts: Vec<Receipt> = old.iter().map(|delivery| delivery.receipt).collect();
    assert_eq!(
        db.two.ack(&receipts, T).unwrap(),
        0,
        "these are other outcomes"
    );
    assert_eq!(peek(db.store(), process).len(), 5);
}

pub(crate) fn a_deleted_process_leaves_nothing(open: Open<'_>) {
    for chunks in [0, 1, 2, 9] {
        let db = open();
        let process = enqueue(db.store(), jobs(&["a", "b", "c", "d", "e"]));
        let worker = Hand::new(&*db.two);
        let given = worker.claim(2, T);
        worker.settle(given[0].receipt, completed());
        (db.abandon_after)(chunks);
        let deleted = db.store().delete(process, T);
        assert_eq!(deleted.is_ok(), chunks == 9);
        assert!(chunks < 9 || deleted.unwrap() == 5);
        assert!(db.two.process(process).unwrap().is_none());
        assert!(db.two.processes().unwrap().is_empty());
        assert!(db.two.job(given[0].job_id).unwrap().is_none());
        assert!(peek(&*db.two, process).is_empty());
        assert!(worker.claim(9, T).is_empty());
        if chunks < 9 {
            db.two.insert(process, jobs(&["f"]), true, T).unwrap_err();
        }
        assert!(worker.settle(given[1].receipt, completed()).is_empty());
        while db.two.chore(T).unwrap() {}
        assert_eq!(db.two.delete(process, T).unwrap(), 0);
        db.two.insert(process, jobs(&["anew"]), true, T).unwrap();
        assert_eq!(db.counts(process).total, 1);
        assert!(worker.settle(given[1].receipt, completed()).is_empty());
        assert_eq!(named(&worker.claim(9, T)), ["anew"]);
        db.sound();
    }
}

pub(crate) fn outcomes_are_read_in_order_and_deleted_when_acknowledged(open: Open<'_>) {
    let db = open();
    let process = enqueue(db.store(), jobs(&["a", "b", "c", "d"]));
    let worker = db.worker();
    let given = worker.claim(4, T);
    for job in [&given[2], &given[0], &given[3]] {
        worker.settle(job.receipt, completed());
    }
    let page = db.two.peek(process, None, 2, usize::MAX).unwrap();
    let item = |delivery: &Delivery| delivery.result.item_id.clone().unwrap();
    assert_eq!(page.iter().map(item).collect::<Vec<_>>(), ["a", "c"]);
    let rest = db
        .two
        .peek(process, Some(page[1].receipt), 9, usize::MAX)
        .unwrap();
    assert_eq!(rest.iter().map(item).collect::<Vec<_>>(), ["d"]);
    assert_eq!(
        db.two.peek(process, None, 9, 0).unwrap().len(),
        1,
        "one at least"
    );
    assert_eq!(
        db.two.peek(process, None, 9, 11).unwrap().len(),
        2,
        "of five bytes each"
    );
    let first: Vec<Receipt> = page.iter().map(|delivery| delivery.receipt).collect();
    assert_eq!(db.two.ack(&first, T).unwrap(), 2);
    assert_eq!(db.two.ack(&first, T).unwrap(), 0);
    assert!(db.store().job(given[0].job_id).unwrap().is_none());
    let counts = db.counts(process);
    assert_eq!((counts.total, counts.completed, counts.consumed), (4, 3, 2));
    assert_eq!(
        db.store().ack(&[given[1].receipt], T).unwrap(),
        0,
        "it runs"
    );
    worker.settle(given[1].receipt, failed());
    db.sound();
    let last: Vec<Receipt> = peek(&*db.two, process).iter().map(|d| d.receipt).collect();
    assert_eq!(db.two.ack(&last, T).unwrap(), 2);
    assert!(
        db.two.process(process).unwrap().is_none(),
        "nothing is left of it"
    );
    db.sound();
}

pub(crate) fn an_unsealed_process_outlives_its_outcomes(open: Open<'_>) {
    let db = open();
    let process = enqueue(db.store(), jobs(&["a"]));
    let worker = db.worker();
    worker.settle(worker.one().receipt, completed());
    db.store().insert(process, jobs(&["b"]), false, T).unwrap();
    assert_eq!(
        db.two
            .ack(&[peek(&*db.two, process)[0].receipt], T)
            .unwrap(),
        1
    );
    db.store().cancel(process, T).unwrap();
    assert_eq!(
        db.two
            .ack(&[peek(&*db.two, process)[0].receipt], T)
            .unwrap(),
        1
    );
    assert!(
        db.two.process(process).unwrap().is_none(),
        "who cancels adds no more"
    );
}

pub(crate) fn what_was_spent_adds_up(open: Open<'_>) {
    let db = open();
    enqueue(db.store(), jobs(&["a", "b", "c"]));
    let worker = db.worker();
    let spend = |input_tokens, cost_usd| Ending::Completed {
        result: json("1"),
        spent: Some(Spent {
            input_tokens,
            output_tokens: 2,
            cost_usd,
        }),
    };
    worker.settle(worker.one().receipt, spend(10, Some(0.25)));
    let seen = worker.settle(worker.one().receipt, spend(u64::MAX, Some(0.5)));
    assert_eq!(
        (seen[0].spent.output_tokens, seen[0].spent.cost_usd),
        (4, Some(0.75))
    );
    let seen = worker.settle(worker.one().receipt, spend(u64::MAX, None));
    assert!(seen[0].spent.input_tokens > 1 << 60);
    assert_eq!(
        seen[0].spent.cost_usd, None,
        "a price that is not known is not zero"
    );
}

pub(crate) fn who_waits_for_work_is_woken(open: Open<'_>) {
    let db = open();
    let woken = Arc::new(AtomicUsize::new(0));
    let count = woken.clone();
    let wake: Arc<OnWork> = Arc::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
    });
    db.store().on_work(Arc::downgrade(&wake));
    let since = || woken.swap(0, Ordering::Relaxed) > 0;
    let process = ProcessId::new();
    db.store().insert(process, jobs(&["a"]), false, T).unwrap();
    assert!(!since(), "nothing can be claimed yet");
    db.store().seal(process, T).unwrap();
    assert!(since());
    db.store().insert(process, jobs(&["b"]), true, T).unwrap();
    assert!(since());
    db.store().cancel(process, T).unwrap();
    assert!(!since());
    db.store().retry_failed(process, T).unwrap();
    assert!(since());
    drop(wake);
    enqueue(db.store(), jobs(&["c"]));
    assert!(!since());
}

pub(crate) fn the_version_tells_of_others_writes(open: Open<'_>) {
    let db = open();
    let before = db.store().version().unwrap();
    assert_eq!(db.store().version().unwrap(), before);
    enqueue(&*db.two, jobs(&["a"]));
    assert_ne!(db.store().version().unwrap(), before);
}

pub(crate) fn a_hundred_threads_enqueue_and_each_gets_its_own(open: Open<'_>) {
    let db = open();
    let process = enqueue(db.store(), jobs(&["first"]));
    let cancelled = enqueue(db.store(), jobs(&["x"]));
    db.store().cancel(cancelled, T).unwrap();
    let store = db.one.clone().unwrap();
    let mut ids: Vec<JobId> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..100)
            .map(|n| {
                let store = &store;
                scope.spawn(move || {
                    // One in ten is refused, which concerns no other.
                    let target = if n % 10 == 0 { cancelled } else { process };
                    store.insert(target, jobs(&["one"]), true, T)
                })
            })
            .collect();
        let done = threads.into_iter().map(|thread| thread.join().unwrap());
        done.flatten().flatten().collect()
    });
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 90);
    assert_eq!(db.counts(process).pending, 91);
    assert_eq!(db.counts(cancelled).total, 1);
    db.sound();
}

pub(crate) fn two_handles_never_give_one_job_twice(open: Open<'_>) {
    let db = open();
    let process = enqueue(db.store(), (0..300).map(|n| job(&n.to_string())).collect());
    let one = db.one.clone().unwrap();
    std::thread::scope(|scope| {
        for store in [&one, &db.two] {
            scope.spawn(move || {
                let worker = Hand::new(&**store);
                loop {
                    let given = worker.claim(7, T);
                    if given.is_empty() {
                        return;
                    }
                    for job in given {
                        let changed = worker.settle(job.receipt, completed());
                        assert_eq!(changed.len(), 1, "somebody else had it");
                    }
                }
            });
        }
    });
    assert_eq!(db.counts(process).completed, 300);
    db.sound();
}

pub(crate) fn a_check_finds_what_is_odd(open: Open<'_>) {
    let mut db = open();
    let process = ProcessId::new();
    db.store().insert(process, jobs(&["a"]), false, T).unwrap();
    enqueue(db.store(), jobs(&["b"]));
    let worker = db.worker();
    let job = worker.one();
    worker.settle(
        job.receipt,
        retry(T.after(Duration::from_secs(90 * 3600)), 0),
    );
    db.one = None;
    let found = db.two.check(at(60_000)).unwrap();
    let of = |what: &str| found.iter().find(|finding| finding.what == what).unwrap();
    assert!(of("unsealed").seen.contains(&process.to_string()));
    assert!(of("unsealed").seen.contains("1m"));
    let advice = of("unsealed").advice.as_ref().unwrap();
    assert!(advice.contains(&format!("batchwright cancel {process}")));
    assert_eq!(of("due times").verdict, Verdict::Warning);
    assert_eq!(of("worker").verdict, Verdict::Warning);
    for good in ["integrity", "schema", "counters", "room"] {
        assert_eq!(of(good).verdict, Verdict::Good);
    }
}

/// Runs everything against a store.
macro_rules! suite {
    ($store:ident, $open:expr) => {
        mod $store {
            use super::*;
            $crate::queue::store::conformance::suite! { @ $open;
                the_oldest_of_the_highest_priority_comes_first,
                jobs_of_one_moment_come_in_the_order_they_were_handed_over,
                one_in_eight_is_the_oldest_of_any_priority,
                a_closed_lane_holds_up_no_other,
                a_claim_tells_when_the_next_job_comes_due,
                a_worker_may_ask_for_some_processes_only,
                a_job_comes_with_all_that_was_handed_over,
                what_a_dead_worker_had_is_taken_over,
                what_a_worker_had_that_retires_goes_back_untouched,
                a_late_failure_overwrites_nothing,
                a_late_success_is_never_thrown_away,
                a_success_after_the_end_is_refused,
                nothing_unsealed_is_started,
                a_seal_is_carried_out_by_whoever_lives,
                a_snoozed_job_keeps_its_place,
                a_retry_brings_back_what_it_left,
                a_job_that_kills_its_workers_fails_at_the_fifth,
                a_suspect_runs_alone,
                cancelled_work_is_not_started_and_not_tried_again,
                a_dead_workers_jobs_of_a_cancelled_process_are_cancelled,
                a_cancellation_holds_from_its_decision_on,
                failed_and_cancelled_jobs_can_be_put_back,
                what_is_retried_is_counted,
                a_deleted_process_leaves_nothing,
                outcomes_are_read_in_order_and_deleted_when_acknowledged,
                an_unsealed_process_outlives_its_outcomes,
                what_was_spent_adds_up,
                who_waits_for_work_is_woken,
                the_version_tells_of_others_writes,
                a_hundred_threads_enqueue_and_each_gets_its_own,
                two_handles_never_give_one_job_twice,
                a_check_finds_what_is_odd,
            }
        }
    };
    (@ $open:expr; $($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                $crate::queue::store::conformance::$name(&$open);
            }
        )*
    };
}
pub(crate) use suite;
