//! Calls of a route: one call, observed, within the budget, with its cost.

use std::borrow::Borrow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::base::{Context, Error, ErrorKind, Optional, Paid, Sent, Time};
use crate::engine::availability::Availability;
use crate::engine::route::Tries;
use crate::engine::run::Reply;
use crate::engine::work::{Settled, Take, Ticket, Work};
use crate::llm::carried::Carried;
use crate::llm::params::RequestTask;
use crate::llm::pricing;
use crate::llm::request::Request;
use crate::llm::response::Response;
use crate::observe::calls::{CallResult, ObservedCall};

use super::Route;

impl Route<'_> {
    /// One call. An answer that was to be JSON is held against its shape.
    fn call(
        &self,
        request: &Request,
        tries: &Tries,
        carried: &Carried,
        ctx: &Context,
    ) -> Reply<Response> {
        let (own, left_out) = self.own(request, tries.step);
        let sent = self.marked(&own, tries.step);
        let client = self.client(tries.step);
        let mut reply = carried.call(client, &sent, tries, &self.pricing(), ctx);
        if let (Ok(answer), false) = (&mut reply.result, left_out.is_empty()) {
            answer.details_mut().left_out = left_out;
        }
        if let Ok(answer) = &mut reply.result
            && answer.provider == "extract"
            && (tries.step > 0 || !self.skipped.is_empty())
        {
            answer.details_mut().degraded = Some(self.why_no_model(request, tries));
        }
        reply
    }

    /// Why a request came to the stand-in behind all models.
    fn why_no_model(&self, request: &Request, tries: &Tries) -> String {
        let failed = self.earlier(&tries.fallbacks, request).into_iter();
        let failed = failed.map(|step| format!("{}: {}", step.provider, step.error.message()));
        let skipped = self.skipped.iter();
        let skipped = skipped.map(|step| format!("{}: {}", step.provider, step.reason));
        let why: Vec<String> = failed.chain(skipped).collect();
        if why.is_empty() {
            // A queue's job whose earlier calls were made by another worker.
            return "the providers before it gave no answer".to_owned();
        }
        why.join("; ")
    }

    /// One call for requests that share it: one answer for each, in their order. A request that is alone has `carried` what
    /// its earlier calls left.
    pub(crate) fn answers(
        &self,
        requests: &[impl Borrow<Request>],
        tries: &Tries,
        carried: &Carried,
        ctx: &Context,
    ) -> Reply<Vec<Result<Response, Error>>> {
        let is_heard = self.observer.is_some() || log::log_enabled!(log::Level::Debug);
        let Some(first) = requests.first().filter(|_| is_heard) else {
            return self.unobserved(requests, tries, carried, ctx);
        };
        let first = first.borrow();
        let (provider, model) = self.asked(tries.step, first);
        let call = ObservedCall {
            operation: match first.task {
                RequestTask::Complete => "chat",
                RequestTask::Embed => "embeddings",
                RequestTask::Speech => "speech",
            },
            provider: &provider,
            model: model.as_deref(),
            item: first.id.as_deref(),
            items: requests.len(),
            attempt: u32::from(tries.calls) + 1,
        };
        if let Some(observer) = &self.observer {
            observer.on_start(&call);
        }
        let start = self.clock.now();
        let made = catch_unwind(AssertUnwindSafe(|| {
            self.unobserved(requests, tries, carried, ctx)
        }));
        let panicked = Error::new(ErrorKind::Panic, "the client panicked");
        let end = CallResult {
            took: self.clock.now().since(start),
            error: match &made {
                Ok(reply) => reply.result.as_ref().err(),
                Err(_) => Some(&panicked),
            },
            tokens: made.as_ref().ok().and_then(|reply| reply.paid.tokens()),
        };
        end.log(&call);
        if let Some(observer) = &self.observer {
            observer.on_end(&call, &end);
        }
        made.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// One call within the budgets.
    fn unobserved(
        &self,
        requests: &[impl Borrow<Request>],
        tries: &Tries,
        carried: &Carried,
        ctx: &Context,
    ) -> Reply<Vec<Result<Response, Error>>> {
        let Some(budget) = &self.budget else {
            return self.unlimited(requests, tries, carried, ctx);
        };
        let client = self.client(tries.step);
        let asked = requests.iter().map(Borrow::borrow);
        let most = match pricing::most(&self.pricing(), client, asked, tries) {
            Ok(most) => most,
            Err(error) => return error.into(),
        };
        let reservation = match budget.reserve(most, ctx) {
            Ok(reservation) => reservation,
            Err(error) => {
                let limit = budget.limit().picos();
                let fits = match requests {
                    [one] if error.kind() == ErrorKind::BudgetExceeded && most > limit => {
                        let one = one.borrow();
                        pricing::fitting_tokens(&self.pricing(), client, one, tries, limit)
                    }
                    _ => None,
                };
                let error = error.set(fits, |error, tokens| {
                    let why = format!("{} (--max-tokens {tokens} fits)", error.message());
                    error.reworded(why)
                });
                // Without its record, the budget would be forgotten after a crash.
                return Reply {
                    fatal: error.is_storage(),
                    ..error.into()
                };
            }
        };
        let reply = self.unlimited(requests, tries, carried, ctx);
        // A reservation that is dropped counts as the most that the call could cost.
        if let Some(spent) = pricing::spent(reply.paid, reply.result.as_ref().err()) {
            reservation.settle(spent);
        }
        reply
    }

    fn unlimited(
        &self,
        requests: &[impl Borrow<Request>],
        tries: &Tries,
        carried: &Carried,
        ctx: &Context,
    ) -> Reply<Vec<Result<Response, Error>>> {
        if let [request] = requests
            && request.borrow().task != RequestTask::Embed
        {
            return self
                .call(request.borrow(), tries, carried, ctx)
                .map(|answer| vec![Ok(answer)]);
        }
        let all = requests.iter().map(Borrow::borrow);
        let own: Vec<_> = all.map(|request| self.own(request, tries.step)).collect();
        let requests: Vec<&Request> = own.iter().map(|(request, _)| &**request).collect();
        let mut vectors = match self.client(tries.step).embed(&requests, ctx) {
            Ok(vectors) => vectors,
            Err(error) => return error.into(),
        };
        let pricing = self.pricing();
        for (at, (vector, request)) in vectors.iter_mut().zip(&requests).enumerate() {
            pricing.price(self.client(tries.step), request, at == 0, vector.as_mut());
            if let (Ok(vector), (_, left_out)) = (vector, &own[at])
                && !left_out.is_empty()
            {
                vector.details_mut().left_out = left_out.clone();
            }
        }
        // A text that is alone fails as a prompt does: it may be tried again.
        if let ([_], [Err(_)]) = (&requests[..], &vectors[..])
            && let Some(Err(error)) = vectors.pop()
        {
            return error.into();
        }
        let paid = |vector: &Result<Response, Error>| match vector {
            Ok(vector) => vector.paid(),
            Err(error) => error.paid(),
        };
        let paid = vectors.iter().map(paid).filter(Paid::is_known);
        let paid = paid.reduce(|sum, paid| sum + paid).unwrap_or_default();
        let hints = vectors.iter().flatten().next().map(Response::rate_hints);
        let result = if vectors.len() == requests.len() {
            Ok(vectors)
        } else {
            Err(Error::new(
                ErrorKind::Malformed,
                format!("{} vectors for {} texts", vectors.len(), requests.len()),
            )
            .with_sent(Sent::Maybe))
        };
        Reply {
            result,
            paid,
            hints: hints.unwrap_or_default(),
            fatal: false,
        }
    }
}

