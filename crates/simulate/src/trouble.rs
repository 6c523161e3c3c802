//! The kinds of trouble that the simulator can make, and the meaning of each for billing and for the client's
//! knowledge. `config` decides which prompt meets which kind, `ledger` how often, and `serve` sends them.

use strum::{Display, EnumString, IntoStaticStr, VariantArray};

use super::vendor::unknown;

/// One way in which a provider can fail a call.
///
/// A prompt meets at most one kind. A kind that ends does so separately for each prompt: the next call with the same
/// prompt is answered normally. In text, on the command line and in
/// [`SimStats::by_trouble`](super::SimStats::by_trouble), kinds are written in snake case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Display, EnumString, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case", parse_err_ty = String, parse_err_fn = no_trouble)]
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
    /// `content_filter`: status 200 with finish reason `content_filter` and no text, always.
    /// Anthropic knows refusals only.
    ContentFilter,
    /// `stall`: no reply for 20 s, then a close, once.
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

    /// The name in snake case, as [`FromStr`](std::str::FromStr) accepts it.
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

fn no_trouble(text: &str) -> String {
    unknown("trouble", text, Trouble::ALL)
}

const KINDS: usize = Trouble::ALL.len();

/// The shares of prompts that meet each kind, and how many calls of a prompt do.
#[derive(Debug, Clone)]
pub(super) struct Script {
    pub(super) shares: [f64; KINDS],
    pub(super) times: [Option<u32>; KINDS],
}

impl Default for Script {
    fn default() -> Script {
        Script {
            shares: [0.0; KINDS],
            times: std::array::from_fn(|kind| Trouble::ALL[kind].times()),
        }
    }
}

impl Script {
    /// The kind that the prompt with this key meets.
    pub(super) fn plan(&self, seed: u64, key: u64) -> Option<Trouble> {
        let place = unit(key ^ mix(seed));
        let mut end = 0.0;
        Trouble::ALL.iter().copied().find(|kind| {
            end += self.shares[*kind as usize];
            place < end
        })
    }

    /// Whether a prompt that met `kind` `met` times meets it again.
    pub(super) fn continues(&self, kind: Trouble, met: u32) -> bool {
        self.times[kind as usize].is_none_or(|times| met < times)
    }

    pub(super) fn check(&self) -> Result<(), String> {
        for kind in Trouble::ALL.iter().copied() {
            let share = self.shares[kind as usize];
            if !(0.0..=1.0).contains(&share) {
                return Err(format!(
                    "the rate of trouble {kind} is {share}; it must be from 0 to 1"
                ));
            }
        }
        let sum: f64 = self.shares.iter().sum();
        // Ten shares of 0.1 add up to a little more or less than one.
        if sum > 1.0 + 1e-9 {
            return Err(format!(
                "the rates of trouble add up to {sum}; they must not pass 1"
            ));
        }
        Ok(())
    }
}

/// The number by which a prompt is known: a hash of the text of its last user message.
///
/// The standard library's hasher may change between releases; this one is fixed, so a seed means the
/// same run everywhere and for ever.
pub(super) fn prompt_key(text: &str) -> u64 {
    let (words, rest) = text.as_bytes().as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    // Every word is mixed in completely. With only a multiplication, thousands of prompts that differ in two
    // neighbouring numbers would collide.
    let start = mix(text.len() as u64);
    let state = words
        .iter()
        .fold(start, |state, word| mix(state ^ u64::from_le_bytes(*word)));
    mix(state ^ u64::from_le_bytes(last))
}

/// A number from 0 up to but not including 1, evenly spread over all values of `seed`.
pub(super) fn unit(seed: u64) -> f64 {
    (mix(seed) >> 11) as f64 / (1u64 << 53) as f64
}

/// The finishing step of SplitMix64: every input bit reaches every output bit.
pub(super) fn mix(seed: u64) -> u64 {
    let mut value = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn half_and_tenth() -> Script {
        let mut script = Script::default();
        script.shares[Trouble::Error500 as usize] = 0.5;
        script.shares[Trouble::Quota as usize] = 0.1;
        script
    }

    #[test]
    fn the_shares_come_out_over_many_prompts() {
        let script = half_and_tenth();
        let plans: Vec<_> = (0..20_000)
            .map(|n| script.plan(7, prompt_key(&format!("prompt {n}"))))
            .collect();
        let count = |wanted| plans.iter().filter(|plan| **plan == wanted).count();
        assert!((9_700..10_300).contains(&count(Some(Trouble::Error500))));
        assert!((1_850..2_150).contains(&count(Some(Trouble::Quota))));
        assert!((7_700..8_300).contains(&count(None)));
    }

    #[test]
    fn keys_are_fixed_for_ever() {
        assert_eq!(prompt_key(""), 12_035_550_249_420_947_055);
        assert_eq!(prompt_key("hello, world"), 9_893_598_328_516_690_321);
        assert_ne!(prompt_key("a"), prompt_key("a\0"));
    }

    #[test]
    fn keys_of_numbered_prompts_do_not_collide() {
        let mut keys = HashSet::new();
        for first in 0..64 {
            for second in 0..2_000 {
                keys.insert(prompt_key(&format!("prompt {first} {second} Be brief.")));
            }
        }
        assert_eq!(keys.len(), 64 * 2_000);
    }

    #[test]
    fn shares_outside_their_range_are_refused() {
        let mut script = half_and_tenth();
        assert_eq!(script.check(), Ok(()));
        script.shares[Trouble::Drop as usize] = 0.5;
        assert!(script.check().unwrap_err().contains("add up"));
        script.shares[Trouble::Drop as usize] = f64::NAN;
        assert!(script.check().unwrap_err().contains("drop"));
    }
}
