//! What an item takes along from a failed call to its next one: what it has paid, and an answer to be corrected.

use parking_lot::Mutex;

use crate::base::{Context, Error, Paid};
use crate::engine::route::Tries;
use crate::engine::run::Reply;

use super::client::LlmClient;
use super::pricing::Pricing;
use super::request::Request;
use super::response::Response;
use super::structured_output::{self, Correction};

/// The state of an item between its calls. It is kept with the item that waits.
#[derive(Default)]
pub(crate) struct Carried(Mutex<Option<Box<State>>>);

#[derive(Default)]
struct State {
    paid: Paid,
    correction: Option<Correction>,
}

impl Carried {
    /// The state of an item whose calls may have been made by another process.
    pub(crate) fn new(paid: Paid, correction: Option<Correction>) -> Self {
        let has_paid = paid.is_known() || correction.is_some();
        Self(Mutex::new(
            has_paid.then(|| Box::new(State { paid, correction })),
        ))
    }

    /// What the calls of the item have cost.
    pub(crate) fn paid(&self) -> Paid {
        let state = self.0.lock();
        state
            .as_ref()
            .map_or_else(Paid::default, |state| state.paid)
    }

    /// The error of an item that is not called again, with what its calls have cost.
    pub(crate) fn at_end(&self, error: Error) -> Error {
        if error.paid().is_known() {
            error
        } else {
            error.with_paid(self.paid())
        }
    }

    /// Makes one call with the state of earlier calls of the item.
    pub(crate) fn call(
        &self,
        client: &dyn LlmClient,
        request: &Request,
        tries: &Tries,
        pricing: &Pricing<'_>,
        ctx: &Context,
    ) -> Reply<Response> {
        let before = self.0.lock().take();
        let (paid, correction) = before.map_or((None, None), |state| {
            // Another provider gets the request as it is.
            let correction = state.correction.filter(|_| tries.schema_mismatches > 0);
            (Some(state.paid), correction)
        });
        let mut answered = match &request.params.response_format {
            None => client.complete(request, ctx),
            Some(format) => {
                structured_output::complete(client, request, format, correction.as_ref(), ctx)
            }
        };
        pricing.price(client, request, true, answered.as_mut());
        match answered {
            Ok(mut response) => {
                let call_paid = response.paid();
                if let Some(paid) = paid {
                    response.set_paid(paid + call_paid);
                }
                Reply {
                    paid: call_paid,
                    hints: response.hints,
                    result: Ok(response),
                    fatal: false,
                }
            }
            Err(error) => {
                let call = error.paid();
                // A complete reply was billed, even if it does not report how much.
                let is_billed = error.is_billed_reply() || call.is_known();
                let sum = match (paid, is_billed.then_some(call)) {
                    (Some(paid), Some(call)) => Some(paid + call),
                    (one, other) => one.or(other),
                };
                let correction = Correction::of(&error).or(correction);
                *self.0.lock() = sum.map(|paid| Box::new(State { paid, correction }));
                Reply {
                    paid: call,
                    ..error.with_paid(sum.unwrap_or_default()).into()
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "carried_tests.rs"]
mod tests;
