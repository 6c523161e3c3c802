//! The state that a failed call of an item leaves for its next call: its cost, and an answer to be corrected.
//!
//! It is not stored in the waiting item but here, by the item's request, from a failed call that was billed until the
//! next call.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::base::{Context, Error, Paid};
use crate::engine::route::Tries;
use crate::engine::run::Reply;

use super::client::LlmClient;
use super::hash::digest;
use super::pricing::Pricing;
use super::request::Request;
use super::response::Response;
use super::structured_output::{self, Correction, Failed};

/// More corrections are not kept: such an answer is requested again without a description of the mistake.
const MOST_CORRECTIONS: usize = 1_024;

/// An item: its request, its id, and when its first call began.
type Key = ([u8; 32], Option<String>, u64);

/// The state of items that a route calls again.
#[derive(Default)]
pub(crate) struct CarriedCosts(Mutex<HashMap<Key, Carried>>);

#[derive(Default)]
struct Carried {
    paid: Paid,
    correction: Option<Correction>,
}

impl CarriedCosts {
    /// Makes one call with the state of earlier calls of the item. `again` decides whether an item that failed in such a
    /// way is called again. The requests are that of the item, and what the client gets of it.
    pub(crate) fn call(
        &self,
        client: &dyn LlmClient,
        [request, sent]: [&Request; 2],
        tries: &Tries,
        pricing: &Pricing<'_>,
        again: impl FnOnce(&Error) -> bool,
        ctx: &Context,
    ) -> Reply<Response> {
        let carried = self.take(request, tries);
        let (paid, correction) = carried.map_or((None, None), |carried| {
            let misfit = carried.correction.filter(|_| tries.schema_mismatches > 0);
            (Some(carried.paid), misfit)
        });
        let mut answered = match &sent.params.response_format {
            None => client.complete(sent, ctx).map_err(Failed::from),
            Some(format) => {
                structured_output::complete(client, sent, format, correction.as_ref(), ctx)
            }
        };
        let priced = answered.as_mut().map_err(|failed| &mut failed.error);
        pricing.price(client, sent, true, priced);
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
            Err(Failed { error, misfit }) => {
                let call = error.paid();
                // A complete reply was billed, even if it does not report how much.
                let is_billed = misfit.is_some() || error.is_unusable_reply() || call.is_known();
                let call_paid = is_billed.then_some(call);
                let sum = match (paid, call_paid) {
                    (Some(paid), Some(call)) => Some(paid + call),
                    (one, other) => one.or(other),
                };
                let error = error.with_paid(sum.unwrap_or_default());
                if let Some(paid) = sum
                    && again(&error)
                {
                    self.put(request, tries, paid, misfit.or(correction));
                }
                Reply {
                    paid: call,
                    ..error.into()
                }
            }
        }
    }

    /// What an item has paid that is not called again after all.
    pub(crate) fn take_paid(&self, request: &Request, tries: &Tries) -> Paid {
        let carried = self.take(request, tries);
        carried.map_or_else(Paid::default, |carried| carried.paid)
    }

    /// Notes what the calls of an item have cost, some of which may have been made by another process.
    pub(crate) fn remember(&self, request: &Request, tries: &Tries, paid: Paid) {
        let known = self.0.lock().remove(&key(request, tries));
        let correction = known.and_then(|known| known.correction);
        self.put(request, tries, paid, correction);
    }

    fn put(&self, request: &Request, tries: &Tries, paid: Paid, correction: Option<Correction>) {
        let mut all = self.0.lock();
        let correction = correction.filter(|_| all.len() < MOST_CORRECTIONS);
        let key = key(request, tries);
        // Equal requests without an id that began at the same instant share what they paid.
        let paid = all.get(&key).map_or(paid, |known| known.paid + paid);
        all.insert(key, Carried { paid, correction });
    }

    fn take(&self, request: &Request, tries: &Tries) -> Option<Carried> {
        if tries.calls == 0 || self.0.lock().is_empty() {
            return None;
        }
        let key = key(request, tries);
        self.0.lock().remove(&key)
    }
}

fn key(request: &Request, tries: &Tries) -> Key {
    let first = tries.first.time().unwrap_or_default();
    (digest(request), request.id.clone(), first.as_nanos())
}

#[cfg(test)]
#[path = "carried_cost_tests.rs"]
mod tests;
