//! The table of vendors: addresses, variables, and differences from their dialect.

use std::sync::LazyLock;
use std::time::Duration;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::base::json_read::table;
use crate::base::{Error, ErrorKind, Timestamp};
use crate::llm::batch::BatchLimits;
use crate::llm::pack::PackLimits;

use super::limits::RateHeaders;
use super::rules::{ErrorBody, RULES, Rule, classify};

/// A wire format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Dialect {
    OpenAi,
    Anthropic,
    Gemini,
    /// Answered on this machine, without a network.
    Extract,
}

/// How a vendor caches the beginnings of prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PromptCache {
    /// By itself.
    Automatic,
    /// By itself; `prompt_cache_key` leads requests with equal beginnings to the same server.
    Key,
    /// Where the request has a mark.
    CacheControl,
}

/// What a vendor gets of the reasoning in earlier answers of a conversation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SentReasoning {
    #[default]
    Nothing,
    /// Its text, in turns with tool calls.
    Text,
    /// Also what another provider has signed: unknown servers, and those that forward it to that provider.
    Signed,
}

fn yes() -> bool {
    true
}

/// A row of `tables/vendors.json`: one provider. It has a field for each way in which vendors differ.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Vendor {
    pub name: &'static str,
    pub dialect: Dialect,
    /// Empty if each account has its own.
    pub base_url: &'static str,
    /// Added to a base URL that does not end with it; in OpenAI's format only to an empty path.
    pub segment: &'static str,
    #[serde(default)]
    pub segment_always: bool,
    /// Azure's addresses contain the model, or end with the version of the API.
    #[serde(default)]
    pub azure: bool,
    #[serde(borrow)]
    pub key_vars: Vec<&'static str>,
    pub url_var: &'static str,
    pub needs_key: bool,
    /// A server of this machine, which is asked for its models before a run.
    #[serde(default)]
    pub probed: bool,
    /// The header of the key; `authorization` contains it as a bearer token.
    pub key_header: &'static str,
    /// The header that names the version of the API, and that version.
    pub version: Option<(&'static str, &'static str)>,
    /// A variable with a bearer token instead of a key.
    #[serde(default)]
    pub token_var: &'static str,
    /// The field with the maximum number of tokens of the answer.
    pub cap: &'static str,
    pub seed_field: &'static str,
    /// The field for the length of a vector.
    pub dimensions_field: &'static str,
    /// Headers that identify the account, and the variables that contain them.
    #[serde(default, borrow)]
    pub identity: Vec<(&'static str, &'static str)>,
    /// Whether it may still load its model when it is called.
    #[serde(default)]
    pub may_load: bool,
    /// Whether it supports the role `developer`; otherwise `system` replaces it.
    pub developer_role: bool,
    /// What it gets of the reasoning in earlier answers.
    #[serde(default)]
    pub reasoning: SentReasoning,
    /// Whether it supports JSON Schemas; otherwise they are added to the system text.
    #[serde(default = "yes")]
    pub schemas: bool,
    /// Whether it expects documents and sound in Mistral's format.
    #[serde(default)]
    pub own_parts: bool,
    /// How it reports its limits. Without it, they are detected from rejected calls.
    pub tells: Option<RateHeaders>,
    /// The errors that it reports in another way than others of its dialect.
    #[serde(default)]
    pub(super) errors: Vec<Rule>,
    pub concurrency: usize,
    /// Its Batch API, if it has one.
    pub batches: Option<Batches>,
    /// How much one call may embed, if it supports embeddings. This is well below the documented limits:
    /// tokens are estimated, a reply contains all vectors, and a call that is killed is paid for again.
    pub embeds: Option<PackLimits>,
    /// How it caches the beginnings of prompts; `None` if it does not, or if that is not known.
    pub prompt_cache: Option<PromptCache>,
    /// Whether it supports OpenAI's call for speech.
    pub speaks: bool,
    #[serde(rename = "note", default)]
    _note: IgnoredAny,
}

/// A Batch API: its format, and the limits of one batch. They are below the documented limits, because
/// an upload that is refused for its size is wasted.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Batches {
    pub wire: BatchWire,
    pub limits: BatchLimits,
    pub retention: Retention,
}

/// A wire format of Batch APIs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BatchWire {
    OpenAi,
    Groq,
    Azure,
    Xai,
    Anthropic,
    Gemini,
}

/// Every provider, in the order in which the first usable one is selected.
pub(crate) static VENDORS: LazyLock<Vec<Vendor>> =
    LazyLock::new(|| table(include_str!("tables/vendors.json")));

impl Vendor {
    /// How long this provider keeps results of batches.
    pub fn retention_of(provider: &str) -> Retention {
        let batches = Vendor::named(provider).and_then(|vendor| vendor.batches);
        batches.map_or(Retention::UNKNOWN, |batches| batches.retention)
    }

