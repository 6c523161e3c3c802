//! The types of settings: which texts each accepts, and what they mean.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::choices::Choices;

/// The program determines the number.
const AUTO: &str = "auto";

/// What a setting accepts.
pub(super) enum Kind {
    /// One of a list of names.
    Choice(&'static Choices),
    /// Providers, each optionally with a model, and the maximum number of providers.
    Route(&'static Choices, usize),
    /// A whole number in this range.
    Whole(u64, u64),
    /// A whole number in this range, or `auto`.
    WholeOrAuto(u64, u64),
    /// A number above 0.
    Positive,
    /// A time above 0.
    Time,
    /// Yes or no.
    Switch,
    /// A text that is not empty.
    Text,
    /// Models by their providers, such as `groq=MODEL`.
    Models(&'static Choices),
    /// The source of article texts.
    Articles,
    /// The address of a Redis server, without a password.
    Redis,
    /// The address of a database server, without a password.
    Store,
}

impl Kind {
    /// The accepted values, as a phrase that follows "write" or "takes".
    pub fn accepts(&self) -> String {
        match self {
            Self::Choice(among) => format!("one of: {}", among.all.join(", ")),
            Self::Route(..) => {
                "providers separated by commas, each perhaps with a model: groq:MODEL,extract"
                    .into()
            }
            Self::Whole(least, most) => {
                format!("a whole number from {least} to {most}")
            }
            Self::WholeOrAuto(least, most) => {
                format!("a whole number from {least} to {most}, or auto")
            }
            Self::Positive => "a number above 0".into(),
            Self::Time => {
                "a time, for example 50ms, 2s or 1m, above 0 (a bare number is in seconds)".into()
            }
            Self::Switch => "true or false".into(),
            Self::Text => "a text that is not empty".into(),
            Self::Models(_) => {
                "a model for each provider, separated by commas: groq=MODEL,anthropic=MODEL".into()
            }
            Self::Articles => ACCEPTED.into(),
            Self::Redis => "an address such as redis://HOST:6379 or rediss://USER@HOST".into(),
            Self::Store => "an address such as mysql://USER@HOST/DATABASE".into(),
        }
    }

    /// The meaning of the text as JSON, or the accepted values as an error.
    pub fn parse(&self, text: &str) -> Result<Value, String> {
        let text = text.trim();
        let as_text = |fits: bool| fits.then(|| json!(text));
        let value = match self {
            Self::Choice(among) => Some(among.check(text).map(|()| json!(text))?),
            Self::Route(among, most) => Some(json!(route(text, among, *most)?)),
            Self::WholeOrAuto(..) if text == AUTO => Some(json!(text)),
            Self::Whole(least, most) | Self::WholeOrAuto(least, most) => {
                let number = text.parse::<u64>().ok();
                let number = number.filter(|n| (least..=most).contains(&n));
                number.map(Value::from)
            }
            Self::Positive => {
                let number = text.parse().ok().filter(|n: &f64| *n > 0.0);
                number.filter(|n| n.is_finite()).map(Value::from)
            }
            Self::Time => {
                let time = time(text).filter(|time| !time.is_zero());
                time.map(|time| json!(time))
            }
            Self::Switch => match text.to_lowercase().as_str() {
                "true" | "yes" | "on" | "1" => Some(Value::Bool(true)),
                "false" | "no" | "off" | "0" => Some(Value::Bool(false)),
                _ => None,
            },
            Self::Text => as_text(!text.is_empty()),
            Self::Models(among) => models(text, among)?.map(|models| json!(models)),
            Self::Articles => ArticleSource::parse(text).map(|source| json!(source)),
            Self::Redis => as_text(is_redis(text)),
            Self::Store => as_text(is_store(text)),
        };
        value.ok_or_else(|| format!("write {}", self.accepts()))
    }
}

/// Whether it looks like the address of a Redis server and contains no password.
fn is_redis(text: &str) -> bool {
    is_address(text, &["redis://", "rediss://", "valkey://", "valkeys://"])
}

/// Whether it looks like the address of a database server and contains no password.
fn is_store(text: &str) -> bool {
    let plain = text.split('?').next().unwrap_or_default();
    let named = plain.rsplit_once('/').filter(|(_, name)| !name.is_empty());
    named.is_some_and(|(server, _)| is_address(server, &["mysql://"]))
        && !text.contains(char::is_whitespace)
}

/// Whether an address begins with one of these schemes, names a host, and contains no password.
fn is_address(text: &str, schemes: &[&str]) -> bool {
    let mut rests = schemes
        .iter()
        .filter_map(|scheme| text.strip_prefix(scheme));
    let Some(rest) = rests.next() else {
        return false;
    };
    let (user, place) = rest.rsplit_once('@').unwrap_or(("", rest));
    !user.contains(':') && !place.is_empty() && !text.contains(char::is_whitespace)
}

fn route(text: &str, among: &Choices, most: usize) -> Result<Vec<String>, String> {
    let entries = text.split(',').map(str::trim);
    let entries: Vec<String> = entries
        .filter(|entry| !entry.is_empty())
        .map(str::to_owned)
        .collect();
    if entries.len() > most {
        let found = entries.len();
        return Err(format!(
            "found {found} providers; at most {most} can follow the first"
        ));
    }
    for entry in &entries {
        let name = entry
            .split_once(':')
            .map_or(entry.as_str(), |(name, _)| name);
        among.check(name.trim())?;
    }
    Ok(entries)
}

/// `None` if an entry is not `PROVIDER=MODEL`.
fn models(text: &str, among: &Choices) -> Result<Option<Vec<(String, String)>>, String> {
    let mut models: Vec<(String, String)> = Vec::new();
    for entry in text.split(',').map(str::trim) {
        if entry.is_empty() {
            continue;
        }
        let Some((provider, model)) = entry.split_once('=') else {
            return Ok(None);
        };
        let (provider, model) = (provider.trim(), model.trim());
        among.check(provider)?;
        if model.is_empty() {
            return Ok(None);
        }
        if models.iter().any(|(known, _)| known == provider) {
            return Err(format!("{provider} has two models; write one of them"));
        }
        models.push((provider.to_owned(), model.to_owned()));
    }
    Ok(Some(models))
}

fn time(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic());
    let (number, unit) = text.split_at(unit_at.unwrap_or(text.len()));
    let seconds = match unit {
        "ms" => 0.001,
        "s" | "" => 1.0,
        "m" => 60.0,
        _ => return None,
    };
    let number: f64 = number.trim().parse().ok()?;
    Duration::try_from_secs_f64(number * seconds).ok()
}

/// How the text of an article is looked up by its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ArticleSource {
    /// A folder that contains `ID.txt`, `ID.md` or `ID.html` for each article.
    Folder(PathBuf),
    /// A URL that has `{article_id}` in its path or query.
    Url(String),
}

const ACCEPTED: &str = "a folder or `https://HOST/articles/{article_id}`";

impl ArticleSource {
    /// The placeholder for the id in a [`Url`](Self::Url).
    pub const ID: &str = "{article_id}";

