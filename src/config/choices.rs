//! Closed lists of names, and what is said of a name that is not in one.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::base::names::closest;

/// A closed list of names.
pub(crate) struct Choices {
    /// What they name.
    what: &'static str,
    pub all: &'static [&'static str],
    /// The name for something that is known by another one.
    also: fn(&str) -> Option<&'static str>,
}

/// Whose load a worker's slots follow.
pub(crate) static SCALE_SCOPES: Choices = Choices::new("scope", &["machine", "process"]);

/// The providers, in the order in which the first usable one is looked for.
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
    // By their companies, models and kinds of server.
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

/// How bulk work is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// Each prompt is a call of its own, answered at once.
    #[default]
    Sync,
    /// Like `Sync`, at the provider's flex tier: cheaper, slower, and rejected while it has no capacity.
    Flex,
    /// Prompts are handed over to the provider's Batch API: cheaper, answered within a day.
    Batch,
}

impl Strategy {
    /// Its name in settings and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Flex => "flex",
            Self::Batch => "batch",
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which equal requests of a run are asked once, with one answer for all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Dedupe {
    /// Those whose temperature is 0, and those for vectors.
    #[default]
    Auto,
    /// All of them.
    Always,
    /// None: each is asked.
    Never,
}

impl Dedupe {
    /// Whether a request shares its answer; `repeatable` is one whose answer is always the same.
    pub(crate) fn shares(self, repeatable: bool) -> bool {
        match self {
            Self::Auto => repeatable,
            Self::Always => true,
            Self::Never => false,
        }
    }
}

/// Which prompts use the prompt cache of their provider: it reads the common beginning of prompts once, and bills less for
/// it afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CachePrompt {
    /// If at least 10 prompts of a run share a system text of at least 1,024 tokens, and the provider has a lower price for
    /// cached tokens. A stream has no known number of prompts, so its prompts do not.
    #[default]
    Auto,
    /// All prompts with a system text of at least 1,024 tokens.
    Always,
    /// No prompts.
    Never,
}

/// What is done about a batch of which it cannot be found out whether it was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnUnknown {
    /// Nothing, until somebody decides: it is shown as held, and looked for from time to time.
    Hold,
    /// Its requests are sent again in another batch. If it was created after all, they are paid twice.
    Resubmit,
}

/// The names of [`Strategy`].
pub(super) static STRATEGIES: Choices = Choices::new("strategy", &["sync", "flex", "batch"]);

/// The names of [`Dedupe`].
pub(super) static DEDUPES: Choices = Choices::new("choice", &["auto", "always", "never"]);

/// The names of [`CachePrompt`].
pub(super) static CACHE_PROMPTS: Choices = Choices::new("choice", &["auto", "always", "never"]);

/// The names of [`OnUnknown`].
pub(super) static ON_UNKNOWN: Choices = Choices::new("choice", &["hold", "resubmit"]);

/// What a failed command means for the others.
pub(super) static ERROR_POLICIES: Choices =
    Choices::new("policy", &["continue", "stop", "stop-critical"]);

/// How much of a command's sandbox the kernel has to enforce.
pub(super) static SANDBOX_MODES: Choices = Choices::new("mode", &["on", "best-effort", "off"]);

impl Choices {
    /// A list of names that are not known by others.
    const fn new(what: &'static str, all: &'static [&'static str]) -> Self {
        let also = |_: &str| None;
        Self { what, all, also }
    }

    /// Whether the name is in the list.
    ///
    /// # Errors
    /// What is accepted instead.
    pub fn check(&self, name: &str) -> Result<(), String> {
        if self.all.contains(&name) {
            Ok(())
        } else {
            Err(self.unknown(name))
        }
    }

    /// That a name is not in the list, which is probably meant, and which are.
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
