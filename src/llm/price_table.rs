//! A table of prices as JSON, and the model in it that a name means.

use std::collections::{BTreeMap, HashMap};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::base::named_file::no_such_json;
use crate::base::{Day, Error, ErrorKind};

const BUILT_IN: &str = include_str!("prices.json");

/// Stands for every provider.
const ANY: &str = "*";

/// A table: the models of each provider, and their prices. Its other fields, such as its source, are for people.
#[derive(Debug, PartialEq, Deserialize)]
pub(super) struct Table {
    providers: BTreeMap<String, ProviderModels>,
}

/// The models of a provider.
#[derive(Debug, PartialEq, Deserialize)]
struct ProviderModels {
    /// Another provider of the table, which has the models that are missing here.
    like: Option<String>,
    models: Vec<Model>,
    /// The names of the models in small letters, with the place of the model, and whether a date may follow.
    #[serde(skip)]
    names: HashMap<String, (usize, bool)>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Model {
    /// Its complete names.
    #[serde(default)]
    models: Vec<String>,
    /// Names that may be followed by a date: `claude-x` is also the name of `claude-x-20261014`.
    #[serde(default)]
    dated: Vec<String>,
    pub max_output: Option<u64>,
    #[serde(rename = "source")]
    _source: Option<String>,
    pub prices: Vec<PriceEntry>,
}

/// The prices of a model at one tier, from one day on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct PriceEntry {
    /// The tier: `batch`, `flex`, `priority` or another word of the provider; empty for the standard tier.
    pub tier: String,
    /// The first day (UTC). Default: all days.
    pub from: Option<Day>,
    /// These prices are for requests with more input tokens than this, and for all of their tokens. Default: 0.
    pub tokens: u64,
    /// Input tokens.
    pub input: Price,
    /// Input tokens that were read from the provider's prompt cache. Default: like other input.
    pub cached_input: Option<Price>,
    /// Input tokens that were written to the cache. Default: like other input.
    pub cache_write: Option<Price>,
    /// Input tokens that were written to the cache for an hour. Default: unknown if `cache_write` is set.
    pub cache_write_1h: Option<Price>,
    /// Output tokens, including reasoning. Default: unknown.
    pub output: Option<Price>,
    /// Input tokens of audio. Default: like other input.
    pub input_audio: Option<Price>,
    /// Input tokens of images. Default: like other input.
    pub input_image: Option<Price>,
    /// Output tokens of audio. Default: like other output.
    pub output_audio: Option<Price>,
    /// Output tokens of images. Default: like other output.
    pub output_image: Option<Price>,
    /// Web searches, in US dollars per thousand. Default: unknown.
    pub web_search: Option<Price>,
    /// The prices of longer requests, in the order of their `tokens`.
    pub above: Vec<PriceEntry>,
}

/// A price in US dollars per million tokens. It is stored in millionths of a dollar per million tokens, which is the same
/// number as picodollars per token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Price(pub u64);

impl<'de> Deserialize<'de> for Price {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let millionths = f64::deserialize(deserializer)? * 1e6;
        let whole = millionths.round();
        // A price that is finer would be rounded, so that sums would differ from the invoice.
        if !(0.0..1e15).contains(&millionths)
            || (millionths - whole).abs() > 1e-3
            || whole == 0.0 && millionths > 0.0
        {
            let why =
                "a price is a number of US dollars per million tokens, with at most 6 decimals";
            return Err(D::Error::custom(why));
        }
        Ok(Self(whole as u64))
    }
}

impl Table {
    /// # Errors
    /// [`ErrorKind::Invalid`] if the JSON is not a table.
    pub(super) fn parse(json: &str) -> Result<Self, Error> {
        let read: Result<Self, _> = serde_json::from_str(json);
        let mut table = read.map_err(|why| Error::new(ErrorKind::Invalid, no_such_json(&why)))?;
        table.providers.values_mut().for_each(ProviderModels::index);
        Ok(table)
    }

    /// The table in the program.
    pub(super) fn built_in() -> Self {
        Self::parse(BUILT_IN).expect("a test reads it")
    }

    /// The model of this name, and whether it was found at a provider whose prices are like those of the one that was
    /// asked. A name that ends in a date also means the model of its base name, if the table says so or
    /// the user asked for that.
    pub(super) fn find(
        &self,
        provider: &str,
        name: &str,
        requested: Option<&str>,
    ) -> Option<(&Model, bool)> {
        let own = self.providers.get(provider);
        let like = own.and_then(|own| own.like.as_deref());
        let like = like.and_then(|like| self.providers.get(like));
        let any = self.providers.get(ANY);
        [(own, false), (like, true), (any, false)]
            .into_iter()
            .find_map(|(provider, by_likeness)| {
                Some((provider?.find(name, requested)?, by_likeness))
            })
    }
}

impl ProviderModels {
    fn index(&mut self) {
        for (at, model) in self.models.iter().enumerate() {
            let exact = model.models.iter().map(|name| (name, false));
            let names = exact.chain(model.dated.iter().map(|name| (name, true)));
            let names = names.map(|(name, dated)| (name.to_ascii_lowercase(), (at, dated)));
            self.names.extend(names);
        }
    }

    fn find(&self, name: &str, requested: Option<&str>) -> Option<&Model> {
        let name = name.to_ascii_lowercase();
        let (at, _) = self.names.get(&name).or_else(|| {
            let base = without_date(&name)?;
            let asked = requested.is_some_and(|requested| requested.eq_ignore_ascii_case(base));
            let known = self.names.get(base);
            known.filter(|(_, dated)| *dated || asked)
        })?;
        self.models.get(*at)
    }
}

/// `gpt-x` for `gpt-x-2026-10-14`, `claude-x` for `claude-x-20261014` and `claude-x@20261014`. Shorter numbers are
/// versions.
fn without_date(name: &str) -> Option<&str> {
    let shape = name.replace(|letter: char| letter.is_ascii_digit(), "0");
    let dates = ["-00000000", "@00000000", "-0000-00-00"];
    let base = dates.iter().find_map(|date| shape.strip_suffix(date))?;
    name.get(..base.len()).filter(|base| !base.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Table {
        /// The names of all models, with their providers.
        pub(in crate::llm) fn names(&self) -> impl Iterator<Item = (&str, &str)> {
            self.providers.iter().flat_map(|(provider, models)| {
                let names = models.models.iter();
                let names = names.flat_map(|model| model.models.iter().chain(&model.dated));
                names.map(move |name| (provider.as_str(), name.as_str()))
            })
        }
    }

    #[test]
    fn a_date_is_told_from_a_version() {
        for (name, model) in [
            ("gpt-5-2025-08-07", "gpt-5"),
            ("claude-opus-5-20260101", "claude-opus-5"),
            ("claude-opus-5@20260101", "claude-opus-5"),
        ] {
            assert_eq!(without_date(name), Some(model));
        }
        let others =
            "gpt-5.1,mistral-large-2411,-20260101,gemini-2.5-flash-preview-09-2025,ä-2026-01-01é,";
        for name in others.split(',') {
            assert_eq!(without_date(name), None, "{name}");
        }
    }

    #[test]
    fn prices_are_exact_or_rejected() {
        let price = |json: &str| serde_json::from_str::<Price>(json).map(|price| price.0);
        assert_eq!(price("0.075").unwrap(), 75_000);
        assert_eq!(price("0.003625").unwrap(), 3_625);
        assert_eq!(price("15").unwrap(), 15_000_000);
        for bad in ["-1", "0.0000001", "1e30", "\"1\""] {
            assert!(price(bad).is_err(), "{bad}");
        }
    }
}
