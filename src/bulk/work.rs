//! The engine's work for prompts: a backlog of requests, the counters, and sinks for outcomes. Those here serve a caller in
//! the same OS process: by index in a list, or through a channel.

use std::borrow::Borrow;
use std::time::Duration;

use crate::base::{Context, Error, ErrorKind, Time, Usage, Usd};
use crate::engine::availability::Availability;
use crate::engine::dispatch::Dispatcher;
use crate::engine::limiter::QuotaId;
use crate::engine::route::Tries;
use crate::engine::run::Reply;
use crate::engine::work::{Settled, Take, Ticket, Work};
use crate::llm::carried::Carried;
use crate::llm::outcome::Outcome;
use crate::llm::pack::Pack;
use crate::llm::request::Request;
use crate::llm::response::{FinishReason, Response};
use crate::llm::route::Route;
use crate::observe::drive::{Counted, RunOptions};
use crate::observe::tally::{Measure, Tally, range};

/// Source of packs, which also stores those that wait.
pub(crate) trait Backlog {
    type Task: Send;
    /// Takes up to `max` packs.
    fn take(
        &mut self,
        max: usize,
        availability: &Availability,
        now: Time,
    ) -> Result<Take<Pack<Self::Task>>, Error>;

    /// Takes a pack back, for its [next calls](crate::llm::pack::next_calls).
    fn wait(&mut self, ticket: Ticket<Pack<Self::Task>>, due: Time);

    /// False if no item is available, now or later.
    fn has_more(&mut self) -> bool;

    /// Whether an available item waits for this quota.
    fn waits_for(&mut self, quota: QuotaId, availability: &Availability) -> bool;
}

/// Receives outcomes: one for each member of a pack.
pub(crate) trait Sink<T> {
    /// The result of a call for its pack.
    type Done: Send;

    /// Removes outcomes from the front of `ends` and counts them; an error says why some are left.
    fn put(
        &mut self,
        ends: &mut Vec<Settled<Pack<T>, Self::Done>>,
        tally: &mut Tally,
        now: Time,
    ) -> Result<(), Error>;

    /// True if a permit returns only after the caller took the outcome.
    fn defers_release(&self) -> bool {
        false
    }

    /// Why an item of a pack failed although the call returned answers for others.
    fn failure_of_one(_done: &Self::Done) -> Option<&Error> {
        None
    }

    /// Writes what can be written only when all items have ended.
    fn conclude(&mut self, _tally: &mut Tally) {}
}

/// A backlog and a sink in the form that the dispatcher needs.
pub(crate) struct Job<B: Backlog, K> {
    pub backlog: B,
    pub sink: K,
    pub tally: Tally,
}

/// The dispatcher of this work on a route.
pub(super) fn dispatcher<W: Work>(
    work: W,
    route: &Route<'_>,
    options: &RunOptions<'_>,
) -> Dispatcher<W> {
    let mut dispatch = route.options(&options.ctx, options.calls, options.on_error);
    if let Some(until) = options.starts_until {
        let clock = route.clock_ref();
        // The wall clock is read in whole milliseconds, rounded down.
        let wall = clock.wall().after(Duration::from_millis(1));
        let until = clock.now().after(until.since(wall));
        dispatch.deadline = Some(dispatch.deadline.map_or(until, |end| end.min(until)));
    }
    Dispatcher::new(work, route.limiter(), dispatch)
}

impl<B: Backlog, K: Sink<B::Task>> Work for Job<B, K> {
    type Task = Pack<B::Task>;
    type Done = K::Done;

    fn take(
        &mut self,
        max: usize,
        availability: &Availability,
        now: Time,
    ) -> Result<Take<Pack<B::Task>>, Error> {
        self.backlog.take(max, availability, now)
    }

    fn settle(
        &mut self,
        done: &mut Vec<Settled<Pack<B::Task>, K::Done>>,
        now: Time,
    ) -> Result<(), Error> {
        for settled in done.extract_if(.., |end| matches!(end, Settled::Later(..))) {
            if let Settled::Later(ticket, due, _) = settled {
                self.backlog.wait(ticket, due);
            }
        }
        // Asked without ends too: a sink whose reader went away says so again.
        self.sink.put(done, &mut self.tally, now)
    }

    fn members(&self, task: &Pack<B::Task>) -> usize {
        task.len()
    }

    fn failure_of_one<'d>(&self, done: &'d K::Done) -> Option<&'d Error> {
        K::failure_of_one(done)
    }

    fn has_more(&mut self) -> bool {
        self.backlog.has_more()
    }

    fn waits_for(&mut self, quota: QuotaId, availability: &Availability) -> bool {
        self.backlog.waits_for(quota, availability)
    }

    fn defers_release(&self) -> bool {
        self.sink.defers_release()
    }
}

impl<B: Backlog, K: Sink<B::Task>> Counted for Job<B, K> {
    fn tally(&mut self) -> &mut Tally {
        &mut self.tally
    }

    fn conclude(&mut self) {
        self.sink.conclude(&mut self.tally);
    }
}

/// Counts an end in the tally, once per member.
pub(crate) fn count<T, D>(
    tally: &mut Tally,
    end: &Settled<Pack<T>, D>,
    measure: impl FnOnce(&D) -> Measure,
) {
    match end {
        Settled::Final(ticket, Ok(done)) => tally.answered(ticket.tries.step, &measure(done)),
        Settled::Final(ticket, Err(error)) => tally.failed(error, ticket.task.len() as u64),
        Settled::Unsent(ticket, error) => tally.unsent(error, ticket.task.len() as u64),
        Settled::Later(..) => {}
    }
}

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

