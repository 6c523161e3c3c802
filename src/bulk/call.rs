//! One call of a run.

use std::borrow::Borrow;
use std::time::Duration;

use crate::base::{Context, Error};
use crate::engine::route::Tries;
use crate::engine::run::Reply;
use crate::llm::carried::Carried;
use crate::llm::request::Request;
use crate::llm::response::Response;
use crate::llm::route::Route;
use crate::observe::tally::Measure;

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
