//! Which vendor knows which field of a chat request, and of its messages. The fields are noted as a
//! body is read, one bit each, and compared with what the vendor knows in the end.

use std::borrow::Cow;

use crate::Vendor;

const OPENAI: u16 = 1;
const XAI: u16 = 1 << 1;
const GROQ: u16 = 1 << 2;
const MISTRAL: u16 = 1 << 3;
/// No vendor refuses it, or only servers on one's own machine have it.
const LOCAL: u16 = 1 << 4;
const DEEPSEEK: u16 = 1 << 5;
const TOGETHER: u16 = 1 << 6;
const FIREWORKS: u16 = 1 << 7;
const DEEPINFRA: u16 = 1 << 8;
const CEREBRAS: u16 = 1 << 9;
/// Those who host open models and tell what they take.
const HOSTS: u16 = DEEPSEEK | TOGETHER | FIREWORKS | DEEPINFRA | CEREBRAS;
const HOSTED: u16 = OPENAI | XAI | GROQ | MISTRAL | HOSTS;

/// The most frequent ones come first.
const FIELDS: [(&str, u16); 108] = [
    ("model", HOSTED),
    ("messages", HOSTED),
    (
        "max_completion_tokens",
        OPENAI | XAI | GROQ | FIREWORKS | CEREBRAS,
    ),
    ("max_tokens", HOSTED),
    ("temperature", HOSTED),
    ("response_format", HOSTED),
    (
        "seed",
        OPENAI | XAI | GROQ | TOGETHER | FIREWORKS | DEEPINFRA | CEREBRAS,
    ),
    ("random_seed", MISTRAL),
    ("stop", HOSTED),
    ("top_p", HOSTED),
    ("stream", HOSTED),
    (
        "stream_options",
        OPENAI | XAI | GROQ | DEEPSEEK | FIREWORKS | DEEPINFRA | CEREBRAS,
    ),
    (
        "n",
        OPENAI | XAI | GROQ | MISTRAL | TOGETHER | FIREWORKS | DEEPINFRA | CEREBRAS,
    ),
    (
        "user",
        OPENAI | XAI | GROQ | FIREWORKS | DEEPINFRA | CEREBRAS,
    ),
    ("reasoning_effort", HOSTED),
    (
        "presence_penalty",
        OPENAI | MISTRAL | DEEPSEEK | TOGETHER | FIREWORKS | DEEPINFRA,
    ),
    (
        "frequency_penalty",
        OPENAI | MISTRAL | DEEPSEEK | TOGETHER | FIREWORKS | DEEPINFRA,
    ),
    (
        "logprobs",
        OPENAI | XAI | DEEPSEEK | TOGETHER | FIREWORKS | DEEPINFRA | CEREBRAS,
    ),
    (
        "top_logprobs",
        OPENAI | XAI | DEEPSEEK | FIREWORKS | CEREBRAS,
    ),
    ("logit_bias", OPENAI | TOGETHER | FIREWORKS),
    ("tools", HOSTED),
    ("tool_choice", HOSTED),
    (
        "parallel_tool_calls",
        OPENAI | XAI | GROQ | MISTRAL | FIREWORKS | CEREBRAS,
    ),
    ("functions", OPENAI | GROQ | FIREWORKS),
    ("function_call", OPENAI | GROQ | TOGETHER | FIREWORKS),
    (
        "service_tier",
        OPENAI | XAI | GROQ | FIREWORKS | DEEPINFRA | CEREBRAS,
    ),
    ("metadata", OPENAI | MISTRAL | FIREWORKS),
    ("store", OPENAI),
    ("verbosity", OPENAI),
    ("safety_identifier", OPENAI),
    ("prompt_cache_key", OPENAI | MISTRAL | FIREWORKS | DEEPINFRA),
    ("prompt_cache_retention", OPENAI),
    ("prediction", OPENAI | MISTRAL | FIREWORKS | CEREBRAS),
    ("modalities", OPENAI),
    ("audio", OPENAI),
    ("web_search_options", OPENAI | XAI),
    ("moderation", OPENAI),
    ("search_parameters", XAI),
    ("deferred", XAI),
    ("reasoning_format", GROQ | CEREBRAS),
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
    ("top_k", TOGETHER | FIREWORKS | DEEPINFRA | LOCAL),
    ("min_p", TOGETHER | FIREWORKS | DEEPINFRA | LOCAL),
    ("typical_p", FIREWORKS | LOCAL),
    ("top_a", LOCAL),
    ("repeat_penalty", LOCAL),
    ("repeat_last_n", LOCAL),
    (
        "repetition_penalty",
        TOGETHER | FIREWORKS | DEEPINFRA | LOCAL,
    ),
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
    ("min_tokens", CEREBRAS | LOCAL),
    ("ignore_eos", FIREWORKS | LOCAL),
    ("stop_token_ids", LOCAL),
    ("skip_special_tokens", LOCAL),
    ("truncate_prompt_tokens", LOCAL),
    ("best_of", LOCAL),
    ("length_penalty", LOCAL),
    ("use_beam_search", LOCAL),
    ("cache_prompt", LOCAL),
    ("id_slot", LOCAL),
    ("priority", LOCAL),
    ("chat_template_kwargs", TOGETHER | DEEPINFRA | LOCAL),
    ("reasoning", TOGETHER | DEEPINFRA | LOCAL),
    ("think", LOCAL),
    ("keep_alive", LOCAL),
    ("options", LOCAL),
    ("thinking", DEEPSEEK | FIREWORKS),
    ("user_id", DEEPSEEK),
    ("context_length_exceeded_behavior", TOGETHER | FIREWORKS),
    ("echo", TOGETHER | FIREWORKS),
    ("compliance", TOGETHER),
    ("safety_model", TOGETHER),
    ("echo_last", FIREWORKS),
    ("mirostat_lr", FIREWORKS),
    ("mirostat_target", FIREWORKS),
    ("perf_metrics_in_response", FIREWORKS),
    ("prompt_cache_isolation_key", FIREWORKS),
    ("prompt_truncate_len", FIREWORKS),
    ("raw_output", FIREWORKS),
    ("reasoning_history", FIREWORKS),
    ("return_token_ids", FIREWORKS),
    ("safe_tokenization", FIREWORKS),
    ("speculation", FIREWORKS),
    ("min_completion_tokens", CEREBRAS),
    ("clear_thinking", CEREBRAS),
    ("disable_reasoning", CEREBRAS),
];

