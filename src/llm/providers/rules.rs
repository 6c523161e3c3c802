//! Which failed reply is which kind of error: one table per dialect, and one for each vendor that
//! deviates from it. Rows are tried from the top, the vendor's own first; the first that fits decides.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::base::error::ErrorKind::{self, *};

use super::error_body::ErrorBody;

/// One row.
#[derive(Debug)]
pub(super) struct Rule {
    status: RangeInclusive<u16>,
    says: Matches,
    pub kind: ErrorKind,
    /// How long to wait when the server names no time.
    pub default_wait: Option<Duration>,
    /// It concerns the model alone, not the account.
    pub of_model: bool,
    /// It fits for want of anything that is known of the reply.
    pub default: bool,
}

/// What the body must say.
#[derive(Debug)]
enum Matches {
    Anything,
    /// One of these as a code, type, status word, reason or quota.
    Word(&'static [&'static str]),
    /// One of these within such a word.
    WordPart(&'static [&'static str]),
    /// One of these in its message, whatever the case.
    Text(&'static [&'static str]),
    /// A model's name and no address: a 404 of a wrong path may mention both.
    Model,
}

impl Rule {
    const fn new(status: RangeInclusive<u16>, says: Matches, kind: ErrorKind) -> Self {
        Self {
            status,
            says,
            kind,
            default_wait: None,
            of_model: false,
            default: false,
        }
    }

    const fn after(mut self, seconds: u64) -> Self {
        self.default_wait = Some(Duration::from_secs(seconds));
        self
    }

    const fn of_model(mut self) -> Self {
        self.of_model = true;
        self
    }

    fn fits(&self, status: u16, error_body: &ErrorBody) -> bool {
        self.status.contains(&status)
            && match self.says {
                Matches::Anything => true,
                Matches::Word(words) => {
                    error_body.words.iter().any(|word| words.contains(&&**word))
                }
                Matches::WordPart(parts) => {
                    let within = |word: &String| parts.iter().any(|part| word.contains(part));
                    error_body.words.iter().any(within)
                }
                Matches::Text(texts) => error_body.mentions(texts),
                Matches::Model => {
                    error_body.mentions(&["model"]) && !error_body.mentions(&["url", "path"])
                }
            }
    }
}

use Matches::{Anything, Model, Text, Word, WordPart};

/// What a status means wherever nothing more special is known.
const COMMON: &[Rule] = &[
    Rule::new(402..=402, Anything, Quota),
    Rule::new(401..=401, Anything, Auth),
    Rule::new(403..=403, Anything, Auth),
    Rule::new(404..=404, Model, UnknownModel),
    Rule::new(429..=429, Anything, RateLimited),
    Rule::new(408..=409, Anything, Transient),
    // Too much for one request: the next may well pass.
    Rule::new(413..=413, Anything, Invalid),
    Rule::new(425..=425, Anything, Transient),
    Rule::new(501..=501, Anything, Invalid),
    Rule::new(505..=505, Anything, Invalid),
    Rule::new(500..=599, Anything, Transient),
];

/// What nothing is known of is the request's fault: it is not tried again.
const LAST: Rule = Rule {
    default: true,
    ..Rule::new(0..=u16::MAX, Anything, Invalid)
};

/// OpenAI's guides "Error codes" and "Rate limits".
pub(super) const OPENAI: &[Rule] = &[
    // Ollama's queue is full.
    Rule::new(503..=503, Text(&["maximum pending requests"]), RateLimited),
    Rule::new(
        400..=429,
        Word(&[
            "insufficient_quota",
            "credit_balance_exhausted",
            "organization_spend_limit_exceeded",
            "project_spend_limit_exceeded",
            "organization_usage_limit_exceeded",
            "billing_hard_limit_reached",
            "billing_not_active",
        ]),
        Quota,
    ),
    // More tokens than a minute's allowance: no pause makes it fit.
    Rule::new(429..=429, Text(&["request too large"]), Invalid),
    // A prompt that is too long for the model: the next may well pass.
    Rule::new(
        400..=422,
        Word(&["context_length_exceeded", "exceed_context_size_error"]),
        Invalid,
    ),
    Rule::new(400..=404, Word(&["model_not_found"]), UnknownModel),
    Rule::new(
        400..=403,
        Word(&[
            "content_filter",
            "content_policy_violation",
            "invalid_prompt",
        ]),
        Blocked,
    ),
    // Gateways that look at prompts before they pass them on.
    Rule::new(
        400..=403,
        Text(&["input was flagged", "requires moderation"]),
        Blocked,
    ),
];

