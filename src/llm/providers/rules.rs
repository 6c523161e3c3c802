//! The rules that give a failed reply the kind of its error, in the order in which they are tried: those
//! that recognize a prompt that is too long, those of the vendor (`tables/vendors.json`), those of its dialect, of gateways, and of statuses in general
//! (`tables/errors.json`). The first rule that matches decides.

use std::sync::LazyLock;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny};

use crate::base::ErrorKind;

use super::error_body::ErrorBody;

/// One rule. The lists that it has must each have an entry that occurs in the body of the reply.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rule {
    /// The lowest and the highest status.
    status: (u16, u16),
    /// Values of its code, type, status word, reason or quota.
    #[serde(default)]
    words: Vec<String>,
    /// Parts of such values.
    #[serde(default)]
    word_parts: Vec<String>,
    /// Parts of its message, in lower case.
    #[serde(default)]
    texts: Vec<String>,
    /// Whether the message must mention a model and no address: a 404 of a wrong path may mention both.
    #[serde(default)]
    names_model: bool,
    #[serde(deserialize_with = "kind_of_name")]
    pub kind: ErrorKind,
    /// How long to wait if the server reports no time.
    wait_seconds: Option<u64>,
    /// Whether the error concerns only the model, not the account.
    #[serde(default)]
    pub of_model: bool,
    /// Whether it applies because no other rule matched.
    #[serde(skip)]
    pub default: bool,
    #[serde(rename = "note", default)]
    _note: IgnoredAny,
}

fn kind_of_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ErrorKind, D::Error> {
    let name = <&str>::deserialize(deserializer)?;
    ErrorKind::parse(name).ok_or_else(|| D::Error::custom(format!("unknown kind {name}")))
}

impl Rule {
    /// How long to wait if the server reports no time.
    pub fn default_wait(&self) -> Option<Duration> {
        self.wait_seconds.map(Duration::from_secs)
    }

    fn fits(&self, status: u16, error_body: &ErrorBody) -> bool {
        let any_word = |list: &[String], fits: fn(&str, &str) -> bool| {
            let fits = |listed: &String| error_body.words.iter().any(|word| fits(word, listed));
            list.is_empty() || list.iter().any(fits)
        };
        (self.status.0..=self.status.1).contains(&status)
            && any_word(&self.words, |word, listed| word == listed)
            && any_word(&self.word_parts, |word, part| word.contains(part))
            && (self.texts.is_empty() || error_body.mentions(&self.texts))
            && (!self.names_model
                || error_body.mentions(&["model"]) && !error_body.mentions(&["url", "path"]))
    }
}

/// The rules that are not those of one vendor.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ErrorRules {
    #[serde(rename = "notes")]
    _notes: IgnoredAny,
    too_long: Vec<Rule>,
    pub openai: Vec<Rule>,
    pub anthropic: Vec<Rule>,
    pub gemini: Vec<Rule>,
    gateways: Vec<Rule>,
    common: Vec<Rule>,
    /// The statuses of errors of Anthropic in replies to calls, by their types.
    pub anthropic_statuses: Vec<(String, u16)>,
    /// The codes of errors of Google, their names, and their statuses in replies to calls.
    pub google_codes: Vec<(u64, String, u16)>,
}

pub(super) static RULES: LazyLock<ErrorRules> = LazyLock::new(|| {
    let rules = serde_json::from_str(include_str!("tables/errors.json"));
    rules.expect("the tests read this file too")
});

/// An error that is not known is the request's fault: it is not tried again.
static LAST: Rule = Rule {
    status: (0, u16::MAX),
    words: Vec::new(),
    word_parts: Vec::new(),
    texts: Vec::new(),
    names_model: false,
    kind: ErrorKind::Invalid,
    wait_seconds: None,
    of_model: false,
    default: true,
    _note: IgnoredAny,
};

/// The rule for a failed reply: the first that matches, of the vendor, its dialect, gateways and all.
pub(super) fn classify<'r>(
    own: &'r [Rule],
    of_dialect: &'r [Rule],
    status: u16,
    error_body: &ErrorBody,
) -> &'r Rule {
    let rules = [
        &RULES.too_long,
        own,
        of_dialect,
        &RULES.gateways,
        &RULES.common,
    ];
    let mut fitting = rules
        .into_iter()
        .flatten()
        .filter(|rule| rule.fits(status, error_body));
    fitting.next().unwrap_or(&LAST)
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
