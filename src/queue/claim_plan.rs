//! A planned claim with all data that it needs, because it runs without the dispatcher's lock.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::base::{Error, ProcessId, Time, Timestamp};
use crate::engine::availability::Availability;
use crate::engine::limiter::{AHEAD, NEAR, QuotaId};

use super::controls::Controls;
use super::job::COMPLETION_KIND;
use super::kind::JobTicket;
use super::kinds::Open;
use super::store::{ClaimRequest, ClaimedJob, JobLane};

/// Maximum number of jobs in one claim.
pub(super) const MOST_CLAIMED: usize = 1000;

/// Looks of a waiting job after which it waits in vain, unless something else ends here meanwhile.
const LOOKS_IN_VAIN: u64 = 2;

pub(crate) struct ClaimPlan {
    pub controls: Arc<Controls>,
    pub availability: Availability,
    /// Jobs to give back before.
    pub back: Vec<JobTicket>,
    /// Only jobs of these processes; of all processes if empty.
    pub processes: Vec<ProcessId>,
    /// Maximum number of calls for the jobs; if it is 0, none are claimed.
    pub most: usize,
    /// Whether the worker runs no job then.
    pub idle: bool,
    /// How often jobs have looked for others that they wait for, since something else ended here.
    pub looks: u64,
    /// Whether a worker that runs no job ends when no job is left.
    pub may_end: bool,
    /// Quotas of prefetched jobs, one for each call. These jobs come before others of the same quota.
    pub prefetched: Vec<QuotaId>,
    pub now: Time,
    pub wall: Timestamp,
}

/// The outcome of a claim.
#[derive(Default)]
pub(crate) struct Claimed {
    pub jobs: Vec<ClaimedJob>,
    /// What their lanes were when they were claimed: a kind may be removed before its jobs arrive.
    pub lanes: HashMap<Arc<JobLane>, Open>,
    /// A kind that this worker does not support, and that has jobs.
    pub unknown: Option<String>,
    pub due: Option<Time>,
    /// When the limiter has capacity again for a lane of which not all jobs could be claimed.
    pub opens: Option<Time>,
    /// Whether the end of a call can make room in such a lane.
    pub waits_for_call: bool,
    /// Whether jobs of a supported kind wait, due or not.
    pub known_wait: bool,
    /// Whether the store has chores left; `None` if that does not matter for now.
    pub has_chores: Option<bool>,
}

impl Claimed {
    fn opens(&mut self, at: Option<Time>) {
        self.opens = self.opens.into_iter().chain(at).min();
    }
}

impl ClaimPlan {
    /// Number of jobs to give back.
    pub(super) fn given_back(&self) -> usize {
        self.back.iter().map(|ticket| ticket.task.len()).sum()
    }

    /// Claims jobs that the availability allows to start.
    pub(super) fn run(&self) -> Result<Claimed, Error> {
        if !self.back.is_empty() {
            let back = self.back.iter().flat_map(|ticket| &ticket.task);
            let ends: Vec<_> = back.map(|task| task.back(0, None)).collect();
            self.controls.store.settle(&ends, self.wall)?;
        }
        if self.most == 0 {
            return Ok(Claimed::default());
        }
        let mut queued = Vec::new();
        let mut claimed = self.claim(&mut queued)?;
        let may_end = self.may_end && self.idle && claimed.jobs.is_empty();
        let waits_in_vain = queued.is_empty() || may_end && self.only_sleep(&queued)?;
        claimed.known_wait |= !waits_in_vain;
        if may_end && !claimed.known_wait {
            claimed.known_wait = self.awaits_batch()?;
        }
        if may_end && !claimed.known_wait {
            let store = &self.controls.store;
            claimed.has_chores =
                Some(store.maintain(self.wall)? || store.others_work(&self.processes)?);
        }
        Ok(claimed)
    }

    /// Whether all jobs of these lanes wait for others in vain: they keep no worker that ends with an empty queue, because
    /// nobody may run the others.
    fn only_sleep(&self, queued: &[Arc<JobLane>]) -> Result<bool, Error> {
        if self.looks == 0 || queued.iter().any(|lane| lane.step != 0) {
            return Ok(false);
        }
        let kinds: BTreeSet<&str> = queued.iter().map(|lane| &*lane.kind).collect();
        let mut waiting = 0;
        for kind in kinds {
            let store = &self.controls.store;
            let jobs = store.waiting_jobs(kind, &self.processes, self.wall)?;
            waiting += jobs.iter().map(|group| group.all).sum::<u64>();
        }
        Ok(waiting * LOOKS_IN_VAIN <= self.looks)
    }

