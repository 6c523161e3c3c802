//! Which vendor knows which field of a chat request, and of its messages. The fields are noted as a
//! body is read, one bit each, and compared with what the vendor knows in the end.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;

use crate::prompt::Fault;
use crate::rules::{self, Rules};
use crate::tree::in_range;
use crate::{UnknownVendor, Vendor};

/// The fields of chat requests.
pub(crate) static TABLE: Rules<Table> = Rules::new(|| {
    let text = include_str!("../../rules/chat.json");
    rules::read("chat", text, |_| Ok(()))
});

/// Which vendor takes which field, and which values: `rules/chat.json`.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Written")]
pub(crate) struct Table {
    /// The most frequent ones come first.
    fields: Vec<(String, Vendors)>,
    message_fields: Vec<(String, Vendors)>,
    pub(super) values: Vec<ValueRule>,
    /// The vendors that pass over what they do not know.
    pass_over: Vendors,
}

/// A set of vendors, one bit each.
type Vendors = u16;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    /// Vendors that host models and document their fields; lists call them `every`.
    every: String,
    pass_over: String,
    fields: Vec<(String, String)>,
    message_fields: Vec<(String, String)>,
    values: Vec<ValueRule>,
}

/// What a field takes at some vendors, or at all of them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ValueRule {
    pub(super) field: String,
    vendors: Option<String>,
    words: Option<Vec<Value>>,
    /// No fractions.
    #[serde(default)]
    whole: bool,
    from: Option<f64>,
    to: Option<f64>,
    code: Option<String>,
    message: Option<String>,
}

fn bit(vendor: Vendor) -> Vendors {
    1 << Vendor::ALL
        .iter()
        .position(|known| *known == vendor)
        .unwrap_or_default()
}

fn bits(names: &str, every: &str) -> Result<Vendors, String> {
    let mut names = names.split(' ').map(|name| match name {
        "every" => bits(every, ""),
        name => name
            .parse()
            .map(bit)
            .map_err(|error: UnknownVendor| error.to_string()),
    });
    names.try_fold(0, |all, one| Ok(all | one?))
}

impl TryFrom<Written> for Table {
    type Error = String;

    fn try_from(written: Written) -> Result<Table, String> {
        let every = &written.every;
        let known = |fields: Vec<(String, String)>| {
            let mut read: Vec<(String, Vendors)> = Vec::with_capacity(fields.len());
            for (name, vendors) in fields {
                if read.len() == 128 || read.iter().any(|(known, _)| *known == name) {
                    return Err(format!("{name} is listed twice, or is the 129th"));
                }
                read.push((name, bits(&vendors, every)?));
            }
            Ok(read)
        };
        let table = Table {
            fields: known(written.fields)?,
            message_fields: known(written.message_fields)?,
            pass_over: bits(&written.pass_over, every)?,
            values: written.values,
        };
        for rule in &table.values {
            bits(rule.vendors.as_deref().unwrap_or("every"), every)?;
            if !table.fields.iter().any(|(name, _)| *name == rule.field) {
                return Err(format!("{} has values, but is no field", rule.field));
            }
        }
        Ok(table)
    }
}

impl ValueRule {
    /// Refuses a value that the vendor does not take.
    pub(super) fn check(&'static self, value: &Value, vendor: Option<Vendor>) -> Result<(), Fault> {
        let named = self.vendors.as_ref().is_none_or(|names| {
            vendor.is_some_and(|vendor| names.split(' ').any(|name| name == vendor.name()))
        });
        if !named {
            return Ok(());
        }
        let number = value.as_f64().filter(|_| !self.whole || value.is_u64());
        let words = self.words.as_deref();
        let bounds = (self.from.unwrap_or(f64::MIN), self.to.unwrap_or(f64::MAX));
        let taken = match words {
            Some(words) => words.contains(value),
            None => number.is_some_and(|number| (bounds.0..=bounds.1).contains(&number)),
        };
        if taken {
            return Ok(());
        }
        let code = self.code.as_deref().unwrap_or("invalid_value");
        let message = match (&self.message, words) {
            (Some(message), _) => message.clone(),
            (None, Some(words)) => {
                let words: Vec<_> = words.iter().filter_map(Value::as_str).collect();
                let (value, words) = (value.as_str().unwrap_or_default(), words.join("', '"));
                format!("Invalid value: '{value}'. Supported values are: '{words}'.")
            }
            (None, None) => {
                let number = number.unwrap_or_default();
                return in_range(self.field.as_str(), number, bounds.0..=bounds.1).map(drop);
            }
        };
        Err(Fault::invalid(self.field.as_str(), code, message))
    }
}

