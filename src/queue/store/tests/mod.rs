//! The rules of a [`Store`], as checks that it is put to in SQLite and on a server.
//!
//! A store under test is a [`TestDatabase`]: how a handle on it is opened. Each check makes a new one, opens
//! it twice, as two processes would, and panics where the store breaks a rule.
//!
//! | to | use |
//! |---|---|
//! | have a test of each rule | [`suite!`] |
//! | put a store to one rule | [`check`] |
//! | know the rules | [`names`] |
//! | compare thousands of random operations with a model of a store | [`random_operations`] |

mod batches;
mod budgets;
mod claims;
mod ends;
mod model;
mod parents;
mod processes;
mod spent;

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::value::RawValue;

use batches::*;
use budgets::*;
use claims::*;
use ends::*;
use parents::*;
use processes::*;
use spent::*;

use crate::base::{Error, ErrorKind, JobId, Mark, ProcessId, Timestamp};
use crate::queue::info::{ParentJob, ProcessInfo};
use crate::queue::job::JobStatus::{Cancelled, Completed, Failed, InProgress, Pending};
use crate::queue::job::{Job, JobCounts, JobFilter, JobState, JobStatus, ProcessState, Spent};
use crate::queue::store::*;

/// Called before each transaction; an error prevents the transaction.
type Unwritable = dyn FnMut() -> Option<Error> + Send;

/// The faults that tests simulate.
pub(crate) struct Faults {
    /// Number of chunks until the operation is aborted, as by a crash.
    chunks_left: AtomicI64,
    /// Why no transaction can be written.
    pub(crate) unwritable: Mutex<Option<Box<Unwritable>>>,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            chunks_left: AtomicI64::new(i64::MAX),
            unwritable: Mutex::default(),
        }
    }
}

impl Store {
    /// Claims due jobs of all lanes.
    pub(crate) fn claim_any(
        &self,
        worker: WorkerId,
        most: usize,
        now: Timestamp,
    ) -> Result<ClaimReply, Error> {
        let wanted = ClaimRequest {
            most,
            idle: true,
            processes: &[],
            open: &mut |_| (usize::MAX, 1),
        };
        self.claim(worker, wanted, now)
    }

    /// Fails where a test wants it to.
    pub(super) fn check_writable(&self) -> Result<(), Error> {
        let failure = self.faults.unwritable.lock().as_mut().and_then(|why| why());
        failure.map_or(Ok(()), Err)
    }

    /// Called before each of many short transactions. A test may abort after some of them.
    pub(super) fn next_chunk(&self) -> Result<(), Error> {
        match self.faults.chunks_left.fetch_sub(1, Ordering::Relaxed) {
            ..=0 => Err(Error::new(ErrorKind::Transient, "abandoned by the test")),
            _ => Ok(()),
        }
    }

    #[cfg(feature = "mysql")]
    pub(crate) fn mysql(&self) -> &Mysql {
        match &self.db {
            Db::Mysql(db) => db,
            Db::Sqlite(_) => panic!("the store is a file"),
        }
    }
}

/// A new and empty database of a store under test.
pub(super) struct TestDatabase {
    open: Box<dyn Fn() -> Arc<Store>>,
    /// The handle that was opened last.
    latest: Mutex<Weak<Store>>,
}

impl TestDatabase {
    /// A database on which the closure opens a handle, as a process of its own would: what the handles have
    /// in common is in the database alone. A handle that is dropped stands for a process that died, and its
    /// workers with it. Chores take two jobs at a time.
    pub(super) fn new(open: impl Fn() -> Store + 'static) -> Self {
        Self {
            open: Box::new(move || {
                let mut store = open();
                store.chunk = 2;
                Arc::new(store)
            }),
            latest: Mutex::default(),
        }
    }

    fn open(&self) -> Arc<Store> {
        let store = (self.open)();
        *self.latest.lock() = Arc::downgrade(&store);
        store
    }
}

/// Puts a store to one check, by its name in [`names`].
///
/// # Panics
/// When the store breaks the rule, or there is no check of that name.
pub(super) fn check(name: &str, new: impl Fn() -> TestDatabase) {
    let found = CHECKS.iter().find(|(known, _)| *known == name);
    let (_, run) = found.unwrap_or_else(|| panic!("there is no check {name:?}"));
    run(&|| Opened::new(new()));
}

/// The names of all checks: each is a rule that a store must keep.
#[cfg(feature = "mysql")]
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    CHECKS.iter().map(|(name, _)| *name)
}

/// Carries out random operations on a store and on a model of it, and compares the two after each, for the seeds from 1 to
/// this one, or for that of `BATCHWRIGHT_SEED`. The same seed makes the same operations, if the store answers the
/// same.
///
/// # Panics
/// When the store differs from the model.
pub(super) fn random_operations(last: u64, operations: u32, new: impl Fn() -> TestDatabase) {
    let given = std::env::var("BATCHWRIGHT_SEED").ok();
    let given = given.and_then(|seed| seed.parse().ok());
    for seed in given.map_or(1..=last, |seed| seed..=seed) {
        println!("BATCHWRIGHT_SEED={seed}");
        model::run(Opened::new(new()), seed, operations);
    }
}

