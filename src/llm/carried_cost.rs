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

/// The maximum number and size of the entries; the oldest are dropped first. The costs of a dropped entry are not
/// counted, and its answer is requested again without a description of the mistake.
const MOST_ENTRIES: usize = 4_096;
const MOST_BYTES: usize = 16 << 20;

/// An item: its request, its id, and when its first call began.
type Key = ([u8; 32], Option<String>, u64);

/// The state of items that a route calls again.
#[derive(Default)]
pub(crate) struct CarriedCosts(Mutex<Entries>);

#[derive(Default)]
struct Entries {
    carried: HashMap<Key, Carried>,
    bytes: usize,
    written: u64,
}

#[derive(Default)]
struct Carried {
    paid: Paid,
    correction: Option<Correction>,
    number: u64,
}

impl CarriedCosts {
    /// Makes one call with the state of earlier calls of the item. `again` decides whether an item that failed in such a
    /// way is called again.
    pub(crate) fn call(
        &self,
        client: &dyn LlmClient,
        request: &Request,
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
        let mut answered = match &request.params.response_format {
            None => client.complete(request, ctx).map_err(Failed::from),
            Some(format) => {
                structured_output::complete(client, request, format, correction.as_ref(), ctx)
            }
        };
        let priced = answered.as_mut().map_err(|failed| &mut failed.error);
        pricing.price(client, request, true, priced);
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
                    let carried = Carried {
                        paid,
                        correction: misfit.or(correction),
                        number: 0,
                    };
                    let key = key(request, tries);
                    self.0.lock().put(key, carried);
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
        let key = key(request, tries);
        let mut entries = self.0.lock();
        let correction = entries.remove(&key).and_then(|known| known.correction);
        let carried = Carried {
            paid,
            correction,
            number: 0,
        };
        entries.put(key, carried);
    }

    fn take(&self, request: &Request, tries: &Tries) -> Option<Carried> {
        if tries.calls == 0 || self.0.lock().carried.is_empty() {
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

impl Entries {
    fn put(&mut self, key: Key, mut carried: Carried) {
        if let Some(known) = self.remove(&key) {
            // Equal requests without an id that began at the same instant share what they paid.
            carried.paid = carried.paid + known.paid;
        }
        carried.number = self.written;
        self.written += 1;
        self.bytes += weight(&key, &carried);
        self.carried.insert(key, carried);
        while self.carried.len() > MOST_ENTRIES || self.bytes > MOST_BYTES {
            let oldest = self
                .carried
                .iter()
                .min_by_key(|(_, carried)| carried.number);
            let Some(oldest) = oldest.map(|(key, _)| key.clone()) else {
                return;
            };
            self.remove(&oldest);
        }
    }

    fn remove(&mut self, key: &Key) -> Option<Carried> {
        let carried = self.carried.remove(key)?;
        self.bytes -= weight(key, &carried);
        Some(carried)
    }
}

fn weight(key: &Key, carried: &Carried) -> usize {
    let text = carried.correction.as_ref().map_or(0, Correction::weight);
    key.1.as_ref().map_or(0, String::len) + text
}

#[cfg(test)]
#[path = "carried_cost_tests.rs"]
mod tests;