    /// The rule for a failed reply.
    pub(super) fn rule(&self, status: u16, error_body: &ErrorBody) -> &Rule {
        let of_dialect = match self.dialect {
            Dialect::OpenAi => &RULES.openai[..],
            Dialect::Anthropic => &RULES.anthropic,
            Dialect::Gemini => &RULES.gemini,
            Dialect::Extract => &[],
        };
        classify(&self.errors, of_dialect, status, error_body)
    }

    pub(crate) fn named(name: &str) -> Option<&'static Vendor> {
        VENDORS.iter().find(|vendor| vendor.name == name)
    }

    /// The error for a vendor that does not do something. It names those that do.
    pub(crate) fn lacking(&self, what: &str, can: fn(&Self) -> bool) -> Error {
        let able = VENDORS.iter().filter(|vendor| can(vendor));
        let names: Vec<&str> = able.map(|vendor| vendor.name).collect();
        let why = format!("{} {what}: {}", self.name, names.join(", "));
        Error::new(ErrorKind::Invalid, why)
    }

    /// How much one call may embed.
    ///
    /// # Errors
    /// For a vendor without embeddings.
    pub(crate) fn embedding_limits(&self) -> Result<PackLimits, Error> {
        let what = "makes no embeddings; these do";
        let lacking = || self.lacking(what, |vendor| vendor.embeds.is_some());
        self.embeds.ok_or_else(lacking)
    }

    /// The vendor's Batch API.
    ///
    /// # Errors
    /// For a vendor without one.
    pub(crate) fn batch_api(&self) -> Result<Batches, Error> {
        let what = "has no Batch API; these have one";
        let lacking = || self.lacking(what, |vendor| vendor.batches.is_some());
        self.batches.ok_or_else(lacking)
    }

    /// The base URL for a value of [`url_var`](Self::url_var). OpenAI's SDKs append their paths to the value unchanged,
    /// even if it has no path, so the value is used in the same way. The SDKs of other vendors add the version
    /// themselves. Variables that no SDK reads are treated like `--base-url`.
    pub(crate) fn base_from_variable(&self, url: &str) -> String {
        let as_it_stands = url.trim().trim_end_matches('/');
        match self.url_var {
            "OPENAI_BASE_URL" if path_of(as_it_stands).is_empty() => as_it_stands.to_owned(),
            _ => self.normalise(url),
        }
    }

    /// The base URL for a value that a user gives: the version is added if it is missing.
    pub(crate) fn normalise(&self, url: &str) -> String {
        let url = url.trim().trim_end_matches('/');
        if url.is_empty() {
            return String::new();
        }
        if self.azure {
            // The address of a deployment, as Azure shows it.
            let url = url.split("/openai/deployments/").next().unwrap_or(url);
            let (root, newer) = match url.split_once("/openai/v1") {
                Some((root, _)) => (root, "/v1"),
                None => (url.strip_suffix(self.segment).unwrap_or(url), ""),
            };
            return format!("{root}{}{newer}", self.segment);
        }
        // Users often give the address of a call instead of the base URL.
        let calls = [
            "/chat/completions",
            "/messages",
            "/embeddings",
            "/audio/speech",
        ];
        let url = calls
            .iter()
            .find_map(|call| url.strip_suffix(call))
            .unwrap_or(url);
        if url.ends_with(self.segment) {
            return url.to_owned();
        }
        if self.segment_always || path_of(url).is_empty() {
            format!("{url}{}", self.segment)
        } else {
            url.to_owned()
        }
    }
}

/// The part of a URL after its host.
fn path_of(url: &str) -> &str {
    let after_scheme = url.find("://").map_or(0, |at| at + 3);
    let slash = url[after_scheme..].find('/');
    slash.map_or("", |slash| &url[after_scheme + slash..])
}

/// How long a provider keeps the results of a batch, according to its documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Retention {
    /// This number of days after the creation of the batch.
    FromCreation(u32),
    /// This number of days after its end.
    FromEnd(u32),
    /// The documentation names no end.
    Unlimited,
}

const DAY: Duration = Duration::from_secs(86_400);

impl Retention {
    /// For an undocumented time, or a time that is set for each batch: the shortest of all.
    pub const UNKNOWN: Self = Self::FromEnd(2);

    /// The time until which results are kept, for a batch with this creation time that was seen to have ended at
    /// `ended`; `None` if there is no end.
    pub fn until(self, created: Timestamp, ended: Timestamp) -> Option<Timestamp> {
        match self {
            Self::FromCreation(days) => Some(created.after(DAY * days)),
            // It may have ended long before it was seen, but hardly after the time that it was allowed to take.
            Self::FromEnd(days) => Some(ended.min(created.after(DAY * 2)).after(DAY * days)),
            Self::Unlimited => None,
        }
    }
}

#[cfg(test)]
#[path = "vendor_tests.rs"]
mod tests;
