//! The engine's work for prompts: a backlog of requests, a sink for outcomes, and the counters.

use std::time::Duration;

use crate::base::{Error, Time};
use crate::engine::availability::Availability;
use crate::engine::dispatch::Dispatcher;
use crate::engine::limiter::QuotaId;
use crate::engine::work::{Settled, Take, Ticket, Work};
use crate::llm::route::Route;
use crate::observe::drive::{Counted, RunOptions};
use crate::observe::tally::{Measure, Tally};

use crate::llm::pack::Pack;

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
    fn has_more(&mut self) -> bool {
        true
    }

    /// Whether an available item waits for this quota; true if that is unknown.
    fn waits_for(&mut self, _quota: QuotaId, _availability: &Availability) -> bool {
        true
    }
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
    let mut dispatch = route.options(&options.ctx, options.calls.most, options.on_error);
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
        let mut i = 0;
        while i < done.len() {
            if matches!(done[i], Settled::Later(..)) {
                if let Settled::Later(ticket, due, _) = done.remove(i) {
                    self.backlog.wait(ticket, due);
                }
            } else {
                i += 1;
            }
        }
        if done.is_empty() {
            return Ok(());
        }
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