    /// Parses the setting; `None` if the text has another format.
    fn parse(text: &str) -> Option<Self> {
        // Databases were a source once.
        if text.starts_with("sqlite:") {
            return None;
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return (!text.is_empty()).then(|| Self::Folder(text.into()));
        };
        // An id must not choose the host, and a password must not be stored.
        let host = rest.split(['/', '?', '#']).next()?;
        let sound = matches!(scheme, "https" | "http")
            && !host.is_empty()
            && !host.contains(['{', '@'])
            && rest.contains(Self::ID);
        sound.then(|| Self::Url(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::choices::PROVIDERS;
    use super::*;
    use crate::base::cases::cases;

    /// A kind by its name and its bounds.
    fn kind(name: &str) -> Kind {
        let mut words = name.split(' ');
        let name = words.next().unwrap();
        let mut bound = || words.next().unwrap().parse::<u64>().unwrap();
        match name {
            "whole" => Kind::Whole(bound(), bound()),
            "auto" => Kind::WholeOrAuto(bound(), bound()),
            "route" => Kind::Route(&PROVIDERS, bound() as usize),
            "positive" => Kind::Positive,
            "time" => Kind::Time,
            "switch" => Kind::Switch,
            "text" => Kind::Text,
            "choice" => Kind::Choice(&PROVIDERS),
            "models" => Kind::Models(&PROVIDERS),
            "articles" => Kind::Articles,
            "redis" => Kind::Redis,
            "store" => Kind::Store,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn texts_get_their_meaning_and_rejected_ones_name_the_accepted() {
        for (case, expected) in cases(include_str!("value_cases.txt")) {
            let (name, text) = case.split_once(" '").unwrap();
            let parsed = kind(name).parse(text.strip_suffix('\'').unwrap());
            match expected.strip_prefix("refused: ") {
                Some(expected) => {
                    let why = parsed.unwrap_err();
                    assert!(why.contains(expected), "{case}: {why}");
                }
                None => assert_eq!(parsed.unwrap().to_string(), expected, "{case}"),
            }
        }
    }
}
