//! Which vendor supports which field of a chat request and of its messages, and which values and parts.

use serde::Deserialize;
use serde_json::Value;

use crate::prompt::Fault;
use crate::rules::{self, Rules};
use crate::tree::{Object, in_range};
use crate::{UnknownVendor, Vendor};

/// The fields of chat requests.
pub(crate) static TABLE: Rules<Table> = Rules::new(|| {
    let text = include_str!("../../rules/chat.json");
    rules::read("chat", text, Table::check)
});

/// What the vendors support. Lists of vendors are words; `every` stands for all vendors of that list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Table {
    /// Vendors that host models and document their fields.
    every: String,
    /// Vendors that ignore fields they do not know.
    pass_over: String,
    fields: Vec<(String, String)>,
    message_fields: Vec<(String, String)>,
    values: Vec<ValueRule>,
    /// The rule in `openai.json` for the parts of a message.
    parts: Vec<(String, String)>,
}

/// The values of a field at some vendors, or at all of them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ValueRule {
    field: String,
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

impl Table {
    /// Checks the table.
    fn check(&self) -> Result<(), String> {
        for fields in [&self.fields, &self.message_fields] {
            for (place, (name, _)) in fields.iter().enumerate() {
                if fields[..place].iter().any(|(other, _)| other == name) {
                    return Err(format!("{name} is listed twice"));
                }
            }
        }
        let field = |rule: &&ValueRule| self.fields.iter().any(|(name, _)| *name == rule.field);
        if let Some(rule) = self.values.iter().find(|rule| !field(rule)) {
            return Err(format!("{} has values, but is no field", rule.field));
        }
        let lists = self.fields.iter().chain(&self.message_fields);
        let lists = lists.chain(&self.parts).map(|(_, vendors)| vendors);
        let values = self.values.iter().filter_map(|rule| rule.vendors.as_ref());
        let lists = lists.chain(values).chain([&self.every, &self.pass_over]);
        let mut names = lists.flat_map(|list| list.split(' '));
        names.try_for_each(|name| match name {
            "every" => Ok(()),
            name => name
                .parse::<Vendor>()
                .map(drop)
                .map_err(|error: UnknownVendor| error.to_string()),
        })
    }

    fn has(&self, list: &str, vendor: Vendor) -> bool {
        list.split(' ').any(|name| match name {
            "every" => self.has(&self.every, vendor),
            name => name == vendor.name(),
        })
    }

    /// Rejects a field that `vendor` does not know; without a vendor, one that no vendor knows.
    fn known(
        &self,
        object: &Object<'_>,
        fields: &[(String, String)],
        vendor: Option<Vendor>,
    ) -> Result<(), Fault> {
        let vendor = vendor.map(|vendor| match vendor {
            Vendor::Azure => Vendor::OpenAi,
            vendor => vendor,
        });
        if vendor.is_some_and(|vendor| self.has(&self.pass_over, vendor)) {
            return Ok(());
        }
        let is_known = |name: &&String| {
            let field = fields.iter().find(|(known, _)| known == *name);
            field.is_some_and(|(_, list)| vendor.is_none_or(|vendor| self.has(list, vendor)))
        };
        match object.names().find(|name| !is_known(name)) {
            Some(name) => Err(Fault::Unknown(object.at(name))),
            None => Ok(()),
        }
    }
}

/// Rejects fields that the vendor does not know.
pub(super) fn known(root: &Object<'_>, vendor: Option<Vendor>) -> Result<(), Fault> {
    let table = rules::get(&TABLE);
    table.known(root, &table.fields, vendor)?;
    let mut messages = root.objects("messages")?.unwrap_or_default().into_iter();
    messages.try_for_each(|message| table.known(&message, &table.message_fields, vendor))
}

/// Rejects values that the vendor does not support.
pub(super) fn values(root: &Object<'_>, vendor: Option<Vendor>) -> Result<(), Fault> {
    let rules = rules::get(&TABLE).values.iter();
    let mut rules = rules.filter(|rule| root.names().any(|name| *name == rule.field));
    rules.try_for_each(|rule| match (root.get(&rule.field), &*rule.field) {
        (None, _) => Ok(()),
        (Some(Value::String(_)), "stop") => rule.check(&1.into(), vendor),
        (Some(Value::Array(list)), "stop") => rule.check(&list.len().into(), vendor),
        (Some(value), _) => rule.check(value, vendor),
    })
}

/// The rule for the parts of a vendor's messages.
pub(super) fn part_rule(vendor: Option<Vendor>) -> &'static str {
    let table = rules::get(&TABLE);
    let mut rules = table.parts.iter();
    let rule = rules.find(|(_, list)| vendor.is_some_and(|vendor| table.has(list, vendor)));
    rule.map_or("part_any", |(rule, _)| rule)
}

impl ValueRule {
    fn check(&'static self, value: &Value, vendor: Option<Vendor>) -> Result<(), Fault> {
        let named = self.vendors.as_ref().is_none_or(|names| {
            vendor.is_some_and(|vendor| names.split(' ').any(|name| name == vendor.name()))
        });
        let number = value.as_f64().filter(|_| !self.whole || value.is_u64());
        let words = self.words.as_deref();
        let bounds = self.from.unwrap_or(f64::MIN)..=self.to.unwrap_or(f64::MAX);
        let taken = match words {
            Some(words) => words.contains(value),
            None => number.is_some_and(|number| bounds.contains(&number)),
        };
        if !named || taken {
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
                return in_range(self.field.as_str(), number, bounds).map(drop);
            }
        };
        Err(Fault::invalid(self.field.as_str(), code, message))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::tree::Spelling;

    fn foreign(name: &str, vendor: Option<Vendor>) -> bool {
        let body = json!({"model": "m", name: 1});
        let root = Object::new(&body, "", Spelling::Exact).unwrap();
        match known(&root, vendor) {
            Ok(()) => false,
            fault => fault == Err(Fault::Unknown(name.to_owned())),
        }
    }

    #[test]
    fn each_vendor_refuses_what_is_not_its_own() {
        for (vendor, names) in [
            (Vendor::OpenAi, "random_seed top_k reasoning_format"),
            (
                Vendor::Groq,
                "random_seed logprobs metadata presence_penalty",
            ),
            (Vendor::Mistral, "seed max_completion_tokens"),
            (Vendor::Xai, "store logit_bias frequency_penalty"),
            (Vendor::DeepSeek, "seed max_completion_tokens"),
            (Vendor::Together, "top_logprobs service_tier"),
            (Vendor::Fireworks, "store"),
            (Vendor::DeepInfra, "logit_bias"),
            (Vendor::Cerebras, "presence_penalty top_k"),
        ] {
            for name in names.split(' ') {
                assert!(foreign(name, Some(vendor)), "{vendor} {name}");
                assert!(!foreign(name, None) && !foreign(name, Some(Vendor::Local)));
            }
        }
        assert!(foreign("x", None) && foreign("x", Some(Vendor::Xai)));
    }
}
