//! What a call can cost at most, and what it has cost, for a [`Budget`](crate::Budget).

use crate::base::{Error, ErrorKind, Paid, Sent, Usd};
use crate::engine::route::Tries;
use crate::llm::prices::{ModelPrices, searches};

use super::client::{LlmClient, guarded};
use super::params::RequestTask;
use super::pricing::Pricing;
use super::providers::extract::STAND_IN;
use super::request::{Message, Request};

/// Providers write instructions of their own around tools and formats: Anthropic up to 804 tokens (its page on tool use).
const TOKENS_OF_INSTRUCTIONS: u64 = 2_048;

/// Fields of a request that cause calls of the provider which have their own prices, and input that is not in the request.
pub(super) const BILLED_APART: [&str; 5] = [
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
    if provider == STAND_IN {
        return Ok(0);
    }
    let mut all = 0_u64;
    for request in requests {
        let model = guarded("model_for()", || client.model_for(request)).flatten();
        let prices = pricing.prices.of_call(provider, None, model.as_deref());
        if let Some(model) = model.as_ref().filter(|model| searches(model)) {
            return Err(unbounded(format!(
                "the searches of {model:?} are billed apart"
            )));
        }
        let tokens = Tokens::of(request, prices.as_ref(), tries);
        let (tokens, model) = (tokens.map_err(unbounded)?, model.unwrap_or_default());
        let prices = prices.ok_or_else(|| unbounded(no_price(provider, &model)))?;
        let most = tokens.at(request, &prices, pricing);
        let most = most.ok_or_else(|| unbounded(no_price(provider, &model)))?;
        all = all.saturating_add(most.picos());
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

/// The most that a request in a batch can cost.
///
/// # Errors
/// As [`most`].
#[cfg(feature = "queue")]
pub(crate) fn most_batched(
    pricing: &Pricing<'_>,
    [provider, model]: [&str; 2],
    request: &Request,
) -> Result<u64, Error> {
    if searches(model) {
        return Err(unbounded(format!(
            "the searches of {model:?} are billed apart"
        )));
    }
    let prices = pricing.prices.of_call(provider, None, Some(model));
    let tokens = Tokens::of(request, prices.as_ref(), &Tries::default()).map_err(unbounded)?;
    // Where no price of batches is known, the reply may be billed as a call.
    let most = prices.and_then(|prices| {
        let batched = prices.entry("batch", pricing.at);
        let entry = batched.or_else(|| prices.entry("", pricing.at))?;
        entry.most(tokens.input, tokens.output)
    });
    most.map(Usd::picos)
        .ok_or_else(|| unbounded(no_price(provider, model)))
}

/// What a call has cost, in picodollars, if that is known.
pub(crate) fn spent(paid: Paid, error: Option<&Error>) -> Option<u64> {
    match (error, paid.cost_usd) {
        (_, Some(cost)) => Some(cost.picos()),
        (Some(error), None) if !paid.is_known() && is_unbilled(error) => Some(0),
        (_, None) => None,
    }
}

/// It did not reach the provider, or the provider rejected it. After a time-out of a gateway, the provider may have
/// answered.
pub(crate) fn is_unbilled(error: &Error) -> bool {
    match error.sent() {
        Sent::No => true,
        Sent::Maybe => false,
        Sent::Answered => error.status().is_some_and(|status| status >= 300),
    }
}

fn unbounded(why: String) -> Error {
    let why = format!("the budget cannot be kept: {why}");
    Error::new(ErrorKind::BudgetExceeded, why)
}

fn no_price(provider: &str, model: &str) -> String {
    format!("no price of {model:?} at {provider} is known (set one with --prices)")
}

/// Upper bounds of the tokens of a request.
struct Tokens {
    input: u64,
    output: u64,
}

impl Tokens {
    fn of(
        request: &Request,
        prices: Option<&ModelPrices<'_>>,
        tries: &Tries,
    ) -> Result<Self, String> {
        if let Some(part) = request.messages.iter().flat_map(media).next() {
            return Err(format!(
                "how many tokens a part of the type {part:?} needs is unknown before the call"
            ));
        }
        if request.native.is_some() {
            return Err("the request is in the format of one provider".to_owned());
        }
        if let Some(field) = BILLED_APART
            .iter()
            .find(|field| request.extra.contains_key(**field))
        {
            return Err(format!("what {field:?} causes has no upper bound"));
        }
        let tools = request
            .extra
            .get("tools")
            .and_then(|tools| tools.as_array());
        let mut tools_of_provider = tools.into_iter().flatten().filter(|tool| {
            tool.get("function").is_none()
                && tool.get("input_schema").is_none()
                && tool["type"] != "custom"
        });
        if let Some(tool) = tools_of_provider.next() {
            return Err(format!(
                "the tool {} of the provider has no upper bound",
                tool["type"]
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
        let instructions = tools.is_some() || request.params.response_format.is_some();
        // A token is at least one byte.
        let mut input = request.most_text_tokens();
        input += if instructions {
            TOKENS_OF_INSTRUCTIONS
        } else {
            0
        };
        if tries.schema_mismatches > 0 {
            // The answer that did not fit is sent again, with the reason.
            input = input
                .saturating_add(output)
                .saturating_add(TOKENS_OF_INSTRUCTIONS);
        }
        Ok(Self { input, output })
    }

    /// At the dearest of the tiers by which the call may be billed.
    fn at(
        &self,
        request: &Request,
        prices: &ModelPrices<'_>,
        pricing: &Pricing<'_>,
    ) -> Option<Usd> {
        let asked = request
            .extra
            .get("service_tier")
            .and_then(|tier| tier.as_str());
        let tiers = ["", asked.unwrap_or_default()];
        let costs = tiers.map(|tier| {
            prices
                .entry(tier, pricing.at)?
                .most(self.input, self.output)
        });
        let [standard, asked] = costs;
        Some(standard?.max(asked?))
    }
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
