//! A job store as the work of the dispatcher.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Serialize, Serializer};

use crate::base::{Charge, Context, Error, Mark, ProcessId, Time, Timestamp};
use crate::engine::availability::Availability;
use crate::engine::dispatch::StopReason;
use crate::engine::limited_by::Limit;
use crate::engine::run::Reply;
use crate::engine::work::{SettleIo, Settled, TakeIo, Work};
use crate::llm::pack::Pack;
use crate::observe::jobs::{EndedJob, JobObserver};

use super::account::Part;
use super::backlog::StoreBacklog;
use super::controls::Controls;
use super::handler::{Children, RunningJob};
use super::info::ParentJob;
use super::job::ProcessState;
use super::kind::{Done, JobEnd, JobTask, JobTicket, Kind, Taken};
use super::prompts;
use super::store::{ClaimOutcome, Settlement};

type SettledPack = Settled<Pack<JobTask>, Done>;

/// What a worker did.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct WorkerReport {
    /// Jobs it completed.
    pub completed: u64,
    /// Jobs that failed permanently.
    pub failed: u64,
    /// Started jobs that it returned to the queue.
    pub given_back: u64,
    /// Calls it made.
    pub calls: u64,
    /// Batches that were created at a provider.
    pub batches: u64,
    /// Open batches at their provider.
    pub batches_open: u64,
    /// Held batches: it is unknown whether they were created, and they wait for a decision.
    pub batches_held: u64,
    /// Ended batches with missing billed results. The results stay at the provider, and the next worker requests them
    /// at once.
    pub batches_uncollected: u64,
    /// Calls repeated at the same provider after a failure.
    pub retries: u64,
    /// Rate-limited calls (HTTP 429).
    pub rate_limited: u64,
    /// Calls that were repeated although the earlier one may have been billed.
    pub possibly_paid_twice: u64,
    /// Why the worker ended; `None` if no job was left.
    #[serde(serialize_with = "stop_text")]
    pub stop: Option<StopReason>,
    /// Results in JSON that could not be recorded after all retries, including billed failures.
    #[serde(skip)]
    pub unsaved: Vec<String>,
}

fn stop_text<S: Serializer>(stop: &Option<StopReason>, serializer: S) -> Result<S::Ok, S::Error> {
    stop.as_ref().map(ToString::to_string).serialize(serializer)
}

pub(crate) struct StoreWork {
    pub backlog: StoreBacklog,
    pub tally: WorkerReport,
    /// Processes that have changed since the last check.
    pub changed: Mutex<HashMap<ProcessId, ProcessState>>,
    observer: Option<Arc<dyn JobObserver>>,
}

impl StoreWork {
    pub(crate) fn new(backlog: StoreBacklog, observer: Option<Arc<dyn JobObserver>>) -> Self {
        Self {
            backlog,
            tally: WorkerReport::default(),
            changed: Mutex::default(),
            observer,
        }
    }

    /// The results and billed failures among these ends, as they would be recorded.
    pub(crate) fn unsaved(&self, lost: &[SettledPack], now: Time) -> Vec<String> {
        let line = |end: Settlement| match end.outcome {
            ClaimOutcome::Completed { result, .. } => Some(result.get().to_owned()),
            ClaimOutcome::Failed {
                error,
                result,
                spent,
            } if spent.is_some() || error.is_unusable_reply() => match result {
                Some(result) => Some(result.get().to_owned()),
                None => serde_json::to_string(&error).ok(),
            },
            _ => None,
        };
        let ends = self.ends(lost, now).0.into_iter();
        ends.filter_map(line).collect()
    }

    /// Reports jobs with an outcome to the observer.
    fn observe(&self, settled: &SettledPack, now: Time, wall: Timestamp) {
        let (Some(observer), Settled::Final(ticket, result)) = (&self.observer, settled) else {
            return;
        };
        let waits = |at: usize| matches!(result, Ok(done) if matches!(done[at], JobEnd::Wait(_)));
        for (at, task) in ticket.task.iter().enumerate() {
            if waits(at) {
                continue;
            }
            let asked = prompts::asked(task, ticket.tries.step);
            observer.on_job_end(&EndedJob {
                ids: Some((task.claimed.process_id, task.claimed.job_id)),
                kind: &task.claimed.lane.kind,
                provider: asked.as_ref().map(|(provider, _)| provider.as_str()),
                error: match result {
                    Ok(done) => done[at].error(),
                    Err(error) => Some(error),
                },
                took: task.history.latency(&ticket.tries, now, wall),
            });
        }
    }

