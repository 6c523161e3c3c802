//! The cost of a call: the one that its reply reports, else by the prices of the model.

use serde_json::Value;

use crate::base::{Charge, Error, Paid, Timestamp, Usd};
use crate::llm::prices::Prices;

use super::client::{LlmClient, guarded};
use super::providers::extract::STAND_IN;
use super::request::Request;
use super::response::Response;

/// Prices at a point in time.
pub(crate) struct Pricing<'p> {
    pub prices: &'p Prices,
    pub at: Timestamp,
}

/// The tier that a request asks for; empty if it names none.
pub(super) fn asked_tier(request: &Request) -> &str {
    let tier = request.extra.get("service_tier");
    tier.and_then(Value::as_str).unwrap_or_default()
}

impl Pricing<'_> {
    /// Sets the cost of a call to `client`, or of its part for one request, unless the reply reports it, and leaves
    /// the charge with the answer or the error. The other parts of a call are not `is_first`.
    pub(crate) fn price(
        &self,
        client: &dyn LlmClient,
        request: &Request,
        is_first: bool,
        result: Result<&mut Response, &mut Error>,
    ) {
        // A client that panics here does not cost its answer.
        let requested = || guarded("model_for()", || client.model_for(request)).flatten();
        if let Some(provider) = guarded("provider()", || client.provider()) {
            let tier = Err(asked_tier(request));
            self.price_call(provider, tier, requested, is_first, result);
        }
    }

    /// The same for a request in a batch.
    pub(crate) fn price_batched(
        &self,
        provider: &str,
        requested: Option<&str>,
        result: Result<&mut Response, &mut Error>,
    ) {
        let requested = || requested.map(str::to_owned);
        self.price_call(provider, Ok("batch"), requested, true, result);
    }

    /// `known_tier` is the tier of the call, or as an error the one that applies if the reply reports none. The name of the
    /// requested model is a copy that most calls do not need.
    fn price_call(
        &self,
        provider: &str,
        known_tier: Result<&str, &str>,
        requested: impl Fn() -> Option<String>,
        is_first: bool,
        result: Result<&mut Response, &mut Error>,
    ) {
        let (paid, answered, reported) = match &result {
            Ok(answer) => {
                let reported = answer.details().service_tier.as_deref();
                (answer.paid(), answer.model.as_deref(), reported)
            }
            Err(error) => (error.paid(), error.answered_model(), None),
        };
        let is_complete = result.as_ref().err().is_none_or(|e| e.is_billed_reply());
        let is_billed = paid.is_known() || is_complete;
        // The stand-in answers without a model.
        if !is_billed || provider == STAND_IN {
            return;
        }
        let tier = known_tier.unwrap_or_else(|asked| reported.unwrap_or(asked));
        let cost_usd = match paid.usage.filter(|_| paid.is_unpriced()) {
            None => paid.cost_usd,
            Some(usage) => {
                let by_answer = answered.filter(|_| !self.prices.has_own());
                let model = by_answer
                    .and_then(|name| self.prices.of_call(provider, Some(name), None))
                    .or_else(|| {
                        let requested = requested();
                        self.prices
                            .of_call(provider, answered, requested.as_deref())
                    });
                let model = model.as_ref();
                model.and_then(|model| model.cost(&usage, tier, self.at))
            }
        };
        let paid = Paid { cost_usd, ..paid };
        let usage = paid.usage.unwrap_or_default();
        let charge = Some(Box::new(Charge {
            model: answered.map(str::to_owned).or_else(requested),
            calls: u64::from(is_first),
            input_tokens: usage.input_tokens,
            output_tokens: usage.output_tokens,
            cost_usd: cost_usd.or((!is_first).then_some(Usd::ZERO)),
        }));
        match result {
            Ok(answer) => {
                answer.set_paid(paid);
                if let Ok(known) = known_tier {
                    answer.details_mut().service_tier = Some(known.to_owned());
                }
                answer.charge = charge;
            }
            Err(error) => error.set_charge(paid, charge),
        }
    }
}
