//! Which vendor supports which field of a chat request and of its messages, and which parts.

use std::sync::LazyLock;

use serde::Deserialize;

use crate::Vendor;
use crate::prompt::Fault;
use crate::rules;
use crate::tree::Object;

static TABLE: LazyLock<Table> =
    LazyLock::new(|| rules::read("chat", include_str!("../../rules/chat.json")));

/// What the vendors support. Lists of vendors are words; `every` stands for all vendors of that list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    /// Vendors that host models and document their fields.
    every: String,
    /// Vendors that ignore fields they do not know.
    pass_over: String,
    fields: Vec<(String, String)>,
    message_fields: Vec<(String, String)>,
    /// The rule in `openai.json` for the parts of a message.
    parts: Vec<(String, String)>,
}

impl Table {
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
        let known = fields
            .iter()
            .filter(|(_, list)| vendor.is_none_or(|vendor| self.has(list, vendor)));
        object.only(known.map(|(name, _)| name.as_str()))
    }
}

/// Rejects fields that the vendor does not know.
pub(super) fn known(root: &Object<'_>, vendor: Option<Vendor>) -> Result<(), Fault> {
    TABLE.known(root, &TABLE.fields, vendor)?;
    let mut messages = root.objects("messages")?.unwrap_or_default().into_iter();
    messages.try_for_each(|message| TABLE.known(&message, &TABLE.message_fields, vendor))
}

/// The rule for the parts of a vendor's messages.
pub(super) fn part_rule(vendor: Option<Vendor>) -> &'static str {
    let mut rules = TABLE.parts.iter();
    let rule = rules.find(|(_, list)| vendor.is_some_and(|vendor| TABLE.has(list, vendor)));
    rule.map_or("part_any", |(rule, _)| rule)
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