const OF_MESSAGES: [(&str, u16); 12] = [
    ("role", HOSTED),
    ("content", HOSTED),
    (
        "name",
        OPENAI | XAI | DEEPSEEK | TOGETHER | DEEPINFRA | CEREBRAS,
    ),
    ("tool_calls", HOSTED),
    ("tool_call_id", HOSTED),
    ("refusal", OPENAI),
    ("annotations", OPENAI),
    ("audio", OPENAI),
    ("function_call", OPENAI | TOGETHER),
    ("prefix", MISTRAL | DEEPSEEK),
    ("reasoning", CEREBRAS | LOCAL),
    (
        "reasoning_content",
        XAI | DEEPSEEK | FIREWORKS | DEEPINFRA | LOCAL,
    ),
];

/// The fields of one object.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    table: &'static [(&'static str, u16)],
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

    pub(super) fn has(&self, name: &str) -> bool {
        let place = self.table.iter().position(|(known, _)| *known == name);
        place.is_some_and(|place| self.seen & (1 << place) != 0)
    }

    /// A field that `vendor` refuses; without a vendor, that all of them do.
    pub(super) fn foreign_to(&self, vendor: Option<Vendor>) -> Option<&str> {
        let vendor = match vendor {
            // The servers that people run themselves pass over what they do not know; OpenRouter says
            // so of itself, and of NVIDIA's nothing is said.
            Some(Vendor::Local | Vendor::OpenRouter | Vendor::Nvidia) => return None,
            None => HOSTED | LOCAL,
            Some(Vendor::OpenAi | Vendor::Azure) => OPENAI,
            Some(Vendor::Xai) => XAI,
            Some(Vendor::Groq) => GROQ,
            Some(Vendor::Mistral) => MISTRAL,
            Some(Vendor::DeepSeek) => DEEPSEEK,
            Some(Vendor::Together) => TOGETHER,
            Some(Vendor::Fireworks) => FIREWORKS,
            Some(Vendor::DeepInfra) => DEEPINFRA,
            Some(Vendor::Cerebras) => CEREBRAS,
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
        ("reasoning_effort", Vendor::OpenAi | Vendor::Azure) => {
            &["none", "minimal", "low", "medium", "high", "xhigh", "max"]
        }
        ("reasoning_effort", Vendor::Xai) => &["none", "low", "medium", "high"],
        ("reasoning_effort", Vendor::Groq) => &["none", "default", "low", "medium", "high"],
        ("reasoning_effort", Vendor::Mistral) => &["none", "high"],
        ("reasoning_effort", Vendor::DeepSeek) => &["low", "medium", "high", "xhigh", "max"],
        ("reasoning_effort", Vendor::Together | Vendor::Cerebras) => &["low", "medium", "high"],
        ("reasoning_effort", Vendor::Fireworks | Vendor::DeepInfra) => {
            &["none", "low", "medium", "high"]
        }
        ("service_tier", Vendor::OpenRouter) => {
            &["auto", "default", "fast", "flex", "priority", "scale"]
        }
        ("service_tier", Vendor::Fireworks | Vendor::Cerebras) => {
            &["auto", "default", "flex", "priority"]
        }
        ("service_tier", Vendor::DeepInfra) => &["priority"],
        ("service_tier", Vendor::OpenAi) => {
            &["auto", "default", "flex", "scale", "priority", "fast"]
        }
        ("service_tier", Vendor::Xai) => &["default", "priority"],
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
        for table in [&FIELDS[..], &OF_MESSAGES] {
            for (place, (name, _)) in table.iter().enumerate() {
                let before = &table[..place];
                assert!(!before.iter().any(|(other, _)| other == name), "{name}");
            }
        }
    }
}
