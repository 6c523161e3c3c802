//! The services with OpenAI's API, each with its own variant of it, and other APIs: a row in `rules/vendors.json`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::Value;
use strum::{Display, EnumString, IntoStaticStr, VariantArray};

use super::rules;

/// A service with OpenAI's API: the simulator uses its errors, bodies and headers on the paths of that API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Display, EnumString, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "lowercase", parse_err_ty = String, parse_err_fn = no_vendor)]
#[non_exhaustive]
pub enum Vendor {
    /// `openai`.
    OpenAi,
    /// `xai`: usage without reasoning, errors as plain strings, a wrong key is status 400.
    Xai,
    /// `groq`: request limits per day, `x_groq`, no embeddings.
    Groq,
    /// `mistral`: `random_seed`, status 422 with a list of details, content as chunks.
    Mistral,
    /// `openrouter`: errors with what the one behind it said, and passes over fields it does not know.
    OpenRouter,
    /// `deepseek`: blank lines before a reply, no schemas, usage of its cache in words of its own.
    DeepSeek,
    /// `together`: an answer ends with `eos`, `logprobs` is a number.
    Together,
    /// `fireworks`: status 412 for an account that is suspended.
    Fireworks,
    /// `deepinfra`: status 422 with a list of details, an estimate of the cost.
    DeepInfra,
    /// `cerebras`: limits of a day and of a minute by names of their own, no embeddings.
    Cerebras,
    /// `nvidia`: an unknown model is an unknown function, as problem details.
    Nvidia,
    /// `azure`: the key in `api-key`, deployments in the address, a version behind it; batches of files that
    /// are looked at first.
    Azure,
    /// `local`: a server on this machine. It ignores keys, fields it does not know and
    /// `max_completion_tokens`.
    Local,
}

impl Vendor {
    /// Every vendor.
    pub const ALL: &'static [Vendor] = Vendor::VARIANTS;

    /// The name, as [`FromStr`](std::str::FromStr) accepts it.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

fn no_vendor(text: &str) -> String {
    unknown("vendor", text, Vendor::ALL)
}

/// The error for a name that no variant has: it lists the names that there are.
pub(super) fn unknown<T: ToString>(what: &str, text: &str, all: &[T]) -> String {
    let known: Vec<_> = all.iter().map(T::to_string).collect();
    let known = known.join(", ");
    format!("unknown {what} \"{text}\"; known ones: {known}")
}

/// One vendor's variant of OpenAI's API, or another API.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Row {
    /// The name by which `chat.json` knows its fields; without a name, unknown fields are ignored.
    pub(super) fields: Option<String>,
    /// The rules for parts of messages, for formats of answers, and for embeddings. Without a
    /// rule for them, the vendor has no embeddings.
    pub(super) parts: String,
    pub(super) format: String,
    pub(super) embeddings: Option<String>,
    /// Whether it takes the newer of the two limits of output.
    pub(super) newer_cap: bool,
    /// The least and the most characters in the id of a tool's call.
    pub(super) ids: Option<(usize, usize)>,
    /// The field of a message that has the reasoning; `content` puts it before the text, in chunks.
    pub(super) reasoning: Option<String>,
    pub(super) stop: String,
    /// Whether blank lines come before an answer, and whether the completion tokens are without those of reasoning.
    pub(super) blank: bool,
    pub(super) apart: bool,
    /// Further fields of an answer and of its usage.
    pub(super) answer: Value,
    pub(super) usage: Value,
    /// The header of a limit, and whether requests are counted by the day.
    pub(super) limits: Option<String>,
    pub(super) daily: bool,
    /// The headers with the requested wait.
    pub(super) waits: Vec<String>,
}

/// The row of this name.
pub(super) fn row(name: &str) -> &'static Row {
    static ROWS: LazyLock<BTreeMap<String, Row>> =
        LazyLock::new(|| rules::table("vendors", include_str!("../rules/vendors.json")));
    &ROWS[name]
}
