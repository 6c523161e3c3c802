//! One call of a run, and where the run stands.

use std::time::Duration;

use crate::base::cancel::Context;
use crate::base::clock::Time;
use crate::engine::dispatch::Dispatcher;
use crate::engine::route::Tries;
use crate::engine::run::Reply;
use crate::llm::request::Request;
use crate::llm::response::{FinishReason, Response};
use crate::llm::route::Route;
use crate::observe::progress::{Phase, Progress};
use crate::observe::tally::Measure;

use super::job::{Backlog, Job, Sink};

/// An answer, with what the counts want to know of it.
pub(crate) struct Answered {
    pub response: Response,
    pub took: Duration,
}

pub(crate) fn measure(done: &Answered) -> Measure {
    let extracted = done.response.provider == "extract";
    Measure {
        usage: done.response.usage,
        cost_usd: done.response.cost_usd,
        took: done.took,
        truncated: done.response.finish_reason == FinishReason::Length && !extracted,
        warned: done.response.warning.is_some(),
        extracted,
    }
}

/// Makes the call of one request that has been through `tries`.
pub(crate) fn call_step(
    route: &Route<'_>,
    request: &Request,
    tries: &Tries,
    ctx: &Context,
) -> Reply<Answered> {
    let clock = route.clock_ref();
    let start = clock.now();
    let reply = route.call(request, tries, ctx);
    let took = clock.now().since(start);
    Reply {
        result: reply.result.map(|response| Answered { response, took }),
        used: reply.used,
        hints: reply.hints,
        fatal: reply.fatal,
    }
}

/// Where a run stands at its end.
pub(crate) fn finished<B, K>(dispatcher: &Dispatcher<Job<B, K>>, now: Time) -> Progress
where
    B: Backlog,
    K: Sink<B::Task>,
{
    Progress {
        phase: Phase::Finished,
        trouble: None,
        ..progress(dispatcher, now)
    }
}

/// Where a run stands.
pub(crate) fn progress<B, K>(dispatcher: &Dispatcher<Job<B, K>>, now: Time) -> Progress
where
    B: Backlog,
    K: Sink<B::Task>,
{
    let phase = match dispatcher.stop_reason() {
        Some(_) => Phase::Stopping,
        None => Phase::Running,
    };
    let trouble = dispatcher.settle_error().or(dispatcher.last_failure());
    let trouble = trouble.map(|e| e.message().to_owned());
    let tally = &dispatcher.work.tally;
    let loading = dispatcher.loading_since();
    tally.progress(&dispatcher.counters(), now, phase, trouble, loading)
}