/// docs.x.ai "Debugging errors"; the texts as users reported them.
pub(super) const XAI: &[Rule] = &[
    // It names the id of the key, so it stands before what a wrong key looks like.
    Rule::new(
        400..=403,
        Text(&["usage guidelines", "content policy"]),
        Blocked,
    ),
    Rule::new(
        400..=429,
        Text(&[
            "used all available credits",
            "all credits",
            "monthly spending limit",
        ]),
        Quota,
    ),
    Rule::new(
        400..=400,
        Text(&["incorrect api key", "invalid api key"]),
        Auth,
    ),
];

/// console.groq.com "API error codes and responses", "Flex processing".
pub(super) const GROQ: &[Rule] = &[
    Rule::new(
        400..=403,
        Word(&[
            "spend_limit_reached",
            "blocked_api_access",
            "organization_restricted",
        ]),
        Quota,
    ),
    Rule::new(400..=404, Word(&["model_decommissioned"]), UnknownModel),
    // The model did not write the JSON it was asked for; another try may do.
    Rule::new(400..=400, Word(&["failed_generation"]), Malformed),
    Rule::new(498..=498, Anything, Transient),
];

pub(super) const MISTRAL: &[Rule] = &[
    Rule::new(400..=422, Word(&["invalid_model"]), UnknownModel),
    Rule::new(400..=400, Text(&["invalid model"]), UnknownModel),
];

/// openrouter.ai "Errors and Debugging": a budget of what is in flight is free again by itself.
pub(super) const OPENROUTER: &[Rule] = &[Rule::new(
    402..=402,
    Word(&["openrouter_in_flight_budget"]),
    RateLimited,
)];

/// api-docs.deepseek.com "Error Codes"; the text as users reported it.
pub(super) const DEEPSEEK: &[Rule] = &[Rule::new(
    400..=404,
    Text(&["model not exist"]),
    UnknownModel,
)];

/// docs.fireworks.ai "Inference Error Codes": the account is suspended.
pub(super) const FIREWORKS: &[Rule] = &[Rule::new(412..=412, Anything, Quota)];

/// A model that is not there is a function that is not, as users reported it.
pub(super) const NVIDIA: &[Rule] = &[Rule::new(404..=404, Text(&["function '"]), UnknownModel)];

/// llama.cpp's server blames itself for a text longer than its batch.
pub(super) const LOCAL: &[Rule] = &[Rule::new(
    500..=500,
    Text(&["too large to process"]),
    Invalid,
)];

