//! A planned claim with all data that it needs, because a store on a server claims without the dispatcher's lock.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::base::clock::{Time, Timestamp};
use crate::base::error::Error;
use crate::base::id::ProcessId;
use crate::engine::availability::Availability;
use crate::engine::limiter::QuotaId;

use super::kinds::{Kinds, Lanes, Open};
use super::store::{ClaimRequest, ClaimedJob, JobLane, JobStore, WorkerId};

pub(super) struct ClaimPlan {
    pub store: Arc<dyn JobStore>,
    pub worker: WorkerId,
    pub kinds: Arc<Kinds>,
    pub lanes: Arc<Mutex<Lanes>>,
    /// Only jobs of these processes; of all processes if empty.
    pub processes: Vec<ProcessId>,
    pub most: usize,
    /// Whether the worker runs no job.
    pub idle: bool,
    pub look_again: bool,
    /// Only jobs of these lanes, to fill packs.
    pub filling: Option<Vec<Arc<JobLane>>>,
    /// Quotas of prefetched jobs. These jobs come before others of the same quota.
    pub prefetched: Vec<QuotaId>,
    pub now: Time,
    pub wall: Timestamp,
}

/// The outcome of a claim.
pub(super) struct Claimed {
    pub jobs: Vec<ClaimedJob>,
    pub due: Option<Time>,
    /// When the limiter has capacity again for a skipped lane.
    pub opens: Option<Time>,
    /// Whether jobs of a supported kind wait, due or not.
    pub known_wait: bool,
}

impl ClaimPlan {
    /// Claims jobs that this availability allows to start.
    pub(super) fn run(&self, availability: &Availability) -> Result<Claimed, Error> {
        self.lanes.lock().refresh(&self.kinds);
        let (mut known_wait, mut opens) = (false, None::<Time>);
        let mut open = |lane: &Arc<JobLane>| {
            let Some(open) = self.lanes.lock().open(lane, &self.kinds).cloned() else {
                return 0;
            };
            known_wait = true;
            self.room(lane, &open, availability, &mut opens)
        };
        let wanted = ClaimRequest {
            most: self.most,
            idle: self.idle,
            processes: &self.processes,
            look_again: self.look_again,
            open: &mut open,
        };
        let reply = self.store.claim(self.worker, wanted, self.wall)?;
        Ok(Claimed {
            jobs: reply.jobs,
            due: reply.next.map(|due| self.now.after(due.since(self.wall))),
            opens,
            known_wait,
        })
    }

    /// Number of jobs of a lane that can start.
    fn room(
        &self,
        lane: &Arc<JobLane>,
        open: &Open,
        availability: &Availability,
        opens: &mut Option<Time>,
    ) -> usize {
        let (kinds, now) = (&self.kinds, self.now);
        if kinds.is_batched(lane) {
            return 0;
        }
        let step = at_step(lane.step, open.class.steps());
        let Some(live) = availability.callable_step(&open.class, step) else {
            return 0;
        };
        let is_wanted = self.filling.as_ref().is_none_or(|of| of.contains(lane));
        if !is_wanted || availability.is_paused(&open.class, live, now) {
            return 0;
        }
        let quota = open.class.quota(live);
        // The limiter may know of a limit before a pause exists. Prefetched jobs come first.
        if let Some(at) = kinds.limiter.closed_until(quota, now) {
            *opens = Some(opens.map_or(at, |known| known.min(at)));
            return 0;
        }
        if self.prefetched.contains(&quota) {
            return 0;
        }
        let room = kinds.limiter.room(quota, now);
        match open.pack.inputs {
            0 | 1 => room,
            inputs => room.saturating_mul(inputs.into()),
        }
    }
}

/// A route may have become shorter since a job came to this step.
pub(super) fn at_step(step: u8, steps: usize) -> u8 {
    step.min(u8::try_from(steps.saturating_sub(1)).unwrap_or(u8::MAX))
}
