//! Closed lists of names, and what is said of a name that is not in one.

use crate::base::names::closest;

/// A closed list of names.
pub(crate) struct Choices {
    /// What they name.
    what: &'static str,
    pub all: &'static [&'static str],
    /// The name for something that is known by another one.
    also: fn(&str) -> Option<&'static str>,
}

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
            "llama.cpp" | "lmstudio" | "ollama" | "vllm" => "local",
            _ => return None,
        })
    },
};

impl Choices {
    /// Whether the name is in the list.
    ///
    /// # Errors
    /// What is accepted instead.
    pub fn check(&self, name: &str) -> Result<(), String> {
        match self.all.contains(&name) {
            true => Ok(()),
            false => Err(self.unknown(name)),
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