    /// Updates the state for ends that are being recorded.
    fn finish(
        &mut self,
        done: &mut Vec<SettledPack>,
        wall: Timestamp,
        changed: Result<Vec<ProcessState>, Error>,
        now: Time,
    ) -> Result<(), Error> {
        let changed = changed?;
        self.backlog.controls.budgets.note(changed.iter());
        let mut seen = self.changed.lock();
        seen.extend(changed.into_iter().map(|state| (state.process_id, state)));
        drop(seen);
        for settled in done.iter() {
            self.observe(settled, now, wall);
        }
        for settled in done.drain(..) {
            let (ticket, count) = match &settled {
                Settled::Final(ticket, Ok(done)) if only_waits(done) => {
                    self.backlog.settled(ticket.task.len(), true);
                    self.backlog.looked(true);
                    continue;
                }
                Settled::Final(ticket, Ok(done)) => {
                    let failed = done.iter().filter_map(JobEnd::error).count();
                    self.tally.failed += failed as u64;
                    self.tally.completed += (done.len() - failed) as u64;
                    (ticket, None)
                }
                Settled::Final(ticket, Err(_)) => (ticket, Some(&mut self.tally.failed)),
                Settled::Unsent(ticket, _) => (ticket, Some(&mut self.tally.given_back)),
                Settled::Later(ticket, ..) => (ticket, None),
            };
            self.backlog.looked(false);
            let jobs = ticket.task.len();
            let is_back = !matches!(settled, Settled::Final(..));
            if let Some(count) = count {
                *count += jobs as u64;
            }
            self.backlog.settled(jobs, is_back);
        }
        Ok(())
    }

    /// The ends to record, and their time.
    fn ends(&self, done: &[SettledPack], now: Time) -> (Vec<Settlement>, Timestamp) {
        let wall = self.backlog.controls.clock.wall();
        let mut ends = Vec::with_capacity(done.len());
        for settled in done {
            let (Settled::Final(ticket, _)
            | Settled::Later(ticket, ..)
            | Settled::Unsent(ticket, _)) = settled;
            for (at, task) in ticket.task.iter().enumerate() {
                ends.push(match settled {
                    Settled::Final(_, Ok(done)) => match &done[at] {
                        JobEnd::Result(result, spent, charge) => {
                            let (result, spent) = (result.clone(), *spent);
                            let outcome = ClaimOutcome::Completed { result, spent };
                            end(task, ticket, outcome, charge.clone())
                        }
                        JobEnd::Failed(error) => failed(task, ticket, error, now),
                        JobEnd::Wait(time) => task.back(0, Some(wall.after(*time))),
                    },
                    Settled::Final(_, Err(error)) => failed(task, ticket, error, now),
                    Settled::Later(_, due, Some(error)) => {
                        self.retry(task, ticket, *due, error, (now, wall))
                    }
                    Settled::Later(_, due, None) => {
                        let due_at = Some(wall.after(due.since(now)));
                        end(task, ticket, ClaimOutcome::Snooze { due_at }, None)
                    }
                    Settled::Unsent(..) if ticket.tries.in_doubt => doubtful(task),
                    Settled::Unsent(..) => task.back(ticket.tries.calls.into(), None),
                });
            }
        }
        (ends, wall)
    }

    fn retry(
        &self,
        task: &JobTask,
        ticket: &JobTicket,
        due: Time,
        error: &Error,
        (now, wall): (Time, Timestamp),
    ) -> Settlement {
        let tries = &ticket.tries;
        let spent = prompts::spent_in_vain(error, &task.history);
        let asked = |step| prompts::asked(task, step).unwrap_or_default();
        let mut history = task.history.clone();
        history.failed(error, tries, asked, (now, wall));
        let outcome = ClaimOutcome::Retry {
            due_at: wall.after(due.since(now)),
            step: task.claimed.lane.at_step(tries.step),
            attempt: tries.attempt,
            in_doubt: tries.in_doubt,
            spent,
            history: history.text(),
        };
        let charge = error.charge().cloned().map(Box::new);
        end(task, ticket, outcome, charge)
    }
}

fn failed(task: &JobTask, ticket: &JobTicket, error: &Error, now: Time) -> Settlement {
    let outcome = ClaimOutcome::Failed {
        error: error.clone(),
        result: prompts::failure(task, &ticket.tries, now, error),
        spent: prompts::spent_in_vain(error, &task.history),
    };
    let charge = error.charge().cloned().map(Box::new);
    end(task, ticket, outcome, charge)
}

fn end(
    task: &JobTask,
    ticket: &JobTicket,
    outcome: ClaimOutcome,
    charge: Option<Box<Charge>>,
) -> Settlement {
    Settlement {
        receipt: task.claimed.receipt,
        calls: ticket.tries.calls.into(),
        outcome,
        charge,
        lost: task.part.lock().as_ref().map_or(0, Part::lost),
    }
}

