//! The kinds of trouble that the simulator can make, and the meaning of each for billing and for the client's
//! knowledge. `config` decides which prompt meets which kind, `ledger` how often, and `serve` sends them.

use std::str::FromStr;

use strum::VariantArray;

use super::vendor::UnknownName;

/// One way in which a provider can fail a call.
///
/// A prompt meets at most one kind. A kind that ends does so separately for each prompt: the next call with the same
/// prompt is answered normally. In text, on the command line and in
/// [`SimStats::by_trouble`](super::SimStats::by_trouble), kinds are written in snake case.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    strum::Display,
    strum::IntoStaticStr,
    strum::VariantArray,
)]
#[strum(serialize_all = "snake_case")]
#[non_exhaustive]
pub enum Trouble {
    /// `error_500`: status 500 twice, then fine.
    #[strum(serialize = "error_500")]
    Error500,
    /// `rate_limit`: status 429 with Retry-After 1 s (see
    /// [`SimConfig::retry_after`](super::SimConfig::retry_after)) once, then fine.
    RateLimit,
    /// `drop`: the request is read and the connection closed with no reply, once.
    Drop,
    /// `broken_json`: status 200 with a complete body that is not valid JSON, once; in place of sound a
    /// piece of JSON.
    BrokenJson,
    /// `truncated`: status 200 whose Content-Length promises more than is sent before the close, once.
    Truncated,
    /// `html_502`: status 502 with an HTML page, as from a proxy in between, once.
    #[strum(serialize = "html_502")]
    Html502,
    /// `bad_request`: status 400, always. One such input spoils a whole embedding call.
    BadRequest,
    /// `content_filter`: status 200 with finish reason `content_filter` and no text, always. Gemini
    /// blocks half of these prompts without a candidate; Anthropic knows refusals only.
    ContentFilter,
    /// `stall`: no reply for [`SimConfig::stall`](super::SimConfig::stall), then a close, once.
    Stall,
    /// `error_503`: status 503 with Retry-After 2 s (see
    /// [`SimConfig::retry_after`](super::SimConfig::retry_after)) once, then fine.
    #[strum(serialize = "error_503")]
    Error503,
    /// `empty`: status 200 with empty text and finish reason `stop`, or no vector, or silence of no length,
    /// once.
    Empty,
    /// `quota`: the account is exhausted, always: status 429 `insufficient_quota` from OpenAI and
    /// 429 with `enforced_spend_limit_reached` from Anthropic; 402 from Gemini and Mistral, 403 from
    /// xAI and Groq.
    Quota,
    /// `unauthorized`: status 401 `invalid_api_key`, always; 400 from xAI and Gemini.
    Unauthorized,
    /// `unknown_model`: status 404 `model_not_found`, always; 400 from Mistral.
    UnknownModel,
    /// `invalid_json`: where a JSON shape was asked for, status 200 with an answer that does not fit
    /// it, once; other prompts are answered normally.
    InvalidJson,
    /// `refusal`: status 200 with the model's refusal in place of an answer, always.
    Refusal,
    /// `overloaded`: status 529 from Anthropic, 498 from Groq, 503 from all others, with no wait
    /// asked for, once.
    Overloaded,
    /// `length`: status 200 with half an answer and the finish reason for a reached cap, always.
    Length,
}

impl Trouble {
    /// Every kind, in the order in which shares are laid out.
    pub const ALL: &'static [Trouble] = Trouble::VARIANTS;

    /// The name in snake case, as [`FromStr`] accepts it.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Default number of calls of one prompt that meet this kind; `None` for all of them.
    pub fn times(self) -> Option<u32> {
        match self {
            Trouble::Error500 => Some(2),
            Trouble::BadRequest
            | Trouble::ContentFilter
            | Trouble::Quota
            | Trouble::Unauthorized
            | Trouble::UnknownModel
            | Trouble::Refusal
            | Trouble::Length => None,
            _ => Some(1),
        }
    }

    /// Whether a real provider would charge for a call that meets this kind.
    pub fn is_paid(self) -> bool {
        self.is_uncertain()
            || matches!(
                self,
                Trouble::ContentFilter | Trouble::InvalidJson | Trouble::Refusal | Trouble::Length
            )
    }

    /// Whether the client cannot know if it got, and was billed for, an answer.
    pub fn is_uncertain(self) -> bool {
        matches!(
            self,
            Trouble::Drop
                | Trouble::Stall
                | Trouble::Truncated
                | Trouble::BrokenJson
                | Trouble::Empty
        )
    }

    /// Whether a request of a batch can meet this kind: the others are about connections or keys.
    pub(super) fn is_in_batches(self) -> bool {
        !matches!(
            self,
            Trouble::Drop
                | Trouble::Stall
                | Trouble::Truncated
                | Trouble::BrokenJson
                | Trouble::Html502
                | Trouble::Unauthorized
        )
    }

    /// Whether a call that requests `form` can meet this kind.
    pub(super) fn applies_to(self, form: Form) -> bool {
        match self {
            Trouble::InvalidJson => form == Form::Shaped,
            Trouble::ContentFilter | Trouble::Refusal | Trouble::Length => {
                matches!(form, Form::Text | Form::Shaped)
            }
            _ => true,
        }
    }

    /// Whether the call is rejected because of its key, its model, a limit or an exhausted account:
    /// such a call has no latency and uses no limit.
    pub(super) fn is_refusal(self) -> bool {
        matches!(self, Trouble::Unauthorized | Trouble::UnknownModel) || self.is_429()
    }

    pub(super) fn is_429(self) -> bool {
        matches!(self, Trouble::RateLimit | Trouble::Quota)
    }
}

/// The kind of output that a call requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Text,
    /// Text in a given JSON format.
    Shaped,
    /// Embeddings.
    Vectors,
    Sound,
}

impl Form {
    /// Of an answer in words, in a given JSON format or not.
    pub(super) fn of(shaped: bool) -> Form {
        if shaped { Form::Shaped } else { Form::Text }
    }
}

impl FromStr for Trouble {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Trouble, UnknownName> {
        UnknownName::find("trouble", text, Trouble::ALL, Trouble::name)
    }
}
