//! Requests to the store run without the dispatcher's lock: a database may be locked or far away. The next `take` uses
//! their outcome.

use crate::base::{Error, Time};
use crate::engine::availability::Availability;
use crate::engine::work::Ticket;
use crate::llm::pack::Pack;
use crate::queue::claim_plan::{ClaimPlan, Claimed};
use crate::queue::kind::JobTask;

use super::StoreBacklog;

/// A request to the store, made without the dispatcher's lock. One is in flight at a time.
pub(crate) enum Request {
    Claim(Box<ClaimPlan>, Availability),
    GiveBack(Vec<Ticket<Pack<JobTask>>>),
}

/// Requests to the store and their outcomes.
#[derive(Default)]
pub(crate) struct Requests {
    pub request: Option<Request>,
    /// Whether a request is in flight.
    pub is_asked: bool,
    /// A give-back that failed is tried again then.
    pub give_back_at: Time,
    pub(super) asked: Asked,
    pub(super) arrived: Option<Result<Claimed, Error>>,
    /// Whether jobs have ended or were released since the request.
    pub(super) is_stale: bool,
}

/// State before the claim, for comparison with the state after it.
#[derive(Default, Clone, Copy)]
pub(super) struct Asked {
    /// Number of calls that jobs were claimed for.
    pub calls: usize,
    /// Whether batches were open.
    pub batches: bool,
}

impl StoreBacklog {
    /// Requests a claim, unless a request is already in flight.
    pub(super) fn ask(&mut self, asked: Asked, availability: &Availability, now: Time) {
        let plan = Box::new(self.plan(asked, now));
        self.requests.request = Some(Request::Claim(plan, availability.clone()));
        self.requests.is_asked = true;
        self.requests.is_stale = false;
        self.requests.asked = asked;
        self.quiet_until = None;
    }

    /// Applies the outcome of a request.
    pub(crate) fn arrive(&mut self, claimed: Result<Claimed, Error>) {
        self.requests.is_asked = false;
        self.requests.arrived = Some(claimed);
    }
}