/// Gateways and servers that speak the dialects of others, under whichever provider's name they are
/// reached: LiteLLM (its proxy's and router's exceptions), OpenRouter ("Errors and Debugging", and
/// the texts as users reported them), Together ("Error codes"), Azure OpenAI (its codes), and the
/// servers Ollama, vLLM and LM Studio (their sources or their users' reports).
pub(super) const GATEWAYS: &[Rule] = &[
    Rule::new(400..=429, Word(&["budget_exceeded"]), Quota),
    Rule::new(
        400..=429,
        Text(&[
            "budget has been exceeded",
            "exceededbudget:",
            "exceeded budget for",
            "crossed budget",
            "max budget limit reached",
            // OpenRouter: a limit that its owner set for the key, and the day's free calls.
            "key limit exceeded (",
            "free-models-per-day",
            // Azure API Management's policies `quota` and `quota-by-key`, which say 403.
            "out of call volume quota",
            "out of bandwidth quota",
            // Accounts without money behind a gateway, which passes on the message and not the code:
            // OpenAI's (its other refusals for pace name another page), Gemini's, Anthropic's, Groq's.
            "insufficient_quota",
            "platform.openai.com/docs/guides/error-codes/api-errors",
            "prepayment credits are depleted",
            "credit balance is too low",
            "organization has been restricted",
        ]),
        Quota,
    ),
    // Gemini's allowance of the day, behind a gateway.
    Rule::new(429..=429, Text(&["perdayperprojectpermodel"]), Quota).of_model(),
    // The key is in order; this model is not for it.
    Rule::new(400..=403, WordPart(&["_model_access_denied"]), Auth).of_model(),
    // LiteLLM gives the errors of those behind it its own names.
    Rule::new(
        400..=422,
        Text(&["contentpolicyviolationerror", "content management policy"]),
        Blocked,
    ),
    // Longer than the model takes, each in its own words.
    Rule::new(
        400..=422,
        Text(&[
            "contextwindowexceedederror",
            "maximum context length",
            "loaded with context length of only",
            "input token count + max_tokens",
            "tokens + `max_new_tokens`",
        ]),
        Invalid,
    ),
    Rule::new(
        400..=404,
        Word(&[
            "model_not_available",
            "dedicated_endpoint_not_running",
            "DeploymentNotFound",
            "OperationNotSupported",
        ]),
        UnknownModel,
    ),
    Rule::new(
        400..=404,
        Text(&[
            "invalid model name passed in model=",
            "no healthy deployments for this model",
            "is not a valid model id",
            "no endpoints found for",
            "no endpoints found matching your data policy",
            "no endpoints available matching your guardrail",
            "does not support chat",
            "does not support generate",
            "does not support embeddings",
            "failed to load model",
            "no models loaded",
        ]),
        UnknownModel,
    ),
    // What one request asks for, such as tools, none behind OpenRouter has.
    Rule::new(404..=404, Text(&["no endpoints found that"]), Invalid),
    // LM Studio loads it again for the next call.
    Rule::new(
        400..=404,
        Text(&["model unloaded", "model is unloaded", "model has crashed"]),
        Transient,
    ),
];

/// Anthropic's documentation "Errors" and "Rate limits".
pub(super) const ANTHROPIC: &[Rule] = &[
    Rule::new(
        400..=429,
        Word(&[
            "enforced_spend_limit_reached",
            "contract_spend_limit_reached",
            "organization_on_hold",
            "billing_error",
        ]),
        Quota,
    ),
    Rule::new(
        400..=403,
        Text(&[
            "credit balance",
            "spend limit",
            "usage limits",
            "organization_on_hold",
        ]),
        Quota,
    ),
    Rule::new(400..=400, Text(&["blocked by content filtering"]), Blocked),
    Rule::new(404..=404, Text(&["model:"]), UnknownModel),
    Rule::new(529..=529, Anything, Transient).after(5),
];

/// ai.google.dev "API errors" and "Rate limits".
pub(super) const GEMINI: &[Rule] = &[
    // A file that one prompt refers to is gone or not ready: the key is in order.
    Rule::new(400..=403, Text(&["the file "]), Invalid),
    Rule::new(
        400..=400,
        Word(&["API_KEY_INVALID", "FAILED_PRECONDITION"]),
        Auth,
    ),
    Rule::new(
        400..=400,
        Text(&["api key not valid", "api key expired"]),
        Auth,
    ),
    // It comes back at midnight, Pacific time: nothing that a run waits for.
    Rule::new(429..=429, WordPart(&["PerDayPerProjectPerModel"]), Quota).of_model(),
    Rule::new(429..=429, WordPart(&["PerDay"]), Quota),
    Rule::new(404..=404, Text(&["models/"]), UnknownModel),
    Rule::new(499..=499, Anything, Transient),
    Rule::new(503..=503, Anything, Transient).after(5),
];

/// The row that fits a failed reply, of these tables and, behind them, the common one.
pub(super) fn classify(
    tables: [&'static [Rule]; 3],
    status: u16,
    error_body: &ErrorBody,
) -> &'static Rule {
    let rows = tables.into_iter().flatten().chain(COMMON);
    let mut fitting = rows.filter(|row| row.fits(status, error_body));
    fitting.next().unwrap_or(&LAST)
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