/// The outcomes of one call; false for the remains of a stopped run.
pub(super) type Batch = (Vec<Outcome>, bool);

/// Counts the end of a pack.
fn ended<R: Borrow<Request>>(
    route: &Route<'_>,
    mut end: Settled<Pack<Item<R>>, Answered>,
    tally: &mut Tally,
    now: Time,
) -> Batch {
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
        Settled::Later(..) => return (Vec::new(), true),
    };
    let mut results = result.map(|answered| answered.responses.into_iter());
    let of_item = |Item { index, request, .. }: Item<R>| {
        let result = match &mut results {
            Ok(responses) => responses.next().unwrap_or_else(|| Err(Error::cancelled())),
            Err(error) => Err(error.clone()),
        };
        let asked = (index, request.borrow());
        outcome(route, asked, &ticket.tries, result, now)
    };
    (ticket.task.into_iter().map(of_item).collect(), own)
}

/// Passes on the outcomes of each call.
pub(super) struct Outcomes<'r, F> {
    pub route: &'r Route<'r>,
    pub put: F,
    /// Whether a permit returns only after the caller's thread took the outcomes.
    pub defers: bool,
}

impl<R: Borrow<Request>, F: FnMut(Batch)> Sink<Item<R>> for Outcomes<'_, F> {
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
            (self.put)(ended(self.route, end, tally, now));
        }
        Ok(())
    }

    fn defers_release(&self) -> bool {
        self.defers
    }
}

/// A request with its index in the input, and what its failed calls left.
pub(crate) struct Item<R> {
    pub index: usize,
    pub request: R,
    pub carried: Carried,
}

impl<R> Item<R> {
    pub(super) fn new(index: usize, request: R) -> Self {
        Self {
            index,
            request,
            carried: Carried::default(),
        }
    }
}

impl<R: Borrow<Request>> Borrow<Request> for Item<R> {
    fn borrow(&self) -> &Request {
        self.request.borrow()
    }
}

/// The answers to a pack, in its order, and the duration of the call. Some texts of a pack may have failed.
pub(crate) struct Answered {
    pub responses: Vec<Result<Response, Error>>,
    pub took: Duration,
}

impl Answered {
    pub fn failures(&self) -> impl Iterator<Item = &Error> {
        self.responses
            .iter()
            .filter_map(|response| response.as_ref().err())
    }
}

pub(crate) fn measure(done: &Answered) -> Measure {
    Measure {
        took: done.took,
        ..Measure::of(done.responses.iter().flatten())
    }
}

/// Makes the call of a pack whose history is `tries`, and whose only item has `carried`.
pub(crate) fn call_step(
    route: &Route<'_>,
    requests: &[impl Borrow<Request>],
    tries: &Tries,
    carried: &Carried,
    ctx: &Context,
) -> Reply<Answered> {
    let clock = route.clock_ref();
    let start = clock.now();
    let reply = route.answers(requests, tries, carried, ctx);
    let took = clock.now().since(start);
    reply.map(|responses| Answered { responses, took })
}

impl Measure {
    /// The measurements of the answers to one call.
    pub(crate) fn of<'r>(
        responses: impl IntoIterator<Item = &'r Response, IntoIter: Clone>,
    ) -> Self {
        let responses = responses.into_iter();
        let mut all = Self {
            items: responses.clone().count() as u64,
            usage: Usage::sum(responses.clone().filter_map(|r| r.usage)),
            ..Self::default()
        };
        for response in responses {
            let extracted = response.provider == "extract";
            all.extracted |= extracted;
            match response.cost_usd {
                Some(cost) => {
                    all.cost_usd += cost;
                    all.priced += 1;
                }
                None => all.unpriced += 1,
            }
            let truncated = response.finish_reason == FinishReason::Length && !extracted;
            all.truncated += u64::from(truncated);
            all.warned += u64::from(response.warning.is_some());
            if let Some(vector) = &response.embedding {
                all.vectors += 1;
                let numbers = vector.len();
                all.dimensions = range(all.dimensions, Some((numbers, numbers)));
            }
        }
        all
    }

    /// The measurements of an item with the answer of another one, for which it was billed.
    pub(crate) fn of_equals(answer: &Response) -> Self {
        let one = Self::of([answer]);
        Self {
            shared: 1,
            usage: None,
            cost_usd: Usd::ZERO,
            priced: 0,
            unpriced: 0,
            ..one
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;

    impl Backlog for Nothing {
        type Task = ();

        fn take(&mut self, _: usize, _: &Availability, _: Time) -> Result<Take<Pack<()>>, Error> {
            Ok(Take::Done)
        }

        fn wait(&mut self, _: Ticket<Pack<()>>, _: Time) {}

        fn has_more(&mut self) -> bool {
            false
        }

        fn waits_for(&mut self, _: QuotaId, _: &Availability) -> bool {
            false
        }
    }

    struct Closed;

    impl Sink<()> for Closed {
        type Done = ();

        fn put(
            &mut self,
            _: &mut Vec<Settled<Pack<()>, ()>>,
            _: &mut Tally,
            _: Time,
        ) -> Result<(), Error> {
            Err(Error::new(ErrorKind::Invalid, "the reader is gone"))
        }
    }

    /// Otherwise a call that ends with a retry would let others start.
    #[test]
    fn a_sink_that_takes_nothing_says_so_whatever_ends() {
        let mut job = Job {
            backlog: Nothing,
            sink: Closed,
            tally: Tally::new(None, Time::ZERO),
        };
        assert!(job.settle(&mut Vec::new(), Time::ZERO).is_err());
    }
}