/// The work of a single call.
pub(super) struct Single<'r> {
    pub(super) ticket: Option<Ticket<&'r Request>>,
    pub(super) due: Time,
    pub(super) result: Option<Result<Vec<Result<Response, Error>>, Error>>,
}

impl<'r> Work for Single<'r> {
    type Task = &'r Request;
    type Done = Vec<Result<Response, Error>>;

    fn take(
        &mut self,
        _: usize,
        availability: &Availability,
        now: Time,
    ) -> Result<Take<&'r Request>, Error> {
        let Some(ticket) = self.ticket.take() else {
            return Ok(Take::Done);
        };
        if self.due <= now && !availability.is_paused(&ticket.class, ticket.tries.step, now) {
            return Ok(Take::Items(vec![ticket]));
        }
        self.ticket = Some(ticket);
        Ok(Take::Idle {
            until: (self.due > now).then_some(self.due),
            source_open: false,
        })
    }

    fn settle(
        &mut self,
        done: &mut Vec<Settled<&'r Request, Self::Done>>,
        _: Time,
    ) -> Result<(), Error> {
        for settled in done.drain(..) {
            match settled {
                Settled::Final(_, result) => self.result = Some(result),
                Settled::Unsent(_, error) => self.result = Some(Err(error)),
                Settled::Later(ticket, due, _) => {
                    self.ticket = Some(ticket);
                    self.due = due;
                }
            }
        }
        Ok(())
    }
}
