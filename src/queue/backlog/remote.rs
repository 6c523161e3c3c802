//! A store on a server is asked without the dispatcher's lock; what it brings is for the next look.

use crate::base::clock::Time;
use crate::base::error::Error;
use crate::engine::availability::Availability;
use crate::engine::work::Ticket;
use crate::queue::claim_plan::{ClaimPlan, Claimed};
use crate::queue::task::JobTask;

use super::{FoundLane, StoreBacklog};

/// What is asked of a store on a server, without the dispatcher's lock; one thing at a time.
pub(crate) enum Request {
    Claim(Box<ClaimPlan>, Availability),
    GiveBack(Vec<Ticket<JobTask>>),
}

/// How claims of a store on a server come about.
#[derive(Default)]
pub(crate) struct Remote {
    pub is_remote: bool,
    pub request: Option<Request>,
    /// It was asked for something that has not come back.
    pub is_asked: bool,
    /// A give-back that failed is tried again then.
    pub give_back_at: Time,
    pub(super) asked: Asked,
    pub(super) arrived: Option<Result<FoundLane, Error>>,
    /// Jobs have ended or gone back since it was asked.
    pub(super) is_stale: bool,
}

/// What holds of a claim from before it.
#[derive(Default, Clone, Copy)]
pub(super) struct Asked {
    pub jobs: usize,
    /// Batches were open.
    pub batches: bool,
}

impl StoreBacklog {
    /// Has a store on a server asked for jobs, unless it is being asked already.
    pub(super) fn ask(&mut self, asked: Asked, availability: &Availability, now: Time) {
        let plan = Box::new(self.plan(asked.jobs, false, now));
        self.remote.request = Some(Request::Claim(plan, availability.clone()));
        self.remote.is_asked = true;
        self.remote.is_stale = false;
        self.remote.asked = asked;
        self.quiet_until = None;
    }

    /// What a store on a server was asked for is here.
    pub(crate) fn arrive(&mut self, claimed: Result<Claimed, Error>, now: Time) {
        self.remote.is_asked = false;
        let found = self.found(claimed, now);
        self.remote.arrived = Some(found);
    }
}
