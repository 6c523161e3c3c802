//! The types of settings: which texts each accepts, and what they mean.

use std::time::Duration;

use super::articles::{ACCEPTED, ArticleSource};
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

/// The meaning of a text.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Text(String),
    Names(Vec<String>),
    Models(Vec<(String, String)>),
    Articles(ArticleSource),
    Whole(u64),
    Number(f64),
    Time(Duration),
    Switch(bool),
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

    /// The meaning of the text, or the accepted values as an error.
    pub fn parse(&self, text: &str) -> Result<Value, String> {
        let text = text.trim();
        let value = match self {
            Self::Choice(among) => {
                among.check(text)?;
                Some(Value::Text(text.to_owned()))
            }
            Self::Route(among, most) => Some(Value::Names(route(text, among, *most)?)),
            Self::WholeOrAuto(..) if text == AUTO => Some(Value::Text(text.to_owned())),
            Self::Whole(least, most) | Self::WholeOrAuto(least, most) => {
                let number = text.parse().ok().filter(|n| (least..=most).contains(&n));
                number.map(Value::Whole)
            }
            Self::Positive => {
                let number = text.parse().ok();
                number
                    .filter(|n: &f64| *n > 0.0 && n.is_finite())
                    .map(Value::Number)
            }
            Self::Time => time(text).filter(|time| !time.is_zero()).map(Value::Time),
            Self::Switch => match text.to_lowercase().as_str() {
                "true" | "yes" | "on" | "1" => Some(Value::Switch(true)),
                "false" | "no" | "off" | "0" => Some(Value::Switch(false)),
                _ => None,
            },
            Self::Text => (!text.is_empty()).then(|| Value::Text(text.to_owned())),
            Self::Models(among) => models(text, among)?.map(Value::Models),
            Self::Articles => ArticleSource::parse(text).map(Value::Articles),
            Self::Redis => is_redis(text).then(|| Value::Text(text.to_owned())),
            Self::Store => is_store(text).then(|| Value::Text(text.to_owned())),
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

#[cfg(test)]
mod tests {
    use super::super::choices::PROVIDERS;
    use super::*;

    #[test]
    fn texts_get_their_meaning() {
        let ms = |n| Value::Time(Duration::from_millis(n));
        let names = |all: &[&str]| Value::Names(all.iter().map(|n| (*n).to_owned()).collect());
        for (kind, text, value) in [
            (Kind::Whole(1, 10), " 10 ", Value::Whole(10)),
            (Kind::WholeOrAuto(1, 9), "7", Value::Whole(7)),
            (
                Kind::WholeOrAuto(1, 9),
                " auto ",
                Value::Text("auto".into()),
            ),
            (Kind::Positive, "0.5", Value::Number(0.5)),
            (Kind::Time, "50ms", ms(50)),
            (Kind::Time, "1.5 s", ms(1500)),
            (Kind::Time, "2m", ms(120_000)),
            (Kind::Time, "30", ms(30_000)),
            (Kind::Switch, "Yes", Value::Switch(true)),
            (Kind::Switch, "0", Value::Switch(false)),
            (Kind::Text, " m ", Value::Text("m".into())),
            (Kind::Choice(&PROVIDERS), "groq", Value::Text("groq".into())),
            (
                Kind::Route(&PROVIDERS, 2),
                "groq:a:b, extract,",
                names(&["groq:a:b", "extract"]),
            ),
            (Kind::Route(&PROVIDERS, 2), "", names(&[])),
            (
                Kind::Redis,
                " rediss://me@cache:6380/2 ",
                Value::Text("rediss://me@cache:6380/2".into()),
            ),
            (
                Kind::Store,
                "mysql://me@db1:3307,db2/jobs?ca=/a/b.pem",
                Value::Text("mysql://me@db1:3307,db2/jobs?ca=/a/b.pem".into()),
            ),
            (
                Kind::Articles,
                " /srv/articles ",
                Value::Articles(ArticleSource::Folder("/srv/articles".into())),
            ),
            (
                Kind::Articles,
                "https://host?id={article_id}",
                Value::Articles(ArticleSource::Url("https://host?id={article_id}".into())),
            ),
            (
                Kind::Models(&PROVIDERS),
                " groq = a/b:c, anthropic=d=e,",
                Value::Models(vec![
                    ("groq".into(), "a/b:c".into()),
                    ("anthropic".into(), "d=e".into()),
                ]),
            ),
        ] {
            assert_eq!(kind.parse(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn rejected_values_name_the_accepted_ones() {
        const WHOLE: &str = "write a whole number from 1 to 10";
        const FROM_0: &str = "write a whole number from 0 to 9";
        const ADDRESS: &str = "write an address such as";
        const FOLDER: &str = "write a folder";
        const MODELS: &str = "write a model for each provider";
        const TWICE: &str = "groq has two models; write one of them";
        let cases: [(Kind, &[(&str, &str)]); 11] = [
            (Kind::Whole(1, 10), &[("0", WHOLE), ("11", WHOLE)]),
            (Kind::Whole(0, 9), &[("-1", FROM_0), ("1.5", FROM_0)]),
            (
                Kind::WholeOrAuto(1, 9),
                &[("10", "write a whole number from 1 to 9, or auto")],
            ),
            (
                Kind::Positive,
                &["0", "inf", "NaN"].map(|text| (text, "write a number above 0")),
            ),
            (
                Kind::Time,
                &[
                    ("0s", "write a time, for example 50ms, 2s or 1m, above 0"),
                    ("-1s", "write a time"),
                    ("5 weeks", "write a time"),
                    ("ms", "write a time"),
                ],
            ),
            (Kind::Switch, &[("maybe", "write true or false")]),
            (Kind::Text, &[("  ", "write a text that is not empty")]),
            (
                Kind::Models(&PROVIDERS),
                &[
                    ("groq", MODELS),
                    ("groq=", MODELS),
                    ("grok=x", "did you mean xai?"),
                    ("groq=a,groq=b", TWICE),
                ],
            ),
            (
                Kind::Redis,
                &["redis://:abc@cache", "http://cache"].map(|text| (text, ADDRESS)),
            ),
            (
                Kind::Store,
                &[
                    ("mysql://me:abc@db/jobs", ADDRESS),
                    ("mysql://me@db", ADDRESS),
                    ("postgres://me@db/jobs", ADDRESS),
                ],
            ),
            (
                Kind::Articles,
                &[
                    ("ftp://host/{article_id}", FOLDER),
                    ("https://host/articles", FOLDER),
                    ("https://{article_id}.host/", FOLDER),
                    ("https://a:b@host/{article_id}", FOLDER),
                    ("sqlite:a.db?DELETE FROM t WHERE id = ?", FOLDER),
                    ("sqlite:a.db?SELECT text FROM t", FOLDER),
                ],
            ),
        ];
        for (kind, rows) in cases {
            for (text, expected) in rows {
                let why = kind.parse(text).unwrap_err();
                assert!(why.contains(expected), "{text}: {why}");
            }
        }
        let unknown = |kind: Kind, text, expected| {
            let why = kind.parse(text).unwrap_err();
            assert!(why.contains(expected), "{text}: {why}");
        };
        let choice = || Kind::Choice(&PROVIDERS);
        let grok = "unknown provider `grok`; did you mean xai? expected one of: groq, ";
        unknown(choice(), "grok", grok);
        let opnai = "unknown provider `opnai`; did you mean openai? ";
        unknown(choice(), "opnai", opnai);
        unknown(choice(), "zzz", "`zzz`; expected one of: groq");
        let claude = "unknown provider `claude`; did you mean anthropic?";
        unknown(Kind::Route(&PROVIDERS, 9), "groq,claude:x", claude);
        let two = "found 2 providers; at most 1";
        unknown(Kind::Route(&PROVIDERS, 1), "groq,extract", two);
    }
}
