//! Outcomes for a caller in the same process: by place in a list, or through a channel.

use std::borrow::Borrow;

use crossbeam_channel::Sender;

use crate::base::clock::Time;
use crate::base::error::{Error, ErrorKind};
use crate::engine::route::Tries;
use crate::engine::work::Settled;
use crate::llm::request::Request;
use crate::llm::response::Outcome;
use crate::llm::route::{Route, latency};
use crate::observe::tally::Tally;

use super::job::{Sink, count};
use super::list::Item;
use super::once::{Answered, measure};

pub(super) fn outcome(
    route: &Route<'_>,
    request: &Request,
    tries: &Tries,
    result: Result<Answered, Error>,
    now: Time,
) -> Outcome {
    let (provider, model) = route.asked(tries.step, request);
    Outcome {
        id: request.id.clone(),
        attempts: u32::from(tries.calls),
        latency: latency(tries.first, now),
        provider: Some(provider),
        model,
        earlier: route.earlier(tries.trail, request),
        request_hash: None,
        result: result.map(|answered| answered.response),
    }
}

/// The place of an item, its outcome, and whether that is one of its own or the remains of a stopped
/// run; counted.
fn ended<R: Borrow<Request>>(
    route: &Route<'_>,
    mut end: Settled<Item<R>, Answered>,
    tally: &mut Tally,
    now: Time,
) -> Option<(usize, Outcome, bool)> {
    if let Settled::Unsent(ticket, error) = &mut end {
        let request = ticket.task.request.borrow();
        *error = route.dropped(request, &ticket.tries, error.clone());
    }
    count(tally, &end, measure);
    let (ticket, result, own) = match end {
        Settled::Final(ticket, result) => (ticket, result, true),
        Settled::Unsent(ticket, error) => {
            let own = error.kind() != ErrorKind::Cancelled;
            (ticket, Err(error), own)
        }
        Settled::Later(..) => return None,
    };
    let Item { index, request } = ticket.task;
    let outcome = outcome(route, request.borrow(), &ticket.tries, result, now);
    Some((index, outcome, own))
}

/// Outcomes by the place of their request.
pub(super) struct Slots<'r> {
    pub route: &'r Route<'r>,
    pub outcomes: Vec<Option<Outcome>>,
}

impl<R: Borrow<Request>> Sink<Item<R>> for Slots<'_> {
    type Done = Answered;

    fn put(
        &mut self,
        ends: &mut Vec<Settled<Item<R>, Answered>>,
        tally: &mut Tally,
        now: Time,
    ) -> Result<(), Error> {
        for end in ends.drain(..) {
            if let Some((index, outcome, _)) = ended(self.route, end, tally, now) {
                self.outcomes[index] = Some(outcome);
            }
        }
        Ok(())
    }
}

/// Outcomes for the caller's thread, each with the flag of [`ended`].
pub(super) struct Channel<'r> {
    pub route: &'r Route<'r>,
    pub outcomes: Sender<(Outcome, bool)>,
}

impl<R: Borrow<Request>> Sink<Item<R>> for Channel<'_> {
    type Done = Answered;

    fn put(
        &mut self,
        ends: &mut Vec<Settled<Item<R>, Answered>>,
        tally: &mut Tally,
        now: Time,
    ) -> Result<(), Error> {
        for end in ends.drain(..) {
            if let Some((_, outcome, own)) = ended(self.route, end, tally, now) {
                // Every outcome holds a permit, and the channel has room for all of them.
                let _ = self.outcomes.try_send((outcome, own));
            }
        }
        Ok(())
    }

    fn defers_release(&self) -> bool {
        true
    }
}