/// One database, opened twice.
struct Opened {
    one: Option<Arc<Store>>,
    two: Arc<Store>,
    database: TestDatabase,
}

type Open<'a> = &'a dyn Fn() -> Opened;
type Run = fn(Open<'_>);

impl Opened {
    fn new(database: TestDatabase) -> Self {
        let two = database.open();
        Self {
            one: Some(database.open()),
            two,
            database,
        }
    }

    /// Another process takes the place of the first, which died.
    fn reopen(&mut self) {
        self.one = Some(self.database.open());
    }

    /// The handle that was opened last carries out this number of further pieces of chores, and then fails its call; with
    /// `None` it goes on as ever. The other handle finishes what was left.
    fn abandon_after(&self, pieces: impl Into<Option<i64>>) {
        let latest = self.database.latest.lock().upgrade().unwrap();
        let left = pieces.into().unwrap_or(i64::MAX);
        latest.faults.chunks_left.store(left, Ordering::Relaxed);
    }

    /// Carries out what was decided.
    fn carry_out(&self) {
        while self.two.maintain(T).unwrap() {}
    }

    fn store(&self) -> &Store {
        self.one.as_deref().unwrap()
    }

    /// A new process of jobs with these names.
    fn enqueue(&self, names: &[&str]) -> ProcessId {
        enqueue(self.store(), jobs(names))
    }

    /// A worker of the first handle.
    fn worker(&self) -> Hand<'_> {
        Hand::new(self.store())
    }

    fn state(&self, process: ProcessId) -> ProcessState {
        self.two.process(process).unwrap().unwrap()
    }

    fn counts(&self, process: ProcessId) -> JobCounts {
        self.state(process).counts
    }

    fn job(&self, job: JobId) -> JobState {
        self.two.job(job).unwrap().unwrap()
    }

    /// Every counter is that of the jobs, as a recount sees them.
    fn sound(&self) {
        let found = self.two.check().unwrap();
        let agree = "those of all processes agree with their jobs";
        assert!(found.iter().any(|finding| finding.seen == agree));
        for finding in found {
            assert!(finding.verdict < Severity::Bad, "{finding:?}");
        }
    }
}

/// A worker that is given whatever it asks for.
struct Hand<'a> {
    store: &'a Store,
    id: WorkerId,
}

impl<'a> Hand<'a> {
    fn new(store: &'a Store) -> Self {
        let id = store.register_worker().unwrap();
        Self { store, id }
    }

    fn ask(&self, processes: &[ProcessId], most: usize, idle: bool) -> Vec<ClaimedJob> {
        let wanted = ClaimRequest {
            most,
            idle,
            processes,
            open: &mut |_| (usize::MAX, 1),
        };
        self.store.claim(self.id, wanted, T).unwrap().jobs
    }

    fn claim(&self, most: usize, now: Timestamp) -> Vec<ClaimedJob> {
        self.store.claim_any(self.id, most, now).unwrap().jobs
    }

    fn one(&self) -> ClaimedJob {
        let mut jobs = self.claim(1, T);
        jobs.pop().expect("a job is due")
    }

    /// Ends one job after the other.
    fn settle_all(&self, jobs: &[ClaimedJob], outcomes: impl IntoIterator<Item = ClaimOutcome>) {
        for (job, outcome) in jobs.iter().zip(outcomes) {
            self.settle(job.receipt, outcome);
        }
    }

    fn settle(&self, receipt: JobReceipt, outcome: ClaimOutcome) -> Vec<ProcessState> {
        let end = Settlement::new(receipt, 1, outcome);
        self.store.settle(&[end], T).unwrap()
    }
}

const T: Timestamp = Timestamp(1_763_000_000_000);

fn at(millis: i64) -> Timestamp {
    Timestamp(T.0 + millis)
}

