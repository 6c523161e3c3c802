//! The cost of a call: the one that its reply reports, else by the prices of the model.

use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::base::usage::Paid;
use crate::money::prices::Prices;

use super::client::{LlmClient, guarded};
use super::request::Request;
use super::response::Response;

/// Prices at a point in time.
pub(crate) struct Pricing<'p> {
    pub prices: &'p Prices,
    pub at: Timestamp,
}

impl Pricing<'_> {
    /// Sets the cost of a call to `client`, or of its part for one request, unless the reply reports it.
    pub(crate) fn price(
        &self,
        client: &dyn LlmClient,
        request: &Request,
        result: Result<&mut Response, &mut Error>,
    ) {
        let asked = request.extra.get("service_tier");
        let asked = asked.and_then(|tier| tier.as_str()).unwrap_or_default();
        // A client that panics here does not cost its answer.
        let requested = || guarded("model_for()", || client.model_for(request)).flatten();
        if let Some(provider) = guarded("provider()", || client.provider()) {
            self.price_call(provider, requested, Err(asked), result);
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
        self.price_call(provider, requested, Ok("batch"), result);
    }

    /// `tier` is the tier of the call, or as an error the one that applies if the reply reports none. The name of the
    /// requested model is a copy that most calls do not need.
    fn price_call(
        &self,
        provider: &str,
        requested: impl Fn() -> Option<String>,
        tier: Result<&str, &str>,
        result: Result<&mut Response, &mut Error>,
    ) {
        let (paid, answered, reported) = match &result {
            Ok(answer) => {
                let reported = answer.details().service_tier.as_deref();
                (answer.paid(), answer.model.as_deref(), reported)
            }
            Err(error) => {
                let reported = error.is_of_flex_tier().then_some("flex");
                (error.paid(), None, reported)
            }
        };
        let Some(usage) = paid.usage.filter(|_| paid.is_unpriced()) else {
            return;
        };
        let by_answer = answered.filter(|_| !self.prices.has_own());
        let model = by_answer
            .and_then(|name| self.prices.of_call(provider, Some(name), None))
            .or_else(|| {
                let requested = requested();
                self.prices
                    .of_call(provider, answered, requested.as_deref())
            });
        let tier = tier.unwrap_or_else(|asked| reported.unwrap_or(asked));
        let cost_usd = model.and_then(|model| model.cost(&usage, tier, self.at));
        match result {
            Ok(answer) => answer.cost_usd = cost_usd,
            Err(error) => error.set_paid(Paid { cost_usd, ..paid }),
        }
    }
}