fn only_waits(done: &Done) -> bool {
    matches!(done[..], [JobEnd::Wait(_)])
}

/// Returns a job whose call was aborted: no attempt, but the call may have been processed.
fn doubtful(task: &JobTask) -> Settlement {
    let mut history = task.history.clone();
    history.tries.in_doubt = true;
    let outcome = ClaimOutcome::Retry {
        due_at: task.claimed.due_at,
        step: task.claimed.lane.step,
        attempt: history.tries.attempt,
        in_doubt: true,
        spent: None,
        history: history.text(),
    };
    let end = Settlement::new(task.claimed.receipt, task.history.calls(), outcome);
    let lost = task.part.lock().as_ref().map_or(0, Part::lost);
    Settlement { lost, ..end }
}

impl Work for StoreWork {
    type Task = Pack<JobTask>;
    type Done = Done;

    fn has_store(&self) -> bool {
        true
    }

    /// Jobs that only wait for capacity stay prefetched, without a write.
    fn keep(&mut self, done: &mut Vec<SettledPack>) {
        let waits = |end: &mut SettledPack| matches!(end, Settled::Later(_, Time::ZERO, None));
        for end in done.extract_if(.., waits) {
            if let Settled::Later(ticket, ..) = end {
                self.backlog.keep(ticket);
            }
        }
    }

    fn is_answered_elsewhere(&self) -> bool {
        self.backlog.controls.batch_overview.tally.lock().completed > 0
    }

    fn take(&mut self, max: usize, availability: &Availability, now: Time) -> Result<Taken, Error> {
        self.backlog.take(max, availability, now)
    }

    fn settle(&mut self, done: &mut Vec<SettledPack>, now: Time) -> Result<(), Error> {
        self.keep(done);
        self.settle_io(done, now)
            .map_or(Ok(()), |io| io()(self, done, now))
    }

    fn settle_io(&mut self, done: &[SettledPack], now: Time) -> Option<SettleIo<Self>> {
        let (ends, wall) = self.ends(done, now);
        let controls = self.backlog.controls.clone();
        Some(Box::new(move || {
            let changed = controls.store.settle(&ends, wall);
            Box::new(move |work, done, now| work.finish(done, wall, changed, now))
        }))
    }

    fn take_io(&mut self) -> Option<TakeIo<Self>> {
        let plan = self.backlog.request.take()?;
        Some(Box::new(move || {
            let found = plan.run();
            Box::new(move |work| work.backlog.arrive(plan, found))
        }))
    }

    fn is_answer(&self, done: &Done) -> bool {
        !only_waits(done)
    }

    fn failure_of_one<'d>(&self, done: &'d Done) -> Option<&'d Error> {
        done.iter().find_map(JobEnd::error)
    }

    fn members(&self, task: &Pack<JobTask>) -> usize {
        task.len()
    }

    fn held_by(&self) -> Option<Limit> {
        self.backlog.held_by()
    }
}

/// Makes the call of a pack.
pub(crate) fn call(controls: &Arc<Controls>, ticket: &JobTicket, ctx: &Context) -> Reply<Done> {
    let pack = &ticket.task;
    let first = &pack[0];
    match &*first.kind {
        Kind::Prompts { route, task, .. } => {
            prompts::call(route, &controls.budgets, *task, pack, &ticket.tries, ctx)
        }
        Kind::Host(handler) => {
            let job = RunningJob::new(&first.claimed, ticket.tries.calls.into());
            let receipt = first.claimed.receipt;
            let calls = u32::from(ticket.tries.calls) + 1;
            let late_controls = controls.clone();
            let late = move |result| {
                let outcome = ClaimOutcome::Completed {
                    result,
                    spent: None,
                };
                let end = Settlement::new(receipt, calls, outcome);
                let Controls { store, clock, .. } = &*late_controls;
                if let Err(error) = store.settle(&[end], clock.wall()) {
                    log::error!("a late result is lost: {error}");
                }
            };
            let parent = ParentJob {
                process_id: job.process_id,
                job_id: job.job_id,
            };
            let (name, priority) = (first.claimed.name(), first.claimed.priority);
            let Controls { store, clock, .. } = &**controls;
            let children = Children::new(store, clock, parent, name, priority);
            let result = handler.call(&job, &children, ctx, late);
            let result = result.map_err(|error| error.marked(Mark::ExactWait));
            let result = result.map(|made| match made {
                Some(result) => JobEnd::Result(result, None, None),
                None => JobEnd::Wait(children.wait()),
            });
            Reply {
                result: result.map(|end| vec![end]),
                paid: Default::default(),
                hints: Default::default(),
                fatal: false,
            }
        }
    }
}