fn json(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

fn job(name: &str) -> Job {
    Job::raw("test", json("{\"a\": 1}")).item_id(name)
}

/// The id of a job of another queue in the same place.
fn foreign(id: JobId) -> JobId {
    let mut bytes = id.bytes();
    bytes[7] ^= 1;
    JobId::from_bytes(bytes)
}

fn jobs(names: &[&str]) -> Vec<Job> {
    names.iter().map(|name| job(name)).collect()
}

fn named(jobs: &[ClaimedJob]) -> Vec<&str> {
    jobs.iter()
        .map(|job| job.item_id.as_deref().unwrap())
        .collect()
}

fn completed() -> ClaimOutcome {
    ClaimOutcome::Completed {
        result: json("\"yes\""),
        spent: None,
    }
}

fn failed() -> ClaimOutcome {
    ClaimOutcome::Failed {
        error: Error::new(ErrorKind::Invalid, "no"),
        result: None,
        spent: None,
    }
}

fn retry(due_at: Timestamp, step: u8) -> ClaimOutcome {
    ClaimOutcome::Retry {
        due_at,
        step,
        attempt: 2,
        in_doubt: true,
        spent: None,
        history: "{\"errors\": [{\"step\": 0, \"at\": 7, \"error\": {\"kind\": \"transient\", \
                  \"message\": \"reset\"}}]}"
            .to_owned(),
    }
}

const PLACE: ClaimOutcome = ClaimOutcome::Snooze { due_at: None };

fn enqueue(store: &Store, jobs: Vec<Job>) -> ProcessId {
    let process = ProcessId::new();
    store.insert(process, jobs, true, T).unwrap();
    process
}

/// A new process of jobs with these names.
fn described(store: &Store, info: &ProcessInfo, names: &[&str]) -> ProcessId {
    let process = ProcessId::new();
    let added = store.insert_part(process, Some(info), jobs(names), true, None, T);
    added.unwrap();
    process
}

/// The description of a child process of a job.
fn child_of(parent: &ClaimedJob) -> ProcessInfo {
    let mut info = ProcessInfo::new();
    info.parent = Some(ParentJob {
        process_id: parent.process_id,
        job_id: parent.job_id,
    });
    info
}

fn peek(store: &Store, process: ProcessId) -> Vec<DeliveredResult> {
    store.peek(process, None, usize::MAX, usize::MAX).unwrap()
}

/// The receipts of all outcomes.
fn receipts(store: &Store, process: ProcessId) -> Vec<JobReceipt> {
    let outcomes = peek(store, process);
    outcomes.iter().map(|outcome| outcome.receipt).collect()
}

/// The call fails for good.
fn is_refused<T: std::fmt::Debug>(done: Result<T, Error>) {
    let error = done.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(!error.is_marked(Mark::ClaimLost), "{error}");
}

/// The call fails: the batch or job does not belong to this worker (any more).
fn is_lost<T: std::fmt::Debug>(done: Result<T, Error>) {
    let error = done.unwrap_err();
    assert!(error.is_marked(Mark::ClaimLost), "{error}");
}

/// Counts how often a store says that there is work, as long as the first value lives.
fn count_wakes(store: &Store) -> (Arc<WorkSignal>, Arc<AtomicUsize>) {
    let woken = Arc::new(AtomicUsize::new(0));
    let count = woken.clone();
    let wake: Arc<WorkSignal> = Arc::new(move || {
        count.fetch_add(1, Ordering::SeqCst);
    });
    store.on_work(Arc::downgrade(&wake));
    (wake, woken)
}

fn statuses(store: &Store, process: ProcessId) -> Vec<JobStatus> {
    peek(store, process)
        .iter()
        .map(|delivery| delivery.result.status)
        .collect()
}

/// Makes a test of each check: `suite!(name, new)`, where `new` makes a [`TestDatabase`]. The tests stand in a module
/// of that name.
macro_rules! suite {
    ($module:ident, $new:expr) => {
        mod $module {
            #[allow(unused_imports)]
            use super::*;
            $crate::queue::store::tests::suite! { @each tests [$new] }
        }
    };
    (@tests [$new:expr] $($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                $crate::queue::store::tests::check(stringify!($name), $new);
            }
        )*
    };
    (@table [] $($name:ident)*) => {
        &[$((stringify!($name), $name)),*]
    };
    (@each $rule:ident $arguments:tt) => {
        $crate::queue::store::tests::suite! { @$rule $arguments
            calls_that_take_several_jobs_are_filled
            what_was_enqueued_comes_with_claims_and_batches
            a_job_that_kills_its_workers_runs_alone_and_fails_at_the_fifth
            single_jobs_are_requeued_after_they_failed
            outcomes_are_read_in_order_and_deleted_when_acknowledged
            a_retry_takes_each_job_once_and_only_if_it_had_failed_before_it_began
            processes_are_shown_a_page_at_a_time
            a_decision_holds_before_it_is_carried_out
            who_waits_for_work_is_woken
            a_hundred_threads_enqueue_and_each_gets_its_own
            what_waits_too_long_is_made_due
            a_request_is_inserted_once
            a_paused_queue_starts_nothing
            a_batch_takes_jobs_up_to_its_bytes
            a_batch_has_one_owner
            two_never_get_one_job
            an_open_job_tells_where_its_children_stand
            a_process_stands_for_those_below_it
            children_are_enqueued_for_open_jobs_alone
            children_go_with_their_parent
            what_children_used_counts_for_their_root_too
            children_are_cancelled_and_put_back_with_their_parent
            what_was_spent_is_counted_by_day_and_model_and_outlives_its_jobs
            large_sums_saturate
            a_closed_process_opens_by_itself_or_with_a_higher_limit
            a_budget_that_comes_later_counts_what_was_spent_before
            a_process_and_its_children_share_a_budget
            jobs_of_a_dead_worker_count_as_the_mean_or_the_worst_case
            what_batches_can_cost_is_checked_together_and_released
            jobs_without_a_result_keep_their_part_of_a_batch
        }
    };
}
pub(super) use suite;

const CHECKS: &[(&str, Run)] = suite! { @each table [] };
