//! One call of a run, and where the run stands.

use std::time::Duration;

use crate::base::cancel::Context;
use crate::base::clock::Time;
use crate::base::error::Error;
use crate::engine::dispatch::Dispatcher;
use crate::engine::route::Tries;
use crate::engine::run::Reply;
use crate::llm::request::Request;
use crate::llm::response::Response;
use crate::llm::route::Route;
use crate::observe::progress::{Phase, Progress};
use crate::observe::tally::Measure;

use super::work::{Job, Sink};
use crate::engine::pack::Backlog;

/// The answers to a pack, in its order, and how long the call took. Some texts of a pack may have failed.
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

/// Makes the call of a pack that has been through `tries`.
pub(crate) fn call_step(
    route: &Route<'_>,
    requests: &[&Request],
    tries: &Tries,
    ctx: &Context,
) -> Reply<Answered> {
    let clock = route.clock_ref();
    let start = clock.now();
    let reply = route.answers(requests, tries, ctx);
    let took = clock.now().since(start);
    reply.map(|responses| Answered { responses, took })
}

/// Where a run stands at its end.
pub(crate) fn finished<B, K>(dispatcher: &mut Dispatcher<Job<B, K>>, now: Time) -> Progress
where
    B: Backlog,
    K: Sink<B::Task>,
{
    Progress {
        phase: Phase::Finished,
        limited_by: None,
        learned_limit: None,
        trouble: None,
        trouble_kind: None,
        resumes_in: None,
        ..progress(dispatcher, now)
    }
}

/// Where a run stands.
pub(crate) fn progress<B, K>(dispatcher: &mut Dispatcher<Job<B, K>>, now: Time) -> Progress
where
    B: Backlog,
    K: Sink<B::Task>,
{
    let phase = match dispatcher.stop_reason() {
        Some(_) => Phase::Stopping,
        None => Phase::Running,
    };
    let trouble = dispatcher.settle_error().or(dispatcher.last_failure());
    let trouble = trouble.cloned();
    let (loading, counters) = (dispatcher.loading_since(), dispatcher.counters());
    let resumes_in = dispatcher.resumes_at().map(|at| at.since(now));
    let (split, learned) = (dispatcher.time_split(now), dispatcher.learned_limit(now));
    let tally = &mut dispatcher.work.tally;
    tally.lately.note(split, learned);
    let progress = tally.progress(&counters, now, phase, trouble, loading);
    Progress {
        // The pace so far says nothing of a run that waits.
        eta: progress.eta.filter(|_| resumes_in.is_none()),
        resumes_in,
        ..progress
    }
}
