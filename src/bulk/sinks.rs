//! Outcomes for a caller in the same OS process: by index in a list, or through a channel.

use std::borrow::Borrow;

use crossbeam_channel::Sender;

use crate::base::{Error, ErrorKind, Time};
use crate::engine::route::Tries;
use crate::engine::work::Settled;
use crate::llm::outcome::Outcome;
use crate::llm::pack::Pack;
use crate::llm::request::Request;
use crate::llm::response::Response;
use crate::llm::route::Route;
use crate::observe::tally::Tally;

use super::call::{Answered, measure};
use super::list::Item;
use super::work::{Sink, count};

pub(super) fn outcome(
    route: &Route<'_>,
    (index, request): (usize, &Request),
    tries: &Tries,
    result: Result<Response, Error>,
    now: Time,
) -> Outcome {
    let outcome = Outcome {
        id: request.id.clone(),
        ..route.outcome(request, tries, tries.latency(now), result)
    };
    outcome.of(index, request)
}

/// The outcome of a request for which no call was made.
pub(super) fn not_sent(
    route: &Route<'_>,
    asked: (usize, &Request),
    error: Error,
    now: Time,
) -> Outcome {
    outcome(route, asked, &Tries::default(), Err(error), now)
}

/// Counts the end of a pack and passes on the outcomes of its items with their indices. Returns false for the remains
/// of a stopped run.
fn ended<R: Borrow<Request>>(
    route: &Route<'_>,
    mut end: Settled<Pack<Item<R>>, Answered>,
    tally: &mut Tally,
    now: Time,
    mut put: impl FnMut(usize, Outcome),
) -> bool {
    if let Settled::Unsent(ticket, error) = &mut end
        && let [only] = &*ticket.task
    {
        *error = only.carried.at_end(error.clone());
    }
    count(tally, &end, measure);
    if let Settled::Final(_, Ok(answered)) = &end {
        answered.failures().for_each(|error| tally.failed(error, 1));
    }
    let (ticket, result, own) = match end {
        Settled::Final(ticket, result) => (ticket, result, true),
        Settled::Unsent(ticket, error) => {
            let own = error.kind() != ErrorKind::Cancelled;
            (ticket, Err(error), own)
        }
        Settled::Later(..) => return true,
    };
    let mut results = result.map(|answered| answered.responses.into_iter());
    for Item { index, request, .. } in ticket.task {
        let result = match &mut results {
            Ok(responses) => responses.next().unwrap_or_else(|| Err(Error::cancelled())),
            Err(error) => Err(error.clone()),
        };
        let asked = (index, request.borrow());
        put(index, outcome(route, asked, &ticket.tries, result, now));
    }
    own
}

/// Outcomes by the index of their request.
pub(super) struct Slots<'r> {
    pub route: &'r Route<'r>,
    pub outcomes: Vec<Option<Outcome>>,
}

impl<R: Borrow<Request>> Sink<Item<R>> for Slots<'_> {
    type Done = Answered;

    fn failure_of_one(done: &Answered) -> Option<&Error> {
        done.failures().next()
    }

    fn put(
        &mut self,
        ends: &mut Vec<Settled<Pack<Item<R>>, Answered>>,
        tally: &mut Tally,
        now: Time,
    ) -> Result<(), Error> {
        for end in ends.drain(..) {
            ended(self.route, end, tally, now, |index, outcome| {
                self.outcomes[index] = Some(outcome);
            });
        }
        Ok(())
    }
}

/// The outcomes of one call for the caller's thread, with the flag of [`ended`].
pub(super) type Batch = (Vec<Outcome>, bool);

/// Outcomes for the caller's thread.
pub(super) struct Channel<'r> {
    pub route: &'r Route<'r>,
    pub outcomes: Sender<Batch>,
}

impl<R: Borrow<Request>> Sink<Item<R>> for Channel<'_> {
    type Done = Answered;

    fn failure_of_one(done: &Answered) -> Option<&Error> {
        done.failures().next()
    }

    fn put(
        &mut self,
        ends: &mut Vec<Settled<Pack<Item<R>>, Answered>>,
        tally: &mut Tally,
        now: Time,
    ) -> Result<(), Error> {
        for end in ends.drain(..) {
            let mut outcomes = Vec::new();
            let put = |_, outcome| outcomes.push(outcome);
            let own = ended(self.route, end, tally, now, put);
            // Every call holds a permit, and the channel has capacity for all of them.
            let _ = self.outcomes.try_send((outcomes, own));
        }
        Ok(())
    }

    fn defers_release(&self) -> bool {
        true
    }
}
