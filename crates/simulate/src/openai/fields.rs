//! Which vendor knows which field of a chat request, and of its messages. The fields are noted as a
//! body is read, one bit each, and compared with what the vendor knows in the end.

use std::borrow::Cow;

use crate::Vendor;

const OPENAI: u8 = 1;
const XAI: u8 = 2;
const GROQ: u8 = 4;
const MISTRAL: u8 = 8;
/// No vendor refuses it, or only servers on one's own machine have it.
const LOCAL: u8 = 16;
const HOSTED: u8 = OPENAI | XAI | GROQ | MISTRAL;

/// The most frequent ones come first.
const FIELDS: [(&str, u8); 88] = [
    ("model", HOSTED),
    ("messages", HOSTED),
    ("max_completion_tokens", OPENAI | XAI | GROQ),
    ("max_tokens", HOSTED),
    ("temperature", HOSTED),
    ("response_format", HOSTED),
    ("seed", OPENAI | XAI | GROQ),
    ("random_seed", MISTRAL),
    ("stop", HOSTED),
    ("top_p", HOSTED),
    ("stream", HOSTED),
    ("stream_options", OPENAI | XAI | GROQ),
    ("n", HOSTED),
    ("user", OPENAI | XAI | GROQ),
    ("reasoning_effort", HOSTED),
    ("presence_penalty", OPENAI | MISTRAL),
    ("frequency_penalty", OPENAI | MISTRAL),
    ("logprobs", OPENAI | XAI),
    ("top_logprobs", OPENAI | XAI),
    ("logit_bias", OPENAI),
    ("tools", HOSTED),
    ("tool_choice", HOSTED),
    ("parallel_tool_calls", HOSTED),
    ("functions", OPENAI | GROQ),
    ("function_call", OPENAI | GROQ),
    ("service_tier", OPENAI | GROQ),
    ("metadata", OPENAI | MISTRAL),
    ("store", OPENAI),
    ("verbosity", OPENAI),
    ("safety_identifier", OPENAI),
    ("prompt_cache_key", OPENAI | MISTRAL),
    ("prompt_cache_retention", OPENAI),
    ("prediction", OPENAI | MISTRAL),
    ("modalities", OPENAI),
    ("audio", OPENAI),
    ("web_search_options", OPENAI | XAI),
    ("moderation", OPENAI),
    ("search_parameters", XAI),
    ("deferred", XAI),
    ("reasoning_format", GROQ),
    ("include_reasoning", GROQ),
    ("citation_options", GROQ),
    ("compound_custom", GROQ),
    ("disable_tool_validation", GROQ),
    ("documents", GROQ),
    ("exclude_domains", GROQ),
    ("include_domains", GROQ),
    ("search_settings", GROQ),
    ("safe_prompt", MISTRAL),
    ("prompt_mode", MISTRAL),
    ("guardrails", MISTRAL),
    ("top_k", LOCAL),
    ("min_p", LOCAL),
    ("typical_p", LOCAL),
    ("top_a", LOCAL),
    ("repeat_penalty", LOCAL),
    ("repeat_last_n", LOCAL),
    ("repetition_penalty", LOCAL),
    ("mirostat", LOCAL),
    ("mirostat_tau", LOCAL),
    ("mirostat_eta", LOCAL),
    ("dry_multiplier", LOCAL),
    ("xtc_probability", LOCAL),
    ("samplers", LOCAL),
    ("grammar", LOCAL),
    ("json_schema", LOCAL),
    ("guided_json", LOCAL),
    ("guided_regex", LOCAL),
    ("guided_choice", LOCAL),
    ("structured_outputs", LOCAL),
    ("n_predict", LOCAL),
    ("n_probs", LOCAL),
    ("min_tokens", LOCAL),
    ("ignore_eos", LOCAL),
    ("stop_token_ids", LOCAL),
    ("skip_special_tokens", LOCAL),
    ("truncate_prompt_tokens", LOCAL),
    ("best_of", LOCAL),
    ("length_penalty", LOCAL),
    ("use_beam_search", LOCAL),
    ("cache_prompt", LOCAL),
    ("id_slot", LOCAL),
    ("priority", LOCAL),
    ("chat_template_kwargs", LOCAL),
    ("reasoning", LOCAL),
    ("think", LOCAL),
    ("keep_alive", LOCAL),
    ("options", LOCAL),
];

const OF_MESSAGES: [(&str, u8); 12] = [
    ("role", HOSTED),
    ("content", HOSTED),
    ("name", OPENAI | XAI),
    ("tool_calls", HOSTED),
    ("tool_call_id", HOSTED),
    ("refusal", OPENAI),
    ("annotations", OPENAI),
    ("audio", OPENAI),
    ("function_call", OPENAI),
    ("prefix", MISTRAL),
    ("reasoning", LOCAL),
    ("reasoning_content", XAI | LOCAL),
];

/// The fields of one object.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    table: &'static [(&'static str, u8)],
    seen: u128,
    /// The first one in no vendor's list.
    unknown: Option<Cow<'a, str>>,
}

impl Default for Fields<'_> {
    fn default() -> Self {
        Self {
            table: &FIELDS,
            seen: 0,
            unknown: None,
        }
    }
}

impl<'a> Fields<'a> {
    pub(super) fn of_message() -> Self {
        Self {
            table: &OF_MESSAGES,
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

    /// A field that `vendor` refuses; without a vendor, that all of them do.
    pub(super) fn foreign_to(&self, vendor: Option<Vendor>) -> Option<&str> {
        let vendor = match vendor {
            // The servers that people run themselves pass over what they do not know.
            Some(Vendor::Local) => return None,
            None => HOSTED | LOCAL,
            Some(Vendor::OpenAi) => OPENAI,
            Some(Vendor::Xai) => XAI,
            Some(Vendor::Groq) => GROQ,
            Some(Vendor::Mistral) => MISTRAL,
        };
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

/// The words that a vendor takes in a field; nothing if it takes any.
pub(super) fn words(field: &str, vendor: Option<Vendor>) -> Option<&'static [&'static str]> {
    Some(match (field, vendor?) {
        ("reasoning_effort", Vendor::OpenAi) => {
            &["none", "minimal", "low", "medium", "high", "xhigh", "max"]
        }
        ("reasoning_effort", Vendor::Xai) => &["none", "low", "medium", "high"],
        ("reasoning_effort", Vendor::Groq) => &["none", "default", "low", "medium", "high"],
        ("reasoning_effort", Vendor::Mistral) => &["none", "high"],
        ("service_tier", Vendor::OpenAi) => {
            &["auto", "default", "flex", "scale", "priority", "fast"]
        }
        ("service_tier", Vendor::Groq) => &["auto", "on_demand", "flex", "performance"],
        _ => return None,
    })
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
        for table in [&FIELDS[..], &OF_MESSAGES] {
            for (place, (name, _)) in table.iter().enumerate() {
                let before = &table[..place];
                assert!(!before.iter().any(|(other, _)| other == name), "{name}");
            }
        }
    }
}
