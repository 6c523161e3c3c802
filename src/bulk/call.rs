//! One call of a run, and what its answers add to the counters.

use std::borrow::Borrow;
use std::time::Duration;

use crate::base::{Context, Error, Usage, Usd};
use crate::engine::route::Tries;
use crate::engine::run::Reply;
use crate::llm::carried::Carried;
use crate::llm::request::Request;
use crate::llm::response::{FinishReason, Response};
use crate::llm::route::Route;
use crate::observe::tally::{Measure, range};

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
            all.cache_saved = all.cache_saved.saturating_add(response.cache_saved);
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
            cache_saved: 0,
            ..one
        }
    }
}
