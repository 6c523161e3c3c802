//! What every store of jobs must do, as tests that know nothing of any database: two handles on one
//! are all they need. [`suite!`] runs them against a store.

mod batches;
mod claims;
mod ends;
mod items;
pub(crate) mod model;
mod processes;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::value::RawValue;

pub(crate) use batches::*;
pub(crate) use claims::*;
pub(crate) use ends::*;
pub(crate) use items::*;
pub(crate) use processes::*;

use crate::base::clock::Timestamp;
use crate::base::error::{Error, ErrorKind};
use crate::base::id::{JobId, ProcessId};
use crate::queue::info::ProcessInfo;
use crate::queue::job::{Job, JobCounts, JobStatus, ProcessState, Spent};
use crate::queue::store::*;

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

    fn counts(&self, process: ProcessId) -> JobCounts {
        self.two.process(process).unwrap().unwrap().counts
    }

    /// Every counter is that of the jobs, as a recount sees them.
    fn sound(&self) {
        for finding in self.two.check(T).unwrap() {
            assert!(finding.verdict < Severity::Bad, "{finding:?}");
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
        now: Timestamp,
        open: impl FnMut(&Arc<JobLane>) -> usize,
    ) -> ClaimReply {
        self.ask_for(&[], most, idle, now, open)
    }

    fn ask_for(
        &self,
        processes: &[ProcessId],
        most: usize,
        idle: bool,
        now: Timestamp,
        mut open: impl FnMut(&Arc<JobLane>) -> usize,
    ) -> ClaimReply {
        let wanted = ClaimRequest {
            most,
            idle,
            processes,
            open: &mut open,
        };
        self.store.claim(self.id, wanted, now).unwrap()
    }

    fn claim(&self, most: usize, now: Timestamp) -> Vec<ClaimedJob> {
        self.ask(most, true, now, |_| usize::MAX).jobs
    }

    fn one(&self) -> ClaimedJob {
        let mut jobs = self.claim(1, T);
        jobs.pop().expect("a job is due")
    }

    fn settle(&self, receipt: JobReceipt, outcome: ClaimOutcome) -> Vec<ProcessState> {
        let end = Settlement {
            receipt,
            calls: 1,
            outcome,
        };
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

fn enqueue(store: &dyn JobStore, jobs: Vec<Job>) -> ProcessId {
    let process = ProcessId::new();
    store.insert(process, jobs, true, T).unwrap();
    process
}

fn peek(store: &dyn JobStore, process: ProcessId) -> Vec<DeliveredResult> {
    store.peek(process, None, usize::MAX, usize::MAX).unwrap()
}

fn statuses(store: &dyn JobStore, process: ProcessId) -> Vec<JobStatus> {
    peek(store, process)
        .iter()
        .map(|delivery| delivery.result.status)
        .collect()
}

/// Another handle on the same database.
fn open_again(db: &Opened) -> impl Fn() -> Arc<dyn JobStore> {
    let again = db._keep.downcast_ref::<Again>().unwrap();
    || (again.0)()
}

/// How a database is opened once more.
pub(crate) struct Again(pub Box<dyn Fn() -> Arc<dyn JobStore>>);

/// Runs everything against a store.
macro_rules! suite {
    ($store:ident, $open:expr) => {
        mod $store {
            use super::*;
            $crate::testing::job_store::suite! { @ $open;
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
                what_is_told_of_a_process_stays_with_it,
                outcomes_are_read_in_order_and_deleted_when_acknowledged,
                an_unsealed_process_outlives_its_outcomes,
                what_was_spent_adds_up,
                who_waits_for_work_is_woken,
                the_version_tells_of_others_writes,
                a_hundred_threads_enqueue_and_each_gets_its_own,
                two_handles_never_give_one_job_twice,
                a_check_finds_what_is_odd,
                due_times_follow_a_clock_that_is_set_back,
                what_waits_is_told_in_the_order_of_claims,
                a_batch_takes_what_is_due_up_to_its_size,
                jobs_of_a_batch_come_with_all_that_was_handed_over,
                a_batch_outlives_its_owner,
                only_its_owner_changes_a_batch,
                jobs_in_a_batch_end_as_others_do,
                what_is_at_a_provider_outlives_a_cancellation,
                a_batch_outlives_its_process,
                a_batch_is_split,
                what_is_given_back_keeps_its_place,
                a_closed_batch_gives_back_what_is_left,
                two_never_get_one_job,
                what_a_process_holds_is_told_job_by_job,
                single_jobs_are_cancelled_while_they_wait,
            }
        }
    };
    (@ $open:expr; $($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                $crate::testing::job_store::$name(&$open);
            }
        )*
    };
}
pub(crate) use suite;
