//! Makes outcomes and result lines in the same way for lists, files, queues and batches.

use std::time::Duration;

use serde_json::value::{RawValue, to_raw_value};

use crate::base::Error;
use crate::engine::route::Tries;

use super::outcome::{EarlierProvider, Outcome, unwritable};
use super::reply_details::RawJson;
use super::request::Request;
use super::response::Response;
use super::route::Route;

/// The fields of an outcome, except the answer or the error. The default is an item that was never sent.
#[derive(Default)]
pub(crate) struct OutcomeBuilder {
    pub id: Option<String>,
    /// The fingerprint of the request.
    pub request_hash: Option<String>,
    /// The kept fields of the item's row.
    pub input: Option<RawJson>,
    /// Calls made for the item.
    pub attempts: u32,
    /// The time since the start of the first of these calls.
    pub latency: Duration,
    /// The provider of the last call.
    pub provider: Option<String>,
    /// The requested model.
    pub model: Option<String>,
    /// The providers before that one.
    pub earlier: Vec<EarlierProvider>,
}

impl OutcomeBuilder {
    /// An item that was sent to a route with this request. Only the model of the request is used.
    pub(crate) fn asked(
        route: &Route<'_>,
        request: &Request,
        tries: &Tries,
        latency: Duration,
    ) -> Self {
        let (provider, model) = route.asked(tries.step, request);
        Self {
            attempts: tries.calls.into(),
            latency,
            provider: Some(provider),
            model,
            earlier: route.earlier(tries.fallbacks, request),
            ..Self::default()
        }
    }

    /// The outcome of the item.
    pub(crate) fn build(self, mut result: Result<Response, Error>) -> Outcome {
        if let Ok(answer) = &mut result {
            // Nobody needs it any more, and lists keep all outcomes in memory.
            answer.charge = None;
        }
        let mut outcome = Outcome::new(self.id, result);
        outcome.attempts = self.attempts;
        outcome.latency = self.latency;
        outcome.request_hash = self.request_hash;
        outcome.input = self.input;
        outcome.provider = self.provider;
        outcome.model = self.model;
        outcome.earlier = self.earlier;
        outcome
    }

    /// The result line of the item, without its end.
    pub(crate) fn line(self, result: Result<Response, Error>) -> Result<Box<RawValue>, Error> {
        to_raw_value(&self.build(result)).map_err(unwritable)
    }
}
