//! Closed lists of names, and the error for a name that is not in one.

use serde::{Deserialize, Serialize};

use crate::base::names::closest;

/// A closed list of names.
pub(crate) struct Choices {
    /// The kind of thing that the names denote, for messages.
    what: &'static str,
    pub all: &'static [&'static str],
    /// Maps another name for an entry to the name in the list.
    also: fn(&str) -> Option<&'static str>,
}

/// The providers, in the order in which the first usable one is chosen.
pub(crate) static PROVIDERS: Choices = Choices {
    what: "provider",
    all: &[
        "groq",
        "anthropic",
        "openai",
        "gemini",
        "mistral",
        "xai",
        "openrouter",
        "deepseek",
        "together",
        "fireworks",
        "deepinfra",
        "cerebras",
        "nvidia",
        "azure",
        "custom",
        "local",
        "extract",
    ],
    // Other names are those of their companies, models and kinds of server.
    also: |name| {
        Some(match name {
            "google" | "vertex" => "gemini",
            "claude" => "anthropic",
            "gpt" | "chatgpt" => "openai",
            "grok" | "x.ai" => "xai",
            "together_ai" | "togetherai" => "together",
            "fireworks_ai" => "fireworks",
            "azure-openai" | "azure_openai" | "azureopenai" => "azure",
            "nim" | "nvidia_nim" => "nvidia",
            "llama.cpp" | "lmstudio" | "ollama" | "vllm" => "local",
            _ => return None,
        })
    },
};

/// How prompts are sent.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    Default,
    Serialize,
    Deserialize,
    strum::Display,
    strum::IntoStaticStr,
)]
#[strum(serialize_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// Each prompt is an individual call, answered immediately.
    #[default]
    Sync,
    /// Prompts are submitted to the provider's Batch API: cheaper, answered within a day.
    Batch,
}

impl Strategy {
    /// Its name in settings and JSON.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// Which prompts use the prompt cache of their provider: it reads the common beginning of prompts once, and bills less for
/// it afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CachePrompt {
    /// Prompts with a system text of at least 1,024 tokens. Requests to an address that is not the provider's own get no new
    /// fields, because its server may reject them.
    #[default]
    Auto,
    /// Prompts with a system text of at least 1,024 tokens, at every address.
    Always,
    /// No prompts.
    Never,
}

/// What to do with a batch if it is unknown whether it was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnUnknown {
    /// Keep it on hold until somebody decides; the provider's list is still checked periodically.
    Hold,
    /// Send its requests again in another batch. If the first one was created after all, they are billed twice.
    Resubmit,
}

/// The names of [`Strategy`].
pub(super) static STRATEGIES: Choices = Choices::new("strategy", &["sync", "batch"]);

/// The names of [`CachePrompt`].
pub(super) static CACHE_PROMPTS: Choices = Choices::new("choice", &["auto", "always", "never"]);

/// The names of [`OnUnknown`].
pub(super) static ON_UNKNOWN: Choices = Choices::new("choice", &["hold", "resubmit"]);

impl Choices {
    /// A list whose entries have no other names.
    const fn new(what: &'static str, all: &'static [&'static str]) -> Self {
        let also = |_: &str| None;
        Self { what, all, also }
    }

    /// Whether the name is in the list.
    ///
    /// # Errors
    /// The text of the error: the accepted names.
    pub fn check(&self, name: &str) -> Result<(), String> {
        if self.all.contains(&name) {
            Ok(())
        } else {
            Err(self.unknown(name))
        }
    }

    /// The error text for a name that is not in the list, with the closest name and all accepted ones.
    pub fn unknown(&self, name: &str) -> String {
        let folded = name.trim().to_lowercase();
        let meant = (self.also)(&folded).or_else(|| closest(name, self.all.iter().copied()));
        let meant = meant.map_or_else(String::new, |name| format!("did you mean {name}? "));
        format!(
            "unknown {} `{name}`; {meant}expected one of: {}",
            self.what,
            self.all.join(", ")
        )
    }
}
