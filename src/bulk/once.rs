//! One call of a run, and where the run stands.

use std::time::Duration;

use crate::base::cancel::Context;
use crate::base::clock::Time;
use crate::base::usage::Usage;
use crate::engine::dispatch::Dispatcher;
use crate::engine::run::Reply;
use crate::llm::request::Request;
use crate::llm::response::{FinishReason, Response};
use crate::llm::route::Route;
use crate::observe::progress::{Phase, Progress};
use crate::observe::tally::Measure;

use super::job::{Backlog, Job, Sink};

/// The answers to a pack, in its order, and how long the call took.
pub(crate) struct Answered {
    pub responses: Vec<Response>,
    pub took: Duration,
}

pub(crate) fn measure(done: &Answered) -> Measure {
    let mut all = Measure {
        items: done.responses.len() as u64,
        took: done.took,
        usage: usage(&done.responses),
        cost_usd: done.responses.iter().map(|r| r.cost_usd).sum(),
        ..Measure::default()
    };
    for response in &done.responses {
        let extracted = response.provider == "extract";
        all.extracted |= extracted;
        all.truncated |= response.finish_reason == FinishReason::Length && !extracted;
        if let Some(vector) = &response.embedding {
            all.vectors += 1;
            all.dimensions = all.dimensions.max(vector.len());
        }
    }
    all
}

/// What the answers used together, as far as they say.
fn usage(responses: &[Response]) -> Option<Usage> {
    let told = responses.iter().filter_map(|response| response.usage);
    told.reduce(|a, b| Usage {
        input_tokens: a.input_tokens.saturating_add(b.input_tokens),
        cached_input_tokens: a.cached_input_tokens.saturating_add(b.cached_input_tokens),
        output_tokens: a.output_tokens.saturating_add(b.output_tokens),
        reasoning_tokens: a.reasoning_tokens.saturating_add(b.reasoning_tokens),
    })
}

/// Makes the call of a pack at the step it has come to.
pub(crate) fn call_step(
    route: &Route<'_>,
    requests: &[&Request],
    step: u8,
    ctx: &Context,
) -> Reply<Answered> {
    let clock = route.clock_ref();
    let start = clock.now();
    match route.answers(requests, step, ctx) {
        Ok(responses) => Reply {
            used: usage(&responses).map(|u| (u.input_tokens, u.output_tokens)),
            hints: responses
                .first()
                .map(Response::rate_hints)
                .unwrap_or_default(),
            fatal: false,
            result: Ok(Answered {
                responses,
                took: clock.now().since(start),
            }),
        },
        Err(error) => error.into(),
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
    tally.progress(&dispatcher.counters(), now, phase, trouble)
}