/// The fields of one object.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    table: &'static [(String, Vendors)],
    seen: u128,
    /// The first one in no vendor's list.
    unknown: Option<Cow<'a, str>>,
}

impl Default for Fields<'_> {
    fn default() -> Self {
        Self {
            table: &rules::get(&TABLE).fields,
            seen: 0,
            unknown: None,
        }
    }
}

impl<'a> Fields<'a> {
    pub(super) fn of_message() -> Self {
        Self {
            table: &rules::get(&TABLE).message_fields,
            ..Self::default()
        }
    }

    /// Notes a field; false if it is known and has been there before.
    pub(super) fn add(&mut self, name: Cow<'a, str>) -> bool {
        let Some(place) = self.table.iter().position(|(known, _)| *known == name) else {
            self.unknown.get_or_insert(name);
            return true;
        };
        let bit = 1 << place;
        let new = self.seen & bit == 0;
        self.seen |= bit;
        new
    }

    pub(super) fn has(&self, name: &str) -> bool {
        let place = self.table.iter().position(|(known, _)| *known == name);
        place.is_some_and(|place| self.seen & (1 << place) != 0)
    }

    /// A field that `vendor` refuses; without a vendor, that all of them do.
    pub(super) fn foreign_to(&self, vendor: Option<Vendor>) -> Option<&str> {
        let vendor = match vendor {
            None => Vendors::MAX,
            Some(Vendor::Azure) => bit(Vendor::OpenAi),
            Some(vendor) => bit(vendor),
        };
        if vendor != Vendors::MAX && rules::get(&TABLE).pass_over & vendor != 0 {
            return None;
        }
        let foreign = self
            .table
            .iter()
            .enumerate()
            .find(|(place, (_, vendors))| self.seen >> place & 1 == 1 && vendors & vendor == 0);
        match foreign {
            Some((_, (name, _))) => Some(name),
            None => self.unknown.as_deref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn foreign(names: &[&'static str], vendor: Option<Vendor>) -> Option<String> {
        let mut fields = Fields::default();
        for name in names {
            assert!(fields.add(Cow::Borrowed(name)));
        }
        fields.foreign_to(vendor).map(str::to_owned)
    }

    #[test]
    fn each_vendor_refuses_what_is_not_its_own() {
        let cases = [
            (Vendor::OpenAi, "random_seed"),
            (Vendor::OpenAi, "top_k"),
            (Vendor::OpenAi, "reasoning_format"),
            (Vendor::Groq, "random_seed"),
            (Vendor::Groq, "logprobs"),
            (Vendor::Groq, "metadata"),
            (Vendor::Groq, "presence_penalty"),
            (Vendor::Mistral, "seed"),
            (Vendor::Mistral, "max_completion_tokens"),
            (Vendor::Xai, "store"),
            (Vendor::Xai, "logit_bias"),
            (Vendor::Xai, "frequency_penalty"),
            (Vendor::DeepSeek, "seed"),
            (Vendor::DeepSeek, "max_completion_tokens"),
            (Vendor::Together, "top_logprobs"),
            (Vendor::Together, "service_tier"),
            (Vendor::Fireworks, "store"),
            (Vendor::DeepInfra, "logit_bias"),
            (Vendor::Cerebras, "presence_penalty"),
            (Vendor::Cerebras, "top_k"),
        ];
        for (vendor, name) in cases {
            let refused = foreign(&["model", "messages", name], Some(vendor));
            assert_eq!(refused.as_deref(), Some(name), "{vendor}");
            assert_eq!(foreign(&[name], None), None, "{name}");
            assert_eq!(foreign(&[name], Some(Vendor::Local)), None);
        }
        for vendor in [None, Some(Vendor::Xai)] {
            assert_eq!(foreign(&["model", "x"], vendor).as_deref(), Some("x"));
        }
    }

    #[test]
    fn a_field_may_come_once() {
        let mut fields = Fields::default();
        assert!(fields.add("model".into()));
        assert!(!fields.add("model".into()));
    }

    #[test]
    fn no_field_is_listed_twice() {
        let chat = rules::get(&TABLE);
        for table in [&chat.fields, &chat.message_fields] {
            for (place, (name, _)) in table.iter().enumerate() {
                let before = &table[..place];
                assert!(!before.iter().any(|(other, _)| other == name), "{name}");
            }
        }
    }
}
