//! The cost of a call: the one that its reply reports, else by the prices of the model. And the most that it can cost,
//! for a [`Budget`](crate::Budget).

use serde_json::Value;

use crate::base::{Charge, Error, ErrorKind, Paid, Sent, Timestamp, Usd};
use crate::engine::route::Tries;
use crate::llm::prices::{ModelPrices, Prices, searches};

use super::client::{LlmClient, guarded};
use super::params::RequestTask;
use super::providers::extract::STAND_IN;
use super::request::{Message, Request};
use super::response::Response;

/// Prices at a point in time.
pub(crate) struct Pricing<'p> {
    pub prices: &'p Prices,
    pub at: Timestamp,
}

/// The tier that a request asks for; empty if it names none.
fn asked_tier(request: &Request) -> &str {
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

    /// The same for a known provider, also for a request in a batch. `known_tier` is the tier of the call, or as an error the
    /// one that applies if the reply reports none.
    pub(crate) fn price_call(
        &self,
        provider: &str,
        known_tier: Result<&str, &str>,
        requested: impl FnOnce() -> Option<String>,
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
        let requested = requested();
        let tier = known_tier.unwrap_or_else(|asked| reported.unwrap_or(asked));
        let cost_usd = match paid.usage.filter(|_| paid.is_unpriced()) {
            None => paid.cost_usd,
            Some(usage) => {
                let requested = requested.as_deref();
                let model = self.prices.of_call(provider, answered, requested);
                model.and_then(|model| model.cost(&usage, tier, self.at))
            }
        };
        let paid = Paid { cost_usd, ..paid };
        let usage = paid.usage.unwrap_or_default();
        let charge = Some(Box::new(Charge {
            model: answered.map(str::to_owned).or(requested),
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

/// Providers write instructions of their own around tools and formats: Anthropic up to 804 tokens (its page on tool use).
const TOKENS_OF_INSTRUCTIONS: u64 = 2_048;

/// Fields of a request that cause calls of the provider which have their own prices, and input that is not in the request.
const BILLED_APART: [&str; 5] = [
    // Another model may answer.
    "models",
    "web_search_options",
    "search_parameters",
    "plugins",
    "mcp_servers",
];

/// The most that a call for these requests can cost, in picodollars.
///
/// # Errors
/// [`ErrorKind::BudgetExceeded`] if there is no upper bound. It says what is missing.
pub(super) fn most<'r>(
    pricing: &Pricing<'_>,
    client: &dyn LlmClient,
    requests: impl Iterator<Item = &'r Request>,
    tries: &Tries,
) -> Result<u64, Error> {
    let provider = guarded("provider()", || client.provider()).unwrap_or_default();
    let mut all = 0_u64;
    for request in requests.filter(|_| provider != STAND_IN) {
        let model = guarded("model_for()", || client.model_for(request)).flatten();
        let names = [provider, model.as_deref().unwrap_or_default()];
        all = all.saturating_add(bound(pricing, names, request, tries, false)?);
    }
    Ok(all)
}

/// The longest answer, in tokens, with which a call for this request costs no more than `limit`, in picodollars.
pub(super) fn fitting_tokens(
    pricing: &Pricing<'_>,
    client: &dyn LlmClient,
    request: &Request,
    tries: &Tries,
    limit: u64,
) -> Option<u64> {
    let with = |tokens: u32| {
        let mut request = request.clone();
        request.params.max_tokens = Some(tokens);
        most(pricing, client, std::iter::once(&request), tries).ok()
    };
    let (one, more) = (with(1)?, with(1_001)?);
    let thousand = more.checked_sub(one).filter(|thousand| *thousand > 0)?;
    let left = u128::from(limit.checked_sub(one)?);
    u64::try_from(1 + left * 1_000 / u128::from(thousand)).ok()
}

/// The most that a request to this provider and model can cost, as a call or in a batch.
///
/// # Errors
/// As [`most`].
pub(crate) fn bound(
    pricing: &Pricing<'_>,
    [provider, model]: [&str; 2],
    request: &Request,
    tries: &Tries,
    is_batched: bool,
) -> Result<u64, Error> {
    let unbounded = |why: String| {
        let why = format!("the budget cannot be kept: {why}");
        Error::new(ErrorKind::BudgetExceeded, why)
    };
    if searches(model) {
        return Err(unbounded(format!(
            "the searches of {model:?} are billed apart"
        )));
    }
    let prices = pricing.prices.of_call(provider, None, Some(model));
    let (input, output) = most_tokens(request, prices.as_ref(), tries).map_err(unbounded)?;
    let at = |tier| {
        let entry = prices.as_ref()?.entry(tier, pricing.at)?;
        entry.most(input, output)
    };
    let most = if is_batched {
        // Where no price of batches is known, the reply may be billed as a call.
        at("batch").or_else(|| at(""))
    } else {
        // A call may be billed at the tier that it asks for, or at the standard one.
        at("")
            .zip(at(asked_tier(request)))
            .map(|(one, other)| one.max(other))
    };
    most.map(Usd::picos).ok_or_else(|| {
        let why = format!("no price of {model:?} at {provider} is known (set one with --prices)");
        unbounded(why)
    })
}

/// What a call has cost, in picodollars, if that is known.
pub(crate) fn spent(paid: Paid, error: Option<&Error>) -> Option<u64> {
    // It did not reach the provider, or the provider rejected it. After a time-out of a gateway, the provider may have
    // answered.
    let is_unbilled = |error: &Error| match error.sent() {
        Sent::No => true,
        Sent::Maybe => false,
        Sent::Answered => error.status().is_some_and(|status| status >= 300),
    };
    let is_free = !paid.is_known() && error.is_some_and(is_unbilled);
    paid.cost_usd
        .map(Usd::picos)
        .or_else(|| is_free.then_some(0))
}

/// Upper bounds of the tokens of a request: those of its input, and those of its answer.
fn most_tokens(
    request: &Request,
    prices: Option<&ModelPrices<'_>>,
    tries: &Tries,
) -> Result<(u64, u64), String> {
    if let Some(part) = request.messages.iter().flat_map(media).next() {
        return Err(format!(
            "how many tokens a part of the type {part:?} needs is unknown before the call"
        ));
    }
    if request.native.is_some() {
        return Err("the request is in the format of one provider".to_owned());
    }
    let mut apart = BILLED_APART.iter();
    if let Some(field) = apart.find(|field| request.extra.contains_key(**field)) {
        return Err(format!("what {field:?} causes has no upper bound"));
    }
    let tools = request.extra.get("tools").and_then(Value::as_array);
    let is_of_user = |tool: &Value| {
        let mut marks = ["function", "input_schema"].into_iter();
        marks.any(|mark| tool.get(mark).is_some()) || tool["type"] == "custom"
    };
    if let Some(tool) = tools.and_then(|all| all.iter().find(|tool| !is_of_user(tool))) {
        let kind = &tool["type"];
        return Err(format!(
            "the tool {kind} of the provider has no upper bound"
        ));
    }
    let output = match request.task {
        RequestTask::Complete => {
            let known = || prices.and_then(ModelPrices::max_output_tokens);
            let most = request.params.max_tokens.map(u64::from).or_else(known);
            most.ok_or("the length of an answer has no limit (set --max-tokens)")?
        }
        RequestTask::Embed => 0,
        RequestTask::Speech => return Err("speech is not counted in tokens".to_owned()),
    };
    let mut input = request.most_text_tokens();
    if tools.is_some() || request.params.response_format.is_some() {
        input += TOKENS_OF_INSTRUCTIONS;
    }
    if tries.schema_mismatches > 0 {
        // The answer that did not fit is sent again, with the reason.
        input = input.saturating_add(output + TOKENS_OF_INSTRUCTIONS);
    }
    Ok((input, output))
}

/// The types of the parts of a message that are no text.
fn media(message: &Message) -> impl Iterator<Item = &str> {
    let parts = message.content.as_array().into_iter().flatten();
    let parts = parts.filter(|part| part.is_object() && part.get("text").is_none());
    parts.map(|part| part["type"].as_str().unwrap_or("unknown"))
}

#[cfg(test)]
#[path = "spending_tests.rs"]
mod tests;