    /// Whether jobs wait that go into batches. The last scan for batches may be older than some jobs.
    fn awaits_batch(&self) -> Result<bool, Error> {
        let overview = &self.controls.batch_overview;
        if !overview.none_waiting.load(Ordering::SeqCst) {
            return Ok(false);
        }
        let (store, processes) = (&self.controls.store, &self.processes);
        let waiting = store.waiting_jobs(COMPLETION_KIND, processes, self.wall)?;
        let halted = overview.halted_groups.lock();
        Ok(waiting.iter().any(|jobs| !halted.contains(&jobs.group())))
    }

    fn claim(&self, queued: &mut Vec<Arc<JobLane>>) -> Result<Claimed, Error> {
        let Controls {
            store,
            kinds,
            batch_overview,
            ..
        } = &*self.controls;
        let mut claimed = Claimed::default();
        let mut open = |lane: &Arc<JobLane>| {
            let Some(open) = kinds.open(lane) else {
                claimed.unknown = Some(lane.kind.clone());
                return (0, 1);
            };
            if kinds.is_batched(lane) {
                // The thread of the batches tries these jobs.
                claimed.known_wait |= !batch_overview.none_waiting.load(Ordering::SeqCst);
                return (0, 1);
            }
            queued.push(lane.clone());
            let room = self.room(lane, &open, &mut claimed);
            let packed = open.pack.inputs.into();
            claimed.lanes.insert(lane.clone(), open);
            (room, packed)
        };
        let (mut jobs, mut next) = (Vec::new(), None);
        for (processes, most) in self.parts()? {
            let wanted = ClaimRequest {
                most,
                idle: self.idle && jobs.is_empty(),
                processes: &processes,
                open: &mut open,
            };
            match store.claim(self.controls.worker(), wanted, self.wall) {
                Ok(reply) => {
                    jobs.extend(reply.jobs);
                    next = next.into_iter().chain(reply.next).min();
                }
                Err(error) if jobs.is_empty() => return Err(error),
                // The next claim meets it, too.
                Err(_) => break,
            }
        }
        claimed.jobs = jobs;
        claimed.due = next.map(|due| self.now.after(due.since(self.wall)));
        Ok(claimed)
    }

    /// The processes to claim from, with a number of jobs for each claim. If calls of one have ended as if nothing got
    /// through, jobs of all that wait are chosen, because that one may be blocked alone.
    fn parts(&self) -> Result<Vec<(Vec<ProcessId>, usize)>, Error> {
        let mut waiting = Vec::new();
        if self.availability.is_suspect(self.now) {
            waiting = self.controls.store.open_processes()?;
            let of_all = self.processes.is_empty();
            waiting.retain(|process| {
                let is_its = of_all || self.processes.contains(&process.process_id);
                is_its && process.counts.pending > 0
            });
        }
        if waiting.len() < 2 {
            return Ok(vec![(self.processes.clone(), self.most)]);
        }
        let each = (self.most / waiting.len()).max(1);
        let apart = waiting.len().div_ceil(self.most);
        let spread = waiting.into_iter().step_by(apart);
        Ok(spread.map(|one| (vec![one.process_id], each)).collect())
    }

    /// Number of jobs of a lane that can start.
    fn room(&self, lane: &JobLane, open: &Open, claimed: &mut Claimed) -> usize {
        let (availability, now) = (&self.availability, self.now);
        let step = at_step(lane.route_step(), open.class.steps());
        let Some(live) = availability.callable_step(&open.class, step) else {
            return 0;
        };
        let quota = open.class.quota(live);
        let room = self.controls.kinds.limiter.room(quota, now);
        claimed.waits_for_call |= room.is_full;
        // A pause, or tokens that the limiter could not foresee. Prefetched jobs come first.
        let pause = availability.pauses.until(quota, now);
        if let Some(until) = pause.filter(|until| until.since(now) > NEAR) {
            claimed.opens(Some(now.after(until.since(now) - AHEAD)));
            return 0;
        }
        claimed.opens(room.more_at);
        let is_probed = availability.is_probed(&open.class, live);
        let most = if is_probed { 1 } else { usize::MAX };
        claimed.waits_for_call |= is_probed;
        // The next call is chosen among many: the others are given back.
        let room = match room.calls.min(most) {
            1.. if !is_probed && availability.is_class_in_doubt(&open.class, live, now) => {
                self.most
            }
            room => room,
        };
        let prefetched = self.prefetched.iter().filter(|of| **of == quota).count();
        match open.pack.inputs {
            _ if room == 0 => 0,
            0 | 1 if prefetched > 0 => 0,
            0 | 1 => room,
            inputs => room
                .saturating_sub(prefetched)
                .saturating_mul(inputs.into())
                .min(MOST_CLAIMED),
        }
    }
}

/// A route may have become shorter since a job reached this step.
pub(super) fn at_step(step: u8, steps: usize) -> u8 {
    step.min(u8::try_from(steps.saturating_sub(1)).unwrap_or(u8::MAX))
}
